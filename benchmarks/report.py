"""Writes the tables in README.md and docs/ from results/*.json, between markers; ``--check`` fails where they differ.

    python benchmarks/report.py [--check]

A block begins ``<!-- results: NAME -->`` and ends ``<!-- end -->``; NAME is a function below.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (
    "README.md",
    "docs/decoding.md",
    "docs/finetuning.md",
    "docs/operators.md",
    "docs/scale.md",
    "docs/signals.md",
    "docs/text.md",
)

RECIPE_GOAL = 3.0
GPU_GOAL = 50.0
LIBRARIES = ("torchvision", "kornia", "albumentations")

Load = Callable[[str], "dict[str, Any] | None"]


def _load(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def _measured_on(result: dict[str, Any]) -> str:
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if name != "dalipipe")
    processor = machine["gpu"] or f"{machine['cores']} cores of an {machine['cpu']} ({machine['simd']})"
    return f"{machine['date']}; {processor}; {versions}"


def loaders_cpu(load: Load) -> str:
    """Whole loaders beside each other, and the goals that they were built for."""
    result = load("loaders_cpu")
    if result is None:
        return "Not measured yet."
    ours = result["contenders"]["dalipipe"]
    lines = ["| loader | images/s | CPU ms an image | dalipipe is |", "|---|---:|---:|---:|"]
    rows = sorted(result["contenders"].items(), key=lambda item: -item[1]["per_s"])
    for name, timing in rows:
        factor = "" if timing is ours else f"{result['ratios'][f'over {name}']:.2f}×"
        shown = f"**{name}**" if timing is ours else name
        lines.append(f"| {shown} | {timing['per_s']:,.0f} | {timing['cpu_ms']:.2f} | {factor} |")
    first = f"{result['what']}, {result['workers']} workers or threads each; {result['images']}."
    rounds = len(ours["rounds"])
    return "\n".join(
        [
            first[0].upper() + first[1:],
            "",
            *lines,
            "",
            f"Medians of {rounds} interleaved rounds; factors are medians of the rounds' own. {_measured_on(result)}.",
        ]
    )


def goals_cpu(load: Load) -> str:
    """Each goal beside what was measured: met, or said plainly that it was not."""
    loaders, fused, memory = load("loaders_cpu"), load("fused_image_cpu"), load("memory_cpu")
    goals: list[tuple[str, str, str, bool]] = []
    if loaders:
        ratios = loaders["ratios"]
        for goal, name in ((1.9, loaders["best_torch"]), (2.5, "Pillow, DataLoader"), (1.6, "DALI's own CPU pipeline")):
            value = ratios[f"over {name}"]
            goals.append((f"times {name}", f"≥ {goal}", f"{value:.2f}", value >= goal))
        value = ratios["over DALI's ROI decoding alone"]
        goals.append(("share of DALI's bare ROI decoding rate", "≥ 80 %", f"{value:.0%}", value >= 0.8))
    if fused:
        value = fused["us_per_image"]
        goals.append(("fused operator, 315×315 → 224×224, one core", "≤ 120 µs", f"{value:.0f} µs", value <= 120))
    if memory:
        for what, key in (("the loader's own buffers", "buffers_mb"), ("the process's peak memory", "resident_mb")):
            epochs = memory[key]
            value = max(epochs[2:]) / epochs[1] - 1
            goals.append((f"growth of {what}, from the second epoch on", "< 3 %", f"{value:+.1%}", value < 0.03))
    lines = ["| goal | wanted | measured | |", "|---|---:|---:|---|"]
    lines += [f"| {what} | {want} | {got} | {'met' if met else '**short**'} |" for what, want, got, met in goals]
    if memory:
        alone = memory["dali_decoding_alone_mb"]
        lines += [
            "",
            "DALI's decoder keeps a buffer per place in the batch, as large as its largest crop so far: "
            f"by itself it goes from {alone[1]:.0f} MiB in epoch 2 to {alone[-1]:.0f} in epoch {len(alone)}.",
        ]
    return "\n".join(lines)


def sources_cpu(load: Load) -> str:
    """What the sources and the handling of faults cost beside a plain folder, and a million files from the start."""
    sources, million = load("sources_cpu"), load("million_cpu")
    lines: list[str] = []
    if sources:
        lines += ["| source | images/s | beside the folder |", "|---|---:|---:|"]
        for name, timing in sources["contenders"].items():
            factor = f"{sources['over_folder'][name]:.2f}×" if name in sources["over_folder"] else ""
            lines.append(f"| {name} | {timing['per_s']:,.0f} | {factor} |")
        rounds = len(sources["contenders"]["folder"]["rounds"])
        lines += ["", f"The same work; {sources['images']}; {rounds} interleaved rounds. {_measured_on(sources)}."]
    if million:
        first, later = million["first_time"], million["later"]
        lines += [
            "",
            f"A million files in a thousand folders: listed in {first['index_s']:.1f} s the first time, "
            f"{later['index_s']:.2f} s after that; in a new process the first batch is there "
            f"{later['index_to_first_batch_s']:.2f} s after the imports.",
        ]
    return "\n".join(lines) or "Not measured yet."


def policies_cpu(load: Load) -> str:
    """DeiT's recipe beside torchvision's and timm's, and the goal it was built for."""
    result = load("policies_cpu")
    if result is None:
        return "Not measured yet."
    lines = ["| DeiT's recipe | images/s | CPU ms an image | dalipipe is |", "|---|---:|---:|---:|"]
    for name, timing in sorted(result["contenders"].items(), key=lambda item: -item[1]["per_s"]):
        other = name in result["like_for_like"]
        factor = f"{result['ratios'][f'over {name}']:.2f}×" if other else ""
        shown = name if other else f"**{name}**"
        lines.append(f"| {shown} | {timing['per_s']:,.0f} | {timing['cpu_ms']:.2f} | {factor} |")
    rounds = len(result["contenders"][result["best_torchvision"]]["rounds"])
    value = result["ratios"]["over torchvision v2"]
    outcome = "met" if value >= RECIPE_GOAL else "**short**"
    first = f"{result['what']}, {result['workers']} workers or threads each; {result['images']}."
    return "\n".join(
        [
            first,
            "",
            *lines,
            "",
            "Each is compared with dalipipe running the policy that its own transforms are converted to. The goal was "
            f"{RECIPE_GOAL} times torchvision v2 at its best: {value:.2f}, {outcome}.",
            f"Medians of {rounds} interleaved rounds; factors are medians of the rounds' own. {_measured_on(result)}.",
        ]
    )


