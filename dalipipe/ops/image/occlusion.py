"""What hides parts of a picture, and what comes at its end.

An operator that is made with a field that does not fit raises ``ValueError``, naming operator, field, what was expected
and what came.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from dalipipe.ops.image.boxes import random_boxes
from dalipipe.ops.image.families import EraseOp, FilterOp, ImageOp, check_colour, check_symmetric
from dalipipe.policy import Measure, Params, check_range, draw_range, set_field

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_TRIES = 10


@dataclass(frozen=True, repr=False)
class RandomErasing(EraseOp):
    """Sets a random box to ``value``: area within ``scale`` (a share, 0..1), aspect (h/w, log-uniform) within
    ``ratio``.

    Zhong et al., "Random erasing data augmentation" (AAAI 2020), drawn as torchvision does: the first of ten boxes that
    is smaller than the picture both ways. ``value`` counts in 0..255 before `Normalize`, in normalised units after it;
    "random" is noise, as `EraseOp` says. ``count``: 1..64 boxes, or a number of them within (low, high); they share
    the area, as in timm.
    """

    scale: Any = (0.02, 0.33)
    ratio: Any = (0.3, 3.3)
    count: int | tuple[int, int] = 1
    value: Any = field(default=0.0, kw_only=True)
    p: float = field(default=0.5, kw_only=True)

    measures: ClassVar[Mapping[str, Measure]] = {"scale": Measure(0.0, 0.0, 1.0)}

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "scale", check_range(self, "scale", self.scale, 0.0, 1.0))
        set_field(self, "ratio", check_range(self, "ratio", self.ratio, 1e-6, 1e6))
        _check_value(self)
        low, high = _check_count(self)
        set_field(self, "count", low if low == high else (low, high))

    @property
    def draws(self) -> int:  # type: ignore[override]
        return _check_count(self)[1] * (2 * _TRIES + 2) + 1

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        low, high = _check_count(self)
        n, count = len(size), low + (u[:, -1] * (high - low + 1)).astype(np.int64)
        tries = u[:, : 2 * _TRIES * high].reshape(n * high, 2 * _TRIES)
        places = u[:, 2 * _TRIES * high : -1].reshape(n * high, 2)
        size = np.repeat(size, high, axis=0)
        boxes = random_boxes(tries, size, self.scale, self.ratio, 1.0 / np.repeat(count, high))
        fits = np.all(boxes < size[:, None], axis=2)
        box = boxes[np.arange(n * high), np.argmax(fits, axis=1)]
        corner = np.floor(places * (size - box + 1)).astype(np.int64)
        box = np.where(np.any(fits, axis=1)[:, None], np.concatenate([corner, box], axis=1), 0).reshape(n, high, 4)
        return {"boxes": np.where((np.arange(high) < count[:, None])[:, :, None], box, 0)}


@dataclass(frozen=True, repr=False)
class Cutout(EraseOp):
    """Sets ``count`` (1..64) squares of ``size`` px a side to ``value``; centred anywhere in the picture, so often only
    partly in it.

    DeVries, Taylor, "Improved regularization of convolutional neural networks with cutout" (2017). ``value`` as in
    `RandomErasing`.
    """

    size: int = 16
    count: int = 1
    value: Any = field(default=0.0, kw_only=True)

    measures: ClassVar[Mapping[str, Measure]] = {"size": Measure(0.0, 1.0, 1 << 20, whole=True)}

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_whole(self, "size", 1, 1 << 20)
        _check_whole(self, "count", 1, _MAX_COUNT)
        _check_value(self)

    @property
    def draws(self) -> int:  # type: ignore[override]
        return 2 * self.count

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        centre = np.floor(u.reshape(-1, self.count, 2) * size[:, None]).astype(np.int64)
        return {"boxes": np.concatenate([centre - self.size // 2, np.full_like(centre, self.size)], axis=2)}


@dataclass(frozen=True, repr=False)
class GridMask(FilterOp):
    """Sets the squares of a grid to ``value`` (0..255): cells of ``unit`` px, of which ``keep`` (a share of the side)
    stays, turned by ``angle`` degrees and shifted by any part of a cell.

    ``unit`` (2..10⁶), ``keep`` (0..1): one number or a range, drawn for each sample; ``angle``: a range within
    −360..360, or a number a for (−a, a). ``value``: one, or (R, G, B).

    Chen et al., "GridMask data augmentation" (2020), whose square per cell leaves 1 − (1 − keep)² of the picture.
    """

    unit: Any = (96.0, 224.0)
    keep: Any = 0.6
    angle: Any = (0.0, 0.0)
    value: Any = 0.0
    draws: ClassVar[int] = 5
    kind: ClassVar[int] = 6
    measures: ClassVar[Mapping[str, Measure]] = {"keep": Measure(1.0, 0.0, 1.0)}

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low, high in (("unit", 2.0, 1e6), ("keep", 0.0, 1.0)):
            value = getattr(self, name)
            value = (value, value) if isinstance(value, (int, float)) else value
            set_field(self, name, check_range(self, name, value, low, high))
        set_field(self, "angle", check_symmetric(self, "angle", 360.0))
        check_colour(self, "value", self.value)
        if not ((np.asarray(self.value) >= 0) & (np.asarray(self.value) <= 255)).all():
            raise ValueError(f"GridMask: value must lie in [0, 255], got {self.value!r}")

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        unit, keep = draw_range(self.unit, u[:, 0]), draw_range(self.keep, u[:, 1])
        angle = np.radians(draw_range(self.angle, u[:, 2]))
        values = np.zeros((len(size), 12), np.float32)
        values[:, 0], values[:, 1] = unit, unit * keep
        values[:, 2:4] = u[:, 3:5] * unit[:, None]
        values[:, 4], values[:, 5] = np.cos(angle), np.sin(angle)
        values[:, 6:9] = self.value
        return {"values": values}


@dataclass(frozen=True, repr=False)
class Normalize(ImageOp):
    """(value / 255 − ``mean``) / ``std`` per channel; ImageNet's by default. Comes last (only erasing and mixing
    may follow). ``mean``, ``std``: one number or three (R, G, B), of values counted from 0 to 1; std > 0.
    """

    mean: Any = IMAGENET_MEAN
    std: Any = IMAGENET_STD

    stays: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("mean", "std"):
            value = getattr(self, name)
            try:
                value = tuple(float(v) for v in (value if isinstance(value, (tuple, list)) else (value,)))
            except (TypeError, ValueError):
                raise ValueError(f"Normalize: {name} must be a number or three (R, G, B), got {value!r}") from None
            set_field(self, name, value)
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise ValueError(f"Normalize: mean and std must both have 1 or 3 values, got {self.mean} and {self.std}")
        if not all(math.isfinite(v) for v in self.mean) or not all(math.isfinite(v) and v > 0 for v in self.std):
            raise ValueError(f"Normalize: mean must be finite and std positive, got {self.mean} and {self.std}")
        if self.p != 1.0:
            raise ValueError(f"Normalize: applies to every sample, so p must be 1, got {self.p}")

    @property
    def scale_bias(self) -> tuple[np.ndarray, np.ndarray]:
        """float32 [C] each: out = scale·value + bias, value in 0..255."""
        mean, std = np.array(self.mean), np.array(self.std)
        return (1.0 / (255.0 * std)).astype(np.float32), (-mean / std).astype(np.float32)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return {}

    def reference(self, x: np.ndarray, params: Params) -> np.ndarray:
        scale, bias = self.scale_bias
        return x.astype(np.float32) * scale + bias


# What they share ---------------------------------------------------------------------------------------------------

_MAX_COUNT = 64


def _check_value(op: Any) -> None:
    if op.value != "random":
        if isinstance(op.value, str):
            raise ValueError(
                f'{type(op).__name__}: value must be a number, three (R, G, B) or "random", got {op.value!r}'
            )
        check_colour(op, "value", op.value)


def _check_whole(op: Any, name: str, low: int, high: int) -> None:
    value = getattr(op, name)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{type(op).__name__}: {name} must be a whole number in [{low}, {high}], got {value!r}")


def _check_count(op: Any) -> tuple[int, int]:
    """(low, high)."""
    count = (op.count, op.count) if isinstance(op.count, int) else op.count
    if (
        not isinstance(count, (tuple, list))
        or len(count) != 2
        or not all(isinstance(v, int) and not isinstance(v, bool) for v in count)
        or not 1 <= count[0] <= count[1] <= _MAX_COUNT
    ):
        raise ValueError(
            f"{type(op).__name__}: count must be a whole number in [1, {_MAX_COUNT}] or (low, high), got {op.count!r}"
        )
    return tuple(count)
