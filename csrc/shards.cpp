#include "shards.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace dalipipe {
namespace {

constexpr int64_t kBlock = 512;                  // what tar headers and bodies are aligned to
constexpr int64_t kMaxExtendedBytes = 16 << 20;  // of a long name or a pax header
constexpr int64_t kMaxOffset = int64_t{1} << 62;

int64_t padded(int64_t size) { return (size + kBlock - 1) / kBlock * kBlock; }

bool is_zero(const uint8_t* data, size_t n) {
  return std::all_of(data, data + n, [](uint8_t byte) { return byte == 0; });
}

bool is_space(uint8_t byte) { return byte == ' ' || (byte >= '\t' && byte <= '\r'); }

// A field of text that ends at its first zero byte, if it has one.
std::string text(const uint8_t* field, size_t n) {
  const void* zero = std::memchr(field, 0, n);
  return {reinterpret_cast<const char*>(field), zero ? static_cast<const uint8_t*>(zero) - field : n};
}

// A field of octal digits, or with its first bit set in base 256; an empty one is zero. -1: no number, or negative.
int64_t number(const uint8_t* field, size_t n) {
  if (field[0] & 0x80) {
    if (field[0] != 0x80) return -1;
    int64_t value = 0;
    for (size_t i = 1; i < n; ++i) {
      if (value > kMaxOffset >> 8) return -1;
      value = value << 8 | field[i];
    }
    return value;
  }
  size_t i = 0;
  while (i < n && is_space(field[i])) ++i;
  int64_t value = 0;  // 12 digits at most: it cannot overflow
  for (; i < n && field[i] >= '0' && field[i] <= '7'; ++i) value = value << 3 | (field[i] - '0');
  while (i < n && is_space(field[i])) ++i;
  return i == n || field[i] == 0 ? value : -1;
}

// The sum of a header's bytes, its own field counted as spaces; old archivers summed signed bytes.
bool checksum_holds(const uint8_t* block) {
  int64_t sum = 0, signed_sum = 0;
  for (int64_t i = 0; i < kBlock; ++i) sum += block[i], signed_sum += static_cast<int8_t>(block[i]);
  for (int64_t i = 148; i < 156; ++i) sum += ' ' - block[i], signed_sum += ' ' - static_cast<int8_t>(block[i]);
  const int64_t stored = number(block + 148, 8);
  return stored == sum || (stored >= 0 && stored == signed_sum);
}

const char* what_it_is(const uint8_t* data) {
  const auto begins = [&](const char* magic, size_t n) { return std::memcmp(data, magic, n) == 0; };
  if (begins("\x1f\x8b", 2)) return "a gzip";
  if (begins("BZh", 3)) return "a bzip2";
  if (begins("\xfd"
             "7zXZ",
             5))
    return "an xz";
  if (begins("\x28\xb5\x2f\xfd", 4)) return "a zstd";
  return nullptr;
}

std::string not_a_tar(const uint8_t* data) {
  const char* what = what_it_is(data);
  if (!what) return "this is no tar archive";
  return std::string("this is ") + what + " file, and compressed shards have no random access: decompress it";
}

}  // namespace

// --- the walk

void ShardScanner::feed(const uint8_t* data, int64_t n) {
  const int64_t begin = wanted();
  while (!done_) {
    const int64_t from = wanted() - begin, missing = need_ - static_cast<int64_t>(carried_.size());
    if (from > n) return;
    if (n - from < missing) {
      carried_.insert(carried_.end(), data + from, data + n);
      return;
    }
    ++units_;
    if (carried_.empty()) {
      take(data + from, need_, at_);
    } else {
      carried_.insert(carried_.end(), data + from, data + from + missing);
      std::vector<uint8_t> unit;
      unit.swap(carried_);
      take(unit.data(), need_, at_);
    }
  }
}

void ShardScanner::finish(int64_t size_bytes) {
  if (done_) return;
  if (wanted() < size_bytes) return damaged(wanted(), "nothing more could be read");
  check_end(size_bytes);
  done_ = true;
}

void ShardScanner::damaged(int64_t at, std::string what) {
  damage_ = std::move(what);
  damage_at_ = at;
  done_ = true;
}

