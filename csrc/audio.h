// Audio files: what their headers say, and WAV files read.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dalipipe {

enum class AudioKind : int32_t { other = 0, wav = 1, flac = 2, ogg = 3, mp3 = 4 };

// How a WAV file stores a sample; others are not read here.
enum class WavSample : int32_t { none = 0, pcm8 = 1, pcm16 = 2, pcm24 = 3, pcm32 = 4, float32 = 5, float64 = 6 };

// Why a WAV or Ogg file cannot be read.
enum class AudioProblem : int32_t {
  none = 0,
  no_format = 1,  // no format chunk, or one cut short
  damaged = 2,    // a format that contradicts itself
  codec = 3,      // compressed, or samples of another size: other decoders may read it
  no_data = 4,    // no data chunk, or no whole frame in it
  truncated = 5   // the file ends before its data do; of Ogg files, within a page
};

// Mirrored, field by field, by `dalipipe.native.AUDIO_HEADER` (a numpy dtype).
struct AudioHeader {
  int32_t kind = 0;      // an `AudioKind`
  int32_t problem = 0;   // an `AudioProblem`
  int32_t rate_hz = 0;   // 0: not found; of Opus 48000
  int32_t channels = 0;  // 0: not found
  int32_t sample = 0;    // a `WavSample`
  int32_t codec = 0;     // of WAV files: the format's tag
  int64_t frames = 0;    // that are there whole; of MP3 files, and where a FLAC or Ogg file does not say: 0
  int64_t promised = 0;  // frames; more than those there are, where a WAV file is truncated
  int64_t data = 0;      // bytes before a WAV file's first frame
};
static_assert(sizeof(AudioHeader) == 48, "keep dalipipe.native.AUDIO_HEADER in step");

// Reads the header of one encoded sound. Never throws for bad bytes and never reads outside [data, data + size).
AudioHeader probe_audio(const uint8_t* data, size_t size);
void probe_audios(const uint8_t* arena, const int64_t* starts, int64_t n, int32_t threads, AudioHeader* out);

// A part of a WAV file to be read.
struct WavSegment {
  int64_t file = 0;    // row of the file
  int64_t first = 0;   // frame
  int64_t frames = 0;  // [first, first + frames) lies within the file's frames
  int64_t out = 0;     // address of float32 [frames, channels], or [frames] where they are mixed
  int64_t bad = -1;    // set by reading: the first frame, counted from the file's, that holds no finite number
  int32_t mix = 0;     // 1: the channels' mean
  int32_t unused = 0;
};

// Integers become x / 2^(bits - 1), in [-1, 1] (8 bits: (x - 128) / 128), floating-point numbers stay as they are. The
// mean is the sum in the channels' order, divided by their number, in float. Throws std::invalid_argument for a segment
// outside its file, or of a file that cannot be read here.
void read_wavs(const uint8_t* arena, const int64_t* starts, int64_t n, WavSegment* segments, int64_t count,
               int32_t threads);

}  // namespace dalipipe
