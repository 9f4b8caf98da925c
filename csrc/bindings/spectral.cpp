// Frames of signals, their spectra, and back.
#include "spectral.h"

#include "bindings/bindings.h"

namespace dalipipe {
namespace {

template <typename T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

SpectralParams make_params(uintptr_t rows, int32_t n, int32_t n_fft, int32_t lead, int32_t edge, uintptr_t window,
                           uintptr_t source, int64_t source_floats, uintptr_t target, int64_t target_floats,
                           uintptr_t tables, int64_t table_floats, uintptr_t bands, int32_t band_count, bool squared,
                           int32_t log, int32_t mixed, int32_t mixes, float top_db, uintptr_t device_rows,
                           uintptr_t device_bands) {
  SpectralParams p{};
  p.rows = at<const SpectralRow>(rows);
  p.n = n;
  p.n_fft = n_fft;
  p.lead = lead;
  p.edge = edge;
  p.window = at<const float>(window);
  p.source = at<const float>(source);
  p.source_floats = source_floats;
  p.target = at<float>(target);
  p.target_floats = target_floats;
  p.tables = at<const float>(tables);
  p.table_floats = table_floats;
  p.bands = at<const MelBand>(bands);
  p.band_count = band_count;
  p.squared = squared;
  p.log = log;
  p.mixed = mixed;
  p.mixes = mixes;
  p.top_db = top_db;
  p.device_rows = at<const SpectralRow>(device_rows);
  p.device_bands = at<const MelBand>(device_bands);
  return p;
}

}  // namespace

void bind_spectral(py::module_& m, py::dict& layouts) {
#define AT(field) layout[#field] = offsetof(Struct, field)
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

  py::class_<SpectralParams>(m, "SpectralParams")
      .def(py::init(&make_params), py::kw_only(), "rows"_a, "n"_a, "n_fft"_a, "lead"_a, "edge"_a, "window"_a,
           "source"_a, "source_floats"_a, "target"_a, "target_floats"_a, "tables"_a, "table_floats"_a, "bands"_a,
           "band_count"_a, "squared"_a, "log"_a, "mixed"_a, "mixes"_a, "top_db"_a, "device_rows"_a, "device_bands"_a)
      .def_property_readonly("nbytes", [](const SpectralParams&) { return sizeof(SpectralParams); })
      .def_property_readonly("address", [](const SpectralParams& p) { return reinterpret_cast<uintptr_t>(&p); });
  m.def(
      "spectral_cpu",
      [](int32_t step, const SpectralParams& p, int32_t threads) {
        NoGil nogil;
        spectral_cpu(static_cast<SpectralStep>(step), p, threads);
      },
      py::kw_only(), "step"_a, "params"_a, "threads"_a);
#ifdef DALIPIPE_WITH_CUDA
  m.def(
      "spectral_cuda",
      [](int32_t step, const SpectralParams& p, uintptr_t stream) {
        NoGil nogil;
        spectral_cuda(static_cast<SpectralStep>(step), p, reinterpret_cast<void*>(stream));
      },
      py::kw_only(), "step"_a, "params"_a, "stream"_a);
#endif
}

}  // namespace dalipipe
