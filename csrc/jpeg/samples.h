// The loops over samples that reading a JPEG takes, one set per instruction set, all over the formulas of jpeg.h and
// with the same bits.
#pragma once

#include <cstdint>

#include "jpeg.h"

namespace dalipipe {

constexpr int32_t kJpegPadding = 32;  // elements that loops may read and write past the end of their rows

struct JpegKernels {
  const char* name;

  // 64 levels times quantisers, 8 * row + column, aligned to 32 bytes → 8 rows of 8 samples, `stride` apart. Leaves
  // the levels zero.
  void (*idct)(int16_t* levels, const int16_t* quantisers, uint8_t* out, int64_t stride);
  // A row of `width` chroma samples → one of twice as many; the samples beyond either end are the last before it.
  void (*double_across)(const uint8_t* row, int32_t width, uint8_t* out);
  // A row and its neighbour above (`y` even) or below → another of `width`.
  void (*double_down)(const uint8_t* near, const uint8_t* far, int32_t width, int32_t y, uint8_t* out);
  // Both; of the sums between them there is room for width + 2.
  void (*double_both)(const uint8_t* near, const uint8_t* far, int32_t width, uint16_t* sums, uint8_t* out);
  void (*to_rgb)(const uint8_t* y, const uint8_t* cb, const uint8_t* cr, int32_t width, uint8_t* rgb);
};

extern const JpegKernels scalar_jpeg_kernels;
const JpegKernels* avx2_jpeg_kernels();  // null: not built for, or not on this machine

// Those of cpu_target().
const JpegKernels& jpeg_kernels();

}  // namespace dalipipe
