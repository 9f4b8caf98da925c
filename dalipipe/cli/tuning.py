"""`dalipipe tune` and `dalipipe suggest`."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dalipipe.cli.app import app, new_console, plain_errors, several
from dalipipe.cli.inputs import CHANNELS, RATE_HZ, TASKS, device_of, open_one, policies_of, policy_of, task_of
from dalipipe.cli.options import (
    BatchSize,
    Channels,
    Device,
    Epochs,
    FrameRate,
    MaxLength,
    Overwrite,
    RateOfModel,
    Seed,
    SizeOfRecipe,
    TaskOption,
    WeightDecay,
    Weights,
    Workers,
)

if TYPE_CHECKING:
    from dalipipe.loader import DataLoader
    from dalipipe.sources import Source

TrainingData = Annotated[
    Path,
    typer.Argument(
        help="What is trained on: a folder of classes, or one with train/; of series NAME for NAME_TRAIN.ts; of texts "
        "NAME for NAME_train.tsv, or a file.",
        show_default=False,
    ),
]
ModelOfTask = Annotated[
    str | None,
    typer.Option(help="As for dalipipe train.", show_default="resnet18, logmel-cnn, inceptiontime, word-cnn"),
]
PolicyOfTask = Annotated[
    str | None,
    typer.Option(
        help="A recipe, or a policy's .yaml or .json file.", show_default="imagenet_train, speech, series, eda"
    ),
]


@app.command()
def tune(
    data: TrainingData,
    task: TaskOption = "image",
    policy: PolicyOfTask = None,
    eval_policy: Annotated[
        str | None, typer.Option(help="For validation, likewise.", show_default="the _eval twin of --policy")
    ] = None,
    folds: Annotated[int, typer.Option(min=2, help="Parts that the data are cut into.")] = 5,
    strengths: Annotated[
        str, typer.Option(help="Strengths of the policy: 1 is as written; 0, none, is always among them.")
    ] = "0.25,0.5,0.75,1,1.5",
    copies: Annotated[
        str | None,
        typer.Option(
            help="Augmented copies of each sample: 4 leaves one in five as it is; all: augments all.",
            show_default="1,2,4,all, or all where operators are counted",
        ),
    ] = None,
    operators: Annotated[
        str | None,
        typer.Option(
            help="Numbers of operators, for RandAugment, SomeOf and the like.", show_default="0,1,2,3 where there are"
        ),
    ] = None,
    baseline: Annotated[bool, typer.Option(help="Compare with TrivialAugment, for pictures.")] = True,
    share: Annotated[
        float,
        typer.Option(
            help="Of the full grid's training, what is spent at most, from a dozen candidates on: of fewer, two are "
            "trained in full all the same. 1: all are."
        ),
    ] = 0.25,
    model: ModelOfTask = None,
    weights: Weights = None,
    epochs: Epochs = 10,
    batch_size: BatchSize = 64,
    size: SizeOfRecipe = None,
    rate_hz: FrameRate = None,
    channels: Channels = None,
    max_length: MaxLength = None,
    lr: RateOfModel = None,
    weight_decay: WeightDecay = None,
    workers: Workers = None,
    device: Device = "auto",
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="Folder for the chosen policy, table, plot and trainings.")] = Path(
        "runs/tune"
    ),
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue; no training that is finished is repeated.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Choose a policy's strength, and how many copies and operators, by cross-validation.

    Trains on all folds but one, validates on that one as it is, for all candidates alike; many are trained briefly,
    few in full. Chosen is the weakest that is within a standard error of the best. Keep the final test set out of it.
    """
    with plain_errors():
        from dalipipe.finetune.tuning import TuneConfig, candidates
        from dalipipe.finetune.tuning import tune as choose

        if several():
            raise ValueError("tune runs in one process")
        defaults = task_of(task, size=size, rate_hz=rate_hz, channels=channels, max_length=max_length)
        model, policy = model or defaults.model, policy or defaults.policy
        rate = rate_hz or RATE_HZ
        if not 0 < share <= 1:
            raise ValueError(f"--share must be above 0 and at most 1, got {share:g}")
        written, seen = policies_of(policy, eval_policy, size=size, rate_hz=rate)
        if operators is not None and not written.counts:
            raise ValueError(
                f"--operators is for policies that say how many operators are applied, by SomeOf, RandAugment or the "
                f"like, and {policy} does not: leave it out"
            )
        grid = candidates(
            written,
            strengths=_numbers("strengths", strengths, float),
            copies=None if copies is None else _numbers("copies", copies, int, none="all"),
            counts=None if operators is None else _numbers("operators", operators, int),
            baseline=baseline,
        )
        if len(grid) < 2:
            raise ValueError(
                f"there is nothing to choose: {policy} at these --strengths and --copies changes no sample"
            )
        source, folder = _open(data, task, model, rate_hz=rate, channels=channels, max_length=max_length)
        batch_size = max(1, min(batch_size, len(source) - -(-len(source) // folds)))
        steps = epochs * ((len(source) - -(-len(source) // folds)) // batch_size)
        config = TuneConfig(
            out=out,
            folds=folds,
            steps=steps,
            batch_size=batch_size,
            lr=lr if lr is not None else 1e-3 if folder is None else 5e-5,
            weight_decay=0.05 if weight_decay is None else weight_decay,
            share=share,
            seed=seed,
            resume=resume,
            overwrite=overwrite,
        )
        console = new_console()

        def say(line: str) -> None:
            console.print(line, highlight=False, markup=False)

        say(f"{policy} on {data}: {len(source):,} {TASKS[task].noun}, {len(grid)} candidates, {folds} folds")
        tuned = choose(
            written,
            source,
            lambda loader: _make(model, source, loader, task, weights),
            config,
            candidates=grid,
            eval_policy=seen,
            loader={"device": device_of(device), **({} if workers is None else {"num_workers": workers})},
            say=say,
        )
        console.print(_shown(tuned))
        options = {
            "task": task,
            "policy": tuned.files["policy"],
            "model": model,
            "weights": weights,
            "epochs": epochs,
            "batch-size": batch_size,
            "rate-hz": rate_hz,
            "channels": channels,
            "max-length": max_length,
            "lr": config.lr,
            "weight-decay": config.weight_decay,
            "workers": workers,
            "device": None if device == "auto" else device,
            "seed": seed,
            "out": out / "chosen",
        }
        say("Train with what was chosen:")
        console.print(
            f"  {_train_command(data, task, options)}", style="bold", markup=False, highlight=False, soft_wrap=True
        )


@app.command()
def suggest(
    data: TrainingData,
    task: TaskOption = "image",
    policy: PolicyOfTask = None,
    model: ModelOfTask = None,
    weights: Weights = None,
    size: SizeOfRecipe = None,
    rate_hz: FrameRate = None,
    channels: Channels = None,
    max_length: MaxLength = None,
    range_test: Annotated[
        Path | None,
        typer.Option(
            help="Look for the learning rate, too, in a training of 100 steps; a PNG to write.", show_default=False
        ),
    ] = None,
    workers: Workers = None,
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Say what learning rate, weight decay, batch size and epochs to begin with, and why."""
    with plain_errors():
        import torch
        from rich.table import Table

        from dalipipe.finetune.tuning import lr_range_test
        from dalipipe.finetune.tuning import suggest as advise
        from dalipipe.loader import DataLoader

        defaults = task_of(task, size=size, rate_hz=rate_hz, channels=channels, max_length=max_length)
        model, policy = model or defaults.model, policy or defaults.policy
        if range_test is not None:
            _check_file(range_test)
        written = policy_of(policy, size=size, rate_hz=rate_hz or RATE_HZ)
        source, folder = _open(data, task, model, rate_hz=rate_hz or RATE_HZ, channels=channels, max_length=max_length)
        options: dict[str, Any] = {"policy": written, "shuffle": True, "drop_last": True, "seed": seed}
        options |= {"device": device_of(device), **({} if workers is None else {"num_workers": workers})}
        loader = DataLoader(source, min(64, len(source)), **options)
        torch.manual_seed(seed)
        made = _make(model, source, loader, task, weights)
        pretrained = weights is not None or folder is not None
        advice = advise(written, source, made, pretrained=pretrained)
        table = Table(box=None, padding=(0, 2), title=f"{model} on {data}, {policy}", title_justify="left")
        for name in ("", "begin with", "because"):
            table.add_column(name)
        for name in ("lr", "weight_decay", "batch_size", "epochs"):
            table.add_row(f"--{name.replace('_', '-')}", f"{getattr(advice, name):g}", advice.reasons[name])
        console = new_console()
        if range_test is not None:
            loader = DataLoader(source, min(advice.batch_size, len(source)), **options)
            try:
                with contextlib.closing(loader):
                    found = lr_range_test(made, loader, weight_decay=advice.weight_decay)
                where = found.draw(range_test, title=f"{model} on {data}")
                said = f"a tenth of where the loss is lowest; it falls fastest at {found.steepest:.2g}: {where}"
                table.add_row("range test", f"{found.suggested:.2g}", said)
            except (ValueError, OSError, ImportError) as error:  # the rest is worth having all the same
                table.add_row("range test", "nothing", str(error))
        console.print(table)


def _open(data: Path, task: str, model: str, *, rate_hz: int, channels: int | None, max_length: int | None) -> Any:
    """What is trained on, and the folder of a Hugging Face model or ``None``."""
    from dalipipe.finetune.classifier import is_folder_of_model, longest_text, text_files
    from dalipipe.sources import Text

    folder = model if is_folder_of_model(model, task) else None
    if task != "text":
        return open_one(data, task, rate_hz=rate_hz, channels=channels or CHANNELS), folder
    longest = max_length or (None if folder is None else longest_text(folder))
    return Text.open(text_files(data)[0], tokenizer=folder, max_length=longest), folder


def _make(name: str, source: Source, loader: DataLoader, task: str, weights: Path | None) -> Any:
    """A model for what the loader gives."""
    from dalipipe.finetune.classifier import make_model
    from dalipipe.finetune.tuning import check_folds
    from dalipipe.sources import Text

    classes = source.classes or int(check_folds(source, 2).max()) + 1
    return make_model(
        name,
        classes,
        task=task,
        channels=next((field.channels for field in source.schema.fields if field.kind == task), None) or 1,
        vocabulary_size=0 if loader.vocabulary is None else len(loader.vocabulary),
        pad=source.encoding.pad if isinstance(source, Text) else None,
        weights=weights,
    )[0]


def _train_command(data: Path, task: str, options: dict[str, Any]) -> str:
    """That trains on what was tuned on, and validates with what stands beside it, or else a part of it. ``options``:
    ``None`` stands for what need not be said.
    """
    from dalipipe.finetune.classifier import text_files

    split = task == "text" and len(text_files(data)) == 1
    if task in ("image", "audio"):
        part = data / "train" if (data / "train").is_dir() else data
        split = part.name != "train" or not (part.parent / "val").is_dir()
        data = part if split else part.parent
    given = [part for name, value in options.items() if value is not None for part in (f"--{name}", f"{value}")]
    return shlex.join(["dalipipe", "train", str(data), *(["--val-fraction", "0.2"] if split else []), *given])


def _check_file(path: Path) -> None:
    """Before there is anything to write: that it can be."""
    if path.is_dir():
        raise IsADirectoryError(f"--range-test is the PNG to write, and {path} is a folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PermissionError(f"--range-test: {path} cannot be written")


def _numbers(option: str, given: str, kind: type, none: str | None = None) -> list[Any]:
    """Numbers ≥ 0."""
    found = []
    for part in given.split(","):
        try:
            found.append(None if part.strip() == none else kind(part))
            if found[-1] is not None and not 0 <= found[-1] < math.inf:
                raise ValueError(part)
        except ValueError:
            what = "whole numbers" if kind is int else "numbers"
            also = "" if none is None else f", or {none}"
            raise ValueError(
                f"--{option} must be {what}, at least 0, with commas between them{also}, got {given}"
            ) from None
    return found


_COLUMNS: tuple[tuple[str, Any], ...] = (
    ("", "left"),
    ("steps", "right"),
    ("folds", "right"),
    ("cross-entropy", "right"),
    ("accuracy", "right"),
)


def _shown(tuned: Any) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2))
    for name, justify in _COLUMNS:
        table.add_column(name, justify=justify)
    for one in tuned.standings:
        chosen = one is tuned.chosen
        name = one.candidate.name + (", chosen" if chosen else ", best" if one is tuned.best else "")
        style = "bold green" if chosen else "default" if one.in_full else "dim"
        cells = (name, f"{one.steps:,}", str(len(one.accuracies)), f"{one.loss:.3f}", one.percent)
        table.add_row(*(Text(cell, style) for cell in cells))
    for name, path in tuned.files.items():
        table.add_row(Text(f"{name}: {path}", "dim"))
    return table
