"""Losses for soft labels, and objectives: against numbers worked out by hand, timm, torchvision and Hugging Face."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import dalipipe
from dalipipe.finetune import (
    FineTuneConfig,
    classification,
    classify,
    classify_labels,
    classify_one_vs_rest,
    evaluate,
    finetune,
    soft_binary_cross_entropy,
    soft_cross_entropy,
)
from dalipipe.finetune.losses import binary_losses, multi_label_targets, one_vs_rest_targets
from dalipipe.ops.image import Normalize
from dalipipe.ops.mix import CutMix, MixUp

LOG2, LOG3 = math.log(2), math.log(3)


def shares(rows: int, classes: int, seed: int = 0) -> torch.Tensor:
    """Labels as mixup gives them: two classes a row."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.rand(rows, 1, generator=generator)
    one, other = (torch.randint(classes, (rows,), generator=generator) for _ in range(2))
    return weight * functional.one_hot(one, classes) + (1 - weight) * functional.one_hot(other, classes)


class Same(nn.Module):
    """Its logits are what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.nothing


def test_by_hand() -> None:
    # σ(0) = ½; σ(log 3) = ¾.
    logits = torch.tensor([[0.0, LOG3], [LOG3, -LOG3]])
    by_hand = torch.tensor([[LOG2, math.log(4)], [math.log(4 / 3), math.log(4 / 3)]])
    assert torch.allclose(binary_losses(logits, torch.tensor([[1.0, 0.0], [1.0, 0.0]])), by_hand)
    indices = torch.tensor([0, 0])
    assert torch.allclose(soft_binary_cross_entropy(logits, indices), by_hand.mean())
    assert torch.allclose(soft_binary_cross_entropy(logits, indices, sum_classes=True), by_hand.sum() / 2)
    half = torch.full((2, 2), 0.5)  # of a yes and a no, half each
    expected = (LOG2 + (math.log(4 / 3) + math.log(4)) / 2 * 3) / 4
    assert torch.allclose(soft_binary_cross_entropy(logits, half), torch.tensor(expected))
    # log softmax of (0, log 3) is (log ¼, log ¾).
    soft = soft_cross_entropy(logits[:1], torch.tensor([[0.25, 0.75]]))
    assert torch.allclose(soft, torch.tensor(0.25 * math.log(4) + 0.75 * math.log(4 / 3)))


def test_targets_by_hand() -> None:
    logits = torch.zeros(2, 4)
    smooth = one_vs_rest_targets(logits, torch.tensor([1, 3]), label_smoothing=0.2)
    assert torch.allclose(smooth[0], torch.tensor([0.05, 0.85, 0.05, 0.05])) and torch.allclose(
        smooth.sum(1), torch.ones(2)
    )
    mixed = torch.tensor([[0.7, 0.3, 0.0, 0.0], [0.9, 0.1, 0.0, 0.0]])
    assert one_vs_rest_targets(logits, mixed, target_threshold=0.2).tolist() == [[1, 1, 0, 0], [1, 0, 0, 0]]
    assert one_vs_rest_targets(logits, mixed.bool()).tolist() == [[1, 1, 0, 0]] * 2
    several = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]])
    assert torch.allclose(
        multi_label_targets(logits, several, label_smoothing=0.1)[0], torch.tensor([0.95, 0.95, 0.05, 0.05])
    )
    assert multi_label_targets(logits, several, label_smoothing=0.1, target_threshold=0.5).tolist() == several.tolist()


@pytest.mark.parametrize("threshold", [None, 0.0, 0.2])
@pytest.mark.parametrize("sum_classes", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_as_timm_has_them(smoothing: float, sum_classes: bool, threshold: float | None) -> None:
    loss = pytest.importorskip("timm.loss")
    logits = 3 * torch.randn(7, 5)
    options: dict[str, Any] = {"target_threshold": threshold, "sum_classes": sum_classes}
    theirs = loss.BinaryCrossEntropy(smoothing=smoothing, **options)
    indices, soft = torch.randint(5, (7,)), shares(7, 5)
    if threshold != 0 or not smoothing:  # of which timm makes a yes of every class
        ours = soft_binary_cross_entropy(logits, indices, label_smoothing=smoothing, **options)
        assert torch.allclose(ours, theirs(logits, indices))
    assert torch.allclose(soft_binary_cross_entropy(logits, soft, **options), theirs(logits, soft))
    assert torch.allclose(soft_cross_entropy(logits, soft), loss.SoftTargetCrossEntropy()(logits, soft))
    smoothed = classify(Same(), (logits, indices), smoothing).losses.mean()
    assert torch.allclose(smoothed, loss.LabelSmoothingCrossEntropy(smoothing)(logits, indices))


def test_as_timm_smooths_several_labels() -> None:
    loss = pytest.importorskip("timm.loss")
    logits, labels = torch.randn(6, 4), torch.randint(0, 2, (6, 4)).float()
    try:
        theirs = loss.BinaryCrossEntropy(smoothing=0.1, smooth_dense=True)
    except TypeError:
        pytest.skip("timm before smooth_dense")
    ours = classify_labels(Same(), (logits, labels), 0.1)
    assert torch.allclose(ours.losses.sum() / ours.predictions.sum(), theirs(logits, labels))


def test_as_torchvision_has_them() -> None:
    from torchvision.ops import sigmoid_focal_loss
    from torchvision.transforms import v2

    logits, soft = torch.randn(8, 5), shares(8, 5)
    focal = sigmoid_focal_loss(logits, soft, alpha=-1, gamma=0, reduction="none")  # without focus it is ours
    assert torch.allclose(classify_one_vs_rest(Same(), (logits, soft)).losses, focal.mean(1), atol=1e-6)
    pictures, labels = torch.rand(8, 3, 4, 4), torch.randint(5, (8,))
    for mixing in (v2.MixUp(num_classes=5), v2.CutMix(num_classes=5)):
        mixed = mixing(pictures, labels)[1]
        assert ((mixed > 0).sum(1) <= 2).all()
        expected = functional.cross_entropy(logits, mixed)
        assert torch.allclose(soft_cross_entropy(logits, mixed), expected)
        assert torch.allclose(classify(Same(), (logits, mixed)).losses.mean(), expected)


def test_as_hugging_face_has_them() -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.trainer_pt_utils import LabelSmoother

    small = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids, several = torch.randint(0, 50, (4, 9)), torch.randint(0, 2, (4, 3)).float()
    for kind, labels in (("multi_label_classification", several), ("single_label_classification", torch.arange(4) % 3)):
        config = transformers.BertConfig(**small, intermediate_size=32, num_labels=3, problem_type=kind)
        found = transformers.BertForSequenceClassification(config).eval()(input_ids=ids, labels=labels)
        objective = classify_labels if labels.ndim == 2 else classify
        ours = objective(Same(), (found.logits, labels))
        count = len(labels) if ours.predictions is None else ours.predictions.sum()
        assert torch.allclose(ours.losses.sum() / count, found.loss)
    smoother, logits, indices = LabelSmoother(0.1), torch.randn(6, 3), torch.arange(6) % 3
    ours = classify(Same(), (logits, indices), 0.1).losses.mean()
    assert torch.allclose(ours, smoother({"logits": logits}, indices))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 6), st.integers(0, 99))
def test_what_mixing_means_for_losses(rows: int, classes: int, seed: int) -> None:
    """Both losses of shares are the shares of the losses, per row; and one row's loss does not depend on others."""
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(rows, classes, generator=generator)
    one, other = (torch.randint(classes, (rows,), generator=generator) for _ in range(2))
    weight = torch.rand(rows, generator=generator)
    mixed = weight[:, None] * functional.one_hot(one, classes) + (1 - weight)[:, None] * functional.one_hot(
        other, classes
    )
    for objective in (classify, classify_one_vs_rest):
        whole = objective(Same(), (logits, mixed)).losses
        parts = [objective(Same(), (logits, labels)).losses for labels in (one, other)]
        assert torch.allclose(whole, weight * parts[0] + (1 - weight) * parts[1], atol=1e-5)
        assert torch.allclose(objective(Same(), (logits[-1:], mixed[-1:])).losses, whole[-1:], atol=1e-6)


