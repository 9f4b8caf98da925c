// The fused image operator on CUDA. A block makes a tile of 32x32 pixels at a time:
//
//   weights   a block per sample and axis: int16 weights, spans and precision, into scratch
//   resize    crop, resize, window and flip, straight to the output; or, where a warp or the sample's mean comes first,
//             as uint8 into scratch
//   warp      samples that have one: from scratch to the output, or to scratch where the mean comes next
//   recolour  samples that need their mean: from scratch to the output
//
// The last three differ only in where a tile's pixels come from; `emit` does the rest. Sums are of integers, so their
// order does not show. Kernels that no sample needs are not started.
#include <algorithm>

#include "cuda/check.h"
#include "pixel.h"

namespace dalipipe {
namespace {

constexpr int32_t kThreads = 256;
constexpr int32_t kTile = 32;                 // px a side; a warp works on a row
constexpr int32_t kWarps = kThreads / kTile;  // rows of a tile at a time
constexpr int32_t kRows = kTile / kWarps;     // rows of a tile that a thread sees
constexpr int32_t kChunk = 16;                // input rows in shared memory at a time
constexpr int64_t kAlign_bytes = 16;

// Offsets are into scratch, in bytes.
struct AxisTask {
  int32_t in, out;  // px
  View view;
  Span input;       // px the view draws on
  int64_t spans;    // Span [shown], from input.first
  int64_t weights;  // int16 [taps, shown]
};

struct Task {
  ImageSample s;
  AxisTask x, y;
  int64_t canvas;  // uint8 [canvas_h, canvas_w, C] before the warp; -1: none
  int64_t kept;    // uint8 [out_h, out_w, C] after the geometry, for its mean; -1: not needed
};

// What every kernel gets.
struct Batch {
  const Task* tasks;      // [n]
  const uint8_t* tables;  // [n, C, 256] or null
  const int32_t* boxes;   // [n, erases, 4] or null
  const float* values;    // [n, erases, C] or null
  uint8_t* scratch;
  int32_t* precision;        // [n, 2]
  unsigned long long* sums;  // [n, 3]
  uint8_t* out;
  int32_t n, out_h, out_w, erases;
  int64_t tiles;  // a sample, at most
  float scale[3], bias[3];
  DType dtype;
  Layout layout;
};

__device__ __forceinline__ int64_t tiles_of(int32_t h, int32_t w) {
  return static_cast<int64_t>((h + kTile - 1) / kTile) * ((w + kTile - 1) / kTile);
}

__device__ __forceinline__ int32_t smaller(int32_t a, int32_t b) { return a < b ? a : b; }
__device__ __forceinline__ int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }

__global__ void __launch_bounds__(kThreads, 3) weights_kernel(const __grid_constant__ Batch b) {
  __shared__ double greatest[kThreads];
  const int32_t thread = static_cast<int32_t>(threadIdx.x);
  for (int64_t job = blockIdx.x; job < 2 * static_cast<int64_t>(b.n); job += gridDim.x) {
    const AxisTask& task = job % 2 ? b.tasks[job / 2].y : b.tasks[job / 2].x;
    const Axis axis = make_axis(task.in, task.out);
    double most = 0.0;  // over the whole axis, shown or not
    for (int32_t i = thread; i < axis.out; i += kThreads) {
      const double weight = greatest_weight(axis, i);
      if (weight > most) most = weight;
    }
    greatest[thread] = most;
    __syncthreads();
    for (int32_t half = kThreads / 2; half > 0; half /= 2) {
      if (thread < half && greatest[thread + half] > greatest[thread]) greatest[thread] = greatest[thread + half];
      __syncthreads();
    }
    const int32_t precision = weight_precision(greatest[0]);
    if (thread == 0) b.precision[job] = precision;
    Span* spans = reinterpret_cast<Span*>(b.scratch + task.spans);
    int16_t* weights = reinterpret_cast<int16_t*>(b.scratch + task.weights);
    const int32_t shown = task.view.end - task.view.begin;
    for (int32_t k = thread; k < shown; k += kThreads) {
      const int32_t i = task.view.at(task.view.begin + k);
      const Span at = span(axis, i);
      const double middle = centre(axis, i);
      double sum = 0.0;
      for (int32_t j = 0; j < at.count; ++j) sum += height(axis, middle, at.first + j);
      for (int32_t j = 0; j < at.count; ++j) {
        weights[static_cast<int64_t>(j) * shown + k] =
            fixed_weight(weight(height(axis, middle, at.first + j), sum), precision);
      }
      spans[k] = {at.first - task.input.first, at.count};
    }
    __syncthreads();  // `greatest` is free again
  }
}

template <int C>
struct Shared {
  uint8_t half[kChunk * kTile * C];   // half-resized rows
  uint8_t pixels[kTile * kTile * C];  // a tile on its way to [.., H, W, C]
  unsigned sums[3];
  float scale[3], bias[3], constant[3];
};

// Where a tile goes.
struct Target {
  uint8_t* data;  // the sample's first element
  int32_t h, w;   // px
  int32_t erases;
  const int32_t* boxes;
  const float* values;
};

template <typename T, int C>
__device__ __forceinline__ void put(const Target& to, int64_t element, int32_t y, int32_t x, int32_t c, uint8_t v,
                                    float scale, float bias) {
  float value = normalise(v, scale, bias);
  for (int32_t k = 0; k < to.erases; ++k) {
    const int32_t* box = to.boxes + 4 * k;
    const bool inside = y >= box[0] && y < static_cast<int64_t>(box[0]) + box[2] && x >= box[1] &&
                        x < static_cast<int64_t>(box[1]) + box[3];
    if (inside) value = to.values[k * C + c];
  }
  reinterpret_cast<typename T::type*>(to.data)[element] = T::from(value);
}

// A warp stores a row of one channel at a time: [C, h, w].
template <typename T, int C>
__device__ __forceinline__ void store_planes(const Target& to, const uint8_t (&px)[kRows][C], int32_t x, int32_t y,
                                             const Shared<C>& shared) {
  if (x >= to.w) return;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (y + r * kWarps >= to.h) return;
#pragma unroll
    for (int c = 0; c < C; ++c) {
      const int64_t element = (static_cast<int64_t>(c) * to.h + y + r * kWarps) * to.w + x;
      put<T, C>(to, element, y + r * kWarps, x, c, px[r][c], shared.scale[c], shared.bias[c]);
    }
  }
}

