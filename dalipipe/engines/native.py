"""The native engine: a batch is one call into the fused operator, on the host's cores or on a CUDA device."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from dalipipe import native
from dalipipe.buffers import BufferPool
from dalipipe.engines.base import Output, common_size
from dalipipe.engines.displacements import displacement_count, draw_displacements
from dalipipe.passes.params import ImageParams
from dalipipe.plan import Draws, Plan
from dalipipe.records import Pictures
from dalipipe.transfers import upload


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
        return draws.params.roi

    def start(self, pictures: Pictures, draws: Draws) -> Callable[[], torch.Tensor]:
        out_h, out_w = common_size(draws)
        if self._output.device.type == "cuda" and not pictures.on_cuda:
            pictures = upload(pictures, self._output.device, threads=self._threads)
        params: ImageParams = draws.params
        n, channels = len(pictures), pictures.channels
        channels_last = self._output.memory_format == torch.channels_last
        layout = "nhwc" if channels_last else "nchw"
        shape = (n, out_h, out_w, channels) if channels_last else (n, channels, out_h, out_w)
        out = self._empty(shape, self._output.dtype)
        scale, bias = self._output.scale_bias(self._plan, channels)
        passes, displacements = self._passes(pictures, params)
        running = native.start_fused_image(
            passes,
            params.starts,
            out,
            channels=channels,
            scale=scale,
            bias=bias,
            tables=np.repeat(params.tables[:, None], channels, axis=1),
            weights=params.weights,
            erases=params.erases if self._output.dtype == torch.uint8 else _scaled(params, scale, bias),
            threads=self._threads,
            layout=layout,
            keep=(pictures, displacements),
        )

        def finish() -> torch.Tensor:
            running.wait()
            if draws.mix is not None:
                native.mix(out, draws.mix.pairs, threads=self._threads, layout=layout)
            return out.permute(0, 3, 1, 2) if channels_last else out

        return finish

    @property
    def buffers_bytes(self) -> int:
        return self._buffers.free_bytes

    def close(self) -> None:
        self._buffers.close()

    def _passes(self, pictures: Pictures, params: ImageParams) -> tuple[np.ndarray, torch.Tensor | None]:
        """The passes, with the stored pixels and displacements filled in, and what holds the latter."""
        passes = params.passes
        first: Any = slice(None) if len(passes) == len(params) else params.starts[:-1]
        for name, value in (
            ("data", pictures.address),
            ("row_bytes", pictures.row_bytes),
            ("stored_h", pictures.size_px[:, 0]),
            ("stored_w", pictures.size_px[:, 1]),
        ):
            passes[name][first] = value
        origin = pictures.origin_px - params.box[first, :2]
        passes["origin_y"][first], passes["origin_x"][first] = origin[:, 0], origin[:, 1]
        if params.elastics is None:
            return passes, None
        memory = self._empty((displacement_count(params.elastics),), torch.float32)
        passes["displacement"][params.elastics.at] = draw_displacements(params.elastics, memory, threads=self._threads)
        return passes, memory

    def _empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        if self._output.device.type == "cuda":
            return torch.empty(shape, dtype=dtype, device=self._output.device)
        memory = self._buffers.take(math.prod(shape) * dtype.itemsize)
        return torch.frombuffer(memory, dtype=dtype).view(shape)


def _scaled(params: ImageParams, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """The erase boxes, those that count in 0..255 in the output's units."""
    if not params.scaled.any():
        return params.erases
    erases, c = params.erases.copy(), len(scale)
    rows: Any = slice(None) if params.scaled.all() else params.scaled
    for name, offset in (("values", bias), ("sigma", 0)):
        erases[name][rows, :c] = erases[name][rows, :c] * scale + offset
    return erases
