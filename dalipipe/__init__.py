"""dalipipe decodes and augments whole batches for PyTorch: the same pixels on any number of GPUs, after any resume.

train = dalipipe.ImageFolder("train")
loader = dalipipe.DataLoader(train, 256, shuffle=True, policy=dalipipe.recipes.imagenet_train(224))
for images, labels in loader: ...
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from dalipipe import finetune, ops, orders, recipes, telemetry, translation
    from dalipipe.conversion import UnsupportedTransformError, convert
    from dalipipe.decoders.base import DecodeError
    from dalipipe.faults import TooManyBadSamplesError
    from dalipipe.loader import DataLoader, StateMismatchError
    from dalipipe.ops.python import PythonStep
    from dalipipe.orders import BucketSampler, TokenBatches
    from dalipipe.packing import PackMismatchError, pack
    from dalipipe.policy import Choice, Normal, OneOf, Op, Phases, Policy, RandomApply, RandomOrder, SomeOf
    from dalipipe.policy_files import PolicyFileError, load_policy, save_policy
    from dalipipe.records import SampleError
    from dalipipe.sources import (
        CIFAR10,
        CIFAR100,
        MNIST,
        Arrays,
        AudioFolder,
        AudioManifest,
        Cityscapes,
        FashionMNIST,
        ImageFolder,
        ImageMasks,
        MapDataset,
        Packed,
        PackError,
        Series,
        ShardError,
        Source,
        Table,
        TarShards,
        Text,
        TFRecords,
    )
    from dalipipe.stalls.explaining import explain
    from dalipipe.storage import Retry, Storage

# Module → what it makes public: loaded when first asked for, so that `import dalipipe` and `dalipipe --help` do not
# wait for torch.
_NAMES = {
    "dalipipe.conversion": "UnsupportedTransformError convert",
    "dalipipe.loader": "DataLoader StateMismatchError",
    "dalipipe.ops.python": "PythonStep",
    "dalipipe.orders": "BucketSampler TokenBatches",
    "dalipipe.packing": "PackMismatchError pack",
    "dalipipe.policy": "Choice Normal OneOf Op Phases Policy RandomApply RandomOrder SomeOf",
    "dalipipe.policy_files": "PolicyFileError load_policy save_policy",
    "dalipipe.sources": "Arrays AudioFolder AudioManifest CIFAR10 CIFAR100 Cityscapes FashionMNIST ImageFolder "
    "ImageMasks MNIST MapDataset PackError Packed Series ShardError Source TFRecords Table TarShards Text",
    "dalipipe.stalls.explaining": "explain",
    "dalipipe.storage": "Retry Storage",
    "dalipipe.decoders.base": "DecodeError",
    "dalipipe.faults": "TooManyBadSamplesError",
    "dalipipe.records": "SampleError",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}
_MODULES = ("finetune", "ops", "orders", "recipes", "telemetry", "translation")

__all__ = ["CIFAR10", "CIFAR100", "MNIST", "Arrays", "AudioFolder", "AudioManifest", "BucketSampler", "Choice"]
__all__ += [
    "Cityscapes",
    "DataLoader",
    "DecodeError",
    "FashionMNIST",
    "ImageFolder",
    "ImageMasks",
    "MapDataset",
    "Normal",
    "OneOf",
    "Op",
    "PackError",
]
__all__ += ["PackMismatchError", "Packed", "Phases", "Policy", "pack"]
__all__ += ["PolicyFileError", "RandomApply", "RandomOrder", "Retry", "SampleError", "ShardError", "load_policy"]
__all__ += ["PythonStep", "UnsupportedTransformError", "convert", "save_policy"]
__all__ += ["Series", "SomeOf", "Source", "StateMismatchError", "Storage", "TFRecords", "Table", "TarShards", "Text"]
__all__ += ["TokenBatches", "TooManyBadSamplesError", "__version__", "finetune", "ops", "orders", "recipes"]
__all__ += ["explain", "telemetry", "translation"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"dalipipe.{name}")
    else:
        raise AttributeError(f"module 'dalipipe' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
