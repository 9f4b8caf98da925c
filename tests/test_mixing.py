"""MixUp and CutMix at a policy's end, switched off for the last epochs, in runs that are stopped anywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import dalipipe
from dalipipe import Phases, Policy
from dalipipe.cli import app
from dalipipe.finetune import FineTuneConfig, classify, finetune, load_checkpoint, mixing
from dalipipe.ops import image as ops
from dalipipe.ops.mix import CutMix, MixUp, TextCutMix, TimeCutMix
from dalipipe.policy import OneOf

PLAIN = Policy([ops.HorizontalFlip(), ops.Normalize()])


def test_what_is_put_at_the_end() -> None:
    both = mixing(PLAIN, epochs=5, mixup=0.8, cutmix=1.0)
    assert both == Policy([*PLAIN.ops, OneOf([MixUp(0.8), CutMix(1.0)])])
    off = mixing(PLAIN, epochs=5, mixup=0.8, cutmix=1.0, off=2)
    assert isinstance(off, Phases) and off.starts == (0, 3) and off.at(2) == both and off.at(3) == both.without_mixing()
    assert mixing(PLAIN, epochs=5) == PLAIN
    assert mixing(PLAIN, epochs=5, mixup=0.2).ops[-1] == MixUp(0.2)  # type: ignore[union-attr]
    assert mixing(both, epochs=5, off=2) == off  # that mixes by itself
    for task, kind in (("audio", TimeCutMix), ("series", TimeCutMix), ("text", TextCutMix)):
        assert mixing(Policy([]), task, epochs=1, cutmix=0.3).ops == (kind(0.3),)  # type: ignore[union-attr]


@pytest.mark.parametrize("batch_size, group", [(64, 8), (20, 4), (18, 6), (14, 2), (7, 8)])
def test_groups_fit_into_batches(batch_size: int, group: int) -> None:
    policy = mixing(PLAIN, epochs=1, mixup=1.0, batch_size=batch_size)
    assert isinstance(policy, Policy) and policy.ops[-1] == MixUp(1.0, group=group)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"off": 1}, "off=1 has nothing to switch off"),
        ({"mixup": 0.5, "off": 4}, "fewer than all 4 of them, got 4"),
        ({"mixup": 0.5, "off": -1}, "at least 0 and fewer"),
        ({"mixup": -0.5}, r"mixup must be an alpha, above 0, or 0 for none, got -0\.5"),
        ({"cutmix": float("nan")}, "cutmix must be an alpha"),
        ({"mixup": 0.5, "task": "text"}, "words have no mean"),
        ({"mixup": 0.5, "task": "segmentation"}, "which segmentation does not have"),
        ({"mixup": 0.5, "policy": Policy([*PLAIN.ops, CutMix()])}, r"mixes samples already, CutMix\(\)"),
    ],
)
def test_bad_arguments(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mixing(**{"policy": PLAIN, "epochs": 4, **given})


class _Stopped(Exception):
    pass


def train(out: Path, *, stop_at: int | None = None, **config: Any) -> tuple[dict[str, torch.Tensor], list[bool]]:
    """Weights after four epochs of two steps, the last one unmixed; and which steps saw mixed samples."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 5))
    images = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 3), dtype=np.uint8)
    data = dalipipe.Arrays(images, np.arange(32) % 5, classes="abcde")
    policy = mixing(PLAIN, epochs=4, mixup=1.0, cutmix=1.0, off=1)
    options: Any = {"seed": 3, "device": "cpu", "num_workers": 1}
    loader = dalipipe.DataLoader(data, 16, shuffle=True, policy=policy, prefetch_factor=4, **options)
    val = dalipipe.DataLoader(data, 16, policy=Policy([ops.Normalize()]), **options)
    mixed: list[bool] = []

    def objective(model: nn.Module, batch: Any, smoothing: float = 0.0) -> Any:
        if model.training:
            if len(mixed) == stop_at:
                raise _Stopped
            assert batch[1].dtype == torch.float32  # to the end
            mixed.append(bool((batch[1].amax(1) < 1).any()))
        return classify(model, batch, smoothing)

    settings: Any = {"epochs": 4, "progress": "off", "save_every": 1, **config}
    finetune(model, loader, val, FineTuneConfig(out, **settings), objective=objective)
    return model.state_dict(), mixed


def test_a_run_stopped_around_the_boundary_ends_the_same(tmp_path: Path) -> None:
    whole, mixed = train(tmp_path / "whole")
    assert mixed == [True] * 6 + [False] * 2
    for stop_at in (4, 5, 6, 7):
        with pytest.raises(_Stopped):
            train(tmp_path / str(stop_at), stop_at=stop_at)
        resumed, rest = train(tmp_path / str(stop_at), resume=True)
        assert rest == mixed[stop_at:]
        assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_train_with_mixing(jpeg_folder: Callable[..., Path], tmp_path: Path) -> None:
    jpeg_folder(16, name="data/train")
    jpeg_folder(8, name="data/val")

    def call(*arguments: str) -> Any:
        given = ["train", str(tmp_path / "data"), "--out", str(tmp_path / "run"), "--epochs", "2", "--size", "32"]
        given += ["--model", "shufflenet_v2_x0_5", "--batch-size", "8", "--workers", "1", "--device", "cpu"]
        return CliRunner().invoke(app, [*given, *arguments], env={"COLUMNS": "160", "NO_COLOR": "1"})

    done = call("--mixup", "0.8", "--cutmix", "1", "--mix-off", "1")
    assert done.exit_code == 0, done.output
    state = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors")
    assert state["loader"]["phases"] == [0, 1]
    for arguments, message in (
        (["--mix-off", "1", "--overwrite"], "--mix-off 1 has nothing to switch off"),
        (["--mixup", "0.8", "--mix-off", "2", "--overwrite"], "fewer than all 2 of them"),
        (["--mixup", "0.8", "--cutmix", "1", "--resume"], "phases"),
    ):
        failed = call(*arguments)
        assert failed.exit_code == 2 and message in " ".join(failed.output.split()), failed.output