def test_objectives_say_how_it_went() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [-2.0, -1.0, -3.0]])
    scores = classify_one_vs_rest(Same(), (logits, torch.tensor([0, 2])), sum_classes=True)
    assert scores.correct.tolist() == [True, False] and scores.predictions is None
    assert scores.answers is not None and scores.answers.classes == 3 and scores.answers.predicted.tolist() == [0, 1]
    by_mean = classify_one_vs_rest(Same(), (logits, torch.tensor([0, 2])))
    assert torch.allclose(scores.losses, 3 * by_mean.losses)
    labels = torch.tensor([[1, 0, 1], [0, 1, 0]])
    several = classify_labels(Same(), (logits, labels))
    assert several.correct.tolist() == [3, 2] and several.predictions is not None
    assert several.predictions.tolist() == [3, 3]
    assert several.answers is not None and several.answers.classes == 2
    soft = classify_one_vs_rest(Same(), (logits, torch.tensor([[0.6, 0.4, 0], [0.1, 0.2, 0.7]])))
    assert soft.correct.tolist() == [True, False]


def test_huge_logits_and_half_precision_stay_finite() -> None:
    logits = torch.tensor([[1e4, -1e4]], requires_grad=True)
    loss = soft_binary_cross_entropy(logits, torch.tensor([1]))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all() and loss == 1e4  # type: ignore[arg-type]
    assert soft_binary_cross_entropy(torch.randn(2, 3).bfloat16(), torch.tensor([0, 1])).dtype == torch.float32


