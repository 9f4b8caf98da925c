// csrc/cuda/token.cu on the host, for ctypes.
#include "../../csrc/cpu/token_check.cpp"
#include "../../csrc/cuda/token.cu"

namespace {

constexpr size_t kGuard = 4096;
constexpr char kGarbage = 0x7f;

// Calls run(scratch, bytes, upload, bytes), which begin as garbage, as on a device. Returns "" or what was thrown.
template <typename Sizes, typename Run>
const char* call(const Sizes& sizes, const Run& run) {
  static std::string message;
  message.clear();
  cuda_on_cpu::launches = 0;
  try {
    const dalipipe::TokenBytes bytes = sizes();
    std::vector<char> scratch(bytes.scratch + kGuard, kGarbage), upload(bytes.upload + kGuard, kGarbage);
    run(scratch.data(), bytes.scratch, upload.data(), bytes.upload);
    for (size_t i = 1; i <= kGuard; ++i) {
      if (*(scratch.end() - i) != kGarbage || *(upload.end() - i) != kGarbage) throw std::logic_error("overrun");
    }
  } catch (const std::exception& error) {
    message = error.what();
  }
  return message.c_str();
}

}  // namespace

extern "C" const char* edit_tokens(const dalipipe::TokenParams* p) {
  using namespace dalipipe;
  return call([&] { return edit_tokens_cuda_bytes(*p); },
              [&](auto... room) { edit_tokens_cuda(*p, room..., nullptr); });
}

extern "C" const char* count_rows(const dalipipe::TokenRows* r, int32_t* lengths) {
  using namespace dalipipe;
  return call([&] { return rows_cuda_bytes(*r); },
              [&](auto... room) { count_rows_cuda(*r, lengths, room..., nullptr); });
}

extern "C" const char* write_rows(const dalipipe::TokenRows* r, const dalipipe::TokenTable* to) {
  using namespace dalipipe;
  return call([&] { return rows_cuda_bytes(*r); }, [&](auto... room) { write_rows_cuda(*r, *to, room..., nullptr); });
}

// Kernels started by the last call.
extern "C" int launches() { return cuda_on_cpu::launches; }
