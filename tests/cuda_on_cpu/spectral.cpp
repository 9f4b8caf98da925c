// csrc/cuda/spectral.cu on the host, for ctypes.
#include "../../csrc/cuda/spectral.cu"

#include "../../csrc/cpu/spectral_check.cpp"

// Returns "" or what was thrown.
extern "C" const char* spectral(int32_t step, const dalipipe::SpectralParams* p) {
  static std::string message;
  try {
    dalipipe::spectral_cuda(static_cast<dalipipe::SpectralStep>(step), *p, nullptr);
    message.clear();
  } catch (const std::exception& error) {
    message = error.what();
  }
  return message.c_str();
}
