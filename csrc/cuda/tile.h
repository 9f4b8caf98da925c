// What the kernels that make pictures have in common. A block makes a tile at a time, in shared memory: each kernel
// fills it in its own way, and `emit` does the rest.
#pragma once

#include "cuda/check.h"
#include "cuda/steps.h"
#include "noise.h"

namespace dalipipe {

constexpr int32_t kThreads = 256;
constexpr int32_t kWarps = kThreads / kTile;  // a warp works on a row of the tile
constexpr int32_t kRows = kTile / kWarps;     // rows of the tile that a thread sees
constexpr int32_t kChunk = 16;                // rows in shared memory at a time, where any number is summed

template <int C>
struct Tile {
  uint8_t pixels[kTile * kTile * C];
  uint32_t counts[C * 256];
  uint32_t sums[C];
  float scale[C], bias[C], constant[C];
};

__device__ __forceinline__ int32_t smaller(int32_t a, int32_t b) { return a < b ? a : b; }
__device__ __forceinline__ int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }
__device__ __forceinline__ int32_t lane_index() { return static_cast<int32_t>(threadIdx.x) % kTile; }
__device__ __forceinline__ int32_t warp_index() { return static_cast<int32_t>(threadIdx.x) / kTile; }

// Pixel (0, 0) of what a step works on.
__device__ __forceinline__ const uint8_t* source(const Batch& b, const Step& step) {
  return (step.stored ? reinterpret_cast<const uint8_t*>(b.passes[step.pass].data) : b.pictures) + step.in;
}

// Calls at(y, x, pixel) for this thread's pixels of the tile at (y0, x0), where the picture has them.
template <int C, typename At>
__device__ __forceinline__ void each_pixel(const Step& step, int32_t y0, int32_t x0, Tile<C>& tile, const At& at) {
  const int32_t x = x0 + lane_index();
  if (x >= step.w) return;
#pragma unroll 1
  for (int32_t row = warp_index(); row < smaller(kTile, step.h - y0); row += kWarps) {
    at(y0 + row, x, tile.pixels + (row * kTile + lane_index()) * C);
  }
}

// Calls at(y, x, c, place) for this thread's share of the tile's elements, a warp for neighbouring ones of a row.
template <int C, typename At>
__device__ __forceinline__ void each_element(const Step& step, int32_t y0, int32_t x0, const At& at) {
  const int32_t h = smaller(kTile, step.h - y0), elements = smaller(kTile, step.w - x0) * C;
#pragma unroll 1
  for (int32_t row = warp_index(); row < h; row += kWarps) {
#pragma unroll 1
    for (int32_t e = lane_index(); e < elements; e += kTile) at(y0 + row, x0 + e / C, e % C, row * kTile * C + e);
  }
}

// Likewise channel by channel.
template <int C, typename At>
__device__ __forceinline__ void each_plane(const Step& step, int32_t y0, int32_t x0, const At& at) {
  const int32_t h = smaller(kTile, step.h - y0), lane = lane_index();
  if (x0 + lane >= step.w) return;
#pragma unroll 1
  for (int32_t row = warp_index(); row < h; row += kWarps) {
    for (int32_t c = 0; c < C; ++c) at(y0 + row, x0 + lane, c, (row * kTile + lane) * C + c);
  }
}

// Whether one of the pass's boxes holds the element: what it has there. The last of them counts.
template <int C>
__device__ __forceinline__ bool erased(const Batch& b, const ImagePass& s, int32_t y, int32_t x, int32_t c, float& v) {
  bool any = false;
#pragma unroll 1
  for (int32_t k = s.first_erase + s.erases - 1; k >= s.first_erase && !any; --k) {
    const EraseBox& box = b.erases[k];
    any =
        y >= box.y && y < static_cast<int64_t>(box.y) + box.h && x >= box.x && x < static_cast<int64_t>(box.x) + box.w;
    if (!any) continue;
    v = box.values[c];
    if (box.sigma[c] != 0.0f) {
      const int64_t element = (static_cast<int64_t>(y) * s.out_w + x) * C + c;
      v = v + box.sigma[c] * normal_element(box.noise, static_cast<uint64_t>(element));
    }
  }
  return any;
}

