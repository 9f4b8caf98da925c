"""Tables with a column of encoded pictures: Parquet and Arrow files, ``pyarrow``, Hugging Face ``datasets``."""

from __future__ import annotations

import json
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dalipipe.records import Records
from dalipipe.schema import Kind, Schema
from dalipipe.sources.base import Source, digest
from dalipipe.sources.formats import field_name
from dalipipe.storage import Storage, expand, is_remote

if TYPE_CHECKING:
    import pyarrow as pa

    from dalipipe.sources.arrow.blocks import Block, Blocks
    from dalipipe.sources.arrow.columns import Column, Errors

_PARQUET = (".parquet", ".pq")
_ARROW = (".arrow", ".feather", ".ipc")
_BATCH_BYTES = 4096  # of Python objects about a record batch: what keeping one costs at least
_REQUESTS = 16  # at a time, for the sizes of files


class _Kept(NamedTuple):
    """A block ready to take rows from: per record batch its first row in the block, and a view per column."""

    firsts: np.ndarray
    views: list[list[Any]]
    held_bytes: int


class Table(Source):
    """Rows of a table whose pictures are encoded files in a column, as Parquet data sets and Hugging Face keep them.

    Args:
        source: Parquet (``.parquet``, ``.pq``) or Arrow files (``.arrow``, ``.feather``, ``.ipc``): a path or URL, a
            pattern, a folder, or a list of these; a ``pyarrow.Table`` or ``pyarrow.dataset.Dataset``; a Hugging Face
            ``datasets.Dataset``, its ``select``, ``shuffle`` and ``filter`` honoured.
        image: the column of pictures: binary, a struct of ``bytes`` and ``path`` (Hugging Face's ``Image``; the path is
            read where the bytes are null), or paths. None: no pictures.
        label: the column that ``labels`` and ``classes`` are of; only if it is called ``"label"`` may it be missing.
        columns: which columns to read, in the order of the batch; a mapping gives fields other names than their columns
            have: ``{"image": "img", "label": "fine_label"}``. None: all, the picture first, then mask and label.
        mask: a column of pictures that are label maps.
        storage: what reads the files; None: local files.
        cache_bytes: of decoded blocks of rows to keep; the last one is always kept.

    Numbers are column fields: whole ones int64 (uint64 stays), floats and booleans as they are, fixed-size lists and
    tensors of them [N, ...] as they are. All else (text, dates, lists, structs) is objects. A null in any field but an
    object is that row's error. A field has its column's name, made a Python name where it is none.

    Nothing is decoded in Python. A row of a table in memory costs one copy of its bytes, and so does one of a local
    uncompressed Arrow file: it is memory-mapped, and must not be overwritten meanwhile. A row of a Parquet file costs
    reading its whole row group, unless that is among those kept. So write row groups of some 100 pictures
    (``pq.write_table(table, path, row_group_size=100)``), or read in an order that stays in few row groups at a time:
    ``BlockShuffled(table.row_groups)``, with ``cache_bytes`` enough for the groups in its window.

    Raises:
        ImportError: pyarrow is not installed.
        FileNotFoundError, OSError: files that cannot be read.
        TypeError: a source or a column of the wrong kind.
        ValueError: no rows, no such column, damaged files, a data set with a transform or format set.
    """

    def __init__(
        self,
        source: Any,
        *,
        image: str | None = "image",
        label: str | None = "label",
        columns: Sequence[str] | Mapping[str, str] | None = None,
        mask: str | None = None,
        storage: Storage | None = None,
        cache_bytes: int = 1 << 30,
    ) -> None:
        self.storage, self._cache_bytes = storage or Storage(), cache_bytes
        self._blocks, self._order = _open(source, self.storage)
        if not len(self):
            raise ValueError("Table: expected at least one row, got none")
        if isinstance(columns, Mapping):
            image, mask, label = (name if name is None else columns.get(name, name) for name in (image, mask, label))
        self._columns, self._label = _choose(self._blocks.schema, image, mask, label, columns)
        self.schema = Schema(tuple(column.field for column in self._columns))
        self.classes = class_names(source, self._blocks.schema, self._label)
        if self._blocks.largest_bytes > cache_bytes:
            warnings.warn(
                f"Table: row groups of up to {self._blocks.largest_bytes >> 20} MiB are more than {cache_bytes=}: a "
                "random row may cost reading one; write smaller ones (row_group_size), or read it by BlockShuffled",
                stacklevel=2,
            )
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._kept_bytes = 0
        self._labels: np.ndarray | None = None

    def __len__(self) -> int:
        return int(self._blocks.starts[-1]) if self._order is None else len(self._order)

    @property
    def row_groups(self) -> np.ndarray:
        """int64 [K]: the first row of each block that is read in one go; of a shuffled Hugging Face data set only 0."""
        return np.zeros(1, np.int64) if self._order is not None else self._blocks.starts[:-1]

    @property
    def labels(self) -> np.ndarray | None:  # type: ignore[override]
        """int64 [N], where the label is a whole number; read when first asked for. A null is 0 here."""
        if self._label is None or not _is_whole(self._blocks.schema.field(self._label).type):
            return None
        if self._labels is None:
            self._labels = self._read_labels(self._label)
        return self._labels

    def read(self, indices: np.ndarray, *, threads: int = 1, allocate: Any = None) -> Records:
        rows = np.asarray(indices, np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"Table: expected rows in 0..{len(self) - 1}, got {rows.min()}..{rows.max()}")
        if self._order is not None:
            rows = self._order[rows]
        starts = self._blocks.starts
        block_of = np.searchsorted(starts, rows, side="right") - 1
        by_block = np.argsort(block_of, kind="stable")
        blocks, cuts = np.unique(block_of[by_block], return_index=True)
        places = dict(zip(blocks.tolist(), np.split(by_block, cuts[1:]), strict=bool(len(rows))))

        errors: Errors = {}
        results = [column.start(len(rows)) for column in self._columns]
        seen_bytes = 0
        for block, found in self._fetch(list(places), threads):
            to = places[block]
            if isinstance(found, Exception):
                errors.update(dict.fromkeys(to.tolist(), found))
                continue
            # Pieces of a block keep all of it in memory, and a batch's rows may come from very many blocks.
            seen_bytes += found.held_bytes
            copy = seen_bytes > self._cache_bytes // 2
            self._take(found, rows[to] - starts[block], to, results, errors, copy=copy)
        columns = {
            column.field.name: column.finish(result, errors, self.storage, threads, allocate)
            for column, result in zip(self._columns, results, strict=True)
        }
        return Records(columns, errors)

    def _take(
        self, block: _Kept, rows: np.ndarray, to: np.ndarray, results: list[Any], errors: Errors, *, copy: bool
    ) -> None:
        """Rows of a block to places of the results."""
        batch_of = np.searchsorted(block.firsts, rows, side="right") - 1 if len(block.firsts) > 1 else None
        for batch in range(len(block.firsts)) if batch_of is None else np.unique(batch_of).tolist():
            here = slice(None) if batch_of is None else batch_of == batch
            for column, view, result in zip(self._columns, block.views[batch], results, strict=True):
                column.take(result, view, rows[here] - block.firsts[batch], to[here], errors, copy=copy)

    def _fetch(self, blocks: list[int], threads: int) -> Iterator[tuple[int, _Kept | Exception]]:
        """These blocks, those that are kept first."""
        with self._lock:
            kept = [(block, self._kept[block]) for block in blocks if block in self._kept]
            for block, _ in kept:
                self._kept.move_to_end(block)
        yield from kept
        missing = sorted(set(blocks).difference(block for block, _ in kept))
        if not missing:
            return
        for block, loaded in self._blocks.load(missing, [column.name for column in self._columns], threads):
            if isinstance(loaded, Exception):
                yield block, loaded
                continue
            try:
                ready = self._prepare(loaded)
            except Exception as error:  # another type than the first file's, or damage: what Arrow raises differs
                where = self._blocks.where(int(self._blocks.starts[block]))
                yield block, ValueError(f"the block of rows at {where} cannot be read: {error}")
                continue
            self._keep(block, ready)
            yield block, ready

    def _prepare(self, block: Block) -> _Kept:
        rows = [batch.num_rows for batch in block.batches]
        views = []
        for batch in block.batches:
            arrays = [batch.column(column.name) for column in self._columns]
            types = [self._blocks.schema.field(column.name).type for column in self._columns]
            arrays = [a if a.type == type_ else a.cast(type_) for a, type_ in zip(arrays, types, strict=True)]
            views.append([column.view(array) for column, array in zip(self._columns, arrays, strict=True)])
        return _Kept(np.cumsum([0, *rows[:-1]]), views, block.held_bytes)

    def _keep(self, block: int, ready: _Kept) -> None:
        with self._lock:
            if block in self._kept:
                return
            self._kept[block] = ready
            self._kept_bytes += _cost(ready)
            while self._kept_bytes > self._cache_bytes and len(self._kept) > 1:
                self._kept_bytes -= _cost(self._kept.popitem(last=False)[1])

    def _read_labels(self, name: str) -> np.ndarray:
        from dalipipe.sources.arrow.columns import make_column

        column = make_column(name, name, None, self._blocks.schema.field(name).type)
        starts = self._blocks.starts
        labels = column.start(int(starts[-1]))
        for block, loaded in self._blocks.load(range(len(starts) - 1), [name], os.cpu_count() or 1):
            if isinstance(loaded, Exception):  # told of when its rows are read
                continue
            first = int(starts[block])
            for batch in loaded.batches:
                rows = np.arange(batch.num_rows)
                column.take(labels, column.view(batch.column(name)), rows, first + rows, {})
                first += batch.num_rows
        labels = labels.astype(np.int64)
        return labels if self._order is None else labels[self._order]

    def fingerprint(self) -> str:
        # Of a Hugging Face data set the blocks' identity has its order in it.
        return f"table-{len(self)}-{digest(self._blocks.identity())}"

    def describe(self, index: int) -> str:
        return self._blocks.where(index if self._order is None else int(self._order[index]))

    def close(self) -> None:
        self._blocks.close()
        with self._lock:
            self._kept.clear()
            self._kept_bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        kept = ("_lock", "_kept", "_kept_bytes", "_labels")
        return {name: value for name, value in self.__dict__.items() if name not in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def __repr__(self) -> str:
        fields = ", ".join(f"{field.name} ({field.kind})" for field in self.schema.fields)
        return f"Table({len(self)} rows in {len(self.row_groups)} blocks: {fields})"


def is_table(source: Any) -> bool:
    """Whether this is an object of pyarrow's or Hugging Face's, neither of which is imported to find out."""
    return hugging_face(source) is not None or type(source).__module__.partition(".")[0] == "pyarrow"


def hugging_face(source: Any) -> str | None:
    """The name of a Hugging Face data set's class. By full module names: "datasets" is what many call their own."""
    modules = {"datasets.arrow_dataset", "datasets.dataset_dict", "datasets.iterable_dataset"}
    return next((cls.__name__ for cls in type(source).__mro__ if cls.__module__ in modules), None)


def _open(source: Any, storage: Storage) -> tuple[Blocks, np.ndarray | None]:
    """Blocks of rows, and which of the rows, in order, the table has (None: all)."""
    try:
        import pyarrow as pa
        import pyarrow.dataset as pads
    except ImportError as error:
        raise ImportError(f"Table needs pyarrow ({error}): pip install 'dalipipe[tables]'") from error
    from dalipipe.sources.arrow.blocks import Fragments, Resident
    from dalipipe.sources.arrow.ipc import IpcFiles
    from dalipipe.sources.arrow.parquet import ParquetFiles

    kind = hugging_face(source)
    if kind is not None:
        return _open_hugging_face(kind, source)
    if isinstance(source, pa.RecordBatch):
        source = pa.Table.from_batches([source])
    if isinstance(source, pads.InMemoryDataset):
        source = source.to_table()
    if isinstance(source, pa.Table):
        return Resident(source), None
    if isinstance(source, pads.Dataset):
        return Fragments(source), None
    sources = [source] if isinstance(source, str | os.PathLike) else source
    if not isinstance(sources, Sequence) or not all(isinstance(path, str | os.PathLike) for path in sources):
        raise TypeError(
            "Table: expected paths of Parquet or Arrow files, a pyarrow.Table or Dataset, or a Hugging Face data set, "
            f"got {type(source).__name__}; pandas has pyarrow.Table.from_pandas(frame)"
        )
    paths = [path for name in sources for path in _expand(os.fspath(name), storage)]
    formats = {_format(path) for path in paths}
    if len(formats) != 1:
        found = "none" if not paths else f"both {' and '.join(sorted(formats))}"
        raise ValueError(f"Table: expected files of one format, got {found} in {source!r}")
    with ThreadPoolExecutor(_REQUESTS) as pool:
        infos = list(pool.map(storage.info, paths))
    files = ParquetFiles if formats == {"Parquet"} else IpcFiles
    return files(infos, storage), None


def _open_hugging_face(kind: str, source: Any) -> tuple[Blocks, np.ndarray | None]:
    from dalipipe.sources.arrow.blocks import HuggingFaceRows

    if kind.endswith("DatasetDict"):
        raise ValueError(
            f"Table: expected one data set, got the splits {', '.join(map(repr, source))}: give one of them"
        )
    if kind != "Dataset":
        raise TypeError(
            f"Table: a {kind} has no rows by number: load the data set without streaming=True, "
            "or give the paths of its Parquet files"
        )
    # Joined data sets have all columns set as their format.
    if source._format_type is not None or set(source._format_columns or ()) not in (set(), set(source.column_names)):
        raise ValueError(
            f"Table: the data set has a transform or format set ({source._format_type or 'columns'}), which would not "
            "be applied: give dataset.with_format(None) and a policy, or dalipipe.MapDataset(dataset), which applies it"
        )
    indices = source._indices
    order = None if indices is None else np.asarray(indices.column(0)).astype(np.int64)
    return HuggingFaceRows(source), order


def _expand(name: str, storage: Storage) -> list[str]:
    """The files that a path, a pattern or a folder stands for. Raises ``FileNotFoundError`` where there are none."""
    suffix = os.path.splitext(name.rstrip("*/"))[1].lower()
    if os.path.isdir(name) or (is_remote(name) and suffix not in (*_PARQUET, *_ARROW) and "*" not in name):
        inside = [file.path for file in storage.list(name)]
        paths = [path for path in inside if path.lower().endswith((*_PARQUET, *_ARROW)) and not _is_hidden(path)]
    else:
        paths = expand(name, storage)
    if not paths:
        raise FileNotFoundError(f"Table: {name!r} names no files ({', '.join((*_PARQUET, *_ARROW))})")
    return paths


def _is_hidden(path: str) -> bool:
    return os.path.basename(path).startswith((".", "_"))


def _format(path: str) -> str:
    suffix = os.path.splitext(path)[1].lower()
    if suffix in _PARQUET:
        return "Parquet"
    if suffix in _ARROW:
        return "Arrow"
    raise ValueError(f"Table: expected a file called {', '.join((*_PARQUET, *_ARROW))}, got {path!r}")


def _choose(
    schema: pa.Schema,
    image: str | None,
    mask: str | None,
    label: str | None,
    columns: Sequence[str] | Mapping[str, str] | None,
) -> tuple[list[Column], str | None]:
    """The columns to read, and the label's name where there is one."""
    from dalipipe.sources.arrow.columns import holds_files, is_text, make_column

    def known(name: str, what: str, hint: str = "") -> str:
        if schema.names.count(name) != 1:
            found = ", ".join(f"{field.name} ({field.type})" for field in schema)
            problem = "there are several columns" if name in schema.names else "there is no column"
            raise ValueError(f"Table: {what}={name!r}, but {problem} of this name; the columns are {found}{hint}")
        return name

    if image is not None:
        pictures = [field.name for field in schema if holds_files(field.type) and not is_text(field.type)]
        hint = f"; give image={pictures[0]!r}" if len(pictures) == 1 else ""
        known(image, "image", hint or "; give image=None for a table without pictures")
    if mask is not None:
        known(mask, "mask")
    if label == "label" and label not in schema.names:
        label = None
    if label is not None:
        known(label, "label")

    if isinstance(columns, str):
        raise TypeError(f"Table: columns must be a list of names, got the text {columns!r}")
    if columns is None:
        first = [name for name in (image, mask, label) if name is not None]
        columns = [*first, *(name for name in schema.names if name not in first)]
    fields = columns if isinstance(columns, Mapping) else _field_names(columns)
    if not fields:
        raise ValueError("Table: columns must name at least one column, got none")
    kinds: dict[str | None, Kind] = {mask: "mask", image: "image"}
    chosen = []
    for field, name in fields.items():
        if isinstance(columns, Mapping) and field_name(field) != field:
            raise ValueError(f"Table: field {field!r}: expected a Python name, such as {field_name(field)!r}")
        type_ = schema.field(known(name, "columns")).type
        chosen.append(make_column(name, field, kinds.get(name), type_))
    return chosen, label


def _field_names(columns: Sequence[str]) -> dict[str, str]:
    """Field → column; the fields are different Python names."""
    fields: dict[str, str] = {}
    for column in columns:
        name = field_name(column)
        while name in fields:
            name += "_"
        fields[name] = column
    return fields


def class_names(source: Any, schema: pa.Schema, label: str | None) -> list[str] | None:
    """Of a ``ClassLabel``; Hugging Face leaves its features in the files that it writes, too."""
    if label is None:
        return None
    if hugging_face(source) is not None:
        names = getattr(source.features[label], "names", None)
    else:
        try:
            features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
            names = features[label]["names"]
        except (KeyError, TypeError, ValueError):
            return None
    return [str(name) for name in names] if isinstance(names, list) else None


def _is_whole(type_: pa.DataType) -> bool:
    import pyarrow.types as pat

    return pat.is_integer(type_) or (pat.is_dictionary(type_) and pat.is_integer(type_.value_type))


def _cost(block: _Kept) -> int:
    return block.held_bytes + _BATCH_BYTES * len(block.views)