def operators_cpu(load: Load) -> str:
    """Every operator's time beside the other libraries'."""
    result = load("operators_cpu")
    if result is None:
        return "Not measured yet."
    names = " | ".join(_title(library, result) for library in LIBRARIES)
    lines = [f"| µs a picture | dalipipe | {names} |", "|---|---:|" + "---:|" * len(LIBRARIES)]
    family = None
    for row in result["rows"]:
        if row["family"] != family:
            family = row["family"]
            lines.append(f"| **{family}** |" + " |" * (1 + len(LIBRARIES)))
        cells = [f"{row['us_per_image']['dalipipe']:,.0f}", *(_beside(row, library) for library in LIBRARIES)]
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    return "\n".join(
        [
            f"{result['what']} → a batch of them. In brackets: how many times dalipipe's time that is; bold where "
            "dalipipe is slower.",
            "",
            *lines,
            "",
            f"Medians of {result['rounds']} interleaved rounds. {_measured_on(result)}.",
        ]
    )


def operators_summary(load: Load) -> str:
    """How the operators stand, library by library."""
    result = load("operators_cpu")
    if result is None:
        return "Not measured yet."
    lines = ["| | operators that both have | dalipipe is faster in | median factor |", "|---|---:|---:|---:|"]
    for library in LIBRARIES:
        ratios = [row["ratios"][library] for row in result["rows"] if library in row["ratios"]]
        if not ratios:
            continue
        faster = sum(value > 1 for value in ratios)
        middle = f"{statistics.median(ratios):.1f}×"
        lines.append(f"| {_title(library, result)} | {len(ratios)} | {faster} | {middle} |")
    return "\n".join([*lines, "", f"{result['what']}. Operator by operator: [docs/operators.md](docs/operators.md)."])


def _title(library: str, result: dict[str, Any]) -> str:
    version = {**result["machine"]["versions"], **result["versions"]}[library].split("+")[0]
    return f"{'torchvision v2' if library == 'torchvision' else library.capitalize()} {version}"


def _beside(row: dict[str, Any], library: str) -> str:
    if library not in row["ratios"]:
        return "–"
    value = row["ratios"][library]
    factor = f"{value:,.0f}×" if value >= 9.95 else f"{value:.1f}×"
    return f"{row['us_per_image'][library]:,.0f} ({f'**{factor}**' if value < 0.95 else factor})"


def pack_cpu(load: Load) -> str:
    """Packed data sets beside plain files and other loaders, and the goals they were built for."""
    result, transcode = load("pack_cpu"), load("transcode_cpu")
    if result is None or transcode is None:
        return "Not measured yet."
    lines = ["| loader | images/s | CPU ms an image |", "|---|---:|---:|"]
    for name, timing in sorted(result["contenders"].items(), key=lambda item: -item[1]["per_s"]):
        shown = f"**{name}**" if name.startswith("dalipipe") else name
        lines.append(f"| {shown} | {timing['per_s']:,.0f} | {timing['cpu_ms']:.2f} |")
    lines += ["", "| | wanted | measured | |", "|---|---:|---:|---|"]
    for name, value in result["ratios"].items():
        goal = result["goals"].get(name)
        wanted = "" if goal is None else f"≥ {goal}×"
        lines.append(f"| {name} | {wanted} | {value:.2f}× | {_outcome(goal, value)} |")
    size, rate = transcode["bytes_ratio"], transcode["mb_per_s"]
    goals = transcode["goals"]
    lines.append(
        f"| bytes of tiled files over the originals' | ≤ {goals['bytes_ratio']}× | {size:.3f}× | "
        f"{'met' if size <= goals['bytes_ratio'] else '**short**'} |"
    )
    outcome = _outcome(goals["mb_per_s"], rate)
    lines.append(f"| transcoding to tiles, MB/s a core | ≥ {goals['mb_per_s']} | {rate:.0f} | {outcome} |")
    first = f"{result['what']}, {result['workers']} workers or threads each; {result['images']}."
    absent = "" if result["ffcv"] else " FFCV was absent."
    yardstick = (
        f"On the same core Pillow (libjpeg-turbo) decodes {transcode['pillow_mb_per_s']:.0f} MB/s of these files: "
        f"transcoding is {transcode['over_pillow_decoding']:.2f} times as fast, dalipipe's decoder "
        f"{transcode['decoding_over_pillow']:.2f} times."
    )
    rounds = len(next(iter(result["contenders"].values()))["rounds"])
    return "\n".join(
        [
            first[0].upper() + first[1:],
            "",
            *lines,
            "",
            yardstick,
            f"Medians of {rounds} interleaved rounds; factors are medians of the rounds' own.{absent} "
            f"{_measured_on(result)}.",
        ]
    )


