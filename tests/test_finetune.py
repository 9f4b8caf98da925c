"""The thin trainer: exact resume after any step, the schedule, honest metrics, checkpoints that are whole or absent."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import dalipipe
from dalipipe.finetune import FineTuneConfig, Interrupted, evaluate, finetune
from dalipipe.finetune.checkpoint import (
    load_checkpoint,
    random_state,
    remove_unfinished,
    restore_random_state,
    save_checkpoint,
)
from dalipipe.finetune.interrupts import StopSignals
from dalipipe.finetune.models import InceptionTime, ResNet1d
from dalipipe.finetune.schedule import warmup_cosine
from dalipipe.finetune.timing import StepClock


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """These models are so small that a second thread only gets in the way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class ArrayLoader:
    """The loader contract in a few lines: batches are a function of (epoch, position), the state is one position."""

    def __init__(
        self, n: int = 56, batch_size: int = 8, *, shuffle: bool = True, drop_last: bool = False, delay_s: float = 0
    ):
        self.batch_size, self.shuffle, self.drop_last, self.delay_s = batch_size, shuffle, drop_last, delay_s
        random = np.random.default_rng(7)
        self.labels = torch.from_numpy(random.integers(0, 3, n))
        self.images = torch.from_numpy(random.normal(size=(n, 1, 6, 6)).astype(np.float32))
        self.images += self.labels[:, None, None, None] * 3  # something to learn
        self.epoch = self.position = 0
        self.epochs_asked: list[int] = []

    def __len__(self) -> int:
        n = len(self.labels)
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        self.epoch, self.position = epoch, 0
        self.epochs_asked.append(epoch)

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        n = len(self.labels)
        order = np.random.default_rng(self.epoch).permutation(n) if self.shuffle else np.arange(n)
        for k in range(self.position, len(self)):
            rows = torch.from_numpy(order[k * self.batch_size : (k + 1) * self.batch_size])
            noise = torch.from_numpy(np.random.default_rng((self.epoch, k)).normal(size=(len(rows), 1, 6, 6))).float()
            time.sleep(self.delay_s)
            self.position = k + 1
            yield self.images[rows] + 0.1 * noise, self.labels[rows]
        self.position = 0


class StopAt(nn.Module):
    """Sends a signal to this process in the forward pass of training step ``step`` (from 0)."""

    def __init__(self, step: int, signum: int = signal.SIGINT):
        super().__init__()
        self.step, self.signum, self.seen = step, signum, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            if self.seen == self.step:
                os.kill(os.getpid(), self.signum)
            self.seen += 1
        return x


