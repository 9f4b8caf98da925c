"""Packs: what goes in comes out, whoever reads it, however often the writing was stopped."""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import CASES
from conftest import picture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jpegs import SAMPLINGS, decode, jpeg
from PIL import Image

import dalipipe
from dalipipe import native, packing, rng
from dalipipe.ops import image as ops
from dalipipe.packing import shard as shards
from dalipipe.packing.settings import Plan, Settings
from dalipipe.records import Encoded
from dalipipe.sizes import parse_bytes
from dalipipe.sources.packed import Packed

FOLDER = Callable[..., Path]
POLICY = dalipipe.Policy([ops.RandomResizedCrop(24), ops.HorizontalFlip(), ops.Normalize()])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """40 pictures of many kinds in 4 classes."""
    root = tmp_path / "pictures"
    for i in range(40):
        path = root / f"class_{i % 4}" / f"{i:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = jpeg(30 + 3 * i, 50 + 2 * i, i, SAMPLINGS[i % 5], progressive=i % 6 == 5)
        if i == 7:
            out = io.BytesIO()
            Image.fromarray(picture(33, 44, i)).save(out, "PNG")
            data = out.getvalue()
        path.write_bytes(data)
    return root


def batches(source: Any, epochs: int = 1, policy: Any = POLICY, **kw: Any) -> list[Any]:
    loader = dalipipe.DataLoader(source, 7, policy=policy, seed=5, device="cpu", **{"shuffle": True, **kw})
    found = [batch for _ in range(epochs) for batch in loader]
    loader.close()
    return found


def assert_same(a: list[Any], b: list[Any]) -> None:
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert one._fields == other._fields
        for x, y in zip(one, other, strict=True):
            if isinstance(x, list):
                assert len(x) == len(y) and all(
                    torch.equal(torch.as_tensor(p), torch.as_tensor(q)) for p, q in zip(x, y, strict=True)
                )
            else:
                assert x.dtype == y.dtype and torch.equal(x, y)


def digest_of(out: Path) -> dict[str, str]:
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


# --- what goes in comes out ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["tiled", "copy", "raw"])
def test_batches_are_those_of_the_folder(folder: Path, tmp_path: Path, format: Any) -> None:
    source = dalipipe.ImageFolder(folder)
    report = dalipipe.pack(source, tmp_path / "out", format=format, shard_size="20KiB")
    packed = Packed(tmp_path / "out")
    assert report.records == len(packed) == 40 and report.shards == len(packed.paths) > 3
    assert packed.classes == source.classes and packed.schema == source.schema
    np.testing.assert_array_equal(packed.labels, source.labels)
    assert_same(batches(packed, 2), batches(source, 2))
    assert_same(batches(packed, decoder="dali"), batches(source, decoder="pillow"))
    assert report.left == ({"png files": 1} if format == "tiled" else {})
    assert not report.bad
    if format == "copy":
        assert report.ratio == 1.0


def test_explain_tells_what_is_read(tmp_path: Path) -> None:
    """The shares are counted once more, from the files: tiles by the restart markers between them."""
    root = tmp_path / "pictures" / "a"
    root.mkdir(parents=True)
    for i in range(12):
        (root / f"{i:02d}.jpg").write_bytes(jpeg(400 + 8 * i, 500, i, "4:2:0"))
    (root / "12.jpg").write_bytes(b"no picture")
    source = dalipipe.ImageFolder(root.parent)
    policy = dalipipe.Policy([ops.RandomResizedCrop(64, scale=(0.05, 0.2)), ops.Normalize()])

    def explained(source: Any, policy: Any = policy, **kw: Any) -> str:
        loader = dalipipe.DataLoader(source, 4, policy=policy, seed=3, device="cpu", **kw)
        text = loader.explain()
        loader.close()
        return text

    plain = explained(source)
    assert "decoded by native" in plain and "not in tiles; `dalipipe pack`" in plain
    assert "samples of 448×500 px" in plain and "RandomResizedCrop" in plain
    assert "decoded by pillow" in explained(source, decoder="pillow")
    lost = tmp_path / "lost" / "a"
    lost.mkdir(parents=True)
    (lost / "0.jpg").write_bytes(b"no picture")
    assert "none of the 1 pictures looked at is good" in explained(dalipipe.ImageFolder(lost.parent))
    assert "nothing to decode or augment" in explained([1.5, 2.5], None)
    assert "pixels as they are stored" in explained(dalipipe.Arrays(np.zeros((4, 80, 90, 3), np.uint8)))

    dalipipe.pack(source, tmp_path / "out")
    packed = Packed(tmp_path / "out")
    found = re.search(
        r"12 of 12 are in tiles: of these (\d+)% of the MCUs and (\d+)% of the bytes are read", explained(packed)
    )
    assert found
    column = packed.read(np.arange(12)).columns["image"]
    assert isinstance(column, Encoded)
    sizes = np.array([(400 + 8 * i, 500) for i in range(12)])
    loader = dalipipe.DataLoader(packed, 4, policy=policy, seed=3, device="cpu")
    regions = loader.plan.draw(rng.make_key(3, 0), np.arange(12), sizes).params.roi
    left = np.empty_like(column.arena)
    nbytes = native.cut_jpegs(column.arena, column.starts, regions, left)["bytes"]
    whole = [bytes(column.arena[a:b]) for a, b in itertools.pairwise(column.starts)]
    cut = [bytes(left[a : a + n]) for a, n in zip(column.starts, nbytes, strict=False)]

    def tiles(files: list[bytes]) -> int:
        return sum(1 + len(re.findall(rb"\xff[\xd0-\xd7]", data)) for data in files)

    assert int(found[1]) == round(100 * tiles(cut) / tiles(whole)) < 70
    assert int(found[2]) == round(100 * sum(map(len, cut)) / sum(map(len, whole))) < 80


