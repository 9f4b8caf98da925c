"""What is drawn, beside what torchvision's and timm's own transforms draw: 10,000 times each."""

from __future__ import annotations

import inspect
import math
import random
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from compared import theirs
from compared.ours import KEY
from torchvision.transforms import v2

import dalipipe
from dalipipe.ops import filtering, mix
from dalipipe.ops import image as ops
from dalipipe.ops.image.families import BlendOp
from dalipipe.policy import Drawn, Policy

DRAWS = 10_000
SIZE = (375, 500)

_FEW = 64

Values = dict[str, list[Any]]  # by parameter: what was drawn

# Two samples -------------------------------------------------------------------------------------------------------


def kolmogorov_smirnov(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """(D, p): the largest distance of two samples' distribution functions, and how often chance makes it as large.

    Where values repeat, as whole numbers do, p is too large, never too small.
    """
    a, b = np.sort(a), np.sort(b)
    grid = np.unique(np.concatenate([a, b]))
    d = np.abs(np.searchsorted(a, grid, "right") / len(a) - np.searchsorted(b, grid, "right") / len(b)).max()
    root = math.sqrt(len(a) * len(b) / (len(a) + len(b)))
    x = (root + 0.12 + 0.11 / root) * d  # Stephens' correction
    if x < 0.2:
        return float(d), 1.0
    terms = (2 * (-1) ** (k - 1) * math.exp(-2 * (k * x) ** 2) for k in range(1, 101))
    return float(d), min(max(sum(terms), 0.0), 1.0)


def chi_squared(a: Counter[Any], b: Counter[Any]) -> tuple[float, float]:
    """(D, p) for how often each of several things was drawn; D is the largest difference of shares. What came fewer
    than ten times counts as one thing.
    """
    n, m = a.total(), b.total()
    keys = sorted(set(a) | set(b), key=repr)
    pairs = [(a[key], b[key]) for key in keys if a[key] + b[key] >= 10]
    rare = (n - sum(x for x, _ in pairs), m - sum(y for _, y in pairs))
    pairs += [rare] if sum(rare) else []
    d = max(abs(x / n - y / m) for x, y in pairs)
    if len(pairs) < 2:
        return d, 1.0
    statistic = sum((x * math.sqrt(m / n) - y * math.sqrt(n / m)) ** 2 / (x + y) for x, y in pairs)
    freedom = torch.tensor((len(pairs) - 1) / 2, dtype=torch.float64)
    return d, float(torch.special.gammaincc(freedom, torch.tensor(statistic / 2, dtype=torch.float64)))


def compare(ours: Values, others: Values) -> Iterator[dict[str, Any]]:
    """A comparison for each parameter that varies: by Kolmogorov and Smirnov, or by χ² where that sees more, which is
    names and numbers of which there are few.
    """
    if set(ours) != set(others):
        raise ValueError(f"different things were drawn: ours {sorted(ours)}, theirs {sorted(others)}")
    seen: list[tuple[list[Any], list[Any]]] = []
    for name in ours:
        a, b = ours[name], others[name]
        if (a, b) in seen:  # a sigma for x, the same for y
            continue
        seen.append((a, b))
        if isinstance(a[0], str):
            test, (d, p) = "χ²", chi_squared(Counter(a), Counter(b))
        else:
            x, y = np.asarray(a, np.float64).round(5), np.asarray(b, np.float64).round(5)  # theirs are float32
            different = len(np.unique(np.concatenate([x, y])))
            if different == 1:
                continue
            few = different <= _FEW
            test = "χ²" if few else "KS"
            d, p = chi_squared(Counter(x.tolist()), Counter(y.tolist())) if few else kolmogorov_smirnov(x, y)
        yield {"parameter": name, "test": test, "draws": [len(a), len(b)], "d": round(d, 5), "p": round(p, 5)}


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
    drawn = policy.draw(KEY, _samples(transform, n, again), np.tile([size], (n, 1)))
    yield from compare(
        _parameters(_calls(drawn, row, size) for row in range(n)), _parameters(_recorded(transform, size, n))
    )


def _samples(what: Any, n: int, again: int = 0) -> np.ndarray:
    """Indices of samples, others for each comparison: what is drawn for these has nothing to do with the others."""
    return np.arange(n) + n * (zlib.crc32(f"{what!r} {again}".encode()) % 100_000)


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
    (one,) = dalipipe.convert(transform)[0].draw(
        KEY, _samples(transform, pictures, again), np.tile([size], (pictures, 1))
    )
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
    (one,) = Policy([node]).draw(KEY, _samples(node, n, again), np.tile([(32, 32)], (n, 1)))
    normals = [float(filtering.normals(noise, (1,))[0]) for noise in one.params["noise"]]
    yield from compare({"noise": normals}, {"noise": torch.randn(n).tolist()})


def of_salt_and_pepper(n: int, again: int) -> Iterator[dict[str, Any]]:
    """How many pixels of a picture it sets."""
    node, pictures, pixels = ops.SaltAndPepper((0.1, 0.1), 0.3), n // 5, 32 * 32
    (one,) = Policy([node]).draw(KEY, _samples(node, pictures, again), np.tile([(32, 32)], (pictures, 1)))
    grey, generator = np.full((32, 32, 1), 128, np.uint8), np.random.default_rng(again)
    made = [one.reference(row, grey) for row in range(pictures)]
    ours = {name: [int((x == value).sum()) for x in made] for name, value in (("salt", 255), ("pepper", 0))}
    shares = {"salt": 0.03, "pepper": 0.07}
    yield from compare(ours, {name: generator.binomial(pixels, p, pictures).tolist() for name, p in shares.items()})


# Automatic policies ------------------------------------------------------------------------------------------------

AUTOMATIC = (
    v2.RandAugment(),
    v2.RandAugment(3, 15, 16),
    v2.TrivialAugmentWide(),
    v2.AutoAugment(),
    v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10),
    v2.AutoAugment(v2.AutoAugmentPolicy.SVHN),
    v2.AugMix(),
    v2.AugMix(severity=7, mixture_width=4, chain_depth=2, alpha=0.5, all_ops=False),
)


