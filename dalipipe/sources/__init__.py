"""Sources: where records come from, with random access. `as_source` takes what users have."""

from __future__ import annotations

from typing import Any

from dalipipe.sources.arrays import Arrays
from dalipipe.sources.base import Source
from dalipipe.sources.folder import ImageFolder
from dalipipe.sources.segmentation import Cityscapes, ImageMasks
from dalipipe.sources.shards import ShardError
from dalipipe.sources.standard import CIFAR10, CIFAR100, MNIST, FashionMNIST
from dalipipe.sources.tar import TarShards
from dalipipe.sources.tfrecord import TFRecords

__all__ = ["CIFAR10", "CIFAR100", "MNIST", "Arrays", "Cityscapes", "FashionMNIST", "ImageFolder", "ImageMasks"]
__all__ += ["ShardError", "Source", "TFRecords", "TarShards", "as_source"]


def as_source(dataset: Any) -> Source:
    """A dalipipe source as it is; torchvision's ``ImageFolder``, ``CIFAR10/100`` and ``MNIST`` family by their own
    data.

    Raises ``TypeError`` for anything else, ``ValueError`` for a torchvision data set that carries transforms.
    """
    if isinstance(dataset, Source):
        return dataset
    for name in ("transform", "target_transform", "transforms"):
        if getattr(dataset, name, None) is not None:
            raise ValueError(
                f"{type(dataset).__name__}.{name} is set, but it would not be applied: dalipipe augments by policy. "
                f"Make the data set with {name}=None and pass DataLoader(policy=...), see dalipipe.recipes"
            )
    if hasattr(dataset, "samples") and hasattr(dataset, "classes") and hasattr(dataset, "loader"):
        return ImageFolder.from_samples(dataset.samples, dataset.classes)
    if hasattr(dataset, "data") and hasattr(dataset, "targets"):
        return Arrays(dataset.data, dataset.targets, classes=getattr(dataset, "classes", None))
    raise TypeError(
        f"cannot read samples from {type(dataset).__name__}: expected dalipipe.ImageFolder(root), "
        "dalipipe.Arrays(images, labels), "
        "or torchvision's ImageFolder, CIFAR10, CIFAR100, MNIST or FashionMNIST"
    )
