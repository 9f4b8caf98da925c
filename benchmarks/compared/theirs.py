"""What another library makes of a picture, given what was drawn for one of our operators.

`calls` turns an operator's parameters into calls of torchvision's ``transforms.v2.functional``, with the very same
parameters; `made` makes them, on a uint8 tensor or on a PIL picture. Where torchvision has no such operator,
`REFERENCES` says what stands in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import singledispatch
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import _get_perspective_coeffs
from torchvision.transforms.v2 import functional as F

from dalipipe.ops import filtering
from dalipipe.ops import image as ops
from dalipipe.ops.image.families import RESAMPLES, WARPS, ResizeOp
from dalipipe.policy import Choice, Op, Params

Size = tuple[int, int]
Picture = Any  # torch.Tensor uint8 [C, H, W], or PIL.Image.Image


@dataclass(frozen=True)
class Call:
    """``function(picture, **given)``; ``normals``: what torch's normal generator is to give meanwhile."""

    function: Callable[..., Any]
    given: dict[str, Any]
    normals: torch.Tensor | None = None

    def __call__(self, x: Picture) -> Picture:
        noise = nullcontext() if self.normals is None else mock.patch("torch.randn_like", lambda *_, **__: self.normals)
        with noise:
            return self.function(x, **self.given)


REFERENCES = {
    "SolarizeAdd": "timm",
    "Cutout": "torchvision's erase",
    "MotionBlur": "numpy",
    "GridMask": "numpy",
}
"""By operator, what it is compared with where that is not torchvision's function of the same purpose."""


def made(calls: list[Call], x: Picture) -> Picture:
    """One call after the other."""
    for call in calls:
        x = call(x)
    return x


@singledispatch
def calls(op: Op, params: Params, size: Size) -> list[Call]:
    """What to call for one sample of ``size`` (height, width)."""
    raise TypeError(f"{type(op).__name__} has no counterpart here")


# Sizes, crops and flips --------------------------------------------------------------------------------------------


def _mode(name: str, number: Any, numbers: dict[str, int]) -> InterpolationMode:
    if name == "random":
        name = next(name for name, n in numbers.items() if n == int(number))
    return InterpolationMode(name)


def _resampled(op: Any, params: Params) -> dict[str, Any]:
    return {"interpolation": _mode(op.interpolation, params["resample"], RESAMPLES), "antialias": True}


@calls.register
def _(op: ResizeOp, params: Params, size: Size) -> list[Call]:
    return [Call(F.resize, {"size": params["resized"].tolist()} | _resampled(op, params))]


@calls.register
def _(op: ops.RandomResizedCrop, params: Params, size: Size) -> list[Call]:
    box = dict(zip(("top", "left", "height", "width"), params["box"].tolist(), strict=True))
    return [Call(F.resized_crop, box | {"size": params["resized"].tolist()} | _resampled(op, params))]


@calls.register
def _(op: ops.RandomResize, params: Params, size: Size) -> list[Call]:
    return [Call(F.resize, {"size": [int(params["resized"].min())]} | _resampled(op, params))]


@calls.register
def _(op: ops.Resize, params: Params, size: Size) -> list[Call]:
    wanted = [op.size] if isinstance(op.size, int) else op.size
    return [Call(F.resize, {"size": wanted, "max_size": op.max_size} | _resampled(op, params))]


@calls.register(ops.PadTo)
@calls.register(ops.ZoomOut)
def _(op: Any, params: Params, size: Size) -> list[Call]:
    top, left, height, width = params["box"].tolist()
    around = [-left, -top, left + width - size[1], top + height - size[0]]
    return [Call(F.pad, {"padding": around, "fill": _fill(op)})]


@calls.register
def _(op: ops.RandomCrop, params: Params, size: Size) -> list[Call]:
    top, left, height, width = params["box"].tolist()
    padding = op.padding if isinstance(op.padding, tuple) else (op.padding, op.padding)
    around = list(padding if len(padding) == 4 else padding * 2)
    for axis, wanted in ((1, height), (0, width)):  # of left, top, right, bottom
        missing = max(wanted - size[1 - axis] - around[axis] - around[axis + 2], 0)
        around[axis], around[axis + 2] = around[axis] + missing, around[axis + 2] + missing
    box = {"top": top + around[1], "left": left + around[0], "height": height, "width": width}
    return [Call(F.pad, {"padding": around, "fill": _fill(op)}), Call(F.crop, box)]


@calls.register
def _(op: ops.CenterCrop, params: Params, size: Size) -> list[Call]:
    return [Call(F.center_crop, {"output_size": params["box"][2:].tolist()})]


