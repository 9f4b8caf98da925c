// csrc/cuda/image.cu on the host, for ctypes.
#include "../../csrc/cpu/image_check.cpp"
#include "../../csrc/cuda/image.cu"

// Returns "" or what was thrown. Scratch begins as garbage, as on a device.
extern "C" const char* fused_image(const dalipipe::FusedImageParams* p) {
  static std::string message;
  try {
    std::vector<char> scratch(dalipipe::fused_image_cuda_scratch_bytes(*p), static_cast<char>(0xa5));
    std::vector<char> upload(dalipipe::fused_image_cuda_upload_bytes(*p), static_cast<char>(0xa5));
    dalipipe::fused_image_cuda(*p, scratch.data(), scratch.size(), upload.data(), upload.size(), nullptr);
    message.clear();
  } catch (const std::exception& error) {
    message = error.what();
  }
  return message.c_str();
}