@pytest.mark.parametrize("format", ["tiled", "copy", "raw"])
def test_webdataset_reads_the_shards(folder: Path, tmp_path: Path, format: Any) -> None:
    webdataset = pytest.importorskip("webdataset")
    source = dalipipe.ImageFolder(folder)
    dalipipe.pack(source, tmp_path / "out", format=format, shard_size="50KiB")
    urls = sorted(map(str, (tmp_path / "out").glob("shard-*.tar")))
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in samples] == [f"{i:09d}" for i in range(40)]
    for i, sample in enumerate(samples):
        (pixels,) = (sample[name] for name in ("jpg", "png", "npy") if name in sample)
        expected = decode(Path(source.paths[i]).read_bytes())
        np.testing.assert_array_equal(pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, 2), expected)
        assert sample["cls"] == source.labels[i]


def test_tar_shards_reads_the_shards(folder: Path, tmp_path: Path) -> None:
    source = dalipipe.ImageFolder(folder)
    dalipipe.pack(source, tmp_path / "out", format="tiled", shard_size="50KiB")
    tar = dalipipe.TarShards(str(tmp_path / "out" / "shard-*.tar"))
    assert_same(batches(tar), batches(source))


def test_pythons_tarfile_reads_the_shards(folder: Path, tmp_path: Path) -> None:
    dalipipe.pack(dalipipe.ImageFolder(folder), tmp_path / "out", format="copy")
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        members = tar.getmembers()
    assert len(members) == 80
    assert all(m.isreg() and m.mtime == m.uid == m.gid == 0 and m.mode == 0o644 for m in members)


def test_arrays_are_stored_raw(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50, 9, 11, 3), dtype=np.uint8)
    source = dalipipe.Arrays(images, rng.integers(0, 7, 50), weight=rng.normal(size=(50, 2)).astype(np.float32))
    report = dalipipe.pack(source, tmp_path / "out", shard_size="10KiB")
    assert report.format == "raw" and report.ratio is None
    packed = Packed(tmp_path / "out")
    assert packed.schema == source.schema
    assert_same(batches(packed, policy=None, dtype=torch.uint8), batches(source, policy=None, dtype=torch.uint8))
    grey = dalipipe.Arrays(images[..., 0])
    dalipipe.pack(grey, tmp_path / "grey")
    grey_packed = Packed(tmp_path / "grey")
    assert grey_packed.schema.fields[0].channels == 1
    assert_same(batches(grey_packed, policy=None), batches(grey, policy=None))


