"""What was found out about a training step, as numbers and in a sentence: `dalipipe.explain` returns it, reports are
made of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

LEAST_GAIN = 0.03
"""Share of the step time that a change must be predicted to save before it is called a help."""

MOST_QUEUED = 0.1
"""Threads that wait for a core, from which on it is said."""

MOST_OFF = 0.25
"""Share of the step time that the model may be off, and what it predicts is still told."""

_IN_WORDS = {
    "read": "reading files",
    "probe": "reading headers",
    "draw": "drawing what is augmented",
    "decode": "decoding",
    "augment": "augmentation",
    "python": "steps in Python",
    "assemble": "assembling batches",
    "copy": "copying to the device",
    "prep": "preparing batches",
    "item": "the data set's __getitem__",
    "collate": "collating",
}


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
        samples_per_s: its capacity; finite.
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

    ``name``: what would be another, as the subject of a sentence: "packing in tiles", "running 4 threads"; ``how``:
    what to do for it, a command or an argument, or what it stands for; ``basis``: whether the stages that it changes
    were measured with it (``"tried"``) or calculated.
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
        queued: threads of the step that waited for a core, on average, while its batches were on the device: other
            processes are at work, or it has more threads than there are cores.
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
    queued: float
    loader: dict[str, Any]
    machine: dict[str, Any]

    @property
    def parts(self) -> tuple[tuple[str, Span], ...]:
        """What the step's time is made of, by name."""
        return (
            ("compute", self.compute_ms),
            ("prep stall", self.prep_stall_ms),
            ("fetch stall", self.fetch_stall_ms),
            ("copy", self.copy_ms),
        )

    @property
    def stall(self) -> float:
        """Share of the step's time that goes by in waiting for data, [0, 1]."""
        return (self.prep_stall_ms.value + self.fetch_stall_ms.value) / max(self.step_ms.value, 1e-12)

    @property
    def bound_by(self) -> str:
        """The bottleneck in words."""
        if self.bottleneck == "step":
            return "the training step itself"
        if self.bottleneck == "decode" and self.loader.get("decodes"):
            return f"{self.loader['decodes']} decoding"
        return _IN_WORDS.get(self.bottleneck, self.bottleneck)

    @property
    def crowded(self) -> bool:
        """Whether the machine has been busy with something else, as far as can be told."""
        return self.queued > MOST_QUEUED

    @property
    def model_off(self) -> float:
        """How far the model is from the step as it is, as a share of that."""
        return abs(self.predicted_ms / max(self.step_ms.value, 1e-12) - 1)

    def helps(self, what_if: WhatIf) -> bool:
        """Whether the whole interval of what is predicted lies below the step as it is, and far enough to matter; by a
        model that is not `MOST_OFF`.
        """
        if self.model_off > MOST_OFF:
            return False
        step = self.step_ms.value
        return what_if.step_ms.high < step and what_if.step_ms.value <= (1 - LEAST_GAIN) * step

    @property
    def remedy(self) -> WhatIf | None:
        """What is predicted to help most: of what was tried, else of what was calculated; ``None``: nothing is."""
        helping = [what_if for what_if in self.what_ifs if self.helps(what_if)]
        return min(helping, key=lambda what_if: (what_if.basis != "tried", what_if.step_ms.value), default=None)

    def __str__(self) -> str:
        """All of it in one sentence; the parts add up as they are printed."""
        digits = digits_of(self.step_ms.value)
        total, *values = add_up(self.step_ms.value, [span.value for _, span in self.parts], digits)
        parts = " + ".join(f"{name} {value}" for (name, _), value in zip(self.parts, values, strict=True))
        remedy = self.remedy
        if self.model_off > MOST_OFF:
            end = (
                f"nothing is predicted, as the model of the loader is {100 * self.model_off:.0f} % off: run it on a "
                "machine that does nothing else"
            )
        elif self.bottleneck == "step" and self.compute_ms.value > (1 - LEAST_GAIN) * self.step_ms.value:
            end = "the loader keeps up"
        elif remedy is not None:
            end = f"{remedy.name} is predicted to bring {remedy.step_ms.value:.{digits}f}"
        else:
            end = "nothing that was tried is predicted to help"
        bound = "perhaps bound by" if self.model_off > MOST_OFF else "bound by"
        return f"step {total} ms = {parts} → {bound} {self.bound_by}; {end}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe; `from_dict` takes it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Explanation:
        """Of what `to_dict` gave. Raises ``ValueError`` where it did not give that."""
        try:
            spans = {name: Span(**value) for name, value in found.items() if name in _SPANS}
            stages = tuple(StageAlone(**stage) for stage in found["stages"])
            what_ifs = tuple(WhatIf(**{**one, "step_ms": Span(**one["step_ms"])}) for one in found["what_ifs"])
            steps = {name: tuple(times) for name, times in found["steps_ms"].items()}
            return cls(**{**found, **spans, "stages": stages, "what_ifs": what_ifs, "steps_ms": steps})
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"Explanation.from_dict: not what to_dict gives: {error}") from error


_SPANS = ("step_ms", "compute_ms", "copy_ms", "prep_stall_ms", "fetch_stall_ms")


def digits_of(ms: float) -> int:
    """How many digits after the point a time of this size is printed with: three that count."""
    return 1 if ms >= 10 else 2 if ms >= 1 else 3


def add_up(total: float, parts: Sequence[float], digits: int) -> list[str]:
    """``total`` and its parts, printed so that what is printed adds up too: what rounding leaves goes to the parts that
    it took most from.
    """
    unit = 10.0**-digits
    whole = round(total / unit)
    floors = [math.floor(part / unit) for part in parts]
    left = whole - sum(floors)
    by_rest = sorted(range(len(parts)), key=lambda at: parts[at] / unit - floors[at], reverse=True)
    for at in by_rest[: max(0, left)]:
        floors[at] += 1
    return [f"{count * unit:.{digits}f}" for count in (whole, *floors)]
