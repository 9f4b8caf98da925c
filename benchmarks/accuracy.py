"""Do networks learn as well from dalipipe's batches as from torchvision's, and what does augmentation bring?

    python benchmarks/accuracy.py --data DIR    # DIR holds cifar10_jpeg_subset.tar, or {train,test}/<class>/*.jpg
    python benchmarks/accuracy.py               # only writes docs/accuracy.md and its figure again

One small network is trained on one small data set, by every arm of `ARMS` with every of its seeds; nothing but the
pipeline differs between arms. Runs that results/accuracy.json has already are not repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent))

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "accuracy.json"
PAGE, FIGURE = ROOT / "docs" / "accuracy.md", ROOT / "docs" / "images" / "accuracy.png"
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


@dataclass(frozen=True)
class Settings:
    """Of every run alike."""

    widths: tuple[int, ...] = (16, 32, 64, 128)
    epochs: int = 24
    batch_size: int = 128
    max_lr: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4


class Arm(NamedTuple):
    shown: str
    library: str
    adds: str
    """What stands beside the standard's cropping and mirroring; or ``"normalise only"``."""
    seeds: int


STANDARD = ("standard, torchvision", "standard, dalipipe")
ARMS = {
    "none": Arm("none", "dalipipe", "normalise only", 5),
    STANDARD[0]: Arm("standard", "torchvision", "", 8),
    STANDARD[1]: Arm("standard", "dalipipe", "", 8),
    "randaugment, torchvision": Arm("standard + RandAugment", "torchvision", "RandAugment", 3),
    "randaugment, dalipipe": Arm("standard + RandAugment", "dalipipe", "RandAugment", 5),
    "cutout": Arm("standard + Cutout", "dalipipe", "Cutout", 5),
    "mixup": Arm("standard + MixUp", "dalipipe", "MixUp", 5),
}

Pictures = tuple[np.ndarray, np.ndarray]
"""uint8 [N, 32, 32, 3], int64 [N]."""


def decoded(data: Path) -> tuple[Pictures, Pictures]:
    """Training and test pictures, decoded once: all arms see the same pixels."""
    archive = data / "cifar10_jpeg_subset.tar"
    if archive.is_file():
        with tempfile.TemporaryDirectory() as folder, tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
            return decoded(Path(folder) / "cifar10")
    return _decoded(data / "train"), _decoded(data / "test")


def _decoded(root: Path) -> Pictures:
    from PIL import Image

    classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    files = [(path, label) for label, name in enumerate(classes) for path in sorted((root / name).iterdir())]
    images = np.stack([np.asarray(Image.open(path).convert("RGB")) for path, _ in files])
    return images, np.array([label for _, label in files])


def network(widths: tuple[int, ...], classes: int = 10) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in zip((3, *widths), widths):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if after != widths[-1] else []
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def dalipipe_batches(adds: str, train: Pictures, batch_size: int, seed: int) -> Iterable[Any]:
    import dalipipe
    from dalipipe.ops import image as ops
    from dalipipe.ops.mix import MixUp

    standard, normalise = [ops.RandomCrop(32, padding=4), ops.HorizontalFlip()], ops.Normalize(MEAN, STD)
    steps = {
        "normalise only": [normalise],
        "": [*standard, normalise],
        "RandAugment": [*standard, ops.RandAugment(num_ops=2, magnitude=9), normalise],
        "Cutout": [*standard, normalise, ops.Cutout(8)],
        "MixUp": [*standard, normalise, MixUp(alpha=0.2, num_classes=10)],
    }[adds]
    return dalipipe.DataLoader(
        dalipipe.Arrays(*train), batch_size, shuffle=True, drop_last=True, num_workers=1, policy=dalipipe.Policy(steps),
        device="cpu", seed=seed,
    )  # fmt: skip


