"""Families of image operators. A family's parameters have one form, and that is what folds: any run of crops, flips and
warps becomes one sampling, any run of linear colour one matrix, any run of tables one table.

An operator of a family says how its parameters are drawn; folding, engines and reference have it then. Sizes and boxes
are in pixels; colours in 0..255, as R, G, B.

An operator that is made with a field that does not fit raises ``ValueError``, naming operator, field, what was expected
and what came.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from dalipipe.ops import filtering, pixels
from dalipipe.policy import Op, Params, check_range

Size = int | tuple[int, int]
Colour = float | tuple[float, float, float]
Interpolation = Literal["bilinear", "bicubic", "nearest", "random"]

RESAMPLES = {"bilinear": 0, "bicubic": 1, "nearest": 2}
"""`Resample` of ``csrc/ops.h``."""
WARPS = {"bilinear": 1, "nearest": 2, "bicubic": 3}
"""`Warp` of ``csrc/ops.h``."""


class ImageOp(Op):
    modality: ClassVar[str] = "image"


class ResizeOp(ImageOp):
    """Cuts a box out of the picture and resizes it: ``box`` int64 [N, 4] as y, x, h, w inside it, ``resized`` int64
    [N, 2], ``resample`` int64 [N] (`RESAMPLES`).
    """

    def output_size(self, params: Params, size: np.ndarray) -> np.ndarray:
        return params["resized"]

    def reference(self, x: np.ndarray, params: Params) -> np.ndarray:
        y, left, h, w = params["box"]
        height, width = (int(v) for v in params["resized"])
        return pixels.resize(x[y : y + h, left : left + w], height, width, resample=int(params["resample"]))


class CropOp(ImageOp):
    """Cuts a box that may leave the picture: ``box`` int64 [N, 4] as y, x, h, w; ``fill`` stands outside."""

    fill: Any = 0

    def output_size(self, params: Params, size: np.ndarray) -> np.ndarray:
        return params["box"][:, 2:]

    def reference(self, x: np.ndarray, params: Params) -> np.ndarray:
        y, left, h, w = (int(v) for v in params["box"])
        return pixels.crop(x, y, left, h, w, fill_rgb(self.fill))


class FlipOp(ImageOp):
    """``flip`` bool [N, 2]: up-down, left-right."""

    def reference(self, x: np.ndarray, params: Params) -> np.ndarray:
        up_down, left_right = params["flip"]
        return x[:: -1 if up_down else 1, :: -1 if left_right else 1]


class WarpOp(ImageOp):
    """``matrix`` float64 [N, 3, 3]: output index (x, y, 1) → input index, homogeneous, pixel centres at integers;
    ``warp`` int64 [N] (`WARPS`). The size stays; ``fill`` stands outside. The identity moves nothing.
    """

    fill: Any = 0

    def reference(self, x: np.ndarray, params: Params) -> np.ndarray:
        if (params["matrix"] == np.eye(3)).all():
            return x
        return pixels.warp(x, params["matrix"], fill_rgb(self.fill), warp=int(params["warp"]))


class ElasticOp(ImageOp):
    """Moves every pixel by smooth noise: ``alpha`` float64 [N, 2] px (x, y), ``sigma`` float64 [N, 2] px, ``warp``
    int64 [N] (`WARPS`), ``noise`` uint32 [N, 5]. The size stays; ``fill`` stands outside.
    """

    fill: Any = 0
    noisy: ClassVar[bool] = True

    def reference(self, x: np.ndarray, params: Params) -> np.ndarray:
        field = filtering.displacement(x.shape[:2], params["alpha"], params["sigma"], params["noise"])
        return pixels.warp(x, np.eye(3), fill_rgb(self.fill), warp=int(params["warp"]), displacement=field)


class FilterOp(ImageOp):
    """A filter of ``csrc/filter.h`` over the whole picture: ``values`` float32 [N, 12]; where it has taps, ``weights``
    float32 [N, K] and ``taps`` int64 [N, 2] (height, width) of those used; ``noise`` uint32 [N, 5] where it is noisy.
    """

    kind: ClassVar[int]
    """`Filter` of ``csrc/ops.h``."""

    def reference(self, x: np.ndarray, params: Params) -> np.ndarray:
        return filtering.apply(self.kind, x, params)


class StretchOp(ImageOp):
    """Every channel through a table made from its histogram; no parameters."""

    stretch: ClassVar[int]
    """`Stretch` of ``csrc/ops.h``."""

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return {}

    def reference(self, x: np.ndarray, params: Params) -> np.ndarray:
        return pixels.stretch(x, self.stretch)


class ColourOp(ImageOp):
    """``matrix`` M and ``mean_matrix`` K float64 [N, 3, 3], ``offset`` float64 [N, 3]: out = M·rgb + K·mean(rgb) +
    offset, truncated. Pictures of one channel count as r = g = b, with the parameters that `of_grey` gives.
    """

    def of_grey(self, params: Params) -> Params | None:
        """What becomes of the parameters where pictures have one channel; ``None``: nothing happens to them."""
        return params

    def reference(self, x: np.ndarray, params: Params) -> np.ndarray:
        used = self.of_grey(params) if x.shape[2] == 1 else params
        return x if used is None else pixels.colour(x, used["matrix"], used["mean_matrix"], used["offset"])


class HueOp(ImageOp):
    """``hue`` float64 [N]: turns about the colour wheel, −0.5..0.5."""

    def reference(self, x: np.ndarray, params: Params) -> np.ndarray:
        return pixels.hue(x, float(params["hue"]))


class TableOp(ImageOp):
    """``table`` uint8 [N, 256]: old value → new value, the same in every channel."""

    def reference(self, x: np.ndarray, params: Params) -> np.ndarray:
        return params["table"][x]


@dataclass(frozen=True, repr=False)
class EraseOp(ImageOp):
    """``boxes`` int64 [N, B, 4] as y, x, h, w (h or w below 1: none; what leaves the picture is clipped), in order, set
    to ``value``: 0..255, or in normalised units after `Normalize`. "random": to normal noise, of deviation 1 after
    `Normalize`, else of 0..255 about their middle.
    """

    value: Any = 0.0

    @property
    def noisy(self) -> bool:  # type: ignore[override]
        return isinstance(self.value, str)

    def erased(self, normalised: bool) -> tuple[np.ndarray, float]:
        """The colour float32 [3] and the noise's standard deviation."""
        if self.noisy:
            return (np.zeros(3, np.float32), 1.0) if normalised else (np.full(3, 127.5, np.float32), 63.75)
        return np.broadcast_to(np.asarray(self.value, np.float32), 3), 0.0

    def erase(self, x: np.ndarray, params: Params, *, normalised: bool) -> np.ndarray:
        """``x`` uint8 or float32 [H, W, C], in 0..255 unless ``normalised``."""
        normals = filtering.normals(params["noise"], x.shape) if self.noisy else None
        return pixels.erase(x, params["boxes"], *self.erased(normalised), normals)

    def reference(self, x: np.ndarray, params: Params) -> np.ndarray:
        return self.erase(x, params, normalised=x.dtype != np.uint8)


