// What the files that know Python share; there are no others. Arguments are keyword-only; the GIL is released around
// native work.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/pool.h"

namespace dalipipe {

namespace py = pybind11;
using namespace py::literals;

template <typename T>
using Array = py::array_t<T, py::array::c_style>;
using NoGil = py::gil_scoped_release;

template <typename T>
py::array_t<T> as_array(const std::vector<T>& values) {
  return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

// The number of ranges, which rise within the arena.
inline py::ssize_t check_starts(const char* what, const Array<uint8_t>& arena, const Array<int64_t>& starts) {
  const int64_t* at = starts.data();
  for (py::ssize_t i = 0; i < starts.size(); ++i) {
    if (at[i] < (i ? at[i - 1] : 0) || at[i] > arena.nbytes()) {
      throw std::invalid_argument(std::string(what) + ": starts must rise within the arena");
    }
  }
  return starts.size() - 1;
}

inline void check_range(const char* what, const Array<uint8_t>& arena, int64_t at, int64_t nbytes) {
  if (at < 0 || nbytes < 0 || at > arena.nbytes() || nbytes > arena.nbytes() - at) {
    throw std::invalid_argument(std::string(what) + ": a range lies outside the arena");
  }
}

// An operator at work on threads of its own, and the Python objects whose memory it uses.
struct Running {
  py::object held;
  Task task;
};

// What a file binds, and the layouts of the structs that Python mirrors as numpy dtypes: {struct: {"": size,
// field: offset}}, in bytes.
void bind_files(py::module_& m, py::dict& layouts);
void bind_shards(py::module_& m, py::dict& layouts);
void bind_jpegs(py::module_& m, py::dict& layouts);
void bind_draws(py::module_& m, py::dict& layouts);
void bind_images(py::module_& m, py::dict& layouts);
void bind_audio(py::module_& m, py::dict& layouts);
void bind_signals(py::module_& m, py::dict& layouts);
void bind_tokens(py::module_& m, py::dict& layouts);
void bind_spectral(py::module_& m, py::dict& layouts);

}  // namespace dalipipe
