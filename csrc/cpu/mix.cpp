// Mixing on the host, a pair a task. Boxes cut a picture into a few rectangles in each of which both samples' pixels
// have one fate; a rectangle as wide as the picture is one run of elements per plane, another one a run per row.
#include "mix.h"

#include <algorithm>
#include <cmath>
#include <sstream>
#include <stdexcept>
#include <utility>
#include <vector>

#include "cpu/pool.h"

namespace dalipipe {
namespace {

template <typename... Words>
[[noreturn]] void refuse(const Words&... words) {
  std::ostringstream text;
  text << "mix: ";
  (text << ... << words);
  throw std::invalid_argument(text.str());
}

template <typename C, Mixing first, Mixing second>
void mix_run(const float* weights, typename C::type* __restrict a, typename C::type* __restrict b, int64_t n) {
  for (int64_t e = 0; e < n; ++e) {
    const auto x = a[e], y = b[e];
    if constexpr (first != Mixing::keep) a[e] = mixed(C{}, first, weights[0], x, y);
    if constexpr (second != Mixing::keep) b[e] = mixed(C{}, second, weights[1], y, x);
  }
}

template <typename C>
using Run = void (*)(const float*, typename C::type*, typename C::type*, int64_t);

template <typename C, Mixing first>
Run<C> run_for(Mixing second) {
  switch (second) {
    case Mixing::keep: return mix_run<C, first, Mixing::keep>;
    case Mixing::blend: return mix_run<C, first, Mixing::blend>;
    case Mixing::take: return mix_run<C, first, Mixing::take>;
  }
  return nullptr;
}

template <typename C>
Run<C> run_for(Mixing first, Mixing second) {
  switch (first) {
    case Mixing::keep: return run_for<C, Mixing::keep>(second);
    case Mixing::blend: return run_for<C, Mixing::blend>(second);
    case Mixing::take: return run_for<C, Mixing::take>(second);
  }
  return nullptr;
}

// 0, `side`, and where the boxes begin and end between them; axis 0: rows, 1: columns.
std::vector<int32_t> cuts(const MixPair& pair, int32_t axis, int32_t side) {
  std::vector<int32_t> at = {0, side};
  for (const int32_t* box : pair.boxes) {
    if (box[2] > 0 && box[3] > 0) at.insert(at.end(), {box[axis], box[axis] + box[axis + 2]});
  }
  std::sort(at.begin(), at.end());
  at.erase(std::unique(at.begin(), at.end()), at.end());
  return at;
}

template <typename C>
void mix_pair(const MixParams& p, const MixPair& pair) {
  using T = typename C::type;
  const bool planar = p.layout == Layout::nchw;
  const int64_t planes = planar ? p.channels : 1, step = planar ? 1 : p.channels;  // step: elements a column
  const int64_t row = p.w * step, plane = p.h * row, sample = planes * plane;
  T* const first = static_cast<T*>(p.batch) + pair.rows[0] * sample;
  T* const second = static_cast<T*>(p.batch) + pair.rows[1] * sample;
  const std::vector<int32_t> rows = cuts(pair, 0, p.h), columns = cuts(pair, 1, p.w);
  for (size_t i = 0; i + 1 < rows.size(); ++i) {
    for (size_t k = 0; k + 1 < columns.size(); ++k) {
      const int32_t y = rows[i], x = columns[k];
      const Mixing a = mixing(pair, 0, y, x), b = mixing(pair, 1, y, x);
      if (a == Mixing::keep && b == Mixing::keep) continue;
      const Run<C> run = run_for<C>(a, b);
      int64_t runs = rows[i + 1] - y, elements = (columns[k + 1] - x) * step;
      if (elements == row) elements *= std::exchange(runs, 1);
      for (int64_t c = 0; c < planes; ++c) {
        int64_t at = c * plane + y * row + x * step;
        for (int64_t r = 0; r < runs; ++r, at += row) run(pair.weights, first + at, second + at, elements);
      }
    }
  }
}

}  // namespace

void check_mix(const MixParams& p) {
  const int32_t dtype = static_cast<int32_t>(p.dtype), layout = static_cast<int32_t>(p.layout);
  if (dtype < 0 || dtype > 3) refuse("dtype must be 0 to 3, got ", dtype);
  if (layout < 0 || layout > 1) refuse("layout must be 0 or 1, got ", layout);
  if (p.pair_count < 0) refuse("pair_count must not be negative, got ", p.pair_count);
  if (p.pair_count == 0) return;
  if (p.pairs == nullptr || p.batch == nullptr) refuse("pairs or batch are null");
  if (p.n < 2 || p.channels < 1) refuse("expected 2 samples and 1 channel at least, got ", p.n, " and ", p.channels);
  if (p.h < 1 || p.h > kMaxSide_px || p.w < 1 || p.w > kMaxSide_px) {
    refuse("the sides must be 1 to ", kMaxSide_px, " px, got ", p.h, "x", p.w);
  }
  if (static_cast<int64_t>(p.h) * p.w > INT32_MAX / p.channels) {
    refuse("a sample must stay below 2^31 values, got ", p.channels, "x", p.h, "x", p.w);
  }
  std::vector<bool> seen(p.n);
  for (int32_t i = 0; i < p.pair_count; ++i) {
    for (int32_t side = 0; side < 2; ++side) {
      const int32_t row = p.pairs[i].rows[side];
      const float weight = p.pairs[i].weights[side];
      const int32_t* box = p.pairs[i].boxes[side];
      if (row < 0 || row >= p.n) refuse("pair ", i, ": expected samples 0 to ", p.n - 1, ", got ", row);
      if (seen[row]) refuse("pair ", i, ": sample ", row, " stands in two pairs, or twice in one");
      seen[row] = true;
      if (!(weight >= 0.0f && weight <= 1.0f)) refuse("pair ", i, ": weights must lie in [0, 1], got ", weight);
      if (box[0] < 0 || box[1] < 0 || box[2] < 0 || box[3] < 0 || box[2] > p.h - box[0] || box[3] > p.w - box[1]) {
        refuse("pair ", i, ": a box must lie inside ", p.h, "x", p.w, " px, got y=", box[0], ", x=", box[1],
               ", h=", box[2], ", w=", box[3]);
      }
    }
  }
}

void mix_cpu(const MixParams& p, int32_t threads) {
  check_mix(p);
  with_cast(p.dtype, [&](auto cast) {
    using C = decltype(cast);
    parallel_for(p.pair_count, threads, [&](int64_t i) { mix_pair<C>(p, p.pairs[i]); });
  });
}

}  // namespace dalipipe
