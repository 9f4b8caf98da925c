"""What a comparison has found: for people a table, for machines JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dalipipe.bench.contenders import OURS
from dalipipe.bench.verify import Difference
from dalipipe.bench.work import Work


@dataclass
class Outcome:
    """One contender's rounds, and what it took."""

    settings: dict[str, Any]
    version: str
    difference: Difference
    prepared_s: float
    """Spent on writing the pictures in a format of its own."""
    first_batch_s: float
    """From the start of its process to its first batch, imports among it."""
    imports_s: float
    remark: str = ""
    """Why its pixels are not the reference's, where they are not."""
    swept: list[tuple[dict[str, Any], float]] = field(default_factory=list)
    """Settings that were tried, and images a second with each."""
    rates: list[float] = field(default_factory=list)
    """Images a second, of each round."""
    cpu_s_per_1000: list[float] = field(default_factory=list)
    """Processor seconds for 1,000 images, of each round."""
    batch_s: list[float] = field(default_factory=list)
    """Seconds from batch to batch, of all rounds."""
    peak_bytes: int = 0
    """The most memory that its processes had together, what they share counted once."""

    @property
    def per_s(self) -> float:
        return statistics.median(self.rates)

    def batch_ms(self, share: float) -> float:
        """Milliseconds within which ``share`` of the batches came."""
        return float(1e3 * np.quantile(self.batch_s, share))

    @property
    def tail(self) -> float:
        """p99 over p50 of the time from batch to batch."""
        return self.batch_ms(0.99) / max(self.batch_ms(0.5), 1e-6)

    def summary(self) -> dict[str, Any]:
        """JSON-safe."""
        cpu_s = statistics.median(self.cpu_s_per_1000)
        return {
            "version": self.version,
            "settings": self.settings,
            "per_s": round(self.per_s, 1),
            "per_s_min": round(min(self.rates), 1),
            "per_s_max": round(max(self.rates), 1),
            "cpu_s_per_1000": round(cpu_s, 3),
            "cpu_ms": round(cpu_s, 4),  # an image: the same number
            "p50_ms": round(self.batch_ms(0.5), 2),
            "p99_ms": round(self.batch_ms(0.99), 2),
            "p99_over_p50": round(self.tail, 3),
            "first_batch_s": round(self.first_batch_s, 2),
            "imports_s": round(self.imports_s, 2),
            "prepared_s": round(self.prepared_s, 2),
            "peak_mb": round(self.peak_bytes / 2**20),
            "difference": {"mean": round(self.difference.mean, 6), "largest": round(self.difference.largest, 6)},
            "exact": self.difference.is_exact,
            "remark": "" if self.difference.is_exact else self.remark,
            "rounds": [round(rate, 1) for rate in self.rates],
            "swept": [{"settings": settings, "per_s": round(rate, 1)} for settings, rate in self.swept],
        }


@dataclass
class Comparison:
    """All contenders: those timed, ``absent`` ones with what would bring them, ``failed`` ones with the reason."""

    work: Work
    outcomes: dict[str, Outcome]
    absent: dict[str, str]
    failed: dict[str, str]
    one_core: Outcome | None = None
    """dalipipe with one thread on one core, in the same rounds."""

    def ratios(self, name: str, to: Outcome | str) -> list[float]:
        """Of each round: ``name``'s images a second over those of ``to`` in the same round."""
        other = self.outcomes[to] if isinstance(to, str) else to
        return [a / b for a, b in zip(self.outcomes[name].rates, other.rates, strict=True)]

    def ratio(self, name: str, to: Outcome | str) -> float:
        """The median of `ratios`."""
        return statistics.median(self.ratios(name, to))

    def best(self, names: Iterable[str]) -> str | None:
        """Who is fastest of those that were timed."""
        return max((n for n in names if n in self.outcomes), key=lambda n: self.outcomes[n].per_s, default=None)

    @property
    def scaling(self) -> float | None:
        """How many times its rate on one core dalipipe has on all of them."""
        return self.ratio(OURS, self.one_core) if self.one_core and OURS in self.outcomes else None

    def summary(self) -> dict[str, Any]:
        """JSON-safe."""
        work = self.work
        others = [name for name in self.outcomes if name != OURS] if OURS in self.outcomes else []
        return {
            "what": f"decode + RandomResizedCrop {work.size_px} + flip + normalise → "
            f"float32 [N,3,{work.size_px},{work.size_px}], batches of {work.batch_size}",
            "pictures": len(work.paths),
            "batch_size": work.batch_size,
            "size_px": work.size_px,
            "device": work.device,
            "workers": work.cores,
            "best_torch": self.best(name for name in self.outcomes if name.startswith("torch ")),
            "contenders": {name: outcome.summary() for name, outcome in self.outcomes.items()},
            "ratios": {f"over {name}": round(self.ratio(OURS, name), 3) for name in others},
            "ratios_min": {f"over {name}": round(min(self.ratios(OURS, name)), 3) for name in others},
            "ratios_max": {f"over {name}": round(max(self.ratios(OURS, name)), 3) for name in others},
            "one_core": self.one_core.summary() if self.one_core else None,
            "scaling": round(self.scaling, 3) if self.scaling else None,
            "absent": self.absent,
            "failed": self.failed,
        }
