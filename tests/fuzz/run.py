"""Builds a fuzz target with sanitizers and runs it over mutated real images.

python tests/fuzz/run.py [--seconds 60] [--seed 0] [FILE ...]      FILEs join the seeds
"""

from __future__ import annotations

import argparse
import io
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
FLAGS = "-std=c++17 -g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer".split()


def build(folder: Path) -> Path:
    """Compiles the target into `folder`."""
    program = folder / "probe"
    sources = [ROOT / "tests/fuzz/probe.cpp", ROOT / "csrc/probe.cpp", ROOT / "csrc/cpu/pool.cpp"]
    command = [*shlex.split(os.environ.get("CXX", "g++")), *FLAGS, "-DFUZZ_MAIN", f"-I{ROOT / 'csrc'}"]
    subprocess.run([*command, *map(str, sources), "-lpthread", "-o", str(program)], check=True)
    return program


def write_seeds(folder: Path) -> list[Path]:
    """One small file of every kind that the probe knows."""
    y, x = np.mgrid[:24, :40]
    rgb = Image.fromarray(np.stack([y * 9, x * 6, (x + y) * 4], -1).astype(np.uint8))
    tags = Image.Exif()
    tags[0x0112] = 6
    more = {"save_all": True, "append_images": [rgb.rotate(180)]}
    variants: list[tuple[str, str, dict]] = [
        *[(kind, "RGB", {}) for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")],
        *[(kind, "RGB", {"exif": tags.tobytes()}) for kind in ("JPEG", "PNG", "WEBP", "TIFF")],
        *[(kind, "RGB", more) for kind in ("PNG", "WEBP", "GIF", "TIFF")],
        *[(kind, "L", {}) for kind in ("JPEG", "PNG", "BMP", "TIFF", "PPM")],
        *[(kind, "RGBA", {}) for kind in ("PNG", "WEBP", "TIFF")],
        *[(kind, "CMYK", {}) for kind in ("JPEG", "TIFF")],
        ("JPEG", "RGB", {"progressive": True}),
        ("WEBP", "RGB", {"lossless": True}),
        ("PNG", "P", {"transparency": 1}),
    ]
    paths = []
    for i, (kind, mode, options) in enumerate(variants):
        out = io.BytesIO()
        rgb.convert(mode).save(out, kind, **options)
        paths.append(folder / f"{i:02d}.{kind.lower()}")
        paths[-1].write_bytes(out.getvalue())
    return paths


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("files", nargs="*")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seeds = [*write_seeds(Path(folder)), *options.files]
        command = [build(Path(folder)), str(options.seconds), str(options.seed), *seeds]
        return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(main())
