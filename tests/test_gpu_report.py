"""The GPU report ends in time whatever becomes of its parts, and says what failed and what was left out; what is run on
a GPU only now and then still runs: all of it, on the host in a device's place.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
MACHINE = {"date": "2026-02-03", "gpu": "G", "cores": 2, "cpu": "C", "simd": "S", "versions": {"torch": "1"}}


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("soundfile")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def span(value: float) -> dict[str, float]:
    return {"value": value, "low": value, "high": value}


def result(**parts: Any) -> dict[str, Any]:
    """As the report writes it."""
    timing = {"per_s": 1000.0, "cpu_ms": 0.5}
    loaders = {
        "contenders": {"dalipipe, from files, 256": {**timing, "per_s": 70_000.0}, "DALI": timing},
        "ratios": {"dalipipe, from files, 256": 3.5},
        "best": "dalipipe, from files, 256",
        "best_peer": "DALI",
        "absent": {"loaders: FFCV": "ImportError: no ffcv"},
    }
    row = {"us": 387.0, "mb": 150.0, "gb_per_s": 396.0, "of_copy": 0.0945}
    step = {f"{name}_ms": span(value) for name, value in (("step", 31.0), ("compute", 24.0), ("prep_stall", 6.0))}
    step |= {"fetch_stall_ms": span(0.6), "copy_ms": span(0.4), "stall": 0.213}
    every = {
        "data": {"images": "3,000 photographs"},
        "build": {"checks": [{"topic": "GPU 0", "found": "G", "status": "ok", "remedy": ""}]},
        "tests": {"counts": {"passed": 200, "failed": 0, "skipped": 3}, "command": "-m pytest", "failures": []},
        "roofline": {"batch": 256, "copy_gb_per_s": 4190.0, "kernels": {"fused operator: crop": row}},
        "recipe": {"contenders": {"dalipipe": timing, "K": timing}, "ratios": {"K": 3.84}},
        "loaders": loaders,
        "stalls": {
            "batch": 256,
            "runs": {"ResNet-18, plain JPEGs": {**step, "sentence": "step 31 → bound by decoding"}},
        },
        "others": {
            "contenders": {"dalipipe": timing, "SPDL": timing},
            "ratios": {"SPDL": 1.5},
            "absent": {"FFCV": "pip"},
        },
        "cifar": {"contenders": {"dalipipe": timing, "airbench": timing}, "ratios": {"airbench": 0.5}, "what": "Small"},
    }
    return {"dry_run": False, "took_s": 400.0, "parts": {**every, **parts}, "machine": MACHINE}


def test_a_part_has_its_share_of_what_is_left() -> None:
    from gpu_report import limit_of

    shares = {"a": 1.0, "b": 2.0, "c": 1.0}
    assert limit_of("a", shares, 100.0) == 25.0
    assert limit_of("b", shares, 99.0) == 66.0  # the first took a second: the others have the rest
    assert limit_of("c", shares, 40.0) == 40.0 and limit_of("c", shares, -3.0) == 0.0
    left = 480.0
    for name in shares:  # whoever uses all that it may, it ends in time
        left -= limit_of(name, shares, left)
    assert left == pytest.approx(0.0)


def test_what_fails_or_is_stopped_costs_the_others_nothing(tmp_path: Path) -> None:
    from blocks.gpu_report import page
    from gpu_report import run_parts

    asked: dict[str, float] = {}
    saved: list[list[str]] = []
    written: dict[str, Any] = {"dry_run": False, "took_s": 1.0, "parts": {}, "machine": MACHINE}

    def start(name: str, limit_s: float) -> int | None:
        asked[name] = limit_s
        found: dict[str, Any] = {"machine": MACHINE}
        if name == "fails":
            found["error"] = "ValueError: no"
        if name != "crashes":
            (tmp_path / f"{name}.json").write_text(json.dumps({**found, "kept": 1}))
        return {"stopped": None, "fails": 1, "crashes": -11}.get(name, 0)

    shares = dict.fromkeys(("good", "stopped", "fails", "crashes", "last"), 1.0)
    run_parts(shares, 50.0, start, tmp_path, written, lambda: saved.append(list(written["parts"])))
    parts = written["parts"]
    assert list(asked) == list(shares) and [len(each) for each in saved] == [1, 2, 3, 4, 5]
    assert parts["good"] == {"kept": 1} == parts["last"]
    assert parts["stopped"]["kept"] == 1 and parts["stopped"]["cut"] == [f"stopped after {asked['stopped']:.0f} s"]
    assert parts["fails"]["error"] == "ValueError: no" and parts["crashes"]["error"] == "ended with status -11"
    text = page(written, [])
    assert "**Failed**: fails (ValueError: no); crashes (ended with status -11)." in text
    assert "**Out of time**: stopped: stopped after" in text


def test_a_part_is_stopped_with_what_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu_report

    script = (
        "import pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(child.pid))\n"
        "time.sleep(60 if sys.argv[2] == 'long' else 0)\n"
        "child.kill()\n"
    )
    (tmp_path / "gpu_report.py").write_text(script)
    monkeypatch.setattr(gpu_report, "HERE", tmp_path)
    start = gpu_report.in_process([], tmp_path)
    began = time.monotonic()
    assert start("long", 0.5) is None and time.monotonic() - began < 30
    child = int((tmp_path / "child").read_text())
    end = time.monotonic() + 10
    while alive(child) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(child)
    assert start("short", 30.0) == 0


def test_a_part_that_is_stopped_closes_what_has_a_session_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gpu_report

    script = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r})\n"
        "import contextlib, pathlib, signal, subprocess, tempfile, time\n"
        "from gpu_report import stopped\n"
        "signal.signal(signal.SIGTERM, stopped)\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(60)']\n"
        "with contextlib.ExitStack() as stack:\n"
        "    folder = stack.enter_context(tempfile.TemporaryDirectory())\n"
        "    child = subprocess.Popen(sleep, start_new_session=True)\n"
        "    stack.callback(child.kill)\n"
        f"    pathlib.Path({str(tmp_path / 'child')!r}).write_text(f'{{child.pid}} {{folder}}')\n"
        "    time.sleep(60)\n"
    )
    (tmp_path / "gpu_report.py").write_text(script)
    monkeypatch.setattr(gpu_report, "HERE", tmp_path)
    began = time.monotonic()
    assert gpu_report.in_process([], tmp_path)("long", 1.0) is None and time.monotonic() - began < 30
    child, folder = (tmp_path / "child").read_text().split()
    assert not alive(int(child)) and not Path(folder).exists() and Path(folder).is_relative_to(tmp_path)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_part_that_is_out_of_time_is_left_by_an_exception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import devices
    import gpu_parts
    import gpu_report

    def run(part: Any) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        return 0

    monkeypatch.setattr(devices, "Device", lambda rounds: None)
    monkeypatch.setattr(gpu_parts, "run", run)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with pytest.raises(SystemExit):
            gpu_report.run_part("x", argparse.Namespace(dry_run=False, rounds=1, work=tmp_path, data=None, until=0.0))
    finally:
        signal.signal(signal.SIGTERM, before)


def part_of(tmp_path: Path, name: str, *, data: Path | None = None, cores: int = 2, left_s: float = 100.0) -> Any:
    import gpu_parts

    class Part(gpu_parts.Part):
        cores = 0

    Part.cores = cores
    device = SimpleNamespace(dry_run=False, rounds=3, device=torch.device("cpu"))
    return Part(name, device, tmp_path, data, time.time() + left_s)


def test_other_loaders_are_kept_one_by_one(
    tmp_path: Path, jpeg_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import gpu_parts

    for name in ("PEERS_PYTHON", "FFCV_PYTHON"):
        monkeypatch.delenv(name, raising=False)
    asked: list[str] = []
    part = part_of(tmp_path, "others")
    (tmp_path / "photographs.txt").write_text(str(jpeg_folder(n=2)))

    def compare(work: Any, names: list[str], **options: Any) -> Any:
        asked.extend(names)
        assert options["sweep"] is False and options["timeout_s"] <= 100.0
        timing = {"per_s": 100.0 * len(asked), "cpu_ms": 0.1}
        found = {"what": "work", "contenders": {"dalipipe": timing}, "ratios": {}, "absent": {}, "failed": {}}
        if names == ["LitData"]:
            found["failed"] = {"LitData": "it broke"}
        else:
            found["contenders"][names[0]] = timing
            found["ratios"] = {f"over {names[0]}": 1.0 + len(asked)}
        if names == ["WebDataset"]:
            part.until = time.time() + 1.0
        return SimpleNamespace(summary=lambda: found)

    monkeypatch.setattr(gpu_parts.bench, "compare", compare)
    monkeypatch.setattr(gpu_parts, "has", lambda library: library in ("spdl", "litdata", "webdataset", "timm"))
    gpu_parts.others(part)
    assert asked == ["SPDL, FFmpeg", "SPDL, torchvision", "LitData", "WebDataset"]
    kept = json.loads((tmp_path / "others.json").read_text())
    assert kept["ratios"] == {"SPDL, FFmpeg": 2.0, "SPDL, torchvision": 3.0, "WebDataset": 5.0}
    assert kept["contenders"]["dalipipe"]["per_s"] == 100.0 and kept["failed"] == {"LitData": "it broke"}
    assert kept["cut"] == ["timm left out"] and "FFCV" in kept["absent"]


def test_loaders_are_kept_round_by_round(tmp_path: Path) -> None:
    from decode_bench import Bench, Scale

    device: Any = SimpleNamespace(rounds=3)
    result: dict[str, Any] = {"absent": {}}
    one: Any = None
    bench = Bench(device, Scale(0.0, (4,), (1,), (0.0,), 1), tmp_path, one, tmp_path, result, name="loaders")
    kept: list[dict[str, Any]] = []

    def ours() -> tuple[int, float]:
        path = tmp_path / "loaders.json"
        kept.append(json.loads(path.read_text()) if path.is_file() else {})
        return 20, 1.0

    bench.compare({"dalipipe": ours, "DALI": lambda: (10, 1.0)}, result)
    assert [len(each.get("contenders", {}).get("DALI", {}).get("rounds", ())) for each in kept] == [0, 0, 1, 2]
    assert kept[2]["ratios"] == {"dalipipe": 2.0} and result["best_peer"] == "DALI"


def test_of_a_large_folder_some_are_taken_evenly(tmp_path: Path, jpeg_folder: Callable[..., Path]) -> None:
    import gpu_parts

    root = jpeg_folder(n=12)
    assert gpu_parts.evenly(root, tmp_path / "few", 12) == root
    chosen = gpu_parts.evenly(root, tmp_path / "few", 4)
    found = sorted(path.relative_to(chosen).as_posix() for path in chosen.rglob("*.jpg"))
    assert found == ["class_0/0000.jpg", "class_0/0006.jpg", "class_1/0001.jpg", "class_1/0007.jpg"]
    assert (chosen / found[1]).read_bytes() == (root / found[1]).read_bytes()


def test_no_more_processes_test_than_the_device_has_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu_parts

    def said_within(command: list[str], limit_s: float) -> tuple[int, list[str]]:
        return 0, ["tests/test_a.py::test_one PASSED"]

    monkeypatch.setattr(gpu_parts, "said_within", said_within)
    monkeypatch.setattr(gpu_parts, "has", lambda library: True)
    for cores, processes in ((1, 1), (4, 3), (64, 8)):
        part = part_of(tmp_path, "tests", cores=cores)
        gpu_parts.tests(part)
        assert part.found["command"].endswith(f"-n {processes}")


def test_outcomes_of_tests_are_counted_with_and_without_xdist() -> None:
    from gpu_parts import outcomes_count, outcomes_of

    said = [
        "tests/test_a.py::test_one PASSED                  [ 10%]",
        "tests/test_a.py::test_two[a b-3] SKIPPED (why)    [ 20%]",
        "tests/test_a.py::test_three FAILED                [ 20%]",
        "[gw3] [ 12%] PASSED tests/test_b.py::test_one",
        "[gw11] [ 15%] FAILED tests/test_b.py::test_two[x-0.5]",
        "FAILED tests/test_b.py::test_two[x-0.5] - AssertionError: assert 1 == 2",
        "ERROR tests/test_c.py::test_four - RuntimeError",
        "SKIPPED [3] tests/test_d.py:12: needs data",
        "tests/test_a.py::test_that_was_under_way",
        "=========== 2 failed, 2 passed in 3.2s ===========",
    ]
    outcomes = outcomes_of(said)
    assert [outcomes_count(outcomes, name) for name in ("passed", "failed", "skipped")] == [2, 3, 1]


def test_the_table_is_of_the_newest_result_and_says_where_there_is_none() -> None:
    from report import BLOCKS

    old = {"dry_run": False, "figures": {"device copy": "4,190 GB/s"}, "machine": {**MACHINE, "date": "2026-01-01"}}
    new = result()
    assert "no result from a CUDA machine" in BLOCKS["gpu"]({}.get)
    assert "no result from a CUDA machine" in BLOCKS["gpu"]({"gpu_report": {**new, "dry_run": True}}.get)
    assert "| device copy | 4,190 GB/s |" in BLOCKS["gpu"]({"gpu": old}.get)
    text = BLOCKS["gpu"]({"gpu": old, "gpu_report": new}.get)
    assert "2026-02-03; G" in text and "device copy" not in text
    assert "| fused operator: crop | 0.387 ms a batch, 9% of the copy |" in text
    assert "| tests that need a GPU | 200 passed, 3 skipped |" in text
    assert "| data stall, ResNet-18, plain JPEGs | 21.3% of 31.0 ms a step |" in text
    assert "| … over DALI, the best of the others | 3.5× |" in text
    older = {**old, "machine": {**MACHINE, "date": "2026-03-01"}}
    assert "device copy" in BLOCKS["gpu"]({"gpu": older, "gpu_report": new}.get)


def test_the_page_has_what_there_is() -> None:
    from blocks.gpu_report import page

    text = page(result(), ["gpu_report.png"])
    assert "| fused operator: crop | 387 | 150.0 | 396 | 9% |" in text and "![Charts](gpu_report.png)" in text
    assert "| ResNet-18, plain JPEGs | 31.00 | 24.00 | 6.00 | 0.60 | 0.40 | bound by decoding |" in text
    assert "| SPDL | 1,000 | 0.5000 | 1.50× |" in text and "Absent: FFCV (pip)." in text
    assert "FFCV (ImportError: no ffcv)" in text and "Failed" not in text and "dry run" not in text
    bare = page({"dry_run": True, "took_s": 1.0, "parts": {"build": {}}, "machine": MACHINE}, [])
    assert "A dry run" in bare and "##" not in bare.replace("# GPU report", "", 1)


def test_a_report_without_charts_goes_on_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu_charts
    import gpu_report

    def draw(result: Any, folder: Path) -> list[str]:
        raise ModuleNotFoundError("No module named 'matplotlib'")

    monkeypatch.setattr(gpu_charts, "draw", draw)
    monkeypatch.setattr(gpu_report, "in_process", lambda options, work: lambda name, limit_s: 0)
    given = argparse.Namespace(dry_run=True, rounds=1, data=None, seconds=1.0)
    assert gpu_report.report({"build": 1.0, "tests": 1.0}, given, tmp_path, tmp_path / "results") == 0
    said = (tmp_path / "results" / "gpu_report.md").read_text()
    assert "No charts: ModuleNotFoundError: No module named 'matplotlib'." in said
    assert list(json.loads((tmp_path / "results" / "gpu_report.json").read_text())["parts"]) == ["build", "tests"]


def test_charts_show_what_there_is(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    import gpu_charts

    assert gpu_charts.draw({"parts": {"build": {}}}, tmp_path) == [] and not list(tmp_path.iterdir())
    assert gpu_charts.draw(result(), tmp_path) == ["gpu_report.png"]
    assert (tmp_path / "gpu_report.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("way", ["by slices", "by indices"])
def test_the_speed_records_way_with_a_data_set(way: str) -> None:
    import airbench_peer

    torch.manual_seed(0)
    pictures = np.random.default_rng(0).integers(0, 256, (41, 32, 32, 3), np.uint8)
    resident = airbench_peer.Resident(pictures, np.arange(41), 10, torch.device("cpu"), way)
    mean, std = (np.array(each) for each in (airbench_peer.MEAN, airbench_peer.STD))
    expected = np.pad((pictures / 255 - mean) / std, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    mirrored: list[dict[int, bool]] = []
    shifts = set()
    for _ in range(3):
        seen: dict[int, bool] = {}
        for images, labels in resident:
            assert images.shape == (10, 3, 32, 32) and images.dtype == torch.float16
            for image, row in zip(images.permute(0, 2, 3, 1).float().numpy(), labels.tolist(), strict=True):
                found = [
                    (y, x, flip)
                    for flip, side in ((False, image), (True, image[:, ::-1]))
                    for y in range(5)
                    for x in range(5)
                    if np.abs(side - expected[row, y : y + 32, x : x + 32]).max() < 0.01
                ]
                assert len(found) == 1
                shifts.add(found[0][:2])
                seen[row] = found[0][2]
        assert len(seen) == 40
        mirrored.append(seen)
    assert len(shifts) > 15 and 0 < sum(mirrored[0].values()) < 40
    for before, after in itertools.pairwise(mirrored):
        assert all(before[row] != after[row] for row in before.keys() & after.keys())
    with pytest.raises(ValueError, match="by slices, by indices"):
        airbench_peer.Resident(pictures, np.arange(41), 10, torch.device("cpu"), "fast")


def test_pictures_that_are_none_of_the_data_sets_are_noticed() -> None:
    from gpu_parts import verify_cifar

    pictures = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), np.uint8)
    with pytest.raises(AssertionError, match="somebody: a picture that there is not"):
        verify_cifar("somebody", (torch.zeros(10, 3, 32, 32, dtype=torch.float16), None), pictures, 10)


def test_without_a_device_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu_report

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu_report.main([])
    assert "--dry-run tries it without one" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        gpu_report.main(["--dry-run", "--parts", "build,sleep"])
    assert "there is no sleep; there are data, build," in capsys.readouterr().err


def dry_run(parts: str, jpeg_folder: Callable[..., Path], results: Path) -> dict[str, Any]:
    """Those parts, on the host in a device's place."""
    options = ["--dry-run", f"--data={jpeg_folder(n=12, size=(120, 160))}", f"--results={results}"]
    command = [sys.executable, "benchmarks/gpu_report.py", *options, "--parts", parts, "--seconds", "1000"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=290)
    if "needs a C++ compiler" in ran.stderr:
        pytest.skip("needs a C++ compiler")
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
    found: dict[str, Any] = json.loads((results / "gpu_report.json").read_text())
    assert found["dry_run"] and list(found["parts"]) == ["data", *parts.split(",")]
    assert not [part for part in found["parts"].values() if "error" in part or "cut" in part]
    text = (results / "gpu_report.md").read_text()
    assert "A dry run" in text and text.count("\n## ") == len(parts.split(","))
    return found["parts"]


