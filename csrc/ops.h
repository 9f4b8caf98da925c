// What every native operator takes: a plain parameter struct, checked once on the host, and two twins,
// `<verb>_cpu` and `<verb>_cuda`. No torch and no Python here: pointers, shapes, strides and a stream.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dalipipe {

enum class DType : int32_t { uint8 = 0, float16 = 1, bfloat16 = 2, float32 = 3 };
enum class Layout : int32_t { nchw = 0, nhwc = 1 };
enum class Warp : int32_t { none = 0, bilinear = 1, nearest = 2 };

// One sample of a fused image pass. Mirrored, field by field, by `dalipipe.native.IMAGE_SAMPLE` (a numpy dtype).
//
//   stored pixels → crop → antialiased resize → window → flip → [warp] → uint8 [H,W,C]      geometry: one rounding each
//     → [colour matrix] → uint8 → [table] → normalise → [erase] → cast, layout               colour: one rounding
//
// The resize is torch's `interpolate(mode="bilinear", antialias=True)` of uint8, to the bit. A bilinear warp takes
// `fill` for each of its four taps that lies outside the canvas. Roundings in colour and warp send halves up. Only a
// part of the picture need be stored (a decoder may have cut it): `origin` says where it lies in the crop. It must hold
// the taps of the pixels that the window shows, no more.
struct ImageSample {
  uint64_t data;                 // address of the first stored byte; uint8, HWC
  int64_t row_bytes;             // bytes from one stored row to the next
  int32_t stored_h, stored_w;    // px stored
  int32_t origin_y, origin_x;    // the stored region's first pixel, in crop coordinates
  int32_t crop_h, crop_w;        // px of the box that is resized; the resize sees nothing outside it
  int32_t resized_h, resized_w;  // px after the resize
  int32_t window_y, window_x;    // canvas pixel (0, 0) in resized coordinates; outside the resized picture: `fill`
  int32_t canvas_h, canvas_w;    // px of the canvas; equal to the output's unless warped
  int32_t flip;                  // bit 0: left-right, bit 1: up-down; of the canvas, before the warp
  int32_t warp;                  // a `Warp`
  // Output index (x, y) → canvas index: ((m0*x + m1*y) + m2, (m3*x + m4*y) + m5); pixel centres at integers.
  float matrix[6];
  int32_t colour;               // 0: none; 1: out = M·rgb + (K·mean(rgb) + offset), mean over the sample after geometry
  float colour_matrix[9];       // M, row-major; rgb in 0..255
  float colour_mean_matrix[9];  // K, row-major
  float colour_offset[3];
  int32_t table;    // 0: none; 1: uint8 → uint8 through this sample's table
  uint8_t fill[4];  // RGB outside the picture (fourth byte unused)
};
static_assert(sizeof(ImageSample) == 192, "keep dalipipe.native.IMAGE_SAMPLE in step");

struct FusedImageParams {
  const ImageSample* samples;  // [N] host
  int32_t n, channels;         // channels: 1 or 3, the same for stored pixels and output
  int32_t out_h, out_w;
  const uint8_t* tables;       // [N, channels, 256] or null; host
  int32_t erases;              // E: boxes a sample
  const int32_t* erase_boxes;  // [N, E, 4] as y, x, h, w in output px (clipped to it; h or w 0: none); host or null
  const float* erase_values;   // [N, E, channels] in output units (after normalisation); host or null
  float scale[3], bias[3];     // normalise: out = scale*v + bias, v in 0..255
  DType dtype;                 // uint8 needs scale 1, bias 0
  Layout layout;
  void* out;  // [N, C, H, W] or [N, H, W, C], dense; host for _cpu, device for _cuda
};

// Throws std::invalid_argument naming the sample, what was expected and what came.
void check_fused_image(const FusedImageParams& p);
void fused_image_cpu(const FusedImageParams& p, int32_t threads);

// The instruction set the CPU twins use: "scalar", "avx2" or "avx512"; the best at hand unless set (null or "": the
// best again). All compute the same bits. Throws std::invalid_argument for what this machine lacks.
const char* cpu_target();
void set_cpu_target(const char* name);

// Bytes of device scratch that fused_image_cuda needs for these samples; the caller owns it.
size_t fused_image_cuda_scratch_bytes(const FusedImageParams& p);
// Asynchronous on `stream` (a cudaStream_t). `pinned` is host scratch of the same size as the parameters' upload
// (fused_image_cuda_upload_bytes), which must stay untouched until the stream has passed this call.
size_t fused_image_cuda_upload_bytes(const FusedImageParams& p);
void fused_image_cuda(const FusedImageParams& p, void* scratch, size_t scratch_bytes, void* pinned, size_t pinned_bytes,
                      void* stream);

}  // namespace dalipipe
