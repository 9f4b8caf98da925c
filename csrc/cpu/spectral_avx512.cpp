// The loops of the spectral steps for AVX-512.
#include "cpu/spectral_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)
#ifdef __clang__
#define DP_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))
#else
#define DP_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512")))
#endif

namespace dalipipe {
namespace {

constexpr int kVectorBytes = 64;
#include "cpu/spectral_loops.h"

constexpr SpectralKernels kKernels = {"avx512", SPECTRAL_LOOPS};

}  // namespace

const SpectralKernels* avx512_spectral_kernels() {
  static const bool here = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return here ? &kKernels : nullptr;
}

}  // namespace dalipipe
#else
const dalipipe::SpectralKernels* dalipipe::avx512_spectral_kernels() { return nullptr; }
#endif
