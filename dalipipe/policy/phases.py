"""Policies that follow each other: other augmentation in other epochs."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dalipipe.policy.policy import Policy


class Phases:
    """Policies one after the other, each from the epoch that it is given for until the next one's.

    >>> Phases({0: policy, 90: policy.without_mixing()})  # the last of 100 epochs without MixUp and CutMix

    A `DataLoader` takes them as its policy. What is drawn for a sample depends on (seed, epoch, sample) and the policy
    of that epoch alone, so a run that is resumed anywhere goes on as it was. Batches must keep their form throughout:
    the same fields, dtypes and axes; pictures may change their size.

    Args:
        policies: epoch, from 0, → policy. One that equals the one before it changes nothing, and is left out.

    Raises:
        TypeError: another thing than a mapping of policies.
        ValueError: no policy for epoch 0, or an epoch that is no whole number from 0.
    """

    def __init__(self, policies: Mapping[int, Policy]) -> None:
        if not isinstance(policies, Mapping):
            raise TypeError(f"Phases: expected a mapping, epoch → Policy, got {type(policies).__name__}")
        for epoch, policy in policies.items():
            if type(epoch) is not int or epoch < 0:
                raise ValueError(f"Phases: epochs must be whole numbers, at least 0, got {epoch!r}")
            if not isinstance(policy, Policy):
                raise TypeError(f"Phases: epoch {epoch} must have a dalipipe.Policy, got {type(policy).__name__}")
        if 0 not in policies:
            raise ValueError(f"Phases: epoch 0 must have a policy, got policies for the epochs {sorted(policies)}")
        kept: dict[int, Policy] = {}
        for epoch in sorted(policies):
            if not kept or policies[epoch] != kept[max(kept)]:
                kept[epoch] = policies[epoch]
        self.policies = kept

    @classmethod
    def by_epoch(cls, policy_of: Callable[[int], Policy], epochs: int) -> Phases:
        """``policy_of(epoch)`` for every one of ``epochs`` epochs, the last of them from then on: strength that grows.

        Raises ``ValueError`` where ``epochs`` is no whole number from 1.
        """
        if type(epochs) is not int or epochs < 1:
            raise ValueError(f"Phases.by_epoch: epochs must be a whole number, at least 1, got {epochs!r}")
        return cls({epoch: policy_of(epoch) for epoch in range(epochs)})

    @property
    def starts(self) -> tuple[int, ...]:
        """The epochs with which they begin, ascending."""
        return tuple(self.policies)

    def start_of(self, epoch: int) -> int:
        """The epoch with which the phase began that ``epoch`` belongs to."""
        return self.starts[bisect_right(self.starts, epoch) - 1]

    def at(self, epoch: int) -> Policy:
        """The policy of an epoch, from 0."""
        return self.policies[self.start_of(epoch)]

    def map(self, change: Callable[[Policy], Policy]) -> Phases:
        """The same phases, of changed policies."""
        return Phases({epoch: change(policy) for epoch, policy in self.policies.items()})

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"phases": [[epoch, policy.to_dict()] for epoch, policy in self.policies.items()]}

    def __iter__(self) -> Iterator[Policy]:
        return iter(self.policies.values())

    def __len__(self) -> int:
        return len(self.policies)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Phases) and self.policies == other.policies

    def __hash__(self) -> int:
        return hash(tuple(self.policies.items()))

    def __repr__(self) -> str:
        return f"Phases({self.policies!r})"
