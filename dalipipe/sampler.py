"""Deals an epoch's order out in batches, to one rank of several: pure functions of (epoch, step)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DistributedSampler

from dalipipe import rng
from dalipipe.faults import TooManyBadSamplesError
from dalipipe.orders import GivenBatches, Order

_STEPS_TOGETHER = 16
_MAX_ATTEMPTS = 1000


@dataclass(frozen=True)
class Step:
    """One rank's share of a global batch: a row a sample.

    ``positions`` int64 [n]: where in the epoch's order; ``indices`` int64 [n]: the records there; ``variants`` int64
    [n]: which copy of its record each is (``None``: there are none); ``counts`` bool [n]: false for what only fills up.
    """

    positions: np.ndarray
    indices: np.ndarray
    variants: np.ndarray | None
    counts: np.ndarray

    def same_as(self, other: Step) -> bool:
        """Whether it has the same rows."""
        mine, its = ((step.positions, step.indices, step.counts, step.variants) for step in (self, other))
        return self is other or all(a is b or np.array_equal(a, b) for a, b in zip(mine, its, strict=True))  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.indices)


def current_place(otherwise: tuple[int, int] = (0, 1)) -> tuple[int, int]:
    """Rank and world size in ``torch.distributed``, where it has begun."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return otherwise


