"""The parity page: its measurements find what differs, its claims follow from them, and it is up to date."""

from __future__ import annotations

import copy
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("timm")

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))

from compared import distributions, operators, page, recipes, theirs, two_samples  # noqa: E402
from compared.cases import CASES, Case, left_out  # noqa: E402

from dalipipe.ops import image as ops  # noqa: E402

RESULT = json.loads((ROOT / "benchmarks" / "results" / "parity.json").read_text())


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    y, x = np.mgrid[:40, :52]
    smooth = np.stack([120 + 90 * np.sin(x / 9 + c) * np.cos(y / 7) for c in range(3)], axis=2)
    noise = np.random.default_rng(0).integers(-30, 31, (40, 52, 3))
    return [smooth.astype(np.uint8), np.clip(smooth[::-1] + noise, 0, 255).astype(np.uint8)]


def measured(case: Case, pictures: list[np.ndarray]) -> dict[str, Any]:
    return operators.measure(case, {"as they are": operators.Pictures(pictures, 2)})


def test_every_operator_is_compared_at_five_settings() -> None:
    assert left_out() == ["SaltAndPepper"]
    without_parameters = {"HorizontalFlip", "VerticalFlip", "Grayscale", "ChannelShuffle", "Invert"}
    without_parameters |= {"AutoContrast", "Equalize"}
    assert {case.name for case in CASES if len(case.settings) < 5} == without_parameters
    assert {row["name"] for row in RESULT["operators"]} == {case.name for case in CASES} | {"MixUp", "CutMix"}
    assert {row["name"] for row in RESULT["recipes"]} == {recipe.name for recipe in recipes.RECIPES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_two_pictures(case: Case, pictures: list[np.ndarray]) -> None:
    row = measured(case, pictures)
    figures = row["on"]["as they are"]
    key = "tensor" if case.on_tensors else "pil"
    assert figures[key]["pictures"] >= 2 and len(figures["by_setting"]) == len(case.settings)
    if case.exact:
        assert figures[key]["max"] == 0, figures
    if case.on_tensors:
        assert figures.get("elsewhere", figures["tensor"])["max"] <= 2
        assert page.verdict(row) == "exact" or page.cause(row)


def test_what_differs_is_found(pictures: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's pictures made brighter by two levels: nothing agrees any more."""
    made = theirs.made
    case = Case("Colour", "Invert", (ops.Invert(),), exact=True, on_pil=False)
    assert page.verdict(measured(case, pictures)) == "exact"
    monkeypatch.setattr(theirs, "made", lambda calls, x: made(calls, x).clamp(max=253) + 2)
    figures = measured(case, pictures)["on"]["as they are"]["tensor"]
    assert figures["max"] == 2 and figures["beyond_1"] > 0.9 and figures["beyond_2"] == 0
    assert page.verdict(measured(case, pictures)) == "**misses**"


def test_a_recipe_and_mixing(pictures: list[np.ndarray]) -> None:
    by_name = {recipe.name: recipe for recipe in recipes.RECIPES}
    plain = recipes.measure(by_name["torchvision, classification"], {"as they are": pictures})
    assert plain["refused"] == 0 and plain["folded"]["pictures"] == 2 and plain["folded"]["max"] < 1e-3
    mixed = recipes.measure(by_name["with AugMix"], {"as they are": pictures})
    assert mixed["folded"]["max"] > 0 and mixed["singly"]["mean"] < 1.0 and mixed["pil_itself"]["pictures"] == 2
    for row in operators.measure_mixing(pictures * 4):
        assert row["on"]["224 px"]["tensor"]["pictures"] == 40 and row["on"]["224 px"]["tensor"]["max"] < 1e-3


def test_two_samples() -> None:
    random = np.random.default_rng(0)
    a, b = random.random((2, 2000))
    same, other = two_samples.kolmogorov_smirnov(a, b), two_samples.kolmogorov_smirnov(a, b**1.2)
    assert same[1] > 0.01 and other[1] < 1e-4 < other[0] and two_samples.kolmogorov_smirnov(a, a) == (0.0, 1.0)
    # Of 400 comparisons of equal distributions, as many p lie below a limit as it says.
    p = np.array([two_samples.kolmogorov_smirnov(*random.random((2, 300)))[1] for _ in range(400)])
    assert abs((p < 0.1).mean() - 0.1) < 0.06 and abs((p < 0.5).mean() - 0.5) < 0.1
    draws = [Counter(random.integers(0, 6, 3000).tolist()) for _ in range(2)]
    assert two_samples.chi_squared(*draws)[1] > 0.01
    assert two_samples.chi_squared(draws[0], draws[1] + Counter({2: 400}))[1] < 1e-4
    with pytest.raises(ValueError, match="different things"):
        list(two_samples.compare({"angle": [1.0]}, {"scale": [1.0]}))


def test_what_is_drawn() -> None:
    chosen = ("RandomAffine", "RandomResizedCrop", "AugMix", "timm: rand-m9-mstd0.5-inc1", "CutMix(alpha=1.0)")
    seen = set()
    for _, shown, comparison in distributions.comparisons(200):
        name = next((name for name in chosen if shown.startswith(name)), None)
        if name is None or name in seen:
            continue
        seen.add(name)
        rows = distributions._drawn(comparison, 0)
        assert rows and min(row["p"] for row in rows) > 1e-4, shown
    assert seen == set(chosen)


def test_page_is_up_to_date() -> None:
    assert page.render(RESULT) == (ROOT / "docs" / "parity.md").read_text(), "python benchmarks/parity.py --page"
    assert (ROOT / "docs" / "images" / "parity.png").is_file()


def test_claims_are_computed() -> None:
    text = page.render(RESULT)
    changed = copy.deepcopy(RESULT)
    row = next(row for row in changed["operators"] if row["name"] == "RandomErasing")
    assert row["exact"] and page.verdict(row) == "exact"
    row["on"]["32 px"]["tensor"]["max"] = row["on"]["32 px"]["by_setting"][0][0] = 1.0
    assert page.verdict(row) == "**misses**" and page.shortfalls(row) == {"32 px": "off by up to 1"}
    draw = changed["distributions"][0]
    draw["p"], draw["again"] = 0.0001, 0.5
    new = page.render(changed)
    assert "RandomErasing.** The cause is not known" in new and "p = 0.0001, then 0.50" in new
    counts = [line for line in text.splitlines() if "**exact** to the bit" in line or "p below" in line]
    assert counts and not set(counts) & set(new.splitlines())


def test_what_is_not_exact_has_a_cause() -> None:
    for row in RESULT["operators"]:
        if any("tensor" in figures for figures in row["on"].values()) and not page.is_exact(row):
            assert page.cause(row) in page.CAUSES, row["name"]
