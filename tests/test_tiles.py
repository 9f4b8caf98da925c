"""JPEGs as grids of tiles: transcoded without loss, cut, and decoded by the native core; all beside libjpeg-turbo."""

from __future__ import annotations

import io
import itertools
import struct
from pathlib import Path

import numpy as np
import pytest
from conftest import picture
from hypothesis import given, settings
from hypothesis import strategies as st
from jpegs import SAMPLINGS, SIZES, arena, decode, files_of_jpeg, frame, jpeg, regions, segments, tile, tiled
from PIL import Image

import dalipipe
from dalipipe import native
from dalipipe.ops.image import HorizontalFlip, Normalize, RandomResizedCrop


def read(file: bytes, region: tuple[int, int, int, int]) -> np.ndarray:
    out = np.full((*region[2:], 3), 77, np.uint8)
    (reason,) = native.read_jpegs(*arena([file]), [region], np.array([out.ctypes.data], np.uint64))
    assert reason is None, reason
    return out


def cut(file: bytes, region: tuple[int, int, int, int]) -> tuple[bytes, np.void]:
    data, starts = arena([file])
    out = np.zeros_like(data)
    (left,) = native.cut_jpegs(data, starts, [region], out)
    return out[: left["bytes"]].tobytes(), left


def grid(file: bytes) -> tuple[int, int]:
    """MCUs between restarts, MCUs in a row."""
    restart = next((struct.unpack(">H", body)[0] for marker, body in segments(file) if marker == 0xDD), 0)
    at = frame(file)
    width, components, sampling = struct.unpack_from(">H", file, at + 7)[0], file[at + 9], file[at + 11]
    return restart, -(-width // (8 * (sampling >> 4) if components > 1 else 8))


# --- transcoding ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_pixels_are_the_same(sampling: str, progressive: bool) -> None:
    files = [
        jpeg(*size, seed, sampling, quality=quality, progressive=progressive)
        for seed, (size, quality) in enumerate(itertools.product(SIZES, (1, 30, 75, 100)))
    ]
    for file, (made, reason) in zip(files, tile(*files, threads=2), strict=True):
        assert made is not None, reason
        np.testing.assert_array_equal(decode(made), decode(file))
        restart, row = grid(made)
        assert restart > 0 and row % restart == 0
        assert b"\xff\xc2" not in made[: made.index(b"\xff\xda")]


@settings(max_examples=150, deadline=None)
@given(files_of_jpeg())
def test_any_file_keeps_its_pixels_and_is_tiled_once(file: bytes) -> None:
    made = tiled(file)
    np.testing.assert_array_equal(decode(made), decode(file))
    assert tiled(made) == made


@pytest.mark.parametrize(
    "width, sampling, px, expected",
    [
        (512, "4:2:0", 64, 4),  # 32 MCUs of 16 px
        (500, "4:2:0", 64, 4),
        (375, "4:2:0", 64, 4),  # 24
        (496, "4:2:0", 64, 31),  # 31: no part of it comes near
        (240, "4:2:0", 64, 5),  # 15: 80 px is nearer than 48
        (512, "4:4:4", 64, 8),
        (512, "4:4:4", 128, 16),
        (10, "4:2:0", 64, 1),
        (60, "grey", 64, 8),
        (70, "4:2:0", 64, 5),
    ],
)
def test_tiles_are_as_wide_as_asked_where_the_row_divides(width: int, sampling: str, px: int, expected: int) -> None:
    assert grid(tiled(jpeg(20, width, 0, sampling), tile_px=px))[0] == expected


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.sampled_from(SAMPLINGS), st.integers(8, 200))
def test_no_other_width_is_nearer(width: int, sampling: str, px: int) -> None:
    file = tiled(jpeg(8, width, 0, sampling), tile_px=px)
    restart, row = grid(file)
    mcu = 16 if sampling in ("4:2:0", "4:2:2") else 8
    fits = [k for k in range(1, row + 1) if row % k == 0 and px / 2 <= k * mcu <= px * 2]
    best = min((abs(np.log(k * mcu / px)) for k in fits), default=None)
    assert restart == row if best is None else abs(np.log(restart * mcu / px)) == pytest.approx(best)


def test_photographs_do_not_grow(photographs: list[Path]) -> None:
    files = [path.read_bytes() for path in photographs]
    made = tile(*files, threads=2)
    for file, (new, reason) in zip(files, made, strict=True):
        assert new is not None, reason
        np.testing.assert_array_equal(decode(new), decode(file))
    assert sum(len(new) for new, _ in made if new) <= 1.01 * sum(map(len, files))


