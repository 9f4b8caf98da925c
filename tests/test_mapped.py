"""Map-style data sets: torch's, torchvision's and any sequence, their items fetched in threads and processes."""

from __future__ import annotations

import gc
import os
import pickle
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from conftest import picture
from hypothesis import given, settings
from hypothesis import strategies as st
from map_items import Batched, Doing, Ragged, Random
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset
from torchvision.transforms import v2

from dalipipe.records import Pictures
from dalipipe.schema import Field
from dalipipe.sources.mapped import MapDataset
from dalipipe.sources.workers import WorkerError
from dalipipe.storage import wanted_while

WORKERS = ["threads", "processes"]


def rgb(array: np.ndarray) -> np.ndarray:
    return array if array.shape[2] == 3 else np.repeat(array, 3, axis=2)


# Items --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", WORKERS)
def test_pictures_and_errors(workers: Any) -> None:
    dataset = Ragged()
    source = MapDataset(dataset, workers=workers)
    assert source.schema.fields == (Field("image", "image", channels=3), Field("label", "column"))
    assert source.classes == ["even", "odd"] and len(source) == 23
    assert source.labels is not None and source.labels.tolist() == dataset.targets
    for threads, indices in ((1, [4, 4, 0]), (2, np.random.default_rng(0).permutation(23).tolist()), (2, [5]), (2, [])):
        allocated = []

        def allocate(nbytes: int, allocated: list[int] = allocated) -> np.ndarray:
            allocated.append(nbytes)
            return np.full(nbytes + 5, 9, np.uint8)

        records = source.read(np.array(indices, np.int64), threads=threads, allocate=allocate)
        images = records.columns["image"]
        assert isinstance(images, Pictures) and len(images) == len(indices) and not images.on_cuda
        assert records.columns["label"].dtype == np.int64
        assert (workers == "processes" and indices not in ([], [5])) == bool(allocated)
        for row, i in enumerate(indices):
            if i == 5:
                assert images[row].shape == (1, 1, 3) and records.columns["label"][row] == 0
                assert isinstance(records.errors[row], KeyError) and str(records.errors[row]) == "'five'"
                continue
            item = dataset[i]
            assert (images[row] == np.asarray(item[0].convert("RGB"))).all()
            assert records.columns["label"][row] == item[1]
        assert [indices[row] for row in records.errors] == [i for i in indices if i == 5]
    source.close()


