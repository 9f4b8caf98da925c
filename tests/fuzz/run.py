"""Builds the fuzz targets with sanitizers and runs them over mutations of real files.

python tests/fuzz/run.py [--target NAME ...] [--seconds 60] [--seed 0] [FILE ...]

The time is shared by the targets, all of them if none is named; FILEs join the seeds of each.
"""

from __future__ import annotations

import argparse
import io
import os
import shlex
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

CRASH = "fuzz-crash.bin"  # where the driver leaves the input that was too much
ROOT = Path(__file__).resolve().parents[2]
FLAGS = "-std=c++17 -g -O1 -ffp-contract=off -fno-sanitize-recover=all -fno-omit-frame-pointer".split()
FLAGS += ["-fsanitize=address,undefined,float-cast-overflow"]
FILES = [ROOT / "tests" / "fuzz" / f"{name}.cpp" for name in ("probe", "shards", "jpeg", "device", "audio", "tokens")]
FILES += [ROOT / "csrc" / name for name in ("probe.cpp", "audio.cpp", "shards.cpp", "tfrecord.cpp", "cpu/pool.cpp")]
FILES += [ROOT / "csrc/cpu" / name for name in ("token.cpp", "token_check.cpp")]
FILES += sorted((ROOT / "csrc/jpeg").glob("*.cpp"))
PASSES = [ROOT / "tests/fuzz" / name for name in ("passes.cpp", "signals.cpp")]
PASSES += sorted((ROOT / "csrc/cpu").glob("*.cpp"))


def build(folder: Path, sources: Sequence[Path] = FILES) -> Path:
    """Compiles the targets of files, or those of ``PASSES``, which take longer, into one program in `folder`. Raises
    ``CalledProcessError`` with what the compiler said."""
    command = [
        *shlex.split(os.environ.get("CXX", "g++")),
        *FLAGS,
        f"-I{ROOT / 'csrc'}",
        f"-I{ROOT / 'tests/cuda_on_cpu'}",
    ]
    sources = [ROOT / "tests/fuzz/driver.cpp", *sources]
    command += ["-DFUZZ_PASSES"] if PASSES[0] in sources else []
    objects = [folder / f"{i}.o" for i in range(len(sources))]

    def call(*arguments: object) -> None:
        subprocess.run([*command, *map(str, arguments)], check=True, stderr=subprocess.PIPE, text=True)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(lambda source, made: call("-c", source, "-o", made), sources, objects))
    call(*objects, "-lpthread", "-o", folder / "fuzz")
    return folder / "fuzz"


def images() -> list[bytes]:
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
    files = []
    for kind, mode, options in variants:
        out = io.BytesIO()
        rgb.convert(mode).save(out, kind, **options)
        files.append(out.getvalue())
    return files


def jpegs() -> list[bytes]:
    """Small JPEGs of every sampling, sequential and progressive, with restarts and without."""
    files = []
    for i, sampling in enumerate(("4:4:4", "4:2:2", "4:2:0", "grey")):
        for options in ({}, {"progressive": True}, {"restart_marker_blocks": 2}, {"optimize": True, "quality": 30}):
            noise = np.random.default_rng(i).normal(0, 30, (45, 70, 3))
            y, x = np.mgrid[:45, :70]
            pixels = (128 + 90 * np.sin(x / 5)[..., None] + 40 * np.cos(y / 3)[..., None] + noise).clip(0, 255)
            image = Image.fromarray(pixels.astype(np.uint8))
            out = io.BytesIO()
            if sampling == "grey":
                image.convert("L").save(out, "JPEG", **options)
            else:
                image.save(out, "JPEG", subsampling=sampling, **options)
            data = out.getvalue()
            files.append(data)
            if sampling == "4:2:2" and "progressive" not in options:  # as 4:4:0, in as many MCUs
                at = data.index(b"\xff\xc0")
                files.append(
                    data[: at + 5]
                    + struct.pack(">HH", 16 * 6, 8 * 5)
                    + data[at + 9 : at + 11]
                    + b"\x12"
                    + data[at + 12 :]
                )
    return files


def grids() -> list[bytes]:
    """Small JPEGs of tiles: a restart at each MCU, or each row of them."""
    files = []
    for i, sampling in enumerate(("4:4:4", "4:2:2", "4:2:0", "grey")):
        for options in ({"restart_marker_blocks": 1}, {"restart_marker_rows": 1}):
            pixels = np.random.default_rng(i).normal(128, 50, (45, 70, 3)).clip(0, 255).astype(np.uint8)
            out = io.BytesIO()
            image = Image.fromarray(pixels)
            if sampling == "grey":
                image.convert("L").save(out, "JPEG", optimize=True, **options)
            else:
                image.save(out, "JPEG", optimize=True, subsampling=sampling, **options)
            files.append(out.getvalue())
    return files


def tars() -> list[bytes]:
    """Small shards in every dialect, with what the scanner has a way of its own for."""
    names = ["0001.jpg", "0001.cls", "a/0002.seg.png", "a/0002.json", "__meta__/x.json", "é" * 60 + ".txt"]
    names += [f"{'folder/' * 30}{i}.cls" for i in range(2)] + ["1.cls", "1.clt"]
    files = []
    for dialect in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=dialect) as tar:
            for i, name in enumerate(names):
                if dialect == tarfile.USTAR_FORMAT and not (name.isascii() and len(name) < 200):
                    continue
                member = tarfile.TarInfo(name)
                member.size = (3, 0, 64, 65, 513, 700)[i % 6]
                member.pax_headers = {"comment": "x", **({"size": str(member.size)} if i % 2 else {})}
                tar.addfile(member, io.BytesIO(b"17\n" + bytes(member.size)))
            for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.GNUTYPE_SPARSE):
                member = tarfile.TarInfo("b.jpg")
                member.type, member.linkname = kind, "0001.jpg"
                tar.addfile(member)
        files += [out.getvalue(), out.getvalue()[:2048]]
    # A sparse member whose map goes on in blocks of its own; the target puts the checksum right.
    member = tarfile.TarInfo("s.jpg")
    member.type, member.size = tarfile.GNUTYPE_SPARSE, 600
    sparse = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    sparse[482] = 1
    maps = bytes(504) + b"\1" + bytes(7) + bytes(512)
    return [*files, bytes(sparse) + maps + bytes(1024) + files[0]]


