// Chains of passes over signals.
#include "bindings/bindings.h"

namespace dalipipe {

void bind_signals(py::module_&) {}

}  // namespace dalipipe
