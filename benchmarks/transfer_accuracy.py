"""How far do few pictures go? Five classes of CIFAR-10 with 20, 100 or 500 pictures each, after the other five.

    python benchmarks/transfer_accuracy.py --data DIR --jobs 2   # DIR holds cifar10_jpeg_subset.tar
    python benchmarks/transfer_accuracy.py --quick               # a few steps on made pictures; writes no results
    python benchmarks/transfer_accuracy.py --data DIR --pilot    # other seeds, tested on training pictures left out

A small ResNet is trained on 500 pictures of each of the first five classes (airplane to deer), then fine-tuned on the
others (dog to truck) in every way of `ARMS`, with and without augmentation, each for as many steps; or trained from
scratch for as many. A seed says which pictures are drawn, the pretrained weights, new head, order and augmentation.
Accuracy is that of the final weights on the 500 test pictures of the classes. Learning rates were chosen for each arm
in a pilot (``--pilot``), whose seeds and test pictures are others. Runs that results/transfer_accuracy.json has already
are not repeated; pretrained networks are. benchmarks/report.py writes the table, this the figure.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

ROOT = Path(__file__).resolve().parent.parent
FIGURE = ROOT / "docs" / "images" / "transfer_accuracy.png"
RESULTS = ROOT / "benchmarks" / "results"
# The peak learning rate of each arm, by a pilot.
ARMS = {"scratch": 1e-2, "frozen": 1e-2, "gradual": 1e-3, "full": 1e-3, "L2-SP": 1e-3, "joint": 3e-3}
AUGMENTED = (False, True)
PILOT_SEEDS = 1000

Pictures = tuple[np.ndarray, np.ndarray]
"""uint8 [N, 32, 32, 3], int64 [N]."""


@dataclass(frozen=True)
class Settings:
    """Of every run alike."""

    seeds: int = 3
    counts: tuple[int, ...] = (20, 100, 500)
    widths: tuple[int, ...] = (24, 48, 96)
    batch_size: int = 50
    epochs: int = 6
    pretraining_epochs: int = 20
    pretraining_lr: float = 3e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    l2_sp: float = 0.01
    target_weight: float = 1.0
    unfreeze_every: int = 1


def network(classes: int, widths: tuple[int, ...]) -> nn.Sequential:
    """A stem, a residual block of each width, and a head: `layers_of` finds five layers."""
    from torchvision.models.resnet import BasicBlock

    stem = [nn.Conv2d(3, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(), nn.MaxPool2d(2)]
    blocks, before = [], widths[0]
    for nth, width in enumerate(widths):
        stride, around = (2 if nth else 1), None
        if before != width:
            around = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        blocks.append(BasicBlock(before, width, stride, around))
        before = width
    return nn.Sequential(
        nn.Sequential(*stem), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes)
    )


def halves(data: Path) -> dict[str, Pictures]:
    """Of source and target classes, training and test pictures; labels 0 to 4 in each."""
    import accuracy

    parts = dict(zip(("train", "test"), accuracy.decoded(data), strict=True))
    found = {}
    for half, first in (("source", 0), ("target", 5)):
        for part, (images, labels) in parts.items():
            chosen = (labels >= first) & (labels < first + 5)
            found[f"{half} {part}"] = images[chosen], labels[chosen] - first
    return found


def made_halves() -> dict[str, Pictures]:
    """Five colours of noise."""
    random = np.random.default_rng(0)
    found = {}
    for name in ("source train", "target train", "source test", "target test"):
        labels = np.repeat(np.arange(5), 10)
        images = random.integers(0, 120, (50, 32, 32, 3)) + 25 * labels[:, None, None, None]
        found[name] = images.astype(np.uint8), labels
    return found


def loader(pictures: Pictures, settings: Settings, *, augmented: bool, seed: int, samples: int) -> Any:
    """Epochs of as many samples, however few pictures there are; each stands there several times then."""
    import dalipipe

    rows = np.resize(np.arange(len(pictures[1])), samples)
    policy = dalipipe.recipes.cifar10() if augmented else dalipipe.recipes.cifar10_eval()
    return dalipipe.DataLoader(
        dalipipe.Arrays(pictures[0][rows], pictures[1][rows]),
        settings.batch_size,
        shuffle=True,
        drop_last=True,
        policy=policy,
        num_workers=1,
        device="cpu",
        seed=seed,
    )


def test_loader(pictures: Pictures) -> Any:
    import dalipipe

    policy = dalipipe.recipes.cifar10_eval()
    return dalipipe.DataLoader(dalipipe.Arrays(*pictures), 250, policy=policy, num_workers=1, device="cpu", seed=0)


def train(model: nn.Module, batches: Any, test: Any, settings: Settings, **options: Any) -> float:
    """Percent of the test pictures that are recognised after the last epoch."""
    from dalipipe.finetune import FineTuneConfig, finetune

    told = {name: options.pop(name) for name in ("objective", "layers") if name in options}
    with tempfile.TemporaryDirectory() as out:
        config = FineTuneConfig(
            out=out, label_smoothing=settings.label_smoothing, log_every=1000, progress="off", **options
        )
        return 100 * finetune(model, batches, test, config, **told).val_accuracy


def pretrain(seed: int, settings: Settings, data: dict[str, Pictures], folder: Path) -> dict[str, Any]:
    """Writes the weights to ``folder``."""
    begun = time.process_time()
    torch.manual_seed(seed)
    model = network(5, settings.widths)
    source = data["source train"]
    batches = loader(source, settings, augmented=True, seed=seed, samples=len(source[1]))
    options = {"epochs": settings.pretraining_epochs, "lr": settings.pretraining_lr}
    options["weight_decay"] = settings.weight_decay
    accuracy = train(model, batches, test_loader(data["source test"]), settings, seed=seed, **options)
    torch.save(model.state_dict(), folder / f"{seed}.pt")
    return {"seed": seed, "accuracy": round(accuracy, 2), "cpu_s": round(time.process_time() - begun, 1)}


def run(
    arm: str,
    count: int,
    augmented: bool,
    seed: int,
    settings: Settings,
    data: dict[str, Pictures],
    folder: Path,
    lr: float | None = None,
) -> dict[str, Any]:
    """One network trained; its final weights' accuracy in percent. A seed's pictures and new head are every arm's."""
    from dalipipe.finetune import Layers
    from dalipipe.finetune.transfer import L2SP, Joint, SideBySide, draw_rows, read_weights, replace_head, share_trunk

    begun = time.process_time()
    images, labels = data["target train"]
    rows = draw_rows(labels, count, seed=seed)
    few, test = (images[rows], labels[rows]), data["target test"]
    if seed >= PILOT_SEEDS:
        rest = np.setdiff1d(np.arange(len(labels)), rows)
        test = images[rest], labels[rest]
    samples = len(data["source train"][1])  # an epoch's
    batches = loader(few, settings, augmented=augmented, seed=seed, samples=samples)
    torch.manual_seed(seed)
    model: nn.Module = network(5, settings.widths)
    options: dict[str, Any] = {"weight_decay": settings.weight_decay}
    weights = read_weights(folder / f"{seed}.pt")
    if arm != "scratch":
        model.load_state_dict(weights)
        torch.manual_seed(seed)
        fresh = replace_head(model, 5)
        if arm == "frozen":
            options["layers"] = Layers(freeze=-1)
        elif arm == "gradual":
            options["layers"] = Layers(unfreeze_every=settings.unfreeze_every)
        elif arm == "L2-SP":
            options["objective"], options["weight_decay"] = L2SP(model, fresh, alpha=settings.l2_sp), 0.0
        elif arm == "joint":
            model = share_trunk(model, 5)
            model.source.load_state_dict(weights)  # its head, too
            source = loader(data["source train"], settings, augmented=augmented, seed=seed + 1, samples=samples)
            batches = SideBySide(batches, source)
            options["objective"] = Joint(settings.target_weight)
    options |= {"lr": lr or ARMS[arm], "epochs": settings.epochs, "seed": seed}
    accuracy = train(model, batches, test_loader(test), settings, **options)
    batches.close()
    return {
        "arm": arm,
        "count": count,
        "augmented": augmented,
        "seed": seed,
        "accuracy": round(accuracy, 2),
        "cpu_s": round(time.process_time() - begun, 1),
        **({} if lr is None else {"lr": lr}),
    }


