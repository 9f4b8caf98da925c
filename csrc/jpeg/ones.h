// Bytes of ones, which begin JPEG's markers: where data has them, and data without the zeros that are stuffed behind
// those that begin none.
#pragma once

#include <cstdint>

namespace dalipipe {

// Which instructions are used, at most: 0: any processor's, 1: AVX2, 2: AVX-512 VBMI2. What is found is the same.
constexpr int32_t kBestOnes = 2;

// The first byte of ones that no zero follows, a marker's or the last byte of all; `end` where there is none.
const uint8_t* find_marker(const uint8_t* from, const uint8_t* end, int32_t level = kBestOnes);

// Copies without the zero behind each byte of ones; returns where the copy ends. Writes no further than the copy could
// be long.
uint8_t* copy_unstuffed(const uint8_t* from, const uint8_t* end, uint8_t* to, int32_t level = kBestOnes);

}  // namespace dalipipe
