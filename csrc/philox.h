// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a counter and a key in, four
// words out, no state. `dalipipe.rng` holds the same ten rounds in numpy; tests hold both to Random123's vectors, and
// says what counters hold.
#pragma once

#include <cstdint>

#include "tensor.h"

namespace dalipipe {

struct Philox4 {
  uint32_t word[4];
};

DP_HD Philox4 philox4x32(Philox4 counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = 0xD2511F53ull * counter.word[0];
    const uint64_t b = 0xCD9E8D57ull * counter.word[2];
    counter = {{static_cast<uint32_t>(b >> 32) ^ counter.word[1] ^ key0, static_cast<uint32_t>(b),
                static_cast<uint32_t>(a >> 32) ^ counter.word[3] ^ key1, static_cast<uint32_t>(a)}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

}  // namespace dalipipe
