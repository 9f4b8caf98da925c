"""The figures in the README are those of benchmarks/results, and a block says plainly what fell short."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def report() -> Any:
    spec = importlib.util.spec_from_file_location("report", ROOT / "benchmarks" / "report.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_are_up_to_date(report: Any) -> None:
    for page in report.PAGES:
        text = (ROOT / page).read_text()
        assert text.count("<!-- results:") >= 2
        assert report.render(text) == text, f"{page} is out of date: python benchmarks/report.py"


def test_goals_are_compared_and_not_claimed(report: Any) -> None:
    results = {
        "loaders_cpu": {
            "best_torch": "T",
            "ratios": {
                "over T": 1.9,
                "over Pillow, DataLoader": 2.49,
                "over DALI's own CPU pipeline": 1.7,
                "over DALI's ROI decoding alone": 0.79,
            },
        },
        "fused_image_cpu": {"us_per_image": 120.4},
        "memory_cpu": {
            "buffers_mb": [90, 100, 100],
            "resident_mb": [900, 1000, 1031],
            "dali_decoding_alone_mb": [1, 2, 3],
        },
    }
    text = report.goals_cpu(results.get)
    rows = {line.split("|")[1].strip(): line for line in text.splitlines()[2:] if line.startswith("|")}
    assert [("met" in row, "short" in row) for row in rows.values()] == [
        (True, False),
        (False, True),
        (True, False),
        (False, True),
        (False, True),
        (True, False),
        (False, True),
    ]
    assert "79%" in text and "2.49" in text
    assert "Not measured yet" in report.gpu({}.get)


def test_unknown_blocks_are_refused(report: Any) -> None:
    with pytest.raises(ValueError, match="no block is called 'speed'"):
        report.render("<!-- results: speed -->\n<!-- end -->")
