"""What an operator's strength is drawn from: a pair (low, high), uniform between them, or a `Range`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from dalipipe.quantiles import ndtri


class Range(ABC):
    """A distribution of one number: drawn from one uniform number, between ``low`` and ``high``."""

    @property
    @abstractmethod
    def low(self) -> float:
        """Its least value."""

    @property
    @abstractmethod
    def high(self) -> float:
        """Its greatest value."""

    @abstractmethod
    def draw(self, u: np.ndarray) -> np.ndarray:
        """Uniforms float64 [N] in [0, 1) → float64 [N]."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `range_from_dict` is its inverse."""


@dataclass(frozen=True)
class Choice(Range):
    """One of ``values``, equally likely; ``signed``: with either sign."""

    values: tuple[float, ...]
    signed: bool = False

    def __post_init__(self) -> None:
        values = _finite(self.values)
        if not values:
            raise ValueError(f"Choice: values must be a list of one or more finite numbers, got {self.values!r}")
        object.__setattr__(self, "values", values)

    @property
    def low(self) -> float:
        return min(-max(map(abs, self.values)), *self.values) if self.signed else min(self.values)

    @property
    def high(self) -> float:
        return max(map(abs, self.values)) if self.signed else max(self.values)

    def draw(self, u: np.ndarray) -> np.ndarray:
        u, sign = _split_sign(u) if self.signed else (u, 1.0)
        at = np.minimum((u * len(self.values)).astype(np.int64), len(self.values) - 1)
        return np.array(self.values)[at] * sign

    def to_dict(self) -> dict[str, Any]:
        return {"choice": list(self.values), **({"signed": True} if self.signed else {})}


@dataclass(frozen=True)
class Normal(Range):
    """Normally distributed about ``mean`` with deviation ``std``, what lies outside [``low``, ``high``] moved to its
    ends; ``signed``: with either sign. ``times`` and ``plus`` then make ``plus + times · value`` of it.
    """

    mean: float
    std: float
    within: tuple[float, float]
    signed: bool = False
    times: float = 1.0
    plus: float = 0.0

    def __post_init__(self) -> None:
        within = _finite(self.within)
        if len(within) != 2 or not within[0] <= within[1]:
            raise ValueError(f"Normal: within must be finite numbers (low, high), low before high, got {self.within!r}")
        object.__setattr__(self, "within", within)
        if not _finite((self.mean, self.std, self.times, self.plus)) or self.std < 0:
            raise ValueError(f"Normal: expected finite numbers and std ≥ 0, got {self}")

    def _ends(self) -> list[float]:
        signs = (-1.0, 1.0) if self.signed else (1.0,)
        return [self.plus + sign * self.times * v for v in self.within for sign in signs]

    @property
    def low(self) -> float:
        return min(self._ends())

    @property
    def high(self) -> float:
        return max(self._ends())

    def draw(self, u: np.ndarray) -> np.ndarray:
        u, sign = _split_sign(u) if self.signed else (u, 1.0)
        return self.plus + self.times * sign * np.clip(self.mean + self.std * ndtri(u), *self.within)

    def to_dict(self) -> dict[str, Any]:
        data: dict[str, Any] = {"normal": [self.mean, self.std], "within": list(self.within)}
        if self.signed:
            data["signed"] = True
        if (self.times, self.plus) != (1.0, 0.0):
            data |= {"times": self.times, "plus": self.plus}
        return data


def range_from_dict(data: Any) -> Range:
    """Raises ``ValueError`` saying what was expected."""
    known = {"choice": {"choice", "signed"}, "normal": {"normal", "within", "signed", "times", "plus"}}
    kind = next((kind for kind in known if kind in data), None)
    if kind is None or set(data) - known[kind]:
        raise ValueError(
            'a range is (low, high), {"choice": [values], "signed": true} or {"normal": [mean, std], "within": '
            f"[low, high]}}, got {dict(data)!r}"
        )
    rest = {key: value for key, value in data.items() if key != kind}
    try:
        return Choice(tuple(data[kind]), **rest) if kind == "choice" else Normal(*data[kind], **rest)
    except TypeError as error:
        raise ValueError(f"a range {dict(data)!r}: {error}") from None


