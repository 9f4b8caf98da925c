// The portable row loops: pixel.h, spelled out.
#include "cpu/image_kernels.h"

namespace dalipipe {
namespace {

void horizontal(const Taps& taps, const Gather&, int32_t channels, const uint8_t* const* rows, int64_t,
                int16_t* const* pairs) {
  for (int32_t r = 0; r < kBlockRows; ++r) {
    const int16_t* weights = taps.weights.data();
    int16_t* out = pairs[r / 2] + r % 2;
    for (int32_t x = 0; x < taps.count; ++x) {
      const Span at = taps.spans.data()[x];
      for (int32_t c = 0; c < channels; ++c, out += 2) {
        const uint8_t* in = rows[r] + static_cast<int64_t>(at.first) * channels + c;
        int32_t sum = half_unit(taps.precision);
        for (int32_t j = 0; j < at.count; ++j) sum += weights[j] * in[static_cast<int64_t>(j) * channels];
        *out = fixed_to_byte(sum, taps.precision);
      }
      weights += at.count;
    }
  }
}

void vertical(const int16_t* const* pairs, const int16_t* weights, int32_t n, int32_t elements, int32_t precision,
              uint8_t* row) {
  constexpr int32_t kBlock = 256;  // sums that stay in the first cache
  for (int32_t e = 0; e < elements; e += kBlock) {
    const int32_t size = elements - e < kBlock ? elements - e : kBlock;
    int32_t sums[kBlock];
    for (int32_t k = 0; k < size; ++k) sums[k] = half_unit(precision);
    for (int32_t m = 0; m < n; ++m) {
      const int16_t* pair = pairs[m] + 2 * e;
      for (int32_t k = 0; k < size; ++k) sums[k] += weights[2 * m] * pair[2 * k] + weights[2 * m + 1] * pair[2 * k + 1];
    }
    for (int32_t k = 0; k < size; ++k) row[e + k] = fixed_to_byte(sums[k], precision);
  }
}

// Sixteen pixels around p, at (tx, ty) from it.
uint8_t bicubic(const uint8_t* p, int64_t stride, int32_t channels, float tx, float ty) {
  float rows[4];
  for (int32_t r = 0; r < 4; ++r) {
    const uint8_t* at = p + (r - 1) * stride;
    rows[r] = cubic(at[-channels], at[0], at[channels], at[2 * channels], tx);
  }
  return round_byte(clamp_byte(cubic(rows[0], rows[1], rows[2], rows[3], ty)));
}

void warp(const Canvas& canvas, const ImagePass& s, int32_t channels, int32_t y, int32_t from, int32_t width,
          uint8_t* row) {
  const bool nearest = s.warp == static_cast<int32_t>(Warp::nearest);
  const int32_t reach = s.warp == static_cast<int32_t>(Warp::bicubic) ? 2 : 1;
  const bool projective = is_projective(s.matrix);
  const float* moved = reinterpret_cast<const float*>(s.displacement);
  for (int32_t x = from; x < width; ++x) {
    const Point start = displaced(moved, s.out_h, s.out_w, x, y);
    const Point at = warp_point(s.matrix, projective, start.x, start.y);
    uint8_t* out = row + static_cast<int64_t>(x) * channels;
    if (nearest) {
      const int32_t ix = nearest_index(at.x, canvas.width), iy = nearest_index(at.y, canvas.height);
      memcpy(out, canvas.origin + static_cast<int64_t>(iy) * canvas.stride + ix * channels, channels);
      continue;
    }
    const float cx = clamp_index(at.x, canvas.width, reach), cy = clamp_index(at.y, canvas.height, reach);
    const int32_t ix = floor_index(cx), iy = floor_index(cy);
    const float tx = cx - static_cast<float>(ix), ty = cy - static_cast<float>(iy);
    const uint8_t* a = canvas.origin + static_cast<int64_t>(iy) * canvas.stride + ix * channels;
    if (reach == 2) {
      for (int32_t k = 0; k < channels; ++k) out[k] = bicubic(a + k, canvas.stride, channels, tx, ty);
      continue;
    }
    const uint8_t* c = a + canvas.stride;
    for (int32_t k = 0; k < channels; ++k) out[k] = bilinear(a[k], a[k + channels], c[k], c[k + channels], tx, ty);
  }
}

void colour_row(const float* m, const float* constant, int32_t channels, int32_t from, int32_t width, uint8_t* row) {
  for (int32_t x = from; x < width; ++x) {
    uint8_t* px = row + static_cast<int64_t>(x) * channels;
    const float r = px[0], g = px[channels / 2], b = px[channels - 1];  // one channel: all three are it
    for (int32_t c = 0; c < channels; ++c) px[c] = colour(m + 3 * c, constant[c], r, g, b);
  }
}

void hue_row(float turns, int32_t from, int32_t width, uint8_t* row) {
  for (int32_t x = from; x < width; ++x) turn_hue(turns, row + static_cast<int64_t>(x) * 3);
}

void look_up(const uint8_t* table, int32_t channels, int32_t elements, uint8_t* row) {
  if (channels == 1) {
    for (int32_t e = 0; e < elements; ++e) row[e] = table[row[e]];
    return;
  }
  for (int32_t e = 0; e < elements; e += 3) {
    row[e] = table[row[e]];
    row[e + 1] = table[256 + row[e + 1]];
    row[e + 2] = table[512 + row[e + 2]];
  }
}

void mirror(const uint8_t* row, int32_t channels, int32_t width, uint8_t* out) {
  for (int32_t x = 0; x < width; ++x) {
    for (int32_t c = 0; c < channels; ++c) out[(width - 1 - x) * channels + c] = row[x * channels + c];
  }
}

template <typename C>
void finish_as(const FusedImageParams& p, const uint8_t* row, int32_t width, typename C::type* out) {
  const bool planes = p.layout == Layout::nchw;
  const int64_t step = planes ? 1 : p.channels;
  for (int32_t c = 0; c < p.channels; ++c) {
    typename C::type* to = out + (planes ? c * static_cast<int64_t>(p.out_h) * p.out_w : c);
    for (int32_t x = 0; x < width; ++x) {
      to[x * step] = C::from(normalise(row[static_cast<int64_t>(x) * p.channels + c], p.scale[c], p.bias[c]));
    }
  }
}

void finish(const Finish& f, const uint8_t* row, int32_t width, void* out) {
  with_cast(f.p.dtype, [&](auto cast) {
    using C = decltype(cast);
    finish_as<C>(f.p, row, width, static_cast<typename C::type*>(out));
  });
}

}  // namespace

const ImageKernels scalar_kernels = {"scalar",   0,       0,       horizontal, vertical, warp,
                                     colour_row, hue_row, look_up, mirror,     finish,   nullptr};

}  // namespace dalipipe