def _outcome(goal: float | None, value: float) -> str:
    return "" if goal is None else "met" if value >= goal else "**short**"


def small_cpu(load: Load) -> str:
    """Small pictures in memory beside other ways with them."""
    result = load("small_cpu")
    if result is None:
        return "Not measured yet."
    lines = ["| | images/s | CPU µs an image |", "|---|---:|---:|"]
    for name, timing in sorted(result["contenders"].items(), key=lambda item: -item[1]["per_s"]):
        shown = f"**{name}**" if name.startswith("dalipipe") else name
        lines.append(f"| {shown} | {timing['per_s']:,.0f} | {1e3 * timing['cpu_ms']:,.1f} |")
    goal = result["goals"]["dalipipe, images/s"]
    best = max(timing["per_s"] for name, timing in result["contenders"].items() if name.startswith("dalipipe"))
    factors = "; ".join(f"{name}: {value:,.1f}×" for name, value in result["ratios"].items())
    rounds = len(next(iter(result["contenders"].values()))["rounds"])
    absent = "" if result["ffcv"] else " FFCV was absent."
    return "\n".join(
        [
            f"{result['what']}, {result['workers']} workers or threads; {result['images']}.",
            "",
            *lines,
            "",
            f"{factors[0].upper()}{factors[1:]}. The goal was {goal:,} images/s: "
            f"{'met' if best >= goal else '**short**'}.",
            f"Medians of {rounds} interleaved rounds; factors are medians of the rounds' own.{absent} "
            f"{_measured_on(result)}.",
        ]
    )


def cache_cpu(load: Load) -> str:
    """What keeping samples in memory brings, and what it costs the first epoch."""
    result = load("cache_cpu")
    if result is None:
        return "Not measured yet."
    lines = ["| loader | images/s | CPU ms an image |", "|---|---:|---:|"]
    for name, timing in sorted(result["contenders"].items(), key=lambda item: -item[1]["per_s"]):
        shown = f"**{name}**" if name.startswith("dalipipe") else name
        lines.append(f"| {shown} | {timing['per_s']:,.0f} | {timing['cpu_ms']:.2f} |")
    lines += ["", "| | measured |", "|---|---:|"]
    lines += [f"| {name} | {value:.2f}× |" for name, value in result["ratios"].items()]
    rounds = len(next(iter(result["contenders"].values()))["rounds"])
    memory = f"{result['mb']['decoded']:,} MiB decoded, {result['mb']['encoded']:,} MiB as files"
    return "\n".join(
        [
            f"{result['what']}, {result['workers']} workers or threads each; {result['images']}; {memory}.",
            "",
            *lines,
            "",
            f"Medians of {rounds} interleaved rounds; factors are medians of the rounds' own. {_measured_on(result)}.",
        ]
    )


def host_cpu(load: Load) -> str:
    """What the host can feed a device with."""
    result = load("host_cpu")
    if result is None:
        return "Not measured yet."
    goal = result["goal"]
    lines = ["| pictures come | images/s | CPU µs an image |", "|---|---:|---:|"]
    for name, timing in result["contenders"].items():
        lines.append(f"| {name} | {timing['per_s']:,.0f} | {1e3 * timing['cpu_ms']:.1f} |")
    rounds = len(next(iter(result["contenders"].values()))["rounds"])
    return "\n".join(
        [
            "What the host's part allows, all that a GPU would wait for; its own work, and the driver's calls that "
            f"start it, are left out. {result['what']}, {result['workers']} threads; {result['images']}.",
            "",
            *lines,
            "",
            f"The goal is {goal['per_s']:,} images/s with a GPU and {goal['cores']} cores: no more than "
            f"{1e3 * goal['cpu_ms']:.0f} µs an image. Medians of {rounds} interleaved rounds. {_measured_on(result)}.",
        ]
    )


def transcode_cpu(load: Load) -> str:
    """What one core does."""
    result = load("transcode_cpu")
    if result is None:
        return "Not measured yet."
    return (
        f"One core transcodes {result['mb_per_s']:.0f} MB/s of photographs to tiles, "
        f"{result['over_pillow_decoding']:.2f} times as fast as Pillow decodes them; they take "
        f"{result['bytes_ratio']:.3f} of the bytes then ({result['what']}). {_measured_on(result)}."
    )


