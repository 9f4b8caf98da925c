"""Photographs → augmented batches, beside the loaders people use: ratios within one run.

    pytest benchmarks/test_loaders.py --data=DIR

Outputs are verified before anything is timed. Two workers or threads each; on a machine of more cores, as many as it
has.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import numpy as np
import peers
import psutil
import pytest
import torch
from rounds import interleave, ratio, write

import dalipipe
from dalipipe.ops.image import RandomResizedCrop

BATCH = 128


def verify(root: Path, workers: int) -> None:
    """The loader's pictures are torchvision's own, for the boxes and flips that were drawn."""
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms.v2 import functional as F

    source = dalipipe.ImageFolder(root)
    loader = dalipipe.DataLoader(
        source, BATCH, num_workers=workers, policy=dalipipe.recipes.imagenet_train(peers.SIZE), device="cpu", seed=0
    )
    batch = next(iter(loader))
    loader.close()
    worst = 0.0
    for row, index in enumerate(batch.indices.tolist()):
        x = decode_image(source.paths[index], ImageReadMode.RGB)
        drawn = loader.plan.draw(dalipipe.rng.make_key(0, 0), np.array([index]), np.array([x.shape[1:]])).drawn
        assert isinstance(drawn[0].op, RandomResizedCrop)
        y, left, h, w = drawn[0].params["box"][0].tolist()
        x = F.resized_crop(x, y, left, h, w, [peers.SIZE, peers.SIZE], antialias=True)
        if drawn[1].applied[0]:
            x = F.horizontal_flip(x)
        expected = F.normalize(F.to_dtype(x, torch.float32, scale=True), list(peers.MEAN), list(peers.STD))
        worst = max(worst, float((batch.image[row] - expected).abs().max()))
    assert worst < 1e-5, f"dalipipe and torchvision differ by {worst}"


def test_loaders(photographs: Path, pytestconfig: pytest.Config, benchmark: Any) -> None:
    workers = len(os.sched_getaffinity(0))
    root = str(photographs)
    verify(photographs, workers)
    contenders = {
        "dalipipe": peers.dalipipe_loader(root, BATCH, workers),
        "torchvision v2, DataLoader": peers.torchvision_v2(root, BATCH, workers, batched_normalize=False),
        "torchvision v2, DataLoader, normalised by batch": peers.torchvision_v2(
            root, BATCH, workers, batched_normalize=True
        ),
        "Pillow, DataLoader": peers.pil(root, BATCH, workers),
        "DALI's own CPU pipeline": peers.dali(root, BATCH, workers),
        "DALI's ROI decoding alone": peers.dali(root, BATCH, workers, decode_only=True),
    }
    timings = benchmark.pedantic(
        interleave, args=(contenders, pytestconfig.getoption("--rounds")), rounds=1, iterations=1
    )
    best_torch = max((n for n in contenders if n.startswith("torchvision")), key=lambda n: np.median(timings[n].rates))
    ratios = {f"over {name}": round(ratio(timings, "dalipipe", name), 3) for name in contenders if name != "dalipipe"}
    benchmark.extra_info.update(ratios)
    path = write(
        "loaders_cpu",
        {
            "what": "decode + RandomResizedCrop 224 + flip + normalise → float32 [N,3,224,224], batches of 128",
            "images": "3,000 files: 125 ImageNet photographs, 24 times each, in the page cache",
            "workers": workers,
            "best_torch": best_torch,
            "contenders": {name: timing.summary() for name, timing in timings.items()},
            "ratios": ratios,
        },
        pytestconfig.getoption("--results"),
    )
    print(f"\n{ratios}\n→ {path}")


def test_memory_is_flat(photographs: Path, pytestconfig: pytest.Config) -> None:
    """Peak memory of six epochs, epoch by epoch: flat from the second on."""
    loader = dalipipe.DataLoader(
        dalipipe.ImageFolder(photographs),
        BATCH,
        shuffle=True,
        policy=dalipipe.recipes.imagenet_train(224),
        device="cpu",
        seed=0,
    )
    process, resident_mb = psutil.Process(), []
    for _ in range(6):
        peak = 0
        for _images, _labels in loader:
            peak = max(peak, process.memory_info().rss)
        gc.collect()
        resident_mb.append(round(peak / 2**20, 1))
    write(
        "memory_cpu",
        {"what": "peak resident MiB, epoch by epoch", "resident_mb": resident_mb},
        pytestconfig.getoption("--results"),
    )
    print(f"\nresident MiB by epoch: {resident_mb}")
    growth = resident_mb[-1] / resident_mb[1] - 1
    assert growth < 0.03, f"memory grew by {growth:.1%} from the second epoch to the sixth: {resident_mb}"
