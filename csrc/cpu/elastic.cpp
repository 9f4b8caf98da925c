// Elastic displacement on the CPU: noise, blurred row by row as the filters blur.
#include "cpu/filter.h"
#include "cpu/pool.h"

namespace dalipipe {
namespace {

// Displacement in x (axis 0) or y.
void run_axis(const ElasticField& f, int32_t axis, const FilterKernels& k) {
  thread_local FilterScratch scratch;
  const int64_t pixels = static_cast<int64_t>(f.h) * f.w;
  float* out = reinterpret_cast<float*>(f.out) + axis * pixels;
  uint32_t* words = scratch.words.need(f.w + 8);
  const auto noise = [&](int32_t y, float* row) {
    const int64_t first = axis * pixels + static_cast<int64_t>(y) * f.w;
    const int32_t before = static_cast<int32_t>(first % 4);
    k.words(f.noise, static_cast<uint32_t>(first / 4), (before + f.w + 3) / 4, words);
    k.signed_units(words + before, f.w, row);
  };
  const auto scaled = [&](int32_t y, const float* row) {
    float* to = out + static_cast<int64_t>(y) * f.w;
    for (int32_t x = 0; x < f.w; ++x) to[x] = f.scale[axis] * row[x];
  };
  const int32_t taps = f.taps[axis];
  if (taps == 0) {
    float* row = scratch.sums.sums.need(f.w);
    for (int32_t y = 0; y < f.h; ++y) {
      noise(y, row);
      scaled(y, row);
    }
  } else {
    const float* across = reinterpret_cast<const float*>(f.weights) + (axis == 0 ? 0 : 2 * f.taps[0]);
    separable(k, f.h, f.w, 1, across, taps, across + taps, taps, scratch.sums, noise, scaled);
  }
  scratch.trim();
}

}  // namespace

void elastic_cpu(const ElasticField* fields, int32_t n, int32_t threads) {
  check_elastic(fields, n);
  const FilterKernels& k = filter_kernels();
  parallel_for(2 * static_cast<int64_t>(n), threads,
               [&](int64_t i) { run_axis(fields[i / 2], static_cast<int32_t>(i % 2), k); });
}

}  // namespace dalipipe
