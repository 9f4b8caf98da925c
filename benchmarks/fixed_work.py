"""A contender of `dalipipe.bench` that is no loader: the same photographs decoded again and again, as a measure of how
steady the machine is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dalipipe.bench.contenders.base import Contender, Pair, Settings
from dalipipe.bench.work import Work

_SIDE_PX = 256  # of what is decoded of each: about what a crop needs


class FixedWork(Contender):
    """Settings: ``num_workers``: threads."""

    ahead = 0  # type: ignore[assignment]

    @classmethod
    def candidates(cls, work: Work) -> list[Settings]:
        return [{"num_workers": work.cores}]

    def load(self) -> str:
        import torch  # noqa: F401

        import dalipipe

        return dalipipe.__version__

    def batches(self) -> Iterator[Pair]:
        import numpy as np
        import torch

        from dalipipe import native

        count, threads = self.work.batch_size, self.settings["num_workers"]
        paths = self.work.paths * -(-count // len(self.work.paths))
        files = [Path(path).read_bytes() for path in paths[:count]]
        arena, starts = np.frombuffer(b"".join(files), np.uint8), np.cumsum([0, *map(len, files)])
        headers = native.probe_images(arena, starts)
        regions = np.zeros((count, 4), np.int32)
        regions[:, 2] = np.minimum(headers["height"], _SIDE_PX)
        regions[:, 3] = np.minimum(headers["width"], _SIDE_PX)
        regions[:, :2] = (np.stack([headers["height"], headers["width"]], axis=1) - regions[:, 2:]) // 2
        pixels = np.zeros((count, _SIDE_PX * _SIDE_PX * 3), np.uint8)
        address = pixels.ctypes.data + np.arange(count, dtype=np.uint64) * np.uint64(pixels.shape[1])
        images, labels = torch.zeros(count, 3, 1, 1), torch.zeros(count, dtype=torch.int64)
        while True:
            why_not = native.read_jpegs(arena, starts, regions, address, threads=threads)
            assert not any(why_not), why_not
            yield images, labels

    def evaluation(self) -> Pair:
        raise NotImplementedError("it has no pictures of its own to show")
