// Operators on pictures, label maps and batches.
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>

#include "bindings/bindings.h"
#include "cpu/pool.h"
#include "labels.h"
#include "mix.h"
#include "ops.h"

namespace dalipipe {
namespace {

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

#ifdef DALIPIPE_WITH_CUDA
void run_fused_image_cuda(const FusedImageParams& p, uintptr_t scratch, size_t scratch_bytes, uintptr_t pinned,
                          size_t pinned_bytes, uintptr_t stream) {
  fused_image_cuda(p, reinterpret_cast<void*>(scratch), scratch_bytes, reinterpret_cast<void*>(pinned), pinned_bytes,
                   reinterpret_cast<void*>(stream));
}
#endif

}  // namespace

void bind_images(py::module_& m, py::dict& layouts) {
#define AT(field) layout[#field] = offsetof(Struct, field)
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
#undef AT

  py::class_<FusedImageParams>(m, "FusedImageParams")
      .def(py::init(&fused_image_params), py::kw_only(), "passes"_a, "starts"_a, "n"_a, "channels"_a, "out_h"_a,
           "out_w"_a, "tables"_a, "table_count"_a, "weights"_a, "weight_count"_a, "erases"_a, "erase_count"_a,
           "scale"_a, "bias"_a, "dtype"_a, "layout"_a, "out"_a);
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
}

}  // namespace dalipipe
