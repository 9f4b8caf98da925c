"""Packed data sets, the transcoder, and what large packs cost."""

from __future__ import annotations

from blocks.base import Load, block, measured_on, outcome


@block
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
        lines.append(f"| {name} | {wanted} | {value:.2f}× | {outcome(goal, value)} |")
    size, rate = transcode["bytes_ratio"], transcode["mb_per_s"]
    goals = transcode["goals"]
    lines.append(
        f"| bytes of tiled files over the originals' | ≤ {goals['bytes_ratio']}× | {size:.3f}× | "
        f"{'met' if size <= goals['bytes_ratio'] else '**short**'} |"
    )
    met = outcome(goals["mb_per_s"], rate)
    lines.append(f"| transcoding to tiles, MB/s a core | ≥ {goals['mb_per_s']} | {rate:.0f} | {met} |")
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
            f"{measured_on(result)}.",
        ]
    )


@block
def transcode_cpu(load: Load) -> str:
    """What one core does."""
    result = load("transcode_cpu")
    if result is None:
        return "Not measured yet."
    return (
        f"One core transcodes {result['mb_per_s']:.0f} MB/s of photographs to tiles, "
        f"{result['over_pillow_decoding']:.2f} times as fast as Pillow decodes them; they take "
        f"{result['bytes_ratio']:.3f} of the bytes then ({result['what']}). {measured_on(result)}."
    )


@block
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
