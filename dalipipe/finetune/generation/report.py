"""What made data are worth: train on synthetic, test on real, beside real alone, and both.

TSTR: C. Esteban, S. L. Hyland, G. Rätsch, "Real-valued (medical) time series generation with recurrent conditional
GANs", 2017.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dalipipe.finetune.generation.classifiers import fit_classifier, small_classifier
from dalipipe.finetune.parts import joined
from dalipipe.policy import Policy
from dalipipe.sources import Source

ARMS = ("real", "synthetic", "both")


class Worth(NamedTuple):
    """Accuracies on real test data, [0, 1], a seed each; ``mean`` and standard ``error`` of it (nan of one seed)."""

    arm: str
    accuracies: list[float]

    @property
    def mean(self) -> float:
        return statistics.mean(self.accuracies)

    @property
    def error(self) -> float:
        count = len(self.accuracies)
        return statistics.stdev(self.accuracies) / math.sqrt(count) if count > 1 else math.nan


def worth(
    real: Source,
    made: Source,
    test: Source,
    *,
    arms: Sequence[str] = ARMS,
    seeds: Sequence[int] = (0, 1, 2),
    steps: int = 300,
    batch_size: int = 64,
    lr: float = 3e-3,
    policy: Policy | None = None,
    real_share: float = 0.5,
) -> list[Worth]:
    """Train small classifiers from scratch on real data, on made data, and on both, each for as many steps, and test
    them on real data.

    Args:
        real, made, test: sources in memory, of the same classes and, of pictures, sizes: see `pictures`.
        arms: of "real", "synthetic", "both".
        seeds: of weights and order; each trains every arm once.
        policy: in training, of all arms; by default samples as they are.
        real_share: of both, the share of the samples seen that are real, (0, 1).

    Raises ``ValueError`` for data whose classes differ, or an argument out of its range.
    """
    for name, source in (("made", made), ("test", test)):
        if source.classes != real.classes:
            raise ValueError(f"worth: real and {name} data must have the same classes, in the same order")
    if not 0 < real_share < 1:
        raise ValueError(f"worth: real_share must be in (0, 1), got {real_share!r}")
    unknown = [arm for arm in arms if arm not in ARMS]
    if unknown or not seeds:
        raise ValueError(f"worth: arms must be of {', '.join(ARMS)} and seeds at least one, got {arms} and {seeds}")
    found = []
    for arm in arms:
        source, shares = real if arm == "real" else made, None
        if arm == "both":
            source = joined(real, made)
            each = (real_share / len(real), (1 - real_share) / len(made))
            shares = np.repeat(each, (len(real), len(made)))
        accuracies = []
        for seed in seeds:
            with tempfile.TemporaryDirectory() as folder:
                result = fit_classifier(
                    small_classifier(real, seed),
                    source,
                    test,
                    folder,
                    steps=steps,
                    batch_size=batch_size,
                    lr=lr,
                    seed=seed,
                    policy=policy,
                    shares=shares,
                )
            accuracies.append(result.val_accuracy)
        found.append(Worth(arm, accuracies))
    return found
