// What signals_cpu and signals_cuda refuse.
#include <cmath>
#include <sstream>
#include <stdexcept>

#include "signal.h"

namespace dalipipe {
namespace {

template <typename... Words>
[[noreturn]] void refuse(const Words&... words) {
  std::ostringstream text;
  text << "signals: ";
  (text << ... << words);
  throw std::invalid_argument(text.str());
}

template <typename T>
bool finite(const T* values, int32_t n) {
  for (int32_t i = 0; i < n; ++i) {
    if (!std::isfinite(values[i])) return false;
  }
  return true;
}

// A sample's pass, for messages.
struct Place {
  int32_t sample, pass;
};

std::ostream& operator<<(std::ostream& out, const Place& at) {
  out << "sample " << at.sample;
  if (at.pass > 0) out << ", pass " << at.pass;
  return out;
}

void check_choice(const Place& at, const char* name, int32_t value, int32_t most) {
  if (value < 0 || value > most) refuse(at, ": ", name, " must be 0 to ", most, ", got ", value);
}

// `count` rows of a table, from `first` on.
void check_rows(const Place& at, const char* name, int32_t first, int32_t count, int32_t all) {
  if (count < 0 || (count > 0 && (first < 0 || first > all - count))) {
    refuse(at, ": ", name, " ", first, " to ", int64_t{first} + count, " are not among ", all);
  }
}

void check_frames(const Place& at, const char* name, int32_t frames) {
  if (frames < 1 || frames > kMostFrames) refuse(at, ": ", name, " must be 1 to ", kMostFrames, ", got ", frames);
}

void check_curves(const SignalParams& p, const Place& at, const char* name, int32_t first, int32_t count) {
  if (count != 0 && count != 1 && count != p.channels) {
    refuse(at, ": ", name, " must be 0, 1 or ", p.channels, ", one a channel, got ", count);
  }
  check_rows(at, name, first, count, p.curve_count);
}

void check_map(const SignalParams& p, const Place& at, const SignalPass& s) {
  check_choice(at, "map", s.map, 2);
  check_choice(at, "edge", s.edge, 3);
  check_choice(at, "interpolation", s.interpolation, 1);
  const int64_t far = static_cast<int64_t>(kFarFrame);
  switch (static_cast<TimeMap>(s.map)) {
    case TimeMap::shift:
      if (s.direction != 1 && s.direction != -1) refuse(at, ": direction must be 1 or -1, got ", s.direction);
      if (s.start < -far || s.start > far) refuse(at, ": start must be within 2^40 frames, got ", s.start);
      break;
    case TimeMap::line:
      if (!std::isfinite(s.line_start) || !std::isfinite(s.line_rate)) {
        refuse(at, ": line_start and line_rate must be finite, got ", s.line_start, " and ", s.line_rate);
      }
      break;
    case TimeMap::curve: check_rows(at, "position", s.position, 1, p.curve_count); break;
  }
}

void check_noise(const Place& at, const SignalPass& s) {
  check_choice(at, "noise", s.noise, 2);
  if (s.noise == static_cast<int32_t>(SignalNoise::none)) return;
  check_choice(at, "noise_level", s.noise_level, 1);
  if (!std::isfinite(s.level)) refuse(at, ": level must be finite, got ", s.level);
  if (s.noise == static_cast<int32_t>(SignalNoise::recorded)) {
    if (s.noise_data == 0) refuse(at, ": noise_data is null");
    if (s.noise_frames < 1) refuse(at, ": noise_frames must be at least 1, got ", s.noise_frames);
    if (s.noise_start < 0 || s.noise_start > static_cast<int64_t>(kFarFrame)) {
      refuse(at, ": noise_start must be 0 to 2^40, got ", s.noise_start);
    }
  }
}

void check_pass(const SignalParams& p, const Place& at, const SignalPass& s) {
  check_frames(at, "in_frames", s.in_frames);
  check_frames(at, "out_frames", s.out_frames);
  if (int64_t{s.out_frames} * p.channels > INT32_MAX) {
    refuse(at, ": a signal must stay below 2^31 elements, got ", s.out_frames, " frames of ", p.channels);
  }
  check_map(p, at, s);
  if (s.channel_gains < -1) refuse(at, ": channel_gains must be -1 or more, got ", s.channel_gains);
  if (s.channel_gains >= 0) check_rows(at, "channel_gains", s.channel_gains, p.channels, p.channel_gain_count);
  if (!std::isfinite(s.gain)) refuse(at, ": gain must be finite, got ", s.gain);
  if (s.biquads > kMostBiquads) refuse(at, ": biquads must be 0 to ", kMostBiquads, ", got ", s.biquads);
  check_rows(at, "biquads", s.first_biquad, s.biquads, p.biquad_count);
  check_curves(p, at, "gain_curves", s.gain_curve, s.gain_curves);
  check_curves(p, at, "added_curves", s.added_curve, s.added_curves);
  check_noise(at, s);
  check_rows(at, "windows", s.first_window, s.windows, p.window_count);
}

void check_sample(const SignalParams& p, int32_t i) {
  const int32_t first = p.starts[i], end = p.starts[i + 1];
  for (int32_t j = first; j < end; ++j) {
    const Place at{i, j - first};
    const SignalPass& s = p.passes[j];
    check_pass(p, at, s);
    if (j == first && s.data == 0) refuse(at, ": data is null");
    if (j > first && s.in_frames != p.passes[j - 1].out_frames) {
      refuse(at, ": in_frames must be ", p.passes[j - 1].out_frames, ", what the pass before it leaves, got ",
             s.in_frames);
    }
  }
  const SignalOut& out = p.outs[i];
  if (out.data == 0) refuse("sample ", i, ": its out is null");
  if (out.frames < p.passes[end - 1].out_frames) {
    refuse("sample ", i, ": its out must have room for ", p.passes[end - 1].out_frames, " frames, got ", out.frames);
  }
}

void check_tables(const SignalParams& p) {
  const auto table = [](const char* name, const void* data, int32_t count) {
    if (count < 0 || (count > 0 && data == nullptr)) refuse(name, " are null");
  };
  table("curves", p.curves, p.curve_count);
  table("segments", p.segments, p.segment_count);
  table("channel_gains", p.channel_gains, p.channel_gain_count);
  table("biquads", p.biquads, p.biquad_count);
  table("windows", p.windows, p.window_count);
  for (int32_t k = 0; k < p.segment_count; ++k) {
    const CurveSegment& s = p.segments[k];
    if (!std::isfinite(s.begin) || !finite(s.c, 4)) refuse("segment ", k, " must be finite");
  }
  for (int32_t k = 0; k < p.curve_count; ++k) {
    const Curve& c = p.curves[k];
    if (c.count < 1 || c.first < 0 || c.first > p.segment_count - c.count) {
      refuse("curve ", k, ": segments ", c.first, " to ", int64_t{c.first} + c.count, " must be one or more of ",
             p.segment_count);
    }
    for (int32_t i = c.first + 1; i < c.first + c.count; ++i) {
      if (p.segments[i].begin < p.segments[i - 1].begin) refuse("curve ", k, ": its segments must rise");
    }
  }
  for (int32_t k = 0; k < p.channel_gain_count; ++k) {
    const ChannelGain& g = p.channel_gains[k];
    if (g.from < 0 || g.from >= p.channels) {
      refuse("channel gain ", k, ": from must be 0 to ", p.channels - 1, ", got ", g.from);
    }
    if (!std::isfinite(g.gain)) refuse("channel gain ", k, ": gain must be finite, got ", g.gain);
  }
  for (int32_t k = 0; k < p.biquad_count; ++k) {
    if (!finite(p.biquads[k].b, 3) || !finite(p.biquads[k].a, 2)) refuse("biquad ", k, " must be finite");
  }
  for (int32_t k = 0; k < p.window_count; ++k) {
    const SignalWindow& w = p.windows[k];
    if (w.begin > w.end) refuse("window ", k, ": it must not end before it begins, got ", w.begin, " to ", w.end);
    if (w.fade_out < 0 || w.fade_in < 0) refuse("window ", k, ": fades must not be negative");
    if (w.first_channel < 0 || w.end_channel < w.first_channel || w.end_channel > p.channels) {
      refuse("window ", k, ": channels ", w.first_channel, " to ", w.end_channel, " are not among ", p.channels);
    }
    if (w.fill < 0 || w.fill > 1) refuse("window ", k, ": fill must be 0 or 1, got ", w.fill);
    if (!std::isfinite(w.value)) refuse("window ", k, ": value must be finite, got ", w.value);
  }
}

}  // namespace

void check_signals(const SignalParams& p) {
  if (p.n < 0) refuse("n must not be negative, got ", p.n);
  if (p.channels < 1 || p.channels > kMostChannels) {
    refuse("channels must be 1 to ", kMostChannels, ", got ", p.channels);
  }
  const int32_t dtype = static_cast<int32_t>(p.dtype);
  if (dtype < 1 || dtype > 3) refuse("dtype must be float16, bfloat16 or float32, got ", dtype);
  if (p.n > 0 && (p.passes == nullptr || p.starts == nullptr || p.outs == nullptr)) {
    refuse("passes, their starts or outs are null");
  }
  check_tables(p);
  for (int32_t i = 0; i < p.n; ++i) {
    if (p.starts[i] < 0 || p.starts[i + 1] <= p.starts[i]) {
      refuse("sample ", i, ": it needs a pass at least, got ", p.starts[i], " to ", p.starts[i + 1]);
    }
  }
  for (int32_t i = 0; i < p.n; ++i) check_sample(p, i);
}

}  // namespace dalipipe
