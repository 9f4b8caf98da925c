// The loops over a signal's frames, one set per instruction set; signal.cpp strings them together. Plain loops over the
// formulas of signal.h (signal_loops.h), which the compiler makes vectors of; so every set computes the same bits.
#pragma once

#include <cstdint>
#include <cstring>

#include "../signal.h"

namespace dalipipe {

// For some frames of a moved signal: the two it is made of (-1: 0), and how far it is from one to the other.
constexpr int32_t kSignalChunk = 512;
struct Picks {
  int32_t first[kSignalChunk], second[kSignalChunk];
  float share[kSignalChunk];
};

struct SignalKernels {
  const char* name;

  // out[t] = gain * in[t * step]
  void (*scale)(const float* in, int64_t step, float gain, int32_t n, float* out);
  // Positions of frames t … t + n - 1, or a curve's values.
  void (*line)(double start, double rate, int32_t t, int32_t n, double* out);
  void (*segment)(const CurveSegment& s, int32_t t, int32_t n, double* out);
  // Positions in a signal of `frames` → picks; returns whether some of them are 0.
  bool (*nearest)(int32_t edge, const double* positions, int32_t frames, int32_t n, Picks* picks);
  bool (*linear)(int32_t edge, const double* positions, int32_t frames, int32_t n, Picks* picks);
  // Picks → out, times gain; `outside`: some of them may be 0.
  void (*pick_nearest)(const float* in, const Picks& picks, bool outside, float gain, int32_t n, float* out);
  void (*pick_linear)(const float* in, const Picks& picks, bool outside, float gain, int32_t n, float* out);
  void (*times_constant)(float gain, int32_t n, float* x);
  void (*times)(const double* values, int32_t n, float* x);
  void (*plus)(const double* values, int32_t n, float* x);
  // Squares, into kLanes lanes; frame 0 to lane 0.
  void (*squares)(const float* x, int32_t n, double* lanes);
  void (*add)(const float* noise, float scale, int32_t n, float* x);
  // Casts; `step` in elements of what is written.
  void (*to_float16)(const float* x, int32_t n, int64_t step, uint16_t* out);
  void (*to_bfloat16)(const float* x, int32_t n, int64_t step, uint16_t* out);
  void (*to_float32)(const float* x, int32_t n, int64_t step, float* out);
  bool (*finite)(const float* x, int64_t step, int32_t n);
};

extern const SignalKernels scalar_signal_kernels;
const SignalKernels* avx2_signal_kernels();  // null: not built for, or not on this machine
const SignalKernels* avx512_signal_kernels();

// Those of cpu_target().
const SignalKernels& signal_kernels();

}  // namespace dalipipe
