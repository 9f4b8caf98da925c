// The row loops of the filters, one set per instruction set; filter.cpp, filter_jpeg.cpp and elastic.cpp string them
// together. Plain loops over the formulas of filter.h, noise.h and jpeg.h (filter_loops.h), which the compiler makes
// vectors of; so every set computes the same bits. `widen`, `round_even` and `sharpen` read and write whole blocks of
// kFilterPadding elements: past the end of their rows.
#pragma once

#include <cstdint>

#include "../filter.h"
#include "jpeg.h"

namespace dalipipe {

constexpr int32_t kSumBlock = 64;  // elements that a weighted sum takes at a time, and its inputs must have room for
constexpr int32_t kFilterPadding = 64;

struct FilterKernels {
  const char* name;

  void (*widen)(const uint8_t* in, int32_t elements, float* out);
  // out[e] = weights[0] * taps[0][e] + weights[1] * taps[1][e] + …, of `n` ≥ 1.
  void (*weighted_sum)(const float* const* taps, const float* weights, int32_t n, int32_t elements, float* out);
  void (*round_even)(const float* in, int32_t elements, uint8_t* out);
  // The row `here` between two others; its first and last pixel stay.
  void (*sharpen)(const Sharpen& a, const uint8_t* above, const uint8_t* here, const uint8_t* below, int32_t channels,
                  int32_t elements, uint8_t* out);

  // Elements 4 * block ... of the noise: `blocks` fours of words.
  void (*words)(const NoiseKey& key, uint32_t block, int32_t blocks, uint32_t* out);
  void (*normals)(const uint32_t* words, int32_t n, float* out);       // → standard normals
  void (*signed_units)(const uint32_t* words, int32_t n, float* out);  // → [-1, 1)
  void (*add_noise)(const uint8_t* in, const uint32_t* words, int32_t elements, float mean, float sigma, uint8_t* out);
  void (*salt_pepper)(const uint8_t* in, const uint32_t* words, int32_t channels, int32_t width, float amount,
                      float salted, uint8_t* out);
  // out[x]: whether pixel (x, y) is a hole.
  void (*grid)(const float* values, int32_t y, int32_t width, uint8_t* out);

  // A row of RGB → Y, Cb, Cr, and back.
  void (*to_ycc)(const uint8_t* rgb, int32_t width, uint8_t* y, uint8_t* cb, uint8_t* cr);
  void (*to_rgb)(const uint8_t* y, const uint8_t* cb, const uint8_t* cr, int32_t width, uint8_t* rgb);
  // Two rows of 2 * width chroma → one of width; one of width and its neighbour above or below → one of 2 * width.
  void (*halve)(const uint8_t* upper, const uint8_t* lower, int32_t width, uint8_t* out);
  void (*twice)(const uint8_t* near, const uint8_t* far, int32_t width, int32_t* sums, uint8_t* out);
  // Eight rows of blocks, `stride` bytes apart, through transform, quantisers [8, 8] and back, in place. strip: room
  // for 8 * width.
  void (*requantise)(uint8_t* plane, int32_t stride, int32_t width, const int32_t* quantisers, int32_t* strip);
};

extern const FilterKernels scalar_filter_kernels;
const FilterKernels* avx2_filter_kernels();  // null: not built for, or not on this machine
const FilterKernels* avx512_filter_kernels();

// Those of cpu_target().
const FilterKernels& filter_kernels();

}  // namespace dalipipe