def test_every_kind_of_field(tmp_path: Path) -> None:
    from dalipipe.schema import Field

    def item(i: int) -> dict[str, Any]:
        rng = np.random.default_rng(i)
        return {
            "image": Image.fromarray(picture(40 + i, 60, i)),
            "mask": rng.integers(0, 200, (40 + i, 60), dtype=np.int32),
            "boxes": np.array([[2.0, 3.0, 20.0, 30.0]] * (i % 3 + 1), np.float32),
            "points": rng.uniform(0, 30, (i % 2 + 1, 2)).astype(np.float32),
            "names": [i] * (i % 3 + 1),
            "text": f"größer {i}",
            "blob": bytes([i] * 5),
            "vector": rng.normal(size=3),
            "ragged": rng.normal(size=i + 5),
            "label": i,
        }

    columns = [
        Field("image", "image", channels=3),
        Field("mask", "mask", channels=1, ignore_index=0),
        Field("boxes", "boxes"),
        Field("points", "points"),
        "names",
        "text",
        "blob",
        Field("vector", "column"),
        Field("ragged", "object"),
        Field("label", "column"),
    ]
    items = [item(i) for i in range(12)]
    source = dalipipe.MapDataset(items, columns=columns)
    policy = dalipipe.Policy([ops.Rotate(20, p=1.0), ops.RandomCrop(32), ops.HorizontalFlip()])
    dalipipe.pack(source, tmp_path / "out", format="raw", shard_size="10KiB")
    packed = Packed(tmp_path / "out")
    ours, theirs = batches(packed, 2, policy), batches(source, 2, policy)
    for one, other in zip(ours, theirs, strict=True):
        for name in ("image", "mask", "vector", "label"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        for name in ("boxes", "points", "names", "ragged"):
            for x, y in zip(getattr(one, name), getattr(other, name), strict=True):
                assert torch.equal(torch.as_tensor(x), torch.as_tensor(y)), name
        assert (one.text, one.blob) == (other.text, other.blob)
    # And with a front that moves all of them.
    front = dalipipe.Policy(
        [ops.Resize(36), ops.HorizontalFlip(), ops.RandomCrop(32), ops.Invert(p=0.5)], stored_after=2
    )
    dalipipe.pack(source, tmp_path / "front", policy=front, split_at=2, seed=5)
    for one, other in zip(batches(Packed(tmp_path / "front"), 1, front), batches(source, 1, front), strict=True):
        for name in ("image", "mask"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        for x, y in zip(one.boxes, other.boxes, strict=True):
            assert torch.allclose(x, y, atol=1e-4)


def test_masks_of_files_keep_their_table(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for i in range(6):
        (tmp_path / "images" / f"{i}.jpg").write_bytes(jpeg(40, 50, i))
        mask = np.random.default_rng(i).integers(0, 5, (40, 50), dtype=np.uint8)
        Image.fromarray(mask).save(tmp_path / "masks" / f"{i}.png")
    source = dalipipe.ImageMasks(tmp_path / "images", tmp_path / "masks", table=[3, 1, 0, 2])
    policy = dalipipe.Policy([ops.RandomResizedCrop(24), ops.HorizontalFlip()])
    expected = batches(source, 2, policy)
    for format in ("tiled", "raw"):
        dalipipe.pack(source, tmp_path / format, format=format)
        assert_same(batches(Packed(tmp_path / format), 2, policy), expected)


def test_wide_labels_are_kept(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for i in range(3):
        (tmp_path / "images" / f"{i}.jpg").write_bytes(jpeg(40, 50, i))
        ids = np.random.default_rng(i).integers(0, 33_000, (40, 50), dtype=np.uint16)
        Image.fromarray(ids).save(tmp_path / "images" / f"{i}.png")
    source = dalipipe.ImageMasks(tmp_path / "images", tmp_path / "images", image_suffix=".jpg", mask_suffix=".png")
    policy = dalipipe.Policy([ops.CenterCrop(32)])
    for format in ("tiled", "raw"):
        dalipipe.pack(source, tmp_path / format, format=format)
        assert_same(batches(Packed(tmp_path / format), 1, policy), batches(source, 1, policy))


def test_smaller_pictures(folder: Path, tmp_path: Path) -> None:
    source = dalipipe.ImageFolder(folder)
    dalipipe.pack(source, tmp_path / "raw", format="raw", resize=40)
    for i, batch in enumerate(dalipipe.DataLoader(Packed(tmp_path / "raw"), 1, dtype=torch.uint8, device="cpu")):
        (expected,) = dalipipe.DataLoader(
            dalipipe.ImageFolder.from_samples([(source.paths[i], 0)]),
            policy=dalipipe.Policy([ops.ShrinkTo(40)]),
            dtype=torch.uint8,
            device="cpu",
        )
        assert torch.equal(batch.image, expected.image)
        assert min(batch.image.shape[2:]) <= 40
    report = dalipipe.pack(source, tmp_path / "tiled", format="tiled", resize=40, quality=100)
    assert report.format == "tiled" and not report.left
    differences = []
    for one, other in zip(
        batches(Packed(tmp_path / "tiled"), shuffle=False),
        batches(Packed(tmp_path / "raw"), shuffle=False),
        strict=True,
    ):
        differences.append(float((one.image - other.image).abs().mean()))
    assert 0 < np.mean(differences) < 0.2  # JPEG's loss


# --- offline, online, hybrid -----------------------------------------------------------------------------------------


def test_copies_are_the_epochs(folder: Path, tmp_path: Path) -> None:
    """Epoch e takes copy e mod K; the first K epochs are those of the whole policy online."""
    source = dalipipe.ImageFolder(folder)
    policy = dalipipe.Policy(
        [ops.RandomResizedCrop(24), ops.HorizontalFlip(), ops.ColorJitter(0.4, 0.4), ops.Normalize()]
    )
    report = dalipipe.pack(source, tmp_path / "out", policy=policy, split_at=2, copies=3, seed=5, shard_size="30KiB")
    assert report.copies == 3 and report.format == "raw"
    packed = Packed(tmp_path / "out")
    assert len(packed) == 40
    front, rest = policy.split(2)
    assert packed.front == front
    online = batches(source, 3, policy)
    assert_same(batches(packed, 3, policy), online)
    assert_same(batches(packed, 3, rest), online)
    # Later epochs: the copies again, under new draws of the rest.
    stored = dalipipe.Policy([ops.Normalize()], first_slot=rest.first_slot)
    for epoch in (4, 8):
        loader = dalipipe.DataLoader(packed, 40, policy=stored, seed=5, device="cpu")
        loader.set_epoch(epoch)
        again = next(iter(loader)).image
        loader.set_epoch(epoch % 3)
        assert torch.equal(again, next(iter(loader)).image)
    later = batches(packed, 6, policy)
    assert all(not torch.equal(x.image, y.image) for x, y in zip(later[:6], later[18:24], strict=True))


_GEOMETRY = [ops.RandomResizedCrop(30), ops.HorizontalFlip(p=0.5), ops.RandomCrop(26, padding=3), ops.Resize((28, 31))]
_NODES = [case.op for case in CASES if not isinstance(case.op, ops.Normalize)]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_policy_split_anywhere_is_the_policy(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(_NODES), min_size=2, max_size=5))
    nodes = [ops.Resize(70), *chosen, ops.Resize((23, 29)), ops.Normalize()]
    n = data.draw(st.integers(1, len(nodes) - 1))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    source = dalipipe.Arrays(rng.integers(0, 256, (5, 31, 45, 3), dtype=np.uint8))
    out = tmp_path_factory.mktemp("pack") / "out"
    policy = dalipipe.Policy(nodes, stored_after=n)
    dalipipe.pack(source, out, policy=policy, split_at=n, seed=5)
    assert_same(batches(Packed(out), 1, policy), batches(source, 1, policy))
    shutil.rmtree(out)


@pytest.mark.parametrize(
    ("front", "rest"),
    [
        ([ops.Brightness((1.3, 1.3))], [ops.Contrast((0.7, 0.7))]),  # a rounding between them
        ([ops.Resize((20, 30))], [ops.HorizontalFlip(p=1.0), ops.Resize((11, 17), interpolation="nearest")]),
        ([ops.Rotate((20, 20))], [ops.Posterize((3, 3)), ops.Rotate((-20, -20))]),
        ([ops.RandomCrop(24), ops.GaussianBlur(5)], [ops.Sharpness((2.0, 2.0)), ops.Brightness((0.9, 0.9))]),
    ],
    ids=lambda nodes: "+".join(type(node).__name__ for node in nodes),
)
def test_passes_end_where_pictures_are_stored(tmp_path: Path, front: list[Any], rest: list[Any]) -> None:
    source = dalipipe.Arrays(np.random.default_rng(1).integers(0, 256, (6, 37, 50, 3), dtype=np.uint8))
    policy = dalipipe.Policy([*front, *rest], stored_after=len(front))
    dalipipe.pack(source, tmp_path / "out", policy=policy, split_at=len(front), seed=5)
    assert_same(batches(Packed(tmp_path / "out"), 1, policy), batches(source, 1, policy))
    lines = dalipipe.DataLoader(source, 6, policy=policy, device="cpu").plan.explain(4, (37, 50)).splitlines()
    place = next(number for number, line in enumerate(lines) if "as if they had been stored" in line)
    assert [line.split("(")[0].strip() for line in lines[2:place]] == [type(op).__name__ for op in front]
    assert [line.split("(")[0].strip() for line in lines[place + 1 :]] == [type(op).__name__ for op in rest]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_geometry_needs_no_place_to_be_stored(folder: Path, tmp_path: Path, n: int) -> None:
    """Crops, resizes and flips fold without a rounding more: the policy as it is, online, gives the same bits."""
    policy = dalipipe.Policy([*_GEOMETRY, ops.RandAugment(2, 9), ops.Normalize()])
    source = dalipipe.ImageFolder(folder)
    dalipipe.pack(source, tmp_path / "out", policy=policy, split_at=n, seed=5)
    assert_same(batches(Packed(tmp_path / "out"), 1, policy), batches(source, 1, policy))


def test_python_steps_in_the_front(folder: Path, tmp_path: Path) -> None:
    def mirror(image: Image.Image) -> Image.Image:
        return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)

    policy = dalipipe.Policy([ops.Resize((32, 32)), dalipipe.PythonStep(mirror), ops.HorizontalFlip(), ops.Normalize()])
    source = dalipipe.ImageFolder(folder)
    with pytest.raises(ValueError, match=r"PythonStep.*is a function"):
        dalipipe.pack(source, tmp_path / "out", policy=policy, split_at=2, seed=5)


def test_repeated_records_take_copies_in_turn(folder: Path, tmp_path: Path) -> None:
    from dalipipe import orders

    policy = dalipipe.Policy([ops.RandomResizedCrop(24), ops.Normalize()])
    dalipipe.pack(dalipipe.ImageFolder(folder), tmp_path / "out", policy=policy, split_at=1, copies=4, seed=5)
    packed = Packed(tmp_path / "out")
    order = orders.Repeated(3, orders.Sequential(), whole=True)
    loader = dalipipe.DataLoader(packed, 120, sampler=order, policy=policy, seed=5, device="cpu")
    (batch,) = loader
    by_copy = [next(iter(dalipipe.DataLoader(packed, 40, policy=policy, seed=5, device="cpu")))]
    for epoch in (1, 2):
        one = dalipipe.DataLoader(packed, 40, policy=policy, seed=5, device="cpu")
        one.set_epoch(epoch)
        by_copy.append(next(iter(one)))
    for i in range(120):
        assert torch.equal(batch.image[i], by_copy[i % 3].image[i // 3])


def test_resume_and_ranks(folder: Path, tmp_path: Path) -> None:
    dalipipe.pack(dalipipe.ImageFolder(folder), tmp_path / "out", policy=POLICY, split_at=1, copies=2, seed=5)

    def make(**kw: Any) -> dalipipe.DataLoader:
        source = Packed(tmp_path / "out")
        return dalipipe.DataLoader(source, policy=POLICY, seed=5, device="cpu", shuffle=True, drop_last=True, **kw)

    whole = make(batch_size=8)
    expected = [batch.image for _ in range(3) for batch in whole]
    states = [(0, whole)]
    loader = make(batch_size=8)
    states, seen = [], 0
    for _ in range(3):
        for _batch in loader:
            seen += 1
            states.append((seen, loader.state_dict()))
    for seen, state in states[:-1:3]:
        ranks = [make(batch_size=4, rank=rank, world_size=2) for rank in range(2)]
        for rank in ranks:
            rank.load_state_dict(state)
        for both in zip(*ranks, strict=True):
            assert torch.equal(torch.cat([batch.image for batch in both]), expected[seen])
            seen += 1


def test_a_loader_wants_the_policy_that_was_begun(folder: Path, tmp_path: Path) -> None:
    dalipipe.pack(dalipipe.ImageFolder(folder), tmp_path / "out", policy=POLICY, split_at=1)
    packed = Packed(tmp_path / "out")
    other = dalipipe.Policy([ops.RandomResizedCrop(25), ops.Normalize()])
    with pytest.raises(ValueError, match=r"RandomResizedCrop\(size=\(24, 24\)\).*applied.*already.*split\(1\)"):
        dalipipe.DataLoader(packed, 4, policy=other)
    assert next(iter(dalipipe.DataLoader(packed, 4, device="cpu"))).image.shape == (4, 3, 24, 24)


# --- stopped, and continued ------------------------------------------------------------------------------------------


def test_the_same_bytes_whoever_writes(folder: Path, tmp_path: Path) -> None:
    source = dalipipe.ImageFolder(folder)
    trees = []
    for threads in (1, 3):
        out = tmp_path / f"out{threads}"
        dalipipe.pack(source, out, threads=threads, policy=POLICY, split_at=1, copies=2, shard_size="20KiB")
        trees.append(digest_of(out))
    assert trees[0] == trees[1] and len(trees[0]) > 8


class Stop(Exception):
    pass


@pytest.mark.parametrize("after", [0, 1, 4])
def test_what_is_stopped_goes_on(folder: Path, tmp_path: Path, after: int) -> None:
    source = dalipipe.ImageFolder(folder)
    options: dict[str, Any] = {"shard_size": "15KiB", "format": "tiled"}
    dalipipe.pack(source, tmp_path / "whole", **options)

    def stop(now: packing.Progress) -> None:
        if now.shards == after:
            raise Stop

    out = tmp_path / "out"
    with pytest.raises(Stop):
        dalipipe.pack(source, out, progress=stop, **options)
    assert not (out / "pack.json").exists()
    with pytest.raises(FileNotFoundError, match=r"was not finished.*--resume"):
        Packed(out)
    with pytest.raises(FileExistsError, match=r"a pack under way.*--resume"):
        dalipipe.pack(source, out, **options)
    seen: list[int] = []
    report = dalipipe.pack(source, out, resume=True, progress=lambda now: seen.append(now.shards), **options)
    assert seen == list(range(after, report.shards + 1))
    assert digest_of(out) == digest_of(tmp_path / "whole")
    again = dalipipe.pack(source, out, resume=True, **options)
    assert (again.records, again.bytes_out) == (report.records, report.bytes_out)


def test_half_of_a_shard_never_looks_whole(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = dalipipe.ImageFolder(folder), tmp_path / "out"
    add, calls = shards._Archive.add, []

    def full(self: Any, name: str, member: Any) -> int:
        calls.append(name)
        if len(calls) == 50:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return add(self, name, member)

    monkeypatch.setattr(shards._Archive, "add", full)
    with pytest.raises(
        OSError, match=r"No space left on device; \d+ of \d+ shards are whole, none half-written: resume"
    ) as caught:
        dalipipe.pack(source, out, format="copy", shard_size="20KiB")
    assert caught.value.errno == errno.ENOSPC
    tars = sorted(out.glob("*.tar*"))
    assert tars and not [path for path in tars if path.suffix == ".part"]
    for path in tars:
        with tarfile.open(path) as tar:
            tar.getmembers()
    monkeypatch.undo()
    dalipipe.pack(source, out, format="copy", shard_size="20KiB", resume=True)
    dalipipe.pack(source, tmp_path / "whole", format="copy", shard_size="20KiB")
    assert digest_of(out) == digest_of(tmp_path / "whole")


def test_a_full_disk(folder: Path, tmp_path: Path) -> None:
    """A real one, where this user may mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        with pytest.raises(OSError) as caught:
            dalipipe.pack(dalipipe.ImageFolder(folder), disk / "out", format="copy", shard_size="20KiB")
        assert caught.value.errno == errno.ENOSPC
        assert not list((disk / "out").glob("*.part"))
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(OSError, match="Read-only file system"):
            dalipipe.pack(dalipipe.ImageFolder(folder), disk / "other", format="copy")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_pack_that_cannot_fit_is_not_begun(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"will take about 0\.\d GB, and 0\.0 GB are free"):
        dalipipe.pack(dalipipe.ImageFolder(folder), tmp_path / "out", format="raw")


def test_files_that_change_meanwhile(folder: Path, tmp_path: Path) -> None:
    source = dalipipe.ImageFolder(folder)

    def change(now: packing.Progress) -> None:
        if now.shards == 2:
            os.utime(source.paths[3], ns=(1, 1))

    with pytest.raises(RuntimeError, match="changed while it was packed"):
        dalipipe.pack(source, tmp_path / "out", shard_size="20KiB", progress=change)
    assert not (tmp_path / "out" / "pack.json").exists()
    with pytest.raises(packing.PackMismatchError, match="files: there") as caught:
        dalipipe.pack(source, tmp_path / "out", shard_size="20KiB", resume=True)
    assert list(caught.value.differences) == ["files"]
    os.unlink(source.paths[5])
    with pytest.raises(OSError):
        dalipipe.pack(source, tmp_path / "out", shard_size="20KiB", overwrite=True)


def test_two_at_a_time_are_refused(folder: Path, tmp_path: Path) -> None:
    source = dalipipe.ImageFolder(folder)

    def another(now: packing.Progress) -> None:
        with pytest.raises(RuntimeError, match="another run is packing"):
            dalipipe.pack(source, tmp_path / "out", resume=True)
        raise Stop

    with pytest.raises(Stop):
        dalipipe.pack(source, tmp_path / "out", progress=another)


def test_other_settings_are_named(folder: Path, tmp_path: Path) -> None:
    source = dalipipe.ImageFolder(folder)
    dalipipe.pack(source, tmp_path / "out", format="copy")
    with pytest.raises(packing.PackMismatchError, match=r"format: there 'copy', here 'raw'"):
        dalipipe.pack(source, tmp_path / "out", format="raw", resume=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("precious")
    for kw in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(FileExistsError, match=r"thesis\.tex.*no part of a pack"):
            dalipipe.pack(source, tmp_path / "full", **kw)
    assert (tmp_path / "full" / "thesis.tex").exists()
    report = dalipipe.pack(source, tmp_path / "out", format="raw", overwrite=True)
    assert report.format == "raw" == Packed(tmp_path / "out").format


@pytest.mark.slow
def test_killed_at_twenty_moments(tmp_path: Path) -> None:
    """kill -9, again and again; what is there in the end is what an undisturbed run leaves."""
    script = Path(__file__).parent / "pack_run.py"
    done = subprocess.run([sys.executable, script, str(tmp_path), "20"], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    killed, files, undisturbed, resumed = json.loads(done.stdout.splitlines()[-1])
    assert killed >= 20 and files > 50 and resumed == undisturbed


# --- bad records, damaged packs --------------------------------------------------------------------------------------


def test_bad_pictures_are_left_out_and_told(folder: Path, tmp_path: Path) -> None:
    source = dalipipe.ImageFolder(folder)
    Path(source.paths[11]).write_bytes(b"no picture at all")
    Path(source.paths[23]).write_bytes(Path(source.paths[23]).read_bytes()[:300])
    for format in ("tiled", "copy", "raw"):
        report = dalipipe.pack(source, tmp_path / format, format=format, shard_size="20KiB")
        assert [bad.index for bad in report.bad] == [11, 23] and report.records == 38
        assert source.paths[11] == report.bad[0].where and "not a picture" in report.bad[0].cause
        lines = [json.loads(line) for line in (tmp_path / format / "bad.jsonl").read_text().splitlines()]
        assert [line["index"] for line in lines] == [11, 23]
        good = dalipipe.ImageFolder.from_samples(
            [
                (path, int(label))
                for i, (path, label) in enumerate(zip(source.paths, source.labels, strict=True))
                if i not in (11, 23)
            ]
        )
        assert_same(batches(Packed(tmp_path / format)), batches(good))
    with pytest.raises(dalipipe.TooManyBadSamplesError, match="max_bad=0"):
        for i in range(18):
            Path(source.paths[i]).write_bytes(b"")
        dalipipe.pack(source, tmp_path / "none", max_bad=0.0)


def test_a_record_that_is_bad_in_one_copy_is_in_none(tmp_path: Path) -> None:
    """A crop that is drawn larger than the picture, now and then."""
    images = [np.full((40, 40, 3), i, np.uint8) for i in range(20)]
    source = dalipipe.MapDataset([(image, i) for i, image in enumerate(images)])
    policy = dalipipe.Policy([ops.RandomResize(24, 48), ops.RandomCrop(32), ops.Normalize()])
    report = dalipipe.pack(source, tmp_path / "out", policy=policy, split_at=2, copies=2, seed=5, max_bad=1.0)
    assert 0 < len(report.bad) < 20 and report.records == 20 - len({bad.index for bad in report.bad})
    packed = Packed(tmp_path / "out")
    labels = set(
        np.asarray(packed._index["column_1" if "column_1" in packed._index else packed.schema.names[1]]).tolist()
    )
    assert labels == set(range(20)) - {bad.index for bad in report.bad}


def test_flipped_bytes_are_seen(folder: Path, tmp_path: Path) -> None:
    dalipipe.pack(dalipipe.ImageFolder(folder), tmp_path / "out", format="tiled", shard_size="1GiB")
    shard = tmp_path / "out" / "shard-000000.tar"
    data = bytearray(shard.read_bytes())
    index = np.load(tmp_path / "out" / "index" / "image.offset.npy")
    data[index[9] + 700] ^= 1
    shard.write_bytes(data)
    packed = Packed(tmp_path / "out")
    loader = dalipipe.DataLoader(packed, 8, policy=POLICY, seed=0, device="cpu", on_error="skip")
    assert sum(len(batch.label) for batch in loader) == 39
    (bad,) = loader.bad_samples
    assert bad.index == 9 and "checksum of 'image' does not match" in bad.cause
    unchecked = dalipipe.DataLoader(
        Packed(tmp_path / "out", verify=False), 8, policy=POLICY, device="cpu", on_error="skip"
    )
    assert sum(len(batch.label) for batch in unchecked) == 40
    dalipipe.pack(dalipipe.ImageFolder(folder), tmp_path / "raw", format="raw", shard_size="1GiB")
    raw = tmp_path / "raw" / "shard-000000.tar"
    data = bytearray(raw.read_bytes())
    data[np.load(tmp_path / "raw" / "index" / "image.offset.npy")[3] + 5] ^= 1
    raw.write_bytes(data)
    errors = Packed(tmp_path / "raw", verify=True).read(np.arange(8)).errors
    assert list(errors) == [3] and not Packed(tmp_path / "raw").read(np.arange(8)).errors


def test_damaged_packs_say_so(folder: Path, tmp_path: Path) -> None:
    dalipipe.pack(dalipipe.ImageFolder(folder), tmp_path / "out", format="raw")
    out = tmp_path / "out"

    def broken(change: Callable[[Path], None]) -> Path:
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(out, copy)
        change(copy)
        return copy

    manifest = json.loads((out / "pack.json").read_text())
    for change, message in (
        (lambda p: (p / "pack.json").write_text("{"), "is damaged"),
        (lambda p: (p / "pack.json").write_text(json.dumps({**manifest, "version": 99})), "of version 99"),
        (lambda p: (p / "pack.json").write_text(json.dumps({"version": 1})), "does not make sense"),
        (lambda p: (p / "index" / "label.npy").unlink(), r"label\.npy is missing"),
        (lambda p: (p / "index" / "label.npy").write_bytes(b"abc"), "is damaged"),
        (lambda p: np.save(p / "index" / "label.npy", np.zeros(3)), "has 3 rows"),
    ):
        with pytest.raises(dalipipe.PackError, match=message):
            Packed(broken(change))
    short = broken(lambda p: os.truncate(p / "shard-000000.tar", 5000))
    with pytest.raises(dalipipe.PackError, match="it is not whole"):
        Packed(short).read(np.arange(3))
    gone = Packed(broken(lambda p: (p / "shard-000000.tar").unlink()))
    with pytest.raises(FileNotFoundError):
        gone.read(np.arange(3))


def test_packs_are_picklable_and_hold_no_secrets(folder: Path, tmp_path: Path) -> None:
    import pickle

    dalipipe.pack(dalipipe.ImageFolder(folder), tmp_path / "out", format="raw")
    packed = Packed(tmp_path / "out")
    again = pickle.loads(pickle.dumps(packed))
    assert again.fingerprint() == packed.fingerprint() and repr(again) == "Packed(40 records, raw, image, label)"
    assert str(tmp_path) not in (tmp_path / "out" / "pack.json").read_text()
    assert packed.describe(3).endswith("shard-000000.tar:000000003")


# --- on a cluster, from the command line ------------------------------------------------------------------------------


@pytest.fixture
def cluster():
    """Two workers on this machine."""
    ray = pytest.importorskip("ray")
    environment = {"env_vars": {"PYTHONPATH": os.path.dirname(__file__)}}  # where `Suicidal` is
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False, runtime_env=environment)
    yield ray
    ray.shutdown()


@pytest.mark.slow
def test_a_cluster_writes_the_same_bytes(folder: Path, tmp_path: Path, cluster: Any) -> None:
    """And a worker that is lost costs nothing but time."""
    source = dalipipe.ImageFolder(folder)
    options: dict[str, Any] = {"policy": POLICY, "split_at": 1, "copies": 2, "seed": 5, "shard_size": "15KiB"}
    dalipipe.pack(source, tmp_path / "here", **options)
    seen: list[int] = []
    report = dalipipe.pack(
        Suicidal(source, tmp_path / "killed"),
        tmp_path / "there",
        ray=True,
        threads=1,
        progress=lambda now: seen.append(now.shards),
        **options,
    )
    assert (tmp_path / "killed").exists()
    assert report.shards > 4 and seen == list(range(report.shards + 1))
    trees = [digest_of(tmp_path / name) for name in ("here", "there")]
    assert trees[0] == trees[1]


class Suicidal(dalipipe.Source):
    """Kills the process that reads record 13, the first time."""

    def __init__(self, source: dalipipe.ImageFolder, mark: Path) -> None:
        self._source, self._mark, self._owner = source, mark, os.getpid()
        self.schema, self.classes = source.schema, source.classes

    def __len__(self) -> int:
        return len(self._source)

    def read(self, indices: np.ndarray, **kw: Any) -> Any:
        if 13 in indices and os.getpid() != self._owner and not self._mark.exists():
            self._mark.write_text("")
            os.kill(os.getpid(), 9)
        return self._source.read(indices, **kw)

    def fingerprint(self) -> str:
        return self._source.fingerprint()

    def describe(self, index: int) -> str:
        return self._source.describe(index)

    def files(self) -> Any:
        return self._source.files()


@pytest.mark.slow
def test_errors_on_a_cluster_are_those_of_one_machine(folder: Path, tmp_path: Path, cluster: Any) -> None:
    for path in folder.rglob("*.jpg"):  # so many that it shows in whatever order shards get done
        path.write_bytes(path.read_bytes() if "class_0" in str(path) else b"no picture")
    with pytest.raises(dalipipe.TooManyBadSamplesError, match=r"max_bad=0\.1"):
        dalipipe.pack(dalipipe.ImageFolder(folder), tmp_path / "out", ray=True, threads=1, shard_size="10KiB")


def test_without_ray_the_remedy_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'dalipipe\[ray\]'"):
        dalipipe.pack(dalipipe.ImageFolder(folder), tmp_path / "out", ray=True)


def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dalipipe", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}, timeout=200)


def test_on_the_command_line(folder: Path, tmp_path: Path) -> None:
    source = dalipipe.ImageFolder(folder)
    Path(source.paths[3]).write_bytes(b"no picture")
    done = run("pack", folder, tmp_path / "out", "--shard-size", "30KiB")
    assert done.returncode == 0, done.stderr
    for text in ("39", "of the", "listed in", "not a picture", "png files"):
        assert text in done.stdout
    assert "39 of 40 records" in done.stderr and "1 bad" in done.stderr
    again = run("pack", folder, tmp_path / "out")
    assert again.returncode == 2 and "holds a pack: resume (--resume) continues it" in again.stderr
    assert "Traceback" not in again.stderr
    done = run(
        "pack",
        folder,
        tmp_path / "raw",
        "--policy",
        "digits_train",
        "--size",
        "32",
        "--split-at",
        "2",
        "--copies",
        "2",
        "--seed",
        "3",
    )
    assert done.returncode == 0, done.stderr
    assert "39, 2 copies each" in done.stdout
    assert len(Packed(tmp_path / "raw")) == 39
    assert "no /no/such" in run("pack", "/no/such", tmp_path / "x").stderr
    done = run(
        "preview", tmp_path / "out", "--out", tmp_path / "preview.png", "--size", "32", "--samples", "2", "--n", "2"
    )
    assert done.returncode == 0 and (tmp_path / "preview.png").exists()


@pytest.mark.slow
def test_training_takes_packs_for_folders(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    for part in ("train", "val"):
        shutil.copytree(folder, root / part)
    assert run("pack", root, tmp_path / "packed").returncode == 0
    ended = []
    for data in (root, tmp_path / "packed"):
        out = tmp_path / f"run-{data.name}"
        done = run("train", data, "--epochs", "1", "--size", "32", "--batch-size", "8", "--out", out, "--device", "cpu")
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        ended.append(
            [{key: value for key, value in line.items() if "loss" in key or "accuracy" in key} for line in lines]
        )
    assert ended[0] == ended[1]
    done = run("pack", root, tmp_path / "front", "--policy", "digits_train")
    assert done.returncode == 2 and "one by one" in done.stderr


# --- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kw, message",
    [
        ({"format": "zip"}, "format must be one of tiled, copy, raw, got 'zip'"),
        ({"copies": 0}, r"copies must be a whole number in 1\.\.65536, got 0"),
        ({"copies": 2}, "2 copies would all be the same"),
        ({"split_at": 1}, "there is none: give policy="),
        ({"policy": POLICY, "split_at": 9}, r"1 to 3, got 9"),
        ({"policy": POLICY}, "Normalize.*belongs to what is done in training"),
        ({"policy": POLICY, "split_at": 1, "format": "copy"}, 'format "copy" keeps files as they are, and a policy'),
        ({"policy": POLICY, "split_at": 1, "resize": 50}, "resize goes without a policy"),
        ({"resize": 0}, "resize must be px of the shorter side"),
        ({"resize": 9, "format": "copy"}, "resize changes them"),
        ({"quality": 101}, r"quality must be a whole number in 1\.\.100"),
        ({"shard_size": "many"}, "expected a number of bytes, such as 512MiB or 2GB, got 'many'"),
        ({"resume": True, "overwrite": True}, "give one of them"),
    ],
)
def test_bad_arguments_are_named(folder: Path, tmp_path: Path, kw: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dalipipe.pack(dalipipe.ImageFolder(folder), tmp_path / "out", **kw)
    assert not (tmp_path / "out" / "pack.json").exists()


def test_bad_targets_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="local folder, got s3://bucket/out"):
        dalipipe.pack(dalipipe.ImageFolder(folder), "s3://bucket/out")
    with pytest.raises(FileNotFoundError, match="no pack, or was not finished"):
        Packed(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        dalipipe.pack(dalipipe.ImageFolder(folder), tmp_path / "file")


@pytest.mark.parametrize(
    "text, nbytes", [("512MiB", 512 << 20), ("2 GB", 2 * 10**9), (77, 77), ("1.5k", 1500), ("3m", 3 * 10**6)]
)
def test_bytes(text: Any, nbytes: int) -> None:
    assert parse_bytes(text) == nbytes


@given(st.integers(1, 5000), st.integers(1, 900), st.integers(1, 5))
def test_every_record_is_in_one_shard_of_every_copy(records: int, per_shard: int, copies: int) -> None:
    plan = Plan(Settings("raw", None, 0, copies, None, 95, 64, False, 1), "", "", records, per_shard)
    found = [(copy, record) for shard in range(plan.shards) for copy, part in [plan.range_of(shard)] for record in part]
    assert found == [(copy, record) for copy in range(copies) for record in range(records)]
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
