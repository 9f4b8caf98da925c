"""The nodes of a policy: operators, containers that choose among them, macros that stand for several."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, ClassVar

import numpy as np

from dalipipe.policy.ranges import Measure

Params = dict[str, np.ndarray]

_TYPES: dict[str, type] = {}


def node_types() -> dict[str, type]:
    """Every operator, container and macro that is known, by name."""
    return dict(_TYPES)


@dataclass(frozen=True)
class Op:
    """An operator: what it may do is in its fields, what it does to a sample is drawn.

    Subclasses are frozen dataclasses; their fields are ranges and options, checked in ``__post_init__`` through the
    ``check_*`` functions. ``p`` is the probability that a sample is touched at all, 0..1. A range is a pair (low,
    high), uniform between its ends, or a `policy.Range` (`Choice`, `Normal`).

    Raises:
        ValueError: on construction, for a field of another kind or out of its range: naming operator, field, what was
            expected and what came.
    """

    p: float = field(default=1.0, kw_only=True)

    modality: ClassVar[str]
    """Kind of field that it applies to."""
    draws: ClassVar[int] = 0
    """Uniform numbers needed per sample, besides the one that decides whether it is applied."""
    noisy: ClassVar[bool] = False
    """Whether it draws a number per element: it then gets ``params["noise"]``, a `NoiseKey` of ``csrc/ops.h``."""
    from_macro: ClassVar[bool] = False
    """Whether it draws from the numbers of the macro that it belongs to, which its siblings see too."""
    measures: ClassVar[Mapping[str, Measure]] = {}
    """Fields by which it can be made weaker and stronger. Where there are none, its probability is what changes."""
    by_chance: ClassVar[bool] = False
    """Whether it is made weaker by being applied less often, as its fields have steps that are too coarse (a word of
    ten), and only what is stronger than written goes by `measures`."""
    stays: ClassVar[bool] = False
    """Whether batches need it, whatever the strength: it gives samples their sizes, lengths or units."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.draw is not Op.draw and not cls.__name__.endswith("Op"):  # an operator, not a family of them
            _TYPES[cls.__name__] = cls

    def __post_init__(self) -> None:
        _check_p(self)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        """Uniforms float64 [A, draws] and sample sizes int64 [A, d] of the samples that it is applied to → parameters,
        each array [A, …].
        """
        raise TypeError(f"{type(self).__name__} does not say how to draw its parameters")

    def complete(self, params: Params, size: np.ndarray) -> Params:
        """Parameters that need its numbers per element (``params["noise"]``), added to the others; of noisy
        operators.
        """
        return params

    def output_size(self, params: Params, size: np.ndarray) -> np.ndarray:
        """int64 [A, d]: the sizes after the operator."""
        return size

    def misfits(self, size: np.ndarray) -> np.ndarray | None:
        """bool [A]: samples of sizes that this operator cannot take; ``None`` where it takes all."""
        return None

    def reference(self, x: np.ndarray, params: Params) -> np.ndarray:
        """The specification, in plain numpy, for one sample: ``params`` holds that sample's rows."""
        raise TypeError(f"{type(self).__name__} has no reference")

    def at_strength(self, strength: float) -> Node:
        """Itself, weaker or stronger; `Policy.at_strength` has the rules."""
        if strength == 1.0:
            return self
        if not self.stays and strength == 0.0:
            return self._with_p(0.0)
        if not self.stays and (not self.measures or (self.by_chance and strength < 1.0)):
            return self._with_p(min(self.p * strength, max(self.p, 0.5)))
        changed = {name: measure.scaled(getattr(self, name), strength) for name, measure in self.measures.items()}
        return replace(self, **changed) if changed else self

    def _with_p(self, p: float) -> Op:
        changed = copy.copy(self)  # with what it holds beside its fields
        set_field(changed, "p", p)
        return changed

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(_changed(self))})"


