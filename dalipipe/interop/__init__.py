"""Adapters for libraries that want more than a loader: transformers' ``Trainer`` and torchdata's nodes.

Lightning, Accelerate and timm take a `dalipipe.DataLoader` as it is.
"""

from __future__ import annotations

from typing import Any

__all__ = ["LoaderNode", "TrainerMixin"]


def __getattr__(name: str) -> Any:
    if name == "TrainerMixin":
        from dalipipe.interop.trainer import TrainerMixin

        return TrainerMixin
    if name == "LoaderNode":
        from dalipipe.interop.nodes import LoaderNode

        return LoaderNode
    raise AttributeError(f"module 'dalipipe.interop' has no attribute {name!r}")