def test_metadata_that_pixels_need_stays() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a very long description " * 20
    file = jpeg(20, 30, exif=exif.tobytes(), icc_profile=b"profile" * 50, comment=b"a comment")
    made = tiled(file)
    with Image.open(io.BytesIO(made)) as image:
        assert image.getexif() == {0x0112: 6}
        assert "icc_profile" not in image.info and "comment" not in image.info
    kept = tiled(file, metadata=True)
    with Image.open(io.BytesIO(kept)) as image, Image.open(io.BytesIO(file)) as before:
        assert image.getexif() == before.getexif()
        assert image.info["icc_profile"] == b"profile" * 50 and image.info["comment"] == b"a comment"
    for data in (made, kept):
        np.testing.assert_array_equal(decode(data), decode(file))
    # Colours that are stored as RGB, which an Adobe segment says.
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
    rgb = file[:2] + adobe + file[2:].replace(b"JFIF", b"JFXX", 1)
    np.testing.assert_array_equal(decode(tiled(rgb)), decode(rgb))
    assert (decode(rgb) != decode(file)).any()


@pytest.mark.parametrize(
    "file, reason",
    [
        (b"", "does not begin"),
        (b"\xff\xd8\xff\xd9", "no picture"),
        (jpeg(20, 30)[:-2], "ends early"),
        (jpeg(20, 30)[:500], "ends early"),
        (jpeg(20, 30).replace(b"\xff\xc0", b"\xff\xc9", 1), "arithmetic"),
        (jpeg(20, 30).replace(b"\xff\xc0", b"\xff\xc3", 1), "lossless"),
        (jpeg(20, 30).replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc1\x00\x11\x0c", 1), "8 bits"),
    ],
)
def test_what_cannot_be_tiled_says_why(file: bytes, reason: str) -> None:
    ((made, why),) = tile(file)
    assert made is None and why is not None and reason in why


def test_other_kinds_are_left_alone() -> None:
    out = io.BytesIO()
    Image.fromarray(picture(20, 30)).convert("CMYK").save(out, "JPEG")
    png = io.BytesIO()
    Image.fromarray(picture(20, 30)).save(png, "PNG")
    odd = bytearray(jpeg(32, 32, 0, "4:2:0"))
    odd[frame(odd) + 11] = 0x41
    reasons = [reason for _, reason in tile(out.getvalue(), png.getvalue(), bytes(odd))]
    assert reasons == [
        "four components (CMYK)",
        "it does not begin as a JPEG does",
        "an unusual sampling of its components",
    ]


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_damaged_files_are_refused_or_lose_nothing(data: st.DataObject) -> None:
    """A flipped bit anywhere: what is accepted has the pixels that libjpeg finds in the damaged file."""
    file = bytearray(data.draw(files_of_jpeg()))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(2, len(file) - 1))
        file[at] ^= 1 << data.draw(st.integers(0, 7))
    ((made, reason),) = tile(bytes(file))
    if made is None:
        assert reason
        return
    try:
        expected = decode(bytes(file))
    except Exception:
        return  # Pillow minds something, in metadata, that decoders need not
    np.testing.assert_array_equal(decode(made), expected)


def test_bad_arguments_are_named() -> None:
    data, starts = arena([jpeg(8, 8)])
    with pytest.raises(ValueError, match="tile_px must be at least 1, got 0"):
        native.tile_jpegs(data, starts, tile_px=0)
    with pytest.raises(ValueError, match="threads must be at least 1"):
        native.tile_jpegs(data, starts, threads=0)
    with pytest.raises(ValueError, match="starts must rise"):
        native.tile_jpegs(data, starts[::-1].copy())
    with pytest.raises(ValueError, match="sizes differ"):
        native.cut_jpegs(data, starts, [[0, 0, 1, 1]] * 2, np.zeros_like(data))
    with pytest.raises(ValueError, match="out is too small"):
        native.cut_jpegs(data, starts, [[0, 0, 1, 1]], data[:10].copy())
    with pytest.raises(ValueError, match="sizes differ"):
        native.read_jpegs(data, starts, [[0, 0, 1, 1]], np.zeros(2, np.uint64))


def test_layout() -> None:
    layout = native.struct_layouts()["Cut"]
    assert layout.pop("") == native.CUT.itemsize
    assert layout == {name: native.CUT.fields[name][1] for name in native.CUT.names}  # type: ignore[index,union-attr]


