"""TFRecord files of tf.train.Example messages, read by index and without TensorFlow."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dalipipe import native
from dalipipe.records import Encoded, Records
from dalipipe.schema import Field, Kind, Schema
from dalipipe.sources.base import Source, digest
from dalipipe.sources.formats import MASKS, field_name
from dalipipe.sources.index import Arrays
from dalipipe.sources.shards import IndexFolder, Urls, open_shards
from dalipipe.storage import Storage, is_remote

#: A feature's name, or ``(name, kind)`` with the kind of a `Field`.
FeatureSpec = str | tuple[str, Kind]

_TRIED = 8  # records that are looked at to know the features
_WRONG = {1: "its checksum does not match: the record is damaged", 2: "it is no tf.train.Example"}


@dataclass(frozen=True)
class _Seen:
    """A feature in the records that were tried, of which a few may be bad."""

    kind: str  # "bytes", "floats" or "ints", as most have it
    counts: tuple[int, ...]  # of values; the commonest first
    is_picture: bool  # most are
    everywhere: bool


@dataclass(frozen=True)
class _Reading:
    """How a field is read from a feature."""

    field: Field
    feature: str
    kind: str
    count: int | None  # of values; None: any

    @property
    def expected(self) -> str:
        values = "any number of" if self.count is None else str(self.count)
        return f"{values} {self.kind}"


class TFRecords(Source):
    """tf.train.Example records with random access. Checksums are checked: of lengths in scanning, of data in reading.

    Args:
        paths: one file or several: ``"train-?????-of-01024"``, a glob, URLs of a store, or a list of these.
        features: field → feature, such as ``{"image": "image/encoded", "label": "image/class/label"}``. Bytes that are
            a picture are an image field, or a mask where the field is called ``mask``, ``seg`` or ``segmentation``.
            Numbers are a column, int64 or float32, [N] or [N, count], where each record has as many. All else are
            objects: ``bytes``, or where the count differs, or is left to itself by ``(feature, "object")``, a list of
            them or an array. ``(feature, kind)`` insists on any kind. None: what all records have, pictures first;
            ``image/encoded`` is called ``image`` and ``image/class/label`` ``label``. How things are is seen from
            eight records.
        storage: what reads the files; None: local ones.
        index_dir: where the index is kept: ``"beside"`` the files, or in this folder; None: in the cache folder.
        classes: names of the label values.
        threads: how many files are scanned at a time; None: by the number of CPUs.

    A damaged record, or one with another kind or number of values, is an error when it is read and costs no other.

    Raises:
        ShardError: damaged files; it names the first one and the byte at which that makes no sense.
        OSError: a file that cannot be read.
        ValueError: no files, no records, a feature that they do not have or that cannot be of that kind.

    Source: tensorflow/core/lib/io/record_writer.h, tensorflow/core/example/example.proto.
    """

    labels: np.ndarray | None = None
    """Not known without reading every record."""

    def __init__(
        self,
        paths: Urls,
        *,
        features: Mapping[str, FeatureSpec] | None = None,
        storage: Storage | None = None,
        index_dir: IndexFolder | Literal["beside"] = None,
        classes: Sequence[str] | None = None,
        threads: int | None = None,
    ) -> None:
        self.classes = None if classes is None else list(classes)
        index_of = native.ShardScanner.record_index
        self._shards = open_shards("tfrecord", paths, storage, index_of, _merge, index_dir=index_dir, threads=threads)
        self.paths, self._index = self._shards.paths, self._shards.index
        if not len(self):
            raise ValueError(f"{self.paths[0]}: expected records, found none")
        seen = self._try_records()
        given = _infer(seen) if features is None else features
        readings = [_reading(name, spec, seen) for name, spec in given.items()]
        if features is None:
            order = ("image", "mask", "column", "object")
            readings.sort(key=lambda reading: order.index(reading.field.kind))
        self._readings = readings
        self.schema = Schema(tuple(reading.field for reading in readings))

    def __len__(self) -> int:
        return len(self._index["offsets"])

    def describe(self, index: int) -> str:
        path, place = self._shards.describe(index)
        return f"{path}, record {place}"

    def fingerprint(self) -> str:
        # Sizes and checksums of all records, in order; the files may move between machines.
        return f"tfrecord-{len(self)}-{digest(self._index[name].tobytes() for name in ('sizes', 'checksums'))}"

    def read(self, indices: np.ndarray, *, threads: int = 1, allocate: Any = None) -> Records:
        arena, starts, failed = self._read_records(indices, threads=threads, allocate=allocate)
        names = [reading.feature for reading in self._readings]
        features, status = native.read_examples(arena, starts, names, threads=threads)
        errors: dict[int, Exception] = dict(failed)
        for row in np.flatnonzero(status).tolist():
            errors.setdefault(row, ValueError(f"{self.describe(int(indices[row]))}: {_WRONG[status[row]]}"))
        columns: dict[str, Any] = {}
        pictures = []
        for reading, found in zip(self._readings, features.T, strict=True):
            good = found["kind"] == native.FEATURE_KINDS.index(reading.kind)
            if reading.count is None:
                good |= (found["count"] == 0) & (status == 0)  # none of them, or left out: the same
            else:
                good &= found["count"] == reading.count
            for row in np.flatnonzero(~good).tolist():
                got = f"{found['count'][row]} {native.FEATURE_KINDS[found['kind'][row]]}"
                where = f"{self.describe(int(indices[row]))}: feature {reading.feature!r}"
                errors.setdefault(row, ValueError(f"{where}: expected {reading.expected}, got {got}"))
            if reading.field.kind in ("image", "mask"):
                pictures.append((reading.field.name, found["first"] * good, found["first_bytes"] * good))
            elif reading.field.kind == "column":
                columns[reading.field.name] = _numbers(arena, found, good, reading)
            else:
                columns[reading.field.name] = [
                    _object(arena, found[row], reading) if good[row] else None for row in range(len(indices))
                ]
        for i, (name, at, nbytes) in enumerate(pictures):
            # The last pictures move together where they are, over what lay between them: nothing is left to be read.
            last, total = i == len(pictures) - 1, int(nbytes.sum())
            out = arena if last else np.empty(total, np.uint8) if allocate is None else allocate(total)
            columns[name] = Encoded(out, native.pack_ranges(arena, at, nbytes, out))
        return Records(columns, errors)

    def files(self) -> Iterable[str]:
        return (path for path in self.paths if not is_remote(path))

    def close(self) -> None:
        self._shards.storage.close()

    def __repr__(self) -> str:
        return f"TFRecords({len(self)} records in {len(self.paths)} files, {', '.join(self.schema.names)})"

    def _read_records(self, indices: np.ndarray, **options: Any) -> tuple[np.ndarray, np.ndarray, dict[int, OSError]]:
        """Each with its checksum after it: arena, starts and errors."""
        offsets, lengths = self._index["offsets"][indices], self._index["sizes"][indices] + 4
        return self._shards.read(self._shards.of(indices), offsets, lengths, **options)

    def _try_records(self) -> dict[str, _Seen]:
        """The features that some records of the whole set have."""
        indices = np.unique(np.linspace(0, len(self) - 1, _TRIED).astype(np.int64))
        arena, starts, failed = self._read_records(indices, threads=_TRIED)
        if len(failed) == len(indices):
            raise failed[0]
        names: dict[str, None] = {}
        for begin, end in itertools.pairwise(starts.tolist()):
            try:
                names.update(dict.fromkeys(native.list_features(arena[begin : max(begin, end - 4)])))
            except ValueError:
                continue  # an error when it is read
        features, status = native.read_examples(arena, starts, list(names))
        if status.all():
            raise ValueError(f"{self.describe(int(indices[0]))}: {_WRONG[status[0]]}")
        return {
            name: seen
            for name, found in zip(names, features[status == 0].T, strict=True)
            if (seen := _see(arena, found))
        }


def _see(arena: np.ndarray, found: np.ndarray) -> _Seen | None:
    """A feature of the good records among those that were tried; None: nothing is ever in it."""
    filled = found[found["count"] > 0]
    if not len(filled):
        return None
    number = Counter(filled["kind"].tolist()).most_common(1)[0][0]
    filled = filled[filled["kind"] == number]
    counts = Counter(found["count"][(found["kind"] == number) | ((found["kind"] > 0) & (found["count"] == 0))].tolist())
    is_picture = False
    if native.FEATURE_KINDS[number] == "bytes":
        starts = np.stack([filled["first"], filled["first"] + filled["first_bytes"]], 1).ravel()
        is_picture = bool(np.mean(native.probe_images(arena, starts)["kind"][::2] > 0) > 0.5)
    ordered = tuple(count for count, _ in counts.most_common())
    return _Seen(native.FEATURE_KINDS[number], ordered, is_picture, bool((found["kind"] > 0).all()))


def _reading(name: str, spec: FeatureSpec, seen: Mapping[str, _Seen]) -> _Reading:
    if field_name(name) != name:
        raise ValueError(f"field {name!r}: expected a Python name, such as {field_name(name)!r}")
    feature, wanted = spec if isinstance(spec, tuple) else (spec, None)
    if feature not in seen:
        raise ValueError(f"field {name!r}: the records have no feature {feature!r}, but {', '.join(sorted(seen))}")
    found = seen[feature]
    of_one_size = len(found.counts) == 1
    if found.kind == "bytes":
        usual: Kind = "object" if not found.is_picture else "mask" if name in MASKS else "image"
        possible: tuple[Kind, ...] = ("image", "mask", "object")
    else:
        usual, possible = "column" if of_one_size else "object", ("column", "object")
    kind = wanted or usual
    if kind not in possible:
        raise ValueError(
            f"field {name!r}: feature {feature!r} is {found.kind}, expected {' or '.join(possible)}, got {kind!r}"
        )
    if kind in ("image", "mask"):
        return _Reading(Field(name, kind, channels=3 if kind == "image" else 1), feature, found.kind, 1)
    count = found.counts[0] if kind == "column" or (of_one_size and wanted is None) else None
    return _Reading(Field(name, kind), feature, found.kind, count)


def _infer(seen: Mapping[str, _Seen]) -> dict[str, FeatureSpec]:
    usual = {"image/encoded": "image", "image/class/label": "label"}
    features: dict[str, FeatureSpec] = {}
    for feature in (feature for feature, found in seen.items() if found.everywhere):
        name = usual.get(feature) or field_name(feature)
        while name in features:
            name += "_"
        features[name] = feature
    return features


def _numbers(arena: np.ndarray, found: np.ndarray, good: np.ndarray, reading: _Reading) -> np.ndarray:
    assert reading.count is not None
    column = np.zeros((len(found), reading.count), np.int64 if reading.kind == "ints" else np.float32)
    if good.any():
        column[good] = native.feature_numbers(arena, found[good])
    return column[:, 0] if reading.count == 1 else column


def _object(arena: np.ndarray, found: np.void, reading: _Reading) -> Any:
    if reading.kind == "bytes":
        values = native.feature_bytes(arena, found) if found["count"] else []
        return values[0] if reading.count == 1 else values
    if not found["count"]:
        return np.zeros(0, np.int64 if reading.kind == "ints" else np.float32)
    return native.feature_numbers(arena, found.reshape(1))[0]


def _merge(shards: list[Arrays]) -> Arrays:
    return {
        **{name: np.concatenate([shard[name] for shard in shards]) for name in ("offsets", "sizes", "checksums")},
        "shard_first": np.cumsum([0, *(len(shard["offsets"]) for shard in shards)]),
    }
