"""Filters: what looks at a pixel's neighbours, or adds noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from dalipipe.ops import filtering
from dalipipe.ops.image.families import FilterOp
from dalipipe.policy import Params, check_range, draw_range, set_field


@dataclass(frozen=True, repr=False)
class Sharpness(FilterOp):
    """Blends with a blurred picture by a factor f: 0 is blurred, 1 changes nothing, 2 sharpens; as torchvision's
    ``adjust_sharpness``.
    """

    factor: Any = (0.5, 1.5)
    kind: ClassVar[int] = filtering.SHARPEN
    draws: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "factor", check_range(self, "factor", self.factor, 0.0))

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return {"values": _values(draw_range(self.factor, u[:, 0]))}


@dataclass(frozen=True, repr=False)
class GaussianBlur(FilterOp):
    """A gaussian of deviation ``sigma`` px, cut to ``kernel_size`` (odd; or height, width); as torchvision's."""

    kernel_size: Any = 5
    sigma: Any = (0.1, 2.0)
    kind: ClassVar[int] = filtering.SEPARABLE
    draws: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        size = self.kernel_size if isinstance(self.kernel_size, tuple | list) else (self.kernel_size,) * 2
        if len(size) != 2 or not all(isinstance(k, int) and k > 0 and k % 2 for k in size):
            raise ValueError(
                f"GaussianBlur: kernel_size must be an odd whole number or (height, width) of them, got "
                f"{self.kernel_size!r}"
            )
        set_field(self, "kernel_size", tuple(size))
        set_field(self, "sigma", check_range(self, "sigma", self.sigma, 1e-6, filtering.MAX_SIGMA_PX))

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        height, width = self.kernel_size
        sigmas = draw_range(self.sigma, u[:, 0]).tolist()
        weights = [
            np.concatenate([filtering.gaussian_weights(taps, sigma) for taps in (width, height)]) for sigma in sigmas
        ]
        return {
            "values": _values(np.zeros(len(u))),
            "taps": np.tile(np.array([height, width]), (len(u), 1)),
            "weights": np.array(weights, np.float32).reshape(len(u), width + height),
        }


@dataclass(frozen=True, repr=False)
class MotionBlur(FilterOp):
    """Smears along a line of ``kernel_size`` px (odd) at an angle drawn within ``angle`` degrees."""

    kernel_size: int = 7
    angle: Any = (0.0, 180.0)
    kind: ClassVar[int] = filtering.CONVOLVE
    draws: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.kernel_size, int) or self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"MotionBlur: kernel_size must be an odd whole number, got {self.kernel_size!r}")
        set_field(self, "angle", check_range(self, "angle", self.angle))

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        k, half = self.kernel_size, self.kernel_size // 2
        angle = np.radians(draw_range(self.angle, u[:, 0]))[:, None, None]
        y, x = np.mgrid[-half : half + 1, -half : half + 1]
        # A pixel weighs as much as it lies on a line one pixel wide.
        across = np.abs(x * np.sin(angle) + y * np.cos(angle))
        along = np.abs(x * np.cos(angle) - y * np.sin(angle))
        weights = np.clip(1 - across, 0, 1) * np.clip(half + 1 - along, 0, 1)
        weights /= weights.sum(axis=(1, 2), keepdims=True)
        return {
            "values": _values(np.zeros(len(u))),
            "taps": np.full((len(u), 2), k),
            "weights": weights.reshape(len(u), k * k).astype(np.float32),
        }


@dataclass(frozen=True, repr=False)
class GaussianNoise(FilterOp):
    """Adds normal noise to every element: deviation drawn within ``sigma``, about ``mean``, both in 0..255."""

    mean: float = 0.0
    sigma: Any = (5.0, 25.0)
    kind: ClassVar[int] = filtering.GAUSSIAN_NOISE
    noisy: ClassVar[bool] = True
    draws: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.mean, int | float) or not math.isfinite(self.mean):
            raise ValueError(f"GaussianNoise: mean must be a finite number, got {self.mean!r}")
        set_field(self, "sigma", check_range(self, "sigma", self.sigma, 0.0, 1e4))

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return {"values": _values(np.full(len(u), self.mean), draw_range(self.sigma, u[:, 0]))}


@dataclass(frozen=True, repr=False)
class SaltAndPepper(FilterOp):
    """Sets a share of the pixels, drawn within ``amount``, to white (a share ``salt`` of them) or black."""

    amount: Any = (0.01, 0.06)
    salt: float = 0.5
    kind: ClassVar[int] = filtering.SALT_PEPPER
    noisy: ClassVar[bool] = True
    draws: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "amount", check_range(self, "amount", self.amount, 0.0, 1.0))
        check_range(self, "salt", (self.salt, self.salt), 0.0, 1.0)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return {"values": _values(draw_range(self.amount, u[:, 0]), np.full(len(u), self.salt))}


@dataclass(frozen=True, repr=False)
class JpegCompression(FilterOp):
    """What JPEG of a ``quality`` (1..100, drawn within) leaves of a picture: libjpeg-turbo's, with halved colour."""

    quality: Any = (40, 100)
    kind: ClassVar[int] = filtering.JPEG
    draws: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "quality", check_range(self, "quality", self.quality, 1, 100))

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        if isinstance(self.quality, tuple):
            low, high = self.quality
            quality = low + np.minimum(np.floor(u[:, 0] * (high - low + 1)), high - low)
        else:
            quality = draw_range(self.quality, u[:, 0])
        return {"values": _values(np.rint(quality))}


def _values(*columns: np.ndarray) -> np.ndarray:
    """float32 [N, 12]: `FilterOp` values."""
    values = np.zeros((len(columns[0]), 12), np.float32)
    for i, column in enumerate(columns):
        values[:, i] = column
    return values
