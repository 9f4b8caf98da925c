"""What a loader shows to trainers that take it apart, and build a torch ``DataLoader`` around its parts.

Accelerate does so to skip batches (``DataLoader(loader.dataset, batch_sampler=..., collate_fn=loader.collate_fn)``),
Lightning to put another sampler in. Both get the loader's own batches, made ahead by its threads.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import BatchSampler

from dalipipe.sampler import Sampler


class Ticket(list[int]):
    """A batch's record indices, as batch samplers give them; and which step of which epoch that is."""

    def __init__(self, indices: list[int], epoch: int, step: int) -> None:
        super().__init__(indices)
        self.epoch, self.step, self._length = epoch, step, len(indices)

    @property
    def whole(self) -> bool:
        """Whether nobody has filled it up."""
        return len(self) == self._length


class StepBatches(BatchSampler):
    """This rank's batches of the epoch that comes next, as tickets. Iterating takes no epoch.

    Lightning makes one again around another sampler: then it batches that as torch's ``BatchSampler`` does, and
    ``steps`` is ``None``.
    """

    even_batches = True  # Accelerate sets it, and puts it back

    def __init__(self, sampler: Any, batch_size: int, drop_last: bool = False) -> None:
        if isinstance(sampler, Sampler) and sampler.drop_last != drop_last:  # Lightning wants every sample predicted
            sampler = copy.copy(sampler)
            sampler.drop_last = drop_last
        super().__init__(sampler, batch_size, drop_last)
        self.steps = sampler if isinstance(sampler, Sampler) else None

    def __iter__(self) -> Iterator[list[int]]:
        if self.steps is None:
            yield from super().__iter__()
            return
        epoch = self.steps.next_epoch
        for number, step in enumerate(self.steps.batches(epoch)):
            yield Ticket(step.indices.tolist(), epoch, number)

    def __len__(self) -> int:
        return super().__len__() if self.steps is None else self.steps.steps

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)


class DatasetView:
    """The user's data set with its attributes, length and items; torch's ``DataLoader`` gets whole batches from it.

    ``loader``: the one that makes the batches. ``settings``: what a loader was made with, for who makes it again.
    """

    def __init__(self, dataset: Any, *, loader: Any = None, settings: dict[str, Any] | None = None) -> None:
        self._dataset, self._loader, self._settings = dataset, loader, settings
        self._running: Any = None

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: Any) -> Any:
        return self._dataset[index]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._dataset, name)

    def __repr__(self) -> str:
        return repr(self._dataset)

    def __getitems__(self, indices: list[int]) -> Any:
        """The batch of these records: in the order of the tickets they are made ahead, other lists one by one."""
        if torch.utils.data.get_worker_info() is not None:
            raise RuntimeError(
                "dalipipe makes batches by threads of the training process: a DataLoader built around its data set "
                "needs num_workers=0"
            )
        if not isinstance(indices, Ticket) or not indices.whole:
            return self._loader._batch_of(indices)
        running = self._running
        if running is None or (running.epoch, running.step) != (indices.epoch, indices.step):
            self._running = running = None  # gives its lane back first
            self._running = running = self._loader._begin(indices.epoch, indices.step)
        return next(running)


def as_it_is(batch: Any) -> Any:
    """The ``collate_fn`` of loaders: their batches come collated."""
    return batch
