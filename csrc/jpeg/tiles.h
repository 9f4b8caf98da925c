// JPEG files as grids of tiles: with a restart marker every few MCUs, by a number that divides the row, a file is an
// ordinary JPEG to every reader, and its restart segments can be decoded each by itself, or left out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "jpeg/file.h"
#include "jpeg/region.h"

namespace dalipipe {

// MCUs of a tile: the part of an MCU row, of a whole number of such parts, whose width is nearest to `tile_px` (by
// ratio) and at least half, at most twice that; the whole row where there is none.
int32_t tile_mcus(int32_t mcus_x, int32_t mcu_width, int32_t tile_px);

// Writes a file anew as a baseline JPEG of tiles: the same coefficients in one scan, with the Huffman codes that take
// the fewest bits. Of its metadata stays what readers need for the same pixels (JFIF, Adobe, EXIF orientation), or
// with `metadata` all of it. Null: done; else why that cannot be, and `out` means nothing.
const char* tile_jpeg(const uint8_t* data, size_t size, int32_t tile_px, bool metadata, std::vector<uint8_t>& out);

// The grid of a file of tiles.
struct TileGrid {
  JpegFile file;
  int32_t rows = 0, columns = 0;   // tiles
  int32_t height = 0, width = 0;   // px of a tile
  std::vector<JpegPart> segments;  // row by row

  TileGrid(const uint8_t* data, size_t size) : file(data, size) {}
  // Null: it is one. Else why it is none; where there are rows and columns nonetheless, it is a damaged one.
  const char* read();
};

// What a cut left of a file. Mirrored, field by field, by `dalipipe.native.CUT`.
struct Cut {
  int64_t bytes;
  int32_t y, x;             // px: where in the picture its first pixel lies
  int32_t height, width;    // px of it
  int32_t tiles, of_tiles;  // of_tiles 0: nothing could be cut
};
static_assert(sizeof(Cut) == 32, "keep dalipipe.native.CUT in step");

// The tiles under the region, and those beside it that its chroma is interpolated from, as a JPEG file of its own: what
// decoders give for the region is the same to the bit. `out` has room for the file's size. A file that is no grid of
// tiles is copied whole.
Cut cut_jpeg(const uint8_t* data, size_t size, const Region& region, uint8_t* out);

// A region of a baseline JPEG, of tiles or not → RGB [h, w, 3], as libjpeg decodes it, to the bit. Null: done; else why
// not.
const char* read_jpeg(const uint8_t* data, size_t size, const Region& region, uint8_t* out);

// The same for n files, file i at starts[i] to starts[i + 1] of the arena. `out` of a cut: each where its file lies.
// One that is not to be read has none.
void tile_jpegs(const uint8_t* arena, const int64_t* starts, int64_t n, int32_t tile_px, bool metadata, int32_t threads,
                std::vector<uint8_t>* out, const char** why_not);
void cut_jpegs(const uint8_t* arena, const int64_t* starts, const Region* regions, int64_t n, int32_t threads,
               uint8_t* out, Cut* cuts);
void read_jpegs(const uint8_t* arena, const int64_t* starts, const Region* regions, int64_t n, int32_t threads,
                uint8_t* const* out, const char** why_not);

}  // namespace dalipipe
