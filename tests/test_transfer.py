"""Transfer: penalties towards the start, joint training, weights carried and heads replaced, subsets."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_finetune import ArrayLoader, StopAt, one_thread, small_config, small_model
from torch import nn

import dalipipe
from dalipipe.finetune import Interrupted, Layers, Scores, classify, finetune, layers_of
from dalipipe.finetune.checkpoint import load_checkpoint, save_checkpoint
from dalipipe.finetune.classifier import make_model
from dalipipe.finetune.transfer import (
    L2SP,
    Joint,
    SharedTrunk,
    SideBySide,
    carry_weights,
    draw_rows,
    draw_subset,
    read_weights,
    replace_head,
    share_trunk,
    start_from,
)

_ = one_thread  # a fixture of this module, too


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# L2-SP -------------------------------------------------------------------------------------------------------------


def two_numbers() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 2, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(2.0)
        model[0].bias.fill_(-1.0)
        model[1].weight.copy_(torch.tensor([[3.0], [0.5]]))
    return model


def test_l2_sp_is_what_is_counted_by_hand() -> None:
    model = two_numbers()
    objective = L2SP(model, ["1"], alpha=0.4, beta=0.2)
    assert objective.penalty(model).item() == pytest.approx(0.1 * (9 + 0.25))  # at the start, only the new head counts
    with torch.no_grad():
        model[0].weight.fill_(2.5)
        model[0].bias.fill_(-3.0)
    penalty = objective.penalty(model)
    assert penalty.item() == pytest.approx(0.2 * (0.25 + 4) + 0.1 * 9.25)
    penalty.backward()
    assert model[0].weight.grad.item() == pytest.approx(0.4 * 0.5)
    assert model[0].bias.grad.item() == pytest.approx(0.4 * -2)
    assert model[1].weight.grad.flatten().tolist() == pytest.approx([0.2 * 3, 0.2 * 0.5])

    x, labels = torch.tensor([[1.0], [2.0]]), torch.tensor([0, 1])
    scores, plain = objective(model, (x, labels), 0.1), classify(model, (x, labels), 0.1)
    assert scores.minimised.item() == pytest.approx(plain.losses.mean().item() + 0.2 * 4.25 + 0.925)
    assert torch.equal(scores.losses, plain.losses)  # metrics stay what they are
    with torch.inference_mode():
        assert objective(model, (x, labels), 0.0).minimised is None


def test_l2_sp_leaves_out_what_does_not_learn() -> None:
    model = two_numbers()
    objective = L2SP(model, ["1.weight"], alpha=1.0, beta=1.0)
    with torch.no_grad():
        model[0].weight.fill_(0.0)
    model[0].weight.requires_grad_(False)
    assert objective.penalty(model).item() == pytest.approx(0.5 * 9.25)


def test_l2_sp_adds_to_what_another_objective_minimises() -> None:
    def words(model: nn.Module, batch: Any, label_smoothing: float) -> Scores:
        return Scores(torch.tensor([6.0, 2.0]), torch.ones(2), predictions=torch.tensor([3, 1]))

    def other(model: nn.Module, batch: Any, label_smoothing: float) -> Scores:
        return Scores(torch.tensor([6.0, 2.0]), torch.ones(2), minimised=torch.tensor(10.0))

    model = two_numbers()
    for objective, expected in ((words, 2.0), (other, 10.0)):
        scores = L2SP(model, ["1"], alpha=1, beta=0, objective=objective)(model, ())
        assert scores.minimised is not None and scores.minimised.item() == expected


def test_no_penalty_is_plain_training_and_a_heavy_one_holds_still(tmp_path: Path) -> None:
    def trained(name: str, **weights: float) -> nn.Sequential:
        model = small_model()
        objective = L2SP(model, ["5"], **weights) if weights else classify
        config = small_config(tmp_path / name, weight_decay=0, optimizer="sgd", lr=1e-3, clip_norm=None)
        finetune(model, ArrayLoader(), ArrayLoader(), config, objective=objective)
        return model

    plain, start = trained("plain"), small_model()
    assert equal(trained("zero", alpha=0.0, beta=0.0), plain)
    held = trained("held", alpha=100.0, beta=0.0)
    away, near = ((model[0].weight - start[0].weight).norm().item() for model in (plain, held))
    assert 0 < near < 0.2 * away


def test_another_start_is_no_resume(tmp_path: Path) -> None:
    def run(moved: float, resume: bool) -> None:
        model = small_model()
        with torch.no_grad():
            model[0].weight += moved
        config = small_config(tmp_path, epochs=1, warmup_epochs=0, resume=resume)
        finetune(model, ArrayLoader(), ArrayLoader(), config, objective=L2SP(model, ["5"], alpha=1.0))

    run(0.0, False)
    run(0.0, True)
    with pytest.raises(
        ValueError, match=r"belongs to a run with other settings: objective\.start was '\w+', is '\w+'\. Res"
    ):
        run(1e-6, True)


@pytest.mark.parametrize("stop_at", [3, 9])
def test_resume_is_exact_with_a_penalty(tmp_path: Path, stop_at: int) -> None:
    """The start is that of the pretrained weights, not where the run was stopped."""

    def run(model: nn.Module, name: str, resume: bool = False) -> nn.Module:
        config = small_config(tmp_path / name, resume=resume)
        finetune(model, ArrayLoader(), ArrayLoader(), config, objective=L2SP(model, ["5"], alpha=1.0))
        return model

    whole = run(small_model(), "whole")
    with pytest.raises(Interrupted):
        run(small_model(StopAt(stop_at)), "parts")
    assert equal(run(small_model(), "parts", resume=True), whole)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"alpha": -1}, r"L2SP: alpha must be a number in \[0, inf\), got -1"),
        ({"alpha": 1, "beta": float("nan")}, "L2SP: beta must be"),
        ({"alpha": 1, "fresh": ["fc"]}, "L2SP: fresh has 'fc', which Sequential has no parameter of"),
        ({"alpha": 1, "fresh": ["0", "1"]}, "all parameters of Sequential are new"),
    ],
)
def test_l2_sp_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        L2SP(two_numbers(), **options)


# Side by side ------------------------------------------------------------------------------------------------------


class Numbered(ArrayLoader):
    """As labels, which sample it is."""

    def __init__(self, n: int, batch_size: int, **options: Any) -> None:
        super().__init__(n, batch_size, **options)
        self.labels = torch.arange(n)


def pictures(n: int, seed: int) -> dalipipe.Arrays:
    random = np.random.default_rng(seed)
    return dalipipe.Arrays(random.integers(0, 256, (n, 8, 8, 1), np.uint8), random.integers(0, 3, n))


def real_loader(n: int, batch_size: int, **options: Any) -> dalipipe.DataLoader:
    policy = dalipipe.recipes.digits_train(6)
    return dalipipe.DataLoader(
        pictures(n, n),
        batch_size,
        shuffle=True,
        policy=options.pop("policy", policy),
        seed=n,
        num_workers=1,
        device="cpu",
        **options,
    )


def beside(kind: str, target: int, source: int) -> SideBySide:
    if kind == "arrays":
        return SideBySide(Numbered(target, 2), Numbered(source, 2))
    return SideBySide(real_loader(target, 2), real_loader(source, 2, drop_last=True))


def given(loader: SideBySide, epochs: Any) -> list[list[Any]]:
    """What it gives, as numbers, epoch by epoch."""
    found = []
    for epoch in epochs:
        loader.set_epoch(epoch)
        for target, source in loader:
            found.append([part.tolist() for batch in (target, source) for part in batch])
    return found


@pytest.mark.parametrize("kind", ["arrays", "dalipipe"])
@pytest.mark.parametrize("target, source", [(6, 10), (9, 4), (5, 2), (6, 6)])
def test_state_is_exact_at_every_step(kind: str, target: int, source: int) -> None:
    """With a source that is longer, shorter, of a single batch, as long: taken before every batch, and after the
    last, and loaded by others, which go on through two epochs more.
    """
    epochs = 3
    whole = beside(kind, target, source)
    expected = given(whole, range(epochs))
    assert len(expected) == epochs * len(whole)
    loader = beside(kind, target, source)
    states = []
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        states.append((epoch, loader.state_dict()))
        for _ in loader:
            states.append((epoch, loader.state_dict()))
    for nth, (epoch, state) in enumerate(states):
        done = nth - epoch  # after the last batch of an epoch a state is taken twice
        again = beside(kind, target, source)
        again.load_state_dict(copy.deepcopy(state))
        in_epoch = done - epoch * len(whole)
        found = []
        if in_epoch < len(whole):
            found = [[part.tolist() for batch in pair for part in batch] for pair in again]
        assert found + given(again, range(epoch + 1, epochs)) == expected[done:], nth
        again.close()


def test_the_source_goes_round_in_new_orders_and_leaves_nothing_out() -> None:
    loader = SideBySide(Numbered(6, 2), Numbered(8, 2))
    labels = [pair[3] for pair in given(loader, range(4))]  # 12 batches: three rounds of four
    rounds = [list(itertools.chain(*labels[begin : begin + 4])) for begin in (0, 4, 8)]
    assert all(sorted(one) == list(range(8)) for one in rounds) and len(set(map(tuple, rounds))) == 3


def test_side_by_side_shows_the_target() -> None:
    loader = SideBySide(real_loader(6, 2), real_loader(8, 2))
    assert loader.device == torch.device("cpu") and loader.classes == loader.target.classes and len(loader) == 3
    assert loader.sampler is loader.target.sampler
    with pytest.raises(AttributeError):
        _ = loader.nothing


def test_side_by_side_errors() -> None:
    good = ArrayLoader()
    with pytest.raises(TypeError, match=r"source loader \(list\) has no state_dict, load_state_dict"):
        SideBySide(good, [1])
    with pytest.raises(ValueError, match="target loader has no batch"):
        SideBySide(ArrayLoader(n=4, drop_last=True), good)
    with pytest.raises(ValueError, match="shared by 1 processes, the source by 2"):
        SideBySide(real_loader(6, 2), real_loader(6, 2, rank=0, world_size=2))
    with pytest.raises(ValueError, match="that of one loader"):
        SideBySide(good, good).load_state_dict(good.state_dict())

    loader, other = beside("dalipipe", 6, 8), beside("dalipipe", 6, 10)
    next(iter(loader))
    before = loader.state_dict()
    with pytest.raises(ValueError, match="the saved state belongs to another loader"):
        loader.load_state_dict(other.state_dict())
    assert loader.state_dict() == before


# Joint -------------------------------------------------------------------------------------------------------------


class Two(nn.Module):
    """A trunk with a norm, and a head; no dropout, whose draws would depend on what else is drawn."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.first = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(16, classes)
        self.stop: nn.Module = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(self.stop(x))))


