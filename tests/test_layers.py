"""Which layers learn: what a model's layers are, frozen ones to the bit, gradual unfreezing, layer-wise rates."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from test_finetune import ArrayLoader, StopAt, one_thread, small_config
from torch import nn

from dalipipe.finetune import FineTuneConfig, Interrupted, Layers, finetune, head_of, layers_of
from dalipipe.finetune.models import InceptionTime, LogMelCNN, ResNet1d
from dalipipe.finetune.text_models import WordCNN

_ = one_thread  # a fixture of this module, too


def three_layers(stop: nn.Module | None = None) -> nn.Sequential:
    """Two convolutions with norms, one of them without gains; dropout before the head."""
    torch.manual_seed(3)
    first = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    second = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, affine=False), nn.ReLU())
    return nn.Sequential(
        first, second, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.3), nn.Linear(16, 3), stop or nn.Identity()
    )


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def moved(model: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


# What a model's layers are -----------------------------------------------------------------------------------------


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 8}
    return BertForSequenceClassification(BertConfig(vocab_size=9, **sizes))


@pytest.mark.parametrize(
    "make, count, first, last, head",
    [
        (lambda: torchvision.models.resnet18(), 10, {"conv1.weight", "bn1.weight", "bn1.bias"}, "layer4.1.", "fc"),
        (
            lambda: torchvision.models.vgg11(),
            11,
            {"features.0.weight", "features.0.bias"},
            "classifier.3.",
            "classifier.6",
        ),
        (lambda: torchvision.models.mobilenet_v2(), 20, None, "features.18.", "classifier.1"),
        (lambda: torchvision.models.squeezenet1_0(), 10, None, "features.12.", "classifier.1"),
        (lambda: timm.create_model("resnet10t"), 8, None, "layer4.0.", "fc"),
        (lambda: timm.create_model("vit_tiny_patch16_224"), 14, None, "", "head"),
        (lambda: timm.create_model("convnext_atto"), 17, None, "", "head.fc"),
        (bert, 6, None, "bert.pooler.", "classifier"),
        (lambda: nn.Sequential(torchvision.models.resnet18(), nn.Linear(1000, 2)), 11, None, "0.fc.", "1"),
        (lambda: ResNet1d(3, 2), 4, None, "blocks.2.", "head"),
        (lambda: nn.Linear(2, 3), 1, {"weight", "bias"}, "", ""),
    ],
)
def test_layers_of_models(make: Any, count: int, first: set[str] | None, last: str, head: str) -> None:
    model = make()
    layers = layers_of(model)
    assert len(layers) == count
    assert sorted(name for layer in layers for name in layer) == sorted(dict(model.named_parameters()))  # each once
    assert first is None or set(layers[0]) == first
    assert all(name.startswith(last) for name in layers[max(count - 2, 0)])
    name, module = head_of(model)
    assert name == head and isinstance(module, (nn.Linear, nn.Conv2d))


def test_what_stands_alone_goes_with_its_neighbours() -> None:
    layers = layers_of(timm.create_model("vit_tiny_patch16_224", depth=2))
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight"} <= set(layers[0])
    assert "norm.weight" in layers[-2] and layers[-1] == ["head.weight", "head.bias"]
    encoder = torchvision.models.vit_b_16()
    assert {"class_token", "conv_proj.weight", "encoder.pos_embedding"} <= set(layers_of(encoder)[0])


def test_our_models_say_in_which_order_they_run() -> None:
    assert layers_of(LogMelCNN(3))[1] == ["convolutions.1.weight", "norms.1.weight", "norms.1.bias"]
    inception = layers_of(InceptionTime(3, 2))
    assert len(inception) == 7 and "shortcuts.0.0.weight" in inception[2] and "shortcuts.1.0.weight" in inception[5]
    assert [names[0] for names in layers_of(WordCNN(3, 9))] == [
        "vectors.weight",
        "convolutions.0.weight",
        "head.weight",
    ]


def test_a_model_without_a_linear_head_is_named() -> None:
    with pytest.raises(ValueError, match="Embedding does not end in a linear layer"):
        head_of(nn.Embedding(3, 4))


# Frozen ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("freeze, frozen", [(2, "01"), (-1, "01"), (1, "0"), ("0, 1.0", "01"), ("0", "0")])
def test_frozen_layers_stay_to_the_bit(tmp_path: Path, freeze: Any, frozen: str, optimizer: str) -> None:
    """Weights, BatchNorms' statistics and their counts, in spite of weight decay and momentum."""
    model = three_layers()
    before = state(model)
    config = small_config(tmp_path, epochs=2, optimizer=optimizer, weight_decay=0.5)
    finetune(model, ArrayLoader(), ArrayLoader(), config, layers=Layers(freeze=freeze))
    assert {name.split(".")[0] for name in moved(model, before)} == set("015") - set(frozen)
    assert all(parameter.requires_grad for parameter in model.parameters())  # as it was before the run


