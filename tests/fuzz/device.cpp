// Feeds mutated JPEGs of tiles to the CUDA decoder, compiled for the host: what is damaged, and the pixels of what is
// not, must be as the decoder on the host has them. The device's memory is the heap, so a byte too far is seen.
#include <algorithm>
#include <vector>

#include "../../csrc/cuda/jpeg.cu"
#include "fuzz.h"
#include "jpeg/strip.h"
#include "jpeg/tiles.h"
#include "shards.h"

using namespace dalipipe;

namespace {

// Heap memory of so many bytes, no more, from a multiple of 16 on; garbage.
std::unique_ptr<uint8_t[]> device_memory(size_t bytes) {
  std::unique_ptr<uint8_t[]> memory(new uint8_t[bytes]);
  require(reinterpret_cast<uintptr_t>(memory.get()) % 16 == 0, "memory is aligned");
  std::fill_n(memory.get(), bytes, 0x7F);
  return memory;
}

}  // namespace

void fuzz_device(const uint8_t* data, size_t size) {
  const uint32_t chance = crc32c(data, size);
  const auto exact = exactly(data, size);
  JpegFile file(exact.get(), size);
  if (!file.next_scan() || static_cast<int64_t>(file.height) * file.width > 1 << 15) return;
  Region r{0, 0, file.height, file.width};
  if (chance & 1) {
    r.y = static_cast<int32_t>(chance / 2 % file.height);
    r.x = static_cast<int32_t>(chance / 14 % file.width);
    r.h = 1 + static_cast<int32_t>(chance / 98 % (file.height - r.y));
    r.w = 1 + static_cast<int32_t>(chance / 686 % (file.width - r.x));
  }
  Stripping stripping;
  read_tiles(exact.get(), size, chance & 2 ? &r : nullptr, stripping);
  std::vector<uint8_t> expected(static_cast<size_t>(r.h) * r.w * 3);
  const char* wrong = read_jpeg(exact.get(), size, r, expected.data());
  if (stripping.why_not) return;

  const auto stripped = device_memory(static_cast<size_t>(stripping.bytes));
  write_stripped(stripping, stripped.get());
  const size_t row_bytes = static_cast<size_t>(rgb_row_bytes(r.w));
  const auto pixels = device_memory(row_bytes * r.h);
  const uint64_t jpeg = reinterpret_cast<uintptr_t>(stripped.get()), out = reinterpret_cast<uintptr_t>(pixels.get());
  for (const bool only_damage : {false, true}) {
    const DecodeTilesParams p{&jpeg, &stripping.head.shape, &r, only_damage ? nullptr : &out, 1};
    const size_t upload_bytes = decode_tiles_upload_bytes(1), scratch_bytes = decode_tiles_scratch_bytes(p);
    const auto upload = device_memory(upload_bytes), pinned = device_memory(upload_bytes);
    const auto scratch = device_memory(scratch_bytes);
    decode_tiles_cuda(p, upload.get(), pinned.get(), upload_bytes, scratch.get(), scratch_bytes, nullptr);
    int32_t damaged;
    std::memcpy(&damaged, pinned.get(), 4);
    require((damaged != 0) == (wrong != nullptr), "the same is damaged");
  }
  if (wrong) return;
  for (int32_t y = 0; y < r.h; ++y) {
    require(std::equal(expected.begin() + y * int64_t{3} * r.w, expected.begin() + (y + 1) * int64_t{3} * r.w,
                       pixels.get() + y * row_bytes),
            "the same pixels");
  }
}
