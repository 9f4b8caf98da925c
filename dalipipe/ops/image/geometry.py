"""Sizes, crops, flips and warps. Where masks come along, these move them too.

Random sizes, boxes and matrices follow torchvision's v2 transforms of the same or a similar name: same ranges, same
roundings. Where torchvision draws a number uniformly, so does a pair (low, high) here; a `policy.Range` may take its
place. Sides and shifts are in pixels, angles in degrees. ``fill``, 0..255, one value or (R, G, B), stands outside the
picture; ``interpolation`` is "bilinear", "bicubic", "nearest" or "random" (bilinear or bicubic for each sample).

An operator that is made with a field that does not fit raises ``ValueError``, naming operator, field, what was expected
and what came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from dalipipe.ops.filtering import MAX_SIGMA_PX
from dalipipe.ops.image.boxes import random_boxes
from dalipipe.ops.image.families import (
    RESAMPLES,
    WARPS,
    Colour,
    CropOp,
    ElasticOp,
    FlipOp,
    Interpolation,
    ResizeOp,
    Size,
    WarpOp,
    check_fill,
    check_interpolation,
    check_number,
    check_size,
    check_symmetric,
    draw_interpolation,
    whole,
)
from dalipipe.policy import Measure, Params, Range, check_range, draw_range, set_field

Rounding = Literal["nearest", "truncate", "none"]

# Sizes -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Resize(ResizeOp):
    """Resizes to ``size`` px: (height, width), or the shorter side to an int with the ratio kept.

    With ``max_size``, the longer side becomes no longer than that, and the shorter one shrinks along; with ``size``
    None, the longer side becomes ``max_size``. Bilinear and bicubic are antialiased, in fixed point: bit-equal to
    torchvision's ``resize`` of uint8 tensors; "nearest" takes its ``NEAREST`` pixels. ``interpolation`` "random" draws
    bilinear or bicubic.
    """

    size: Size | None
    interpolation: Interpolation = "bilinear"
    max_size: int | None = None
    draws: ClassVar[int] = 1
    stays: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is None and self.max_size is None:
            raise ValueError("Resize: size or max_size must be given, got None for both")
        if self.size is not None:
            size = check_size(self, "size", self.size)
            set_field(self, "size", self.size if isinstance(self.size, int) else size)
        if self.max_size is not None:
            if isinstance(self.size, tuple):
                raise ValueError(f"Resize: max_size goes with an int size, got size={self.size} and {self.max_size!r}")
            _check_longest(self, shorter=self.size)
        check_interpolation(self)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        if isinstance(self.size, tuple):
            resized = np.broadcast_to(np.array(self.size, np.int64), size.shape)
        else:
            resized = _scaled(size, self.size, self.max_size)
        return {
            "box": whole(size),
            "resized": resized,
            "resample": draw_interpolation(RESAMPLES, self.interpolation, u[:, 0]),
        }


@dataclass(frozen=True, repr=False)
class RandomResize(ResizeOp):
    """Resizes the shorter side to a whole number of pixels in [``min_size``, ``max_size``), the ratio kept.

    As torchvision's ``RandomResize``: ``max_size`` itself is not drawn, unless it is the same as ``min_size``.
    ``interpolation`` as in `Resize`.
    """

    min_size: int
    max_size: int
    interpolation: Interpolation = "bilinear"
    draws: ClassVar[int] = 2
    stays: ClassVar[bool] = True

    @property
    def measures(self) -> Mapping[str, Measure]:  # type: ignore[override]
        middle = Measure((self.min_size + self.max_size) / 2, 1.0, 1 << 20, whole=True)
        return {"min_size": middle, "max_size": middle}

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_int_size(self, "min_size")
        _check_int_size(self, "max_size")
        if self.min_size > self.max_size:
            raise ValueError(f"RandomResize: min_size must not exceed max_size, got {self.min_size}, {self.max_size}")
        check_interpolation(self)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        short = self.min_size + np.floor(u[:, 0] * (self.max_size - self.min_size)).astype(np.int64)
        return {
            "box": whole(size),
            "resized": _scaled(size, short, None),
            "resample": draw_interpolation(RESAMPLES, self.interpolation, u[:, 1]),
        }


# Crops -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class CenterCrop(CropOp):
    """The middle of the picture, of ``size`` px; a smaller one gets ``fill`` (0..255) around it, as in torchvision."""

    size: Size
    fill: Colour = 0

    stays: ClassVar[bool] = True

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
    """A box of ``size`` px anywhere in the picture, after ``padding`` px of ``fill`` (0..255) around it (as `Pad`
    counts).

    A picture that is still too small is refused, or padded up where ``pad_if_needed``. torchvision's ``RandomCrop``.
    ``spread``: how far from the middle it may lie, 0..1: 0 is the middle, 1 anywhere.
    """

    size: Size
    padding: Any = 0
    pad_if_needed: bool = False
    fill: Colour = 0
    spread: float = 1.0
    draws: ClassVar[int] = 2
    stays: ClassVar[bool] = True
    measures: ClassVar[Mapping[str, Measure]] = {"spread": Measure(0.0, 0.0, 1.0)}

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "size", check_size(self, "size", self.size))
        _check_padding(self)
        if not isinstance(self.pad_if_needed, bool):
            raise ValueError(f"RandomCrop: pad_if_needed must be True or False, got {self.pad_if_needed!r}")
        set_field(self, "spread", check_number(self, "spread", 0.0, 1.0))
        check_fill(self)

    def misfits(self, size: np.ndarray) -> np.ndarray | None:
        if self.pad_if_needed:
            return None
        before, after = _sides(self.padding)
        return np.any(size + before + after < np.array(self.size), axis=1)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        want = np.array(self.size, np.int64)
        before, after = _sides(self.padding)
        room = size + before + after - want
        # As torchvision: a side that is too small gets the missing pixels before and after it, then the cut is drawn.
        missing = np.maximum(-room, 0)
        room = np.maximum(room, missing)
        place = u if self.spread == 1.0 else 0.5 + self.spread * (u - 0.5)
        corner = np.floor(place * (room + 1)).astype(np.int64) - before - missing
        return {"box": np.concatenate([corner, np.broadcast_to(want, size.shape)], axis=1)}


@dataclass(frozen=True, repr=False)
class Pad(CropOp):
    """``fill`` (0..255, one value or R, G, B) around the picture: ``padding`` px ≥ 0 on every side, or (x, y), or
    (left, top, right, bottom). torchvision's ``Pad``.
    """

    padding: Any
    fill: Colour = 0

    stays: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_padding(self)
        check_fill(self)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        before, after = _sides(self.padding)
        return {"box": np.concatenate([np.broadcast_to(-before, size.shape), size + before + after], axis=1)}


@dataclass(frozen=True, repr=False)
class RandomResizedCrop(ResizeOp):
    """A box of random area (``scale``, as a share of the picture, 0..1) and aspect ``ratio`` (w/h, log-uniform),
    resized to ``size`` px.

    Szegedy et al., "Going deeper with convolutions" (CVPR 2015), drawn as torchvision does: ten tries, then the
    largest centred box within the ratios. ``interpolation`` as in `Resize`.
    """

    size: Size
    scale: Any = (0.08, 1.0)
    ratio: Any = (3 / 4, 4 / 3)
    interpolation: Interpolation = "bilinear"
    draws: ClassVar[int] = 23
    stays: ClassVar[bool] = True

    @property
    def measures(self) -> Mapping[str, Measure]:  # type: ignore[override]
        height, width = self.size  # type: ignore[misc]
        return {"scale": Measure(1.0, 0.01, 1.0, "log"), "ratio": Measure(width / height, 1e-2, 1e2, "log")}

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "size", check_size(self, "size", self.size))
        set_field(self, "scale", check_range(self, "scale", self.scale, 1e-9, 1.0))
        set_field(self, "ratio", check_range(self, "ratio", self.ratio, 1e-6, 1e6))
        check_interpolation(self)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        boxes = random_boxes(u[:, :20], size, self.scale, self.ratio)[:, :, ::-1]  # w, h → h, w
        fits = np.all((boxes > 0) & (boxes <= size[:, None]), axis=2)
        found = np.any(fits, axis=1)
        box = boxes[np.arange(len(size)), np.argmax(fits, axis=1)]
        # No try fitted: the largest centred box whose ratio is in range.
        h, w = size[:, 0], size[:, 1]
        low, high = (self.ratio.low, self.ratio.high) if isinstance(self.ratio, Range) else self.ratio
        last_h = np.where(w / h < low, np.rint(w / low), h)
        last_w = np.where(w / h > high, np.rint(h * high), w)
        last = np.clip(np.stack([last_h, last_w], axis=1).astype(np.int64), 1, size)
        box = np.where(found[:, None], box, last)
        room = size - box
        corner = np.where(found[:, None], np.floor(u[:, 20:22] * (room + 1)).astype(np.int64), room // 2)
        return {
            "box": np.concatenate([corner, box], axis=1),
            "resized": np.broadcast_to(np.array(self.size, np.int64), size.shape),
            "resample": draw_interpolation(RESAMPLES, self.interpolation, u[:, 22]),
        }


# Flips -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class HorizontalFlip(FlipOp):
    """Mirrors left and right, with probability ``p``. torchvision's ``RandomHorizontalFlip``."""

    p: float = 0.5

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return {"flip": np.broadcast_to([False, True], (len(size), 2))}


