// The only file that knows Python. Arguments are keyword-only; the GIL is released around native work.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstddef>
#include <stdexcept>

#include "io.h"
#include "ops.h"
#include "philox.h"

namespace py = pybind11;
using namespace py::literals;
using namespace dalipipe;

namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style>;
using NoGil = py::gil_scoped_release;

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
    using Struct = ImageSample;
    py::dict layout(""_a = sizeof(Struct));
    AT(data), AT(row_bytes), AT(stored_h), AT(stored_w), AT(origin_y), AT(origin_x), AT(crop_h), AT(crop_w);
    AT(resized_h), AT(resized_w), AT(window_y), AT(window_x), AT(canvas_h), AT(canvas_w), AT(flip), AT(warp),
        AT(matrix);
    AT(colour), AT(colour_matrix), AT(colour_mean_matrix), AT(colour_offset), AT(table), AT(fill);
    layouts["ImageSample"] = layout;
  }
#undef AT
  return layouts;
}

py::array_t<int64_t> starts(const FileBatch& batch) {
  return py::array_t<int64_t>(static_cast<py::ssize_t>(batch.starts().size()), batch.starts().data());
}

// (position, errno, cause or "") of every range that failed.
py::list errors(const FileBatch& batch) {
  py::list failed;
  for (size_t i = 0; i < batch.errors().size(); ++i) {
    const FileBatch::Error& error = batch.errors()[i];
    if (error.code) failed.append(py::make_tuple(i, error.code, error.cause));
  }
  return failed;
}

std::unique_ptr<FileBatch> open_files(const std::vector<py::bytes>& paths, const std::vector<int64_t>& offsets,
                                      const std::vector<int64_t>& lengths, int64_t max_bytes, int32_t threads) {
  std::vector<FileRange> ranges;
  ranges.reserve(paths.size());
  for (size_t i = 0; i < paths.size(); ++i) ranges.push_back({paths[i], offsets.at(i), lengths.at(i)});
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
  const py::ssize_t n = starts.size() - 1;
  const int64_t* at = starts.data();
  for (py::ssize_t i = 0; i <= n; ++i) {
    if (at[i] < (i ? at[i - 1] : 0) || at[i] > arena.nbytes()) {
      throw std::invalid_argument("probe_images: starts must rise within the arena");
    }
  }
  NoGil nogil;
  probe_images(arena.data(), at, n, threads, reinterpret_cast<ImageHeader*>(out));
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

// Addresses and sizes as dalipipe.native has checked them; 0 is null.
FusedImageParams fused_image_params(uintptr_t samples, int32_t n, int32_t channels, int32_t out_h, int32_t out_w,
                                    uintptr_t tables, int32_t erases, uintptr_t erase_boxes, uintptr_t erase_values,
                                    const std::array<float, 3>& scale, const std::array<float, 3>& bias, int32_t dtype,
                                    int32_t layout, uintptr_t out) {
  FusedImageParams p{};
  p.samples = reinterpret_cast<const ImageSample*>(samples);
  p.n = n;
  p.channels = channels;
  p.out_h = out_h;
  p.out_w = out_w;
  p.tables = reinterpret_cast<const uint8_t*>(tables);
  p.erases = erases;
  p.erase_boxes = reinterpret_cast<const int32_t*>(erase_boxes);
  p.erase_values = reinterpret_cast<const float*>(erase_values);
  std::copy(scale.begin(), scale.end(), p.scale);
  std::copy(bias.begin(), bias.end(), p.bias);
  p.dtype = static_cast<DType>(dtype);
  p.layout = static_cast<Layout>(layout);
  p.out = reinterpret_cast<void*>(out);
  return p;
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
      .def(py::init(&open_files), py::kw_only(), "paths"_a, "offsets"_a, "lengths"_a, "max_bytes"_a, "threads"_a)
      .def_property_readonly("total_bytes", &FileBatch::total_bytes)
      .def_property_readonly("starts", &starts)
      .def_property_readonly("errors", &errors)
      .def("read", &read_into, py::kw_only(), "arena"_a.noconvert(), "threads"_a);
  m.def("probe_images", &probe, py::kw_only(), "arena"_a.noconvert(), "starts"_a.noconvert(), "out"_a, "threads"_a);
  m.def("philox", &philox, py::kw_only(), "counters"_a.noconvert(), "key0"_a, "key1"_a, "out"_a.noconvert());

  py::class_<FusedImageParams>(m, "FusedImageParams")
      .def(py::init(&fused_image_params), py::kw_only(), "samples"_a, "n"_a, "channels"_a, "out_h"_a, "out_w"_a,
           "tables"_a, "erases"_a, "erase_boxes"_a, "erase_values"_a, "scale"_a, "bias"_a, "dtype"_a, "layout"_a,
           "out"_a);
  m.def("fused_image_cpu", &fused_image_cpu, py::kw_only(), "params"_a, "threads"_a, py::call_guard<NoGil>());
#ifdef DALIPIPE_WITH_CUDA
  m.def("fused_image_cuda_scratch_bytes", &fused_image_cuda_scratch_bytes, py::kw_only(), "params"_a);
  m.def("fused_image_cuda_upload_bytes", &fused_image_cuda_upload_bytes, py::kw_only(), "params"_a);
  m.def("fused_image_cuda", &run_fused_image_cuda, py::kw_only(), "params"_a, "scratch"_a, "scratch_bytes"_a,
        "pinned"_a, "pinned_bytes"_a, "stream"_a, py::call_guard<NoGil>());
#endif
  m.def("cpu_target", &cpu_target);
  m.def("set_cpu_target", &set_cpu_target, py::kw_only(), "name"_a.none(true));
}
