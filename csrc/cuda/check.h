// CUDA calls that throw.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace dalipipe {

inline void check_cuda(cudaError_t error, const char* what, const char* file, int line) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string(what) + " failed: " + cudaGetErrorString(error) + " (" + file + ":" +
                           std::to_string(line) + ")");
}

// What a caller hands over, at least as large as it was told.
inline void check_room(const char* operation, const char* what, int64_t expected, size_t got, const void* data) {
  if (data != nullptr && got >= static_cast<size_t>(expected)) return;
  throw std::invalid_argument(std::string(operation) + ": " + what + " must have " + std::to_string(expected) +
                              " bytes, got " + (data == nullptr ? "null" : std::to_string(got)));
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
