"""Pictures with label maps: pairing, Cityscapes, decoding indices, and the nearest-neighbour geometry of masks."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import SIZES
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import datasets, tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from dalipipe import rng
from dalipipe.decoders.base import DecodeError
from dalipipe.decoders.pillow import decode_mask
from dalipipe.ops import image as ops
from dalipipe.ops.pixels import warp_points
from dalipipe.ops.targets import drawn_field, move_labels
from dalipipe.plan import lower
from dalipipe.policy import Policy
from dalipipe.records import Encoded
from dalipipe.schema import Field, Schema
from dalipipe.sources.segmentation import CITYSCAPES_LABELS, CITYSCAPES_TRAIN_IDS, Cityscapes, ImageMasks
from dalipipe.storage import Storage

RNG = np.random.default_rng(0)


def plant(root: Path, *files: str) -> Path:
    """Files that hold their own names."""
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def contents(source: ImageMasks, rows: list[int]) -> list[tuple[str, str]]:
    records = source.read(np.array(rows, np.int64), threads=2)
    assert not records.errors and tuple(records.columns) == source.schema.names == ("image", "mask")
    image, mask = records.columns["image"], records.columns["mask"]
    assert isinstance(image, Encoded) and isinstance(mask, Encoded) and len(image) == len(mask) == len(rows)
    return [(image[row].tobytes().decode(), mask[row].tobytes().decode()) for row in range(len(rows))]


# Pairs -------------------------------------------------------------------------------------------------------------


def test_files_are_paired_by_their_paths(tmp_path: Path) -> None:
    plant(tmp_path / "images", "b/1.jpg", "a/2.png", "a.b.jpeg", "a/notes.txt")
    plant(tmp_path / "masks", "a.b.png", "a/2.png", "b/1.png", "readme.md")
    source = ImageMasks(tmp_path / "images", str(tmp_path / "masks"), classes=["x", "y"])
    assert contents(source, [2, 0, 1, 0]) == [
        ("b/1.jpg", "b/1.png"),
        ("a.b.jpeg", "a.b.png"),
        ("a/2.png", "a/2.png"),
        ("a.b.jpeg", "a.b.png"),
    ]
    assert [field.kind for field in source.schema.fields] == ["image", "mask"]
    assert repr(source) == "ImageMasks(3 pictures with masks, 2 classes)"
    assert source.describe(2) == f"{tmp_path}/images/b/1.jpg"
    copy = pickle.loads(pickle.dumps(source))
    assert copy.fingerprint() == source.fingerprint() and contents(copy, [1]) == [("a/2.png", "a/2.png")]
    assert contents(source, []) == []


def test_suffixes_choose_files_of_one_folder(tmp_path: Path) -> None:
    plant(tmp_path, "1_sat.jpg", "1_mask.png", "x/2_sat.jpg", "x/2_mask.png", "x/2_preview.png")
    source = ImageMasks(tmp_path, tmp_path, image_suffix="_sat.jpg", mask_suffix="_mask.png")
    assert contents(source, [0, 1]) == [("1_sat.jpg", "1_mask.png"), ("x/2_sat.jpg", "x/2_mask.png")]
    with pytest.raises(ValueError, match=r"cannot be both: name two folders, or two suffixes"):
        ImageMasks(tmp_path, tmp_path)


def test_the_lonely_are_named(tmp_path: Path) -> None:
    images = plant(tmp_path / "images", *(f"{i}.jpg" for i in range(9)))
    masks = plant(tmp_path / "masks", *(f"{i}.png" for i in range(4)))
    with pytest.raises(
        ValueError, match=r"5 of 9 pictures have no mask \('4.jpg', '5.jpg', '6.jpg', …; looked for .*/masks/\*\)"
    ):
        ImageMasks(images, masks)
    plant(masks, *(f"{i}.png" for i in range(10)))
    with pytest.raises(ValueError, match=r"1 of 10 masks have no picture \('9.png'; looked for .*/images/\*\)"):
        ImageMasks(images, masks)
    plant(masks, "3.bmp")
    with pytest.raises(ValueError, match=r"'3.(bmp|png)' and '3.(bmp|png)' in '.*masks' go by one name"):
        ImageMasks(images, masks)
    with pytest.raises(FileNotFoundError, match=r"masks' holds no pictures named \*_seg.png"):
        ImageMasks(images, masks, mask_suffix="_seg.png")
    with pytest.raises(FileNotFoundError, match=r"none' is no folder"):
        ImageMasks(tmp_path / "none", masks)


def test_a_missing_file_of_a_pair_costs_its_sample_only(tmp_path: Path) -> None:
    images = plant(tmp_path / "images", "1.jpg", "2.jpg", "3.jpg")
    masks = plant(tmp_path / "masks", "1.png", "2.png", "3.png")
    source = ImageMasks(images, masks)
    (images / "1.jpg").unlink()
    (masks / "1.png").unlink()
    (masks / "3.png").unlink()
    records = source.read(np.array([2, 1, 0]))
    assert sorted(records.errors) == [0, 2]
    assert str(masks / "3.png") in str(records.errors[0]) and str(images / "1.jpg") in str(records.errors[2])
    assert records.columns["image"][1].tobytes() == b"2.jpg" and records.columns["mask"][1].tobytes() == b"2.png"


def test_fingerprint_holds_while_the_roots_move_and_no_longer(tmp_path: Path) -> None:
    images = plant(tmp_path / "images", "1.jpg", "2.jpg")
    masks = plant(tmp_path / "masks", "1.png", "2.png")
    before = ImageMasks(images, masks).fingerprint()
    images, masks = images.rename(tmp_path / "i"), masks.rename(tmp_path / "m")
    assert ImageMasks(images, masks).fingerprint() == before
    others = {
        before,
        ImageMasks(images, masks, table=[0, 1]).fingerprint(),
        ImageMasks(images, masks, table=[1, 0]).fingerprint(),
        ImageMasks(images, masks, ignore_index=0).fingerprint(),
    }
    (images / "1.jpg").rename(images / "1.png")
    others.add(ImageMasks(images, masks).fingerprint())
    assert len(others) == 5


def test_tables(tmp_path: Path) -> None:
    images, masks = plant(tmp_path / "images", "1.jpg"), plant(tmp_path / "masks", "1.png")
    mask = ImageMasks(images, masks, table=[255, 0, np.int64(1)], ignore_index=-100).schema.fields[1]
    assert mask.table == (255, 0, 1, -100) and mask.ignore_index == -100
    assert ImageMasks(images, masks).schema.fields[1] == Field("mask", "mask", 1, ignore_index=255, table=None)
    for bad, message in (
        ({"table": [0, 1.5]}, "table's entries must be whole numbers of 32 bits, got 1.5"),
        ({"table": [1 << 31]}, "got 2147483648"),
        ({"ignore_index": True}, "ignore_index must be whole numbers of 32 bits, got True"),
    ):
        with pytest.raises(ValueError, match=message):
            ImageMasks(images, masks, **bad)


class Bucket(Storage):
    """A folder that looks like a store."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    def read(self, paths: Any, **kwargs: Any) -> Any:
        return super().read([path.replace("s3://b", str(self.root)) for path in paths], **kwargs)

    def list(self, root: str) -> Any:
        from dalipipe.storage import FileInfo

        here = sorted(path for path in Path(root.replace("s3://b", str(self.root))).rglob("*") if path.is_file())
        return [FileInfo(f"s3://b/{path.relative_to(self.root)}", 1, "1") for path in here]


