"""What would help: changes to a loader or its machine, tried on some batches where they can be, else calculated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from dalipipe.stalls.model import Setting
from dalipipe.stalls.walking import Walks


@dataclass(frozen=True)
class Change:
    """``setting``: what it makes of the loader; the others as of `WhatIf`."""

    name: str
    how: str
    setting: Setting
    basis: Literal["tried", "calculated"]


def calculated(now: Setting, cached: Setting, walks: Walks) -> Iterator[Change]:
    """``cached``: with all files in memory."""
    yield Change("faster storage", "files in memory, or on a disk that keeps up", cached, "calculated")
    yield Change(
        "a training step twice as fast",
        "a GPU twice as fast, or mixed precision",
        now.scaled({"step": 0.5}),
        "calculated",
    )
    yield Change(
        "twice the cores",
        "for the step and other stages, which then do not share",
        replace(now, cores=2 * now.cores),
        "calculated",
    )
