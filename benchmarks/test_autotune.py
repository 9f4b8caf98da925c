"""What the loader chooses by trials beside every setting it might have chosen: threads and batches kept waiting.

    pytest benchmarks/test_autotune.py --data=DIR

Threads go up to twice the cores, prefetch_factor up to 8. A training that only takes batches, and one whose steps take
as long as a batch. What is chosen is told apart from what trials cost: a first epoch with and without them.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rounds import interleave, ratio, write

import dalipipe
from dalipipe import autotune
from dalipipe.ops import image as ops

pytestmark = pytest.mark.timeout(0)

AHEAD = (1, 2, 4, 8)
AUTOTUNED, FIRST, PLAIN_FIRST = "autotuned", "first epoch, with trials", "first epoch, without"
EPOCHS_TO_SETTLE = 30


def verify(make: Callable[..., dalipipe.DataLoader]) -> None:
    """Trials change no batch."""
    with contextlib.closing(make()) as tuned, contextlib.closing(make(autotune=False)) as plain:
        for one, other in zip(tuned, plain, strict=True):
            assert torch.equal(one.image, other.image) and torch.equal(one.label, other.label)


def epoch(loader: dalipipe.DataLoader, step_s: float, intervals_s: list[float] | None = None) -> int:
    """One epoch of a training whose steps take ``step_s``; notes how long each step took with its wait."""
    items, before = 0, time.perf_counter()
    for number, batch in enumerate(loader):
        items += len(batch[0])
        if step_s:
            time.sleep(step_s)
        now = time.perf_counter()
        if number and intervals_s is not None:
            intervals_s.append(now - before)
        before = now
    return items


def settle(make: Callable[..., dalipipe.DataLoader], step_s: float) -> dalipipe.DataLoader:
    """A loader that has tried what it wanted to."""
    loader = make()
    for _ in range(EPOCHS_TO_SETTLE):
        epoch(loader, step_s)
        if loader.stats()["tuned"]["settled"]:
            break
    return loader


def measure(make: Callable[..., dalipipe.DataLoader], training: bool, rounds: int) -> dict[str, Any]:
    """One task: the sweep, what was chosen, and what trials cost."""
    cores = len(os.sched_getaffinity(0))
    step_s = 0.0
    if training:
        intervals_s: list[float] = []
        with contextlib.closing(make(autotune=False)) as loader:
            epoch(loader, 0.0, intervals_s)
        step_s = statistics.median(intervals_s)
    cells = {f"{n} threads, {ahead} ahead": (n, ahead) for n, ahead in itertools.product(autotune.ladder(cores), AHEAD)}
    loaders = {name: make(num_workers=threads, prefetch_factor=ahead) for name, (threads, ahead) in cells.items()}
    loaders[AUTOTUNED] = settle(make, step_s)
    steps_s: dict[str, list[float]] = {name: [] for name in loaders}

    def first(autotune: bool) -> int:
        with contextlib.closing(make(autotune=autotune)) as loader:
            return epoch(loader, step_s)

    contenders: dict[str, Callable[[], int]] = {
        name: lambda loader=loader, name=name: epoch(loader, step_s, steps_s[name])  # type: ignore[misc]
        for name, loader in loaders.items()
    }
    contenders |= {FIRST: lambda: first(True), PLAIN_FIRST: lambda: first(False)}
    timings = interleave(contenders, rounds)
    best = max(cells, key=lambda name: statistics.median(timings[name].rates))
    tails = {name: float(np.quantile(found, 0.99) / np.quantile(found, 0.5)) for name, found in steps_s.items()}
    tuned = loaders[AUTOTUNED].stats()["tuned"]
    for loader in loaders.values():
        loader.close()
    default = f"{cores} threads, 2 ahead"
    return {
        "step_ms": round(1e3 * step_s, 2),
        "cells": {name: {**timings[name].summary(), "p99_over_p50": round(tails[name], 3)} for name in cells},
        "autotuned": {**timings[AUTOTUNED].summary(), "p99_over_p50": round(tails[AUTOTUNED], 3), "tuned": tuned},
        "first": {name: timings[name].summary() for name in (FIRST, PLAIN_FIRST)},
        "best": best,
        "ratios": {
            "autotuned over the best": round(ratio(timings, AUTOTUNED, best), 3),
            "the default over the best": round(ratio(timings, default, best), 3),
            "the worst over the best": round(
                ratio(timings, min(cells, key=lambda name: statistics.median(timings[name].rates)), best), 3
            ),
            "first epoch with trials over without": round(ratio(timings, FIRST, PLAIN_FIRST), 3),
        },
        "p99_over_p50": {
            "autotuned": round(tails[AUTOTUNED], 3),
            "best in throughput": round(tails[best], 3),
            "least": round(min(tails[name] for name in cells), 3),
        },
    }


def test_autotune(photographs: Path, pytestconfig: pytest.Config, benchmark: Any) -> None:
    random = np.random.default_rng(0)
    small = dalipipe.Arrays(random.integers(0, 256, (50_000, 32, 32, 3), np.uint8), random.integers(0, 10, 50_000))
    crops = dalipipe.Policy([ops.HorizontalFlip(), ops.RandomCrop(32, 4), ops.Cutout(8)])
    folder = dalipipe.ImageFolder(photographs)

    def of_photographs(**kw: Any) -> dalipipe.DataLoader:
        policy = dalipipe.recipes.imagenet_train(224)
        return dalipipe.DataLoader(folder, 32, shuffle=True, policy=policy, device="cpu", seed=0, **kw)

    def of_small(**kw: Any) -> dalipipe.DataLoader:
        settings: dict[str, Any] = {"shuffle": True, "policy": crops, "device": "cpu", "seed": 0, "dtype": torch.uint8}
        return dalipipe.DataLoader(small, 512, **settings, **kw)

    tasks: dict[str, tuple[Callable[..., dalipipe.DataLoader], bool]] = {
        "photographs, batches of 32": (of_photographs, False),
        "photographs, with a training as fast as the loader": (of_photographs, True),
        "32×32 px in memory, batches of 512": (of_small, False),
    }
    rounds = pytestconfig.getoption("--rounds")
    for make in (of_photographs, of_small):
        verify(make)

    def run() -> dict[str, Any]:
        found = {}
        for name, (make, training) in tasks.items():
            print(f"\n{name}", flush=True)
            found[name] = measure(make, training, rounds)
            print(f"  {found[name]['autotuned']['tuned']}\n  {found[name]['ratios']}", flush=True)
        return found

    found = benchmark.pedantic(run, rounds=1, iterations=1)
    result = {"images": f"{len(folder):,} photographs in the page cache", "tasks": found}
    for name, task in found.items():
        benchmark.extra_info[name] = task["ratios"]
    print(f"→ {write('autotune_cpu', result, pytestconfig.getoption('--results'))}")
