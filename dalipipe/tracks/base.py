"""What a track is, what it is made from, and how it tells which samples went wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch

from dalipipe.clock import StageClock
from dalipipe.engines.base import Output
from dalipipe.plan import Draws, Plan
from dalipipe.policy import DrawError
from dalipipe.sampler import Step
from dalipipe.sources.base import Source
from dalipipe.stages import StagedPlan


@dataclass(frozen=True)
class LaneConfig:
    """What a lane is built from.

    ``batch_size``: samples in the largest batch; ``depth``: batches being decoded at one time; ``mask``: whether
    batches say which of their rows count; ``stacked``: whether a batch's samples become one tensor, else they are a
    list of them, of any sizes; ``tiles_on``: where JPEGs in tiles are decoded if ``output`` is on a CUDA device.
    """

    source: Source
    plan: Plan | StagedPlan
    output: Output
    batch_size: int
    threads: int
    depth: int
    decoder: str
    engine: str
    mask: bool = False
    stacked: bool = True
    tiles_on: Literal["device", "host"] = "device"

    @property
    def decodes_on(self) -> torch.device:
        """Where pictures are decoded that can be decoded there."""
        return self.output.device if self.tiles_on == "device" else torch.device("cpu")

    @property
    def names(self) -> tuple[str, ...]:
        """A batch's fields."""
        return (*self.source.schema.names, "valid") if self.mask else self.source.schema.names


class RowErrors(Exception):
    """Samples of a batch that went wrong, by row."""

    def __init__(self, errors: dict[int, Exception]) -> None:
        super().__init__(f"{len(errors)} samples of a batch went wrong")
        self.errors = errors


def draw_step(
    plan: Plan, clock: StageClock, key: np.ndarray, step: Step, size: np.ndarray, *, to_come: bool = False
) -> Draws:
    """What happens to a step's samples of ``size`` int64 [N, d]. ``to_come``: more is drawn for them by another plan.
    Raises `RowErrors` where an operator cannot be applied.
    """
    variants = 0 if step.variants is None else step.variants
    with clock.stage("draw", len(step), to_come=to_come):
        try:
            # What only fills a batch up stands nowhere in the epoch, so nothing mixes with it.
            positions = np.where(step.counts, step.positions, -1)
            return plan.draw(key, step.indices, size, variants, positions)
        except DrawError as error:
            raise RowErrors({error.row: error}) from error


class Track(Protocol):
    """The way of one field, and of those that move with it: from what a source read, through headers, draws and
    decoding, to tensors on the device.

    Batches come out in the order they went in. `submit` raises, and nothing is then in flight for that batch;
    `collect` raises, and that batch is done with. Either way `RowErrors` names the rows.
    """

    def submit(self, columns: Mapping[str, Any], key: np.ndarray, step: Step) -> None:
        """Starts the samples of ``step`` in the epoch with this `rng.make_key`; ``columns``: what was read."""
        ...

    def collect(self) -> dict[str, Any]:
        """The oldest batch in flight, by name: its fields' tensors, or a list of them where samples' sizes differ."""
        ...

    @property
    def buffers_bytes(self) -> int:
        """Host memory kept to be used again."""
        ...

    def reset(self) -> None:
        """Forgets what is in flight."""
        ...

    def close(self) -> None:
        """Frees everything."""
        ...