@dataclass(frozen=True, repr=False)
class VerticalFlip(FlipOp):
    """Mirrors up and down, with probability ``p``. torchvision's ``RandomVerticalFlip``."""

    p: float = 0.5

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return {"flip": np.broadcast_to([True, False], (len(size), 2))}


# Warps -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class SampledWarpOp(WarpOp):
    """A warp with its options: how it samples, and what stands outside the picture, 0..255, one value or (R, G, B)."""

    interpolation: Interpolation = field(default="bilinear", kw_only=True)
    fill: Colour = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_interpolation(self)
        check_fill(self)

    def sampled(self, matrix: np.ndarray, u: np.ndarray) -> Params:
        """The parameters; the last of the uniforms decides how it samples."""
        return {"matrix": matrix, "warp": draw_interpolation(WARPS, self.interpolation, u[:, -1])}


@dataclass(frozen=True, repr=False)
class Rotate(SampledWarpOp):
    """Turns the picture about its centre by an angle within ``degrees``, counter-clockwise, as torchvision's ``rotate``
    counts; a number a means (−a, a). What turns out of the picture is lost, and ``fill`` comes in.
    """

    degrees: Any = (-15.0, 15.0)
    draws: ClassVar[int] = 2
    measures: ClassVar[Mapping[str, Measure]] = {"degrees": Measure(0.0, -180.0, 180.0)}

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "degrees", check_symmetric(self, "degrees", _MAX_DEGREES))

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return self.sampled(_inverse_affine(size, degrees=-draw_range(self.degrees, u[:, 0])), u)


