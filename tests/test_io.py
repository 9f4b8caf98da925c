"""Batched reads and header probes: every format, every way a file can be wrong."""

from __future__ import annotations

import errno
import io
import itertools
import os
import struct
import subprocess
import sys
import threading

import numpy as np
import pytest
from conftest import picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dalipipe import native

# --- reads ---------------------------------------------------------------------------------------------------------


def read_all(paths, **kwargs):
    arena, starts, errors = native.read_files(paths, threads=kwargs.pop("threads", 3), **kwargs)
    return [arena[a:b].tobytes() for a, b in itertools.pairwise(starts)], errors


@pytest.fixture
def files(tmp_path):
    contents = [os.urandom(size) for size in (1, 0, 70_000, 3, 4096, 1_000_003)]
    paths = []
    for i, content in enumerate(contents):
        paths.append(tmp_path / f"{i}.bin")
        paths[-1].write_bytes(content)
    return paths, contents


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_reads_whole_files(files, threads):
    paths, contents = files
    assert read_all(paths, threads=threads) == (contents, {})
    assert read_all([], threads=threads) == ([], {})


def test_reads_ranges_and_shares_descriptors(files):
    paths, contents = files
    chosen = [2, 5, 2, 0, 2, 5]
    offsets, lengths = [10, 1_000_000, 0, 1, 69_999, 17], [5, -1, -1, -1, 1, 0]
    got, errors = read_all([paths[i] for i in chosen], offsets=offsets, lengths=lengths)
    expected = [contents[i][o : None if n < 0 else o + n] for i, o, n in zip(chosen, offsets, lengths, strict=True)]
    assert (got, errors) == (expected, {})


def test_more_files_than_descriptors_are_kept(tmp_path):
    paths = [tmp_path / str(i) for i in range(600)]
    for i, path in enumerate(paths):
        path.write_bytes(bytes([i % 251]) * (i % 17))
    before = len(os.listdir("/proc/self/fd"))
    got, errors = read_all(paths)
    assert not errors
    assert got == [bytes([i % 251]) * (i % 17) for i in range(600)]
    assert len(os.listdir("/proc/self/fd")) == before


def test_reads_when_descriptors_run_out(tmp_path):
    script = """
import resource, sys
from dalipipe import native
paths = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
arena, starts, errors = native.read_files(paths, threads=2)
assert not errors, errors
assert starts.tolist() == list(range(len(paths) + 1)), starts
"""
    paths = [tmp_path / str(i) for i in range(60)]
    for path in paths:
        path.write_bytes(b"x")
    subprocess.run([sys.executable, "-c", script, *map(str, paths)], check=True, timeout=60)


def test_one_bad_file_costs_only_itself(files, tmp_path):
    paths, contents = files
    pipe, socket_like = tmp_path / "pipe", "/dev/null"
    os.mkfifo(pipe)
    bad = [tmp_path / "absent", tmp_path, pipe, socket_like, paths[0] / "below-a-file", "nul\0byte"]
    mixed = [p for pair in zip(bad, paths, strict=True) for p in pair]
    got, errors = read_all(mixed)
    assert got[1::2] == contents
    assert got[0::2] == [b""] * len(bad)
    assert {i: e.errno for i, e in errors.items()} == {
        0: errno.ENOENT, 2: errno.EISDIR, 4: errno.ESPIPE, 6: errno.ESPIPE, 8: errno.ENOTDIR, 10: errno.EINVAL,
    }  # fmt: skip
    assert [errors[i].filename for i in sorted(errors)] == [os.fspath(p) for p in bad]
    assert isinstance(errors[0], FileNotFoundError) and isinstance(errors[2], IsADirectoryError)


def test_unreadable_file(files):
    paths, contents = files
    paths[2].chmod(0)
    for folder in [*paths[2].parents][:-1]:
        if folder.stat().st_uid == os.geteuid():
            folder.chmod(folder.stat().st_mode | 0o111)
    pid = os.fork()
    if pid == 0:  # in a child, because root may read everything
        status = 1
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            got, errors = read_all(paths)
            status = 0 if list(errors) == [2] and errors[2].errno == errno.EACCES and got[3:] == contents[3:] else 1
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_ranges_beyond_the_end(files):
    paths, contents = files
    got, errors = read_all([paths[2]] * 4, offsets=[0, 70_000, 70_001, 69_000], lengths=[70_001, -1, -1, 1000])
    assert got == [b"", b"", b"", contents[2][69_000:]]
    assert sorted(errors) == [0, 2]
    assert "the file has 70000" in str(errors[0])