def torchvision_batches(adds: str, train: Pictures, batch_size: int, seed: int) -> Iterable[Any]:
    from torch.utils.data import DataLoader
    from torchvision.transforms import v2

    more = {"": [], "RandAugment": [v2.RandAugment(num_ops=2, magnitude=9)]}[adds]
    steps = [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), *more]
    transform = v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
    images, labels = torch.from_numpy(train[0]).permute(0, 3, 1, 2).contiguous(), train[1].tolist()

    class Transformed(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(labels)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return transform(images[index]), labels[index]

    torch.manual_seed(seed)
    return DataLoader(Transformed(), batch_size, shuffle=True, drop_last=True)


BATCHES = {"dalipipe": dalipipe_batches, "torchvision": torchvision_batches}


def run(name: str, seed: int, settings: Settings, train: Pictures, test: Pictures) -> dict[str, Any]:
    """One network trained; its final weights' accuracies in percent. A seed's initial weights are every arm's."""
    begun, cpu_begun = time.perf_counter(), time.process_time()
    torch.manual_seed(seed)
    model = network(settings.widths)
    loader = BATCHES[ARMS[name].library](ARMS[name].adds, train, settings.batch_size, seed)
    optimizer = torch.optim.SGD(
        model.parameters(), settings.max_lr, settings.momentum, weight_decay=settings.weight_decay, nesterov=True
    )
    steps = settings.epochs * (len(train[0]) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.max_lr, total_steps=steps)
    for _ in range(settings.epochs):
        for images, labels in loader:
            loss = F.cross_entropy(model(images.contiguous(memory_format=torch.channels_last)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return {
        "arm": name,
        "seed": seed,
        "accuracy": round(accuracy(model, test), 3),
        "train_accuracy": round(accuracy(model, train), 3),
        "steps": schedule.last_epoch,
        "cpu_s": round(time.process_time() - cpu_begun, 1),
        "wall_s": round(time.perf_counter() - begun, 1),
    }


@torch.no_grad()
def accuracy(model: nn.Module, pictures: Pictures) -> float:
    """Percent of the pictures, only normalised, that are recognised."""
    model.eval()
    right = 0
    for images, labels in zip(*(torch.from_numpy(part).split(500) for part in pictures)):
        x = (images / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
        right += int((model(x.permute(0, 3, 1, 2)).argmax(1) == labels).sum())
    return 100 * right / len(pictures[0])


def measure(data: Path, jobs: int, minutes: float) -> None:
    """What is missing of all runs, seed by seed, so that stopping early leaves arms of equally many runs."""
    import rounds

    settings, (train, test) = Settings(), decoded(data)
    shown = json.loads(json.dumps(asdict(settings)))
    result = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"settings": shown, "runs": []}
    if result["settings"] != shown:
        raise SystemExit(f"{RESULTS} has other settings: {result['settings']}; move it away to measure these: {shown}")
    result["pictures"] = [len(train[0]), len(test[0])]
    done = {(one["arm"], one["seed"]) for one in result["runs"]}
    wanted = [(name, seed) for seed in range(1000) for name, arm in ARMS.items() if seed < arm.seeds]
    until = time.monotonic() + 60 * minutes
    one_thread: Any = {"initializer": torch.set_num_threads, "initargs": (1,)}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), **one_thread) as pool:
        runs = [pool.submit(run_until, until, *one, settings, train, test) for one in wanted if one not in done]
        for future in as_completed(runs):
            if (one := future.result()) is not None:
                print(one, flush=True)
                result["runs"] = sorted([*result["runs"], one], key=lambda r: (list(ARMS).index(r["arm"]), r["seed"]))
                rounds.write("accuracy", result, RESULTS.parent)


def run_until(until: float, *of_run: Any) -> dict[str, Any] | None:
    """``run``, unless it is too late to begin one."""
    return run(*of_run) if time.monotonic() < until else None


class Estimate(NamedTuple):
    """A mean and its standard error, in percent."""

    mean: float
    error: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.error:.2f}"

    def minus(self, other: Estimate) -> Estimate:
        """The difference of two independent means."""
        return Estimate(self.mean - other.mean, math.hypot(self.error, other.error))