// A warp stores a row, kTile elements at a time: [h, w, C].
template <typename T, int C>
__device__ __forceinline__ void store_rows(const Target& to, int32_t x0, int32_t y0, int32_t lane, int32_t warp,
                                           const Shared<C>& shared) {
  const int32_t h = smaller(kTile, to.h - y0), elements = smaller(kTile, to.w - x0) * C;
  for (int32_t row = warp; row < h; row += kWarps) {
    const int64_t first = (static_cast<int64_t>(y0 + row) * to.w + x0) * C;
    for (int32_t e = lane; e < elements; e += kTile) {
      const int32_t c = e % C;
      put<T, C>(to, first + e, y0 + row, x0 + e / C, c, shared.pixels[row * kTile * C + e], shared.scale[c],
                shared.bias[c]);
    }
  }
}

// Sends a tile on: px are this thread's pixels, column x0 + lane, rows y0 + warp + r * kWarps.
template <int C>
__device__ __forceinline__ void emit(const Batch& b, int32_t i, uint8_t (&px)[kRows][C], int32_t x0, int32_t y0,
                                     bool to_canvas, bool to_mean, Shared<C>& shared) {
  const Task& task = b.tasks[i];
  const ImageSample& s = task.s;
  const int32_t thread = static_cast<int32_t>(threadIdx.x), lane = thread % kTile, warp = thread / kTile;
  const bool finished = !to_canvas && !to_mean;
  const int64_t out_pixels = static_cast<int64_t>(b.out_h) * b.out_w;

  if (thread < C) {
    shared.sums[thread] = 0;
    shared.scale[thread] = finished ? b.scale[thread] : 1.0f;
    shared.bias[thread] = finished ? b.bias[thread] : 0.0f;
    if (finished && s.colour) {
      float mean[3] = {0.0f, 0.0f, 0.0f};
      if (task.kept >= 0) {
#pragma unroll
        for (int c = 0; c < 3; ++c) {
          mean[c] = mean_byte(b.sums[3 * static_cast<int64_t>(i) + (C == 1 ? 0 : c)], out_pixels);
        }
      }
      shared.constant[thread] = colour_constant(s.colour_mean_matrix + 3 * thread, mean, s.colour_offset[thread]);
    }
  }
  __syncthreads();

  Target to{b.scratch + (to_canvas ? task.canvas : task.kept),
            to_canvas ? s.canvas_h : b.out_h,
            to_canvas ? s.canvas_w : b.out_w,
            0,
            nullptr,
            nullptr};
  DType dtype = DType::uint8;
  if (finished) {
    dtype = b.dtype;
    to.data = b.out + i * out_pixels * C * (dtype == DType::uint8 ? 1 : dtype == DType::float32 ? 4 : 2);
    to.erases = b.erases;
    to.boxes = b.boxes + static_cast<int64_t>(i) * b.erases * 4;
    to.values = b.values + static_cast<int64_t>(i) * b.erases * C;
  }
  if (to_mean) {
#pragma unroll
    for (int c = 0; c < C; ++c) {
      unsigned sum = 0;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (x0 + lane < to.w && y0 + warp + r * kWarps < to.h) sum += px[r][c];
      }
      atomicAdd(&shared.sums[c], sum);
    }
    __syncthreads();
    if (thread < C) {
      atomicAdd(&b.sums[3 * static_cast<int64_t>(i) + thread], static_cast<unsigned long long>(shared.sums[thread]));
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (finished && s.colour) {
      const float red = px[r][0], green = px[r][C / 2], blue = px[r][C - 1];
#pragma unroll
      for (int c = 0; c < C; ++c) px[r][c] = colour(s.colour_matrix + 3 * c, shared.constant[c], red, green, blue);
    }
    if (finished && s.table) {
      const uint8_t* table = b.tables + static_cast<int64_t>(i) * C * 256;
#pragma unroll
      for (int c = 0; c < C; ++c) px[r][c] = table[c * 256 + px[r][c]];
    }
  }

  if (finished && b.layout == Layout::nchw) {
    const int32_t x = x0 + lane, y = y0 + warp;
    switch (dtype) {
      case DType::uint8: store_planes<Cast<DType::uint8>, C>(to, px, x, y, shared); break;
      case DType::float16: store_planes<Cast<DType::float16>, C>(to, px, x, y, shared); break;
      case DType::bfloat16: store_planes<Cast<DType::bfloat16>, C>(to, px, x, y, shared); break;
      case DType::float32: store_planes<Cast<DType::float32>, C>(to, px, x, y, shared); break;
    }
  } else {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int c = 0; c < C; ++c) shared.pixels[((warp + r * kWarps) * kTile + lane) * C + c] = px[r][c];
    }
    __syncthreads();
    switch (dtype) {
      case DType::uint8: store_rows<Cast<DType::uint8>, C>(to, x0, y0, lane, warp, shared); break;
      case DType::float16: store_rows<Cast<DType::float16>, C>(to, x0, y0, lane, warp, shared); break;
      case DType::bfloat16: store_rows<Cast<DType::bfloat16>, C>(to, x0, y0, lane, warp, shared); break;
      case DType::float32: store_rows<Cast<DType::float32>, C>(to, x0, y0, lane, warp, shared); break;
    }
  }
  __syncthreads();  // `shared` is free again
}

