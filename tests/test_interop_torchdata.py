"""torchdata: our loader as the source of nodes, and beside its StatefulDataLoader."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from examples import run_example

pytest.importorskip("torchdata.nodes")
from torchdata.nodes import Loader, Mapper, MultiNodeWeightedSampler, ParallelMapper, Prefetcher
from torchdata.stateful_dataloader import StatefulDataLoader

import dalipipe
from dalipipe.interop import LoaderNode
from dalipipe.ops import image as ops

N, BATCH = 22, 4
STEPS = -(-N // BATCH)
POLICY = dalipipe.Policy([ops.RandomResizedCrop(8), ops.HorizontalFlip(), ops.Contrast(p=0.5), ops.Normalize()])


def make(**kw: Any) -> dalipipe.DataLoader:
    """The labels are the samples' numbers."""
    pixels = np.random.default_rng(0).integers(0, 256, (N, 12, 14, 3), dtype=np.uint8)
    settings = {"shuffle": True, "policy": POLICY, "seed": 3, **kw}
    return dalipipe.DataLoader(dalipipe.Arrays(pixels, np.arange(N)), BATCH, device="cpu", **settings)


def halve(batch: Any) -> Any:
    return batch._replace(image=batch.image / 2)


PIPELINES: dict[str, Any] = {
    "alone": LoaderNode,
    "mapped": lambda loader: Mapper(LoaderNode(loader), halve),
    "prefetched": lambda loader: Prefetcher(Mapper(LoaderNode(loader), halve), prefetch_factor=3),
    "threads": lambda loader: ParallelMapper(LoaderNode(loader), halve, num_workers=2, method="thread"),
    "sparse states": lambda loader: Prefetcher(LoaderNode(loader), prefetch_factor=2, snapshot_frequency=3),
}


def content(batches: Any) -> list[Any]:
    return [(batch.label.tolist(), batch.image.clone()) for batch in batches]


def same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(x[0] == y[0] and torch.equal(x[1], y[1]) for x, y in zip(a, b, strict=True))


def epochs(name: str, count: int = 3) -> list[list[Any]]:
    halved = name in ("mapped", "prefetched", "threads")
    loader = make()
    return [content(map(halve, loader) if halved else loader) for _ in range(count)]


@pytest.mark.parametrize("name", PIPELINES)
def test_epochs_through_nodes(name: str) -> None:
    loader = Loader(PIPELINES[name](make()))
    for expected in epochs(name):
        assert same(content(loader), expected)


@pytest.mark.parametrize("name", PIPELINES)
def test_states_through_nodes_before_every_batch(name: str) -> None:
    """Each restored in a new pipeline; the rest of its epoch and the next must be what they would have been."""
    everything = [batch for epoch in epochs(name, 4) for batch in epoch]
    loader = Loader(PIPELINES[name](make()))
    states = [loader.state_dict()]
    for _ in range(2):
        for _batch in loader:
            states.append(json.loads(json.dumps(loader.state_dict())))
    for given, state in enumerate(states):
        resumed = Loader(PIPELINES[name](make()))
        resumed.load_state_dict(state)
        got = content(resumed)
        assert same(got, everything[given:][: len(got)])
        assert len(got) == STEPS - given % STEPS
        assert same(content(resumed), everything[given + len(got) :][:STEPS])


def test_breaking_off_and_beginning_anew() -> None:
    loader = Loader(Prefetcher(LoaderNode(make()), prefetch_factor=2))
    first, second, _ = epochs("alone")
    batches = iter(loader)
    assert same(content([next(batches), next(batches)]), first[:2])
    assert same(content(loader), second)
    del loader, batches


def test_mixed_with_other_nodes() -> None:
    nodes = {"a": LoaderNode(make()), "b": LoaderNode(make(seed=4))}
    mixed = Loader(MultiNodeWeightedSampler(nodes, {"a": 1.0, "b": 2.0}, stop_criteria="ALL_DATASETS_EXHAUSTED"))
    assert len(content(mixed)) == 2 * STEPS


def test_a_node_leaves_no_thread() -> None:
    node = LoaderNode(make())
    node.reset()
    next(node)
    del node
    assert "dalipipe-prefetch" not in {thread.name for thread in threading.enumerate()}


def test_stateful_data_loaders_names_and_parts() -> None:
    """The two methods are ours as they are its; and one built around our parts gives our batches."""
    loader = make()
    theirs = StatefulDataLoader(loader.dataset, batch_sampler=loader.batch_sampler, collate_fn=loader.collate_fn)
    assert {"state_dict", "load_state_dict"} <= set(dir(loader)) & set(dir(theirs))
    assert same(content(theirs), epochs("alone")[0])


def test_the_example(
    jpeg_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = jpeg_folder(24, name="data/train").parent
    arguments: list[Any] = [root, "--out", tmp_path / "state.pt", "--batch-size", 8, "--size", 32, "--save-every", 2]
    run_example("torchdata_nodes.py", *arguments, "--epochs", 1, monkeypatch=monkeypatch)
    assert "epoch 0: 3 batches, loss" in capsys.readouterr().out
    run_example("torchdata_nodes.py", *arguments, "--epochs", 2, "--resume", monkeypatch=monkeypatch)
    out = capsys.readouterr().out
    assert "epoch 1: 3 batches" in out and "epoch 0" not in out
