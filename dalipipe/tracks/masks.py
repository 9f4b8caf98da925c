"""Label maps: decoded whole, and moved with their pictures by the same draws, nearest neighbours."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from dalipipe.decoders.pillow import decode_mask
from dalipipe.ops.pixels import nearest
from dalipipe.plan import Draws
from dalipipe.records import Encoded, Pictures
from dalipipe.schema import Field
from dalipipe.tracks.base import RowErrors


class Masks:
    """The masks of one field. Each batch: `submit`, then `collect` of what it gave."""

    def __init__(self, field: Field, device: torch.device, *, threads: int) -> None:
        self._field, self._device = field, device
        self._table = None if field.table is None else np.array(field.table, np.int64)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="dalipipe-masks")

    def submit(self, column: Encoded | Pictures) -> list[Future[np.ndarray]]:
        """Starts decoding."""
        if isinstance(column, Pictures):
            return [self._pool.submit(lambda row: column[row][..., 0], row) for row in range(len(column))]
        return [self._pool.submit(decode_mask, column[row]) for row in range(len(column))]

    def collect(self, masks: list[Future[np.ndarray]], draws: Draws, size: np.ndarray) -> torch.Tensor:
        """int64 [N, H, W] on the device. ``size`` int64 [N, 2]: of the pictures, which the masks must share."""
        jobs = [self._pool.submit(self._move, masks[row], draws, row, size[row]) for row in range(len(masks))]
        moved, errors = [], {}
        for row, job in enumerate(jobs):
            try:
                moved.append(job.result())
            except ValueError as error:  # a DecodeError, or another size
                errors[row] = error
        if errors:
            raise RowErrors(errors)  # type: ignore[arg-type]
        return torch.from_numpy(np.stack(moved)).to(self._device, torch.int64)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _move(self, decoded: Future[np.ndarray], draws: Draws, row: int, size: np.ndarray) -> np.ndarray:
        mask = decoded.result()
        if mask.shape != tuple(size.tolist()):
            raise ValueError(
                f"the mask has {mask.shape[0]}×{mask.shape[1]} px (height, width), its picture {size[0]}×{size[1]}"
            )
        if self._table is not None:
            known = (mask >= 0) & (mask < len(self._table))
            mask = self._table[np.where(known, mask.astype(np.int64), len(self._table) - 1)]
        mask = mask.astype(np.int32, copy=False)
        for params in draws.passes:
            sample = params.samples[row].copy()
            sample["origin_y"], sample["origin_x"] = -params.box[row, :2]
            mask = nearest(mask, sample, tuple(params.out_size[row].tolist()), self._field.ignore_index)
        return mask
