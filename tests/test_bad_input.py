"""What people really have in their folders: handled as Pillow and torchvision users expect, or refused by name."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture
from PIL import Image

import dalipipe
from dalipipe.ops import image as ops

POLICY = dalipipe.Policy([ops.Resize((32, 32))])


def encode(image: Image.Image, format: str, **kw: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **kw)
    return out.getvalue()


def make_folder(tmp_path: Path, files: dict[str, bytes]) -> Path:
    root = tmp_path / "images"
    (root / "class").mkdir(parents=True)
    for name, data in files.items():
        (root / "class" / name).write_bytes(data)
    return root


def load(root: Path, policy: dalipipe.Policy | None = POLICY, **kw: Any) -> dict[str, np.ndarray]:
    """file name → uint8 [H, W, C], all in one batch."""
    import torch

    source = dalipipe.ImageFolder(root)
    loader = dalipipe.DataLoader(source, len(source), policy=policy, seed=0, device="cpu", dtype=torch.uint8, **kw)
    (batch,) = list(loader)
    return {
        os.path.basename(source.paths[i]): batch.image[row].permute(1, 2, 0).numpy()
        for row, i in enumerate(batch.indices)
    }


RGB = Image.fromarray(picture(40, 56))
GOOD = encode(RGB, "JPEG", quality=90)


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90°
    return exif


KINDS: dict[str, bytes] = {
    "baseline.jpg": GOOD,
    "progressive.jpg": encode(RGB, "JPEG", progressive=True),
    "grey.jpg": encode(RGB.convert("L"), "JPEG"),
    "cmyk.jpg": encode(RGB.convert("CMYK"), "JPEG"),
    "444.jpg": encode(RGB, "JPEG", subsampling=0),
    "422.jpg": encode(RGB, "JPEG", subsampling=1),
    "exif_rotated.jpg": encode(RGB, "JPEG", exif=_exif()),
    "trailing_bytes.jpg": GOOD + b"\0" * 999,
    "restart_markers.jpg": encode(RGB, "JPEG", restart_marker_blocks=2),
    "rgb.png": encode(RGB, "PNG"),
    "grey.png": encode(RGB.convert("L"), "PNG"),
    "alpha.png": encode(Image.merge("RGBA", (*RGB.split(), RGB.split()[0])), "PNG"),
    "palette.png": encode(RGB.convert("P"), "PNG"),
    "bilevel.png": encode(RGB.convert("1"), "PNG"),
    "rgb.webp": encode(RGB, "WEBP"),
    "lossless.webp": encode(RGB, "WEBP", lossless=True),
    "animated.webp": encode(RGB, "WEBP", save_all=True, append_images=[RGB.convert("L").convert("RGB")], lossless=True),
    "rgb.bmp": encode(RGB, "BMP"),
    "rgb.tif": encode(RGB, "TIFF"),
    "lzw.tif": encode(RGB, "TIFF", compression="tiff_lzw"),
    "rgb.gif": encode(RGB, "GIF"),
    "animated.gif": encode(RGB, "GIF", save_all=True, append_images=[RGB.convert("L")]),
    "rgb.ppm": encode(RGB, "PPM"),
    "grey.pgm": encode(RGB.convert("L"), "PPM"),
    "jpeg_named.png": GOOD,
    "one_pixel.jpg": encode(RGB.crop((0, 0, 1, 1)), "JPEG"),
    "wide.jpg": encode(Image.fromarray(np.tile(picture(3, 100), (1, 200, 1))), "JPEG"),
}


@pytest.mark.parametrize("name", KINDS)
def test_decoded_as_pillow_decodes(tmp_path: Path, name: str) -> None:
    out = load(make_folder(tmp_path, {name: KINDS[name]}), policy=None)[name]
    with Image.open(io.BytesIO(KINDS[name])) as image:
        expected = np.asarray(image.convert("RGB"))
    assert (out == expected).all()


def test_all_kinds_in_one_batch(tmp_path: Path) -> None:
    together = load(make_folder(tmp_path, KINDS))
    assert together.keys() == KINDS.keys()
    for name, data in KINDS.items():
        assert (load(make_folder(tmp_path / name, {name: data}))[name] == together[name]).all()


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    wide = np.linspace(0, 65535, 40 * 50).astype(np.uint16).reshape(40, 50)
    out = load(make_folder(tmp_path, {"wide.png": encode(Image.fromarray(wide), "PNG")}), policy=None)["wide.png"]
    assert np.abs(out.astype(int) - (wide / 257.0)[..., None]).max() <= 1


DAMAGED: dict[str, tuple[bytes, str]] = {
    "half.jpg": (GOOD[: len(GOOD) // 2], "truncated"),
    "no_end.jpg": (GOOD[:-2], "truncated"),
    "header_only.jpg": (GOOD[:100], "truncated|cannot be|no picture|not a picture"),
    "half.png": (KINDS["rgb.png"][:2000], "truncated"),
    "half.webp": (KINDS["rgb.webp"][:300], "truncated|cannot be decoded"),
    "half.gif": (KINDS["rgb.gif"][:900], "truncated|cannot be decoded"),
    "empty.jpg": (b"", "empty"),
    "zeros.jpg": (b"\0" * 500, "not a picture"),
    "page.jpg": (b"<html>404 not found</html>" * 9, r"not a picture: it starts with b'<html>404 no'"),
    "text.png": (b"x", "not a picture"),
    "bomb.png": (
        KINDS["rgb.png"][:16] + (60_000).to_bytes(4, "big") * 2 + KINDS["rgb.png"][24:],
        "60000×60000 px is more than 178956970 pixels: refused as a decompression bomb",
    ),
    "no_tables.jpg": (GOOD.replace(b"\xff\xdb", b"\xff\xfe"), "cannot be decoded"),
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("decoder", ["dali", "pillow"])
def test_damaged_files_are_named_and_the_loader_goes_on(tmp_path: Path, name: str, decoder: str) -> None:
    data, reason = DAMAGED[name]
    root = make_folder(tmp_path, {"0.jpg": GOOD, f"1_{name}": data, "2.jpg": GOOD})
    source = dalipipe.ImageFolder(root)
    loader = dalipipe.DataLoader(source, 1, policy=POLICY, seed=0, device="cpu", decoder=decoder)
    iterator = iter(loader)
    first = next(iterator)
    with pytest.raises(dalipipe.SampleError, match=rf"sample 1 \(.*1_{name}\): .*({reason})") as caught:
        next(iterator)
    assert caught.value.index == 1 and caught.value.where == source.paths[1]
    assert isinstance(caught.value.__cause__, dalipipe.DecodeError)
    assert loader.state_dict()["samples"] == 1, "the failing batch was not given"
    with pytest.raises(StopIteration):
        next(iterator)
    loader.set_epoch(0)
    assert (next(iter(loader)).image == first.image).all(), "the loader still works"


def test_one_bad_file_in_a_batch_is_the_one_named(tmp_path: Path) -> None:
    """It fails inside DALI, which names no file: found by decoding the batch one by one."""
    files = {f"{i}.jpg": GOOD for i in range(8)}
    files["5.jpg"] = DAMAGED["no_tables.jpg"][0]
    with pytest.raises(dalipipe.SampleError, match=r"sample 5 \(.*5.jpg\)"):
        load(make_folder(tmp_path, files))


def test_several_bad_files_are_counted(tmp_path: Path) -> None:
    with pytest.raises(dalipipe.SampleError, match=r"sample 1 .*\(and 1 more in this batch\)"):
        load(make_folder(tmp_path, {"0.jpg": GOOD, "1.jpg": b"", "2.jpg": GOOD[:200]}))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"0.jpg": GOOD, "1.jpg": GOOD})
    source = dalipipe.ImageFolder(root)
    loader = dalipipe.DataLoader(source, 2, policy=POLICY, seed=0, device="cpu")
    gone = Path(source.paths[1])
    gone.unlink()
    with pytest.raises(dalipipe.SampleError, match=r"sample 1 \(.*1.jpg\): .*No such file") as caught:
        next(iter(loader))
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    gone.mkdir()
    with pytest.raises(dalipipe.SampleError, match="directory"):
        next(iter(loader))
    gone.rmdir()
    gone.symlink_to(gone)
    with pytest.raises(dalipipe.SampleError, match="symbolic links"):
        next(iter(loader))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_without_permission(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"0.jpg": GOOD})
    (root / "class" / "0.jpg").chmod(0)
    with pytest.raises(dalipipe.SampleError, match="Permission denied"):
        load(root)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: None, "is no folder: expected one with a sub-folder of pictures per class"),
        (lambda root: root.mkdir(), r"has no class folders \(nothing of the kind\): move the pictures"),
        (
            lambda root: (root.mkdir(), (root / "a.jpg").write_bytes(GOOD)),
            r"has no class folders \(1 pictures directly in it\)",
        ),
        (lambda root: (root / "cat").mkdir(parents=True), "class folder .*cat' has no pictures .*fill it or remove it"),
        (lambda root: root.write_bytes(b""), "is no folder"),
    ],
    ids=["missing", "empty", "no_classes", "empty_class", "a_file"],
)
def test_folders_that_are_none(tmp_path: Path, prepare: Callable[[Path], object], message: str) -> None:
    root = tmp_path / "data"
    prepare(root)
    with pytest.raises(FileNotFoundError, match=message):
        dalipipe.ImageFolder(root)


def test_a_crop_larger_than_a_picture_names_the_file(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"0.jpg": GOOD, "1.jpg": KINDS["one_pixel.jpg"]})
    with pytest.raises(dalipipe.SampleError, match=r"sample 1 \(.*1.jpg\): RandomCrop\(size=\(32, 32\)\) cannot take"):
        load(root, dalipipe.Policy([ops.RandomCrop(32)]))


@pytest.mark.parametrize(
    ("images", "labels", "error", "message"),
    [
        (np.zeros((4, 8, 8, 3), np.float32), None, TypeError, r"images must be uint8 \(0..255\), got float32; convert"),
        (np.zeros((4, 3, 8, 8), np.uint8), None, ValueError, r"got shape \(4, 3, 8, 8\); move the channels to the end"),
        (np.zeros((4, 8, 8, 4), np.uint8), None, ValueError, "with C 1 or 3"),
        (np.zeros((8, 8), np.uint8), None, ValueError, r"got shape \(8, 8\)"),
        (np.zeros((0, 8, 8, 3), np.uint8), None, ValueError, "at least one picture"),
        (np.zeros((4, 8, 8, 3), np.uint8), [1, 2], ValueError, "4 images but 2 labels"),
        (np.zeros((2, 8, 8, 3), np.uint8), ["a", "b"], TypeError, "labels must be numbers"),
        ([np.zeros((8, 8, 3)), np.zeros((9, 8, 3))], None, TypeError, "images must be one array"),
        (None, None, TypeError, "images must be one array of numbers, got NoneType"),
    ],
)
def test_arrays_that_are_none(images: Any, labels: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        dalipipe.Arrays(images, labels)


def test_without_dali_the_first_use_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    root = make_folder(tmp_path, {"0.jpg": GOOD, "1.png": encode(RGB, "PNG")})
    with pytest.raises(
        ImportError,
        match=r"DALI is not installed: pip install 'dalipipe\[cuda13\]'.*'dalipipe\[cuda12\]'.*decoder=\"pillow\"",
    ):
        load(root)
    assert load(root, decoder="pillow")["0.jpg"].shape == (32, 32, 3)
    (root / "class" / "1.png").unlink()
    with pytest.raises(ImportError, match="DALI is not installed"):
        load(root, decoder="dali")
    assert load(root)["0.jpg"].shape == (32, 32, 3)  # baseline JPEGs need no DALI
