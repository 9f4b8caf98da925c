#include "jpeg/ones.h"

#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace dalipipe {
namespace {

const uint8_t* find_plain(const uint8_t* from, const uint8_t* end) {
  while (from < end) {
    from = static_cast<const uint8_t*>(std::memchr(from, 0xFF, static_cast<size_t>(end - from)));
    if (!from) break;
    if (from + 1 == end || from[1] != 0) return from;
    from += 2;
  }
  return end;
}

uint8_t* copy_plain(const uint8_t* from, const uint8_t* end, uint8_t* to) {
  while (from < end) {
    const uint8_t byte = *to++ = *from++;
    if (byte == 0xFF && from < end && *from == 0) ++from;
  }
  return to;
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) const uint8_t* find_avx2(const uint8_t* from, const uint8_t* end) {
  const __m256i ones = _mm256_set1_epi8(-1), none = _mm256_setzero_si256();
  const auto found = [&](const uint8_t* at) __attribute__((target("avx2"))) {
    const __m256i here = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
    const __m256i next = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at + 1));
    return _mm256_andnot_si256(_mm256_cmpeq_epi8(next, none), _mm256_cmpeq_epi8(here, ones));
  };
  for (; end - from > 64; from += 64) {
    const __m256i a = found(from), b = found(from + 32);
    if (_mm256_testz_si256(_mm256_or_si256(a, b), ones)) continue;
    const uint64_t low = static_cast<uint32_t>(_mm256_movemask_epi8(a));
    return from + __builtin_ctzll(static_cast<uint64_t>(_mm256_movemask_epi8(b)) << 32 | low);
  }
  return find_plain(from, end);
}

__attribute__((target("avx2"))) uint8_t* copy_avx2(const uint8_t* from, const uint8_t* end, uint8_t* to) {
  const __m256i ones = _mm256_set1_epi8(-1);
  while (end - from > 32) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bytes);
    const uint32_t at = static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(bytes, ones)));
    const int32_t n = at ? __builtin_ctz(at) + 1 : 32;
    from += n, to += n;
    from += at && *from == 0;
  }
  return copy_plain(from, end, to);
}

__attribute__((target("avx512f,avx512bw,avx512vbmi2,popcnt"))) uint8_t* copy_vbmi2(const uint8_t* from,
                                                                                   const uint8_t* end, uint8_t* to) {
  const __m512i ones = _mm512_set1_epi8(-1);
  uint64_t behind_ones = 0;  // bit 0: whether the next byte is
  while (from < end) {
    const int64_t n = end - from < 64 ? end - from : 64;
    const uint64_t there = ~0ull >> (64 - n);
    const __m512i bytes = _mm512_maskz_loadu_epi8(there, from);
    const uint64_t are_ones = _mm512_cmpeq_epi8_mask(bytes, ones);
    const uint64_t kept = there & ~(_mm512_testn_epi8_mask(bytes, bytes) & (are_ones << 1 | behind_ones));
    const int64_t count = __builtin_popcountll(kept);
    if (count > 0) {
      _mm512_mask_storeu_epi8(to, ~0ull >> (64 - count), _mm512_maskz_compress_epi8(kept, bytes));
    }
    behind_ones = are_ones >> 63;
    from += n, to += count;
  }
  return to;
}

const bool has_avx2 = __builtin_cpu_supports("avx2"), has_vbmi2 = __builtin_cpu_supports("avx512vbmi2");
#endif

}  // namespace

const uint8_t* find_marker(const uint8_t* from, const uint8_t* end, int32_t level) {
#if defined(__x86_64__)
  if (has_avx2 && level >= 1) return find_avx2(from, end);
#endif
  return find_plain(from, end);
}

uint8_t* copy_unstuffed(const uint8_t* from, const uint8_t* end, uint8_t* to, int32_t level) {
#if defined(__x86_64__)
  if (has_vbmi2 && level >= 2) return copy_vbmi2(from, end, to);
  if (has_avx2 && level >= 1) return copy_avx2(from, end, to);
#endif
  return copy_plain(from, end, to);
}

}  // namespace dalipipe