@calls.register
def _(op: ops.Pad, params: Params, size: Size) -> list[Call]:
    padding = op.padding if isinstance(op.padding, int) else list(op.padding)
    return [Call(F.pad, {"padding": padding, "fill": _fill(op)})]


@calls.register
def _(op: ops.HorizontalFlip, params: Params, size: Size) -> list[Call]:
    return [Call(F.horizontal_flip, {})]


@calls.register
def _(op: ops.VerticalFlip, params: Params, size: Size) -> list[Call]:
    return [Call(F.vertical_flip, {})]


# Warps -------------------------------------------------------------------------------------------------------------


def _fill(op: Any) -> list[float]:
    return [float(v) for v in np.broadcast_to(op.fill, 3)]


def _sampled(op: Any, params: Params) -> dict[str, Any]:
    return {"interpolation": _mode(op.interpolation, params["warp"], WARPS), "fill": _fill(op)}


def snapped(value: float, bounds: Any) -> float:
    """What was drawn from ``bounds``, out of a matrix: where only a few numbers could be, the nearest of them."""
    if isinstance(bounds, Choice):
        signs = (1.0, -1.0) if bounds.signed else (1.0,)
        return min((sign * v for v in bounds.values for sign in signs), key=lambda v: abs(v - value))
    if isinstance(bounds, tuple) and bounds[0] == bounds[1]:
        return float(bounds[0])
    return value


def _affine(op: Any, params: Params, **given: Any) -> list[Call]:
    still = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    return [Call(F.affine, still | given | _sampled(op, params))]


@calls.register
def _(op: ops.Rotate, params: Params, size: Size) -> list[Call]:
    matrix = params["matrix"]
    angle = snapped(math.degrees(math.atan2(-matrix[0, 1], matrix[0, 0])), op.degrees)
    return [Call(F.rotate, {"angle": angle} | _sampled(op, params))]


@calls.register(ops.Translate)
@calls.register(ops.TranslatePx)
def _(op: Any, params: Params, size: Size) -> list[Call]:
    shift = [-v if op.rounding == "none" else -round(v) for v in params["matrix"][:2, 2].tolist()]
    return _affine(op, params, translate=shift)


@calls.register
def _(op: ops.Scale, params: Params, size: Size) -> list[Call]:
    return _affine(op, params, scale=snapped(1.0 / float(params["matrix"][0, 0]), op.factor))


@calls.register
def _(op: ops.Shear, params: Params, size: Size) -> list[Call]:
    matrix, shear = params["matrix"], []
    for slope, bounds in ((matrix[0, 1], op.x), (matrix[1, 0], op.y)):
        if op.unit == "slope":
            shear.append(math.degrees(math.atan(snapped(float(slope), bounds))))
        else:
            shear.append(snapped(math.degrees(math.atan(float(slope))), bounds))
    return _affine(op, params, shear=shear, center=[0, 0] if op.center == "corner" else None)


@calls.register
def _(op: ops.Affine, params: Params, size: Size) -> list[Call]:
    linear, offset = params["matrix"][:2, :2], params["matrix"][:2, 2]
    centre = (np.array(size[::-1]) - 1) / 2
    shift = np.linalg.solve(linear, centre - offset) - centre
    # Its inverse: scale · turn · (shear along y · shear along x), of which one shear is known.
    scale = 1.0 / math.sqrt(abs(np.linalg.det(linear)))
    first, second = (np.linalg.inv(linear) / scale).T
    ranges = op.shear if isinstance(op.shear, tuple) else (0.0, 0.0)
    x_range, y_range = ranges[:2], ranges[2:] or (0.0, 0.0)
    if y_range[0] == y_range[1]:
        tan_y = math.tan(math.radians(y_range[0]))
        angle = math.atan2(first[1], first[0]) + math.atan(tan_y)
        tan_x = -float(second @ _turned(angle))
    elif x_range[0] == x_range[1]:
        tan_x = math.tan(math.radians(x_range[0]))
        upright = second + tan_x * first
        angle = math.atan2(-upright[0], upright[1])
        tan_y = -float(first @ _turned(angle + math.pi / 2))
    else:
        raise TypeError("Affine: an angle and two shears cannot be told apart: fix one of the shears")
    return _affine(
        op,
        params,
        angle=snapped(math.degrees(angle), op.degrees),
        translate=[round(v) for v in shift.tolist()],
        scale=1.0 if op.scale is None else snapped(scale, op.scale),
        shear=[snapped(math.degrees(math.atan(t)), r) for t, r in ((tan_x, x_range), (tan_y, y_range))],
    )