Named = namedtuple("Named", "picture target text")
PIL = Image.fromarray(picture(4, 6))
PALETTE = PIL.convert("P")
UINT8 = torch.arange(2 * 3 * 4, dtype=torch.uint8)
IMAGE, GREY = Field("image", "image", channels=3), Field("image", "image", channels=1)
SCHEMAS: dict[str, tuple[Any, tuple[Field, ...]]] = {
    "picture and label": ((PIL, 3), (IMAGE, Field("label", "column"))),
    "a list": ([PIL, np.int32(3)], (IMAGE, Field("label", "column"))),
    "label first": ((3, PIL), (Field("label", "column"), IMAGE)),
    "picture alone": (PIL, (IMAGE,)),
    "number alone": (3.5, (Field("column_0", "column"),)),
    "text alone": ("three", (Field("column_0", "object"),)),
    "dict": (
        {"img": PIL, "caption": "a", "2d": 3, "class": None},
        (
            Field("img", "image", channels=3),
            Field("caption", "object"),
            Field("field_2d", "column"),
            Field("class_", "object"),
        ),
    ),
    "named": (
        Named(UINT8.reshape(1, 4, 6), 2, "x"),
        (Field("picture", "image", channels=1), Field("target", "column"), Field("text", "object")),
    ),
    "CHW": ((torch.zeros(3, 4, 5, dtype=torch.uint8), 0), (IMAGE, Field("label", "column"))),
    "HW": ((torch.zeros(4, 5, dtype=torch.uint8), 0), (GREY, Field("label", "column"))),
    "array HWC": ((np.zeros((4, 5, 3), np.uint8), 0), (IMAGE, Field("label", "column"))),
    "array HW1": ((np.zeros((4, 5, 1), np.uint8), 0), (GREY, Field("label", "column"))),
    "float": ((torch.zeros(3, 4, 5), 0), (Field("column_0", "column"), Field("column_1", "column"))),
    "RGBA": ((np.zeros((4, 5, 4), np.uint8), 0), (Field("column_0", "column"), Field("column_1", "column"))),
    "mask": ((PIL, PALETTE), (IMAGE, Field("mask", "mask", channels=1))),
    "mask array": (
        (PIL, np.zeros((4, 6), np.uint8), 1),
        (IMAGE, Field("mask", "mask", channels=1), Field("label", "column")),
    ),
    "tv mask": (
        (PIL, torchvision.tv_tensors.Mask(torch.zeros(4, 6, dtype=torch.int64))),
        (IMAGE, Field("mask", "mask", channels=1)),
    ),
    "tv boxes": (
        (PIL, torchvision.tv_tensors.BoundingBoxes([[0, 0, 2, 3]], format="XYWH", canvas_size=(4, 6)), np.ones(1)),
        (IMAGE, Field("boxes", "boxes", format="xywh", companions=("label",)), Field("label", "object")),
    ),
    "tv target": (
        (
            PIL,
            {
                "labels": torch.ones(2),
                "boxes": torchvision.tv_tensors.BoundingBoxes(np.ones((2, 4)), format="XYXY", canvas_size=(4, 6)),
                "image": 5,
                "points": torchvision.tv_tensors.KeyPoints(np.ones((7, 2)), canvas_size=(4, 6)),
            },
            2,
        ),
        (
            IMAGE,
            Field("labels", "object"),
            Field("boxes", "boxes", companions=("labels",)),
            Field("image_", "column"),
            Field("points", "points"),
            Field("column_5", "column"),
        ),
    ),
    "two pictures": ((PIL, PIL), (IMAGE, Field("column_1", "image", channels=3))),
    "annotation": ((PIL, {"boxes": [1, 2]}), (IMAGE, Field("column_1", "object"))),
    "text beside": ((PIL, "a caption", 2), (IMAGE, Field("column_1", "object"), Field("label", "column"))),
}


@pytest.mark.parametrize("kind", SCHEMAS)
def test_schema_of_the_first_item(kind: str) -> None:
    item, fields = SCHEMAS[kind]
    source = MapDataset([item])
    assert source.schema.fields == fields
    records = source.read(np.array([0, 0]), threads=2)
    assert not records.errors and tuple(records.columns) == source.schema.names


def test_values() -> None:
    items = [
        {
            "chw": torch.arange(24, dtype=torch.uint8).reshape(3, 2, 4) + i,
            "hw": np.full((2 + i, 3), i, np.uint8),
            "int": i,
            "int32": np.int32(i),
            "float": i / 3,
            "half": torch.tensor(i, dtype=torch.float16),
            "bf16": torch.tensor([i, 1.0], dtype=torch.bfloat16),
            "bool": i == 1,
            "vector": np.arange(3, dtype=np.int16) + i,
            "text": "abc"[i],
            "list": [1] * i,
            "transposed": np.arange(6.0).reshape(2, 3).T + i,
        }
        for i in range(3)
    ]
    columns = MapDataset(items).read(np.array([2, 0])).columns
    for row, i in enumerate((2, 0)):
        assert (columns["chw"][row] == np.arange(24).reshape(3, 2, 4).transpose(1, 2, 0) + i).all()
        assert (
            columns["hw"].kind
            if False
            else (columns["hw"][row] == i).all() and columns["hw"][row].shape == (2 + i, 3, 1)
        )
    expected = {
        "int": ([2, 0], np.int64),
        "int32": ([2, 0], np.int64),
        "float": ([2 / 3, 0], np.float64),
        "half": ([2, 0], np.float16),
        "bf16": ([[2, 1], [0, 1]], np.float32),
        "bool": ([False, False], np.bool_),
        "vector": ([[2, 3, 4], [0, 1, 2]], np.int16),
        "transposed": ([(np.arange(6.0).reshape(2, 3).T + i).tolist() for i in (2, 0)], np.float64),
    }
    for name, (values, dtype) in expected.items():
        assert columns[name].tolist() == values and columns[name].dtype == dtype
    assert columns["text"] == ["c", "a"] and columns["list"] == [[1, 1], []]


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_random_pictures(data: st.DataObject) -> None:
    """Every way of giving a picture gives the same pixels."""
    n = data.draw(st.integers(1, 5))
    sizes = data.draw(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=n, max_size=n))
    channels = data.draw(st.sampled_from([1, 3]))
    forms = {
        "array": lambda a: a,
        "strided": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
        "fortran": np.asfortranarray,
        "tensor": lambda a: torch.from_numpy(a).permute(2, 0, 1),
        "PIL": lambda a: Image.fromarray(a if channels == 3 else a[:, :, 0]),
    }
    pixels = [np.random.default_rng(i).integers(0, 256, (h, w, channels), np.uint8) for i, (h, w) in enumerate(sizes)]
    items = [forms[data.draw(st.sampled_from(sorted(forms)))](a) for a in pixels]
    source = MapDataset(items, columns=[Field("image", "image", channels=3)])
    indices = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=8)), np.int64)
    records = source.read(indices, threads=data.draw(st.integers(1, 3)))
    assert not records.errors and len(records.columns["image"]) == len(indices)
    for row, i in enumerate(indices):
        assert (records.columns["image"][row] == rgb(pixels[i])).all()


