"""Time stretch, pitch shift, resampling, mel features and coloured noise, of many signals at a time.

Signals come and go as `records.Signals`, on the host or on a CUDA device; of any lengths, each with parameters of its
own. Every channel is a row. Rows go by in chunks: all frames of a chunk's rows are cut out natively, transformed in one
batch by torch (MKL, cuFFT), worked on natively, transformed back, overlapped and added. On the host a chunk stays in
a core's cache, and every thread works on chunks of its own, with MKL in one thread: at n_fft 512 a transform in a batch
takes 0.45 µs of a core so, and 0.7 where MKL shares out each batch over two threads. What comes out is the same bit for
bit whatever else is in the batch, in however many chunks and threads.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from dalipipe import native
from dalipipe.buffers import BufferPool
from dalipipe.records import Signals

_CHUNK_BYTES = 2 << 20  # of frames and spectra on the host: about what a core's cache holds
_CUDA_CHUNK_BYTES = 512 << 20
_PHASES, _TAP_LANES = 256, 16  # kPhases, kTapLanes
_MAX_SEMITONES = 48.0

Log = Literal["db", "ln"]
Norm = Literal["slaney"]
MelScale = Literal["htk", "slaney"]


def stretch(
    signals: Signals,
    rate: np.ndarray,
    *,
    n_fft: int = 2048,
    hop: int | np.ndarray | None = None,
    threads: int = 1,
    buffers: BufferPool | None = None,
) -> Signals:
    """Makes signals shorter or longer, and leaves their pitch: librosa.effects.time_stretch, a phase vocoder.

    Args:
        signals: N signals.
        rate: float64 [N]: how much faster each goes, 1e-3 to 1e3; T frames become round(T / rate), at least one.
        n_fft: frames of a transform; even.
        hop: frames from one transform to the next, for all or int64 [N]; None: n_fft // 4.
        threads: how many work at a time; on the host.
        buffers: where the results' memory on the host comes from; None: numpy.

    Returns:
        N signals, planar.

    Raises:
        ValueError: naming the argument, what was expected and what came.

    Source: librosa 0.11, effects.time_stretch; the phases it adds up are multiplied here as unit complex numbers.
    """
    rate = _per_sample("stretch", "rate", rate, len(signals), 1e-3, 1e3)
    hop = _hops("stretch", n_fft // 4 if hop is None else hop, len(signals))
    rows, job = _stretching("stretch", signals, rate, hop, n_fft, threads)
    frames = rows["stretched_frames"][:: signals.channels]
    result = job.results(frames, signals.channels, signals.rate_hz, buffers)
    rows["out"], rows["out_frames"] = _addresses(result), rows["stretched_frames"]
    window = job.upload(_hann(n_fft))

    def work(chunk: _Chunk) -> None:
        made = _made_frames(job, chunk, n_fft, window)
        job.run("overlap", chunk, n_fft=n_fft, lead=n_fft // 2, window=window, source=made)

    job.in_chunks(rows, work, _stretch_bytes(rows, n_fft))
    return result


def pitch_shift(
    signals: Signals,
    semitones: np.ndarray,
    *,
    n_fft: int = 2048,
    threads: int = 1,
    buffers: BufferPool | None = None,
) -> Signals:
    """Moves the pitch of signals, and leaves their length: stretched, then resampled (librosa.effects.pitch_shift).

    The hop between transforms is n_fft / 4 times the square root of the ratio of pitches, so that frames that are
    analysed and frames that are made balance each other, and every shift costs about the same.

    Args:
        signals: N signals.
        semitones: float64 [N]: up, or down where negative; -48 to 48.
        n_fft, threads, buffers: as of `stretch`.

    Returns:
        N signals, planar.

    Raises:
        ValueError: naming the argument, what was expected and what came.
    """
    semitones = _per_sample("pitch_shift", "semitones", semitones, len(signals), -_MAX_SEMITONES, _MAX_SEMITONES)
    ratio = 2.0 ** (semitones / 12)
    hop = np.maximum(np.rint(n_fft / 4 * np.sqrt(ratio)), 1).astype(np.int64)
    rows, job = _stretching("pitch_shift", signals, 1 / ratio, hop, n_fft, threads)
    result = job.results(signals.frames, signals.channels, signals.rate_hz, buffers)
    rows["out"], rows["out_frames"] = _addresses(result), np.repeat(result.frames, signals.channels)
    tables = job.upload(_set_taps(rows, np.repeat(1 / ratio, signals.channels), _SHIFTING_ZEROS))
    window = job.upload(_hann(n_fft))

    def work(chunk: _Chunk) -> None:
        made = _made_frames(job, chunk, n_fft, window)
        stretched = chunk.memory(chunk.place("stretched_at", "stretched_frames"))
        job.run("overlap", chunk, n_fft=n_fft, lead=n_fft // 2, window=window, source=made, target=stretched)
        job.run("resample", chunk, source=stretched, tables=tables)

    job.in_chunks(rows, work, _stretch_bytes(rows, n_fft))
    return result


def resample(
    signals: Signals,
    ratio: np.ndarray,
    out_frames: np.ndarray,
    *,
    threads: int = 1,
    buffers: BufferPool | None = None,
) -> Signals:
    """Resamples signals by a windowed sinc, at any ratio, each at its own.

    Args:
        signals: N signals.
        ratio: float64 [N]: frames out for each frame in, 1/64 to 1e3; frame t lies at t / ratio.
        out_frames: int64 [N]: how many frames to make, at least one; past a signal's end lies silence.
        threads, buffers: as of `stretch`.

    Returns:
        N signals, planar; their ``rate_hz`` is ``ratio`` times what it was.

    Raises:
        ValueError: naming the argument, what was expected and what came.
    """
    ratio = _per_sample("resample", "ratio", ratio, len(signals), 1 / 64, 1e3)
    out_frames = _counts("resample", "out_frames", out_frames, len(signals))
    job = _Job("resample", signals.on_cuda, threads)
    rows = _rows(signals)
    rate_hz = None if signals.rate_hz is None else signals.rate_hz * ratio
    result = job.results(out_frames, signals.channels, rate_hz, buffers)
    rows["out"], rows["out_frames"] = _addresses(result), np.repeat(result.frames, signals.channels)
    tables = job.upload(_set_taps(rows, np.repeat(ratio, signals.channels), _RESAMPLING_ZEROS))
    job.at_once(rows, lambda chunk: job.run("resample", chunk, threads=threads, tables=tables))
    return result


def mel_spectrogram(
    signals: Signals,
    *,
    rate_hz: float,
    n_fft: int = 400,
    hop: int | None = None,
    win_length: int | None = None,
    n_mels: int = 128,
    f_min: float = 0.0,
    f_max: float | None = None,
    power: float = 2.0,
    log: Log | None = None,
    center: bool = True,
    norm: Norm | None = None,
    mel_scale: MelScale = "htk",
    top_db: float | None = 80.0,
    threads: int = 1,
    buffers: BufferPool | None = None,
) -> Signals:
    """Mel spectrograms, as torchaudio.transforms.MelSpectrogram (and AmplitudeToDB) makes them.

    Args:
        signals: N signals.
        rate_hz: their frames a second, which says what frequency a bin is.
        n_fft: frames of a transform; even.
        hop: frames from one transform to the next; None: win_length // 2.
        win_length: frames of the Hann window, at most n_fft; None: n_fft.
        n_mels: how many filters.
        f_min, f_max: Hz: the lowest filter's lower end, the highest one's upper end; None: rate_hz / 2.
        power: 2: of power; 1: of magnitudes.
        log: "db": 10 log10 of at least 1e-10; "ln": the natural logarithm of value + 1e-6; None: as they are.
        center: whether frame t is centred on t * hop, in a signal mirrored at its ends, or begins there.
        norm: "slaney": filters have the same area; None: the same height.
        mel_scale: "htk" or "slaney".
        top_db: of "db": what lies further below a sample's maximum is raised; None: nothing is.
        threads, buffers: as of `stretch`.

    Returns:
        N signals of channels · n_mels channels, channel by channel, planar: frame t is the spectrogram's.

    Raises:
        ValueError: naming the argument, what was expected and what came.
    """
    what = "mel_spectrogram"
    _check_n_fft(what, n_fft)
    win_length = n_fft if win_length is None else win_length
    hop = win_length // 2 if hop is None else hop
    if not 1 <= win_length <= n_fft:
        raise ValueError(f"{what}: win_length must be in 1 ... n_fft, got {win_length}")
    if hop < 1:
        raise ValueError(f"{what}: hop must be at least 1, got {hop}")
    if power not in (1, 2):
        raise ValueError(f"{what}: power must be 1 or 2, got {power}")
    if log not in (None, "db", "ln"):
        raise ValueError(f'{what}: log must be None, "db" or "ln", got {log!r}')
    lead = n_fft // 2 if center else 0
    frames = signals.frames.astype(np.int64) + 2 * lead - n_fft
    if (frames < 0).any():
        row = int(np.argmax(frames < 0))
        raise ValueError(f"{what}: sample {row} must have at least n_fft frames, {n_fft}, got {signals.frames[row]}")
    bands, weights = _mel_bands(what, n_fft, rate_hz, n_mels, f_min, rate_hz / 2 if f_max is None else f_max, norm,
                                mel_scale)  # fmt: skip

    job = _Job(what, signals.on_cuda, threads)
    rows = _rows(signals)
    rows["hop"] = hop
    rows["rate"] = 1
    rows["analysed"] = np.repeat(frames // hop + 1, signals.channels)
    rate = None if signals.rate_hz is None else signals.rate_hz / hop
    result = job.results(frames // hop + 1, signals.channels * n_mels, rate, buffers)
    rows["out"] = _addresses(result, signals.channels)
    rows["out_frames"] = rows["analysed"]
    window, tables, device_bands = (job.upload(array) for array in (_hann(win_length, n_fft), weights, bands))

    def work(chunk: _Chunk) -> None:
        spectra = _analysed(job, chunk, n_fft, window, lead, "mirror")
        job.run("mel", chunk, n_fft=n_fft, source=spectra, tables=tables, bands=(bands, device_bands),
                squared=power == 2, log=log)  # fmt: skip

    job.in_chunks(rows, work, rows["analysed"] * 8 * (n_fft + 2))
    if log == "db" and top_db is not None:
        whole = np.zeros(len(signals), native.SPECTRAL_ROW)
        whole["out"], whole["out_frames"] = result.address, result.frames.astype(np.int64) * result.channels
        job.at_once(whole, lambda chunk: job.run("clamp", chunk, threads=threads, top_db=top_db))
    return result


def mfcc(
    signals: Signals,
    *,
    rate_hz: float,
    n_mfcc: int = 40,
    log: Log = "db",
    n_mels: int = 128,
    threads: int = 1,
    buffers: BufferPool | None = None,
    **mel: Any,
) -> Signals:
    """Mel-frequency cepstral coefficients, as torchaudio.transforms.MFCC makes them: an orthonormal DCT-II of log mel.

    Args:
        signals, rate_hz, n_mels, threads, buffers: as of `mel_spectrogram`, and ``mel``: others of its arguments.
        n_mfcc: how many coefficients, at most n_mels.
        log: "db", with 80 dB of range; "ln".

    Returns:
        N signals of channels · n_mfcc channels, channel by channel, planar.

    Raises:
        ValueError: naming the argument, what was expected and what came.
    """
    if not 1 <= n_mfcc <= n_mels:
        raise ValueError(f"mfcc: n_mfcc must be in 1 ... n_mels, got {n_mfcc}")
    mels = mel_spectrogram(signals, rate_hz=rate_hz, log=log, n_mels=n_mels, threads=threads, **mel)
    job = _Job("mfcc", signals.on_cuda, threads)
    result = job.results(mels.frames, signals.channels * n_mfcc, mels.rate_hz, buffers)
    rows = np.zeros(len(signals) * signals.channels, native.SPECTRAL_ROW)
    rows["in"], rows["out"] = _addresses(mels, signals.channels), _addresses(result, signals.channels)
    rows["in_frames"] = rows["out_frames"] = np.repeat(mels.frames, signals.channels)
    matrix = job.upload(_dct(n_mfcc, n_mels))
    job.at_once(rows, lambda chunk: job.run("mix", chunk, threads=threads, tables=matrix, mixed=n_mels, mixes=n_mfcc))
    return result


def coloured_noise(
    keys: np.ndarray,
    frames: np.ndarray,
    decay_db_per_octave: np.ndarray,
    *,
    device: torch.device | str = "cpu",
    threads: int = 1,
    buffers: BufferPool | None = None,
) -> Signals:
    """Noise whose spectrum falls or rises by so many dB an octave, of RMS 1; each made by its key and length alone.

    Args:
        keys: uint32 [N, 5]: `NoiseKey` of csrc/ops.h.
        frames: int64 [N]: of each, at least one.
        decay_db_per_octave: float64 [N], -60 to 60: -3.01 is pink noise, -6.02 brown, 3.01 blue.
        device: where.
        threads, buffers: as of `stretch`.

    Returns:
        N signals of one channel.

    Raises:
        ValueError: naming the argument, what was expected and what came.

    Source: audiomentations, AddColorNoise, without its A-weighting.
    """
    n = len(frames)
    if keys.dtype != np.uint32 or keys.shape != (n, 5):
        raise ValueError(f"coloured_noise: keys must be uint32 [{n}, 5], got {keys.dtype} {keys.shape}")
    frames = _counts("coloured_noise", "frames", frames, n)
    decay = _per_sample("coloured_noise", "decay_db_per_octave", decay_db_per_octave, n, -60, 60)
    job = _Job("coloured_noise", torch.device(device).type == "cuda", threads)
    result = job.results(frames, 1, None, buffers)
    rows = np.zeros(n, native.SPECTRAL_ROW)
    rows["key"], rows["exponent"] = keys, decay / (20 * math.log10(2))
    rows["out"], rows["out_frames"] = result.address, frames
    sizes = _good_sizes(frames)
    for n_fft in np.unique(sizes).tolist():

        def work(chunk: _Chunk, n_fft: int = n_fft) -> None:
            n = len(chunk.rows)
            noise = chunk.memory(n * n_fft).view(n, n_fft)
            job.run("white", chunk, n_fft=n_fft, target=noise)
            spectra = torch.fft.rfft(noise)
            job.run("colour", chunk, n_fft=n_fft, target=spectra)
            job.run("level", chunk, n_fft=n_fft, source=torch.fft.irfft(spectra, n_fft))

        of_size = rows[sizes == n_fft]
        of_size["made"] = 1
        job.in_chunks(of_size, work, np.full(len(of_size), 12 * (n_fft + 2)))
    return result


# --- rows, chunks and threads


@dataclass(frozen=True)
class _Chunk:
    """Some of a job's rows, whose places are counted from its first."""

    rows: np.ndarray
    device_rows: int
    scratch: Callable[[int], torch.Tensor]

    def place(self, at: str, count: str) -> int:
        """Where the last row's end."""
        return int(self.rows[at][-1]) + int(self.rows[count][-1])

    def memory(self, floats: int) -> torch.Tensor:
        """float32 [floats], uninitialised, another each time until the chunk is done."""
        return self.scratch(floats)