def test_bad_input_is_named() -> None:
    logits = torch.zeros(2, 3)
    for labels in (torch.zeros(2, 4), torch.zeros(2), torch.zeros(3).long(), torch.zeros(2, 3, 1)):
        with pytest.raises(
            ValueError, match=r"labels class indices \[N\] or shares \[N, classes\], got torch.float32 \[2, 3\] and"
        ):
            soft_binary_cross_entropy(logits, labels)
        with pytest.raises(ValueError, match=r"labels shares \[N, classes\], got"):
            classify_labels(Same(), (logits, labels))
    with pytest.raises(ValueError, match=r"must be numbers, got torch\.bool"):
        classify_labels(Same(), (logits, torch.zeros(2, 3).bool()))
    for option in ("label_smoothing", "target_threshold"):
        for wrong in (-0.1, 1.0, math.nan):
            with pytest.raises(ValueError, match=rf"{option} must be in \[0, 1\), got"):
                soft_binary_cross_entropy(logits, torch.tensor([0, 1]), **{option: wrong})
    with pytest.raises(ValueError, match="loss must be ce or bce, got 'mse'"):
        classification("mse")
    with pytest.raises(ValueError, match="give loss bce"):
        classification("ce", sum_classes=True)
    with pytest.raises(ValueError, match=r"target_threshold must be in \[0, 1\), got 1"):
        classification("bce", target_threshold=1)


@pytest.mark.parametrize("threshold, all_alike", [(0.0, 1), (0.02, 1), (0.92, 0), (0.021, None), (0.919, None)])
def test_a_threshold_that_makes_all_labels_alike_is_refused(threshold: float, all_alike: int | None) -> None:
    logits, labels = torch.zeros(2, 5), torch.tensor([0, 3])
    options: dict[str, Any] = {"label_smoothing": 0.1, "target_threshold": threshold}
    several = {**options, "target_threshold": threshold + (0.03 if threshold < 0.5 else 0.031)}  # 0.05 to 0.95
    one_hot = torch.eye(5)[labels]
    if all_alike is None:
        assert torch.equal(one_vs_rest_targets(logits, labels, **options), one_hot)
        assert torch.equal(multi_label_targets(logits, one_hot, **{**options, "target_threshold": 0.5}), one_hot)
        return
    message = f"smoothing 0.1 .* labels are 0.02 to 0.92.* target_threshold {threshold:g} .* all {all_alike}: give one"
    with pytest.raises(ValueError, match=message):
        one_vs_rest_targets(logits, labels, **options)
    with pytest.raises(ValueError, match=r"labels are 0\.05 to 0\.95"):
        multi_label_targets(logits, one_hot, **several)


