"""CIFAR and MNIST files: as torchvision reads them, and nothing run that a file brings along."""

from __future__ import annotations

import gzip
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision import datasets

from dalipipe.sources import standard
from dalipipe.sources.arrays import Arrays
from dalipipe.sources.standard import CIFAR10, CIFAR100, MNIST, FashionMNIST

RNG = np.random.default_rng(0)
CIFAR10_NAMES = "airplane automobile bird cat deer dog frog horse ship truck".split()


def python_2_pickle(value: Any) -> bytes:
    """Protocol 2 as Python 2 wrote it, which is what the published files are: text and arrays as byte strings."""

    def text(data: bytes) -> bytes:
        return b"U" + bytes([len(data)]) + data if len(data) < 256 else b"T" + struct.pack("<I", len(data)) + data

    def item(x: Any) -> bytes:
        if isinstance(x, dict):
            return b"}(" + b"".join(item(key) + item(entry) for key, entry in x.items()) + b"u"
        if isinstance(x, list):
            return b"](" + b"".join(map(item, x)) + b"e"
        if isinstance(x, int):
            return b"J" + struct.pack("<i", x)
        if isinstance(x, np.ndarray):
            made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + text(b"b") + b"\x87R"
            dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\0K\1\x87R(K\3" + text(b"|") + b"NNNJ\xff\xff\xff\xff"
            dtype += b"J\xff\xff\xff\xffK\0tb"
            shape = b"".join(map(item, x.shape)) + b"\x86"
            return made + b"(K\1" + shape + dtype + b"\x89" + text(x.tobytes()) + b"tb"
        return text(x.encode("latin1"))

    return b"\x80\x02" + item(value) + b"."


def dumps(protocol: int) -> Callable[[Any], bytes]:
    return lambda value: pickle.dumps(value, protocol)


def write_cifar10(root: Path, dump: Callable[[Any], bytes]) -> None:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for i, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        n = 10 + i
        batch = {
            "batch_label": name,
            "labels": RNG.integers(0, 10, n).tolist(),
            "data": RNG.integers(0, 256, (n, 3072), dtype=np.uint8),
            "filenames": [f"{k}.png" for k in range(n)],
        }
        (folder / name).write_bytes(dump(batch))
    meta = {"num_cases_per_batch": 10, "label_names": CIFAR10_NAMES, "num_vis": 3072}
    (folder / "batches.meta").write_bytes(dump(meta))


def write_cifar100(root: Path, dump: Callable[[Any], bytes]) -> None:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for name, n in (("train", 30), ("test", 20)):
        batch = {
            "data": RNG.integers(0, 256, (n, 3072), dtype=np.uint8),
            "fine_labels": RNG.integers(0, 100, n).tolist(),
            "coarse_labels": RNG.integers(0, 20, n).tolist(),
        }
        (folder / name).write_bytes(dump(batch))
    meta = {"fine_label_names": [f"f{i}" for i in range(100)], "coarse_label_names": [f"c{i}" for i in range(20)]}
    (folder / "meta").write_bytes(dump(meta))


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision takes files that are not the published ones."""
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5: True)


def same(ours: Arrays, theirs: Any) -> None:
    assert ours.images is not None and ours.labels is not None
    data = np.asarray(theirs.data)
    assert np.array_equal(ours.images, data.reshape(ours.images.shape)) and ours.images.shape[:3] == data.shape[:3]
    assert ours.labels.tolist() == np.asarray(theirs.targets).tolist() and ours.labels.dtype == np.int64
    assert ours.classes == list(theirs.classes)


PICKLES = {"python 2": python_2_pickle, **{f"protocol {i}": dumps(i) for i in range(2, 6)}}


@pytest.mark.parametrize("dump", PICKLES.values(), ids=PICKLES)
@pytest.mark.parametrize("train", [True, False])
def test_cifar_as_torchvision_reads_it(tmp_path: Path, unchecked: None, dump: Callable, train: bool) -> None:
    write_cifar10(tmp_path, dump)
    write_cifar100(tmp_path, dump)
    ours = CIFAR10(tmp_path, train)
    same(ours, datasets.CIFAR10(str(tmp_path), train=train))
    assert len(ours) == (60 if train else 15) and repr(ours) == f"CIFAR10({len(ours)} pictures of 32×32×3)"
    same(CIFAR10(tmp_path / "cifar-10-batches-py", train), datasets.CIFAR10(str(tmp_path), train=train))
    fine = CIFAR100(tmp_path, train)
    same(fine, datasets.CIFAR100(str(tmp_path), train=train))
    coarse = CIFAR100(tmp_path, train, coarse=True)
    assert np.array_equal(coarse.images, fine.images) and coarse.classes == [f"c{i}" for i in range(20)]
    batch = pickle.loads(
        (tmp_path / "cifar-100-python" / ("train" if train else "test")).read_bytes(), encoding="latin1"
    )
    assert coarse.labels.tolist() == batch["coarse_labels"]


def test_cifar_binary_holds_the_same(tmp_path: Path) -> None:
    write_cifar10(tmp_path, python_2_pickle)
    write_cifar100(tmp_path, python_2_pickle)
    for name in ("cifar-10-batches-bin", "cifar-100-binary"):
        (tmp_path / "bin" / name).mkdir(parents=True)
    for old in (tmp_path / "cifar-10-batches-py").glob("*_batch*"):
        batch = pickle.loads(old.read_bytes(), encoding="latin1")
        rows = np.concatenate([np.array(batch["labels"], np.uint8)[:, None], batch["data"]], axis=1)
        (tmp_path / "bin" / "cifar-10-batches-bin" / f"{old.name}.bin").write_bytes(rows.tobytes())
    (tmp_path / "bin" / "cifar-10-batches-bin" / "batches.meta.txt").write_text("\n".join(CIFAR10_NAMES) + "\n\n")
    for part in ("train", "test"):
        batch = pickle.loads((tmp_path / "cifar-100-python" / part).read_bytes(), encoding="latin1")
        labels = np.array([batch["coarse_labels"], batch["fine_labels"]], np.uint8).T
        rows = np.concatenate([labels, batch["data"]], axis=1)
        (tmp_path / "bin" / "cifar-100-binary" / f"{part}.bin").write_bytes(rows.tobytes())
    for kind, letter, count in (("fine", "f", 100), ("coarse", "c", 20)):
        names = "".join(f"{letter}{i}\n" for i in range(count))
        (tmp_path / "bin" / "cifar-100-binary" / f"{kind}_label_names.txt").write_text(names)
    for source, options in ((CIFAR10, {}), (CIFAR100, {}), (CIFAR100, {"coarse": True})):
        for train in (True, False):
            plain, binary = source(tmp_path, train, **options), source(tmp_path / "bin", train, **options)
            assert plain.fingerprint() == binary.fingerprint() and plain.classes == binary.classes
            assert np.array_equal(plain.images, binary.images)
    file = tmp_path / "bin" / "cifar-10-batches-bin" / "test_batch.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"test_batch.bin: 46094 bytes are no whole number of records of 3073"):
        CIFAR10(tmp_path / "bin", train=False)


class Evil:
    def __init__(self, function: Callable, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def test_a_pickle_runs_nothing(tmp_path: Path) -> None:
    import os

    write_cifar10(tmp_path, python_2_pickle)
    file, trace = tmp_path / "cifar-10-batches-py" / "test_batch", tmp_path / "trace"
    whole = pickle.loads(file.read_bytes(), encoding="latin1")
    for call in (
        Evil(os.system, f"touch {trace}"),
        Evil(exec, f"open({str(trace)!r}, 'w')"),
        Evil(getattr, "x", "upper"),
        Evil(np.load, "x"),
        Evil(np.dtype, "O"),
    ):
        for protocol in (2, 4):
            file.write_bytes(pickle.dumps({**whole, "batch_label": call}, protocol))
            if call.call[0] is np.dtype:  # taken for a mark in the file, and made into nothing
                CIFAR10(tmp_path, train=False)
                continue
            with pytest.raises(ValueError, match=r"test_batch is no readable CIFAR file \(it asks for .* no place"):
                CIFAR10(tmp_path, train=False)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": np.zeros((15, 3072), np.float32)}, "an array that is not uint8"),
        ({"data": np.zeros((15, 3072), object)}, "an array that is not uint8"),
        ({"data": np.zeros((15, 3071), np.uint8)}, r"expected 'data' as uint8 \[N, 3072\], got \(15, 3071\)"),
        ({"data": [1, 2]}, r"expected 'data' as uint8 \[N, 3072\], got none"),
        ({"labels": [1] * 14}, "expected 15 whole numbers as 'labels'"),
        ({"labels": ["a"] * 15}, "expected 15 whole numbers as 'labels'"),
        ({"labels": [10] * 15}, "labels run from 10 to 10, expected 0 to 9"),
        ({"labels": [-1] * 15}, "labels run from -1 to -1, expected 0 to 9"),
    ],
)
def test_cifar_files_that_are_not_as_they_must_be(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_cifar10(tmp_path, dumps(4))
    file = tmp_path / "cifar-10-batches-py" / "test_batch"
    file.write_bytes(pickle.dumps({**pickle.loads(file.read_bytes()), **change}, 4))
    with pytest.raises(ValueError, match=f"test_batch.*{message}"):
        CIFAR10(tmp_path, train=False)


def test_damaged_pickles_raise_value_errors_only(tmp_path: Path) -> None:
    write_cifar10(tmp_path, python_2_pickle)
    file = tmp_path / "cifar-10-batches-py" / "test_batch"
    whole = file.read_bytes()
    for trial in range(400):
        bad = bytearray(whole[: RNG.integers(len(whole))] if trial % 2 else whole)
        for _ in range(trial % 5):
            if bad:  # the structure lies at both ends, the pixels between
                place = int(RNG.integers(min(len(bad), 300))) * (1 if RNG.random() < 0.5 else -1)
                bad[place] ^= 1 << RNG.integers(8)
        file.write_bytes(bad)
        try:
            assert len(CIFAR10(tmp_path, train=False)) >= 0
        except ValueError as error:
            assert "test_batch" in str(error)


# MNIST -------------------------------------------------------------------------------------------------------------


def write_mnist(folder: Path, dot: str = "-", zipped: bool = False) -> None:
    folder.mkdir(parents=True)
    for part, n in (("train", 12), ("t10k", 7)):
        images = struct.pack(">IIII", 0x803, n, 28, 28) + RNG.integers(0, 256, n * 784, dtype=np.uint8).tobytes()
        labels = struct.pack(">II", 0x801, n) + RNG.integers(0, 10, n, dtype=np.uint8).tobytes()
        for name, content in ((f"images{dot}idx3", images), (f"labels{dot}idx1", labels)):
            path = folder / f"{part}-{name}-ubyte{'.gz' * zipped}"
            path.write_bytes(gzip.compress(content, 1) if zipped else content)


@pytest.mark.parametrize("source", [MNIST, FashionMNIST])
@pytest.mark.parametrize("train", [True, False])
def test_mnist_as_torchvision_reads_it(tmp_path: Path, source: type[Arrays], train: bool) -> None:
    name = source.__name__
    raw = tmp_path / name / "raw"
    write_mnist(raw)
    ours = source(tmp_path, train)
    same(ours, getattr(datasets, name)(str(tmp_path), train=train))
    assert ours.schema.fields[0].channels == 1 and len(ours) == (12 if train else 7)
    for folder, dot, zipped in ((tmp_path / "gz", "-", True), (tmp_path / "dot", ".", False)):
        folder.mkdir()
        for path in raw.iterdir():
            content = path.read_bytes()
            to = folder / (path.name.replace("-idx", f"{dot}idx") + ".gz" * zipped)
            to.write_bytes(gzip.compress(content, 1) if zipped else content)
        assert source(folder, train).fingerprint() == ours.fingerprint()


def test_idx_files_that_are_not_as_they_must_be(tmp_path: Path) -> None:
    write_mnist(tmp_path / "a", zipped=True)
    images = tmp_path / "a" / "train-images-idx3-ubyte.gz"
    content = gzip.decompress(images.read_bytes())
    cases = [
        (gzip.compress(content)[:-300], "is no whole gzip file"),
        (b"<html>", "is no whole gzip file"),
        (gzip.compress(content[:-1]), r"expected the bytes of \[12, 28, 28\] after the header, got 9407"),
        (gzip.compress(content + b"x"), r"got 9409"),
        (gzip.compress(content[:10]), "is no IDX file of uint8 with 3 axes"),
        (gzip.compress(b"\0\0\x0d\3" + content[4:]), r"it starts with b'\\x00\\x00\\r\\x03'"),
        (gzip.compress(b"\0\0\x08\3" + b"\xff" * 12), "expected the bytes of"),
        (gzip.compress(struct.pack(">IIII", 0x803, 11, 28, 28) + content[16:-784]), "11 images but 12 labels"),
    ]
    for bad, message in cases:
        images.write_bytes(bad)
        with pytest.raises(ValueError, match=message):
            MNIST(tmp_path / "a")
    images.write_bytes(gzip.compress(content))
    labels = tmp_path / "a" / "train-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(struct.pack(">II", 0x801, 12) + bytes([10] * 12)))
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte.gz: label 10, expected 0 to 9"):
        MNIST(tmp_path / "a")
    labels.unlink()
    with pytest.raises(FileNotFoundError, match=r"train-labels-idx1-ubyte.gz"):
        MNIST(tmp_path / "a")


# Fetching ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [CIFAR10, CIFAR100, MNIST, FashionMNIST])
def test_torchvision_fetches_what_is_missing(
    tmp_path: Path, source: type[Arrays], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, asked = source.__name__, []

    def fetch(root: str, *, train: bool, download: bool) -> None:
        asked.append((root, train, download))
        if "CIFAR" in name:
            {"CIFAR10": write_cifar10, "CIFAR100": write_cifar100}[name](Path(root), python_2_pickle)
        else:
            write_mnist(Path(root) / name / "raw")

    monkeypatch.setattr(datasets, name, fetch)
    with pytest.raises(FileNotFoundError, match=rf"{name}: none of its files is there \(looked for .*download=True"):
        source(tmp_path)
    first = source(tmp_path, download=True)
    assert asked == [(str(tmp_path), True, True)]
    assert source(tmp_path, download=True).fingerprint() == first.fingerprint() and len(asked) == 1
    with pytest.raises(ValueError, match=rf"{name}: download=True needs a local folder, got 's3://b/x'"):
        source("s3://b/x", download=True, storage=Absent())


class Absent(standard.Storage):
    def read(self, paths: Any, **kwargs: Any) -> Any:
        return (
            np.zeros(0, np.uint8),
            np.zeros(len(paths) + 1, np.int64),
            {i: FileNotFoundError(p) for i, p in enumerate(paths)},
        )


def test_standard_sets_travel(tmp_path: Path) -> None:
    write_mnist(tmp_path / "a")
    source = MNIST(tmp_path / "a")
    copy = pickle.loads(pickle.dumps(source))
    assert copy.fingerprint() == source.fingerprint() and copy.classes == source.classes
    assert np.array_equal(copy.labels, source.labels)
