// Feeds mutated shards to their scanners, whole and in pieces, which must make no difference; and mutated messages to
// the parser of tf.train.Example. Half of the inputs get right checksums first: they come further.
#include "shards.h"

#include <algorithm>
#include <string>
#include <vector>

#include "fuzz.h"

using namespace dalipipe;

namespace {

using Blob = std::vector<uint8_t>;

// In pieces of this many bytes, each alone in memory.
template <typename Scanner>
Scanner scan(const Blob& shard, size_t piece) {
  Scanner scanner;
  const int64_t size = static_cast<int64_t>(shard.size());
  while (!scanner.done() && scanner.wanted() < size) {
    const size_t at = scanner.wanted(), n = std::min(piece, shard.size() - at);
    scanner.feed(exactly(shard.data() + at, n).get(), n);
    require(scanner.done() || scanner.wanted() >= static_cast<int64_t>(at + n), "what was fed is not wanted again");
  }
  scanner.finish(size);
  require(scanner.done(), "finish ends it");
  require(scanner.damage_at() >= 0 && scanner.damage_at() <= size, "damage lies in the shard");
  return scanner;
}

bool rises(const std::vector<int64_t>& starts, size_t n, size_t end) {
  return starts.size() == n + 1 && starts.front() == 0 && std::is_sorted(starts.begin(), starts.end()) &&
         static_cast<size_t>(starts.back()) == end;
}

void check(const TarIndex& index, const Blob& shard, bool whole) {
  const size_t samples = index.key_starts.size() - 1, members = index.offsets.size();
  require(rises(index.key_starts, samples, index.keys.size()), "key_starts");
  require(rises(index.first, samples, members), "first");
  require(rises(index.content_starts, members, index.contents.size()), "content_starts");
  require(index.sizes.size() == members && index.extension.size() == members, "sizes, extension");
  for (size_t i = 0; i < samples; ++i) {
    require(index.first[i] < index.first[i + 1], "a sample has members");
    const auto begin = index.keys.begin() + index.key_starts[i], end = index.keys.begin() + index.key_starts[i + 1];
    require(std::find(begin, end, 0) == end - 1, "a key ends at its zero byte");
  }
  for (size_t i = 0; i < members; ++i) {
    const int64_t offset = index.offsets[i], size = index.sizes[i];
    const int64_t kept = index.content_starts[i + 1] - index.content_starts[i];
    require(static_cast<size_t>(index.extension[i]) < index.extensions.size(), "extension");
    require(size >= 0 && (offset >= 512 || (offset == -1 && size == 0)), "offset, size");
    if (whole) require(offset + size <= static_cast<int64_t>(shard.size()), "members lie in the shard");
    if (whole) require(kept == (size <= kTarInlineBytes ? size : 0), "small members are kept");
    require(
        std::equal(index.contents.begin() + index.content_starts[i],
                   index.contents.begin() + index.content_starts[i + 1], shard.begin() + std::max<int64_t>(offset, 0)),
        "contents");
  }
}

void repair_tar(Blob& shard) {
  for (size_t at = 0; at + 512 <= shard.size(); at += 512) {
    uint8_t* block = shard.data() + at;
    if (std::all_of(block, block + 512, [](uint8_t byte) { return byte == 0; })) continue;
    std::memset(block + 148, ' ', 8);
    unsigned sum = 0;
    for (int i = 0; i < 512; ++i) sum += block[i];
    std::snprintf(reinterpret_cast<char*>(block + 148), 8, "%06o", sum);
  }
}

void repair_tfrecord(Blob& shard) {
  for (uint64_t at = 0; at + 12 <= shard.size();) {
    uint64_t size;
    const uint32_t checksum = masked_crc32c(shard.data() + at, 8);
    std::memcpy(&size, shard.data() + at, 8);
    std::memcpy(shard.data() + at + 8, &checksum, 4);
    if (size > shard.size()) return;
    at += 12 + size + 4;
  }
}

}  // namespace

void fuzz_tar(const uint8_t* data, size_t size) {
  const uint32_t chance = crc32c(data, size);
  Blob shard(data, data + size);
  if (chance & 1) repair_tar(shard);
  const TarScanner whole = scan<TarScanner>(shard, shard.size() + 1),
                   parts = scan<TarScanner>(shard, 1 + chance % 1500);
  require(whole.damage() == parts.damage() && whole.damage_at() == parts.damage_at(), "pieces: damage");
  const TarIndex &a = whole.index(), &b = parts.index();
  require(a.keys == b.keys && a.key_starts == b.key_starts && a.first == b.first && a.offsets == b.offsets &&
              a.sizes == b.sizes && a.extension == b.extension && a.contents == b.contents &&
              a.content_starts == b.content_starts && a.extensions == b.extensions,
          "pieces: index");
  check(a, shard, whole.damage().empty());
  std::vector<int64_t> values(a.offsets.size());
  Blob valid(a.offsets.size()), text(a.contents);
  parse_integers(exactly(text.data(), text.size()).get(), a.content_starts.data(), values.size(), values.data(),
                 valid.data());
  for (size_t i = 0; i < values.size(); ++i) require(valid[i] || values[i] == 0, "no number is zero");
}

