// Regions of JPEG files → RGB. Of a file of tiles only those under the region are read; of another, all MCUs before the
// region's last are read past.
#include <algorithm>
#include <cstring>
#include <memory>

#include "cpu/image_kernels.h"
#include "cpu/pool.h"
#include "jpeg/samples.h"
#include "jpeg/tiles.h"

namespace dalipipe {
namespace {

constexpr const char* kDamaged = "its data are damaged";

// The samples of a component in the MCUs that are wanted.
struct Plane {
  Buffer<uint8_t> samples;
  int64_t stride = 0;
  int16_t quantisers[64] __attribute__((aligned(32)));
  const uint8_t* row(int32_t y) const { return samples.data() + y * stride; }
};

// What a thread keeps between pictures.
struct Workspace {
  struct Made {
    HuffmanCode code;
    HuffmanReader reader;
    int64_t used_for = 0;  // picture
  };
  Made codes[6];  // kept, since files may share them, as components do; a picture has no more
  int64_t pictures = 0;
  const HuffmanReader *dc[3], *ac[3];  // of the components
  std::vector<JpegPart> segments;
  Plane planes[3];
  Buffer<uint8_t> lines[2];  // of chroma as wide as the picture
  Buffer<uint16_t> sums;
};

Workspace& workspace() {
  thread_local const std::unique_ptr<Workspace> w = std::make_unique<Workspace>();
  return *w;
}

// Null where there cannot be such a code.
const HuffmanReader* reader_of(const HuffmanCode& code, bool dc, Workspace& w) {
  Workspace::Made* oldest = w.codes;
  for (Workspace::Made& made : w.codes) {
    if (made.code == code && made.reader.dc == dc) {
      made.used_for = w.pictures;
      return &made.reader;
    }
    if (made.used_for < oldest->used_for) oldest = &made;
  }
  oldest->code = {};
  oldest->used_for = w.pictures;
  if (!oldest->reader.make(code, dc)) return nullptr;
  oldest->code = code;
  return &oldest->reader;
}

struct PassOver {
  void pair(const Pair&, uint32_t, int32_t) {}
  void token(Token, int32_t) {}
  void last(Token, uint32_t, int32_t) {}
};

// Reads MCUs [begin, end) of a segment, those wanted into the planes. Made twice, as tile.cpp's loops are.
inline __attribute__((always_inline)) const char* read_segment_inline(const JpegFile& file, const JpegKernels& kernels,
                                                                      BitReader in, int64_t begin, int64_t end,
                                                                      const McuBox& wanted, Workspace& w, bool whole) {
  alignas(32) int16_t levels[96] = {};  // of a block, and what is written beside it
  TakeLevels take{levels};
  PassOver pass_over;
  int32_t before[3] = {};
  int32_t y = static_cast<int32_t>(begin / file.mcus_x), x = static_cast<int32_t>(begin % file.mcus_x);
  for (int64_t m = begin; m < end; ++m) {
    const bool keep = y >= wanted.y0 && x >= wanted.x0 && x < wanted.x1;
    for (int32_t c = 0; c < file.components; ++c) {
      const JpegComponent& component = file.component[c];
      for (int32_t b = 0; b < component.down * component.across; ++b) {
        in.refill();
        const Token dc = read_token(in, *w.dc[c]);
        if (advance_of(dc) != 0) return kDamaged;
        before[c] += value_of(dc);
        if (before[c] >= 1 << kMostDcSize || before[c] <= -(1 << kMostDcSize)) return kDamaged;
        if (!keep) {
          if (!read_block(in, *w.ac[c], pass_over)) return kDamaged;
          continue;
        }
        if (!read_block(in, *w.ac[c], take)) return kDamaged;
        Plane& plane = w.planes[c];
        const int32_t by = (y - wanted.y0) * component.down + b / component.across;
        const int32_t bx = (x - wanted.x0) * component.across + b % component.across;
        uint8_t* const out = plane.samples.data() + 8 * (by * plane.stride + bx);
        levels[0] = static_cast<int16_t>(before[c]);
        kernels.idct(levels, plane.quantisers, out, plane.stride);
      }
    }
    if (in.overrun()) return kDamaged;
    if (++x == file.mcus_x) x = 0, ++y;
  }
  return whole && !in.ended() ? kDamaged : nullptr;
}

using ReadSegment = const char*(const JpegFile&, const JpegKernels&, BitReader, int64_t, int64_t, const McuBox&,
                                Workspace&, bool);
const char* read_segment_plain(const JpegFile& file, const JpegKernels& kernels, BitReader in, int64_t begin,
                               int64_t end, const McuBox& wanted, Workspace& w, bool whole) {
  return read_segment_inline(file, kernels, in, begin, end, wanted, w, whole);
}
#if defined(__x86_64__)
__attribute__((target("bmi2")))
const char* read_segment_bmi2(const JpegFile& file, const JpegKernels& kernels, BitReader in, int64_t begin,
                              int64_t end, const McuBox& wanted, Workspace& w, bool whole) {
  return read_segment_inline(file, kernels, in, begin, end, wanted, w, whole);
}
ReadSegment* const read_segment = __builtin_cpu_supports("bmi2") ? read_segment_bmi2 : read_segment_plain;
#else
ReadSegment* const read_segment = read_segment_plain;
#endif

// The chroma of component c in row y of the picture, from the wanted MCUs' first column on.
const uint8_t* chroma_row(const JpegFile& file, const JpegKernels& kernels, int32_t c, int32_t y, const McuBox& wanted,
                          Workspace& w) {
  const JpegComponent& component = file.component[c];
  const bool across = file.component[0].across > 1, down = file.component[0].down > 1;
  const Plane& plane = w.planes[c];
  const int32_t top = 8 * wanted.y0, near_y = down ? y / 2 : y;
  const int32_t far_y = std::clamp(y & 1 ? near_y + 1 : near_y - 1, 0, component.height - 1);
  const uint8_t* near = plane.row(near_y - top);
  if (!across && !down) return near;
  uint8_t* const out = w.lines[c - 1].data();
  const int32_t width = std::min(8 * wanted.x1, component.width) - 8 * wanted.x0;
  if (across && component.width <= kJpegPlainWidth) {
    for (int32_t x = 0; x < 2 * width; ++x) out[x] = near[x / 2];
    return out;
  }
  if (!down) {
    kernels.double_across(near, width, out);
    return out;
  }
  const uint8_t* far = plane.row(far_y - top);
  if (across) {
    kernels.double_both(near, far, width, w.sums.data(), out);
  } else {
    kernels.double_down(near, far, width, y, out);
  }
  return out;
}

}  // namespace

const char* read_jpeg(const uint8_t* data, size_t size, const Region& r, uint8_t* out) {
  Workspace& w = workspace();
  JpegFile file(data, size);
  if (!file.next_scan()) return file.wrong() ? file.wrong() : "it has no picture";
  if (file.progressive) return "progressive coding";
  if (file.scan.count != file.components) return "components in scans of their own";
  if (file.is_rgb()) return "components that are RGB";
  if (!is_inside(r, file.height, file.width)) return "a region outside the picture";
  ++w.pictures;
  for (int32_t c = 0; c < file.components; ++c) {
    const HuffmanCode &dc = file.dc[file.component[c].dc], &ac = file.ac[file.component[c].ac];
    if (dc.total == 0 || ac.total == 0) return "it lacks a Huffman code";
    w.dc[c] = reader_of(dc, true, w);
    w.ac[c] = reader_of(ac, false, w);
    if (!w.dc[c] || !w.ac[c]) return "its Huffman codes are malformed";
    for (int32_t k = 0; k < 64; ++k) {
      if (file.component[c].quantisers[k] > 255) return "quantisers of more than 8 bits";
      w.planes[c].quantisers[k] = static_cast<int16_t>(file.component[c].quantisers[k]);
    }
  }
  if (!file.segments(w.segments)) return file.wrong();

  const JpegKernels& kernels = jpeg_kernels();
  const McuBox wanted = mcus_under(r, file.height, file.width, file.component[0].down, file.component[0].across);
  for (int32_t c = 0; c < file.components; ++c) {
    const JpegComponent& component = file.component[c];
    Plane& plane = w.planes[c];
    plane.stride = 8 * static_cast<int64_t>(wanted.x1 - wanted.x0) * component.across;
    plane.samples.need(8 * static_cast<int64_t>(wanted.y1 - wanted.y0) * component.down * plane.stride + kJpegPadding);
  }
  const int64_t mcus = static_cast<int64_t>(file.mcus_x) * file.mcus_y;
  const int64_t interval = file.scan.restart ? file.scan.restart : mcus;
  const int64_t last = static_cast<int64_t>(wanted.y1 - 1) * file.mcus_x + wanted.x1;  // no MCU is wanted from here on
  for (size_t s = 0; s < w.segments.size(); ++s) {
    const int64_t begin = static_cast<int64_t>(s) * interval, end = std::min(mcus, begin + interval);
    if (begin >= last) break;
    const int32_t y0 = static_cast<int32_t>(begin / file.mcus_x), y1 = static_cast<int32_t>((end - 1) / file.mcus_x);
    if (y1 < wanted.y0) continue;
    int64_t read_end = std::min(end, last);
    if (y0 == y1) {  // within a row
      const int64_t row = static_cast<int64_t>(y0) * file.mcus_x;
      if (begin - row >= wanted.x1 || end - row <= wanted.x0) continue;
      read_end = std::min(end, row + wanted.x1);
    }
    const BitReader in(data + w.segments[s].begin, data + w.segments[s].end);
    const char* wrong = read_segment(file, kernels, in, begin, read_end, wanted, w, read_end == end);
    if (wrong) return wrong;
  }

  const Plane& luma = w.planes[0];
  const int32_t top = file.mcu_height * wanted.y0, left = file.mcu_width * wanted.x0;
  for (Buffer<uint8_t>& line : w.lines)
    line.need(file.mcu_width * static_cast<int64_t>(wanted.x1 - wanted.x0) + kJpegPadding);
  w.sums.need(8 * static_cast<int64_t>(wanted.x1 - wanted.x0) + 2 + kJpegPadding);
  for (int32_t y = r.y; y < r.y + r.h; ++y, out += 3 * static_cast<int64_t>(r.w)) {
    const uint8_t* row = luma.row(y - top) + r.x - left;
    if (file.components == 1) {
      for (int32_t x = 0; x < r.w; ++x) out[3 * x] = out[3 * x + 1] = out[3 * x + 2] = row[x];
      continue;
    }
    const uint8_t* cb = chroma_row(file, kernels, 1, y, wanted, w) + r.x - left;
    const uint8_t* cr = chroma_row(file, kernels, 2, y, wanted, w) + r.x - left;
    kernels.to_rgb(row, cb, cr, r.w, out);
  }
  if (luma.samples.bytes() > 64 << 20) {  // one giant picture must not pin its scratch for good
    for (Plane& plane : w.planes) plane.samples.release();
  }
  return nullptr;
}

void read_jpegs(const uint8_t* arena, const int64_t* starts, const Region* regions, int64_t n, int32_t threads,
                uint8_t* const* out, const char** why_not) {
  parallel_for(n, threads, [&](int64_t i) {
    const size_t size = static_cast<size_t>(starts[i + 1] - starts[i]);
    why_not[i] = out[i] ? read_jpeg(arena + starts[i], size, regions[i], out[i]) : "passed over";
  });
}

}  // namespace dalipipe