def test_unusual_modes() -> None:
    deep = Image.fromarray(np.array([[0, 65535], [32768, 256]], np.uint16))
    for image in (PIL.convert("RGBA"), PIL.convert("CMYK"), PALETTE, PIL.convert("1"), PIL.convert("L")):
        got = MapDataset([image]).read(np.array([0])).columns["image"][0]
        assert (got == np.asarray(image.convert("RGB"))).all()
    got = MapDataset([deep]).read(np.array([0])).columns["image"][0]
    assert got[:, :, 1].tolist() == [[0, 255], [128, 1]]
    mask = MapDataset([(PIL, PALETTE)]).read(np.array([0])).columns["mask"]
    assert mask.channels == 1 and (mask[0][:, :, 0] == np.asarray(PALETTE)).all()
    classes = torch.tensor([[0, 255], [1, 2]])
    mask = MapDataset([(PIL, torchvision.tv_tensors.Mask(classes))]).read(np.array([0])).columns["mask"]
    assert mask[0][:, :, 0].tolist() == classes.tolist()


def test_items_unlike_the_first() -> None:
    items: list[Any] = [(np.zeros((2, 2, 3), np.uint8), 1, np.zeros(2))]
    items += [
        (np.zeros((2, 2, 4), np.uint8), 1, np.zeros(2)),
        (np.zeros((0, 2, 3), np.uint8), 1, np.zeros(2)),
        ("no picture", 1, np.zeros(2)),
        (items[0][0], 0.5, np.zeros(2)),
        (items[0][0], 1, np.zeros(3)),
        (items[0][0], None, np.zeros(2)),
        items[0][:2],
        None,
        {"image": 1},
        (torch.zeros(3, 2, 2), 1, np.zeros(2)),
        (items[0][0], 2**70, np.zeros(2)),
        (np.ones((5, 2, 1), np.uint8), True, np.zeros(2)),
    ]
    records = MapDataset(items).read(np.arange(len(items)), threads=3)
    assert sorted(records.errors) == list(range(1, 12))
    assert all(isinstance(error, ValueError) and str(error) for error in records.errors.values())
    assert "object" in str(records.errors[5]) and records.columns["image"][12].shape == (5, 2, 3)
    keyed = MapDataset([{"x": 1, "y": 2}, {"x": 1}, [1, 2], {"y": 3, "x": 4, "z": 5}])
    records = keyed.read(np.arange(4))
    assert sorted(records.errors) == [1, 2] and "'y'" in str(records.errors[1])
    assert records.columns["y"].tolist() == [2, 0, 0, 3]


