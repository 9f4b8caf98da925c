"""torchvision's and timm's transforms as policies: `convert`, which says how closely each step is met."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Literal, get_args

import torch

from dalipipe.convert import timm, torchvision
from dalipipe.convert.agreement import agreement
from dalipipe.convert.forms import Converter, Form, Made, Refusal
from dalipipe.convert.report import Entry, Report, one_line, refusals
from dalipipe.ops.image import EraseOp, Normalize
from dalipipe.ops.python import PythonStep
from dalipipe.policy import Container, Node, OneOf, Op, Policy, RandomApply, RandomOrder

__all__ = ["Backend", "Entry", "OnUnsupported", "Report", "UnsupportedTransformError", "convert"]

Backend = Literal["auto", "pil", "tensor"]
OnUnsupported = Literal["raise", "python"]


class UnsupportedTransformError(ValueError):
    """A transform has steps that cannot be converted: the message names each, why, and what would do. ``report``: all
    of its steps.
    """

    def __init__(self, report: Report) -> None:
        super().__init__(
            f"{len(report.refused)} of {len(report.entries)} steps cannot be converted:\n{refusals(report)}\n"
            'Change or drop them, or give on_unsupported="python", and they run as they are, picture by picture, on '
            "the CPU"
        )
        self.report = report

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.report,)


def convert(
    transform: Any, *, backend: Backend = "auto", on_unsupported: OnUnsupported = "raise", channels: int = 3
) -> tuple[Policy, Report]:
    """A policy that does to pictures what ``transform`` does, and a report that says how closely, step by step.

        policy, report = dalipipe.convert(transforms.Compose([transforms.RandomResizedCrop(224), transforms.ToTensor()]))
        print(report)

    What is drawn comes from the same distributions, sample by sample and from the loader's seed; so it is not the same
    numbers. Values come out as the transform would give them: normalised, or 0..1, or, without a conversion to float,
    0..255, and ``report.dtype`` is their dtype.

    Args:
        transform: of torchvision (v1 or v2), of timm, or a list of such: one, a ``Compose``, what ``weights.transforms()``
            or ``timm.data.create_transform`` give, or a preset of torchvision's ``references/``. ``MixUp`` and ``CutMix``
            may come last.
        backend: what the first step would get: ``"pil"`` pictures, as from torchvision's data sets, or a uint8
            ``"tensor"``. Only the report depends on it, and what the transform itself would refuse. ``"auto"``: PIL.
        on_unsupported: what to do with a step that cannot be converted: ``"raise"``, or let it run in ``"python"``, as
            it is, picture by picture, on the CPU. What follows such a step after the conversion to float does, too.
        channels: of the pictures that come: 3, or 1 for grey ones.

    Raises:
        UnsupportedTransformError: naming every step that cannot be converted, why, and what would do.
        TypeError: ``transform`` is none.
        ValueError: another argument is none of its values.
    """
    for name, value, known in (
        ("backend", backend, get_args(Backend)),
        ("on_unsupported", on_unsupported, get_args(OnUnsupported)),
        ("channels", channels, (1, 3)),
    ):
        if value not in known:
            raise ValueError(f"convert: {name} must be one of {', '.join(map(repr, known))}, got {value!r}")
    if isinstance(transform, Policy) or not (callable(transform) or isinstance(transform, list | tuple)):
        raise TypeError(f"convert: expected a transform or a list of transforms, got {type(transform).__name__}")
    walk = _Walk(Form("tensor" if backend == "tensor" else "pil", channels=channels), on_unsupported == "python")
    for step in _chain(transform):
        walk.take(step)
    policy, report = walk.end()
    if on_unsupported == "raise" and not report.ok:
        raise UnsupportedTransformError(report)
    return policy, report


class _Walk:
    """Goes through a transform, step by step; `form` is the picture's where it stands."""

    def __init__(self, form: Form, python: bool) -> None:
        self.form, self._python = form, python
        self._entries: list[Entry] = []
        self._nodes: list[tuple[Node, Form, int]] = []  # with the form before it, and its entry
        self._mixes: list[Node] = []
        self._tail: list[Any] = []  # transforms that run in Python on the float tensor
        self._tail_form: Form | None = None  # and the form in which it comes to them

    def take(self, transform: Any) -> None:
        """One step."""
        before = self.form
        try:
            if self._mixes and not _is_mix(transform):
                raise Refusal("it follows a mixing of the batch's pictures, which must come last")
            made = _made(transform, before)
            self.form = made.form or before
            refused = "it follows a step that runs in Python" if self._tail and not _is_mix(transform) else ""
        except Refusal as refusal:
            made, refused = Made(), str(refusal)
        if refused:
            self._in_python(transform, before, refused)
            return
        leaves = [leaf.op for leaf in Policy(made.nodes).leaves]
        within, note = agreement(leaves, backend=before.backend, v2=_is_v2(transform), is_float=before.is_float)
        operators = tuple(map(repr, made.nodes))
        if (
            self.form.is_float
            and (self.form.mean, self.form.std) != (before.mean, before.std)
            and not self.form.is_unit
        ):
            operators += (repr(_normalize(self.form)),)
        self._entries.append(Entry(one_line(transform), operators, within, "; ".join(filter(None, (note, made.note)))))
        for node in made.nodes:
            if _is_mix(transform):
                self._mixes.append(node)
            else:
                self._nodes.append((node, before, len(self._entries) - 1))

    def _in_python(self, transform: Any, before: Form, why: str) -> None:
        self._entries.append(Entry(one_line(transform), (), None, refused=why, python=self._python))
        if not self._python:
            return
        if before.is_float:
            self._tail_form = self._tail_form or before
            self._tail.append(transform)
        else:
            self._nodes.append((PythonStep(transform, before.backend), before, len(self._entries) - 1))

    def end(self) -> tuple[Policy, Report]:
        """The policy in its order, normalisation and what has to come after it last."""
        last = self._tail_form or self.form
        body = len(self._nodes)
        while body and _erases(self._nodes[body - 1][0]):
            body -= 1
        nodes: list[Node] = []
        for place, (node, form, entry) in enumerate(self._nodes):
            try:
                if last.is_float and place == body:
                    nodes.append(_normalize(last))
                nodes.append(_with_erasings(node, lambda op, f=form, late=place >= body: _placed(op, f, last, late)))
            except Refusal as refusal:
                self._entries[entry] = replace(self._entries[entry], operators=(), within=None, refused=str(refusal))
        if last.is_float and not last.is_unit and body == len(self._nodes):
            nodes.append(_normalize(last))
        if self._tail:
            nodes.append(PythonStep(self._tail[0] if len(self._tail) == 1 else tuple(self._tail), "float"))
        return Policy([*nodes, *self._mixes]), Report(tuple(self._entries), self.form.dtype)