# Cityscapes --------------------------------------------------------------------------------------------------------


def plant_cityscapes(root: Path, split: str, mode: str, train_ids: bool = False) -> None:
    for city, number in (("aachen", 0), ("aachen", 1), ("zurich", 0)):
        name = f"{city}_{number:06d}_000019"
        plant(root, f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png")
        kinds = ["labelIds", "instanceIds", "color", *["labelTrainIds"] * train_ids]
        plant(root, *(f"{mode}/{split}/{city}/{name}_{mode}_{kind}.png" for kind in kinds))
        plant(root, f"{mode}/{split}/{city}/{name}_{mode}_polygons.json")


@pytest.mark.parametrize(("split", "mode"), [("train", "fine"), ("val", "fine"), ("train_extra", "coarse")])
@pytest.mark.parametrize("target", ["semantic", "instance"])
def test_cityscapes_pairs_as_torchvision_does(tmp_path: Path, split: str, mode: str, target: str) -> None:
    plant_cityscapes(tmp_path, split, "gt" + mode.capitalize())
    theirs = datasets.Cityscapes(str(tmp_path), split=split, mode=mode, target_type=target)
    ours = Cityscapes(tmp_path, split, mode, target, train_ids=False)
    pairs = sorted(zip(theirs.images, (one for (one,) in theirs.targets), strict=True))
    assert [(image, mask) for image, mask in zip(ours.image_paths, ours.mask_paths, strict=True)] == pairs
    assert ours.schema.fields[1].table is None and len(ours.classes or []) == 34
    remote = Cityscapes("s3://b", split, mode, target, train_ids=False, storage=Bucket(tmp_path))
    assert remote.image_paths == [image.replace(str(tmp_path), "s3://b") for image, _ in pairs]
    assert contents(remote, [2]) == contents(ours, [2]) and remote.fingerprint() == ours.fingerprint()


def test_cityscapes_train_ids(tmp_path: Path) -> None:
    known = [one for one in datasets.Cityscapes.classes if one.id >= 0]
    assert tuple((one.name, one.train_id != 255) for one in known) == CITYSCAPES_LABELS
    assert tuple(one.train_id for one in known) == CITYSCAPES_TRAIN_IDS
    plant_cityscapes(tmp_path / "a", "train", "gtFine")
    mapped = Cityscapes(tmp_path / "a")
    assert all(path.endswith("_gtFine_labelIds.png") for path in mapped.mask_paths)
    assert mapped.schema.fields[1].table == (*CITYSCAPES_TRAIN_IDS, 255)
    assert mapped.schema.fields[1].ignore_index == 255
    assert mapped.classes == [one.name for one in known if one.train_id != 255] and len(mapped.classes) == 19
    plant_cityscapes(tmp_path / "b", "train", "gtFine", train_ids=True)
    made = Cityscapes(tmp_path / "b")
    assert all(path.endswith("_gtFine_labelTrainIds.png") for path in made.mask_paths)
    assert made.schema.fields[1].table is None and made.classes == mapped.classes
    os.unlink(made.mask_paths[1])  # made for some pictures only: those of all are taken
    assert Cityscapes(tmp_path / "b").mask_paths == [p.replace("/a/", "/b/") for p in mapped.mask_paths]
    instances = Cityscapes(tmp_path / "a", target="instance")
    assert instances.schema.fields[1].table is None and instances.mask_paths[0].endswith("_gtFine_instanceIds.png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "rough"), "mode must be one of fine, coarse, got 'rough'"),
        (("train_extra", "fine"), "split must be one of train, val, test, got 'train_extra'"),
        (("test", "coarse"), "split must be one of train, train_extra, val, got 'test'"),
        (("train", "fine", "color"), "target must be one of semantic, instance, got 'color'"),
    ],
)
def test_cityscapes_arguments(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"Cityscapes: {message}"):
        Cityscapes("nowhere", *arguments)


