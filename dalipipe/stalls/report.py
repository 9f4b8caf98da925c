"""What was found out about a training step, on a terminal: the sentence, and tables of what it rests on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dalipipe.stalls.explanation import Explanation, Span, add_up, digits_of

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MEANINGS = {
    "compute": "on a batch that lies on the device",
    "prep stall": "waiting for decoding and augmentation, files being in memory",
    "fetch stall": "waiting for files",
    "copy": "bringing batches to the device",
}
_COLOURS = {"compute": "blue", "prep stall": "yellow", "fetch stall": "red", "copy": "bright_black"}
_BAR = 28


def show(explanation: Explanation, console: Console) -> None:
    """Print the sentence, and tables: the step's parts, the stages by themselves, what would help."""
    from rich.text import Text

    console.print(Text(str(explanation), "bold"), soft_wrap=True)
    for table in (_parts(explanation), _stages(explanation), _what_ifs(explanation)):
        if table.row_count:
            console.print()
            console.print(table)
    console.print()
    console.print(Text(model_check(explanation), "dim"), soft_wrap=True)


def model_check(explanation: Explanation) -> str:
    """How far what is predicted is to be trusted."""
    step, predicted = explanation.step_ms.value, explanation.predicted_ms
    said = (
        f"Predictions come from a model of the pipeline, which says {in_ms(predicted, step)} of the step as it is, "
        f"where {in_ms(step, step)} were measured: it is {100 * explanation.model_off:.0f} % off."
    )
    if explanation.crowded:
        said += (
            f" The step had to wait for cores ({explanation.queued:.1f} threads on average): other processes were at "
            "work, or it has more threads than there are cores, so take the figures with care."
        )
    return said


def in_ms(value: float, like: float) -> str:
    """As many digits as a time like that one has."""
    return f"{value:.{digits_of(like)}f} ms"


def interval(span: Span, like: float) -> str:
    digits = digits_of(like)
    return f"{span.low:.{digits}f} to {span.high:.{digits}f}"


def rate(samples_per_s: float) -> str:
    """Samples a second, for people."""
    return f"{samples_per_s:,.0f}" if samples_per_s >= 100 else f"{samples_per_s:.3g}"


def size(nbytes: int | None) -> str:
    """Bytes, for people; nothing where they are not known."""
    if nbytes is None:
        return ""
    value, units = float(nbytes), ["B", "KiB", "MiB", "GiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" or value >= 100 else f"{value:.1f} {units[0]}"


def change(span: Span, step_ms: float) -> str:
    """What a predicted time is beside the step as it is."""
    share = span.value / max(step_ms, 1e-12) - 1
    return "as it is" if abs(share) < 0.005 else f"{100 * share:+.0f} %".replace("-", "−")


def _parts(explanation: Explanation) -> Table:
    from rich.text import Text

    table = _table("the step", "ms", "95 %", "share", "")
    step = explanation.step_ms.value
    total, *values = add_up(step, [span.value for _, span in explanation.parts], digits_of(step))
    for (name, span), value in zip(explanation.parts, values, strict=True):
        share = span.value / max(step, 1e-12)
        bar = Text("█" * round(_BAR * share), _COLOURS[name])
        table.add_row(name, value, interval(span, step), f"{100 * share:.0f} %", bar)
    table.add_row("step", total, interval(explanation.step_ms, step), "", "", style="bold")
    return table


def _stages(explanation: Explanation) -> Table:
    headings = ("stage\nalone", "samples\n/s", "p50\nms", "p99\nms", "CPU\nms", "at\nwork", "ready", "bytes", "")
    table = _table(*headings, wraps=False)  # so that all of it goes on 80 columns
    for stage in explanation.stages:
        bound = stage.name == explanation.bottleneck
        table.add_row(
            stage.name,
            rate(stage.samples_per_s),
            f"{stage.p50_ms:.{digits_of(stage.p50_ms)}f}",
            f"{stage.p99_ms:.{digits_of(stage.p99_ms)}f}",
            "" if stage.cpu_ms is None else f"{stage.cpu_ms:.{digits_of(stage.cpu_ms)}f}",
            f"{100 * stage.occupancy:.0f} %",
            "" if stage.queue is None else f"{stage.queue:.1f}",
            size(stage.batch_bytes),
            "←" if bound else "",
            style="bold" if bound else None,
        )
    return table


def _what_ifs(explanation: Explanation) -> Table:
    from rich.text import Text

    step = explanation.step_ms.value
    table = _table("what if", "step, ms", "95 %", "change", "")
    for what_if in explanation.what_ifs:
        table.add_row(
            Text(what_if.name),
            f"{what_if.step_ms.value:.{digits_of(step)}f}",
            interval(what_if.step_ms, step),
            change(what_if.step_ms, step),
            Text(f"{what_if.basis}: {what_if.how}", "dim"),
            style="green" if explanation.helps(what_if) else None,
        )
    return table


def _table(*headings: str, wraps: bool = True) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for heading in headings:
        left = heading in (headings[0], "")
        table.add_column(heading, justify="left" if left else "right", no_wrap=not (left and wraps), overflow="fold")
    return table
