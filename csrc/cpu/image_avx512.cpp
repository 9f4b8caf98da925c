// AVX-512 row loops, with VBMI for byte look-ups and VNNI for sums of two int16 products: Ice Lake, Zen 4 and later.
#include "cpu/image_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // g++'s own intrinsics begin with "undefined" registers
#endif
#include <immintrin.h>

#define DP_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni")))
#define DP_INLINE DP_TARGET static inline __attribute__((always_inline))

namespace dalipipe {
namespace {

constexpr int kLanes = 16;
using Ints = __m512i;
using Floats = __m512;

DP_INLINE Ints ints(int32_t v) { return _mm512_set1_epi32(v); }
DP_INLINE Floats floats(float v) { return _mm512_set1_ps(v); }
DP_INLINE Floats lane_numbers() { return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
DP_INLINE Ints load(const int16_t* aligned) { return _mm512_load_si512(aligned); }
DP_INLINE Floats load(const float* aligned) { return _mm512_load_ps(aligned); }
DP_INLINE Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
DP_INLINE Floats sub(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
DP_INLINE Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
DP_INLINE Floats load_any(const float* from) { return _mm512_loadu_ps(from); }
DP_INLINE Floats div(Floats a, Floats b) { return _mm512_div_ps(a, b); }
DP_INLINE Floats min(Floats a, Floats b) { return _mm512_min_ps(a, b); }  // b if either is NaN; so max
DP_INLINE Floats max(Floats a, Floats b) { return _mm512_max_ps(a, b); }
DP_INLINE Floats if_equal(Floats a, Floats b, Floats yes, Floats no) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ), no, yes);
}
DP_INLINE Floats if_less(Floats a, Floats b, Floats yes, Floats no) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}
DP_INLINE Floats floor(Floats v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
DP_INLINE Floats round_even(Floats v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
DP_INLINE Floats to_floats(Ints v) { return _mm512_cvtepi32_ps(v); }
DP_INLINE Ints truncate(Floats v) { return _mm512_cvttps_epi32(v); }
DP_INLINE Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
DP_INLINE Ints mul(Ints a, Ints b) { return _mm512_mullo_epi32(a, b); }
DP_INLINE Ints byte(Ints v) { return _mm512_max_epi32(_mm512_min_epi32(v, ints(255)), ints(0)); }
DP_INLINE Ints shift_right(Ints v, int32_t bits) { return _mm512_sra_epi32(v, _mm_cvtsi32_si128(bits)); }
DP_INLINE Ints add_dot(Ints sum, Ints a, Ints b) { return _mm512_dpwssd_epi32(sum, a, b); }  // of int16 pairs
DP_INLINE Ints byte_of(Ints lanes, int c) { return _mm512_and_si512(_mm512_srli_epi32(lanes, 8 * c), ints(255)); }
DP_INLINE Ints gather(const uint8_t* from, Ints bytes) { return _mm512_i32gather_epi32(bytes, from, 1); }
DP_INLINE Ints widen(const uint8_t* row) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)row)); }
DP_INLINE void store_bytes(uint8_t* row, Ints v) { _mm_storeu_si128((__m128i*)row, _mm512_cvtepi32_epi8(v)); }
DP_INLINE void store_bytes(uint8_t* row, Ints a, Ints b, Ints c, Ints d) {  // clamped to 0 ... 255
  const Ints packed = _mm512_packus_epi16(_mm512_packus_epi32(a, b), _mm512_packus_epi32(c, d));
  const Ints order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_storeu_si512(row, _mm512_permutexvar_epi32(order, packed));
}

// Where the channels of 16 RGB pixels stand in a register, as indices for the low bytes of int32 lanes: in a row's
// bytes and after pack_rgb; how lanes of RGBx become RGB bytes again, and RGB bytes the bytes of each channel.
struct alignas(64) Shuffles {
  uint8_t rgb[3][64], packed[3][64], from_rgbx[64], planes[64];
  constexpr Shuffles() : rgb(), packed(), from_rgbx(), planes() {
    for (int e = 0; e < 48; ++e) {
      const int c = e % 3, lane = e / 3;
      rgb[c][4 * lane] = static_cast<uint8_t>(e);
      packed[c][4 * lane] = static_cast<uint8_t>(e % 16 / 4 * 16 + e / 16 * 4 + e % 4);
      from_rgbx[e] = static_cast<uint8_t>(4 * lane + c);
      planes[16 * c + lane] = static_cast<uint8_t>(e);
    }
  }
};
constexpr Shuffles kShuffles;
constexpr __mmask64 kLowBytes = 0x1111111111111111;  // of int32 lanes
constexpr __mmask64 kEvenBytes = 0x5555555555555555;

