"""Image operators. Sizes and boxes are in pixels; colours in 0..255, as R, G, B.

An operator belongs to one of a few families, and a family's parameters have one form. That is what folds: any run of
crops, flips and warps becomes one sampling pass, any run of linear colour one matrix, any run of tables one table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from dalipipe.ops import pixels
from dalipipe.policy import Op, Params, check_range, set_field

Size = int | tuple[int, int]
Colour = float | tuple[float, float, float]
Interpolation = Literal["bilinear", "nearest"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


# Families ----------------------------------------------------------------------------------------------------------


class ImageOp(Op):
    modality: ClassVar[str] = "image"


class ResizeOp(ImageOp):
    """Cuts a box out of the picture and resizes it: ``box`` int64 [N, 4] as y, x, h, w inside it, ``resized`` int64
    [N, 2].
    """

    def output_size(self, params: Params, size: np.ndarray) -> np.ndarray:
        return params["resized"]

    def identity(self, size: np.ndarray) -> Params:
        return {"box": _whole(size), "resized": size}

    def reference(self, x: np.ndarray, params: Params) -> np.ndarray:
        y, left, h, w = params["box"]
        return pixels.resize(x[y : y + h, left : left + w], *(int(v) for v in params["resized"]))


class CropOp(ImageOp):
    """Cuts a box that may leave the picture: ``box`` int64 [N, 4] as y, x, h, w; ``fill`` stands outside."""

    fill: Any = 0

    def output_size(self, params: Params, size: np.ndarray) -> np.ndarray:
        return params["box"][:, 2:]

    def identity(self, size: np.ndarray) -> Params:
        return {"box": _whole(size)}

    def reference(self, x: np.ndarray, params: Params) -> np.ndarray:
        y, left, h, w = (int(v) for v in params["box"])
        return pixels.crop(x, y, left, h, w, fill_rgb(self.fill))


class FlipOp(ImageOp):
    """``flip`` bool [N, 2]: up-down, left-right."""

    def identity(self, size: np.ndarray) -> Params:
        return {"flip": np.zeros((len(size), 2), bool)}

    def reference(self, x: np.ndarray, params: Params) -> np.ndarray:
        up_down, left_right = params["flip"]
        return x[:: -1 if up_down else 1, :: -1 if left_right else 1]


class WarpOp(ImageOp):
    """``matrix`` float64 [N, 2, 3]: output index (x, y, 1) → input index, pixel centres at integers; the size stays."""

    fill: Any = 0
    interpolation: Any = "bilinear"

    def identity(self, size: np.ndarray) -> Params:
        return {"matrix": np.broadcast_to(np.eye(2, 3), (len(size), 2, 3))}

    def reference(self, x: np.ndarray, params: Params) -> np.ndarray:
        if (params["matrix"] == np.eye(2, 3)).all():
            return x
        return pixels.warp(x, params["matrix"], fill_rgb(self.fill), nearest=self.interpolation == "nearest")


class ColourOp(ImageOp):
    """``matrix`` M and ``mean_matrix`` K float64 [N, 3, 3], ``offset`` float64 [N, 3]: out = M·rgb + K·mean(rgb) +
    offset.
    """

    def identity(self, size: np.ndarray) -> Params:
        n = len(size)
        return _colour(np.broadcast_to(np.eye(3), (n, 3, 3)))

    def reference(self, x: np.ndarray, params: Params) -> np.ndarray:
        return pixels.colour(x, params["matrix"], params["mean_matrix"], params["offset"])


class TableOp(ImageOp):
    """``table`` uint8 [N, 256]: old value → new value, the same in every channel."""

    def identity(self, size: np.ndarray) -> Params:
        return {"table": np.broadcast_to(np.arange(256, dtype=np.uint8), (len(size), 256))}

    def reference(self, x: np.ndarray, params: Params) -> np.ndarray:
        return params["table"][x]


class EraseOp(ImageOp):
    """``box`` int64 [N, 4] as y, x, h, w (h = 0: none), set to ``value``: 0..255, or normalised after `Normalize`."""

    value: Any = 0.0

    def identity(self, size: np.ndarray) -> Params:
        return {"box": np.zeros((len(size), 4), np.int64)}

    def reference(self, x: np.ndarray, params: Params) -> np.ndarray:
        y, left, h, w = params["box"]
        value = np.broadcast_to(np.asarray(self.value, np.float32), 3)[: x.shape[2]]
        x = x.copy()
        x[y : y + h, left : left + w] = pixels.round_to_uint8(value) if x.dtype == np.uint8 else value
        return x


# Crops and sizes ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Resize(ResizeOp):
    """Resizes to ``size``: (height, width), or the shorter side to an int with the ratio kept.

    Antialiased bilinear (triangle filter) in fixed point: bit-equal to torchvision's ``resize`` on uint8 tensors.
    """

    size: Size

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.size, int):
            check_size(self, "size", self.size)
        else:
            set_field(self, "size", check_size(self, "size", self.size))

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        if isinstance(self.size, int):
            short, long = size.min(axis=1), size.max(axis=1)
            new_long = (self.size * long / short).astype(np.int64)
            resized = np.where(size == short[:, None], self.size, new_long[:, None])
        else:
            resized = np.broadcast_to(np.array(self.size, np.int64), size.shape)
        return {"box": _whole(size), "resized": resized}


@dataclass(frozen=True, repr=False)
class CenterCrop(CropOp):
    """The middle of the picture, of ``size``; a smaller picture gets ``fill`` around it, as in torchvision."""

    size: Size
    fill: Colour = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "size", check_size(self, "size", self.size))
        check_fill(self)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        want = np.array(self.size, np.int64)
        # torchvision pads a smaller picture by ⌊missing/2⌋ before, and rounds halves to even when it cuts.
        corner = np.where(size < want, -((want - size) // 2), np.rint((size - want) / 2.0).astype(np.int64))
        return {"box": np.concatenate([corner, np.broadcast_to(want, size.shape)], axis=1)}


@dataclass(frozen=True, repr=False)
class RandomCrop(CropOp):
    """A box of ``size`` anywhere in the picture, after ``padding`` px of ``fill`` on every side.

    A picture that is still too small is refused, or padded up where ``pad_if_needed``.
    """

    size: Size
    padding: int = 0
    pad_if_needed: bool = False
    fill: Colour = 0
    draws: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "size", check_size(self, "size", self.size))
        if not isinstance(self.padding, int) or self.padding < 0:
            raise ValueError(f"RandomCrop: padding must be a whole number of pixels ≥ 0, got {self.padding!r}")
        check_fill(self)

    def misfits(self, size: np.ndarray) -> np.ndarray | None:
        if self.pad_if_needed:
            return None
        return np.any(size + 2 * self.padding < np.array(self.size), axis=1)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        want = np.array(self.size, np.int64)
        room = size + 2 * self.padding - want
        # As torchvision: a side that is too small gets the missing pixels before and after it, then the cut is drawn.
        missing = np.maximum(-room, 0)
        room = np.maximum(room, missing)
        corner = np.floor(u * (room + 1)).astype(np.int64) - self.padding - missing
        return {"box": np.concatenate([corner, np.broadcast_to(want, size.shape)], axis=1)}


@dataclass(frozen=True, repr=False)
class RandomResizedCrop(ResizeOp):
    """A box of random area (``scale``, as a share of the picture) and aspect ``ratio`` (w/h), resized to ``size``.

    Szegedy et al., "Going deeper with convolutions" (CVPR 2015), drawn as torchvision does: ten tries, then the
    largest centred box within the ratios.
    """

    size: Size
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    draws: ClassVar[int] = 22

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "size", check_size(self, "size", self.size))
        set_field(self, "scale", check_range(self, "scale", self.scale, 1e-9, 1.0))
        set_field(self, "ratio", check_range(self, "ratio", self.ratio, 1e-6, 1e6))

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        h, w = size[:, :1], size[:, 1:]
        found, box_h, box_w = _random_box(u[:, :20], h, w, self.scale, self.ratio, strict=False)
        # No try fitted: the largest centred box whose ratio is in range.
        ratio = w[:, 0] / h[:, 0]
        low, high = self.ratio
        wide, narrow = ratio > high, ratio < low
        last_w = np.where(wide, np.rint(h[:, 0] * high), w[:, 0]).astype(np.int64)
        last_h = np.where(narrow, np.rint(w[:, 0] / low), h[:, 0]).astype(np.int64)
        box_h, box_w = np.where(found, box_h, np.maximum(last_h, 1)), np.where(found, box_w, np.maximum(last_w, 1))
        room = np.stack([size[:, 0] - box_h, size[:, 1] - box_w], axis=1)
        corner = np.where(found[:, None], np.floor(u[:, 20:] * (room + 1)).astype(np.int64), room // 2)
        box = np.concatenate([corner, box_h[:, None], box_w[:, None]], axis=1)
        return {"box": box, "resized": np.broadcast_to(np.array(self.size, np.int64), size.shape)}


# Flips and warps ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class HorizontalFlip(FlipOp):
    """Mirrors left and right."""

    p: float = 0.5

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return {"flip": np.broadcast_to([False, True], (len(size), 2))}


@dataclass(frozen=True, repr=False)
class VerticalFlip(FlipOp):
    """Mirrors up and down."""

    p: float = 0.5

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return {"flip": np.broadcast_to([True, False], (len(size), 2))}


@dataclass(frozen=True, repr=False)
class Rotate(WarpOp):
    """Turns the picture about its centre by an angle within ``degrees``, counter-clockwise, as torchvision counts."""

    degrees: tuple[float, float] | float = (-15.0, 15.0)
    interpolation: Interpolation = "bilinear"
    fill: Colour = 0
    draws: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "degrees", check_symmetric(self, "degrees"))
        _check_warp(self)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return {"matrix": _centred(size, angle=np.radians(_within(self.degrees, u[:, 0])))}


@dataclass(frozen=True, repr=False)
class Translate(WarpOp):
    """Shifts by up to ``x`` of the width and ``y`` of the height (shares, −1..1), in whole pixels as torchvision."""

    x: tuple[float, float] | float = (-0.1, 0.1)
    y: tuple[float, float] | float = (-0.1, 0.1)
    interpolation: Interpolation = "bilinear"
    fill: Colour = 0
    draws: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("x", "y"):
            set_field(self, name, check_symmetric(self, name, 1.0))
        _check_warp(self)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        dx = np.rint(_within(self.x, u[:, 0]) * size[:, 1])
        dy = np.rint(_within(self.y, u[:, 1]) * size[:, 0])
        return {"matrix": _centred(size, dx=dx, dy=dy)}


@dataclass(frozen=True, repr=False)
class Scale(WarpOp):
    """Enlarges (> 1) or shrinks (< 1) about the centre by a factor within ``factor``; the canvas keeps its size."""

    factor: tuple[float, float] = (0.9, 1.1)
    interpolation: Interpolation = "bilinear"
    fill: Colour = 0
    draws: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "factor", check_range(self, "factor", self.factor, 1e-3, 1e3))
        _check_warp(self)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return {"matrix": _centred(size, scale=_within(self.factor, u[:, 0]))}


@dataclass(frozen=True, repr=False)
class Shear(WarpOp):
    """Slants about the centre by angles in degrees within ``x`` and ``y``, as torchvision's ``affine`` does."""

    x: tuple[float, float] | float = (-10.0, 10.0)
    y: tuple[float, float] | float = (0.0, 0.0)
    interpolation: Interpolation = "bilinear"
    fill: Colour = 0
    draws: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("x", "y"):
            set_field(self, name, check_symmetric(self, name, 80.0))
        _check_warp(self)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        shear_x, shear_y = (np.radians(_within(r, u[:, i])) for i, r in enumerate((self.x, self.y)))
        return {"matrix": _centred(size, shear_x=shear_x, shear_y=shear_y)}