def check_range(op: Any, name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> Any:
    """``value`` as (a, b) with low ≤ a ≤ b ≤ high, or as the `Range` that it is, or a ``ValueError`` that says what
    came.
    """
    if isinstance(value, Range):
        a, b = value.low, value.high
    else:
        try:
            a, b = (float(v) for v in (() if isinstance(value, str) else value))
        except (TypeError, ValueError):
            raise ValueError(
                f"{type(op).__name__}: {name} must be a pair of numbers (low, high) or a range, got {value!r}"
            ) from None
    if not low <= a <= b <= high:  # also false for NaN
        shown = value if isinstance(value, Range) or a != b else a
        raise ValueError(f"{type(op).__name__}: {name} must lie in [{low:g}, {high:g}], low before high, got {shown!r}")
    return value if isinstance(value, Range) else (a, b)


def draw_range(bounds: Any, u: np.ndarray) -> np.ndarray:
    """Uniforms float64 [N] → float64 [N], from what `check_range` gave."""
    if isinstance(bounds, Range):
        return bounds.draw(u)
    low, high = bounds
    return low + (high - low) * u


@dataclass(frozen=True)
class Measure:
    """How far a field takes its operator away from doing nothing, which is what it does at ``neutral``, so that it can
    be made weaker or stronger: `scaled`.

    ``kind`` "linear": strength s takes a value v to neutral + s · (v − neutral); "log", of what multiplies, such as
    zooms and rates: to neutral · (v / neutral)^s; "noise_db", of signal-to-noise ratios in decibels: to v − 20 log₁₀ s,
    so that the noise's amplitude is s times what it was. ``low``, ``high``: as far as values may be taken; one that is
    written beyond may stay there. ``whole``: values are rounded to whole numbers.
    """

    neutral: float = 0.0
    low: float = -math.inf
    high: float = math.inf
    kind: Literal["linear", "log", "noise_db"] = "linear"
    whole: bool = False

    def scaled(self, value: Any, strength: float) -> Any:
        """A field's value, a number, several, a range or ``None``, for ``strength`` > 0, 1 giving it as it is; likewise
        for 0, but of noise.
        """
        if value is None or strength == 1.0:
            return value
        if isinstance(value, tuple | list):
            return tuple(self.scaled(v, strength) for v in value)
        if isinstance(value, Choice):
            values = value.values
            if value.signed and (self.neutral, self.kind) != (0.0, "linear"):  # then signs are no longer alike
                return Choice(tuple(self._one(sign * v, strength) for v in values for sign in (-1.0, 1.0)))
            return Choice(tuple(self._one(v, strength) for v in values), value.signed)
        if isinstance(value, Normal):
            return self._normal(value, strength)
        if isinstance(value, Range):
            raise TypeError(f"Measure: cannot say what {value!r} is at another strength; give (low, high)")
        one = self._one(float(value), strength)
        return int(one) if self.whole else one

    def _one(self, value: float, strength: float) -> float:
        if self.kind == "noise_db":
            moved = value - 20.0 * math.log10(strength)
        elif self.kind == "log":
            moved = self.neutral * (value / self.neutral) ** strength
        else:
            moved = self.neutral + strength * (value - self.neutral)
        moved = min(max(moved, min(self.low, value)), max(self.high, value))
        return float(round(moved)) if self.whole else moved

    def _normal(self, value: Normal, strength: float) -> Normal:
        """By a straight line, so "log" as "linear"; what would go too far goes less far as a whole."""
        if self.kind == "noise_db":
            return replace(value, plus=value.plus + self._one(value.high, strength) - value.high)
        shares = [strength]
        for end, away in ((end, end - self.neutral) for end in (value.low, value.high)):
            wanted = self.neutral + strength * away
            reached = min(max(wanted, min(self.low, end)), max(self.high, end))
            if strength > 1.0 and reached != wanted:
                shares.append((reached - self.neutral) / away)
        share = min(shares)
        if share < strength:
            share = max(1.0, share * (1.0 - 1e-9))  # within it after rounding, too
        if share == 1.0:
            return value
        plus = self.neutral + share * (value.plus - self.neutral)
        return replace(value, times=share * value.times, plus=plus)


def check_strength(strength: Any, what: str) -> float:
    """``strength`` as a number ≥ 0, or a ``ValueError`` naming ``what`` it is given to."""
    number = isinstance(strength, int | float) and not isinstance(strength, bool)
    if not number or not 0 <= strength < math.inf:
        raise ValueError(f"{what}: strength must be a number ≥ 0, 1: as written, 0: nothing, got {strength!r}")
    return float(strength)


def _finite(values: Any) -> tuple[float, ...]:
    """Of a list of finite numbers; of anything else, none."""
    try:
        numbers = tuple(float(v) for v in (() if isinstance(values, str) else values))
    except (TypeError, ValueError):
        return ()
    return numbers if all(map(math.isfinite, numbers)) else ()


def _split_sign(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One uniform number into another and a sign."""
    negative = u < 0.5
    return np.where(negative, 2 * u, 2 * u - 1), np.where(negative, -1.0, 1.0)
