"""Sounds decoded on the host: WAV natively, FLAC and Ogg by NVIDIA DALI, MP3 (which it lacks) by soundfile."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np

from dalipipe import native
from dalipipe.decoders.base import DecodeError
from dalipipe.decoders.dali import MissingDaliError, building
from dalipipe.records import Encoded, EncodedAudio, Signals

_OTHER, _WAV, _FLAC, _OGG, _MP3 = range(len(native.AUDIO_KINDS))
_CODEC = native.AUDIO_PROBLEMS.index("codec")
_AT_A_TIME = 64  # sounds in a run of DALI's
_MAX_FRAMES = 2.0**31
_SILENCE = np.zeros(1, np.float32)
_AGAIN = "fetch the file again or remove it"
_PROBLEMS = {
    "no_format": "a WAV file without a format",
    "damaged": "a WAV file whose format contradicts itself ({rate_hz} Hz, {channels} channels)",
    "no_data": "a WAV file without a frame of sound",
    "truncated": "a WAV file truncated after {frames} of its {promised} frames",
}
Sound = tuple[np.ndarray, float]  # float32 [T, C], Hz


def decode_audio(
    encoded: Encoded,
    *,
    channels: int,
    start_s: np.ndarray | None = None,
    duration_s: np.ndarray | None = None,
    threads: int = 1,
    allocate: Callable[[int], np.ndarray] | None = None,
) -> tuple[Signals, dict[int, Exception]]:
    """Decodes N sounds (WAV, FLAC, Ogg, MP3), or a part of each.

    Integers become x / 2^(bits - 1), in [-1, 1]; floating-point numbers stay as they are.

    Args:
        encoded: N files.
        channels: of the signals. One: the mean of a file's channels, in float32. More: a file of as many, or of one,
            which is then repeated (by a channel step of 0).
        start_s, duration_s: float64 [N], seconds; not a number, or None: what an `EncodedAudio` says, else the whole
            file. Each is rounded to the nearest frame, so equal durations are equal numbers of frames; what lies beyond
            the end of a file is not there.
        threads: how many work at a time.
        allocate: gives uint8 memory for what is read of WAV files.

    Returns:
        signals: float32 [T, channels] each, at the rate it was recorded at; a frame of silence at 1 Hz where there is
            an error.
        errors: row → `DecodeError`; no file costs another anything.

    Raises:
        MissingDaliError: there are FLAC or Ogg files, or WAV files in codecs that are not ours, and no DALI.
        ImportError: there are MP3 files, and no soundfile.
    """
    if isinstance(encoded, EncodedAudio):
        start_s = encoded.start_s if start_s is None else start_s
        duration_s = encoded.duration_s if duration_s is None else duration_s
    n = len(encoded)
    start_s, duration_s = (np.full(n, np.nan) if given is None else given for given in (start_s, duration_s))
    headers = native.probe_audio(encoded.arena, encoded.starts, threads=threads)
    kind, problem = headers["kind"], headers["problem"]
    errors: dict[int, Exception] = {}
    for row in np.flatnonzero((kind == _OTHER) | ((problem != 0) & (problem != _CODEC))).tolist():
        errors[row] = _refusal(encoded[row], headers[row])

    sounds: dict[int, Sound] = {}
    by_dali = np.flatnonzero(
        (kind == _FLAC) | ((kind == _OGG) & (problem == 0)) | ((kind == _WAV) & (problem == _CODEC))
    )
    for rows, decode in ((by_dali, _by_dali), (np.flatnonzero(kind == _MP3), _by_soundfile)):
        decoded = decode([encoded[row] for row in rows.tolist()], threads) if len(rows) else []
        for row, found in zip(rows.tolist(), decoded, strict=True):
            if isinstance(found, Exception):
                errors[row] = found
            else:
                sounds[row] = found

    total, width, rate_hz = headers["frames"], headers["channels"].astype(np.int64), headers["rate_hz"].astype(float)
    for row, (sound, rate) in sounds.items():
        (total[row], width[row]), rate_hz[row] = sound.shape, rate
    first, frames = _segments(total, rate_hz, start_s, duration_s)
    good = np.ones(n, bool)
    good[list(errors)] = False
    for row in np.flatnonzero(good & (width != channels) & (width != 1) & (channels != 1)).tolist():
        errors[row] = DecodeError(
            f"{width[row]} channels, expected {channels} or 1: ask for channels=1, their mean, or convert the file"
        )
    for row in np.flatnonzero(good & (frames < 1)).tolist():
        errors.setdefault(
            row,
            DecodeError(
                f"no frame lies in the part from start_s={start_s[row]:g} for duration_s={duration_s[row]:g}: the file "
                f"has {total[row]} frames, {total[row] / rate_hz[row]:g} s: correct the two, or leave the sample out"
            ),
        )
    good[list(errors)] = False

    address = np.full(n, _SILENCE.ctypes.data, np.uint64)
    owners: list[Any] = [_SILENCE]
    for row, (sound, _) in sounds.items():
        if good[row]:
            part = _mean(sound[first[row] : first[row] + frames[row]]) if channels == 1 else sound[first[row] :]
            address[row] = part.ctypes.data
            owners.append(part)
    if channels == 1:
        width[:] = 1
    rows = np.flatnonzero(good & (kind == _WAV) & (problem == 0))
    if len(rows):
        memory, address[rows], bad = _read_wavs(encoded, rows, first, frames, width, channels == 1, threads, allocate)
        owners.append(memory)
        for row, frame in bad.items():
            errors[row] = DecodeError(f"frame {frame} is no finite number: repair the file or remove it")
            good[row], address[row] = False, _SILENCE.ctypes.data
    return Signals(
        address=address,
        frames=np.where(good, frames, 1).astype(np.int32),
        frame_step=np.where(good, width, 1),
        channel_step=np.where(good & (width == channels), 1, 0),
        channels=channels,
        owner=owners,
        rate_hz=np.where(good, rate_hz, 1.0),
    ), errors


def _segments(
    total: np.ndarray, rate_hz: np.ndarray, start_s: np.ndarray, duration_s: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """int64 [N] first frames and numbers of frames; the latter below 1 where nothing lies there."""
    start = np.where(np.isnan(start_s), 0.0, start_s)
    first = np.rint(np.clip(start * rate_hz, -1.0, _MAX_FRAMES)).astype(np.int64)
    rest = total - first
    wanted = np.where(np.isnan(duration_s), _MAX_FRAMES, duration_s * rate_hz)
    frames = np.minimum(np.rint(np.clip(wanted, 0.0, _MAX_FRAMES)).astype(np.int64), rest)
    return first, np.where(start < 0, 0, frames)


def _read_wavs(
    encoded: Encoded,
    rows: np.ndarray,
    first: np.ndarray,
    frames: np.ndarray,
    width: np.ndarray,
    mix: bool,
    threads: int,
    allocate: Callable[[int], np.ndarray] | None,
) -> tuple[np.ndarray, np.ndarray, dict[int, int]]:
    """The memory, addresses in it uint64 [A], and by row the first frame that is no number."""
    nbytes = 4 * frames[rows] * width[rows]
    ends = np.cumsum(nbytes)
    memory = np.empty(int(ends[-1]), np.uint8) if allocate is None else allocate(int(ends[-1]))
    segments = np.zeros(len(rows), native.WAV_SEGMENT)
    segments["file"], segments["first"], segments["frames"] = rows, first[rows], frames[rows]
    segments["out"] = memory.ctypes.data + ends - nbytes
    segments["mix"] = mix
    native.read_wavs(encoded.arena, encoded.starts, segments, threads=threads)
    bad = np.flatnonzero(segments["bad"] >= 0)
    frames_of = dict(zip(rows[bad].tolist(), segments["bad"][bad].tolist(), strict=True))
    return memory, segments["out"].astype(np.uint64), frames_of


def _mean(sound: np.ndarray) -> np.ndarray:
    """float32 [T, C] → [T, 1], summed in the channels' order, as csrc/audio.cpp does."""
    mixed = sound[:, :1]
    for channel in range(1, sound.shape[1]):
        mixed = mixed + sound[:, channel : channel + 1]
    return np.ascontiguousarray(mixed / np.float32(sound.shape[1]))


