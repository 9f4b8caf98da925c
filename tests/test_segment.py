"""Semantic segmentation: the objective, mean IoU, models, data in folders, and `dalipipe train --task segmentation`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scenes import plant_folders, plant_scenes
from sklearn.metrics import confusion_matrix, jaccard_score
from torch import nn
from torch.nn import functional
from torchvision import datasets
from typer.testing import CliRunner

import dalipipe
from dalipipe import Policy, recipes
from dalipipe.cli import app
from dalipipe.finetune import FineTuneConfig, Interrupted, evaluate, finetune, ious, segment
from dalipipe.finetune.classifier import make_model, open_data
from dalipipe.finetune.segmentation import (
    SmallUNet,
    draw_predictions,
    is_cityscapes,
    open_segmentation,
    segmentation_model,
)
from dalipipe.finetune.transfer import Joint, SideBySide, share_trunk
from dalipipe.loader import DataLoader
from dalipipe.ops import image as ops


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# The objective -----------------------------------------------------------------------------------------------------


class Given(nn.Module):
    """Gives these logits, whatever it is asked; they are its parameter."""

    def __init__(self, logits: torch.Tensor, auxiliary: torch.Tensor | None = None) -> None:
        super().__init__()
        self.logits, self.auxiliary = nn.Parameter(logits), auxiliary

    def forward(self, images: torch.Tensor) -> Any:
        return self.logits if self.auxiliary is None else {"out": self.logits, "aux": self.auxiliary}


def case(n: int = 3, classes: int = 4, h: int = 5, w: int = 7, ignored: float = 0.3) -> tuple[Any, Any, Any]:
    random = torch.Generator().manual_seed(n * 100 + h)
    masks = torch.randint(0, classes, (n, h, w), generator=random)
    masks[torch.rand((n, h, w), generator=random) < ignored] = 255
    return torch.randn((n, classes, h, w), generator=random), masks, torch.zeros(n, 3, h, w)


def test_by_hand() -> None:
    """Two pictures of 1×2 px and two classes."""
    logits = torch.tensor([[[[0.0, 2.0]], [[0.0, 0.0]]], [[[1.0, 9.0]], [[3.0, 0.0]]]])
    masks = torch.tensor([[[0, 0]], [[1, 255]]])
    scores = segment(Given(logits), (torch.zeros(2, 3, 1, 2), masks))
    wanted = [np.log(2) + np.log(1 + np.exp(-2)), np.log(1 + np.exp(-2))]
    assert np.allclose(scores.losses.detach(), wanted, atol=1e-6)
    assert scores.correct.tolist() == [2, 1] and scores.predictions is not None
    assert scores.predictions.tolist() == [2, 1] and scores.minimised is None
    assert scores.answers is not None and scores.answers.classes == 2
    assert scores.answers.truth.tolist() == [[[0, 0]], [[1, -1]]]
    assert scores.answers.predicted.tolist() == [[[0, 0]], [[1, 0]]]


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("n, h, w", [(1, 1, 1), (3, 5, 7), (2, 1, 9)])
def test_what_is_minimised_is_torchs_mean_over_pixels(n: int, h: int, w: int, label_smoothing: float) -> None:
    logits, masks, images = case(n, h=h, w=w, ignored=0.0 if n == 1 else 0.3)
    scores = segment(Given(logits), (images, masks), label_smoothing)
    assert scores.predictions is not None
    mean = scores.losses.sum() / scores.predictions.sum()
    theirs = functional.cross_entropy(logits, masks, ignore_index=255, label_smoothing=label_smoothing)
    assert torch.allclose(mean, theirs, rtol=1e-6)


def test_auxiliary_loss_counts_in_training_only() -> None:
    """As in torchvision's reference: out + 0.5 · aux."""
    (logits, masks, images), auxiliary = case(), case(3, 4)[0].flip(0)
    model = Given(logits, auxiliary)
    scores = segment(model, (images, masks))
    assert scores.predictions is not None
    criterion = partial(functional.cross_entropy, ignore_index=255)
    wanted = criterion(logits, masks) + 0.5 * criterion(auxiliary, masks)
    assert torch.allclose(scores.losses.sum() / scores.predictions.sum(), wanted, rtol=1e-6)
    with torch.inference_mode():
        scores = segment(model, (images, masks))
    assert torch.equal(scores.losses, segment(Given(logits), (images, masks)).losses.detach())


