// The fused image operator on CUDA, as the host plans it: chains → steps, rounds and launches, and a place in scratch
// for everything. Rounds are aligned at the end: of R rounds, a chain of L passes takes part in the last L, so that the
// last round makes the batch. Within a round the stages follow one another, and all samples' steps of a stage are one
// launch.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "cuda/steps.h"

namespace dalipipe {

struct Launch {
  Stage stage;
  int32_t first, count;  // steps
  int64_t tiles;         // a step, at most
};

class Schedule {
 public:
  // Of scratch, in bytes, one after the other; the upload is its head, the statistics must be zero at the start.
  struct Sections {
    int64_t steps, axes, tables, weights, erases, upload_bytes;  // the passes lie at 0
    int64_t statistics, stretched, precision, taps, pictures, bytes;
  };

  explicit Schedule(const FusedImageParams& params) : p(params) {
    int32_t rounds = 0;
    for (int32_t i = 0; i < p.n; ++i) rounds = std::max(rounds, p.starts[i + 1] - p.starts[i]);
    for (int32_t i = 0; i < p.n; ++i) plan_sample(i, rounds);
    order();
    lay_out();
  }

  // The upload.
  void write(uint8_t* host) const {
    std::copy_n(p.passes, pass_count(), reinterpret_cast<ImagePass*>(host));
    std::copy(steps_.begin(), steps_.end(), reinterpret_cast<Step*>(host + at_.steps));
    std::copy(axes_.begin(), axes_.end(), reinterpret_cast<AxisTask*>(host + at_.axes));
    if (p.tables) std::copy_n(p.tables, tables_bytes(), host + at_.tables);
    if (p.weights) std::copy_n(p.weights, p.weight_count, reinterpret_cast<float*>(host + at_.weights));
    if (p.erases) std::copy_n(p.erases, p.erase_count, reinterpret_cast<EraseBox*>(host + at_.erases));
  }

  const Sections& sections() const { return at_; }
  const std::vector<Launch>& launches() const { return launches_; }
  int64_t axes() const { return static_cast<int64_t>(axes_.size()); }
  int64_t statistics_bytes() const { return statistics_ * static_cast<int64_t>(sizeof(Statistics)); }

 private:
  static constexpr int32_t kPictures = 3;  // what comes in, what is made, what is kept
  static constexpr int32_t kPlanes = 3, kSum = 4, kBuffers = 5;

  struct Buffer {
    int64_t at = -1, bytes = 0;
  };

  struct Picture {
    int64_t at = 0, row_bytes = 0;  // of pixel (0, 0); from the pass's `data` where it is stored
    int32_t h = 0, w = 0;
    int32_t buffer = -1;  // -1: stored
    int32_t maker = -1;   // a step
  };

  static int64_t aligned(int64_t bytes) { return (bytes + 15) / 16 * 16; }

  int32_t pass_count() const { return p.n > 0 ? p.starts[p.n] : 0; }
  int64_t tables_bytes() const { return static_cast<int64_t>(p.table_count) * p.channels * 256; }

  // A sample's buffer with room for `bytes`; one that is too small is left behind, with what is in it.
  int64_t need(Buffer& buffer, int64_t bytes) {
    if (bytes > buffer.bytes) {
      buffer = {pictures_bytes_, bytes};
      pictures_bytes_ += aligned(bytes);
    }
    return buffer.at;
  }

  AxisTask plan_axis(const Axis& axis, const View& view) {
    const int64_t shown = view.end - view.begin;
    const int64_t spans = taps_bytes_, weights = spans + aligned(shown * static_cast<int64_t>(sizeof(Span)));
    taps_bytes_ = weights + aligned(shown * axis.taps * static_cast<int64_t>(sizeof(int16_t)));
    return {axis, view, view_span(axis, view), spans, weights};
  }

  // Whether a later blend adds to the sum that pass j, a blend, makes.
  bool leaves_sum(int32_t j, int32_t end) const {
    while (!p.passes[j].keep && ++j < end) {
      if (p.passes[j].blend) return true;
    }
    return false;
  }

  void add(const Step& step, Stage stage, int32_t round) {
    steps_.push_back(step);
    keys_.push_back({round, stage});
  }

