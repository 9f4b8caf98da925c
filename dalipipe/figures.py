"""The pictures that a run leaves behind: the curves of its metrics, and augmented samples, in a grid or as traces."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

INK, SOFT, FAINT = "#1f2933", "#7b8794", "#e4e7eb"
BLUE, ORANGE, GREEN, RED = "#2563eb", "#ea7317", "#1a936f", "#d64545"
_DPI = 130


def draw_curves(
    metrics: str | os.PathLike[str], path: str | os.PathLike[str], *, title: str = "", smoothed_labels: bool = False
) -> Path:
    """Draw loss, accuracy, learning rate and data stall over the steps of a ``metrics.jsonl`` as a PNG.

    ``smoothed_labels``: say in the legend that the training loss is that of smoothed labels, and so cannot reach zero.

    Raises:
        FileNotFoundError: there is no such metrics file.
        ValueError: it holds no finished epoch or no logged step.
        ModuleNotFoundError: matplotlib is missing.
    """
    rows = [json.loads(line) for line in Path(metrics).read_text().splitlines()]
    steps = [row for row in rows if row["kind"] == "step"]
    epochs = [row for row in rows if row["kind"] == "epoch"]
    if not steps or not epochs:
        raise ValueError(f"{metrics} holds {len(steps)} logged steps and {len(epochs)} epochs; nothing to draw yet")
    figure = _figure(10, 6.4)
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    def column(table: list[dict[str, Any]], key: str) -> np.ndarray:
        return np.array([row[key] for row in table], dtype=float)

    (loss, accuracy), (rate, stall) = figure.subplots(2, 2, sharex=True)
    step, ends = column(steps, "step"), column(epochs, "step")
    training = {"loss": "training (smoothed labels)" if smoothed_labels else "training", "accuracy": "training"}
    marks = {
        "clip_on": False,
        "zorder": 3,
        "marker": "o",
        "markersize": 4.5,
        "markeredgecolor": "white",
        "markeredgewidth": 0.8,
    }

    for axes, key in ((loss, "loss"), (accuracy, "accuracy")):
        axes.plot(step, column(steps, key), color=BLUE, alpha=0.3, linewidth=1)
        axes.plot(ends, column(epochs, key), color=BLUE, linewidth=1.8, label=training[key], **marks)
        axes.plot(ends, column(epochs, f"val_{key}"), color=ORANGE, linewidth=1.8, label="validation", **marks)
        _legend_above(axes)
    loss.set_ylim(bottom=0)
    low = min(column(steps, "accuracy").min(), column(epochs, "val_accuracy").min())
    accuracy.set_ylim(max(0.0, np.floor(low * 10) / 10), 1.01)
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))

    rate.plot(step, column(steps, "lr"), color=GREEN, linewidth=1.8)
    rate.set_ylim(bottom=0)
    rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2), useMathText=True)

    speed = stall.twinx()
    speed.plot(step, column(steps, "images_per_s"), color=SOFT, linewidth=1.2, alpha=0.8)
    speed.set_ylim(bottom=0)
    speed.set_ylabel("samples/s", color=SOFT)
    stall.set_zorder(speed.get_zorder() + 1)
    stall.patch.set_visible(False)
    stall.fill_between(step, column(steps, "stall"), color=RED, alpha=0.2, linewidth=0)
    stall.plot(step, column(steps, "stall"), color=RED, linewidth=1.5)
    stall.set_ylim(0, max(0.1, min(1.0, 1.25 * column(steps, "stall").max())))
    stall.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))

    for axes, name in ((loss, "Loss"), (accuracy, "Accuracy"), (rate, "Learning rate"), (stall, "Data stall")):
        axes.set_title(name, loc="left", fontsize=11, fontweight="bold", color=INK)
        axes.grid(True, color=FAINT, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlim(0, step.max())
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    for axes in (loss, accuracy, rate, stall, speed):
        _without_frame(axes)
    stall.set_title("share of step time", loc="right", fontsize=9, color=RED)
    for axes in (rate, stall):
        axes.set_xlabel("step", color=SOFT)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
    figure.savefig(path, format="png")
    return Path(path)


def draw_tuning(rows: Sequence[Mapping[str, Any]], path: str | os.PathLike[str], *, title: str = "") -> Path:
    """Draw accuracy over a policy's strength, a line for each number of copies or operators, as a PNG.

    ``rows``: of each candidate in each round its ``strength``, 0: none, or ``None``: another policy, a level line;
    ``line``: which line it is on, "": on all (none at all); ``mean`` and ``error`` of its accuracy, [0, 1];
    ``in_full``: what was trained less has a picture of its own; ``chosen``.

    Raises ``ValueError`` for no rows, ``ModuleNotFoundError`` where matplotlib is missing.
    """
    if not rows:
        raise ValueError("draw_tuning: no candidates given")
    figure = _figure(8.2, 4.8)
    from matplotlib import colormaps
    from matplotlib.ticker import PercentFormatter

    full, early = [row for row in rows if row["in_full"]], [row for row in rows if not row["in_full"]]
    both = figure.subplots(1, 2 if early else 1, squeeze=False, sharex=True, sharey=True)[0]
    own = list(dict.fromkeys(row["line"] for row in rows if row["line"] and row["strength"] is not None))
    strengths = sorted({row["strength"] for row in rows} - {None})
    others = list(dict.fromkeys(row["line"] for row in rows if row["strength"] is None))
    colours = dict(zip(own, colormaps["viridis"](np.linspace(0, 0.85, max(len(own), 1))), strict=True))
    handles: dict[str, Any] = {}
    parts = ([(early, "after the first round")] if early else []) + [(full, "trained in full")]
    for axes, (shown, name) in zip(both, parts, strict=True):
        for line in own:
            points = {
                row["strength"]: row for row in shown if row["line"] in (line, "") and row["strength"] is not None
            }
            if not any(row["line"] for row in points.values()):
                continue
            # NaN where a strength is not there breaks the line, which would lead over it.
            y = [points[at]["mean"] if at in points else np.nan for at in strengths]
            error = [points[at]["error"] if at in points and at else np.nan for at in strengths]
            handles[line] = axes.errorbar(
                strengths, y, error, color=colours[line], marker="o", markersize=4, linewidth=1.6, capsize=2
            )
        for row in shown:
            if row["strength"] is None:
                handles[row["line"]] = axes.axhline(row["mean"], color=ORANGE, linewidth=1.5, linestyle="--")
                if not np.isnan(row["error"]):
                    ends = row["mean"] - row["error"], row["mean"] + row["error"]
                    axes.axhspan(*ends, color=ORANGE, alpha=0.12, linewidth=0)
            elif not row["line"]:
                around = None if np.isnan(row["error"]) else row["error"]
                handles["none"] = axes.errorbar(
                    [0.0], [row["mean"]], around, color=INK, marker="s", markersize=5, linestyle="", capsize=2, zorder=3
                )
            if row["chosen"]:
                at = row["strength"]
                where: Any = {"transform": axes.get_yaxis_transform()} if at is None else {}
                handles["chosen"], *_ = axes.plot(
                    [0.5 if at is None else at],
                    [row["mean"]],
                    "o",
                    markersize=11,
                    markerfacecolor="none",
                    color=RED,
                    zorder=4,
                    **where,
                )
        axes.set_title(name, loc="left", fontsize=11, fontweight="bold", color=INK)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
        axes.grid(True, color=FAINT, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlabel("strength of the policy", color=SOFT)
        _without_frame(axes)
    both[0].set_ylabel("validation accuracy", color=SOFT)
    names = [name for name in ("none", *own, *others, "chosen") if name in handles]
    figure.legend(
        [handles[name] for name in names],
        names,
        loc="outside lower center",
        ncols=len(names) if len(names) <= 7 else -(-len(names) // 2),
        frameon=False,
        labelcolor=INK,
        fontsize=8.5,
        handlelength=1.6,
        columnspacing=1.2,
    )
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
    figure.savefig(path, format="png")
    return Path(path)


def draw_lr_range(
    rates: Sequence[float],
    losses: Sequence[float],
    path: str | os.PathLike[str],
    *,
    smoothed: Sequence[float] = (),
    suggested: float | None = None,
    title: str = "",
) -> Path:
    """Draw a learning rate range test as a PNG: loss over learning rate, which is on a logarithmic scale, and a line at
    the ``suggested`` one.

    Raises ``ValueError`` for no losses or another number of rates, ``ModuleNotFoundError`` where matplotlib is missing.
    """
    if not len(losses) or len(losses) != len(rates):
        raise ValueError(f"draw_lr_range: expected a loss for each rate, got {len(losses)} and {len(rates)}")
    figure = _figure(7, 4)
    axes = figure.subplots()
    axes.plot(rates, losses, color=BLUE, alpha=0.3, linewidth=1, label="loss of each batch")
    if len(smoothed):
        axes.plot(rates[: len(smoothed)], smoothed, color=BLUE, linewidth=1.8, label="smoothed")
    if suggested is not None:
        axes.axvline(suggested, color=ORANGE, linewidth=1.5, label=f"suggested, {suggested:.2g}")
    axes.set_xscale("log")
    low, first = min(smoothed if len(smoothed) else losses), losses[0]
    axes.set_ylim(max(0.0, low - 0.2 * abs(first - low) - 0.05), 1.5 * first)
    axes.grid(True, color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel("learning rate", color=SOFT)
    axes.set_ylabel("training loss", color=SOFT)
    axes.legend(frameon=False, labelcolor=INK)
    _without_frame(axes)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
    figure.savefig(path, format="png")
    return Path(path)


@dataclasses.dataclass(frozen=True)
class Panel:
    """A figure of each loader: ``values`` by its name, and from where to where they went, where that is known."""

    title: str
    values: Mapping[str, float]
    ranges: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    digits: int = 0


def draw_bars(
    names: Sequence[str], panels: Sequence[Panel], path: str | os.PathLike[str], *, first: str = "", title: str = ""
) -> Path:
    """Draw a row of bars for each of ``names``, a column for each panel, as a PNG. ``first``: whose bars stand out.

    Raises ``ValueError`` for no names or panels, ``ModuleNotFoundError`` where matplotlib is missing.
    """
    if not names or not panels:
        raise ValueError(f"draw_bars: nothing to draw: {len(names)} names, {len(panels)} panels")
    figure = _figure(2.2 + 1.9 * len(panels), 1.0 + 0.34 * len(names))
    columns = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    places = np.arange(len(names))
    for axes, panel in zip(columns, panels, strict=True):
        values = [panel.values[name] for name in names]
        axes.barh(places, values, color=[BLUE if name == first else SOFT for name in names], height=0.62)
        ends = [panel.ranges.get(name, (value, value)) for name, value in zip(names, values, strict=True)]
        if panel.ranges:
            around = [[value - low for value, (low, _) in zip(values, ends, strict=True)]]
            around.append([high - value for value, (_, high) in zip(values, ends, strict=True)])
            axes.errorbar(values, places, xerr=around, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
        longest = max(high for _, high in ends)
        for place, value, (_, high) in zip(places, values, ends, strict=True):
            text = f"{value:,.{panel.digits}f}"
            axes.text(high + 0.03 * longest, place, text, va="center", fontsize=8.5, color=INK)
        axes.set_xlim(0, 1.32 * longest if longest > 0 else 1)
        axes.set_title(panel.title, loc="left", fontsize=9.5, fontweight="bold", color=INK)
        axes.set_xticks([])
        _without_frame(axes)
    columns[0].set_yticks(places, names)
    columns[0].invert_yaxis()
    for label in columns[0].get_yticklabels():
        label.set_color(INK)
        label.set_fontweight("bold" if label.get_text() == first else "normal")
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, fontweight="bold", color=INK)
    figure.savefig(path, format="png")
    return Path(path)


def draw_confusion(
    confusion: str | os.PathLike[str], path: str | os.PathLike[str], *, title: str = "", most: int = 40
) -> Path:
    """Draw a confusion matrix as a PNG: rows what was right, columns what was predicted, in shares of a row; how many
    where there are at most 20 classes.

    Args:
        confusion: the CSV file of a matrix that `finetune` writes, with the names of classes around it.
        path: the file to write.
        title: a heading; may be left out.
        most: of more classes, those are drawn that were taken for others most often, or others for them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no square of counts, with names around it.
        ModuleNotFoundError: matplotlib is missing.
    """
    with open(confusion, newline="", encoding="utf-8") as file:
        head, *lines = list(csv.reader(file)) or [[]]
    names = [line[0] for line in lines]
    if not names or head[1:] != names or not all(cell.isdecimal() for line in lines for cell in line[1:]):
        raise ValueError(f"{confusion} is no confusion matrix: expected counts, the same classes on both sides")
    if any(len(line) != len(head) for line in lines):
        raise ValueError(f"{confusion} is no confusion matrix: its lines are not of the same length")
    counts = np.array([line[1:] for line in lines], dtype=np.int64)
    total, right = counts.sum(), np.trace(counts)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    if len(names) > most:
        missed = shares.sum(1) + shares.sum(0) - 2 * np.diag(shares)
        kept = np.sort(np.argsort(-missed, kind="stable")[:most])
        counts, shares, names = counts[np.ix_(kept, kept)], shares[np.ix_(kept, kept)], [names[i] for i in kept]

    edge = min(max(4.5, 0.42 * len(names) + 2.0), 14.0)
    figure = _figure(edge + 0.8, edge)
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.ticker import PercentFormatter

    axes = figure.subplots()
    colours = LinearSegmentedColormap.from_list("confusion", ["#ffffff", "#93b4f5", BLUE, "#12307a"])
    image = axes.imshow(shares, cmap=colours, vmin=0, vmax=1, aspect="equal")
    size = 9 if len(names) <= 20 else 6.5
    labels = [name if len(name) <= 24 else f"{name[:23]}…" for name in names]
    is_tilted = max(map(len, labels)) > 3
    tilt: Any = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if is_tilted else {}
    axes.set_xticks(range(len(names)), labels, **tilt)
    axes.set_yticks(range(len(names)), labels)
    axes.set_xlabel("predicted", color=SOFT)
    axes.set_ylabel("right", color=SOFT)
    if len(names) <= 20:
        for row, column in np.argwhere(counts):
            ink = "white" if shares[row, column] > 0.5 else INK
            count = str(counts[row, column]) if counts.max() < 100_000 else f"{shares[row, column]:.1%}"  # of pixels
            axes.text(column, row, count, ha="center", va="center", fontsize=8, color=ink)
    _without_frame(axes)
    axes.tick_params(labelsize=size)
    bar = figure.colorbar(image, ax=axes, shrink=0.75, aspect=30, format=PercentFormatter(1.0, decimals=0))
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=SOFT, length=0, labelsize=8)
    axes.set_title(f"{right:,} of {total:,} right", loc="left", fontsize=10, color=SOFT)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
    figure.savefig(path, format="png")
    return Path(path)


@dataclasses.dataclass(frozen=True)
class Trace:
    """A sound or another series to be drawn: ``values`` float [T, C]. ``bands`` float [bands, frames]: what has been
    made of it, over the same time.
    """

    values: np.ndarray
    bands: np.ndarray | None = None


def draw_traces(
    rows: Sequence[Sequence[Trace]],
    path: str | os.PathLike[str],
    *,
    rate_hz: float | None = None,
    spectra: bool = False,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    title: str = "",
) -> Path:
    """Draw signals over time as a labelled grid, a PNG. Within a row all have the same scales, those of the original,
    which comes first, and of the others together; behind a signal's end its cell is grey.

    Args:
        rows: the signals, a line a channel. Without ``spectra``, the original of up to 3 channels stands pale
            behind the others.
        path: the file to write.
        rate_hz: frames a second; ``None``: time is told in frames.
        spectra: beneath each its ``bands``, or where it has none its spectrogram: power in dB over Hz, of the mean of
            its channels, 80 dB from the row's highest down.
        row_labels: a text above each row, its further lines paler behind it; may be left out.
        column_labels: a text above each column; may be left out.
        title: a heading; may be left out.

    Raises:
        ValueError: there is nothing to draw.
        ModuleNotFoundError: matplotlib is missing.
    """
    if not rows or not all(len(row) for row in rows):
        raise ValueError("draw_traces: no signals given")
    columns, heights = max(len(row) for row in rows), [0.75, 1.15] if spectra else [1.3]
    each = len(heights)
    figure = _figure(1.2 + 2.3 * columns, 0.9 + len(rows) * (sum(heights) + 0.35))
    grid = figure.subplots(each * len(rows), columns, squeeze=False, height_ratios=heights * len(rows))
    for r, row in enumerate(rows):
        lines, images = grid[each * r], grid[each * r + 1] if spectra else None
        _draw_lines(lines, row, rate_hz, with_original=not spectra)
        if images is not None:
            _draw_spectra(images, row, rate_hz)
            for axes in lines:
                axes.tick_params(labelbottom=False)  # the time stands beneath the spectra
        name, *further = (row_labels[r] if r < len(row_labels) else "").split("\n")
        heading = lines[0].set_title(name, loc="left", fontsize=10, fontweight="bold", color=INK)
        place: Any = {"xy": (1, 0), "xycoords": heading, "xytext": (7, 0), "textcoords": "offset points"}
        lines[0].annotate(", ".join(further), **place, va="bottom", fontsize=9, color=SOFT).set_in_layout(False)
        for column in range(len(row), columns):
            for axes in grid[each * r : each * (r + 1), column]:
                axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("frame" if rate_hz is None else "s", color=SOFT, fontsize=9)
    for axes, label in zip(grid[0], column_labels, strict=False):
        axes.set_title(f"{label}\n" if row_labels else label, loc="center", fontsize=9, color=SOFT)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
    figure.savefig(path, format="png")
    return Path(path)


def _draw_lines(cells: Sequence[Any], row: Sequence[Trace], rate_hz: float | None, *, with_original: bool) -> None:
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    longest, channels = max(len(trace.values) for trace in row), row[0].values.shape[1]
    pale = channels <= 3 and with_original
    low = min(float(trace.values.min(initial=0)) for trace in row)
    high = max(float(trace.values.max(initial=0)) for trace in row)
    room = 0.05 * (high - low) or 1.0
    colours = [BLUE, ORANGE, GREEN] if channels <= 3 else colormaps["viridis"](np.linspace(0, 0.92, channels))
    few = longest <= 32  # then a line alone doesn't show where the frames are
    for nth, (axes, trace) in enumerate(zip(cells, row, strict=False)):
        shown = [(row[0], 0.25), (trace, 1.0)] if nth and pale else [(trace, 1.0)]
        for one, alpha in shown:
            time = np.arange(len(one.values)) / (rate_hz or 1)
            for channel in range(channels):
                axes.plot(
                    time,
                    one.values[:, channel],
                    color=colours[channel],
                    alpha=alpha,
                    linewidth=0.6 if longest > 500 or channels > 3 else 1.3,
                    marker="o" if few and channels <= 3 else "",
                    markersize=2.2,
                )
        _without_frame(axes)
        axes.grid(True, axis="y", color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_ylim(low - room, high + room)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=3))
        _share_time(axes, longest - 1, len(trace.values) - 1, rate_hz, is_first=nth == 0)


def _draw_spectra(cells: Sequence[Any], row: Sequence[Trace], rate_hz: float | None) -> None:
    longest = max(len(trace.values) for trace in row)
    rate = rate_hz or 1.0
    own = any(trace.bands is None for trace in row)
    images = [_spectrogram_db(trace.values, rate) if own else np.asarray(trace.bands) for trace in row]
    finite = np.concatenate([image[np.isfinite(image)] for image in images])
    high = float(np.max(finite, initial=-200.0)) if own else float(np.percentile(finite, 99.8))
    low = high - 80 if own else float(np.percentile(finite, 1))
    for nth, (axes, trace, image) in enumerate(zip(cells, row, images, strict=False)):
        top = rate / 2 if own else len(image)
        axes.imshow(
            image,
            origin="lower",
            aspect="auto",
            extent=(0, len(trace.values) / rate, 0, top),
            cmap="magma",
            vmin=low,
            vmax=high,
            interpolation="nearest",
        )
        _without_frame(axes)
        axes.set_ylim(0, top)
        _share_time(axes, longest, len(trace.values), rate_hz, is_first=nth == 0)
    cells[0].set_ylabel(("Hz" if rate_hz else "cycles a frame") if own else "band", color=SOFT, fontsize=9)


def draw_grid(
    rows: Sequence[Sequence[np.ndarray]],
    path: str | os.PathLike[str],
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    title: str = "",
    cell_px: int = 112,
    legend: Sequence[tuple[str, tuple[int, int, int]]] = (),
) -> Path:
    """Draw images as a labelled grid, a PNG.

    Args:
        rows: images, uint8 ``[H,W,3]`` or ``[H,W]``; each is fitted into its cell with its aspect ratio kept. Small
            images are enlarged with hard pixel edges, so that what is shown is what the model sees.
        path: the file to write.
        row_labels: a text left of each row, its further lines smaller; may be left out.
        column_labels: a text above each column; may be left out.
        title: a heading; may be left out.
        cell_px: edge of a cell, in pixels; cells are lower where all images are wider than high.
        legend: names, and what colour stands for each, below; may be left out.

    Raises:
        ValueError: there is nothing to draw, or an image has another dtype or shape.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not rows or not any(len(row) for row in rows):
        raise ValueError("draw_grid: no images given")
    heading, plain, small = (ImageFont.load_default(size=size) for size in (22, 15, 14))
    gap, margin, line_px = 8, 20, 18
    fitted = [[_fit(image, cell_px) for image in row] for row in rows]
    cell_height = max(image.height for row in fitted for image in row)
    lines = [[(text, small if n else plain) for n, text in enumerate(label.split("\n"))] for label in row_labels]
    widest = max((font.getlength(text) for label in lines for text, font in label), default=0)
    left = margin + (round(widest) + 14 if row_labels else 0)
    top = margin + (38 if title else 0) + (24 if column_labels else 0)
    columns = max(len(row) for row in rows)
    width = left + columns * (cell_px + gap) - gap + margin
    if title:
        width = max(width, round(heading.getlength(title)) + 2 * margin)
    bottom = top + len(rows) * (cell_height + gap) - gap
    entries: list[tuple[int, int, str, tuple[int, int, int]]] = []  # left, line, name, colour
    x = line = 0
    for name, colour in legend:
        wide = round(small.getlength(name)) + 40
        x, line = (0, line + 1) if x and left + x + wide > width else (x, line)
        entries.append((left + x, line, name, colour))
        x += wide
    height = bottom + ((line + 1) * 22 + gap if entries else 0) + margin

    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    if title:
        draw.text((margin, margin - 4), title, fill=INK, font=heading)
    for column, label in enumerate(column_labels):
        draw.text((left + column * (cell_px + gap), top - 8), label, fill=SOFT, font=small, anchor="ls")
    for r in range(len(rows)):
        y = top + r * (cell_height + gap)
        for n, (text, font) in enumerate(lines[r] if r < len(lines) else ()):
            middle = y + cell_height / 2 + (n - (len(lines[r]) - 1) / 2) * line_px
            draw.text((left - 14, middle), text, fill=SOFT if n else INK, font=font, anchor="rm")
        for c, image in enumerate(fitted[r]):
            x = left + c * (cell_px + gap)
            draw.rectangle((x - 1, y - 1, x + cell_px, y + cell_height), fill=FAINT)  # a frame: pictures may be white
            canvas.paste(image, (x + (cell_px - image.width) // 2, y + (cell_height - image.height) // 2))
    for x, line, name, colour in entries:
        y = bottom + gap + line * 22
        draw.rectangle((x, y + 4, x + 13, y + 17), fill=colour, outline=FAINT)
        draw.text((x + 20, y + 11), name, fill=INK, font=small, anchor="lm")
    canvas.save(path, format="PNG", optimize=True)
    return Path(path)


@dataclasses.dataclass(frozen=True)
class Word:
    """A word to be drawn, and what became of it: "same", "replaced" (it stands where another did), "inserted", "moved",
    or "deleted".
    """

    text: str
    change: str = "same"


_CHANGES = {"replaced": ORANGE, "inserted": GREEN, "moved": BLUE, "deleted": RED}
# Where a script is missing in the first, the next one that is installed draws it.
_SCRIPTS = (
    "Noto Sans CJK SC",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "Noto Sans",
    "WenQuanYi Zen Hei",
    "Arial Unicode MS",
)
_MOST_WORDS, _MOST_LETTERS = 80, 60  # shown


def draw_texts(
    rows: Sequence[Sequence[Sequence[Word]]],
    path: str | os.PathLike[str],
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    title: str = "",
) -> Path:
    """Draw texts beneath each other, a PNG: those of a row form a paragraph, and words that have changed have the
    colours that the heading explains. Of a long text the first 80 words are shown.

    Args:
        rows: texts, each a list of words.
        path: the file to write.
        row_labels: a text above each row, its further lines paler behind it; may be left out.
        column_labels: a text left of each text of a row; may be left out.
        title: a heading; may be left out.

    Raises:
        ValueError: there is nothing to draw.
        ModuleNotFoundError: matplotlib is missing.
    """
    if not rows or not all(len(row) for row in rows):
        raise ValueError("draw_texts: no texts given")
    figure = _figure(1, 1)
    figure.set_layout_engine("none")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a box stands for it: no installed font has the script
        _set_texts(figure, rows, row_labels, column_labels, title)
        figure.savefig(path, format="png", dpi=_DPI)
    return Path(path)


def _set_texts(
    figure: Any,
    rows: Sequence[Sequence[Sequence[Word]]],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    title: str,
) -> None:
    """Fills the figure, and makes it as large as that takes."""
    from matplotlib import font_manager, lines
    from matplotlib.text import Text
    from matplotlib.transforms import IdentityTransform

    installed = set(font_manager.get_font_names())
    family = ["DejaVu Sans", *(name for name in _SCRIPTS if name in installed)]
    width, margin, line, gap = 1250, 26, 25, 9  # px
    renderer, drawn, strokes, y = figure.canvas.get_renderer(), [], [], margin + 8

    def put(x: float, text: str, size: float = 10.5, color: str = INK, **how: Any) -> float:
        """Writes at a place, down from the top, and gives where it ends."""
        one = Text(x, y, text, fontfamily=family, fontsize=size, color=color, va="baseline", parse_math=False, **how)
        one.set_figure(figure)
        one.set_transform(IdentityTransform())  # pixels
        drawn.append(one)
        return x + one.get_window_extent(renderer).width

    if title:
        put(margin, title, 13, fontweight="bold")
        y += line + 4
    x: float = margin
    for change, colour in _CHANGES.items():
        end = put(x, change, 9.5, colour)
        if change == "deleted":
            strokes.append((x, end, y, colour))
        x = end + 16
    y += line + gap
    left = margin + 8 + max((put(0, label, 9) for label in column_labels), default=0)
    del drawn[len(drawn) - len(column_labels) :]
    for r, row in enumerate(rows):
        name, *further = (row_labels[r] if r < len(row_labels) else "").split("\n")
        if name:
            end = put(margin, name, fontweight="bold")
            put(end + 10, ", ".join(further), 9, SOFT)
            y += line
        for c, words in enumerate(row):
            put(margin, column_labels[c] if c < len(column_labels) else "", 9, SOFT)
            x = left
            for word in [*words[:_MOST_WORDS], *([Word("…")] if len(words) > _MOST_WORDS else [])]:
                text = word.text if len(word.text) <= _MOST_LETTERS else word.text[: _MOST_LETTERS - 1] + "…"
                colour = _CHANGES.get(word.change, INK)
                bold: Any = {} if word.change in ("same", "deleted") else {"fontweight": "bold"}
                end = put(x, text, color=colour, **bold)
                if end > width - margin and x > left:
                    drawn.pop()
                    y += line
                    x = left
                    end = put(x, text, color=colour, **bold)
                if word.change == "deleted":
                    strokes.append((x, end, y, colour))
                x = end + 5.5
            y += line
        y += gap
    height = y + margin - line
    figure.set_size_inches(width / _DPI, height / _DPI)
    for one in drawn:
        one.set_y(height - one.get_position()[1])
        figure.add_artist(one)
    for begin, end, at, colour in strokes:
        figure.add_artist(
            lines.Line2D([begin, end], [height - at + 5] * 2, color=colour, linewidth=1.1, transform=None)
        )


def tinted(image: np.ndarray, mask: np.ndarray, *, ignore: int) -> np.ndarray:
    """``image`` uint8 [H, W, 1 or 3] under the classes of ``mask`` int [H, W]: a colour each, none for class 0; what is
    to be ignored, dark. uint8 [H, W, 3].
    """
    shown = np.broadcast_to(image, (*image.shape[:2], 3)).copy()
    for index in np.unique(mask):
        at = mask == index
        if index == ignore:
            shown[at] //= 4
        elif index:
            shown[at] = (0.5 * shown[at] + 0.5 * class_colour(int(index))).astype(np.uint8)
    return shown


def class_colour(index: int) -> np.ndarray:
    """float64 [3], 0..255: what `tinted` lays over the pixels of a class from 1."""
    import colorsys

    hue = index * 0.618034 % 1  # the golden section: neighbours in number are far apart in colour
    return 255 * np.array(colorsys.hsv_to_rgb(hue, 0.9, 0.95))


def _fit(image: np.ndarray, cell_px: int) -> Image:
    """``image`` as large as fits into a square cell: exact integer multiples where it is small."""
    from PIL import Image

    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3))):
        raise ValueError(f"draw_grid: expected uint8 [H,W] or [H,W,3], got {image.dtype} {list(image.shape)}")
    picture = Image.fromarray(image.squeeze(-1) if image.ndim == 3 and image.shape[2] == 1 else image).convert("RGB")
    scale = cell_px / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    resample = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    return picture.resize(size, resample)


