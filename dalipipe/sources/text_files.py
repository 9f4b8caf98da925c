"""Texts in files: lines, tables with commas or tabs, JSON lines, Parquet and Arrow; Hugging Face data sets."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import numpy as np

from dalipipe.sources.formats import field_name
from dalipipe.sources.table import class_names, hugging_face, is_table
from dalipipe.storage import Storage

Column = str | int
Errors = Literal["strict", "replace"]

ENDINGS = (".txt", ".csv", ".tsv", ".jsonl", ".json", ".parquet", ".pq", ".arrow", ".feather", ".ipc")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_WHOLE = re.compile(r"[+-]?\d+")
_IN_HEADERS = frozenset(
    "text texts sentence sentences review reviews tweet comment question content body document title label labels "
    "target class category sentiment stars rating score id idx index".split()
)


class Where(NamedTuple):
    """What texts are called for people. ``at`` int64 [N]: the number of each, by ``unit`` ("line" and "item", from 1;
    "row", from 0).
    """

    file: str
    unit: str
    at: np.ndarray

    def __call__(self, row: int) -> str:
        return f"{self.file}, {self.unit} {self.at[row]}"


class Rows(NamedTuple):
    """``labels``: names or numbers, or None; ``columns``: further values by name."""

    texts: list[str]
    labels: list[Any] | None
    columns: dict[str, list[Any]]
    where: Where
    classes: list[str] | None = None


def read_rows(
    source: Any,
    text: Column,
    label: Column | None,
    columns: Sequence[Column],
    header: bool | None,
    errors: Errors,
    storage: Storage,
) -> Rows:
    """As `Text.open` says. Raises as it says, too."""
    if not isinstance(source, str | os.PathLike):
        return _of_arrow(source, "the table", text, label, columns)
    path = os.fspath(source)
    ending = os.path.splitext(path)[1].lower()
    if os.path.isdir(path):
        raise ValueError(f"{path} is a folder, and no pack that is finished: give a file, or pack with resume=True")
    if ending not in ENDINGS:
        raise ValueError(
            f"Text.open: expected a file called {', '.join(ENDINGS)}, or a Hugging Face data set, got {path}"
        )
    arena, starts, failed = storage.read([path], threads=1)
    if failed:
        raise failed[0]
    raw = arena[: starts[1]]
    if ending in (".parquet", ".pq", ".arrow", ".feather", ".ipc"):
        return _of_arrow(_arrow_table(raw, path, ending), path, text, label, columns)
    content = _decoded(raw.tobytes(), path, errors)
    if ending == ".txt":
        lines = _lines(content)
        return Rows(lines, None, {}, Where(path, "line", np.arange(1, len(lines) + 1)))
    if ending in (".csv", ".tsv"):
        return _of_cells(content, path, ending == ".tsv", text, label, columns, header)
    unit = "item" if content.lstrip().startswith("[") else "line"
    return _of_objects(_objects(content, path, unit), Where(path, unit, np.zeros(0, np.int64)), text, label, columns)


def _decoded(raw: bytes, path: str, errors: Errors) -> str:
    try:
        return raw.decode("utf-8", errors).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: no valid UTF-8 ({error.reason}, byte 0x{raw[error.start]:02x}): write the file as "
            'UTF-8, or give errors="replace"'
        ) from None


def _lines(content: str) -> list[str]:
    """Without what ends them, which is a line feed alone: Python's own ``splitlines`` cuts at form feeds too."""
    lines = content.split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


# --- commas and tabs ------------------------------------------------------------------------------------------------


