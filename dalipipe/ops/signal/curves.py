"""Piecewise cubics through knots, as ``csrc/signal.h`` takes them: segments float64 [..., S, 5], each the frame where
it begins and the coefficients c0 … c3 of the distance from there; what begins at infinity is not there.

Elementwise numpy alone: a solver's roundings would differ from processor to processor.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np


def hermite(x: np.ndarray, y: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Segments [..., K-1, 5] through (x, y) with these slopes there: ``x``, ``y``, ``slope`` float64 [..., K]."""
    h = np.diff(x, axis=-1)
    rise = np.diff(y, axis=-1) / h
    first, last = slope[..., :-1], slope[..., 1:]
    segments = np.empty((*np.broadcast_shapes(h.shape, rise.shape), 5))
    segments[..., 0], segments[..., 1], segments[..., 2] = x[..., :-1], y[..., :-1], first
    segments[..., 3] = (3.0 * rise - 2.0 * first - last) / h
    segments[..., 4] = (first + last - 2.0 * rise) / (h * h)
    return segments


def pchip(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The shape-preserving interpolant: monotone where the knots are. ``x``, ``y`` float64 [..., K], K ≥ 2 → segments.

    Fritsch, Butland: "A method for constructing local monotone piecewise cubic interpolants" (SIAM J. Sci. Stat.
    Comput. 5, 1984), with the ends of Moler's "Numerical computing with MATLAB", as ``scipy.interpolate.pchip``.
    """
    h = np.broadcast_to(np.diff(x, axis=-1), (*y.shape[:-1], y.shape[-1] - 1))
    rise = np.diff(y, axis=-1) / h
    if y.shape[-1] == 2:
        return hermite(x, y, np.concatenate([rise, rise], axis=-1))
    h0, h1, d0, d1 = h[..., :-1], h[..., 1:], rise[..., :-1], rise[..., 1:]
    w0, w1 = 2.0 * h1 + h0, h1 + 2.0 * h0
    with np.errstate(divide="ignore", invalid="ignore"):
        inner = np.where(d0 * d1 > 0, (w0 + w1) / (w0 / d0 + w1 / d1), 0.0)

    def end(h0: np.ndarray, h1: np.ndarray, d0: np.ndarray, d1: np.ndarray) -> np.ndarray:
        slope = ((2.0 * h0 + h1) * d0 - h0 * d1) / (h0 + h1)
        slope = np.where(np.sign(slope) != np.sign(d0), 0.0, slope)
        overshoots = (np.sign(d0) != np.sign(d1)) & (np.abs(slope) > 3.0 * np.abs(d0))
        return np.where(overshoots, 3.0 * d0, slope)

    first = end(h[..., 0], h[..., 1], rise[..., 0], rise[..., 1])
    last = end(h[..., -1], h[..., -2], rise[..., -1], rise[..., -2])
    return hermite(x, y, np.concatenate([first[..., None], inner, last[..., None]], axis=-1))


def cubic_spline(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The twice differentiable interpolant with "not-a-knot" ends, as ``scipy.interpolate.CubicSpline``; of two knots a
    line, of three a parabola. ``x`` float64 [..., K]: evenly spaced; ``y`` float64 [..., K], K ≥ 2 → segments.
    """
    step = (x[..., -1:] - x[..., :1]) / (x.shape[-1] - 1)
    weights = _slope_weights(y.shape[-1])
    slope = np.zeros(y.shape)
    for knot in range(y.shape[-1]):
        slope += weights[:, knot] * y[..., knot : knot + 1]
    return hermite(x, y, slope / step)


@lru_cache
def _slope_weights(knots: int) -> np.ndarray:
    """float64 [K, K]: slopes at knots one apart as a linear function of the values there."""
    k = knots
    left, right = np.eye(k), np.zeros((k, k))
    if k == 2:
        return np.array([[-1.0, 1.0], [-1.0, 1.0]])
    if k == 3:  # the parabola through all
        return np.array([[-1.5, 2.0, -0.5], [-0.5, 0.0, 0.5], [0.5, -2.0, 1.5]])
    for row in range(1, k - 1):  # curvature is continuous
        left[row, row - 1 : row + 2] = 1.0, 4.0, 1.0
        right[row, row - 1], right[row, row + 1] = -3.0, 3.0
    left[0, :2], right[0, :3] = (1.0, 2.0), (-2.5, 2.0, 0.5)  # the third derivative is, at the second knot
    left[-1, -2:], right[-1, -3:] = (2.0, 1.0), (-0.5, -2.0, 2.5)
    for column in range(k):  # Gauss and Jordan, with pivots
        pivot = column + int(np.argmax(np.abs(left[column:, column])))
        for side in (left, right):
            side[[column, pivot]] = side[[pivot, column]]
        right[column] /= left[column, column]
        left[column] /= left[column, column]
        for row in range(k):
            if row != column and left[row, column]:
                right[row] -= left[row, column] * right[column]
                left[row] -= left[row, column] * left[column]
    return right


def evaluate(segments: np.ndarray, t: np.ndarray) -> np.ndarray:
    """float64 [..., T]: the curves' values at ``t`` float64 [T]. ``segments`` [..., S, 5]."""
    begins = segments[..., 0]
    which = np.maximum((t >= begins[..., :, None]).sum(axis=-2) - 1, 0)  # [..., T]
    taken = np.take_along_axis(segments, which[..., None], axis=-2)
    d = t - taken[..., 0]
    return ((taken[..., 4] * d + taken[..., 3]) * d + taken[..., 2]) * d + taken[..., 1]
