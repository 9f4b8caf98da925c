// Chains over signals on CUDA: one launch, a block takes a sample through all its passes. Between passes a signal is
// dense in scratch, channel after channel. A last pass that needs no look at the whole signal writes into the batch.
#include <algorithm>
#include <type_traits>
#include <vector>

#include "cuda/check.h"
#include "signal.h"

namespace dalipipe {
namespace {

constexpr int32_t kThreads = 256;
constexpr int32_t kFilterThreads = 32;  // channels that go through biquads at a time

struct SignalBatch {
  const SignalPass* passes;
  const int32_t* starts;
  const Curve* curves;
  const CurveSegment* segments;
  const ChannelGain* channel_gains;
  const Biquad* biquads;
  const SignalWindow* windows;
  const SignalOut* outs;
  const int64_t* places;  // of each sample's two signals in scratch, elements [N, 2]
  float* scratch;
  int32_t n, channels;
};

// A signal that is read; steps in elements.
struct Stored {
  const float* data;
  int64_t frame_step, channel_step;
};

// Whether a pass looks at more than an element at a time, once it is moved.
DP_HD bool is_whole(const SignalPass& s) {
  const bool relative =
      s.noise != static_cast<int32_t>(SignalNoise::none) && s.noise_level == static_cast<int32_t>(NoiseLevel::relative);
  return s.biquads > 0 || relative || s.windows > 0;
}

__device__ float stored_frame(const Stored& in, int32_t c, int32_t i) {
  return i < 0 ? 0.0f : in.data[c * in.channel_step + i * in.frame_step];
}

__device__ double curve_at(const SignalBatch& b, int32_t curve, int32_t t) {
  const Curve& at = b.curves[curve];
  return curve_value(b.segments + at.first, at.count, t);
}

__device__ float moved(const SignalBatch& b, const SignalPass& s, const Stored& in, int32_t c, int32_t t) {
  if (s.map == static_cast<int32_t>(TimeMap::shift)) {
    const double i = static_cast<double>(s.start + static_cast<int64_t>(s.direction) * t);
    return stored_frame(in, c, edge_index(s.edge, i, s.in_frames));
  }
  const double position =
      near_position(s.map == static_cast<int32_t>(TimeMap::line) ? line_position(s.line_start, s.line_rate, t)
                                                                 : curve_at(b, s.position, t));
  if (s.interpolation == static_cast<int32_t>(Interpolation::nearest)) {
    return stored_frame(in, c, edge_index(s.edge, nearest_frame(position), s.in_frames));
  }
  const double below = floor(position);
  return lerp(stored_frame(in, c, edge_index(s.edge, below, s.in_frames)),
              stored_frame(in, c, edge_index(s.edge, below + 1.0, s.in_frames)), static_cast<float>(position - below));
}

// What follows the time map: channels, gain.
__device__ float gained(const SignalBatch& b, const SignalPass& s, const Stored& in, int32_t c, int32_t t) {
  const ChannelGain made = s.channel_gains < 0 ? ChannelGain{c, s.gain} : b.channel_gains[s.channel_gains + c];
  return moved(b, s, in, made.from, t) * made.gain;
}

__device__ float curved(const SignalBatch& b, const SignalPass& s, float x, int32_t c, int32_t t) {
  if (s.gain_curves > 0) {
    x = x * static_cast<float>(curve_at(b, s.gain_curve + (s.gain_curves > 1 ? c : 0), t));
  }
  if (s.added_curves > 0) {
    x = x + static_cast<float>(curve_at(b, s.added_curve + (s.added_curves > 1 ? c : 0), t));
  }
  return x;
}

__device__ float noise_at(const SignalPass& s, int32_t channels, int32_t c, int32_t t) {
  if (s.noise == static_cast<int32_t>(SignalNoise::white)) {
    return normal_element(s.key, static_cast<uint64_t>(t) * channels + c);
  }
  return reinterpret_cast<const float*>(s.noise_data)[(s.noise_start + t) % s.noise_frames];
}

// Calls use(c, t) for every element, channel after channel, shared out among the block's threads.
template <typename Use>
__device__ void each_element(int32_t channels, int32_t frames, const Use& use) {
  const uint32_t elements = static_cast<uint32_t>(channels) * static_cast<uint32_t>(frames);  // below 2^31
  for (uint32_t e = threadIdx.x; e < elements; e += kThreads) {
    const uint32_t c = channels == 1 ? 0 : e / static_cast<uint32_t>(frames);
    use(static_cast<int32_t>(c), static_cast<int32_t>(e - c * static_cast<uint32_t>(frames)));
  }
}

// Biquads, in place; a thread takes a channel.
__device__ void filter(const SignalBatch& b, const SignalPass& s, float* signal, BiquadState (*state)[kFilterThreads]) {
  const int32_t lane = static_cast<int32_t>(threadIdx.x);
  if (lane >= kFilterThreads) return;
  for (int32_t c = lane; c < b.channels; c += kFilterThreads) {
    for (int32_t q = 0; q < s.biquads; ++q) state[q][lane] = {0.0, 0.0};
    float* x = signal + static_cast<int64_t>(c) * s.out_frames;
    for (int32_t t = 0; t < s.out_frames; ++t) {
      double v = x[t];
      for (int32_t q = 0; q < s.biquads; ++q) v = biquad_step(b.biquads[s.first_biquad + q], v, state[q][lane]);
      x[t] = static_cast<float>(v);
    }
  }
}

// The scale of relative noise. The first kLanes threads sum up the signal, the next kLanes the noise; all wait here.
__device__ float relative_scale(const SignalBatch& b, const SignalPass& s, const float* signal, double* sums) {
  const int32_t thread = static_cast<int32_t>(threadIdx.x), lane = thread % kLanes, group = thread / kLanes;
  const bool shared = s.noise == static_cast<int32_t>(SignalNoise::recorded);
  if (group < 2) {
    double sum = 0.0;
    const int32_t channels = group == 1 && shared ? 1 : b.channels;
    for (int32_t c = 0; c < channels; ++c) {
      for (int32_t t = lane; t < s.out_frames; t += kLanes) {
        const double v =
            group == 0 ? signal[static_cast<int64_t>(c) * s.out_frames + t] : noise_at(s, b.channels, c, t);
        sum += v * v;
      }
    }
    sums[thread] = sum;
  }
  __syncthreads();
  for (int32_t half = kLanes / 2; half > 0; half /= 2) {
    if (group < 2 && lane < half) sums[thread] += sums[thread + half];
    __syncthreads();
  }
  return noise_scale(s.level, sums[0], shared ? sums[kLanes] * b.channels : sums[kLanes]);
}

__device__ void fill_window(const SignalWindow& w, int32_t frames, float* signal) {
  const int32_t begin = clip_frame(w.begin, frames), end = clip_frame(w.end, frames);
  const int32_t fade_begin = clip_frame(static_cast<int64_t>(w.begin) - w.fade_out, frames);
  const int32_t fade_end = clip_frame(static_cast<int64_t>(w.end) + w.fade_in, frames);
  float* first = signal + static_cast<int64_t>(w.first_channel) * frames;
  const int32_t channels = w.end_channel - w.first_channel;
  const bool hold = w.fill == static_cast<int32_t>(Fill::hold) && (begin > 0 || end < frames);
  if (end > begin) {
    each_element(channels, end - begin, [&](int32_t c, int32_t t) {
      float* x = first + static_cast<int64_t>(c) * frames;
      x[begin + t] = hold ? x[begin > 0 ? begin - 1 : end] : w.value;
    });
  }
  __syncthreads();
  if (begin > fade_begin) {
    each_element(channels, begin - fade_begin, [&](int32_t c, int32_t t) {
      float& x = first[static_cast<int64_t>(c) * frames + fade_begin + t];
      x = x * fade_factor(static_cast<int64_t>(w.begin) - 1 - (fade_begin + t), w.fade_out);
    });
  }
  if (fade_end > end) {
    each_element(channels, fade_end - end, [&](int32_t c, int32_t t) {
      float& x = first[static_cast<int64_t>(c) * frames + end + t];
      x = x * fade_factor(static_cast<int64_t>(end) + t - w.end, w.fade_in);
    });
  }
  __syncthreads();
}

// Calls put(c, t, value) for what a pass makes that does not look at the whole; where it does, all up to the filter.
template <typename Put>
__device__ void make_elements(const SignalBatch& b, const SignalPass& s, const Stored& in, const Put& put) {
  const bool noisy =
      s.noise != static_cast<int32_t>(SignalNoise::none) && s.noise_level == static_cast<int32_t>(NoiseLevel::absolute);
  each_element(b.channels, s.out_frames, [&](int32_t c, int32_t t) {
    float x = gained(b, s, in, c, t);
    if (s.biquads == 0) {
      x = curved(b, s, x, c, t);
      if (noisy) x = x + s.level * noise_at(s, b.channels, c, t);
    }
    put(c, t, x);
  });
}

// What of a pass looks at the whole signal, in place.
__device__ void finish_whole(const SignalBatch& b, const SignalPass& s, float* signal,
                             BiquadState (*state)[kFilterThreads], double* sums) {
  const bool noisy = s.noise != static_cast<int32_t>(SignalNoise::none);
  const bool relative = noisy && s.noise_level == static_cast<int32_t>(NoiseLevel::relative);
  const auto at = [&](int32_t c, int32_t t) -> float& { return signal[static_cast<int64_t>(c) * s.out_frames + t]; };
  if (s.biquads > 0) {
    filter(b, s, signal, state);
    __syncthreads();
    if (s.gain_curves > 0 || s.added_curves > 0) {
      each_element(b.channels, s.out_frames, [&](int32_t c, int32_t t) { at(c, t) = curved(b, s, at(c, t), c, t); });
      __syncthreads();
    }
  }
  if (relative || (noisy && s.biquads > 0)) {
    const float scale = relative ? relative_scale(b, s, signal, sums) : s.level;
    each_element(b.channels, s.out_frames,
                 [&](int32_t c, int32_t t) { at(c, t) = at(c, t) + scale * noise_at(s, b.channels, c, t); });
    __syncthreads();
  }
  for (int32_t w = 0; w < s.windows; ++w) fill_window(b.windows[s.first_window + w], s.out_frames, signal);
}

template <DType dtype>
__global__ void __launch_bounds__(kThreads, 3) signals_kernel(const __grid_constant__ SignalBatch b) {
  using T = typename Cast<dtype>::type;
  __shared__ BiquadState state[kMostBiquads][kFilterThreads];
  __shared__ double sums[2 * kLanes];
  for (int32_t i = static_cast<int32_t>(blockIdx.x); i < b.n; i += static_cast<int32_t>(gridDim.x)) {
    const int32_t first = b.starts[i], end = b.starts[i + 1];
    const SignalOut& out = b.outs[i];
    T* const to = reinterpret_cast<T*>(out.data);
    const auto put = [&](int32_t c, int64_t t, float x) {
      to[c * out.channel_step + t * out.frame_step] = Cast<dtype>::from(x);
    };
    Stored in{reinterpret_cast<const float*>(b.passes[first].data), b.passes[first].frame_step,
              b.passes[first].channel_step};
    for (int32_t j = first; j < end; ++j) {
      const SignalPass& s = b.passes[j];
      if (j + 1 == end && !is_whole(s)) {
        make_elements(b, s, in, put);
        continue;
      }
      float* const made = b.scratch + b.places[2 * static_cast<int64_t>(i) + (j & 1)];
      make_elements(b, s, in,
                    [&](int32_t c, int32_t t, float x) { made[static_cast<int64_t>(c) * s.out_frames + t] = x; });
      __syncthreads();
      finish_whole(b, s, made, state, sums);
      in = {made, 1, s.out_frames};
      if (j + 1 == end) {
        each_element(b.channels, s.out_frames,
                     [&](int32_t c, int32_t t) { put(c, t, made[static_cast<int64_t>(c) * s.out_frames + t]); });
      }
    }
    const int32_t frames = b.passes[end - 1].out_frames;
    for (int64_t e = threadIdx.x; e < (out.frames - frames) * b.channels; e += kThreads) {
      put(static_cast<int32_t>(e % b.channels), frames + e / b.channels, 0.0f);
    }
  }
}

// Where everything lies in scratch, in bytes; its head is the upload.
struct SignalSchedule {
  const SignalParams& p;
  std::vector<int64_t> places;
  int64_t passes, starts, curves, segments, channel_gains, biquads, windows, outs, samples;
  int64_t bytes = 0, upload_bytes, signals;

