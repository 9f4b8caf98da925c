"""A way through a transform: what its steps become, in the order in which a policy wants them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dalipipe.conversion.agreement import agreement
from dalipipe.conversion.forms import Form, Refusal, is_v2
from dalipipe.conversion.report import Entry, Report, one_line
from dalipipe.conversion.steps import convert_step, is_mix
from dalipipe.ops.image import EraseOp, Normalize
from dalipipe.ops.python import PythonStep
from dalipipe.policy import Container, Node, Policy


class Walk:
    """Goes through a transform, step by step; `form` is the picture's where it stands.

    ``python``: steps may run in Python. ``refused``: those, by number, that are known to be refused, and why.
    `misplaced`: of which the end showed that they cannot stand where they do.
    """

    def __init__(self, form: Form, *, python: bool, refused: Mapping[int, str]) -> None:
        self.form, self._python, self._refused = form, python, refused
        self.misplaced: dict[int, str] = {}
        self._entries: list[Entry] = []
        self._nodes: list[tuple[Node, Form, int]] = []  # with the form before it, and its entry
        self._mixes: list[Node] = []
        self._tail: list[Any] = []  # transforms that run in Python on the float tensor
        self._tail_form: Form | None = None  # and the form in which it comes to them

    def take(self, transform: Any) -> None:
        """One step."""
        before = self.form
        try:
            if len(self._entries) in self._refused:
                raise Refusal(self._refused[len(self._entries)])
            if self._mixes and not is_mix(transform):
                raise Refusal("it follows a mixing of the batch's pictures, which must come last")
            if self._tail and is_mix(transform):
                raise Refusal("it mixes a batch that is finished before steps in Python have run on its pictures")
            made = convert_step(transform, before)
            self.form = made.form or before
            if self._tail:
                raise Refusal("it follows a step that runs in Python")
        except Refusal as refusal:
            self._refuse(transform, before, str(refusal))
            return
        leaves = [leaf.op for leaf in Policy(made.nodes).leaves]
        within, note = agreement(leaves, backend=before.backend, v2=is_v2(transform), is_float=before.is_float)
        operators = tuple(map(repr, made.nodes))
        if (
            self.form.is_float
            and (self.form.mean, self.form.std) != (before.mean, before.std)
            and not self.form.is_unit
        ):
            operators += (repr(_normalize(self.form)),)
        self._entries.append(Entry(one_line(transform), operators, within, "; ".join(filter(None, (note, made.note)))))
        for node in made.nodes:
            if is_mix(transform):
                self._mixes.append(node)
            else:
                self._nodes.append((node, before, len(self._entries) - 1))

    def _refuse(self, transform: Any, before: Form, why: str) -> None:
        """Where it may, it runs in Python."""
        python = self._python and not self._mixes and not is_mix(transform)
        self._entries.append(Entry(one_line(transform), (), None, refused=why, python=python))
        if not python:
            return
        if before.is_float:
            self._tail_form = self._tail_form or before
            self._tail.append(transform)
        else:
            self._nodes.append(
                (PythonStep(transform, "pil" if before.backend == "pil" else "tensor"), before, len(self._entries) - 1)
            )

    def end(self) -> tuple[Policy, Report]:
        """The policy in its order, normalisation and what has to come after it last."""
        last = self._tail_form or self.form
        body = len(self._nodes)
        while body and _erases(self._nodes[body - 1][0]):
            body -= 1
        nodes: list[Node] = []
        for place, (node, form, entry) in enumerate(self._nodes):
            if last.is_float and place == body:
                nodes.append(_normalize(last))
            try:
                nodes.append(_with_erasings(node, form, last, late=place >= body))
            except Refusal as refusal:
                self.misplaced[entry] = str(refusal)
                self._entries[entry] = replace(self._entries[entry], operators=(), within=None, refused=str(refusal))
        if last.is_float and not last.is_unit and body == len(self._nodes):
            nodes.append(_normalize(last))
        if self._tail:
            nodes.append(PythonStep(self._tail[0] if len(self._tail) == 1 else tuple(self._tail), "float"))
        return Policy([*nodes, *self._mixes]), Report(tuple(self._entries), self.form.dtype)


# Normalisation and erasing ------------------------------------------------------------------------------------------


def _normalize(form: Form) -> Normalize:
    return Normalize(form.mean, form.std)


def _erases(node: Node) -> bool:
    """Whether it erases and does nothing else: then it may stand behind the normalisation."""
    if isinstance(node, Container):
        return all(_erases(child) for child in node.ops)
    return isinstance(node, EraseOp)


def _with_erasings(node: Node, form: Form, last: Form, *, late: bool) -> Node:
    """A node with its erasings as `_placed` has them."""
    if isinstance(node, Container):
        return replace(node, ops=tuple(_with_erasings(child, form, last, late=late) for child in node.ops))
    return _placed(node, form, last, late) if isinstance(node, EraseOp) else node


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
