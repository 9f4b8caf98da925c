"""What was found out about a training step, as one HTML file: charts drawn here, nothing loaded from anywhere.

Strips of the charts are SVGs as wide as the window, with positions in percent and everything else in pixels: so they
stretch and their text does not. The file is well-formed XML, too.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from dalipipe.stalls.explanation import Explanation, StageAlone, WhatIf, add_up, digits_of
from dalipipe.stalls.report import MEANINGS, change, in_ms, interval, model_check, rate, size
from dalipipe.stalls.style import STYLE

_MOST_POINTS = 400  # of a line of steps' times
_RUNS = {
    "compute": ("One batch, on the device", "nothing to wait for: what is left is computing"),
    "host": ("One batch, in the host's memory", "what this adds is the copy"),
    "pinned": ("One batch, in pinned memory", "what this adds is the copy from there"),
    "cached": ("Real data, files in memory", "what this adds is the prep stall"),
    "cold": ("Real data, read anew", "what this adds is the fetch stall: your training"),
}
_CLASSES = {"compute": "compute", "prep stall": "prep", "fetch stall": "fetch", "copy": "copied"}
_CLASS_OF_BOUND = {"step": "compute", "read": "fetch"}
_CLASS_OF_RUN = {"compute": "compute", "host": "copied", "pinned": "copied", "cached": "prep", "cold": "fetch"}


def write_page(explanation: Explanation, path: str | os.PathLike[str], *, title: str = "") -> Path:
    """Write it as one HTML file that needs nothing else, for light and dark screens of any width.

    ``title``: what was explained: data, policy and model, say. Raises ``OSError`` where the file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(explanation, title=title), encoding="utf-8")
    return path


