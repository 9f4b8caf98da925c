// The module: what it was built with, files, pictures, draws; other modalities bind in files of their own.
#include <pybind11/stl.h>

#include <array>
#include <cstddef>
#include <cstring>
#include <stdexcept>

#include "bindings/bindings.h"
#include "cpu/pool.h"
#include "fold.h"
#include "io.h"
#include "jpeg/ones.h"
#include "jpeg/strip.h"
#include "jpeg/tiles.h"
#include "labels.h"
#include "mix.h"
#include "ops.h"
#include "permutation.h"
#include "philox.h"
#include "shards.h"
#include "spectral.h"

using namespace dalipipe;

namespace {

py::dict build_info() {
#ifdef DALIPIPE_WITH_CUDA
  return py::dict("cuda"_a = true, "cuda_archs"_a = DALIPIPE_CUDA_ARCHS, "cuda_version"_a = DALIPIPE_CUDA_VERSION,
                  "compiler"_a = __VERSION__);
#else
  return py::dict("cuda"_a = false, "cuda_archs"_a = "", "cuda_version"_a = "", "compiler"_a = __VERSION__);
#endif
}

// Sizes and offsets of the structs that Python mirrors as numpy dtypes: {struct: {"": size, field: offset}}, in bytes.
py::dict struct_layouts() {
#define AT(field) layout[#field] = offsetof(Struct, field)
  py::dict layouts;
  {
    using Struct = ImageHeader;
    py::dict layout(""_a = sizeof(Struct));
    AT(kind), AT(height), AT(width), AT(channels), AT(bits), AT(orientation), AT(flags);
    layouts["ImageHeader"] = layout;
  }
  {
    using Struct = ImagePass;
    py::dict layout(""_a = sizeof(Struct));
    AT(data), AT(row_bytes), AT(stored_h), AT(stored_w), AT(origin_y), AT(origin_x), AT(crop_h), AT(crop_w);
    AT(resized_h), AT(resized_w), AT(window_y), AT(window_x), AT(canvas_h), AT(canvas_w), AT(out_h), AT(out_w);
    AT(resample), AT(flip), AT(warp), AT(matrix), AT(displacement), AT(fill);
    AT(filter), AT(filter_h), AT(filter_w), AT(filter_weights), AT(filter_values), AT(noise), AT(stretch);
    AT(colour), AT(colour_matrix), AT(colour_mean_matrix), AT(colour_offset), AT(hue), AT(table);
    AT(first_erase), AT(erases), AT(from_kept), AT(keep), AT(blend), AT(weight), AT(kept_weight);
    layouts["ImagePass"] = layout;
  }
  {
    using Struct = EraseBox;
    py::dict layout(""_a = sizeof(Struct));
    AT(y), AT(x), AT(h), AT(w), AT(values), AT(sigma), AT(noise);
    layouts["EraseBox"] = layout;
  }
  {
    using Struct = ElasticField;
    py::dict layout(""_a = sizeof(Struct));
    AT(out), AT(weights), AT(h), AT(w), AT(taps), AT(scale), AT(noise), AT(unused);
    layouts["ElasticField"] = layout;
  }
  {
    using Struct = FoldOp;
    py::dict layout(""_a = sizeof(Struct));
    AT(family), AT(detail), AT(fill), AT(normalised), AT(count), AT(width), AT(rows), AT(params), AT(depths);
    AT(value), AT(sigma);
    layouts["FoldOp"] = layout;
  }
  {
    using Struct = LabelMap;
    py::dict layout(""_a = sizeof(Struct));
    AT(data), AT(row_bytes), AT(h), AT(w), AT(bytes), AT(unused);
    layouts["LabelMap"] = layout;
  }
  {
    using Struct = MixPair;
    py::dict layout(""_a = sizeof(Struct));
    AT(rows), AT(weights), AT(boxes);
    layouts["MixPair"] = layout;
  }
  {
    using Struct = Cut;
    py::dict layout(""_a = sizeof(Struct));
    AT(bytes), AT(y), AT(x), AT(height), AT(width), AT(tiles), AT(of_tiles);
    layouts["Cut"] = layout;
  }
  {
    using Struct = JpegShape;
    py::dict layout(""_a = sizeof(Struct));
    AT(height), AT(width), AT(components), AT(across), AT(down), AT(tile), AT(row), AT(column), AT(rows), AT(columns);
    layouts["JpegShape"] = layout;
  }
  {
    using Struct = Feature;
    py::dict layout(""_a = sizeof(Struct));
    AT(kind), AT(count), AT(list), AT(list_bytes), AT(first), AT(first_bytes);
    layouts["Feature"] = layout;
  }
  {
    using Struct = SpectralRow;
    py::dict layout(""_a = sizeof(Struct));
    AT(in), AT(out), AT(in_step), AT(analysed_at), AT(made_at), AT(stretched_at), AT(table), AT(rate), AT(step);
    AT(in_frames), AT(stretched_frames), AT(out_frames), AT(hop), AT(analysed), AT(made), AT(taps), AT(exponent);
    AT(key), AT(unused);
    layouts["SpectralRow"] = layout;
  }
  {
    using Struct = MelBand;
    py::dict layout(""_a = sizeof(Struct));
    AT(first), AT(count), AT(weights);
    layouts["MelBand"] = layout;
  }
#undef AT
  return layouts;
}

py::array_t<int64_t> starts(const FileBatch& batch) { return as_array(batch.starts()); }

// (position, errno, cause or "") of every range that failed.
py::list errors(const FileBatch& batch) {
  py::list failed;
  for (size_t i = 0; i < batch.errors().size(); ++i) {
    const FileBatch::Error& error = batch.errors()[i];
    if (error.code) failed.append(py::make_tuple(i, error.code, error.cause));
  }
  return failed;
}

std::unique_ptr<FileBatch> open_files(const std::vector<py::bytes>& paths, const Array<int64_t>& offsets,
                                      const Array<int64_t>& lengths, int64_t max_bytes, int32_t threads) {
  const py::ssize_t n = static_cast<py::ssize_t>(paths.size());
  if (offsets.size() != n || lengths.size() != n) throw std::invalid_argument("FileBatch: sizes differ");
  std::vector<FileRange> ranges;
  ranges.reserve(paths.size());
  for (py::ssize_t i = 0; i < n; ++i) ranges.push_back({paths[i], offsets.data()[i], lengths.data()[i]});
  NoGil nogil;
  return std::make_unique<FileBatch>(std::move(ranges), max_bytes, threads);
}

void read_into(FileBatch& batch, Array<uint8_t> arena, int32_t threads) {
  if (arena.nbytes() < batch.total_bytes()) throw std::invalid_argument("read: the arena is too small");
  uint8_t* to = arena.mutable_data();
  NoGil nogil;
  batch.read(to, threads);
}

void check_range(const char* what, const Array<uint8_t>& arena, int64_t at, int64_t nbytes) {
  if (at < 0 || nbytes < 0 || at > arena.nbytes() || nbytes > arena.nbytes() - at) {
    throw std::invalid_argument(std::string(what) + ": a range lies outside the arena");
  }
}

void probe(const Array<uint8_t>& arena, const Array<int64_t>& starts, uintptr_t out, int32_t threads) {
  const py::ssize_t n = check_starts("probe_images", arena, starts);
  const int64_t* at = starts.data();
  NoGil nogil;
  probe_images(arena.data(), at, n, threads, reinterpret_cast<ImageHeader*>(out));
}

// None or a text, n times.
py::list reasons(const std::vector<const char*>& texts) {
  py::list out;
  for (const char* text : texts) out.append(text ? py::object(py::str(text)) : py::none());
  return out;
}

// (bytes, why not) of each file; the bytes are None where there is a reason.
py::list tile(const Array<uint8_t>& arena, const Array<int64_t>& starts, int32_t tile_px, bool metadata,
              int32_t threads) {
  const py::ssize_t n = check_starts("tile_jpegs", arena, starts);
  std::vector<std::vector<uint8_t>> made(n);
  std::vector<const char*> why_not(n);
  const int64_t* at = starts.data();
  {
    NoGil nogil;
    tile_jpegs(arena.data(), at, n, tile_px, metadata, threads, made.data(), why_not.data());
  }
  py::list out;
  for (py::ssize_t i = 0; i < n; ++i) {
    const py::object bytes =
        why_not[i] ? py::none() : py::object(py::bytes(reinterpret_cast<const char*>(made[i].data()), made[i].size()));
    out.append(py::make_tuple(bytes, why_not[i] ? py::object(py::str(why_not[i])) : py::none()));
  }
  return out;
}

// Regions [n, 4], as many as there are files.
const Region* check_regions(const char* what, const Array<int32_t>& regions, py::ssize_t n) {
  static_assert(sizeof(Region) == 4 * sizeof(int32_t), "regions are rows of y, x, h, w");
  if (regions.size() != 4 * n) throw std::invalid_argument(std::string(what) + ": sizes differ");
  return reinterpret_cast<const Region*>(regions.data());
}

void cut(const Array<uint8_t>& arena, const Array<int64_t>& starts, const Array<int32_t>& regions, Array<uint8_t> out,
         uintptr_t cuts, int32_t threads) {
  const py::ssize_t n = check_starts("cut_jpegs", arena, starts);
  const Region* region = check_regions("cut_jpegs", regions, n);
  const int64_t* at = starts.data();
  if (out.nbytes() < at[n]) throw std::invalid_argument("cut_jpegs: out is too small");
  uint8_t* to = out.mutable_data();
  NoGil nogil;
  cut_jpegs(arena.data(), at, region, n, threads, to, reinterpret_cast<Cut*>(cuts));
}

py::list read_regions(const Array<uint8_t>& arena, const Array<int64_t>& starts, const Array<int32_t>& regions,
                      const Array<uint64_t>& out, int32_t threads) {
  const py::ssize_t n = check_starts("read_jpegs", arena, starts);
  const Region* region = check_regions("read_jpegs", regions, n);
  if (out.size() != n) throw std::invalid_argument("read_jpegs: sizes differ");
  std::vector<uint8_t*> to(n);
  for (py::ssize_t i = 0; i < n; ++i) to[i] = reinterpret_cast<uint8_t*>(static_cast<uintptr_t>(out.data()[i]));
  std::vector<const char*> why_not(n);
  const int64_t* at = starts.data();
  {
    NoGil nogil;
    read_jpegs(arena.data(), at, region, n, threads, to.data(), why_not.data());
  }
  return reasons(why_not);
}

py::bytes unstuffed(const py::bytes& data, int32_t level) {
  const std::string from = data;
  std::string to(from.size(), 0);
  const uint8_t* begin = reinterpret_cast<const uint8_t*>(from.data());
  uint8_t* out = reinterpret_cast<uint8_t*>(to.data());
  return py::bytes(to.data(), copy_unstuffed(begin, begin + from.size(), out, level) - out);
}

int64_t marker_in(const py::bytes& data, int32_t level) {
  const std::string from = data;
  const uint8_t* begin = reinterpret_cast<const uint8_t*>(from.data());
  return find_marker(begin, begin + from.size(), level) - begin;
}

// `regions`: none, or one a file.
std::unique_ptr<StripBatch> strip(const Array<uint8_t>& arena, const Array<int64_t>& starts,
                                  const Array<int32_t>& regions, int32_t threads) {
  const py::ssize_t n = check_starts("Stripped", arena, starts);
  const Region* region = regions.size() == 0 ? nullptr : check_regions("Stripped", regions, n);
  const int64_t* at = starts.data();
  NoGil nogil;
  return std::make_unique<StripBatch>(arena.data(), at, region, n, threads);
}

// JpegShape [n], as bytes.
py::array_t<uint8_t> shapes(const StripBatch& batch) {
  py::array_t<uint8_t> out(static_cast<py::ssize_t>(batch.files().size() * sizeof(JpegShape)));
  uint8_t* to = out.mutable_data();
  for (const Stripping& file : batch.files()) {
    std::memcpy(to, &file.head.shape, sizeof(JpegShape));
    to += sizeof(JpegShape);
  }
  return out;
}

py::array_t<int64_t> stripped_bytes(const StripBatch& batch) {
  std::vector<int64_t> bytes;
  for (const Stripping& file : batch.files()) bytes.push_back(file.why_not ? 0 : file.bytes);
  return as_array(bytes);
}

// (row, whether it is a file of tiles, why not) of those that cannot be stripped.
py::list refused(const StripBatch& batch) {
  py::list out;
  for (size_t i = 0; i < batch.files().size(); ++i) {
    const Stripping& file = batch.files()[i];
    if (file.why_not) out.append(py::make_tuple(i, file.tiled, file.why_not));
  }
  return out;
}

void write_stripped_all(const StripBatch& batch, const Array<uint64_t>& to, int32_t threads) {
  if (to.size() != static_cast<py::ssize_t>(batch.files().size())) {
    throw std::invalid_argument("Stripped.write: sizes differ");
  }
  const uint64_t* addresses = to.data();
  std::vector<uint8_t*> places(batch.files().size());
  for (size_t i = 0; i < places.size(); ++i) places[i] = reinterpret_cast<uint8_t*>(addresses[i]);
  NoGil nogil;
  batch.write(places.data(), threads);
}

// None, or (byte, what is wrong there).
py::object damage(const ShardScanner& scanner) {
  if (scanner.damage().empty()) return py::none();
  return py::make_tuple(scanner.damage_at(), py::bytes(scanner.damage()));
}

void feed(ShardScanner& scanner, const Array<uint8_t>& data) {
  const uint8_t* from = data.data();
  const int64_t n = data.nbytes();
  NoGil nogil;
  scanner.feed(from, n);
}

int32_t scan(ShardScanner& scanner, const py::bytes& path) {
  const std::string name = path;
  NoGil nogil;
  return scan_file(name, scanner);
}

py::tuple tar_index(const TarScanner& scanner) {
  const TarIndex& index = scanner.index();
  py::list extensions;
  for (const std::string& extension : index.extensions) extensions.append(py::bytes(extension));
  py::dict arrays("keys"_a = as_array(index.keys), "key_starts"_a = as_array(index.key_starts),
                  "first"_a = as_array(index.first), "offsets"_a = as_array(index.offsets),
                  "sizes"_a = as_array(index.sizes), "extension"_a = as_array(index.extension),
                  "contents"_a = as_array(index.contents), "content_starts"_a = as_array(index.content_starts));
  return py::make_tuple(arrays, extensions);
}

py::dict record_index(const RecordScanner& scanner) {
  return py::dict("offsets"_a = as_array(scanner.offsets()), "sizes"_a = as_array(scanner.sizes()),
                  "checksums"_a = as_array(scanner.checksums()));
}

void integers(const Array<uint8_t>& arena, const Array<int64_t>& starts, Array<int64_t> values, Array<uint8_t> valid) {
  const py::ssize_t n = check_starts("parse_integers", arena, starts);
  if (values.size() != n || valid.size() != n) throw std::invalid_argument("parse_integers: sizes differ");
  const int64_t* at = starts.data();
  int64_t* to = values.mutable_data();
  uint8_t* good = valid.mutable_data();
  NoGil nogil;
  parse_integers(arena.data(), at, n, to, good);
}

uint32_t checksum(const Array<uint8_t>& data, bool portable) {
  const uint8_t* from = data.data();
  const size_t n = data.nbytes();
  NoGil nogil;
  return crc32c(from, n, portable);
}

void checksums(const Array<uint8_t>& arena, const Array<int64_t>& starts, Array<uint32_t> out, int32_t threads) {
  const py::ssize_t n = check_starts("checksums", arena, starts);
  if (out.size() != n) throw std::invalid_argument("checksums: sizes differ");
  const int64_t* at = starts.data();
  uint32_t* to = out.mutable_data();
  NoGil nogil;
  crc32c_of(arena.data(), at, n, threads, to);
}

void examples(const Array<uint8_t>& arena, const Array<int64_t>& starts, const std::vector<py::bytes>& names,
              uintptr_t features, Array<int32_t> status, int32_t threads) {
  const py::ssize_t n = check_starts("read_examples", arena, starts);
  if (status.size() != n) throw std::invalid_argument("read_examples: sizes differ");
  const std::vector<std::string> wanted(names.begin(), names.end());
  const int64_t* at = starts.data();
  RecordStatus* to = reinterpret_cast<RecordStatus*>(status.mutable_data());
  NoGil nogil;
  read_examples(arena.data(), at, n, wanted, threads, reinterpret_cast<Feature*>(features), to);
}

// [(name, kind, count)] of the features in one record; None: it is no Example.
py::object features_of(const Array<uint8_t>& record) {
  std::vector<std::pair<std::string, Feature>> found;
  if (!list_features(record.data(), record.nbytes(), &found)) return py::none();
  py::list listed;
  for (const auto& [name, feature] : found) {
    listed.append(py::make_tuple(py::bytes(name), feature.kind, feature.count));
  }
  return listed;
}

// The values of n features of one kind and count, [n, count].
template <typename T, typename Read>
void numbers(const Array<uint8_t>& arena, uintptr_t features, int64_t n, int64_t count, Array<T> out,
             const Read& read) {
  const Feature* feature = reinterpret_cast<const Feature*>(features);
  if (out.size() != n * count) throw std::invalid_argument("feature_numbers: sizes differ");
  T* to = out.mutable_data();
  for (int64_t i = 0; i < n; ++i) {
    check_range("feature_numbers", arena, feature[i].list, feature[i].list_bytes);
    if (!read(arena.data() + feature[i].list, feature[i].list_bytes, count, to + i * count)) {
      throw std::invalid_argument("feature_numbers: feature " + std::to_string(i) + " has another number of values");
    }
  }
}

py::list bytes_values(const Array<uint8_t>& arena, int64_t list, int64_t list_bytes, int64_t count) {
  check_range("feature_bytes", arena, list, list_bytes);
  std::vector<std::pair<int64_t, int64_t>> places(count);
  if (!feature_bytes(arena.data() + list, list_bytes, count, places.data())) {
    throw std::invalid_argument("feature_bytes: it has another number of values");
  }
  py::list values;
  for (const auto& [at, nbytes] : places) {
    values.append(py::bytes(reinterpret_cast<const char*>(arena.data()) + list + at, nbytes));
  }
  return values;
}

// Ranges of an arena back to back; `out` may be that arena, where each range moves towards its beginning.
void pack(const Array<uint8_t>& arena, const Array<int64_t>& at, const Array<int64_t>& nbytes, Array<uint8_t> out) {
  const uint8_t* from = arena.data();
  uint8_t* to = out.mutable_data();
  const int64_t *place = at.data(), *size = nbytes.data(), n = at.size();
  int64_t used = 0;
  for (int64_t i = 0; i < n; ++i) {
    check_range("pack_ranges", arena, place[i], size[i]);
    if (from == to && size[i] > 0 && place[i] < used)
      throw std::invalid_argument("pack_ranges: in place, ranges must rise");
    if (size[i] > out.nbytes() - used) throw std::invalid_argument("pack_ranges: out is too small");
    used += size[i];
  }
  NoGil nogil;
  for (int64_t i = 0; i < n; to += size[i++]) std::memmove(to, from + place[i], size[i]);
}

// Addresses as dalipipe.native has checked them.
void copy(const Array<uint64_t>& from, const Array<int64_t>& stride, const Array<int64_t>& rows,
          const Array<int64_t>& row_bytes, const Array<uint64_t>& to, int32_t threads) {
  Blocks blocks;
  blocks.n = from.size();
  if (stride.size() != blocks.n || rows.size() != blocks.n || row_bytes.size() != blocks.n || to.size() != blocks.n)
    throw std::invalid_argument("copy_blocks: sizes differ");
  blocks.from = from.data(), blocks.to = to.data();
  blocks.stride = stride.data(), blocks.rows = rows.data(), blocks.row_bytes = row_bytes.data();
  NoGil nogil;
  copy_blocks(blocks, threads);
}

void philox(const Array<uint32_t>& counters, uint32_t key0, uint32_t key1, Array<uint32_t> out) {
  if (out.size() != counters.size() || counters.size() % 4) throw std::invalid_argument("philox: sizes differ");
  const uint32_t* from = counters.data();
  uint32_t* to = out.mutable_data();
  for (py::ssize_t i = 0; i < counters.size(); i += 4) {
    const Philox4 drawn = philox4x32({{from[i], from[i + 1], from[i + 2], from[i + 3]}}, key0, key1);
    std::copy(drawn.word, drawn.word + 4, to + i);
  }
}

// Four numbers in [0, 1) for each index and each (slot, block) pair: out [indices, pairs, 4]. `variants`: of each
// index, or one for all.
void uniforms(const Array<int64_t>& indices, const Array<uint32_t>& variants, const Array<uint32_t>& slots,
              const Array<uint32_t>& blocks, uint32_t key0, uint32_t key1, Array<double> out) {
  const int64_t n = indices.size(), pairs = slots.size();
  if (blocks.size() != pairs || out.size() != 4 * n * pairs || (variants.size() != n && variants.size() != 1)) {
    throw std::invalid_argument("uniforms: sizes differ");
  }
  const int64_t* index = indices.data();
  const uint32_t *variant = variants.data(), *slot = slots.data(), *block = blocks.data();
  const bool one = variants.size() == 1;
  double* to = out.mutable_data();
  NoGil nogil;
  for (int64_t i = 0; i < n; ++i) {
    const uint64_t at = static_cast<uint64_t>(index[i]);
    for (int64_t pair = 0; pair < pairs; ++pair, to += 4) {
      const uint32_t place = slot[pair] | variant[one ? 0 : i] << 16;
      const Philox4 drawn =
          philox4x32({{static_cast<uint32_t>(at), static_cast<uint32_t>(at >> 32), place, block[pair]}}, key0, key1);
      for (int w = 0; w < 4; ++w) to[w] = drawn.word[w] * 0x1p-32;
    }
  }
}

// Addresses and sizes as dalipipe.native has checked them.
std::unique_ptr<Folded> fold_ops(uintptr_t ops, int32_t op_count, uintptr_t size, int32_t n, bool normalises,
                                 const std::array<float, 3>& scale, const std::array<float, 3>& bias) {
  FoldParams p{};
  p.ops = reinterpret_cast<const FoldOp*>(ops);
  p.op_count = op_count;
  p.size = reinterpret_cast<const int64_t*>(size);
  p.n = n;
  p.normalises = normalises;
  std::copy(scale.begin(), scale.end(), p.scale);
  std::copy(bias.begin(), bias.end(), p.bias);
  return std::make_unique<Folded>(fold(p));
}

// A part of a Folded as it lies, flat: structs as bytes.
template <auto Member>
py::array part(const py::object& folded) {
  const auto& values = folded.cast<const Folded&>().*Member;
  using T = typename std::decay_t<decltype(values)>::value_type;
  if constexpr (std::is_arithmetic_v<T>) {
    return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data(), folded);
  } else {
    const auto* bytes = reinterpret_cast<const uint8_t*>(values.data());
    return py::array_t<uint8_t>(static_cast<py::ssize_t>(values.size() * sizeof(T)), bytes, folded);
  }
}

