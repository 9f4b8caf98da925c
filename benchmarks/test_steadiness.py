"""How steadily batches come, and what a second core brings, beside the same of fixed work, which no loader is in the
way of: what this machine itself is good for.

    pytest benchmarks/test_steadiness.py -s --data=DIR
"""

from __future__ import annotations

import os
import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rounds import write

import dalipipe
from dalipipe import bench
from dalipipe.bench.comparing import turn_order
from dalipipe.bench.contenders import CONTENDERS, OURS, Entry
from dalipipe.bench.process import Process

pytestmark = pytest.mark.timeout(0)

BATCH, TURN = 128, 24  # pictures, batches
FIXED = "fixed work"


def test_steadiness(
    photographs: Path, pytestconfig: pytest.Config, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    cores, rounds = len(os.sched_getaffinity(0)), 2 * pytestconfig.getoption("--rounds")
    paths = tmp_path / "work.json"
    bench.work_of(dalipipe.ImageFolder(photographs), batch_size=BATCH, cores=cores).write(paths)
    entries = {OURS: CONTENDERS[OURS], FIXED: Entry("fixed_work:FixedWork", "dalipipe", "")}
    turns: dict[tuple[str, int], list[dict[str, Any]]] = {}
    with ExitStack() as stack:
        running: dict[tuple[str, int], Process] = {}
        for name, entry in entries.items():
            for count in (cores, 1):
                settings = {"num_workers": count, **({"prefetch_factor": 2} if name == OURS else {})}
                process = stack.enter_context(Process(paths, entry, settings, cores=count))
                process.start()
                process.settle()
                running[name, count], turns[name, count] = process, []
        order = list(running)
        for number in range(rounds + 1):
            for key in turn_order(order, number):
                found = running[key].run(TURN)
                if number:
                    turns[key].append(found)
    result = {
        "what": f"batches of {BATCH} photographs, {rounds} turns of {TURN}",
        "rounds": rounds,
        "cores": cores,
        "contenders": {name: of(turns[name, cores], turns[name, 1]) for name in entries},
    }
    for name, found in result["contenders"].items():
        print(f"\n{name}: {found}")
    print(write("steadiness_cpu", result, results))


def of(all_cores: list[dict[str, Any]], one: list[dict[str, Any]]) -> dict[str, Any]:
    """``scaling``: the median of the turns' ratios; ``cores``: kept busy; ``cpu``: an image's processor time on all
    cores over that on one.
    """
    batch_s = np.concatenate([turn["batch_s"] for turn in all_cores])
    p50, p99 = (float(each) for each in np.quantile(batch_s, (0.5, 0.99)))
    alone = np.concatenate([turn["batch_s"] for turn in one])
    pairs = list(zip(all_cores, one, strict=True))
    return {
        "p50_ms": round(1e3 * p50, 2),
        "p99_over_p50": round(p99 / p50, 3),
        "one_core_p99_over_p50": round(float(np.quantile(alone, 0.99) / np.median(alone)), 3),
        "scaling": round(statistics.median(_rate(a) / _rate(b) for a, b in pairs), 3),
        "cores": round(statistics.median(turn["cpu_s"] / turn["seconds"] for turn in all_cores), 3),
        "cpu": round(statistics.median(a["cpu_s"] / a["items"] / (b["cpu_s"] / b["items"]) for a, b in pairs), 3),
    }


def _rate(turn: dict[str, Any]) -> float:
    return float(turn["items"] / turn["seconds"])
