"""What do word-level edits bring? A word CNN from scratch on 500 real sentences, without and with each of them.

    python benchmarks/text_accuracy.py --data DIR --jobs 2    # DIR holds text_classification.tar, synonyms_oewn.tsv.gz
    python benchmarks/text_accuracy.py --dry-run              # a few steps on made texts; writes no results
    python benchmarks/text_accuracy.py --data DIR --pilot     # on other seeds, tested on rows of the training files

TREC's questions (6 classes) and SST-2's sentences (2). A seed says which 500 rows of the training file are trained on,
initial weights and order; nothing but the policy differs between its arms, and steps are as many. Accuracy is that of
the final weights on the whole test file. Model, learning rate and steps were chosen in pilots (``--pilot``), whose
seeds and test rows are others; strengths are the paper's for 500 sentences or the operators' defaults. Runs that
results/text_accuracy.json has already are not repeated. benchmarks/report.py writes the table.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
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
FILES = ("text_classification.tar", "synonyms_oewn.tsv.gz")
TASKS = ("trec", "sst2")
ARMS = (
    "none",
    "eda",
    "eda, OEWN",
    "synonyms",
    "synonyms, OEWN",
    "insertion",
    "insertion, OEWN",
    "swap",
    "deletion",
    "aeda",
    "replacement",
    "span mask",
    "cut-mix",
)
ALPHA, COPIES = 0.05, 16  # EDA's for 500 sentences
PILOT_SEEDS = 1000


@dataclass(frozen=True)
class Settings:
    """Of every run alike."""

    seeds: int = 6
    rows: int = 500
    width: int = 64
    filters: int = 64
    batch_size: int = 48
    steps: int = 250
    max_lr: float = 3e-3
    weight_decay: float = 1e-2


def policy_of(arm: str, folder: str) -> Any:
    import dalipipe
    from dalipipe.ops import text as ops
    from dalipipe.ops.mix import TextCutMix

    name, _, source = arm.partition(", ")
    synonyms = str(Path(folder) / FILES[1]) if source else "builtin"
    p = COPIES / (COPIES + 1)
    if name == "eda":
        return dalipipe.recipes.eda(ALPHA, COPIES, synonyms)
    nodes: dict[str, list[Any]] = {
        "none": [],
        "synonyms": [ops.SynonymReplacement(ALPHA, synonyms, p=p)],
        "insertion": [ops.RandomInsertion(ALPHA, synonyms, p=p)],
        "swap": [ops.RandomSwap(ALPHA, p=p)],
        "deletion": [ops.RandomDeletion(ALPHA, p=p)],
        "aeda": [ops.AEDA(p=p)],
        "replacement": [ops.RandomReplacement(ALPHA, p=p)],
        "span mask": [ops.SpanMask(p=p)],
        "cut-mix": [TextCutMix(p=p)],
    }
    return dalipipe.Policy(nodes[name])


@cache
def texts(folder: str, task: str, part: str) -> Any:
    import dalipipe

    return dalipipe.Text.open(Path(folder) / "text" / f"{task}_{part}.tsv", split="space", lower=True)


def split_of(task: str, seed: int, settings: Settings, folder: str) -> tuple[Any, Any]:
    """What a seed trains on, and is tested on: the test file; in pilots as many rows again of the training file, 1,000
    at most.
    """
    import dalipipe

    whole = texts(folder, task, "train")
    order = np.random.default_rng(seed).permutation(len(whole))
    names = [str(number) for number in range(int(whole.labels.max()) + 1)]

    def part(source: Any, rows: np.ndarray) -> Any:
        strings = [source.strings[row] for row in rows]
        return dalipipe.Text(strings, source.labels[rows], split="space", lower=True, classes=names)

    test = texts(folder, task, "test")
    if seed >= PILOT_SEEDS:
        return part(whole, order[: settings.rows]), part(whole, order[settings.rows :][:1000])
    return part(whole, order[: settings.rows]), part(test, np.arange(len(test)))


def run(task: str, arm: str, seed: int, settings: Settings, folder: str) -> dict[str, Any]:
    """One network trained; its final weights' accuracies in percent."""
    import dalipipe
    from dalipipe.finetune import classify
    from dalipipe.finetune.text_models import WordCNN

    begun, cpu_begun = time.perf_counter(), time.process_time()
    train, test = split_of(task, seed, settings, folder)
    loader = dalipipe.DataLoader(
        train,
        min(settings.batch_size, len(train) // 2),
        shuffle=True,
        drop_last=True,
        num_workers=1,
        policy=policy_of(arm, folder),
        device="cpu",
        seed=seed,
    )
    assert loader.vocabulary is not None
    torch.manual_seed(seed)
    # As large for every arm, so that words of the training rows begin with the same vectors.
    model = WordCNN(len(train.classes), len(train.vocabulary), settings.width, settings.filters)
    known = model.vectors.weight.data
    more = torch.empty(len(loader.vocabulary) - len(known), settings.width).uniform_(-0.25, 0.25)
    model.vectors = torch.nn.Embedding.from_pretrained(torch.cat([known, more]), freeze=False)
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), settings.max_lr, weight_decay=settings.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.max_lr, total_steps=settings.steps)
    batches = endless(loader)
    for _ in range(settings.steps):
        loss = classify(model, next(batches)).losses.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    batches.close()
    return {
        "task": task,
        "arm": arm,
        "seed": seed,
        "accuracy": round(accuracy(model, test.with_vocabulary(loader.vocabulary)), 3),
        "train_accuracy": round(accuracy(model, train.with_vocabulary(loader.vocabulary)), 3),
        "words": len(loader.vocabulary),
        "cpu_s": round(time.process_time() - cpu_begun, 1),
        "wall_s": round(time.perf_counter() - begun, 1),
    }


def endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def accuracy(model: Any, source: Any) -> float:
    """Percent of texts, as they are, that are recognised."""
    import dalipipe
    from dalipipe.finetune import evaluate

    loader = dalipipe.DataLoader(source, 100, policy=dalipipe.Policy([]), num_workers=1, device="cpu", seed=0)
    return 100 * evaluate(model, loader).accuracy


def wanted(runs: list[dict[str, Any]], seeds: range, arms: tuple[str, ...]) -> list[tuple[str, str, int]]:
    """What is not among ``runs``; seed by seed, so that stopping early leaves arms equally many."""
    done = {(one["task"], one["arm"], one["seed"]) for one in runs}
    every = ((task, arm, seed) for seed in seeds for task in TASKS for arm in arms)
    return [one for one in every if one not in done]


def measure(
    folder: str, results: Path, settings: Settings, jobs: int, minutes: float, arms: tuple[str, ...], pilot: bool
) -> None:
    """Adds what is missing to text_accuracy.json, each run as it ends; pilots are only shown."""
    import rounds

    path, shown = results / "text_accuracy.json", json.loads(json.dumps(asdict(settings)))
    result: dict[str, Any] = {"settings": shown, "alpha": ALPHA, "copies": COPIES, "runs": []}
    if path.is_file() and not pilot:
        result = json.loads(path.read_text())
    if result["settings"] != shown:
        raise SystemExit(f"{path} has other settings: {result['settings']}; move it away to measure these: {shown}")
    until = time.monotonic() + 60 * minutes
    seeds = range(PILOT_SEEDS, PILOT_SEEDS + settings.seeds) if pilot else range(settings.seeds)
    one_thread: Any = {"initializer": torch.set_num_threads, "initargs": (1,)}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), **one_thread) as pool:
        todo = wanted(result["runs"], seeds, arms)
        for future in as_completed([pool.submit(run_until, until, *one, settings, folder) for one in todo]):
            if (one := future.result()) is not None:
                print(one, flush=True)
                result["runs"] = sorted(
                    [*result["runs"], one], key=lambda r: (TASKS.index(r["task"]), ARMS.index(r["arm"]), r["seed"])
                )
                if not pilot:
                    rounds.write("text_accuracy", result, results)
    show(result["runs"])


def run_until(until: float, *of_run: Any) -> dict[str, Any] | None:
    """``run``, unless it is too late to begin one."""
    return run(*of_run) if time.monotonic() < until else None


def show(runs: list[dict[str, Any]]) -> None:
    """Means, and of differences to no augmentation of the same seeds their standard errors."""
    for task in TASKS:
        without = {one["seed"]: one["accuracy"] for one in runs if (one["task"], one["arm"]) == (task, "none")}
        for arm in ARMS:
            theirs = {one["seed"]: one["accuracy"] for one in runs if (one["task"], one["arm"]) == (task, arm)}
            gains = np.array([theirs[seed] - without[seed] for seed in sorted(set(theirs) & set(without))])
            if len(gains) > 1:
                error = gains.std(ddof=1) / math.sqrt(len(gains))
                mean = np.mean(list(theirs.values()))
                print(f"{task:5} {arm:16} {mean:6.2f}  {gains.mean():+.2f} ± {error:.2f}  ({len(gains)} seeds)")


def made_data(folder: Path) -> None:
    """Classes told by a word of the built-in synonyms, and a table with others."""
    import gzip

    random = np.random.default_rng(0)
    (folder / "text").mkdir()
    for task in TASKS:
        for part in ("train", "test"):
            lines = []
            for row in range(60):
                words = random.choice(["the", "film", "a", "of", "question"], random.integers(1, 9)).tolist()
                lines.append(f"{row % 2}\t{' '.join([*words, ('good', 'bad')[row % 2]])}")
            (folder / "text" / f"{task}_{part}.tsv").write_text("\n".join(lines) + "\n")
    with gzip.open(folder / FILES[1], "wt") as file:
        file.write("good\tfine\nbad\tpoor,ill\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, metavar="DIR", help="holds " + " and ".join(FILES))
    parser.add_argument("--jobs", type=int, default=1, help="runs at one time, each on a core (default 1)")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="begin no run after so many (default: no limit)"
    )
    parser.add_argument("--arms", type=lambda names: tuple(names.split(";")), default=ARMS, help="these, by ';'")
    parser.add_argument("--pilot", action="store_true", help="other seeds and test rows; no results are kept")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings, in pilots")
    parser.add_argument("--dry-run", action="store_true", help="a few steps on made texts; no results are kept")
    given = parser.parse_args()
    if not given.dry_run and given.data is None:
        parser.error("give --data DIR, or --dry-run")
    if given.set and not given.pilot:
        parser.error("--set is for --pilot")
    changed = {name: json.loads(value) for name, _, value in (one.partition("=") for one in given.set)}
    with tempfile.TemporaryDirectory() as name:
        folder, rest = Path(name), (given.jobs, given.minutes, given.arms)
        if given.dry_run:
            made_data(folder)
            measure(name, folder, Settings(seeds=1, rows=20, steps=2, batch_size=8), *rest, False)
            return
        (folder / FILES[1]).symlink_to((given.data / FILES[1]).resolve())
        with tarfile.open(given.data / FILES[0]) as tar:
            tar.extractall(folder, filter="data")
        measure(name, RESULTS, Settings(**changed), *rest, given.pilot)


if __name__ == "__main__":
    main()
