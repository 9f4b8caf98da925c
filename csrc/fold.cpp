#include "fold.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <stdexcept>

#include "pixel.h"

namespace dalipipe {
namespace {

// How far a sample's pass has come.
enum Stage {
  kStart,
  kResized,
  kCropped,
  kWarped,
  kWarpCropped,
  kDisplaced,
  kFiltered,
  kStretched,
  kColoured,
  kHued,
  kTabled,
  kErased,
  kClosed
};

using Matrix = std::array<double, 9>;
constexpr Matrix kEye = {1, 0, 0, 0, 1, 0, 0, 0, 1};

Matrix product(const Matrix& a, const Matrix& b) {
  Matrix out;
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) out[3 * i + j] = a[3 * i] * b[j] + a[3 * i + 1] * b[3 + j] + a[3 * i + 2] * b[6 + j];
  }
  return out;
}

Matrix sum(const Matrix& a, const Matrix& b) {
  Matrix out;
  for (int i = 0; i < 9; ++i) out[i] = a[i] + b[i];
  return out;
}

// What one sample's row of a parameter is.
template <typename T>
const T* of_row(const FoldOp& op, int param, int64_t row, int64_t width) {
  return reinterpret_cast<const T*>(op.params[param]) + row * width;
}
Matrix matrix_of(const FoldOp& op, int param, int64_t row) {
  Matrix out;
  std::copy_n(of_row<double>(op, param, row, 9), 9, out.begin());
  return out;
}

// A pass in the making. Pairs are y, x.
struct Pass {
  ImagePass stored{};  // what is stored as it is drawn: filter, stretch, hue, blend
  int64_t box[4];
  int64_t resized[2], canvas[2], out[2], window[2] = {0, 0};
  int64_t resample = 0;
  bool flip[2] = {false, false};  // up-down, left-right
  Matrix matrix = kEye;
  int64_t warp = -1;               // none yet
  int32_t fill[3] = {-1, -1, -1};  // none yet
  bool fixed = false;              // pixels may not move any more
  bool colour = false, bounded = true;
  Matrix colour_matrix = kEye, mean_matrix{};
  double offset[3] = {0, 0, 0};
  bool has_table = false;
  uint8_t table[256];
  const FoldOp* elastic = nullptr;  // and its row
  int64_t elastic_row = 0;
  size_t first_erase = 0;

  bool warped() const { return warp > 0; }
};

// A sample on its way through its operators.
class Sample {
 public:
  Sample(const FoldParams& p, Folded& out, const int64_t* size) : p_(p), out_(out), size_{size[0], size[1]} {
    begin(false);
  }

  void end_pass() {
    if (stage_ != kStart || pass_.flip[0] || pass_.flip[1]) next_pass();
  }

  // Takes an operator in; returns the pass that it is in, or -1 where it does nothing.
  int32_t then(const FoldOp& op, int64_t row) {
    const Family family = static_cast<Family>(op.family);
    if (family == Family::warp && matrix_of(op, 0, row) == kEye) return -1;
    if (!fits(op, family, row)) next_pass();
    apply(op, family, row);
    return depth_;
  }

  void finish() {
    finish_pass(true);
    out_.starts.push_back(static_cast<int32_t>(out_.passes.size()));
    out_.out_size.insert(out_.out_size.end(), size_, size_ + 2);
  }

 private:
  void begin(bool from_kept) {
    pass_ = Pass();
    pass_.box[0] = pass_.box[1] = 0;
    for (int a = 0; a < 2; ++a) {
      pass_.box[2 + a] = pass_.resized[a] = pass_.canvas[a] = pass_.out[a] = size_[a];
    }
    pass_.stored.from_kept = from_kept;
    pass_.first_erase = out_.erases.size();
    stage_ = kStart;
  }

  void next_pass() {
    finish_pass(false);
    ++depth_;
    begin(restarts_);
    restarts_ = false;
  }