@dataclass(frozen=True, repr=False)
class Container:
    """Decides, sample by sample, which of ``ops`` are applied, all that with probability ``p``."""

    ops: tuple[Node, ...]
    p: float = field(default=1.0, kw_only=True)

    draws: ClassVar[int] = 0
    from_macro: ClassVar[bool] = False
    """As `Op.from_macro`: siblings choose alike."""
    counted: ClassVar[str | None] = None
    """The field that says how many operators are applied; ``None``: there is none."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _TYPES[cls.__name__] = cls

    def __post_init__(self) -> None:
        object.__setattr__(self, "ops", check_nodes(type(self).__name__, self.ops))
        _check_p(self)

    def choose(self, u: np.ndarray) -> np.ndarray:
        """float64 [N, draws] → bool [N, gates]."""
        return np.ones((len(u), len(self.ops)), bool)

    def children(self) -> Iterator[tuple[int, int]]:
        """(gate, number of the node), in order; a node may stand behind several gates, of which one is open at a
        time.
        """
        yield from enumerate(range(len(self.ops)))

    def at_strength(self, strength: float) -> Node:
        """With what it contains weaker or stronger."""
        ops = tuple(op.at_strength(strength) for op in self.ops)
        return replace(self, ops=ops, p=0.0 if all(map(is_idle, ops)) else self.p)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join([repr(list(self.ops)), *_changed(self, 'ops')])})"


@dataclass(frozen=True, repr=False)
class OneOf(Container):
    """Applies exactly one of its operators to a sample, by ``weights`` (equal by default), with probability ``p``."""

    weights: tuple[float, ...] | None = None

    draws: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights is not None:
            try:
                weights = tuple(float(w) for w in self.weights)
            except (TypeError, ValueError):
                weights = ()
            if len(weights) != len(self.ops) or not min(weights) >= 0 or not 0 < sum(weights) < math.inf:
                raise ValueError(
                    f"OneOf: weights must be {len(self.ops)} numbers ≥ 0 with a positive sum, "
                    f"one per operator, got {self.weights}"
                )
            object.__setattr__(self, "weights", weights)

    @property
    def edges(self) -> np.ndarray:
        """float64 [operators]: up to which number in [0, 1) each is chosen."""
        weights = np.array(self.weights or [1.0] * len(self.ops))
        return np.cumsum(weights) / weights.sum()

    def choose(self, u: np.ndarray) -> np.ndarray:
        chosen = np.minimum(np.searchsorted(self.edges, u[:, 0], side="right"), len(self.ops) - 1)
        return chosen[:, None] == np.arange(len(self.ops))


class Alike(OneOf):
    """Several of these in one macro choose alike: the first operator in all of them, or the second."""

    from_macro: ClassVar[bool] = True


@dataclass(frozen=True, repr=False)
class SomeOf(Container):
    """Applies ``n`` different operators (or from ``n[0]`` to ``n[1]`` of them), in the order listed, with probability
    ``p``.
    """

    n: int | tuple[int, int] = 1

    counted: ClassVar[str | None] = "n"

    def __post_init__(self) -> None:
        super().__post_init__()
        ends = tuple(self.n) if isinstance(self.n, tuple | list) else (self.n, self.n)
        if len(ends) != 2 or not all(isinstance(end, int) and not isinstance(end, bool) for end in ends):
            raise ValueError(f"SomeOf: n must be a whole number of operators or (low, high), got {self.n!r}")
        low, high = ends
        if not 0 <= low <= high <= len(self.ops):
            raise ValueError(
                f"SomeOf: n must lie in [0, {len(self.ops)}], the number of operators, low before high; got {self.n}"
            )
        object.__setattr__(self, "n", (low, high))

    @property
    def draws(self) -> int:  # type: ignore[override]
        return 1 + len(self.ops)

    def choose(self, u: np.ndarray) -> np.ndarray:
        low, high = self.n  # type: ignore[misc]
        count = low + np.minimum((u[:, 0] * (high - low + 1)).astype(np.int64), high - low)
        rank = np.argsort(np.argsort(u[:, 1:], axis=1, kind="stable"), axis=1, kind="stable")
        return rank < count[:, None]


@dataclass(frozen=True, repr=False)
class RandomApply(Container):
    """Applies all of its operators to a sample, in order, or none of them: with probability ``p``."""

    p: float = field(default=0.5, kw_only=True)


@dataclass(frozen=True, repr=False)
class RandomOrder(Container):
    """Applies all of its operators to a sample, in an order drawn for it, with probability ``p``."""

    @property
    def draws(self) -> int:  # type: ignore[override]
        return len(self.ops)

    def choose(self, u: np.ndarray) -> np.ndarray:
        order = np.argsort(u, axis=1, kind="stable")  # [N, place]: the operator there
        return (order[:, :, None] == np.arange(len(self.ops))).reshape(len(u), len(self.ops) ** 2)

    def children(self) -> Iterator[tuple[int, int]]:
        for gate in range(len(self.ops) ** 2):
            yield gate, gate % len(self.ops)


@dataclass(frozen=True)
class Macro:
    """A name for several nodes: RandAugment, ColorJitter. Subclasses are frozen dataclasses that say `nodes`."""

    counted: ClassVar[str | None] = None
    """As `Container.counted`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _TYPES[cls.__name__] = cls

    def nodes(self) -> tuple[Node, ...]:
        """What it stands for."""
        raise TypeError(f"{type(self).__name__} does not say what it stands for")

    def at_strength(self, strength: float) -> Node:
        """What it stands for, weaker or stronger, in its place: all others draw the same. What draws together is
        applied less often, and never gets stronger.
        """
        nodes = self.nodes()
        if strength == 1.0 or not nodes:
            return self
        if any(map(_draws_from_macro, nodes)):
            return RandomApply((self,), p=min(strength, 1.0))
        ops = tuple(node.at_strength(strength) for node in nodes)
        return RandomApply(ops, p=0.0 if all(map(is_idle, ops)) else 1.0)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(_changed(self))})"


