// csrc/cuda/mix.cu on the host, for ctypes.
#include "../../csrc/cpu/mix.cpp"

#include "../../csrc/cpu/pool.cpp"
#include "../../csrc/cuda/mix.cu"

// Returns "" or what was thrown.
extern "C" const char* mix(const dalipipe::MixParams* p) {
  static std::string message;
  try {
    dalipipe::mix_cuda(*p, nullptr);
    message.clear();
  } catch (const std::exception& error) {
    message = error.what();
  }
  return message.c_str();
}
