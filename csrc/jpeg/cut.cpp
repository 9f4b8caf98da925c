// Cutting a file of tiles: nothing is decoded, segments are copied and their restarts counted anew.
#include <algorithm>
#include <cstring>

#include "cpu/pool.h"
#include "jpeg.h"
#include "jpeg/tiles.h"

namespace dalipipe {

const char* TileGrid::read() {
  if (!file.next_scan()) return file.wrong() ? file.wrong() : "it has no picture";
  if (file.progressive || file.scan.count != file.components) return "it has several scans";
  const int32_t restart = file.scan.restart;
  if (restart == 0 || file.mcus_x % restart != 0) return "its restarts make no grid";
  rows = file.mcus_y;
  columns = file.mcus_x / restart;
  height = file.mcu_height;
  width = restart * file.mcu_width;
  if (!file.segments(segments)) return file.wrong();
  if (file.next_scan()) return "it has several scans";
  return file.wrong();
}

Cut cut_jpeg(const uint8_t* data, size_t size, const Region& r, uint8_t* out) {
  TileGrid grid(data, size);
  const JpegFile& file = grid.file;
  const bool inside = !grid.read() && is_inside(r, file.height, file.width);
  Cut cut{static_cast<int64_t>(size), 0, 0, file.height, file.width, 0, 0};
  if (!inside) {
    std::memcpy(out, data, size);
    return cut;
  }
  cut.tiles = cut.of_tiles = grid.rows * grid.columns;
  // Chroma that is coarser than the picture is interpolated from the sample beside it, too.
  const bool coarse = file.components > 1;
  const int32_t beside_y = coarse && file.component[0].down > 1, beside_x = coarse && file.component[0].across > 1;
  const int32_t y0 = std::max(r.y - beside_y, 0) / grid.height;
  const int32_t y1 = (std::min(r.y + r.h + beside_y, file.height) + grid.height - 1) / grid.height;
  const int32_t x1 = (std::min(r.x + r.w + beside_x, file.width) + grid.width - 1) / grid.width;
  int32_t x0 = std::max(r.x - beside_x, 0) / grid.width;
  // Chroma of one or two columns is not interpolated at all: the last columns of a picture must not seem to be such.
  while (beside_x && x0 > 0 && file.width - x0 * grid.width <= 2 * kJpegPlainWidth) --x0;
  cut.tiles = (y1 - y0) * (x1 - x0);
  cut.y = y0 * grid.height;
  cut.x = x0 * grid.width;
  cut.height = std::min(y1 * grid.height, file.height) - cut.y;
  cut.width = std::min(x1 * grid.width, file.width) - cut.x;
  uint8_t* to = std::copy_n(data, file.first_scan.end, out);
  uint8_t* const frame = out + file.frame.begin + 5;
  frame[0] = static_cast<uint8_t>(cut.height >> 8), frame[1] = static_cast<uint8_t>(cut.height);
  frame[2] = static_cast<uint8_t>(cut.width >> 8), frame[3] = static_cast<uint8_t>(cut.width);
  int32_t restart = 0;
  for (int32_t y = y0; y < y1; ++y) {
    for (int32_t x = x0; x < x1; ++x) {
      const JpegPart& part = grid.segments[static_cast<size_t>(y) * grid.columns + x];
      to = std::copy(data + part.begin, data + part.end, to);
      *to++ = 0xFF;
      *to++ = static_cast<uint8_t>(0xD0 + restart++ % 8);
    }
  }
  to[-1] = 0xD9;  // in the place of a restart behind the last
  cut.bytes = to - out;
  return cut;
}

void cut_jpegs(const uint8_t* arena, const int64_t* starts, const Region* regions, int64_t n, int32_t threads,
               uint8_t* out, Cut* cuts) {
  parallel_for(n, threads, [&](int64_t i) {
    const size_t size = static_cast<size_t>(starts[i + 1] - starts[i]);
    cuts[i] = cut_jpeg(arena + starts[i], size, regions[i], out + starts[i]);
  });
}

}  // namespace dalipipe