int32_t scan_file(const std::string& path, ShardScanner& scanner) {
  constexpr int64_t kSmallest = 4 << 10, kLargest = 1 << 20, kDense = 32 << 10;
  if (path.find('\0') != std::string::npos) return EINVAL;
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return errno;
  struct stat status;
  int32_t code = ::fstat(fd, &status) < 0   ? errno
                 : S_ISDIR(status.st_mode)  ? EISDIR
                 : !S_ISREG(status.st_mode) ? ESPIPE
                                            : 0;
  std::vector<uint8_t> buffer;
  // Where units lie close together, blocks grow and all is read through; where bodies lie between them, they are jumped
  // over, and the kernel is told not to read ahead.
  bool jumping = false;
  for (int64_t block = kSmallest; !code && !scanner.done() && scanner.wanted() < status.st_size;) {
    const int64_t at = scanner.wanted(), units = scanner.units();
    buffer.resize(std::max<size_t>(buffer.size(), block));
    const ssize_t got = ::pread(fd, buffer.data(), std::min<int64_t>(block, status.st_size - at), at);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) code = errno;
    if (got <= 0) break;  // it shrank: what is missing is damage
    scanner.feed(buffer.data(), got);
    const bool far = scanner.wanted() - (at + got) >= block || block > kDense * (scanner.units() - units);
    if (far != jumping) ::posix_fadvise(fd, 0, 0, far ? POSIX_FADV_RANDOM : POSIX_FADV_NORMAL);
    jumping = far;
    block = far ? kSmallest : std::min(2 * block, kLargest);
  }
  // Asked again: what was cut off meanwhile is missing, what was added will be seen when it is scanned again.
  const int64_t size = status.st_size;
  if (!code && ::fstat(fd, &status) < 0) code = errno;
  ::close(fd);
  if (!code) scanner.finish(std::min<int64_t>(size, status.st_size));
  return code;
}

// --- tar

void TarScanner::expect(Unit unit, int64_t at, int64_t need) {
  unit_ = unit;
  next(at, need);
}

void TarScanner::take(const uint8_t* unit, int64_t n, int64_t at) {
  switch (unit_) {
    case Unit::header: return take_header(unit, at);
    case Unit::long_name:
      if (name_.empty()) name_ = text(unit, n);
      return expect(Unit::header, next_header_, kBlock);
    case Unit::pax: return take_pax(unit, n, at);
    case Unit::sparse_map:  // further blocks of it lie between header and body
      body_end_ = at + kBlock + sparse_bytes_;
      if (unit[504]) return expect(Unit::sparse_map, at + kBlock, kBlock);
      return expect(Unit::header, at + kBlock + padded(sparse_bytes_), kBlock);
    case Unit::content:
      index_.contents.insert(index_.contents.end(), unit, unit + n);
      index_.content_starts.back() = static_cast<int64_t>(index_.contents.size());
      return expect(Unit::header, next_header_, kBlock);
  }
}

void TarScanner::take_header(const uint8_t* block, int64_t at) {
  if (is_zero(block, kBlock)) return extended_ ? damaged(at, "an extended header has no member after it") : end();
  if (!checksum_holds(block)) return damaged(at, at ? "a header's checksum does not match" : not_a_tar(block));
  int64_t size = number(block + 124, 12);
  if (size < 0) return damaged(at, "a header's size is no number");
  const char type = static_cast<char>(block[156]);
  const int64_t body = at + kBlock;
  if (type == 'L' || type == 'K' || type == 'x' || type == 'X' || type == 'g') {  // these describe what follows
    if (size > kMaxExtendedBytes) {
      return damaged(at, "an extended header claims " + std::to_string(size) + " bytes");
    }
    next_header_ = body + padded(size);
    if (type == 'g') return expect(Unit::header, next_header_, kBlock);  // of the whole archive: comments, in practice
    extended_ = true;
    if (type == 'K') return expect(Unit::header, next_header_, kBlock);  // a link's target
    return expect(type == 'L' ? Unit::long_name : Unit::pax, body, size);
  }

  std::string name = text(block, 100);
  const bool folder = type == '\0' && !name.empty() && name.back() == '/';  // as archives before POSIX have them
  const std::string prefix = text(block + 345, 155);
  if (!prefix.empty() && std::memcmp(block + 257, "ustar", 6) == 0) name = prefix + "/" + name;  // GNU: "ustar "
  if (!name_.empty()) name = name_;
  if (size_ >= 0) size = size_;
  if (folder || (type >= '1' && type <= '6')) size = 0;  // folders, links, devices: no body, whatever they claim
  const bool regular = !folder && (type == '0' || type == '\0' || type == '7');
  const bool sparse = type == 'S' || sparse_;
  extended_ = sparse_ = false;
  name_.clear();
  size_ = -1;
  if (size > kMaxOffset - body) return damaged(at, "a header claims " + std::to_string(size) + " bytes");
  body_end_ = body + size;
  next_header_ = body + padded(size);
  const bool added = (regular || sparse) && add(name, at, sparse ? -1 : body, sparse ? 0 : size);
  if (done()) return;
  if (type == 'S' && block[482]) {
    sparse_bytes_ = size;
    return expect(Unit::sparse_map, body, kBlock);
  }
  if (added && !sparse && size <= kTarInlineBytes) return expect(Unit::content, body, size);
  expect(Unit::header, next_header_, kBlock);
}