@pytest.mark.slow
def test_kernels_and_loaders_without_a_gpu(jpeg_folder: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("kornia")
    parts = dry_run("roofline,recipe,loaders", jpeg_folder, tmp_path / "results")
    kernels = {"fused operator: crop, flip, normalise", "decoder: read_kernel", "JPEG, alone"}
    assert kernels < set(parts["roofline"]["kernels"])
    assert "Kornia, picture by picture" in parts["recipe"]["ratios"]
    assert {"dalipipe, from files, 4", "torchvision v2, DataLoader"} < set(parts["loaders"]["contenders"])


@pytest.mark.slow
def test_the_other_parts_without_a_gpu(jpeg_folder: Callable[..., Path], tmp_path: Path) -> None:
    parts = dry_run("build,stalls,cifar,tests", jpeg_folder, tmp_path / "results")
    assert (tmp_path / "results" / "gpu_report.png").is_file()
    assert {check["topic"] for check in parts["build"]["checks"]} > {"native core", "GPU"}
    assert set(parts["stalls"]["runs"]) == {"ResNet-18, plain JPEGs"}
    assert set(parts["cifar"]["ratios"]) == {"airbench's arithmetic, by slices", "airbench's arithmetic, by indices"}
    assert "tests" in parts["tests"]["last_lines"][-1]


@pytest.mark.slow
def test_other_loaders_without_a_gpu(jpeg_folder: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("timm")
    found = dry_run("others", jpeg_folder, tmp_path / "results")["others"]
    assert set(found["contenders"]) == {"dalipipe", "timm"} and set(found["ratios"]) == {"timm"}
