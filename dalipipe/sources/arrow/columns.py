"""Columns of Arrow tables, gathered row by row into what a source gives; no picture passes through a Python object.

A `Column` knows its field. It makes a view of each block of rows once, with the offsets and values as numpy arrays over
Arrow's own memory, and takes rows from the views of several blocks into one result.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.types as pat

from dalipipe.records import Encoded
from dalipipe.schema import Field, Kind
from dalipipe.storage import Storage

Errors = dict[int, Exception]
_COPIED_AT_ONCE_BYTES = 4 << 20  # fewer are not worth a thread


class Column(ABC):
    """``name``: the table's; ``field``: the batch's."""

    def __init__(self, name: str, field: Field) -> None:
        self.name, self.field = name, field

    @abstractmethod
    def view(self, array: pa.Array) -> Any:
        """What `take` needs of a block's values."""

    @abstractmethod
    def start(self, n: int) -> Any:
        """An empty result of ``n`` rows."""

    @abstractmethod
    def take(
        self, result: Any, view: Any, rows: np.ndarray, to: np.ndarray, errors: Errors, *, copy: bool = False
    ) -> None:
        """Rows int64 [n] of a block to places int64 [n] of the result. ``copy``: keep none of the block's memory."""

    def finish(self, result: Any, errors: Errors, storage: Storage, threads: int, allocate: Any) -> Any:
        return result

    def null(self) -> Exception:
        return ValueError(
            f"column {self.name!r} is null here; drop such rows, or leave the column out with columns=[...]"
        )


def make_column(name: str, field_name: str, wanted: Kind | None, type_: pa.DataType) -> Column:
    """``wanted``: "image" or "mask" for encoded pictures, else None. Raises ``TypeError`` where the type has none."""
    if wanted is not None:
        if not holds_files(type_):
            raise TypeError(
                f"Table: column {name!r} is {type_}, and pictures are encoded files: expected binary, a struct of "
                "bytes and path (Hugging Face's Image), or paths; name another column, or None for no picture"
            )
        return Files(name, Field(field_name, wanted, channels=1 if wanted == "mask" else 3))
    numbers = _number_type(type_)
    if numbers is None:
        return Objects(name, Field(field_name, "object"))
    return Numbers(name, Field(field_name, "column"), *numbers)


# Numbers ------------------------------------------------------------------------------------------------------------