// Records "<length> <keyword>=<value>\n", where the length counts all of it.
void TarScanner::take_pax(const uint8_t* data, int64_t n, int64_t at) {
  for (int64_t begin = 0, end; begin < n && data[begin]; begin = end) {
    int64_t length = 0, i = begin;
    for (; i < std::min(n, begin + 9) && data[i] >= '0' && data[i] <= '9'; ++i) length = 10 * length + (data[i] - '0');
    end = begin + length;
    const bool framed = i < n && data[i] == ' ' && i + 1 < end && end <= n && data[end - 1] == '\n';
    const void* equals = framed ? std::memchr(data + i + 1, '=', end - i - 2) : nullptr;
    if (!equals) return damaged(at + begin, "a pax header's record is malformed");
    const uint8_t* value = static_cast<const uint8_t*>(equals) + 1;
    const std::string keyword(data + i + 1, value - 1);
    if (keyword == "size" && size_ < 0) {
      const int64_t whole[2] = {0, data + end - 1 - value};
      uint8_t valid = 0;
      parse_integers(value, whole, 1, &size_, &valid);
      if (!valid || size_ < 0) return damaged(at + begin, "a pax header's size is no number");
    }
    if (keyword == "GNU.sparse.name" || (keyword == "path" && name_.empty())) name_.assign(value, data + end - 1);
    if (keyword.rfind("GNU.sparse.", 0) == 0) sparse_ = true;
  }
  expect(Unit::header, next_header_, kBlock);
}

// Whether it is a member of a sample.
bool TarScanner::add(const std::string& name, int64_t header_at, int64_t offset, int64_t size) {
  const size_t first_part = std::min(name.find('/'), name.size());
  const auto is = [&](size_t at, const char* what) { return name.compare(at, 2, what) == 0; };
  if (first_part >= 4 && is(0, "__") && is(first_part - 2, "__")) return false;
  const size_t last_part = name.rfind('/') + 1;  // npos + 1 is 0
  const size_t dot = name.find('.', last_part);
  if (dot == std::string::npos || dot == last_part) return false;
  if (name.find('\0') != std::string::npos) return damaged(header_at, "a name holds a zero byte"), false;
  std::string extension = name.substr(dot + 1);
  for (char& c : extension) c += c >= 'A' && c <= 'Z' ? 'a' - 'A' : 0;

  TarIndex& index = index_;
  const size_t samples = index.key_starts.size() - 1;
  const size_t key_start = samples ? index.key_starts[samples - 1] : 0;
  const bool same = samples && index.keys.size() - key_start == dot + 1 &&
                    std::memcmp(index.keys.data() + key_start, name.data(), dot) == 0;
  if (!same) {
    index.keys.insert(index.keys.end(), name.data(), name.data() + dot);
    index.keys.push_back(0);
    index.key_starts.push_back(static_cast<int64_t>(index.keys.size()));
    index.first.push_back(index.first.back());
  }
  const int64_t sample = static_cast<int64_t>(index.first.size()) - 2;
  const auto [entry, fresh] = extension_id_.emplace(extension, static_cast<int32_t>(index.extensions.size()));
  if (fresh) {
    index.extensions.push_back(extension);
    last_sample_.push_back(-1);
  }
  if (last_sample_[entry->second] == sample) {
    return damaged(header_at, "a second member with the name " + name), false;
  }
  last_sample_[entry->second] = sample;
  ++index.first.back();
  index.offsets.push_back(offset);
  index.sizes.push_back(size);
  index.extension.push_back(entry->second);
  index.content_starts.push_back(index.content_starts.back());
  return true;
}

void TarScanner::check_end(int64_t size_bytes) {
  if (size_bytes == 0) return damaged(0, "the shard is empty");
  if (body_end_ > size_bytes) {
    return damaged(size_bytes, "the shard ends here, its last member would end at byte " + std::to_string(body_end_));
  }
  // The end marker may be missing, or be cut.
  const bool whole = unit_ == Unit::header && is_zero(carried().data(), carried().size());
  if (!whole) return damaged(size_bytes, "the shard ends in the middle of a header");
  if (extended_) damaged(size_bytes, "the shard ends where an extended header's member should begin");
}

void parse_integers(const uint8_t* arena, const int64_t* starts, int64_t n, int64_t* values, uint8_t* valid) {
  for (int64_t i = 0; i < n; ++i) {
    const uint8_t *at = arena + starts[i], *end = arena + starts[i + 1];
    while (at < end && is_space(*at)) ++at;
    while (at < end && is_space(end[-1])) --end;
    const bool negative = at < end && *at == '-';
    if (at < end && (*at == '-' || *at == '+')) ++at;
    bool good = at < end;
    int64_t value = 0;  // counted downwards: there is one negative number more
    for (; good && at < end; ++at) {
      good = *at >= '0' && *at <= '9' && !__builtin_mul_overflow(value, 10, &value) &&
             !__builtin_sub_overflow(value, *at - '0', &value);
    }
    if (good && !negative) good = !__builtin_sub_overflow(int64_t{0}, value, &value);
    values[i] = good ? value : 0;
    valid[i] = good;
  }
}

}  // namespace dalipipe
