"""Arrays: what may be given, files that are mapped and not read, and what is told to whoever gives something else."""

from __future__ import annotations

import os
import pickle
import threading
import time
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dalipipe.records import Pictures
from dalipipe.sources import Arrays
from dalipipe.storage import Storage

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (20, 5, 7, 3), dtype=np.uint8)
LABELS = RNG.integers(0, 9, 20)


def same_records(source: Arrays, rows: list[int], **expected: np.ndarray) -> None:
    records = source.read(np.array(rows, np.int64), threads=2)
    assert not records.errors and tuple(records.columns) == source.schema.names == tuple(expected)
    for name, array in expected.items():
        column = records.columns[name]
        if isinstance(column, Pictures):
            assert len(column) == len(rows) and column.channels == source.schema.fields[0].channels
            for i, row in enumerate(rows):
                assert np.array_equal(column[i], array[row])
        else:
            np.testing.assert_array_equal(column, array[rows], strict=True)


# Columns -----------------------------------------------------------------------------------------------------------

numbers = st.sampled_from(["?", "u1", "i1", "<i2", ">i2", "<i4", "<i8", ">u4", "<f2", "<f4", ">f8", "<c8"])


@settings(deadline=None)
@given(numbers.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(max_dims=3, max_side=6))), st.data())
def test_columns_alone_behave_as_a_tensor_data_set(column: np.ndarray, data: st.DataObject) -> None:
    other = np.arange(len(column), dtype=np.float32)
    source = Arrays(features=column, target=other)
    assert len(source) == len(column) and [field.kind for field in source.schema.fields] == ["column", "column"]
    rows = data.draw(st.lists(st.integers(0, len(column) - 1), max_size=9))
    native = column.astype(column.dtype.newbyteorder("="))
    same_records(source, rows, features=native, target=other)
    got = source.read(np.array(rows, np.int64)).columns["features"]
    if rows and native.dtype.kind != "c":
        theirs = torch.utils.data.TensorDataset(torch.from_numpy(native))[rows][0]
        assert torch.equal(torch.from_numpy(got).nan_to_num(), theirs.nan_to_num())


def test_columns_beside_pictures_unpack_in_order() -> None:
    weight, box = RNG.random(20), RNG.integers(0, 5, (20, 4), dtype=np.int32)
    source = Arrays(IMAGES, LABELS.astype(np.uint8), weight=weight, box=torch.from_numpy(box))
    assert source.schema.names == ("image", "label", "weight", "box")
    same_records(source, [3, 3, 19, 0], image=IMAGES, label=LABELS, weight=weight, box=box)
    assert np.array_equal(source.labels, LABELS) and source.columns["label"] is source.labels
    same_records(Arrays(IMAGES, weight=weight), [1], image=IMAGES, weight=weight)
    same_records(Arrays(labels=LABELS), [1, 2], label=LABELS)
    assert repr(source) == "Arrays(20 pictures of 5×7×3, weight, box)"
    assert repr(Arrays(x=weight)) == "Arrays(20 records, x)"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"images": IMAGES, "x": np.zeros(19)}, ValueError, "20 images but 19 x"),
        ({"images": IMAGES, "labels": np.zeros(21)}, ValueError, "20 images but 21 labels"),
        ({"a": np.zeros(3), "b": np.zeros(2)}, ValueError, "3 a but 2 b"),
        ({"a": np.zeros((0, 3))}, ValueError, "at least one record"),
        ({"a": np.array(["x", "y"])}, TypeError, "column 'a' must be numbers that torch has, got <U1"),
        ({"a": np.zeros(2, np.longdouble)}, TypeError, "column 'a' must be numbers that torch has, got float128"),
        ({"a": np.array(["2020-01-01"], "M8[D]")}, TypeError, "column 'a' must be numbers"),
        ({"a": 3.0}, TypeError, "column 'a' must be one array of numbers, got float"),
        ({"image": IMAGES}, ValueError, "'image' cannot be a column's name"),
        ({"label": LABELS}, ValueError, "'label' cannot be a column's name"),
        ({"indices": LABELS}, ValueError, "'indices' cannot be a column's name"),
        ({"_x": LABELS}, ValueError, "'_x' cannot be a column's name"),
        ({"class": LABELS}, ValueError, "'class' cannot be a column's name"),
        ({}, TypeError, "images must be one array of numbers, got NoneType"),
    ],
)
def test_what_is_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Arrays(**arguments)


