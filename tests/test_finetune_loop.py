"""What the loop can do besides: steps of several batches, averages of weights, fp16, whole checkpoints; all exactly."""

from __future__ import annotations

import copy
import csv
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from test_finetune import (
    ArrayLoader,
    StopAt,
    one_thread,  # noqa: F401 (a fixture, for all here)
    rows_of,
    small_config,
    small_model,
    state_with,
    without_times,
)
from torch import nn

from dalipipe.figures import draw_confusion
from dalipipe.finetune import (
    Average,
    Interrupted,
    Layers,
    Scores,
    classification,
    classify,
    evaluate,
    finetune,
    predict_next,
    read_weights,
)
from dalipipe.finetune.checkpoint import load_checkpoint, save_checkpoint
from dalipipe.finetune.classifier import make_model
from dalipipe.finetune.distillation import Distill
from dalipipe.finetune.journal import write_confusion
from dalipipe.finetune.precision import Steps, resolved
from dalipipe.finetune.sharding import units


def plain_model() -> nn.Sequential:
    """Without what sees a batch as a whole."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


# Steps of several batches --------------------------------------------------------------------------------------------


class Rows(ArrayLoader):
    """The same samples in the same order, however many make a batch."""

    def __init__(self, batch_size: int):
        super().__init__(42, batch_size, shuffle=False)

    def __iter__(self) -> Iterator[Any]:
        for k in range(self.position, len(self)):
            self.position = k + 1
            yield self.rows(slice(k * self.batch_size, (k + 1) * self.batch_size))
        self.position = 0

    def rows(self, rows: slice) -> Any:
        return self.images[rows], self.labels[rows]


class TextRows(Rows):
    """(text [N, L], length [N]): of very different lengths, some with nothing to predict."""

    def __init__(self, batch_size: int):
        super().__init__(batch_size)
        random = np.random.default_rng(5)
        self.text = torch.from_numpy(random.integers(0, 11, (42, 17)))
        self.length = torch.from_numpy(random.integers(1, 18, 42))
        self.length[:4] = 1

    def rows(self, rows: slice) -> Any:
        return self.text[rows], self.length[rows]


class TextModel(nn.Module):
    """With tied weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embed, self.head = nn.Embedding(11, 8), nn.Linear(8, 11)
        self.head.weight = self.embed.weight

    def forward(self, text: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(text).cumsum(1).tanh())


def penalised(model: nn.Module, batch: Any, label_smoothing: float = 0.0) -> Scores:
    """A mean over samples and a penalty: what is minimised is said."""
    scores = classify(model, batch, label_smoothing)
    penalty = sum(parameter.square().sum() for parameter in model.parameters())
    return scores._replace(minimised=scores.losses.mean() + 0.1 * penalty)


@pytest.mark.parametrize("objective", [classify, predict_next, penalised])
def test_a_step_of_several_batches_is_that_of_a_large_one(tmp_path: Path, objective: Any) -> None:
    """42 samples: 4 batches of 10 and one of 2; or 21 of 2, five of which make a step, and the last alone."""

    def trained(batch_size: int, accumulate: int) -> tuple[nn.Module, list[dict[str, Any]]]:
        out, loader = tmp_path / f"{batch_size}", TextRows if objective is predict_next else Rows
        model = TextModel() if objective is predict_next else plain_model()
        changes = {"epochs": 2, "optimizer": "sgd", "lr": 0.05, "log_every": 1, "clip_norm": 0.5}
        config = small_config(out, accumulate=accumulate, **changes)
        result = finetune(model, loader(batch_size), loader(batch_size), config, objective=objective)
        assert result.steps == 10
        return model, rows_of(out, "step")

    large, expected = trained(10, 1)
    small, found = trained(2, 5)
    assert len(found) == len(expected) == 10
    for (name, a), b in zip(large.state_dict().items(), small.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=name)
    for a, b in zip(without_times(expected), without_times(found), strict=True):
        assert a.pop("kind") == b.pop("kind") and a == pytest.approx(b, rel=1e-4)


def test_a_step_never_spans_two_epochs(tmp_path: Path) -> None:
    config = small_config(tmp_path, accumulate=4, log_every=1, warmup_epochs=0.5)
    result = finetune(small_model(), ArrayLoader(), ArrayLoader(), config)  # 7 batches: 4 and 3
    assert result.steps == 6 and [row["epoch"] for row in rows_of(tmp_path, "step")] == [0, 0, 1, 1, 2, 2]
    assert rows_of(tmp_path, "step")[0]["lr"] == 1e-2  # warm-up counts steps, too: half an epoch is one


