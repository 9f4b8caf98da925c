"""Loaders that are not dalipipe's, explained from outside: what is known of them, and delays put into them found."""

from __future__ import annotations

import json
import time
from collections import namedtuple
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    Subset,
)
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, v2

import dalipipe
from dalipipe.clock import StageClock
from dalipipe.stalls.explanation import Explanation
from dalipipe.stalls.foreign import Foreign, TorchLoader, files_of, foreign, moved, tensors, watched

MS = 1e-3


class Sleep:
    """A transform that takes its time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, value: Any) -> Any:
        time.sleep(self.seconds)
        return value


class Crop(Sleep):
    pass


class Jitter(Sleep):
    pass


class Items(Dataset):
    """Numbers, each made in ``item_s``, and in ``first_s`` more when it is asked for the first time."""

    def __init__(self, size: int, *, item_s: float = 0.0, first_s: float = 0.0, transform: Any = None) -> None:
        self.size, self.item_s, self.first_s, self.transform = size, item_s, first_s, transform
        self.seen: set[int] = set()

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        time.sleep(self.item_s + (0 if index in self.seen else self.first_s))
        self.seen.add(index)
        value = torch.tensor(float(index))
        return value if self.transform is None else self.transform(value)


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(torch.arange(40.0))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# Files and transforms of data sets ----------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    made = [tmp_path / f"{number}.bin" for number in range(6)]
    for number, path in enumerate(made):
        path.write_bytes(bytes(100 * number))
    return made


class Listed(Dataset):
    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> int:
        return index


def test_files_of_lists(files: list[Path]):
    names = [str(path) for path in files]
    for listed in (
        {"samples": [(path, 0) for path in names]},
        {"imgs": tuple(names)},
        {"paths": files},
        {"image_paths": np.array(names)},
        {"files": [path.name for path in files], "root": files[0].parent},
        {"files": [1, 2, 3], "_images": names},
    ):
        assert files_of(Listed(**listed), [4, 0]) == [names[4], names[0]]


def test_files_of_joined_parts(files: list[Path]):
    whole = Listed(paths=files)
    joined = ConcatDataset([Subset(whole, [5, 3]), whole])
    assert files_of(Subset(joined, [3, 1, 7]), [0, 1, 2]) == [str(files[at]) for at in (1, 3, 5)]


@pytest.mark.parametrize(
    "listed",
    [
        {},
        {"samples": [("not/there.jpg", 0)] * 6},
        {"paths": ["only one"]},
        {"files": [None] * 6},
        {"images": np.zeros((6, 3, 8, 8))},
        {"paths": lambda: 3},
    ],
)
def test_files_that_are_not_known(listed: dict[str, Any]):
    assert files_of(Listed(**listed), [0, 1]) == []
    assert files_of(Listed(paths=["x"] * 6), ["a key", -1]) == []


def test_transforms_are_watched_in_a_copy():
    dataset = Items(3, transform=Compose([Crop(0), Crop(0), Jitter(0), lambda value: value + 1]))
    before, clock = dataset.transform, StageClock()
    assert watched(dataset, clock)[2] == 3
    assert list(clock.stages) == ["Crop", "Crop 2", "Jitter", "function"]
    assert dataset.transform is before and [type(step) for step in before.transforms[:2]] == [Crop, Crop]


def test_transforms_of_torchvision(jpeg_folder: Any):
    folder = jpeg_folder(4)
    dataset = ImageFolder(str(folder), v2.Compose([v2.PILToTensor(), v2.CenterCrop(8)]), lambda label: label + 10)
    clock = StageClock()
    image, label = watched(Subset(dataset, [1]), clock)[0]
    assert image.shape == (3, 8, 8) and label >= 10
    assert {name: times.batches for name, times in clock.stages.items()} == {"PILToTensor": 1, "CenterCrop": 1}
    assert watched(Listed(), clock)[2] == 2


def test_stages_are_told_apart():
    dataset = Items(40, item_s=1 * MS, transform=Compose([Crop(0.5 * MS), Jitter(0)]))
    stages, in_memory = TorchLoader(DataLoader(dataset, 5), 2, 2).stages(3)
    assert list(stages) == ["item", "Crop", "Jitter", "collate"] and not in_memory
    assert (stages["item"].seconds >= 4.9 * MS).all() and len(stages["item"].seconds) == 3
    assert (stages["Crop"].seconds >= 2.5 * MS).all()
    assert max(stages["Jitter"].seconds.min(), stages["collate"].seconds.min()) < 2 * MS
    assert stages["item"].cores < 0.8


def test_reading_and_decoding_are_told_apart(jpeg_folder: Any):
    dataset = ImageFolder(str(jpeg_folder(12)), v2.Compose([v2.PILToTensor(), v2.CenterCrop(8)]))
    stages, in_memory = TorchLoader(DataLoader(dataset, 4), 2, 2).stages(2)
    assert list(stages) == ["read", "decode", "PILToTensor", "CenterCrop", "collate"]
    assert list(in_memory) == ["read"]
    assert all((stage.seconds > 0).all() for stage in stages.values())


def test_stages_of_items_without_batches():
    stages, _ = TorchLoader(DataLoader(Items(10, item_s=MS), batch_size=None), 2, 2).stages(2)
    assert list(stages) == ["item", "collate"]


# Runs ---------------------------------------------------------------------------------------------------------------


def values(batches: Any, count: int) -> list[list[float]]:
    taken = [batch.reshape(-1).tolist() for batch in islice(batches, count)]
    batches.close()
    return taken


def test_blocks_read_anew_what_they_read_from_memory_later():
    of = TorchLoader(DataLoader(Items(1000), 4, shuffle=True), steps=3, blocks=3)
    count = of.warm_up + 3
    anew = [values(of.cold(block), count) for block in range(3)]
    assert [values(of.cached(block + 1), count) for block in range(3)] == anew
    seen = [value for block in anew for batch in block for value in batch]
    assert len(set(seen)) == len(seen) == 3 * count * 4


def test_small_data_come_again():
    of = TorchLoader(DataLoader(Items(10), 4), steps=3, blocks=2)
    assert values(of.cold(0), 5) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], [0, 1, 2, 3], [4, 5, 6, 7]]


def test_torch_warns_of_many_workers_once(recwarn: pytest.WarningsRecorder):
    loader = DataLoader(Items(64), 2, num_workers=9, prefetch_factor=2)
    told = len(recwarn)
    of = TorchLoader(loader, steps=1, blocks=1)
    assert values(of.cold(0), 2) == [[0, 1], [2, 3]]
    assert len(recwarn) == told


def test_any_way_to_make_batches():
    dataset = Items(12)
    sampler = BatchSampler(SequentialSampler(range(12)), 5, drop_last=True)
    assert values(TorchLoader(DataLoader(dataset, batch_sampler=sampler), 1, 1).cold(0), 2)[1] == [5, 6, 7, 8, 9]
    assert values(TorchLoader(DataLoader(dataset, batch_size=None), 1, 1).cold(0), 2) == [[0], [1]]
    doubled = DataLoader(dataset, 2, collate_fn=lambda items: 2 * torch.stack(items))
    assert values(TorchLoader(doubled, 1, 1).cold(0), 2) == [[0, 2], [4, 6]]


@pytest.mark.parametrize("loader", [DataLoader(Stream(), 8), [torch.zeros(8), torch.ones(8), 3 * torch.ones(8)]])
def test_streams_go_on_where_the_last_block_ended(loader: Any):
    of = foreign(loader, 2, 2)
    first, second = values(of.cold(0), 2), values(of.cold(1), 1)
    assert [*first, *second] == values(of.cached(1), 3)
    assert len({batch[1] for batch in [*first, *second]}) == 3
    stages, in_memory = of.stages(4)
    assert list(stages) == ["prep"] and len(stages["prep"].seconds) and not in_memory


def test_what_cannot_be_explained():
    with pytest.raises(TypeError, match="give what the iterator is made of"):
        dalipipe.explain(iter([torch.zeros(1)]), print)
    with pytest.raises(TypeError, match="or give its batches anew"):
        dalipipe.explain(3, print)
    with pytest.raises(ValueError, match="list gives no batch"):
        dalipipe.explain([], print)
    with pytest.raises(ValueError, match="the loader gives no batch"):
        dalipipe.explain(DataLoader(Items(3), 8, drop_last=True), print)
    with pytest.raises(ValueError, match="steps must be at least 12, got 3"):
        dalipipe.explain(DataLoader(Items(3)), print, steps=3)
    with pytest.raises(TypeError, match="step must be a function of a batch, got int"):
        dalipipe.explain(DataLoader(Items(3)), 7)


def test_batches_of_any_form():
    Pair = namedtuple("Pair", "image label")
    batch = {"pairs": [Pair(torch.zeros(2, 3), 5), (torch.ones(4),)], "name": "x"}
    there = moved(batch, torch.device("meta"))
    assert [tensor.device.type for tensor in tensors(there)] == ["meta", "meta"]
    assert isinstance(there["pairs"][0], Pair) and there["pairs"][0].label == 5 and there["name"] == "x"
    assert [tensor.shape for tensor in tensors(batch)] == [(2, 3), (4,)]


# Explained ----------------------------------------------------------------------------------------------------------


def explained(loader: Any, step_s: float, steps: int = 12) -> Explanation:
    found = dalipipe.explain(loader, lambda batch: time.sleep(step_s), steps=steps)
    assert sum(span.value for _, span in found.parts) == pytest.approx(found.step_ms.value, rel=1e-9)
    assert Explanation.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found
    assert found.loader["batch_size"] == 4
    assert {stage.name for stage in found.stages} >= {"step", found.bottleneck}
    return found


def test_a_slow_item_is_found():
    found = explained(DataLoader(Items(1000, item_s=2 * MS, transform=Crop(0)), 4), step_s=4 * MS)
    assert found.compute_ms.value >= 4
    assert found.prep_stall_ms.value + found.fetch_stall_ms.value >= 7.9
    assert found.bottleneck == "item" and "bound by the data set's __getitem__" in str(found)
    workers = [what_if for what_if in found.what_ifs if what_if.name.startswith("running ")]
    assert workers and all(what_if.step_ms.value < found.step_ms.value for what_if in workers)
    assert "only its own code knows" in found.loader["as dalipipe.DataLoader"]


def test_a_slow_step_is_found():
    found = explained(DataLoader(Items(1000), 4), step_s=8 * MS)
    assert found.compute_ms.value >= 8 and found.stages[-1].name == "step"
    assert found.stall < 0.5
    assert {what_if.name for what_if in found.what_ifs} >= {"dalipipe.DataLoader"}


def test_what_is_slow_only_once_is_fetched():
    found = explained(DataLoader(Items(2000, first_s=2 * MS), 4), step_s=2 * MS)
    assert found.fetch_stall_ms.value > 4 and found.fetch_stall_ms.value > found.prep_stall_ms.value
    assert found.loader["files"] == "first pass against later ones"
    assert "faster storage" not in {what_if.name for what_if in found.what_ifs}


def test_bringing_batches_to_the_device_is_copy():
    """The device being one that any machine has."""

    def step(batch: torch.Tensor) -> None:
        time.sleep(3 * MS + (4 * MS if batch.device.type == "cpu" else 0))

    found = dalipipe.explain(DataLoader(Items(1000), 4), step, steps=12, device="meta")
    assert found.compute_ms.value >= 3 and found.copy_ms.value > 3
    assert found.copy_ms.value > found.prep_stall_ms.value + found.fetch_stall_ms.value
    assert [stage.name for stage in found.stages][-2:] == ["copy", "step"] and set(found.steps_ms) > {"host"}
    assert found.loader["device"] == "meta"


class Named:
    """As albumentations': called by keyword, and asked for what it holds."""

    mean = 0.0

    def __call__(self, *, image: Any) -> Any:
        return {"image": image}


