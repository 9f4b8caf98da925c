// The loops over a JPEG's samples for AVX2, 16 numbers at a time.
#include "jpeg/samples.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#include <cstring>

#define DP_TARGET __attribute__((target("avx2")))
#define DP_INLINE static inline __attribute__((target("avx2"), always_inline))

namespace dalipipe {
namespace {

// Two constants for the numbers of a pair.
DP_INLINE __m256i both(int16_t a, int16_t b) {
  return _mm256_set1_epi32(
      static_cast<int32_t>(static_cast<uint32_t>(static_cast<uint16_t>(b)) << 16 | static_cast<uint16_t>(a)));
}
// a's and b's eight numbers by turns.
DP_INLINE __m256i paired(__m128i a, __m128i b) {
  return _mm256_set_m128i(_mm_unpackhi_epi16(a, b), _mm_unpacklo_epi16(a, b));
}

// Eight vectors of eight numbers of 16 bits → their jpeg_idct, cut to 16 bits.
template <int kBits>
DP_INLINE void transform(__m128i (&v)[8]) {
  const __m256i v04 = paired(v[0], v[4]), v26 = paired(v[2], v[6]), v71 = paired(v[7], v[1]), v53 = paired(v[5], v[3]);
  const __m256i half = _mm256_set1_epi32(1 << (kBits - 1));
  const __m256i e = _mm256_madd_epi16(v26, both(4433, -10704)), f = _mm256_madd_epi16(v26, both(10703, 4433));
  const __m256i sum = _mm256_add_epi32(_mm256_madd_epi16(v04, both(8192, 8192)), half);
  const __m256i difference = _mm256_add_epi32(_mm256_madd_epi16(v04, both(8192, -8192)), half);
  const __m256i s[4] = {_mm256_add_epi32(sum, f), _mm256_add_epi32(difference, e), _mm256_sub_epi32(difference, e),
                        _mm256_sub_epi32(sum, f)};
  const __m256i d[4] = {
      _mm256_add_epi32(_mm256_madd_epi16(v71, both(2260, 11363)), _mm256_madd_epi16(v53, both(6437, 9633))),
      _mm256_add_epi32(_mm256_madd_epi16(v71, both(-6436, 9633)), _mm256_madd_epi16(v53, both(-11362, -2259))),
      _mm256_add_epi32(_mm256_madd_epi16(v71, both(9633, 6437)), _mm256_madd_epi16(v53, both(2261, -11362))),
      _mm256_add_epi32(_mm256_madd_epi16(v71, both(-11363, 2260)), _mm256_madd_epi16(v53, both(9633, -6436)))};
  for (int i = 0; i < 4; ++i) {
    const __m256i above = _mm256_srai_epi32(_mm256_add_epi32(s[i], d[i]), kBits);
    const __m256i below = _mm256_srai_epi32(_mm256_sub_epi32(s[i], d[i]), kBits);
    const __m256i two = _mm256_permute4x64_epi64(_mm256_packs_epi32(above, below), 0xD8);
    v[i] = _mm256_castsi256_si128(two);
    v[7 - i] = _mm256_extracti128_si256(two, 1);
  }
}

DP_INLINE void transpose(__m128i (&v)[8]) {
  __m128i a[8], b[8];
  for (int i = 0; i < 4; ++i) {
    a[2 * i] = _mm_unpacklo_epi16(v[i], v[i + 4]);
    a[2 * i + 1] = _mm_unpackhi_epi16(v[i], v[i + 4]);
  }
  for (int i = 0; i < 4; ++i) {
    b[2 * i] = _mm_unpacklo_epi16(a[i], a[i + 4]);
    b[2 * i + 1] = _mm_unpackhi_epi16(a[i], a[i + 4]);
  }
  for (int i = 0; i < 4; ++i) {
    v[2 * i] = _mm_unpacklo_epi16(b[i], b[i + 4]);
    v[2 * i + 1] = _mm_unpackhi_epi16(b[i], b[i + 4]);
  }
}

DP_TARGET void idct(int16_t* levels, const int16_t* quantisers, uint8_t* out, int64_t stride) {
  __m128i* const rows = reinterpret_cast<__m128i*>(levels);
  const __m128i* const by = reinterpret_cast<const __m128i*>(quantisers);
  const __m128i zero = _mm_setzero_si128(), but_first = _mm_setr_epi16(0, -1, -1, -1, -1, -1, -1, -1);
  __m128i v[8], rest = zero;
  for (int k = 0; k < 8; ++k) {
    rest = _mm_or_si128(rest, k == 0 ? _mm_and_si128(rows[0], but_first) : rows[k]);
    v[k] = _mm_mullo_epi16(rows[k], by[k]);
    rows[k] = zero;
  }
  if (_mm_testz_si128(rest, rest)) {  // most blocks of smooth pictures
    const int32_t coefficient = static_cast<int16_t>(_mm_extract_epi16(v[0], 0));
    const uint64_t samples = jpeg_sample(jpeg_flat(coefficient)) * 0x0101010101010101ull;
    for (int y = 0; y < 8; ++y) std::memcpy(out + y * stride, &samples, 8);
    return;
  }
  transform<11>(v);
  transpose(v);
  transform<18>(v);
  transpose(v);
  const __m128i middle = _mm_set1_epi16(128);
  for (int y = 0; y < 8; y += 2) {
    const __m128i bytes = _mm_packus_epi16(_mm_adds_epi16(v[y], middle), _mm_adds_epi16(v[y + 1], middle));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out + y * stride), bytes);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out + (y + 1) * stride), _mm_unpackhi_epi64(bytes, bytes));
  }
}

