"""Decoding, for the tracks of pictures: headers are read, what is encoded is decoded, what is not goes past that."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from dalipipe.clock import StageClock
from dalipipe.decoders import make_decoder
from dalipipe.decoders.base import DecodeError, Decoder, inspect
from dalipipe.decoders.device import TileDecoder
from dalipipe.queues import queue_of
from dalipipe.records import Encoded, PartlyEncoded, Pictures, Tiles
from dalipipe.tracks.base import LaneConfig, RowErrors
from dalipipe.transfers import upload


@dataclass(frozen=True)
class Looked:
    """N pictures whose headers have been looked at.

    ``size``: int64 [N, 2], height and width; ``headers``: of the encoded ones, `native.IMAGE_HEADER` [A].
    """

    column: PartlyEncoded
    size: np.ndarray
    headers: np.ndarray

    @property
    def pictures(self) -> Pictures | None:
        """The pictures, where all are pixels: they need not be submitted."""
        kept = self.column.kept
        return kept if isinstance(kept, Pictures) and not len(self.column.at) else None


class Decoding:
    """What a source read → pixels, in the order in which it was submitted.

    For each batch: `look`, which gives the sizes, then `submit`, then `collect`.
    """

    def __init__(self, config: LaneConfig, clock: StageClock) -> None:
        self._config, self._clock = config, clock
        self._decoder: Decoder | None = None  # made for the first encoded pictures: arrays need none
        self._tiles: TileDecoder | None = None  # for the first that are kept as tiles
        self._in_flight: deque[Looked] = deque()

    def look(self, column: Encoded | Pictures | Tiles | PartlyEncoded) -> Looked:
        """Raises `RowErrors` for what cannot be a picture."""
        part = _parted(column)
        if part.kept is not None and not len(part.at):
            return Looked(part, part.kept.size_px.astype(np.int64), np.zeros(0))
        size = np.zeros((len(part), 2), np.int64)
        if part.kept is not None:
            size[_others(part)] = part.kept.size_px
        with self._clock.stage("probe", len(part.at)):
            headers, errors = inspect(part.encoded, threads=self._config.threads)
        if errors:
            raise RowErrors({int(part.at[row]): error for row, error in errors.items()})
        size[part.at] = np.stack([headers["height"], headers["width"]], axis=1)
        return Looked(part, size, headers)

    def submit(self, looked: Looked, roi: np.ndarray | None = None) -> None:
        """Starts decoding. ``roi`` int64 [N, 4] as y, x, h, w: the regions needed; ``None``: pictures are."""
        with self._clock.stage("decode", to_come=True):
            self._submit(looked, roi)
        self._in_flight.append(looked)

    def _submit(self, looked: Looked, roi: np.ndarray | None) -> None:
        part = looked.column
        if roi is None or part.take is not None:
            roi = np.concatenate([np.zeros_like(looked.size), looked.size], axis=1)
        if isinstance(part.kept, Tiles):
            if self._tiles is None:
                self._tiles = TileDecoder(queue_of(self._config.output.device), threads=self._config.threads)
            self._tiles.submit(part.kept, roi[_others(part)])
        if len(part.at):
            if self._decoder is None:
                config = self._config
                self._decoder = make_decoder(
                    config.decoder,
                    config.decodes_on,
                    batch_size=config.batch_size,
                    threads=config.threads,
                    depth=config.depth,
                )
            self._decoder.submit(part.encoded, looked.headers, roi[part.at])

    def collect(self) -> Pictures:
        """The oldest batch: N pictures, or regions of them. Raises `RowErrors`."""
        part = self._in_flight.popleft().column
        if isinstance(part.kept, Pictures) and not len(part.at):
            return part.kept
        errors: dict[int, Exception] = {}
        parts: list[tuple[np.ndarray, Pictures]] = []
        with self._clock.stage("decode", len(part)):
            if isinstance(part.kept, Tiles):
                assert self._tiles is not None
                rows = _others(part)
                decoded, damaged = self._tiles.collect()
                parts.append((rows, decoded))
                errors |= {int(rows[row]): DecodeError("its data are damaged") for row in damaged.tolist()}
            elif part.kept is not None:
                parts.append((_others(part), part.kept))
            if len(part.at):
                assert self._decoder is not None
                decoded, found = self._decoder.collect()
                parts.append((part.at, decoded))
                errors |= {int(part.at[row]): error for row, error in found.items()}
        if errors:
            raise RowErrors(errors)
        if part.take is not None:
            part.take(decoded)
        if len(parts) == 1:
            return parts[0][1]
        if len({pictures.on_cuda for _, pictures in parts}) > 1:
            parts = [(rows, pictures if pictures.on_cuda else self._upload(pictures)) for rows, pictures in parts]
        return Pictures.join(len(part), parts)

    def _upload(self, pictures: Pictures) -> Pictures:
        return upload(pictures, self._config.output.device, threads=self._config.threads)

    def reset(self) -> None:
        """Forgets what is in flight."""
        self._in_flight.clear()
        for decoder in (self._decoder, self._tiles):
            if decoder is not None:
                decoder.reset()

    def close(self) -> None:
        self.reset()
        for decoder in (self._decoder, self._tiles):
            if decoder is not None:
                decoder.close()


def _parted(column: Encoded | Pictures | Tiles | PartlyEncoded) -> PartlyEncoded:
    if isinstance(column, PartlyEncoded):
        return column
    if isinstance(column, Encoded):
        return PartlyEncoded(None, column, np.arange(len(column)), None)
    return PartlyEncoded(column, Encoded(np.zeros(0, np.uint8), np.zeros(1, np.int64)), np.zeros(0, np.int64), None)


def _others(part: PartlyEncoded) -> np.ndarray:
    """int64: the rows of those that are kept."""
    is_encoded = np.zeros(len(part), bool)
    is_encoded[part.at] = True
    return np.flatnonzero(~is_encoded)
