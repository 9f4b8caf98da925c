"""The loader's contract: each rule a test, on real JPEG files and on arrays."""

from __future__ import annotations

import gc
import json
import pickle
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import picture

import dalipipe
from dalipipe import recipes
from dalipipe.loader import DataLoader, StateMismatchError
from dalipipe.ops import image as ops

POLICY = dalipipe.Policy(
    [ops.RandomResizedCrop(24), ops.Rotate(20, p=0.5), ops.HorizontalFlip(), ops.Contrast(p=0.5), ops.Normalize()]
)


@pytest.fixture
def folder(tmp_path: Path) -> dalipipe.ImageFolder:
    """23 JPEG files of different sizes, colour and grey, in three classes."""
    from PIL import Image

    for i in range(23):
        path = tmp_path / "images" / f"class_{i % 3}" / f"{i:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(picture(31 + i, 60 - i, seed=i))
        (image.convert("L") if i % 7 == 3 else image).save(
            path, quality=70 + i, subsampling=i % 3, progressive=i % 4 == 1
        )
    return dalipipe.ImageFolder(tmp_path / "images")


@pytest.fixture
def arrays() -> dalipipe.Arrays:
    rng = np.random.default_rng(0)
    return dalipipe.Arrays(rng.integers(0, 256, (23, 12, 14, 3), dtype=np.uint8), np.arange(23) % 5)


def make(dataset: Any, batch_size: int = 4, **kw: Any) -> DataLoader:
    return DataLoader(dataset, batch_size, **{"policy": POLICY, "seed": 5, "device": "cpu", "shuffle": True, **kw})


def by_sample(loader: Any) -> dict[int, tuple[np.ndarray, int]]:
    """sample → (pixels, label), over one epoch."""
    out = {}
    for batch in loader:
        for i, index in enumerate(batch.indices.tolist()):
            out[index] = (batch.image[i].float().numpy(), int(batch.label[i]))
    return out


def same(a: dict[int, Any], b: dict[int, Any]) -> bool:
    return a.keys() == b.keys() and all((a[i][0] == b[i][0]).all() and a[i][1] == b[i][1] for i in a)


# What comes out -----------------------------------------------------------------------------------------------------


def test_batches_unpack_and_are_named(folder: Any) -> None:
    loader = make(folder)
    assert isinstance(loader, torch.utils.data.DataLoader)
    assert len(loader) == 6 and loader.classes == ["class_0", "class_1", "class_2"]
    for batch in loader:
        images, labels = batch
        assert images is batch.image and labels is batch.label
        assert images.dtype == torch.float32 and images.shape[1:] == (3, 24, 24)
        assert labels.dtype == torch.int64 and len(labels) == len(images) == len(batch.indices)
        assert (labels.numpy() == folder.labels[batch.indices]).all()
    assert len(images) == 23 % 4


def test_length_is_exact(folder: Any) -> None:
    for batch_size, drop_last, expected in ((4, False, 6), (4, True, 5), (23, True, 1), (50, False, 1), (1, False, 23)):
        loader = make(folder, batch_size, drop_last=drop_last)
        assert len(loader) == expected == sum(1 for _ in loader)


def test_every_sample_once_an_epoch_in_another_order_each(folder: Any) -> None:
    loader = make(folder)
    orders = [np.concatenate([batch.indices for batch in loader]) for _ in range(3)]
    assert all(sorted(order.tolist()) == list(range(23)) for order in orders)
    assert (orders[0] != orders[1]).any() and (orders[1] != orders[2]).any()
    loader.set_epoch(1)
    assert (np.concatenate([batch.indices for batch in loader]) == orders[1]).all()


def test_same_pixels_for_any_batch_size_threads_and_ranks(folder: Any) -> None:
    expected = by_sample(make(folder, 23))
    for batch_size in (1, 7, 64):
        for threads in (1, 4):
            for decoder in ("dali", "pillow"):
                got = make(folder, batch_size, num_workers=threads, decoder=decoder, prefetch_factor=1 + threads)
                assert same(by_sample(got), expected)
    for world in (1, 2, 3, 4):
        shares: dict[int, Any] = {}
        for rank in range(world):
            shares |= by_sample(make(folder, 3, num_workers=1 + 3 * (rank % 2), rank=rank, world_size=world))
        assert same(shares, expected)
    assert not same(by_sample(make(folder, 23, seed=6)), expected)


