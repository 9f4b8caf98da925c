// The loops over signals for AVX2.
#include "cpu/signal_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define DP_TARGET __attribute__((target("avx2")))

namespace dalipipe {
namespace {

#include "cpu/signal_loops.h"

constexpr SignalKernels kKernels = {"avx2", SIGNAL_LOOPS};

}  // namespace

const SignalKernels* avx2_signal_kernels() { return __builtin_cpu_supports("avx2") ? &kKernels : nullptr; }

}  // namespace dalipipe
#else
const dalipipe::SignalKernels* dalipipe::avx2_signal_kernels() { return nullptr; }
#endif
