"""What a pass does to one signal, in plain numpy: the specification that ``csrc/signal.h`` and its twins meet, bit for
bit.

Signals are float32 [T, C]. Positions, curves and the state of filters are float64, everything else float32, with the
operations in the order written here (no fused multiply-add). A pass is

    x = shift(x, ...), line(x, ...) or curve(x, ...); x = channels(x, ...); x = biquads(x, ...); x = times(x, ...)
    x = plus(x, ...); x = white_noise(x, ...) or recorded_noise(x, ...); x = windows(x, ...)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from dalipipe.ops import filtering

SHIFT, LINE, CURVE = range(3)
"""`TimeMap` of ``csrc/signal.h``."""

ZERO, HOLD, WRAP, MIRROR = range(4)
"""`Edge`: what lies before a signal and after it: zeros, its end, itself again, its mirror image about its end."""

NEAREST, LINEAR = range(2)
"""`Interpolation`."""

NO_NOISE, WHITE, RECORDED = range(3)
"""`SignalNoise`."""

ABSOLUTE, RELATIVE = range(2)
"""`NoiseLevel`."""

VALUE, KEEP = range(2)
"""`Fill` of a window: a value; what stands before it (``hold``)."""

MAX_BIQUADS = 16
"""In a pass."""

MAX_SHIFT = 1 << 40
"""Frames; also what is made of positions further away, and of NaN."""

_F = np.float32
_LANES = 64


class Segment(NamedTuple):
    """Of a curve, from frame ``begin`` on: ((c3 d + c2) d + c1) d + c0 with d = t − begin. float64."""

    begin: float
    c: tuple[float, float, float, float]


class Window(NamedTuple):
    """Frames [begin, end) of channels [first_channel, end_channel), filled; csrc/signal.h says with what."""

    begin: int
    end: int
    fade_out: int
    fade_in: int
    first_channel: int
    end_channel: int
    fill: int
    value: float


# Time --------------------------------------------------------------------------------------------------------------


def shift(x: np.ndarray, start: int, frames: int, *, direction: int = 1, edge: int = ZERO) -> np.ndarray:
    """Frame t is frame ``start`` + ``direction`` · t of ``x``."""
    return _frames(x, start + direction * np.arange(frames, dtype=np.int64), edge)


def line(
    x: np.ndarray, start: float, rate: float, frames: int, *, edge: int = ZERO, interpolation: int = LINEAR
) -> np.ndarray:
    """Frame t is ``x`` at position ``start`` + ``rate`` · t."""
    return at(x, start + rate * np.arange(frames, dtype=np.float64), edge=edge, interpolation=interpolation)


def curve(
    x: np.ndarray, segments: list[Segment], frames: int, *, edge: int = ZERO, interpolation: int = LINEAR
) -> np.ndarray:
    """Frame t is ``x`` at the position that the curve has there."""
    return at(x, curve_values(segments, frames), edge=edge, interpolation=interpolation)


def at(x: np.ndarray, position: np.ndarray, *, edge: int, interpolation: int) -> np.ndarray:
    """float32 [N, C]: ``x`` at positions float64 [N], in frames. Nearest: halves go up."""
    far = float(MAX_SHIFT)
    position = np.where(position < far, np.where(position > -far, position, -far), far)
    if interpolation == NEAREST:
        return _frames(x, np.floor(position + 0.5).astype(np.int64), edge)
    below = np.floor(position)
    share = (position - below).astype(np.float32)[:, None]
    i = below.astype(np.int64)
    here = _frames(x, i, edge)
    return here + (_frames(x, i + 1, edge) - here) * share


def curve_values(segments: list[Segment], frames: int) -> np.ndarray:
    """float64 [frames]. A frame belongs to the last segment that begins at it or before, or to the first one."""
    t = np.arange(frames, dtype=np.float64)
    begins = np.array([segment.begin for segment in segments], np.float64)
    which = np.maximum(np.searchsorted(begins, t, side="right") - 1, 0)
    c = np.array([segment.c for segment in segments], np.float64)[which]
    d = t - begins[which]
    return ((c[:, 3] * d + c[:, 2]) * d + c[:, 1]) * d + c[:, 0]


def _frames(x: np.ndarray, i: np.ndarray, edge: int) -> np.ndarray:
    n = len(x)
    if edge == WRAP:
        return x[i % n]
    if edge == MIRROR:
        r = i % (2 * (n - 1)) if n > 1 else np.zeros_like(i)
        return x[np.where(r < n, r, 2 * (n - 1) - r)]
    held = x[np.clip(i, 0, n - 1)]
    return held if edge == HOLD else np.where(((i >= 0) & (i < n))[:, None], held, _F(0))


# Amplitude ---------------------------------------------------------------------------------------------------------


def gain(x: np.ndarray, factor: float) -> np.ndarray:
    """``x`` times ``factor``, float32."""
    return x * _F(factor)


def channels(x: np.ndarray, source: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Channel c is channel ``source``[c] times ``gains``[c], float32."""
    return x[:, source] * np.asarray(gains, np.float32)


