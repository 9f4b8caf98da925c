"""An operator's reference beside what another library makes of the same picture with the same parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from cases import pictures

from dalipipe import rng
from dalipipe.policy import Drawn, Op, Policy

KEY = rng.make_key(5, 0)
SIZES = ((40, 50), (33, 17), (64, 64))


def draw(op: Any, sizes: Any, key: np.ndarray = KEY) -> Drawn:
    """What is drawn for one picture of each size."""
    return Policy([op]).draw(key, np.arange(len(sizes)), np.array(sizes))[0]


def chw(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x)).permute(2, 0, 1)


def hwc(x: torch.Tensor) -> np.ndarray:
    return x.permute(1, 2, 0).numpy()


def compare(
    op: Op,
    theirs: Callable[[torch.Tensor, Any], torch.Tensor],
    *,
    tolerance: int = 0,
    mean: float = 255.0,
    sizes: Any = SIZES,
    channels: int = 3,
    moves: bool = True,
) -> None:
    """``theirs(picture [C, H, W], its parameters)`` must be what the reference makes of it: within ``tolerance``, and
    ``mean`` on average. ``moves``: the operator has to change the first picture, so that something is compared.
    """
    drawn = draw(op, sizes)
    for row, x in enumerate(pictures(list(sizes), channels)):
        ours = drawn.reference(row, x)
        expected = hwc(theirs(chw(x), drawn.at(row)))
        assert ours.shape == expected.shape and ours.dtype == expected.dtype
        difference = np.abs(ours.astype(int) - expected)
        assert difference.max() <= tolerance, (row, difference.max(), (difference > tolerance).mean())
        assert difference.mean() <= mean, (row, difference.mean())
        assert row > 0 or not moves or ours.shape != x.shape or (ours != x).any(), "the case does nothing"


def ks(a: np.ndarray, b: np.ndarray) -> float:
    """Kolmogorov and Smirnov's distance between two samples, in units of which 1.63 is passed once in a hundred."""
    a, b = np.sort(np.ravel(a)), np.sort(np.ravel(b))
    grid = np.unique(np.concatenate([a, b]))
    apart = np.abs(np.searchsorted(a, grid, "right") / len(a) - np.searchsorted(b, grid, "right") / len(b)).max()
    return float(apart / np.sqrt(1 / len(a) + 1 / len(b)))