def _of_cells(
    content: str,
    path: str,
    tabs: bool,
    text: Column,
    label: Column | None,
    columns: Sequence[Column],
    header: bool | None,
) -> Rows:
    rows: list[list[str]] = []
    at: list[int] = []
    for number, cells in _cells(content, path, tabs):
        if rows and len(cells) != len(rows[0]):
            hint = "" if tabs else ": a text with commas stands between double quotes"
            raise ValueError(
                f"{path}, line {number}: expected {len(rows[0])} columns, as line {at[0]} has, got {len(cells)}{hint}"
            )
        rows.append(cells)
        at.append(number)
    if not rows:
        return Rows([], None, {}, Where(path, "line", np.zeros(0, np.int64)))
    names = rows[0] if _has_header(rows[0], path, text, label, columns, header) else None
    if names is None and text == "text" and len(rows[0]) <= 2:
        text = len(rows[0]) - 1
        label = 0 if label == "label" and text else label
    find = _finder(path, names if names is not None else len(rows[0]))
    first = 0 if names is None else 1
    where = Where(path, "line", np.array(at[first:], np.int64))

    def column(of: Column) -> list[str]:
        place = find(of)
        return [row[place] for row in rows[first:]]

    labelled = label is not None and not (label == "label" and "label" not in (names or ()))
    labels = _labels(column(label), where) if labelled and label is not None else None
    more = {_field(of): _numbers(column(of), where, of) for of in columns}
    return Rows(column(text), labels, more, where)


def _cells(content: str, path: str, tabs: bool) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of all lines but empty ones."""
    if tabs:
        for number, line in enumerate(_lines(content), 1):
            if line:
                yield number, line.split("\t")
        return
    with _cells_of_any_length():
        reader = csv.reader(io.StringIO(content, newline=""), strict=True)
        number = 1
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise ValueError(f"{path}, line {number}: no comma-separated values: {error}") from None
            if cells is None:
                return
            if cells:
                yield number, cells
            number = reader.line_num + 1


@contextmanager
def _cells_of_any_length() -> Iterator[None]:
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _has_header(
    first: list[str], path: str, text: Column, label: Column | None, columns: Sequence[Column], header: bool | None
) -> bool:
    asked = [of for of in (text, label, *columns) if of is not None]
    if header is not None:
        return header
    if any(isinstance(of, int) for of in asked):
        return False
    if text in first:
        return True
    named = text != "text" or label not in ("label", None) or bool(columns)
    if named or "label" in first or any(cell.strip().lower() in _IN_HEADERS for cell in first):
        raise ValueError(
            f"{path} has no column {text!r}; its first line is {', '.join(map(repr, first))}: name its columns by "
            "text= and label=; where it has no names, give numbers, text=1, label=0"
        )
    if len(first) > 2:
        raise ValueError(
            f"{path} has {len(first)} columns without names, from {first[0][:40]!r}: say by number which ones are "
            "meant, text=1, label=0"
        )
    return False


def _finder(path: str, names: Sequence[str] | int) -> Callable[[Column], int]:
    def find(of: Column) -> int:
        count = names if isinstance(names, int) else len(names)
        if isinstance(of, int):
            if not 0 <= of < count:
                raise ValueError(f"{path} has no column {of}; it has {count}, from 0")
            return of
        if isinstance(names, int):
            raise ValueError(f"{path} has no column {of!r}: its columns have no names; give numbers, text=1, label=0")
        if list(names).count(of) != 1:
            found = "several columns" if of in names else "no column"
            raise ValueError(f"{path} has {found} {of!r}; it has {', '.join(map(repr, names))}")
        return list(names).index(of)

    return find


def _labels(cells: list[str], where: Where) -> list[str]:
    for row, cell in enumerate(cells):
        if not cell.strip():
            raise ValueError(f"{where(row)}: no label: give it one, or leave the line out, or give label=None")
    return [cell.strip() for cell in cells]


def as_numbers(cells: list[str]) -> np.ndarray | None:
    """int64 or float64 [N], where all are numbers as people write them."""
    if all(_WHOLE.fullmatch(cell) for cell in cells):
        return np.array([int(cell) for cell in cells], np.int64)
    if all(_NUMBER.fullmatch(cell) for cell in cells):
        return np.array([float(cell) for cell in cells])
    return None


def _numbers(cells: list[str], where: Where, of: Column) -> list[Any]:
    found = as_numbers([cell.strip() for cell in cells])
    if found is None:
        row = next(i for i, cell in enumerate(cells) if not _NUMBER.fullmatch(cell.strip()))
        raise ValueError(f"{where(row)}: column {of!r} must be numbers, got {cells[row][:40]!r}")
    return found.tolist()


# --- JSON -----------------------------------------------------------------------------------------------------------


def _objects(content: str, path: str, unit: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, object) of every line that is not empty; of one list, (place from 1, object)."""
    if unit == "item":
        try:
            found = json.loads(content)
        except ValueError as error:
            raise ValueError(f"{path}: no JSON: {error}") from None
        items: Any = enumerate(found, 1)
    else:
        items = ((number, line) for number, line in enumerate(_lines(content), 1) if line.strip())
    for number, item in items:
        if isinstance(item, str):
            try:
                item = json.loads(item)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: no JSON: {error}") from None
        if not isinstance(item, dict):
            raise ValueError(f"{path}, {unit} {number}: expected an object with keys, got {str(item)[:60]!r}")
        yield number, item


