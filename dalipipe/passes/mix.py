"""Who mixes with whom, and how: a policy's mix operators folded into one step over the finished batch.

Partners are paired inside aligned groups of positions of the epoch, by a matching that is drawn for each group from
(seed, epoch, the group's first position): so they depend neither on ranks nor on batch sizes, as long as no batch cuts
a group.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from dalipipe import rng
from dalipipe.native import MIX_PAIR
from dalipipe.ops.mix import CutMix, MixOp, MixUp, TextCutMix, TimeCutMix, soft_labels
from dalipipe.policy import Drawn, Macro, Node, OneOf, Op, Policy, SomeOf
from dalipipe.schema import Schema

_SLOT = rng.MAX_SLOTS - 1  # above those of operators


@dataclass(frozen=True)
class MixParams:
    """What N samples take of each other.

    ``partner`` int64 [N]: rows; its own where a sample has none here. ``weight`` float32 [N] and ``box`` int32 [N, 4]:
    of the pictures, ``label_weight`` float32 [N]: of the labels, as in `MixOp`; 1 and no box where a sample takes
    nothing.
    """

    partner: np.ndarray
    weight: np.ndarray
    box: np.ndarray
    label_weight: np.ndarray

    @cached_property
    def pairs(self) -> np.ndarray:
        """`MIX_PAIR` [pairs]: those of which at least one takes something."""
        takes = (self.weight != 1) | (self.box[:, 2:] > 0).all(axis=1)
        rows = np.arange(len(takes))
        rows = rows[(rows < self.partner) & (takes | takes[self.partner])]
        both = np.stack([rows, self.partner[rows]], axis=1)
        pairs = np.zeros(len(rows), MIX_PAIR)
        pairs["rows"], pairs["weights"], pairs["boxes"] = both, self.weight[both], self.box[both]
        return pairs


@dataclass(frozen=True)
class MixPass:
    """The mix operators of a policy. ``leaves``: their places among the policy's leaves."""

    ops: tuple[MixOp, ...]
    leaves: tuple[int, ...]

    def fold(self, drawn: Sequence[Drawn], positions: np.ndarray, key: np.ndarray) -> MixParams:
        """What N samples take of each other. ``drawn``: of each of the policy's leaves; ``positions`` int64 [N]: where
        they stand in the epoch, -1: nowhere, as what only fills up a batch; ``key``: `rng.make_key`.
        """
        partner, n = partners(positions, key, self.ops[0].group), len(positions)
        params = MixParams(partner, np.ones(n, np.float32), np.zeros((n, 4), np.int32), np.ones(n, np.float32))
        for one in (drawn[leaf] for leaf in self.leaves):
            paired = partner[one.rows] != one.rows
            for name in ("weight", "box", "label_weight"):
                getattr(params, name)[one.rows[paired]] = one.params[name][paired]
        return params

    @property
    def labels(self) -> str:
        """The field that holds them."""
        return self.ops[0].labels

    def mix_labels(self, labels: Any, params: MixParams, classes: int | None) -> np.ndarray:
        """float32 [N, classes]; see `soft_labels`."""
        return soft_labels(self.ops[0], labels, classes, params.partner, params.label_weight)

    def warn_of_cut_groups(self, batch_size: int) -> None:
        """A warning where batches of a rank cut groups."""
        group, name = self.ops[0].group, type(self.ops[0]).__name__
        if batch_size % group == 0:
            return
        smaller = [even for even in range(2, group, 2) if batch_size % even == 0]
        other = f", or {name} a group of {smaller[-1]}" if smaller else ""
        warnings.warn(
            f"a batch of {batch_size} cuts {name}'s groups of {group}: samples whose partner is in another batch stay "
            "as they are, and which ones those are depends on the number of ranks. Give a batch_size that "
            f"{group} divides{other}",
            stacklevel=3,
        )

    @property
    def summary(self) -> str:
        return f"pairs inside groups of {self.ops[0].group}; {self.labels!r} becomes float32 [N, classes]"