def _chain(transform: Any) -> Iterable[Any]:
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
        yield from _chain(part)


def _made(transform: Any, form: Form) -> Made:
    """What a step becomes. Raises `Refusal`."""
    name = type(transform).__name__
    if _home(transform) == "torchvision" and name in _CONTAINERS:
        return _CONTAINERS[name](transform, form)
    converter = _converter(transform)
    if converter is None:
        raise Refusal(f"{type(transform).__module__}.{type(transform).__qualname__} is not known here")
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
    return "references" if module in ("transforms", "v2_extras") else ""


def _is_v2(transform: Any) -> bool:
    return ".v2." in type(transform).__module__


def _converter(transform: Any) -> Converter | None:
    home, name = _home(transform), type(transform).__name__
    if home == "references":
        return torchvision.in_references.converters.get(name) if _is_from_references(transform) else None
    tables = {"torchvision": torchvision.converts, "timm": timm.converts}
    return tables[home].converters.get(name) if home else None


def _is_from_references(transform: Any) -> bool:
    """Whether a class of a script beside the user's is that of torchvision's references, and not a namesake of it."""
    held = {name for name in vars(transform) if not name.startswith("_") and name != "training"}
    held -= set(vars(torch.nn.Module()))
    if held != torchvision.HELD_IN_REFERENCES.get(type(transform).__name__):
        return False
    takes = [*inspect.signature(type(transform).__call__).parameters][1:]
    return isinstance(transform, torch.nn.Module) or takes == ["image", "target"]