Wanted = tuple[str, int, bool, int]


def wanted(runs: list[dict[str, Any]], settings: Settings) -> list[Wanted]:
    """What is not among ``runs``; seed by seed, so that stopping early leaves arms equally many."""
    done = {(one["arm"], one["count"], one["augmented"], one["seed"]) for one in runs}
    seeds, counts = range(settings.seeds), settings.counts
    every = [(arm, count, how, seed) for seed in seeds for count in counts for how in AUGMENTED for arm in ARMS]
    return [one for one in every if one not in done]


def measure(data: dict[str, Pictures], results: Path, settings: Settings, jobs: int, minutes: float) -> dict[str, Any]:
    """Adds what is missing to transfer_accuracy.json, each run as it ends."""
    import rounds

    path = results / "transfer_accuracy.json"
    shown = json.loads(json.dumps({**asdict(settings), "lr": ARMS}))
    del shown["seeds"]
    result: dict[str, Any] = {"settings": shown, "pretrained": [], "runs": []}
    if path.is_file():
        result = json.loads(path.read_text())
    if result["settings"] != shown:
        raise SystemExit(f"{path} has other settings: {result['settings']}; move it away to measure these: {shown}")
    until = time.monotonic() + 60 * minutes
    todo = wanted(result["runs"], settings)
    one_thread: Any = {"initializer": torch.set_num_threads, "initargs": (1,)}
    with (
        tempfile.TemporaryDirectory() as name,
        ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), **one_thread) as pool,
    ):
        folder = Path(name)
        seeds = sorted({one[-1] for one in todo})
        first = [pool.submit(pretrain, seed, settings, data, folder) for seed in seeds]
        known = {one["seed"]: one for one in result["pretrained"]}
        for future in as_completed(first):
            print(future.result(), flush=True)
            known[future.result()["seed"]] = future.result()
        result["pretrained"] = [known[seed] for seed in sorted(known)]
        rest = [pool.submit(run_until, until, *one, settings, data, folder) for one in todo]
        for future in as_completed(rest):
            if (one := future.result()) is not None:
                print(one, flush=True)
                result["runs"] = sorted([*result["runs"], one], key=_place)
                rounds.write("transfer_accuracy", result, results)
    return result


