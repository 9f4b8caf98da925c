"""A loader and a training step as they are or might be: how long a step then takes, and what it waits for.

The simulated pipelines of `pipelines` are fed with the times that were measured of each stage alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dalipipe.cores import usable_cores
from dalipipe.stalls.explanation import Span
from dalipipe.stalls.pipelines import Course, Times
from dalipipe.stalls.simulation import Work
from dalipipe.stalls.walking import Measured, Stages

_STEPS, _WARM_UP = 160, 16  # at least
_RESAMPLED = 16
_BATCHES = 12  # so many of those measured are drawn again
_ROUNDS = 3  # until what slows stages down is found: it changes what they share
_MOST_SLOWED = 3.0
_LESS = 0.1  # so much less of a stage tells whether the step is bound by it


class Pipeline(Protocol):
    """One of `pipelines`. ``period``: batches after which it is as it was."""

    @property
    def period(self) -> int: ...

    def run(self, steps: int, cores: float) -> Course: ...


@dataclass(frozen=True)
class Setting:
    """``stages``: the work of each on a batch, with ``"step"`` and, where the step brings batches to the device,
    ``"copy to device"``; ``pipeline``: how the loader's threads do it; ``cores``: of the machine.
    """

    stages: Stages
    pipeline: Callable[[Times], Pipeline]
    cores: float

    def with_stages(self, stages: Mapping[str, Measured]) -> Setting:
        """With other times of some stages."""
        return replace(self, stages={**self.stages, **stages})

    def scaled(self, factors: Mapping[str, float]) -> Setting:
        """With some stages taking so many times as long; those that there are not stay away."""
        there = {name: factor for name, factor in factors.items() if name in self.stages}
        return self.with_stages({name: self.stages[name].times(factor) for name, factor in there.items()})

    def course(self, draws: np.ndarray) -> Course:
        """``draws`` float64 [n], in [0, 1): which of the batches that were measured each of the simulated ones is
        like.
        """

        def times(stage: str, number: int) -> Work:
            measured = self.stages.get(stage)
            if measured is None:
                return Work(stage, 0.0, 0.0)
            seconds = measured.seconds
            return Work(stage, float(seconds[int(draws[number % len(draws)] * len(seconds))]), measured.cores)

        pipeline = self.pipeline(times)
        warm_up, steps = (-(-least // pipeline.period) * pipeline.period for least in (_WARM_UP, _STEPS))
        warm_up = max(warm_up, 2 * pipeline.period)
        return replace(pipeline.run(warm_up + steps, self.cores), warm_up=warm_up)


class Model:
    """Predicts steps' times from a `Setting` as it is and the time that its steps were measured to take: float64
    [blocks], seconds.

    ``beside_s``: what stages were measured to take while the others are at work, s, as far as that is known. By as much
    as that is more than sharing cores explains, they slow each other down otherwise: they wait for Python's lock, or
    for memory. So they do in every setting.
    """

    def __init__(self, now: Setting, measured_s: np.ndarray, beside_s: Mapping[str, float] | None = None) -> None:
        self.now, self._measured_s, self.slowed = now, measured_s, dict[str, float]()
        # The same draws for every setting, so that settings differ by themselves alone.
        random, length = np.random.default_rng(0), _WARM_UP + _STEPS
        self._draws = (random.permutation(length) + random.random(length)) / length  # all batches equally often
        self._resampled = [random.random(_BATCHES)[random.integers(_BATCHES, size=length)] for _ in range(_RESAMPLED)]
        self.course = now.course(self._draws)
        for _ in range(_ROUNDS if beside_s else 0):
            for name, seconds in (beside_s or {}).items():
                simulated = self.course.busy.get(name, 0.0) * float(self.course.steps_s.mean())
                if simulated > 0.0:
                    factor = self.slowed.get(name, 1.0) * seconds / simulated
                    self.slowed[name] = min(max(factor, 1.0), _MOST_SLOWED)
            self.course = self._course(now, self._draws)
        self.predicted_s = self.course.step_s
        self._now_resampled = np.array([self._course(now, draws).step_s for draws in self._resampled])

    @property
    def error(self) -> float:
        """How far the step that the model finds is from the measured one, as a share of that."""
        return abs(self.predicted_s / float(self._measured_s.mean()) - 1.0)

    def predict(self, setting: Setting) -> Span:
        """A step's time in ms: what was measured, times what the model says of the change. As sure as the measured
        batches, blocks and the model's own `error` let it be.
        """
        measured = float(self._measured_s.mean())
        value = measured * self._course(setting, self._draws).step_s / self.predicted_s
        ratios = np.array([self._course(setting, draws).step_s for draws in self._resampled]) / self._now_resampled
        spread = float(np.std(ratios)) / (value / measured) if value else 0.0
        blocks = float(np.std(self._measured_s, ddof=1)) / math.sqrt(len(self._measured_s)) / measured
        wide = math.hypot(2.0 * spread, 2.0 * blocks) + self.error
        return Span(1e3 * value, 1e3 * value * max(0.0, 1.0 - wide), 1e3 * value * (1.0 + wide))

    def bottleneck(self) -> str:
        """The stage of which a little less would bring the most; where none would, the busiest one."""
        gains = {
            name: self.predicted_s - self._course(self.now.scaled({name: 1.0 - _LESS}), self._draws).step_s
            for name in self.now.stages
        }
        best = max(gains, key=lambda name: gains[name])
        if gains[best] > 1e-3 * self.predicted_s:
            return best
        return max(self.now.stages, key=lambda name: self.course.busy.get(name, 0.0))

    def _course(self, setting: Setting, draws: np.ndarray) -> Course:
        return setting.scaled(self.slowed).course(draws)


def machine() -> dict[str, Any]:
    """Hardware and versions."""
    import platform

    import torch

    import dalipipe

    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {
        "processor": processor,
        "cores": usable_cores(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {"dalipipe": dalipipe.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }
