// Text: int32 tokens (numbers of words), ragged. What one edit does to one text; how edited texts become rows of a
// batch; formulas for host and device; the twins. `dalipipe.ops.tokens` is the numpy specification.
#pragma once

#include <cstddef>
#include <cstdint>

#include "noise.h"
#include "ops.h"

namespace dalipipe {

enum class TokenEdit : int32_t {
  replace = 0,          // n of the tokens that `choices` has some for, each by one of these
  insert = 1,           // n times: one of the `choices` for any token of the text that has some, anywhere
  swap = 2,             // n times: any two
  swap_neighbours = 3,  // n times: two that stand beside each other
  remove = 4,           // each with probability `share`; one always stays
  draw = 5,             // n tokens, each by one of a bag
  draw_by_weight = 6,   // those that say little, by `weights`, each by one of a bag
  reverse = 7,          // the order of all
  mask = 8,             // n in a row become `token`
  cut = 9,              // n in a row are taken out; one always stays
  shuffle = 10,         // the order of n in a row
  resample = 11,        // all, each by one of a bag
  punctuate = 12,       // 1 ... n times: one of a bag before different tokens
};

// Tokens that may stand for token t: tokens[starts[t]] ... tokens[starts[t + 1] - 1]; none for t >= words. On the
// device where the edits are.
struct TokenChoices {
  const int32_t* starts;
  const int32_t* tokens;
  int32_t words, unused;
};

// Tokens to draw from, in proportion to weights: Walker's alias method (Vose, "A linear algorithm for generating random
// numbers with a given distribution", 1991). Entry e = below(word, count); where the next word is >= keep[e], its
// other[e]. keep null: all alike, one word each. tokens null: entry e is token `first` + e. On the device, too.
struct TokenBag {
  const int32_t* tokens;
  const uint32_t* keep;
  const int32_t* other;
  int32_t count, first;
};

// n, where it is a count, is max(least, floor(share * tokens)), and at most what there is to edit.
struct TokenPass {
  int32_t edit;     // a `TokenEdit`
  int32_t choices;  // which of `choices`, -1: none
  int32_t bag;      // which of `bags`, -1: none
  int32_t weights;  // which of `weights`, -1: none
  int32_t least, token;
  double share;  // 0 ... 1
  NoiseKey key;  // element k is the k-th random word that the edit takes
  int32_t unused;
};

// All numbers of words: `float weights[words]`, 0 for a token beyond.
struct TokenWeights {
  const float* weights;
  int32_t words, unused;
};

struct TokenParams {
  const TokenPass* passes;  // [passes of all samples], sample after sample; none: it stays as it is; host
  const int32_t* starts;    // [N + 1]
  int32_t n;
  const uint64_t* data;        // [N] addresses of int32 tokens
  const int32_t* lengths;      // [N]
  const int32_t* capacities;   // [N] tokens that a sample has at most, before, between and after its passes
  const int64_t* places;       // [N] where in `out` a sample's tokens go, elements; capacities apart at least
  int32_t* out;                // [places[N - 1] + capacities[N - 1]]
  int32_t* out_lengths;        // [N]
  const TokenChoices* choices; // host arrays, of which the pointers are the device's
  const TokenBag* bags;
  const TokenWeights* weights;
  int32_t choices_count, bag_count, weight_count;
};

// A part of a row: tokens begin ... begin + count - 1 of `tokens`.
struct TokenSpan {
  int64_t begin;
  int32_t count, unused;
};

// Rows of a batch: prefix, the pieces of the tokens of its spans, suffix, then pad. A row of more than `most` numbers
// loses pieces at their end, not its suffix.
struct TokenRows {
  const int32_t* tokens;  // edited; device
  const TokenSpan* spans; // [S]
  const int32_t* starts;  // [N + 1]: row i has spans starts[i] ... starts[i + 1] - 1
  int32_t n;
  const int32_t* piece_starts;  // [words + 1], device; null: a token is its own only piece
  const int32_t* pieces;        // device
  int32_t words;                // tokens >= words: no pieces
  const int32_t* prefix;        // host
  const int32_t* suffix;
  int32_t prefix_count, suffix_count, most;
};

constexpr int32_t kMostTokens = 1 << 28;

// Throw std::invalid_argument naming the sample and its pass, what was expected and what came.
void check_tokens(const TokenParams& p);
void check_rows(const TokenRows& r);

void edit_tokens_cpu(const TokenParams& p, int32_t threads);
// lengths int32 [N]: numbers in each row, without padding.
void count_rows_cpu(const TokenRows& r, int32_t threads, int32_t* lengths);
// out int64 [N, columns], rows of `row_step` elements; columns >= every length.
void write_rows_cpu(const TokenRows& r, int64_t* out, int64_t row_step, int32_t columns, int64_t pad, int32_t threads);

}  // namespace dalipipe
