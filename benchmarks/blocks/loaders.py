"""Whole loaders beside each other: plain files, sources, recipes, small pictures, caches."""

from __future__ import annotations

from blocks.base import Load, block, measured_on

RECIPE_GOAL = 3.0


@block
def loaders_cpu(load: Load) -> str:
    """Whole loaders beside each other, those that were not there among them."""
    result = load("loaders_cpu")
    if result is None:
        return "Not measured yet."
    ours = result["contenders"]["dalipipe"]
    lines = [
        "| loader | images/s | dalipipe is | CPU s of 1,000 | batch p99/p50 | first batch, s | peak MiB | pixels |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for name, timing in sorted(result["contenders"].items(), key=lambda item: -item[1]["per_s"]):
        factor = "" if timing is ours else f"{result['ratios'][f'over {name}']:.2f}×"
        shown = f"**{name}**" if timing is ours else f"{name} {timing['version'].split(',')[0]}"
        pixels = "torchvision's" if timing["exact"] else f"± {timing['difference']['mean']:.1g}"
        lines.append(
            f"| {shown} | {timing['per_s']:,.0f} | {factor} | {timing['cpu_s_per_1000']:.2f} | "
            f"{timing['p99_over_p50']:.2f} | {timing['first_batch_s']:.1f} | {timing['peak_mb']:,} | {pixels} |"
        )
    one = result["one_core"]
    if one:
        lines.append(
            f"| dalipipe, one core | {one['per_s']:,.0f} | {result['scaling']:.2f}× | {one['cpu_s_per_1000']:.2f} | "
            f"{one['p99_over_p50']:.2f} | {one['first_batch_s']:.1f} | {one['peak_mb']:,} | |"
        )
    lines += [f"| {name} | absent: {remedy} | | | | | | |" for name, remedy in result["absent"].items()]
    lines += [f"| {name} | failed: {_cell(reason)} | | | | | | |" for name, reason in result["failed"].items()]
    first = f"{result['what']}, {result['workers']} cores; {result['images']}."
    settings = "; ".join(
        f"{name}: " + ", ".join(f"{key} {value}" for key, value in timing["settings"].items())
        for name, timing in result["contenders"].items()
    )
    remarks = "; ".join(f"{name}: {t['remark']}" for name, t in result["contenders"].items() if t["remark"])
    return "\n".join(
        [
            first[0].upper() + first[1:],
            "",
            *lines,
            "",
            "Each loader in processes of its own, at the best of its settings that were tried. "
            f"{len(ours['rounds'])} rounds in turns: their medians; factors are medians of the rounds' own. "
            "Pixels: the mean difference of normalised "
            f"ones from torchvision's ({remarks}). {measured_on(result)}.",
            "",
            f"Settings. {settings}.",
        ]
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


@block
def goals_cpu(load: Load) -> str:
    """Each goal beside what was measured: met, or said plainly that it was not."""
    loaders, fused, memory = load("loaders_cpu"), load("fused_image_cpu"), load("memory_cpu")
    steadiness = load("steadiness_cpu")
    goals: list[tuple[str, str, str, bool]] = []
    for goal in loaders["goals"] if loaders else ():
        measured = "not measured" if goal["measured"] is None else f"{goal['measured']:.2f}"
        goals.append((goal["what"], goal["wanted"], measured, goal["met"]))
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
    if steadiness:
        ours, fixed = (steadiness["contenders"][name] for name in ("dalipipe", "fixed work"))
        lines += [
            "",
            "The tail and what a second core brings depend on the machine and its neighbours, so they were measured "
            f"once more beside fixed work, of which no loader is part: p99/p50 {ours['p99_over_p50']:.2f} beside "
            f"{fixed['p99_over_p50']:.2f}, the second core {ours['scaling']:.2f}× beside {fixed['scaling']:.2f}× "
            f"({steadiness['machine']['cpu']}, docs/bench.md).",
        ]
    return "\n".join(lines)


@block
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
        lines += ["", f"The same work; {sources['images']}; {rounds} interleaved rounds. {measured_on(sources)}."]
    if million:
        first, later = million["first_time"], million["later"]
        lines += [
            "",
            f"A million files in a thousand folders: listed in {first['index_s']:.1f} s the first time, "
            f"{later['index_s']:.2f} s after that; in a new process the first batch is there "
            f"{later['index_to_first_batch_s']:.2f} s after the imports.",
        ]
    return "\n".join(lines) or "Not measured yet."


@block
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
            f"Medians of {rounds} interleaved rounds; factors are medians of the rounds' own. {measured_on(result)}.",
        ]
    )


