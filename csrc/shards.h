// Shards: what lies where in a tar archive or a TFRecord file, found by reading headers and skipping bodies.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace dalipipe {

// Walks through a shard in units (headers, mostly) whose places only the units before them tell. It is fed bytes from
// `wanted()` on, in pieces of any size, so that it serves files and streams alike; no bytes make it throw or read
// outside what it was given. What a shard cannot mean is its `damage`, and ends the walk.
class ShardScanner {
 public:
  virtual ~ShardScanner() = default;

  // The byte that `feed` goes on with: bodies are skipped, so it may lie far behind what was fed, even behind the end.
  int64_t wanted() const { return at_ + static_cast<int64_t>(carried_.size()); }
  bool done() const { return done_; }       // the end marker or damage was met: no more is wanted
  int64_t units() const { return units_; }  // taken so far
  void feed(const uint8_t* data, int64_t n);
  void finish(int64_t size_bytes);                       // all was fed, and this is the shard's size
  const std::string& damage() const { return damage_; }  // empty: none
  int64_t damage_at() const { return damage_at_; }       // bytes into the shard

 protected:
  explicit ShardScanner(int64_t need) : need_(need) {}
  // One unit, `n` bytes long, from byte `at` of the shard; ends in a call of `next`, `end` or `damaged`.
  virtual void take(const uint8_t* unit, int64_t n, int64_t at) = 0;
  virtual void check_end(int64_t size_bytes) = 0;  // no end marker was met: may the shard end here?

  void next(int64_t at, int64_t need) { at_ = at, need_ = need; }  // the unit after this one
  void end() { done_ = true; }
  void damaged(int64_t at, std::string what);
  int64_t at() const { return at_; }
  const std::vector<uint8_t>& carried() const { return carried_; }  // of a unit that is not whole yet

 private:
  int64_t at_ = 0;  // where the next unit starts
  int64_t need_;    // its size
  int64_t units_ = 0;
  bool done_ = false;
  std::vector<uint8_t> carried_;
  std::string damage_;
  int64_t damage_at_ = 0;
};

// Scans a local file, reading little more than what the scanner wants. Returns an errno; 0: read to its end.
int32_t scan_file(const std::string& path, ShardScanner& scanner);

// The members of a tar archive, grouped into samples as WebDataset groups them: a member's key is its path up to the
// first dot of its last part, its extension what follows, in lower case; members that follow each other with one key
// make a sample. Folders, links, devices, dot-files and `__meta__/` entries are no members.
struct TarIndex {
  std::vector<uint8_t> keys;               // each ended by a zero byte
  std::vector<int64_t> key_starts{0};      // [samples + 1] into keys
  std::vector<int64_t> first{0};           // [samples + 1] members of sample i: first[i] to first[i + 1]
  std::vector<int64_t> offsets, sizes;     // [members] bytes; offset -1: stored sparse, not as one range of bytes
  std::vector<int32_t> extension;          // [members] into extensions
  std::vector<uint8_t> contents;           // of the members of at most kTarInlineBytes, which need no reading then
  std::vector<int64_t> content_starts{0};  // [members + 1] into contents; empty for the larger ones
  std::vector<std::string> extensions;     // in order of appearance
};

constexpr int64_t kTarInlineBytes = 64;

// ustar, GNU and pax archives.
class TarScanner : public ShardScanner {
 public:
  TarScanner() : ShardScanner(512) {}
  const TarIndex& index() const { return index_; }

 protected:
  void take(const uint8_t* unit, int64_t n, int64_t at) override;
  void check_end(int64_t size_bytes) override;

 private:
  enum class Unit { header, long_name, pax, sparse_map, content };

  void take_header(const uint8_t* block, int64_t at);
  void take_pax(const uint8_t* text, int64_t n, int64_t at);
  void expect(Unit unit, int64_t at, int64_t need);
  bool add(const std::string& name, int64_t header_at, int64_t offset, int64_t size);

  TarIndex index_;
  Unit unit_ = Unit::header;
  int64_t next_header_ = 0;  // behind a unit that is none
  int64_t sparse_bytes_ = 0;
  int64_t body_end_ = 0;  // of the last member, its padding left out
  // What extended headers say of the member to come. Of two that say the same, the first one holds, as in Python.
  bool extended_ = false, sparse_ = false;
  std::string name_;
  int64_t size_ = -1;
  std::unordered_map<std::string, int32_t> extension_id_;
  std::vector<int64_t> last_sample_;  // [extensions] with such a member
};

// `values[i]`: the whole decimal number that text i is, white space around it allowed; `valid[i]` 0: it is none.
void parse_integers(const uint8_t* arena, const int64_t* starts, int64_t n, int64_t* values, uint8_t* valid);

// TFRecord: length (8 bytes), its checksum (4), the record, its checksum (4). A unit is what lies between two records.
class RecordScanner : public ShardScanner {
 public:
  RecordScanner() : ShardScanner(12) {}
  const std::vector<int64_t>& offsets() const { return offsets_; }       // bytes, of the record itself
  const std::vector<int64_t>& sizes() const { return sizes_; }           // bytes, without its checksum
  const std::vector<uint32_t>& checksums() const { return checksums_; }  // as stored; what they say is not checked

 protected:
  void take(const uint8_t* unit, int64_t n, int64_t at) override;
  void check_end(int64_t size_bytes) override;

 private:
  std::vector<int64_t> offsets_, sizes_;
  std::vector<uint32_t> checksums_;
};

// CRC-32C (Castagnoli), by the CPU's instruction where it has one; `portable`: by tables.
uint32_t crc32c(const uint8_t* data, size_t n, bool portable = false);
void crc32c_of(const uint8_t* arena, const int64_t* starts, int64_t n, int32_t threads, uint32_t* out);  // of n ranges
uint32_t masked_crc32c(const uint8_t* data, size_t n);  // as TFRecord stores it

enum class FeatureKind : int64_t { absent = 0, bytes = 1, floats = 2, ints = 3 };

// Where a feature of a tf.train.Example lies. Mirrored, field by field, by `dalipipe.native.FEATURE`.
struct Feature {
  int64_t kind = 0;                    // a `FeatureKind`
  int64_t count = 0;                   // values
  int64_t list = 0, list_bytes = 0;    // the list message with all of them
  int64_t first = 0, first_bytes = 0;  // of bytes: the first value
};
static_assert(sizeof(Feature) == 48, "keep dalipipe.native.FEATURE in step");

// The features of one Example and their names; places are counted from `data`. False: it is none.
bool list_features(const uint8_t* data, size_t n, std::vector<std::pair<std::string, Feature>>* out);
// Those with these names; out[i] is `absent` where there is none. False: it is no Example.
bool find_features(const uint8_t* data, size_t n, const std::vector<std::string>& names, Feature* out);
// The values of a feature: its list message, and room for `count` of them. False: it holds another number of them.
bool feature_bytes(const uint8_t* list, size_t n, int64_t count, std::pair<int64_t, int64_t>* place_and_bytes);
bool feature_floats(const uint8_t* list, size_t n, int64_t count, float* out);
bool feature_ints(const uint8_t* list, size_t n, int64_t count, int64_t* out);

enum class RecordStatus : int32_t { good = 0, checksum = 1, malformed = 2 };

// N records, each followed by its checksum, at starts[i] to starts[i + 1] of the arena: checks them and finds features,
// [N, names], whose places are counted from the arena's beginning.
void read_examples(const uint8_t* arena, const int64_t* starts, int64_t n, const std::vector<std::string>& names,
                   int32_t threads, Feature* features, RecordStatus* status);

}  // namespace dalipipe
