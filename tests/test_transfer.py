"""Transfer: penalties towards the start, joint training, weights carried and heads replaced, subsets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_finetune import ArrayLoader, StopAt, one_thread, small_config, small_model
from torch import nn

from dalipipe.finetune import Interrupted, Scores, classify, finetune
from dalipipe.finetune.transfer import L2SP

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
