// JPEGs of tiles, stripped of what only files need, markers and stuffed zeros, so that each tile can be read by a
// thread of its own; and how such a thread reads. Written once for host and device.
//
//   StrippedJpeg | StatedCode [codes] | uint32 ends [rows * columns] | the tiles' bits
//
// Each tile begins at a multiple of 4 bytes of the bits and ends at its `ends`, in bytes; zeros fill it up to the next.
#pragma once

#include <cstddef>
#include <cstdint>

#include "jpeg/huffman.h"
#include "jpeg/region.h"
#include "tensor.h"

namespace dalipipe {

// What the host needs to know of a stripped JPEG. Mirrored, field by field, by `dalipipe.native.JPEG_SHAPE`.
struct JpegShape {
  int32_t height, width;               // px of the picture
  int32_t components;                  // 1 or 3
  int32_t across, down;                // luma blocks in an MCU
  int32_t tile;                        // MCUs of a tile
  int32_t row, column, rows, columns;  // which tiles of the picture's grid there are
};
static_assert(sizeof(JpegShape) == 40, "keep dalipipe.native.JPEG_SHAPE in step");

// A code as a DHT segment states it; `is_sound`.
struct StatedCode {
  uint8_t counts[16];  // [l - 1]: codes of l bits
  uint8_t symbols[256];
};

constexpr int32_t kMostCodes = 6;  // a picture's

struct StrippedJpeg {
  JpegShape shape;
  uint8_t quantisers[3][64];  // in the order of the zigzag
  int32_t codes;              // how many there are
  uint8_t dc[3], ac[3];       // which are the components'; a code is for DC or for AC alone
};
static_assert(sizeof(StrippedJpeg) == 244 && sizeof(StatedCode) == 272, "multiples of 4: nothing lies between them");

DP_HD int64_t stripped_bits(const JpegShape& shape, int32_t codes) {  // where they begin, in bytes
  return static_cast<int64_t>(sizeof(StrippedJpeg)) + codes * static_cast<int64_t>(sizeof(StatedCode)) +
         4 * static_cast<int64_t>(shape.rows) * shape.columns;
}
DP_HD int64_t whole_words(int64_t bytes) { return (bytes + 3) / 4 * 4; }

DP_HD int32_t luma_blocks(const JpegShape& s) { return s.down * s.across; }
DP_HD int32_t mcu_blocks(const JpegShape& s) { return luma_blocks(s) + s.components - 1; }

// What an entry says of the code at hand. All of it zero: it is longer than the window, or there is none.
constexpr int32_t kNoCode = 127 << 9;
DP_HD int32_t code_entry(int32_t length, int32_t symbol, bool dc) {
  const int32_t size = dc ? symbol : symbol & 15, advance = dc ? 1 : advance_of_code(symbol, false);
  return length | size << 5 | advance << 9;
}
DP_HD int32_t entry_length(int32_t entry) { return entry & 31; }
DP_HD int32_t entry_size(int32_t entry) { return entry >> 5 & 15; }
// How far it leads, a DC code from before the block to its first coefficient.
DP_HD int32_t entry_advance(int32_t entry) { return entry >> 9; }

// A code to read by. Filled in two steps: `state`, then each `entry`.
struct CodeTable {
  static constexpr int32_t kWindow = 10;

  uint16_t entry[1 << kWindow];
  int32_t limit[17];   // [l]: the first 16 bits that are no code of l or fewer
  int32_t offset[17];  // from a code of l bits to the place of its symbol
  uint8_t symbols[256];
  bool dc;

  // All but the symbols.
  DP_HD void state(const StatedCode& code, bool for_dc) {
    dc = for_dc;
    int32_t next = 0, place = 0;
    for (int32_t l = 1; l <= 16; ++l) {
      next <<= 1;
      offset[l] = place - next;
      next += code.counts[l - 1];
      place += code.counts[l - 1];
      limit[l] = next << (16 - l);
    }
  }

  // That of the code which these 16 bits begin with, of `from` bits or more.
  DP_HD int32_t find(int32_t bits, int32_t from) const {
    if (bits >= limit[16]) return kNoCode;
    int32_t length = from;
    for (int32_t l = from; l < 16; ++l) length += bits >= limit[l];  // limits rise
    return code_entry(length, symbols[(offset[length] + (bits >> (16 - length))) & 255], dc);
  }

  // What stands at `entry[window]`.
  DP_HD uint16_t in_window(int32_t window) const {
    const int32_t bits = window << (16 - kWindow);
    return static_cast<uint16_t>(bits < limit[kWindow] ? find(bits, 1) : 0);
  }
};

DP_HD uint32_t big_endian(uint32_t word) {
#ifdef __CUDA_ARCH__
  return __byte_perm(word, 0, 0x0123);
#else
  return __builtin_bswap32(word);
#endif
}

// The 32 bits of `high` and then `low` from bit `at` on, 0 to 31.
DP_HD uint32_t bits_from(uint32_t high, uint32_t low, int32_t at) {
#ifdef __CUDA_ARCH__
  return __funnelshift_l(low, high, at);
#else
  return static_cast<uint32_t>((static_cast<uint64_t>(high) << 32 | low) << at >> 32);
#endif
}

// The bits of a tile; zeros beyond its end. Words are fetched two ahead of their use.
struct TileBits {
  const uint32_t* words;
  int32_t count, next;  // of words; the next to fetch
  uint32_t high, low, ahead;
  int32_t used;  // bits of `high`, 0 to 31

