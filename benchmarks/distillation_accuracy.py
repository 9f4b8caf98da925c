"""What does a teacher bring to few pictures? A small network with and without one, with and without augmentation.

    python benchmarks/distillation_accuracy.py --data DIR --jobs 2    # DIR holds cifar10_jpeg_subset.tar
    python benchmarks/distillation_accuracy.py --quick                # a few steps on digits; writes no results
    python benchmarks/distillation_accuracy.py --data DIR --pilot --set lr=0.01   # other seeds, tested on training rows

Handwritten digits (scikit-learn's) and the CIFAR-10 subset. A teacher of each task is trained once, on all training
pictures, as larger models usually have seen more; students see a few of each class. A seed says which, initial
weights and order; the four cells differ in nothing but the objective and the policy, and take equally many steps of
equal size. Teachers' answers are kept (`TeacherCache`), so that students are taught by look-ups. Accuracy is that of
the final weights on the whole test set. Rates and weights of losses were chosen in pilots, whose seeds and test rows
are others. Runs that results/distillation_accuracy.json has already are not repeated, and teachers stay in --work.
benchmarks/report.py writes the table, ``--plot`` the figure.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
FILE = "cifar10_jpeg_subset.tar"
TASKS = ("digits", "cifar10")
ARMS = ("plain", "augmented", "taught", "augmented, taught")
PILOT_SEEDS = 1000


@dataclass(frozen=True)
class Settings:
    """Of every run alike."""

    seeds: int = 5
    digits_a_class: int = 5
    cifar10_a_class: int = 50
    digits_steps: int = 800
    cifar10_steps: int = 2000
    batch_size: int = 50
    lr: float = 3e-3
    temperature: float = 4.0
    hard_weight: float = 0.1
    draw_epochs: int = 20
    width: int = 32
    teacher_epochs: int = 20
    teacher_width: int = 40
    teacher_lr: float = 3e-3


class Net(nn.Module):
    """A convolution, then two residual blocks of ``width`` and twice as many channels at a half and a quarter of the
    size, and of four times as many at an eighth where ``deep``; the mean over pixels, a linear layer.
    """

    def __init__(self, channels: int, width: int, *, deep: bool) -> None:
        super().__init__()
        widths = [width // 2, width, 2 * width] + [4 * width] * deep
        self.stem = _norm(channels, widths[0], 1)
        self.blocks = nn.ModuleList(_Block(*pair, deep) for pair in itertools.pairwise(widths))
        self.head = nn.Linear(widths[-1], 10)

    def forward(self, x: Any) -> Any:
        x = self.stem(x).relu()
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


def _norm(before: int, after: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after))


class _Block(nn.Module):
    def __init__(self, before: int, after: int, twice: bool) -> None:
        super().__init__()
        self.down = _norm(before, after, 2)
        self.residual = nn.Sequential(_norm(after, after, 1), nn.ReLU(), _norm(after, after, 1)) if twice else None

    def forward(self, x: Any) -> Any:
        x = self.down(x).relu()
        return x if self.residual is None else (x + self.residual(x)).relu()


@cache
def pictures(task: str, folder: str) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Training and test pictures, uint8 [N, 32, 32, C], and their classes."""
    from PIL import Image

    if task == "digits":
        from dalipipe.demo_data import write_digits

        root, parts = write_digits(Path(folder) / "digits", size_px=32), ("train", "val")
    else:
        root, parts = Path(folder) / "cifar10", ("train", "test")
    found = []
    for part in parts:
        paths = sorted((root / part).glob("*/*.jpg"))
        names = sorted({path.parent.name for path in paths})
        images = np.stack([np.asarray(Image.open(path)) for path in paths])
        found.append((images.reshape(len(paths), 32, 32, -1), np.array([names.index(p.parent.name) for p in paths])))
    return found[0], found[1]


def policies(task: str) -> tuple[Any, Any]:
    """Of training with augmentation, and without, which is that of the test."""
    from dalipipe import recipes

    if task == "digits":
        return recipes.digits_train(), recipes.digits_eval()
    return recipes.cifar10(), recipes.cifar10_eval()