Node = Op | Container | Macro


@dataclass(frozen=True, repr=False)
class Copies(Macro):
    """Applies ``ops`` to ``copies`` of ``copies`` + 1 samples, all of them together, and leaves the others as they are
    at strength 0: as if each sample stood there with so many augmented copies of it, drawn anew in every epoch.
    ``copies``: a whole number ≥ 0.
    """

    ops: tuple[Node, ...]
    copies: int = 1

    def __post_init__(self) -> None:
        set_field(self, "ops", check_nodes("Copies", self.ops))
        if isinstance(self.copies, bool) or not isinstance(self.copies, int) or self.copies < 0:
            raise ValueError(f"Copies: copies must be a whole number ≥ 0, got {self.copies!r}")

    def nodes(self) -> tuple[Node, ...]:
        pairs = ((op, op.at_strength(0.0)) for op in self.ops)
        return tuple(op if op == calm else Alike((op, calm), weights=(self.copies, 1)) for op, calm in pairs)

    def at_strength(self, strength: float) -> Node:
        return replace(self, ops=tuple(op.at_strength(strength) for op in self.ops))


def is_idle(node: Node) -> bool:
    """Whether it is applied to no sample."""
    return not isinstance(node, Macro) and node.p == 0.0


def _draws_from_macro(node: Node) -> bool:
    if isinstance(node, Op):
        return node.from_macro
    return isinstance(node, Container) and (node.from_macro or any(map(_draws_from_macro, node.ops)))


def check_nodes(owner: str, ops: Any) -> tuple[Node, ...]:
    """``ops`` as a tuple, or an error naming the ``owner`` and what came."""
    if isinstance(ops, Op | Container | Macro) or not isinstance(ops, Sequence) or not ops:
        raise ValueError(f"{owner}: expected a list of one or more operators, got {ops!r}")
    for op in ops:
        if not isinstance(op, Op | Container | Macro):
            raise TypeError(f"{owner}: expected operators and containers of them, got {type(op).__name__}: {op!r}")
    return tuple(ops)


def _check_p(node: Any) -> None:
    if isinstance(node.p, bool) or not isinstance(node.p, int | float) or not 0 <= node.p <= 1:
        raise ValueError(f"{type(node).__name__}: p must be a probability in [0, 1], got {node.p!r}")
    object.__setattr__(node, "p", float(node.p))


def set_field(op: Any, name: str, value: Any) -> None:
    """Sets a field of a frozen dataclass from its ``__post_init__``."""
    object.__setattr__(op, name, value)


def _changed(node: Any, *without: str) -> list[str]:
    """name=value of the fields that are not as by default."""
    shown = []
    for f in fields(node):
        default = f.default_factory() if f.default_factory is not MISSING else f.default
        if f.name not in without and (value := getattr(node, f.name)) != default:
            shown.append(f"{f.name}={value!r}")
    return shown
