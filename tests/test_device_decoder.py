"""The CUDA decoder of JPEG tiles, compiled for the host or on a GPU, beside libjpeg-turbo and the host's decoder."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import picture
from emulation import decode_as_on_device
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jpegs import SAMPLINGS, SIZES, Token, arena, decode, files_of_jpeg, from_tokens, jpeg, regions, tile, tiled
from PIL import Image

import dalipipe
from dalipipe import decoders, native
from dalipipe.decoders.base import DecodeError, inspect
from dalipipe.decoders.device import DeviceDecoder, TileDecoder
from dalipipe.decoders.pillow import PillowDecoder
from dalipipe.ops.image import HorizontalFlip, Normalize, RandomResizedCrop
from dalipipe.records import Encoded, Pictures, Tiles
from dalipipe.transfers import as_tensor
from examples import run_example

Region = tuple[int, int, int, int]


@pytest.fixture(params=["host", pytest.param("cuda", marks=pytest.mark.cuda)])
def queue(request: pytest.FixtureRequest) -> Any:
    if request.param == "host":
        return request.getfixturevalue("host_queue")
    from dalipipe.queues import CudaQueue

    return CudaQueue(torch.device("cuda", 0))


def nobody() -> Any:
    raise AssertionError("all of these are JPEGs of tiles")


def pixels(pictures: Pictures, row: int) -> np.ndarray:
    return as_tensor(pictures, row).cpu().numpy()


def run(queue: Any, files: Sequence[bytes], roi: Sequence[Region], other: Any = nobody) -> tuple[list, dict]:
    """The regions' pixels, and the errors by row."""
    encoded = Encoded(*arena(files))
    headers, _ = inspect(encoded, threads=1)
    decoder = DeviceDecoder(queue, other, threads=2)
    try:
        decoder.submit(encoded, headers, np.array(roi, np.int64))
        pictures, errors = decoder.collect()
        assert pictures.origin_px.tolist() == [list(region[:2]) for region in roi]
        assert pictures.size_px.tolist() == [list(region[2:]) for region in roi]
        return [pixels(pictures, row) for row in range(len(files))], errors
    finally:
        decoder.close()


def by_tiles(queue: Any, files: Sequence[bytes], roi: Sequence[Region]) -> tuple[list, list[int]]:
    """The regions' pixels, and the rows that are damaged, of files that can be stripped."""
    stripped = native.Stripped(*arena(files), roi)
    assert not stripped.refused, stripped.refused
    decoder = TileDecoder(queue, threads=2)
    try:
        decoder.submit_stripped(stripped, np.arange(len(files)), np.array(roi))
        pictures, damaged = decoder.collect()
        return [pixels(pictures, row) for row in range(len(files))], damaged.tolist()
    finally:
        decoder.close()


def on_host(files: Sequence[bytes], roi: Sequence[Region]) -> tuple[list, list[str | None]]:
    """What the decoder on the host makes of them."""
    out = [np.zeros((*region[2:], 3), np.uint8) for region in roi]
    where = np.array([array.ctypes.data for array in out], np.uint64)
    return out, native.read_jpegs(*arena(files), roi, where)


def any_region(random: np.random.Generator, height: int, width: int) -> Region:
    y, x = int(random.integers(height)), int(random.integers(width))
    return y, x, int(random.integers(1, height - y + 1)), int(random.integers(1, width - x + 1))


def check(queue: Any, files: Sequence[bytes], roi: Sequence[Region]) -> None:
    got, errors = run(queue, files, roi)
    assert not errors
    for file, (y, x, h, w), found in zip(files, roi, got, strict=True):
        np.testing.assert_array_equal(found, decode(file)[y : y + h, x : x + w])


# --- pixels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_decodes_as_libjpeg_does(queue: Any, sampling: str) -> None:
    """Odd sizes, all qualities, whole pictures and regions of them."""
    random = np.random.default_rng(0)
    qualities = itertools.cycle(range(1, 101))
    sizes = [size for size in SIZES for _ in range(10)]
    files = [tiled(jpeg(*size, i, sampling, quality=next(qualities))) for i, size in enumerate(sizes)]
    check(queue, files, [(0, 0, *size) for size in sizes])
    check(queue, files, [any_region(random, *size) for size in sizes])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_decodes_any_region_of_any_file(queue: Any, data: st.DataObject) -> None:
    """Tiles of every width, too: `px` is what is aimed at."""
    files, roi = [], []
    for _ in range(data.draw(st.integers(1, 4))):
        file = data.draw(files_of_jpeg())
        files.append(tiled(file, tile_px=data.draw(st.sampled_from([1, 8, 16, 40, 64, 200, 2000]))))
        roi.append(data.draw(regions(files[-1])))
    check(queue, files, roi)