def estimate(result: dict[str, Any], name: str, field: str = "accuracy") -> Estimate:
    """Over an arm's seeds."""
    values = [one[field] for one in result["runs"] if one["arm"] == name]
    return Estimate(statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values)))


def page(result: dict[str, Any]) -> str:
    """docs/accuracy.md."""
    import report

    settings, (train, test) = result["settings"], result["pictures"]
    runs = {name: [one for one in result["runs"] if one["arm"] == name] for name in ARMS}
    names = [name for name in ARMS if len(runs[name]) > 1]
    means = {name: estimate(result, name) for name in names}
    ours, theirs = means[STANDARD[1]], means[STANDARD[0]]

    def signed(difference: Estimate) -> str:
        return f"{difference.mean:+.2f} ± {difference.error:.2f}"

    table = ["| arm | library | runs | test accuracy, % | training accuracy, % | processor s a run |"]
    table += ["|---|---|---:|---:|---:|---:|"]
    for name in names:
        cpu_s = statistics.mean(one["cpu_s"] for one in runs[name])
        fitted = estimate(result, name, "train_accuracy")
        columns = (
            ARMS[name].shown,
            ARMS[name].library,
            len(runs[name]),
            means[name],
            f"{fitted.mean:.1f}",
            f"{cpu_s:.0f}",
        )
        table.append(f"| {' | '.join(map(str, columns))} |")

    parity = [
        "| dalipipe minus torchvision | difference, points | in standard errors | within one |",
        "|---|---:|---:|---|",
    ]
    for name in names:
        twin = name.replace("dalipipe", "torchvision")
        if twin != name and twin in names:
            apart = means[name].minus(means[twin])
            ratio = abs(apart.mean) / apart.error
            verdict = "yes" if ratio <= 1 else "**no**"
            parity.append(f"| {ARMS[name].shown} | {signed(apart)} | {ratio:.2f} | {verdict} |")

    gains = ["| dalipipe | minus none, points | minus standard, points |", "|---|---:|---:|"]
    better, no_more = [], []
    for name in names:
        if name == "none" or ARMS[name].library != "dalipipe":
            continue
        over_none, over_standard = means[name].minus(means["none"]), means[name].minus(ours)
        if over_none.mean > 2 * over_none.error:
            better.append(ARMS[name].shown)
        if name != STANDARD[1] and over_standard.mean <= 2 * over_standard.error:
            no_more.append(ARMS[name].shown)
        beside = "" if name == STANDARD[1] else signed(over_standard)
        gains.append(f"| {ARMS[name].shown} | {signed(over_none)} | {beside} |")
    apart = ours.minus(theirs)
    near = "within" if abs(apart.mean) <= apart.error else "**not** within"
    new_line = "\n"
    return f"""<!-- Written by benchmarks/accuracy.py from benchmarks/results/accuracy.json. -->
# Accuracy: the same network on dalipipe's and on torchvision's batches

With the standard augmentation (crop of the padded picture, flip) networks end {near} one standard error of each other:
{ours} % of the test pictures with dalipipe, {theirs} % with torchvision; the difference is {signed(apart)} points.
Better than none by more than two standard errors: {_listed(better)}.

![test accuracy of every run]({FIGURE.relative_to(PAGE.parent)})

{new_line.join(table)}

± is the standard error of the mean over an arm's runs: their standard deviation / √runs, so what comes of seeds (initial
weights, order, augmentation). All arms are tested on the same {test:,} pictures; how these were chosen is not in it.
Training accuracy is that of the final weights on the training pictures without augmentation.

## dalipipe and torchvision

{new_line.join(parity)}

The standard error of a difference is √(a² + b²) of the two arms' own. Two pipelines that are equal in truth differ by more
than one of it about every third time, and by more than two every twentieth: such a comparison shows that nothing is badly
wrong, not that nothing is. That pixels are equal is shown operator by operator, by the tests.

## What augmentation brings

{new_line.join(gains)}

{_explained(no_more)}

## How

- **Data**: {train:,} training and {test:,} test pictures of CIFAR-10 (re-encoded as JPEG), 10 classes, decoded once to uint8
  arrays: all arms see the same pixels.
- **Network**: {len(settings["widths"])} 3×3 convolutions, {", ".join(map(str, settings["widths"]))} channels, each with batch normalisation and ReLU, 2×2 maxima
  between them; the mean over what is left, one linear layer. A seed's initial weights are the same in every arm.
- **Training**: {settings["epochs"]} epochs of {train // settings["batch_size"]} batches of {settings["batch_size"]}, cross-entropy (soft labels where mixed, no smoothing), SGD with Nesterov
  momentum {settings["momentum"]}, weight decay {settings["weight_decay"]}, one cycle of the learning rate up to {settings["max_lr"]}; float32, on the CPU. Final weights are
  tested, once; no run is left out.
- **none**: normalised only. **standard**: `RandomCrop(32, padding=4)`, `HorizontalFlip()`. The others add
  `RandAugment(num_ops=2, magnitude=9)` after the flip; `Cutout(8)`; `MixUp(alpha=0.2)`. These are customary values, none was
  tuned. Number of epochs and learning rate were settled beforehand, with one other seed, so that a run takes about a minute.
- **torchvision**: `transforms.v2` on uint8 tensors, sample by sample, in torch's `DataLoader` without worker processes.
- **Processor seconds** are of training and loading together, testing included, on one core of a shared machine.

{report.measured_on(result)}.

```
python benchmarks/accuracy.py --data DIR   # DIR holds cifar10_jpeg_subset.tar, or {{train,test}}/<class>/*.jpg
```

Runs that `benchmarks/results/accuracy.json` has are not repeated; without `--data` only this page is written.
"""


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "nothing"