def test_columns_by_name() -> None:
    items = [(PIL, 1, [1, 2]), (PIL, 2, [3])]
    assert MapDataset(items, columns=["photo", "kind", "tags"]).schema.names == ("photo", "kind", "tags")
    boxes = [{"image": PIL, "boxes": np.zeros((i, 4), np.float32), "id": i} for i in range(3)]
    source = MapDataset(boxes, columns=["id", Field("boxes", "object"), "image"])
    assert source.schema.fields == (Field("id", "column"), Field("boxes", "object"), IMAGE)
    records = source.read(np.array([2, 0]))
    assert not records.errors and [len(box) for box in records.columns["boxes"]] == [2, 0]
    source = MapDataset([(PIL, PIL)], columns=[Field("image", "image", channels=1), Field("mask", "mask")])
    assert source.schema.fields == (GREY, Field("mask", "mask", channels=1))
    for columns, error, words in (
        (["a"], ValueError, "each of an item's 3 values, got 1"),
        (["a", "a", "b"], ValueError, "different names"),
        (["a", "b c", "d"], ValueError, "such as 'b_c'"),
        ("abc", TypeError, "list of names"),
        ([1, 2, 3], TypeError, "list of names"),
        (["a", "b", Field("c", "column")], TypeError, "c cannot be a column"),
    ):
        with pytest.raises(error, match=words):
            MapDataset(items, columns=columns)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\['nothing'\].*'image', 'boxes', 'id'"):
        MapDataset(boxes, columns=["nothing"])


# Data sets ----------------------------------------------------------------------------------------------------------


def test_torchvision_with_transforms() -> None:
    crop = v2.Compose([v2.CenterCrop(12), v2.PILToTensor()])
    dataset = torchvision.datasets.FakeData(9, (3, 16, 20), num_classes=4, transform=crop)
    source = MapDataset(dataset)
    records = source.read(np.array([8, 2]))
    for row, i in enumerate((8, 2)):
        pixels, label = dataset[i]
        assert (records.columns["image"][row] == pixels.permute(1, 2, 0).numpy()).all()
        assert records.columns["label"][row] == label
    floats = MapDataset(torchvision.datasets.FakeData(9, (3, 16, 20), transform=v2.ToTensor()))
    assert floats.schema.of_kind("image") == () and floats.read(np.array([1])).columns["column_0"].shape == (
        1,
        3,
        16,
        20,
    )


def test_torch_containers() -> None:
    tensors = TensorDataset(torch.arange(20.0).reshape(10, 2), torch.arange(10))
    source = MapDataset(tensors)
    assert source.schema.names == ("column_0", "column_1")
    records = source.read(np.array([3, 9]))
    assert records.columns["column_0"].tolist() == [[6, 7], [18, 19]] and records.columns["column_1"].tolist() == [3, 9]

    joined = ConcatDataset([Ragged(4), Subset(Ragged(23), [7, 2, 22]), Subset(Subset(Ragged(), [9, 8, 3]), [2, 0])])
    source = MapDataset(joined)
    records = source.read(np.arange(9), threads=2)
    assert source.labels is not None and (records.columns["label"] == source.labels).all() and not records.errors
    assert source.labels.tolist() == [0, 1, 0, 1, 1, 0, 0, 1, 1] and source.classes == ["even", "odd"]
    assert source.describe(5) == "Ragged[2]" and source.describe(8) == "Ragged[9]"
    split = torch.utils.data.random_split(Ragged(), [3, 20])[1]
    assert MapDataset(split).labels is not None