def small_model(outputs: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, outputs))


@pytest.mark.parametrize("mixing", [MixUp(0.8), CutMix(1.0)])
def test_trains_on_mixed_pictures(mixing: Any, tmp_path: Any) -> None:
    random = np.random.default_rng(0)
    labels = np.arange(64) % 3
    bright = np.eye(3)[labels][:, None, None]  # one of the colours
    pictures = (random.integers(0, 40, (64, 4, 4, 3)) + 150 * bright).astype(np.uint8)
    data = dalipipe.Arrays(pictures, labels, classes=["a", "b", "c"])
    plain: dict[str, Any] = {"num_workers": 1, "device": "cpu", "seed": 0}
    train = dalipipe.DataLoader(
        data, 16, shuffle=True, drop_last=True, policy=dalipipe.Policy([Normalize(0.5, 0.5), mixing]), **plain
    )
    val = dalipipe.DataLoader(data, 16, shards="exact", policy=dalipipe.Policy([Normalize(0.5, 0.5)]), **plain)
    config = FineTuneConfig(out=tmp_path, epochs=12, lr=2e-2, progress="off")
    found = finetune(small_model(3), train, val, config, objective=classification("bce", target_threshold=0.2))
    assert found.val_accuracy > 0.9


def test_learns_several_labels(tmp_path: Any) -> None:
    """Which of the three colours are bright: each of the eight answers comes."""
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, (80, 3)).astype(np.float32)
    pictures = (random.integers(0, 60, (80, 4, 4, 3)) + 150 * labels[:, None, None]).clip(0, 255).astype(np.uint8)
    data = dalipipe.Arrays(pictures, labels)
    options: dict[str, Any] = {
        "policy": dalipipe.Policy([Normalize(0.5, 0.5)]),
        "num_workers": 1,
        "device": "cpu",
        "seed": 0,
    }
    train = dalipipe.DataLoader(data, 16, shuffle=True, drop_last=True, **options)
    val = dalipipe.DataLoader(data, 16, shards="exact", **options)
    config = FineTuneConfig(out=tmp_path, epochs=15, lr=2e-2, progress="off")
    model = small_model(3)
    found = finetune(model, train, val, config, objective=classify_labels)
    assert "val_accuracy" in found.metrics.read_text() and "mean_iou" not in found.metrics.read_text()  # no pixels
    assert found.val_accuracy > 0.95
    ending = evaluate(model, val, objective=classify_labels)
    assert ending.confusion is not None and ending.confusion.sum() == 3 * 80
    assert math.isclose(ending.accuracy, float(ending.confusion.diagonal().sum()) / 240)


def test_train_command(jpeg_folder: Any, tmp_path: Any) -> None:
    from test_cli import SMALL_MODEL, call

    jpeg_folder(24, name="data/train")
    jpeg_folder(8, name="data/val")
    begin = ("train", tmp_path / "data", "--out", tmp_path / "run", *SMALL_MODEL)
    for wrong, message in (
        (["--loss", "mse"], "loss must be ce or bce, got 'mse'"),
        (["--bce-sum"], "give --loss bce"),
        (["--loss", "bce", "--bce-target-threshold", "1.5"], "--bce-target-threshold must be in [0, 1), got 1.5"),
    ):
        refused = call(*begin, *wrong)
        assert refused.exit_code == 2 and message in refused.output.replace("\n", " ")
    assert not (tmp_path / "run").exists()
    refused = call(*begin, "--loss", "bce", "--bce-target-threshold", "0.04")
    assert refused.exit_code == 2 and "labels are 0.05 to 0.95" in " ".join(refused.output.split())
    assert not list((tmp_path / "run").glob("checkpoint*"))
    trained = call(*begin, "--epochs", "1", "--loss", "bce", "--bce-target-threshold", "0.2", "--bce-sum")
    assert trained.exit_code == 0, trained.output