def test_thousands_of_crops(queue: Any) -> None:
    random = np.random.default_rng(1)
    files = []
    for i in range(150):
        height, width = (int(side) for side in random.integers(1, 200, 2))
        file = jpeg(height, width, i, SAMPLINGS[i % 5], quality=int(random.integers(1, 101)), optimize=bool(i % 2))
        files.append((tiled(file, tile_px=int(random.choice([8, 32, 64, 128]))), height, width))
    wanted = [decode(file) for file, _, _ in files]
    for _ in range(20):  # 3,000
        roi = [any_region(random, height, width) for _, height, width in files]
        got, damaged = by_tiles(queue, [file for file, _, _ in files], roi)
        assert not damaged
        for (y, x, h, w), whole, found in zip(roi, wanted, got, strict=True):
            assert np.array_equal(found, whole[y : y + h, x : x + w])


def test_decodes_photographs(queue: Any, photographs: list[Path]) -> None:
    random = np.random.default_rng(2)
    files = [tiled(path.read_bytes()) for path in photographs]
    wanted = [decode(file) for file in files]
    for whole in (True, False):
        sizes = [picture.shape[:2] for picture in wanted]
        roi = [(0, 0, h, w) if whole else any_region(random, h, w) for h, w in sizes]
        got, damaged = by_tiles(queue, files, roi)
        assert not damaged
        for (y, x, h, w), picture_, found in zip(roi, wanted, got, strict=True):
            np.testing.assert_array_equal(found, picture_[y : y + h, x : x + w])


def test_extreme_samples(queue: Any) -> None:
    """Noise at full contrast, where every clamp is met, and codes are long."""
    random = np.random.default_rng(1)
    files = []
    for sampling, quality in itertools.product(("4:4:4", "4:2:2", "4:2:0"), (1, 40, 100)):
        out = io.BytesIO()
        noise = random.choice(np.array([0, 255], np.uint8), (67, 93, 3))
        Image.fromarray(noise).save(out, "JPEG", quality=quality, subsampling=sampling)
        files.append(tiled(out.getvalue()))
    check(queue, files, [(0, 0, 67, 93)] * len(files))


def test_a_picture_with_more_tiles_than_threads(queue: Any) -> None:
    file = tiled(jpeg(400, 700, 0, "4:4:4"), tile_px=8)  # 50 rows of 88 tiles
    check(queue, [file, file], [(0, 0, 400, 700), (13, 57, 300, 500)])


# --- damage ----------------------------------------------------------------------------------------------------------


def test_damage_is_seen_as_on_the_host(queue: Any) -> None:
    """Whatever bytes there are: the verdict is the same, and so are the pixels where it is good. Other pictures of the
    batch lose nothing.
    """
    random = np.random.default_rng(3)
    verdicts = {True: 0, False: 0}
    for batch in range(40):
        files, roi = [], []
        while len(files) < 12:
            height, width = (int(side) for side in random.integers(8, 120, 2))
            file = tiled(jpeg(height, width, len(files), SAMPLINGS[int(random.integers(5))], quality=70), tile_px=32)
            begin = file.index(b"\xff\xda") + 14
            broken = bytearray(file)
            for _ in range(int(random.integers(0, 4))):
                broken[int(random.integers(begin, len(broken) - 2))] = int(random.integers(256))
            if native.Stripped(*arena([bytes(broken)]), None).refused:
                continue  # its markers are out of order
            files.append(bytes(broken))
            roi.append(any_region(random, height, width) if batch % 2 else (0, 0, height, width))
        expected, reasons = on_host(files, roi)
        got, damaged = by_tiles(queue, files, roi)
        for row, (reason, wanted, found) in enumerate(zip(reasons, expected, got, strict=True)):
            assert (row in damaged) == (reason is not None), (batch, row, reason)
            verdicts[reason is None] += 1
            if reason is None:
                np.testing.assert_array_equal(found, wanted)
    assert min(verdicts.values()) > 100, verdicts


