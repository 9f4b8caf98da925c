// What fused_image_cpu and fused_image_cuda refuse.
#include <cmath>
#include <initializer_list>
#include <sstream>
#include <stdexcept>

#include "cpu/filter.h"
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

// A sample's pass, for messages.
struct Place {
  int32_t sample, pass;
};

std::ostream& operator<<(std::ostream& out, const Place& at) {
  out << "sample " << at.sample;
  if (at.pass > 0) out << ", pass " << at.pass;
  return out;
}

struct Size {
  const char* name;
  int32_t value;
};

void check_sizes(const Place& at, std::initializer_list<Size> sizes) {
  for (const Size& size : sizes) {
    if (size.value < 1 || size.value > kMaxSide_px) {
      refuse(at, ": ", size.name, " must be 1 to ", kMaxSide_px, " px, got ", size.value);
    }
  }
}

void check_choice(const Place& at, const char* name, int32_t value, int32_t most) {
  if (value < 0 || value > most) refuse(at, ": ", name, " must be 0 to ", most, ", got ", value);
}

// One axis: the stored region must hold every pixel that the window draws on.
void check_stored(const Place& at, const char* name, const View& view, const Axis& axis, int32_t origin,
                  int32_t stored) {
  const Span need = view_span(axis, view);
  const int64_t end = static_cast<int64_t>(origin) + stored;
  if (need.count > 0 && (need.first < origin || need.first + need.count > end)) {
    refuse(at, ": the window needs ", name, " ", need.first, " to ", need.first + need.count,
           " of the crop, stored are ", origin, " to ", end);
  }
}

// A pass that takes up a picture of stored_h by stored_w px.
void check_geometry(const FusedImageParams& p, const Place& at, const ImagePass& s, int32_t stored_h,
                    int32_t stored_w) {
  check_sizes(at, {{"crop_h", s.crop_h},
                   {"crop_w", s.crop_w},
                   {"resized_h", s.resized_h},
                   {"resized_w", s.resized_w},
                   {"canvas_h", s.canvas_h},
                   {"canvas_w", s.canvas_w},
                   {"out_h", s.out_h},
                   {"out_w", s.out_w}});
  check_choice(at, "resample", s.resample, 2);
  check_choice(at, "flip", s.flip, 3);
  check_choice(at, "warp", s.warp, 3);
  if (s.warp == static_cast<int32_t>(Warp::none)) {
    if (s.canvas_h != s.out_h || s.canvas_w != s.out_w) {
      refuse(at, ": without a warp the canvas must be the output's ", s.out_h, "x", s.out_w, ", got ", s.canvas_h, "x",
             s.canvas_w);
    }
  } else {
    if (!finite(s.matrix, 9)) refuse(at, ": matrix must be finite");
    if (static_cast<int64_t>(s.canvas_h + 7) * (s.canvas_w + 7) * p.channels > INT32_MAX - 8) {
      refuse(at, ": a canvas to be warped must stay below 2 GiB, got ", s.canvas_h, "x", s.canvas_w);
    }
  }
  if (static_cast<int64_t>(s.out_h) * s.out_w > INT32_MAX / p.channels) {
    refuse(at, ": an output must stay below 2 GiB of uint8, got ", s.out_h, "x", s.out_w);
  }
  const View columns = make_view(s.resized_w, s.window_x, s.canvas_w, s.flip & 1);
  const View rows = make_view(s.resized_h, s.window_y, s.canvas_h, s.flip & 2);
  if (columns.begin < columns.end && rows.begin < rows.end) {
    const Axis down = make_axis(s.crop_h, s.resized_h, s.resample);
    check_stored(at, "columns", columns, make_axis(s.crop_w, s.resized_w, s.resample), s.origin_x, stored_w);
    check_stored(at, "rows", rows, down, s.origin_y, stored_h);
    // What the resize keeps of rows that are half done.
    if (static_cast<int64_t>(down.taps) * (columns.end - columns.begin) > INT32_MAX / p.channels) {
      refuse(at, ": a row of the resized picture draws on too much: ", down.taps, " rows of ",
             columns.end - columns.begin, " px");
    }
  }
}

