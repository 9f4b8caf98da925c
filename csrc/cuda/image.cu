// The fused image operator on CUDA. The host plans (schedule.h), kernels make the pictures of their steps (steps.h)
// tile by tile (tile.h). Here: geometry, statistics and colour; the filters are in filter.cu. Sums and histograms are
// of integers, so their order does not show.
#include "cuda/schedule.h"
#include "cuda/tile.h"

namespace dalipipe {
namespace {

// A block per axis: int16 weights, spans and precision, into scratch.
__global__ void __launch_bounds__(kThreads, 3) weights_kernel(const __grid_constant__ Batch b) {
  __shared__ double greatest[kThreads];
  const int32_t thread = static_cast<int32_t>(threadIdx.x);
  for (int64_t job = blockIdx.x; job < b.count; job += gridDim.x) {
    const AxisTask& task = b.axes[job];
    const Axis axis = task.axis;
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
    Span* spans = reinterpret_cast<Span*>(b.taps + task.spans);
    int16_t* weights = reinterpret_cast<int16_t*>(b.taps + task.weights);
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
__global__ void __launch_bounds__(kThreads, 3) resize_kernel(const __grid_constant__ Batch b) {
  __shared__ Tile<C> tile;
  __shared__ uint8_t half[kChunk * kTile * C];  // rows that are resized across
  const int32_t lane = lane_index(), warp = warp_index();
  make_tiles<C>(b, tile, [&](const Step& step, const ImagePass& s, int32_t y0, int32_t x0) {
    // This thread's column, and the input rows the tile draws on.
    const AxisTask &across = b.axes[step.axes], &down = b.axes[step.axes + 1];
    const View &vx = across.view, &vy = down.view;
    const int32_t shown_x = vx.end - vx.begin, shown_y = vy.end - vy.begin;
    const Span* spans_x = reinterpret_cast<const Span*>(b.taps + across.spans);
    const Span* spans_y = reinterpret_cast<const Span*>(b.taps + down.spans);
    const int16_t* weights_x = reinterpret_cast<const int16_t*>(b.taps + across.weights);
    const int16_t* weights_y = reinterpret_cast<const int16_t*>(b.taps + down.weights);
    const int32_t precision_x = b.precision[step.axes], precision_y = b.precision[step.axes + 1];
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
    const uint8_t* in = source(b, step) + down.input.first * step.in_row_bytes +
                        (static_cast<int64_t>(across.input.first) + at_x.first) * C;

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
          const uint8_t* tap = in + row * step.in_row_bytes + static_cast<int64_t>(j) * C;
#pragma unroll
          for (int c = 0; c < C; ++c) across_sums[r][c] += weight * tap[c];
        }
      }
#pragma unroll
      for (int r = 0; r < kEach; ++r) {
        for (int c = 0; c < C; ++c) {
          half[((warp + r * kWarps) * kTile + lane) * C + c] = fixed_to_byte(across_sums[r][c], precision_x);
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
          for (int c = 0; c < C; ++c) sums[r][c] += weight * half[((j - chunk) * kTile + lane) * C + c];
        }
      }
      __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const bool inside = column && vy.holds(y0 + warp + r * kWarps);
      for (int c = 0; c < C; ++c) {
        tile.pixels[((warp + r * kWarps) * kTile + lane) * C + c] =
            inside ? fixed_to_byte(sums[r][c], precision_y) : s.fill[c];
      }
    }
  });
}

// Crop, window and flip; or, where `recolouring`, nothing: the geometry is done.
template <int C>
__global__ void __launch_bounds__(kThreads, 3) copy_kernel(const __grid_constant__ Batch b, bool recolouring) {
  __shared__ Tile<C> tile;
  make_tiles<C>(b, tile, [&](const Step& step, const ImagePass& s, int32_t y0, int32_t x0) {
    View vx{0, step.w, 0, 1}, vy{0, step.h, 0, 1};
    if (!recolouring) {
      vx = make_view(s.resized_w, s.window_x, s.canvas_w, s.flip & 1);
      vy = make_view(s.resized_h, s.window_y, s.canvas_h, s.flip & 2);
    }
    const uint8_t* in = source(b, step);
    each_pixel<C>(step, y0, x0, tile, [&](int32_t y, int32_t x, uint8_t* px) {
      const bool inside = vx.holds(x) && vy.holds(y);
      const uint8_t* from = inside ? in + vy.at(y) * step.in_row_bytes + static_cast<int64_t>(vx.at(x)) * C : s.fill;
      for (int c = 0; c < C; ++c) px[c] = from[c];
    });
  });
}

template <int C>
__global__ void __launch_bounds__(kThreads, 3) warp_kernel(const __grid_constant__ Batch b) {
  __shared__ Tile<C> tile;
  make_tiles<C>(b, tile, [&](const Step& step, const ImagePass& s, int32_t y0, int32_t x0) {
    const uint8_t* canvas = source(b, step);
    const float* displacement = reinterpret_cast<const float*>(s.displacement);
    const bool projective = is_projective(s.matrix);
    const auto tap = [&](int32_t y, int32_t x) {
      const bool inside = y >= 0 && y < s.canvas_h && x >= 0 && x < s.canvas_w;
      return inside ? canvas + y * step.in_row_bytes + static_cast<int64_t>(x) * C : s.fill;
    };
    each_pixel<C>(step, y0, x0, tile, [&](int32_t y, int32_t x, uint8_t* px) {
      const Point start = displaced(displacement, step.h, step.w, x, y);
      const Point at = warp_point(s.matrix, projective, start.x, start.y);
      if (s.warp == static_cast<int32_t>(Warp::nearest)) {
        const uint8_t* from = tap(nearest_index(at.y, s.canvas_h), nearest_index(at.x, s.canvas_w));
        for (int c = 0; c < C; ++c) px[c] = from[c];
        return;
      }
      const int32_t reach = s.warp == static_cast<int32_t>(Warp::bicubic) ? 2 : 1;
      const float cx = clamp_index(at.x, s.canvas_w, reach), cy = clamp_index(at.y, s.canvas_h, reach);
      const int32_t ix = floor_index(cx), iy = floor_index(cy);
      const float tx = cx - static_cast<float>(ix), ty = cy - static_cast<float>(iy);
      if (reach == 1) {
        const uint8_t *p = tap(iy, ix), *q = tap(iy, ix + 1), *r = tap(iy + 1, ix), *t = tap(iy + 1, ix + 1);
        for (int c = 0; c < C; ++c) px[c] = bilinear(p[c], q[c], r[c], t[c], tx, ty);
        return;
      }
      float rows[4][C];
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const uint8_t *p = tap(iy + r - 1, ix - 1), *q = tap(iy + r - 1, ix), *t = tap(iy + r - 1, ix + 1),
                      *u = tap(iy + r - 1, ix + 2);
#pragma unroll
        for (int c = 0; c < C; ++c) rows[r][c] = cubic(p[c], q[c], t[c], u[c], tx);
      }
#pragma unroll
      for (int c = 0; c < C; ++c) {
        px[c] = round_byte(clamp_byte(cubic(rows[0][c], rows[1][c], rows[2][c], rows[3][c], ty)));
      }
    });
  });
}

