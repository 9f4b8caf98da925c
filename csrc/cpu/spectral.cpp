// The spectral steps on the CPU: a thread takes a row at a time.
#include "../spectral.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "cpu/filter_kernels.h"
#include "cpu/pool.h"
#include "cpu/spectral_kernels.h"

namespace dalipipe {
namespace {

const SpectralKernels& spectral_kernels() {
  const char* target = cpu_target();
  for (const SpectralKernels* k : {avx512_spectral_kernels(), avx2_spectral_kernels()}) {
    if (k != nullptr && strcmp(k->name, target) == 0) return *k;
  }
  return scalar_spectral_kernels;
}

// Memory of a thread's, used again.
float* scratch(size_t floats) {
  thread_local std::vector<float> memory;
  if (memory.size() < floats) memory.resize(floats);
  return memory.data();
}

void cut(const SpectralParams& p, const SpectralRow& r, const SpectralKernels& k) {
  const FrameEdge edge = static_cast<FrameEdge>(p.edge);
  float* out = p.target + r.analysed_at * p.n_fft;
  float* gathered = scratch(p.n_fft);
  for (int32_t slot = 0; slot < r.analysed; ++slot, out += p.n_fft) {
    const int64_t frame = analysed_frame(r, slot), begin = frame * r.hop - p.lead;
    if (!has_frame(r, p.n_fft, p.lead, frame)) {
      std::fill_n(out, p.n_fft, 0.0f);
      continue;
    }
    const float* in = reinterpret_cast<const float*>(r.in) + begin;
    if (begin < 0 || begin + p.n_fft > r.in_frames || r.in_step != 1) {
      for (int32_t i = 0; i < p.n_fft; ++i) gathered[i] = frame_element(r, edge, begin + i);
      in = gathered;
    }
    k.window(in, p.window, p.n_fft, out);
  }
}

void vocode(const SpectralParams& p, const SpectralRow& r, const SpectralKernels& k) {
  const int32_t bins = p.n_fft / 2 + 1;
  struct Frame {
    int64_t slot;
    float *magnitude, *re, *im;
  };
  float* memory = scratch(static_cast<size_t>(8) * bins);
  Frame here{-1, memory, memory + bins, memory + 2 * bins};
  Frame next{-1, memory + 3 * bins, memory + 4 * bins, memory + 5 * bins};
  float *re = memory + 6 * bins, *im = memory + 7 * bins;
  const auto look_at = [&](Frame& frame, int64_t slot) {
    if (frame.slot == slot) return;
    frame.slot = slot;
    if (slot < r.analysed) {
      k.polars(p.source + 2 * (r.analysed_at + slot) * bins, bins, frame.magnitude, frame.re, frame.im);
    } else {
      std::fill_n(frame.magnitude, bins, 0.0f);
      std::fill_n(frame.re, bins, 1.0f);
      std::fill_n(frame.im, bins, 0.0f);
    }
  };
  for (int32_t t = 0; t < r.made; ++t) {
    const Between by = made_between(r, t);
    if (next.slot == by.slot) std::swap(here, next);
    look_at(here, by.slot);
    look_at(next, by.slot + 1);
    if (t == 0) {
      std::copy_n(here.re, bins, re);
      std::copy_n(here.im, bins, im);
    }
    k.phasors(here.magnitude, next.magnitude, by, re, im, bins, p.target + 2 * (r.made_at + t) * bins);
    k.turn(here.re, here.im, next.re, next.im, bins, re, im);
  }
}

void overlap(const SpectralParams& p, const SpectralRow& r, const SpectralKernels& k) {
  const int32_t frames = p.target == nullptr ? r.out_frames : r.stretched_frames;
  float* out = p.target == nullptr ? reinterpret_cast<float*>(r.out) : p.target + r.stretched_at;
  float* sums = scratch(static_cast<size_t>(2) * frames);
  float* windows = sums + frames;
  std::fill_n(sums, static_cast<size_t>(2) * frames, 0.0f);
  for (int32_t t = 0; t < r.made; ++t) {
    const int64_t at = static_cast<int64_t>(t) * r.hop - p.lead, first = std::max<int64_t>(at, 0);
    const int64_t n = std::min<int64_t>(at + p.n_fft, frames) - first;
    if (n <= 0) continue;
    const float* frame = p.source + (r.made_at + t) * p.n_fft;
    k.overlap(frame + (first - at), p.window + (first - at), static_cast<int32_t>(n), sums + first, windows + first);
  }
  k.overlapped(sums, windows, frames, out);
}

void resample(const SpectralParams& p, const SpectralRow& r, const SpectralKernels& k) {
  const bool stored = p.source == nullptr;
  const int64_t n = stored ? r.in_frames : r.stretched_frames, step = stored ? r.in_step : 1;
  const float* in = stored ? reinterpret_cast<const float*>(r.in) : p.source + r.stretched_at;
  float* padded = scratch(n + 3 * r.taps);  // zeros a tap's reach before, twice after
  std::fill_n(padded, r.taps, 0.0f);
  if (step == 1) {
    std::copy_n(in, n, padded + r.taps);
  } else {
    for (int64_t i = 0; i < n; ++i) padded[r.taps + i] = in[i * step];
  }
  std::fill_n(padded + r.taps + n, 2 * r.taps, 0.0f);
  // At least those whose taps reach the signal; past them there is nothing.
  const double reached = static_cast<double>(n + r.taps / 2) / r.step;
  const int32_t count = reached < r.out_frames ? static_cast<int32_t>(reached) + 1 : r.out_frames;
  float* out = reinterpret_cast<float*>(r.out);
  k.resample(padded + r.taps, r.step, p.tables + r.table, r.taps, 0, count, out);
  std::fill_n(out + count, r.out_frames - count, 0.0f);
}

void mel(const SpectralParams& p, const SpectralRow& r, const SpectralKernels& k) {
  const int32_t bins = p.n_fft / 2 + 1;
  float* power = scratch(static_cast<size_t>(2 * kMelFrames) * bins);
  float* turned = power + static_cast<size_t>(kMelFrames) * bins;  // [bins, kMelFrames]
  std::fill_n(power, static_cast<size_t>(kMelFrames) * bins, 0.0f);
  float* out = reinterpret_cast<float*>(r.out);
  for (int32_t t = 0; t < r.analysed; t += kMelFrames) {
    const int32_t n = std::min(kMelFrames, r.analysed - t);
    k.powers(p.source + 2 * (r.analysed_at + t) * bins, n * bins, p.squared, power);
    for (int32_t f = 0; f < bins; ++f) {
      for (int32_t l = 0; l < kMelFrames; ++l) turned[f * kMelFrames + l] = power[l * bins + f];
    }
    for (int32_t b = 0; b < p.band_count; ++b) {
      const MelBand& band = p.bands[b];
      float values[kMelFrames];
      k.mel(turned + band.first * kMelFrames, p.tables + band.weights, band.count, static_cast<MelLog>(p.log), values);
      std::copy_n(values, n, out + static_cast<int64_t>(b) * r.analysed + t);
    }
  }
}

void clamp(const SpectralParams& p, const SpectralRow& r) {
  float* out = reinterpret_cast<float*>(r.out);
  const float least = *std::max_element(out, out + r.out_frames) - p.top_db;
  for (int32_t i = 0; i < r.out_frames; ++i) out[i] = out[i] > least ? out[i] : least;
}

void mix(const SpectralParams& p, const SpectralRow& r, const SpectralKernels& k) {
  const int64_t frames = r.in_frames;
  const float* in = reinterpret_cast<const float*>(r.in);
  float* out = reinterpret_cast<float*>(r.out);
  for (int32_t o = 0; o < p.mixes; ++o, out += frames) {
    std::fill_n(out, frames, 0.0f);
    for (int32_t i = 0; i < p.mixed; ++i) {
      k.add_times(in + i * frames, p.tables[static_cast<int64_t>(o) * p.mixed + i], r.in_frames, out);
    }
  }
}

void white(const SpectralParams& p, const SpectralRow& r) {
  constexpr int32_t kBlock = 1024;
  const FilterKernels& k = filter_kernels();
  uint32_t words[kBlock];
  float* out = p.target + r.made_at * p.n_fft;
  for (int32_t e = 0; e < p.n_fft; e += kBlock) {
    const int32_t n = std::min(kBlock, p.n_fft - e);
    k.words(r.key, static_cast<uint32_t>(e / 4), n / 4, words);
    k.normals(words, n, out + e);
  }
}

void level(const SpectralParams& p, const SpectralRow& r, const SpectralKernels& k) {
  const float* in = p.source + r.made_at * p.n_fft;
  double lanes[kSumLanes] = {};
  for (int32_t e = 0; e < r.out_frames; ++e) lanes[e % kSumLanes] += static_cast<double>(in[e]) * in[e];
  for (int32_t half = kSumLanes / 2; half > 0; half /= 2) {
    for (int32_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  }
  float* out = reinterpret_cast<float*>(r.out);
  std::fill_n(out, r.out_frames, 0.0f);
  k.add_times(in, unit_rms(lanes[0], r.out_frames), r.out_frames, out);
}

void run(SpectralStep step, const SpectralParams& p, const SpectralRow& r, const SpectralKernels& k) {
  switch (step) {
    case SpectralStep::cut: return cut(p, r, k);
    case SpectralStep::vocode: return vocode(p, r, k);
    case SpectralStep::overlap: return overlap(p, r, k);
    case SpectralStep::resample: return resample(p, r, k);
    case SpectralStep::mel: return mel(p, r, k);
    case SpectralStep::clamp: return clamp(p, r);
    case SpectralStep::mix: return mix(p, r, k);
    case SpectralStep::white: return white(p, r);
    case SpectralStep::colour:
      return k.colour(r.exponent, p.n_fft / 2 + 1, p.target + 2 * r.made_at * (p.n_fft / 2 + 1));
    case SpectralStep::level: return level(p, r, k);
  }
}

}  // namespace

void spectral_cpu(SpectralStep step, const SpectralParams& p, int32_t threads) {
  check_spectral(step, p);
  const SpectralKernels& k = spectral_kernels();
  parallel_for(p.n, threads, [&](int64_t i) { run(step, p, p.rows[i], k); });
}

}  // namespace dalipipe
