"""What every loader is given to do: the same files, crops and batches. Standard library only, for peers' Pythons."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EVALUATED = 64
"""Pictures at most that are compared with the reference before anything is timed."""


@dataclass(frozen=True)
class Work:
    """Decode → RandomResizedCrop → flip → normalise → float32 [N, 3, size, size] on ``device``, again and again.

    ``cores``: that loaders may use, and should keep busy. ``folder``: where those with a format of their own write the
    pictures.
    """

    paths: tuple[str, ...]
    labels: tuple[int, ...]
    size_px: int = 224
    batch_size: int = 128
    cores: int = 2
    device: str = "cpu"
    folder: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("size_px", "batch_size", "cores"):
            if getattr(self, name) < 1:
                raise ValueError(f"compare: {name} must be at least 1, got {getattr(self, name)}")
        if not self.paths or len(self.paths) != len(self.labels):
            raise ValueError(
                f"compare: expected a label for each of at least one picture, "
                f"got {len(self.paths)} pictures and {len(self.labels)} labels"
            )

    @property
    def shorter_px(self) -> int:
        """Of the evaluation's pictures, before the middle is cut out."""
        return round(self.size_px * 256 / 224)

    @property
    def evaluated(self) -> int:
        """How many pictures, the first ones, are compared with the reference."""
        return min(EVALUATED, len(self.paths))

    @property
    def on_cuda(self) -> bool:
        return self.device.startswith("cuda")

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Work:
        found = json.loads(path.read_text())
        return cls(**{**found, "paths": tuple(found["paths"]), "labels": tuple(found["labels"])})


def work_of(source: Any, images: int | None = None, **settings: Any) -> Work:
    """The work on an `ImageFolder`'s files, or on so many ``images`` evenly spaced among them; ``settings``: `Work`'s.

    Raises:
        ValueError: nothing is to be read, or a setting is out of range.
    """
    count = len(source) if images is None else min(images, len(source))
    picks = [at * len(source) // count for at in range(count)]
    paths, labels = tuple(source.paths[at] for at in picks), tuple(int(source.labels[at]) for at in picks)
    if paths and not os.path.isfile(paths[0]):
        raise ValueError(f"the loaders to compare with read files, and {paths[0]} is none here")
    return Work(tuple(map(os.path.abspath, paths)), labels, **settings)
