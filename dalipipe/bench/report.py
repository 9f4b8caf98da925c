"""What a comparison has found, on a terminal and as a picture."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from dalipipe.bench.comparing import ONE_CORE, in_words
from dalipipe.bench.comparison import Comparison, Outcome
from dalipipe.bench.contenders import OURS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_COLUMNS = ("images/s", "dalipipe is", "CPU s", "p50 ms", "p99/p50", "first s", "MiB", "pixels")


def ordered(found: Comparison) -> list[str]:
    """Names of those that were timed, the fastest first."""
    return sorted(found.outcomes, key=lambda name: -found.outcomes[name].per_s)


def show(found: Comparison, console: Console) -> None:
    """Print a table of all contenders, how to read it, and the settings that each was timed at."""
    from rich.text import Text

    console.print(_table(found))
    rounds = max((len(outcome.rates) for outcome in found.outcomes.values()), default=0)
    console.print(
        Text(
            f"Medians of {rounds} rounds in turns, each loader in processes of its own; factors: of the rounds' own. "
            "CPU s: processor seconds for 1,000 images. p50, p99: from batch to batch. first s: from the start of the "
            "process to the first batch, imports among it. MiB: the most memory, shared once. pixels: mean difference "
            "from torchvision's evaluation, normalised (a level of 255 is 0.017).",
            "dim",
        )
    )
    for name in ordered(found):
        outcome = found.outcomes[name]
        line = Text("  ").append(name, "bold").append(f" {outcome.version}: {in_words(outcome.settings)}")
        if len(outcome.swept) > 1:
            line.append(f" (best of {len(outcome.swept)})")
        if outcome.remark and not outcome.difference.is_exact:
            line.append(f"; {outcome.remark}")
        console.print(line, highlight=False)
    for name, remedy in found.absent.items():
        console.print(Text("  ").append(name, "bold").append(f" is absent: {remedy}"))
    for name, reason in found.failed.items():
        console.print(Text("  ").append(name, "bold").append(f" failed: {reason}", "red"))


def _table(found: Comparison) -> Table:
    from rich.table import Table

    work = found.work
    several = "picture" if len(work.paths) == 1 else "pictures"
    table = Table(
        title=f"{len(work.paths):,} {several}: decode, crop to {work.size_px} px, flip, normalise; "
        f"batches of {work.batch_size}; {work.device}, {work.cores} {'core' if work.cores == 1 else 'cores'}"
    )
    table.add_column("loader")
    for heading in _COLUMNS:
        table.add_column(heading, justify="right")
    for name in ordered(found):
        factor = f"{found.ratio(OURS, name):.2f}×" if OURS in found.outcomes and name != OURS else ""
        style = "bold" if name == OURS else ""
        table.add_row(name, *_figures(found.outcomes[name], factor), style=style)
    if found.one_core is not None and found.scaling:
        table.add_row(ONE_CORE, *_figures(found.one_core, f"{found.scaling:.2f}×"), style="dim")
    for name in found.absent:
        table.add_row(name, "absent", style="dim")
    for name in found.failed:
        table.add_row(name, "failed", style="red")
    return table


def _figures(outcome: Outcome, factor: str) -> tuple[str, ...]:
    return (
        f"{outcome.per_s:,.0f}",
        factor,
        f"{outcome.summary()['cpu_s_per_1000']:.2f}",
        f"{outcome.batch_ms(0.5):.0f}",
        f"{outcome.tail:.2f}",
        f"{outcome.first_batch_s:.1f}",
        f"{outcome.peak_bytes / 2**20:,.0f}",
        "equal" if outcome.difference.is_exact else f"± {outcome.difference.mean:.1g}",
    )


def draw(found: Comparison, path: str | os.PathLike[str], *, title: str = "") -> Path:
    """Write the figures as bars into a PNG.

    Raises ``ValueError`` where nothing was timed, ``ModuleNotFoundError`` where matplotlib is missing.
    """
    from dalipipe.figures import Panel, draw_bars

    names = ordered(found)
    outcomes = found.outcomes

    def panel(heading: str, key: str, digits: int = 0) -> Panel:
        return Panel(heading, {name: outcomes[name].summary()[key] for name in names}, digits=digits)

    rates = {name: outcome.per_s for name, outcome in outcomes.items()}
    ranges = {name: (min(outcome.rates), max(outcome.rates)) for name, outcome in outcomes.items()}
    panels = [
        Panel("images/s", rates, ranges),
        panel("CPU s, 1,000 images", "cpu_s_per_1000", 2),
        panel("batch p99 / p50", "p99_over_p50", 2),
        panel("first batch, s", "first_batch_s", 1),
        panel("peak memory, MiB", "peak_mb"),
    ]
    return draw_bars(names, panels, path, first=OURS, title=title)