void permute_all(uint64_t n, int32_t low_bits, int32_t high_bits,
                 const std::array<uint64_t, kFeistelRounds>& round_keys, const Array<int64_t>& positions,
                 Array<int64_t> out) {
  Permutation p{n, low_bits, high_bits, {}};
  std::copy(round_keys.begin(), round_keys.end(), p.round_keys);
  if (out.size() != positions.size()) throw std::invalid_argument("permute: sizes differ");
  if (low_bits < 1 || high_bits < 1 || low_bits + high_bits > 63 || n < 1 || (n - 1) >> (low_bits + high_bits) != 0) {
    throw std::invalid_argument("permute: the bits are not those of n");  // it would walk for ever
  }
  const int64_t* from = positions.data();
  int64_t* to = out.mutable_data();
  const int64_t count = positions.size();
  for (int64_t i = 0; i < count; ++i) {
    if (static_cast<uint64_t>(from[i]) >= n) throw std::invalid_argument("permute: a position is outside 0 to n - 1");
  }
  NoGil nogil;
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<int64_t>(permute(p, static_cast<uint64_t>(from[i])));
}

// Addresses and sizes as dalipipe.native has checked them; 0 is null.
FusedImageParams fused_image_params(uintptr_t passes, uintptr_t starts, int32_t n, int32_t channels, int32_t out_h,
                                    int32_t out_w, uintptr_t tables, int32_t table_count, uintptr_t weights,
                                    int64_t weight_count, uintptr_t erases, int32_t erase_count,
                                    const std::array<float, 3>& scale, const std::array<float, 3>& bias, int32_t dtype,
                                    int32_t layout, uintptr_t out) {
  FusedImageParams p{};
  p.passes = reinterpret_cast<const ImagePass*>(passes);
  p.starts = reinterpret_cast<const int32_t*>(starts);
  p.n = n;
  p.channels = channels;
  p.out_h = out_h;
  p.out_w = out_w;
  p.tables = reinterpret_cast<const uint8_t*>(tables);
  p.table_count = table_count;
  p.weights = reinterpret_cast<const float*>(weights);
  p.weight_count = weight_count;
  p.erases = reinterpret_cast<const EraseBox*>(erases);
  p.erase_count = erase_count;
  std::copy(scale.begin(), scale.end(), p.scale);
  std::copy(bias.begin(), bias.end(), p.bias);
  p.dtype = static_cast<DType>(dtype);
  p.layout = static_cast<Layout>(layout);
  p.out = reinterpret_cast<void*>(out);
  return p;
}

