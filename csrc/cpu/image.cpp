// The fused image operator on the CPU. Samples are shared out among threads, and a thread takes one through all its
// passes while its pixels are in cache. A pass goes row by row: eight input rows → horizontal pass → a ring of
// half-resized rows → vertical pass → one uint8 row → the finished output row. What looks at more than a row (a warp, a
// filter, a histogram, a mean) holds the whole uint8 picture first.
#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>

#include "cpu/filter.h"
#include "cpu/filter_kernels.h"
#include "cpu/image_kernels.h"
#include "cpu/pool.h"

namespace dalipipe {
namespace {

const ImageKernels* best_kernels() {
  if (const ImageKernels* k = avx512_kernels()) return k;
  if (const ImageKernels* k = avx2_kernels()) return k;
  return &scalar_kernels;
}

std::atomic<const ImageKernels*>& kernels() {
  static std::atomic<const ImageKernels*> chosen{best_kernels()};
  return chosen;
}

// An output row's taps as pairs of half-resized rows, (2m, 2m + 1) counted from the first row drawn on.
struct PairSpan {
  int32_t first, count;  // pairs
  int64_t weights;       // where its [count, 2] weights begin
};

// A thread's scratch, kept between calls.
struct Workspace {
  Buffer<double> exact;
  Taps columns, rows;
  Gather gather;
  Buffer<int16_t> ring;
  Buffer<PairSpan> pair_spans;
  Buffer<int16_t> pair_weights;
  Buffer<const int16_t*> pairs;
  Buffer<uint8_t> narrow, row, canvas, shaped, filtered;
  Buffer<uint8_t> pictures[2], kept;  // what passes leave
  Buffer<float> sum;                  // of blended pictures
  Buffer<uint32_t> counts;
  Buffer<uint8_t> stretches;
  FilterScratch filter;

  // Whether a picture is one that a pass left: then filters may read past its end, which of a caller's they may not.
  bool left(const uint8_t* picture) const {
    return picture == pictures[0].data() || picture == pictures[1].data() || picture == kept.data();
  }

