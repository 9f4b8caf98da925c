// The row loops that vector targets share. A target's .cpp defines, before it includes this, in its anonymous
// namespace: DP_TARGET and DP_INLINE (attributes), kLanes, Ints and Floats (registers of kLanes int32 or float) and the
// small functions used below. Each loop is pixel.h's formula with every scalar made a register.

DP_INLINE Floats lerp(Floats a, Floats b, Floats t) { return add(a, mul(sub(b, a), t)); }
DP_INLINE Floats clamp(Floats v, float low, float high) { return min(max(v, floats(low)), floats(high)); }  // NaN → low
DP_INLINE Ints round_byte(Floats v) { return truncate(add(v, floats(0.5f))); }
DP_INLINE Floats level(Ints rgbx, int c) { return to_floats(byte_of(rgbx, c)); }

DP_TARGET void vertical(const int16_t* const* pairs, const int16_t* weights, int32_t n, int32_t elements,
                        int32_t precision, uint8_t* row) {
  const Ints half = ints(half_unit(precision));
  for (int32_t e = 0; e < elements; e += 4 * kLanes) {
    Ints a = half, b = half, c = half, d = half;
    for (int32_t m = 0; m < n; ++m) {
      const Ints weight = ints(load_pair(weights + 2 * m));
      const int16_t* in = pairs[m] + 2 * static_cast<int64_t>(e);
      a = add_dot(a, weight, load(in));
      b = add_dot(b, weight, load(in + 2 * kLanes));
      c = add_dot(c, weight, load(in + 4 * kLanes));
      d = add_dot(d, weight, load(in + 6 * kLanes));
    }
    store_bytes(row + e, shift_right(a, precision), shift_right(b, precision), shift_right(c, precision),
                shift_right(d, precision));
  }
}

DP_INLINE Floats cubic(Floats a, Floats b, Floats c, Floats d, Floats t) {
  const Floats square = add(mul(floats(2.0f), sub(a, b)), sub(c, d)), cube = add(sub(b, a), sub(d, c));
  return add(b, mul(t, add(sub(c, a), mul(t, add(square, mul(t, cube))))));
}

DP_INLINE void sample_bicubic(const Canvas& canvas, int32_t channels, Ints at, Floats tx, Floats ty, Ints (&out)[3]) {
  Floats rows[4][3];
  for (int r = 0; r < 4; ++r) {
    const uint8_t* from = canvas.origin + (r - 1) * canvas.stride;
    const Ints a = gather(from - channels, at), b = gather(from, at);
    const Ints c = gather(from + channels, at), d = gather(from + 2 * channels, at);
    for (int k = 0; k < channels; ++k) rows[r][k] = cubic(level(a, k), level(b, k), level(c, k), level(d, k), tx);
  }
  for (int k = 0; k < channels; ++k) {
    out[k] = round_byte(clamp(cubic(rows[0][k], rows[1][k], rows[2][k], rows[3][k], ty), 0.0f, 255.0f));
  }
}

// kLanes pixels' taps around `at` (bytes from the canvas's origin), in all channels.
DP_INLINE void sample_bilinear(const Canvas& canvas, int32_t channels, Ints at, Floats tx, Floats ty, Ints (&out)[3]) {
  const uint8_t* upper = canvas.origin;
  const uint8_t* lower = canvas.origin + canvas.stride;
  const Ints a = gather(upper, at), b = gather(upper + channels, at);
  const Ints c = gather(lower, at), d = gather(lower + channels, at);
  for (int k = 0; k < channels; ++k) {
    out[k] = round_byte(lerp(lerp(level(a, k), level(b, k), tx), lerp(level(c, k), level(d, k), tx), ty));
  }
}

DP_INLINE Floats row_of(const float* m, Floats x, Floats y) {
  return add(add(mul(floats(m[0]), x), mul(floats(m[1]), y)), floats(m[2]));
}

