// The row loops of the fused image operator, one set per instruction set; image.cpp strings them together.
// Every set computes pixel.h's formulas bit for bit.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>
#include <type_traits>

#include "pixel.h"

namespace dalipipe {

// Plain data that grows and keeps its contents, aligned to a cache line. Fresh memory is zero.
template <typename T>
class Buffer {
  static_assert(std::is_trivial<T>::value, "plain data only");

 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { release(); }

  // Room for at least n elements.
  T* need(int64_t n) {
    if (n > size_) {
      const int64_t size = n + size_ / 2;
      const size_t bytes = (static_cast<size_t>(size) * sizeof(T) + 63) / 64 * 64, kept = size_ * sizeof(T);
      T* data = static_cast<T*>(std::aligned_alloc(64, bytes));
      if (data == nullptr) throw std::bad_alloc();
      if (kept) memcpy(static_cast<void*>(data), data_, kept);
      memset(reinterpret_cast<char*>(data) + kept, 0, bytes - kept);
      release();
      data_ = data;
      size_ = size;
    }
    return data_;
  }
  void release() {
    std::free(data_);
    data_ = nullptr;
    size_ = 0;
  }
  int64_t bytes() const { return size_ * static_cast<int64_t>(sizeof(T)); }
  T* data() { return data_; }
  const T* data() const { return data_; }

 private:
  T* data_ = nullptr;
  int64_t size_ = 0;
};

// One axis's weights for the outputs a canvas shows, in canvas order.
struct Taps {
  int32_t count = 0;  // outputs
  int32_t precision = 0;
  Span input{0, 0};         // the input px they draw on
  Buffer<Span> spans;       // [count], from input.first
  Buffer<int16_t> weights;  // [sum of the spans' counts]
};

// The horizontal pass of a row as table look-ups, for vector targets. A group is `lanes` neighbouring output bytes; in
// each step every lane takes its next two taps out of a window of `4 * lanes / windows` input bytes: byte index[4l]
// with weight[2l], byte index[4l + 2] with weight[2l + 1] (index 0x80: no tap, weight 0). All rows of a sample share
// it.
struct Gather {
  int32_t groups = 0;
  Buffer<int32_t> start;   // [groups + 1]: the groups' first steps
  Buffer<int32_t> base;    // [steps, windows]: where the window lies in the row
  Buffer<uint8_t> index;   // [steps, 4 * lanes]
  Buffer<int16_t> weight;  // [steps, 2 * lanes]
};

constexpr int32_t kBlockRows = 8;    // rows a horizontal call takes
constexpr int32_t kRowPadding = 64;  // bytes a kernel may read, and `vertical` also write, past a row's last pixel

// A picture in scratch with a frame of `fill`, kFrame_px above and left, one more below and right, so that the taps
// about a warp's clamped indices need no test.
constexpr int32_t kFrame_px = 3;
struct Canvas {
  const uint8_t* origin;  // pixel (0, 0); at least 3 readable bytes follow the frame
  int32_t stride;         // bytes a row
  int32_t height, width;  // px, without the frame
};

// How rows are finished; the same for a whole call.
struct Finish {
  const FusedImageParams& p;
  bool stream;    // output rows are aligned to a cache line and may bypass the cache
  int64_t plane;  // elements from a channel to the next; 0: a row's elements stand in output order
  // Of three registers of `lanes` elements. With planes each holds one channel of as many pixels; else they hold
  // neighbouring elements, over which the channels repeat.
  alignas(64) float scale[48], bias[48];

  Finish(const FusedImageParams& params, int32_t lanes, bool bypass)
      : p(params),
        stream(bypass),
        plane(p.layout == Layout::nchw && p.channels == 3 ? static_cast<int64_t>(p.out_h) * p.out_w : 0) {
    for (int32_t i = 0; i < 3 * lanes; ++i) {
      scale[i] = p.scale[plane ? i / lanes : i % p.channels];
      bias[i] = p.bias[plane ? i / lanes : i % p.channels];
    }
  }
};

// Two neighbouring weights as the int32 that vector targets spread over a register.
inline int32_t load_pair(const int16_t* weights) {
  int32_t pair;
  memcpy(&pair, weights, sizeof pair);
  return pair;
}

// Rows are uint8 [width, channels]. A `from` lets a vector kernel leave the last few pixels to the scalar one.
struct ImageKernels {
  const char* name;
  int32_t lanes, windows;  // of a Gather; 0: `horizontal` works from the taps

  // kBlockRows rows → kBlockRows / 2 rows of pairs: int16 [elements, 2], an element of one row beside that of the next.
  // `ahead`: bytes from each row to the one the next call will take in its place.
  void (*horizontal)(const Taps& taps, const Gather& gather, int32_t channels, const uint8_t* const* rows,
                     int64_t ahead, int16_t* const* pairs);
  // `n` rows of pairs, weights [n, 2] → one row; writes up to kRowPadding bytes too many.
  void (*vertical)(const int16_t* const* pairs, const int16_t* weights, int32_t n, int32_t elements, int32_t precision,
                   uint8_t* row);
  void (*warp)(const Canvas& canvas, const ImagePass& s, int32_t channels, int32_t y, int32_t from, int32_t width,
               uint8_t* row);
  // In place; constant: K·mean + offset of each channel.
  void (*colour)(const float* matrix, const float* constant, int32_t channels, int32_t from, int32_t width,
                 uint8_t* row);
  // In place, of three channels.
  void (*hue)(float turns, int32_t from, int32_t width, uint8_t* row);
  // In place; table: [channels, 256].
  void (*look_up)(const uint8_t* table, int32_t channels, int32_t elements, uint8_t* row);
  // A row's pixels in reverse order; nothing else is read or written.
  void (*mirror)(const uint8_t* row, int32_t channels, int32_t width, uint8_t* out);
  // Normalise, cast, lay out: a row, or several that follow each other. `out` is where channel 0 of the first pixel
  // goes.
  void (*finish)(const Finish& f, const uint8_t* row, int32_t width, void* out);
  // `vertical` and `finish` in one, for a row that needs nothing between; null: call both.
  void (*vertical_finish)(const Finish& f, const int16_t* const* pairs, const int16_t* weights, int32_t n,
                          int32_t precision, void* out);
};

extern const ImageKernels scalar_kernels;
const ImageKernels* avx2_kernels();  // null: not built for, or not on this machine
const ImageKernels* avx512_kernels();

}  // namespace dalipipe
