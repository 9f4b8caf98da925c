"""The command line. torch and DALI are imported by the commands that need them: ``--help`` is to be quick."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import json
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import dalipipe

if TYPE_CHECKING:
    from rich.console import Console

    from dalipipe.finetune import FineTuneConfig, Ranks, Result
    from dalipipe.policy import Policy
    from dalipipe.sources import Source

app = typer.Typer(
    name="dalipipe",
    help="Decode and augment whole batches for PyTorch, and fine-tune on them.",
    epilog="Start with [bold]dalipipe demo[/]; if something is missing, [bold]dalipipe doctor[/] says what.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
_settings = {"traceback": False}


@dataclasses.dataclass(frozen=True)
class _Task:
    """What the commands take where nothing else is said; ``noun``: what they call samples."""

    model: str
    policy: str
    noun: str


_TASKS = {
    "image": _Task("resnet18", "imagenet_train", "pictures"),
    "audio": _Task("logmel-cnn", "speech", "sounds"),
    "series": _Task("inceptiontime", "series", "series"),
}
_RATE_HZ, _CHANNELS = 16000, 1

Data = Annotated[Path, typer.Argument(help="Folder of pictures: one sub-folder per class.", show_default=False)]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over what is trained on.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Samples a step; of all processes together.")]
Size = Annotated[int, typer.Option("--size", min=1, help="Edge of the pictures the model sees, in pixels.")]
SizeOfRecipe = Annotated[
    int | None, typer.Option("--size", min=1, help="Edge of what a recipe makes, in pixels.", show_default="224")
]
Rate = Annotated[float, typer.Option("--lr", help="Peak learning rate.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Loader threads a process.", show_default="the cores")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N; auto takes a GPU where there is one.")]
Seed = Annotated[int, typer.Option(min=0, help="Of weights, order and augmentation.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --out exactly where it stopped.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a run that is already in --out.")]
Model = Annotated[str, typer.Option(help="Any torchvision classification model.")]
TaskOption = Annotated[str, typer.Option("--task", help="What the data are: image, audio or series.")]
FrameRate = Annotated[
    int | None, typer.Option("--rate-hz", min=1, help="Frames a second, of sounds.", show_default="16000")
]
Channels = Annotated[int | None, typer.Option(min=1, help="Of sounds, as they are mixed down.", show_default="1")]
Weights = Annotated[Path | None, typer.Option(help="Start from the weights in this file.", show_default="from scratch")]


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"dalipipe {dalipipe.__version__}")
        raise typer.Exit()


@app.callback()
def _main(
    traceback: Annotated[bool, typer.Option("--traceback", help="Show Python's traceback with an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    _settings["traceback"] = traceback
    # The loader shares the cores with torch's OpenMP threads. Left alone, those spin while they wait: a bit faster on
    # an idle machine of two cores, several times slower on a busy one. Torch reads this when it is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the pictures and the run.")] = Path("runs/demo"),
    model: Model = "resnet18",
    weights: Weights = None,
    epochs: Epochs = 12,
    batch_size: BatchSize = 64,
    size: Size = 32,
    lr: Rate = 1e-3,
    workers: Workers = None,
    device: Device = "auto",
    seed: Seed = 0,
    resume: Resume = False,
    min_accuracy: Annotated[float, typer.Option(min=0, max=1, help="Fail below this validation accuracy.")] = 0.95,
) -> None:
    """Fine-tune a ResNet-18 on 1,797 scans of handwritten digits, start to finish.

    Writes scikit-learn's bundled digits as a folder of JPEGs, trains on it, leaves checkpoint, metrics and figures.
    """
    with _plain_errors():
        from dalipipe.demo_data import write_digits
        from dalipipe.finetune.classifier import open_folders

        if _several():
            raise ValueError("the demo runs in one process; several are for dalipipe train")
        job = _Job(
            title="dalipipe demo",
            model=model,
            weights=weights,
            epochs=epochs,
            batch_size=batch_size,
            size=size,
            lr=lr,
            policy="digits_train",
            workers=workers,
            device=device,
            seed=seed,
            out=out,
            resume=resume,
            overwrite=not resume,
        )
        result = _fit(*open_folders(write_digits(out / "digits")), job)
        if result.val_accuracy < min_accuracy:
            raise _Failure(f"validation accuracy {result.val_accuracy:.2%} is below the expected {min_accuracy:.0%}")


@app.command()
def train(
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder with train/ and val/, or one to split by --val-fraction or --hold-out; of series, NAME for "
            "NAME_TRAIN.ts and NAME_TEST.ts."
        ),
    ],
    task: TaskOption = "image",
    val_fraction: Annotated[
        float | None,
        typer.Option(help="Share of each class kept for validation, for a folder without train/ and val/."),
    ] = None,
    hold_out: Annotated[
        str | None,
        typer.Option(
            help="Keep for validation the files whose path in the folder fits: 'george/*' leaves a speaker out.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Any torchvision classification model; for audio logmel-cnn; for series resnet1d or inceptiontime.",
            show_default="resnet18, logmel-cnn, inceptiontime",
        ),
    ] = None,
    weights: Weights = None,
    epochs: Epochs = 10,
    batch_size: BatchSize = 64,
    size: SizeOfRecipe = None,
    rate_hz: FrameRate = None,
    channels: Channels = None,
    lr: Rate = 1e-3,
    policy: Annotated[
        str | None,
        typer.Option(
            help="For training: a recipe, or a policy's .yaml or .json file.",
            show_default="imagenet_train, speech, series",
        ),
    ] = None,
    eval_policy: Annotated[
        str | None, typer.Option(help="For validation, likewise.", show_default="the _eval twin of --policy")
    ] = None,
    workers: Workers = None,
    device: Device = "auto",
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="Folder for checkpoint, metrics and figures.")] = Path("runs/train"),
    save_every: Annotated[
        int | None, typer.Option(min=1, help="Steps between two checkpoints.", show_default="the epochs' ends")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds that one of several processes waits for another that says nothing.")
    ] = 300,
    on_error: Annotated[
        str, typer.Option(help="A sample that cannot be read: raise an error, or substitute another for it.")
    ] = "raise",
    cache: Annotated[
        str | None, typer.Option(help="Keep what is trained on in memory: ram or device.", show_default="neither")
    ] = None,
    cache_bytes: Annotated[
        str | None, typer.Option(help="How much of it, as 8GiB.", show_default="a share of what there is")
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a model on a folder of pictures or sounds, or on files of series.

    On several GPUs: torchrun --nproc-per-node 8 -m dalipipe train … The batch size is that of all of them together.
    A run may be continued (--resume) by another number of processes. When torchrun itself starts them anew
    (--max-restarts), they continue from the last checkpoint without being told.
    """
    with _plain_errors():
        from dalipipe.finetune.classifier import open_data

        defaults = _task(task, size=size, rate_hz=rate_hz, channels=channels)
        model, policy = model or defaults.model, policy or defaults.policy
        if resume and overwrite:
            raise ValueError("--resume continues a run and --overwrite replaces it: give one of them")
        if on_error not in ("raise", "substitute"):
            raise ValueError(f"--on-error must be raise or substitute, got {on_error}")
        restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
        job = _Job(
            title=f"{model} on {data}",
            model=model,
            weights=weights,
            epochs=epochs,
            batch_size=batch_size,
            size=size,
            lr=lr,
            policy=policy,
            eval_policy=eval_policy,
            workers=workers,
            device=device,
            seed=seed,
            out=out,
            resume=resume or (restarted and not overwrite and (out / "checkpoint.pt").is_file()),
            overwrite=overwrite,
            save_every=save_every,
            timeout_s=timeout,
            on_error=on_error,
            cache=cache,
            cache_bytes=cache_bytes,
            task=task,
            rate_hz=rate_hz or _RATE_HZ,
        )
        sources = open_data(
            data,
            task,
            val_fraction=val_fraction,
            hold_out=hold_out,
            rate_hz=job.rate_hz,
            channels=channels or _CHANNELS,
        )
        _fit(*sources, job)