DP_TARGET void warp(const Canvas& canvas, const ImagePass& s, int32_t channels, int32_t y, int32_t from, int32_t width,
                    uint8_t* row) {
  const float* m = s.matrix;
  const bool nearest = s.warp == static_cast<int32_t>(Warp::nearest);
  const bool bicubic = s.warp == static_cast<int32_t>(Warp::bicubic);
  const bool projective = is_projective(m);
  const float reach = bicubic ? 2.0f : 1.0f;
  const float right = static_cast<float>(canvas.width - 1) + reach;
  const float bottom = static_cast<float>(canvas.height - 1) + reach;
  const float* moved = reinterpret_cast<const float*>(s.displacement);
  if (moved != nullptr) moved += static_cast<int64_t>(y) * s.out_w;
  int32_t x = from;
  for (; x + kLanes <= width; x += kLanes) {
    Floats fx = add(floats(static_cast<float>(x)), lane_numbers()), fy = floats(static_cast<float>(y));
    if (moved != nullptr) {
      fx = add(fx, load_any(moved + x));
      fy = add(fy, load_any(moved + x + static_cast<int64_t>(s.out_h) * s.out_w));
    }
    Floats at_x = row_of(m, fx, fy), at_y = row_of(m + 3, fx, fy);
    if (projective) {
      const Floats w = row_of(m + 6, fx, fy);
      at_x = div(at_x, w);
      at_y = div(at_y, w);
    }
    at_x = clamp(at_x, -reach, right);
    at_y = clamp(at_y, -reach, bottom);
    const Floats left = nearest ? round_even(at_x) : floor(at_x), top = nearest ? round_even(at_y) : floor(at_y);
    const Ints at = add(mul(truncate(top), ints(canvas.stride)), mul(truncate(left), ints(channels)));
    Ints out[3] = {};
    if (nearest) {
      const Ints rgbx = gather(canvas.origin, at);
      for (int k = 0; k < channels; ++k) out[k] = byte_of(rgbx, k);
    } else if (bicubic) {
      sample_bicubic(canvas, channels, at, sub(at_x, left), sub(at_y, top), out);
    } else {
      sample_bilinear(canvas, channels, at, sub(at_x, left), sub(at_y, top), out);
    }
    uint8_t* to = row + static_cast<int64_t>(x) * channels;
    if (channels == 3) {
      store_rgb(to, out[0], out[1], out[2]);
    } else {
      store_bytes(to, out[0]);
    }
  }
  scalar_kernels.warp(canvas, s, channels, y, x, width, row);
}

DP_INLINE Ints colour(const float* m, float constant, Floats r, Floats g, Floats b) {
  const Floats rg = add(mul(floats(m[0]), r), mul(floats(m[1]), g));
  return truncate(clamp(add(add(rg, mul(floats(m[2]), b)), floats(constant)), 0.0f, 255.0f));
}

DP_TARGET void colour_row(const float* m, const float* constant, int32_t channels, int32_t from, int32_t width,
                          uint8_t* row) {
  int32_t x = from;
  for (; x + kLanes <= width; x += kLanes) {
    uint8_t* at = row + static_cast<int64_t>(x) * channels;
    if (channels == 3) {
      const Ints rgb = load_rgb(at);
      const Floats r = to_floats(pick(rgb, 0)), g = to_floats(pick(rgb, 1)), b = to_floats(pick(rgb, 2));
      store_rgb(at, colour(m, constant[0], r, g, b), colour(m + 3, constant[1], r, g, b),
                colour(m + 6, constant[2], r, g, b));
    } else {
      const Floats v = to_floats(widen(at));
      store_bytes(at, colour(m, constant[0], v, v, v));
    }
  }
  scalar_kernels.colour(m, constant, channels, x, width, row);
}

// pixel.h's turn_hue.
DP_TARGET void hue_row(float turns, int32_t from, int32_t width, uint8_t* row) {
  const Floats one = floats(1.0f), unit = floats(1.0f / 255.0f);
  int32_t x = from;
  for (; x + kLanes <= width; x += kLanes) {
    uint8_t* at = row + static_cast<int64_t>(x) * 3;
    const Ints rgb = load_rgb(at);
    const Floats r = mul(to_floats(pick(rgb, 0)), unit), g = mul(to_floats(pick(rgb, 1)), unit);
    const Floats b = mul(to_floats(pick(rgb, 2)), unit);
    const Floats high = max(max(r, g), b), range = sub(high, min(min(r, g), b));
    const Floats grey = floats(0.0f);  // the range of grey
    const Floats s = div(range, if_equal(range, grey, one, high)), divisor = if_equal(range, grey, one, range);
    const Floats rc = div(sub(high, r), divisor), gc = div(sub(high, g), divisor), bc = div(sub(high, b), divisor);
    const Floats green_first = if_equal(high, g, sub(add(rc, floats(2.0f)), bc), sub(add(gc, floats(4.0f)), rc));
    Floats h = add(mul(if_equal(high, r, sub(bc, gc), green_first), floats(1.0f / 6.0f)), one);
    h = add(if_less(h, one, h, sub(h, one)), floats(turns));
    h = if_less(h, floats(0.0f), add(h, one), if_less(h, one, h, sub(h, one)));
    const Floats h6 = mul(h, floats(6.0f)), whole = floor(h6), sf = mul(s, sub(h6, whole)), rest = sub(one, s);
    const Floats q = mul(sub(one, sf), high), t = mul(add(sf, rest), high), p = mul(rest, high);
    const Floats sector = if_less(whole, floats(6.0f), whole, sub(whole, floats(6.0f)));
    const auto by_sector = [&](Floats v0, Floats v1, Floats v2, Floats v3, Floats v4, Floats v5) DP_TARGET {
      const Floats upper = if_less(sector, floats(5.0f), if_less(sector, floats(4.0f), v3, v4), v5);
      const Floats lower = if_less(sector, floats(2.0f), if_less(sector, one, v0, v1), v2);
      const Floats value = mul(if_less(sector, floats(3.0f), lower, upper), floats(255.999f));
      return truncate(clamp(value, 0.0f, 255.0f));
    };
    store_rgb(at, by_sector(high, q, p, p, t, high), by_sector(t, high, high, q, p, p),
              by_sector(p, p, t, high, high, q));
  }
  scalar_kernels.hue(turns, x, width, row);
}

