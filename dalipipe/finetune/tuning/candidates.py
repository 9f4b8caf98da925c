"""What is compared: a policy at several strengths, with several numbers of operators and of copies; and a baseline."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

from dalipipe.ops.image import Normalize, TrivialAugmentWide
from dalipipe.ops.mix import MixOp
from dalipipe.policy import Copies, Macro, Node, Op, Policy, SomeOf

TRIVIAL = "TrivialAugment"


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One of the policies that are compared.

    Attributes:
        strength: of the policy, see `Policy.at_strength`; 0: no augmentation.
        copies: how many augmented copies there are to each sample, see `Policy.with_copies`; ``None``: all that is
            seen is augmented, as written.
        count: how many operators, where the policy says how many, see `Policy.with_count`; ``None``: as written.
        baseline: the name of another policy that this is, `TRIVIAL`.
    """

    strength: float = 1.0
    copies: int | None = None
    count: int | None = None
    baseline: str | None = None

    @property
    def name(self) -> str:
        if self.baseline is not None:
            return self.baseline
        if self.strength == 0.0:
            return "none"
        parts = [f"strength {self.strength:g}"]
        parts += [] if self.count is None else [f"{self.count} operator{'' if self.count == 1 else 's'}"]
        parts += [] if self.copies is None else [f"{self.copies} {'copy' if self.copies == 1 else 'copies'}"]
        return ", ".join(parts)

    @property
    def dose(self) -> float:
        """How much augmentation that is, to put candidates in order: the strength, times the share of samples that are
        augmented, and, where it counts operators, their number and one more. Of baselines, infinite: any strength of
        one's own policy is preferred.
        """
        if self.baseline is not None:
            return math.inf
        share = 1.0 if self.copies is None else self.copies / (self.copies + 1)
        return self.strength * share * (1.0 if self.count is None else self.count + 1.0)

    def policy(self, written: Policy) -> Policy:
        """What it makes of the policy as written."""
        if self.baseline is not None:
            return trivial_augment(written)
        counted = written if self.count is None else written.with_count(self.count)
        weaker = counted.at_strength(self.strength)
        return weaker if self.copies is None or self.strength == 0.0 else weaker.with_copies(self.copies)


def candidates(
    policy: Policy,
    *,
    strengths: Sequence[float] = (0.25, 0.5, 0.75, 1.0, 1.5),
    copies: Sequence[int | None] | None = None,
    counts: Sequence[int] | None = None,
    baseline: bool = True,
) -> tuple[Candidate, ...]:
    """The grid: every strength with every number of copies and of operators, weakest first; no augmentation at all is
    always among them. Of those that come to the same (no operators, at any strength), only the weakest is.

    Args:
        policy: as written.
        strengths: 0 stands for none, and is there anyway.
        copies: numbers ≥ 0, ``None`` among them for all samples; by default 1, 2, 4 and all, or, where numbers of
            operators are compared, all.
        counts: numbers of operators ≥ 0; by default 0 to 3, where the policy says how many (`SomeOf`, RandAugment) and
            has so many, else none are compared.
        baseline: whether TrivialAugment is to be beaten, where the policy is one for pictures.

    Raises ``ValueError`` for a number out of its range, or counts for a policy that has none.
    """
    for name, given in (("strengths", strengths), ("copies", copies), ("counts", counts)):
        if given is not None and (isinstance(given, str) or not isinstance(given, Sequence) or not len(given)):
            raise ValueError(f"candidates: {name} must be one or more numbers, got {given!r}")
    if counts is None and policy.counts:
        counts = [n for n in range(4) if _has_so_many(policy, n)]
    numbers: Sequence[int | None] = counts if counts is not None else (None,)
    if copies is None:
        copies = (1, 2, 4, None) if counts is None else (None,)
    found = [Candidate(0.0)]
    for strength, n, count in itertools.product(strengths, copies, numbers):
        one = Candidate(float(strength), n, count)
        if strength != 0.0 and n != 0:
            found.append(one)
    if baseline and all(leaf.op.modality in ("image", "mix") for leaf in policy.leaves) and policy.leaves:
        found.append(Candidate(baseline=TRIVIAL))
    kept: dict[Any, Candidate] = {}
    for one in sorted(found, key=lambda one: (one.dose, one.strength)):
        kept.setdefault(effect(one.policy(policy).ops), one)
    return tuple(kept.values())


def effect(nodes: Sequence[Node]) -> tuple[Any, ...]:
    """Equal for policies that come to the same: their operators, but for those that are applied to no sample."""
    found: list[Any] = []
    for node in nodes:
        if isinstance(node, Copies):
            found += effect(node.nodes())
        elif isinstance(node, Macro):
            found += [node] if node.nodes() else []
        elif isinstance(node, Op):
            found += [node] if node.p else []
        elif node.p and (inner := effect(node.ops)) and not (isinstance(node, SomeOf) and node.n == (0, 0)):
            own = [getattr(node, field.name) for field in dataclasses.fields(node) if field.name != "ops"]
            found.append((type(node), *own, len(node.ops), inner))
    return tuple(found)


def trivial_augment(policy: Policy) -> Policy:
    """TrivialAugment, the baseline that needs no tuning, in the place of what ``policy`` does by chance: its sizes and
    its normalisation stay.

    Müller, Hutter, "TrivialAugment: Tuning-free yet state-of-the-art data augmentation" (ICCV 2021).
    """
    calm = [node for node in policy.at_strength(0.0).ops if not _mixes(node)]
    end = next((place for place, node in enumerate(calm) if isinstance(node, Normalize)), len(calm))
    kept = [node for node in calm[:end] if any(leaf.op.stays for leaf in Policy([node]).leaves)]
    return Policy([*kept, TrivialAugmentWide(), *calm[end : end + 1]], first_slot=policy.first_slot)


def _mixes(node: Node) -> bool:
    return any(isinstance(leaf.op, MixOp) for leaf in Policy([node]).leaves)


def _has_so_many(policy: Policy, n: int) -> bool:
    try:
        policy.with_count(n)
    except ValueError:
        return False
    return True
