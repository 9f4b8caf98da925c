"""What a run shows while it runs: a live bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

PLAIN_EVERY_S = 30.0  # at most one line in this time between the lines that end the epochs


def open_progress(kind: str, *, epochs: int, total_steps: int, first_step: int = 0) -> Progress:
    """``kind``: "auto" (a bar when stdout is a terminal, else lines), "bar", "plain" or "off"."""
    if kind == "auto":
        kind = "bar" if sys.stdout.isatty() else "plain"
    shape = {"bar": BarProgress, "plain": PlainProgress, "off": Progress}[kind]
    return shape(epochs, total_steps, first_step)


class Progress:
    """Shows nothing; the others derive from it."""

    def __init__(self, epochs: int, total_steps: int, first_step: int):
        self.epochs, self.total_steps, self.first_step = epochs, total_steps, first_step

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        pass

    def stepped(self, step: int, epoch: int) -> None:
        """After every step; ``step`` counts the finished ones."""

    def logged(self, row: dict[str, Any]) -> None:
        """After every logged step, with its row of metrics."""

    def epoch_ended(self, row: dict[str, Any]) -> None:
        """After every evaluation, with the epoch's row of metrics."""

    def _epoch_line(self, row: dict[str, Any]) -> str:
        width = len(str(self.epochs))
        return (
            f"epoch {row['epoch'] + 1:{width}d}/{self.epochs}"
            f"  train {row['loss']:.3f} {row['accuracy']:6.1%}"
            f"  val {row['val_loss']:.3f} {row['val_accuracy']:6.2%}"
            f"  {row['images_per_s']:,.0f} samples/s  stall {row['stall']:.1%}"
        )


class PlainProgress(Progress):
    """Lines for log files."""

    _spoke_s = 0.0

    def __enter__(self) -> Self:
        self._spoke_s = time.monotonic()
        return self

    def logged(self, row: dict[str, Any]) -> None:
        if time.monotonic() - self._spoke_s >= PLAIN_EVERY_S:
            self._say(
                f"step {row['step']}/{self.total_steps}  loss {row['loss']:.3f} {row['accuracy']:.1%}"
                f"  lr {row['lr']:.2e}  {row['images_per_s']:,.0f} samples/s  stall {row['stall']:.1%}"
            )

    def epoch_ended(self, row: dict[str, Any]) -> None:
        self._say(self._epoch_line(row))

    def _say(self, line: str) -> None:
        print(line, flush=True)
        self._spoke_s = time.monotonic()


class BarProgress(Progress):
    """A live bar over the whole run, with a line above it for every epoch."""

    def __enter__(self) -> Self:
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("[bold]epoch {task.fields[epoch]}"),
            BarColumn(bar_width=None),
            TextColumn("[cyan]{task.fields[speed]}"),
            TextColumn("{task.fields[stall]}"),
            TextColumn("loss [magenta]{task.fields[loss]}"),
            TextColumn("acc [green]{task.fields[accuracy]}"),
            TimeRemainingColumn(compact=True),
            expand=True,
        )
        self._task = self._bar.add_task(
            "train",
            total=self.total_steps,
            completed=self.first_step,
            epoch=f"-/{self.epochs}",
            speed="- samples/s",
            stall="stall -",
            loss="-",
            accuracy="-",
        )
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def stepped(self, step: int, epoch: int) -> None:
        self._bar.update(self._task, completed=step, epoch=f"{epoch + 1}/{self.epochs}")

    def logged(self, row: dict[str, Any]) -> None:
        colour = "green" if row["stall"] < 0.05 else "yellow" if row["stall"] < 0.2 else "red"
        self._bar.update(
            self._task,
            speed=f"{row['images_per_s']:,.0f} samples/s",
            stall=f"stall [{colour}]{row['stall']:.1%}[/]",
            loss=f"{row['loss']:.3f}",
            accuracy=f"{row['accuracy']:.1%}",
        )

    def epoch_ended(self, row: dict[str, Any]) -> None:
        self._bar.console.print(self._epoch_line(row), highlight=False)
