"""The native core, seen from Python: the only importer of `dalipipe._C`.

Arguments are checked here, by name; what arrives in C++ is pointers and sizes. Native code works without the GIL.
"""

from __future__ import annotations

import collections
import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

try:
    from dalipipe import _C
except ImportError as error:
    raise ImportError(
        f"dalipipe's native extension cannot be loaded ({error}); build it with `pip install .`, "
        "or in a checkout with `pip install --no-build-isolation -e .`"
    ) from error

if TYPE_CHECKING:
    import torch

#: One sample of a fused image pass; mirrors `ImageSample` in csrc/ops.h, where each field is explained.
IMAGE_SAMPLE = np.dtype(
    [
        ("data", np.uint64),
        ("row_bytes", np.int64),
        *[(name, np.int32) for name in ("stored_h", "stored_w", "origin_y", "origin_x", "crop_h", "crop_w")],
        *[(name, np.int32) for name in ("resized_h", "resized_w", "window_y", "window_x", "canvas_h", "canvas_w")],
        ("flip", np.int32),
        ("warp", np.int32),
        ("matrix", np.float32, 6),
        ("colour", np.int32),
        ("colour_matrix", np.float32, (3, 3)),
        ("colour_mean_matrix", np.float32, (3, 3)),
        ("colour_offset", np.float32, 3),
        ("table", np.int32),
        ("fill", np.uint8, 4),
    ]
)

#: What an image file's header says; mirrors `ImageHeader` in csrc/io.h. Sizes in px, before orientation; 0: not found.
IMAGE_HEADER = np.dtype(
    [(name, np.int32) for name in ("kind", "height", "width", "channels", "bits", "orientation")]
    + [("flags", np.uint32)]
)

#: `IMAGE_HEADER["kind"]` → name.
IMAGE_KINDS = ("unknown", "jpeg", "png", "webp", "bmp", "gif", "tiff", "pnm")

#: Name → bit of `IMAGE_HEADER["flags"]`; csrc/io.h says what each means.
IMAGE_FLAGS = {
    name: 1 << bit
    for bit, name in enumerate(
        "progressive truncated animated alpha palette cmyk adobe ycck rgb lossless arithmetic hierarchical".split()
    )
}

_OUT_DTYPES = {"torch.uint8": 0, "torch.float16": 1, "torch.bfloat16": 2, "torch.float32": 3}  # `DType` of csrc/ops.h

MAX_FILE_BYTES = 2**31 - 1  # what decoders take; a larger file among images is a mistake


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
    return dict(_C.struct_layouts())