def joined(own_layers: int = 1) -> SharedTrunk:
    model = Two(3)
    torch.manual_seed(5)
    return share_trunk(model, 5, own_layers=own_layers)


class Source(ArrayLoader):
    """Other data, of five classes."""

    def __init__(self, n: int = 64, **options: Any) -> None:
        super().__init__(n, **options)
        self.labels = torch.arange(n) % 5
        self.images = (
            torch.randn(n, 1, 6, 6, generator=torch.Generator().manual_seed(1)) + self.labels[:, None, None, None]
        )


@pytest.mark.parametrize("own_layers, own", [(1, {"head"}), (2, {"head", "second"})])
def test_the_trunk_is_shared_and_the_rest_is_not(own_layers: int, own: set[str]) -> None:
    model = joined(own_layers)
    target, source = dict(model.target.named_parameters()), dict(model.source.named_parameters())
    assert {name.split(".")[0] for name in target if target[name] is not source[name]} == own
    assert source["head.weight"].shape == (5, 16) and target["head.weight"].shape == (3, 16)
    if own_layers == 2:
        assert torch.equal(source["second.0.weight"], target["second.0.weight"])  # starts as a copy
    layers = layers_of(model)
    assert len(layers) == 3 and {"target.head.weight", "source.head.weight"} <= set(layers[-1])
    assert sorted(name for layer in layers for name in layer) == sorted(dict(model.named_parameters()))


