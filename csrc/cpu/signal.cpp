// Chains over signals on the CPU. Samples are shared out among threads, and a thread takes one through all its passes
// while it is in cache. Between passes a signal is dense, channel after channel; what is stored otherwise is brought
// into that form by the first pass, and into its place by the last.
#include "signal.h"

#include <algorithm>
#include <cstring>

#include "cpu/filter_kernels.h"
#include "cpu/image_kernels.h"
#include "cpu/pool.h"
#include "cpu/signal_kernels.h"
#include "cpu/transpose.h"

namespace dalipipe {
namespace {

// A signal that is read, any strides; and one that is written, frames beside each other. Steps in elements.
struct Stored {
  const float* data;
  int64_t frame_step, channel_step;
};
struct Planes {
  float* data;
  int64_t channel_step;
  float* channel(int32_t c) const { return data + c * channel_step; }
};

// A thread's scratch, kept between calls.
struct Workspace {
  Buffer<float> passes[2], stored, noise, interleaved;
  Buffer<uint32_t> words;
  Picks picks;
  double values[kSignalChunk];

  // One giant signal must not pin its scratch for good.
  void trim() {
    constexpr int64_t kKeep_bytes = 16 << 20;
    for (auto* buffer : {&passes[0], &passes[1], &stored, &noise, &interleaved}) {
      if (buffer->bytes() > kKeep_bytes) buffer->release();
    }
  }
};

struct Context {
  const SignalParams& p;
  const SignalKernels& k;
  Workspace& ws;
};

// What channel c is made from.
ChannelGain channel_gain(const SignalParams& p, const SignalPass& s, int32_t c) {
  return s.channel_gains < 0 ? ChannelGain{c, s.gain} : p.channel_gains[s.channel_gains + c];
}

// Calls use(t, n, values) for frames t … t + n - 1 of [begin, end), a curve's values.
template <typename Use>
void with_curve(const Context& x, const Curve& curve, int32_t begin, int32_t end, const Use& use) {
  const CurveSegment* segments = x.p.segments + curve.first;
  int32_t at = 0;
  for (int32_t t = begin; t < end;) {
    while (at + 1 < curve.count && segments[at + 1].begin <= t) ++at;
    int32_t n = std::min(end - t, kSignalChunk);
    if (at + 1 < curve.count && segments[at + 1].begin < t + n) {
      n = static_cast<int32_t>(std::ceil(segments[at + 1].begin)) - t;
    }
    x.k.segment(segments[at], t, n, x.ws.values);
    use(t, n, x.ws.values);
    t += n;
  }
}

// Frames in a row that a shift makes the same way: from `first` (-1: zeros) on, `step` frames on for each.
struct Run {
  int32_t first, step;
  int64_t frames;
};

// That which begins with frame i, where the next is i + direction.
Run run_from(int64_t i, int32_t direction, int32_t frames, int32_t edge) {
  const int64_t ever = INT64_MAX;
  const bool up = direction > 0;
  switch (static_cast<Edge>(edge)) {
    case Edge::zero:
    case Edge::hold: {
      const bool zero = edge == static_cast<int32_t>(Edge::zero);
      if (i < 0) return {zero ? -1 : 0, 0, up ? -i : ever};
      if (i >= frames) return {zero ? -1 : frames - 1, 0, up ? ever : i - frames + 1};
      return {static_cast<int32_t>(i), direction, up ? frames - i : i + 1};
    }
    case Edge::wrap: {
      const int32_t r = static_cast<int32_t>(((i % frames) + frames) % frames);
      return {r, direction, up ? frames - r : r + 1};
    }
    case Edge::mirror: {
      if (frames == 1) return {0, 0, ever};
      const int64_t last = frames - 1, period = 2 * last, r = ((i % period) + period) % period;
      if (r < last || (r == last && !up)) return {static_cast<int32_t>(r), direction, up ? last - r : r + 1};
      return {static_cast<int32_t>(period - r), -direction, up ? period - r : r - last};
    }
  }
  return {-1, 0, ever};
}

// Strided frames of all channels go tile by tile, so that what lies in a cache line is taken while it is there.
constexpr int32_t kTileFrames = 64;

// Frames of all channels that a shift makes in a row, from frame t on; `n` of them.
void shift_run(const Context& x, const SignalPass& s, const Stored& in, const Run& run, int32_t t, int32_t n,
               const Planes& out) {
  const int64_t step = run.step * in.frame_step;
  const bool interleaved = in.channel_step == 1 && s.channel_gains < 0 && run.step != 0;
  if (interleaved && x.p.channels > 1) {
    transpose(in.data + run.first * in.frame_step, step, n, x.p.channels, out.data + t, out.channel_step);
    for (int32_t c = 0; c < x.p.channels && s.gain != 1.0f; ++c) x.k.times_constant(s.gain, n, out.channel(c) + t);
    return;
  }
  const int32_t tile = x.p.channels == 1 || step == 1 || step == -1 ? n : kTileFrames;
  for (int32_t at = 0; at < n; at += tile) {
    const int32_t count = std::min(tile, n - at);
    for (int32_t c = 0; c < x.p.channels; ++c) {
      const ChannelGain made = channel_gain(x.p, s, c);
      float* to = out.channel(c) + t + at;
      if (run.first < 0) {
        std::fill_n(to, count, 0.0f * made.gain);
        continue;
      }
      const float* from = in.data + made.from * in.channel_step + run.first * in.frame_step + at * step;
      if (run.step == 0) {
        std::fill_n(to, count, *from * made.gain);
      } else if (step == 1 && made.gain == 1.0f) {
        memcpy(to, from, count * sizeof(float));
      } else {
        x.k.scale(from, step, made.gain, count, to);
      }
    }
  }
}

void shift(const Context& x, const SignalPass& s, const Stored& in, const Planes& out) {
  for (int32_t t = 0, n; t < s.out_frames; t += n) {
    const Run run = run_from(s.start + int64_t{s.direction} * t, s.direction, s.in_frames, s.edge);
    n = static_cast<int32_t>(std::min<int64_t>(run.frames, s.out_frames - t));
    shift_run(x, s, in, run, t, n, out);
  }
}

// A stored signal with its frames beside each other: itself, or a copy.
Stored dense(const Context& x, const SignalPass& s, const Stored& in) {
  if (in.frame_step == 1) return in;
  float* to = x.ws.stored.need(int64_t{s.in_frames} * x.p.channels);
  if (in.channel_step == 1) {
    transpose(in.data, in.frame_step, s.in_frames, x.p.channels, to, s.in_frames);
    return {to, 1, s.in_frames};
  }
  for (int32_t t = 0; t < s.in_frames; t += kTileFrames) {
    const int32_t n = std::min(kTileFrames, s.in_frames - t);
    for (int32_t c = 0; c < x.p.channels; ++c) {
      const float* from = in.data + c * in.channel_step + t * in.frame_step;
      x.k.scale(from, in.frame_step, 1.0f, n, to + int64_t{c} * s.in_frames + t);
    }
  }
  return {to, 1, s.in_frames};
}

void move(const Context& x, const SignalPass& s, const Stored& stored, const Planes& out) {
  const Stored in = dense(x, s, stored);
  const bool linear = s.interpolation == static_cast<int32_t>(Interpolation::linear);
  const auto find = linear ? x.k.linear : x.k.nearest;
  const auto pick = linear ? x.k.pick_linear : x.k.pick_nearest;
  const auto take = [&](int32_t t, int32_t n, const double* positions) {
    const bool outside = find(s.edge, positions, s.in_frames, n, &x.ws.picks);
    for (int32_t c = 0; c < x.p.channels; ++c) {
      const ChannelGain made = channel_gain(x.p, s, c);
      pick(in.data + made.from * in.channel_step, x.ws.picks, outside, made.gain, n, out.channel(c) + t);
    }
  };
  if (s.map == static_cast<int32_t>(TimeMap::curve)) {
    with_curve(x, x.p.curves[s.position], 0, s.out_frames, take);
    return;
  }
  for (int32_t t = 0; t < s.out_frames; t += kSignalChunk) {
    const int32_t n = std::min(kSignalChunk, s.out_frames - t);
    x.k.line(s.line_start, s.line_rate, t, n, x.ws.values);
    take(t, n, x.ws.values);
  }
}

void filter(const SignalParams& p, const SignalPass& s, const Planes& signal) {
  const Biquad* biquads = p.biquads + s.first_biquad;
  for (int32_t c = 0; c < p.channels; ++c) {
    BiquadState state[kMostBiquads] = {};
    float* x = signal.channel(c);
    for (int32_t t = 0; t < s.out_frames; ++t) {
      double v = x[t];
      for (int32_t q = 0; q < s.biquads; ++q) v = biquad_step(biquads[q], v, state[q]);
      x[t] = static_cast<float>(v);
    }
  }
}

// Curves `first` …, one for all channels or one each.
template <typename Apply>
void with_curves(const Context& x, const SignalPass& s, int32_t first, int32_t count, const Planes& signal,
                 const Apply& apply) {
  for (int32_t i = 0; i < count; ++i) {
    const int32_t begin = count == 1 ? 0 : i, end = count == 1 ? x.p.channels : i + 1;
    with_curve(x, x.p.curves[first + i], 0, s.out_frames, [&](int32_t t, int32_t n, const double* values) {
      for (int32_t c = begin; c < end; ++c) apply(values, n, signal.channel(c) + t);
    });
  }
}

// Noise for each channel, or (channel_step 0) the same for all.
Planes make_noise(const Context& x, const SignalPass& s) {
  const int32_t frames = s.out_frames, channels = x.p.channels;
  if (s.noise == static_cast<int32_t>(SignalNoise::recorded)) {
    float* to = x.ws.noise.need(frames);
    const float* recorded = reinterpret_cast<const float*>(s.noise_data);
    int64_t from = s.noise_start % s.noise_frames;
    for (int32_t t = 0; t < frames; from = 0) {
      const int32_t n = static_cast<int32_t>(std::min<int64_t>(frames - t, s.noise_frames - from));
      memcpy(to + t, recorded + from, n * sizeof(float));
      t += n;
    }
    return {to, 0};
  }
  constexpr int32_t kFrames = 1024;  // at a time: noise begins with a block of four words
  const FilterKernels& noise = filter_kernels();
  uint32_t* words = x.ws.words.need(int64_t{kFrames} * channels);
  float* to = x.ws.noise.need(int64_t{frames} * channels);
  for (int32_t t = 0; t < frames; t += kFrames) {
    const int32_t n = std::min(kFrames, frames - t), elements = n * channels;
    noise.words(s.key, static_cast<uint32_t>(int64_t{t} * channels / 4), (elements + 3) / 4, words);
    if (channels == 1) {
      noise.normals(words, n, to + t);
      continue;
    }
    float* interleaved = x.ws.interleaved.need(elements);
    noise.normals(words, elements, interleaved);
    transpose(interleaved, channels, n, channels, to + t, frames);
  }
  return {to, frames};
}

double sum_of_squares(const Context& x, const Planes& signal, int32_t frames, int32_t channels) {
  double lanes[kLanes] = {};
  for (int32_t c = 0; c < channels; ++c) x.k.squares(signal.channel(c), frames, lanes);
  for (int32_t half = kLanes / 2; half > 0; half /= 2) {
    for (int32_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  }
  return lanes[0];
}

void add_noise(const Context& x, const SignalPass& s, const Planes& signal) {
  const Planes noise = make_noise(x, s);
  float scale = s.level;
  if (s.noise_level == static_cast<int32_t>(NoiseLevel::relative)) {
    const double power = sum_of_squares(x, signal, s.out_frames, x.p.channels);
    const bool shared = noise.channel_step == 0;
    const double noise_power = sum_of_squares(x, noise, s.out_frames, shared ? 1 : x.p.channels);
    scale = noise_scale(s.level, power, shared ? noise_power * x.p.channels : noise_power);
  }
  for (int32_t c = 0; c < x.p.channels; ++c) x.k.add(noise.channel(c), scale, s.out_frames, signal.channel(c));
}

void fill_window(const SignalWindow& w, int32_t frames, const Planes& signal) {
  const int32_t begin = clip_frame(w.begin, frames), end = clip_frame(w.end, frames);
  const int32_t fade_begin = clip_frame(int64_t{w.begin} - w.fade_out, frames);
  const int32_t fade_end = clip_frame(int64_t{w.end} + w.fade_in, frames);
  for (int32_t c = w.first_channel; c < w.end_channel; ++c) {
    float* x = signal.channel(c);
    float value = w.value;
    if (w.fill == static_cast<int32_t>(Fill::hold)) value = begin > 0 ? x[begin - 1] : end < frames ? x[end] : value;
    std::fill(x + begin, x + end, value);
    for (int32_t t = fade_begin; t < begin; ++t) x[t] = x[t] * fade_factor(int64_t{w.begin} - 1 - t, w.fade_out);
    for (int32_t t = end; t < fade_end; ++t) x[t] = x[t] * fade_factor(int64_t{t} - w.end, w.fade_in);
  }
}

void run_pass(const Context& x, const SignalPass& s, const Stored& in, const Planes& out) {
  s.map == static_cast<int32_t>(TimeMap::shift) ? shift(x, s, in, out) : move(x, s, in, out);
  if (s.biquads > 0) filter(x.p, s, out);
  with_curves(x, s, s.gain_curve, s.gain_curves, out, x.k.times);
  with_curves(x, s, s.added_curve, s.added_curves, out, x.k.plus);
  if (s.noise != static_cast<int32_t>(SignalNoise::none)) add_noise(x, s, out);
  for (int32_t w = 0; w < s.windows; ++w) fill_window(x.p.windows[s.first_window + w], s.out_frames, out);
}

// A made signal into its place, cast, if it is not there; and zeros behind it.
template <typename T>
void write(const Context& x, const Planes& signal, int32_t frames, const SignalOut& out,
           void (*cast)(const float*, int32_t, int64_t, T*)) {
  T* const to = reinterpret_cast<T*>(out.data);
  const int32_t channels = x.p.channels;
  if (out.frame_step == 1) {
    for (int32_t c = 0; c < channels; ++c) {
      T* row = to + c * out.channel_step;
      if (reinterpret_cast<void*>(signal.data) != to) cast(signal.channel(c), frames, 1, row);
      std::fill(row + frames, row + out.frames, T{0});
    }
    return;
  }
  float* rows = out.channel_step == 1 ? x.ws.interleaved.need(int64_t{kTileFrames} * channels) : nullptr;
  for (int32_t t = 0; t < frames; t += kTileFrames) {
    const int32_t n = std::min(kTileFrames, frames - t);
    T* tile = to + t * out.frame_step;
    if (out.channel_step == 1) {
      transpose(signal.data + t, signal.channel_step, channels, n, rows, channels);
      if (out.frame_step == channels) {
        cast(rows, n * channels, 1, tile);
      } else {
        for (int32_t k = 0; k < n; ++k) cast(rows + int64_t{k} * channels, channels, 1, tile + k * out.frame_step);
      }
    } else {
      for (int32_t c = 0; c < channels; ++c) {
        cast(signal.channel(c) + t, n, out.frame_step, tile + c * out.channel_step);
      }
    }
  }
  for (int64_t t = frames; t < out.frames; ++t) {
    for (int32_t c = 0; c < channels; ++c) to[c * out.channel_step + t * out.frame_step] = 0;
  }
}

void run_sample(const Context& x, int32_t i) {
  const int32_t first = x.p.starts[i], end = x.p.starts[i + 1], channels = x.p.channels;
  const SignalOut& out = x.p.outs[i];
  const bool in_place = x.p.dtype == DType::float32 && out.frame_step == 1;
  Stored in{reinterpret_cast<const float*>(x.p.passes[first].data), x.p.passes[first].frame_step,
            x.p.passes[first].channel_step};
  Planes made{nullptr, 0};
  for (int32_t j = first; j < end; ++j) {
    const SignalPass& s = x.p.passes[j];
    if (j + 1 == end && in_place) {
      made = {reinterpret_cast<float*>(out.data), out.channel_step};
    } else {
      made = {x.ws.passes[j & 1].need(int64_t{s.out_frames} * channels), s.out_frames};
    }
    run_pass(x, s, in, made);
    in = {made.data, 1, made.channel_step};
  }
  const int32_t frames = x.p.passes[end - 1].out_frames;
  switch (x.p.dtype) {
    case DType::float16: write(x, made, frames, out, x.k.to_float16); break;
    case DType::bfloat16: write(x, made, frames, out, x.k.to_bfloat16); break;
    default: write(x, made, frames, out, x.k.to_float32);
  }
  x.ws.trim();
}

}  // namespace

const SignalKernels& signal_kernels() {
  const char* target = cpu_target();
  for (const SignalKernels* k : {avx512_signal_kernels(), avx2_signal_kernels()}) {
    if (k != nullptr && strcmp(k->name, target) == 0) return *k;
  }
  return scalar_signal_kernels;
}

void signals_cpu(const SignalParams& p, int32_t threads) {
  check_signals(p);
  const SignalKernels& k = signal_kernels();
  parallel_for(p.n, threads, [&](int64_t i) {
    static thread_local Workspace ws;
    run_sample({p, k, ws}, static_cast<int32_t>(i));
  });
}

void finite_signals_cpu(const StoredSignals& s, int32_t threads, uint8_t* finite) {
  const SignalKernels& k = signal_kernels();
  parallel_for(s.n, threads, [&](int64_t i) {
    const float* data = reinterpret_cast<const float*>(s.data[i]);
    const int64_t frames = s.frames[i], frame_step = s.frame_step[i], channel_step = s.channel_step[i];
    bool all = true;
    if (channel_step == 1 && frame_step == s.channels && frames * s.channels <= INT32_MAX) {
      all = k.finite(data, 1, static_cast<int32_t>(frames * s.channels));
    } else {
      for (int32_t c = 0; all && c < s.channels; ++c) {
        all = k.finite(data + c * channel_step, frame_step, static_cast<int32_t>(frames));
      }
    }
    finite[i] = all;
  });
}

}  // namespace dalipipe
