"""A quick comparison on one's own pictures: dalipipe beside torch's ``DataLoader`` with torchvision's v2 transforms."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dalipipe import recipes
from dalipipe.loader import DataLoader
from dalipipe.ops.image import IMAGENET_MEAN, IMAGENET_STD
from dalipipe.sources import ImageFolder

TOLERANCE = 0.02
"""Largest mean absolute difference of normalised pixels at which two pipelines pass as doing the same work."""


@dataclass(frozen=True)
class Timing:
    """One pipeline's rounds, in images per second; ``difference`` is its mean pixel difference from torchvision's."""

    name: str
    rounds: tuple[float, ...]
    difference: float

    @property
    def images_per_s(self) -> float:
        return statistics.median(self.rounds)


class OutputsDifferError(RuntimeError):
    """Two pipelines that should do the same work do not."""


def compare(
    source: ImageFolder,
    *,
    size_px: int = 224,
    batch_size: int = 64,
    workers: int = 2,
    images: int = 1000,
    rounds: int = 3,
    device: str = "auto",
    on_round: Callable[[str], None] = lambda name: None,
) -> list[Timing]:
    """Decode + RandomResizedCrop + flip + normalise, float32 ``[N,3,size,size]`` on the device: images/s of each.

    First both give the same pictures through the evaluation policy, which are compared; then they take turns, a round
    each, after one that is not counted. A round is a pass over ``images`` pictures, evenly spaced in ``source`` and
    repeated where it has fewer.

    Raises:
        OutputsDifferError: the outputs disagree; nothing is timed.
        ValueError: an argument is out of range.
    """
    for name, value in (("rounds", rounds), ("workers", workers), ("images", images), ("size_px", size_px)):
        if value < 1:
            raise ValueError(f"compare: {name} must be at least 1, got {value}")
    picks = np.linspace(0, len(source) - 1, images).round().astype(int)
    subset = ImageFolder.from_samples([(source.paths[i], int(source.labels[i])) for i in picks], source.classes)
    batch_size = min(batch_size, len(subset))
    options: dict[str, Any] = {"batch_size": batch_size, "num_workers": workers}

    checked = {
        "torchvision": _torchvision_loader(subset, size_px, train=False, **options),
        "dalipipe": DataLoader(subset, policy=recipes.imagenet_eval(size_px), device=device, seed=0, **options),
    }
    difference = _difference(*(next(iter(loader)) for loader in checked.values()))
    checked["dalipipe"].close()
    del checked

    train = DataLoader(
        subset, shuffle=True, drop_last=True, policy=recipes.imagenet_train(size_px), device=device, seed=0, **options
    )
    other = _torchvision_loader(subset, size_px, train=True, **options)
    passes: dict[str, Callable[[], float]] = {
        "torch DataLoader": lambda: _images_per_s(_moved(other, train.device)),
        "dalipipe.DataLoader": lambda: _images_per_s(train),
    }
    speeds: dict[str, list[float]] = {name: [] for name in passes}
    for turn in range(rounds + 1):
        for name, run in passes.items():
            on_round(name)
            speed = run()
            if turn > 0:
                speeds[name].append(speed)
    train.close()
    differences = dict(zip(passes, (0.0, difference), strict=True))
    return [Timing(name, tuple(found), differences[name]) for name, found in speeds.items()]


class _Decoded(torch.utils.data.Dataset):
    """Files through torchvision's decoder and transforms, as its own references do."""

    def __init__(self, source: ImageFolder, transform: Any):
        self.source, self.transform = source, transform

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        from torchvision.io import ImageReadMode, decode_image

        image = decode_image(self.source.paths[index], mode=ImageReadMode.RGB)
        return self.transform(image), int(self.source.labels[index])


def _torchvision_loader(source: ImageFolder, size_px: int, *, train: bool, batch_size: int, num_workers: int) -> Any:
    from torchvision.transforms import v2

    if train:
        geometry = [v2.RandomResizedCrop(size_px, antialias=True), v2.RandomHorizontalFlip()]
    else:
        geometry = [v2.Resize(round(size_px * 256 / 224), antialias=True), v2.CenterCrop(size_px)]
    colour = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    return torch.utils.data.DataLoader(
        _Decoded(source, v2.Compose(geometry + colour)),
        batch_size,
        shuffle=train,
        drop_last=train,
        num_workers=num_workers,
        persistent_workers=train,
        pin_memory=train and torch.cuda.is_available(),
    )


def _difference(expected: Any, found: Any) -> float:
    """Mean absolute difference of two batches' normalised pixels."""
    (images, labels), (ours, our_labels) = expected, found
    if not torch.equal(labels, our_labels.cpu()) or images.shape != ours.shape:
        raise OutputsDifferError(
            f"the pipelines give other batches: labels {labels[:4].tolist()}… and {our_labels[:4].tolist()}…, "
            f"shapes {list(images.shape)} and {list(ours.shape)}; nothing was timed"
        )
    difference = (images - ours.cpu().float()).abs().mean().item()
    if not difference <= TOLERANCE:
        raise OutputsDifferError(
            f"the pipelines' pixels differ by {difference:.3f} on average (at most {TOLERANCE} is expected); "
            "nothing was timed"
        )
    return difference


def _moved(loader: Any, device: torch.device) -> Iterator[Any]:
    for images, labels in loader:
        yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def _images_per_s(loader: Any) -> float:
    begin_s, count = time.perf_counter(), 0
    for images, _ in loader:
        count += len(images)
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
    return count / (time.perf_counter() - begin_s)