def read_files(
    paths: Sequence[str | os.PathLike[str]],
    *,
    threads: int,
    offsets: npt.ArrayLike | None = None,
    lengths: npt.ArrayLike | None = None,
    allocate: Callable[[int], np.ndarray] | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> tuple[np.ndarray, np.ndarray, dict[int, OSError]]:
    """Reads N files, or byte ranges of files, in parallel into one arena.

    Args:
        paths: N paths; several ranges of one file share one descriptor.
        threads: how many read at a time, the caller's own included.
        offsets: int64 [N], bytes; None: from the start.
        lengths: int64 [N], bytes; None, or -1 for one of them: to the end of the file.
        allocate: called once with the number of bytes; returns a contiguous uint8 array of at least that size.
        max_file_bytes: a longer range fails with EFBIG.

    Returns:
        arena: uint8 [≥ starts[-1]], as `allocate` returned it.
        starts: int64 [N+1], bytes; range i is arena[starts[i]:starts[i + 1]], empty where it failed.
        errors: position → OSError (errno, filename) of every range that failed; the others are not touched by it.

    Raises:
        ValueError: threads below 1, sizes that do not match, an offset below 0 or a length below -1.
    """
    n = len(paths)
    _check_threads("read_files", threads)
    batch = _C.FileBatch(
        paths=[os.fsencode(path) for path in paths],
        offsets=_ranges("offsets", offsets, n, 0),
        lengths=_ranges("lengths", lengths, n, -1),
        max_bytes=max_file_bytes,
        threads=threads,
    )
    nbytes = batch.total_bytes
    arena = np.empty(nbytes, np.uint8) if allocate is None else allocate(nbytes)
    if arena.dtype != np.uint8 or arena.ndim != 1 or arena.size < nbytes or not arena.flags.carray:
        raise ValueError(
            f"read_files: allocate({nbytes}) must return a writable contiguous uint8 array of at least {nbytes} bytes, "
            f"got {arena.dtype} {arena.shape}"
        )
    batch.read(arena=arena, threads=threads)
    errors = {i: OSError(code, cause or os.strerror(code), os.fspath(paths[i])) for i, code, cause in batch.errors}
    return arena, batch.starts, errors


def probe_images(arena: np.ndarray, starts: np.ndarray, *, threads: int = 1) -> np.ndarray:
    """Reads the headers of N encoded images: size, channels, orientation, and what makes a file unusual.

    Nothing is decoded, and no bytes make it raise: what cannot be made out has kind 0, or zeros.

    Args:
        arena: uint8 [≥ starts[-1]], contiguous.
        starts: int64 [N+1]; image i is arena[starts[i]:starts[i + 1]].
        threads: how many work at a time.

    Returns:
        `IMAGE_HEADER` [N]; `kind` indexes `IMAGE_KINDS`, `flags` holds bits of `IMAGE_FLAGS`.

    Raises:
        ValueError: another dtype or shape, or starts that do not rise within the arena.
    """
    _check_threads("probe_images", threads)
    starts = np.ascontiguousarray(starts, np.int64)
    if starts.ndim != 1 or starts.size < 1:
        raise ValueError(f"probe_images: starts must be int64 [N+1], got shape {starts.shape}")
    if arena.dtype != np.uint8 or arena.ndim != 1 or not arena.flags.c_contiguous:
        raise ValueError(f"probe_images: arena must be contiguous uint8 [bytes], got {arena.dtype} {arena.shape}")
    out = np.zeros(starts.size - 1, IMAGE_HEADER)
    _C.probe_images(arena=arena, starts=starts, out=out.ctypes.data, threads=threads)
    return out


def fused_image(
    samples: np.ndarray,
    out: torch.Tensor,
    *,
    channels: int,
    scale: npt.ArrayLike,
    bias: npt.ArrayLike,
    tables: np.ndarray | None = None,
    erase_boxes: np.ndarray | None = None,
    erase_values: np.ndarray | None = None,
    threads: int = 1,
    layout: str = "nchw",
    stream: int | None = None,
) -> None:
    """Crops, resizes, windows, flips, warps, colours, normalises, erases and casts N ragged images into one batch.

    One pass over the pixels, on the device that holds `out`; csrc/ops.h says what each step does, and in which order.
    On CUDA the work is queued on the stream, and `samples["data"]` are device addresses.

    Args:
        samples: `IMAGE_SAMPLE` [N]; stored pixels are uint8, HWC.
        out: contiguous; [N,C,H,W] for "nchw", [N,H,W,C] for "nhwc"; float32, float16, bfloat16 or uint8.
        channels: C; 1 or 3, the same for stored pixels and output.
        scale, bias: float32 [C]; out = scale * v + bias, v in 0..255. uint8 output needs 1 and 0.
        tables: uint8 [N,C,256], for the samples that ask for one.
        erase_boxes: int32 [N,E,4] as y, x, h, w in output px; clipped to the output, h or w 0: none.
        erase_values: float32 [N,E,C] in output units.
        threads: how many work at a time; on the CPU.
        layout: "nchw" or "nhwc".
        stream: a cudaStream_t; None: torch's current one. On CUDA.

    Raises:
        ValueError: anything the operator cannot do, naming the sample and what came.

    Source: the resize equals torch's `interpolate(mode="bilinear", antialias=True)` of uint8, to the bit.
    """
    n = len(samples)
    _check_threads("fused_image", threads)
    _check_array("samples", samples, IMAGE_SAMPLE, (n,))
    if layout not in ("nchw", "nhwc"):
        raise ValueError(f'fused_image: layout must be "nchw" or "nhwc", got {layout!r}')
    dtype = _OUT_DTYPES.get(str(out.dtype))
    if dtype is None:
        raise ValueError(f"fused_image: out must be one of {', '.join(_OUT_DTYPES)}, got {out.dtype}")
    if out.ndim != 4 or not out.is_contiguous():
        raise ValueError(f"fused_image: out must be contiguous with 4 axes, got {tuple(out.shape)}, {out.stride()}")
    out_h, out_w = tuple(out.shape)[2:] if layout == "nchw" else tuple(out.shape)[1:3]
    expected = (n, channels, out_h, out_w) if layout == "nchw" else (n, out_h, out_w, channels)
    if tuple(out.shape) != expected:
        raise ValueError(f"fused_image: out must be {layout} {expected}, got {tuple(out.shape)}")
    erases = 0 if erase_boxes is None else erase_boxes.shape[1] if erase_boxes.ndim == 3 else -1
    if (erase_boxes is None) != (erase_values is None):
        raise ValueError("fused_image: erase_boxes and erase_values come together")
    params = _C.FusedImageParams(
        samples=samples.ctypes.data,
        n=n,
        channels=channels,
        out_h=out_h,
        out_w=out_w,
        tables=_check_array("tables", tables, np.uint8, (n, channels, 256)),
        erases=erases,
        erase_boxes=_check_array("erase_boxes", erase_boxes, np.int32, (n, erases, 4)),
        erase_values=_check_array("erase_values", erase_values, np.float32, (n, erases, channels)),
        scale=_three("scale", scale, channels),
        bias=_three("bias", bias, channels),
        dtype=dtype,
        layout=("nchw", "nhwc").index(layout),
        out=out.data_ptr(),
    )
    if out.device.type == "cpu":
        _C.fused_image_cpu(params=params, threads=threads)
    elif out.device.type == "cuda":
        _fused_image_cuda(params, out.device, stream)
    else:
        raise ValueError(f"fused_image: out must be on the CPU or a CUDA device, got {out.device}")


# Pinned memory that a stream may still be reading from, each with the event that says when no more.
_uploads: collections.deque[tuple[torch.cuda.Event, torch.Tensor]] = collections.deque()
_uploads_lock = threading.Lock()


def _fused_image_cuda(params: Any, device: torch.device, stream: int | None) -> None:
    if not _C.build_info()["cuda"]:
        raise ValueError("fused_image: out is on a CUDA device, but dalipipe was built without CUDA")
    import torch

    with _uploads_lock:
        while _uploads and _uploads[0][0].query():
            _uploads.popleft()
    queue = torch.cuda.current_stream(device) if stream is None else torch.cuda.ExternalStream(stream, device)
    with torch.cuda.stream(queue):  # whose allocator keeps the scratch from others until the stream has passed
        scratch_bytes = _C.fused_image_cuda_scratch_bytes(params=params)
        scratch = torch.empty(scratch_bytes, dtype=torch.uint8, device=device)
        pinned = torch.empty(_C.fused_image_cuda_upload_bytes(params=params), dtype=torch.uint8, pin_memory=True)
        _C.fused_image_cuda(
            params=params,
            scratch=scratch.data_ptr(),
            scratch_bytes=scratch_bytes,
            pinned=pinned.data_ptr(),
            pinned_bytes=pinned.numel(),
            stream=queue.cuda_stream,
        )
        done = torch.cuda.Event()
        done.record(queue)
    _uploads.append((done, pinned))


def philox(counters: npt.ArrayLike, key: npt.ArrayLike) -> np.ndarray:
    """Philox4x32-10 of csrc/philox.h: uint32 [N,4] counters and a uint32 [2] key → uint32 [N,4]."""
    counters, key = np.ascontiguousarray(counters, np.uint32), np.asarray(key, np.uint32)
    if counters.ndim != 2 or counters.shape[1] != 4 or key.shape != (2,):
        raise ValueError(f"philox: expected counters [N,4] and a key [2], got {counters.shape} and {key.shape}")
    out = np.empty_like(counters)
    _C.philox(counters=counters, key0=int(key[0]), key1=int(key[1]), out=out)
    return out


def _check_threads(what: str, threads: int) -> None:
    if threads < 1:
        raise ValueError(f"{what}: threads must be at least 1, got {threads}")


def _check_array(name: str, array: np.ndarray | None, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> int:
    """The address of an array that is as it must be; 0 for None."""
    if array is None:
        return 0
    if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
        what = "IMAGE_SAMPLE" if name == "samples" else np.dtype(dtype).name
        raise ValueError(
            f"fused_image: {name} must be contiguous {what} {shape}, got {array.dtype} {array.shape}"
            + ("" if array.flags.c_contiguous else " with strides")
        )
    return int(array.ctypes.data)


def _three(name: str, values: npt.ArrayLike, channels: int) -> list[float]:
    array = np.asarray(values, np.float32)
    if array.shape != (channels,):
        raise ValueError(f"fused_image: {name} must be float32 [{channels}], one a channel, got shape {array.shape}")
    return [*array.tolist(), 0.0, 0.0][:3]


def _ranges(name: str, values: npt.ArrayLike | None, n: int, default: int) -> list[int]:
    if values is None:
        return [default] * n
    array = np.asarray(values, np.int64)
    if array.shape != (n,):
        raise ValueError(f"read_files: {name} must be int64 [{n}], one a path, got shape {array.shape}")
    if n and array.min() < min(default, 0):
        raise ValueError(f"read_files: {name} must be at least {default}, got {array.min()} at {array.argmin()}")
    return array.tolist()
