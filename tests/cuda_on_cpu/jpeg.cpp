// csrc/cuda/jpeg.cu on the host, for ctypes.
#include "../../csrc/cuda/jpeg.cu"

extern "C" int64_t upload_bytes(int32_t n) { return static_cast<int64_t>(dalipipe::decode_tiles_upload_bytes(n)); }

// Scratch begins as garbage, as on a device; `scratch_bytes` of it, 0: as much as is wanted. Returns "" or what was
// thrown.
extern "C" const char* decode_tiles(const dalipipe::DecodeTilesParams* p, uint8_t* upload, uint8_t* pinned,
                                    int64_t bytes, int64_t scratch_bytes) {
  static std::string message;
  message.clear();
  cuda_on_cpu::launches = 0;
  try {
    if (scratch_bytes == 0) scratch_bytes = static_cast<int64_t>(dalipipe::decode_tiles_scratch_bytes(*p));
    std::vector<uint8_t> scratch(static_cast<size_t>(scratch_bytes), 0x7f);
    dalipipe::decode_tiles_cuda(*p, upload, pinned, static_cast<size_t>(bytes), scratch.data(), scratch.size(),
                                nullptr);
  } catch (const std::exception& error) {
    message = error.what();
  }
  return message.c_str();
}

// Kernels started by the last call.
extern "C" int launches() { return cuda_on_cpu::launches; }
