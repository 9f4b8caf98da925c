"""Pictures, signals and texts copied: within the host, to a CUDA device and back; streams for what is queued there."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import torch

from dalipipe import native
from dalipipe.records import Pictures, Signals, Tokens

_left: dict[torch.device, list[torch.cuda.Stream]] = {}


def stream_for(owner: Any, device: torch.device) -> torch.cuda.Stream:
    """A CUDA stream that is ``owner``'s alone while that lives, and then another's.

    What is freed on a stream torch keeps for that stream: if each lane and each epoch came with a new one, each would
    hold memory of its own.
    """
    left = _left.setdefault(device, [])
    try:
        stream = left.pop()
    except IndexError:
        stream = torch.cuda.Stream(device)
    weakref.finalize(owner, left.append, stream).atexit = False
    return stream


def copy_pictures(pictures: Pictures, address: np.ndarray, *, threads: int = 1) -> None:
    """Copies the pixels of N host pictures to host memory, addresses [N], where a picture's rows follow each other."""
    native.copy_blocks(
        pictures.address,
        address,
        rows=pictures.size_px[:, 0],
        row_bytes=pictures.size_px[:, 1].astype(np.int64) * pictures.channels,
        stride=pictures.row_bytes,
        threads=threads,
    )


def upload(pictures: Pictures, device: torch.device, *, threads: int = 1) -> Pictures:
    """Host pictures → the same on the device, in one copy through pinned memory, on the current stream."""
    nbytes = pictures.nbytes
    starts = np.cumsum(nbytes) - nbytes
    staged = torch.empty(int(nbytes.sum()), dtype=torch.uint8, pin_memory=True)
    copy_pictures(pictures, staged.data_ptr() + starts, threads=threads)
    uploaded = staged.to(device, non_blocking=True)
    address = (uploaded.data_ptr() + starts).astype(np.uint64)
    return Pictures.dense(address, pictures.size_px, pictures.origin_px, pictures.channels, uploaded, on_cuda=True)


def upload_signals(signals: Signals, device: torch.device, *, threads: int = 1) -> Signals:
    """Host signals → the same on the device, in one copy through pinned memory, on the current stream; strides may
    change.
    """
    frames, channels = signals.frames.astype(np.int64), signals.channels
    by_frame = (signals.frame_step == channels) & (signals.channel_step == 1)
    by_channel = (signals.frame_step == 1) & (signals.channel_step == frames)
    scattered = np.flatnonzero(~(by_frame | by_channel))
    by_channel &= ~by_frame
    nbytes = 4 * frames * channels
    starts = np.cumsum(nbytes) - nbytes
    staged = torch.empty(int(nbytes.sum()), dtype=torch.uint8, pin_memory=True)
    there = staged.data_ptr() + starts
    blocks = np.where(by_frame | by_channel, nbytes, 0)
    native.copy_blocks(signals.address, there, rows=np.ones_like(blocks), row_bytes=blocks, threads=threads)
    for row in scattered.tolist():
        part = staged.numpy()[starts[row] : starts[row] + nbytes[row]].view(np.float32)
        part.reshape(-1, channels)[:] = signals[row]
    uploaded = staged.to(device, non_blocking=True)
    return Signals(
        address=(uploaded.data_ptr() + starts).astype(np.uint64),
        frames=signals.frames,
        frame_step=np.where(by_channel, 1, channels),
        channel_step=np.where(by_channel, frames, 1),
        channels=channels,
        owner=uploaded,
        rate_hz=signals.rate_hz,
        on_cuda=True,
    )


def upload_tokens(tokens: Tokens, device: torch.device, *, threads: int = 1) -> Tokens:
    """Host texts → the same on the device, in one copy through pinned memory, on the current stream."""
    nbytes = 4 * tokens.lengths.astype(np.int64)
    starts = np.cumsum(nbytes) - nbytes
    staged = torch.empty(int(nbytes.sum()), dtype=torch.uint8, pin_memory=True)
    there = staged.data_ptr() + starts
    native.copy_blocks(tokens.address, there, rows=np.ones_like(nbytes), row_bytes=nbytes, threads=threads)
    uploaded = staged.to(device, non_blocking=True)
    return Tokens((uploaded.data_ptr() + starts).astype(np.uint64), tokens.lengths, uploaded, on_cuda=True)


def download(pictures: Pictures) -> Pictures:
    """A device's pictures → the same on the host."""
    nbytes = pictures.nbytes
    starts = np.cumsum(nbytes) - nbytes
    memory = np.empty(int(nbytes.sum()), np.uint8)
    host = torch.from_numpy(memory)
    for row, (start, size) in enumerate(zip(starts.tolist(), nbytes.tolist(), strict=True)):
        host[start : start + size] = as_tensor(pictures, row).reshape(-1).cpu()
    address = (memory.ctypes.data + starts).astype(np.uint64)
    return Pictures.dense(address, pictures.size_px, pictures.origin_px, pictures.channels, memory)


def as_tensor(pictures: Pictures, row: int) -> torch.Tensor:
    """One picture where it is, uint8 [H, W, C]."""
    if not pictures.on_cuda:
        return torch.from_numpy(np.array(pictures[row]))
    (h, w), c = pictures.size_px[row].tolist(), pictures.channels
    strides = (int(pictures.row_bytes[row]), c, 1)
    return on_cuda(int(pictures.address[row]), (h, w, c), pictures.owner, strides)


def on_cuda(address: int, shape: tuple[int, ...], owner: Any, strides: tuple[int, ...] | None = None) -> torch.Tensor:
    """A view of uint8 in the current device's memory, which ``owner`` keeps; ``strides``: ``None``: it is dense."""
    interface = {"data": (address, False), "shape": shape, "typestr": "|u1", "version": 3, "strides": strides}
    view = type("_View", (), {"__cuda_array_interface__": interface, "owner": owner})()
    return torch.as_tensor(view, device="cuda")
