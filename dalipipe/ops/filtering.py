"""What the filters do to pixels, in plain numpy: the specification that ``csrc/filter.h``, ``noise.h``, ``jpeg.h`` and
their twins meet, bit for bit.

Pictures are uint8 [H, W, C], C 1 or 3. Beyond a border a picture is mirrored about its outermost pixel, again and again
where need be. Floats are float32, with the operations in the order written here (no fused multiply-add).
"""

from __future__ import annotations

import math

import numpy as np

from dalipipe import rng
from dalipipe.ops.pixels import round_to_uint8

SHARPEN, SEPARABLE, CONVOLVE, GAUSSIAN_NOISE, SALT_PEPPER, GRID, JPEG = range(1, 8)
"""`Filter` of ``csrc/ops.h``; ``csrc/filter.h`` says what the values of each mean."""

MAX_SIGMA_PX = 500.0
"""Of a blur: the native loops take fewer than 4096 taps."""

_F = np.float32


def apply(kind: int, x: np.ndarray, params: dict[str, np.ndarray]) -> np.ndarray:
    """The filter with one sample's parameters (`FilterOp`)."""
    values = np.asarray(params["values"], np.float32)
    if kind == SHARPEN:
        return sharpen(x, values[0])
    if kind == SEPARABLE:
        taps_h, taps_w = (int(v) for v in params["taps"])
        weights = params["weights"]
        return separable(x, weights[:taps_w], weights[taps_w : taps_w + taps_h])
    if kind == CONVOLVE:
        taps_h, taps_w = (int(v) for v in params["taps"])
        return convolve(x, params["weights"][: taps_h * taps_w].reshape(taps_h, taps_w))
    if kind == GAUSSIAN_NOISE:
        return gaussian_noise(x, values[0], values[1], params["noise"])
    if kind == SALT_PEPPER:
        return salt_pepper(x, values[0], values[1], params["noise"])
    if kind == GRID:
        return grid(x, values)
    if kind == JPEG:
        return jpeg(x, int(values[0]))
    raise ValueError(f"no filter has the number {kind}")


# Neighbours --------------------------------------------------------------------------------------------------------


def reflect(i: np.ndarray, side: int) -> np.ndarray:
    """Indices beyond the borders → within [0, side)."""
    if side == 1:
        return np.zeros_like(i)
    period = 2 * (side - 1)
    i = np.abs(i) % period
    return np.where(i < side, i, period - i)