void move_labels(uintptr_t maps, uintptr_t passes, uintptr_t starts, int32_t n, int32_t out_h, int32_t out_w,
                 uintptr_t table, int32_t table_count, int32_t ignore, int32_t out_bytes, uintptr_t out,
                 int32_t threads) {
  MoveLabelsParams p{};
  p.maps = reinterpret_cast<const LabelMap*>(maps);
  p.passes = reinterpret_cast<const ImagePass*>(passes);
  p.starts = reinterpret_cast<const int32_t*>(starts);
  p.n = n;
  p.out_h = out_h;
  p.out_w = out_w;
  p.table = reinterpret_cast<const int32_t*>(table);
  p.table_count = table_count;
  p.ignore = ignore;
  p.out_bytes = out_bytes;
  p.out = reinterpret_cast<void*>(out);
  move_labels_cpu(p, threads);
}

MixParams mix_params(uintptr_t pairs, int32_t pair_count, int32_t n, int32_t channels, int32_t h, int32_t w,
                     int32_t dtype, int32_t layout, uintptr_t batch) {
  MixParams p{};
  p.pairs = reinterpret_cast<const MixPair*>(pairs);
  p.pair_count = pair_count;
  p.n = n;
  p.channels = channels;
  p.h = h;
  p.w = w;
  p.dtype = static_cast<DType>(dtype);
  p.layout = static_cast<Layout>(layout);
  p.batch = reinterpret_cast<void*>(batch);
  return p;
}

