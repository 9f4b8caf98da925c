"""What is drawn, beside what torchvision's and timm's own transforms draw: 10,000 times each."""

from __future__ import annotations

import inspect
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from compared import theirs
from compared.automatic import AUTOMATIC, SIZE, of_automatic, of_timm
from compared.ours import KEY
from compared.two_samples import UNLIKELY, Values, compare, samples
from torchvision.transforms import v2

import dalipipe
from dalipipe.ops import filtering, mix
from dalipipe.ops import image as ops
from dalipipe.policy import Drawn, Policy

DRAWS = 10_000

# Transforms that draw parameters of functions ----------------------------------------------------------------------

TRANSFORMS: tuple[tuple[Any, tuple[int, int]], ...] = (
    (v2.RandomResizedCrop(224), SIZE),
    (v2.RandomResizedCrop(224, scale=(0.2, 1.0)), (100, 500)),  # ten tries are often not enough
    (v2.RandomCrop(224), SIZE),
    (v2.RandomCrop(32, padding=4), (32, 32)),
    (v2.RandomCrop(400, padding=(3, 5, 20, 9), pad_if_needed=True), SIZE),
    (v2.RandomResize(256, 480), SIZE),
    (v2.RandomShortestSize([256, 288, 320, 480], max_size=600), SIZE),
    (v2.ScaleJitter((300, 400)), SIZE),
    (v2.RandomZoomOut(), SIZE),
    (v2.RandomHorizontalFlip(), SIZE),
    (v2.RandomRotation(30), SIZE),
    (v2.RandomRotation((-5, 90)), SIZE),
    (v2.RandomAffine(20, (0.1, 0.2), (0.7, 1.3), 10), SIZE),
    (v2.RandomAffine((0, 45), shear=(0, 0, -15, 5)), SIZE),
    (v2.RandomPerspective(0.5, p=1.0), SIZE),
    (v2.RandomPerspective(0.2, p=0.3), (31, 48)),
    (v2.ColorJitter(0.4, 0.3, (0.5, 2.0), 0.1), SIZE),
    (v2.RandomPhotometricDistort(), SIZE),
    (v2.RandomChannelPermutation(), SIZE),
    (v2.RandomGrayscale(0.2), SIZE),
    (v2.GaussianBlur(23, (0.1, 2.0)), SIZE),
    (v2.JPEG((20, 80)), SIZE),
    (v2.RandomErasing(p=1.0), SIZE),
    (v2.RandomErasing(p=0.25, scale=(0.2, 0.9), ratio=(0.3, 3.3)), (32, 32)),
)


def of_transform(transform: Any, size: tuple[int, int], n: int, again: int) -> Iterator[dict[str, Any]]:
    """The converted transform beside the transform itself."""
    policy, _ = dalipipe.convert(transform)
    drawn = policy.draw(KEY, samples(transform, n, again), np.tile([size], (n, 1)))
    ours = _parameters(_calls(drawn, row, size) for row in range(n))
    yield from compare(ours, _parameters(_recorded(transform, size, n)))


_LEAST_SIGMA_PX = 0.2

Given = list[tuple[str, dict[str, Any]]]  # functions called, and with what


def _calls(drawn: Sequence[Drawn], row: int, size: tuple[int, int]) -> Given:
    found: Given = []
    for one in drawn:
        params = one.at(row)
        if params is not None:
            found += [(call.function.__name__, call.given) for call in theirs.calls(one.op, params, size)]
    return found


def _recorded(transform: Any, size: tuple[int, int], n: int) -> Iterator[Given]:
    """What torchvision's transform calls; nothing is done to the picture."""
    picture, found = torch.zeros((3, *size), dtype=torch.uint8), []

    def record(function: Any, x: Any, *args: Any, **given: Any) -> Any:
        names = [*inspect.signature(function).parameters][1:]
        found.append((function.__name__, dict(zip(names, args, strict=False)) | given))
        return x

    with mock.patch.object(transform, "_call_kernel", record):
        for _ in range(n):
            transform(picture)
            yield [*found]
            found.clear()


