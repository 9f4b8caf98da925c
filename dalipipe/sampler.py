"""Which records, in what order, on which rank: pure functions of (epoch, position)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dalipipe import rng

_STEPS_TOGETHER = 16


class Order(Protocol):
    """An epoch's order of records, without state: any position of any epoch can be asked for at any time."""

    @property
    def size(self) -> int:
        """Positions in an epoch."""
        ...

    def at(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """int64 [N] positions in [0, size) → int64 [N] record indices."""
        ...


@dataclass(frozen=True)
class Sequential:
    """Records as they stand."""

    size: int

    def at(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        return np.asarray(positions, np.int64)


@dataclass(frozen=True)
class Shuffled:
    """Every record once an epoch, in an order drawn from (seed, epoch)."""

    size: int
    seed: int

    def at(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        return rng.Permutation(self.size, rng.make_key(rng.mix64(self.seed, 1), epoch))(positions)


class Sampler:
    """Deals an order out in batches, to one rank of ``world_size``.

    Global batch k covers positions [kG, (k+1)G) with G = ``batch_size`` × ``world_size``; rank r takes its slice of it.
    So the same G gives the same global batches on any number of ranks. With ``drop_last`` a short last global batch is
    left out; without, a single rank gets it short, and several ranks fill it up from the epoch's beginning so that all
    take equally many equal steps (as torch's ``DistributedSampler`` pads).

    Iterating gives this rank's record indices for ``epoch``, as torch's samplers do.
    """

    def __init__(
        self, order: Order, batch_size: int, *, drop_last: bool = False, rank: int = 0, world_size: int = 1
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in [0, world_size), got rank={rank}, world_size={world_size}")
        self.order, self.batch_size, self.drop_last = order, batch_size, drop_last
        self.rank, self.world_size, self.epoch = rank, world_size, 0
        self._taken = False

    @property
    def global_batch(self) -> int:
        return self.batch_size * self.world_size

    @property
    def steps(self) -> int:
        """Batches an epoch, the same on every rank."""
        full, rest = divmod(self.order.size, self.global_batch)
        return full + (1 if rest and not self.drop_last else 0)

    def indices(self, epoch: int, step: int) -> np.ndarray:
        """int64 [n]: the records of this rank's batch ``step`` in ``epoch``."""
        return self.order.at(epoch, self._positions(step))

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[np.ndarray]:
        """`indices` of every step from ``first_step`` on; worked out for several at a time, which is quicker."""
        for begin in range(first_step, self.steps, _STEPS_TOGETHER):
            positions = [self._positions(step) for step in range(begin, min(begin + _STEPS_TOGETHER, self.steps))]
            order = self.order.at(epoch, np.concatenate(positions))
            yield from np.split(order, np.cumsum([len(p) for p in positions[:-1]]))

    def _positions(self, step: int) -> np.ndarray:
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of an epoch of {self.steps} steps")
        start = step * self.global_batch + self.rank * self.batch_size
        positions = np.arange(start, start + self.batch_size, dtype=np.int64)
        if self.world_size == 1:
            return positions[positions < self.order.size]
        return positions % self.order.size

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the loader's next iteration gives. Without it, each iteration takes the next by itself."""
        self.epoch, self._taken = epoch, False

    def take_epoch(self) -> int:
        """The epoch for an iteration that begins now."""
        if self._taken:
            self.epoch += 1
        self._taken = True
        return self.epoch

    def __iter__(self) -> Iterator[int]:
        epoch = self.epoch
        for batch in self.batches(epoch):
            yield from batch.tolist()

    def __len__(self) -> int:
        if self.world_size == 1 and not self.drop_last:
            return self.order.size
        return self.steps * self.batch_size