// Addresses as dalipipe.native has checked them.
DecodeTilesParams decode_tiles_params(uintptr_t jpegs, uintptr_t shapes, uintptr_t regions, uintptr_t out, int32_t n) {
  return {reinterpret_cast<const uint64_t*>(jpegs), reinterpret_cast<const JpegShape*>(shapes),
          reinterpret_cast<const Region*>(regions), reinterpret_cast<const uint64_t*>(out), n};
}

#ifdef DALIPIPE_WITH_CUDA
void run_fused_image_cuda(const FusedImageParams& p, uintptr_t scratch, size_t scratch_bytes, uintptr_t pinned,
                          size_t pinned_bytes, uintptr_t stream) {
  fused_image_cuda(p, reinterpret_cast<void*>(scratch), scratch_bytes, reinterpret_cast<void*>(pinned), pinned_bytes,
                   reinterpret_cast<void*>(stream));
}
#endif

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native core of dalipipe; import dalipipe.native instead.";
  m.def("build_info", &build_info);
  m.def("struct_layouts", &struct_layouts);

  py::class_<FileBatch>(m, "FileBatch")
      .def(py::init(&open_files), py::kw_only(), "paths"_a, "offsets"_a.noconvert(), "lengths"_a.noconvert(),
           "max_bytes"_a, "threads"_a)
      .def_property_readonly("total_bytes", &FileBatch::total_bytes)
      .def_property_readonly("starts", &starts)
      .def_property_readonly("errors", &errors)
      .def("read", &read_into, py::kw_only(), "arena"_a.noconvert(), "threads"_a);
  m.def("probe_images", &probe, py::kw_only(), "arena"_a.noconvert(), "starts"_a.noconvert(), "out"_a, "threads"_a);

  m.def("tile_jpegs", &tile, py::kw_only(), "arena"_a.noconvert(), "starts"_a.noconvert(), "tile_px"_a, "metadata"_a,
        "threads"_a);
  m.def("cut_jpegs", &cut, py::kw_only(), "arena"_a.noconvert(), "starts"_a.noconvert(), "regions"_a.noconvert(),
        "out"_a.noconvert(), "cuts"_a, "threads"_a);
  m.def("read_jpegs", &read_regions, py::kw_only(), "arena"_a.noconvert(), "starts"_a.noconvert(),
        "regions"_a.noconvert(), "out"_a.noconvert(), "threads"_a);

  m.def("unstuffed", &unstuffed, py::kw_only(), "data"_a, "level"_a);
  m.def("marker_in", &marker_in, py::kw_only(), "data"_a, "level"_a);
  py::class_<StripBatch>(m, "StripBatch")
      .def(py::init(&strip), py::kw_only(), "arena"_a.noconvert(), "starts"_a.noconvert(), "regions"_a.noconvert(),
           "threads"_a, py::keep_alive<1, 2>())
      .def_property_readonly("shapes", &shapes)
      .def_property_readonly("nbytes", &stripped_bytes)
      .def_property_readonly("refused", &refused)
      .def("write", &write_stripped_all, py::kw_only(), "to"_a.noconvert(), "threads"_a);
  py::class_<DecodeTilesParams>(m, "DecodeTilesParams")
      .def(py::init(&decode_tiles_params), py::kw_only(), "jpegs"_a, "shapes"_a, "regions"_a, "out"_a, "n"_a);
  m.def("check_decode_tiles", &check_decode_tiles, py::kw_only(), "params"_a);
