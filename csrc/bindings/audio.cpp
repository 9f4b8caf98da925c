// Audio files.
#include "bindings/bindings.h"

namespace dalipipe {

void bind_audio(py::module_&) {}

}  // namespace dalipipe
