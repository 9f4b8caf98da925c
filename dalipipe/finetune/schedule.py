"""The learning rate as a pure function of the step, so that resuming needs no scheduler state."""

from __future__ import annotations

import math


def warmup_cosine(step: int, *, total_steps: int, warmup_steps: int) -> float:
    """The factor on the peak learning rate for optimiser step ``step``, in (0, 1].

    Linear warm-up, ``(step + 1) / warmup_steps``, so the first step already learns and the last warm-up step runs at
    the peak; then a half cosine from 1 that would reach 0 one step after the last:

        0.5 * (1 + cos(pi * (step - warmup_steps) / (total_steps - warmup_steps)))

    Source: P. Goyal et al., *Accurate, Large Minibatch SGD*, 2017 (warm-up); I. Loshchilov and F. Hutter, *SGDR*, 2017
    (cosine, one cycle).

    Raises:
        ValueError: ``step`` is outside ``[0, total_steps)``, or the warm-up is longer than the run.
    """
    if not 0 <= step < total_steps:
        raise ValueError(f"warmup_cosine: step must be in [0, {total_steps}), got {step}")
    if not 0 <= warmup_steps <= total_steps:
        raise ValueError(f"warmup_cosine: warmup_steps must be in [0, {total_steps}], got {warmup_steps}")
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps)))
