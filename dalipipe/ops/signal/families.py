"""Families of operators on signals: audio and other series, float32 [T, C]. A family's parameters have one form, and
that is what folds into passes (``csrc/signal.h``).

A signal's size is int64 [4]: frames, channels, rate (Hz, 0 where there is none), bins (of a spectrogram, of which every
channel of the sound has as many; 1 of anything else).

An operator that is made with a field that does not fit raises ``ValueError``, naming operator, field, what was expected
and what came.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from dalipipe.ops import signals
from dalipipe.policy import Measure, Op, Params, check_range

FRAMES, CHANNELS, RATE, BINS = range(4)
"""Of a signal's size."""
SNR = Measure(high=200.0, low=-100.0, kind="noise_db")
"""What signal-to-noise ratios in decibels are measured by."""

Edge = Literal["zero", "hold", "wrap", "mirror"]
"""What stands before a signal's beginning and after its end: zeros; its first and last frame; itself again; itself
backwards, without its last frame.
"""
EDGES: tuple[str, ...] = get_args(Edge)

STAGES = ("time map", "channels, gain", "filter", "times a curve", "plus a curve", "noise", "windows")


class SignalOp(Op):
    modality: ClassVar[str] = "signal"


class PassOp(SignalOp):
    """What is a part of a pass. ``stages``: the first and the last of `STAGES` that it takes up."""

    stages: ClassVar[tuple[int, int]]


class ShiftOp(PassOp):
    """Frame t is made from frame ``start`` + ``direction`` · t: int64 [A] each, ``direction`` 1 or −1; ``frames`` int64
    [A]: how many come out. Beyond the ends stands what ``edge`` says.
    """

    stages = (0, 0)
    edge: Any = "zero"

    def output_size(self, params: Params, size: np.ndarray) -> np.ndarray:
        return with_frames(size, params["frames"])

    def reference(self, x: np.ndarray, params: Params) -> np.ndarray:
        start, direction, frames = (int(params[name]) for name in ("start", "direction", "frames"))
        return signals.shift(x, start, frames, direction=direction, edge=EDGES.index(self.edge))


class LineOp(PassOp):
    """Frame t is made from position ``line_start`` + ``line_rate`` · t, between frames linearly: float64 [A] each;
    ``frames`` int64 [A]. The ends go on.
    """

    stages = (0, 0)

    def output_size(self, params: Params, size: np.ndarray) -> np.ndarray:
        return with_frames(size, params["frames"])

    def reference(self, x: np.ndarray, params: Params) -> np.ndarray:
        start, rate = (float(params[name]) for name in ("line_start", "line_rate"))
        return signals.line(x, start, rate, int(params["frames"]), edge=signals.HOLD)


class CurveOp(PassOp):
    """Frame t is made from the position that a curve has there: ``segments`` float64 [A, S, 5] (`curves`); between
    frames linearly, or from the nearest. Lengths stay; the ends go on.
    """

    stages = (0, 0)
    interpolation: ClassVar[int] = signals.LINEAR

    def reference(self, x: np.ndarray, params: Params) -> np.ndarray:
        curve = _segments(params["segments"])
        return signals.curve(x, curve, len(x), edge=signals.HOLD, interpolation=self.interpolation)


class GainOp(PassOp):
    """All values times ``gain`` float32 [A]."""

    stages = (1, 1)

    def reference(self, x: np.ndarray, params: Params) -> np.ndarray:
        return signals.gain(x, float(params["gain"]))


class ChannelsOp(PassOp):
    """Channel c is made of channel ``source`` int64 [A, C], times ``gains`` float32 [A, C]."""

    stages = (1, 1)

    def reference(self, x: np.ndarray, params: Params) -> np.ndarray:
        return signals.channels(x, params["source"], params["gains"])


class BiquadOp(PassOp):
    """Filters of second order, one after the other: ``biquads`` float64 [A, K, 5] as b0, b1, b2, a1, a2 (a0 = 1)."""

    stages = (2, 2)

    def reference(self, x: np.ndarray, params: Params) -> np.ndarray:
        return signals.biquads(x, params["biquads"])


