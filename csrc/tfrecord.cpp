// TFRecord files and the tf.train.Example messages in them.
#include <array>
#include <cstring>

#include "cpu/pool.h"
#include "shards.h"

#if defined(__x86_64__)
#include <nmmintrin.h>
#elif defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
#endif

namespace dalipipe {
namespace {

// --- CRC-32C

using Tables = std::array<std::array<uint32_t, 256>, 8>;

Tables make_tables() {
  Tables tables{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0);
    tables[0][i] = crc;
  }
  for (uint32_t i = 0; i < 256; ++i) {
    for (int t = 1; t < 8; ++t) tables[t][i] = tables[t - 1][i] >> 8 ^ tables[0][tables[t - 1][i] & 0xFF];
  }
  return tables;
}

template <typename T>
T load(const uint8_t* from) {  // numbers lie in the files as they do in memory: little-endian, both
  T value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

// Eight bytes a step, one table for each.
uint32_t crc_by_tables(uint32_t crc, const uint8_t* data, size_t n) {
  static const Tables table = make_tables();
  for (; n >= 8; data += 8, n -= 8) {
    const uint64_t word = load<uint64_t>(data) ^ crc;
    crc = 0;
    for (int i = 0; i < 8; ++i) crc ^= table[7 - i][word >> 8 * i & 0xFF];
  }
  for (; n > 0; ++data, --n) crc = crc >> 8 ^ table[0][(crc ^ *data) & 0xFF];
  return crc;
}

#if defined(__x86_64__)
bool has_instruction() { return __builtin_cpu_supports("sse4.2"); }

__attribute__((target("sse4.2"))) uint32_t crc_by_instruction(uint32_t crc, const uint8_t* data, size_t n) {
  uint64_t wide = crc;
  for (; n >= 8; data += 8, n -= 8) wide = _mm_crc32_u64(wide, load<uint64_t>(data));
  crc = static_cast<uint32_t>(wide);
  for (; n > 0; ++data, --n) crc = _mm_crc32_u8(crc, *data);
  return crc;
}
#elif defined(__ARM_FEATURE_CRC32)
bool has_instruction() { return true; }

uint32_t crc_by_instruction(uint32_t crc, const uint8_t* data, size_t n) {
  for (; n >= 8; data += 8, n -= 8) crc = __crc32cd(crc, load<uint64_t>(data));
  for (; n > 0; ++data, --n) crc = __crc32cb(crc, *data);
  return crc;
}
#else
bool has_instruction() { return false; }
uint32_t crc_by_instruction(uint32_t crc, const uint8_t* data, size_t n) { return crc_by_tables(crc, data, n); }
#endif

// --- protocol buffers, as far as Example needs them

// One field of a message: a varint's or a fixed number's value, or the bytes of what has a length.
struct Field {
  uint64_t number = 0, wire = 0, value = 0;
  const uint8_t* data = nullptr;
  size_t size = 0;
};

constexpr uint64_t kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5;

bool read_varint(const uint8_t*& at, const uint8_t* end, uint64_t* value) {
  *value = 0;
  for (int shift = 0; shift < 70 && at < end; shift += 7) {
    const uint8_t byte = *at++;
    *value |= static_cast<uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) return true;
  }
  return false;
}

// Calls visit(field) for each field of a message. False: it is malformed, or a visit said so.
template <typename Visit>
bool each_field(const uint8_t* at, size_t n, const Visit& visit) {
  for (const uint8_t* end = at + n; at < end;) {
    Field field;
    uint64_t tag;
    if (!read_varint(at, end, &tag) || tag > UINT32_MAX || tag >> 3 == 0) return false;
    field.number = tag >> 3;
    field.wire = tag & 7;
    if (field.wire == kVarint) {
      if (!read_varint(at, end, &field.value)) return false;
    } else if (field.wire == kBytes) {
      uint64_t size;
      if (!read_varint(at, end, &size) || size > static_cast<uint64_t>(end - at)) return false;
      field.data = at;
      at += field.size = size;
    } else if (field.wire == kFixed32 || field.wire == kFixed64) {
      const size_t size = field.wire == kFixed32 ? 4 : 8;
      if (size > static_cast<size_t>(end - at)) return false;
      std::memcpy(&field.value, at, size);
      at += size;
    } else {
      return false;  // groups: Example has none
    }
    if (!visit(field)) return false;
  }
  return true;
}

// Calls visit(value) for each number of an Int64List: packed, single, or some of both.
template <typename Visit>
bool each_int(const uint8_t* list, size_t n, const Visit& visit) {
  return each_field(list, n, [&](const Field& field) {
    if (field.number != 1) return true;
    if (field.wire == kVarint) return visit(static_cast<int64_t>(field.value));
    if (field.wire != kBytes) return false;
    for (const uint8_t *at = field.data, *end = at + field.size; at < end;) {
      uint64_t value;
      if (!read_varint(at, end, &value) || !visit(static_cast<int64_t>(value))) return false;
    }
    return true;
  });
}

// And of a FloatList.
template <typename Visit>
bool each_float(const uint8_t* list, size_t n, const Visit& visit) {
  return each_field(list, n, [&](const Field& field) {
    if (field.number != 1) return true;
    if (field.wire == kFixed32) {
      const uint32_t bits = static_cast<uint32_t>(field.value);
      return visit(load<float>(reinterpret_cast<const uint8_t*>(&bits)));
    }
    if (field.wire != kBytes || field.size % sizeof(float)) return false;
    for (size_t i = 0; i < field.size; i += sizeof(float)) {
      if (!visit(load<float>(field.data + i))) return false;
    }
    return true;
  });
}

// visit(data, size) for each value of a BytesList.
template <typename Visit>
bool each_bytes(const uint8_t* list, size_t n, const Visit& visit) {
  return each_field(list, n, [&](const Field& field) {
    return field.number != 1 || (field.wire == kBytes && visit(field.data, field.size));
  });
}

// message Feature { oneof kind { BytesList bytes_list = 1; FloatList float_list = 2; Int64List int64_list = 3; } }
bool read_feature(const uint8_t* base, const uint8_t* data, size_t n, Feature* feature) {
  *feature = Feature{};
  const auto count = [&](auto...) { return ++feature->count, true; };
  return each_field(data, n, [&](const Field& field) {
    if (field.number > 3) return true;
    if (field.wire != kBytes) return false;
    *feature = Feature{};
    feature->kind = static_cast<int64_t>(field.number);
    feature->list = field.data - base;
    feature->list_bytes = static_cast<int64_t>(field.size);
    switch (static_cast<FeatureKind>(field.number)) {
      case FeatureKind::floats: return each_float(field.data, field.size, count);
      case FeatureKind::ints: return each_int(field.data, field.size, count);
      default:
        return each_bytes(field.data, field.size, [&](const uint8_t* value, size_t size) {
          if (feature->count++ == 0) feature->first = value - base, feature->first_bytes = static_cast<int64_t>(size);
          return true;
        });
    }
  });
}

// message Example { Features features = 1; }   message Features { map<string, Feature> feature = 1; }
// visit(name, data, size) for each entry of the map; of two with one name, the last holds.
template <typename Visit>
bool each_feature(const uint8_t* data, size_t n, const Visit& visit) {
  return each_field(data, n, [&](const Field& features) {
    if (features.number != 1) return true;
    if (features.wire != kBytes) return false;
    return each_field(features.data, features.size, [&](const Field& entry) {
      if (entry.number != 1) return true;
      if (entry.wire != kBytes) return false;
      Field name, value;
      const bool good = each_field(entry.data, entry.size, [&](const Field& field) {
        if (field.number == 1) name = field;
        if (field.number == 2) value = field;
        return field.number > 2 || field.wire == kBytes;
      });
      return good &&
             visit(std::string_view(reinterpret_cast<const char*>(name.data), name.size), value.data, value.size);
    });
  });
}

}  // namespace