def of_automatic(transform: Any, n: int, again: int) -> Iterator[dict[str, Any]]:
    """Which operators come, in which order, and their magnitudes; AugMix's weights and the depth of its chains."""
    nodes = dalipipe.convert(transform)[0].ops
    ours, mixing = _drawn_policy(nodes, n, again)
    recorded, weights = _recorded_policy(transform, n)
    if weights:
        depth = [len(chain) for row in ours for chain in row]
        their_depth = [len(chain) for row in recorded for chain in row]
        # An Identity is not among torchvision's here, so chains are as long as they look.
        yield from compare({"depth of a chain": depth, **mixing}, {"depth of a chain": their_depth, **weights})
    yield from compare(_summed(ours), _summed(recorded))


Chain = list[tuple[str, float]]  # operators and their magnitudes


def _summed(rows: list[list[Chain]]) -> Values:
    chains = [chain for row in rows for chain in row]
    values: Values = {"operators": [" ".join(name for name, _ in chain) for chain in chains]}
    for name, magnitude in sorted(step for chain in chains for step in chain):
        values.setdefault(f"magnitude of {name}", []).append(magnitude)
    return values


def _drawn_policy(nodes: Sequence[Any], n: int, again: int) -> tuple[list[list[Chain]], Values]:
    rows: list[list[Chain]] = [[[]] for _ in range(n)]
    weights: Values = {}
    for one in Policy(nodes).draw(KEY, _samples(nodes, n, again), np.tile([SIZE], (n, 1))):
        if isinstance(one.op, BlendOp):
            if one.op.step != "keep":
                weights[f"weight of chain {len(weights)}"] = one.params["weight"].tolist()
            if one.op.step == "last":
                weights["weight of the picture"] = one.params["kept_weight"].tolist()
            if one.op.step == "add":
                for row in rows:
                    row.append([])
            continue
        name, magnitudes = named(one)
        for row, magnitude in zip(one.rows.tolist(), magnitudes.tolist(), strict=True):
            rows[row][-1].append((name, magnitude))
    return rows, weights