void check_pixels(const FusedImageParams& p, const Place& at, const ImagePass& s) {
  check_filter(s, p.weights, p.weight_count, at.sample, at.pass);
  check_choice(at, "stretch", s.stretch, 2);
  check_choice(at, "colour", s.colour, 1);
  if (s.colour && !(finite(s.colour_matrix, 9) && finite(s.colour_mean_matrix, 9) && finite(s.colour_offset, 3))) {
    refuse(at, ": colour matrices and offset must be finite");
  }
  if (!(s.hue >= -0.5f && s.hue <= 0.5f)) refuse(at, ": hue must be -0.5 to 0.5 turns, got ", s.hue);
  if (s.table < -1 || s.table >= p.table_count) {
    refuse(at, ": table must be -1 or one of ", p.table_count, ", got ", s.table);
  }
  if (s.erases < 0 || s.first_erase < 0 || s.first_erase > p.erase_count - s.erases) {
    refuse(at, ": erases ", s.first_erase, " to ", static_cast<int64_t>(s.first_erase) + s.erases, " are not among ",
           p.erase_count);
  }
}

// Where a picture was kept: its size; zero before.
struct Kept {
  int32_t h = 0, w = 0;
};

void check_blend(const Place& at, const ImagePass& s, const Kept& kept) {
  check_choice(at, "from_kept", s.from_kept, 1);
  check_choice(at, "keep", s.keep, 1);
  check_choice(at, "blend", s.blend, 2);
  if ((s.from_kept || s.blend) && kept.h == 0) refuse(at, ": no pass before it keeps its picture");
  if (s.blend && (s.out_h != kept.h || s.out_w != kept.w)) {
    refuse(at, ": what is blended must have the kept picture's ", kept.h, "x", kept.w, " px, got ", s.out_h, "x",
           s.out_w);
  }
  if (s.blend && !(std::isfinite(s.weight) && std::isfinite(s.kept_weight))) refuse(at, ": weights must be finite");
}

void check_sample(const FusedImageParams& p, int32_t i) {
  const int32_t first = p.starts[i], end = p.starts[i + 1];
  Kept kept;
  for (int32_t j = first; j < end; ++j) {
    const ImagePass& s = p.passes[j];
    const Place at{i, j - first};
    check_blend(at, s, kept);
    if (j == first) {
      check_sizes(at, {{"stored_h", s.stored_h}, {"stored_w", s.stored_w}});
      if (s.data == 0) refuse(at, ": data is null");
      if (s.row_bytes < static_cast<int64_t>(s.stored_w) * p.channels) {
        refuse(at, ": row_bytes must be at least stored_w * channels = ", static_cast<int64_t>(s.stored_w) * p.channels,
               ", got ", s.row_bytes);
      }
      check_geometry(p, at, s, s.stored_h, s.stored_w);
    } else {
      const ImagePass& before = p.passes[j - 1];
      check_geometry(p, at, s, s.from_kept ? kept.h : before.out_h, s.from_kept ? kept.w : before.out_w);
    }
    check_pixels(p, at, s);
    if (s.keep) kept = {s.out_h, s.out_w};
  }
  const ImagePass& last = p.passes[end - 1];
  if (last.out_h != p.out_h || last.out_w != p.out_w) {
    refuse("sample ", i, ": its last pass must give ", p.out_h, "x", p.out_w, " px, the batch's, got ", last.out_h, "x",
           last.out_w);
  }
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
  if (p.n > 0 && (p.passes == nullptr || p.starts == nullptr)) refuse("passes or their starts are null");
  if (p.n > 0 && p.out == nullptr) refuse("out is null");
  if (p.table_count < 0 || (p.table_count > 0 && p.tables == nullptr)) refuse("tables are null");
  if (p.weight_count < 0 || (p.weight_count > 0 && p.weights == nullptr)) refuse("weights are null");
  if (p.erase_count < 0 || (p.erase_count > 0 && p.erases == nullptr)) refuse("erases are null");
  for (int32_t e = 0; e < p.erase_count; ++e) {
    if (!finite(p.erases[e].values, 3) || !finite(p.erases[e].sigma, 3)) {
      refuse("erase box ", e, ": values and sigma must be finite");
    }
  }
  for (int32_t i = 0; i < p.n; ++i) {
    if (p.starts[i] < 0 || p.starts[i + 1] <= p.starts[i]) {
      refuse("sample ", i, ": it needs a pass at least, got ", p.starts[i], " to ", p.starts[i + 1]);
    }
  }
  for (int32_t i = 0; i < p.n; ++i) check_sample(p, i);
}

}  // namespace dalipipe
