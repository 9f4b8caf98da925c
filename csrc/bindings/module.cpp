// The module: what it was built with, what its CPU operators run on, and all that the other files bind.
#include "bindings/bindings.h"
#include "cpu/pool.h"
#include "ops.h"

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

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native core of dalipipe; import dalipipe.native instead.";
  m.def("build_info", &build_info);
  m.def("cpu_target", &cpu_target);
  m.def("set_cpu_target", &set_cpu_target, py::kw_only(), "name"_a.none(true));
  py::class_<Running>(m, "Running").def("wait", [](Running& running) { running.task.wait(); }, py::call_guard<NoGil>());

  py::dict layouts;
  bind_files(m, layouts);
  bind_shards(m, layouts);
  bind_jpegs(m, layouts);
  bind_draws(m, layouts);
  bind_images(m, layouts);
  bind_audio(m, layouts);
  bind_signals(m, layouts);
  bind_tokens(m, layouts);
  bind_spectral(m, layouts);
  m.attr("struct_layouts") = layouts;
}
