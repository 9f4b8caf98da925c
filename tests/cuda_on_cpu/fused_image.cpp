// csrc/cuda/image.cu, filter.cu and elastic.cu on the host, for ctypes.
#include "../../csrc/cpu/filter_check.cpp"
#include "../../csrc/cpu/image_check.cpp"
#include "../../csrc/cuda/elastic.cu"
#include "../../csrc/cuda/filter.cu"
#include "../../csrc/cuda/image.cu"

namespace {

// Calls run(scratch, bytes, upload, bytes), which begin as garbage, as on a device: numbers that show, 3e38 as floats.
// Returns "" or what was thrown.
template <typename Sizes, typename Run>
const char* call(const Sizes& sizes, const Run& run) {
  static std::string message;
  message.clear();
  cuda_on_cpu::launches = 0;
  try {
    const auto [scratch_bytes, upload_bytes] = sizes();
    std::vector<char> scratch(scratch_bytes, static_cast<char>(0x7f)), upload(upload_bytes, static_cast<char>(0x7f));
    run(scratch.data(), scratch.size(), upload.data(), upload.size());
  } catch (const std::exception& error) {
    message = error.what();
  }
  return message.c_str();
}

}  // namespace

extern "C" const char* fused_image(const dalipipe::FusedImageParams* p) {
  using namespace dalipipe;
  return call([&] { return std::pair(fused_image_cuda_scratch_bytes(*p), fused_image_cuda_upload_bytes(*p)); },
              [&](auto... room) { fused_image_cuda(*p, room..., nullptr); });
}

extern "C" const char* elastic(const dalipipe::ElasticField* fields, int32_t n) {
  using namespace dalipipe;
  return call([&] { return std::pair(elastic_cuda_scratch_bytes(fields, n), elastic_cuda_upload_bytes(fields, n)); },
              [&](auto... room) { elastic_cuda(fields, n, room..., nullptr); });
}

// Kernels started by the last call.
extern "C" int launches() { return cuda_on_cpu::launches; }