def sharpen(x: np.ndarray, share: np.float32) -> np.ndarray:
    """x + ``share`` · (smooth − x), truncated; ``share`` = 1 − factor. torchvision's ``adjust_sharpness``, to the bit.

    Its sum is a fused multiply-add. Here ``share`` is split so that all but the last of the operations are exact.
    """
    if min(x.shape[:2]) <= 2:
        return x
    step = _F(1 << 15)
    while (_F(256) + _F(255) * np.abs(share)) * step > _F(1 << 24):
        step *= _F(0.5)
    coarse = np.trunc(share * step) / step
    fine = share - coarse
    v = x.astype(np.int32)
    h, w = x.shape[:2]
    total = 4 * v[1:-1, 1:-1]
    for dy in range(3):
        for dx in range(3):
            total = total + v[dy : h - 2 + dy, dx : w - 2 + dx]
    middle = v[1:-1, 1:-1]
    d = ((total + 6) // 13 - middle).astype(np.float32)
    exact = middle.astype(np.float32) + coarse * d
    out = x.copy()
    out[1:-1, 1:-1] = np.clip(exact + fine * d, _F(0), _F(255)).astype(np.uint8)
    return out


def separable(x: np.ndarray, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Weights float32 [taps], odd: across, then down; rounded once, halves to even."""
    return _round_even(_down(_across(x.astype(np.float32), across), down))


def convolve(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weights float32 [taps_h, taps_w], odd, not mirrored: the first is of what lies above left. Halves to even."""
    h, w = x.shape[:2]
    reach_h, reach_w = weights.shape[0] // 2, weights.shape[1] // 2
    wide = x[reflect(np.arange(-reach_h, h + reach_h), h)][:, reflect(np.arange(-reach_w, w + reach_w), w)]
    wide = wide.astype(np.float32)
    total = np.zeros(x.shape, np.float32)
    for i, j in np.argwhere(weights != 0):
        total += weights[i, j] * wide[i : i + h, j : j + w]
    return _round_even(total)


def gaussian_weights(taps: int, sigma: np.ndarray | float) -> np.ndarray:
    """float32 [..., taps], odd: gaussians of deviations ``sigma`` [...] px, summing to 1; what cannot be seen is 0."""
    distance = (np.arange(taps) - taps // 2) / np.maximum(sigma, 1e-3)[..., None]
    weights = np.exp(-0.5 * distance**2)
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.where(weights < 1e-8, 0.0, weights).astype(np.float32)


def line_weights(taps: int, reach: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """float32 [N, taps, taps], each summing to 1: points 1 px apart on a line through the middle, each shared out
    bilinearly. ``reach`` int64 [N]: how many to either side, at most taps // 2; ``angle`` float64 [N]: radians,
    counter-clockwise from the horizontal.
    """
    middle = taps // 2
    along = np.arange(-middle, middle + 1)
    share = (np.abs(along) <= reach[:, None]) / (2 * reach[:, None] + 1.0)
    x = np.round(middle + along * np.cos(angle)[:, None], 9)
    y = np.round(middle - along * np.sin(angle)[:, None], 9)
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    weights = np.zeros((len(reach), taps + 1, taps + 1))
    rows = np.arange(len(reach))[:, None]
    for dy, tall in ((0, 1 - (y - top)), (1, y - top)):
        for dx, wide in ((0, 1 - (x - left)), (1, x - left)):
            np.add.at(weights, (rows, top + dy, left + dx), share * tall * wide)
    return weights[:, :taps, :taps].astype(np.float32)


def _down(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    h, taps = x.shape[0], len(weights)
    wide = x[reflect(np.arange(-(taps // 2), h + taps // 2), h)]
    total = np.zeros(x.shape, np.float32)
    for k in np.flatnonzero(weights):
        total += weights[k] * wide[k : k + h]
    return total


def _across(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return _down(x.swapaxes(0, 1), weights).swapaxes(0, 1)


def _round_even(x: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(x, _F(0), _F(255))).astype(np.uint8)


# Noise -------------------------------------------------------------------------------------------------------------


def words(noise: np.ndarray, n: int) -> np.ndarray:
    """uint32 [n]: the random words of elements 0 to n - 1 under a `NoiseKey`, uint32 [5]."""
    counters = np.empty((-(-n // 4), 4), np.uint32)
    counters[:, :3] = noise[2:]
    counters[:, 3] = np.arange(len(counters), dtype=np.uint32) + np.uint32(1 << 31)
    return rng.philox4x32(counters, noise[:2]).reshape(-1)[:n]


def unit(word: np.ndarray) -> np.ndarray:
    """Words → float32 in [0, 1), in steps of 2⁻²⁴."""
    return (word >> np.uint32(8)).astype(np.float32) * _F(2.0**-24)


def normal(word: np.ndarray) -> np.ndarray:
    """Words → float32, standard normal, by the inverse of its distribution; ``csrc/noise.h`` says how."""
    q = (word & np.uint32(0x7FFFFFFF)).astype(np.float32) * _F(2.0**-31) + _F(2.0**-32)
    bits = (q * (_F(2) - q)).view(np.uint32)
    exponent = ((bits >> np.uint32(23)).astype(np.int32) - 127).astype(np.float32)
    f = ((bits & np.uint32(0x7FFFFF)) | np.uint32(0x3F800000)).view(np.float32) - _F(1)
    log2 = exponent + f * _polynomial(f, 1.4419656, -0.7096628, 0.4175958, -0.19626966, 0.046385374)
    distance = _F(0) - log2
    upper = _polynomial(distance, 1.2531407, 0.30478853, 0.04135857, 0.0038175236, 1.4025701e-05)
    lower = _polynomial(distance, 1.0, 0.061167862, 0.01624095, 0.00031699325)
    z = (_F(1) - q) * (upper / lower)
    return (z.view(np.uint32) | (word & np.uint32(1 << 31))).view(np.float32)


def _polynomial(x: np.ndarray, *coefficients: float) -> np.ndarray:
    """By Horner's rule; the constant first."""
    total = np.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total = _F(c) + x * total
    return total


def normals(noise: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """float32 of that shape: the noise's first elements, in order, standard normal."""
    return normal(words(noise, math.prod(shape))).reshape(shape)


def gaussian_noise(x: np.ndarray, mean: np.float32, sigma: np.float32, noise: np.ndarray) -> np.ndarray:
    """x + (mean + sigma · normal), 0..255, rounded halves up."""
    return round_to_uint8(x.astype(np.float32) + (_F(mean) + _F(sigma) * normals(noise, x.shape)))


def salt_pepper(x: np.ndarray, amount: np.float32, salt: np.float32, noise: np.ndarray) -> np.ndarray:
    """A share ``amount`` of the pixels set, in all channels: ``salt`` of these to 255, the rest to 0."""
    u = unit(words(noise, x.shape[0] * x.shape[1])).reshape(*x.shape[:2], 1)
    return np.where(u < _F(amount) * _F(salt), 255, np.where(u < amount, 0, x)).astype(np.uint8)


def grid(x: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A lattice of square holes; ``values`` float32 [12] as in ``csrc/filter.h``."""
    side, keep, dx, dy, cos, sin = values[:6]
    fy, fx = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in x.shape[:2]), indexing="ij")
    hole = np.ones(x.shape[:2], bool)
    for at in ((cos * fx + sin * fy) + dx, (cos * fy - sin * fx) + dy):
        within = at - side * np.floor(at / side)
        hole &= (within >= keep) & (within < side)
    return np.where(hole[..., None], round_to_uint8(values[6 : 6 + x.shape[2]]), x)


def elastic_blur(sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How an elastic warp's noise is blurred: taps int64 [2] for x and for y (0: not at all), and weights float32 [K].

    As torchvision's ``ElasticTransform``: 8 · sigma + 1 taps, made odd, by the field's own sigma; but either field is
    blurred by x's sigma across and y's down. The weights: across then down, of x, then of y (`ElasticField`).
    """
    if not (np.asarray(sigma) <= MAX_SIGMA_PX).all():
        raise ValueError(f"sigma must be at most {MAX_SIGMA_PX:g} px, got {sigma}")
    taps = np.array([int(8 * s + 1) // 2 * 2 + 1 if s > 0 else 0 for s in sigma], np.int64)
    parts = [gaussian_weights(int(n), float(s)) for n in taps if n for s in sigma]
    return taps, np.concatenate(parts) if parts else np.zeros(0, np.float32)


def displacement(size: tuple[int, ...], alpha: np.ndarray, sigma: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """float32 [2, h, w]: the px that an elastic warp adds to x, to y. ``alpha``, ``sigma`` [2] px, x before y.

    Noise in [-1, 1), blurred, times alpha / 2: torchvision counts alpha in halves of the picture over its side.
    """
    h, w = size
    field = (_F(2) * unit(words(noise, 2 * h * w)) - _F(1)).reshape(2, h, w)
    taps, weights = elastic_blur(sigma)
    for axis, n in enumerate(taps):
        if n:
            across, down = weights[: 2 * n].reshape(2, n) if axis == 0 else weights[2 * taps[0] :].reshape(2, n)
            field[axis] = _down(_across(field[axis], across), down)
    return np.asarray(alpha, np.float32)[:, None, None] * _F(0.5) * field


# JPEG --------------------------------------------------------------------------------------------------------------

_LUMA_BASE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
_CHROMA_BASE = np.full((8, 8), 99)
_CHROMA_BASE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]


def jpeg(x: np.ndarray, quality: int) -> np.ndarray:
    """What libjpeg-turbo's coder and decoder leave of a picture at ``quality`` 1..100, to the bit: 4:2:0, "islow"
    transforms, "fancy" doubling of chroma. ``csrc/jpeg.h`` has the steps.
    """
    v = x.astype(np.int32)
    if x.shape[2] == 1:
        return _requantise(v[..., 0], _quantisers(_LUMA_BASE, quality))[..., None].astype(np.uint8)
    r, g, b = v[..., 0], v[..., 1], v[..., 2]
    half = 1 << 15
    y = (19595 * r + 38470 * g + 7471 * b + half) >> 16
    cb = (-11059 * r - 21709 * g + 32768 * b + (128 << 16) + half - 1) >> 16
    cr = (32768 * r - 27439 * g - 5329 * b + (128 << 16) + half - 1) >> 16

    y = _requantise(y, _quantisers(_LUMA_BASE, quality))
    of_chroma = _quantisers(_CHROMA_BASE, quality)
    cb, cr = (_double(_requantise(_halve(c), of_chroma, -(-x.shape[1] // 2)), x.shape) - 128 for c in (cb, cr))

    red = y + ((91881 * cr + half) >> 16)
    green = y + ((-22554 * cb - 46802 * cr + half) >> 16)
    blue = y + ((116130 * cb + half) >> 16)
    return np.clip(np.stack([red, green, blue], axis=2), 0, 255).astype(np.uint8)


def _quantisers(base: np.ndarray, quality: int) -> np.ndarray:
    """int64 [8, 8], 1..255."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.clip((base * scale + 50) // 100, 1, 255)


def _halve(plane: np.ndarray) -> np.ndarray:
    """[h, w] → [⌈h/2⌉, whole blocks]: means of 2x2, rounded down and up by turns; the last row and column repeated."""
    h, w = plane.shape
    plane = np.pad(plane, ((0, h % 2), (0, -w % 16)), "edge")
    total = plane[::2, ::2] + plane[::2, 1::2] + plane[1::2, ::2] + plane[1::2, 1::2]
    return (total + 1 + np.arange(total.shape[1]) % 2) >> 2


def _double(plane: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[⌈h/2⌉, ⌈w/2⌉] → [h, w]: a sample counts thrice its neighbour, down and then across; narrow ones are repeated."""
    if plane.shape[1] <= 2:
        plane = plane.repeat(2, axis=0).repeat(2, axis=1)
    else:
        y, x = np.arange(2 * plane.shape[0]), np.arange(2 * plane.shape[1])
        far_y, far_x = (np.clip(i // 2 + i % 2 * 2 - 1, 0, n - 1) for i, n in zip((y, x), plane.shape, strict=True))
        sums = 3 * plane[y // 2] + plane[far_y]
        plane = (3 * sums[:, x // 2] + sums[:, far_x] + 8 - x % 2) >> 4
    return plane[: shape[0], : shape[1]]


def _requantise(plane: np.ndarray, quantisers: np.ndarray, width: int | None = None) -> np.ndarray:
    """A plane through its blocks' transform and quantisers, and back: [h, w], or as many columns as asked for."""
    h, w = plane.shape
    plane = np.pad(plane, ((0, -h % 8), (0, -w % 8)), "edge") - 128
    blocks = plane.reshape(plane.shape[0] // 8, 8, -1, 8).swapaxes(1, 2)
    blocks = _fdct(blocks, -2, 11)
    blocks = _fdct(blocks.swapaxes(2, 3), 2, 15).swapaxes(2, 3)
    levels = (np.abs(blocks) + 4 * quantisers) // (8 * quantisers) * np.sign(blocks)
    blocks = _idct((levels * quantisers).swapaxes(2, 3), 11).swapaxes(2, 3)
    blocks = _idct(blocks, 18)
    return np.clip(blocks.swapaxes(1, 2).reshape(plane.shape) + 128, 0, 255)[:h, : width or w]


def _descale(v: np.ndarray, bits: int) -> np.ndarray:
    return (v + (1 << (bits - 1))) >> bits if bits > 0 else v << -bits


def _odd(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, ...]:
    z5 = (a + b + c + d) * 9633
    z1, z2 = (a + d) * -7373, (b + c) * -20995
    z3, z4 = (a + c) * -16069 + z5, (b + d) * -3196 + z5
    return a * 2446 + z1 + z3, b * 16819 + z2 + z4, c * 25172 + z2 + z3, d * 12299 + z1 + z4


def _fdct(blocks: np.ndarray, plain: int, scaled: int) -> np.ndarray:
    """Eight numbers along the last axis; sums lose ``plain`` bits, products ``scaled``."""
    v = np.moveaxis(blocks, -1, 0)
    s, d = v[:4] + v[:3:-1], v[:4] - v[:3:-1]
    even, odd, e, f = s[0] + s[3], s[1] + s[2], s[0] - s[3], s[1] - s[2]
    z = (e + f) * 4433
    d3, d2, d1, d0 = _odd(d[3], d[2], d[1], d[0])
    sums = {0: even + odd, 4: even - odd}
    products = {1: d0, 2: z + e * 6270, 3: d1, 5: d2, 6: z - f * 15137, 7: d3}
    return np.stack([_descale(sums[k], plain) if k in sums else _descale(products[k], scaled) for k in range(8)], -1)


def _idct(blocks: np.ndarray, bits: int) -> np.ndarray:
    v = np.moveaxis(blocks, -1, 0)
    z = (v[2] + v[6]) * 4433
    e, f = z - v[6] * 15137, z + v[2] * 6270
    total, difference = (v[0] + v[4]) * 8192, (v[0] - v[4]) * 8192
    s = [total + f, difference + e, difference - e, total - f]
    d = _odd(v[7], v[5], v[3], v[1])[::-1]
    return np.stack(
        [
            _descale(v, bits)
            for v in [a + b for a, b in zip(s, d, strict=True)] + [a - b for a, b in zip(s[::-1], d[::-1], strict=True)]
        ],
        -1,
    )