def run_until(until: float, *of_run: Any) -> dict[str, Any] | None:
    """``run``, unless it is too late to begin one."""
    return run(*of_run) if time.monotonic() < until else None


def _place(one: dict[str, Any]) -> Any:
    return one["count"], one["augmented"], list(ARMS).index(one["arm"]), one["seed"]


def pilot(data: dict[str, Pictures], settings: Settings, arms: list[str], rates: list[float]) -> None:
    """Every arm with every rate, on a seed of its own and 100 pictures a class, which are augmented; only shown."""
    with tempfile.TemporaryDirectory() as name:
        folder, seed = Path(name), PILOT_SEEDS
        print(pretrain(seed, settings, data, folder), flush=True)
        for arm in arms:
            for rate in rates:
                print(run(arm, settings.counts[1], True, seed, settings, data, folder, rate), flush=True)


def accuracies(runs: list[dict[str, Any]], arm: str, count: int, augmented: bool) -> list[float]:
    chosen = (one for one in runs if (one["arm"], one["count"], one["augmented"]) == (arm, count, augmented))
    return [one["accuracy"] for one in chosen]


def draw(runs: list[dict[str, Any]], counts: tuple[int, ...], path: Path) -> None:
    """Mean and standard error over seeds by pictures a class; a panel without augmentation, one with."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    from dalipipe.figures import BLUE, FAINT, GREEN, INK, ORANGE, RED, SOFT

    colours = dict(zip(ARMS, (SOFT, ORANGE, GREEN, BLUE, "#7c3aed", RED), strict=True))
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
    for axes, augmented in zip(panels, AUGMENTED, strict=True):
        for arm, colour in colours.items():
            found = [(count, accuracies(runs, arm, count, augmented)) for count in counts]
            found = [(count, values) for count, values in found if len(values) > 1]
            means = [np.mean(values) for _, values in found]
            errors = [np.std(values, ddof=1) / math.sqrt(len(values)) for _, values in found]
            axes.errorbar(
                [count for count, _ in found],
                means,
                errors,
                color=colour,
                label=arm,
                marker="o",
                markersize=4,
                capsize=2,
            )
        axes.set_xscale("log")
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.minorticks_off()
        axes.set_xlabel("training pictures a class", color=INK)
        axes.set_title("with crops and flips" if augmented else "without augmentation", color=INK, fontsize=11)
        axes.grid(color=FAINT)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("test accuracy, %", color=INK)
    panels[1].legend(frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, metavar="DIR", help="holds cifar10_jpeg_subset.tar")
    parser.add_argument("--jobs", type=int, default=1, help="runs at one time, each on a core (default 1)")
    parser.add_argument("--seeds", type=int, default=Settings.seeds, help=f"how many (default {Settings.seeds})")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="begin no run after so many (default: no limit)"
    )
    parser.add_argument("--pilot", action="store_true", help="another seed and other test pictures; nothing is kept")
    parser.add_argument("--arms", type=lambda names: names.split(","), default=list(ARMS), help="of the pilot")
    parser.add_argument("--rates", nargs="*", type=float, default=[1e-3, 3e-3, 1e-2], help="of the pilot")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings, in pilots")
    parser.add_argument("--quick", action="store_true", help="a few steps on made pictures; nothing is kept")
    given = parser.parse_args()
    if not given.quick and given.data is None:
        parser.error("give --data DIR, or --quick")
    if given.set and not given.pilot:
        parser.error("--set is for --pilot")
    torch.set_num_threads(1)
    if given.quick:
        few = Settings(seeds=2, counts=(2, 5), widths=(4, 8), epochs=1, pretraining_epochs=1)
        with tempfile.TemporaryDirectory() as name:
            result = measure(made_halves(), Path(name), few, given.jobs, given.minutes)
            draw(result["runs"], few.counts, Path(name) / "figure.png")
        return
    data = halves(given.data)
    if given.pilot:
        changed = {name: json.loads(value) for name, _, value in (one.partition("=") for one in given.set)}
        pilot(data, Settings(**changed), given.arms, given.rates)
        return
    settings = Settings(seeds=given.seeds)
    draw(measure(data, RESULTS, settings, given.jobs, given.minutes)["runs"], settings.counts, FIGURE)


if __name__ == "__main__":
    main()