  explicit SignalSchedule(const SignalParams& p) : p(p), places(2 * static_cast<size_t>(p.n)) {
    passes = take<SignalPass>(p.n > 0 ? p.starts[p.n] : 0);
    starts = take<int32_t>(p.n + int64_t{1});
    curves = take<Curve>(p.curve_count);
    segments = take<CurveSegment>(p.segment_count);
    channel_gains = take<ChannelGain>(p.channel_gain_count);
    biquads = take<Biquad>(p.biquad_count);
    windows = take<SignalWindow>(p.window_count);
    outs = take<SignalOut>(p.n);
    samples = take<int64_t>(2 * int64_t{p.n});
    upload_bytes = signals = bytes;
    for (int32_t i = 0; i < p.n; ++i) {
      int64_t longest[2] = {0, 0};
      for (int32_t j = p.starts[i]; j < p.starts[i + 1]; ++j) {
        if (j + 1 == p.starts[i + 1] && !is_whole(p.passes[j])) continue;
        longest[j & 1] = std::max<int64_t>(longest[j & 1], p.passes[j].out_frames);
      }
      for (int32_t k = 0; k < 2; ++k) {
        places[2 * static_cast<size_t>(i) + k] =
            (take<float>(longest[k] * p.channels) - signals) / static_cast<int64_t>(sizeof(float));
      }
    }
  }

