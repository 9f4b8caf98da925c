"""Boxes of random area and aspect, as `RandomResizedCrop` cuts and `RandomErasing` erases them."""

from __future__ import annotations

from typing import Any

import numpy as np

from dalipipe.policy import Range, draw_range


def random_boxes(u: np.ndarray, size: np.ndarray, scale: Any, ratio: Any, share: Any = 1.0) -> np.ndarray:
    """int64 [N, tries, 2]: the sides of boxes of area ``scale`` · ``share`` · picture and of first : second side
    ``ratio``, log-uniform between a pair's ends. Whether one fits in the picture is for the caller to see.

    ``u``: uniforms float64 [N, 2 · tries]; ``size`` int64 [N, 2]; ``share``: a number or float64 [N].
    """
    area = draw_range(scale, u[:, 0::2]) * (size[:, 0] * size[:, 1] * share)[:, None]
    if isinstance(ratio, Range):
        aspect = ratio.draw(u[:, 1::2])
    else:
        aspect = np.exp(draw_range(np.log(ratio), u[:, 1::2]))
    sides = np.stack([np.sqrt(area * aspect), np.sqrt(area / aspect)], axis=2)
    return np.rint(sides).astype(np.int64)
