"""`Policy`: nodes in order, and what they draw."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dalipipe import rng
from dalipipe.policy.data import node_from_dict, node_to_dict
from dalipipe.policy.gating import Gating, Leaf
from dalipipe.policy.nodes import Container, Copies, Macro, Node, Op, Params
from dalipipe.policy.ranges import check_strength


class DrawError(ValueError):
    """An operator cannot be applied to a sample (a crop larger than the picture). ``row``: its place in the batch."""

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.row, str(self))


@dataclass(frozen=True)
class Drawn:
    """What an operator does to the samples of a batch that it is applied to.

    ``rows`` int64 [A]: which they are, of ``count``; ``params``: arrays [A, …]; ``size`` int64 [A, d]: before it.
    """

    op: Op
    rows: np.ndarray
    params: Params
    size: np.ndarray
    count: int

    @property
    def applied(self) -> np.ndarray:
        """bool [N]."""
        applied = np.zeros(self.count, bool)
        applied[self.rows] = True
        return applied

    def of(self, rows: np.ndarray) -> Drawn:
        """What it does to some of them: ``rows`` int64 [A], ascending, which become samples 0, 1, …"""
        here = np.isin(self.rows, rows)
        params = {name: value[here] for name, value in self.params.items()}
        return Drawn(self.op, np.searchsorted(rows, self.rows[here]), params, self.size[here], len(rows))

    def at(self, row: int) -> Params | None:
        """The parameters of one sample; ``None`` where it is not applied."""
        place = int(np.searchsorted(self.rows, row))
        if place == len(self.rows) or self.rows[place] != row:
            return None
        return {name: value[place] for name, value in self.params.items()}

    def reference(self, row: int, x: np.ndarray) -> np.ndarray:
        params = self.at(row)
        return x if params is None else self.op.reference(x, params)


class Policy:
    """Operators in order. A slot (its place, depth first) keys each operator's random numbers.

    >>> policy = Policy([RandomResizedCrop(224), HorizontalFlip(p=0.5), Normalize()])

    ``first_slot``: of its first operator, where it is a part of a longer policy; ``end_slot``: the first one after it.
    ``stored_after``: how many of its first nodes leave the sample as if it were stored then, and taken up again by the
    others: with `split` there and `dalipipe.pack`, the outcome is the same to the bit. Operators on both sides of that
    place fold into no pass together. ``None``: there is no such place.
    """

    def __init__(self, ops: Sequence[Node], *, first_slot: int = 0, stored_after: int | None = None) -> None:
        if not isinstance(ops, Sequence) or isinstance(ops, str):
            raise TypeError(f"Policy: expected a list of operators, got {type(ops).__name__}: {ops!r}")
        self.ops = tuple(ops)
        if type(first_slot) is not int or first_slot < 0:
            raise ValueError(f"Policy: first_slot must be a whole number, at least 0, got {first_slot!r}")
        if stored_after is not None:
            _check_place("Policy: stored_after", stored_after, len(self.ops))
        self.first_slot, self.stored_after = first_slot, stored_after
        self._leaves: list[Leaf] = []
        self.stored_leaves = 0
        """How many leaves stand before the place of ``stored_after``."""
        self._containers: dict[int, Container] = {}
        self._draws_as: dict[int, int] = {}  # a container's slot → the one whose numbers it draws
        self._draws: dict[int, int] = {}  # slot → uniform numbers, the gate's included
        self.end_slot = first_slot
        for number, op in enumerate(self.ops):
            self.end_slot = self._place(op, self.end_slot, (), None)
            if number + 1 == stored_after:
                self.stored_leaves = len(self._leaves)
        if self.end_slot >= rng.MAX_SLOTS:  # the last is for what is drawn among samples
            raise ValueError(f"Policy: at most {rng.MAX_SLOTS - 1} operators, got {self.end_slot}")
        pairs = [(slot, block) for slot, draws in self._draws.items() for block in range(-(-draws // 4))]
        self._columns: dict[int, slice] = {}  # slot → its numbers among all that are drawn for a sample
        for column, (slot, _) in enumerate(pairs):
            start = self._columns[slot].start if slot in self._columns else 4 * column
            self._columns[slot] = slice(start, 4 * column + 4)
        self._columns |= {slot: self._columns[own] for slot, own in self._draws_as.items()}
        self._pair_slots = np.array([slot for slot, _ in pairs], np.uint32)
        self._pair_blocks = np.array([block for _, block in pairs], np.uint32)
        self._gating = Gating([leaf for leaf in self._leaves if not _is_certain(leaf)], self._containers, self._columns)

    def _place(self, node: Node, slot: int, gates: tuple[tuple[int, int], ...], macro: int | None) -> int:
        """Puts a node and all below it in their places, from ``slot`` on; returns the first slot after them.

        A node behind several gates of a container (`RandomOrder`) has one slot, and a leaf for each gate.
        """
        if isinstance(node, Op):
            own = macro if node.from_macro and macro is not None else slot
            drawn = 1 + node.draws if node.draws or node.p < 1.0 else 0
            self._draws[own] = max(self._draws.get(own, 0), drawn)
            self._leaves.append(Leaf(own, node, gates))
            return slot + 1
        if isinstance(node, Macro):
            after = slot + 1
            for child in node.nodes():
                after = self._place(child, after, gates, slot)
            return after
        if not isinstance(node, Container):
            raise TypeError(f"Policy: expected operators and containers of them, got {type(node).__name__}: {node!r}")
        self._containers[slot] = node
        own = self._draws_as[slot] = macro if node.from_macro and macro is not None else slot
        self._draws[own] = max(self._draws.get(own, 0), 1 + node.draws)
        after = slot + 1
        first: dict[int, int] = {}  # node → its slot
        for gate, number in node.children():
            begin = first.setdefault(number, after)
            after = max(after, self._place(node.ops[number], begin, (*gates, (slot, gate)), macro))
        return after

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """Every operator, in order, out of its containers."""
        return tuple(self._leaves)

    def draw(
        self, key: np.ndarray, indices: np.ndarray, size: np.ndarray, variants: np.ndarray | int = 0
    ) -> list[Drawn]:
        """What happens to samples ``indices`` int64 [N] of sizes ``size`` int64 [N, d]: an entry per leaf.

        ``key``: `rng.make_key`; ``variants``: which copy of its sample each is. Raises `DrawError` where an operator
        cannot be applied.
        """
        n = len(indices)
        u_all = rng.uniforms(key, indices, self._pair_slots, self._pair_blocks, variants)
        u_all = u_all.reshape(n, 4 * len(self._pair_slots))
        gated = iter(self._gating.rows(u_all))
        size, everyone = np.array(size, np.int64), np.arange(n)
        drawn = []
        for leaf in self._leaves:
            op, columns = leaf.op, self._columns.get(leaf.slot, slice(0, 0))
            here: Any
            if _is_certain(leaf):
                rows, here = everyone, slice(None)  # a slice takes numpy a fraction of the time
            else:
                rows = here = next(gated)
            before = size[here]
            misfits = op.misfits(before)
            if misfits is not None and misfits.any():
                first = int(np.argmax(misfits))
                raise DrawError(
                    int(rows[first]), f"{op!r} cannot take a sample of size {tuple(before[first].tolist())}"
                )
            params = op.draw(u_all[here, columns.start + 1 : columns.start + 1 + op.draws], before)
            if op.noisy:
                params = {**params, "noise": rng.noise_keys(key, indices[here], leaf.slot, _of(variants, here))}
                params = op.complete(params, before)
            drawn.append(Drawn(op, rows, params, before, n))
            after = op.output_size(params, before)
            if after is not before:
                size = size.copy()  # what was drawn so far refers to it
                size[here] = after
        return drawn

    def split(self, n: int) -> tuple[Policy, Policy]:
        """Its first ``n`` nodes, and the others: what is drawn for these is the same as in the whole policy.

        Raises ``ValueError`` where there are not so many.
        """
        _check_place("Policy.split: n", n, len(self.ops))
        front = Policy(self.ops[:n], first_slot=self.first_slot)
        return front, Policy(self.ops[n:], first_slot=front.end_slot)

    def after(self, front: Policy) -> Policy:
        """What is left to do to samples that ``front`` has been applied to: this is the whole policy, or its rest.

        Raises ``ValueError`` where it does not begin with ``front``, or go on from there.
        """
        if self.first_slot == front.end_slot and front.end_slot > front.first_slot:
            return self
        if self.first_slot != front.first_slot or self.ops[: len(front)] != front.ops:
            raise ValueError(
                f"{front!r} has been applied to the samples already: give the policy that begins with it, or what "
                f"its split({len(front)}) leaves, got {self!r}"
            )
        return self.split(len(front))[1]

    def without_mixing(self) -> Policy:
        """The same policy, of which the mix operators (MixUp, CutMix) are applied to no sample. All others draw as
        they did, and labels stay what mixing makes of them, shares of all classes, smoothed as the operators say, so
        batches keep their form: for the last epochs of a run, see `Phases`.
        """
        nodes = [_without_mixing(node) for node in self.ops]
        return Policy(nodes, first_slot=self.first_slot, stored_after=self.stored_after)

    def at_strength(self, strength: float) -> Policy:
        """This policy, weaker or stronger: 1 is as written, 0 leaves every sample as it is, but for what batches need
        (sizes, lengths, units), from which all chance is gone; above 1 it goes as far as ranges allow.

        What an operator does to a sample is made ``strength`` times as large, field by field (`Op.measures`): angles,
        shifts, decibels and shares towards 0, factors of colour towards 1; of zooms, rates and ratios the logarithm, of
        noise the amplitude. What knows no more and less (flips, equalising, channels in another order, mixing) and what
        has a smallest step (edits of a few words) is applied ``strength`` times as often; above 1 up to half the
        samples, or as often as it was. Containers choose among their operators as before; a macro becomes what it
        stands for, or, where its parts draw together (AugMix), is applied less often. Every operator keeps its slot, so
        that its draws at all strengths are the same numbers.

        What has been stored (``stored_after``) stays as it is.

        Raises ``ValueError`` for a strength below 0, or an operator that cannot be told to do less: `PythonStep`.
        """
        strength = check_strength(strength, "Policy.at_strength")
        return self._with(lambda node: node.at_strength(strength))

    def with_copies(self, copies: int) -> Policy:
        """Applied to ``copies`` of ``copies`` + 1 samples, see `Copies`; 0: as `at_strength` 0.

        Raises ``ValueError`` for another than a whole number ≥ 0.
        """
        front = self.stored_after or 0
        if front == len(self.ops):
            return self
        one = Copies(self.ops[front:], copies)
        if copies == 0:
            return self.at_strength(0.0)
        return Policy([*self.ops[:front], one], first_slot=self.first_slot, stored_after=self.stored_after)

    @property
    def counts(self) -> bool:
        """Whether an operator of it says how many operators are applied: SomeOf, RandAugment."""
        return any(map(_counts, self.ops))

    def with_count(self, n: int) -> Policy:
        """With ``n`` operators where it says how many are applied: in `SomeOf`, RandAugment and the like.

        Raises ``ValueError`` where it says so nowhere, or there are not so many.
        """
        if not self.counts:
            raise ValueError(f"Policy.with_count: expected SomeOf, RandAugment or the like in the policy, got {self!r}")
        if isinstance(n, bool) or not isinstance(n, int) or n < 0:
            raise ValueError(f"Policy.with_count: n must be a whole number ≥ 0, got {n!r}")
        return self._with(lambda node: _with_count(node, n))

    def _with(self, change: Callable[[Node], Node]) -> Policy:
        """Every node that is not stored changed."""
        front = self.stored_after or 0
        ops = [*self.ops[:front], *map(change, self.ops[front:])]
        return Policy(ops, first_slot=self.first_slot, stored_after=self.stored_after)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `from_dict` is its inverse."""
        data: dict[str, Any] = {"ops": [node_to_dict(op) for op in self.ops]}
        if self.first_slot:
            data["first_slot"] = self.first_slot
        if self.stored_after is not None:
            data["stored_after"] = self.stored_after
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Policy:
        """Raises ``ValueError`` naming the operator and the field."""
        if not isinstance(data, Mapping) or not isinstance(data.get("ops"), Sequence):
            raise ValueError(f'Policy: expected {{"ops": [...]}}, got {data!r}')
        unknown = sorted(set(data) - {"ops", "first_slot", "stored_after"})
        if unknown:
            raise ValueError(f"Policy: has no {unknown[0]!r}; it has ops, first_slot, stored_after")
        return cls(
            [node_from_dict(node) for node in data["ops"]],
            first_slot=data.get("first_slot", 0),
            stored_after=data.get("stored_after"),
        )

    def __iter__(self) -> Iterator[Node]:
        return iter(self.ops)

    def __len__(self) -> int:
        return len(self.ops)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Policy) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[Any, ...]:
        return self.ops, self.first_slot, self.stored_after

    def __repr__(self) -> str:
        parts = [f"[{', '.join(repr(op) for op in self.ops)}]"]
        if self.first_slot:
            parts.append(f"first_slot={self.first_slot}")
        if self.stored_after is not None:
            parts.append(f"stored_after={self.stored_after}")
        return f"Policy({', '.join(parts)})"


