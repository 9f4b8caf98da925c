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
    from dalipipe import finetune, ops, orders, recipes
    from dalipipe.decoders.base import DecodeError
    from dalipipe.faults import TooManyBadSamplesError
    from dalipipe.loader import DataLoader, StateMismatchError
    from dalipipe.policy import OneOf, Op, Policy, SomeOf
    from dalipipe.records import SampleError
    from dalipipe.sources import Arrays, ImageFolder, Source

# Name → module: loaded when first asked for, so that `import dalipipe` and `dalipipe --help` do not wait for torch.
_HOMES = {
    "Arrays": "dalipipe.sources",
    "DataLoader": "dalipipe.loader",
    "DecodeError": "dalipipe.decoders.base",
    "ImageFolder": "dalipipe.sources",
    "OneOf": "dalipipe.policy",
    "Op": "dalipipe.policy",
    "Policy": "dalipipe.policy",
    "SampleError": "dalipipe.records",
    "SomeOf": "dalipipe.policy",
    "Source": "dalipipe.sources",
    "StateMismatchError": "dalipipe.loader",
    "TooManyBadSamplesError": "dalipipe.faults",
}
_MODULES = ("finetune", "ops", "orders", "recipes")

__all__ = ["Arrays", "DataLoader", "DecodeError", "ImageFolder", "OneOf", "Op", "Policy", "SampleError", "__version__"]
__all__ += ["SomeOf", "Source", "StateMismatchError", "TooManyBadSamplesError", "finetune", "ops", "orders", "recipes"]


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
