"""Regressions are found by ratios to a reference of the same run; the stages that are compared do what they should."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("soundfile")

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def ratios(result: dict[str, Any]) -> dict[str, float]:
    return dict(result["rows"])


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """What was measured here, and elsewhere."""
    from rounds import machine

    rows = {"read": 2.0, "decode": 1.5, "draw": 0.5, "mix": 10.0}
    here = {**machine(), "date": "2026-01-01"}
    for name, where in (("some", here), ("elsewhere", {**here, "cpu": "A"})):
        (tmp_path / f"{name}.json").write_text(json.dumps({"rows": rows, "machine": where}))
    return tmp_path


def never(names: set[str]) -> dict[str, float]:
    raise AssertionError(f"measured again: {names}")


def test_faster_and_a_little_slower_is_no_regression(results: Path) -> None:
    import regression

    now = {"read": 1.51, "decode": 9.0, "draw": 0.376, "mix": 7.6, "new": 1.0}
    assert (
        regression.check("some", ratios, now, never, results)
        == "some: 4 ratios are no less than 0.75 of what they were"
    )


def test_what_is_slow_once_is_measured_again(results: Path) -> None:
    import regression

    asked: list[set[str]] = []

    def again(names: set[str]) -> dict[str, float]:
        asked.append(names)
        return {"decode": 1.4, "mix": 7.0}

    now = {"read": 2.0, "decode": 1.0, "draw": 0.5, "mix": 1.0}
    with pytest.raises(AssertionError, match=r"1 of 4, .* since 2026-01-01:\nmix: 10\.00 → 7\.00 times"):
        regression.check("some", ratios, now, again, results)
    assert asked == [{"decode", "mix"}]
    assert "4 ratios" in regression.check("some", ratios, now, lambda names: {"decode": 1.4, "mix": 9.0}, results)


def test_ratios_of_another_processor_are_compared_loosely(results: Path) -> None:
    import regression

    now = {"read": 1.0, "decode": 0.6, "draw": 0.5, "mix": 3.4}
    said = regression.check("elsewhere", ratios, now, never, results)
    assert said.startswith("elsewhere: 4 ratios are no less than 0.33") and "an A (" in said
    with pytest.raises(AssertionError, match="mix"):
        regression.check("elsewhere", ratios, {**now, "mix": 3.2}, lambda names: {}, results)


def test_what_cannot_be_compared_is_said(results: Path) -> None:
    import regression

    said = regression.check("some", ratios, {"read": 2.0, "draw": 1.0}, never, results)
    assert said.startswith("some: 2 ratios") and "absent here: decode, mix" in said
    with pytest.raises(AssertionError, match=r"none of other"):
        regression.check("some", ratios, {"other": 1.0}, never, results)
    with pytest.raises(AssertionError, match=r"other\.json is missing"):
        regression.check("other", ratios, {"read": 2.0}, never, results)


def test_stages_do_what_their_references_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import stages

    for name, few in (("PICTURES", 6), ("SOUNDS", 8), ("TEXTS", 1000)):
        monkeypatch.setattr(stages, name, few)
    monkeypatch.setattr(stages, "STORED_PX", (120, 160))
    seen = []
    for case in stages.cases(tmp_path):
        case.verify()
        case.ours()
        case.theirs()
        seen.append(case.name)
    of_files = ("read", "probe", "draw", "decode", "augment")
    assert sorted(seen) == sorted(
        [
            *(f"{track}: {stage}" for track in ("pictures", "sounds") for stage in of_files),
            "texts: read",
            "texts: draw and augment",
        ]
    )


def test_a_machine_that_is_disturbed_now_and_then() -> None:
    from rounds import Timing, undisturbed

    timings = {"ours": Timing([10.0, 4.0, 5.0]), "theirs": Timing([5.0, 5.0, 4.0])}
    assert undisturbed(timings, "ours", "theirs") == 2.0


def test_ratios_of_the_committed_operators_can_be_compared() -> None:
    pytest.importorskip("cv2")
    pytest.importorskip("kornia")
    pytest.importorskip("albumentations")
    import test_operators

    committed = json.loads((BENCHMARKS / "results" / "operators_cpu.json").read_text())
    found = test_operators.ratios_of(committed)
    assert len(found) == sum(len(row["ratios"]) for row in committed["rows"]) and min(found.values()) > 0
    sys.modules.pop("test_operators")