  // One giant picture must not pin its scratch for good.
  void trim() {
    constexpr int64_t kKeep_bytes = 16 << 20;
    const auto drop = [](auto&... buffers) { ((buffers.bytes() > kKeep_bytes ? buffers.release() : void()), ...); };
    drop(exact, columns.spans, columns.weights, rows.spans, rows.weights, gather.start, gather.base, gather.index,
         gather.weight, ring, pair_spans, pair_weights, pairs, narrow, row, canvas, shaped, filtered, pictures[0],
         pictures[1], kept, sum);
    filter.trim();
  }
};

// What `view` shows of an axis → its taps.
void plan_taps(const Axis& axis, const View& view, Buffer<double>& exact, Taps& taps) {
  taps.count = view.end - view.begin;
  taps.input = view_span(axis, view);
  double greatest = 0.0;  // over the whole axis, shown or not: a window sees the weights the whole picture would
  Span* spans = taps.spans.need(taps.count);
  double* values = exact.need(static_cast<int64_t>(taps.count) * axis.taps);
  int64_t total = 0;
  for (int32_t k = 0; k < taps.count; ++k) {
    const int32_t i = view.at(view.begin + k);
    const Span at = span(axis, i);
    const double middle = centre(axis, i);
    double sum = 0.0;
    for (int32_t j = 0; j < at.count; ++j) sum += values[total + j] = height(axis, middle, at.first + j);
    for (int32_t j = 0; j < at.count; ++j) {
      values[total + j] = weight(values[total + j], sum);
      greatest = std::max(greatest, values[total + j]);
    }
    spans[k] = {at.first - taps.input.first, at.count};
    total += at.count;
  }
  for (int32_t i = 0; i < axis.out; ++i) {
    if (i == std::min(view.at(view.begin), view.at(view.end - 1))) i += taps.count;
    if (i < axis.out) greatest = std::max(greatest, greatest_weight(axis, i));
  }
  taps.precision = weight_precision(greatest);
  int16_t* weights = taps.weights.need(total);
  for (int64_t j = 0; j < total; ++j) weights[j] = fixed_weight(values[j], taps.precision);
}

// Taps → Gather. Where one window shows a group's lanes all their taps, its steps share it; else a step's window begins
// at the first tap still to come. In each step a lane takes its next two taps, if the window holds them. `row_bytes`
// may be read of a row, at least a window.
void plan_gather(const ImageKernels& k, const Taps& taps, int32_t channels, int64_t row_bytes, Gather& g) {
  constexpr int32_t kMostLanes = 16;
  const int32_t lanes = k.lanes / k.windows, window = 4 * lanes;
  const int32_t elements = taps.count * channels;
  g.groups = (elements + 4 * k.lanes - 1) / (4 * k.lanes) * 4;  // `vertical` takes four at a time
  int32_t* start = g.start.need(g.groups + 1);
  const int16_t* weights = taps.weights.data();  // of pixel x
  int32_t steps = 0, x = 0, c = 0;
  for (int32_t group = 0; group < g.groups; ++group) {
    start[group] = steps;
    const int32_t first_step = steps;
    for (int32_t w = 0; w < k.windows; ++w) {
      int64_t position[kMostLanes], first = row_bytes, end = 0;
      const int16_t* weight[kMostLanes];
      int32_t left[kMostLanes];
      for (int32_t l = 0; l < lanes; ++l) {
        left[l] = x < taps.count ? taps.spans.data()[x].count : 0;
        if (left[l] == 0) continue;
        position[l] = static_cast<int64_t>(taps.spans.data()[x].first) * channels + c;
        weight[l] = weights;
        first = std::min(first, position[l]);
        end = std::max(end, position[l] + static_cast<int64_t>(left[l] - 1) * channels + 1);
        if (++c == channels) {
          weights += left[l];
          ++x;
          c = 0;
        }
      }
      const bool one_window = end - first <= window;
      for (int64_t next = first, step = first_step; next < row_bytes; ++step) {
        if (step == steps) {
          ++steps;
          std::fill_n(g.base.need(steps * k.windows) + step * k.windows, k.windows, 0);
          std::fill_n(g.index.need(int64_t{4} * steps * k.lanes) + 4 * step * k.lanes, 4 * k.lanes, uint8_t{0x80});
          std::fill_n(g.weight.need(int64_t{2} * steps * k.lanes) + 2 * step * k.lanes, 2 * k.lanes, int16_t{0});
        }
        const int64_t base = std::min(one_window ? first : next, row_bytes - window);
        g.base.data()[step * k.windows + w] = static_cast<int32_t>(base);
        uint8_t* index = g.index.data() + (step * k.windows + w) * 4 * lanes;
        int16_t* out = g.weight.data() + (step * k.windows + w) * 2 * lanes;
        next = row_bytes;
        for (int32_t l = 0; l < lanes; ++l) {
          for (int32_t t = 0; t < 2 && left[l] > 0 && position[l] < base + window; ++t) {
            index[4 * l + 2 * t] = static_cast<uint8_t>(position[l] - base);
            out[2 * l + t] = *weight[l]++;
            position[l] += channels;
            --left[l];
          }
          if (left[l] > 0) next = std::min(next, position[l]);
        }
      }
    }
  }
  start[g.groups] = steps;
}

// Row taps → pairs. Returns the most pairs an output row draws on.
int32_t plan_pairs(const Taps& taps, Workspace& ws) {
  PairSpan* spans = ws.pair_spans.need(taps.count);
  int64_t total = 0;
  int32_t reach = 0;
  for (int32_t i = 0; i < taps.count; ++i) {
    const Span at = taps.spans.data()[i];
    const int32_t first = at.first / 2, count = (at.first + at.count - 1) / 2 - first + 1;
    spans[i] = {first, count, total};
    total += 2 * count;
    reach = std::max(reach, count);
  }
  int16_t* out = ws.pair_weights.need(total);
  std::fill_n(out, total, int16_t{0});
  const int16_t* weights = taps.weights.data();
  for (int32_t i = 0; i < taps.count; ++i) {
    const Span at = taps.spans.data()[i];
    std::copy_n(weights, at.count, out + spans[i].weights + at.first % 2);
    weights += at.count;
  }
  return reach;
}

// What one row is made of, before the vertical pass.
struct Halfway {
  const int16_t* const* pairs;
  const int16_t* weights;
  int32_t n, precision;
};

// A sink that wants rows of pixels, always.
struct NeverHalfway {
  bool operator()(int32_t, const Halfway&) const { return false; }
};

void fill_pixels(uint8_t* to, int64_t n, const uint8_t* fill, int32_t channels) {
  if (n <= 0) return;
  memcpy(to, fill, channels);
  for (int64_t done = 1; done < n; done *= 2) memcpy(to + done * channels, to, std::min(done, n - done) * channels);
}

// The first of the stored bytes of pixel (y, x), in crop coordinates.
const uint8_t* stored_pixel(const ImagePass& s, int32_t channels, int32_t y, int32_t x) {
  return reinterpret_cast<const uint8_t*>(s.data) + static_cast<int64_t>(y - s.origin_y) * s.row_bytes +
         static_cast<int64_t>(x - s.origin_x) * channels;
}

// What a view shows of row y of a picture that is not resized.
void move_row(const ImagePass& s, int32_t channels, const ImageKernels& k, const View& columns, int32_t y,
              uint8_t* out) {
  const int32_t shown = columns.end - columns.begin;
  if (columns.step > 0) {
    memcpy(out, stored_pixel(s, channels, y, columns.at(columns.begin)), static_cast<int64_t>(shown) * channels);
  } else {
    k.mirror(stored_pixel(s, channels, y, columns.at(columns.end - 1)), channels, shown, out);
  }
}

// Whether a pass does no more than put pixels elsewhere.
bool only_moves(const ImagePass& s) {
  return s.crop_h == s.resized_h && s.crop_w == s.resized_w && s.warp == static_cast<int32_t>(Warp::none) &&
         s.filter == static_cast<int32_t>(Filter::none) && s.stretch == static_cast<int32_t>(Stretch::none) &&
         s.blend == static_cast<int32_t>(Blend::none) && s.colour == 0 && s.hue == 0.0f && s.table < 0;
}

// Memory that is wanted soon, fetched line by line while something else is at work.
struct Ahead {
  const char* at;
  int64_t bytes;