DP_INLINE Ints load_rgb(const uint8_t* row) { return _mm512_loadu_si512(row); }
DP_INLINE Ints pick(Ints rgb, int c) {
  return _mm512_maskz_permutexvar_epi8(kLowBytes, _mm512_load_si512(kShuffles.rgb[c]), rgb);
}
DP_INLINE Ints pack_rgb(Ints a, Ints b, Ints c) {  // clamped to 0 ... 255
  return _mm512_packus_epi16(_mm512_packus_epi32(a, b), _mm512_packus_epi32(c, c));
}
DP_INLINE Ints pick_packed(Ints packed, int c) {
  return _mm512_maskz_permutexvar_epi8(kLowBytes, _mm512_load_si512(kShuffles.packed[c]), packed);
}
DP_INLINE void store_rgb(uint8_t* row, Ints r, Ints g, Ints b) {
  const Ints rgbx = _mm512_or_si512(r, _mm512_or_si512(_mm512_slli_epi32(g, 8), _mm512_slli_epi32(b, 16)));
  const Ints rgb = _mm512_permutexvar_epi8(_mm512_load_si512(kShuffles.from_rgbx), rgbx);
  // Not one masked store: what it leaves out would still hold up loads of the pixels behind it.
  _mm256_storeu_si256((__m256i*)row, _mm512_castsi512_si256(rgb));
  _mm_storeu_si128((__m128i*)(row + 32), _mm512_extracti32x4_epi32(rgb, 2));
}

DP_INLINE void store_planes(const uint8_t* row, uint8_t* to, int64_t plane) {
  const Ints planes = _mm512_permutexvar_epi8(_mm512_load_si512(kShuffles.planes), load_rgb(row));
  _mm_storeu_si128((__m128i*)to, _mm512_castsi512_si128(planes));
  _mm_storeu_si128((__m128i*)(to + plane), _mm512_extracti32x4_epi32(planes, 1));
  _mm_storeu_si128((__m128i*)(to + 2 * plane), _mm512_extracti32x4_epi32(planes, 2));
}

// Casts a register of values and stores it.
DP_INLINE void put_bits(uint16_t* to, __m256i bits, bool stream) {
  stream ? _mm256_stream_si256((__m256i*)to, bits) : _mm256_storeu_si256((__m256i*)to, bits);
}
DP_INLINE void put(Cast<DType::float16>, uint16_t* to, Floats v, bool stream) {
  put_bits(to, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), stream);
}
DP_INLINE void put(Cast<DType::bfloat16>, uint16_t* to, Floats v, bool stream) {
  const Ints bits = _mm512_castps_si512(v);
  const Ints odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), ints(1));
  const Ints rounded = add(bits, add(odd, ints(0x7fff)));
  put_bits(to, _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)), stream);
}
DP_INLINE void put(Cast<DType::float32>, float* to, Floats v, bool stream) {
  stream ? _mm512_stream_ps(to, v) : _mm512_storeu_ps(to, v);
}

#include "cpu/image_vector.h"