def test_the_loss_is_source_plus_weight_times_target() -> None:
    model = joined()
    target = (torch.randn(4, 1, 6, 6), torch.tensor([0, 1, 2, 0]))
    source = (torch.randn(7, 1, 6, 6), torch.tensor([0, 1, 2, 3, 4, 0, 1]))
    scores = Joint(0.25)(model, [target, source], 0.1)
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    expected = loss(model.source(source[0]), source[1]) + 0.25 * loss(model.target(target[0]), target[1])
    assert scores.minimised is not None and scores.minimised.item() == pytest.approx(expected.item(), rel=1e-6)
    assert scores.losses.shape == scores.correct.shape == (4,)  # the target's are what is measured
    assert torch.equal(classify(model.eval(), target).losses, Joint(0.25)(model, target).losses)


def test_weight_zero_is_the_source_alone_to_the_bit(tmp_path: Path) -> None:
    """The trunk, the source's head and its statistics, with weight decay. (Clipping would sum the norm of all gradients
    in another order.)
    """
    options: dict[str, Any] = {"clip_norm": None, "weight_decay": 0.1}
    joint, more, train = joined(), joined(), SideBySide(ArrayLoader(n=64), Source())
    alone = copy.deepcopy(joint.source)
    finetune(joint, train, ArrayLoader(n=16), small_config(tmp_path / "j", **options), objective=Joint(0.0))
    finetune(alone, Source(), Source(n=16), small_config(tmp_path / "a", **options))
    assert equal(joint.source, alone)
    train = SideBySide(ArrayLoader(n=64), Source())
    finetune(more, train, ArrayLoader(n=16), small_config(tmp_path / "m", **options), objective=Joint(0.1))
    assert not torch.allclose(more.source.head.weight, alone.head.weight, atol=1e-4)


