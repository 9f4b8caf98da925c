// The filters (../filter.h) on CUDA, tile by tile: neighbours come straight from the picture in scratch.
#include "cuda/separable.h"
#include "filter.h"
#include "jpeg.h"

namespace dalipipe {
namespace {

template <int C>
__global__ void __launch_bounds__(kThreads, 3) filter_kernel(const __grid_constant__ Batch b) {
  __shared__ Tile<C> tile;
  make_tiles<C>(b, tile, [&](const Step& step, const ImagePass& s, int32_t y0, int32_t x0) {
    const uint8_t* picture = source(b, step);
    const float* values = s.filter_values;
    const int32_t h = step.h, w = step.w;
    const auto pixel = [&](int32_t y, int32_t x) {
      return picture + y * step.in_row_bytes + static_cast<int64_t>(x) * C;
    };
    switch (static_cast<Filter>(s.filter)) {
      case Filter::sharpen: {
        const Sharpen a = make_sharpen(values[0]);
        each_pixel<C>(step, y0, x0, tile, [&](int32_t y, int32_t x, uint8_t* px) {
          const bool inside = y > 0 && y < h - 1 && x > 0 && x < w - 1;
          const uint8_t* here = pixel(y, x);
          for (int c = 0; c < C; ++c) {
            px[c] = here[c];
            if (!inside) continue;
            const uint8_t *above = here + c - step.in_row_bytes, *below = here + c + step.in_row_bytes;
            const int32_t sum = above[-C] + above[0] + above[C] + here[c - C] + 5 * here[c] + here[c + C] + below[-C] +
                                below[0] + below[C];
            px[c] = sharpen(a, here[c], smooth_byte(sum));
          }
        });
        break;
      }
      case Filter::convolve: {
        const float* weights = b.weights + s.filter_weights;
        each_pixel<C>(step, y0, x0, tile, [&](int32_t y, int32_t x, uint8_t* px) {
          float sums[C] = {};
#pragma unroll 1
          for (int32_t i = 0; i < s.filter_h; ++i) {
            const uint8_t* row = pixel(mirrored(y + i - s.filter_h / 2, h), 0);
#pragma unroll 1
            for (int32_t j = 0; j < s.filter_w; ++j) {
              const float weight = weights[static_cast<int64_t>(i) * s.filter_w + j];
              if (weight == 0.0f) continue;
              const uint8_t* from = row + static_cast<int64_t>(mirrored(x + j - s.filter_w / 2, w)) * C;
              for (int c = 0; c < C; ++c) sums[c] += weight * static_cast<float>(from[c]);
            }
          }
          for (int c = 0; c < C; ++c) px[c] = round_even_byte(sums[c]);
        });
        break;
      }
      case Filter::gaussian_noise:
        each_pixel<C>(step, y0, x0, tile, [&](int32_t y, int32_t x, uint8_t* px) {
          const int64_t first = (static_cast<int64_t>(y) * w + x) * C;
          const uint8_t* from = pixel(y, x);
#pragma unroll 1
          for (int c = 0; c < C; ++c) px[c] = add_noise(from[c], values[0], values[1], noise_word(s.noise, first + c));
        });
        break;
      case Filter::salt_pepper:
        each_pixel<C>(step, y0, x0, tile, [&](int32_t y, int32_t x, uint8_t* px) {
          const uint32_t word = noise_word(s.noise, static_cast<int64_t>(y) * w + x);
          const bool set = is_set(values[0], word), salt = is_salt(values[0] * values[1], word);
          const uint8_t* from = pixel(y, x);
          for (int c = 0; c < C; ++c) px[c] = salt ? 255 : set ? 0 : from[c];
        });
        break;
      case Filter::grid:
        each_pixel<C>(step, y0, x0, tile, [&](int32_t y, int32_t x, uint8_t* px) {
          const bool hole = grid_hole(values, x, y);
          const uint8_t* from = pixel(y, x);
          for (int c = 0; c < C; ++c) px[c] = hole ? round_byte(clamp_byte(values[6 + c])) : from[c];
        });
        break;
      default: break;  // kernels of their own
    }
  });
}

template <int C>
__global__ void __launch_bounds__(kThreads, 3) separable_kernel(const __grid_constant__ Batch b) {
  __shared__ Tile<C> tile;
  __shared__ float rows[kChunk * kTile * C];
  make_tiles<C>(b, tile, [&](const Step& step, const ImagePass& s, int32_t y0, int32_t x0) {
    const uint8_t* picture = source(b, step);
    const float* across = b.weights + s.filter_weights;
    float sums[kRows][C];
    separable_tile<C>(step.h, step.w, y0, x0, across, s.filter_w, across + s.filter_w, s.filter_h, rows, sums,
                      [&](int32_t y, int32_t x, int32_t c) {
                        return static_cast<float>(picture[y * step.in_row_bytes + static_cast<int64_t>(x) * C + c]);
                      });
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < C; ++c) {
        tile.pixels[((warp_index() + r * kWarps) * kTile + lane_index()) * C + c] = round_even_byte(sums[r][c]);
      }
    }
  });
}