  template <int kWrite>
  void fetch(int64_t most_bytes) {
    for (const int64_t left = bytes - most_bytes; bytes > 0 && bytes > left; at += 64, bytes -= 64) {
      __builtin_prefetch(at, kWrite);
    }
  }
};

// Such a pass: its canvas as a dense picture. Meanwhile fetches what the next sample reads, and where this one goes.
void move(const ImagePass& s, int32_t channels, const ImageKernels& k, uint8_t* out, Ahead input, Ahead output) {
  const View columns = make_view(s.resized_w, s.window_x, s.canvas_w, s.flip & 1);
  const View rows = make_view(s.resized_h, s.window_y, s.canvas_h, s.flip & 2);
  const int64_t row_bytes = static_cast<int64_t>(s.canvas_w) * channels;
  if (columns.end - columns.begin < s.canvas_w || rows.end - rows.begin < s.canvas_h) {
    fill_pixels(out, static_cast<int64_t>(s.canvas_h) * s.canvas_w, s.fill, channels);
  }
  if (columns.begin == columns.end) return;
  out += columns.begin * channels;
  for (int32_t y = rows.begin; y < rows.end; ++y) {
    input.fetch<0>(row_bytes + 32);
    output.fetch<1>(row_bytes * 4);
    move_row(s, channels, k, columns, rows.at(y), out + y * row_bytes);
  }
}

// Crop, resize, window, flip: calls sink(y, row) once for every canvas row, in no promised order; the sink may write to
// the row, and past its end. A row without fill is first offered half resized, to `direct`.
template <typename Sink, typename Direct>
void resize(const ImagePass& s, int32_t channels, const ImageKernels& k, Workspace& ws, const Sink& sink,
            const Direct& direct) {
  const Axis across = make_axis(s.crop_w, s.resized_w, s.resample);
  const Axis down = make_axis(s.crop_h, s.resized_h, s.resample);
  const View columns = make_view(s.resized_w, s.window_x, s.canvas_w, s.flip & 1);
  const View rows = make_view(s.resized_h, s.window_y, s.canvas_h, s.flip & 2);
  const int32_t shown = columns.end - columns.begin;
  const auto put_fill = [&](uint8_t* row, int32_t begin, int32_t end) {
    fill_pixels(row + static_cast<int64_t>(begin) * channels, end - begin, s.fill, channels);
  };
  uint8_t* row = ws.row.need(static_cast<int64_t>(s.canvas_w) * channels + kRowPadding);
  uint8_t* shown_row = row + static_cast<int64_t>(columns.begin) * channels;
  const auto give = [&](int32_t y) {  // with the shown pixels in place
    put_fill(row, 0, columns.begin);
    put_fill(row, columns.end, s.canvas_w);
    sink(y, row);
  };

  for (int32_t y = 0; y < s.canvas_h; ++y) {
    if (shown > 0 && rows.holds(y)) continue;
    put_fill(row, 0, s.canvas_w);
    sink(y, row);
  }
  if (shown == 0) return;

  if (s.crop_w == s.resized_w && s.crop_h == s.resized_h) {  // nothing to resize
    for (int32_t y = rows.begin; y < rows.end; ++y) {
      move_row(s, channels, k, columns, rows.at(y), shown_row);
      give(y);
    }
    return;
  }

  plan_taps(across, columns, ws.exact, ws.columns);
  plan_taps(down, rows, ws.exact, ws.rows);
  const Span input = ws.rows.input;
  const int64_t row_bytes = static_cast<int64_t>(ws.columns.input.count) * channels;
  const int32_t window = k.lanes ? 4 * k.lanes / k.windows : 0;
  const bool narrow = row_bytes < window;  // too narrow for a look-up: rows are copied to where they can be over-read
  if (k.lanes) plan_gather(k, ws.columns, channels, std::max<int64_t>(row_bytes, window), ws.gather);
  uint8_t* const copies = narrow ? ws.narrow.need(kBlockRows * window) : nullptr;

  constexpr int32_t kBlockPairs = kBlockRows / 2;
  const int32_t reach = plan_pairs(ws.rows, ws);
  int32_t slots = 1;
  while (slots < reach + kBlockPairs) slots *= 2;
  const int32_t elements = shown * channels;
  const int64_t stride = ((elements + 63) / 64 + 1) * 128;  // int16 of a ring row; kernels read a bit too much
  int16_t* ring = ws.ring.need(slots * stride);
  const auto slot = [&](int32_t pair) { return ring + (pair & (slots - 1)) * stride; };
  const int16_t** pairs = ws.pairs.need(reach);

  int32_t ready = 0;                             // pairs
  for (int32_t i = 0; i < ws.rows.count; ++i) {  // from the picture's top to its bottom, whatever the flip
    const int32_t y = rows.step > 0 ? i : ws.rows.count - 1 - i;
    const PairSpan at = ws.pair_spans.data()[y];
    while (ready < at.first + at.count) {
      const uint8_t* in[kBlockRows];
      int16_t* out[kBlockPairs];
      for (int32_t r = 0; r < kBlockRows; ++r) {
        in[r] =
            stored_pixel(s, channels, input.first + std::min(2 * ready + r, input.count - 1), ws.columns.input.first);
        if (narrow) in[r] = static_cast<const uint8_t*>(memcpy(copies + r * window, in[r], row_bytes));
      }
      for (int32_t m = 0; m < kBlockPairs; ++m) out[m] = slot(ready + m);
      k.horizontal(ws.columns, ws.gather, channels, in, kBlockRows * s.row_bytes, out);
      ready += kBlockPairs;
    }
    for (int32_t m = 0; m < at.count; ++m) pairs[m] = slot(at.first + m);
    const Halfway halfway{pairs, ws.pair_weights.data() + at.weights, at.count, ws.rows.precision};
    if (shown == s.canvas_w && direct(rows.begin + y, halfway)) continue;
    k.vertical(pairs, halfway.weights, at.count, elements, halfway.precision, shown_row);
    give(rows.begin + y);
  }
}

// Whether the geometry hands on what it got.
bool moves_nothing(const ImagePass& s) {
  return s.warp == static_cast<int32_t>(Warp::none) && s.flip == 0 && s.crop_h == s.resized_h &&
         s.crop_w == s.resized_w && s.window_y == 0 && s.window_x == 0 && s.canvas_h == s.resized_h &&
         s.canvas_w == s.resized_w;
}

// The whole of the geometry: calls sink(y, row), or direct, once for every output row.
template <typename Sink, typename Direct>
void geometry(const ImagePass& s, int32_t channels, const ImageKernels& k, Workspace& ws, const Sink& sink,
              const Direct& direct) {
  if (s.warp == static_cast<int32_t>(Warp::none)) return resize(s, channels, k, ws, sink, direct);
  constexpr int32_t kSides_px = 2 * kFrame_px + 1;
  const int64_t stride = static_cast<int64_t>(s.canvas_w + kSides_px) * channels;
  uint8_t* framed = ws.canvas.need(stride * (s.canvas_h + kSides_px) + 4);
  uint8_t* origin = framed + kFrame_px * (stride + channels);
  fill_pixels(framed, kFrame_px * static_cast<int64_t>(s.canvas_w + kSides_px) + kFrame_px, s.fill, channels);
  for (int32_t y = 0; y < s.canvas_h; ++y) {
    fill_pixels(origin + y * stride + static_cast<int64_t>(s.canvas_w) * channels, kSides_px, s.fill, channels);
  }
  fill_pixels(origin + s.canvas_h * stride - kFrame_px * channels,
              (kFrame_px + 1) * static_cast<int64_t>(s.canvas_w + kSides_px), s.fill, channels);
  const auto keep = [&](int32_t y, const uint8_t* row) {
    memcpy(origin + y * stride, row, static_cast<int64_t>(s.canvas_w) * channels);
  };
  resize(s, channels, k, ws, keep, NeverHalfway());
  const Canvas canvas{origin, static_cast<int32_t>(stride), s.canvas_h, s.canvas_w};
  uint8_t* row = ws.row.need(static_cast<int64_t>(s.out_w) * channels + kRowPadding);
  for (int32_t y = 0; y < s.out_h; ++y) {
    k.warp(canvas, s, channels, y, 0, s.out_w, row);
    sink(y, row);
  }
}

// The same value n times: runs are short, and a call of memset takes longer than they do.
template <typename T>
void fill_run(T* to, int64_t n, T value) {
  constexpr int64_t kBlock = 16 / sizeof(T), kHalf = kBlock / 2;
  T block[kBlock];
  for (T& v : block) v = value;
  if (n < kHalf) {
    for (int64_t i = 0; i < n; ++i) memcpy(to + i, block, sizeof value);
    return;
  }
  if (n < kBlock) {
    memcpy(to, block, 8);
    memcpy(to + n - kHalf, block, 8);
    return;
  }
  for (int64_t i = 0; i + kBlock <= n; i += kBlock) memcpy(to + i, block, 16);
  memcpy(to + n - kBlock, block, 16);
}

// One box in `rows` rows of a pass's output, of which y is the first; see below.
template <typename C>
void erase_box(const ImagePass& s, const EraseBox& box, int32_t channels, int32_t y, int32_t rows,
               typename C::type* out, int64_t step, int64_t plane, FilterScratch& scratch) {
  const int64_t begin = std::max(box.x, 0), end = std::clamp<int64_t>(int64_t{box.x} + box.w, 0, s.out_w);
  const int64_t first = std::max(box.y, y), last = std::min(int64_t{box.y} + box.h, int64_t{y} + rows);
  if (begin >= end || first >= last) return;
  const auto row_of = [&](int64_t row, int32_t c) { return out + (row - y) * s.out_w * step + c * plane; };
  for (int32_t c = 0; c < channels; ++c) {
    if (box.sigma[c] != 0.0f) continue;
    const typename C::type value = C::from(box.values[c]);
    for (int64_t row = first; row < last; ++row) {
      typename C::type* to = row_of(row, c);
      if (step == 1) {
        fill_run(to + begin, end - begin, value);
      } else {
        for (int64_t x = begin; x < end; ++x) to[x * step] = value;
      }
    }
  }
  if (box.sigma[0] == 0.0f && box.sigma[1] == 0.0f && box.sigma[2] == 0.0f) return;
  for (int64_t row = first; row < last; ++row) {
    const int64_t element = (row * s.out_w + begin) * channels;  // of the first pixel
    const int64_t lead = element % 4, blocks = (lead + (end - begin) * channels + 3) / 4;
    uint32_t* words = scratch.words.need(4 * blocks);
    float* values = scratch.normals.need(4 * blocks);
    filter_kernels().words(box.noise, static_cast<uint32_t>(element / 4), static_cast<int32_t>(blocks), words);
    filter_kernels().normals(words, static_cast<int32_t>(4 * blocks), values);
    for (int32_t c = 0; c < channels; ++c) {
      if (box.sigma[c] == 0.0f) continue;
      const float* normals = values + lead + c;
      typename C::type* to = row_of(row, c);
      for (int64_t x = begin; x < end; ++x, normals += channels) {
        to[x * step] = C::from(box.values[c] + box.sigma[c] * *normals);
      }
    }
  }
}

// All boxes of a pass, in order, in `rows` rows of its output, of which y is the first. `out`: where pixel (y, 0) of
// channel 0 is; `step`, `plane`: elements from a pixel, from a channel to the next.
template <typename C>
void erase_rows(const FusedImageParams& p, const ImagePass& s, int32_t y, int32_t rows, typename C::type* out,
                int64_t step, int64_t plane, FilterScratch& scratch) {
  for (int32_t e = s.first_erase; e < s.first_erase + s.erases; ++e) {
    erase_box<C>(s, p.erases[e], p.channels, y, rows, out, step, plane, scratch);
  }
}

// A dense picture's histograms, per channel: counts [C, 256].
template <int32_t C>
void count_values(const uint8_t* picture, int64_t pixels, uint32_t* counts) {
  // Neighbours are often equal, and one counter cannot be written and read again at once: four take turns.
  uint32_t turns[4][C * 256] = {};
  int64_t x = 0;
  for (; x + 4 <= pixels; x += 4, picture += 4 * C) {
    for (int32_t t = 0; t < 4; ++t) {
      for (int32_t c = 0; c < C; ++c) ++turns[t][256 * c + picture[t * C + c]];
    }
  }
  for (; x < pixels; ++x, picture += C) {
    for (int32_t c = 0; c < C; ++c) ++turns[0][256 * c + picture[c]];
  }
  for (int32_t i = 0; i < 256 * C; ++i) counts[i] = turns[0][i] + turns[1][i] + turns[2][i] + turns[3][i];
}

// Adds up a dense picture's values, per channel. In blocks of a multiple of both 3 and 16 bytes, whose sums fit 16 bits
// for as many of them as a byte's greatest value allows.
void sum_values(const uint8_t* picture, int64_t elements, int32_t channels, uint64_t* sums) {
  constexpr int32_t kBlock = 48, kBlocks = 65535 / 255;
  int64_t e = 0;
  while (e + kBlock <= elements) {
    uint16_t part[kBlock] = {};
    const int64_t blocks = std::min<int64_t>(kBlocks, (elements - e) / kBlock);
    for (int64_t b = 0; b < blocks; ++b, e += kBlock) {
      for (int32_t i = 0; i < kBlock; ++i) part[i] = static_cast<uint16_t>(part[i] + picture[e + i]);
    }
    for (int32_t i = 0; i < kBlock; ++i) sums[i % channels] += part[i];
  }
  for (; e < elements; ++e) sums[e % channels] += picture[e];
}

// A pass's pixel-by-pixel stages.
struct Pointwise {
  const ImagePass& s;
  int32_t channels;
  const ImageKernels& k;
  const uint8_t* stretch;  // [channels, 256] or null
  const uint8_t* table;    // likewise
  float constant[3];       // of its colour

