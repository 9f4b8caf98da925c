// Texts on the CPU: a thread takes a sample through all its passes, in its place in `out`; a thread writes a row.
#include "token.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/pool.h"

namespace dalipipe {
namespace {

// A thread's, kept from sample to sample.
class Workspace {
 public:
  TokenScratch need(int32_t capacity) {
    if (capacity > capacity_) {
      capacity_ = std::max(capacity, 1024);
      tokens_.reset(new int32_t[2 * static_cast<size_t>(capacity_)]);
      bits_.reset(new uint32_t[static_cast<size_t>(bit_words(capacity_))]);
    }
    return {tokens_.get(), tokens_.get() + capacity_, bits_.get()};
  }

  // Lets go of what only a very long text needs.
  void trim() {
    constexpr int32_t kMostKept = 1 << 20;
    if (capacity_ > kMostKept) *this = Workspace();
  }

 private:
  int32_t capacity_ = 0;
  std::unique_ptr<int32_t[]> tokens_;
  std::unique_ptr<uint32_t[]> bits_;
};

// What a text that comes soon reads, from anywhere, is on its way by then.
void fetch_ahead(const TokenParams& p, int64_t i) {
  constexpr int64_t kAhead = 6, kLine = 16;  // samples, tokens
  if (i + kAhead >= p.n) return;
  const int32_t* text = reinterpret_cast<const int32_t*>(p.data[i + kAhead]);
  __builtin_prefetch(text);
  if (p.lengths[i + kAhead] > kLine) __builtin_prefetch(text + kLine);
}

void run_sample(const TokenParams& p, const TokenTables& tables, int64_t i, Workspace& workspace) {
  int32_t* const tokens = p.out + p.places[i];
  int32_t length = p.lengths[i];
  if (length > 0) memcpy(tokens, reinterpret_cast<const int32_t*>(p.data[i]), length * sizeof(int32_t));
  if (p.starts[i] < p.starts[i + 1]) {
    const TokenScratch scratch = workspace.need(p.capacities[i]);
    for (int32_t j = p.starts[i]; j < p.starts[i + 1]; ++j) {
      length = edit_tokens(p.passes[j], tables, tokens, length, scratch);
    }
    workspace.trim();
  }
  p.out_lengths[i] = length;
}

// Waking up a thread takes as long as many a short text.
int32_t threads_for(int64_t tokens, int32_t threads) {
  constexpr int64_t kEach = 1 << 17;
  return static_cast<int32_t>(std::min<int64_t>(threads, 1 + tokens / kEach));
}

// Calls use(i) for every sample; a thread takes a few at a time, since one is soon done.
template <typename Use>
void each_sample(int32_t n, int32_t threads, const Use& use) {
  constexpr int64_t kTogether = 32;
  parallel_for((n + kTogether - 1) / kTogether, threads, [&](int64_t group) {
    const int64_t end = std::min<int64_t>(n, (group + 1) * kTogether);
    for (int64_t i = group * kTogether; i < end; ++i) use(i);
  });
}

// Calls use(tokens, count) for each span of a row.
template <typename Use>
void each_span(const TokenRows& r, int64_t i, const Use& use) {
  for (int32_t s = r.starts[i]; s < r.starts[i + 1]; ++s) {
    const TokenSpan span = clip_span(r.spans[s], r.token_count);
    use(r.tokens + span.begin, span.count);
  }
}

void write_row(const TokenRows& r, int64_t i, int64_t* row, int32_t columns, int64_t pad) {
  int64_t* to = std::copy_n(r.prefix, r.prefix_count, row);
  int64_t* const end = row + std::min(r.most, columns) - r.suffix_count;  // of pieces
  each_span(r, i, [&](const int32_t* tokens, int64_t count) {
    if (r.pieces.starts == nullptr) {
      to = std::copy_n(tokens, std::min<int64_t>(count, end - to), to);
      return;
    }
    for (int64_t t = 0; t < count && to < end; ++t) {
      int32_t first = 0;
      const int32_t pieces = choices_of(r.pieces, tokens[t], first);
      to = std::copy_n(r.pieces.tokens + first, std::min<int64_t>(pieces, end - to), to);
    }
  });
  to = std::copy_n(r.suffix, r.suffix_count, to);
  std::fill(to, row + columns, pad);
}

}  // namespace

void edit_tokens_cpu(const TokenParams& p, int32_t threads) {
  check_tokens(p);
  const TokenTables tables{p.choices, p.bags, p.weights};
  threads = threads_for(std::accumulate(p.lengths, p.lengths + p.n, int64_t{0}), threads);
  each_sample(p.n, threads, [&](int64_t i) {
    static thread_local Workspace workspace;
    fetch_ahead(p, i);
    run_sample(p, tables, i, workspace);
  });
}

void count_rows_cpu(const TokenRows& r, int32_t threads, int32_t* lengths) {
  check_rows(r);
  each_sample(r.n, threads_for(r.token_count, threads), [&](int64_t i) {
    int64_t length = int64_t{r.prefix_count} + r.suffix_count;
    each_span(r, i, [&](const int32_t* tokens, int64_t count) {
      if (r.pieces.starts == nullptr) {
        length += count;
        return;
      }
      for (int64_t t = 0; t < count; ++t) {
        int32_t first = 0;
        length += choices_of(r.pieces, tokens[t], first);
      }
    });
    lengths[i] = static_cast<int32_t>(std::min<int64_t>(length, r.most));
  });
}

void write_rows_cpu(const TokenRows& r, const TokenTable& to, int32_t threads) {
  check_rows(r, to);
  each_sample(r.n, threads_for(int64_t{r.n} * to.columns, threads),
              [&](int64_t i) { write_row(r, i, to.out + i * to.row_step, to.columns, to.pad); });
}

void make_batch_cpu(const TokenParams& p, const TokenRows& rows, const TokenBatch& to, int32_t threads) {
  *to.columns = 0;
  if (p.n == 0) return;
  edit_tokens_cpu(p, threads);
  std::vector<TokenSpan> spans(static_cast<size_t>(p.n));
  std::vector<int32_t> starts(static_cast<size_t>(p.n) + 1), lengths(static_cast<size_t>(p.n));
  std::iota(starts.begin(), starts.end(), 0);
  for (int32_t i = 0; i < p.n; ++i) spans[i] = {p.places[i], p.out_lengths[i]};
  TokenRows r = rows;
  r.tokens = p.out, r.token_count = p.out_count, r.n = r.span_count = p.n;
  r.spans = spans.data(), r.starts = starts.data();
  count_rows_cpu(r, threads, lengths.data());
  std::copy(lengths.begin(), lengths.end(), to.lengths);
  const int64_t longest = *std::max_element(lengths.begin(), lengths.end()), multiple = to.multiple;
  const int64_t columns = std::min<int64_t>((longest + multiple - 1) / multiple * multiple, r.most);
  if (columns > to.out_count / p.n) {
    throw std::invalid_argument("make_batch: out holds " + std::to_string(to.out_count) + " numbers, too few for " +
                                std::to_string(p.n) + " rows of " + std::to_string(columns));
  }
  *to.columns = static_cast<int32_t>(columns);
  write_rows_cpu(r, {to.out, columns, *to.columns, to.pad}, threads);
}

}  // namespace dalipipe
