"""Builds the one extension, `dalipipe._C`, from csrc/: C++ by the host compiler, CUDA by nvcc when one is found.

Environment: DALIPIPE_CUDA=0 builds without CUDA, =1 insists on it; DALIPIPE_CUDA_ARCHS="90" narrows the fat binary;
CXX, CUDA_HOME and MAX_JOBS mean what they usually mean. Whether this machine has a GPU is never asked.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ROOT = Path(__file__).resolve().parent
CUDA_ARCHS = "80,86,89,90,100,120"  # Ampere to Blackwell; PTX of the last serves what comes after
CUDA_MIN = (12, 8)  # the first nvcc that knows 100 and 120
# Without FMA contraction, here and in nvcc (-fmad=false), CPU and CUDA round alike.
CXX_FLAGS = "-std=c++17 -O3 -ffp-contract=off -fno-math-errno -fPIC -fvisibility=hidden -Wall -Wextra".split()
NVCC_FLAGS = "-std=c++17 -O3 -fmad=false -cudart=static -Xcompiler -fPIC,-fvisibility=hidden,-ffp-contract=off".split()


def find_cxx():
    """The C++ compiler's command, as a list of words."""
    for command in filter(None, [os.environ.get("CXX"), sysconfig.get_config_var("CXX"), "g++", "clang++", "c++"]):
        if shutil.which(shlex.split(command)[0]):
            return shlex.split(command)
    raise CompileError(
        "dalipipe needs a C++17 compiler (g++ >= 9 or clang++ >= 10) and found none on PATH: install one "
        "(Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++) or name it in CXX"
    )


def find_nvcc():
    """The first new enough nvcc of CUDA_HOME, PATH and PyPI, with its version; None if there is none at all."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or ""
    candidates = [Path(home, "bin/nvcc")] if home else []
    candidates += [Path(found)] if (found := shutil.which("nvcc")) else []
    candidates += [nvcc for folder in sys.path if folder for nvcc in sorted(Path(folder).glob("nvidia/cu*/bin/nvcc"))]
    older = []
    for nvcc in filter(Path.is_file, candidates):
        said = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
        release = re.search(r"release (\d+)\.(\d+)", said)
        if release and tuple(map(int, release.groups())) >= CUDA_MIN:
            return nvcc, ".".join(release.groups())
        older.append(f"{nvcc} ({release[0] if release else 'does not run'})")
    if older:
        raise CompileError(
            f"dalipipe needs nvcc >= {'.'.join(map(str, CUDA_MIN))}, found only {', '.join(older)}: install a newer "
            "one and point CUDA_HOME at it, or build without CUDA (DALIPIPE_CUDA=0)"
        )
    return None


def find_cudart(nvcc):
    """The static runtime that comes with this nvcc: the module then imports without a driver and without a toolkit."""
    said = subprocess.run([nvcc, "--dryrun", "-c", "-x", "cu", os.devnull], capture_output=True, text=True).stderr
    top = re.search(r"TOP=(.+)", said)  # what PATH calls nvcc may be a wrapper; this is where the real one lives
    home = Path(top[1].strip() if top else nvcc.parent.parent)
    for pattern in ("lib64", "lib", "targets/*/lib"):
        for library in home.glob(f"{pattern}/libcudart_static.a"):
            return str(library)
    raise CompileError(
        f"no libcudart_static.a under {home}: install the CUDA runtime of nvcc's version with its static library "
        "(PyPI: nvidia-cuda-runtime), or build without CUDA (DALIPIPE_CUDA=0)"
    )


def cuda_archs():
    archs = re.split(r"[\s,;]+", os.environ.get("DALIPIPE_CUDA_ARCHS", "").strip().replace(".", "") or CUDA_ARCHS)
    if bad := [arch for arch in archs if not re.fullmatch(r"\d{2,3}[af]?", arch)]:
        raise CompileError(f"DALIPIPE_CUDA_ARCHS: expected a list such as 80,86,90, got {bad}")
    return archs


class BuildNative(build_ext):
    """Compiles what changed, several files at a time, and links."""

    def build_extension(self, ext):
        import pybind11

        cxx, jobs = find_cxx(), int(os.environ.get("MAX_JOBS") or len(os.sched_getaffinity(0)))
        wanted = os.environ.get("DALIPIPE_CUDA", "")
        cuda = None if wanted == "0" else find_nvcc()
        if cuda is None and wanted != "0":
            none = "no nvcc in CUDA_HOME, on PATH or from PyPI (nvidia-cuda-nvcc)"
            if wanted == "1":
                raise CompileError(f"DALIPIPE_CUDA=1, but there is {none}")
            self.say(f"{none}: building without CUDA")

        include = [
            f"-I{ROOT / 'csrc'}",
            f"-isystem{sysconfig.get_path('include')}",
            f"-isystem{pybind11.get_include()}",
        ]
        compilers, macros, link = {".cpp": [*cxx, *CXX_FLAGS, *include]}, [], ["-lpthread"]
        sources = [*ROOT.glob("csrc/**/*.cpp")]
        if cuda:
            (nvcc, version), archs = cuda, cuda_archs()
            self.say(f"CUDA {version} ({nvcc}) for {', '.join(archs)}")
            macros = ["-DDALIPIPE_WITH_CUDA", f'-DDALIPIPE_CUDA_VERSION="{version}"']
            macros += [f'-DDALIPIPE_CUDA_ARCHS="{",".join(archs)}"']
            code = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
            code += [f"-gencode=arch=compute_{archs[-1]},code=compute_{archs[-1]}", f"--threads={jobs}"]
            compilers[".cu"] = [str(nvcc), "-ccbin", cxx[0], *NVCC_FLAGS, *code, include[0]]
            sources += ROOT.glob("csrc/cuda/*.cu")
            link = [find_cudart(nvcc), "-ldl", "-lrt", *link]

        objects = {}
        for source in sorted(sources, key=lambda path: (path.suffix != ".cu", path)):  # the slow ones first
            target = Path(self.build_temp).resolve() / f"{source.relative_to(ROOT)}.o"
            told = macros if source.parent.name == "bindings" else []
            objects[target] = [*compilers[source.suffix], *told, "-c", str(source), "-o", str(target)]
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(self.compile, objects, objects.values()))
        out = Path(self.get_ext_fullpath(ext.name)).resolve()
        out.parent.mkdir(parents=True, exist_ok=True)
        self.call([*cxx, "-shared", *map(str, objects), "-Wl,--exclude-libs,ALL", *link, "-o", str(out)])

    def compile(self, target, command):
        source, note = Path(command[-3]), target.with_suffix(".txt")
        inputs = [source, ROOT / "setup.py", *ROOT.glob("csrc/**/*.h")]
        same = target.is_file() and note.is_file() and note.read_text() == shlex.join(command) and not self.force
        if same and target.stat().st_mtime > max(path.stat().st_mtime for path in inputs):
            return
        self.say(f"compiling {source.relative_to(ROOT)}")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        self.call(command)
        note.write_text(shlex.join(command))

    def call(self, command):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        sys.stderr.write(done.stdout)
        if done.returncode:
            raise CompileError(f"exit status {done.returncode} from: {shlex.join(command)}")

    def say(self, text):
        sys.stderr.write(f"dalipipe: {text}\n")  # one write: several threads report


setup(ext_modules=[Extension("dalipipe._C", [])], cmdclass={"build_ext": BuildNative})