template <int C>
__global__ void __launch_bounds__(kThreads, 3) resize_kernel(const __grid_constant__ Batch b) {
  __shared__ Shared<C> shared;
  const int32_t lane = static_cast<int32_t>(threadIdx.x) % kTile, warp = static_cast<int32_t>(threadIdx.x) / kTile;
  for (int64_t job = blockIdx.x; job < b.n * b.tiles; job += gridDim.x) {
    const int32_t i = static_cast<int32_t>(job / b.tiles);
    const int64_t tile = job % b.tiles;
    const Task& task = b.tasks[i];
    const ImageSample& s = task.s;
    if (tile >= tiles_of(s.canvas_h, s.canvas_w)) continue;
    const int32_t across = (s.canvas_w + kTile - 1) / kTile;
    const int32_t x0 = static_cast<int32_t>(tile % across) * kTile, y0 = static_cast<int32_t>(tile / across) * kTile;

    // This thread's column, and the input rows the tile draws on.
    const View &vx = task.x.view, &vy = task.y.view;
    const int32_t shown_x = vx.end - vx.begin, shown_y = vy.end - vy.begin;
    const Span* spans_x = reinterpret_cast<const Span*>(b.scratch + task.x.spans);
    const Span* spans_y = reinterpret_cast<const Span*>(b.scratch + task.y.spans);
    const int16_t* weights_x = reinterpret_cast<const int16_t*>(b.scratch + task.x.weights);
    const int16_t* weights_y = reinterpret_cast<const int16_t*>(b.scratch + task.y.weights);
    const int32_t precision_x = b.precision[2 * i], precision_y = b.precision[2 * i + 1];
    const int32_t x = x0 + lane;
    const bool column = shown_y > 0 && vx.holds(x);
    const Span at_x = column ? spans_x[x - vx.begin] : Span{0, 0};
    int32_t first_row = 0, end_row = 0;
    const int32_t top = larger(y0, vy.begin), bottom = smaller(y0 + kTile, vy.end) - 1;
    if (shown_x > 0 && top <= bottom && x0 < vx.end && x0 + kTile > vx.begin) {
      const Span a = spans_y[top - vy.begin], z = spans_y[bottom - vy.begin];  // either may be the upper one: flips
      first_row = smaller(a.first, z.first);
      end_row = larger(a.first + a.count, z.first + z.count);
    }
    const uint8_t* in = reinterpret_cast<const uint8_t*>(s.data) +
                        static_cast<int64_t>(task.y.input.first - s.origin_y) * s.row_bytes +
                        static_cast<int64_t>(task.x.input.first - s.origin_x + at_x.first) * C;

    int32_t sums[kRows][C];
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < C; ++c) sums[r][c] = half_unit(precision_y);
    }
    for (int32_t chunk = first_row; chunk < end_row; chunk += kChunk) {
      constexpr int kEach = kChunk / kWarps;  // rows of the chunk that a thread resizes
      int32_t across_sums[kEach][C];
      for (int r = 0; r < kEach; ++r) {
        for (int c = 0; c < C; ++c) across_sums[r][c] = half_unit(precision_x);
      }
#pragma unroll 1
      for (int32_t j = 0; j < at_x.count; ++j) {
        const int32_t weight = weights_x[static_cast<int64_t>(j) * shown_x + x - vx.begin];
#pragma unroll
        for (int r = 0; r < kEach; ++r) {
          const int32_t row = smaller(chunk + warp + r * kWarps, end_row - 1);
          const uint8_t* tap = in + row * s.row_bytes + static_cast<int64_t>(j) * C;
#pragma unroll
          for (int c = 0; c < C; ++c) across_sums[r][c] += weight * tap[c];
        }
      }
#pragma unroll
      for (int r = 0; r < kEach; ++r) {
        for (int c = 0; c < C; ++c) {
          shared.half[((warp + r * kWarps) * kTile + lane) * C + c] = fixed_to_byte(across_sums[r][c], precision_x);
        }
      }
      __syncthreads();
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const int32_t y = y0 + warp + r * kWarps;
        if (!vy.holds(y)) continue;
        const Span at_y = spans_y[y - vy.begin];
        const int32_t first = larger(at_y.first, chunk);
        const int32_t end = smaller(at_y.first + at_y.count, chunk + kChunk);
#pragma unroll 1
        for (int32_t j = first; j < end; ++j) {
          const int32_t weight = weights_y[static_cast<int64_t>(j - at_y.first) * shown_y + y - vy.begin];
#pragma unroll
          for (int c = 0; c < C; ++c) sums[r][c] += weight * shared.half[((j - chunk) * kTile + lane) * C + c];
        }
      }
      __syncthreads();
    }
    uint8_t px[kRows][C];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const bool inside = column && vy.holds(y0 + warp + r * kWarps);
      for (int c = 0; c < C; ++c) px[r][c] = inside ? fixed_to_byte(sums[r][c], precision_y) : s.fill[c];
    }
    emit<C>(b, i, px, x0, y0, task.canvas >= 0, task.canvas < 0 && task.kept >= 0, shared);
  }
}

