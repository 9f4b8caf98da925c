"""What a loader's figures cost it: the same loader with its clock, and with one that does nothing.

    pytest benchmarks/test_stats.py -s [--data=DIR] [--rounds=5]

Short rounds, many of them, since the difference is smaller than a round's noise. Beside it the calls themselves: how
often a batch makes them, and what they take alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import peers
import pytest
import torch
from rounds import interleave, write

import dalipipe
from dalipipe.clock import StageClock, Timing
from dalipipe.ops import image as ops

pytestmark = pytest.mark.timeout(0)

GOAL = 0.01
ROUNDS = 12  # for each of --rounds
ROUND_S = 0.5
CALLS, TRIES = 1000, 100


class NoTiming:
    samples = nbytes = 0

    def __enter__(self) -> NoTiming:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class NoClock(StageClock):
    """Counts nothing."""

    def stage(self, *_: Any, **__: Any) -> Any:
        return _NOTHING

    def waiting(self) -> Any:
        return _NOTHING

    def is_full(self) -> Any:
        return _NOTHING

    def gave(self, *_: Any) -> float:
        return 0.0

    def saw_ready(self, *_: Any) -> None:
        pass


_NOTHING = NoTiming()


class CountingClock(StageClock):
    """Notes how often it is called, and for what stage."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []  # from several threads

    def stage(self, name: str, *arguments: Any, **more: Any) -> Timing:
        self.calls.append("stage")
        return super().stage(name, *arguments, **more)

    def waiting(self) -> Timing:
        self.calls.append("wait")
        return super().waiting()

    def is_full(self) -> Timing:
        self.calls.append("stage")
        return super().is_full()

    def saw_ready(self, *arguments: Any) -> None:
        self.calls.append("ready")
        return super().saw_ready(*arguments)


def call_us() -> dict[str, float]:
    """Of each kind of call, alone, when nobody disturbs it; an empty call's own time is in it."""
    clock = StageClock()

    def stage() -> None:
        with clock.stage("read", 64) as timing:
            timing.nbytes = 1

    def wait() -> None:
        with clock.waiting() as waited:
            waited.samples = 64
        clock.gave(waited, 0.0)

    def ready() -> None:
        clock.saw_ready(1, time.perf_counter())

    def least(call: Callable[[], None]) -> float:
        times = []
        for _ in range(TRIES):
            begin = time.perf_counter()
            for _ in range(CALLS):
                call()
            times.append(1e6 * (time.perf_counter() - begin) / CALLS)
        return min(times)

    return {call.__name__: least(call) for call in (stage, wait, ready)}


def with_clock(loader: dalipipe.DataLoader, clock: StageClock) -> dalipipe.DataLoader:
    loader._clock = clock
    return loader


def times_for(epoch: Callable[[], int]) -> int:
    """Epochs that take about a round's time."""
    epoch()
    begin = time.perf_counter()
    epoch()
    return max(1, round(ROUND_S / (time.perf_counter() - begin)))


def beyond(ratios: np.ndarray) -> tuple[float, list[float]]:
    """The median's excess over 1, and its interval."""
    drawn = np.random.default_rng(0).integers(0, len(ratios), (2000, len(ratios)))
    found = np.quantile(np.median(ratios[drawn], axis=1), [0.025, 0.975]) - 1
    return round(float(np.median(ratios)) - 1, 5), [round(end, 5) for end in found.tolist()]


def measured(make: Callable[[], dalipipe.DataLoader], rounds: int, cost_us: dict[str, float]) -> dict[str, Any]:
    """``overhead``: the median over rounds of the time with the clock over that without, less 1, and its 95 % interval,
    resampled; ``cpu_overhead``: likewise, of processor time. ``calls``: a batch; ``clock_us``: what they take alone;
    ``share``: of a batch's time.
    """
    counting = CountingClock()
    counted = with_clock(make(), counting)
    batches = sum(1 for _ in counted)
    calls = {name: counting.calls.count(name) / batches for name in cost_us}
    counted.close()
    with_it, without = make(), with_clock(make(), NoClock())
    epochs = [peers.epochs(loader) for loader in (with_it, without)]
    times = times_for(epochs[0])
    contenders = {
        name: (lambda epoch=epoch: sum(epoch() for _ in range(times)))
        for name, epoch in zip(("with the clock", "without"), epochs, strict=True)
    }
    timings = interleave(contenders, rounds)
    on, off = timings["with the clock"], timings["without"]
    overhead, interval = beyond(np.array(off.rates) / np.array(on.rates))
    cpu_overhead, cpu_interval = beyond(np.array(on.cpu_ms) / np.array(off.cpu_ms))
    rate = float(np.median(on.rates))
    samples = len(with_it.source) / batches
    clock_us = sum(calls[name] * cost_us[name] for name in calls)
    with_it.close(), without.close()
    return {
        "per_s": round(rate, 1),
        "batch_ms": round(1e3 * samples / rate, 3),
        "overhead": overhead,
        "interval": interval,
        "cpu_overhead": cpu_overhead,
        "cpu_interval": cpu_interval,
        "calls": {name: round(count, 2) for name, count in calls.items()},
        "clock_us": round(clock_us, 2),
        "share": round(clock_us / (1e6 * samples / rate), 5),
        "rounds": rounds,
    }


def test_what_the_figures_cost(pytestconfig: pytest.Config, request: pytest.FixtureRequest, benchmark: Any) -> None:
    workers = len(os.sched_getaffinity(0))
    rng = np.random.default_rng(0)
    pictures, labels = rng.integers(0, 256, (50_000, 32, 32, 3), np.uint8), rng.integers(0, 10, 50_000)
    small = dalipipe.Policy([ops.HorizontalFlip(), ops.RandomCrop(32, 4), ops.Cutout(8)])
    settings: dict[str, Any] = {"shuffle": True, "seed": 0, "device": "cpu", "num_workers": workers}
    settings["autotune"] = False  # both run with the same settings

    def in_memory(batch: int) -> Callable[[], dalipipe.DataLoader]:
        arrays = dalipipe.Arrays(pictures, labels)
        return lambda: dalipipe.DataLoader(arrays, batch, policy=small, dtype=torch.uint8, **settings)

    makers = {f"pictures of 32×32 px in memory, batches of {batch:,}": in_memory(batch) for batch in (1000, 128)}
    if pytestconfig.getoption("--data") is not None:
        folder = dalipipe.ImageFolder(request.getfixturevalue("photographs"))
        policy = dalipipe.recipes.imagenet_train(224)
        makers["photographs → 224×224 px, batches of 64"] = lambda: dalipipe.DataLoader(
            folder, 64, policy=policy, **settings
        )
    cost_us = call_us()
    print(f"\ncalls, µs: { {name: round(us, 2) for name, us in cost_us.items()} }", flush=True)

    def run() -> dict[str, Any]:
        found = {}
        for name, make in makers.items():
            print(f"\n{name}", flush=True)
            found[name] = measured(make, ROUNDS * pytestconfig.getoption("--rounds"), cost_us)
            print(f"  {found[name]}", flush=True)
        return found

    loaders = benchmark.pedantic(run, rounds=1, iterations=1)
    result = {
        "what": "a loader with its clock beside the same loader with one that does nothing",
        "workers": workers,
        "call_us": {name: round(us, 3) for name, us in cost_us.items()},
        "loaders": loaders,
        "goal": GOAL,
    }
    benchmark.extra_info.update({name: found["overhead"] for name, found in loaders.items()})
    print(f"\n→ {write('stats_cpu', result, pytestconfig.getoption('--results'))}")