# --- cutting -------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_the_region_is_the_same_in_what_is_left(data: st.DataObject) -> None:
    file = tiled(data.draw(files_of_jpeg()), tile_px=data.draw(st.sampled_from([8, 16, 64])))
    region = y, x, h, w = data.draw(regions(file))
    whole = decode(file)
    left, what = cut(file, region)
    pixels = decode(left)
    assert pixels.shape[:2] == (what["height"], what["width"])
    assert len(left) <= len(file) and 1 <= what["tiles"] <= what["of_tiles"]
    within = pixels[y - what["y"] : y - what["y"] + h, x - what["x"] : x - what["x"] + w]
    np.testing.assert_array_equal(within, whole[y : y + h, x : x + w])


def test_nothing_is_kept_that_is_not_needed() -> None:
    file = tiled(jpeg(160, 256, 0, "4:2:0"))  # tiles of 16x64 px
    assert cut(file, (40, 70, 4, 40))[1]["tiles"] == 1
    assert cut(file, (32, 70, 4, 40))[1]["tiles"] == 2  # chroma comes from the row above
    assert cut(file, (40, 64, 4, 40))[1]["tiles"] == 2  # and from the left
    assert cut(file, (0, 0, 4, 4))[1]["tiles"] == 1
    grey = tiled(jpeg(160, 256, 0, "grey"))  # of 8x64
    assert cut(grey, (32, 64, 8, 64))[1]["tiles"] == 1


def test_what_is_no_grid_is_copied() -> None:
    for file in (jpeg(50, 60), jpeg(50, 60, progressive=True), b"no picture", b""):
        left, what = cut(file, (0, 0, 4, 4))
        assert left == file and what["of_tiles"] == 0
    file = tiled(jpeg(50, 60))
    for region in ((0, 0, 60, 4), (-1, 0, 4, 4), (0, 0, 0, 4), (49, 0, 2, 1), (0, 2**31 - 1, 1, 2**31 - 1)):
        assert cut(file, region)[0] == file


def test_files_of_restarts_by_others_are_cut_too() -> None:
    file = jpeg(64, 256, 3, "4:2:0", restart_marker_blocks=4)
    left, what = cut(file, (20, 70, 10, 20))
    assert what["tiles"] < what["of_tiles"] == 16
    y, x = 20 - what["y"], 70 - what["x"]
    np.testing.assert_array_equal(decode(left)[y : y + 10, x : x + 20], decode(file)[20:30, 70:90])


# --- decoding ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["scalar", "best"])
def target(request: pytest.FixtureRequest):
    native.cpu_target(None if request.param == "best" else "scalar")
    yield request.param
    native.cpu_target(None)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_decodes_as_libjpeg_does(target: str, sampling: str) -> None:
    for seed, (size, quality) in enumerate(itertools.product(SIZES, (1, 5, 20, 50, 85, 95, 100))):
        file = jpeg(*size, seed, sampling, quality=quality)
        expected = decode(file)
        np.testing.assert_array_equal(read(file, (0, 0, *size)), expected)
        np.testing.assert_array_equal(read(tiled(file), (0, 0, *size)), expected)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_decodes_any_region(data: st.DataObject) -> None:
    file = data.draw(files_of_jpeg(progressive=False))
    region = y, x, h, w = data.draw(regions(file))
    expected = decode(file)[y : y + h, x : x + w]
    np.testing.assert_array_equal(read(file, region), expected)
    np.testing.assert_array_equal(read(tiled(file), region), expected)


def test_decodes_photographs(photographs: list[Path]) -> None:
    rng = np.random.default_rng(0)
    for path in photographs:
        file = path.read_bytes()
        expected = decode(file)
        made = tiled(file)
        h, w = expected.shape[:2]
        for _ in range(4):
            y, x = int(rng.integers(h)), int(rng.integers(w))
            region = (y, x, int(rng.integers(1, h - y + 1)), int(rng.integers(1, w - x + 1)))
            wanted = expected[y : y + region[2], x : x + region[3]]
            for data in (file, made):
                np.testing.assert_array_equal(read(data, region), wanted)
            left, what = cut(made, region)
            y, x = y - what["y"], x - what["x"]
            np.testing.assert_array_equal(decode(left)[y : y + region[2], x : x + region[3]], wanted)