def biquads(x: np.ndarray, sections: np.ndarray) -> np.ndarray:
    """Second-order sections float64 [S, 5] (b0 b1 b2 a1 a2; a0 is 1), one after the other, from rest.

    Source: transposed direct form II, as ``scipy.signal.sosfilt`` of float64; rounded to float32 once.
    """
    v = x.astype(np.float64)
    for b0, b1, b2, a1, a2 in np.asarray(sections, np.float64):
        y = np.empty_like(v)
        z0 = z1 = np.zeros(x.shape[1])
        for t, frame in enumerate(v):
            y[t] = b0 * frame + z0
            z0, z1 = (b1 * frame - a1 * y[t]) + z1, b2 * frame - a2 * y[t]
        v = y
    return v.astype(np.float32)


def times(x: np.ndarray, curves: list[list[Segment]]) -> np.ndarray:
    """``x`` times a curve for all channels, or one for each."""
    return x * _curves(x, curves)


def plus(x: np.ndarray, curves: list[list[Segment]]) -> np.ndarray:
    """``x`` plus a curve for all channels, or one for each."""
    return x + _curves(x, curves)


def _curves(x: np.ndarray, curves: list[list[Segment]]) -> np.ndarray:
    return np.stack([curve_values(segments, len(x)) for segments in curves], axis=1).astype(np.float32)


# Noise -------------------------------------------------------------------------------------------------------------


def white_noise(x: np.ndarray, level: float, key: np.ndarray, *, relative: bool = False) -> np.ndarray:
    """Normal noise times ``level``; or, ``relative``, at a signal-to-noise ratio of −20 log10(level) dB. ``key``: a
    `NoiseKey`, uint32 [5].
    """
    return _add_noise(x, filtering.normals(key, x.shape), level, relative)


def recorded_noise(
    x: np.ndarray, level: float, recorded: np.ndarray, start: int, *, relative: bool = False
) -> np.ndarray:
    """As `white_noise`, of ``recorded`` float32 [K], from frame ``start`` on, again and again; for all channels."""
    noise = recorded[(start + np.arange(len(x))) % len(recorded)]
    return _add_noise(x, np.broadcast_to(noise[:, None], x.shape), level, relative, shared=True)


def sum_of_squares(x: np.ndarray) -> float:
    """Over all elements, in float64: frame t of every channel goes to lane t mod 64, channel after channel; then lanes
    are added up in halves.
    """
    padded = np.zeros((x.shape[1], -(-len(x) // _LANES) * _LANES))
    padded[:, : len(x)] = x.T
    lanes = np.zeros(_LANES)
    for row in padded.reshape(-1, _LANES):
        lanes += row * row
    while len(lanes) > 1:
        lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
    return float(lanes[0])


def _add_noise(x: np.ndarray, noise: np.ndarray, level: float, relative: bool, shared: bool = False) -> np.ndarray:
    scale = _F(level)
    if relative:
        power = sum_of_squares(x)
        noise_power = sum_of_squares(noise[:, :1]) * x.shape[1] if shared else sum_of_squares(noise)
        scale = _F(float(scale) * math.sqrt(power / noise_power)) if power > 0 and noise_power > 0 else _F(0)
    return x + scale * noise


# Windows -----------------------------------------------------------------------------------------------------------


def windows(x: np.ndarray, given: list[Window]) -> np.ndarray:
    """Windows filled, in order, and the frames about them faded; clipped to the signal."""
    x = x.copy()
    frames = len(x)
    t = np.arange(frames, dtype=np.int64)
    for w in given:
        begin, end = np.clip([w.begin, w.end], 0, frames)
        part = x[:, w.first_channel : w.end_channel]
        held = part[begin - 1].copy() if begin > 0 else part[end].copy() if end < frames else None
        part[begin:end] = _F(w.value) if w.fill == VALUE or held is None else held
        for fade, away in ((w.fade_out, w.begin - 1 - t), (w.fade_in, t - w.end)):
            rows = np.flatnonzero((away >= 0) & (away < fade))
            part[rows] *= ((away[rows] + 1).astype(np.float32) / (_F(fade) + _F(1)))[:, None]
    return x