def _of_objects(
    objects: Iterator[tuple[int, dict[str, Any]]],
    where: Where,
    text: Column,
    label: Column | None,
    columns: Sequence[Column],
) -> Rows:
    at, items = [], []
    for number, item in objects:
        at.append(number)
        items.append(item)
    where = where._replace(at=np.array(at, np.int64))
    if label == "label" and not any(label in item for item in items):
        label = None

    def column(of: Column) -> list[Any]:
        for row, item in enumerate(items):
            if of not in item:
                raise ValueError(f"{where(row)}: no {of!r}; it has {', '.join(map(repr, item))}")
        return [item[of] for item in items]  # type: ignore[index]

    labels = None if label is None else _present(column(label), where)
    return Rows(_texts(column(text), where), labels, {_field(of): column(of) for of in columns}, where)


# --- Arrow ----------------------------------------------------------------------------------------------------------


def _arrow_table(raw: np.ndarray, path: str, ending: str) -> Any:
    try:
        import pyarrow as pa
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(f"reading {ending} files needs pyarrow: pip install 'dalipipe[tables]'") from error
    data = pa.BufferReader(raw)
    try:
        if ending in (".parquet", ".pq"):
            return pyarrow.parquet.read_table(data)
        if raw[:6].tobytes() == b"ARROW1":
            return pyarrow.ipc.open_file(data).read_all()
        return pyarrow.ipc.open_stream(data).read_all()  # as Hugging Face keeps them
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as a table: {error}") from error


def _of_arrow(source: Any, name: str, text: Column, label: Column | None, columns: Sequence[Column]) -> Rows:
    if not is_table(source) or not hasattr(source, "column_names"):
        raise TypeError(
            "Text.open: expected a path, a pyarrow.Table or a Hugging Face data set, got "
            f"{type(source).__name__}; lists of texts go to Text(texts, labels)"
        )
    kind = hugging_face(source)
    if kind is not None and kind != "Dataset":
        splits = f": give one of its splits, {', '.join(map(repr, source))}" if kind.endswith("DatasetDict") else ""
        raise ValueError(f"Text.open: expected one data set that is not streamed, got a {kind}{splits}")
    names = list(source.column_names)
    find = _finder(name, names)
    if label == "label" and label not in names:
        label = None
    count = len(source)
    where = Where(name, "row", np.arange(count))
    plain = source.with_format(None) if kind is not None else source

    def column(of: Column) -> list[Any]:
        values = plain[names[find(of)]]
        return values.to_pylist() if hasattr(values, "to_pylist") else list(values)

    labels = None if label is None else _present(column(label), where)
    classes = None
    if label is not None:
        classes = class_names(source, getattr(source, "schema", None), names[find(label)])
    return Rows(_texts(column(text), where), labels, {_field(of): column(of) for of in columns}, where, classes)


def _texts(values: list[Any], where: Where) -> list[str]:
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise ValueError(f"{where(row)}: expected a text, got {str(value)[:40]!r} ({type(value).__name__})")
    return values


def _present(values: list[Any], where: Where) -> list[Any]:
    for row, value in enumerate(values):
        if value is None or value != value:
            raise ValueError(f"{where(row)}: no label: give it one, or leave it out, or give label=None")
    return values


def _field(of: Column) -> str:
    return f"column_{of}" if isinstance(of, int) else field_name(of)
