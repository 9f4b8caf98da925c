// Feeds edits of texts, and rows of them, batches that are made from the input: on the CPU, in scratch of the very
// size, and by the CUDA kernels compiled for the host, which all give the same.
#include <algorithm>
#include <vector>

#include "../../csrc/cuda/token.cu"
#include "choices.h"
#include "token.h"

namespace dalipipe {
namespace {

constexpr int32_t kMost = 1 << 12;  // tokens and columns, so that a run takes milliseconds

int32_t length(Choices& c) { return c.byte() % 8 ? c.in(0, 40) : c.in(0, 255); }

int32_t* draw_tokens(Choices& c, Memory& memory, int32_t n) {
  int32_t* tokens = memory.make<int32_t>(n);
  for (int32_t i = 0; i < n; ++i) tokens[i] = i < 3 ? c.odd(c.in(-1, 20)) : c.in(-1, 20);
  return tokens;
}

// A table whose starts may be anything, and as much memory as it says.
TokenChoices draw_choices(Choices& c, Memory& memory) {
  const int32_t words = c.in(0, 20);
  int32_t* starts = memory.make<int32_t>(words + 1);
  for (int32_t t = 0; t < words; ++t) starts[t + 1] = starts[t] + c.in(0, 3);
  const int32_t count = starts[words];
  for (int32_t t = 0; t < words; ++t) starts[t] = c.odd(starts[t]);
  return {starts, draw_tokens(c, memory, count), c.byte() % 16 ? words : std::min(words, c.odd(words)),
          c.byte() % 16 ? count : std::min(count, c.odd(count))};
}

TokenBag draw_bag(Choices& c, Memory& memory) {
  TokenBag bag{};
  bag.count = c.byte() % 4 ? c.in(1, 9) : c.in(0, 1);
  bag.first = c.odd(c.in(0, 9));
  if (c.byte() % 2) bag.tokens = draw_tokens(c, memory, bag.count);
  if (c.byte() % 2) {
    uint32_t* keep = memory.make<uint32_t>(bag.count);
    int32_t* other = memory.make<int32_t>(bag.count);
    for (int32_t e = 0; e < bag.count; ++e) keep[e] = 0x01000000u * c.byte(), other[e] = c.odd(c.in(-1, 9));
    bag.keep = keep;
    bag.other = c.byte() % 32 ? other : nullptr;
  }
  return bag;
}

TokenWeights draw_weights(Choices& c, Memory& memory) {
  const int32_t words = c.in(0, 20);
  float* weights = memory.make<float>(words);
  for (int32_t t = 0; t < words; ++t) weights[t] = c.odd(c.real(-1, 2));
  return {weights, words, 0};
}

void draw_pass(Choices& c, TokenPass& pass) {
  pass.edit = c.odd(c.in(0, 12));
  pass.choices = c.odd(c.in(0, 1)), pass.bag = c.odd(c.in(0, 1)), pass.weights = c.odd(0);
  pass.least = c.odd(c.in(0, 3)), pass.token = c.odd(c.in(0, 9));
  pass.share = c.byte() % 4 ? c.odd(c.real(0, 1)) : c.in(0, 1);
  draw_key(c, pass.key);
}

// Calls run(scratch, bytes, pinned, bytes) with memory of the very size.
template <typename Run>
void on_device(Memory& memory, const TokenBytes& bytes, const Run& run) {
  run(memory.noise(static_cast<int64_t>(bytes.scratch), 1), bytes.scratch,
      memory.noise(static_cast<int64_t>(bytes.upload), 2), bytes.upload);
}

void edits(Choices& c, Memory& memory) {
  TokenParams p{};
  p.n = c.in(1, 3);
  int32_t* starts = memory.make<int32_t>(p.n + 1);
  for (int32_t i = 0; i < p.n; ++i) starts[i + 1] = starts[i] + c.in(0, 3);
  TokenPass* passes = memory.make<TokenPass>(starts[p.n]);
  for (int32_t j = 0; j < starts[p.n]; ++j) draw_pass(c, passes[j]);
  const TokenChoices choices[] = {draw_choices(c, memory), draw_choices(c, memory)};
  const TokenBag bags[] = {draw_bag(c, memory), draw_bag(c, memory)};
  const TokenWeights weights[] = {draw_weights(c, memory)};
  uint64_t* data = memory.make<uint64_t>(p.n);
  int32_t *lengths = memory.make<int32_t>(p.n), *capacities = memory.make<int32_t>(p.n);
  int64_t* places = memory.make<int64_t>(p.n);
  int64_t end = 0;
  for (int32_t i = 0; i < p.n; ++i) {
    lengths[i] = length(c);
    data[i] = reinterpret_cast<uint64_t>(draw_tokens(c, memory, lengths[i]));
    int64_t room = lengths[i];
    for (int32_t j = starts[i]; j < starts[i + 1]; ++j) {
      if (!(passes[j].share >= 0.0 && passes[j].share <= 1.0) || room > kMost) break;
      room = length_after(passes[j], static_cast<int32_t>(room));
    }
    capacities[i] = c.odd(static_cast<int32_t>(std::clamp<int64_t>(room, 0, kMost)) + c.in(0, 1));
    places[i] = c.odd<int64_t>(end + c.in(0, 2));
    end += 2 + std::clamp(capacities[i], 0, kMost);
  }
  p.passes = passes, p.starts = starts, p.data = data, p.lengths = lengths, p.capacities = capacities;
  p.places = places, p.out_count = end;
  p.choices = choices, p.choices_count = c.in(1, 2), p.bags = bags, p.bag_count = c.in(1, 2);
  p.weights = weights, p.weights_count = 1;
  int32_t* outs[2];
  int32_t* out_lengths[2];
  for (int32_t k = 0; k < 2; ++k) {
    outs[k] = reinterpret_cast<int32_t*>(memory.noise(end * 4, 7)), out_lengths[k] = memory.make<int32_t>(p.n);
  }
  p.out = outs[0], p.out_lengths = out_lengths[0];
  if (!takes([&] { edit_tokens_cpu(p, 1); })) return;
  p.out = outs[1], p.out_lengths = out_lengths[1];
  on_device(memory, edit_tokens_cuda_bytes(p), [&](auto... room) { edit_tokens_cuda(p, room..., nullptr); });
  require(std::memcmp(outs[0], outs[1], end * 4) == 0, "twins give the same tokens");
  require(std::equal(out_lengths[0], out_lengths[0] + p.n, out_lengths[1]), "twins give the same lengths");
  for (int32_t i = 0; i < p.n; ++i) {
    require(out_lengths[0][i] <= capacities[i] && (out_lengths[0][i] > 0) == (lengths[i] > 0), "no text becomes empty");
    const int32_t capacity = capacities[i];
    int32_t *tokens = memory.make<int32_t>(capacity), now = lengths[i];
    std::copy_n(reinterpret_cast<const int32_t*>(data[i]), now, tokens);
    const TokenScratch scratch{memory.make<int32_t>(capacity), memory.make<int32_t>(capacity),
                               memory.make<uint32_t>(bit_words(capacity))};
    for (int32_t j = starts[i]; j < starts[i + 1]; ++j) {
      now = edit_tokens(passes[j], {choices, bags, weights}, tokens, now, scratch);
    }
    require(now == out_lengths[0][i] && std::equal(tokens, tokens + now, outs[0] + places[i]), "so does the header");
  }
}

void rows(Choices& c, Memory& memory) {
  TokenRows r{};
  r.token_count = length(c);
  r.tokens = draw_tokens(c, memory, static_cast<int32_t>(r.token_count));
  r.n = c.in(0, 4);
  int32_t* starts = memory.make<int32_t>(r.n + 1);
  for (int32_t i = 0; i < r.n; ++i) starts[i + 1] = c.odd(starts[i] + c.in(0, 3));
  r.span_count = std::clamp(starts[r.n], 0, kMost);
  TokenSpan* spans = memory.make<TokenSpan>(r.span_count);
  for (int32_t s = 0; s < r.span_count; ++s) {
    spans[s] = {c.odd<int64_t>(c.in(0, 40)), c.odd<int64_t>(c.in(0, 40))};
    if (c.byte() % 32 == 0) spans[s].begin *= int64_t{1} << 32;
  }
  r.starts = starts, r.spans = spans;
  if (c.byte() % 2) r.pieces = draw_choices(c, memory);
  r.prefix_count = c.in(0, 2), r.suffix_count = c.in(0, 2);
  r.prefix = draw_tokens(c, memory, r.prefix_count), r.suffix = draw_tokens(c, memory, r.suffix_count);
  r.most = c.odd(c.byte() % 2 ? INT32_MAX : c.in(4, 60));
  int32_t *lengths = memory.make<int32_t>(r.n), *others = memory.make<int32_t>(r.n);
  if (!takes([&] { count_rows_cpu(r, 1, lengths); })) return;
  on_device(memory, rows_cuda_bytes(r), [&](auto... room) { count_rows_cuda(r, others, room..., nullptr); });
  require(std::equal(lengths, lengths + r.n, others), "twins count the same");
  const int32_t longest = r.n > 0 ? *std::max_element(lengths, lengths + r.n) : 0;
  if (longest > kMost) return;
  const int32_t columns = c.odd(c.byte() % 4 ? longest + c.in(0, 3) : c.in(0, 40));
  const int64_t step = c.odd<int64_t>(columns + c.in(0, 2));
  if (columns > kMost || step > kMost) return;
  const int64_t count = r.n > 0 ? (r.n - 1) * std::max<int64_t>(step, 0) + std::max(columns, 0) : 0;
  int64_t* outs[2];
  for (int32_t k = 0; k < 2; ++k) outs[k] = memory.make<int64_t>(count);
  if (!takes([&] { write_rows_cpu(r, {outs[0], step, columns, -1}, 1); })) return;
  const TokenTable to{outs[1], step, columns, -1};
  on_device(memory, rows_cuda_bytes(r), [&](auto... room) { write_rows_cuda(r, to, room..., nullptr); });
  require(std::memcmp(outs[0], outs[1], count * sizeof(int64_t)) == 0, "twins write the same");
  for (int32_t i = 0; i < r.n; ++i) {
    const int64_t* row = outs[0] + i * step;
    require(std::all_of(row + std::min(lengths[i], columns), row + columns, [](int64_t v) { return v == -1; }),
            "rows are as long as they were counted");
  }
}

}  // namespace
}  // namespace dalipipe

void fuzz_tokens(const uint8_t* data, size_t size) {
  dalipipe::Choices choices(data, size);
  dalipipe::Memory memory;
  choices.byte() % 4 ? dalipipe::edits(choices, memory) : dalipipe::rows(choices, memory);
}
