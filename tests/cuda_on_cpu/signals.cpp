// csrc/cuda/signal.cu on the host, for ctypes.
#include "../../csrc/cpu/signal_check.cpp"
#include "../../csrc/cuda/signal.cu"

// "" or what was thrown. Scratch begins as garbage, as on a device: numbers that show, 3e38 as floats.
extern "C" const char* signals(const dalipipe::SignalParams* p) {
  using namespace dalipipe;
  static std::string message;
  message.clear();
  cuda_on_cpu::launches = 0;
  try {
    std::vector<char> scratch(signals_cuda_scratch_bytes(*p), static_cast<char>(0x7f));
    std::vector<char> upload(signals_cuda_upload_bytes(*p), static_cast<char>(0x7f));
    signals_cuda(*p, scratch.data(), scratch.size(), upload.data(), upload.size(), nullptr);
  } catch (const std::exception& error) {
    message = error.what();
  }
  return message.c_str();
}

// Kernels started by the last call.
extern "C" int launches() { return cuda_on_cpu::launches; }