template <int C>
__global__ void __launch_bounds__(kThreads, 2) warp_kernel(const __grid_constant__ Batch b) {
  __shared__ Shared<C> shared;
  const int32_t lane = static_cast<int32_t>(threadIdx.x) % kTile, warp = static_cast<int32_t>(threadIdx.x) / kTile;
  for (int64_t job = blockIdx.x; job < b.n * b.tiles; job += gridDim.x) {
    const int32_t i = static_cast<int32_t>(job / b.tiles);
    const int64_t tile = job % b.tiles;
    const Task& task = b.tasks[i];
    const ImageSample& s = task.s;
    if (task.canvas < 0) continue;
    const int32_t across = (b.out_w + kTile - 1) / kTile;
    const int32_t x0 = static_cast<int32_t>(tile % across) * kTile, y0 = static_cast<int32_t>(tile / across) * kTile;
    const uint8_t* canvas = b.scratch + task.canvas;
    const auto tap = [&](int32_t y, int32_t x, int c) -> uint8_t {
      const bool inside = y >= 0 && y < s.canvas_h && x >= 0 && x < s.canvas_w;
      return inside ? canvas[(static_cast<int64_t>(y) * s.canvas_w + x) * C + c] : s.fill[c];
    };
    uint8_t px[kRows][C];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const Point at = warp_point(s.matrix, x0 + lane, y0 + warp + r * kWarps);
      if (s.warp == static_cast<int32_t>(Warp::nearest)) {
        const int32_t ix = nearest_index(at.x, s.canvas_w), iy = nearest_index(at.y, s.canvas_h);
        for (int c = 0; c < C; ++c) px[r][c] = tap(iy, ix, c);
      } else {
        const float cx = clamp_index(at.x, s.canvas_w), cy = clamp_index(at.y, s.canvas_h);
        const int32_t ix = floor_index(cx), iy = floor_index(cy);
        const float tx = cx - static_cast<float>(ix), ty = cy - static_cast<float>(iy);
        for (int c = 0; c < C; ++c) {
          px[r][c] = bilinear(tap(iy, ix, c), tap(iy, ix + 1, c), tap(iy + 1, ix, c), tap(iy + 1, ix + 1, c), tx, ty);
        }
      }
    }
    emit<C>(b, i, px, x0, y0, false, task.kept >= 0, shared);
  }
}

