// What is in a JPEG file (ITU-T T.81, annex B): its frame, tables and scans, and the restart segments that may make a
// grid of tiles of it. No bytes make any of this throw or read outside them. What is wrong with a file, or beyond what
// is done here, is said in a few words; other decoders may well take it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "jpeg.h"
#include "jpeg/huffman.h"

namespace dalipipe {

struct JpegComponent {
  int32_t id = 0;
  int32_t across = 1, down = 1;        // blocks in an MCU of all components
  int32_t width = 0, height = 0;       // samples that count
  int32_t blocks_x = 0, blocks_y = 0;  // in whole MCUs of all components
  int32_t table = 0;                   // of quantisers, as the frame names it
  bool scanned = false;                // a scan has had it: from then on it keeps its quantisers
  uint16_t quantisers[64] = {};        // 8 * row + column
  int32_t dc = 0, ac = 0;              // which codes, in the scan at hand
};

struct JpegScan {
  int32_t count = 0;                                // of components
  int32_t components[3] = {};                       // which
  int32_t first = 0, last = 63, high = 0, low = 0;  // of a progressive one: coefficients and bits
  int32_t restart = 0;                              // MCUs from one restart to the next; 0: none
  size_t data = 0;                                  // where its data begin
};

// The bytes [begin, end) of a file.
struct JpegPart {
  size_t begin, end;
};

// A file read from one scan to the next. Frames that are taken: 8 bits, sequential or progressive, Huffman codes; grey,
// or three components of which only the first may be finer than the others, twice across, down or both.
class JpegFile {
 public:
  JpegFile(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  // Reads on to the next scan, past what is left of the one at hand. False: there is none, or something is wrong.
  bool next_scan();
  // Cuts the data of the scan at hand at its restarts: no markers are left in them. False: restarts out of order, too
  // many or too few of them.
  bool segments(std::vector<JpegPart>& out);
  const char* wrong() const { return wrong_; }  // null: nothing
  // Whether three components are red, green and blue, as libjpeg has it.
  bool is_rgb() const {
    const bool named = component[0].id == 'R' && component[1].id == 'G' && component[2].id == 'B';
    return components == 3 && !jfif && (adobe_transform == 0 || (adobe_transform < 0 && named));
  }

  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  // In MCUs of the scan at hand; of one component these are blocks, of which those beyond the picture are not there.
  int32_t scan_mcus_x() const;
  int32_t scan_mcus_y() const;

  // From the first scan on.
  int32_t height = 0, width = 0, components = 0;
  bool progressive = false;
  JpegComponent component[3];
  int32_t mcu_height = 0, mcu_width = 0;  // px, of an MCU of all components
  int32_t mcus_y = 0, mcus_x = 0;
  HuffmanCode dc[4], ac[4];
  JpegScan scan;
  bool jfif = false;
  int32_t adobe_transform = -1;    // -1: no Adobe segment
  JpegPart frame{}, first_scan{};  // their headers, from the 0xFF on
  std::vector<JpegPart> metadata;  // APPn and COM segments before the first scan

 private:
  bool fail(const char* what) {
    wrong_ = what;
    return false;
  }
  bool read_frame(int32_t marker, JpegPart body);
  bool read_quantisers(JpegPart body);
  bool read_codes(JpegPart body);
  bool read_scan(JpegPart body);
  void read_application(int32_t marker, JpegPart body);
  int32_t u8(size_t at) const { return data_[at]; }
  int32_t be16(size_t at) const { return data_[at] << 8 | data_[at + 1]; }

  const uint8_t* data_;
  size_t size_;
  size_t at_ = 0;
  const char* wrong_ = nullptr;
  int32_t restart_ = 0;
  bool defined_[4] = {};
  uint16_t quantisers_[4][64] = {};
};

// Coefficient k of the zigzag → its place, 8 * row + column; 64 beyond the block.
struct Zigzag {
  uint8_t place[192];
  constexpr Zigzag() : place() {
    for (int32_t k = 0; k < 192; ++k) place[k] = static_cast<uint8_t>(k < 64 ? jpeg_zigzag(k) : 64);
  }
};
inline constexpr Zigzag kZigzag{};

// Puts a block's AC levels, as `read_block` tells them, in their places; there are 65, the last for what is no level.
struct TakeLevels {
  int16_t* levels;

  void pair(const Pair& p, uint32_t, int32_t k) {
    levels[kZigzag.place[k + p.first_advance]] = p.first;
    levels[kZigzag.place[k + p.advance]] = p.second;
  }
  void token(Token t, int32_t k) { levels[kZigzag.place[k]] = static_cast<int16_t>(value_of(t)); }
  void last(Token t, uint32_t, int32_t k) { token(t, k); }
};

}  // namespace dalipipe
