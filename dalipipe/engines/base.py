"""What an engine is, and what its output looks like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from dalipipe.plan import Draws, Plan
from dalipipe.records import Pictures

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.uint8)


@dataclass(frozen=True)
class Output:
    """The image tensor a loader gives: [N, C, H, W] on ``device``; or that of signals, float and contiguous; or that of
    texts, int64, whatever ``dtype`` says.

    ``dtype``: float32, float16 or bfloat16, holding what `Normalize` makes of the values, else value / 255; or uint8
    0..255. ``memory_format``: ``torch.contiguous_format`` or ``torch.channels_last``.
    """

    device: torch.device
    dtype: torch.dtype
    memory_format: torch.memory_format

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(map(str, DTYPES))}, got {self.dtype!r}")
        if self.memory_format not in (torch.contiguous_format, torch.channels_last):
            raise ValueError(
                f"memory_format must be torch.contiguous_format or torch.channels_last, got {self.memory_format!r}"
            )

    def scale_bias(self, plan: Plan, channels: int) -> tuple[np.ndarray, np.ndarray]:
        """float32 [channels] each: out = scale·value + bias, value in 0..255."""
        if plan.fold.normalize is not None:
            scale, bias = plan.fold.normalize.scale_bias
        else:
            scale = np.array([1.0 if self.dtype == torch.uint8 else 1 / 255], np.float32)
            bias = np.zeros(1, np.float32)
        return np.broadcast_to(scale, channels), np.broadcast_to(bias, channels)

    def check(self, plan: Plan) -> None:
        kind = None if plan.field is None else plan.field.kind
        if kind == "text" and self.dtype != torch.float32:
            raise ValueError(f"dtype={self.dtype} is not for text, which comes as int64: leave it out")
        if kind in ("audio", "series", "text"):
            if self.dtype == torch.uint8:
                raise ValueError(f"dtype=torch.uint8 cannot hold {kind}: give a float dtype")
            if self.memory_format != torch.contiguous_format:
                raise ValueError(f"memory_format={self.memory_format} is for pictures, not for {kind}: leave it out")
        if self.dtype == torch.uint8 and plan.fold is not None and plan.fold.normalize is not None:
            raise ValueError(
                f"dtype=torch.uint8 cannot hold what {plan.fold.normalize!r} makes: drop it or give a float dtype"
            )


class Engine(Protocol):
    """Applies a plan to batches."""

    def roi(self, draws: Draws, size: np.ndarray) -> np.ndarray:
        """int64 [N, 4]: the region of each picture (of ``size`` int64 [N, 2]) that `apply` wants decoded, as y, x, h,
        w.
        """
        ...

    def start(self, pictures: Pictures, draws: Draws) -> Callable[[], torch.Tensor]:
        """N decoded regions → [N, C, H, W] as `Output` says. What is returned gives that, and waits for it where it has
        to; on CUDA it is queued on the stream that is current here.

        Raises ``ValueError`` where the pictures end at different sizes and cannot be stacked.
        """
        ...

    @property
    def buffers_bytes(self) -> int:
        """Host memory kept to be used again."""
        ...

    def close(self) -> None:
        """Frees what the engine keeps; tensors it gave out stay valid."""
        ...


def common_size(draws: Draws) -> tuple[int, int]:
    """The height and width at which all pictures end, or a ``ValueError`` that names two that differ."""
    sizes = draws.params.out_size
    if not (sizes == sizes[0]).all():
        row = int(np.argmax((sizes != sizes[0]).any(axis=1)))
        raise ValueError(
            f"pictures of different sizes cannot be stacked: {tuple(sizes[0].tolist())} px (height, width) and "
            f"{tuple(sizes[row].tolist())} px in one batch; "
            "end the policy's geometry with RandomResizedCrop, Resize((h, w)) or a crop"
        )
    return int(sizes[0, 0]), int(sizes[0, 1])
