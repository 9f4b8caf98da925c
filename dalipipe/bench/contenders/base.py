"""A way to load pictures, as the process that it is given runs it. Libraries are imported where they are used."""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

from dalipipe.bench.work import Work

Settings = dict[str, Any]
Pair = tuple[Any, Any]
"""Pictures, a float32 tensor [N, 3, size, size] on the device; their labels [N]."""


class Contender(ABC):
    """One library's loader at some ``settings``."""

    tolerance: ClassVar[float] = 0.02
    """Mean absolute difference of normalised pixels up to which its evaluation passes for the reference's."""
    remark: ClassVar[str] = ""
    """Why its pixels are not the reference's, where they are not."""

    def __init__(self, work: Work, settings: Settings) -> None:
        self.work, self.settings = work, settings

    @classmethod
    @abstractmethod
    def candidates(cls, work: Work) -> list[Settings]:
        """Settings that are worth a try, its guide's first. Called without the library."""

    @abstractmethod
    def load(self) -> str:
        """Import the library; its version."""

    def prepare(self) -> None:  # noqa: B027  (most have no format of their own)
        """Write the pictures in its own format, once for all settings."""

    @abstractmethod
    def batches(self) -> Iterator[Pair]:
        """Training batches without an end."""

    @abstractmethod
    def evaluation(self) -> Pair:
        """The first `Work.evaluated` pictures in order: shorter side resized, middle cut out, normalised."""

    @property
    @abstractmethod
    def ahead(self) -> int:
        """Batches that may lie ready when nobody takes any."""

    @property
    def cycle(self) -> int:
        """Batches that come in a burst: where each worker makes whole batches, as many as there are workers, since all
        of them begin at once after a rest. A rate is one of whole bursts, with the waits between them.
        """
        return 1


def drawn_box(height: int, width: int) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a RandomResizedCrop, as torchvision draws it, for who has none of its own."""
    for _ in range(10):
        area = height * width * random.uniform(0.08, 1.0)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, height - h), random.randint(0, width - w), h, w
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w
