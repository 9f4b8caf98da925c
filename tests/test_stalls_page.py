"""What was found out about a training step, in a sentence, on a terminal and as a page."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from explanations import explanation, explanations
from hypothesis import given, settings
from PIL import Image
from rich.console import Console

from dalipipe.stalls.explanation import Explanation, Span, WhatIf, add_up, digits_of
from dalipipe.stalls.page import page, write_page
from dalipipe.stalls.report import change, model_check, rate, show, size

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def shown(found: Explanation, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    show(found, console)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


# The sentence -------------------------------------------------------------------------------------------------------


def test_sentence():
    assert str(explanation()) == (
        "step 31.0 ms = compute 24.1 + prep stall 5.2 + fetch stall 0.9 + copy 0.8 → bound by JPEG decoding; "
        "packing is predicted to bring 25.3"
    )


def test_sentence_of_a_loader_that_keeps_up():
    nothing = Span(0, 0, 0)
    found = explanation(
        step_ms=Span(24.1, 23, 25),
        predicted_ms=24.0,
        prep_stall_ms=nothing,
        fetch_stall_ms=nothing,
        copy_ms=nothing,
        bottleneck="step",
        what_ifs=(),
    )
    assert str(found) == (
        "step 24.1 ms = compute 24.1 + prep stall 0.0 + fetch stall 0.0 + copy 0.0 → bound by the training step "
        "itself; the loader keeps up"
    )
    assert found.stall == 0


def test_a_machine_that_others_use_is_told():
    assert "wait for cores" not in model_check(explanation())
    assert "wait for cores (0.3 threads on average)" in model_check(explanation(queued=0.31))


def test_sentence_of_a_step_that_waits_for_copies():
    nothing = Span(0, 0, 0)
    pinned = WhatIf("pinned memory", "pin_memory=True", Span(35, 34, 36), "tried")
    found = explanation(
        step_ms=Span(50, 49, 51),
        compute_ms=Span(30, 29, 31),
        copy_ms=Span(20, 19, 21),
        prep_stall_ms=nothing,
        fetch_stall_ms=nothing,
        bottleneck="step",
        predicted_ms=50.0,
        what_ifs=(pinned,),
    )
    assert str(found).endswith("bound by the training step itself; pinned memory is predicted to bring 35.0")


def test_sentence_of_a_model_that_is_far_off():
    found = explanation(predicted_ms=15.0)
    assert found.remedy is None and not any(found.helps(what_if) for what_if in found.what_ifs)
    assert str(found).endswith(
        "→ perhaps bound by JPEG decoding; nothing is predicted, as the model of the loader is 52 % off: run it on a "
        "machine that does nothing else"
    )


@pytest.mark.parametrize(
    ("bottleneck", "loader", "words"),
    [
        ("decode", {}, "decoding"),
        ("decode", {"decodes": "FLAC"}, "FLAC decoding"),
        ("read", {}, "reading files"),
        ("RandAugment", {}, "RandAugment"),
    ],
)
def test_bottleneck_in_words(bottleneck, loader, words):
    assert f"→ bound by {words};" in str(explanation(bottleneck=bottleneck, loader=loader))


def test_remedy_is_what_was_tried_and_surely_helps():
    def what_if(name: str, value: float, high: float, basis: str) -> WhatIf:
        return WhatIf(name, "", Span(value, value - 1, high), basis)  # type: ignore[arg-type]

    dear, sure = what_if("a GPU", 20, 21, "calculated"), what_if("a cache", 26, 28, "tried")
    unsure, small = what_if("luck", 15, 32, "tried"), what_if("polish", 30.5, 30.9, "tried")
    assert explanation(what_ifs=(unsure, dear, small, sure)).remedy == sure
    assert explanation(what_ifs=(unsure, dear, small)).remedy == dear
    assert explanation(what_ifs=(unsure, small)).remedy is None
    assert str(explanation(what_ifs=(unsure,))).endswith("; nothing that was tried is predicted to help")


@settings(max_examples=40, deadline=None)
@given(explanations())
def test_printed_parts_add_up(found):
    total, *parts = map(float, re.findall(r"(?:step|compute|prep stall|fetch stall|copy) ([\d.]+)", str(found))[:5])
    assert sum(parts) == pytest.approx(total, abs=1e-9 * max(1.0, total))
    unit = 10.0 ** -digits_of(found.step_ms.value)
    for printed, (_, span) in zip(parts, found.parts, strict=True):
        assert abs(printed - span.value) <= unit * (1 + 1e-6)


def test_rounding_goes_to_who_lost_most():
    assert add_up(10.0, [3.349, 3.349, 3.302], 1) == ["10.0", "3.4", "3.3", "3.3"]
    assert add_up(0.0, [0.0, 0.0], 3) == ["0.000", "0.000", "0.000"]


# As data, and on a terminal -----------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(explanations())
def test_goes_through_json(found):
    assert Explanation.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found


@pytest.mark.parametrize("broken", [{}, {"step_ms": 3}, {**explanation().to_dict(), "more": 1}])
def test_from_dict_says_what_it_is_not(broken):
    with pytest.raises(ValueError, match="not what to_dict gives"):
        Explanation.from_dict(broken)


@settings(max_examples=20, deadline=None)
@given(explanations())
def test_show_shows_any(found):
    for width in (40, 120):
        assert shown(found, width).startswith("step ")


def test_show_has_all_figures():
    text = shown(explanation())
    for row in (
        r"prep stall +5\.2 +4\.4 to 6\.1 +17 %",
        r"step +31\.0",
        r"decode +2,300 +27\.0 +39\.0 +54\.0 +94 % +0\.1 +←",
        r"packing +25\.3 +24\.6 to 26\.2 +−18 %",
        r"says 30\.4 ms of the step as it is, where 31\.0 ms were measured",
    ):
        assert re.search(row, text), row


def test_numbers_for_people():
    assert [rate(value) for value in (0.5, 12.34, 123456)] == ["0.5", "12.3", "123,456"]
    assert [size(value) for value in (None, 12, 5000, 7 << 20, 300 << 30)] == [
        "",
        "12 B",
        "4.9 KiB",
        "7.0 MiB",
        "300 GiB",
    ]
    assert [change(Span(value, 0, 0), 10) for value in (10.01, 8, 12)] == ["as it is", "−20 %", "+20 %"]


# The page -----------------------------------------------------------------------------------------------------------


def check_page(text: str) -> ElementTree.Element:
    """Well-formed, refers to nothing, runs nothing, and every number in it is one."""
    root = ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>"))
    for element in root.iter():
        assert element.tag not in ("script", "link", "img", "iframe", "object", "embed", "base", "form")
        for name, value in element.attrib.items():
            assert name not in ("src", "href", "style", "srcset", "action") and not name.startswith("on")
            if name in ("x", "x1", "x2", "cx", "width") and value.endswith("%"):
                assert 0 <= float(value[:-1]) <= 100.01
            if name == "points":
                points = np.array([pair.split(",") for pair in value.split()], float)
                assert np.isfinite(points).all() and (points >= 0).all() and (points[:, 1] <= 100).all()
    style = root.findtext(".//style") or ""
    assert "url(" not in style and "@import" not in style
    return root


@settings(max_examples=30, deadline=None)
@given(explanations())
def test_page_of_any_explanation(found):
    root = check_page(page(found))
    lead = "".join(root.find(".//h1").itertext())  # type: ignore[union-attr]
    assert lead == str(found)


def test_page_says_everything(tmp_path: Path):
    found = explanation()
    path = write_page(found, tmp_path / "deep" / "page.html", title='resnet50 on <"photos">')
    root = check_page(path.read_text(encoding="utf-8"))
    text = " ".join(root.itertext())
    for stage in found.stages:
        assert stage.name in text
    for what_if in found.what_ifs:
        assert what_if.name in text and what_if.how in text
    for words in ('resnet50 on <"photos">', "5.2 ms", "4.4 to 6.1", "a batch every 24.1 ms", "dalipipe.DataLoader"):
        assert words in text
    assert len(root.findall(".//polyline")) == 3
    assert len(root.findall(".//circle")) == 3


def test_page_is_small_however_long_the_run(tmp_path: Path):
    long = tuple(np.random.default_rng(1).gamma(5, 5, 200_000))
    text = page(explanation(steps_ms={"compute": long, "cached": long, "cold": long}))
    assert len(text) < 60_000
    drawn = np.array([pair.split(",") for pair in check_page(text).find(".//polyline").get("points").split()], float)  # type: ignore[union-attr]
    assert (np.diff(drawn[:, 0]) >= 0).all()


def test_page_leaves_out_what_is_not_there():
    bare = explanation(stages=(), what_ifs=(), steps_ms={}, loader={}, machine={})
    text = " ".join(check_page(page(bare)).itertext())
    assert "What would help" not in text and "Every step" not in text and "Measured with" not in text


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium here")
@pytest.mark.parametrize("dark", [False, True])
def test_page_in_a_browser(tmp_path: Path, dark: bool):
    path, picture = write_page(explanation(), tmp_path / "page.html"), tmp_path / "page.png"
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += ["--no-first-run", "--disable-component-update", "--disable-sync", "--hide-scrollbars"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=900,2400", f"--screenshot={picture}"]
    command += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", path.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    paper = (0x14, 0x18, 0x1D) if dark else (255, 255, 255)
    prep = (0xF5, 0x93, 0x47) if dark else (0xEA, 0x73, 0x17)
    assert tuple(pixels[2, 2]) == paper
    of_bar = (pixels == prep).all(axis=2)
    widest = of_bar.sum(axis=1).max()  # of the bottleneck's bar, which is longer than the step's
    assert 0.3 * 900 < widest < 0.8 * 900
    assert (pixels != paper).any(axis=2).mean() > 0.03
