"""Sources: where records come from, with random access. `as_source` takes what users have."""

from __future__ import annotations

import copy
import importlib
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from dalipipe.sources.base import Source, changed_labels

if TYPE_CHECKING:
    from dalipipe.sources.arrays import Arrays
    from dalipipe.sources.audio import AudioFolder, AudioManifest
    from dalipipe.sources.folder import ImageFolder
    from dalipipe.sources.mapped import MapDataset
    from dalipipe.sources.packed import Packed, PackError, is_pack
    from dalipipe.sources.segmentation import Cityscapes, ImageMasks
    from dalipipe.sources.series import Series
    from dalipipe.sources.shards import ShardError
    from dalipipe.sources.standard import CIFAR10, CIFAR100, MNIST, FashionMNIST
    from dalipipe.sources.table import Table
    from dalipipe.sources.tar import TarShards
    from dalipipe.sources.text import Text
    from dalipipe.sources.tfrecord import TFRecords
    from dalipipe.sources.workers import WorkerError

__all__ = ["CIFAR10", "CIFAR100", "MNIST", "Arrays", "AudioFolder", "AudioManifest", "Cityscapes", "FashionMNIST"]
__all__ += ["ImageFolder", "ImageMasks", "MapDataset", "PackError", "Packed", "Series", "ShardError", "Source"]
__all__ += ["TFRecords", "Table", "TarShards", "Text", "WorkerError", "as_source", "is_pack", "open_source"]

# Module → what it makes public, loaded when first asked for: a training on pictures does not wait for texts.
_NAMES = {
    "arrays": "Arrays",
    "audio": "AudioFolder AudioManifest",
    "folder": "ImageFolder",
    "mapped": "MapDataset",
    "packed": "PackError Packed is_pack",
    "segmentation": "Cityscapes ImageMasks",
    "series": "Series",
    "shards": "ShardError",
    "standard": "CIFAR10 CIFAR100 MNIST FashionMNIST",
    "table": "Table",
    "tar": "TarShards",
    "text": "Text",
    "tfrecord": "TFRecords",
    "workers": "WorkerError",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}

# The ending of a file's name → the source's, and which of its functions opens such files.
_OPENERS = {
    ".tar": ("TarShards", None),
    ".tfrecord": ("TFRecords", None),
    ".tfrecords": ("TFRecords", None),
    ".parquet": ("Table", None),
    ".arrow": ("Table", None),
    ".npy": ("Arrays", "open"),
    ".npz": ("Arrays", "open"),
    ".txt": ("ImageFolder", "from_list"),
    ".ts": ("Series", "open"),
    ".csv": ("ImageFolder", "from_list"),
    ".tsv": ("ImageFolder", "from_list"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dalipipe.sources' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"dalipipe.sources.{_HOMES[name]}"), name)
    return value


def open_source(path: str | os.PathLike[str]) -> Source:
    """A pack, a folder of class folders, or what the ending of a name says: tar shards (``train-{00..99}.tar``),
    TFRecords, Parquet or Arrow files, ``.npy`` and ``.npz``, ``.ts`` series, lists of pictures.

    Raises ``FileNotFoundError``, or ``ValueError`` for another ending.
    """
    name = os.fspath(path)
    if os.path.isdir(name):
        return _open_folder(name)
    opener = _OPENERS.get(os.path.splitext(name)[1].lower())
    if opener is None:
        if not os.path.exists(name):
            raise FileNotFoundError(f"there is no {name}: give a folder, or files that end in {', '.join(_OPENERS)}")
        raise ValueError(f"{name}: expected a folder, or a name that ends in {', '.join(_OPENERS)}")
    source, function = opener
    made: Any = __getattr__(source)
    opened: Source = made(name) if function is None else getattr(made, function)(name)
    return opened


def _open_folder(name: str) -> Source:
    from dalipipe.sources.folder import ImageFolder
    from dalipipe.sources.packed import Packed, is_pack
    from dalipipe.sources.text import Text
    from dalipipe.sources.text_pack import is_text_pack

    if not is_pack(name):
        return ImageFolder(name)
    return Text.open(name) if is_text_pack(name) else Packed(name)


def as_source(dataset: Any) -> Source:
    """A dalipipe source as it is; torchvision's ``ImageFolder``, ``CIFAR10/100`` and ``MNIST`` family by their own
    data; Arrow tables and Hugging Face data sets as a `Table`; any other map-style data set as a `MapDataset`.

    What a torchvision or timm data set would do to its pictures is then the source's ``transform``. A
    ``target_transform`` is applied; where a source has its own labels, once for each.

    Raises ``TypeError`` for what has no items by index, ``ValueError`` for any other data set that carries transforms.
    """
    if isinstance(dataset, Source):
        return dataset
    from dalipipe.sources.arrays import Arrays
    from dalipipe.sources.folder import ImageFolder
    from dalipipe.sources.mapped import MapDataset
    from dalipipe.sources.table import Table, is_table

    if is_table(dataset):
        return Table(dataset)
    set_here = [name for name in _TRANSFORMS if getattr(dataset, name, None) is not None]
    if set_here and not _is_of_a_library(dataset):
        raise ValueError(
            f"{type(dataset).__name__}.{set_here[0]} is set, but only its own code knows what it is applied to. Make "
            f"the data set with {set_here[0]}=None and pass DataLoader(policy=...), see dalipipe.recipes, and "
            "dalipipe.convert, which makes a policy of a transform; or wrap it, dalipipe.MapDataset(dataset), which "
            "applies it"
        )
    source: Source
    target_transform = getattr(dataset, "target_transform", None)
    if hasattr(dataset, "samples") and hasattr(dataset, "classes") and hasattr(dataset, "loader"):
        source = ImageFolder.from_samples(dataset.samples, dataset.classes)
        source.labels = changed_labels(source.labels, target_transform)
    elif hasattr(dataset, "data") and hasattr(dataset, "targets"):
        labels = dataset.targets if target_transform is None else np.asarray(dataset.targets)
        classes = getattr(dataset, "classes", None)
        source = Arrays(dataset.data, changed_labels(labels, target_transform), classes=classes)
    else:
        source = MapDataset(_bare(dataset) if set_here else dataset)
    source.transform = _transform(dataset) if set_here else None
    return source


_TRANSFORMS = ("transform", "target_transform", "transforms")


def _is_of_a_library(dataset: Any) -> bool:
    """Whether its items are made by torchvision's or timm's code, which applies ``transform`` to the picture."""
    made_by = getattr(getattr(type(dataset), "__getitem__", None), "__module__", None) or ""
    return made_by.split(".")[0] in ("torchvision", "timm")


def _transform(dataset: Any) -> Any:
    """What becomes of the picture, or of it and the target together."""
    joint = getattr(dataset, "transforms", None)
    if joint is not None and type(joint).__name__ != "StandardTransform":  # which is but the other two
        return joint
    return getattr(dataset, "transform", None)


def _bare(dataset: Any) -> Any:
    """A copy that leaves pictures as they are."""
    joint = getattr(dataset, "transforms", None)
    dataset = copy.copy(dataset)
    dataset.transform = None
    if joint is not None:
        dataset.transforms = None
        if type(joint).__name__ == "StandardTransform" and dataset.target_transform is not None:
            dataset.transforms = type(joint)(None, dataset.target_transform)
    return dataset
