// Feeds chains over signals batches that are made from the input, as passes.cpp does for pictures.
#include <algorithm>

#include "choices.h"
#include "signal.h"

namespace dalipipe {
namespace {

constexpr int32_t kMost = 1 << 13;  // frames, so that a run takes milliseconds
constexpr int32_t kCurves = 3, kSegments = 6, kGains = 6, kBiquads = 4, kWindows = 5;

double real64(Choices& c, double low, double high) { return low + (high - low) * c.byte() / 255.0; }

// A double that is odd where a float would be.
double odd64(Choices& c, double sane) {
  const float odd = c.odd(0.0f);
  return odd == 0.0f ? sane : static_cast<double>(odd);
}

void draw_pass(Choices& c, Memory& memory, int32_t in, int32_t out, SignalPass& s) {
  s.in_frames = c.odd(in), s.out_frames = c.odd(out);
  s.map = c.odd(in == out ? c.in(0, 2) : c.in(0, 1)), s.edge = c.odd(c.in(0, 3)), s.interpolation = c.odd(c.in(0, 1));
  s.direction = c.odd(c.byte() % 2 ? 1 : -1), s.start = c.odd<int64_t>(c.in(-60, 195));
  s.line_start = odd64(c, real64(c, -9, 40)), s.line_rate = odd64(c, real64(c, -2, 3));
  s.position = c.odd(c.in(0, kCurves - 1));
  s.channel_gains = c.odd(c.byte() % 2 ? -1 : c.in(0, 3)), s.gain = c.odd(c.real(-2, 2));
  s.first_biquad = c.odd(c.in(0, 2)), s.biquads = c.odd(c.byte() % 4 ? 0 : c.in(0, 2));
  s.gain_curve = c.odd(c.in(0, 2)), s.gain_curves = c.odd(c.byte() % 2 ? 0 : 1);
  s.added_curve = c.odd(c.in(0, 2)), s.added_curves = c.odd(c.byte() % 2 ? 0 : 1);
  s.noise = c.odd(c.in(0, 2)), s.noise_level = c.odd(c.in(0, 1)), s.level = c.odd(c.real(0, 1));
  draw_key(c, s.key);
  s.noise_frames = c.in(1, 50), s.noise_start = c.odd<int64_t>(c.in(0, 200));
  float* recorded = memory.make<float>(s.noise_frames);
  for (int64_t t = 0; t < s.noise_frames; ++t) recorded[t] = static_cast<float>(t % 7) - 3;
  s.noise_data = reinterpret_cast<uint64_t>(recorded);
  s.first_window = c.odd(c.in(0, 2)), s.windows = c.odd(c.in(0, 3));
}

int32_t frames(Choices& c) { return c.byte() % 8 ? c.in(1, 70) : c.in(1, 255) * 4; }

}  // namespace

void fuzz_chains(Choices& c, Memory& memory) {
  SignalParams p{};
  p.n = c.in(1, 2);
  p.channels = c.odd(c.in(1, 3));
  const int32_t channels = std::clamp(p.channels, 1, 3);
  int32_t* starts = memory.make<int32_t>(p.n + 1);
  for (int32_t i = 0; i < p.n; ++i) starts[i + 1] = starts[i] + c.in(1, 3);
  SignalPass* passes = memory.make<SignalPass>(starts[p.n]);
  SignalOut* outs = memory.make<SignalOut>(p.n);
  CurveSegment* segments = memory.make<CurveSegment>(kSegments);
  for (int32_t i = 0; i < kSegments; ++i) {
    segments[i].begin = odd64(c, i % 2 ? real64(c, 0, 90) : 0.0);
    for (int32_t k = 0; k < 4; ++k) segments[i].c[k] = odd64(c, k == 0 ? real64(c, -9, 90) : real64(c, -0.1, 1));
  }
  Curve* curves = memory.make<Curve>(kCurves);
  for (int32_t i = 0; i < kCurves; ++i) curves[i] = {c.odd(2 * i), c.odd(c.in(1, 2))};
  ChannelGain* gains = memory.make<ChannelGain>(kGains);
  for (int32_t i = 0; i < kGains; ++i) gains[i] = {c.odd(c.in(0, channels - 1)), c.odd(c.real(-2, 2))};
  Biquad* biquads = memory.make<Biquad>(kBiquads);
  for (int32_t i = 0; i < kBiquads; ++i) {
    for (double& b : biquads[i].b) b = odd64(c, real64(c, -1, 1));
    for (double& a : biquads[i].a) a = odd64(c, real64(c, -0.4, 0.4));
  }
  SignalWindow* windows = memory.make<SignalWindow>(kWindows);
  for (int32_t i = 0; i < kWindows; ++i) {
    const int32_t begin = c.in(-9, 60), first = c.in(0, channels);
    windows[i] = {c.odd(begin), c.odd(begin + c.in(0, 40)),   c.odd(c.in(0, 9)), c.odd(c.in(0, 9)),
                  c.odd(first), c.odd(c.in(first, channels)), c.odd(c.in(0, 1)), c.odd(c.real(-1, 1))};
  }
  p.passes = passes, p.starts = starts, p.outs = outs;
  p.curves = curves, p.curve_count = kCurves, p.segments = segments, p.segment_count = kSegments;
  p.channel_gains = gains, p.channel_gain_count = kGains, p.biquads = biquads, p.biquad_count = kBiquads;
  p.windows = windows, p.window_count = kWindows;
  p.dtype = static_cast<DType>(c.odd(c.in(1, 3)));
  const int64_t bytes = p.dtype == DType::float32 ? 4 : 2;
  int64_t used[2] = {0, 0};
  for (int32_t i = 0; i < p.n; ++i) {
    int32_t in = frames(c);
    for (int32_t j = starts[i]; j < starts[i + 1]; ++j) {
      const int32_t out = c.byte() % 2 ? in : frames(c);
      draw_pass(c, memory, in, out, passes[j]);
      in = out;
    }
    SignalPass& s = passes[starts[i]];
    const int64_t first = std::clamp(s.in_frames, 1, kMost);  // as long as it says, as nobody could tell
    float* stored = memory.make<float>(first * channels);     // it ends where its last frame does
    for (int64_t k = 0; k < first * channels; ++k) stored[k] = k < 3 ? c.odd(c.real(-1, 1)) : c.real(-1, 1);
    const bool planar = c.byte() % 2;
    s.data = reinterpret_cast<uint64_t>(stored);
    s.frame_step = planar ? 1 : channels, s.channel_step = planar ? first : 1;
    if (c.byte() % 4 == 0) {  // backwards
      s.data = reinterpret_cast<uint64_t>(stored + s.frame_step * (first - 1));
      s.frame_step = -s.frame_step;
    }
    outs[i].frames = c.odd<int64_t>(in + c.in(0, 9));
    const bool flat = c.byte() % 2;
    outs[i].frame_step = flat ? 1 : channels, outs[i].channel_step = flat ? outs[i].frames : 1;
    outs[i].data = reinterpret_cast<uint64_t>(memory.make<uint8_t>(1));
    if (outs[i].frames > kMost) return;
    used[i] = std::max<int64_t>(outs[i].frames, 1) * channels * bytes;
  }
  for (int32_t i = 0; i < p.n; ++i) outs[i].data = reinterpret_cast<uint64_t>(memory.make<uint8_t>(used[i]));
  if (!takes([&] { check_signals(p); }) || p.channels != channels) return;
  for (int32_t j = 0; j < starts[p.n]; ++j) {
    if (passes[j].in_frames > kMost || passes[j].out_frames > kMost) return;
  }
  uint8_t* expected[2];
  const char* sets[] = {"scalar", "avx2", "avx512"};
  for (int32_t round = 0; round < 3; ++round) {
    if (!takes([&] { set_cpu_target(sets[round]); })) continue;
    for (int32_t i = 0; i < p.n; ++i) outs[i].data = reinterpret_cast<uint64_t>(memory.make<uint8_t>(used[i]));
    signals_cpu(p, 1);
    for (int32_t i = 0; i < p.n; ++i) {
      uint8_t* made = reinterpret_cast<uint8_t*>(outs[i].data);
      if (round == 0) expected[i] = made;
      require(std::memcmp(made, expected[i], used[i]) == 0, "all instruction sets give the same bits");
    }
  }
  set_cpu_target(nullptr);
}

}  // namespace dalipipe