Named.__name__ = "Compose"


class Strict(Items):
    """A data set that only its workers may read."""

    def __init__(self, size: int, transform: Any) -> None:
        super().__init__(size)
        self.transforms_by_name = transform
        self.transform = transform
        self.only_in_workers = False

    def __getitem__(self, index: int) -> Any:
        if self.only_in_workers and torch.utils.data.get_worker_info() is None:
            raise RuntimeError("the file is not open here. It is in workers")
        return self.transform(image=torch.tensor(float(index)))["image"] + self.transform.mean


def test_transforms_that_are_called_by_name():
    found = explained(DataLoader(Strict(200, Named()), 4), step_s=1 * MS)
    assert "stages" not in found.loader and "Compose" in {stage.name for stage in found.stages}


def test_what_only_workers_can_do_is_timed_as_a_whole():
    dataset = Strict(200, Named())
    dataset.only_in_workers = True
    found = explained(DataLoader(dataset, 4, num_workers=1), step_s=1 * MS)
    assert found.loader["stages"] == "not told apart: the file is not open here"
    assert [stage.name for stage in found.stages] == ["prep", "step"]


def test_a_collate_function_is_not_left_out():
    def collate(items: list[Any]) -> Any:
        return torch.stack(items) + 1

    found = explained(DataLoader(Items(200), 4, collate_fn=collate), step_s=1 * MS)
    assert "collate_fn" in found.loader["as dalipipe.DataLoader"]
    assert "dalipipe.DataLoader" not in {what_if.name for what_if in found.what_ifs}


