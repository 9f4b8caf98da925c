"""A policy applied to pictures, and what was drawn for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from dalipipe import rng
from dalipipe.engines import make_engine
from dalipipe.engines.base import Engine, Output
from dalipipe.plan import Draws, Plan, lower
from dalipipe.policy import Node, Policy
from dalipipe.records import Pictures
from dalipipe.schema import Field, Schema

SCHEMA = Schema((Field("image", "image", channels=3), Field("label", "column")))
KEY = rng.make_key(20, 0)


class Applied:
    """``nodes`` on an engine: "native", or "reference", which applies one operator after the other."""

    def __init__(self, nodes: Sequence[Node], *, engine: str = "native", dtype: torch.dtype = torch.uint8) -> None:
        self.plan: Plan = lower(Policy(nodes), SCHEMA)
        output = Output(torch.device("cpu"), dtype, torch.contiguous_format)
        self.engine: Engine = make_engine(engine, self.plan, output, threads=2)

    def batches(self, pictures: Sequence[np.ndarray], first: int = 0) -> Iterator[tuple[Draws, slice, np.ndarray]]:
        """What is drawn for some of the pictures, uint8 [H, W, C], which these are, and what comes out, [N, C, H, W]:
        all at once, or, where they end at different sizes, one by one. ``first``: the first one's index as a sample.
        """
        for rows in (slice(0, len(pictures)), *(slice(i, i + 1) for i in range(len(pictures)))):
            draws = self._draw(pictures, rows, first)
            sizes = draws.params.out_size
            if (sizes == sizes[0]).all():
                yield draws, rows, self.engine.start(Pictures.from_arrays(list(pictures[rows])), draws)().numpy()
                if rows.stop == len(pictures):
                    return

    def _draw(self, pictures: Sequence[np.ndarray], rows: slice, first: int) -> Draws:
        indices = first + np.arange(rows.start, rows.stop)
        size = np.array([x.shape[:2] for x in pictures[rows]])
        return self.plan.draw(KEY, indices, size, positions=np.arange(rows.start, rows.stop))
