"""What all blocks share: their register, results, and the words for machines, goals, means."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results"

Load = Callable[[str], "dict[str, Any] | None"]
Block = Callable[[Load], str]

BLOCKS: dict[str, Block] = {}


def block(function: Block) -> Block:
    """Pages may ask for it by its name."""
    name = function.__name__
    if name in BLOCKS:
        raise ValueError(f"two blocks are called {name!r}")
    BLOCKS[name] = function
    return function


def load(name: str) -> dict[str, Any] | None:
    """results/NAME.json, None where that was not measured."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def measured_on(result: dict[str, Any]) -> str:
    """Date, processor and versions."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if name != "dalipipe")
    processor = machine["gpu"] or f"{machine['cores']} cores of an {machine['cpu']} ({machine['simd']})"
    return f"{machine['date']}; {processor}; {versions}"


def outcome(goal: float | None, value: float) -> str:
    """Said plainly."""
    return "" if goal is None else "met" if value >= goal else "**short**"


def ours(name: str) -> str:
    """The contender's name, bold where it is dalipipe."""
    return f"**{name}**" if name.startswith("dalipipe") else name


def by_seed(result: dict[str, Any], tasks: list[str], arm: str, field: str) -> dict[int, float]:
    """The mean over tasks, of seeds that all of them have."""
    found: dict[int, list[float]] = {}
    for one in result["runs"]:
        if one["task"] in tasks and one["arm"] == arm:
            found.setdefault(one["seed"], []).append(one[field])
    return {seed: statistics.mean(values) for seed, values in found.items() if len(values) == len(tasks)}


def mean(values: list[float], sign: str = "") -> str:
    """With its standard error."""
    return f"{statistics.mean(values):{sign}.2f} ± {statistics.stdev(values) / len(values) ** 0.5:.2f}"