def test_a_pattern_freezes_parameters_across_layers(tmp_path: Path) -> None:
    model = three_layers()
    before = state(model)
    finetune(model, ArrayLoader(), ArrayLoader(), small_config(tmp_path), layers=Layers(freeze="*.bias"))
    assert not any(name.endswith("bias") for name in moved(model, before))
    assert {"0.1.running_mean", "1.0.weight", "5.weight"} <= moved(model, before)  # their layers learn


def test_frozen_layers_are_in_evaluation_mode() -> None:
    model = three_layers()
    layers = Layers(freeze=2)
    layers.begin_epoch(model, 0)
    layers.train(model)
    modes = {name: module.training for name, module in model.named_modules()}
    assert not any(modes[name] for name in ("0", "0.0", "0.1", "0.2", "1", "1.0", "1.1"))
    assert modes[""] and modes["4"] and modes["5"]
    Layers().train(model)  # what the user froze rests, too
    assert not model[0][1].training and not model[1][1].training and model[4].training


def test_only_the_gradients_needed_are_computed() -> None:
    model = three_layers()
    layers = Layers(freeze=-1)
    groups = layers.groups(model, weight_decay=0.1)
    layers.begin_epoch(model, 0)
    model(torch.randn(2, 1, 6, 6)).sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {"5.weight", "5.bias"}
    assert [len(group["params"]) for group in groups] == [1, 1]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]


# Gradual, layer-wise -----------------------------------------------------------------------------------------------


def test_layers_join_in_from_the_head_down(tmp_path: Path) -> None:
    model, seen = three_layers(), []

    class Watched(ArrayLoader):
        def set_epoch(self, epoch: int) -> None:
            super().set_epoch(epoch)
            seen.append(state(model))

    config = small_config(tmp_path, epochs=6, warmup_epochs=0)
    finetune(model, Watched(), ArrayLoader(), config, layers=Layers(unfreeze_every=2))
    seen.append(state(model))
    found = []
    for before, after in itertools.pairwise(seen):
        found.append(
            "".join(sorted({name[0] for name, value in after.items() if not torch.equal(value, before[name])}))
        )
    assert found == ["5", "5", "15", "15", "015", "015"]


@pytest.mark.parametrize("every, awake", [(1, [1, 2, 3]), (2, [1, 1, 2]), (0.5, [1, 3, 3]), (100, [1, 1, 1])])
def test_what_learns_is_a_function_of_the_epoch(every: float, awake: list[int]) -> None:
    model, layers = three_layers(), Layers(unfreeze_every=every)
    names = layers_of(model)
    for epoch in (2, 0, 1, 0, 2):  # in any order
        layers.begin_epoch(model, epoch)
        expected = {name for layer in names[-awake[epoch] :] for name in layer}
        assert {name for name, p in model.named_parameters() if p.requires_grad} == expected
        assert not layers.begin_epoch(model, epoch)  # nothing has changed


def test_what_is_frozen_never_joins_in() -> None:
    model, layers = three_layers(), Layers(freeze=1, unfreeze_every=1)
    assert layers.begin_epoch(model, 0) and layers.begin_epoch(model, 1) and not layers.begin_epoch(model, 2)
    assert not model[0][0].weight.requires_grad


