// The loops of SignalKernels. A target's .cpp defines DP_TARGET (attributes) and includes this in its anonymous
// namespace.

DP_TARGET void scale(const float* __restrict in, int64_t step, float gain, int32_t n, float* __restrict out) {
  if (step == 1) {
    for (int32_t t = 0; t < n; ++t) out[t] = in[t] * gain;
  } else if (step == -1) {
    for (int32_t t = 0; t < n; ++t) out[t] = in[-t] * gain;
  } else {
    for (int32_t t = 0; t < n; ++t) out[t] = in[t * step] * gain;
  }
}

DP_TARGET void line(double start, double rate, int32_t t, int32_t n, double* out) {
  for (int32_t k = 0; k < n; ++k) out[k] = line_position(start, rate, t + k);
}

DP_TARGET void segment(const CurveSegment& s, int32_t t, int32_t n, double* out) {
  const double begin = s.begin, c0 = s.c[0], c1 = s.c[1], c2 = s.c[2], c3 = s.c[3];
  for (int32_t k = 0; k < n; ++k) out[k] = segment_value(begin, c0, c1, c2, c3, t + k);
}

template <Edge edge>
DP_TARGET bool nearest_picks(const double* __restrict positions, int32_t frames, int32_t n, Picks* __restrict picks) {
  int32_t least = 0;
  for (int32_t k = 0; k < n; ++k) {
    const int32_t i = edge_index<edge>(nearest_frame(near_position(positions[k])), frames);
    picks->first[k] = i;
    least = i < least ? i : least;
  }
  return least < 0;
}

template <Edge edge>
DP_TARGET bool linear_picks(const double* __restrict positions, int32_t frames, int32_t n, Picks* __restrict picks) {
  int32_t least = 0;
  for (int32_t k = 0; k < n; ++k) {
    const double position = near_position(positions[k]), below = floor(position);
    const int32_t i = edge_index<edge>(below, frames), j = edge_index<edge>(below + 1.0, frames);
    picks->first[k] = i;
    picks->second[k] = j;
    picks->share[k] = static_cast<float>(position - below);
    const int32_t less = i < j ? i : j;
    least = less < least ? less : least;
  }
  return least < 0;
}

DP_TARGET bool nearest(int32_t edge, const double* positions, int32_t frames, int32_t n, Picks* picks) {
  switch (static_cast<Edge>(edge)) {
    case Edge::zero: return nearest_picks<Edge::zero>(positions, frames, n, picks);
    case Edge::hold: return nearest_picks<Edge::hold>(positions, frames, n, picks);
    case Edge::wrap: return nearest_picks<Edge::wrap>(positions, frames, n, picks);
    case Edge::mirror: return nearest_picks<Edge::mirror>(positions, frames, n, picks);
  }
  return false;
}

DP_TARGET bool linear(int32_t edge, const double* positions, int32_t frames, int32_t n, Picks* picks) {
  switch (static_cast<Edge>(edge)) {
    case Edge::zero: return linear_picks<Edge::zero>(positions, frames, n, picks);
    case Edge::hold: return linear_picks<Edge::hold>(positions, frames, n, picks);
    case Edge::wrap: return linear_picks<Edge::wrap>(positions, frames, n, picks);
    case Edge::mirror: return linear_picks<Edge::mirror>(positions, frames, n, picks);
  }
  return false;
}

// A signal has a frame 0, so that can be read whatever is picked.
template <bool outside>
DP_TARGET inline float pick(const float* in, int32_t i) {
  if (!outside) return in[i];
  const float x = in[i < 0 ? 0 : i];
  return i < 0 ? 0.0f : x;
}

template <bool outside>
DP_TARGET void pick_nearest_all(const float* __restrict in, const Picks& picks, float gain, int32_t n,
                                float* __restrict out) {
  const int32_t* __restrict first = picks.first;
  for (int32_t k = 0; k < n; ++k) out[k] = pick<outside>(in, first[k]) * gain;
}

template <bool outside>
DP_TARGET void pick_linear_all(const float* __restrict in, const Picks& picks, float gain, int32_t n,
                               float* __restrict out) {
  const int32_t* __restrict first = picks.first, * __restrict second = picks.second;
  const float* __restrict share = picks.share;
  for (int32_t k = 0; k < n; ++k) {
    out[k] = lerp(pick<outside>(in, first[k]), pick<outside>(in, second[k]), share[k]) * gain;
  }
}

DP_TARGET void pick_nearest(const float* in, const Picks& picks, bool outside, float gain, int32_t n, float* out) {
  outside ? pick_nearest_all<true>(in, picks, gain, n, out) : pick_nearest_all<false>(in, picks, gain, n, out);
}

DP_TARGET void pick_linear(const float* in, const Picks& picks, bool outside, float gain, int32_t n, float* out) {
  outside ? pick_linear_all<true>(in, picks, gain, n, out) : pick_linear_all<false>(in, picks, gain, n, out);
}

DP_TARGET void times_constant(float gain, int32_t n, float* x) {
  for (int32_t k = 0; k < n; ++k) x[k] = x[k] * gain;
}

DP_TARGET void times(const double* __restrict values, int32_t n, float* __restrict x) {
  for (int32_t k = 0; k < n; ++k) x[k] = x[k] * static_cast<float>(values[k]);
}

DP_TARGET void plus(const double* __restrict values, int32_t n, float* __restrict x) {
  for (int32_t k = 0; k < n; ++k) x[k] = x[k] + static_cast<float>(values[k]);
}

DP_TARGET void squares(const float* __restrict x, int32_t n, double* __restrict lanes) {
  int32_t t = 0;
  for (; t + kLanes <= n; t += kLanes) {
    for (int32_t l = 0; l < kLanes; ++l) {
      const double v = x[t + l];
      lanes[l] += v * v;
    }
  }
  for (int32_t l = 0; t + l < n; ++l) {
    const double v = x[t + l];
    lanes[l] += v * v;
  }
}

DP_TARGET void add(const float* __restrict noise, float scale, int32_t n, float* __restrict x) {
  for (int32_t k = 0; k < n; ++k) x[k] = x[k] + scale * noise[k];
}

template <DType dtype>
DP_TARGET void cast(const float* __restrict x, int32_t n, int64_t step, typename Cast<dtype>::type* __restrict out) {
  if (step == 1) {
    for (int32_t k = 0; k < n; ++k) out[k] = Cast<dtype>::from(x[k]);
  } else {
    for (int32_t k = 0; k < n; ++k) out[k * step] = Cast<dtype>::from(x[k]);
  }
}

DP_TARGET bool finite(const float* x, int64_t step, int32_t n) {
  uint32_t most = 0;
  if (step == 1) {
    for (int32_t k = 0; k < n; ++k) {
      const uint32_t bits = float_bits(x[k]) & 0x7fffffffu;
      most = bits > most ? bits : most;
    }
  } else {
    for (int32_t k = 0; k < n; ++k) {
      const uint32_t bits = float_bits(x[k * step]) & 0x7fffffffu;
      most = bits > most ? bits : most;
    }
  }
  return most < 0x7f800000u;
}

#define SIGNAL_LOOPS                                                                                           \
  scale, line, segment, nearest, linear, pick_nearest, pick_linear, times_constant, times, plus, squares, add, \
      cast<DType::float16>, cast<DType::bfloat16>, cast<DType::float32>, finite