def test_nothing_but_ignored_pixels() -> None:
    logits, masks, images = case(ignored=2.0)
    scores = segment(Given(logits), (images, masks))
    assert scores.losses.tolist() == [0, 0, 0] and scores.predictions is not None
    assert scores.predictions.tolist() == scores.correct.tolist() == [0, 0, 0]
    scores.losses.sum().backward()
    with pytest.raises(ValueError, match="nothing to predict"):
        evaluate(Given(logits), [(images, masks)], objective=segment)


def test_another_index_is_ignored() -> None:
    logits, masks, images = case()
    ours = segment(Given(logits), (images, masks.where(masks != 255, 0)), ignore_index=0)
    theirs = segment(Given(logits), (images, masks.where(masks != 0, 255)))
    assert torch.equal(ours.losses, theirs.losses) and torch.equal(ours.correct, theirs.correct)


@pytest.mark.parametrize(
    "logits, masks, message",
    [
        (torch.zeros(1, 3, 4, 4), torch.zeros(1, 8, 8, dtype=torch.long), r"for masks \[N, H, W\], got \[1, 3, 4, 4\]"),
        (torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), r"got \[2, 3\] for \[2\]; is it a model for segm"),
        (torch.zeros(1, 3, 4, 4), torch.full((1, 4, 4), 33), "hold classes up to 33, and the model has 3, 0 to 2; 255"),
    ],
)
def test_what_does_not_fit_is_said(logits: Any, masks: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segment(Given(logits), (torch.zeros(len(masks), 3, 4, 4), masks))


# Intersection over union -------------------------------------------------------------------------------------------


def test_ious_by_hand() -> None:
    """Rows are right, columns predicted; the last class does not occur."""
    found = ious(torch.tensor([[3, 1, 0, 0], [2, 4, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]))
    assert torch.allclose(found[:3], torch.tensor([3 / 7, 4 / 7, 0 / 1], dtype=torch.float64)) and found[3].isnan()


@given(st.integers(0, 2**31), st.integers(2, 6), st.integers(1, 4))
def test_mean_iou_is_sklearns_jaccard_score(seed: int, classes: int, batch: int) -> None:
    """In batches of any size, the last ones with rows that do not count."""
    random = torch.Generator().manual_seed(seed)
    n, h, w = 6, 4, 5
    masks = torch.randint(0, classes, (n, h, w), generator=random)
    masks[torch.rand(masks.shape, generator=random) < 0.2] = 255
    logits = torch.randn((n, classes, h, w), generator=random)
    logits[:, classes - 1] -= 9  # never predicted, though it may occur

    class Picked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return logits[images[:, 0, 0, 0].long()]

    batches = []
    for start in range(0, n, batch):
        rows = torch.arange(start, start + batch)
        inside = rows % n
        batches.append((inside.float()[:, None, None, None].expand(-1, 3, h, w), masks[inside], rows < n))
    found = evaluate(Picked(), batches, objective=segment)
    truth, predicted = masks.numpy(), logits.argmax(1).numpy()
    truth, predicted = truth[masks != 255], predicted[masks != 255]
    labels = np.union1d(truth, predicted)
    assert found.confusion is not None and found.ious is not None and found.images == n
    assert np.array_equal(found.confusion, confusion_matrix(truth, predicted, labels=range(classes)))
    ours = found.ious.numpy()
    assert np.allclose(ours[labels], jaccard_score(truth, predicted, labels=labels, average=None, zero_division=0))
    assert np.isnan(np.delete(ours, labels)).all()
    assert found.mean_iou == pytest.approx(
        jaccard_score(truth, predicted, labels=labels, average="macro", zero_division=0)
    )
    assert found.accuracy == pytest.approx((truth == predicted).mean())


def test_mean_iou_of_cityscapes_files_end_to_end(tmp_path: Path) -> None:
    """From ids in files by torchvision's table of classes, beside what the loader, the model and `evaluate` make."""
    val = open_segmentation(plant_scenes(tmp_path, 1, 3))[1]
    loader = DataLoader(val, 2, shards="exact", policy=recipes.cityscapes_eval(64), device="cpu", seed=0)
    torch.manual_seed(3)
    model = SmallUNet(19, width=2)
    found = evaluate(model, loader, objective=segment)
    train_id = {one.id: one.train_id for one in datasets.Cityscapes.classes}
    truth, predicted = [], []
    for row in range(3):
        name = val.describe(row).replace("leftImg8bit/", "gtFine/").replace("_leftImg8bit", "_gtFine_labelIds")
        truth.append(np.vectorize(train_id.get)(np.asarray(Image.open(name))))
        image = torch.from_numpy(np.asarray(Image.open(val.describe(row))) / 255).permute(2, 0, 1).float()
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        with torch.inference_mode():
            predicted.append(model(((image - mean) / std)[None])[0].argmax(0).numpy())
    at = [(one != 255) & (one != -1) for one in truth]
    right, made = (np.concatenate([one[where] for one, where in zip(of, at, strict=True)]) for of in (truth, predicted))
    assert 0.5 < len(right) / (3 * 64 * 128) < 1
    labels = np.union1d(right, made)
    wanted = jaccard_score(right, made, labels=labels, average="macro", zero_division=0)
    assert found.mean_iou == pytest.approx(wanted, abs=1e-3) and found.accuracy == pytest.approx(
        (right == made).mean(), abs=1e-3
    )


# Models ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n, h, w", [(1, 1, 1), (2, 16, 16), (1, 33, 50), (2, 7, 64)])
def test_small_unet_takes_any_size(n: int, h: int, w: int) -> None:
    model = SmallUNet(5, width=4).eval()
    assert model(torch.randn(n, 3, h, w)).shape == (n, 5, h, w)
    assert sum(p.numel() for p in SmallUNet(19).parameters()) < 0.6e6


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large", "small-unet"])
def test_models_by_name(name: str) -> None:
    model = segmentation_model(name, 4)
    images, masks = torch.randn(2, 3, 40, 56), torch.randint(0, 4, (2, 40, 56))
    scores = segment(model, (images, masks))
    scores.losses.mean().backward()
    assert all(p.grad is not None for p in model.parameters())  # what gets none would stop several ranks
    with torch.inference_mode():
        assert segment(model.eval(), (images, masks)).losses.shape == (2,)


def test_models_start_from_weights(tmp_path: Path) -> None:
    """A classifier's for the backbone, or those of a model for segmentation of other classes."""
    torch.manual_seed(1)
    classifier, _ = make_model("mobilenet_v3_large", 10)
    older = {name: value for name, value in classifier.state_dict().items() if "num_batches" not in name}
    torch.save(older, tmp_path / "classifier.pth")
    model, fresh = make_model("lraspp_mobilenet_v3_large", 3, task="segmentation", weights=tmp_path / "classifier.pth")
    assert fresh and all(name.startswith("classifier.") for name in fresh)
    own, theirs = model.state_dict(), classifier.state_dict()
    assert all(torch.equal(own[f"backbone.{k[9:]}"], v) for k, v in theirs.items() if k.startswith("features."))
    torch.save({"model": SmallUNet(7).state_dict()}, tmp_path / "unet.pth")
    _, fresh = make_model("small-unet", 3, task="segmentation", weights=tmp_path / "unet.pth")
    assert fresh == ["head.weight", "head.bias"]
    with pytest.raises(ValueError, match="holds no weights of a small-unet"):
        make_model("small-unet", 3, task="segmentation", weights=tmp_path / "classifier.pth")
    with pytest.raises(ValueError, match="called 'resnet18'; there are small-unet, deeplabv3_mobilenet_v3_large, "):
        segmentation_model("resnet18", 3)


# Data --------------------------------------------------------------------------------------------------------------


def test_cityscapes_as_it_is_published(tmp_path: Path) -> None:
    train, val = open_data(plant_scenes(tmp_path, 3, 2), "segmentation")
    assert is_cityscapes(tmp_path) and (len(train), len(val)) == (3, 2)
    assert train.classes == val.classes and len(train.classes or []) == 19
    with pytest.raises(ValueError, match="so leave val_fraction out"):
        open_segmentation(tmp_path, val_fraction=0.2)


def test_folders(tmp_path: Path) -> None:
    root = plant_folders(tmp_path, {"train": 4, "val": 2})
    train, val = open_segmentation(root)
    assert (len(train), len(val), train.classes, val.classes) == (4, 2, ["0", "1", "2"], ["0", "1", "2"])
    (root / "classes.txt").write_text("sky\nground\n\ncar\n")
    assert open_segmentation(root)[0].classes == ["sky", "ground", "car"]
    (root / "classes.txt").write_text("sky\nground\n")
    with pytest.raises(ValueError, match=r"\.jpg holds class 2: expected one of 2 classes, 0 to 1, or 255"):
        open_segmentation(root)
    (root / "classes.txt").write_text("sky\n")
    with pytest.raises(ValueError, match="must name two classes or more"):
        open_segmentation(root)


def test_one_folder_is_split(tmp_path: Path) -> None:
    root = plant_folders(tmp_path, {".": 10})
    train, val = open_segmentation(root, val_fraction=0.3)
    assert (len(train), len(val), train.classes) == (7, 3, ["0", "1", "2"])
    names = [{source.describe(i) for i in range(len(source))} for source in (train, val)]
    assert not names[0] & names[1] and len(names[0] | names[1]) == 10
    again = open_segmentation(root, val_fraction=0.3)[1]
    assert names[1] == {again.describe(i) for i in range(3)}
    held = open_segmentation(root, hold_out="00[0-3]*")[1]
    assert len(held) == 4
    with pytest.raises(ValueError, match="split it with a val_fraction"):
        open_segmentation(root)
    batch = next(iter(DataLoader(val, 3, policy=recipes.segmentation_eval(32), device="cpu")))
    assert batch.mask.shape == (3, 32, 32) and set(batch.mask.unique().tolist()) <= {0, 1, 2, 255}


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"images: pictures with label maps lie in images/ and masks/"):
        open_segmentation(tmp_path)
    plant_folders(tmp_path, {"train": 2})
    with pytest.raises(FileNotFoundError, match="val/images"):
        open_segmentation(tmp_path)
    plant_folders(tmp_path / "flat", {".": 2})
    for mask in (tmp_path / "flat" / "masks").iterdir():
        Image.fromarray(np.zeros((48, 96), np.uint8)).save(mask)
    with pytest.raises(ValueError, match="hold no class but 0"):
        open_segmentation(tmp_path / "flat")


# Recipes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cityscapes", "segmentation"])
def test_masks_move_with_their_pictures(name: str, tmp_path: Path) -> None:
    """Pictures whose colour is their class: in the middle of areas both still say the same, after every operator."""
    random = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for number in range(6):
        ids = np.kron(random.integers(0, 5, (4, 8)), np.ones((16, 16))).astype(np.uint8)
        Image.fromarray(ids).save(tmp_path / "masks" / f"{number}.png")
        Image.fromarray(np.repeat(ids[..., None] * 50, 3, axis=2)).save(tmp_path / "images" / f"{number}.png")
    source = dalipipe.ImageMasks(tmp_path / "images", tmp_path / "masks")
    for twin, size in (("train", 64), ("eval", 64), ("train", 40)):
        policy = getattr(recipes, f"{name}_{twin}")(size)
        policy = Policy([op for op in policy if not isinstance(op, ops.Normalize | ops.ColorJitter)])
        seen = 0
        for images, masks in DataLoader(source, 6, policy=policy, device="cpu", seed=1):
            classes = images[:, 0] * 255 / 50
            padded = functional.pad(masks.float()[:, None], (3, 3, 3, 3), mode="replicate")
            inner = functional.max_pool2d(padded, 7, 1) == -functional.max_pool2d(-padded, 7, 1)
            at = inner[:, 0] & (masks != 255)
            assert (classes.round() == masks)[at].float().mean() > 0.99 and at.float().mean() > 0.02
            seen = images.shape[2:].numel()
        if name == "cityscapes":
            assert seen == (64 * 128 if twin == "eval" else (3 * size // 4) ** 2)
        else:
            assert seen == size * size


def test_what_is_padded_is_ignored(tmp_path: Path) -> None:
    source = open_segmentation(plant_folders(tmp_path, {".": 4}), val_fraction=0.5)[0]
    images, masks = next(iter(DataLoader(source, 2, policy=recipes.segmentation_eval(64), device="cpu")))
    assert (masks[:, 32:] == 255).all() and (masks[:, :28] != 255).all()
    assert images[:, :, 34:].abs().max() < 0.02  # ImageNet's mean colour


# All of it ---------------------------------------------------------------------------------------------------------


def loaders(root: Path, size: int = 32) -> tuple[DataLoader, DataLoader]:
    train, val = open_segmentation(root)
    options: Any = {"device": "cpu", "seed": 0, "num_workers": 1}
    return (
        DataLoader(train, 4, shuffle=True, drop_last=True, policy=recipes.cityscapes_train(size), **options),
        DataLoader(val, 2, shards="exact", policy=recipes.cityscapes_eval(size), **options),
    )


def config(out: Path, **changes: Any) -> FineTuneConfig:
    given_: Any = {"epochs": 2, "lr": 3e-3, "label_smoothing": 0.0, "progress": "off", "save_every": 1, **changes}
    return FineTuneConfig(out, **given_)


def test_a_small_model_learns_scenes(tmp_path: Path) -> None:
    """From scratch, some seconds on a CPU: far better than the road alone, and the metrics say so."""
    torch.manual_seed(0)
    model = SmallUNet(19, width=8)
    train, val = loaders(plant_scenes(tmp_path, 16, 4))
    before = evaluate(model, val, objective=segment)
    result = finetune(model, train, val, config(tmp_path / "run", epochs=20, lr=2e-2), objective=segment)
    after = evaluate(model, val, objective=segment)
    row = json.loads(result.metrics.read_text().splitlines()[-1])
    assert row["val_mean_iou"] == after.mean_iou and row["val_accuracy"] == after.accuracy == result.val_accuracy
    assert before.mean_iou is not None and after.mean_iou is not None and after.ious is not None
    assert before.mean_iou < 0.1 and after.mean_iou > 0.5 and after.accuracy > 0.85
    assert after.ious.isnan().sum() >= 10  # of classes that are not drawn
    path = draw_predictions(
        model, val.dataset._dataset, recipes.cityscapes_eval(32), tmp_path / "predictions.png", samples=3
    )
    with Image.open(path) as drawn:
        assert drawn.width > 4 * 224 and drawn.height > 3 * 112


def test_a_run_that_is_stopped_ends_the_same(tmp_path: Path) -> None:
    root = plant_scenes(tmp_path / "data", 8, 2)

    def run(out: str, stop_at: int | None = None, **changes: Any) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model, steps = SmallUNet(19, width=4), 0

        def objective(model: nn.Module, batch: Any, smoothing: float = 0.0) -> Any:
            nonlocal steps
            if torch.is_grad_enabled():
                if steps == stop_at:
                    raise KeyboardInterrupt
                steps += 1
            return segment(model, batch, smoothing)

        finetune(model, *loaders(root), config(tmp_path / out, **changes), objective=objective)
        return model.state_dict()

    whole = run("whole")
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        run("stopped", stop_at=3)
    resumed = run("stopped", resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def call(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "160", "NO_COLOR": "1"})


def test_train_on_cityscapes_and_on_folders(tmp_path: Path) -> None:
    small = ["--task", "segmentation", "--size", "32", "--epochs", "1", "--batch-size", "4", "--device", "cpu"]
    done = call("train", plant_scenes(tmp_path / "streets", 8, 2), "--out", tmp_path / "run", *small)
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "8 to train on, 2 to validate, 19 classes" in said and "small-unet, 0.5 M parameters" in said
    assert "mean IoU" in said and "predictions.png" in done.output.replace("\n", "")
    for name in ("samples", "curves", "predictions"):
        assert (tmp_path / "run" / f"{name}.png").is_file()
    flat = plant_folders(tmp_path / "flat", {".": 8})
    split = call(
        "train", flat, "--out", tmp_path / "two", *small, "--val-fraction", "0.25", "--policy", "segmentation_train"
    )
    assert split.exit_code == 0 and "6 to train on, 2 to validate, 3 classes" in split.output, split.output
    joint = call(
        "train", flat, "--out", tmp_path / "joint", *small, "--val-fraction", "0.25", "--source", tmp_path / "streets"
    )
    assert joint.exit_code == 0 and "of 19 classes" in joint.output and "mean IoU" in joint.output, joint.output
    shown = call("preview", flat, "--task", "segmentation", "--size", "32", "--out", tmp_path / "shown.png")
    assert shown.exit_code == 0 and (tmp_path / "shown.png").is_file(), shown.output
    for wrong, message in (
        (["--loss", "bce"], "--loss bce is for classes of whole samples"),
        (["--mixup", "0.2"], "which segmentation does not have"),
        (["--model", "resnet18"], "no model for segmentation is called 'resnet18'"),
    ):
        failed = call("train", tmp_path / "streets", "--out", tmp_path / "no", *small, *wrong)
        assert failed.exit_code == 2 and message in " ".join(failed.output.split()), failed.output


@pytest.mark.parametrize("name", ["small-unet", "deeplabv3_mobilenet_v3_large"])
def test_joint_with_other_scenes(name: str, tmp_path: Path) -> None:
    """A source of other classes beside the target: a trunk, two heads, both losses pixel by pixel."""
    torch.manual_seed(0)
    target = loaders(plant_scenes(tmp_path / "target", 8, 2))[0]
    source = DataLoader(
        open_segmentation(plant_folders(tmp_path / "source", {".": 4}), val_fraction=0.5)[0],
        2,
        policy=recipes.segmentation_train(32),
        device="cpu",
        seed=0,
    )
    model = share_trunk(segmentation_model(name, 19), 3)
    batch = next(iter(SideBySide(target, source)))
    scores = Joint(0.7, target=segment, source=segment)(model, batch)
    assert scores.minimised is not None and scores.answers is not None and scores.answers.classes == 19
    criterion = partial(functional.cross_entropy, ignore_index=255)

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        found = model(batch[0])
        return criterion(found["out"] if isinstance(found, dict) else found, batch[1])

    if name == "small-unet":  # no dropout
        wanted = loss(model.source, batch[1]) + 0.7 * loss(model.target, batch[0])
        assert torch.allclose(scores.minimised, wanted, rtol=1e-5)
    scores.minimised.backward()
    assert all(p.grad is not None for p in model.parameters())