@pytest.mark.parametrize("stop_at", [0, 6, 7, 10, 13, 14, 20])
def test_resume_is_exact_while_layers_join_in(tmp_path: Path, stop_at: int) -> None:
    layers = Layers(unfreeze_every=1, lr_decay=0.5)
    whole, parts = three_layers(), three_layers(StopAt(stop_at))
    finetune(whole, ArrayLoader(), ArrayLoader(), small_config(tmp_path / "whole"), layers=layers)
    with pytest.raises(Interrupted):
        finetune(parts, ArrayLoader(), ArrayLoader(), small_config(tmp_path / "parts"), layers=layers)
    again = three_layers()
    config = small_config(tmp_path / "parts", resume=True)
    finetune(again, ArrayLoader(), ArrayLoader(), config, layers=layers)
    assert moved(again, state(whole)) == set()
    with pytest.raises(ValueError, match=r"other settings: layers\.freeze was 0, is 1; "):
        finetune(three_layers(), ArrayLoader(), ArrayLoader(), config, layers=Layers(freeze=1))


def test_each_layer_has_its_rate(tmp_path: Path) -> None:
    model = three_layers()
    groups = Layers(lr_decay=0.5).groups(model, weight_decay=0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    scales = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    expected = {"5": 1.0, "1": 0.5, "0": 0.25}
    assert scales == {name: expected[name[0]] for name in dict(model.named_parameters())}
    assert all((group["weight_decay"] == 0.1) == (p.ndim > 1) for group in groups for p in group["params"])

    # The first step of Adam is the rate itself, wherever there is a gradient.
    before = copy.deepcopy(model)
    config = FineTuneConfig(
        out=tmp_path, epochs=1, lr=1e-2, warmup_epochs=0, weight_decay=0, clip_norm=None, progress="off"
    )
    finetune(model, ArrayLoader(n=8), ArrayLoader(n=8), config, layers=Layers(lr_decay=0.5))
    for layer, rate in ((5, 1e-2), (1, 5e-3), (0, 2.5e-3)):
        old, new = before[layer], model[layer]
        step = max((b - a).abs().max().item() for a, b in zip(old.parameters(), new.parameters(), strict=True))
        assert step == pytest.approx(rate, rel=1e-3)


# Bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, error, message",
    [
        ({"freeze": 1.5}, TypeError, r"Layers.freeze must be a number of layers, or names in a string, got 1.5"),
        ({"freeze": True}, TypeError, "Layers.freeze"),
        ({"unfreeze_every": 0}, ValueError, r"Layers.unfreeze_every must be in \(0, inf\), got 0"),
        ({"unfreeze_every": "1"}, TypeError, "Layers.unfreeze_every must be a number, got '1'"),
        ({"lr_decay": 1.1}, ValueError, r"Layers.lr_decay must be in \(0, 1\], got 1.1"),
        ({"lr_decay": 0}, ValueError, "Layers.lr_decay"),
        ({"lr_decay": None}, TypeError, "Layers.lr_decay must be a number, got None"),
    ],
)
def test_layers_errors(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Layers(**given)


@pytest.mark.parametrize("freeze", [-1, 2, "0,1"])
def test_nothing_to_unfreeze_is_said_before_an_epoch(tmp_path: Path, freeze: Any) -> None:
    layers = Layers(freeze=freeze, unfreeze_every=1)
    with pytest.raises(
        ValueError, match=r"unfreeze_every=1 has nothing to unfreeze: Layers\.freeze=.* leaves only the"
    ):
        finetune(three_layers(), ArrayLoader(), ArrayLoader(), small_config(tmp_path), layers=layers)
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    "freeze, message",
    [
        (3, "freeze=3: Sequential has 3 layers, of which at least one must learn"),
        (-3, "freeze=-3: Sequential has 3 layers"),
        ("layer1", "no module or parameter of Sequential is called 'layer1'; there is 0, 1, 5"),
        ("0.0.weigth", "called '0.0.weigth'; there is 0.0.weight"),
        ("*", r"freeze='\*' fits all of Sequential: nothing would learn"),
    ],
)
def test_what_cannot_be_frozen_is_said_before_an_epoch(tmp_path: Path, freeze: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        finetune(three_layers(), ArrayLoader(), ArrayLoader(), small_config(tmp_path), layers=Layers(freeze=freeze))
    assert not (tmp_path / "metrics.jsonl").exists()
