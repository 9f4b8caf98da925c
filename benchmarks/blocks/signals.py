"""Sounds and series: speed beside other libraries, and what the recipes bring."""

from __future__ import annotations

import statistics
from typing import Any

from blocks.base import Load, block, by_seed, mean, measured_on, ours, outcome

GPU_GOAL = 50.0


@block
def signals_cpu(load: Load) -> str:
    """Sounds and series beside the libraries that augment them, and how long shifts of pitch take."""
    result = load("signals_cpu")
    if result is None:
        return "Not measured yet."
    blocks = [f"{result['what'][0].upper()}{result['what'][1:]}; {result['signals']}."]
    for task, measured in result["tasks"].items():
        blocks.append(_signal_task(task, measured))
    lines = [
        "| a clip's pitch shifted by −12…12 semitones, one core | least, ms | median | most |",
        "|---|---:|---:|---:|",
    ]
    for name, by_semitones in result["pitch_spread"].items():
        times = list(by_semitones.values())
        shown = f"{min(times):.2f} | {statistics.median(times):.2f} | {max(times):.2f}"
        few = f", {len(times)} of the 25 whole steps" if len(times) < 25 else ""
        lines.append(f"| {ours(name)}{few} | {shown} |")
    blocks.append("\n".join(lines))
    absent = "; ".join(f"{name} ({why})" for name, why in result["absent"].items())
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    blocks.append(
        f"Medians of {result['rounds']} interleaved rounds; factors are medians of the rounds' own."
        f"{f' Absent: {absent}.' if absent else ''} The others' Python has {versions}. {measured_on(result)}."
    )
    return "\n\n".join(blocks)


def _signal_task(task: str, measured: dict[str, Any]) -> str:
    """A row a contender: on one core; and on two, in threads or processes, whichever was faster."""
    rates: dict[str, dict[str, float]] = {}
    for name, timing in measured["contenders"].items():
        contender, _, way = name.rpartition(", ")
        rates.setdefault(contender, {})[way] = timing["per_s"]
    unit = "series" if "slice" in task else "clips"
    lines = [f"| {task} | {unit}/s, one core | dalipipe is | two cores | dalipipe is |", "|---|---:|---:|---:|---:|"]
    for contender, ways in sorted(rates.items(), key=lambda item: -max(item[1].values())):
        one = ways.pop("1 core")
        two = max(ways, key=lambda way: ways[way])
        over = [measured["ratios"].get(f"{contender}, {way}") for way in ("1 core", two)]
        first, second = ("" if factor is None else f"{factor:.1f}×" for factor in over)
        lines.append(f"| {ours(contender)} | {one:,.0f} | {first} | {ways[two]:,.0f} ({two}) | {second} |")
    return "\n".join(lines)


@block
def signals_gpu(load: Load) -> str:
    """Signals on a CUDA device, beside the best that peers do on two CPU cores."""
    result = load("signals_gpu")
    if result is None:
        return "Not measured yet."
    beside = load("signals_cpu")
    lines = ["| signals a second | on the device alone | drawn and augmented | µs to draw |", "|---|---:|---:|---:|"]
    lines += [
        f"| {task} | {row['device_per_s']:,.0f} | {row['per_s']:,.0f} | {row['draw_us']:.1f} |"
        for task, row in result["tasks"].items()
    ]
    found = [
        f"{task} {row['per_s'] / best:.0f}×, {outcome(GPU_GOAL, row['per_s'] / best)}"
        for task, row in result["tasks"].items()
        if (best := _best_peer(beside, row["peer"])) is not None
    ]
    goal = f" Times the best peer on two CPU cores ({GPU_GOAL:.0f} wanted): {'; '.join(found)}." if found else ""
    what = result["what"][0].upper() + result["what"][1:]
    return "\n".join([f"{what}.", "", *lines, "", f"Medians.{goal} {measured_on(result)}."])


def _best_peer(result: dict[str, Any] | None, task: str | None) -> float | None:
    """What the best of the others does, a second."""
    if result is None or task is None:
        return None
    contenders = result["tasks"][task]["contenders"]
    return max((timing["per_s"] for name, timing in contenders.items() if "dalipipe" not in name), default=None)


@block
def signal_accuracy(load: Load) -> str:
    """What the recipes for sounds and series bring, by data set; differences are of the same seed."""
    result = load("signal_accuracy")
    if result is None:
        return "Not measured yet."
    settings, tasks = result["settings"], list(dict.fromkeys(one["task"] for one in result["runs"]))
    speakers = [task for task in tasks if task.startswith("digits of ")]
    parts = {"spoken digits of a speaker not heard before": speakers} if speakers else {}
    parts |= {task: [task] for task in tasks if task not in speakers}
    lines = [
        "| test accuracy, % | without | recipe | recipe minus without, points | training accuracy, % | seeds |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for shown, part in parts.items():
        without, recipe = (by_seed(result, part, arm, "accuracy") for arm in ("none", "recipe"))
        seeds = sorted(set(without) & set(recipe))
        if len(seeds) < 2:
            continue
        gain = mean([recipe[seed] - without[seed] for seed in seeds], "+")
        fitted = [statistics.mean(by_seed(result, part, arm, "train_accuracy").values()) for arm in ("none", "recipe")]
        values = " | ".join(mean([arm[seed] for seed in seeds]) for arm in (without, recipe))
        lines.append(f"| {shown} | {values} | {gain} | {fitted[0]:.1f}, {fitted[1]:.1f} | {len(seeds)} |")
    words = []
    if speakers:
        gains = []
        for task in speakers:
            without, recipe = (by_seed(result, [task], arm, "accuracy") for arm in ("none", "recipe"))
            both = set(without) & set(recipe)
            if both:
                gain = statistics.mean(recipe[seed] - without[seed] for seed in both)
                gains.append(f"{task.removeprefix('digits of ')} {gain:+.1f}")
        words.append(f"Points that the recipe brings, by the speaker who is tested: {', '.join(gains)}.")
    minutes = sum(one["cpu_s"] for one in result["runs"]) / 60
    words.append(
        f"Digits: LogMelCNN of width {settings['width'][0]}, {settings['steps'][0]} steps, one value a seed, the mean "
        f"over speakers; series: one InceptionTime network of width {settings['width'][1]}, {settings['steps'][1]} "
        f"steps; batches of {settings['batch_size']}, AdamW, one cycle. ± is the standard error over seeds (initial "
        f"weights, order, augmentation), of differences over their own. All of it took {minutes:.0f} processor "
        f"minutes. {measured_on(result)}."
    )
    return "\n".join([*lines, "", *words])