  // Whether the pass has not gone beyond the operator's stage.
  bool fits(const FoldOp& op, Family family, int64_t row) const {
    switch (family) {
      case Family::resize: {
        // The window's flip comes after it. Of a filter that is the same, but for a level where weights are rounded;
        // the nearest pixels of a picture that is turned are others.
        const bool nearest = *of_row<int64_t>(op, 2, row, 1) == static_cast<int64_t>(Resample::nearest);
        return stage_ == kStart && !(nearest && (pass_.flip[0] || pass_.flip[1]));
      }
      case Family::crop:
      case Family::warp:
      case Family::elastic: {
        // What a warp pushes out of the picture must not come back by the next, or by a crop that adds a border; nor
        // what a second crop fills.
        bool fitting = stage_ <= kCropped;
        if (family == Family::crop) {
          const int64_t* box = of_row<int64_t>(op, 0, row, 4);
          const bool inside = box[0] >= 0 && box[1] >= 0 && box[0] + box[2] <= size_[0] && box[1] + box[3] <= size_[1];
          fitting = stage_ <= kWarped && stage_ != kCropped && (stage_ < kWarped || inside);
        }
        const bool filled = stage_ >= kCropped;  // what stands outside is settled
        return fitting && (!filled || std::equal(op.fill, op.fill + 3, pass_.fill));
      }
      case Family::flip:  // moves pixels, changes none: commutes with all that looks at one alone
        return stage_ < kErased && !pass_.fixed;
      case Family::filter: return stage_ < kFiltered;
      case Family::stretch: return stage_ < kStretched;
      case Family::colour:  // what is clamped in between would be lost
        return stage_ < kColoured || (stage_ == kColoured && pass_.bounded);
      case Family::hue: return stage_ < kHued;
      case Family::table: return stage_ <= kTabled;
      case Family::erase: return stage_ <= kErased;
      default: return stage_ < kClosed;
    }
  }

  void apply(const FoldOp& op, Family family, int64_t row) {
    switch (family) {
      case Family::resize: stage_ = kResized; return resize(op, row);
      case Family::crop: stage_ = stage_ == kWarped ? kWarpCropped : kCropped; return crop(op, row);
      case Family::flip: return flip(of_row<uint8_t>(op, 0, row, 2));
      case Family::warp:
        stage_ = kWarped;
        std::copy(op.fill, op.fill + 3, pass_.fill);
        pass_.warp = *of_row<int64_t>(op, 1, row, 1);
        pass_.matrix = matrix_of(op, 0, row);
        return;
      case Family::elastic:
        stage_ = kDisplaced;
        std::copy(op.fill, op.fill + 3, pass_.fill);
        pass_.warp = *of_row<int64_t>(op, 2, row, 1);
        pass_.fixed = true;
        pass_.elastic = &op;
        pass_.elastic_row = row;
        return;
      case Family::filter: stage_ = kFiltered; return filter(op, row);
      case Family::stretch:
        stage_ = kStretched;
        pass_.stored.stretch = op.detail;
        return;
      case Family::colour:
        stage_ = kColoured;
        return recolour(matrix_of(op, 0, row), matrix_of(op, 1, row), of_row<double>(op, 2, row, 3));
      case Family::hue:
        stage_ = kHued;
        pass_.stored.hue = static_cast<float>(*of_row<double>(op, 0, row, 1));
        return;
      case Family::table: {
        stage_ = kTabled;
        const uint8_t* table = of_row<uint8_t>(op, 0, row, 256);
        for (int v = 0; v < 256; ++v) pass_.table[v] = table[pass_.has_table ? pass_.table[v] : v];
        pass_.has_table = true;
        return;
      }
      case Family::erase:
        stage_ = kErased;
        pass_.fixed = true;
        return erase(op, row);
      default: stage_ = kClosed; return blend(op, row);
    }
  }

  void resize(const FoldOp& op, int64_t row) {
    const int64_t* box = of_row<int64_t>(op, 0, row, 4);  // of the picture as it is turned by now
    const int64_t* resized = of_row<int64_t>(op, 1, row, 2);
    for (int a = 0; a < 2; ++a) {
      pass_.box[a] = pass_.flip[a] ? pass_.canvas[a] - box[a] - box[2 + a] : box[a];
      pass_.box[2 + a] = box[2 + a];
    }
    for (int a = 0; a < 2; ++a) pass_.resized[a] = pass_.canvas[a] = pass_.out[a] = size_[a] = resized[a];
    pass_.resample = *of_row<int64_t>(op, 2, row, 1);
  }

