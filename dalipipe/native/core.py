"""The extension itself, what it was built with, and how its arguments are checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

try:
    from dalipipe import _C
except ImportError as error:
    raise ImportError(
        f"dalipipe's native extension cannot be loaded ({error}); build it with `pip install .`, "
        "or in a checkout with `pip install --no-build-isolation -e .`"
    ) from error

# What a message calls the structs.
_STRUCTS = {"passes": "IMAGE_PASS", "erases": "ERASE_BOX", "fields": "ELASTIC_FIELD", "shapes": "JPEG_SHAPE"}
_TOKEN_STRUCTS = {
    "passes": "TOKEN_PASS",
    "choices": "TOKEN_CHOICES",
    "bags": "TOKEN_BAG",
    "weights": "TOKEN_WEIGHTS",
}
_SIGNAL_STRUCTS = {
    "passes": "SIGNAL_PASS",
    "outs": "SIGNAL_OUT",
    "curves": "CURVE",
    "segments": "CURVE_SEGMENT",
    "channel_gains": "CHANNEL_GAIN",
    "biquads": "BIQUAD",
    "windows": "SIGNAL_WINDOW",
}


def build_info() -> dict[str, Any]:
    """What the extension was built with: `cuda` (bool), `cuda_archs` ("80,86"), `cuda_version` ("13.0"), `compiler`.

    And what its CPU operators run on here, `cpu`: "scalar", "avx2" or "avx512".
    """
    return {**_C.build_info(), "cpu": _C.cpu_target()}


def cpu_target(name: str | None = None) -> str:
    """Makes the CPU operators use an instruction set, "scalar", "avx2" or "avx512"; None: the best there is.

    All give the same bits; tests and benchmarks compare them. Returns the name of the set now in use.

    Raises:
        ValueError: an unknown name, or a set that this machine lacks.
    """
    _C.set_cpu_target(name=name)
    return str(_C.cpu_target())


def struct_layouts() -> dict[str, dict[str, int]]:
    """Per C++ struct mirrored here: its size under "", and every field's offset; bytes."""
    return dict(_C.struct_layouts)


def check_threads(what: str, threads: int) -> None:
    if threads < 1:
        raise ValueError(f"{what}: threads must be at least 1, got {threads}")


def check_files(what: str, arena: np.ndarray, starts: np.ndarray, threads: int) -> np.ndarray:
    """The starts of N files in an arena, int64 [N+1]. Raises ``ValueError`` where either is not as it must be."""
    check_threads(what, threads)
    starts = np.ascontiguousarray(starts, np.int64)
    if starts.ndim != 1 or starts.size < 1:
        raise ValueError(f"{what}: starts must be int64 [N+1], got shape {starts.shape}")
    if arena.dtype != np.uint8 or arena.ndim != 1 or not arena.flags.c_contiguous:
        raise ValueError(f"{what}: arena must be contiguous uint8 [bytes], got {arena.dtype} {arena.shape}")
    return starts


def check_array(
    name: str, array: np.ndarray | None, dtype: npt.DTypeLike, shape: tuple[int, ...], what: str = "fused_image"
) -> int:
    """The address of an array that is as it must be; 0 for None."""
    if array is None:
        return 0
    if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
        structs = {"signals": _SIGNAL_STRUCTS, "edit_tokens": _TOKEN_STRUCTS}.get(what, _STRUCTS)
        kind = structs.get(name) or np.dtype(dtype).name
        raise ValueError(
            f"{what}: {name} must be contiguous {kind} {shape}, got {array.dtype} {array.shape}"
            + ("" if array.flags.c_contiguous else " with strides")
        )
    return int(array.ctypes.data)


def three_of(name: str, values: npt.ArrayLike, channels: int) -> list[float]:
    array = np.asarray(values, np.float32)
    if array.shape != (channels,):
        raise ValueError(f"fused_image: {name} must be float32 [{channels}], one a channel, got shape {array.shape}")
    return [*array.tolist(), 0.0, 0.0][:3]