def scale(load: Load) -> str:
    """Core-hours, nodes, time and cost of large packs, from the measured rate of one core."""
    transcode = load("transcode_cpu")
    if transcode is None:
        return "Not measured yet."
    rate, price = transcode["mb_per_s"], 0.045
    lines = ["| data set | pictures | bytes | core-hours | on 8 nodes of 32 cores | cost |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for name, millions, terabytes in (
        ("ImageNet-1k", 1.28, 0.138),
        ("ImageNet-21k (winter 2021)", 13.2, 1.2),
        ("LAION-400M, 256 px", 400, 10.0),
    ):
        hours = terabytes * 1e6 / rate / 3600
        size = f"{millions:,g} M | {terabytes:,g} TB"
        lines.append(f"| {name} | {size} | {hours:,.1f} | {_duration(hours / 256)} | ${hours * price:,.2f} |")
    assumed = (
        f"With all cores at work at that rate, and ${price} a core-hour (a general-purpose cloud machine on demand; "
        "spot is a third):"
    )
    return "\n".join([assumed, "", *lines])


def _duration(hours: float) -> str:
    return f"{hours * 60:,.1f} minutes" if hours < 2 else f"{hours:,.1f} hours"


def gpu(load: Load) -> str:
    """What a GPU run gave, or that there was none."""
    result = load("gpu")
    if result is None:
        return "Not measured yet: no result from a CUDA machine is in `benchmarks/results/`."
    lines = ["| | measured |", "|---|---:|", *(f"| {name} | {value} |" for name, value in result["figures"].items())]
    return "\n".join([*lines, "", f"{_measured_on(result)}."])


def decode_gpu(load: Load) -> str:
    """The CUDA decoder of JPEG tiles: alone, in loaders, beside the device's memory, and in training."""
    result = load("decode_gpu")
    if result is None:
        return "Not measured yet."
    tables = (_decoders(result), _end_to_end(result), _goals(result), _kernels(result), _steps(result))
    words = [f"{result['what']}; {result['images']}; {result['workers']} cores."]
    for what, title in (("absent", "Absent"), ("failed", "Failed")):
        if result[what]:
            reasons = "; ".join(f"{name} ({why})" for name, why in result[what].items())
            words.append(f"{title}: {reasons}.")
    dry = ["**A dry run without a GPU: figures mean nothing.**"] if result["dry_run"] else []
    blocks = [*dry, " ".join(words), *tables]
    return "\n\n".join([*filter(None, blocks), f"Medians of interleaved rounds. {_measured_on(result)}."])


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
        lines.append(f"| {_ours(name)}{few} | {shown} |")
    blocks.append("\n".join(lines))
    absent = "; ".join(f"{name} ({why})" for name, why in result["absent"].items())
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    blocks.append(
        f"Medians of {result['rounds']} interleaved rounds; factors are medians of the rounds' own."
        f"{f' Absent: {absent}.' if absent else ''} The others' Python has {versions}. {_measured_on(result)}."
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
        lines.append(f"| {_ours(contender)} | {one:,.0f} | {first} | {ways[two]:,.0f} ({two}) | {second} |")
    return "\n".join(lines)


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
        f"{task} {row['per_s'] / best:.0f}×, {_outcome(GPU_GOAL, row['per_s'] / best)}"
        for task, row in result["tasks"].items()
        if (best := _best_peer(beside, row["peer"])) is not None
    ]
    goal = f" Times the best peer on two CPU cores ({GPU_GOAL:.0f} wanted): {'; '.join(found)}." if found else ""
    what = result["what"][0].upper() + result["what"][1:]
    return "\n".join([f"{what}.", "", *lines, "", f"Medians.{goal} {_measured_on(result)}."])


def _best_peer(result: dict[str, Any] | None, task: str | None) -> float | None:
    """What the best of the others does, a second."""
    if result is None or task is None:
        return None
    contenders = result["tasks"][task]["contenders"]
    return max((timing["per_s"] for name, timing in contenders.items() if "dalipipe" not in name), default=None)


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
        without, recipe = (_by_seed(result, part, arm, "accuracy") for arm in ("none", "recipe"))
        seeds = sorted(set(without) & set(recipe))
        if len(seeds) < 2:
            continue
        gain = _mean([recipe[seed] - without[seed] for seed in seeds], "+")
        fitted = [statistics.mean(_by_seed(result, part, arm, "train_accuracy").values()) for arm in ("none", "recipe")]
        values = " | ".join(_mean([arm[seed] for seed in seeds]) for arm in (without, recipe))
        lines.append(f"| {shown} | {values} | {gain} | {fitted[0]:.1f}, {fitted[1]:.1f} | {len(seeds)} |")
    words = []
    if speakers:
        gains = []
        for task in speakers:
            without, recipe = (_by_seed(result, [task], arm, "accuracy") for arm in ("none", "recipe"))
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
        f"minutes. {_measured_on(result)}."
    )
    return "\n".join([*lines, "", *words])