def _recorded_policy(transform: Any, n: int) -> tuple[list[list[Chain]], Values]:
    picture, chain = torch.zeros((3, *SIZE), dtype=torch.uint8), []
    rows: list[list[Chain]] = []
    dirichlet: list[list[float]] = []

    def record(x: Any, name: str, magnitude: float, **_: Any) -> Any:
        if name != "Identity":
            chain.append((name, _as_seen(name, magnitude)))
        return x

    if not isinstance(transform, v2.AugMix):
        with mock.patch.object(transform, "_apply_image_or_video_transform", record):
            for _ in range(n):
                transform(picture)
                rows.append([[*chain]])
                chain.clear()
        return rows, {}

    # AugMix's chains begin with a draw of their depth, or are all as deep; its weights are two Dirichlet draws.
    sample, depths = torch._sample_dirichlet, []

    def weighing(alpha: torch.Tensor) -> torch.Tensor:
        drawn = sample(alpha)
        dirichlet.append(drawn[0].tolist())
        return drawn

    def whole(*args: Any, **given: Any) -> torch.Tensor:
        drawn = randint(*args, **given)
        if given.get("low") == 1:
            depths.append(int(drawn))
        return drawn

    randint, small = torch.randint, torch.zeros((3, 2, 2), dtype=torch.uint8)
    with (
        mock.patch.object(transform, "_apply_image_or_video_transform", record),
        mock.patch.object(transform, "_sample_dirichlet", weighing),
        mock.patch("torch.randint", whole),
        mock.patch("torchvision.transforms.v2._auto_augment.get_size", lambda _: list(SIZE)),
    ):
        for _ in range(n):
            transform(small)
            steps, row = iter(chain), []
            for i in range(transform.mixture_width):
                depth = transform.chain_depth if transform.chain_depth > 0 else depths[i]
                row.append([next(steps) for _ in range(depth)])
            rows.append(row)
            chain.clear()
            depths.clear()
    m, w = np.array(dirichlet[::2]), np.array(dirichlet[1::2])
    weights = {f"weight of chain {i}": (w[:, i] * m[:, 1]).tolist() for i in range(w.shape[1])}
    return rows, {**weights, "weight of the picture": m[:, 0].tolist()}


def _as_seen(name: str, magnitude: float) -> float:
    """torchvision's magnitude, or what is left of it: whole pixels, bits, the first value that is inverted."""
    if name.startswith("Translate") or name == "Posterize":
        return float(int(magnitude))
    return float(math.ceil(float(np.float32(255.0 * magnitude)))) if name == "Solarize" else magnitude


def named(drawn: Drawn) -> tuple[str, np.ndarray]:
    """An operator by the name that automatic policies have for it, and float64 [A]: the magnitudes drawn for it."""
    op, params = drawn.op, drawn.params
    axis = "X" if getattr(op, "x", None) != (0.0, 0.0) else "Y"
    if isinstance(op, ops.Shear):
        return f"Shear{axis}", params["matrix"][:, 0, 1] if axis == "X" else params["matrix"][:, 1, 0]
    if isinstance(op, ops.Translate | ops.TranslatePx):
        return f"Translate{axis}", -params["matrix"][:, 0 if axis == "X" else 1, 2]
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
        return "Solarize", (params["table"] == np.arange(256)).sum(axis=1).astype(np.float64)
    if isinstance(op, ops.SolarizeAdd):
        return "SolarizeAdd", params["table"][:, 0].astype(np.float64)
    return type(op).__name__, np.zeros(len(drawn.rows))


def of_timm(config: str, n: int, again: int) -> Iterator[dict[str, Any]]:
    """timm's RandAugment: which operators come, and the arguments of Pillow's functions."""
    from timm.data.auto_augment import rand_augment_transform

    other = rand_augment_transform(config, {"img_mean": (124, 116, 104)})
    chain: Chain = []
    for op in other.ops:
        op.aug_fn = lambda x, *given, name=op.name, **_: (chain.append((name, _timm(name, *given))), x)[1]
    rows = []
    for _ in range(n):
        other("picture")
        rows.append([[*chain]])
        chain.clear()
    leaves = Policy(dalipipe.ops.image.timm_rand_augment(config)).draw(
        KEY, _samples(config, n, again), np.tile([SIZE], (n, 1))
    )
    ours: list[list[Chain]] = [[[]] for _ in range(n)]
    for place, one in enumerate(leaves):
        name = other.ops[place % len(other.ops)].name
        magnitudes = named(one)[1]
        if isinstance(one.op, ops.Translate):
            magnitudes = magnitudes / SIZE[0 if "Y" in name else 1]
        elif name.removesuffix("Increasing") in ("Color", "Contrast", "Brightness", "Sharpness"):
            magnitudes = magnitudes + 1.0
        for row, magnitude in zip(one.rows.tolist(), magnitudes.tolist(), strict=True):
            ours[row][0].append((name, magnitude))
    yield from compare(_summed(ours), _summed(rows))


def _timm(name: str, value: float = 0.0, *_: Any) -> float:
    return float(min(value, 256)) if name.startswith("Solarize") else float(value)


# Mixing ------------------------------------------------------------------------------------------------------------


def of_mixing(kind: Any, other: Any, alpha: float, n: int, again: int) -> Iterator[dict[str, Any]]:
    transform, node = other(alpha=alpha, num_classes=10), kind(alpha, num_classes=10)
    (one,) = Policy([node]).draw(KEY, _samples(node, n, again), np.tile([SIZE], (n, 1)))
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

UNLIKELY = 0.01


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
                    row["again"] = again[row["parameter"]]
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
