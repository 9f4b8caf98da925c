"""What gpu_report.py found: README's table, and its page."""

from __future__ import annotations

from typing import Any

from blocks.base import Load, block, measured_on, ours

NONE = "Not measured yet: no result from a CUDA machine is in `benchmarks/results/`."


@block
def gpu(load: Load) -> str:
    """The newest that a CUDA machine gave, or that none did."""
    found = [result for result in (load("gpu_report"), load("gpu")) if result is not None and not result["dry_run"]]
    if not found:
        return NONE
    newest = max(found, key=lambda result: result["machine"]["date"])
    return summary(newest) if "parts" in newest else figures(newest)


def figures(result: dict[str, Any]) -> str:
    """Of results from before there was a report."""
    lines = ["| | measured |", "|---|---:|", *(f"| {name} | {value} |" for name, value in result["figures"].items())]
    return "\n".join([*lines, "", f"{measured_on(result)}."])


def summary(result: dict[str, Any]) -> str:
    """The figures that matter most, and what has no figure."""
    parts = result["parts"]
    lines = ["| | measured |", "|---|---:|"]
    counts = parts.get("tests", {}).get("counts")
    if counts:
        lines.append(f"| tests that need a GPU | {in_words(counts)} |")
    roofline = parts.get("roofline", {})
    if "copy_gb_per_s" in roofline:
        lines.append(f"| a copy within the device | {roofline['copy_gb_per_s']:,.0f} GB/s |")
    for name, row in roofline.get("kernels", {}).items():
        if row["of_copy"] is not None and name.startswith("fused operator"):
            lines.append(f"| {name} | {row['us'] / 1e3:.3f} ms a batch, {row['of_copy']:.0%} of the copy |")
    loaders = parts.get("loaders", {})
    if loaders.get("best"):
        lines.append(f"| {loaders['best']} | {loaders['contenders'][loaders['best']]['per_s']:,.0f} images/s |")
    if "ratios" in loaders:
        lines.append(
            f"| … over {loaders['best_peer']}, the best of the others | {loaders['ratios'][loaders['best']]}× |"
        )
    for part, what in (("recipe", "DeiT's recipe, on the device,"), ("cifar", "32 px pictures,")):
        for name, factor in parts.get(part, {}).get("ratios", {}).items():
            lines.append(f"| {what} over {name} | {factor:.2f}× |")
    for name, run in parts.get("stalls", {}).get("runs", {}).items():
        lines.append(f"| data stall, {name} | {run['stall']:.1%} of {run['step_ms']['value']:.1f} ms a step |")
    return "\n".join([*lines, "", *short(result), f"{measured_on(result)}."])


def page(result: dict[str, Any], charts: list[str]) -> str:
    """All of it, as Markdown."""
    parts = result["parts"]
    dry = ["**A dry run without a GPU: figures mean nothing.**"] if result["dry_run"] else []
    blocks = [
        "# GPU report",
        *dry,
        f"{measured_on(result)}. {result['took_s']:.0f} s.",
        *short(result),
        *(f"![Charts]({chart})" for chart in charts),
        *([f"No charts: {result['no_charts']}."] if "no_charts" in result else []),
        *(f"## {title}\n\n{text}" for title, text in sections(parts) if text),
    ]
    return "\n\n".join(blocks) + "\n"


def short(result: dict[str, Any]) -> list[str]:
    """What failed, and what was left out for want of time."""
    parts = result["parts"]
    failed = "; ".join(f"{name} ({part['error']})" for name, part in parts.items() if "error" in part)
    cut = "; ".join(f"{name}: {what}" for name, part in parts.items() for what in part.get("cut", ()))
    return [f"**{what}**: {words}." for what, words in (("Failed", failed), ("Out of time", cut)) if words]


def sections(parts: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("Build", _build(parts.get("build", {}))),
        ("Tests", _tests(parts.get("tests", {}))),
        ("Kernels", _kernels(parts.get("roofline", {}))),
        ("DeiT's recipe on the device", _rates(parts.get("recipe", {}))),
        ("Loaders", _loaders(parts)),
        ("Other loaders, from plain JPEGs", _others(parts.get("others", {}))),
        ("Training", _stalls(parts.get("stalls", {}))),
        ("Small pictures", _cifar(parts.get("cifar", {}))),
    ]


