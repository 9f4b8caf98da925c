"""The loaders that dalipipe is measured beside, each as its own guide would have it. Standard library only."""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass

from dalipipe.bench.contenders.base import Contender


@dataclass(frozen=True)
class Entry:
    """Where a contender is to be found: ``kind``, "module:class". ``library``: what it imports; ``remedy``: how to come
    by that; ``on``: the devices that it has a way for.
    """

    kind: str
    library: str
    remedy: str
    on: tuple[str, ...] = ("cpu", "cuda")

    def contender(self) -> type[Contender]:
        module, _, name = self.kind.partition(":")
        found: type[Contender] = getattr(importlib.import_module(module), name)
        return found

    @property
    def python(self) -> str:
        """Its interpreter: $FFCV_PYTHON, say, where libraries want one of their own, else $PEERS_PYTHON, else ours."""
        if self.library in ("dalipipe", "torchvision"):
            return sys.executable
        return os.environ.get(f"{self.library.upper()}_PYTHON") or os.environ.get("PEERS_PYTHON") or sys.executable


OURS = "dalipipe"
DALI = "DALI"
PILLOW = "torch DataLoader, Pillow"
TORCHVISION = "torch DataLoader, torchvision v2"

_HERE = "dalipipe.bench.contenders."
_SPDL = "pip install spdl"

CONTENDERS = {
    OURS: Entry(_HERE + "ours:Ours", "dalipipe", "pip install dalipipe"),
    TORCHVISION: Entry(_HERE + "torch_loaders:TorchvisionV2", "torchvision", "pip install torchvision"),
    PILLOW: Entry(_HERE + "torch_loaders:Pillow", "torchvision", "pip install torchvision"),
    "torch DataLoader, torchvision's GPU decoder": Entry(
        _HERE + "torch_loaders:TorchvisionOnGpu", "torchvision", "pip install torchvision", on=("cuda",)
    ),
    DALI: Entry(_HERE + "dali:Dali", "nvidia.dali", "pip install 'dalipipe[cuda12]' or 'dalipipe[cuda13]'"),
    "FFCV": Entry(_HERE + "ffcv:Ffcv", "ffcv", "pip install ffcv numba (needs OpenCV's and libturbojpeg's headers)"),
    "SPDL, FFmpeg": Entry(_HERE + "spdl:SpdlFfmpeg", "spdl", _SPDL + ", and FFmpeg's libraries: apt install ffmpeg"),
    "SPDL, torchvision": Entry(_HERE + "spdl:SpdlTorchvision", "spdl", _SPDL),
    "LitData": Entry(_HERE + "litdata:LitData", "litdata", "pip install litdata"),
    "WebDataset": Entry(_HERE + "webdataset:WebDataset", "webdataset", "pip install webdataset"),
    "timm": Entry(_HERE + "timm:Timm", "timm", "pip install timm"),
}