def test_fingerprint_tells_data_sets_apart() -> None:
    def changed(array: np.ndarray, row: int) -> np.ndarray:
        array = array.copy()
        array[row] += 1
        return array

    x = RNG.random((20, 3))
    sources = [
        Arrays(IMAGES),
        Arrays(IMAGES, LABELS),
        Arrays(IMAGES, changed(LABELS, 7)),
        Arrays(IMAGES, x=x),
        Arrays(IMAGES, y=x),
        Arrays(IMAGES, x=changed(x, 11)),
        Arrays(IMAGES, x=x.astype(np.float32)),
        Arrays(changed(IMAGES, 0), LABELS),
        Arrays(IMAGES[:, :, ::-1], LABELS),
        Arrays(IMAGES[:-1], LABELS[:-1]),
        Arrays(labels=LABELS),
        Arrays(x=LABELS),
    ]
    prints = [source.fingerprint() for source in sources]
    assert len(set(prints)) == len(prints)
    assert Arrays(np.asfortranarray(IMAGES), LABELS.astype(np.int16)).fingerprint() == prints[1]


def test_a_large_columns_fingerprint_is_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    large = np.lib.stride_tricks.as_strided(np.zeros(1), (1 << 40,), (0,))  # eight terabytes, were they there
    assert Arrays(x=large).fingerprint() != Arrays(x=large[1:]).fingerprint()


# Files -------------------------------------------------------------------------------------------------------------


def is_mapped(array: Any) -> bool:
    while isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
        array = array.base
    return isinstance(array, np.memmap)


def test_npy_files_are_mapped(tmp_path: Path) -> None:
    weight = RNG.random((20, 2)).astype(">f4")
    for name, array in {"x": IMAGES, "y": LABELS, "w": np.asfortranarray(weight)}.items():
        np.save(tmp_path / f"{name}.npy", array)
    source = Arrays.open(tmp_path / "x.npy", tmp_path / "y.npy", weight=tmp_path / "w.npy", classes=list("abcdefghi"))
    assert is_mapped(source.images) and is_mapped(source.columns["weight"])
    assert source.classes == list("abcdefghi")
    same_records(source, [0, 19, 4], image=IMAGES, label=LABELS, weight=weight.astype("<f4"))
    assert source.fingerprint() == Arrays(IMAGES, LABELS, weight=weight).fingerprint()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("names", [("images", "labels"), ("x_train", "y_train"), ("arr_0", "arr_1")])
def test_npz_members_by_their_usual_names(tmp_path: Path, compressed: bool, names: tuple[str, str]) -> None:
    weight = RNG.random(20)  # which comes to lie at an odd address
    save = np.savez_compressed if compressed else np.savez
    save(tmp_path / "d.npz", **{names[0]: IMAGES, names[1]: LABELS, "odd": np.zeros(3, np.uint8), "weight": weight})
    source = Arrays.open(tmp_path / "d.npz", weight="weight")
    assert is_mapped(source.images) == is_mapped(source.columns["weight"]) == (not compressed)
    same_records(source, [5, 0, 19], image=IMAGES, label=LABELS, weight=weight)


def test_npz_members_by_name(tmp_path: Path) -> None:
    grey = IMAGES[..., 0].copy()
    np.savez(tmp_path / "d.npz", train_images=grey, train_labels=LABELS, x=RNG.random(20))
    source = Arrays.open(tmp_path / "d.npz", images="train_images", labels="train_labels")
    same_records(source, [7], image=grey[..., None], label=LABELS)
    alone = Arrays.open(tmp_path / "d.npz", x="x", y="train_labels")
    assert alone.schema.names == ("x", "y")
    with pytest.raises(ValueError, match=r"d.npz has no member 'test_images'; it has train_images, train_labels, x"):
        Arrays.open(tmp_path / "d.npz", images="test_images")
    with pytest.raises(TypeError, match="images must be uint8"):
        Arrays.open(tmp_path / "d.npz")
    np.savez(tmp_path / "e.npz", a=grey)
    with pytest.raises(ValueError, match=r"e.npz has a; name its pictures by images="):
        Arrays.open(tmp_path / "e.npz")