# Colour ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class FactorOp(ColourOp):
    """Colour by one number f, drawn within ``factor``; 1 changes nothing."""

    factor: tuple[float, float] = (0.6, 1.4)
    draws: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "factor", check_range(self, "factor", self.factor, 0.0))

    def drawn_factor(self, u: np.ndarray) -> np.ndarray:
        """float64 [N, 1, 1]."""
        return _within(self.factor, u[:, 0])[:, None, None]


class Brightness(FactorOp):
    """Multiplies: out = f·rgb."""

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return _colour(self.drawn_factor(u) * np.eye(3))


class Contrast(FactorOp):
    """Blends with the picture's mean luma: out = f·rgb + (1 − f)·mean(luma)."""

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        f = self.drawn_factor(u)
        return _colour(f * np.eye(3), mean_matrix=(1 - f) * _GREY_MATRIX)


class Saturation(FactorOp):
    """Blends with the grey picture: out = f·rgb + (1 − f)·luma; 0 is grey."""

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        f = self.drawn_factor(u)
        return _colour(f * np.eye(3) + (1 - f) * _GREY_MATRIX)


@dataclass(frozen=True, repr=False)
class Invert(ColourOp):
    """255 − value."""

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        n = len(size)
        return _colour(np.broadcast_to(-np.eye(3), (n, 3, 3)), offset=np.full((n, 3), 255.0))