def _refusal(data: np.ndarray, header: np.void) -> DecodeError:
    if not len(data):
        return DecodeError("the file is empty")
    problem = native.AUDIO_PROBLEMS[header["problem"]]
    if header["kind"] == _OGG:
        return DecodeError(f"an Ogg file truncated after {header['frames']} frames; {_AGAIN}")
    if problem:
        values = {name: header[name] for name in ("rate_hz", "channels", "frames", "promised")}
        return DecodeError(f"{_PROBLEMS[problem].format(**values)}; {_AGAIN}")
    return DecodeError(
        f"not a WAV, FLAC, Ogg or MP3 file: it starts with {data[:12].tobytes()!r}; convert it, or leave it out"
    )


def _by_soundfile(files: Sequence[np.ndarray], threads: int) -> list[Sound | Exception]:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: without its C library
        raise ImportError(
            f"soundfile is missing, which decodes MP3 ({error}): pip install soundfile, or convert the files to FLAC"
        ) from error

    def decode(data: np.ndarray) -> Sound | Exception:
        try:
            sound, rate_hz = soundfile.read(io.BytesIO(data.tobytes()), dtype="float32", always_2d=True)
        except Exception as error:  # whatever its library makes of broken bytes
            return DecodeError(f"cannot be decoded: {error}; {_AGAIN}")
        return sound, float(rate_hz)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(decode, files))