class _Job:
    """One call: where it works, and what it needs there."""

    def __init__(self, what: str, on_cuda: bool, threads: int) -> None:
        native.check_threads(what, threads)
        self.on_cuda, self.threads = on_cuda, threads
        self.device = torch.device("cuda", torch.cuda.current_device()) if on_cuda else torch.device("cpu")
        self.stream = torch.cuda.current_stream(self.device).cuda_stream if on_cuda else None

    def upload(self, array: np.ndarray) -> torch.Tensor:
        """The array's bytes where the job works."""
        tensor = torch.from_numpy(array if array.dtype == np.float32 else array.view(np.uint8))
        return tensor.to(self.device)

    def results(
        self, frames: np.ndarray, channels: int, rate_hz: np.ndarray | None, buffers: BufferPool | None
    ) -> Signals:
        """Memory for signals, planar, each at a multiple of 64 bytes."""
        frames = np.asarray(frames, np.int64)
        sizes = (frames * channels + 15) // 16 * 16
        starts = np.cumsum(sizes) - sizes
        total = int(sizes.sum())
        owner: Any
        if self.on_cuda:
            owner = torch.empty(total, dtype=torch.float32, device=self.device)
            base = owner.data_ptr()
        else:
            owner = np.empty(total, np.float32) if buffers is None else buffers.take(4 * total)
            base = owner.ctypes.data
        return Signals(
            address=(base + 4 * starts).astype(np.uint64),
            frames=frames.astype(np.int32),
            frame_step=np.ones(len(frames), np.int64),
            channel_step=frames,
            channels=channels,
            owner=owner,
            rate_hz=rate_hz,
            on_cuda=self.on_cuda,
        )

    def run(self, step: str, chunk: _Chunk, *, threads: int = 1, **params: Any) -> None:
        given: dict[str, Any] = {}
        for name, value in params.items():
            if name == "bands":
                given["bands"], given["device_bands"] = value[0], value[1].data_ptr()
            elif name in ("source", "target", "tables"):
                given[name] = value.data_ptr()
                floats = value.numel() * value.element_size() // 4
                given["table_floats" if name == "tables" else f"{name}_floats"] = floats
            else:
                given[name] = value.data_ptr() if name == "window" else value
        prepared = native.spectral_params(chunk.rows, device_rows=chunk.device_rows, **given)
        native.spectral_step(step, prepared, threads=threads, stream=self.stream)

    def at_once(self, rows: np.ndarray, work: Callable[[_Chunk], None]) -> None:
        """A step without transforms: native threads share out the rows."""
        if len(rows):
            on_device = self.upload(rows) if self.on_cuda else None
            work(_Chunk(rows, 0 if on_device is None else on_device.data_ptr(), self._no_scratch))

    def in_chunks(self, rows: np.ndarray, work: Callable[[_Chunk], None], nbytes: np.ndarray) -> None:
        """Calls work with the rows, as many at a time as ``nbytes`` [rows] allow."""
        if len(rows) == 0:
            return
        nbytes = np.asarray(nbytes, np.int64)
        begins = np.cumsum(nbytes) - nbytes
        number = begins // (_CUDA_CHUNK_BYTES if self.on_cuda else _CHUNK_BYTES)
        first = np.flatnonzero(np.diff(number, prepend=-1))
        bounds = [*first.tolist(), len(rows)]
        for at, count in (("analysed_at", "analysed"), ("made_at", "made"), ("stretched_at", "stretched_frames")):
            before = np.cumsum(rows[count], dtype=np.int64) - rows[count]
            rows[at] = before - np.repeat(before[first], np.diff(bounds))
        on_device = self.upload(rows) if self.on_cuda else None
        size = native.SPECTRAL_ROW.itemsize

        def take(numbers: Iterator[int]) -> None:
            scratch = _Scratch(self.device)
            for i in numbers:
                if i >= len(first):
                    break
                address = 0 if on_device is None else on_device.data_ptr() + bounds[i] * size
                scratch.begin()
                work(_Chunk(rows[bounds[i] : bounds[i + 1]], address, scratch.take))

        _share_out(take, 1 if self.on_cuda else min(self.threads, len(first)))

    @staticmethod
    def _no_scratch(floats: int) -> torch.Tensor:
        raise AssertionError("a step without transforms needs no memory")


