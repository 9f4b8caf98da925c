"""DeiT's recipe on a batch that lies on a device already, as each library has it: what is timed is the augmentation.

for name, run in resident(pictures, labels).items():
    images, soft_labels = run()  # float32 [N, 3, 224, 224], [N, classes]; another draw each time
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from deit import CLASSES, MEAN, SIZE, STD, policy, torchvision_end, torchvision_mix, torchvision_steps
from torchvision.transforms import v2

from dalipipe import rng
from dalipipe.engines.base import Output
from dalipipe.engines.native import NativeEngine
from dalipipe.plan import lower
from dalipipe.records import Pictures
from dalipipe.schema import Field, Schema


class Resident:
    """Takes uint8 [N, H, W, 3] and labels [N] on the device."""

    def __init__(self, pictures: torch.Tensor, labels: torch.Tensor) -> None:
        self.pictures, self.labels = pictures, labels


class Ours(Resident):
    """Drawn on the host, one call for the pixels; labels are mixed on the host."""

    def __init__(self, pictures: torch.Tensor, labels: torch.Tensor, of: str = "torchvision") -> None:
        super().__init__(pictures, labels)
        schema = Schema((Field("image", "image", channels=3), Field("label", "column")))
        self.plan = lower(policy(of), schema)
        output = Output(pictures.device, torch.float32, torch.contiguous_format)
        self.engine = NativeEngine(self.plan, output, threads=os.cpu_count() or 1)
        n = len(pictures)
        self.size, self.rows, self.epoch = np.tile([pictures.shape[1:3]], (n, 1)), np.arange(n), 0
        self.host_labels = labels.cpu().numpy()
        self.batch = Pictures(
            address=(pictures.data_ptr() + self.rows * pictures.stride(0)).astype(np.uint64),
            row_bytes=np.full(n, pictures.stride(1), np.int64),
            size_px=self.size.astype(np.int32),
            origin_px=np.zeros((n, 2), np.int32),
            channels=3,
            owner=pictures,
            on_cuda=pictures.is_cuda,
        )

    def __call__(self) -> tuple[torch.Tensor, torch.Tensor]:
        self.epoch += 1
        draws = self.plan.draw(rng.make_key(0, self.epoch), self.rows, self.size, 0, self.rows)
        images = self.engine.start(self.batch, draws)()
        assert self.plan.mix is not None and draws.mix is not None
        soft = self.plan.mix.mix_labels(self.host_labels, draws.mix, CLASSES)
        return images, torch.from_numpy(soft).to(images.device, non_blocking=True)


class Torchvision(Resident):
    """v2 picture by picture, so that each gets draws of its own; cast, normalised and mixed by batch."""

    def __init__(self, pictures: torch.Tensor, labels: torch.Tensor) -> None:
        super().__init__(pictures.permute(0, 3, 1, 2), labels)
        self.by_picture, self.mix = v2.Compose(torchvision_steps()), torchvision_mix()
        self.cast, self.normalize, self.erase = torchvision_end()

    def __call__(self) -> tuple[torch.Tensor, torch.Tensor]:
        images = torch.stack([self.by_picture(picture) for picture in self.pictures])
        images = self.normalize(self.cast(images))
        for image in images:
            self.erase(image)
        return self.mix(images, self.labels)


class Kornia(Resident):
    """Kornia's operators. Its RandAugment draws two for all that it is given: ``one_by_one`` gives it pictures singly,
    so that each gets its own. Its boxes hold a colour, not noise.
    """

    def __init__(self, pictures: torch.Tensor, labels: torch.Tensor, *, one_by_one: bool) -> None:
        super().__init__(pictures.permute(0, 3, 1, 2), labels)
        import kornia.augmentation as K
        from kornia.augmentation.auto import RandAugment

        self.one_by_one = one_by_one
        self.steps = [
            K.RandomResizedCrop((SIZE, SIZE), resample="BICUBIC"),
            K.RandomHorizontalFlip(p=0.5),
            RandAugment(n=2, m=9),
        ]
        self.end = [K.Normalize(MEAN, STD), K.RandomErasing(p=0.25)]
        self.mix = torchvision_mix()

    def __call__(self) -> tuple[torch.Tensor, torch.Tensor]:
        images = self.pictures.float() / 255
        if self.one_by_one:
            images = torch.cat([self._all(self.steps, image[None]) for image in images])
        else:
            images = self._all(self.steps, images)
        return self.mix(self._all(self.end, images), self.labels)

    @staticmethod
    def _all(steps: list[Any], images: torch.Tensor) -> torch.Tensor:
        for step in steps:
            images = step(images)
        return images


def resident(
    pictures: torch.Tensor, labels: torch.Tensor
) -> dict[str, Callable[[], tuple[torch.Tensor, torch.Tensor]]]:
    """Everyone's, by name; uint8 [N, H, W, 3] and labels [N] on the device."""
    return {
        "dalipipe": Ours(pictures, labels),
        "torchvision v2, picture by picture": Torchvision(pictures, labels),
        "Kornia, picture by picture": Kornia(pictures, labels, one_by_one=True),
        "Kornia, one RandAugment for a batch": Kornia(pictures, labels, one_by_one=False),
    }
