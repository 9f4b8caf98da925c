"""What automatic policies draw, beside torchvision's and timm's own: operators, their order, their magnitudes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch
from compared.ours import KEY
from compared.two_samples import Values, compare, samples
from torchvision.transforms import v2

import dalipipe
from dalipipe.ops import image as ops
from dalipipe.ops.image.families import BlendOp
from dalipipe.policy import Drawn, Policy

SIZE = (375, 500)

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
    for one in Policy(nodes).draw(KEY, samples(nodes, n, again), np.tile([SIZE], (n, 1))):
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
        KEY, samples(config, n, again), np.tile([SIZE], (n, 1))
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
