"""Time series in memory: from arrays, ``.ts`` files of the UCR and UEA archives, tables, ``.npy`` and ``.npz``."""

from __future__ import annotations

import keyword
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from dalipipe.records import Records, Signals
from dalipipe.schema import Field, Schema
from dalipipe.sources.arrays import LABELS
from dalipipe.sources.base import Source, digest, numbered_labels, to_numpy
from dalipipe.sources.npy import Mapped, open_arrays
from dalipipe.sources.ts import parse_ts
from dalipipe.storage import Storage

Missing = Literal["raise", "hold", "zero"]

_RESERVED = ("series", "length", "label", "indices")
_SERIES = ("series", "values", "x", "X", "data", "x_train", "arr_0")  # what members of .npz files are called
_TABLES = (".csv", ".tsv", ".parquet", ".pq")
_CHECKED_AT_ONCE = 1 << 20  # values
_HASHED_WHOLE_BYTES = 1 << 26
_REMEDY = 'fill the gap in, leave the record out, or read a file by Series.open(..., missing="hold") or "zero"'


class Series(Source):
    """Time series in memory, labels, and other numbers by name.

    Fields: ``series`` (float32 [T, C] each; batches hold them padded with zeros at the end), where lengths differ
    ``length`` (int64: frames of each without the padding), then ``label`` and the columns.

    Args:
        values: numbers [N, T, C], or [N, T] (one channel), numpy, a memory map or a torch tensor; or a list of N arrays
            [T_i, C] or [T_i]. Float32 arrays are not copied, lists and other numbers are, once.
        labels: whole numbers [N], names (numbered by ``classes``), other numbers [N] or [N, ...]; or None.
        lengths: whole numbers [N] in 1..T: of an array, how many frames of each record are no padding.
        classes: names by label; None: where labels are names, in sorted order.
        rate_hz: frames a second, where that is known.
        columns: further fields, each numbers [N] or [N, ...].

    Raises:
        TypeError: what is no array of numbers.
        ValueError: a shape or a length that is not as it must be; a value that is not finite, by its record.
    """

    in_memory = True

    def __init__(
        self,
        values: Any,
        labels: Any = None,
        *,
        lengths: Any = None,
        classes: Sequence[str] | None = None,
        rate_hz: float | None = None,
        **columns: Any,
    ) -> None:
        if rate_hz is not None and not (np.isfinite(rate_hz) and rate_hz > 0):
            raise ValueError(f"Series: rate_hz must be above 0 or None, got {rate_hz!r}")
        self._values, self._offset_bytes, self._frames = _laid_out(values, lengths)
        n = len(self._frames)
        _check_finite(self._values, self._frames)
        self.rate_hz = None if rate_hz is None else float(rate_hz)
        self.classes = None if classes is None else [str(name) for name in classes]
        self.columns: dict[str, np.ndarray] = {}
        if labels is not None:
            labels, self.classes = numbered_labels("Series", labels, self.classes)
            self.labels = self.columns["label"] = labels
        for name, column in columns.items():
            if name in _RESERVED or keyword.iskeyword(name) or name.startswith("_"):
                raise ValueError(f"Series: {name!r} cannot be a column's name: rename it")
            self.columns[name] = to_numpy(f"Series: column {name!r}", column)
        for name, column in self.columns.items():
            if not column.ndim or len(column) != n:
                raise ValueError(f"Series: {n} series but {len(column) if column.ndim else 'one'} of {name}")
            if column.dtype.kind not in "biuf":
                raise TypeError(f"Series: {name} must be numbers, got {column.dtype}")
        self._ragged = bool((self._frames != self._frames[0]).any())
        channels = self._values.shape[-1]
        field = Field("series", "series", channels=channels, rate_hz=self.rate_hz)
        first = [Field("series", "series", channels, self.rate_hz, "length"), Field("length", "column")]
        fields = first if self._ragged else [field]
        self.schema = Schema((*fields, *(Field(name, "column") for name in self.columns)))

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        labels_path: str | os.PathLike[str] | None = None,
        *,
        label: str | None = "label",
        columns: Sequence[str] | None = None,
        id: str | None = None,
        time: str | None = None,
        series: str | None = None,
        labels: str | None = None,
        missing: Missing = "raise",
        classes: Sequence[str] | None = None,
        rate_hz: float | None = None,
        storage: Storage | None = None,
    ) -> Series:
        """From a file, local or a URL: all of it is read, but ``.npy`` files of float32 are memory-mapped.

        - ``.ts``: as the UCR and UEA archives have them. Classes stand in the order of the ``@classLabel`` line.
        - ``.csv``, ``.tsv``, ``.parquet``: a row a series of one channel, its values in ``columns`` (None: all that are
          numbers, but ``label``), in their order. With ``id``: a row a frame, those of one id a series, in the order of
          ``time`` (None: as they stand), and ``columns`` are its channels. Needs pyarrow.
        - ``.npy``: an array of series, ``labels_path`` one of labels; ``.npz``: ``series`` and ``labels`` name members;
          None: what is called so, or ``x``, ``data``, ``y`` and the like.

        Args:
            label: of tables: the column of labels; "label" may be missing.
            missing: what to do with values that are missing: "raise"; "hold" the last one before it (at the beginning:
                the first one after it); "zero".
            classes, rate_hz: as for `Series`.
            storage: reads the file; None: local files, and stores by their default settings.

        Raises:
            FileNotFoundError: no such file.
            ImportError: a table, and pyarrow is not installed.
            ValueError: a file that is not as it must be, by line or row.
        """
        path, storage = os.fspath(path), storage or Storage()
        if missing not in ("raise", "hold", "zero"):
            raise ValueError(f'Series.open: missing must be "raise", "hold" or "zero", got {missing!r}')
        ending = os.path.splitext(path)[1].lower()
        if labels_path is not None and ending != ".npy":
            raise ValueError(f"Series.open: labels_path goes with an .npy file: the labels of {path} are in it")
        if ending == ".ts":
            parsed = parse_ts(_text(path, storage), path)
            where: Callable[[int], str] = lambda row: f"{path}, line {parsed.lines[row]}"  # noqa: E731
            values = _filled(parsed.series, missing, where)
            return cls(values, parsed.labels, classes=classes or parsed.classes, rate_hz=rate_hz)
        if ending in _TABLES:
            table = _table(path, ending, storage)
            label = label if label in table or label != "label" else None
            found, found_labels, where = _of_table(table, path, label, columns, id, time)
            return cls(_filled(found, missing, where), found_labels, classes=classes, rate_hz=rate_hz)
        if ending not in (".npy", ".npz"):
            raise ValueError(f"Series.open: expected .ts, {', '.join(_TABLES)}, .npy or .npz, got {path}")
        opened = open_arrays(path, storage)
        array: np.ndarray | list[np.ndarray]
        given: Any
        if isinstance(opened, dict):
            series = series or next((name for name in _SERIES if name in opened), None)
            labels = labels or next((name for name in LABELS if name in opened), None)
            for name in (series, labels):
                if name is not None and name not in opened:
                    raise ValueError(f"Series.open: {path} has no member {name!r}; it has {', '.join(opened)}")
            if series is None:
                raise ValueError(f"Series.open: {path} has {', '.join(opened)}; name its series by series=")
            array, given = opened[series](), None if labels is None else opened[labels]()
        else:
            array = opened
            given = None if labels_path is None else open_arrays(os.fspath(labels_path), storage)
        if missing != "raise":
            array = _filled(list(array), missing, lambda row: f"{path}, record {row}")
        return cls(array, given, classes=classes, rate_hz=rate_hz)

    def __len__(self) -> int:
        return len(self._frames)

    def read(self, indices: np.ndarray, *, threads: int = 1, allocate: Any = None) -> Records:
        n, frame_bytes, channel_bytes = len(indices), *self._values.strides[-2:]
        columns: dict[str, Any] = {
            "series": Signals(
                address=(self._values.ctypes.data + self._offset_bytes[indices]).astype(np.uint64),
                frames=self._frames[indices],
                frame_step=np.full(n, frame_bytes // 4, np.int64),
                channel_step=np.full(n, channel_bytes // 4, np.int64),
                channels=self._values.shape[-1],
                owner=self._values,
                rate_hz=None if self.rate_hz is None else np.full(n, self.rate_hz),
            )
        }
        if self._ragged:
            columns["length"] = np.zeros(n, np.int64)  # known once they are augmented
        for name, column in self.columns.items():
            columns[name] = column[indices]
        return Records(columns)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [N]: frames of every series: by what `BucketSampler` puts alike ones together."""
        return self._frames.astype(np.int64)

    def fingerprint(self) -> str:
        # All values of a large array would take seconds to hash; shapes, labels and a few records tell data sets apart.
        few = np.linspace(0, len(self) - 1, min(len(self), 64)).astype(np.int64)
        signals = self.read(few).columns["series"]
        assert isinstance(signals, Signals)
        parts = [repr(self._values.shape).encode(), self._frames.tobytes()]
        parts += [signals[row].tobytes() for row in range(len(few))]
        for name, column in self.columns.items():
            whole = column.nbytes <= _HASHED_WHOLE_BYTES
            parts += [f"{name} {column.dtype.str}".encode(), (column if whole else column[few]).tobytes()]
        return f"series-{len(self)}-{digest(parts)}"

    def __repr__(self) -> str:
        low, high = int(self._frames.min()), int(self._frames.max())
        frames = f"{low}–{high}" if self._ragged else f"{low}"
        classes = f", {len(self.classes)} classes" if self.classes else ""
        return f"Series({len(self)} series of {frames} × {self._values.shape[-1]}{classes})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_values": Mapped.of(self._values) or self._values, "labels": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        values = state["_values"]
        opened = values.open() if isinstance(values, Mapped) else values
        self.__dict__.update(state, _values=opened, labels=state["columns"].get("label"))


def _laid_out(values: Any, lengths: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """float32 [N, T, C] or, of a list, [sum of T_i, C]; int64 [N] bytes to each record; int32 [N] frames of each."""
    if isinstance(values, list | tuple) and len(values) and np.ndim(values[0]) > 0:
        return _joined(values, lengths)
    array = to_numpy("Series: values", values)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(
            "Series: values must be [N, T, C] or [N, T], or a list of arrays [T, C], with values in each, got shape "
            f"{array.shape}"
        )
    array = _floats("values", array)
    n, most = array.shape[:2]
    frames = np.full(n, most, np.int32)
    if lengths is not None:
        given = to_numpy("Series: lengths", lengths)
        if given.shape != (n,) or given.dtype.kind not in "iu" or given.min() < 1 or given.max() > most:
            raise ValueError(f"Series: lengths must be whole numbers in 1..{most} [{n}], one a series, got {lengths!r}")
        frames = given.astype(np.int32)
    return array, np.arange(n) * array.strides[0], frames


def _joined(values: Sequence[Any], lengths: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if lengths is not None:
        raise ValueError("Series: a list of arrays has its own lengths: leave lengths out, or give one array [N, T, C]")
    arrays: list[np.ndarray] = []
    for i, value in enumerate(values):
        array = to_numpy(f"Series: record {i}", value)
        array = array[:, None] if array.ndim == 1 else array
        if array.ndim != 2 or 0 in array.shape or (arrays and array.shape[1] != arrays[0].shape[1]):
            expected = f"[T, {arrays[0].shape[1]}], as record 0" if arrays else "[T, C] or [T]"
            raise ValueError(f"Series: record {i} must be {expected}, at least one value, got shape {array.shape}")
        arrays.append(_floats(f"record {i}", array))
    frames = np.array([len(array) for array in arrays], np.int32)
    joined = np.concatenate(arrays)
    first = np.cumsum(frames, dtype=np.int64) - frames
    return joined, first * joined.strides[0], frames


def _floats(name: str, array: np.ndarray) -> np.ndarray:
    """As float32 whose strides are whole elements."""
    if array.dtype.kind not in "biuf":
        raise TypeError(f"Series: {name} must be numbers, got {array.dtype}")
    with np.errstate(over="ignore"):  # found out below
        array = np.asarray(array, np.float32)
    return array if array.flags.aligned and not any(s % 4 for s in array.strides) else np.ascontiguousarray(array)


def _check_finite(values: np.ndarray, frames: np.ndarray) -> None:
    ends = np.cumsum(frames, dtype=np.int64)
    step = max(1, _CHECKED_AT_ONCE // max(1, values[0].size))
    for begin in range(0, len(values), step):
        some = ~np.isfinite(values[begin : begin + step])
        if values.ndim == 3:  # what lies behind a record's end is padding, and may be anything
            some &= (np.arange(values.shape[1]) < frames[begin : begin + step, None])[..., None]
        if not some.any():
            continue
        place = np.argwhere(some)[0]
        row = begin + int(place[0])
        if values.ndim == 3:
            record, frame = row, int(place[1])
        else:
            record = int(np.searchsorted(ends, row, side="right"))
            frame = row - int(ends[record] - frames[record])
        raise ValueError(
            f"Series: record {record} has no finite number at frame {frame}, channel {place[-1]}: {_REMEDY}"
        )


def _filled(series: Sequence[np.ndarray], missing: Missing, where: Callable[[int], str]) -> list[np.ndarray]:
    """Without gaps. Raises ``ValueError`` where there must be none, or nothing to hold."""
    filled = []
    for row, values in enumerate(series):
        gaps = np.isnan(values)
        if gaps.any():
            frame, channel = (int(i) for i in (*np.argwhere(gaps)[0], 0)[:2])
            if missing == "raise":
                raise ValueError(
                    f'{where(row)}: the value of frame {frame}, channel {channel} is missing: give missing="hold" (the '
                    'last one before it) or "zero", or fill it in'
                )
            if missing == "hold" and gaps.all(axis=0).any():
                raise ValueError(f'{where(row)}: a channel has no value at all: give missing="zero", or leave it out')
            values = np.where(gaps, 0, values) if missing == "zero" else _held(values, gaps)
        filled.append(values)
    return filled


def _held(values: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    """Gaps filled with the last value before them."""
    frame = np.arange(len(values)).reshape(-1, *[1] * (values.ndim - 1))
    last = np.maximum.accumulate(np.where(gaps, -1, frame), axis=0)
    source = np.where(last < 0, np.argmin(gaps, axis=0), last)  # before the first value: that one
    return np.take_along_axis(values, source, axis=0)


def _text(path: str, storage: Storage) -> str:
    arena, starts, errors = storage.read([path], threads=1)
    if errors:
        raise errors[0]
    return arena[: starts[1]].tobytes().decode("utf-8", "replace")


def _table(path: str, ending: str, storage: Storage) -> dict[str, np.ndarray]:
    """A file's columns: numbers as they are, not-a-number where one is missing; all else as objects."""
    try:
        import pyarrow as pa
        import pyarrow.csv
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(f"reading {ending} files needs pyarrow: pip install 'dalipipe[tables]'") from error
    arena, starts, errors = storage.read([path], threads=1)
    if errors:
        raise errors[0]
    data = pa.BufferReader(arena[: starts[1]])
    try:
        if ending in (".csv", ".tsv"):
            options = pyarrow.csv.ParseOptions(delimiter="\t" if ending == ".tsv" else ",")
            convert = pyarrow.csv.ConvertOptions(null_values=["", "?", "NaN", "nan", "NA"], strings_can_be_null=True)
            table = pyarrow.csv.read_csv(data, parse_options=options, convert_options=convert)
        else:
            table = pyarrow.parquet.read_table(data)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as a table: {error}") from error
    if not table.num_rows:
        raise ValueError(f"{path}: expected at least one row, got none")
    return {name: table.column(name).to_numpy() for name in table.column_names}


def _of_table(
    table: dict[str, np.ndarray],
    path: str,
    label: str | None,
    columns: Sequence[str] | None,
    id: str | None,
    time: str | None,
) -> tuple[list[np.ndarray], np.ndarray | None, Callable[[int], str]]:
    """Series, labels, and where one stands."""
    for name in (label, id, time, *(columns or ())):
        if name is not None and name not in table:
            raise ValueError(f"{path} has no column {name!r}; it has {', '.join(map(repr, table))}")
    if time is not None and id is None:
        raise ValueError("Series.open: time= orders the rows of a series: say by id= which ones are one")
    taken = (label, id, time)
    if columns is None:
        columns = [name for name, column in table.items() if name not in taken and column.dtype.kind in "iuf"]
    texts = [name for name in columns if table[name].dtype.kind not in "iufb"]
    if texts or not columns:
        what = f"column {texts[0]!r} holds no numbers" if texts else "it has no columns of numbers"
        raise ValueError(f"{path}: {what}: name those of the values by columns=")
    values = np.stack([np.asarray(table[name], np.float64) for name in columns], axis=1)
    labels = None if label is None else table[label]
    if labels is not None and any(value is None or value != value for value in labels.tolist()):
        row = next(i for i, value in enumerate(labels.tolist()) if value is None or value != value)
        raise ValueError(f"{path}, row {row}: no label: give it one, or leave it out")
    if id is None:
        return list(values), _plain(labels), lambda row: f"{path}, row {row}"
    ids, first, record = np.unique(table[id].astype(str), return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))  # records stand in the order in which their ids first come
    record = rank[record]
    order = np.lexsort((np.arange(len(record)) if time is None else table[time], record))
    cuts = np.flatnonzero(np.diff(record[order])) + 1
    names = ids[np.argsort(first)]
    if labels is not None:
        of_record = [np.unique(part) for part in np.split(labels[order], cuts)]
        for i, part in enumerate(of_record):
            if len(part) > 1:
                raise ValueError(f"{path}: {id}={names[i]} has labels {part[0]} and {part[1]}: one series, one label")
        labels = np.array([part[0] for part in of_record])
    return np.split(values[order], cuts), _plain(labels), lambda row: f"{path}, {id}={names[row]}"


def _plain(labels: np.ndarray | None) -> np.ndarray | None:
    return labels.astype(str) if labels is not None and labels.dtype == object else labels
