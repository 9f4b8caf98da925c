"""Loaders that are not dalipipe's: torch's ``DataLoader``, and whatever else gives batches; their stages as far as they
can be told apart from outside.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, IterableDataset, Subset
from torch.utils.data import DataLoader as TorchDataLoader

from dalipipe.clock import StageClock, minus
from dalipipe.stalls.held import forget
from dalipipe.stalls.pipelines import Times, WorkerPipeline
from dalipipe.stalls.walking import Measured, Stages

_NAMES = ("samples", "imgs", "images", "image_paths", "paths", "file_paths", "files", "filenames")
_LISTS = (*_NAMES, "_samples", "_images", "_image_files")  # torchvision's
_MOST_READ_BYTES = 1 << 22  # at one time
_RESERVE = 4  # batches beyond what workers have made ahead, till times count

Batches = Generator[Any, None, None]


class Foreign:
    """A loader of another library, seen from outside: an iterable of batches that can be begun again.

    Attributes:
        warm_up: batches until what was made before the start is used up.
        workers, prefetch: how it runs; ``workers`` 0: in the training's own thread.
    """

    workers, prefetch = 1, 2  # a guess
    warm_up = 2 * _RESERVE

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self._under_way: Iterator[Any] = iter(())

    def cold(self, block: int) -> Batches:
        """Batches that have not been read before, as far as there are such. Blocks come in their order."""
        while True:
            yield from self._under_way  # goes on where the last block has left it
            self._under_way = _begun(self.loader)

    def cached(self, block: int) -> Batches:
        """Batches that have: of the block before, which is over."""
        while True:
            yield from _begun(self.loader)

    def stages(self, batches: int) -> tuple[Stages, Stages]:
        """Every stage's work on some batches, each alone, files being read anew; and, of those that differ, as they are
        with all files in memory.
        """
        clock, running, seconds = StageClock(cpu=True), _begun(self.loader), list[float]()
        for number in range(-self.warm_up, batches):
            name = "prep" if number >= 0 else "warm up"
            before = clock.so_far()
            with clock.stage(name):
                batch = next(running, None)
                if batch is None:
                    running = _begun(self.loader)
                    next(running)
            if number >= 0:
                seconds.append(clock.since(before)[name][0])
        return {"prep": Measured.of(seconds, clock.stages["prep"].cpu_s)}, {}

    def pipeline(self, names: tuple[str, ...], times: Times) -> WorkerPipeline:
        """What its threads or processes do."""
        return WorkerPipeline(times, self.workers, self.prefetch, names)

    def settings(self) -> dict[str, Any]:
        """What it is and how it is set."""
        return {"kind": _name(self.loader), "files": "first pass against later ones"}

    def close(self) -> None:
        self._under_way = iter(())


class TorchLoader(Foreign):
    """torch's ``DataLoader``, made again for the batches that are looked at, the first ones of its next epoch; itself
    it is left as it is. Those of an `IterableDataset` come as they come.

    ``steps``: of a block; ``blocks``: how many there will be, and one more to begin with.
    """

    def __init__(self, loader: TorchDataLoader, steps: int, blocks: int) -> None:
        super().__init__(loader)
        self.dataset = loader.dataset
        self.workers, self.prefetch = loader.num_workers, loader.prefetch_factor or 2
        self.warm_up = self.workers * self.prefetch + _RESERVE
        self.in_lists = loader.batch_sampler is not None
        self.batches: list[Any] = []
        if isinstance(self.dataset, IterableDataset):
            self.loader = self.again(batch_size=loader.batch_size, drop_last=loader.drop_last)
            return
        self._in_block = self.warm_up + steps + self.workers * self.prefetch  # with those that are never taken
        dealt = loader.batch_sampler if self.in_lists else loader.sampler
        self.batches = list(itertools.islice(iter(dealt or ()), (blocks + 1) * self._in_block))
        if not self.batches:
            raise ValueError("explain: the loader gives no batch: its data set, or its sampler, is empty")
        self.files = [files_of(self.dataset, self.indices(batch)) for batch in self.batches]

    def cold(self, block: int) -> Batches:
        if not self.batches:
            return super().cold(block)
        forget(path for number in self._numbers(block) for path in self.files[number])
        return self._from(block)

    def cached(self, block: int) -> Batches:
        if not self.batches:
            return super().cached(block)
        for number in self._numbers(block - 1):
            read_files(self.files[number])
        return self._from(block - 1)

    def stages(self, batches: int) -> tuple[Stages, Stages]:
        threads = torch.get_num_threads()
        torch.set_num_threads(1 if self.workers else threads)  # as in worker processes
        try:
            return self._one_by_one(batches) if self.batches else self._of_stream(batches)
        finally:
            torch.set_num_threads(threads)

    def as_a_whole(self, batches: int) -> Stages:
        """One stage, a worker process's work on a batch, as it is in one."""
        given = _Given(itertools.cycle(self.batches))
        changes: dict[str, Any] = {"batch_sampler": given} if self.in_lists else {"sampler": given, "batch_size": None}
        return Foreign(self.again(num_workers=min(1, self.workers), **changes)).stages(batches)[0]

    def settings(self) -> dict[str, Any]:
        loader, files = self.loader, [path for batch in self.files for path in batch] if self.batches else []
        endings = {os.path.splitext(path)[1].lower() for path in files}
        return {
            "kind": _name(loader),
            "batch_size": loader.batch_size,
            "workers": self.workers,
            "prefetch": self.prefetch if self.workers else None,
            "pin_memory": loader.pin_memory,
            "dataset": _name(self.dataset),
            "files": "forgotten by the system, and read anew" if files else "first pass against later ones",
            "decodes": "JPEG" if endings and endings <= {".jpg", ".jpeg"} else None,
        }

    def again(self, **changes: Any) -> TorchDataLoader:
        """Another loader with the same arguments but for ``changes``."""
        loader = self.loader
        same: dict[str, Any] = {
            "num_workers": loader.num_workers,
            "collate_fn": loader.collate_fn,
            "pin_memory": loader.pin_memory,
            "timeout": loader.timeout,
            "worker_init_fn": loader.worker_init_fn,
            "multiprocessing_context": loader.multiprocessing_context,
            "prefetch_factor": loader.prefetch_factor,
            "pin_memory_device": loader.pin_memory_device,
        }
        if changes.get("num_workers") == 0:
            same |= {"timeout": 0, "prefetch_factor": None, "multiprocessing_context": None}
        with _told_once():
            return TorchDataLoader(self.dataset, **{**same, **changes})

    def indices(self, batch: Any) -> list[Any]:
        """Of the samples in one of `batches`."""
        return list(batch) if self.in_lists else [batch]

    def _numbers(self, block: int) -> list[int]:
        """Which of the batches belong to a block: those of the first again, where there are not enough."""
        count, first = len(self.batches), max(0, block) * self._in_block
        return [number % count for number in range(first, first + min(count, self._in_block))]

    def _from(self, block: int) -> Batches:
        """A block's batches, over and over."""
        given = _Given(itertools.cycle([self.batches[number] for number in self._numbers(block)]))
        changes: dict[str, Any] = {"batch_sampler": given} if self.in_lists else {"sampler": given, "batch_size": None}
        yield from _begun(self.again(**changes))

    def _of_stream(self, batches: int) -> tuple[Stages, Stages]:
        again: dict[str, Any] = {"batch_size": self.loader.batch_size, "drop_last": self.loader.drop_last}
        return Foreign(self.again(num_workers=0, **again)).stages(batches)

    def _one_by_one(self, batches: int) -> tuple[Stages, Stages]:
        """In this process. Of an item, what its known transforms and the reading of its file do not account for is
        ``"decode"``, or ``"item"``, where that may be anything.
        """
        clock, rest = StageClock(cpu=True), "decode" if _decodes(self.dataset) else "item"
        dataset = watched(self.dataset, clock)
        picked = [number % len(self.batches) for number in range(-1, batches)]
        forget(path for number in set(picked) for path in self.files[number])
        rows = [self._row(dataset, number, clock, rest) for number in picked][1:]  # the first one warms up
        again = [row.pop("read again") for row in rows if "read again" in row]
        names = list(dict.fromkeys(name for row in rows for name in row))
        stages = {name: _measured([row.get(name, (0.0, 0.0)) for row in rows]) for name in names}
        return stages, {"read": _measured(again)} if again else {}

    def _row(self, dataset: Any, number: int, clock: StageClock, rest: str) -> dict[str, tuple[float, float]]:
        """Of one batch: seconds and processor seconds of each stage, in the order in which it passes them."""
        indices, files, whole = self.indices(self.batches[number]), self.files[number], StageClock(cpu=True)
        if files:
            with whole.stage("read"):
                read_files(files)
            with whole.stage("read again"):
                read_files(files)
        before = clock.so_far()
        with whole.stage("items"):
            if not self.in_lists:
                items = dataset[indices[0]]
            elif getattr(dataset, "__getitems__", None):
                items = dataset.__getitems__(indices)
            else:
                items = [dataset[index] for index in indices]
        steps = clock.since(before)
        with whole.stage("collate"):
            self.loader.collate_fn(items)
        row = whole.so_far()
        collate, left = row.pop("collate"), row.pop("items")
        for known in (*steps.values(), row.get("read again", (0.0, 0.0))):
            left = minus(left, known)
        return {**row, rest: left, **steps, "collate": collate}