// A tile's blocks: of luma, 4x4; of Cb and Cr, 2x2 each. A row has an element to spare, so that the threads of a warp,
// at work on rows or on columns, meet in no bank.
constexpr int32_t kBlockRow = kJpegBlock + 1, kBlockSize = kJpegBlock * kBlockRow;
constexpr int32_t kSide = kTile / kJpegBlock, kLuma = kSide * kSide, kChroma = kLuma / 4;

struct Quantisers {
  int32_t by[64];
  float inverse[64];
};

// Picture → planes, through transform, quantisers and back.
template <int C>
__global__ void __launch_bounds__(kThreads, 3) jpeg_blocks_kernel(const __grid_constant__ Batch b) {
  constexpr int32_t kBlocks = C == 3 ? kLuma + 2 * kChroma : kLuma;
  __shared__ int32_t blocks[kBlocks * kBlockSize];
  __shared__ Quantisers quantisers[2];
  const int32_t thread = static_cast<int32_t>(threadIdx.x);
  each_tile(b, [&](const Step& step, const ImagePass& s, int32_t y0, int32_t x0) {
    const uint8_t* picture = source(b, step);
    const int32_t h = step.h, w = step.w;
    const JpegPlanes planes = jpeg_planes(h, w);
    const auto pixel = [&](int32_t y, int32_t x) {  // beyond the last, the last
      return picture + smaller(y, h - 1) * step.in_row_bytes + static_cast<int64_t>(smaller(x, w - 1)) * C;
    };
    const auto place = [&](int32_t first, int32_t side, int32_t y, int32_t x) {
      const int32_t block = first + y / kJpegBlock * side + x / kJpegBlock;
      return block * kBlockSize + y % kJpegBlock * kBlockRow + x % kJpegBlock;
    };
    for (int32_t k = thread; k < 128; k += kThreads) {
      const int32_t by = jpeg_quantiser(static_cast<int32_t>(s.filter_values[0]), k % 64, k >= 64);
      quantisers[k / 64].by[k % 64] = by;
      quantisers[k / 64].inverse[k % 64] = jpeg_inverse(by);
    }
    for (int32_t k = thread; k < kTile * kTile; k += kThreads) {
      const int32_t y = k / kTile, x = k % kTile;
      const uint8_t* px = pixel(y0 + y, x0 + x);
      blocks[place(0, kSide, y, x)] = (C == 3 ? jpeg_y(px[0], px[C / 2], px[C - 1]) : px[0]) - 128;
    }
    for (int32_t k = thread; k < kTile * kTile / 4 && C == 3; k += kThreads) {
      const int32_t y = k / (kTile / 2), x = k % (kTile / 2), column = x0 / 2 + x;
      const int32_t row = smaller(y0 / 2 + y, planes.chroma_h - 1);
      int32_t blue = 0, red = 0;
      for (int32_t i = 0; i < 4; ++i) {
        const uint8_t* px = pixel(2 * row + i / 2, 2 * column + i % 2);
        blue += jpeg_cb(px[0], px[C / 2], px[C - 1]);
        red += jpeg_cr(px[0], px[C / 2], px[C - 1]);
      }
      blocks[place(kLuma, kSide / 2, y, x)] = jpeg_halve(blue, column) - 128;
      blocks[place(kLuma + kChroma, kSide / 2, y, x)] = jpeg_halve(red, column) - 128;
    }
    __syncthreads();

    const int32_t block = thread / kJpegBlock, line = thread % kJpegBlock;
    int32_t* rows = blocks + block * kBlockSize + line * kBlockRow;
    int32_t* columns = blocks + block * kBlockSize + line;
    int32_t v[kJpegBlock];
    if (block < kBlocks) {
      for (int k = 0; k < kJpegBlock; ++k) v[k] = rows[k];
      jpeg_fdct_row(v);
      for (int k = 0; k < kJpegBlock; ++k) rows[k] = v[k];
    }
    __syncthreads();
    if (block < kBlocks) {
      const Quantisers& q = quantisers[block >= kLuma];
      for (int k = 0; k < kJpegBlock; ++k) v[k] = columns[k * kBlockRow];
      jpeg_fdct_column(v);
      for (int k = 0; k < kJpegBlock; ++k) {
        const int32_t i = k * kJpegBlock + line;
        v[k] = jpeg_level(v[k], q.by[i], q.inverse[i]) * q.by[i];
      }
      jpeg_idct_column(v);
      for (int k = 0; k < kJpegBlock; ++k) columns[k * kBlockRow] = v[k];
    }
    __syncthreads();
    if (block < kBlocks) {
      for (int k = 0; k < kJpegBlock; ++k) v[k] = rows[k];
      jpeg_idct_row(v);
      const bool luma = block < kLuma;
      const int32_t k = luma ? block : (block - kLuma) % kChroma, side = luma ? kSide : kSide / 2;
      const int32_t y = (luma ? y0 : y0 / 2) + k / side * kJpegBlock, x = (luma ? x0 : x0 / 2) + k % side * kJpegBlock;
      if (y < (luma ? h : planes.chroma_h) && x < (luma ? w : planes.chroma_w)) {
        uint8_t* to = b.pictures + step.out +
                      (luma                      ? 0
                       : block < kLuma + kChroma ? planes.blue
                                                 : planes.red) +
                      static_cast<int64_t>(y + line) * (luma ? planes.stride : planes.chroma_stride) + x;
        for (int i = 0; i < kJpegBlock; ++i) to[i] = jpeg_sample(v[i]);
      }
    }
    __syncthreads();  // `blocks` are free again
  });
}

