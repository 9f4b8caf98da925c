// Feeds mutated images to the header probe. A libFuzzer target, and with FUZZ_MAIN a program that needs no libFuzzer:
//
//   probe SECONDS RANDOM_SEED FILE...      mutates the files until the time is up; built with sanitizers, see run.py
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "io.h"

namespace {

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken promise: %s\n", what);
  std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::unique_ptr<uint8_t[]> exact(new uint8_t[size]);  // its own allocation: a byte too far is seen
  if (size > 0) std::memcpy(exact.get(), data, size);
  const dalipipe::ImageHeader header = dalipipe::probe_image(exact.get(), size);
  require(header.kind >= 0 && header.kind <= static_cast<int32_t>(dalipipe::ImageKind::pnm), "kind");
  require(header.height >= 0 && header.width >= 0, "height, width");
  require(header.channels >= 0 && header.channels <= 65535 && header.bits >= 0 && header.bits <= 65535,
          "channels, bits");
  require(header.orientation >= 1 && header.orientation <= 8, "orientation");
  require(header.kind != 0 || (header.height == 0 && header.width == 0 && header.flags == 0), "unknown is empty");
  return 0;
}

#ifdef FUZZ_MAIN
extern "C" void __sanitizer_set_death_callback(void (*callback)());

namespace {

using Blob = std::vector<uint8_t>;
Blob current;
uint64_t run = 0;

void report() {
  std::ofstream("fuzz-crash.bin", std::ios::binary)
      .write(reinterpret_cast<const char*>(current.data()), current.size());
  std::fprintf(stderr, "run %llu; its input is in fuzz-crash.bin\n", static_cast<unsigned long long>(run));
}

// Changes bytes, lengths and pieces, mostly near the start, where the headers are.
void mutate(Blob& blob, const std::vector<Blob>& seeds, std::mt19937_64& random) {
  const auto below = [&](size_t n) { return n == 0 ? 0 : random() % n; };
  const auto place = [&] {
    return random() % 4 ? below(std::min<size_t>(blob.size(), 64u << random() % 5)) : below(blob.size());
  };
  static const uint8_t edges[] = {0, 1, 2, 0x7F, 0x80, 0xC0, 0xD8, 0xD9, 0xDA, 0xFE, 0xFF};
  for (uint64_t i = 0, n = 1 + random() % 6; i < n && !blob.empty(); ++i) {
    switch (random() % 7) {
      case 0: blob[place()] = static_cast<uint8_t>(random()); break;
      case 1: blob[place()] = edges[random() % sizeof(edges)]; break;
      case 2: blob[place()] ^= static_cast<uint8_t>(1u << random() % 8); break;
      case 3: blob.resize(below(blob.size() + 1)); break;
      case 4: blob.insert(blob.begin() + place(), edges[random() % sizeof(edges)]); break;
      case 5: {
        const size_t at = place();
        blob.erase(blob.begin() + at, blob.begin() + at + std::min<size_t>(1 + random() % 16, blob.size() - at));
        break;
      }
      default: {  // a piece of another image
        const Blob& other = seeds[below(seeds.size())];
        const size_t from = below(other.size()), count = std::min<size_t>(1 + random() % 64, other.size() - from);
        blob.insert(blob.begin() + place(), other.begin() + from, other.begin() + from + count);
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return std::fprintf(stderr, "usage: %s SECONDS RANDOM_SEED FILE...\n", argv[0]), 2;
  std::vector<Blob> seeds;
  for (int i = 3; i < argc; ++i) {
    std::ifstream file(argv[i], std::ios::binary);
    seeds.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  __sanitizer_set_death_callback(&report);
  std::mt19937_64 random(std::strtoull(argv[2], nullptr, 10));
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(std::atof(argv[1]));
  for (; run % 256 || std::chrono::steady_clock::now() < end; ++run) {
    current = seeds[run % seeds.size()];
    if (run >= seeds.size()) mutate(current, seeds, random);
    LLVMFuzzerTestOneInput(current.data(), current.size());
  }
  std::printf("%llu runs, nothing found\n", static_cast<unsigned long long>(run));
}
#endif