class _Given:
    """A sampler that gives what it is given."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)


# Stages of map-style data sets ---------------------------------------------------------------------------------------


def watched(dataset: Any, clock: StageClock) -> Any:
    """A copy of a data set whose transforms run on ``clock``, step by step; itself, where it has none that we know."""
    if isinstance(dataset, Subset):
        return _with(dataset, dataset=watched(dataset.dataset, clock))
    if isinstance(dataset, ConcatDataset):
        return _with(dataset, datasets=[watched(one, clock) for one in dataset.datasets])
    changes: dict[str, Any] = {}
    transform, joint = getattr(dataset, "transform", None), getattr(dataset, "transforms", None)
    if callable(transform):
        changes["transform"] = timed = _timed(transform, clock)
        if type(joint).__name__ == "StandardTransform":  # torchvision's, which is but transform and target_transform
            changes["transforms"] = _with(joint, transform=timed)
    elif callable(joint):
        changes["transforms"] = _timed(joint, clock)
    return _with(dataset, **changes) if changes else dataset


def _with(thing: Any, **changes: Any) -> Any:
    """A copy with other attributes; itself where it cannot be had."""
    try:
        changed = copy.copy(thing)
        for name, value in changes.items():
            setattr(changed, name, value)
    except (AttributeError, TypeError):
        return thing
    return changed


def _timed(transform: Any, clock: StageClock) -> Any:
    """The same, on the clock: a ``Compose`` step by step, anything else as one."""
    steps, kind = getattr(transform, "transforms", None), type(transform)
    is_open = kind.__name__ == "Compose" and kind.__module__.startswith("torchvision.")
    if not is_open or not isinstance(steps, (list, tuple)):
        return _Timed(transform, _name(transform), clock)
    names = list[str]()
    for step in steps:
        name = _name(step)
        names.append(name if name not in names else f"{name} {1 + sum(each.split(' ')[0] == name for each in names)}")
    return _with(transform, transforms=[_Timed(*pair, clock) for pair in zip(steps, names, strict=True)])


@dataclass
class _Timed:
    """A step on the clock."""

    step: Callable[..., Any]
    name: str
    clock: StageClock

    def __call__(self, *values: Any, **named: Any) -> Any:
        with self.clock.stage(self.name):
            return self.step(*values, **named)

    def __getattr__(self, name: str) -> Any:  # what a data set asks of its transform
        if name in ("step", "name", "clock"):  # it is being copied, and has none yet
            raise AttributeError(name)
        return getattr(self.step, name)


def _measured(rows: Sequence[tuple[float, float]]) -> Measured:
    return Measured.of([seconds for seconds, _ in rows], sum(cpu_s for _, cpu_s in rows))


def _decodes(dataset: Any) -> bool:
    """Whether all that it does by itself is to read a file and to decode it."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    if isinstance(dataset, ConcatDataset):
        return all(map(_decodes, dataset.datasets))
    return callable(getattr(dataset, "loader", None)) and bool(files_of(dataset, [0]))