def text_cpu(load: Load) -> str:
    """Texts beside plain Python and nlpaug, and the goals that were set."""
    result = load("text_cpu")
    if result is None:
        return "Not measured yet."
    blocks = [
        f"Sentences {result['sentences']}, {result['words']} words each in the mean; batches of {result['batch']:,}; a "
        f"share of {result['alpha']} of the words is edited."
    ]
    goals = ["| | wanted | measured | |", "|---|---:|---:|---|"]
    for task, measured in result["tasks"].items():
        lines = [
            f"| {task} | sentences/s, one core | dalipipe is | two cores | dalipipe is |",
            "|---|---:|---:|---:|---:|",
        ]
        rates: dict[str, dict[str, float]] = {}
        for name, timing in measured["contenders"].items():
            contender, _, way = name.rpartition(", ")
            rates.setdefault(contender, {})[way] = timing["per_s"]
        for contender, ways in sorted(rates.items(), key=lambda item: -max(item[1].values())):
            two = next(way for way in ways if way != "1 core")
            over = [measured["ratios"].get(f"{contender}, {way}") for way in ("1 core", two)]
            first, second = ("" if factor is None else f"{factor:,.1f}×" for factor in over)
            lines.append(
                f"| {_ours(contender)} | {ways['1 core']:,.0f} | {first} | {ways[two]:,.0f} ({two}) | {second} |"
            )
        blocks.append("\n".join(lines))
    for goal in result["goals"]:
        what = f"{goal['task']}: {goal['ours']}, two cores, over one process of {goal['over']}"
        value = goal["measured"]
        goals.append(f"| {what} | ≥ {goal['wanted']:.0f}× | {value:,.1f}× | {_outcome(goal['wanted'], value)} |")
    absent = "; ".join(f"{name} ({why})" for name, why in result["absent"].items())
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    blocks.append("\n".join(goals))
    blocks.append(
        f"Medians of {result['rounds']} interleaved rounds; factors are medians of the rounds' own."
        f"{f' Absent: {absent}.' if absent else ''} The others ran with {versions}. {_measured_on(result)}."
    )
    return "\n\n".join(blocks)


def text_accuracy(load: Load) -> str:
    """What each edit brings on small sets of sentences; differences are of the same seed."""
    result = load("text_accuracy")
    if result is None:
        return "Not measured yet."
    settings, runs = result["settings"], result["runs"]
    titles = {"trec": "TREC, 6 classes of questions", "sst2": "SST-2, 2 sentiments"}
    tasks = [task for task in titles if any(one["task"] == task for one in runs)]
    lines = [f"| | {' | '.join(titles[task] for task in tasks)} |", "|---|" + "---:|" * len(tasks)]
    without = {task: _by_seed(result, [task], "none", "accuracy") for task in tasks}
    cells = [_mean(list(without[task].values())) if len(without[task]) > 1 else "–" for task in tasks]
    lines.append(f"| without, test accuracy in % | {' | '.join(cells)} |")
    for arm in dict.fromkeys(one["arm"] for one in runs if one["arm"] != "none"):
        cells = []
        for task in tasks:
            theirs = _by_seed(result, [task], arm, "accuracy")
            gains = [theirs[seed] - without[task][seed] for seed in sorted(set(theirs) & set(without[task]))]
            cells.append(_mean(gains, "+") if len(gains) > 1 else "–")
        lines.append(f"| {arm}, points more or less | {' | '.join(cells)} |")
    seeds = min(len(found) for found in without.values())
    minutes = sum(one["cpu_s"] for one in runs) / 60
    words = (
        f"{settings['rows']} training rows; `WordCNN` of width {settings['width']}, {settings['filters']} filters a "
        f"window, from scratch; {settings['steps']} steps of {settings['batch_size']}, AdamW, one cycle; {seeds} seeds "
        f"at least. Edits of a share {result['alpha']} of the words (AEDA's, the mask's and cut-mix's as they are by "
        f"default) in {result['copies']} of {result['copies'] + 1} sentences, as EDA's authors have it for 500. OEWN: "
        "synonyms of Open English WordNet, else the built-in ones. ± is the standard error over seeds (rows, initial "
        f"weights, order, augmentation), of differences over their own. All of it took {minutes:.0f} processor "
        f"minutes. {_measured_on(result)}."
    )
    return "\n".join([*lines, "", words])


def finetune_loop_cpu(load: Load) -> str:
    """What the loop costs beside a bare one."""
    result = load("finetune_loop_cpu")
    if result is None:
        return "Not measured yet."
    lines = ["| | bare loop, steps/s | `finetune`, steps/s | a step takes longer by |", "|---|---:|---:|---:|"]
    for name, case in result["cases"].items():
        rates = (f"{case['steps'][who]['per_s']:.1f}" for who in ("bare", "finetune"))
        lines.append(f"| {name} | {' | '.join(rates)} | {case['overhead_percent']:.1f} % |")
    rounds = max(len(case["steps"]["bare"]["rounds"]) for case in result["cases"].values())
    words = (
        "An epoch beside a bare PyTorch loop's on the same batches in memory, to the same weights: forward, loss, "
        f"backward, clipping, fused AdamW. Medians of {rounds} interleaved rounds, {result['threads']} thread; the "
        f"goal is {result['goal_percent']:.0f} % at most. {_measured_on(result)}."
    )
    return "\n".join([*lines, "", words])


