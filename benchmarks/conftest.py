"""`pytest benchmarks --data=DIR`: DIR holds imagenet_sample_125.tar, or is an image folder (root/class/*.jpg).

`--dry-run`: what needs a CUDA device runs here without one, on a few pictures, for a moment, and writes its results
to a temporary folder.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from photographs import DRY_PHOTOGRAPHS, image_folder  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--data", type=Path, metavar="DIR", help="folder with real photographs")
    parser.addoption("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.addoption("--results", type=Path, default=HERE / "results", help="where JSON goes")
    parts = "of test_decode.py: only these, by commas, into the results that are there"
    parser.addoption("--parts", type=lambda names: names.split(","), default=[], metavar="NAMES", help=parts)
    check = "compare ratios with the results that are there, and write none"
    parser.addoption("--check", action="store_true", help=check)
    parser.addoption("--dry-run", action="store_true", help="try what needs a GPU on a few pictures without one")


@pytest.fixture(scope="session")
def photographs(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder of real JPEG photographs."""
    data = pytestconfig.getoption("--data")
    if data is None:
        pytest.skip("needs real photographs: pytest benchmarks --data=DIR")
    few = DRY_PHOTOGRAPHS if pytestconfig.getoption("--dry-run") else None
    try:
        return image_folder(data, tmp_path_factory.mktemp("photographs"), few)
    except FileNotFoundError as error:
        pytest.fail(str(error))


@pytest.fixture
def device(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """A `devices.Device`. In a dry run loaders on the host decode, and keep pictures, as they do on a CUDA device."""
    import devices
    import torch

    if pytestconfig.getoption("--dry-run"):
        return devices.host(tmp_path_factory.mktemp("cuda_on_cpu"), monkeypatch)
    if torch.cuda.is_available():
        return devices.Device(pytestconfig.getoption("--rounds"))
    missing = pytest.fail if os.environ.get("FAIL_WITHOUT_CUDA") == "1" else pytest.skip
    missing("needs a CUDA device; --dry-run tries it without one")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """What is timed has one core."""
    import cv2
    import torch

    threads = torch.get_num_threads()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    gc.collect()
    gc.freeze()  # what is there by now is not gone through again before every turn
    yield
    gc.unfreeze()
    torch.set_num_threads(threads)


@pytest.fixture
def results(pytestconfig: pytest.Config, tmp_path: Path) -> Path:
    """Where JSON goes; of a dry run never among the results."""
    folder: Path = pytestconfig.getoption("--results")
    return tmp_path if pytestconfig.getoption("--dry-run") and folder == HERE / "results" else folder
