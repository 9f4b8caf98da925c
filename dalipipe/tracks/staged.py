"""Pictures of a policy that has Python steps: plan by plan, with Python in between."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from dalipipe.clock import StageClock
from dalipipe.engines.base import Output
from dalipipe.records import Pictures
from dalipipe.sampler import Step
from dalipipe.stages import Stage, StagedPlan
from dalipipe.tracks.base import LaneConfig
from dalipipe.tracks.decoding import Decoding
from dalipipe.tracks.image import ImageTrack
from dalipipe.tracks.python import run_on_pictures, run_on_tensors

_HOST = Output(torch.device("cpu"), torch.uint8, torch.channels_last)


class DecodedTrack:
    """A `Track` to whole pictures as they are, on the host: `collect` gives arrays uint8 [H, W, C]."""

    def __init__(self, config: LaneConfig, clock: StageClock) -> None:
        assert config.plan.field is not None
        self._field = config.plan.field.name
        self._decoding = Decoding(config, clock)

    def submit(self, columns: Mapping[str, Any], key: np.ndarray, step: Step) -> None:
        self._decoding.submit(self._decoding.look(columns[self._field]))

    def collect(self) -> dict[str, Any]:
        pictures = self._decoding.collect()
        return {self._field: [pictures[row] for row in range(len(pictures))]}

    buffers_bytes = 0

    def reset(self) -> None:
        self._decoding.reset()

    def close(self) -> None:
        self._decoding.close()


class StagedTrack:
    """A `Track`: the first stage decodes, two batches deep; all that follows happens when a batch is collected."""

    def __init__(self, config: LaneConfig, clock: StageClock) -> None:
        plan = config.plan
        assert isinstance(plan, StagedPlan) and plan.field is not None
        if plan.after is not None and config.output.dtype == torch.uint8:
            raise ValueError(f"dtype=torch.uint8 cannot hold what {plan.after!r} makes: give a float dtype")
        self._plan, self._clock, self._field, self._output = plan, clock, plan.field.name, config.output
        self._stages = [_track(stage, config, clock) for stage in plan.stages]
        output = config.output if plan.after is None else replace(config.output, dtype=torch.float32)
        self._last = ImageTrack(replace(config, plan=plan.last, output=output), clock)
        self._in_flight: deque[tuple[Mapping[str, Any], np.ndarray, Step]] = deque()

    def submit(self, columns: Mapping[str, Any], key: np.ndarray, step: Step) -> None:
        self._tracks[0].submit(columns, key, step)
        self._in_flight.append((columns, key, step))

    def collect(self) -> dict[str, Any]:
        columns, key, step = self._in_flight.popleft()
        for number, stage in enumerate(self._plan.stages):
            track = self._stages[number]
            if number:
                track.submit(columns, key, step)
            pictures = track.collect()[self._field]
            if stage.plan is not None:  # tensors [C, H, W], channels last
                pictures = [picture.permute(1, 2, 0).numpy() for picture in pictures]
            to_come = number + 1 < len(self._stages) or self._plan.after is not None
            with self._clock.stage("python", len(pictures), to_come=to_come):
                changed = run_on_pictures(stage.steps, pictures, key, step, number)
            columns = {**columns, self._field: Pictures.from_arrays(changed)}
        if self._stages:
            self._last.submit(columns, key, step)
        out = self._last.collect()
        if self._plan.after is not None:
            with self._clock.stage("python", len(out[self._field])):
                rows = run_on_tensors(self._plan.after, out[self._field].cpu(), key, step, len(self._stages))
            out[self._field] = self._stacked(rows)
        return out

    def _stacked(self, rows: list[torch.Tensor]) -> torch.Tensor:
        shapes = {tuple(row.shape) for row in rows}
        if len(shapes) > 1:
            raise ValueError(f"{self._plan.after!r} gave tensors of different shapes: {', '.join(map(str, shapes))}")
        batch = torch.stack(rows).to(self._output.device, self._output.dtype)
        return batch.contiguous(memory_format=self._output.memory_format) if batch.ndim == 4 else batch

    @property
    def _tracks(self) -> list[Any]:
        return [*self._stages, self._last]

    @property
    def buffers_bytes(self) -> int:
        return sum(track.buffers_bytes for track in self._tracks)

    def reset(self) -> None:
        self._in_flight.clear()
        for track in self._tracks:
            track.reset()

    def close(self) -> None:
        for track in self._tracks:
            track.close()


def _track(stage: Stage, config: LaneConfig, clock: StageClock) -> Any:
    if stage.plan is None:
        return DecodedTrack(replace(config, output=_HOST), clock)
    return ImageTrack(replace(config, plan=stage.plan, output=_HOST, stacked=False), clock)
