"""A policy lowered onto passes: what runs together, in what order, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dalipipe import rng
from dalipipe.ops.image.families import BlendOp
from dalipipe.passes.image import lower_image
from dalipipe.passes.mix import MixParams, MixPass, lower_mix
from dalipipe.passes.signal import lower_signal
from dalipipe.passes.text import lower_text
from dalipipe.policy import DrawError, Drawn, Policy
from dalipipe.schema import Field, Schema


class Fold(Protocol):
    """The operators of one modality: makes of what is drawn for them the parameters that an engine takes."""

    def fold(self, drawn: Sequence[Drawn], size: np.ndarray) -> Any:
        """``drawn``: of all the policy's operators, for N samples of ``size`` int64 [N, d]. The parameters'
        ``out_size`` says at which sizes they end.
        """
        ...

    def explain(self, drawn: Sequence[Drawn], size: np.ndarray) -> list[str]:
        """What became of these samples, in lines."""
        ...


# Kind of field → what folds a policy's operators for it, what these say they apply to, and a size to explain them
# with. A new modality adds its lines here.
_LOWER = {"image": lower_image, "audio": lower_signal, "series": lower_signal, "text": lower_text}
_MODALITY = {"image": "image", "audio": "signal", "series": "signal", "text": "text"}
_EXAMPLE = {"image": (375, 500), "audio": (16000, 1, 16000, 1), "series": (1000, 1, 0, 1), "text": (20,)}
_UNITS = {"image": "px", "audio": "frames", "series": "frames", "text": "words"}


@dataclass(frozen=True)
class Draws:
    """What happens to N samples, twice told: operator by operator (``drawn``) and folded (``params``). ``mix``: what
    they take of each other.
    """

    drawn: list[Drawn]
    params: Any
    mix: MixParams | None = None

    def of(self, rows: np.ndarray) -> Draws:
        """What happens to some of them, each by itself: ``rows`` int64 [A], ascending, at least one."""
        return Draws([drawn.of(rows) for drawn in self.drawn], self.params.of(rows))


@dataclass(frozen=True)
class Plan:
    """What a loader does to one field of a batch, sample by sample (``fold``) and among samples (``mix``)."""

    policy: Policy
    field: Field | None
    """``None``: the data set has nothing to augment."""
    fold: Any
    mix: MixPass | None = None

    def draw(
        self,
        key: np.ndarray,
        indices: np.ndarray,
        size: np.ndarray,
        variants: np.ndarray | int = 0,
        positions: np.ndarray | None = None,
    ) -> Draws:
        """What happens to samples ``indices`` int64 [N] of ``size`` int64 [N, d] (of pictures: height, width, px).

        Of signals: frames, channels, rate (Hz), bins; of texts: words. ``key``: `rng.make_key`; ``variants``: which
        copy of its sample each is; ``positions`` int64 [N]: where they stand in the epoch, -1: nowhere, which says who
        mixes with whom. Raises `DrawError` where an operator cannot be applied.
        """
        drawn = self.policy.draw(key, indices, size, variants)
        params = self.fold.fold(drawn, size)
        if self.mix is None:
            return Draws(drawn, params)
        positions = np.full(len(indices), -1) if positions is None else positions
        return Draws(drawn, params, self.mix.fold(drawn, positions, key))

    def explain(self, samples: int = 1000, size: tuple[int, ...] | None = None) -> str:
        """How the policy runs: the passes that ``samples`` samples of ``size`` take, and where each operator is
        applied, a line each.
        """
        if self.field is None:
            return "nothing to augment"
        size = _EXAMPLE[self.field.kind] if size is None else size
        sizes, key, indices = np.tile(np.array(size), (samples, 1)), rng.make_key(0, 0), np.arange(samples)
        try:
            drawn = self.policy.draw(key, indices, sizes)
        except DrawError:  # larger pictures fit more crops
            sizes = sizes * 8 if self.field.kind in ("image", "text") else sizes * np.array([8, 1, 1, 1])
            drawn = self.policy.draw(key, indices, sizes)
        number = "×".join(map(str, sizes[0])) if self.field.kind == "image" else f"{sizes[0, 0]:,}"
        shown = f"{number} {_UNITS[self.field.kind]}"
        lines = [f"{self.field.name!r}, {samples:,} samples of {shown}:"]
        lines += [f"    {line}" for line in self.fold.explain(drawn, sizes)]
        if self.mix is not None:
            lines += [f"    {op!r}: mixed with a partner, when the batch is finished" for op in self.mix.ops]
        return "\n".join(lines)


def lower(policy: Policy, schema: Schema) -> Plan:
    """Folds a policy's operators over the one field that they apply to.

    Raises ``ValueError`` naming the operator that fits no field or stands in the wrong place.
    """
    fields = [field for field in schema.fields if field.kind in _LOWER]
    if not fields and not len(policy):
        return Plan(policy, None, None)
    if len(fields) != 1:
        kinds, found = " or ".join(_LOWER), ", ".join(f"{field.name} ({field.kind})" for field in schema.fields)
        raise ValueError(
            f"a policy needs a data set with one field of kind {kinds}; this one has {found}. Pictures that a data set "
            "has made into float tensors cannot be augmented any more: drop ToTensor and Normalize from its transform"
        )
    field, leaves = fields[0], policy.leaves
    mix = lower_mix(policy, schema)
    positions = [i for i, leaf in enumerate(leaves) if mix is None or i not in mix.leaves]
    for leaf in (leaves[i] for i in positions):
        if leaf.op.modality != _MODALITY[field.kind]:
            raise ValueError(f"{leaf.op!r} applies to {leaf.op.modality} fields, but {field.name!r} is {field.kind}")
        for other in schema.fields:
            if isinstance(leaf.op, BlendOp) and other.kind in ("mask", "boxes", "points"):
                raise ValueError(
                    f"AugMix blends pictures that it moved differently: {other.name!r} ({other.kind}) cannot follow; "
                    "drop the operator or the field"
                )
    fold = _LOWER[field.kind]([leaves[i] for i in positions], positions, field, policy.stored_leaves)
    return Plan(policy, field, fold, mix)
