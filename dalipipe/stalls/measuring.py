"""Kinds of runs timed in turns, a short block of steps each, so that a noisy machine is noisy for all of them alike;
and what the difference between them says of a step.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from dalipipe.stalls.explanation import Span

Progress = Callable[[str, float], None]
"""What is being done, and the share of all that is done, [0, 1]."""

LEAST_STEPS, MOST_STEPS = 12, 60
RESIDENT = 4  # batches that lie on the device: one alone would stay in the processor's caches

_BUDGET_S = 60.0
_ROUND = 4.4  # steps that are taken for each that is asked for: of all kinds, with those that warm up
_RESAMPLED = 1000
# Student's 97.5 % quantile by degrees of freedom, over the normal one's: a bootstrap of few blocks is too sure.
_STUDENT = (6.48, 2.20, 1.62, 1.42, 1.31, 1.25, 1.21, 1.18, 1.15, 1.14, 1.12)


@dataclass(frozen=True)
class Kind:
    """A kind of run. ``begin(block)`` gives batches without end, and is closed when a block is over; the first
    ``warm_up`` of them do not count.
    """

    name: str
    begin: Callable[[int], Generator[Any, None, None]]
    warm_up: int


def over(batches: Sequence[Any], block: int) -> Generator[Any, None, None]:
    """A kind's ``begin`` that gives the same batches again and again."""
    while True:
        yield from batches


def affordable(step: Callable[[Any], Any], batches: Sequence[Any], device: torch.device) -> int:
    """Steps of each kind that, all together, take about a minute; from 12 to 60. ``batches``: on the device."""
    seconds, _ = _block(Kind("first", partial(over, batches), 1), step, 0, 2, device)
    return int(np.clip(_BUDGET_S / (_ROUND * max(float(seconds.min()), 1e-9)), LEAST_STEPS, MOST_STEPS))


def blocks_of(steps: int) -> tuple[int, int]:
    """In how many blocks so many steps are taken, and how many each has: each begins with some that do not count, so
    few steps are taken in few.

    Raises ``ValueError`` for fewer steps than say something.
    """
    if steps < LEAST_STEPS:
        raise ValueError(f"explain: steps must be at least {LEAST_STEPS}, got {steps}")
    blocks = 6 if steps >= 2 * LEAST_STEPS else 3
    return blocks, -(-steps // blocks)


@dataclass
class Turns:
    """Of each kind of run: a step's seconds float64 [blocks, steps], and a block's processor seconds, of all of this
    process's threads, float64 [blocks].
    """

    seconds: dict[str, np.ndarray] = field(default_factory=dict)
    cpu_s: dict[str, np.ndarray] = field(default_factory=dict)

    def cores(self, kind: str) -> float:
        """How many cores a step keeps busy on average."""
        return float(self.cpu_s[kind].sum() / max(self.seconds[kind].sum(), 1e-12))


def take_turns(
    kinds: Sequence[Kind],
    step: Callable[[Any], Any],
    *,
    blocks: int,
    steps: int,
    device: torch.device,
    progress: Progress = lambda what, share: None,
) -> Turns:
    """``blocks`` times a block of ``steps`` of each kind, each time another one first. ``device``: where ``step``
    works; on CUDA times are the device's.
    """
    gc.collect()  # of what was before
    found: dict[str, list[tuple[np.ndarray, float]]] = {kind.name: [] for kind in kinds}
    for block in range(blocks):
        turn = block % len(kinds)
        for number, kind in enumerate([*kinds[turn:], *kinds[:turn]]):
            progress(f"steps: {kind.name}", (block * len(kinds) + number) / (blocks * len(kinds)))
            found[kind.name].append(_block(kind, step, block, steps, device))
    progress("steps", 1.0)
    turns = Turns()
    for name, runs in found.items():
        turns.seconds[name] = np.stack([seconds for seconds, _ in runs])
        turns.cpu_s[name] = np.array([cpu_s for _, cpu_s in runs])
    return turns


def _block(
    kind: Kind, step: Callable[[Any], Any], block: int, steps: int, device: torch.device
) -> tuple[np.ndarray, float]:
    marks, cpu_s = _Marks(device), 0.0
    batches = kind.begin(block)
    try:
        for number in range(kind.warm_up + steps):
            if number == kind.warm_up:
                marks.start()
                cpu_s = time.process_time()
            step(next(batches))
            if number >= kind.warm_up:
                marks.mark()
        seconds = marks.seconds()
        return seconds, time.process_time() - cpu_s
    finally:
        batches.close()


class _Marks:
    """Times between moments: the host's, or those at which a CUDA device came to them."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._marks = device, list[Any]()

    def start(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.mark()

    def mark(self) -> None:
        if self._device.type != "cuda":
            self._marks.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        self._marks.append(event)

    def seconds(self) -> np.ndarray:
        if self._device.type != "cuda":
            return np.diff(np.array(self._marks))
        torch.cuda.synchronize(self._device)
        pairs = zip(self._marks, self._marks[1:], strict=False)
        return np.array([begin.elapsed_time(end) / 1e3 for begin, end in pairs])


@dataclass(frozen=True)
class Parts:
    """Of a step, in ms: ``step = compute + prep + fetch + copy``."""

    step: Span
    compute: Span
    copy: Span
    prep: Span
    fetch: Span


def parts_of(seconds: Mapping[str, np.ndarray]) -> Parts:
    """From a step's seconds [blocks, steps] in each kind of run: ``"compute"``, ``"cached"``, ``"cold"``, and, where
    batches have to be brought to the device by the step, ``"host"``: as ``"compute"``, with that. Intervals come from
    resampled blocks.
    """
    means = {kind: 1e3 * times.mean(axis=1) for kind, times in seconds.items()}  # ms [blocks]
    blocks = len(means["cold"])
    value = _split({kind: each.mean() for kind, each in means.items()})
    drawn = np.random.default_rng(0).integers(0, blocks, (_RESAMPLED, blocks))
    resampled = _split({kind: each[drawn].mean(axis=1) for kind, each in means.items()})
    names = ("step", "compute", "copy", "prep", "fetch")
    return Parts(**{n: span(float(v), r, blocks) for n, v, r in zip(names, value, resampled, strict=True)})


def _split(mean: Mapping[str, Any]) -> tuple[Any, Any, Any, Any, Any]:
    """Step, compute, copy, prep, fetch. Where noise would make a stall negative, it is none, and the step is what it
    is.
    """
    compute = np.minimum(mean["compute"], mean["cold"])
    waiting = mean["cold"] - compute
    fetch = np.clip(mean["cold"] - mean["cached"], 0.0, waiting)
    copy = np.clip(mean["host"] - mean["compute"], 0.0, waiting - fetch) if "host" in mean else 0.0 * fetch
    prep = np.maximum(waiting - fetch - copy, 0.0)
    return compute + prep + fetch + copy, compute, copy, prep, fetch


def span(value: float, resampled: np.ndarray, blocks: int) -> Span:
    """With the interval in which 95 % of the values lie that were ``resampled`` from so many ``blocks``, at least 2;
    none is below 0.
    """
    wider = _STUDENT[min(blocks - 2, len(_STUDENT) - 1)] * math.sqrt(blocks / (blocks - 1))
    low, high = (value + wider * (float(each) - value) for each in np.percentile(resampled, (2.5, 97.5)))
    return Span(value, max(0.0, min(low, value)), max(high, value))