@dataclass(frozen=True, repr=False)
class Translate(SampledWarpOp):
    """Shifts by up to ``x`` of the width and ``y`` of the height (shares, −1..1): right and down where positive. A
    number a means (−a, a).

    ``rounding`` to whole pixels: "nearest", as torchvision's ``RandomAffine``; "truncate", as its automatic policies,
    of float32; "none", as timm's.
    """

    x: Any = (-0.1, 0.1)
    y: Any = (-0.1, 0.1)
    rounding: Rounding = "nearest"
    draws: ClassVar[int] = 3
    measures: ClassVar[Mapping[str, Measure]] = {"x": Measure(0.0, -1.0, 1.0), "y": Measure(0.0, -1.0, 1.0)}

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("x", "y"):
            set_field(self, name, check_symmetric(self, name, 1.0))
        _check_rounding(self)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        shift = np.stack([draw_range(self.x, u[:, 0]), draw_range(self.y, u[:, 1])], axis=1) * size[:, ::-1]
        return self.sampled(_inverse_affine(size, shift=_rounded(shift, self.rounding)), u)


@dataclass(frozen=True, repr=False)
class TranslatePx(SampledWarpOp):
    """Shifts by a number of pixels within ``x`` and ``y``, right and down where positive; a number a means (−a, a).
    ``rounding``: as `Translate`'s, "truncate" by default. AutoAugment's, as torchvision's and timm's ``TranslateX``.
    """

    x: Any = (0.0, 0.0)
    y: Any = (0.0, 0.0)
    rounding: Rounding = "truncate"
    draws: ClassVar[int] = 3
    measures: ClassVar[Mapping[str, Measure]] = {"x": Measure(), "y": Measure()}

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("x", "y"):
            set_field(self, name, check_symmetric(self, name, float(1 << 20)))
        _check_rounding(self)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        shift = np.stack([draw_range(self.x, u[:, 0]), draw_range(self.y, u[:, 1])], axis=1)
        return self.sampled(_inverse_affine(size, shift=_rounded(shift, self.rounding)), u)