  DP_HD TileBits(const uint8_t* at, int32_t bytes)
      : words(reinterpret_cast<const uint32_t*>(at)), count(bytes / 4 + (bytes % 4 != 0)), next(0), used(0) {
    high = big_endian(fetch());
    low = big_endian(fetch());
    ahead = fetch();
  }
  DP_HD uint32_t fetch() {
    const uint32_t word = next < count ? words[next] : 0;
    ++next;
    return word;
  }
  DP_HD uint32_t peek() const { return bits_from(high, low, used); }
  DP_HD void skip(int32_t n) {  // n: 0 to 32
    used += n;
    if (used < 32) return;
    used -= 32;
    high = low;
    low = big_endian(ahead);
    ahead = fetch();
  }
  DP_HD int64_t taken() const { return 32 * (static_cast<int64_t>(next) - 3) + used; }  // bits
};

// How a tile's blocks follow one another.
struct TileBlocks {
  int32_t luma, mcu;    // blocks of luma in an MCU, and all
  uint32_t dc, ac;      // which codes are the components', 4 bits each
  int32_t count;        // that are read
  int32_t passed_over;  // of these the first
  bool whole;           // they are all that the tile has: nothing may be left of it
};

DP_HD uint32_t packed_codes(const uint8_t (&which)[3]) { return which[0] | which[1] << 4 | which[2] << 8; }

// A tile → levels, [blocks that are not passed over][64] in the order of the zigzag, zero before. One token at a time,
// of whatever kind, so that threads which do this side by side need not wait for each other at the ends of blocks;
// there are at most 64 to a block. False: the tile is damaged, as `read_jpeg` has it.
DP_HD bool read_tile(const uint8_t* tile, int32_t bytes, const CodeTable* codes, const TileBlocks& blocks,
                     int16_t* levels) {
  TileBits in(tile, bytes);
  int32_t y = 0, cb = 0, cr = 0;             // coefficients 0 of the last blocks
  int32_t k = -1, block = 0, component = 0;  // the last coefficient's place; which of the MCU's blocks; whose it is
  int32_t place = -64 * blocks.passed_over;  // of the block among the levels
  for (int32_t left = blocks.count; left > 0;) {
    const uint32_t bits = in.peek();
    const CodeTable& code = codes[((k < 0 ? blocks.dc : blocks.ac) >> (4 * component)) & 15];
    int32_t entry = code.entry[bits >> (32 - CodeTable::kWindow)];
    if (entry == 0) entry = code.find(static_cast<int32_t>(bits >> 16), CodeTable::kWindow + 1);
    const int32_t length = entry_length(entry), size = entry_size(entry), advance = entry_advance(entry);
    int32_t value = extend(bits << length >> 1 >> (31 - size), size);
    in.skip(length + size);
    if (k < 0) {
      value += component == 0 ? y : component == 1 ? cb : cr;
      y = component == 0 ? value : y;
      cb = component == 1 ? value : cb;
      cr = component == 2 ? value : cr;
      if (value >= 1 << kMostDcSize || value <= -(1 << kMostDcSize)) return false;
    }
    k += advance;
    if (k <= 63 && (size > 0 || k == 0) && place >= 0) levels[place + k] = static_cast<int16_t>(value);
    if (k < 63) continue;
    if (k > 63 && advance != kEndOfBlock) return false;
    --left;
    place += 64;
    k = -1;
    if (++block == blocks.mcu) block = 0;
    component = block < blocks.luma ? 0 : block - blocks.luma + 1;
  }
  const int64_t rest = 8 * static_cast<int64_t>(bytes) - in.taken();
  return rest >= 0 && (!blocks.whole || rest < 8);
}

// --- Decoding a batch

// Rows of RGB are padded to whole words.
DP_HD int64_t rgb_row_bytes(int32_t width) { return 12 * static_cast<int64_t>((width + 3) / 4); }

// A region each of n stripped JPEGs → RGB, as libjpeg decodes it, to the bit: uint8 [h, w, 3], rows rgb_row_bytes
// apart.
struct DecodeTilesParams {
  const uint64_t* jpegs;    // [n] addresses of `StrippedJpeg`, multiples of 16; device
  const JpegShape* shapes;  // [n] theirs; host
  const Region* regions;    // [n]; host
  const uint64_t* out;      // [n] addresses, multiples of 4; device; null: only damage is looked for
  int32_t n;
};

// Throws std::invalid_argument naming the picture, what was expected and what came.
void check_decode_tiles(const DecodeTilesParams& p);

// Asynchronous on `stream`. The upload is `upload_bytes` of pinned memory, which go to the device in one copy; the
// first decode_tiles_upload_bytes of it are written here, and what is behind them may be the JPEGs. It must stay
// untouched until the stream has passed this call; then its first n int32 say which pictures are damaged (1).
size_t decode_tiles_upload_bytes(int32_t n);
size_t decode_tiles_scratch_bytes(const DecodeTilesParams& p);
void decode_tiles_cuda(const DecodeTilesParams& p, void* upload, void* pinned, size_t upload_bytes, void* scratch,
                       size_t scratch_bytes, void* stream);

}  // namespace dalipipe
