"""`dalipipe pack`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dalipipe.cli.app import app, new_console, plain_errors
from dalipipe.cli.inputs import policy_of
from dalipipe.cli.options import SizeOfRecipe

if TYPE_CHECKING:
    from dalipipe.policy import Policy


@app.command()
def pack(
    source: Annotated[
        str,
        typer.Argument(
            help="What to pack: a folder of class folders, or one with train/ and val/; tar shards "
            "(train-{000..099}.tar), TFRecord, Parquet or Arrow files, .npy, .npz, a list of pictures; with "
            "--task text, texts in .txt, .csv, .tsv, .jsonl or .parquet.",
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
    task: Annotated[str, typer.Option(help="image, or text.")] = "image",
    forward: Annotated[
        str | None,
        typer.Option(
            help="Of texts: folder of a model that translates them into another language, before the policy; "
            "nothing is downloaded.",
            show_default=False,
        ),
    ] = None,
    backward: Annotated[
        str | None, typer.Option(help="Folder of a model that translates back.", show_default=False)
    ] = None,
    temperature: Annotated[
        float, typer.Option(min=0, help="Of what translations draw; 0: the best, the same in each copy.")
    ] = 0.0,
    share: Annotated[float, typer.Option(min=0, max=1, help="Of texts that are translated.")] = 1.0,
    cache: Annotated[
        Path | None, typer.Option(help="Folder where translations are kept for other packs.", show_default=False)
    ] = None,
) -> None:
    """Store a data set in shards, as training reads it best: tiled JPEGs, files as they are, or pixels.

    Every WebDataset tool reads them, and dalipipe train does. A run that was stopped goes on with --resume. Texts,
    translated there and back (--forward, --backward), are stored as JSON lines.
    """
    with plain_errors():
        from dalipipe.packing import pack as pack_one
        from dalipipe.sources import Text, is_pack, open_source

        parts = [(Path(source) / name, out / name) for name in ("train", "val")]
        if not all(part.is_dir() for part, _ in parts) or is_pack(source):
            parts = [(Path(source), out)]
        elif policy is not None:
            raise ValueError(f"a policy is for training: pack {parts[0][0]} and {parts[1][0]} one by one")
        whole = None if policy is None else policy_of(policy, size=size)
        if forward is not None or backward is not None:
            task, whole, split_at = "text", _translating(whole, forward, backward, temperature, share), split_at or 1
        if task not in ("image", "text"):
            raise ValueError(f"--task must be image or text, got {task}")
        if task == "text":
            parts = [(Path(source), out)]
        options: Any = {
            "policy": whole,
            "split_at": split_at,
            "cache": cache,
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
                opened = Text.open(name) if task == "text" else open_source(name)
                report = pack_one(opened, folder, progress=show, **options)
            new_console().print(_pack_summary(report))


def _translating(
    policy: Policy | None, forward: str | None, backward: str | None, temperature: float, share: float
) -> Policy:
    """The policy with translation there and back before it."""
    from dalipipe.ops.text import BackTranslation
    from dalipipe.policy import Policy

    if forward is None or backward is None:
        raise ValueError("--forward and --backward go together: there, and back")
    return Policy([BackTranslation(forward, backward, temperature, p=share), *(policy or ())])


@contextlib.contextmanager
def _pack_progress(title: str) -> Iterator[Any]:
    """A live line with rate and time left; on no terminal, a line now and then."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = new_console(stderr=True)
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