def generation_accuracy(load: Load) -> str:
    """What made data are worth, beside real ones and with them; differences are of the same seed."""
    result = load("generation_accuracy")
    if result is None:
        return "Not measured yet."
    settings, runs = result["settings"], result["runs"]
    tasks = list(dict.fromkeys(one["task"] for one in runs))
    arms = list(runs[0]["accuracy"])
    of_task = {task: [one for one in runs if one["task"] == task] for task in tasks}
    lines = [f"| trained on | {' | '.join(tasks)} |", "|---|" + "---:|" * len(tasks)]
    for arm in arms:
        found = [[one["accuracy"][arm] for one in of_task[task]] for task in tasks]
        lines.append(f"| {arm} | {' | '.join(_mean(each) if len(each) > 1 else '–' for each in found)} |")
    for arm, base in (("both", "real"), ("both, augmented", "real, augmented")):
        gains = [[one["accuracy"][arm] - one["accuracy"][base] for one in of_task[task]] for task in tasks]
        cells = [_mean(each, "+") if len(each) > 1 else "–" for each in gains]
        lines.append(f"| *{arm}*, more or less than *{base}* | {' | '.join(cells)} |")
    for name, title, form in (
        ("real", "real samples learnt from", ",.0f"),
        ("agreed", "of those made, the classifier agrees with, %", ".0f"),
        ("nearness", "nearness (1: as new as real ones are, 0: copies)", ".2f"),
        ("gan_cpu_s", "processor seconds to learn and make them", ".0f"),
    ):
        cells = [f"{statistics.mean(one[name] for one in of_task[task]):{form}}" for task in tasks]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    minutes = sum(one["cpu_s"] for one in runs) / 60
    seeds = min(len(found) for found in of_task.values())
    words = (
        f"Test accuracy in %. {settings['per_class']} made samples a class; GANs of width {settings['gan_width']}, "
        f"{settings['gan_steps'][0]:,} steps for pictures ({settings['size_px']} px) and {settings['gan_steps'][1]:,} "
        f"for series; classifiers trained from scratch for {settings['steps']} steps of {settings['batch_size']} in "
        f"every arm; {seeds} seeds at least. ± is the standard error over seeds (real samples, GAN, classifier), of "
        f"differences over their own. All of it took {minutes:.0f} processor minutes. {_measured_on(result)}."
    )
    return "\n".join([*lines, "", words])


def transfer_accuracy(load: Load) -> str:
    """Ways of fine-tuning beside each other, by how many pictures there are."""
    result = load("transfer_accuracy")
    if result is None:
        return "Not measured yet."
    settings, runs = result["settings"], result["runs"]
    columns = [(count, augmented) for augmented in (False, True) for count in settings["counts"]]
    heads = [f"{count} a class{', augmented' if augmented else ''}" for count, augmented in columns]
    lines = [f"| test accuracy in % | {' | '.join(heads)} |", "|---|" + "---:|" * len(columns)]
    for arm in settings["lr"]:
        cells = []
        for count, augmented in columns:
            chosen = (one for one in runs if (one["arm"], one["count"], one["augmented"]) == (arm, count, augmented))
            values = [one["accuracy"] for one in chosen]
            cells.append(_mean(values) if len(values) > 1 else "–")
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    seeds = len({one["seed"] for one in runs})
    before = [one["accuracy"] for one in result["pretrained"]]
    minutes = sum(one["cpu_s"] for one in [*runs, *result["pretrained"]]) / 60
    rates = ", ".join(f"{arm} {rate:g}" for arm, rate in settings["lr"].items())
    widths = ", ".join(map(str, settings["widths"]))
    words = (
        f"Five classes of CIFAR-10 after the other five, on which the network had come to {_mean(before)} %: a "
        f"residual network of widths {widths}, pretrained for {settings['pretraining_epochs']} epochs of 2,500 "
        f"pictures. Each run as many steps: {settings['epochs']} epochs of {2500 // settings['batch_size']} steps of "
        f"{settings['batch_size']} pictures (joint: of as many of the source beside), AdamW, warm-up and half a "
        f"cosine, peak learning rates by a pilot: {rates}; weight decay {settings['weight_decay']:g}, in its place "
        f"L2-SP {settings['l2_sp']:g}; λ {settings['target_weight']:g}; gradual: one layer more every "
        f"{settings['unfreeze_every']} epoch. Augmented: padded crops and flips. ± is the standard error over {seeds} "
        "seeds (pictures, pretrained and initial weights, order, augmentation). All of it took "
        f"{minutes:.0f} processor minutes. {_measured_on(result)}."
    )
    return "\n".join([*lines, "", words])