@app.command()
def preview(
    data: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of pictures or sounds: one sub-folder per class; with --masks, any; or a file of series, .ts.",
            show_default="the demo's digits",
        ),
    ] = None,
    task: TaskOption = "image",
    policy: Annotated[
        str | None,
        typer.Option(
            help="A recipe, or a policy's .yaml or .json file.", show_default="imagenet_train, speech, series"
        ),
    ] = None,
    each: Annotated[bool, typer.Option("--each", help="A row for each operator of the policy, alone.")] = False,
    masks: Annotated[
        Path | None, typer.Option(help="Folder of label maps named as the pictures, to be laid over them.")
    ] = None,
    size: SizeOfRecipe = None,
    rate_hz: FrameRate = None,
    channels: Channels = None,
    samples: Annotated[
        int | None,
        typer.Option(min=1, help="Samples, evenly spaced in the data.", show_default="6, of signals 4; with --each 1"),
    ] = None,
    variants: Annotated[
        int | None,
        typer.Option("--variants", "--n", min=1, help="Variants of each sample.", show_default="8, of signals 3"),
    ] = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="PNG to write.")] = Path("preview.png"),
) -> None:
    """Write a PNG with a row per picture, sound or series: the original, and what training would see of it."""
    with _plain_errors():
        from dalipipe.demo_data import write_digits
        from dalipipe.preview import preview as draw
        from dalipipe.sources import ImageMasks

        defaults = _task(task, size=size, rate_hz=rate_hz, channels=channels, masks=masks)
        policy = policy or defaults.policy
        if size is not None and _is_policy_file(policy):
            raise ValueError(f"--size is for recipes; {policy} says itself what size it makes")
        if data is None and task != "image":
            raise ValueError(f"give the {defaults.noun} to show: dalipipe preview DATA --task {task}")
        rate_hz = rate_hz or _RATE_HZ
        shown = _policy(policy, size=size, rate_hz=rate_hz)
        if data is None:
            data = write_digits(Path("runs/demo/digits"))
        if masks is not None:
            source: Source = ImageMasks(data, masks)
        else:
            source = _open_one(data, task, rate_hz=rate_hz, channels=channels or _CHANNELS)
        out.parent.mkdir(parents=True, exist_ok=True)
        title = f"{policy} on {data}" + (", operator by operator" if each else "")
        draw(source, shown, out, samples=samples, variants=variants, each=each, seed=seed, title=title)
        _console().print(f"wrote [bold]{_escaped(str(out))}[/]", highlight=False, soft_wrap=True)


