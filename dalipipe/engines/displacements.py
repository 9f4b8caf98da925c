"""The displacement fields that elastic warps look at: drawn on the device where they are used."""

from __future__ import annotations

import numpy as np
import torch

from dalipipe import native
from dalipipe.ops import filtering
from dalipipe.passes.params import Elastics


def displacement_count(elastics: Elastics) -> int:
    """float32 values that all fields hold together: [2, H, W] each."""
    return int(2 * elastics.size.prod(axis=1).sum())


def draw_displacements(elastics: Elastics, memory: torch.Tensor, *, threads: int) -> np.ndarray:
    """Writes the fields one after the other into ``memory`` float32 [`displacement_count`]; returns their addresses,
    uint64 [L]. On CUDA, queued on the current stream.
    """
    counts = 2 * elastics.size.prod(axis=1)
    fields = np.zeros(len(counts), native.ELASTIC_FIELD)
    fields["out"] = memory.data_ptr() + 4 * (np.cumsum(counts) - counts)
    fields["h"], fields["w"] = elastics.size[:, 0], elastics.size[:, 1]
    fields["scale"], fields["noise"] = elastics.alpha / 2, elastics.noise
    blurs = [filtering.elastic_blur(sigma) for sigma in elastics.sigma]
    for i, (taps, weights) in enumerate(blurs):
        fields["weights"][i], fields["taps"][i] = weights.ctypes.data, taps
    native.elastic(fields, memory, threads=threads)
    return fields["out"].copy()
