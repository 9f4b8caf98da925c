// Spectra of signals: frames cut out of them, the phase vocoder, overlap-add, resampling, mel features, coloured noise.
// Formulas for host and device, and the twins. Between the steps come Fourier transforms, which are the caller's
// (MKL's, cuFFT's); within a step CPU and CUDA agree bit for bit.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "noise.h"
#include "ops.h"
#include "pixel.h"
#include "tensor.h"

namespace dalipipe {

enum class SpectralStep : int32_t {
  cut = 0,       // signal → windowed frames, into target [frames, n_fft]
  vocode = 1,    // source: spectra of analysed frames [frames, bins] → target: of made ones
  overlap = 2,   // source: made frames [frames, n_fft] → target [floats] or, without one, the row's out
  resample = 3,  // source: [floats] as `overlap` left it, or, without one, the signal → the row's out
  mel = 4,       // source: spectra of analysed frames → the row's out, [bands, analysed]
  clamp = 5,     // in place: what is further than `top_db` below the row's maximum
  mix = 6,       // signal [mixed, in_frames], planar → the row's out, [mixes, in_frames], by a matrix
  white = 7,     // standard normal noise, into target [rows, n_fft]
  colour = 8,    // target: spectra [rows, bins], in place
  level = 9,     // source [rows, n_fft] → the row's out, of RMS 1
};
constexpr int32_t kSpectralSteps = 10;
enum class FrameEdge : int32_t { zero = 0, mirror = 1 };  // what lies before a signal and after it
enum class MelLog : int32_t { none = 0, db = 1, ln = 2 };

constexpr int32_t kPhases = 256;   // of a table of resampling
constexpr int32_t kTapLanes = 16;  // its taps are a multiple of
constexpr int32_t kMostTaps = 4096;

// One channel of a sample. Each step looks at what it needs. Mirrored by `dalipipe.native.SPECTRAL_ROW`.
struct SpectralRow {
  uint64_t in, out;      // addresses of float32: of its first frame; dense
  int64_t in_step;       // elements from one frame to the next; may be negative
  int64_t analysed_at;   // its first frame among all analysed ones
  int64_t made_at;       // among all made ones; of noise: which row it is
  int64_t stretched_at;  // its first element among what `overlap` leaves
  int64_t table;         // of resampling: its first element in `tables`
  double rate;           // frame t of the made ones is made from frame rate * t of the spectrogram
  double step;           // frame t of a resampled signal lies at frame step * t
  int32_t in_frames, stretched_frames, out_frames;
  int32_t hop;             // frames of the signal
  int32_t analysed, made;  // frames of n_fft
  int32_t taps;            // of resampling
  float exponent;          // of noise: bin k is multiplied by k^exponent
  NoiseKey key;
  int32_t unused;
};
static_assert(sizeof(SpectralRow) == 128, "keep dalipipe.native.SPECTRAL_ROW in step");

// A filter of the mel scale: weights of bins first … first + count - 1.
struct MelBand {
  int32_t first, count;
  int64_t weights;  // in `tables`
};
static_assert(sizeof(MelBand) == 16, "keep dalipipe.native.MEL_BAND in step");

struct SpectralParams {
  const SpectralRow* rows;  // [n]; host
  int32_t n;
  int32_t n_fft;        // even
  int32_t lead;         // frames of the signal that frame 0 begins before it
  int32_t edge;         // a `FrameEdge`
  const float* window;  // [n_fft]
  const float* source;
  int64_t source_floats;
  float* target;
  int64_t target_floats;
  // resample: per table [kPhases + 1, taps]; mel: weights; mix: [mixes, mixed]
  const float* tables;
  int64_t table_floats;
  const MelBand* bands;  // [band_count]; host
  int32_t band_count;
  int32_t squared;       // mel: 1: of power, 0: of magnitudes
  int32_t log;           // a `MelLog`
  int32_t mixed, mixes;  // mix: signals in, out
  float top_db;
  const SpectralRow* device_rows;  // the same as `rows` and `bands`, where kernels can read them; _cuda
  const MelBand* device_bands;
};

// Throws std::invalid_argument naming the row.
void check_spectral(SpectralStep step, const SpectralParams& p);
void spectral_cpu(SpectralStep step, const SpectralParams& p, int32_t threads);
// Asynchronous on `stream`; all but `rows` and `bands` is device memory.
void spectral_cuda(SpectralStep step, const SpectralParams& p, void* stream);

// --- frames

// The frame of the spectrogram that is analysed at a row's place `slot`: all of them, or, where the vocoder leaves
// frames out, the two about each frame it makes.
DP_HD int64_t analysed_frame(const SpectralRow& r, int64_t slot) {
  return r.rate <= 2.0 ? slot : static_cast<int64_t>(static_cast<double>(slot >> 1) * r.rate) + (slot & 1);
}

// Where frame t of the made ones comes from: a place, the next one, and how far between them.
struct Between {
  int64_t slot;
  float before, after;  // weights
};
DP_HD Between made_between(const SpectralRow& r, int64_t t) {
  const double at = static_cast<double>(t) * r.rate;
  const int64_t k = static_cast<int64_t>(at);
  const double alpha = at - static_cast<double>(k);
  return {r.rate <= 2.0 ? k : 2 * t, static_cast<float>(1.0 - alpha), static_cast<float>(alpha)};
}

// Whether the spectrogram has this frame; past its end frames are zero, whatever the signal's last frames are.
DP_HD bool has_frame(const SpectralRow& r, int32_t n_fft, int32_t lead, int64_t frame) {
  return frame * r.hop - lead + n_fft <= static_cast<int64_t>(r.in_frames) + lead;
}

// Element i of a signal mirrored at its first and last frame, as often as it takes.
DP_HD int64_t mirrored(int64_t i, int64_t n) {
  if (n == 1) return 0;
  const int64_t period = 2 * (n - 1);
  i %= period;
  if (i < 0) i += period;
  return i < n ? i : period - i;
}

DP_HD float frame_element(const SpectralRow& r, FrameEdge edge, int64_t at) {
  const float* in = reinterpret_cast<const float*>(r.in);
  if (at >= 0 && at < r.in_frames) return in[at * r.in_step];
  return edge == FrameEdge::zero ? 0.0f : in[mirrored(at, r.in_frames) * r.in_step];
}

// --- the phase vocoder (librosa.phase_vocoder). Of the phases it adds up only their points on the unit circle matter,
// and a step's phase is angle(next) - angle(this) but for whole turns: so they are multiplied, without a sine.

struct Polar {
  float magnitude, re, im;  // re, im: of length 1; 1, 0 for nothing
};
DP_HD Polar polar(float re, float im) {
  const float square = re * re + im * im;
  const float magnitude = sqrtf(square);
  const bool some = square > 0.0f;
  const float inverse = 1.0f / (some ? magnitude : 1.0f);
  const float x = re * inverse, y = im * inverse;
  return {magnitude, some ? x : 1.0f, some ? y : 0.0f};
}

struct Phase {
  float re, im;
};
// Brought back to length 1 by a step of Newton's.
DP_HD Phase turned(Phase p, float from_re, float from_im, float to_re, float to_im) {
  const float re = to_re * from_re + to_im * from_im, im = to_im * from_re - to_re * from_im;
  const float x = p.re * re - p.im * im, y = p.re * im + p.im * re;
  const float scale = 1.5f - 0.5f * (x * x + y * y);
  return {x * scale, y * scale};
}

// --- overlap-add: the frames over an element, rising, over the sum of their windows' squares

DP_HD float overlapped(float sum, float windows) {
  const float over = sum / (windows > 0x1p-126f ? windows : 1.0f);  // librosa leaves what no window reaches
  return over;
}

// --- resampling: a windowed sinc, tabulated at kPhases places between two frames, linear between those

struct Tap {
  int64_t frame;  // the last one at or before the place
  int32_t phase;
  float after;
};
DP_HD Tap tap_at(double step, int64_t t) {
  const double at = static_cast<double>(t) * step;
  const int64_t frame = static_cast<int64_t>(at);
  const double places = (at - static_cast<double>(frame)) * kPhases;
  const int32_t phase = static_cast<int32_t>(places);
  return {frame, phase, static_cast<float>(places - phase)};
}

// The sum of kTapLanes lanes, always in this order.
DP_HD float lane_sum(float (&lanes)[kTapLanes]) {
  for (int32_t half = kTapLanes / 2; half > 0; half /= 2) {
    for (int32_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  }
  return lanes[0];
}

// --- mel features

// The natural logarithm of a positive, normal number, to 1e-7: s + s³/3 + … of s = (m - 1) / (m + 1), m in [√½, √2).
DP_HD float natural_log(float x) {
  const int32_t shifted = static_cast<int32_t>(float_bits(x) - 0x3f3504f3u);
  const float exponent = static_cast<float>(shifted >> 23);
  const float m = bits_float((static_cast<uint32_t>(shifted) & 0x7fffffu) + 0x3f3504f3u);
  const float s = (m - 1.0f) / (m + 1.0f), q = s * s;
  const float series = 1.0f + q * (0.33333334f + q * (0.2f + q * (0.14285715f + q * (0.11111111f + q * 0.09090909f))));
  return exponent * 0.6931472f + 2.0f * s * series;
}

DP_HD float squared_of(float re, float im, int32_t squared) {
  const float square = re * re + im * im;
  return squared ? square : sqrtf(square);
}

DP_HD float mel_log(float value, MelLog log) {
  if (log == MelLog::none) return value;
  if (log == MelLog::ln) return natural_log(value + 1e-6f);
  return natural_log(value > 1e-10f ? value : 1e-10f) * 4.3429448f;
}

// --- coloured noise

// 2^x to 1e-7, of x in [-126, 127].
DP_HD float power_of_two(float x) {
  const float within = x < -126.0f ? -126.0f : x > 127.0f ? 127.0f : x;
  const int32_t whole = static_cast<int32_t>(within + 128.5f) - 128;
  const float f = (within - static_cast<float>(whole)) * 0.6931472f;  // |f| < 0.35
  const float tail = f * (0.008333334f + f * (0.0013888889f + f * 0.00019841270f));
  const float series = 1.0f + f * (1.0f + f * (0.5f + f * (0.16666667f + f * (0.041666668f + tail))));
  return series * bits_float(static_cast<uint32_t>(whole + 127) << 23);
}

// What bin k of white noise is multiplied by; nothing is left of its mean.
DP_HD float colour_gain(int64_t k, float exponent) {
  return k == 0 ? 0.0f : power_of_two(exponent * (natural_log(static_cast<float>(k)) * 1.442695f));
}

constexpr int32_t kSumLanes = 64;  // element e goes to lane e mod kSumLanes; the lanes are added in a tree

DP_HD float unit_rms(double squares, int64_t frames) {
  return squares > 0.0 ? static_cast<float>(1.0 / sqrt(squares / static_cast<double>(frames))) : 0.0f;
}

}  // namespace dalipipe
