"""The table of operators that are compared, each at settings across its range."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from compared import theirs

from dalipipe.ops import image as ops
from dalipipe.ops.image.families import CropOp, ResizeOp
from dalipipe.policy import Op


@dataclass(frozen=True)
class Case:
    """A row of the table: an operator at several settings. ``exact``: that is the aim."""

    family: str
    name: str
    settings: tuple[Op, ...]
    exact: bool = False
    on_tensors: bool = True
    """torchvision has it on tensors."""
    on_pil: bool = True
    """It is compared with Pillow, too."""
    on_floats: bool = False
    """torchvision gets floats of 0..1 here, and nothing is rounded."""

    @property
    def changes_size(self) -> bool:
        return isinstance(self.settings[0], ResizeOp | CropOp)

    @property
    def compared_with(self) -> str:
        name = type(self.settings[0]).__name__
        return theirs.REFERENCES.get(name, "torchvision, on floats" if self.on_floats else "torchvision")


GREY = (124, 116, 104)


def _each(kind: Any, *settings: Any, **fields: Any) -> tuple[Any, ...]:
    """An operator for each of the settings: of its arguments, or of the only one."""
    return tuple(kind(*(setting if isinstance(setting, tuple) else (setting,)), **fields) for setting in settings)


def _fixed(kind: Any, *settings: Any, **fields: Any) -> tuple[Any, ...]:
    """Likewise, where arguments are ranges: nothing but the number is drawn."""
    numbers = (setting if isinstance(setting, tuple) else (setting,) for setting in settings)
    return tuple(kind(*((v, v) for v in values), **fields) for values in numbers)


def _sizes() -> Iterator[Case]:
    def case(name: str, *settings: Op, exact: bool = False) -> Case:
        return Case("Sizes and crops", name, settings, exact)

    for how in ("bilinear", "bicubic", "nearest"):
        sizes = _each(ops.Resize, 224, 96, 320, 33, ((160, 301),), interpolation=how)
        yield case(f"Resize ({how})", *sizes, ops.Resize(200, how, max_size=240))
        crops = _each(ops.RandomResizedCrop, 224, 160, ((96, 130),), interpolation=how)
        crops += _each(ops.RandomResizedCrop, (224, (0.01, 0.1)), (224, (0.8, 1.0)), interpolation=how)
        yield case(f"RandomResizedCrop ({how})", *crops)
    yield case("ShrinkTo", *_each(ops.ShrinkTo, 224, 96, 320, 33), ops.ShrinkTo(150, "bicubic"))
    yield case("RandomResize", *_each(ops.RandomResize, (20, 40), (64, 128), (128, 200), (200, 400), (260, 520)))
    shortest = ((n, n + 16, n + 40) for n in (32, 96, 160, 240, 320))
    yield case("RandomShortestSize", *(ops.RandomShortestSize(sizes, max_size=2 * sizes[0]) for sizes in shortest))
    yield case("ScaleJitter", *_each(ops.ScaleJitter, ((32, 62),), 64, 128, ((200, 230),), 256))
    covering = _each(ops.ResizeKeepRatio, (224, 0.0), (224, 0.5), (224, 1.0), scale_p=1.0, ratio_p=1.0)
    covering += (ops.ResizeKeepRatio(160, interpolation="bicubic"), ops.ResizeKeepRatio((100, 120), scale_p=1.0))
    yield case("ResizeKeepRatio", *covering)
    yield case("CenterCrop", *_each(ops.CenterCrop, 224, 31, ((100, 251),), ((333, 200),), 480), exact=True)
    cut = _each(ops.RandomCrop, 224, ((90, 400),), (200, (3, 7, 20, 1)), pad_if_needed=True, fill=GREY)
    yield case("RandomCrop", *cut, ops.RandomCrop(32, 4), ops.RandomCrop(24), exact=True)
    yield case("Pad", *_each(ops.Pad, 0, 1, 40, ((3, 8),), ((1, 2, 3, 9),), fill=(1, 2, 3)), exact=True)
    yield case("PadTo", *_each(ops.PadTo, 33, 224, ((300, 700),), 480, 520, fill=(9, 0, 200)), exact=True)
    zooms = ((1.0, 1.1), (1.1, 1.5), (1.5, 2.0), (2.0, 3.0), (3.0, 3.3))
    yield case("ZoomOut", *(ops.ZoomOut(sides, fill=GREY, p=1.0) for sides in zooms), exact=True)
    for kind in (ops.HorizontalFlip, ops.VerticalFlip):
        yield Case("Flips", kind.__name__, (kind(p=1.0),), exact=True)


def _warps(how: str) -> Iterator[Case]:
    def case(name: str, settings: tuple[Op, ...], **given: Any) -> Case:
        return Case("Warps", f"{name} ({how})", settings, on_tensors=how != "bicubic", **given)

    given: dict[str, Any] = {"interpolation": how}
    yield case("Rotate", _fixed(ops.Rotate, -135.0, -17.0, 3.0, 30.0, 90.0, 180.0, fill=GREY, **given))
    shares = ((0.05, 0.0), (-0.1, 0.2), (0.3, -0.33), (0.0, 0.452), (-0.9, 0.9))
    yield case("Translate", _fixed(ops.Translate, *shares, fill=GREY, **given))
    yield case("TranslatePx", _fixed(ops.TranslatePx, (3, 0), (0, -7.9), (12, 5), (-2, -2), (31, 31), **given))
    yield case("Scale", _fixed(ops.Scale, 0.5, 0.77, 0.95, 1.11, 1.5, 2.3, **given))
    yield case("Shear", _fixed(ops.Shear, (5, 0), (-20, 0), (0, 12), (10, -5), (40, 0), **given))
    slopes = ((0.1, 0), (-0.3, 0), (0, 0.2), (0, -0.3), (0.9, 0))
    corner = _fixed(ops.Shear, *slopes, unit="slope", center="corner", **given)
    yield case("Shear about the corner", corner)
    turns = ((-30, 1.2, (0, 0)), (5, 0.8, (10, 10)), (15, 1.0, (-20, -20)), (45, 0.6, (5, 5, 8, 8)), (170, 1.7, (0, 0)))
    yield case("Affine", tuple(ops.Affine((a, a), (0.1, 0.2), (s, s), shear, **given) for a, s, shear in turns))
    yield case("Perspective", _each(ops.Perspective, 0.1, 0.3, 0.5, 0.7, 0.9, p=1.0, **given))
    if how != "bicubic":  # torchvision makes a tensor of a PIL picture here
        moved = ((10.0, 2.0), (50.0, 5.0), ((120.0, 60.0), (8.0, 4.0)), (300.0, 9.0), (30.0, 0.0))
        yield case("Elastic", _each(ops.Elastic, *moved, **given), on_pil=False)


def _colour() -> Iterator[Case]:
    def case(name: str, *settings: Op, exact: bool = False) -> Case:
        return Case("Colour", name, settings, exact)

    for kind in (ops.Brightness, ops.Contrast, ops.Saturation):
        yield case(kind.__name__, *_fixed(kind, 0.0, 0.1, 0.37, 0.6, 0.99, 1.4, 1.99, 3.0, 5.0))
    yield case("Hue", *_fixed(ops.Hue, -0.5, -0.21, -0.03, 0.1, 0.25, 0.4))
    yield case("Grayscale", ops.Grayscale(p=1.0))
    yield case("ChannelShuffle", ops.ChannelShuffle(), exact=True)
    yield case("Invert", ops.Invert(), exact=True)
    yield case("Posterize", *_fixed(ops.Posterize, *range(1, 9)), exact=True)
    yield case("Solarize", *_fixed(ops.Solarize, 0.0, 1.0, 64.3, 128.0, 200.0, 255.0), exact=True)
    yield case("SolarizeAdd", *_fixed(ops.SolarizeAdd, 0.0, 11.0, 55.0, 99.0, 110.0))
    yield case("Gamma", *_fixed(ops.Gamma, 0.1, 0.5, 0.9, 1.3, 2.2, 5.0), ops.Gamma((0.7, 0.7), gain=1.3))
    yield case("AutoContrast", ops.AutoContrast())
    yield case("Equalize", ops.Equalize(), exact=True)


def _filters() -> Iterator[Case]:
    def case(name: str, *settings: Op, **given: Any) -> Case:
        return Case("Filters", name, settings, **given)

    yield case("Sharpness", *_fixed(ops.Sharpness, 0.0, 0.1, 0.55, 0.99, 1.3, 1.9, 4.0))
    blurs = ((3, 0.1), (3, 1.0), (5, 0.7), (9, 1.5), ((7, 13), 2.0), (23, 3.7))  # of PIL pictures it makes tensors
    yield case("GaussianBlur", *(ops.GaussianBlur(taps, (s, s)) for taps, s in blurs), on_pil=False)
    noises = _fixed(ops.GaussianNoise, (0, 2), (0, 10), (0, 25.5), (-20, 5), (13, 60))
    yield case("GaussianNoise", *noises, on_pil=False)
    yield case("GaussianNoise (on floats)", *noises, on_pil=False, on_floats=True)
    yield case("JpegCompression", *_fixed(ops.JpegCompression, 1, 10, 35, 50, 75, 95, 100))
    yield case("MotionBlur", *_fixed(ops.MotionBlur, (3, 0), (5, 90), (7, 30), (9, 133), (15, 71)), on_pil=False)


def _occlusion() -> Iterator[Case]:
    def case(name: str, *settings: Op, exact: bool = False) -> Case:
        return Case("Occlusion and the end", name, settings, exact, on_pil=False)

    areas = ((0.01, 0.01), (0.02, 0.33), (0.2, 0.2))
    boxes = tuple(ops.RandomErasing(area, value=(1, 2, 3), p=1.0) for area in areas)
    boxes += (ops.RandomErasing((0.3, 0.6), (1.0, 1.0), p=1.0),)
    yield case("RandomErasing", *boxes, ops.RandomErasing(count=(2, 4), value=255.0, p=1.0), exact=True)
    yield case("Cutout", *_each(ops.Cutout, (1, 1), (8, 1), (16, 4), (75, 1), (112, 2)), exact=True)
    cells = ((96.0, 0.6), ((96.0, 224.0), 0.6, 45.0), (12.0, 0.3, 10.0), (7.5, 0.5, 360.0), (32.0, 0.9, 90.0))
    yield case("GridMask", *_each(ops.GridMask, *cells))
    scales = ((0.5, 0.5), (0.0, 1.0), (ops.IMAGENET_MEAN, ops.IMAGENET_STD), ((0.1, 0.5, 0.9), (2.0, 0.3, 0.01)))
    yield case("Normalize", *_each(ops.Normalize, *scales, ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))))


CASES: tuple[Case, ...] = (
    *_sizes(),
    *_warps("bilinear"),
    *_warps("nearest"),
    *_warps("bicubic"),
    *_colour(),
    *_filters(),
    *_occlusion(),
)


def left_out() -> list[str]:
    """Operators that no case is about."""
    compared = {type(case.settings[0]) for case in CASES}
    public = [getattr(ops, name) for name in ops.__all__ if not name.endswith("Op")]
    operators = {kind for kind in public if isinstance(kind, type) and issubclass(kind, Op)}
    return sorted(kind.__name__ for kind in operators - compared)