def test_statistics_are_those_of_each_ones_own_data(tmp_path: Path) -> None:
    joint = joined()
    finetune(joint, SideBySide(ArrayLoader(), Source()), ArrayLoader(), small_config(tmp_path), objective=Joint())
    target, source = joint.target.first[1], joint.source.first[1]
    assert target.weight is source.weight and not torch.allclose(target.running_mean, source.running_mean)


@pytest.mark.parametrize("stop_at", [0, 4, 6, 7, 8, 15])
def test_joint_resume_is_exact(tmp_path: Path, stop_at: int) -> None:
    """7 steps an epoch, of 5 batches of the source a round; a layer joins in with every epoch."""

    def run(stop: nn.Module | None, name: str, resume: bool = False) -> nn.Module:
        model = joined()
        model.target.stop = stop or nn.Identity()
        config = small_config(tmp_path / name, resume=resume)
        train, layers = SideBySide(ArrayLoader(), Source(n=40)), Layers(unfreeze_every=1)
        finetune(model, train, ArrayLoader(n=16), config, objective=Joint(0.5), layers=layers)
        return model

    whole = run(None, "whole")
    with pytest.raises(Interrupted) as stopped:
        run(StopAt(stop_at), "parts")
    assert stopped.value.step == stop_at + 1
    assert equal(run(None, "parts", resume=True), whole)


def test_another_weight_or_penalty_is_no_resume(tmp_path: Path) -> None:
    def run(weight: float, alpha: float, resume: bool) -> None:
        model = joined()
        objective = L2SP(model, ["target.head"], alpha=alpha, objective=Joint(weight))
        config = small_config(tmp_path, epochs=1, warmup_epochs=0, resume=resume)
        finetune(model, SideBySide(ArrayLoader(), Source()), ArrayLoader(n=8), config, objective=objective)

    run(0.5, 0.1, False)
    run(0.5, 0.1, True)
    for weight, alpha, different in (
        (0.4, 0.1, r"objective.objective.weight was 0\.5, is 0\.4\. Resume"),
        (0.5, 0.2, r"objective.alpha was 0\.1, is 0\.2\. Resume"),
    ):
        with pytest.raises(ValueError, match=f"belongs to a run with other settings: {different}"):
            run(weight, alpha, True)
    with pytest.raises(ValueError, match=r"settings: objective.name was 'L2SP', is 'Joint'\. Resume"):
        model, config = joined(), small_config(tmp_path, epochs=1, warmup_epochs=0, resume=True)
        finetune(model, SideBySide(ArrayLoader(), Source()), ArrayLoader(n=8), config, objective=Joint(0.5))


def test_objectives_may_be_any(tmp_path: Path) -> None:
    """Pixels on the one side, classes on the other: nothing here knows what a head is for."""

    class Pixels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.Conv2d(1, 4, 3, padding=1)
            self.head = nn.Conv2d(4, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.trunk(x))

    def bright(model: nn.Module, batch: Any, label_smoothing: float) -> Scores:
        logits, truth = model(batch[0]), (batch[0][:, 0] > 1).long()
        losses = nn.functional.cross_entropy(logits, truth, reduction="none").flatten(1).sum(1)
        hits = (logits.argmax(1) == truth).flatten(1).sum(1)
        return Scores(losses, hits, predictions=torch.full_like(hits, 36))

    def mean_of_pixels(model: nn.Module, batch: Any, label_smoothing: float) -> Scores:
        return classify(lambda x: model(x).mean((2, 3)), batch, label_smoothing)  # type: ignore[arg-type]

    torch.manual_seed(0)
    model = share_trunk(Pixels(), 5)
    objective = Joint(1.0, target=bright, source=mean_of_pixels)
    train = SideBySide(ArrayLoader(), Source())
    result = finetune(model, train, ArrayLoader(), small_config(tmp_path, epochs=8, lr=3e-2), objective=objective)
    assert result.val_accuracy > 0.8


