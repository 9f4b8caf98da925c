// All coefficients of a JPEG file, sequential or progressive, in any number of scans.
#pragma once

#include <cstdint>
#include <vector>

#include "jpeg/file.h"

namespace dalipipe {

class JpegCoefficients {
 public:
  // Reads the file to its end. Null: all went well; else what is wrong with it.
  const char* read(JpegFile& file);

  // 64 levels, 8 * row + column, of a block of whole MCUs of all components. Those beyond the picture may be anything.
  const int16_t* block(int32_t component, int32_t y, int32_t x) const {
    return planes_[component].data() + 64 * (static_cast<int64_t>(y) * blocks_x_[component] + x);
  }

 private:
  struct Run;  // of a scan

  int16_t* block(int32_t component, int32_t y, int32_t x) {
    return planes_[component].data() + 64 * (static_cast<int64_t>(y) * blocks_x_[component] + x);
  }
  const char* read_scan(JpegFile& file);
  const char* read_block(const JpegScan& scan, int32_t component, int16_t* levels, Run& run);
  void repeat_beyond(const JpegFile& file, int32_t component);

  std::vector<int16_t> planes_[3];
  int64_t blocks_x_[3] = {};
  int8_t bits_[3][64];  // of each coefficient, those still to come; -1: all
  bool progressive_ = false;
  bool alone_[3] = {};           // its DC came in a scan of its own, without blocks beyond the picture
  HuffmanReader dc_[3], ac_[3];  // of the scan's components
};

}  // namespace dalipipe
