#include "jpeg/coefficients.h"

#include <algorithm>
#include <cstring>

namespace dalipipe {
namespace {

constexpr const char* kBadCode = "its data are damaged: no Huffman code, or a run past its block";
constexpr const char* kBadLength = "its data are damaged: they end early, or late";
constexpr int64_t kMostBlocks = 1 << 23;
constexpr const char* kBadLevel = "coefficients of more bits than baseline files have";

}  // namespace

struct JpegCoefficients::Run {
  BitReader in;
  int32_t before[3] = {};      // DC levels, by component
  int32_t blocks_to_skip = 0;  // of which nothing is left (EOBRUN)
};

const char* JpegCoefficients::read(JpegFile& file) {
  std::memset(bits_, -1, sizeof bits_);
  bool first = true;
  while (file.next_scan()) {
    if (first) {
      first = false;
      progressive_ = file.progressive;
      int64_t blocks = 0;
      for (int32_t c = 0; c < file.components; ++c) {
        blocks += static_cast<int64_t>(file.component[c].blocks_x) * file.component[c].blocks_y;
      }
      // A block takes a bit at least: a small file cannot ask for much memory.
      if (blocks / 8 > static_cast<int64_t>(file.size())) return "it ends early";
      if (blocks > kMostBlocks) return "it is too large";
      for (int32_t c = 0; c < file.components; ++c) {
        blocks_x_[c] = file.component[c].blocks_x;
        planes_[c].assign(static_cast<size_t>(64) * file.component[c].blocks_x * file.component[c].blocks_y, 0);
      }
    }
    if (const char* wrong = read_scan(file)) return wrong;
  }
  if (file.wrong()) return file.wrong();
  for (int32_t c = 0; c < file.components; ++c) {
    for (int8_t left : bits_[c]) {
      if (left != 0) return "not all of its coefficients are there";  // decoders would smooth over what is missing
    }
    if (alone_[c]) repeat_beyond(file, c);
  }
  return first ? "it has no picture" : nullptr;
}

const char* JpegCoefficients::read_scan(JpegFile& file) {
  const JpegScan& scan = file.scan;
  if (progressive_) {
    const bool dc = scan.first == 0;
    if (scan.last > 63 || scan.first > scan.last || scan.low > 13 || (dc ? scan.last != 0 : scan.count != 1)) {
      return "a scan is malformed";
    }
    if (scan.high != 0 && scan.high != scan.low + 1) return "a scan is malformed";
  }
  for (int32_t i = 0; i < scan.count; ++i) {
    const int32_t c = scan.components[i];
    for (int32_t k = scan.first; k <= scan.last; ++k) {
      int8_t& left = bits_[c][k];
      if (left != (scan.high == 0 ? -1 : scan.high)) return "its scans are out of order";
      left = static_cast<int8_t>(scan.low);
    }
    if (scan.first > 0 && bits_[c][0] < 0) return "its scans are out of order";
    if (scan.first == 0 && scan.high == 0) alone_[c] = scan.count == 1;
    const bool dc_code = scan.first == 0 && scan.high == 0, ac_code = scan.last > 0;
    const HuffmanCode &dc = file.dc[file.component[c].dc], &ac = file.ac[file.component[c].ac];
    if ((dc_code && dc.total == 0) || (ac_code && ac.total == 0)) return "it lacks a Huffman code";
    if ((dc_code && !dc_[c].make(dc, true)) || (ac_code && !ac_[c].make(ac, false))) {
      return "its Huffman codes are malformed";
    }
  }
  std::vector<JpegPart> segments;
  if (!file.segments(segments)) return file.wrong();
  const int32_t mcus_x = file.scan_mcus_x();
  const int64_t mcus = static_cast<int64_t>(mcus_x) * file.scan_mcus_y();
  const int64_t interval = scan.restart ? scan.restart : mcus;
  for (size_t s = 0; s < segments.size(); ++s) {
    Run run{BitReader(file.data() + segments[s].begin, file.data() + segments[s].end)};
    const int64_t begin = static_cast<int64_t>(s) * interval, end = std::min(mcus, begin + interval);
    for (int64_t m = begin; m < end; ++m) {
      const int32_t y = static_cast<int32_t>(m / mcus_x), x = static_cast<int32_t>(m % mcus_x);
      for (int32_t i = 0; i < scan.count; ++i) {
        const int32_t c = scan.components[i];
        const int32_t down = scan.count == 1 ? 1 : file.component[c].down;
        const int32_t across = scan.count == 1 ? 1 : file.component[c].across;
        for (int32_t b = 0; b < down * across; ++b) {
          const char* wrong = read_block(scan, c, block(c, y * down + b / across, x * across + b % across), run);
          if (wrong) return wrong;
          if (run.in.overrun()) return kBadLength;
        }
      }
    }
    if (!run.in.ended() || run.blocks_to_skip > 0) return kBadLength;
  }
  return nullptr;
}

const char* JpegCoefficients::read_block(const JpegScan& scan, int32_t c, int16_t* levels, Run& run) {
  BitReader& in = run.in;
  const auto wide = [](int32_t level, int32_t size) { return level >= 1 << size || level <= -(1 << size); };
  if (scan.first == 0) {
    if (scan.high > 0) {
      levels[0] = static_cast<int16_t>(levels[0] | static_cast<int32_t>(in.take(1) << scan.low));
    } else {
      in.refill();
      const Token token = read_token(in, dc_[c]);
      if (advance_of(token) != 0) return kBadCode;
      run.before[c] += value_of(token);
      if (wide(run.before[c], kMostDcSize)) return kBadLevel;
      const int32_t level = run.before[c] * (1 << scan.low);
      if (wide(level, kMostDcSize)) return kBadLevel;
      levels[0] = static_cast<int16_t>(level);
    }
    if (progressive_) return nullptr;
    int16_t with_room[65] = {levels[0]};
    TakeLevels take{with_room};
    if (!dalipipe::read_block(in, ac_[c], take)) return kBadCode;
    std::copy_n(with_room, 64, levels);
    return nullptr;
  }

  // AC of a progressive scan.
  int32_t k = scan.first;
  const int32_t unit = 1 << scan.low;
  const auto refine = [&](int16_t& level) {  // a level that is there already gets a further bit
    if (in.take(1) && (level & unit) == 0) level = static_cast<int16_t>(level + (level >= 0 ? unit : -unit));
  };
  if (run.blocks_to_skip == 0) {
    for (; k <= scan.last; ++k) {
      in.refill();
      const Token token = read_token(in, ac_[c]);
      const int32_t advance = advance_of(token);
      if (token == kBadToken) return kBadCode;
      if (advance == kEndOfBlock) {
        run.blocks_to_skip = (1 << value_of(token)) + static_cast<int32_t>(in.take(value_of(token)));
        break;
      }
      int32_t zeros = advance - 1;  // of the levels that are zero so far
      if (scan.high == 0) {
        k += zeros;
        if (k > scan.last) return kBadCode;
        const int32_t level = value_of(token) * unit;
        if (size_of(token) + scan.low > kMostAcSize) return kBadLevel;
        if (size_of(token) > 0) levels[kZigzag.place[k]] = static_cast<int16_t>(level);
        continue;
      }
      if (size_of(token) > 1 || scan.low >= kMostAcSize) return kBadCode;
      for (; k <= scan.last; ++k) {
        int16_t& level = levels[kZigzag.place[k]];
        if (level != 0) {
          refine(level);
        } else if (zeros-- == 0) {
          break;
        }
      }
      if (k > scan.last) {
        if (size_of(token) > 0) return kBadCode;
      } else if (size_of(token) > 0) {
        levels[kZigzag.place[k]] = static_cast<int16_t>(value_of(token) * unit);
      }
    }
  }
  if (run.blocks_to_skip > 0) {
    if (scan.high > 0) {
      for (; k <= scan.last; ++k) {
        if (int16_t& level = levels[kZigzag.place[k]]; level != 0) refine(level);
      }
    }
    --run.blocks_to_skip;
  }
  return nullptr;
}

void JpegCoefficients::repeat_beyond(const JpegFile& file, int32_t c) {
  const JpegComponent& component = file.component[c];
  const int32_t rows = (component.height + 7) / 8, columns = (component.width + 7) / 8;
  for (int32_t y = 0; y < component.blocks_y; ++y) {
    for (int32_t x = y < rows ? columns : 0; x < component.blocks_x; ++x) {
      int16_t* levels = block(c, y, x);
      std::fill_n(levels, 64, static_cast<int16_t>(0));
      levels[0] = y < rows ? levels[-64] : block(c, y - 1, x)[0];
    }
  }
}

}  // namespace dalipipe
