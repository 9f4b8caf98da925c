"""Samples that are in memory already, or memory-mapped: pictures, labels, and any other columns of numbers."""

from __future__ import annotations

import keyword
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dalipipe.records import Pictures, Records
from dalipipe.schema import Field, Schema
from dalipipe.sources.base import Source, digest, to_numpy
from dalipipe.sources.npy import Mapped, open_arrays
from dalipipe.storage import Storage

_IMAGES = ("images", "image", "x", "X", "data", "x_train", "arr_0")  # what members of .npz files are called
LABELS = ("labels", "label", "y", "Y", "targets", "target", "y_train", "arr_1")
_RESERVED = ("image", "label", "indices")
_PLURAL = {"label": "labels"}
_HASHED_WHOLE_BYTES = 1 << 26


class Arrays(Source):
    """Equal-sized pictures in one array, labels, and other numbers by name; or columns of numbers alone.

    ``images``: uint8 [N, H, W, C] with C 1 or 3, or [N, H, W] (grey); numpy, a memory map or a torch tensor. They are
    not copied. ``labels``: numbers [N] or [N, ...], or ``None``; whole numbers travel as int64. ``columns``: further
    fields, each numbers [N] or [N, ...], which keep their dtype. A batch unpacks as image, label, columns in order;
    what is not given is not there. Raises ``TypeError`` or ``ValueError`` naming what came and what to do about it.
    """

    in_memory = True
    may_have_tiles = False

    def __init__(
        self, images: Any = None, labels: Any = None, *, classes: Sequence[str] | None = None, **columns: Any
    ) -> None:
        if images is not None or (labels is None and not columns):
            images = _check_images(to_numpy("Arrays: images", images))
        self.images: np.ndarray | None = images
        self.columns: dict[str, np.ndarray] = {}
        self.labels: np.ndarray | None = None
        if labels is not None:
            labels = _check_numbers("labels", to_numpy("Arrays: labels", labels))
            self.labels = self.columns["label"] = labels.astype(np.int64) if labels.dtype.kind in "iu" else labels
        for name, column in columns.items():
            if name in _RESERVED or keyword.iskeyword(name) or name.startswith("_"):
                raise ValueError(f"Arrays: {name!r} cannot be a column's name: a batch has no such field; rename it")
            self.columns[name] = _check_numbers(f"column {name!r}", to_numpy(f"Arrays: column {name!r}", column))
        self._length = len(next(iter(self.columns.values())) if images is None else images)
        for name, column in self.columns.items():
            if len(column) != self._length:
                first = "images" if images is not None else next(iter(self.columns))
                raise ValueError(f"Arrays: {self._length} {first} but {len(column)} {_PLURAL.get(name, name)}")
        if not self._length:
            raise ValueError("Arrays: expected at least one record, got none")
        self.classes = None if classes is None else [str(name) for name in classes]
        fields = [] if images is None else [Field("image", "image", channels=images.shape[3])]
        self.schema = Schema((*fields, *(Field(name, "column") for name in self.columns)))

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        labels_path: str | os.PathLike[str] | None = None,
        *,
        images: str | None = None,
        labels: str | None = None,
        classes: Sequence[str] | None = None,
        storage: Storage | None = None,
        **columns: str,
    ) -> Arrays:
        """From files, memory-mapped: no more is read than what batches ask for.

        Either ``path`` is an ``.npy`` of pictures, ``labels_path`` one of labels, and ``columns`` are paths of further
        ones; or ``path`` is an ``.npz``, and ``images``, ``labels`` and ``columns`` name members of it. By default its
        pictures are ``images``, ``image``, ``x``, ``X``, ``data``, ``x_train`` or ``arr_0``, whichever it has, and its
        labels ``labels``, ``label``, ``y``, ``Y``, ``targets``, ``target``, ``y_train`` or ``arr_1``; without pictures
        the rest has to be named. Compressed members and remote files are loaded whole. A file must not shrink while it
        is mapped: the process would be killed by SIGBUS, as with any memory map.

        Raises:
            FileNotFoundError: no such file.
            TypeError, ValueError: a file or member that is not as it must be.
        """
        path, storage = os.fspath(path), storage or Storage()
        opened = open_arrays(path, storage)
        if isinstance(opened, dict):
            if labels_path is not None:
                raise ValueError(f"Arrays.open: {path} is an .npz: name the labels by labels=, a member of it")
            taken = {images, labels, *columns.values()}
            images = images or _first(_IMAGES, opened, taken)
            labels = labels or _first(LABELS, opened, taken)
            if images is None and not columns:
                raise ValueError(f"Arrays.open: {path} has {', '.join(opened)}; name its pictures by images=")
            return cls(
                _member(opened, path, images),
                _member(opened, path, labels),
                classes=classes,
                **{name: _member(opened, path, member) for name, member in columns.items()},
            )
        if images is not None or labels is not None:
            raise ValueError(f"Arrays.open: {path} is an .npy: it has no members; give labels_path=")
        return cls(
            opened,
            None if labels_path is None else _one_array(labels_path, storage),
            classes=classes,
            **{name: _one_array(column_path, storage) for name, column_path in columns.items()},
        )

    def __len__(self) -> int:
        return self._length

    def read(self, indices: np.ndarray, *, threads: int = 1, allocate: Any = None) -> Records:
        columns: dict[str, Any] = {}
        if self.images is not None:
            n, (h, w, channels) = len(indices), self.images.shape[1:]
            base, step, row_bytes = self.images.ctypes.data, self.images.strides[0], self.images.strides[1]
            columns["image"] = Pictures(  # by address: what is mapped is read from the disk by the engine's threads
                address=(base + indices.astype(np.int64) * step).astype(np.uint64),
                row_bytes=np.broadcast_to(np.int64(row_bytes), n),
                size_px=np.broadcast_to(np.array([h, w], np.int32), (n, 2)),
                origin_px=np.broadcast_to(np.int32(0), (n, 2)),
                channels=channels,
                owner=self.images,
            )
        for name, column in self.columns.items():
            rows = column[indices]  # which lets other threads run meanwhile
            columns[name] = rows.astype(rows.dtype.newbyteorder("="), copy=False)
        return Records(columns)

    def fingerprint(self) -> str:
        # All pixels of a large array would take seconds to hash; its shape, labels and a few pictures tell data sets
        # apart.
        parts = []
        if self.images is not None:
            parts += [repr(self.images.shape).encode(), _sample(self.images, 16)]
        for name, column in self.columns.items():
            whole = column.nbytes <= _HASHED_WHOLE_BYTES
            described = f"{name} {column.dtype.str} {column.shape}"
            parts += [described.encode(), column.tobytes() if whole else _sample(column, 4096)]
        return f"arrays-{len(self)}-{digest(parts)}"

    def __repr__(self) -> str:
        shape = "" if self.images is None else " of {}×{}×{}".format(*self.images.shape[1:])
        what = f"{len(self)} {'records' if self.images is None else 'pictures'}{shape}"
        more = [name for name in self.columns if name != "label"]
        return f"{type(self).__name__}({', '.join([what, *more])})"

    def __getstate__(self) -> dict[str, Any]:
        def packed(array: np.ndarray | None) -> Any:
            return array if array is None else Mapped.of(array) or array

        columns = {name: packed(column) for name, column in self.columns.items()}
        return {**self.__dict__, "images": packed(self.images), "columns": columns, "labels": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        def unpacked(array: Any) -> Any:
            return array.open() if isinstance(array, Mapped) else array

        columns = {name: unpacked(column) for name, column in state["columns"].items()}
        self.__dict__.update(state, images=unpacked(state["images"]), columns=columns, labels=columns.get("label"))


def _check_images(images: np.ndarray) -> np.ndarray:
    """[N, H, W, C] with dense pixels; rows and pictures may be strided."""
    if images.dtype != np.uint8:
        raise TypeError(
            f"Arrays: images must be uint8 (0..255), got {images.dtype}; "
            "convert with (images * 255).round().astype('uint8')"
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        hint = (
            "; move the channels to the end with images.transpose(0, 2, 3, 1)"
            if images.ndim == 4 and images.shape[1] in (1, 3)
            else ""
        )
        raise ValueError(
            f"Arrays: images must be [N, H, W, C] with C 1 or 3, or [N, H, W], got shape {images.shape}{hint}"
        )
    if 0 in images.shape:
        raise ValueError(f"Arrays: expected at least one picture of at least one pixel, got shape {images.shape}")
    if images.strides[3] != 1 or images.strides[2] != images.shape[3]:
        images = np.ascontiguousarray(images)
    return images


def _check_numbers(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "biufc" or array.dtype.itemsize > 8 * (1 + (array.dtype.kind == "c")):
        raise TypeError(f"Arrays: {name} must be numbers that torch has, got {array.dtype}")
    return array


def _sample(array: np.ndarray, count: int) -> bytes:
    """The bytes of records spread evenly over the array."""
    return array[np.linspace(0, len(array) - 1, min(len(array), count)).astype(np.int64)].tobytes()


def _first(names: Sequence[str], members: dict[str, Callable[[], np.ndarray]], taken: set[str | None]) -> str | None:
    return next((name for name in names if name in members and name not in taken), None)


def _member(members: dict[str, Callable[[], np.ndarray]], path: str, name: str | None) -> np.ndarray | None:
    if name is None:
        return None
    if name not in members:
        raise ValueError(f"Arrays.open: {path} has no member {name!r}; it has {', '.join(members)}")
    return members[name]()


def _one_array(path: str | os.PathLike[str], storage: Storage) -> np.ndarray:
    opened = open_arrays(os.fspath(path), storage)
    if isinstance(opened, dict):
        raise ValueError(f"Arrays.open: {os.fspath(path)} is an .npz, expected an .npy of one array")
    return opened
