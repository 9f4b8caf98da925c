"""Transforms that the scripts of torchvision's references/ bring along: what each becomes."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from dalipipe.conversion import torchvision, values
from dalipipe.conversion.forms import Form, Made, Table, colour, made, pair
from dalipipe.ops import image as ops

converts = Table()


def is_from_references(transform: Any) -> bool:
    """Whether a class of a script beside the user's is the references', and not a namesake of one of theirs."""
    held = {name for name in vars(transform) if not name.startswith("_") and name != "training"}
    if held != _HELD.get(type(transform).__name__):
        return False
    takes = list(inspect.signature(type(transform).__call__).parameters)[1:]
    return isinstance(transform, torch.nn.Module) or takes == ["image", "target"]


_MIX = {"num_classes", "p", "alpha", "inplace"}
_HELD: dict[str, set[str]] = {
    "PadIfSmaller": {"size", "fill"},
    "RandomCrop": {"size"},
    "CenterCrop": {"size"},
    "RandomHorizontalFlip": {"flip_prob"},
    "RandomResize": {"min_size", "max_size"},
    "PILToTensor": set(),
    "ToDtype": {"dtype", "scale"},
    "Normalize": {"mean", "std"},
    "RandomMixUp": _MIX,
    "RandomMixup": _MIX,
    "RandomCutMix": _MIX,
    "RandomCutmix": _MIX,
}
"""By class, the attributes that an object of it has."""


@converts("PadIfSmaller")
def _pad_if_smaller(transform: Any, form: Form) -> Made:
    return made(ops.PadTo(pair(transform.size), fill=colour(transform.fill, form)))


@converts("RandomCrop")
def _reference_crop(transform: Any, form: Form) -> Made:
    """It pads what is smaller, below and to the right."""
    size = pair(transform.size)
    return made(ops.PadTo(size, fill=colour(0, form)), ops.RandomCrop(size))


@converts("RandomHorizontalFlip")
def _reference_flip(transform: Any, form: Form) -> Made:
    return made(ops.HorizontalFlip(p=transform.flip_prob))


@converts("RandomResize")
def _reference_resize(transform: Any, form: Form) -> Made:
    return made(ops.RandomResize(transform.min_size, transform.max_size + 1))


@converts("ToDtype")
def _reference_dtype(transform: Any, form: Form) -> Made:
    return Made(form=values.cast(form, transform.dtype, scale=transform.scale))


converts |= {
    name: (values.converts | torchvision.converts)[name]
    for name in ("CenterCrop", "PILToTensor", "Normalize", "RandomMixUp", "RandomMixup", "RandomCutMix", "RandomCutmix")
}
