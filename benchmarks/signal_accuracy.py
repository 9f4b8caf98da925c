"""What do dalipipe's recipes for sounds and series bring? Small networks on small real data, with and without.

    python benchmarks/signal_accuracy.py --data DIR --jobs 2    # DIR holds fsdd_600.tar and ucr_series.tar
    python benchmarks/signal_accuracy.py --dry-run              # a few steps on made signals; writes no results

Spoken digits are learnt from all speakers but one, who is then tested, each in turn; four series of the UCR archive by
their own split. Nothing but the policy differs between a task's two arms: initial weights and order are a seed's, and
steps are as many. Runs that results/signal_accuracy.json has already are not repeated. benchmarks/report.py writes the
table.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tarfile
import tempfile
import time
import wave
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent))

RESULTS = Path(__file__).parent / "results"
ARMS = ("none", "recipe")
ARCHIVES = ("fsdd_600.tar", "ucr_series.tar")
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
SERIES = ("GunPoint", "OSULeaf", "ItalyPowerDemand", "JapaneseVowels")
TASKS = (*(f"digits of {speaker}" for speaker in SPEAKERS), *SERIES)
RATE_HZ, DURATION_S, N_MELS = 8000, 0.64, 32  # 95 % of the digits are no longer


@dataclass(frozen=True)
class Settings:
    """Of every run alike; pairs: of digits, of series. Small, so that it all takes a quarter of an hour on 2 cores."""

    seeds: int = 5
    width: tuple[int, int] = (8, 4)
    batch_size: int = 32
    steps: tuple[int, int] = (600, 400)
    max_lr: tuple[float, float] = (5e-3, 3e-3)
    weight_decay: float = 1e-2


class Task(NamedTuple):
    """``recipe``, ``plain``: policies to train with, and to train and test with."""

    source: Any
    train: np.ndarray
    test_source: Any
    test: np.ndarray
    recipe: Any
    plain: Any
    model: nn.Module
    steps: int
    max_lr: float


def task_of(name: str, folder: str, settings: Settings) -> Task:
    """Its model has the weights that torch's generator gives now."""
    from dalipipe import recipes
    from dalipipe.finetune.models import InceptionTime, LogMelCNN

    if name in SERIES:
        train, test = series(folder, name)
        classes, channels = len(train.classes), train.schema.fields[0].channels
        model: nn.Module = InceptionTime(classes, channels, settings.width[1])
        every = (np.arange(len(train)), test, np.arange(len(test)))
        return Task(
            train, *every, recipes.series(), recipes.series_eval(), model, settings.steps[1], settings.max_lr[1]
        )
    digits = sounds(folder)
    theirs = np.array([f"/{name.split()[-1]}/" in path for path in digits.paths])
    how = (RATE_HZ, DURATION_S, N_MELS)
    return Task(
        source=digits,
        train=np.flatnonzero(~theirs),
        test_source=digits,
        test=np.flatnonzero(theirs),
        recipe=recipes.speech(*how),
        plain=recipes.speech_eval(*how),
        model=LogMelCNN(len(digits.classes), 1, settings.width[0]),
        steps=settings.steps[0],
        max_lr=settings.max_lr[0],
    )


@cache
def sounds(folder: str) -> Any:
    import dalipipe

    return dalipipe.AudioFolder(Path(folder) / "fsdd", rate_hz=RATE_HZ, cache=False)


@cache
def series(folder: str, name: str) -> tuple[Any, Any]:
    """Training and test series, each channel brought to mean 0 and deviation 1 of all training frames."""
    import dalipipe

    train = dalipipe.Series.open(Path(folder) / "ucr" / f"{name}_TRAIN.ts")
    test = dalipipe.Series.open(Path(folder) / "ucr" / f"{name}_TEST.ts", classes=train.classes)
    values = [_values(source) for source in (train, test)]
    frames = np.concatenate(values[0])
    mean, deviation = frames.mean(0), frames.std(0)
    scaled = [[(one - mean) / deviation for one in part] for part in values]
    return tuple(
        dalipipe.Series(part, source.labels, classes=train.classes)
        for part, source in zip(scaled, (train, test), strict=True)
    )  # type: ignore[return-value]


def _values(source: Any) -> list[np.ndarray]:
    signals = source.read(np.arange(len(source))).columns["series"]
    return [signals[row] for row in range(len(source))]