def _turned(angle: float) -> np.ndarray:
    return np.array([math.cos(angle), math.sin(angle)])


@calls.register
def _(op: ops.Perspective, params: Params, size: Size) -> list[Call]:
    start = np.array([[0, 0], [size[1] - 1, 0], [size[1] - 1, size[0] - 1], [0, size[0] - 1]])
    half = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])  # an index counts from its pixel's centre
    to_end = half @ np.linalg.inv(params["matrix"]) @ np.linalg.inv(half)
    end = np.c_[start, np.ones(4)] @ to_end.T
    end = np.rint(end[:, :2] / end[:, 2:]).astype(int)
    coefficients = _get_perspective_coeffs(start.tolist(), end.tolist())
    given = {"startpoints": None, "endpoints": None, "coefficients": coefficients}
    return [Call(F.perspective, given | _sampled(op, params))]


@calls.register
def _(op: ops.Elastic, params: Params, size: Size) -> list[Call]:
    moved = filtering.displacement(size, params["alpha"], params["sigma"], params["noise"])
    moved = torch.from_numpy(moved).permute(1, 2, 0)[None] * 2 / torch.tensor(size[::-1])
    return [Call(F.elastic, {"displacement": moved.float()} | _sampled(op, params))]


# Colour ------------------------------------------------------------------------------------------------------------


@calls.register
def _(op: ops.Brightness, params: Params, size: Size) -> list[Call]:
    return [Call(F.adjust_brightness, {"brightness_factor": float(params["matrix"][0, 0])})]


@calls.register
def _(op: ops.Contrast, params: Params, size: Size) -> list[Call]:
    return [Call(F.adjust_contrast, {"contrast_factor": float(params["matrix"][0, 0])})]


@calls.register
def _(op: ops.Saturation, params: Params, size: Size) -> list[Call]:
    factor = float(params["matrix"][0, 0] - params["matrix"][1, 0])
    return [Call(F.adjust_saturation, {"saturation_factor": snapped(factor, op.factor)})]


@calls.register
def _(op: ops.Hue, params: Params, size: Size) -> list[Call]:
    return [Call(F.adjust_hue, {"hue_factor": float(params["hue"])})]


@calls.register
def _(op: ops.Grayscale, params: Params, size: Size) -> list[Call]:
    return [Call(F.rgb_to_grayscale, {"num_output_channels": 3})]


@calls.register
def _(op: ops.ChannelShuffle, params: Params, size: Size) -> list[Call]:
    return [Call(F.permute_channels, {"permutation": params["matrix"].argmax(axis=1).tolist()})]


@calls.register
def _(op: ops.Invert, params: Params, size: Size) -> list[Call]:
    return [Call(F.invert, {})]


@calls.register
def _(op: ops.Posterize, params: Params, size: Size) -> list[Call]:
    return [Call(F.posterize, {"bits": int(params["table"][255]).bit_count()})]


@calls.register
def _(op: ops.Solarize, params: Params, size: Size) -> list[Call]:
    kept = int((params["table"] == np.arange(256)).sum())  # values are whole: the first that is inverted says it all
    return [Call(F.solarize, {"threshold": float(kept)})]


@calls.register
def _(op: ops.SolarizeAdd, params: Params, size: Size) -> list[Call]:
    from timm.data.auto_augment import solarize_add

    def added(x: Picture, add: int, thresh: float) -> Picture:
        if isinstance(x, Image.Image):
            return solarize_add(x, add, thresh)
        return F.pil_to_tensor(solarize_add(F.to_pil_image(x), add, thresh))

    return [Call(added, {"add": int(params["table"][0]), "thresh": op.threshold})]


@calls.register
def _(op: ops.Gamma, params: Params, size: Size) -> list[Call]:
    assert isinstance(op.gamma, tuple) and op.gamma[0] == op.gamma[1], "a table does not tell its gamma"
    return [Call(F.adjust_gamma, {"gamma": op.gamma[0], "gain": op.gain})]


@calls.register
def _(op: ops.AutoContrast, params: Params, size: Size) -> list[Call]:
    return [Call(F.autocontrast, {})]


@calls.register
def _(op: ops.Equalize, params: Params, size: Size) -> list[Call]:
    return [Call(F.equalize, {})]


# Filters -----------------------------------------------------------------------------------------------------------


@calls.register
def _(op: ops.Sharpness, params: Params, size: Size) -> list[Call]:
    return [Call(F.adjust_sharpness, {"sharpness_factor": snapped(1.0 - float(params["values"][0]), op.factor)})]


