"""Operator by operator beside other libraries."""

from __future__ import annotations

import statistics
from typing import Any

from blocks.base import Load, block, measured_on

LIBRARIES = ("torchvision", "kornia", "albumentations")


@block
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
            f"Medians of {result['rounds']} interleaved rounds. {measured_on(result)}.",
        ]
    )


@block
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


@block
def stages_cpu(load: Load) -> str:
    """Every stage of a loader beside somebody else's way to do its work."""
    result = load("stages_cpu")
    if result is None:
        return "Not measured yet."
    lines = ["| stage | beside | its µs a sample | dalipipe's | dalipipe is |", "|---|---|---:|---:|---:|"]
    track = None
    for row in result["rows"]:
        if row["track"] != track:
            track = row["track"]
            lines.append(f"| **{track}** | | | | |")
        us, factor = row["us"], row["ratio"]
        shown = f"{factor:,.0f}×" if factor >= 9.95 else f"{factor:.1f}×"
        both = " | ".join(_short(us[name]) for name in (row["reference"], "dalipipe"))
        lines.append(f"| {row['stage']} | {row['reference']} | {both} | {f'**{shown}**' if factor < 0.95 else shown} |")
    return "\n".join(
        [
            f"{result['what']}. Bold where dalipipe is slower.",
            "",
            *lines,
            "",
            f"Medians of {result['rounds']} interleaved rounds; factors are medians of the rounds' own. "
            f"{measured_on(result)}.",
        ]
    )


def _short(us: float) -> str:
    """Three digits of it, and no more."""
    return f"{us:,.0f}" if us >= 100 else f"{us:.3g}"


def _title(library: str, result: dict[str, Any]) -> str:
    version = {**result["machine"]["versions"], **result["versions"]}[library].split("+")[0]
    return f"{'torchvision v2' if library == 'torchvision' else library.capitalize()} {version}"


def _beside(row: dict[str, Any], library: str) -> str:
    if library not in row["ratios"]:
        return "–"
    value = row["ratios"][library]
    factor = f"{value:,.0f}×" if value >= 9.95 else f"{value:.1f}×"
    return f"{row['us_per_image'][library]:,.0f} ({f'**{factor}**' if value < 0.95 else factor})"
