"""Writes the tables in README.md from results/*.json, between markers; ``--check`` fails where they differ.

    python benchmarks/report.py [--check]

A block begins ``<!-- results: NAME -->`` and ends ``<!-- end -->``; NAME is a function below.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = ("README.md",)

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


def gpu(load: Load) -> str:
    """What a GPU run gave, or that there was none."""
    result = load("gpu")
    if result is None:
        return "Not measured yet: no result from a CUDA machine is in `benchmarks/results/`."
    lines = ["| | measured |", "|---|---:|", *(f"| {name} | {value} |" for name, value in result["figures"].items())]
    return "\n".join([*lines, "", f"{_measured_on(result)}."])


BLOCKS = {function.__name__: function for function in (loaders_cpu, goals_cpu, sources_cpu, gpu)}


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
