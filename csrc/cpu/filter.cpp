// Which filter, and the pictures of those that go row by row.
#include "cpu/filter.h"

#include <cstring>

namespace dalipipe {
namespace {

constexpr int32_t kChunk = 4096;  // elements of noise made at a time

void sharpen_picture(const FilterKernels& k, const ImagePass& s, int32_t channels, const uint8_t* in, uint8_t* out) {
  const int64_t row = static_cast<int64_t>(s.out_w) * channels;
  if (s.out_h <= 2 || s.out_w <= 2) {
    memcpy(out, in, s.out_h * row);
    return;
  }
  const Sharpen a = make_sharpen(s.filter_values[0]);
  memcpy(out, in, row);
  for (int32_t y = 1; y < s.out_h - 1; ++y) {
    const uint8_t* here = in + y * row;
    k.sharpen(a, here - row, here, here + row, channels, static_cast<int32_t>(row), out + y * row);
  }
  memcpy(out + (s.out_h - 1) * row, in + (s.out_h - 1) * row, row);
}

void neighbours(const FilterKernels& k, const ImagePass& s, const float* weights, int32_t channels, const uint8_t* in,
                uint8_t* out, SumScratch& scratch) {
  const int32_t row = s.out_w * channels;
  const float* mine = weights + s.filter_weights;
  const auto read = [&](int32_t y, float* to) { k.widen(in + static_cast<int64_t>(y) * row, row, to); };
  const auto take = [&](int32_t y, const float* sums) { k.round_even(sums, row, out + static_cast<int64_t>(y) * row); };
  if (s.filter == static_cast<int32_t>(Filter::separable)) {
    separable(k, s.out_h, s.out_w, channels, mine, s.filter_w, mine + s.filter_w, s.filter_h, scratch, read, take);
  } else {
    convolve(k, s.out_h, s.out_w, channels, mine, s.filter_w, s.filter_h, scratch, read, take);
  }
}

// Calls use(first, n, words) for elements first ... first + n - 1 of `total`, chunk by chunk.
template <typename Use>
void with_noise(const FilterKernels& k, const NoiseKey& key, int64_t total, FilterScratch& scratch, const Use& use) {
  uint32_t* words = scratch.words.need(kChunk);
  for (int64_t first = 0; first < total; first += kChunk) {
    const int32_t n = static_cast<int32_t>(std::min<int64_t>(kChunk, total - first));
    k.words(key, static_cast<uint32_t>(first / 4), (n + 3) / 4, words);
    use(first, n, words);
  }
}

void grid_picture(const FilterKernels& k, const ImagePass& s, int32_t channels, const uint8_t* in, uint8_t* out,
                  FilterScratch& scratch) {
  const int64_t row_bytes = static_cast<int64_t>(s.out_w) * channels;
  uint8_t* holes = scratch.line.need(s.out_w + row_bytes);
  uint8_t* coloured = holes + s.out_w;
  for (int64_t e = 0; e < row_bytes; ++e) coloured[e] = round_byte(clamp_byte(s.filter_values[6 + e % channels]));
  memcpy(out, in, s.out_h * row_bytes);
  for (int32_t y = 0; y < s.out_h; ++y) {
    k.grid(s.filter_values, y, s.out_w, holes);
    uint8_t* row = out + y * row_bytes;
    for (int32_t x = 0, end; x < s.out_w; x = end) {  // run by run
      for (end = x + 1; end < s.out_w && holes[end] == holes[x]; ++end) {
      }
      const int64_t first = static_cast<int64_t>(x) * channels, n = static_cast<int64_t>(end - x) * channels;
      if (holes[x]) memcpy(row + first, coloured, n);
    }
  }
}

}  // namespace

const FilterKernels& filter_kernels() {
  const char* target = cpu_target();
  for (const FilterKernels* k : {avx512_filter_kernels(), avx2_filter_kernels()}) {
    if (k != nullptr && strcmp(k->name, target) == 0) return *k;
  }
  return scalar_filter_kernels;
}

void filter_picture(const ImagePass& s, const float* weights, int32_t channels, const uint8_t* in, uint8_t* out,
                    FilterScratch& scratch) {
  const FilterKernels& k = filter_kernels();
  const float* v = s.filter_values;
  const int64_t pixels = static_cast<int64_t>(s.out_h) * s.out_w;
  switch (static_cast<Filter>(s.filter)) {
    case Filter::none: memcpy(out, in, pixels * channels); return;
    case Filter::sharpen: return sharpen_picture(k, s, channels, in, out);
    case Filter::separable:
    case Filter::convolve: return neighbours(k, s, weights, channels, in, out, scratch.sums);
    case Filter::gaussian_noise:
      return with_noise(k, s.noise, pixels * channels, scratch, [&](int64_t first, int32_t n, const uint32_t* words) {
        k.add_noise(in + first, words, n, v[0], v[1], out + first);
      });
    case Filter::salt_pepper:
      return with_noise(k, s.noise, pixels, scratch, [&](int64_t first, int32_t n, const uint32_t* words) {
        k.salt_pepper(in + first * channels, words, channels, n, v[0], v[0] * v[1], out + first * channels);
      });
    case Filter::grid: return grid_picture(k, s, channels, in, out, scratch);
    case Filter::jpeg: return jpeg_picture(k, static_cast<int32_t>(v[0]), s.out_h, s.out_w, channels, in, out, scratch);
  }
}

}  // namespace dalipipe