def arrays(part: tuple[np.ndarray, np.ndarray], rows: np.ndarray | slice = slice(None)) -> Any:
    import dalipipe

    images, labels = part
    return dalipipe.Arrays(images[rows], labels[rows], classes=[str(label) for label in range(10)])


def split_of(task: str, seed: int, settings: Settings, folder: str) -> tuple[Any, Any]:
    """What a seed's students see, and are tested on: the test set; in pilots 1,000 other rows of the training set."""
    train, test = pictures(task, folder)
    order = np.random.default_rng(seed).permutation(len(train[1]))
    a_class = settings.digits_a_class if task == "digits" else settings.cifar10_a_class
    chosen = np.concatenate([order[train[1][order] == label][:a_class] for label in range(10)])
    rest = order[~np.isin(order, chosen)][:1000]
    return arrays(train, chosen), arrays(train, rest) if seed >= PILOT_SEEDS else arrays(test)


def loader_of(source: Any, policy: Any, settings: Settings, seed: int, **changes: Any) -> Any:
    import dalipipe

    given = {"shuffle": True, "drop_last": True, "num_workers": 1, "device": "cpu", **changes}
    return dalipipe.DataLoader(source, min(settings.batch_size, len(source) // 2), policy=policy, seed=seed, **given)


def percent(model: nn.Module, source: Any, policy: Any) -> float:
    import dalipipe
    from dalipipe.finetune import evaluate

    loader = dalipipe.DataLoader(source, 100, policy=policy, num_workers=1, device="cpu", seed=0)
    return round(100 * evaluate(model, loader).accuracy, 3)


def net_of(task: str, settings: Settings, *, teacher: bool) -> Net:
    channels = 1 if task == "digits" else 3
    return Net(channels, settings.teacher_width if teacher else settings.width, deep=teacher)


def teach(task: str, settings: Settings, folder: str, work: str) -> dict[str, Any]:
    """A teacher, trained unless it is there; its accuracy, and what asking it costs beside looking its answers up."""
    from dalipipe.finetune import FineTuneConfig, finetune
    from dalipipe.finetune.distillation import Teacher, TeacherCache

    begun, path = time.process_time(), Path(work) / f"{task}.pt"
    train, test = pictures(task, folder)
    augmented, plain = policies(task)
    torch.manual_seed(0)
    model = net_of(task, settings, teacher=True)
    if path.is_file():
        model.load_state_dict(torch.load(path, weights_only=True))
    else:
        out, val = Path(work) / task, loader_of(arrays(train, slice(200)), plain, settings, 0, drop_last=False)
        config = FineTuneConfig(
            out, epochs=settings.teacher_epochs, lr=settings.teacher_lr, resume=(out / "metrics.jsonl").is_file()
        )
        finetune(model, loader_of(arrays(train), augmented, settings, 0), val, config)
        torch.save(model.state_dict(), path.with_suffix(".tmp"))
        os.replace(path.with_suffix(".tmp"), path)
    cpu_s = time.process_time() - begun
    loader = loader_of(split_of(task, 0, settings, folder)[0], augmented, settings, 0, draw_epochs=1)
    teacher = Teacher(model, loader.classes, rows=settings.batch_size)
    with tempfile.TemporaryDirectory() as name:
        kept = TeacherCache(Path(name) / "cache", loader, teacher)
        kept.fill()
        batches = list(loader)
        seconds = {"live": [], "kept": []}
        for _ in range(7):
            for way, says in (("live", teacher), ("kept", kept)):
                since = time.perf_counter()
                for batch in batches:
                    says.teach(batch)
                seconds[way].append(time.perf_counter() - since)
    count = sum(len(batch[0]) for batch in batches)
    return {
        "task": task,
        "accuracy": percent(model, arrays(test), plain),
        "pictures": len(train[1]),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "cpu_s": round(cpu_s, 1),
        **{f"{way}_us": round(1e6 * statistics.median(seconds[way]) / count, 2) for way in seconds},
    }


def run(task: str, arm: str, seed: int, settings: Settings, folder: str, work: str) -> dict[str, Any]:
    """One student trained; its final weights' accuracies in percent."""
    from dalipipe.finetune import FineTuneConfig, classify, finetune
    from dalipipe.finetune.distillation import Distill, Taught, Teacher, TeacherCache

    begun, cpu_begun = time.perf_counter(), time.process_time()
    source, test = split_of(task, seed, settings, folder)
    augmented, plain = policies(task)
    draws = settings.draw_epochs if "augmented" in arm else 1
    loader = loader_of(source, augmented if "augmented" in arm else plain, settings, seed, draw_epochs=draws)
    torch.manual_seed(seed)
    model = net_of(task, settings, teacher=False)
    train, objective = loader, classify
    with tempfile.TemporaryDirectory() as name:
        if "taught" in arm:
            teacher = net_of(task, settings, teacher=True)
            teacher.load_state_dict(torch.load(Path(work) / f"{task}.pt", weights_only=True))
            kept = TeacherCache(Path(name) / "cache", loader, Teacher(teacher, loader.classes))
            kept.fill()
            train, objective = Taught(loader, kept), Distill(settings.temperature, settings.hard_weight)
        few = loader_of(source, plain, settings, 0, drop_last=False)
        steps = settings.digits_steps if task == "digits" else settings.cifar10_steps
        epochs = max(1, steps // len(loader))
        config = FineTuneConfig(Path(name) / "run", epochs=epochs, lr=settings.lr, seed=seed, progress="off")
        steps = finetune(model, train, few, config, objective=objective).steps
    return {
        "task": task,
        "arm": arm,
        "seed": seed,
        "accuracy": percent(model, test, plain),
        "train_accuracy": percent(model, source, plain),
        "rows": len(source),
        "steps": steps,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "cpu_s": round(time.process_time() - cpu_begun, 1),
        "wall_s": round(time.perf_counter() - begun, 1),
    }


def measure(folder: str, work: str, settings: Settings, given: argparse.Namespace) -> None:
    """Adds what is missing to distillation_accuracy.json, each run as it ends; pilots are only shown."""
    import rounds

    path, shown = RESULTS / "distillation_accuracy.json", json.loads(json.dumps(asdict(settings)))
    keeps = not (given.pilot or given.quick)
    result: dict[str, Any] = {"settings": shown, "teachers": [], "runs": []}
    if path.is_file() and keeps:
        result = json.loads(path.read_text())
    if {**result["settings"], "seeds": 0} != {**shown, "seeds": 0}:
        raise SystemExit(f"{path} has other settings: {result['settings']}; move it away to measure these: {shown}")
    result["settings"] = shown
    seeds = range(PILOT_SEEDS, PILOT_SEEDS + settings.seeds) if given.pilot else range(settings.seeds)
    one_thread: Any = {"initializer": torch.set_num_threads, "initargs": (1,)}
    Path(work).mkdir(parents=True, exist_ok=True)

    def keep(kind: str, one: dict[str, Any]) -> None:
        print(one, flush=True)
        result[kind] = sorted(
            [*result[kind], one],
            key=lambda r: (TASKS.index(r["task"]), ARMS.index(r.get("arm", ARMS[0])), r.get("seed", 0)),
        )
        if keeps:
            rounds.write("distillation_accuracy", result)

    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn"), **one_thread) as pool:
        known = {one["task"] for one in result["teachers"]}
        lacking = [t for t in given.tasks if t not in known or not (Path(work) / f"{t}.pt").is_file()]
        for future in as_completed([pool.submit(teach, task, settings, folder, work) for task in lacking]):
            one = future.result()
            result["teachers"] = [other for other in result["teachers"] if other["task"] != one["task"]]
            keep("teachers", one)
        done = {(one["task"], one["arm"], one["seed"]) for one in result["runs"]}
        every = [(task, arm, seed) for seed in seeds for task in given.tasks for arm in given.arms]
        futures = [pool.submit(run, *one, settings, folder, work) for one in every if one not in done]
        for future in as_completed(futures):
            keep("runs", future.result())
    show(result["runs"])


def show(runs: list[dict[str, Any]]) -> None:
    """Means, and of differences to the plain student of the same seeds their standard errors."""
    for task in TASKS:
        plain = {one["seed"]: one["accuracy"] for one in runs if (one["task"], one["arm"]) == (task, "plain")}
        for arm in ARMS:
            theirs = {one["seed"]: one["accuracy"] for one in runs if (one["task"], one["arm"]) == (task, arm)}
            gains = [theirs[seed] - plain[seed] for seed in sorted(set(theirs) & set(plain))]
            if theirs:
                error = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan
                gain = statistics.mean(gains) if gains else math.nan
                mean = statistics.mean(theirs.values())
                print(f"{task:8} {arm:18} {mean:6.2f}  {gain:+.2f} ± {error:.2f}  ({len(theirs)} seeds)")


def plot(target: Path) -> None:
    """The four cells of each task, bars with standard errors, beside the teacher."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    result = json.loads((RESULTS / "distillation_accuracy.json").read_text())
    figure, every = pyplot.subplots(1, len(TASKS), figsize=(8, 3.2), layout="constrained")
    titles = {"digits": "Handwritten digits", "cifar10": "CIFAR-10 subset"}
    for axes, task in zip(every, TASKS, strict=True):
        cells = [[r["accuracy"] for r in result["runs"] if (r["task"], r["arm"]) == (task, arm)] for arm in ARMS]
        errors = [statistics.stdev(cell) / math.sqrt(len(cell)) for cell in cells]
        means = [statistics.mean(cell) for cell in cells]
        axes.bar(range(len(ARMS)), means, yerr=errors, capsize=4, color=["#b8c4d6", "#7f9cc4", "#e8b98a", "#d9822b"])
        for at, mean in enumerate(means):
            axes.annotate(f"{mean:.1f}", (at, mean), xytext=(0, 8), textcoords="offset points", ha="center")
        teacher = next(one["accuracy"] for one in result["teachers"] if one["task"] == task)
        axes.axhline(teacher, color="0.4", linestyle="--", linewidth=1)
        axes.annotate(f"teacher {teacher:.1f}", (0, teacher), xytext=(-18, 3), textcoords="offset points", color="0.4")
        axes.set_xticks(range(len(ARMS)), [arm.replace(", ", ",\n") for arm in ARMS])
        axes.set_ylim(0, 105)
        rows = next(one["rows"] for one in result["runs"] if one["task"] == task)
        axes.set_title(f"{titles[task]}, {rows} pictures")
        axes.spines[["top", "right"]].set_visible(False)
    every[0].set_ylabel("test accuracy, %")
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, metavar="DIR", help=f"holds {FILE}; without it digits alone")
    parser.add_argument("--jobs", type=int, default=1, help="runs at one time, each on a core (default 1)")
    parser.add_argument("--seeds", type=int, default=Settings.seeds, help=f"of every cell (default {Settings.seeds})")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "distillation_accuracy", help="for teachers")
    parser.add_argument("--arms", type=lambda names: tuple(names.split(";")), default=ARMS, help="these, by ';'")
    parser.add_argument("--tasks", type=lambda names: tuple(names.split(";")), default=None, help="these, by ';'")
    parser.add_argument("--pilot", action="store_true", help="other seeds and test rows; no results are kept")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings, in pilots")
    parser.add_argument("--quick", action="store_true", help="a few steps on digits; no results are kept")
    parser.add_argument("--plot", action="store_true", help="draw docs/images/distillation.png from the results")
    given = parser.parse_args()
    if given.plot:
        return plot(ROOT / "docs" / "images" / "distillation.png")
    if given.set and not given.pilot:
        parser.error("--set is for --pilot")
    given.tasks = given.tasks or (TASKS if given.data else TASKS[:1])
    changed = {name: json.loads(value) for name, _, value in (one.partition("=") for one in given.set)}
    with tempfile.TemporaryDirectory() as name:
        if given.quick:
            few = Settings(seeds=1, digits_steps=4, draw_epochs=2, teacher_epochs=1, teacher_width=8)
            given.tasks = TASKS[:1]
            return measure(name, str(Path(name) / "work"), few, given)
        if given.data:
            with tarfile.open(given.data / FILE) as tar:
                tar.extractall(name, filter="data")
        measure(name, str(given.work), Settings(seeds=given.seeds, **changed), given)


if __name__ == "__main__":
    main()