@app.command()
def bench(
    data: Data,
    size: Size = 224,
    batch_size: BatchSize = 64,
    workers: Workers = None,
    images: Annotated[int, typer.Option(min=1, help="Pictures a round, evenly spaced in the folder.")] = 1000,
    rounds: Annotated[int, typer.Option(min=1, help="Counted rounds of each pipeline.")] = 3,
    device: Device = "auto",
) -> None:
    """Compare images per second with torch's DataLoader and torchvision's v2 transforms, on your pictures."""
    with _plain_errors():
        from rich.table import Table

        from dalipipe.bench import OutputsDifferError, compare
        from dalipipe.doctor import usable_cores
        from dalipipe.sources import ImageFolder

        console, source = _console(), _open_one(data)
        if not isinstance(source, ImageFolder):
            raise ValueError(f"torch's loader, to compare with, reads class folders, and {data} is none")
        threads = workers or usable_cores()
        target = str(_device(device))
        try:
            with console.status("checking that the outputs agree") as status:
                timings = compare(
                    source,
                    size_px=size,
                    batch_size=batch_size,
                    workers=threads,
                    images=images,
                    rounds=rounds,
                    device=target,
                    on_round=lambda name: status.update(f"timing {name}"),
                )
        except OutputsDifferError as error:
            raise _Failure(str(error)) from error
        table = Table(title=f"decode, crop to {size} px, flip, normalise; {target}, {threads} workers")
        for heading in ("pipeline", "images/s", "ratio", "slowest to fastest"):
            table.add_column(heading, justify="left" if heading == "pipeline" else "right")
        for timing in timings:
            table.add_row(
                timing.name,
                f"{timing.images_per_s:,.0f}",
                f"{timing.images_per_s / timings[0].images_per_s:.2f}×",
                f"{min(timing.rounds):,.0f} to {max(timing.rounds):,.0f}",
            )
        console.print(table)
        console.print(
            f"Medians of {rounds} interleaved rounds of {images:,} pictures; torch runs torchvision's v2 transforms. "
            "Before timing, both gave the same evaluation batch "
            f"(mean difference of normalised pixels {timings[1].difference:.4f}).",
            style="dim",
            highlight=False,
        )


