"""What hides parts of a signal, or of a spectrogram.

An operator that is made with a field that does not fit raises ``ValueError``, naming operator, field, what was expected
and what came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from dalipipe import rng
from dalipipe.ops.signal.families import (
    BINS,
    CHANNELS,
    FRAMES,
    CurveOp,
    WindowOp,
    as_range,
    check_number,
    check_whole,
    seconds_to_frames,
)
from dalipipe.policy import Macro, Measure, Node, Params, draw_range


def _one_window(begin: np.ndarray, end: np.ndarray, size: np.ndarray, fade: Any, value: float) -> Params:
    windows = np.zeros((len(size), 1, 6), np.int64)
    windows[:, 0, 0], windows[:, 0, 1] = begin, end
    windows[:, 0, 2], windows[:, 0, 3] = fade, fade
    windows[:, 0, 5] = size[:, CHANNELS]
    return {"windows": windows, "value": np.full((len(size), 1), value, np.float32)}


def _anywhere(u: np.ndarray, length: np.ndarray, frames: np.ndarray) -> np.ndarray:
    return np.minimum((u * (frames - length + 1)).astype(np.int64), frames - length)


@dataclass(frozen=True, repr=False)
class TimeMask(WindowOp):
    """Silences a part of a share within ``band_part``, 0..1, of a sound, at a random place, with ``fade_s`` seconds of
    fading before and after. audiomentations' ``TimeMask``.
    """

    band_part: Any = (0.01, 0.2)
    fade_s: float = 0.005
    p: float = field(default=0.5, kw_only=True)

    draws: ClassVar[int] = 2
    measures: ClassVar[Mapping[str, Measure]] = {"band_part": Measure(0.0, 0.0, 1.0)}

    def __post_init__(self) -> None:
        super().__post_init__()
        as_range(self, "band_part", 0.0, 1.0)
        object.__setattr__(self, "fade_s", check_number(self, "fade_s", 0.0, 10.0))

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        frames = size[:, FRAMES]
        length = (draw_range(self.band_part, u[:, 0]) * frames).astype(np.int64)
        begin = _anywhere(u[:, 1], length, frames)
        fade = np.minimum(seconds_to_frames(self.fade_s, size), frames)
        return _one_window(begin, np.where(length > 0, begin + length, -1), size, fade, 0.0)


@dataclass(frozen=True, repr=False)
class TimeCutout(WindowOp):
    """Sets a part of a share within ``share``, 0..1, of a series to ``value``, at a random place: cutout along time."""

    share: Any = 0.2
    value: float = 0.0

    draws: ClassVar[int] = 2
    measures: ClassVar[Mapping[str, Measure]] = {"share": Measure(0.0, 0.0, 1.0)}

    def __post_init__(self) -> None:
        super().__post_init__()
        as_range(self, "share", 0.0, 1.0)
        object.__setattr__(self, "value", check_number(self, "value", -1e30, 1e30))

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        frames = size[:, FRAMES]
        length = np.rint(draw_range(self.share, u[:, 0]) * frames).astype(np.int64)
        begin = _anywhere(u[:, 1], length, frames)
        return _one_window(begin, begin + length, size, 0, self.value)


@dataclass(frozen=True, repr=False)
class Dropout(WindowOp):
    """Drops a share ``rate``, 0..1, of a series' frames, in runs of ``size`` that begin anywhere and may overlap, in
    all channels at once. ``fill`` "hold": the last value before the run stands on; or a number. tsaug's ``Dropout``.
    """

    rate: float = 0.05
    size: int = 1
    fill: float | Literal["hold"] = "hold"

    noisy: ClassVar[bool] = True
    measures: ClassVar[Mapping[str, Measure]] = {"rate": Measure(0.0, 0.0, 1.0)}

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "rate", check_number(self, "rate", 0.0, 1.0))
        check_whole(self, "size", 1)
        if self.fill != "hold":
            object.__setattr__(self, "fill", check_number(self, "fill", -1e30, 1e30))

    @property
    def hold(self) -> bool:
        return self.fill == "hold"

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return {}

    def complete(self, params: Params, size: np.ndarray) -> Params:
        frames = size[:, FRAMES]
        runs = np.rint(self.rate * frames / self.size).astype(np.int64)
        most = int(runs.max(initial=0))
        u = rng.element_uniforms(params["noise"], most)
        begin = np.minimum((u * frames[:, None]).astype(np.int64), frames[:, None] - 1)
        there = np.arange(most) < runs[:, None]
        begin = np.sort(
            np.where(there, begin, frames[:, None]), axis=1
        )  # in order, so that what is held is not dropped
        windows = np.zeros((len(size), most, 6), np.int64)
        windows[..., 0] = begin
        windows[..., 1] = np.where(begin < frames[:, None], np.minimum(begin + self.size, frames[:, None]), -1)
        windows[..., 5] = size[:, CHANNELS, None]
        value = np.full((len(size), most), 0.0 if self.fill == "hold" else self.fill, np.float32)
        return {**params, "windows": windows, "value": value}


@dataclass(frozen=True, repr=False)
class FrequencyMask(WindowOp):
    """Sets up to ``bins`` neighbouring bins of a spectrogram to ``value``, in all frames and channels: their number is
    uniform in 0..bins, their place anywhere. SpecAugment's, and torchaudio's ``FrequencyMasking``.
    """

    bins: int = 27
    value: float = 0.0

    draws: ClassVar[int] = 2
    measures: ClassVar[Mapping[str, Measure]] = {"bins": Measure(0.0, 0.0, whole=True)}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "bins", 0)
        object.__setattr__(self, "value", check_number(self, "value", -1e30, 1e30))

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        all_bins = size[:, BINS]
        width = np.minimum((u[:, 0] * (np.minimum(self.bins, all_bins) + 1)).astype(np.int64), all_bins)
        first = _anywhere(u[:, 1], width, all_bins)
        sounds = int((size[:, CHANNELS] // all_bins).max(initial=1))
        windows = np.zeros((len(u), sounds, 6), np.int64)
        windows[..., 1] = np.where(width > 0, size[:, FRAMES], -1)[:, None]
        windows[..., 4] = first[:, None] + np.arange(sounds) * all_bins[:, None]
        windows[..., 5] = windows[..., 4] + width[:, None]
        return {"windows": windows, "value": np.full((len(u), sounds), self.value, np.float32)}


@dataclass(frozen=True, repr=False)
class SpecTimeMask(WindowOp):
    """Sets up to ``frames`` successive frames of a spectrogram to ``value``, at most a share ``most`` of them, 0..1:
    their number is uniform in 0..frames, their place anywhere. SpecAugment's, and torchaudio's ``TimeMasking``.
    """

    frames: int = 100
    most: float = 1.0
    value: float = 0.0

    draws: ClassVar[int] = 2
    measures: ClassVar[Mapping[str, Measure]] = {"frames": Measure(0.0, 0.0, whole=True)}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "frames", 0)
        object.__setattr__(self, "most", check_number(self, "most", 0.0, 1.0))
        object.__setattr__(self, "value", check_number(self, "value", -1e30, 1e30))

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        frames = size[:, FRAMES]
        most = np.minimum(self.frames, (self.most * frames).astype(np.int64))
        length = np.minimum((u[:, 0] * (most + 1)).astype(np.int64), most)
        begin = _anywhere(u[:, 1], length, frames)
        return _one_window(begin, np.where(length > 0, begin + length, -1), size, 0, self.value)


@dataclass(frozen=True, repr=False)
class SpecTimeWarp(CurveOp):
    """Moves a random frame of a spectrogram by up to ``frames`` to either side, and stretches what lies before it and
    behind accordingly, linearly; a frame that near to an end is not chosen. SpecAugment's time warp.
    """

    frames: int = 80

    draws: ClassVar[int] = 2
    measures: ClassVar[Mapping[str, Measure]] = {"frames": Measure(0.0, 0.0, whole=True)}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "frames", 0)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        last = (size[:, FRAMES] - 1).astype(np.float64)
        most = np.minimum(float(self.frames), np.maximum(last / 2.0 - 0.5, 0.0))
        centre = most + u[:, 0] * (last - 2.0 * most)
        moved = centre + (2.0 * u[:, 1] - 1.0) * most
        inside = (moved > 0.0) & (moved < last) & (centre > 0.0) & (centre < last)
        centre, moved = np.where(inside, centre, 1.0), np.where(inside, moved, 1.0)
        behind = np.where(inside, (last - centre) / np.where(inside, last - moved, 1.0), 1.0)
        segments = np.zeros((len(u), 2, 5))
        segments[:, 1, 0], segments[:, 1, 1] = moved, centre
        segments[:, 0, 2], segments[:, 1, 2] = centre / moved, behind
        return {"segments": segments}


@dataclass(frozen=True, repr=False)
class SpecAugment(Macro):
    """On a spectrogram: time warp by up to ``time_warp`` frames, then ``freq_masks`` masks of up to ``freq_width`` bins
    and ``time_masks`` masks of up to ``time_width`` frames, each at most a share ``time_most``; filled with ``value``.

    Park et al.: "SpecAugment: a simple data augmentation method for automatic speech recognition" (Interspeech 2019);
    the defaults are its policy LD (LibriSpeech double).
    """

    time_warp: int = 80
    freq_masks: int = 2
    freq_width: int = 27
    time_masks: int = 2
    time_width: int = 100
    time_most: float = 1.0
    value: float = 0.0
    p: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        check_whole(self, "freq_masks", 0, 64)
        check_whole(self, "time_masks", 0, 64)
        self.nodes()  # which say what is wrong with the rest

    def nodes(self) -> tuple[Node, ...]:
        found: list[Node] = [SpecTimeWarp(self.time_warp, p=self.p)] if self.time_warp != 0 else []
        found += [FrequencyMask(self.freq_width, self.value, p=self.p)] * self.freq_masks
        found += [SpecTimeMask(self.time_width, self.time_most, self.value, p=self.p)] * self.time_masks
        if not found:
            raise ValueError("SpecAugment: time_warp, freq_masks and time_masks are all 0: nothing is left of it")
        return tuple(found)