def _parameters(rows: Iterable[Given]) -> Values:
    """By function and argument, or "called": which functions were, in order."""
    values: Values = defaultdict(list)
    for row in rows:
        row = [(name, given) for name, given in row if name != "pad" or any(given["padding"])]
        values["called"].append(" ".join(name for name, _ in row))
        for name, given in row:
            for argument, value in given.items():
                for part, number in _numbers(value):
                    if argument == "sigma":  # below, a blur's weights do not tell: the middle one is all
                        number = max(number, _LEAST_SIGMA_PX)
                    values[f"{name}: {argument}{part}"].append(number)
    ignored = ("fill", "size") if any("height" in name for name in values) else ("fill",)
    return {name: v for name, v in values.items() if name.split(": ")[-1].rstrip("0123456789[]") not in ignored}


def _numbers(value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, torch.Tensor):
        value = value.tolist() if value.ndim == 1 and value.dtype == torch.int64 else None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield "", float(value)
    elif isinstance(value, (list, tuple)):
        for i, v in enumerate(value):
            if isinstance(v, (int, float)):
                yield f"[{i}]", float(v)


# Noise -------------------------------------------------------------------------------------------------------------


def of_displacements(transform: Any, n: int, again: int) -> Iterator[dict[str, Any]]:
    """ElasticTransform's displacements in px, at points too far apart to know of each other."""
    size, pictures = (70, 96), n // 6
    points = (slice(20, 70, 40), slice(16, 96, 32))
    picture, half = torch.zeros((3, *size), dtype=torch.uint8), torch.tensor(size[::-1]) / 2
    indices, policy = samples(transform, pictures, again), dalipipe.convert(transform)[0]
    (one,) = policy.draw(KEY, indices, np.tile([size], (pictures, 1)))
    ours: Values = defaultdict(list)
    others: Values = defaultdict(list)
    for row in range(pictures):
        params = one.at(row)
        assert params is not None
        moved = filtering.displacement(size, params["alpha"], params["sigma"], params["noise"])
        displacement = transform.make_params([picture])["displacement"][0] * half
        for values, field in ((ours, moved), (others, displacement.permute(2, 0, 1).numpy())):
            for axis, along in zip("xy", field, strict=True):
                values[f"displacement in {axis}"] += along[points].ravel().tolist()
                values[f"displacement in {axis} in the corner"].append(float(along[0, 0]))
    yield from compare(ours, others)


def of_normal_noise(n: int, again: int) -> Iterator[dict[str, Any]]:
    """GaussianNoise's numbers."""
    node = ops.GaussianNoise()
    (one,) = Policy([node]).draw(KEY, samples(node, n, again), np.tile([(32, 32)], (n, 1)))
    normals = [float(filtering.normals(noise, (1,))[0]) for noise in one.params["noise"]]
    yield from compare({"noise": normals}, {"noise": torch.randn(n).tolist()})


def of_salt_and_pepper(n: int, again: int) -> Iterator[dict[str, Any]]:
    """How many pixels of a picture it sets."""
    node, pictures, pixels = ops.SaltAndPepper((0.1, 0.1), 0.3), n // 5, 32 * 32
    (one,) = Policy([node]).draw(KEY, samples(node, pictures, again), np.tile([(32, 32)], (pictures, 1)))
    grey, generator = np.full((32, 32, 1), 128, np.uint8), np.random.default_rng(again)
    made = [one.reference(row, grey) for row in range(pictures)]
    ours = {name: [int((x == value).sum()) for x in made] for name, value in (("salt", 255), ("pepper", 0))}
    shares = {"salt": 0.03, "pepper": 0.07}
    yield from compare(ours, {name: generator.binomial(pixels, p, pictures).tolist() for name, p in shares.items()})


# Mixing ------------------------------------------------------------------------------------------------------------