  void crop(const FoldOp& op, int64_t row) {
    const int64_t* box = of_row<int64_t>(op, 0, row, 4);
    std::copy(op.fill, op.fill + 3, pass_.fill);
    if (pass_.warped()) {
      Matrix shift = kEye;
      shift[2] = static_cast<double>(box[1]);
      shift[5] = static_cast<double>(box[0]);
      pass_.matrix = product(pass_.matrix, shift);
    } else {
      for (int a = 0; a < 2; ++a) {
        pass_.window[a] += pass_.flip[a] ? pass_.canvas[a] - box[a] - box[2 + a] : box[a];
        pass_.canvas[a] = box[2 + a];
      }
    }
    for (int a = 0; a < 2; ++a) pass_.out[a] = size_[a] = box[2 + a];
  }

  void flip(const uint8_t* flip) {
    if (!pass_.warped()) {
      for (int a = 0; a < 2; ++a) pass_.flip[a] ^= flip[a] != 0;
      return;
    }
    Matrix mirror = kEye;
    for (int a = 0; a < 2; ++a) {  // left-right mirrors x, the matrix's first row, up-down y
      if (!flip[a]) continue;
      mirror[4 * (1 - a)] = -1.0;
      mirror[3 * (1 - a) + 2] = static_cast<double>(pass_.out[a] - 1);
    }
    pass_.matrix = product(pass_.matrix, mirror);
  }

  void filter(const FoldOp& op, int64_t row) {
    ImagePass& s = pass_.stored;
    pass_.fixed = true;
    s.filter = op.detail;
    std::copy_n(of_row<float>(op, 0, row, 12), 12, s.filter_values);
    if (op.params[1]) memcpy(&s.noise, of_row<uint32_t>(op, 1, row, 5), sizeof s.noise);
    if (!op.params[2]) return;
    const int64_t* taps = of_row<int64_t>(op, 3, row, 2);
    s.filter_h = static_cast<int32_t>(taps[0]);
    s.filter_w = static_cast<int32_t>(taps[1]);
    s.filter_weights = static_cast<int64_t>(out_.weights.size());
    const float* weights = of_row<float>(op, 2, row, op.width);
    out_.weights.insert(out_.weights.end(), weights, weights + op.width);
  }

  // out = M·rgb + (K·mean(rgb) + offset) after what was before.
  void recolour(const Matrix& matrix, const Matrix& mean_matrix, const double* offset) {
    const Matrix both = sum(matrix, mean_matrix);
    double shift[3], moved[3];
    // Every operator of the field truncates; what folding spares is put back as its mean, half a level.
    for (int c = 0; c < 3; ++c) shift[c] = pass_.offset[c] - (pass_.colour ? 0.5 : 0.0);
    // The mean of M·x + K·mean(x) + o is (M + K)·mean(x) + o.
    for (int c = 0; c < 3; ++c) {
      moved[c] = both[3 * c] * shift[0] + both[3 * c + 1] * shift[1] + both[3 * c + 2] * shift[2] + offset[c];
    }
    pass_.mean_matrix =
        sum(product(matrix, pass_.mean_matrix), product(mean_matrix, sum(pass_.colour_matrix, pass_.mean_matrix)));
    pass_.colour_matrix = product(matrix, pass_.colour_matrix);
    std::copy(moved, moved + 3, pass_.offset);
    pass_.colour = true;
    pass_.bounded = true;
    for (int c = 0; c < 3; ++c) {
      double low = 0, high = 0;
      for (const Matrix* m : {&pass_.colour_matrix, &pass_.mean_matrix}) {
        for (int i = 3 * c; i < 3 * c + 3; ++i) {
          low += std::min((*m)[i], 0.0);
          high += std::max((*m)[i], 0.0);
        }
      }
      // Within a few levels, which is what is put back for truncation, nothing to speak of is clamped.
      if (255 * low + moved[c] <= -4 || 255 * high + moved[c] >= 259) pass_.bounded = false;
    }
  }

