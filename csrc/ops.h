// What every native operator takes: a plain parameter struct, checked once on the host, and two twins,
// `<verb>_cpu` and `<verb>_cuda`. No torch and no Python here: pointers, shapes, strides and a stream.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dalipipe {

enum class DType : int32_t { uint8 = 0, float16 = 1, bfloat16 = 2, float32 = 3 };
enum class Layout : int32_t { nchw = 0, nhwc = 1 };
enum class Resample : int32_t { bilinear = 0, bicubic = 1, nearest = 2 };
enum class Warp : int32_t { none = 0, bilinear = 1, nearest = 2, bicubic = 3 };
enum class Filter : int32_t {  // what each does, and its values: filter.h
  none = 0,
  sharpen = 1,
  separable = 2,
  convolve = 3,
  gaussian_noise = 4,
  salt_pepper = 5,
  grid = 6,
  jpeg = 7
};
enum class Stretch : int32_t { none = 0, autocontrast = 1, equalize = 2 };  // a table made from the picture's histogram
enum class Blend : int32_t { none = 0, add = 1, last = 2 };

// Names the random numbers of one picture's elements: Philox key and the counter's first three words. Element e takes
// word e % 4 of block kElementBlock + e / 4; below that are the blocks that the host draws from.
constexpr uint32_t kElementBlock = 0x80000000u;
struct NoiseKey {
  uint32_t key[2], counter[3];
};

// One pass over one sample's pixels. A sample goes through one or more, each taking up the uint8 picture that the one
// before it left; the last one's goes into the batch. Mirrored, field by field, by `dalipipe.native.IMAGE_PASS`.
//
//   stored pixels → crop → resize → window → flip → [warp]                    geometry: rounded after resize and warp
//     → [filter]                                                              uint8 → uint8, neighbours and noise
//     → [stretch] → [colour matrix] → [hue] → [table]                         pixel by pixel
//     → [erase] → [blend] → the next pass; or normalise → [erase] → cast, layout
//
// The resize is torch's `interpolate(antialias=True)` of uint8, to the bit. A warp takes `fill` for each of its taps
// that lies outside the canvas. Its roundings send halves up; colour truncates, as torchvision and Pillow do. Only a
// part of the first pass's picture need be stored (a decoder may have cut it): `origin` says where it lies in the crop.
// It must hold the taps of the pixels that the window shows, no more. Of later passes, what is stored is not looked at,
// and the origin is minus the crop's corner in the picture that comes in.
struct ImagePass {
  uint64_t data;                 // address of the first stored byte; uint8, HWC
  int64_t row_bytes;             // bytes from one stored row to the next
  int32_t stored_h, stored_w;    // px stored
  int32_t origin_y, origin_x;    // the stored region's first pixel, in crop coordinates
  int32_t crop_h, crop_w;        // px of the box that is resized; the resize sees nothing outside it
  int32_t resized_h, resized_w;  // px after the resize
  int32_t window_y, window_x;    // canvas pixel (0, 0) in resized coordinates; outside the resized picture: `fill`
  int32_t canvas_h, canvas_w;    // px of the canvas; equal to the output's unless warped
  int32_t out_h, out_w;          // px of the pass's output
  int32_t resample;              // a `Resample`
  int32_t flip;                  // bit 0: left-right, bit 1: up-down; of the canvas, before the warp
  int32_t warp;                  // a `Warp`
  // Output index (x, y), moved by `displacement`, → canvas index: ((m0*x + m1*y) + m2, (m3*x + m4*y) + m5), both
  // divided by (m6*x + m7*y) + m8 unless that row is 0, 0, 1; pixel centres at integers.
  float matrix[9];
  uint64_t displacement;       // 0, or address of float [2, out_h, out_w]: px added to x, to y
  uint8_t fill[4];             // RGB outside the picture (fourth byte unused)
  int32_t filter;              // a `Filter`
  int32_t filter_h, filter_w;  // its taps, where it has any; odd
  int64_t filter_weights;      // the first of them in `weights`
  float filter_values[12];
  NoiseKey noise;               // the filter's
  int32_t stretch;              // a `Stretch`
  int32_t colour;               // 0: none; 1: M·rgb + (K·mean(rgb) + offset), the mean over what comes in
  float colour_matrix[9];       // M, row-major; rgb in 0..255
  float colour_mean_matrix[9];  // K, row-major
  float colour_offset[3];
  float hue;                    // turns, -0.5 ... 0.5; 0: none
  int32_t table;                // which of `tables`; -1: none
  int32_t first_erase, erases;  // which of `erases`, in order
  int32_t from_kept;            // 1: takes up the kept picture instead of the last pass's
  int32_t keep;                 // 1: its output is also kept, in the place of what was
  // add: `weight` · output goes into a float sum, which is empty after a pass that keeps. last: so does this one's, and
  // `kept_weight` · kept picture; the sum, truncated to uint8, is what goes on. The kept picture has the output's size.
  int32_t blend;  // a `Blend`
  float weight, kept_weight;
};
static_assert(sizeof(ImagePass) == 352, "keep dalipipe.native.IMAGE_PASS in step");