@dataclass(frozen=True, repr=False)
class Scale(SampledWarpOp):
    """Enlarges (> 1) or shrinks (< 1) about the centre by a factor within ``factor`` (0.001..1000, 1:
    unchanged); the canvas keeps its size. The scale of torchvision's ``RandomAffine``.
    """

    factor: Any = (0.9, 1.1)
    draws: ClassVar[int] = 2
    measures: ClassVar[Mapping[str, Measure]] = {"factor": Measure(1.0, 1e-3, 1e3, "log")}

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "factor", check_range(self, "factor", self.factor, 1e-3, 1e3))

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return self.sampled(_inverse_affine(size, scale=draw_range(self.factor, u[:, 0])), u)


@dataclass(frozen=True, repr=False)
class Shear(SampledWarpOp):
    """Slants by angles within ``x`` and ``y`` (degrees, −80..80), as torchvision's ``affine`` does.

    ``unit`` "slope": ``x`` and ``y`` are the angles' tangents, −5..5, as AutoAugment's papers and code have them.
    ``center``: what stays in place, the "middle" of the picture or its upper left "corner", as in torchvision's
    and timm's AutoAugment.
    """

    x: Any = (-10.0, 10.0)
    y: Any = (0.0, 0.0)
    unit: Literal["degrees", "slope"] = "degrees"
    center: Literal["middle", "corner"] = "middle"
    draws: ClassVar[int] = 3

    @property
    def measures(self) -> Mapping[str, Measure]:  # type: ignore[override]
        most = 60.0 if self.unit == "degrees" else 1.75
        return dict.fromkeys(("x", "y"), Measure(0.0, -most, most))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unit not in ("degrees", "slope"):
            raise ValueError(f'Shear: unit must be "degrees" or "slope", got {self.unit!r}')
        if self.center not in ("middle", "corner"):
            raise ValueError(f'Shear: center must be "middle" or "corner", got {self.center!r}')
        for name in ("x", "y"):
            set_field(self, name, check_symmetric(self, name, 80.0 if self.unit == "degrees" else 5.0))

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        slope = np.stack([draw_range(self.x, u[:, 0]), draw_range(self.y, u[:, 1])], axis=1)
        if self.unit == "degrees":
            slope = np.tan(np.radians(slope))
        centre = np.full(size.shape, -0.5) if self.center == "corner" else None
        return self.sampled(_inverse_affine(size, slope=slope, centre=centre), u)


