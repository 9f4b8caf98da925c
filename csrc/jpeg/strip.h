// Files of JPEG tiles → stripped JPEGs, on the host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "jpeg/stripped.h"

namespace dalipipe {

// One file that is to be stripped.
struct Stripping {
  const char* why_not = nullptr;  // null: it can be
  bool tiled = false;             // false: it is no file of tiles, and other decoders may well take it
  StrippedJpeg head{};
  int64_t bytes = 0;  // that what it becomes takes at most
  std::vector<StatedCode> codes;
  std::vector<const uint8_t*> begins, ends;  // of the tiles' data
};

// The tiles under a region (null: all of them) of a file; nothing is copied.
void read_tiles(const uint8_t* data, size_t size, const Region* region, Stripping& out);
// `to`: with room for its bytes, a multiple of 4.
void write_stripped(const Stripping& from, uint8_t* to);

// The same for n files, file i at starts[i] to starts[i + 1] of the arena, which must outlive it.
class StripBatch {
 public:
  StripBatch(const uint8_t* arena, const int64_t* starts, const Region* regions, int64_t n, int32_t threads);
  const std::vector<Stripping>& files() const { return files_; }
  // to[i]: null: it is passed over, as are those that cannot be.
  void write(uint8_t* const* to, int32_t threads) const;

 private:
  std::vector<Stripping> files_;
};

}  // namespace dalipipe
