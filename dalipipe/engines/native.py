"""The native engine: each pass is one call into the fused operator, on the host's cores or on a CUDA device."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from dalipipe import native
from dalipipe.buffers import BufferPool
from dalipipe.engines.base import Output, common_size
from dalipipe.passes.image import ImageParams
from dalipipe.plan import Draws, Plan
from dalipipe.records import Pictures


class NativeEngine:
    """An `Engine`. On the host its tensors' memory comes back to a pool when nobody refers to them any more."""

    def __init__(self, plan: Plan, output: Output, *, threads: int) -> None:
        output.check(plan)
        if output.device.type == "cuda" and not native.build_info()["cuda"]:
            raise RuntimeError(
                "dalipipe was built without CUDA: build it where an nvcc is found (DALIPIPE_CUDA unset), "
                'or give device="cpu"'
            )
        self._plan, self._output, self._threads = plan, output, threads
        self._buffers = BufferPool()

    def roi(self, draws: Draws, size: np.ndarray) -> np.ndarray:
        return draws.passes[0].roi

    def apply(self, pictures: Pictures, draws: Draws) -> torch.Tensor:
        out_h, out_w = common_size(draws)
        if self._output.device.type == "cuda" and not pictures.on_cuda:
            pictures = _upload(pictures, self._output.device)
        for params in draws.passes[:-1]:
            pictures = self._apply_to_pictures(pictures, params)
        n, channels, params = len(pictures), pictures.channels, draws.passes[-1]
        channels_last = self._output.memory_format == torch.channels_last
        shape = (n, out_h, out_w, channels) if channels_last else (n, channels, out_h, out_w)
        out = self._empty(shape, self._output.dtype)
        scale, bias = self._output.scale_bias(self._plan, channels)
        self._run(
            pictures,
            params,
            out,
            scale,
            bias,
            "nhwc" if channels_last else "nchw",
            normalised=self._plan.passes[-1].normalize is not None,
        )
        return out.permute(0, 3, 1, 2) if channels_last else out

    @property
    def buffers_bytes(self) -> int:
        return self._buffers.free_bytes

    def close(self) -> None:
        self._buffers.close()

    def _apply_to_pictures(self, pictures: Pictures, params: ImageParams) -> Pictures:
        """A pass before the last: uint8 pictures again, each of its own size."""
        sizes = params.out_size
        scale, bias = np.ones(pictures.channels, np.float32), np.zeros(pictures.channels, np.float32)
        nbytes = sizes.prod(axis=1) * pictures.channels
        starts = np.concatenate([[0], np.cumsum(nbytes)])
        arena = self._empty((int(starts[-1]),), torch.uint8)

        def run(rows: slice) -> None:
            h, w = (int(v) for v in sizes[rows.start])
            out = arena[starts[rows.start] : starts[rows.stop]].view(-1, h, w, pictures.channels)
            part, chosen = _take(pictures, params, rows)
            self._run(part, chosen, out, scale, bias, "nhwc", normalised=False, threads=threads)

        runs = _equal_runs(sizes)
        if len(runs) == 1 or pictures.on_cuda:
            threads = self._threads
            for rows in runs:
                run(rows)
        else:  # every size by itself, so the threads go over the sizes
            threads = 1
            with ThreadPoolExecutor(self._threads) as pool:
                list(pool.map(run, runs))
        base = arena.data_ptr()
        return Pictures(
            address=(base + starts[:-1]).astype(np.uint64),
            row_bytes=sizes[:, 1] * pictures.channels,
            size_px=sizes.astype(np.int32),
            origin_px=np.zeros_like(sizes, np.int32),
            channels=pictures.channels,
            owner=arena,
            on_cuda=pictures.on_cuda,
        )

    def _run(
        self,
        pictures: Pictures,
        params: ImageParams,
        out: torch.Tensor,
        scale: np.ndarray,
        bias: np.ndarray,
        layout: str,
        *,
        normalised: bool,
        threads: int | None = None,
    ) -> None:
        channels = pictures.channels
        samples = params.samples.copy()
        samples["data"], samples["row_bytes"] = pictures.address, pictures.row_bytes
        samples["stored_h"], samples["stored_w"] = pictures.size_px[:, 0], pictures.size_px[:, 1]
        origin = pictures.origin_px - params.box[:, :2]
        samples["origin_y"], samples["origin_x"] = origin[:, 0], origin[:, 1]
        values = params.erase_values[:, :, :channels]
        native.fused_image(
            samples,
            out,
            channels=channels,
            scale=scale,
            bias=bias,
            tables=_per_channel(params.tables, channels),
            erase_boxes=params.erase_boxes,
            erase_values=np.ascontiguousarray(values if normalised else values * scale + bias),
            threads=threads or self._threads,
            layout=layout,
        )

    def _empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        if self._output.device.type == "cuda":
            return torch.empty(shape, dtype=dtype, device=self._output.device)
        nbytes = int(np.prod(shape)) * dtype.itemsize
        return torch.from_numpy(self._buffers.take(nbytes)).view(dtype).view(shape)


def _per_channel(tables: np.ndarray | None, channels: int) -> np.ndarray | None:
    """uint8 [N, 256] → [N, C, 256]."""
    return None if tables is None else np.repeat(tables[:, None], channels, axis=1)


def _equal_runs(sizes: np.ndarray) -> list[slice]:
    """Consecutive rows of equal size."""
    edges = np.flatnonzero((sizes[1:] != sizes[:-1]).any(axis=1)) + 1
    bounds = [0, *edges.tolist(), len(sizes)]
    return [slice(a, b) for a, b in pairwise(bounds)]


def _take(pictures: Pictures, params: ImageParams, rows: slice) -> tuple[Pictures, ImageParams]:
    part = Pictures(
        pictures.address[rows],
        pictures.row_bytes[rows],
        pictures.size_px[rows],
        pictures.origin_px[rows],
        pictures.channels,
        pictures.owner,
        pictures.on_cuda,
    )
    chosen = ImageParams(
        params.samples[rows],
        params.box[rows],
        params.roi[rows],
        params.out_size[rows],
        None if params.tables is None else params.tables[rows],
        params.erase_boxes[rows],
        params.erase_values[rows],
    )
    return part, chosen


def _upload(pictures: Pictures, device: torch.device) -> Pictures:
    """Host pictures → the same on the device, in one copy through pinned memory."""
    row_bytes = pictures.size_px[:, 1].astype(np.int64) * pictures.channels
    starts = np.concatenate([[0], np.cumsum(row_bytes * pictures.size_px[:, 0])])
    staged = torch.empty(int(starts[-1]), dtype=torch.uint8, pin_memory=True)
    host: Any = staged.numpy()
    for row in range(len(pictures)):
        picture = pictures[row]
        host[starts[row] : starts[row + 1]].reshape(picture.shape)[:] = picture
    uploaded = staged.to(device, non_blocking=True)
    return Pictures(
        address=(uploaded.data_ptr() + starts[:-1]).astype(np.uint64),
        row_bytes=row_bytes,
        size_px=pictures.size_px,
        origin_px=pictures.origin_px,
        channels=pictures.channels,
        owner=uploaded,
        on_cuda=True,
    )
