// Random numbers of a picture's elements (NoiseKey, ops.h), and what becomes of their bits. Written once for host and
// device, mirrored operation by operation by `dalipipe.ops.filtering`: + - * / and bits alone.
#pragma once

#include <cstdint>

#include "ops.h"
#include "philox.h"
#include "pixel.h"
#include "tensor.h"

namespace dalipipe {

// The words of elements 4 * block ... 4 * block + 3.
DP_HD Philox4 noise_block(const NoiseKey& key, uint32_t block) {
  return philox4x32({{key.counter[0], key.counter[1], key.counter[2], kElementBlock + block}}, key.key[0], key.key[1]);
}

DP_HD uint32_t noise_word(const NoiseKey& key, uint64_t e) {
  const Philox4 four = noise_block(key, static_cast<uint32_t>(e >> 2));
  const uint32_t first = e & 1 ? four.word[1] : four.word[0], second = e & 1 ? four.word[3] : four.word[2];
  return e & 2 ? second : first;  // an index would put the words in memory on a GPU
}

// A word → [0, 1), in steps of 2^-24.
DP_HD float unit(uint32_t word) { return static_cast<float>(static_cast<int32_t>(word >> 8)) * 0x1p-24f; }

// A word → a standard normal, by the inverse of its distribution: the top bit is the sign, the rest the share q of
// normals that lie further out. With x = 1 - q = erf(|z| / √2), z / x is a smooth function of -log2(1 - x²) alone
// (Giles, "Approximating the erfinv function", GPU Computing Gems, 2011); a quotient of polynomials fits it over all
// that 32 bits can give, |z| < 6.4. Off by less than 4e-5.
DP_HD float normal(uint32_t word) {
  const float q = static_cast<float>(static_cast<int32_t>(word & 0x7fffffffu)) * 0x1p-31f + 0x1p-32f;
  const uint32_t bits = float_bits(q * (2.0f - q));  // of 1 - x²
  const float exponent = static_cast<float>(static_cast<int32_t>(bits >> 23) - 127);
  const float f = bits_float((bits & 0x7fffffu) | 0x3f800000u) - 1.0f;
  const float log2 =
      exponent + f * (1.4419656f + f * (-0.7096628f + f * (0.4175958f + f * (-0.19626966f + f * 0.046385374f))));
  const float l = 0.0f - log2;
  const float upper = 1.2531407f + l * (0.30478853f + l * (0.04135857f + l * (0.0038175236f + l * 1.4025701e-05f)));
  const float lower = 1.0f + l * (0.061167862f + l * (0.01624095f + l * 0.00031699325f));
  const float z = (1.0f - q) * (upper / lower);
  return bits_float(float_bits(z) | (word & 0x80000000u));
}

DP_HD float normal_element(const NoiseKey& key, uint64_t e) { return normal(noise_word(key, e)); }

}  // namespace dalipipe
