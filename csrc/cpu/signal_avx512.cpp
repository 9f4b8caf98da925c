// The loops over signals for AVX-512.
#include "cpu/signal_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)
#ifdef __clang__
#define DP_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))
#else
#define DP_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512")))
#endif

namespace dalipipe {
namespace {

#include "cpu/signal_loops.h"

constexpr SignalKernels kKernels = {"avx512", SIGNAL_LOOPS};

}  // namespace

const SignalKernels* avx512_signal_kernels() {
  static const bool here = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return here ? &kKernels : nullptr;
}

}  // namespace dalipipe
#else
const dalipipe::SignalKernels* dalipipe::avx512_signal_kernels() { return nullptr; }
#endif
