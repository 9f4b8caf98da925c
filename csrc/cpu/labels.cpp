// Labels, one sample a thread. A chain of passes is walked backwards, a row of the output at a time: each pixel's place
// in the last pass's output becomes its place in what came into it, and so on down to the map. Where a pass does not
// warp, columns and rows move apart from each other, and tables of them are enough; such passes fold into one step.
#include "labels.h"

#include <algorithm>
#include <sstream>
#include <stdexcept>
#include <vector>

#include "cpu/pool.h"

namespace dalipipe {
namespace {

template <typename... Words>
[[noreturn]] void refuse(const Words&... words) {
  std::ostringstream text;
  text << "move_labels: ";
  (text << ... << words);
  throw std::invalid_argument(text.str());
}

void check_pass(const ImagePass& pass, int32_t i) {
  const struct {
    const char* name;
    int32_t px;
  } sides[] = {{"crop_h", pass.crop_h},       {"crop_w", pass.crop_w},     {"resized_h", pass.resized_h},
               {"resized_w", pass.resized_w}, {"canvas_h", pass.canvas_h}, {"canvas_w", pass.canvas_w},
               {"out_h", pass.out_h},         {"out_w", pass.out_w}};
  for (const auto& side : sides) {
    if (side.px < 1 || side.px > kMaxSide_px) {
      refuse("sample ", i, ": ", side.name, " must be 1 to ", kMaxSide_px, " px, got ", side.px);
    }
  }
  if (pass.warp == 0 && (pass.canvas_h != pass.out_h || pass.canvas_w != pass.out_w)) {
    refuse("sample ", i, ": without a warp the canvas must be the output's ", pass.out_h, "x", pass.out_w, ", got ",
           pass.canvas_h, "x", pass.canvas_w);
  }
  if (pass.from_kept != 0 || pass.blend != 0) refuse("sample ", i, ": its pictures are blended, labels cannot be");
}

void check(const MoveLabelsParams& p) {
  if (p.out_bytes != 1 && p.out_bytes != 4 && p.out_bytes != 8)
    refuse("out_bytes must be 1, 4 or 8, got ", p.out_bytes);
  if (p.table != nullptr && p.table_count < 1) refuse("a table needs an entry, got ", p.table_count);
  for (int32_t i = 0; i < p.n; ++i) {
    const LabelMap& map = p.maps[i];
    if (map.bytes != 1 && map.bytes != 4) refuse("sample ", i, ": labels must have 1 or 4 bytes, got ", map.bytes);
    if (map.h < 1 || map.w < 1 || map.row_bytes < int64_t{map.w} * map.bytes) {
      refuse("sample ", i, ": a map of ", map.h, "x", map.w, " px and rows of ", map.row_bytes, " bytes");
    }
    if (p.starts[i + 1] <= p.starts[i]) refuse("sample ", i, ": expected at least one pass");
    for (int32_t k = p.starts[i]; k < p.starts[i + 1]; ++k) check_pass(p.passes[k], i);
    const ImagePass& last = p.passes[p.starts[i + 1] - 1];
    if (last.out_h != p.out_h || last.out_w != p.out_w) {
      refuse("sample ", i, ": the last pass must give ", p.out_h, "x", p.out_w, ", got ", last.out_h, "x", last.out_w);
    }
  }
}

using Indices = std::vector<int32_t>;

// An axis of a pass, of its canvas's length.
Indices axis_table(int32_t crop, int32_t resized, int32_t window, int32_t canvas, bool flip, int32_t origin,
                   int32_t in) {
  const View view = make_view(resized, window, canvas, flip);
  const Axis axis = make_axis(crop, resized, static_cast<int32_t>(Resample::nearest));
  Indices table(canvas);
  for (int32_t i = 0; i < canvas; ++i) table[i] = label_index(i, view, axis, origin, in);
  return table;
}

// Later place → earlier place, where -1 stays -1.
void follow(const Indices& table, Indices& places) {
  for (int32_t& place : places) place = place < 0 ? -1 : table[place];
}

// A warp, which only the last step may lack, then columns and rows apart: canvas index → index in what comes in.
struct Step {
  const ImagePass* warp;
  Indices columns, rows;
};

// The last first.
std::vector<Step> steps_back(const ImagePass* first, const ImagePass* last, const LabelMap& map) {
  std::vector<Step> steps;
  for (const ImagePass* pass = last;; --pass) {
    const bool start = pass == first;
    const int32_t in_h = start ? map.h : pass[-1].out_h, in_w = start ? map.w : pass[-1].out_w;
    Indices columns =
        axis_table(pass->crop_w, pass->resized_w, pass->window_x, pass->canvas_w, pass->flip & 1, pass->origin_x, in_w);
    Indices rows =
        axis_table(pass->crop_h, pass->resized_h, pass->window_y, pass->canvas_h, pass->flip & 2, pass->origin_y, in_h);
    if (pass->warp == 0 && !steps.empty()) {
      follow(columns, steps.back().columns);
      follow(rows, steps.back().rows);
    } else {
      steps.push_back({pass->warp != 0 ? pass : nullptr, std::move(columns), std::move(rows)});
    }
    if (start) return steps;
  }
}

// Whole, halves to even: pixel.h's rintf without a call, for what may lie inside a picture.
float round_even(float v) {
  constexpr float kOnes = 12582912.0f;  // 1.5 · 2^23: next to it, floats are whole numbers
  return (v + kOnes) - kOnes;
}

// A row's places (x, y) in a step's output → in what came in; -1 in either of them stands for outside.
void step_back(const Step& step, Indices& x, Indices& y) {
  const ImagePass& pass = *step.warp;
  const bool projective = is_projective(pass.matrix);
  const float* displacement = reinterpret_cast<const float*>(pass.displacement);
  const float w = static_cast<float>(pass.canvas_w), h = static_cast<float>(pass.canvas_h);
  for (size_t i = 0; i < x.size(); ++i) {
    if (x[i] < 0 || y[i] < 0) continue;
    const Point from = displaced(displacement, pass.out_h, pass.out_w, x[i], y[i]);
    const Point to = warp_point(pass.matrix, projective, from.x, from.y);
    const float u = round_even(to.x), v = round_even(to.y);
    const bool inside = u >= 0.0f && u < w && v >= 0.0f && v < h;  // which NaN is not
    x[i] = inside ? step.columns[static_cast<int32_t>(u)] : -1;
    y[i] = inside ? step.rows[static_cast<int32_t>(v)] : -1;
  }
}

// Label in the map → in the batch.
template <typename In, typename Out>
struct Classes;

template <typename Out>
struct Classes<uint8_t, Out> {
  Out table[256];
  explicit Classes(const MoveLabelsParams& p) {
    for (int32_t v = 0; v < 256; ++v) {
      table[v] = static_cast<Out>(p.table == nullptr ? v : p.table[std::min(v, p.table_count - 1)]);
    }
  }
  Out operator()(uint8_t label) const { return table[label]; }
};

template <typename Out>
struct Classes<int32_t, Out> {
  const int32_t* table;
  int32_t last;
  explicit Classes(const MoveLabelsParams& p) : table(p.table), last(p.table_count - 1) {}
  Out operator()(int32_t label) const {
    if (table == nullptr) return static_cast<Out>(label);
    return static_cast<Out>(table[label >= 0 && label < last ? label : last]);
  }
};

template <typename In, typename Out>
void move_map(const MoveLabelsParams& p, const LabelMap& map, const std::vector<Step>& steps, Out* out) {
  const Classes<In, Out> classes(p);
  const Out ignore = static_cast<Out>(p.ignore);
  const auto row_of = [&](int32_t y) { return reinterpret_cast<const In*>(map.data + y * map.row_bytes); };
  const int32_t w = p.out_w;
  if (steps.size() == 1 && steps[0].warp == nullptr) {
    const int32_t* columns = steps[0].columns.data();
    for (int32_t y = 0; y < p.out_h; ++y, out += w) {
      if (steps[0].rows[y] < 0) {
        std::fill(out, out + w, ignore);
        continue;
      }
      const In* row = row_of(steps[0].rows[y]);
      for (int32_t x = 0; x < w; ++x) out[x] = columns[x] < 0 ? ignore : classes(row[columns[x]]);
    }
    return;
  }
  const size_t unwarped = steps[0].warp == nullptr;
  Indices xs(w), ys(w);
  for (int32_t y = 0; y < p.out_h; ++y, out += w) {
    for (int32_t x = 0; x < w; ++x) {
      xs[x] = unwarped ? steps[0].columns[x] : x;
      ys[x] = unwarped ? steps[0].rows[y] : y;
    }
    for (size_t k = unwarped; k < steps.size(); ++k) step_back(steps[k], xs, ys);
    for (int32_t x = 0; x < w; ++x) out[x] = xs[x] < 0 || ys[x] < 0 ? ignore : classes(row_of(ys[x])[xs[x]]);
  }
}

template <typename Out>
void move(const MoveLabelsParams& p, int64_t i, const std::vector<Step>& steps) {
  Out* out = static_cast<Out*>(p.out) + i * p.out_h * p.out_w;
  const LabelMap& map = p.maps[i];
  map.bytes == 1 ? move_map<uint8_t>(p, map, steps, out) : move_map<int32_t>(p, map, steps, out);
}

}  // namespace

void move_labels_cpu(const MoveLabelsParams& p, int32_t threads) {
  check(p);
  parallel_for(p.n, threads, [&](int64_t i) {
    const std::vector<Step> steps = steps_back(p.passes + p.starts[i], p.passes + p.starts[i + 1] - 1, p.maps[i]);
    p.out_bytes == 1   ? move<uint8_t>(p, i, steps)
    : p.out_bytes == 4 ? move<int32_t>(p, i, steps)
                       : move<int64_t>(p, i, steps);
  });
}

}  // namespace dalipipe
