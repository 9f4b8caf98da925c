"""Sounds in files: in folders, one per class, or in a manifest that may name parts of them."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from dalipipe import native
from dalipipe.records import Encoded, EncodedAudio, Records
from dalipipe.schema import Field, Schema
from dalipipe.sources.base import digest
from dalipipe.sources.folder import LabelledFiles, renumbered, without_common_folder
from dalipipe.sources.index.listing import is_absolute
from dalipipe.sources.index.names import Names
from dalipipe.sources.index.scan import SOUNDS
from dalipipe.storage import Storage

_HEADER_BYTES = 4096  # hold almost every header
_AT_A_TIME = 256  # files read whole for their headers
_FLAC, _WAV = native.AUDIO_KINDS.index("flac"), native.AUDIO_KINDS.index("wav")
_TRUNCATED = native.AUDIO_PROBLEMS.index("truncated")
_COLUMNS = ("path", "start_s", "duration_s", "label")


class _Sounds(LabelledFiles):
    _what = "sounds"
    _endings = SOUNDS

    def _describe_fields(self, rate_hz: float, channels: int) -> None:
        name = type(self).__name__
        if not (math.isfinite(rate_hz) and rate_hz > 0):
            raise ValueError(f"{name}: rate_hz must be a number of frames a second above 0, got {rate_hz!r}")
        if channels < 1:
            raise ValueError(f"{name}: channels must be at least 1, got {channels!r}")
        sound = Field("audio", "audio", channels=channels, rate_hz=float(rate_hz), length="length")
        labels = () if self.labels is None else (Field("label", "column"),)
        self.schema = Schema((sound, Field("length", "column"), *labels))

    def read(self, indices: np.ndarray, *, threads: int = 1, allocate: Any = None) -> Records:
        arena, starts, errors = self.storage.read(self.paths.take(indices), threads=threads, allocate=allocate)
        columns: dict[str, Any] = {"audio": self._sounds(arena, starts, indices)}
        columns["length"] = np.zeros(len(indices), np.int64)  # known once they are augmented
        if self.labels is not None:
            columns["label"] = self.labels[indices]
        return Records(columns, dict(errors))

    def _sounds(self, arena: np.ndarray, starts: np.ndarray, indices: np.ndarray) -> Encoded:
        return Encoded(arena, starts)

    def durations_s(self, *, threads: int = 8) -> np.ndarray:
        """float64 [N]: how long every sound is, as recorded: by what `BucketSampler` puts alike ones together.

        Reads the headers of all files. Raises ``OSError`` for a file that cannot be read, ``ValueError`` for one whose
        header does not say: damaged ones, and MP3 files, whose length is known only once they are decoded.
        """
        durations = np.zeros(len(self))
        for begin in range(0, len(self), _HEADER_BYTES):
            rows = np.arange(begin, min(begin + _HEADER_BYTES, len(self)))
            lengths = np.full(len(rows), _HEADER_BYTES)
            arena, starts, errors = self.storage.read(self.paths.take(rows), threads=threads, lengths=lengths)
            headers = native.probe_audio(arena, starts, threads=threads)
            # A WAV file that looks whole is shorter than was asked for, or does not say where it ends.
            known = (headers["kind"] == _WAV) & (headers["problem"] == _TRUNCATED)
            known |= (headers["kind"] == _FLAC) & (headers["frames"] > 0)
            known[list(errors)] = False
            durations[rows[known]] = headers["promised"][known] / headers["rate_hz"][known]
            rest = rows[~known]
            for first in range(0, len(rest), _AT_A_TIME):
                few = rest[first : first + _AT_A_TIME]
                durations[few] = self._whole_durations_s(few, threads)
        return durations

    def _whole_durations_s(self, rows: np.ndarray, threads: int) -> np.ndarray:
        paths = self.paths.take(rows)
        arena, starts, errors = self.storage.read(paths, threads=threads)
        for error in errors.values():
            raise error
        headers = native.probe_audio(arena, starts, threads=threads)
        unknown = np.flatnonzero((headers["frames"] == 0) | (headers["problem"] != 0))
        if len(unknown):
            kind = native.AUDIO_KINDS[headers["kind"][unknown[0]]]
            raise ValueError(
                f"{paths[unknown[0]]}: the header of this file ({kind}) does not say how long it is: leave it out if "
                "it is damaged; for MP3 files give BucketSampler lengths from elsewhere (their sizes, say)"
            )
        return np.asarray(headers["frames"] / headers["rate_hz"])


class AudioFolder(_Sounds):
    """Labelled sounds in folders (``.wav .flac .ogg .oga .opus .mp3``); the classes are numbered in sorted order.

    Fields: ``audio`` (float32 [channels, T] in batches, in [-1, 1] as recorded, padded with zeros to the longest),
    ``length`` (int64: frames of each without the padding) and ``label`` (int64).

    Args:
        root: a folder, or the URL of one in a store (``s3://bucket/train``).
        rate_hz: of the batches: what was recorded at another rate is resampled.
        channels: of the batches. 1: the mean of what was recorded; more: files of as many, or of one, repeated.
        label: which folder names the class: the file's own, "parent", or the one right below the root, "top". So
            ``speaker/digit/take.wav`` is labelled by digit or by speaker.
        storage: reads and lists; None: local files, and stores by their default settings.
        cache, index_dir, refresh: of the index of large folders, as `ImageFolder` has them.

    ``paths`` is a sequence of ``str``. Only some records, those of one speaker, say, are read by an order::

        mine = [i for i, path in enumerate(source.paths) if "/george/" in path]
        dalipipe.DataLoader(source, 64, sampler=dalipipe.orders.Subset(mine))

    Raises:
        FileNotFoundError: a missing or empty root, a root without class folders, with "top" a class without sounds.
        ValueError: an argument that is none of the above.
    """

    labels: np.ndarray

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        rate_hz: float,
        channels: int = 1,
        label: Literal["parent", "top"] = "parent",
        storage: Storage | None = None,
        cache: bool = True,
        index_dir: str | os.PathLike[str] | None = None,
        refresh: bool = False,
    ) -> None:
        if label not in ("parent", "top"):
            raise ValueError(f'AudioFolder: label must be "parent" or "top", got {label!r}')
        self._find(root, None, storage, cache=cache, index_dir=index_dir, refresh=refresh, label=label)
        self._describe_fields(rate_hz, channels)


class AudioManifest(_Sounds):
    """Sounds, or parts of them, listed in a file: CSV with a header, TSV (``.tsv``), or JSON lines (``.jsonl``,
    ``.json``); UTF-8; local or a URL.

    Columns: ``path``; optionally ``start_s`` and ``duration_s`` (seconds; empty or null: from the beginning, to the
    end) and ``label`` (whole numbers, or names, numbered in sorted order). Others are passed over. Fields: ``audio``,
    ``length`` and, where there are labels, ``label``, as `AudioFolder` has them.

    Args:
        path: the manifest.
        rate_hz, channels: of the batches, as for `AudioFolder`.
        root: what relative paths start from; None: the manifest's folder. Absolute paths and URLs stay as they are.
        columns: what columns are called where they go by other names: ``{"path": "audio_filepath", "start_s": "offset",
            "duration_s": "duration"}``.
        classes: names by label; where labels are names, they are numbered by it.
        storage: reads all files; None: local files, and stores by their default settings.

    A file is read whole for each part of it that a batch takes.

    Raises:
        FileNotFoundError: no such manifest.
        ValueError: a manifest that is empty or not as it must be, by file and line.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        rate_hz: float,
        channels: int = 1,
        root: str | os.PathLike[str] | None = None,
        columns: Mapping[str, str] | None = None,
        classes: Sequence[str] | None = None,
        storage: Storage | None = None,
    ) -> None:
        file, storage = os.fspath(path), storage or Storage()
        columns = dict(columns or {})
        if unknown := set(columns) - set(_COLUMNS):
            raise ValueError(f"AudioManifest: columns must name {', '.join(_COLUMNS)}, got {sorted(unknown)[0]!r}")
        arena, starts, errors = storage.read([file], threads=1)
        if errors:
            raise errors[0]
        rows = list(_parse(arena[: starts[1]].tobytes(), file, {name: columns.get(name, name) for name in _COLUMNS}))
        if not rows:
            raise ValueError(f"{file}: expected a sound a line, found none")
        root = os.path.join(os.path.dirname(file) if root is None else os.fspath(root), "")
        names = [str(row["path"]) for _, row in rows]
        if any(is_absolute(name) for name in names):
            paths = without_common_folder([name if is_absolute(name) else root + name for name in names])
        else:
            paths = Names.of(names, root)
        self.start_s = np.array([_seconds(row, "start_s", where) for where, row in rows])
        self.duration_s = np.array([_seconds(row, "duration_s", where) for where, row in rows])
        labels, found = _labels(rows)
        if labels is not None and found is not None:
            if classes is not None:
                labels = renumbered(labels, found, list(classes), file)
            else:
                classes = found
        elif labels is not None and classes is not None and not 0 <= labels.min() <= labels.max() < len(classes):
            raise ValueError(
                f"{file}: labels run from {labels.min()} to {labels.max()}, but there are {len(classes)} classes"
            )
        self._set(paths, labels, classes, storage)
        self._describe_fields(rate_hz, channels)

    def _sounds(self, arena: np.ndarray, starts: np.ndarray, indices: np.ndarray) -> EncodedAudio:
        return EncodedAudio(arena, starts, self.start_s[indices], self.duration_s[indices])

    def durations_s(self, *, threads: int = 8) -> np.ndarray:
        given = self.duration_s
        if not np.isnan(given).any():
            return given.copy()
        rest = super().durations_s(threads=threads) - np.nan_to_num(self.start_s)
        return np.where(np.isnan(given), rest, np.minimum(given, rest))

    durations_s.__doc__ = _Sounds.durations_s.__doc__

    def fingerprint(self) -> str:
        parts = [super().fingerprint().encode(), self.start_s.tobytes(), self.duration_s.tobytes()]
        return f"manifest-{len(self)}-{digest(parts)}"

    def describe(self, index: int) -> str:
        start_s, duration_s = self.start_s[index], self.duration_s[index]
        if np.isnan(start_s) and np.isnan(duration_s):
            return self.paths[index]
        end = "" if np.isnan(duration_s) else f"{np.nan_to_num(start_s) + duration_s:g} s"
        return f"{self.paths[index]} [{np.nan_to_num(start_s):g} s – {end}]"


