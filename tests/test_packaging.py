"""Installing and importing: what the build does, what it says when it cannot, and how light an import is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BIN = str(Path(sys.executable).parent)


def python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


WITHOUT_DALI = """
import sys
class NoDali:
    def find_spec(self, name, path=None, target=None):
        if name == "nvidia.dali" or name.startswith("nvidia.dali."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, NoDali())
"""


def test_import_without_dali_and_first_use_says_what_to_install():
    python(
        WITHOUT_DALI
        + """
import dalipipe
import torch
from dalipipe.decoders import make_decoder
make_decoder("pillow", torch.device("cpu"), batch_size=1, threads=1, depth=1)
try:
    make_decoder("dali", torch.device("cpu"), batch_size=1, threads=1, depth=1)
except ImportError as error:
    assert "dalipipe[cuda12]" in str(error) and "dalipipe[cuda13]" in str(error), error
else:
    raise AssertionError("no error")
"""
    )


def test_import_is_light_and_touches_no_gpu():
    loaded = python(
        """
        import sys
        import dalipipe
        print(*sys.modules)
        if "torch" in sys.modules:
            assert not sys.modules["torch"].cuda.is_initialized()
        """
    ).split()
    assert not {"nvidia.dali", "torchvision", "matplotlib", "sklearn", "typer"} & set(loaded)


def test_a_loader_of_pictures_waits_for_nothing_that_others_need():
    loaded = python(
        """
        import sys
        import numpy as np
        import dalipipe
        source = dalipipe.Arrays(np.zeros((4, 3, 3, 3), np.uint8))
        next(iter(dalipipe.DataLoader(source, 2, device="cpu")))
        print(*sys.modules)
        """
    ).split()
    others = {"nvidia.dali", "torchvision", "PIL", "pyarrow", "dalipipe.spectral", "dalipipe.sources.text"}
    others |= {"dalipipe.tracks.signal", "dalipipe.tracks.text", "dalipipe.conversion.walk", "dalipipe.finetune"}
    assert not others & set(loaded)


def test_all_public_names_are_there_when_asked_for():
    import dalipipe.sources

    for module in (dalipipe, dalipipe.sources):
        assert all(getattr(module, name) is not None for name in module.__all__)
        with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
            module.Nothing  # noqa: B018


def test_every_python_and_extra_is_declared():
    if sys.version_info < (3, 11):
        pytest.skip("needs tomllib")
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["requires-python"] == ">=3.10,<3.14"
    assert set(project["optional-dependencies"]) >= {"cuda12", "cuda13", "test", "bench", "demo"}
    assert project["scripts"] == {"dalipipe": "dalipipe.cli:app"}


def test_building_asks_only_for_what_builds():
    if sys.version_info < (3, 11):
        pytest.skip("needs tomllib")
    import tomllib

    requires = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    names = {re.match(r"[\w-]+", each)[0] for each in requires}
    assert {name for name in names if not name.startswith("nvidia-")} == {"setuptools", "pybind11"}


# --- the build -----------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path) -> Path:
    """A copy of what the build needs, with nothing built."""
    copy = tmp_path / "tree"
    for name in ("csrc", "dalipipe"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture
def tools(tmp_path) -> Path:
    """A folder for PATH, empty but for what a test puts there."""
    folder = tmp_path / "tools"
    folder.mkdir()
    return folder


def build(tree: Path, path: str | Path, **environment: str) -> tuple[int, str]:
    clean = {key: value for key, value in os.environ.items() if key not in ("CUDA_HOME", "CUDA_PATH", "CXX")}
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=tree,
        env={**clean, "PATH": str(path), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    return done.returncode, done.stdout


def script(folder: Path, name: str, body: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_no_compiler_says_what_to_install(tree, tools):
    status, said = build(tree, tools, DALIPIPE_CUDA="0")
    assert status != 0
    assert "needs a C++17 compiler" in said and "apt install g++" in said and "CXX" in said


def test_old_nvcc_says_what_is_needed(tree, tools):
    script(tools, "g++", "exit 0")
    script(tools, "nvcc", 'echo "Cuda compilation tools, release 11.5, V11.5.119"')
    status, said = build(tree, tools)
    if status == 0:
        pytest.skip("a newer nvcc is installed beside this Python")
    assert "needs nvcc >= 12.8" in said and "release 11.5" in said and "DALIPIPE_CUDA=0" in said


def test_cuda_home_comes_before_path(tree, tools, tmp_path):
    script(tools, "g++", "exit 0")
    script(tools, "nvcc", 'echo "release 13.0, V13.0.88"')
    (tmp_path / "cuda/bin").mkdir(parents=True)
    script(tmp_path / "cuda/bin", "nvcc", 'echo "release 12.9, V12.9.1"')
    status, said = build(tree, tools, CUDA_HOME=str(tmp_path / "cuda"))
    assert f"CUDA 12.9 ({tmp_path / 'cuda/bin/nvcc'}) for 80, 86, 89, 90, 100, 120" in said
    assert status != 0 and f"no libcudart_static.a under {tmp_path / 'cuda'}" in said


def test_wanted_cuda_without_nvcc(tree, tools):
    script(tools, "g++", "exit 0")
    status, said = build(tree, tools, DALIPIPE_CUDA="1")
    if status == 0:
        pytest.skip("an nvcc is installed beside this Python")
    assert "DALIPIPE_CUDA=1, but there is no nvcc" in said


def test_wrong_architectures(tree, tools):
    script(tools, "g++", "exit 0")
    script(tools, "nvcc", 'echo "release 13.0, V13.0.88"')
    status, said = build(tree, tools, DALIPIPE_CUDA_ARCHS="hopper")
    assert status != 0 and "expected a list such as 80,86,90, got ['hopper']" in said


def test_compile_error_shows_the_compiler_s_words(tree, tools):
    script(tools, "g++", 'echo "pixel.h:1: error: no such luck" >&2; exit 1')
    status, said = build(tree, tools, DALIPIPE_CUDA="0", CXX="g++")
    assert status != 0 and "no such luck" in said and "exit status 1 from: g++ " in said


@pytest.mark.slow
def test_builds_without_cuda_and_only_what_changed(tree):
    status, said = build(tree, os.environ["PATH"], DALIPIPE_CUDA="0")
    assert status == 0, said
    assert "compiling csrc/bindings/module.cpp" in said and ".cu" not in said
    code = "from dalipipe import native; i = native.build_info(); assert not i['cuda'] and i['cuda_archs'] == '', i"
    subprocess.run([sys.executable, "-c", code], cwd=tree, check=True, timeout=60)

    status, said = build(tree, os.environ["PATH"], DALIPIPE_CUDA="0")
    assert status == 0 and "compiling" not in said
    (tree / "csrc/probe.cpp").touch()
    status, said = build(tree, os.environ["PATH"], DALIPIPE_CUDA="0")
    assert status == 0 and said.count("compiling") == 1


@pytest.mark.slow
def test_wheel_and_sdist_hold_what_they_should(tree, tmp_path):
    code = f"from setuptools import build_meta as b; b.build_sdist({str(tmp_path)!r}); b.build_wheel({str(tmp_path)!r})"
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=tree,
        check=True,
        timeout=600,
        env={**os.environ, "DALIPIPE_CUDA": "0"},
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.startswith("dalipipe/_C.") and name.endswith(".so") for name in names)
    assert {"dalipipe/py.typed", "dalipipe/text/synonyms.txt", "dalipipe/ops/__init__.py"} <= set(names)
    assert any(name.endswith("LICENSE") for name in names)
    assert not any(name.startswith(("csrc", "tests", "build")) for name in names)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as tar:
        packed = {name.split("/", 1)[1] for name in tar.getnames() if "/" in name}
    expected = {str(path.relative_to(tree)) for path in (tree / "csrc").rglob("*") if path.is_file()}
    assert expected | {"setup.py", "pyproject.toml", "LICENSE"} <= packed