  void write(uint8_t* host) const {
    const auto put = [&](int64_t at, const auto* from, int64_t count) {
      using T = std::remove_const_t<std::remove_pointer_t<decltype(from)>>;
      if (count > 0) std::copy_n(from, count, reinterpret_cast<T*>(host + at));
    };
    put(passes, p.passes, p.starts[p.n]);
    put(starts, p.starts, p.n + int64_t{1});
    put(curves, p.curves, p.curve_count);
    put(segments, p.segments, p.segment_count);
    put(channel_gains, p.channel_gains, p.channel_gain_count);
    put(biquads, p.biquads, p.biquad_count);
    put(windows, p.windows, p.window_count);
    put(outs, p.outs, p.n);
    put(samples, places.data(), static_cast<int64_t>(places.size()));
  }

  SignalBatch on_device(uint8_t* device) const {
    return {reinterpret_cast<const SignalPass*>(device + passes),
            reinterpret_cast<const int32_t*>(device + starts),
            reinterpret_cast<const Curve*>(device + curves),
            reinterpret_cast<const CurveSegment*>(device + segments),
            reinterpret_cast<const ChannelGain*>(device + channel_gains),
            reinterpret_cast<const Biquad*>(device + biquads),
            reinterpret_cast<const SignalWindow*>(device + windows),
            reinterpret_cast<const SignalOut*>(device + outs),
            reinterpret_cast<const int64_t*>(device + samples),
            reinterpret_cast<float*>(device + signals),
            p.n,
            p.channels};
  }

