"""Deals an epoch's order out in batches, to one rank of several: pure functions of (epoch, step)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DistributedSampler

from dalipipe import rng
from dalipipe.faults import TooManyBadSamplesError
from dalipipe.orders import GivenBatches, Order, TokenBatches

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

    def steps_in(self, epoch: int) -> int:
        """Batches in that epoch, the same on every rank."""
        full, rest = divmod(self.order.size, self.global_batch)
        return full + (1 if rest and not self.drop_last else 0)

    @property
    def steps(self) -> int:
        """Batches in this epoch."""
        return self.steps_in(self.epoch)

    def largest(self, epoch: int) -> int:
        """Samples in this rank's largest batch of the epoch."""
        return self.batch_size

    def remainder(self, epoch: int) -> int:
        """Rows of the epoch's last global batch that no other batch has, where it may be short; -1: all count."""
        return -1 if self.drop_last else self.order.size % self.global_batch

    def step(self, epoch: int, number: int) -> Step:
        """This rank's share of global batch ``number``."""
        return next(self._steps(epoch, number, number + 1))

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[Step]:
        """Every `step` from ``first_step`` on; worked out for several at a time, which is quicker."""
        steps = self.steps_in(epoch)
        for begin in range(first_step, steps, _STEPS_TOGETHER):
            yield from self._steps(epoch, begin, min(begin + _STEPS_TOGETHER, steps))

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
        self._check_number(epoch, number)
        start = number * self.global_batch + self.rank * self.batch_size
        positions = np.arange(start, start + self.batch_size, dtype=np.int64)
        inside = positions < self.order.size
        if self.world_size == 1 and not self.exact:
            return positions[inside], inside[inside]
        return positions % self.order.size, inside if self.exact else np.ones_like(inside)

    def _check_number(self, epoch: int, number: int) -> None:
        if not 0 <= number < (steps := self.steps_in(epoch)):
            raise IndexError(f"step {number} of an epoch of {steps} steps")

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
        for attempt in range(_MAX_ATTEMPTS):
            among = self._stand_ins(epoch, position, attempt)
            place = np.array([among[rng.mix64(self.seed, epoch, position, attempt) % len(among)]])
            if int(self.order.at(epoch, place)[0]) not in bad:
                return place
        raise TooManyBadSamplesError(f"no good sample found in {_MAX_ATTEMPTS} draws to stand in for a bad one")

    def _stand_ins(self, epoch: int, position: int, attempt: int) -> range:
        """The positions of which one may stand in for a bad one."""
        return range(self.order.size)

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


class _UnlikeSteps(Sampler):
    """Batches that differ in how many samples they have."""

    def _ends(self, epoch: int) -> np.ndarray:
        """int64 [steps]: positions up to each global batch's end."""
        raise TypeError(f"{type(self).__name__} does not say where its batches end")

    def steps_in(self, epoch: int) -> int:
        return len(self._ends(epoch))

    def _rows(self, epoch: int, number: int) -> tuple[int, int]:
        self._check_number(epoch, number)
        ends = self._ends(epoch)
        return int(ends[number - 1]) if number else 0, int(ends[number])

    def samples_before(self, epoch: int, number: int) -> int:
        return int(self._ends(epoch)[number - 1]) if number else 0

    def step_after(self, epoch: int, samples: int) -> int:
        return int(np.searchsorted(self._ends(epoch), samples, side="left")) + 1 if samples else 0

    def largest(self, epoch: int) -> int:
        return int(np.diff(self._ends(epoch), prepend=0).max())


class GivenSteps(_UnlikeSteps):
    """Deals out the batches of a user's batch sampler as they are, to this rank."""

    order: GivenBatches

    def __init__(self, order: GivenBatches, *, seed: int = 0) -> None:
        super().__init__(order, 1, seed=seed)

    @property
    def global_batch(self) -> int:
        return 0  # they differ

    def steps_in(self, epoch: int) -> int:
        return len(self.order.sampler)

    def remainder(self, epoch: int) -> int:
        return -1

    def _ends(self, epoch: int) -> np.ndarray:
        return self.order.ends(epoch)

    def _positions(self, epoch: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        positions = np.arange(*self._rows(epoch, number), dtype=np.int64)
        return positions, np.ones(len(positions), bool)

    def _stand_ins(self, epoch: int, position: int, attempt: int) -> range:
        return range(int(self._ends(epoch)[-1]))

    def __len__(self) -> int:
        return int(self._ends(self.epoch)[-1])

    @property
    def num_valid_samples(self) -> int:
        return len(self)


class TokenSteps(_UnlikeSteps):
    """Deals out the batches of `TokenBatches`: each rank an equal share of every one's rows.

    A batch that lacks some rows, the epoch's last, a single rank gets so; several ranks, or ``exact`` ones, fill it up
    with its own rows, so that it stays within the budget; with ``drop_last`` the records too many are left out.
    """

    order: TokenBatches

    def __init__(self, order: TokenBatches, **settings: Any) -> None:
        super().__init__(order, 1, **settings)

    @property
    def global_batch(self) -> int:
        """Of what batches' rows are a multiple."""
        return self.order.multiple

    @property
    def _fills(self) -> bool:
        return self.exact or self.world_size > 1

    def _ends(self, epoch: int) -> np.ndarray:
        if self.order.multiple % self.world_size:
            raise ValueError(
                f"TokenBatches: batches have multiples of multiple={self.order.multiple} rows, which "
                f"{self.world_size} ranks cannot share equally: give a multiple that {self.world_size} divides"
            )
        ends, rest = self.order.ends(epoch), self.order.size % self.order.multiple
        if self.drop_last and rest:
            ends = np.append(ends[:-1], ends[-1] - rest)
            if ends[-1] == (ends[-2] if len(ends) > 1 else 0):
                ends = ends[:-1]
        return ends

    def _positions(self, epoch: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        begin, end = self._rows(epoch, number)
        share = self._share(end - begin)
        rows = np.arange(self.rank * share, (self.rank + 1) * share, dtype=np.int64)
        inside = rows < end - begin
        return begin + rows % (end - begin), inside if self.exact else np.ones_like(inside)

    def _share(self, rows: int) -> int:
        """Rows of a global batch of so many that each rank takes."""
        return -(-rows // self.order.multiple) * self.order.multiple // self.world_size if self._fills else rows

    def _stand_ins(self, epoch: int, position: int, attempt: int) -> range:
        """Those of its batch, which are no longer than others there, as long as there is hope."""
        if attempt >= _MAX_ATTEMPTS // 2:
            return range(self.order.size)
        number = int(np.searchsorted(self.order.ends(epoch), position, side="right"))
        return range(*self._rows(epoch, number))

    def largest(self, epoch: int) -> int:
        return self._share(super().largest(epoch)) if self.steps_in(epoch) else 1

    def remainder(self, epoch: int) -> int:
        if self.drop_last or self.order.size % self.order.multiple == 0:
            return -1
        begin, end = self._rows(epoch, self.steps_in(epoch) - 1)
        return end - begin

    def __len__(self) -> int:
        return sum(self._share(rows) for rows in np.diff(self._ends(self.epoch), prepend=0).tolist())

    @property
    def num_valid_samples(self) -> int:
        sizes = np.diff(self._ends(self.epoch), prepend=0).tolist()
        return sum(min(max(rows - self.rank * self._share(rows), 0), self._share(rows)) for rows in sizes)
