// JPEG files: tiles, and what is done with them.

#include <cstddef>
#include <cstring>
#include <memory>

#include "bindings/bindings.h"
#include "jpeg/ones.h"
#include "jpeg/strip.h"
#include "jpeg/tiles.h"

namespace dalipipe {
namespace {

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

// Addresses as dalipipe.native has checked them.
DecodeTilesParams decode_tiles_params(uintptr_t jpegs, uintptr_t shapes, uintptr_t regions, uintptr_t out, int32_t n) {
  return {reinterpret_cast<const uint64_t*>(jpegs), reinterpret_cast<const JpegShape*>(shapes),
          reinterpret_cast<const Region*>(regions), reinterpret_cast<const uint64_t*>(out), n};
}

}  // namespace

void bind_jpegs(py::module_& m, py::dict& layouts) {
#define AT(field) layout[#field] = offsetof(Struct, field)
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
#undef AT

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
}

}  // namespace dalipipe
