// The arithmetic of the filters (`Filter`, ops.h), written once for host and device, mirrored by
// `dalipipe.ops.filtering`. A filter takes a whole uint8 picture [h, w, channels] and makes another of its size. What
// it does, by its `filter_values`:
//
//   sharpen         [0] a: v + a · (smooth − v), the smooth picture being a 3x3 mean with five times the middle;
//                   truncated. a = 1 − factor; a > 0 smooths, a < 0 sharpens. The outermost pixels stay, and so does
//                   a picture with a side of 1 or 2. torchvision's adjust_sharpness of uint8, to the bit.
//   separable       `filter_w` weights across, then `filter_h` weights down, in float; rounded, halves to even.
//   convolve        `filter_h` × `filter_w` weights, row-major, correlated (not mirrored); rounded, halves to even.
//   gaussian_noise  [0] mean, [1] sigma, in 0..255: v + (mean + sigma · normal); rounded. Element
//                   (y * w + x) * channels + c of the noise.
//   salt_pepper     [0] amount, [1] salt, shares: so many of the pixels are set, in all channels: so many of these to
//                   255, the others to 0. Element y * w + x.
//   grid            [0] unit, [1] keep, [2] offset x, [3] offset y (px), [4] cos, [5] sin, [6..8] R, G, B: a lattice
//                   of square holes of that colour (GridMask: Chen et al., 2020). Pixel (x, y) lies at
//                   (cos·x + sin·y + offset x, cos·y − sin·x + offset y) in the lattice, whose cells are `unit` wide;
//                   it is a hole where both of its coordinates within the cell lie in [keep, unit).
//   jpeg            [0] quality, a whole number 1 ... 100: jpeg.h.
//
// Beyond a border the picture is mirrored about its outermost pixel, again and again where need be.
#pragma once

#include <cstdint>

#include "noise.h"
#include "ops.h"
#include "pixel.h"
#include "tensor.h"

namespace dalipipe {

constexpr float kMaxSharpen = 1000.0f;  // of |a|
constexpr int32_t kMaxTaps = 1 << 12;   // of one axis

// Index beyond a border → within: … 2 1 | 0 1 2 … side-1 | side-2 …
DP_HD int32_t reflect(int32_t i, int32_t side) {
  if (side == 1) return 0;
  const int32_t period = 2 * (side - 1);
  i = (i < 0 ? -i : i) % period;
  return i < side ? i : period - i;
}

// --- Sharpen. torch computes v + a * d with one rounding (a fused multiply-add). So does this: `coarse` has so few
// bits that v + coarse * d is exact, and so is fine * d; only the last sum rounds.

struct Sharpen {
  float coarse, fine;  // a = coarse + fine
};

DP_HD Sharpen make_sharpen(float a) {
  const float magnitude = a < 0.0f ? -a : a;
  float step = 0x1p15f;  // of coarse, inverse
  while ((256.0f + 255.0f * magnitude) * step > 0x1p24f) step *= 0.5f;
  const float coarse = static_cast<float>(static_cast<int32_t>(a * step)) / step;
  return {coarse, a - coarse};
}

// Sum of the nine pixels and four times the middle one → the smooth value: over 13, to nearest.
DP_HD uint8_t smooth_byte(uint16_t sum) {
  return static_cast<uint8_t>((static_cast<uint16_t>(sum + 6) * 5042u) >> 16);  // as many bits as fit one product
}

// Clamped last, and as integers: a clamp in float, with more to follow, compilers make branches of.
DP_HD uint8_t truncate_byte(float v) {  // |v| < 2^31
  const int32_t i = static_cast<int32_t>(v);
  return static_cast<uint8_t>(i < 0 ? 0 : i > 255 ? 255 : i);
}

DP_HD uint8_t sharpen(const Sharpen& a, uint8_t v, uint8_t smooth) {
  const float d = static_cast<float>(smooth - v);
  const float exact = static_cast<float>(v) + a.coarse * d;
  return truncate_byte(exact + a.fine * d);
}

// --- Weighted sums of neighbours, in float: weights[0] * v[0], then + weights[1] * v[1] and so on. (A weight of zero
// may be left out: it changes no bit.)

constexpr float kMaxWeight = 1e6f;  // of all magnitudes together; of a separable filter, of what both make

// To uint8, halves to even: adding 1.5 * 2^23 leaves no room for a fraction.
DP_HD uint8_t round_even_byte(float v) { return truncate_byte((v + 0x1.8p23f) - 0x1.8p23f); }

// --- Noise

// Rounded halves up.
DP_HD uint8_t add_noise(uint8_t v, float mean, float sigma, uint32_t word) {
  const float sum = static_cast<float>(v) + (mean + sigma * normal(word));
  return truncate_byte(sum + 0.5f);
}

// `salted`: amount * salt.
DP_HD bool is_salt(float salted, uint32_t word) { return unit(word) < salted; }
DP_HD bool is_set(float amount, uint32_t word) { return unit(word) < amount; }

// --- Grid

// Whether a coordinate lies beyond `keep` in its cell. (Rounding may leave it at `unit`: the next cell's beginning.)
DP_HD bool in_hole(float at, float unit, float keep) {
  const float within = at - unit * static_cast<float>(floor_index(at / unit));
  return (within >= keep) & (within < unit);
}

DP_HD bool grid_hole(const float* values, int32_t x, int32_t y) {
  const float fx = static_cast<float>(x), fy = static_cast<float>(y);
  const float u = (values[4] * fx + values[5] * fy) + values[2], v = (values[4] * fy - values[5] * fx) + values[3];
  return in_hole(u, values[0], values[1]) & in_hole(v, values[0], values[1]);
}

}  // namespace dalipipe
