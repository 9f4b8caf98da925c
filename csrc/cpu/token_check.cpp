// What edits of texts and rows of them refuse, on the CPU and on CUDA.
#include <cmath>
#include <sstream>
#include <stdexcept>

#include "token.h"

namespace dalipipe {
namespace {

template <typename... Words>
[[noreturn]] void refuse(const char* what, const Words&... words) {
  std::ostringstream text;
  text << what << ": ";
  (text << ... << words);
  throw std::invalid_argument(text.str());
}

// A sample's pass, for messages.
struct TokenPlace {
  int32_t sample, pass;
};

std::ostream& operator<<(std::ostream& out, const TokenPlace& at) {
  return out << "sample " << at.sample << ", pass " << at.pass;
}

constexpr const char* kEdit = "edit_tokens";
constexpr const char* kRows = "token rows";

void check_table(const char* what, const char* name, int32_t which, const TokenChoices& c) {
  if (c.words < 0 || c.count < 0) {
    refuse(what, name, " ", which, ": words and count must not be negative, got ", c.words, " and ", c.count);
  }
  if ((c.words > 0 && c.starts == nullptr) || (c.count > 0 && c.tokens == nullptr)) {
    refuse(what, name, " ", which, ": starts or tokens are null");
  }
}

void check_tables(const TokenParams& p) {
  const auto table = [](const char* name, const void* data, int32_t count) {
    if (count < 0 || (count > 0 && data == nullptr)) refuse(kEdit, name, " are null");
  };
  table("choices", p.choices, p.choices_count);
  table("bags", p.bags, p.bag_count);
  table("weights", p.weights, p.weights_count);
  for (int32_t k = 0; k < p.choices_count; ++k) check_table(kEdit, "choices", k, p.choices[k]);
  for (int32_t k = 0; k < p.bag_count; ++k) {
    const TokenBag& bag = p.bags[k];
    if (bag.count < 0) refuse(kEdit, "bag ", k, ": count must not be negative, got ", bag.count);
    if (bag.tokens == nullptr && (bag.first < 0 || bag.first > INT32_MAX - bag.count)) {
      refuse(kEdit, "bag ", k, ": tokens ", bag.first, " to ", int64_t{bag.first} + bag.count, " are not below 2^31");
    }
    if ((bag.keep == nullptr) != (bag.other == nullptr)) {
      refuse(kEdit, "bag ", k, ": keep and other must both be given, or neither");
    }
  }
  for (int32_t k = 0; k < p.weights_count; ++k) {
    const TokenWeights& w = p.weights[k];
    if (w.words < 0 || (w.words > 0 && w.weights == nullptr)) refuse(kEdit, "weights ", k, " are null");
  }
}

void check_which(const TokenPlace& at, const char* name, int32_t which, int32_t count) {
  if (which < 0 || which >= count) refuse(kEdit, at, ": ", name, " must be one of ", count, ", got ", which);
}

void check_pass(const TokenParams& p, const TokenPlace& at, const TokenPass& pass) {
  if (pass.edit < 0 || pass.edit > static_cast<int32_t>(TokenEdit::punctuate)) {
    refuse(kEdit, at, ": edit must be 0 to 12, got ", pass.edit);
  }
  if (!(pass.share >= 0.0 && pass.share <= 1.0)) refuse(kEdit, at, ": share must be 0 to 1, got ", pass.share);
  if (pass.least < 0 || pass.least > kMostTokens) {
    refuse(kEdit, at, ": least must be 0 to ", kMostTokens, ", got ", pass.least);
  }
  switch (static_cast<TokenEdit>(pass.edit)) {
    case TokenEdit::replace:
    case TokenEdit::insert: return check_which(at, "choices", pass.choices, p.choices_count);
    case TokenEdit::draw_by_weight: check_which(at, "weights", pass.weights, p.weights_count); [[fallthrough]];
    case TokenEdit::draw:
    case TokenEdit::resample:
    case TokenEdit::punctuate: return check_which(at, "bag", pass.bag, p.bag_count);
    default: return;
  }
}

void check_sample(const TokenParams& p, int32_t i) {
  const int32_t capacity = p.capacities[i];
  if (p.lengths[i] < 0 || capacity > kMostTokens) {
    refuse(kEdit, "sample ", i, ": it must have 0 to ", kMostTokens, " tokens, got ", p.lengths[i], " and room for ",
           capacity);
  }
  if (p.lengths[i] > capacity) {
    refuse(kEdit, "sample ", i, ": its capacity must be ", p.lengths[i], " tokens, as it has, got ", capacity);
  }
  if (p.lengths[i] > 0 && p.data[i] == 0) refuse(kEdit, "sample ", i, ": its data is null");
  const int64_t end = i + 1 < p.n ? p.places[i + 1] : p.out_count;
  if (p.places[i] < 0 || p.places[i] > end - capacity) {
    refuse(kEdit, "sample ", i, ": out must have room for ", capacity, " tokens at ", p.places[i], ", got ",
           end - p.places[i]);
  }
  int64_t length = p.lengths[i];
  for (int32_t j = p.starts[i]; j < p.starts[i + 1]; ++j) {
    const TokenPlace at{i, j - p.starts[i]};
    check_pass(p, at, p.passes[j]);
    length = length_after(p.passes[j], static_cast<int32_t>(length));
    if (length > capacity) {
      refuse(kEdit, at, ": it may leave ", length, " tokens; its capacity must be that, got ", capacity);
    }
  }
}

void check_starts(const char* what, const char* name, const int32_t* starts, int32_t n) {
  if (starts == nullptr) refuse(what, "starts are null");
  for (int32_t i = 0; i < n; ++i) {
    if (starts[i] < 0 || starts[i + 1] < starts[i]) {
      refuse(what, "starts must rise, got ", starts[i], " to ", starts[i + 1], " for ", name, " ", i);
    }
  }
}

}  // namespace

void check_tokens(const TokenParams& p) {
  if (p.n < 0) refuse(kEdit, "n must not be negative, got ", p.n);
  if (p.n == 0) return;
  check_starts(kEdit, "sample", p.starts, p.n);
  if ((p.starts[p.n] > 0 && p.passes == nullptr) || p.data == nullptr || p.lengths == nullptr ||
      p.capacities == nullptr || p.places == nullptr || p.out_lengths == nullptr) {
    refuse(kEdit, "passes, data, lengths, capacities, places or out_lengths are null");
  }
  if (p.out_count < 0 || (p.out_count > 0 && p.out == nullptr)) refuse(kEdit, "out is null");
  check_tables(p);
  for (int32_t i = 0; i < p.n; ++i) check_sample(p, i);
}

void check_rows(const TokenRows& r) {
  if (r.n < 0) refuse(kRows, "n must not be negative, got ", r.n);
  if (r.n > 0) {
    check_starts(kRows, "row", r.starts, r.n);
    if (r.starts[r.n] > r.span_count)
      refuse(kRows, "starts go to ", r.starts[r.n], ", beyond ", r.span_count, " spans");
  }
  if (r.token_count < 0 || (r.token_count > 0 && r.tokens == nullptr)) refuse(kRows, "tokens are null");
  if (r.span_count < 0 || (r.span_count > 0 && r.spans == nullptr)) refuse(kRows, "spans are null");
  check_table(kRows, "pieces", 0, r.pieces);
  if (r.prefix_count < 0 || (r.prefix_count > 0 && r.prefix == nullptr)) refuse(kRows, "the prefix is null");
  if (r.suffix_count < 0 || (r.suffix_count > 0 && r.suffix == nullptr)) refuse(kRows, "the suffix is null");
  if (r.most < int64_t{r.prefix_count} + r.suffix_count) {
    refuse(kRows, "most must leave room for the prefix and the suffix, ", r.prefix_count, " and ", r.suffix_count,
           " numbers, got ", r.most);
  }
}

void check_rows(const TokenRows& r, const TokenTable& to) {
  check_rows(r);
  if (to.columns < int64_t{r.prefix_count} + r.suffix_count) {
    refuse(kRows, "out must have columns for the prefix and the suffix, ", r.prefix_count, " and ", r.suffix_count,
           " numbers, got ", to.columns);
  }
  if (to.row_step < to.columns) {
    refuse(kRows, "rows must be at least ", to.columns, " numbers apart, as long as they are, got ", to.row_step);
  }
  if (r.n > 0 && to.columns > 0 && to.out == nullptr) refuse(kRows, "out is null");
}

}  // namespace dalipipe
