"""Photographs → augmented batches, beside the loaders people use: ratios within one run.

    pytest benchmarks/test_loaders.py --data=DIR

Outputs are verified before anything is timed. Two workers or threads each; on a machine of more cores, as many as it
has.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import peers
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
        "dalipipe": peers.epochs(peers.dalipipe_loader(root, BATCH, workers)),
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


def test_memory(photographs: Path, pytestconfig: pytest.Config) -> None:
    """Peak memory, epoch by epoch, in a process of its own; and DALI's own decoding, which it holds, by itself."""
    found = {}
    for contender in ("dalipipe", "dali"):
        command = [
            sys.executable,
            str(Path(__file__).parent / "memory.py"),
            str(photographs),
            contender,
            "8",
            str(BATCH),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[contender] = json.loads(done.stdout.splitlines()[-1])
    result = {
        "what": f"MiB, epoch by epoch of 3,000 photographs, batches of {BATCH}",
        "resident_mb": [round(v, 1) for v in found["dalipipe"]["resident_mb"]],
        "buffers_mb": [round(v, 1) for v in found["dalipipe"]["buffers_mb"]],
        "dali_decoding_alone_mb": [round(v, 1) for v in found["dali"]["resident_mb"]],
    }
    path = write("memory_cpu", result, pytestconfig.getoption("--results"))
    print(f"\n{result}\n→ {path}")
    buffers = result["buffers_mb"]
    assert max(buffers[1:]) <= 1.05 * buffers[1], f"the loader's own buffers grew: {buffers}"
