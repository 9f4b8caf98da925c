// Text: int32 tokens (numbers of words), ragged. What one edit does to one text; how edited texts become rows of a
// batch; formulas for host and device; the twins. `dalipipe.ops.tokens` is the numpy specification.
#pragma once

#include <cstddef>
#include <cstdint>

#include "noise.h"
#include "ops.h"
#include "tensor.h"

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

// Tokens that may stand for token t: tokens[starts[t]] ... tokens[starts[t + 1] - 1]; none for t < 0, for t >= words,
// and where that lies beyond `count`, all there are. On the device where the edits are.
struct TokenChoices {
  const int32_t* starts;  // [words + 1]
  const int32_t* tokens;  // [count]
  int32_t words, count;
};

// Tokens to draw from, in proportion to weights: Walker's alias method (Vose, "A linear algorithm for generating random
// numbers with a given distribution", 1991). Entry e = below(word, count); where the next word is >= keep[e], entry
// other[e] instead, if there is such. keep and other null: all alike, one word each. Entry e is token tokens[e]; tokens
// null: token `first` + e. count 0: edits that draw leave a text as it is. On the device, too.
struct TokenBag {
  const int32_t* tokens;
  const uint32_t* keep;
  const int32_t* other;
  int32_t count, first;
};

// `float weights[words]`, finite; 0 for any other token. On the device, too.
struct TokenWeights {
  const float* weights;
  int32_t words, unused;
};

// An edit to a text of L tokens. n, where the edit says so, is max(least, floor(share * L)), and at most what there is
// to edit: what can be replaced, L, or of what is cut out L - 1; only insertions may be any number.
//
// Random words are taken one after the other from the first on; below(word, m) = word * m >> 32. n of m things are
// chosen as Floyd does (Bentley and Floyd, "A sample of brilliance", CACM 1987): for j = m - n ... m - 1 the thing
// r = below(word, j + 1), or j where r is chosen already. What is chosen is dealt with from the first thing to the
// last.
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

struct TokenParams {
  const TokenPass* passes;  // [passes of all samples], sample after sample; none: it stays as it is; host
  const int32_t* starts;    // [N + 1]
  int32_t n;
  const uint64_t* data;       // [N] addresses of int32 tokens
  const int32_t* lengths;     // [N]
  const int32_t* capacities;  // [N] tokens that a sample has at most, before, between and after its passes
  const int64_t* places;      // [N] where in `out` a sample's tokens go, elements; capacities apart at least
  int32_t* out;               // [out_count]
  int64_t out_count;
  int32_t* out_lengths;         // [N]
  const TokenChoices* choices;  // host arrays, of which the pointers are the device's
  int32_t choices_count;
  const TokenBag* bags;
  int32_t bag_count;
  const TokenWeights* weights;
  int32_t weights_count;
};

// A part of a row: tokens begin ... begin + count - 1, clipped to those there are.
struct TokenSpan {
  int64_t begin, count;
};

// Rows of a batch: prefix, the pieces of the tokens of its spans, suffix, then pad. A row of more than `most` numbers
// loses pieces at their end, not its suffix.
struct TokenRows {
  const int32_t* tokens;  // [token_count], edited; device
  int64_t token_count;
  const TokenSpan* spans;  // [span_count]; device
  int32_t span_count;
  const int32_t* starts;  // [N + 1]: row i has spans starts[i] ... starts[i + 1] - 1; host
  int32_t n;
  TokenChoices pieces;    // of each token; starts null: a token is its own only piece; device
  const int32_t* prefix;  // host
  const int32_t* suffix;
  int32_t prefix_count, suffix_count;
  int32_t most;  // >= prefix_count + suffix_count
};

// Where the rows go.
struct TokenTable {
  int64_t* out;      // [N, columns]; device
  int64_t row_step;  // elements, >= columns
  int32_t columns;   // a row has no more, whatever `most` says; >= prefix_count + suffix_count
  int64_t pad;
};

constexpr int32_t kMostTokens = 1 << 28;

// Throw std::invalid_argument naming the sample and its pass, what was expected and what came.
void check_tokens(const TokenParams& p);
void check_rows(const TokenRows& r);
void check_rows(const TokenRows& r, const TokenTable& to);

void edit_tokens_cpu(const TokenParams& p, int32_t threads);
// lengths int32 [N]: numbers in each row, without padding.
void count_rows_cpu(const TokenRows& r, int32_t threads, int32_t* lengths);
void write_rows_cpu(const TokenRows& r, const TokenTable& to, int32_t threads);

