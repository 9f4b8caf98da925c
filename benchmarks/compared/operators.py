"""Every operator at fixed parameters, beside the library that has it too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from compared import theirs
from compared.differences import Differences
from compared.ours import Applied
from PIL import Image
from torchvision.transforms import v2

from dalipipe.ops import image as ops
from dalipipe.ops import mix
from dalipipe.ops.image.families import CropOp, ElasticOp, ResizeOp, WarpOp
from dalipipe.ops.pixels import warp_points
from dalipipe.policy import DrawError, Op, Params, Policy


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


@dataclass(frozen=True)
class Pictures:
    """uint8 [H, W, 3]; a setting takes ``each`` of them, every setting the next, and more where there are few."""

    pictures: Sequence[np.ndarray]
    each: int

    def of(self, number: int, of_many: int) -> list[np.ndarray]:
        count = len(self.pictures)
        each = min(count, self.each * max(1, 5 // of_many))
        return [self.pictures[(number * each + i) % count] for i in range(each)]


def _fixed(kind: Any, *values: float, **fields: Any) -> tuple[Op, ...]:
    """At each of the values, where the first field is a range."""
    return tuple(kind((value, value), **fields) for value in values)


def _along(kind: Any, *pairs: tuple[float, float], **fields: Any) -> tuple[Op, ...]:
    return tuple(kind((x, x), (y, y), **fields) for x, y in pairs)


def _sizes() -> Iterable[Case]:
    family = "Sizes and crops"
    for interpolation in ("bilinear", "bicubic", "nearest"):
        how: dict[str, Any] = {"interpolation": interpolation}
        limited = ops.Resize(200, max_size=240, **how)
        sizes = (*(ops.Resize(size, **how) for size in (224, 96, 320, 33, (160, 301))), limited)
        yield Case(family, f"Resize ({interpolation})", sizes)
        crops = [ops.RandomResizedCrop(size, **how) for size in (224, 160, (96, 130))]
        crops += [ops.RandomResizedCrop(224, scale=scale, **how) for scale in ((0.01, 0.1), (0.8, 1.0))]
        yield Case(family, f"RandomResizedCrop ({interpolation})", tuple(crops))
    yield Case(family, "RandomResize", tuple(ops.RandomResize(n, 2 * n) for n in (20, 64, 128, 200, 260)))
    shortest = tuple(ops.RandomShortestSize((n, n + 16, n + 40), max_size=2 * n) for n in (32, 96, 160, 240, 320))
    yield Case(family, "RandomShortestSize", shortest)
    jitters = tuple(ops.ScaleJitter((n, n + 30)) for n in (32, 64, 128, 200, 256))
    yield Case(family, "ScaleJitter", jitters)
    ratios = [ops.ResizeKeepRatio(224, longest, scale_p=1.0, ratio_p=1.0) for longest in (0.0, 0.5, 1.0)]
    ratios += [ops.ResizeKeepRatio(160, interpolation="bicubic"), ops.ResizeKeepRatio((100, 120), scale_p=1.0)]
    yield Case(family, "ResizeKeepRatio", tuple(ratios))
    centres = tuple(ops.CenterCrop(size) for size in (224, 31, (100, 251), (333, 200), 480))
    yield Case(family, "CenterCrop", centres, exact=True)
    cut: dict[str, Any] = {"pad_if_needed": True, "fill": (124, 116, 104)}
    crops = [ops.RandomCrop(224, **cut), ops.RandomCrop((90, 400), **cut), ops.RandomCrop(32, 4), ops.RandomCrop(24)]
    yield Case(family, "RandomCrop", (*crops, ops.RandomCrop(200, (3, 7, 20, 1), **cut)), exact=True)
    pads = tuple(ops.Pad(padding, fill=(1, 2, 3)) for padding in (0, 1, 40, (3, 8), (1, 2, 3, 9)))
    yield Case(family, "Pad", pads, exact=True)
    yield Case(family, "PadTo", tuple(ops.PadTo(n, fill=(9, 0, 200)) for n in (33, 224, (300, 700), 480, 520)), True)
    zooms = tuple(ops.ZoomOut((v, v + 0.3), fill=(124, 116, 104), p=1.0) for v in (1.0, 1.1, 1.5, 2.0, 3.0))
    yield Case(family, "ZoomOut", zooms, exact=True)
    for kind in (ops.HorizontalFlip, ops.VerticalFlip):
        yield Case("Flips", kind.__name__, (kind(p=1.0),), exact=True)


def _warps() -> Iterable[Case]:
    family = "Warps"
    for interpolation in ("bilinear", "nearest", "bicubic"):
        how: dict[str, Any] = {"interpolation": interpolation}
        on_tensors = interpolation != "bicubic"

        def case(name: str, settings: tuple[Op, ...]) -> Case:
            return Case(family, f"{name} ({interpolation})", settings, on_tensors=on_tensors)  # noqa: B023

        yield case("Rotate", _fixed(ops.Rotate, -135.0, -17.0, 3.0, 30.0, 90.0, 180.0, fill=(124, 116, 104), **how))
        shares = ((0.05, 0.0), (-0.1, 0.2), (0.3, -0.33), (0.0, 0.452), (-0.9, 0.9))
        yield case("Translate", _along(ops.Translate, *shares, fill=(124, 116, 104), **how))
        yield case("TranslatePx", _along(ops.TranslatePx, (3, 0), (0, -7.9), (12, 5), (-2, -2), (31, 31), **how))
        yield case("Scale", _fixed(ops.Scale, 0.5, 0.77, 0.95, 1.11, 1.5, 2.3, **how))
        yield case("Shear", _along(ops.Shear, (5, 0), (-20, 0), (0, 12), (10, -5), (40, 0), **how))
        slope: dict[str, Any] = {"unit": "slope", "center": "corner", **how}
        yield case(
            "Shear about the corner", _along(ops.Shear, (0.1, 0), (-0.3, 0), (0, 0.2), (0, -0.3), (0.9, 0), **slope)
        )
        degrees = (
            (-30, 1.2, (0, 0)),
            (5, 0.8, (10, 10)),
            (15, 1.0, (-20, -20)),
            (45, 0.6, (5, 5, 8, 8)),
            (170, 1.7, (0, 0)),
        )
        settings = (ops.Affine((a, a), (0.1, 0.2), (s, s), shear, **how) for a, s, shear in degrees)
        yield case("Affine", tuple(settings))
        yield case("Perspective", tuple(ops.Perspective(v, p=1.0, **how) for v in (0.1, 0.3, 0.5, 0.7, 0.9)))
        elastics = ((10.0, 2.0), (50.0, 5.0), ((120.0, 60.0), (8.0, 4.0)), (300.0, 9.0), (30.0, 0.0))
        if on_tensors:  # torchvision's own way with a PIL picture is to make a tensor of it
            settings = (ops.Elastic(alpha, sigma, **how) for alpha, sigma in elastics)
            yield Case(family, f"Elastic ({interpolation})", tuple(settings), on_pil=False)


def _colour() -> Iterable[Case]:
    family = "Colour"
    factors = (0.0, 0.1, 0.37, 0.6, 0.99, 1.4, 1.9, 3.0, 5.0)
    for kind in (ops.Brightness, ops.Contrast, ops.Saturation):
        yield Case(family, kind.__name__, _fixed(kind, *factors))
    yield Case(family, "Hue", _fixed(ops.Hue, -0.5, -0.21, -0.03, 0.1, 0.25, 0.4))
    yield Case(family, "Grayscale", (ops.Grayscale(p=1.0),))
    yield Case(family, "ChannelShuffle", (ops.ChannelShuffle(),), exact=True)
    yield Case(family, "Invert", (ops.Invert(),), exact=True)
    yield Case(family, "Posterize", _fixed(ops.Posterize, *range(1, 9)), exact=True)
    yield Case(family, "Solarize", _fixed(ops.Solarize, 0.0, 1.0, 64.3, 128.0, 200.0, 255.0), exact=True)
    yield Case(family, "SolarizeAdd", _fixed(ops.SolarizeAdd, 0.0, 11.0, 55.0, 99.0, 110.0))
    yield Case(family, "Gamma", (*_fixed(ops.Gamma, 0.1, 0.5, 0.9, 1.3, 2.2, 5.0), ops.Gamma((0.7, 0.7), gain=1.3)))
    yield Case(family, "AutoContrast", (ops.AutoContrast(),))
    yield Case(family, "Equalize", (ops.Equalize(),), exact=True)


def _filters() -> Iterable[Case]:
    family = "Filters"
    yield Case(family, "Sharpness", _fixed(ops.Sharpness, 0.0, 0.1, 0.55, 0.99, 1.3, 1.9, 4.0))
    blurs = [
        ops.GaussianBlur(n, (s, s)) for n, s in ((3, 0.1), (3, 1.0), (5, 0.7), (9, 1.5), ((7, 13), 2.0), (23, 3.7))
    ]
    yield Case(family, "GaussianBlur", tuple(blurs), on_pil=False)  # torchvision makes a tensor of a PIL picture
    noises = [
        ops.GaussianNoise(mean, (sigma, sigma)) for mean, sigma in ((0, 2), (0, 10), (0, 25.5), (-20, 5), (13, 60))
    ]
    yield Case(family, "GaussianNoise", tuple(noises), on_pil=False)
    yield Case(family, "GaussianNoise (on floats)", tuple(noises), on_pil=False, on_floats=True)
    yield Case(family, "JpegCompression", _fixed(ops.JpegCompression, 1, 10, 35, 50, 75, 95, 100))
    smears = [ops.MotionBlur((n, n), (a, a)) for n, a in ((3, 0), (5, 90), (7, 30), (9, 133), (15, 71))]
    yield Case(family, "MotionBlur", tuple(smears), on_pil=False)


def _occlusion() -> Iterable[Case]:
    family = "Occlusion and the end"
    boxes = (ops.RandomErasing(value=(1, 2, 3), p=1.0), ops.RandomErasing((0.3, 0.6), (1.0, 1.0), p=1.0))
    boxes += (ops.RandomErasing((0.02, 0.1), count=(2, 4), value=255.0, p=1.0),)
    boxes += tuple(ops.RandomErasing((s, s), value=(124.0, 116.0, 104.0), p=1.0) for s in (0.01, 0.2))
    yield Case(family, "RandomErasing", boxes, exact=True, on_pil=False)
    cutouts = tuple(ops.Cutout(n, count) for n, count in ((1, 1), (8, 1), (16, 4), (75, 1), (112, 2)))
    yield Case(family, "Cutout", cutouts, exact=True, on_pil=False)
    grids = [
        ops.GridMask(unit, keep, angle)
        for unit, keep, angle in (
            (96.0, 0.6, 0.0),
            ((96.0, 224.0), 0.6, 45.0),
            (12.0, 0.3, 10.0),
            (7.5, 0.5, 360.0),
            (32.0, 0.9, 90.0),
        )
    ]
    yield Case(family, "GridMask", tuple(grids), on_pil=False)
    normals = (
        ops.Normalize(),
        ops.Normalize(0.5, 0.5),
        ops.Normalize(0.0, 1.0),
        ops.Normalize((0.1, 0.5, 0.9), (2.0, 0.3, 0.01)),
    )
    yield Case(
        family, "Normalize", (*normals, ops.Normalize((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))), on_pil=False
    )


CASES: tuple[Case, ...] = (*_sizes(), *_warps(), *_colour(), *_filters(), *_occlusion())


def measure(case: Case, sets: Mapping[str, Pictures]) -> dict[str, Any]:
    """A row of the table: what each setting gave on each set of pictures."""
    found = {}
    for name, pictures in sets.items():
        made: list[dict[str, Differences] | None] = []
        for number, op in enumerate(case.settings):
            try:
                made.append(_compare(case, op, pictures.of(number, of_many=len(case.settings))))
            except DrawError:  # a crop larger than the picture
                made.append(None)
        found[name] = _summed_up(made)
    return _row(case.family, case.name, case.settings, case.compared_with, found, exact=case.exact)


def _row(family: str, name: str, settings: Sequence[Op], beside: str, sets: Any, exact: bool = False) -> dict[str, Any]:
    operator = type(settings[0]).__name__
    shown = [repr(op) for op in settings]
    return {
        "family": family,
        "name": name,
        "operator": operator,
        "with": beside,
        "exact": exact,
        "settings": shown,
        "on": sets,
    }


def _summed_up(made: Sequence[dict[str, Differences] | None]) -> dict[str, Any]:
    """The worst of the settings, of each figure, and, setting by setting: max, mean, shares beyond 1 and 2 levels."""
    used = [one for one in made if one is not None]
    names = [name for name in ("tensor", "elsewhere", "pil", "pil_itself") if any(name in one for one in used)]
    worst = {}
    for name in names:
        summaries = [one[name].summary() for one in used if name in one]
        worst[name] = {key: max(summary[key] for summary in summaries) for key in summaries[0]}
        worst[name]["pictures"] = sum(summary["pictures"] for summary in summaries)
    first = "tensor" if "tensor" in names else "pil"
    each = [None if one is None else [*one[first].summary().values()][1:] for one in made]
    return {**worst, "by_setting": each}


def _compare(case: Case, op: Op, pictures: Sequence[np.ndarray]) -> dict[str, Differences]:
    measured = {name: Differences() for name in ("tensor", "elsewhere", "pil", "pil_itself")}
    normalised = isinstance(op, ops.Normalize)
    applied = Applied([op], dtype=torch.float32 if normalised else torch.uint8)
    unit = np.broadcast_to(255.0 * np.asarray(op.std, np.float32), 3)[:, None, None] if normalised else None
    for draws, rows, made in applied.batches(pictures):
        for row, (x, ours) in enumerate(zip(pictures[rows], made, strict=True)):
            params = draws.drawn[0].at(row)
            assert params is not None, f"{op!r} was not applied: give p=1"
            calls = theirs.calls(op, params, x.shape[:2])
            other = None
            if case.on_tensors:
                given = tensor(x)
                other = theirs.made(calls, given / 255 if case.on_floats else given).numpy()
                if case.on_floats:
                    ours, other = ours.astype(np.float32), 255 * other
                pair = (ours, other) if unit is None else (ours * unit, other * unit)
                measured["tensor"].add(*pair)
                unsure = _unsure(op, params, calls, x.shape[:2])
                if unsure is not None:
                    measured["elsewhere"].add(*(np.where(unsure, 0, v) for v in pair))
            if case.on_pil and not normalised:
                pil = np.asarray(theirs.made(calls, Image.fromarray(x))).transpose(2, 0, 1)
                measured["pil"].add(ours, pil)
                if other is not None:
                    measured["pil_itself"].add(other, pil)
    return {name: found for name, found in measured.items() if found.pictures}


_HALFWAY_PX = 2e-3


def _unsure(op: Op, params: Params, calls: list[theirs.Call], size: tuple[int, int]) -> np.ndarray | None:
    """bool [H, W]: the pixels of a warp that libraries make differently. Bilinear: on the border, which is a mixture of
    the picture and what stands outside. Nearest: where two pixels are equally near, but for float32's last digits.
    """
    if not isinstance(op, WarpOp | ElasticOp):
        return None
    if op.interpolation == "bilinear":  # type: ignore[union-attr]
        bare = theirs.Call(calls[0].function, calls[0].given | {"fill": None})
        share = bare(torch.full((1, *size), 255, dtype=torch.uint8))[0].numpy()
        return (share > 0) & (share < 255)
    moved = None
    if isinstance(op, ElasticOp):
        moved = (calls[0].given["displacement"][0] * torch.tensor(size[::-1]) / 2).permute(2, 0, 1).numpy()
    points = warp_points(params.get("matrix", np.eye(3)), size, moved)
    near = [np.abs(at - np.floor(at) - 0.5) < _HALFWAY_PX for at in points]
    return near[0] | near[1]


def tensor(x: np.ndarray) -> torch.Tensor:
    """uint8 [H, W, C] → [C, H, W]."""
    return torch.from_numpy(np.array(x)).permute(2, 0, 1).contiguous()


def measure_mixing(pictures: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """MixUp and CutMix on float32 pictures of one size, beside torchvision's at the same weights and boxes."""
    found = []
    for kind, other in ((mix.MixUp, v2.MixUp(num_classes=2)), (mix.CutMix, v2.CutMix(num_classes=2))):
        settings = [kind(alpha, num_classes=2) for alpha in (0.1, 0.2, 0.8, 1.0, 3.0)]
        made = [{"tensor": _mixed(op, other, pictures)} for op in settings]
        found.append(_row("Mixing", kind.__name__, settings, "torchvision, on floats", {"224 px": _summed_up(made)}))
    return found


def _mixed(op: Op, other: Any, pictures: Sequence[np.ndarray]) -> Differences:
    measured = Differences()
    for draws, _, made in Applied([op], dtype=torch.float32).batches(pictures):
        params = draws.mix
        assert params is not None
        for row, partner in enumerate(params.partner.tolist()):
            pair = torch.stack([tensor(pictures[partner]), tensor(pictures[row])]).float() / 255
            y, x, h, w = params.box[row].tolist()
            given = {"lam": float(params.weight[row]), "box": (x, y, x + w, y + h)}
            expected = other.transform(pair, {"labels": None, "batch_size": 2, **given})
            measured.add(255 * made[row], 255 * expected[1].numpy())
    return measured


def left_out() -> list[str]:
    """Operators that no case is about."""
    known = {type(leaf.op).__name__ for case in CASES for leaf in Policy(case.settings).leaves}
    named = {
        name for name in ops.__all__ if isinstance(getattr(ops, name), type) and issubclass(getattr(ops, name), Op)
    }
    return sorted(name for name in named - known if not name.endswith("Op"))
