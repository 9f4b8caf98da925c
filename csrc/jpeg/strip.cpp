#include "jpeg/strip.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "cpu/pool.h"
#include "jpeg/ones.h"
#include "jpeg/tiles.h"

namespace dalipipe {
namespace {

// Which of the codes it is; one is added where it is none of them.
uint8_t place_of(const HuffmanCode& code, std::vector<StatedCode>& codes, size_t first) {
  StatedCode stated{};
  std::copy_n(code.counts + 1, 16, stated.counts);
  std::copy_n(code.symbols, code.total, stated.symbols);
  size_t i = first;
  while (i < codes.size() && std::memcmp(&codes[i], &stated, sizeof stated) != 0) ++i;
  if (i == codes.size()) codes.push_back(stated);
  return static_cast<uint8_t>(i);
}

}  // namespace

void read_tiles(const uint8_t* data, size_t size, const Region* region, Stripping& out) {
  TileGrid grid(data, size);
  const JpegFile& file = grid.file;
  const auto refuse = [&](const char* why) { out.why_not = why; };
  out.why_not = grid.read();
  if (file.is_rgb()) return refuse("components that are RGB");
  out.tiled = grid.rows > 0;
  if (out.why_not) return;
  for (int32_t c = 0; c < file.components; ++c) {
    const JpegComponent& component = file.component[c];
    const HuffmanCode& dc = file.dc[component.dc];
    if (dc.total == 0 || file.ac[component.ac].total == 0) return refuse("it lacks a Huffman code");
    if (!is_sound(dc, true) || !is_sound(file.ac[component.ac], false)) {
      return refuse("its Huffman codes are malformed");
    }
    out.head.dc[c] = place_of(dc, out.codes, 0);
    for (int32_t k = 0; k < 64; ++k) {
      const int32_t quantiser = component.quantisers[kZigzag.place[k]];
      if (quantiser > 255) return refuse("quantisers of more than 8 bits");
      out.head.quantisers[c][k] = static_cast<uint8_t>(quantiser);
    }
  }
  const size_t first_ac = out.codes.size();
  for (int32_t c = 0; c < file.components; ++c) {
    out.head.ac[c] = place_of(file.ac[file.component[c].ac], out.codes, first_ac);
  }
  JpegShape& shape = out.head.shape;
  shape = {
      file.height, file.width, file.components, file.component[0].across, file.component[0].down, file.scan.restart, 0,
      0,           grid.rows,  grid.columns};
  if (region) {
    if (!is_inside(*region, file.height, file.width)) return refuse("a region outside the picture");
    const McuBox mcus = mcus_under(*region, file.height, file.width, shape.down, shape.across);
    shape.row = mcus.y0;
    shape.rows = mcus.y1 - mcus.y0;
    shape.column = mcus.x0 / shape.tile;
    shape.columns = (mcus.x1 + shape.tile - 1) / shape.tile - shape.column;
  }
  out.head.codes = static_cast<int32_t>(out.codes.size());
  out.bytes = stripped_bits(shape, out.head.codes);
  out.begins.reserve(static_cast<size_t>(shape.rows) * shape.columns);
  out.ends.reserve(static_cast<size_t>(shape.rows) * shape.columns);
  for (int32_t y = shape.row; y < shape.row + shape.rows; ++y) {
    for (int32_t x = shape.column; x < shape.column + shape.columns; ++x) {
      const JpegPart& part = grid.segments[static_cast<size_t>(y) * grid.columns + x];
      out.begins.push_back(data + part.begin);
      out.ends.push_back(data + part.end);
      out.bytes += whole_words(static_cast<int64_t>(part.end - part.begin));
    }
  }
}

void write_stripped(const Stripping& from, uint8_t* to) {
  std::memcpy(to, &from.head, sizeof from.head);
  uint8_t* at = std::copy_n(reinterpret_cast<const uint8_t*>(from.codes.data()), from.codes.size() * sizeof(StatedCode),
                            to + sizeof from.head);
  uint8_t* const bits = to + stripped_bits(from.head.shape, from.head.codes);
  uint8_t* end = bits;
  for (size_t i = 0; i < from.begins.size(); ++i) {
    end = copy_unstuffed(from.begins[i], from.ends[i], end);
    const uint32_t place = static_cast<uint32_t>(end - bits);
    std::memcpy(at + 4 * i, &place, 4);
    while ((end - bits) % 4 != 0) *end++ = 0;
  }
}

StripBatch::StripBatch(const uint8_t* arena, const int64_t* starts, const Region* regions, int64_t n, int32_t threads)
    : files_(static_cast<size_t>(n)) {
  parallel_for(n, threads, [&](int64_t i) {
    const size_t size = static_cast<size_t>(starts[i + 1] - starts[i]);
    read_tiles(arena + starts[i], size, regions ? regions + i : nullptr, files_[static_cast<size_t>(i)]);
  });
}

void StripBatch::write(uint8_t* const* to, int32_t threads) const {
  parallel_for(static_cast<int64_t>(files_.size()), threads, [&](int64_t i) {
    const Stripping& file = files_[static_cast<size_t>(i)];
    if (to[i] && !file.why_not) write_stripped(file, to[i]);
  });
}

void check_decode_tiles(const DecodeTilesParams& p) {
  for (int32_t i = 0; i < p.n; ++i) {
    const auto fail = [&](const std::string& what) {
      throw std::invalid_argument("decode_tiles: picture " + std::to_string(i) + ": " + what);
    };
    const JpegShape& s = p.shapes[i];
    const Region& r = p.regions[i];
    const bool sampled = s.across >= 1 && s.across <= 2 && s.down >= 1 && s.down <= 2;
    const bool grid = s.tile >= 1 && s.row >= 0 && s.column >= 0 && s.rows >= 1 && s.columns >= 1;
    if (s.height < 1 || s.width < 1 || s.height > 65535 || s.width > 65535 || !sampled || !grid ||
        (s.components != 3 && (s.components != 1 || luma_blocks(s) != 1))) {
      fail("its shape is none that `Stripped` gives");
    }
    const auto text = [](int32_t y, int32_t x, int32_t h, int32_t w) {
      return std::to_string(h) + "x" + std::to_string(w) + " px at (" + std::to_string(y) + ", " + std::to_string(x) +
             ")";
    };
    if (!is_inside(r, s.height, s.width)) {
      fail("the region must lie within its " + std::to_string(s.height) + "x" + std::to_string(s.width) + " px, got " +
           text(r.y, r.x, r.h, r.w));
    }
    const McuBox mcus = mcus_under(r, s.height, s.width, s.down, s.across);
    if (mcus.y0 < s.row || mcus.y1 - s.row > s.rows || mcus.x0 / s.tile < s.column ||
        (mcus.x1 + s.tile - 1) / s.tile - s.column > s.columns) {
      fail("the region, " + text(r.y, r.x, r.h, r.w) + ", needs tiles that were not kept of it");
    }
    if (p.jpegs[i] == 0 || p.jpegs[i] % 16 != 0) fail("its address must be a multiple of 16");
    if (p.out && (p.out[i] == 0 || p.out[i] % 4 != 0)) fail("the address of its pixels must be a multiple of 4");
  }
}

}  // namespace dalipipe
