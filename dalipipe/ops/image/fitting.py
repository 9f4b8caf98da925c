"""Sizes that other libraries choose: of detection, of torchvision's segmentation recipes, of timm.

``interpolation``: "bilinear", "bicubic", "nearest" or "random" (bilinear or bicubic for each sample). ``fill``: one
value or (R, G, B), 0..255.

An operator that is made with a field that does not fit raises ``ValueError``, naming operator, field, what was expected
and what came.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from dalipipe.ops.image.families import (
    RESAMPLES,
    Colour,
    CropOp,
    Interpolation,
    ResizeOp,
    Size,
    check_fill,
    check_interpolation,
    check_size,
    draw_interpolation,
    whole,
)
from dalipipe.policy import Measure, Params, check_range, draw_range, set_field


@dataclass(frozen=True, repr=False)
class PadTo(CropOp):
    """``fill`` below and to the right of a picture that is smaller than ``size`` px; a larger side stays.

    As ``PadIfSmaller`` of torchvision's segmentation recipes.
    """

    size: Size
    fill: Colour = 0

    stays: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "size", check_size(self, "size", self.size))
        check_fill(self)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return {"box": whole(np.maximum(size, self.size))}


@dataclass(frozen=True, repr=False)
class ShrinkTo(ResizeOp):
    """Resizes the shorter side to ``size`` px where it is longer, the ratio kept; a smaller picture stays."""

    size: int
    interpolation: Interpolation = "bilinear"
    draws: ClassVar[int] = 1
    stays: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size(self, "size", self.size)
        if not isinstance(self.size, int):
            raise ValueError(f"ShrinkTo: size must be the shorter side, a whole number of px, got {self.size!r}")
        check_interpolation(self)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        shorter = size.min(axis=1, keepdims=True)
        shrunk = np.where(size == shorter, self.size, (self.size * size / shorter).astype(np.int64))
        return {
            "box": whole(size),
            "resized": np.where(shorter > self.size, shrunk, size),
            "resample": draw_interpolation(RESAMPLES, self.interpolation, u[:, 0]),
        }


@dataclass(frozen=True, repr=False)
class ZoomOut(CropOp):
    """Puts the picture anywhere on a canvas of ``fill`` that is larger by a factor within ``side_range``, 1..1000,
    both ways.

    Liu et al., "SSD: Single shot multibox detector" (ECCV 2016), as torchvision's ``RandomZoomOut``.
    """

    side_range: Any = (1.0, 4.0)
    fill: Colour = 0
    p: float = field(default=0.5, kw_only=True)
    draws: ClassVar[int] = 3
    measures: ClassVar[Mapping[str, Measure]] = {"side_range": Measure(1.0, 1.0, 1e3, "log")}

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "side_range", check_range(self, "side_range", self.side_range, 1.0, 1e3))
        check_fill(self)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        canvas = (size * draw_range(self.side_range, u[:, 0])[:, None]).astype(np.int64)
        before = ((canvas - size) * u[:, [2, 1]]).astype(np.int64)
        return {"box": np.concatenate([-before, canvas], axis=1)}


@dataclass(frozen=True, repr=False)
class RandomShortestSize(ResizeOp):
    """Resizes the shorter side to one of the ``sizes`` px, any as likely; less where the longer would exceed
    ``max_size`` px.

    As torchvision's of that name, and the detectors' usual way with sizes.
    """

    sizes: tuple[int, ...]
    max_size: int | None = None
    interpolation: Interpolation = "bilinear"
    draws: ClassVar[int] = 2
    stays: ClassVar[bool] = True

    @property
    def measures(self) -> Mapping[str, Measure]:  # type: ignore[override]
        middle = sorted(self.sizes)[len(self.sizes) // 2]
        return {"sizes": Measure(middle, 1.0, 1 << 20, whole=True)}

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = (self.sizes,) if isinstance(self.sizes, int) else tuple(self.sizes)
        if not sizes:
            raise ValueError("RandomShortestSize: sizes must be one or more whole numbers of pixels, got none")
        set_field(self, "sizes", tuple(check_size(self, "sizes", size)[0] for size in sizes))
        if self.max_size is not None:
            check_size(self, "max_size", self.max_size)
        check_interpolation(self)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        short = np.array(self.sizes)[(u[:, 0] * len(self.sizes)).astype(np.int64)]
        factor = short / size.min(axis=1)
        if self.max_size is not None:
            factor = np.minimum(factor, self.max_size / size.max(axis=1))
        return _resized(size, size * factor[:, None], self.interpolation, u[:, 1])


@dataclass(frozen=True, repr=False)
class ScaleJitter(ResizeOp):
    """Resizes to fit into ``size`` px, the ratio kept, times a factor within ``scale``, 0.001..1000.

    Ghiasi et al., "Simple copy-paste is a strong data augmentation method for instance segmentation" (CVPR 2021), as
    torchvision's of that name.
    """

    size: Size
    scale: Any = (0.1, 2.0)
    interpolation: Interpolation = "bilinear"
    draws: ClassVar[int] = 2
    stays: ClassVar[bool] = True
    measures: ClassVar[Mapping[str, Measure]] = {"scale": Measure(1.0, 1e-3, 1e3, "log")}

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "size", check_size(self, "size", self.size))
        set_field(self, "scale", check_range(self, "scale", self.scale, 1e-3, 1e3))
        check_interpolation(self)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        # torchvision compares the height with the second of its sizes, and the width with the first.
        factor = np.min(np.array(self.size)[::-1] / size, axis=1) * draw_range(self.scale, u[:, 0])
        return _resized(size, size * factor[:, None], self.interpolation, u[:, 1])


@dataclass(frozen=True, repr=False)
class ResizeKeepRatio(ResizeOp):
    """Resizes so that the picture covers ``size`` px (``longest`` 0) or fits into it (1), or in between, its ratio
    kept.

    With probability ``scale_p`` (0..1) it comes out smaller than that, or larger, by a factor within ``scale``; where
    ``scale_is_area``, that is by how much the part which ``size`` then cuts out of it changes in area. With probability
    ``ratio_p`` (0..1) it is stretched by an aspect ratio within ``ratio``, log-uniform. As timm's of that name.
    """

    size: Size
    longest: float = 0.0
    interpolation: Interpolation = "bilinear"
    scale: Any = (0.85, 1.05)
    scale_p: float = 0.0
    scale_is_area: bool = False
    ratio: Any = (0.9, 1.11)
    ratio_p: float = 0.0
    draws: ClassVar[int] = 5
    stays: ClassVar[bool] = True
    measures: ClassVar[Mapping[str, Measure]] = {
        "scale": Measure(1.0, 1e-3, 1e3, "log"),
        "ratio": Measure(1.0, 1e-3, 1e3, "log"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "size", check_size(self, "size", self.size))
        for name in ("scale", "ratio"):
            set_field(self, name, check_range(self, name, getattr(self, name), 1e-3, 1e3))
        for name in ("longest", "scale_p", "ratio_p"):
            value = getattr(self, name)
            check_range(self, name, (value, value), 0.0, 1.0)
        check_interpolation(self)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        by_side = size / np.array(self.size)
        ratio = by_side.max(axis=1) * self.longest + by_side.min(axis=1) * (1.0 - self.longest)
        scale = draw_range(self.scale, u[:, 1])
        scale = np.where(u[:, 0] < self.scale_p, 1.0 / np.sqrt(scale) if self.scale_is_area else scale, 1.0)
        low, high = self.ratio
        aspect = np.exp(draw_range((math.log(low), math.log(high)), u[:, 3]))
        aspect = np.where(u[:, 2] < self.ratio_p, np.sqrt(aspect), 1.0)
        factor = np.stack([scale / aspect, scale * aspect], axis=1)
        return _resized(size, np.rint(size * factor / ratio[:, None]), self.interpolation, u[:, 4])


def _resized(size: np.ndarray, wanted: np.ndarray, interpolation: str, u: np.ndarray) -> Params:
    resized = np.maximum(wanted.astype(np.int64), 1)
    return {"box": whole(size), "resized": resized, "resample": draw_interpolation(RESAMPLES, interpolation, u)}
