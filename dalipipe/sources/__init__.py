"""Sources: where records come from, with random access. `as_source` takes what users have."""

from __future__ import annotations

from typing import Any

from dalipipe.sources.arrays import Arrays
from dalipipe.sources.base import Source
from dalipipe.sources.folder import ImageFolder
from dalipipe.sources.mapped import MapDataset
from dalipipe.sources.segmentation import Cityscapes, ImageMasks
from dalipipe.sources.shards import ShardError
from dalipipe.sources.standard import CIFAR10, CIFAR100, MNIST, FashionMNIST
from dalipipe.sources.table import Table, is_table
from dalipipe.sources.tar import TarShards
from dalipipe.sources.tfrecord import TFRecords
from dalipipe.sources.workers import WorkerError

__all__ = ["CIFAR10", "CIFAR100", "MNIST", "Arrays", "Cityscapes", "FashionMNIST", "ImageFolder", "ImageMasks"]
__all__ += ["MapDataset", "ShardError", "Source", "TFRecords", "Table", "TarShards", "WorkerError", "as_source"]


def as_source(dataset: Any) -> Source:
    """A dalipipe source as it is; torchvision's ``ImageFolder``, ``CIFAR10/100`` and ``MNIST`` family by their own
    data; Arrow tables and Hugging Face data sets as a `Table`; any other map-style data set as a `MapDataset`.

    Raises ``TypeError`` for what has no items by index, ``ValueError`` for a torchvision data set that carries
    transforms.
    """
    if isinstance(dataset, Source):
        return dataset
    if is_table(dataset):
        return Table(dataset)
    for name in ("transform", "target_transform", "transforms"):
        if getattr(dataset, name, None) is not None:
            raise ValueError(
                f"{type(dataset).__name__}.{name} is set, but it would not be applied: dalipipe augments by policy. "
                f"Make the data set with {name}=None and pass DataLoader(policy=...), see dalipipe.recipes; or wrap "
                "it, dalipipe.MapDataset(dataset), which applies it"
            )
    if hasattr(dataset, "samples") and hasattr(dataset, "classes") and hasattr(dataset, "loader"):
        return ImageFolder.from_samples(dataset.samples, dataset.classes)
    if hasattr(dataset, "data") and hasattr(dataset, "targets"):
        return Arrays(dataset.data, dataset.targets, classes=getattr(dataset, "classes", None))
    return MapDataset(dataset)