#ifdef DALIPIPE_WITH_CUDA
  m.def("decode_tiles_upload_bytes", &decode_tiles_upload_bytes, py::kw_only(), "n"_a);
  m.def("decode_tiles_scratch_bytes", &decode_tiles_scratch_bytes, py::kw_only(), "params"_a);
  m.def(
      "decode_tiles_cuda",
      [](const DecodeTilesParams& p, uintptr_t upload, uintptr_t pinned, size_t upload_bytes, uintptr_t scratch,
         size_t scratch_bytes, uintptr_t stream) {
        decode_tiles_cuda(p, reinterpret_cast<void*>(upload), reinterpret_cast<void*>(pinned), upload_bytes,
                          reinterpret_cast<void*>(scratch), scratch_bytes, reinterpret_cast<void*>(stream));
      },
      py::kw_only(), "params"_a, "upload"_a, "pinned"_a, "upload_bytes"_a, "scratch"_a, "scratch_bytes"_a, "stream"_a,
      py::call_guard<NoGil>());
#endif

  py::class_<ShardScanner>(m, "ShardScanner")
      .def_property_readonly("wanted", &ShardScanner::wanted)
      .def_property_readonly("done", &ShardScanner::done)
      .def_property_readonly("damage", &damage)
      .def("feed", &feed, py::kw_only(), "data"_a.noconvert())
      .def("finish", &ShardScanner::finish, py::kw_only(), "size_bytes"_a)
      .def("scan_file", &scan, py::kw_only(), "path"_a);
  py::class_<TarScanner, ShardScanner>(m, "TarScanner").def(py::init()).def("index", &tar_index);
  py::class_<RecordScanner, ShardScanner>(m, "RecordScanner").def(py::init()).def("index", &record_index);
  m.def("parse_integers", &integers, py::kw_only(), "arena"_a.noconvert(), "starts"_a.noconvert(),
        "values"_a.noconvert(), "valid"_a.noconvert());
  m.def("crc32c", &checksum, py::kw_only(), "data"_a.noconvert(), "portable"_a);
  m.def("checksums", &checksums, py::kw_only(), "arena"_a.noconvert(), "starts"_a.noconvert(), "out"_a.noconvert(),
        "threads"_a);
  m.def("read_examples", &examples, py::kw_only(), "arena"_a.noconvert(), "starts"_a.noconvert(), "names"_a,
        "features"_a, "status"_a.noconvert(), "threads"_a);
  m.def("list_features", &features_of, py::kw_only(), "record"_a.noconvert());
  m.def(
      "feature_ints",
      [](const Array<uint8_t>& arena, uintptr_t features, int64_t n, int64_t count, Array<int64_t> out) {
        numbers(arena, features, n, count, out, &feature_ints);
      },
      py::kw_only(), "arena"_a.noconvert(), "features"_a, "n"_a, "count"_a, "out"_a.noconvert());
  m.def(
      "feature_floats",
      [](const Array<uint8_t>& arena, uintptr_t features, int64_t n, int64_t count, Array<float> out) {
        numbers(arena, features, n, count, out, &feature_floats);
      },
      py::kw_only(), "arena"_a.noconvert(), "features"_a, "n"_a, "count"_a, "out"_a.noconvert());
  m.def("feature_bytes", &bytes_values, py::kw_only(), "arena"_a.noconvert(), "list"_a, "list_bytes"_a, "count"_a);
  m.def("pack_ranges", &pack, py::kw_only(), "arena"_a.noconvert(), "at"_a.noconvert(), "nbytes"_a.noconvert(),
        "out"_a.noconvert());
  m.def("copy_blocks", &copy, py::kw_only(), "from_"_a.noconvert(), "stride"_a.noconvert(), "rows"_a.noconvert(),
        "row_bytes"_a.noconvert(), "to"_a.noconvert(), "threads"_a);
  m.def("philox", &philox, py::kw_only(), "counters"_a.noconvert(), "key0"_a, "key1"_a, "out"_a.noconvert());
  m.def("uniforms", &uniforms, py::kw_only(), "indices"_a.noconvert(), "variants"_a.noconvert(), "slots"_a.noconvert(),
        "blocks"_a.noconvert(), "key0"_a, "key1"_a, "out"_a.noconvert());
  py::class_<Folded>(m, "Folded")
      .def_property_readonly("passes", &part<&Folded::passes>)
      .def_property_readonly("starts", &part<&Folded::starts>)
      .def_property_readonly("box", &part<&Folded::box>)
      .def_property_readonly("roi", &part<&Folded::roi>)
      .def_property_readonly("out_size", &part<&Folded::out_size>)
      .def_property_readonly("tables", &part<&Folded::tables>)
      .def_property_readonly("weights", &part<&Folded::weights>)
      .def_property_readonly("erases", &part<&Folded::erases>)
      .def_property_readonly("scaled", &part<&Folded::scaled>)
      .def_property_readonly("elastic_at", &part<&Folded::elastic_at>)
      .def_property_readonly("elastic_size", &part<&Folded::elastic_size>)
      .def_property_readonly("elastic_alpha", &part<&Folded::elastic_alpha>)
      .def_property_readonly("elastic_sigma", &part<&Folded::elastic_sigma>)
      .def_property_readonly("elastic_noise", &part<&Folded::elastic_noise>);
  m.def("fold", &fold_ops, py::kw_only(), "ops"_a, "op_count"_a, "size"_a, "n"_a, "normalises"_a, "scale"_a, "bias"_a,
        py::call_guard<NoGil>());
  m.def("permute", &permute_all, py::kw_only(), "n"_a, "low_bits"_a, "high_bits"_a, "round_keys"_a,
        "positions"_a.noconvert(), "out"_a.noconvert());

  py::class_<FusedImageParams>(m, "FusedImageParams")
      .def(py::init(&fused_image_params), py::kw_only(), "passes"_a, "starts"_a, "n"_a, "channels"_a, "out_h"_a,
           "out_w"_a, "tables"_a, "table_count"_a, "weights"_a, "weight_count"_a, "erases"_a, "erase_count"_a,
           "scale"_a, "bias"_a, "dtype"_a, "layout"_a, "out"_a);
  py::class_<Running>(m, "Running").def("wait", [](Running& running) { running.task.wait(); }, py::call_guard<NoGil>());
  m.def(
      "start_fused_image_cpu",
      [](const FusedImageParams& params, int32_t threads, py::object held) {
        return std::unique_ptr<Running>(
            new Running{std::move(held), Task([params, threads] { fused_image_cpu(params, threads); })});
      },
      py::kw_only(), "params"_a, "threads"_a, "held"_a);
  m.def(
      "elastic_cpu",
      [](uintptr_t fields, int32_t n, int32_t threads) {
        elastic_cpu(reinterpret_cast<const ElasticField*>(fields), n, threads);
      },
      py::kw_only(), "fields"_a, "n"_a, "threads"_a, py::call_guard<NoGil>());
