"""Decoding, for the tracks of pictures: headers are read, what is encoded is decoded, what is not goes past that."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from dalipipe.decoders import make_decoder
from dalipipe.decoders.base import Decoder, inspect
from dalipipe.records import Encoded, PartlyEncoded, Pictures
from dalipipe.tracks.base import LaneConfig, RowErrors, StageClock
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
        """The pictures, where none is encoded: they need not be submitted."""
        return None if len(self.column.at) else self.column.pictures


class Decoding:
    """What a source read → pixels, in the order in which it was submitted.

    For each batch: `look`, which gives the sizes, then `submit`, then `collect`.
    """

    def __init__(self, config: LaneConfig, clock: StageClock) -> None:
        self._config, self._clock = config, clock
        self._decoder: Decoder | None = None  # made for the first encoded pictures: arrays need none
        self._in_flight: deque[Looked] = deque()

    def look(self, column: Encoded | Pictures | PartlyEncoded) -> Looked:
        """Raises `RowErrors` for what cannot be a picture."""
        part = _parted(column)
        if part.pictures is not None and not len(part.at):
            return Looked(part, part.pictures.size_px.astype(np.int64), np.zeros(0))
        size = np.zeros((len(part), 2), np.int64)
        if part.pictures is not None:
            size[_others(part)] = part.pictures.size_px
        with self._clock.stage("probe"):
            headers, errors = inspect(part.encoded, threads=self._config.threads)
        if errors:
            raise RowErrors(_at(part, errors))
        size[part.at] = np.stack([headers["height"], headers["width"]], axis=1)
        return Looked(part, size, headers)

    def submit(self, looked: Looked, roi: np.ndarray | None = None) -> None:
        """Starts decoding. ``roi`` int64 [N, 4] as y, x, h, w: the regions needed; ``None``: pictures are."""
        part = looked.column
        if len(part.at):
            if self._decoder is None:
                config = self._config
                self._decoder = make_decoder(
                    config.decoder,
                    config.output.device,
                    batch_size=config.batch_size,
                    threads=config.threads,
                    depth=config.depth,
                )
            if roi is None or part.take is not None:
                roi = np.concatenate([np.zeros_like(looked.size), looked.size], axis=1)
            self._decoder.submit(part.encoded, looked.headers, roi[part.at])
        self._in_flight.append(looked)

    def collect(self) -> Pictures:
        """The oldest batch: N pictures, or regions of them. Raises `RowErrors`."""
        part = self._in_flight.popleft().column
        if not len(part.at):
            assert part.pictures is not None
            return part.pictures
        assert self._decoder is not None
        with self._clock.stage("decode"):
            decoded, errors = self._decoder.collect()
        if errors:
            raise RowErrors(_at(part, errors))
        if part.take is not None:
            part.take(decoded)
        if part.pictures is None:
            return decoded
        kept = part.pictures
        if decoded.on_cuda and not kept.on_cuda:
            kept = self._upload(kept)
        elif kept.on_cuda and not decoded.on_cuda:
            decoded = self._upload(decoded)
        return Pictures.join(len(part), [(part.at, decoded), (_others(part), kept)])

    def _upload(self, pictures: Pictures) -> Pictures:
        return upload(pictures, self._config.output.device, threads=self._config.threads)

    def reset(self) -> None:
        """Forgets what is in flight."""
        self._in_flight.clear()
        if self._decoder is not None:
            self._decoder.reset()

    def close(self) -> None:
        self.reset()
        if self._decoder is not None:
            self._decoder.close()


def _parted(column: Encoded | Pictures | PartlyEncoded) -> PartlyEncoded:
    if isinstance(column, PartlyEncoded):
        return column
    if isinstance(column, Pictures):
        none = Encoded(np.zeros(0, np.uint8), np.zeros(1, np.int64))
        return PartlyEncoded(column, none, np.zeros(0, np.int64), None)
    return PartlyEncoded(None, column, np.arange(len(column)), None)


def _others(part: PartlyEncoded) -> np.ndarray:
    """int64: the rows of those that are not encoded."""
    is_encoded = np.zeros(len(part), bool)
    is_encoded[part.at] = True
    return np.flatnonzero(~is_encoded)


def _at(part: PartlyEncoded, errors: dict[int, Exception]) -> dict[int, Exception]:
    return {int(part.at[row]): error for row, error in errors.items()}
