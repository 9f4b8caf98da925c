// Rows to columns.
#pragma once

#include <algorithm>
#include <cstdint>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace dalipipe {

// out[c * out_step + r] = in[r * in_step + c] for r of `rows`, c of `columns`. By 16 rows, so that whole cache lines
// are written, and within them by squares of four.
inline void transpose(const float* in, int64_t in_step, int32_t rows, int32_t columns, float* out, int64_t out_step) {
  constexpr int32_t kRows = 16;
  for (int32_t top = 0; top < rows; top += kRows) {
    const int32_t end = std::min(top + kRows, rows);
    int32_t c = 0;
#if defined(__SSE__)
    for (; c + 4 <= columns && end - top == kRows; c += 4) {
      for (int32_t r = top; r < end; r += 4) {
        const float* from = in + r * in_step + c;
        float* to = out + c * out_step + r;
        __m128 v0 = _mm_loadu_ps(from), v1 = _mm_loadu_ps(from + in_step);
        __m128 v2 = _mm_loadu_ps(from + 2 * in_step), v3 = _mm_loadu_ps(from + 3 * in_step);
        _MM_TRANSPOSE4_PS(v0, v1, v2, v3);
        _mm_storeu_ps(to, v0);
        _mm_storeu_ps(to + out_step, v1);
        _mm_storeu_ps(to + 2 * out_step, v2);
        _mm_storeu_ps(to + 3 * out_step, v3);
      }
    }
#endif
    for (; c < columns; ++c) {
      for (int32_t r = top; r < end; ++r) out[c * out_step + r] = in[r * in_step + c];
    }
  }
}

}  // namespace dalipipe