def test_labels(tmp_path: Path) -> None:
    def of(**attributes: Any) -> Any:
        dataset = Ragged(4)
        dataset.__dict__.pop("targets")
        dataset.__dict__.update(attributes, n=4)
        dataset.__class__ = type("Other", (Ragged,), {"__getitem__": lambda self, i: (PIL, 0)})
        labels = MapDataset(dataset).labels
        return None if labels is None else labels.tolist()

    assert of(targets=torch.tensor([1, 2, 3, 0])) == of(labels=[1, 2, 3, 0]) == [1, 2, 3, 0]
    assert of(targets=["a", "b", "c", "d"], labels=np.array([1, 2, 3, 0], np.uint8)) == [1, 2, 3, 0]
    assert of(targets=[1, 2, 3]) is of(targets=[0.5] * 4) is of(targets=[[1], [1, 2], [], []]) is of() is None
    assert of(targets=[1, 2, 3, 0], target_transform=lambda label: label + 1) is None
    for i in range(4):
        path = tmp_path / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        PIL.save(path)
    folder = MapDataset(torchvision.datasets.ImageFolder(str(tmp_path), transform=v2.RandomCrop(2)))
    assert folder.labels is not None and folder.labels.tolist() == [0, 0, 1, 1] and folder.classes == ["a", "b"]
    assert folder.describe(2) == str(tmp_path / "b" / "1.png")


def test_data_sets_that_are_none() -> None:
    class Stream(IterableDataset):
        def __iter__(self) -> Any:
            return iter(())

        def __len__(self) -> int:
            return 3

    class Unmeasured(Dataset):
        def __getitem__(self, i: int) -> int:
            return i

    class AllBad(Ragged):
        def __getitem__(self, i: int) -> Any:
            raise OSError("the disk is gone")

    for dataset in (Stream(), iter([1]), (i for i in range(3))):
        with pytest.raises(TypeError, match="order of its own"):
            MapDataset(dataset)
    for dataset in (3, {"a": 1}, "text", Unmeasured()):
        with pytest.raises(TypeError, match=r"__len__|length"):
            MapDataset(dataset)
    with pytest.raises(ValueError, match="at least one"):
        MapDataset([])
    with pytest.raises(ValueError, match="with values"):
        MapDataset([()])
    with pytest.raises(ValueError, match="disk is gone") as caught:
        MapDataset(AllBad())
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(ValueError, match="threads, processes"):
        MapDataset([1], workers="fibres")  # type: ignore[arg-type]
    bad_first = Subset(Ragged(), [5, 5, 1])
    assert MapDataset(bad_first).schema.names == ("image", "label")


def test_getitems() -> None:
    for fault in ("", "item", "short"):
        dataset = Batched(fault)
        records = MapDataset(dataset).read(np.arange(12), threads=2)
        assert sorted(dataset.calls) == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
        assert records.columns["column_0"].tolist() == [i if (fault, i) != ("item", 3) else 0 for i in range(12)]
        assert list(records.errors) == ([3] if fault == "item" else [])
        assert records.columns["column_1"].dtype == np.float32


def test_hugging_face_with_a_transform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_dict({"x": [1, 2, 3], "y": ["a", "b", "c"]})
    doubled = dataset.with_transform(lambda rows: {"x": [2 * x for x in rows["x"]], "y": rows["y"]})
    records = MapDataset(doubled).read(np.array([2, 0]))
    assert records.columns["x"].tolist() == [6, 2] and records.columns["y"] == ["c", "a"]
    assert MapDataset(dataset).fingerprint() != MapDataset(dataset.select([0, 2, 1])).fingerprint()


def test_fingerprints() -> None:
    def of(dataset: Any) -> str:
        return MapDataset(dataset).fingerprint()

    assert of(Ragged()) == of(Ragged()) == MapDataset(Ragged(), workers="processes").fingerprint()
    assert of(Ragged()) != of(Ragged(22)) and of(Subset(Ragged(), [1, 2])) != of(Subset(Ragged(), [2, 1]))
    assert of(ConcatDataset([Ragged(3), Ragged(4)])) != of(ConcatDataset([Ragged(4), Ragged(3)]))
    assert of([1, 2, 3]) == of([1, 2, 3]) != of([1, 2, 4]) and of([(PIL, "a")]) != of([(PIL, "b")])
    a, b = (TensorDataset(torch.arange(5) + i) for i in (0, 1))
    assert of(a) != of(b) and of(Subset(a, [0, 1])) != of(Subset(b, [0, 1]))
    random_crop = torchvision.datasets.FakeData(5, (3, 16, 20), transform=v2.RandomCrop(4))
    assert of(random_crop) == of(random_crop)
    other = Ragged()
    other.targets[3] = 0
    assert of(Ragged()) != of(other)


