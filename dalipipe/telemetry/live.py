"""A loader on the terminal while it runs: what its stages take, and who waits for whom."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live as RichLive
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from dalipipe.loader import DataLoader
from dalipipe.sizes import format_bytes

if TYPE_CHECKING:
    from typing_extensions import Self

_OVER_S = 5.0
_BAR = 24  # columns
_EIGHTHS = " ▏▎▍▌▋▊▉"
_STARVED, _NOTICEABLE = 0.1, 0.02  # shares of the time spent waiting


class Live:
    """Shows a loader on the terminal while it lasts; ``with Live(loader): train()``.

    Of the last five seconds: the share of the time that each stage is at work, that the user waits, and that the loader
    waits for room; how many batches are ready, bad samples, and the cache. Quantiles are those since the loader was
    made. What is printed meanwhile stands above, and rich's progress bars below. Where there is no terminal, it prints
    once, at the end.

    Args:
        loader: running or not.
        name: its heading.
        refresh_per_s: how often it is drawn.
        console: of rich; its usual one by default.
    """

    def __init__(
        self, loader: DataLoader, *, name: str = "loader", refresh_per_s: float = 4, console: Console | None = None
    ) -> None:
        self._loader, self._name = loader, name
        self._seen: deque[tuple[float, dict[str, Any]]] = deque()
        self._live = RichLive(get_renderable=self._draw, refresh_per_second=refresh_per_s, console=console)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._live.stop()

    def _draw(self) -> Panel:
        now, stats = time.monotonic(), self._loader.stats()
        seen = self._seen
        seen.append((now, stats))
        while len(seen) > 2 and now - seen[1][0] >= _OVER_S:
            seen.popleft()
        return draw(self._name, stats, seen[0][1], now - seen[0][0])


def draw(name: str, now: Mapping[str, Any], before: Mapping[str, Any], seconds: float) -> Panel:
    """``now``, ``before``: `DataLoader.stats`, so many ``seconds`` apart."""

    def share(new: float, old: float) -> float:
        return min(1.0, max(0.0, (new - old) / seconds)) if seconds > 0 else 0.0

    batches_per_s = (now["wait"]["batches"] - before["wait"]["batches"]) / seconds if seconds > 0 else 0.0
    none = {"seconds": 0.0}
    shares = {
        stage: share(found["seconds"], before["stages"].get(stage, none)["seconds"])
        for stage, found in now["stages"].items()
    }
    busiest = max(shares, key=lambda stage: shares[stage], default=None)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("stage")
    table.add_column(f"at work, last {_OVER_S:.0f} s", min_width=_BAR, no_wrap=True)
    for heading in ("", "p50 ms", "p99 ms"):
        table.add_column(heading, justify="right")
    for stage, found in now["stages"].items():
        colour = "yellow" if stage == busiest and shares[stage] else "cyan"
        table.add_row(stage, *_row(shares[stage], colour, found))
    waits = share(now["wait"]["seconds"], before["wait"]["seconds"])
    colour = "red" if waits >= _STARVED else "yellow" if waits >= _NOTICEABLE else "green"
    table.add_section()
    table.add_row("you wait", *_row(waits, colour, now["wait"]))
    full = share(now["full_s"], before["full_s"])
    table.add_row("it waits", _bar(full, "green"), f"{full:.0%}", "", "")
    title = Text(f"{name}: {now['samples_per_s']:,.0f} samples/s, {batches_per_s:,.1f} batches/s", style="bold")
    return Panel(
        Group(table, Text(_verdict(now, waits, full, busiest), style=colour), Text(_rest(now), style="dim")),
        title=title,
        title_align="left",
        border_style="dim",
        expand=False,
    )


def _row(share: float, colour: str, found: Mapping[str, Any]) -> tuple[Text, str, str, str]:
    return _bar(share, colour), f"{share:.0%}", f"{found['p50_ms']:,.2f}", f"{found['p99_ms']:,.2f}"


def _bar(share: float, colour: str) -> Text:
    eighths = round(8 * _BAR * share)
    whole, rest = divmod(eighths, 8)
    return Text(("█" * whole + (_EIGHTHS[rest] if rest else "")).ljust(_BAR), style=colour)


def _verdict(now: Mapping[str, Any], waits: float, full: float, busiest: str | None) -> str:
    if not now["wait"]["batches"]:
        return "no batch yet"
    ahead = f"waits for training {full:.0%} of the time"
    if waits >= _NOTICEABLE:
        if full > waits:
            return f"the loader {ahead}, and yet training for data {waits:.0%}: batches come unevenly"
        why = "" if busiest is None else f"; {busiest} is at work most"
        return f"training waits for data {waits:.0%} of the time{why}"
    return "the loader keeps up" + (f", and {ahead}" if full >= _NOTICEABLE else "")


def _rest(now: Mapping[str, Any]) -> str:
    parts = [f"ready: {now['ready_batches']} batches, {now['ready_batches_mean']:.1f} on average"]
    parts.append(f"bad samples: {now['bad_samples']:,}")
    if now["cached_samples"]:
        parts.append(f"cache: {now['cached_samples']:,} samples, {format_bytes(now['cached_bytes'])}")
    return "   ".join(parts)
