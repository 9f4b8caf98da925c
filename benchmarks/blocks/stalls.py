"""What explain says beside what is true."""

from __future__ import annotations

from blocks.base import Load, block, measured_on, outcome


@block
def explain_truth(load: Load) -> str:
    """How often delays of known length were found again."""
    result = load("explain_truth")
    if result is None:
        return "Not measured yet."
    rows = (
        ("each part of the step within 5 % of it", 0.95, result["attributed_within_5"]),
        ("the right bottleneck", 0.95, result["bottleneck_right"]),
        ("what halving a delay brings, within 10 % of the step that it then takes", 0.95, result["what_ifs_within_10"]),
    )
    lines = ["| found | wanted | measured | |", "|---|---:|---:|---|"]
    for what, goal, value in rows:
        lines.append(f"| {what} | ≥ {goal:.0%} | {value:.0%} | {'met' if value >= goal else '**short**'} |")
    low, high = result["ms"]
    words = (
        f"{result['settings']} random settings: to each of reading, decoding, augmentation and the step nothing is "
        f"added, or {low:g} to {high:g} ms a batch, always the same, varied, by bytes, or of a core's work. "
        f"{result['what_ifs']} predictions, each tried afterwards: off by {100 * result['what_if_median']:.1f} % in "
        f"the median. {measured_on(result)}."
    )
    return "\n".join([*lines, "", words])


@block
def explain_foreign(load: Load) -> str:
    """The same of torch's loader."""
    result = load("explain_foreign")
    if result is None:
        return "Not measured yet."
    rows = (
        ("compute, and all stalls, within 5 % of the step", "attributions"),
        ("the right bottleneck", "bottlenecks"),
        ("what another number of workers brings, within 10 % of the step that it then takes", "predictions"),
    )
    lines = ["| found of torch's `DataLoader` | wanted | measured | |", "|---|---:|---:|---|"]
    for what, name in rows:
        value = result[f"{name}_right"] / max(1, result.get(name, result["settings"]))
        lines.append(f"| {what} | ≥ 95% | {value:.0%} | {outcome(0.95, value)} |")
    words = (
        f"{result['settings']} random settings: delays of known length in the data set's items, a transform and the "
        f"step, none to 3 workers; {result['predictions']} predictions, each tried afterwards. {measured_on(result)}."
    )
    return "\n".join([*lines, "", words])


@block
def explain_example(load: Load) -> str:
    """A command, and the sentence that it gave."""
    result = load("explain_example")
    if result is None:
        return "Not measured yet."
    return f"```\n{result['command']}\n\n# {result['sentence']}\n```\n\nMeasured on {measured_on(result)}."