def tokens_of_tile(random: np.random.Generator, blocks: int) -> list[Token]:
    """Such as mostly make sense, and often come near what is just allowed."""
    tokens: list[Token] = []
    dc = 0
    for _ in range(blocks):
        aim = int(random.choice([0, 5, 2047, -2047, 2048, -2048], p=[0.3, 0.3, 0.15, 0.15, 0.05, 0.05]))
        size = min(abs(aim - dc).bit_length(), 11)
        value = aim - dc if abs(aim - dc) < 2048 else int(np.sign(aim - dc)) * 2047
        tokens.append((size, value if value >= 0 else value - 1))
        dc += value
        k = 0
        while k < 63:
            if random.random() < 0.2:  # the end, as it should be written or by another symbol without a value
                tokens.append((int(random.choice([0x00, 0x00, 0x00, 0x30, 0xE0])), 0))
                break
            past = random.random() < 0.03
            run = int(random.integers(0, 16)) if random.random() < 0.8 else 62 - k + past
            if run > 15 or random.random() < 0.1:
                tokens.append((0xF0, 0))
                k += 16
            elif k + run + 1 <= 63 + past:
                size = int(random.integers(1, 11))
                tokens.append((run << 4 | size, int(random.integers(1 << size))))
                k += run + 1
    return tokens


def test_the_edges_of_what_is_allowed(queue: Any) -> None:
    """Sums of 11 bits, runs to the last coefficient and one beyond, ends that are too early or too late by little."""
    random = np.random.default_rng(5)
    verdicts = {True: 0, False: 0}
    for _ in range(30):
        files, roi = [], []
        for _ in range(16):
            width, rows = (int(n) for n in random.integers(1, 4, 2))
            tail = [str(random.choice(["", "1", "1" * 7, "1" * 8, "0" * 9], p=[0.7, 0.1, 0.1, 0.05, 0.05]))] * rows
            files.append(from_tokens([tokens_of_tile(random, width) for _ in range(rows)], width, tail))
            roi.append(
                (0, 0, 8 * rows, 8 * width) if random.random() < 0.5 else any_region(random, 8 * rows, 8 * width)
            )
        expected, reasons = on_host(files, roi)
        got, damaged = by_tiles(queue, files, roi)
        for row, (reason, wanted, found) in enumerate(zip(reasons, expected, got, strict=True)):
            assert reason in (None, "its data are damaged")
            assert (row in damaged) == (reason is not None), (row, reason)
            verdicts[reason is None] += 1
            if reason is None:
                np.testing.assert_array_equal(found, wanted)
    assert min(verdicts.values()) > 60, verdicts


def test_damaged_tiles_get_a_second_look(queue: Any) -> None:
    good = tiled(jpeg(60, 90))
    begin = good.index(b"\xff\xda") + 14
    broken = bytearray(good)
    broken[begin : begin + 40] = bytes(40)
    reordered = bytearray(good)
    reordered[good.index(b"\xff\xd0") + 1] = 0xD3
    whole = (0, 0, 60, 90)
    got, errors = run(queue, [good, bytes(broken), bytes(reordered)], [whole] * 3)
    np.testing.assert_array_equal(got[0], decode(good))
    for row, file in ((1, broken), (2, reordered)):
        try:
            expected = decode(bytes(file))
        except Exception:
            assert isinstance(errors[row], DecodeError)
        else:
            np.testing.assert_array_equal(got[row], expected)
            assert row not in errors


def test_unsound_codes_are_refused() -> None:
    good = tiled(jpeg(60, 90))
    at = good.index(b"\xff\xc4") + 5
    counts = good[at : at + 16]
    many = next(length for length in range(16) if counts[length] >= 3)
    unsound = bytearray(good)
    unsound[at], unsound[at + many] = 3, counts[many] - 3  # three codes of one bit
    size = bytearray(good)
    size[at + 16 + 3] = 0x0C  # a DC difference of 12 bits
    for file in (unsound, size):
        assert native.Stripped(*arena([bytes(file)]), None).refused == [(0, True, "its Huffman codes are malformed")]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([0, 0xFF, 1, 0xD0, 7]) | st.integers(0, 255), max_size=300), st.integers(0, 200))
def test_stuffed_zeros_and_markers(values: list[int], plain: int) -> None:
    """With all instructions, at every distance from what they take at a time."""
    data = bytes(range(1, 251))[:plain] + bytes(values)
    markers = [i for i, byte in enumerate(data) if byte == 0xFF and data[i + 1 : i + 2] != b"\0"]
    for level in (0, 1, 2):
        assert native.unstuffed(data, level=level) == data.replace(b"\xff\0", b"\xff")
        assert native.marker_in(data, level=level) == (markers[0] if markers else len(data))


# --- what is uploaded, and what is started ----------------------------------------------------------------------------


