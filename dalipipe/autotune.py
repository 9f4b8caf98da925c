"""Which settings make batches fastest, found on the batches of a training run: they come out the same with any."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np

BUDGET_S = 10.0
"""Seconds of making batches that trials may take, where nothing else is said."""
LEAST_BATCHES = 10
"""A trial of fewer says nothing: the first fill the loader's threads, and the last find them idle."""
MOST_BATCHES = 48

_SHARE_OF_EPOCH = 0.25  # a loader begins anew with each trial, which costs about a batch
_SECTION_S = 0.25  # what is timed in a trial takes at least this long, and
_LEAST_TIMES, _WANTED_TIMES = 3, 4  # is at least so many batches
_ROUNDS = 3  # trials of each of the best settings
_FINALISTS = 3
_WORTH_A_LOOK = 1.10  # a single trial errs: what comes this close to the best is tried again, and what lies behind it
_TIE = 1.02
_MOST_SILENT = 6  # trials one after the other that tell nothing: that the next one does is not to be expected
_TAIL = 0.25
_MOST_AHEAD, _LEAST_AHEAD = 8, 2
_PAUSE = 5  # a step of so many medians is none: a compilation, a validation
_ENOUGH_STEPS = 8
_FIRST_STEPS = 5  # of a training, in which it compiles and allocates

TilesOn = Literal["device", "host"]


@dataclass(frozen=True)
class Settings:
    """What may be chosen: ``threads``; ``ahead``, finished batches kept waiting; ``tiles_on``: where JPEGs in tiles are
    decoded when batches are made on a CUDA device.
    """

    threads: int
    ahead: int = 2
    tiles_on: TilesOn = "device"


def score(times_s: Sequence[float] | np.ndarray) -> float:
    """Seconds that a batch takes, of which a quarter is the tail: 3/4 of the mean and 1/4 of the 95th percentile."""
    return float((1 - _TAIL) * np.mean(times_s) + _TAIL * np.quantile(times_s, 0.95))


