// What fused_image_cpu and fused_image_cuda refuse.
#include <cmath>
#include <initializer_list>
#include <sstream>
#include <stdexcept>

#include "pixel.h"

namespace dalipipe {
namespace {

template <typename... Words>
[[noreturn]] void refuse(const Words&... words) {
  std::ostringstream text;
  text << "fused_image: ";
  (text << ... << words);
  throw std::invalid_argument(text.str());
}

bool finite(const float* values, int32_t n) {
  for (int32_t i = 0; i < n; ++i) {
    if (!std::isfinite(values[i])) return false;
  }
  return true;
}

struct Size {
  const char* name;
  int32_t value;
};

void check_sizes(int32_t i, std::initializer_list<Size> sizes) {
  for (const Size& size : sizes) {
    if (size.value < 1 || size.value > kMaxSide_px) {
      refuse("sample ", i, ": ", size.name, " must be 1 to ", kMaxSide_px, " px, got ", size.value);
    }
  }
}

// One axis: the stored region must hold every pixel that the window draws on.
void check_stored(int32_t i, const char* name, const View& view, const Axis& axis, int32_t origin, int32_t stored) {
  const Span need = view_span(axis, view);
  const int64_t end = static_cast<int64_t>(origin) + stored;
  if (need.count > 0 && (need.first < origin || need.first + need.count > end)) {
    refuse("sample ", i, ": the window needs ", name, " ", need.first, " to ", need.first + need.count,
           " of the crop, stored are ", origin, " to ", end);
  }
}

void check_sample(const FusedImageParams& p, int32_t i) {
  const ImageSample& s = p.samples[i];
  check_sizes(i, {{"stored_h", s.stored_h},
                  {"stored_w", s.stored_w},
                  {"crop_h", s.crop_h},
                  {"crop_w", s.crop_w},
                  {"resized_h", s.resized_h},
                  {"resized_w", s.resized_w},
                  {"canvas_h", s.canvas_h},
                  {"canvas_w", s.canvas_w}});
  if (s.data == 0) refuse("sample ", i, ": data is null");
  if (s.row_bytes < static_cast<int64_t>(s.stored_w) * p.channels) {
    refuse("sample ", i,
           ": row_bytes must be at least stored_w * channels = ", static_cast<int64_t>(s.stored_w) * p.channels,
           ", got ", s.row_bytes);
  }
  if (s.flip < 0 || s.flip > 3) refuse("sample ", i, ": flip must be 0 to 3, got ", s.flip);
  if (s.warp < 0 || s.warp > 2) refuse("sample ", i, ": warp must be 0, 1 or 2, got ", s.warp);
  if (s.warp == static_cast<int32_t>(Warp::none)) {
    if (s.canvas_h != p.out_h || s.canvas_w != p.out_w) {
      refuse("sample ", i, ": without a warp the canvas must be the output's ", p.out_h, "x", p.out_w, ", got ",
             s.canvas_h, "x", s.canvas_w);
    }
  } else {
    if (!finite(s.matrix, 6)) refuse("sample ", i, ": matrix must be finite");
    if (static_cast<int64_t>(s.canvas_h + 3) * (s.canvas_w + 3) * p.channels > INT32_MAX - 8) {
      refuse("sample ", i, ": a canvas to be warped must stay below 2 GiB, got ", s.canvas_h, "x", s.canvas_w);
    }
  }
  const View columns = make_view(s.resized_w, s.window_x, s.canvas_w, s.flip & 1);
  const View rows = make_view(s.resized_h, s.window_y, s.canvas_h, s.flip & 2);
  if (columns.begin < columns.end && rows.begin < rows.end) {
    check_stored(i, "columns", columns, make_axis(s.crop_w, s.resized_w), s.origin_x, s.stored_w);
    check_stored(i, "rows", rows, make_axis(s.crop_h, s.resized_h), s.origin_y, s.stored_h);
  }
  if (s.colour < 0 || s.colour > 1) refuse("sample ", i, ": colour must be 0 or 1, got ", s.colour);
  if (s.colour && !(finite(s.colour_matrix, 9) && finite(s.colour_mean_matrix, 9) && finite(s.colour_offset, 3))) {
    refuse("sample ", i, ": colour matrices and offset must be finite");
  }
  if (s.table < 0 || s.table > 1) refuse("sample ", i, ": table must be 0 or 1, got ", s.table);
  if (s.table && p.tables == nullptr) refuse("sample ", i, ": it asks for a table, but tables are null");
}

}  // namespace

void check_fused_image(const FusedImageParams& p) {
  if (p.n < 0) refuse("n must not be negative, got ", p.n);
  if (p.channels != 1 && p.channels != 3) refuse("channels must be 1 or 3, got ", p.channels);
  if (p.out_h < 1 || p.out_h > kMaxSide_px || p.out_w < 1 || p.out_w > kMaxSide_px) {
    refuse("the output's sides must be 1 to ", kMaxSide_px, " px, got ", p.out_h, "x", p.out_w);
  }
  const int32_t dtype = static_cast<int32_t>(p.dtype), layout = static_cast<int32_t>(p.layout);
  if (dtype < 0 || dtype > 3) refuse("dtype must be 0 to 3, got ", dtype);
  if (layout < 0 || layout > 1) refuse("layout must be 0 or 1, got ", layout);
  if (!finite(p.scale, p.channels) || !finite(p.bias, p.channels)) refuse("scale and bias must be finite");
  for (int32_t c = 0; c < p.channels && p.dtype == DType::uint8; ++c) {
    if (p.scale[c] != 1.0f || p.bias[c] != 0.0f) {
      refuse("uint8 output is not normalised: scale must be 1 and bias 0, got ", p.scale[c], " and ", p.bias[c],
             " for channel ", c);
    }
  }
  if (p.n > 0 && p.samples == nullptr) refuse("samples are null");
  if (p.n > 0 && p.out == nullptr) refuse("out is null");
  if (p.erases < 0) refuse("erases must not be negative, got ", p.erases);
  if (p.n > 0 && p.erases > 0) {
    if (p.erase_boxes == nullptr || p.erase_values == nullptr) refuse("erase boxes or values are null");
    for (int32_t i = 0; i < p.n; ++i) {
      if (!finite(p.erase_values + static_cast<int64_t>(i) * p.erases * p.channels, p.erases * p.channels)) {
        refuse("sample ", i, ": erase values must be finite");
      }
    }
  }
  for (int32_t i = 0; i < p.n; ++i) check_sample(p, i);
}

}  // namespace dalipipe