@dataclass(frozen=True, repr=False)
class Affine(SampledWarpOp):
    """Shear, scale, rotation and shift in one, about the centre, as torchvision's ``RandomAffine`` draws them.

    ``degrees``: clockwise (as ``affine``, other than ``rotate``, counts); a number a means (−a, a). ``translate``: the
    largest shifts either way, as shares of width and height, 0..1; by whole pixels. ``scale``: factors, 0.001..1000;
    ``None``: 1. ``shear``: degrees along x, −80..80, a number a for (−a, a), or (low, high), or with those along y (x
    low, x high, y low, y high); ``None``: 0.
    """

    degrees: Any
    translate: tuple[float, float] | None = (0.0, 0.0)
    scale: Any = None
    shear: Any = None
    draws: ClassVar[int] = 7
    measures: ClassVar[Mapping[str, Measure]] = {
        "degrees": Measure(0.0, -180.0, 180.0),
        "translate": Measure(0.0, 0.0, 1.0),
        "scale": Measure(1.0, 1e-3, 1e3, "log"),
        "shear": Measure(0.0, -60.0, 60.0),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "degrees", check_symmetric(self, "degrees", _MAX_DEGREES))
        set_field(self, "translate", (0.0, 0.0) if self.translate is None else _check_pair(self, "translate", 1.0))
        if self.scale is not None:
            set_field(self, "scale", check_range(self, "scale", self.scale, 1e-3, 1e3))
        if self.shear is not None:
            if isinstance(self.shear, (tuple, list)) and len(self.shear) == 4:
                x, y = (check_range(self, "shear", self.shear[i : i + 2], -80.0, 80.0) for i in (0, 2))
                set_field(self, "shear", (*x, *y))
            else:
                set_field(self, "shear", check_symmetric(self, "shear", 80.0))

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        shear = (0.0, 0.0) if self.shear is None else self.shear
        pair = isinstance(shear, tuple)
        along = (shear[:2], shear[2:] or (0.0, 0.0)) if pair else (shear, (0.0, 0.0))
        shear_x, shear_y = (draw_range(bounds, u[:, 4 + i]) for i, bounds in enumerate(along))
        matrix = _inverse_affine(
            size,
            degrees=draw_range(self.degrees, u[:, 0]),
            slope=np.tan(np.radians(np.stack([shear_x, shear_y], axis=1))),
            scale=1.0 if self.scale is None else draw_range(self.scale, u[:, 3]),
            shift=np.rint((2.0 * u[:, 1:3] - 1.0) * np.array(self.translate) * size[:, ::-1]),
        )
        return self.sampled(matrix, u)


