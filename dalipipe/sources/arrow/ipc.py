"""Arrow's IPC files as blocks: their record batches, memory-mapped where they are local."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.types as pat

from dalipipe.sources.arrow.blocks import Block
from dalipipe.sources.arrow.files import REQUESTS, Files, RangeFile, index_arrays
from dalipipe.sources.base import digest
from dalipipe.sources.index import Arrays
from dalipipe.storage import FileInfo, Storage, is_remote


class IpcFiles(Files):
    """Record batches of Arrow's IPC files, memory-mapped where they are local.

    A local uncompressed file's batches are views of the map. Streams, as Hugging Face keeps its data sets, are read
    where they are local and not compressed.
    """

    kind = "arrow"
    _transient = ("_lock", "_readers")

    def _reset(self) -> None:
        super()._reset()
        self._readers: dict[tuple[int, tuple[str, ...]], _IpcReader] = {}

    def _index(self) -> Arrays:
        def look(info: FileInfo) -> tuple[pa.Schema, list[int], bytes]:
            schema = _IpcReader(info, self._storage, None).schema
            # The rows are counted by reading one column, the one with the fewest bytes by its type; numbers tell files
            # of one size apart, too.
            cheapest = sorted(schema, key=lambda field: (not pat.is_primitive(field.type), pat.is_nested(field.type)))
            reader = _IpcReader(info, self._storage, [field.name for field in cheapest[:1]])
            rows, contents = [], []
            for i in range(reader.count):
                batch = reader.batch(i)
                rows.append(batch.num_rows)
                if cheapest and pat.is_primitive(cheapest[0].type):
                    contents.append(batch.column(cheapest[0].name).to_numpy(zero_copy_only=False).tobytes())
            return schema, rows, digest(contents).encode()

        with ThreadPoolExecutor(REQUESTS) as pool:
            found = list(pool.map(look, self._infos))
        rows = [n for _, file_rows, _ in found for n in file_rows]
        counts, contents = [len(file_rows) for _, file_rows, _ in found], [contents for *_, contents in found]
        return index_arrays(rows, [0] * len(rows), counts, contents, found[0][0])

    def _reader(self, file: int, columns: Sequence[str]) -> _IpcReader:
        key = (file, tuple(columns))
        with self._lock:
            reader = self._readers.get(key)
        if reader is None:
            reader = _IpcReader(self._infos[file], self._storage, columns)
            with self._lock:
                reader = self._readers.setdefault(key, reader)
        return reader

    def load(
        self, blocks: Sequence[int], columns: Sequence[str], threads: int
    ) -> Iterator[tuple[int, Block | Exception]]:
        def read(block: int) -> tuple[int, Block | Exception]:
            try:
                reader = self._reader(int(self._files[block]), columns)
                batch = reader.batch(int(self._numbers[block]))
                self._check(block, batch.num_rows)
                return block, Block([batch], reader.held_bytes(batch))
            except Exception as error:
                return block, error

        for first in range(0, len(blocks), max(threads, 1)):  # no more of them in memory than are wanted at a time
            some = blocks[first : first + max(threads, 1)]
            if len(some) == 1 or not any(is_remote(self._infos[int(self._files[block])].path) for block in some):
                yield from map(read, some)
            else:
                with ThreadPoolExecutor(len(some)) as pool:
                    yield from list(pool.map(read, some))

    def close(self) -> None:
        with self._lock:
            self._readers.clear()


class _IpcReader:
    """One file. ``columns``: those to read; None: all."""

    def __init__(self, info: FileInfo, storage: Storage, columns: Sequence[str] | None) -> None:
        self._lock = threading.Lock()
        self._map: pa.Buffer | None = None
        self._batches: list[pa.RecordBatch] | None = None
        try:
            if is_remote(info.path):
                self._open = lambda: pa.PythonFile(RangeFile(info, storage, []), mode="r")
            else:
                with pa.memory_map(info.path) as file:  # the map outlives the open file
                    self._map = file.read_buffer()
                self._open = lambda: pa.BufferReader(self._map)
            magic = self._open().read(6)
            if magic == b"FEA1":
                raise ValueError("it is of Feather's first version; write it again with pyarrow.feather.write_feather")
            if magic != b"ARROW1":
                return self._read_stream()
            self._file = ipc.open_file(self._open())
            self.schema, self.count = self._file.schema, self._file.num_record_batches
            is_view = self._map is not None and self.count and not self.held_bytes(self.batch(0))
            if columns is not None and not is_view:  # asked for some columns only, Arrow copies even from a map
                numbers = [self.schema.get_field_index(name) for name in columns if name in self.schema.names]
                options = ipc.IpcReadOptions(included_fields=numbers)
                self._file = ipc.open_file(self._open(), options=options)
        except (pa.ArrowException, ValueError) as error:
            raise ValueError(f"{info.path} cannot be read as an Arrow file: {error}") from error

    def _read_stream(self) -> None:
        if self._map is None:
            raise ValueError(
                "it is no Arrow file, or an Arrow stream, which has no random access over the network; "
                "write it with pyarrow.ipc.new_file, or as Parquet"
            )
        with ipc.open_stream(self._open()) as stream:
            self.schema = stream.schema
            self._batches = []
            for batch in stream:
                self._batches.append(batch)
                if self.held_bytes(batch) > batch.nbytes // 2:
                    raise ValueError("a compressed stream has no random access: write it with pyarrow.ipc.new_file")
        self.count = len(self._batches)

    def batch(self, number: int) -> pa.RecordBatch:
        if self._batches is not None:
            return self._batches[number]
        with self._lock:  # its readers are for one thread at a time
            return self._file.get_batch(number)

    def held_bytes(self, batch: pa.RecordBatch) -> int:
        """Of buffers that do not lie in the map."""
        begin, end = (self._map.address, self._map.address + self._map.size) if self._map is not None else (0, 0)
        buffers = [buffer for column in batch.columns for buffer in column.buffers() if buffer is not None]
        return sum(buffer.size for buffer in buffers if not begin <= buffer.address < end)
