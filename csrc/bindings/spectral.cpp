// Frames of signals, their spectra, and back.
#include "bindings/bindings.h"

namespace dalipipe {

void bind_spectral(py::module_&) {}

}  // namespace dalipipe
