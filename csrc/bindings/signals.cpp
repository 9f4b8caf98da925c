// Chains of passes over signals.
#include "bindings/bindings.h"
#include "cpu/pool.h"
#include "signal.h"

namespace dalipipe {
namespace {

// Addresses and sizes as dalipipe.native has checked them; 0 is null.
SignalParams signal_params(uintptr_t passes, uintptr_t starts, int32_t n, int32_t channels, uintptr_t curves,
                           int32_t curve_count, uintptr_t segments, int32_t segment_count, uintptr_t channel_gains,
                           int32_t channel_gain_count, uintptr_t biquads, int32_t biquad_count, uintptr_t windows,
                           int32_t window_count, uintptr_t outs, int32_t dtype) {
  SignalParams p{};
  p.passes = reinterpret_cast<const SignalPass*>(passes);
  p.starts = reinterpret_cast<const int32_t*>(starts);
  p.n = n;
  p.channels = channels;
  p.curves = reinterpret_cast<const Curve*>(curves);
  p.curve_count = curve_count;
  p.segments = reinterpret_cast<const CurveSegment*>(segments);
  p.segment_count = segment_count;
  p.channel_gains = reinterpret_cast<const ChannelGain*>(channel_gains);
  p.channel_gain_count = channel_gain_count;
  p.biquads = reinterpret_cast<const Biquad*>(biquads);
  p.biquad_count = biquad_count;
  p.windows = reinterpret_cast<const SignalWindow*>(windows);
  p.window_count = window_count;
  p.outs = reinterpret_cast<const SignalOut*>(outs);
  p.dtype = static_cast<DType>(dtype);
  return p;
}

void finite_signals(const Array<uint64_t>& data, const Array<int32_t>& frames, const Array<int64_t>& frame_step,
                    const Array<int64_t>& channel_step, int32_t channels, int32_t threads, Array<uint8_t> out) {
  const py::ssize_t n = data.size();
  if (frames.size() != n || frame_step.size() != n || channel_step.size() != n || out.size() != n) {
    throw std::invalid_argument("finite_signals: sizes differ");
  }
  const StoredSignals s{data.data(),         frames.data(),           frame_step.data(),
                        channel_step.data(), static_cast<int32_t>(n), channels};
  uint8_t* to = out.mutable_data();
  NoGil nogil;
  finite_signals_cpu(s, threads, to);
}

}  // namespace

void bind_signals(py::module_& m, py::dict& layouts) {
#define AT(field) layout[#field] = offsetof(Struct, field)
  {
    using Struct = SignalPass;
    py::dict layout(""_a = sizeof(Struct));
    AT(data), AT(frame_step), AT(channel_step), AT(in_frames), AT(out_frames), AT(map), AT(edge), AT(interpolation);
    AT(direction), AT(start), AT(line_start), AT(line_rate), AT(position), AT(channel_gains), AT(gain);
    AT(first_biquad), AT(biquads), AT(gain_curve), AT(gain_curves), AT(added_curve), AT(added_curves);
    AT(noise), AT(noise_level), AT(level), AT(key), AT(noise_data), AT(noise_frames), AT(noise_start);
    AT(first_window), AT(windows);
    layouts["SignalPass"] = layout;
  }
  {
    using Struct = CurveSegment;
    py::dict layout(""_a = sizeof(Struct));
    AT(begin), AT(c);
    layouts["CurveSegment"] = layout;
  }
  {
    using Struct = Curve;
    py::dict layout(""_a = sizeof(Struct));
    AT(first), AT(count);
    layouts["Curve"] = layout;
  }
  {
    using Struct = ChannelGain;
    py::dict layout(""_a = sizeof(Struct));
    AT(from), AT(gain);
    layouts["ChannelGain"] = layout;
  }
  {
    using Struct = Biquad;
    py::dict layout(""_a = sizeof(Struct));
    AT(b), AT(a);
    layouts["Biquad"] = layout;
  }
  {
    using Struct = SignalWindow;
    py::dict layout(""_a = sizeof(Struct));
    AT(begin), AT(end), AT(fade_out), AT(fade_in), AT(first_channel), AT(end_channel), AT(fill), AT(value);
    layouts["SignalWindow"] = layout;
  }
  {
    using Struct = SignalOut;
    py::dict layout(""_a = sizeof(Struct));
    AT(data), AT(frame_step), AT(channel_step), AT(frames);
    layouts["SignalOut"] = layout;
  }
#undef AT

  py::class_<SignalParams>(m, "SignalParams")
      .def(py::init(&signal_params), py::kw_only(), "passes"_a, "starts"_a, "n"_a, "channels"_a, "curves"_a,
           "curve_count"_a, "segments"_a, "segment_count"_a, "channel_gains"_a, "channel_gain_count"_a, "biquads"_a,
           "biquad_count"_a, "windows"_a, "window_count"_a, "outs"_a, "dtype"_a);
  m.def(
      "start_signals_cpu",
      [](const SignalParams& params, int32_t threads, py::object held) {
        return std::unique_ptr<Running>(
            new Running{std::move(held), Task([params, threads] { signals_cpu(params, threads); })});
      },
      py::kw_only(), "params"_a, "threads"_a, "held"_a);
  m.def("signals_cpu", &signals_cpu, py::kw_only(), "params"_a, "threads"_a, py::call_guard<NoGil>());
  m.def("finite_signals", &finite_signals, py::kw_only(), "data"_a.noconvert(), "frames"_a.noconvert(),
        "frame_step"_a.noconvert(), "channel_step"_a.noconvert(), "channels"_a, "threads"_a, "out"_a.noconvert());
#ifdef DALIPIPE_WITH_CUDA
  m.def(
      "signals_cuda_bytes",
      [](const SignalParams& p) { return py::make_tuple(signals_cuda_scratch_bytes(p), signals_cuda_upload_bytes(p)); },
      py::kw_only(), "params"_a);
  m.def(
      "signals_cuda",
      [](const SignalParams& p, uintptr_t scratch, size_t scratch_bytes, uintptr_t pinned, size_t pinned_bytes,
         uintptr_t stream) {
        signals_cuda(p, reinterpret_cast<void*>(scratch), scratch_bytes, reinterpret_cast<void*>(pinned), pinned_bytes,
                     reinterpret_cast<void*>(stream));
      },
      py::kw_only(), "params"_a, "scratch"_a, "scratch_bytes"_a, "pinned"_a, "pinned_bytes"_a, "stream"_a,
      py::call_guard<NoGil>());
#endif
}

}  // namespace dalipipe
