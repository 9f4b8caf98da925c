// What the kernels of the fused image operator are given. A pass is cut into steps, each of which makes one picture: a
// kernel's work on one sample. The steps of one launch stand together.
#pragma once

#include "jpeg.h"
#include "pixel.h"

namespace dalipipe {

constexpr int32_t kTile = 32;  // px a side of what a block makes at a time

DP_HD int64_t tiles_of(int32_t h, int32_t w) {
  return static_cast<int64_t>((h + kTile - 1) / kTile) * ((w + kTile - 1) / kTile);
}

// In the order in which a round starts them.
enum class Stage : int32_t {
  resize,  // crop, resize, window, flip
  copy,    // crop, window, flip
  warp,    // a picture → another, as the three after it
  filter,  // of all kinds but these:
  separable,
  jpeg_blocks,  // picture → planes of luma and chroma, as a JPEG would hold them
  jpeg_pixels,  // planes → picture
  stretch,      // histogram → table
  recolour      // a picture that had to be whole before its colours can be told
};

// Offsets are into `Batch::taps`, in bytes.
struct AxisTask {
  Axis axis;
  View view;
  Span input;       // px the view draws on
  int64_t spans;    // Span [shown], from input.first
  int64_t weights;  // int16 [taps, shown]
};

// Offsets are into `Batch::pictures`, in bytes; -1: none.
struct Step {
  int64_t in;            // pixel (0, 0) of what it works on; where `stored`, from the pass's `data` instead
  int64_t in_row_bytes;  // 0: planes
  int64_t out;           // uint8 [h, w, C]
  int64_t sum, kept;     // of a blend: float and uint8 [h, w, C]
  int32_t stored;
  int32_t sample, pass;
  int32_t h, w;        // px of what it makes
  int32_t axes;        // resize: the first of two, x and y
  int32_t finish;      // 1: its pass's last, which does all from the stretch on; 0: geometry or filter alone
  int32_t last;        // 1: the sample's last, into the batch
  int32_t add, leave;  // 1: to what is in the sum; 1: leave the sum there
  int32_t collect;     // of what it makes: bit 0, sums; bit 1, histograms
  int32_t collected;   // the `Statistics` they go to
  int32_t known;       // the `Statistics` of what comes in; -1: not needed
  int32_t stretched;   // which `Stretched`; -1: none
};

// Of one picture, by channel.
struct Statistics {
  unsigned long long sums[3];
  uint32_t counts[3][256];
};

struct Stretched {
  float mean[3];  // of the picture once it is stretched
  uint8_t table[3][256];
};

// Planes of luma and chroma, in whole blocks of 8x8: Y, then, at half the size, Cb and Cr.
struct JpegPlanes {
  int32_t chroma_h, chroma_w;     // px
  int32_t stride, chroma_stride;  // bytes a row
  int64_t blue, red, bytes;       // where Cb and Cr begin, and all end
};

DP_HD int32_t whole_blocks(int32_t px) { return (px + kJpegBlock - 1) / kJpegBlock * kJpegBlock; }

DP_HD JpegPlanes jpeg_planes(int32_t h, int32_t w) {
  const int32_t chroma_h = (h + 1) / 2, chroma_w = (w + 1) / 2;
  const int32_t stride = whole_blocks(w), chroma_stride = whole_blocks(chroma_w);
  const int64_t luma = static_cast<int64_t>(stride) * whole_blocks(h);
  const int64_t chroma = static_cast<int64_t>(chroma_stride) * whole_blocks(chroma_h);
  return {chroma_h, chroma_w, stride, chroma_stride, luma, luma + chroma, luma + 2 * chroma};
}

// What every kernel gets.
struct Batch {
  const Step* steps;  // [count], of the launch
  int32_t count;
  int64_t tiles;  // a step, at most
  const ImagePass* passes;
  const AxisTask* axes;
  const uint8_t* tables;  // [tables, C, 256]
  const float* weights;   // of filters
  const EraseBox* erases;
  Statistics* statistics;
  Stretched* stretched;
  int32_t* precision;  // [axes]
  uint8_t* taps;
  uint8_t* pictures;
  uint8_t* out;
  float scale[3], bias[3];
  DType dtype;
  Layout layout;
};

}  // namespace dalipipe
