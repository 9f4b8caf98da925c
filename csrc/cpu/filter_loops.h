// The loops of FilterKernels. A target's .cpp defines DP_TARGET (attributes) and kVectorBytes (of a register) and
// includes this in its anonymous namespace.

static inline int32_t whole(int32_t elements) {
  return (elements + kFilterPadding - 1) / kFilterPadding * kFilterPadding;
}

DP_TARGET void widen(const uint8_t* __restrict in, int32_t elements, float* __restrict out) {
  for (int32_t e = 0; e < whole(elements); ++e) out[e] = in[e];
}

// A register of floats, anywhere in memory.
typedef float Lanes __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));

DP_TARGET void weighted_sum(const float* const* taps, const float* weights, int32_t n, int32_t elements, float* out) {
  static_assert(sizeof(Lanes[4]) == kVectorBytes * sizeof(float) && kVectorBytes <= kSumBlock, "four at a time");
  for (int32_t e = 0; e < elements; e += kVectorBytes) {
    const Lanes* in = reinterpret_cast<const Lanes*>(taps[0] + e);
    Lanes a = weights[0] * in[0], b = weights[0] * in[1], c = weights[0] * in[2], d = weights[0] * in[3];
    for (int32_t k = 1; k < n; ++k) {
      const float weight = weights[k];
      in = reinterpret_cast<const Lanes*>(taps[k] + e);
      a += weight * in[0];
      b += weight * in[1];
      c += weight * in[2];
      d += weight * in[3];
    }
    Lanes* to = reinterpret_cast<Lanes*>(out + e);
    to[0] = a;
    to[1] = b;
    to[2] = c;
    to[3] = d;
  }
}

DP_TARGET void round_even(const float* __restrict in, int32_t elements, uint8_t* __restrict out) {
  for (int32_t e = 0; e < whole(elements); ++e) out[e] = round_even_byte(in[e]);
}

DP_TARGET void sharpen_row(const Sharpen& a, const uint8_t* __restrict above, const uint8_t* __restrict here,
                           const uint8_t* __restrict below, int32_t channels, int32_t elements,
                           uint8_t* __restrict out) {
  constexpr int32_t kBlock = 512;  // in steps as narrow as their numbers
  const Sharpen by = a;
  uint16_t three[kBlock + 2 * kFilterPadding];
  uint8_t smooth[kBlock];
  for (int32_t e = channels; e < elements - channels; e += kBlock) {
    const int32_t left = e - channels, here_n = elements - channels - e < kBlock ? elements - channels - e : kBlock;
    const int32_t n = whole(here_n), summed = whole(here_n + 2 * channels);
    for (int32_t i = 0; i < summed; ++i) {
      three[i] = static_cast<uint16_t>(above[left + i] + here[left + i] + below[left + i]);
    }
    for (int32_t i = summed; i < n + 2 * channels; ++i) three[i] = 0;  // for what is past the end
    for (int32_t i = 0; i < n; ++i) {
      smooth[i] = smooth_byte(
          static_cast<uint16_t>(three[i] + three[i + channels] + three[i + 2 * channels] + 4 * here[e + i]));
    }
    for (int32_t i = 0; i < n; ++i) out[e + i] = sharpen(by, here[e + i], smooth[i]);
  }
  for (int32_t e = 0; e < channels; ++e) {
    out[e] = here[e];
    out[elements - 1 - e] = here[elements - 1 - e];
  }
}

DP_TARGET void words(const NoiseKey& key, uint32_t block, int32_t blocks, uint32_t* __restrict out) {
  const NoiseKey k = key;
  for (int32_t b = 0; b < blocks; ++b) {
    const Philox4 four = noise_block(k, block + b);
    for (int32_t i = 0; i < 4; ++i) out[4 * b + i] = four.word[i];
  }
}

DP_TARGET void signed_units(const uint32_t* words, int32_t n, float* out) {
  for (int32_t e = 0; e < n; ++e) out[e] = 2.0f * unit(words[e]) - 1.0f;
}

DP_TARGET void normals(const uint32_t* __restrict words, int32_t n, float* __restrict out) {
  for (int32_t e = 0; e < n; ++e) out[e] = normal(words[e]);
}

DP_TARGET void noise_row(const uint8_t* __restrict in, const uint32_t* __restrict words, int32_t elements, float mean,
                         float sigma, uint8_t* __restrict out) {
  for (int32_t e = 0; e < elements; ++e) out[e] = add_noise(in[e], mean, sigma, words[e]);
}

DP_TARGET void salt_pepper_row(const uint8_t* __restrict in, const uint32_t* __restrict words, int32_t channels,
                               int32_t width, float amount, float salted, uint8_t* __restrict out) {
  constexpr int32_t kBlock = 512;
  uint8_t keep[kBlock], set[kBlock];
  for (int32_t x = 0; x < width; x += kBlock) {
    const int32_t n = width - x < kBlock ? width - x : kBlock;
    for (int32_t i = 0; i < n; ++i) {
      keep[i] = is_set(amount, words[x + i]) ? 0 : 255;
      set[i] = is_salt(salted, words[x + i]) ? 255 : 0;
    }
    const uint8_t* from = in + static_cast<int64_t>(x) * channels;
    uint8_t* to = out + static_cast<int64_t>(x) * channels;
    if (channels == 1) {
      for (int32_t i = 0; i < n; ++i) to[i] = (from[i] & keep[i]) | set[i];
    } else {
      for (int32_t i = 0; i < n; ++i) {
        to[3 * i] = (from[3 * i] & keep[i]) | set[i];
        to[3 * i + 1] = (from[3 * i + 1] & keep[i]) | set[i];
        to[3 * i + 2] = (from[3 * i + 2] & keep[i]) | set[i];
      }
    }
  }
}

