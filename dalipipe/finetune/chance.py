"""Whether a policy leaves anything to chance: validation must not."""

from __future__ import annotations

import numpy as np

from dalipipe.ops.mix import MixOp
from dalipipe.policy import Macro, Node, OneOf, Op, Policy, RandomOrder, SomeOf

_SAMPLES = 64
_SIZES = {"image": (375, 500), "signal": (16000, 1, 16000, 1), "text": (20,)}


def left_to_chance(policy: Policy) -> Node | None:
    """The first operator (or container that chooses among some) which does to a sample what is drawn, rather than the
    same each time; ``None``: there is none. Functions that `PythonStep` calls are not looked into.
    """
    return next((found for node in policy if (found := _by_chance(node)) is not None), None)


def _by_chance(node: Node) -> Node | None:
    if isinstance(node, Op):
        return node if _draws(node) else None
    if isinstance(node, Macro):
        return node if any(_by_chance(child) is not None for child in node.nodes()) else None
    if not _acts(node):
        return None
    acting = sum(map(_acts, node.ops))
    chooses = node.p < 1.0
    if isinstance(node, OneOf):
        chooses |= len(node.ops) > 1 and max(np.diff(node.edges, prepend=0.0)) < 1.0
    elif isinstance(node, SomeOf):
        chooses |= node.n != (len(node.ops), len(node.ops))
    elif isinstance(node, RandomOrder):
        chooses |= acting > 1
    if chooses:
        return node
    return next((found for child in node.ops if (found := _by_chance(child)) is not None), None)


def _acts(node: Node) -> bool:
    """Whether it is applied to any sample."""
    if isinstance(node, Op):
        return node.p > 0.0
    if isinstance(node, Macro):
        return any(map(_acts, node.nodes()))
    return node.p > 0.0 and not (isinstance(node, SomeOf) and node.n == (0, 0)) and any(map(_acts, node.ops))


def _draws(op: Op) -> bool:
    """Whether it does other things to samples of the same size."""
    if op.p == 0.0:
        return False
    if op.p < 1.0 or op.noisy or isinstance(op, MixOp):
        return True
    if not op.draws:
        return False
    size = np.tile(np.array(_SIZES[op.modality]), (_SAMPLES, 1))
    found = op.draw(np.random.default_rng(0).random((_SAMPLES, op.draws)), size)
    return any((value != value[:1]).any() for value in map(np.asarray, found.values()))
