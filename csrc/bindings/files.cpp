// Files read, their headers, checksums; memory moved.
#include <pybind11/stl.h>

#include <cstddef>
#include <cstring>
#include <memory>

#include "bindings/bindings.h"
#include "io.h"
#include "shards.h"

namespace dalipipe {
namespace {

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

void probe(const Array<uint8_t>& arena, const Array<int64_t>& starts, uintptr_t out, int32_t threads) {
  const py::ssize_t n = check_starts("probe_images", arena, starts);
  const int64_t* at = starts.data();
  NoGil nogil;
  probe_images(arena.data(), at, n, threads, reinterpret_cast<ImageHeader*>(out));
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

void integers(const Array<uint8_t>& arena, const Array<int64_t>& starts, Array<int64_t> values, Array<uint8_t> valid) {
  const py::ssize_t n = check_starts("parse_integers", arena, starts);
  if (values.size() != n || valid.size() != n) throw std::invalid_argument("parse_integers: sizes differ");
  const int64_t* at = starts.data();
  int64_t* to = values.mutable_data();
  uint8_t* good = valid.mutable_data();
  NoGil nogil;
  parse_integers(arena.data(), at, n, to, good);
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

}  // namespace

void bind_files(py::module_& m, py::dict& layouts) {
#define AT(field) layout[#field] = offsetof(Struct, field)
  {
    using Struct = ImageHeader;
    py::dict layout(""_a = sizeof(Struct));
    AT(kind), AT(height), AT(width), AT(channels), AT(bits), AT(orientation), AT(flags);
    layouts["ImageHeader"] = layout;
  }
#undef AT

  py::class_<FileBatch>(m, "FileBatch")
      .def(py::init(&open_files), py::kw_only(), "paths"_a, "offsets"_a.noconvert(), "lengths"_a.noconvert(),
           "max_bytes"_a, "threads"_a)
      .def_property_readonly("total_bytes", &FileBatch::total_bytes)
      .def_property_readonly("starts", &starts)
      .def_property_readonly("errors", &errors)
      .def("read", &read_into, py::kw_only(), "arena"_a.noconvert(), "threads"_a);
  m.def("probe_images", &probe, py::kw_only(), "arena"_a.noconvert(), "starts"_a.noconvert(), "out"_a, "threads"_a);
  m.def("parse_integers", &integers, py::kw_only(), "arena"_a.noconvert(), "starts"_a.noconvert(),
        "values"_a.noconvert(), "valid"_a.noconvert());
  m.def("crc32c", &checksum, py::kw_only(), "data"_a.noconvert(), "portable"_a);
  m.def("checksums", &checksums, py::kw_only(), "arena"_a.noconvert(), "starts"_a.noconvert(), "out"_a.noconvert(),
        "threads"_a);
  m.def("pack_ranges", &pack, py::kw_only(), "arena"_a.noconvert(), "at"_a.noconvert(), "nbytes"_a.noconvert(),
        "out"_a.noconvert());
  m.def("copy_blocks", &copy, py::kw_only(), "from_"_a.noconvert(), "stride"_a.noconvert(), "rows"_a.noconvert(),
        "row_bytes"_a.noconvert(), "to"_a.noconvert(), "threads"_a);
}

}  // namespace dalipipe
