"""Does cross-validation choose a strength that helps, and none that harms? On few real pictures and series.

    python benchmarks/tune_accuracy.py --data DIR --jobs 2    # DIR holds cifar10_jpeg_subset.tar and ucr_series.tar
    python benchmarks/tune_accuracy.py --quick                # two steps, digits alone; writes no results
    python benchmarks/tune_accuracy.py --data DIR --pilot     # on other seeds, tested on training data not drawn

For each task and seed, `dalipipe.finetune.tuning.tune` chooses on the training samples alone, by five folds; then four
networks are trained on all of them, equally long and from the same weights: without augmentation, with the policy as
written, with TrivialAugment (pictures), and with what was chosen; accuracy is that of the final weights on the whole
test set. A seed says which samples are trained on (of series, all are), weights, folds and order. "digits, harmful"
mirrors handwritten digits up and down, left and right, and turns them by up to 180 degrees: what is right there is
none. Runs that results/tune_accuracy.json has already are not repeated; benchmarks/report.py writes the table.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import math
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent))

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
FILES = ("cifar10_jpeg_subset.tar", "ucr_series.tar")
TASKS = ("digits", "digits, harmful", "cifar10", "ItalyPowerDemand", "OSULeaf")
ARMS = ("none", "as written", "TrivialAugment", "chosen")
PILOT_SEEDS = 1000


@dataclass(frozen=True)
class Settings:
    """Of every run alike; ``steps`` and ``lr`` by task, chosen in pilots."""

    seeds: int = 3
    folds: int = 5
    digits_a_class: int = 20
    cifar_a_class: int = 50
    batch_size: int = 32
    width: int = 16
    strengths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
    copies: tuple[int | None, ...] = (1, 4, None)
    steps: int = 300
    series_steps: int = 200
    lr: float = 3e-3
    series_lr: float = 1e-3


class SmallResNet(nn.Module):
    """Three residual blocks of ``width``, 2 · ``width`` and 4 · ``width`` channels, each of which halves the sides, on
    pictures [N, C, H, W] (3×3), or series [N, T, C] (7 frames); the mean over places, a linear layer.
    """

    def __init__(self, classes: int, channels: int, width: int, *, series: bool = False) -> None:
        super().__init__()
        widths = [width, width, 2 * width, 4 * width]
        self.series = series
        self.first = _convolution(channels, width, 1, series)
        self.blocks = nn.ModuleList(Block(before, after, series) for before, after in itertools.pairwise(widths))
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor, length: Tensor | None = None) -> Tensor:
        x = functional.relu(self.first(x.transpose(1, 2) if self.series else x))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x.flatten(2).mean(2))
        return logits


class Block(nn.Module):
    def __init__(self, before: int, after: int, series: bool) -> None:
        super().__init__()
        self.one, self.two = _convolution(before, after, 2, series), _convolution(after, after, 1, series)
        self.past = _convolution(before, after, 2, series)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.two(functional.relu(self.one(x))) + self.past(x))


def _convolution(before: int, after: int, stride: int, series: bool) -> nn.Module:
    if series:
        return nn.Sequential(nn.Conv1d(before, after, 7, stride, 3, bias=False), nn.BatchNorm1d(after))
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after))


def policies(task: str) -> tuple[Any, Any]:
    """What is tuned, and what is seen in validation."""
    from dalipipe import recipes
    from dalipipe.ops.image import HorizontalFlip, Normalize, RandAugment, RandomCrop, Resize, Rotate, VerticalFlip
    from dalipipe.policy import Policy

    if task == "digits":
        return recipes.digits_train(16), recipes.digits_eval(16)
    if task == "digits, harmful":
        harm = [Resize((16, 16)), Rotate(180), HorizontalFlip(), VerticalFlip(), Normalize(0.5, 0.25)]
        return Policy(harm), recipes.digits_eval(16)
    if task == "cifar10":
        normalize = Normalize(recipes.CIFAR10_MEAN, recipes.CIFAR10_STD)
        return Policy([RandomCrop(32, padding=4), HorizontalFlip(), RandAugment(2, 9), normalize]), Policy([normalize])
    return recipes.series(), recipes.series_eval()


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return np.rint(found.images * (255 / 16)).astype(np.uint8)[..., None], found.target.astype(np.int64)


@cache
def cifar(folder: str, part: str) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image

    pictures, labels = [], []
    with tarfile.open(Path(folder) / FILES[0]) as tar:
        members = [m for m in tar.getmembers() if m.name.endswith(".jpg") and f"/{part}/" in m.name]
        names = sorted({member.name.split("/")[-2] for member in members})
        for member in sorted(members, key=lambda member: member.name):
            file = tar.extractfile(member)
            assert file is not None
            pictures.append(np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB")))
            labels.append(names.index(member.name.split("/")[-2]))
    return np.stack(pictures), np.array(labels, np.int64)


def balanced(labels: np.ndarray, each: int, seed: int) -> np.ndarray:
    """bool [N]: ``each`` of every class."""
    random, chosen = np.random.default_rng(seed), np.zeros(len(labels), bool)
    for label in np.unique(labels):
        chosen[random.permutation(np.flatnonzero(labels == label))[:each]] = True
    return chosen


def data_of(task: str, seed: int, settings: Settings, folder: str) -> tuple[Any, Any]:
    """What a seed trains on, and what it is tested on: in pilots, training samples that are not drawn."""
    import dalipipe

    pilot = seed >= PILOT_SEEDS
    if task in ("ItalyPowerDemand", "OSULeaf"):
        from dalipipe.finetune.parts import Part

        train = dalipipe.Series.open(Path(folder) / "ucr" / f"{task}_TRAIN.ts")
        if not pilot:
            return train, dalipipe.Series.open(Path(folder) / "ucr" / f"{task}_TEST.ts")
        drawn = balanced(train.labels, round(0.6 * len(train) / len(train.classes)), seed)
        return Part(train, np.flatnonzero(drawn)), Part(train, np.flatnonzero(~drawn))
    if task == "cifar10":
        pictures, labels = cifar(folder, "train")
        drawn = balanced(labels, settings.cifar_a_class, seed)
        tested = (pictures[~drawn][::4], labels[~drawn][::4]) if pilot else cifar(folder, "test")
    else:
        pictures, labels = digits()
        held = balanced(labels, 80, 12345)  # for the test, always the same
        pool = np.flatnonzero(~held)
        mine = balanced(labels[pool], settings.digits_a_class, seed)
        drawn = np.zeros(len(labels), bool)
        drawn[pool[mine]] = True
        tested = pictures[held], labels[held]
        if pilot:
            tested = pictures[pool[~mine]], labels[pool[~mine]]
    names = [str(number) for number in range(10)]
    return tuple(dalipipe.Arrays(*part, classes=names) for part in ((pictures[drawn], labels[drawn]), tested))  # type: ignore[return-value]


def run(task: str, seed: int, settings: Settings, folder: str) -> dict[str, Any]:
    """A strength chosen, and what each arm then comes to on the test set, in percent."""
    import dalipipe
    from dalipipe.finetune import finetune
    from dalipipe.finetune.tuning import Candidate, TuneConfig, candidates, trivial_augment, tune
    from dalipipe.finetune.tuning.fixed_steps import FixedSteps

    torch.set_num_threads(1)
    begun, cpu_begun = time.perf_counter(), time.process_time()
    written, seen = policies(task)
    train, test = data_of(task, seed, settings, folder)
    series = train.schema.fields[0].kind == "series"
    classes, channels = len(train.classes), train.schema.fields[0].channels or 1

    def model(loader: Any) -> nn.Module:
        return SmallResNet(classes, channels, settings.width * (2 if series else 1), series=series)

    options: dict[str, Any] = {"device": "cpu", "num_workers": 1}
    grid = candidates(written, strengths=settings.strengths, copies=settings.copies)
    if task == "cifar10":  # where the policy counts operators, these are compared instead of copies
        grid = candidates(written, strengths=settings.strengths, counts=(1, 2, 3))
    steps, lr = (settings.series_steps, settings.series_lr) if series else (settings.steps, settings.lr)
    with tempfile.TemporaryDirectory() as name:
        batch = min(settings.batch_size, len(train) // 2 if not series else 16)
        config = TuneConfig(name, folds=settings.folds, steps=steps, batch_size=batch, lr=lr, seed=seed, overwrite=True)
        tuned = tune(written, train, model, config, candidates=grid, eval_policy=seen, loader=options)
        arms = {"none": Candidate(0.0).policy(written), "as written": written}
        if not series:
            arms["TrivialAugment"] = trivial_augment(written)
        arms["chosen"] = tuned.policy
        accuracies: dict[str, float] = {}
        for arm, policy in arms.items():
            same = next((other for other in accuracies if arms[other] == policy), None)
            if same is not None:  # it would come to the same, to the bit
                accuracies[arm] = accuracies[same]
                continue
            given = {"batch_size": batch, "seed": seed, **options}
            loader = dalipipe.DataLoader(train, shuffle=True, drop_last=True, policy=policy, **given)
            tested = dalipipe.DataLoader(test, policy=seen, **{**given, "batch_size": 128})
            torch.manual_seed(seed)
            how = config.fit(Path(name) / "final", seed, steps)
            accuracies[arm] = 100 * finetune(model(loader), FixedSteps(loader, steps), tested, how).val_accuracy
    return {
        "task": task,
        "seed": seed,
        "samples": len(train),
        "tested_on": len(test),
        "chosen": tuned.chosen.candidate.name,
        "strength": tuned.chosen.candidate.strength,
        "validation": {one.candidate.name: round(100 * one.mean, 2) for one in tuned.standings if one.in_full},
        "accuracy": {arm: round(value, 3) for arm, value in accuracies.items()},
        "candidates": len(grid),
        "share": round(tuned.cost / tuned.grid, 4),
        "cpu_s": round(time.process_time() - cpu_begun, 1),
        "wall_s": round(time.perf_counter() - begun, 1),
    }


def wanted(runs: list[dict[str, Any]], seeds: Iterable[int], tasks: tuple[str, ...]) -> list[tuple[str, int]]:
    """What is not among ``runs``, seed by seed."""
    done = {(one["task"], one["seed"]) for one in runs}
    return [(task, seed) for seed in seeds for task in tasks if (task, seed) not in done]


def measure(folder: str, results: Path, settings: Settings, jobs: int, minutes: float, tasks: Any, pilot: bool) -> None:
    """Adds what is missing to tune_accuracy.json, each run as it ends; pilots are only shown."""
    import rounds

    path, shown = results / "tune_accuracy.json", json.loads(json.dumps(asdict(replace(settings, seeds=0))))
    result: dict[str, Any] = {"settings": shown, "runs": []}
    if path.is_file() and not pilot:
        result = json.loads(path.read_text())
    if result["settings"] != shown:
        raise SystemExit(f"{path} has other settings: {result['settings']}; move it away to measure these: {shown}")
    until = time.monotonic() + 60 * minutes
    seeds = range(PILOT_SEEDS, PILOT_SEEDS + settings.seeds) if pilot else range(settings.seeds)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        todo = wanted(result["runs"], seeds, tasks)
        for future in as_completed([pool.submit(run_until, until, *one, settings, folder) for one in todo]):
            if (one := future.result()) is not None:
                print(one, flush=True)
                order = {task: place for place, task in enumerate(TASKS)}
                result["runs"] = sorted([*result["runs"], one], key=lambda r: (order[r["task"]], r["seed"]))
                if not pilot:
                    rounds.write("tune_accuracy", result, results)
    show(result["runs"])


def run_until(until: float, *of_run: Any) -> dict[str, Any] | None:
    """``run``, unless it is too late to begin one."""
    return run(*of_run) if time.monotonic() < until else None


def show(runs: list[dict[str, Any]]) -> None:
    """Means of the accuracies, their standard errors, and what was chosen."""
    for task in TASKS:
        own = [one for one in runs if one["task"] == task]
        for arm in ARMS:
            values = [one["accuracy"][arm] for one in own if arm in one["accuracy"]]
            if len(values) > 1:
                error = np.std(values, ddof=1) / math.sqrt(len(values))
                print(f"{task:18} {arm:16} {np.mean(values):6.2f} ± {error:.2f}  ({len(values)} seeds)")
        if own:
            print(f"{task:18} chosen: {'; '.join(one['chosen'] for one in own)}")


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """The arms' accuracies beside each other, task by task."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tasks = [task for task in TASKS if any(one["task"] == task for one in runs)]
    figure, cells = pyplot.subplots(1, len(tasks), figsize=(2.6 * len(tasks), 3.2), layout="constrained", squeeze=False)
    colours = dict(zip(ARMS, ("#7b8794", "#2563eb", "#1a936f", "#ea7317"), strict=True))
    for axes, task in zip(cells[0], tasks, strict=True):
        own = [one["accuracy"] for one in runs if one["task"] == task]
        arms = [arm for arm in ARMS if any(arm in one for one in own)]
        for place, arm in enumerate(arms):
            values = np.array([one[arm] for one in own if arm in one])
            error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else 0.0
            axes.errorbar(place, values.mean(), error, fmt="o", color=colours[arm], capsize=3, markersize=7)
            axes.plot(np.full(len(values), place + 0.15), values, ".", color=colours[arm], alpha=0.4)
        axes.set_xticks(range(len(arms)), arms, rotation=35, ha="right", fontsize=8)
        axes.set_title(task, loc="left", fontsize=10, fontweight="bold")
        axes.grid(True, axis="y", color="#e4e7eb")
        axes.set_axisbelow(True)
        axes.set_xlim(-0.6, len(arms) - 0.4)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    cells[0][0].set_ylabel("test accuracy in %")
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, metavar="DIR", help="holds " + " and ".join(FILES))
    parser.add_argument("--jobs", type=int, default=1, help="runs at one time, each on a core (default 1)")
    parser.add_argument("--seeds", type=int, default=3, help="how many (default 3)")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="begin no run after so many (default: no limit)"
    )
    parser.add_argument("--tasks", type=lambda names: tuple(names.split(";")), default=TASKS, help="these, by ';'")
    parser.add_argument("--pilot", action="store_true", help="other seeds and test samples; no results are kept")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings, in pilots")
    parser.add_argument("--quick", action="store_true", help="a few steps on digits; no results are kept")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "images" / "tune_accuracy.png", metavar="PNG")
    given = parser.parse_args()
    if not given.quick and given.data is None:
        parser.error("give --data DIR, or --quick")
    if given.set and not given.pilot:
        parser.error("--set is for --pilot")
    changed = {name: json.loads(value) for name, _, value in (one.partition("=") for one in given.set)}
    changed = {name: tuple(value) if isinstance(value, list) else value for name, value in changed.items()}
    settings = Settings(seeds=given.seeds, **changed)
    with tempfile.TemporaryDirectory() as name:
        if given.quick:
            quick = Settings(
                seeds=1, folds=2, steps=2, digits_a_class=4, batch_size=8, strengths=(1.0,), copies=(None,)
            )
            measure(name, Path(name), quick, 1, math.inf, ("digits",), False)
            return
        (Path(name) / FILES[0]).symlink_to((given.data / FILES[0]).resolve())
        with tarfile.open(given.data / FILES[1]) as tar:
            tar.extractall(name, filter="data")
        measure(name, RESULTS, settings, given.jobs, given.minutes, given.tasks, given.pilot)
    if not given.pilot and (RESULTS / "tune_accuracy.json").is_file():
        draw(json.loads((RESULTS / "tune_accuracy.json").read_text())["runs"], given.plot)


if __name__ == "__main__":
    main()