// Planes → picture.
template <int C>
__global__ void __launch_bounds__(kThreads, 3) jpeg_pixels_kernel(const __grid_constant__ Batch b) {
  __shared__ Tile<C> tile;
  make_tiles<C>(b, tile, [&](const Step& step, const ImagePass&, int32_t y0, int32_t x0) {
    const uint8_t* luma = source(b, step);
    const JpegPlanes planes = jpeg_planes(step.h, step.w);
    each_pixel<C>(step, y0, x0, tile, [&](int32_t y, int32_t x, uint8_t* px) {
      const int32_t light = luma[static_cast<int64_t>(y) * planes.stride + x];
      if (C == 1) {
        px[0] = static_cast<uint8_t>(light);
        return;
      }
      const auto chroma = [&](int64_t plane) {
        return jpeg_chroma(luma + plane, planes.chroma_stride, planes.chroma_h, planes.chroma_w, y, x);
      };
      const int32_t blue = chroma(planes.blue), red = chroma(planes.red);
      px[0] = jpeg_r(light, red);
      px[C / 2] = jpeg_g(light, blue, red);
      px[C - 1] = jpeg_b(light, blue);
    });
  });
}

}  // namespace

template <int C>
void start_filter(Stage stage, const Batch& b, cudaStream_t stream) {
  const int64_t blocks = b.count * b.tiles;
  switch (stage) {
    case Stage::filter: return launch(filter_kernel<C>, blocks, kThreads, stream, b);
    case Stage::separable: return launch(separable_kernel<C>, blocks, kThreads, stream, b);
    case Stage::jpeg_blocks: return launch(jpeg_blocks_kernel<C>, blocks, kThreads, stream, b);
    default: return launch(jpeg_pixels_kernel<C>, blocks, kThreads, stream, b);
  }
}

template void start_filter<1>(Stage, const Batch&, cudaStream_t);
template void start_filter<3>(Stage, const Batch&, cudaStream_t);

}  // namespace dalipipe
