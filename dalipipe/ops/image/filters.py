"""Filters: blur, sharpness, noise, JPEG. A pixel depends on its neighbours or on numbers drawn for it alone.

What each does to pixels is in `dalipipe.ops.filtering`.

An operator that is made with a field that does not fit raises ``ValueError``, naming operator, field, what was expected
and what came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from dalipipe.ops import filtering
from dalipipe.ops.image.families import FilterOp
from dalipipe.policy import Measure, Params, Range, check_range, draw_range, set_field

_MAX_TAPS = 255
_MAX_SHARPNESS = 1000.0


@dataclass(frozen=True, repr=False)
class Sharpness(FilterOp):
    """Away from the smooth picture, or towards it, by a number within ``factor``, 0..1000: 0 smooths, 1: unchanged,
    above 1 sharpens.

    Equals torchvision's ``adjust_sharpness`` of uint8 tensors to the bit: smooth is a 3x3 mean with five times the
    middle; the outermost pixels stay, as does a picture with a side of 1 or 2 px.
    """

    factor: Any = (0.6, 1.4)
    kind: ClassVar[int] = filtering.SHARPEN
    draws: ClassVar[int] = 1
    measures: ClassVar[Mapping[str, Measure]] = {"factor": Measure(1.0, 0.0, _MAX_SHARPNESS)}

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "factor", check_range(self, "factor", self.factor, 0.0, _MAX_SHARPNESS))

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return _values(1.0 - draw_range(self.factor, u[:, 0]))


@dataclass(frozen=True, repr=False)
class GaussianBlur(FilterOp):
    """Blurs by a gaussian with a deviation within ``sigma`` px (0.001..500; one number or a range), cut off at
    ``kernel_size`` px: odd, 1..255, or (x, y), two such.

    As torchvision's ``GaussianBlur``, which sums in another order: 99.9 % of values are equal, none is off by more than
    1. A picture smaller than the kernel's reach, which torchvision refuses, is mirrored again and again.
    """

    kernel_size: Any
    sigma: Any = (0.1, 2.0)
    kind: ClassVar[int] = filtering.SEPARABLE
    draws: ClassVar[int] = 1
    measures: ClassVar[Mapping[str, Measure]] = {"sigma": Measure(0.0, 1e-3, filtering.MAX_SIGMA_PX)}

    def __post_init__(self) -> None:
        super().__post_init__()
        pair = _pair(self.kernel_size)
        if pair is None or not all(_is_odd(v) for v in pair):
            raise ValueError(
                f"GaussianBlur: kernel_size must be odd, 1 to {_MAX_TAPS} px, or two such (x, y), "
                f"got {self.kernel_size!r}"
            )
        set_field(self, "kernel_size", pair)
        set_field(self, "sigma", check_range(self, "sigma", _range(self.sigma), 1e-3, filtering.MAX_SIGMA_PX))

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        sigma = draw_range(self.sigma, u[:, 0])
        weights = np.concatenate([filtering.gaussian_weights(n, sigma) for n in self.kernel_size], axis=1)
        taps = np.broadcast_to(np.array(self.kernel_size[::-1], np.int64), (len(size), 2))
        return {**_values(np.zeros(len(size))), "weights": weights, "taps": taps}


@dataclass(frozen=True, repr=False)
class MotionBlur(FilterOp):
    """Smears along a line: the mean of ``kernel_size`` points 1 px apart about each pixel, at an angle within ``angle``
    degrees, counter-clockwise from the horizontal; a point between pixels counts bilinearly.

    ``kernel_size``: px, odd, 1..255, or (low, high), two such: then any odd size between them is as likely. ``angle``:
    one number or a range, −360..360.
    """

    kernel_size: Any = (3, 7)
    angle: Any = (0.0, 180.0)
    kind: ClassVar[int] = filtering.CONVOLVE
    draws: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        pair = _pair(self.kernel_size)
        if pair is None or not all(_is_odd(v) for v in pair) or pair[0] > pair[1]:
            raise ValueError(
                f"MotionBlur: kernel_size must be odd, 1 to {_MAX_TAPS} px, or two such, low before high, "
                f"got {self.kernel_size!r}"
            )
        set_field(self, "kernel_size", pair)
        set_field(self, "angle", check_range(self, "angle", _range(self.angle), -360.0, 360.0))

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        low, high = (v // 2 for v in self.kernel_size)
        reach = low + (u[:, 0] * (high - low + 1)).astype(np.int64)
        taps = 2 * high + 1
        weights = filtering.line_weights(taps, reach, np.radians(draw_range(self.angle, u[:, 1])))
        return {
            **_values(np.zeros(len(size))),
            "weights": weights.reshape(len(size), taps**2),
            "taps": np.full((len(size), 2), taps),
        }


@dataclass(frozen=True, repr=False)
class GaussianNoise(FilterOp):
    """Adds normal noise, drawn for each value of each channel, with a mean within ``mean`` and a deviation within
    ``sigma``, both in levels of 0..255 (−255..255, and 0..10⁴; one number or a range); rounded, where torchvision's
    ``GaussianNoise`` truncates what it adds.
    """

    mean: Any = 0.0
    sigma: Any = (5.0, 25.0)
    kind: ClassVar[int] = filtering.GAUSSIAN_NOISE
    draws: ClassVar[int] = 2
    noisy: ClassVar[bool] = True
    measures: ClassVar[Mapping[str, Measure]] = {"mean": Measure(0.0, -255.0, 255.0), "sigma": Measure(0.0, 0.0, 1e4)}

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "mean", check_range(self, "mean", _range(self.mean), -255.0, 255.0))
        set_field(self, "sigma", check_range(self, "sigma", _range(self.sigma), 0.0, 1e4))

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return _values(draw_range(self.mean, u[:, 0]), draw_range(self.sigma, u[:, 1]))


@dataclass(frozen=True, repr=False)
class SaltAndPepper(FilterOp):
    """Sets a share of the pixels within ``amount``, each drawn on its own: of these a share within ``salt`` to white,
    the others to black. Both 0..1; one number or a range.
    """

    amount: Any = (0.01, 0.06)
    salt: Any = 0.5
    kind: ClassVar[int] = filtering.SALT_PEPPER
    draws: ClassVar[int] = 2
    noisy: ClassVar[bool] = True
    measures: ClassVar[Mapping[str, Measure]] = {"amount": Measure(0.0, 0.0, 1.0)}

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("amount", "salt"):
            set_field(self, name, check_range(self, name, _range(getattr(self, name)), 0.0, 1.0))

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return _values(draw_range(self.amount, u[:, 0]), draw_range(self.salt, u[:, 1]))


@dataclass(frozen=True, repr=False)
class JpegCompression(FilterOp):
    """What JPEG leaves of a picture, at a whole quality within ``quality``, 1..100, any as likely.

    Equals libjpeg-turbo's coder and decoder with chroma at half resolution (so Pillow's ``save(quality=…)`` and
    torchvision's ``JPEG``) to the bit.
    """

    quality: Any = (40, 100)
    kind: ClassVar[int] = filtering.JPEG
    draws: ClassVar[int] = 1
    measures: ClassVar[Mapping[str, Measure]] = {"quality": Measure(100.0, 1.0, 100.0, whole=True)}

    def __post_init__(self) -> None:
        super().__post_init__()
        quality = check_range(self, "quality", _range(self.quality), 1, 100)
        if not isinstance(quality, Range):
            if any(v != int(v) for v in quality):
                raise ValueError(f"JpegCompression: quality must be whole numbers, got {self.quality!r}")
            quality = tuple(int(v) for v in quality)
        set_field(self, "quality", quality)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        if isinstance(self.quality, Range):
            return _values(np.rint(self.quality.draw(u[:, 0])))
        low, high = self.quality
        return _values(low + np.floor(u[:, 0] * (high - low + 1)))


def _values(*columns: np.ndarray) -> Params:
    values = np.zeros((len(columns[0]), 12), np.float32)
    values[:, : len(columns)] = np.stack(columns, axis=1)
    return {"values": values}


def _range(value: Any) -> Any:
    """A number stands for itself."""
    return (value, value) if isinstance(value, (int, float)) else value


def _pair(value: Any) -> tuple[Any, Any] | None:
    pair = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, (tuple, list)) else ()
    return pair if len(pair) == 2 else None


def _is_odd(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MAX_TAPS and value % 2 == 1
