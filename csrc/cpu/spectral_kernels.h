// The loops of the spectral steps, one set per instruction set; spectral.cpp strings them together. Plain loops over
// the formulas of spectral.h, which the compiler makes vectors of; so every set computes the same bits.
#pragma once

#include <cstdint>

#include "../spectral.h"

namespace dalipipe {

struct SpectralKernels {
  const char* name;

  void (*window)(const float* in, const float* window, int32_t n, float* out);
  // Complex numbers → their magnitudes and directions.
  void (*polars)(const float* complex, int32_t n, float* magnitude, float* re, float* im);
  // A frame of magnitudes between two others' and of these phases.
  void (*phasors)(const float* before, const float* after, const Between& by, const float* re, const float* im,
                  int32_t n, float* complex);
  // Phases go on by the angles from one frame's directions to another's.
  void (*turn)(const float* from_re, const float* from_im, const float* to_re, const float* to_im, int32_t n, float* re,
               float* im);
  void (*overlap)(const float* frame, const float* window, int32_t n, float* sums, float* windows);
  void (*overlapped)(const float* sums, const float* windows, int32_t n, float* out);
  // Frames first … first + count - 1; `in` has zeros where a signal's frames end, as far as taps reach.
  void (*resample)(const float* in, double step, const float* table, int32_t taps, int64_t first, int32_t count,
                   float* out);
  void (*powers)(const float* complex, int32_t n, int32_t squared, float* out);
  // bins [count, kMelFrames] of kMelFrames frames each, times weights.
  void (*mel)(const float* bins, const float* weights, int32_t count, MelLog log, float* out);
  void (*add_times)(const float* in, float weight, int32_t n, float* out);
  void (*colour)(float exponent, int32_t n, float* complex);
};

constexpr int32_t kMelFrames = 16;

extern const SpectralKernels scalar_spectral_kernels;
const SpectralKernels* avx2_spectral_kernels();  // null: not built for, or not on this machine
const SpectralKernels* avx512_spectral_kernels();

}  // namespace dalipipe
