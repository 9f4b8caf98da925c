"""Photographs → augmented batches, beside the loaders people use: ratios within one run.

    FFCV_PYTHON=/path/to/a/python/with/ffcv pytest benchmarks/test_loaders.py -s --data=DIR

Each loader at its best settings, in processes of its own (`dalipipe.bench`): who is not installed is listed as absent.
Outputs are verified before anything is timed. As many workers or threads each as there are cores, or twice as many.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import peers
import pytest
import torch
from rounds import write

import dalipipe
from dalipipe import bench
from dalipipe.bench.comparison import Comparison
from dalipipe.bench.contenders import DALI, OURS, PILLOW
from dalipipe.bench.report import draw
from dalipipe.ops.image import RandomResizedCrop

pytestmark = pytest.mark.timeout(0)

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


def goals(found: Comparison, first_batch_s: float) -> list[dict[str, Any]]:
    """What the loader was to reach on two cores; ``measured`` is ``None`` where the other one was not there."""
    ours, torches = found.outcomes[OURS], [name for name in found.outcomes if name.startswith("torch DataLoader")]
    best_torch = found.best(torches)
    others = [found.ratio(OURS, name) for name in found.outcomes if name != OURS]

    def over(name: str | None) -> float | None:
        return found.ratio(OURS, name) if name in found.outcomes else None

    def share() -> float | None:
        if best_torch is None:
            return None
        mine, theirs = ours.cpu_s_per_1000, found.outcomes[best_torch].cpu_s_per_1000
        return statistics.median(a / b for a, b in zip(mine, theirs, strict=True))

    wanted: list[tuple[str, str, float, float | None]] = [
        ("times DALI at its best settings", "≥", 1.8, over(DALI)),
        ("times the best torch DataLoader", "≥", 2.2, over(best_torch)),
        ("times Pillow in a DataLoader", "≥", 2.8, over(PILLOW)),
        ("times the fastest of all others", "≥", 1.0, min(others, default=None)),
        ("times its own rate on one core", "≥", 1.9, found.scaling),
        ("p99 over p50 of the time from batch to batch", "≤", 1.3, ours.tail),
        ("seconds from a process's start to its first batch", "≤", 2.0, first_batch_s),
        ("CPU seconds, of the best torch DataLoader's", "≤", 0.6, share()),
    ]
    return [
        {
            "what": what,
            "wanted": f"{sign} {value}",
            "measured": None if measured is None else round(measured, 3),
            "met": measured is not None and (measured >= value if sign == "≥" else measured <= value),
        }
        for what, sign, value, measured in wanted
    ]


def test_loaders(photographs: Path, pytestconfig: pytest.Config, benchmark: Any, results: Path) -> None:
    cores, dry_run = len(os.sched_getaffinity(0)), pytestconfig.getoption("--dry-run")
    batch = 8 if dry_run else BATCH
    verify(photographs, cores)
    work = bench.work_of(dalipipe.ImageFolder(photographs), batch_size=batch, cores=cores)
    started = bench.first_batch_s(work, times=1 if dry_run else 3)
    options: dict[str, Any] = {
        # So many pictures a round that all rounds together have batches enough for a 99th percentile.
        "images": 24 * BATCH,
        "rounds": 2 * pytestconfig.getoption("--rounds"),
        "progress": lambda words: print(f"  {words}", flush=True),
    }
    if dry_run:
        options |= {"images": 4 * batch, "rounds": 1, "sweep": False}
    found = benchmark.pedantic(bench.compare, args=(work,), kwargs=options, rounds=1, iterations=1)
    first_batch_s, imports_s = (statistics.median(each) for each in zip(*started, strict=True))
    result = {
        "dry_run": dry_run,
        **found.summary(),
        "images": "125 ImageNet photographs, 24 times each, in the page cache",
        "first_batch_s": round(first_batch_s, 2),
        "imports_s": round(imports_s, 2),
        "goals": goals(found, first_batch_s),
    }
    benchmark.extra_info.update(result["ratios"])
    path = write("loaders_cpu", result, results)
    draw(found, path.with_suffix(".png"), title=f"{result['what']}, {cores} cores")
    print(*(f"{'met  ' if goal['met'] else 'short'} {goal}" for goal in result["goals"]), f"→ {path}", sep="\n")


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