// All of a batch: edits, then a row of each text, as long as the longest, rounded up to a multiple.
struct TokenBatch {
  int64_t* out;  // [N, columns], dense
  int64_t out_count, pad;
  int64_t* lengths;  // [N]: numbers in each row
  int32_t* columns;  // what they have become
  int32_t multiple;
};
// `rows`: without its tokens, spans, starts and n, which come of the edits. Throws std::invalid_argument where `out`
// does not hold them.
void make_batch_cpu(const TokenParams& p, const TokenRows& rows, const TokenBatch& to, int32_t threads);

// As signals_cuda: asynchronous on `stream`, `pinned` of the size of the upload. What is said to be on the device is.
struct TokenBytes {
  size_t scratch, upload;
};
TokenBytes edit_tokens_cuda_bytes(const TokenParams& p);
TokenBytes rows_cuda_bytes(const TokenRows& r);
void edit_tokens_cuda(const TokenParams& p, void* scratch, size_t scratch_bytes, void* pinned, size_t pinned_bytes,
                      void* stream);
void count_rows_cuda(const TokenRows& r, int32_t* lengths, void* scratch, size_t scratch_bytes, void* pinned,
                     size_t pinned_bytes, void* stream);
void write_rows_cuda(const TokenRows& r, const TokenTable& to, void* scratch, size_t scratch_bytes, void* pinned,
                     size_t pinned_bytes, void* stream);

// Formulas ----------------------------------------------------------------------------------------------------------

DP_HD int32_t below(uint32_t word, int32_t n) {
  return static_cast<int32_t>(static_cast<uint64_t>(word) * static_cast<uint32_t>(n) >> 32);
}

// The random words of an edit, one after the other. An index into a block would put it into memory on a GPU.
struct TokenNoise {
  const NoiseKey& key;
  uint32_t taken = 0;
  Philox4 four{};

  DP_HD explicit TokenNoise(const NoiseKey& key) : key(key) {}

  DP_HD uint32_t next() {
    if ((taken & 3) == 0) four = noise_block(key, taken >> 2);
    ++taken;
    const uint32_t word = four.word[0];
    four.word[0] = four.word[1], four.word[1] = four.word[2], four.word[2] = four.word[3];
    return word;
  }
};

DP_HD int32_t lowest_bit(uint32_t bits) {
#ifdef __CUDA_ARCH__
  return __ffs(static_cast<int>(bits)) - 1;
#else
  return __builtin_ctz(bits);
#endif
}

DP_HD int32_t highest_bit(uint32_t bits) {
#ifdef __CUDA_ARCH__
  return 31 - __clz(static_cast<int>(bits));
#else
  return 31 - __builtin_clz(bits);
#endif
}

DP_HD int32_t bit_words(int32_t bits) { return (bits + 31) / 32; }
DP_HD bool is_chosen(const uint32_t* chosen, int32_t i) { return (chosen[i >> 5] >> (i & 31) & 1) != 0; }

// n of m things, 0 <= n <= m, as bits.
DP_HD void choose(TokenNoise& noise, int32_t n, int32_t m, uint32_t* chosen) {
  for (int32_t k = 0; k < bit_words(m); ++k) chosen[k] = 0;
  for (int32_t j = m - n; j < m; ++j) {
    const int32_t r = below(noise.next(), j + 1), taken = is_chosen(chosen, r) ? j : r;
    chosen[taken >> 5] |= 1u << (taken & 31);
  }
}

// Calls use(i) for each of m things that is chosen, rising.
template <typename Use>
DP_HD void each_chosen(const uint32_t* chosen, int32_t m, const Use& use) {
  for (int32_t k = 0; k < bit_words(m); ++k) {
    for (uint32_t bits = chosen[k]; bits != 0; bits &= bits - 1) use(32 * k + lowest_bit(bits));
  }
}

// The same, falling.
template <typename Use>
DP_HD void each_chosen_back(const uint32_t* chosen, int32_t m, const Use& use) {
  for (int32_t k = bit_words(m); k-- > 0;) {
    for (uint32_t bits = chosen[k]; bits != 0;) {
      const int32_t bit = highest_bit(bits);
      use(32 * k + bit);
      bits ^= 1u << bit;
    }
  }
}

// How many tokens may stand for one, and the first of them.
DP_HD int32_t choices_of(const TokenChoices& c, int32_t token, int32_t& first) {
  if (static_cast<uint32_t>(token) >= static_cast<uint32_t>(c.words)) return 0;
  const int32_t begin = c.starts[token], end = c.starts[token + 1];
  first = begin;
  const bool some = (begin >= 0) & (begin < end) & (end <= c.count);  // no branches: whether is anybody's guess
  return some ? end - begin : 0;
}