def test_huge_file_is_refused_before_memory_is_asked_for(tmp_path, files):
    sparse = tmp_path / "sparse"
    with open(sparse, "wb") as file:
        file.truncate(1 << 40)
    got, errors = read_all([sparse, files[0][2]])
    assert errors[0].errno == errno.EFBIG and got[1] == files[1][2]


def test_file_that_shrinks_between_sizing_and_reading(files):
    paths, contents = files

    def allocate(nbytes):  # called between the two
        os.truncate(paths[2], 100)
        with open(paths[3], "ab") as file:
            file.write(b"grown")
        return np.empty(nbytes + 5, np.uint8)

    arena, starts, errors = native.read_files(paths, threads=2, allocate=allocate)
    assert list(errors) == [2] and errors[2].errno == errno.EIO and "100 of 70000" in str(errors[2])
    got = [arena[a:b].tobytes() for a, b in itertools.pairwise(starts)]
    assert got == [*contents[:2], b"", *contents[3:]]


def test_reads_from_many_threads_at_once(files):
    paths, contents = files
    results = [None] * 8

    def work(i):
        results[i] = [read_all(paths, threads=3) for _ in range(20)]

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(results))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(result == [(contents, {})] * 20 for result in results)


def test_reads_in_a_forked_child(files):
    paths, contents = files
    assert read_all(paths) == (contents, {})  # the parent's threads exist
    pid = os.fork()
    if pid == 0:
        os._exit(0 if read_all(paths) == (contents, {}) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"threads": 0}, "threads must be at least 1"),
        ({"threads": 1, "offsets": [0, 0]}, r"offsets must be int64 \[1\]"),
        ({"threads": 1, "offsets": [-1]}, "offsets must be at least 0"),
        ({"threads": 1, "lengths": [-2]}, "lengths must be at least -1"),
        ({"threads": 1, "allocate": lambda n: np.empty(n - 1, np.uint8)}, "at least 3 bytes"),
        ({"threads": 1, "allocate": lambda n: np.empty(n, np.int8)}, "uint8"),
        ({"threads": 1, "allocate": lambda n: np.empty(2 * n, np.uint8)[::2]}, "contiguous"),
    ],
)
def test_wrong_arguments(files, kwargs, message):
    with pytest.raises(ValueError, match=message):
        native.read_files([files[0][3]], **kwargs)


# --- probes --------------------------------------------------------------------------------------------------------


def encode(image: np.ndarray, kind: str, mode: str | None = None, **kwargs) -> bytes:
    pil = Image.fromarray(image)
    out = io.BytesIO()
    (pil.convert(mode) if mode else pil).save(out, kind, **kwargs)
    return out.getvalue()


def probe(*blobs: bytes, threads: int = 1) -> np.ndarray:
    starts = np.cumsum([0, *map(len, blobs)])
    arena = np.frombuffer(b"".join(blobs), np.uint8)
    probed = native.probe_images(arena, starts, threads=threads)
    assert probed.dtype == native.IMAGE_HEADER and probed.shape == (len(blobs),)
    return probed


def seen(blob: bytes) -> tuple:
    header = probe(blob)[0]
    flags = {name for name, bit in native.IMAGE_FLAGS.items() if header["flags"] & bit}
    return (native.IMAGE_KINDS[header["kind"]], header["height"], header["width"], header["channels"], flags)


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


RGB = picture(37, 53)
GREY = RGB[..., 0]
RGBA = np.dstack([RGB, GREY])

