// A picture through JPEG and back, without the code in between.
#include <algorithm>
#include <cstring>

#include "cpu/filter.h"

namespace dalipipe {
namespace {

// A plane in whole blocks; `height` and `width` of it count.
struct Plane {
  int32_t height, width, stride, rows;
  uint8_t* data;

  Plane(int32_t h, int32_t w, Buffer<uint8_t>& buffer)
      : height(h),
        width(w),
        stride(static_cast<int32_t>(round_up(w, kJpegBlock))),
        rows(static_cast<int32_t>(round_up(h, kJpegBlock))),
        data(buffer.need(static_cast<int64_t>(stride) * rows)) {}
  uint8_t* row(int32_t y) const { return data + static_cast<int64_t>(y) * stride; }
};

void repeat_last(uint8_t* row, int32_t width, int32_t to) { std::fill(row + width, row + to, row[width - 1]); }

// Repeats the last row down to whole blocks; then all blocks through transform and quantisers.
void requantise(const FilterKernels& k, const Plane& plane, int32_t quality, bool chroma, Buffer<int32_t>& strip) {
  for (int32_t y = plane.height; y < plane.rows; ++y) memcpy(plane.row(y), plane.row(y - 1), plane.stride);
  int32_t quantisers[64];
  for (int32_t i = 0; i < 64; ++i) quantisers[i] = jpeg_quantiser(quality, i, chroma);
  int32_t* room = strip.need(8 * static_cast<int64_t>(plane.stride));
  for (int32_t y = 0; y < plane.rows; y += kJpegBlock) {
    k.requantise(plane.row(y), plane.stride, plane.stride, quantisers, room);
  }
}

void grey(const FilterKernels& k, int32_t quality, const Plane& plane, const uint8_t* in, uint8_t* out,
          FilterScratch& scratch) {
  const int64_t width = plane.width;
  for (int32_t y = 0; y < plane.height; ++y) {
    memcpy(plane.row(y), in + y * width, width);
    repeat_last(plane.row(y), plane.width, plane.stride);
  }
  requantise(k, plane, quality, false, scratch.strip);
  for (int32_t y = 0; y < plane.height; ++y) memcpy(out + y * width, plane.row(y), width);
}

}  // namespace

void jpeg_picture(const FilterKernels& k, int32_t quality, int32_t height, int32_t width, int32_t channels,
                  const uint8_t* in, uint8_t* out, FilterScratch& scratch) {
  const Plane luma(height, width, scratch.planes[0]);
  if (channels == 1) return grey(k, quality, luma, in, out, scratch);
  const Plane blue((height + 1) / 2, (width + 1) / 2, scratch.planes[1]);
  const Plane red(blue.height, blue.width, scratch.planes[2]);

  const int32_t whole = 2 * blue.stride;  // px of chroma before it is halved
  uint8_t* const line = scratch.line.need(4 * static_cast<int64_t>(whole));
  uint8_t* const lines[4] = {line, line + whole, line + 2 * whole, line + 3 * whole};  // upper Cb, Cr, lower Cb, Cr
  const int64_t row_bytes = static_cast<int64_t>(width) * 3;
  for (int32_t y = 0; y < blue.height; ++y) {
    for (int32_t i = 0; i < 2; ++i) {
      const int32_t at = std::min(2 * y + i, height - 1);
      k.to_ycc(in + at * row_bytes, width, luma.row(at), lines[2 * i], lines[2 * i + 1]);
      repeat_last(luma.row(at), width, luma.stride);
      repeat_last(lines[2 * i], width, whole);
      repeat_last(lines[2 * i + 1], width, whole);
    }
    k.halve(lines[0], lines[2], blue.stride, blue.row(y));
    k.halve(lines[1], lines[3], red.stride, red.row(y));
  }

  requantise(k, luma, quality, false, scratch.strip);
  requantise(k, blue, quality, true, scratch.strip);
  requantise(k, red, quality, true, scratch.strip);

  int32_t* sums = scratch.strip.need(blue.width + 2);
  for (int32_t y = 0; y < height; ++y) {
    const int32_t far = std::clamp(y & 1 ? y / 2 + 1 : y / 2 - 1, 0, blue.height - 1);
    for (int32_t c = 0; c < 2; ++c) {
      const Plane& plane = c == 0 ? blue : red;
      const uint8_t* near = plane.row(y / 2);
      if (plane.width <= kJpegPlainWidth) {
        for (int32_t x = 0; x < width; ++x) lines[c][x] = near[x / 2];
      } else {
        k.twice(near, plane.row(far), plane.width, sums, lines[c]);
      }
    }
    k.to_rgb(luma.row(y), lines[0], lines[1], width, out + y * row_bytes);
  }
}

}  // namespace dalipipe