void fuzz_tfrecord(const uint8_t* data, size_t size) {
  const uint32_t chance = crc32c(data, size);
  Blob shard(data, data + size);
  if (chance & 1) repair_tfrecord(shard);
  const auto whole = scan<RecordScanner>(shard, shard.size() + 1), parts = scan<RecordScanner>(shard, 1 + chance % 99);
  require(whole.damage() == parts.damage() && whole.damage_at() == parts.damage_at(), "pieces: damage");
  require(whole.offsets() == parts.offsets() && whole.sizes() == parts.sizes(), "pieces: index");
  require(whole.checksums() == parts.checksums(), "pieces: checksums");
  if (!whole.damage().empty()) return;
  int64_t end = 0;
  for (size_t i = 0; i < whole.offsets().size(); ++i) {
    require(whole.offsets()[i] == end + 12, "records follow each other");
    end = whole.offsets()[i] + whole.sizes()[i] + 4;
    require(end <= static_cast<int64_t>(size), "records lie in the shard");
    require(std::memcmp(shard.data() + end - 4, &whole.checksums()[i], 4) == 0, "checksums");
  }
  require(end == static_cast<int64_t>(size) && whole.checksums().size() == whole.offsets().size(), "all is a record");
}

void fuzz_example(const uint8_t* data, size_t size) {
  const auto exact = exactly(data, size);
  require(crc32c(exact.get(), size) == crc32c(exact.get(), size, true), "one checksum, two ways");
  std::vector<std::pair<std::string, Feature>> listed;
  if (!list_features(exact.get(), size, &listed)) return;
  for (const auto& [name, feature] : listed) {
    const int64_t end = static_cast<int64_t>(size);
    require(feature.list >= 0 && feature.list_bytes >= 0 && feature.list + feature.list_bytes <= end, "list");
    require(feature.first >= 0 && feature.first_bytes >= 0 && feature.first + feature.first_bytes <= end, "first");
    require(feature.count >= 0 && feature.count <= feature.list_bytes, "count");
    const auto list = exactly(exact.get() + feature.list, feature.list_bytes);
    const auto read = [&](FeatureKind kind, int64_t count) {
      if (kind == FeatureKind::ints) {
        std::vector<int64_t> out(count);
        return feature_ints(list.get(), feature.list_bytes, count, out.data());
      }
      if (kind == FeatureKind::floats) {
        std::vector<float> out(count);
        return feature_floats(list.get(), feature.list_bytes, count, out.data());
      }
      std::vector<std::pair<int64_t, int64_t>> out(count);
      const bool good = feature_bytes(list.get(), feature.list_bytes, count, out.data());
      for (const auto& [at, nbytes] : out)
        require(at >= 0 && nbytes >= 0 && at + nbytes <= feature.list_bytes, "bytes");
      if (good && count && feature.kind == 1)
        require(feature.list + out[0].first == feature.first, "the first of the bytes");
      return good;
    };
    const FeatureKind kind = static_cast<FeatureKind>(feature.kind);
    require(kind == FeatureKind::absent || read(kind, feature.count), "as many values as were counted");
    require(kind == FeatureKind::absent || !read(kind, feature.count + 1), "and no more");
    if (feature.count) require(!read(kind, feature.count - 1), "nor fewer");
    read(FeatureKind::bytes, 1), read(FeatureKind::floats, 1), read(FeatureKind::ints, 1);
  }
  // As a batch of one record finds them.
  std::vector<std::string> names{"image/encoded", "", "ints"};
  if (!listed.empty()) names.push_back(listed.back().first);
  std::vector<Feature> found(names.size());
  Blob record(data, data + size);
  const uint32_t checksum = masked_crc32c(data, size);
  record.insert(record.end(), reinterpret_cast<const uint8_t*>(&checksum),
                reinterpret_cast<const uint8_t*>(&checksum) + 4);
  const int64_t starts[2] = {0, static_cast<int64_t>(record.size())};
  RecordStatus status;
  read_examples(exactly(record.data(), record.size()).get(), starts, 1, names, 1, found.data(), &status);
  require(status == RecordStatus::good, "what lists is found");
  for (const auto& [name, feature] : listed) {
    for (size_t i = 0; i < names.size(); ++i) {
      if (names[i] == name) require(std::memcmp(&found[i], &feature, sizeof(Feature)) == 0, "found as listed");
    }
  }
}