// A block per step, a thread per value: histograms → tables (stretch_table, side by side) and means.
template <int C>
__global__ void __launch_bounds__(kThreads, 3) stretch_kernel(const __grid_constant__ Batch b) {
  __shared__ int64_t below[kThreads];  // pixels of values up to the thread's
  __shared__ int32_t lowest, highest;
  __shared__ unsigned long long sum;
  const int32_t v = static_cast<int32_t>(threadIdx.x);
  for (int64_t job = blockIdx.x; job < static_cast<int64_t>(b.count) * C; job += gridDim.x) {
    const Step& step = b.steps[job / C];
    const ImagePass& s = b.passes[step.pass];
    const int32_t c = static_cast<int32_t>(job % C);
    const uint32_t count = b.statistics[step.known].counts[c][v];
    const int64_t pixels = static_cast<int64_t>(s.out_h) * s.out_w;
    if (v == 0) sum = 0;
    below[v] = count;
    __syncthreads();
    for (int32_t reach = 1; reach < kThreads; reach *= 2) {
      const int64_t before = v >= reach ? below[v - reach] : 0;
      __syncthreads();
      below[v] += before;
      __syncthreads();
    }
    if (count > 0 && below[v] == count) lowest = v;
    if (count > 0 && below[v] == pixels) highest = v;
    __syncthreads();
    const int64_t step_pixels = equalize_step(pixels, pixels - (highest > 0 ? below[highest - 1] : 0));
    const uint8_t to = s.stretch == static_cast<int32_t>(Stretch::autocontrast)
                           ? autocontrast_entry(v, lowest, highest)
                           : equalize_entry(v, below[v] - count, step_pixels);
    b.stretched[step.stretched].table[c][v] = to;
    atomicAdd(&sum, static_cast<unsigned long long>(count) * to);
    __syncthreads();
    if (v == 0) b.stretched[step.stretched].mean[c] = mean_byte(sum, pixels);
    __syncthreads();  // shared memory is free again
  }
}

