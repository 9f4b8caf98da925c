"""Any map-style data set: its own code fetches the items, in threads or processes, and we augment them."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from dalipipe.records import Pictures, Records
from dalipipe.sources.base import Source, digest
from dalipipe.sources.items import Columns, Items, Part, infer
from dalipipe.sources.workers import LocalFetcher, Pool, ProcessFetcher

Workers = Literal["threads", "processes"]
_LOOKED_AT = 16  # items, for a fingerprint
_TRIED = 16  # items, for the first one that can be had
_PROCESS_TASKS = 4  # each process's share of a batch comes in so many parts, for items differ


class MapDataset(Source):
    """A map-style data set: ``dataset[i]`` and ``len(dataset)``, torch's ``Dataset`` or any sequence.

    An item is a tuple, a mapping, a named tuple or one value. Its fields are those of the first item: PIL pictures
    (made RGB), uint8 arrays [H, W, 3 or 1] or [H, W] and uint8 tensors [3 or 1, H, W] or [H, W] are images, of any
    size; after an image, PIL pictures and arrays of one channel are masks. torchvision's ``Mask``,
    ``BoundingBoxes`` and ``KeyPoints`` are masks, boxes and points; beside boxes, arrays with a row a box (their
    labels) are objects that go with them (`Field.companions`). Numbers and arrays of them are columns: whole
    numbers int64, floats float64, arrays and tensors as they are and of one shape. All else is objects. Keys and
    named fields give the names; a tuple's are ``image``, ``mask``, ``boxes``, ``points``, ``label`` (the first
    column beside an image), and ``column_<place>``. A mapping in a tuple that has torchvision's masks, boxes or
    points in it gives its values as fields: detection data sets wrapped by ``wrap_dataset_for_transforms_v2`` come
    as they are.

    Pictures that the data set has made into float tensors (``ToTensor``, ``Normalize``) are columns, which no policy
    applies to: leave both out of its transform.

    Args:
        dataset: its ``__getitems__`` is used where there is one.
        workers: ``"threads"``, or ``"processes"`` for items that take long in Python code. Processes are started
            afresh: the data set must be picklable, and a script needs ``if __name__ == "__main__":``.
        columns: names for an item's values, in their order, or the keys of those to have; a `Field` among them says the
            kind, too.

    Random numbers that the data set draws itself are not the loader's: neither seeds nor resuming apply to them, and
    every worker process has its own. Leave what is random to the policy.

    ``labels``: from the data set's ``targets`` or ``labels``, through torch's ``Subset`` and ``ConcatDataset``.

    Raises:
        TypeError: a data set without random access.
        ValueError: an empty one, or none of whose first items can be had.
    """

    repeatable = False
    may_have_tiles = False

    def __init__(self, dataset: Any, *, workers: Workers = "threads", columns: Columns = None) -> None:
        _check(dataset)
        if workers not in get_args(Workers):
            raise ValueError(f"MapDataset: workers must be one of {', '.join(get_args(Workers))}, got {workers!r}")
        self.dataset, self.workers = dataset, workers
        self._items = infer(_first_item(dataset), columns)
        self.schema = self._items.schema
        self.labels, self.classes = _labels(dataset), _classes(dataset)
        self._reset()

    def _reset(self) -> None:
        fetcher = LocalFetcher if self.workers == "threads" else ProcessFetcher
        self._pool = Pool(functools.partial(fetcher, self.dataset, self._items))

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, indices: np.ndarray, *, threads: int = 1, allocate: Any = None) -> Records:
        """``threads``: threads or processes, as ``workers`` says. Raises `WorkerError` where a process has ended."""
        rows = np.asarray(indices, np.int64).tolist()
        if getattr(self.dataset, "__getitems__", None) is not None:
            per_task = -(-len(rows) // threads)
        else:
            per_task = 1 if self.workers == "threads" else -(-len(rows) // (_PROCESS_TASKS * threads))
        found = self._pool.run(rows, threads, max(per_task, 1), allocate)
        errors = {row: value for row, value in enumerate(found) if isinstance(value, Exception)}
        columns = {
            part.field.name: _stack(part, [None if row in errors else value[i] for row, value in enumerate(found)])
            for i, part in enumerate(self._items.parts)
        }
        return Records(columns, errors)

    def fingerprint(self) -> str:
        """By classes, lengths, labels, file names and subsets' indices. Items may be random: only of lists and of
        torch's ``TensorDataset`` a few are looked at.
        """
        return f"map-{len(self)}-{digest(_identity(self.dataset, self._items))}"

    def describe(self, index: int) -> str:
        dataset, index = _locate(self.dataset, index)
        path = _path(dataset, index)
        return path if path is not None else f"{type(dataset).__name__}[{index}]"

    def close(self) -> None:
        """Ends threads and processes; a read under way in another thread raises ``RuntimeError``."""
        self._pool.close()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_pool"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def __repr__(self) -> str:
        fields = ", ".join(f"{field.name} ({field.kind})" for field in self.schema.fields)
        return f"MapDataset({len(self)} of {type(self.dataset).__name__} in {self.workers}: {fields})"


def is_iterable_style(dataset: Any) -> bool:
    """Whether it gives its samples in its own order only. torch's ``IterableDataset`` inherits a ``__getitem__``."""
    is_torchs = any(cls.__name__ in ("IterableDataset", "IterDataPipe") for cls in type(dataset).__mro__)
    return is_torchs or (hasattr(dataset, "__iter__") and not hasattr(dataset, "__getitem__"))


