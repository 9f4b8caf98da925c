"""Coloured noise."""

from __future__ import annotations

import math

import numpy as np
import torch

from dalipipe import native
from dalipipe.buffers import BufferPool
from dalipipe.records import Signals
from dalipipe.spectral.arguments import check_counts, check_per_sample
from dalipipe.spectral.jobs import Chunk, Job


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
    frames = check_counts("coloured_noise", "frames", frames, n)
    decay = check_per_sample("coloured_noise", "decay_db_per_octave", decay_db_per_octave, n, -60, 60)
    job = Job("coloured_noise", torch.device(device).type == "cuda", threads)
    result = job.results(frames, 1, None, buffers)
    rows = np.zeros(n, native.SPECTRAL_ROW)
    rows["key"], rows["exponent"] = keys, decay / (20 * math.log10(2))
    rows["out"], rows["out_frames"] = result.address, frames
    sizes = _good_sizes(frames)
    for n_fft in np.unique(sizes).tolist():

        def work(chunk: Chunk, n_fft: int = n_fft) -> None:
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


def _good_sizes(frames: np.ndarray) -> np.ndarray:
    """The next of 8, 9, 10, 12, 15 times a power of two, at least 32: sizes that transform fast, few of them."""
    k = np.floor(np.log2(np.maximum(frames, 32) / 8)).astype(np.int64)
    sizes = np.array([8, 9, 10, 12, 15, 16]) << k[:, None]
    return sizes[np.arange(len(frames)), (sizes >= frames[:, None]).argmax(axis=1)]