DP_INLINE __m256i load_bytes(const uint8_t* p) {  // 16, as 16 bits each
  return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
DP_INLINE __m256i load(const uint16_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
DP_INLINE __m256i three(__m256i a) { return _mm256_add_epi16(a, _mm256_slli_epi16(a, 1)); }
DP_INLINE __m256i add(__m256i a, __m256i b, int16_t c) {
  return _mm256_add_epi16(_mm256_add_epi16(a, b), _mm256_set1_epi16(c));
}
// 16 numbers below 256 at even places, 16 at odd ones.
DP_INLINE void store_by_turns(uint8_t* out, __m256i even, __m256i odd) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_or_si256(even, _mm256_slli_epi16(odd, 8)));
}

DP_TARGET void double_across(const uint8_t* row, int32_t width, uint8_t* out) {
  for (int32_t x = 1; x < width - 1; x += 16) {
    const __m256i here = three(load_bytes(row + x));
    store_by_turns(out + 2 * x, _mm256_srli_epi16(add(here, load_bytes(row + x - 1), 1), 2),
                   _mm256_srli_epi16(add(here, load_bytes(row + x + 1), 2), 2));
  }
  for (int32_t x = 0; x < width; x += width > 1 ? width - 1 : 1) {  // both ends
    out[2 * x] = static_cast<uint8_t>(jpeg_double(row[x], row[x > 0 ? x - 1 : 0], 0));
    out[2 * x + 1] = static_cast<uint8_t>(jpeg_double(row[x], row[x + 1 < width ? x + 1 : x], 1));
  }
}

DP_TARGET void double_down(const uint8_t* near, const uint8_t* far, int32_t width, int32_t y, uint8_t* out) {
  for (int32_t x = 0; x < width; x += 16) {
    const __m256i sum = add(three(load_bytes(near + x)), load_bytes(far + x), static_cast<int16_t>(1 + (y & 1)));
    const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packus_epi16(_mm256_srli_epi16(sum, 2), sum), 0xD8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + x), _mm256_castsi256_si128(bytes));
  }
}

DP_TARGET void double_both(const uint8_t* near, const uint8_t* far, int32_t width, uint16_t* sums, uint8_t* out) {
  for (int32_t x = 0; x < width; x += 16) {
    const __m256i sum = _mm256_add_epi16(three(load_bytes(near + x)), load_bytes(far + x));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + x + 1), sum);
  }
  sums[0] = sums[1];
  sums[width + 1] = sums[width];
  for (int32_t x = 0; x < width; x += 16) {
    const __m256i here = three(load(sums + x + 1));
    store_by_turns(out + 2 * x, _mm256_srli_epi16(add(here, load(sums + x), 8), 4),
                   _mm256_srli_epi16(add(here, load(sums + x + 2), 7), 4));
  }
}

