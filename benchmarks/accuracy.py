"""Do networks learn as well from dalipipe's batches as from torchvision's, and what does augmentation bring?

    python benchmarks/accuracy.py --data DIR    # DIR holds cifar10_jpeg_subset.tar, or {train,test}/<class>/*.jpg
    python benchmarks/accuracy.py               # only writes docs/accuracy.md and its figure again

One small network is trained on one small data set, by every arm of `ARMS` with every of its seeds; nothing but the
pipeline differs between arms. Runs that results/accuracy.json has already are not repeated.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent))

import accuracy_page
from accuracy_arms import ARMS, ROOT

RESULTS = ROOT / "benchmarks" / "results" / "accuracy.json"
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
    for before, after in itertools.pairwise((3, *widths)):
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
    for images, labels in zip(*(torch.from_numpy(part).split(500) for part in pictures), strict=True):
        x = (images / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
        right += int((model(x.permute(0, 3, 1, 2)).argmax(1) == labels).sum())
    return 100 * right / len(pictures[0])


def wanted(runs: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """Arms and seeds that are not among ``runs``; seed by seed, so that stopping early leaves arms equally many."""
    done = {(one["arm"], one["seed"]) for one in runs}
    seeds = range(max(arm.seeds for arm in ARMS.values()))
    every = ((name, seed) for seed in seeds for name, arm in ARMS.items() if seed < arm.seeds)
    return [one for one in every if one not in done]


def measure(data: Path, jobs: int, minutes: float) -> None:
    """Adds what is missing to results/accuracy.json, each run as it ends."""
    import rounds

    settings, (train, test) = Settings(), decoded(data)
    shown = json.loads(json.dumps(asdict(settings)))
    result = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"settings": shown, "runs": []}
    if result["settings"] != shown:
        raise SystemExit(f"{RESULTS} has other settings: {result['settings']}; move it away to measure these: {shown}")
    result["pictures"] = [len(train[0]), len(test[0])]
    until = time.monotonic() + 60 * minutes
    one_thread: Any = {"initializer": torch.set_num_threads, "initargs": (1,)}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), **one_thread) as pool:
        runs = [pool.submit(run_until, until, *one, settings, train, test) for one in wanted(result["runs"])]
        for future in as_completed(runs):
            if (one := future.result()) is not None:
                print(one, flush=True)
                result["runs"] = sorted([*result["runs"], one], key=lambda r: (list(ARMS).index(r["arm"]), r["seed"]))
                rounds.write("accuracy", result, RESULTS.parent)


def run_until(until: float, *of_run: Any) -> dict[str, Any] | None:
    """``run``, unless it is too late to begin one."""
    return run(*of_run) if time.monotonic() < until else None


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
    accuracy_page.PAGE.write_text(accuracy_page.page(written))
    accuracy_page.draw(written, accuracy_page.FIGURE)