// One of those that may stand for a token which has some.
DP_HD int32_t draw_choice(const TokenChoices& c, int32_t token, TokenNoise& noise) {
  int32_t first = 0;
  const int32_t count = choices_of(c, token, first);
  return c.tokens[first + below(noise.next(), count)];
}

DP_HD int32_t draw_of_bag(const TokenBag& bag, TokenNoise& noise) {
  int32_t e = below(noise.next(), bag.count);
  if (bag.keep != nullptr) {
    const int32_t other = bag.other[e];
    const bool instead = (noise.next() >= bag.keep[e]) & (other >= 0) & (other < bag.count);
    e = instead ? other : e;
  }
  return bag.tokens != nullptr ? bag.tokens[e] : bag.first + e;
}

DP_HD int32_t lower_of(int32_t a, int32_t b) { return a < b ? a : b; }

// n, before what there is to edit limits it; 0 <= share <= 1.
DP_HD int32_t edit_count(const TokenPass& pass, int32_t length) {
  const int32_t share = static_cast<int32_t>(pass.share * length);
  return share > pass.least ? share : pass.least;
}

// Of a punctuation, at most.
DP_HD int32_t mark_count(const TokenPass& pass, int32_t length) {
  return lower_of(static_cast<int32_t>(pass.share * length) + 1, length);
}

// Tokens that a pass leaves of `length` or fewer, at most.
DP_HD int64_t length_after(const TokenPass& pass, int32_t length) {
  const int64_t now = length;
  if (length == 0) return 0;
  if (pass.edit == static_cast<int32_t>(TokenEdit::insert)) return now + edit_count(pass, length);
  return pass.edit == static_cast<int32_t>(TokenEdit::punctuate) ? now + mark_count(pass, length) : now;
}

// Of a heap of `end` tokens, the largest first, whose token `at` may be too small for its place.
DP_HD void sift_down(int32_t* heap, int32_t at, int32_t end) {
  const int32_t token = heap[at];
  for (int32_t child; (child = 2 * at + 1) < end; at = child) {
    if (child + 1 < end && heap[child + 1] > heap[child]) ++child;
    if (heap[child] <= token) break;
    heap[at] = heap[child];
  }
  heap[at] = token;
}

// Heapsort, rising: no stack, no memory.
DP_HD void sort_tokens(int32_t* tokens, int32_t length) {
  for (int32_t at = length / 2; at-- > 0;) sift_down(tokens, at, length);
  for (int32_t end = length; --end > 0;) {
    const int32_t largest = tokens[0];
    tokens[0] = tokens[end], tokens[end] = largest;
    sift_down(tokens, 0, end);
  }
}