// Half of `twice` times the fraction (of 2^16), to nearest.
DP_INLINE __m256i half_of(__m256i twice, int16_t fraction) {
  const __m256i product = _mm256_mulhi_epi16(twice, _mm256_set1_epi16(fraction));
  return _mm256_srai_epi16(_mm256_add_epi16(product, _mm256_set1_epi16(1)), 1);
}

// 16 pixels. With the constants' whole parts taken out, 16 bits hold the rest; what is rounded is the same.
DP_TARGET void to_rgb(const uint8_t* y, const uint8_t* cb, const uint8_t* cr, int32_t width, uint8_t* rgb) {
  const __m256i middle = _mm256_set1_epi16(128), half = _mm256_set1_epi32(1 << 15);
  const __m256i to_green = _mm256_set1_epi32((65536 - 46802) << 16 | (-22554 & 0xFFFF));  // of cb, of cr
  // Bytes of R, G and B in each of the three registers that their triples fill.
  const __m128i take[3][3] = {{_mm_setr_epi8(0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1, -1, 5),
                               _mm_setr_epi8(-1, 0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1, -1),
                               _mm_setr_epi8(-1, -1, 0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1)},
                              {_mm_setr_epi8(-1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1, 10, -1),
                               _mm_setr_epi8(5, -1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1, 10),
                               _mm_setr_epi8(-1, 5, -1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1)},
                              {_mm_setr_epi8(-1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15, -1, -1),
                               _mm_setr_epi8(-1, -1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15, -1),
                               _mm_setr_epi8(10, -1, -1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15)}};
  int32_t x = 0;
  for (; x < width; x += 16) {
    const __m256i luma = load_bytes(y + x);
    const __m256i blue = _mm256_sub_epi16(load_bytes(cb + x), middle),
                  red = _mm256_sub_epi16(load_bytes(cr + x), middle);
    const __m256i red2 = _mm256_add_epi16(red, red), blue2 = _mm256_add_epi16(blue, blue);
    const __m256i r = _mm256_add_epi16(luma, _mm256_add_epi16(red, half_of(red2, 91881 - 65536)));
    const __m256i b = _mm256_add_epi16(luma, _mm256_add_epi16(blue2, half_of(blue2, 116130 - 131072)));
    const __m256i low = _mm256_madd_epi16(_mm256_unpacklo_epi16(blue, red), to_green);
    const __m256i high = _mm256_madd_epi16(_mm256_unpackhi_epi16(blue, red), to_green);
    const __m256i green = _mm256_packs_epi32(_mm256_srai_epi32(_mm256_add_epi32(low, half), 16),
                                             _mm256_srai_epi32(_mm256_add_epi32(high, half), 16));
    const __m256i g = _mm256_add_epi16(luma, _mm256_sub_epi16(green, red));
    const __m256i rg = _mm256_permute4x64_epi64(_mm256_packus_epi16(r, g), 0xD8);
    const __m256i bb = _mm256_permute4x64_epi64(_mm256_packus_epi16(b, b), 0xD8);
    const __m128i parts[3] = {_mm256_castsi256_si128(rg), _mm256_extracti128_si256(rg, 1), _mm256_castsi256_si128(bb)};
    alignas(16) uint8_t last[48];
    uint8_t* const to = x + 16 <= width ? rgb + 3 * x : last;
    for (int i = 0; i < 3; ++i) {
      const __m128i triples =
          _mm_or_si128(_mm_or_si128(_mm_shuffle_epi8(parts[0], take[i][0]), _mm_shuffle_epi8(parts[1], take[i][1])),
                       _mm_shuffle_epi8(parts[2], take[i][2]));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 16 * i), triples);
    }
    if (to == last) std::memcpy(rgb + 3 * x, last, 3 * static_cast<size_t>(width - x));
  }
}

constexpr JpegKernels kKernels = {"avx2", idct, double_across, double_down, double_both, to_rgb};

}  // namespace

const JpegKernels* avx2_jpeg_kernels() { return __builtin_cpu_supports("avx2") ? &kKernels : nullptr; }

}  // namespace dalipipe
#else
const dalipipe::JpegKernels* dalipipe::avx2_jpeg_kernels() { return nullptr; }
#endif
