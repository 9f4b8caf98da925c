"""Samples kept in memory: the same batches as without, read and decoded once, by all processes of a node together."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import gc
import itertools
import math
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
import types
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import picture
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from jpegs import jpeg, tiled
from PIL import Image

import dalipipe
from dalipipe.cache import SampleCache, meeting, samples, store
from dalipipe.cache import arena as arenas
from dalipipe.cache import device as device_memory
from dalipipe.cache.available import available_bytes
from dalipipe.ops import image as ops
from dalipipe.ops.mix import MixUp
from dalipipe.sizes import format_bytes
from dalipipe.tracks import decoding

POLICY = dalipipe.Policy([ops.RandomResizedCrop(24), ops.HorizontalFlip(), ops.Normalize()])
POLICIES = {
    "crop": POLICY,
    "warp": dalipipe.Policy([ops.Rotate(30), ops.RandomResizedCrop(24), ops.ColorJitter(0.2, 0.2, 0.2)]),
    "mix": dalipipe.Policy([ops.RandomResizedCrop(24), ops.Normalize(), MixUp(0.8)]),
    "python": dalipipe.Policy([ops.RandomResizedCrop(40), dalipipe.PythonStep(Image.Image.copy), ops.CenterCrop(24)]),
    "python first": dalipipe.Policy([dalipipe.PythonStep(Image.Image.copy), ops.CenterCrop(24)]),
}
N = 60


@pytest.fixture(autouse=True)
def _own_meetings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tests, and what they start, meet nobody else; and they leave nothing behind."""
    folder = tmp_path / "meetings"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    yield
    gc.collect()
    assert not store._stores, "a loader was not closed"
    assert not in_shared_memory()
    assert not list(folder.glob("dalipipe-*/*"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """60 pictures of many kinds and sizes in 3 classes."""
    root = tmp_path / "pictures"
    samplings = ["4:4:4", "4:2:0", "4:2:2"]
    for i in range(N):
        path = root / f"class_{i % 3}" / f"{i:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if i % 10 == 9:
            Image.fromarray(picture(40 + i, 50, seed=i)).save(path.with_suffix(".png"))
        elif i % 10 == 8:
            Image.fromarray(picture(30 + i, 60, seed=i)).save(path, progressive=True)
        elif i % 10 == 7:
            Image.fromarray(picture(30 + i, 60, seed=i)[..., 0]).save(path)
        else:
            path.write_bytes(jpeg(32 + i, 100 - i, i, samplings[i % 3]))
    return root


def in_shared_memory() -> list[str]:
    """What is ours there; others may use it, too."""
    return [name for name in os.listdir("/dev/shm") if "dalipipe" in name]


def loader(source: Any, cache: Any = "ram", batch: int = 16, policy: Any = POLICY, **kw: Any) -> dalipipe.DataLoader:
    options: dict[str, Any] = {"shuffle": True, "seed": 3, "device": "cpu", "num_workers": 2, **kw}
    return dalipipe.DataLoader(source, batch, policy=policy, cache=cache, **options)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(np.array_equal(a, b)) if isinstance(a, np.ndarray) else bool(a == b)


def assert_same(cached: dalipipe.DataLoader, plain: dalipipe.DataLoader, epochs: int = 3) -> None:
    for epoch in range(epochs):
        for found, expected in zip(cached, plain, strict=True):
            assert found._fields == expected._fields
            np.testing.assert_array_equal(found.indices, expected.indices)
            for name in found._fields:
                assert same(getattr(found, name), getattr(expected, name)), (epoch, name)


def check(source: Any, cache_bytes: Any = None, epochs: int = 3, **kw: Any) -> str:
    """Batches are the same as without a cache; what `explain` says of it in the end."""
    cached = loader(source, cache_bytes=cache_bytes, **kw)
    plain = loader(source, **{**kw, "cache": None})
    assert_same(cached, plain, epochs)
    said = cached.explain(samples=1).splitlines()[-1]
    cached.close()
    plain.close()
    return said


class Decoded:
    """Counts the pictures that decoders are given, and the samples that sources are asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pictures = 0
        make = decoding.make_decoder

        def made(*args: Any, **kw: Any) -> Any:
            decoder = make(*args, **kw)
            submit = decoder.submit

            def counted(encoded: Any, headers: Any, roi: Any) -> None:
                self.pictures += len(encoded)
                submit(encoded, headers, roi)

            decoder.submit = counted  # type: ignore[method-assign]
            return decoder

        monkeypatch.setattr(decoding, "make_decoder", made)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Decoded:
    return Decoded(monkeypatch)


class Counting(dalipipe.ImageFolder):
    """Notes down which samples were read."""

    def __init__(self, *args: Any, **kw: Any) -> None:
        super().__init__(*args, **kw)
        self.reads: list[int] = []

    def read(self, indices: np.ndarray, **kw: Any) -> Any:
        if "allocate" in kw:  # not those that the cache looks at before it begins
            self.reads += indices.tolist()
        return super().read(indices, **kw)


# The same batches ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", ["native", "dali", "pillow"])
@pytest.mark.parametrize("cache_bytes, said", [(None, "decoded, 60 of 60"), ("400KiB", "encoded, 60 of 60")])
def test_the_same_batches_with_every_decoder(folder: Path, decoder: str, cache_bytes: Any, said: str) -> None:
    assert f"cache: ram, {said} samples" in check(dalipipe.ImageFolder(folder), cache_bytes, decoder=decoder)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("cache_bytes", [None, "400KiB", "100KiB"])
def test_the_same_batches_with_every_kind_of_policy(folder: Path, policy: str, cache_bytes: Any) -> None:
    check(dalipipe.ImageFolder(folder), cache_bytes, policy=POLICIES[policy])


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(16, 2, 0, False)  # less than a page
@given(st.integers(1, 70), st.integers(0, 1 << 20), st.integers(0, 99), st.sampled_from([True, False]))
def test_the_same_batches_whatever_fits(folder: Path, batch: int, nbytes: int, seed: int, drop_last: bool) -> None:
    batch = min(batch, N)
    check(dalipipe.ImageFolder(folder), 1 + nbytes, epochs=2, batch=batch, seed=seed, drop_last=drop_last)


@pytest.mark.parametrize("cache_bytes", [None, "400KiB", "60KiB"])
def test_masks_move_along(tmp_path: Path, cache_bytes: Any) -> None:
    for i in range(30):
        for name, pixels in (("images", picture(40 + i, 60, i)), ("masks", picture(40 + i, 60, i)[..., 0] // 32)):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    source = dalipipe.ImageMasks(tmp_path / "images", tmp_path / "masks")
    policy = dalipipe.Policy([ops.RandomResizedCrop(24), ops.HorizontalFlip(), ops.Rotate(20)])
    check(source, cache_bytes, policy=policy)


class Boxed:
    """Items with boxes, points, a mask as an array, an array, a text; some have no boxes."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, i: int) -> dict[str, Any]:
        from torchvision import tv_tensors

        h, w = 40 + i, 50
        boxes = torch.tensor([[2.0, 3.0, 20.0 + j, 30.0] for j in range(i % 4)]).reshape(-1, 4)
        return {
            "image": Image.fromarray(picture(h, w, i)),
            "mask": tv_tensors.Mask(torch.from_numpy(picture(h, w, i)[..., 0] // 64)),
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(h, w)),
            "labels": torch.arange(len(boxes)),
            "area": np.array([h, w], np.float32),
            "name": f"picture {i}",
        }


@pytest.mark.parametrize("cache_bytes", [None, "80KiB"])
def test_boxes_and_objects_come_along(cache_bytes: Any) -> None:
    policy = dalipipe.Policy([ops.HorizontalFlip(), ops.Resize((30, 30)), ops.Rotate(10)])
    said = check(dalipipe.MapDataset(Boxed()), cache_bytes, batch=5, policy=policy)
    assert "decoded" in said and ("24 of 24" in said) == (cache_bytes is None)


def test_copies_of_a_pack_are_kept_each(folder: Path, tmp_path: Path, decoded: Decoded) -> None:
    dalipipe.pack(
        dalipipe.ImageFolder(folder), tmp_path / "pack", policy=POLICY, split_at=1, copies=2, seed=5, format="tiled"
    )
    source = dalipipe.Packed(tmp_path / "pack")
    assert "decoded, 120 of 120" in check(source, epochs=2)
    both = decoded.pictures
    check(source, epochs=5)
    assert decoded.pictures - both == 2 * N + 5 * N, "with, and without a cache"
    repeated = loader(source, shuffle=False, sampler=dalipipe.orders.Repeated(2))
    plain = loader(source, None, shuffle=False, sampler=dalipipe.orders.Repeated(2))
    assert_same(repeated, plain)
    repeated.close()
    plain.close()


def test_tiles_and_raw_packs(folder: Path, tmp_path: Path) -> None:
    source = dalipipe.ImageFolder(folder)
    for format, said in (("tiled", "decoded, 60 of 60"), ("raw", "not needed")):
        dalipipe.pack(source, tmp_path / format, format=format)
        assert said in check(dalipipe.Packed(tmp_path / format))
    assert "decoded, 60 of 60" in check(dalipipe.Packed(tmp_path / "raw", verify=True))


def test_tar_shards_and_tables(folder: Path, tmp_path: Path) -> None:
    import pyarrow as pa

    source = dalipipe.ImageFolder(folder)
    dalipipe.pack(source, tmp_path / "copy", format="copy", shard_size="60KiB")
    for cache_bytes, said in ((None, "decoded, 60 of 60"), ("300KiB", "encoded, 60 of 60")):
        assert said in check(dalipipe.TarShards(str(tmp_path / "copy" / "shard-*.tar")), cache_bytes)
        files = [Path(path).read_bytes() for path in source.paths]
        texts = [f"picture {i}" * (i % 3) for i in range(N)]
        table = pa.table({"image": files, "label": source.labels, "weight": np.arange(N) / 7, "text": texts})
        assert said in check(dalipipe.Table(table), cache_bytes)


def test_arrays_are_not_copied() -> None:
    source = dalipipe.Arrays(np.stack([picture(30, 40, i) for i in range(20)]), np.arange(20))
    assert check(source, batch=6) == "cache: ram, not needed: the pictures are in memory, or mapped, already"
    numbers = dalipipe.DataLoader(dalipipe.Arrays(labels=np.arange(9)), 3, device="cpu", cache="ram")
    assert "nothing to keep" in numbers.explain() and len(list(numbers)) == 3
    numbers.close()


def test_photographs(photographs: list[Path], decoded: Decoded) -> None:
    source = dalipipe.ImageFolder.from_samples([(str(path), i) for i, path in enumerate(photographs)])
    policy = dalipipe.recipes.imagenet_train(96)
    assert "decoded" in check(source, policy=policy, batch=50)
    assert decoded.pictures == (1 + 3) * len(photographs)
    check(source, "8MiB", policy=policy, batch=50, epochs=2)


# Read and decoded once ----------------------------------------------------------------------------------------------


def test_samples_are_read_and_decoded_once(folder: Path, decoded: Decoded) -> None:
    source = Counting(folder)
    cached = loader(source)
    for _ in range(4):
        assert sum(len(batch.image) for batch in cached) == N
    assert sorted(source.reads) == list(range(N)) and decoded.pictures == N
    stats = cached.stats()
    assert stats["cached_samples"] == N
    assert stats["cached_bytes"] == 3 * sum(int(np.prod(Image.open(path).size)) for path in source.paths)
    cached.close()
    assert cached.stats()["cached_samples"] == cached.stats()["cached_bytes"] == 0
    source.reads.clear()
    encoded = loader(source, cache_bytes="400KiB")
    for _ in range(4):
        assert sum(len(batch.image) for batch in encoded) == N
    assert sorted(source.reads) == list(range(N)) and decoded.pictures == 5 * N
    encoded.close()


def test_what_does_not_fit_is_read_as_before(folder: Path) -> None:
    source = Counting(folder)
    cached = loader(source, cache_bytes="100KiB")
    for _ in range(3):
        list(cached)
    counts = np.bincount(source.reads, minlength=N)
    kept = int((counts == 1).sum())
    assert 10 < kept < N - 10 and set(counts.tolist()) == {1, 3}
    assert f"encoded, {kept} of 60 samples" in cached.explain()
    cached.close()


def test_loaders_of_one_process_share(folder: Path, decoded: Decoded) -> None:
    first, second = loader(dalipipe.ImageFolder(folder)), loader(dalipipe.ImageFolder(folder), seed=9, batch=7)
    both = zip(first, loader(dalipipe.ImageFolder(folder), None), strict=True)
    assert all(same(a.image, b.image) for a, b in both)
    decoded.pictures = 0
    plain = loader(dalipipe.ImageFolder(folder), None, seed=9, batch=7, decoder="pillow")
    first.close()
    assert_same(second, plain, epochs=1)
    assert decoded.pictures == 2 * N, "the first one was closed: the second had to begin anew"
    third = loader(dalipipe.ImageFolder(folder))
    list(third)
    assert decoded.pictures == 2 * N
    second.close()
    third.close()


def test_other_pictures_under_the_same_names_are_others(folder: Path, tmp_path: Path) -> None:
    import shutil

    other = tmp_path / "elsewhere" / "pictures"
    shutil.copytree(folder, other)
    a = loader(dalipipe.ImageFolder(folder))
    list(a)
    for path in other.rglob("*.jpg"):
        Image.fromarray(picture(50, 50, 1000)).save(path)
    assert dalipipe.ImageFolder(folder).fingerprint() == dalipipe.ImageFolder(other).fingerprint()
    check(dalipipe.ImageFolder(other), epochs=1)
    os.rename(folder, folder.with_name("away"))
    os.rename(other, folder)
    check(dalipipe.ImageFolder(folder), epochs=1)
    a.close()


def test_caches_given_back_in_the_middle_of_opening_another(folder: Path) -> None:
    """A collection of garbage may come anywhere."""
    dropped = loader(dalipipe.ImageFolder(folder))
    list(dropped)
    (key,) = store._stores

    def make() -> Any:
        nonlocal dropped
        del dropped
        gc.collect()
        assert list(store._stores) == [key]
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        store.acquire("another", make)
    other = loader(dalipipe.ImageFolder(folder), cache_bytes="1MiB")
    list(other)
    assert len(store._stores) == 1 and key not in store._stores
    other.close()


# The loader's contract ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_error", ["skip", "substitute"])
@pytest.mark.parametrize("cache_bytes", [None, "400KiB"])
def test_bad_samples_never_get_in(folder: Path, on_error: Any, cache_bytes: Any) -> None:
    files = sorted(folder.rglob("*.jpg"))
    files[3].write_bytes(b"no picture")
    files[10].write_bytes(files[10].read_bytes()[:-200])
    source = dalipipe.ImageFolder(folder)
    os.unlink(files[20])
    cached, plain = loader(source, on_error=on_error, cache_bytes=cache_bytes), loader(source, None, on_error=on_error)
    assert_same(cached, plain)
    assert {bad.index: bad.cause for bad in cached.bad_samples} == {bad.index: bad.cause for bad in plain.bad_samples}
    assert len(cached.bad_samples) == 3 and "57 of 60 samples" in cached.explain()
    cached.close()
    plain.close()


def test_a_sample_with_a_bad_mask_does_not_get_in(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        for i in range(20):
            size = (41, 50) if (name, i) == ("masks", 7) else (40, 50)
            pixels = picture(*size, i)
            Image.fromarray(pixels if name == "images" else pixels[..., 0] // 32).save(tmp_path / name / f"{i}.png")
    source = dalipipe.ImageMasks(tmp_path / "images", tmp_path / "masks")
    cached = loader(source, on_error="skip", batch=6, policy=dalipipe.Policy([ops.CenterCrop(24)]))
    for _ in range(2):
        list(cached)
    assert [bad.index for bad in cached.bad_samples] == [source.image_paths[:].index(cached.bad_samples[0].where)]
    assert "19 of 20 samples" in cached.explain()
    cached.close()


def test_the_first_bad_sample_raises(folder: Path) -> None:
    path = sorted(folder.rglob("*.jpg"))[0]
    path.write_bytes(b"no picture")
    cached = loader(dalipipe.ImageFolder(folder), shuffle=False)
    for _ in range(2):
        with pytest.raises(dalipipe.SampleError, match=r"000\.jpg.*not a picture"):
            list(cached)
    cached.close()


def test_resume_and_pickling(folder: Path) -> None:
    source = dalipipe.ImageFolder(folder)
    plain, cached = loader(source, None), loader(source)
    expected = [[batch.image.clone() for batch in plain] for _ in range(2)]
    for number, batch in enumerate(cached):
        assert torch.equal(batch.image, expected[0][number])
        if number == 1:
            break
    state = cached.state_dict()
    copy = pickle.loads(pickle.dumps(cached))
    other = loader(source)
    other.load_state_dict(state)
    for continued in (copy, other, cached):
        if continued is cached:
            continued.load_state_dict(state)
        rest = [batch.image.clone() for batch in continued]
        assert len(rest) == len(expected[0]) - 2 and all(map(torch.equal, rest, expected[0][2:]))
        assert all(map(torch.equal, (batch.image for batch in continued), expected[1]))
        continued.close()
    plain.close()


def test_two_iterators_and_early_breaks(folder: Path) -> None:
    source = dalipipe.ImageFolder(folder)
    cached, plain = loader(source), loader(source, None)
    for _ in range(10):
        for number, _batch in enumerate(cached):
            if number == 1:
                break
    cached.set_epoch(4)
    plain.set_epoch(4)
    one, two, expected = iter(cached), iter(cached), list(plain)
    cached.set_epoch(4)
    first = next(one)
    assert torch.equal(first.image, expected[0].image)
    cached.close()
    del one, two
    cached.set_epoch(4)
    assert all(torch.equal(a.image, b.image) for a, b in zip(cached, expected, strict=True))
    cached.close()
    plain.close()


def test_close_gives_the_memory_back(folder: Path) -> None:
    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count("memfd:dalipipe-cache")

    def opened() -> int:
        links = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        return sum("memfd:dalipipe-cache" in link for link in links)

    cached = loader(dalipipe.ImageFolder(folder))
    batches = list(cached)
    assert mapped() == 1
    iterator = iter(cached)
    next(iterator)
    cached.close()
    del iterator
    gc.collect()
    assert mapped() == 0 and opened() == 0
    assert len(batches) == 4
    dropped = loader(dalipipe.ImageFolder(folder))
    list(dropped)
    assert mapped() == 1
    del dropped
    gc.collect()
    assert mapped() == 0 and opened() == 0


def test_pictures_outlive_the_loader_that_lends_them(folder: Path) -> None:
    """A batch on its way holds the memory that it reads."""
    cached = loader(dalipipe.ImageFolder(folder), policy=dalipipe.Policy([ops.CenterCrop(24)]))
    list(cached)
    cache: Any = cached._opened_cache()
    column = cache.read(np.arange(8), threads=1, allocate=None).columns["image"]
    before = [column[row].copy() for row in range(8)]
    memory = weakref.ref(column.owner)
    cached.close()
    gc.collect()
    assert all((column[row] == before[row]).all() for row in range(8))
    del column
    gc.collect()
    assert memory() is None


# Processes ----------------------------------------------------------------------------------------------------------

RANK = """
import os, signal, sys, time
import numpy as np, torch
import dalipipe
from dalipipe.ops import image as ops

root, rank, world, epochs, then = sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5]

class Counting(dalipipe.ImageFolder):
    count = 0
    def read(self, indices, **kw):
        if "allocate" in kw:
            Counting.count += len(indices)
        return super().read(indices, **kw)

if __name__ == "__main__":
    policy = dalipipe.Policy([ops.RandomResizedCrop(24), ops.HorizontalFlip(), ops.Normalize()])
    make = dict(shuffle=True, policy=policy, seed=3, device="cpu", rank=rank, world_size=world, num_workers=1)
    cached = dalipipe.DataLoader(Counting(root), 5, cache="ram", cache_bytes="64MiB", **make)
    plain = dalipipe.DataLoader(dalipipe.ImageFolder(root), 5, **make)
    for epoch in range(epochs):
        for a, b in zip(cached, plain, strict=True):
            assert torch.equal(a.image, b.image) and torch.equal(a.label, b.label)
        print(epoch, Counting.count, cached.explain().splitlines()[-1], flush=True)
        if epoch == 0:
            sys.stdin.readline()  # all are at this point
    while then == "run":
        list(cached)
        cached.close()
    if then == "wait":
        time.sleep(600)
    cached.close()
"""


def start(folder: Path, rank: int, world: int, epochs: int = 1, then: str = "end") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RANK, str(folder), *map(str, (rank, world, epochs)), then]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)


def line_of(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline()


def go_on(child: subprocess.Popen[str]) -> None:
    """After the first epoch."""
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()


def finish(child: subprocess.Popen[str]) -> list[str]:
    out, errors = child.communicate(timeout=200)
    assert child.returncode == 0, errors
    return out.splitlines()


def test_ranks_of_a_node_decode_a_data_set_once(folder: Path) -> None:
    ranks = [start(folder, rank, 2, epochs=3) for rank in range(2)]
    lines = [line_of(rank) for rank in ranks]
    assert all(line.startswith("0 30 cache: ram, decoded") for line in lines), lines
    for rank in ranks:
        go_on(rank)
    for rank in ranks:
        assert [line.split()[:2] for line in finish(rank)] == [["1", "30"], ["2", "30"]]


def test_who_comes_late_finds_everything_though_the_first_has_gone(folder: Path) -> None:
    first = start(folder, 0, 1)
    assert line_of(first).startswith("0 60 ")
    second = start(folder, 0, 1)
    assert line_of(second).startswith("0 0 ")
    go_on(first)
    finish(first)
    third = start(folder, 0, 1)
    assert line_of(third).startswith("0 0 ")
    for child in (second, third):
        go_on(child)
        finish(child)


def test_processes_that_keep_the_same_samples_at_once(folder: Path) -> None:
    children = [start(folder, 0, 1, epochs=2) for _ in range(3)]
    for child in children:
        go_on(child)
    for child in children:
        assert "60 of 60 samples" in finish(child)[-1]


def test_what_a_killed_process_was_writing_is_read_as_before(folder: Path) -> None:
    cached, plain = loader(dalipipe.ImageFolder(folder)), loader(dalipipe.ImageFolder(folder), None)
    cached.explain()
    claimed = cached._opened_cache()._opened(1)._index  # type: ignore[union-attr]
    claimed["state"][5:15] = 1
    assert_same(cached, plain)
    assert "50 of 60 samples" in cached.explain()
    cached.close()
    plain.close()


@pytest.mark.parametrize(
    "number, then", [(signal.SIGKILL, "run"), (signal.SIGTERM, "wait"), (signal.SIGTERM, "run"), (signal.SIGINT, "run")]
)
def test_nothing_is_left_behind_a_killed_process(folder: Path, number: signal.Signals, then: str) -> None:
    child = start(folder, 0, 1, epochs=1, then=then)
    assert "60 of 60" in line_of(child)
    go_on(child)
    time.sleep(0.2)
    child.send_signal(number)
    child.communicate(timeout=200)
    assert child.returncode != 0
    assert not in_shared_memory()
    meeting.tidy()
    assert not os.listdir(meeting._folder())


def _in_a_child(cached: Any, expected: list[torch.Tensor], results: Any) -> None:
    cached.set_epoch(0)
    good = all(torch.equal(batch.image, image) for batch, image in zip(cached, expected, strict=True))
    results.put((good, cached.explain().splitlines()[-1]))
    cached.close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_fork_and_spawn(folder: Path, method: str) -> None:
    cached = loader(dalipipe.ImageFolder(folder), decoder="pillow", num_workers=1)
    expected = [batch.image.clone() for batch in cached]
    context: Any = multiprocessing.get_context(method)
    results = context.Queue()
    child = context.Process(target=_in_a_child, args=(cached, expected, results))
    child.start()
    good, said = results.get(timeout=200)
    child.join(timeout=200)
    assert good and child.exitcode == 0 and "60 of 60 samples" in said
    cached.set_epoch(0)
    assert all(torch.equal(batch.image, image) for batch, image in zip(cached, expected, strict=True))
    cached.close()


# Memory -------------------------------------------------------------------------------------------------------------


def test_memory_that_gets_short_ends_the_keeping(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arenas, "CHUNK_BYTES", 1 << 16)
    left = [arenas.SPARE_BYTES + (1 << 18)]

    def available() -> int:
        left[0] -= 1 << 16
        return left[0]

    monkeypatch.setattr(arenas, "available_bytes", available)
    said = check(dalipipe.ImageFolder(folder), "64MiB")
    assert "decoded" in said and "60 of 60" not in said and " 0 of 60" not in said, said


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOMEM])
def test_memory_that_cannot_be_had_ends_the_keeping(folder: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(arenas, "CHUNK_BYTES", 1 << 16)
    fallocate = os.posix_fallocate

    def scarce(descriptor: int, offset: int, nbytes: int) -> None:
        if offset > 1 << 17:
            raise OSError(number, os.strerror(number))
        fallocate(descriptor, offset, nbytes)

    monkeypatch.setattr(os, "posix_fallocate", scarce)
    said = check(dalipipe.ImageFolder(folder), "64MiB")
    assert "decoded" in said and "60 of 60" not in said and " 0 of 60" not in said, said


def test_memory_of_its_own_where_none_can_be_shared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: Any) -> int:
        raise OSError(errno.EPERM, "not allowed")

    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(os, "memfd_create", refused)
    said = check(dalipipe.ImageFolder(folder), "64MiB")
    assert "decoded, 60 of 60 samples" in said and "of 16 MiB" in said and "shared" not in said


def test_without_any_memory_everything_is_read_as_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: Any, **kw: Any) -> Any:
        raise OSError(errno.ENOMEM, "none")

    monkeypatch.setattr(store, "_new_arena", refused)
    assert "none: there is no memory for it" in check(dalipipe.ImageFolder(folder))


def test_a_folder_that_others_may_write_to_is_not_trusted(folder: Path) -> None:
    os.makedirs(meeting._folder(), mode=0o700)
    os.chmod(meeting._folder(), 0o777)
    assert "shared" not in check(dalipipe.ImageFolder(folder), epochs=1)


def test_a_meeting_with_nonsense_in_it(folder: Path) -> None:
    cached = loader(dalipipe.ImageFolder(folder))
    list(cached)
    (name,) = os.listdir(meeting._folder())
    path = Path(meeting._folder()) / name
    cached.close()
    with open(os.devnull) as other:
        path.write_text(f"1 1\n{os.getpid()} {other.fileno()}\nx y\n99999999999 5\n{os.getppid()} 0\n\0\xff")
        list(cached)
        assert "60 of 60 samples" in cached.explain() and path.read_text().startswith(f"{os.getpid()} ")
        cached.close()


def test_places_do_not_overlap() -> None:
    """Claimed by threads of two openings of the same memory, as processes would."""
    arena = arenas.HostArena.new_shared("test", 8 << 20, arenas.HEAD_BYTES)
    other = arenas.HostArena.attach(os.getpid(), arena.descriptor or 0, "test")
    assert other is not None and arenas.HostArena.attach(os.getpid(), arena.descriptor or 0, "another") is None
    found: list[tuple[int, int]] = []

    def claim(mine: arenas.HostArena, seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(200):
            nbytes = random.integers(1, 3000, random.integers(1, 20))
            with mine.exclusive():
                places = mine.claim(nbytes)
            found.extend(zip(places.tolist(), nbytes.tolist(), strict=False))

    threads = [threading.Thread(target=claim, args=(mine, i)) for i, mine in enumerate((arena, other, arena, other))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.sort()
    assert found[0][0] == arenas.HEAD_BYTES and arena.full and other.full
    assert all(at + nbytes == after for (at, nbytes), (after, _) in itertools.pairwise(found))
    assert sum(found[-1]) == arena.used_bytes <= 8 << 20
    arena.close()
    other.close()


def test_what_is_available_counts_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = available_bytes(tmp_path)
    assert machine > 1 << 28
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 200000\n")
    groups = Path("/proc/self/cgroup").read_text()
    assert available_bytes(tmp_path) == (500_000 if "0::" in groups else machine)
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(tmp_path) > 1 << 28
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("3000\n")
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text("4000\n")
    if ":memory:" in groups:
        assert available_bytes(tmp_path) == 0


@pytest.mark.parametrize(
    "wrong, error, message",
    [
        ({"cache": "disk"}, ValueError, 'cache must be "ram", "device" or None, got \'disk\''),
        ({"cache_bytes": 5}, ValueError, 'cache_bytes=5 goes with cache="ram"'),
        ({"cache": "ram", "cache_bytes": 2.5}, TypeError, 'a text as "8GiB", got 2.5'),
        ({"cache": "ram", "cache_bytes": "much"}, ValueError, "expected a number of bytes"),
        ({"cache": "ram", "cache_bytes": 0}, ValueError, "expected a number of bytes"),
    ],
)
def test_what_is_refused(wrong: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        dalipipe.DataLoader([1, 2], **wrong)


def test_sizes_for_people() -> None:
    sizes = [17, 2048, 3 << 20, int(3.1 * 2**30), 1010 << 20, 5 << 40]
    assert [format_bytes(n) for n in sizes] == ["17 bytes", "2 KiB", "3 MiB", "3.1 GiB", "1,010 MiB", "5 TiB"]


def test_a_cpus_device_is_its_ram(folder: Path) -> None:
    assert "cache: device, decoded, 60 of 60 samples" in check(dalipipe.ImageFolder(folder), cache="device")


# A CUDA device ------------------------------------------------------------------------------------------------------


@pytest.fixture
def device_on_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept on a device lies on the host, and the rest of the way is as for a device."""

    def uploaded(pictures: Any, device: Any, *, threads: int) -> Any:
        return dataclasses.replace(pictures, on_cuda=True)

    def view(address: int, shape: tuple[int, ...], owner: Any) -> torch.Tensor:
        kept = [chunk for chunk in owner if 0 <= address - chunk.data_ptr() < len(chunk)]
        start = address - kept[0].data_ptr()
        return kept[0][start : start + math.prod(shape)].view(shape)

    stream = types.SimpleNamespace(synchronize=lambda: None)
    monkeypatch.setattr(SampleCache, "_on_device", True)
    monkeypatch.setattr(device_memory, "on_cuda", view)
    monkeypatch.setattr(device_memory, "as_tensor", lambda pictures, row: torch.from_numpy(pictures[row].copy()))
    monkeypatch.setattr(device_memory, "CHUNK_BYTES", 100_000)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8 << 20, 16 << 20))
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: stream)
    for module in (samples, decoding):
        monkeypatch.setattr(module, "upload", uploaded)


@pytest.mark.parametrize("cache_bytes, kept", [(None, "60 of 60"), ("300KB", r"[1-5]\d of 60"), (1, "0 of 60")])
def test_the_way_of_a_device(folder: Path, device_on_host: None, decoded: Decoded, cache_bytes: Any, kept: str) -> None:
    said = check(dalipipe.ImageFolder(folder), cache_bytes, cache="device")
    assert re.search(rf"cache: device, decoded, {kept} samples", said), said
    if cache_bytes is None:
        assert "of 2 MiB" in said and decoded.pictures == (1 + 3) * N
    check(
        dalipipe.MapDataset(Boxed()),
        cache_bytes,
        batch=5,
        cache="device",
        policy=dalipipe.Policy([ops.Resize((30, 30))]),
    )
    arrays = dalipipe.Arrays(np.stack([picture(30, 40, i) for i in range(200)]), np.arange(200))
    said = check(arrays, cache_bytes, batch=30, cache="device")
    assert ("200 of 200" in said) == (cache_bytes is None)


@pytest.fixture
def tiles(folder: Path) -> Path:
    """The folder with its JPEGs as tiles, without the PNGs among them."""
    for path in folder.rglob("*"):
        if path.suffix == ".png":
            path.unlink()
        elif path.is_file():
            path.write_bytes(tiled(path.read_bytes()))
    return folder


@pytest.fixture
def queue_on_host(device_on_host: None, host_queue: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (device_memory, decoding):
        monkeypatch.setattr(module, "queue_of", lambda device: host_queue)


def test_tiles_are_kept_stripped_where_pixels_do_not_fit(
    tiles: Path, queue_on_host: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, counted = dalipipe.ImageFolder(tiles), Decoded(monkeypatch)
    for policy in POLICIES.values():
        said = check(source, "400KB", cache="device", policy=policy)
        assert re.search(r"cache: device, encoded, 54 of 54 samples, \d+ KiB of 391 KiB", said), said
    assert "cache: device, decoded, 54 of 54" in check(source, cache="device")
    monkeypatch.setattr(device_memory, "CHUNK_BYTES", 20_000)
    assert re.search(r"encoded, [1-4]\d of 54", check(source, "80KB", cache="device", epochs=4))
    counted.pictures = 0
    cached = loader(source, "device", cache_bytes="400KB")
    for _ in range(3):
        list(cached)
    cached.close()
    assert counted.pictures == 54  # those of the first epoch


def test_what_is_no_sound_file_of_tiles_is_read_each_time(
    tiles: Path, queue_on_host: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage below a crop might be met by the next; and what is no tiles is none."""
    paths = sorted(path for path in tiles.rglob("*.jpg"))
    monkeypatch.setattr(samples, "_LOOKED_AT", 2)  # so that none of these is seen beforehand
    damaged = bytearray(paths[20].read_bytes())
    begin = damaged.index(b"\xff\xda") + 14
    damaged[begin : begin + 30] = bytes(30)
    paths[20].write_bytes(damaged)
    paths[25].write_bytes(jpeg(60, 70))
    said = check(dalipipe.ImageFolder(tiles), "400KB", cache="device", on_error="substitute", max_bad=0.5)
    assert re.search(r"encoded, 5[0-2] of 54", said), said


def test_other_decoders_keep_pixels(tiles: Path, queue_on_host: None) -> None:
    source = dalipipe.ImageFolder(tiles)
    for decoder in ("pillow", "dali"):
        assert "decoded, " in check(source, "400KB", cache="device", decoder=decoder, epochs=2)


@pytest.mark.cuda
@pytest.mark.parametrize("cache_bytes", ["400KB", "80KB"])
def test_tiles_on_cuda(tiles: Path, cache_bytes: str) -> None:
    said = check(dalipipe.ImageFolder(tiles), cache_bytes, cache="device", device="cuda")
    assert ("encoded, 54 of 54" in said) == (cache_bytes == "400KB"), said


@pytest.mark.cuda
@pytest.mark.parametrize("cache", ["ram", "device"])
@pytest.mark.parametrize("cache_bytes", [None, "400KiB"])
@pytest.mark.parametrize("decoder", ["dali", "pillow"])
def test_on_cuda(folder: Path, decoded: Decoded, cache: Any, cache_bytes: Any, decoder: str) -> None:
    source = dalipipe.ImageFolder(folder)
    said = check(source, cache_bytes, cache=cache, device="cuda", decoder=decoder)
    if cache_bytes is None:
        assert "decoded, 60 of 60 samples" in said and decoded.pictures == (1 + 3) * N


@pytest.mark.cuda
@pytest.mark.parametrize("cache_bytes", [None, "20KiB"])
def test_arrays_are_uploaded_once(cache_bytes: Any) -> None:
    source = dalipipe.Arrays(np.stack([picture(30, 40, i) for i in range(20)]), np.arange(20))
    said = check(source, cache_bytes, cache="device", device="cuda", batch=6)
    assert ("20 of 20" in said) == (cache_bytes is None)


@pytest.mark.cuda
def test_the_devices_memory_is_given_back(folder: Path) -> None:
    cached = loader(dalipipe.ImageFolder(folder), "device", device="cuda")
    list(cached)
    before = torch.cuda.memory_allocated()
    cached.close()
    gc.collect()
    assert torch.cuda.memory_allocated() <= before - arenas.CHUNK_BYTES
