"""The CUDA twins on a machine without a GPU: csrc/cuda compiled for the host (tests/cuda_on_cpu), with the signatures
of `dalipipe.native`.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dalipipe import native

ROOT = Path(__file__).resolve().parent.parent
DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32)
LAYOUTS = ("nchw", "nhwc")


class FusedImageParams(ctypes.Structure):
    """`FusedImageParams` of csrc/ops.h."""

    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("passes", "starts")],
        *[(name, ctypes.c_int32) for name in ("n", "channels", "out_h", "out_w")],
        ("tables", ctypes.c_void_p),
        ("table_count", ctypes.c_int32),
        ("weights", ctypes.c_void_p),
        ("weight_count", ctypes.c_int64),
        ("erases", ctypes.c_void_p),
        ("erase_count", ctypes.c_int32),
        ("scale", ctypes.c_float * 3),
        ("bias", ctypes.c_float * 3),
        ("dtype", ctypes.c_int32),
        ("layout", ctypes.c_int32),
        ("out", ctypes.c_void_p),
    ]


class Emulation:
    def __init__(self, library: Path) -> None:
        loaded = ctypes.CDLL(str(library))
        self._fused_image, self._elastic, self._launches = loaded.fused_image, loaded.elastic, loaded.launches
        for function in (self._fused_image, self._elastic):
            function.restype = ctypes.c_char_p

    def fused_image(
        self,
        passes: np.ndarray,
        starts: np.ndarray,
        out: torch.Tensor,
        *,
        channels: int,
        scale: Any,
        bias: Any,
        tables: np.ndarray | None = None,
        weights: np.ndarray | None = None,
        erases: np.ndarray | None = None,
        layout: str = "nchw",
    ) -> None:
        out_h, out_w = tuple(out.shape)[2:] if layout == "nchw" else tuple(out.shape)[1:3]
        arrays = [(None, 0) if a is None else (a.ctypes.data, len(a)) for a in (tables, weights, erases)]
        three = [(ctypes.c_float * 3)(*np.asarray(values, np.float32)) for values in (scale, bias)]
        params = FusedImageParams(
            passes.ctypes.data, starts.ctypes.data, len(starts) - 1, channels, out_h, out_w, *sum(arrays, ()), *three,
            DTYPES.index(out.dtype), LAYOUTS.index(layout), out.data_ptr(),
        )  # fmt: skip
        _raise(self._fused_image(ctypes.byref(params)))

    def elastic(self, fields: np.ndarray, out: torch.Tensor) -> None:
        _raise(self._elastic(ctypes.c_void_p(fields.ctypes.data), ctypes.c_int32(len(fields))))

    def launches(self) -> int:
        """How many kernels the last call started."""
        return int(self._launches())


class SignalParams(ctypes.Structure):
    """`SignalParams` of csrc/signal.h."""

    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("passes", "starts")],
        *[(name, ctypes.c_int32) for name in ("n", "channels")],
        *[
            field
            for name in ("curve", "segment", "channel_gain", "biquad", "window")
            for field in ((f"{name}s", ctypes.c_void_p), (f"{name}_count", ctypes.c_int32))
        ],
        ("outs", ctypes.c_void_p),
        ("dtype", ctypes.c_int32),
    ]


class SignalEmulation:
    def __init__(self, library: Path) -> None:
        loaded = ctypes.CDLL(str(library))
        self._signals, self._launches = loaded.signals, loaded.launches
        self._signals.restype = ctypes.c_char_p

    def signals(
        self,
        passes: np.ndarray,
        starts: np.ndarray,
        outs: np.ndarray,
        *,
        channels: int,
        dtype: torch.dtype,
        curves: np.ndarray,
        segments: np.ndarray,
        channel_gains: np.ndarray,
        biquads: np.ndarray,
        windows: np.ndarray,
    ) -> None:
        tables = (curves, segments, channel_gains, biquads, windows)
        params = SignalParams(
            passes.ctypes.data, starts.ctypes.data, len(starts) - 1, channels,
            *(value for table in tables for value in (table.ctypes.data, len(table))),
            outs.ctypes.data, DTYPES.index(dtype),
        )  # fmt: skip
        _raise(self._signals(ctypes.byref(params)))

    def launches(self) -> int:
        """How many kernels the last call started."""
        return int(self._launches())


class TokenParams(ctypes.Structure):
    """`TokenParams` of csrc/token.h."""

    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("passes", "starts")],
        ("n", ctypes.c_int32),
        *[(name, ctypes.c_void_p) for name in ("data", "lengths", "capacities", "places", "out")],
        ("out_count", ctypes.c_int64),
        ("out_lengths", ctypes.c_void_p),
        *[
            field
            for name in ("choices", "bags", "weights")
            for field in ((name, ctypes.c_void_p), (f"{name}_count", ctypes.c_int32))
        ],
    ]


class TokenRows(ctypes.Structure):
    """`TokenRows` of csrc/token.h, its `TokenChoices` field by field."""

    _fields_ = [
        ("tokens", ctypes.c_void_p),
        ("token_count", ctypes.c_int64),
        ("spans", ctypes.c_void_p),
        ("span_count", ctypes.c_int32),
        ("starts", ctypes.c_void_p),
        ("n", ctypes.c_int32),
        *[(name, ctypes.c_void_p) for name in ("piece_starts", "pieces")],
        *[(name, ctypes.c_int32) for name in ("words", "piece_count")],
        *[(name, ctypes.c_void_p) for name in ("prefix", "suffix")],
        *[(name, ctypes.c_int32) for name in ("prefix_count", "suffix_count", "most")],
    ]


class TokenTable(ctypes.Structure):
    """`TokenTable` of csrc/token.h."""

    _fields_ = [
        ("out", ctypes.c_void_p),
        ("row_step", ctypes.c_int64),
        ("columns", ctypes.c_int32),
        ("pad", ctypes.c_int64),
    ]


class TokenEmulation:
    """Everything is a tensor or an array, as `native` takes it."""

    def __init__(self, library: Path) -> None:
        loaded = ctypes.CDLL(str(library))
        self._edit, self._count, self._write = loaded.edit_tokens, loaded.count_rows, loaded.write_rows
        self._launches = loaded.launches
        for function in (self._edit, self._count, self._write):
            function.restype = ctypes.c_char_p

    def edit_tokens(self, *given: Any, choices: np.ndarray, bags: np.ndarray, weights: np.ndarray) -> None:
        passes, starts, data, lengths, capacities, places, out, out_lengths = given
        params = TokenParams(
            passes.ctypes.data, starts.ctypes.data, len(starts) - 1, data.ctypes.data, lengths.ctypes.data,
            capacities.ctypes.data, places.ctypes.data, out.data_ptr(), len(out), out_lengths.data_ptr(),
            *(value for table in (choices, bags, weights) for value in (table.ctypes.data, len(table))),
        )  # fmt: skip
        _raise(self._edit(ctypes.byref(params)))

    def count_rows(self, tokens: torch.Tensor, spans: torch.Tensor, starts: np.ndarray, **how: Any) -> torch.Tensor:
        lengths = torch.empty(len(starts) - 1, dtype=torch.int32)
        rows, _held = self._rows(tokens, spans, starts, **how)
        _raise(self._count(ctypes.byref(rows), ctypes.c_void_p(lengths.data_ptr())))
        return lengths

    def write_rows(
        self, tokens: torch.Tensor, spans: torch.Tensor, starts: np.ndarray, out: torch.Tensor, *, pad: int, **how: Any
    ) -> None:
        rows, _held = self._rows(tokens, spans, starts, **how)
        to = TokenTable(out.data_ptr(), out.stride(0), out.shape[1], pad)
        _raise(self._write(ctypes.byref(rows), ctypes.byref(to)))

    def _rows(
        self,
        tokens: torch.Tensor,
        spans: torch.Tensor,
        starts: np.ndarray,
        *,
        pieces: Any = None,
        prefix: Any = (),
        suffix: Any = (),
        most: int | None = None,
    ) -> tuple[TokenRows, Any]:
        around = [np.array(numbers, np.int32) for numbers in (prefix, suffix)]
        table = (0, 0, 0, 0)
        if pieces is not None:
            table = (*(part.data_ptr() for part in pieces), len(pieces[0]) - 1, len(pieces[1]))
        rows = TokenRows(
            tokens.data_ptr(), len(tokens), spans.data_ptr(), len(spans), starts.ctypes.data, len(starts) - 1, *table,
            *(part.ctypes.data for part in around), *map(len, around), 2**31 - 1 if most is None else most,
        )  # fmt: skip
        return rows, around

    def launches(self) -> int:
        """How many kernels the last call started."""
        return int(self._launches())


def _raise(message: bytes) -> None:
    if message:
        raise ValueError(message.decode())


class DecodeTilesParams(ctypes.Structure):
    """`DecodeTilesParams` of csrc/jpeg/stripped.h."""

    _fields_ = [*[(name, ctypes.c_void_p) for name in ("jpegs", "shapes", "regions", "out")], ("n", ctypes.c_int32)]


class HostQueue:
    """A `Queue` of dalipipe.queues whose device is the host."""

    on_cuda = False

    def __init__(self, library: Path) -> None:
        loaded = ctypes.CDLL(str(library))
        self._decode_tiles, self._upload_bytes = loaded.decode_tiles, loaded.upload_bytes
        self._launches = loaded.launches
        self._decode_tiles.restype, self._upload_bytes.restype = ctypes.c_char_p, ctypes.c_int64
        self._lock = threading.Lock()  # a kernel's threads know their block by what all calls share
        self.uploaded_bytes = 0
        self.scratch_bytes = 0  # 0: as much as is wanted

    def empty(self, nbytes: int) -> torch.Tensor:  # garbage, as on a device
        memory = torch.full((nbytes + 15,), 0x7F, dtype=torch.uint8)
        return memory[-memory.data_ptr() % 16 :][:nbytes]

    def pinned(self, nbytes: int) -> torch.Tensor:
        return self.empty(nbytes)

    def upload_bytes(self, n: int) -> int:
        return int(self._upload_bytes(ctypes.c_int32(n)))

    def decode_tiles(
        self,
        jpegs: np.ndarray,
        shapes: np.ndarray,
        regions: np.ndarray,
        out: np.ndarray | None,
        *,
        upload: torch.Tensor,
        pinned: torch.Tensor,
    ) -> None:
        native.decode_tiles_params(jpegs, shapes, regions, out)
        arrays = (jpegs, shapes, regions, out)
        params = DecodeTilesParams(*(a if a is None else a.ctypes.data for a in arrays), len(shapes))
        where = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (upload, pinned)]
        sizes = [ctypes.c_int64(size) for size in (upload.numel(), self.scratch_bytes)]
        with self._lock:
            _raise(self._decode_tiles(ctypes.byref(params), *where, *sizes))
        self.uploaded_bytes += upload.numel()

    def copy(self, pinned: torch.Tensor, address: int) -> None:
        ctypes.memmove(address, pinned.data_ptr(), pinned.numel())

    def mark(self) -> Any:
        return lambda: None

    def follow(self) -> None:
        pass

    def lend(self, memory: torch.Tensor) -> None:
        pass

    def upload(self, pictures: Any, threads: int) -> Any:
        raise AssertionError("what is on the host is where it should be")

    def launches(self) -> int:
        """How many kernels the last call started."""
        return int(self._launches())


def compile_for_host(folder: Path, name: str = "fused_image", *others: str) -> Path:
    """tests/cuda_on_cpu/``name``.cpp, and ``others`` of csrc, as a library, once a folder; or a skip where there is no
    compiler.
    """
    library = folder / f"{name}.so"
    if library.is_file():
        return library
    compiler = next(filter(shutil.which, (os.environ.get("CXX", "c++").split()[0], "g++", "clang++")), None)
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-shared"]
    include = [f"-I{ROOT / 'tests/cuda_on_cpu'}", f"-I{ROOT / 'csrc'}"]
    sources = [str(ROOT / f"tests/cuda_on_cpu/{name}.cpp"), *(str(ROOT / "csrc" / other) for other in others)]
    subprocess.run([compiler, *flags, *include, *sources, "-lpthread", "-o", str(library)], check=True, timeout=200)
    return library


def jpeg_queue(folder: Path) -> HostQueue:
    """csrc/cuda's JPEG decoder, compiled for the host into ``folder``."""
    others = [*(f"jpeg/{name}.cpp" for name in ("file", "huffman", "strip", "cut", "ones")), "cpu/pool.cpp"]
    return HostQueue(compile_for_host(folder, "jpeg", *others))


def decode_as_on_device(patch: pytest.MonkeyPatch, queue: HostQueue, make_other: Callable[[int], Any]) -> None:
    """Loaders on the host decode and keep pictures as they do on a CUDA device. ``make_other``, of the number of
    threads: the decoder for what are no JPEGs of tiles.
    """
    from dalipipe.cache import SampleCache
    from dalipipe.cache import device as device_memory
    from dalipipe.decoders.device import DeviceDecoder
    from dalipipe.decoders.pillow import PillowDecoder
    from dalipipe.tracks import decoding

    def make(name: str, device: torch.device, *, threads: int, **options: Any) -> Any:
        if name == "pillow":
            return PillowDecoder(threads=threads)
        return DeviceDecoder(queue, lambda: make_other(threads), threads=threads)

    patch.setattr(decoding, "make_decoder", make)
    patch.setattr(SampleCache, "_on_device", property(lambda cache: cache._settings.place == "device"))
    for module in (decoding, device_memory):
        patch.setattr(module, "queue_of", lambda device: queue)
