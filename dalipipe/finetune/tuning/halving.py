"""Successive halving: many candidates trained for a little, the best of them in full."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Rung:
    """So many ``candidates`` are trained, on each of the first ``folds`` folds, for ``steps`` steps."""

    candidates: int
    folds: int
    steps: int

    @property
    def cost(self) -> int:
        """Steps of training."""
        return self.candidates * self.folds * self.steps


def plan_rungs(candidates: int, folds: int, steps: int, *, share: float = 0.25) -> tuple[Rung, ...]:
    """The rungs for so many candidates, which cost at most ``share`` of the full grid (all candidates, on all folds,
    for all steps), where two candidates trained in full fit into that, which they do from a dozen on.

    First all are trained for half of the steps, on one fold, or for a quarter where that would cost too much. The last
    rung trains as many of them as ``share`` leaves room for, two at least, in full: all steps, all folds. Where there
    are no more candidates than that (or ``share`` is 1), all are trained in full. What is compared within a rung has
    had the same folds, seeds and steps.

    Jamieson, Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization" (AISTATS 2016), with
    two rungs that save folds rather than steps, since strong augmentation shows what it is good for only in longer
    training.

    Raises ``ValueError`` for numbers out of their ranges.
    """
    for name, value, least in (("candidates", candidates, 1), ("folds", folds, 2), ("steps", steps, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"plan_rungs: {name} must be a whole number ≥ {least}, got {value!r}")
    if not 0 < share <= 1:
        raise ValueError(f"plan_rungs: share must be in (0, 1], got {share!r}")
    budget, full = share * candidates * folds * steps, folds * steps
    finalists = 0
    for part in (2, 4):
        first = Rung(candidates, 1, max(1, steps // part))
        finalists = int((budget - first.cost) // full)
        if finalists >= 2:
            break
    finalists = max(2, finalists)
    if candidates * full <= max(budget, first.cost + finalists * full):
        return (Rung(candidates, folds, steps),)
    return first, Rung(finalists, folds, steps)
