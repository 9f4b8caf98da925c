// The filters (../filter.h) on the CPU: a whole uint8 picture in, another out.
#pragma once

#include "../filter.h"
#include "cpu/image_kernels.h"
#include "cpu/separable.h"

namespace dalipipe {

// What a thread keeps between pictures.
struct FilterScratch {
  SumScratch sums;
  Buffer<uint32_t> words;  // random
  Buffer<float> normals;
  Buffer<uint8_t> planes[3], line;  // of a JPEG: Y, Cb, Cr in whole blocks; a row or two on its way
  Buffer<int32_t> strip;            // eight rows of blocks

  // One giant picture must not pin its scratch for good.
  void trim() {
    constexpr int64_t kKeep_bytes = 16 << 20;
    const auto drop = [](auto&... buffers) { ((buffers.bytes() > kKeep_bytes ? buffers.release() : void()), ...); };
    drop(words, normals, planes[0], planes[1], planes[2], line, strip);
    sums.trim(kKeep_bytes);
  }
};

// Does s.filter to the dense picture `in` [s.out_h, s.out_w, channels]; `out` is another of that size, and must not be
// `in`. Either is followed by 64 bytes that may be read or written. `weights`: of all filters.
void filter_picture(const ImagePass& s, const float* weights, int32_t channels, const uint8_t* in, uint8_t* out,
                    FilterScratch& scratch);

// What JPEG of this quality leaves of a picture [height, width, channels].
void jpeg_picture(const FilterKernels& k, int32_t quality, int32_t height, int32_t width, int32_t channels,
                  const uint8_t* in, uint8_t* out, FilterScratch& scratch);

// Throws std::invalid_argument, naming the sample and its pass, where s.filter cannot be done. `weights`: of all
// filters, `weight_count` of them.
void check_filter(const ImagePass& s, const float* weights, int64_t weight_count, int32_t sample, int32_t pass);

}  // namespace dalipipe