def small_model(stop: nn.Module | None = None) -> nn.Sequential:
    """Norm statistics, dropout and two parameter groups: what a resume may get wrong."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(64, 3),
        stop or nn.Identity(),
    )


class RaggedLoader(ArrayLoader):
    """Series [N, T, 2] of 5 to 20 frames, padded with what would be seen: batches of (series, length, label)."""

    def __init__(self, n: int = 40, **options: Any):
        super().__init__(n, **options)
        self.lengths = torch.from_numpy(np.random.default_rng(8).integers(5, 21, n))
        frames = torch.arange(20)[None, :, None]
        rising = (frames * (self.labels[:, None, None] - 1)).expand(-1, -1, 2) / 4.0
        self.images = rising.where(frames < self.lengths[:, None, None], torch.tensor(50.0))

    def __iter__(self) -> Iterator[Any]:
        for rows in self.batches():
            yield self.images[rows], self.lengths[rows], self.labels[rows]

    def batches(self) -> Iterator[torch.Tensor]:
        n = len(self.labels)
        order = np.random.default_rng(self.epoch).permutation(n) if self.shuffle else np.arange(n)
        for k in range(self.position, len(self)):
            self.position = k + 1
            yield torch.from_numpy(order[k * self.batch_size : (k + 1) * self.batch_size])
        self.position = 0


def small_config(out: Path, **changes: Any) -> FineTuneConfig:
    return FineTuneConfig(out=out, **{"epochs": 3, "lr": 1e-2, "log_every": 3, "progress": "off"} | changes)


def rows_of(out: Path, kind: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    timed = {"images_per_s", "stall", "wait_s", "compute_s", "eval_s"}
    return [{key: value for key, value in row.items() if key not in timed} for row in rows]


# Learning ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_learns_and_reports(tmp_path: Path, optimizer: str) -> None:
    train, val = ArrayLoader(), ArrayLoader(n=30, shuffle=False)
    result = finetune(small_model(), train, val, small_config(tmp_path, epochs=6, lr=3e-2, optimizer=optimizer))
    assert result.val_accuracy > 0.9
    assert (result.epochs, result.steps) == (6, 42)
    assert train.epochs_asked == [0, 1, 2, 3, 4, 5]
    assert result.checkpoint.is_file() and result.metrics.is_file()
    assert result.images_per_s == pytest.approx(6 * 56 / (result.wait_s + result.compute_s))

    steps, epochs = rows_of(tmp_path, "step"), rows_of(tmp_path, "epoch")
    assert [row["step"] for row in steps[:4]] == [3, 6, 7, 9]  # every third, and the last of an epoch
    assert [row["step"] for row in epochs] == [7, 14, 21, 28, 35, 42]
    assert all(row["val_images"] == 30 for row in epochs)
    assert epochs[-1]["val_accuracy"] == result.val_accuracy
    assert sum(row["wait_s"] + row["compute_s"] for row in steps) == pytest.approx(result.wait_s + result.compute_s)


def test_the_logged_learning_rates_are_the_schedule(tmp_path: Path) -> None:
    finetune(
        small_model(), ArrayLoader(), ArrayLoader(), small_config(tmp_path, epochs=2, warmup_epochs=0.5, log_every=1)
    )
    expected = [1e-2 * warmup_cosine(step, total_steps=14, warmup_steps=4) for step in range(14)]
    assert [row["lr"] for row in rows_of(tmp_path, "step")] == pytest.approx(expected, rel=1e-12)


def test_weight_decay_spares_norms_and_biases(tmp_path: Path) -> None:
    """With decay alone (a learning rate too small for the gradient to matter), matrices shrink and vectors stay."""
    model = small_model()
    before = {name: value.clone() for name, value in model.named_parameters()}
    config = small_config(tmp_path, epochs=1, lr=1e-6, weight_decay=1e4, warmup_epochs=0)
    finetune(model, ArrayLoader(), ArrayLoader(), config)
    for name, value in model.named_parameters():
        shrunk = value.norm() < 0.99 * before[name].norm()
        assert bool(shrunk) == (value.ndim > 1), name


def test_clipping_bounds_the_update(tmp_path: Path) -> None:
    def moved(clip_norm: float | None) -> float:
        model = small_model()
        before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        changes = {"epochs": 1, "optimizer": "sgd", "lr": 1.0, "warmup_epochs": 0, "weight_decay": 0}
        config = small_config(tmp_path, clip_norm=clip_norm, overwrite=True, **changes)
        finetune(model, ArrayLoader(n=8), ArrayLoader(), config)  # one step
        return (nn.utils.parameters_to_vector(model.parameters()).detach() - before).norm().item()

    assert moved(1e-3) == pytest.approx(1.9e-3, rel=1e-3)  # Nesterov's first step is (1 + momentum) times the gradient
    assert moved(None) > 0.1


def test_evaluation_is_exact_over_a_short_last_batch() -> None:
    model, loader = small_model().eval(), ArrayLoader(n=29)
    logits = model(loader.images).detach()
    batches = list(zip(loader.images.split(8), loader.labels.split(8), strict=True))  # 8, 8, 8, 5
    found = evaluate(model.train(), batches)
    assert found.images == 29 and not model.training
    assert found.accuracy == int((logits.argmax(1) == loader.labels).sum()) / 29
    assert found.loss == pytest.approx(nn.functional.cross_entropy(logits, loader.labels).item(), rel=1e-6)


# Inputs of several parts -------------------------------------------------------------------------------------------


def test_models_get_all_fields_before_the_label(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = small_config(tmp_path, epochs=8, lr=1e-2, channels_last=True)
    result = finetune(InceptionTime(3, 2, width=4), RaggedLoader(), RaggedLoader(n=30, shuffle=False), config)
    assert result.val_accuracy > 0.9


def test_resume_is_exact_with_lengths(tmp_path: Path) -> None:
    class Stops(ResNet1d):
        def __init__(self, step: int) -> None:
            torch.manual_seed(3)
            super().__init__(3, 2)
            self.stop = StopAt(step)

        def forward(self, x: torch.Tensor, length: torch.Tensor | None = None) -> torch.Tensor:
            return super().forward(self.stop(x), length)

    whole, parts = Stops(-1), Stops(6)
    finetune(whole, RaggedLoader(), RaggedLoader(n=10), small_config(tmp_path / "whole", epochs=2))
    with pytest.raises(Interrupted):
        finetune(parts, RaggedLoader(), RaggedLoader(n=10), small_config(tmp_path / "parts", epochs=2))
    again = Stops(-1)
    config = small_config(tmp_path / "parts", epochs=2, resume=True)
    finetune(again, RaggedLoader(), RaggedLoader(n=10), config)
    for (name, a), b in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("with_length", [False, True])
def test_evaluation_counts_valid_rows_only(with_length: bool) -> None:
    """What is last and bool is no label, however many inputs stand before the label."""
    loader, model = RaggedLoader(n=16, shuffle=False), ResNet1d(3, 2).eval()
    valid = torch.tensor([True] * 5 + [False] * 3)
    whole: list[Any] = [
        (loader.images[rows], *([loader.lengths[rows]] if with_length else []), loader.labels[rows])
        for rows in loader.batches()
    ]
    found = evaluate(model, [(*batch, valid) for batch in whole])
    expected = evaluate(model, [tuple(part[valid] for part in batch) for batch in whole])
    assert found.images == expected.images == 10 and found.accuracy == expected.accuracy
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)


# Resume ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("stop_at", [0, 1, 5, 6, 7, 12, 20])
def test_resume_is_exact_after_any_step(tmp_path: Path, stop_at: int, optimizer: str) -> None:
    """7 steps an epoch: stops at the first, the last and in the middle of one, between two log rows and on one."""
    whole, parts = small_model(), small_model(StopAt(stop_at))
    expected = finetune(whole, ArrayLoader(), ArrayLoader(n=20), small_config(tmp_path / "whole", optimizer=optimizer))

    with pytest.raises(Interrupted) as stopped:
        finetune(parts, ArrayLoader(), ArrayLoader(n=20), small_config(tmp_path / "parts", optimizer=optimizer))
    assert stopped.value.step == stop_at + 1
    torch.manual_seed(99)  # a new process would have another state
    parts = small_model()
    for parameter in parts.parameters():
        nn.init.zeros_(parameter)
    config = small_config(tmp_path / "parts", optimizer=optimizer, resume=True)
    result = finetune(parts, ArrayLoader(), ArrayLoader(n=20), config)

    for (name, a), b in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert result.val_accuracy == expected.val_accuracy and result.val_loss == expected.val_loss
    for kind in ("step", "epoch"):
        assert without_times(rows_of(tmp_path / "parts", kind)) == without_times(rows_of(tmp_path / "whole", kind))


@pytest.mark.parametrize("stop_at", [1, 5, 7])
def test_resume_is_exact_with_decoding_and_augmentation(
    tmp_path: Path, jpeg_folder: Callable[..., Path], stop_at: int
) -> None:
    """The real loader, 6 steps an epoch; the resumed part runs with another number of threads."""
    root = jpeg_folder(24, classes=3)

    def run(model: nn.Module, threads: int, **changes: Any) -> nn.Module:
        torch.manual_seed(3)
        body = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.3)
        )
        whole = nn.Sequential(body, nn.Linear(64, 3), model)
        options: dict[str, Any] = {"batch_size": 4, "num_workers": threads, "device": "cpu", "seed": 11}
        images = dalipipe.ImageFolder(root)
        train = dalipipe.DataLoader(images, shuffle=True, policy=dalipipe.recipes.digits_train(24), **options)
        val = dalipipe.DataLoader(images, policy=dalipipe.recipes.digits_eval(24), **options)
        with contextlib.closing(train), contextlib.closing(val):
            finetune(whole, train, val, small_config(epochs=2, **changes))
        return whole

    expected = run(nn.Identity(), 1, out=tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(StopAt(stop_at), 1, out=tmp_path / "parts")
    found = run(nn.Identity(), 2, out=tmp_path / "parts", resume=True)
    for (name, a), b in zip(expected.state_dict().items(), found.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert without_times(rows_of(tmp_path / "parts", "step")) == without_times(rows_of(tmp_path / "whole", "step"))


def test_stopped_twice_and_during_the_evaluation(tmp_path: Path) -> None:
    class StopInEvaluation(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not self.training:
                os.kill(os.getpid(), signal.SIGTERM)
            return x

    whole = small_model()
    finetune(whole, ArrayLoader(), ArrayLoader(), small_config(tmp_path / "whole"))

    with pytest.raises(Interrupted) as stopped:
        finetune(small_model(StopAt(3)), ArrayLoader(), ArrayLoader(), small_config(tmp_path / "parts"))
    with pytest.raises(Interrupted) as stopped:
        config = small_config(tmp_path / "parts", resume=True)
        finetune(small_model(StopInEvaluation()), ArrayLoader(), ArrayLoader(), config)
    assert stopped.value.step == 7 and stopped.value.signum == signal.SIGTERM
    assert not rows_of(tmp_path / "parts", "epoch")
    parts = small_model()
    finetune(parts, ArrayLoader(), ArrayLoader(), small_config(tmp_path / "parts", resume=True))
    for a, b in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert without_times(rows_of(tmp_path / "parts", "epoch")) == without_times(rows_of(tmp_path / "whole", "epoch"))


def test_a_killed_run_resumes_from_its_last_save_and_drops_later_rows(tmp_path: Path) -> None:
    class Crash(nn.Module):
        seen = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen += self.training
            if self.seen == 11:
                raise MemoryError("killed")
            return x

    whole = small_model()
    finetune(whole, ArrayLoader(), ArrayLoader(), small_config(tmp_path / "whole", log_every=1))
    with pytest.raises(MemoryError):
        config = small_config(tmp_path / "parts", log_every=1, save_every=4)
        finetune(small_model(Crash()), ArrayLoader(), ArrayLoader(), config)
    assert rows_of(tmp_path / "parts", "step")[-1]["step"] == 10
    assert load_checkpoint(tmp_path / "parts" / "checkpoint.safetensors")["state"]["step"] == 8

    parts = small_model()
    finetune(parts, ArrayLoader(), ArrayLoader(), small_config(tmp_path / "parts", log_every=1, resume=True))
    assert [row["step"] for row in rows_of(tmp_path / "parts", "step")] == list(range(1, 22))
    for a, b in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    first = finetune(small_model(), ArrayLoader(), ArrayLoader(), small_config(tmp_path))
    again = finetune(small_model(), ArrayLoader(), ArrayLoader(), small_config(tmp_path, resume=True))
    assert again == first


def test_resume_refuses_other_settings(tmp_path: Path) -> None:
    finetune(small_model(), ArrayLoader(), ArrayLoader(), small_config(tmp_path, epochs=1))
    with pytest.raises(ValueError, match=r"epochs was 1, is 2; lr was 0\.01, is 0\.02.*start anew"):
        finetune(small_model(), ArrayLoader(), ArrayLoader(), small_config(tmp_path, epochs=2, lr=2e-2, resume=True))
    with pytest.raises(ValueError, match="steps_per_epoch was 7, is 14"):
        finetune(small_model(), ArrayLoader(batch_size=4), ArrayLoader(), small_config(tmp_path, epochs=1, resume=True))


def test_a_run_is_not_overwritten_by_accident(tmp_path: Path) -> None:
    finetune(small_model(), ArrayLoader(), ArrayLoader(), small_config(tmp_path, epochs=1))
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(FileExistsError, match="resume=True continues"):
        finetune(small_model(), ArrayLoader(), ArrayLoader(), small_config(tmp_path, epochs=1))
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    finetune(small_model(), ArrayLoader(), ArrayLoader(), small_config(tmp_path, epochs=1, overwrite=True))
    assert len(rows_of(tmp_path, "epoch")) == 1


def test_resume_without_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        finetune(small_model(), ArrayLoader(), ArrayLoader(), small_config(tmp_path, resume=True))


# Checkpoints -------------------------------------------------------------------------------------------------------


def state_with(**values: Any) -> dict[str, Any]:
    """What a checkpoint must hold, and more."""
    return {**dict.fromkeys(("settings", "model", "optimizer", "state", "random", "loader")), **values}


def test_a_checkpoint_that_fails_half_way_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, state_with(value=torch.arange(4)))

    def full_disk(tensors: Any, file: Path, metadata: Any) -> None:
        file.write_bytes(b"half of a checkpoint")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dalipipe.finetune.checkpoint.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, state_with(value=torch.arange(5)))
    assert load_checkpoint(path)["value"].tolist() == [0, 1, 2, 3]
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.safetensors"]


_KILLED_WHILE_SAVING = """
import sys, torch
from dalipipe.finetune.checkpoint import save_checkpoint
state = dict.fromkeys(("settings", "model", "optimizer", "state", "random", "loader"))
step = 0
while True:
    save_checkpoint(sys.argv[1], {**state, "step": step, "payload": torch.full((200_000,), float(step))})
    step += 1
    print(step, flush=True)