def _explained(no_more: list[str]) -> str:
    if not no_more:
        return "All of them bring more than the standard alone, by more than two standard errors."
    return (
        f"Not better than the standard alone by more than two standard errors: {_listed(no_more)}. Stronger augmentation\n"
        "needs longer training and larger networks: it makes training pictures harder, which the low training accuracy of a\n"
        "small network after so few epochs shows, and pays once they would be learnt by heart otherwise."
    )


def draw(result: dict[str, Any], path: Path) -> None:
    """A dot for every run, and every arm's mean with its standard error."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    colours = {"dalipipe": "tab:blue", "torchvision": "tab:orange"}
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    names = [name for name in ARMS if sum(one["arm"] == name for one in result["runs"]) > 1]
    for row, name in enumerate(names):
        values = [one["accuracy"] for one in result["runs"] if one["arm"] == name]
        mean, error = estimate(result, name)
        axes.scatter(
            values, np.full(len(values), row), s=22, color=colours[ARMS[name].library], alpha=0.45, linewidths=0
        )
        axes.errorbar(mean, row, xerr=error, fmt="|", color="black", markersize=16, capsize=4, linewidth=1.5)
        axes.annotate(f"{mean:.1f}", (mean, row), (0, 11), textcoords="offset points", ha="center", fontsize=8)
    axes.set_yticks(range(len(names)), [f"{ARMS[name].shown}, {ARMS[name].library}" for name in names])
    axes.set_ylim(len(names) - 0.5, -0.7)
    axes.set_xlabel("test accuracy, %: every run, mean ± its standard error")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    for name, colour in colours.items():
        axes.scatter([], [], s=22, color=colour, label=name)
    axes.legend(frameon=False, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="what is missing is measured first, with these pictures"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at one time, each on a core (default 1)")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="begin no run after so many (default: no limit)"
    )
    given = parser.parse_args()
    if given.data is not None:
        measure(given.data, given.jobs, given.minutes)
    written = json.loads(RESULTS.read_text())
    PAGE.write_text(page(written))
    draw(written, FIGURE)
