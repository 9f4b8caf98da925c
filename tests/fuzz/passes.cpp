// Feeds the operators of pixels and labels batches that are made from the input: mostly such as they take, here and
// there a field that is not. What is refused must be refused before anything is touched; what is taken must come out
// the same, to the bit, whatever the instruction set.
#include "choices.h"
#include "fuzz.h"
#include "labels.h"
#include "mix.h"
#include "ops.h"

using namespace dalipipe;

namespace {

constexpr int64_t kMost_px = 1 << 17;  // of a picture, so that a run takes milliseconds

struct Size {
  int32_t h, w;
};

// A pass that takes up a picture of size `in` and gives `out`.
void draw_pass(Choices& c, Size in, Size out, ImagePass& s) {
  const Size crop = c.byte() % 2 ? in : Size{c.in(1, in.h), c.in(1, in.w)};
  const int32_t y = c.in(0, in.h - crop.h), x = c.in(0, in.w - crop.w);
  s.row_bytes = in.w;  // times channels, later
  s.stored_h = in.h, s.stored_w = in.w;
  s.warp = c.odd(c.byte() % 2 ? c.in(1, 3) : 0);
  const Size canvas = s.warp ? Size{c.side(), c.side()} : out;
  const Size resized = c.byte() % 2 ? crop : c.byte() % 2 ? canvas : Size{c.side(), c.side()};
  s.origin_y = c.odd(-y), s.origin_x = c.odd(-x);
  s.crop_h = c.odd(crop.h), s.crop_w = c.odd(crop.w);
  s.resized_h = c.odd(resized.h), s.resized_w = c.odd(resized.w);
  s.window_y = c.odd(c.byte() % 2 ? 0 : c.in(-20, 20)), s.window_x = c.odd(c.byte() % 2 ? 0 : c.in(-20, 20));
  s.canvas_h = c.odd(canvas.h), s.canvas_w = c.odd(canvas.w);
  s.out_h = c.odd(out.h), s.out_w = c.odd(out.w);
  s.resample = c.odd(c.in(0, 2)), s.flip = c.odd(c.in(0, 3));
  const float unit[9] = {1, 0, 0, 0, 1, 0, 0, 0, 1};
  for (int i = 0; i < 9; ++i) s.matrix[i] = c.odd(unit[i] + (i < 6 ? c.real(-0.5f, 0.5f) : 0.0f));
  s.matrix[2] *= 16, s.matrix[5] *= 16;
  for (uint8_t& v : s.fill) v = c.byte();
  s.filter = c.odd(c.byte() % 2 ? c.in(1, 7) : 0);
  s.filter_h = c.odd(2 * c.in(0, 5) + 1), s.filter_w = c.odd(2 * c.in(0, 5) + 1);
  s.filter_weights = c.odd<int64_t>(c.in(0, 7));
  const float values[8][2] = {{0, 0},
                              {c.real(-3, 1), 0},
                              {0, 0},
                              {0, 0},
                              {c.real(-9, 9), c.real(0, 60)},
                              {0.4f, 0.3f},
                              {c.real(1, 30), c.real(0, 20)},
                              {static_cast<float>(c.in(1, 100)), 0}};
  for (int i = 0; i < 12; ++i)
    s.filter_values[i] = c.odd(i < 2 && s.filter > 0 && s.filter < 8 ? values[s.filter][i] : 0.6f);
  draw_key(c, s.noise);
  s.stretch = c.odd(c.byte() % 2 ? c.in(0, 2) : 0);
  s.colour = c.odd(c.in(0, 1));
  for (int i = 0; i < 9; ++i) s.colour_matrix[i] = c.odd(c.real(-1, 1));
  if (c.byte() % 2) {
    for (float& v : s.colour_mean_matrix) v = c.odd(c.real(-1, 1));
  }
  for (float& v : s.colour_offset) v = c.odd(c.real(-99, 99));
  s.hue = c.odd(c.byte() % 2 ? c.real(-0.5f, 0.5f) : 0.0f);
  s.table = c.odd(c.in(-1, 1));
  s.erases = c.odd(c.in(0, 3)), s.first_erase = c.odd(c.in(0, 1));
}

bool small(int64_t h, int64_t w) { return h * w <= kMost_px; }

void images(Choices& c, Memory& memory) {
  FusedImageParams p{};
  p.n = c.in(1, 2);
  p.channels = c.odd(c.byte() % 2 ? 3 : 1);
  const int32_t channels = p.channels == 3 ? 3 : 1;
  const Size out{c.side(), c.side()};
  p.out_h = out.h, p.out_w = out.w;
  int32_t* starts = memory.make<int32_t>(p.n + 1);
  for (int32_t i = 0; i < p.n; ++i) starts[i + 1] = starts[i] + c.in(1, 4);
  ImagePass* passes = memory.make<ImagePass>(starts[p.n]);
  for (int32_t i = 0; i < p.n; ++i) {
    Size in = c.byte() % 2 ? out : Size{c.side(), c.side()};
    Size kept{0, 0};
    for (int32_t j = starts[i]; j < starts[i + 1]; ++j) {
      ImagePass& s = passes[j];
      const bool first = j == starts[i], last = j + 1 == starts[i + 1];
      const Size made = last || c.byte() % 4 ? out : Size{c.side(), c.side()};
      draw_pass(c, in, made, s);
      s.keep = c.odd(c.in(0, 1));
      if (!first && kept.h > 0) {
        if (c.byte() % 2) s.from_kept = c.odd(static_cast<int32_t>(kept.h == in.h && kept.w == in.w));
        if (c.byte() % 2) s.blend = c.odd(kept.h == made.h && kept.w == made.w ? c.in(0, 2) : 0);
        s.weight = c.odd(c.real(-1, 1)), s.kept_weight = c.odd(c.real(-1, 1));
      }
      if (s.keep) kept = made;
      in = made;
      if (first) {
        const int64_t row = s.row_bytes * channels + c.in(0, 3);
        // The last row ends with its last pixel, and so does the memory.
        s.data = reinterpret_cast<uint64_t>(memory.noise(row * (s.stored_h - 1) + s.stored_w * channels, c.byte()));
        s.row_bytes = row;
        s.origin_y = c.odd(s.origin_y);
      }
      if (s.warp && c.byte() % 3 == 0 && s.out_h > 0 && s.out_w > 0 && small(s.out_h, s.out_w)) {
        float* field = memory.make<float>(int64_t{2} * s.out_h * s.out_w);
        for (int64_t k = 0; k < int64_t{2} * s.out_h * s.out_w; ++k)
          field[k] = k < 4 ? c.odd(c.real(-9, 9)) : c.real(-9, 9);
        s.displacement = reinterpret_cast<uint64_t>(field);
      }
    }
  }
  p.passes = passes;
  p.starts = starts;
  p.tables = memory.noise(2 * channels * 256, 1);
  p.table_count = 2;
  p.weight_count = 140;
  float* weights = memory.make<float>(p.weight_count);
  for (int64_t i = 0; i < p.weight_count; ++i)
    weights[i] = i < 9 ? c.odd(c.real(-0.2f, 0.3f)) : c.byte() % 4 ? c.real(-0.2f, 0.3f) : 0.0f;
  p.weights = weights;
  p.erase_count = 4;
  EraseBox* boxes = memory.make<EraseBox>(p.erase_count);
  for (int32_t i = 0; i < p.erase_count; ++i) {
    EraseBox& box = boxes[i];
    box.y = c.odd(c.in(-9, 40)), box.x = c.odd(c.in(-9, 40)), box.h = c.odd(c.in(0, 20)), box.w = c.odd(c.in(0, 20));
    for (int k = 0; k < 3; ++k) box.values[k] = c.odd(c.real(0, 255));
    for (int k = 0; k < 3 && c.byte() % 2; ++k) box.sigma[k] = c.odd(c.real(0, 9));
    draw_key(c, box.noise);
  }
  p.erases = boxes;
  p.dtype = static_cast<DType>(c.odd(c.in(0, 3)));
  p.layout = static_cast<Layout>(c.odd(c.in(0, 1)));
  for (int k = 0; k < 3; ++k) {
    const bool plain = p.dtype == DType::uint8;
    p.scale[k] = c.odd(plain ? 1.0f : c.real(-1, 1)), p.bias[k] = c.odd(plain ? 0.0f : c.real(-9, 9));
  }
  const int64_t bytes = int64_t{4} * p.n * out.h * out.w * channels;
  p.out = memory.make<uint8_t>(bytes);
  if (!takes([&] { check_fused_image(p); })) return;
  for (int32_t j = 0; j < starts[p.n]; ++j) {
    const ImagePass& s = passes[j];
    if (!small(s.canvas_h, s.canvas_w) || !small(s.out_h, s.out_w) || !small(s.crop_w, 1) || !small(s.crop_h, 1))
      return;
    if (!small(s.resized_h, 1) || !small(s.resized_w, 1)) return;
  }
  const int64_t used = int64_t{1} * p.n * out.h * out.w * channels *
                       (p.dtype == DType::uint8     ? 1
                        : p.dtype == DType::float32 ? 4
                                                    : 2);
  p.out = memory.make<uint8_t>(used);
  void* other = memory.make<uint8_t>(used);
  set_cpu_target("scalar");
  fused_image_cpu(p, 1);
  std::swap(p.out, other);
  set_cpu_target(c.byte() % 2 ? nullptr : cpu_target());
  fused_image_cpu(p, 1);
  require(std::memcmp(p.out, other, used) == 0, "all instruction sets give the same bits");
  if (takes([] { set_cpu_target("avx2"); })) fused_image_cpu(p, 1);
  require(std::memcmp(p.out, other, used) == 0, "and so does AVX2");
}

void fields(Choices& c, Memory& memory) {
  ElasticField f{};
  f.h = c.odd(c.side()), f.w = c.odd(c.side());
  for (int a = 0; a < 2; ++a) {
    f.taps[a] = c.odd(c.byte() % 4 ? 2 * c.in(0, 60) + 1 : 0);
    f.scale[a] = c.odd(c.real(0, 50));
  }
  draw_key(c, f.noise);
  const int64_t weights = int64_t{2} * (std::max(f.taps[0], 0) + int64_t{1} * std::max(f.taps[1], 0));
  float* w = memory.make<float>(weights < 99999 ? weights : 1);
  for (int64_t i = 0; i < weights && weights < 99999; ++i) w[i] = i < 9 ? c.odd(c.real(0, 0.1f)) : 0.01f;
  f.weights = reinterpret_cast<uint64_t>(w);
  const bool drawn = f.h > 0 && f.w > 0 && small(f.h, f.w);
  f.out = reinterpret_cast<uint64_t>(memory.make<float>(drawn ? int64_t{2} * f.h * f.w : 1));
  if (takes([&] { check_elastic(&f, 1); }) && drawn) elastic_cpu(&f, 1, 1);
}

void labels(Choices& c, Memory& memory) {
  MoveLabelsParams p{};
  p.n = 1;
  const Size out{c.side(), c.side()};
  p.out_h = out.h, p.out_w = out.w;
  Size in{c.side(), c.side()};
  LabelMap map{};
  map.h = in.h, map.w = in.w;
  map.bytes = c.odd(c.byte() % 2 ? 1 : 4);
  map.row_bytes = c.odd<int64_t>(in.w * (map.bytes == 1 ? 1 : 4));
  map.data = reinterpret_cast<uint64_t>(
      memory.noise(std::min<int64_t>(std::max<int64_t>(map.row_bytes, 0), 1 << 12) * in.h, 7));
  if (map.row_bytes > 1 << 12) return;
  int32_t starts[2] = {0, c.in(1, 4)};
  ImagePass* passes = memory.make<ImagePass>(starts[1]);
  for (int32_t j = 0; j < starts[1]; ++j) {
    const Size made = j + 1 == starts[1] || c.byte() % 2 ? out : Size{c.side(), c.side()};
    draw_pass(c, in, made, passes[j]);
    in = made;
  }
  p.maps = &map;
  p.passes = passes;
  p.starts = starts;
  p.table_count = c.odd(c.in(1, 300));
  if (c.byte() % 2) p.table = memory.make<int32_t>(p.table_count < 1 || p.table_count > 1 << 20 ? 1 : p.table_count);
  if (p.table && p.table_count > 1 << 20) return;
  p.ignore = c.odd(255);
  p.out_bytes = c.odd(c.byte() % 2 ? 8 : 1);
  p.out = memory.make<uint8_t>(int64_t{8} * out.h * out.w);
  takes([&] { move_labels_cpu(p, 1); });
}

void mixes(Choices& c, Memory& memory) {
  MixParams p{};
  const int32_t n = 4, h = c.side(), w = c.side();
  MixPair pairs[2];
  for (int32_t i = 0; i < 2; ++i) {
    MixPair& pair = pairs[i];
    for (int32_t k = 0; k < 2; ++k) {
      pair.rows[k] = c.odd(2 * i + k);
      pair.weights[k] = c.odd(c.real(0, 1));
      const int32_t y = c.in(0, h), x = c.in(0, w);
      const int32_t box[4] = {y, x, c.in(0, h - y), c.in(0, w - x)};
      for (int32_t a = 0; a < 4; ++a) pair.boxes[k][a] = c.odd(box[a]);
    }
  }
  p.pairs = pairs;
  p.pair_count = 2;
  p.n = n, p.channels = 3, p.h = h, p.w = w;
  p.dtype = static_cast<DType>(c.odd(c.in(0, 3)));
  p.layout = static_cast<Layout>(c.odd(c.in(0, 1)));
  // Of halves, bfloat16 and floats, zeros are finite.
  const int64_t bytes = p.dtype == DType::uint8 ? 1 : p.dtype == DType::float32 ? 4 : 2;
  p.batch = memory.make<uint8_t>(int64_t{3} * n * h * w * bytes);
  takes([&] { mix_cpu(p, 1); });
}

}  // namespace

void fuzz_passes(const uint8_t* data, size_t size) {
  Choices choices(data, size);
  Memory memory;
  switch (choices.byte() % 8) {
    case 0: return fields(choices, memory);
    case 1: return labels(choices, memory);
    case 2: return mixes(choices, memory);
    case 3: return fuzz_chains(choices, memory);
    default: return images(choices, memory);
  }
}