// A box set to a colour, or to noise about it.
struct EraseBox {
  int32_t y, x, h, w;  // output px; clipped to it, h or w below 1: none
  float values[3];     // in 0..255; of a sample's last pass in output units, after normalisation
  float sigma[3];      // 0, or of normal noise, added per element (y * out_w + x) * channels + c
  NoiseKey noise;
};
static_assert(sizeof(EraseBox) == 60, "keep dalipipe.native.ERASE_BOX in step");

struct FusedImageParams {
  const ImagePass* passes;  // [passes of all samples], sample after sample; host
  const int32_t* starts;    // [N + 1]: sample i has passes starts[i] ... starts[i + 1] - 1, at least one; host
  int32_t n, channels;      // channels: 1 or 3, the same for stored pixels and output
  int32_t out_h, out_w;     // of every last pass
  const uint8_t* tables;    // [table_count, channels, 256] or null; host
  int32_t table_count;
  const float* weights;  // [weight_count], of filters, or null; host
  int64_t weight_count;
  const EraseBox* erases;  // [erase_count] or null; host
  int32_t erase_count;
  float scale[3], bias[3];  // normalise: out = scale*v + bias, v in 0..255
  DType dtype;              // uint8 needs scale 1, bias 0
  Layout layout;
  void* out;  // [N, C, H, W] or [N, H, W, C], dense; host for _cpu, device for _cuda
};

// Throws std::invalid_argument naming the sample and its pass, what was expected and what came.
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

// The displacement of an elastic warp, as torchvision's ElasticTransform draws it (after Simard et al., ICDAR 2003):
// noise in [-1, 1), the same in x as in y but for its elements, blurred by gaussians, times half of alpha.
struct ElasticField {
  uint64_t out;      // address of float [2, h, w]: px added to x, to y; dense; device memory for _cuda
  uint64_t weights;  // address of float: [2, taps[0]] of x's blur, across before down, then [2, taps[1]] of y's; host
  int32_t h, w;      // px
  int32_t taps[2];   // of the blur of x, of y; odd; 0: none
  float scale[2];    // px that noise of 1 moves x, y: alpha / 2
  NoiseKey noise;    // element y * w + x of x, h * w more of y
  int32_t unused;
};
static_assert(sizeof(ElasticField) == 64, "keep dalipipe.native.ELASTIC_FIELD in step");

// Throws std::invalid_argument naming the field.
void check_elastic(const ElasticField* fields, int32_t n);
void elastic_cpu(const ElasticField* fields, int32_t n, int32_t threads);
// As fused_image_cuda: asynchronous on `stream`, `pinned` of the size of the upload.
size_t elastic_cuda_scratch_bytes(const ElasticField* fields, int32_t n);
size_t elastic_cuda_upload_bytes(const ElasticField* fields, int32_t n);
void elastic_cuda(const ElasticField* fields, int32_t n, void* scratch, size_t scratch_bytes, void* pinned,
                  size_t pinned_bytes, void* stream);

}  // namespace dalipipe
