"""FFCV: pictures written into its own file, as JPEGs, and loaded by its compiled pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dalipipe.bench.contenders.base import Contender, Pair, Settings
from dalipipe.bench.work import MEAN, STD, Work

_REPEATS = 200_000
"""Pictures an epoch, at least: its loader starts anew each epoch."""


class Ffcv(Contender):
    """Settings: ``num_workers``: threads; ``batches_ahead``."""

    tolerance = 0.2
    remark = "JPEGs encoded anew at quality 90; the middle is cut out first, then resized by OpenCV"

    @classmethod
    def candidates(cls, work: Work) -> list[Settings]:
        counts = sorted({work.cores, max(1, work.cores - 1), 2 * work.cores}, key=lambda n: n != work.cores)
        return [{"num_workers": count, "batches_ahead": 3} for count in counts] + [
            {"num_workers": work.cores, "batches_ahead": 2}
        ]

    def load(self) -> str:
        from importlib.metadata import version

        import ffcv.loader  # noqa: F401

        return version("ffcv")

    @property
    def _file(self) -> Path:
        return Path(self.work.folder) / "ffcv.beton"

    def prepare(self) -> None:
        from ffcv.fields import IntField, RGBImageField
        from ffcv.writer import DatasetWriter

        fields = {"image": RGBImageField(write_mode="jpg"), "label": IntField()}
        writer = DatasetWriter(str(self._file), fields, num_workers=self.work.cores)
        writer.from_indexed_dataset(_Files(self.work))

    def batches(self) -> Iterator[Pair]:
        import numpy as np
        from ffcv.fields.decoders import RandomResizedCropRGBImageDecoder
        from ffcv.loader import OrderOption
        from ffcv.transforms import RandomHorizontalFlip

        size = (self.work.size_px, self.work.size_px)
        records = np.tile(np.arange(len(self.work.paths)), -(-_REPEATS // len(self.work.paths)))
        steps = [RandomResizedCropRGBImageDecoder(size), RandomHorizontalFlip()]
        loader = self._loader(steps, self.work.batch_size, order=OrderOption.RANDOM, indices=records)
        while True:
            yield from loader

    def evaluation(self) -> Pair:
        import numpy as np
        from ffcv.fields.decoders import CenterCropRGBImageDecoder

        steps = [
            CenterCropRGBImageDecoder(
                (self.work.size_px, self.work.size_px), ratio=self.work.size_px / self.work.shorter_px
            )
        ]
        loader = self._loader(steps, self.work.evaluated, indices=np.arange(self.work.evaluated))
        images, labels = next(iter(loader))
        return images.cpu(), labels.cpu()

    def _loader(self, steps: list[Any], batch_size: int, **more: Any) -> Any:
        import numpy as np
        import torch
        from ffcv.fields.decoders import IntDecoder
        from ffcv.loader import Loader
        from ffcv.transforms import NormalizeImage, Squeeze, ToDevice, ToTensor, ToTorchImage

        normalise = NormalizeImage(255 * np.array(MEAN), 255 * np.array(STD), np.float32)
        images, labels = [*steps, normalise, ToTensor(), ToTorchImage()], [IntDecoder(), ToTensor(), Squeeze()]
        if self.work.on_cuda:
            to_device = ToDevice(torch.device(self.work.device), non_blocking=True)
            images = [*steps, ToTensor(), to_device, ToTorchImage(), normalise]
            labels = [*labels[:2], to_device, Squeeze()]
        return Loader(
            str(self._file),
            batch_size=batch_size,
            os_cache=True,
            drop_last=True,
            pipelines={"image": images, "label": labels},
            **self.settings,
            **more,
        )

    @property
    def ahead(self) -> int:
        return int(self.settings["batches_ahead"]) + 1


class _Files:
    """What its writer takes: pictures of Pillow's, decoded."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def __len__(self) -> int:
        return len(self.work.paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        with Image.open(self.work.paths[index]) as picture:
            return picture.convert("RGB"), self.work.labels[index]
