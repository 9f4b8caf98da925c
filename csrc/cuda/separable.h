// Weighted sums across, then down, of one tile: what filters and elastic displacement share.
#pragma once

#include "cuda/tile.h"
#include "filter.h"

namespace dalipipe {

// Beyond a border the picture is mirrored.
__device__ __forceinline__ int32_t mirrored(int32_t i, int32_t side) {
  return i >= 0 && i < side ? i : reflect(i, side);
}

// The picture [h, w, C] is at(y, x, c). sums: column x0 + lane, rows y0 + warp + r * kWarps. `rows`: shared memory. All
// threads of the block call this; it begins and ends with `rows` free.
template <int C, typename At>
__device__ __forceinline__ void separable_tile(int32_t h, int32_t w, int32_t y0, int32_t x0, const float* across,
                                               int32_t taps_w, const float* down, int32_t taps_h,
                                               float (&rows)[kChunk * kTile * C], float (&sums)[kRows][C],
                                               const At& at) {
  constexpr int kEach = kChunk / kWarps;  // rows of a chunk that a thread sums across
  const int32_t lane = lane_index(), warp = warp_index(), reach_w = taps_w / 2, reach_h = taps_h / 2;
  const int32_t x = smaller(x0 + lane, w - 1), end = smaller(y0 + kTile, h) + reach_h;
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < C; ++c) sums[r][c] = 0.0f;
  }
  for (int32_t chunk = y0 - reach_h; chunk < end; chunk += kChunk) {
    float row_sums[kEach][C];
    int32_t y[kEach];
#pragma unroll
    for (int r = 0; r < kEach; ++r) {
      y[r] = mirrored(smaller(chunk + warp + r * kWarps, end - 1), h);
      for (int c = 0; c < C; ++c) row_sums[r][c] = 0.0f;
    }
#pragma unroll 1
    for (int32_t j = 0; j < taps_w; ++j) {
      const float weight = across[j];
      const int32_t from = mirrored(x + j - reach_w, w);
#pragma unroll
      for (int r = 0; r < kEach; ++r) {
        for (int c = 0; c < C; ++c) row_sums[r][c] += weight * at(y[r], from, c);
      }
    }
#pragma unroll
    for (int r = 0; r < kEach; ++r) {
      for (int c = 0; c < C; ++c) rows[((warp + r * kWarps) * kTile + lane) * C + c] = row_sums[r][c];
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int32_t top = y0 + warp + r * kWarps - reach_h;  // the first row that it draws on
      if (top + reach_h >= h) continue;
      const int32_t first = larger(0, chunk - top), last = smaller(taps_h, chunk + kChunk - top);
#pragma unroll 1
      for (int32_t j = first; j < last; ++j) {
        const float weight = down[j];
        for (int c = 0; c < C; ++c) sums[r][c] += weight * rows[((top + j - chunk) * kTile + lane) * C + c];
      }
    }
    __syncthreads();
  }
}

}  // namespace dalipipe
