"""Hugging Face Accelerate, as it is, on our loader: prepare, gradient accumulation, skipped batches, two processes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from examples import run_example

accelerate = pytest.importorskip("accelerate")
from accelerate import Accelerator, skip_first_batches  # noqa: E402
from accelerate.state import AcceleratorState, GradientState  # noqa: E402

import dalipipe  # noqa: E402
from dalipipe.ops import image as ops  # noqa: E402

N, BATCH = 22, 4
STEPS = -(-N // BATCH)
POLICY = dalipipe.Policy([ops.RandomResizedCrop(8), ops.HorizontalFlip(), ops.Contrast(p=0.5), ops.Normalize()])


def make(batch_size: int = BATCH, **kw: Any) -> dalipipe.DataLoader:
    """The labels are the samples' numbers."""
    pixels = np.random.default_rng(0).integers(0, 256, (N, 12, 14, 3), dtype=np.uint8)
    settings = {"shuffle": True, "policy": POLICY, "seed": 3, **kw}
    return dalipipe.DataLoader(dalipipe.Arrays(pixels, np.arange(N)), batch_size, device="cpu", **settings)


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, N))


def reset() -> None:
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


@pytest.fixture(autouse=True)
def _fresh_state() -> Iterator[None]:
    reset()
    yield
    reset()


def labels(batches: Any) -> list[list[int]]:
    return [batch[1].tolist() for batch in batches]


def train(accelerator: Any, net: Any, optimizer: Any, loader: Any, epochs: int = 1) -> list[Any]:
    """Accelerate's own training loop → (labels, whether a step was taken, loss) of every batch."""
    out = []
    for _ in range(epochs):
        for image, label in loader:
            with accelerator.accumulate(net):
                loss = torch.nn.functional.cross_entropy(net(image), label)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            out.append((label.tolist(), accelerator.sync_gradients, loss.item()))
    return out


def test_prepare_leaves_the_loader_as_it_is() -> None:
    loader = make()
    prepared, _ = Accelerator(cpu=True).prepare(loader, model())
    assert prepared is loader
    assert labels(prepared) == labels(make())
    batch = next(iter(prepared))
    assert batch.image is batch[0] and batch.indices.tolist() == batch.label.tolist()


def test_gradients_are_accumulated_as_over_torchs_loader() -> None:
    """6 batches, the last one short, 4 a step: the end of an epoch is a step, too."""
    epochs = 3
    batches = [batch for loader in [make()] for _ in range(epochs) for batch in loader]

    def run(loaders: Any) -> Any:
        reset()
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
        net = model()
        net, optimizer, *loaders = accelerator.prepare(net, torch.optim.Adam(net.parameters(), 1e-2), *loaders)
        seen = [row for loader in loaders for row in train(accelerator, net, optimizer, loader)]
        assert not accelerator.gradient_state.in_dataloader
        return seen, [parameter.detach().clone() for parameter in net.parameters()]

    tensors = [
        torch.utils.data.TensorDataset(*map(torch.cat, zip(*batches[i : i + STEPS], strict=True)))
        for i in (0, STEPS, 2 * STEPS)
    ]
    theirs, their_weights = run([torch.utils.data.DataLoader(data, BATCH) for data in tensors])
    ours, our_weights = run([make()] * epochs)
    assert [synced for _, synced, _ in ours] == [False, False, False, True, False, True] * epochs
    assert ours == theirs
    assert all(torch.equal(a, b) for a, b in zip(our_weights, their_weights, strict=True))


def test_breaking_off_leaves_no_trace() -> None:
    accelerator = Accelerator(cpu=True)
    train_loader, val_loader = accelerator.prepare(make()), accelerator.prepare_data_loader(make(shuffle=False))
    for _ in train_loader:
        assert accelerator.gradient_state.active_dataloader is train_loader._current()
        for i, _ in enumerate(val_loader):
            assert accelerator.gradient_state.active_dataloader is val_loader._current()
            assert accelerator.gradient_state.end_of_dataloader == (i == STEPS - 1)
        break
    assert not accelerator.gradient_state.in_dataloader
    iterator = iter(make())  # not prepared: none of its business
    next(iterator)
    assert not accelerator.gradient_state.in_dataloader


@pytest.mark.parametrize("prepared", [True, False])
@pytest.mark.parametrize("kw", [{}, {"shards": "exact"}, {"drop_last": True}, {"rank": 1, "world_size": 2}])
def test_skipping_gives_the_exact_rest(kw: dict[str, Any], prepared: bool) -> None:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
    epochs = [list(loader) for loader in [make(**kw)] for loader in (loader, loader)]
    for skip in range(len(epochs[0]) + 1):
        loader = make(**kw)
        if prepared:
            loader = accelerator.prepare(loader)
        skipping = (accelerator.skip_first_batches if prepared else skip_first_batches)(loader, skip)
        assert len(skipping) == len(epochs[0]) - skip
        rest = list(skipping)
        assert len(rest) == len(skipping)
        for ours, expected in zip(rest, epochs[0][skip:], strict=True):
            assert type(ours) is type(expected) and all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))
            assert (ours.indices == expected.indices).all()
        # The next epoch comes next; after one that was skipped as a whole nothing has been given.
        assert labels(loader) == labels(epochs[1] if rest else epochs[0])


