"""`dalipipe preview` and `dalipipe doctor`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dalipipe.cli.app import app, escaped, new_console, plain_errors
from dalipipe.cli.inputs import (
    CHANNELS,
    RATE_HZ,
    default_policy,
    open_one,
    policy_of,
    task_of,
)
from dalipipe.cli.options import (
    Channels,
    FrameRate,
    Seed,
    SizeOfRecipe,
    TaskOption,
)

if TYPE_CHECKING:
    from dalipipe.sources import Source


@app.command()
def preview(
    data: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of pictures or sounds: one sub-folder per class; with --masks, any; a file of series, .ts; or "
            "one of texts, .tsv, .csv, .jsonl, .parquet, .txt.",
            show_default="the demo's digits",
        ),
    ] = None,
    task: TaskOption = "image",
    policy: Annotated[
        str | None,
        typer.Option(
            help="A recipe, or a policy's .yaml or .json file.", show_default="imagenet_train, speech, series, eda"
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
        typer.Option(
            min=1, help="Samples, evenly spaced in the data.", show_default="6, of signals 4; with --each 1, of texts 2"
        ),
    ] = None,
    variants: Annotated[
        int | None,
        typer.Option(
            "--variants", "--n", min=1, help="Variants of each sample.", show_default="8, of signals and texts 3"
        ),
    ] = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="PNG to write.")] = Path("preview.png"),
) -> None:
    """Write a PNG with a row per picture, sound, series or text: the original, and what training would see of it."""
    with plain_errors():
        from dalipipe.demo_data import write_digits
        from dalipipe.preview import preview as draw
        from dalipipe.sources import ImageMasks

        defaults = task_of(task, size=size, rate_hz=rate_hz, channels=channels, masks=masks)
        policy = policy or default_policy(task, data)
        if data is None and task != "image":
            raise ValueError(f"give the {defaults.noun} to show: dalipipe preview DATA --task {task}")
        rate_hz = rate_hz or RATE_HZ
        shown = policy_of(policy, size=size, rate_hz=rate_hz)
        if data is None:
            data = write_digits(Path("runs/demo/digits"))
        if masks is not None:
            source: Source = ImageMasks(data, masks)
        else:
            source = open_one(data, task, rate_hz=rate_hz, channels=channels or CHANNELS)
        out.parent.mkdir(parents=True, exist_ok=True)
        title = f"{policy} on {data}" + (", operator by operator" if each else "")
        draw(source, shown, out, samples=samples, variants=variants, each=each, seed=seed, title=title)
        new_console().print(f"wrote [bold]{escaped(str(out))}[/]", highlight=False, soft_wrap=True)


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
        new_console().print(table)
    if any(check.status == "missing" for check in checks):
        raise typer.Exit(1)
