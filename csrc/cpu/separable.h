// Weighted sums over a neighbourhood, row by row: what lies beyond a border is mirrored, and only as many rows are kept
// as the neighbourhood is high.
#pragma once

#include <algorithm>

#include "cpu/filter_kernels.h"
#include "cpu/image_kernels.h"

namespace dalipipe {

struct SumScratch {
  Buffer<float> input, rows, sums;
  Buffer<const float*> taps;
  Buffer<float> weights;

  void trim(int64_t keep_bytes) {
    const auto drop = [=](auto&... buffers) { ((buffers.bytes() > keep_bytes ? buffers.release() : void()), ...); };
    drop(input, rows, sums, taps, weights);
  }
};

// What weighs nothing is left out, but for one: a sum needs a term.
class Terms {
 public:
  Terms(SumScratch& scratch, int32_t most) : taps_(scratch.taps.need(most)), weights_(scratch.weights.need(most)) {}
  void add(const float* tap, float weight) {
    if (count_ == 1 && weights_[0] == 0.0f) count_ = 0;
    if (weight == 0.0f && count_ > 0) return;
    taps_[count_] = tap;
    weights_[count_++] = weight;
  }
  void sum(const FilterKernels& k, int32_t elements, float* out) const {
    k.weighted_sum(taps_, weights_, count_, elements, out);
  }

 private:
  const float** taps_;
  float* weights_;
  int32_t count_ = 0;
};

// Mirrors a row of `width` pixels, which stands `reach` pixels into its room, into the room before and after it.
inline void mirror_row(float* row, int32_t width, int32_t channels, int32_t reach) {
  const auto copy = [&](int32_t x) {
    const float* from = row + static_cast<int64_t>(reflect(x, width)) * channels;
    std::copy_n(from, channels, row + static_cast<int64_t>(x) * channels);
  };
  for (int32_t x = -reach; x < 0; ++x) copy(x);
  for (int32_t x = width; x < width + reach; ++x) copy(x);
}

// Calls use(y, rows) for every row of the picture, where rows(dy) is row y + dy, |dy| ≤ reach, mirrored at the borders.
// make(y, row) makes a row once, top to bottom; `stride` elements lie between those kept in `ring`.
template <typename Make, typename Use>
void slide(int32_t height, int32_t reach, float* ring, int64_t stride, const Make& make, const Use& use) {
  const int32_t kept = 2 * reach + 1;
  int32_t made = 0;
  for (int32_t y = 0; y < height; ++y) {
    for (; made <= std::min(y + reach, height - 1); ++made) make(made, ring + made % kept * stride);
    use(y, [&](int32_t dy) { return ring + reflect(y + dy, height) % kept * stride; });
  }
}

inline int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// `across` [taps_w], then `down` [taps_h], both odd: read(y, row) gives a row of float, take(y, sums) gets what became
// of it.
template <typename Read, typename Take>
void separable(const FilterKernels& k, int32_t height, int32_t width, int32_t channels, const float* across,
               int32_t taps_w, const float* down, int32_t taps_h, SumScratch& scratch, const Read& read,
               const Take& take) {
  const int32_t reach_w = taps_w / 2, reach_h = taps_h / 2, elements = width * channels;
  const int64_t stride = round_up(elements, kSumBlock);
  const int64_t border = static_cast<int64_t>(reach_w) * channels;
  float* input = scratch.input.need(2 * border + stride);
  float* ring = scratch.rows.need(std::min(taps_h, height) * stride);
  float* sums = scratch.sums.need(stride);
  const auto make = [&](int32_t y, float* row) {
    read(y, input + border);
    mirror_row(input + border, width, channels, reach_w);
    Terms terms(scratch, taps_w);
    for (int32_t j = 0; j < taps_w; ++j) terms.add(input + static_cast<int64_t>(j) * channels, across[j]);
    terms.sum(k, elements, row);
  };
  slide(height, reach_h, ring, stride, make, [&](int32_t y, const auto& rows) {
    Terms terms(scratch, taps_h);
    for (int32_t j = 0; j < taps_h; ++j) terms.add(rows(j - reach_h), down[j]);
    terms.sum(k, elements, sums);
    take(y, sums);
  });
}

// `weights` [taps_h, taps_w].
template <typename Read, typename Take>
void convolve(const FilterKernels& k, int32_t height, int32_t width, int32_t channels, const float* weights,
              int32_t taps_w, int32_t taps_h, SumScratch& scratch, const Read& read, const Take& take) {
  const int32_t reach_w = taps_w / 2, reach_h = taps_h / 2, elements = width * channels;
  const int64_t border = static_cast<int64_t>(reach_w) * channels;
  const int64_t stride = 2 * border + round_up(elements, kSumBlock);
  float* ring = scratch.rows.need(std::min(taps_h, height) * stride);
  float* sums = scratch.sums.need(stride);
  const auto make = [&](int32_t y, float* row) {
    read(y, row + border);
    mirror_row(row + border, width, channels, reach_w);
  };
  slide(height, reach_h, ring, stride, make, [&](int32_t y, const auto& rows) {
    Terms terms(scratch, taps_h * taps_w);
    for (int32_t i = 0; i < taps_h; ++i) {
      const float* row = rows(i - reach_h);
      for (int32_t j = 0; j < taps_w; ++j) {
        terms.add(row + static_cast<int64_t>(j) * channels, weights[static_cast<int64_t>(i) * taps_w + j]);
      }
    }
    terms.sum(k, elements, sums);
    take(y, sums);
  });
}

}  // namespace dalipipe