def test_who_prepares_in_the_background_and_who_does_not():
    class Slow:
        def __iter__(self) -> Iterator[torch.Tensor]:
            for _ in range(40):
                time.sleep(4 * MS)
                yield torch.zeros(4)

    found = explained(Slow(), step_s=4 * MS)
    assert found.predicted_ms == pytest.approx(found.step_ms.value, rel=0.25)


def test_a_subclass_that_iterates_in_its_own_way_is_left_whole():
    class Shifted(DataLoader):
        def __iter__(self) -> Any:
            return (batch + 1 for batch in super().__iter__())

    assert type(foreign(Shifted(Items(8), 4), 1, 1)) is Foreign


def test_a_list_of_batches():
    found = explained([torch.zeros(4)] * 3, step_s=2 * MS)
    assert found.loader["kind"] == "list" and [stage.name for stage in found.stages] == ["prep", "step"]


def test_torchvision_beside_dalipipe(jpeg_folder: Any):
    transform = v2.Compose([v2.PILToTensor(), v2.CenterCrop(8), v2.ToDtype(torch.float32, scale=True)])
    dataset = ImageFolder(str(jpeg_folder(16)), transform)
    found = explained(DataLoader(dataset, 4, shuffle=True), step_s=2 * MS)
    ours = next(what_if for what_if in found.what_ifs if what_if.name == "dalipipe.DataLoader")
    assert ours.basis == "tried" and ours.how == "dalipipe.DataLoader(dataset, 4)"
    assert found.loader["files"] == "forgotten by the system, and read anew" and found.loader["decodes"] == "JPEG"
    assert [stage.name for stage in found.stages][:2] == ["read", "decode"]