# Decoding ----------------------------------------------------------------------------------------------------------


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("high", [2, 4, 16, 256])
def test_palette_masks_keep_their_indices(high: int) -> None:
    mask = RNG.integers(0, high, (13, 17), dtype=np.uint8)
    image = Image.fromarray(mask)
    image.putpalette(RNG.integers(0, 256, 768, dtype=np.uint8).tolist())
    assert image.mode == "P"
    data = encoded(image, bits={2: 1, 4: 2, 16: 4, 256: 8}[high])
    for given_data in (data, np.frombuffer(data, np.uint8)):
        got = decode_mask(given_data)
        assert got.dtype == np.uint8 and got.flags.writeable and np.array_equal(got, mask)
    assert np.array_equal(decode_mask(encoded(image, "GIF")), np.asarray(Image.open(io.BytesIO(encoded(image, "GIF")))))


def test_grey_wide_and_bilevel_masks() -> None:
    grey = RNG.integers(0, 256, (13, 17), dtype=np.uint8)
    assert np.array_equal(decode_mask(encoded(Image.fromarray(grey))), grey)
    assert np.array_equal(decode_mask(encoded(Image.fromarray(grey), "TIFF")), grey)
    wide = RNG.integers(0, 1 << 16, (13, 17), dtype=np.uint16)
    for got in (decode_mask(encoded(Image.fromarray(wide))), decode_mask(encoded(Image.fromarray(wide), "TIFF"))):
        assert got.dtype == np.int32 and np.array_equal(got, wide)
    signed = RNG.integers(-(1 << 31), 1 << 31, (5, 6)).astype(np.int32)
    assert np.array_equal(decode_mask(encoded(Image.fromarray(signed), "TIFF")), signed)
    bits = RNG.integers(0, 2, (13, 17)).astype(bool)
    got = decode_mask(encoded(Image.fromarray(bits)))
    assert got.dtype == np.uint8 and np.array_equal(got, bits)


