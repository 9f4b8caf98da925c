"""Resampling by a windowed sinc."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from dalipipe.buffers import BufferPool
from dalipipe.records import Signals
from dalipipe.spectral.arguments import check_counts, check_per_sample
from dalipipe.spectral.frames import addresses_of, rows_of
from dalipipe.spectral.jobs import Job

_PHASES, _TAP_LANES = 256, 16  # kPhases, kTapLanes
_BETA = 6.0  # of Kaiser's window: what it stops is 65 dB down
SHIFTING_ZEROS, _RESAMPLING_ZEROS = 12, 16  # zero crossings of the sinc on either side, at least


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
    ratio = check_per_sample("resample", "ratio", ratio, len(signals), 1 / 64, 1e3)
    out_frames = check_counts("resample", "out_frames", out_frames, len(signals))
    job = Job("resample", signals.on_cuda, threads)
    rows = rows_of(signals)
    rate_hz = None if signals.rate_hz is None else signals.rate_hz * ratio
    result = job.results(out_frames, signals.channels, rate_hz, buffers)
    rows["out"], rows["out_frames"] = addresses_of(result), np.repeat(result.frames, signals.channels)
    tables = job.upload(set_taps(rows, np.repeat(ratio, signals.channels), _RESAMPLING_ZEROS))
    job.at_once(rows, lambda chunk: job.run("resample", chunk, threads=threads, tables=tables))
    return result


def set_taps(rows: np.ndarray, ratio: np.ndarray, zeros: int) -> np.ndarray:
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
