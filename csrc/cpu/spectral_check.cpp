// What the spectral steps must be given; the same for both twins.
#include <cmath>
#include <stdexcept>
#include <string>

#include "../spectral.h"

namespace dalipipe {
namespace {

constexpr const char* kNames[kSpectralSteps] = {"cut",   "vocode", "overlap", "resample", "mel",
                                                "clamp", "mix",    "white",   "colour",   "level"};

struct Checker {
  const SpectralStep step;
  const SpectralParams& p;
  int32_t row = -1;

  void need(bool holds, const std::string& expected) const {
    if (holds) return;
    std::string where = std::string("spectral ") + kNames[static_cast<int32_t>(step)];
    if (row >= 0) where += ": row " + std::to_string(row);
    throw std::invalid_argument(where + ": " + expected);
  }

  // `count` things of `floats` each, from thing `first` on, lie in memory of `room` floats.
  void within(const char* what, const void* memory, int64_t room, int64_t first, int64_t count, int64_t floats) const {
    need(count >= 0 && first >= 0,
         std::string(what) + " must have a place, got " + std::to_string(first) + ", " + std::to_string(count));
    if (count == 0) return;
    need(memory != nullptr, std::string(what) + " must not be null");
    need(first <= INT64_MAX / 2 / floats - count && (first + count) * floats <= room,
         std::string(what) + " must end within " + std::to_string(room) + " floats, got " +
             std::to_string(first + count) + " times " + std::to_string(floats));
  }

  void check() {
    need(p.n >= 0, "n must be at least 0, got " + std::to_string(p.n));
    if (p.n == 0) return;
    need(p.rows != nullptr, "rows must not be null");
    const bool transforms = step != SpectralStep::resample && step != SpectralStep::clamp && step != SpectralStep::mix;
    if (transforms) {
      need(p.n_fft >= 2 && p.n_fft % 2 == 0 && p.n_fft <= 1 << 26,
           "n_fft must be even, in 2 ... 2^26, got " + std::to_string(p.n_fft));
      need(p.lead >= 0 && p.lead <= p.n_fft, "lead must be in 0 ... n_fft, got " + std::to_string(p.lead));
    }
    if (step == SpectralStep::cut || step == SpectralStep::overlap)
      need(p.window != nullptr, "window must not be null");
    if (step == SpectralStep::mel) check_bands();
    if (step == SpectralStep::mix) {
      need(p.mixed >= 1 && p.mixes >= 1, "mixed and mixes must be at least 1");
      within("tables", p.tables, p.table_floats, 0, p.mixes, p.mixed);
    }
    if (step == SpectralStep::clamp) need(p.top_db >= 0.0f, "top_db must be at least 0");
    if (step == SpectralStep::white) need(p.n_fft % 4 == 0, "n_fft must be a multiple of 4");
    for (row = 0; row < p.n; ++row) check_row(p.rows[row]);
  }

  void check_bands() const {
    const int32_t bins = p.n_fft / 2 + 1;
    need(p.band_count >= 1 && p.bands != nullptr, "bands must not be empty");
    need(p.log >= 0 && p.log <= 2, "log must be a MelLog, got " + std::to_string(p.log));
    for (int32_t b = 0; b < p.band_count; ++b) {
      const MelBand& band = p.bands[b];
      need(band.first >= 0 && band.count >= 0 && band.first <= bins - band.count,
           "band " + std::to_string(b) + " must lie within " + std::to_string(bins) + " bins");
      within("weights", p.tables, p.table_floats, band.weights, band.count, 1);
    }
  }

  void check_row(const SpectralRow& r) const {
    const int64_t bins = 2 * (static_cast<int64_t>(p.n_fft) / 2 + 1);
    switch (step) {
      case SpectralStep::cut:
        signal(r);
        pace(r);
        need(r.rate > 0.0 && r.rate <= 1e6, "rate must be in (0, 1e6], got " + std::to_string(r.rate));
        return within("analysed frames", p.target, p.target_floats, r.analysed_at, r.analysed, p.n_fft);
      case SpectralStep::vocode:
        need(r.rate > 0.0 && r.rate <= 1e6, "rate must be in (0, 1e6], got " + std::to_string(r.rate));
        within("analysed frames", p.source, p.source_floats, r.analysed_at, r.analysed, bins);
        return within("made frames", p.target, p.target_floats, r.made_at, r.made, bins);
      case SpectralStep::overlap:
        pace(r);
        within("made frames", p.source, p.source_floats, r.made_at, r.made, p.n_fft);
        if (p.target == nullptr) return output(r);
        return within("stretched frames", p.target, p.target_floats, r.stretched_at, r.stretched_frames, 1);
      case SpectralStep::resample: {
        output(r);
        if (p.source == nullptr) signal(r);
        if (p.source != nullptr) {
          within("stretched frames", p.source, p.source_floats, r.stretched_at, r.stretched_frames, 1);
        }
        need(r.step > 0.0 && (r.out_frames + 64.0) * r.step < 2147400000.0,
             "step must be above 0 and its last frame below 2^31, got " + std::to_string(r.step));
        need(r.taps >= kTapLanes && r.taps <= kMostTaps && r.taps % kTapLanes == 0,
             "taps must be a multiple of 16, in 16 ... 4096, got " + std::to_string(r.taps));
        need(r.table >= 0, "table must be at least 0");
        return within("table", p.tables, p.table_floats - r.table, 0, kPhases + 1, r.taps);
      }
      case SpectralStep::mel:
        within("analysed frames", p.source, p.source_floats, r.analysed_at, r.analysed, bins);
        return output(r);
      case SpectralStep::clamp: return output(r);
      case SpectralStep::mix:
        need(r.in != 0 && r.in_frames >= 1, "in must not be null, nor in_frames below 1");
        return output(r);
      case SpectralStep::white: return within("noise", p.target, p.target_floats, r.made_at, 1, p.n_fft);
      case SpectralStep::colour: return within("noise", p.target, p.target_floats, r.made_at, 1, bins);
      case SpectralStep::level:
        output(r);
        need(r.out_frames <= p.n_fft, "out_frames must be at most n_fft, got " + std::to_string(r.out_frames));
        return within("noise", p.source, p.source_floats, r.made_at, 1, p.n_fft);
    }
  }

  void signal(const SpectralRow& r) const {
    need(r.in != 0, "in must not be null");
    need(r.in_frames >= 1, "in_frames must be at least 1, got " + std::to_string(r.in_frames));
  }

  void output(const SpectralRow& r) const {
    need(r.out != 0, "out must not be null");
    need(r.out_frames >= 1, "out_frames must be at least 1, got " + std::to_string(r.out_frames));
  }

  void pace(const SpectralRow& r) const { need(r.hop >= 1, "hop must be at least 1, got " + std::to_string(r.hop)); }
};

}  // namespace

void check_spectral(SpectralStep step, const SpectralParams& p) {
  if (static_cast<int32_t>(step) < 0 || static_cast<int32_t>(step) >= kSpectralSteps) {
    throw std::invalid_argument("spectral: step must be in 0 ... 9, got " + std::to_string(static_cast<int32_t>(step)));
  }
  Checker{step, p}.check();
}

}  // namespace dalipipe
