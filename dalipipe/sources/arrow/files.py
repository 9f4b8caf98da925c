"""Tables in files: what Parquet's and Arrow's have in common, their blocks numbered through."""

from __future__ import annotations

import io
import os
import threading
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc

from dalipipe.sources.arrow.blocks import Blocks, starts_of, types_of
from dalipipe.sources.base import digest
from dalipipe.sources.index import Arrays, cached_index
from dalipipe.storage import FileInfo, Storage, is_remote

REQUESTS = 16  # at a time, where an index is made
_WORTH_KEEPING_FILES = 64  # local files; fewer are indexed again in no time


class Files(Blocks):
    """Files of one format, their blocks numbered through.

    ``_files`` int64 [K]: which file a block lies in; ``_numbers`` int64 [K]: its number there.
    """

    kind: str
    _transient: tuple[str, ...]
    """What opening files left, and a pickle leaves behind."""

    def __init__(self, infos: Sequence[FileInfo], storage: Storage) -> None:
        self._infos, self._storage = list(infos), storage
        names = [info.path if is_remote(info.path) else os.path.abspath(info.path) for info in infos]
        signature = {
            "size_bytes": np.array([info.size_bytes for info in infos], np.int64),
            "version": np.array([info.version for info in infos]),
        }
        keep = len(infos) >= _WORTH_KEEPING_FILES or any(map(is_remote, names))
        index = cached_index(
            self.kind,
            names,
            lambda: {**self._index(), **signature},
            lambda kept: all(np.array_equal(kept[name], value) for name, value in signature.items()),
            keep=lambda _: keep,
        )
        self.schema = ipc.read_schema(pa.py_buffer(index["schema"].tobytes()))
        rows, counts = index["rows"], index["blocks"]
        self._files = np.repeat(np.arange(len(counts)), counts)[rows > 0]
        self._numbers = (np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts))[rows > 0]
        self._contents = index["contents"].tobytes()
        self.starts = starts_of(rows[rows > 0])
        self.largest_bytes = int(index["decoded_bytes"].max(initial=0))
        self._reset()

    @abstractmethod
    def _index(self) -> Arrays:
        """``rows`` and ``decoded_bytes`` (0: unknown) int64 [blocks]; ``blocks`` int64 [F]: how many a file has;
        ``schema``; ``contents``: a digest.
        """

    def _reset(self) -> None:
        self._lock = threading.Lock()

    def identity(self) -> list[bytes]:
        # No version: a local file's is the time of writing, and a copy on another machine has another.
        names = [os.path.basename(info.path).encode("utf-8", "surrogateescape") for info in self._infos]
        sizes = [str(info.size_bytes).encode() for info in self._infos]
        return [types_of(self.schema), *names, *sizes, np.ascontiguousarray(self.starts).tobytes(), self._contents]

    def where(self, row: int) -> str:
        block = int(np.searchsorted(self.starts, row, side="right")) - 1
        file = int(self._files[block])
        first = int(self.starts[np.searchsorted(self._files, file)])
        return f"{self._infos[file].path}, row {row - first}"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in self._transient}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def _check(self, block: int, rows: int) -> None:
        expected = int(self.starts[block + 1] - self.starts[block])
        if rows != expected:
            path = self._infos[int(self._files[block])].path
            raise OSError(f"{path} has changed since it was opened: expected {expected} rows in a block, found {rows}")


class RangeFile(io.RawIOBase):
    """A file as Python reads files; ``parts``, (offset, bytes) each, are in memory already."""

    def __init__(self, info: FileInfo, storage: Storage, parts: Sequence[tuple[int, np.ndarray]]) -> None:
        super().__init__()
        self._info, self._storage, self._parts, self._position = info, storage, parts, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._info.size_bytes)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def size(self) -> int:
        return self._info.size_bytes

    def read(self, size: int | None = -1) -> Any:
        left = max(self._info.size_bytes - self._position, 0)
        length = left if size is None or size < 0 else min(size, left)
        begin, self._position = self._position, self._position + length
        if not length:
            return b""
        for offset, data in self._parts:
            if offset <= begin and begin + length <= offset + len(data):
                return data[begin - offset : begin - offset + length].data
        arena, starts, errors = self._storage.read(
            [self._info.path], threads=1, offsets=[begin], lengths=[length], versions=[self._info.version]
        )
        if errors:
            raise errors[0]
        return arena[: starts[1]].data


def index_arrays(
    rows: list[int], decoded_bytes: list[int], blocks: list[int], contents: list[bytes], schema: pa.Schema | None
) -> Arrays:
    assert schema is not None
    return {
        "rows": np.array(rows, np.int64),
        "decoded_bytes": np.array(decoded_bytes, np.int64),
        "blocks": np.array(blocks, np.int64),
        "schema": np.frombuffer(schema.serialize(), np.uint8),
        "contents": np.frombuffer(digest(contents).encode(), np.uint8),
    }
