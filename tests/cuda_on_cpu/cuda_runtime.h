// As much of the CUDA runtime as csrc/cuda uses, on the host, so that a machine without a GPU runs the very kernels: a
// block's threads are fibers that take turns between barriers, in another order each time, and a grid has a few blocks
// only, so that each does the work of many. It finds wrong indices, missing barriers where the order shows, and
// barriers that part of a block waits at.
#pragma once

#include <ucontext.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_on_cpu {

struct Fiber {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(64 << 10);
  bool done = false;
  int barrier = 0;  // the line at which it waits; 0: it is done
};

inline ucontext_t scheduler;
inline std::vector<Fiber> fibers;
inline const std::function<void()>* body;
inline int launches = 0;

inline void run_fiber() {
  (*body)();
  fibers[threadIdx.x].done = true;
  fibers[threadIdx.x].barrier = 0;
}

inline void wait(int line) {
  const unsigned t = threadIdx.x;
  fibers[t].barrier = line;
  swapcontext(&fibers[t].context, &scheduler);
}

inline void run_block() {
  static uint32_t random = 1;
  const unsigned threads = blockDim.x;
  if (fibers.size() < threads) fibers = std::vector<Fiber>(threads);
  for (unsigned t = 0; t < threads; ++t) {
    Fiber& fiber = fibers[t];
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = &scheduler;
    fiber.done = false;
    makecontext(&fiber.context, run_fiber, 0);
  }
  for (unsigned left = threads; left > 0;) {  // from barrier to barrier
    random = random * 1664525u + 1013904223u;
    const unsigned first = (random >> 8) % threads, step = random >> 31 ? 1 : threads - 1;
    for (unsigned k = 0, t = first; k < threads; ++k, t = (t + step) % threads) {
      if (fibers[t].done) continue;
      threadIdx.x = t;
      swapcontext(&scheduler, &fibers[t].context);
      left -= fibers[t].done;
    }
    for (unsigned t = 1; t < threads; ++t) {
      if (fibers[t].barrier != fibers[0].barrier)
        throw std::logic_error("a block's threads wait at different barriers");
    }
  }
}

}  // namespace cuda_on_cpu

#define __syncthreads() cuda_on_cpu::wait(__LINE__)

template <typename T>
T atomicAdd(T* to, T value) {
  const T before = *to;
  *to += value;
  return before;
}

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost };
inline const char* cudaGetErrorString(cudaError_t) { return ""; }
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  memset(to, value, bytes);
  return cudaSuccess;
}

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const std::function<void()> body = [&] { kernel(arguments...); };
  cuda_on_cpu::body = &body;
  ++cuda_on_cpu::launches;
  gridDim = dim3(config->gridDim.x < 5 ? config->gridDim.x : 5);
  blockDim = config->blockDim;
  for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) cuda_on_cpu::run_block();
  return cudaSuccess;
}
