"""Time stretch and pitch shift, by a phase vocoder."""

from __future__ import annotations

import numpy as np

from dalipipe.buffers import BufferPool
from dalipipe.records import Signals
from dalipipe.spectral.arguments import check_hops, check_per_sample
from dalipipe.spectral.frames import addresses_of, hann_window, made_frames, stretch_bytes, stretching
from dalipipe.spectral.jobs import Chunk
from dalipipe.spectral.resampling import SHIFTING_ZEROS, set_taps

_MAX_SEMITONES = 48.0


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
    rate = check_per_sample("stretch", "rate", rate, len(signals), 1e-3, 1e3)
    hop = check_hops("stretch", n_fft // 4 if hop is None else hop, len(signals))
    rows, job = stretching("stretch", signals, rate, hop, n_fft, threads)
    frames = rows["stretched_frames"][:: signals.channels]
    result = job.results(frames, signals.channels, signals.rate_hz, buffers)
    rows["out"], rows["out_frames"] = addresses_of(result), rows["stretched_frames"]
    window = job.upload(hann_window(n_fft))

    def work(chunk: Chunk) -> None:
        made = made_frames(job, chunk, n_fft, window)
        job.run("overlap", chunk, n_fft=n_fft, lead=n_fft // 2, window=window, source=made)

    job.in_chunks(rows, work, stretch_bytes(rows, n_fft))
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
    semitones = check_per_sample("pitch_shift", "semitones", semitones, len(signals), -_MAX_SEMITONES, _MAX_SEMITONES)
    ratio = 2.0 ** (semitones / 12)
    hop = np.maximum(np.rint(n_fft / 4 * np.sqrt(ratio)), 1).astype(np.int64)
    rows, job = stretching("pitch_shift", signals, 1 / ratio, hop, n_fft, threads)
    result = job.results(signals.frames, signals.channels, signals.rate_hz, buffers)
    rows["out"], rows["out_frames"] = addresses_of(result), np.repeat(result.frames, signals.channels)
    tables = job.upload(set_taps(rows, np.repeat(1 / ratio, signals.channels), SHIFTING_ZEROS))
    window = job.upload(hann_window(n_fft))

    def work(chunk: Chunk) -> None:
        made = made_frames(job, chunk, n_fft, window)
        stretched = chunk.memory(chunk.place("stretched_at", "stretched_frames"))
        job.run("overlap", chunk, n_fft=n_fft, lead=n_fft // 2, window=window, source=made, target=stretched)
        job.run("resample", chunk, source=stretched, tables=tables)

    job.in_chunks(rows, work, stretch_bytes(rows, n_fft))
    return result
