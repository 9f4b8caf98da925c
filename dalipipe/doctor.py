"""What this machine offers dalipipe, what is missing, and the remedy for each."""

from __future__ import annotations

import importlib
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from dalipipe import __version__
from dalipipe.cores import usable_cores

Status = Literal["ok", "note", "missing"]

_DALI_WHEELS = ("nvidia-dali-cuda130", "nvidia-dali-cuda120", "nvidia-dali-cuda110")
_CODEC_WHEELS = ("nvidia-nvimgcodec-cu13", "nvidia-nvimgcodec-cu12", "nvidia-nvimgcodec-cu11")
_GPU_CODECS = {"nvjpeg": "JPEG", "nvjpeg2k": "JPEG 2000", "nvtiff": "TIFF"}


@dataclass(frozen=True)
class Check:
    """One line of the report.

    ``status``: "ok"; "note", works but with less than there could be; "missing", the main job cannot run.
    """

    topic: str
    found: str
    status: Status = "ok"
    remedy: str = ""


def diagnose() -> list[Check]:
    """Every check, in reading order. No check raises: what it stumbles over is its finding."""
    checks: list[Check] = []
    for look in (_python, _processor, _native, _torch, _torchvision, _gpu, _dali, _decoders, _extras):
        try:
            checks += look()
        except Exception as error:  # a broken installation can fail in any way; that is what is to be reported
            topic = look.__name__.strip("_")
            checks.append(Check(topic, f"{type(error).__name__}: {error}", "missing", "reinstall it; see the error"))
    return checks


