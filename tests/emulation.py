"""The CUDA twins on a machine without a GPU: csrc/cuda compiled for the host (tests/cuda_on_cpu), with the signatures
of `dalipipe.native`.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

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


def _raise(message: bytes) -> None:
    if message:
        raise ValueError(message.decode())


def compile_for_host(folder: Path) -> Emulation:
    """Or a skip where there is no compiler."""
    compiler = next(filter(shutil.which, (os.environ.get("CXX", "c++").split()[0], "g++", "clang++")), None)
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    library = folder / "fused_image.so"
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-shared"]
    include = [f"-I{ROOT / 'tests/cuda_on_cpu'}", f"-I{ROOT / 'csrc'}"]
    source = ROOT / "tests/cuda_on_cpu/fused_image.cpp"
    subprocess.run([compiler, *flags, *include, str(source), "-o", str(library)], check=True, timeout=200)
    return Emulation(library)
