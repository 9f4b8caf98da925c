"""What benchmarks/accuracy.py compares: its arms, each a library and what it does to the pictures."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Arm(NamedTuple):
    shown: str
    library: str
    adds: str
    """What stands beside the standard's cropping and mirroring; or ``"normalise only"``."""
    seeds: int


STANDARD = ("standard, torchvision", "standard, dalipipe")
ARMS = {
    "none": Arm("none", "dalipipe", "normalise only", 5),
    STANDARD[0]: Arm("standard", "torchvision", "", 8),
    STANDARD[1]: Arm("standard", "dalipipe", "", 8),
    "randaugment, torchvision": Arm("standard + RandAugment", "torchvision", "RandAugment", 8),
    "randaugment, dalipipe": Arm("standard + RandAugment", "dalipipe", "RandAugment", 8),
    "cutout": Arm("standard + Cutout", "dalipipe", "Cutout", 5),
    "mixup": Arm("standard + MixUp", "dalipipe", "MixUp", 5),
}