"""


def test_a_checkpoint_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    process = subprocess.Popen([sys.executable, "-c", _KILLED_WHILE_SAVING, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    for _ in range(5):
        process.stdout.readline()
    process.kill()
    process.wait()
    process.stdout.close()
    saved = load_checkpoint(path)
    assert saved["step"] >= 4 and (saved["payload"] == saved["step"]).all()
    remove_unfinished(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.safetensors"]


def test_what_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(b"not of safetensors")
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        load_checkpoint(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="not a checkpoint of finetune"):
        load_checkpoint(path)
    save_checkpoint(path, {"weight": torch.zeros(2)})
    with pytest.raises(ValueError, match="not a checkpoint of finetune"):
        load_checkpoint(path)


def test_random_state_round_trip(tmp_path: Path) -> None:
    import random

    random.seed(5)
    np.random.seed(5)  # noqa: NPY002 (the global generator is what is tested)
    torch.manual_seed(5)
    np.random.standard_normal()  # noqa: NPY002 (leaves a cached Gaussian behind)
    path = tmp_path / "r.safetensors"
    save_checkpoint(path, state_with(random=random_state()))

    def draw() -> tuple[float, float, float]:
        return random.gauss(0, 1), np.random.standard_normal(), torch.rand(()).item()  # noqa: NPY002

    expected = [draw() for _ in range(3)]
    restore_random_state(load_checkpoint(path)["random"])
    assert [draw() for _ in range(3)] == expected


# Schedule, clock, signals ------------------------------------------------------------------------------------------


def test_schedule_values() -> None:
    factors = [warmup_cosine(step, total_steps=12, warmup_steps=4) for step in range(12)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[8] == pytest.approx(0.5)
    assert factors[-1] == pytest.approx(0.5 * (1 + math.cos(math.pi * 7 / 8)))
    assert factors[4:] == sorted(factors[4:], reverse=True) and factors[-1] > 0
    assert warmup_cosine(0, total_steps=5, warmup_steps=0) == 1.0
    assert warmup_cosine(4, total_steps=5, warmup_steps=5) == 1.0


@pytest.mark.parametrize("step, total, warmup", [(-1, 5, 0), (5, 5, 0), (0, 5, 6), (0, 5, -1), (0, 0, 0)])
def test_schedule_refuses(step: int, total: int, warmup: int) -> None:
    with pytest.raises(ValueError, match="warmup_cosine"):
        warmup_cosine(step, total_steps=total, warmup_steps=warmup)


def test_stall_is_the_share_of_the_time_spent_waiting(tmp_path: Path) -> None:
    slow = finetune(small_model(), ArrayLoader(delay_s=0.02), ArrayLoader(), small_config(tmp_path, epochs=1))
    assert slow.wait_s >= 7 * 0.02
    assert slow.stall == pytest.approx(slow.wait_s / (slow.wait_s + slow.compute_s))

    clock = StepClock(torch.device("cpu"))
    for _ in clock.watch(range(4)):
        time.sleep(0.02)
        clock.step_done()
    times = clock.take()
    assert times.compute_s >= 4 * 0.02 and times.stall < 0.5
    assert clock.take() == (0.0, 0.0)


def test_signals_are_given_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted):
        finetune(small_model(StopAt(0)), ArrayLoader(), ArrayLoader(), small_config(tmp_path))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    with pytest.raises(KeyboardInterrupt), StopSignals():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # the second one does not wait


# On a GPU ----------------------------------------------------------------------------------------------------------


@pytest.mark.cuda
def test_cuda_learns_in_bf16_and_resumes(tmp_path: Path) -> None:
    seen: set[torch.dtype] = set()

    class Watch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.add(x.dtype)
            return x

    config = small_config(tmp_path, epochs=6, lr=3e-2)
    result = finetune(small_model(Watch()).cuda(), ArrayLoader(), ArrayLoader(), config)
    assert seen == {torch.bfloat16}
    assert result.val_accuracy > 0.9 and 0 <= result.stall < 1 and result.compute_s > 0

    with pytest.raises(Interrupted):
        finetune(small_model(StopAt(10)).cuda(), ArrayLoader(), ArrayLoader(), small_config(tmp_path, overwrite=True))
    resumed = finetune(small_model().cuda(), ArrayLoader(), ArrayLoader(), small_config(tmp_path, resume=True))
    assert resumed.steps == 21


@pytest.mark.cuda
def test_cuda_waits_for_the_device_only_when_it_logs(tmp_path: Path) -> None:
    def synchronisations(images: int) -> int:
        train, config = ArrayLoader(n=images), small_config(tmp_path, epochs=1, log_every=1000, overwrite=True)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                finetune(small_model().cuda(), train, ArrayLoader(), config)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchronizing" in str(warning.message) for warning in caught)

    assert synchronisations(56) == synchronisations(160)


# Errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"epochs": 0}, ValueError, r"epochs must be in \[1, inf\), got 0"),
        ({"epochs": 2.5}, TypeError, "epochs must be an integer, got 2.5"),
        ({"epochs": True}, TypeError, "epochs must be an integer, got True"),
        ({"lr": 0}, ValueError, r"lr must be in \(0, inf\), got 0"),
        ({"lr": math.nan}, ValueError, "lr must be in"),
        ({"lr": "fast"}, TypeError, "lr must be a number, got 'fast'"),
        ({"warmup_epochs": 4}, ValueError, r"warmup_epochs must be in \[0, 3\], got 4"),
        ({"label_smoothing": 1.0}, ValueError, r"label_smoothing must be in \[0, 1\), got 1.0"),
        ({"clip_norm": -1}, ValueError, r"clip_norm must be in \(0, inf\), got -1"),
        ({"weight_decay": -1}, ValueError, "weight_decay"),
        ({"log_every": 0}, ValueError, "log_every"),
        ({"save_every": 0}, ValueError, "save_every"),
        ({"seed": -1}, ValueError, "seed"),
        ({"optimizer": "lion"}, ValueError, "optimizer must be one of 'adamw', 'sgd', got 'lion'"),
        ({"amp": "fp8"}, ValueError, "amp must be one of 'auto', 'bf16', 'fp16', 'off', got 'fp8'"),
        ({"channels_last": "yes"}, ValueError, "channels_last must be one of"),
        ({"progress": "loud"}, ValueError, "progress must be one of"),
        ({"out": 3}, TypeError, "out must be a path, got 3"),
        ({"resume": "yes"}, TypeError, "resume must be True or False"),
        ({"resume": True, "overwrite": True}, ValueError, "choose one"),
    ],
)
def test_config_errors(tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        small_config(**{"out": tmp_path} | changes)


def test_config_is_frozen(tmp_path: Path) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        small_config(tmp_path).lr = 1.0  # type: ignore[misc]


def test_loader_errors(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    plain = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(4, 1, 6, 6), torch.zeros(4)))
    with pytest.raises(TypeError, match=r"training loader \(DataLoader\) has no state_dict, load_state_dict"):
        finetune(small_model(), plain, ArrayLoader(), config)
    with pytest.raises(ValueError, match="training loader has no batch"):
        finetune(small_model(), ArrayLoader(n=4, drop_last=True), ArrayLoader(), config)
    with pytest.raises(ValueError, match="validation loader has drop_last=True"):
        finetune(small_model(), ArrayLoader(), ArrayLoader(drop_last=True), config)
    with pytest.raises(ValueError, match="gave no batch"):
        finetune(small_model(), ArrayLoader(), ArrayLoader(n=0), config)


def test_a_loader_that_ends_early_is_found_out(tmp_path: Path) -> None:
    class Short(ArrayLoader):
        def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            yield from itertools.islice(super().__iter__(), 6)

    with pytest.raises(RuntimeError, match="promised 7 batches an epoch and ended after 6"):
        finetune(small_model(), Short(), ArrayLoader(), small_config(tmp_path))


def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_checkpoint(tmp_path: Path) -> None:
    train = ArrayLoader()
    train.images[3] = math.nan
    with pytest.raises(FloatingPointError, match=r"loss became nan .* lower lr"):
        finetune(small_model(), train, ArrayLoader(), small_config(tmp_path))
    assert not (tmp_path / "checkpoint.safetensors").exists()
