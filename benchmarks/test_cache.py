"""Samples kept in memory beside reading and decoding them anew each epoch: ratios within one run.

    pytest benchmarks/test_cache.py --data=DIR

Outputs are verified before anything is timed. Two workers or threads each; on a machine of more cores, as many as it
has.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers
import pytest
import torch
from rounds import interleave, ratio, write

import dalipipe

pytestmark = pytest.mark.timeout(0)

BATCH = 128
PLAIN, FIRST = "dalipipe, no cache", "dalipipe, first epoch with a cache"
DECODED, ENCODED = "dalipipe, kept decoded", "dalipipe, kept encoded"
PEER = "torchvision v2, DataLoader, pictures decoded in memory"


def loader(source: Any, workers: int, **kw: Any) -> dalipipe.DataLoader:
    """RandomResizedCrop 224, flip, normalise."""
    policy = dalipipe.recipes.imagenet_train(peers.SIZE)
    return dalipipe.DataLoader(
        source, BATCH, shuffle=True, num_workers=workers, policy=policy, device="cpu", seed=0, **kw
    )


def verify(loaders: dict[str, dalipipe.DataLoader]) -> None:
    """Two epochs of each are the same bits; afterwards what is kept is kept."""
    plain = loaders[PLAIN]
    for name, other in loaders.items():
        if other is plain:
            continue
        for epoch in range(2):
            plain.set_epoch(epoch)
            other.set_epoch(epoch)
            for expected, found in zip(plain, other, strict=True):
                assert torch.equal(expected.image, found.image), name
        form = "encoded" if name == ENCODED else "decoded"
        said = other.explain(samples=1).splitlines()[-1]
        samples = f"{len(other.dataset):,}"
        assert f"{form}, {samples} of {samples} samples" in said, said


class InMemory(torch.utils.data.Dataset[Any]):
    """Pictures that were decoded once, as tensors that the workers share with their parent."""

    def __init__(self, source: dalipipe.ImageFolder, transform: Any) -> None:
        from torchvision.io import ImageReadMode, decode_image

        self.pictures = [decode_image(path, ImageReadMode.RGB) for path in source.paths]
        self.labels, self.transform = source.labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.pictures[index]), self.labels[index]


def torchvision_in_memory(source: dalipipe.ImageFolder, workers: int) -> Callable[[], int]:
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.RandomResizedCrop(peers.SIZE, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(peers.MEAN, peers.STD),
        ]
    )
    return peers.epochs(
        torch.utils.data.DataLoader(
            InMemory(source, transform),
            BATCH,
            shuffle=True,
            num_workers=workers,
            persistent_workers=True,
            prefetch_factor=4,
        )
    )


def test_cache(photographs: Path, pytestconfig: pytest.Config, benchmark: Any) -> None:
    workers = len(os.sched_getaffinity(0))
    source = dalipipe.ImageFolder(photographs)
    file_bytes = sum(os.path.getsize(path) for path in source.paths)
    loaders = {
        PLAIN: loader(source, workers),
        DECODED: loader(source, workers, cache="ram"),
        ENCODED: loader(source, workers, cache="ram", cache_bytes=int(1.1 * file_bytes)),
    }
    verify(loaders)
    decoded_bytes = loaders[DECODED].stats()["cached_bytes"]
    filled = loader(source, workers, cache="ram", cache_bytes=int(1.2 * decoded_bytes))

    def first_epoch() -> int:
        filled.close()
        return peers.epochs(filled)()

    contenders: dict[str, Callable[[], int]] = {name: peers.epochs(one) for name, one in loaders.items()}
    contenders[FIRST] = first_epoch
    contenders[PEER] = torchvision_in_memory(source, workers)
    timings = benchmark.pedantic(
        interleave, args=(contenders, pytestconfig.getoption("--rounds")), rounds=1, iterations=1
    )
    ratios = {
        "kept decoded over no cache": ratio(timings, DECODED, PLAIN),
        "kept encoded over no cache": ratio(timings, ENCODED, PLAIN),
        "first epoch over no cache": ratio(timings, FIRST, PLAIN),
        "kept decoded over torchvision's in memory": ratio(timings, DECODED, PEER),
    }
    result = {
        "what": "RandomResizedCrop 224 + flip + normalise → float32 [N,3,224,224], batches of 128",
        "images": f"{len(source):,} files, in the page cache",
        "workers": workers,
        "mb": {"encoded": round(file_bytes / 2**20), "decoded": round(decoded_bytes / 2**20)},
        "contenders": {name: timing.summary() for name, timing in timings.items()},
        "ratios": {name: round(value, 3) for name, value in ratios.items()},
    }
    for one in (*loaders.values(), filled):
        one.close()
    benchmark.extra_info.update(result["ratios"])
    path = write("cache_cpu", result, pytestconfig.getoption("--results"))
    print(f"\n{result['ratios']}\n→ {path}")
