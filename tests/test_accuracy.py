"""benchmarks/accuracy.py trains in every arm, counts what is right, and its page says what its results say."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
try:
    import accuracy
    import accuracy_arms
    import accuracy_page
finally:
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(autouse=True)
def torch_rng() -> Iterator[None]:
    with torch.random.fork_rng():
        yield


@pytest.fixture
def pictures() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (17, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, 17)


def result(theirs: float, ours: float, cutout: float = 70.0) -> dict[str, Any]:
    """Made-up runs: three an arm, around 70 %, with a standard error of 0.58."""
    centre = {accuracy_arms.STANDARD[0]: theirs, accuracy_arms.STANDARD[1]: ours, "cutout": cutout}
    runs = [
        {"arm": name, "seed": i, "accuracy": centre.get(name, 70.0) + apart, "train_accuracy": 90.0, "cpu_s": 60.0}
        for name in accuracy_arms.ARMS
        for i, apart in enumerate((-1.0, 0.0, 1.0))
    ]
    machine = {"date": "2000-01-01", "cpu": "a processor", "simd": "scalar", "versions": {"torch": "1"}}
    settings = {**accuracy.asdict(accuracy.Settings()), "widths": [8]}
    return {"settings": settings, "pictures": [5000, 1000], "runs": runs, "machine": machine}


@pytest.mark.parametrize("name", accuracy_arms.ARMS)
def test_every_arm_trains(name: str, pictures: Any) -> None:
    settings = accuracy.Settings(widths=(4, 8), epochs=1, batch_size=16)
    one = accuracy.run(name, 3, settings, pictures, pictures)
    assert (one["arm"], one["seed"], one["steps"]) == (name, 3, 1)
    assert one["accuracy"] == one["train_accuracy"] and 0 <= one["accuracy"] <= 100


@pytest.mark.parametrize("library", ["dalipipe", "torchvision"])
def test_libraries_give_the_same_pixels_where_nothing_is_drawn(library: str) -> None:
    """A picture of one colour and its flip: what is not padding equals the colour, normalised."""
    colour = np.array([255, 100, 0], np.uint8)
    train = np.broadcast_to(colour, (8, 32, 32, 3)).copy(), np.arange(8)
    ((images, labels),) = accuracy.BATCHES[library]("", train, 8, 0)
    assert images.shape == (8, 3, 32, 32) and sorted(labels.tolist()) == list(range(8))
    expected = (torch.from_numpy(colour) / 255 - torch.tensor(accuracy.MEAN)) / torch.tensor(accuracy.STD)
    torch.testing.assert_close(images[:, :, 4:28, 4:28], expected.view(1, 3, 1, 1).expand(8, 3, 24, 24))


@pytest.mark.parametrize("library", ["dalipipe", "torchvision"])
def test_crops_and_flips_are_equally_likely(library: str) -> None:
    """Pixels tell their place: all 9 × 9 × 2 windows and flips come equally often, in all samples once an epoch."""
    ramp = 100 + 4 * np.arange(32, dtype=np.uint8)
    picture = np.stack([*np.meshgrid(ramp, ramp, indexing="ij"), np.zeros((32, 32), np.uint8)], axis=2)
    train = np.broadcast_to(picture, (4096, 32, 32, 3)).copy(), np.arange(4096)
    counts, seen = np.zeros((9, 9, 2)), []
    for images, labels in accuracy.BATCHES[library]("", train, 128, 1):
        pixels = 255 * (
            images[:, :2, 16, 15:17] * torch.tensor(accuracy.STD)[:2, None] + torch.tensor(accuracy.MEAN)[:2, None]
        )
        place = ((pixels - 100) / 4).round().long().numpy()  # [N, (y, x), two neighbours]
        flipped = place[:, 1, 1] < place[:, 1, 0]
        np.add.at(counts, (place[:, 0, 0] - 12, place[:, 1].min(1) - 11, flipped.astype(int)), 1)
        seen += labels.tolist()
    assert sorted(seen) == list(range(4096))
    expected = 4096 / counts.size
    chi_squared = float(((counts - expected) ** 2 / expected).sum())  # mean 161, standard deviation 18
    assert 100 < chi_squared < 230


def test_accuracy_counts_what_is_right(pictures: Any) -> None:
    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.one_hot(torch.full((len(x),), 7), 10).float()

    labels = np.array([7] * 5 + [2] * 12)
    assert accuracy.accuracy(Constant(), (pictures[0], labels)) == pytest.approx(100 * 5 / 17)


def test_decodes_folders(tmp_path: Path) -> None:
    for split, count in ("train", 2), ("test", 1):
        for grey, name in (10, "a"), (200, "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (32, 32), (grey,) * 3).save(tmp_path / split / name / f"{i}.jpg")
    (train, train_labels), (test, test_labels) = accuracy.decoded(tmp_path)
    assert train.shape == (4, 32, 32, 3) and train.dtype == np.uint8 and test.shape == (2, 32, 32, 3)
    assert train_labels.tolist() == [0, 0, 1, 1] and test_labels.tolist() == [0, 1]
    assert abs(train.mean((1, 2, 3)) - [10, 10, 200, 200]).max() < 2


def test_runs_that_are_there_are_not_wanted_again() -> None:
    everything = accuracy.wanted([])
    assert len(everything) == len(set(everything)) == sum(arm.seeds for arm in accuracy_arms.ARMS.values())
    assert [seed for _, seed in everything] == sorted(seed for _, seed in everything)  # early ends leave whole rounds
    done = [{"arm": name, "seed": seed} for name, seed in everything[:-2]]
    assert accuracy.wanted(done) == everything[-2:]


def test_the_page_is_of_the_results() -> None:
    text = accuracy_page.page(json.loads(accuracy.RESULTS.read_text()))
    assert accuracy_page.PAGE.read_text() == text, "docs/accuracy.md is out of date: python benchmarks/accuracy.py"
    assert accuracy_page.FIGURE.read_bytes()[:4] == b"\x89PNG"


def test_the_page_claims_only_what_was_measured() -> None:
    error = 1 / math.sqrt(3)  # of a mean; of a difference √2 times that
    same = accuracy_page.page(result(75.0, 75.0 + error))
    assert "end within one standard error" in same.replace("\n", " ")
    assert f"| standard | {error:+.2f} ± {math.sqrt(2) * error:.2f} | 0.71 | yes |" in same
    apart = accuracy_page.page(result(75.0, 75.0 - 2 * error))
    assert "end **not** within one standard error" in apart.replace("\n", " ") and "| **no** |" in apart
    assert "more than two standard errors: standard." in same.replace("\n", " ")
    better = accuracy_page.page(result(70.0, 70.0, cutout=73.0)).replace("\n", " ")
    assert "augmentation by more than two standard errors: standard + Cutout." in better
    assert (
        "standard errors: standard + RandAugment, standard + MixUp; worse by more than two: none." in better
    )  # not better than the standard
    worse = accuracy_page.page(result(70.0, 70.0, cutout=67.0)).replace("\n", " ")
    assert "worse by more than two: standard + Cutout." in worse


def test_draws(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    accuracy_page.draw(result(70.0, 71.0), tmp_path / "images" / "accuracy.png")
    with Image.open(tmp_path / "images" / "accuracy.png") as image:
        assert image.width > 500
