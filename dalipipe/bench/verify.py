"""Whether all loaders do the same work: their evaluation batches beside torchvision's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dalipipe.bench.process import ContenderError, Process
from dalipipe.bench.work import MEAN, STD, Work


@dataclass(frozen=True)
class Difference:
    """Of normalised pixels from the reference's (a level of 255 is 0.017): their mean and largest, absolute."""

    mean: float
    largest: float

    @property
    def is_exact(self) -> bool:
        return self.largest < 1e-5


def reference(work: Work) -> torch.Tensor:
    """float32 [N, 3, size, size]: the first pictures by torchvision, shorter side resized, middle, normalised. Raises
    ``ValueError`` where one of them cannot be read.
    """
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms.v2 import functional as F

    rows = []
    for path in work.paths[: work.evaluated]:
        try:
            picture = decode_image(path, ImageReadMode.RGB)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"compare: torchvision cannot read {path}: {reason}; leave it out") from error
        picture = F.resize(picture, [work.shorter_px], antialias=True)
        picture = F.to_dtype(F.center_crop(picture, [work.size_px]), torch.float32, scale=True)
        rows.append(F.normalize(picture, list(MEAN), list(STD)))
    return torch.stack(rows)


def compared(process: Process, work: Work, expected: torch.Tensor) -> Difference:
    """What ``process`` evaluates beside the reference. Raises `ContenderError` where that is not the same work."""
    file = Path(work.folder) / "evaluation.bin"
    answer = process.ask("evaluate", path=str(file))
    labels = list(work.labels[: work.evaluated])
    if answer["shape"] != list(expected.shape) or answer["labels"] != labels:
        raise ContenderError(
            f"outputs differ: shape {answer['shape']} and labels {answer['labels'][:4]}…, "
            f"expected {list(expected.shape)} and {labels[:4]}…"
        )
    found = torch.from_numpy(np.fromfile(file, np.float32).reshape(answer["shape"]))
    file.unlink()
    apart = (found - expected).abs()
    difference = Difference(apart.mean().item(), apart.max().item())
    tolerance = process.entry.contender().tolerance
    if not difference.mean <= tolerance:
        raise ContenderError(
            f"outputs differ: normalised pixels by {difference.mean:.3f} on average, expected at most {tolerance}"
        )
    return difference


def check_training(started: dict[str, Any], work: Work, expected: torch.Tensor) -> None:
    """The first training batch is one: shape, type, place, and pixels spread as the reference's are, roughly."""
    shape = [work.batch_size, 3, work.size_px, work.size_px]
    found = (started["shape"], started["dtype"], started["device"].split(":")[0], started["labels"])
    wanted = (shape, "torch.float32", work.device.split(":")[0], work.batch_size)
    if found != wanted:
        raise ContenderError(f"its training batch is {found}, expected {wanted}")
    mean, std = expected.mean().item(), expected.std().item()
    if not (abs(started["mean"] - mean) < std and std / 2 < started["std"] < 2 * std):
        raise ContenderError(
            f"outputs differ: training pixels are {started['mean']:.2f} ± {started['std']:.2f}, "
            f"the reference's {mean:.2f} ± {std:.2f}"
        )
