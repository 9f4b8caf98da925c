"""timm: its data set, transforms and loader, Pillow's pictures; on a GPU its prefetcher, which normalises there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dalipipe.bench.contenders.base import Contender, Pair, Settings
from dalipipe.bench.contenders.torch_loaders import counts
from dalipipe.bench.work import MEAN, STD, Work

_REPEATS = 200_000
"""Pictures an epoch, at least: a loader starts anew each epoch."""


class Timm(Contender):
    """Settings: ``num_workers``; its loader leaves two batches ahead a worker to torch."""

    remark = "Pillow's resizing: a level here and there"

    @classmethod
    def candidates(cls, work: Work) -> list[Settings]:
        return [{"num_workers": one["num_workers"]} for one in counts(work) if one["prefetch_factor"] == 2]

    def load(self) -> str:
        import timm.data

        return str(timm.__version__)

    def batches(self) -> Iterator[Pair]:
        import torch

        loader = self._loader(self.work.batch_size, repeats=-(-_REPEATS // len(self.work.paths)), is_training=True)
        device = torch.device(self.work.device)
        while True:
            for images, labels in loader:
                yield images.to(device), labels.to(device)

    def evaluation(self) -> Pair:
        share = self.work.size_px / (self.work.shorter_px + 0.5)  # it rounds the shorter side down
        images, labels = next(iter(self._loader(self.work.evaluated, is_training=False, crop_pct=share)))
        return images.cpu(), labels.cpu()

    def _loader(self, batch_size: int, repeats: int = 1, **more: Any) -> Any:
        import torch
        from timm.data import ImageDataset, create_loader

        return create_loader(
            ImageDataset("", reader=_Reader(self.work, repeats)),
            input_size=self.work.size_px,
            batch_size=batch_size,
            color_jitter=0.0,
            interpolation="bilinear",
            mean=MEAN,
            std=STD,
            num_workers=self.settings["num_workers"],
            pin_memory=self.work.on_cuda,
            use_prefetcher=self.work.on_cuda,
            device=torch.device(self.work.device),
            **more,
        )

    @property
    def ahead(self) -> int:
        return 3 * int(self.settings["num_workers"])

    @property
    def cycle(self) -> int:
        return int(self.settings["num_workers"])


class _Reader:
    """What its data set asks for files."""

    def __init__(self, work: Work, repeats: int) -> None:
        self.work, self.repeats = work, repeats

    def __len__(self) -> int:
        return len(self.work.paths) * self.repeats

    def __getitem__(self, index: int) -> tuple[Any, int]:
        index %= len(self.work.paths)
        return open(self.work.paths[index], "rb"), self.work.labels[index]  # its data set closes it, through Pillow
