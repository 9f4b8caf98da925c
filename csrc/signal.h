// Signals: audio and other series, float32, any number of channels. What one pass over one signal does; formulas for
// host and device; the twins. `dalipipe.ops.signals` is the numpy specification.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops.h"

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
// Frames [begin, end) of channels [first_channel, end_channel) are filled; the `fade_out` frames before fall to it, and
// the `fade_in` after rise from it, linearly (times (i + 1) / (fade + 1), counted from the window's edge).
struct SignalWindow {
  int32_t begin, end, fade_out, fade_in, first_channel, end_channel;
  int32_t fill;  // a `Fill`; hold: what stands before the window; if nothing does, what stands after it
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
  int32_t channel_gains;            // first of C `channel_gains`; -1: every channel stays
  float gain;                       // and is multiplied by this
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

}  // namespace dalipipe
