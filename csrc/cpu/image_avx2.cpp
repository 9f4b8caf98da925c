// AVX2 row loops (with F16C, which every AVX2 processor has): Haswell, Zen and later.
#include "cpu/image_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#define DP_TARGET __attribute__((target("avx2,f16c")))
#define DP_INLINE DP_TARGET static inline __attribute__((always_inline))

namespace dalipipe {
namespace {

constexpr int kLanes = 8;
using Ints = __m256i;
using Floats = __m256;

DP_INLINE Ints ints(int32_t v) { return _mm256_set1_epi32(v); }
DP_INLINE Floats floats(float v) { return _mm256_set1_ps(v); }
DP_INLINE Floats lane_numbers() { return _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7); }
DP_INLINE Ints load(const int16_t* aligned) { return _mm256_load_si256((const Ints*)aligned); }
DP_INLINE Floats load(const float* aligned) { return _mm256_load_ps(aligned); }
DP_INLINE Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
DP_INLINE Floats sub(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
DP_INLINE Floats mul(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
DP_INLINE Floats load_any(const float* from) { return _mm256_loadu_ps(from); }
DP_INLINE Floats div(Floats a, Floats b) { return _mm256_div_ps(a, b); }
DP_INLINE Floats min(Floats a, Floats b) { return _mm256_min_ps(a, b); }  // b if either is NaN; so max
DP_INLINE Floats max(Floats a, Floats b) { return _mm256_max_ps(a, b); }
DP_INLINE Floats if_equal(Floats a, Floats b, Floats yes, Floats no) {
  return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_EQ_OQ));
}
DP_INLINE Floats if_less(Floats a, Floats b, Floats yes, Floats no) {
  return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
DP_INLINE Floats floor(Floats v) { return _mm256_floor_ps(v); }
DP_INLINE Floats round_even(Floats v) { return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
DP_INLINE Floats to_floats(Ints v) { return _mm256_cvtepi32_ps(v); }
DP_INLINE Ints truncate(Floats v) { return _mm256_cvttps_epi32(v); }
DP_INLINE Ints add(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
DP_INLINE Ints mul(Ints a, Ints b) { return _mm256_mullo_epi32(a, b); }
DP_INLINE Ints byte(Ints v) { return _mm256_max_epi32(_mm256_min_epi32(v, ints(255)), ints(0)); }
DP_INLINE Ints shift_right(Ints v, int32_t bits) { return _mm256_sra_epi32(v, _mm_cvtsi32_si128(bits)); }
DP_INLINE Ints add_dot(Ints sum, Ints a, Ints b) { return add(sum, _mm256_madd_epi16(a, b)); }  // of int16 pairs
DP_INLINE Ints byte_of(Ints lanes, int c) { return _mm256_and_si256(_mm256_srli_epi32(lanes, 8 * c), ints(255)); }
DP_INLINE Ints gather(const uint8_t* from, Ints bytes) { return _mm256_i32gather_epi32((const int*)from, bytes, 1); }
DP_INLINE Ints widen(const uint8_t* row) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)row)); }
DP_INLINE __m128i join(Ints a) {  // int32 → uint16
  return _mm_packus_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
}
DP_INLINE void store_bytes(uint8_t* row, Ints v) {
  _mm_storel_epi64((__m128i*)row, _mm_packus_epi16(join(v), _mm_setzero_si128()));
}
DP_INLINE void store_bytes(uint8_t* row, Ints a, Ints b, Ints c, Ints d) {  // clamped to 0 ... 255
  const Ints packed = _mm256_packus_epi16(_mm256_packus_epi32(a, b), _mm256_packus_epi32(c, d));
  const Ints order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256((Ints*)row, _mm256_permutevar8x32_epi32(packed, order));
}

// Eight RGB pixels, four in either half of a register. Channel c of them, as int32:
DP_INLINE Ints pick(Ints rgb, int c) {
  const Ints first = _mm256_setr_epi8(0, -1, -1, -1, 3, -1, -1, -1, 6, -1, -1, -1, 9, -1, -1, -1,  //
                                      0, -1, -1, -1, 3, -1, -1, -1, 6, -1, -1, -1, 9, -1, -1, -1);
  return _mm256_shuffle_epi8(rgb, _mm256_add_epi8(first, ints(c)));
}
DP_INLINE Ints load_rgb(const uint8_t* row) {
  const __m128i upper = _mm_loadu_si128((const __m128i*)(row + 12));
  return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i*)row)), upper, 1);
}
DP_INLINE Ints pack_rgb(Ints a, Ints b, Ints c) {  // clamped to 0 ... 255
  const Ints packed = _mm256_packus_epi16(_mm256_packus_epi32(a, b), _mm256_packus_epi32(c, c));
  return _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 7, 5, 2, 6, 7));
}
DP_INLINE Ints pick_packed(Ints packed, int c) { return pick(packed, c); }
DP_INLINE void store_rgb(uint8_t* row, Ints r, Ints g, Ints b) {
  const Ints rgbx = _mm256_or_si256(r, _mm256_or_si256(_mm256_slli_epi32(g, 8), _mm256_slli_epi32(b, 16)));
  const Ints order = _mm256_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1,  //
                                      0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
  const Ints rgb = _mm256_shuffle_epi8(rgbx, order);
  const __m128i upper = _mm256_extracti128_si256(rgb, 1);
  _mm_storeu_si128((__m128i*)row, _mm256_castsi256_si128(rgb));
  _mm_storel_epi64((__m128i*)(row + 12), upper);
  const int32_t last = _mm_extract_epi32(upper, 2);
  memcpy(row + 20, &last, sizeof last);
}

