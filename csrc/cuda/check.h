// CUDA calls that throw.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace dalipipe {

inline void check_cuda(cudaError_t error, const char* what, const char* file, int line) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string(what) + " failed: " + cudaGetErrorString(error) + " (" + file + ":" +
                           std::to_string(line) + ")");
}

}  // namespace dalipipe

#define DP_CUDA(call) ::dalipipe::check_cuda((call), #call, __FILE__, __LINE__)

namespace dalipipe {

// Starts a kernel on `blocks` blocks, or as many as a grid may have: kernels step by gridDim.x. None for no blocks.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int32_t threads, cudaStream_t stream,
            const Arguments&... arguments) {
  if (blocks == 0) return;
  constexpr int64_t kMostBlocks = INT32_MAX;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = stream;
  DP_CUDA(cudaLaunchKernelEx(&config, kernel, arguments...));
}

}  // namespace dalipipe
