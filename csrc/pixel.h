// The arithmetic of the fused image operator (ops.h), written once for host and device. Only + - * /, comparisons and
// integers, compiled without FMA contraction: every target computes the same bits.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "ops.h"
#include "tensor.h"

namespace dalipipe {

constexpr int32_t kMaxSide_px = 1 << 20;  // of a crop, a resized picture, a canvas, an output

// --- Resize: torch's antialiased resize of uint8 (`interpolate(antialias=True)`), which is Pillow's: a filter as wide
// as the scale (a triangle, or a cubic with a = -0.5), int16 weights, a horizontal pass rounded to uint8, then a
// vertical one. Or the nearest pixel as torch counts it, ⌊i · in / out⌋ in float32.

struct Axis {
  int32_t in, out;  // px
  Resample resample;
  double scale, support;  // input px an output px; the filter's reach in input px
  double inverse;         // input px → the filter's own unit
  int32_t taps;           // the most an output has
};

struct Span {
  int32_t first, count;  // input px first ... first + count - 1
};

DP_HD Axis make_axis(int32_t in, int32_t out, int32_t resample) {
  Axis axis{in, out, static_cast<Resample>(resample), static_cast<double>(in) / out, 1.0, 1.0, 1};
  if (in == out || axis.resample == Resample::nearest) return axis;  // one tap of weight one; torch skips the pass
  if (axis.resample == Resample::bicubic) axis.support = 2.0;
  if (axis.scale >= 1.0) {
    axis.support *= axis.scale;
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
  if (axis.resample == Resample::nearest) {
    const int32_t at = static_cast<int32_t>(i * (static_cast<float>(axis.in) / static_cast<float>(axis.out)));
    return {at < axis.in ? at : axis.in - 1, 1};
  }
  const double middle = centre(axis, i);
  const int32_t low = static_cast<int32_t>(middle - axis.support + 0.5);
  const int32_t high = static_cast<int32_t>(middle + axis.support + 0.5);
  const int32_t first = low > 0 ? low : 0;
  const int32_t count = (high < axis.in ? high : axis.in) - first;
  return {first, count < axis.taps ? count : axis.taps};
}

// The filter's height over input pixel j for an output whose centre is `middle`; not yet divided by the taps' sum.
DP_HD double height(const Axis& axis, double middle, int32_t j) {
  if (axis.in == axis.out || axis.resample == Resample::nearest) return 1.0;
  double x = (j - middle + 0.5) * axis.inverse;
  if (x < 0.0) x = -x;
  if (axis.resample == Resample::bicubic) {
    if (x < 1.0) return (1.5 * x - 2.5) * x * x + 1.0;
    return x < 2.0 ? ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0 : 0.0;
  }
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
  return static_cast<int16_t>(static_cast<int32_t>((weight < 0.0 ? -0.5 : 0.5) + weight * (1 << precision)));
}

// A weighted sum that began with half_unit(precision) → uint8. A cubic's may be negative, or above 255.
DP_HD int32_t half_unit(int32_t precision) { return 1 << (precision - 1); }
DP_HD uint8_t fixed_to_byte(int32_t sum, int32_t precision) {
  const int32_t v = sum >> precision;
  return static_cast<uint8_t>(v < 0 ? 0 : v < 255 ? v : 255);
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

// --- Warp: output index → canvas index → one, four or sixteen canvas pixels, `fill` where there is none.

struct Point {
  float x, y;
};

DP_HD bool is_projective(const float* m) { return m[6] != 0.0f || m[7] != 0.0f || m[8] != 1.0f; }

// (x, y): of the output, moved by the displacement.
DP_HD Point warp_point(const float* m, bool projective, float x, float y) {
  Point to{(m[0] * x + m[1] * y) + m[2], (m[3] * x + m[4] * y) + m[5]};
  if (projective) {
    const float w = (m[6] * x + m[7] * y) + m[8];
    to = {to.x / w, to.y / w};
  }
  return to;
}

// `displacement`: null, or [2, out_h, out_w].
DP_HD Point displaced(const float* displacement, int32_t out_h, int32_t out_w, int32_t x, int32_t y) {
  Point at{static_cast<float>(x), static_cast<float>(y)};
  if (displacement != nullptr) {
    const int64_t i = static_cast<int64_t>(y) * out_w + x;
    at = {at.x + displacement[i], at.y + displacement[i + static_cast<int64_t>(out_h) * out_w]};
  }
  return at;
}

// Everything outside [-reach, side - 1 + reach] sees fill alone, so the ends stand for it, and no index goes further.
// NaN counts as outside. Bilinear and nearest reach 1 px, bicubic 2.
DP_HD float clamp_index(float v, int32_t side, int32_t reach) {
  const float begin = static_cast<float>(-reach), end = static_cast<float>(side - 1 + reach);
  v = v > begin ? v : begin;
  return v < end ? v : end;
}

DP_HD int32_t floor_index(float v) {  // |v| well inside int32
  const int32_t i = static_cast<int32_t>(v);
  return i - (static_cast<float>(i) > v);
}

// Halves to the even index, as torch's grid_sample.
DP_HD int32_t nearest_index(float v, int32_t side) { return static_cast<int32_t>(rintf(clamp_index(v, side, 1))); }

DP_HD float lerp(float a, float b, float t) { return a + (b - a) * t; }

// 0 ... 255 and a hair either side → uint8, halves up.
DP_HD uint8_t round_byte(float v) { return static_cast<uint8_t>(static_cast<int32_t>(v + 0.5f)); }

// a b
// c d   at (tx, ty) from a
DP_HD uint8_t bilinear(uint8_t a, uint8_t b, uint8_t c, uint8_t d, float tx, float ty) {
  return round_byte(lerp(lerp(a, b, tx), lerp(c, d, tx), ty));
}

// The cubic through four neighbours, at d from b to c: Pillow's, a = -1.
DP_HD float cubic(float a, float b, float c, float d, float t) {
  return b + t * ((c - a) + t * ((2.0f * (a - b) + (c - d)) + t * ((b - a) + (d - c))));
}

// --- Stretch: 256 counts of one channel's values → a table.

// To the whole range, as torchvision does.
DP_HD uint8_t autocontrast_entry(int32_t v, int32_t lowest, int32_t highest) {
  if (lowest >= highest) return static_cast<uint8_t>(v);
  const float scaled =
      (static_cast<float>(v) - static_cast<float>(lowest)) / (static_cast<float>(highest - lowest) * (1.0f / 255.0f));
  return static_cast<uint8_t>(scaled > 0.0f ? scaled < 255.0f ? scaled : 255.0f : 0.0f);
}

// To equal counts, as Pillow and torchvision do. `below`: pixels of values under v; `step`: equalize_step.
DP_HD int64_t equalize_step(int64_t pixels, int64_t count_of_highest) { return (pixels - count_of_highest) / 255; }
DP_HD uint8_t equalize_entry(int32_t v, int64_t below, int64_t step) {
  if (step == 0) return static_cast<uint8_t>(v);
  const int64_t to = (below + step / 2) / step;
  return static_cast<uint8_t>(to < 255 ? to : 255);
}

// A whole table; counts [256], `pixels` their sum.
DP_HD void stretch_table(int32_t stretch, const uint32_t* counts, int64_t pixels, uint8_t* table) {
  int32_t lowest = 0, highest = 255;
  while (lowest < 255 && counts[lowest] == 0) ++lowest;
  while (highest > 0 && counts[highest] == 0) --highest;
  if (stretch == static_cast<int32_t>(Stretch::autocontrast)) {
    for (int32_t v = 0; v < 256; ++v) table[v] = autocontrast_entry(v, lowest, highest);
    return;
  }
  const int64_t step = equalize_step(pixels, counts[highest]);
  int64_t below = 0;
  for (int32_t v = 0; v < 256; ++v) {
    table[v] = equalize_entry(v, below, step);
    below += counts[v];
  }
}

// What the values' sum is after the table.
DP_HD uint64_t sum_after(const uint32_t* counts, const uint8_t* table) {
  uint64_t sum = 0;
  for (int32_t v = 0; v < 256; ++v) sum += static_cast<uint64_t>(counts[v]) * table[v];
  return sum;
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
  return static_cast<uint8_t>(static_cast<int32_t>(clamp_byte(((m[0] * r + m[1] * g) + m[2] * b) + constant)));
}

// Turns the hue of (r, g, b), 0..255, by `turns`: torchvision's adjust_hue, to HSV and back in float32.
DP_HD void turn_hue(float turns, uint8_t* rgb) {
  const float unit = 1.0f / 255.0f;
  const float r = rgb[0] * unit, g = rgb[1] * unit, b = rgb[2] * unit;
  const float high = r > g ? (r > b ? r : b) : (g > b ? g : b), low = r < g ? (r < b ? r : b) : (g < b ? g : b);
  const float range = high - low;
  const float s = high == low ? range : range / high, divisor = high == low ? 1.0f : range;
  const float rc = (high - r) / divisor, gc = (high - g) / divisor, bc = (high - b) / divisor;
  float h = high == r ? bc - gc : high == g ? (rc + 2.0f) - bc : (gc + 4.0f) - rc;
  h = h * (1.0f / 6.0f) + 1.0f;
  h = h >= 1.0f ? h - 1.0f : h;
  h = h + turns;
  h = h < 0.0f ? h + 1.0f : h >= 1.0f ? h - 1.0f : h;
  const float h6 = h * 6.0f;
  const int32_t whole = static_cast<int32_t>(h6);
  const float f = h6 - static_cast<float>(whole), sf = s * f, rest = 1.0f - s;
  const float q = (1.0f - sf) * high, t = (sf + rest) * high, p = rest * high;
  const int32_t sector = whole >= 6 ? whole - 6 : whole;
  const float red = sector == 0 || sector == 5 ? high : sector == 1 ? q : sector == 4 ? t : p;
  const float green = sector == 1 || sector == 2 ? high : sector == 0 ? t : sector == 3 ? q : p;
  const float blue = sector == 3 || sector == 4 ? high : sector == 2 ? t : sector == 5 ? q : p;
  rgb[0] = static_cast<uint8_t>(clamp_byte(red * 255.999f));
  rgb[1] = static_cast<uint8_t>(clamp_byte(green * 255.999f));
  rgb[2] = static_cast<uint8_t>(clamp_byte(blue * 255.999f));
}

// A sum of weighted pictures → uint8, truncated as torchvision's AugMix does.
DP_HD uint8_t blend_to_byte(float sum) { return static_cast<uint8_t>(static_cast<int32_t>(clamp_byte(sum))); }

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
DP_HD bool needs_mean(const ImagePass& s) {
  if (!s.colour) return false;
  for (int32_t i = 0; i < 9; ++i) {
    if (s.colour_mean_matrix[i] != 0.0f) return true;
  }
  return false;
}

}  // namespace dalipipe