uint32_t crc32c(const uint8_t* data, size_t n, bool portable) {
  static const bool fast = has_instruction();
  return ~(fast && !portable ? crc_by_instruction(~0u, data, n) : crc_by_tables(~0u, data, n));
}

void crc32c_of(const uint8_t* arena, const int64_t* starts, int64_t n, int32_t threads, uint32_t* out) {
  parallel_for(n, threads,
               [&](int64_t i) { out[i] = crc32c(arena + starts[i], static_cast<size_t>(starts[i + 1] - starts[i])); });
}

uint32_t masked_crc32c(const uint8_t* data, size_t n) {
  const uint32_t crc = crc32c(data, n);
  return (crc >> 15 | crc << 17) + 0xA282EAD8u;
}

// --- files

void RecordScanner::take(const uint8_t* unit, int64_t, int64_t at) {
  if (at > 0) {  // the last record's checksum comes before the next one's length
    checksums_.push_back(load<uint32_t>(unit));
    unit += 4;
    at += 4;
  }
  const uint64_t size = load<uint64_t>(unit);
  if (masked_crc32c(unit, 8) != load<uint32_t>(unit + 8)) {
    const bool zipped = at == 0 && ((unit[0] == 0x1F && unit[1] == 0x8B) || unit[0] == 0x78);
    const char* what = at ? "the checksum of a record's length does not match" : "this is no TFRecord file";
    return damaged(at, zipped ? "this looks like a compressed file, which has no random access: decompress it" : what);
  }
  if (size > uint64_t{1} << 62 || static_cast<int64_t>(size) > (int64_t{1} << 62) - at) {
    return damaged(at, "a record claims " + std::to_string(size) + " bytes");
  }
  offsets_.push_back(at + 12);
  sizes_.push_back(static_cast<int64_t>(size));
  next(at + 12 + static_cast<int64_t>(size), 4 + 12);
}

