// Bytes of a file that may be anything: what lies beyond their end reads as zero.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace dalipipe {

struct Bytes {
  const uint8_t* data;
  size_t size;

  bool has(size_t at, size_t count) const { return at <= size && count <= size - at; }
  bool equal(size_t at, const char* text, size_t count) const {
    return has(at, count) && std::memcmp(data + at, text, count) == 0;
  }
  uint32_t u8(size_t at) const { return at < size ? data[at] : 0; }
  uint32_t be16(size_t at) const { return u8(at) << 8 | u8(at + 1); }
  uint32_t be32(size_t at) const { return be16(at) << 16 | be16(at + 2); }
  uint32_t le16(size_t at) const { return u8(at) | u8(at + 1) << 8; }
  uint32_t le24(size_t at) const { return le16(at) | u8(at + 2) << 16; }
  uint32_t le32(size_t at) const { return le16(at) | le16(at + 2) << 16; }
  uint64_t le64(size_t at) const { return le32(at) | static_cast<uint64_t>(le32(at + 4)) << 32; }
  Bytes from(size_t at, size_t count) const {
    at = std::min(at, size);
    return {data + at, std::min(count, size - at)};
  }
};

}  // namespace dalipipe
