"""The command line, from help to a trained model, and its parts: digits, folders, figures, doctor."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sounds import wav
from typer.testing import CliRunner, Result

import dalipipe
from dalipipe import doctor, figures
from dalipipe.cli import app
from dalipipe.demo_data import DIGITS_COUNT, write_digits
from dalipipe.figures import draw_curves, draw_grid
from dalipipe.finetune import load_checkpoint
from dalipipe.finetune.classifier import longest_text, make_model, open_folders, open_texts, series_file
from dalipipe.finetune.parts import Part
from dalipipe.records import Records
from dalipipe.schema import Field, Schema
from dalipipe.sources import Source

SMALL_MODEL = [
    "--model",
    "shufflenet_v2_x0_5",
    "--size",
    "32",
    "--batch-size",
    "8",
    "--workers",
    "1",
    "--device",
    "cpu",
]
Folder = Callable[..., Path]


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "160", "NO_COLOR": "1"})


def process(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dalipipe", *map(str, arguments)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **streams, **options)  # type: ignore[call-overload,no-any-return]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def halves(jpeg_folder: Folder, tmp_path: Path) -> Path:
    """A folder with train/ (24 pictures) and val/ (8) of two classes."""
    jpeg_folder(24, name="data/train")
    jpeg_folder(8, name="data/val")
    return tmp_path / "data"


# The commands ------------------------------------------------------------------------------------------------------


def test_help_and_version_do_not_wait_for_torch() -> None:
    code = "import sys, dalipipe.cli; sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'nvidia.dali')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    shown = process("--version")
    assert shown.communicate(timeout=60)[0] == f"dalipipe {dalipipe.__version__}\n" and shown.returncode == 0


def test_train_with_what_the_loop_can_do_besides(halves: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ["--accumulate", "2", "--ema", "0.5", "--amp", "bf16", "--tensorboard", *SMALL_MODEL]
    done = call("train", halves, "--out", out, "--epochs", "2", *options)
    assert done.exit_code == 0, done.output
    assert "CPU, bf16" in done.output and "confusion.png" in done.output.replace("\n", "")
    assert (out / "confusion.csv").is_file() and any((out / "tensorboard").iterdir())
    saved = load_checkpoint(out / "checkpoint.safetensors")
    assert {name: saved["settings"][name] for name in ("accumulate", "ema", "amp")} == {
        "accumulate": 2,
        "ema": 0.5,
        "amp": "bf16",
    }
    assert saved["ema"].keys() == saved["model"].keys()
    (out / "checkpoint.safetensors").rename(tmp_path / "donor.safetensors")
    again = call(
        "train", halves, "--out", out, "--epochs", "1", "--weights", tmp_path / "donor.safetensors", *SMALL_MODEL
    )
    assert again.exit_code == 0 and "donor.safetensors" in again.output.replace("\n", ""), again.output
    wrong = call("train", halves, "--out", tmp_path / "other", "--cuda-graphs", *SMALL_MODEL)
    assert wrong.exit_code == 2 and "--cuda-graphs needs a GPU" in wrong.output.replace("\n", " ")


def test_help_names_every_command() -> None:
    for arguments in ([], ["--help"], ["-h"]):
        shown = call(*arguments)
        assert all(command in shown.output for command in ("demo", "train", "preview", "bench", "doctor"))
    assert "--val-fraction" in call("train", "--help").output


def test_train_then_resume_then_overwrite(halves: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = call("train", halves, "--out", out, "--epochs", "2", *SMALL_MODEL)
    assert first.exit_code == 0, first.output
    assert "24 to train on, 8 to validate, 2 classes" in first.output
    assert first.output.count("epoch ") == 2 and "validation accuracy" in first.output
    assert "computing" in first.output and "waiting for data" in first.output
    for name in ("checkpoint.safetensors", "metrics.jsonl", "samples.png", "curves.png"):
        assert (out / name).is_file() and name in first.output.replace("\n", "")
    assert load_checkpoint(out / "checkpoint.safetensors")["classes"] == ["class_0", "class_1"]

    again = call("train", halves, "--out", out, "--epochs", "2", *SMALL_MODEL)
    assert again.exit_code == 2 and "--resume continues it, --overwrite replaces it" in again.output
    resumed = call("train", halves, "--out", out, "--epochs", "2", "--resume", *SMALL_MODEL)
    assert resumed.exit_code == 0 and "epoch " not in resumed.output  # finished already
    other = call("train", halves, "--out", out, "--epochs", "3", "--resume", *SMALL_MODEL)
    assert other.exit_code == 2 and "epochs was 2, is 3" in other.output
    replaced = call("train", halves, "--out", out, "--epochs", "1", "--overwrite", *SMALL_MODEL)
    assert replaced.exit_code == 0 and replaced.output.count("epoch ") == 1


def test_train_splits_a_single_folder_and_starts_from_weights(jpeg_folder: Folder, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    torch.save(make_model("shufflenet_v2_x0_5", 1000)[0].state_dict(), weights)
    options = ["--val-fraction", "0.25", "--weights", weights, "--epochs", "1", "--out", tmp_path / "run"]
    shown = call("train", jpeg_folder(16), *options, *SMALL_MODEL)
    assert shown.exit_code == 0, shown.output
    assert "12 to train on, 4 to validate" in shown.output
    assert "but for fc.weight, fc.bias" in " ".join(shown.output.split())


def ts_files(folder: Path, name: str) -> Path:
    """name_TRAIN.ts and name_TEST.ts: ragged series of two channels that rise or fall."""
    random = np.random.default_rng(0)
    for part, count in (("TRAIN", 16), ("TEST", 6)):
        lines = ["@problemName x", "@timeStamps false", "@missing false", "@univariate false", "@dimensions 2"]
        lines += ["@equalLength false", "@classLabel true down up", "@data"]
        for n in range(count):
            slope = np.linspace(0, 3, random.integers(8, 20)) * (1 if n % 2 else -1)
            lines.append(":".join([*[",".join(f"{v:.3f}" for v in slope)] * 2, ("down", "up")[n % 2]]))
        (folder / f"{name}_{part}.ts").write_text("\n".join(lines) + "\n")
    return folder / name


SIGNAL_RUN = ["--epochs", "1", "--batch-size", "4", "--workers", "1", "--device", "cpu"]


def text_files_of(folder: Path, name: str = "reviews_{}.tsv", parts: tuple[str, ...] = ("train", "test")) -> Path:
    """Two classes, told by a word or its synonym in the built-in table, in texts of 1 to 8 words."""
    random = np.random.default_rng(0)
    for part in parts:
        lines = []
        for n in range(24 if part == "train" else 8):
            words = random.choice(["the", "film", "a", "plot", "of", ","], random.integers(0, 8)).tolist()
            words.insert(int(random.integers(0, len(words) + 1)), ("good", "bad")[n % 2])
            lines.append(f"{('no', 'yes')[n % 2]}\t{' '.join(words)}")
        (folder / name.format(part)).write_text("\n".join(lines) + "\n")
    return folder


TEXT_RUN = ["--task", "text", "--epochs", "2", "--batch-size", "8", "--workers", "1", "--device", "cpu"]


@pytest.mark.parametrize("given", ["reviews", "reviews_train.tsv", ".", "reviews_train.tsv --val-fraction 0.25"])
def test_train_on_texts_then_resume(given: str, tmp_path: Path) -> None:
    data, *options = given.split()
    parts = ("train",) if options else ("train", "test")
    folder = text_files_of(tmp_path, "{}.tsv" if data == "." else "reviews_{}.tsv", parts)
    arguments = ["train", folder / data, *options, *TEXT_RUN, "--out", tmp_path / "run"]
    shown = call(*arguments)
    assert shown.exit_code == 0, shown.output
    counted = "18 to train on, 6" if options else "24 to train on, 8"
    assert f"texts     {counted} to validate, 2 classes" in shown.output
    assert "word-cnn" in shown.output and (tmp_path / "run" / "samples.png").is_file()
    saved = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors")
    assert saved["classes"] == ["no", "yes"]
    words = len(saved["model"]["vectors.weight"])
    assert words > 3 + 8  # synonyms, too
    if not options:
        train, val = open_texts(folder / data)
        assert val.vocabulary is train.vocabulary and len(train.vocabulary) < words
    resumed = call(*arguments, "--resume")
    assert resumed.exit_code == 0 and "epoch " not in resumed.output


def test_train_a_hugging_face_model_from_its_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "film", "good", "bad", "a", "plot", "of", ","]
    inner = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, "[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = transformers.BertConfig(vocab_size=len(words), max_position_embeddings=6, num_labels=3, **size)
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **named).save_pretrained(tmp_path / "bert")
    assert longest_text(tmp_path / "bert") == 6  # which some texts are longer than

    text_files_of(tmp_path)
    arguments = [*TEXT_RUN, "--model", tmp_path / "bert"]
    shown = call("train", tmp_path / "reviews", *arguments, "--out", tmp_path / "run", "--lr", "1e-2")
    assert shown.exit_code == 0, shown.output
    assert "but for model.classifier.bias, model.classifier.weight" in " ".join(shown.output.split())
    gpt2 = transformers.GPT2Config(vocab_size=len(words), n_positions=16, n_embd=8, n_layer=1, n_head=1)
    transformers.GPT2ForSequenceClassification(gpt2).save_pretrained(tmp_path / "gpt2")
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **named).save_pretrained(tmp_path / "gpt2")
    arguments = [*TEXT_RUN, "--model", tmp_path / "gpt2", "--max-length", "5"]
    shown = call("train", tmp_path / "reviews", *arguments, "--out", tmp_path / "other")
    assert shown.exit_code == 0, shown.output


def test_preview_texts(tmp_path: Path) -> None:
    text_files_of(tmp_path)
    for data in ("reviews", "reviews_test.tsv"):
        out = tmp_path / f"{data}.png"
        shown = call("preview", tmp_path / data, "--task", "text", "--out", out)
        assert shown.exit_code == 0 and Image.open(out).width > 1000, shown.output


def test_texts_that_cannot_be_used(tmp_path: Path) -> None:
    def said(*arguments: Any) -> str:
        shown = call(*arguments, *([] if "preview" in arguments else ["--out", tmp_path / "run"]))
        assert shown.exit_code == 2, shown.output
        return " ".join(shown.output.split())

    text_files_of(tmp_path)
    texts, file = ["--task", "text"], tmp_path / "reviews_test.tsv"
    assert "say --task text" in said("train", file) and "say --task text" in said("preview", file)
    assert "give a file, such as texts.tsv, or" in said("train", tmp_path / "other", *texts)
    assert "split it with a val_fraction" in said("train", file, *texts)
    assert "so leave val_fraction out" in said("train", tmp_path / "reviews", *texts, "--val-fraction", "0.2")
    assert "no paths of their own" in said("train", file, *texts, "--hold-out", "a*")
    assert "no model for text is called 'bert'; there is word-cnn and folders" in said(
        "train", tmp_path / "reviews", *texts, "--model", "bert"
    )
    (tmp_path / "bert").mkdir()
    assert "give a tokenizer.json" in said("train", tmp_path / "reviews", *texts, "--model", tmp_path / "bert")
    assert "--max-length is for --task text" in said("train", tmp_path, "--max-length", "5")
    (tmp_path / "plain.txt").write_text("a b\n")
    assert "texts without labels" in said("train", tmp_path / "plain.txt", *texts, "--val-fraction", "0.5")
    (tmp_path / "reviews_test.tsv").write_text("maybe\ta film\n")
    assert "reviews_test.tsv, line 1: label 'maybe' is none of the 2 classes" in said(
        "train", tmp_path / "reviews", *texts
    )
    (tmp_path / "alone_train.tsv").write_text("no\ta\nyes\tb\n")
    assert "split it with a val_fraction" in said("train", tmp_path / "alone_train.tsv", *texts)
    assert "no file of this kind to validate with: alone_val.tsv" in said("train", tmp_path / "alone", *texts)


def test_labels_of_texts_may_be_numbers(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "a b", "label": 2}\n{"text": "c", "label": 0}\n')
    (tmp_path / "val.jsonl").write_text('{"text": "c", "label": 1}\n')
    train, val = open_texts(tmp_path)
    assert train.classes == val.classes == ["0", "1", "2"] and val.labels is not None and val.labels.tolist() == [1]
    (tmp_path / "train.jsonl").write_text('{"text": "a b", "label": 0.5}\n')
    with pytest.raises(ValueError, match="expected classes as labels"):
        open_texts(tmp_path)


@pytest.mark.parametrize("model", ["resnet1d", "inceptiontime"])
def test_train_and_preview_series(tmp_path: Path, model: str) -> None:
    data, out = ts_files(tmp_path, "Slopes"), tmp_path / "run"
    shown = call("train", data, "--task", "series", "--model", model, "--out", out, *SIGNAL_RUN)
    assert shown.exit_code == 0, shown.output
    assert "series    16 to train on, 6 to validate, 2 classes" in shown.output and model in shown.output
    for name in ("checkpoint.safetensors", "metrics.jsonl", "samples.png", "curves.png"):
        assert (out / name).is_file()
    if model == "resnet1d":
        for given in (data, f"{data}_TEST.ts"):
            seen = call("preview", given, "--task", "series", "--samples", "1", "--n", "1", "--out", out / "p.png")
            assert seen.exit_code == 0 and (out / "p.png").is_file(), seen.output


def test_train_and_preview_sounds_with_a_speaker_left_out(tmp_path: Path) -> None:
    data, out = tmp_path / "words", tmp_path / "run"
    for n, (who, word, take) in enumerate(itertools.product(("ann", "bob", "eve"), ("no", "yes"), "abcd")):
        (data / who / word).mkdir(parents=True, exist_ok=True)
        (data / who / word / f"{take}.wav").write_bytes(wav("pcm16", 1000 + 100 * n, rate_hz=4000, seed=n)[0])
    options = ["--task", "audio", "--rate-hz", "4000", "--hold-out", "bob/*"]
    shown = call("train", data, *options, "--out", out, *SIGNAL_RUN)
    assert shown.exit_code == 0, shown.output
    assert "sounds    16 to train on, 8 to validate, 2 classes" in shown.output and "logmel-cnn" in shown.output
    again = call("train", data, *options, "--out", out, "--resume", *SIGNAL_RUN)
    assert again.exit_code == 0 and "epoch " not in again.output  # finished already
    seen = call("preview", data, *options[:4], "--samples", "1", "--n", "1", "--out", out / "p.png")
    assert seen.exit_code == 0 and (out / "p.png").is_file(), seen.output


def test_ctrl_c_leaves_a_run_that_can_be_resumed(halves: Path, tmp_path: Path) -> None:
    arguments = ["train", halves, "--out", tmp_path / "run", "--epochs", "15", *SMALL_MODEL]
    running = process(*arguments)
    assert running.stdout is not None
    for line in running.stdout:
        if line.startswith("epoch"):
            break
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGINT, errors
    assert "the checkpoint is complete" in errors and "--resume" in errors and "Traceback" not in errors
    step = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors")["state"]["step"]
    assert f"after step {step}" in errors and step < 45

    resumed = call(*arguments, "--resume")
    assert resumed.exit_code == 0, resumed.output
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows if row["kind"] == "epoch"] == list(range(15))


def test_demo(tmp_path: Path) -> None:
    """One epoch on small pictures: enough to see every part work, not enough to read digits."""
    options = ["--out", tmp_path, "--epochs", "1", "--model", "shufflenet_v2_x0_5"]
    shown = call("demo", *options, "--min-accuracy", "0")
    assert shown.exit_code == 0, shown.output
    for name in ("checkpoint.safetensors", "metrics.jsonl", "samples.png", "curves.png"):
        assert (tmp_path / name).is_file()
    again = call("demo", *options, "--resume")
    assert again.exit_code == 1 and "below the expected 95%" in again.output


def test_preview(halves: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "grid.png"
    options = ["--policy", "digits_train", "--size", "32", "--samples", "3", "--n", "2", "--out", out]
    shown = call("preview", halves, *options)
    assert shown.exit_code == 0, shown.output
    assert "grid.png" in shown.output
    with Image.open(out) as image:
        assert image.format == "PNG" and image.width > 3 * 128 and image.height > 3 * 128


def test_preview_of_a_policy_file_operator_by_operator(halves: Path, tmp_path: Path) -> None:
    policy, heights = tmp_path / "p.yaml", []
    policy.write_text("ops:\n  - RandomResizedCrop: {size: 32}\n  - OneOf: {ops: [Invert, Solarize], p: 0.1}\n")
    for each in ([], ["--each"]):
        out = tmp_path / "grid.png"
        shown = call("preview", halves, "--policy", policy, *each, "--samples", "1", "--variants", "2", "--out", out)
        assert shown.exit_code == 0, shown.output
        with Image.open(out) as image:
            heights.append(image.height)
    assert heights[1] - heights[0] == 2 * (128 + 8)  # three operators instead of one picture, 32 px enlarged fourfold


def test_preview_with_masks_and_without_data(halves: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "masks").mkdir()
    for path in (halves / "train" / "class_0").iterdir():
        Image.fromarray(np.full((48, 64), 3, np.uint8)).save(tmp_path / "masks" / f"{path.stem}.png")
    out = tmp_path / "grid.png"
    folders = [halves / "train" / "class_0", "--masks", tmp_path / "masks"]
    shown = call("preview", *folders, "--size", "32", "--samples", "2", "--n", "1", "--out", out)
    assert shown.exit_code == 0 and out.is_file(), shown.output
    monkeypatch.chdir(tmp_path)
    write_digits(tmp_path / "runs" / "demo" / "digits", size_px=64)
    shown = call("preview", "--policy", "digits_train", "--samples", "1", "--n", "1")
    assert shown.exit_code == 0 and (tmp_path / "preview.png").is_file(), shown.output


def test_train_watched_on_the_terminal_and_by_prometheus(
    halves: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("prometheus_client")
    from dalipipe import telemetry

    served: list[tuple[list[str], int]] = []
    serve = telemetry.serve_metrics
    watching = ("--live", "--metrics-port", 9100)

    def on_any_port(loaders: Any, port: int) -> Any:
        served.append((list(loaders), port))
        return serve(loaders, 0)

    monkeypatch.setattr(telemetry, "serve_metrics", on_any_port)
    shown = call("train", halves, "--out", tmp_path / "run", *SMALL_MODEL, "--epochs", 1, *watching)
    assert shown.exit_code == 0, shown.output
    assert "training loader: " in shown.output and "you wait" in shown.output and "validation accuracy" in shown.output
    assert served == [(["train", "val"], 9100)]


def test_a_port_for_metrics_that_is_taken(halves: Path, tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        shown = call("train", halves, "--out", tmp_path / "run", *SMALL_MODEL, "--metrics-port", port)
    assert shown.exit_code == 2
    assert shown.output.startswith(f"error: --metrics-port {port} of 127.0.0.1 cannot be had: Address already in use")


def test_train_by_policy_files(halves: Path, tmp_path: Path) -> None:
    policy, twin = tmp_path / "p_train.yaml", tmp_path / "p_eval.yaml"
    policy.write_text("ops:\n  - RandomResizedCrop: {size: 32}\n  - Normalize\n")
    arguments = ["train", halves, "--epochs", "1", "--policy", policy, *SMALL_MODEL[:2], *SMALL_MODEL[4:]]
    missing = call(*arguments, "--out", tmp_path / "a")
    assert missing.exit_code == 2 and "write" in missing.output and "p_eval.yaml" in missing.output, missing.output
    named = call(*arguments, "--out", tmp_path / "a", "--eval-policy", "imagenet_eval", "--size", "32")
    assert named.exit_code == 0, named.output
    twin.write_text("ops:\n  - Resize: {size: [32, 32]}\n  - Normalize\n")
    found = call(*arguments, "--out", tmp_path / "b")
    assert found.exit_code == 0, found.output


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["train", "{}/absent"], "no folder at {}/absent: give one that has train/ and val/"),
        (["train", "{}/one"], "has no train/ and val/ folders: make them, or split it"),
        (["train", "{}/empty"], "has no class folders"),
        (["train", "{}/half"], "no folder at {}/half/val"),
        (["train", "{}/one", "--val-fraction", "1.5"], "val_fraction must be in (0, 1), got 1.5"),
        (["train", "{}/one", "--val-fraction", ".5", "--model", "resnet19"], "did you mean resnet18"),
        (["train", "{}/one", "--val-fraction", ".5", "--policy", "imagenet"], "there are aeda, aeda_eval, cifar10"),
        (
            ["train", "{}/one", "--val-fraction", ".5", "--policy", "digits_eval"],
            "no recipe is called 'digits_eval_eval'",
        ),
        (["train", "{}/one", "--val-fraction", ".5", "--device", "tpu"], "--device must be auto, cpu, cuda or cuda:N"),
        (["train", "{}/one", "--val-fraction", ".5", "--device", "cuda:64"], "see dalipipe doctor"),
        (["train", "{}/one", "--val-fraction", ".5", "--weights", "{}/absent.pth"], "no weights at {}/absent.pth"),
        (["train", "{}/one", "--val-fraction", ".5", "--weights", "{}/text.pth"], "cannot be read as weights"),
        (["train", "{}/one", "--val-fraction", ".5", "--lr", "0"], "lr must be in (0, inf), got 0"),
        (
            ["train", "{}/one", "--val-fraction", ".5", "--resume"],
            "no checkpoint at {}/run/checkpoint.safetensors; name its folder",
        ),
        (["train", "{}/one", "--resume", "--overwrite"], "give one of them"),
        (
            ["train", "{}/one", "--task", "video"],
            "--task must be one of image, segmentation, audio, series, text, got video",
        ),
        (
            ["train", "{}/one", "--task", "series", "--size", "32"],
            "--size is for --task image or segmentation, not for series",
        ),
        (["train", "{}/one", "--rate-hz", "8000"], "--rate-hz is for --task audio, not for image"),
        (["train", "{}/one", "--task", "series"], "no series at {}/one/one_TRAIN.ts"),
        (["train", "{}/one", "--task", "series", "--hold-out", "a*"], "leave val_fraction and hold_out out"),
        (["train", "{}/one", "--hold-out", "dog/*"], "hold_out 'dog/*' fits none of the 4 paths"),
        (["preview", "--task", "audio", "--out", "{}/p.png"], "give the sounds to show"),
        (["preview", "{}/one", "--task", "audio", "--masks", "{}/one", "--out", "{}/p.png"], "--masks is for --task"),
        (["preview", "{}/absent", "--out", "{}/p.png"], "there is no {}/absent: give a folder, or files"),
        (["preview", "{}/one", "--policy", "nothing", "--out", "{}/p.png"], "no recipe is called 'nothing'"),
        (["preview", "{}/one", "--policy", "{}/absent.yaml", "--out", "{}/p.png"], "absent.yaml"),
        (
            ["preview", "{}/one", "--policy", "{}/wrong.yaml", "--out", "{}/p.png"],
            "wrong.yaml, line 2, column 5: no operator is called 'Inwert'; did you mean Invert?",
        ),
        (["preview", "{}/one", "--policy", "{}/wrong.yaml", "--size", "9"], "--size is for recipes"),
        (["preview", "{}/one", "--each", "--policy", "cifar10_eval", "--out", "{}/p.png"], "no operator to show"),
        (["train", "{}/one", "--val-fraction", ".5", "--policy", "{}/wrong.yaml"], "{}/wrong.yaml, line 2, column 5"),
        (["preview", "{}/one", "--out", "{}/text.pth/p.png"], "text.pth"),
        (["bench", "{}/absent"], "there is no {}/absent: give a folder, or files"),
    ],
)
def test_wrong_input_gets_one_line_and_exit_code_2(
    jpeg_folder: Folder, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    jpeg_folder(4, name="one")
    (tmp_path / "empty").mkdir()
    (tmp_path / "half" / "train").mkdir(parents=True)
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "wrong.yaml").write_text("ops:\n  - Inwert\n")
    filled = [argument.format(tmp_path) for argument in arguments]
    shown = call(*filled, *(["--out", tmp_path / "run"] if arguments[0] == "train" else []))
    assert shown.exit_code == 2
    lines = shown.output.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), shown.output
    assert expected.format(tmp_path) in lines[0]


def test_a_rotten_picture_fails_the_run_by_name(halves: Path, tmp_path: Path) -> None:
    (halves / "train" / "class_0" / "0002.jpg").write_bytes(b"no picture")
    shown = call("train", halves, "--out", tmp_path / "run", *SMALL_MODEL)
    assert shown.exit_code == 1
    assert "class_0/0002.jpg" in shown.output and "Traceback" not in shown.output


def test_a_rotten_picture_can_be_stood_in_for(halves: Path, tmp_path: Path) -> None:
    rotten = [sorted((halves / part).rglob("*.jpg"))[0] for part in ("train", "val")]
    for path in rotten:
        path.write_bytes(b"no picture")
    out = tmp_path / "run"
    arguments = ("train", halves, "--out", out, "--epochs", "1", "--size", "32", "--batch-size", "8", "--on-error")
    result = call(*arguments, "substitute")
    assert result.exit_code == 0, result.output
    found = [json.loads(line) for line in (out / "bad_samples.jsonl").read_text().splitlines()]
    assert sorted(bad["where"] for bad in found) == sorted(map(str, rotten))
    assert "bad pictures" in result.output
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    images = sum(1 for _ in (halves / "val").rglob("*.jpg"))
    assert [row["val_images"] for row in rows if row["kind"] == "epoch"] == [images - 1]
    assert call(*arguments, "ignore").exit_code == 2


def test_pictures_are_kept(halves: Path, tmp_path: Path) -> None:
    arguments = ("train", halves, "--epochs", "2", "--size", "32", "--batch-size", "8")
    assert call(*arguments, "--out", tmp_path / "plain").exit_code == 0
    kept = call(*arguments, "--out", tmp_path / "kept", "--cache", "ram", "--cache-bytes", "64MiB")
    assert kept.exit_code == 0, kept.output
    losses = [
        [
            row["loss"]
            for row in map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())
            if "loss" in row
        ]
        for name in ("plain", "kept")
    ]
    assert losses[0] and losses[0] == losses[1]
    assert call(*arguments, "--out", tmp_path / "no", "--cache", "disk").exit_code == 2


def test_traceback_on_request(tmp_path: Path) -> None:
    shown = call("--traceback", "train", tmp_path / "absent")
    assert isinstance(shown.exception, FileNotFoundError)


# Doctor ------------------------------------------------------------------------------------------------------------


def found(checks: list[doctor.Check], topic: str) -> doctor.Check:
    return next(check for check in checks if check.topic == topic)


def test_doctor_reports_this_machine() -> None:
    checks = doctor.diagnose()
    assert found(checks, "PyTorch").found.startswith(torch.__version__)
    assert found(checks, "native core").status == "ok"
    assert found(checks, "CPU SIMD").found in ("scalar", "avx2", "avx512")
    assert all(check.remedy for check in checks if check.status == "missing")
    shown = call("doctor")
    assert shown.exit_code == int(any(check.status == "missing" for check in checks))
    assert all(check.topic in shown.output for check in checks)
    assert json.loads(call("doctor", "--json").output)[0]["topic"] == "dalipipe"


def test_doctor_without_dali(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name.startswith("nvidia-"):
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    checks = doctor.diagnose()
    assert found(checks, "DALI").status == "missing"
    assert found(checks, "DALI").remedy.startswith("pip install 'dalipipe[cuda1")
    assert found(checks, "decoders, CPU").found.startswith("Pillow")
    assert found(checks, "decoders, GPU").status == "note"
    assert call("doctor").exit_code == 1


@pytest.mark.parametrize(
    "module, topic",
    [("nvidia.dali", "DALI"), ("torch", "PyTorch"), ("torchvision", "torchvision"), ("dalipipe.native", "native core")],
)
def test_doctor_where_a_module_is_broken(monkeypatch: pytest.MonkeyPatch, module: str, topic: str) -> None:
    real = importlib.import_module

    def broken(name: str, package: str | None = None) -> Any:
        if name == module:
            raise ImportError(f"{name} is broken")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", broken)
    check = found(doctor.diagnose(), topic)
    assert check.status == "missing" and check.remedy


def test_doctor_with_a_driver_that_torch_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "driver_version", lambda: "535.104.05")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    checks = doctor.diagnose()
    assert found(checks, "NVIDIA driver").found == "535.104.05"
    assert found(checks, "GPU").status == "missing" and "CUDA build of torch" in found(checks, "GPU").remedy


@pytest.mark.parametrize(
    "built, capability, status",
    [("80,90", (9, 0), "ok"), ("80,90", (8, 6), "ok"), ("80", (12, 0), "ok"), ("80,90", (7, 5), "missing")],
)
def test_doctor_compares_kernels_with_the_gpu(
    monkeypatch: pytest.MonkeyPatch, built: str, capability: tuple[int, int], status: str
) -> None:
    from types import SimpleNamespace

    gpu = SimpleNamespace(name="Some GPU", total_memory=80 * 2**30, major=capability[0], minor=capability[1])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: gpu)
    monkeypatch.setattr(
        dalipipe.native, "build_info", lambda: {"cuda": True, "cuda_archs": built, "cuda_version": "13.0"}
    )
    check = found(doctor.diagnose(), "GPU 0")
    assert check.status == status
    assert (f"DALIPIPE_CUDA_ARCHS={capability[0]}{capability[1]}" in check.remedy) == (status == "missing")


def test_doctor_never_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> str:
        raise RuntimeError("odd machine")

    monkeypatch.setattr(doctor, "driver_version", broken)
    assert found(doctor.diagnose(), "gpu").found == "RuntimeError: odd machine"


# Digits ------------------------------------------------------------------------------------------------------------


def test_digits_are_a_stratified_fixed_split(tmp_path: Path) -> None:
    root = write_digits(tmp_path / "digits", size_px=16)
    files = sorted(root.rglob("*.jpg"))
    assert len(files) == DIGITS_COUNT
    for digit in range(10):
        train, val = (len(list((root / part / str(digit)).iterdir())) for part in ("train", "val"))
        assert val == int(0.2 * (train + val)), digit
    with Image.open(root / "train" / "0" / "0000.jpg") as image:
        assert image.size == (16, 16) and image.mode == "L" and image.format == "JPEG"

    stamp = files[0].stat().st_mtime_ns
    write_digits(root, size_px=16)
    assert files[0].stat().st_mtime_ns == stamp  # complete: left alone
    (root / "complete.txt").unlink()
    files[3].unlink()
    write_digits(root, size_px=16)
    assert sorted(root.rglob("*.jpg")) == files  # broken off: written anew
    write_digits(root, size_px=8)
    with Image.open(files[0]) as image:
        assert image.size == (8, 8)


def test_digits_do_not_touch_other_folders(tmp_path: Path) -> None:
    (tmp_path / "train" / "cats").mkdir(parents=True)
    (tmp_path / "train" / "cats" / "tom.jpg").write_bytes(b"precious")
    with pytest.raises(ValueError, match="name another folder"):
        write_digits(tmp_path)
    assert (tmp_path / "train" / "cats" / "tom.jpg").read_bytes() == b"precious"
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match=r"holds 'thesis\.tex'"):
        write_digits(tmp_path)
    for wrong in ({"size_px": 4}, {"val_fraction": 0.0}, {"quality": 100}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            write_digits(tmp_path / "new", **wrong)  # type: ignore[arg-type]


# Folders and models ------------------------------------------------------------------------------------------------


def test_a_split_is_stratified_and_belongs_to_the_files(jpeg_folder: Folder, tmp_path: Path) -> None:
    root = jpeg_folder(20, classes=2)
    train, val = open_folders(root, val_fraction=0.3)
    assert np.bincount(train.labels).tolist() == [7, 7] and np.bincount(val.labels).tolist() == [3, 3]
    assert not set(train.paths) & set(val.paths)
    assert train.classes == val.classes == ["class_0", "class_1"]
    root.rename(tmp_path / "moved")
    moved = open_folders(tmp_path / "moved", val_fraction=0.3)[1]
    assert [os.path.basename(path) for path in moved.paths] == [os.path.basename(path) for path in val.paths]


def test_folder_errors(jpeg_folder: Folder, tmp_path: Path) -> None:
    jpeg_folder(4, name="data/train")
    jpeg_folder(4, classes=3, name="data/val")
    with pytest.raises(ValueError, match=r"same classes; only one of them has 'class_2'"):
        open_folders(tmp_path / "data")
    with pytest.raises(ValueError, match="leave val_fraction out"):
        open_folders(tmp_path / "data", val_fraction=0.2)
    with pytest.raises(ValueError, match="'class_0' has 1 sample"):
        open_folders(jpeg_folder(2, name="few"), val_fraction=0.5)


class Names(Source):
    """So many records of a class each, by their paths; reading gives their numbers."""

    def __init__(self, root: Path, names: list[str]) -> None:
        self.names = [str(root / name) for name in names]
        self.classes = sorted({name.split("/")[-2] for name in names})
        self.labels = np.array([self.classes.index(name.split("/")[-2]) for name in names])
        self.schema = Schema((Field("number", "column"), Field("label", "column")))

    def __len__(self) -> int:
        return len(self.names)

    def read(self, indices: np.ndarray, *, threads: int = 1, allocate: Any = None) -> Records:
        return Records({"number": indices, "label": self.labels[indices]})

    def fingerprint(self) -> str:
        return "names"

    def describe(self, index: int) -> str:
        return self.names[index]


def test_one_speaker_is_left_out(tmp_path: Path) -> None:
    names = [f"{who}/{digit}/{take}.wav" for who in ("ann", "bob", "eve") for digit in "01" for take in "xyz"]
    train, val = open_folders(tmp_path, hold_out="bob/*", opener=lambda path: Names(path, names))
    assert len(train) == 12 and len(val) == 6 and train.classes == val.classes == ["0", "1"]
    assert all("/bob/" in val.describe(index) for index in range(len(val)))
    assert not any("/bob/" in train.describe(index) for index in range(len(train)))
    np.testing.assert_array_equal(val.labels, [0, 0, 0, 1, 1, 1])
    read = train.read(np.array([11, 0, 6]))
    np.testing.assert_array_equal(read.columns["number"], [17, 0, 12])
    np.testing.assert_array_equal(read.columns["label"], train.labels[[11, 0, 6]])
    assert train.fingerprint() != val.fingerprint()
    for pattern, fits in (("carl/*", "none"), ("*", "all")):
        with pytest.raises(ValueError, match=f"fits {fits} of the 18 paths .* as 'ann/0/x.wav'"):
            open_folders(tmp_path, hold_out=pattern, opener=lambda path: Names(path, names))
    with pytest.raises(ValueError, match="give one of them"):
        open_folders(tmp_path, hold_out="a*", val_fraction=0.5, opener=lambda path: Names(path, names))


def test_pictures_can_be_held_out_too(jpeg_folder: Folder) -> None:
    train, val = open_folders(jpeg_folder(8), hold_out="*/000[01].jpg")
    assert [os.path.basename(path) for path in val.paths] == ["0000.jpg", "0001.jpg"] and len(train) == 6


def test_a_part_of_copies_reads_the_right_ones(tmp_path: Path) -> None:
    whole = Names(tmp_path, [f"a/{i}" for i in range(5)])
    whole.copies = 2
    whole.labels = np.zeros(10, int)
    part = Part(whole, np.array([1, 4]))
    np.testing.assert_array_equal(part.read(np.array([0, 1, 2, 3])).columns["number"], [1, 4, 6, 9])


def test_files_of_series_by_their_names(tmp_path: Path) -> None:
    (tmp_path / "GunPoint").mkdir()
    for folder in (tmp_path, tmp_path / "GunPoint"):
        for part in ("TRAIN", "TEST"):
            (folder / f"GunPoint_{part}.ts").touch()
    inside = tmp_path / "GunPoint" / "GunPoint_TEST.ts"
    assert series_file(tmp_path / "GunPoint", "TEST") == inside
    assert series_file(tmp_path / "GunPoint" / "GunPoint", "TEST") == inside
    assert series_file(tmp_path / "GunPoint" / "GunPoint_TRAIN.ts", "TEST") == inside
    with pytest.raises(FileNotFoundError, match=r"no series at .*Coffee_TRAIN\.ts"):
        series_file(tmp_path / "Coffee")


def test_models_by_task(tmp_path: Path) -> None:
    for task, name, x in (
        ("audio", "logmel-cnn", torch.zeros(2, 3, 16, 9)),
        ("series", "resnet1d", torch.zeros(2, 9, 3)),
        ("series", "inceptiontime", torch.zeros(2, 9, 3)),
    ):
        model, fresh = make_model(name, 5, task=task, channels=3)
        assert model(x, torch.tensor([9, 4])).shape == (2, 5) and len(fresh) == len(model.state_dict())
        torch.save(model.state_dict(), tmp_path / "w.pt")
        assert make_model(name, 4, task=task, channels=3, weights=tmp_path / "w.pt")[1] == ["head.weight", "head.bias"]
    with pytest.raises(ValueError, match="no model for audio is called 'resnet1d'; there is logmel-cnn"):
        make_model("resnet1d", 5, task="audio")


def test_models_take_weights_of_their_own_kind_only(tmp_path: Path) -> None:
    name = "shufflenet_v2_x0_5"
    donor, fresh = make_model(name, 7)
    assert len(fresh) == len(donor.state_dict())
    torch.save({"model": donor.state_dict()}, tmp_path / "run.pt")
    same, fresh = make_model(name, 7, weights=tmp_path / "run.pt")
    assert fresh == [] and all(
        torch.equal(a, b) for a, b in zip(same.state_dict().values(), donor.state_dict().values(), strict=True)
    )
    _, fresh = make_model(name, 3, weights=tmp_path / "run.pt")
    assert fresh == ["fc.weight", "fc.bias"]
    with pytest.raises(ValueError, match="holds no weights of a resnet18"):
        make_model("resnet18", 7, weights=tmp_path / "run.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="no state dict"):
        make_model(name, 7, weights=tmp_path / "list.pt")


# Figures -----------------------------------------------------------------------------------------------------------


def test_grid_places_images_in_their_cells(tmp_path: Path) -> None:
    red, grey = np.zeros((10, 10, 3), np.uint8), np.full((5, 10), 90, np.uint8)
    red[..., 0] = 255
    drawn = np.asarray(Image.open(draw_grid([[red, grey]], tmp_path / "g.png", cell_px=40)))
    assert drawn.shape == (40 + 40, 40 + 88, 3)
    assert (drawn[20:60, 20:60] == (255, 0, 0)).all()
    assert (drawn[30:50, 68:108] == 90).all()  # 5×10 in a square cell: centred, its aspect kept
    with pytest.raises(ValueError, match="no images"):
        draw_grid([], tmp_path / "g.png")
    with pytest.raises(ValueError, match=r"expected uint8 .* got float64 \[4, 4\]"):
        draw_grid([[np.zeros((4, 4))]], tmp_path / "g.png")


def test_curves_need_something_to_draw(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match="nothing to draw yet"):
        draw_curves(tmp_path / "metrics.jsonl", tmp_path / "c.png")
    with pytest.raises(FileNotFoundError):
        draw_curves(tmp_path / "absent.jsonl", tmp_path / "c.png")


def test_legends_of_curves_stand_above_the_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [
        {"kind": "step", "step": n, "loss": 2 / n, "accuracy": 0.5, "lr": 1e-3, "stall": 0.1, "images_per_s": 9.0}
        for n in range(1, 9)
    ]
    ends = [
        {"kind": "epoch", "step": n, "loss": 1.0, "accuracy": 0.5, "val_loss": 2.0, "val_accuracy": 0.4} for n in (4, 8)
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, [*steps, *ends])))
    shown: list[Any] = []
    made = figures._figure
    monkeypatch.setattr(figures, "_figure", lambda *size: shown.append(made(*size)) or shown[-1])
    draw_curves(tmp_path / "metrics.jsonl", tmp_path / "c.png", title="run", smoothed_labels=True)
    for axes in shown[0].axes[:2]:
        assert axes.get_legend().get_window_extent().y0 >= axes.get_window_extent().y1 - 1
