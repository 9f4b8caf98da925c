"""The displacement fields of elastic operators on the host, for what rides along with the pictures."""

from __future__ import annotations

import numpy as np
import torch

from dalipipe.engines.displacements import displacement_count, draw_displacements
from dalipipe.passes.params import ImageParams
from dalipipe.policy import Drawn


class HostDisplacements:
    """Those of a batch, as `ops.targets.Fields`: called with what was drawn for an operator, and a place in it."""

    def __init__(self, params: ImageParams, *, threads: int) -> None:
        self._elastics = params.elastics
        if self._elastics is None:
            return
        memory = torch.empty(displacement_count(self._elastics), dtype=torch.float32)
        self._addresses = draw_displacements(self._elastics, memory, threads=threads)
        shapes = [(2, h, w) for h, w in self._elastics.size.tolist()]
        ends = np.cumsum([np.prod(shape) for shape in shapes])
        parts = np.split(memory.numpy(), ends[:-1])
        fields = (part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))
        # The noise of one draw is that of no other, so it names the field.
        self._by_noise = {key.tobytes(): field for key, field in zip(self._elastics.noise, fields, strict=True)}

    def __call__(self, drawn: Drawn, place: int) -> np.ndarray:
        return self._by_noise[drawn.params["noise"][place].tobytes()]

    def put_into(self, passes: np.ndarray) -> None:
        """Tells `IMAGE_PASS` [P] where theirs are. They are there as long as this object is."""
        if self._elastics is not None:
            passes["displacement"][self._elastics.at] = self._addresses