def test_extreme_samples(target: str) -> None:
    """Noise at full contrast, where every clamp is met."""
    rng = np.random.default_rng(1)
    for sampling, quality in itertools.product(("4:4:4", "4:2:0"), (1, 40, 100)):
        out = io.BytesIO()
        pixels = rng.choice(np.array([0, 255], np.uint8), (67, 93, 3))
        Image.fromarray(pixels).save(out, "JPEG", quality=quality, subsampling=sampling)
        np.testing.assert_array_equal(read(out.getvalue(), (0, 0, 67, 93)), decode(out.getvalue()))


def test_many_files_with_other_codes_in_turn() -> None:
    """Codes are kept from file to file; none may be mistaken for another's."""
    files = [
        jpeg(24, 40, seed, SAMPLINGS[seed % 5], quality=5 * (seed % 19) + 5, optimize=seed % 3 > 0)
        for seed in range(80)
    ]
    data, starts = arena(files)
    outs = [np.zeros((24, 40, 3), np.uint8) for _ in files]
    where = np.array([out.ctypes.data for out in outs], np.uint64)
    assert native.read_jpegs(data, starts, [[0, 0, 24, 40]] * len(files), where, threads=2) == [None] * len(files)
    for file, out in zip(files, outs, strict=True):
        np.testing.assert_array_equal(out, decode(file))


def test_what_is_not_decoded_says_why() -> None:
    good = jpeg(20, 30)
    flipped = bytearray(good)
    flipped[good.index(b"\xff\xda") + 30] ^= 0x55
    files = [jpeg(20, 30, progressive=True), good[:-60] + b"\xff\xd9", b"GIF89a", good, good, bytes(flipped)]
    data, starts = arena(files)
    out = np.zeros((len(files), 20, 30, 3), np.uint8)
    where = (out.ctypes.data + 1800 * np.arange(len(files))).astype(np.uint64)
    where[4] = 0
    reasons = native.read_jpegs(data, starts, [[0, 0, 20, 30]] * len(files), where)
    assert reasons[:5] == [
        "progressive coding",
        "its data are damaged",
        "it does not begin as a JPEG does",
        None,
        "passed over",
    ]
    (outside,) = native.read_jpegs(*arena([good]), [[0, 0, 21, 30]], where[:1])
    assert outside == "a region outside the picture"


# --- in the loader ---------------------------------------------------------------------------------------------------

POLICY = dalipipe.Policy([RandomResizedCrop(32), HorizontalFlip(), Normalize()])


@pytest.mark.parametrize("decoder", ["native", "dali", "pillow"])
def test_batches_are_the_same_from_tiles(tmp_path: Path, decoder: str) -> None:
    """And tiles are cut where DALI or nobody knows of them; other kinds among them pass."""
    plain, packed = tmp_path / "plain" / "a", tmp_path / "tiles" / "a"
    plain.mkdir(parents=True), packed.mkdir(parents=True)
    for i in range(17):
        sampling = SAMPLINGS[i % 5]
        file = jpeg(60 + 7 * i, 90 + 5 * i, i, sampling, progressive=i % 7 == 6)
        if i == 3:
            out = io.BytesIO()
            Image.fromarray(picture(50, 60, i)).save(out, "PNG")
            file = out.getvalue()
        (plain / f"{i:02d}.jpg").write_bytes(file)
        made = tile(file)[0][0] or file
        (packed / f"{i:02d}.jpg").write_bytes(made)
    batches = []
    for root, name in ((plain, "pillow"), (packed, decoder)):
        source = dalipipe.ImageFolder(root.parent)
        with_this = dalipipe.DataLoader(source, 6, shuffle=True, policy=POLICY, seed=3, device="cpu", decoder=name)
        batches.append([batch.image for _ in range(3) for batch in with_this])
        with_this.close()
    for expected, got in zip(*batches, strict=True):
        np.testing.assert_array_equal(got.numpy(), expected.numpy())


def test_damaged_tiles_are_bad_samples(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    for i in range(6):
        data = bytearray(tiled(jpeg(80, 120, i)))
        if i == 4:  # a restart out of order
            at = data.index(b"\xff\xd3")
            data[at + 1] = 0xD5
        (folder / f"{i}.jpg").write_bytes(data)
    loader = dalipipe.DataLoader(dalipipe.ImageFolder(tmp_path), 3, policy=POLICY, seed=0, device="cpu")
    assert len(list(loader)) == 2  # Pillow makes of it what libjpeg does, as it always was
