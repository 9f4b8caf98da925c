"""The reference engine: every operator by itself in plain numpy, one sample after the other. Slow, and the
specification.
"""

from __future__ import annotations

import numpy as np
import torch

from dalipipe.engines.base import Output, common_size
from dalipipe.ops.image import EraseOp, Normalize
from dalipipe.plan import Draws, Plan
from dalipipe.records import Pictures


class ReferenceEngine:
    """An `Engine` that rounds to uint8 after every operator, where the fused pass rounds once after its colour run."""

    def __init__(self, plan: Plan, output: Output) -> None:
        output.check(plan)
        self._plan, self._output = plan, output

    def roi(self, draws: Draws, size: np.ndarray) -> np.ndarray:
        return np.concatenate([np.zeros_like(size), size], axis=1)

    def apply(self, pictures: Pictures, draws: Draws) -> torch.Tensor:
        common_size(draws)
        if pictures.on_cuda:
            raise ValueError('engine="reference" works on the host: give device="cpu"')
        samples = [self._apply_one(row, pictures[row], draws) for row in range(len(pictures))]
        batch = torch.from_numpy(np.stack(samples).transpose(0, 3, 1, 2).copy()).to(self._output.dtype)
        return batch.contiguous(memory_format=self._output.memory_format).to(self._output.device)

    @property
    def buffers_bytes(self) -> int:
        return 0

    def close(self) -> None:
        pass

    def _apply_one(self, row: int, x: np.ndarray, draws: Draws) -> np.ndarray:
        scale, bias = self._output.scale_bias(self._plan, x.shape[2])
        at_the_end = [isinstance(drawn.op, EraseOp | Normalize) for drawn in draws.drawn]
        for position, drawn in enumerate(draws.drawn):
            if all(at_the_end[position:]):  # from here on values may be fractions: an erased box's, or normalised ones
                x = x.astype(np.float32)
            x = drawn.reference(row, x)
        return x if self._plan.passes[-1].normalize is not None else x.astype(np.float32) * scale + bias