def distillation_accuracy(load: Load) -> str:
    """Students without and with a teacher and augmentation; differences are of the same seed."""
    result = load("distillation_accuracy")
    if result is None:
        return "Not measured yet."
    settings, runs = result["settings"], result["runs"]
    titles = {"digits": "digits", "cifar10": "CIFAR-10 subset"}
    teachers = {one["task"]: one for one in result["teachers"]}
    tasks = [task for task in titles if task in teachers and any(one["task"] == task for one in runs)]
    rows = {task: next(one["rows"] for one in runs if one["task"] == task) for task in tasks}
    lines = [
        f"| | {' | '.join(f'{titles[task]}, {rows[task]} pictures' for task in tasks)} |",
        "|---|" + "---:|" * len(tasks),
    ]
    plain = {task: _by_seed(result, [task], "plain", "accuracy") for task in tasks}
    cells = [_mean(list(plain[task].values())) if len(plain[task]) > 1 else "–" for task in tasks]
    lines.append(f"| neither, test accuracy in % | {' | '.join(cells)} |")
    names = {"augmented": "augmentation", "taught": "teacher", "augmented, taught": "teacher and augmentation"}
    for arm, name in names.items():
        cells = []
        for task in tasks:
            theirs = _by_seed(result, [task], arm, "accuracy")
            gains = [theirs[seed] - plain[task][seed] for seed in sorted(set(theirs) & set(plain[task]))]
            cells.append(_mean(gains, "+") if len(gains) > 1 else "–")
        lines.append(f"| {name}, points more or less | {' | '.join(cells)} |")
    cells = [f"{teachers[task]['accuracy']:.1f} ({teachers[task]['pictures']:,} pictures)" for task in tasks]
    lines.append(f"| the teacher itself, % | {' | '.join(cells)} |")
    cells = [f"{100 * teachers[task]['kept_us'] / teachers[task]['live_us']:.1f} %" for task in tasks]
    lines.append(f"| looking its answers up, of the time it takes to ask it | {' | '.join(cells)} |")
    small = max(one["parameters"] for one in runs)
    large = max(teacher["parameters"] for teacher in teachers.values())
    seeds = min(len(found) for found in plain.values())
    words = (
        f"Students of {small:,} parameters, teachers of {large:,}; {settings['digits_steps']:,} steps on digits, "
        f"{settings['cifar10_steps']:,} on CIFAR-10, of {settings['batch_size']} pictures at most, AdamW; T "
        f"{settings['temperature']:g}, labels' share {settings['hard_weight']:g}; {settings['draw_epochs']} epochs' "
        f"augmentation, again and again, with and without a teacher; {seeds} seeds at least. ± is the standard error "
        "over seeds (pictures, initial weights, order, augmentation), of differences over their own. "
        f"{_measured_on(result)}."
    )
    return "\n".join([*lines, "", words])


def tune_accuracy(load: Load) -> str:
    """What cross-validation chose, and what that came to beside no augmentation, the policy as written, and
    TrivialAugment.
    """
    result = load("tune_accuracy")
    if result is None:
        return "Not measured yet."
    arms = ("none", "as written", "TrivialAugment", "chosen")
    lines = ["| test accuracy in % | none | as written | TrivialAugment | chosen | what was chosen, seed by seed |"]
    lines.append("|---|" + "---:|" * len(arms) + "---|")
    for task in dict.fromkeys(one["task"] for one in result["runs"]):
        own = [one for one in result["runs"] if one["task"] == task]
        found = {arm: [one["accuracy"][arm] for one in own if arm in one["accuracy"]] for arm in arms}
        cells = [_mean(found[arm]) if len(found[arm]) > 1 else "–" for arm in arms]
        samples = f"{task}, {own[0]['samples']} samples"
        lines.append(f"| {samples} | {' | '.join(cells)} | {'; '.join(one['chosen'] for one in own)} |")
    settings, runs = result["settings"], result["runs"]
    share, minutes = max(one["share"] for one in runs), sum(one["cpu_s"] for one in runs) / 60
    words = (
        f"`tune` with {settings['folds']} folds of what is trained on, {runs[0]['candidates']} candidates or fewer, "
        f"for at most {share:.0%} of the full grid's steps; then all of it trained on, {settings['steps']} steps of "
        f"{settings['batch_size']} pictures or {settings['series_steps']} of 16 series, AdamW; accuracy on the whole "
        "test set, ± its standard error over seeds (samples, weights, folds, order). Small residual networks from "
        "scratch. “digits, harmful” is mirrored and turned by up to 180 degrees. All of it took "
        f"{minutes:.0f} processor minutes. {_measured_on(result)}."
    )
    return "\n".join([*lines, "", words])


def _by_seed(result: dict[str, Any], tasks: list[str], arm: str, field: str) -> dict[int, float]:
    """The mean over tasks, of seeds that all of them have."""
    found: dict[int, list[float]] = {}
    for one in result["runs"]:
        if one["task"] in tasks and one["arm"] == arm:
            found.setdefault(one["seed"], []).append(one[field])
    return {seed: statistics.mean(values) for seed, values in found.items() if len(values) == len(tasks)}


