"""One table of operators on signals: what every operator promises is tested over it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dalipipe.ops import signal as ops
from dalipipe.policy import Choice, Op


@dataclass(frozen=True)
class Case:
    """An operator, set to touch every sample visibly."""

    op: Op
    idle: bool = False
    """It may draw what changes nothing."""
    spectral: bool = False
    """It has no reference of single samples: its pieces have tests of their own."""
    rate: bool = False
    """It takes signals with a rate only."""
    after_mel: bool = False
    """It applies to spectrograms."""

    @property
    def name(self) -> str:
        return type(self.op).__name__


CASES = [
    Case(ops.TimeShift((0.2, 0.5), p=1.0), idle=True),
    Case(ops.TimeShift((-0.6, -0.1), rollover=False, p=1.0), idle=True),
    Case(ops.TimeShift(Choice((0.3, -0.3)), fade_s=0.0, p=1.0), idle=True),
    Case(ops.Reverse(p=1.0), idle=True),
    Case(ops.TimeFlip(p=1.0), idle=True),
    Case(ops.AdjustDuration(50)),
    Case(ops.AdjustDuration(101, padding="wrap", position="both")),
    Case(ops.AdjustDuration(duration_s=0.02, padding="mirror", position="start"), rate=True),
    Case(ops.AdjustDuration(33, padding="hold", position="both")),
    Case(ops.AdjustDuration(45, position="center")),
    Case(ops.AdjustDuration(60, position="both", spread=0.5)),
    Case(ops.RandomTimeCrop((0.4, 0.7)), idle=True),
    Case(ops.WindowSlice(0.7), idle=True),
    Case(ops.TimeResize(77)),
    Case(ops.TimeWarp(), idle=True),
    Case(ops.TimeWarp(1, 1.0), idle=True),
    Case(ops.TimeWarp(4, mode="cubic"), idle=True),
    Case(ops.WindowWarp((0.2, 0.5)), idle=True),
    Case(ops.Permutation(), idle=True),
    Case(ops.Permutation(7, mode="random"), idle=True),
    Case(ops.Gain((3.0, 12.0), p=1.0)),
    Case(ops.PolarityInversion(p=1.0)),
    Case(ops.AddGaussianSNR((0.0, 20.0), p=1.0)),
    Case(ops.AddGaussianNoise((0.1, 0.2), p=1.0)),
    Case(ops.Jitter(0.1)),
    Case(ops.Scaling(0.3)),
    Case(ops.Rotation(), idle=True),
    Case(ops.MagnitudeWarp(0.4, 2)),
    Case(ops.MagnitudeWarp(0.4, 0)),
    Case(ops.Drift((0.3, 0.9)), idle=True),
    Case(ops.LowPassFilter((200.0, 900.0), 24, p=1.0), rate=True),
    Case(ops.HighPassFilter((200.0, 900.0), p=1.0), rate=True),
    Case(ops.BandPassFilter((500.0, 900.0), (0.5, 1.0), p=1.0), rate=True),
    Case(ops.TimeMask((0.3, 0.6), p=1.0), idle=True),
    Case(ops.TimeCutout((0.3, 0.6), 0.5), idle=True),
    Case(ops.Dropout(0.3), idle=True),
    Case(ops.Dropout(0.4, 3, 0.25), idle=True),
    Case(ops.AddColorNoise((0.0, 10.0), p=1.0), spectral=True),
    Case(ops.TimeStretch((1.1, 1.3), n_fft=64, p=1.0), spectral=True, idle=True),
    Case(ops.TimeStretch((0.7, 0.9), False, n_fft=32, p=1.0), spectral=True, idle=True),
    Case(ops.PitchShift((2.0, 4.0), n_fft=64, p=1.0), spectral=True, idle=True),
    Case(ops.Resample((3000.0, 12000.0)), spectral=True, rate=True, idle=True),
    Case(ops.MelSpectrogram(8, 64), spectral=True, rate=True),
    Case(ops.MFCC(5, 8, 64), spectral=True, rate=True),
    Case(ops.FrequencyMask(6, 2.0), after_mel=True, idle=True),
    Case(ops.SpecTimeMask(6, 0.8, 2.0), after_mel=True, idle=True),
    Case(ops.SpecTimeWarp(5), after_mel=True, idle=True),
]
IDS = [f"{case.name}-{number}" for number, case in enumerate(CASES)]
FRAMES = (40, 1, 2, 137, 1000, 64)
"""Awkward on purpose."""


def made(frames: tuple[int, ...] | list[int], channels: int, seed: int = 0) -> list[np.ndarray]:
    """Signals float32 [T, C], in views of any strides: tones and noise."""
    random = np.random.default_rng(seed)
    found = []
    for number, count in enumerate(frames):
        t = np.arange(count)[:, None] / 50.0
        wide = np.sin(t * random.uniform(1, 9, channels)) + 0.1 * random.normal(size=(count, channels))
        array = wide.astype(np.float32)
        if number % 3 == 1:
            array = np.asfortranarray(array)
        if number % 3 == 2:
            array = np.repeat(array, 2, axis=1)[:, ::2]
        found.append(array)
    return found
