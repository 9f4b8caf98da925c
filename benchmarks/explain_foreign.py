"""`dalipipe.explain` on torch's ``DataLoader`` against known truth: delays of known length are put into items, a
transform and the step; what explain says of them is compared with what a plain loop over the loader takes, as it is and
with the workers that explain made a prediction for.

python benchmarks/explain_foreign.py [--settings 50] [--seed N] [--results DIR]

Writes results/explain_foreign.json. The settings are drawn from the seed, by default from the clock, so that nothing is
fitted to them.
"""

from __future__ import annotations

import argparse
import random
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rounds import write
from torch.utils.data import DataLoader, Dataset

import dalipipe

BATCH = 8
LOOP = 40  # steps of a plain loop that count, after those from a queue that was full


class Slow(Dataset):
    """Numbers that take ``item_s`` to make, and ``transform``."""

    def __init__(self, item_s: float, transform: Any) -> None:
        self.item_s, self.transform = item_s, transform

    def __len__(self) -> int:
        return 100 * BATCH

    def __getitem__(self, index: int) -> torch.Tensor:
        time.sleep(self.item_s)
        value: torch.Tensor = self.transform(torch.tensor(float(index)))
        return value


@dataclass
class Waiting:
    """A transform that takes its time."""

    seconds: float

    def __call__(self, value: Any) -> Any:
        time.sleep(self.seconds)
        return value


@dataclass(frozen=True)
class Setting:
    """Delays in ms a batch, and workers."""

    item: float
    transform: float
    step: float
    workers: int

    @classmethod
    def drawn(cls, seed: int) -> Setting:
        draw = random.Random(seed)
        return cls(draw.uniform(8, 60), draw.uniform(8, 60), draw.uniform(8, 60), draw.choice((0, 1, 2, 3)))

    def loader(self, workers: int) -> DataLoader:
        dataset = Slow(self.item / BATCH / 1e3, Waiting(self.transform / BATCH / 1e3))
        return DataLoader(dataset, BATCH, num_workers=workers)

    def take_step(self, batch: Any) -> None:
        time.sleep(self.step / 1e3)

    @property
    def right(self) -> set[str]:
        """What may be said to bound it: what takes longest, and what takes as long to a tenth."""
        longest = "item" if self.item >= self.transform else "Waiting"
        near = {"item": self.item, "Waiting": self.transform}
        stages = {name for name, ms in near.items() if ms > 0.9 * near[longest]}
        if self.workers == 0:
            return stages
        batch = (self.item + self.transform) / self.workers
        return ({"step"} if self.step > 0.9 * batch else set()) | (stages if batch > 0.9 * self.step else set())


def loop_ms(setting: Setting, workers: int) -> float:
    """A step's time in a plain loop over the loader."""
    skip, marks = 2 * workers + 4, list[float]()
    for number, batch in enumerate(setting.loader(workers)):
        setting.take_step(batch)
        if number >= skip:
            marks.append(time.perf_counter())
        if len(marks) > LOOP:
            break
    return 1e3 * float(np.diff(marks).mean())


def judge(setting: Setting, steps: int) -> dict[str, Any]:
    """What was said of a setting beside what is."""
    before = loop_ms(setting, setting.workers)  # and after: a machine is not the same all the time
    found = dalipipe.explain(setting.loader(setting.workers), setting.take_step, steps=steps)
    whole = (before + loop_ms(setting, setting.workers)) / 2
    stall = found.prep_stall_ms.value + found.fetch_stall_ms.value
    predictions = {}
    for what_if in found.what_ifs:
        if what_if.name.startswith("running "):
            measured = loop_ms(setting, int(what_if.name.split()[1]))
            predictions[what_if.name] = {
                "predicted_ms": what_if.step_ms.value,
                "measured_ms": measured,
                "off": what_if.step_ms.value / measured - 1,
            }
    return {
        "setting": vars(setting),
        "step_ms": [found.step_ms.value, whole],
        "off": {
            "compute": (found.compute_ms.value - setting.step) / whole,
            "stall": (stall - (whole - setting.step)) / whole,
        },
        "bottleneck": found.bottleneck,
        "right": sorted(setting.right),
        "predictions": predictions,
    }


def summary(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """How often it was right."""
    offs = [abs(off) for case in cases for off in case["off"].values()]
    predicted = [abs(one["off"]) for case in cases for one in case["predictions"].values()]
    return {
        "settings": len(cases),
        "attributions": len(offs),
        "attributions_right": sum(off <= 0.05 for off in offs),
        "bottlenecks_right": sum(case["bottleneck"] in case["right"] for case in cases),
        "predictions": len(predicted),
        "predictions_right": sum(off <= 0.1 for off in predicted),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", type=int, default=50)
    parser.add_argument("--seed", type=int, default=time.time_ns() % (1 << 31))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--results", type=Path, default=None)
    given = parser.parse_args()
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    print(f"seed {given.seed}", flush=True)
    cases = []
    for number in range(given.settings):
        cases.append(judge(Setting.drawn(given.seed + number), given.steps))
        print(line(number, cases[-1]), flush=True)
    found = summary(cases)
    print(found)
    print(write("explain_foreign", {"seed": given.seed, "steps": given.steps, **found, "cases": cases}, given.results))


def line(number: int, case: dict[str, Any]) -> str:
    """A setting, and what is wrong with what was said of it."""
    wrong = [f"{name} off by {off:+.1%} of the step" for name, off in case["off"].items() if abs(off) > 0.05]
    if case["bottleneck"] not in case["right"]:
        wrong.append(f"bound by {'/'.join(case['right'])}, not {case['bottleneck']}")
    for name, one in case["predictions"].items():
        if abs(one["off"]) > 0.1:
            wrong.append(f"{name}: {one['predicted_ms']:.1f} predicted, {one['measured_ms']:.1f} ms")
    setting = " ".join(f"{name} {value:.3g}" for name, value in case["setting"].items())
    said, whole = case["step_ms"]
    return f"{number:3d} {setting} | step {said:.1f} ({whole:.1f}) | {'; '.join(wrong) or 'right'}"


if __name__ == "__main__":
    main()