template <int C>
__global__ void __launch_bounds__(kThreads, 3) recolour_kernel(const __grid_constant__ Batch b) {
  __shared__ Shared<C> shared;
  const int32_t lane = static_cast<int32_t>(threadIdx.x) % kTile, warp = static_cast<int32_t>(threadIdx.x) / kTile;
  for (int64_t job = blockIdx.x; job < b.n * b.tiles; job += gridDim.x) {
    const int32_t i = static_cast<int32_t>(job / b.tiles);
    const int64_t tile = job % b.tiles;
    const Task& task = b.tasks[i];
    if (task.kept < 0) continue;
    const int32_t across = (b.out_w + kTile - 1) / kTile;
    const int32_t x0 = static_cast<int32_t>(tile % across) * kTile, y0 = static_cast<int32_t>(tile / across) * kTile;
    const uint8_t* kept = b.scratch + task.kept;
    uint8_t px[kRows][C];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int32_t x = smaller(x0 + lane, b.out_w - 1), y = smaller(y0 + warp + r * kWarps, b.out_h - 1);
      for (int c = 0; c < C; ++c) px[r][c] = kept[(static_cast<int64_t>(y) * b.out_w + x) * C + c];
    }
    emit<C>(b, i, px, x0, y0, false, false, shared);
  }
}

