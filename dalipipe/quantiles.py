"""Inverse distribution functions: a uniform number becomes a normal, beta or gamma one, so one draw is one uniform.

Vectorised numpy. Uniforms are clipped to [2⁻³³, 1 − 2⁻³³]: half a step of `dalipipe.rng`'s away from 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

Quantile = Callable[[np.ndarray], np.ndarray]

_EDGE = 2.0**-33
_SPAN = 40.0  # tables reach to where the density has fallen by exp(-40), far beyond `_EDGE`
_CELLS = 512  # on each side of the mode

# Wichura's rational approximations, highest powers first: of the centre in 0.425² - (u - 0.5)², of the tails in
# sqrt(-log u) - 1.6.
# fmt: off
_CENTRE = (
    (2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4, 4.5921953931549871457e4,
     1.3731693765509461125e4, 1.9715909503065514427e3, 1.3314166789178437745e2, 3.3871328727963666080),
    (5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4, 2.1213794301586595867e4,
     5.3941960214247511077e3, 6.8718700749205790830e2, 4.2313330701600911252e1, 1.0),
)
_TAIL = (
    (7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1, 1.27045825245236838258,
     3.64784832476320460504, 5.76949722146069140550, 4.63033784615654529590, 1.42343711074968357734),
    (1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2, 1.48103976427480074590e-1,
     6.89767334985100004550e-1, 1.67638483018380384940, 2.05319162663775882187, 1.0),
)
# fmt: on


def ndtri(u: np.ndarray) -> np.ndarray:
    """The standard normal's: float64 [...] in [0, 1] → float64 [...], to 15 digits.

    Wichura, "Algorithm AS 241: the percentage points of the normal distribution" (Applied Statistics 37, 1988).
    """
    u = np.clip(np.asarray(u, np.float64), _EDGE, 1.0 - _EDGE)
    q = u - 0.5
    centre = q * _ratio(_CENTRE, 0.180625 - q * q)
    tail = np.sign(q) * _ratio(_TAIL, np.sqrt(-np.log(np.minimum(u, 1.0 - u))) - 1.6)
    return np.where(np.abs(q) <= 0.425, centre, tail)


def _ratio(polynomials: tuple[tuple[float, ...], tuple[float, ...]], x: np.ndarray) -> np.ndarray:
    return np.polyval(polynomials[0], x) / np.polyval(polynomials[1], x)


@lru_cache(maxsize=64)
def beta_quantile(a: float, b: float) -> Quantile:
    """Beta(a, b)'s, for any a, b > 0: a function of float64 [...] in [0, 1] to float64 [...] in [0, 1].

    Raises ``ValueError`` where a or b is not a positive number.
    """
    _check("beta_quantile", a=a, b=b)

    def log_density(t: np.ndarray) -> np.ndarray:  # of t = log(x / (1 - x))
        return -a * np.logaddexp(0.0, -t) - b * np.logaddexp(0.0, t)

    def slope(t: np.ndarray) -> np.ndarray:
        return a * _sigmoid(-t) - b * _sigmoid(t)

    table = _tabulate(log_density, slope, mode=math.log(a / b), width=math.sqrt(1.0 / a + 1.0 / b))
    return lambda u: _sigmoid(table(u))


@lru_cache(maxsize=64)
def gamma_quantile(a: float) -> Quantile:
    """Gamma(a)'s with scale 1, for any a > 0: a function of float64 [...] in [0, 1] to float64 [...] ≥ 0.

    Raises ``ValueError`` where a is not a positive number.
    """
    table = _log_gamma_quantile(a)
    return lambda u: np.exp(table(u))


def dirichlet(alpha: float, u: np.ndarray) -> np.ndarray:
    """Uniforms float64 [..., K] → weights float64 [..., K] that sum to 1, of a symmetric Dirichlet(alpha)."""
    t = _log_gamma_quantile(alpha)(u)  # logarithms: gamma numbers of a small alpha are often below any float
    weights = np.exp(t - t.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


@lru_cache(maxsize=64)
def _log_gamma_quantile(a: float) -> Quantile:
    _check("gamma_quantile", a=a)
    return _tabulate(
        lambda t: a * t - np.exp(t),  # of t = log x
        lambda t: a - np.exp(t),
        mode=math.log(a),
        width=1.0 / math.sqrt(a),
    )


def _check(name: str, **values: float) -> None:
    for field, value in values.items():
        if not (isinstance(value, (int, float)) and 1e-6 <= value <= 1e6):
            raise ValueError(f"{name}: {field} must lie in [1e-06, 1e+06], got {value!r}")


def _sigmoid(t: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -t))


def _tabulate(log_density: Quantile, slope: Quantile, *, mode: float, width: float) -> Quantile:
    """The quantile function of a log-concave density on the line, up to a factor, with exponential tails or lighter.

    A beta or gamma density, singular at its ends, is such a one of the logit or the logarithm, and log(F / (1 - F)) is
    nearly linear in that all along the tails: so t is interpolated in it, by cubics whose slopes are known.
    ``slope`` is the log density's; ``width`` the scale of its peak.
    """
    peak = float(log_density(np.array(mode)))

    def reach(sign: float) -> float:  # how far from the mode the density has fallen by exp(-_SPAN)
        far = width
        while log_density(np.array(mode + sign * far)) > peak - _SPAN:
            far *= 2.0
        near = 0.0
        for _ in range(30):
            middle = 0.5 * (near + far)
            fallen = log_density(np.array(mode + sign * middle)) < peak - _SPAN
            near, far = (near, middle) if fallen else (middle, far)
        return far

    sides = [width * np.sinh(np.linspace(0.0, math.asinh(reach(sign) / width), _CELLS + 1)) for sign in (-1.0, 1.0)]
    t = mode + np.concatenate([-sides[0][:0:-1], sides[1]])
    nodes, weights = np.polynomial.legendre.leggauss(4)
    half = 0.5 * np.diff(t)
    inside = np.exp(log_density((t[:-1] + half)[:, None] + half[:, None] * nodes) - peak)
    cells = half * (inside @ weights)
    density = np.exp(log_density(t) - peak)
    ends = np.abs(density[[0, -1]] / slope(t[[0, -1]]))  # what lies beyond, its logarithm taken as straight
    below = np.cumsum(np.concatenate([ends[:1], cells]))
    above = np.cumsum(np.concatenate([ends[1:], cells[::-1]]))[::-1]
    v = np.log(below) - np.log(above)
    dt = below * above / ((below + above) * density)

    def quantile(u: np.ndarray) -> np.ndarray:
        u = np.clip(np.asarray(u, np.float64), _EDGE, 1.0 - _EDGE)
        at = np.log(u) - np.log1p(-u)
        i = np.clip(np.searchsorted(v, at, side="right") - 1, 0, len(v) - 2)
        step = v[i + 1] - v[i]
        s = (at - v[i]) / step
        rise = t[i + 1] - t[i]
        left, right = step * dt[i] - rise, rise - step * dt[i + 1]
        return t[i] + s * rise + s * (1.0 - s) * ((1.0 - s) * left + s * right)

    return quantile
