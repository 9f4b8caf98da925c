"""`dalipipe explain`: of any kind of data, as text, JSON and a page."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from explanations import explanation
from PIL import Image
from sounds import wav
from test_cli import SMALL_MODEL, Folder, call, one_thread, text_files_of, ts_files

from dalipipe.finetune import FineTuneConfig, classify, training_step
from dalipipe.stalls import Explanation, explaining

_ = one_thread  # a fixture of this module, too


def said_of(shown: Any) -> str:
    return " ".join(shown.output.split())


class Asked:
    """In the place of `dalipipe.explain`: tries the step on a batch, and finds what is found by hand."""

    def __init__(self) -> None:
        self.loader: Any = None
        self.options: dict[str, Any] = {}

    def __call__(self, loader: Any, step: Any, **options: Any) -> Explanation:
        self.loader, self.options = loader, options
        options["progress"]("steps", 0.5)
        batch = next(iter(loader))
        step(batch)
        step(batch)
        return explanation()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    asked = Asked()
    monkeypatch.setattr(explaining, "explain", asked)
    return asked


def words(folder: Path) -> Path:
    for n, (word, take) in enumerate(itertools.product(("no", "yes"), "abcd")):
        (folder / "words" / word).mkdir(parents=True, exist_ok=True)
        (folder / "words" / word / f"{take}.wav").write_bytes(wav("pcm16", 1000, rate_hz=4000, seed=n)[0])
    return folder / "words"


def maps(folder: Path) -> Path:
    for part in ("images", "masks"):
        (folder / "maps" / part).mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (40, 40)).save(folder / "maps" / "images" / f"{number}.png")
        Image.fromarray(np.eye(40, dtype=np.uint8)).save(folder / "maps" / "masks" / f"{number}.png")
    return folder / "maps"


@pytest.mark.parametrize("task", ["segmentation", "audio", "series", "text"])
def test_explains_any_kind_of_data(task: str, tmp_path: Path, asked: Asked) -> None:
    make = {
        "segmentation": maps,
        "audio": words,
        "series": lambda folder: ts_files(folder, "waves"),
        "text": lambda folder: text_files_of(folder) / "reviews_train.tsv",
    }
    more = {"segmentation": ["--size", "32"], "audio": ["--rate-hz", "4000"]}.get(task, [])
    arguments = [make[task](tmp_path), "--task", task, "--batch-size", "2", "--workers", "1", "--device", "cpu", *more]
    shown = call("explain", *arguments)
    assert shown.exit_code == 0, shown.output
    assert str(explanation()) in said_of(shown)
    assert asked.loader.threads == 1 and asked.options["steps"] is None


def test_prints_text_and_writes_a_page(jpeg_folder: Folder, tmp_path: Path, asked: Asked) -> None:
    page = tmp_path / "pages" / "explain.html"
    shown = call("explain", jpeg_folder(8), *SMALL_MODEL, "--steps", "12", "--cache", "ram", "--html", page)
    assert shown.exit_code == 0, shown.output
    said = said_of(shown)
    assert said.startswith(str(explanation())) and "what if" in said and f"wrote {page}" in said
    assert "shufflenet_v2_x0_5 on" in page.read_text() and "imagenet_train" in page.read_text()
    assert asked.options["steps"] == 12 and asked.loader.batch_size == 8


def test_json_is_all_that_is_printed(jpeg_folder: Folder, asked: Asked) -> None:
    shown = call("explain", jpeg_folder(8), *SMALL_MODEL, "--json")
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)
    assert found.pop("sentence") == str(explanation())
    assert Explanation.from_dict(found) == explanation()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["{}/nothing"], "there is no {}/nothing"),
        (["{}/images", "--model", "resnet"], "resnet"),
        (["{}/images", "--policy", "no_such"], "no recipe is called 'no_such'"),
        (["{}/images", "--task", "video"], "--task must be one of"),
        (["{}/images", "--rate-hz", "8000"], "--rate-hz is for --task audio"),
        (["{}/images", "--device", "tpu"], "--device"),
        (["{}/images", "--cache", "disk"], "cache must be"),
        (["{}/images", "--steps", "3"], "Invalid value for '--steps'"),
        (["{}/images", "--model", "inception_v3", "--size", "32"], "cannot take samples of [3, 32, 32]"),
    ],
)
def test_what_is_wrong_is_said(
    arguments: list[str], message: str, jpeg_folder: Folder, tmp_path: Path, asked: Asked
) -> None:
    jpeg_folder(4)
    shown = call("explain", *(argument.format(tmp_path) for argument in arguments), "--batch-size", "2")
    assert shown.exit_code == 2 and message.format(tmp_path) in said_of(shown), shown.output
    assert asked.loader is None and "Traceback" not in shown.output


def test_one_process_only(jpeg_folder: Folder, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    shown = call("explain", jpeg_folder(4))
    assert shown.exit_code == 2 and "start it without torchrun" in said_of(shown)


def test_the_step_is_that_of_the_loop() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3), torch.nn.Dropout(0.0))
    model.eval()
    step = training_step(model, torch.device("cpu"), FineTuneConfig("unused", lr=0.05), objective=classify)
    batch = (torch.randn(6, 3, 2, 2), torch.tensor([0, 1, 2, 0, 1, 2]))
    before = torch.nn.functional.cross_entropy(model(batch[0]), batch[1]).item()
    for _ in range(20):
        step(batch)
    assert model.training and not Path("unused").exists()
    assert torch.nn.functional.cross_entropy(model(batch[0]), batch[1]).item() < 0.7 * before


@pytest.mark.slow
def test_explains_for_real(jpeg_folder: Folder, tmp_path: Path) -> None:
    page = tmp_path / "explain.html"
    shown = call("explain", jpeg_folder(32), *SMALL_MODEL, "--steps", "12", "--json", "--html", page)
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)
    assert found.pop("sentence").startswith("step ")
    real = Explanation.from_dict(found)
    assert {stage.name for stage in real.stages} >= {"read", "augment", "step", real.bottleneck}
    assert real.what_ifs and page.stat().st_size > 10_000
