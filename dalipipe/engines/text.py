"""The engine of texts: their tokens are edited, then written as the rows of a batch, as words' numbers or as a
tokenizer's; on the host's cores or on a CUDA device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dalipipe import native
from dalipipe.buffers import BufferPool
from dalipipe.engines.base import Output
from dalipipe.ops.mix import cut_texts
from dalipipe.passes.mix import MixParams
from dalipipe.passes.text import TextParams
from dalipipe.plan import Draws, Plan
from dalipipe.records import Tokens
from dalipipe.text import Encoding
from dalipipe.transfers import upload_tokens


@dataclass(frozen=True)
class Texts:
    """A batch: ``rows`` int64 [N, L] on the output's device, padded at the end; ``lengths`` int64 [N]: how many numbers
    of each row are its own; ``label_weight`` float32 [N]: which share of its words is its own.
    """

    rows: torch.Tensor
    lengths: np.ndarray
    label_weight: np.ndarray | None = None


class TextEngine:
    """Applies a plan to batches of texts.

    What comes out is int64 [N, L] on the output's device, L as long as the longest, rounded up as the field's
    `Encoding` says. Host tensors' memory comes back to a pool when nobody refers to them any more.
    """

    def __init__(self, plan: Plan, output: Output, *, threads: int) -> None:
        assert plan.field is not None
        if output.device.type == "cuda" and not native.build_info()["cuda"]:
            raise RuntimeError(
                "dalipipe was built without CUDA: build it where an nvcc is found (DALIPIPE_CUDA unset), "
                'or give device="cpu"'
            )
        output.check(plan)
        self._fold: TextFold = plan.fold
        self._device, self._threads = output.device, threads
        self._encoding: Encoding = plan.field.encoding
        self._buffers = BufferPool()

    def size(self, tokens: Tokens) -> np.ndarray:
        """int64 [N, 1]: words of each text."""
        return tokens.lengths.astype(np.int64)[:, None]

    def start(self, tokens: Tokens, draws: Draws) -> Callable[[], Texts]:
        """N texts on the host, or on the output's device → what gives the batch, and waits for what it needs; on CUDA
        it is queued on the stream that is current there.
        """
        params: TextParams = draws.params
        if self._device.type == "cuda" and not tokens.on_cuda:
            tokens = upload_tokens(tokens, self._device)
        n, capacities = len(tokens), params.out_size[:, 0]
        places = np.cumsum(capacities) - capacities
        edited = self._empty(int(capacities.sum()), torch.int32)
        lengths = torch.empty(n, dtype=torch.int32, device=self._device)
        running = native.start_edit_tokens(
            params.passes,
            params.starts,
            data=tokens.address,
            lengths=tokens.lengths,
            capacities=capacities.astype(np.int32),
            places=places,
            out=edited,
            out_lengths=lengths,
            tables=self._tables,
            threads=self._threads,
            keep=tokens,
        )

        def finish() -> Texts:
            running.wait()
            words = lengths.cpu().numpy()
            spans, starts, label_weight = _spans(places, words, draws.mix)
            return self._rows(edited, spans, starts, label_weight)

        return finish