def test_joint_errors() -> None:
    with pytest.raises(ValueError, match=r"Joint: weight must be a number in \[0, inf\), got -1"):
        Joint(-1)
    batch = (torch.zeros(1, 1, 6, 6), torch.zeros(1).long())
    with pytest.raises(TypeError, match="must be made by share_trunk, got Two"):
        Joint()(Two(3), [batch, batch])
    for own_layers in (0, 3):
        with pytest.raises(ValueError, match=f"own_layers must be in 1..2, as Two has 3 layers.*got {own_layers}"):
            share_trunk(Two(3), 5, own_layers=own_layers)


# Heads and weights -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_0", "timm/vit_tiny_patch16_224", "timm/convnext_atto"])
def test_heads_are_replaced(name: str) -> None:
    model, _ = make_model(name, 10)
    trunk = {n: value.clone() for n, value in model.state_dict().items()}
    fresh = replace_head(model, 4)
    model.eval()
    assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 4)
    assert {n for n, value in model.state_dict().items() if not torch.equal(value, trunk[n])} == set(fresh)
    with pytest.raises(ValueError, match="classes must be a whole number, at least 1, got 0"):
        replace_head(model, 0)
    with pytest.raises(ValueError, match="the model is its own head"):
        replace_head(nn.Linear(3, 4), 2)