def test_engines_and_decoders_agree(folder: Any) -> None:
    native = by_sample(make(folder, 23))
    pillow = by_sample(make(folder, 23, decoder="pillow"))
    assert same(native, pillow)
    reference = by_sample(make(folder, 23, engine="reference", decoder="pillow"))
    scale = 1 / (255 * min(ops.IMAGENET_STD))
    for index, (pixels, _) in native.items():
        assert (
            np.abs(pixels - reference[index][0]).max() <= 2.01 * scale
        )  # a step of uint8 for the warp, one for the colour


def test_decoded_pixels_are_pillows(folder: Any) -> None:
    from PIL import Image

    loader = make(folder, 1, policy=None, dtype=torch.uint8, shuffle=False)
    for path, batch in zip(folder.paths, loader, strict=True):
        with Image.open(path) as image:
            expected = np.asarray(image.convert("RGB"))
        assert (batch.image[0].permute(1, 2, 0).numpy() == expected).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_dtypes_and_layouts(arrays: Any, dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    expected = next(iter(make(arrays))).image
    image = next(iter(make(arrays, dtype=dtype, memory_format=memory_format))).image
    assert image.dtype == dtype and image.shape == expected.shape
    assert image.is_contiguous(memory_format=memory_format)
    assert (image == expected.to(dtype)).all()


def test_no_policy_and_uint8(arrays: Any) -> None:
    plain = make(arrays, policy=None, shuffle=False, dtype=torch.uint8)
    images = torch.cat([batch.image for batch in plain])
    assert (images.permute(0, 2, 3, 1).numpy() == arrays.images).all()
    floats = torch.cat([b.image for b in make(arrays, policy=None, shuffle=False)])
    np.testing.assert_allclose(floats.numpy(), images.numpy() / np.float32(255), atol=1e-7)


def test_grey_arrays() -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 8, 8), dtype=np.uint8)
    loader = DataLoader(
        dalipipe.Arrays(torch.from_numpy(images)),
        9,
        policy=dalipipe.Policy([ops.Normalize(0.5, 0.5)]),
        seed=0,
        device="cpu",
    )
    (image,) = next(iter(loader))
    assert image.shape == (9, 1, 8, 8)
    np.testing.assert_allclose(image[:, 0].numpy(), images / 127.5 - 1, atol=1e-6)


def test_torch_manual_seed_works(arrays: Any) -> None:
    def pixels() -> dict[int, Any]:
        return by_sample(make(arrays, 23, seed=None))

    torch.manual_seed(3)
    first, other = pixels(), pixels()
    torch.manual_seed(3)
    assert same(pixels(), first) and not same(other, first)
    generator = torch.Generator().manual_seed(9)
    assert (
        make(arrays, seed=None, generator=generator).seed
        == make(arrays, seed=None, generator=generator.manual_seed(9)).seed
    )


# Iterating ----------------------------------------------------------------------------------------------------------


def test_breaking_off_frees_everything(folder: Any) -> None:
    loader = make(folder, 2)
    for _ in range(5):
        for _batch in loader:
            break
        del _batch
    gc.collect()
    assert [t.name for t in threading.enumerate() if t.name == "dalipipe-prefetch"] == []
    assert len(loader._lanes) == 1, "the one lane is used again"


def test_two_live_iterators_do_not_disturb_each_other(folder: Any) -> None:
    first_alone, second_alone = [[b.image for b in e] for e in (lambda loader: (loader, loader))(make(folder))]
    loader = make(folder)
    first, second = iter(loader), iter(loader)
    for a, b in zip(first_alone, second_alone, strict=True):
        assert (next(second).image == b).all() and (next(first).image == a).all()