void RecordScanner::check_end(int64_t size_bytes) {
  const size_t expected = offsets_.empty() ? 0 : 4;
  const int64_t end = at() + static_cast<int64_t>(expected);
  if (end > size_bytes) {
    damaged(size_bytes, "the shard ends here, its last record would end at byte " + std::to_string(end));
  } else if (carried().size() > expected) {
    damaged(size_bytes, "the shard ends in the middle of a record's length");
  } else if (expected) {
    checksums_.push_back(load<uint32_t>(carried().data()));
  }
}

// --- messages

bool list_features(const uint8_t* data, size_t n, std::vector<std::pair<std::string, Feature>>* out) {
  return each_feature(data, n, [&](std::string_view name, const uint8_t* value, size_t size) {
    Feature feature;
    if (!read_feature(data, value, size, &feature)) return false;
    for (auto& [known, kept] : *out) {
      if (known == name) return kept = feature, true;
    }
    out->emplace_back(name, feature);
    return true;
  });
}

bool find_features(const uint8_t* data, size_t n, const std::vector<std::string>& names, Feature* out) {
  std::fill_n(out, names.size(), Feature{});
  return each_feature(data, n, [&](std::string_view name, const uint8_t* value, size_t size) {
    for (size_t i = 0; i < names.size(); ++i) {
      if (names[i] == name && !read_feature(data, value, size, out + i)) return false;
    }
    return true;
  });
}

bool feature_bytes(const uint8_t* list, size_t n, int64_t count, std::pair<int64_t, int64_t>* out) {
  int64_t i = 0;
  const bool good = each_bytes(list, n, [&](const uint8_t* value, size_t size) {
    if (i == count) return false;
    out[i++] = {value - list, static_cast<int64_t>(size)};
    return true;
  });
  return good && i == count;
}

bool feature_floats(const uint8_t* list, size_t n, int64_t count, float* out) {
  int64_t i = 0;
  return each_float(list, n, [&](float value) { return i < count && (out[i++] = value, true); }) && i == count;
}

bool feature_ints(const uint8_t* list, size_t n, int64_t count, int64_t* out) {
  int64_t i = 0;
  return each_int(list, n, [&](int64_t value) { return i < count && (out[i++] = value, true); }) && i == count;
}

void read_examples(const uint8_t* arena, const int64_t* starts, int64_t n, const std::vector<std::string>& names,
                   int32_t threads, Feature* features, RecordStatus* status) {
  parallel_for(n, threads, [&](int64_t i) {
    const uint8_t* record = arena + starts[i];
    const int64_t size = starts[i + 1] - starts[i] - 4;
    Feature* found = features + i * static_cast<int64_t>(names.size());
    std::fill_n(found, names.size(), Feature{});
    if (size < 0 || masked_crc32c(record, size) != load<uint32_t>(record + size)) {
      status[i] = RecordStatus::checksum;
      return;
    }
    const bool good = find_features(record, size, names, found);
    status[i] = good ? RecordStatus::good : RecordStatus::malformed;
    for (size_t f = 0; f < names.size(); ++f) found[f].list += starts[i], found[f].first += starts[i];
  });
}

}  // namespace dalipipe
