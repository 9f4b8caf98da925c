// Feeds mutated JPEGs to the transcoder, the cutter and the decoder. What is transcoded must have the coefficients that
// went in, and be the same when transcoded again; what is cut must decode as the whole does; scalar loops and vectors
// must agree.
#include <algorithm>
#include <vector>

#include "fuzz.h"
#include "jpeg/coefficients.h"
#include "jpeg/tiles.h"
#include "ops.h"
#include "shards.h"

using namespace dalipipe;

namespace {

using Blob = std::vector<uint8_t>;
bool scalar = false;

// Pixels of a region; empty: it was not decoded.
Blob pixels(const Blob& file, const Region& r) {
  Blob out(static_cast<size_t>(r.h) * r.w * 3);
  const auto exact = exactly(file.data(), file.size());
  scalar = false;
  const char* wrong = read_jpeg(exact.get(), file.size(), r, out.data());
  Blob again(out.size());
  scalar = true;
  require(read_jpeg(exact.get(), file.size(), r, again.data()) == wrong, "scalar and vectors: the same is wrong");
  if (wrong) return {};
  require(out == again, "scalar and vectors: the same pixels");
  return out;
}

void compare_coefficients(const Blob& a, const Blob& b) {
  JpegFile first(a.data(), a.size()), second(b.data(), b.size());
  JpegCoefficients read_first, read_second;
  require(!read_first.read(first), "what is transcoded can be read");
  require(!read_second.read(second), "and so can what comes of it");
  const JpegCoefficients &x = read_first, &y = read_second;
  require(first.height == second.height && first.width == second.width && first.components == second.components,
          "the same frame");
  for (int32_t c = 0; c < first.components; ++c) {
    const JpegComponent &p = first.component[c], &q = second.component[c];
    require(p.id == q.id && p.blocks_y == q.blocks_y && p.blocks_x == q.blocks_x, "the same components");
    require(std::equal(p.quantisers, p.quantisers + 64, q.quantisers), "the same quantisers");
    for (int32_t by = 0; by < p.blocks_y; ++by) {
      for (int32_t bx = 0; bx < p.blocks_x; ++bx) {
        require(std::equal(x.block(c, by, bx), x.block(c, by, bx) + 64, y.block(c, by, bx)), "the same coefficients");
      }
    }
  }
}

}  // namespace

// Which loops read_jpeg uses; the library's own choice is not part of this program.
const char* dalipipe::cpu_target() { return scalar ? "scalar" : "avx2"; }

void fuzz_jpeg(const uint8_t* data, size_t size) {
  const uint32_t chance = crc32c(data, size);
  const auto exact = exactly(data, size);
  const Blob file(data, data + size);
  JpegFile frame(exact.get(), size);
  const bool has_frame = frame.next_scan();
  const bool small = has_frame && static_cast<int64_t>(frame.height) * frame.width <= 1 << 16;
  Region whole{0, 0, frame.height, frame.width}, part = whole;
  if (has_frame) {
    part.y = static_cast<int32_t>(chance % frame.height);
    part.x = static_cast<int32_t>(chance / 7 % frame.width);
    part.h = 1 + static_cast<int32_t>(chance / 49 % (frame.height - part.y));
    part.w = 1 + static_cast<int32_t>(chance / 343 % (frame.width - part.x));
  }
  const auto crop = [&](const Blob& from) {
    Blob out;
    for (int32_t y = part.y; y < part.y + part.h; ++y) {
      const auto row = from.begin() + (static_cast<int64_t>(y) * whole.w + part.x) * 3;
      out.insert(out.end(), row, row + 3 * part.w);
    }
    return out;
  };
  const auto cut_of = [&](const Blob& from, Region& region) {
    const auto source = exactly(from.data(), from.size());
    const std::unique_ptr<uint8_t[]> room(new uint8_t[from.size()]);
    const Cut cut = cut_jpeg(source.get(), from.size(), part, room.get());
    require(cut.bytes >= 0 && cut.bytes <= static_cast<int64_t>(from.size()), "a cut takes no more room");
    require(cut.tiles >= 0 && cut.tiles <= cut.of_tiles, "and has no more tiles");
    region = {part.y - cut.y, part.x - cut.x, part.h, part.w};
    return Blob(room.get(), room.get() + cut.bytes);
  };

  Region within = part;
  const Blob left = cut_of(file, within);
  const Blob before = small ? pixels(file, whole) : Blob();
  if (!before.empty()) {
    require(pixels(file, part) == crop(before), "a region is part of the picture");
    require(pixels(left, within) == crop(before), "cut: the same pixels");
  }

  Blob tiled, again;
  if (tile_jpeg(exact.get(), size, 1 + static_cast<int32_t>(chance % 100), chance & 1, tiled)) return;
  require(has_frame, "a picture has a frame");
  if (frame.mcus_x * static_cast<int64_t>(frame.mcus_y) <= 1 << 14) compare_coefficients(file, tiled);
  require(!tile_jpeg(tiled.data(), tiled.size(), 1 + static_cast<int32_t>(chance % 100), chance & 1, again), "again");
  require(again == tiled, "once tiled, for good");
  TileGrid grid(tiled.data(), tiled.size());
  require(!grid.read(), "what is tiled is a grid");
  if (!small) return;
  const Blob after = pixels(tiled, whole);
  if (!before.empty()) require(after == before, "tiled: the same pixels");
  if (after.empty()) return;  // RGB
  const Blob cut = cut_of(tiled, within);
  require(pixels(cut, within) == crop(after), "cut of the tiled: the same pixels");
}
