"""How far pictures are apart, in levels of 255."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class Differences:
    """Added up over pictures. A pixel is beyond a limit where any of its channels is."""

    pictures: int = 0
    values: int = 0
    pixels: int = 0
    total: float = 0.0
    largest: float = 0.0
    over_1: int = 0
    over_2: int = 0

    def add(self, ours: np.ndarray, theirs: np.ndarray) -> None:
        """Pictures [C, H, W] in 0..255, uint8 or float."""
        if ours.shape != theirs.shape:
            raise ValueError(f"pictures of different shapes: ours {ours.shape}, theirs {theirs.shape}")
        whole = ours.dtype == np.uint8 and theirs.dtype == np.uint8
        apart = np.maximum(ours, theirs) - np.minimum(ours, theirs) if whole else np.abs(ours - theirs)
        worst = apart.max(axis=0)
        slack = 0.0 if whole else 1e-3  # what float32 makes of values times their scale
        self.pictures += 1
        self.values += apart.size
        self.pixels += worst.size
        self.total += float(apart.sum(dtype=np.float64))
        self.largest = max(self.largest, float(worst.max(initial=0)))
        self.over_1 += int((worst > 1 + slack).sum())
        self.over_2 += int((worst > 2 + slack).sum())

    def summary(self) -> dict[str, Any]:
        """JSON-ready: ``beyond_1``, ``beyond_2`` are shares of pixels."""
        pixels = max(self.pixels, 1)
        return {
            "pictures": self.pictures,
            "max": round(self.largest, 6),
            "mean": round(self.total / max(self.values, 1), 9),
            "beyond_1": round(self.over_1 / pixels, 8),
            "beyond_2": round(self.over_2 / pixels, 8),
        }
