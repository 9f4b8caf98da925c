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
    def variable(self) -> str:
        """Of the environment, which names its interpreter."""
        return f"{self.library.upper().replace('.', '_')}_PYTHON"

    @property
    def python(self) -> str:
        """Its interpreter: $FFCV_PYTHON, say, where libraries want one of their own, else $PEERS_PYTHON, else ours."""
        if self.library in ("dalipipe", "torchvision"):
            return sys.executable
        found = os.environ.get(self.variable) or os.environ.get("PEERS_PYTHON")
        if not found:
            return sys.executable
        return os.path.abspath(found) if os.sep in found else found  # a bare name is looked for on PATH

    def is_absent(self, missing: str | None) -> bool:
        """Whether the library is not there when ``missing`` is the module that was not found: itself, or a package that
        it is a part of, but not the contender's own module, which is its author's to put right.
        """
        own = self.kind.partition(":")[0]
        return missing is not None and _is_within(self.library, missing) and not _is_within(own, missing)


def _is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


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