  Pointwise(const FusedImageParams& p, const ImagePass& pass, const ImageKernels& kernels)
      : s(pass),
        channels(p.channels),
        k(kernels),
        stretch(nullptr),
        table(pass.table < 0 ? nullptr : p.tables + static_cast<int64_t>(pass.table) * p.channels * 256) {
    const float none[3] = {0, 0, 0};
    set_mean(none);
  }

  void set_mean(const float* mean) {
    for (int32_t c = 0; c < 3; ++c) {
      constant[c] = colour_constant(s.colour_mean_matrix + 3 * c, mean, s.colour_offset[c]);
    }
  }

  bool idle() const { return stretch == nullptr && table == nullptr && !s.colour && s.hue == 0.0f; }

  void operator()(uint8_t* row) const {
    const int32_t elements = s.out_w * channels;
    if (stretch != nullptr) k.look_up(stretch, channels, elements, row);
    if (s.colour) k.colour(s.colour_matrix, constant, channels, 0, s.out_w, row);
    if (s.hue != 0.0f && channels == 3) k.hue(s.hue, 0, s.out_w, row);
    if (table != nullptr) k.look_up(table, channels, elements, row);
  }
};

// One pass: calls sink(y, row) once for every finished uint8 row, before erasing. Rows that need nothing between the
// vertical pass and the sink are first offered to `direct`.
template <typename Sink, typename Direct>
void run_pass(const FusedImageParams& p, const ImagePass& s, const ImageKernels& k, Workspace& ws, const Sink& sink,
              const Direct& direct) {
  Pointwise point(p, s, k);
  const bool stretched = s.stretch != static_cast<int32_t>(Stretch::none), mean = needs_mean(s);
  const bool filtered = s.filter != static_cast<int32_t>(Filter::none);
  if (!stretched && !mean && !filtered) {
    const auto give = [&](int32_t y, uint8_t* row) {
      point(row);
      sink(y, row);
    };
    if (point.idle()) return geometry(s, p.channels, k, ws, give, direct);
    return geometry(s, p.channels, k, ws, give, NeverHalfway());
  }

  const int32_t elements = s.out_w * p.channels;
  const int64_t pixels = static_cast<int64_t>(s.out_h) * s.out_w, size = pixels * p.channels + kRowPadding;
  const uint8_t* picture = reinterpret_cast<const uint8_t*>(s.data);
  if (!moves_nothing(s) || s.row_bytes != elements || s.origin_y != 0 || s.origin_x != 0 || s.stored_w != s.crop_w ||
      (filtered && !ws.left(picture))) {
    uint8_t* shaped = ws.shaped.need(size);
    const auto hold = [&](int32_t y, const uint8_t* row) {
      memcpy(shaped + static_cast<int64_t>(y) * elements, row, elements);
    };
    geometry(s, p.channels, k, ws, hold, NeverHalfway());
    picture = shaped;
  }
  if (filtered) {
    uint8_t* out = ws.filtered.need(size);
    filter_picture(s, p.weights, p.channels, picture, out, ws.filter);
    picture = out;
  }
  uint64_t sums[3] = {0, 0, 0};
  if (stretched) {
    uint32_t* counts = ws.counts.need(3 * 256);
    uint8_t* tables = ws.stretches.need(3 * 256);
    if (p.channels == 3) {
      count_values<3>(picture, pixels, counts);
    } else {
      count_values<1>(picture, pixels, counts);
    }
    for (int32_t c = 0; c < p.channels; ++c) {
      stretch_table(s.stretch, counts + 256 * c, pixels, tables + 256 * c);
      sums[c] = sum_after(counts + 256 * c, tables + 256 * c);
    }
    point.stretch = tables;
  } else if (mean) {
    sum_values(picture, pixels * p.channels, p.channels, sums);
  }
  if (mean) {
    float means[3];
    for (int32_t c = 0; c < 3; ++c) means[c] = mean_byte(sums[p.channels == 1 ? 0 : c], pixels);
    point.set_mean(means);
  }
  uint8_t* row = ws.row.need(elements + kRowPadding);
  for (int32_t y = 0; y < s.out_h; ++y) {
    memcpy(row, picture + static_cast<int64_t>(y) * elements, elements);
    point(row);
    sink(y, row);
  }
}

// A dense uint8 picture between passes.
struct Picture {
  uint8_t* data = nullptr;
  int32_t h = 0, w = 0;
};

// What a sample's passes leave behind for each other.
class Chain {
 public:
  Chain(const FusedImageParams& p, Workspace& ws) : p_(p), ws_(ws) {}

