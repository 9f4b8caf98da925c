"""The libraries that augment sounds and series, in processes whose Python is $SIGNAL_PEERS_PYTHON, else this one.

    python signal_peers.py SIGNALS.npz

Its contenders work through a batch of SIGNALS (a name → float32 [N, T]) and hand over a batch, float32 [N, T],
parameters drawn for every signal. Sounds: audiomentations, a clip at a time, with each of its methods, and
torch-audiomentations, by the batch. Series: tsaug, and a vectorised numpy version that is written here (`NumpySeries`),
both by the batch.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from peer_process import serve

RATE_HZ = 8000

Range = tuple[float, float]
Settings = dict[str, Range]
SETTINGS: dict[str, Settings] = {
    "time stretch": {"rate": (0.8, 1.25)},
    "pitch shift": {"semitones": (-4.0, 4.0)},
    "gain, noise, shift": {"gain_db": (-12.0, 12.0), "snr_db": (5.0, 40.0), "shift": (-0.2, 0.2)},
    "warp, slice, jitter, flip": {"speeds": (3.0, 3.0), "slice": (0.9, 0.9), "noise": (0.03, 0.03)},
}
"""By task. ``rate``: above 1 is faster; ``shift``: a share of the clip, what comes in is silence; ``speeds``: the
largest over the smallest speed of the 4 stretches of time between which a warp changes; ``slice``: the share of the
series that is taken and brought to the whole length again; ``noise``: standard deviation. Flips are of time.
"""
SPEED_CHANGES = 3

Batch = np.ndarray
Run = Callable[[Batch], Any]
"""A batch → the augmented batch, float32 [N, T], an array or a tensor."""


class Stacked:
    """Clip by clip, then a batch, whose memory is used again."""

    def __init__(self, transform: Callable[..., np.ndarray]) -> None:
        self.transform: Callable[..., np.ndarray] = transform
        self.out: np.ndarray | None = None

    def __call__(self, clips: Batch) -> Batch:
        found = [self.transform(samples=clip, sample_rate=RATE_HZ) for clip in clips]
        self.out = np.stack(found, out=self.out)
        return self.out


def _stretch(method: str, settings: Settings) -> Run:
    import audiomentations

    low, high = settings["rate"]
    return Stacked(audiomentations.TimeStretch(low, high, leave_length_unchanged=True, method=method, p=1.0))


def _pitch(method: str, settings: Settings) -> Run:
    import audiomentations

    return Stacked(audiomentations.PitchShift(*settings["semitones"], method=method, p=1.0))


def _torch_pitch(settings: Settings) -> Run:
    """It draws from the ratios that it can do fast, of which a range may hold none: then it raises ``ValueError``."""
    from torch_audiomentations import PitchShift

    low, high = settings["semitones"]
    return _batched(PitchShift(low, high, mode="per_example", p=1.0, sample_rate=RATE_HZ, output_type="tensor"))


def _gain_noise_shift(settings: Settings) -> Run:
    import audiomentations as A

    steps = [
        A.Gain(*settings["gain_db"], p=1.0),
        A.AddGaussianSNR(*settings["snr_db"], p=1.0),
        A.Shift(*settings["shift"], rollover=False, fade_duration=0.0, p=1.0),
    ]
    return Stacked(A.Compose(steps))


def _torch_gain_noise_shift(settings: Settings) -> Run:
    import torch_audiomentations as A

    (gain_low, gain_high), (snr_low, snr_high), shift = settings["gain_db"], settings["snr_db"], settings["shift"]
    how: dict[str, Any] = {"p": 1.0, "sample_rate": RATE_HZ, "output_type": "tensor"}
    steps = [
        A.Gain(gain_low, gain_high + 1e-6, **how),  # a range of one value is refused
        A.AddColoredNoise(snr_low, snr_high, 0.0, 0.0, **how),
        A.Shift(*shift, rollover=False, **how),
    ]
    return _batched(A.Compose(steps, output_type="tensor"))


def _batched(transform: Callable[..., Any]) -> Run:
    import torch

    return lambda clips: transform(torch.from_numpy(clips)[:, None], sample_rate=RATE_HZ)[:, 0]


def _tsaug(settings: Settings) -> Run:
    import tsaug

    def run(series: Batch) -> Batch:
        frames = series.shape[1]
        steps = (
            tsaug.TimeWarp(SPEED_CHANGES, settings["speeds"][1])
            + tsaug.Crop(round(frames * settings["slice"][1]), resize=frames)
            + tsaug.AddNoise(scale=settings["noise"][1], normalize=False)
            + tsaug.Reverse()
        )
        augmented: np.ndarray = steps.augment(series)
        return augmented.astype(np.float32)

    return run


class NumpySeries:
    """tsaug's pipeline for a whole batch at once: what all steps together read for every frame, then one interpolation.

    A warp is a monotone cubic (PCHIP; Fritsch & Butland, SIAM J. Sci. Stat. Comput. 5(2), 1984) through equally spaced
    knots: linear in its values and slopes there. So for each place where a slice may begin there is a table [2·knots,
    T], reversed already, and a sample's positions are a product of a row and a table.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings: Settings = settings
        self.generator: np.random.Generator = np.random.Generator(np.random.SFC64(0))  # numpy's fastest
        self.tables: np.ndarray = np.zeros((0, 0, 0), np.float32)

    def __call__(self, series: Batch) -> Batch:
        count, frames = series.shape
        if self.tables.shape[2:] != (frames,):
            self.tables = self._tables(frames)
        draw, intervals = self.generator, SPEED_CHANGES + 1
        ratio = self.settings["speeds"][1]
        speed = draw.random((count, intervals), np.float32)
        low, high = speed.min(1, keepdims=True), speed.max(1, keepdims=True)
        speed += (high - ratio * low) / (ratio - 1)
        speed *= (frames - 1) / speed.sum(1, keepdims=True)  # so frames a knot's interval: slopes of the secants
        knots = np.zeros((count, 2 * (intervals + 1)), np.float32)
        np.cumsum(speed, axis=1, out=knots[:, 1 : intervals + 1])
        slopes = knots[:, intervals + 1 :]
        before, after = speed[:, :-1], speed[:, 1:]
        slopes[:, 1:-1] = 2 * before * after / (before + after)
        for end, first, second in ((0, 0, 1), (-1, -1, -2)):
            slope = (3 * speed[:, first] - speed[:, second]) / 2  # of a parabola through three knots
            slopes[:, end] = np.clip(slope, 0, 3 * speed[:, first])
        start = draw.integers(len(self.tables), size=count)
        at = np.matmul(knots[:, None], self.tables[start])[:, 0]
        np.clip(at, 0, frames - 1, out=at)
        left = np.minimum(at.astype(np.int32), frames - 2)
        at -= left
        left += np.arange(count, dtype=np.int32)[:, None] * frames
        flat = series.ravel()
        out = flat.take(left)
        left += 1
        step = flat.take(left)
        step -= out
        step *= at
        out += step
        noise = draw.standard_normal(out.shape, np.float32)
        noise *= np.float32(self.settings["noise"][1])
        out += noise
        return out

    def _tables(self, frames: int) -> np.ndarray:
        """float32 [starts, 2·knots, T]: Hermite's basis where a slice's frames lie, the last first."""
        intervals = SPEED_CHANGES + 1
        size = round(frames * self.settings["slice"][1])
        starts = np.arange(frames - size + 1)[:, None]
        at = (starts + np.linspace(0, size - 1, frames)[::-1]) * (intervals / (frames - 1))  # in knots
        left = np.minimum(at.astype(int), intervals - 1)
        t = at - left
        tables = np.zeros((len(starts), 2 * (intervals + 1), frames))
        rows, columns = np.indices(at.shape)
        for offset, basis in (
            (0, (1 + 2 * t) * (1 - t) ** 2),
            (1, t * t * (3 - 2 * t)),
            (intervals + 1, t * (1 - t) ** 2),
            (intervals + 2, t * t * (t - 1)),
        ):
            tables[rows, left + offset, columns] = basis
        return tables.astype(np.float32)


