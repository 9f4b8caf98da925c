// The loops over a JPEG's samples for any processor, and which set of them is in use.
#include <cstring>

#include "jpeg/samples.h"
#include "ops.h"

namespace dalipipe {
namespace {

void idct(int16_t* levels, const int16_t* quantisers, uint8_t* out, int64_t stride) {
  int32_t block[64];
  for (int32_t k = 0; k < 64; ++k) block[k] = jpeg_dequantised(levels[k], quantisers[k]);
  std::memset(levels, 0, 64 * sizeof levels[0]);
  for (int32_t x = 0; x < 8; ++x) {
    int32_t v[8];
    for (int32_t k = 0; k < 8; ++k) v[k] = block[8 * k + x];
    jpeg_idct_column(v);
    for (int32_t k = 0; k < 8; ++k) block[8 * k + x] = jpeg_16_bits(v[k]);
  }
  for (int32_t y = 0; y < 8; ++y) {
    int32_t v[8];
    for (int32_t k = 0; k < 8; ++k) v[k] = block[8 * y + k];
    jpeg_idct_row(v);
    for (int32_t k = 0; k < 8; ++k) out[y * stride + k] = jpeg_sample(v[k]);
  }
}

void double_across(const uint8_t* row, int32_t width, uint8_t* out) {
  for (int32_t x = 0; x < width; ++x) {
    out[2 * x] = static_cast<uint8_t>(jpeg_double(row[x], row[x > 0 ? x - 1 : 0], 0));
    out[2 * x + 1] = static_cast<uint8_t>(jpeg_double(row[x], row[x + 1 < width ? x + 1 : x], 1));
  }
}

void double_down(const uint8_t* near, const uint8_t* far, int32_t width, int32_t y, uint8_t* out) {
  for (int32_t x = 0; x < width; ++x) out[x] = static_cast<uint8_t>(jpeg_double(near[x], far[x], y));
}

void double_both(const uint8_t* near, const uint8_t* far, int32_t width, uint16_t* sums, uint8_t* out) {
  for (int32_t x = 0; x < width; ++x) sums[x + 1] = static_cast<uint16_t>(jpeg_double_down(near[x], far[x]));
  sums[0] = sums[1];
  sums[width + 1] = sums[width];
  for (int32_t x = 0; x < width; ++x) {
    out[2 * x] = static_cast<uint8_t>(jpeg_double_across(sums[x + 1], sums[x], 0));
    out[2 * x + 1] = static_cast<uint8_t>(jpeg_double_across(sums[x + 1], sums[x + 2], 1));
  }
}

void to_rgb(const uint8_t* y, const uint8_t* cb, const uint8_t* cr, int32_t width, uint8_t* rgb) {
  for (int32_t x = 0; x < width; ++x) {
    rgb[3 * x] = jpeg_r(y[x], cr[x]);
    rgb[3 * x + 1] = jpeg_g(y[x], cb[x], cr[x]);
    rgb[3 * x + 2] = jpeg_b(y[x], cb[x]);
  }
}

}  // namespace

const JpegKernels scalar_jpeg_kernels = {"scalar", idct, double_across, double_down, double_both, to_rgb};

const JpegKernels& jpeg_kernels() {
  // Wider registers than AVX2's would hold more than a block.
  const JpegKernels* vectors = std::strcmp(cpu_target(), "scalar") == 0 ? nullptr : avx2_jpeg_kernels();
  return vectors ? *vectors : scalar_jpeg_kernels;
}

}  // namespace dalipipe
