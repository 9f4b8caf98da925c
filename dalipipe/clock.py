"""What each stage of a loader takes: how often, how long, how much of it, and how its times are spread."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_CELLS_PER_DOUBLING = 8
_SHORTEST_S = 1e-6
_CELLS = 32 * _CELLS_PER_DOUBLING  # up to more than an hour


@dataclass
class Spread:
    """Times, counted in cells that are 9 % wide, so that quantiles are known to 5 % in memory that does not grow."""

    cells: list[int] = field(default_factory=lambda: [0] * _CELLS)
    count: int = 0

    def add(self, seconds: float) -> None:
        cell = int(_CELLS_PER_DOUBLING * math.log2(seconds / _SHORTEST_S)) if seconds > _SHORTEST_S else 0
        self.cells[min(cell, _CELLS - 1)] += 1
        self.count += 1

    def quantile(self, share: float) -> float:
        """Seconds within which ``share`` [0, 1] of the times lie; 0 where there are none."""
        left = share * self.count
        for cell, count in enumerate(self.cells):
            if count and left <= count:
                return _SHORTEST_S * 2 ** ((cell + left / count) / _CELLS_PER_DOUBLING)
            left -= count
        return 0.0


@dataclass
class StageTimes:
    """Of one stage so far. ``cpu_s``: processor seconds, where the clock takes them; ``spread``: of a batch's times."""

    batches: int = 0
    samples: int = 0
    nbytes: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    spread: Spread = field(default_factory=Spread)
    begun_s: float = 0.0
    """Spent on a batch that this stage will come back to."""

    def summary(self) -> dict[str, Any]:
        """For people and machines: JSON-safe."""
        return {
            "batches": self.batches,
            "samples": self.samples,
            "bytes": self.nbytes,
            "seconds": self.seconds,
            "p50_ms": 1e3 * self.spread.quantile(0.5),
            "p99_ms": 1e3 * self.spread.quantile(0.99),
        }


class StageClock:
    """Times of all stages of a loader. Each stage is in the hands of one thread at a time.

    ``cpu``: take processor time, too: that of all threads of this process, so it says something only where stages run
    one after the other.
    """

    def __init__(self, *, cpu: bool = False) -> None:
        self.stages: dict[str, StageTimes] = {}
        self._cpu = cpu

    @contextmanager
    def stage(self, name: str, samples: int = 0, *, nbytes: int = 0, to_come: bool = False) -> Iterator[None]:
        """Times what is done within. ``to_come``: the stage comes back to this batch, which counts as one then."""
        times = self.stages.get(name)
        if times is None:
            times = self.stages.setdefault(name, StageTimes())
        cpu = time.process_time() if self._cpu else 0.0
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            times.seconds += elapsed
            if self._cpu:
                times.cpu_s += time.process_time() - cpu
            if to_come:
                times.begun_s += elapsed
            else:
                times.batches += 1
                times.samples += samples
                times.nbytes += nbytes
                times.spread.add(elapsed + times.begun_s)
                times.begun_s = 0.0
