"""The study of transfer: every arm trains what it should, and what is measured is what the table says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_finetune import one_thread

from dalipipe.finetune import layers_of

_ = one_thread  # a fixture of this module, too
BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
try:
    import transfer_accuracy as study
finally:
    sys.path.remove(str(BENCHMARKS))

FEW = study.Settings(seeds=2, counts=(2, 5), widths=(4, 8), epochs=2, pretraining_epochs=2)


def test_the_network_has_five_layers() -> None:
    assert len(layers_of(study.network(5, study.Settings().widths))) == 5


def test_every_arm_trains(tmp_path: Path) -> None:
    data = study.made_halves()
    assert all(len(labels) == 50 and images.shape == (50, 32, 32, 3) for images, labels in data.values())
    before = study.pretrain(0, FEW, data, tmp_path)
    assert 0 <= before["accuracy"] <= 100
    for arm in study.ARMS:
        first, again = (study.run(arm, 2, True, 0, FEW, data, tmp_path) for _ in range(2))
        assert first["accuracy"] == again["accuracy"] and first["arm"] == arm


def test_epochs_are_as_long_for_few_pictures_as_for_many() -> None:
    images, labels = study.made_halves()["target train"]
    for count in (10, 50):
        loader = study.loader((images[:count], labels[:count]), FEW, augmented=False, seed=0, samples=200)
        assert len(loader) == 4
        seen = torch.cat([batch.label for batch in loader])
        assert np.array_equal(np.bincount(seen), np.bincount(labels[:count]) * (200 // count))
        loader.close()


def test_runs_that_are_there_are_not_repeated_and_the_table_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    every = study.wanted([], FEW)
    assert len(every) == len(study.ARMS) * 2 * 2 * 2 and [one[-1] for one in every[: len(every) // 2]] == [0] * 24
    random = np.random.default_rng(0)
    runs: list[dict[str, Any]] = [
        {"arm": arm, "count": count, "augmented": how, "seed": seed, "accuracy": random.uniform(50, 60), "cpu_s": 1.0}
        for arm, count, how, seed in every[:-1]
    ]
    assert study.wanted(runs, FEW) == every[-1:]

    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import report

    settings = {**vars(FEW), "lr": study.ARMS}
    machine = {"date": "D", "gpu": None, "cores": 2, "cpu": "C", "simd": "S", "versions": {"torch": "1"}}
    pretrained = [{"seed": seed, "accuracy": 80.0 + seed, "cpu_s": 1.0} for seed in range(2)]
    result = {"settings": settings, "pretrained": pretrained, "runs": runs, "machine": machine}
    text = report.BLOCKS["transfer_accuracy"]({"transfer_accuracy": result}.get)
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| ")}
    assert list(rows)[1:] == list(study.ARMS)
    values = study.accuracies(runs, "frozen", 5, False)
    assert f"{np.mean(values):.2f} ± {np.std(values, ddof=1) / 2**0.5:.2f}" in rows["frozen"]
    assert rows["joint"].count("–") == 1 and "80.50 ± 0.50 %" in text
    assert report.BLOCKS["transfer_accuracy"]({}.get) == "Not measured yet."


def test_the_figure_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    runs = [
        {"arm": arm, "count": count, "augmented": how, "seed": seed, "accuracy": 50.0 + seed}
        for arm, count, how, seed in study.wanted([], FEW)
    ]
    study.draw(runs, FEW.counts, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
