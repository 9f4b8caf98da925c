"""A policy lowered onto passes: what runs together, in what order, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dalipipe.passes.image import lower_image
from dalipipe.policy import Drawn, Op, Policy
from dalipipe.schema import Field, Schema


class Pass(Protocol):
    """A run of operators that an engine applies in one go, folded into parameters that it understands."""

    ops: list[Op]
    positions: list[int]
    """Where they stand among the policy's leaves."""

    def fold(self, drawn: Sequence[Drawn], size: np.ndarray) -> Any:
        """Its parameters for N samples of ``size`` int64 [N, d]; their ``out_size`` is the next pass's ``size``."""
        ...


# Kind of field → what cuts a policy into passes for it. A new modality adds its line here.
_LOWER = {"image": lower_image}


@dataclass(frozen=True)
class Draws:
    """What happens to N samples, twice told: operator by operator (``drawn``) and folded (``passes``)."""

    drawn: list[Drawn]
    passes: list[Any]


@dataclass(frozen=True)
class Plan:
    """What a loader does to one field of a batch: ``passes`` in order, at least one."""

    policy: Policy
    field: Field | None
    """``None``: the data set has nothing to augment."""
    passes: tuple[Any, ...]

    def draw(self, key: np.ndarray, indices: np.ndarray, size: np.ndarray, variants: np.ndarray | int = 0) -> Draws:
        """What happens to samples ``indices`` int64 [N] of ``size`` int64 [N, d] (of pictures: height, width, px).

        ``key``: `rng.make_key`; ``variants``: which copy of its sample each is. Raises `DrawError` where an operator
        cannot be applied.
        """
        drawn = self.policy.draw(key, indices, size, variants)
        folded = []
        for one_pass in self.passes:
            folded.append(one_pass.fold([drawn[i] for i in one_pass.positions], size))
            size = folded[-1].out_size
        return Draws(drawn, folded)

    def explain(self) -> str:
        """The passes and their operators, a line each."""
        if self.field is None:
            return "nothing to augment"
        lines = []
        for number, one_pass in enumerate(self.passes, 1):
            lines.append(f"pass {number} over {self.field.name!r}: {one_pass.summary}")
            lines += [f"    {op!r}" for op in one_pass.ops] or ["    (nothing to do)"]
        return "\n".join(lines)


def lower(policy: Policy, schema: Schema) -> Plan:
    """Folds a policy's operators into passes over the one field that they apply to.

    Raises ``ValueError`` naming the operator that fits no field or stands in the wrong place.
    """
    fields = [field for field in schema.fields if field.kind in _LOWER]
    if not fields and not len(policy):
        return Plan(policy, None, ())
    if len(fields) != 1:
        kinds, found = " or ".join(_LOWER), ", ".join(f"{field.name} ({field.kind})" for field in schema.fields)
        raise ValueError(
            f"a policy needs a data set with one field of kind {kinds}; this one has {found}. Pictures that a data set "
            "has made into float tensors cannot be augmented any more: drop ToTensor and Normalize from its transform"
        )
    field = fields[0]
    for leaf in policy.leaves:
        if leaf.op.modality != field.kind:
            raise ValueError(f"{leaf.op!r} applies to {leaf.op.modality} fields, but {field.name!r} is {field.kind}")
    return Plan(policy, field, _LOWER[field.kind](policy.leaves, field))
