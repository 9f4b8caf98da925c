"""WebDataset shards: tar archives in which the members with one key make a sample, read by index."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from dalipipe import native
from dalipipe.records import Encoded, Records
from dalipipe.schema import Schema
from dalipipe.sources.base import Source, digest
from dalipipe.sources.formats import FieldSpec, Reading, infer
from dalipipe.sources.index import Arrays
from dalipipe.sources.index.names import Names
from dalipipe.sources.shards import IndexFolder, Urls, join_starts, open_shards
from dalipipe.storage import Storage, is_remote


class TarShards(Source):
    """Samples in tar archives, laid out as WebDataset writes and reads them, with random access.

    A member's key is its path up to the first dot of its last part; its extension is the rest, in lower case. Members
    that follow each other and have the same key make a sample. Folders, links, dot-files and ``__meta__/`` entries are
    passed over. Compressed archives have no random access and are refused.

    Args:
        urls: one shard or several: ``"train-{0000..0099}.tar"``, a glob, URLs of a store, or a list of these.
        fields: name → extensions, the first that a sample has: ``{"image": "jpg;jpeg;png;webp", "label": "cls"}``.
            Pictures are image fields, or masks where the field is called ``mask``, ``seg`` or ``segmentation``. ``cls``
            and ``index`` are whole numbers and ``npy`` arrays of one shape: columns. ``("json", "label")`` is a number
            in a JSON object, or a list of them, ``("json", "box", "left", float)`` one deeper in it, and its type.
            ``json`` alone, ``txt`` and all others are objects: what the JSON says, ``str``, ``bytes``. ``"__key__"`` is
            the sample's key. None: what the first sample has, a picture called ``image``, ``cls`` called ``label``.
        storage: what reads the shards; None: local files.
        index_dir: where the index is kept: ``"beside"`` the shards, or in this folder; None: in the cache folder.
        classes: names of the label values.
        threads: how many shards are scanned at a time; None: by the number of CPUs.

    ``labels``: int64 [N], where the field ``label``, or one alone, is a ``cls`` or the like; else None. A sample that
    has none counts as 0 there and is an error when it is read, as is each that lacks a field: it costs no other.

    Raises:
        ShardError: damaged shards; it names the first one and the byte at which that makes no sense.
        OSError: a shard that cannot be read.
        ValueError: no shards, no samples, a field that no sample has.
    """

    def __init__(
        self,
        urls: Urls,
        *,
        fields: Mapping[str, FieldSpec] | None = None,
        storage: Storage | None = None,
        index_dir: IndexFolder | Literal["beside"] = None,
        classes: Sequence[str] | None = None,
        threads: int | None = None,
    ) -> None:
        self.classes = None if classes is None else list(classes)
        self._shards = open_shards("tar", urls, storage, _index_of, _merge, index_dir=index_dir, threads=threads)
        self.paths, self._index = self._shards.paths, self._shards.index
        self._keys = Names(self._index["keys"], self._index["key_starts"])
        if not len(self):
            raise ValueError(f"{self.paths[0]}: expected samples such as 0001.jpg with 0001.cls, found none")
        if fields is None:
            self._readings = infer(self._extensions_of(0))
        else:
            self._readings = [Reading.parse(name, spec) for name, spec in fields.items()]
        self.schema = Schema(tuple(reading.field for reading in self._readings))
        self._members = {r.extensions: self._find(r) for r in self._readings if r.format != "key"}
        self._integers = {r.name: self._all_integers(r) for r in self._readings if r.format == "integer"}
        self._templates = {r.name: self._first_value(r) for r in self._readings if r.format in ("npy", "number")}
        whole = "label" if "label" in self._integers else "".join(self._integers)  # or the only one's name
        self.labels = self._integers[whole][0] if whole in self._integers else None

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, index: int) -> str:
        """What WebDataset calls ``__key__``."""
        return self._keys[index]

    def describe(self, index: int) -> str:
        return f"{self._shards.describe(index)[0]}:{self.key(index)}"

    def fingerprint(self) -> str:
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        # The shards may move between machines; what lies in them, and in what order, may not.
        names = "shard_first keys first offsets sizes extension contents extensions".split()
        return f"tar-{len(self)}-{digest(self._index[name].tobytes() for name in names)}"

    def read(self, indices: np.ndarray, *, threads: int = 1, allocate: Any = None) -> Records:
        # One read for all fields, a field's files one after the other.
        wanted = {r.extensions: self._members[r.extensions][indices] for r in self._readings if r.needs_file}
        members = np.concatenate([np.empty(0, np.int64), *wanted.values()])
        shards = np.tile(self._shards.of(indices), len(wanted))
        arena, starts, failed = self._read_members(shards, members, threads=threads, allocate=allocate)
        n = len(indices)
        errors: dict[int, Exception] = {}
        for position in sorted(failed, reverse=True):
            errors[position % n] = failed[position]
        files = {
            extensions: Encoded(arena, starts[block * n : (block + 1) * n + 1])
            for block, extensions in enumerate(wanted)
        }
        columns = {r.name: self._column(r, indices, files.get(r.extensions), errors) for r in self._readings}
        return Records(columns, errors)

    def files(self) -> Iterable[str]:
        return (path for path in self.paths if not is_remote(path))

    def close(self) -> None:
        self._shards.storage.close()

    def __repr__(self) -> str:
        return f"TarShards({len(self)} samples in {len(self.paths)} shards, {', '.join(self.schema.names)})"

    def _column(
        self, reading: Reading, indices: np.ndarray, files: Encoded | None, errors: dict[int, Exception]
    ) -> Any:
        """One field of these samples, and in ``errors`` what is wrong with it."""
        if reading.format == "key":
            return self._keys.take(indices)

        def wrong(row: int, what: str) -> None:
            index = int(indices[row])
            errors.setdefault(row, ValueError(f"{self.describe(index)}: field {reading.name!r}: {what}"))

        members = self._members[reading.extensions][indices]
        for row in np.flatnonzero(members < 0).tolist():
            has = ", ".join(self._extensions_of(int(indices[row])))
            wrong(row, f"expected a member with the extension {' or '.join(reading.extensions)}, it has {has}")
        for row in np.flatnonzero((members >= 0) & (self._index["offsets"][members] < 0)).tolist():
            wrong(row, "its file is stored sparse; write the shard without --sparse")
        if files is None:
            values, valid = self._integers[reading.name]
            for row in np.flatnonzero((members >= 0) & ~valid[indices]).tolist():
                wrong(row, f"expected a whole number, got {self._content(members[row])}")
            return values[indices]
        if reading.format == "image":
            return files
        decoded: list[Any] = [None] * len(indices)
        expected = self._templates.get(reading.name)
        for row in range(len(indices)):
            if row not in errors:
                try:
                    value = decoded[row] = reading.decode(files[row].tobytes())
                except Exception as error:  # whatever these bytes make a parser raise
                    wrong(row, f"{type(error).__name__}: {error}")
                    continue
                if expected is not None and not _like(value, expected):
                    what = f"expected {expected.dtype} {expected.shape}, as the first sample has it"
                    wrong(row, f"{what}, got {value.dtype} {value.shape}")
                    decoded[row] = None
        if expected is None:
            return decoded
        column = np.zeros((len(indices), *expected.shape), expected.dtype)
        for row, value in enumerate(decoded):
            if value is not None:
                column[row] = value
        return column

    def _read_members(
        self, shards: np.ndarray, members: np.ndarray, **options: Any
    ) -> tuple[np.ndarray, np.ndarray, dict[int, OSError]]:
        """Files by their numbers, int64 [n], in these shards; -1: none. Arena, starts and errors."""
        offsets, sizes = self._index["offsets"][members], self._index["sizes"][members]
        there = (members >= 0) & (offsets >= 0)
        return self._shards.read(shards, np.where(there, offsets, 0), np.where(there, sizes, 0), **options)

    def _extensions_of(self, index: int) -> list[str]:
        first, end = self._index["first"][index : index + 2]
        return self._index["extensions"][self._index["extension"][first:end]].tolist()

    def _content(self, member: int) -> str:
        """Of a small file, for people."""
        begin, end = self._index["content_starts"][member : member + 2]
        size = int(self._index["sizes"][member])
        return repr(self._index["contents"][begin:end].tobytes()) if size == end - begin else f"{size} bytes"

    def _find(self, reading: Reading) -> np.ndarray:
        """The number of each sample's file for this field: int64 [N]; -1: it has none."""
        known = self._index["extensions"].tolist()
        sample = np.repeat(np.arange(len(self)), np.diff(self._index["first"]))
        found = np.full(len(self), -1, np.int64)
        for extension in reversed(reading.extensions):  # of two that a sample has, the first stays
            if extension in known:
                members = np.flatnonzero(self._index["extension"] == known.index(extension))
                found[sample[members]] = members
        if (found < 0).all():
            raise ValueError(
                f"field {reading.name!r}: no sample in {self.paths[0]} … has a file with the extension "
                f"{' or '.join(reading.extensions)}; there are {', '.join(known[:20])}"
            )
        return found

    def _all_integers(self, reading: Reading) -> tuple[np.ndarray, np.ndarray]:
        """The field of all samples, int64 [N], and whether they have it, bool [N]; the index holds small files."""
        values, valid = native.parse_integers(self._index["contents"], self._index["content_starts"])
        members = self._members[reading.extensions]
        valid = (members >= 0) & valid[members]
        return np.where(valid, values[members], 0), valid

    def _first_value(self, reading: Reading) -> np.ndarray:
        """Of a column: it tells the shape and dtype of all."""
        members = self._members[reading.extensions]
        index = int(np.flatnonzero(members >= 0)[0])
        shard = self._shards.of(np.array([index]))
        arena, starts, failed = self._read_members(shard, members[index : index + 1], threads=1)
        if failed:
            raise failed[0]
        try:
            return np.zeros_like(reading.decode(arena[: starts[1]].tobytes()))
        except Exception as error:
            raise ValueError(f"{self.describe(index)}: field {reading.name!r}: {error}") from error


def _like(value: np.ndarray, expected: np.ndarray) -> bool:
    return value.shape == expected.shape and np.can_cast(value.dtype, expected.dtype, "same_kind")


def _index_of(scanner: native.ShardScanner) -> Arrays:
    arrays, extensions = scanner.tar_index()
    return {**arrays, "extensions": np.array(extensions, np.str_)}


def _merge(shards: list[Arrays]) -> Arrays:
    numbers: dict[str, int] = {}
    extension = []
    for shard in shards:
        number = [numbers.setdefault(name, len(numbers)) for name in shard["extensions"].tolist()]
        extension.append(np.array(number, np.int32)[shard["extension"]])
    return {
        **{
            name: np.concatenate([shard[name] for shard in shards]) for name in ("keys", "offsets", "sizes", "contents")
        },
        **{name: join_starts([shard[name] for shard in shards]) for name in ("key_starts", "first", "content_starts")},
        "extension": np.concatenate(extension),
        "extensions": np.array(list(numbers), np.str_),
        "shard_first": np.cumsum([0, *(len(shard["first"]) - 1 for shard in shards)]),  # samples
    }
