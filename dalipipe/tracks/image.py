"""Pictures: headers are read, parameters drawn, regions decoded, and a pass or more makes them a tensor."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from dalipipe.decoders import make_decoder
from dalipipe.decoders.base import Decoder, inspect
from dalipipe.engines import make_engine
from dalipipe.plan import Draws
from dalipipe.policy import DrawError
from dalipipe.records import Encoded, Pictures
from dalipipe.sampler import Step
from dalipipe.tracks.base import LaneConfig, RowErrors, StageClock


class ImageTrack:
    """A `Track` for encoded pictures, or for pictures that are in memory already."""

    def __init__(self, config: LaneConfig, clock: StageClock) -> None:
        assert config.plan.field is not None
        self._config, self._clock, self._field = config, clock, config.plan.field.name
        self._engine = make_engine(config.engine, config.plan, config.output, threads=config.threads)
        self._decoder: Decoder | None = None  # made for the first encoded pictures: arrays need none
        # Pictures that need no decoding wait here; None: the decoder has them.
        self._in_flight: deque[tuple[Pictures | None, Draws]] = deque()

    def submit(self, columns: Mapping[str, Any], key: np.ndarray, step: Step) -> None:
        column: Encoded | Pictures = columns[self._field]
        if isinstance(column, Pictures):
            self._in_flight.append((column, self._draw(key, step, column.size_px)))
            return
        with self._clock.stage("probe"):
            headers, errors = inspect(column, threads=self._config.threads)
        if errors:
            raise RowErrors(errors)
        size = np.stack([headers["height"], headers["width"]], axis=1).astype(np.int64)
        draws = self._draw(key, step, size)
        if self._decoder is None:
            config = self._config
            self._decoder = make_decoder(
                config.decoder,
                config.output.device,
                batch_size=config.batch_size,
                threads=config.threads,
                depth=config.depth,
            )
        self._decoder.submit(column, headers, self._engine.roi(draws, size))
        self._in_flight.append((None, draws))

    def collect(self) -> dict[str, torch.Tensor]:
        pictures, draws = self._in_flight.popleft()
        if pictures is None:
            assert self._decoder is not None
            with self._clock.stage("decode"):
                pictures, errors = self._decoder.collect()
            if errors:
                raise RowErrors(errors)
        with self._clock.stage("augment"):
            return {self._field: self._engine.apply(pictures, draws)}

    @property
    def buffers_bytes(self) -> int:
        return self._engine.buffers_bytes

    def reset(self) -> None:
        self._in_flight.clear()
        if self._decoder is not None:
            self._decoder.reset()

    def close(self) -> None:
        self.reset()
        if self._decoder is not None:
            self._decoder.close()
        self._engine.close()

    def _draw(self, key: np.ndarray, step: Step, size: np.ndarray) -> Draws:
        variants = 0 if step.variants is None else step.variants
        with self._clock.stage("draw"):
            try:
                return self._config.plan.draw(key, step.indices, size.astype(np.int64), variants)
            except DrawError as error:
                raise RowErrors({error.row: error}) from error