template <int C>
__device__ __forceinline__ void recolour(const Batch& b, const Step& step, const ImagePass& s, const Tile<C>& tile,
                                         uint8_t* px) {
  if (step.stretched >= 0) {
    const Stretched& stretched = b.stretched[step.stretched];
    for (int c = 0; c < C; ++c) px[c] = stretched.table[c][px[c]];
  }
  if (s.colour) {
    const float red = px[0], green = px[C / 2], blue = px[C - 1];  // one channel: all three are it
    for (int c = 0; c < C; ++c) px[c] = colour(s.colour_matrix + 3 * c, tile.constant[c], red, green, blue);
  }
  if (C == 3 && s.hue != 0.0f) turn_hue(s.hue, px);
  if (s.table >= 0) {
    const uint8_t* table = b.tables + static_cast<int64_t>(s.table) * C * 256;
    for (int c = 0; c < C; ++c) px[c] = table[c * 256 + px[c]];
  }
}

__device__ __forceinline__ void put(DType dtype, uint8_t* out, int64_t element, float v) {
  switch (dtype) {
    case DType::uint8: out[element] = Cast<DType::uint8>::from(v); break;
    case DType::float16: reinterpret_cast<uint16_t*>(out)[element] = to_float16(v); break;
    case DType::bfloat16: reinterpret_cast<uint16_t*>(out)[element] = to_bfloat16(v); break;
    case DType::float32: reinterpret_cast<float*>(out)[element] = v; break;
  }
}

