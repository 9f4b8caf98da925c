"""What moves a signal along its time: shifts, flips, slices, warps, lengths.

An operator that is made with a field that does not fit raises ``ValueError``, naming operator, field, what was expected
and what came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from dalipipe.ops import signals
from dalipipe.ops.signal import curves
from dalipipe.ops.signal.families import (
    CHANNELS,
    EDGES,
    FRAMES,
    CurveOp,
    LineOp,
    ShiftOp,
    as_range,
    check_choice,
    check_flag,
    check_number,
    check_whole,
    needs_rate,
    seconds_to_frames,
    windows_of,
)
from dalipipe.policy import Measure, Params, draw_range
from dalipipe.quantiles import ndtri


@dataclass(frozen=True, repr=False)
class TimeShift(ShiftOp):
    """Shifts a signal by a share of its length within ``shift``, −1..1: positive to later times.

    ``rollover``: what leaves at one end comes in at the other, else zeros do. The seam fades in, and what comes before
    it out, over ``fade_s`` seconds; series without a rate do not fade. audiomentations' ``Shift``.
    """

    shift: Any = (-0.5, 0.5)
    rollover: bool = True
    fade_s: float = 0.005
    p: float = field(default=0.5, kw_only=True)

    stages: ClassVar[tuple[int, int]] = (0, 6)
    draws: ClassVar[int] = 1
    measures: ClassVar[Mapping[str, Measure]] = {"shift": Measure(0.0, -1.0, 1.0)}

    def __post_init__(self) -> None:
        super().__post_init__()
        as_range(self, "shift", -1.0, 1.0)
        check_flag(self, "rollover")
        object.__setattr__(self, "fade_s", check_number(self, "fade_s", 0.0, 10.0))

    @property
    def edge(self) -> str:
        return "wrap" if self.rollover else "zero"

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        frames = size[:, FRAMES]
        moved = np.rint(draw_range(self.shift, u[:, 0]) * frames).astype(np.int64)
        fade = np.minimum(seconds_to_frames(self.fade_s, size), frames)
        seam = np.where(moved > 0, moved, frames + moved)
        windows = np.zeros((len(u), 1, 6), np.int64)
        windows[:, 0, 0] = windows[:, 0, 1] = seam
        windows[:, 0, 2] = windows[:, 0, 3] = fade
        windows[:, 0, 5] = size[:, CHANNELS]
        windows[(fade == 0) | (moved == 0), 0, 1] = -1
        one = np.ones(len(u), np.int64)
        faded = {"windows": windows, "value": np.zeros((len(u), 1), np.float32)}
        return {"start": -moved, "direction": one, "frames": frames, **faded}

    def reference(self, x: np.ndarray, params: Params) -> np.ndarray:
        return signals.windows(super().reference(x, params), windows_of(params, False))


class _BackwardsOp(ShiftOp):
    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        frames = size[:, FRAMES]
        return {"start": frames - 1, "direction": np.full(len(u), -1, np.int64), "frames": frames}


@dataclass(frozen=True, repr=False)
class Reverse(_BackwardsOp):
    """Plays a sound backwards. audiomentations' ``Reverse``."""

    p: float = field(default=0.5, kw_only=True)


@dataclass(frozen=True, repr=False)
class TimeFlip(_BackwardsOp):
    """Turns a series round in time. tsaug's ``Reverse``."""

    p: float = field(default=0.5, kw_only=True)


@dataclass(frozen=True, repr=False)
class AdjustDuration(ShiftOp):
    """Makes every signal as long as ``frames``, or as ``duration_s`` seconds: of longer ones takes a part, at a random
    place, to shorter ones adds what ``padding`` says ("zero", "hold", "wrap" or "mirror"), at the "end", the "start",
    or "both", the signal at a random place between. "center": the middle of longer ones, shorter ones in the middle;
    nothing is drawn. ``spread``: how far from the middle random places may be, 0..1: 0 is the middle, 1 anywhere.
    audiomentations' ``AdjustDuration``.
    """

    frames: int | None = None
    duration_s: float | None = None
    padding: str = "zero"
    position: Literal["end", "start", "both", "center"] = "end"
    spread: float = 1.0

    draws: ClassVar[int] = 1
    stays: ClassVar[bool] = True
    measures: ClassVar[Mapping[str, Measure]] = {"spread": Measure(0.0, 0.0, 1.0)}

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.frames is None) == (self.duration_s is None):
            raise ValueError(
                f"AdjustDuration: give frames or duration_s, one of them, got {self.frames!r} and {self.duration_s!r}"
            )
        if self.frames is not None:
            check_whole(self, "frames", 1)
        else:
            object.__setattr__(self, "duration_s", check_number(self, "duration_s", 1e-4, 1e6))
        check_choice(self, "padding", EDGES)
        check_choice(self, "position", ("end", "start", "both", "center"))
        object.__setattr__(self, "spread", check_number(self, "spread", 0.0, 1.0))

    @property
    def edge(self) -> str:
        return self.padding

    def misfits(self, size: np.ndarray) -> np.ndarray | None:
        return None if self.frames is not None else needs_rate(size)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        if self.frames is not None:
            frames = np.full(len(u), self.frames, np.int64)
        else:
            frames = np.maximum(seconds_to_frames(self.duration_s, size), 1)
        spare = size[:, FRAMES] - frames
        place = u[:, 0] if self.spread == 1.0 else 0.5 + self.spread * (u[:, 0] - 0.5)
        anywhere = np.minimum((place * (np.abs(spare) + 1)).astype(np.int64), np.abs(spare))
        if self.position == "center":
            start = spare // 2
        else:
            before = {"end": 0, "start": -spare, "both": anywhere}[self.position]
            start = np.where(spare >= 0, anywhere, -before)
        return {"start": start, "direction": np.ones(len(u), np.int64), "frames": frames}


