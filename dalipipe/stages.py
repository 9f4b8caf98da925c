"""Policies with Python among their operators: cut there into plans, which run one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dalipipe import plan as plans
from dalipipe.ops.python import PythonStep
from dalipipe.ops.signal import FeatureOp
from dalipipe.plan import Plan
from dalipipe.policy import Node, Policy
from dalipipe.schema import Field, Schema


@dataclass(frozen=True)
class Stage:
    """What comes before Python's next turn (``plan``; ``None``: nothing), and ``steps``, which it then runs."""

    plan: Plan | None
    steps: tuple[PythonStep, ...]


@dataclass(frozen=True)
class StagedPlan:
    """``stages`` on uint8 pictures on the host; ``last``: what makes the batch of them; ``after``: what Python does to
    that. Otherwise as a `Plan`.
    """

    policy: Policy
    stages: tuple[Stage, ...]
    last: Plan
    after: PythonStep | None = None

    @property
    def field(self) -> Field | None:
        return self.last.field

    @property
    def fold(self) -> Any:
        return self.last.fold

    @property
    def mix(self) -> Any:
        return self.last.mix

    def explain(self, samples: int = 1000, size: tuple[int, ...] | None = None) -> str:
        """As a plan's; how large pictures are after a step in Python is not known, so all plans start from ``size``."""
        parts: list[str] = []
        for stage in self.stages:
            if stage.plan is not None:
                parts.append(stage.plan.explain(samples, size))
            parts += [f"    {step!r}: in Python, picture by picture, on the CPU" for step in stage.steps]
        parts.append(self.last.explain(samples, size))
        if self.after is not None:
            parts.append(f"    {self.after!r}: in Python, picture by picture, on the CPU, when the batch is finished")
        return "\n".join(parts)


def lower(policy: Policy, schema: Schema) -> Plan | StagedPlan:
    """A plan; in stages where a policy has Python steps.

    Raises ``ValueError`` naming the operator that fits no field or stands in the wrong place.
    """
    if not any(isinstance(leaf.op, PythonStep) for leaf in policy.leaves):
        return plans.lower(policy, schema)
    nodes = list(policy)
    for field in schema.fields:
        if field.kind in ("audio", "series", "text"):
            raise ValueError(
                f"{_first(nodes)!r} takes pictures, and {field.name!r} is {field.kind}: do what it does in the data "
                "set, or by operators"
            )
    moved = [f"{field.name} ({field.kind})" for field in schema.fields if field.kind in ("mask", "boxes", "points")]
    if moved:
        raise ValueError(
            f"{_first(nodes)!r} may move pixels, and nobody would move {', '.join(moved)} along: do what it does in "
            "the data set, or by operators"
        )
    after = None
    if isinstance(nodes[-1], PythonStep) and nodes[-1].takes == "float":
        after = nodes[-1]
        nodes.pop()
    stages: list[Stage] = []
    section: list[Node] = []
    start = policy.first_slot  # of the section

    def part(end: int) -> Policy:
        """The section, which ends before node ``end``; a place of ``stored_after`` within it stays there."""
        stored = (policy.stored_after or 0) - (end - len(section))
        return Policy(section, first_slot=start, stored_after=stored if 0 < stored < len(section) else None)

    for number, node in enumerate(nodes):
        if not isinstance(node, PythonStep):
            section.append(node)
            continue
        if node.takes == "float":
            raise ValueError(f"{node!r} takes what the batch will hold, so nothing may come after it")
        if section or not stages:
            before = part(number)
            stages.append(Stage(plans.lower(before, schema) if section else None, (node,)))
            start, section = before.end_slot + 1, []
        else:
            stages[-1] = Stage(stages[-1].plan, (*stages[-1].steps, node))
            start += 1
    last = plans.lower(part(len(nodes)), schema)
    for stage in stages:
        _check(stage.plan, stage.steps[0])
    _check(last, after)
    return StagedPlan(policy, tuple(stages), last, after)


def check_forms(plans: Mapping[int, Plan | StagedPlan]) -> None:
    """Whether batches keep their form from phase to phase. ``plans``: by the epoch with which each begins, from 0.

    Raises ``ValueError`` naming the epoch, and what is another in it.
    """
    first = _form(plans[0])
    for epoch, plan in plans.items():
        for what, found in _form(plan).items():
            if found == first[what]:
                continue
            remedy = "give both policies the same operators, with p=0 where they are not to be applied"
            if what == "mixing" and None in (found, first[what]):
                remedy = "policy.without_mixing() mixes nothing, and leaves labels shares of all classes"
            raise ValueError(
                f"Phases: the policy from epoch {epoch} on has another {what} than the first one: {found}, not "
                f"{first[what]}; {remedy}"
            )


def _form(plan: Plan | StagedPlan) -> dict[str, Any]:
    """What batches look like, but for their sizes."""
    mix, fold = plan.mix, plan.fold
    vocabulary = getattr(fold, "vocabulary", None)
    return {
        "mixing": None if mix is None else f"labels={mix.labels!r}, num_classes={mix.ops[0].num_classes}",
        "normalisation": getattr(fold, "normalize", None),
        "spectrogram": next((leaf.op for leaf in plan.policy.leaves if isinstance(leaf.op, FeatureOp)), None),
        "vocabulary": None if vocabulary is None else f"{len(vocabulary)} words, {vocabulary.identity}",
    }


def _first(nodes: Iterable[Node]) -> Any:
    return next(leaf.op for leaf in Policy(list(nodes)).leaves if isinstance(leaf.op, PythonStep))


def _check(part: Plan | None, step: PythonStep | None) -> None:
    """Whether ``step`` may follow what the plan leaves."""
    if part is None:
        return
    for leaf in part.policy.leaves:
        if isinstance(leaf.op, PythonStep):
            raise ValueError(f"{leaf.op!r} must stand among a policy's first operators, in no container")
    if step is not None and part.mix is not None:
        raise ValueError(f"{part.mix.ops[0]!r} cannot come before {step!r}, which takes single pictures")
    if step is not None and step.takes != "float" and part.fold.normalize is not None:
        raise ValueError(f"{part.fold.normalize!r} cannot come before {step!r}, which takes uint8")