def lower_mix(policy: Policy, schema: Schema) -> MixPass | None:
    """The mix operators of a policy; ``None`` where it has none.

    Raises ``ValueError`` naming the operator that stands in the wrong place, does not go with another one, or finds
    nothing to mix in these fields.
    """
    leaves = [place for place, leaf in enumerate(policy.leaves) if isinstance(leaf.op, MixOp)]
    if not leaves:
        return None
    ops = tuple(leaf.op for leaf in policy.leaves if isinstance(leaf.op, MixOp))
    op = ops[0]
    after = [leaf.op for leaf in policy.leaves[leaves[0] :] if not isinstance(leaf.op, MixOp)]
    if after:
        raise ValueError(f"{after[0]!r} stands after {op!r}, which mixes finished samples: move it before")
    if sum(_at_once(node) for node in policy.ops) > 1:
        listed = ", ".join(map(repr, dict.fromkeys(ops)))
        raise ValueError(f"a sample is mixed once: put the mix operators into OneOf([{listed}])")
    for other in ops[1:]:
        for name in ("labels", "num_classes", "group", "smoothing"):
            ours, theirs = getattr(op, name), getattr(other, name)
            if ours != theirs:
                raise ValueError(
                    f"{type(other).__name__}: {name} must be {ours!r}, as in {op!r}, got {theirs!r}: a policy's mix "
                    "operators share partners and labels"
                )
    kinds = {field.name: field.kind for field in schema.fields}
    for name, kind in kinds.items():
        if kind not in ("image", "audio", "series", "text", "column", "object"):
            raise ValueError(
                f"{op!r} mixes pictures and class labels, but {name!r} is a {kind}: drop it from the policy"
            )
    of_kinds = {"audio": "signals", "series": "signals", "text": "texts"}
    what = next((of_kinds[kind] for kind in kinds.values() if kind in of_kinds), "pictures")
    cuts = {"pictures": CutMix, "signals": TimeCutMix, "texts": TextCutMix}
    for other in ops:
        if isinstance(other, MixUp) and what == "texts":
            raise ValueError(
                f"{other!r} does not apply to texts, as words have no mean: mix what the model makes of them, "
                "finetune.losses.mixup_embeddings, or cut them, TextCutMix"
            )
        if isinstance(other, tuple(cuts.values())) and not isinstance(other, cuts[what]):
            raise ValueError(f"{other!r} does not apply to {what}: {cuts[what].__name__} does")
    if kinds.get(op.labels) != "column":
        columns = ", ".join(repr(name) for name, kind in kinds.items() if kind == "column") or "none"
        raise ValueError(
            f"{type(op).__name__}: labels must name a field of numbers; there are: {columns}; got {op.labels!r}"
        )
    return MixPass(ops, tuple(leaves))


def partners(positions: np.ndarray, key: np.ndarray, group: int) -> np.ndarray:
    """int64 [N]: the row of each row's partner, or its own where that is not here.

    ``positions`` int64 [N]: where the rows stand in the epoch, -1: nowhere; of several at one position the first
    counts. ``group``: even. The matching of a group is one of all perfect matchings, equally likely.
    """
    rows = np.arange(len(positions))
    known, first = np.unique(positions, return_index=True)
    known, first = known[known >= 0], first[known >= 0]
    if not len(known):
        return rows
    groups, of = np.unique(known // group, return_inverse=True)
    blocks = np.arange(-(-group // 4))
    u = rng.uniforms(key, groups * group, np.full(len(blocks), _SLOT), blocks).reshape(len(groups), -1)[:, :group]
    order = np.argsort(u, axis=1, kind="stable")  # neighbours in it are partners
    mate = np.empty_like(order)
    np.put_along_axis(mate, order, order.reshape(len(groups), -1, 2)[:, :, ::-1].reshape(order.shape), axis=1)
    wanted = groups[of] * group + mate[of, known % group]
    place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    here = known[place] == wanted
    rows[first[here]] = first[place[here]]
    return rows


def _at_once(node: Node) -> int:
    """Mix operators that may be applied to a sample together."""
    if isinstance(node, Op):
        return int(isinstance(node, MixOp))
    if isinstance(node, Macro):
        return sum(map(_at_once, node.nodes()))
    counts = sorted(map(_at_once, node.ops))
    most = 1 if isinstance(node, OneOf) else node.n[1] if isinstance(node, SomeOf) else len(counts)  # type: ignore[index]
    return sum(counts[len(counts) - most :])