DP_INLINE void store_planes(const uint8_t* row, uint8_t* to, int64_t plane) {
  const Ints rgb = load_rgb(row);
  for (int c = 0; c < 3; ++c) store_bytes(to + c * plane, pick(rgb, c));
}

// Casts a register of values and stores it.
DP_INLINE void put_bits(uint16_t* to, __m128i bits, bool stream) {
  stream ? _mm_stream_si128((__m128i*)to, bits) : _mm_storeu_si128((__m128i*)to, bits);
}
DP_INLINE void put(Cast<DType::float16>, uint16_t* to, Floats v, bool stream) {
  put_bits(to, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), stream);
}
DP_INLINE void put(Cast<DType::bfloat16>, uint16_t* to, Floats v, bool stream) {
  const Ints bits = _mm256_castps_si256(v);
  const Ints odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), ints(1));
  const Ints rounded = add(bits, add(odd, ints(0x7fff)));
  put_bits(to, join(_mm256_srli_epi32(rounded, 16)), stream);
}
DP_INLINE void put(Cast<DType::float32>, float* to, Floats v, bool stream) {
  stream ? _mm256_stream_ps(to, v) : _mm256_storeu_ps(to, v);
}

#include "cpu/image_vector.h"

DP_TARGET void horizontal(const Taps& taps, const Gather& gather, int32_t, const uint8_t* const* rows, int64_t ahead,
                          int16_t* const* pairs) {
  constexpr int kRows = 4;  // whose sums and look-ups fit into sixteen registers
  const Ints half = ints(half_unit(taps.precision));
  const int32_t* start = gather.start.data();
  for (int first = 0; first < kBlockRows; first += kRows) {
    const uint8_t* const* in = rows + first;
    int32_t fetched = -64;
    for (int32_t group = 0; group < gather.groups; ++group) {
      Ints sum[kRows] = {half, half, half, half};
      for (int32_t step = start[group]; step < start[group + 1]; ++step) {
        const Ints index = _mm256_load_si256((const Ints*)(gather.index.data() + static_cast<int64_t>(step) * 32));
        const Ints weight = load(gather.weight.data() + static_cast<int64_t>(step) * 16);
        const int32_t* base = gather.base.data() + static_cast<int64_t>(step) * 2;
        for (int r = 0; r < kRows; ++r) {
          const __m128i lower = _mm_loadu_si128((const __m128i*)(in[r] + base[0]));
          const __m128i upper = _mm_loadu_si128((const __m128i*)(in[r] + base[1]));
          const Ints bytes = _mm256_inserti128_si256(_mm256_castsi128_si256(lower), upper, 1);
          sum[r] = add_dot(sum[r], weight, _mm256_shuffle_epi8(bytes, index));
        }
      }
      if (start[group + 1] > start[group]) {  // the next rows' lines, one cache line every few groups
        const int32_t base = gather.base.data()[static_cast<int64_t>(start[group]) * 2];
        if (base >= fetched + 64) {
          fetched = base;
          for (int r = 0; r < kRows; ++r) _mm_prefetch((const char*)(in[r] + ahead + base), _MM_HINT_T0);
        }
      }
      for (int m = 0; m < kRows / 2; ++m) {
        const Ints even = byte(shift_right(sum[2 * m], taps.precision));
        const Ints odd = byte(shift_right(sum[2 * m + 1], taps.precision));
        _mm256_store_si256((Ints*)(pairs[first / 2 + m] + group * 2 * kLanes),
                           _mm256_or_si256(even, _mm256_slli_epi32(odd, 16)));
      }
    }
  }
}

DP_TARGET void mirror(const uint8_t* row, int32_t channels, int32_t width, uint8_t* out) {
  const int32_t step = channels == 3 ? 5 : 16;  // pixels a register holds
  const __m128i order = channels == 3 ? _mm_setr_epi8(-1, 12, 13, 14, 9, 10, 11, 6, 7, 8, 3, 4, 5, 0, 1, 2)
                                      : _mm_setr_epi8(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const int32_t spare = channels == 3;  // a byte that a register has too many: the next pixel's, which comes before
  int32_t x = 0;
  for (; x + step + spare <= width; x += step) {
    const __m128i turned = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i*)(row + x * channels)), order);
    _mm_storeu_si128((__m128i*)(out + (width - x - step) * channels - spare), turned);
  }
  scalar_kernels.mirror(row + x * channels, channels, width - x, out);
}

}  // namespace

const ImageKernels* avx2_kernels() {
  static const ImageKernels kernels = {
      "avx2", kLanes,         2, horizontal, vertical, warp, colour_row, hue_row, scalar_kernels.look_up, mirror,
      finish, vertical_finish};
  return __builtin_cpu_supports("avx2") ? &kernels : nullptr;
}

}  // namespace dalipipe
#else
const dalipipe::ImageKernels* dalipipe::avx2_kernels() { return nullptr; }
#endif