DP_TARGET void horizontal(const Taps& taps, const Gather& gather, int32_t, const uint8_t* const* rows, int64_t ahead,
                          int16_t* const* pairs) {
  const Ints half = ints(half_unit(taps.precision));
  const int32_t* start = gather.start.data();
  int32_t fetched = -64;
  for (int32_t group = 0; group < gather.groups; ++group) {
    Ints sum[kBlockRows], bytes[kBlockRows];
    for (int r = 0; r < kBlockRows; ++r) sum[r] = half;
    int32_t base = -1;
    for (int32_t step = start[group]; step < start[group + 1]; ++step) {
      const Ints index = _mm512_load_si512(gather.index.data() + static_cast<int64_t>(step) * 64);
      const Ints weight = _mm512_load_si512(gather.weight.data() + static_cast<int64_t>(step) * 32);
      if (gather.base.data()[step] != base) {  // most groups see all they need through one window
        base = gather.base.data()[step];
        for (int r = 0; r < kBlockRows; ++r) bytes[r] = _mm512_loadu_si512(rows[r] + base);
      }
      for (int r = 0; r < kBlockRows; ++r) {
        sum[r] = add_dot(sum[r], weight, _mm512_maskz_permutexvar_epi8(kEvenBytes, index, bytes[r]));
      }
    }
    if (base >= fetched + 64) {  // the next rows' lines, one cache line every few groups
      fetched = base;
      for (int r = 0; r < kBlockRows; ++r) _mm_prefetch((const char*)(rows[r] + ahead + base), _MM_HINT_T0);
    }
    for (int m = 0; m < kBlockRows / 2; ++m) {
      const Ints even = byte(shift_right(sum[2 * m], taps.precision));
      const Ints odd = byte(shift_right(sum[2 * m + 1], taps.precision));
      _mm512_store_si512(pairs[m] + group * 2 * kLanes, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
    }
  }
}

DP_TARGET void look_up(const uint8_t* table, int32_t channels, int32_t elements, uint8_t* row) {
  constexpr __mmask64 kEveryThird = 0x9249249249249249;  // a channel's bytes, from the first
  for (int32_t e = 0; e < elements; e += 64) {
    const __mmask64 inside = elements - e < 64 ? (1ull << (elements - e)) - 1 : ~0ull;
    const Ints v = _mm512_maskz_loadu_epi8(inside, row + e);
    const __mmask64 upper = _mm512_movepi8_mask(v);  // 128 and above
    Ints out = v;
    for (int32_t c = 0; c < channels; ++c) {
      const uint8_t* t = table + 256 * c;
      const Ints low = _mm512_permutex2var_epi8(_mm512_loadu_si512(t), v, _mm512_loadu_si512(t + 64));
      const Ints high = _mm512_permutex2var_epi8(_mm512_loadu_si512(t + 128), v, _mm512_loadu_si512(t + 192));
      const __mmask64 mine = channels == 1 ? ~0ull : kEveryThird << (c + 3 - e % 3) % 3;
      out = _mm512_mask_mov_epi8(out, mine, _mm512_mask_mov_epi8(low, upper, high));
    }
    _mm512_mask_storeu_epi8(row + e, inside, out);
  }
}

// The pixels of a register, in reverse order: 21 of three channels, or 64 of one.
struct alignas(64) Mirrors {
  uint8_t rgb[64], grey[64];
  constexpr Mirrors() : rgb(), grey() {
    for (int e = 0; e < 64; ++e) {
      rgb[e] = static_cast<uint8_t>(e < 63 ? 60 - e / 3 * 3 + e % 3 : 63);
      grey[e] = static_cast<uint8_t>(63 - e);
    }
  }
};
constexpr Mirrors kMirrors;

DP_TARGET void mirror(const uint8_t* row, int32_t channels, int32_t width, uint8_t* out) {
  const int32_t step = channels == 3 ? 21 : 64;
  const Ints order = _mm512_load_si512(channels == 3 ? kMirrors.rgb : kMirrors.grey);
  for (int32_t x = 0; x < width; x += step) {
    const int32_t count = width - x < step ? width - x : step, bytes = count * channels;
    const __mmask64 inside = bytes < 64 ? (1ull << bytes) - 1 : ~0ull;
    // What is short of a register stands at the end of one, so that it comes first when it is turned.
    const uint8_t* from = row + static_cast<int64_t>(x - (step - count)) * channels;
    const __mmask64 read = inside << (step - count) * channels;
    const Ints turned = _mm512_permutexvar_epi8(order, _mm512_maskz_loadu_epi8(read, from));
    _mm512_mask_storeu_epi8(out + static_cast<int64_t>(width - x - count) * channels, inside, turned);
  }
}

constexpr ImageKernels kKernels = {"avx512",   kLanes,  1,       horizontal, vertical, warp,
                                   colour_row, hue_row, look_up, mirror,     finish,   vertical_finish};

}  // namespace

const ImageKernels* avx512_kernels() {
  static const bool here = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                           __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni");
  return here ? &kKernels : nullptr;
}

}  // namespace dalipipe
#else
const dalipipe::ImageKernels* dalipipe::avx512_kernels() { return nullptr; }
#endif