def test_a_head_that_disagrees_with_the_labels_is_found_out_at_once(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    with pytest.raises(ValueError, match="the model has 2 outputs, and there are labels of 3 classes: give it a head"):
        finetune(Two(2), ArrayLoader(), ArrayLoader(), config)
    shares = (torch.zeros(4, 1, 6, 6), torch.full((4, 5), 0.2))
    with pytest.raises(ValueError, match="the model has 2 outputs, and there are labels of 5 classes"):
        classify(Two(2), shares)

    class Named(ArrayLoader):
        def __init__(self, *classes: str) -> None:
            super().__init__()
            self.classes = list(classes)

    with pytest.raises(ValueError, match="the model has 3 outputs and the data 4 classes: give it a head"):
        finetune(Two(3), Named(*"abcd"), ArrayLoader(), config)
    for others, message in (("acb", "their order differs"), ("abd", "only one of them has 'c'")):
        with pytest.raises(ValueError, match=f"must have the same classes; {message}"):
            finetune(Two(3), Named(*"abc"), Named(*others), config)
    assert not (tmp_path / "checkpoint.safetensors").exists()
    finetune(Two(3), Named(*"abc"), Named(*"abc"), config)


def test_weights_come_in_many_wrappings(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    donor = Two(3)
    plain = donor.state_dict()
    save_file(plain, tmp_path / "plain.safetensors")
    torch.save({"state_dict": {f"module.{name}": value for name, value in plain.items()}}, tmp_path / "ddp.pth")
    shared = share_trunk(copy.deepcopy(donor), 7)
    torch.save({"model": shared.state_dict()}, tmp_path / "joint.pt")
    zeros = {name: torch.zeros_like(value) for name, value in plain.items()}
    save_checkpoint(tmp_path / "run.safetensors", {"model": zeros, "ema": plain})
    for file in ("plain.safetensors", "ddp.pth", "joint.pt", "run.safetensors"):
        model = Two(3)
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
        assert start_from(model, read_weights(tmp_path / file), name="two") == [], file
        assert equal(model, donor), file
        other = Two(6)
        assert start_from(other, read_weights(tmp_path / file), name="two") == ["head.weight", "head.bias"]
        assert equal(other.first, donor.first) and equal(other.second, donor.second)


def test_a_trunk_without_a_head_will_do() -> None:
    trunk = {name: value for name, value in Two(3).state_dict().items() if not name.startswith("head")}
    old = {name: value for name, value in trunk.items() if not name.endswith("num_batches_tracked")}
    for weights in (trunk, old):
        assert start_from(Two(4), weights, name="two") == ["head.weight", "head.bias"]


def test_weights_of_another_model_are_refused_and_change_nothing() -> None:
    model = Two(3)
    good = model.state_dict()
    wider = {**good, "second.0.weight": torch.zeros(6, 4, 3, 3)}
    lacking = {name: value for name, value in good.items() if name != "first.0.weight"}
    narrow = {**good, "head.weight": torch.zeros(3, 9)}
    for weights, message in (
        (wider, r"file holds no weights of a two: 'second.0.weight' is \[6, 4, 3, 3\] there and \[4, 4, 3, 3\] here"),
        (lacking, "it lacks 'first.0.weight'"),
        ({**good, "third.weight": torch.zeros(1)}, "it has 'third.weight'"),
        (narrow, r"'head.weight' is \[3, 9\] there"),
    ):
        with pytest.raises(ValueError, match=message):
            start_from(model, weights, name="two", origin="file")
    assert equal(model, Two(3))


def test_checkpoints_of_ours_of_other_classes_and_of_another_model(tmp_path: Path) -> None:
    donor, _ = make_model("resnet1d", 3, task="series", channels=2)
    torch.save({"model": donor.state_dict(), "settings": {}}, tmp_path / "checkpoint.pt")
    model, fresh = make_model("resnet1d", 4, task="series", channels=2, weights=tmp_path / "checkpoint.pt")
    assert fresh == ["head.weight", "head.bias"] and equal(model.blocks, donor.blocks)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"checkpoint.pt holds no weights of a inceptiontime: it has 'blocks"):
        make_model("inceptiontime", 3, task="series", channels=2, weights=tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match=r"convolutions.0.weight' is \[64, 2, 8\] there and \[64, 1, 8\] here"):
        make_model("resnet1d", 3, task="series", channels=1, weights=tmp_path / "checkpoint.pt")


def test_a_head_of_other_classes_is_replaced_though_their_number_is_the_same(tmp_path: Path) -> None:
    donor, _ = make_model("resnet1d", 3, task="series", channels=2)

    loader = ArrayLoader()
    loader.classes = ["ant", "bee", "cat"]  # type: ignore[attr-defined]
    finetune(Two(3), loader, ArrayLoader(), small_config(tmp_path, epochs=1, warmup_epochs=0))
    run = load_checkpoint(tmp_path / "checkpoint.safetensors")
    save_checkpoint(tmp_path / "run.safetensors", {**run, "model": donor.state_dict()})
    save_checkpoint(tmp_path / "plain.safetensors", {"model": donor.state_dict()})
    head = ["head.weight", "head.bias"]
    for classes, file, expected in (
        (["ant", "bee", "cat"], "run", []),
        (["ant", "bee", "dog"], "run", head),
        (["bee", "ant", "cat"], "run", head),  # each row would stand for another class
        (["ant", "bee", "cat", "dog"], "run", head),
        (3, "run", []),  # what is not said cannot differ
        (["ant", "bee", "dog"], "plain", []),
    ):
        weights = tmp_path / f"{file}.safetensors"
        model, fresh = make_model("resnet1d", classes, task="series", channels=2, weights=weights)
        assert fresh == expected and equal(model.blocks, donor.blocks), classes  # type: ignore[arg-type]
        assert torch.equal(model.head.weight, donor.head.weight) == (not expected)  # type: ignore[union-attr]


def test_both_heads_of_lraspp_are_replaced() -> None:
    donor, _ = make_model("lraspp_mobilenet_v3_large", 3, task="segmentation")
    model, _ = make_model("lraspp_mobilenet_v3_large", 3, task="segmentation")
    fresh = start_from(model, donor.state_dict(), name="lraspp", same_classes=False)
    assert {name.rpartition(".")[0] for name in fresh} == {"classifier.low_classifier", "classifier.high_classifier"}
    with pytest.raises(ValueError, match=r"LRASPP gives its outputs by 2 .*low_classifier and .*high_classifier"):
        share_trunk(model, 5)


def test_models_of_timm(tmp_path: Path) -> None:
    donor, fresh = make_model("timm/resnet10t", 7)
    assert fresh == list(donor.state_dict())
    from safetensors.torch import save_file

    save_file(donor.state_dict(), tmp_path / "model.safetensors")
    assert make_model("timm/resnet10t", 3, weights=tmp_path / "model.safetensors")[1] == ["fc.weight", "fc.bias"]
    with pytest.raises(ValueError, match="no timm model is called 'resnet10'; did you mean resnet10t"):
        make_model("timm/resnet10", 3)
    (tmp_path / "broken.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="cannot be read as weights: it is damaged"):
        make_model("timm/resnet10t", 3, weights=tmp_path / "broken.safetensors")


# Carried -----------------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self, width: int, blocks: int = 1) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)) for _ in range(blocks)
        )
        self.head = nn.Linear(width, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.head(x.mean((2, 3)))


def test_a_wider_model_begins_as_the_smaller_one() -> None:
    torch.manual_seed(0)
    small, large, x = Residual(5), Residual(8), torch.randn(4, 3, 9, 9)
    for _ in range(3):
        small(x * 2 + 1)  # statistics of its own
    carried = carry_weights(small, large)
    assert carried.fresh == [] and {"head.bias"} <= set(carried.whole) and "stem.0.weight" in carried.part
    torch.testing.assert_close(large.eval()(x), small.eval()(x), rtol=1e-5, atol=1e-6)
    large(x).square().sum().backward()
    assert (
        large.stem[0].weight.grad is not None and large.head.weight.grad[:, 5:].abs().sum() > 0
    )  # the new part learns


def test_what_is_carried_is_told() -> None:
    small, large = Residual(5), Residual(5, blocks=2)
    before = large.blocks[1][0].weight.clone()
    carried = carry_weights(small.state_dict(), large)
    assert carried.part == [] and set(carried.fresh) == {n for n in large.state_dict() if n.startswith("blocks.1.")}
    assert equal(large.stem, small.stem) and equal(large.blocks[0], small.blocks[0])
    assert torch.equal(large.blocks[1][0].weight, before)
    assert "stem.0.weight" in carry_weights(Residual(8), Residual(5, blocks=1)).fresh  # it does not shrink
    with pytest.raises(ValueError, match="no tensor of the smaller model fits one of Linear"):
        carry_weights(small, nn.Linear(2, 3))


# Subsets -----------------------------------------------------------------------------------------------------------


def test_subsets_are_balanced_and_nested() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3], [5, 9, 20, 40]))
    sizes = [draw_rows(labels, count, seed=3) for count in (1, 3, 5)]
    for count, rows in zip((1, 3, 5), sizes, strict=True):
        assert np.array_equal(np.bincount(labels[rows]), [count] * 4) and (np.diff(rows) > 0).all()
    for small, large in itertools.pairwise(sizes):
        assert set(small) < set(large)
    assert np.array_equal(np.bincount(labels[draw_rows(labels, 0.2, seed=3)]), [1, 2, 4, 8])
    assert np.array_equal(draw_rows(labels, 1.0), np.arange(len(labels)))
    assert not np.array_equal(draw_rows(labels, 3, seed=3), draw_rows(labels, 3, seed=4))
    assert np.array_equal(draw_rows(labels, 3, seed=3), sizes[1])