def tfrecords() -> list[bytes]:
    # The target itself repairs checksums.
    return [
        b"".join(struct.pack("<QI", len(record), 0) + record + b"\0\0\0\0" for record in records)
        for records in ([b"", b"a", b"record" * 20], examples(), [bytes(n) for n in range(40)])
    ]


def examples() -> list[bytes]:
    """Messages with features of every kind, packed and not."""

    def field(number: int, data: bytes) -> bytes:
        length, head = len(data), bytearray([number << 3 | 2])
        while length > 127:
            head.append(length & 127 | 128)
            length >>= 7
        return bytes([*head, length]) + data

    def example(*features: tuple[bytes, bytes]) -> bytes:
        return field(1, b"".join(field(1, field(1, name) + field(2, feature)) for name, feature in features))

    picture = (b"image/encoded", field(1, field(1, b"\xff\xd8\xff" + bytes(200))))
    texts = (b"texts", field(1, field(1, b"one") + field(1, b"") + field(1, b"three")))
    floats = [(b"floats", field(2, field(1, struct.pack("<3f", 1, 2, 3)))), (b"float", field(2, b"\x0d" + bytes(4)))]
    ints = [(b"ints", field(3, field(1, b"\x01\xff\x7f" + b"\xff" * 9 + b"\x01"))), (b"int", field(3, b"\x08\x07"))]
    return [
        example(picture, *ints),
        example(texts, *floats, *ints, (b"none", b"")),
        example(*ints, picture, *ints),
        b"",
    ]


def sounds() -> list[bytes]:
    """Small WAV files of every way to store a sample, plain and extensible, and the beginnings of other kinds."""
    noise = np.random.default_rng(0).bytes(600)
    files = []
    for codec, bits in ((1, 8), (1, 16), (1, 24), (1, 32), (3, 32), (3, 64), (7, 8)):
        for channels in (1, 2, 5):
            width = channels * bits // 8
            plain = struct.pack("<HHIIHH", codec, channels, 8000, 8000 * width, width, bits)
            extensible = struct.pack("<HHIIHH", 0xFFFE, channels, 8000, 8000 * width, width, bits)
            extensible += struct.pack("<HHIH", 22, bits, 3, codec) + bytes.fromhex("000000001000800000aa00389b71")
            for form in (plain, extensible):
                data = np.linspace(-1, 1, 60, dtype=f"<f{bits // 8}").tobytes() if codec == 3 else noise[: 40 * width]
                chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"LIST" + struct.pack("<I", 3) + b"abc\0"
                chunks += b"data" + struct.pack("<I", len(data)) + data
                files.append(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)
    first = b"\x01vorbis" + struct.pack("<IBI", 0, 2, 8000), b"OpusHead\x01\x02" + struct.pack("<HI", 312, 8000)
    oggs = [
        b"".join(
            b"OggS\0\2" + struct.pack("<qIIIBB", 960 * i, 7, i, 0, 1, len(body)) + body
            for i, body in enumerate((head, noise[:99], noise[:250]))
        )
        for head in first
    ]
    large = b"ds64" + struct.pack("<IQQQI", 28, 0, 40, 0, 0)
    files.append(b"RF64" + b"\xff" * 4 + b"WAVE" + large + files[0][12:].replace(b"data(\0\0\0", b"data" + b"\xff" * 4))
    return [*files, b"fLaC\0\0\0\x22" + noise[:34], *oggs, b"ID3" + noise, b"\xff\xfb\x90" + noise]


def passes() -> list[bytes]:
    """Choices that batches are made from: any will do."""
    rng = np.random.default_rng(0)
    return [rng.bytes(1_500) for _ in range(256)]


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "probe": images,
    "tar": tars,
    "tfrecord": tfrecords,
    "example": examples,
    "jpeg": jpegs,
    "device": grids,
    "audio": sounds,
    "tokens": passes,
    "passes": passes,
}


def fuzz(
    program: Path, target: str, folder: Path, seconds: float, seed: int = 0, files: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Runs one target in ``folder``, where its seeds go, and what made it fail."""
    seeds = []
    for i, data in enumerate(SEEDS[target]()):
        seeds.append(folder / f"{target}-{i:02d}")
        seeds[-1].write_bytes(data)
    command = [program, target, str(seconds), str(seed), *seeds, *files]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", action="append", choices=list(SEEDS))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("files", nargs="*")
    options = parser.parse_args()
    targets = options.target or list(SEEDS)
    files = [os.path.abspath(file) for file in options.files]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        programs: dict[bool, Path] = {}
        for target in targets:
            if (of_passes := target == "passes") not in programs:
                (folder / f"program-{of_passes}").mkdir()
                programs[of_passes] = build(folder / f"program-{of_passes}", PASSES if of_passes else FILES)
            program = programs[of_passes]
            done = fuzz(program, target, folder, options.seconds / len(targets), options.seed, files)
            print(done.stdout + done.stderr, end="", flush=True)
            if done.returncode:
                if (folder / CRASH).is_file():
                    shutil.copy(folder / CRASH, CRASH)
                return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
