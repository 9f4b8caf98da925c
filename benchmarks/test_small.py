"""Small pictures in memory, as CIFAR-10's: flip, translation and cutout, beside the ways that people use.

    FFCV_PYTHON=/path/to/a/python/with/ffcv pytest benchmarks/test_small.py

All give uint8 batches on the CPU. Outputs are verified before anything is timed. FFCV takes part where it is installed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ffcv_peer
import numpy as np
import peers
import pytest
import torch
from rounds import interleave, ratio, write

import dalipipe
from dalipipe.ops import image as ops

pytestmark = pytest.mark.timeout(0)

N, SIDE, PADDING, CUTOUT = 50_000, 32, 4, 8
BATCHES = (4096, 1000)
GOALS = {"dalipipe, images/s": 1_000_000}


def loader(pictures: np.ndarray, labels: np.ndarray, batch_size: int, workers: int, **kw: Any) -> dalipipe.DataLoader:
    policy = dalipipe.Policy([ops.HorizontalFlip(), ops.RandomCrop(SIDE, PADDING), ops.Cutout(CUTOUT)])
    settings: dict[str, Any] = {"shuffle": True, "seed": 0, "device": "cpu", "dtype": torch.uint8} | kw
    return dalipipe.DataLoader(
        dalipipe.Arrays(pictures, labels), batch_size, policy=policy, num_workers=workers, **settings
    )


def verify(pictures: np.ndarray, labels: np.ndarray) -> None:
    """What is timed is what the reference makes of the same draws."""
    batches = [
        next(iter(loader(pictures[:500], labels[:500], 500, 2, engine=engine))) for engine in ("native", "reference")
    ]
    assert torch.equal(batches[0].image, batches[1].image) and torch.equal(batches[0].label, batches[1].label)


def torchvision_v2(pictures: np.ndarray, labels: np.ndarray, batch_size: int, workers: int) -> Callable[[], int]:
    """Picture by picture in worker processes."""
    from torchvision.transforms import v2

    share = CUTOUT**2 / SIDE**2
    transform = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomCrop(SIDE, PADDING),
            v2.RandomErasing(p=1.0, scale=(share, share), ratio=(1.0, 1.0)),
        ]
    )

    class Pictures(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
        images = torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy())
        targets = labels.tolist()

        def __len__(self) -> int:
            return len(self.targets)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return transform(self.images[index]), self.targets[index]

    return peers.epochs(
        torch.utils.data.DataLoader(
            Pictures(), batch_size, shuffle=True, num_workers=workers, persistent_workers=True, prefetch_factor=4
        )
    )


def by_batch(pictures: np.ndarray, labels: np.ndarray, batch_size: int, workers: int) -> Callable[[], int]:
    """torch's operators on whole batches, as the CIFAR-10 speed runs have it; no loader at all."""
    images = torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy())
    targets = torch.from_numpy(labels)
    padded = torch.nn.functional.pad(images, (PADDING,) * 4)
    at = torch.arange(SIDE)

    def epoch() -> int:
        torch.set_num_threads(workers)
        items = 0
        for rows in torch.randperm(len(images)).split(batch_size):
            n = len(rows)
            y, x = torch.randint(0, 2 * PADDING + 1, (2, n, 1))
            columns = torch.where(torch.rand(n, 1) < 0.5, at, at.flip(0)) + x
            batch = padded[rows[:, None, None, None], torch.arange(3)[:, None, None], (at + y)[:, None, :, None],
                           columns[:, None, None, :]]  # fmt: skip
            top, left = torch.randint(0, SIDE, (2, n, 1)) - CUTOUT // 2
            rows_out, columns_out = ((at >= first) & (at < first + CUTOUT) for first in (top, left))
            batch.masked_fill_((rows_out[:, :, None] & columns_out[:, None, :])[:, None], 0)
            items += len(batch) * (len(targets[rows]) == n)
        return items

    return epoch


def repeated(epoch: Callable[[], int], times: int) -> Callable[[], int]:
    return lambda: sum(epoch() for _ in range(times))


def test_small_pictures(pytestconfig: pytest.Config, benchmark: Any, tmp_path: Path) -> None:
    workers = len(os.sched_getaffinity(0))
    rng = np.random.default_rng(0)
    pictures, labels = rng.integers(0, 256, (N, SIDE, SIDE, 3), np.uint8), rng.integers(0, 10, N)
    verify(pictures, labels)
    contenders: dict[str, Callable[[], int]] = {}
    for batch in BATCHES:
        made = loader(pictures, labels, batch, workers)
        contenders[f"dalipipe, batches of {batch:,}"] = repeated(peers.epochs(made), 20)
    for batch in BATCHES:
        contenders[f"torch on whole batches of {batch:,}"] = by_batch(pictures, labels, batch, workers)
    contenders["torchvision v2, DataLoader"] = torchvision_v2(pictures, labels, BATCHES[1], workers)
    has_ffcv = ffcv_peer.available()
    if has_ffcv:
        np.save(tmp_path / "pictures.npy", pictures)
        for batch in BATCHES:
            (folder := tmp_path / str(batch)).mkdir()
            contenders[f"FFCV, batches of {batch:,}"] = repeated(
                ffcv_peer.epochs(str(tmp_path / "pictures.npy"), folder, CUTOUT, batch, workers, "small", PADDING),
                5,
            )
    timings = benchmark.pedantic(
        interleave, args=(contenders, pytestconfig.getoption("--rounds")), rounds=1, iterations=1
    )
    first = f"dalipipe, batches of {BATCHES[0]:,}"
    ratios = {}
    for kind in ("torch on whole batches", "torchvision v2", "FFCV"):
        of_kind = [name for name in contenders if name.startswith(kind)]
        if of_kind:
            best = max(of_kind, key=lambda name: np.median(timings[name].rates))
            ratios[f"dalipipe over {best}"] = ratio(timings, first, best)
    result = {
        "what": "RandomHorizontalFlip + translation by up to 4 px + cutout of 8 px → uint8 [N,3,32,32]",
        "images": f"{N:,} pictures of {SIDE}×{SIDE} px in memory",
        "workers": workers,
        "ffcv": has_ffcv,
        "contenders": {name: timing.summary() for name, timing in timings.items()},
        "ratios": {name: round(value, 2) for name, value in ratios.items()},
        "goals": GOALS,
    }
    benchmark.extra_info.update(result["ratios"])
    path = write("small_cpu", result, pytestconfig.getoption("--results"))
    print(f"\n{result['ratios']}\n→ {path}")
