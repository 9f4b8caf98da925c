"""Kinds of runs timed in turns, a short block of steps each, so that a noisy machine is noisy for all of them alike;
and what the difference between them says of a step.
"""

from __future__ import annotations

import contextlib
import gc
import glob
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dalipipe.stalls.explanation import Span

Progress = Callable[[str, float], None]
"""What is being done, and the share of all that is done, [0, 1]."""

LEAST_STEPS, MOST_STEPS = 12, 60
SHORT_STEPS = 240  # at most, where they are short: what a moment's noise does to few of them it does not do to many
RESIDENT = 4  # batches that lie on the device: one alone would stay in the processor's caches

_BUDGET_S = 60.0
_BLOCKS, _KINDS = 6, 3
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


def affordable(
    step: Callable[[Any], Any],
    batches: Sequence[Any],
    device: torch.device,
    *,
    most: int = MOST_STEPS,
    loader_s: float = 0.0,
    warm_up: int = 4,
) -> int:
    """Steps of each kind that, all together, take about a minute; at least 12. ``batches``: on the device;
    ``loader_s``: what the loader takes for a batch, as far as that is known; ``warm_up``: batches of it in each block
    that do not count.

    Raises ``ValueError`` where several processes train together: they have to take as many steps each.
    """
    if (
        torch.distributed.is_available()
        and torch.distributed.is_initialized()
        and torch.distributed.get_world_size() > 1
    ):
        raise ValueError("explain: where several processes train together, say how many steps to take: steps=60")
    seconds = _block(Kind("first", partial(over, batches), 1), step, 0, 2, device).seconds
    in_block = _BUDGET_S / (_BLOCKS * max(float(seconds.min()), loader_s, 1e-9)) - 2 * warm_up
    return int(np.clip(_BLOCKS * in_block / _KINDS, LEAST_STEPS, most))


def blocks_of(steps: int, period: int = 1) -> tuple[int, int]:
    """In how many blocks so many steps are taken, and how many each has: each begins with some that do not count, so
    few steps are taken in few. ``period``: a block has a multiple of it: worker processes that begin together give
    their batches together, so that many come at once, after a long wait.

    Raises ``ValueError`` for fewer steps than say something.
    """
    if steps < LEAST_STEPS:
        raise ValueError(f"explain: steps must be at least {LEAST_STEPS}, got {steps}")
    blocks = _BLOCKS if steps >= 2 * LEAST_STEPS else 3
    return blocks, period * -(-steps // (blocks * period))


@dataclass(frozen=True)
class Block:
    """Some steps of a kind, one after the other: their ``seconds`` float64 [steps]; what of these went by in the step
    itself, not in waiting for its batch, as the host sees it, ``within_s`` float64 [steps]; and, of all of this
    process's threads, the seconds on a processor, and those spent waiting for one.
    """

    seconds: np.ndarray
    within_s: np.ndarray
    cpu_s: float
    queued_s: float


@dataclass(frozen=True)
class Turns:
    """Of each kind of run, its blocks."""

    blocks: Mapping[str, Sequence[Block]]

    @property
    def seconds(self) -> dict[str, np.ndarray]:
        """A step's, of each kind: float64 [blocks, steps]."""
        return {kind: np.stack([block.seconds for block in blocks]) for kind, blocks in self.blocks.items()}

    def within_s(self, kind: str) -> float:
        """What goes by in a step itself, on average."""
        return float(np.mean([block.within_s for block in self.blocks[kind]]))

    def cores(self, kind: str) -> float:
        """How many cores a step keeps busy on average."""
        return self._per_second(kind, "cpu_s")

    def queued(self, kind: str) -> float:
        """How many threads, on average, would work but wait for a core."""
        return self._per_second(kind, "queued_s")

    def _per_second(self, kind: str, name: str) -> float:
        blocks = self.blocks[kind]
        return float(sum(getattr(block, name) for block in blocks) / max(sum(b.seconds.sum() for b in blocks), 1e-12))


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
    found: dict[str, list[Block]] = {kind.name: [] for kind in kinds}
    for block in range(blocks):
        turn = block % len(kinds)
        for number, kind in enumerate([*kinds[turn:], *kinds[:turn]]):
            progress(f"steps: {kind.name}", (block * len(kinds) + number) / (blocks * len(kinds)))
            found[kind.name].append(_block(kind, step, block, steps, device))
    progress("steps", 1.0)
    return Turns(found)


def _block(kind: Kind, step: Callable[[Any], Any], block: int, steps: int, device: torch.device) -> Block:
    marks, within_s, cpu_s, queued_s = _Marks(device), list[float](), 0.0, 0.0
    batches = kind.begin(block)
    try:
        for number in range(kind.warm_up + steps):
            if number == kind.warm_up:
                queued_s = _queued_s()
                marks.start()
                cpu_s = time.process_time()
            batch, begin = next(batches), time.perf_counter()
            step(batch)
            if number >= kind.warm_up:
                within_s.append(time.perf_counter() - begin)
                marks.mark()
        seconds = marks.seconds()
        return Block(seconds, np.array(within_s), time.process_time() - cpu_s, max(0.0, _queued_s() - queued_s))
    finally:
        batches.close()


def _queued_s() -> float:
    """For how long this process's threads have waited for a core, so far; 0 where the system does not say."""
    queued_ns = 0
    for path in glob.glob("/proc/self/task/*/schedstat"):
        with contextlib.suppress(OSError, IndexError, ValueError):  # it has ended
            queued_ns += int(Path(path).read_text().split()[1])
    return queued_ns / 1e9


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

    def named(self) -> dict[str, Span]:
        """As an `Explanation` has them."""
        stalls = {"prep_stall_ms": self.prep, "fetch_stall_ms": self.fetch}
        return {"step_ms": self.step, "compute_ms": self.compute, "copy_ms": self.copy, **stalls}


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
