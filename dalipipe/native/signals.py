"""Signals: chains of passes over audio and other series."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dalipipe.native.core import _C, check_array, check_threads
from dalipipe.native.images import Running, on_cuda
from dalipipe.native.structs import (
    BIQUAD,
    CHANNEL_GAIN,
    CURVE,
    CURVE_SEGMENT,
    SIGNAL_OUT,
    SIGNAL_PASS,
    SIGNAL_WINDOW,
)

if TYPE_CHECKING:
    import torch

_OUT_DTYPES = {"float16": 1, "bfloat16": 2, "float32": 3}  # `DType` of csrc/ops.h


def signals(passes: np.ndarray, starts: np.ndarray, outs: np.ndarray, **options: Any) -> None:
    """`start_signals`, waited for."""
    _run(passes, starts, outs, wait=True, **options)


def start_signals(passes: np.ndarray, starts: np.ndarray, outs: np.ndarray, **options: Any) -> Running:
    """Takes N ragged signals through a pass or more each, while the caller does something else.

    csrc/signal.h says what a pass does, and in which order; `dalipipe.ops.signals` is the specification of one.

    Args:
        passes: `SIGNAL_PASS` [P], sample after sample.
        starts: int32 [N+1]: sample i has passes starts[i] to starts[i+1]; at least one.
        outs: `SIGNAL_OUT` [N]: where each sample's last pass writes. What they point to, as what the passes point to
            (`data`, `noise_data`), lies on ``device``.
        channels: C, of all that comes in and goes out.
        dtype: of what is written: torch.float32, torch.float16 or torch.bfloat16.
        curves: `CURVE` [K]. segments: `CURVE_SEGMENT` [S]. channel_gains: `CHANNEL_GAIN` [G]. biquads: `BIQUAD` [B].
            windows: `SIGNAL_WINDOW` [W]. What the passes name; None: they name none.
        threads: how many work at a time; on the CPU.
        device: a torch.device; None: the CPU. On CUDA the work is queued on the stream.
        stream: a cudaStream_t; None: torch's current one. On CUDA.
        keep: what owns the memory that passes and outs point to; on the host it is held until they have run.

    Raises:
        ValueError: anything that cannot be done, naming the sample, its pass and what came; on the host from ``wait``.
    """
    return _run(passes, starts, outs, wait=False, **options)


def _run(
    passes: np.ndarray,
    starts: np.ndarray,
    outs: np.ndarray,
    *,
    channels: int,
    dtype: torch.dtype,
    curves: np.ndarray | None = None,
    segments: np.ndarray | None = None,
    channel_gains: np.ndarray | None = None,
    biquads: np.ndarray | None = None,
    windows: np.ndarray | None = None,
    threads: int = 1,
    device: torch.device | None = None,
    stream: int | None = None,
    keep: Any = None,
    wait: bool,
) -> Running:
    n = len(starts) - 1
    check_threads("signals", threads)
    check_array("starts", starts, np.int32, (n + 1,), "signals")
    check_array("passes", passes, SIGNAL_PASS, (len(passes),), "signals")
    check_array("outs", outs, SIGNAL_OUT, (n,), "signals")
    if n < 0 or starts[0] != 0 or starts[-1] != len(passes):
        raise ValueError(f"signals: starts must go from 0 to {len(passes)}, the passes, got {starts}")
    number = _OUT_DTYPES.get(str(dtype).removeprefix("torch."))
    if number is None:
        raise ValueError(f"signals: dtype must be one of {', '.join(_OUT_DTYPES)}, got {dtype}")
    tables = {
        "curves": (curves, CURVE),
        "segments": (segments, CURVE_SEGMENT),
        "channel_gains": (channel_gains, CHANNEL_GAIN),
        "biquads": (biquads, BIQUAD),
        "windows": (windows, SIGNAL_WINDOW),
    }
    given = {}
    for name, (table, kind) in tables.items():
        count = given[f"{name[:-1]}_count"] = 0 if table is None else len(table)
        given[name] = check_array(name, table, kind, (count,), "signals")
    params = _C.SignalParams(
        passes=passes.ctypes.data,
        starts=starts.ctypes.data,
        n=n,
        channels=channels,
        outs=outs.ctypes.data,
        dtype=number,
        **given,
    )
    if device is None or device.type == "cpu":
        if wait:
            _C.signals_cpu(params=params, threads=threads)
            return Running(None)
        held = (passes, starts, outs, curves, segments, channel_gains, biquads, windows, keep)
        return Running(_C.start_signals_cpu(params=params, threads=threads, held=held))
    if device.type != "cuda":
        raise ValueError(f"signals: device must be the CPU or a CUDA device, got {device}")

    def launch(scratch: int, scratch_bytes: int, pinned: int, pinned_bytes: int, queue: int) -> None:
        _C.signals_cuda(
            params=params,
            scratch=scratch,
            scratch_bytes=scratch_bytes,
            pinned=pinned,
            pinned_bytes=pinned_bytes,
            stream=queue,
        )

    on_cuda("signals", device, stream, lambda: _C.signals_cuda_bytes(params=params), launch)
    return Running(None)


def finite_signals(
    address: np.ndarray,
    frames: np.ndarray,
    frame_step: np.ndarray,
    channel_step: np.ndarray,
    *,
    channels: int,
    threads: int = 1,
) -> np.ndarray:
    """uint8 [N]: 1, or 0 where a signal holds a NaN or an infinity.

    Args:
        address: uint64 [N]: of channel 0 of the first frame; float32, on the host.
        frames: int32 [N].
        frame_step, channel_step: int64 [N], elements.
        channels: C.
        threads: how many work at a time.
    """
    check_threads("finite_signals", threads)
    out = np.empty(len(address), np.uint8)
    _C.finite_signals(
        data=np.ascontiguousarray(address, np.uint64),
        frames=np.ascontiguousarray(frames, np.int32),
        frame_step=np.ascontiguousarray(frame_step, np.int64),
        channel_step=np.ascontiguousarray(channel_step, np.int64),
        channels=channels,
        threads=threads,
        out=out,
    )
    return out
