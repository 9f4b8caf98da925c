"""Where a table's rows lie: in blocks, each read in one go; Arrow's record batches, Parquet's row groups."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads


class Block(NamedTuple):
    """Rows, in record batches one after the other. ``held_bytes``: memory of their own, which a cache must count."""

    batches: list[pa.RecordBatch]
    held_bytes: int


class Blocks(ABC):
    """A table cut into K blocks. Picklable; `load` is safe in several threads.

    ``starts`` int64 [K+1]: the first row of each block, and the number of rows. No block is empty.
    """

    schema: pa.Schema
    starts: np.ndarray
    largest_bytes = 0
    """Of a block that must be decoded as a whole, where known."""

    @abstractmethod
    def load(
        self, blocks: Sequence[int], columns: Sequence[str], threads: int
    ) -> Iterator[tuple[int, Block | Exception]]:
        """These blocks, in any order, with at least these columns; for one that cannot be read, why."""

    @abstractmethod
    def identity(self) -> list[bytes]:
        """What changes when the rows do."""

    def where(self, row: int) -> str:
        return f"row {row}"

    def close(self) -> None:  # noqa: B027 - most hold nothing open
        """Closes files; loading opens them again."""


# Tables in memory ---------------------------------------------------------------------------------------------------


class Resident(Blocks):
    """A ``pyarrow.Table``, in memory or memory-mapped."""

    def __init__(self, table: pa.Table) -> None:
        self._set(table)

    def _set(self, table: pa.Table) -> None:
        self._table, self.schema = table, table.schema
        self._batches = [batch for batch in table.to_batches() if batch.num_rows]
        self.starts = starts_of([batch.num_rows for batch in self._batches])

    def load(
        self, blocks: Sequence[int], columns: Sequence[str], threads: int
    ) -> Iterator[tuple[int, Block | Exception]]:
        return ((block, Block([self._batches[block]], 0)) for block in blocks)

    def identity(self) -> list[bytes]:
        # A large table would take seconds to hash; its schema, length and a few rows tell tables apart.
        n = self._table.num_rows
        some = sorted({int(row) for row in np.linspace(0, n - 1, min(n, 16))})
        return [
            types_of(self.schema),
            str(n).encode(),
            *(repr(self._table.slice(i, 1).to_pylist()).encode() for i in some),
        ]

    def __getstate__(self) -> dict[str, Any]:
        return {"table": self._table}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._set(state["table"])


class HuggingFaceRows(Resident):
    """The table under a Hugging Face ``datasets.Dataset``; pickled as that, which does not copy a memory-mapped one."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        super().__init__(dataset.data.table)

    def identity(self) -> list[bytes]:
        return [self._dataset._fingerprint.encode()]

    def __getstate__(self) -> dict[str, Any]:
        return {"dataset": self._dataset}

    def __setstate__(self, state: dict[str, Any]) -> None:
        HuggingFaceRows.__init__(self, state["dataset"])


# pyarrow's data sets ------------------------------------------------------------------------------------------------


class Fragments(Blocks):
    """A ``pyarrow.dataset.Dataset``: the row groups of its Parquet files, or whole files of other formats."""

    def __init__(self, dataset: pads.Dataset) -> None:
        self._dataset, self.schema = dataset, dataset.schema
        try:
            self._units = self._cut()
        except ValueError as error:  # pyarrow refuses to go through a filtered data set
            raise ValueError(f"Table: {error} Its rows have no numbers: {_TO_TABLE}") from error
        self.starts = starts_of([rows for *_, rows in self._units])

    def _cut(self) -> list[tuple[Any, int | None, int]]:
        """(fragment, row group or None, rows) each."""
        units: list[tuple[Any, int | None, int]] = []
        for fragment in self._dataset.get_fragments():
            if isinstance(fragment, pads.ParquetFileFragment):
                units += [(fragment, group.id, group.num_rows) for group in fragment.row_groups]
            else:
                units.append((fragment, None, fragment.count_rows()))
        return [unit for unit in units if unit[2]]

    def load(
        self, blocks: Sequence[int], columns: Sequence[str], threads: int
    ) -> Iterator[tuple[int, Block | Exception]]:
        for block in blocks:
            fragment, group, _ = self._units[block]
            try:
                if group is not None:
                    fragment = fragment.subset(row_group_ids=[group])
                table = fragment.to_table(schema=self.schema, columns=list(columns), use_threads=threads > 1)
                yield block, Block(table.to_batches(), table.get_total_buffer_size())
            except (pa.ArrowException, OSError, ValueError) as error:
                yield block, error

    def identity(self) -> list[bytes]:
        names = [os.path.basename(getattr(fragment, "path", "")).encode() for fragment, *_ in self._units]
        return [types_of(self.schema), *names, self.starts.tobytes()]

    def where(self, row: int) -> str:
        block = int(np.searchsorted(self.starts, row, side="right")) - 1
        fragment = self._units[block][0]
        first = next(i for i, unit in enumerate(self._units) if unit[0] is fragment)
        return f"{getattr(fragment, 'path', 'in-memory')}, row {row - int(self.starts[first])}"

    def __getstate__(self) -> dict[str, Any]:
        return {"dataset": self._dataset}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Fragments.__init__(self, state["dataset"])


_TO_TABLE = "give Table(dataset.to_table()) if it fits into memory, or write it to Parquet files"


def starts_of(rows: Any) -> np.ndarray:
    starts = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(rows, out=starts[1:])
    return starts


def types_of(schema: pa.Schema) -> bytes:
    """Names and types, not the metadata that libraries leave there."""
    # A list's values are called "element" by Parquet and "item" by Arrow, and by Arrow's pickles again.
    types = [re.sub("<(item|element): ", "<", str(field.type)) for field in schema]
    return repr([*zip(schema.names, types, strict=True)]).encode()