CASES = {
    "jpeg": (encode(RGB, "JPEG"), ("jpeg", 37, 53, 3, set())),
    "jpeg progressive": (encode(RGB, "JPEG", progressive=True), ("jpeg", 37, 53, 3, {"progressive"})),
    "jpeg grey": (encode(GREY, "JPEG"), ("jpeg", 37, 53, 1, set())),
    "jpeg cmyk": (encode(RGB, "JPEG", "CMYK"), ("jpeg", 37, 53, 4, {"cmyk", "adobe"})),
    "jpeg rgb": (encode(RGB, "JPEG", keep_rgb=True), ("jpeg", 37, 53, 3, {"adobe", "rgb"})),
    "jpeg 1x1": (encode(RGB[:1, :1], "JPEG"), ("jpeg", 1, 1, 3, set())),
    "jpeg wide": (encode(np.zeros((2, 20_000), np.uint8), "JPEG"), ("jpeg", 2, 20_000, 1, set())),
    "png": (encode(RGB, "PNG"), ("png", 37, 53, 3, set())),
    "png grey": (encode(GREY, "PNG"), ("png", 37, 53, 1, set())),
    "png alpha": (encode(RGBA, "PNG"), ("png", 37, 53, 4, {"alpha"})),
    "png grey alpha": (encode(RGBA, "PNG", "LA"), ("png", 37, 53, 2, {"alpha"})),
    "png palette": (encode(RGB, "PNG", "P"), ("png", 37, 53, 3, {"palette"})),
    "png transparent": (encode(RGB, "PNG", "P", transparency=3), ("png", 37, 53, 3, {"palette", "alpha"})),
    "png 16": (encode(GREY.astype(np.uint16) * 257, "PNG"), ("png", 37, 53, 1, set())),
    "webp": (encode(RGB, "WEBP"), ("webp", 37, 53, 3, set())),
    "webp lossless": (encode(RGB, "WEBP", lossless=True), ("webp", 37, 53, 3, {"lossless"})),
    "webp alpha": (encode(RGBA, "WEBP"), ("webp", 37, 53, 4, {"alpha"})),
    "webp animated": (
        encode(RGB, "WEBP", save_all=True, append_images=[Image.fromarray(255 - RGB)]),
        ("webp", 37, 53, 3, {"animated"}),
    ),
    "bmp": (encode(RGB, "BMP"), ("bmp", 37, 53, 3, set())),
    "bmp palette": (encode(GREY, "BMP"), ("bmp", 37, 53, 3, {"palette"})),
    "gif": (encode(RGB, "GIF"), ("gif", 37, 53, 3, {"palette"})),
    "gif animated": (
        encode(RGB, "GIF", save_all=True, append_images=[Image.fromarray(255 - RGB)]),
        ("gif", 37, 53, 3, {"palette", "animated"}),
    ),
    "tiff": (encode(RGB, "TIFF"), ("tiff", 37, 53, 3, set())),
    "tiff cmyk": (encode(RGB, "TIFF", "CMYK"), ("tiff", 37, 53, 4, {"cmyk"})),
    "tiff grey": (encode(GREY, "TIFF"), ("tiff", 37, 53, 1, set())),
    "ppm": (encode(RGB, "PPM"), ("pnm", 37, 53, 3, set())),
    "pgm": (encode(GREY, "PPM"), ("pnm", 37, 53, 1, set())),
    "pbm": (encode(GREY, "PPM", "1"), ("pnm", 37, 53, 1, set())),
    "ppm comments": (b"P3 # three\n# lines\n2 1\n255\n1 2 3 4 5 6\n", ("pnm", 1, 2, 3, set())),
}


@pytest.mark.parametrize("case", CASES)
def test_probe(case):
    blob, expected = CASES[case]
    assert seen(blob) == expected