#ifdef DALIPIPE_WITH_CUDA
  m.def(
      "elastic_cuda_bytes",
      [](uintptr_t fields, int32_t n) {
        const ElasticField* f = reinterpret_cast<const ElasticField*>(fields);
        return py::make_tuple(elastic_cuda_scratch_bytes(f, n), elastic_cuda_upload_bytes(f, n));
      },
      py::kw_only(), "fields"_a, "n"_a);
  m.def(
      "elastic_cuda",
      [](uintptr_t fields, int32_t n, uintptr_t scratch, size_t scratch_bytes, uintptr_t pinned, size_t pinned_bytes,
         uintptr_t stream) {
        elastic_cuda(reinterpret_cast<const ElasticField*>(fields), n, reinterpret_cast<void*>(scratch), scratch_bytes,
                     reinterpret_cast<void*>(pinned), pinned_bytes, reinterpret_cast<void*>(stream));
      },
      py::kw_only(), "fields"_a, "n"_a, "scratch"_a, "scratch_bytes"_a, "pinned"_a, "pinned_bytes"_a, "stream"_a,
      py::call_guard<NoGil>());
  m.def("fused_image_cuda_scratch_bytes", &fused_image_cuda_scratch_bytes, py::kw_only(), "params"_a);
  m.def("fused_image_cuda_upload_bytes", &fused_image_cuda_upload_bytes, py::kw_only(), "params"_a);
  m.def("fused_image_cuda", &run_fused_image_cuda, py::kw_only(), "params"_a, "scratch"_a, "scratch_bytes"_a,
        "pinned"_a, "pinned_bytes"_a, "stream"_a, py::call_guard<NoGil>());
