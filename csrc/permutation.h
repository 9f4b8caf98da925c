// A keyed bijection on [0, n): a Feistel network over the smallest power of two >= n, with cycle walking (Black,
// Rogaway: "Ciphers with arbitrary finite domains", CT-RSA 2002). `dalipipe.rng.Permutation` makes the round keys.
#pragma once

#include <cstdint>

#include "tensor.h"

namespace dalipipe {

constexpr int kFeistelRounds = 8;

struct Permutation {
  uint64_t n;                   // at least 1
  int32_t low_bits, high_bits;  // together as many as n - 1 has, at least two
  uint64_t round_keys[kFeistelRounds];
};

// SplitMix64's finaliser.
DP_HD uint64_t scramble(uint64_t x, uint64_t round_key) {
  x += round_key;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

// Once through the network, for `count` of 2^(low_bits + high_bits) values: side by side, since each round waits for
// the one before it.
template <int count>
DP_HD void feistel(const Permutation& p, uint64_t (&x)[count]) {
  const uint64_t low_mask = (uint64_t{1} << p.low_bits) - 1, high_mask = (uint64_t{1} << p.high_bits) - 1;
  uint64_t low[count], high[count];
  for (int k = 0; k < count; ++k) low[k] = x[k] & low_mask, high[k] = x[k] >> p.low_bits;
  for (int round = 0; round < kFeistelRounds; round += 2) {
    for (int k = 0; k < count; ++k) high[k] ^= scramble(low[k], p.round_keys[round]) & high_mask;
    for (int k = 0; k < count; ++k) low[k] ^= scramble(high[k], p.round_keys[round + 1]) & low_mask;
  }
  for (int k = 0; k < count; ++k) x[k] = high[k] << p.low_bits | low[k];
}

// Position in [0, n) → index in [0, n). What lands at n or above goes round again, fewer than two turns on average.
DP_HD uint64_t permute(const Permutation& p, uint64_t position) {
  uint64_t x[1] = {position};
  do feistel(p, x);
  while (x[0] >= p.n);
  return x[0];
}

}  // namespace dalipipe