@dataclass(frozen=True, repr=False)
class Solarize(TableOp):
    """Inverts values from a threshold on, drawn within ``threshold``."""

    threshold: tuple[float, float] = (128.0, 128.0)
    draws: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "threshold", check_range(self, "threshold", self.threshold, 0.0, 256.0))

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        value = np.arange(256, dtype=np.uint8)
        return {"table": np.where(value >= _within(self.threshold, u[:, 0])[:, None], 255 - value, value)}


@dataclass(frozen=True, repr=False)
class Posterize(TableOp):
    """Keeps the highest bits of every value, a number of them within ``bits``."""

    bits: tuple[int, int] = (4, 4)
    draws: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = check_range(self, "bits", self.bits, 0, 8)
        set_field(self, "bits", (int(low), int(high)))

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        low, high = self.bits
        bits = low + np.minimum((u[:, 0] * (high - low + 1)).astype(np.int64), high - low)
        mask = (0xFF << (8 - bits)) & 0xFF
        return {"table": (np.arange(256)[None, :] & mask[:, None]).astype(np.uint8)}


# Occlusion and the end ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class RandomErasing(EraseOp):
    """Sets a random box to ``value``: area within ``scale`` (a share), aspect (h/w) within ``ratio``.

    Zhong et al., "Random erasing data augmentation" (AAAI 2020), drawn as torchvision does. ``value`` counts in 0..255
    before `Normalize`, in normalised units after it.
    """

    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)
    value: Colour = 0.0
    p: float = 0.5
    draws: ClassVar[int] = 22

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "scale", check_range(self, "scale", self.scale, 0.0, 1.0))
        set_field(self, "ratio", check_range(self, "ratio", self.ratio, 1e-6, 1e6))
        check_colour(self, "value", self.value)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        h, w = size[:, :1], size[:, 1:]
        # Their ratio is h/w where the crop's is w/h; a box must be smaller than the picture both ways.
        found, box_w, box_h = _random_box(u[:, :20], w, h, self.scale, self.ratio, strict=True)
        room = np.stack([size[:, 0] - box_h, size[:, 1] - box_w], axis=1)
        corner = np.floor(u[:, 20:] * (room + 1)).astype(np.int64)
        box = np.concatenate([corner, box_h[:, None], box_w[:, None]], axis=1)
        return {"box": np.where(found[:, None], box, 0)}


