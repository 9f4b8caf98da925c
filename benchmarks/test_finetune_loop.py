"""What `finetune` costs beside a bare PyTorch loop: the same batches, forward, loss, backward, clipping and step.

    pytest benchmarks/test_finetune_loop.py

Timed is an epoch, from asking for the first batch until the loop asks for one more than there are: with the loop's
clock, metrics, logging every 10 steps and its look at signals, without evaluation and checkpoint, which a bare loop has
not. Batches lie in memory, so that neither waits for data; both end with the same weights, which is verified first.

Memory lies in another place in each run, which alone makes some ten percent of a small model's step. So rounds are
short and many; and what the loop adds to a step is also timed with a model that is next to nothing, in microseconds.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rounds import interleave, ratio, write
from torch import nn
from torchvision.models import resnet18

from dalipipe.finetune import FineTuneConfig, Layers, finetune
from dalipipe.finetune.schedule import warmup_cosine

pytestmark = pytest.mark.timeout(0)

GOAL_PERCENT = {"cpu": 2.0, "cuda": 1.0}
LR, SMOOTHING, CLIP_NORM = 1e-3, 0.1, 1.0


class Batches:
    """A list of batches as a loader that can be resumed, and that times its epochs."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches, self.seconds = batches, 0.0

    def __len__(self) -> int:
        return len(self.batches)

    def state_dict(self) -> dict[str, int]:
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        pass

    def __iter__(self) -> Iterator[Any]:
        self._wait()
        begin_s = time.perf_counter()
        yield from self.batches
        self._wait()
        self.seconds = time.perf_counter() - begin_s

    def _wait(self) -> None:
        if self.batches[0][0].is_cuda:
            torch.cuda.synchronize()


def small() -> nn.Module:
    """A CNN on 32 x 32 pixels."""
    torch.manual_seed(0)

    def stage(before: int, after: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]

    layers = [*stage(3, 16), *stage(16, 32), *stage(32, 64), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(*layers)


def larger() -> nn.Module:
    """A ResNet-18 on 64 x 64 pixels."""
    torch.manual_seed(0)
    return resnet18(num_classes=10)


def least() -> nn.Module:
    """A linear layer on 4 x 4 pixels."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 10))


LEAST = "least: a linear layer, 4 pictures of 4 x 4"
CASES = {
    LEAST: (least, 4, 4, 300, 2),
    "small: a CNN of 24 thousand parameters, 64 pictures of 32 x 32": (small, 64, 32, 50, 8),
    "larger: ResNet-18, 32 pictures of 64 x 64": (larger, 32, 64, 6, 3),
}
"""Model, pictures in a batch, their side, steps of an epoch, and how many rounds there are for each asked for."""


def bare(model: nn.Module, batches: Batches) -> None:
    """An epoch as people write it."""
    steps, warmup_steps = len(batches), len(batches) // 2
    optimizer = torch.optim.AdamW(Layers().groups(model, weight_decay=0.05), lr=LR, fused=True)
    model.train()
    for step, (images, labels) in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = LR * warmup_cosine(step, total_steps=steps, warmup_steps=warmup_steps)
        loss = nn.functional.cross_entropy(model(images), labels, label_smoothing=SMOOTHING)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def ours(model: nn.Module, batches: Batches, out: Path) -> None:
    config = FineTuneConfig(
        out=out, epochs=1, lr=LR, warmup_epochs=0.5, label_smoothing=SMOOTHING, clip_norm=CLIP_NORM, amp="off",
        channels_last=False, overwrite=True, progress="off",
    )  # fmt: skip
    finetune(model, batches, batches.batches[:1], config)


def test_loop_beside_a_bare_one(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    before, rounds = torch.get_num_threads(), pytestconfig.getoption("--rounds")
    torch.set_num_threads(1)  # what another thread waits for is noise
    device = "cuda" if torch.cuda.is_available() else "cpu"
    results: dict[str, Any] = {}
    try:
        for name, (make, batch_size, side, steps, times) in CASES.items():
            generator = torch.Generator().manual_seed(1)
            batches = Batches(
                [
                    (
                        torch.randn(batch_size, 3, side, side, generator=generator).to(device),
                        torch.randint(0, 10, (batch_size,), generator=generator).to(device),
                    )
                    for _ in range(steps)
                ]
            )
            models = make().to(device), make().to(device)
            bare(models[0], batches)
            ours(models[1], batches, tmp_path)
            for a, b in zip(*(model.state_dict().values() for model in models), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)

            def turn(run: Any, make: Any = make, batches: Batches = batches) -> tuple[int, float]:
                run(make().to(device), batches)
                return len(batches), batches.seconds

            contenders = {"bare": bare, "finetune": functools.partial(ours, out=tmp_path)}
            timings = interleave({who: functools.partial(turn, run) for who, run in contenders.items()}, times * rounds)
            overhead = 100 * (1 / ratio(timings, "finetune", "bare") - 1)
            took_us = {who: 1e6 / np.array(timing.rates) for who, timing in timings.items()}
            results[name] = {
                "overhead_percent": round(overhead, 2),
                "overhead_us": round(float(np.median(took_us["finetune"] - took_us["bare"])), 1),
                "steps": {contender: timing.summary() for contender, timing in timings.items()},
            }
            print(f"{name}: {overhead:+.2f} % of a step's time, {results[name]['overhead_us']:+.0f} µs")
    finally:
        torch.set_num_threads(before)
    goal = GOAL_PERCENT[device]
    reached = all(result["overhead_percent"] <= goal for name, result in results.items() if name != LEAST)
    found = {"device": device, "threads": 1, "goal_percent": goal, "reached": reached, "cases": results}
    write(f"finetune_loop_{device}", found, pytestconfig.getoption("--results"))
