// The loops of SpectralKernels. A target's .cpp defines DP_TARGET (attributes) and kVectorBytes (of a register) and
// includes this in its anonymous namespace.

DP_TARGET void window(const float* __restrict in, const float* __restrict window, int32_t n, float* __restrict out) {
  for (int32_t i = 0; i < n; ++i) out[i] = in[i] * window[i];
}

DP_TARGET void polars(const float* __restrict complex, int32_t n, float* __restrict magnitude, float* __restrict re,
                      float* __restrict im) {
  for (int32_t i = 0; i < n; ++i) {
    const Polar p = polar(complex[2 * i], complex[2 * i + 1]);
    magnitude[i] = p.magnitude;
    re[i] = p.re;
    im[i] = p.im;
  }
}

DP_TARGET void phasors(const float* __restrict before, const float* __restrict after, const Between& by,
                       const float* __restrict re, const float* __restrict im, int32_t n, float* __restrict complex) {
  const Between b = by;
  for (int32_t i = 0; i < n; ++i) {
    const float magnitude = b.before * before[i] + b.after * after[i];
    complex[2 * i] = magnitude * re[i];
    complex[2 * i + 1] = magnitude * im[i];
  }
}

DP_TARGET void turn(const float* __restrict from_re, const float* __restrict from_im, const float* __restrict to_re,
                    const float* __restrict to_im, int32_t n, float* __restrict re, float* __restrict im) {
  for (int32_t i = 0; i < n; ++i) {
    const Phase p = turned({re[i], im[i]}, from_re[i], from_im[i], to_re[i], to_im[i]);
    re[i] = p.re;
    im[i] = p.im;
  }
}

DP_TARGET void overlap(const float* __restrict frame, const float* __restrict window, int32_t n, float* __restrict sums,
                       float* __restrict windows) {
  for (int32_t i = 0; i < n; ++i) {
    sums[i] += frame[i] * window[i];
    windows[i] += window[i] * window[i];
  }
}

DP_TARGET void all_overlapped(const float* __restrict sums, const float* __restrict windows, int32_t n,
                              float* __restrict out) {
  for (int32_t i = 0; i < n; ++i) out[i] = overlapped(sums[i], windows[i]);
}

// A register of floats, anywhere in memory.
typedef float Lanes __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));

DP_TARGET void resample(const float* __restrict in, double step, const float* __restrict table, int32_t taps,
                        int64_t first, int32_t count, float* __restrict out) {
  constexpr int32_t kBlock = 16, kRegisters = 4 * kTapLanes / kVectorBytes;
  int32_t frame[kBlock], row[kBlock];
  float after[kBlock], lanes[kBlock][kTapLanes] = {};
  for (int32_t begin = 0; begin < count; begin += kBlock) {
    const int32_t n = count - begin < kBlock ? count - begin : kBlock;
    for (int32_t i = 0; i < kBlock; ++i) {
      const Tap tap = tap_at(step, first + begin + i);
      frame[i] = static_cast<int32_t>(tap.frame);
      row[i] = tap.phase * taps;
      after[i] = tap.after;
    }
    for (int32_t i = 0; i < n; ++i) {
      const float* x = in + frame[i] - (taps / 2 - 1);
      const float* here = table + row[i];
      const float* next = here + taps;
      Lanes a[kRegisters] = {}, b[kRegisters] = {};
      for (int32_t k = 0; k < taps; k += kTapLanes) {
        for (int32_t v = 0; v < kRegisters; ++v) {
          const int32_t at = k + v * kTapLanes / kRegisters;
          const Lanes frames = *reinterpret_cast<const Lanes*>(x + at);
          a[v] += frames * *reinterpret_cast<const Lanes*>(here + at);
          b[v] += frames * *reinterpret_cast<const Lanes*>(next + at);
        }
      }
      for (int32_t v = 0; v < kRegisters; ++v) {
        *reinterpret_cast<Lanes*>(lanes[i] + v * kTapLanes / kRegisters) = a[v] + after[i] * (b[v] - a[v]);
      }
    }
    for (int32_t half = kTapLanes / 2; half > 2; half /= 2) {
      for (int32_t i = 0; i < kBlock; ++i) {
        for (int32_t l = 0; l < half; ++l) lanes[i][l] += lanes[i][l + half];
      }
    }
    float sums[kBlock];
    for (int32_t i = 0; i < kBlock; ++i) sums[i] = (lanes[i][0] + lanes[i][2]) + (lanes[i][1] + lanes[i][3]);
    for (int32_t i = 0; i < n; ++i) out[begin + i] = sums[i];
  }
}

DP_TARGET void powers(const float* __restrict complex, int32_t n, int32_t squared, float* __restrict out) {
  if (squared) {
    for (int32_t i = 0; i < n; ++i) out[i] = squared_of(complex[2 * i], complex[2 * i + 1], 1);
  } else {
    for (int32_t i = 0; i < n; ++i) out[i] = squared_of(complex[2 * i], complex[2 * i + 1], 0);
  }
}

DP_TARGET void mel(const float* __restrict bins, const float* __restrict weights, int32_t count, MelLog log,
                   float* __restrict out) {
  float sums[kMelFrames] = {};
  for (int32_t k = 0; k < count; ++k) {
    for (int32_t l = 0; l < kMelFrames; ++l) sums[l] += weights[k] * bins[k * kMelFrames + l];
  }
  for (int32_t l = 0; l < kMelFrames; ++l) out[l] = mel_log(sums[l], log);
}

DP_TARGET void add_times(const float* __restrict in, float weight, int32_t n, float* __restrict out) {
  for (int32_t i = 0; i < n; ++i) out[i] += weight * in[i];
}

DP_TARGET void colour(float exponent, int32_t n, float* __restrict complex) {
  for (int32_t k = 0; k < n; ++k) {
    const float gain = colour_gain(k, exponent);
    complex[2 * k] *= gain;
    complex[2 * k + 1] *= gain;
  }
}

#define SPECTRAL_LOOPS window, polars, phasors, turn, overlap, all_overlapped, resample, powers, mel, add_times, colour
