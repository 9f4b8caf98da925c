"""One table of operators: what every operator promises is tested over it, by every engine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dalipipe.ops import image as ops
from dalipipe.policy import Choice, Normal, Op


@dataclass(frozen=True)
class Case:
    """An operator, set to touch every sample visibly. ``tolerance``: of a uint8 value, engine against reference."""

    op: Op
    tolerance: int = 0
    always: bool = False
    """It cannot leave a sample alone (it sets a size, or normalises)."""
    idle: bool = False
    """It may draw what changes nothing."""

    @property
    def name(self) -> str:
        return type(self.op).__name__


CASES = [
    Case(ops.Resize((20, 30)), always=True),
    Case(ops.Resize(24), always=True),
    Case(ops.Resize(30, interpolation="bicubic", max_size=33), always=True),
    Case(ops.Resize(None, interpolation="nearest", max_size=44), always=True),
    Case(ops.RandomResize(16, 70, interpolation="random"), always=True),
    Case(ops.CenterCrop(16, fill=9), always=True),
    Case(ops.CenterCrop((61, 50), fill=(1, 2, 3)), always=True),
    Case(ops.RandomCrop(16, padding=5, fill=(200, 100, 0)), always=True),
    Case(ops.RandomCrop(57, pad_if_needed=True), always=True),
    Case(ops.RandomCrop(17, padding=(1, 2, 3, 9), pad_if_needed=True), always=True),
    Case(ops.RandomCrop(17, padding=2, pad_if_needed=True, spread=0.4), always=True),
    Case(ops.Pad((3, 1, 0, 2), fill=(9, 8, 7)), always=True),
    Case(ops.RandomResizedCrop(24), always=True),
    Case(ops.RandomResizedCrop((7, 40), scale=(0.5, 0.9)), always=True),
    Case(ops.RandomResizedCrop(30, ratio=Choice((0.5, 2.0)), interpolation="random"), always=True),
    Case(ops.RandomResizedCrop(30, interpolation="nearest"), always=True),
    Case(ops.PadTo((45, 60), fill=(7, 8, 9)), always=True),
    Case(ops.ShrinkTo(24), always=True),
    Case(ops.ShrinkTo(30, interpolation="bicubic"), always=True),
    Case(ops.ZoomOut((1.1, 1.8), fill=40, p=1.0), always=True),
    Case(ops.RandomShortestSize((17, 24, 30), max_size=50), always=True),
    Case(ops.ScaleJitter((40, 30), (0.6, 1.4), interpolation="random"), always=True),
    Case(ops.ResizeKeepRatio(24, 0.7, "bicubic", scale_p=0.5, scale_is_area=True, ratio_p=0.5), always=True),
    Case(ops.HorizontalFlip(p=1.0)),
    Case(ops.VerticalFlip(p=1.0)),
    Case(ops.Rotate(40, fill=(10, 20, 30))),
    Case(ops.Rotate((90, 90), interpolation="nearest")),
    Case(ops.Rotate(Normal(27.0, 1.5, (0.0, 30.0), signed=True), interpolation="random", fill=128)),
    Case(ops.Rotate(70, interpolation="bicubic", fill=(0, 90, 255))),
    Case(ops.Translate((0.1, 0.4), (-0.3, -0.1), fill=77)),
    Case(ops.Translate(Choice((0.31,), signed=True), 0.0, rounding="none", interpolation="bicubic")),
    Case(ops.TranslatePx((3, 9), (-9, -3), interpolation="nearest")),
    Case(ops.Scale((0.5, 0.8))),
    Case(ops.Scale((1.2, 2.0), interpolation="nearest")),
    Case(ops.Shear((10, 30), 15)),
    Case(ops.Shear((0.2, 0.3), 0.0, unit="slope", center="corner", interpolation="nearest")),
    Case(ops.Affine((5, 40), (0.2, 0.3), (0.6, 1.4), (5, 20, -10, -5), fill=(1, 2, 3))),
    Case(ops.Perspective(0.8, p=1.0, fill=60)),
    Case(ops.Perspective(0.6, p=1.0, interpolation="nearest")),
    Case(ops.Elastic(60.0, (3.0, 4.0), fill=(200, 0, 0))),
    Case(ops.Elastic(40.0, 0.0, interpolation="nearest")),
    Case(ops.Brightness((0.3, 0.8))),
    Case(ops.Brightness((1.2, 3.0))),
    Case(ops.Contrast((0.2, 0.8))),
    Case(ops.Saturation((0.0, 0.5))),
    Case(ops.Saturation((1.5, 3.0))),
    Case(ops.Hue((0.1, 0.5))),
    Case(ops.Hue((-0.5, -0.1))),
    Case(ops.Grayscale(p=1.0)),
    Case(ops.ChannelShuffle(), idle=True),
    Case(ops.Invert()),
    Case(ops.SolarizeAdd((40, 90), threshold=140.0)),
    Case(ops.Gamma((0.3, 0.6))),
    Case(ops.Gamma((1.5, 3.0), gain=0.9)),
    Case(ops.AutoContrast()),
    Case(ops.Equalize()),
    Case(ops.Solarize((60, 120))),
    Case(ops.Posterize((2, 5))),
    Case(ops.Posterize(Choice((1.0, 3.0)))),
    Case(ops.RandomErasing(p=1.0, value=(3.0, 99.0, 250.0))),
    Case(ops.RandomErasing((0.2, 0.4), count=(2, 4), p=1.0, value="random")),
    Case(ops.Cutout(12, count=2, value=30.0)),
    Case(ops.Cutout(9, value="random")),
    Case(ops.GridMask((8.0, 20.0), (0.4, 0.6), 45.0, value=(1.0, 2.0, 3.0))),
    Case(ops.Sharpness((0.0, 0.5))),
    Case(ops.Sharpness(Normal(0.0, 0.5, (0.3, 0.9), signed=True, plus=1.0))),
    Case(ops.GaussianBlur((5, 9), (0.8, 3.0))),
    Case(ops.GaussianBlur(23, Choice((0.6, 2.0)))),
    Case(ops.MotionBlur((5, 9), (0.0, 180.0))),
    Case(ops.GaussianNoise((-5.0, 5.0), (8.0, 25.0))),
    Case(ops.SaltAndPepper((0.05, 0.3), (0.2, 0.8))),
    Case(ops.JpegCompression((5, 60))),
    Case(ops.Normalize(), always=True),
]

IDS = [f"{case.name}-{i}" for i, case in enumerate(CASES)]

SIZES = [(40, 50), (1, 1), (1, 37), (33, 1), (53, 54), (200, 13)]
"""Heights and widths; awkward on purpose."""


def pictures(sizes: list[tuple[int, int]], channels: int, seed: int = 0) -> list[np.ndarray]:
    """Random uint8 pictures, strided in the rows: smooth parts, noise, and black and white."""
    rng = np.random.default_rng(seed)
    out = []
    for i, (h, w) in enumerate(sizes):
        wide = rng.integers(0, 256, (h, w + 3, channels), dtype=np.uint8)
        if i % 3 == 1:
            wide = (wide // 128) * 255
        if i % 3 == 2:
            wide[:] = np.linspace(0, 255, w + 3).astype(np.uint8)[None, :, None]
        out.append(wide[:, 2 : 2 + w])
    return out