DP_TARGET void grid_row(const float* values, int32_t y, int32_t width, uint8_t* __restrict out) {
  float v[6];
  memcpy(v, values, sizeof v);
  for (int32_t x = 0; x < width; ++x) out[x] = grid_hole(v, x, y);
}

DP_TARGET void to_ycc(const uint8_t* __restrict rgb, int32_t width, uint8_t* __restrict y, uint8_t* __restrict cb,
                      uint8_t* __restrict cr) {
  for (int32_t x = 0; x < width; ++x) {
    const int32_t r = rgb[3 * x], g = rgb[3 * x + 1], b = rgb[3 * x + 2];
    y[x] = static_cast<uint8_t>(jpeg_y(r, g, b));
    cb[x] = static_cast<uint8_t>(jpeg_cb(r, g, b));
    cr[x] = static_cast<uint8_t>(jpeg_cr(r, g, b));
  }
}

DP_TARGET void to_rgb(const uint8_t* __restrict y, const uint8_t* __restrict cb, const uint8_t* __restrict cr,
                      int32_t width, uint8_t* __restrict rgb) {
  for (int32_t x = 0; x < width; ++x) {
    rgb[3 * x] = jpeg_r(y[x], cr[x]);
    rgb[3 * x + 1] = jpeg_g(y[x], cb[x], cr[x]);
    rgb[3 * x + 2] = jpeg_b(y[x], cb[x]);
  }
}

DP_TARGET void halve(const uint8_t* __restrict upper, const uint8_t* __restrict lower, int32_t width,
                     uint8_t* __restrict out) {
  for (int32_t x = 0; x < width; ++x) {
    const int32_t sum = upper[2 * x] + upper[2 * x + 1] + lower[2 * x] + lower[2 * x + 1];
    out[x] = static_cast<uint8_t>(jpeg_halve(sum, x));
  }
}

DP_TARGET void twice(const uint8_t* __restrict near, const uint8_t* __restrict far, int32_t width,
                     int32_t* __restrict sums, uint8_t* __restrict out) {
  for (int32_t x = 0; x < width; ++x) sums[x + 1] = jpeg_double_down(near[x], far[x]);
  sums[0] = sums[1];
  sums[width + 1] = sums[width];
  for (int32_t x = 0; x < width; ++x) {
    out[2 * x] = static_cast<uint8_t>(jpeg_double_across(sums[x + 1], sums[x], 0));
    out[2 * x + 1] = static_cast<uint8_t>(jpeg_double_across(sums[x + 1], sums[x + 2], 1));
  }
}

template <void (*transform)(int32_t (&)[8])>
DP_TARGET void rows(int32_t* strip, int32_t width) {
  for (int32_t e = 0; e < 8 * width; e += 8) {
    int32_t v[8];
    for (int32_t k = 0; k < 8; ++k) v[k] = strip[e + k];
    transform(v);
    for (int32_t k = 0; k < 8; ++k) strip[e + k] = v[k];
  }
}

template <void (*transform)(int32_t (&)[8])>
DP_TARGET void columns(int32_t* strip, int32_t width) {
  for (int32_t x = 0; x < width; ++x) {
    int32_t v[8];
    for (int32_t k = 0; k < 8; ++k) v[k] = strip[k * width + x];
    transform(v);
    for (int32_t k = 0; k < 8; ++k) strip[k * width + x] = v[k];
  }
}

DP_TARGET void requantise(uint8_t* plane, int32_t stride, int32_t width, const int32_t* quantisers, int32_t* strip) {
  for (int32_t y = 0; y < 8; ++y) {
    for (int32_t x = 0; x < width; ++x) strip[y * width + x] = plane[y * stride + x] - 128;
  }
  rows<jpeg_fdct_row>(strip, width);
  columns<jpeg_fdct_column>(strip, width);
  for (int32_t y = 0; y < 8; ++y) {
    int32_t by[8];
    float inverse[8];
    for (int32_t k = 0; k < 8; ++k) {
      by[k] = quantisers[8 * y + k];
      inverse[k] = jpeg_inverse(by[k]);
    }
    for (int32_t x = 0; x < width; x += 8) {
      for (int32_t k = 0; k < 8; ++k) {
        int32_t& v = strip[y * width + x + k];
        v = jpeg_level(v, by[k], inverse[k]) * by[k];
      }
    }
  }
  columns<jpeg_idct_column>(strip, width);
  rows<jpeg_idct_row>(strip, width);
  for (int32_t y = 0; y < 8; ++y) {
    for (int32_t x = 0; x < width; ++x) plane[y * stride + x] = jpeg_sample(strip[y * width + x]);
  }
}

#define FILTER_LOOPS                                                                                                \
  widen, weighted_sum, round_even, sharpen_row, words, normals, signed_units, noise_row, salt_pepper_row, grid_row, \
      to_ycc, to_rgb, halve, twice, requantise