def page(explanation: Explanation, *, title: str = "") -> str:
    """The HTML that `write_page` writes."""
    heading = title or str(explanation.loader.get("kind", "a loader"))
    sections = (
        _where_time_goes(explanation),
        _what_would_help(explanation),
        _stages_alone(explanation),
        _at_work(explanation),
        _every_step(explanation),
        _figures(explanation),
        _how_to_read(explanation),
        _setting(explanation),
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'"/>
<title>{escape(heading)}: where a step's time goes</title>
<style>
{STYLE}</style>
</head>
<body>
<main>
<header>
<p class="over">dalipipe explain · {escape(heading)}</p>
{_lead(explanation)}
</header>
{"".join(sections)}</main>
</body>
</html>
"""


def _lead(explanation: Explanation) -> str:
    what, why = str(explanation).split(" → ", 1)
    kind = _CLASS_OF_BOUND.get(explanation.bottleneck, "prep")
    return f'<h1>{escape(what)} <span class="{kind}">→ {escape(why)}</span></h1>'


# Sections -----------------------------------------------------------------------------------------------------------


def _where_time_goes(explanation: Explanation) -> str:
    step = explanation.step_ms.value
    total, *values = add_up(step, [span.value for _, span in explanation.parts], digits_of(step))
    at, pieces, rows = 0.0, [], []
    for (name, span), value in zip(explanation.parts, values, strict=True):
        share = 100 * span.value / max(step, 1e-12)
        told = f"{name}: {value} ms, {share:.0f} %"
        if share > 0:
            pieces.append(_rect(at, share, 44, _CLASSES[name], told))
        at += share
        rows.append(
            f'<tr><th scope="row"><i class="key {_CLASSES[name]}"></i>{name}</th><td class="number">{value} ms</td>'
            f'<td class="number soft">{interval(span, step)}</td><td class="number">{share:.0f} %</td>'
            f'<td class="soft meaning">{MEANINGS[name]}</td></tr>'
        )
    return _section(
        "Where the step's time goes",
        f'<div class="whole">{_svg(44, pieces, f"step {total} ms, its parts")}</div>'
        f'<div class="scroll"><table class="parts"><thead><tr><th></th><th class="number">time</th>'
        f'<th class="number">95 % interval</th><th class="number">share</th><th></th></tr></thead><tbody>'
        f'{"".join(rows)}</tbody><tfoot><tr><th scope="row">step</th><td class="number">{total} ms</td>'
        f'<td class="number soft">{interval(explanation.step_ms, step)}</td><td></td><td></td></tr></tfoot>'
        "</table></div>",
    )


def _what_would_help(explanation: Explanation) -> str:
    if not explanation.what_ifs:
        return ""
    step, compute = explanation.step_ms.value, explanation.compute_ms.value
    highest = max(step, *(what_if.step_ms.high for what_if in explanation.what_ifs))
    axis = _Axis(1.04 * highest)
    rows = [_what_if(what_if, explanation, axis) for what_if in explanation.what_ifs]
    note = (
        f'<p class="marks"><span><i class="mark"></i>the step as it is, {in_ms(step, step)}</span>'
        f'<span><i class="mark faint"></i>computing alone, {in_ms(compute, step)}: no loader goes below</span>'
        '<span><i class="dot"></i>tried</span><span><i class="dot hollow"></i>calculated</span></p>'
    )
    return _section("What would help", note + _chart([*rows, axis.row("ms a step")]))


def _what_if(what_if: WhatIf, explanation: Explanation, axis: _Axis) -> str:
    step, span = explanation.step_ms.value, what_if.step_ms
    helps = "good" if explanation.helps(what_if) else "plain"
    told = f"{what_if.name}: {in_ms(span.value, step)}, between {interval(span, step)} ms; {what_if.basis}"
    low, high, middle = axis.at(span.low), axis.at(span.high), axis.at(span.value)
    pieces = [
        axis.line(explanation.compute_ms.value, "faint"),
        axis.line(step, "mark"),
        f'<line class="range {helps}" x1="{low:.2f}%" x2="{high:.2f}%" y1="50%" y2="50%"/>',
        f'<circle class="dot {helps}{"" if what_if.basis == "tried" else " hollow"}" cx="{middle:.2f}%" cy="50%" r="5">'
        f"<title>{escape(told)}</title></circle>",
    ]
    name = f'{escape(what_if.name)}<small class="soft">{what_if.basis}: <code>{escape(what_if.how)}</code></small>'
    return _row(name, _svg(30, pieces, told), f"{in_ms(span.value, step)}<small>{change(span, step)}</small>")


def _stages_alone(explanation: Explanation) -> str:
    if not explanation.stages:
        return ""
    demand = _demand(explanation)
    shown = [(stage, 1e3 * demand.samples / max(stage.samples_per_s, 1e-9)) for stage in explanation.stages]
    axis = _Axis(1.06 * max(demand.ms, *(takes for _, takes in shown)))
    rows = []
    for stage, takes in shown:
        bound = stage.name == explanation.bottleneck
        told = f"{stage.name}: {takes:.{digits_of(takes)}f} ms a batch, {rate(stage.samples_per_s)} samples/s"
        kind = "step" if stage.name == "step" else "bound" if bound else "stage"
        pieces = [_rect(0, axis.at(takes), 18, kind, told)]
        if stage.p50_ms > 0:
            far = min(100.0, axis.at(takes * stage.p99_ms / stage.p50_ms))
            pieces.append(f'<line class="tail" x1="{axis.at(takes):.2f}%" x2="{far:.2f}%" y1="50%" y2="50%"/>')
        pieces.append(axis.line(demand.ms, "mark"))
        name = escape(stage.name) + ('<small class="soft">the bottleneck</small>' if bound else "")
        rows.append(_row(name, _svg(30, pieces, told), f"{rate(stage.samples_per_s)}<small>samples/s</small>"))
    note = (
        f'<p class="marks"><span><i class="mark"></i>what the step asks for: a batch every '
        f"{in_ms(demand.ms, demand.ms)}, {rate(demand.per_s)} samples/s</span>"
        '<span><i class="tail"></i>up to p99</span></p>'
    )
    return _section(
        "What each stage can do by itself",
        note + _chart([*rows, axis.row("ms a batch")]),
        "The time a batch takes while nothing else is at work, with all threads that the stage has. A bar that passes "
        "the line cannot keep up with the step; bars that share the processor must fit beside each other.",
    )


def _at_work(explanation: Explanation) -> str:
    if not explanation.stages:
        return ""
    rows = []
    for stage in explanation.stages:
        share = 100 * min(1.0, max(0.0, stage.occupancy))
        told = f"{stage.name}: at work in {share:.0f} % of the time"
        kind = "step" if stage.name == "step" else "bound" if stage.name == explanation.bottleneck else "stage"
        pieces = [_rect(0, 100, 10, "track", told), _rect(0, share, 10, kind, told)]
        queue = "" if stage.queue is None else f"<small>{stage.queue:.1f} waiting</small>"
        rows.append(_row(escape(stage.name), _svg(26, pieces, told), f"{share:.0f} %{queue}"))
    return _section(
        "Who is at work, and what waits",
        _chart(rows),
        "Share of the training's time in which a stage works. “Waiting” counts batches that it has finished and that "
        "nobody has taken on: a queue that is full stands before a bottleneck, an empty one behind it.",
    )


def _every_step(explanation: Explanation) -> str:
    known = [*(name for name in _RUNS if name in explanation.steps_ms), *explanation.steps_ms]
    runs = {name: np.asarray(explanation.steps_ms[name], float) for name in known if explanation.steps_ms[name]}
    if not runs:
        return ""
    together = np.concatenate(list(runs.values()))
    top = _Axis(max(1e-6, min(float(together.max()), 1.4 * float(np.quantile(together, 0.98))))).top
    panels = []
    for name, times in runs.items():
        heading, meaning = _RUNS.get(name, (name, ""))
        middle, late = np.quantile(times, [0.5, 0.99])
        over = int((times > top).sum())
        cut = f"; {over} beyond the picture, up to {in_ms(float(times.max()), top)}" if over else ""
        label = f"{heading}: {len(times)} steps, p50 {in_ms(middle, top)}, p99 {in_ms(late, top)}{cut}"
        level = 100 - 100 * min(middle, top) / top
        panels.append(
            f'<figure><figcaption><b>{escape(heading)}</b> <span class="soft">{escape(meaning)}</span><br/>'
            f"p50 {in_ms(middle, top)} · p99 {in_ms(late, top)}"
            f'<span class="soft"> · {len(times)} steps{cut}</span></figcaption>'
            f'<div class="plot"><div class="scale"><span>{in_ms(top, top)}</span><span>0</span></div>'
            f'<svg class="steps" viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" '
            f'aria-label="{escape(label)}"><title>{escape(label)}</title>'
            f'<line class="level" x1="0" x2="1000" y1="{level:.1f}" y2="{level:.1f}"/>'
            f'<polyline class="{_CLASS_OF_RUN.get(name, "stage")}" points="{_points(times, top)}"/>'
            "</svg></div></figure>"
        )
    return _section("Every step", f'<div class="panels">{"".join(panels)}</div>')


def _figures(explanation: Explanation) -> str:
    step = explanation.step_ms.value
    stages = "".join(
        f'<tr><th scope="row">{escape(stage.name)}</th>'
        + _numbers(
            rate(stage.samples_per_s),
            f"{stage.p50_ms:.{digits_of(stage.p50_ms)}f}",
            f"{stage.p99_ms:.{digits_of(stage.p99_ms)}f}",
            "–" if stage.cpu_ms is None else f"{stage.cpu_ms:.{digits_of(stage.cpu_ms)}f}",
            f"{100 * stage.occupancy:.0f} %",
            "–" if stage.queue is None else f"{stage.queue:.1f}",
            size(stage.batch_bytes) or "–",
        )
        + "</tr>"
        for stage in explanation.stages
    )
    what_ifs = "".join(
        f'<tr><th scope="row">{escape(what_if.name)}</th>'
        + _numbers(
            in_ms(what_if.step_ms.value, step),
            interval(what_if.step_ms, step),
            change(what_if.step_ms, step),
            what_if.basis,
        )
        + f'<td class="soft">{escape(what_if.how)}</td></tr>'
        for what_if in explanation.what_ifs
    )
    return _section(
        "All figures",
        _table(
            ("stage alone", "samples/s", "p50 ms", "p99 ms", "CPU ms", "at work", "waiting", "bytes a batch"), stages
        )
        + _table(("what if", "step", "95 % interval", "change", "basis", "how"), what_ifs),
    )


def _how_to_read(explanation: Explanation) -> str:
    texts = (
        "<b>compute</b> is the step on one batch that lies on the device, again and again. <b>copy</b> is what it "
        "takes longer where that batch must be brought there. <b>prep stall</b> is what real data add while their "
        "files are in memory: decoding and augmentation that do not keep up. <b>fetch stall</b> is what reading them "
        "anew adds. The four add up to the step. (Mohan et al., Analyzing and mitigating data stalls in DNN training, "
        "VLDB 2021.)",
        "Without a stall the loader keeps up, and only computing faster helps. A <b>prep stall</b> wants more cores, "
        "less work (packing, a cache, smaller pictures) or another decoder. A <b>fetch stall</b> wants files closer, "
        "in larger pieces, or kept in memory.",
        "Stages work at the same time, so their times do not add up: the slowest, with what it shares the processor "
        "with, sets the pace.",
        escape(model_check(explanation)) + " Intervals hold 95 %, and contain how far the model was off. What was "
        "<i>tried</i> was measured on these data, stage by stage; what is <i>calculated</i> was not.",
    )
    return _section("How to read this", "".join(f"<p>{text}</p>" for text in texts))


def _setting(explanation: Explanation) -> str:
    tables = "".join(
        f"<table><caption>{caption}</caption><tbody>"
        + "".join(
            f'<tr><th scope="row">{escape(str(key))}</th><td>{escape(_shown(value))}</td></tr>'
            for key, value in facts.items()
        )
        + "</tbody></table>"
        for caption, facts in (("The loader", explanation.loader), ("The machine", explanation.machine))
        if facts
    )
    return _section("Measured with", f'<div class="facts">{tables}</div>') if tables else ""


# Parts of them ------------------------------------------------------------------------------------------------------


class _Axis:
    """From 0 to a round number that is at least ``needed``."""

    def __init__(self, needed: float) -> None:
        needed = max(needed, 1e-6)
        unit = 10.0 ** math.floor(math.log10(needed))
        self.tick = next(step * unit for step in (0.2, 0.5, 1, 2) if needed / (step * unit) <= 5.5)
        self.top = needed

    def at(self, value: float) -> float:
        """Percent of the width."""
        return 100 * min(1.0, max(0.0, value / self.top))

    def line(self, value: float, kind: str) -> str:
        at = self.at(value)
        return f'<line class="{kind}" x1="{at:.2f}%" x2="{at:.2f}%" y1="0" y2="100%"/>'

    def row(self, unit: str) -> str:
        """The scale, beneath the strips."""
        marks = []
        for count in range(int(self.top / self.tick) + 1):
            value = count * self.tick
            anchor = "start" if count == 0 else "end" if self.at(value) > 94 else "middle"
            marks.append(
                f'<line class="tick" x1="{self.at(value):.2f}%" x2="{self.at(value):.2f}%" y1="0" y2="4"/>'
                f'<text x="{self.at(value):.2f}%" y="17" text-anchor="{anchor}">{value:.4g}</text>'
            )
        strip = f'<svg width="100%" height="22" aria-hidden="true">{"".join(marks)}</svg>'
        return f'<div class="row axis"><div class="strip">{strip}</div><div class="value soft">{unit}</div></div>'


class _Demand:
    """What the step asks of the loader."""

    def __init__(self, per_s: float, ms: float) -> None:
        self.per_s, self.ms, self.samples = per_s, ms, per_s * ms / 1e3


def _demand(explanation: Explanation) -> _Demand:
    step: StageAlone | None = next((stage for stage in explanation.stages if stage.name == "step"), None)
    ms = max(explanation.compute_ms.value, 1e-6)
    samples = float(explanation.loader.get("batch_size") or 0) or (0 if step is None else step.samples_per_s * ms / 1e3)
    return _Demand(max(samples, 1e-9) / ms * 1e3, ms)


def _section(heading: str, body: str, note: str = "") -> str:
    below = f'<p class="soft note">{note}</p>' if note else ""
    return f"<section>\n<h2>{heading}</h2>\n{body}{below}\n</section>\n"


def _chart(rows: Iterable[str]) -> str:
    return f'<div class="chart">{"".join(rows)}</div>'


def _row(name: str, strip: str, value: str) -> str:
    return (
        f'<div class="row"><div class="name">{name}</div><div class="strip">{strip}</div>'
        f'<div class="value">{value}</div></div>'
    )


def _svg(height: int, pieces: Sequence[str], label: str) -> str:
    return f'<svg width="100%" height="{height}" role="img" aria-label="{escape(label)}">{"".join(pieces)}</svg>'


def _rect(x: float, width: float, height: int, kind: str, told: str) -> str:
    """Halfway down."""
    return (
        f'<rect class="{kind}" x="{x:.2f}%" width="{width:.2f}%" y="50%" height="{height}" '
        f'transform="translate(0 {-height / 2:g})">'
        f"<title>{escape(told)}</title></rect>"
    )


def _points(times: np.ndarray, top: float) -> str:
    """A line through all of them; of many, through the lowest and the highest of each few neighbours."""
    at = np.arange(len(times))
    if len(times) > _MOST_POINTS:
        groups = np.array_split(at, _MOST_POINTS // 2)
        at = np.array([pick for group in groups for pick in sorted((_lowest(times, group), _highest(times, group)))])
    x = 1000 * (at + 0.5) / len(times)
    y = 100 - 100 * np.clip(times[at] / top, 0, 1)
    return " ".join(f"{across:.1f},{down:.1f}" for across, down in zip(x, y, strict=True))


def _lowest(times: np.ndarray, group: np.ndarray) -> int:
    return int(group[times[group].argmin()])


def _highest(times: np.ndarray, group: np.ndarray) -> int:
    return int(group[times[group].argmax()])


def _table(headings: Sequence[str], rows: str) -> str:
    if not rows:
        return ""
    heads = "".join(
        f'<th scope="col" class="{"text" if heading in (headings[0], "how") else "number"}">{heading}</th>'
        for heading in headings
    )
    return (
        f'<div class="scroll"><table class="figures"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _numbers(*values: str) -> str:
    return "".join(f'<td class="number">{escape(value)}</td>' for value in values)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(one)}" for key, one in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_shown(one) for one in value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return "–" if value is None else str(value)