def test_only_the_tiles_that_a_crop_needs_are_uploaded(host_queue: Any) -> None:
    file = tiled(jpeg(640, 640, 0, quality=95))
    sent = []
    for region in ((0, 0, 640, 640), (320, 320, 64, 64)):
        before = host_queue.uploaded_bytes
        check(host_queue, [file], [region])
        sent.append(host_queue.uploaded_bytes - before)
    assert sent[0] < 1.02 * len(file) + 3000
    assert sent[1] < sent[0] / 12


def test_launches_do_not_grow_with_the_batch(host_queue: Any) -> None:
    files = [tiled(jpeg(40 + i, 60, i, SAMPLINGS[i % 5])) for i in range(40)]
    for n in (1, 40):
        check(host_queue, files[:n], [(0, 0, 40 + i, 60) for i in range(n)])
        assert host_queue.launches() == 3


def test_little_scratch_makes_more_groups(host_queue: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [(40 + 9 * i, 70 - i) for i in range(12)]
    files = [tiled(jpeg(*size, i, SAMPLINGS[i % 5])) for i, size in enumerate(sizes)]
    monkeypatch.setattr(host_queue, "scratch_bytes", 200_000)
    check(host_queue, files, [(0, 0, *size) for size in sizes])
    assert host_queue.launches() > 6
    monkeypatch.setattr(host_queue, "scratch_bytes", 2_000)
    with pytest.raises(ValueError, match=r"decode_tiles: scratch must have \d+ bytes, got 2000"):
        check(host_queue, files, [(0, 0, *size) for size in sizes])


# --- what lies on the device already ----------------------------------------------------------------------------------


def resident(queue: Any, files: Sequence[bytes]) -> Tiles:
    stripped = native.Stripped(*arena(files), None)
    starts = np.cumsum(stripped.nbytes) - stripped.nbytes
    size = int(stripped.nbytes.sum())
    staged, there = queue.pinned(size), queue.empty(size)
    stripped.write((staged.data_ptr() + starts).astype(np.uint64))
    queue.copy(staged, there.data_ptr())
    queue.mark()()
    return Tiles((there.data_ptr() + starts).astype(np.uint64), stripped.shapes, there)


def test_crops_of_what_is_resident(queue: Any) -> None:
    random = np.random.default_rng(4)
    sizes = [(int(h), int(w)) for h, w in random.integers(1, 150, (40, 2))]
    files = [tiled(jpeg(*size, i, SAMPLINGS[i % 5]), tile_px=32) for i, size in enumerate(sizes)]
    tiles = resident(queue, files)
    assert tiles.size_px.tolist() == [list(size) for size in sizes]
    decoder = TileDecoder(queue, threads=1)
    batches = [[any_region(random, *size) for size in sizes] for _ in range(3)]
    for roi in batches:  # several in flight
        decoder.submit(tiles, np.array(roi))
    for roi in batches:
        pictures, damaged = decoder.collect()
        assert not len(damaged)
        for row, (file, (y, x, h, w)) in enumerate(zip(files, roi, strict=True)):
            np.testing.assert_array_equal(pixels(pictures, row), decode(file)[y : y + h, x : x + w])
    decoder.submit(tiles, np.array(batches[0]))
    decoder.reset()
    decoder.close()


def test_damage_is_looked_for_without_decoding(queue: Any) -> None:
    files = [tiled(jpeg(50, 70, i, SAMPLINGS[i % 5])) for i in range(5)]
    broken = bytearray(files[3])
    begin = files[3].index(b"\xff\xda") + 14
    broken[begin : begin + 40] = bytes(40)
    files[3] = bytes(broken)
    tiles = resident(queue, files)
    size = queue.upload_bytes(5)
    uploaded, pinned = queue.empty(size), queue.pinned(size)
    whole = np.tile(np.array([0, 0, 50, 70], np.int32), (5, 1))
    queue.decode_tiles(tiles.address, tiles.shape, whole, None, upload=uploaded, pinned=pinned)
    queue.mark()()
    assert pinned[:20].numpy().view(np.int32).tolist() == [0, 0, 0, 1, 0]


def test_bad_arguments_are_named() -> None:
    stripped = native.Stripped(*arena([tiled(jpeg(50, 70))]), [[0, 0, 20, 20]])
    one, roi = np.array([64], np.uint64), np.array([[0, 0, 20, 20]], np.int32)
    native.decode_tiles_params(one, stripped.shapes, roi, one)
    for jpegs, shapes, regions_, out, message in (
        (one, stripped.shapes, roi + 40, one, r"picture 0: the region must lie within its 50x70 px, got 60x60 px at"),
        (one, stripped.shapes, roi + np.int32([0, 0, 20, 0]), one, "needs tiles that were not kept of it"),
        (one + np.uint64(8), stripped.shapes, roi, one, "its address must be a multiple of 16"),
        (one, stripped.shapes, roi, one + np.uint64(1), "the address of its pixels must be a multiple of 4"),
        (one, np.zeros(1, native.JPEG_SHAPE), roi, one, "its shape is none that `Stripped` gives"),
        (one.astype(np.int64), stripped.shapes, roi, one, r"jpegs must be contiguous uint64 \(1,\), got int64"),
        (one, stripped.shapes, roi[:, :3], one, r"regions must be contiguous int32 \(1, 4\), got int32 \(1, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            native.decode_tiles_params(jpegs, shapes, regions_, out)
    with pytest.raises(ValueError, match="sizes differ"):
        stripped.write(np.zeros(2, np.uint64))


def test_layout() -> None:
    layout = native.struct_layouts()["JpegShape"]
    assert layout.pop("") == native.JPEG_SHAPE.itemsize
    assert layout == {name: native.JPEG_SHAPE.fields[name][1] for name in native.JPEG_SHAPE.names}


# --- in the loader ---------------------------------------------------------------------------------------------------

POLICY = dalipipe.Policy([RandomResizedCrop(32), HorizontalFlip(), Normalize()])


@pytest.fixture
def as_device(host_queue: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Loaders decode as they do on a CUDA device. Counts the pictures left to another decoder."""
    left: list[int] = []

    class Other(PillowDecoder):
        def submit(self, encoded: Encoded, headers: np.ndarray, roi: np.ndarray) -> None:
            left.append(len(encoded))
            super().submit(encoded, headers, roi)

    decode_as_on_device(monkeypatch, host_queue, lambda threads: Other(threads=threads))
    return left


def test_batches_are_the_same(tmp_path: Path, as_device: list[int]) -> None:
    """From tiles, and from other kinds among them, which others decode."""
    folder = tmp_path / "a"
    folder.mkdir()
    for i in range(30):
        file = jpeg(60 + 7 * i, 90 + 5 * i, i, SAMPLINGS[i % 5])
        if i == 3:
            out = io.BytesIO()
            Image.fromarray(picture(50, 60, i)).save(out, "PNG")
            file = out.getvalue()
        if i == 4:
            file = jpeg(70, 80, i, restart_marker_blocks=3)  # its restarts make no grid
        (folder / f"{i:02d}.jpg").write_bytes(file if i in (3, 4, 5, 6) else tile(file)[0][0] or file)
    batches = []
    for name in ("pillow", "native"):
        options: dict[str, Any] = {"shuffle": True, "policy": POLICY, "seed": 3, "device": "cpu", "decoder": name}
        with_this = dalipipe.DataLoader(dalipipe.ImageFolder(tmp_path), 6, **options)
        batches.append([batch.image for _ in range(3) for batch in with_this])
        with_this.close()
    for expected, got in zip(*batches, strict=True):
        np.testing.assert_array_equal(got.numpy(), expected.numpy())
    assert sum(as_device) == 3 * 4


def test_damaged_tiles_are_bad_samples(tmp_path: Path, as_device: list[int]) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    for i in range(8):
        data = tiled(jpeg(80, 120, i))
        if i == 5:
            data = data[: len(data) // 2]
        (folder / f"{i}.jpg").write_bytes(data)
    loader = dalipipe.DataLoader(
        dalipipe.ImageFolder(tmp_path), 4, policy=POLICY, seed=0, device="cpu", on_error="substitute", max_bad=0.5
    )
    assert [len(batch.image) for batch in loader] == [4, 4]
    loader.close()
    assert not as_device


def test_who_decodes_what() -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert decoders.describe_decoder("auto", cuda) == (
        "native (JPEGs in tiles on the device, other baseline JPEGs on the host; others by dali)"
    )
    assert decoders.describe_decoder("native", cpu) == "native (baseline JPEGs; others by dali)"
    assert decoders.describe_decoder("dali", cuda) == "dali"


def test_the_example(
    jpeg_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (jpeg_folder(8), "--pack", tmp_path / "pack", "--batch-size", 4, "--size", 32, "--epochs")
    for epochs in (2, 1):  # the pack is there the second time
        run_example("packed_on_gpu.py", *arguments, epochs, monkeypatch=monkeypatch)
        said = capsys.readouterr().out
        assert f"epoch {epochs}: " in said and "4 of 4 are in tiles" in said
        assert "8 of 8 samples" in said