def test_what_is_no_mask() -> None:
    colour = Image.fromarray(RNG.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    with pytest.raises(DecodeError, match=r"one channel of class indices, grey or palette; this one is RGB"):
        decode_mask(encoded(colour))
    whole = encoded(Image.fromarray(RNG.integers(0, 256, (40, 40), dtype=np.uint8)))
    for bad in (b"", b"<html>", whole[:20], whole[: len(whole) // 2]):
        with pytest.raises(DecodeError, match="cannot be decoded"):
            decode_mask(bad)


# Geometry ----------------------------------------------------------------------------------------------------------

RGB = Schema((Field("image", "image", channels=3),))
FILL = 255


def by_spec(policy: Policy, masks: list[np.ndarray], whole: bool = True) -> tuple[list[np.ndarray], Any]:
    """Each mask under a policy's passes, and what was drawn; ``whole``: the mask, not only what the image needs."""
    plan = lower(policy, RGB)
    size = np.array([mask.shape for mask in masks])
    draws = plan.draw(rng.make_key(5, 2), np.arange(len(masks)), size)
    params, out = draws.params, []
    for row, mask in enumerate(masks):
        passes, (y, x, h, w) = params.passes[params.starts[row] : params.starts[row + 1]].copy(), params.roi[row]
        if not whole:
            mask = mask[y : y + h, x : x + w]
            passes["origin_y"][0] += y
            passes["origin_x"][0] += x
        out.append(move_labels(mask, passes, FILL))
    return out, draws


def by_torchvision(drawn: Any, row: int, mask: np.ndarray) -> np.ndarray:
    """The same operators by torchvision's functions, one after the other. Outside it has 0, so labels are one up."""
    x = tv_tensors.Mask(torch.from_numpy(mask.astype(np.uint8) + 1))
    for d in drawn:
        p = d.at(row)
        if p is None:
            continue
        if isinstance(d.op, ops.ResizeOp):
            x = F.resized_crop(x, *p["box"].tolist(), p["resized"].tolist())
        elif isinstance(d.op, ops.CropOp):
            x = F.crop(x, *p["box"].tolist())
        elif isinstance(d.op, ops.FlipOp):
            x = F.vertical_flip(x) if p["flip"][0] else x
            x = F.horizontal_flip(x) if p["flip"][1] else x
    out = x.numpy()
    return np.where(out == 0, FILL, out - 1)


def masks_of(sizes: list[tuple[int, int]]) -> list[np.ndarray]:
    return [RNG.integers(0, 200, size, dtype=np.uint8) for size in sizes]


POLICIES = [
    [ops.Resize((20, 33))],
    [ops.Resize(7)],
    [ops.Resize((97, 61))],
    [ops.CenterCrop((60, 12))],
    [ops.RandomCrop(16, padding=5, pad_if_needed=True)],
    [ops.RandomResizedCrop(24), ops.HorizontalFlip(p=0.5)],
    [ops.RandomResizedCrop((40, 7), scale=(0.05, 1.0)), ops.VerticalFlip(p=0.5), ops.HorizontalFlip(p=0.5)],
    [ops.Resize((30, 30)), ops.HorizontalFlip(p=0.5), ops.RandomCrop(28, padding=4), ops.VerticalFlip(p=0.5)],
    [ops.CenterCrop(50), ops.Resize((21, 22)), ops.Brightness(), ops.CenterCrop(30)],
]


@pytest.mark.parametrize("nodes", POLICIES, ids=lambda nodes: "+".join(type(op).__name__ for op in nodes))
@pytest.mark.parametrize("whole", [True, False])
def test_crops_resizes_and_flips_are_torchvisions(nodes: list[Any], whole: bool) -> None:
    masks = masks_of(SIZES * 3)
    got, draws = by_spec(Policy(nodes), masks, whole)
    for row, mask in enumerate(masks):
        np.testing.assert_array_equal(got[row], by_torchvision(draws.drawn, row, mask))


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000))
def test_resize_is_torchs_nearest_at_every_scale(old: int, new: int) -> None:
    row = np.arange(old, dtype=np.int32)[None]
    plan = lower(Policy([ops.Resize((1, new))]), RGB)
    draws = plan.draw(rng.make_key(0, 0), np.zeros(1, np.int64), np.array([[1, old]]))
    got = move_labels(row, draws.params.passes, -1)
    theirs = torch.nn.functional.interpolate(torch.from_numpy(row)[None, None].float(), (1, new), mode="nearest")
    assert np.array_equal(got[0], theirs.numpy()[0, 0, 0].astype(np.int32))


def between_pixels(passes: np.ndarray, field: np.ndarray | None = None) -> np.ndarray:
    """bool [H, W]: where a warp looks half-way between two pixels, as near as float32 sees it."""
    places = np.stack(warp_points(passes[0]["matrix"], (int(passes[0]["out_h"]), int(passes[0]["out_w"])), field))
    return (np.abs((places + 0.5) - np.rint(places + 0.5)) < 1e-3).any(axis=0)


@pytest.mark.parametrize(
    ("op", "affine"),
    [
        (ops.Rotate((33.3, 33.3)), {"angle": -33.3}),
        (ops.Scale((0.63, 0.63)), {"scale": 0.63}),
        (ops.Scale((1.71, 1.71)), {"scale": 1.71}),
        (ops.Shear((20.3, 20.3), (-9.7, -9.7)), {"shear": [20.3, -9.7]}),
    ],
)
@pytest.mark.parametrize("size", [(40, 50), (53, 54), (31, 31), (200, 13)])
def test_warps_are_torchvisions_nearest(op: Any, affine: dict[str, Any], size: tuple[int, int]) -> None:
    mask = RNG.integers(0, 200, size, dtype=np.uint8)
    (got,), draws = by_spec(Policy([op]), [mask])
    settings = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0], **affine}
    theirs = F.affine(tv_tensors.Mask(torch.from_numpy(mask + 1)), interpolation=InterpolationMode.NEAREST, **settings)
    expected = np.where(theirs.numpy() == 0, FILL, theirs.numpy() - 1)
    clear = ~between_pixels(draws.params.passes)
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(got[clear], expected[clear])
    assert (got == FILL).any() or affine.get("scale", 0) > 1