def test_tensors_are_never_overwritten_under_the_caller(folder: Any) -> None:
    loader = make(folder, 2)
    kept = [batch.image for _ in range(3) for batch in loader]
    copies = [image.clone() for image in kept]
    for _ in range(3):
        for _batch in loader:
            pass
    assert all((a == b).all() for a, b in zip(kept, copies, strict=True))
    part = next(iter(loader)).image[0, :, 3:5]
    copy = part.clone()
    for _batch in loader:
        pass
    assert (part == copy).all(), "a view keeps the whole buffer"


def test_memory_comes_back_to_the_pool(folder: Any) -> None:
    loader = make(folder, 2)
    for _ in range(3):
        for _batch in loader:
            pass
    del _batch
    gc.collect()
    free = loader.stats()["buffers_bytes"]
    # At most two batches waiting, one being put there, one with the user and one being made; two in the decoder.
    assert 0 < free <= 1.25 * 7 * (1 << 15)
    for _ in range(3):
        for _batch in loader:
            pass
    del _batch
    gc.collect()
    assert loader.stats()["buffers_bytes"] <= 1.25 * 7 * (1 << 15)


def test_close_and_go_on(folder: Any) -> None:
    loader = make(folder)
    iterator = iter(loader)
    next(iterator)
    loader.close()
    with pytest.raises(StopIteration):
        next(iterator)
    assert not loader._lanes
    assert sum(1 for _ in loader) == len(loader)


def test_a_dropped_loader_is_collected(folder: Any) -> None:
    loader = make(folder)
    next(iter(loader))
    watch = weakref.ref(loader)
    del loader
    gc.collect()
    assert watch() is None


def test_leaving_in_the_middle_of_an_epoch_exits_at_once(tmp_path: Path, jpeg_folder: Any) -> None:
    root = jpeg_folder(n=40, classes=2)
    code = (
        "import dalipipe, sys\n"
        f"source = dalipipe.ImageFolder({str(root)!r})\n"
        "loader = dalipipe.DataLoader(source, 2, policy=dalipipe.recipes.imagenet_train(16), device='cpu')\n"
        "it = iter(loader); next(it); print('out', flush=True)\n"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "out\n", ""), done.stderr
    assert time.perf_counter() - start < 60


