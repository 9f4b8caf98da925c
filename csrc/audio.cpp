// RIFF/WAVE files (Microsoft and IBM, "Multimedia Programming Interface and Data Specifications 1.0", 1991; for
// WAVE_FORMAT_EXTENSIBLE and RF64: EBU Tech 3306), and what other audio files begin with. Headers are read through
// `Bytes`; samples only from [data, data + frames · bytes a frame), which `probe_audio` has found to lie in the file.
#include "audio.h"

#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "bytes.h"
#include "cpu/pool.h"

namespace dalipipe {
namespace {

constexpr uint32_t kPcm = 1, kFloat = 3, kExtensible = 0xFFFE;
// Who cannot go back to fill it in leaves a size of zero, or about the largest there is.
constexpr uint32_t kUnknownSize = 0x7FFFF000;
constexpr uint32_t kMaxChannels = 1024;
constexpr int64_t kSampleBytes[] = {0, 1, 2, 3, 4, 4, 8};  // by `WavSample`

int32_t positive(uint32_t value) {
  return value <= static_cast<uint32_t>(std::numeric_limits<int32_t>::max()) ? static_cast<int32_t>(value) : 0;
}

WavSample sample_of(uint32_t codec, uint32_t bytes) {
  if (codec == kPcm && bytes >= 1 && bytes <= 4) return static_cast<WavSample>(bytes);
  if (codec == kFloat && bytes == 4) return WavSample::float32;
  if (codec == kFloat && bytes == 8) return WavSample::float64;
  return WavSample::none;
}

AudioProblem read_format(const Bytes& in, AudioHeader& header) {
  if (in.size < 16) return AudioProblem::no_format;
  uint32_t codec = in.le16(0);
  const uint32_t channels = in.le16(2), frame_bytes = in.le16(12), bits = in.le16(14);
  if (codec == kExtensible) {
    if (!in.has(24, 16)) return AudioProblem::no_format;
    codec = in.le16(24);  // the first bytes of an identifier whose others say that it is such a number
  }
  header.codec = static_cast<int32_t>(codec);
  header.rate_hz = positive(in.le32(4));
  header.channels = static_cast<int32_t>(channels);
  if (header.rate_hz == 0 || channels == 0 || channels > kMaxChannels) return AudioProblem::damaged;
  if (codec != kPcm && codec != kFloat) return AudioProblem::codec;
  const uint32_t bytes = (bits + 7) / 8;  // fewer bits than fill them are the upper ones
  const WavSample sample = sample_of(codec, bytes);
  if (sample == WavSample::none) return AudioProblem::codec;
  if (frame_bytes != channels * bytes) return AudioProblem::damaged;
  header.sample = static_cast<int32_t>(sample);
  return AudioProblem::none;
}

AudioProblem read_wav(const Bytes& in, AudioHeader& header) {
  const bool rf64 = in.equal(0, "RF64", 4);
  const uint32_t riff_bytes = in.le32(4);
  AudioProblem format = AudioProblem::no_format;
  size_t data_at = 0;
  uint64_t data_bytes = 0, large_bytes = 0;
  bool to_end = false;
  for (size_t at = 12; in.has(at, 8);) {
    const uint32_t size = in.le32(at + 4);
    const size_t body = at + 8;
    if (in.equal(at, "fmt ", 4) && format == AudioProblem::no_format) {
      format = read_format(in.from(body, size), header);
    } else if (rf64 && in.equal(at, "ds64", 4) && size >= 24) {
      large_bytes = in.le64(body + 8);
    } else if (in.equal(at, "data", 4) && data_at == 0) {
      data_at = body;
      data_bytes = rf64 && size == 0xFFFFFFFF ? large_bytes : size;
      const bool past_end = data_bytes > in.size - body;
      to_end = (data_bytes >= kUnknownSize && past_end && !rf64) || (size == 0 && riff_bytes + uint64_t{8} <= body);
      if (to_end || past_end) break;  // no chunk can follow
    }
    const uint64_t next = body + (data_at == body ? data_bytes : size);
    const uint64_t padded = next + (next & 1);  // chunks begin at even places
    if (padded > in.size) break;
    at = static_cast<size_t>(padded);
  }
  if (format != AudioProblem::none) return format;
  if (data_at == 0) return AudioProblem::no_data;
  const int64_t frame_bytes = header.channels * kSampleBytes[header.sample];
  const uint64_t there = in.size - data_at;
  const uint64_t promised = to_end ? there : data_bytes;
  constexpr uint64_t kMost = std::numeric_limits<int64_t>::max();
  header.data = static_cast<int64_t>(data_at);
  header.frames = static_cast<int64_t>(std::min(there, promised)) / frame_bytes;
  header.promised = static_cast<int64_t>(std::min(promised, kMost)) / frame_bytes;
  if (header.promised > header.frames) return AudioProblem::truncated;
  return header.frames == 0 ? AudioProblem::no_data : AudioProblem::none;
}

// RFC 9639: the STREAMINFO block comes first.
void read_flac(const Bytes& in, AudioHeader& header) {
  if ((in.u8(4) & 0x7F) != 0 || !in.has(8, 34)) return;
  header.rate_hz = static_cast<int32_t>(in.be32(18) >> 12);
  header.channels = static_cast<int32_t>((in.u8(20) >> 1 & 7) + 1);
  header.frames = static_cast<int64_t>(static_cast<uint64_t>(in.u8(21) & 15) << 32 | in.be32(22));
  header.promised = header.frames;
}

// RFC 3533: pages, each with the number of samples up to its end; RFC 7845 (Opus) and "Vorbis I specification", 4.2.2,
// for what the first one holds. Only the first stream counts.
AudioProblem read_ogg(const Bytes& in, AudioHeader& header) {
  constexpr size_t kPage = 27;
  constexpr uint64_t kNone = ~uint64_t{0};
  const uint32_t stream = in.le32(14);
  uint64_t samples = 0, skipped = 0;
  bool cut = false;
  for (size_t at = 0; !cut && in.equal(at, "OggS", 4);) {
    const uint32_t pieces = in.u8(at + 26);
    size_t end = at + kPage + pieces;
    for (uint32_t i = 0; i < pieces; ++i) end += in.u8(at + kPage + i);
    cut = !in.has(at, kPage + pieces) || end > in.size;
    const size_t body = at + kPage + pieces;
    if (at == 0 && in.equal(body, "\x01vorbis", 7)) {
      header.channels = static_cast<int32_t>(in.u8(body + 11));
      header.rate_hz = positive(in.le32(body + 12));
    } else if (at == 0 && in.equal(body, "OpusHead", 8)) {
      header.channels = static_cast<int32_t>(in.u8(body + 9));
      header.rate_hz = 48000;  // of its count, whatever it was recorded at
      skipped = in.le16(body + 10);
    }
    if (!cut && in.le32(at + 14) == stream && in.le64(at + 6) != kNone) samples = in.le64(at + 6);
    at = end;
  }
  constexpr uint64_t kMost = std::numeric_limits<int32_t>::max();
  if (header.rate_hz > 0 && samples > skipped) {
    header.frames = header.promised = static_cast<int64_t>(std::min(samples - skipped, kMost));
  }
  return cut ? AudioProblem::truncated : AudioProblem::none;
}

bool is_mp3(const Bytes& in) {  // a tag, or a frame of layer I, II or III
  return in.equal(0, "ID3", 3) || (in.u8(0) == 0xFF && (in.u8(1) & 0xE0) == 0xE0 && (in.u8(1) >> 1 & 3) != 0 &&
                                   (in.u8(1) >> 3 & 3) != 1 && in.u8(2) >> 4 != 15 && (in.u8(2) >> 2 & 3) != 3);
}

// One stored sample, by value: nothing in a file is aligned.
template <WavSample kind>
float sample_at(const uint8_t* at) {
  if constexpr (kind == WavSample::pcm8) return static_cast<float>(at[0] - 128) * 0x1p-7f;
  if constexpr (kind == WavSample::pcm16) {
    int16_t value;
    std::memcpy(&value, at, 2);
    return static_cast<float>(value) * 0x1p-15f;
  }
  if constexpr (kind == WavSample::pcm24) {
    const uint32_t upper =
        static_cast<uint32_t>(at[0]) << 8 | static_cast<uint32_t>(at[1]) << 16 | static_cast<uint32_t>(at[2]) << 24;
    return static_cast<float>(static_cast<int32_t>(upper)) * 0x1p-31f;
  }
  if constexpr (kind == WavSample::pcm32) {
    int32_t value;
    std::memcpy(&value, at, 4);
    return static_cast<float>(value) * 0x1p-31f;
  }
  if constexpr (kind == WavSample::float32) {
    float value;
    std::memcpy(&value, at, 4);
    return value;
  }
  if constexpr (kind == WavSample::float64) {
    double value;
    std::memcpy(&value, at, 8);
    // What float cannot hold is no sound; the conversion itself would be undefined.
    return std::abs(value) <= std::numeric_limits<float>::max() ? static_cast<float>(value)
                                                                : std::numeric_limits<float>::quiet_NaN();
  }
  return 0;
}

template <WavSample kind>
void read_segment(const uint8_t* from, int64_t channels, WavSegment& segment) {
  constexpr int64_t bytes = kSampleBytes[static_cast<int32_t>(kind)];
  float* out = reinterpret_cast<float*>(segment.out);
  const int64_t width = segment.mix ? 1 : channels;
  if (segment.mix && channels > 1) {
    for (int64_t frame = 0; frame < segment.frames; ++frame, from += channels * bytes) {
      float sum = sample_at<kind>(from);
      for (int64_t c = 1; c < channels; ++c) sum += sample_at<kind>(from + c * bytes);
      out[frame] = sum / static_cast<float>(channels);
    }
  } else {
    for (int64_t i = 0; i < segment.frames * channels; ++i) out[i] = sample_at<kind>(from + i * bytes);
  }
  segment.bad = -1;
  if constexpr (kind == WavSample::float32 || kind == WavSample::float64) {
    uint32_t worst = 0;  // the largest exponent, in its place
    for (int64_t i = 0; i < segment.frames * width; ++i) {
      uint32_t bits;
      std::memcpy(&bits, out + i, 4);
      worst = std::max(worst, bits & 0x7F800000u);
    }
    if (worst < 0x7F800000u) return;
    for (int64_t i = 0; i < segment.frames * width; ++i) {
      if (std::isfinite(out[i])) continue;
      segment.bad = segment.first + i / width;
      return;
    }
  }
}

void read_one(const uint8_t* file, const AudioHeader& header, WavSegment& segment) {
  const int64_t frame_bytes = header.channels * kSampleBytes[header.sample];
  const uint8_t* from = file + header.data + segment.first * frame_bytes;
  switch (static_cast<WavSample>(header.sample)) {
    case WavSample::pcm8: return read_segment<WavSample::pcm8>(from, header.channels, segment);
    case WavSample::pcm16: return read_segment<WavSample::pcm16>(from, header.channels, segment);
    case WavSample::pcm24: return read_segment<WavSample::pcm24>(from, header.channels, segment);
    case WavSample::pcm32: return read_segment<WavSample::pcm32>(from, header.channels, segment);
    case WavSample::float32: return read_segment<WavSample::float32>(from, header.channels, segment);
    case WavSample::float64: return read_segment<WavSample::float64>(from, header.channels, segment);
    case WavSample::none: break;
  }
}

}  // namespace

AudioHeader probe_audio(const uint8_t* data, size_t size) {
  const Bytes in{data, size};
  AudioHeader header;
  const auto is = [&](AudioKind kind) { header.kind = static_cast<int32_t>(kind); };
  if ((in.equal(0, "RIFF", 4) || in.equal(0, "RF64", 4)) && in.equal(8, "WAVE", 4)) {
    is(AudioKind::wav);
    header.problem = static_cast<int32_t>(read_wav(in, header));
  } else if (in.equal(0, "fLaC", 4)) {
    is(AudioKind::flac);
    read_flac(in, header);
  } else if (in.equal(0, "OggS", 4)) {
    is(AudioKind::ogg);
    header.problem = static_cast<int32_t>(read_ogg(in, header));
  } else if (is_mp3(in)) {
    is(AudioKind::mp3);
  }
  return header;
}

void probe_audios(const uint8_t* arena, const int64_t* starts, int64_t n, int32_t threads, AudioHeader* out) {
  parallel_for(n, threads, [=](int64_t i) {
    out[i] = probe_audio(arena + starts[i], static_cast<size_t>(starts[i + 1] - starts[i]));
  });
}

void read_wavs(const uint8_t* arena, const int64_t* starts, int64_t n, WavSegment* segments, int64_t count,
               int32_t threads) {
  parallel_for(count, threads, [=](int64_t i) {
    WavSegment& segment = segments[i];
    const auto refuse = [i](const char* why) {
      throw std::invalid_argument("read_wavs: segment " + std::to_string(i) + " " + why);
    };
    if (segment.file < 0 || segment.file >= n) refuse("is of a file that is not there");
    const uint8_t* file = arena + starts[segment.file];
    // Read once more: what it says holds for these very bytes.
    const AudioHeader header = probe_audio(file, static_cast<size_t>(starts[segment.file + 1] - starts[segment.file]));
    if (header.kind != static_cast<int32_t>(AudioKind::wav) || header.problem != 0)
      refuse("is of no readable WAV file");
    if (segment.first < 0 || segment.frames < 0 || segment.first > header.frames ||
        segment.frames > header.frames - segment.first) {
      refuse("lies outside its file");
    }
    read_one(file, header, segment);
  });
}

}  // namespace dalipipe
