"""Charts of gpu_report.py's results, in one PNG."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dalipipe.figures import BLUE, FAINT, GREEN, INK, ORANGE, RED, SOFT, _figure, _without_frame

Draw = Callable[[Any], None]
_PARTS = {"compute_ms": BLUE, "prep_stall_ms": ORANGE, "fetch_stall_ms": RED, "copy_ms": SOFT}


def draw(result: dict[str, Any], folder: Path) -> list[str]:
    """Draws what there is into ``folder``; gives the names of the files, relative to it."""
    parts = result["parts"]
    charts: list[tuple[str, int, Draw]] = []  # a title, how many bars, what draws them
    kernels = {name: row for name, row in parts.get("roofline", {}).get("kernels", {}).items() if row["of_copy"]}
    if kernels:
        copy = parts["roofline"]["copy_gb_per_s"]
        title = f"Kernels: share of what a copy within the device moves ({copy:,.0f} GB/s)"
        charts.append((title, len(kernels), lambda axes: shares(axes, kernels)))
    for part, title in (("loaders", "Loaders: images/s"), ("cifar", "32 px: images/s")):
        contenders = parts.get(part, {}).get("contenders", {})
        if contenders:
            charts.append((title, len(contenders), lambda axes, found=contenders: rates(axes, found)))
    runs = parts.get("stalls", {}).get("runs", {})
    if runs:
        charts.append(("Training: ms a step", len(runs), lambda axes: steps(axes, runs)))
    if not charts:
        return []
    heights = [0.9 + 0.27 * count for _, count, _ in charts]
    figure = _figure(9.0, sum(heights))
    figure.get_layout_engine().set(h_pad=0.14)
    all_axes = figure.subplots(len(charts), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axes, (title, _, chart) in zip(all_axes, charts, strict=True):
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
        axes.grid(True, axis="x", color=FAINT, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.margins(y=0.02)
        chart(axes)
        _without_frame(axes)
        axes.tick_params(axis="y", labelcolor=INK)
    figure.savefig(folder / "gpu_report.png", format="png")
    return ["gpu_report.png"]


def shares(axes: Any, kernels: dict[str, Any]) -> None:
    from matplotlib.ticker import PercentFormatter

    names = list(kernels)[::-1]
    values = [kernels[name]["of_copy"] for name in names]
    bars = axes.barh(names, values, color=[GREEN if name.startswith("decoder") else BLUE for name in names], height=0.7)
    axes.bar_label(bars, [f"{value:.0%}" for value in values], padding=4, fontsize=8, color=SOFT)
    axes.set_xlim(0, 1.08 * max(1.0, *values) if max(values) > 0.5 else 1.2 * max(values))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def rates(axes: Any, contenders: dict[str, Any]) -> None:
    from matplotlib.ticker import FuncFormatter

    names = sorted(contenders, key=lambda name: contenders[name]["per_s"])
    values = [contenders[name]["per_s"] for name in names]
    bars = axes.barh(names, values, color=[BLUE if name.startswith("dalipipe") else SOFT for name in names], height=0.7)
    axes.bar_label(bars, [f"{value:,.0f}" for value in values], padding=4, fontsize=8, color=SOFT)
    axes.set_xlim(0, 1.15 * max(values))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def steps(axes: Any, runs: dict[str, Any]) -> None:
    names = list(runs)[::-1]
    ends = [0.0] * len(names)
    for part, colour in _PARTS.items():
        values = [runs[name][part]["value"] for name in names]
        axes.barh(names, values, left=ends, color=colour, height=0.7, label=part.removesuffix("_ms").replace("_", " "))
        ends = [a + b for a, b in zip(ends, values, strict=True)]
    axes.set_xlim(0, 1.1 * max(ends))
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=4,
        frameon=False,
        fontsize=8.5,
        labelcolor=INK,
        borderaxespad=0.1,
    )
