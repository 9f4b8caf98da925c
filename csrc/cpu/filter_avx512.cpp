// The filters' row loops for AVX-512.
#include "cpu/filter_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)
#ifdef __clang__
#define DP_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))
#else
#define DP_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512")))
#endif

namespace dalipipe {
namespace {

constexpr int kVectorBytes = 64;
#include "cpu/filter_loops.h"

constexpr FilterKernels kKernels = {"avx512", FILTER_LOOPS};

}  // namespace

const FilterKernels* avx512_filter_kernels() {
  static const bool here = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return here ? &kKernels : nullptr;
}

}  // namespace dalipipe
#else
const dalipipe::FilterKernels* dalipipe::avx512_filter_kernels() { return nullptr; }
#endif