def _without_mixing(node: Node) -> Node:
    if isinstance(node, Op):
        return replace(node, p=0.0) if node.modality == "mix" else node
    if isinstance(node, Container):
        return replace(node, ops=tuple(_without_mixing(child) for child in node.ops))
    if any(leaf.op.modality == "mix" for leaf in Policy([node]).leaves):
        raise ValueError(f"Policy.without_mixing: {node!r} stands for operators that mix: write them out instead")
    return node


def _counts(node: Node) -> bool:
    if isinstance(node, Op):
        return False
    return node.counted is not None or any(map(_counts, getattr(node, "ops", ())))


def _with_count(node: Node, n: int) -> Node:
    if isinstance(node, Op):
        return node
    if hasattr(node, "ops"):
        node = replace(node, ops=tuple(_with_count(op, n) for op in node.ops))  # type: ignore[arg-type]
    if node.counted is None:
        return node
    if n == 0 and isinstance(node, Container):
        return replace(node, p=0.0)
    changed: dict[str, Any] = {node.counted: n}
    return replace(node, **changed)


def _is_certain(leaf: Leaf) -> bool:
    """Whether it is applied to every sample."""
    return leaf.op.p >= 1.0 and not leaf.gates


def _check_place(what: str, n: Any, nodes: int) -> None:
    if type(n) is not int or not 1 <= n <= nodes:
        raise ValueError(f"{what} must be a number of its first nodes, 1 to {nodes}, got {n!r}")


def _of(variants: np.ndarray | int, rows: np.ndarray | slice) -> np.ndarray | int:
    return variants if np.ndim(variants) == 0 else np.asarray(variants)[rows]