@app.command()
def pack(
    source: Annotated[
        str,
        typer.Argument(
            help="What to pack: a folder of class folders, or one with train/ and val/; tar shards "
            "(train-{000..099}.tar), TFRecord, Parquet or Arrow files, .npy, .npz, a list of pictures.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Folder for the shards.", show_default=False)],
    format: Annotated[
        str | None,
        typer.Option(
            help="tiled: JPEGs, transcoded without loss so that crops need not decode the rest; copy: files as they "
            "are; raw: pixels.",
            show_default="tiled; raw with a policy, and for pixels",
        ),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            help="Apply the front of this policy now: a recipe, or a .yaml or .json file.", show_default=False
        ),
    ] = None,
    split_at: Annotated[
        int | None, typer.Option(min=1, help="How many of the policy's first operators.", show_default="all")
    ] = None,
    copies: Annotated[int, typer.Option(min=1, help="Variants of each picture; epoch e takes variant e mod K.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the policy's front: the training's.")] = 0,
    size: SizeOfRecipe = None,
    resize: Annotated[
        int | None, typer.Option(min=1, help="Shorter side of larger pictures, px.", show_default="as they are")
    ] = None,
    quality: Annotated[int, typer.Option(min=1, max=100, help="Of JPEGs made anew.")] = 95,
    tile_px: Annotated[int, typer.Option(min=8, help="Width of a tile, about.")] = 64,
    metadata: Annotated[bool, typer.Option("--metadata", help="Keep all metadata in JPEGs.")] = False,
    shard_size: Annotated[str, typer.Option(help="Of a shard, about.")] = "512MiB",
    resume: Annotated[bool, typer.Option("--resume", help="Continue the pack under way in OUT.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the pack in OUT.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="That work on a shard.", show_default="the cores")] = None,
    max_bad: Annotated[float, typer.Option(min=0, max=1, help="Share of pictures that may be bad.")] = 0.1,
    ray: Annotated[bool, typer.Option("--ray", help="Write shards on a Ray cluster.")] = False,
    ray_address: Annotated[
        str | None, typer.Option(help="Of the Ray cluster.", show_default="one started on this machine")
    ] = None,
) -> None:
    """Store a data set in shards, as training reads it best: tiled JPEGs, files as they are, or pixels.

    Every WebDataset tool reads them, and dalipipe train does. A run that was stopped goes on with --resume.
    """
    with _plain_errors():
        from dalipipe.packing import pack as pack_one
        from dalipipe.sources import is_pack, open_source

        parts = [(Path(source) / name, out / name) for name in ("train", "val")]
        if not all(part.is_dir() for part, _ in parts) or is_pack(source):
            parts = [(Path(source), out)]
        elif policy is not None:
            raise ValueError(f"a policy is for training: pack {parts[0][0]} and {parts[1][0]} one by one")
        options: Any = {
            "policy": None if policy is None else _policy(policy, size=size),
            "split_at": split_at,
            "copies": copies,
            "seed": seed,
            "format": format,
            "resize": resize,
            "quality": quality,
            "tile_px": tile_px,
            "metadata": metadata,
            "shard_size": shard_size,
            "resume": resume,
            "overwrite": overwrite,
            "threads": threads,
            "max_bad": max_bad,
            "ray": ray_address or ray,
        }
        for part, folder in parts:
            name = str(part) if len(parts) > 1 else source
            with _pack_progress(f"packing {name}") as show:
                report = pack_one(open_source(name), folder, progress=show, **options)
            _console().print(_pack_summary(report))


@contextlib.contextmanager
def _pack_progress(title: str) -> Iterator[Any]:
    """A live line with rate and time left; on no terminal, a line now and then."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = _console(stderr=True)
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[state]}", style="dim"),
        TimeElapsedColumn(),
    ]
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as live:
        task = live.add_task(title, total=1, state="planning")
        told = 0.0

        def show(now: Any) -> None:
            nonlocal told
            left = "" if now.left_s is None else f", {_duration(now.left_s)} left"
            bad = f", {now.bad:,} bad" if now.bad else ""
            state = (
                f"{now.records:,} of {now.of_records:,} records, {now.shards} of {now.of_shards} shards, "
                f"{now.bytes_out / 1e6:,.0f} MB{bad}{left}"
            )
            live.update(task, total=now.of_shards, completed=now.shards, state=state)
            if not console.is_terminal and (now.seconds >= told + 10 or now.shards in (0, now.of_shards)):
                told = now.seconds
                console.print(f"{title}: {state}", highlight=False, markup=False, soft_wrap=True)

        yield show


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _pack_summary(report: Any) -> Any:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    copies = f", {report.copies} copies each" if report.copies > 1 else ""
    table.add_row("records", f"{report.records:,}{copies}")
    table.add_row("shards", f"{report.shards}, {report.shard_bytes / report.shards / 1e6:,.1f} MB on average")
    ratio = (
        "" if report.ratio is None else f", {report.ratio:.3f} of the {report.bytes_in / 1e6:,.1f} MB that were read"
    )
    table.add_row("bytes", f"{report.bytes_out / 1e6:,.1f} MB{ratio}")
    if report.seconds:
        table.add_row("time", f"{_duration(report.seconds)}, {report.records * report.copies / report.seconds:,.0f}/s")
    for reason, count in sorted(report.left.items(), key=lambda item: -item[1]):
        table.add_row("left as they are", f"{count:,}: {reason}")
    if report.bad:
        table.add_row("bad, left out", Text(f"{len(report.bad):,}, listed in {report.out}/bad.jsonl", "red"))
        for bad in report.bad[:3]:
            table.add_row("", f"{bad.where}: {bad.cause}")
    title = Text(f"{report.out} ({report.format})")
    return Panel(table, title=title, title_align="left", border_style="green", expand=False)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False) -> None:
    """Say what this machine offers, what is missing, and the remedy for each; exit code 1 where something is."""
    from rich.table import Table
    from rich.text import Text

    from dalipipe.doctor import diagnose

    checks = diagnose()
    if as_json:
        print(json.dumps([dataclasses.asdict(check) for check in checks], indent=1))
    else:
        marks = {"ok": Text("✓", "green"), "note": Text("•", "yellow"), "missing": Text("✗", "bold red")}
        table = Table(box=None, show_header=False, padding=(0, 1))
        for check in checks:
            found = Text(check.found)
            if check.remedy:
                found.append(f"\n→ {check.remedy}", style="yellow" if check.status == "note" else "red")
            table.add_row(marks[check.status], Text(check.topic, "bold"), found)
        _console().print(table)
    if any(check.status == "missing" for check in checks):
        raise typer.Exit(1)


# What the commands share -------------------------------------------------------------------------------------------


class _Failure(Exception):
    """The command ran, and its outcome is not what it has to be."""


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """One line for what a user can put right, exit code 2; 1 for a run that failed; 128 + signal for one stopped."""
    try:
        yield
    except Exception as error:
        wrong_input = isinstance(error, (OSError, ValueError, ImportError))
        if _settings["traceback"] or not (wrong_input or _is_failed_run(error)):
            raise
        _complain(str(error))
        raise typer.Exit(2 if wrong_input else 1) from error
    except KeyboardInterrupt as stopped:
        from dalipipe.finetune import Interrupted

        if not isinstance(stopped, Interrupted):
            raise
        console = _console(stderr=True, quiet=os.environ.get("RANK", "0") != "0")
        console.print(f"stopped after step {stopped.step}; the checkpoint is complete. Continue with:", highlight=False)
        console.print(f"  {_resume_command()}", style="bold", highlight=False, soft_wrap=True)
        raise typer.Exit(128 + stopped.signum) from stopped


def _is_failed_run(error: Exception) -> bool:
    from dalipipe.finetune import PeerLostError
    from dalipipe.records import SampleError

    return isinstance(error, (SampleError, FloatingPointError, PeerLostError, _Failure))


def _complain(message: str) -> None:
    who = f" (rank {os.environ.get('RANK')})" if _several() else ""
    _console(stderr=True).print(f"[bold red]error{who}:[/] {_escaped(message)}", highlight=False, soft_wrap=True)


def _console(*, stderr: bool = False, quiet: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, quiet=quiet)


def _several() -> bool:
    """Whether this is one of several processes that train together, as torchrun tells them."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _resume_command() -> str:
    arguments = [argument for argument in sys.argv[1:] if argument not in ("--overwrite", "--resume")]
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    program = ["torchrun", "--nproc-per-node", processes, "-m", "dalipipe"] if _several() else ["dalipipe"]
    return shlex.join([*program, *arguments, "--resume"])


def _task(name: str, **options: Any) -> _Task:
    """What is taken for this kind of data where nothing is said. ``options``: as given, or ``None``."""
    if name not in _TASKS:
        raise ValueError(f"--task must be one of {', '.join(_TASKS)}, got {name}")
    for option, value in options.items():
        if value is not None and name != _TASK_OF_OPTION[option]:
            raise ValueError(f"--{option.replace('_', '-')} is for --task {_TASK_OF_OPTION[option]}, not for {name}")
    return _TASKS[name]


_TASK_OF_OPTION = {"size": "image", "masks": "image", "rate_hz": "audio", "channels": "audio"}


def _open_one(data: Path, task: str = "image", *, rate_hz: int = _RATE_HZ, channels: int = _CHANNELS) -> Source:
    """The pictures, sounds or series in ``data``, or in its train/ where it has one."""
    from dalipipe.finetune.classifier import open_audio, series_file
    from dalipipe.sources import open_source

    if task == "series":
        from dalipipe.sources import Series

        return Series.open(data if data.is_file() else series_file(data))
    part = data / "train" if (data / "train").is_dir() else data
    return open_source(part) if task == "image" else open_audio(part, rate_hz=rate_hz, channels=channels)


def _policy(wanted: str, *, size: int | None = None, rate_hz: int = _RATE_HZ) -> Policy:
    """A recipe by its name, at ``size`` px or ``rate_hz``; or what a file says, which sets its own sizes."""
    from dalipipe import recipes
    from dalipipe.policy import Policy

    makers = {
        key: value
        for key, value in vars(recipes).items()
        if inspect.isfunction(value) and value.__module__ == recipes.__name__ and not key.startswith("_")
    }
    if wanted in makers:
        takes = inspect.signature(makers[wanted]).parameters
        settings = {"size": size or 224, "rate_hz": rate_hz}
        made = makers[wanted](**{name: value for name, value in settings.items() if name in takes})
        assert isinstance(made, Policy)
        return made
    if not _is_policy_file(wanted):
        raise ValueError(
            f"no recipe is called {wanted!r}; there are {', '.join(sorted(makers))}, and files, policy.yaml or .json"
        )
    from dalipipe.policy_files import load_policy

    return load_policy(Path(wanted))


def _is_policy_file(name: str) -> bool:
    return Path(name).suffix.lower() in (".yaml", ".yml", ".json")


def _eval_twin(name: str) -> str:
    """``imagenet_train`` → ``imagenet_eval``, ``cifar10`` → ``cifar10_eval``, ``deit.yaml`` → ``deit_eval.yaml``."""
    if not _is_policy_file(name):
        return f"{name.removesuffix('_train')}_eval"
    path = Path(name)
    twin = path.with_stem(f"{path.stem.removesuffix('_train')}_eval")
    if not twin.is_file():
        raise FileNotFoundError(
            f"validation needs a policy without chance: write {twin}, or name one, a recipe or a file, by --eval-policy"
        )
    return str(twin)


def _device(wanted: str) -> Any:
    from dalipipe.finetune import local_device

    try:
        return local_device(wanted)
    except ValueError as error:
        raise ValueError(f"--{error}") from error


@dataclasses.dataclass(frozen=True)
class _Job:
    """What ``demo`` and ``train`` have in common, as given on the command line."""

    title: str
    model: str
    weights: Path | None
    epochs: int
    batch_size: int
    size: int | None
    lr: float
    policy: str
    workers: int | None
    device: str
    seed: int
    out: Path
    resume: bool
    overwrite: bool
    save_every: int | None = None
    timeout_s: float = 300
    on_error: Any = "raise"
    cache: Any = None
    cache_bytes: str | None = None
    eval_policy: str | None = None
    task: str = "image"
    rate_hz: int = _RATE_HZ

    @property
    def bad_samples(self) -> Path:
        """Which samples could not be read."""
        return self.out / "bad_samples.jsonl"


def _fit(train: Source, val: Source, job: _Job) -> Result:
    """Join the other processes, if there are any, train, draw, and show the summary."""
    from dalipipe.finetune import FineTuneConfig, process_group

    config = FineTuneConfig(
        out=job.out,
        epochs=job.epochs,
        lr=job.lr,
        warmup_epochs=min(1.0, job.epochs / 2),
        seed=job.seed,
        resume=job.resume,
        overwrite=job.overwrite,
        save_every=job.save_every,
    )
    _check_run(config)
    device = _device(job.device)
    with process_group(device, timeout_s=job.timeout_s) as ranks:
        return _fit_together(ranks, device, train, val, config, job)


def _fit_together(ranks: Ranks, device: Any, train: Source, val: Source, config: FineTuneConfig, job: _Job) -> Result:
    import torch

    from dalipipe.doctor import usable_cores
    from dalipipe.figures import draw_curves
    from dalipipe.finetune import finetune
    from dalipipe.finetune.classifier import make_model
    from dalipipe.loader import DataLoader
    from dalipipe.preview import preview as draw_samples

    classes = train.classes or []
    recipe = _policy(job.policy, size=job.size, rate_hz=job.rate_hz)
    eval_recipe = _policy(job.eval_policy or _eval_twin(job.policy), size=job.size, rate_hz=job.rate_hz)
    torch.manual_seed(job.seed)
    channels = next((field.channels for field in train.schema.fields if field.kind == job.task), None) or 1
    model, fresh = make_model(job.model, len(classes), task=job.task, channels=channels, weights=job.weights)
    options: dict[str, Any] = {
        "batch_size": ranks.share(min(job.batch_size, len(train))),
        "num_workers": job.workers or max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))),
        "device": device,
        "seed": job.seed,
        "memory_format": torch.channels_last
        if device.type == "cuda" and job.task == "image"
        else torch.contiguous_format,
    }
    if job.on_error != "raise":
        job.out.mkdir(parents=True, exist_ok=True)
        options["quarantine"] = job.bad_samples
    train_loader = DataLoader(
        train,
        shuffle=True,
        drop_last=True,
        policy=recipe,
        on_error=job.on_error,
        cache=job.cache,
        cache_bytes=job.cache_bytes,
        **options,
    )
    val_loader = DataLoader(
        val,
        shards="exact",
        policy=eval_recipe,
        on_error="raise" if job.on_error == "raise" else "skip",  # what stands in would count twice
        **options,
    )

    parameters_m = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    origin = "from scratch" if job.weights is None else f"from {job.weights}"
    if job.weights is not None and fresh:
        origin += f" but for {', '.join(fresh)}"
    place = f"{torch.cuda.get_device_name(device)}, bf16" if device.type == "cuda" else "CPU, float32"
    if ranks.world_size > 1:
        place = f"{ranks.world_size} processes, each on {place}"
    console = _console(quiet=not ranks.main)
    say = functools.partial(console.print, highlight=False, markup=False)
    say(job.title, style="bold")
    noun = _TASKS[job.task].noun
    say(f"  {noun:8}  {len(train):,} to train on, {len(val):,} to validate, {len(classes)} classes")
    say(f"  model     {job.model}, {parameters_m:.1f} M parameters, {origin}")
    say(f"  device    {place}, {train_loader.threads} loader threads")

    figures: dict[str, Path] = {}
    if ranks.main:
        job.out.mkdir(parents=True, exist_ok=True)
        title = f"{job.policy}: originals, and what the model sees"
        figures["samples"] = draw_samples(
            train,
            recipe,
            job.out / "samples.png",
            seed=job.seed,
            title=title,
            pass_over_bad=job.on_error != "raise",
        )
    with contextlib.closing(train_loader), contextlib.closing(val_loader):
        result = finetune(model, train_loader, val_loader, config, ranks=ranks)
    if train_loader.bad_samples or val_loader.bad_samples:
        figures[f"bad {noun}"] = job.bad_samples
    if ranks.main:
        smoothed = config.label_smoothing > 0
        curves = job.out / "curves.png"
        figures["curves"] = draw_curves(result.metrics, curves, title=job.title, smoothed_labels=smoothed)
    console.print(_summary(job.title, result, figures))
    return result