class Sampler(DistributedSampler[int]):
    """Deals an order out in batches, to one rank of ``world_size``.

    Global batch k covers positions [kG, (k+1)G) with G = ``batch_size`` × ``world_size``; rank r takes its slice of it.
    So the same G gives the same global batches on any number of ranks. With ``drop_last`` a short last global batch is
    left out. Without, a single rank gets it short, and several ranks fill it up from the epoch's beginning so that all
    take equally many equal steps (as torch's ``DistributedSampler`` pads). ``exact``: it is always filled up, and each
    step says which of its rows count.

    Iterating gives this rank's record indices for ``epoch``, as torch's samplers do. It is a ``DistributedSampler``, so
    that trainers leave it in place and call its ``set_epoch``.

    ``rank=None``, ``world_size=None``: those of ``torch.distributed``, asked for when they are needed, since many
    trainers begin it only after loaders have been made.
    """

    def __init__(
        self,
        order: Order,
        batch_size: int,
        *,
        drop_last: bool = False,
        rank: int | None = 0,
        world_size: int | None = 1,
        exact: bool = False,
        seed: int = 0,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self._place = (0, 1) if rank is None or world_size is None else (rank, world_size)
        self._ask = rank is None or world_size is None
        if not 0 <= self._place[0] < self._place[1]:
            raise ValueError(f"rank must lie in [0, world_size), got rank={rank}, world_size={world_size}")
        if exact and drop_last:
            raise ValueError('shards="exact" counts every sample once, so drop_last=True cannot be had with it')
        self.order, self.batch_size, self.drop_last, self.exact = order, batch_size, drop_last, exact
        self.epoch, self.seed = 0, seed
        self._taken = False

    @property
    def place(self) -> tuple[int, int]:
        """Rank and world size. Once known, those of ``torch.distributed`` outlive its end, as positions must."""
        if self._ask:
            self._place = current_place(self._place)
        return self._place

    @property
    def rank(self) -> int:  # type: ignore[override]
        return self.place[0]

    @property
    def world_size(self) -> int:
        return self.place[1]

    @property
    def num_replicas(self) -> int:  # type: ignore[override]
        return self.place[1]

    @property
    def global_batch(self) -> int:
        return self.batch_size * self.world_size

    @property
    def steps(self) -> int:
        """Batches an epoch, the same on every rank."""
        full, rest = divmod(self.order.size, self.global_batch)
        return full + (1 if rest and not self.drop_last else 0)

    def step(self, epoch: int, number: int) -> Step:
        """This rank's share of global batch ``number``."""
        return next(self._steps(epoch, number, number + 1))

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[Step]:
        """Every `step` from ``first_step`` on; worked out for several at a time, which is quicker."""
        for begin in range(first_step, self.steps, _STEPS_TOGETHER):
            yield from self._steps(epoch, begin, min(begin + _STEPS_TOGETHER, self.steps))

    def _steps(self, epoch: int, begin: int, end: int) -> Iterator[Step]:
        dealt = [self._positions(epoch, number) for number in range(begin, end)]
        positions = np.concatenate([positions for positions, _ in dealt])
        indices, variants = self.order.at(epoch, positions), self.order.variants(epoch, positions)
        start = 0
        for own, counts in dealt:
            rows = slice(start, start + len(own))
            yield Step(own, indices[rows], None if variants is None else variants[rows], counts)
            start += len(own)

    def _positions(self, epoch: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """int64 [n] positions, bool [n] whether they count."""
        if not 0 <= number < self.steps:
            raise IndexError(f"step {number} of an epoch of {self.steps} steps")
        start = number * self.global_batch + self.rank * self.batch_size
        positions = np.arange(start, start + self.batch_size, dtype=np.int64)
        inside = positions < self.order.size
        if self.world_size == 1 and not self.exact:
            return positions[inside], inside[inside]
        return positions % self.order.size, inside if self.exact else np.ones_like(inside)

    def without(self, epoch: int, step: Step, bad: set[int], *, refill: bool) -> Step:
        """``step`` without the records in ``bad``.

        ``refill``: another record of the epoch takes the place, drawn from (seed, epoch, position), so the same on any
        rank and after any resume. Otherwise the row is left out; but where every row counts for the shape
        (``exact``), or none is left, it is filled up. What fills up an exact step does not count.
        """
        wrong = np.fromiter((index in bad for index in step.indices.tolist()), bool, len(step))
        if not wrong.any():
            return step
        if not refill and not self.exact and not wrong.all():
            good = ~wrong
            variants = None if step.variants is None else step.variants[good]
            return Step(step.positions[good], step.indices[good], variants, step.counts[good])
        indices, counts = step.indices.copy(), step.counts.copy()
        variants = None if step.variants is None else step.variants.copy()
        for row in np.flatnonzero(wrong).tolist():
            place = self._another(epoch, int(step.positions[row]), bad)
            indices[row] = self.order.at(epoch, place)[0]
            if variants is not None:
                variants[row] = self.order.variants(epoch, place)[0]  # type: ignore[index]
            counts[row] &= refill
        return Step(step.positions, indices, variants, counts)

    def _another(self, epoch: int, position: int, bad: set[int]) -> np.ndarray:
        size = self._epoch_size(epoch)
        for attempt in range(_MAX_ATTEMPTS):
            place = np.array([rng.mix64(self.seed, epoch, position, attempt) % size])
            if int(self.order.at(epoch, place)[0]) not in bad:
                return place
        raise TooManyBadSamplesError(f"no good sample found in {_MAX_ATTEMPTS} draws to stand in for a bad one")

    def _epoch_size(self, epoch: int) -> int:
        return self.order.size

    # A position, as samples given to all ranks together -------------------------------------------------------------

    def samples_before(self, epoch: int, number: int) -> int:
        """Samples that the steps before ``number`` give, on all ranks together."""
        return min(number * self.global_batch, self.order.size)

    def step_after(self, epoch: int, samples: int) -> int:
        """The step that comes after so many samples."""
        return -(-samples // self.global_batch)

    # Epochs -----------------------------------------------------------------------------------------------------------

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the loader's next iteration gives. Without it, each iteration takes the next by itself."""
        self.epoch, self._taken = epoch, False

    @property
    def next_epoch(self) -> int:
        """The epoch for an iteration that would begin now."""
        return self.epoch + 1 if self._taken else self.epoch

    def take_epoch(self) -> int:
        """The epoch for an iteration that begins now."""
        self.epoch, self._taken = self.next_epoch, True
        return self.epoch

    # As torch's samplers ----------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[int]:
        for step in self.batches(self.epoch):
            yield from step.indices.tolist()

    def __len__(self) -> int:
        if self.world_size == 1 and not self.drop_last and not self.exact:
            return self.order.size
        return self.steps * self.batch_size

    @property
    def num_samples(self) -> int:  # type: ignore[override]
        return len(self)

    @property
    def total_size(self) -> int:  # type: ignore[override]
        return len(self) * self.world_size

    @property
    def num_valid_samples(self) -> int:
        """Of this rank's samples, those that no other has and that are no filling up: timm's evaluation counts them."""
        full, rest = divmod(self.order.size, self.global_batch)
        if self.drop_last:
            rest = 0
        return full * self.batch_size + min(max(rest - self.rank * self.batch_size, 0), self.batch_size)


class GivenSteps(Sampler):
    """Deals out the batches of a user's batch sampler as they are, to this rank."""

    order: GivenBatches

    def __init__(self, order: GivenBatches, *, seed: int = 0) -> None:
        super().__init__(order, 1, seed=seed)

    @property
    def global_batch(self) -> int:
        return 0  # they differ

    @property
    def steps(self) -> int:
        return len(self.order.sampler)

    def _positions(self, epoch: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        ends = self.order.ends(epoch)
        positions = np.arange(ends[number - 1] if number else 0, ends[number], dtype=np.int64)
        return positions, np.ones(len(positions), bool)

    def _epoch_size(self, epoch: int) -> int:
        return int(self.order.ends(epoch)[-1])

    def samples_before(self, epoch: int, number: int) -> int:
        return int(self.order.ends(epoch)[number - 1]) if number else 0

    def step_after(self, epoch: int, samples: int) -> int:
        return int(np.searchsorted(self.order.ends(epoch), samples, side="left")) + 1 if samples else 0

    def largest(self, epoch: int) -> int:
        """Samples in the epoch's largest batch."""
        return int(np.diff(self.order.ends(epoch), prepend=0).max())

    def __len__(self) -> int:
        return self._epoch_size(self.epoch)

    @property
    def num_valid_samples(self) -> int:
        return len(self)