@dataclass(frozen=True, repr=False)
class RandomTimeCrop(ShiftOp):
    """Takes a part of a share within ``share``, 0..1, of a signal, at a random place; at least one frame."""

    share: Any = (0.8, 1.0)

    draws: ClassVar[int] = 2
    measures: ClassVar[Mapping[str, Measure]] = {"share": Measure(1.0, 0.0, 1.0)}

    def __post_init__(self) -> None:
        super().__post_init__()
        as_range(self, "share", 0.0, 1.0)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        whole = size[:, FRAMES]
        frames = np.maximum(np.rint(draw_range(self.share, u[:, 0]) * whole).astype(np.int64), 1)
        start = np.minimum((u[:, 1] * (whole - frames + 1)).astype(np.int64), whole - frames)
        return {"start": start, "direction": np.ones(len(u), np.int64), "frames": frames}


@dataclass(frozen=True, repr=False)
class WindowSlice(LineOp):
    """Takes a part of a share within ``share``, 0..1, at a random place, and stretches it to the whole length.

    Le Guennec, Malinowski, Tavenard: "Data augmentation for time series classification using convolutional neural
    networks" (AALTD 2016); 0.9 as in Iwana, Uchida: "An empirical survey of data augmentation for time series
    classification with neural networks" (PLOS ONE 2021). Its ends fall on the part's ends.
    """

    share: Any = 0.9

    draws: ClassVar[int] = 2
    measures: ClassVar[Mapping[str, Measure]] = {"share": Measure(1.0, 0.0, 1.0)}

    def __post_init__(self) -> None:
        super().__post_init__()
        as_range(self, "share", 0.0, 1.0)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        whole = size[:, FRAMES]
        part = np.clip(np.ceil(draw_range(self.share, u[:, 0]) * whole), 1, whole).astype(np.int64)
        start = np.minimum((u[:, 1] * (whole - part + 1)).astype(np.int64), whole - part)
        rate = (part - 1) / np.maximum(whole - 1, 1)
        return {"line_start": start.astype(np.float64), "line_rate": rate, "frames": whole}


@dataclass(frozen=True, repr=False)
class TimeResize(LineOp):
    """Makes every signal as long as ``frames``, by stretching it linearly: first and last frame stay. tsaug's
    ``Resize``.
    """

    frames: int = 128

    stays: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "frames", 1)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        rate = (size[:, FRAMES] - 1) / max(self.frames - 1, 1)
        return {"line_start": np.zeros(len(u)), "line_rate": rate, "frames": np.full(len(u), self.frames, np.int64)}


@dataclass(frozen=True, repr=False)
class TimeWarp(CurveOp):
    """Runs through a signal at a speed that changes smoothly; its length stays.

    ``mode`` "pchip" (tsaug's ``TimeWarp``): the speed changes ``n_speed_change`` times, its greatest value being
    ``max_speed_ratio`` times its least; positions are monotone between. "cubic" (Um et al., "Data augmentation of
    wearable sensor data for Parkinson's disease monitoring", ICMI 2017, as in Iwana, Uchida, 2021): a cubic spline
    through ``n_speed_change`` inner knots whose positions are multiplied by Normal(1, ``sigma``); may turn back.
    """

    n_speed_change: int = 3
    max_speed_ratio: float = 3.0
    mode: Literal["pchip", "cubic"] = "pchip"
    sigma: float = 0.2

    measures: ClassVar[Mapping[str, Measure]] = {
        "max_speed_ratio": Measure(1.0, 1.0, 1e3, "log"),
        "sigma": Measure(0.0, 0.0, 10.0),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "n_speed_change", 1, 64)
        object.__setattr__(self, "max_speed_ratio", check_number(self, "max_speed_ratio", 1.0, 1e3))
        check_choice(self, "mode", ("pchip", "cubic"))
        object.__setattr__(self, "sigma", check_number(self, "sigma", 0.0, 10.0))

    @property
    def draws(self) -> int:  # type: ignore[override]
        return self.n_speed_change + (1 if self.mode == "pchip" else 2)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        last = (size[:, FRAMES] - 1).astype(np.float64)[:, None]
        end = np.maximum(last, 1.0)  # of a single frame, whose curve must have a length
        knots = self.n_speed_change + 2
        x = end * (np.arange(knots) / (knots - 1))
        if self.mode == "pchip":
            low, high = u.min(axis=1, keepdims=True), u.max(axis=1, keepdims=True)
            ratio = self.max_speed_ratio
            speed = u + (high - ratio * low) / (ratio - 1.0) if ratio > 1.0 else np.ones_like(u)
            way = np.cumsum(speed, axis=1)
            y = np.concatenate([np.zeros((len(u), 1)), way / np.maximum(way[:, -1:], 1e-300) * last], axis=1)
            return {"segments": curves.pchip(x, y)}
        warped = x * (1.0 + self.sigma * ndtri(u))
        return {"segments": curves.cubic_spline(x, warped * (last / np.where(warped[:, -1:] > 0, warped[:, -1:], end)))}


