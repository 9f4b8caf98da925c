"""Contenders timed in interleaved rounds of one process, so that a noisy machine is noisy for all of them alike."""

from __future__ import annotations

import gc
import json
import math
import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dalipipe.bench import machine


@dataclass
class Timing:
    """What one contender did: a value a round."""

    rates: list[float] = field(default_factory=list)
    """Items a second."""
    cpu_ms: list[float] = field(default_factory=list)
    """Processor milliseconds an item, of this process and its finished children."""

    def summary(self) -> dict[str, Any]:
        return {
            "per_s": round(statistics.median(self.rates), 1),
            "per_s_min": round(min(self.rates), 1),
            "per_s_max": round(max(self.rates), 1),
            "cpu_ms": round(statistics.median(self.cpu_ms), 4),
            "rounds": [round(rate, 1) for rate in self.rates],
        }


Turn = Callable[[], "int | tuple[int, float]"]
"""Returns how many items it worked through; and in how many seconds, where not all of the call is to count."""


def interleave(
    contenders: Mapping[str, Turn],
    rounds: int,
    warmups: int = 1,
    failed: dict[str, str] | None = None,
    after_round: Callable[[dict[str, Timing]], None] = lambda timings: None,
) -> dict[str, Timing]:
    """Calls every contender once a round, each time another one first.

    ``failed``: who raises is left out from then on, and its `reason` kept there; ``None``: it ends the rounds.
    ``after_round``: is given what is known so far, so that it can be kept should the rest never come.
    """
    timings = {name: Timing() for name in contenders}
    names = list(contenders)
    for number in range(-warmups, rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            if name not in timings:
                continue
            gc.collect()
            cpu, start = _cpu_s(), time.perf_counter()
            try:
                returned = contenders[name]()
            except Exception as error:
                if failed is None:
                    raise
                failed[name] = reason(error)
                del timings[name]
                continue
            elapsed, used = time.perf_counter() - start, _cpu_s() - cpu
            items, elapsed = returned if isinstance(returned, tuple) else (returned, elapsed)
            if number >= 0:
                timings[name].rates.append(items / elapsed)
                timings[name].cpu_ms.append(1e3 * used / items)
            print(
                f"  {'warm-up' if number < 0 else f'round {number + 1}'}  {name:42s} {items / elapsed:10.1f}/s",
                flush=True,
            )
        if number >= 0:
            after_round(timings)
    return timings


def lasting(run: Callable[[], Any], items: int, turn_s: float = 0.04) -> Turn:
    """As often as fills a turn that can be timed; ``items`` a call."""
    start = time.perf_counter()
    run()
    times = max(1, math.ceil(turn_s / (time.perf_counter() - start)))

    def turn() -> int:
        for _ in range(times):
            run()
        return times * items

    return turn


def ratio(timings: dict[str, Timing], name: str, to: str) -> float:
    """The median over rounds of ``name``'s rate over ``to``'s in the same round."""
    return statistics.median(a / b for a, b in zip(timings[name].rates, timings[to].rates, strict=True))


def undisturbed(timings: dict[str, Timing], name: str, to: str) -> float:
    """`ratio`, or that of each one's best round where it is higher: when others are at work on the machine, a turn now
    and then still has it for itself.
    """
    return max(ratio(timings, name, to), max(timings[name].rates) / max(timings[to].rates))


def reason(error: Exception) -> str:
    """What went wrong, in a line for the record."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


def _cpu_s() -> float:
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    return total + _live_children_s()


def _live_children_s() -> float:
    """Processor seconds of worker processes that still run: they count for the loader that keeps them."""
    import psutil

    total = 0.0
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
            total += times.user + times.system
        except psutil.NoSuchProcess:
            continue
    return total


def write(name: str, result: dict[str, Any], folder: str | os.PathLike[str] | None = None) -> Path:
    """``results/<name>.json``, with the machine it was measured on."""
    target = Path(folder or Path(__file__).parent / "results")
    target.mkdir(parents=True, exist_ok=True)
    path = target / f"{name}.json"
    path.write_text(json.dumps({**result, "machine": machine()}, indent=1) + "\n")
    return path
