"""dalipipe loaders in ``torchdata.nodes`` pipelines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

try:
    from torchdata.nodes import BaseNode
except ImportError as error:
    raise ImportError("dalipipe.interop.LoaderNode needs torchdata: pip install torchdata") from error

from dalipipe.loader import DataLoader


class LoaderNode(BaseNode[Any]):
    """A loader as the source of a ``torchdata.nodes`` pipeline; states go through it exactly.

        node = torchdata.nodes.Mapper(LoaderNode(loader), function)
        for batch in torchdata.nodes.Loader(node): ...

    It gives an epoch of batches from each ``reset`` on: the one that ``loader.set_epoch`` says, or the next. The loader
    works ahead by itself, so a ``Prefetcher`` behind it has something to do only where nodes in between are slow.
    """

    def __init__(self, loader: DataLoader) -> None:
        super().__init__()
        self._loader = loader
        self._batches: Iterator[Any] | None = None

    def reset(self, initial_state: dict[str, Any] | None = None) -> None:
        super().reset(initial_state)
        self._batches = None  # the running epoch gives its lane back before the next takes one
        if initial_state is not None:
            self._loader.load_state_dict(initial_state)
        self._batches = iter(self._loader)

    def next(self) -> Any:
        assert self._batches is not None  # BaseNode calls reset first
        return next(self._batches)

    def get_state(self) -> dict[str, Any]:
        return self._loader.state_dict()