def test_mapping_reads_nothing(tmp_path: Path) -> None:
    """A sparse file of 64 GB opens, and a batch of it costs a batch's memory."""
    shape = (1 << 18, 256, 341, 3)
    with open(tmp_path / "x.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + int(np.prod(shape)))
    tracemalloc.start()
    source = Arrays.open(tmp_path / "x.npy")
    pictures = source.read(RNG.integers(0, len(source), 64)).columns["image"]
    assert isinstance(pictures, Pictures) and not pictures[63].any()
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_gathering_columns_lets_other_threads_run() -> None:
    source = Arrays(x=np.zeros((200_000, 64), np.float32))
    rows = RNG.integers(0, 200_000, 300_000)
    gaps, done = [0.0], threading.Event()

    def run() -> None:
        last = time.perf_counter()
        while not done.is_set():
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    other = threading.Thread(target=run)
    other.start()
    before = len(gaps)
    start = time.perf_counter()
    source.read(rows)
    took_s, beats = time.perf_counter() - start, len(gaps) - before
    done.set()
    other.join()
    assert beats > 100 and max(gaps) < max(0.5 * took_s, 0.1)


@pytest.mark.parametrize("kind", ["npy", "npz", "view", "memmap"])
def test_mapped_arrays_travel_as_paths(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images = RNG.integers(0, 256, (500, 20, 20, 3), dtype=np.uint8)
    labels = np.arange(500)
    np.save(tmp_path / "x.npy", images)
    np.save(tmp_path / "y.npy", labels)
    np.savez(tmp_path / "d.npz", x=images, y=labels)
    monkeypatch.chdir(tmp_path)
    if kind == "npy":
        source = Arrays.open("x.npy", "y.npy")
    elif kind == "npz":
        source = Arrays.open("d.npz")
    elif kind == "view":
        source = Arrays(np.load("x.npy", mmap_mode="r")[400:0:-3, 2:9, ::-1, 1][..., None], labels[400:0:-3])
        images, labels = images[400:0:-3, 2:9, ::-1, 1][..., None], labels[400:0:-3]
    else:
        source = Arrays(np.load("x.npy", mmap_mode="r"), labels)
    packed = pickle.dumps(source)
    assert len(packed) < (200_000 if kind == "view" else 20_000)  # that view is made dense, which copies it
    monkeypatch.chdir("/")
    copy = pickle.loads(packed)
    same_records(copy, [0, len(source) - 1, 50], image=images, label=labels)
    assert copy.fingerprint() == source.fingerprint() and np.array_equal(copy.labels, labels)


def test_what_only_memory_holds_travels_whole(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", IMAGES)
    private = np.load(tmp_path / "x.npy", mmap_mode="c")
    private[3] = 7
    same_records(pickle.loads(pickle.dumps(Arrays(private, x=LABELS))), [3], image=private, x=LABELS)


def test_remote_files_are_loaded(tmp_path: Path) -> None:
    class Bucket(Storage):
        def read(self, paths: Any, **kwargs: Any) -> Any:
            return super().read([str(tmp_path / path.rpartition("/")[2]) for path in paths], **kwargs)

    np.save(tmp_path / "x.npy", IMAGES)
    np.savez(tmp_path / "d.npz", x=IMAGES, y=LABELS)
    bucket = Bucket()
    same_records(Arrays.open("s3://b/x.npy", storage=bucket), [4, 2], image=IMAGES)
    same_records(Arrays.open("s3://b/d.npz", storage=bucket), [4, 2], image=IMAGES, label=LABELS)
    with pytest.raises(FileNotFoundError):
        Arrays.open("s3://b/none.npy", storage=bucket)


# Damage ------------------------------------------------------------------------------------------------------------


def test_files_that_are_none_of_ours(tmp_path: Path) -> None:
    file = tmp_path / "x.npy"
    for content, message in [
        (b"", r"x.npy is no .npy or .npz file: it starts with b''"),
        (b"<html>", r"is no .npy or .npz file: it starts with b'<htm'"),
        (b"PK\x03\x04" + b"\0" * 40, "is a damaged or truncated .npz file"),
        (b"\x93NUMPY\x09\x00" + b"\0" * 40, "x.npy is no readable .npy"),
    ]:
        file.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            Arrays.open(file)
    with pytest.raises(FileNotFoundError):
        Arrays.open(tmp_path / "none.npy")
    np.save(file, np.array([{}, {}]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"x.npy holds Python objects, which are not unpickled"):
        Arrays.open(file)
    np.save(file, IMAGES)
    np.savez(tmp_path / "d.npz", x=IMAGES)
    with pytest.raises(ValueError, match=r"d.npz is an .npz: name the labels by labels="):
        Arrays.open(tmp_path / "d.npz", file)
    with pytest.raises(ValueError, match=r"x.npy is an .npy: it has no members"):
        Arrays.open(file, images="x")
    with pytest.raises(ValueError, match=r"d.npz is an .npz, expected an .npy"):
        Arrays.open(file, tmp_path / "d.npz")


def test_a_truncated_npy_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", IMAGES)
    os.truncate(tmp_path / "x.npy", os.path.getsize(tmp_path / "x.npy") - 1)
    with pytest.raises(
        ValueError, match=r"x.npy is truncated: uint8 \(20, 5, 7, 3\) takes 2100 bytes, 2099 are there; fetch it again"
    ):
        Arrays.open(tmp_path / "x.npy")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_npz_files_raise_value_errors_only(tmp_path: Path, compression: int) -> None:
    file = tmp_path / "d.npz"
    np.save(tmp_path / "x.npy", IMAGES)
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.write(tmp_path / "x.npy", "x.npy")
    whole = file.read_bytes()
    same_records(Arrays.open(file), [2], image=IMAGES)
    refused = 0
    for trial in range(300):
        bad = bytearray(whole[: RNG.integers(len(whole))] if trial % 3 == 0 else whole)
        for _ in range(trial % 4):
            if bad:
                bad[RNG.integers(len(bad))] ^= 1 << RNG.integers(8)
        file.write_bytes(bad)
        try:
            source = Arrays.open(file)
            source.read(np.arange(len(source)))
            assert source.images is not None
            source.images.sum()
        except (ValueError, TypeError):
            refused += 1
    assert refused >= 100