def test_skipping_keeps_the_step_at_the_end_of_an_epoch() -> None:
    def run(first: Any) -> Any:
        reset()
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
        net = model()
        net, optimizer, loader = accelerator.prepare(net, torch.optim.SGD(net.parameters(), 1e-2), make())
        return train(accelerator, net, optimizer, first(accelerator, loader))

    assert [synced for _, synced, _ in run(lambda a, loader: loader)] == [False, False, False, True, False, True]
    assert [synced for _, synced, _ in run(lambda a, loader: a.skip_first_batches(loader, 3))] == [False, False, True]


def test_states_carry_the_position(tmp_path: Path) -> None:
    """``save_state`` in mid-epoch; then ``load_state``, and either just going on or skipping as scripts do."""
    net = model()
    accelerator = Accelerator(cpu=True)
    net, optimizer, loader = accelerator.prepare(net, torch.optim.Adam(net.parameters(), 1e-2), make())
    seen = train(accelerator, net, optimizer, loader)
    batches = iter(loader)
    seen += train(accelerator, net, optimizer, [next(batches) for _ in range(2)])
    accelerator.save_state(tmp_path)
    rest = train(accelerator, net, optimizer, batches) + train(accelerator, net, optimizer, loader)
    assert len(seen) == STEPS + 2 and [row[0] for row in seen + rest] == labels(
        b for e in [make()] for _ in range(3) for b in e
    )

    for skip in (False, True):
        reset()
        net = model()
        accelerator = Accelerator(cpu=True)
        net, optimizer, loader = accelerator.prepare(net, torch.optim.Adam(net.parameters(), 1e-2), make())
        accelerator.load_state(tmp_path)
        first = accelerator.skip_first_batches(loader, 2) if skip else loader
        assert train(accelerator, net, optimizer, first) + train(accelerator, net, optimizer, loader) == rest


def _rank(rank: int, world: int, port: int, out: str) -> None:
    """One of the processes that Accelerate's launcher would start."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    early = make(3)  # before there are processes to share with
    val = make(3, shuffle=False, shards="exact")
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=3)
    assert accelerator.num_processes == world
    net = model()
    net, optimizer, early, val = accelerator.prepare(net, torch.optim.SGD(net.parameters(), 1e-2), early, val)
    seen = train(accelerator, net, optimizer, early)
    tail = labels(accelerator.skip_first_batches(early, 2))
    gathered = [accelerator.gather_for_metrics(batch.label).tolist() for batch in val]
    padded = [
        accelerator.gather_for_metrics(batch.label).tolist() for batch in accelerator.prepare(make(3, shuffle=False))
    ]
    weights = [parameter.detach().clone() for parameter in net.parameters()]
    torch.save([seen, tail, gathered, padded, weights], f"{out}/{rank}.pt")
    accelerator.end_training()


def test_two_processes(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.start_processes(_rank, (2, port, str(tmp_path)), nprocs=2, start_method="spawn")
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    alone = make(6)
    first, second = labels(alone), labels(alone)
    (seen_0, tail_0, *gathered_0, weights_0), (seen_1, tail_1, *gathered_1, weights_1) = ranks
    assert all(torch.equal(a, b) for a, b in zip(weights_0, weights_1, strict=True))
    assert [row[1] for row in seen_0] == [row[1] for row in seen_1] == [False, False, True, True], "at the end, too"
    assert [a[0] + b[0] for a, b in zip(seen_0, seen_1, strict=True)] == [*first[:-1], first[-1] + first[0][:2]]
    assert [a + b for a, b in zip(tail_0, tail_1, strict=True)] == [second[2], second[3] + second[0][:2]]
    for gathered in (*gathered_0, *gathered_1):
        assert [i for batch in gathered for i in batch] == list(range(N)), (
            "what fills up the last batch is left out of metrics"
        )


def test_the_example(
    jpeg_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = jpeg_folder(24, name="data/train").parent
    jpeg_folder(10, name="data/val")
    arguments: list[Any] = [root, "--out", tmp_path / "out", "--batch-size", 8, "--size", 32]
    run_example("accelerate_loop.py", *arguments, "--epochs", 1, monkeypatch=monkeypatch)
    out = capsys.readouterr().out
    assert "epoch 0: validation accuracy" in out and "of 10" in out
    reset()
    run_example("accelerate_loop.py", *arguments, "--epochs", 2, "--resume", monkeypatch=monkeypatch)
    out = capsys.readouterr().out
    assert "epoch 1: validation accuracy" in out and "epoch 0" not in out
