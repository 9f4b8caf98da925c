// Mixing on the device. The pairs travel as a kernel's arguments, so nothing is uploaded: a launch takes as many as
// fit.
#include <algorithm>

#include "cuda/check.h"
#include "mix.h"

namespace dalipipe {
namespace {

constexpr int32_t kThreads = 256;
constexpr int32_t kMostPairs = 80;  // a launch; arguments may have 4 KiB

struct MixLaunch {
  MixPair pairs[kMostPairs];
  int32_t count;
  int32_t planar;  // 1: NCHW, 0: NHWC
  int32_t channels, h, w;
  int32_t chunks;  // a sample
  void* batch;
};
static_assert(sizeof(MixLaunch) <= 4096, "a kernel's arguments");

// Neighbouring values that are read and written at once.
template <typename C, int kWide>
struct alignas(sizeof(typename C::type) * kWide) Chunk {
  typename C::type values[kWide];
};

// Of the value at place e of a sample.
__device__ __forceinline__ Mixing mixing_at(const MixLaunch& m, const MixPair& pair, int32_t side, uint32_t e) {
  const uint32_t w = m.w, px = m.planar ? e : e / m.channels, row = px / w;
  return mixing(pair, side, m.planar ? row % m.h : row, px % w);
}

template <typename C, int kWide>
__device__ __forceinline__ void mix_chunk(const MixLaunch& m, const MixPair& pair, uint32_t chunk) {
  const bool boxed = pair.boxes[0][2] > 0 || pair.boxes[1][2] > 0;
  Mixing first[kWide], second[kWide];
  bool changes_first = false, changes_second = false;
#pragma unroll
  for (int i = 0; i < kWide; ++i) {
    first[i] = i == 0 || boxed ? mixing_at(m, pair, 0, chunk * kWide + i) : first[0];
    second[i] = i == 0 || boxed ? mixing_at(m, pair, 1, chunk * kWide + i) : second[0];
    changes_first |= first[i] != Mixing::keep;
    changes_second |= second[i] != Mixing::keep;
  }
  if (!changes_first && !changes_second) return;
  Chunk<C, kWide>* const batch = static_cast<Chunk<C, kWide>*>(m.batch);
  Chunk<C, kWide>& a = batch[static_cast<int64_t>(pair.rows[0]) * m.chunks + chunk];
  Chunk<C, kWide>& b = batch[static_cast<int64_t>(pair.rows[1]) * m.chunks + chunk];
  const Chunk<C, kWide> x = a, y = b;
  Chunk<C, kWide> new_a, new_b;
#pragma unroll
  for (int i = 0; i < kWide; ++i) {
    new_a.values[i] = mixed(C{}, first[i], pair.weights[0], x.values[i], y.values[i]);
    new_b.values[i] = mixed(C{}, second[i], pair.weights[1], y.values[i], x.values[i]);
  }
  if (changes_first) a = new_a;
  if (changes_second) b = new_b;
}

template <typename C, int kWide>
__global__ void __launch_bounds__(kThreads) mix_kernel(const __grid_constant__ MixLaunch m) {
  const int64_t blocks = (int64_t{m.chunks} + kThreads - 1) / kThreads;  // a pair
  for (int64_t task = blockIdx.x; task < blocks * m.count; task += gridDim.x) {
    const int64_t chunk = task % blocks * kThreads + threadIdx.x;
    if (chunk < m.chunks) mix_chunk<C, kWide>(m, m.pairs[task / blocks], static_cast<uint32_t>(chunk));
  }
}

template <typename C, int kWide>
void mix_batch(const MixParams& p, cudaStream_t stream) {
  MixLaunch m{};
  m.planar = p.layout == Layout::nchw;
  m.channels = p.channels;
  m.h = p.h;
  m.w = p.w;
  m.chunks = p.channels * p.h * p.w / kWide;
  m.batch = p.batch;
  for (int32_t begin = 0; begin < p.pair_count; begin += m.count) {
    m.count = std::min(p.pair_count - begin, kMostPairs);
    std::copy(p.pairs + begin, p.pairs + begin + m.count, m.pairs);
    const int64_t blocks = (int64_t{m.chunks} + kThreads - 1) / kThreads;
    launch(mix_kernel<C, kWide>, blocks * m.count, kThreads, stream, m);
  }
}

}  // namespace

void mix_cuda(const MixParams& p, void* stream) {
  check_mix(p);
  with_cast(p.dtype, [&](auto cast) {
    using C = decltype(cast);
    constexpr int64_t kBytes = sizeof(typename C::type);
    const bool aligned = reinterpret_cast<uintptr_t>(p.batch) % 16 == 0 &&
                         static_cast<int64_t>(p.channels) * p.h * p.w * kBytes % 16 == 0;
    const cudaStream_t on = static_cast<cudaStream_t>(stream);
    if (aligned) {
      mix_batch<C, 16 / kBytes>(p, on);
    } else {
      mix_batch<C, 1>(p, on);
    }
  });
}

}  // namespace dalipipe