 private:
  template <typename T>
  int64_t take(int64_t count) {
    const int64_t begin = bytes;
    bytes += (count * static_cast<int64_t>(sizeof(T)) + 15) / 16 * 16;
    return begin;
  }
};

}  // namespace

size_t signals_cuda_scratch_bytes(const SignalParams& p) {
  check_signals(p);
  return static_cast<size_t>(SignalSchedule(p).bytes);
}

size_t signals_cuda_upload_bytes(const SignalParams& p) {
  check_signals(p);
  return static_cast<size_t>(SignalSchedule(p).upload_bytes);
}

void signals_cuda(const SignalParams& p, void* scratch, size_t scratch_bytes, void* pinned, size_t pinned_bytes,
                  void* stream) {
  check_signals(p);
  if (p.n == 0) return;
  const SignalSchedule schedule(p);
  check_room("signals", "scratch", schedule.bytes, scratch_bytes, scratch);
  check_room("signals", "pinned memory", schedule.upload_bytes, pinned_bytes, pinned);
  schedule.write(static_cast<uint8_t*>(pinned));

  uint8_t* const device = static_cast<uint8_t*>(scratch);
  const cudaStream_t queue = static_cast<cudaStream_t>(stream);
  DP_CUDA(cudaMemcpyAsync(device, pinned, static_cast<size_t>(schedule.upload_bytes), cudaMemcpyHostToDevice, queue));
  const SignalBatch b = schedule.on_device(device);
  switch (p.dtype) {
    case DType::float16: return launch(signals_kernel<DType::float16>, p.n, kThreads, queue, b);
    case DType::bfloat16: return launch(signals_kernel<DType::bfloat16>, p.n, kThreads, queue, b);
    default: return launch(signals_kernel<DType::float32>, p.n, kThreads, queue, b);
  }
}

}  // namespace dalipipe
