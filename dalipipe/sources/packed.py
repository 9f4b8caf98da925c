"""Packs: what `dalipipe.pack` leaves, tar shards with an index that tells where everything lies.

pack.json          what the pack holds; it is written last, so a folder with it is whole
index/<name>.npy   a row for each record (and copy of it), memory-mapped when read
shard-000000.tar   samples as WebDataset lays them out: what its name and extension say is in each file
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from dalipipe import native
from dalipipe.policy import Policy
from dalipipe.records import Encoded, Pictures, Records
from dalipipe.schema import Field, Schema
from dalipipe.sources.base import Source
from dalipipe.storage import Storage, is_remote

MANIFEST = "pack.json"
INDEX = "index"
VERSION = 1


class PackError(ValueError):
    """A folder that is no pack, or a damaged one."""


class Packed(Source):
    """The records of a pack, by index: nothing is scanned, and checksums tell damaged bytes.

    Fields and classes are those of the data set that was packed. Raw pictures of a local pack are not read but
    memory-mapped; a shard must not shrink while it is.

    Args:
        root: the folder, or its URL in a store.
        verify: whether every file that is read is compared with its checksum; None: all but raw pictures.
        storage: what reads; None: local files, and stores by their default settings.

    Raises:
        FileNotFoundError: there is no pack.
        PackError: one of another version, or that does not make sense.
    """

    def __init__(
        self, root: str | os.PathLike[str], *, verify: bool | None = None, storage: Storage | None = None
    ) -> None:
        self.root, self.storage, self._verify = os.fspath(root).rstrip("/"), storage or Storage(), verify
        self._local = not is_remote(self.root)
        self.manifest = read_manifest(self.root, self.storage)
        if self.manifest.get("format") == "text":
            raise PackError(f"{self.root} is a pack of texts: dalipipe.Text.open opens it")
        try:
            self.copies = int(self.manifest["copies"])
            self.format = str(self.manifest["format"])
            self._length = int(self.manifest["records"])
            self._fields = [(field_from_dict(each["field"]), each["store"]) for each in self.manifest["fields"]]
            front = self.manifest["front"]
            self.front = None if front is None else Policy.from_dict(front["policy"])
            self.classes = self.manifest["classes"]
            self.paths = [f"{self.root}/{name}" for name in self.manifest["shards"]]
            names = self.manifest["index"]
        except (KeyError, TypeError, ValueError) as error:
            raise PackError(f"{self.root}/{MANIFEST} does not make sense: {error!r}; pack again") from error
        self.schema = Schema(tuple(field for field, _ in self._fields))
        pictures = [store for field, store in self._fields if field.kind == "image"]
        self.in_memory = self._local and not verify and set(pictures) == {"raw"}
        self.may_have_tiles = "encoded" in pictures
        self._index = {name: self._open(name) for name in names}
        rows = self._length * self.copies
        for name, column in self._index.items():
            if name != "shard_first" and len(column) not in (rows, self._length):
                raise PackError(f"{self.root}/{INDEX}/{name}.npy has {len(column)} rows, expected {rows}; pack again")
        labels = self._index.get("label")
        self.labels = labels if labels is not None and labels.ndim == 1 and labels.dtype == np.int64 else None
        self._maps: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._length

    def read(self, indices: np.ndarray, *, threads: int = 1, allocate: Any = None) -> Records:
        indices = np.asarray(indices, np.int64)
        n, shards = len(indices), self._shards_of(indices)
        errors: dict[int, Exception] = {}
        read = [field for field, store in self._fields if store != "column" and not (store == "raw" and self._local)]
        arena, starts = np.zeros(0, np.uint8), np.zeros(1, np.int64)
        if read:  # one read for all fields, a field's files one after the other
            offsets = np.concatenate([self._index[f"{field.name}.offset"][indices] for field in read])
            lengths = np.concatenate([self._index[f"{field.name}.bytes"][indices] for field in read])
            paths = [self.paths[shard] for shard in shards.tolist()] * len(read)
            arena, starts, failed = self.storage.read(
                paths, threads=threads, offsets=offsets, lengths=lengths, allocate=allocate
            )
            for position, error in sorted(failed.items()):
                errors.setdefault(position % n, error)
        columns: dict[str, Any] = {}
        block = 0
        for field, store in self._fields:
            if store == "column":
                columns[field.name] = self._index[field.name][indices % self._length]
                continue
            if store == "raw" and self._local:
                columns[field.name] = self._mapped(field, indices, shards)
                if self._verify:
                    self._check_mapped(field, columns[field.name], indices, errors)
                continue
            files = Encoded(arena, starts[block * n : (block + 1) * n + 1])
            block += 1
            if self._verify or (self._verify is None and store != "raw"):
                found = native.checksums(files.arena, files.starts, threads=threads)
                self._compare(field, found, indices, errors)
            columns[field.name] = self._column(field, store, files, indices, errors)
        return Records(columns, errors)

    def describe(self, index: int) -> str:
        """The shard, the sample's key in it, and which record of the data set that was packed this is."""
        shard = int(self._shards_of(np.array([index]))[0])
        return f"{self.paths[shard]}:{int(self._index['record'][index]):09d}"

    def fingerprint(self) -> str:
        return str(self.manifest["fingerprint"])

    def files(self) -> Iterable[str]:
        return self.paths if self._local else ()

    def close(self) -> None:
        with self._lock:
            self._maps.clear()
        self.storage.close()

    def __repr__(self) -> str:
        copies = f" in {self.copies} copies" if self.copies > 1 else ""
        return f"Packed({self._length:,} records{copies}, {self.format}, {', '.join(self.schema.names)})"

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "verify": self._verify, "storage": self.storage}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["root"], verify=state["verify"], storage=state["storage"])  # type: ignore[misc]

    def _open(self, name: str) -> np.ndarray:
        path = f"{self.root}/{INDEX}/{name}.npy"
        try:
            if self._local:
                return np.load(path, mmap_mode="r", allow_pickle=False)
            return np.load(io.BytesIO(_read_whole(path, self.storage)), allow_pickle=False)
        except FileNotFoundError as error:
            raise PackError(f"{path} is missing: the pack is not whole; pack again") from error
        except (ValueError, EOFError) as error:
            raise PackError(f"{path} is damaged: {error}; pack again") from error

    def _shards_of(self, indices: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._index["shard_first"], indices, side="right") - 1

    def _mapped(self, field: Field, indices: np.ndarray, shards: np.ndarray) -> Pictures:
        """Pictures by address in their shards; what is mapped the engine's threads read from the disk."""
        bases = np.zeros(len(self.paths), np.uint64)
        owners = []
        for shard in np.unique(shards).tolist():
            mapped = self._map(shard)
            owners.append(mapped)
            bases[shard] = mapped.ctypes.data
        height, width = self._size(field, indices)
        return Pictures(
            address=bases[shards] + self._index[f"{field.name}.offset"][indices].astype(np.uint64),
            row_bytes=width.astype(np.int64) * (field.channels or 1),
            size_px=np.stack([height, width], axis=1),
            origin_px=np.zeros((len(indices), 2), np.int32),
            channels=field.channels or 1,
            owner=owners,
        )

    def _map(self, shard: int) -> np.ndarray:
        with self._lock:
            mapped = self._maps.get(shard)
            if mapped is None:
                mapped = self._maps[shard] = np.memmap(self.paths[shard], np.uint8, "r")
                expected = int(self.manifest["shard_bytes"][shard])
                if len(mapped) < expected:
                    del self._maps[shard]
                    raise PackError(
                        f"{self.paths[shard]} has {len(mapped)} bytes, expected {expected}: it is not whole; copy or "
                        "pack it again"
                    )
            return mapped

    def _size(self, field: Field, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._index[f"{field.name}.height"][indices], self._index[f"{field.name}.width"][indices]

    def _check_mapped(
        self, field: Field, pictures: Pictures, indices: np.ndarray, errors: dict[int, Exception]
    ) -> None:
        found = np.array([native.crc32c(pictures[row].reshape(-1)) for row in range(len(pictures))], np.uint32)
        self._compare(field, found, indices, errors)

    def _compare(self, field: Field, found: np.ndarray, indices: np.ndarray, errors: dict[int, Exception]) -> None:
        stored = self._index[f"{field.name}.crc32c"][indices]
        for row in np.flatnonzero(found != stored).tolist():
            message = (
                f"{self.describe(int(indices[row]))}: the checksum of {field.name!r} does not match: the shard is "
            )
            errors.setdefault(row, PackError(message + "damaged; fetch or pack it again"))

    def _column(
        self, field: Field, store: str, files: Encoded, indices: np.ndarray, errors: dict[int, Exception]
    ) -> Any:
        if store == "raw":
            height, width = self._size(field, indices)
            channels = field.channels or 1
            return Pictures(
                address=(files.arena.ctypes.data + files.starts[:-1]).astype(np.uint64),
                row_bytes=width.astype(np.int64) * channels,
                size_px=np.stack([height, width], axis=1),
                origin_px=np.zeros((len(indices), 2), np.int32),
                channels=channels,
                owner=files.arena,
            )
        if store == "encoded":
            return files
        values: list[Any] = [None] * len(indices)
        for row in range(len(indices)):
            if row not in errors:
                try:
                    values[row] = _DECODE[store](files[row].tobytes())
                except Exception as error:  # whatever these bytes make a parser raise
                    errors[row] = PackError(f"{self.describe(int(indices[row]))}: field {field.name!r}: {error}")
        return values


def _read_npy(data: bytes) -> np.ndarray:
    return np.load(io.BytesIO(data), allow_pickle=False)


_DECODE: dict[str, Callable[[bytes], Any]] = {"npy": _read_npy, "txt": bytes.decode, "json": json.loads, "bin": bytes}


def read_manifest(root: str, storage: Storage) -> dict[str, Any]:
    """What ``pack.json`` says. Raises ``FileNotFoundError`` where there is none, `PackError` for another version."""
    path = f"{root}/{MANIFEST}"
    try:
        data = _read_whole(path, storage)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"there is no {path}: {root!r} is no pack, or was not finished; `dalipipe pack` makes one, and goes on "
            "with --resume"
        ) from error
    try:
        manifest = json.loads(data)
        version = manifest["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise PackError(f"{path} is damaged: {error!r}; pack again") from error
    if version != VERSION:
        raise PackError(f"{path} is of version {version}, this dalipipe reads {VERSION}; pack again")
    return dict(manifest)


def is_pack(root: str | os.PathLike[str]) -> bool:
    """Whether a local folder is a pack."""
    return os.path.isfile(os.path.join(root, MANIFEST))


def field_to_dict(field: Field) -> dict[str, Any]:
    """JSON-ready; `field_from_dict` is its inverse."""
    return dataclasses.asdict(field)


def field_from_dict(data: dict[str, Any]) -> Field:
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in data.items()}
    return Field(**values)


def _read_whole(path: str, storage: Storage) -> bytes:
    arena, starts, errors = storage.read([path], threads=1)
    if errors:
        raise errors[0]
    return arena[: starts[1]].tobytes()
