// The filters' row loops for AVX2.
#include "cpu/filter_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define DP_TARGET __attribute__((target("avx2")))

namespace dalipipe {
namespace {

constexpr int kVectorBytes = 32;
#include "cpu/filter_loops.h"

constexpr FilterKernels kKernels = {"avx2", FILTER_LOOPS};

}  // namespace

const FilterKernels* avx2_filter_kernels() { return __builtin_cpu_supports("avx2") ? &kKernels : nullptr; }

}  // namespace dalipipe
#else
const dalipipe::FilterKernels* dalipipe::avx2_filter_kernels() { return nullptr; }
#endif