int64_t host_tiles(int32_t h, int32_t w) {
  return static_cast<int64_t>((h + kTile - 1) / kTile) * ((w + kTile - 1) / kTile);
}

// Where everything lies in scratch; its head is the upload, written to `host` when that is given.
struct Schedule {
  int64_t tables, boxes, values, upload_bytes, precision, sums, bytes;
  int64_t resize_tiles = 0, out_tiles = 0;
  bool any_warp = false, any_mean = false;

  Schedule(const FusedImageParams& p, Task* host) {
    int64_t at = 0;
    const auto take = [&](int64_t bytes) {
      const int64_t begin = at;
      at += (bytes + kAlign_bytes - 1) / kAlign_bytes * kAlign_bytes;
      return begin;
    };
    const int64_t n = p.n, boxes_bytes = n * p.erases * 4 * static_cast<int64_t>(sizeof(int32_t));
    take(n * static_cast<int64_t>(sizeof(Task)));
    tables = take(p.tables == nullptr ? 0 : n * p.channels * 256);
    boxes = take(boxes_bytes);
    values = take(n * p.erases * p.channels * static_cast<int64_t>(sizeof(float)));
    upload_bytes = at;
    precision = take(n * 2 * static_cast<int64_t>(sizeof(int32_t)));
    sums = take(n * 3 * static_cast<int64_t>(sizeof(unsigned long long)));
    out_tiles = host_tiles(p.out_h, p.out_w);
    const auto plan = [&](int32_t in, int32_t out, const View& view) {
      const Axis axis = make_axis(in, out);
      const int64_t shown = view.end - view.begin;
      const int64_t spans = take(shown * static_cast<int64_t>(sizeof(Span)));
      return AxisTask{
          in, out, view, view_span(axis, view), spans, take(shown * axis.taps * static_cast<int64_t>(sizeof(int16_t)))};
    };
    for (int32_t i = 0; i < p.n; ++i) {
      const ImageSample& s = p.samples[i];
      Task task{};
      task.s = s;
      task.x = plan(s.crop_w, s.resized_w, make_view(s.resized_w, s.window_x, s.canvas_w, s.flip & 1));
      task.y = plan(s.crop_h, s.resized_h, make_view(s.resized_h, s.window_y, s.canvas_h, s.flip & 2));
      const bool warp = s.warp != static_cast<int32_t>(Warp::none), mean = needs_mean(s);
      task.canvas = warp ? take(static_cast<int64_t>(s.canvas_h) * s.canvas_w * p.channels) : -1;
      task.kept = mean ? take(static_cast<int64_t>(p.out_h) * p.out_w * p.channels) : -1;
      any_warp = any_warp || warp;
      any_mean = any_mean || mean;
      resize_tiles = std::max(resize_tiles, host_tiles(s.canvas_h, s.canvas_w));
      if (host != nullptr) host[i] = task;
    }
    bytes = at;
  }
};

