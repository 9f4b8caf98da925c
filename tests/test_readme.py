"""The README's examples run as they stand, on a small folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from explanations import explanation
from sounds import wav

import dalipipe

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def test_examples_run(jpeg_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jpeg_folder(n=6, classes=2, size=(60, 80), name="photos/train")
    for number in range(4):
        (tmp_path / f"speech/train/{number % 2}").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"speech/train/{number % 2}/{number}.wav").write_bytes(wav("pcm16", 9000, rate_hz=16000)[0])
    (tmp_path / "reviews_train.tsv").write_text("no\ta bad film\nyes\ta good film , really good\n")
    monkeypatch.chdir(tmp_path)

    def explained(loader: Any, step: Any) -> Any:  # which takes its time
        step(next(iter(loader)))
        return explanation()

    monkeypatch.setattr(dalipipe, "explain", explained)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 3 and "import dalipipe" in blocks[0]
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
        if "images" in names:
            assert names["images"].shape == (6, 3, 224, 224)
        if "plan.explain" in block:
            images, labels = next(iter(names["loader"]))
            assert images.dtype == names["torch"].bfloat16 and len(labels) == 6
            assert labels.shape == (6, 2) and labels.dtype == names["torch"].float32
        if "audio" in names:
            assert names.pop("audio").shape == (4, 1, 64, 63) and names["length"].tolist() == [63] * 4
        if "reviews" in names:
            assert names["text"].shape == (2, int(names["length"].max())) and names["label"].sum() == 1
    assert (tmp_path / "last.pt").is_file() and (tmp_path / "explain.html").is_file()
