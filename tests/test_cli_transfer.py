"""`dalipipe train` with weights of another run: frozen, gradual, penalised, beside its source, on part of the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_cli import SMALL_MODEL, Folder, call, one_thread, ts_files

from dalipipe.cli.wording import in_flags
from dalipipe.finetune.classifier import make_model
from dalipipe.finetune.transfer import read_weights

_ = one_thread  # a fixture of this module, too
ONE_EPOCH = ["--epochs", "1", *SMALL_MODEL]


def said_of(shown: Any) -> str:
    return " ".join(shown.output.split())


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
    assert "parameters frozen" in shown.output and "but for fc.weight, fc.bias" in " ".join(shown.output.split())
    for name, value in tensors(data / "frozen").items():
        assert name.startswith("fc.") or torch.equal(value, start[name]), name

    options = ["--unfreeze-every", "1", "--layer-decay", "0.5", "--l2-sp", "0.1", "--subset", "8"]
    shown = call("train", data / "target", *weights, *options, "--out", data / "gradual", *ONE_EPOCH)
    assert shown.exit_code == 0, shown.output
    said = " ".join(shown.output.split())
    assert "16 to train on, 8 to validate" in said
    assert "one layer more learns every 1 epochs, 1 of 19 by the end; each layer's rate 0.5 of the next" in said
    assert "L2-SP 0.1 instead of weight decay" in said
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

    # What is not the same is told, in flags, and that alone.
    beside[3] = "0.25"
    again = call("train", data / "target", *weights, *beside, "--resume", "--out", data / "joint", *ONE_EPOCH)
    assert again.exit_code == 2 and "other settings: --target-weight was 0.5, is 0.25. Resume" in said_of(again)
    beside[3] = "0.5"
    again = call("train", data / "target", *beside, "--resume", "--out", data / "joint", *ONE_EPOCH)
    assert again.exit_code == 2 and "give the same --weights, or --carry, as before" in said_of(again)
    torch.save({name: value + 1 for name, value in start.items()}, data / "other.pth")
    other = ["--weights", data / "other.pth", *beside, "--resume", "--out", data / "joint", *ONE_EPOCH]
    again = call("train", data / "target", *other)
    assert again.exit_code == 2 and "what --weights, or --carry, start from is not what it was" in said_of(again)

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


def test_a_single_picture_a_step_where_norms_allow_it(data: Path) -> None:
    """Frozen norms take no statistics; and one of maps has places enough."""
    torch.save(make_model("efficientnet_b0", 2)[0].state_dict(), data / "own.pth")
    options = ["--model", "efficientnet_b0", "--batch-size", "1", "--freeze", "-1", "--weights", data / "own.pth"]
    shown = call("train", data / "target", *ONE_EPOCH, *options, "--subset", "2", "--out", data / "run")
    assert shown.exit_code == 0, shown.output


def test_two_heads_are_no_trunk_for_a_source(tmp_path: Path) -> None:
    for name in ("target", "source"):
        for part in ("images", "masks"):
            (tmp_path / name / part).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (32, 32)).save(tmp_path / name / "images" / f"{number}.png")
            Image.fromarray(np.eye(32, dtype=np.uint8)).save(tmp_path / name / "masks" / f"{number}.png")
    options = ["--task", "segmentation", "--model", "lraspp_mobilenet_v3_large", "--size", "32", "--device", "cpu"]
    target = [tmp_path / "target", "--val-fraction", "0.5", "--out", tmp_path / "run"]
    shown = call("train", *target, *options, "--batch-size", "2", "--source", tmp_path / "source")
    assert shown.exit_code == 2 and "LRASPP gives its outputs by 2 layers" in said_of(shown), shown.output


@pytest.mark.parametrize(
    "message, words",
    [
        ("FineTuneConfig.save_every must be", "--save-every must be"),
        (
            "FineTuneConfig: cuda_graphs keeps gradients, so accumulate must be 1",
            "--cuda-graphs keeps gradients, so --acc",
        ),
        ("finetune: shard=True deals out", "--shard deals out"),
        ("mixing: cutmix must be an alpha", "--cutmix must be an alpha"),
        ("Distill: hard_weight must be", "--hard-weight must be"),
        ("layers.lr_decay was 1, is 2; layers.freeze was 0, is 3", "--layer-decay was 1, is 2; --freeze was 0, is 3"),
        ("objective.alpha was 1; objective.objective.weight was 2", "--l2-sp was 1; --target-weight was 2"),
        ("target_threshold must be in [0, 1), got 1.5", "--bce-target-threshold must be in [0, 1), got 1.5"),
        ("loss must be ce or bce, got 'x'", "--loss must be ce or bce, got 'x'"),
        ("the training loss became nan", "the training loss became nan"),
    ],
)
def test_messages_name_flags(message: str, words: str) -> None:
    assert in_flags(message).startswith(words)


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


OWN = ("--weights", "{}/own.pth")


@pytest.mark.parametrize(
    "options, message",
    [
        (["--target-weight", "2"], "--target-weight is the target's beside a --source"),
        (["--subset", "few"], "--subset must be 20, say, a class, or 0.1 of each, got 'few'"),
        (["--subset", "13"], "error: --subset: class 'class_0' has 12 samples, fewer than the 13 wanted"),
        (["--subset", "0"], "error: --subset: must be a whole number of samples a class"),
        (["--task", "segmentation", "--subset", "2"], "--subset draws by the class of whole samples"),
        (["--freeze", "layer1", *OWN], "no module or parameter of ShuffleNetV2 is called 'layer1'"),
        (["--freeze", "-99", *OWN], "error: --freeze=-99: ShuffleNetV2 has 19 layers"),
        (
            ["--freeze", "-1", "--unfreeze-every", "1", *OWN],
            "error: --unfreeze-every=1 has nothing to unfreeze: --freeze=",
        ),
        (["--freeze", "0", *OWN], "--freeze '0' freezes nothing: give 1 or more for the first layers, -1 for all but"),
        (["--freeze", "", *OWN], "--freeze '' freezes nothing"),
        (["--freeze", "-1"], "without weights to begin with is at random: give --weights or --carry"),
        (["--layer-decay", "2"], "error: --layer-decay must be in (0, 1], got 2"),
        (["--unfreeze-every", "0"], "error: --unfreeze-every must be in (0, inf)"),
        (["--l2-sp", "0.1"], "--l2-sp pulls towards the weights that a run begins with: give --weights or --carry"),
        (["--l2-sp", "-1", "--weights", "{}/absent"], "error: --l2-sp must be a number in [0, inf), got -1"),
        (["--ema", "1"], "error: --ema must be in [0, 1), got 1"),
        (["--mix-off", "2"], "error: --mix-off 2 has nothing to switch off"),
        (["--mix-off", "99"], "error: --mix-off must be a number of last epochs"),
        (["--model", "timm/vit_tiny_patch16_224"], "it is made for pictures of 224 px: give --size 224"),
        (["--model", "vit_b_16"], "it is made for pictures of 224 px: give --size 224"),
        (["--model", "squeezenet1_0", "--size", "8"], "squeezenet1_0 cannot take samples of [3, 8, 8]"),
        (["--batch-size", "1", "--model", "efficientnet_b0"], "efficientnet_b0 normalises over its batches"),
        (["--source", "{}/absent"], "no data at {}/absent"),
        (["--source", "{}/target"], "--target-weight"),
        (["--weights", "{}/other.pth"], "holds no weights of a shufflenet_v2_x0_5: it has 'nothing.weight'"),
        (["--model", "timm/resnet1"], "no timm model is called 'resnet1'"),
    ],
)
def test_transfer_that_cannot_be(data: Path, options: list[str], message: str) -> None:
    torch.save({"nothing.weight": torch.zeros(2)}, data / "other.pth")
    if OWN[1] in options:
        torch.save(make_model("shufflenet_v2_x0_5", 2)[0].state_dict(), data / "own.pth")
    filled: list[Any] = [option.format(data) for option in options]
    if message == "--target-weight":
        filled, message = [*filled, "--target-weight", "-1"], "--target-weight must be a number in [0, inf), got -1"
    shown = call("train", data / "target", *SMALL_MODEL, *filled, "--out", data / "run")
    assert shown.exit_code == 2, shown.output
    assert message.format(data) in " ".join(shown.output.split())
    assert not (data / "run" / "metrics.jsonl").exists() or not (data / "run" / "metrics.jsonl").read_bytes()
