// What the filters refuse.
#include <cmath>
#include <sstream>
#include <stdexcept>

#include "cpu/filter.h"

namespace dalipipe {
namespace {

class Checker {
 public:
  Checker(const ImagePass& s, int32_t sample, int32_t pass) : s_(s), sample_(sample), pass_(pass) {}

  template <typename... Words>
  [[noreturn]] void refuse(const Words&... words) const {
    std::ostringstream text;
    text << "fused_image: sample " << sample_;
    if (pass_ > 0) text << ", pass " << pass_;
    text << ": ";
    (text << ... << words);
    throw std::invalid_argument(text.str());
  }

  // NaN lies in no range.
  void value(int32_t i, const char* name, float low, float high) const {
    const float v = s_.filter_values[i];
    if (!(low <= v && v <= high)) {
      refuse("filter_values[", i, "] (", name, ") must lie in [", low, ", ", high, "], got ", v);
    }
  }

  void taps(const char* name, int32_t n) const {
    if (n < 1 || n % 2 == 0 || n > kMaxTaps) {
      refuse(name, " must be odd, 1 to ", kMaxTaps - 1, ", got ", n);
    }
  }

  // `first`, then `second`, which are applied one after the other.
  void weights(const float* weights, int64_t count, int64_t first, int64_t second) const {
    const int64_t at = s_.filter_weights, need = first + second;
    if (at < 0 || at > count - need) {
      refuse("the filter needs ", need, " weights from ", at, " on, there are ", count);
    }
    if (weights == nullptr) refuse("it asks for a filter's weights, but weights are null");
    const double total = magnitude(weights + at, first) * (second > 0 ? magnitude(weights + at + first, second) : 1.0);
    if (!(total <= kMaxWeight)) refuse("filter weights must add up to at most ", kMaxWeight, ", got ", total);
  }

 private:
  // At least 1, so that neither of two may be large alone.
  static double magnitude(const float* weights, int64_t n) {
    double total = 0.0;
    for (int64_t i = 0; i < n; ++i) total += std::fabs(weights[i]);
    return total < 1.0 ? 1.0 : total;
  }

  const ImagePass& s_;
  int32_t sample_, pass_;
};

template <typename... Words>
[[noreturn]] void refuse_field(int32_t i, const Words&... words) {
  std::ostringstream text;
  text << "elastic: field " << i << ": ";
  (text << ... << words);
  throw std::invalid_argument(text.str());
}

void check_field(const ElasticField& f, int32_t i) {
  if (f.out == 0) refuse_field(i, "out is null");
  if (f.h < 1 || f.h > kMaxSide_px || f.w < 1 || f.w > kMaxSide_px) {
    refuse_field(i, "sides must be 1 to ", kMaxSide_px, " px, got ", f.h, "x", f.w);
  }
  for (int32_t axis = 0; axis < 2; ++axis) {
    if (f.taps[axis] != 0 && (f.taps[axis] % 2 != 1 || f.taps[axis] < 0 || f.taps[axis] > kMaxTaps)) {
      refuse_field(i, "taps must be 0, or odd and at most ", kMaxTaps - 1, ", got ", f.taps[axis]);
    }
    if (!std::isfinite(f.scale[axis])) refuse_field(i, "scale must be finite");
  }
  const int32_t count = 2 * (f.taps[0] + f.taps[1]);
  const float* weights = reinterpret_cast<const float*>(f.weights);
  if (count > 0 && weights == nullptr) refuse_field(i, "weights are null");
  for (int32_t j = 0; j < count; ++j) {
    if (!std::isfinite(weights[j])) refuse_field(i, "weights must be finite");
  }
}

}  // namespace

void check_filter(const ImagePass& s, const float* weights, int64_t weight_count, int32_t sample, int32_t pass) {
  constexpr float kFar = 1e6f;
  const Checker check(s, sample, pass);
  const int64_t h = s.filter_h, w = s.filter_w;
  switch (static_cast<Filter>(s.filter)) {
    case Filter::none: return;
    case Filter::sharpen: return check.value(0, "share of the smooth picture", -kMaxSharpen, kMaxSharpen);
    case Filter::separable:
    case Filter::convolve:
      check.taps("filter_h", s.filter_h);
      check.taps("filter_w", s.filter_w);
      if (static_cast<Filter>(s.filter) == Filter::convolve) return check.weights(weights, weight_count, h * w, 0);
      return check.weights(weights, weight_count, w, h);
    case Filter::gaussian_noise: check.value(0, "mean", -kFar, kFar); return check.value(1, "sigma", 0.0f, kFar);
    case Filter::salt_pepper: check.value(0, "amount", 0.0f, 1.0f); return check.value(1, "salt", 0.0f, 1.0f);
    case Filter::grid:
      check.value(0, "unit", 1.0f, kFar);
      check.value(1, "keep", 0.0f, kFar);
      check.value(2, "offset x", -kFar, kFar);
      check.value(3, "offset y", -kFar, kFar);
      check.value(4, "cos", -1.0f, 1.0f);
      check.value(5, "sin", -1.0f, 1.0f);
      for (int32_t c = 0; c < 3; ++c) check.value(6 + c, "colour", 0.0f, 255.0f);
      return;
    case Filter::jpeg:
      check.value(0, "quality", 1.0f, 100.0f);
      if (s.filter_values[0] != std::floor(s.filter_values[0])) {
        check.refuse("filter_values[0] (quality) must be a whole number, got ", s.filter_values[0]);
      }
      return;
  }
  check.refuse("filter must be 0 to 7, got ", s.filter);
}

void check_elastic(const ElasticField* fields, int32_t n) {
  if (n > 0 && fields == nullptr) throw std::invalid_argument("elastic: fields are null");
  for (int32_t i = 0; i < n; ++i) check_field(fields[i], i);
}

}  // namespace dalipipe
