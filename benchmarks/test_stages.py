"""Every stage of a loader beside a reference that does the same work, on one core.

    pytest benchmarks/test_stages.py              writes results/stages_cpu.json
    pytest benchmarks/test_stages.py --check      compares with it, ratio by ratio

What each makes is verified before it is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import regression
from rounds import interleave, lasting, ratio, undisturbed, write
from stages import Case, cases

pytestmark = pytest.mark.timeout(0)


def measure(case: Case, rounds: int, over: Callable[..., float] = ratio) -> dict[str, Any]:
    print(f"\n{case.name}")
    runs = {"dalipipe": case.ours, case.reference: case.theirs}
    timings = interleave({name: lasting(run, case.samples) for name, run in runs.items()}, rounds)
    return {
        "track": case.track,
        "stage": case.stage,
        "reference": case.reference,
        "us": {name: round(float(1e6 / np.median(timing.rates)), 3) for name, timing in timings.items()},
        "ratio": round(over(timings, "dalipipe", case.reference), 3),
    }


def ratios(result: dict[str, Any]) -> dict[str, float]:
    """Of each stage, by what it is."""
    return {f"{row['track']}: {row['stage']}": row["ratio"] for row in result["rows"]}


def test_stages(one_thread: None, tmp_path: Path, results: Path, pytestconfig: pytest.Config, benchmark: Any) -> None:
    rounds, all_cases = pytestconfig.getoption("--rounds"), list(cases(tmp_path))

    def measured() -> list[dict[str, Any]]:
        rows = []
        for case in all_cases:
            case.verify()
            rows.append(measure(case, rounds))
        return rows

    rows = benchmark.pedantic(measured, rounds=1, iterations=1)
    result = {
        "what": "µs a sample on one core: JPEGs of 500×375 px, 1 s at 8 kHz in WAV files, texts of 20 words",
        "rounds": rounds,
        "rows": rows,
    }
    benchmark.extra_info.update(ratios(result))
    if pytestconfig.getoption("--check"):

        def again(names: set[str]) -> dict[str, float]:
            chosen = [measure(case, 3 * rounds, undisturbed) for case in all_cases if case.name in names]
            return ratios({"rows": chosen})

        print(f"\n{regression.check('stages_cpu', ratios, ratios(result), again)}")
    else:
        print(f"\n→ {write('stages_cpu', result, results)}")