@dataclass(frozen=True, repr=False)
class Perspective(SampledWarpOp):
    """Moves each corner inwards by up to ``distortion`` (0..1) of half a side, as torchvision's ``RandomPerspective``.

    Where three corners come to lie on a line (pictures of a few pixels), nothing happens.
    """

    distortion: float = 0.5
    p: float = field(default=0.5, kw_only=True)
    draws: ClassVar[int] = 9
    measures: ClassVar[Mapping[str, Measure]] = {"distortion": Measure(0.0, 0.0, 1.0)}

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "distortion", check_number(self, "distortion", 0.0, 1.0))

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        last = size[:, None, ::-1] - 1  # x, y
        far = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
        start = far * last
        bound = (self.distortion * (size[:, None, ::-1] // 2)).astype(np.int64) + 1
        inwards = np.floor(u[:, :8].reshape(-1, 4, 2) * bound).astype(np.int64)
        end = start + np.where(far == 1, inwards - bound + 1, inwards)
        return self.sampled(_homography(end, start), u)


@dataclass(frozen=True, repr=False)
class Elastic(ElasticOp):
    """Moves every pixel by smooth noise: uniform in −1..1, blurred by a Gaussian of ``sigma`` px, times ``alpha`` / 2.

    Simard et al., "Best practices for convolutional neural networks applied to visual document analysis" (ICDAR 2003),
    with torchvision's ``alpha`` (≥ 0), which counts half pixels; ``sigma`` 0..500 px. Either may be (x, y).
    torchvision's ``ElasticTransform``.
    """

    alpha: Any = 50.0
    sigma: Any = 5.0
    interpolation: Interpolation = "bilinear"
    fill: Colour = 0
    draws: ClassVar[int] = 1
    measures: ClassVar[Mapping[str, Measure]] = {"alpha": Measure(0.0, 0.0, 1e6)}

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, limit in (("alpha", 1e6), ("sigma", MAX_SIGMA_PX)):
            value = getattr(self, name)
            pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
            _check_pair(self, name, limit, pair)
            set_field(self, name, float(value) if isinstance(value, (int, float)) else tuple(map(float, pair)))
        check_interpolation(self)
        check_fill(self)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return {
            "alpha": np.broadcast_to(np.asarray(self.alpha), size.shape),
            "sigma": np.broadcast_to(np.asarray(self.sigma), size.shape),
            "warp": draw_interpolation(WARPS, self.interpolation, u[:, 0]),
        }


# What they share ---------------------------------------------------------------------------------------------------

_MAX_DEGREES = 1e6


def _check_int_size(op: Any, name: str) -> None:
    value = getattr(op, name)
    if not isinstance(value, int):
        raise ValueError(f"{type(op).__name__}: {name} must be a whole number of pixels ≥ 1, got {value!r}")
    check_size(op, name, value)


def _check_longest(op: Any, shorter: Any) -> None:
    _check_int_size(op, "max_size")
    if shorter is not None and op.max_size <= shorter:
        raise ValueError(
            f"{type(op).__name__}: max_size must be greater than size, that of the shorter side; got "
            f"{op.max_size} and {shorter}"
        )


def _check_padding(op: Any) -> None:
    """Whole numbers ≥ 0: one, (x, y) or (left, top, right, bottom)."""
    value = op.padding
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if len(values) not in (1, 2, 4) or not all(
        isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= 1 << 20 for v in values
    ):
        raise ValueError(
            f"{type(op).__name__}: padding must be a whole number of pixels ≥ 0, (x, y) or (left, top, right, bottom), "
            f"got {value!r}"
        )
    set_field(op, "padding", values[0] if len(values) == 1 else values)


def _check_pair(op: Any, name: str, limit: float, value: Any = None) -> tuple[float, float]:
    """Two numbers in [0, limit], in any order."""
    value = getattr(op, name) if value is None else value
    pair = tuple(value) if isinstance(value, (tuple, list)) else ()
    if len(pair) != 2 or not all(isinstance(v, (int, float)) and 0 <= v <= limit for v in pair):
        raise ValueError(f"{type(op).__name__}: {name} must be (x, y), both in [0, {limit:g}], got {value!r}")
    return float(pair[0]), float(pair[1])


def _check_rounding(op: Any) -> None:
    if op.rounding not in ("nearest", "truncate", "none"):
        raise ValueError(f'{type(op).__name__}: rounding must be "nearest", "truncate" or "none", got {op.rounding!r}')


def _rounded(shift: np.ndarray, rounding: Rounding) -> np.ndarray:
    if rounding == "truncate":
        return np.trunc(shift.astype(np.float32)).astype(np.float64)
    return np.rint(shift) if rounding == "nearest" else shift


def _sides(padding: Any) -> tuple[np.ndarray, np.ndarray]:
    """int64 [2] each: pixels before (top, left) and after (bottom, right)."""
    values = padding if isinstance(padding, tuple) else (padding, padding)
    left, top, right, bottom = values if len(values) == 4 else values * 2
    return np.array([top, left], np.int64), np.array([bottom, right], np.int64)


def _scaled(size: np.ndarray, short: Any, longest: int | None) -> np.ndarray:
    """int64 [N, 2]: the sizes with the shorter side ``short`` px, and the longer at most ``longest``."""
    shorter, longer = size.min(axis=1), size.max(axis=1)
    if short is None:
        new_short, new_long = longest * shorter / longer, np.full(len(size), longest)
    else:
        new_short, new_long = np.broadcast_to(short, len(size)), (short * longer / shorter).astype(np.int64)
        if longest is not None:
            over = new_long > longest
            new_short = np.where(over, longest * new_short / new_long, new_short)
            new_long = np.minimum(new_long, longest)
    new_short = np.maximum(new_short.astype(np.int64), 1)
    return np.where(size == shorter[:, None], new_short[:, None], new_long[:, None])


def _cos_degrees(degrees: Any) -> np.ndarray:
    """Exact at right angles, so that a turn by one takes pixels to pixels."""
    degrees = np.asarray(degrees, np.float64)
    return np.where(degrees % 180.0 == 90.0, 0.0, np.cos(np.radians(degrees)))


def _inverse_affine(
    size: np.ndarray,
    *,
    degrees: Any = 0.0,
    scale: Any = 1.0,
    slope: Any = (0.0, 0.0),
    shift: Any = (0.0, 0.0),
    centre: np.ndarray | None = None,
) -> np.ndarray:
    """Output index → input index, float64 [N, 3, 3], of: shear along x, then y, clockwise turn and scale, all about
    ``centre`` [N, 2] (x, y; the middle by default), then a ``shift`` [N, 2] px.

    torchvision's ``_get_inverse_affine_matrix`` in index coordinates; ``slope`` [N, 2]: the tangents of its shears.
    """
    n = len(size)
    degrees, scale = (np.broadcast_to(np.asarray(v, np.float64), n) for v in (degrees, scale))
    slope, shift = (np.broadcast_to(np.asarray(v, np.float64), (n, 2)) for v in (slope, shift))
    centre = (size[:, ::-1] - 1) / 2.0 if centre is None else centre
    cos, sin = _cos_degrees(degrees), _cos_degrees(degrees - 90.0)
    a, c = cos + sin * slope[:, 1], sin - cos * slope[:, 1]
    b, d = -a * slope[:, 0] - sin, cos - c * slope[:, 0]
    matrix = np.zeros((n, 3, 3))
    matrix[:, :2, :2] = np.stack([d, -b, -c, a], axis=1).reshape(n, 2, 2) / scale[:, None, None]
    # in = L·(out − centre − shift) + centre
    matrix[:, :2, 2] = centre - np.einsum("nij,nj->ni", matrix[:, :2, :2], centre + shift)
    matrix[:, 2, 2] = 1.0
    return matrix


def _homography(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The matrix float64 [N, 3, 3] that takes four points [N, 4, 2] (x, y; whole numbers, from the picture's corner) to
    four others, but for indices of pixels; the identity where three of four points lie on a line, or none moves.
    """
    moves = _spans(source) & _spans(target) & (source != target).any(axis=(1, 2))
    square = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    source, target = (_basis(np.where(moves[:, None, None], points, square)) for points in (source, target))
    # An index counts from its pixel's centre, half a pixel in.
    half = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
    matrix = np.linalg.inv(half) @ target @ np.linalg.inv(source) @ half
    corner = matrix[:, 2:, 2:]
    matrix = matrix / np.where(np.abs(corner) > 1e-9, corner, 1.0)  # 0 where index (0, 0) goes to infinity
    return np.where(moves[:, None, None], matrix, np.eye(3))


def _basis(points: np.ndarray) -> np.ndarray:
    """float64 [N, 3, 3]: takes the unit vectors to the first three of four points [N, 4, 2], and (1, 1, 1) to the last,
    all homogeneous.
    """
    columns = np.concatenate([points, np.ones_like(points[..., :1])], axis=2).swapaxes(1, 2).astype(np.float64)
    return columns[:, :, :3] * np.linalg.solve(columns[:, :, :3], columns[:, :, 3:]).swapaxes(1, 2)


def _spans(points: np.ndarray) -> np.ndarray:
    """bool [N]: of four points [N, 4, 2], whole numbers, no three lie on a line."""
    spanned = np.ones(len(points), bool)
    for i in range(4):
        a, b = (points[:, (i + k) % 4] - points[:, i] for k in (1, 2))
        spanned &= a[:, 0] * b[:, 1] != a[:, 1] * b[:, 0]
    return spanned
