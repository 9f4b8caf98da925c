"""What is run on a GPU only now and then still runs: its benchmarks, on the host in a device's place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


def dry_run(script: str, jpeg_folder: Callable[..., Path], results: Path) -> None:
    options = ["--dry-run", f"--data={jpeg_folder(n=12, size=(120, 160))}", f"--results={results}"]
    command = [sys.executable, "-m", "pytest", f"benchmarks/{script}.py", *options, "-q", "-p", "no:cacheprovider"]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    ran = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=280
    )
    if "1 skipped" in ran.stdout:
        pytest.skip("needs a C++ compiler")
    assert ran.returncode == 0 and "1 passed" in ran.stdout, ran.stdout[-6000:] + ran.stderr[-2000:]


def test_of_the_decoder(jpeg_folder: Callable[..., Path], tmp_path: Path) -> None:
    dry_run("test_decode", jpeg_folder, tmp_path)
    result = json.loads((tmp_path / "decode_gpu.json").read_text())
    assert result["dry_run"] and not result["failed"]
    assert result["verified"] == {"photographs": 12, "regions_of_each": 3, "batches": 6}
    ours = {"dalipipe, from host memory, 4", "dalipipe, kept on the device, 4"}
    for part in ("decode_whole", "decode_crops"):
        theirs = {"DALI", "nvImageCodec", "torchvision decode_jpeg"}
        theirs -= {name.removeprefix(f"{part}: ") for name in result["absent"]}
        assert set(result[part]["contenders"]) == ours | theirs and set(result[part]["ratios"]) == ours
    assert {"dalipipe, from files, 4", "torchvision v2, DataLoader"} < set(result["end_to_end"]["contenders"])
    assert set(result["roofline"]["kernels"]) == {"read_kernel", "transform_kernel", "colour_kernel", "fused"}
    assert {"read", "probe", "draw", "strip", "decode", "augment", "total"} <= set(result["roofline"]["loader_ms"])
    assert result["roofline"]["symbols"]["per_byte"] > 0.5
    for arm in ("synthetic", "from host memory", "kept on the device"):
        assert result["training"][arm]["step_ms"] > 0
    assert result["sanitizer"]["memcheck"]["status"] == 0
    assert len(result["goals"]) == 6
    from blocks.gpu import decode_gpu

    text = decode_gpu({"decode_gpu": result}.get)
    assert "dry run" in text and "| **dalipipe, from files, 4** |" in text and "read_kernel" in text


def test_who_fails_is_left_out() -> None:
    from rounds import interleave

    calls: list[str] = []

    def breaks() -> int:
        calls.append("breaks")
        raise RuntimeError("no  such\ndevice")

    failed: dict[str, str] = {}
    timings = interleave({"breaks": breaks, "works": lambda: (50, 0.5)}, 2, failed=failed)
    assert failed == {"breaks": "RuntimeError: no such device"} and calls == ["breaks"]
    assert list(timings) == ["works"] and timings["works"].rates == [100, 100]
    with pytest.raises(RuntimeError, match="no  such"):
        interleave({"breaks": breaks}, 1)
