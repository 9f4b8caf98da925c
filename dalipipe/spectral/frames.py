"""Signals cut into frames, and frames put together again."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from dalipipe import native
from dalipipe.records import Signals
from dalipipe.spectral.arguments import check_n_fft
from dalipipe.spectral.jobs import Chunk, Job


def rows_of(signals: Signals) -> np.ndarray:
    """A row a channel, sample after sample."""
    channels = np.arange(signals.channels)
    rows = np.zeros(len(signals) * signals.channels, native.SPECTRAL_ROW)
    offsets = 4 * (signals.channel_step[:, None] * channels)
    rows["in"] = (signals.address.astype(np.int64)[:, None] + offsets).astype(np.uint64).ravel()
    rows["in_step"] = np.repeat(signals.frame_step, signals.channels)
    rows["in_frames"] = np.repeat(signals.frames, signals.channels)
    return rows


def addresses_of(signals: Signals, parts: int | None = None) -> np.ndarray:
    """uint64 [N * parts]: of equal parts of each planar signal; None: its channels."""
    parts = signals.channels if parts is None else parts
    nbytes = 4 * signals.channel_step * (signals.channels // parts)
    return (signals.address.astype(np.int64)[:, None] + nbytes[:, None] * np.arange(parts)).astype(np.uint64).ravel()


def stretching(
    what: str, signals: Signals, rate: np.ndarray, hop: np.ndarray, n_fft: int, threads: int
) -> tuple[np.ndarray, Job]:
    """Rows that know how many frames are analysed, and made, and how long the stretched signals are."""
    check_n_fft(what, n_fft)
    job = Job(what, signals.on_cuda, threads)
    frames = signals.frames.astype(np.int64)
    stretched = np.maximum(np.rint(frames / rate), 1).astype(np.int64)
    there = 1 + frames // hop
    made = np.minimum(np.ceil(there / rate), np.ceil((stretched + n_fft) / hop)).astype(np.int64)
    last = np.floor((made - 1) * rate).astype(np.int64)
    rows = rows_of(signals)
    for name, values in (
        ("rate", rate),
        ("hop", hop),
        ("stretched_frames", stretched),
        ("made", made),
        ("analysed", np.where(rate <= 2, np.minimum(there, last + 2), 2 * made)),
    ):
        rows[name] = np.repeat(values, signals.channels)
    return rows, job


def stretch_bytes(rows: np.ndarray, n_fft: int) -> np.ndarray:
    return (rows["analysed"].astype(np.int64) + rows["made"]) * 4 * (n_fft + 2)


def analysed_frames(job: Job, chunk: Chunk, n_fft: int, window: torch.Tensor, lead: int, edge: str) -> torch.Tensor:
    """The spectra of a chunk's frames, complex64 [frames, n_fft // 2 + 1]."""
    count = _round_up(chunk.place("analysed_at", "analysed"), job.on_cuda)
    frames = chunk.memory(count * n_fft).view(count, n_fft)
    job.run("cut", chunk, n_fft=n_fft, lead=lead, edge=edge, window=window, target=frames)
    return torch.fft.rfft(frames)


def made_frames(job: Job, chunk: Chunk, n_fft: int, window: torch.Tensor) -> torch.Tensor:
    """A chunk's frames, analysed, stretched and transformed back: float32 [frames, n_fft]."""
    spectra = analysed_frames(job, chunk, n_fft, window, n_fft // 2, "zero")
    count = _round_up(chunk.place("made_at", "made"), job.on_cuda)
    made = chunk.memory(count * (n_fft + 2))
    job.run("vocode", chunk, n_fft=n_fft, source=spectra, target=made)
    return torch.fft.irfft(made.view(torch.complex64).view(count, n_fft // 2 + 1), n_fft)


def _round_up(frames: int, on_cuda: bool) -> int:
    """On CUDA one of 16 sizes per power of two: cuFFT makes a plan for every number of frames."""
    step = max(1 << (frames.bit_length() - 5), 1) if on_cuda and frames >= 16 else 1
    return -(-frames // step) * step


@lru_cache(maxsize=16)
def hann_window(length: int, n_fft: int | None = None) -> np.ndarray:
    """A periodic Hann window, float32 [n_fft]; a shorter one in the middle."""
    n_fft = length if n_fft is None else n_fft
    window = np.zeros(n_fft)
    left = (n_fft - length) // 2
    window[left : left + length] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    return window.astype(np.float32)