@pytest.mark.parametrize("case", CASES)
def test_probe_says_what_is_truncated(case):
    blob, expected = CASES[case]
    if case == "ppm comments":
        pytest.skip("text may end anywhere")
    if expected[0] == "tiff":
        cut = blob[: struct.unpack("<I", blob[4:8])[0] + 20]  # within the directory
    else:
        cut = blob[: len(blob) - max(2, len(blob) // 4)]
    assert "truncated" in seen(cut)[4]
    assert seen(cut)[0] == expected[0]


def test_probe_many_in_parallel():
    blobs = [blob for blob, _ in CASES.values()] * 7 + [b""]
    assert probe(*blobs, threads=4).tobytes() == probe(*blobs).tobytes()
    assert probe(b"")[0]["kind"] == 0
    assert probe().shape == (0,)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_probe_orientation(kind, orientation):
    assert probe(encode(RGB, kind, exif=exif(orientation)))[0]["orientation"] == orientation


def test_probe_orientation_in_both_byte_orders():
    def jpeg(tiff: bytes) -> bytes:
        app1 = b"Exif\0\0" + tiff
        return b"\xff\xd8\xff\xe1" + struct.pack(">H", len(app1) + 2) + app1 + CASES["jpeg"][0][2:]

    for order, mark in ((">", b"MM"), ("<", b"II")):
        tiff = mark + struct.pack(order + "HIHHHIHHI", 42, 8, 1, 0x0112, 3, 1, 6, 0, 0)
        assert probe(jpeg(tiff))[0]["orientation"] == 6
        assert probe(jpeg(tiff[:-8]))[0]["orientation"] == 1  # cut before the value
        assert (
            probe(jpeg(tiff.replace(struct.pack(order + "H", 6), struct.pack(order + "H", 9))))[0]["orientation"] == 1
        )


def test_probe_bits():
    assert probe(CASES["png 16"][0])[0]["bits"] == 16
    assert probe(CASES["jpeg"][0])[0]["bits"] == 8
    assert probe(b"P5 2 1 65535\n\0\0\0\0")[0]["bits"] == 16
    assert probe(encode(GREY.astype(np.uint16), "TIFF"))[0]["bits"] == 16


@pytest.mark.parametrize(
    ("sof", "flags"),
    [
        (0xC0, set()), (0xC1, set()), (0xC2, {"progressive"}), (0xC3, {"lossless"}), (0xC5, {"hierarchical"}),
        (0xC6, {"hierarchical", "progressive"}), (0xC7, {"hierarchical", "lossless"}), (0xC9, {"arithmetic"}),
        (0xCA, {"arithmetic", "progressive"}), (0xCB, {"arithmetic", "lossless"}),
    ],
)  # fmt: skip
def test_probe_jpeg_processes(sof, flags):
    blob = CASES["jpeg"][0]
    at = blob.index(b"\xff\xc0")
    assert seen(blob[: at + 1] + bytes([sof]) + blob[at + 2 :]) == ("jpeg", 37, 53, 3, flags)


def test_probe_jpeg_with_bytes_after_its_end():
    blob = CASES["jpeg"][0]
    assert "truncated" not in seen(blob + b"\0" * 1000)[4]
    assert "truncated" not in seen(blob + CASES["jpeg"][0][:500])[4]  # a second picture, as cameras append
    assert "truncated" in seen(blob[:-2])[4]
    assert "truncated" in seen(blob[:-2] + b"\0" * 1000)[4]  # a download that stopped, padded


@pytest.mark.parametrize("name", ["jpeg", "jpeg progressive"])
def test_probe_jpeg_with_markers_in_its_data(name):
    """Nothing but stuffing, restarts, the end and, between scans, tables may stand there."""
    blob = CASES[name][0] if name in CASES else encode(RGB, "JPEG", progressive=True)
    at = blob.index(b"\xff\xda") + 40
    for marker in (0x00, 0xD0, 0xD7):
        assert "damaged" not in seen(blob[:at] + bytes([0xFF, marker]) + blob[at + 2 :])[4], hex(marker)
    for marker in (0x01, 0x02, 0xBF, 0xC0, 0xC2, 0xD8, 0xF0, 0xFD):
        assert "damaged" in seen(blob[:at] + bytes([0xFF, marker]) + blob[at + 2 :])[4], hex(marker)
    assert "damaged" not in seen(blob)[4]


def test_probe_jpeg_thumbnail_does_not_count():
    thumbnail = encode(RGB[:8, :8], "JPEG")
    app = b"\xff\xe2" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    blob = CASES["jpeg"][0]
    assert seen(blob[:2] + app + blob[2:]) == ("jpeg", 37, 53, 3, set())
    scan = blob.index(b"\xff\xda")
    assert "truncated" in seen(blob[:2] + app + blob[2 : scan + 30])[4]  # its end is not the picture's


def test_probe_jpeg_fill_bytes_and_no_picture():
    blob = CASES["jpeg"][0]
    assert seen(blob[:2] + b"\xff\xff\xff" + blob[2:]) == ("jpeg", 37, 53, 3, set())
    assert seen(b"\xff\xd8\xff\xd9") == ("jpeg", 0, 0, 0, {"truncated"})


def test_probe_apng_and_interlaced():
    blob = encode(RGB, "PNG", save_all=True, append_images=[Image.fromarray(255 - RGB)])
    assert "animated" in seen(blob)[4]
    plain = bytearray(CASES["png"][0])
    plain[28] = 1
    assert "progressive" in seen(bytes(plain))[4]


def test_probe_bmp_top_down():
    blob = bytearray(CASES["bmp"][0])
    blob[22:26] = struct.pack("<i", -37)
    assert seen(bytes(blob)) == ("bmp", 37, 53, 3, set())


@pytest.mark.parametrize(
    "text", [b"", b"\xff", b"\xff\xd8", b"not an image", b"BM", b"P7\n", b"RIFF\0\0\0\0WAVE", b"II*"]
)
def test_probe_unknown(text):
    assert seen(text)[0] == "unknown"


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(CASES)), st.data())
def test_probe_never_stumbles(case, data):
    """Cut and corrupted headers give an answer, and every answer's sizes are possible ones."""
    blob = bytearray(CASES[case][0])
    for _ in range(data.draw(st.integers(0, 8))):
        blob[data.draw(st.integers(0, min(len(blob), 120) - 1))] = data.draw(st.integers(0, 255))
    header = probe(bytes(blob[: data.draw(st.integers(0, len(blob)))]))[0]
    assert 0 <= header["kind"] < len(native.IMAGE_KINDS)
    assert header["height"] >= 0 and header["width"] >= 0 and 1 <= header["orientation"] <= 8
    assert header["flags"] < 1 << len(native.IMAGE_FLAGS)


