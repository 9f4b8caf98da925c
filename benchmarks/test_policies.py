"""DeiT's training recipe on decoded pictures, beside torchvision's v2 and timm's transforms in torch's DataLoader.

    pytest benchmarks/test_policies.py --data=DIR

dalipipe's policies are converted from the very transforms that they are compared with. Batches are verified before
anything is timed. Two workers or threads each; on a machine of more cores, as many as it has.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deit
import numpy as np
import pytest
import torch
from PIL import Image
from rounds import interleave, ratio, write

BATCH, STORED_PX, PHOTOGRAPHS, COPIES = 128, 256, 125, 12
OURS = {of: f"dalipipe, {of}'s recipe" for of in ("torchvision", "timm")}
FINISHES = {
    "worker": "torchvision v2, DataLoader",
    "collate": "torchvision v2, DataLoader, normalised by batch",
    "main": "torchvision v2, DataLoader, normalised and mixed in the main process",
}
TIMM = "timm, Pillow, DataLoader"


@pytest.fixture
def decoded(photographs: Path) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [N, 256, 256, 3] and labels [N]: photographs' middles, ``COPIES`` of each."""
    found = sorted(path for path in photographs.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    files = list({path.stat().st_ino: path for path in found}.values())[:PHOTOGRAPHS]
    pictures = []
    for path in files:
        with Image.open(path) as image:
            rgb = image.convert("RGB")
        side = min(rgb.size)
        left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
        pictures.append(np.asarray(rgb.resize((STORED_PX, STORED_PX), box=(left, top, left + side, top + side))))
    images = np.tile(np.stack(pictures), (COPIES, 1, 1, 1))
    return images, np.arange(len(images)) % deit.CLASSES


def statistics_of(batches: Any) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Mean and standard deviation by channel of an epoch, and its batches; what is wrong with one raises."""
    sums, squares = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    count, mixed = 0, 0
    for images, labels in batches:
        assert images.shape == (BATCH, 3, deit.SIZE, deit.SIZE) and images.dtype == torch.float32
        assert labels.shape == (BATCH, deit.CLASSES) and labels.dtype == torch.float32
        assert torch.allclose(labels.sum(dim=1), torch.ones(BATCH), atol=1e-4), "labels do not add up to 1"
        mixed += int((labels.max(dim=1).values < 0.85).sum())
        sums += images.mean(dim=(0, 2, 3), dtype=torch.float64)
        squares += images.double().square().mean(dim=(0, 2, 3))
        count += 1
    assert mixed > 0, "nothing was mixed"
    mean = sums / count
    return mean, (squares / count - mean**2).sqrt(), count


def verify(ours: Any, theirs: Any, name: str) -> None:
    """Over an epoch both see pictures as bright and about as lively as each other."""
    (mean, deviation, count), (their_mean, their_deviation, their_count) = statistics_of(ours), statistics_of(theirs)
    assert count == their_count > 0
    apart = float((mean - their_mean).abs().max())
    assert apart < 0.06, f"dalipipe and {name}: means are {apart:.3f} apart"
    # Pictures blended half and half are duller by 30 %; the others do that to whole batches, of which there are few.
    apart = float((deviation / their_deviation - 1).abs().max())
    assert apart < 0.15, f"dalipipe and {name}: deviations are {apart:.1%} apart"


def test_deit_recipe(decoded: tuple[np.ndarray, np.ndarray], pytestconfig: pytest.Config, benchmark: Any) -> None:
    torch.manual_seed(0)
    workers = len(os.sched_getaffinity(0))
    data = (*decoded, BATCH, workers)
    loaders: dict[str, Callable[[], Any]] = {}
    for of, name in OURS.items():
        loader = deit.dalipipe_loader(*data, of)
        loaders[name] = lambda loader=loader: loader
    for finish, name in FINISHES.items():
        loaders[name] = deit.torchvision_loader(*data, finish=finish)
    loaders[TIMM] = deit.timm_loader(*data)

    for name in FINISHES.values():
        verify(loaders[OURS["torchvision"]](), loaders[name](), name)
    verify(loaders[OURS["timm"]](), loaders[TIMM](), TIMM)

    def epoch(batches: Callable[[], Any]) -> Callable[[], int]:
        return lambda: sum(len(images) for images, _labels in batches())

    contenders = {name: epoch(batches) for name, batches in loaders.items()}
    rounds = pytestconfig.getoption("--rounds")
    timings = benchmark.pedantic(interleave, args=(contenders, rounds, 0), rounds=1, iterations=1)
    best_torchvision = max(FINISHES.values(), key=lambda name: np.median(timings[name].rates))
    ratios = {
        "over torchvision v2": ratio(timings, OURS["torchvision"], best_torchvision),
        "over timm": ratio(timings, OURS["timm"], TIMM),
    }
    for name in (*FINISHES.values(), TIMM):
        of = "timm" if name == TIMM else "torchvision"
        ratios[f"over {name}"] = ratio(timings, OURS[of], name)
    ratios = {name: round(value, 3) for name, value in ratios.items()}
    benchmark.extra_info.update(ratios)
    path = write(
        "policies_cpu",
        {
            "what": "DeiT's recipe: RandomResizedCrop 224, bicubic, flip, RandAugment, normalise, RandomErasing, MixUp "
            f"or CutMix → float32 [N,3,224,224] and soft labels, batches of {BATCH}",
            "images": f"{len(decoded[0]):,} uint8 photographs of {STORED_PX}×{STORED_PX} px in memory",
            "workers": workers,
            "best_torchvision": best_torchvision,
            "like_for_like": {
                name: OURS["timm" if name == TIMM else "torchvision"] for name in (*FINISHES.values(), TIMM)
            },
            "contenders": {name: timing.summary() for name, timing in timings.items()},
            "ratios": ratios,
        },
        pytestconfig.getoption("--results"),
    )
    print(f"\n{ratios}\n→ {path}")
