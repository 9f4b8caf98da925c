"""What policies draw, read back: shared by the tests of automatic policies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dalipipe import rng
from dalipipe.ops import image as ops
from dalipipe.policy import Drawn, Policy

KEY = rng.make_key(7, 1)
N = 10_000
HEIGHT, WIDTH = 37, 53
SIZE = np.tile(np.array([[HEIGHT, WIDTH]]), (N, 1))


def draw(*nodes: Any, n: int = N) -> list[Drawn]:
    return Policy(nodes).draw(KEY, np.arange(n), SIZE[:n])


def named(drawn: Drawn) -> tuple[str, np.ndarray]:
    """An operator by torchvision's name, and float64 [A]: what was drawn, as torchvision's magnitudes."""
    op, params = drawn.op, drawn.params
    across = "X" if getattr(op, "x", None) != (0.0, 0.0) else "Y"
    if isinstance(op, ops.Shear):
        assert op.center == "corner"
        return f"Shear{across}", params["matrix"][:, 0, 1] if across == "X" else params["matrix"][:, 1, 0]
    if isinstance(op, ops.Translate | ops.TranslatePx):
        return f"Translate{across}", -params["matrix"][:, 0 if across == "X" else 1, 2]
    if isinstance(op, ops.Rotate):
        return "Rotate", np.degrees(np.arctan2(-params["matrix"][:, 0, 1], params["matrix"][:, 0, 0]))
    if isinstance(op, ops.Brightness | ops.Contrast):
        return type(op).__name__, params["matrix"][:, 0, 0] - 1.0
    if isinstance(op, ops.Saturation):
        return "Color", params["matrix"][:, 0, 0] - params["matrix"][:, 1, 0] - 1.0
    if isinstance(op, ops.Sharpness):
        return "Sharpness", -params["values"][:, 0].astype(np.float64)
    if isinstance(op, ops.Posterize):
        return "Posterize", np.array([int(v).bit_count() for v in params["table"][:, 255]], np.float64)
    if isinstance(op, ops.Solarize):
        return "Solarize", (params["table"] == np.arange(256)).sum(axis=1).astype(np.float64)  # the first one inverted
    assert isinstance(op, ops.AutoContrast | ops.Equalize | ops.Invert)
    return type(op).__name__, np.zeros(len(drawn.rows))


def likely(count: float, n: int, p: float) -> bool:
    return abs(count - n * p) <= 4.5 * math.sqrt(n * p * (1 - p)) + 1e-9


def ks(a: np.ndarray, b: np.ndarray) -> float:
    """The Kolmogorov–Smirnov distance of two samples, in units of what chance makes of it: above 2, once in 3000."""
    grid = np.unique(np.concatenate([a, b]))
    cdfs = [np.searchsorted(np.sort(x), grid, side="right") / len(x) for x in (a, b)]
    return float(np.abs(cdfs[0] - cdfs[1]).max() / math.sqrt(1 / len(a) + 1 / len(b)))


def picture(height: int, width: int, channels: int, seed: int = 0) -> np.ndarray:
    """uint8 [H, W, C]: coarse blobs and noise."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (-(-height // 8), -(-width // 8), channels)).repeat(8, 0).repeat(8, 1)
    noise = generator.integers(-20, 21, (height, width, channels))
    return np.clip(coarse[:height, :width] + noise, 0, 255).astype(np.uint8)


def border(drawn: Drawn, row: int, shape: tuple[int, ...]) -> np.ndarray:
    """bool [H, W]: where a warp mixes the picture and what stands outside it, as every library does in its own way."""
    white, black = (drawn.reference(row, np.full(shape, v, np.uint8)).astype(np.int64) for v in (255, 0))
    return ((white - black != 255) & (white != black)).any(axis=2)
