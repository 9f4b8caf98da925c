"""A short fuzz with sanitizers; `make fuzz` runs a long one."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def test_probe_survives_mutated_images(tmp_path):
    if not shutil.which("g++"):
        pytest.skip("needs g++ with its sanitizers")
    command = [sys.executable, HERE / "fuzz" / "run.py", "--seconds", "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=240)
    if "cannot find -lasan" in done.stderr or "cannot find libasan" in done.stderr:
        pytest.skip("g++ comes without sanitizers")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing found" in done.stdout