def _check(dataset: Any) -> None:
    name = type(dataset).__name__
    if is_iterable_style(dataset):
        raise TypeError(
            f"MapDataset: {name} gives its samples in an order of its own: they cannot be shuffled, shared between "
            "ranks or resumed by number; give a data set with __getitem__ and __len__, or write it to shards or Parquet"
        )
    if (
        isinstance(dataset, dict | str | bytes)
        or not hasattr(dataset, "__getitem__")
        or not hasattr(dataset, "__len__")
    ):
        raise TypeError(f"MapDataset: expected a data set with __getitem__ and __len__, got {name}")
    try:
        length = len(dataset)
    except (TypeError, NotImplementedError) as error:
        raise TypeError(f"MapDataset: {name} does not know its length: {error}") from error
    if not length:
        raise ValueError(f"MapDataset: expected at least one item, {name} has none")


def _first_item(dataset: Any) -> Any:
    first: Exception | None = None
    for index in range(min(len(dataset), _TRIED)):
        try:
            return dataset[index]
        except Exception as error:  # a bad item is no reason not to start
            first = first or error
    raise ValueError(
        f"MapDataset: none of the first items of {type(dataset).__name__} can be had; item 0: {first!r}"
    ) from first


def _stack(part: Part, values: list[Any]) -> Any:
    """A field's values, ``None`` where there is none, as a column of records."""
    kind = part.field.kind
    if kind == "object":
        return values
    if kind in ("boxes", "points"):
        none = np.zeros((0, 4 if kind == "boxes" else 2), np.float32)
        return [none if value is None else value for value in values]
    if kind == "column":
        column = np.zeros((len(values), *part.shape), part.dtype)
        for row, value in enumerate(values):
            if value is not None:
                column[row] = value
        return column
    if not values:
        nothing = np.zeros(0, np.int64)
        size = np.zeros((0, 2), np.int32)
        return Pictures(nothing.astype(np.uint64), nothing, size, size, part.field.channels or 3, None)
    empty = np.zeros((1, 1, part.field.channels or 3), np.uint8)
    return Pictures.from_arrays([empty if value is None else value for value in values])


# What data sets tell of themselves; torch's Subset and ConcatDataset are looked through ------------------------------


def _subset(dataset: Any) -> tuple[Any, np.ndarray] | None:
    """(data set, indices) of torch's ``Subset`` and what is built like it."""
    inner, indices = getattr(dataset, "dataset", None), getattr(dataset, "indices", None)
    if inner is None or indices is None or len(indices) != len(dataset):
        return None
    return inner, np.asarray(indices, np.int64)