@dataclass(frozen=True, repr=False)
class Normalize(ImageOp):
    """(value / 255 − ``mean``) / ``std`` per channel; ImageNet's by default. Comes last (only erasing may follow)."""

    mean: Any = IMAGENET_MEAN
    std: Any = IMAGENET_STD

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("mean", "std"):
            value = getattr(self, name)
            value = tuple(float(v) for v in (value if isinstance(value, (tuple, list)) else (value,)))
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


# What the operators share ------------------------------------------------------------------------------------------

_GREY_MATRIX = np.broadcast_to(pixels.GREY, (3, 3))


def check_size(op: Op, name: str, value: Any) -> tuple[int, int]:
    """An int, or (height, width); both at least 1."""
    pair = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, (tuple, list)) else ()
    if len(pair) != 2 or not all(isinstance(v, int) and not isinstance(v, bool) and 1 <= v <= 1 << 20 for v in pair):
        raise ValueError(
            f"{type(op).__name__}: {name} must be a whole number of pixels ≥ 1 or (height, width), got {value!r}"
        )
    return pair


def check_symmetric(op: Op, name: str, limit: float = math.inf) -> tuple[float, float]:
    """A pair (low, high), or a number a that means (−a, a)."""
    value = getattr(op, name)
    if isinstance(value, (int, float)):
        value = (-abs(value), abs(value))
    return check_range(op, name, value, -limit, limit)


