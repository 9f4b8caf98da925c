"""What nvcc makes of the kernels: registers that leave room for three blocks a multiprocessor, and none in memory."""

from __future__ import annotations

import re
import runpy
import subprocess
from pathlib import Path

import pytest
import setuptools

ROOT = Path(__file__).resolve().parent.parent
MOST_REGISTERS = 96  # a thread


def parse(said: str) -> dict[tuple[str, str], tuple[int, int]]:
    """(kernel, arch) → registers, bytes spilled, of what ptxas said."""
    found = {}
    for part in said.split("Compiling entry function ")[1:]:
        name, arch = re.findall(r"'(\w+)'", part)[:2]
        registers = re.search(r"Used (\d+) registers", part)
        spilled = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", part)
        assert registers and spilled, part
        found[name, arch] = int(registers[1]), int(spilled[1]) + int(spilled[2])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("source", sorted((ROOT / "csrc/cuda").glob("*.cu")), ids=lambda path: path.stem)
def test_kernels_fit_into_registers(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: None)
    build = runpy.run_path(str(ROOT / "setup.py"))
    if (nvcc := build["find_nvcc"]()) is None:
        pytest.skip("needs nvcc")
    command = [nvcc[0], *build["NVCC_FLAGS"], "-Xptxas", "-v", f"-I{ROOT / 'csrc'}", "-c", source]
    archs = build["CUDA_ARCHS"].split(",")
    command += [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
    done = subprocess.run([*command, "-o", tmp_path / "kernels.o"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kernels = parse(done.stdout + done.stderr)
    assert {arch for _, arch in kernels} == {f"sm_{arch}" for arch in archs}
    assert len(kernels) >= 2 * len(archs), kernels
    bad = {kernel: got for kernel, got in kernels.items() if got[0] > MOST_REGISTERS or got[1] > 0}
    assert not bad, f"kernel: registers, bytes spilled: {bad}"


def test_a_spill_is_seen() -> None:
    said = """ptxas info : Compiling entry function 'a_kernel' for 'sm_90'
ptxas info : Function properties for a_kernel
    80 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info : Used 97 registers, used 1 barriers"""
    assert parse(said) == {("a_kernel", "sm_90"): (97, 12)}