def ladder(cores: int) -> list[int]:
    """Numbers of threads worth telling apart, 1 to twice the cores, each at most 1.5 times the one before."""
    powers = [2**power for power in range(math.ceil(math.log2(2 * cores)) + 1)]
    steps = {*powers, *(3 * power // 2 for power in powers[1:]), cores}
    return sorted(step for step in steps if step <= 2 * cores)


def waits(work_s: np.ndarray, steps_s: np.ndarray, ahead: int) -> np.ndarray:
    """How long a training waits for each batch, float64 [n] s, when batches take ``work_s`` [n] to make, its steps
    ``steps_s`` [n], and ``ahead`` finished ones may wait for it. The loader holds one more while there is no room.
    """
    taken, found = list[float](), list[float]()
    placed = now = 0.0
    for number, (work, step) in enumerate(zip(work_s.tolist(), steps_s.tolist(), strict=True)):
        placed = max(placed + work, taken[number - ahead] if number >= ahead else 0.0)
        taken.append(max(placed, now))
        found.append(taken[-1] - now)
        now = taken[-1] + step
    return np.array(found)


def best_ahead(work_s: Sequence[float], steps_s: Sequence[float], most: int = _MOST_AHEAD) -> int:
    """The fewest batches kept waiting with which training is as fast as with ``most``, by `score` of its steps: worked
    out by putting the times measured together at random, in 512 steps.
    """
    middle = np.median(steps_s)
    steps = [step for step in steps_s if step <= _PAUSE * middle]
    draw = np.random.default_rng(0)
    work, step = draw.choice(work_s, 512), draw.choice(steps, 512)
    allowed = range(_LEAST_AHEAD, max(_LEAST_AHEAD, most) + 1)
    found = {ahead: score(waits(work, step, ahead) + step) for ahead in allowed}
    return min(ahead for ahead, value in found.items() if value <= min(found.values()) * (1 + (_TIE - 1) / 2))


@dataclass
class Section:
    """A trial: some steps of an epoch made with one setting, and how long each took.

    ``most``: steps; ``depth``: batches in flight at one time, so many come out before or behind what is typical.
    """

    most: int
    depth: int
    times_s: list[float] = field(default_factory=list)
    begun: int = 0
    waited: bool = False
    """Whether there was no room for a batch: what is in flight goes on meanwhile, so times say nothing from then on."""
    _over: bool = False
    _made_at: float = 0.0
    _made: int = 0

    def of(self, steps: Iterator[Any]) -> Iterator[Any]:
        """The first of ``steps``, as many as are needed."""
        while not self._enough and self.begun < self.most:
            step = next(steps, None)
            if step is None:
                break
            self.begun += 1
            yield step
        self._over = True

    def made(self) -> None:
        """A batch is finished."""
        now = time.perf_counter()
        self._made += 1
        if self._made > self.depth + 1 and not (self._over or self.waited):
            self.times_s.append(now - self._made_at)
        self._made_at = now

    @property
    def _enough(self) -> bool:
        timed = len(self.times_s)
        return self.waited or (timed >= _WANTED_TIMES and math.fsum(self.times_s) >= _SECTION_S)


def is_tuner_state(tuned: Any) -> bool:
    """Whether it may be a `Tuner.state`."""
    return (
        isinstance(tuned, dict)
        and all(
            type(tuned.get(name)) is int and tuned[name] > 0 for name in ("cores", "num_workers", "prefetch_factor")
        )
        and tuned.get("tiles_on") in get_args(TilesOn)
    )


class Tuner:
    """Says what to try next, is told what came of it, and settles for the best.

    Threads are climbed from ``start`` both ways, as long as times come close to the best. The best settings, and the
    start, are tried 3 times in turn, and of what is as good as the best within 2 % the fewest threads are chosen. How
    many batches wait is worked out, not tried: from the times of batches and of the training's steps.

    Args:
        start: what is used until something better is known.
        threads: numbers to choose from; ``None``: it is given. ahead, places: whether these are open.
        budget_s: seconds of trials that tell something; 0: nothing is tried.
    """

    def __init__(
        self,
        start: Settings,
        *,
        threads: Sequence[int] | None = None,
        ahead: bool = False,
        places: bool = False,
        budget_s: float = BUDGET_S,
    ) -> None:
        self.settings, self.budget_s = start, budget_s
        self.spent_s = 0.0
        self.reason = "not tried yet"
        self.steps_s: deque[float] = deque(maxlen=256)
        """Between a batch given to the training and the next one asked for."""
        self.most_ahead = _MOST_AHEAD
        """As many as there is memory for."""
        self._start = start
        self._threads = sorted({start.threads, *(threads or ())})
        # The start comes first: where trials end early, there is something to compare with.
        self._places: tuple[TilesOn, ...] = ("device", "host") if places and budget_s else (start.tiles_on,)
        self._ahead_open = ahead
        self._tried: dict[Settings, list[list[float]]] = {}
        self._scores: dict[Settings, list[float]] = {}
        self._silent = 0
        self._at_work = threading.Lock()
        self.settled = False
        self.found = False
        """Whether it has settled for what was measured, here or elsewhere."""
        if not budget_s:
            self._settle(start, "autotune=False")

    def begin(self) -> bool:
        """Whether trials may be made now, by the caller alone, until `end`."""
        return not self.settled and self._at_work.acquire(blocking=False)

    def on(self, device_type: str) -> None:
        """Where batches are made, which may be known only when an epoch begins."""
        if device_type != "cuda" and not self._tried:
            self._places = (self._start.tiles_on,)
        if not self.settled and not (self._ahead_open or len(self._places) > 1 or len(self._threads) > 1):
            self._settle(self._start, "all is given")

    def end(self) -> None:
        self._at_work.release()

    def share_of(self, left: int) -> int:
        """How many of an epoch's ``left`` steps trials may take: 0 where they are few."""
        allowed = int(_SHARE_OF_EPOCH * left)
        return allowed if allowed >= LEAST_BATCHES else 0

    def before(self, steps: Iterator[Any]) -> Iterator[Any]:
        """Of ``steps`` those that pass before there is something to measure: a training's first steps tell nothing."""
        while len(self.steps_s) < _FIRST_STEPS and (step := next(steps, None)) is not None:
            yield step

    def section(self, left: int, depth: int) -> Section:
        """A trial of at most ``left`` steps."""
        return Section(min(left, MOST_BATCHES), depth)

    def next(self) -> Settings | None:
        """What to try next; ``None``: it is settled."""
        if self.settled:
            return None
        wanted = next((one for one in self._scan() if one not in self._tried), None)
        if wanted is None:
            finalists = self._finalists()
            rounds = _ROUNDS if len(finalists) > 1 else 1
            wanted = min(finalists, key=lambda one: len(self._tried[one]))
            if len(self._tried[wanted]) >= rounds:
                self._end("measured")
        if not self.settled and self._tried and self.spent_s >= self.budget_s:
            self._end(f"measured, as far as {self.budget_s:g} s went")
        return None if self.settled else wanted

    def add(self, settings: Settings, section: Section, spent_s: float) -> bool:
        """What came of a trial, which took ``spent_s`` in all. Returns whether it says something: it does not where
        the training is slower than the loader, which then has nothing to gain. What says nothing costs none of the
        budget, but after some of these, one behind the other, no more is tried.
        """
        if len(section.times_s) < _LEAST_TIMES:
            self._silent += 1
            self.reason = "the training is slower than the loader" if section.waited else "batches were too few to tell"
            if self._silent >= _MOST_SILENT:
                self._end(self.reason)
            return False
        self._silent = 0
        self.spent_s += spent_s
        # New lists: `summary` may be asked for by another thread at any time.
        self._scores[settings] = [*self._scores.get(settings, ()), score(section.times_s)]
        self._tried[settings] = [*self._tried.get(settings, ()), section.times_s]
        self.settings, self.reason = self._chosen(), "the best so far"
        return True

    def take(self, settings: Settings, reason: str) -> None:
        """Settles for what has been found out elsewhere; what was given stays as it is."""
        start = self._start
        self._settle(
            Settings(
                settings.threads if len(self._threads) > 1 else start.threads,
                settings.ahead if self._ahead_open else start.ahead,
                settings.tiles_on if len(self._places) > 1 else start.tiles_on,
            ),
            reason,
        )
        self.found = True

    def state(self, cores: int) -> dict[str, Any] | None:
        """What was found, for a resume on a machine with as many ``cores`` as this one; ``None``: nothing yet."""
        if not self.found:
            return None
        chosen = self.settings
        found = {"num_workers": chosen.threads, "prefetch_factor": chosen.ahead, "tiles_on": chosen.tiles_on}
        return {"cores": cores, **found}

    def load(self, state: Mapping[str, Any]) -> None:
        """Settles for what a `state` has."""
        saved = Settings(state["num_workers"], state["prefetch_factor"], state["tiles_on"])
        self.take(saved, "taken from a saved state")

    def summary(self) -> dict[str, Any]:
        """What is used, why, and what was tried: JSON-safe."""
        tried = []
        for one, sections in list(self._tried.items()):
            times = np.concatenate(sections)
            tried.append(
                {
                    "num_workers": one.threads,
                    **self._place_of(one),
                    "trials": len(sections),
                    "batches": len(times),
                    "mean_ms": 1e3 * float(times.mean()),
                    "p95_ms": 1e3 * float(np.quantile(times, 0.95)),
                }
            )
        return {
            "num_workers": self.settings.threads,
            "prefetch_factor": self.settings.ahead,
            **self._place_of(self.settings),
            "settled": self.settled,
            "reason": self.reason,
            "seconds": self.spent_s,
            "tried": tried,
        }

    def _place_of(self, settings: Settings) -> dict[str, str]:
        return {"tiles_on": settings.tiles_on} if len(self._places) > 1 else {}

    def _end(self, reason: str) -> None:
        """Settles for what was measured."""
        chosen = self._chosen()
        self._settle(replace(chosen, ahead=self._ahead_for(chosen)), reason)

    def _settle(self, settings: Settings, reason: str) -> None:
        self.settings, self.reason, self.settled, self.found = settings, reason, True, bool(self._tried)

    def _score(self, settings: Settings) -> float:
        return float(np.median(self._scores[settings]))

    def _best(self, among: Iterable[Settings]) -> Settings:
        return min(among, key=self._score)

    def _scan(self) -> Iterator[Settings]:
        """All that is worth one trial, as far as those made say."""
        starts = [replace(self._start, tiles_on=place) for place in self._places]
        yield from starts
        start = self._best(starts[::-1])  # of what is as good, the host: the device has other uses for its memory
        at, least = self._threads.index(start.threads), self._score(start)
        for numbers in (self._threads[:at][::-1], self._threads[at + 1 :]):
            for number in numbers:
                yield (one := replace(start, threads=number))
                if self._score(one) > _WORTH_A_LOOK * least:
                    break
                least = min(least, self._score(one))

    def _finalists(self) -> list[Settings]:
        """The best, and what one has without trials: that must not lose by a single one that was disturbed."""
        best = self._score(self._best(self._tried))
        close = [one for one in self._tried if self._score(one) <= _WORTH_A_LOOK * best]
        tried_again = [one for one in close if len(self._tried[one]) > 1]  # they stay: their scores move
        anew = [one for one in close if one not in tried_again]
        others = [*tried_again, *sorted(anew, key=lambda one: (self._score(one), one.threads))]
        start = self._best(one for one in self._tried if one.threads == self._start.threads)
        return [start, *(one for one in others if one != start)][:_FINALISTS]

    def _chosen(self) -> Settings:
        """The best of what was tried as often as any; the start, as long as there is nothing to compare it with."""
        if self._start not in self._tried:
            return self._start
        most = max(len(sections) for sections in self._tried.values())
        often = [one for one in self._tried if len(self._tried[one]) == most]
        best = self._score(self._best(often))
        good = [one for one in often if self._score(one) <= _TIE * best]
        return min(good, key=lambda one: (one.threads, one.tiles_on == "device"))

    def _ahead_for(self, settings: Settings) -> int:
        steps = list(self.steps_s)
        if not self._ahead_open or settings not in self._tried or len(steps) < _ENOUGH_STEPS:
            return self._start.ahead
        work = [seconds for times in self._tried[settings] for seconds in times]
        return best_ahead(work, steps, min(self.most_ahead, _MOST_AHEAD))
