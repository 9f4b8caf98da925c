"""Arrays in ``.npy`` and ``.npz`` files, memory-mapped where their bytes lie in the file as they are."""

from __future__ import annotations

import io
import lzma
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import IO, Any, NamedTuple

import numpy as np

from dalipipe.storage import Storage, is_remote


def open_arrays(path: str, storage: Storage) -> np.ndarray | dict[str, Callable[[], np.ndarray]]:
    """The array of an ``.npy`` file; of an ``.npz`` file, per member, a call that opens it.

    A local file is memory-mapped, but for the compressed members of an ``.npz``, which are loaded, as a remote file is.

    Raises:
        FileNotFoundError: no such file.
        ValueError: neither of the two formats, a truncated file, or one that holds Python objects.
    """
    if is_remote(path):
        arena, starts, errors = storage.read([path], threads=1)
        if errors:
            raise errors[0]
        start = arena[:4].tobytes()[: starts[1]]
        source: str | bytes = arena[: starts[1]].tobytes()
    else:
        source = path
        with _opened(path) as file:
            start = file.read(4)
    if start == b"\x93NUM":
        with _opened(source) as file:
            return _read_array(file, path, None if is_remote(path) else path)
    if start[:2] != b"PK":
        raise ValueError(f"{path} is no .npy or .npz file: it starts with {start!r}")
    try:
        with _opened(source) as file, zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError, EOFError) as error:
        raise ValueError(f"{path} is a damaged or truncated .npz file: {error}") from error
    return {
        info.filename.removesuffix(".npy"): lambda info=info: _member(source, path, info)  # type: ignore[misc]
        for info in infos
        if info.filename.endswith(".npy")
    }


def _opened(source: str | bytes) -> IO[bytes]:
    return io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")


def _member(source: str | bytes, path: str, info: zipfile.ZipInfo) -> np.ndarray:
    what = f"{path}, member {info.filename!r}"
    with _opened(source) as file:
        if isinstance(source, str) and info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1:
            file.seek(info.header_offset)
            local = file.read(30)  # the header before the bytes; its name and extra field have lengths of their own
            if len(local) < 30 or local[:4] != b"PK\x03\x04":
                raise ValueError(f"{what}: its header is damaged")
            file.seek(sum(struct.unpack("<HH", local[26:])), os.SEEK_CUR)
            return _read_array(file, what, path)
        try:
            with zipfile.ZipFile(file) as archive, archive.open(info) as member:
                return _read_array(member, what, None)
        except (
            zipfile.BadZipFile,
            NotImplementedError,
            RuntimeError,
            EOFError,
            zlib.error,
            lzma.LZMAError,
            OSError,
        ) as error:
            raise ValueError(f"{what} is damaged: {error}") from error


def _read_array(file: IO[bytes], what: str, mapped: str | None) -> np.ndarray:
    """The array whose ``.npy`` bytes begin here; ``mapped``: the file to map it from."""
    try:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version} of the format is for records with names, not for numbers")
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(file)
    except ValueError as error:
        raise ValueError(f"{what} is no readable .npy: {error}") from error
    if dtype.hasobject:
        raise ValueError(f"{what} holds Python objects, which are not unpickled: they could run anything; save numbers")
    if min(shape, default=0) < 0:
        raise ValueError(f"{what} is no readable .npy: its shape is {shape}")
    nbytes, order = math.prod(shape) * dtype.itemsize, "F" if fortran else "C"
    if mapped is not None:
        begin, there = file.tell(), os.path.getsize(mapped)
        if begin + nbytes > there:
            raise _truncated(what, shape, dtype, nbytes, there - begin)
        if nbytes:
            return np.memmap(mapped, dtype, "r", begin, shape, order)  # type: ignore[call-overload]
    data = file.read()
    if len(data) < nbytes:
        raise _truncated(what, shape, dtype, nbytes, len(data))
    return np.ndarray(shape, dtype, data, order=order)  # type: ignore[arg-type]


def _truncated(what: str, shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int, there: int) -> ValueError:
    return ValueError(f"{what} is truncated: {dtype} {shape} takes {nbytes} bytes, {there} are there; fetch it again")


class Mapped(NamedTuple):
    """Where in a file a memory-mapped array lies: what travels in place of its bytes when it is pickled."""

    path: str
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, array: np.ndarray) -> Mapped | None:
        """``None`` for an array that is not, or not only, what a file holds."""
        base: Any = array
        root = None
        while isinstance(base, np.ndarray):
            root = base if isinstance(base, np.memmap) else root
            base = base.base
        if root is None or root.filename is None or root.mode not in ("r", "r+"):
            return None
        start = array.ctypes.data - root.ctypes.data + root.offset
        return cls(os.path.abspath(root.filename), start, array.shape, array.strides, array.dtype)

    def open(self) -> np.ndarray:
        """Raises ``OSError`` or ``ValueError`` where the file is gone or has become too short."""
        bytes_of_file = np.memmap(self.path, np.uint8, "r")
        return np.ndarray(self.shape, self.dtype, bytes_of_file, self.start, self.strides)