# The average of weights ---------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 0.9999), st.integers(1, 12))
def test_the_average_is_the_weighted_mean_of_all_steps(decay: float, steps: int) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    average = Average(model, decay)
    seen = []
    for step in range(1, steps + 1):
        for tensor in model.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape) if tensor.is_floating_point() else torch.tensor(step))
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        average.update(step)
    weights = np.array([decay ** (steps - i) for i in range(1, steps + 1)])
    with average.in_model():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                stacked = torch.stack([one[name].double() for one in seen])
                expected = (stacked * torch.from_numpy(weights / weights.sum()).view(-1, *[1] * value.ndim)).sum(0)
                torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-5)
            else:
                assert value == steps
    assert_same(dict(model.state_dict()), seen[-1])


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_the_average_is_evaluated_and_kept_beside_the_weights(tmp_path: Path, decay: float) -> None:
    class Watched(ArrayLoader):
        def __iter__(self) -> Iterator[Any]:
            for batch in super().__iter__():
                yield batch
                steps.append(copy.deepcopy(model.state_dict()))

    steps: list[dict[str, torch.Tensor]] = []
    model, plain = small_model(), small_model()
    result = finetune(model, Watched(), ArrayLoader(n=20), small_config(tmp_path / "ema", ema=decay))
    finetune(plain, ArrayLoader(), ArrayLoader(n=20), small_config(tmp_path / "plain"))
    saved = load_checkpoint(result.checkpoint)
    assert_same(saved["model"], dict(plain.state_dict()))  # to average changes nothing about the training
    assert_same(saved["ema"], dict(model.state_dict()))
    assert len(steps) == 21
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            expected = sum(decay ** (20 - i) * one[name].double() for i, one in enumerate(steps))
            expected = expected / sum(decay ** (20 - i) for i in range(21))
            torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-5, msg=name)
    found = evaluate(model, ArrayLoader(n=20, shuffle=False))
    assert result.val_accuracy == pytest.approx(found.accuracy, abs=0.051)  # the noise of its samples is another
    assert_same(read_weights(result.checkpoint), saved["ema"])


# fp16 ---------------------------------------------------------------------------------------------------------------


def test_a_step_that_overflows_is_left_out_and_halves_the_scale() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    steps = Steps("fp16", torch.device("cpu"))
    before, scale = copy.deepcopy(model.state_dict()), steps.scaler.get_scale()
    with steps.autocast():
        assert model(torch.ones(1, 3)).dtype == torch.float16
    steps.backward(1e36 * model(torch.ones(1, 3)).sum())
    steps.step(optimizer, model.parameters(), 1.0)
    assert_same(before, dict(model.state_dict()))
    assert steps.scaler.get_scale() == scale / 2
    again = Steps("fp16", torch.device("cpu"))
    again.load_state_dict(steps.state_dict())
    assert again.scaler.get_scale() == scale / 2
    steps.backward(model(torch.ones(1, 3)).sum())
    steps.step(optimizer, model.parameters(), None)
    assert not torch.equal(before["weight"], model.weight)


def test_a_first_step_that_overflows_leaves_no_rubbish_in_the_momentum(tmp_path: Path) -> None:
    """Torch's own fused SGD makes the momentum of uninitialised memory there."""
    config = small_config(tmp_path, optimizer="sgd", amp="fp16", epochs=1, clip_norm=None)
    model = plain_model()
    model.append(nn.Threshold(-1e30, 0.0))
    model[-1].register_full_backward_pre_hook(lambda module, gradients: (gradients[0] * math.inf,))
    before = copy.deepcopy(model.state_dict())
    result = finetune(model, ArrayLoader(n=24), ArrayLoader(n=8), config)
    assert_same(before, dict(model.state_dict()))
    saved = load_checkpoint(result.checkpoint)
    assert all((state["momentum_buffer"] == 0).all() for state in saved["optimizer"]["state"].values())
    assert saved["scaler"]["scale"] == 2.0**16 / 2**3


