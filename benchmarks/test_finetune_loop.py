"""What `finetune` costs beside a bare PyTorch loop: the same batches, forward, loss, backward, clipping and step.

    pytest benchmarks/test_finetune_loop.py

Timed are steps, one of each loop in turn, so that what the machine does meets both alike: `finetune`'s from when its
loader gives a batch until it asks for the next one, with its clock, metrics, logging every 10 steps and its look at
signals. Evaluation and checkpoint, which a bare loop has not, do not count. Batches lie in memory, so that neither
waits for data; both end with the same weights, which is verified first. Where memory lies makes some ten percent of a
small model's step, so each of many epochs has new models.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rounds import write
from torch import nn
from torchvision.models import resnet18

from dalipipe.finetune import FineTuneConfig, Layers, finetune
from dalipipe.finetune.schedule import warmup_cosine

pytestmark = pytest.mark.timeout(0)

GOAL_PERCENT = {"cpu": 2.0, "cuda": 1.0}
LR, SMOOTHING, CLIP_NORM = 1e-3, 0.1, 1.0


class Batches:
    """A list of batches as a loader that can be resumed. ``between``: what is done with each batch when the loop is
    done with it. ``seconds``: of every step, the loop's and that.
    """

    def __init__(self, batches: list[Any], between: Callable[[Any], Any] | None = None) -> None:
        self.batches, self.between = batches, between
        self.seconds: list[tuple[float, float]] = []

    def __len__(self) -> int:
        return len(self.batches)

    def state_dict(self) -> dict[str, int]:
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        pass

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            begin_s = self._now_s()
            yield batch
            middle_s = self._now_s()
            if self.between is not None:
                self.between(batch)
                self.seconds.append((middle_s - begin_s, self._now_s() - middle_s))

    def _now_s(self) -> float:
        if self.batches[0][0].is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()


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
    "small: a CNN of 24 thousand parameters, 64 pictures of 32 x 32": (small, 64, 32, 100, 4),
    "larger: ResNet-18, 32 pictures of 64 x 64": (larger, 32, 64, 10, 3),
}
"""Model, pictures in a batch, their side, steps of an epoch, and how many epochs for each round asked for."""


class Bare:
    """The loop as people write it, a step at a time."""

    def __init__(self, model: nn.Module, steps: int) -> None:
        self.model, self.step, self.steps = model.train(), 0, steps
        self.optimizer = torch.optim.AdamW(Layers().groups(model, weight_decay=0.05), lr=LR, fused=True)

    def __call__(self, batch: Any) -> None:
        images, labels = batch
        for group in self.optimizer.param_groups:
            group["lr"] = LR * warmup_cosine(self.step, total_steps=self.steps, warmup_steps=self.steps // 2)
        loss = nn.functional.cross_entropy(self.model(images), labels, label_smoothing=SMOOTHING)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1


def ours(model: nn.Module, batches: Batches, out: Path) -> None:
    config = FineTuneConfig(
        out=out, epochs=1, lr=LR, warmup_epochs=0.5, label_smoothing=SMOOTHING, clip_norm=CLIP_NORM, amp="off",
        channels_last=False, overwrite=True, progress="off",
    )  # fmt: skip
    finetune(model, batches, batches.batches[:1], config)


def epoch(make: Callable[[], nn.Module], batches: list[Any], out: Path, device: str) -> np.ndarray:
    """Seconds of every step, float64 [steps, 2]: `finetune`'s and the bare loop's, which end with the same weights."""
    models = make().to(device), make().to(device)
    loader = Batches(batches, Bare(models[1], len(batches)))
    ours(models[0], loader, out)
    for a, b in zip(*(model.state_dict().values() for model in models), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    return np.array(loader.seconds)


def test_loop_beside_a_bare_one(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    before, rounds = torch.get_num_threads(), pytestconfig.getoption("--rounds")
    torch.set_num_threads(1)  # what another thread waits for is noise
    device = "cuda" if torch.cuda.is_available() else "cpu"
    results: dict[str, Any] = {}
    try:
        for name, (make, batch_size, side, steps, times) in CASES.items():
            generator = torch.Generator().manual_seed(1)
            batches = [
                (
                    torch.randn(batch_size, 3, side, side, generator=generator).to(device),
                    torch.randint(0, 10, (batch_size,), generator=generator).to(device),
                )
                for _ in range(steps)
            ]
            epoch(make, batches, tmp_path, device)
            epochs = []
            for number in range(times * rounds):
                epochs.append(epoch(make, batches, tmp_path, device))
                print(f"  {name}, epoch {number + 1} of {times * rounds}", flush=True)
            results[name] = summary(np.stack(epochs))
            found = results[name]
            print(f"{name}: {found['overhead_percent']:+.2f} % of a step's time, {found['overhead_us']:+.0f} µs")
    finally:
        torch.set_num_threads(before)
    goal = GOAL_PERCENT[device]
    reached = all(result["overhead_percent"] <= goal for name, result in results.items() if name != LEAST)
    found = {"device": device, "threads": 1, "goal_percent": goal, "reached": reached, "cases": results}
    write(f"finetune_loop_{device}", found, pytestconfig.getoption("--results"))


def summary(seconds: np.ndarray) -> dict[str, Any]:
    """Of steps' ``seconds`` [epochs, steps, 2]: an epoch's overhead is its median step's, all of them's their mean; the
    interval comes from epochs drawn again.
    """
    ours_us, bare_us = (1e6 * np.median(seconds[..., loop], axis=1) for loop in (0, 1))  # [epochs]
    more_us = 1e6 * np.median(seconds[..., 0] - seconds[..., 1], axis=1)
    percent = 100 * more_us / bare_us
    drawn = np.random.default_rng(0).choice(percent, (2000, len(percent))).mean(axis=1)
    return {
        "overhead_percent": round(float(percent.mean()), 2),
        "interval_percent": np.quantile(drawn, (0.025, 0.975)).round(2).tolist(),
        "overhead_us": round(float(more_us.mean()), 1),
        "step_us": {"finetune": round(float(np.median(ours_us)), 1), "bare": round(float(np.median(bare_us)), 1)},
        "epochs": len(percent),
        "steps": seconds.shape[1],
    }
