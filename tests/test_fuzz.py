"""A short fuzz with sanitizers; `make fuzz` runs a long one."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from fuzz import run, state

TARGETS = [target for target in run.SEEDS if target != "passes"]


def build(folder: Path, sources: Sequence[Path] = run.FILES) -> Path:
    if not shutil.which(shlex.split(os.environ.get("CXX", "g++"))[0]):
        pytest.skip("needs g++ with its sanitizers")
    try:
        return run.build(folder, sources)
    except subprocess.CalledProcessError as error:
        if "cannot find -lasan" in error.stderr or "cannot find libasan" in error.stderr:
            pytest.skip("g++ comes without sanitizers")
        pytest.fail(error.stderr)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.slow  # the operators take a minute to compile
def test_hostile_passes_stay_in_bounds(tmp_path: Path) -> None:
    done = run.fuzz(build(tmp_path, run.PASSES), "passes", tmp_path, seconds=10)
    assert done.returncode == 0 and "nothing found" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("target", TARGETS)
def test_survives_mutated_files(program: Path, tmp_path: Path, target: str) -> None:
    done = run.fuzz(program, target, tmp_path, seconds=1.5)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{target}: " in done.stdout and "nothing found" in done.stdout


def test_damaged_states_are_taken_or_refused() -> None:
    taken, refused = state.run(6_000, seed=1)
    assert taken > 500 and refused > 2000


def test_a_byte_too_far_is_found(program: Path, tmp_path: Path) -> None:
    """Or the silence of the others would mean nothing."""
    (tmp_path / "seed").write_bytes(b"what it was")
    command = [program, "overrun", "1", "0", "seed"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0 and "heap-buffer-overflow" in done.stderr and "nothing found" not in done.stdout
    assert (tmp_path / run.CRASH).read_bytes() == b"what it was"
