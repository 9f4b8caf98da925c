// Feeds mutated files to the audio probe, and reads parts of what it takes for a WAV file.
#include "audio.h"

#include <cmath>
#include <vector>

#include "fuzz.h"

void fuzz_audio(const uint8_t* data, size_t size) {
  using namespace dalipipe;
  const auto exact = exactly(data, size);
  const AudioHeader header = probe_audio(exact.get(), size);
  require(header.kind >= 0 && header.kind <= static_cast<int32_t>(AudioKind::mp3), "kind");
  require(header.rate_hz >= 0 && header.channels >= 0 && header.channels <= 65535, "rate_hz, channels");
  require(header.frames >= 0 && header.promised >= header.frames, "frames");
  if (header.kind != static_cast<int32_t>(AudioKind::wav)) {
    const bool cut = header.problem == static_cast<int32_t>(AudioProblem::truncated);
    require(header.problem == 0 || (cut && header.kind == static_cast<int32_t>(AudioKind::ogg)), "problem");
    return;
  }
  if (header.problem != 0) return;
  require(header.frames > 0 && header.promised == header.frames && header.rate_hz > 0, "a WAV file that can be read");
  const int64_t starts[] = {0, static_cast<int64_t>(size)};
  for (int i = 0; i < 4; ++i) {
    WavSegment segment;
    segment.mix = i & 1;
    segment.first = i < 2 ? 0 : data[size - 1] % header.frames;
    segment.frames = i < 2 ? header.frames : data[size / 2] % (header.frames - segment.first + 1);
    const int64_t width = segment.mix ? 1 : header.channels;
    std::vector<float> out(static_cast<size_t>(segment.frames * width));
    segment.out = reinterpret_cast<int64_t>(out.data());
    read_wavs(exact.get(), starts, 1, &segment, 1, 1);
    for (int64_t at = 0; at < segment.frames * width; ++at) {
      if (std::isfinite(out[at])) continue;
      require(segment.bad == segment.first + at / width, "the first frame that is no number is found");
      break;
    }
    if (segment.bad >= 0) {
      require(segment.bad < segment.first + segment.frames, "a bad frame is one of those read");
      require(!segment.mix || !std::isfinite(out[segment.bad - segment.first]), "a bad frame is bad");
    }
  }
}
