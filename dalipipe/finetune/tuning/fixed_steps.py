"""A loader cut into epochs of so many batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class FixedSteps:
    """``loader``'s batches, epoch after epoch of it, as one epoch of ``steps`` batches: so that runs on data sets of
    different sizes are equally long, and validated once.

    Raises ``ValueError`` for a loader without batches.
    """

    def __init__(self, loader: Any, steps: int) -> None:
        if len(loader) == 0:
            raise ValueError(
                "FixedSteps: the loader has no batch; with drop_last=True the batch may be larger than the data"
            )
        self.loader, self.steps = loader, steps
        self._given = 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Any]:
        given, self._given = self._given, 0
        while given < self.steps:
            for batch in self.loader:
                given = self._given = given + 1
                yield batch
                if given == self.steps:
                    break
        self._given = 0

    def __getattr__(self, name: str) -> Any:
        if name in ("set_epoch", "loader"):  # epochs of the loader go on by themselves
            raise AttributeError(name)
        return getattr(self.loader, name)

    def state_dict(self) -> dict[str, Any]:
        return {"given": self._given, "loader": self.loader.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._given = state["given"]
        self.loader.load_state_dict(state["loader"])