#endif
  m.def("move_labels", &move_labels, py::kw_only(), "maps"_a, "passes"_a, "starts"_a, "n"_a, "out_h"_a, "out_w"_a,
        "table"_a, "table_count"_a, "ignore"_a, "out_bytes"_a, "out"_a, "threads"_a, py::call_guard<NoGil>());
  py::class_<MixParams>(m, "MixParams")
      .def(py::init(&mix_params), py::kw_only(), "pairs"_a, "pair_count"_a, "n"_a, "channels"_a, "h"_a, "w"_a,
           "dtype"_a, "layout"_a, "batch"_a);
  m.def("mix_cpu", &mix_cpu, py::kw_only(), "params"_a, "threads"_a, py::call_guard<NoGil>());
#ifdef DALIPIPE_WITH_CUDA
  m.def(
      "mix_cuda", [](const MixParams& p, uintptr_t stream) { mix_cuda(p, reinterpret_cast<void*>(stream)); },
      py::kw_only(), "params"_a, "stream"_a, py::call_guard<NoGil>());
#endif
  m.def("cpu_target", &cpu_target);
  m.def("set_cpu_target", &set_cpu_target, py::kw_only(), "name"_a.none(true));

  bind_signals(m);
  bind_spectral(m);
  bind_audio(m);
}