template <int C>
void start(const Schedule& schedule, Batch b, cudaStream_t stream) {
  const Step* steps = b.steps;
  for (const Launch& work : schedule.launches()) {
    b.steps = steps + work.first;
    b.count = work.count;
    b.tiles = work.tiles;
    const int64_t blocks = b.count * b.tiles;
    switch (work.stage) {
      case Stage::resize: launch(resize_kernel<C>, blocks, kThreads, stream, b); break;
      case Stage::copy: launch(copy_kernel<C>, blocks, kThreads, stream, b, false); break;
      case Stage::warp: launch(warp_kernel<C>, blocks, kThreads, stream, b); break;
      case Stage::stretch: launch(stretch_kernel<C>, int64_t{b.count} * C, kThreads, stream, b); break;
      case Stage::recolour: launch(copy_kernel<C>, blocks, kThreads, stream, b, true); break;
      default: start_filter<C>(work.stage, b, stream);
    }
  }
}

}  // namespace

size_t fused_image_cuda_scratch_bytes(const FusedImageParams& p) {
  check_fused_image(p);
  return static_cast<size_t>(Schedule(p).sections().bytes);
}

size_t fused_image_cuda_upload_bytes(const FusedImageParams& p) {
  check_fused_image(p);
  return static_cast<size_t>(Schedule(p).sections().upload_bytes);
}

void fused_image_cuda(const FusedImageParams& p, void* scratch, size_t scratch_bytes, void* pinned, size_t pinned_bytes,
                      void* stream) {
  check_fused_image(p);
  if (p.n == 0) return;
  const Schedule schedule(p);
  const Schedule::Sections& at = schedule.sections();
  check_room("fused_image", "scratch", at.bytes, scratch_bytes, scratch);
  check_room("fused_image", "pinned memory", at.upload_bytes, pinned_bytes, pinned);
  schedule.write(static_cast<uint8_t*>(pinned));

  uint8_t* const device = static_cast<uint8_t*>(scratch);
  Batch b{};
  b.passes = reinterpret_cast<const ImagePass*>(device);
  b.steps = reinterpret_cast<const Step*>(device + at.steps);
  b.axes = reinterpret_cast<const AxisTask*>(device + at.axes);
  b.tables = device + at.tables;
  b.weights = reinterpret_cast<const float*>(device + at.weights);
  b.erases = reinterpret_cast<const EraseBox*>(device + at.erases);
  b.statistics = reinterpret_cast<Statistics*>(device + at.statistics);
  b.stretched = reinterpret_cast<Stretched*>(device + at.stretched);
  b.precision = reinterpret_cast<int32_t*>(device + at.precision);
  b.taps = device + at.taps;
  b.pictures = device + at.pictures;
  b.out = static_cast<uint8_t*>(p.out);
  std::copy_n(p.scale, 3, b.scale);
  std::copy_n(p.bias, 3, b.bias);
  b.dtype = p.dtype;
  b.layout = p.layout;

  const cudaStream_t queue = static_cast<cudaStream_t>(stream);
  DP_CUDA(cudaMemcpyAsync(device, pinned, static_cast<size_t>(at.upload_bytes), cudaMemcpyHostToDevice, queue));
  if (schedule.statistics_bytes() > 0) {
    DP_CUDA(cudaMemsetAsync(b.statistics, 0, static_cast<size_t>(schedule.statistics_bytes()), queue));
  }
  b.count = static_cast<int32_t>(schedule.axes());
  launch(weights_kernel, b.count, kThreads, queue, b);
  p.channels == 3 ? start<3>(schedule, b, queue) : start<1>(schedule, b, queue);
}

}  // namespace dalipipe