@dataclass(frozen=True, repr=False)
class WindowWarp(CurveOp):
    """Stretches or squeezes one window of a signal, of a share ``window`` of it, by a factor of ``scales``, and then
    all of it to the length that it had.

    Le Guennec, Malinowski, Tavenard (AALTD 2016); defaults as in Iwana, Uchida (2021).
    """

    window: Any = 0.1
    scales: tuple[float, ...] = (0.5, 2.0)

    draws: ClassVar[int] = 3
    measures: ClassVar[Mapping[str, Measure]] = {"scales": Measure(1.0, 1e-3, 1e3, "log")}

    def __post_init__(self) -> None:
        super().__post_init__()
        as_range(self, "window", 0.0, 1.0)
        try:
            scales = tuple(float(scale) for scale in self.scales)
        except (TypeError, ValueError):
            scales = ()
        if not scales or not all(1e-3 <= scale <= 1e3 for scale in scales):
            raise ValueError(f"WindowWarp: scales must be one or more factors in [0.001, 1000], got {self.scales!r}")
        object.__setattr__(self, "scales", scales)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        last = (size[:, FRAMES] - 1).astype(np.float64)
        window = np.minimum(draw_range(self.window, u[:, 0]) * size[:, FRAMES], last)
        start = u[:, 1] * (last - window)
        scale = np.array(self.scales)[np.minimum((u[:, 2] * len(self.scales)).astype(np.int64), len(self.scales) - 1)]
        to = last / np.where(last > 0, last - window + window * scale, 1.0)  # warped frames → output frames
        begin, end = to * start, to * (start + window * scale)
        rate = 1.0 / np.where(to > 0, to, 1.0)
        segments = np.zeros((len(u), 3, 5))
        segments[:, 1, 0], segments[:, 2, 0] = begin, end
        segments[:, 1, 1], segments[:, 2, 1] = start, start + window
        segments[:, 0, 2], segments[:, 1, 2], segments[:, 2, 2] = rate, rate / scale, rate
        return {"segments": segments}


@dataclass(frozen=True, repr=False)
class Permutation(CurveOp):
    """Cuts a signal into up to ``max_segments`` parts and puts them together in another order.

    ``mode`` "equal": parts of one length; "random": cut anywhere. Um et al. (ICMI 2017), as in Iwana, Uchida (2021).
    """

    max_segments: int = 5
    mode: Literal["equal", "random"] = "equal"

    interpolation: ClassVar[int] = signals.NEAREST
    measures: ClassVar[Mapping[str, Measure]] = {"max_segments": Measure(1.0, 1.0, 64.0, whole=True)}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "max_segments", 1, 64)
        check_choice(self, "mode", ("equal", "random"))

    @property
    def draws(self) -> int:  # type: ignore[override]
        return 2 * self.max_segments

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        n, most, frames = len(u), self.max_segments, size[:, FRAMES]
        count = 1 + np.minimum((u[:, 0] * most).astype(np.int64), most - 1)
        count = np.minimum(count, frames)
        number = np.arange(most)
        there = number < count[:, None]
        if self.mode == "equal":
            cuts = number * frames[:, None] // count[:, None]
        else:
            places = np.where(number[1:] < count[:, None], u[:, 1:most], 1.0)
            inner = 1 + (np.sort(places, axis=1) * np.maximum(frames[:, None] - 1, 0)).astype(np.int64)
            cuts = np.concatenate([np.zeros((n, 1), np.int64), np.minimum(inner, frames[:, None])], axis=1)
        cuts = np.where(there, cuts, frames[:, None])
        length = np.diff(np.concatenate([cuts, frames[:, None]], axis=1), axis=1)
        order = np.argsort(np.where(there, u[:, most:], 2.0), axis=1, kind="stable")
        taken = np.take_along_axis(length, order, axis=1)
        begin = np.cumsum(taken, axis=1) - taken
        segments = np.zeros((n, most, 5))
        segments[..., 0] = np.where(taken > 0, begin, np.inf)
        segments[..., 1] = np.take_along_axis(cuts, order, axis=1)
        segments[..., 2] = 1.0
        return {
            "segments": np.take_along_axis(segments, np.argsort(segments[..., 0], kind="stable")[..., None], axis=1)
        }