def test_auto_is_what_the_device_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolved("auto", torch.device("cpu")) == "off" and resolved("fp16", torch.device("cpu")) == "fp16"
    for capability, amp in (((8, 0), "bf16"), ((9, 0), "bf16"), ((7, 5), "fp16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert resolved("auto", torch.device("cuda")) == amp


# Resume -------------------------------------------------------------------------------------------------------------

EVERYTHING = {"accumulate": 2, "ema": 0.9, "amp": "fp16", "channels_last": True}


def last_of(out: Path) -> dict[str, Any]:
    saved = load_checkpoint(out / "checkpoint.safetensors")
    for tally in ("since_log", "in_epoch", "in_run"):
        for time in ("wait_s", "compute_s"):
            del saved["state"][tally][time]
    del saved["state"]["eval_s"], saved["state"]["metrics_bytes"]
    del saved["loader"]  # where an epoch ends, 7 batches of one are none of the next
    return saved


def assert_equal(a: Any, b: Any, at: str = "") -> None:
    """Nested states, to the bit."""
    if isinstance(a, (torch.Tensor, np.ndarray)):
        assert type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape, at
        assert np.array_equal(np.asarray(a), np.asarray(b), equal_nan=np.asarray(a).dtype.kind == "f"), at
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), at
        for key in a:
            assert_equal(a[key], b[key], f"{at}.{key}")
    elif isinstance(a, (list, tuple)):
        assert type(a) is type(b) and len(a) == len(b), at
        for number, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{at}.{number}")
    else:
        assert a == b or (a != a and b != b), at


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("stop_at", [0, 1, 2, 6, 7, 20])
def test_resume_is_exact_with_everything_on(tmp_path: Path, stop_at: int, optimizer: str) -> None:
    """7 batches an epoch, 4 steps of 2, 2, 2 and 1; a signal in the middle of a step is noticed at its end."""
    changes = {**EVERYTHING, "optimizer": optimizer, "epochs": 3}
    whole, parts = small_model(), small_model(StopAt(stop_at))
    expected = finetune(whole, ArrayLoader(), ArrayLoader(n=20), small_config(tmp_path / "whole", **changes))
    with pytest.raises(Interrupted) as stopped:
        finetune(parts, ArrayLoader(), ArrayLoader(n=20), small_config(tmp_path / "parts", **changes))
    assert stopped.value.step == 4 * (stop_at // 7) + stop_at % 7 // 2 + 1
    parts = small_model()
    for parameter in parts.parameters():
        nn.init.zeros_(parameter)
    config = small_config(tmp_path / "parts", resume=True, **changes)
    result = finetune(parts, ArrayLoader(), ArrayLoader(n=20), config)
    assert (result.val_loss, result.val_accuracy) == (expected.val_loss, expected.val_accuracy)
    assert_same(dict(whole.state_dict()), dict(parts.state_dict()))
    assert_equal(last_of(tmp_path / "whole"), last_of(tmp_path / "parts"))
    for kind in ("step", "epoch"):
        assert without_times(rows_of(tmp_path / "parts", kind)) == without_times(rows_of(tmp_path / "whole", kind))


def test_a_finished_run_with_an_average_leaves_it_in_the_model_again(tmp_path: Path) -> None:
    first, again = small_model(), small_model()
    finetune(first, ArrayLoader(), ArrayLoader(), small_config(tmp_path, ema=0.9))
    finetune(again, ArrayLoader(), ArrayLoader(), small_config(tmp_path, ema=0.9, resume=True))
    assert_same(dict(first.state_dict()), dict(again.state_dict()))


def test_a_checkpoint_of_before_safetensors_is_continued(tmp_path: Path) -> None:
    whole, parts = small_model(), small_model(StopAt(9))
    finetune(whole, ArrayLoader(), ArrayLoader(n=20), small_config(tmp_path / "whole"))
    with pytest.raises(Interrupted):
        finetune(parts, ArrayLoader(), ArrayLoader(n=20), small_config(tmp_path / "parts"))
    new, old = tmp_path / "parts" / "checkpoint.safetensors", tmp_path / "parts" / "checkpoint.pt"
    saved = load_checkpoint(new)
    for name in ("accumulate", "ema", "compile", "cuda_graphs", "layers"):  # there was no such thing
        del saved["settings"][name]
    del saved["scaler"]
    saved["random"][0]["numpy"][1] = saved["random"][0]["numpy"][1].tolist()
    torch.save(saved, old)
    new.unlink()
    with pytest.raises(FileExistsError, match=r"checkpoint\.pt exists"):
        finetune(small_model(), ArrayLoader(), ArrayLoader(n=20), small_config(tmp_path / "parts"))
    parts = small_model()
    finetune(parts, ArrayLoader(), ArrayLoader(n=20), small_config(tmp_path / "parts", resume=True))
    assert_same(dict(whole.state_dict()), dict(parts.state_dict()))
    finetune(parts, ArrayLoader(), ArrayLoader(n=20), small_config(tmp_path / "parts", overwrite=True, epochs=1))
    assert new.exists() and not old.exists()


def test_a_checkpoint_of_another_model_is_named(tmp_path: Path) -> None:
    finetune(small_model(), ArrayLoader(), ArrayLoader(), small_config(tmp_path, epochs=1))
    wider = small_model()
    wider[5] = nn.Linear(64, 4)
    for model, problem in (
        (plain_model(), r"it has 1\.weight, which this one has not|it has no 3\.weight"),
        (wider, r"5\.weight is \[3, 64\] there and \[4, 64\] here"),
    ):
        with pytest.raises(ValueError, match=problem):
            finetune(model, ArrayLoader(), ArrayLoader(), small_config(tmp_path, epochs=1, resume=True))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_killed_anywhere_ends_as_one_that_nobody_kills(tmp_path: Path) -> None:
    """With signal 9: at chosen points of the loop and of its files, and at random times, again and again."""
    program = [sys.executable, str(Path(__file__).with_name("killed_runs.py")), str(tmp_path)]
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(program, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(reports) == 12
    for report in reports:
        assert report["same"] and report["kills"] >= 1, report


# Compiled -----------------------------------------------------------------------------------------------------------


def test_what_is_compiled_is_called_and_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anew when other layers learn."""
    compiled: list[Any] = []

    def compile_(model: nn.Module, *, mode: str | None) -> nn.Module:
        compiled.append((model, mode, sum(parameter.requires_grad for parameter in model.parameters())))
        wrapper = nn.Module()
        wrapper.inner, wrapper.forward = model, lambda x: model(x)
        return wrapper

    plain, other = small_model(), small_model()
    layers = Layers(unfreeze_every=1)
    finetune(plain, ArrayLoader(), ArrayLoader(), small_config(tmp_path / "plain"), layers=layers)
    monkeypatch.setattr(torch, "compile", compile_)
    config = small_config(tmp_path / "compiled", compile=True)
    finetune(other, ArrayLoader(), ArrayLoader(), config, layers=layers)
    assert compiled == [(other, None, 2), (other, None, 6)]
    assert_same(dict(plain.state_dict()), load_checkpoint(config.checkpoint)["model"])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_torch_compiles_it(tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs g++ on the CPU")
    model, plain = small_model(), small_model()
    for dropout in (model[4], plain[4]):
        dropout.p = 0.0  # compiled, it draws other numbers
    changes = {"epochs": 2, "ema": 0.5, "optimizer": "sgd"}  # Adam makes much of gradients that are rounding alone
    finetune(model, ArrayLoader(), ArrayLoader(), small_config(tmp_path / "a", compile=True, **changes))
    finetune(plain, ArrayLoader(), ArrayLoader(), small_config(tmp_path / "b", **changes))
    for (name, a), b in zip(plain.state_dict().items(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3, msg=name)


@pytest.mark.cuda
@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("amp", ["off", "fp16"])
def test_cuda_compiled_and_in_graphs(tmp_path: Path, graphs: bool, amp: str) -> None:
    """The last batch of an epoch is a short one, and so is that of the evaluation."""
    trained = []
    for name, changes in (("plain", {}), ("other", {"compile": not graphs, "cuda_graphs": graphs})):
        model = small_model()
        model[4].p = 0.0
        config = small_config(tmp_path / name, epochs=2, amp=amp, ema=0.5, optimizer="sgd", **changes)
        finetune(model.cuda(), ArrayLoader(n=53), ArrayLoader(n=30), config)
        trained.append(model.state_dict())
    for name in trained[0]:
        torch.testing.assert_close(trained[0][name], trained[1][name], rtol=5e-2, atol=5e-3, msg=name)


def test_graphs_need_a_gpu_and_steps_of_one_batch(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cuda_graphs=True needs a GPU, and this runs on cpu"):
        finetune(small_model(), ArrayLoader(), ArrayLoader(), small_config(tmp_path, cuda_graphs=True))
    with pytest.raises(ValueError, match="accumulate must be 1, got 2"):
        small_config(tmp_path, cuda_graphs=True, accumulate=2)
    for changes, error, message in (
        ({"accumulate": 0}, ValueError, r"accumulate must be in \[1, inf\), got 0"),
        ({"ema": 1.0}, ValueError, r"ema must be in \[0, 1\), got 1.0"),
        ({"compile": 1}, TypeError, "compile must be True or False, got 1"),
        ({"shard": "yes"}, TypeError, "shard must be True or False"),
    ):
        with pytest.raises(error, match=message):
            small_config(tmp_path, **changes)


def test_layers_that_learn_later_are_not_dealt_out(tmp_path: Path) -> None:
    config = small_config(tmp_path, shard=True)
    with pytest.raises(ValueError, match=r"shard=True deals out the layers that learn once and for all"):
        finetune(small_model(), ArrayLoader(), ArrayLoader(), config, layers=Layers(unfreeze_every=1))
    finetune(small_model(), ArrayLoader(), ArrayLoader(), config, layers=Layers(freeze=1))  # alone, nothing to share


def test_what_is_dealt_out_at_once() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = nn.Sequential(nn.Linear(8, 8), nn.ReLU())

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(9, 8), nn.Linear(8, 9)
            self.head.weight = self.embed.weight
            self.blocks = nn.ModuleList([Block(), Block()])
            self.lists = nn.ModuleList([nn.ModuleList([nn.Linear(2, 2)])])
            self.tied = nn.Sequential(nn.Sequential(self.embed))

    net = Net()
    assert units(net) == list(net.blocks)


# What it leaves behind ----------------------------------------------------------------------------------------------


def test_the_confusion_matrix_is_written_and_drawn(tmp_path: Path) -> None:
    class Named(ArrayLoader):
        classes = ("ant", "bee, wasp", 'the "cat"')

    val = ArrayLoader(n=20, shuffle=False)
    result = finetune(small_model(), Named(), val, small_config(tmp_path, epochs=2))
    with open(tmp_path / "confusion.csv", newline="", encoding="utf-8") as file:
        head, *lines = list(csv.reader(file))
    assert head == ["right \\ predicted", *Named.classes] and [line[0] for line in lines] == list(Named.classes)
    counts = np.array([line[1:] for line in lines], int)
    assert counts.sum(1).tolist() == np.bincount(val.labels, minlength=3).tolist()
    assert np.trace(counts) / 20 == pytest.approx(result.val_accuracy)
    picture = draw_confusion(tmp_path / "confusion.csv", tmp_path / "confusion.png", title="Insects and others")
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("classes", [1, 20, 60])
def test_confusion_matrices_of_any_size_are_drawn(tmp_path: Path, classes: int) -> None:
    matrix = torch.randint(0, 3, (classes, classes))
    write_confusion(matrix, None, tmp_path / "c.csv")
    assert draw_confusion(tmp_path / "c.csv", tmp_path / "c.png").stat().st_size > 1000


@pytest.mark.parametrize("text", ["", "a,b\n", "x,a,b\na,1,2\nc,3,4\n", "x,a\na,1.5\n", "x,a,b\na,1\nb,1,2\n"])
def test_what_is_no_confusion_matrix_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(ValueError, match=r"c\.csv is no confusion matrix"):
        draw_confusion(tmp_path / "c.csv", tmp_path / "c.png")


def test_tensorboard_has_the_metrics_once(tmp_path: Path) -> None:
    """Also of a run that was killed after rows that its checkpoint does not know of."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    class Crash(nn.Module):
        seen = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen += self.training
            if self.seen == 11:
                raise MemoryError("killed")
            return x

    changes = {"log_every": 1, "save_every": 4, "tensorboard": True}
    with pytest.raises(MemoryError):
        finetune(small_model(Crash()), ArrayLoader(), ArrayLoader(), small_config(tmp_path, **changes))
    finetune(small_model(), ArrayLoader(), ArrayLoader(), small_config(tmp_path, resume=True, **changes))
    found = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    rows = rows_of(tmp_path, "step")
    assert [event.step for event in found.Scalars("step/loss")] == [row["step"] for row in rows]
    for name in ("loss", "lr", "accuracy"):
        values = [event.value for event in found.Scalars(f"step/{name}")]
        assert values == pytest.approx([row[name] for row in rows], rel=1e-6)
    validated = [row["val_loss"] for row in rows_of(tmp_path, "epoch")]
    assert [event.value for event in found.Scalars("epoch/val_loss")] == pytest.approx(validated, rel=1e-6)


# Checkpoints --------------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_a_file_of_weights_for_everyone(tmp_path: Path) -> None:
    """Tied weights are in it once, and come back under both names."""
    model = TextModel()
    config = small_config(tmp_path, epochs=1, ema=0.5)
    result = finetune(model, TextRows(6), TextRows(6), config, objective=predict_next)
    tensors = load_file(result.checkpoint)
    assert {name.partition(".")[0] for name in tensors} == {"model", "ema", "optimizer", "random"}
    own = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    assert sorted(own) == ["embed.weight", "head.bias"]
    again = TextModel()
    again.load_state_dict(own, strict=False)
    saved = load_checkpoint(result.checkpoint)
    assert_same(saved["model"], dict(again.state_dict()))
    assert list(saved["ema"]) == ["embed.weight", "head.weight", "head.bias"]
    assert_same(saved["ema"], dict(model.state_dict()))


def test_weights_are_read_from_every_kind_of_file(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = make_model("shufflenet_v2_x0_5", 3)[0]
    state = dict(model.state_dict())
    save_file(state, tmp_path / "plain.safetensors", {"format": "pt"})
    torch.save(state, tmp_path / "plain.pth")
    save_checkpoint(tmp_path / "ours.safetensors", state_with(model=state))
    torch.save({"model": state}, tmp_path / "old.pt")
    for file in ("plain.safetensors", "plain.pth", "ours.safetensors", "old.pt"):
        assert_same(read_weights(tmp_path / file), state)
        loaded, fresh = make_model("shufflenet_v2_x0_5", 4, weights=tmp_path / file)
        assert fresh == ["fc.weight", "fc.bias"]
        assert torch.equal(loaded.conv1[0].weight, state["conv1.0.weight"])
    (tmp_path / "bad.safetensors").write_bytes(b"bad")
    with pytest.raises(ValueError, match=r"bad\.safetensors cannot be read as weights: it is damaged"):
        read_weights(tmp_path / "bad.safetensors")
    save_checkpoint(tmp_path / "none.safetensors", {"model": {}})
    with pytest.raises(ValueError, match="holds no state dict"):
        read_weights(tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError, match="no weights at"):
        read_weights(tmp_path / "absent.safetensors")


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5)
arrays = st.sampled_from([np.float64, np.int16, np.bool_]).flatmap(
    lambda dtype: st.lists(st.integers(0, 3), max_size=3).map(lambda shape: np.ones(shape, dtype))
)
keys = st.text(max_size=4) | st.integers(-3, 3) | st.sampled_from(["$tensor", "$dict", "a.b"])
states = st.recursive(
    plain | arrays | arrays.map(torch.from_numpy),
    lambda inner: (
        st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(states)
def test_every_state_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.mktemp("state") / "c.safetensors"
    state = state_with(random=value)
    save_checkpoint(path, state)
    assert_equal(state, load_checkpoint(path))


def test_views_and_layouts_come_back_whole(tmp_path: Path) -> None:
    base = torch.arange(100.0)
    value = {
        "part": base[10:20],
        "overlapping": base[15:25],
        "strided": base[::7],
        "again": base[10:20],
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "bf16": torch.randn(3).bfloat16(),
        "parameter": nn.Parameter(torch.randn(2)),
    }
    save_checkpoint(tmp_path / "c.safetensors", state_with(model=value))
    found = load_checkpoint(tmp_path / "c.safetensors")["model"]
    assert found["part"].data_ptr() == found["again"].data_ptr()
    for name in value:
        assert torch.equal(found[name], value[name].detach()), name
    assert (tmp_path / "c.safetensors").stat().st_size < 5000


def test_what_a_checkpoint_cannot_hold_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"cannot hold a set, found at loader\.workers\.1"):
        save_checkpoint(tmp_path / "c.safetensors", {"loader": {"workers": [0, {1}]}})
    assert not list(tmp_path.iterdir())


def test_another_objective_is_no_resume(tmp_path: Path) -> None:
    """What a run minimises is among its settings, with what it was told, however it is put together."""

    def run(objective: Any, **changes: Any) -> None:
        config = small_config(tmp_path, epochs=1, warmup_epochs=0, **changes)
        finetune(small_model(), ArrayLoader(), ArrayLoader(n=8), config, objective=objective)

    run(classification("bce", target_threshold=0.2))
    run(classification("bce", target_threshold=0.2), resume=True)
    for other in (classify, classification("bce"), Distill(hard_weight=1.0)):
        with pytest.raises(ValueError, match=r"belongs to a run with other settings: objective\."):
            run(other, resume=True)
    run(Distill(temperature=math.inf, hard=classification("bce")), overwrite=True)
    run(Distill(temperature=math.inf, hard=classification("bce")), resume=True)
    with pytest.raises(ValueError, match=r"objective\.hard"):
        run(Distill(temperature=math.inf), resume=True)