def _mean(values: list[float], sign: str = "") -> str:
    return f"{statistics.mean(values):{sign}.2f} ± {statistics.stdev(values) / len(values) ** 0.5:.2f}"


def _decoders(result: dict[str, Any]) -> str:
    parts = [result.get(part, {}).get("contenders", {}) for part in ("decode_whole", "decode_crops")]
    names = sorted({name for part in parts for name in part}, key=lambda name: -_rate(parts[-1], name))
    if not names:
        return ""
    lines = ["| decoding alone, images/s | whole pictures | crops |", "|---|---:|---:|"]
    for name in names:
        rates = (f"{_rate(part, name):,.0f}" if name in part else "–" for part in parts)
        lines.append(f"| {_ours(name)} | {' | '.join(rates)} |")
    return "\n".join(lines)


def _end_to_end(result: dict[str, Any]) -> str:
    contenders = result.get("end_to_end", {}).get("contenders", {})
    if not contenders:
        return ""
    lines = ["| end to end | images/s | CPU ms an image |", "|---|---:|---:|"]
    for name in sorted(contenders, key=lambda name: -_rate(contenders, name)):
        lines.append(f"| {_ours(name)} | {_rate(contenders, name):,.0f} | {contenders[name]['cpu_ms']:.3f} |")
    return "\n".join(lines)


def _goals(result: dict[str, Any]) -> str:
    lines = ["| | wanted | measured | |", "|---|---:|---:|---|"]
    for name, goal in result["goals"].items():
        lines.append(
            f"| {name} | {goal['wanted']} | {goal['measured']:,.4g} | {'met' if goal['met'] else '**short**'} |"
        )
    return "\n".join(lines) if result["goals"] else ""


def _kernels(result: dict[str, Any]) -> str:
    roofline = result.get("roofline", {})
    if "limit" not in roofline:
        return ""
    lines = [
        f"| a batch of {roofline['batch']} crops | µs | share | MB moved | of a copy |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, kernel in roofline["kernels"].items():
        if kernel["us"] is None:
            lines.append(f"| {name} | – | – | {kernel['mb']:,.1f} | – |")
            continue
        shares = f"{kernel['share']:.0%} | {kernel['mb']:,.1f} | {kernel['of_copy']:.0%}"
        lines.append(f"| {name} | {kernel['us']:,.0f} | {shares} |")
    words = f"A copy within the device moves {roofline['copy_gb_per_s']:,.0f} GB/s."
    if roofline["symbols"]["per_s"] is not None:
        words += f" {roofline['symbols']['per_s'] / 1e9:,.1f} billion Huffman symbols are read a second."
    limits = ", ".join(f"{name} {ms:.2f}" for name, ms in roofline["limits_ms"].items())
    words += f" Milliseconds that a batch takes each by itself: {limits}."
    if roofline["limit"] is not None:
        words += f" The most, so the next limit: {roofline['limit']}."
    return "\n".join([*lines, "", words])


def _steps(result: dict[str, Any]) -> str:
    training = result.get("training", {})
    arms = {name: arm for name, arm in training.items() if isinstance(arm, dict)}
    if not arms:
        return ""
    lines = [f"| {training['what']} | step, ms | over synthetic | data stall |", "|---|---:|---:|---:|"]
    for name, arm in arms.items():
        lines.append(f"| {name} | {arm['step_ms']:.2f} | {arm['over_synthetic']:.3f} | {arm['stall']:.2%} |")
    return "\n".join(lines)


def _rate(contenders: dict[str, Any], name: str) -> float:
    return float(contenders[name]["per_s"]) if name in contenders else 0.0


def _ours(name: str) -> str:
    return f"**{name}**" if name.startswith("dalipipe") else name


_FUNCTIONS = (
    loaders_cpu,
    goals_cpu,
    sources_cpu,
    pack_cpu,
    transcode_cpu,
    host_cpu,
    cache_cpu,
    small_cpu,
    scale,
    policies_cpu,
    operators_cpu,
    operators_summary,
    signals_cpu,
    signals_gpu,
    signal_accuracy,
    text_cpu,
    text_accuracy,
    finetune_loop_cpu,
    generation_accuracy,
    transfer_accuracy,
    distillation_accuracy,
    tune_accuracy,
    gpu,
    decode_gpu,
)
BLOCKS = {function.__name__: function for function in _FUNCTIONS}


def render(text: str, load: Load = _load) -> str:
    """The page with its blocks filled in. Raises ``ValueError`` for a block of an unknown name."""

    def fill(match: re.Match[str]) -> str:
        name = match[1]
        if name not in BLOCKS:
            raise ValueError(f"no block is called {name!r}; there are {', '.join(BLOCKS)}")
        return f"<!-- results: {name} -->\n{BLOCKS[name](load)}\n<!-- end -->"

    return re.sub(r"<!-- results: (\w+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


def main(arguments: list[str]) -> int:
    stale = []
    for page in PAGES:
        path = ROOT / page
        text = path.read_text()
        if render(text) != text:
            stale.append(page)
            if "--check" not in arguments:
                path.write_text(render(text))
    if stale:
        print(("out of date: " if "--check" in arguments else "written: ") + ", ".join(stale))
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
