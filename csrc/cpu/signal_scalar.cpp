// The loops over signals for any processor.
#include "cpu/signal_kernels.h"

#define DP_TARGET

namespace dalipipe {
namespace {

#include "cpu/signal_loops.h"

}  // namespace

const SignalKernels scalar_signal_kernels = {"scalar", SIGNAL_LOOPS};

}  // namespace dalipipe
