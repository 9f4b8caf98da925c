"""The reference engine: every operator by itself in plain numpy, one sample after the other. Slow, and the
specification.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from dalipipe.engines.base import Output, common_size
from dalipipe.ops import pixels
from dalipipe.ops.image import Normalize
from dalipipe.ops.image.families import BlendOp, EraseOp
from dalipipe.ops.mix import mix
from dalipipe.plan import Draws, Plan
from dalipipe.records import Pictures


class ReferenceEngine:
    """An `Engine` that truncates to uint8 after every colour operator, where the fused pass does so once a run."""

    def __init__(self, plan: Plan, output: Output) -> None:
        output.check(plan)
        self._plan, self._output = plan, output

    def roi(self, draws: Draws, size: np.ndarray) -> np.ndarray:
        return np.concatenate([np.zeros_like(size), size], axis=1)

    def start(self, pictures: Pictures, draws: Draws) -> Callable[[], torch.Tensor]:
        common_size(draws)
        if pictures.on_cuda:
            raise ValueError('engine="reference" works on the host: give device="cpu"')
        samples = np.stack([self._apply_one(row, pictures[row], draws) for row in range(len(pictures))])
        batch = torch.from_numpy(samples.transpose(0, 3, 1, 2).copy()).to(self._output.dtype)
        if draws.mix is not None:
            values = (batch.float() if batch.dtype == torch.bfloat16 else batch).numpy()
            mixed = mix(values, draws.mix.partner, draws.mix.weight, draws.mix.box)
            batch = torch.from_numpy(mixed).to(self._output.dtype)
        finished = batch.contiguous(memory_format=self._output.memory_format).to(self._output.device)
        return lambda: finished

    @property
    def buffers_bytes(self) -> int:
        return 0

    def close(self) -> None:
        pass

    def _apply_one(self, row: int, x: np.ndarray, draws: Draws) -> np.ndarray:
        scale, bias = self._output.scale_bias(self._plan, x.shape[2])
        ops = [drawn.op for drawn in draws.drawn]
        at_the_end = [isinstance(op, EraseOp | Normalize) or op.modality == "mix" for op in ops]
        kept, normalised = x, False
        chains: list[np.ndarray] = []
        weights: list[float] = []
        for position, drawn in enumerate(draws.drawn):
            op, params = drawn.op, drawn.at(row)
            if params is None or op.modality == "mix":
                continue
            if (
                all(at_the_end[position:]) and self._output.dtype != torch.uint8
            ):  # from here on values may be fractions: an erased box's, or normalised ones
                x = x.astype(np.float32)
            if isinstance(op, EraseOp):
                x = op.erase(x, params, normalised=normalised)
            elif not isinstance(op, BlendOp):
                x = op.reference(x, params)
            elif op.step == "keep":
                kept, chains, weights = x, [], []
            else:
                chains.append(x)
                weights.append(float(params["weight"]))
                x = kept
                if op.step == "last":
                    x = pixels.blend(chains, weights, kept, float(params["kept_weight"]))
            normalised = normalised or isinstance(op, Normalize)
        return x if self._plan.fold.normalize is not None else x.astype(np.float32) * scale + bias
