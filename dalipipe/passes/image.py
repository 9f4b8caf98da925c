"""Folding: which of the operators drawn for a sample share a pass over its pixels, and what the passes' parameters are.

    crop box → resize → window → flip → warp or displacement → filter → stretch → colour → hue → table → erase

Operators in this order share a pass; one that comes too late begins the sample's next, on the uint8 picture of the
last. ``csrc/ops.h`` (`ImagePass`) says what each parameter does, ``csrc/fold.h`` folds. Each sample has passes of its
own: an operator costs the samples that it is drawn for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dalipipe.ops import image as image_ops
from dalipipe.ops.image import families
from dalipipe.passes.folding import Folding
from dalipipe.passes.params import ImageParams
from dalipipe.policy import Drawn, Leaf
from dalipipe.schema import Field

_STAGES = {
    families.ResizeOp: "resize",
    families.CropOp: "window",
    families.FlipOp: "flip",
    families.WarpOp: "warp",
    families.ElasticOp: "displacement",
    families.FilterOp: "filter",
    families.StretchOp: "stretch",
    families.ColourOp: "colour matrix",
    families.HueOp: "hue",
    families.TableOp: "table",
    families.EraseOp: "erase",
    families.BlendOp: "blend",
    image_ops.Normalize: "normalise",
}


@dataclass(frozen=True)
class ImageFold:
    """A policy's image operators, checked: `fold` makes passes of what is drawn for them."""

    leaves: tuple[Leaf, ...]
    positions: tuple[int, ...]
    """Where they stand among the policy's leaves."""
    normalize: image_ops.Normalize | None
    channels: int
    """Of the pictures: 1 or 3."""
    stored_leaves: int = 0
    """How many of the policy's leaves leave a picture that could be stored; 0: there is no such place."""

    def fold(self, drawn: Sequence[Drawn], size: np.ndarray) -> ImageParams:
        """The passes of N pictures of ``size`` int64 [N, 2], given what was drawn for the policy."""
        folding = Folding(np.asarray(size, np.int64), self.channels)
        for position, begins in self._steps():
            if begins:
                folding.end_passes()
            folding.then(drawn[position])
        return folding.finish(self.normalize)

    def _steps(self) -> Iterator[tuple[int, bool]]:
        """The positions, and whether the picture is as if stored between one and that before it."""
        before = 0
        for position in self.positions:
            yield position, before < self.stored_leaves <= position
            before = position

    def explain(self, drawn: Sequence[Drawn], size: np.ndarray) -> list[str]:
        """What became of these samples: how many passes they took, then a line per operator."""
        folding, n = Folding(np.asarray(size, np.int64), self.channels), len(size)
        found: list[np.ndarray] = []
        for position, begins in self._steps():
            if begins:
                folding.end_passes()
            found.append(folding.then(drawn[position], depths=True))
        passes = np.diff(folding.finish(self.normalize).starts)
        shares = [f"{count}: {share / n:.0%}" for count, share in enumerate(np.bincount(passes)) if share]
        lines = [f"passes a sample takes: {', '.join(shares)}"]
        for (_, begins), leaf, depths in zip(self._steps(), self.leaves, found, strict=True):
            if begins:
                lines.append("(here the pictures are as if they had been stored)")
            op, depths = leaf.op, depths[depths >= 0]
            stage = next(name for family, name in _STAGES.items() if isinstance(op, family))
            if isinstance(op, image_ops.Normalize):
                lines.append(f"{op!r}: {stage}, at the end of the last pass")
            elif len(depths) == 0:
                lines.append(f"{op!r}: {stage}, drawn for none of {n:,} samples")
            else:
                low, high = int(depths.min()) + 1, int(depths.max()) + 1
                where = f"pass {low}" if low == high else f"passes {low} to {high}"
                lines.append(f"{op!r}: {stage}, {where}; {len(depths) / n:.0%} of samples")
        return lines


def lower_image(leaves: Sequence[Leaf], positions: Sequence[int], field: Field, stored_leaves: int = 0) -> ImageFold:
    """Checks a policy's image operators, which stand at ``positions`` among its leaves.

    Raises ``ValueError`` naming the operator that stands in the wrong place or does not fit the field's channels.
    """
    normalize: image_ops.Normalize | None = None
    for leaf in leaves:
        op = leaf.op
        if isinstance(op, image_ops.Normalize):
            if leaf.gates:
                raise ValueError(f"{op!r} applies to every sample: move it out of its container, to the policy's end")
            if len(op.mean) not in (1, field.channels):
                raise ValueError(
                    f"{op!r} has {len(op.mean)} means for pictures of {field.channels} channel(s): give as many, or one"
                )
            if normalize is not None:
                raise ValueError(f"{op!r}: the policy normalises twice; keep one Normalize")
            normalize = op
        elif normalize is not None and not isinstance(op, families.EraseOp):
            raise ValueError(f"{op!r} stands after Normalize: only erasing may follow it; move it before")
    return ImageFold(tuple(leaves), tuple(positions), normalize, field.channels or 3, stored_leaves)
