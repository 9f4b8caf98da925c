// The arithmetic of the fused image operator (ops.h), written once for host and device. Only + - * /, comparisons and
// integers, compiled without FMA contraction: every target computes the same bits.
#pragma once

#include <cstdint>
#include <cstring>

#include "ops.h"
#include "tensor.h"

namespace dalipipe {

constexpr int32_t kMaxSide_px = 1 << 20;  // of a crop, a resized picture, a canvas, an output

// --- Resize: torch's antialiased bilinear resize of uint8 (`interpolate(antialias=True)`), which is Pillow's: a
// triangle filter as wide as the scale, int16 weights, a horizontal pass rounded to uint8, then a vertical one.

struct Axis {
  int32_t in, out;        // px
  double scale, support;  // input px an output px; the filter's reach in input px
  double inverse;         // input px → the filter's own unit
  int32_t taps;           // the most an output has
};

struct Span {
  int32_t first, count;  // input px first ... first + count - 1
};

DP_HD Axis make_axis(int32_t in, int32_t out) {
  Axis axis{in, out, static_cast<double>(in) / out, 1.0, 1.0, 1};
  if (in == out) return axis;  // one tap of weight one; torch skips the pass
  if (axis.scale >= 1.0) {
    axis.support = axis.scale;
    axis.inverse = 1.0 / axis.scale;
  }
  const float reach = static_cast<float>(axis.support);
  const int32_t whole = static_cast<int32_t>(reach);
  axis.taps = 2 * (whole + (static_cast<float>(whole) < reach)) + 1;
  return axis;
}

DP_HD double centre(const Axis& axis, int32_t i) { return axis.scale * (i + 0.5); }

DP_HD Span span(const Axis& axis, int32_t i) {
  if (axis.in == axis.out) return {i, 1};
  const double middle = centre(axis, i);
  const int32_t low = static_cast<int32_t>(middle - axis.support + 0.5);
  const int32_t high = static_cast<int32_t>(middle + axis.support + 0.5);
  const int32_t first = low > 0 ? low : 0;
  const int32_t count = (high < axis.in ? high : axis.in) - first;
  return {first, count < axis.taps ? count : axis.taps};
}

// The filter's height over input pixel j for an output whose centre is `middle`; not yet divided by the taps' sum.
DP_HD double height(const Axis& axis, double middle, int32_t j) {
  if (axis.in == axis.out) return 1.0;
  double x = (j - middle + 0.5) * axis.inverse;
  if (x < 0.0) x = -x;
  return x < 1.0 ? 1.0 - x : 0.0;
}

DP_HD double weight(double height, double sum) { return sum != 0.0 ? height / sum : height; }

DP_HD double greatest_weight(const Axis& axis, int32_t i) {
  const Span at = span(axis, i);
  const double middle = centre(axis, i);
  double sum = 0.0, highest = 0.0;
  for (int32_t j = at.first; j < at.first + at.count; ++j) {
    const double h = height(axis, middle, j);
    sum += h;
    if (h > highest) highest = h;
  }
  return weight(highest, sum);
}

// Bits of the weights' fraction: as many as let the axis's greatest weight stay an int16; 14 ... 22.
DP_HD int32_t weight_precision(double greatest) {
  int32_t bits = 0;
  while (bits < 22 && static_cast<int32_t>(0.5 + greatest * (1 << (bits + 1))) < (1 << 15)) ++bits;
  return bits;
}

DP_HD int16_t fixed_weight(double weight, int32_t precision) {
  return static_cast<int16_t>(static_cast<int32_t>(0.5 + weight * (1 << precision)));
}

// A weighted sum that began with half_unit(precision) → uint8. Weights are never negative, nor is the sum.
DP_HD int32_t half_unit(int32_t precision) { return 1 << (precision - 1); }
DP_HD uint8_t fixed_to_byte(int32_t sum, int32_t precision) {
  const int32_t v = sum >> precision;
  return static_cast<uint8_t>(v < 255 ? v : 255);
}

// --- Window and flip: canvas pixels x in [begin, end) show resized pixel start + step * x, the others the fill.

struct View {
  int32_t begin, end, start, step;
  DP_HD int32_t at(int32_t x) const { return start + step * x; }
  DP_HD bool holds(int32_t x) const { return x >= begin && x < end; }
};

DP_HD View make_view(int32_t resized, int32_t window, int32_t canvas, bool flip) {
  const int64_t left = -static_cast<int64_t>(window), right = left + resized;  // the resized picture on the canvas
  int32_t begin = static_cast<int32_t>(left < 0 ? 0 : left < canvas ? left : canvas);
  int32_t end = static_cast<int32_t>(right < begin ? begin : right < canvas ? right : canvas);
  if (begin == end) return {0, 0, 0, 1};
  if (!flip) return {begin, end, window, 1};
  return {canvas - end, canvas - begin, window + canvas - 1, -1};
}

// Input pixels that a view's outputs draw on.
DP_HD Span view_span(const Axis& axis, const View& view) {
  if (view.begin == view.end) return {0, 0};
  const int32_t a = view.at(view.begin), b = view.at(view.end - 1);
  const Span first = span(axis, a < b ? a : b), last = span(axis, a < b ? b : a);
  return {first.first, last.first + last.count - first.first};
}

// --- Warp: output index → canvas index → one or four canvas pixels, `fill` where there is none.

struct Point {
  float x, y;
};

DP_HD Point warp_point(const float* m, int32_t x, int32_t y) {
  const float fx = static_cast<float>(x), fy = static_cast<float>(y);
  return {(m[0] * fx + m[1] * fy) + m[2], (m[3] * fx + m[4] * fy) + m[5]};
}

// Everything outside [-1, side] sees fill alone, so the ends stand for it, and no index leaves [-1, side + 1].
// NaN counts as outside.
DP_HD float clamp_index(float v, int32_t side) {
  v = v > -1.0f ? v : -1.0f;
  const float end = static_cast<float>(side);
  return v < end ? v : end;
}

DP_HD int32_t floor_index(float v) {  // |v| well inside int32
  const int32_t i = static_cast<int32_t>(v);
  return i - (static_cast<float>(i) > v);
}

DP_HD int32_t nearest_index(float v, int32_t side) { return floor_index(clamp_index(v, side) + 0.5f); }

DP_HD float lerp(float a, float b, float t) { return a + (b - a) * t; }

// 0 ... 255 and a hair either side → uint8, halves up.
DP_HD uint8_t round_byte(float v) { return static_cast<uint8_t>(static_cast<int32_t>(v + 0.5f)); }

// a b
// c d   at (tx, ty) from a
DP_HD uint8_t bilinear(uint8_t a, uint8_t b, uint8_t c, uint8_t d, float tx, float ty) {
  return round_byte(lerp(lerp(a, b, tx), lerp(c, d, tx), ty));
}

// --- Colour

// Sum over `count` uint8 → their mean.
DP_HD float mean_byte(uint64_t sum, int64_t count) {
  return static_cast<float>(static_cast<double>(sum) / static_cast<double>(count));
}

// One row (m, k, offset: of three) of out = M·rgb + (K·mean + offset).
DP_HD float colour_constant(const float* k, const float* mean, float offset) {
  return ((k[0] * mean[0] + k[1] * mean[1]) + k[2] * mean[2]) + offset;
}

DP_HD float clamp_byte(float v) {  // NaN → 0
  v = v > 0.0f ? v : 0.0f;
  return v < 255.0f ? v : 255.0f;
}

DP_HD uint8_t colour(const float* m, float constant, float r, float g, float b) {
  return round_byte(clamp_byte(((m[0] * r + m[1] * g) + m[2] * b) + constant));
}

// --- Normalise and cast. Values are finite or, past a type's range, infinite; NaN cannot come up.

DP_HD float normalise(uint8_t v, float scale, float bias) { return static_cast<float>(v) * scale + bias; }

DP_HD uint32_t float_bits(float v) {
  uint32_t bits;
  memcpy(&bits, &v, sizeof bits);
  return bits;
}

DP_HD float bits_float(uint32_t bits) {
  float v;
  memcpy(&v, &bits, sizeof v);
  return v;
}

// To IEEE half precision, to nearest, ties to even.
DP_HD uint16_t to_float16(float v) {
  const uint32_t sign = float_bits(v) >> 16 & 0x8000u, magnitude = float_bits(v) & 0x7fffffffu;
  uint32_t half;
  if (magnitude >= 0x477ff000u) {  // 65520 and above
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // below 2^-14: subnormal; adding 0.5 rounds at their unit, 2^-24
    half = float_bits(bits_float(magnitude) + 0.5f) - float_bits(0.5f);
  } else {
    half = (magnitude + 0xfffu + (magnitude >> 13 & 1u) - (112u << 23)) >> 13;
  }
  return static_cast<uint16_t>(sign | half);
}

// To bfloat16, to nearest, ties to even.
DP_HD uint16_t to_bfloat16(float v) {
  const uint32_t bits = float_bits(v);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

template <DType>
struct Cast;
template <>
struct Cast<DType::uint8> {
  using type = uint8_t;
  DP_HD static type from(float v) { return round_byte(clamp_byte(v)); }
};
template <>
struct Cast<DType::float16> {
  using type = uint16_t;
  DP_HD static type from(float v) { return to_float16(v); }
};
template <>
struct Cast<DType::bfloat16> {
  using type = uint16_t;
  DP_HD static type from(float v) { return to_bfloat16(v); }
};
template <>
struct Cast<DType::float32> {
  using type = float;
  DP_HD static type from(float v) { return v; }
};

// Calls `call` with a Cast<dtype>.
template <typename Call>
void with_cast(DType dtype, Call&& call) {
  switch (dtype) {
    case DType::uint8: return call(Cast<DType::uint8>{});
    case DType::float16: return call(Cast<DType::float16>{});
    case DType::bfloat16: return call(Cast<DType::bfloat16>{});
    case DType::float32: return call(Cast<DType::float32>{});
  }
}

inline int32_t dtype_bytes(DType dtype) { return dtype == DType::uint8 ? 1 : dtype == DType::float32 ? 4 : 2; }

// Whether a sample's colour needs the mean over the sample first.
DP_HD bool needs_mean(const ImageSample& s) {
  if (!s.colour) return false;
  for (int32_t i = 0; i < 9; ++i) {
    if (s.colour_mean_matrix[i] != 0.0f) return true;
  }
  return false;
}

}  // namespace dalipipe
