"""DeiT's training recipe as each library has it, on uint8 pictures in memory.

Random box, bicubic, to 224 px; mirrored half the time; RandAugment; normalise; boxes of noise; MixUp or CutMix.
Batches come out as float32 [N, 3, 224, 224] and labels float32 [N, classes].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torchvision.transforms import v2

import dalipipe
from dalipipe.ops.mix import CutMix, MixUp

SIZE, CLASSES = 224, 1000
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MIXUP_ALPHA, CUTMIX_ALPHA, TIMM_SMOOTHING = 0.8, 1.0, 0.1


def torchvision_steps() -> list[Any]:
    """Of a picture [3, H, W], with torchvision's own RandAugment."""
    bicubic = v2.InterpolationMode.BICUBIC
    return [v2.RandomResizedCrop(SIZE, interpolation=bicubic), v2.RandomHorizontalFlip(), v2.RandAugment()]


def torchvision_end() -> list[Any]:
    return [
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(MEAN, STD),
        v2.RandomErasing(0.25, value="random", inplace=True),
    ]


def torchvision_mix() -> Any:
    """Of a batch; partners and one weight are drawn for it as a whole."""
    return v2.RandomChoice(
        [v2.MixUp(alpha=MIXUP_ALPHA, num_classes=CLASSES), v2.CutMix(alpha=CUTMIX_ALPHA, num_classes=CLASSES)]
    )


def timm_transform() -> Any:
    """Of a PIL picture, with timm's RandAugment, as DeiT was trained."""
    from timm.data import create_transform

    return create_transform(
        SIZE,
        is_training=True,
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="bicubic",
        mean=MEAN,
        std=STD,
        re_prob=0.25,
        re_mode="pixel",
    )


def policy(of: str) -> dalipipe.Policy:
    """What becomes of ``"torchvision"``'s or ``"timm"``'s transforms in dalipipe: the same draws and the same pixels,
    as docs/parity.md has it. Weights of the mixing are drawn for each sample.
    """
    theirs = v2.Compose([v2.ToImage(), *torchvision_steps(), *torchvision_end()])
    steps, _report = dalipipe.convert(theirs if of == "torchvision" else timm_transform())
    labels: dict[str, Any] = {"smoothing": 0.0 if of == "torchvision" else TIMM_SMOOTHING, "num_classes": CLASSES}
    return dalipipe.Policy([*steps, dalipipe.OneOf([MixUp(MIXUP_ALPHA, **labels), CutMix(CUTMIX_ALPHA, **labels)])])


def dalipipe_loader(pictures: np.ndarray, labels: np.ndarray, batch_size: int, threads: int, of: str) -> Any:
    return dalipipe.DataLoader(
        dalipipe.Arrays(pictures, labels),
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=threads,
        policy=policy(of),
        device="cpu",
        seed=0,
    )


class Mapped(torch.utils.data.Dataset[Any]):
    """Arrays as torch's loader takes them: a picture made ready by a worker process."""

    def __init__(self, pictures: np.ndarray, labels: np.ndarray, ready: Callable[[np.ndarray], Any]) -> None:
        self.pictures, self.labels, self.ready = pictures, labels.tolist(), ready

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.ready(self.pictures[index]), self.labels[index]


def torchvision_loader(
    pictures: np.ndarray, labels: np.ndarray, batch_size: int, workers: int, *, finish: str
) -> Callable[[], Any]:
    """v2 in torch's DataLoader. ``finish``: where tensors are normalised, erased in and mixed.

    "worker": picture by picture, mixed in the worker's collate function, as torchvision's references have it;
    "collate": cast and normalised there by batch, which spares small calls;
    "main": that and the mixing in this process, which spares sending float32.
    """
    to_planes = v2.Lambda(lambda x: torch.from_numpy(x).permute(2, 0, 1))  # channels_last, as decoders give them
    cast, normalize, erase = torchvision_end()
    mix, collate = torchvision_mix(), torch.utils.data.default_collate
    by_picture = [to_planes, *torchvision_steps()]

    def finished(images: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        images = normalize(cast(images))
        for image in images:
            erase(image)
        return mix(images, targets)

    if finish == "worker":
        by_picture += [cast, normalize, erase]

    def collated(batch: Any) -> Any:
        images, targets = collate(batch)
        if finish == "main":
            return images, targets
        return finished(images, targets) if finish == "collate" else mix(images, targets)

    loader = _torch_loader(Mapped(pictures, labels, v2.Compose(by_picture)), batch_size, workers, collated)
    if finish == "main":
        return lambda: (finished(images, targets) for images, targets in loader)
    return lambda: loader


def timm_loader(pictures: np.ndarray, labels: np.ndarray, batch_size: int, workers: int) -> Callable[[], Any]:
    """timm's transforms of PIL pictures and its Mixup, in torch's DataLoader."""
    from PIL import Image
    from timm.data import Mixup

    transform = timm_transform()
    for op in next(step for step in transform.transforms if hasattr(step, "ops")).ops:
        if op.name.startswith("Posterize"):
            op.aug_fn = _posterize
    mix = Mixup(MIXUP_ALPHA, CUTMIX_ALPHA, label_smoothing=TIMM_SMOOTHING, num_classes=CLASSES)

    def collated(batch: Any) -> Any:
        return mix(*torch.utils.data.default_collate(batch))

    dataset = Mapped(pictures, labels, lambda x: transform(Image.fromarray(x)))
    loader = _torch_loader(dataset, batch_size, workers, collated)
    return lambda: loader


def _posterize(image: Any, bits: int, **_: Any) -> Any:
    """timm's, at the strongest magnitudes too: those keep no bit, which Pillow has begun to refuse."""
    from PIL import Image, ImageOps

    return Image.new(image.mode, image.size) if bits < 1 else ImageOps.posterize(image, min(bits, 8))


def _torch_loader(dataset: Any, batch_size: int, workers: int, collate: Any) -> Any:
    return torch.utils.data.DataLoader(
        dataset,
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=True,
        prefetch_factor=4,
        multiprocessing_context="fork",
    )
