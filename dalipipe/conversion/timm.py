"""timm's transforms, as ``create_transform`` puts them together: what each becomes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from dalipipe.conversion.forms import Form, Made, Refusal, Table, colour, interpolation, made, pair, scaled
from dalipipe.conversion.torchvision import PARTNERS, constant_padding, erasing
from dalipipe.ops import image as ops
from dalipipe.ops import mix
from dalipipe.ops.image.timm_auto import timm_nodes
from dalipipe.policy import OneOf

converts = Table()


@converts("RandomResizedCropAndInterpolation")
def _random_resized_crop(transform: Any, form: Form) -> Made:
    ranges: dict[str, Any] = {"scale": tuple(transform.scale), "ratio": tuple(transform.ratio)}
    resample = interpolation(transform.interpolation)
    return made(ops.RandomResizedCrop(pair(transform.size), **ranges, interpolation=resample))


@converts("ResizeKeepRatio")
def _resize_keep_ratio(transform: Any, form: Form) -> Made:
    size, resample = pair(transform.size), interpolation(transform.interpolation)
    node = ops.ResizeKeepRatio(
        size,
        transform.longest,
        resample,
        scale=tuple(transform.random_scale_range),
        scale_p=transform.random_scale_prob,
        scale_is_area=transform.random_scale_area,
        ratio=tuple(transform.random_aspect_range),
        ratio_p=transform.random_aspect_prob,
    )
    return made(node)


@converts("CenterCropOrPad")
def _center_crop_or_pad(transform: Any, form: Form) -> Made:
    constant_padding(transform)
    return made(ops.CenterCrop(pair(transform.size), fill=colour(transform.fill, form)))


@converts("RandomCropOrPad")
def _random_crop_or_pad(transform: Any, form: Form) -> Made:
    constant_padding(transform)
    raise Refusal("it puts smaller pictures anywhere on their canvas; RandomCrop(pad_if_needed=True) comes near")


@converts("TrimBorder")
def _trim_border(transform: Any, form: Form) -> Made:
    raise Refusal("it cuts a border off pictures of any size: sizes to crop are fixed; make it a CenterCrop")


@converts("RandAugment", "AutoAugment", "AugMixAugment", "AugmentOp")
def _auto(transform: Any, form: Form) -> Made:
    form.colours(type(transform).__name__)
    return made(*timm_nodes(transform))


@converts("RandomErasing")
def _erasing(transform: Any, form: Form) -> Made:
    if transform.rand_color:
        raise Refusal('mode="rand" fills each box with a random colour: "const" and "pixel" can be had')
    if transform.num_splits > 1:
        raise Refusal(f"num_splits={transform.num_splits} leaves a part of each batch alone: there are no splits here")
    fields = {
        "scale": (transform.min_area, transform.max_area),
        "ratio": tuple(math.exp(v) for v in transform.log_aspect_ratio),
    }
    value = "random" if transform.per_pixel else 0.0
    count = (transform.min_count, transform.max_count)
    return made(erasing(form, value, **fields, count=count, p=transform.probability))


@converts("Mixup")
def _mixup(transform: Any, form: Form) -> Made:
    if transform.cutmix_minmax is not None:
        raise Refusal("cutmix_minmax draws its boxes in another way; leave it out")
    if not transform.correct_lam:
        raise Refusal("correct_lam=False weighs labels by the box before it is clipped: give it correct_lam=True")
    fields = {"num_classes": transform.num_classes, "smoothing": transform.label_smoothing}
    nodes = {mix.MixUp: float(transform.mixup_alpha), mix.CutMix: float(transform.cutmix_alpha)}
    shares = {mix.MixUp: 1.0 - transform.switch_prob, mix.CutMix: float(transform.switch_prob)}
    chosen = [kind for kind, alpha in nodes.items() if alpha > 0]
    made_of = tuple(kind(nodes[kind], **fields) for kind in chosen)
    if len(made_of) == 1:
        return made(replace(made_of[0], p=transform.mix_prob), note=PARTNERS)
    return made(OneOf(made_of, p=transform.mix_prob, weights=tuple(shares[kind] for kind in chosen)), note=PARTNERS)


@converts("ToNumpy", "MaybePILToTensor")
def _to_uint8(transform: Any, form: Form) -> Made:
    return Made(form=replace(form, backend="tensor"))


@converts("ToTensor")
def _to_tensor(transform: Any, form: Form) -> Made:
    """Not torchvision's: it does not scale."""
    return Made(form=replace(scaled(form, transform.dtype, scale=False), backend="tensor"))


@converts("MaybeToTensor")
def _maybe_to_tensor(transform: Any, form: Form) -> Made:
    if form.backend == "tensor":
        return made()
    return Made(form=replace(scaled(form, torch.float32, scale=True), backend="tensor"))