# Files --------------------------------------------------------------------------------------------------------------


def files_of(dataset: Any, indices: Sequence[Any]) -> list[str]:
    """The files that these items are read from, where the data set has a list of them; else none."""
    if isinstance(dataset, Subset):
        return files_of(dataset.dataset, [dataset.indices[index] for index in indices])
    if isinstance(dataset, ConcatDataset):
        return [path for index in indices for path in _file_of_joined(dataset, index)]
    size = len(dataset) if hasattr(dataset, "__len__") else -1
    for name in _LISTS:
        listed = getattr(dataset, name, None)
        if not isinstance(listed, (list, tuple, np.ndarray)) or len(listed) != size:
            continue
        paths = [_path_in(listed[index], getattr(dataset, "root", None)) for index in indices if _is_index(index)]
        if paths and all(path is not None for path in paths):
            return [path for path in paths if path is not None]
    return []


def read_files(paths: Iterable[str]) -> None:
    """Reads them through, as one who decodes them would."""
    for path in paths:
        with contextlib.suppress(OSError), open(path, "rb", buffering=0) as file:
            while file.read(_MOST_READ_BYTES):
                pass


def _file_of_joined(dataset: ConcatDataset[Any], index: Any) -> list[str]:
    if not _is_index(index):
        return []
    at = int(np.searchsorted(dataset.cumulative_sizes, index, side="right"))
    before = dataset.cumulative_sizes[at - 1] if at else 0
    return files_of(dataset.datasets[at], [index - before])


