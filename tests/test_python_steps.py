"""Transforms of data sets, converted by the loader, and what runs in Python because it cannot be."""

from __future__ import annotations

import pickle
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image, ImageFilter
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.transforms import v2

import dalipipe
from dalipipe.conversion import UnsupportedTransformError, convert
from dalipipe.ops import image as ops
from dalipipe.ops.python import PythonStep
from dalipipe.policy import Policy, RandomApply
from dalipipe.schema import Field, Schema
from dalipipe.stages import lower

N = 11
TO_FLOAT = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
quiet = pytest.mark.filterwarnings("ignore:these steps run in Python")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """N pictures of different sizes in three classes."""
    draw = np.random.default_rng(0)
    for i in range(N):
        (tmp_path / f"class{i % 3}").mkdir(exist_ok=True)
        size = (40 + 3 * i, 70 - 4 * i)
        pixels = draw.integers(0, 256, (*(s // 8 + 1 for s in size), 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(pixels[: size[0], : size[1]]).save(tmp_path / f"class{i % 3}" / f"{i:02d}.png")
    return tmp_path


def load(dataset: Any, batch_size: int = 4, **kw: Any) -> dict[int, tuple[torch.Tensor, int]]:
    """Index → (picture, label)."""
    settings = {"seed": 5, "shuffle": True, "device": "cpu", **kw}
    loader = dalipipe.DataLoader(dataset, batch_size, **settings)
    found = {}
    for batch in loader:
        for index, image, label in zip(batch.indices.tolist(), batch.image, batch.label.tolist(), strict=True):
            found[index] = (image.clone(), label)
    return found


def same(a: dict[int, Any], b: dict[int, Any]) -> bool:
    return a.keys() == b.keys() and all((a[i][0] == b[i][0]).all() and a[i][1] == b[i][1] for i in a)


def seed_all() -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - users' transforms draw from it
    torch.manual_seed(1)


def global_numpy() -> float:
    return float(np.random.rand())  # noqa: NPY002


class Noise:
    """Draws from all three generators."""

    def __call__(self, x: Any) -> Any:
        amount = torch.rand(1).item() + random.random() + global_numpy() + torch.empty(1).uniform_().item()
        if isinstance(x, Image.Image):
            return x.point(lambda v: v * amount / 4)
        if x.dtype == torch.uint8:
            return (x * (amount / 4)).to(torch.uint8)
        return x + amount + torch.randn_like(x)


# The loader converts ------------------------------------------------------------------------------------------------


def test_the_loader_converts_a_folders_transform(folder: Path) -> None:
    crop = v1.Compose([v1.Resize((24, 20)), v1.RandomHorizontalFlip(), v1.ToTensor(), v1.Normalize(0.5, 0.25)])
    policy = Policy([ops.Resize((24, 20)), ops.HorizontalFlip(), ops.Normalize(0.5, 0.25)])
    wanted = load(dalipipe.ImageFolder(folder), policy=policy)
    assert same(load(dalipipe.ImageFolder(folder, crop)), wanted)
    assert same(load(dalipipe.ImageFolder(folder, transform=crop)), wanted)
    assert same(load(torchvision.datasets.ImageFolder(str(folder), crop)), wanted)
    loader = dalipipe.DataLoader(dalipipe.ImageFolder(folder, crop), 4, device="cpu")
    assert loader.conversion is not None and loader.conversion.ok and len(loader.conversion.entries) == 4
    assert loader.plan.policy == policy
    assert dalipipe.DataLoader(dalipipe.ImageFolder(folder), 4, policy=policy, device="cpu").conversion is None


def test_the_dtype_is_the_transforms(folder: Path) -> None:
    resize = v2.Resize((8, 8))
    for steps, dtype in (
        ([resize], torch.uint8),
        ([resize, v2.PILToTensor()], torch.uint8),
        ([resize, *TO_FLOAT], torch.float32),
        ([resize, v2.ToImage(), v2.ToDtype(torch.float16, scale=True)], torch.float16),
    ):
        image = next(iter(dalipipe.DataLoader(dalipipe.ImageFolder(folder, v2.Compose(steps)), 3, device="cpu"))).image
        assert image.dtype == dtype and image.shape == (3, 3, 8, 8)
    asked = dalipipe.DataLoader(dalipipe.ImageFolder(folder, resize), 3, device="cpu", dtype=torch.float32)
    assert next(iter(asked)).image.dtype == torch.float32


def test_labels_are_transformed(folder: Path) -> None:
    seen: list[int] = []

    def shifted(label: int) -> int:
        seen.append(label)
        return 10 - label

    crop = v2.CenterCrop(16)
    source = dalipipe.ImageFolder(folder, crop, shifted)
    assert sorted(seen) == [0, 1, 2] and set(source.labels.tolist()) == {8, 9, 10}
    theirs = torchvision.datasets.ImageFolder(str(folder), crop, shifted)
    assert same(load(source), load(theirs))
    assert [label for _, label in load(theirs, shuffle=False).values()] == [theirs[i][1] for i in range(N)]
    with pytest.raises(ValueError, match=r"target_transform must give a whole number.*got 'a' for 0"):
        dalipipe.ImageFolder(folder, target_transform=lambda label: "a")


def test_other_data_sets(tmp_path: Path) -> None:
    crop = v2.Compose([v2.CenterCrop(12), *TO_FLOAT])
    fake = torchvision.datasets.FakeData(N, (3, 16, 20), 4, transform=crop, target_transform=lambda y: y + 1)
    found = load(fake, shuffle=False, num_workers=1)
    for i in range(N):
        picture, label = fake[i]
        assert torch.allclose(found[i][0], picture, atol=1e-6) and found[i][1] == label
    assert fake.transform is crop  # left as it was

    class Cifar(torchvision.datasets.CIFAR10):
        def __init__(self, **kw: Any) -> None:
            torchvision.datasets.VisionDataset.__init__(self, str(tmp_path), **kw)
            self.data = np.random.default_rng(0).integers(0, 256, (N, 32, 32, 3), dtype=np.uint8)
            self.targets, self.classes = [i % 5 for i in range(N)], list("abcde")

    dataset = Cifar(transform=crop, target_transform=lambda y: 4 - y)
    found = load(dataset, shuffle=False)
    assert all(torch.allclose(found[i][0], dataset[i][0], atol=1e-6) for i in range(N))
    assert [found[i][1] for i in range(N)] == [dataset[i][1] for i in range(N)]
    assert found[0][0].shape == (3, 12, 12)


def test_a_joint_transform_moves_the_mask_too(tmp_path: Path) -> None:
    class Pairs(torchvision.datasets.OxfordIIITPet):
        def __init__(self, transforms: Any) -> None:
            torchvision.datasets.VisionDataset.__init__(self, str(tmp_path), transforms=transforms)

        def __len__(self) -> int:
            return 5

    def item(self: Any, index: int) -> Any:
        x = np.full((20, 30, 3), index, np.uint8)
        x[:, :7] = 200
        picture, mask = Image.fromarray(x), tv_tensors.Mask(torch.from_numpy(x[..., 0].copy()))
        return (picture, mask) if self.transforms is None else self.transforms(picture, mask)

    item.__module__ = "torchvision.datasets.pets"
    Pairs.__getitem__ = item  # type: ignore[method-assign]
    both = v2.Compose([v2.RandomHorizontalFlip(1.0), v2.CenterCrop((12, 24)), *TO_FLOAT])
    dataset = Pairs(both)
    loader = dalipipe.DataLoader(dataset, 5, device="cpu")
    batch = next(iter(loader))
    for i in range(5):
        picture, mask = dataset[i]
        assert torch.allclose(batch.image[i], picture, atol=1e-6) and (batch.mask[i] == mask).all()


def test_one_says_what_happens(folder: Path) -> None:
    policy = Policy([ops.CenterCrop(8)])
    with pytest.raises(ValueError, match=r"has a transform, CenterCrop, and there is a policy: give one"):
        dalipipe.DataLoader(dalipipe.ImageFolder(folder, v2.CenterCrop(8)), 4, policy=policy)
    with pytest.raises(TypeError, match=r"dalipipe.convert, which makes one of a transform"):
        dalipipe.DataLoader(dalipipe.ImageFolder(folder), 4, policy=v2.CenterCrop(8))
    with pytest.raises(ValueError, match="on_unsupported must be one of raise, python, got 'skip'"):
        dalipipe.DataLoader(dalipipe.ImageFolder(folder), 4, on_unsupported="skip")
    with pytest.raises(UnsupportedTransformError, match=r"Lambda\(\): it calls .*<lambda>"):
        dalipipe.DataLoader(torchvision.datasets.ImageFolder(str(folder), v1.Lambda(lambda x: x)), 4)

    class Own(torch.utils.data.Dataset):  # only its code knows what it does with it
        transform = v2.CenterCrop(8)

        def __getitem__(self, index: int) -> Any:
            return self.transform(Image.new("RGB", (9, 9)))

        def __len__(self) -> int:
            return 3

    with pytest.raises(ValueError, match=r"Own.transform is set, but only its own code knows.*dalipipe.convert"):
        dalipipe.DataLoader(Own(), 3)


def test_a_converted_loader_pickles_and_resumes(folder: Path) -> None:
    source = dalipipe.ImageFolder(folder, v2.Compose([v2.RandomResizedCrop(16), *TO_FLOAT]))
    loader = dalipipe.DataLoader(source, 3, shuffle=True, seed=1, device="cpu")
    batches = iter(loader)
    next(batches)
    again = dalipipe.DataLoader(source, 3, shuffle=True, seed=1, device="cpu")
    again.load_state_dict(loader.state_dict())
    copy = pickle.loads(pickle.dumps(loader))
    assert str(copy.conversion) == str(loader.conversion)
    for a, b, c in zip(batches, again, copy, strict=True):
        assert (a.image == b.image).all() and (a.image == c.image).all()


# Python steps -------------------------------------------------------------------------------------------------------


class Blur:
    """A step without chance, on PIL pictures."""

    def __call__(self, x: Image.Image) -> Image.Image:
        assert isinstance(x, Image.Image)
        return x.filter(ImageFilter.SMOOTH)

    def __repr__(self) -> str:
        return "Blur()"


class Grow:
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        assert x.dtype == torch.uint8
        return torch.cat([x, x.flip(2)], dim=2)


def double(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


def applied(transform: Any, picture: Any) -> torch.Tensor:
    out = transform(picture)
    return torch.from_numpy(np.array(out)).permute(2, 0, 1) if isinstance(out, Image.Image) else out


PLACES = {
    "first": [Blur(), v2.Resize((20, 24))],
    "between": [v2.Resize((20, 24)), Blur(), v2.RandomVerticalFlip(1.0), *TO_FLOAT],
    "last, of bytes": [v2.CenterCrop(20), v2.RandomInvert(1.0), Blur()],
    "on tensors": [v2.PILToTensor(), Grow(), v2.CenterCrop((16, 90)), v2.ToDtype(torch.float32, scale=True)],
    "two together": [Blur(), v2.PILToTensor(), Grow(), v2.CenterCrop((16, 90))],
    "two apart": [v2.Resize((30, 24)), Blur(), v2.RandomInvert(1.0), v2.PILToTensor(), Grow(), v2.CenterCrop(14)],
    "between sizes": [v2.Resize(24), Blur(), v2.CenterCrop(20), v1.ToTensor()],
    "between sizes, twice": [
        v1.RandomVerticalFlip(1.0),
        Blur(),
        v2.Resize(30),
        v2.PILToTensor(),
        Grow(),
        v2.CenterCrop(18),
    ],
    "on floats": [v2.CenterCrop(16), v1.ToTensor(), v1.Lambda(double)],
    "on floats, and then": [v2.CenterCrop(16), v1.ToTensor(), double, v1.Normalize(0.5, 0.25), v1.CenterCrop(9)],
    "all over": [Blur(), v2.Resize((24, 18)), Blur(), v1.ToTensor(), v1.Normalize(0.5, 0.25), v1.Lambda(double)],
    "to three": [v2.Resize((9, 7)), v1.ToTensor(), v1.Lambda(lambda x: x.mean(0, keepdim=True).expand(2, -1, -1))],
}


@quiet
@pytest.mark.parametrize("name", PLACES)
def test_a_python_step_does_what_it_did(folder: Path, name: str) -> None:
    transform = v1.Compose(PLACES[name])
    theirs = torchvision.datasets.ImageFolder(str(folder), transform)
    found = load(theirs, shuffle=False, on_unsupported="python", num_workers=2)
    for i in range(N):
        expected = applied(lambda x: x, theirs[i][0])
        assert found[i][0].dtype == expected.dtype and found[i][0].shape == expected.shape
        assert (found[i][0].float() - expected.float()).abs().max() <= (1 if expected.dtype == torch.uint8 else 0.04)


@quiet
@pytest.mark.parametrize("engine", ["native", "reference"])
def test_what_comes_before_python_may_end_at_any_sizes(folder: Path, engine: str) -> None:
    """Each with its own passes: displaced, erased, blurred, in a table, or nothing of that."""
    some = [ops.Elastic(20.0, 3.0, p=0.4), ops.Invert(p=0.4), ops.GaussianBlur(5, p=0.4), ops.Cutout(9, p=0.5)]
    before = [ops.RandomResize(20, 30), *some, ops.Equalize(p=0.3)]
    chosen = {"dtype": torch.uint8, "engine": engine, "decoder": "pillow"}
    source, crop = dalipipe.ImageFolder(folder), ops.CenterCrop(40)
    split = load(source, 7, policy=Policy([*before, PythonStep(lambda x: x), crop]), **chosen)
    whole = load(source, 7, policy=Policy([*before, crop]), **chosen)
    assert same(split, whole)


@quiet
@pytest.mark.parametrize("place", ["first", "between", "floats", "everywhere"])
def test_a_python_step_draws_the_same_for_a_sample(folder: Path, place: str) -> None:
    """With any batch size, order, number of threads, and while the training draws."""
    crop, noise = v1.RandomResizedCrop(12), Noise()
    steps = {"first": [noise, crop], "between": [crop, noise, v1.RandomHorizontalFlip()], "floats": [crop]}
    chosen = [noise, crop, noise, v1.RandomVerticalFlip()] if place == "everywhere" else steps[place]
    chosen += [v1.ToTensor(), noise] if place in ("floats", "everywhere") else []
    source = dalipipe.ImageFolder(folder, v1.Compose(chosen))
    seed_all()
    wanted = random.random(), global_numpy(), torch.rand(3)
    seed_all()
    first = load(source, on_unsupported="python")
    drawn = random.random(), global_numpy(), torch.rand(3)
    assert drawn[:2] == wanted[:2] and (drawn[2] == wanted[2]).all()  # the training's generators are left alone
    torch.rand(9)
    assert same(load(source, 3, on_unsupported="python", num_workers=3, shuffle=False), first)
    other = load(source, on_unsupported="python", seed=6)
    assert not any((first[i][0] == other[i][0]).all() for i in range(N))
    loader = dalipipe.DataLoader(source, 4, seed=5, device="cpu", on_unsupported="python")
    epochs = [torch.cat([batch.image for batch in loader]).clone() for _ in range(2)]
    assert (epochs[0] != epochs[1]).any()


@quiet
def test_copies_of_a_sample_draw_their_own(folder: Path) -> None:
    source = dalipipe.ImageFolder(folder, v1.Compose([v1.CenterCrop(9), Noise()]))
    loader = dalipipe.DataLoader(
        source, 2 * N, sampler=dalipipe.orders.Repeated(2), seed=1, device="cpu", on_unsupported="python"
    )
    batch = next(iter(loader))
    assert len(np.unique(batch.indices)) < len(batch.indices)
    for index in np.unique(batch.indices):
        copies = batch.image[torch.from_numpy(batch.indices == index)]
        assert all((copy != copies[0]).any() for copy in copies[1:])


def test_it_says_so_once(folder: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        transform = v1.Compose([Blur(), v1.CenterCrop(12), v1.ToTensor(), v1.Lambda(double), v1.Normalize(0.5, 0.5)])
        loader = dalipipe.DataLoader(dalipipe.ImageFolder(folder, transform), 4, on_unsupported="python", device="cpu")
        list(loader)
        list(loader)
    told = [str(one.message) for one in caught if "run in Python" in str(one.message)]
    assert len(told) == 1 and all(name in told[0] for name in ("Blur()", "Lambda()", "Normalize("))
    assert loader.conversion is not None and not loader.conversion.ok
    assert [entry.python for entry in loader.conversion.entries] == [True, False, False, True, True]
    explained = loader.plan.explain()
    assert explained.index("PythonStep(step=Blur()") < explained.index("CenterCrop") < explained.index("Lambda()")
    assert "in Python, picture by picture" in explained
    assert "follows a step that runs in Python" in loader.conversion.entries[-1].verdict


@quiet
def test_a_bad_picture_costs_itself(folder: Path) -> None:
    def refuse(x: Image.Image) -> Image.Image:
        if x.size[0] == 70 - 4 * 6:
            raise KeyError("the sixth")
        return x

    source = dalipipe.ImageFolder(folder, v1.Compose([v1.Lambda(refuse), v1.CenterCrop(8)]))
    with pytest.raises(dalipipe.SampleError, match=r"06\.png.*the sixth"):
        load(source, on_unsupported="python")
    found = load(source, on_unsupported="python", on_error="skip", max_bad=0.5)
    assert len(found) == N - 1
    (folder / "class1" / "00.png").write_bytes(b"no picture")
    assert (
        len(load(dalipipe.ImageFolder(folder, source.transform), on_unsupported="python", on_error="skip", max_bad=0.5))
        == N - 1
    )


@quiet
@pytest.mark.parametrize(
    ("step", "words"),
    [
        (lambda x: x.convert("L"), r"gave a Image \(mode L\) of uint8.*expected a picture of uint8 and 3 channels"),
        (lambda x: np.asarray(x) / 255, "gave a ndarray of float64"),
        (lambda x: None, "gave a NoneType"),
        (lambda x: [x, x], r"gave a list of 2, expected one picture: .*orders\.Repeated"),
        (lambda x: 1 / 0, "raised ZeroDivisionError: division by zero"),
        (lambda x: v1.functional.to_tensor(x), "gave a Tensor of float32 .*let floats be made by a step of their own"),
    ],
)
def test_what_a_step_gives_is_looked_at(folder: Path, step: Any, words: str) -> None:
    source = dalipipe.ImageFolder(folder, v1.Compose([step, v1.CenterCrop(8)]))
    with pytest.raises(dalipipe.SampleError, match=words):
        load(source, on_unsupported="python")


@quiet
def test_arrays_stay_whole_and_grey_stays_grey() -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 9, 8, 1), dtype=np.uint8)
    kept = images.copy()

    def blacken(x: Any) -> Any:
        if isinstance(x, Image.Image):
            assert x.mode == "L"
            x.paste(0, (0, 0, 8, 4))
            return x
        return x.fill_(7)

    arrays = dalipipe.Arrays(images, np.arange(6))
    for steps in ([blacken], [v2.PILToTensor(), blacken]):
        arrays.transform = v2.Compose([*steps, v2.Pad(1)])
        found = load(arrays, on_unsupported="python")
        assert found[0][0].shape == (1, 11, 10) and (found[0][0][0, 1] == (0 if len(steps) == 1 else 7)).sum() >= 8
    assert (images == kept).all()


@quiet
def test_resuming_and_pickling(folder: Path) -> None:
    source = dalipipe.ImageFolder(folder, v1.Compose([v1.RandomResizedCrop(12), Noise(), v1.ToTensor(), Noise()]))
    make = {"shuffle": True, "seed": 2, "device": "cpu", "on_unsupported": "python"}
    loader = dalipipe.DataLoader(source, 3, **make)
    batches = iter(loader)
    next(batches)
    again, copy = dalipipe.DataLoader(source, 3, **make), pickle.loads(pickle.dumps(loader))
    again.load_state_dict(loader.state_dict())
    for a, b, c in zip(batches, again, copy, strict=True):
        assert (a.image == b.image).all() and (a.image == c.image).all()
    other = dalipipe.ImageFolder(folder, v1.Compose([v1.RandomResizedCrop(12), Blur(), v1.ToTensor(), Noise()]))
    with pytest.raises(dalipipe.StateMismatchError, match="policy"):
        dalipipe.DataLoader(other, 3, **make).load_state_dict(loader.state_dict())


def test_policies_with_python_steps_by_hand(folder: Path) -> None:
    policy = Policy([ops.Resize((12, 12)), PythonStep(Blur()), ops.Invert()])
    found = load(dalipipe.ImageFolder(folder), policy=policy, dtype=torch.uint8)
    assert found[0][0].shape == (3, 12, 12)
    for wrong, words in (
        (lambda: PythonStep(3), "step must be a function of one picture, got 3"),
        (lambda: PythonStep(Blur(), "array"), 'takes must be "pil", "tensor" or "float", got'),
        (lambda: PythonStep(Blur(), p=0.5), "p must be 1, got 0.5"),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            wrong()
    image, mask = Field("image", "image", channels=3), Field("mask", "mask")
    for nodes, fields, words in (
        ([RandomApply([PythonStep(Blur())])], (image,), "in no container"),
        ([PythonStep(double, "float"), ops.Invert()], (image,), "nothing may come after it"),
        ([PythonStep(Blur())], (image, mask), r"nobody would move mask \(mask\) along"),
        ([ops.Normalize(), PythonStep(Blur()), ops.Invert()], (image,), "Normalize"),
    ):
        with pytest.raises(ValueError, match=words):
            lower(Policy(nodes), Schema(fields))
    with pytest.raises(ValueError, match="cannot hold what PythonStep"):
        load(
            dalipipe.ImageFolder(folder),
            policy=Policy([ops.CenterCrop(8), PythonStep(double, "float")]),
            dtype=torch.uint8,
        )


@quiet
def test_slots_do_not_depend_on_python_steps(folder: Path) -> None:
    """What is drawn behind a step is what would be drawn there without it."""
    crop, turn = ops.RandomResizedCrop(16), ops.Rotate(40, interpolation="nearest")
    plain = load(dalipipe.ImageFolder(folder), policy=Policy([crop, ops.Invert(p=0.0), turn]))
    staged = load(dalipipe.ImageFolder(folder), policy=Policy([crop, PythonStep(lambda x: x), turn]))
    assert same(plain, staged)


@quiet
def test_convert_says_what_runs_where() -> None:
    steps = [v1.Resize(9), Blur(), v1.ToTensor(), v1.Normalize(0.5, 0.5), double, v1.RandomErasing()]
    policy, report = convert(v1.Compose(steps), on_unsupported="python")
    assert policy == Policy(
        [
            ops.Resize(9),
            PythonStep(steps[1], "pil"),
            ops.Normalize(0.5, 0.5),
            PythonStep((double, steps[5]), "float"),
        ]
    )
    assert [entry.verdict.split(",")[0] for entry in report.entries][1::3] == ["in Python"] * 2
    assert "Blur is not known here" in report.entries[1].verdict
    for last in ([double, v2.MixUp(num_classes=3)], [v2.MixUp(num_classes=3), double]):  # not picture by picture
        with pytest.raises(UnsupportedTransformError, match="mix"):
            convert([v1.ToTensor(), *last], on_unsupported="python")


@quiet
def test_an_erasing_that_cannot_wait_runs_in_python(folder: Path) -> None:
    steps = [v1.CenterCrop(20), v1.ToTensor(), v1.RandomErasing(1.0, value="random"), v1.Normalize(0.5, 0.5)]
    policy, report = convert(v1.Compose(steps), on_unsupported="python")
    assert policy == Policy([ops.CenterCrop(20), PythonStep((steps[2], steps[3]), "float")])
    assert [entry.python for entry in report.entries] == [False, False, True, True]
    image = load(dalipipe.ImageFolder(folder, v1.Compose(steps)), on_unsupported="python")[0][0]
    assert image.shape == (3, 20, 20) and image.abs().max() > 1
