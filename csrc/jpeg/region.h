// A region of a picture, and the MCUs that it comes from.
#pragma once

#include <cstdint>

#include "tensor.h"

namespace dalipipe {

struct Region {  // px
  int32_t y, x, h, w;
};

// MCUs [y0, y1) x [x0, x1).
struct McuBox {
  int32_t y0, y1, x0, x1;
};

// Those that hold a region's pixels, and the chroma beside them that theirs is interpolated from: of a picture of this
// size, whose MCUs have `down` rows and `across` columns of luma blocks.
DP_HD McuBox mcus_under(const Region& r, int32_t height, int32_t width, int32_t down, int32_t across) {
  const int32_t beside_y = down > 1, beside_x = across > 1, mcu_h = 8 * down, mcu_w = 8 * across;
  const int32_t top = r.y - beside_y, left = r.x - beside_x;
  const int32_t bottom = r.y + r.h + beside_y, right = r.x + r.w + beside_x;
  return {(top > 0 ? top : 0) / mcu_h, ((bottom < height ? bottom : height) + mcu_h - 1) / mcu_h,
          (left > 0 ? left : 0) / mcu_w, ((right < width ? right : width) + mcu_w - 1) / mcu_w};
}

DP_HD bool is_inside(const Region& r, int32_t height, int32_t width) {
  return r.y >= 0 && r.x >= 0 && r.h > 0 && r.w > 0 && r.h <= height - r.y && r.w <= width - r.x;
}

}  // namespace dalipipe
