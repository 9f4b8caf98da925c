"""What the image operators do to pixels, in plain numpy: the specification that ``csrc/pixel.h`` and its twins meet.

Pictures are uint8 [H, W, C]. Geometry works in integers or float32, with the operations in the order written here (no
fused multiply-add), and rounds to uint8 once at its end; so does colour.
"""

from __future__ import annotations

import numpy as np

GREY = np.array([0.2989, 0.587, 0.114])
"""Weights of R, G, B in luma, as torchvision has them (ITU-R BT.601)."""


def tap_range(in_size: np.ndarray, out_size: np.ndarray, i: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The source pixels [first, end) that output pixel ``i`` of an antialiased resize looks at. Integers in, int64
    out.
    """
    scale = in_size / out_size
    support = np.maximum(scale, 1.0)
    centre = scale * (i + 0.5)
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    end = np.minimum((centre + support + 0.5).astype(np.int64), in_size)
    return first, end


def resize_weights(in_size: int, out_size: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Fixed-point weights of torch's uint8 antialiased bilinear resize (the triangle filter, as Pillow has it).

    Returns ``first`` int64 [out], ``weights`` int64 [out, taps] and their precision in bits.
    """
    i = np.arange(out_size)
    first, end = tap_range(np.array(in_size), np.array(out_size), i)
    scale = in_size / out_size
    inverse = 1.0 / scale if scale >= 1.0 else 1.0
    tap = np.arange(int((end - first).max()))
    distance = np.abs((tap[None, :] + first[:, None] - (scale * (i + 0.5))[:, None] + 0.5) * inverse)
    weights = np.where((tap[None, :] < (end - first)[:, None]) & (distance < 1.0), 1.0 - distance, 0.0)
    total = np.zeros(out_size)
    for k in tap:  # in order, as a loop in C adds
        total += weights[:, k]
    weights /= total[:, None]
    precision = 0
    while precision < 22 and int(0.5 + weights.max() * (1 << (precision + 1))) < (1 << 15):
        precision += 1
    return first, np.floor(weights * (1 << precision) + 0.5).astype(np.int64), precision


def _resize_axis0(x: np.ndarray, out_size: int) -> np.ndarray:
    first, weights, precision = resize_weights(x.shape[0], out_size)
    total = np.full((out_size, *x.shape[1:]), 1 << (precision - 1), np.int64)
    for k in range(weights.shape[1]):
        total += weights[:, k, None, None] * x[np.minimum(first + k, x.shape[0] - 1)]
    return np.clip(total >> precision, 0, 255).astype(np.uint8)


def resize(x: np.ndarray, height: int, width: int) -> np.ndarray:
    """Antialiased bilinear resize: columns, rounding to uint8, then rows. Bit-equal to torch's on uint8."""
    if x.shape[1] != width:
        x = _resize_axis0(x.swapaxes(0, 1), width).swapaxes(0, 1)
    if x.shape[0] != height:
        x = _resize_axis0(x, height)
    return x


def crop(x: np.ndarray, y0: int, x0: int, height: int, width: int, fill: np.ndarray) -> np.ndarray:
    """The box at (y0, x0); where it leaves the picture, ``fill`` [C]."""
    out = np.empty((height, width, x.shape[2]), x.dtype)
    out[:] = fill[: x.shape[2]]
    top, left = max(y0, 0), max(x0, 0)
    bottom, right = min(y0 + height, x.shape[0]), min(x0 + width, x.shape[1])
    if top < bottom and left < right:
        out[top - y0 : bottom - y0, left - x0 : right - x0] = x[top:bottom, left:right]
    return out


def warp(x: np.ndarray, matrix: np.ndarray, fill: np.ndarray, *, nearest: bool) -> np.ndarray:
    """Samples the picture through ``matrix`` float32 [2, 3], output index (x, y, 1) → input index; pixel centres at
    integers.
    """
    h, w, channels = x.shape
    m = matrix.astype(np.float32)
    ys, xs = np.meshgrid(np.arange(h, dtype=np.float32), np.arange(w, dtype=np.float32), indexing="ij")
    limit = np.float32(1 << 24)
    u = np.clip((m[0, 0] * xs + m[0, 1] * ys) + m[0, 2], -limit, limit)
    v = np.clip((m[1, 0] * xs + m[1, 1] * ys) + m[1, 2], -limit, limit)

    def tap(iy: np.ndarray, ix: np.ndarray) -> np.ndarray:
        inside = (iy >= 0) & (iy < h) & (ix >= 0) & (ix < w)
        value = x[np.clip(iy, 0, h - 1), np.clip(ix, 0, w - 1)]
        return np.where(inside[..., None], value, fill[:channels]).astype(np.float32)

    if nearest:
        half = np.float32(0.5)
        return tap(np.floor(v + half).astype(np.int64), np.floor(u + half).astype(np.int64)).astype(np.uint8)
    u0, v0 = np.floor(u), np.floor(v)
    fu, fv = (u - u0)[..., None], (v - v0)[..., None]
    iu, iv = u0.astype(np.int64), v0.astype(np.int64)

    def between(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
        return a + (b - a) * t

    top = between(tap(iv, iu), tap(iv, iu + 1), fu)
    bottom = between(tap(iv + 1, iu), tap(iv + 1, iu + 1), fu)
    return round_to_uint8(between(top, bottom, fv))


def nearest(mask: np.ndarray, sample: np.void, out_size: tuple[int, int], fill: int) -> np.ndarray:
    """A label map under the geometry of an image pass, by nearest neighbours: [h, w], of the mask's dtype.

    ``mask`` [H, W]: its stored region, whose first pixel lies at the sample's origin in the crop (a whole mask's
    origin is minus the crop box's corner); ``sample``: one of `IMAGE_SAMPLE`; ``fill``: what stands outside. The
    resize takes pixel ⌊i · (crop / resized)⌋ in float32, as torch's ``interpolate(mode="nearest")``; a warp the pixel
    whose centre is nearest, halves to the greater index, whatever the image's interpolation.
    """
    x, y = np.meshgrid(np.arange(out_size[1]), np.arange(out_size[0]))
    if sample["warp"]:
        m, fx, fy = sample["matrix"], x.astype(np.float32), y.astype(np.float32)
        x = _nearest_index((m[0] * fx + m[1] * fy) + m[2], int(sample["canvas_w"]))
        y = _nearest_index((m[3] * fx + m[4] * fy) + m[5], int(sample["canvas_h"]))
    inside = np.ones(out_size, bool)
    for i, axis, side, bit in ((y, "y", "h", 2), (x, "x", "w", 1)):
        canvas, resized, crop = (int(sample[f"{name}_{side}"]) for name in ("canvas", "resized", "crop"))
        inside &= (i >= 0) & (i < canvas)
        i[:] = (canvas - 1 - i if sample["flip"] & bit else i) + int(sample[f"window_{axis}"])
        inside &= (i >= 0) & (i < resized)
        scale = np.float32(crop) / np.float32(resized)
        i[:] = np.minimum((i.astype(np.float32) * scale).astype(np.int64), crop - 1) - int(sample[f"origin_{axis}"])
    out = np.full(out_size, fill, mask.dtype)
    out[inside] = mask[y[inside], x[inside]]
    return out


def _nearest_index(v: np.ndarray, side: int) -> np.ndarray:
    """Index float32 → the nearest whole one; -1 or ``side`` for all beyond it."""
    return np.floor(np.clip(v, np.float32(-1), np.float32(side)) + np.float32(0.5)).astype(np.int64)


def colour(x: np.ndarray, matrix: np.ndarray, mean_matrix: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """``matrix``·rgb + (``mean_matrix``·mean(rgb) + ``offset``), the picture's mean; grey counts as r = g = b."""
    rgb = np.repeat(x, 3, axis=2) if x.shape[2] == 1 else x
    mean = rgb.reshape(-1, 3).sum(axis=0, dtype=np.int64).astype(np.float32) / np.float32(rgb.shape[0] * rgb.shape[1])
    m, k, b = matrix.astype(np.float32), mean_matrix.astype(np.float32), offset.astype(np.float32)
    constant = ((k[:, 0] * mean[0] + k[:, 1] * mean[1]) + k[:, 2] * mean[2]) + b
    r, g, blue = (rgb[..., i : i + 1].astype(np.float32) for i in range(3))
    out = ((m[:, 0] * r + m[:, 1] * g) + m[:, 2] * blue) + constant
    return round_to_uint8(out)[..., : x.shape[2]]


def round_to_uint8(x: np.ndarray) -> np.ndarray:
    """One clamp and one rounding, halves up."""
    return np.floor(np.clip(x, np.float32(0), np.float32(255)) + np.float32(0.5)).astype(np.uint8)