def _python() -> Iterator[Check]:
    yield Check("dalipipe", __version__ if _version("dalipipe") else f"{__version__}, run from its sources")
    yield Check("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _processor() -> Iterator[Check]:
    usable, present = max(1, round(usable_cores())), os.cpu_count() or 1
    found = f"{usable} usable" + (f" of {present}" if usable != present else "")
    if usable < 2:
        yield Check("CPU cores", found, "note", "decoding and training share one core; give the job more (--cpus)")
    else:
        yield Check("CPU cores", found)


def _native() -> Iterator[Check]:
    rebuild = "build it: pip install . in the source folder (needs a C++17 compiler)"
    try:
        native: Any = importlib.import_module("dalipipe.native")
    except ImportError as error:
        yield Check("native core", f"cannot be loaded: {error}", "missing", rebuild)
        return
    info = native.build_info()
    yield Check("native core", f"compiler {info.get('compiler', 'unknown')}")
    target = info.get("cpu", "unknown")
    if target == "scalar":
        yield Check("CPU SIMD", target, "note", "this processor has no AVX2; augmentation runs several times slower")
    else:
        yield Check("CPU SIMD", str(target))
    if info.get("cuda"):
        yield Check("CUDA kernels", f"CUDA {info['cuda_version']}, architectures {info['cuda_archs']}")
    else:
        remedy = "for GPUs, rebuild where nvcc is found (PATH or CUDA_HOME) and without DALIPIPE_CUDA=0"
        yield Check("CUDA kernels", "built without", "note", remedy)


def _torch() -> Iterator[Check]:
    torch = _imported("torch")
    if torch is None:
        yield Check("PyTorch", "not installed", "missing", "pip install 'torch>=2.9'")
        return
    yield Check("PyTorch", f"{torch.__version__}, CUDA {torch.version.cuda or 'not built in'}")


def _torchvision() -> Iterator[Check]:
    torchvision = _imported("torchvision")
    if torchvision is None:
        remedy = "pip install torchvision, the release made for this torch"
        yield Check("torchvision", "not installed", "missing", remedy)
    else:
        yield Check("torchvision", torchvision.__version__)


def _gpu() -> Iterator[Check]:
    driver = driver_version()
    if driver is None:
        yield Check("NVIDIA driver", "none", "note", "for GPU decoding, run on a machine with an NVIDIA driver")
    else:
        yield Check("NVIDIA driver", driver)
    torch = _imported("torch")
    if torch is None or not torch.cuda.is_available():
        if driver is None:
            yield Check("GPU", "none; everything runs on the CPU", "note")
        else:
            remedy = "install a CUDA build of torch for this driver, and check CUDA_VISIBLE_DEVICES"
            yield Check("GPU", "torch sees none though there is a driver", "missing", remedy)
        return
    built = _built_architectures()
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        capability = gpu.major * 10 + gpu.minor
        found = f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, compute {gpu.major}.{gpu.minor}"
        # A binary runs on its own major version from its minor on; PTX of the newest one covers what is newer still.
        binary = any(arch // 10 == gpu.major and arch <= capability for arch in built)
        if binary or capability > max(built, default=999):
            yield Check(f"GPU {index}", found)
        else:
            remedy = f"rebuild with DALIPIPE_CUDA_ARCHS={capability}"
            yield Check(f"GPU {index}", f"{found}; no kernel was built for it", "missing", remedy)


def _dali() -> Iterator[Check]:
    wheel = next((name for name in _DALI_WHEELS if _version(name)), None)
    if wheel is None:
        yield Check("DALI", "not installed", "missing", f"pip install 'dalipipe[{_fitting_extra()}]'")
        return
    found = f"{_version(wheel)} ({wheel})"
    try:
        importlib.import_module("nvidia.dali")
    except Exception as error:  # a broken wheel raises ImportError, OSError or RuntimeError
        remedy = f"pip install --force-reinstall {wheel}"
        yield Check("DALI", f"{found} cannot be loaded: {error}", "missing", remedy)
    else:
        yield Check("DALI", found)


def _decoders() -> Iterator[Check]:
    codec = next((version for version in map(_version, _CODEC_WHEELS) if version), None)
    host = [f"nvImageCodec {codec}"] if codec else []
    host += [f"Pillow {version}"] if (version := _version("pillow")) else []
    if host:
        yield Check("decoders, CPU", ", ".join(host))
    else:
        yield Check("decoders, CPU", "none", "missing", f"pip install 'dalipipe[{_fitting_extra()}]'")
    device = []
    for library, formats in _GPU_CODECS.items():
        version = next((v for major in (13, 12, 11) if (v := _version(f"nvidia-{library}-cu{major}"))), None)
        version = version or _version(f"nvidia-{library}")
        device += [f"{library} {version} ({formats})"] if version else []
    if device:
        yield Check("decoders, GPU", ", ".join(device))
    else:
        yield Check("decoders, GPU", "none", "note", f"pip install 'dalipipe[{_fitting_extra()}]'")


def _extras() -> Iterator[Check]:
    for package, use in (("matplotlib", "curves"), ("scikit-learn", "the demo's digits")):
        version = _version(package)
        if version:
            yield Check(package, version)
        else:
            yield Check(package, "not installed", "note", f"for {use}: pip install 'dalipipe[demo]'")


# Facts -------------------------------------------------------------------------------------------------------------


def driver_version() -> str | None:
    """The NVIDIA driver's version, from the kernel module or nvidia-smi; None without a driver."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
        if match := re.search(r"Kernel Module\s+(?:for \S+\s+)?(\d+(?:\.\d+)+)", text):
            return match[1]
    except OSError:
        pass
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    return answer[0] if answer else None


def _built_architectures() -> list[int]:
    """Compute capabilities, times ten, that the native core has kernels for."""
    try:
        native: Any = importlib.import_module("dalipipe.native")
    except ImportError:
        return []
    return [int(arch) for arch in re.findall(r"\d+", str(native.build_info().get("cuda_archs", "")))]


def _fitting_extra() -> str:
    """The extra that brings DALI for the CUDA version that the driver can run; without a driver either one works."""
    driver = driver_version()
    return "cuda13" if driver is not None and int(driver.split(".")[0]) >= 580 else "cuda12"


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