  void plan_sample(int32_t i, int32_t rounds) {
    Buffer buffers[kBuffers];
    Picture now, kept;
    bool added = false;
    const int32_t begin = p.starts[i], end = p.starts[i + 1];
    for (int32_t j = begin; j < end; ++j) {
      const ImagePass& s = p.passes[j];
      const bool last = j + 1 == end, onward = !last && (s.keep || !p.passes[j + 1].from_kept);
      Picture in = s.from_kept ? kept : now;
      if (j == begin) in.row_bytes = s.row_bytes;

      // What there is to do.
      const auto differ = [](int32_t ah, int32_t aw, int32_t bh, int32_t bw) { return ah != bh || aw != bw; };
      const bool resize = differ(s.crop_h, s.crop_w, s.resized_h, s.resized_w);
      const bool copy = s.window_y || s.window_x || s.flip || differ(s.resized_h, s.resized_w, s.canvas_h, s.canvas_w);
      const bool warp = s.warp != static_cast<int32_t>(Warp::none);
      const bool count = s.stretch || needs_mean(s);
      const bool whole = in.maker >= 0 && !differ(in.h, in.w, s.crop_h, s.crop_w);
      const Filter filter = static_cast<Filter>(s.filter);
      Stage work[5];
      int32_t works = 0;
      if (resize) {
        work[works++] = Stage::resize;
      } else if (copy || !(warp || s.filter || (count && whole))) {
        work[works++] = Stage::copy;
      }
      if (warp) work[works++] = Stage::warp;
      if (filter == Filter::jpeg) {
        work[works++] = Stage::jpeg_blocks;
        work[works++] = Stage::jpeg_pixels;
      } else if (filter != Filter::none) {
        work[works++] = filter == Filter::separable ? Stage::separable : Stage::filter;
      }
      if (count) work[works++] = Stage::recolour;

      in.at -= s.origin_y * in.row_bytes + static_cast<int64_t>(s.origin_x) * p.channels;
      const int32_t round = rounds - (end - j);
      for (int32_t k = 0; k < works; ++k) {
        const Stage stage = work[k];
        Step step{};
        step.in = in.at;
        step.in_row_bytes = in.row_bytes;
        step.stored = in.buffer < 0;
        step.out = step.sum = step.kept = -1;
        step.axes = step.collected = step.known = step.stretched = -1;
        step.sample = i;
        step.pass = j;
        const bool canvas = warp && (stage == Stage::resize || stage == Stage::copy);
        step.h = canvas ? s.canvas_h : s.out_h;
        step.w = canvas ? s.canvas_w : s.out_w;
        step.finish = k + 1 == works;
        step.last = step.finish && last;

        if (stage == Stage::resize) {
          step.axes = static_cast<int32_t>(axes_.size());
          axes_.push_back(plan_axis(make_axis(s.crop_w, s.resized_w, s.resample),
                                    make_view(s.resized_w, s.window_x, s.canvas_w, s.flip & 1)));
          axes_.push_back(plan_axis(make_axis(s.crop_h, s.resized_h, s.resample),
                                    make_view(s.resized_h, s.window_y, s.canvas_h, s.flip & 2)));
        }
        if (stage == Stage::recolour) {
          Step& maker = steps_[in.maker];
          if (maker.collected < 0) maker.collected = statistics_++;
          maker.collect |= s.stretch ? 2 : 1;
          step.known = maker.collected;
          if (s.stretch) {
            step.stretched = stretched_++;
            Step table = step;
            table.h = table.w = 1;
            add(table, Stage::stretch, round);
          }
        }
        if (step.finish && s.blend) {
          step.sum = need(buffers[kSum], int64_t{4} * step.h * step.w * p.channels);
          step.kept = kept.at;
          step.add = added;
          step.leave = leaves_sum(j, end);
        }

        Picture made;
        made.h = step.h;
        made.w = step.w;
        if (stage == Stage::jpeg_blocks) {
          made.buffer = kPlanes;
          made.row_bytes = 0;
          made.at = need(buffers[kPlanes], jpeg_planes(step.h, step.w).bytes);
        } else if (!step.finish || onward) {
          made.buffer = 0;
          while (made.buffer == in.buffer || made.buffer == kept.buffer) ++made.buffer;
          made.row_bytes = static_cast<int64_t>(step.w) * p.channels;
          made.at = need(buffers[made.buffer], made.row_bytes * step.h);
        }
        made.maker = static_cast<int32_t>(steps_.size());
        step.out = made.buffer < 0 ? -1 : made.at;
        add(step, stage, round);
        in = made;
      }
      now = in;
      if (s.blend) added = true;
      if (s.keep) {
        kept = now;
        added = false;
      }
    }
  }

  void order() {
    std::vector<int32_t> places(steps_.size());
    std::iota(places.begin(), places.end(), 0);
    std::stable_sort(places.begin(), places.end(), [&](int32_t a, int32_t b) { return keys_[a] < keys_[b]; });
    std::vector<Step> ordered;
    ordered.reserve(steps_.size());
    for (size_t k = 0; k < places.size(); ++k) {
      const Step& step = steps_[places[k]];
      if (k == 0 || keys_[places[k]] != keys_[places[k - 1]]) {
        launches_.push_back({keys_[places[k]].second, static_cast<int32_t>(k), 0, 0});
      }
      Launch& launch = launches_.back();
      ++launch.count;
      launch.tiles = std::max(launch.tiles, tiles_of(step.h, step.w));
      ordered.push_back(step);
    }
    steps_ = std::move(ordered);
  }

  void lay_out() {
    int64_t at = 0;
    const auto take = [&](int64_t count, size_t bytes) {
      const int64_t begin = at;
      at += aligned(count * static_cast<int64_t>(bytes));
      return begin;
    };
    take(pass_count(), sizeof(ImagePass));
    at_.steps = take(static_cast<int64_t>(steps_.size()), sizeof(Step));
    at_.axes = take(axes(), sizeof(AxisTask));
    at_.tables = take(p.tables ? tables_bytes() : 0, 1);
    at_.weights = take(p.weights ? p.weight_count : 0, sizeof(float));
    at_.erases = take(p.erases ? p.erase_count : 0, sizeof(EraseBox));
    at_.upload_bytes = at;
    at_.statistics = take(statistics_, sizeof(Statistics));
    at_.stretched = take(stretched_, sizeof(Stretched));
    at_.precision = take(axes(), sizeof(int32_t));
    at_.taps = take(taps_bytes_, 1);
    at_.pictures = take(pictures_bytes_, 1);
    at_.bytes = at;
  }

  const FusedImageParams& p;
  std::vector<Step> steps_;
  std::vector<std::pair<int32_t, Stage>> keys_;  // of the steps as they were made: round, stage
  std::vector<AxisTask> axes_;
  std::vector<Launch> launches_;
  Sections at_{};
  int32_t statistics_ = 0, stretched_ = 0;
  int64_t taps_bytes_ = 0, pictures_bytes_ = 0;
};

}  // namespace dalipipe