def _by_dali(files: Sequence[np.ndarray], threads: int) -> list[Sound | Exception]:
    dali = _dali(threads, os.getpid())  # a forked child has none of its threads
    decoded: list[Sound | Exception] = []
    for begin in range(0, len(files), _AT_A_TIME):
        decoded += dali.decode(files[begin : begin + _AT_A_TIME])
    return decoded


@lru_cache(maxsize=1)
def _dali(threads: int, process: int) -> _Dali:
    return _Dali(threads)


class _Dali:
    """DALI's decoder: up to `_AT_A_TIME` sounds a run."""

    def __init__(self, threads: int) -> None:
        try:
            from nvidia.dali import Pipeline, fn
            from nvidia.dali.types import FLOAT, UINT8  # type: ignore[attr-defined]
        except ImportError as error:
            raise MissingDaliError(
                "NVIDIA DALI is not installed, which decodes FLAC and Ogg: pip install 'dalipipe[cuda13]' or "
                "'dalipipe[cuda12]' (also on machines without a GPU), or convert the files to WAV"
            ) from error
        self._lock = threading.Lock()
        with building:
            # Dynamic: only then does a pipeline outlive a file that it cannot decode.
            self._pipeline = Pipeline(
                batch_size=_AT_A_TIME, num_threads=threads, device_id=None, exec_dynamic=True, prefetch_queue_depth=1
            )
            with self._pipeline:
                encoded = fn.external_source(name="encoded", dtype=UINT8, ndim=1, no_copy=True)
                self._pipeline.set_outputs(*fn.decoders.audio(encoded, dtype=FLOAT, downmix=False))
            self._pipeline.build()

    def decode(self, files: Sequence[np.ndarray]) -> list[Sound | Exception]:
        with self._lock:
            try:
                return self._run(files)
            except RuntimeError as error:
                if len(files) == 1:
                    return [DecodeError(f"cannot be decoded: {_cause(error)}; {_AGAIN}")]
            # One bad file fails all of them: find it, and keep the others.
        return [self.decode([file])[0] for file in files]

    def _run(self, files: Sequence[np.ndarray]) -> list[Sound | Exception]:
        from nvidia.dali.tensors import TensorCPU

        self._pipeline.feed_input("encoded", [TensorCPU(file) for file in files])
        self._pipeline.schedule_run()
        sounds, rates_hz = self._pipeline.outputs()
        return [(np.asarray(sounds[row]), float(np.asarray(rates_hz[row]))) for row in range(len(files))]


def _cause(error: RuntimeError) -> str:
    """What DALI's long message says was encountered."""
    lines = str(error).partition("encountered:")[2].strip().splitlines()
    return lines[0] if lines else str(error).strip().splitlines()[-1]
