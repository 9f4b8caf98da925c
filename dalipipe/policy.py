"""What may happen to a sample (`Op`, `OneOf`, `SomeOf`, `Policy`) and what does happen to it (`Drawn`).

The host draws, the engines apply: a policy turns (seed, epoch, sample) into parameter arrays [N, …]; engines hold no
random state. An operator that is not applied to a sample gets identity parameters there, not a branch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar

import numpy as np

from dalipipe import rng

Params = dict[str, np.ndarray]

_OPS: dict[str, type[Op]] = {}


class DrawError(ValueError):
    """An operator cannot be applied to a sample (a crop larger than the picture). ``row``: its place in the batch."""

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.row, str(self))


@dataclass(frozen=True)
class Op:
    """An operator: what it may do is in its fields, what it does to a sample is drawn.

    Subclasses are frozen dataclasses; their fields are ranges and options, checked in ``__post_init__`` through the
    ``check_*`` functions below. ``p`` is the probability that a sample is touched at all.
    """

    p: float = field(default=1.0, kw_only=True)

    modality: ClassVar[str]
    """Kind of field that it applies to."""
    draws: ClassVar[int] = 0
    """Uniform numbers needed per sample, besides the one that decides whether it is applied."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "draw" in cls.__dict__:  # a concrete operator: known by name to `Policy.from_dict`
            _OPS[cls.__name__] = cls

    def __post_init__(self) -> None:
        check_range(self, "p", (self.p, self.p), 0.0, 1.0)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        """Uniforms float64 [N, draws] and sample sizes int64 [N, d] → parameters, each array [N, …]."""
        raise TypeError(f"{type(self).__name__} does not say how to draw its parameters")

    def identity(self, size: np.ndarray) -> Params:
        """The parameters, for these N samples, under which nothing happens."""
        raise TypeError(f"{type(self).__name__} has no identity parameters, so its p must be 1")

    def output_size(self, params: Params, size: np.ndarray) -> np.ndarray:
        """int64 [N, d]: the sizes after the operator."""
        return size

    def misfits(self, size: np.ndarray) -> np.ndarray | None:
        """bool [N]: samples of sizes that this operator cannot take; ``None`` where it takes all."""
        return None

    def reference(self, x: np.ndarray, params: Params) -> np.ndarray:
        """The specification, in plain numpy, for one sample: ``params`` holds that sample's rows."""
        raise TypeError(f"{type(self).__name__} has no reference")

    def __repr__(self) -> str:
        shown = []
        for f in fields(self):
            value = getattr(self, f.name)
            default = (
                f.default
                if f.default is not MISSING
                else (f.default_factory() if f.default_factory is not MISSING else MISSING)
            )
            if value != default:
                shown.append(f"{f.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(frozen=True, repr=False)
class OneOf:
    """Applies exactly one of its operators to a sample, by ``weights`` (equal by default), with probability ``p``."""

    ops: tuple[Node, ...]
    p: float = 1.0
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        _check_container(self, self.ops, self.p)
        if self.weights is not None:
            object.__setattr__(self, "weights", tuple(float(w) for w in self.weights))
            if len(self.weights) != len(self.ops) or min(self.weights) < 0 or sum(self.weights) <= 0:
                raise ValueError(
                    f"OneOf: weights must be {len(self.ops)} numbers ≥ 0 with a positive sum, "
                    f"one per operator, got {self.weights}"
                )

    @property
    def draws(self) -> int:
        return 1

    def choose(self, u: np.ndarray) -> np.ndarray:
        """float64 [N, 1] → bool [N, operators]."""
        weights = np.array(self.weights or [1.0] * len(self.ops))
        edges = np.cumsum(weights) / weights.sum()
        chosen = np.minimum(np.searchsorted(edges, u[:, 0], side="right"), len(self.ops) - 1)
        return chosen[:, None] == np.arange(len(self.ops))

    def __repr__(self) -> str:
        return _container_repr(self)


@dataclass(frozen=True, repr=False)
class SomeOf:
    """Applies ``n`` different operators (or from ``n[0]`` to ``n[1]`` of them), in the order listed, with probability
    ``p``.
    """

    ops: tuple[Node, ...]
    n: int | tuple[int, int] = 1
    p: float = 1.0

    def __post_init__(self) -> None:
        _check_container(self, self.ops, self.p)
        low, high = (self.n, self.n) if isinstance(self.n, int) else tuple(self.n)
        if not 0 <= low <= high <= len(self.ops):
            raise ValueError(
                f"SomeOf: n must lie in [0, {len(self.ops)}], the number of operators, low before high; got {self.n}"
            )
        object.__setattr__(self, "n", (low, high))

    @property
    def draws(self) -> int:
        return 1 + len(self.ops)

    def choose(self, u: np.ndarray) -> np.ndarray:
        """float64 [N, 1 + operators] → bool [N, operators]."""
        low, high = self.n  # type: ignore[misc]
        count = low + np.minimum((u[:, 0] * (high - low + 1)).astype(np.int64), high - low)
        rank = np.argsort(np.argsort(u[:, 1:], axis=1, kind="stable"), axis=1, kind="stable")
        return rank < count[:, None]

    def __repr__(self) -> str:
        return _container_repr(self)


Node = Op | OneOf | SomeOf


@dataclass(frozen=True)
class Leaf:
    """An operator in its place. ``gates``: the (container slot, child number) pairs that must all be open for it."""

    slot: int
    op: Op
    gates: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Drawn:
    """What an operator does to each of N samples."""

    op: Op
    params: Params
    applied: np.ndarray
    """bool [N]; where False, ``params`` are the identity's."""
    size: np.ndarray
    """int64 [N, d]: sizes before the operator."""

    def reference(self, row: int, x: np.ndarray) -> np.ndarray:
        return self.op.reference(x, {name: value[row] for name, value in self.params.items()})


class Policy:
    """Operators in order. A slot (its place, depth first) keys each operator's random numbers.

    >>> policy = Policy([RandomResizedCrop(224), HorizontalFlip(p=0.5), Normalize()])
    """

    def __init__(self, ops: Sequence[Node]) -> None:
        self.ops = tuple(ops)
        self._leaves: list[Leaf] = []
        self._containers: list[tuple[int, OneOf | SomeOf, tuple[tuple[int, int], ...]]] = []
        self._slots = 0
        for op in self.ops:
            self._place(op, ())
        if self._slots > rng.MAX_SLOTS:
            raise ValueError(f"Policy: at most {rng.MAX_SLOTS} operators, got {self._slots}")
        drawing = [(leaf.slot, leaf.op.draws) for leaf in self._leaves] + [(s, c.draws) for s, c, _ in self._containers]
        pairs = [(slot, block) for slot, draws in drawing for block in range(-(-(1 + draws) // 4))]
        self._columns: dict[int, slice] = {}  # slot → its numbers among all that are drawn for a sample
        for column, (slot, _) in enumerate(pairs):
            start = self._columns[slot].start if slot in self._columns else 4 * column
            self._columns[slot] = slice(start, 4 * column + 4)
        self._pair_slots = np.array([slot for slot, _ in pairs], np.uint32)
        self._pair_blocks = np.array([block for _, block in pairs], np.uint32)

    def _place(self, node: Node, gates: tuple[tuple[int, int], ...]) -> None:
        slot = self._slots
        self._slots += 1
        if isinstance(node, Op):
            self._leaves.append(Leaf(slot, node, gates))
        elif isinstance(node, OneOf | SomeOf):
            self._containers.append((slot, node, gates))
            for child, op in enumerate(node.ops):
                self._place(op, (*gates, (slot, child)))
        else:
            raise TypeError(f"Policy: expected operators, OneOf or SomeOf, got {type(node).__name__}: {node!r}")

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
        u_all = rng.uniforms(key, indices, self._pair_slots, self._pair_blocks, variants).reshape(len(indices), -1)
        u = {slot: u_all[:, columns] for slot, columns in self._columns.items()}
        open_gates = {}
        for slot, container, _ in self._containers:
            chosen = container.choose(u[slot][:, 1 : 1 + container.draws])
            open_gates[slot] = chosen & (u[slot][:, :1] < container.p)
        drawn = []
        size = np.asarray(size, np.int64)
        for leaf in self._leaves:
            op = leaf.op
            applied = u[leaf.slot][:, 0] < op.p
            for slot, child in leaf.gates:
                applied = applied & open_gates[slot][:, child]
            misfits = op.misfits(size)
            if misfits is not None and (misfits & applied).any():
                row = int(np.argmax(misfits & applied))
                raise DrawError(row, f"{op!r} cannot take a sample of size {tuple(size[row].tolist())}")
            params = op.draw(u[leaf.slot][:, 1 : 1 + op.draws], size)
            if not applied.all():
                idle = op.identity(size)
                params = {
                    name: np.where(applied.reshape(-1, *[1] * (value.ndim - 1)), value, idle[name])
                    for name, value in params.items()
                }
            drawn.append(Drawn(op, params, applied, size))
            size = op.output_size(params, size)
        return drawn

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `from_dict` is its inverse."""
        return {"ops": [_node_to_dict(op) for op in self.ops]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Policy:
        """Raises ``ValueError`` naming the operator and the field."""
        if not isinstance(data, Mapping) or not isinstance(data.get("ops"), Sequence):
            raise ValueError(f'Policy: expected {{"ops": [...]}}, got {data!r}')
        return cls([_node_from_dict(node) for node in data["ops"]])

    def __iter__(self) -> Iterator[Node]:
        return iter(self.ops)

    def __len__(self) -> int:
        return len(self.ops)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Policy) and self.ops == other.ops

    def __hash__(self) -> int:
        return hash(self.ops)

    def __repr__(self) -> str:
        return f"Policy([{', '.join(repr(op) for op in self.ops)}])"


# Checks, shared by all operators -----------------------------------------------------------------------------------


def check_range(op: Any, name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> tuple[float, float]:
    """``value`` as (a, b) with low ≤ a ≤ b ≤ high, or a ``ValueError`` that says what came."""
    try:
        a, b = (float(v) for v in value)
    except (TypeError, ValueError):
        raise ValueError(f"{type(op).__name__}: {name} must be a pair of numbers (low, high), got {value!r}") from None
    if not low <= a <= b <= high:  # also false for NaN
        shown = value if a != b else a
        raise ValueError(f"{type(op).__name__}: {name} must lie in [{low:g}, {high:g}], low before high, got {shown!r}")
    return a, b


def set_field(op: Any, name: str, value: Any) -> None:
    """Sets a field of a frozen dataclass from its ``__post_init__``."""
    object.__setattr__(op, name, value)


def _check_container(container: OneOf | SomeOf, ops: Sequence[Node], p: float) -> None:
    name = type(container).__name__
    if isinstance(ops, Op) or not isinstance(ops, Sequence) or not ops:
        raise ValueError(f"{name}: expected a list of operators, got {ops!r}")
    for op in ops:
        if not isinstance(op, Op | OneOf | SomeOf):
            raise TypeError(f"{name}: expected operators, OneOf or SomeOf, got {type(op).__name__}: {op!r}")
    object.__setattr__(container, "ops", tuple(ops))
    check_range(container, "p", (p, p), 0.0, 1.0)


def _container_repr(container: Any) -> str:
    shown = [repr(list(container.ops))] + [
        f"{f.name}={getattr(container, f.name)!r}"
        for f in fields(container)
        if f.name != "ops" and getattr(container, f.name) != f.default
    ]
    return f"{type(container).__name__}({', '.join(shown)})"


# Policies as data --------------------------------------------------------------------------------------------------


def _node_to_dict(node: Node) -> dict[str, Any]:
    data: dict[str, Any] = {"op": type(node).__name__}
    for f in fields(node):
        value = getattr(node, f.name)
        if f.name == "ops":
            data["ops"] = [_node_to_dict(op) for op in value]
        elif f.default is MISSING or value != f.default:
            data[f.name] = list(value) if isinstance(value, tuple) else value
    return data


def _node_from_dict(data: Any) -> Node:
    containers: dict[str, type] = {"OneOf": OneOf, "SomeOf": SomeOf}
    if not isinstance(data, Mapping) or "op" not in data:
        raise ValueError(f'Policy: expected an operator as {{"op": name, field: value, ...}}, got {data!r}')
    name = data["op"]
    cls = _OPS.get(name) or containers.get(name)
    if cls is None:
        raise ValueError(
            f"Policy: no operator is called {name!r}; there are {', '.join(sorted(_OPS))}, OneOf and SomeOf"
        )
    known = {f.name for f in fields(cls)}
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key == "op":
            continue
        if key not in known:
            raise ValueError(f"{name}: has no field {key!r}; its fields are {', '.join(sorted(known))}")
        if key == "ops":
            values[key] = tuple(_node_from_dict(node) for node in value)
        else:
            values[key] = tuple(value) if isinstance(value, list) else value
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from None