def test_making_a_loader_leaves_cuda_alone(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has asked CUDA anything cannot be forked any more, so nothing is asked before the first batch."""

    def asked(*args: Any) -> None:
        raise AssertionError("CUDA was asked")

    for name in ("is_available", "device_count", "current_device", "_lazy_init"):
        monkeypatch.setattr(torch.cuda, name, asked)
    loader = make(folder, device="auto")
    loader.load_state_dict(pickle.loads(pickle.dumps(loader)).state_dict())
    assert len(loader) == 6
    with pytest.raises(AssertionError, match="CUDA was asked"):
        iter(loader)


def test_loaders_pickle_before_and_after_use(folder: Any) -> None:
    loader = make(folder)
    before = by_sample(loader)  # epoch 0
    used = pickle.loads(pickle.dumps(loader))
    assert same(by_sample(used), by_sample(loader))  # epoch 1, in both
    fresh = pickle.loads(pickle.dumps(make(folder)))
    assert same(by_sample(fresh), before)


# State --------------------------------------------------------------------------------------------------------------


def tail(loader: DataLoader, epochs: int = 2) -> list[tuple[Any, ...]]:
    """Everything from here to the end of epoch ``epochs``-1."""
    out = []
    while loader.state_dict()["epoch"] < epochs:
        out += [(b.indices.tolist(), b.image.clone(), b.label.clone()) for b in loader]
    return out


def equal(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(
        x[0] == y[0] and (x[1] == y[1]).all() and (x[2] == y[2]).all() for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("dataset", ["folder", "arrays"])
def test_resume_before_every_batch_of_two_epochs(dataset: str, request: Any) -> None:
    """Saves the state before every batch, restores each into a new loader, compares the whole tail bit for bit."""
    source = request.getfixturevalue(dataset)
    everything = tail(make(source))
    loader = make(source)
    states = []
    for _ in range(2):
        for _batch in loader:
            states.append(json.loads(json.dumps(loader.state_dict())))  # after the batch: with prefetch in flight
    for given, state in enumerate(states, 1):
        resumed = make(source)
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
        assert equal(tail(resumed), everything[given:])


def test_resume_of_a_resume_and_twice_the_same(folder: Any) -> None:
    everything = tail(make(folder))
    loader = make(folder)
    for given in (2, 3):  # two batches, then three more, each in a new loader
        resumed = make(folder)
        resumed.load_state_dict(loader.state_dict())
        loader = resumed
        iterator = iter(loader)
        for _ in range(given):
            next(iterator)
    state = loader.state_dict()
    assert state == loader.state_dict() and state["samples"] == 20
    again = make(folder)
    again.load_state_dict(state)
    again.load_state_dict(state)
    assert equal(tail(again), everything[5:])


def test_resume_on_another_number_of_ranks(folder: Any) -> None:
    loader = make(folder, 6, drop_last=True)
    whole = list(loader)
    iterator = iter(make_at := make(folder, 6, drop_last=True))
    next(iterator)
    state = make_at.state_dict()
    for world in (1, 2, 3):
        ranks = [make(folder, 6 // world, drop_last=True, rank=r, world_size=world) for r in range(world)]
        for rank in ranks:
            rank.load_state_dict(state)
        for expected, *parts in zip(whole[1:], *ranks, strict=True):
            assert (torch.cat([p.image for p in parts]) == expected.image).all()


def test_state_is_small_and_safe(folder: Any, tmp_path: Path) -> None:
    loader = make(folder)
    next(iter(loader))
    state = loader.state_dict()
    assert len(json.dumps(state)) < 1024
    torch.save(state, tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True) == state


def test_state_follows_set_epoch(folder: Any) -> None:
    loader = make(folder)
    loader.set_epoch(7)
    assert loader.state_dict()["epoch"] == 7
    next(iter(loader))
    assert (loader.state_dict()["epoch"], loader.state_dict()["samples"]) == (7, 4)
    state = loader.state_dict()
    resumed = make(folder)
    resumed.load_state_dict(state)
    resumed.set_epoch(7)  # what every training script does at the top of its loop
    assert resumed.state_dict() == state
    assert sum(1 for _ in resumed) == len(loader) - 1
    resumed.load_state_dict(state)
    resumed.set_epoch(8)
    assert sum(1 for _ in resumed) == len(loader)


def test_an_unseeded_loader_takes_the_saved_seed(folder: Any) -> None:
    first = make(folder, seed=None)
    iterator = iter(first)
    next(iterator)
    state = first.state_dict()
    expected = [b.image for b in iterator]
    second = make(folder, seed=None)
    second.load_state_dict(state)
    assert all((a == b.image).all() for a, b in zip(expected, second, strict=True))


def test_what_cannot_be_continued_says_why(folder: Any, arrays: Any) -> None:
    state = make(folder).state_dict()
    with pytest.raises(StateMismatchError, match=r"global_batch: saved 4, here 5") as caught:
        make(folder, 5, seed=6).load_state_dict(state)
    assert set(caught.value.differences) == {"global_batch", "seed"}
    for change in ({"policy": recipes.imagenet_train(24)}, {"shuffle": False}, {"drop_last": True}):
        with pytest.raises(StateMismatchError, match=f"{next(iter(change)).replace('shuffle', 'order')}: saved"):
            make(folder, **change).load_state_dict(state)
    with pytest.raises(StateMismatchError, match="dataset: saved 'folder-23"):
        make(arrays).load_state_dict(state)
    for broken in (
        {},
        {"version": 99},
        [],
        {**state, "samples": 99},
        {**state, "epoch": "1"},
        {**state, "samples": None},
    ):
        with pytest.raises(StateMismatchError):
            make(folder).load_state_dict(broken)  # type: ignore[arg-type]


# Bad arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kw", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be a whole number, got 2.5"),
        ({"num_workers": -1}, ValueError, "num_workers must be at least 0, got -1"),
        ({"batch_size": 24, "drop_last": True}, ValueError, "batch of 24 is larger than the data set of 23 samples"),
        ({"dtype": torch.int32}, ValueError, "dtype must be one of torch.float32.*got torch.int32"),
        ({"dtype": torch.uint8}, ValueError, "dtype=torch.uint8 cannot hold what Normalize"),
        ({"memory_format": torch.channels_last_3d}, ValueError, "memory_format must be"),
        ({"policy": [ops.Invert()]}, TypeError, "policy must be a dalipipe.Policy, got list"),
        ({"collate_fn": len}, TypeError, "collate_fn is not taken"),
        ({"sampler": range(3)}, ValueError, "sampler says the order, so shuffle=True"),
        ({"sampler": 3, "shuffle": False}, TypeError, "sampler must be a dalipipe order.*got int"),
        ({"batch_sampler": [[1]]}, ValueError, "batch_sampler says which samples make which batch"),
        ({"shards": "all"}, ValueError, "shards must be one of equal, exact, got 'all'"),
        ({"shards": "exact", "drop_last": True}, ValueError, "counts every sample once"),
        ({"on_error": "ignore"}, ValueError, "on_error must be one of raise, skip, substitute, got 'ignore'"),
        ({"max_bad": 2}, ValueError, "max_bad must be a share in"),
        ({"timeout": -1}, ValueError, "timeout must be seconds"),
        ({"decoder": "jpeg"}, ValueError, "decoder must be one of auto, dali, native, pillow, got 'jpeg'"),
        ({"engine": "gpu"}, ValueError, "engine must be one of"),
        ({"rank": 1}, ValueError, "both rank and world_size"),
        ({"rank": 0, "world_size": 2, "seed": None}, ValueError, "give each the same seed"),
        ({"device": "nonsense"}, RuntimeError, "nonsense"),
    ],
)
def test_bad_arguments_are_named(arrays: Any, kw: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(arrays, **kw)


def test_devices_that_are_not_there(arrays: Any) -> None:
    with pytest.raises(ValueError, match="device must be \"auto\", a CPU or a CUDA device, got 'meta'"):
        make(arrays, device="meta")
    missing = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(
        ValueError, match=rf"device='{missing}', but torch sees \d+ CUDA devices here: give device=\"auto\""
    ):
        iter(make(arrays, device=missing))


def test_pictures_of_different_sizes_need_a_policy(folder: Any) -> None:
    with pytest.raises(ValueError, match=r"pictures of different sizes cannot be stacked.*RandomResizedCrop"):
        next(iter(make(folder, 23, policy=None)))


def test_torchvision_datasets(jpeg_folder: Any) -> None:
    from torchvision.datasets import ImageFolder

    root = jpeg_folder(n=9, classes=3)
    theirs = ImageFolder(root)
    assert [s[0] for s in theirs.samples] == dalipipe.ImageFolder(root).paths
    assert same(by_sample(make(theirs)), by_sample(make(dalipipe.ImageFolder(root))))
    with pytest.raises(ValueError, match=r"has a transform, function, and there is a policy"):
        make(ImageFolder(root, transform=lambda x: x))
    with pytest.raises(ValueError, match=r"a policy needs a data set with one field of kind image"):
        make([1, 2, 3])
    assert [batch[0].tolist() for batch in make([1, 2, 3], 2, policy=None, shuffle=False)] == [[1, 2], [3]]
    wrapped = dalipipe.MapDataset(ImageFolder(root, transform=lambda image: image.resize((20, 20))))
    assert next(iter(make(wrapped, 3, policy=None))).image.shape == (3, 3, 20, 20)


def test_torchvision_arrays() -> None:
    class Cifar:  # what torchvision's CIFAR10 has
        def __init__(self) -> None:
            self.data, self.targets, self.classes = np.zeros((4, 32, 32, 3), np.uint8), [0, 1, 2, 1], ["a", "b", "c"]
            self.transform = self.target_transform = self.transforms = None

    loader = make(Cifar(), policy=recipes.cifar10())
    assert next(iter(loader)).image.shape == (4, 3, 32, 32) and loader.classes == ["a", "b", "c"]


@pytest.mark.cuda
def test_cuda_gives_the_pixels_of_the_cpu(arrays: Any) -> None:
    cpu, cuda = make(arrays, 23), make(arrays, 23, device="cuda")
    for a, b in zip(cpu, cuda, strict=True):
        assert b.image.is_cuda and b.label.is_cuda
        assert (a.image == b.image.cpu()).all() and (a.label == b.label.cpu()).all()
