"""Parquet files as blocks: their row groups, by byte ranges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dalipipe.sources.arrow.blocks import Block
from dalipipe.sources.arrow.files import REQUESTS, Files, RangeFile, index_arrays
from dalipipe.sources.index import Arrays
from dalipipe.storage import FileInfo, Storage

_TAIL_BYTES = 64 << 10  # of a file, read for its footer; a longer footer is read again
_FILES_AT_A_TIME = 256  # whose footers are in memory together
_WAVE_BYTES = 64 << 20  # of row groups fetched together
_HOLE_BYTES = 64 << 10  # between two wanted ranges, read along rather than asked for apart
_RANGE_BYTES = 1 << 30  # at most in one request; what is longer is read in several, and joined


class ParquetFiles(Files):
    """Row groups of Parquet files: their footers say where they are; each is fetched, decompressed and decoded."""

    kind = "parquet"
    _transient = ("_lock", "_footers")

    def _reset(self) -> None:
        super()._reset()
        self._footers: dict[int, pq.FileMetaData] = {}

    def _index(self) -> Arrays:
        rows: list[int] = []
        sizes: list[int] = []
        counts: list[int] = []
        contents: list[bytes] = []
        schema: pa.Schema | None = None
        for first in range(0, len(self._infos), _FILES_AT_A_TIME):
            for found in self._read_footers(self._infos[first : first + _FILES_AT_A_TIME]):
                if isinstance(found, Exception):
                    raise found
                footer, raw = found
                groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
                rows += [group.num_rows for group in groups]
                sizes += [group.total_byte_size for group in groups]
                counts.append(len(groups))
                contents.append(raw)
                schema = schema or footer.schema.to_arrow_schema()
        return index_arrays(rows, sizes, counts, contents, schema)

    def _read_footers(self, infos: Sequence[FileInfo]) -> list[tuple[pq.FileMetaData, bytes] | Exception]:
        """With the bytes they were parsed from, or why there is none."""
        found: dict[int, tuple[pq.FileMetaData, bytes] | Exception] = {}
        wanted = [min(_TAIL_BYTES, info.size_bytes) for info in infos]
        while todo := [i for i in range(len(infos)) if i not in found]:
            arena, starts, errors = self._storage.read(
                [infos[i].path for i in todo],
                threads=REQUESTS,
                offsets=[infos[i].size_bytes - wanted[i] for i in todo],
                lengths=[wanted[i] for i in todo],
                versions=[infos[i].version for i in todo],
            )
            for row, i in enumerate(todo):
                tail = arena[starts[row] : starts[row + 1]].tobytes()
                if row in errors:
                    found[i] = errors[row]
                    continue
                try:
                    needed = _footer_bytes(tail, infos[i].size_bytes)
                    if len(tail) < wanted[i]:
                        raise ValueError("it has become shorter since it was opened")
                    if needed > len(tail):
                        wanted[i] = needed
                    else:
                        found[i] = pq.read_metadata(pa.BufferReader(tail)), tail[-needed:]
                except (pa.ArrowException, OSError, ValueError) as error:
                    found[i] = ValueError(f"{infos[i].path}: expected a Parquet file: {error}")
        return [found[i] for i in range(len(infos))]

    def _footers_of(self, files: Sequence[int]) -> dict[int, pq.FileMetaData | Exception]:
        """Those read last are kept, as many as are looked at together."""
        with self._lock:
            footers: dict[int, Any] = {file: self._footers[file] for file in files if file in self._footers}
        missing = [file for file in files if file not in footers]
        if missing:
            for file, found in zip(missing, self._read_footers([self._infos[file] for file in missing]), strict=True):
                footers[file] = found if isinstance(found, Exception) else found[0]
            with self._lock:
                self._footers.update((file, f) for file, f in footers.items() if not isinstance(f, Exception))
                while len(self._footers) > _FILES_AT_A_TIME:
                    del self._footers[next(iter(self._footers))]
        return footers

    def load(
        self, blocks: Sequence[int], columns: Sequence[str], threads: int
    ) -> Iterator[tuple[int, Block | Exception]]:
        plans: list[tuple[int, _RowGroup]] = []
        nbytes = 0
        footers = self._footers_of(sorted({int(self._files[block]) for block in blocks}))
        for block in blocks:
            try:
                file = int(self._files[block])
                if isinstance(footer := footers[file], Exception):
                    raise footer
                group = _RowGroup(footer, int(self._numbers[block]), columns, self._infos[file])
                self._check(block, group.rows)
            except Exception as error:
                yield block, error
                continue
            if plans and nbytes + group.nbytes > _WAVE_BYTES:
                yield from self._fetch(plans, columns, threads)
                plans, nbytes = [], 0
            plans.append((block, group))
            nbytes += group.nbytes
        if plans:
            yield from self._fetch(plans, columns, threads)

    def _fetch(
        self, plans: list[tuple[int, _RowGroup]], columns: Sequence[str], threads: int
    ) -> list[tuple[int, Block | Exception]]:
        """Their ranges in one call, then each decoded in a thread."""
        ranges = [(group.info, begin, length) for _, group in plans for begin, length in group.ranges]
        arena, starts, errors = self._storage.read(
            [info.path for info, _, _ in ranges],
            threads=threads,
            offsets=[begin for _, begin, _ in ranges],
            lengths=[length for _, _, length in ranges],
            versions=[info.version for info, _, _ in ranges],
        )
        cuts = np.cumsum([0, *(len(group.ranges) for _, group in plans)]).tolist()

        def decode(number: int) -> tuple[int, Block | Exception]:
            block, group = plans[number]
            for part in range(cuts[number], cuts[number + 1]):
                if part in errors:
                    return block, errors[part]
            here = range(cuts[number], cuts[number + 1])
            joined: list[list[int]] = []  # where a part begins in the file, and begins and ends in the arena
            for part in here:
                begin, (first, end) = ranges[part][1], starts[part : part + 2].tolist()
                if joined and joined[-1][0] + joined[-1][2] - joined[-1][1] == begin:
                    joined[-1][2] = end
                else:
                    joined.append([begin, first, end])
            parts = [(begin, arena[first:end]) for begin, first, end in joined]
            try:
                return block, group.decode(parts, self._storage, use_threads=len(plans) == 1 and threads > 1)
            except (pa.ArrowException, OSError, ValueError) as error:
                return block, ValueError(f"{group.info.path}: row group {group.number} cannot be decoded: {error}")

        if len(plans) == 1 or threads == 1:
            return [decode(number) for number in range(len(plans))]
        with ThreadPoolExecutor(min(threads, len(plans))) as pool:
            return list(pool.map(decode, range(len(plans))))

    def close(self) -> None:
        with self._lock:
            self._footers.clear()


class _RowGroup:
    """A row group's wanted columns: ``ranges`` of the file that hold them, as (offset, length), bytes."""

    def __init__(self, footer: pq.FileMetaData, number: int, columns: Sequence[str], info: FileInfo) -> None:
        if number >= footer.num_row_groups:
            raise OSError(f"{info.path} has changed since it was opened: row group {number} is gone")
        self.footer, self.number, self.info = footer, number, info
        self.columns = columns
        group = footer.row_group(number)
        self.rows = group.num_rows
        spans = []
        for i in range(group.num_columns):
            chunk = group.column(i)
            if any(chunk.path_in_schema == name or chunk.path_in_schema.startswith(f"{name}.") for name in columns):
                dictionary = chunk.dictionary_page_offset
                begin = chunk.data_page_offset if dictionary is None else min(dictionary, chunk.data_page_offset)
                spans.append((begin, min(begin + chunk.total_compressed_size, info.size_bytes)))
        self.ranges: list[tuple[int, int]] = []
        for begin, end in sorted(spans):
            if self.ranges and begin - sum(self.ranges[-1]) <= _HOLE_BYTES:
                first = self.ranges[-1][0]
                self.ranges[-1] = (first, max(end, sum(self.ranges[-1])) - first)
            else:
                self.ranges.append((begin, end - begin))
        self.ranges = [
            (cut, min(_RANGE_BYTES, begin + length - cut))
            for begin, length in self.ranges
            for cut in range(begin, begin + length, _RANGE_BYTES)
        ]
        self.nbytes = sum(length for _, length in self.ranges)

    def decode(self, parts: list[tuple[int, np.ndarray]], storage: Storage, *, use_threads: bool) -> Block:
        file = pq.ParquetFile(pa.PythonFile(RangeFile(self.info, storage, parts), mode="r"), metadata=self.footer)
        present = [name for name in self.columns if name in file.schema_arrow.names]
        table = file.read_row_group(self.number, columns=present, use_threads=use_threads)
        return Block(table.to_batches(), table.get_total_buffer_size())


def _footer_bytes(tail: bytes, size_bytes: int) -> int:
    """How long the footer is, its length and mark included. Raises ``ValueError``."""
    if tail[-4:] != b"PAR1":
        raise ValueError("it is encrypted" if tail[-4:] == b"PARE" else "it does not end as one")
    nbytes = int.from_bytes(tail[-8:-4], "little") + 8
    if nbytes > size_bytes:
        raise ValueError("its footer is longer than the file")
    return nbytes