  void erase(const FoldOp& op, int64_t row) {
    const int64_t* boxes = of_row<int64_t>(op, 0, row, 4 * op.width);
    for (int64_t b = 0; b < op.width; ++b, boxes += 4) {
      if (boxes[2] <= 0 || boxes[3] <= 0) continue;
      EraseBox box{};
      box.y = static_cast<int32_t>(boxes[0]);
      box.x = static_cast<int32_t>(boxes[1]);
      box.h = static_cast<int32_t>(boxes[2]);
      box.w = static_cast<int32_t>(boxes[3]);
      std::copy(op.value, op.value + 3, box.values);
      std::fill(box.sigma, box.sigma + 3, op.sigma);
      if (op.params[1]) memcpy(&box.noise, of_row<uint32_t>(op, 1, row, 5), sizeof box.noise);
      out_.erases.push_back(box);
      out_.scaled.push_back(!op.normalised);
    }
  }

  void blend(const FoldOp& op, int64_t row) {
    const BlendStep step = static_cast<BlendStep>(op.detail);
    restarts_ = step == BlendStep::add;
    if (step == BlendStep::keep) {
      pass_.stored.keep = 1;
      return;
    }
    pass_.stored.blend = static_cast<int32_t>(step == BlendStep::add ? Blend::add : Blend::last);
    pass_.stored.weight = static_cast<float>(*of_row<double>(op, 0, row, 1));
    pass_.stored.kept_weight = static_cast<float>(*of_row<double>(op, 1, row, 1));
  }

  void finish_pass(bool last) {
    ImagePass& s = pass_.stored;
    const auto whole = [](int64_t v) { return static_cast<int32_t>(v); };
    s.origin_y = whole(-pass_.box[0]);
    s.origin_x = whole(-pass_.box[1]);
    s.crop_h = whole(pass_.box[2]);
    s.crop_w = whole(pass_.box[3]);
    s.resized_h = whole(pass_.resized[0]);
    s.resized_w = whole(pass_.resized[1]);
    s.window_y = whole(pass_.window[0]);
    s.window_x = whole(pass_.window[1]);
    s.canvas_h = whole(pass_.canvas[0]);
    s.canvas_w = whole(pass_.canvas[1]);
    s.out_h = whole(pass_.out[0]);
    s.out_w = whole(pass_.out[1]);
    s.resample = whole(pass_.resample);
    s.flip = pass_.flip[1] | pass_.flip[0] << 1;
    s.warp = whole(std::max<int64_t>(pass_.warp, 0));
    // A last row of 0, 0, 1 is affine, and is told by that; products of affine ones have it to the bit.
    const double by = pass_.matrix[8] == 0 ? 1.0 : pass_.matrix[8];
    for (int i = 0; i < 9; ++i) s.matrix[i] = static_cast<float>(pass_.matrix[i] / by);
    for (int c = 0; c < 3; ++c) s.fill[c] = static_cast<uint8_t>(std::max(pass_.fill[c], 0));
    s.colour = pass_.colour;
    for (int i = 0; i < 9; ++i) {
      s.colour_matrix[i] = static_cast<float>(pass_.colour_matrix[i]);
      s.colour_mean_matrix[i] = static_cast<float>(pass_.mean_matrix[i]);
    }
    for (int c = 0; c < 3; ++c) s.colour_offset[c] = static_cast<float>(pass_.offset[c]);
    s.table = add_table();
    s.first_erase = static_cast<int32_t>(pass_.first_erase);
    s.erases = static_cast<int32_t>(out_.erases.size() - pass_.first_erase);
    for (size_t e = pass_.first_erase; e < out_.erases.size(); ++e) finish_erase(e, last);
    if (pass_.elastic != nullptr) add_elastic(*pass_.elastic, pass_.elastic_row);
    if (depth_ == 0) add_roi();
    out_.box.insert(out_.box.end(), pass_.box, pass_.box + 4);
    out_.passes.push_back(s);
  }

