"""Which of a policy's operators are applied to which samples: gates, and what opens them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dalipipe import native
from dalipipe.policy.nodes import Alike, Container, OneOf, Op, RandomApply, RandomOrder, SomeOf

_KINDS: dict[type, str] = {
    RandomApply: "all",
    OneOf: "one_of",
    Alike: "one_of",
    SomeOf: "some_of",
    RandomOrder: "order",
}


@dataclass(frozen=True)
class Leaf:
    """An operator in its place. ``gates``: the (container slot, gate) pairs that must all be open for it."""

    slot: int
    op: Op
    gates: tuple[tuple[int, int], ...]


class Gating:
    """Of operators ``leaves``, in ``containers`` by their slots; ``columns``: where a slot's numbers are among all that
    are drawn for a sample, the one that decides whether it is applied first.
    """

    def __init__(
        self, leaves: Sequence[Leaf], containers: Mapping[int, Container], columns: Mapping[int, slice]
    ) -> None:
        self._leaves, self._containers, self._columns = leaves, containers, columns
        self._boxes: np.ndarray | None = None
        if all(type(container) in _KINDS for container in containers.values()):
            self._lay_out()

    def rows(self, u: np.ndarray) -> list[np.ndarray]:
        """Of each operator, the samples that it is applied to, int64, rising. ``u`` float64 [N, K]: all that is drawn
        for them.
        """
        if self._boxes is None:
            return self._rows(u)
        return native.open_leaves(u, self._boxes, self._gated, self._gates, self._edges)

    def _rows(self, u: np.ndarray) -> list[np.ndarray]:
        """The same in numpy: what containers of others say, and what the native way is compared with."""
        gates = {}
        for slot, container in self._containers.items():
            own = u[:, self._columns[slot]]
            gates[slot] = container.choose(own[:, 1 : 1 + container.draws]) & (own[:, :1] < container.p)
        found = []
        for leaf in self._leaves:
            applied = np.ones(len(u), bool)
            if leaf.op.p < 1.0:
                applied = u[:, self._columns[leaf.slot].start] < leaf.op.p
            for slot, gate in leaf.gates:
                applied = applied & gates[slot][:, gate]
            found.append(np.flatnonzero(applied))
        return found

    def _lay_out(self) -> None:
        """As csrc/gates.h has it."""
        boxes, edges = np.zeros(len(self._containers), native.GATE_BOX), [np.zeros(0)]
        number = {slot: box for box, slot in enumerate(self._containers)}
        for box, (slot, container) in zip(boxes, self._containers.items(), strict=True):
            box["kind"] = native.GATE_KINDS.index(_KINDS[type(container)])
            box["column"], box["count"], box["p"] = self._columns[slot].start, len(container.ops), container.p
            if isinstance(container, OneOf):
                box["first_edge"] = sum(map(len, edges))
                edges.append(container.edges)
            if isinstance(container, SomeOf):
                box["low"], box["high"] = container.n  # type: ignore[misc]
        gated = np.zeros(len(self._leaves), native.GATE_LEAF)
        gates: list[tuple[int, int]] = []
        for one, leaf in zip(gated, self._leaves, strict=True):
            one["p"], one["column"] = leaf.op.p, self._columns[leaf.slot].start if leaf.op.p < 1.0 else -1
            one["first_gate"], one["gates"] = len(gates), len(leaf.gates)
            gates += [(number[slot], gate) for slot, gate in leaf.gates]
        self._boxes, self._gated, self._edges = boxes, gated, np.concatenate(edges)
        self._gates = np.array(gates, native.GATE)
