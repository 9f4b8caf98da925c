// Elastic displacement on CUDA: noise into scratch, then blurred, tile by tile, as filters blur.
#include <algorithm>
#include <vector>

#include "cuda/separable.h"

namespace dalipipe {
namespace {

// A field, with places in scratch: of its noise, float [2, h, w], and of its blurs' weights, in bytes.
struct FieldTask {
  ElasticField field;
  int64_t noise, weights;
};

struct FieldBatch {
  const FieldTask* tasks;
  int32_t n;
  int64_t jobs;  // a field, at most
  uint8_t* scratch;
};

// A thread per block of four random words.
__global__ void __launch_bounds__(kThreads) field_noise_kernel(const __grid_constant__ FieldBatch b) {
  for (int64_t job = blockIdx.x; job < b.n * b.jobs; job += gridDim.x) {
    const FieldTask& task = b.tasks[job / b.jobs];
    const int64_t elements = 2 * static_cast<int64_t>(task.field.h) * task.field.w;
    const int64_t block = job % b.jobs * kThreads + threadIdx.x;
    if (4 * block >= elements) continue;
    const Philox4 words = noise_block(task.field.noise, static_cast<uint32_t>(block));
    float* noise = reinterpret_cast<float*>(b.scratch + task.noise) + 4 * block;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (4 * block + k < elements) noise[k] = 2.0f * unit(words.word[k]) - 1.0f;
    }
  }
}

// A block per tile of x's displacement, then of y's.
__global__ void __launch_bounds__(kThreads, 3) field_kernel(const __grid_constant__ FieldBatch b) {
  __shared__ float rows[kChunk * kTile];
  for (int64_t job = blockIdx.x; job < b.n * b.jobs; job += gridDim.x) {
    const FieldTask& task = b.tasks[job / b.jobs];
    const int32_t h = task.field.h, w = task.field.w;
    const int64_t tiles = tiles_of(h, w), k = job % b.jobs;
    if (k >= 2 * tiles) continue;
    const int32_t axis = k < tiles ? 0 : 1, across = (w + kTile - 1) / kTile;
    const int64_t tile = k - axis * tiles, plane = axis * static_cast<int64_t>(h) * w;
    const int32_t y0 = static_cast<int32_t>(tile / across) * kTile, x0 = static_cast<int32_t>(tile % across) * kTile;
    const float* noise = reinterpret_cast<const float*>(b.scratch + task.noise) + plane;
    float* out = reinterpret_cast<float*>(task.field.out) + plane;
    const int32_t taps = task.field.taps[axis];
    const float* weights = reinterpret_cast<const float*>(b.scratch + task.weights) + axis * 2 * task.field.taps[0];
    const auto at = [&](int32_t y, int32_t x, int32_t) { return noise[static_cast<int64_t>(y) * w + x]; };
    float sums[kRows][1];
    if (taps > 0) separable_tile<1>(h, w, y0, x0, weights, taps, weights + taps, taps, rows, sums, at);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int32_t y = y0 + warp_index() + r * kWarps, x = x0 + lane_index();
      if (y >= h || x >= w) continue;
      out[static_cast<int64_t>(y) * w + x] = task.field.scale[axis] * (taps > 0 ? sums[r][0] : at(y, x, 0));
    }
  }
}

// Where everything lies in scratch; its head is the upload.
struct FieldSchedule {
  std::vector<FieldTask> tasks;
  int64_t upload_bytes = 0, bytes = 0, noise_jobs = 0, tiles = 0;

  FieldSchedule(const ElasticField* fields, int32_t n) {
    const auto take = [&](int64_t size) {
      const int64_t begin = bytes;
      bytes += (size + 15) / 16 * 16;
      return begin;
    };
    take(n * static_cast<int64_t>(sizeof(FieldTask)));
    for (int32_t i = 0; i < n; ++i) tasks.push_back({fields[i], 0, take(4 * weight_count(fields[i]))});
    upload_bytes = bytes;
    for (FieldTask& task : tasks) {
      const int64_t elements = 2 * static_cast<int64_t>(task.field.h) * task.field.w;
      task.noise = take(4 * elements);
      noise_jobs = std::max(noise_jobs, (elements + 4 * kThreads - 1) / (4 * kThreads));
      tiles = std::max(tiles, tiles_of(task.field.h, task.field.w));
    }
  }

  static int64_t weight_count(const ElasticField& field) { return 2 * (int64_t{field.taps[0]} + field.taps[1]); }

  void write(uint8_t* host) const {
    std::copy(tasks.begin(), tasks.end(), reinterpret_cast<FieldTask*>(host));
    for (const FieldTask& task : tasks) {
      std::copy_n(reinterpret_cast<const float*>(task.field.weights), weight_count(task.field),
                  reinterpret_cast<float*>(host + task.weights));
    }
  }
};

}  // namespace

size_t elastic_cuda_scratch_bytes(const ElasticField* fields, int32_t n) {
  check_elastic(fields, n);
  return static_cast<size_t>(FieldSchedule(fields, n).bytes);
}

size_t elastic_cuda_upload_bytes(const ElasticField* fields, int32_t n) {
  check_elastic(fields, n);
  return static_cast<size_t>(FieldSchedule(fields, n).upload_bytes);
}

void elastic_cuda(const ElasticField* fields, int32_t n, void* scratch, size_t scratch_bytes, void* pinned,
                  size_t pinned_bytes, void* stream) {
  check_elastic(fields, n);
  if (n == 0) return;
  const FieldSchedule schedule(fields, n);
  check_room("elastic", "scratch", schedule.bytes, scratch_bytes, scratch);
  check_room("elastic", "pinned memory", schedule.upload_bytes, pinned_bytes, pinned);
  schedule.write(static_cast<uint8_t*>(pinned));

  uint8_t* const device = static_cast<uint8_t*>(scratch);
  const cudaStream_t queue = static_cast<cudaStream_t>(stream);
  DP_CUDA(cudaMemcpyAsync(device, pinned, static_cast<size_t>(schedule.upload_bytes), cudaMemcpyHostToDevice, queue));
  FieldBatch b{reinterpret_cast<const FieldTask*>(device), n, schedule.noise_jobs, device};
  launch(field_noise_kernel, n * b.jobs, kThreads, queue, b);
  b.jobs = 2 * schedule.tiles;
  launch(field_kernel, n * b.jobs, kThreads, queue, b);
}

}  // namespace dalipipe
