"""Verify, try settings, then take turns: every contender in a process of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from dalipipe import cores as processor
from dalipipe.bench.comparison import Comparison, Outcome
from dalipipe.bench.contenders import CONTENDERS, OURS, Entry
from dalipipe.bench.process import ContenderError, Process
from dalipipe.bench.verify import Difference, check_training, compared, reference
from dalipipe.bench.work import Work

T = TypeVar("T")
ONE_CORE = "dalipipe, one core"
_LEAST = 4
"""Batches a turn."""


class OutputsDifferError(RuntimeError):
    """dalipipe's own pictures are not the reference's: nothing was timed."""


def compare(
    work: Work,
    names: Sequence[str] | None = None,
    *,
    images: int = 1000,
    rounds: int = 5,
    sweep: bool = True,
    progress: Callable[[str], None] = lambda words: None,
    timeout_s: float = 600,
    contenders: Mapping[str, Entry] = CONTENDERS,
) -> Comparison:
    """dalipipe beside the contenders ``names`` (all that have a way for the device), each at its best settings.

    First each gives the same evaluation pictures, which are compared with torchvision's. Then (``sweep``) each
    library's settings are tried, in two short turns, and the best are kept. Then all take turns, ``rounds`` times
    ``images`` pictures of an endless stream, or what makes whole bursts of batches of them (`Contender.cycle`), in
    another order each time; the first turn of each is not counted. A contender whose library is not there is listed as
    absent, one that does not do its work as failed, and the others go on.

    ``progress`` is told what is being done. ``timeout_s``: seconds after which a contender that does not answer, or
    does not come to rest after a turn, has failed. ``contenders``: those there are, dalipipe's among them; a loader of
    one's own may be added. Where ``work.cores`` is fewer than there are, all are kept to so many.

    Raises:
        OutputsDifferError: dalipipe's own pictures are not torchvision's.
        ValueError: an argument is out of range, there is no such contender, or a picture cannot be read.
    """
    for name, value in (("rounds", rounds), ("images", images)):
        if value < 1:
            raise ValueError(f"compare: {name} must be at least 1, got {value}")
    here = [name for name, entry in contenders.items() if work.device.split(":")[0] in entry.on]
    if unknown := [name for name in names or () if name not in here]:
        raise ValueError(
            f"compare: on {work.device} there is no contender {unknown[0]!r}; there are: {', '.join(here)}"
        )
    chosen = [name for name in here if names is None or name in (OURS, *names)]
    with tempfile.TemporaryDirectory(prefix="dalipipe-bench-") as folder:
        work = dataclasses.replace(work, folder=folder)
        work.write(Path(folder) / "work.json")
        batches = max(_LEAST, -(-images // work.batch_size))
        return _Comparing(work, contenders, batches, timeout_s, progress).run(chosen, rounds, sweep)


def first_batch_s(work: Work, name: str = OURS, *, times: int = 3) -> list[tuple[float, float]]:
    """Seconds from the start of a fresh process to its first training batch, and those of them until the imports were
    done; for each of so many processes.

    Raises:
        ContenderError: it does not do that work.
    """
    found = []
    with tempfile.TemporaryDirectory(prefix="dalipipe-bench-") as folder:
        work = dataclasses.replace(work, folder=folder)
        work.write(Path(folder) / "work.json")
        entry = CONTENDERS[name]
        settings = entry.contender().candidates(work)[0]
        limit = _limit(work)
        with Process(Path(folder) / "work.json", entry, settings, cores=limit) as process:
            process.ask("prepare")
        for _ in range(times):
            with Process(Path(folder) / "work.json", entry, settings, cores=limit) as process:
                process.start()
                found.append((process.first_batch_s, process.imports_s))
    return found


class _Comparing:
    """Of `compare`: what its steps share."""

    def __init__(
        self,
        work: Work,
        contenders: Mapping[str, Entry],
        batches: int,
        timeout_s: float,
        progress: Callable[[str], None],
    ) -> None:
        self.work, self.contenders, self.batches = work, contenders, batches
        self.timeout_s, self.progress = timeout_s, progress
        self.expected = reference(work)
        self.absent: dict[str, str] = {}
        self.failed: dict[str, str] = {}

    def run(self, names: list[str], rounds: int, sweep: bool) -> Comparison:
        verified = {}
        for name in names:
            with self._noted(name):
                verified[name] = self._verified(name)
        if OURS not in verified:
            raise OutputsDifferError(f"dalipipe: {self.failed[OURS]}; nothing was timed")
        outcomes: dict[str, Outcome] = {}
        with ExitStack() as stack:
            running: dict[str, Process] = {}
            for name, (version, prepared_s, difference) in verified.items():
                with self._noted(name):
                    settings, swept = self._best(name) if sweep else (self._candidates(name)[0], [])
                    self.progress(f"{name}: first batch")
                    running[name] = process = stack.enter_context(self._started(name, settings))
                    remark = self.contenders[name].contender().remark
                    outcomes[name] = Outcome(
                        settings, version, difference, prepared_s, *_starts(process), remark, swept
                    )
            if self.work.cores > 1 and OURS in outcomes:
                one_thread = {**outcomes[OURS].settings, "num_workers": 1}
                with self._noted(ONE_CORE):
                    running[ONE_CORE] = process = stack.enter_context(self._started(OURS, one_thread, cores=1))
                    ours = outcomes[OURS]
                    outcomes[ONE_CORE] = Outcome(
                        process.settings, ours.version, ours.difference, ours.prepared_s, *_starts(process)
                    )
            if running:
                self._take_turns(running, outcomes, rounds)
        one_core = outcomes.pop(ONE_CORE, None)
        return Comparison(self.work, outcomes, self.absent, self.failed, one_core)

    def _verified(self, name: str) -> tuple[str, float, Difference]:
        """Its version, the seconds that writing its own format took, and how its pictures differ."""
        with self._process(name, self._candidates(name)[0]) as process:
            self.progress(f"{name}: preparing")
            prepared = process.ask("prepare")
            self.progress(f"{name}: comparing outputs")
            return prepared["version"], prepared["seconds"], compared(process, self.work, self.expected)

    def _best(self, name: str) -> tuple[dict[str, Any], list[tuple[dict[str, Any], float]]]:
        """The best of its settings; all of them, and their images a second. One that fails has 0."""
        candidates = self._candidates(name)
        if len(candidates) == 1:
            return candidates[0], []
        rates = [0.0] * len(candidates)
        failures: dict[int, ContenderError] = {}
        for turn in (1, 2):
            for place, settings in enumerate(candidates):
                if place in failures:
                    continue
                self.progress(f"{name}: turn {turn} of 2 with {in_words(settings)}")
                try:
                    # One at a time: each has workers and queues, and all of them might not fit into memory.
                    with self._started(name, settings) as process:
                        found = process.run(max(_LEAST, self.batches // 2))
                except ContenderError as error:
                    rates[place], failures[place] = 0.0, error
                else:
                    rates[place] = max(rates[place], found["items"] / found["seconds"])
        if len(failures) == len(candidates):
            raise failures[0]
        tried = list(zip(candidates, rates, strict=True))
        return max(tried, key=lambda one: one[1])[0], tried

    def _take_turns(self, running: dict[str, Process], outcomes: dict[str, Outcome], rounds: int) -> None:
        names = list(running)
        for number in range(rounds + 1):
            for name in turn_order(names, number):
                if name not in outcomes:
                    continue
                self.progress(f"{name}: round {number} of {rounds}" if number else f"{name}: not counted")
                try:
                    found = running[name].run(self.batches, watched=number == 0)
                except ContenderError as error:
                    self._note(name, error)
                    running[name].close()  # it must not disturb the others
                    del outcomes[name]
                    continue
                outcome = outcomes[name]
                outcome.peak_bytes = running[name].peak_bytes
                if number:
                    outcome.rates.append(found["items"] / found["seconds"])
                    outcome.cpu_s_per_1000.append(1e3 * found["cpu_s"] / found["items"])
                    outcome.batch_s += found["batch_s"]

    def _candidates(self, name: str) -> list[dict[str, Any]]:
        return self.contenders[name].contender().candidates(self.work)

    def _process(self, name: str, settings: dict[str, Any], cores: int | None = None) -> Process:
        file, limit = Path(self.work.folder) / "work.json", cores or _limit(self.work)
        return Process(file, self.contenders[name], settings, cores=limit, timeout_s=self.timeout_s)

    def _started(self, name: str, settings: dict[str, Any], cores: int | None = None) -> Process:
        """A process at rest after its first batch, to be closed by who asks."""
        with ExitStack() as stack:
            process = stack.enter_context(self._process(name, settings, cores))
            check_training(process.start(), self.work, self.expected)
            process.settle()
            stack.pop_all()
        return process

    @contextlib.contextmanager
    def _noted(self, name: str) -> Iterator[None]:
        """A contender that cannot do something is noted as absent or failed."""
        try:
            yield
        except ContenderError as error:
            self._note(name, error)

    def _note(self, name: str, error: ContenderError) -> None:
        entry = self.contenders.get(name)
        if entry is not None and entry.is_absent(error.missing):
            self.absent[name] = entry.remedy
        else:
            self.failed[name] = str(error)


def turn_order(names: Sequence[T], number: int) -> list[T]:
    """Who comes after whom in round ``number``: a row of a Williams design, so that nobody always runs after the same
    one and meets what that leaves behind. Each is first equally often, and in twice as many rounds as there are names
    (in as many, where that is even) each comes after each other equally often.
    """
    count = len(names)
    zigzag = [(place + 1) // 2 * (1 if place % 2 else -1) for place in range(count)]  # 0, 1, -1, 2, -2, ...
    way = -1 if number // count % 2 else 1  # and then the mirror image, which an odd count needs
    return [names[(number + way * step) % count] for step in zigzag]


def in_words(settings: dict[str, Any]) -> str:
    """For tables: ``num_workers 2, normalise sample``."""
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _limit(work: Work) -> int | None:
    """Cores that its processes are kept to, where there are more of them."""
    return work.cores if work.cores < processor.threads() else None


def _starts(process: Process) -> tuple[float, float]:
    return process.first_batch_s, process.imports_s