class TimesOp(PassOp):
    """Times a curve: ``curves`` float64 [A, c, S, 5] (`curves`), one for each channel (c = C) or for all (c = 1)."""

    stages = (3, 3)

    def reference(self, x: np.ndarray, params: Params) -> np.ndarray:
        return signals.times(x, [_segments(curve) for curve in params["curves"]])


class PlusOp(PassOp):
    """Plus a curve: ``curves`` as in `TimesOp`."""

    stages = (4, 4)

    def reference(self, x: np.ndarray, params: Params) -> np.ndarray:
        return signals.plus(x, [_segments(curve) for curve in params["curves"]])


class NoiseOp(PassOp):
    """Plus normal noise times ``level`` float32 [A]; where it is ``relative``, times the signal's RMS over the noise's,
    too, so that −20 log₁₀(level) is the signal-to-noise ratio in dB. ``noise`` uint32 [A, 5].
    """

    stages = (5, 5)
    noisy: ClassVar[bool] = True
    relative: ClassVar[bool] = False

    def reference(self, x: np.ndarray, params: Params) -> np.ndarray:
        return signals.white_noise(x, float(params["level"]), params["noise"], relative=self.relative)


class SoundOp(PassOp):
    """Plus a sound that is looked up or made outside the signal, times the signal's RMS times ``level`` float32 [A],
    over the sound's RMS. What else says which sound it is: its class.
    """

    stages = (5, 5)


class WindowOp(PassOp):
    """Fills windows: ``windows`` int64 [A, W, 6] as begin, end, fade_out, fade_in (frames), first_channel, end_channel;
    ``value`` float32 [A, W]. ``hold``: with what stands before instead. One that ends before it begins is not there.
    """

    stages = (6, 6)
    hold: Any = False

    def reference(self, x: np.ndarray, params: Params) -> np.ndarray:
        return signals.windows(x, windows_of(params, self.hold))


class SpectralOp(SignalOp):
    """Needs whole spectra, or taps from afar: runs by itself, over all samples that it is drawn for."""


def _segments(curve: np.ndarray) -> list[signals.Segment]:
    return [signals.Segment(begin, tuple(c)) for begin, *c in curve[np.isfinite(curve[:, 0])].tolist()]


def windows_of(params: Params, hold: bool) -> list[signals.Window]:
    """Those of one sample that are there."""
    fill = signals.KEEP if hold else signals.VALUE
    both = zip(params["windows"].tolist(), params["value"].tolist(), strict=True)
    return [signals.Window._make((*window, fill, value)) for window, value in both if window[1] >= window[0]]


def with_frames(size: np.ndarray, frames: np.ndarray) -> np.ndarray:
    size = size.copy()
    size[:, FRAMES] = frames
    return size


def seconds_to_frames(seconds: Any, size: np.ndarray) -> np.ndarray:
    """int64 [A], by each signal's rate."""
    return np.rint(seconds * size[:, RATE]).astype(np.int64)


def needs_rate(size: np.ndarray) -> np.ndarray:
    """bool [A]: those that do not say how many frames a second they have."""
    return size[:, RATE] <= 0


def check_choice(op: Any, name: str, choices: tuple[Any, ...]) -> None:
    if getattr(op, name) not in choices:
        listed = ", ".join(map(repr, choices))
        raise ValueError(f"{type(op).__name__}: {name} must be one of {listed}, got {getattr(op, name)!r}")


def check_number(op: Any, name: str, low: float, high: float = math.inf) -> float:
    value = getattr(op, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{type(op).__name__}: {name} must be a number in [{low:g}, {high:g}], got {value!r}")
    return float(value)


def check_whole(op: Any, name: str, low: int, high: int = 2**31 - 1) -> None:
    value = getattr(op, name)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{type(op).__name__}: {name} must be a whole number in [{low}, {high}], got {value!r}")


def check_flag(op: Any, name: str) -> None:
    if not isinstance(getattr(op, name), bool):
        raise ValueError(f"{type(op).__name__}: {name} must be True or False, got {getattr(op, name)!r}")


def as_range(op: Any, name: str, low: float = -math.inf, high: float = math.inf) -> None:
    """A field that is a range, or a number, which stands for itself alone."""
    value = getattr(op, name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = (value, value)
    object.__setattr__(op, name, check_range(op, name, value, low, high))
