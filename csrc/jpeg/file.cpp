#include "jpeg/file.h"

#include <algorithm>
#include <cstring>

#include "jpeg/ones.h"

namespace dalipipe {
namespace {

int32_t up(int32_t n, int32_t by) { return (n + by - 1) / by; }

}  // namespace

bool JpegFile::next_scan() {
  if (wrong_) return false;
  if (at_ == 0) {
    if (size_ < 4 || u8(0) != 0xFF || u8(1) != 0xD8) return fail("it does not begin as a JPEG does");
    at_ = 2;
  }
  while (at_ + 1 < size_) {
    if (u8(at_) != 0xFF) return fail("there are bytes between its segments");
    const int32_t marker = u8(at_ + 1);
    if (marker == 0xFF) {  // a fill byte
      ++at_;
      continue;
    }
    const size_t begin = at_;
    if (marker == 0xD9) return false;
    if (marker == 0x00 || marker == 0x01 || (marker >= 0xD0 && marker <= 0xD8)) return fail("a marker is out of place");
    if (at_ + 4 > size_) break;
    const JpegPart body{at_ + 4, at_ + 2 + static_cast<size_t>(be16(at_ + 2))};
    if (body.end < body.begin) return fail("a segment is too short");
    if (body.end > size_) break;
    at_ = body.end;
    bool good = true;
    switch (marker) {
      case 0xC0:
      case 0xC1:
      case 0xC2:
        good = read_frame(marker, body);
        frame = {begin, body.end};
        break;
      case 0xC3: return fail("lossless coding");
      case 0xC5:
      case 0xC6:
      case 0xC7:
      case 0xDE:
      case 0xDF: return fail("hierarchical coding");
      case 0xC8:
      case 0xC9:
      case 0xCA:
      case 0xCB:
      case 0xCC:
      case 0xCD:
      case 0xCE:
      case 0xCF: return fail("arithmetic coding");
      case 0xC4: good = read_codes(body); break;
      case 0xDB: good = read_quantisers(body); break;
      case 0xDD:
        if (body.end - body.begin != 2) return fail("a segment is too short");
        restart_ = be16(body.begin);
        break;
      case 0xDA:
        if (!read_scan(body)) return false;
        if (first_scan.end == 0) first_scan = {begin, body.end};
        return true;
      default:
        if ((marker >= 0xE0 && marker <= 0xEF) || marker == 0xFE) {
          read_application(marker, body);
          if (first_scan.end == 0) metadata.push_back({begin, body.end});
        } else {
          return fail("a segment of an unknown kind");
        }
    }
    if (!good) return false;
  }
  return fail("it ends early");
}

bool JpegFile::read_frame(int32_t marker, JpegPart body) {
  if (components > 0) return fail("it has two frames");
  const size_t n = body.end - body.begin;
  if (n < 6) return fail("a segment is too short");
  if (u8(body.begin) != 8) return fail("samples of more than 8 bits");
  height = be16(body.begin + 1);
  width = be16(body.begin + 3);
  const int32_t count = u8(body.begin + 5);
  if (height == 0 || width == 0) return fail("its header does not say how large it is");
  if (n != 6 + 3 * static_cast<size_t>(count)) return fail("its frame is malformed");
  if (count == 4) return fail("four components (CMYK)");
  if (count != 1 && count != 3) return fail("neither one component nor three");
  progressive = marker == 0xC2;
  for (int32_t i = 0; i < count; ++i) {
    JpegComponent& c = component[i];
    c.id = u8(body.begin + 6 + 3 * i);
    c.across = u8(body.begin + 7 + 3 * i) >> 4;
    c.down = u8(body.begin + 7 + 3 * i) & 15;
    c.table = u8(body.begin + 8 + 3 * i);
    if (c.across < 1 || c.across > 4 || c.down < 1 || c.down > 4 || c.table > 3) return fail("its frame is malformed");
    for (int32_t j = 0; j < i; ++j) {
      if (component[j].id == c.id) return fail("its frame is malformed");
    }
  }
  if (count == 1) {
    component[0].across = component[0].down = 1;  // of a component alone they mean nothing
  } else if (component[0].across > 2 || component[0].down > 2 || component[1].across != 1 || component[1].down != 1 ||
             component[2].across != 1 || component[2].down != 1) {
    return fail("an unusual sampling of its components");
  }
  components = count;
  mcu_height = 8 * component[0].down;
  mcu_width = 8 * component[0].across;
  mcus_y = up(height, mcu_height);
  mcus_x = up(width, mcu_width);
  for (int32_t i = 0; i < count; ++i) {
    JpegComponent& c = component[i];
    c.height = i == 0 ? height : up(height, component[0].down);
    c.width = i == 0 ? width : up(width, component[0].across);
    c.blocks_y = mcus_y * c.down;
    c.blocks_x = mcus_x * c.across;
  }
  return true;
}

bool JpegFile::read_quantisers(JpegPart body) {
  for (size_t at = body.begin; at < body.end;) {
    const int32_t wide = u8(at) >> 4, table = u8(at) & 15;
    const size_t bytes = wide ? 128 : 64;
    if (wide > 1 || table > 3 || bytes >= body.end - at) return fail("its quantisers are malformed");
    ++at;
    for (int32_t k = 0; k < 64; ++k) {
      quantisers_[table][kZigzag.place[k]] = static_cast<uint16_t>(wide ? be16(at + 2 * k) : u8(at + k));
    }
    defined_[table] = true;
    at += bytes;
  }
  return true;
}

bool JpegFile::read_codes(JpegPart body) {
  for (size_t at = body.begin; at < body.end;) {
    const int32_t kind = u8(at) >> 4, table = u8(at) & 15;
    if (kind > 1 || table > 3 || body.end - at < 17) return fail("its Huffman codes are malformed");
    HuffmanCode code;
    for (int32_t l = 1; l <= 16; ++l) {
      code.counts[l] = static_cast<uint8_t>(u8(at + l));
      code.total += code.counts[l];
    }
    at += 17;
    if (code.total > 256 || static_cast<size_t>(code.total) > body.end - at) {
      return fail("its Huffman codes are malformed");
    }
    std::memcpy(code.symbols, data_ + at, static_cast<size_t>(code.total));
    at += static_cast<size_t>(code.total);
    (kind ? ac : dc)[table] = code;
  }
  return true;
}

bool JpegFile::read_scan(JpegPart body) {
  if (components == 0) return fail("a scan comes before its frame");
  const int32_t n = body.end - body.begin >= 1 ? u8(body.begin) : 0;
  if (n < 1 || n > components || body.end - body.begin != 4 + 2 * static_cast<size_t>(n)) {
    return fail("a scan is malformed");
  }
  scan = {};
  scan.count = n;
  scan.restart = restart_;
  scan.data = body.end;
  for (int32_t i = 0; i < n; ++i) {
    const int32_t id = u8(body.begin + 1 + 2 * i), codes = u8(body.begin + 2 + 2 * i);
    int32_t which = 0;
    while (which < components && component[which].id != id) ++which;
    // In the frame's order, each once.
    if (which == components || (i > 0 && which <= scan.components[i - 1])) return fail("a scan is malformed");
    JpegComponent& c = component[which];
    c.dc = codes >> 4;
    c.ac = codes & 15;
    if (c.dc > 3 || c.ac > 3) return fail("a scan is malformed");
    if (!c.scanned) {
      if (!defined_[c.table]) return fail("it lacks quantisers");
      std::memcpy(c.quantisers, quantisers_[c.table], sizeof c.quantisers);
      c.scanned = true;
    }
    scan.components[i] = which;
  }
  const size_t rest = body.begin + 1 + 2 * static_cast<size_t>(n);
  if (progressive) {
    scan.first = u8(rest);
    scan.last = u8(rest + 1);
    scan.high = u8(rest + 2) >> 4;
    scan.low = u8(rest + 2) & 15;
  }
  return true;
}

void JpegFile::read_application(int32_t marker, JpegPart body) {
  const size_t n = body.end - body.begin;
  if (marker == 0xE0 && n >= 14 && std::memcmp(data_ + body.begin, "JFIF", 5) == 0) jfif = true;
  if (marker == 0xEE && n >= 12 && std::memcmp(data_ + body.begin, "Adobe", 5) == 0) {
    adobe_transform = u8(body.begin + 11);
  }
}

int32_t JpegFile::scan_mcus_x() const { return scan.count == 1 ? up(component[scan.components[0]].width, 8) : mcus_x; }
int32_t JpegFile::scan_mcus_y() const { return scan.count == 1 ? up(component[scan.components[0]].height, 8) : mcus_y; }

bool JpegFile::segments(std::vector<JpegPart>& out) {
  const int64_t mcus = static_cast<int64_t>(scan_mcus_x()) * scan_mcus_y();
  const int64_t expected = scan.restart == 0 ? 1 : (mcus + scan.restart - 1) / scan.restart;
  out.clear();
  out.reserve(static_cast<size_t>(std::min<int64_t>(expected, 1 << 16)));
  size_t begin = scan.data, at = begin;
  for (;;) {
    at = static_cast<size_t>(find_marker(data_ + at, data_ + size_) - data_);
    size_t marker = at + 1;
    while (marker < size_ && u8(marker) == 0xFF) ++marker;
    if (marker >= size_) return fail("it ends early");
    if (u8(marker) == 0) return fail("a marker is out of place");
    out.push_back({begin, at});
    if (u8(marker) < 0xD0 || u8(marker) > 0xD7) break;
    if (u8(marker) != 0xD0 + static_cast<int32_t>((out.size() - 1) % 8)) return fail("its restarts are out of order");
    if (static_cast<int64_t>(out.size()) >= expected) return fail("it has too many restarts");
    begin = at = marker + 1;
  }
  if (static_cast<int64_t>(out.size()) < expected) return fail("it has too few restarts");
  at_ = at;
  return true;
}

}  // namespace dalipipe