@pytest.mark.slow
def test_workers_that_do_not_keep_up():
    dataset = Items(1000, item_s=8 * MS, transform=Compose([Jitter(2 * MS)]))
    found = explained(DataLoader(dataset, 4, num_workers=2), step_s=5 * MS, steps=24)
    assert found.bottleneck == "item"
    assert found.step_ms.value > 18 and found.stall > 0.5  # two workers make a batch every 20 ms
    item = next(stage for stage in found.stages if stage.name == "item")
    assert 150 < item.samples_per_s < 260 and item.occupancy > 0.5
    assert found.predicted_ms == pytest.approx(found.step_ms.value, rel=0.4)
    more = [what_if for what_if in found.what_ifs if what_if.name.startswith("running ")]
    assert more and all(what_if.step_ms.value < found.step_ms.value for what_if in more)


@pytest.mark.slow
def test_workers_that_keep_up():
    found = explained(DataLoader(Items(1000, item_s=2 * MS), 4, num_workers=2), step_s=20 * MS, steps=24)
    assert found.bottleneck == "step" and found.stall < 0.3
    assert next(stage for stage in found.stages if stage.queue is not None).queue > 1


def test_foreign_is_what_is_not_known_better():
    assert type(foreign([1], 1, 1)) is Foreign
    assert type(foreign(DataLoader([1, 2]), 1, 1)) is TorchLoader