class Numbers(Column):
    """Numbers and fixed-size lists of them: ``dtype`` [N, *shape]."""

    def __init__(self, name: str, field: Field, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        super().__init__(name, field)
        self.dtype, self.shape = dtype, shape

    def view(self, array: pa.Array) -> tuple[np.ndarray, np.ndarray | None]:
        return _numbers(array, self.shape)

    def start(self, n: int) -> np.ndarray:
        return np.zeros((n, *self.shape), self.dtype)

    def take(
        self, result: Any, view: Any, rows: np.ndarray, to: np.ndarray, errors: Errors, *, copy: bool = False
    ) -> None:
        values, valid = view
        if valid is not None:
            present = valid[rows]
            for place in to[~present].tolist():
                errors.setdefault(place, self.null())
            rows, to = rows[present], to[present]
        result[to] = values[rows]


def _number_type(type_: pa.DataType) -> tuple[np.dtype, tuple[int, ...]] | None:
    """Whole numbers alone are int64, as labels are everywhere; in arrays, where width matters, they stay."""
    if pat.is_dictionary(type_):
        return _number_type(type_.value_type)
    if pat.is_integer(type_) and not pat.is_uint64(type_):
        return np.dtype(np.int64), ()
    shape: tuple[int, ...] = ()
    while pat.is_fixed_size_list(type_):
        shape, type_ = (*shape, type_.list_size), type_.value_type
    if _tensor_shape(type_):
        shape, type_ = (*shape, *_tensor_shape(type_)), type_.storage_type
        while pat.is_list(type_) or pat.is_large_list(type_) or pat.is_fixed_size_list(type_):
            type_ = type_.value_type
    is_number = pat.is_integer(type_) or pat.is_floating(type_) or pat.is_boolean(type_)
    return (np.dtype(type_.to_pandas_dtype()), shape) if is_number else None


def _tensor_shape(type_: pa.DataType) -> tuple[int, ...]:
    """Of extension types with a fixed one, Arrow's tensors and Hugging Face's Array2D…5D; of all others ()."""
    if not isinstance(type_, pa.BaseExtensionType) or getattr(type_, "permutation", None) is not None:
        return ()
    shape = tuple(getattr(type_, "shape", ()))
    return shape if all(isinstance(size, int) for size in shape) else ()


def _numbers(array: pa.Array, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray | None]:
    """Values [n, *shape], in Arrow's memory where it has them so, and which of them are there (bool [n]; None: all)."""
    if pat.is_dictionary(array.type):
        array = array.dictionary_decode()
    if isinstance(array.type, pa.BaseExtensionType):
        flat = pat.is_fixed_size_list(array.storage.type)
        values, valid = _numbers(array.storage, (math.prod(shape),) if flat else shape)
        return values.reshape(len(array), *shape), valid
    n, valid = len(array), _valid(array)
    if pat.is_fixed_size_list(array.type):
        k = shape[0]
        values, inner = _numbers(array.values.slice(array.offset * k, n * k), shape[1:])
        return values.reshape(n, *shape), _both(
            valid, None if inner is None else np.logical_and.reduce(inner.reshape(n, k), axis=1)
        )
    if pat.is_list(array.type) or pat.is_large_list(array.type):  # of a fixed length, if an extension type is right
        k, offsets = shape[0], np.asarray(array.offsets)
        values, inner = _numbers(array.values, shape[1:])
        whole: np.ndarray = np.diff(offsets) == k
        picked = offsets[:-1][whole][:, None] + np.arange(k)
        result = np.zeros((n, *shape), values.dtype)
        result[whole] = values[picked]
        if inner is not None:
            whole[np.flatnonzero(whole)] = inner[picked].all(axis=1)
        return result, _both(valid, whole)
    if array.null_count:
        array = array.fill_null(False if pat.is_boolean(array.type) else 0)
    return array.to_numpy(zero_copy_only=False), valid


def _valid(array: pa.Array) -> np.ndarray | None:
    return array.is_valid().to_numpy(zero_copy_only=False) if array.null_count else None


def _both(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    return b if a is None else a if b is None else a & b


# Objects ------------------------------------------------------------------------------------------------------------


class Objects(Column):
    """Everything else, as the Python objects that Arrow makes of it; a null is None."""

    def view(self, array: pa.Array) -> pa.Array:
        array.validate(full=True)  # of a damaged file Arrow would follow offsets to anywhere
        return array

    def start(self, n: int) -> list[Any]:
        return [None] * n

    def take(
        self, result: Any, view: Any, rows: np.ndarray, to: np.ndarray, errors: Errors, *, copy: bool = False
    ) -> None:
        for place, value in zip(to.tolist(), view.take(pa.array(rows)).to_pylist(), strict=True):
            result[place] = value


# Encoded files ------------------------------------------------------------------------------------------------------


class _Files(NamedTuple):
    """Value i is data[begins[i] : ends[i]] where ``valid``, else the file at paths[i]."""

    begins: np.ndarray
    ends: np.ndarray
    data: np.ndarray
    valid: np.ndarray | None
    paths: pa.Array | None


class _Gathered(NamedTuple):
    pieces: list[np.ndarray]
    paths: dict[int, str]


class Files(Column):
    """Encoded pictures: their bytes, or, where those are null, their paths."""

    def view(self, array: pa.Array) -> _Files:
        encoded, paths = array, None
        if pat.is_struct(array.type):
            names = [field.name for field in array.type]
            children = dict(zip(names, array.flatten(), strict=True))  # a null struct's children are null here
            encoded, paths = children.get("bytes"), children.get("path")
        elif is_text(array.type):
            encoded, paths = None, array
        if paths is not None and pat.is_null(paths.type):
            paths = None
        if encoded is None or pat.is_null(encoded.type):
            nowhere = np.zeros(len(array), np.int64)
            return _Files(nowhere, nowhere, np.empty(0, np.uint8), nowhere.astype(bool), paths)
        return _Files(*_byte_ranges(encoded), _valid(encoded), paths)

    def start(self, n: int) -> _Gathered:
        return _Gathered([np.empty(0, np.uint8)] * n, {})

    def take(
        self, result: Any, view: Any, rows: np.ndarray, to: np.ndarray, errors: Errors, *, copy: bool = False
    ) -> None:
        if view.valid is not None:
            present = view.valid[rows]
            for row, place in zip(rows[~present].tolist(), to[~present].tolist(), strict=True):
                path = view.paths[row].as_py() if view.paths is not None else None
                if path:
                    result.paths[place] = path
                else:
                    errors.setdefault(place, self.null())
            rows, to = rows[present], to[present]
        begins, ends = view.begins[rows].tolist(), view.ends[rows].tolist()
        for place, begin, end in zip(to.tolist(), begins, ends, strict=True):
            piece = view.data[begin:end]
            result.pieces[place] = piece.copy() if copy else piece

    def finish(self, result: Any, errors: Errors, storage: Storage, threads: int, allocate: Any) -> Encoded:
        pieces, paths = result
        if paths:
            places = sorted(paths)
            arena, starts, failed = storage.read([paths[p] for p in places], threads=threads, allocate=allocate)
            for row, error in failed.items():
                errors.setdefault(places[row], error)
            if len(places) == len(pieces):
                return Encoded(arena, starts)
            for row, place in enumerate(places):
                pieces[place] = arena[starts[row] : starts[row + 1]]
        starts = np.zeros(len(pieces) + 1, np.int64)
        np.cumsum([len(piece) for piece in pieces], out=starts[1:])
        arena = np.empty(int(starts[-1]), np.uint8) if allocate is None else allocate(int(starts[-1]))
        _join(pieces, arena, starts, threads)
        return Encoded(arena, starts)


def _join(pieces: Sequence[np.ndarray], arena: np.ndarray, starts: np.ndarray, threads: int) -> None:
    """In several threads, for a memory map's pages may have to come from the disk first."""

    def copy(first: int, end: int) -> None:
        begins = starts[first : end + 1].tolist()
        for i in range(first, end):
            arena[begins[i - first] : begins[i - first + 1]] = pieces[i]

    parts = min(threads, len(pieces), int(starts[-1]) // _COPIED_AT_ONCE_BYTES)
    if parts < 2:
        return copy(0, len(pieces))
    cuts = [part * len(pieces) // parts for part in range(parts + 1)]
    with ThreadPoolExecutor(parts) as pool:
        list(pool.map(copy, cuts[:-1], cuts[1:]))


def holds_files(type_: pa.DataType) -> bool:
    """Whether `Files` can be of this type."""
    if not pat.is_struct(type_):
        return _is_bytes(type_) or is_text(type_)
    expected = {"bytes": _is_bytes, "path": is_text}
    return type_.num_fields > 0 and all(
        field.name in expected and (pat.is_null(field.type) or expected[field.name](field.type)) for field in type_
    )


def _is_bytes(type_: pa.DataType) -> bool:
    if pat.is_dictionary(type_):
        type_ = type_.value_type
    checks = (pat.is_binary, pat.is_large_binary, pat.is_fixed_size_binary, pat.is_binary_view)
    return any(check(type_) for check in checks)


def is_text(type_: pa.DataType) -> bool:
    """Whether pictures of this type would be paths."""
    if pat.is_dictionary(type_):
        type_ = type_.value_type
    return pat.is_string(type_) or pat.is_large_string(type_) or pat.is_string_view(type_)


def _byte_ranges(array: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Begins and ends int [n] in data uint8 [bytes]: Arrow's own memory."""
    if pat.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pat.is_binary_view(array.type):
        array = array.cast(pa.large_binary())
    n, first = len(array), array.offset
    if pat.is_fixed_size_binary(array.type):
        width = array.type.byte_width
        begins = (first + np.arange(n, dtype=np.int64)) * width
        return begins, begins + width, _bytes(array.buffers()[1])
    offset_type = np.dtype(np.int64 if pat.is_large_binary(array.type) else np.int32)
    _, offsets, data = array.buffers()
    starts = np.frombuffer(offsets, offset_type, n + 1, first * offset_type.itemsize)
    values = _bytes(data)
    if n and (starts[0] < 0 or starts[-1] > len(values) or (starts[1:] < starts[:-1]).any()):
        raise ValueError("its offsets are damaged")
    return starts[:-1], starts[1:], values


def _bytes(buffer: pa.Buffer | None) -> np.ndarray:
    return np.empty(0, np.uint8) if buffer is None else np.frombuffer(buffer, np.uint8)