// Sends a tile on; each thread has filled what each_pixel gave it. All threads of the block call this.
template <int C>
__device__ __forceinline__ void emit(const Batch& b, const Step& step, int32_t y0, int32_t x0, Tile<C>& tile) {
  const ImagePass& s = b.passes[step.pass];
  const int32_t thread = static_cast<int32_t>(threadIdx.x);
  const int64_t pixels = static_cast<int64_t>(step.h) * step.w;

  if (thread < C) {
    tile.sums[thread] = 0;
    tile.scale[thread] = b.scale[thread];
    tile.bias[thread] = b.bias[thread];
    if (step.finish && s.colour) {
      float mean[3] = {0.0f, 0.0f, 0.0f};
      if (step.known >= 0) {
        for (int c = 0; c < 3; ++c) {
          const int from = C == 1 ? 0 : c;
          mean[c] = step.stretched >= 0 ? b.stretched[step.stretched].mean[from]
                                        : mean_byte(b.statistics[step.known].sums[from], pixels);
        }
      }
      tile.constant[thread] = colour_constant(s.colour_mean_matrix + 3 * thread, mean, s.colour_offset[thread]);
    }
  }
  if (step.collect & 2) {
    for (int32_t k = thread; k < C * 256; k += kThreads) tile.counts[k] = 0;
  }
  __syncthreads();

  if (step.finish && (step.stretched >= 0 || s.colour || s.hue != 0.0f || s.table >= 0)) {
    each_pixel<C>(step, y0, x0, tile, [&](int32_t, int32_t, uint8_t* px) { recolour<C>(b, step, s, tile, px); });
    __syncthreads();
  }
  const bool erase = !step.last && s.erases > 0, blend = s.blend != static_cast<int32_t>(Blend::none);
  if (step.finish && (erase || blend)) {
    float* sum = reinterpret_cast<float*>(b.pictures + step.sum);
    const uint8_t* kept = b.pictures + step.kept;
    each_element<C>(step, y0, x0, [&](int32_t y, int32_t x, int32_t c, int32_t place) {
      const int64_t element = (static_cast<int64_t>(y) * step.w + x) * C + c;
      uint8_t v = tile.pixels[place];
      float value;
      if (erase && erased<C>(b, s, y, x, c, value)) v = Cast<DType::uint8>::from(value);
      if (blend) {
        value = (step.add ? sum[element] : 0.0f) + s.weight * static_cast<float>(v);
        if (step.leave) sum[element] = value;
        if (s.blend == static_cast<int32_t>(Blend::last)) {
          v = blend_to_byte(value + s.kept_weight * static_cast<float>(kept[element]));
        }
      }
      tile.pixels[place] = v;
    });
    __syncthreads();
  }

  if (step.collect) {
    uint32_t sums[C] = {};
    each_pixel<C>(step, y0, x0, tile, [&](int32_t, int32_t, const uint8_t* px) {
      for (int c = 0; c < C; ++c) {
        sums[c] += px[c];
        if (step.collect & 2) atomicAdd(&tile.counts[c * 256 + px[c]], 1u);
      }
    });
    for (int c = 0; c < C; ++c) atomicAdd(&tile.sums[c], sums[c]);
    __syncthreads();
    Statistics& to = b.statistics[step.collected];
    if (thread < C) atomicAdd(&to.sums[thread], static_cast<unsigned long long>(tile.sums[thread]));
    for (int32_t k = thread; k < C * 256 && step.collect & 2; k += kThreads) {
      if (tile.counts[k] > 0) atomicAdd(&to.counts[k / 256][k % 256], tile.counts[k]);
    }
  }

  if (step.last) {
    uint8_t* out = b.out + step.sample * pixels * C * (b.dtype == DType::uint8 ? 1 : b.dtype == DType::float32 ? 4 : 2);
    const bool planes = b.layout == Layout::nchw;
    const auto store = [&](int32_t y, int32_t x, int32_t c, int32_t place) {
      float v = normalise(tile.pixels[place], tile.scale[c], tile.bias[c]);
      erased<C>(b, s, y, x, c, v);
      const int64_t pixel = static_cast<int64_t>(y) * step.w + x;
      put(b.dtype, out, planes ? c * pixels + pixel : pixel * C + c, v);
    };
    if (planes) {
      each_plane<C>(step, y0, x0, store);
    } else {
      each_element<C>(step, y0, x0, store);
    }
  } else if (step.out >= 0) {
    uint8_t* out = b.pictures + step.out;
    each_element<C>(step, y0, x0, [&](int32_t y, int32_t x, int32_t c, int32_t place) {
      out[(static_cast<int64_t>(y) * step.w + x) * C + c] = tile.pixels[place];
    });
  }
  __syncthreads();  // the tile is free again
}

// Calls use(step, pass, y0, x0) for this block's share of the launch's tiles.
template <typename Use>
__device__ __forceinline__ void each_tile(const Batch& b, const Use& use) {
  for (int64_t job = blockIdx.x; job < b.count * b.tiles; job += gridDim.x) {
    const Step& step = b.steps[job / b.tiles];
    const int64_t k = job % b.tiles;
    if (k >= tiles_of(step.h, step.w)) continue;
    const int32_t across = (step.w + kTile - 1) / kTile;
    use(step, b.passes[step.pass], static_cast<int32_t>(k / across) * kTile, static_cast<int32_t>(k % across) * kTile);
  }
}

// make(step, pass, y0, x0) fills the tile.
template <int C, typename Make>
__device__ __forceinline__ void make_tiles(const Batch& b, Tile<C>& tile, const Make& make) {
  each_tile(b, [&](const Step& step, const ImagePass& s, int32_t y0, int32_t x0) {
    make(step, s, y0, x0);
    emit<C>(b, step, y0, x0, tile);
  });
}

// Starts one of the stages from `filter` to `jpeg_pixels`: filter.cu.
template <int C>
void start_filter(Stage stage, const Batch& b, cudaStream_t stream);

}  // namespace dalipipe
