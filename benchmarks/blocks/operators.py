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


def _title(library: str, result: dict[str, Any]) -> str:
    version = {**result["machine"]["versions"], **result["versions"]}[library].split("+")[0]
    return f"{'torchvision v2' if library == 'torchvision' else library.capitalize()} {version}"


def _beside(row: dict[str, Any], library: str) -> str:
    if library not in row["ratios"]:
        return "–"
    value = row["ratios"][library]
    factor = f"{value:,.0f}×" if value >= 9.95 else f"{value:.1f}×"
    return f"{row['us_per_image'][library]:,.0f} ({f'**{factor}**' if value < 0.95 else factor})"