class _Scratch:
    """A thread's memory on the host, used again from chunk to chunk; on CUDA, torch's."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._blocks: list[torch.Tensor] = []
        self._taken = 0

    def begin(self) -> None:
        self._taken = 0

    def take(self, floats: int) -> torch.Tensor:
        if self._device.type == "cuda":
            return torch.empty(floats, dtype=torch.float32, device=self._device)
        at = self._taken
        self._taken += 1
        if at == len(self._blocks):
            self._blocks.append(torch.empty(0))
        if self._blocks[at].numel() < floats:
            self._blocks[at] = torch.empty(floats + floats // 4)
        return self._blocks[at][:floats]


def _share_out(take: Callable[[Iterator[int]], None], threads: int) -> None:
    """Calls take in so many threads, this one among them, with numbers that they share."""
    numbers = itertools.count()  # its next() is one step of the interpreter's
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with _one_mkl_thread():
                take(numbers)
        except BaseException as error:
            errors.append(error)

    helpers = [threading.Thread(target=run, name="dalipipe-spectral", daemon=True) for _ in range(threads - 1)]
    for helper in helpers:
        helper.start()
    run()
    for helper in helpers:
        helper.join()
    if errors:
        raise errors[0]


@lru_cache(maxsize=1)
def _mkl_threads() -> Callable[[int], int]:
    """MKL's own function for the threads it uses in calls from one thread; nothing where torch comes without it."""
    libraries = list((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"))
    try:
        found = ctypes.PyDLL(str(libraries[0])).MKL_Set_Num_Threads_Local
    except (IndexError, OSError, AttributeError):
        return lambda threads: 0
    found.argtypes, found.restype = [ctypes.c_int], ctypes.c_int
    return found


@contextmanager
def _one_mkl_thread() -> Iterator[None]:
    before = _mkl_threads()(1)
    try:
        yield
    finally:
        _mkl_threads()(before)


# --- what functions have in common


def _rows(signals: Signals) -> np.ndarray:
    """A row a channel, sample after sample."""
    channels = np.arange(signals.channels)
    rows = np.zeros(len(signals) * signals.channels, native.SPECTRAL_ROW)
    offsets = 4 * (signals.channel_step[:, None] * channels)
    rows["in"] = (signals.address.astype(np.int64)[:, None] + offsets).astype(np.uint64).ravel()
    rows["in_step"] = np.repeat(signals.frame_step, signals.channels)
    rows["in_frames"] = np.repeat(signals.frames, signals.channels)
    return rows


def _addresses(signals: Signals, parts: int | None = None) -> np.ndarray:
    """uint64 [N * parts]: of equal parts of each planar signal; None: its channels."""
    parts = signals.channels if parts is None else parts
    nbytes = 4 * signals.channel_step * (signals.channels // parts)
    return (signals.address.astype(np.int64)[:, None] + nbytes[:, None] * np.arange(parts)).astype(np.uint64).ravel()


def _stretching(
    what: str, signals: Signals, rate: np.ndarray, hop: np.ndarray, n_fft: int, threads: int
) -> tuple[np.ndarray, _Job]:
    """Rows that know how many frames are analysed, and made, and how long the stretched signals are."""
    _check_n_fft(what, n_fft)
    job = _Job(what, signals.on_cuda, threads)
    frames = signals.frames.astype(np.int64)
    stretched = np.maximum(np.rint(frames / rate), 1).astype(np.int64)
    there = 1 + frames // hop
    made = np.minimum(np.ceil(there / rate), np.ceil((stretched + n_fft) / hop)).astype(np.int64)
    last = np.floor((made - 1) * rate).astype(np.int64)
    rows = _rows(signals)
    for name, values in (
        ("rate", rate),
        ("hop", hop),
        ("stretched_frames", stretched),
        ("made", made),
        ("analysed", np.where(rate <= 2, np.minimum(there, last + 2), 2 * made)),
    ):
        rows[name] = np.repeat(values, signals.channels)
    return rows, job


def _stretch_bytes(rows: np.ndarray, n_fft: int) -> np.ndarray:
    return (rows["analysed"].astype(np.int64) + rows["made"]) * 4 * (n_fft + 2)


def _analysed(job: _Job, chunk: _Chunk, n_fft: int, window: torch.Tensor, lead: int, edge: str) -> torch.Tensor:
    """The spectra of a chunk's frames, complex64 [frames, n_fft // 2 + 1]."""
    count = _round_up(chunk.place("analysed_at", "analysed"), job.on_cuda)
    frames = chunk.memory(count * n_fft).view(count, n_fft)
    job.run("cut", chunk, n_fft=n_fft, lead=lead, edge=edge, window=window, target=frames)
    return torch.fft.rfft(frames)


def _made_frames(job: _Job, chunk: _Chunk, n_fft: int, window: torch.Tensor) -> torch.Tensor:
    """A chunk's frames, analysed, stretched and transformed back: float32 [frames, n_fft]."""
    spectra = _analysed(job, chunk, n_fft, window, n_fft // 2, "zero")
    count = _round_up(chunk.place("made_at", "made"), job.on_cuda)
    made = chunk.memory(count * (n_fft + 2))
    job.run("vocode", chunk, n_fft=n_fft, source=spectra, target=made)
    return torch.fft.irfft(made.view(torch.complex64).view(count, n_fft // 2 + 1), n_fft)


def _round_up(frames: int, on_cuda: bool) -> int:
    """On CUDA one of 16 sizes per power of two: cuFFT makes a plan for every number of frames."""
    step = max(1 << (frames.bit_length() - 5), 1) if on_cuda and frames >= 16 else 1
    return -(-frames // step) * step


@lru_cache(maxsize=16)
def _hann(length: int, n_fft: int | None = None) -> np.ndarray:
    """A periodic Hann window, float32 [n_fft]; a shorter one in the middle."""
    n_fft = length if n_fft is None else n_fft
    window = np.zeros(n_fft)
    left = (n_fft - length) // 2
    window[left : left + length] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    return window.astype(np.float32)


# --- resampling


_BETA = 6.0  # of Kaiser's window: what it stops is 65 dB down
_SHIFTING_ZEROS, _RESAMPLING_ZEROS = 12, 16  # zero crossings of the sinc on either side, at least


def _set_taps(rows: np.ndarray, ratio: np.ndarray, zeros: int) -> np.ndarray:
    """Gives rows their steps and their tables; returns the tables, float32, one after the other."""
    rows["step"] = 1 / ratio
    steps = np.ceil(-24 * np.log2(np.minimum(ratio, 1)) - 1e-9).astype(np.int64)  # half semitones below
    used, which = np.unique(steps, return_inverse=True)
    tables, begins, taps = _tables(tuple(used.tolist()), zeros)
    rows["table"], rows["taps"] = begins[which], taps[which]
    return tables


@lru_cache(maxsize=8)
def _tables(half_semitones: tuple[int, ...], zeros: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tables one after the other, where each begins, and how many taps it has. They lie at multiples of 64 bytes."""
    tables = [_taps(steps, zeros) for steps in half_semitones]
    sizes = np.array([table.size for table in tables], np.int64)
    memory = np.empty(int(sizes.sum()) + 16, np.float32)
    memory = memory[-(memory.ctypes.data // 4) % 16 :][: sizes.sum()]
    np.concatenate([np.zeros(0, np.float32), *(table.ravel() for table in tables)], out=memory)
    return memory, np.cumsum(sizes) - sizes, np.array([table.shape[-1] for table in tables], np.int32)


@lru_cache(maxsize=256)
def _taps(half_semitones: int, zeros: int) -> np.ndarray:
    """float32 [_PHASES + 1, taps]: a sinc that cuts off so far below half the signal's rate, Kaiser-windowed.

    Entry [p, j] weighs the frame that lies j - taps / 2 + 1 after the last one before a place p / _PHASES after that.
    The sinc's own cutoff lies lower by half the width of the slope that a window of so many taps makes.
    """
    cutoff = 2.0 ** (-half_semitones / 24)
    taps = max(-(-math.ceil(2 * zeros / cutoff) // _TAP_LANES) * _TAP_LANES, 2 * _TAP_LANES)
    at = np.arange(taps) - (taps // 2 - 1) - np.arange(_PHASES + 1)[:, None] / _PHASES
    within = np.clip(1 - (2 * at / taps) ** 2, 0, None)
    table = np.sinc((cutoff - 2.56 / taps) * at) * np.i0(_BETA * np.sqrt(within))
    return (table / table.sum(axis=1, keepdims=True)).astype(np.float32)


# --- mel features


def _hz_to_mel(hz: np.ndarray, scale: str) -> np.ndarray:
    if scale == "htk":
        return 2595 * np.log10(1 + hz / 700)
    return np.where(hz < 1000, 3 * hz / 200, 15 + 27 * np.log(np.maximum(hz, 1000) / 1000) / np.log(6.4))


def _mel_to_hz(mel: np.ndarray, scale: str) -> np.ndarray:
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    return np.where(mel < 15, 200 * mel / 3, 1000 * np.exp(np.log(6.4) * (mel - 15) / 27))


@lru_cache(maxsize=16)
def _mel_bands(
    what: str, n_fft: int, rate_hz: float, n_mels: int, f_min: float, f_max: float, norm: str | None, scale: str
) -> tuple[np.ndarray, np.ndarray]:
    """`MEL_BAND` [n_mels] and their weights, float32; torchaudio.functional.melscale_fbanks."""
    if n_mels < 1:
        raise ValueError(f"{what}: n_mels must be at least 1, got {n_mels}")
    if not 0 <= f_min < f_max <= rate_hz / 2:
        raise ValueError(f"{what}: 0 <= f_min < f_max <= rate_hz / 2 must hold, got {f_min}, {f_max}, {rate_hz}")
    if norm not in (None, "slaney"):
        raise ValueError(f'{what}: norm must be None or "slaney", got {norm!r}')
    if scale not in ("htk", "slaney"):
        raise ValueError(f'{what}: mel_scale must be "htk" or "slaney", got {scale!r}')
    ends = _hz_to_mel(np.array([f_min, f_max], np.float64), scale)
    hz = _mel_to_hz(np.linspace(ends[0], ends[1], n_mels + 2), scale)[:, None]
    bins = np.arange(n_fft // 2 + 1) * (rate_hz / n_fft)
    rising, falling = (bins - hz[:-2]) / (hz[1:-1] - hz[:-2]), (hz[2:] - bins) / (hz[2:] - hz[1:-1])
    filters = np.clip(np.minimum(rising, falling), 0, None)
    if norm == "slaney":
        filters *= 2 / (hz[2:] - hz[:-2])
    bands = np.zeros(n_mels, native.MEL_BAND)
    used = filters > 0
    bands["first"] = used.argmax(axis=1)
    bands["count"] = np.where(used.any(axis=1), len(bins) - used[:, ::-1].argmax(axis=1) - bands["first"], 0)
    bands["weights"] = np.cumsum(bands["count"]) - bands["count"]
    parts = [row[band["first"] :][: band["count"]] for row, band in zip(filters, bands, strict=True)]
    return bands, np.concatenate(parts).astype(np.float32)


@lru_cache(maxsize=16)
def _dct(n_mfcc: int, n_mels: int) -> np.ndarray:
    """float32 [n_mfcc, n_mels]: an orthonormal DCT-II."""
    matrix = np.cos(np.pi / n_mels * np.arange(n_mfcc)[:, None] * (np.arange(n_mels) + 0.5)) * np.sqrt(2 / n_mels)
    matrix[0] *= np.sqrt(0.5)
    return matrix.astype(np.float32)


def _good_sizes(frames: np.ndarray) -> np.ndarray:
    """The next of 8, 9, 10, 12, 15 times a power of two, at least 32: sizes that transform fast, few of them."""
    k = np.floor(np.log2(np.maximum(frames, 32) / 8)).astype(np.int64)
    sizes = np.array([8, 9, 10, 12, 15, 16]) << k[:, None]
    return sizes[np.arange(len(frames)), (sizes >= frames[:, None]).argmax(axis=1)]


# --- arguments


def _check_n_fft(what: str, n_fft: int) -> None:
    if n_fft < 4 or n_fft % 2:
        raise ValueError(f"{what}: n_fft must be even and at least 4, got {n_fft}")


def _per_sample(what: str, name: str, values: np.ndarray, n: int, low: float, high: float) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.shape != (n,):
        raise ValueError(f"{what}: {name} must be float64 [{n}], one a sample, got shape {values.shape}")
    if not (bad := ~((values >= low) & (values <= high))).any():
        return values
    row = int(np.argmax(bad))
    raise ValueError(f"{what}: {name} of sample {row} must be in {low} ... {high}, got {values[row]}")


def _counts(what: str, name: str, values: np.ndarray, n: int) -> np.ndarray:
    values = np.asarray(values)
    if values.shape != (n,) or not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"{what}: {name} must be int64 [{n}], one a sample, got {values.dtype} {values.shape}")
    if (values < 1).any() or (values >= 2**31).any():
        raise ValueError(f"{what}: {name} must be in 1 ... 2^31 - 1, got {values.min()} ... {values.max()}")
    return values.astype(np.int64)


def _hops(what: str, hop: int | np.ndarray, n: int) -> np.ndarray:
    return _counts(what, "hop", np.full(n, hop) if np.ndim(hop) == 0 else np.asarray(hop), n)