# Containers ----------------------------------------------------------------------------------------------------------


def _inside(transforms: Iterable[Any], form: Form) -> tuple[Node, ...]:
    """What the steps in a container become; the picture's form must stay."""
    nodes: list[Node] = []
    for step in _chain(list(transforms)):
        made = _made(step, form)
        if made.form not in (None, form):
            raise Refusal(f"{one_line(step)} in it changes what the values mean, for some of the pictures only")
        nodes += made.nodes
    return tuple(nodes)


def _random_apply(transform: Any, form: Form) -> Made:
    nodes, p = _inside(transform.transforms, form), float(transform.p)
    if len(nodes) == 1 and isinstance(nodes[0], Op) and nodes[0].p == 1.0:
        return Made((replace(nodes[0], p=p),))
    return Made((RandomApply(nodes, p=p),) if nodes else ())


def _random_choice(transform: Any, form: Form) -> Made:
    weights = [1.0] * len(transform.transforms) if transform.p is None else [float(w) for w in transform.p]
    nodes: list[Node] = []
    chosen: list[float] = []
    for step, weight in zip(transform.transforms, weights, strict=True):
        inside = _inside([step], form)
        if inside and weight:
            nodes.append(inside[0] if len(inside) == 1 else RandomApply(inside, p=1.0))
            chosen.append(weight)
    if not nodes:
        return Made()
    equal = len(set(chosen)) == 1
    return Made((OneOf(tuple(nodes), p=sum(chosen) / sum(weights), weights=None if equal else tuple(chosen)),))


def _random_order(transform: Any, form: Form) -> Made:
    nodes = [_inside([step], form) for step in transform.transforms]
    steps = tuple(inside[0] if len(inside) == 1 else RandomApply(inside, p=1.0) for inside in nodes if inside)
    return Made((RandomOrder(steps),) if steps else ())


_CONTAINERS: dict[str, Callable[[Any, Form], Made]] = {
    "RandomApply": _random_apply,
    "RandomChoice": _random_choice,
    "RandomOrder": _random_order,
}


# Normalisation and erasing ------------------------------------------------------------------------------------------


def _normalize(form: Form) -> Normalize:
    return Normalize(form.mean, form.std)


def _is_mix(transform: Any) -> bool:
    """Whether it mixes the pictures of a batch; a choice among such does."""
    names = ("MixUp", "CutMix", "RandomMixUp", "RandomMixup", "RandomCutMix", "RandomCutmix", "Mixup")
    if type(transform).__name__ == "RandomChoice" and _home(transform) == "torchvision":
        return all(_is_mix(step) for step in transform.transforms)
    return type(transform).__name__ in names and bool(_home(transform))


def _erases(node: Node) -> bool:
    """Whether it erases and does nothing else: then it may stand behind the normalisation."""
    if isinstance(node, Container):
        return all(_erases(child) for child in node.ops)
    return isinstance(node, EraseOp)


def _with_erasings(node: Node, change: Callable[[Any], Any]) -> Node:
    if isinstance(node, Container):
        return replace(node, ops=tuple(_with_erasings(child, change) for child in node.ops))
    return change(node) if isinstance(node, EraseOp) else node


def _placed(op: Any, form: Form, last: Form, late: bool) -> Any:
    """An erasing of which the value is one of ``form``, where it stands in the policy: behind the normalisation that
    makes pictures of the form ``last``, if it comes ``late`` and they are normalised, else among uint8.
    """
    late = late and last.is_float
    same = (form.mean, form.std) == (last.mean, last.std)
    if op.noisy:
        if not late or not same:
            raise Refusal("it fills boxes with normal noise, and other steps come after it: put it last")
        return op
    if late and same:
        return op
    return replace(op, value=last.value(form.pixel(op.value)) if late else form.pixel(op.value))
