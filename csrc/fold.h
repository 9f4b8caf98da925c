// Folding: which of the operators drawn for a sample share a pass over its pixels, and what the passes' parameters are.
// Works on the host, sample by sample; the passes are what fused_image takes.
//
//     crop box → resize → window → flip → warp or displacement → filter → stretch → colour → hue → table → erase →
//     blend
//
// Operators in this order share a pass; one that comes too late begins the sample's next.
#pragma once

#include <cstdint>
#include <vector>

#include "ops.h"

namespace dalipipe {

enum class Family : int32_t {
  boundary = 0,  // no operator: what comes next begins a pass of its own
  resize = 1,
  crop = 2,
  flip = 3,
  warp = 4,
  elastic = 5,
  filter = 6,
  stretch = 7,
  colour = 8,
  hue = 9,
  table = 10,
  erase = 11,
  blend = 12
};

enum class BlendStep : int32_t { keep = 0, add = 1, last = 2 };

// An operator, and what was drawn of it for `count` samples. Mirrored by `dalipipe.native.FOLD_OP`; what the parameters
// are and mean: `dalipipe.ops.image.families`.
struct FoldOp {
  int32_t family;        // a `Family`
  int32_t detail;        // of a filter: `Filter`; a stretch: `Stretch`; a blend: `BlendStep`
  int32_t fill[3];       // of a crop, a warp, an elastic
  int32_t normalised;    // of an erase: its value counts in normalised units
  int64_t count, width;  // samples; weights of a filter or boxes of an erase that each has
  uint64_t rows;         // address of int64 [count]: which samples, rising
  // Addresses of [count, …]; 0 where an operator has no such parameter.
  //   resize: box int64 [4], resized int64 [2], resample int64      crop: box int64 [4]       flip: uint8 [2]
  //   warp: matrix double [9], warp int64      elastic: alpha, sigma double [2], warp int64, noise uint32 [5]
  //   filter: values float [12], noise uint32 [5], weights float [width], taps int64 [2]
  //   colour: matrix, mean_matrix double [9], offset double [3]     hue: double               table: uint8 [256]
  //   erase: boxes int64 [width, 4], noise uint32 [5]               blend: weight, kept_weight double
  uint64_t params[4];
  uint64_t depths;        // address of int32 [count], or 0: which of its sample's passes it is in; -1: it moves nothing
  float value[3], sigma;  // of an erase
};
static_assert(sizeof(FoldOp) == 104, "keep dalipipe.native.FOLD_OP in step");

struct FoldParams {
  const FoldOp* ops;
  int32_t op_count;
  const int64_t* size;  // [n, 2]: px, height and width of the pictures
  int32_t n;
  bool normalises;          // whether the output is normalised: erased values of last passes then are, too
  float scale[3], bias[3];  // how
};

// All passes of n samples, sample after sample.
struct Folded {
  std::vector<ImagePass> passes;  // all but stored pixels and displacements filled in
  std::vector<int32_t> starts;    // [n + 1]
  std::vector<int64_t> box;       // [passes, 4]: the crop box in the picture that comes in, as y, x, h, w
  std::vector<int64_t> roi;       // [n, 4]: what the first pass looks at of the stored picture; a pixel at least
  std::vector<int64_t> out_size;  // [n, 2]
  std::vector<uint8_t> tables;    // [tables, 256]
  std::vector<float> weights;
  std::vector<EraseBox> erases;
  std::vector<uint8_t> scaled;                       // [erases]: of last passes, and not in the output's units yet
  std::vector<int64_t> elastic_at, elastic_size;     // [elastics]: their passes, and [elastics, 2]: px of their outputs
  std::vector<double> elastic_alpha, elastic_sigma;  // [elastics, 2]
  std::vector<uint32_t> elastic_noise;               // [elastics, 5]
};

// Throws std::invalid_argument where rows do not rise within 0 ... n - 1.
Folded fold(const FoldParams& p);

}  // namespace dalipipe
