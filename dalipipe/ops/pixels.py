"""What the image operators do to pixels, in plain numpy: the specification that ``csrc/pixel.h`` and its twins meet.

Pictures are uint8 [H, W, C]. Geometry works in integers or float32, with the operations in the order written here (no
fused multiply-add), and rounds to uint8 after its resize and its warp; colour truncates, as torchvision and Pillow do.
"""

from __future__ import annotations

import numpy as np

GREY = np.array([0.2989, 0.587, 0.114])
"""Weights of R, G, B in luma, as torchvision has them (ITU-R BT.601)."""


_REACH = np.array([1.0, 2.0])  # of a filter, in its own unit: triangle, cubic


def tap_range(
    in_size: np.ndarray, out_size: np.ndarray, i: np.ndarray, resample: np.ndarray | int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The source pixels [first, end) that output pixel ``i`` of a resize looks at. Integers in, int64 out.

    ``resample``: 0 bilinear, 1 bicubic, 2 nearest.
    """
    scale = in_size / out_size
    resample = np.asarray(resample)
    support = np.maximum(scale, 1.0) * _REACH[np.minimum(resample, 1)]
    centre = scale * (i + 0.5)
    same = in_size == out_size
    first = np.where(same, i, np.maximum((centre - support + 0.5).astype(np.int64), 0))
    end = np.where(same, i + 1, np.minimum((centre + support + 0.5).astype(np.int64), in_size))
    at = nearest_index(in_size, out_size, i)
    return np.where(resample == 2, at, first), np.where(resample == 2, at + 1, end)


def nearest_index(in_size: np.ndarray | int, out_size: np.ndarray | int, i: np.ndarray) -> np.ndarray:
    """⌊i · in / out⌋ in float32, as torch's ``interpolate(mode="nearest")`` counts."""
    scale = np.asarray(in_size, np.float32) / np.asarray(out_size, np.float32)
    return np.minimum((np.asarray(i, np.float32) * scale).astype(np.int64), np.asarray(in_size) - 1)


def resize_weights(in_size: int, out_size: int, resample: int = 0) -> tuple[np.ndarray, np.ndarray, int]:
    """Fixed-point weights of torch's uint8 antialiased resize: the triangle filter, or the cubic with a = −0.5, both as
    Pillow has them.

    Returns ``first`` int64 [out], ``weights`` int64 [out, taps] and their precision in bits.
    """
    i = np.arange(out_size)
    first, end = tap_range(np.array(in_size), np.array(out_size), i, resample)
    scale = in_size / out_size
    inverse = 1.0 / scale if scale >= 1.0 else 1.0
    tap = np.arange(int((end - first).max()))
    distance = np.abs((tap[None, :] + first[:, None] - (scale * (i + 0.5))[:, None] + 0.5) * inverse)
    used = tap[None, :] < (end - first)[:, None]
    weights = np.where(used, (1.0 - distance if resample == 0 else _cubic(distance)), 0.0)
    if resample == 0:
        weights = np.where(distance < 1.0, weights, 0.0)
    elif resample == 2:
        weights = np.ones_like(weights)
    total = np.zeros(out_size)
    for k in tap:  # in order, as a loop in C adds
        total += weights[:, k]
    weights /= total[:, None]
    precision = 0
    while precision < 22 and int(0.5 + weights.max() * (1 << (precision + 1))) < (1 << 15):
        precision += 1
    scaled = weights * (1 << precision)
    return first, np.trunc(scaled + np.where(scaled < 0, -0.5, 0.5)).astype(np.int64), precision


def _cubic(x: np.ndarray) -> np.ndarray:
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _resize_axis0(x: np.ndarray, out_size: int, resample: int) -> np.ndarray:
    first, weights, precision = resize_weights(x.shape[0], out_size, resample)
    total = np.full((out_size, *x.shape[1:]), 1 << (precision - 1), np.int64)
    for k in range(weights.shape[1]):
        total += weights[:, k, None, None] * x[np.minimum(first + k, x.shape[0] - 1)]
    return np.clip(total >> precision, 0, 255).astype(np.uint8)


def resize(x: np.ndarray, height: int, width: int, *, resample: int = 0) -> np.ndarray:
    """Resize by ``resample`` (0 bilinear, 1 bicubic, both antialiased; 2 nearest): columns, rounding to uint8, then
    rows. Bit-equal to torch's on uint8.
    """
    if x.shape[1] != width:
        x = _resize_axis0(x.swapaxes(0, 1), width, resample).swapaxes(0, 1)
    if x.shape[0] != height:
        x = _resize_axis0(x, height, resample)
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


def warp(
    x: np.ndarray, matrix: np.ndarray, fill: np.ndarray, *, warp: int, displacement: np.ndarray | None = None
) -> np.ndarray:
    """Samples the picture through ``matrix`` [3, 3], output index (x, y, 1) → input index, homogeneous; pixel centres
    at integers. ``warp``: 1 bilinear, 2 nearest, 3 bicubic (Pillow's cubic, a = −1); each tap outside is ``fill``.

    ``displacement`` float32 [2, H, W]: px added to the output's x and y first.
    """
    h, w, channels = x.shape
    u, v = warp_points(matrix, (h, w), displacement)
    reach = 2 if warp == 3 else 1

    def tap(iy: np.ndarray, ix: np.ndarray) -> np.ndarray:
        inside = (iy >= 0) & (iy < h) & (ix >= 0) & (ix < w)
        value = x[np.clip(iy, 0, h - 1), np.clip(ix, 0, w - 1)]
        return np.where(inside[..., None], value, fill[:channels]).astype(np.float32)

    u, v = clamp_index(u, w, reach), clamp_index(v, h, reach)
    if warp == 2:
        return tap(np.rint(v).astype(np.int64), np.rint(u).astype(np.int64)).astype(np.uint8)  # halves to even
    u0, v0 = np.floor(u), np.floor(v)
    fu, fv = (u - u0)[..., None], (v - v0)[..., None]
    iu, iv = u0.astype(np.int64), v0.astype(np.int64)
    if warp == 3:
        rows = [_cubic_between([tap(iv + r, iu + c) for c in (-1, 0, 1, 2)], fu) for r in (-1, 0, 1, 2)]
        return round_to_uint8(_cubic_between(rows, fv))

    def between(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
        return a + (b - a) * t

    top = between(tap(iv, iu), tap(iv, iu + 1), fu)
    bottom = between(tap(iv + 1, iu), tap(iv + 1, iu + 1), fu)
    return round_to_uint8(between(top, bottom, fv))


def warp_points(
    matrix: np.ndarray, size: tuple[int, int], displacement: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Where the output's pixels come from: x and y, float32 [H, W] each."""
    m = matrix.astype(np.float32).reshape(3, 3)
    y, x = np.meshgrid(np.arange(size[0], dtype=np.float32), np.arange(size[1], dtype=np.float32), indexing="ij")
    if displacement is not None:
        x, y = x + displacement[0], y + displacement[1]
    u, v = (m[0, 0] * x + m[0, 1] * y) + m[0, 2], (m[1, 0] * x + m[1, 1] * y) + m[1, 2]
    if (m[2] != (0, 0, 1)).any():
        w = (m[2, 0] * x + m[2, 1] * y) + m[2, 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            u, v = u / w, v / w
    return u, v


def clamp_index(v: np.ndarray, side: int, reach: int) -> np.ndarray:
    """Index float32 → at most ``reach`` px outside [0, side − 1]: all further out sees the same. NaN counts as
    outside.
    """
    begin, end = np.float32(-reach), np.float32(side - 1 + reach)
    return np.where(v > begin, np.minimum(v, end), begin)


def _cubic_between(four: list[np.ndarray], t: np.ndarray) -> np.ndarray:
    (a, b, c, d), two = four, np.float32(2)
    return b + t * ((c - a) + t * ((two * (a - b) + (c - d)) + t * ((b - a) + (d - c))))


def stretch(x: np.ndarray, kind: int) -> np.ndarray:
    """Every channel through a table made from its histogram: ``kind`` 1 to the whole range (autocontrast), 2 to equal
    counts (equalize); both as torchvision has them.
    """
    out = np.empty_like(x)
    for c in range(x.shape[2]):
        counts = np.bincount(x[..., c].reshape(-1), minlength=256)
        out[..., c] = stretch_table(counts, kind)[x[..., c]]
    return out


def stretch_table(counts: np.ndarray, kind: int) -> np.ndarray:
    """``counts`` int64 [256] of one channel's values → uint8 [256]."""
    v = np.arange(256)
    present = np.flatnonzero(counts)
    low, high = int(present[0]), int(present[-1])
    if kind == 1:
        if low >= high:
            return v.astype(np.uint8)
        inverse = np.float32(high - low) * np.float32(1.0 / 255.0)
        return np.clip((v.astype(np.float32) - np.float32(low)) / inverse, 0, 255).astype(np.uint8)
    step = int(counts.sum() - counts[high]) // 255
    if step == 0:
        return v.astype(np.uint8)
    below = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return np.minimum((below + step // 2) // step, 255).astype(np.uint8)


def colour(x: np.ndarray, matrix: np.ndarray, mean_matrix: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """``matrix``·rgb + (``mean_matrix``·mean(rgb) + ``offset``), the picture's mean; grey counts as r = g = b."""
    rgb = np.repeat(x, 3, axis=2) if x.shape[2] == 1 else x
    mean = rgb.reshape(-1, 3).sum(axis=0, dtype=np.int64).astype(np.float32) / np.float32(rgb.shape[0] * rgb.shape[1])
    m, k, b = matrix.astype(np.float32), mean_matrix.astype(np.float32), offset.astype(np.float32)
    constant = ((k[:, 0] * mean[0] + k[:, 1] * mean[1]) + k[:, 2] * mean[2]) + b
    r, g, blue = (rgb[..., i : i + 1].astype(np.float32) for i in range(3))
    out = ((m[:, 0] * r + m[:, 1] * g) + m[:, 2] * blue) + constant
    return np.clip(out, np.float32(0), np.float32(255)).astype(np.uint8)[..., : x.shape[2]]


def hue(x: np.ndarray, turns: float) -> np.ndarray:
    """Turns the hue by ``turns``, −0.5..0.5: to HSV and back in float32, as torchvision's ``adjust_hue``."""
    if x.shape[2] == 1 or turns == 0:
        return x
    one, six = np.float32(1), np.float32(6)
    rgb = x.astype(np.float32) * np.float32(1.0 / 255.0)
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    high, low = rgb.max(axis=2), rgb.min(axis=2)
    span = high - low
    s = span / np.where(high == low, one, high)
    rc, gc, bc = (((high - v) / np.where(high == low, one, span)) for v in (r, g, b))
    h = np.where(high == r, bc - gc, np.where(high == g, (rc + np.float32(2)) - bc, (gc + np.float32(4)) - rc))
    h = h * np.float32(1.0 / 6.0) + one
    h = np.where(h >= one, h - one, h) + np.float32(turns)
    h6 = np.where(h < 0, h + one, np.where(h >= one, h - one, h)) * six
    whole = h6.astype(np.int64)
    sf = s * (h6 - whole.astype(np.float32))
    rest = one - s
    q, t, p = (one - sf) * high, (sf + rest) * high, rest * high
    sector = np.where(whole >= 6, whole - 6, whole)
    out = np.stack(
        [
            np.choose(sector, [high, q, p, p, t, high]),
            np.choose(sector, [t, high, high, q, p, p]),
            np.choose(sector, [p, p, t, high, high, q]),
        ],
        axis=2,
    )
    return np.clip(out * np.float32(255.999), np.float32(0), np.float32(255)).astype(np.uint8)


def erase(x: np.ndarray, boxes: np.ndarray, colour: np.ndarray, sigma: float, normals: np.ndarray | None) -> np.ndarray:
    """Sets ``boxes`` int64 [B, 4] (y, x, h, w) to ``colour`` float32 [3] + ``sigma`` · ``normals`` [H, W, C]."""
    value = np.broadcast_to(colour[: x.shape[2]].astype(np.float32), x.shape)
    if normals is not None:
        value = value + np.float32(sigma) * normals
    if x.dtype == np.uint8:
        value = round_to_uint8(value)
    x = x.copy()
    for y, left, h, w in boxes.tolist():
        if h > 0 and w > 0:
            part = (slice(max(y, 0), max(y + h, 0)), slice(max(left, 0), max(left + w, 0)))
            x[part] = value[part]
    return x


def blend(pictures: list[np.ndarray], weights: list[float], kept: np.ndarray, kept_weight: float) -> np.ndarray:
    """Σ weight · picture + ``kept_weight`` · ``kept`` in float32, in that order, truncated (AugMix)."""
    total = np.zeros(kept.shape, np.float32)
    for picture, weight in zip(pictures, weights, strict=True):
        total = total + np.float32(weight) * picture.astype(np.float32)
    total = total + np.float32(kept_weight) * kept.astype(np.float32)
    return np.clip(total, np.float32(0), np.float32(255)).astype(np.uint8)


def round_to_uint8(x: np.ndarray) -> np.ndarray:
    """One clamp and one rounding, halves up."""
    return np.floor(np.clip(x, np.float32(0), np.float32(255)) + np.float32(0.5)).astype(np.uint8)
