// Runs one target over mutations of the files until the time is up; built with sanitizers, see run.py:
//
//   fuzz TARGET SECONDS RANDOM_SEED FILE...
//
// With -DLIBFUZZER_TARGET=fuzz_tar, say, it is an entry for libFuzzer instead.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "fuzz.h"

#ifdef LIBFUZZER_TARGET
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) { return LIBFUZZER_TARGET(data, size), 0; }
#else
extern "C" void __sanitizer_set_death_callback(void (*callback)());

namespace {

struct Target {
  std::string name;
  void (*run)(const uint8_t* data, size_t size);
};
// To see that a byte too far is seen.
[[maybe_unused]] void overrun(const uint8_t* data, size_t size) {
  const auto exact = exactly(data, size);
  require(const_cast<volatile uint8_t*>(exact.get())[size] < 256, "a byte is less than 256");
}

#ifdef FUZZ_PASSES  // a program of its own
const Target targets[] = {{"passes", fuzz_passes}};
#else
const Target targets[] = {{"probe", fuzz_probe},     {"tar", fuzz_tar},       {"tfrecord", fuzz_tfrecord},
                          {"example", fuzz_example}, {"jpeg", fuzz_jpeg},     {"device", fuzz_device},
                          {"audio", fuzz_audio},     {"tokens", fuzz_tokens}, {"overrun", overrun}};
#endif

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
      default: {  // a piece of another seed
        const Blob& other = seeds[below(seeds.size())];
        const size_t from = below(other.size()), count = std::min<size_t>(1 + random() % 64, other.size() - from);
        blob.insert(blob.begin() + place(), other.begin() + from, other.begin() + from + count);
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) return std::fprintf(stderr, "usage: %s TARGET SECONDS RANDOM_SEED FILE...\n", argv[0]), 2;
  const auto target = std::find_if(std::begin(targets), std::end(targets), [&](auto& t) { return argv[1] == t.name; });
  if (target == std::end(targets)) return std::fprintf(stderr, "no target %s\n", argv[1]), 2;
  std::vector<Blob> seeds;
  for (int i = 4; i < argc; ++i) {
    std::ifstream file(argv[i], std::ios::binary);
    seeds.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  __sanitizer_set_death_callback(&report);
  std::mt19937_64 random(std::strtoull(argv[3], nullptr, 10));
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(std::atof(argv[2]));
  for (; run % 256 || std::chrono::steady_clock::now() < end; ++run) {
    current = seeds[run % seeds.size()];
    if (run >= seeds.size()) mutate(current, seeds, random);
    target->run(current.data(), current.size());
  }
  std::printf("%s: %llu runs, nothing found\n", argv[1], static_cast<unsigned long long>(run));
}
#endif
