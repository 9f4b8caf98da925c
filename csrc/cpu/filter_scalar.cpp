// The filters' row loops for any processor.
#include "cpu/filter_kernels.h"

#define DP_TARGET

namespace dalipipe {
namespace {

constexpr int kVectorBytes = 16;
#include "cpu/filter_loops.h"

}  // namespace

const FilterKernels scalar_filter_kernels = {"scalar", FILTER_LOOPS};

}  // namespace dalipipe