def _parse(data: bytes, file: str, columns: dict[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of every line: where it stands, for people, and its values by our names, those that are there."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not UTF-8 text ({error}): convert it") from None
    ending = os.path.splitext(file)[1].lower()
    lines = _json_lines(text, file) if ending in (".jsonl", ".json") else _csv_lines(text, file, ending == ".tsv")
    for where, row in lines:
        values = {name: row[column] for name, column in columns.items() if row.get(column) not in (None, "")}
        if "path" not in values:
            raise ValueError(
                f"{where}: expected a path in column {columns['path']!r}, got columns {', '.join(map(repr, row))}; "
                'columns={"path": ...} names another'
            )
        yield where, values


def _csv_lines(text: str, file: str, tabs: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if tabs else ",", strict=True)
    header: list[str] | None = None
    try:
        for row in reader:
            if not any(row):
                continue
            if header is None:
                header = [name.strip() for name in row]
            elif len(row) != len(header):
                raise ValueError(
                    f"{file}, line {reader.line_num}: expected {len(header)} values, as the header has, got {len(row)}"
                )
            else:
                yield f"{file}, line {reader.line_num}", dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise ValueError(f"{file}, line {reader.line_num}: {error}") from error


def _json_lines(text: str, file: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: expected a JSON object a line: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{where}: expected a JSON object, got a {type(row).__name__}")
        yield where, row


def _seconds(row: dict[str, Any], name: str, where: str) -> float:
    if name not in row:
        return math.nan
    least = "at least 0" if name == "start_s" else "above 0"
    try:
        value = float(row[name])
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value) or value < 0 or (name == "duration_s" and value == 0):
        raise ValueError(f"{where}: {name} must be a number of seconds, {least}, or empty, got {row[name]!r}")
    return value


def _labels(rows: list[tuple[str, dict[str, Any]]]) -> tuple[np.ndarray | None, list[str] | None]:
    """int64 [N], and the classes' names where labels are names; None where there are no labels."""
    labelled = ["label" in row for _, row in rows]
    if not any(labelled):
        return None, None
    if not all(labelled):
        where, _ = rows[labelled.index(False)]
        raise ValueError(f"{where}: no label, but other lines have one: give all lines a label, or none")
    values = [row["label"] for _, row in rows]
    for (where, _), value in zip(rows, values, strict=True):
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise ValueError(f"{where}: label must be a whole number or a name, got {value!r}")
    try:
        return np.array([int(value) for value in values], np.int64), None
    except ValueError:
        names = [str(value) for value in values]
        classes, labels = np.unique(names, return_inverse=True)
        return labels.astype(np.int64), classes.tolist()
