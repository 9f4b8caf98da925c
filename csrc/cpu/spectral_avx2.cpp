// The loops of the spectral steps for AVX2.
#include "cpu/spectral_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define DP_TARGET __attribute__((target("avx2")))

namespace dalipipe {
namespace {

constexpr int kVectorBytes = 32;
#include "cpu/spectral_loops.h"

constexpr SpectralKernels kKernels = {"avx2", SPECTRAL_LOOPS};

}  // namespace

const SpectralKernels* avx2_spectral_kernels() { return __builtin_cpu_supports("avx2") ? &kKernels : nullptr; }

}  // namespace dalipipe
#else
const dalipipe::SpectralKernels* dalipipe::avx2_spectral_kernels() { return nullptr; }
#endif
