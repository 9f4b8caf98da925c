"""A policy lowered onto passes: what runs together, in what order, and why."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dalipipe.ops.image import ImageOp, Normalize
from dalipipe.passes.image import ImageParams, ImagePass
from dalipipe.policy import Drawn, Policy
from dalipipe.schema import Field, Schema


@dataclass(frozen=True)
class Draws:
    """What happens to N samples, twice told: operator by operator (``drawn``) and folded into ``passes``."""

    drawn: list[Drawn]
    passes: list[ImageParams]

    @property
    def roi(self) -> np.ndarray:
        """int64 [N, 4]: the only part of each picture that is looked at, as y, x, h, w."""
        return self.passes[0].roi

    @property
    def out_px(self) -> np.ndarray:
        """int64 [N, 2]: the pictures' sizes at the end."""
        return self.passes[-1].out_px


@dataclass(frozen=True)
class Plan:
    """What a loader does to the image field of a batch: ``passes`` in order, at least one."""

    policy: Policy
    field: Field
    passes: tuple[ImagePass, ...]

    @property
    def normalize(self) -> Normalize | None:
        return self.passes[-1].normalize

    def draw(self, key: np.ndarray, indices: np.ndarray, size: np.ndarray) -> Draws:
        """What happens to samples ``indices`` int64 [N] of ``size`` int64 [N, 2] (height, width, px).

        ``key``: `rng.make_key`. Raises `DrawError` where an operator cannot be applied.
        """
        drawn = self.policy.draw(key, indices, size)
        folded = []
        for image_pass in self.passes:
            folded.append(image_pass.fold([drawn[i] for i in image_pass.positions], size))
            size = folded[-1].out_px
        return Draws(drawn, folded)

    def explain(self) -> str:
        """The passes and their operators, a line each."""
        lines = []
        for number, image_pass in enumerate(self.passes, 1):
            lines.append(
                f"pass {number}: one sampling of the picture"
                + (", ending in uint8" if number < len(self.passes) else "")
            )
            lines += [f"    {op!r}" for op in image_pass.ops] or ["    (nothing to do)"]
        return "\n".join(lines)


def lower(policy: Policy, schema: Schema) -> Plan:
    """Folds a policy's operators into passes.

    Raises ``ValueError`` naming the operator that fits no field or stands in the wrong place.
    """
    images = schema.of_kind("image")
    if len(images) != 1:
        raise ValueError(f"a policy needs a data set with one image field, this one has {len(images)}: {schema.names}")
    field = images[0]
    passes = [ImagePass()]
    for position, leaf in enumerate(policy.leaves):
        op = leaf.op
        if not isinstance(op, ImageOp):
            raise ValueError(f"{op!r} applies to {op.modality}s, but the data set has only {schema.names}")
        if isinstance(op, Normalize):
            if leaf.gates:
                raise ValueError(
                    f"{op!r} applies to every sample: move it out of OneOf/SomeOf, to the end of the policy"
                )
            if len(op.mean) not in (1, field.channels):
                raise ValueError(
                    f"{op!r} has {len(op.mean)} means for pictures of {field.channels} channel(s): give as many, or one"
                )
        if passes[-1].normalize is not None and not passes[-1].accepts(op):
            raise ValueError(f"{op!r} stands after Normalize: only erasing may follow it; move it before")
        if isinstance(op, Normalize) and passes[-1].normalize is not None:
            raise ValueError(f"{op!r}: the policy normalises twice; keep one Normalize")
        if not passes[-1].accepts(op):
            passes.append(ImagePass())
        passes[-1].add(op, position)
    return Plan(policy, field, tuple(passes))
