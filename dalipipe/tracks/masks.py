"""Label maps: decoded whole, and moved with their pictures by the same draws, nearest neighbours."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from dalipipe import native
from dalipipe.buffers import BufferPool
from dalipipe.decoders.pillow import decode_mask
from dalipipe.passes.params import ImageParams
from dalipipe.records import Encoded, Pictures
from dalipipe.schema import Field
from dalipipe.tracks.base import RowErrors
from dalipipe.tracks.displacements import HostDisplacements


class Masks:
    """The masks of one field. Each batch: `submit`, then `collect` of what it gave."""

    def __init__(self, field: Field, device: torch.device, *, threads: int) -> None:
        self._field, self._device, self._threads = field, device, threads
        self._table = None if field.table is None else np.array(field.table, np.int32)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="dalipipe-masks")
        self._buffers = BufferPool()

    def submit(self, column: Encoded | Pictures) -> list[Future[np.ndarray]]:
        """Starts decoding."""
        if isinstance(column, Pictures):
            return [self._pool.submit(lambda row: column[row][..., 0], row) for row in range(len(column))]
        return [self._pool.submit(decode_mask, column[row]) for row in range(len(column))]

    def collect(
        self, masks: list[Future[np.ndarray]], params: ImageParams, displacements: HostDisplacements, size: np.ndarray
    ) -> torch.Tensor:
        """int64 [N, H, W] on the device. ``size`` int64 [N, 2]: of the pictures, which the masks must share."""
        decoded, errors = [], {}
        for row, job in enumerate(masks):
            try:
                decoded.append(_checked(job.result(), size[row]))
            except ValueError as error:  # a DecodeError, or another size
                errors[row] = error
        if errors:
            raise RowErrors(errors)  # type: ignore[arg-type]
        passes, first = params.passes.copy(), params.starts[:-1]
        # Whole, where of a picture no more than a region may be stored.
        passes["origin_y"][first], passes["origin_x"][first] = -params.box[first, 0], -params.box[first, 1]
        displacements.put_into(passes)
        out = self._empty((len(decoded), *params.out_size[0].tolist()), self._dtype(decoded))
        native.move_labels(
            decoded,
            passes,
            params.starts,
            out,
            ignore_index=self._field.ignore_index,
            table=self._table,
            threads=self._threads,
        )
        return torch.from_numpy(out).to(self._device).to(torch.int64)

    @property
    def buffers_bytes(self) -> int:
        return self._buffers.free_bytes

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._buffers.close()

    def _dtype(self, decoded: list[np.ndarray]) -> type[np.generic]:
        """Of the moved labels, on the host: as few bytes as do, where they go to another device."""
        if self._device.type == "cpu":
            return np.int64
        labels = [self._field.ignore_index, *(self._field.table or ())]
        narrow = self._field.table is not None or all(labels.dtype == np.uint8 for labels in decoded)
        return np.uint8 if narrow and min(labels) >= 0 and max(labels) <= 255 else np.int32

    def _empty(self, shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self._buffers.take(nbytes).view(dtype).reshape(shape)


def _checked(mask: np.ndarray, size: np.ndarray) -> np.ndarray:
    if mask.shape != tuple(size.tolist()):
        raise ValueError(
            f"the mask has {mask.shape[0]}×{mask.shape[1]} px (height, width), its picture {size[0]}×{size[1]}"
        )
    return mask
