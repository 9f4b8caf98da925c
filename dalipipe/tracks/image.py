"""Pictures: headers are read, parameters drawn, regions decoded, and a pass or more makes them a tensor. Masks, boxes
and points ride along.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dalipipe.clock import StageClock
from dalipipe.decoders import describe_decoder
from dalipipe.decoders.base import inspect
from dalipipe.decoders.tiles import kept_shares
from dalipipe.engines import make_engine
from dalipipe.plan import Draws, Plan
from dalipipe.policy import DrawError
from dalipipe.records import Encoded, Pictures
from dalipipe.sampler import Step
from dalipipe.tracks.base import LaneConfig, RowErrors, draw_step
from dalipipe.tracks.decoding import Decoding
from dalipipe.tracks.displacements import HostDisplacements
from dalipipe.tracks.masks import Masks
from dalipipe.tracks.targets import Targets


@dataclass(frozen=True)
class _Flight:
    """A batch on its way: what was read, the pictures' sizes int64 [N, 2], and what they become, where that has begun
    already (``None``: they are being decoded).
    """

    columns: Mapping[str, Any]
    size: np.ndarray
    draws: Draws
    masks: dict[str, list[Future[np.ndarray]]]
    images: Callable[[], torch.Tensor] | None


class ImageTrack:
    """A `Track` for encoded pictures, or for pictures that are in memory already, and for the masks, boxes and points
    beside them.
    """

    def __init__(self, config: LaneConfig, clock: StageClock) -> None:
        plan = config.plan
        assert isinstance(plan, Plan) and plan.field is not None
        self._config, self._clock, self._plan, self._field = config, clock, plan, plan.field.name
        self._engine = make_engine(config.engine, plan, config.output, threads=config.threads)
        self._decoding = Decoding(config, clock)
        self._masks = {
            field.name: Masks(field, config.output.device, threads=config.threads)
            for field in config.source.schema.of_kind("mask")
        }
        self._targets = Targets(config.source.schema, config.output.device)
        self._in_flight: deque[_Flight] = deque()

    def submit(self, columns: Mapping[str, Any], key: np.ndarray, step: Step) -> None:
        looked = self._decoding.look(columns[self._field])
        draws = draw_step(self._plan, self._clock, key, step, looked.size, to_come=not self._config.stacked)
        images = None
        if looked.pictures is not None and self._config.stacked and self._config.output.device.type == "cpu":
            # What needs no decoding is augmented while the next batch is read and drawn.
            images = self._engine.start(looked.pictures, draws)
        else:
            self._decoding.submit(looked, self._engine.roi(draws, looked.size))
        self._in_flight.append(_Flight(columns, looked.size, draws, self._submit_masks(columns), images))

    def collect(self) -> dict[str, Any]:
        flight = self._in_flight.popleft()
        images = flight.images
        if images is None:
            pictures = self._decoding.collect()
        with self._clock.stage("augment", len(flight.size), to_come=not self._config.stacked):
            # The pictures first: on CUDA they are only queued, and the host moves the rest meanwhile.
            return {
                self._field: self._apply(pictures, flight.draws) if images is None else images(),
                **self._ride_along(flight),
                **self._mix_labels(flight),
            }

    def _apply(self, pictures: Pictures, draws: Draws) -> torch.Tensor | list[torch.Tensor]:
        if self._config.stacked:
            return self._engine.start(pictures, draws)()
        return _one_by_one(draws, lambda rows: self._engine.start(pictures.of(rows), draws.of(rows))())

    @property
    def buffers_bytes(self) -> int:
        return self._engine.buffers_bytes + sum(masks.buffers_bytes for masks in self._masks.values())

    def reset(self) -> None:
        self._in_flight.clear()
        self._decoding.reset()

    def close(self) -> None:
        self.reset()
        self._decoding.close()
        for masks in self._masks.values():
            masks.close()
        self._engine.close()

    def _submit_masks(self, columns: Mapping[str, Any]) -> dict[str, list[Future[np.ndarray]]]:
        return {name: masks.submit(columns[name]) for name, masks in self._masks.items()}

    def _ride_along(self, flight: _Flight) -> dict[str, Any]:
        if not self._masks and not self._targets:
            return {}
        draws = flight.draws
        displacements = HostDisplacements(draws.params, threads=self._config.threads)
        masks = {
            name: self._masks[name].collect(jobs, draws.params, displacements, flight.size)
            if self._config.stacked
            else self._masks_one_by_one(name, flight)
            for name, jobs in flight.masks.items()
        }
        return {**masks, **self._targets.move(flight.columns, draws.drawn, displacements)}

    def _masks_one_by_one(self, name: str, flight: _Flight) -> list[torch.Tensor]:
        def collect(rows: np.ndarray) -> torch.Tensor:
            params = flight.draws.params.of(rows)
            displacements = HostDisplacements(params, threads=self._config.threads)
            jobs = [flight.masks[name][row] for row in rows.tolist()]
            try:
                return self._masks[name].collect(jobs, params, displacements, flight.size[rows])
            except RowErrors as error:
                raise RowErrors({int(rows[row]): cause for row, cause in error.errors.items()}) from error

        return _one_by_one(flight.draws, collect)

    def _mix_labels(self, flight: _Flight) -> dict[str, torch.Tensor]:
        mix, params = self._plan.mix, flight.draws.mix
        if mix is None or params is None:
            return {}
        classes = self._config.source.classes
        labels = mix.mix_labels(flight.columns[mix.labels], params, None if classes is None else len(classes))
        return {mix.labels: torch.from_numpy(labels)}


def _one_by_one(draws: Draws, run: Callable[[np.ndarray], torch.Tensor]) -> list[torch.Tensor]:
    """``run`` of all rows, those together that end at one size: a tensor each."""
    sizes, of_row = np.unique(draws.params.out_size, axis=0, return_inverse=True)
    out: dict[int, torch.Tensor] = {}
    for number in range(len(sizes)):
        rows = np.flatnonzero(of_row.reshape(-1) == number)
        out |= zip(rows.tolist(), run(rows), strict=True)
    return [out[row] for row in range(len(of_row.reshape(-1)))]


def explain_images(
    config: LaneConfig, key: np.ndarray, indices: np.ndarray, columns: Mapping[str, Any], rows: np.ndarray
) -> list[str]:
    """What becomes of the pictures of records ``indices`` int64 [n] that were read into ``columns``; ``rows`` int64
    [m]: those without an error.
    """
    plan = config.plan
    assert plan.field is not None
    name, column = plan.field.name, columns[plan.field.name]
    if isinstance(column, Pictures):
        lines = [f"{name!r}: pixels as they are stored; nothing to decode"]
        sizes = column.size_px[rows].astype(np.int64)
    else:
        headers, errors = inspect(column, threads=config.threads)
        rows = rows[~np.isin(rows, list(errors))]
        sizes = np.stack([headers["height"], headers["width"]], axis=1).astype(np.int64)[rows]
        lines = [f"{name!r}: files, decoded by {describe_decoder(config.decoder, config.decodes_on)}"]
    if not len(rows):
        return [*lines, f"    none of the {len(indices)} pictures looked at is good"]
    if isinstance(column, Encoded) and isinstance(plan, Plan):
        with suppress(DrawError):
            roi = plan.draw(key, indices[rows], sizes).params.roi
            tiled, mcus, nbytes = kept_shares(column.of(rows), roi, threads=config.threads)
            if tiled:
                share = f"{mcus:.0%} of the MCUs and {nbytes:.0%} of the bytes"
                lines.append(f"    {tiled} of {len(rows)} are in tiles: of these {share} are read")
            else:
                lines.append("    not in tiles; `dalipipe pack` makes files of which crops need only a part")
    middle = sizes[np.argsort(sizes.prod(axis=1))[len(sizes) // 2]]
    return [*lines, plan.explain(size=tuple(middle.tolist()))]