def in_words(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "none ran"


def _build(part: dict[str, Any]) -> str:
    lines = ["| | found | |", "|---|---|---|"]
    for check in part.get("checks", ()):
        remedy = f": {check['remedy']}" if check["remedy"] else ""
        lines.append(f"| {check['topic']} | {check['found']} | {check['status']}{remedy} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _tests(part: dict[str, Any]) -> str:
    if "counts" not in part:
        return ""
    lines = [f"`{part['command']}`: {in_words(part['counts'])}."]
    return "\n".join([*lines, *(f"- {line}" for line in part["failures"])])


def _kernels(part: dict[str, Any]) -> str:
    if not part.get("kernels"):
        return ""
    lines = [f"| a batch of {part['batch']} | µs | MB moved | GB/s | of a copy |", "|---|---:|---:|---:|---:|"]
    for name, row in part["kernels"].items():
        if row["of_copy"] is None:
            lines.append(f"| {name} | not seen | {row['mb']:,.1f} | | |")
        else:
            lines.append(
                f"| {name} | {row['us']:,.0f} | {row['mb']:,.1f} | {row['gb_per_s']:,.0f} | {row['of_copy']:.0%} |"
            )
    words = f"A copy within the device moves {part['copy_gb_per_s']:,.0f} GB/s."
    limits = part.get("decoder", {}).get("limits_ms", {})
    if limits:
        listed = ", ".join(f"{name} {ms:.2f}" for name, ms in limits.items())
        words += f" Milliseconds that a batch of the decoder's takes each by itself: {listed}."
    return "\n".join([*lines, "", words])


def _rates(part: dict[str, Any]) -> str:
    contenders = part.get("contenders", {})
    if not contenders:
        return ""
    ratios = part.get("ratios", {})
    lines = ["| | images/s | CPU ms an image | dalipipe is |", "|---|---:|---:|---:|"]
    for name, timing in sorted(contenders.items(), key=lambda item: -item[1]["per_s"]):
        factor = f"{ratios[name]:.2f}×" if name in ratios and not name.startswith("dalipipe") else ""
        lines.append(f"| {ours(name)} | {timing['per_s']:,.0f} | {timing['cpu_ms']:.4f} | {factor} |")
    return "\n".join(lines)


def _loaders(parts: dict[str, Any]) -> str:
    part = parts.get("loaders", {})
    table = _rates({"contenders": part.get("contenders", {})})
    if not table:
        return ""
    words = [f"{parts.get('data', {}).get('images', '')}; → RandomResizedCrop 224, flip, normalise → bfloat16 NHWC."]
    if part.get("ratios"):
        over = "; ".join(f"{name} {factor:.2f}×" for name, factor in part["ratios"].items())
        words.append(f"Over {part['best_peer']}: {over}.")
    if part.get("absent"):
        words.append(
            "Absent: " + "; ".join(f"{name.partition(': ')[2]} ({why})" for name, why in part["absent"].items()) + "."
        )
    return f"{table}\n\n{' '.join(words)}"


def _others(part: dict[str, Any]) -> str:
    words = []
    for what, title in (("absent", "Absent"), ("failed", "Failed")):
        if part.get(what):
            words.append(f"{title}: " + "; ".join(f"{name} ({why})" for name, why in part[what].items()) + ".")
    return "\n\n".join(filter(None, (_rates(part), " ".join(words))))


def _stalls(part: dict[str, Any]) -> str:
    names = ("step", "compute", "prep_stall", "fetch_stall", "copy")
    lines = [f"| ms, batches of {part.get('batch')} | {' | '.join(name.replace('_', ' ') for name in names)} | |"]
    lines.append("|---|" + "---:|" * len(names) + "---|")
    for name, run in part.get("runs", {}).items():
        values = " | ".join(f"{run[f'{each}_ms']['value']:.2f}" for each in names)
        lines.append(f"| {name} | {values} | {run['sentence'].partition(' → ')[2]} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _cifar(part: dict[str, Any]) -> str:
    table = _rates(part)
    return f"{table}\n\n{part['what']}." if table else ""
