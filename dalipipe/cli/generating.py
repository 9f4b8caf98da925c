"""`dalipipe generate`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dalipipe.cli.app import app, new_console, plain_errors
from dalipipe.cli.inputs import device_of
from dalipipe.cli.options import Device, Overwrite, Resume, Seed

if TYPE_CHECKING:
    from rich.console import Console

    from dalipipe.finetune.generation import Generated, Worth
    from dalipipe.sources import Source


_WORST = 3  # classes that the summary names


@app.command()
def generate(
    data: Annotated[
        Path,
        typer.Argument(
            help="What to learn from: a folder with train/, or one of class folders; of series, NAME for "
            "NAME_TRAIN.ts. val/ and NAME_TEST.ts are only tested on.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for what is made.")] = Path("runs/generated"),
    task: Annotated[str, typer.Option(help="image or series.")] = "image",
    per_class: Annotated[int, typer.Option(min=1, help="Made samples of each class.")] = 100,
    size: Annotated[int, typer.Option(help="Edge of made pictures, px: 8, 16, 32 or 64.")] = 32,
    steps: Annotated[int, typer.Option(min=1, help="Of the generator's training.")] = 1500,
    batch_size: Annotated[int, typer.Option(min=2, help="Real samples a step, and as many made ones.")] = 64,
    width: Annotated[
        int | None,
        typer.Option(min=1, help="Channels of the finest layers.", show_default="16; for pictures of 32 px or more 8"),
    ] = None,
    lr: Annotated[float, typer.Option("--lr", help="Learning rate.")] = 1e-3,
    agreement: Annotated[
        float, typer.Option(help="Least probability that a classifier trained on real data gives the class, below 1.")
    ] = 0.5,
    judge_steps: Annotated[int, typer.Option(min=1, help="Of that classifier.")] = 300,
    val_fraction: Annotated[
        float | None,
        typer.Option(help="Keep this share of each class out, as train does, for a folder without train/ and val/."),
    ] = None,
    hold_out: Annotated[
        str | None,
        typer.Option(help="Keep out the files whose path in the folder fits, as train does.", show_default=False),
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Train on real, on made data and on both, and test on real ones.")
    ] = False,
    device: Device = "cpu",
    seed: Seed = 0,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Make more data of the kind there is, by a small GAN, and keep what a classifier agrees with.

    Writes an ordinary data set, DIR/data or DIR/data.ts, for dalipipe train --add; a manifest, and a sheet to look at.
    """
    with plain_errors():
        from dalipipe.finetune.generation import GANConfig
        from dalipipe.finetune.generation import generate as make

        if task not in ("image", "series"):
            raise ValueError(f"--task must be image or series, got {task}: others are not made")
        if resume and overwrite:
            raise ValueError("--resume continues a run and --overwrite replaces it: give one of them")
        source, val = _open(data, task, val_fraction, hold_out)
        if report and val is None:
            raise ValueError(
                f"{data} has nothing to test on, which --report needs: add val/, or give --val-fraction or --hold-out"
            )
        console = new_console()
        width = width or (8 if task == "image" and size >= 32 else 16)
        config = GANConfig(steps=steps, batch_size=batch_size, width=width, lr=lr, seed=seed)
        with _Steps(console, steps) as stepped:
            found = make(
                source,
                out,
                per_class=per_class,
                agreement=agreement,
                judge_steps=judge_steps,
                size_px=size,
                config=config,
                val=val,
                device=device_of(device),
                resume=resume,
                overwrite=overwrite,
                stepped=stepped,
            )
        console.print(_summary(f"made of {data}", found))
        if report:
            assert val is not None
            console.print(_worth(source, val, found, size))


def _open(data: Path, task: str, val_fraction: float | None, hold_out: str | None) -> tuple[Source, Source | None]:
    from dalipipe.finetune.classifier import open_data, open_series, series_file
    from dalipipe.sources import Series, open_source

    if task == "series":
        if val_fraction is not None or hold_out is not None:
            raise ValueError(
                "series come in two files, _TRAIN.ts and _TEST.ts: leave --val-fraction and --hold-out out"
            )
        try:
            return open_series(data)
        except FileNotFoundError:
            return Series.open(data if data.is_file() else series_file(data)), None
    if val_fraction is not None or hold_out is not None or (data / "val").is_dir():
        return open_data(data, val_fraction=val_fraction, hold_out=hold_out)
    return open_source(data / "train" if (data / "train").is_dir() else data), None


class _Steps:
    """A bar on a terminal, else a line now and then."""

    def __init__(self, console: Console, total: int) -> None:
        self.console, self.total = console, total

    def __enter__(self) -> Callable[[int, float, float], None]:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[losses]}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            disable=not self.console.is_terminal,
            expand=True,
        )
        self._task = self._bar.add_task("", total=self.total, losses="")
        self._bar.start()
        return self._stepped

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def _stepped(self, step: int, discriminator: float, generator: float) -> None:
        losses = f"discriminator {discriminator:.3f}  generator {generator:.3f}"
        self._bar.update(self._task, completed=step, losses=losses)
        if not self.console.is_terminal and (step % 250 == 0 or step == self.total):
            self.console.print(f"step {step}/{self.total}  {losses}", highlight=False)


def _summary(title: str, found: Generated) -> Any:
    import json

    from rich.panel import Panel
    from rich.table import Table

    about = json.loads(found.manifest.read_text(encoding="utf-8"))
    share = sum(found.agreed.values()) / sum(found.tried.values())
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    table.add_row("kept", f"{sum(found.kept.values()):,} samples of {len(found.kept)} classes")
    table.add_row("agreement", f"of those made the classifier agreed with {share:.0%}")
    shares = {name: found.agreed[name] / tried for name, tried in found.tried.items()}
    worst = sorted(shares, key=shares.__getitem__)[:_WORST]
    if len(shares) > 1:
        table.add_row("", f"least with {', '.join(f'{name} {shares[name]:.0%}' for name in worst)}")
    judge = about["judge"]
    on = "held-out" if judge["on"] == "val" else "its training"
    table.add_row("classifier", f"{judge['accuracy']:.2%} right on {on} data")
    table.add_row("nearness", f"{found.nearness:.2f} of the distance between real ones; far below 1: they are copies")
    for name, path in (("data", found.data), ("manifest", found.manifest), ("sheet", found.sheet)):
        table.add_row(name, str(path))
    return Panel(table, title=title, title_align="left", border_style="green", expand=False)


def _worth(source: Source, val: Source, found: Generated, size: int) -> Any:
    from rich.table import Table

    from dalipipe.finetune.generation import pictures, worth
    from dalipipe.sources import ImageFolder, Series

    if source.schema.of_kind("image"):
        real = pictures(source, size)
        test, made = (
            pictures(one, size, channels=real.schema.fields[0].channels) for one in (val, ImageFolder(found.data))
        )
        rows: list[Worth] = worth(real, made, test)
    else:
        rows = worth(source, Series.open(found.data, classes=source.classes), val)
    table = Table("trained on", "accuracy on real data, %", title="train on real or made, test on real; 3 seeds")
    for row in rows:
        table.add_row(row.arm, f"{100 * row.mean:.2f} ± {100 * row.error:.2f}")
    return table