def _figure(width: float, height: float) -> Any:
    """An empty white figure of so many inches."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "drawing needs matplotlib; install it with: pip install 'dalipipe[demo]'", name=error.name
        ) from error
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _without_frame(axes: Any) -> None:
    axes.tick_params(colors=SOFT, length=0, labelsize=9)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _legend_above(axes: Any) -> None:
    """Beside the title, where no line is."""
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=2,
        frameon=False,
        labelcolor=INK,
        fontsize=8.5,
        borderaxespad=0.1,
        handlelength=1.4,
        columnspacing=1.2,
    )


def _share_time(axes: Any, longest: int, own: int, rate_hz: float | None, *, is_first: bool) -> None:
    """The row's scale of time, grey where this signal has ended, and the numbers of the other axis once."""
    from matplotlib.ticker import MaxNLocator

    rate = rate_hz or 1.0
    axes.set_xlim(0, max(longest, 1) / rate)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.tick_params(labelsize=8)
    if own < longest:
        axes.axvspan(own / rate, longest / rate, color=FAINT, linewidth=0)
    if not is_first:
        axes.tick_params(labelleft=False)


def _spectrogram_db(values: np.ndarray, rate_hz: float) -> np.ndarray:
    """float [bins, frames]: power of the channels' mean in dB, Hann windows of 25 ms, or an eighth of what is shorter,
    at most 400 of them.
    """
    signal = np.asarray(values, np.float64).mean(axis=1)
    window = int(np.clip(round(0.025 * rate_hz), 16, max(16, len(signal) // 8)))
    padded = np.pad(signal, window // 2)
    hop = max(1, window // 4, len(signal) // 400)
    starts = np.arange(0, max(1, len(padded) - window + 1), hop)
    padded = np.pad(padded, (0, max(0, starts[-1] + window - len(padded))))
    framed = padded[starts[:, None] + np.arange(window)] * np.hanning(window)
    power = np.abs(np.fft.rfft(framed, n=max(256, window), axis=1)) ** 2
    return 10 * np.log10(power.T + 1e-20)
