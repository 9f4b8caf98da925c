// Label maps (masks) moved by the geometry of image passes, by nearest neighbours. Its specification in numpy is
// `dalipipe.ops.targets.move_labels`.
#pragma once

#include <cstdint>

#include "ops.h"
#include "pixel.h"
#include "tensor.h"

namespace dalipipe {

// A whole label map, of its picture's size. Mirrored, field by field, by `dalipipe.native.LABEL_MAP`.
struct LabelMap {
  uint64_t data;      // address of its first label; host
  int64_t row_bytes;  // bytes from one row to the next
  int32_t h, w;       // px
  int32_t bytes;      // a label: 1 (uint8) or 4 (int32)
  int32_t unused;
};

struct MoveLabelsParams {
  const LabelMap* maps;     // [N]
  const ImagePass* passes;  // as in FusedImageParams; of each, origin is minus the crop's corner in what comes in.
  const int32_t* starts;    // [N + 1]
  int32_t n, out_h, out_w;
  const int32_t*
      table;  // [table_count]: label in the maps → label in the batch, its last entry for all others; or null
  int32_t table_count;
  int32_t ignore;     // where geometry leaves the map
  int32_t out_bytes;  // a label of the output: 1 (uint8), 4 (int32) or 8 (int64); must hold all that comes up
  void* out;          // [N, H, W], dense
};

// All of a pass but its geometry is passed over. Throws std::invalid_argument naming the sample, what was expected and
// what came; a pass that blends is refused, since a label cannot follow several pictures into one.
void move_labels_cpu(const MoveLabelsParams& p, int32_t threads);

// One axis of a pass: canvas index → index in the picture that comes in, of `in` px; -1 outside. `axis`: from crop to
// resized, nearest, whatever the image's.
DP_HD int32_t label_index(int32_t i, const View& view, const Axis& axis, int32_t origin, int32_t in) {
  if (!view.holds(i)) return -1;
  const int64_t at = static_cast<int64_t>(span(axis, view.at(i)).first) - origin;
  return at >= 0 && at < in ? static_cast<int32_t>(at) : -1;
}

}  // namespace dalipipe
