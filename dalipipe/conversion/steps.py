"""The steps of a transform: out of whatever holds them, by whose they are, and those that hold others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch

from dalipipe.conversion import references, timm, torchvision, values
from dalipipe.conversion.forms import Converter, Form, Made, Refusal
from dalipipe.conversion.report import one_line
from dalipipe.policy import Node, OneOf, Op, RandomApply, RandomOrder

# What to do instead, by the package of a transform.
_REMEDIES = {
    "albumentations": ": write it with dalipipe.ops.image, or wrap what works on uint8 into a function of a picture, "
    'lambda picture: compose(image=np.asarray(picture))["image"]',
    "transformers": ": write its size, mean and deviation as Resize and Normalize of dalipipe.ops.image",
}


def chain(transform: Any) -> Iterable[Any]:
    """Steps in order, out of whatever holds them."""
    if isinstance(transform, list | tuple | torch.nn.Sequential | torch.nn.ModuleList):
        parts: Any = transform
    elif _home(transform) and type(transform).__name__ == "Compose":
        parts = transform.transforms
    elif type(transform).__module__ == "presets" and hasattr(transform, "transforms"):  # references/*/presets.py
        parts = [transform.transforms]
    else:
        yield transform
        return
    for part in parts:
        yield from chain(part)


def convert_step(transform: Any, form: Form) -> Made:
    """What one becomes. Raises `Refusal`."""
    name = type(transform).__name__
    if _home(transform) == "torchvision" and name in _CONTAINERS:
        return _CONTAINERS[name](transform, form)
    if type(transform) is torch.nn.Identity:
        return Made()
    converter = _converter(transform)
    if converter is None:
        named = transform if hasattr(transform, "__qualname__") else type(transform)
        remedy = _REMEDIES.get(named.__module__.partition(".")[0], "")
        raise Refusal(f"{named.__module__}.{named.__qualname__} is not known here{remedy}")
    try:
        return converter(transform, form)
    except (ValueError, OverflowError) as error:  # an operator's own: a range that it does not take
        raise Refusal(str(error)) from error


def _home(transform: Any) -> str:
    """Whose transform it is. A subclass of one is somebody else's: it may do anything."""
    module = type(transform).__module__
    if module.startswith("torchvision.transforms."):
        return "torchvision"
    if module.startswith("timm.data."):
        return "timm"
    return "references" if module in ("transforms", "v2_extras") else ""  # scripts that lie beside the user's


def _converter(transform: Any) -> Converter | None:
    home, name = _home(transform), type(transform).__name__
    if home == "torchvision":
        return torchvision.converts.get(name) or values.converts.get(name)
    if home == "timm":
        return timm.converts.get(name)
    return references.converts.get(name) if home and references.is_from_references(transform) else None


def is_mix(transform: Any) -> bool:
    """Whether it mixes the pictures of a batch; a choice among such does."""
    names = ("MixUp", "CutMix", "RandomMixUp", "RandomMixup", "RandomCutMix", "RandomCutmix", "Mixup")
    if type(transform).__name__ == "RandomChoice" and _home(transform) == "torchvision":
        return all(is_mix(step) for step in transform.transforms)
    return type(transform).__name__ in names and bool(_home(transform))


# Containers ----------------------------------------------------------------------------------------------------------


def _inside(transforms: Iterable[Any], form: Form) -> Made:
    """What the steps in a container become; the picture's form must stay."""
    nodes: list[Node] = []
    notes: list[str] = []
    for step in chain(list(transforms)):
        made = convert_step(step, form)
        if made.form not in (None, form):
            raise Refusal(f"{one_line(step)} in it changes what the values mean, for some of the pictures only")
        nodes += made.nodes
        notes.append(made.note)
    return Made(tuple(nodes), note="; ".join(dict.fromkeys(filter(None, notes))))


def _as_one(inside: Made) -> Node:
    return inside.nodes[0] if len(inside.nodes) == 1 else RandomApply(inside.nodes, p=1.0)


def _random_apply(transform: Any, form: Form) -> Made:
    inside, p = _inside(transform.transforms, form), float(transform.p)
    nodes = inside.nodes
    if len(nodes) == 1 and isinstance(nodes[0], Op) and nodes[0].p == 1.0:
        return replace(inside, nodes=(replace(nodes[0], p=p),))
    return replace(inside, nodes=(RandomApply(nodes, p=p),)) if nodes else inside


def _random_choice(transform: Any, form: Form) -> Made:
    weights = [1.0] * len(transform.transforms) if transform.p is None else [float(w) for w in transform.p]
    insides = [_inside([step], form) for step in transform.transforms]
    chosen = [(_as_one(inside), w) for inside, w in zip(insides, weights, strict=True) if inside.nodes and w]
    if not chosen:
        return Made()
    nodes, shares = zip(*chosen, strict=True)
    p, equal = sum(shares) / sum(weights), len(set(shares)) == 1
    return _joined([OneOf(nodes, p=p, weights=None if equal else shares)], insides)


def _random_order(transform: Any, form: Form) -> Made:
    insides = [_inside([step], form) for step in transform.transforms]
    nodes = tuple(_as_one(inside) for inside in insides if inside.nodes)
    return _joined([RandomOrder(nodes)] if nodes else [], insides)


def _joined(nodes: Iterable[Node], insides: Iterable[Made]) -> Made:
    return Made(tuple(nodes), note="; ".join(dict.fromkeys(inside.note for inside in insides if inside.note)))


_CONTAINERS: dict[str, Callable[[Any, Form], Made]] = {
    "RandomApply": _random_apply,
    "RandomChoice": _random_choice,
    "RandomOrder": _random_order,
}
