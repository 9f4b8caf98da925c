"""What was found out about a training step, as numbers: `dalipipe.explain` returns it, reports are made of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Span:
    """A number and the interval that it lies in with 95 % confidence; times are in ms."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class StageAlone:
    """A stage of the loader, or the training step, as it works when nothing else does.

    Attributes:
        name: read, probe, draw, decode, augment, python, copy, step; of a loader that is not dalipipe's what could be
            told apart of it.
        samples_per_s: its capacity.
        p50_ms, p99_ms: of a batch.
        cpu_ms: processor time of a batch, of all threads or processes; ``None``: not known.
        occupancy: share of the time of the real run in which it is at work, [0, 1].
        queue: batches waiting behind it on average, finished and not yet taken on; ``None``: it has no queue.
        batch_bytes: what it takes in for a batch; ``None``: not known.
    """

    name: str
    samples_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float | None
    occupancy: float
    queue: float | None
    batch_bytes: int | None


@dataclass(frozen=True)
class WhatIf:
    """A change, and the step time predicted for it.

    ``how``: what to do for it, a command or an argument, or what it stands for; ``basis``: whether the stages that it
    changes were measured with it (``"tried"``) or calculated.
    """

    name: str
    how: str
    step_ms: Span
    basis: Literal["tried", "calculated"]


@dataclass(frozen=True)
class Explanation:
    """A training step's time and its parts: ``step = compute + prep_stall + fetch_stall + copy``, in ms.

    After "Analyzing and mitigating data stalls in DNN training" (Mohan et al., VLDB 2021).

    Attributes:
        step_ms: with real data, read anew.
        compute_ms: with a batch that lies on the device already.
        copy_ms: what bringing batches to the device adds to that.
        prep_stall_ms: what waiting for decoding and augmentation adds, all files being in memory.
        fetch_stall_ms: what waiting for files adds.
        bottleneck: the `StageAlone` that bounds the step: ``"step"``, or one of the loader's.
        stages: each by itself, in the order in which a batch passes them.
        what_ifs: what would help, best first.
        predicted_ms: what the model that ``what_ifs`` come from says of the step as it is: how far it is to be trusted.
        steps_ms: of each kind of run (``"compute"``, ``"cached"``, ``"cold"``) the time of every step, in order.
        loader: what it is and how it is set: kind, batch_size, threads or workers, prefetch, device, ...
        machine: processor, cores, GPU, versions.
    """

    step_ms: Span
    compute_ms: Span
    copy_ms: Span
    prep_stall_ms: Span
    fetch_stall_ms: Span
    bottleneck: str
    stages: tuple[StageAlone, ...]
    what_ifs: tuple[WhatIf, ...]
    predicted_ms: float
    steps_ms: dict[str, tuple[float, ...]]
    loader: dict[str, Any]
    machine: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe; `from_dict` takes it back."""
        return asdict(self)
