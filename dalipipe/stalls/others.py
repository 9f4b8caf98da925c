"""A training step and a loader that is not dalipipe's: where the time goes, and what would help."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import default_collate

from dalipipe.cache.available import available_bytes
from dalipipe.cores import usable_cores
from dalipipe.loader import DataLoader
from dalipipe.stalls.changes import TRAINING, Change, setting_of
from dalipipe.stalls.explanation import LEAST_GAIN, Explanation, StageAlone, WhatIf
from dalipipe.stalls.foreign import Foreign, TorchLoader, foreign, moved, tensors
from dalipipe.stalls.measuring import (
    RESIDENT,
    Kind,
    Parts,
    Progress,
    affordable,
    blocks_of,
    over,
    parts_of,
    take_turns,
)
from dalipipe.stalls.model import Model, Setting, machine
from dalipipe.stalls.walking import Measured, Stages, Walks

_ALONE = 12  # batches of which each stage is timed alone
_MOST_HELD_BYTES = 1 << 30


def explain(
    loader: Any, step: Callable[[Any], Any], *, steps: int | None, device: str | torch.device, progress: Progress
) -> Explanation:
    """As `dalipipe.explain`."""
    on = _device(device)
    if steps is None:
        with contextlib.closing(foreign(loader, 1, 0)) as of:
            batch, loader_s = _looked_at(of)
            steps = affordable(step, [moved(batch, on)], on, loader_s=loader_s, warm_up=of.warm_up)
    workers = loader.num_workers if isinstance(loader, TorchDataLoader) else 1
    in_blocks = blocks_of(steps, max(1, workers))
    with contextlib.closing(foreign(loader, in_blocks[1], in_blocks[0])) as of:
        return _Foreign(of, step, in_blocks, on, progress).explanation()


class _Foreign:
    """What is measured of a loader that is not dalipipe's."""

    def __init__(
        self,
        of: Foreign,
        step: Callable[[Any], Any],
        in_blocks: tuple[int, int],
        device: torch.device,
        progress: Progress,
    ) -> None:
        self.of, self.device, self.progress, self.remarks = of, device, progress, dict[str, str]()
        progress("first batches", 0.0)
        blocks, in_block = in_blocks
        host = list(_first(of.cold(blocks), RESIDENT))
        resident = [moved(batch, device) for batch in host]
        self.batch_bytes = sum(value.nbytes for value in tensors(host[0]))
        self.batch_size = float(np.mean([_samples(batch) for batch in host]))
        # What is read for the first time comes first: what comes then has been read.
        kinds = [Kind("cold", of.cold, of.warm_up), Kind("compute", partial(over, resident), 2)]
        if any(value.device.type != device.type for value in tensors(host)):
            kinds.append(Kind("host", partial(over, host), 2))
            if device.type == "cuda" and not any(value.is_pinned() for value in tensors(host[0])):
                kinds.append(Kind("pinned", partial(over, [_pinned(batch) for batch in host]), 2))
        kinds.append(Kind("cached", of.cached, of.warm_up))
        self.turns = take_turns(kinds, step, blocks=blocks, steps=in_block, device=device, progress=progress)

    def explanation(self) -> Explanation:
        of, seconds = self.of, self.turns.seconds
        self.progress("stages", 0.0)
        cold, cached = self._stages()
        train = {"step": Measured(seconds["compute"].ravel(), self.turns.cores("compute"))}
        if "host" in seconds:
            train["copy to device"] = self._more_than_compute("host")
        now = Setting({**cold, **train}, partial(of.pipeline, tuple(cold)), usable_cores())
        beside = {"step": self.turns.within_s("cold")} if self.device.type == "cpu" else {}
        model = Model(now, seconds["cold"].mean(axis=1), beside)
        self.progress("changes", 0.5)
        found = list(self._changes(now, cached))
        ours = self._ours(train)
        if isinstance(ours, Change):
            found.append(ours)
        elif ours:
            self.remarks["as dalipipe.DataLoader"] = ours
        loader = of.settings() | {"batch_size": self.batch_size, "device": str(self.device)} | self.remarks
        what_ifs = [WhatIf(one.name, one.how, model.predict(one.setting), one.basis) for one in found]
        parts = parts_of({kind: times for kind, times in seconds.items() if kind != "pinned"})
        self.progress("changes", 1.0)
        return Explanation(
            **parts.named(),
            bottleneck=_shown(self._bottleneck(model, parts)),
            stages=tuple(self._alone(model)),
            what_ifs=tuple(sorted(what_ifs, key=lambda what_if: what_if.step_ms.value)),
            predicted_ms=1e3 * model.predicted_s,
            steps_ms={kind: tuple((1e3 * times).ravel().tolist()) for kind, times in seconds.items()},
            queued=self.turns.queued("compute"),
            loader=loader,
            machine=machine(),
        )

    def _stages(self) -> tuple[Stages, Stages]:
        """Of the loader, one by one; where its data set does not bear that, as a whole."""
        of = self.of
        try:
            cold, cached = of.stages(_ALONE)
        except Exception as error:  # it is the user's code, and runs where it did not before
            if not isinstance(of, TorchLoader):
                raise
            self.remarks["stages"] = f"not told apart: {_in_a_line(error)}"
            cold, cached = of.as_a_whole(_ALONE), {}
        if type(of) is Foreign:
            # Whether it prepares batches in the background is not to be seen, but in the time that both take.
            prep, step = float(cold["prep"].seconds.mean()), float(self.turns.seconds["compute"].mean())
            together = float(self.turns.seconds["cold"].mean())
            of.workers = 1 if together < (prep + step + max(prep, step)) / 2 else 0
        return cold, cached

    def _bottleneck(self, model: Model, parts: Parts) -> str:
        """Where the step's own thread prepares batches nothing bounds but the sum: then it is the loader's longest
        stage, if that makes the step wait at all.
        """
        if self.of.workers:
            return model.bottleneck()
        if parts.prep.value + parts.fetch.value < LEAST_GAIN * parts.step.value:
            return "step"
        taken = {name: stage.seconds.mean() for name, stage in model.now.stages.items() if name not in TRAINING}
        return max(taken, key=lambda name: taken[name])

    def _more_than_compute(self, kind: str) -> Measured:
        more = self.turns.seconds[kind].mean() - self.turns.seconds["compute"].mean()
        return Measured(np.array([max(0.0, float(more))]), 0.0)

    def _alone(self, model: Model) -> Iterator[StageAlone]:
        """Every stage; those of worker processes with all of them at work."""
        of, stages = self.of, model.now.stages
        last = [name for name in stages if name not in TRAINING][-1]
        for name in sorted(stages, key=lambda name: TRAINING.index(name) if name in TRAINING else -1):
            measured = stages[name]
            mean = max(float(measured.seconds.mean()), 1e-9)
            workers = 1 if name in TRAINING else max(1, of.workers)
            together = max(1.0, min(workers, usable_cores() / max(measured.cores, 1e-9)))
            yield StageAlone(
                _shown(name),
                self.batch_size * together / mean,
                1e3 * float(np.quantile(measured.seconds, 0.5)),
                1e3 * float(np.quantile(measured.seconds, 0.99)),
                1e3 * mean * measured.cores,
                min(1.0, model.course.busy.get(name, 0.0) / workers),
                workers * model.course.queue if name == last and of.workers else None,
                self.batch_bytes if name in ("collate", *TRAINING) else None,
            )

    def _changes(self, now: Setting, cached: Stages) -> Iterator[Change]:
        """``cached``: what is otherwise with all files in memory, where that is known."""
        of = self.of
        if cached:
            how = "files in memory, or on a disk that keeps up"
            yield Change("faster storage", how, now.with_stages(cached), "calculated")
        twice = now.scaled({"step": 0.5})
        faster = "a GPU twice as fast" if self.device.type == "cuda" else "a training step twice as fast"
        yield Change(faster, "half of what computing takes", twice, "calculated")
        if isinstance(of, TorchLoader):
            names, there = tuple(name for name in now.stages if name not in TRAINING), int(now.cores)
            for workers in sorted({1, there, 2 * there}):
                if workers > of.workers:
                    more = replace(now, pipeline=partial(_with_workers, of, names, workers))
                    name = f"running {workers} worker{'s' if workers > 1 else ''}"
                    yield Change(name, f"num_workers={workers}", more, "calculated")
        if "pinned" in self.turns.seconds:
            pinned = now.with_stages({"copy to device": self._more_than_compute("pinned")})
            how = "pin_memory=True, and .to(device, non_blocking=True)"
            yield Change("pinned memory", how, pinned, "tried")

    def _ours(self, train: Stages) -> Change | str:
        """dalipipe's loader in its place, walked over the same batches; or why it cannot be."""
        of = self.of
        if not isinstance(of, TorchLoader) or not of.batches or not of.in_lists:
            return ""
        if of.loader.collate_fn is not default_collate:
            return "it cannot be: the loader has a collate_fn of its own, and dalipipe makes batches itself"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                loader = DataLoader(of.dataset, batch_sampler=of.batches, device=self.device, seed=0)
            with contextlib.closing(loader):
                nbytes = min(_MOST_HELD_BYTES, available_bytes() // 8)
                walks = Walks(loader, 0, 2 * _ALONE, nbytes)
        except Exception as error:  # what a data set does when another loader reads it is anything
            return f"it cannot be: {_in_a_line(error)}"
        setting = setting_of(walks, {**walks.alone, "step": train["step"]}, usable_cores())
        how = f"dalipipe.DataLoader(dataset, {of.loader.batch_size or round(self.batch_size)})"
        return Change("dalipipe.DataLoader", how, setting, "tried")


def _with_workers(of: TorchLoader, names: tuple[str, ...], workers: int, times: Any) -> Any:
    return replace(of.pipeline(names, times), workers=workers)


def _shown(name: str) -> str:
    return "copy" if name == "copy to device" else name


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    return torch.device(device)


def _first(batches: Generator[Any, None, None], count: int) -> Iterator[Any]:
    with contextlib.closing(batches):
        for _ in range(count):
            yield next(batches)


def _looked_at(of: Foreign) -> tuple[Any, float]:
    """A batch, and what the loader takes for one, s, when nobody else works."""
    count = max(2, of.workers)
    with contextlib.closing(of.cold(0)) as batches:
        batch, begin = next(batches), time.perf_counter()
        for _ in range(count):
            next(batches)
        return batch, (time.perf_counter() - begin) / count


def _in_a_line(error: Exception) -> str:
    return str(error).splitlines()[0].split(". ")[0] if str(error) else type(error).__name__


def _samples(batch: Any) -> int:
    return next((len(value) for value in tensors(batch) if value.ndim), 1)


def _pinned(batch: Any) -> Any:
    from torch.utils.data._utils.pin_memory import pin_memory

    return pin_memory(batch)