@pytest.mark.parametrize(
    ("arena", "starts"),
    [
        (np.zeros(4, np.uint8), [0, 5]),
        (np.zeros(4, np.uint8), [-1, 4]),
        (np.zeros(4, np.uint8), [0, 3, 2]),
        (np.zeros(4, np.uint8), []),
        (np.zeros(4, np.int8), [0, 4]),
        (np.zeros(8, np.uint8)[::2], [0, 4]),
    ],
)
def test_probe_refuses_wrong_arguments(arena, starts):
    with pytest.raises(ValueError, match="probe_images"):
        native.probe_images(arena, np.asarray(starts, np.int64))


def test_probe_agrees_with_pillow_on_photographs(photographs):
    arena, starts, errors = native.read_files(photographs, threads=2)
    assert not errors
    for path, header in zip(photographs, native.probe_images(arena, starts, threads=2), strict=True):
        with Image.open(path) as image:
            assert (header["width"], header["height"]) == image.size, path
            assert header["channels"] == len(image.getbands()), path
            assert bool(header["flags"] & native.IMAGE_FLAGS["progressive"]) == ("progressive" in image.info), path
            assert header["orientation"] == image.getexif().get(0x0112, 1), path
        assert not header["flags"] & native.IMAGE_FLAGS["truncated"], path


# --- mirrors and known answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("ImageHeader", native.IMAGE_HEADER),
        ("ImagePass", native.IMAGE_PASS),
        ("EraseBox", native.ERASE_BOX),
        ("ElasticField", native.ELASTIC_FIELD),
        ("FoldOp", native.FOLD_OP),
    ],
)
def test_dtypes_mirror_the_structs(name, dtype):
    layout = native.struct_layouts()[name]
    assert layout.pop("") == dtype.itemsize
    assert layout == {field: dtype.fields[field][1] for field in dtype.names}


def test_philox_known_answers():
    """kat_vectors of Random123 (Salmon et al.): philox4x32, ten rounds."""
    vectors = """
    00000000 00000000 00000000 00000000 00000000 00000000 6627e8d5 e169c58d bc57ac4c 9b00dbd8
    ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff 408f276d 41c83b0e a20bc7c6 6d5451fd
    243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0 d16cfe09 94fdcceb 5001e420 24126ea1
    """
    for line in vectors.split("\n")[1:-1]:
        words = np.array([int(word, 16) for word in line.split()], np.uint32)
        assert native.philox(words[None, :4], words[4:6])[0].tolist() == words[6:].tolist()


def test_build_info():
    info = native.build_info()
    assert set(info) >= {"cuda", "cuda_archs", "cuda_version", "compiler"}
    assert bool(info["cuda_archs"]) == bool(info["cuda_version"]) == info["cuda"]