  int32_t add_table() {
    bool idle = true;
    for (int v = 0; pass_.has_table && v < 256; ++v) idle &= pass_.table[v] == v;
    if (idle) return -1;
    out_.tables.insert(out_.tables.end(), pass_.table, pass_.table + 256);
    return static_cast<int32_t>(out_.tables.size() / 256) - 1;
  }

  // Of a last pass, boxes count in the output's units.
  void finish_erase(size_t e, bool last) {
    uint8_t& scaled = out_.scaled[e];
    scaled = scaled && last;
    if (!scaled || !p_.normalises) return;
    EraseBox& box = out_.erases[e];
    for (int c = 0; c < 3; ++c) {
      box.values[c] = box.values[c] * p_.scale[c] + p_.bias[c];
      box.sigma[c] = box.sigma[c] * p_.scale[c];
    }
    scaled = 0;
  }

  void add_elastic(const FoldOp& op, int64_t row) {
    out_.elastic_at.push_back(static_cast<int64_t>(out_.passes.size()));
    out_.elastic_size.insert(out_.elastic_size.end(), pass_.out, pass_.out + 2);
    const double *alpha = of_row<double>(op, 0, row, 2), *sigma = of_row<double>(op, 1, row, 2);
    out_.elastic_alpha.insert(out_.elastic_alpha.end(), alpha, alpha + 2);
    out_.elastic_sigma.insert(out_.elastic_sigma.end(), sigma, sigma + 2);
    const uint32_t* noise = of_row<uint32_t>(op, 3, row, 5);
    out_.elastic_noise.insert(out_.elastic_noise.end(), noise, noise + 5);
  }

  // What the window needs of the stored picture; at least a pixel, so that there is something to decode.
  void add_roi() {
    int64_t first[2], count[2];
    for (int a = 0; a < 2; ++a) {
      const int64_t edge = std::max<int64_t>(pass_.resized[a] - 1, 0);
      const int64_t from = std::clamp<int64_t>(pass_.window[a], 0, edge);
      const int64_t to = std::clamp<int64_t>(pass_.window[a] + pass_.canvas[a] - 1, from, edge);
      const Axis axis = make_axis(static_cast<int32_t>(pass_.box[2 + a]), static_cast<int32_t>(pass_.resized[a]),
                                  static_cast<int32_t>(pass_.resample));
      const Span low = span(axis, static_cast<int32_t>(from)), high = span(axis, static_cast<int32_t>(to));
      first[a] = pass_.box[a] + low.first;
      count[a] = high.first + high.count - low.first;
    }
    out_.roi.insert(out_.roi.end(), {first[0], first[1], count[0], count[1]});
  }

  const FoldParams& p_;
  Folded& out_;
  int64_t size_[2];  // where it stands now
  int32_t depth_ = 0;
  Stage stage_ = kStart;
  bool restarts_ = false;  // the next pass starts from the kept picture
  Pass pass_;
};

}  // namespace

Folded fold(const FoldParams& p) {
  Folded out;
  out.passes.reserve(p.n);
  out.starts.reserve(p.n + 1);
  out.starts.push_back(0);
  for (std::vector<int64_t>* rows : {&out.box, &out.roi}) rows->reserve(int64_t{4} * p.n);
  out.out_size.reserve(int64_t{2} * p.n);
  std::vector<int64_t> next(p.op_count, 0);  // of each operator: the first row to come
  for (int32_t i = 0; i < p.n; ++i) {
    Sample sample(p, out, p.size + 2 * int64_t{i});
    for (int32_t j = 0; j < p.op_count; ++j) {
      const FoldOp& op = p.ops[j];
      if (op.family == static_cast<int32_t>(Family::boundary)) {
        sample.end_pass();
        continue;
      }
      int64_t& row = next[j];
      if (row == op.count || reinterpret_cast<const int64_t*>(op.rows)[row] != i) continue;
      const int32_t depth = sample.then(op, row);
      if (op.depths) reinterpret_cast<int32_t*>(op.depths)[row] = depth;
      ++row;
    }
    sample.finish();
  }
  for (int32_t j = 0; j < p.op_count; ++j) {
    if (next[j] != p.ops[j].count) throw std::invalid_argument("fold: an operator's rows must rise within the batch");
  }
  return out;
}

}  // namespace dalipipe