  // The pass as it finds its input: what came before, or the kept picture.
  ImagePass prepare(int32_t j) const {
    ImagePass s = p_.passes[j];
    const Picture& in = s.from_kept ? kept_ : last_;
    if (in.data == nullptr) return s;  // the first
    s.data = reinterpret_cast<uint64_t>(in.data);
    s.row_bytes = static_cast<int64_t>(in.w) * p_.channels;
    s.stored_h = in.h;
    s.stored_w = in.w;
    return s;
  }

  // Runs a pass whose picture another takes up, or the batch after a blend.
  const Picture& run(const ImagePass& s, const ImageKernels& k) {
    const int32_t elements = s.out_w * p_.channels;
    const int64_t bytes = static_cast<int64_t>(s.out_h) * elements;
    turn_ = !turn_;
    uint8_t* out = ws_.pictures[turn_].need(bytes + kRowPadding);
    const auto sink = [&](int32_t y, const uint8_t* row) {
      uint8_t* to = out + static_cast<int64_t>(y) * elements;
      memcpy(to, row, elements);
      erase_rows<Cast<DType::uint8>>(p_, s, y, 1, to, p_.channels, 1, ws_.filter);
    };
    run_pass(p_, s, k, ws_, sink, NeverHalfway());
    last_ = {out, s.out_h, s.out_w};
    if (s.blend != static_cast<int32_t>(Blend::none)) blend(s, out, bytes);
    if (s.keep) {
      kept_ = {ws_.kept.need(bytes + kRowPadding), s.out_h, s.out_w};
      memcpy(kept_.data, out, bytes);
      std::fill_n(ws_.sum.need(bytes), bytes, 0.0f);
    }
    return last_;
  }