def test_fingerprint_is_the_same_in_another_process() -> None:
    code = (
        "import torch, test_mapped as t\n"
        "for data in (t.Ragged(), [(t.PIL, 'a', 0.1)], t.TensorDataset(torch.arange(5))):\n"
        "    print(t.MapDataset(data).fingerprint())"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment(PYTHONHASHSEED="5")
    )
    expected = [
        MapDataset(data).fingerprint() for data in (Ragged(), [(PIL, "a", 0.1)], TensorDataset(torch.arange(5)))
    ]
    assert out.stdout.split() == expected


def environment(**more: str) -> dict[str, str]:
    """For a process that imports this module."""
    here = Path(__file__).parent
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parent), str(here)]), **more}


# Threads and processes ----------------------------------------------------------------------------------------------


def threads_alive() -> int:
    return sum(thread.name == "dalipipe-items" for thread in threading.enumerate())


def wait_until(condition: Any, seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_threads_work_side_by_side() -> None:
    class Slow(Ragged):
        def __getitem__(self, i: int) -> Any:
            time.sleep(0.05)
            return 1, i

    source = MapDataset(Slow())
    start = time.perf_counter()
    records = source.read(np.arange(20), threads=10)
    assert time.perf_counter() - start < 0.6  # 1 s one by one
    assert records.columns["column_1"].tolist() == list(range(20))
    assert threads_alive() == 10
    source.close()
    assert threads_alive() == 0
    assert source.read(np.arange(3), threads=2).columns["column_1"].tolist() == [0, 1, 2]
    del source, records
    assert wait_until(lambda: threads_alive() == 0)  # forgotten without being closed


def test_reads_from_several_threads() -> None:
    source = MapDataset([(i, str(i)) for i in range(100)])
    found = []

    def read(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(30):
            indices = [rng.randrange(100) for _ in range(9)]
            columns = source.read(np.array(indices), threads=3).columns
            found.append(columns["column_0"].tolist() == indices and columns["column_1"] == [str(i) for i in indices])

    readers = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert found == [True] * 120


def test_nothing_of_a_batch_is_held() -> None:
    class Thing:
        pass

    made = []

    class Giving(Ragged):
        def __getitem__(self, i: int) -> Any:
            thing = Thing()
            made.append(weakref.ref(thing))
            return thing, i

    source = MapDataset(Giving())
    records = source.read(np.arange(8), threads=2)
    del records
    gc.collect()
    assert len(made) == 9 and wait_until(lambda: not any(reference() is not None for reference in made))


def test_worker_processes_live_on() -> None:
    source = MapDataset(Doing("who"), workers="processes")
    first = source.read(np.arange(12), threads=2).columns["column_1"]
    pids = set(first.tolist())
    assert len(pids) == 2 and os.getpid() not in pids
    assert set(source.read(np.arange(12), threads=2).columns["column_1"].tolist()) <= pids
    for pid in pids:
        os.kill(pid, signal.SIGINT)  # Ctrl-C goes to the whole group, and what it means is the parent's to say
    assert set(source.read(np.arange(12), threads=2).columns["column_1"].tolist()) <= pids
    copy = pickle.loads(pickle.dumps(source))
    others = set(copy.read(np.arange(4), threads=1).columns["column_1"].tolist())
    assert not others & pids
    source.close()
    assert not any(map(is_alive, pids)) and all(map(is_alive, others))
    assert not set(source.read(np.arange(3)).columns["column_1"].tolist()) & pids  # and starts new ones
    source.close()
    del copy
    assert wait_until(lambda: not any(map(is_alive, others)))


@pytest.mark.parametrize(("deed", "words"), [("kill", r"SIGKILL.*items 7|SIGKILL.*, 7"), ("leave", "exit code 3")])
def test_a_process_that_ends(deed: str, words: str) -> None:
    source = MapDataset(Doing(deed), workers="processes")
    with pytest.raises(WorkerError, match=words):
        source.read(np.arange(12), threads=1)
    assert source.read(np.arange(6), threads=1).columns["column_1"] == ["0", "1", "2", "3", "4", "5"]
    source.close()


@pytest.mark.parametrize("workers", WORKERS)
def test_items_that_go_wrong_in_odd_ways(workers: Any) -> None:
    for deed, words in (("exit", "SystemExit"), ("odd exception", "1 and 2")):
        source = MapDataset(Doing(deed), workers=workers)
        records = source.read(np.array([6, 7, 8]))
        assert list(records.errors) == [1] and words in str(records.errors[1])
        assert records.columns["column_1"] == ["6", None, "8"]
        source.close()
    if workers == "processes":
        assert "map_items.py" in str(records.errors[1].__cause__)  # where it came from, over there
        records = MapDataset(Doing("lambda"), workers=workers, columns=["a", "b"]).read(np.array([6, 7]))
        assert list(records.errors) == [1] and "cannot be sent" in str(records.errors[1])


def test_data_sets_that_cannot_be_sent() -> None:
    source = MapDataset([(1, lambda: None)], workers="processes")
    with pytest.raises(TypeError, match="lambdas"):
        source.read(np.array([0]))


def test_processes_draw_different_numbers() -> None:
    source = MapDataset(Random(), workers="processes")
    columns = source.read(np.arange(40), threads=2).columns
    assert len(set(columns["column_0"].tolist())) == 2
    for name in ("column_1", "column_2", "column_3"):
        assert len(set(columns[name].tolist())) == 40
    source.close()


@pytest.mark.parametrize("workers", WORKERS)
def test_hanging_items_can_be_left(workers: Any) -> None:
    """A reader that is not wanted any more, and a source that is closed, end the wait; what does not hang goes on."""
    source = MapDataset(Doing("hang"), workers=workers)
    source.read(np.arange(3), threads=2)
    for _ in range(2):  # as often as there are threads
        start = time.monotonic()
        with (
            wanted_while(lambda start=start: time.monotonic() < start + 0.3),
            pytest.raises(RuntimeError, match="down"),
        ):
            source.read(np.arange(12), threads=2)
        assert time.monotonic() - start < 4
    assert source.read(np.arange(7), threads=2).columns["column_1"] == [str(i) for i in range(7)]

    failures = []

    def read() -> None:
        try:
            source.read(np.array([6, 7]), threads=2)
        except RuntimeError as error:
            failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    time.sleep(0.2)
    source.close()
    reader.join(5)
    assert not reader.is_alive() and len(failures) == 1


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("where", ["main", "thread"])
def test_hanging_items_do_not_hold_up_exit(workers: str, where: str) -> None:
    code = f"""
        import threading, time, numpy as np
        from map_items import Doing
        from dalipipe.sources.mapped import MapDataset

        if __name__ == "__main__":
            source = MapDataset(Doing("hang"), workers={workers!r})
            source.read(np.arange(2), threads=2)
            read = lambda: source.read(np.array([6, 7, 8]), threads=2)
            threading.Thread(target=read, daemon={where == "main"}).start()
            time.sleep(0.3)
            print(time.time(), flush=True)
    """
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=60, env=environment(), check=False,
    )  # fmt: skip
    assert time.time() - float(out.stdout) < 5
    assert out.returncode == 0, out.stderr


def test_processes_end_with_a_killed_parent() -> None:
    """Whether they wait for work or are in the middle of an item that hangs, and though a fork holds their sockets."""
    code = """
        import os, sys, threading, time, numpy as np
        from map_items import Doing
        from dalipipe.sources.mapped import MapDataset

        if __name__ == "__main__":
            who, hang = (MapDataset(Doing(deed), workers="processes") for deed in ("who", "hang"))
            print(*set(who.read(np.arange(12), threads=2).columns["column_1"].tolist()))
            hang.read(np.array([1]))
            threading.Thread(target=lambda: hang.read(np.array([7]))).start()
            import multiprocessing
            print(*(child.pid for child in multiprocessing.active_children()))
            if not (pid := os.fork()):
                time.sleep(1000)
            time.sleep(0.5)
            print(pid, flush=True)
            time.sleep(1000)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert parent.stdout is not None
    idle, children, fork = ([int(pid) for pid in parent.stdout.readline().split()] for _ in range(3))
    try:
        assert len(children) == 3 and set(idle) < set(children) and all(map(is_alive, [*children, *fork]))
        parent.kill()
        parent.wait()
        assert wait_until(lambda: not any(map(is_alive, children)))
    finally:
        parent.kill()
        parent.wait()
        os.kill(fork[0], signal.SIGKILL)
        parent.stdout.close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("workers", WORKERS)
def test_after_a_fork(workers: Any) -> None:
    source = MapDataset(Doing("who"), workers=workers)
    before = set(source.read(np.arange(4), threads=2).columns["column_1"].tolist())
    read_end, write_end = os.pipe()
    pid = os.fork()
    if not pid:  # the child: reads with threads or processes of its own, and leaves as Python does
        found = source.read(np.arange(4), threads=2).columns["column_1"].tolist()
        os.write(write_end, repr([os.getpid(), *found]).encode())
        source.close()
        from multiprocessing.util import _exit_function

        _exit_function()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    child, *found = eval(os.read(read_end, 10_000))
    os.close(read_end), os.close(write_end)
    assert set(found) == {child} if workers == "threads" else not set(found) & before
    after = set(source.read(np.arange(4), threads=2).columns["column_1"].tolist())
    assert after <= before  # the child has taken nobody along
    source.close()


def test_a_script_without_a_main_guard(tmp_path: Path) -> None:
    code = """
        import numpy as np
        from map_items import Doing
        from dalipipe.sources.mapped import MapDataset
        MapDataset(Doing("who"), workers="processes").read(np.arange(3))
    """
    path = tmp_path / "unguarded.py"
    path.write_text(textwrap.dedent(code))
    out = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=60, env=environment())
    assert out.returncode == 1 and "WorkerError" in out.stderr and "if __name__ == '__main__'" in out.stderr


# With the loader ----------------------------------------------------------------------------------------------------


class Photographs(Ragged):
    def __getitem__(self, i: int) -> Any:
        return Image.fromarray(self.pixels(i)), self.targets[i]


def test_loader_gives_the_pictures_pixels() -> None:
    import dalipipe
    from dalipipe.loader import DataLoader
    from dalipipe.ops import image as ops

    dataset = Photographs()
    plain = DataLoader(MapDataset(dataset), 1, device="cpu", dtype=torch.uint8, num_workers=2)
    for i, batch in enumerate(plain):
        assert (batch.image[0].permute(1, 2, 0).numpy() == dataset.pixels(i)).all() and batch.label.item() == i % 2
    policy = dalipipe.Policy([ops.RandomResizedCrop(8), ops.Normalize()])
    found = []
    for batch_size, threads in ((5, 1), (23, 3)):
        loader = DataLoader(
            MapDataset(dataset), batch_size, policy=policy, shuffle=True, seed=3, device="cpu", num_workers=threads
        )
        found.append(torch.cat([batch.image for batch in loader]))
    assert (found[0] == found[1]).all()


def test_loader_names_the_bad_item() -> None:
    from dalipipe.loader import DataLoader
    from dalipipe.records import SampleError

    with pytest.raises(SampleError, match=r"sample 5 \(Ragged\[5\]\): .*five") as caught:
        list(DataLoader(MapDataset(Ragged()), 1, device="cpu"))
    assert isinstance(caught.value.__cause__, KeyError)


def test_loader_says_what_to_leave_out_of_a_transform() -> None:
    import dalipipe
    from dalipipe.loader import DataLoader
    from dalipipe.ops import image as ops

    floats = torchvision.datasets.FakeData(
        4, (3, 8, 8), transform=v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32)])
    )
    with pytest.raises(ValueError, match="drop ToTensor and Normalize"):
        DataLoader(MapDataset(floats), 2, policy=dalipipe.Policy([ops.Normalize()]), device="cpu")
