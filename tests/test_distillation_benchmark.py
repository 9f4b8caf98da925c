"""The study of distillation: every cell trains, on what its seed says, and runs that are there are not repeated."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
try:
    import distillation_accuracy as study
finally:
    sys.path.remove(str(BENCHMARKS))

FEW = study.Settings(digits_steps=2, draw_epochs=2, teacher_epochs=1, teacher_width=4, width=4)


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_every_cell_trains(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    study.pictures.cache_clear()
    work = tmp_path / "work"
    work.mkdir()
    teacher = study.teach("digits", FEW, str(tmp_path), str(work))
    assert teacher["pictures"] == 1442 and teacher["kept_us"] < teacher["live_us"]
    runs = [study.run("digits", arm, 0, FEW, str(tmp_path), str(work)) for arm in study.ARMS]
    assert {one["rows"] for one in runs} == {50} and {one["steps"] for one in runs} == {2}
    assert all(0 <= one["accuracy"] <= 100 for one in runs)
    again = study.teach("digits", FEW, str(tmp_path), str(work))  # is there already
    assert again["accuracy"] == teacher["accuracy"] and again["cpu_s"] < teacher["cpu_s"]


def test_seeds_say_what_students_see(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    study.pictures.cache_clear()
    (train, _), (pilot, rest) = (study.split_of("digits", seed, FEW, str(tmp_path)) for seed in (0, 1000))
    assert np.bincount(train.labels).tolist() == [5] * 10 == np.bincount(pilot.labels).tolist()
    other, test = study.split_of("digits", 1, FEW, str(tmp_path))
    assert len(test) == 355 and len(rest) == 1000
    one, two = (source.read(np.arange(50)).columns["image"] for source in (train, other))
    assert not all(np.array_equal(*pair) for pair in zip(one, two, strict=True))
