"""What is made data worth? Small networks on real data, on made data, and on both, tested on real ones.

    python benchmarks/generation_accuracy.py --data DIR --jobs 2   # DIR holds ucr_series.tar
    python benchmarks/generation_accuracy.py --quick               # a few steps on made data; writes no results
    python benchmarks/generation_accuracy.py --data DIR --pilot    # on other seeds, tested on parts of training data

Handwritten digits (scikit-learn's, 16 px), of which 20 a class or all are learnt from, and two data sets of the UCR
archive by their own split. A run, of a task and a seed, draws the real samples, trains a GAN and a classifier on them,
keeps the GAN's samples that this classifier agrees with, and then trains fresh classifiers for as many steps each: on
the real ones, on the made ones, and on both, half of what is seen each; the first and last also with the recipe's
augmentation. Settings were chosen in pilots, whose seeds and test samples are others. Runs that
results/generation_accuracy.json has already are not repeated. benchmarks/report.py writes the table; the plot and a
sheet of made digits go to docs/images.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
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

sys.path.insert(0, str(Path(__file__).parent))

RESULTS = Path(__file__).parent / "results"
IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
ARCHIVE = "ucr_series.tar"
TASKS = ("digits, 20 a class", "digits", "ItalyPowerDemand", "JapaneseVowels")
ARMS = ("real", "synthetic", "both", "real, augmented", "both, augmented")
PILOT_SEEDS = 1000


@dataclass(frozen=True)
class Settings:
    """Of every run alike; pairs: of pictures, of series."""

    seeds: int = 5
    size_px: int = 16
    gan_steps: tuple[int, int] = (1500, 1000)
    gan_batch: int = 64
    gan_width: int = 16
    per_class: int = 200
    agreement: float = 0.5
    judge_steps: int = 300
    steps: int = 300
    batch_size: int = 64
    lr: float = 3e-3


@cache
def sources(task: str, folder: str, size_px: int) -> tuple[Any, Any]:
    """Training and test data, in memory; series with each channel at mean 0 and deviation 1 of all training frames."""
    import dalipipe
    from dalipipe.demo_data import write_digits
    from dalipipe.finetune.classifier import open_folders
    from dalipipe.finetune.generation import pictures
    from dalipipe.finetune.generation.generator import series_values

    if task.startswith("digits"):
        train, test = open_folders(write_digits(Path(folder) / "digits"))
        real = pictures(train, size_px)
        return real, pictures(test, size_px, channels=real.images.shape[3])
    train = dalipipe.Series.open(Path(folder) / "ucr" / f"{task}_TRAIN.ts")
    test = dalipipe.Series.open(Path(folder) / "ucr" / f"{task}_TEST.ts", classes=train.classes)
    frames = np.concatenate(series_values(train))
    mean, deviation = frames.mean(0), frames.std(0)
    scaled = [[(one - mean) / deviation for one in series_values(part)] for part in (train, test)]
    return tuple(
        dalipipe.Series(values, part.labels, classes=train.classes)
        for values, part in zip(scaled, (train, test), strict=True)
    )  # type: ignore[return-value]


def split_of(task: str, seed: int, folder: str, size_px: int) -> tuple[Any, Any]:
    """What a seed learns from and is tested on; of pilots, a part of the training data each, class by class."""
    train, test = sources(task, folder, size_px)
    random = np.random.default_rng(seed)
    order = random.permutation(len(train))
    by_class = [order[train.labels[order] == label] for label in range(len(train.classes))]
    kept = [0.75 if seed >= PILOT_SEEDS else 1.0] * len(by_class)
    learnt = [rows[: math.ceil(share * len(rows))] for rows, share in zip(by_class, kept, strict=True)]
    held = [rows[math.ceil(share * len(rows)) :] for rows, share in zip(by_class, kept, strict=True)]
    if task.endswith("20 a class"):
        learnt = [rows[:20] for rows in learnt]
    tested = part_of(train, np.sort(np.concatenate(held))) if seed >= PILOT_SEEDS else test
    return part_of(train, np.sort(np.concatenate(learnt))), tested


def part_of(source: Any, rows: np.ndarray) -> Any:
    from dalipipe.finetune.generation.generator import as_source, values_of

    values = values_of(source)
    return as_source([values[row] for row in rows], source.labels[rows], source.classes)


def run(task: str, seed: int, settings: Settings, folder: str, sheet: str | None = None) -> dict[str, Any]:
    """One GAN, one judge, five classifiers: their accuracies in percent. ``sheet``: where the picture of what was made
    is to go.
    """
    from dalipipe import recipes
    from dalipipe.finetune.generation import GANConfig, generate, worth
    from dalipipe.finetune.generation.generator import values_of
    from dalipipe.sources import ImageFolder, Series

    begun, cpu_begun = time.perf_counter(), time.process_time()
    real, test = split_of(task, seed, folder, settings.size_px)
    series = not task.startswith("digits")
    config = GANConfig(
        steps=settings.gan_steps[series], batch_size=settings.gan_batch, width=settings.gan_width, seed=seed
    )
    with tempfile.TemporaryDirectory() as out:
        found = generate(
            real,
            out,
            per_class=settings.per_class,
            agreement=settings.agreement,
            size_px=settings.size_px,
            config=config,
            judge_steps=settings.judge_steps,
        )
        gan_s = time.process_time() - cpu_begun
        if series:
            made: Any = Series.open(found.data, classes=real.classes)
        else:
            made = as_arrays(ImageFolder(found.data), real)
        if sheet is not None:
            shutil.copy(found.sheet, sheet)
    assert len(values_of(made)) == settings.per_class * len(real.classes)
    options: dict[str, Any] = {"seeds": (seed,), "batch_size": settings.batch_size, "lr": settings.lr}
    plain = worth(real, made, test, steps=settings.steps, **options)
    policy = recipes.series() if series else recipes.digits_train(settings.size_px)
    more = worth(real, made, test, arms=("real", "both"), steps=settings.steps, policy=policy, **options)
    accuracies = {row.arm: row.mean for row in plain} | {f"{row.arm}, augmented": row.mean for row in more}
    return {
        "task": task,
        "seed": seed,
        "real": len(real),
        "test": len(test),
        "accuracy": {arm: round(100 * accuracies[arm], 3) for arm in ARMS},
        "agreed": round(100 * sum(found.agreed.values()) / sum(found.tried.values()), 2),
        "nearness": round(found.nearness, 4),
        "gan_cpu_s": round(gan_s, 1),
        "cpu_s": round(time.process_time() - cpu_begun, 1),
        "wall_s": round(time.perf_counter() - begun, 1),
    }


def as_arrays(folder: Any, real: Any) -> Any:
    """Pictures that were written, as many channels as the real ones have, in their order of classes."""
    from dalipipe.finetune.generation import pictures

    found = pictures(folder, real.images.shape[1], channels=real.images.shape[3])
    assert found.classes == real.classes
    return found


def wanted(runs: list[dict[str, Any]], seeds: range, tasks: tuple[str, ...]) -> list[tuple[str, int]]:
    """What is not among ``runs``; seed by seed, so that stopping early leaves tasks equally many."""
    done = {(one["task"], one["seed"]) for one in runs}
    return [(task, seed) for seed in seeds for task in tasks if (task, seed) not in done]


def measure(
    folder: str,
    results: Path | None,
    settings: Settings,
    jobs: int,
    minutes: float,
    tasks: tuple[str, ...],
    pilot: bool,
) -> list[dict[str, Any]]:
    """Adds what is missing to generation_accuracy.json, each run as it ends; pilots are only shown."""
    import rounds

    from dalipipe.demo_data import write_digits

    shown = json.loads(json.dumps(asdict(settings)))
    result: dict[str, Any] = {"settings": shown, "runs": []}
    path = None if results is None or pilot else results / "generation_accuracy.json"
    if path is not None and path.is_file():
        result = json.loads(path.read_text())
    if {**result["settings"], "seeds": 0} != {**shown, "seeds": 0}:
        raise SystemExit(f"{path} has other settings: {result['settings']}; move it away to measure these: {shown}")
    result["settings"] = shown
    write_digits(Path(folder) / "digits")  # once, before several processes read them
    until = time.monotonic() + 60 * minutes
    seeds = range(PILOT_SEEDS, PILOT_SEEDS + settings.seeds) if pilot else range(settings.seeds)
    one_thread: Any = {"initializer": torch.set_num_threads, "initargs": (1,)}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), **one_thread) as pool:
        todo = wanted(result["runs"], seeds, tasks)
        sheets = {("digits", 0): str(IMAGES / "generated_digits.png")} if path is not None else {}
        given = [(*one, settings, folder, sheets.get(one)) for one in todo]
        for future in as_completed([pool.submit(run_until, until, *one) for one in given]):
            if (one := future.result()) is not None:
                print(one, flush=True)
                result["runs"] = sorted([*result["runs"], one], key=lambda r: (TASKS.index(r["task"]), r["seed"]))
                if path is not None and results is not None:
                    rounds.write("generation_accuracy", result, results)
    show(result["runs"])
    if path is not None:
        draw(result["runs"], IMAGES / "generation_accuracy.png")
    return result["runs"]


def run_until(until: float, *of_run: Any) -> dict[str, Any] | None:
    """``run``, unless it is too late to begin one."""
    return run(*of_run) if time.monotonic() < until else None


def of_arm(runs: list[dict[str, Any]], task: str, arm: str) -> np.ndarray:
    return np.array([one["accuracy"][arm] for one in runs if one["task"] == task])


def show(runs: list[dict[str, Any]]) -> None:
    for task in TASKS:
        for arm in ARMS:
            values = of_arm(runs, task, arm)
            if len(values):
                error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
                print(f"{task:20} {arm:16} {values.mean():6.2f} ± {error:.2f}  ({len(values)} seeds)")


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """Accuracies by arm, a panel a task, with standard errors and a dot a seed."""
    from dalipipe.figures import BLUE, GREEN, INK, ORANGE, SOFT, _figure, _without_frame

    tasks = [task for task in TASKS if len(of_arm(runs, task, "real")) > 1]
    if not tasks:
        return
    figure = _figure(2.6 * len(tasks), 3.4)
    colours = [SOFT, ORANGE, BLUE, SOFT, BLUE]
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        for place, (arm, colour) in enumerate(zip(ARMS, colours, strict=True)):
            values = of_arm(runs, task, arm)
            error = values.std(ddof=1) / math.sqrt(len(values))
            axes.plot(
                place + np.linspace(-0.15, 0.15, len(values)), values, "o", color=colour, alpha=0.35, markersize=4
            )
            axes.errorbar(place, values.mean(), error, fmt="_", color=colour, markersize=22, capsize=4, linewidth=2)
        axes.axhline(of_arm(runs, task, "real").mean(), color=GREEN, linewidth=0.8, linestyle=":")
        axes.set_xticks(range(len(ARMS)), [arm.replace(", ", ",\n") for arm in ARMS], fontsize=7, rotation=45)
        axes.set_title(task, loc="left", fontsize=10, fontweight="bold", color=INK)
        _without_frame(axes)
    figure.supylabel("accuracy on real test data, %", fontsize=9, color=SOFT)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, format="png")


def made_series(folder: Path) -> None:
    """Two classes of series, ragged or not as the real ones."""
    random = np.random.default_rng(0)
    (folder / "ucr").mkdir()
    for name in TASKS[2:]:
        ragged = name == "JapaneseVowels"
        for part in ("TRAIN", "TEST"):
            lines = ["@problemName " + name, f"@equalLength {str(not ragged).lower()}", "@classLabel true 1 2", "@data"]
            for row in range(40):
                frames = int(random.integers(7, 15)) if ragged else 12
                channels = random.standard_normal((12 if ragged else 1, frames)) + 3 * (row % 2)
                values = ":".join(",".join(f"{value:.4f}" for value in channel) for channel in channels)
                lines.append(f"{values}:{1 + row % 2}")
            (folder / "ucr" / f"{name}_{part}.ts").write_text("\n".join(lines) + "\n")


QUICK = Settings(
    seeds=1,
    size_px=8,
    gan_steps=(300, 60),
    gan_batch=32,
    gan_width=6,
    per_class=3,
    agreement=0.0,
    judge_steps=120,
    steps=5,
    batch_size=16,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, metavar="DIR", help="holds " + ARCHIVE)
    parser.add_argument("--jobs", type=int, default=1, help="runs at one time, each on a core (default 1)")
    parser.add_argument("--seeds", type=int, default=Settings.seeds, help=f"of every task ({Settings.seeds})")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="begin no run after so many (default: no limit)"
    )
    parser.add_argument("--tasks", type=lambda names: tuple(names.split(";")), default=TASKS, help="these, by ';'")
    parser.add_argument("--pilot", action="store_true", help="other seeds and test samples; no results are kept")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings, in pilots")
    parser.add_argument("--quick", action="store_true", help="a few steps on made series; no results are kept")
    given = parser.parse_args()
    if not given.quick and given.data is None:
        parser.error("give --data DIR, or --quick")
    if given.set and not given.pilot:
        parser.error("--set is for --pilot")
    unknown = [task for task in given.tasks if task not in TASKS]
    if unknown:
        parser.error(f"--tasks are of {'; '.join(TASKS)}, got {unknown[0]}")
    changed = {name: json.loads(value) for name, _, value in (one.partition("=") for one in given.set)}
    changed = {name: tuple(value) if isinstance(value, list) else value for name, value in changed.items()}
    with tempfile.TemporaryDirectory() as name:
        folder, rest = Path(name), (given.jobs, given.minutes, given.tasks)
        if given.quick:
            made_series(folder)
            measure(name, None, QUICK, *rest, False)
            return
        with tarfile.open(given.data / ARCHIVE) as tar:
            tar.extractall(folder, filter="data")
        measure(name, RESULTS, Settings(**{"seeds": given.seeds, **changed}), *rest, given.pilot)


if __name__ == "__main__":
    main()