def _check_run(config: FineTuneConfig) -> None:
    """In the command line's words, before anything is loaded, what finetune would say in its own."""
    if config.resume and not config.checkpoint.is_file():
        raise FileNotFoundError(
            f"no checkpoint at {config.checkpoint}; name its folder with --out, or leave --resume out"
        )
    if config.checkpoint.exists() and not (config.resume or config.overwrite):
        raise FileExistsError(
            f"{config.out} holds a run: --resume continues it, --overwrite replaces it, another --out keeps both"
        )


def _summary(title: str, result: Result, pictures: dict[str, Path]) -> Any:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    computing = round(30 * (1 - result.stall))
    split = Text("█" * computing, "green").append("█" * (30 - computing), "red")
    split.append(f"  {1 - result.stall:.1%} computing, {result.stall:.1%} waiting for data", "default")
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    table.add_row("validation accuracy", Text(f"{result.val_accuracy:.2%}", "bold green"))
    table.add_row("training speed", f"{result.images_per_s:,.0f} samples/s over {result.steps} steps")
    table.add_row("step time", split)
    table.add_row(
        "", f"{result.compute_s:.1f} s computing, {result.wait_s:.1f} s waiting, {result.eval_s:.1f} s evaluating"
    )
    for name, path in {"checkpoint": result.checkpoint, "metrics": result.metrics, **pictures}.items():
        table.add_row(name, str(path))
    return Panel(table, title=Text(title), title_align="left", border_style="green", expand=False)