@calls.register
def _(op: ops.GaussianBlur, params: Params, size: Size) -> list[Call]:
    taps = op.kernel_size
    weights = np.asarray(params["weights"][: taps[0]], np.float64)
    sigma, middle = 1.0, taps[0] // 2
    if middle:  # exp(−1/2σ²) is what a tap is to the middle one
        sigma = math.sqrt(-0.5 / math.log(max(weights[middle + 1], 1e-45) / weights[middle]))
    sigma = snapped(sigma, op.sigma)
    return [Call(F.gaussian_blur, {"kernel_size": list(taps), "sigma": [sigma, sigma]})]


@calls.register
def _(op: ops.JpegCompression, params: Params, size: Size) -> list[Call]:
    return [Call(F.jpeg, {"quality": int(params["values"][0])})]


@calls.register
def _(op: ops.GaussianNoise, params: Params, size: Size) -> list[Call]:
    mean, sigma = (float(v) / 255 for v in params["values"][:2])
    normals = filtering.normals(params["noise"], (*size, 3)).transpose(2, 0, 1)
    return [Call(F.gaussian_noise, {"mean": mean, "sigma": sigma}, torch.from_numpy(normals.copy()))]


@calls.register
def _(op: ops.MotionBlur, params: Params, size: Size) -> list[Call]:
    length, angle = op.kernel_size[0], op.angle[0]
    assert op.kernel_size[1] == length and op.angle[1] == angle, "weights do not tell their angle"

    def smeared(x: torch.Tensor, length: int, angle: float) -> torch.Tensor:
        r = length // 2
        wide = np.pad(x.numpy().astype(np.float64), ((0, 0), (r + 1, r + 1), (r + 1, r + 1)), "reflect")
        total = np.zeros(x.shape)
        for k in range(-r, r + 1):
            dx = round(k * math.cos(math.radians(angle)), 9) + r + 1
            dy = round(-k * math.sin(math.radians(angle)), 9) + r + 1
            left, top = math.floor(dx), math.floor(dy)
            for y, share_y in ((top, 1 - (dy - top)), (top + 1, dy - top)):
                for x0, share_x in ((left, 1 - (dx - left)), (left + 1, dx - left)):
                    if share_x * share_y:
                        total += share_x * share_y * wide[:, y : y + x.shape[1], x0 : x0 + x.shape[2]]
        return torch.from_numpy(np.rint(total / length).astype(np.uint8))

    return [Call(smeared, {"length": length, "angle": angle})]


# Occlusion ---------------------------------------------------------------------------------------------------------


@calls.register
def _(op: ops.GridMask, params: Params, size: Size) -> list[Call]:
    unit, keep, dx, dy, cos, sin = (float(v) for v in params["values"][:6])

    def masked(x: torch.Tensor) -> torch.Tensor:
        ys, xs = np.mgrid[: size[0], : size[1]].astype(np.float64)
        across, down = (cos * xs + sin * ys + dx) % unit, (cos * ys - sin * xs + dy) % unit
        hidden = torch.from_numpy((across >= keep) & (down >= keep))
        return torch.where(hidden, torch.tensor(np.broadcast_to(op.value, 3)[:, None, None]), x).to(torch.uint8)

    return [Call(masked, {})]


@calls.register(ops.RandomErasing)
@calls.register(ops.Cutout)
def _(op: Any, params: Params, size: Size) -> list[Call]:
    made = []
    value = None if op.value == "random" else torch.tensor(np.broadcast_to(np.float32(op.value), 3)[:, None, None])
    for top, left, height, width in params["boxes"].tolist():
        y, x, bottom, right = max(top, 0), max(left, 0), min(top + height, size[0]), min(left + width, size[1])
        if height < 1 or width < 1 or y >= bottom or x >= right:
            continue
        v = value
        if v is None:
            v = torch.from_numpy(filtering.normals(params["noise"], (*size, 3))[y:bottom, x:right].copy()).permute(
                2, 0, 1
            )
        made.append(Call(F.erase, {"i": y, "j": x, "h": bottom - y, "w": right - x, "v": v}))
    return made


@calls.register
def _(op: ops.Normalize, params: Params, size: Size) -> list[Call]:
    means = {"mean": list(np.broadcast_to(op.mean, 3)), "std": list(np.broadcast_to(op.std, 3))}
    return [Call(F.to_dtype, {"dtype": torch.float32, "scale": True}), Call(F.normalize, means)]