def check_colour(op: Op, name: str, value: Any) -> None:
    values = value if isinstance(value, tuple) else (value,)
    if len(values) not in (1, 3) or not all(isinstance(v, (int, float)) and math.isfinite(v) for v in values):
        raise ValueError(f"{type(op).__name__}: {name} must be a number or three (R, G, B), got {value!r}")


def check_fill(op: Any) -> None:
    check_colour(op, "fill", op.fill)
    if not (np.asarray(op.fill) >= 0).all() or not (np.asarray(op.fill) <= 255).all():
        raise ValueError(f"{type(op).__name__}: fill must lie in [0, 255], got {op.fill!r}")


def fill_rgb(fill: Colour) -> np.ndarray:
    """uint8 [3]."""
    return np.broadcast_to(np.rint(np.asarray(fill)).astype(np.uint8), 3)


def _check_warp(op: Any) -> None:
    if op.interpolation not in ("bilinear", "nearest"):
        raise ValueError(
            f'{type(op).__name__}: interpolation must be "bilinear" or "nearest", got {op.interpolation!r}'
        )
    check_fill(op)


def _within(bounds: Any, u: np.ndarray) -> np.ndarray:
    low, high = bounds
    return low + (high - low) * u


def _whole(size: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros_like(size), size], axis=1)


def _colour(matrix: np.ndarray, mean_matrix: np.ndarray | None = None, offset: np.ndarray | None = None) -> Params:
    n = len(matrix)
    return {
        "matrix": matrix,
        "mean_matrix": np.zeros((n, 3, 3)) if mean_matrix is None else mean_matrix,
        "offset": np.zeros((n, 3)) if offset is None else offset,
    }


def _random_box(
    u: np.ndarray, h: np.ndarray, w: np.ndarray, scale: tuple[float, float], ratio: tuple[float, float], *, strict: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first of ten boxes of random area and log-uniform aspect (w/h) that fits: (found [N], height [N], width
    [N]).
    """
    area = _within(scale, u[:, 0::2]) * (h * w)
    aspect = np.exp(_within((math.log(ratio[0]), math.log(ratio[1])), u[:, 1::2]))
    box_w = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    box_h = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    if strict:
        fits = (box_w < w) & (box_h < h) & (box_w > 0) & (box_h > 0)
    else:
        fits = (box_w <= w) & (box_h <= h) & (box_w > 0) & (box_h > 0)
    first = np.argmax(fits, axis=1)
    rows = np.arange(len(u))
    return fits.any(axis=1), box_h[rows, first], box_w[rows, first]


def _centred(
    size: np.ndarray,
    *,
    angle: Any = 0.0,
    scale: Any = 1.0,
    shear_x: Any = 0.0,
    shear_y: Any = 0.0,
    dx: Any = 0.0,
    dy: Any = 0.0,
) -> np.ndarray:
    """Output index → input index of: shear, then turn and scale, about the centre, then a shift by (dx, dy) px.

    float64 [N, 2, 3]. torchvision's ``_get_inverse_affine_matrix`` in index coordinates, its angle negated as its
    ``rotate`` passes it.
    """
    n = len(size)
    rot, sx, sy = (np.broadcast_to(np.asarray(v, np.float64), n) for v in (-np.asarray(angle), shear_x, shear_y))
    a = np.cos(rot - sy) / np.cos(sy)
    b = -np.cos(rot - sy) * np.tan(sx) / np.cos(sy) - np.sin(rot)
    c = np.sin(rot - sy) / np.cos(sy)
    d = -np.sin(rot - sy) * np.tan(sx) / np.cos(sy) + np.cos(rot)
    linear = np.stack([np.stack([d, -b], axis=-1), np.stack([-c, a], axis=-1)], axis=-2) / np.broadcast_to(
        np.asarray(scale, np.float64), n
    ).reshape(n, 1, 1)
    centre = (size[:, ::-1] - 1) / 2.0  # x, y
    shift = np.stack([np.broadcast_to(dx, n), np.broadcast_to(dy, n)], axis=-1)
    # in = L·(out − centre − shift) + centre
    translation = centre - np.einsum("nij,nj->ni", linear, centre + shift)
    return np.concatenate([linear, translation[:, :, None]], axis=2)
