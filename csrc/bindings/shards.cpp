// Tar and TFRecord shards, and tf.train.Example.
#include "shards.h"

#include <pybind11/stl.h>

#include <cstddef>

#include "bindings/bindings.h"
#include "io.h"

namespace dalipipe {
namespace {

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

}  // namespace

void bind_shards(py::module_& m, py::dict& layouts) {
#define AT(field) layout[#field] = offsetof(Struct, field)
  {
    using Struct = Feature;
    py::dict layout(""_a = sizeof(Struct));
    AT(kind), AT(count), AT(list), AT(list_bytes), AT(first), AT(first_bytes);
    layouts["Feature"] = layout;
  }
#undef AT

  py::class_<ShardScanner>(m, "ShardScanner")
      .def_property_readonly("wanted", &ShardScanner::wanted)
      .def_property_readonly("done", &ShardScanner::done)
      .def_property_readonly("damage", &damage)
      .def("feed", &feed, py::kw_only(), "data"_a.noconvert())
      .def("finish", &ShardScanner::finish, py::kw_only(), "size_bytes"_a)
      .def("scan_file", &scan, py::kw_only(), "path"_a);
  py::class_<TarScanner, ShardScanner>(m, "TarScanner").def(py::init()).def("index", &tar_index);
  py::class_<RecordScanner, ShardScanner>(m, "RecordScanner").def(py::init()).def("index", &record_index);
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
}

}  // namespace dalipipe
