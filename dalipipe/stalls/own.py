"""A training step and dalipipe's own loader, run apart and together: where the time goes, and what would help."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from dalipipe import native
from dalipipe.cache.available import available_bytes
from dalipipe.clock import StageClock
from dalipipe.cores import usable_cores
from dalipipe.loader import DataLoader
from dalipipe.stalls.changes import TRAINING, Change, Changes, in_order, known_as, setting_of, timed_beside
from dalipipe.stalls.explanation import Explanation, StageAlone, WhatIf
from dalipipe.stalls.held import bytes_of
from dalipipe.stalls.measuring import (
    MOST_STEPS,
    RESIDENT,
    SHORT_STEPS,
    Kind,
    Parts,
    Progress,
    Turns,
    affordable,
    blocks_of,
    over,
    parts_of,
    take_turns,
)
from dalipipe.stalls.model import Model, Setting, machine
from dalipipe.stalls.walking import WARM_UP, Measured, Walks

_MOST_HELD_BYTES = 2 << 30
_WALKED = 16  # batches, at least, of which each stage is timed alone


@dataclass(frozen=True)
class Findings:
    """What was measured of a loader and a step. ``seconds``: a step's, float64 [blocks, steps], of each kind of run;
    ``model`` predicts other `Setting`s; ``cached``: with all files in memory.
    """

    walks: Walks
    turns: Turns
    seconds: Mapping[str, np.ndarray]
    parts: Parts
    model: Model
    cached: Setting
    changes: tuple[Change, ...]
    queue: float
    batch_size: float
    batch_bytes: Mapping[str, int]
    loader: dict[str, Any]

    def explanation(self) -> Explanation:
        model = self.model
        stages, what_ifs = (
            alone(self),
            [WhatIf(change.name, change.how, model.predict(change.setting), change.basis) for change in self.changes],
        )
        return Explanation(
            **self.parts.named(),
            bottleneck=known_as(model.bottleneck(), self.walks),
            stages=stages,
            what_ifs=tuple(sorted(what_ifs, key=lambda what_if: what_if.step_ms.value)),
            predicted_ms=1e3 * model.predicted_s,
            steps_ms={kind: tuple((1e3 * seconds).ravel().tolist()) for kind, seconds in self.seconds.items()},
            queued=self.turns.queued("compute"),
            loader=self.loader,
            machine=machine(),
        )


def investigate(
    loader: DataLoader,
    step: Callable[[Any], Any],
    *,
    steps: int | None = None,
    epoch: int | None = None,
    progress: Progress = lambda what, share: None,
    tries: bool = True,
) -> Findings:
    """What `dalipipe.explain` finds of a dalipipe `DataLoader`, with the model that predictions come from. ``tries``:
    whether changes are tried; the others as there.
    """
    most = MOST_STEPS if steps is None else blocks_of(steps)[0] * blocks_of(steps)[1]
    nbytes = min(_MOST_HELD_BYTES, available_bytes() // 8)
    warm_up = loader._ahead + 4
    epoch = loader._steps.next_epoch if epoch is None else epoch
    walks = Walks(loader, epoch, most + 2 * warm_up, nbytes, lambda share: progress("reading", share))
    ready, together = list[int](), StageClock()
    with ExitStack() as stack:
        cold = stack.enter_context(walks.runner(clock=together))
        cached = stack.enter_context(walks.runner(walks.held))
        given = _batches(cached(0), min(RESIDENT, len(walks.steps)))
        device = _device(given[0])
        resident = [_moved(batch, device) for batch in given]
        if steps is None:
            progress("steps", 0.0)
            loader_s = sum(float(stage.seconds.mean()) for stage in walks.alone.values())
            steps = affordable(step, resident, device, most=SHORT_STEPS, loader_s=loader_s, warm_up=warm_up)
        blocks, in_block = blocks_of(steps)

        def read_anew(block: int) -> Generator[Any, None, None]:
            walks.forget()
            return cold(block * in_block, ready)

        kinds = [
            Kind("compute", partial(over, resident), 2),
            Kind("cold", read_anew, warm_up),
        ]

        def from_memory(block: int) -> Generator[Any, None, None]:
            if walks.in_maps:
                _batches(cached(block * in_block), warm_up + in_block + warm_up)  # with those made ahead
            return cached(block * in_block)

        if walks.fetches:
            kinds.append(Kind("cached", from_memory, warm_up))
        if any(value.device != device for batch in given for value in _tensors(batch)):
            kinds.insert(1, Kind("host", partial(over, given), 2))
        turns = take_turns(kinds, step, blocks=blocks, steps=in_block, device=device, progress=progress)
    progress("stages", 0.0)
    seconds = {"cached": turns.seconds["cold"], **turns.seconds}
    batches = min(max(_WALKED, steps // 2), len(walks.steps))
    in_memory = walks.stages(
        walks.held, batches=batches, passes=-(-_WALKED // batches), warm_up=batches if walks.in_maps else WARM_UP
    )
    progress("stages", 0.5)
    train = {"step": Measured(seconds["compute"].ravel(), turns.cores("compute"))}
    if "host" in seconds:
        more = seconds["host"].mean() - seconds["compute"].mean()
        train["copy to device"] = Measured(np.array([max(0.0, float(more))]), 0.0)
    now = setting_of(walks, {**walks.alone, **train}, usable_cores())
    cached_now = setting_of(walks, {**in_memory, **train}, usable_cores())
    changes = Changes(walks, now, cached_now)
    found = [*changes.calculated(), *(changes.tried() if tries else ())]
    progress("stages", 1.0)
    beside = timed_beside(walks, now.stages, together)
    if device.type == "cpu":
        beside["step"] = turns.within_s("cold")
    return Findings(
        walks,
        turns,
        seconds,
        parts_of(seconds),
        Model(now, seconds["cold"].mean(axis=1), beside),
        cached_now,
        tuple(found),
        float(np.mean(ready)),
        float(np.mean([len(step) for step in walks.steps])),
        _bytes(walks, resident),
        _settings(loader, walks),
    )


def alone(found: Findings) -> tuple[StageAlone, ...]:
    """Every stage, in the order in which a batch passes them."""
    stages, busy = found.model.now.stages, found.model.course.busy
    names = in_order(stages)
    last = next(name for name in reversed(names) if name not in TRAINING)
    out = []
    for name in names:
        measured = stages[name]
        mean = float(measured.seconds.mean())
        out.append(
            StageAlone(
                known_as(name, found.walks),
                found.batch_size / max(mean, 1e-9),
                1e3 * float(np.quantile(measured.seconds, 0.5)),
                1e3 * float(np.quantile(measured.seconds, 0.99)),
                1e3 * mean * measured.cores,
                min(1.0, busy.get(name, 0.0)),
                found.queue if name == last else None,
                found.batch_bytes.get(name),
            )
        )
    return tuple(out)


def _batches(run: Generator[Any, None, None], count: int) -> list[Any]:
    try:
        return [next(run) for _ in range(count)]
    finally:
        run.close()


def _device(batch: Any) -> torch.device:
    """Where training takes place: the device that the batch is on, or else the current CUDA device."""
    on_cuda = [value.device for value in _tensors(batch) if value.is_cuda]
    if on_cuda:
        return on_cuda[0]
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def _moved(batch: Any, device: torch.device) -> Any:
    moved = tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), batch)
    moved.indices, moved.draws = batch.indices, batch.draws
    return moved


def _tensors(batch: Any) -> list[torch.Tensor]:
    return [value for value in tree_leaves(batch) if isinstance(value, torch.Tensor)]


def _bytes(walks: Walks, resident: list[Any]) -> dict[str, int]:
    """What stages take in for a batch, as far as that is known."""
    read = walks.held.read(walks.steps[0].indices)
    encoded = sum(bytes_of(column) for column in read.columns.values())
    given = sum(value.nbytes for value in _tensors(resident[0]))
    return {"read": encoded, "decode": encoded, "copy": given, "copy to device": given, "step": given}


def _format(walks: Walks) -> str | None:
    """What most pictures are, where they are files."""
    if walks.encoded is None:
        return None
    kinds = native.probe_images(walks.encoded.arena, walks.encoded.starts)["kind"]
    name = native.IMAGE_KINDS[int(np.bincount(kinds).argmax())]
    return None if name == "unknown" else name.upper()


def _settings(loader: DataLoader, walks: Walks) -> dict[str, Any]:
    """What the loader is and how it is set."""
    config = walks.config
    return {
        "kind": "dalipipe.DataLoader",
        "dataset": repr(loader.source)[:200],
        "batch_size": round(float(np.mean([len(step) for step in walks.steps])), 1),
        "threads": config.threads,
        "prefetch": walks.ahead,
        "device": str(config.output.device),
        "decoder": config.decoder,
        "decodes": _format(walks),
        "tuned": loader._tuner.found,
        "cache": None if walks.cache is None else walks.cache.describe(config.threads),
        "files_forgotten": len(walks.files),
    }
