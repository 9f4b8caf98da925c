// Audio files.
#include "audio.h"

#include "bindings/bindings.h"

namespace dalipipe {
namespace {

void probe(const Array<uint8_t>& arena, const Array<int64_t>& starts, uintptr_t out, int32_t threads) {
  const py::ssize_t n = check_starts("probe_audio", arena, starts);
  const int64_t* at = starts.data();
  NoGil nogil;
  probe_audios(arena.data(), at, n, threads, reinterpret_cast<AudioHeader*>(out));
}

void read(const Array<uint8_t>& arena, const Array<int64_t>& starts, uintptr_t segments, int64_t count,
          int32_t threads) {
  const py::ssize_t n = check_starts("read_wavs", arena, starts);
  const int64_t* at = starts.data();
  NoGil nogil;
  read_wavs(arena.data(), at, n, reinterpret_cast<WavSegment*>(segments), count, threads);
}

}  // namespace

void bind_audio(py::module_& m, py::dict& layouts) {
#define AT(field) layout[#field] = offsetof(Struct, field)
  {
    using Struct = AudioHeader;
    py::dict layout(""_a = sizeof(Struct));
    AT(kind), AT(problem), AT(rate_hz), AT(channels), AT(sample), AT(codec), AT(frames), AT(promised), AT(data);
    layouts["AudioHeader"] = layout;
  }
  {
    using Struct = WavSegment;
    py::dict layout(""_a = sizeof(Struct));
    AT(file), AT(first), AT(frames), AT(out), AT(bad), AT(mix), AT(unused);
    layouts["WavSegment"] = layout;
  }
#undef AT

  m.def("probe_audio", &probe, py::kw_only(), "arena"_a.noconvert(), "starts"_a.noconvert(), "out"_a, "threads"_a);
  m.def("read_wavs", &read, py::kw_only(), "arena"_a.noconvert(), "starts"_a.noconvert(), "segments"_a, "count"_a,
        "threads"_a);
}

}  // namespace dalipipe
