"""`pytest benchmarks --data=DIR`: DIR holds imagenet_sample_125.tar, or is an image folder (root/class/*.jpg)."""

from __future__ import annotations

import os
import sys
import tarfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

COPIES = 24
"""Of each photograph: 3,000 files, so that a round is much longer than its start."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--data", type=Path, metavar="DIR", help="folder with real photographs")
    parser.addoption("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.addoption("--results", type=Path, default=Path(__file__).parent / "results", help="where JSON goes")


@pytest.fixture(scope="session")
def photographs(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder of real JPEG photographs."""
    data = pytestconfig.getoption("--data")
    if data is None:
        pytest.skip("needs real photographs: pytest benchmarks --data=DIR")
    archive = data / "imagenet_sample_125.tar"
    if not archive.is_file():
        if not any(entry.is_dir() for entry in data.iterdir()):
            pytest.fail(f"{data} has neither imagenet_sample_125.tar nor class folders")
        return data
    unpacked, root = tmp_path_factory.mktemp("unpacked"), tmp_path_factory.mktemp("photographs")
    with tarfile.open(archive) as tar:
        tar.extractall(unpacked, filter="data")
    files = sorted(path for path in unpacked.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    for i, path in enumerate(files):
        folder = root / f"class_{i % 10}"
        folder.mkdir(exist_ok=True)
        for copy in range(COPIES):
            os.link(path, folder / f"{i:03d}_{copy}.jpg")
    return root