def test_subsets_of_sources() -> None:
    source = pictures(40, 1)
    part = draw_subset(source, 2, seed=1)
    assert len(part) == 6 and part.classes == source.classes
    loader = dalipipe.DataLoader(part, 6, policy=dalipipe.Policy([]), device="cpu")
    images, labels = next(iter(loader))
    assert sorted(labels.tolist()) == [0, 0, 1, 1, 2, 2] and images.shape == (6, 1, 8, 8)
    texts = dalipipe.Text(["a b", "c", "d e f", "a"] * 3, [0, 1] * 6, classes=["x", "y"])
    few = draw_subset(texts, 2)
    assert isinstance(few, dalipipe.Text) and np.bincount(few.labels).tolist() == [2, 2]
    assert few.vocabulary is texts.vocabulary and few.classes == ["x", "y"]


@pytest.mark.parametrize(
    "count, message",
    [
        (0, r"from 1, or a share of each in \(0, 1\], got 0"),
        (1.5, "got 1.5"),
        (True, "got True"),
        (7, "class 1 has 3 samples, fewer than the 7 wanted"),
    ],
)
def test_subset_errors(count: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_rows(np.array([0] * 8 + [1] * 3), count)
    with pytest.raises(ValueError, match="labels must be classes, integers"):
        draw_rows(np.zeros((3, 2)), 1)
