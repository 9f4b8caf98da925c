// What an image file's header says. Every byte is read through `Bytes`: no input can lead outside the buffer, and every
// loop moves forward by at least one byte.
#include <algorithm>
#include <cstring>
#include <limits>

#include "bytes.h"
#include "cpu/pool.h"
#include "io.h"
#include "jpeg/ones.h"

namespace dalipipe {
namespace {

int32_t pixels(uint32_t value) {  // a size that does not fit is a size not found
  return value <= static_cast<uint32_t>(std::numeric_limits<int32_t>::max()) ? static_cast<int32_t>(value) : 0;
}

bool blank(uint32_t byte) { return byte == ' ' || (byte >= '\t' && byte <= '\r'); }

void flag(ImageHeader& header, uint32_t which, bool on = true) {
  if (on) header.flags |= which;
}

// The first directory of a TIFF file, which is also what EXIF holds.
void read_tiff(const Bytes& in, ImageHeader& header, bool exif) {
  const bool little = in.equal(0, "II", 2);
  const auto u16 = [&](size_t at) { return little ? in.le16(at) : in.be16(at); };
  const auto u32 = [&](size_t at) { return little ? in.le32(at) : in.be32(at); };
  if ((!little && !in.equal(0, "MM", 2)) || u16(2) != 42) return;
  const size_t directory = u32(4);
  const size_t entries = in.has(directory, 2) ? u16(directory) : 0;
  for (size_t i = 0; i < entries && in.has(directory + 2 + 12 * i, 12); ++i) {
    const size_t at = directory + 2 + 12 * i;
    const uint32_t tag = u16(at), type = u16(at + 2), count = u32(at + 4);
    const uint32_t value = type == 3 ? u16(at + 8) : u32(at + 8);  // SHORT, else LONG
    if (tag == 0x0112 && value >= 1 && value <= 8) header.orientation = static_cast<int32_t>(value);
    if (exif) continue;
    if (tag == 0x0100) header.width = pixels(value);
    if (tag == 0x0101) header.height = pixels(value);
    if (tag == 0x0102) header.bits = static_cast<int32_t>(count > 2 ? u16(u32(at + 8)) : value & 0xFFFF);
    if (tag == 0x0106) flag(header, kCmyk, value == 5), flag(header, kPalette, value == 3);
    if (tag == 0x0115) header.channels = static_cast<int32_t>(value & 0xFFFF);
    if (tag == 0x0152) flag(header, kAlpha);
  }
  if (exif) return;
  if (header.channels == 0) header.channels = 1;  // the standard's defaults
  if (header.bits == 0) header.bits = 1;
  if (header.flags & kPalette) header.channels = 3;
  flag(header, kTruncated, entries == 0 || !in.has(directory, 2 + 12 * entries));
  flag(header, kAnimated, u32(directory + 2 + 12 * entries) != 0);
}

// From the first scan on: markers that cannot stand there give a damaged file away, a missing end a truncated one.
// Decoders would go on with what they have read, and give grey areas without a word.
void read_jpeg_scans(const Bytes& in, size_t scan, ImageHeader& header) {
  size_t at = scan;
  while (scan > 0 && in.has(at, 2)) {
    at = find_marker(in.data + at, in.data + in.size) - in.data + 1;
    if (at >= in.size) break;
    const uint32_t marker = in.data[at];
    if (marker == 0xD9) return;                                  // the end
    if (marker == 0xFF || (marker >= 0xD0 && marker <= 0xD7)) {  // fill, restart
      at += marker != 0xFF;
    } else if (marker == 0xC4 || marker == 0xCC || (marker >= 0xDA && marker <= 0xDD) || marker == 0xFE ||
               (marker >= 0xE0 && marker <= 0xEF)) {  // a segment before the next scan
      at += 1 + std::max<size_t>(in.be16(at + 1), 2);
    } else {
      flag(header, kDamaged);
      return;
    }
  }
  flag(header, kTruncated);
}

// ITU T.81: segments up to the start of scan.
void read_jpeg(const Bytes& in, ImageHeader& header) {
  bool jfif = false, adobe_rgb = false, rgb_names = false;
  size_t at = 2, scan = 0;
  while (in.has(at, 2)) {
    if (in.u8(at) != 0xFF) {  // decoders skip to the next marker, and so do we
      const void* next = std::memchr(in.data + at, 0xFF, in.size - at);
      at = next ? static_cast<const uint8_t*>(next) - in.data : in.size;
      continue;
    }
    const uint32_t marker = in.u8(at + 1);
    if (marker == 0xFF || marker == 0x00) {  // fill byte; stuffed byte
      at += marker ? 1 : 2;
      continue;
    }
    at += 2;
    if (marker == 0x01 || (marker >= 0xD0 && marker <= 0xD8)) continue;  // stand alone
    if (marker == 0xD9) break;                                           // the end, with no scan
    const uint32_t length = in.be16(at);
    const Bytes body = in.from(at + 2, length < 2 ? 0 : length - 2);
    if (marker == 0xDA) {
      scan = at + length;
      break;
    }
    if (marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC && body.size >= 6) {
      const uint32_t process = marker & 3;  // 1 extended, 2 progressive, 3 lossless; +4 hierarchical, +8 arithmetic
      header.bits = static_cast<int32_t>(body.u8(0));
      header.height = pixels(body.be16(1));
      header.width = pixels(body.be16(3));
      header.channels = static_cast<int32_t>(body.u8(5));
      rgb_names = header.channels == 3 && body.u8(6) == 'R' && body.u8(9) == 'G' && body.u8(12) == 'B';
      flag(header, kProgressive, process == 2);
      flag(header, kLossless, process == 3);
      flag(header, kHierarchical, marker & 4);
      flag(header, kArithmetic, marker & 8);
      flag(header, kCmyk, header.channels == 4);
      const auto sampling = [&](size_t component) { return body.u8(7 + 3 * component); };  // across, down: 4 bits each
      const bool usual = (sampling(0) == 0x11 || sampling(0) == 0x12 || sampling(0) == 0x21 || sampling(0) == 0x22) &&
                         sampling(1) == 0x11 && sampling(2) == 0x11;
      flag(header, kUnusual, header.channels == 3 && !usual);
    } else if (marker == 0xDD) {
      flag(header, kRestarts, body.be16(0) > 0);
    } else if (marker == 0xE0 && body.equal(0, "JFIF", 5)) {
      jfif = true;
    } else if (marker == 0xE1 && body.equal(0, "Exif\0", 6)) {
      read_tiff(body.from(6, body.size), header, true);
    } else if (marker == 0xEE && body.equal(0, "Adobe", 5) && body.size >= 12) {
      flag(header, kAdobe);
      flag(header, kYcck, body.u8(11) == 2);
      adobe_rgb = body.u8(11) == 0;
    }
    at += std::max<size_t>(length, 2);
  }
  if (header.channels != 4) header.flags &= ~static_cast<uint32_t>(kYcck);
  // Who says that three components are RGB: JFIF (it says no), else Adobe, else the components' names.
  const bool adobe = header.flags & kAdobe;
  flag(header, kRgb, header.channels == 3 && !jfif && (adobe ? adobe_rgb : rgb_names));
  read_jpeg_scans(in, scan, header);
}

void read_png(const Bytes& in, ImageHeader& header) {
  if (!in.equal(12, "IHDR", 4)) {
    flag(header, kTruncated);
    return;
  }
  const uint32_t colour = in.u8(25);
  header.width = pixels(in.be32(16));
  header.height = pixels(in.be32(20));
  header.bits = static_cast<int32_t>(in.u8(24));
  header.channels = colour == 2 || colour == 3 ? 3 : colour == 4 ? 2 : colour == 6 ? 4 : 1;
  flag(header, kPalette, colour == 3);
  flag(header, kAlpha, colour & 4);
  flag(header, kProgressive, in.u8(28) == 1);
  bool ended = false;
  for (size_t at = 8; !ended && in.has(at, 12); at += 12 + static_cast<size_t>(in.be32(at))) {
    ended = in.equal(at + 4, "IEND", 4);
    flag(header, kAlpha, in.equal(at + 4, "tRNS", 4));
    flag(header, kAnimated, in.equal(at + 4, "acTL", 4));
    if (in.equal(at + 4, "eXIf", 4)) read_tiff(in.from(at + 8, in.be32(at)), header, true);
  }
  flag(header, kTruncated, !ended);
}

// RFC 9649.
void read_webp(const Bytes& in, ImageHeader& header) {
  header.channels = 3;
  header.bits = 8;
  flag(header, kTruncated, in.size < 8 + static_cast<size_t>(in.le32(4)) || in.size < 30);
  if (in.equal(12, "VP8 ", 4) && in.equal(23, "\x9D\x01\x2A", 3)) {
    header.width = pixels(in.le16(26) & 0x3FFF);
    header.height = pixels(in.le16(28) & 0x3FFF);
  } else if (in.equal(12, "VP8L", 4) && in.u8(20) == 0x2F && in.has(21, 4)) {
    const uint32_t packed = in.le32(21);
    header.width = pixels(1 + (packed & 0x3FFF));
    header.height = pixels(1 + (packed >> 14 & 0x3FFF));
    flag(header, kAlpha, packed >> 28 & 1);
    flag(header, kLossless);
  } else if (in.equal(12, "VP8X", 4) && in.has(20, 10)) {
    header.width = pixels(1 + in.le24(24));
    header.height = pixels(1 + in.le24(27));
    flag(header, kAlpha, in.u8(20) & 0x10);
    flag(header, kAnimated, in.u8(20) & 0x02);
    for (size_t at = 12; in.has(at, 8); at += 8 + static_cast<size_t>(in.le32(at + 4)) + (in.le32(at + 4) & 1)) {
      if (!in.equal(at, "EXIF", 4)) continue;
      const Bytes exif = in.from(at + 8, in.le32(at + 4));
      read_tiff(exif.equal(0, "Exif\0", 6) ? exif.from(6, exif.size) : exif, header, true);
    }
  }
  if (header.flags & kAlpha) header.channels = 4;
}

void read_bmp(const Bytes& in, ImageHeader& header) {
  const bool core = in.le32(14) == 12;
  const uint32_t bits = in.le16(core ? 24 : 28), compression = core ? 0 : in.le32(30);
  const uint32_t height = core ? in.le16(20) : in.le32(22);
  header.width = pixels(core ? in.le16(18) : in.le32(18));
  header.height = pixels(height > 0x80000000u ? 0u - height : height);  // negative: top row first
  header.channels = 3;
  header.bits = 8;
  flag(header, kPalette, bits <= 8);
  if (in.le32(14) >= 56 && in.le32(66) != 0 && bits == 32) flag(header, kAlpha), header.channels = 4;
  const uint64_t row = (static_cast<uint64_t>(header.width) * bits + 31) / 32 * 4;
  const uint64_t packed = compression == 0 || compression == 3 ? row * static_cast<uint64_t>(header.height) : 0;
  flag(header, kTruncated, !in.has(0, core ? 26 : 34) || in.size < in.le32(10) + packed);
}

void read_gif(const Bytes& in, ImageHeader& header) {
  header.width = pixels(in.le16(6));
  header.height = pixels(in.le16(8));
  header.channels = 3;
  header.bits = 8;
  flag(header, kPalette);
  const auto table_bytes = [](uint32_t packed) -> size_t { return packed & 0x80 ? 6u << (packed & 7) : 0; };
  const auto skip_blocks = [&](size_t at) {
    for (; in.u8(at) != 0; at += 1 + in.u8(at)) {
    }
    return at + 1;
  };
  size_t at = 13 + table_bytes(in.u8(10));
  int pictures = 0;
  while (in.u8(at) == 0x21 || in.u8(at) == 0x2C) {
    if (in.u8(at) == 0x2C) {
      ++pictures;
      at = skip_blocks(at + 11 + table_bytes(in.u8(at + 9)));
    } else {
      flag(header, kAlpha, pictures == 0 && in.u8(at + 1) == 0xF9 && (in.u8(at + 3) & 1));
      at = skip_blocks(at + 2);
    }
  }
  flag(header, kAnimated, pictures > 1);
  flag(header, kTruncated, in.u8(at) != 0x3B);
}

// Netpbm P1..P6: numbers in ASCII, with comments, then rows.
void read_pnm(const Bytes& in, ImageHeader& header) {
  const uint32_t type = in.u8(1) - '0';
  size_t at = 2;
  const auto number = [&]() -> uint32_t {
    while (at < in.size && (in.data[at] == '#' || blank(in.data[at]))) {
      if (in.data[at] == '#') {
        while (at < in.size && in.data[at] != '\n' && in.data[at] != '\r') ++at;
      } else {
        ++at;
      }
    }
    uint64_t value = 0;
    for (; at < in.size && in.data[at] >= '0' && in.data[at] <= '9'; ++at) {
      value = std::min<uint64_t>(10 * value + (in.data[at] - '0'), 0xFFFFFFFFu);
    }
    return static_cast<uint32_t>(value);
  };
  header.width = pixels(number());
  header.height = pixels(number());
  header.channels = type == 3 || type == 6 ? 3 : 1;
  const bool bitmap = type == 1 || type == 4;
  const uint32_t highest = bitmap ? 1 : number();
  header.bits = bitmap ? 1 : highest > 255 ? 16 : 8;
  // ASCII rows take at least a character a sample; the sizes are below 2^31, so a row's bytes cannot overflow.
  uint64_t row = static_cast<uint64_t>(header.width) * header.channels;
  if (type == 4) row = (row + 7) / 8;
  if (type >= 5) row *= header.bits / 8;
  const uint64_t left = at < in.size ? in.size - at - 1 : 0;
  flag(header, kTruncated, row > 0 && left / row < static_cast<uint64_t>(header.height));
}

}  // namespace

ImageHeader probe_image(const uint8_t* data, size_t size) {
  const Bytes in{data, size};
  ImageHeader header;
  const auto is = [&](ImageKind kind) { header.kind = static_cast<int32_t>(kind); };
  if (in.equal(0, "\xFF\xD8\xFF", 3)) {
    is(ImageKind::jpeg), read_jpeg(in, header);
  } else if (in.equal(0, "\x89PNG\r\n\x1A\n", 8)) {
    is(ImageKind::png), read_png(in, header);
  } else if (in.equal(0, "RIFF", 4) && in.equal(8, "WEBP", 4)) {
    is(ImageKind::webp), read_webp(in, header);
  } else if (in.equal(0, "GIF87a", 6) || in.equal(0, "GIF89a", 6)) {
    is(ImageKind::gif), read_gif(in, header);
  } else if (in.equal(0, "II*\0", 4) || in.equal(0, "MM\0*", 4)) {
    is(ImageKind::tiff), read_tiff(in, header, false);
  } else if (in.equal(0, "BM", 2) && in.le32(14) >= 12 && in.le32(14) <= 256) {
    is(ImageKind::bmp), read_bmp(in, header);
  } else if (in.u8(0) == 'P' && in.u8(1) >= '1' && in.u8(1) <= '6' && (blank(in.u8(2)) || in.u8(2) == '#')) {
    is(ImageKind::pnm), read_pnm(in, header);
  }
  return header;
}

void probe_images(const uint8_t* arena, const int64_t* starts, int64_t n, int32_t threads, ImageHeader* out) {
  parallel_for(n, threads, [&](int64_t i) {
    out[i] = probe_image(arena + starts[i], static_cast<size_t>(starts[i + 1] - starts[i]));
  });
}

}  // namespace dalipipe
