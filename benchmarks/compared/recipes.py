"""Whole recipes: what a converted one makes of pictures, beside torchvision's functions as they are drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from compared import theirs
from compared.differences import Differences
from compared.operators import tensor
from compared.ours import Applied
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

import dalipipe
from dalipipe.ops import image as ops
from dalipipe.ops.image.families import BlendOp
from dalipipe.plan import Draws

MEAN, STD = ops.IMAGENET_MEAN, ops.IMAGENET_STD


@dataclass(frozen=True)
class Recipe:
    """``transform()``: torchvision's or timm's. ``on``: the set of pictures."""

    name: str
    transform: Callable[[], Any]
    on: str = "as they are"


def _train(*middle: Any, size: int = 224, erase: float = 0.0) -> Callable[[], Any]:
    """As references/classification/presets.py puts it together."""

    def make() -> Any:
        start = [v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip(), *middle]
        return v2.Compose([*start, *_end(), *([v2.RandomErasing(erase)] if erase else [])])

    return make


def _end(mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> list[Any]:
    return [v2.PILToTensor(), v2.ToDtype(torch.float, scale=True), v2.Normalize(mean, std)]


def _eval(resize: int, crop: int) -> Callable[[], Any]:
    return lambda: v2.Compose([v2.Resize(resize, antialias=True), v2.CenterCrop(crop), *_end()])


def _segmentation() -> Any:
    steps = [v2.RandomResize(260, 1040, antialias=True), v2.RandomHorizontalFlip()]
    return v2.Compose([*steps, v2.RandomCrop(480, pad_if_needed=True), *_end()])


def _ssd() -> Any:
    steps = [v2.RandomPhotometricDistort(), v2.RandomZoomOut(fill=[123, 117, 104]), v2.RandomHorizontalFlip()]
    return v2.Compose([*steps, v2.Resize((300, 300), antialias=True), *_end()])


def _contrastive() -> Any:
    jitter = v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8)
    blur = v2.RandomApply([v2.GaussianBlur(23, (0.1, 2.0))], p=0.5)
    start = [v2.RandomResizedCrop(224, scale=(0.2, 1.0), antialias=True), jitter, v2.RandomGrayscale(0.2), blur]
    return v2.Compose([*start, v2.RandomHorizontalFlip(), *_end()])


def _cifar(policy: v2.AutoAugmentPolicy) -> Callable[[], Any]:
    start = [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), v2.AutoAugment(policy)]
    return lambda: v2.Compose([*start, *_end((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)), v2.RandomErasing()])


def _timm(is_training: bool, **settings: Any) -> Callable[[], Any]:
    def make() -> Any:
        from timm.data import create_transform

        return create_transform(224, is_training=is_training, **settings)

    return make


_BILINEAR: dict[str, Any] = {"interpolation": InterpolationMode.BILINEAR}
_DEIT = {"interpolation": "bicubic", "auto_augment": "rand-m9-mstd0.5-inc1", "re_prob": 0.25, "re_mode": "pixel"}

RECIPES = (
    Recipe("torchvision, classification", _train()),
    Recipe("with RandAugment", _train(v2.RandAugment(**_BILINEAR))),
    Recipe("with TrivialAugmentWide, erasing", _train(v2.TrivialAugmentWide(**_BILINEAR), size=176, erase=0.1)),
    Recipe("with AugMix", _train(v2.AugMix(**_BILINEAR))),
    Recipe("with AutoAugment", _train(v2.AutoAugment(**_BILINEAR))),
    Recipe("torchvision, classification, evaluation", _eval(232, 224)),
    Recipe("torchvision, segmentation", _segmentation),
    Recipe("torchvision, SSD", _ssd),
    Recipe("SimCLR's and MoCo's", _contrastive),
    Recipe("CIFAR-10, AutoAugment", _cifar(v2.AutoAugmentPolicy.CIFAR10), on="32 px"),
    Recipe("SVHN, AutoAugment", _cifar(v2.AutoAugmentPolicy.SVHN), on="32 px"),
    Recipe("timm, rand-m9-mstd0.5", _timm(True, auto_augment="rand-m9-mstd0.5", re_prob=0.25)),
    Recipe("DeiT (timm)", _timm(True, **_DEIT)),
    Recipe("DeiT (timm), evaluation", _timm(False, interpolation="bicubic", crop_pct=0.875)),
)


def measure(recipe: Recipe, sets: Mapping[str, Sequence[np.ndarray]]) -> dict[str, Any]:
    """A row of the table: each picture as it is drawn for it."""
    policy, report = dalipipe.convert(recipe.transform())
    pictures = sets[recipe.on]
    folded, singly = (Applied(policy.ops, engine=name, dtype=torch.float32) for name in ("native", "reference"))
    std = np.asarray(policy.ops[-1].std if isinstance(policy.ops[-1], ops.Normalize) else _std(policy.ops), np.float32)
    unit = np.broadcast_to(255 * std, 3)[:, None, None]
    measured = {name: Differences() for name in ("folded", "singly", "folding", "pil_itself")}
    for (draws, rows, ours), (_, _, one_by_one) in zip(folded.batches(pictures), singly.batches(pictures), strict=True):
        for row, x in enumerate(pictures[rows]):
            other, pil = (unit * _theirs(draws, row, start).numpy() for start in (tensor(x), Image.fromarray(x)))
            a, b = unit * ours[row], unit * one_by_one[row]
            measured["folded"].add(a, other)
            measured["singly"].add(b, other)
            measured["folding"].add(a, b)
            measured["pil_itself"].add(other, pil)
    summaries = {name: found.summary() for name, found in measured.items()}
    return {"name": recipe.name, "policy": repr(policy), "refused": len(report.refused), **summaries}


def _std(nodes: Sequence[Any]) -> Any:
    return next(node.std for node in nodes if isinstance(node, ops.Normalize))


def _theirs(draws: Draws, row: int, x: theirs.Picture) -> torch.Tensor:
    """float32 [C, H, W]: torchvision's functions, operator by operator, from a tensor or a PIL picture."""
    kept, total = x, torch.zeros(())
    for drawn in draws.drawn:
        op, params = drawn.op, drawn.at(row)
        if params is None:
            continue
        if isinstance(op, BlendOp):
            x = x if isinstance(x, torch.Tensor) else F.pil_to_tensor(x)
            if op.step == "keep":
                kept, total = x, torch.zeros(x.shape)
                continue
            total = total + np.float32(params["weight"]) * x.float()
            x = kept
            if op.step == "last":
                x = (total + np.float32(params["kept_weight"]) * kept.float()).to(torch.uint8)
            continue
        if isinstance(op, ops.Normalize) and not isinstance(x, torch.Tensor):
            x = F.pil_to_tensor(x)
        for call in theirs.calls(op, params, tuple(F.get_size(x))):
            x = _called(call, x)
    return x


def _called(call: theirs.Call, x: theirs.Picture) -> theirs.Picture:
    """As the recipes' own transforms call it: without a fill where that is black, and bicubically with Pillow, which
    alone does so in torchvision.
    """
    if call.function not in (F.rotate, F.affine, F.perspective):
        return call(x)
    if not any(call.given["fill"]):
        call = theirs.Call(call.function, call.given | {"fill": None})
    if call.given["interpolation"] == InterpolationMode.BICUBIC and isinstance(x, torch.Tensor):
        return F.pil_to_tensor(call(F.to_pil_image(x)))
    return call(x)