CONTENDERS: dict[str, dict[str, Callable[[Settings], Run]]] = {
    "time stretch": {
        "audiomentations, Signalsmith": functools.partial(_stretch, "signalsmith_stretch"),
        "audiomentations, librosa": functools.partial(_stretch, "librosa_phase_vocoder"),
    },
    "pitch shift": {
        "audiomentations, Signalsmith": functools.partial(_pitch, "signalsmith_stretch"),
        "audiomentations, librosa": functools.partial(_pitch, "librosa_phase_vocoder"),
        "torch-audiomentations": _torch_pitch,
    },
    "gain, noise, shift": {
        "audiomentations": _gain_noise_shift,
        "torch-audiomentations": _torch_gain_noise_shift,
    },
    "warp, slice, jitter, flip": {"tsaug": _tsaug, "numpy, vectorised": NumpySeries},
}
"""By task."""
PACKAGES = ("audiomentations", "torch-audiomentations", "tsaug", "librosa", "python-stretch", "numpy", "torch")


class _Server:
    def __init__(self, signals: str) -> None:
        with np.load(signals) as file:
            self.signals: dict[str, Batch] = {name: np.ascontiguousarray(file[name]) for name in file.files}
        self.made: dict[str, Run] = {}

    def run(
        self, task: str, name: str, settings: Settings, signals: str, times: int, threads: int, out: str | None = None
    ) -> int:
        """How many signals were augmented; ``out``: where the last batch is written."""
        key = json.dumps([task, name, settings])
        if key not in self.made:
            self.made[key] = CONTENDERS[task][name](settings)
        contender, batch = self.made[key], self.signals[signals]
        _set_torch_threads(threads)
        augmented: Any = None
        for _ in range(times):
            augmented = contender(batch)
        if out is not None:
            np.save(out, np.asarray(augmented, np.float32))
        return times * len(batch)

    def versions(self) -> dict[str, str]:
        return dict(_installed())


def _installed() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        try:
            yield package, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            yield package, "absent"


def _set_torch_threads(threads: int) -> None:
    if "torch" in sys.modules:
        torch = importlib.import_module("torch")
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


if __name__ == "__main__":
    serve(_Server)
