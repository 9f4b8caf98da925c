"""Pictures, label maps and pairs of them: the operators that work on batches."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dalipipe.native.core import _C, check_array, check_threads, three_of
from dalipipe.native.structs import ELASTIC_FIELD, ERASE_BOX, IMAGE_PASS, LABEL_MAP, MIX_PAIR

if TYPE_CHECKING:
    import torch

_OUT_DTYPES = {"torch.uint8": 0, "torch.float16": 1, "torch.bfloat16": 2, "torch.float32": 3}  # `DType` of csrc/ops.h


def fused_image(passes: np.ndarray, starts: np.ndarray, out: torch.Tensor, **options: Any) -> None:
    """`start_fused_image`, waited for."""
    start_fused_image(passes, starts, out, **options).wait()


class Running:
    """An operator at work on native threads, or queued on a CUDA stream; it keeps what it works on."""

    def __init__(self, running: Any) -> None:
        self._running = running

    def wait(self) -> None:
        """Returns when its output is whole, on the host or in the order of its stream. Raises what went wrong."""
        if self._running is not None:
            self._running.wait()


def start_fused_image(
    passes: np.ndarray,
    starts: np.ndarray,
    out: torch.Tensor,
    *,
    channels: int,
    scale: npt.ArrayLike,
    bias: npt.ArrayLike,
    tables: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    erases: np.ndarray | None = None,
    threads: int = 1,
    layout: str = "nchw",
    stream: int | None = None,
    keep: Any = None,
) -> Running:
    """Takes N ragged images through a pass or more each, into one batch, while the caller does something else.

    On the device that holds `out`; csrc/ops.h says what a pass does, and in which order. On CUDA the work is queued on
    the stream, and `passes["data"]` and `["displacement"]` are device addresses.

    Args:
        passes: `IMAGE_PASS` [P], sample after sample; stored pixels are uint8, HWC.
        starts: int32 [N+1]: sample i has passes starts[i] to starts[i+1]; at least one.
        out: contiguous; [N,C,H,W] for "nchw", [N,H,W,C] for "nhwc"; float32, float16, bfloat16 or uint8.
        channels: C; 1 or 3, the same for stored pixels and output.
        scale, bias: float32 [C]; out = scale * v + bias, v in 0..255. uint8 output needs 1 and 0.
        tables: uint8 [T,C,256], which passes name.
        weights: float32 [K], of the passes' filters.
        erases: `ERASE_BOX` [E], which passes name.
        threads: how many work at a time; on the CPU.
        layout: "nchw" or "nhwc".
        stream: a cudaStream_t; None: torch's current one. On CUDA.
        keep: what owns the memory that the passes point to; on the host it is held until they have run.

    Raises:
        ValueError: anything the operator cannot do, naming the sample, its pass and what came; on the host from
            ``wait``.

    Source: the resize equals torch's `interpolate(antialias=True)` of uint8, to the bit.
    """
    n = len(starts) - 1
    check_threads("fused_image", threads)
    check_array("starts", starts, np.int32, (n + 1,))
    check_array("passes", passes, IMAGE_PASS, (len(passes),))
    if n < 0 or starts[0] != 0 or starts[-1] != len(passes):
        raise ValueError(f"fused_image: starts must go from 0 to {len(passes)}, the passes, got {starts}")
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
    counts = [0 if array is None else len(array) for array in (tables, weights, erases)]
    params = _C.FusedImageParams(
        passes=passes.ctypes.data,
        starts=starts.ctypes.data,
        n=n,
        channels=channels,
        out_h=out_h,
        out_w=out_w,
        tables=check_array("tables", tables, np.uint8, (counts[0], channels, 256)),
        table_count=counts[0],
        weights=check_array("weights", weights, np.float32, (counts[1],)),
        weight_count=counts[1],
        erases=check_array("erases", erases, ERASE_BOX, (counts[2],)),
        erase_count=counts[2],
        scale=three_of("scale", scale, channels),
        bias=three_of("bias", bias, channels),
        dtype=dtype,
        layout=("nchw", "nhwc").index(layout),
        out=out.data_ptr(),
    )
    if out.device.type == "cpu":
        held = (passes, starts, out, tables, weights, erases, keep)
        return Running(_C.start_fused_image_cpu(params=params, threads=threads, held=held))
    if out.device.type != "cuda":
        raise ValueError(f"fused_image: out must be on the CPU or a CUDA device, got {out.device}")

    def launch(scratch: int, scratch_bytes: int, pinned: int, pinned_bytes: int, queue: int) -> None:
        _C.fused_image_cuda(
            params=params,
            scratch=scratch,
            scratch_bytes=scratch_bytes,
            pinned=pinned,
            pinned_bytes=pinned_bytes,
            stream=queue,
        )

    def sizes() -> tuple[int, int]:
        scratch_bytes = _C.fused_image_cuda_scratch_bytes(params=params)
        return scratch_bytes, _C.fused_image_cuda_upload_bytes(params=params)

    on_cuda("fused_image", out.device, stream, sizes, launch)
    return Running(None)


def elastic(fields: np.ndarray, out: torch.Tensor, *, threads: int = 1, stream: int | None = None) -> None:
    """Draws the displacements of N elastic warps, into memory of ``out``'s device.

    Args:
        fields: `ELASTIC_FIELD` [N]; csrc/ops.h says what each is. Their `out` lie within ``out``.
        out: the memory that holds what they write; says on which device.
        threads: how many work at a time; on the CPU.
        stream: a cudaStream_t; None: torch's current one. On CUDA.

    Raises:
        ValueError: naming the field and what came.
    """
    check_threads("elastic", threads)
    check_array("fields", fields, ELASTIC_FIELD, (len(fields),))
    given = {"fields": fields.ctypes.data, "n": len(fields)}
    if out.device.type == "cpu":
        _C.elastic_cpu(**given, threads=threads)
        return

    def launch(scratch: int, scratch_bytes: int, pinned: int, pinned_bytes: int, queue: int) -> None:
        _C.elastic_cuda(
            **given,
            scratch=scratch,
            scratch_bytes=scratch_bytes,
            pinned=pinned,
            pinned_bytes=pinned_bytes,
            stream=queue,
        )

    on_cuda("elastic", out.device, stream, lambda: _C.elastic_cuda_bytes(**given), launch)


def move_labels(
    maps: Sequence[np.ndarray],
    passes: np.ndarray,
    starts: np.ndarray,
    out: np.ndarray,
    *,
    ignore_index: int,
    table: np.ndarray | None = None,
    threads: int = 1,
) -> None:
    """Takes N label maps through the geometry of their pictures' passes, by nearest neighbours; on the CPU.

    Args:
        maps: N arrays [H, W], uint8 or int32, dense in the rows; whole ones, of their pictures' sizes.
        passes: `IMAGE_PASS` [P], sample after sample; each one's origin is minus its crop's corner in what comes in.
        starts: int32 [N+1]: sample i has passes starts[i] to starts[i+1]; at least one.
        out: [N, h, w], contiguous; uint8, int32 or int64. Must hold what the maps or the table have, and ignore_index.
        ignore_index: where geometry leaves the map.
        table: int32 [T ≥ 1]: label in the maps → label in the batch, the last entry for all others.
        threads: how many work at a time.

    Raises:
        ValueError: anything that cannot be done, naming the sample and what came.
    """
    n = len(maps)
    check_threads("move_labels", threads)
    check_array("starts", starts, np.int32, (n + 1,))
    check_array("passes", passes, IMAGE_PASS, (len(passes),))
    if starts[0] != 0 or starts[-1] != len(passes) or (np.diff(starts) < 1).any():
        raise ValueError(f"move_labels: starts must rise from 0 to {len(passes)}, the passes, got {starts}")
    if out.dtype not in (np.uint8, np.int32, np.int64) or out.ndim != 3 or len(out) != n or not out.flags.carray:
        raise ValueError(
            f"move_labels: out must be contiguous uint8, int32 or int64 [{n}, h, w], got {out.dtype} {out.shape}"
        )
    rows = np.zeros(n, LABEL_MAP)
    for i, labels in enumerate(maps):
        dense = labels.ndim == 2 and (labels.shape[1] == 1 or labels.strides[1] == labels.itemsize)
        if labels.dtype not in (np.uint8, np.int32) or not dense:
            raise ValueError(
                f"move_labels: map {i} must be uint8 or int32 [H, W], dense in its rows, got {labels.dtype} "
                f"{labels.shape}, strides {labels.strides}"
            )
        row_bytes = labels.strides[0] if len(labels) > 1 else labels.nbytes
        rows[i] = (labels.ctypes.data, row_bytes, *labels.shape, labels.itemsize, 0)
    entries = 0 if table is None else len(table)
    _C.move_labels(
        maps=rows.ctypes.data,
        passes=passes.ctypes.data,
        starts=starts.ctypes.data,
        n=n,
        out_h=out.shape[1],
        out_w=out.shape[2],
        table=check_array("table", table, np.int32, (entries,)),
        table_count=entries,
        ignore=ignore_index,
        out_bytes=out.itemsize,
        out=out.ctypes.data,
        threads=threads,
    )


def mix(
    batch: torch.Tensor, pairs: np.ndarray, *, threads: int = 1, layout: str = "nchw", stream: int | None = None
) -> None:
    """Mixes the samples of a batch with each other, pair by pair, in place. Its specification: `dalipipe.ops.mix.mix`.

    On the device that holds ``batch``; on CUDA the work is queued on the stream.

    Args:
        batch: contiguous; [N,C,H,W] for "nchw", [N,H,W,C] for "nhwc"; float32, float16, bfloat16 or uint8; finite.
        pairs: `MIX_PAIR` [P]; no sample stands in two of them. ``rows``: the two; ``weights``: of each one's own
            pixels, [0, 1], 1: they stay to the bit; ``boxes``: y, x, h, w inside the picture, where each shows its
            partner.
        threads: how many work at a time; on the CPU.
        layout: "nchw" or "nhwc".
        stream: a cudaStream_t; None: torch's current one. On CUDA.

    Raises:
        ValueError: naming the pair, what was expected and what came.
    """
    check_threads("mix", threads)
    if pairs.dtype != MIX_PAIR or pairs.ndim != 1 or not pairs.flags.c_contiguous:
        raise ValueError(f"mix: pairs must be contiguous MIX_PAIR [P], got {pairs.dtype} {pairs.shape}")
    if layout not in ("nchw", "nhwc"):
        raise ValueError(f'mix: layout must be "nchw" or "nhwc", got {layout!r}')
    dtype = _OUT_DTYPES.get(str(batch.dtype))
    if dtype is None:
        raise ValueError(f"mix: batch must be one of {', '.join(_OUT_DTYPES)}, got {batch.dtype}")
    if batch.ndim != 4 or not batch.is_contiguous():
        raise ValueError(f"mix: batch must be contiguous with 4 axes, got {tuple(batch.shape)}, {batch.stride()}")
    n, *sides = batch.shape
    channels, h, w = sides if layout == "nchw" else (sides[2], *sides[:2])
    params = _C.MixParams(
        pairs=pairs.ctypes.data,
        pair_count=len(pairs),
        n=n,
        channels=channels,
        h=h,
        w=w,
        dtype=dtype,
        layout=("nchw", "nhwc").index(layout),
        batch=batch.data_ptr(),
    )
    if batch.device.type == "cpu":
        _C.mix_cpu(params=params, threads=threads)
    elif batch.device.type == "cuda":
        if not _C.build_info()["cuda"]:
            raise ValueError("mix: batch is on a CUDA device, but dalipipe was built without CUDA")
        import torch

        device = batch.device
        queue = torch.cuda.current_stream(device) if stream is None else torch.cuda.ExternalStream(stream, device)
        with torch.cuda.stream(queue):
            _C.mix_cuda(params=params, stream=queue.cuda_stream)
    else:
        raise ValueError(f"mix: batch must be on the CPU or a CUDA device, got {batch.device}")


# Pinned memory that a stream may still be reading from, each with the event that says when no more.
_uploads: collections.deque[tuple[torch.cuda.Event, torch.Tensor]] = collections.deque()
_uploads_lock = threading.Lock()


def on_cuda(
    what: str,
    device: torch.device,
    stream: int | None,
    sizes: Callable[[], tuple[int, int]],
    launch: Callable[[int, int, int, int, int], None],
) -> None:
    """Calls launch(scratch, its bytes, pinned memory, its bytes, stream) with ``sizes()`` bytes of either."""
    if not _C.build_info()["cuda"]:
        raise ValueError(f"{what}: out is on a CUDA device, but dalipipe was built without CUDA")
    import torch

    with _uploads_lock:
        while _uploads and _uploads[0][0].query():
            _uploads.popleft()
    queue = torch.cuda.current_stream(device) if stream is None else torch.cuda.ExternalStream(stream, device)
    with torch.cuda.stream(queue):  # whose allocator keeps the scratch from others until the stream has passed
        scratch_bytes, pinned_bytes = sizes()
        scratch = torch.empty(scratch_bytes, dtype=torch.uint8, device=device)
        pinned = torch.empty(pinned_bytes, dtype=torch.uint8, pin_memory=True)
        try:
            launch(scratch.data_ptr(), scratch_bytes, pinned.data_ptr(), pinned_bytes, queue.cuda_stream)
        finally:  # an upload may have begun
            done = torch.cuda.Event()
            done.record(queue)
            _uploads.append((done, pinned))
