"""Options, skips and fixtures that every test may use.

pytest                          what runs without a GPU and without data
FAIL_WITHOUT_CUDA=1 pytest -m cuda      on a GPU: a missing one fails instead of skipping
pytest --data=DIR               with a folder of real data
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--data", type=Path, metavar="DIR", help="folder of real data; what needs it skips without")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda") is None:
        return
    import torch

    if torch.cuda.is_available():
        return
    if os.environ.get("FAIL_WITHOUT_CUDA") == "1":
        pytest.fail("FAIL_WITHOUT_CUDA=1, but torch.cuda.is_available() is False")
    pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def real_data(pytestconfig: pytest.Config) -> Path:
    """The folder named by --data."""
    folder = pytestconfig.getoption("--data")
    if folder is None:
        pytest.skip("needs real data: pytest --data=DIR")
    if not folder.is_dir():
        pytest.fail(f"--data {folder} is no folder")
    return folder


@pytest.fixture(scope="session")
def photographs(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Real photographs as JPEG files: those of imagenet_sample_125.tar in --data."""
    archive = real_data / "imagenet_sample_125.tar"
    if not archive.is_file():
        pytest.skip(f"no {archive}")
    folder = tmp_path_factory.mktemp("photographs")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 [H,W,3] with slopes, edges and grain: something a codec has to work on."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    random = np.random.default_rng(seed)
    phase = random.uniform(0, 6.28, 3).astype(np.float32)
    image = 128 + 70 * np.sin(x[..., None] / 9 + phase) + 50 * np.cos(y[..., None] / 13 + 2 * phase)
    image += 20 * ((x[..., None] // 16 + y[..., None] // 16) % 2) + random.normal(0, 4, image.shape)
    return image.clip(0, 255).astype(np.uint8)


@pytest.fixture
def jpeg_folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes an image folder: jpeg_folder(n, classes=2, size=(48, 64)) → its root; files root/class_0/0000.jpg …"""

    def make(n: int, classes: int = 2, size: tuple[int, int] = (48, 64), name: str = "images") -> Path:
        from PIL import Image

        root = tmp_path / name
        for i in range(classes):
            (root / f"class_{i}").mkdir(parents=True)
        for i in range(n):
            path = root / f"class_{i % classes}" / f"{i:04d}.jpg"
            Image.fromarray(picture(*size, seed=i)).save(path, quality=90)
        return root

    return make


@pytest.fixture(scope="session")
def cuda_on_cpu(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """csrc/cuda compiled for the host."""
    from emulation import Emulation, compile_for_host

    return Emulation(compile_for_host(tmp_path_factory.mktemp("cuda_on_cpu")))


@pytest.fixture(scope="session")
def signals_on_cpu(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """csrc/cuda's chains over signals, compiled for the host."""
    from emulation import SignalEmulation, compile_for_host

    return SignalEmulation(compile_for_host(tmp_path_factory.mktemp("cuda_on_cpu"), "signals"))


@pytest.fixture(scope="session")
def tokens_on_cpu(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """csrc/cuda's edits of texts, and rows of them, compiled for the host."""
    from emulation import TokenEmulation, compile_for_host

    return TokenEmulation(compile_for_host(tmp_path_factory.mktemp("cuda_on_cpu"), "tokens"))


@pytest.fixture(scope="session")
def host_queue(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """csrc/cuda's JPEG decoder compiled for the host, as a decoder's device."""
    from emulation import jpeg_queue

    return jpeg_queue(tmp_path_factory.mktemp("cuda_on_cpu"))
