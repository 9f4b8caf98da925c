// The spectral steps on the device. Rows differ in size: each step has as many blocks a row as its largest row needs.
#include <algorithm>

#include "cuda/check.h"
#include "spectral.h"

namespace dalipipe {
namespace {

constexpr int32_t kThreads = 128;

// What a kernel gets: all of it device memory.
struct SpectralLaunch {
  SpectralParams p;
  int64_t blocks;  // a row
};

__device__ __forceinline__ const SpectralRow& row_of(const SpectralLaunch& a, int64_t task) {
  return a.p.device_rows[task / a.blocks];
}

// Of the row's elements, this thread's.
__device__ __forceinline__ int64_t element_of(const SpectralLaunch& a, int64_t task) {
  return task % a.blocks * kThreads + threadIdx.x;
}

__global__ void __launch_bounds__(kThreads) cut_kernel(const __grid_constant__ SpectralLaunch a) {
  const SpectralParams& p = a.p;
  for (int64_t task = blockIdx.x; task < a.blocks * p.n; task += gridDim.x) {
    const SpectralRow& r = row_of(a, task);
    const int64_t e = element_of(a, task), slot = e / p.n_fft, i = e % p.n_fft;
    if (slot >= r.analysed) continue;
    const int64_t frame = analysed_frame(r, slot);
    float value = 0.0f;
    if (has_frame(r, p.n_fft, p.lead, frame)) {
      value = frame_element(r, static_cast<FrameEdge>(p.edge), frame * r.hop - p.lead + i) * p.window[i];
    }
    p.target[(r.analysed_at + slot) * p.n_fft + i] = value;
  }
}

// A thread per bin, frame after frame.
__global__ void __launch_bounds__(kThreads) vocode_kernel(const __grid_constant__ SpectralLaunch a) {
  const SpectralParams& p = a.p;
  const int32_t bins = p.n_fft / 2 + 1;
  for (int64_t task = blockIdx.x; task < a.blocks * p.n; task += gridDim.x) {
    const SpectralRow& r = row_of(a, task);
    const int64_t bin = element_of(a, task);
    if (bin >= bins) continue;
    const auto look_at = [&](int64_t slot) -> Polar {
      if (slot >= r.analysed) return {0.0f, 1.0f, 0.0f};
      const float* complex = p.source + 2 * ((r.analysed_at + slot) * bins + bin);
      return polar(complex[0], complex[1]);
    };
    Phase phase{1.0f, 0.0f};
    for (int32_t t = 0; t < r.made; ++t) {
      const Between by = made_between(r, t);
      const Polar here = look_at(by.slot), next = look_at(by.slot + 1);
      if (t == 0) phase = {here.re, here.im};
      const float magnitude = by.before * here.magnitude + by.after * next.magnitude;
      float* complex = p.target + 2 * ((r.made_at + t) * bins + bin);
      complex[0] = magnitude * phase.re;
      complex[1] = magnitude * phase.im;
      phase = turned(phase, here.re, here.im, next.re, next.im);
    }
  }
}

// A thread per element, which gathers the frames over it.
__global__ void __launch_bounds__(kThreads) overlap_kernel(const __grid_constant__ SpectralLaunch a) {
  const SpectralParams& p = a.p;
  for (int64_t task = blockIdx.x; task < a.blocks * p.n; task += gridDim.x) {
    const SpectralRow& r = row_of(a, task);
    const int64_t e = element_of(a, task);
    if (e >= (p.target == nullptr ? r.out_frames : r.stretched_frames)) continue;
    const int64_t at = e + p.lead, before = at - p.n_fft;  // frames begin after `before`, up to `at`
    const int64_t first = before < 0 ? 0 : before / r.hop + 1, last = at / r.hop;
    float sum = 0.0f, windows = 0.0f;
    for (int64_t t = first; t <= last && t < r.made; ++t) {
      const int64_t i = at - t * r.hop;
      const float window = p.window[i];
      sum += p.source[(r.made_at + t) * p.n_fft + i] * window;
      windows += window * window;
    }
    float* out = p.target == nullptr ? reinterpret_cast<float*>(r.out) : p.target + r.stretched_at;
    out[e] = overlapped(sum, windows);
  }
}

__global__ void __launch_bounds__(kThreads, 5) resample_kernel(const __grid_constant__ SpectralLaunch a) {
  const SpectralParams& p = a.p;
  for (int64_t task = blockIdx.x; task < a.blocks * p.n; task += gridDim.x) {
    const SpectralRow& r = row_of(a, task);
    const int64_t e = element_of(a, task);
    if (e >= r.out_frames) continue;
    const bool stored = p.source == nullptr;
    const uint32_t n = stored ? r.in_frames : r.stretched_frames;
    const int64_t step = stored ? r.in_step : 1;
    const float* in = stored ? reinterpret_cast<const float*>(r.in) : p.source + r.stretched_at;
    const Tap tap = tap_at(r.step, e);
    const float* here = p.tables + r.table + static_cast<int64_t>(tap.phase) * r.taps;
    const float* next = here + r.taps;
    const int32_t begin = static_cast<int32_t>(tap.frame) - (r.taps / 2 - 1);
    float at[kTapLanes] = {}, after[kTapLanes] = {};
#pragma unroll 1
    for (int32_t k = 0; k < r.taps; k += kTapLanes) {
#pragma unroll
      for (int32_t l = 0; l < kTapLanes; ++l) {
        const uint32_t from = begin + k + l;  // before the signal: past its end
        const float v = from < n ? in[from * step] : 0.0f;
        at[l] += v * here[k + l];
        after[l] += v * next[k + l];
      }
    }
#pragma unroll
    for (int32_t l = 0; l < kTapLanes; ++l) at[l] = at[l] + tap.after * (after[l] - at[l]);
    reinterpret_cast<float*>(r.out)[e] = lane_sum(at);
  }
}

// A thread per band and frame; neighbours make neighbouring bands of a frame.
__global__ void __launch_bounds__(kThreads) mel_kernel(const __grid_constant__ SpectralLaunch a) {
  const SpectralParams& p = a.p;
  const int32_t bins = p.n_fft / 2 + 1;
  for (int64_t task = blockIdx.x; task < a.blocks * p.n; task += gridDim.x) {
    const SpectralRow& r = row_of(a, task);
    const int64_t e = element_of(a, task), t = e / p.band_count, b = e % p.band_count;
    if (t >= r.analysed) continue;
    const MelBand band = p.device_bands[b];
    const float* weights = p.tables + band.weights;
    const float* complex = p.source + 2 * ((r.analysed_at + t) * bins + band.first);
    float sum = 0.0f;
    for (int32_t k = 0; k < band.count; ++k) {
      sum += weights[k] * squared_of(complex[2 * k], complex[2 * k + 1], p.squared);
    }
    reinterpret_cast<float*>(r.out)[b * r.analysed + t] = mel_log(sum, static_cast<MelLog>(p.log));
  }
}

// A block per row, in two goes.
__global__ void __launch_bounds__(kThreads) clamp_kernel(const __grid_constant__ SpectralLaunch a) {
  __shared__ float most[kThreads];
  for (int64_t task = blockIdx.x; task < a.p.n; task += gridDim.x) {
    const SpectralRow& r = a.p.device_rows[task];
    float* out = reinterpret_cast<float*>(r.out);
    float mine = out[0];
    for (int32_t i = threadIdx.x; i < r.out_frames; i += kThreads) mine = out[i] > mine ? out[i] : mine;
    most[threadIdx.x] = mine;
    __syncthreads();
    for (int32_t half = kThreads / 2; half > 0; half /= 2) {
      if (static_cast<int32_t>(threadIdx.x) < half && most[threadIdx.x + half] > most[threadIdx.x]) {
        most[threadIdx.x] = most[threadIdx.x + half];
      }
      __syncthreads();
    }
    const float least = most[0] - a.p.top_db;
    for (int32_t i = threadIdx.x; i < r.out_frames; i += kThreads) out[i] = out[i] > least ? out[i] : least;
    __syncthreads();
  }
}

__global__ void __launch_bounds__(kThreads) mix_kernel(const __grid_constant__ SpectralLaunch a) {
  const SpectralParams& p = a.p;
  for (int64_t task = blockIdx.x; task < a.blocks * p.n; task += gridDim.x) {
    const SpectralRow& r = row_of(a, task);
    const int64_t e = element_of(a, task), o = e / r.in_frames, t = e % r.in_frames;
    if (o >= p.mixes) continue;
    const float* in = reinterpret_cast<const float*>(r.in) + t;
    float sum = 0.0f;
    for (int32_t i = 0; i < p.mixed; ++i) sum += p.tables[o * p.mixed + i] * in[static_cast<int64_t>(i) * r.in_frames];
    reinterpret_cast<float*>(r.out)[e] = sum;
  }
}

// A thread per four elements.
__global__ void __launch_bounds__(kThreads) white_kernel(const __grid_constant__ SpectralLaunch a) {
  const SpectralParams& p = a.p;
  for (int64_t task = blockIdx.x; task < a.blocks * p.n; task += gridDim.x) {
    const SpectralRow& r = row_of(a, task);
    const int64_t block = element_of(a, task);
    if (4 * block >= p.n_fft) continue;
    const Philox4 words = noise_block(r.key, static_cast<uint32_t>(block));
    float* out = p.target + r.made_at * p.n_fft + 4 * block;
#pragma unroll
    for (int32_t i = 0; i < 4; ++i) out[i] = normal(words.word[i]);
  }
}

__global__ void __launch_bounds__(kThreads) colour_kernel(const __grid_constant__ SpectralLaunch a) {
  const SpectralParams& p = a.p;
  const int32_t bins = p.n_fft / 2 + 1;
  for (int64_t task = blockIdx.x; task < a.blocks * p.n; task += gridDim.x) {
    const SpectralRow& r = row_of(a, task);
    const int64_t bin = element_of(a, task);
    if (bin >= bins) continue;
    const float gain = colour_gain(bin, r.exponent);
    float* complex = p.target + 2 * (r.made_at * bins + bin);
    complex[0] *= gain;
    complex[1] *= gain;
  }
}

// A block per row.
__global__ void __launch_bounds__(kThreads) level_kernel(const __grid_constant__ SpectralLaunch a) {
  __shared__ double lanes[kSumLanes];
  for (int64_t task = blockIdx.x; task < a.p.n; task += gridDim.x) {
    const SpectralRow& r = a.p.device_rows[task];
    const float* in = a.p.source + r.made_at * a.p.n_fft;
    const int32_t lane = threadIdx.x;
    if (lane < kSumLanes) {
      double sum = 0.0;
      for (int32_t e = lane; e < r.out_frames; e += kSumLanes) sum += static_cast<double>(in[e]) * in[e];
      lanes[lane] = sum;
    }
    __syncthreads();
    for (int32_t half = kSumLanes / 2; half > 0; half /= 2) {
      if (lane < half) lanes[lane] += lanes[lane + half];
      __syncthreads();
    }
    const float scale = unit_rms(lanes[0], r.out_frames);
    float* out = reinterpret_cast<float*>(r.out);
    for (int32_t e = lane; e < r.out_frames; e += kThreads) out[e] = 0.0f + scale * in[e];
    __syncthreads();
  }
}

// Elements of a row, a thread each.
int64_t elements(SpectralStep step, const SpectralParams& p, const SpectralRow& r) {
  switch (step) {
    case SpectralStep::cut: return static_cast<int64_t>(r.analysed) * p.n_fft;
    case SpectralStep::vocode:
    case SpectralStep::colour: return p.n_fft / 2 + 1;
    case SpectralStep::overlap: return p.target == nullptr ? r.out_frames : r.stretched_frames;
    case SpectralStep::resample: return r.out_frames;
    case SpectralStep::mel: return static_cast<int64_t>(r.analysed) * p.band_count;
    case SpectralStep::mix: return static_cast<int64_t>(r.in_frames) * p.mixes;
    case SpectralStep::white: return p.n_fft / 4;
    case SpectralStep::clamp:
    case SpectralStep::level: return kThreads;
  }
  return 0;
}

}  // namespace

void spectral_cuda(SpectralStep step, const SpectralParams& p, void* stream) {
  check_spectral(step, p);
  if (p.n == 0) return;
  if (p.device_rows == nullptr || (step == SpectralStep::mel && p.device_bands == nullptr)) {
    throw std::invalid_argument("spectral: rows and bands must also lie on the device");
  }
  SpectralLaunch a{p, 0};
  for (int32_t i = 0; i < p.n; ++i) {
    a.blocks = std::max(a.blocks, (elements(step, p, p.rows[i]) + kThreads - 1) / kThreads);
  }
  constexpr void (*kKernels[kSpectralSteps])(SpectralLaunch) = {
      cut_kernel,   vocode_kernel, overlap_kernel, resample_kernel, mel_kernel,
      clamp_kernel, mix_kernel,    white_kernel,   colour_kernel,   level_kernel};
  launch(kKernels[static_cast<int32_t>(step)], a.blocks * p.n, kThreads, static_cast<cudaStream_t>(stream), a);
}

}  // namespace dalipipe