@pytest.mark.parametrize("size", [(40, 50), (53, 54), (120, 33)])
@pytest.mark.parametrize("op", [ops.Perspective(0.6, p=1.0), ops.Elastic((30.0, 80.0), 4.0)])
def test_perspective_and_elastic_are_torchvisions_nearest(op: Any, size: tuple[int, int]) -> None:
    mask = RNG.integers(0, 200, size, dtype=np.uint8)
    plan = lower(Policy([op]), RGB)
    draws = plan.draw(rng.make_key(5, 2), np.arange(1), np.array([size]))
    (drawn,), passes = draws.drawn, draws.params.passes.copy()
    x, field = tv_tensors.Mask(torch.from_numpy(mask + 1)), None
    if isinstance(op, ops.Perspective):
        to_centre = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
        edges = to_centre @ drawn.params["matrix"][0] @ np.linalg.inv(to_centre)
        theirs = F.perspective(x, None, None, coefficients=(edges / edges[2, 2]).ravel()[:8].tolist())
    else:
        field = np.ascontiguousarray(drawn_field(drawn, 0), np.float32)
        passes["displacement"] = field.ctypes.data
        scaled = np.stack([field[0] * (2 / size[1]), field[1] * (2 / size[0])], axis=-1)[None]
        theirs = F.elastic(x, torch.from_numpy(scaled.astype(np.float32)))
    expected = np.where(theirs.numpy() == 0, FILL, theirs.numpy() - 1)
    clear = ~between_pixels(passes, field)
    got = move_labels(mask, passes, FILL)
    assert clear.mean() > 0.9 and (got != mask).mean() > 0.5
    np.testing.assert_array_equal(got[clear], expected[clear])


def test_warp_after_crop_and_flip_before_another_pass() -> None:
    """The mask goes where the image goes: an image whose colour is its own place, in nearest sampling all the way."""
    nodes = [
        ops.RandomCrop((30, 41), padding=6),
        ops.HorizontalFlip(p=0.5),
        ops.Rotate(60, interpolation="nearest"),
        ops.VerticalFlip(p=0.5),
        ops.CenterCrop((25, 33)),
        ops.RandomCrop((20, 20), padding=3),
    ]
    masks = masks_of([(40, 50), (53, 54), (44, 47), (90, 60)] * 4)
    got, draws = by_spec(Policy(nodes), masks)
    for row, mask in enumerate(masks):
        x = (mask + 1)[:, :, None]
        for drawn in draws.drawn:
            x = drawn.reference(row, x)
        expected = np.where(x[:, :, 0] == 0, FILL, x[:, :, 0] - 1)
        differs = got[row] != expected
        assert differs.mean() < 0.01, "folding moves only what lies on the edge between two pixels"


def test_masks_of_any_width(tmp_path: Path) -> None:
    for dtype in (np.int32, np.int64, np.uint16):
        mask = RNG.integers(0, 60_000, (40, 50)).astype(dtype)
        low = (mask % 200).astype(np.uint8)
        policy = Policy([ops.RandomResizedCrop(24), ops.HorizontalFlip(p=1.0), ops.Rotate(20)])
        (got,), _ = by_spec(policy, [mask])
        (got_low,), _ = by_spec(policy, [low])
        assert got.dtype == np.int64 and got.shape == (24, 24)
        outside = got_low == FILL
        assert np.array_equal(got[~outside] % 200, got_low[~outside]) and (got[outside] == FILL).all()