def of_mixing(kind: Any, other: Any, alpha: float, n: int, again: int) -> Iterator[dict[str, Any]]:
    transform, node = other(alpha=alpha, num_classes=10), kind(alpha, num_classes=10)
    (one,) = Policy([node]).draw(KEY, samples(node, n, again), np.tile([SIZE], (n, 1)))
    picture = torch.zeros((1, 3, *SIZE), dtype=torch.uint8)
    made = [transform.make_params([picture]) for _ in range(n)]
    ours: Values = {"lambda": one.params["label_weight"].tolist()}
    others: Values = {"lambda": [params.get("lam", params.get("lam_adjusted")) for params in made]}
    if kind is mix.CutMix:
        ends = np.array([params["box"] for params in made])  # x, y, and those after the last
        boxes = np.concatenate([ends[:, 1::-1], ends[:, :1:-1] - ends[:, 1::-1]], axis=1)
        for values, box in ((ours, one.params["box"]), (others, boxes)):
            for i, name in enumerate(("top", "left", "height", "width")):
                values[f"box: {name}"] = box[(box[:, 2:] > 0).all(axis=1), i].tolist()
    yield from compare(ours, others)


# All ---------------------------------------------------------------------------------------------------------------


def comparisons(n: int) -> Iterator[tuple[str, str, Callable[[int], Iterable[dict[str, Any]]]]]:
    """(family, whose draws, the comparison: of which draws)."""
    for transform, size in TRANSFORMS:
        shown = _shown(transform) + ("" if size == SIZE else f" of {size[0]}×{size[1]} px")
        yield "Transforms", shown, partial(of_transform, transform, size, n)
    for transform in (v2.ElasticTransform(50.0, 3.0), v2.ElasticTransform((40.0, 90.0), (2.0, 4.0))):
        yield "Noise", _shown(transform), partial(of_displacements, transform, n)
    yield "Noise", "torch.randn", partial(of_normal_noise, n)
    yield "Noise", "numpy's binomial: SaltAndPepper(0.1, 0.3)", partial(of_salt_and_pepper, n)
    for transform in AUTOMATIC:
        yield "Automatic policies", _shown(transform), partial(of_automatic, transform, n)
    for config in ("rand-m9-mstd0.5-inc1", "rand-m9-mstd0.5"):
        yield "Automatic policies", f"timm: {config}", partial(of_timm, config, n)
    for alpha in (0.2, 0.8, 1.0):
        for kind, other in ((mix.MixUp, v2.MixUp), (mix.CutMix, v2.CutMix)):
            yield "Mixing", f"{other.__name__}(alpha={alpha})", partial(of_mixing, kind, other, alpha, n)


def measure(n: int = DRAWS) -> list[dict[str, Any]]:
    """A row for each parameter of each transform. What is unlikely is drawn once more: its p is then ``again``."""
    found: list[dict[str, Any]] = []
    for family, shown, comparison in comparisons(n):
        rows = _drawn(comparison, 0)
        if any(row["p"] < UNLIKELY for row in rows):
            again = {row["parameter"]: row["p"] for row in _drawn(comparison, 1)}
            for row in rows:
                if row["p"] < UNLIKELY:
                    row["again"] = again.get(row["parameter"], 1.0)
        found += ({"family": family, "transform": shown, **row} for row in rows)
    return found


def _drawn(comparison: Callable[[int], Iterable[dict[str, Any]]], again: int) -> list[dict[str, Any]]:
    torch.manual_seed(again)
    random.seed(again)
    np.random.seed(again)  # noqa: NPY002  timm's generator
    return list(comparison(again))


def _shown(transform: Any) -> str:
    """As its call, without what is by default."""
    text = " ".join(repr(transform).split())
    for default in _DEFAULTS:
        text = text.replace(f", {default}", "").replace(f"({default}, ", "(").replace(f"({default})", "()")
    return text


_DEFAULTS = ("interpolation=nearest", "interpolation=bilinear", "antialias=True", "fill=0", "padding_mode=constant")
_DEFAULTS += ("expand=False", "inplace=False", "pad_if_needed=False", "value=[0.0]")
_DEFAULTS += ("ratio=(0.75, 1.3333333333333333)",)