// The first of sorted tokens that is >= token.
DP_HD int32_t place_of(const int32_t* sorted, int32_t length, int64_t token) {
  int32_t begin = 0;
  for (int32_t end = length; begin < end;) {
    const int32_t middle = begin + (end - begin) / 2;
    if (sorted[middle] < token) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin;
}

// How often each token stands in its text. `sorted` [length] is used.
DP_HD void count_tokens(const int32_t* tokens, int32_t length, int32_t* sorted, int32_t* counts) {
  constexpr int32_t kFew = 64;  // fewer are compared one by one
  if (length <= kFew) {
    for (int32_t i = 0; i < length; ++i) {
      int32_t count = 0;
      for (int32_t k = 0; k < length; ++k) count += tokens[k] == tokens[i];
      counts[i] = count;
    }
    return;
  }
  for (int32_t i = 0; i < length; ++i) sorted[i] = tokens[i];
  sort_tokens(sorted, length);
  for (int32_t i = 0; i < length; ++i) {
    counts[i] = place_of(sorted, length, int64_t{tokens[i]} + 1) - place_of(sorted, length, tokens[i]);
  }
}

// The tables of all passes, as TokenParams has them.
struct TokenTables {
  const TokenChoices* choices;
  const TokenBag* bags;
  const TokenWeights* weights;
};

// Of a sample's own: int32 [capacity] twice, and a bit for each.
struct TokenScratch {
  int32_t *first, *second;
  uint32_t* bits;
};

// Positions of the tokens that have choices; how many.
DP_HD int32_t find_choices(const TokenChoices& choices, const int32_t* tokens, int32_t length, int32_t* positions) {
  int32_t found = 0, first = 0;
  for (int32_t i = 0; i < length; ++i) {
    positions[found] = i;
    found += choices_of(choices, tokens[i], first) > 0;
  }
  return found;
}

// The edits ---------------------------------------------------------------------------------------------------------
// Each works in place, on one token at least, and returns how many there are then.

DP_HD int32_t replace_tokens(const TokenPass& pass, const TokenChoices& choices, int32_t* tokens, int32_t length,
                             const TokenScratch& s) {
  const int32_t found = find_choices(choices, tokens, length, s.first);
  TokenNoise noise(pass.key);
  choose(noise, lower_of(edit_count(pass, length), found), found, s.bits);
  each_chosen(s.bits, found, [&](int32_t k) {
    int32_t& token = tokens[s.first[k]];
    token = draw_choice(choices, token, noise);
  });
  return length;
}

// Where a chosen place is, what is inserted goes; tokens move up from the last on.
DP_HD int32_t insert_tokens(const TokenPass& pass, const TokenChoices& choices, int32_t* tokens, int32_t length,
                            const TokenScratch& s) {
  const int32_t found = find_choices(choices, tokens, length, s.first);
  if (found == 0) return length;
  const int32_t n = edit_count(pass, length), after = length + n;
  TokenNoise noise(pass.key);
  choose(noise, n, after, s.bits);
  for (int32_t v = 0; v < n; ++v) {
    const int32_t source = s.first[below(noise.next(), found)];
    s.second[v] = draw_choice(choices, tokens[source], noise);
  }
  int32_t at = after - 1, left = n;
  each_chosen_back(s.bits, after, [&](int32_t place) {
    for (; at > place; --at) tokens[at] = tokens[at - left];
    tokens[at--] = s.second[--left];
  });
  return after;
}

DP_HD int32_t punctuate_tokens(const TokenPass& pass, const TokenBag& bag, int32_t* tokens, int32_t length,
                               const TokenScratch& s) {
  if (bag.count == 0) return length;
  TokenNoise noise(pass.key);
  const int32_t n = lower_of(1 + below(noise.next(), static_cast<int32_t>(pass.share * length) + 1), length);
  choose(noise, n, length, s.bits);
  for (int32_t v = 0; v < n; ++v) s.second[v] = draw_of_bag(bag, noise);
  int32_t i = length - 1, left = n;
  each_chosen_back(s.bits, length, [&](int32_t place) {
    for (; i >= place; --i) tokens[i + left] = tokens[i];
    --left;
    tokens[place + left] = s.second[left];
  });
  return length + n;
}

DP_HD void exchange(int32_t* tokens, int32_t i, int32_t j) {
  const int32_t token = tokens[i];
  tokens[i] = tokens[j], tokens[j] = token;
}

DP_HD int32_t swap_tokens(const TokenPass& pass, int32_t* tokens, int32_t length) {
  if (length < 2) return length;
  TokenNoise noise(pass.key);
  const int32_t n = lower_of(edit_count(pass, length), length);
  for (int32_t k = 0; k < n; ++k) {
    if (pass.edit == static_cast<int32_t>(TokenEdit::swap_neighbours)) {
      const int32_t i = below(noise.next(), length - 1);
      exchange(tokens, i, i + 1);
    } else {
      const int32_t i = below(noise.next(), length), j = below(noise.next(), length - 1);
      exchange(tokens, i, j + (j >= i));
    }
  }
  return length;
}

DP_HD int32_t remove_tokens(const TokenPass& pass, int32_t* tokens, int32_t length) {
  if (length < 2) return length;
  const uint64_t goes = static_cast<uint64_t>(pass.share * 0x1p32);
  const int32_t first = tokens[0];
  TokenNoise noise(pass.key);
  int32_t kept = 0;
  for (int32_t i = 0; i < length; ++i) {
    tokens[kept] = tokens[i];
    kept += noise.next() >= goes;
  }
  if (kept > 0) return kept;
  const int32_t stays = below(noise.next(), length);  // only the first has been overwritten
  tokens[0] = stays == 0 ? first : tokens[stays];
  return 1;
}

DP_HD int32_t draw_tokens(const TokenPass& pass, const TokenBag& bag, int32_t* tokens, int32_t length,
                          const TokenScratch& s) {
  if (bag.count == 0) return length;
  TokenNoise noise(pass.key);
  choose(noise, lower_of(edit_count(pass, length), length), length, s.bits);
  each_chosen(s.bits, length, [&](int32_t i) { tokens[i] = draw_of_bag(bag, noise); });
  return length;
}

// Xie et al., "Unsupervised data augmentation for consistency training", NeurIPS 2020, appendix: a word goes with
// probability min(1, share (C - s_i) / Z), of its score s_i = its count * its weight (by L, which cancels), C the
// highest, Z the mean of C - s_i: where its random word / 2^32 is below that. Where nothing is below the highest, none
// goes. Random words are taken for all, then for those that come.
DP_HD int32_t draw_by_weight(const TokenPass& pass, const TokenBag& bag, const TokenWeights& weights, int32_t* tokens,
                             int32_t length, const TokenScratch& s) {
  if (bag.count == 0) return length;
  int32_t* const counts = s.second;
  count_tokens(tokens, length, s.first, counts);
  const auto score = [&](int32_t i) {
    const bool known = static_cast<uint32_t>(tokens[i]) < static_cast<uint32_t>(weights.words);
    return counts[i] * (known ? static_cast<double>(weights.weights[tokens[i]]) : 0.0);
  };
  double highest = score(0);
  for (int32_t i = 1; i < length; ++i) {
    const double here = score(i);
    highest = here > highest ? here : highest;
  }
  double gaps = 0.0;
  for (int32_t i = 0; i < length; ++i) gaps += highest - score(i);
  if (!(gaps > 0.0)) return length;
  const double scale = pass.share * length * 0x1p32;
  for (int32_t k = 0; k < bit_words(length); ++k) s.bits[k] = 0;
  TokenNoise noise(pass.key);
  for (int32_t i = 0; i < length; ++i) {
    const bool goes = noise.next() * gaps < scale * (highest - score(i));
    s.bits[i >> 5] |= static_cast<uint32_t>(goes) << (i & 31);
  }
  each_chosen(s.bits, length, [&](int32_t i) { tokens[i] = draw_of_bag(bag, noise); });
  return length;
}

DP_HD int32_t edit_span(const TokenPass& pass, int32_t* tokens, int32_t length) {
  const bool cut = pass.edit == static_cast<int32_t>(TokenEdit::cut);
  const int32_t n = lower_of(edit_count(pass, length), cut ? length - 1 : length);
  TokenNoise noise(pass.key);
  int32_t* const span = tokens + below(noise.next(), length - n + 1);
  if (cut) {
    for (int32_t* to = span; to + n < tokens + length; ++to) *to = to[n];
    return length - n;
  }
  if (pass.edit == static_cast<int32_t>(TokenEdit::mask)) {
    for (int32_t i = 0; i < n; ++i) span[i] = pass.token;
  } else {
    for (int32_t i = n - 1; i > 0; --i) exchange(span, i, below(noise.next(), i + 1));
  }
  return length;
}

DP_HD int32_t resample_tokens(const TokenPass& pass, const TokenBag& bag, int32_t* tokens, int32_t length) {
  if (bag.count == 0) return length;
  TokenNoise noise(pass.key);
  for (int32_t i = 0; i < length; ++i) tokens[i] = draw_of_bag(bag, noise);
  return length;
}

// Takes a text through a pass, in place: `tokens` and scratch have room for length_after(pass, length). Returns how
// many tokens there are then.
DP_HD int32_t edit_tokens(const TokenPass& pass, const TokenTables& tables, int32_t* tokens, int32_t length,
                          const TokenScratch& s) {
  if (length == 0) return 0;
  switch (static_cast<TokenEdit>(pass.edit)) {
    case TokenEdit::replace: return replace_tokens(pass, tables.choices[pass.choices], tokens, length, s);
    case TokenEdit::insert: return insert_tokens(pass, tables.choices[pass.choices], tokens, length, s);
    case TokenEdit::swap:
    case TokenEdit::swap_neighbours: return swap_tokens(pass, tokens, length);
    case TokenEdit::remove: return remove_tokens(pass, tokens, length);
    case TokenEdit::draw: return draw_tokens(pass, tables.bags[pass.bag], tokens, length, s);
    case TokenEdit::draw_by_weight:
      return draw_by_weight(pass, tables.bags[pass.bag], tables.weights[pass.weights], tokens, length, s);
    case TokenEdit::reverse:
      for (int32_t i = 0; i < length / 2; ++i) exchange(tokens, i, length - 1 - i);
      return length;
    case TokenEdit::mask:
    case TokenEdit::cut:
    case TokenEdit::shuffle: return edit_span(pass, tokens, length);
    case TokenEdit::resample: return resample_tokens(pass, tables.bags[pass.bag], tokens, length);
    case TokenEdit::punctuate: return punctuate_tokens(pass, tables.bags[pass.bag], tokens, length, s);
  }
  return length;
}

DP_HD TokenSpan clip_span(const TokenSpan& span, int64_t tokens) {
  const int64_t begin = span.begin < 0 ? 0 : (span.begin < tokens ? span.begin : tokens);
  const int64_t most = tokens - begin;
  return {begin, span.count < 0 ? 0 : (span.count < most ? span.count : most)};
}

}  // namespace dalipipe
