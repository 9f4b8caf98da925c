"""What a policy does to the pictures of a folder, to look at."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import torch

from dalipipe.figures import draw_grid
from dalipipe.loader import DataLoader
from dalipipe.ops.image import Normalize
from dalipipe.policy import Policy
from dalipipe.sources import ImageFolder

_CELL_PX = 112


def preview(
    source: ImageFolder,
    policy: Policy,
    path: str | os.PathLike[str],
    *,
    samples: int = 6,
    variants: int = 8,
    seed: int = 0,
    title: str = "",
    decoder: str = "auto",
    pass_over_bad: bool = False,
) -> Path:
    """Write a PNG with a row per picture: the original, then ``variants`` of what training would see of it.

    The pictures are evenly spaced in ``source``. Normalisation is left out, since it is not meant for eyes.
    ``pass_over_bad``: take the next picture in the place of one that cannot be read.

    Raises:
        ValueError: ``samples`` or ``variants`` is less than one.
        SampleError: a picture cannot be read or decoded.
    """
    for name, value in (("samples", samples), ("variants", variants)):
        if value < 1:
            raise ValueError(f"preview: {name} must be at least 1, got {value}")
    picks = np.unique(np.linspace(0, len(source) - 1, min(samples, len(source))).round().astype(int))
    if pass_over_bad:
        picks = np.unique([_next_readable(source, i) for i in picks.tolist()])
    chosen = [(source.paths[i], int(source.labels[i])) for i in picks]
    visible = Policy([op for op in policy.ops if not isinstance(op, Normalize)])
    loader = DataLoader(
        ImageFolder.from_samples(chosen, source.classes),
        batch_size=len(chosen),
        policy=visible,
        dtype=torch.uint8,
        seed=seed,
        decoder=decoder,
    )
    rows = [[_original(file)] for file, _ in chosen]
    for epoch in range(variants):
        loader.set_epoch(epoch)
        for batch in loader:
            for row, image in zip(rows, batch.image.permute(0, 2, 3, 1).cpu().numpy(), strict=True):
                row.append(image)
    loader.close()
    side_px = max(rows[0][1].shape[:2])
    names = [source.classes[label] if source.classes else str(label) for _, label in chosen]
    return draw_grid(
        rows,
        path,
        row_labels=[name if len(name) <= 20 else name[:19] + "…" for name in names],
        column_labels=["original", *(str(variant + 1) for variant in range(variants))],
        title=title,
        cell_px=side_px * round(_CELL_PX / side_px) if side_px <= _CELL_PX else _CELL_PX,  # whole multiples stay crisp
    )


def _next_readable(source: ImageFolder, first: int) -> int:
    for i in (*range(first, len(source)), *range(first)):
        with contextlib.suppress(Exception):  # whatever a damaged file provokes
            _original(source.paths[i])
            return i
    raise ValueError(f"preview: none of the {len(source)} pictures can be read")


def _original(path: str) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
