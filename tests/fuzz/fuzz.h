// What fuzz targets share. A target takes any bytes; what it finds wrong, beside what the sanitizers find, it
// `require`s.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken promise: %s\n", what);
  std::abort();
}

// A copy in its own allocation: a byte too far is seen.
inline std::unique_ptr<uint8_t[]> exactly(const uint8_t* data, size_t size) {
  std::unique_ptr<uint8_t[]> exact(new uint8_t[size]);
  if (size > 0) std::memcpy(exact.get(), data, size);
  return exact;
}

void fuzz_probe(const uint8_t* data, size_t size);     // image headers
void fuzz_tar(const uint8_t* data, size_t size);       // the index of tar shards
void fuzz_tfrecord(const uint8_t* data, size_t size);  // the index of TFRecord files
void fuzz_example(const uint8_t* data, size_t size);   // tf.train.Example messages
void fuzz_jpeg(const uint8_t* data, size_t size);      // JPEGs transcoded, cut and decoded
void fuzz_device(const uint8_t* data, size_t size);    // JPEGs decoded by the CUDA kernels, compiled for the host
void fuzz_audio(const uint8_t* data, size_t size);     // audio headers, and WAV files read
void fuzz_passes(const uint8_t* data, size_t size);    // batches of pictures, labels and pairs
void fuzz_tokens(const uint8_t* data, size_t size);    // batches of texts, and rows of them
