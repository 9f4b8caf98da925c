// The loops of the spectral steps for any processor.
#include "cpu/spectral_kernels.h"

#define DP_TARGET

namespace dalipipe {
namespace {

constexpr int kVectorBytes = 16;
#include "cpu/spectral_loops.h"

}  // namespace

const SpectralKernels scalar_spectral_kernels = {"scalar", SPECTRAL_LOOPS};

}  // namespace dalipipe