template <int C>
void start(const Schedule& schedule, Batch b, cudaStream_t stream) {
  b.tiles = schedule.resize_tiles;
  launch(resize_kernel<C>, b.n * b.tiles, kThreads, stream, b);
  b.tiles = schedule.out_tiles;
  if (schedule.any_warp) launch(warp_kernel<C>, b.n * b.tiles, kThreads, stream, b);
  if (schedule.any_mean) launch(recolour_kernel<C>, b.n * b.tiles, kThreads, stream, b);
}

void check_size(const char* what, size_t expected, size_t got, const void* data) {
  if (data != nullptr && got >= expected) return;
  throw std::invalid_argument(std::string("fused_image: ") + what + " must have " + std::to_string(expected) +
                              " bytes, got " + (data == nullptr ? "null" : std::to_string(got)));
}

}  // namespace

size_t fused_image_cuda_scratch_bytes(const FusedImageParams& p) {
  check_fused_image(p);
  return static_cast<size_t>(Schedule(p, nullptr).bytes);
}

size_t fused_image_cuda_upload_bytes(const FusedImageParams& p) {
  check_fused_image(p);
  return static_cast<size_t>(Schedule(p, nullptr).upload_bytes);
}

void fused_image_cuda(const FusedImageParams& p, void* scratch, size_t scratch_bytes, void* pinned, size_t pinned_bytes,
                      void* stream) {
  check_fused_image(p);
  if (p.n == 0) return;
  const Schedule sizes(p, nullptr);
  check_size("scratch", static_cast<size_t>(sizes.bytes), scratch_bytes, scratch);
  check_size("pinned memory", static_cast<size_t>(sizes.upload_bytes), pinned_bytes, pinned);
  uint8_t* const host = static_cast<uint8_t*>(pinned);
  uint8_t* const device = static_cast<uint8_t*>(scratch);
  const Schedule schedule(p, reinterpret_cast<Task*>(host));
  const int64_t n = p.n;
  if (p.tables != nullptr) std::copy_n(p.tables, n * p.channels * 256, host + schedule.tables);
  if (p.erases > 0) {
    std::copy_n(p.erase_boxes, n * p.erases * 4, reinterpret_cast<int32_t*>(host + schedule.boxes));
    std::copy_n(p.erase_values, n * p.erases * p.channels, reinterpret_cast<float*>(host + schedule.values));
  }

  Batch b{};
  b.tasks = reinterpret_cast<const Task*>(device);
  b.tables = device + schedule.tables;
  b.boxes = reinterpret_cast<const int32_t*>(device + schedule.boxes);
  b.values = reinterpret_cast<const float*>(device + schedule.values);
  b.scratch = device;
  b.precision = reinterpret_cast<int32_t*>(device + schedule.precision);
  b.sums = reinterpret_cast<unsigned long long*>(device + schedule.sums);
  b.out = static_cast<uint8_t*>(p.out);
  b.n = p.n;
  b.out_h = p.out_h;
  b.out_w = p.out_w;
  b.erases = p.erases;
  std::copy_n(p.scale, 3, b.scale);
  std::copy_n(p.bias, 3, b.bias);
  b.dtype = p.dtype;
  b.layout = p.layout;

  const cudaStream_t queue = static_cast<cudaStream_t>(stream);
  DP_CUDA(cudaMemcpyAsync(device, host, static_cast<size_t>(schedule.upload_bytes), cudaMemcpyHostToDevice, queue));
  if (schedule.any_mean) {
    DP_CUDA(cudaMemsetAsync(b.sums, 0, static_cast<size_t>(n) * 3 * sizeof(unsigned long long), queue));
  }
  launch(weights_kernel, 2 * n, kThreads, queue, b);
  p.channels == 3 ? start<3>(schedule, b, queue) : start<1>(schedule, b, queue);
}

}  // namespace dalipipe
