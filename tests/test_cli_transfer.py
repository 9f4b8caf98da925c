"""`dalipipe train` with weights of another run: frozen, gradual, penalised, beside its source, on part of the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_cli import SMALL_MODEL, Folder, call, one_thread, ts_files

from dalipipe.finetune.transfer import read_weights

_ = one_thread  # a fixture of this module, too
ONE_EPOCH = ["--epochs", "1", *SMALL_MODEL]


def tensors(out: Path) -> dict[str, torch.Tensor]:
    return read_weights(next(out.glob("checkpoint.*")))


@pytest.fixture
def data(jpeg_folder: Folder, tmp_path: Path) -> Path:
    """Three folders: a target of two classes with train/ and val/, and a source of three."""
    jpeg_folder(24, name="target/train")
    jpeg_folder(8, name="target/val")
    jpeg_folder(30, classes=3, name="source")
    return tmp_path


def test_from_a_pretrained_run_to_frozen_gradual_and_joint(data: Path) -> None:
    first = call("train", data / "source", "--val-fraction", "0.2", "--out", data / "first", *ONE_EPOCH)
    assert first.exit_code == 0, first.output
    start = tensors(data / "first")
    weights = ["--weights", next((data / "first").glob("checkpoint.*"))]

    shown = call("train", data / "target", *weights, "--freeze", "-1", "--out", data / "frozen", *ONE_EPOCH)
    assert shown.exit_code == 0, shown.output
    assert "of the parameters frozen" in shown.output and "but for fc.weight, fc.bias" in shown.output
    for name, value in tensors(data / "frozen").items():
        assert name.startswith("fc.") or torch.equal(value, start[name]), name

    options = ["--unfreeze-every", "1", "--layer-decay", "0.5", "--l2-sp", "0.1", "--subset", "8"]
    shown = call("train", data / "target", *weights, *options, "--out", data / "gradual", *ONE_EPOCH)
    assert shown.exit_code == 0, shown.output
    said = " ".join(shown.output.split())
    assert "16 to train on, 8 to validate" in said
    assert "more learns every 1 epochs; each layer's rate 0.5 of the next one's; L2-SP 0.1 instead of" in said
    assert torch.equal(tensors(data / "gradual")["conv1.0.weight"], start["conv1.0.weight"])

    beside = ["--source", data / "source", "--target-weight", "0.5", "--freeze", "conv1", "--l2-sp", "0.1"]
    shown = call("train", data / "target", *weights, *beside, "--out", data / "joint", *ONE_EPOCH)
    assert shown.exit_code == 0, shown.output
    assert "of 3 classes" in " ".join(shown.output.split())
    found = tensors(data / "joint")
    assert found["target.fc.weight"].shape[0] == 2 and found["source.fc.weight"].shape[0] == 3
    assert torch.equal(found["target.conv1.0.weight"], start["conv1.0.weight"])
    again = call("train", data / "target", *weights, *beside, "--resume", "--out", data / "joint", *ONE_EPOCH)
    assert again.exit_code == 0, again.output

    # What came out goes on as an ordinary model.
    more = ["--weights", next((data / "joint").glob("checkpoint.*")), "--out", data / "more"]
    shown = call("train", data / "target", *more, *ONE_EPOCH)
    assert shown.exit_code == 0 and "but for" not in shown.output, shown.output


def test_a_run_on_other_classes_of_the_same_number_gives_no_head(data: Path) -> None:
    first = call("train", data / "target", "--out", data / "first", *ONE_EPOCH)
    assert first.exit_code == 0, first.output
    weights = ["--weights", data / "first/checkpoint.safetensors", "--out", data / "more", *ONE_EPOCH, "--overwrite"]
    assert "but for" not in call("train", data / "target", *weights).output
    for part in ("train", "val"):
        (data / "target" / part / "class_1").rename(data / "target" / part / "another")  # comes first, too
    shown = call("train", data / "target", *weights)
    assert shown.exit_code == 0 and "but for fc.weight, fc.bias" in " ".join(shown.output.split()), shown.output


def test_series_beside_series(tmp_path: Path) -> None:
    target, source = ts_files(tmp_path, "target"), ts_files(tmp_path, "source")
    options = ["--task", "series", "--model", "resnet1d", "--epochs", "1", "--batch-size", "8", "--device", "cpu"]
    shown = call("train", target, *options, "--source", source, "--subset", "0.5", "--out", tmp_path / "run")
    assert shown.exit_code == 0, shown.output
    assert "8 to train on" in shown.output and "source, of 2 classes" in " ".join(shown.output.split())


def test_texts_of_a_part(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    lines = [f"{n % 2}\t{' '.join(random.choice(['a', 'b', 'c'], 3))} {('good', 'bad')[n % 2]}" for n in range(40)]
    (tmp_path / "texts.tsv").write_text("\n".join(lines) + "\n")
    options = ["--task", "text", "--val-fraction", "0.25", "--epochs", "1", "--device", "cpu", "--batch-size", "4"]
    shown = call("train", tmp_path / "texts.tsv", *options, "--subset", "5", "--out", tmp_path / "run")
    assert shown.exit_code == 0, shown.output
    assert "10 to train on" in shown.output
    shown = call("train", tmp_path / "texts.tsv", *options, "--source", tmp_path, "--out", tmp_path / "other")
    assert shown.exit_code == 2 and "--source is for pictures, sounds and series" in shown.output


@pytest.mark.parametrize(
    "options, message",
    [
        (["--target-weight", "2"], "--target-weight is the target's beside a --source"),
        (["--subset", "few"], "--subset must be 20, say, a class, or 0.1 of each, got 'few'"),
        (["--subset", "13"], "class 0 has 12 samples, fewer than the 13 wanted"),
        (["--freeze", "layer1"], "no module or parameter of ShuffleNetV2 is called 'layer1'"),
        (["--freeze", "-99"], "freeze=-99: ShuffleNetV2 has 19 layers"),
        (["--layer-decay", "2"], "lr_decay must be in (0, 1], got 2"),
        (["--unfreeze-every", "0"], "unfreeze_every must be in (0, inf)"),
        (["--l2-sp", "0.1"], "give it pretrained weights first"),
        (["--source", "{}/absent"], "no data at {}/absent"),
        (["--source", "{}/target"], "--target-weight"),
        (["--weights", "{}/other.pth"], "holds no weights of a shufflenet_v2_x0_5: it has 'nothing.weight'"),
        (["--model", "timm/resnet1"], "no timm model is called 'resnet1'"),
    ],
)
def test_transfer_that_cannot_be(data: Path, options: list[str], message: str) -> None:
    torch.save({"nothing.weight": torch.zeros(2)}, data / "other.pth")
    filled: list[Any] = [option.format(data) for option in options]
    if message == "--target-weight":
        filled, message = [*filled, "--target-weight", "-1"], "Joint: weight must be a number in [0, inf), got -1"
    shown = call("train", data / "target", *SMALL_MODEL, *filled, "--out", data / "run")
    assert shown.exit_code == 2, shown.output
    assert message.format(data) in " ".join(shown.output.split())
    assert not (data / "run" / "metrics.jsonl").exists() or not (data / "run" / "metrics.jsonl").read_bytes()
