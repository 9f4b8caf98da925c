// Signals: audio and other series, float32, any number of channels. What one pass over one signal does; formulas for
// host and device; the twins. `dalipipe.ops.signals` is the numpy specification.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "noise.h"
#include "ops.h"
#include "pixel.h"

namespace dalipipe {

enum class TimeMap : int32_t { shift = 0, line = 1, curve = 2 };
enum class Edge : int32_t { zero = 0, hold = 1, wrap = 2, mirror = 3 };  // what lies before a signal and after it
enum class Interpolation : int32_t { nearest = 0, linear = 1 };
enum class SignalNoise : int32_t { none = 0, white = 1, recorded = 2 };
enum class NoiseLevel : int32_t { absolute = 0, relative = 1 };
enum class Fill : int32_t { value = 0, hold = 1 };

// From frame `begin` on, until the next segment's: ((c[3] d + c[2]) d + c[1]) d + c[0] with d = t - begin.
struct CurveSegment {
  double begin;
  double c[4];
};
// Segments first … first + count - 1, rising; before the first one's begin, the first one goes on.
struct Curve {
  int32_t first, count;
};
struct ChannelGain {
  int32_t from;  // the channel it is made from
  float gain;
};
// b0 b1 b2 a1 a2, a0 = 1; double state, transposed direct form II, as scipy.signal.sosfilt.
struct Biquad {
  double b[3], a[2];
};
// Frames [begin, end) of channels [first_channel, end_channel) are filled; then the `fade_out` frames before fall to
// it, and the `fade_in` after rise from it, linearly (times (i + 1) / (fade + 1), counted from the window's edge). All
// of it is clipped to the signal.
struct SignalWindow {
  int32_t begin, end, fade_out, fade_in, first_channel, end_channel;
  // A `Fill`; hold: what stands before the window; if nothing does, what stands after it; else `value`.
  int32_t fill;
  float value;
};

// One pass over one signal. A sample goes through one or more, each taking up what the one before it left. Mirrored,
// field by field, by `dalipipe.native.SIGNAL_PASS`.
//
//   stored frames → time map → channels, gain → [filter] → [times a curve] → [plus a curve] → [noise] → [windows]
struct SignalPass {
  uint64_t data;                     // address of channel 0 of the first frame, float32; of later passes not looked at
  int64_t frame_step, channel_step;  // elements from one to the next; may be negative
  int32_t in_frames, out_frames;     // in_frames of a later pass: out_frames of the one before
  int32_t map, edge, interpolation;  // a `TimeMap`, an `Edge`, an `Interpolation`
  int32_t direction;                 // shift: frame t is made from frame start + direction t, direction 1 or -1
  int64_t start;
  double line_start, line_rate;     // line: from position line_start + line_rate t
  int32_t position;                 // curve: from the position that `curves[position]` gives
  int32_t channel_gains;            // first of C `channel_gains`; -1: every channel stays, and is multiplied by
  float gain;                       // this
  int32_t first_biquad, biquads;    // in order
  int32_t gain_curve, gain_curves;  // first of `curves`, how many: 0, 1 for all channels, or C
  int32_t added_curve, added_curves;
  int32_t noise, noise_level;  // a `SignalNoise`, a `NoiseLevel`
  // absolute: noise times `level` is added; relative: `level` times the signal's RMS over all channels, over the
  // noise's RMS, so that -20 log10(level) is the signal-to-noise ratio in dB, exactly; 0 where either is silent.
  float level;
  NoiseKey key;         // white: element t * C + c is normal_element
  uint64_t noise_data;  // recorded: address of float32 [noise_frames], for all channels; on the same device
  int64_t noise_frames, noise_start;  // frame t takes (noise_start + t) mod noise_frames
  int32_t first_window, windows;      // in order
};

// Where a sample's last pass writes: DType (not uint8) elements; frames [out_frames, frames) are set to 0.
struct SignalOut {
  uint64_t data;
  int64_t frame_step, channel_step;  // elements
  int64_t frames;
};

struct SignalParams {
  const SignalPass* passes;  // [passes of all samples], sample after sample; host
  const int32_t* starts;     // [N + 1]
  int32_t n, channels;
  const Curve* curves;
  int32_t curve_count;
  const CurveSegment* segments;
  int32_t segment_count;
  const ChannelGain* channel_gains;
  int32_t channel_gain_count;
  const Biquad* biquads;
  int32_t biquad_count;
  const SignalWindow* windows;
  int32_t window_count;
  const SignalOut* outs;  // [N]
  DType dtype;            // of what is written; float16, bfloat16 or float32
};

// Bounds of what a chain may hold: with them no index overflows.
constexpr int32_t kMostFrames = 1 << 30, kMostChannels = 1 << 16, kMostBiquads = 16;
constexpr double kFarFrame = 0x1p40;  // |positions|, |starts|

// Throws std::invalid_argument naming the sample and its pass, what was expected and what came.
void check_signals(const SignalParams& p);
void signals_cpu(const SignalParams& p, int32_t threads);
// As fused_image_cuda: asynchronous on `stream`, `pinned` of the size of the upload. The tables are the host's; `data`,
// `noise_data` and the outs' are the device's.
size_t signals_cuda_scratch_bytes(const SignalParams& p);
size_t signals_cuda_upload_bytes(const SignalParams& p);
void signals_cuda(const SignalParams& p, void* scratch, size_t scratch_bytes, void* pinned, size_t pinned_bytes,
                  void* stream);

// Signals by address, in host memory: float32, steps in elements.
struct StoredSignals {
  const uint64_t* data;
  const int32_t* frames;
  const int64_t *frame_step, *channel_step;
  int32_t n, channels;
};
// finite[i]: 1, or 0 where signal i holds a NaN or an infinity.
void finite_signals_cpu(const StoredSignals& s, int32_t threads, uint8_t* finite);

// Formulas ----------------------------------------------------------------------------------------------------------

DP_HD double line_position(double start, double rate, int32_t t) { return start + rate * t; }

DP_HD double segment_value(double begin, double c0, double c1, double c2, double c3, int32_t t) {
  const double d = t - begin;
  return ((c3 * d + c2) * d + c1) * d + c0;
}

// `segments`: of the curve.
DP_HD double curve_value(const CurveSegment* segments, int32_t count, int32_t t) {
  int32_t at = 0;
  for (int32_t end = count; end - at > 1;) {
    const int32_t middle = at + (end - at) / 2;
    if (segments[middle].begin <= t) {
      at = middle;
    } else {
      end = middle;
    }
  }
  const CurveSegment& s = segments[at];
  return segment_value(s.begin, s.c[0], s.c[1], s.c[2], s.c[3], t);
}

// To what indices can be made of. NaN: far away.
DP_HD double near_position(double p) { return p < kFarFrame ? (p > -kFarFrame ? p : -kFarFrame) : kFarFrame; }

// i mod m of whole numbers, exactly.
DP_HD double whole_modulo(double i, double m) {
  const double r = i - m * floor(i / m);
  return r < 0.0 ? r + m : (r >= m ? r - m : r);
}

// Frame i, which may lie before the signal or after it, is made of that one of its `frames`; -1: it is 0.
template <Edge edge>
DP_HD int32_t edge_index(double i, int32_t frames) {
  const double last = frames - 1;
  if (edge == Edge::zero) return i >= 0.0 && i <= last ? static_cast<int32_t>(i) : -1;
  if (edge == Edge::hold) return static_cast<int32_t>(i > 0.0 ? (i < last ? i : last) : 0.0);
  if (edge == Edge::wrap) return static_cast<int32_t>(whole_modulo(i, frames));
  const double period = frames > 1 ? 2.0 * last : 1.0, r = whole_modulo(i, period);
  return static_cast<int32_t>(r <= last ? r : period - r);
}

DP_HD int32_t edge_index(int32_t edge, double i, int32_t frames) {
  switch (static_cast<Edge>(edge)) {
    case Edge::zero: return edge_index<Edge::zero>(i, frames);
    case Edge::hold: return edge_index<Edge::hold>(i, frames);
    case Edge::wrap: return edge_index<Edge::wrap>(i, frames);
    case Edge::mirror: return edge_index<Edge::mirror>(i, frames);
  }
  return -1;
}

// Halves go up.
DP_HD double nearest_frame(double position) { return floor(position + 0.5); }

struct BiquadState {
  double z0, z1;
};
DP_HD double biquad_step(const Biquad& q, double x, BiquadState& state) {
  const double y = q.b[0] * x + state.z0;
  state.z0 = (q.b[1] * x - q.a[0] * y) + state.z1;
  state.z1 = q.b[2] * x - q.a[1] * y;
  return y;
}

// What relative noise is multiplied by; of the sums of squares over all elements. In these sums frame t of every
// channel goes to lane t mod 64, channel after channel; then lanes l += l + 32, l + 16, … l + 1.
constexpr int32_t kLanes = 64;
DP_HD float noise_scale(float level, double signal, double noise) {
  return signal > 0.0 && noise > 0.0 ? static_cast<float>(level * sqrt(signal / noise)) : 0.0f;
}

// Frame i of a fade over `fade`, counted from the window.
DP_HD float fade_factor(int64_t i, int32_t fade) {
  return static_cast<float>(i + 1) / (static_cast<float>(fade) + 1.0f);
}

DP_HD int32_t clip_frame(int64_t t, int32_t frames) {
  return static_cast<int32_t>(t < 0 ? 0 : (t < frames ? t : frames));
}

}  // namespace dalipipe