def run(name: str, arm: str, seed: int, settings: Settings, folder: str) -> dict[str, Any]:
    """One network trained; its final weights' accuracies in percent."""
    begun, cpu_begun = time.perf_counter(), time.process_time()
    torch.manual_seed(seed)
    task = task_of(name, folder, settings)
    optimizer = torch.optim.AdamW(task.model.parameters(), task.max_lr, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, task.max_lr, total_steps=task.steps)
    batches = endless(task, arm, settings.batch_size, seed)
    for _ in range(task.steps):
        loss = F.cross_entropy(*logits_and_labels(task.model, next(batches)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    batches.close()
    return {
        "task": name,
        "arm": arm,
        "seed": seed,
        "accuracy": round(accuracy(task, task.test_source, task.test), 3),
        "train_accuracy": round(accuracy(task, task.source, task.train), 3),
        "steps": schedule.last_epoch,
        "cpu_s": round(time.process_time() - cpu_begun, 1),
        "wall_s": round(time.perf_counter() - begun, 1),
    }


def endless(task: Task, arm: str, batch_size: int, seed: int) -> Iterator[Any]:
    """Batches of one epoch after another; of small data sets, half of it at most."""
    import dalipipe

    loader = dalipipe.DataLoader(
        task.source,
        min(batch_size, len(task.train) // 2),
        sampler=dalipipe.orders.Subset(task.train),
        drop_last=True,
        num_workers=1,
        policy=task.recipe if arm == "recipe" else task.plain,
        device="cpu",
        seed=seed,
    )
    while True:
        yield from loader


def logits_and_labels(model: nn.Module, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    ragged = "series" in batch._fields and "length" in batch._fields
    return model(batch[0], batch.length if ragged else None), batch.label


@torch.no_grad()
def accuracy(task: Task, source: Any, records: np.ndarray) -> float:
    """Percent of the records, not augmented, that are recognised."""
    import dalipipe

    task.model.eval()
    right = 0
    order = dalipipe.orders.Subset(records, dalipipe.orders.Sequential())
    loader = dalipipe.DataLoader(source, 100, sampler=order, num_workers=1, policy=task.plain, device="cpu", seed=0)
    for batch in loader:
        logits, labels = logits_and_labels(task.model, batch)
        right += int((logits.argmax(1) == labels).sum())
    return 100 * right / len(records)


def wanted(runs: list[dict[str, Any]], tasks: tuple[str, ...], seeds: int) -> list[tuple[str, str, int]]:
    """What is not among ``runs``; seed by seed, so that stopping early leaves arms equally many."""
    done = {(one["task"], one["arm"], one["seed"]) for one in runs}
    every = ((task, arm, seed) for seed in range(seeds) for task in tasks for arm in ARMS)
    return [one for one in every if one not in done]


def measure(folder: str, results: Path, settings: Settings, jobs: int, minutes: float) -> None:
    """Adds what is missing to signal_accuracy.json, each run as it ends."""
    import rounds

    path, shown = results / "signal_accuracy.json", json.loads(json.dumps(asdict(settings)))
    result = json.loads(path.read_text()) if path.is_file() else {"settings": shown, "runs": []}
    if result["settings"] != shown:
        raise SystemExit(f"{path} has other settings: {result['settings']}; move it away to measure these: {shown}")
    until = time.monotonic() + 60 * minutes
    one_thread: Any = {"initializer": torch.set_num_threads, "initargs": (1,)}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), **one_thread) as pool:
        todo = wanted(result["runs"], TASKS, settings.seeds)
        for future in as_completed([pool.submit(run_until, until, *one, settings, folder) for one in todo]):
            if (one := future.result()) is not None:
                print(one, flush=True)
                result["runs"] = sorted(
                    [*result["runs"], one], key=lambda r: (TASKS.index(r["task"]), ARMS.index(r["arm"]), r["seed"])
                )
                rounds.write("signal_accuracy", result, results)


def run_until(until: float, *of_run: Any) -> dict[str, Any] | None:
    """``run``, unless it is too late to begin one."""
    return run(*of_run) if time.monotonic() < until else None


def made_data(folder: Path) -> None:
    """A tone a digit by six speakers, twice; series of two classes, ragged or not as the real ones."""
    generator = np.random.default_rng(0)
    for number, speaker in enumerate(SPEAKERS):
        for digit in range(10):
            home = folder / "fsdd" / speaker / str(digit)
            home.mkdir(parents=True)
            for take in range(2):
                time_s = np.arange(generator.integers(1200, 9000)) / RATE_HZ
                tone = 8000 * np.sin(2 * np.pi * (200 + 150 * digit + 5 * number) * time_s)
                with wave.open(str(home / f"{take}.wav"), "wb") as file:
                    file.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
                    file.writeframes(tone.astype("<i2").tobytes())
    (folder / "ucr").mkdir()
    for name in SERIES:
        ragged = name == "JapaneseVowels"
        for part in ("TRAIN", "TEST"):
            lines = ["@problemName " + name, f"@equalLength {str(not ragged).lower()}", "@classLabel true 1 2", "@data"]
            for row in range(20):
                frames = int(generator.integers(7, 30)) if ragged else 60
                channels = generator.standard_normal((12 if ragged else 1, frames)) + row % 2
                values = ":".join(",".join(f"{value:.4f}" for value in channel) for channel in channels)
                lines.append(f"{values}:{1 + row % 2}")
            (folder / "ucr" / f"{name}_{part}.ts").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, metavar="DIR", help="holds " + " and ".join(ARCHIVES))
    parser.add_argument("--jobs", type=int, default=1, help="runs at one time, each on a core (default 1)")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="begin no run after so many (default: no limit)"
    )
    parser.add_argument("--dry-run", action="store_true", help="a few steps on made signals; no results are kept")
    given = parser.parse_args()
    if not given.dry_run and given.data is None:
        parser.error("give --data DIR, or --dry-run")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.dry_run:
            made_data(folder)
            measure(name, folder, Settings(seeds=1, steps=(2, 2)), given.jobs, given.minutes)
            return
        for archive in ARCHIVES:
            with tarfile.open(given.data / archive) as tar:
                tar.extractall(folder, filter="data")
        measure(name, RESULTS, Settings(), given.jobs, given.minutes)


if __name__ == "__main__":
    main()