@block
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
            f"{measured_on(result)}.",
        ]
    )


@block
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
            f"Medians of {rounds} interleaved rounds; factors are medians of the rounds' own. {measured_on(result)}.",
        ]
    )


@block
def stats_cpu(load: Load) -> str:
    """What a loader's figures cost it."""
    result = load("stats_cpu")
    if result is None:
        return "Not measured yet."
    goal = result["goal"]
    lines = [
        f"| loader | ms a batch | slower by (95 %) | goal ≤ {goal:.0%} | processor time (95 %) | the calls alone |",
        "|---|---:|---:|---|---:|---:|",
    ]
    for name, found in result["loaders"].items():
        met = "met" if found["overhead"] <= goal else "**short**"
        times, cpu = (
            f"{found[f'{kind}overhead']:+.2%} ({low:+.2%} to {high:+.2%})"
            for kind in ("", "cpu_")
            for low, high in [found[f"{kind}interval"]]
        )
        alone = f"{found['clock_us']:.1f} µs, {found['share']:.2%}"
        lines.append(f"| {name} | {found['batch_ms']:.2f} | {times} | {met} | {cpu} | {alone} |")
    rounds = next(iter(result["loaders"].values()))["rounds"]
    words = f"The same loader with its clock and with one that does nothing; medians of {rounds} interleaved rounds."
    return "\n".join([*lines, "", f"{words} {measured_on(result)}."])


@block
def autotune_cpu(load: Load) -> str:
    """What the loader chooses by trials beside the whole sweep of settings."""
    result = load("autotune_cpu")
    if result is None:
        return "Not measured yet."
    lines = [
        "| task | chosen | of the best's rate | default's | worst's | p99/p50 | of the best | first epoch, trials |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, task in result["tasks"].items():
        tuned, ratios, tails = task["autotuned"]["tuned"], task["ratios"], task["p99_over_p50"]
        chosen = f"{tuned['num_workers']} threads, {tuned['prefetch_factor']} ahead"
        chosen += "" if tuned["settled"] else f" ({tuned['reason']})"
        lines.append(
            f"| {name} | {chosen} | **{ratios['autotuned over the best']:.0%}** "
            f"| {ratios['the default over the best']:.0%} | {ratios['the worst over the best']:.0%} "
            f"| {tails['autotuned']:.2f} | {tails['best in throughput']:.2f} "
            f"| {ratios['first epoch with trials over without']:.0%} |"
        )
    task = next(iter(result["tasks"].values()))
    rounds = len(task["autotuned"]["rounds"])
    return "\n".join(
        [
            *lines,
            "",
            f"{len(task['cells'])} settings each, {result['images']}. Best is the one of the sweep with the highest "
            "median; chosen is what the loader found by itself, timed again among them; the last column is the rate of "
            f"a first epoch beside that of one without trials. Medians of {rounds} interleaved rounds, within rounds. "
            f"{measured_on(result)}.",
        ]
    )


@block
def steadiness_cpu(load: Load) -> str:
    """How steadily batches come, beside how steady the machine is."""
    result = load("steadiness_cpu")
    if result is None:
        return "Not measured yet."
    lines = [
        f"| | batch p99/p50 | on one core | {result['cores']} cores over one | cores busy | CPU an image, over one's |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {name} | {found['p99_over_p50']:.2f} | {found['one_core_p99_over_p50']:.2f} | {found['scaling']:.2f}× | "
        f"{found['cores']:.2f} | {found['cpu']:.3f} |"
        for name, found in result["contenders"].items()
    ]
    words = (
        "Fixed work: the same photographs decoded again and again, with no loader in the way: what this machine itself "
        f"is good for. {result['what'][0].upper()}{result['what'][1:]} each, in turns. {measured_on(result)}."
    )
    return "\n".join([*lines, "", words])
