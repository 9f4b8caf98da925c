// What targets share that make their parameters from the input.
#pragma once

#include <limits>
#include <list>
#include <memory>
#include <stdexcept>

#include "fuzz.h"
#include "ops.h"

namespace dalipipe {

// Choices, one byte each; zeros where the input has ended. Of the fields that may be odd, none, one or two are.
class Choices {
 public:
  Choices(const uint8_t* data, size_t size) : data_(data), size_(size) {
    for (int i = 0, n = byte() % 3; i < n; ++i) odd_[i] = (byte() << 8 | byte()) % 512;
  }

  uint8_t byte() { return at_ < size_ ? data_[at_++] : 0; }
  int32_t in(int32_t low, int32_t high) { return low + byte() % (high - low + 1); }
  int32_t side() { return byte() % 8 ? in(1, 40) : in(1, 255); }
  float real(float low, float high) { return low + (high - low) * static_cast<float>(byte()) / 255.0f; }

  // What it should be; or now and then something else.
  template <typename T>
  T odd(T sane) {
    static const int64_t edges[] = {0, 1, -1, 2, 3, 7, -7, 255, 65535, 1 << 20, (1 << 20) + 1, INT32_MAX, INT32_MIN};
    return is_odd() ? static_cast<T>(edges[byte() % 13]) : sane;
  }
  float odd(float sane) {
    using Limits = std::numeric_limits<float>;
    static const float edges[] = {0.0f,
                                  -0.0f,
                                  1.0f,
                                  -1.0f,
                                  0.5f,
                                  1e6f,
                                  -1e6f,
                                  3e9f,
                                  -3e9f,
                                  Limits::max(),
                                  Limits::lowest(),
                                  Limits::denorm_min(),
                                  Limits::infinity(),
                                  -Limits::infinity(),
                                  Limits::quiet_NaN()};
    return is_odd() ? edges[byte() % 15] : sane;
  }

 private:
  bool is_odd() {
    const int32_t field = asked_++;
    return field == odd_[0] || field == odd_[1];
  }

  const uint8_t* data_;
  size_t size_, at_ = 0;
  int32_t odd_[2] = {-1, -1}, asked_ = 0;
};

// Memory of its own for everything that an operator is pointed to.
class Memory {
 public:
  template <typename T>
  T* make(int64_t count) {
    blocks_.emplace_back(new uint8_t[count * sizeof(T)]());
    return reinterpret_cast<T*>(blocks_.back().get());
  }
  uint8_t* noise(int64_t bytes, uint32_t seed) {
    uint8_t* to = make<uint8_t>(bytes);
    for (int64_t i = 0; i < bytes; ++i) to[i] = static_cast<uint8_t>((seed = seed * 1664525u + 1013904223u) >> 24);
    return to;
  }

 private:
  std::list<std::unique_ptr<uint8_t[]>> blocks_;
};

// False if it was refused.
template <typename Call>
bool takes(const Call& call) {
  try {
    call();
    return true;
  } catch (const std::invalid_argument& error) {
    require(error.what()[0] != 0, "a refusal says why");
    return false;
  }
}

inline void draw_key(Choices& c, NoiseKey& key) { key = {{c.byte(), c.byte()}, {c.byte(), 0xffffffffu, c.byte()}}; }

void fuzz_chains(Choices& c, Memory& memory);  // signals.cpp: chains over signals

}  // namespace dalipipe