def _joined(dataset: Any) -> Sequence[Any] | None:
    """The parts of torch's ``ConcatDataset``."""
    parts = getattr(dataset, "datasets", None)
    return parts if isinstance(parts, Sequence) and hasattr(dataset, "cumulative_sizes") else None


def _locate(dataset: Any, index: int) -> tuple[Any, int]:
    """The innermost data set, and the index there."""
    subset, parts = _subset(dataset), _joined(dataset)
    if subset is not None:
        return _locate(subset[0], int(subset[1][index]))
    for part in parts or ():
        if index < len(part):
            return _locate(part, index)
        index -= len(part)
    return dataset, index


def _labels(dataset: Any) -> np.ndarray | None:
    subset, parts = _subset(dataset), _joined(dataset)
    if subset is not None:
        labels = _labels(subset[0])
        return None if labels is None else labels[subset[1]]
    if parts is not None:
        found = [_labels(part) for part in parts]
        return None if any(labels is None for labels in found) else np.concatenate(found)  # type: ignore[arg-type]
    if getattr(dataset, "target_transform", None) is not None:  # items have others
        return None
    for name in ("targets", "labels"):
        values = getattr(dataset, name, None)
        if values is None:
            continue
        try:
            labels = np.asarray(values)
        except (TypeError, ValueError):  # ragged, or on another device
            continue
        if labels.shape == (len(dataset),) and labels.dtype.kind in "iu":
            return labels.astype(np.int64)
    return None


def _classes(dataset: Any) -> list[str] | None:
    subset, parts = _subset(dataset), _joined(dataset)
    if subset is not None:
        return _classes(subset[0])
    if parts is not None:
        found = [_classes(part) for part in parts]
        return found[0] if all(classes == found[0] for classes in found) else None
    classes = getattr(dataset, "classes", None)
    return [str(name) for name in classes] if isinstance(classes, list | tuple) else None


def _path(dataset: Any, index: int) -> str | None:
    """Of data sets that list their samples as torchvision's ``ImageFolder`` does."""
    samples = getattr(dataset, "samples", None)
    if not isinstance(samples, list) or len(samples) != len(dataset):
        return None
    first = samples[index][0] if isinstance(samples[index], tuple) and samples[index] else None
    return first if isinstance(first, str) else None


def _identity(dataset: Any, items: Items) -> list[bytes]:
    """The same in every process, and for every copy of the same data."""
    own = [f"{type(dataset).__module__}.{type(dataset).__qualname__}".replace("__mp_main__", "__main__").encode()]
    own.append(str(len(dataset)).encode())
    subset, parts = _subset(dataset), _joined(dataset)
    if subset is not None:
        return [*own, subset[1].tobytes(), *_identity(subset[0], items)]
    if parts is not None:
        return [*own, *(piece for part in parts for piece in _identity(part, items))]
    for name in ("fingerprint", "_fingerprint"):
        given = getattr(dataset, name, None)
        if isinstance(given, str):
            own.append(given.encode())
    labels = _labels(dataset)
    if labels is not None:
        own.append(labels.tobytes())
    if _path(dataset, 0) is not None:
        names = "\0".join(os.path.basename(_path(dataset, i) or "") for i in range(len(dataset)))
        own.append(os.fsencode(names))
    if isinstance(dataset, list | tuple) or type(dataset).__name__ == "TensorDataset":
        for index in sorted({int(i) for i in np.linspace(0, len(dataset) - 1, min(len(dataset), _LOOKED_AT))}):
            own += [_content(value) for value in items.values(dataset[index])]
    return own


def _content(value: Any) -> bytes:
    if isinstance(value, np.ndarray):
        return repr((value.dtype, value.shape)).encode() + value.tobytes()
    return repr(value if isinstance(value, int | float | str | bytes) else type(value)).encode()