// Register q of three, normalised and cast; bytes go out as they came in.
template <typename C>
DP_INLINE void put(const Finish& f, int q, Ints v, typename C::type* to, bool stream) {
  if constexpr (sizeof(typename C::type) == 1) {
    store_bytes(to, v);
  } else {
    put(C{}, to, add(mul(to_floats(v), load(f.scale + kLanes * q)), load(f.bias + kLanes * q)), stream);
  }
}

// Elements e ... e + 3 * kLanes - 1 of a row, as far as there are, on their way out.
template <typename C>
DP_INLINE void write(const Finish& f, int32_t e, int32_t elements, const Ints (&v)[3], typename C::type* out) {
  for (int q = 0; q < 3; ++q) {
    typename C::type* to = f.plane ? out + q * f.plane + e / 3 : out + e + kLanes * q;
    const int32_t left = f.plane ? (elements - e) / 3 : elements - e - kLanes * q;
    if (left >= kLanes) {
      put<C>(f, q, v[q], to, f.stream);
    } else if (left > 0) {
      alignas(64) typename C::type last[kLanes];
      put<C>(f, q, v[q], last, false);
      memcpy(to, last, left * sizeof last[0]);
    }
  }
}

template <typename C>
DP_TARGET void finish_as(const Finish& f, const uint8_t* row, int32_t width, typename C::type* out) {
  const int32_t elements = width * f.p.channels;
  int32_t e = 0;
  if constexpr (sizeof(typename C::type) == 1) {
    if (!f.plane) {
      memcpy(out, row, elements);
      return;
    }
    for (; e + 3 * kLanes <= elements; e += 3 * kLanes) store_planes(row + e, out + e / 3, f.plane);
  }
  for (; e < elements; e += 3 * kLanes) {
    if (f.plane) {
      const Ints rgb = load_rgb(row + e);
      write<C>(f, e, elements, {pick(rgb, 0), pick(rgb, 1), pick(rgb, 2)}, out);
    } else {
      write<C>(f, e, elements, {widen(row + e), widen(row + e + kLanes), widen(row + e + 2 * kLanes)}, out);
    }
  }
}

template <typename C>
DP_TARGET void vertical_finish_as(const Finish& f, const int16_t* const* pairs, const int16_t* weights, int32_t n,
                                  int32_t precision, typename C::type* out) {
  const int32_t elements = f.p.out_w * f.p.channels;
  const Ints half = ints(half_unit(precision));
  for (int32_t e = 0; e < elements; e += 3 * kLanes) {
    Ints a = half, b = half, c = half;
    for (int32_t m = 0; m < n; ++m) {
      const Ints weight = ints(load_pair(weights + 2 * m));
      const int16_t* in = pairs[m] + 2 * static_cast<int64_t>(e);
      a = add_dot(a, weight, load(in));
      b = add_dot(b, weight, load(in + 2 * kLanes));
      c = add_dot(c, weight, load(in + 4 * kLanes));
    }
    a = shift_right(a, precision);
    b = shift_right(b, precision);
    c = shift_right(c, precision);
    if (f.plane) {
      const Ints rgb = pack_rgb(a, b, c);
      write<C>(f, e, elements, {pick_packed(rgb, 0), pick_packed(rgb, 1), pick_packed(rgb, 2)}, out);
    } else {
      write<C>(f, e, elements, {byte(a), byte(b), byte(c)}, out);
    }
  }
}

DP_TARGET void finish(const Finish& f, const uint8_t* row, int32_t width, void* out) {
  with_cast(f.p.dtype, [&](auto cast) {
    using C = decltype(cast);
    finish_as<C>(f, row, width, static_cast<typename C::type*>(out));
  });
}

DP_TARGET void vertical_finish(const Finish& f, const int16_t* const* pairs, const int16_t* weights, int32_t n,
                               int32_t precision, void* out) {
  with_cast(f.p.dtype, [&](auto cast) {
    using C = decltype(cast);
    vertical_finish_as<C>(f, pairs, weights, n, precision, static_cast<typename C::type*>(out));
  });
}