 private:
  void blend(const ImagePass& s, uint8_t* out, int64_t bytes) {
    float* sum = ws_.sum.data();
    for (int64_t e = 0; e < bytes; ++e) sum[e] = sum[e] + s.weight * static_cast<float>(out[e]);
    if (s.blend != static_cast<int32_t>(Blend::last)) return;
    for (int64_t e = 0; e < bytes; ++e) {
      out[e] = blend_to_byte(sum[e] + s.kept_weight * static_cast<float>(kept_.data[e]));
    }
  }

  const FusedImageParams& p_;
  Workspace& ws_;
  Picture last_, kept_;
  int turn_ = 0;
};

constexpr int64_t kSmall_px = 128 * 128;  // a picture that stays in the first cache, or nearly so

void run_sample(const Finish& f, int32_t i, const ImageKernels& k) {
  const FusedImageParams& p = f.p;
  thread_local Workspace scratch;
  Workspace& ws = scratch;
  const bool planes = p.layout == Layout::nchw;
  const int64_t pixels = static_cast<int64_t>(p.out_h) * p.out_w;
  const int64_t step = planes ? 1 : p.channels, row_step = p.out_w * step;
  uint8_t* out = static_cast<uint8_t*>(p.out) + i * pixels * p.channels * dtype_bytes(p.dtype);
  const auto row_of = [&](int32_t y) { return out + y * row_step * dtype_bytes(p.dtype); };

  Chain chain(p, ws);
  const int32_t end = p.starts[i + 1];
  for (int32_t j = p.starts[i]; j < end; ++j) {
    const ImagePass s = chain.prepare(j);
    const auto erase = [&](int32_t y, int32_t rows) {
      if (s.erases == 0) return;
      with_cast(p.dtype, [&](auto cast) {
        using C = decltype(cast);
        typename C::type* first = reinterpret_cast<typename C::type*>(row_of(y));
        erase_rows<C>(p, s, y, rows, first, step, planes ? pixels : 1, ws.filter);
      });
    };
    const auto finish = [&](int32_t y, const uint8_t* row) {
      k.finish(f, row, s.out_w, row_of(y));
      erase(y, 1);
    };
    if (j + 1 < end) {
      chain.run(s, k);
    } else if (s.blend != static_cast<int32_t>(Blend::none)) {  // blended in uint8, and erased after that
      ImagePass blended = s;
      blended.erases = 0;
      const Picture& picture = chain.run(blended, k);
      const int64_t elements = static_cast<int64_t>(picture.w) * p.channels;
      for (int32_t y = 0; y < picture.h; ++y) finish(y, picture.data + y * elements);
    } else if (only_moves(s) && pixels <= kSmall_px) {  // rows that are too short to be worth going one by one
      uint8_t* picture = ws.shaped.need(pixels * p.channels + kRowPadding);
      // Pictures of a large array come in any order: no hardware guesses what the next sample reads.
      const ImagePass* next = i + 1 < p.n ? &p.passes[end] : nullptr;
      const int64_t next_bytes = next ? int64_t{next->stored_h} * next->stored_w * p.channels : 0;
      move(s, p.channels, k, picture, {next ? reinterpret_cast<const char*>(next->data) : nullptr, next_bytes},
           {reinterpret_cast<const char*>(out), pixels * p.channels * dtype_bytes(p.dtype)});
      k.finish(f, picture, static_cast<int32_t>(pixels), out);
      erase(0, s.out_h);
    } else {
      const auto finish_halfway = [&](int32_t y, const Halfway& h) {  // the common case, in fewer steps
        if (k.vertical_finish == nullptr) return false;
        k.vertical_finish(f, h.pairs, h.weights, h.n, h.precision, row_of(y));
        erase(y, 1);
        return true;
      };
      run_pass(p, s, k, ws, finish, finish_halfway);
    }
  }
  ws.trim();
  if (f.stream) std::atomic_thread_fence(std::memory_order_seq_cst);  // no other order holds for streamed stores
}

}  // namespace

const char* cpu_target() { return kernels().load()->name; }

void set_cpu_target(const char* name) {
  const std::string wanted = name == nullptr ? "" : name;
  for (const ImageKernels* k : {best_kernels(), avx2_kernels(), &scalar_kernels}) {
    if (k != nullptr && (wanted.empty() || wanted == k->name)) {
      kernels().store(k);
      return;
    }
  }
  throw std::invalid_argument(
      "cpu_target: expected \"scalar\", \"avx2\" or \"avx512\" where the machine has it, got \"" + wanted +
      "\" (the best here is \"" + best_kernels()->name + "\")");
}

void fused_image_cpu(const FusedImageParams& p, int32_t threads) {
  check_fused_image(p);
  const ImageKernels& k = *kernels().load();
  constexpr int64_t kStream_bytes = 1 << 20;  // an output that outgrows the second cache is not worth keeping in it
  const int64_t row_bytes =
      static_cast<int64_t>(p.out_w) * dtype_bytes(p.dtype) * (p.layout == Layout::nchw ? 1 : p.channels);
  const bool aligned = reinterpret_cast<uintptr_t>(p.out) % 64 == 0 && row_bytes % 64 == 0;
  const int64_t bytes = static_cast<int64_t>(p.n) * p.out_h * p.out_w * p.channels * dtype_bytes(p.dtype);
  const bool small = int64_t{p.out_h} * p.out_w <= kSmall_px;  // whose output is fetched ahead
  const Finish finish(p, k.lanes, aligned && bytes > kStream_bytes && !small);
  parallel_for(p.n, threads, [&](int64_t i) { run_sample(finish, static_cast<int32_t>(i), k); });
}

}  // namespace dalipipe