def _is_index(index: Any) -> bool:
    return isinstance(index, (int, np.integer)) and bool(index >= 0)


def _path_in(entry: Any, root: Any) -> str | None:
    """The file that an entry, a path or a tuple that begins with one, names."""
    if isinstance(entry, (tuple, list)) and entry:
        entry = entry[0]
    if not isinstance(entry, (str, os.PathLike)):
        return None
    path = os.fspath(entry)
    if not os.path.isfile(path) and isinstance(root, (str, os.PathLike)):
        path = os.path.join(os.fspath(root), path)
    return path if os.path.isfile(path) else None


# Batches ------------------------------------------------------------------------------------------------------------


def foreign(loader: Any, steps: int, blocks: int) -> Foreign:
    """What is known of it. Raises ``TypeError`` for what can be iterated over once at most."""
    if isinstance(loader, TorchDataLoader) and type(loader).__iter__ is TorchDataLoader.__iter__:
        return TorchLoader(loader, steps, blocks)  # others do more than that, which would be lost
    if not isinstance(loader, Iterable) or isinstance(loader, Iterator):
        raise TypeError(
            f"explain: loader must be a DataLoader, or give its batches anew with each iter(loader), and "
            f"{_name(loader)} does not: give what the iterator is made of"
        )
    return Foreign(loader)


def moved(value: Any, device: torch.device) -> Any:
    """A batch on ``device``, whatever tensors are nested in."""
    if hasattr(value, "to") and callable(value.to):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: moved(one, device) for key, one in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(moved(one, device) for one in value))
    if isinstance(value, (list, tuple)):
        return type(value)(moved(one, device) for one in value)
    return value


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """Those of a batch, whatever they are nested in."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from tensors(one)


def _begun(loader: Any) -> Iterator[Any]:
    """An epoch from its start. Raises ``ValueError`` where there is no batch in it."""
    with _told_once():
        running = iter(loader)
    try:
        first = next(running)
    except StopIteration:
        raise ValueError(f"explain: {_name(loader)} gives no batch") from None
    return itertools.chain([first], running)


@contextlib.contextmanager
def _told_once() -> Iterator[None]:
    """That there are many workers torch has said already when the user made the loader."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        yield


def _name(thing: Any) -> str:
    name = getattr(thing, "__name__", type(thing).__name__)
    return "function" if name == "<lambda>" else str(name)