@dataclass(frozen=True, repr=False)
class BlendOp(ImageOp):
    """Where a picture is kept, and where chains that start from it are added up (AugMix).

    ``step`` "keep": the picture as it is here is kept, and the first chain starts. "add": a chain ends; ``weight`` ·
    its picture is added, and the next starts from the kept picture. "last": likewise the last chain, then
    ``kept_weight`` · kept picture; the sum, truncated, goes on. ``weight``, ``kept_weight`` float64 [N].
    """

    step: str = "keep"

    def reference(self, x: np.ndarray, params: Params) -> np.ndarray:
        raise TypeError("a blend needs the picture that was kept: it is applied by the reference engine")


# What the operators share ------------------------------------------------------------------------------------------


def check_size(op: Op, name: str, value: Any) -> tuple[int, int]:
    """An int, or (height, width); both at least 1."""
    pair = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, (tuple, list)) else ()
    if len(pair) != 2 or not all(isinstance(v, int) and not isinstance(v, bool) and 1 <= v <= 1 << 20 for v in pair):
        raise ValueError(
            f"{type(op).__name__}: {name} must be a whole number of pixels ≥ 1 or (height, width), got {value!r}"
        )
    return pair


def check_number(op: Any, name: str, low: float, high: float) -> float:
    """A field's number in [low, high]."""
    value = getattr(op, name)
    if not isinstance(value, (int, float)) or not low <= value <= high:  # also true for NaN
        raise ValueError(f"{type(op).__name__}: {name} must be a number in [{low:g}, {high:g}], got {value!r}")
    return float(value)


def check_symmetric(op: Any, name: str, limit: float = math.inf) -> Any:
    """A range, or a number a that means (−a, a)."""
    value = getattr(op, name)
    if isinstance(value, (int, float)):
        value = (0.0 - abs(value), abs(value))
    return check_range(op, name, value, -limit, limit)


def check_colour(op: Op, name: str, value: Any) -> None:
    values = value if isinstance(value, tuple) else (value,)
    if len(values) not in (1, 3) or not all(isinstance(v, (int, float)) and math.isfinite(v) for v in values):
        raise ValueError(f"{type(op).__name__}: {name} must be a number or three (R, G, B), got {value!r}")


def check_fill(op: Any) -> None:
    check_colour(op, "fill", op.fill)
    if not (np.asarray(op.fill) >= 0).all() or not (np.asarray(op.fill) <= 255).all():
        raise ValueError(f"{type(op).__name__}: fill must lie in [0, 255], got {op.fill!r}")


def check_interpolation(op: Any) -> None:
    if op.interpolation not in (*WARPS, "random"):
        raise ValueError(
            f'{type(op).__name__}: interpolation must be "bilinear", "bicubic", "nearest" or "random" (bilinear or '
            f"bicubic), got {op.interpolation!r}"
        )


def draw_interpolation(numbers: dict[str, int], interpolation: str, u: np.ndarray) -> np.ndarray:
    """int64 [N]: of `RESAMPLES` or `WARPS`; ``u`` float64 [N] decides where it is random."""
    if interpolation == "random":
        return np.where(u < 0.5, numbers["bilinear"], numbers["bicubic"])
    return np.full(len(u), numbers[interpolation])


def fill_rgb(fill: Colour) -> np.ndarray:
    """uint8 [3]."""
    return np.broadcast_to(np.rint(np.asarray(fill)).astype(np.uint8), 3)


def whole(size: np.ndarray) -> np.ndarray:
    """The box int64 [N, 4] that is the picture."""
    return np.concatenate([np.zeros_like(size), size], axis=1)


def linear_colour(
    matrix: np.ndarray, mean_matrix: np.ndarray | None = None, offset: np.ndarray | None = None
) -> Params:
    """A `ColourOp`'s parameters; what is not given does nothing."""
    n = len(matrix)
    return {
        "matrix": matrix,
        "mean_matrix": np.zeros((n, 3, 3)) if mean_matrix is None else mean_matrix,
        "offset": np.zeros((n, 3)) if offset is None else offset,
    }
