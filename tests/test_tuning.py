"""The strength of a policy, by cross-validation: folds, candidates, halving, and what is chosen."""

from __future__ import annotations

import itertools
import json
import math
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import dalipipe
from dalipipe import recipes
from dalipipe.finetune import tuning
from dalipipe.finetune.chance import left_to_chance
from dalipipe.finetune.tuning import Candidate, Standing, TuneConfig, candidates, plan_rungs, stratified_folds, tune
from dalipipe.finetune.tuning import search as search_module
from dalipipe.finetune.tuning.fixed_steps import FixedSteps
from dalipipe.finetune.tuning.ledger import Ledger
from dalipipe.finetune.tuning.search import one_standard_error
from dalipipe.ops import image, signal
from dalipipe.ops.image import RandAugment, TrivialAugmentWide
from dalipipe.ops.mix import MixUp
from dalipipe.policy import Policy, SomeOf
from dalipipe.policy_files import load_policy, save_policy


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def made_source(counts: list[int], seed: int = 0, size: int = 8) -> Any:
    """Pictures of bars, upright or lying, in noise; classes by which."""
    pictures, labels = bars(counts, seed, size)
    return dalipipe.Arrays(pictures, labels, classes=[f"class {i}" for i in range(len(counts))])


def bars(counts: list[int], seed: int = 0, size: int = 8) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    pictures = random.integers(0, 90, (len(labels), size, size, 1), dtype=np.uint8)
    for picture, label in zip(pictures, labels, strict=True):
        at = random.integers(0, size)
        bar = picture[:, at] if label else picture[at]
        bar += np.uint8(100)
    order = random.permutation(len(labels))
    return pictures[order], labels[order]


class Tiny(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.convolution, self.head = nn.Conv2d(1, 8, 3), nn.Linear(8, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.convolution(x)).amax((2, 3)))


def tiny(loader: Any) -> nn.Module:
    return Tiny(len(loader.dataset.classes))


OPTIONS: dict[str, Any] = {"device": "cpu", "num_workers": 1}


# Folds --------------------------------------------------------------------------------------------------------------


@given(counts=st.lists(st.integers(5, 23), min_size=1, max_size=6), folds=st.integers(2, 5), seed=st.integers(0, 9))
def test_folds_have_as_many_of_everything(counts: list[int], folds: int, seed: int) -> None:
    source = made_source(counts, size=2)
    found = stratified_folds(source, folds, seed=seed)
    for label in range(len(counts)):
        each = np.bincount(found[source.labels == label], minlength=folds)
        assert each.max() - each.min() <= 1 and each.min() >= 1
    whole = np.bincount(found, minlength=folds)
    assert whole.max() - whole.min() <= 1 and whole.sum() == sum(counts)


def test_folds_go_by_names_alone(tmp_path: Path) -> None:
    from PIL import Image

    for folder, order in (("a", range(12)), ("b/c", reversed(range(12)))):
        for number in order:
            path = tmp_path / folder / f"class {number % 2}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 4), number).save(path)
    first, second = (dalipipe.ImageFolder(tmp_path / folder) for folder in ("a", "b/c"))
    assert (stratified_folds(first, 3) == stratified_folds(second, 3)).all()
    assert not (stratified_folds(first, 3) == stratified_folds(first, 3, seed=1)).all()


@pytest.mark.parametrize(
    ("counts", "folds", "message"),
    [
        ([9, 4, 7], 5, "5 folds need 5 samples of every class, or one would miss some; there are of 'class 1' 4"),
        ([9, 0, 7], 2, "'class 1' 0"),
        ([9], 1, "folds must be a whole number ≥ 2, got 1"),
        ([9], 2.0, "folds must be a whole number ≥ 2, got 2.0"),
    ],
)
def test_missing_classes_are_told_first(counts: list[int], folds: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        stratified_folds(made_source(counts), folds)
    if folds != 2.0 and folds > 1:
        asked: list[Any] = []
        with pytest.raises(ValueError, match=message):
            tune(
                Policy([image.Invert()]),
                made_source(counts),
                lambda loader: asked.append(loader),  # type: ignore[arg-type, return-value]
                TuneConfig(tmp_path, folds=folds, steps=2, batch_size=2),
                candidates=[Candidate(0.0), Candidate(1.0)],
                eval_policy=Policy([]),
                loader=OPTIONS,
            )
        assert not asked


def test_folds_need_classes() -> None:
    source = dalipipe.Arrays(np.zeros((4, 2, 2, 1), np.uint8))
    with pytest.raises(ValueError, match="give it labels"):
        stratified_folds(source, 2)


# Candidates ---------------------------------------------------------------------------------------------------------


def test_the_grid() -> None:
    policy = recipes.digits_train(16)
    found = candidates(policy)
    assert len(found) == 1 + 5 * 4 + 1 and found[0] == Candidate(0.0) and found[-1].baseline == "TrivialAugment"
    assert [one.dose for one in found] == sorted(one.dose for one in found)
    assert found[0].policy(policy) == policy.at_strength(0)
    assert Candidate(1.0).policy(policy) == policy
    assert Candidate(0.5, 2).policy(policy) == policy.at_strength(0.5).with_copies(2)
    assert candidates(policy, strengths=(0, 1), copies=(0, None), baseline=False) == (Candidate(0.0), Candidate(1.0))
    counted = Policy([RandAugment(2)])
    assert {one.count for one in candidates(counted, strengths=(1,))} == {None, 1, 2, 3}  # None: none, baseline
    few = Policy([SomeOf((image.Invert(), image.Rotate()), n=1)])
    assert max(one.count or 0 for one in candidates(few)) == 2
    assert Candidate(0.5, count=1).policy(counted) == Policy([RandAugment(1)]).at_strength(0.5)


def test_what_comes_to_the_same_is_there_once() -> None:
    """No operators at any strength is no augmentation; a range that is full at 1 is no wider at 2."""
    counted = candidates(Policy([RandAugment(2), image.Normalize()]))
    assert [one.name for one in counted if one.count == 0] == []
    assert len(counted) == 1 + 5 * 3 + 1
    some = candidates(Policy([SomeOf((image.Rotate(20), image.Invert()), n=1), image.Normalize()]), baseline=False)
    assert len(some) == 1 + 5 * 2 and {one.count for one in some} == {None, 1, 2}
    beside = candidates(Policy([image.Rotate(20), RandAugment(2)]), strengths=(0.5, 1), baseline=False)
    assert {(0.5, 0), (1.0, 0)} < {(one.strength, one.count) for one in beside} and len(beside) == 1 + 2 * 4
    full = candidates(Policy([image.Rotate((-180, 180))]), strengths=(0.5, 1, 2, 3), copies=(None,), baseline=False)
    assert [one.strength for one in full] == [0, 0.5, 1]
    calm = Policy([image.Resize((8, 8)), image.Normalize()])
    assert candidates(calm, baseline=False) == (Candidate(0.0),)
    trivial = candidates(Policy([TrivialAugmentWide()]), strengths=(1,), copies=(None,))
    assert [one.name for one in trivial] == ["none", "strength 1"]  # which is the baseline itself


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"strengths": (-1,)}, "strength must be a number ≥ 0"),
        ({"strengths": ()}, "strengths must be one or more numbers"),
        ({"copies": (1.5,)}, "copies must be a whole number"),
        ({"counts": (1,)}, "SomeOf, RandAugment"),
    ],
)
def test_bad_grids(given_: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        candidates(recipes.digits_train(16), **given_)


def test_trivial_augment_stands_where_chance_was() -> None:
    policy = Policy(
        [
            image.RandomResizedCrop(16),
            image.HorizontalFlip(),
            image.Normalize(),
            image.RandomErasing(),
            MixUp(),
        ]
    )
    made = tuning.trivial_augment(policy)
    assert made.ops == (
        policy.ops[0].at_strength(0),
        TrivialAugmentWide(),
        image.Normalize(),
    )
    assert not any(one.baseline for one in candidates(Policy([signal.Jitter()])))


# Halving ------------------------------------------------------------------------------------------------------------


@given(n=st.integers(1, 200), folds=st.integers(2, 10), steps=st.integers(1, 3000))
def test_rungs_cost_at_most_a_quarter(n: int, folds: int, steps: int) -> None:
    rungs = plan_rungs(n, folds, steps)
    assert rungs[0].candidates == n and (rungs[-1].folds, rungs[-1].steps) == (folds, steps)
    cost, grid = sum(rung.cost for rung in rungs), n * folds * steps
    assert cost <= grid and rungs[-1].candidates >= min(n, 2)
    if n >= 12 and folds >= 3 and steps >= 4:
        assert cost <= grid / 4
    assert plan_rungs(n, folds, steps, share=1.0)[-1].candidates == n


def test_rungs_of_the_usual_grid() -> None:
    first, last = plan_rungs(22, 5, 400)
    assert (first.folds, first.steps, last.candidates) == (1, 200, 3)
    for given_ in ((0, 5, 10), (5, 1, 10), (5, 5, 0), (5, 5, 10.0)):
        with pytest.raises(ValueError, match="plan_rungs"):
            plan_rungs(*given_)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="share"):
        plan_rungs(5, 5, 5, share=0)


def standing(strength: float, accuracies: tuple[float, ...], copies: int | None = None) -> Standing:
    return Standing(Candidate(strength, copies), 0, True, accuracies, 0.5, 10)


def test_the_weakest_within_a_standard_error_is_chosen() -> None:
    none = standing(0.0, (0.90, 0.90, 0.90))
    best = standing(1.0, (0.92, 0.98, 0.95))  # 0.95 ± 0.0173
    near = standing(0.5, (0.94, 0.93, 0.94))
    rare = standing(1.0, (0.94, 0.94, 0.94), copies=1)
    assert one_standard_error([none, best, near]) == near
    assert one_standard_error([none, best]) == best
    assert one_standard_error([best, rare, standing(2.0, (0.95, 0.95, 0.95))]) == rare
    assert one_standard_error([none]) == none
    assert best.error == pytest.approx(0.03 / math.sqrt(3))
    assert one_standard_error([none, standing(1.0, (0.89, 0.89, 0.90))]) == none
    trivial = Standing(Candidate(baseline="TrivialAugment"), 0, True, (0.951, 0.951, 0.951), 0.5, 10)
    assert one_standard_error([none, best, trivial]) == trivial  # better by far for its error
    with pytest.raises(ValueError, match="none"):
        one_standard_error([])


# The ledger, and steps ---------------------------------------------------------------------------------------------


def test_a_journal_is_whole_wherever_it_was_cut(tmp_path: Path) -> None:
    path, rows = tmp_path / "rows.jsonl", [{"a": 1, "b": [1.5]}, {"a": 2, "b": None}]
    with Ledger(path, {"settings": {"x": 1}}) as ledger:
        for row in rows:
            ledger.add(row)
        assert ledger.find({"a": 2}) == rows[1] and ledger.find({"a": 3}) is None
    data = path.read_bytes()
    ends = [at + 1 for at, byte in enumerate(data) if byte == 10]
    for length in range(len(data) + 1):
        path.write_bytes(data[:length])
        with Ledger(path, {"settings": {"x": 1}}, resume=True) as ledger:
            whole = max(sum(end <= length for end in ends) - 1, 0)
            assert [ledger.find({"a": n + 1}) is not None for n in range(2)] == [n < whole for n in range(2)]
            for row in rows[whole:]:
                ledger.add(row)
        assert path.read_bytes() == data
    with pytest.raises(FileExistsError, match="resume continues it"):
        Ledger(path, {"settings": {"x": 1}})
    with pytest.raises(ValueError, match="x was 1, is 2"):
        Ledger(path, {"settings": {"x": 2}}, resume=True)
    with Ledger(path, {"settings": {"x": 2}}, overwrite=True) as ledger:
        assert ledger.find({"a": 1}) is None
    path.write_text("no ledger\n")
    with pytest.raises(ValueError, match="damaged"):
        Ledger(path, {}, resume=True)


def test_steps_go_round_and_go_on() -> None:
    def loader() -> Any:
        policy = Policy([image.Rotate()])
        return dalipipe.DataLoader(
            made_source([7, 8]), 4, shuffle=True, drop_last=True, policy=policy, seed=3, **OPTIONS
        )

    plain = loader()
    expected = list(itertools.chain(*(list(plain) for _ in range(4))))[:10]
    steps = FixedSteps(loader(), 10)
    batches = list(steps)
    assert len(steps) == len(batches) == 10
    assert all(torch.equal(ours.image, theirs.image) for ours, theirs in zip(batches, expected, strict=True))
    for stop in (0, 2, 3, 4, 7, 10):
        first = FixedSteps(loader(), 10)
        iterator = iter(first)
        for _ in range(stop):
            next(iterator)
        state = json.loads(json.dumps(first.state_dict()))
        second = FixedSteps(loader(), 10)
        second.load_state_dict(state)
        rest = list(second)
        assert len(rest) == 10 - stop
        assert all(torch.equal(a.image, b.image) for a, b in zip(rest, batches[stop:], strict=True))
    with pytest.raises(ValueError, match="no batch"):
        FixedSteps([], 3)


# The whole ----------------------------------------------------------------------------------------------------------


def planted(monkeypatch: pytest.MonkeyPatch, accuracy: Any) -> list[tuple[Candidate, int, int]]:
    """Trainings that end as ``accuracy(strength, fold, steps)`` says; returns a list that fills with what was asked."""
    asked: list[tuple[Any, int, int]] = []

    def fit(self: Any, policy: Policy, fold: int, steps: int) -> dict[str, Any]:
        degrees = policy.leaves[0].op.degrees[1] if policy.leaves[0].op.p else 0.0
        asked.append((degrees, fold, steps))
        right = accuracy(degrees, fold, steps)
        return {"accuracy": right, "loss": 1.0 - right, "seconds": 0.0}

    monkeypatch.setattr(search_module._Trainings, "fit", fit)
    return asked


GRID = [Candidate(0.0), *(Candidate(s) for s in np.arange(0.1, 1.9, 0.1).round(1).tolist())]


def planted_tune(tmp_path: Path, **settings: Any) -> Any:
    return tune(
        Policy([image.Rotate(100)]),
        made_source([20, 20]),
        tiny,
        TuneConfig(tmp_path, steps=40, batch_size=8, **settings),
        candidates=GRID,
        eval_policy=Policy([]),
        loader=OPTIONS,
    )


def test_a_planted_optimum_is_found_and_little_is_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    asked = planted(
        monkeypatch,
        lambda degrees, fold, steps: (
            0.9 - 1e-5 * (degrees - 70) ** 2 - 1e-4 * (40 - steps) + 0.02 * fold + random.normal(0, 0.0005)
        ),
    )
    tuned = planted_tune(tmp_path)
    assert 0.5 <= tuned.chosen.candidate.strength <= 0.8
    assert [one.candidate for one in tuned.rounds[0]] == GRID  # those that went on, too
    assert {one.candidate for one in tuned.rounds[1]} == {one.candidate for one in tuned.standings if one.in_full}
    spent = sum(steps for _, _, steps in asked)
    assert spent == tuned.cost <= tuned.grid / 4
    folds_of = {degrees: [fold for other, fold, _ in asked if other == degrees] for degrees, _, _ in asked}
    assert folds_of[0.0][-5:] == [0, 1, 2, 3, 4]  # none is trained in full
    assert load_policy(tuned.files["policy"]) == tuned.policy
    assert tuned.policy == Policy([image.Rotate(100)]).at_strength(tuned.chosen.candidate.strength)
    text = tuned.files["table"].read_text()
    assert "(chosen)" in text and text.count("\n| ") == len(GRID)
    assert tuned.files["plot"].stat().st_size > 5000
    assert not (tmp_path / "training").exists()


def test_what_harms_is_not_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    planted(monkeypatch, lambda degrees, fold, steps: 0.9 - 1e-4 * degrees + random.normal(0, 0.01))
    tuned = planted_tune(tmp_path)
    assert tuned.chosen.candidate.strength <= 0.3


def test_no_training_is_repeated_wherever_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def accuracy(degrees: float, fold: int, steps: int) -> float:
        return 0.9 - 1e-5 * (degrees - 70) ** 2 + 0.01 * fold

    asked = planted(monkeypatch, accuracy)
    whole = planted_tune(tmp_path / "whole")
    every = list(asked)
    for stop in (0, 1, 17, len(every) - 1):
        asked.clear()
        out = tmp_path / str(stop)

        left = itertools.count(stop, -1)

        def stopping(degrees: float, fold: int, steps: int, left: Iterator[int] = left) -> float:
            if next(left) == 0:
                raise KeyboardInterrupt
            return accuracy(degrees, fold, steps)

        asked = planted(monkeypatch, stopping)
        with pytest.raises(KeyboardInterrupt):
            planted_tune(out)
        done = asked[:-1]
        asked = planted(monkeypatch, accuracy)
        tuned = planted_tune(out, resume=True)
        assert done + asked == every
        assert (tuned.chosen, tuned.standings, tuned.policy) == (whole.chosen, whole.standings, whole.policy)
        asked.clear()
        planted_tune(out, resume=True)
        assert asked == []
    with pytest.raises(FileExistsError):
        planted_tune(tmp_path / "whole")
    with pytest.raises(ValueError, match=r"lr was 0.001, is 0.1"):
        planted_tune(tmp_path / "whole", resume=True, lr=0.1)


def test_the_plot_has_all_rounds_and_the_baseline_no_strength(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dalipipe import figures

    drawn: list[Any] = []
    whole, made = figures.draw_tuning, figures._figure
    shown: list[Any] = []
    monkeypatch.setattr(figures, "_figure", lambda *size: shown.append(made(*size)) or shown[-1])
    monkeypatch.setattr(figures, "draw_tuning", lambda rows, path: drawn.append(rows) or whole(rows, path))
    monkeypatch.setattr(
        search_module._Trainings, "fit", lambda self, policy, fold, steps: {"accuracy": 0.9 + 0.01 * fold, "loss": 0.5}
    )
    policy = Policy([image.Rotate(60)])
    grid = candidates(policy)
    tuned = tune(
        policy,
        made_source([20, 20]),
        tiny,
        TuneConfig(tmp_path, steps=40, batch_size=8),
        candidates=grid,
        eval_policy=Policy([]),
        loader=OPTIONS,
    )
    (rows,) = drawn
    assert sum(not row["in_full"] for row in rows) == len(grid)  # finalists, too
    assert sum(row["in_full"] for row in rows) == sum(one.in_full for one in tuned.standings)
    assert next(row["strength"] for row in rows if row["line"] == "TrivialAugment") is None
    (figure,) = shown
    left, right = figure.axes
    assert left.get_ylim() == right.get_ylim() and left.get_xlim() == right.get_xlim()
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"none", "1 copy", "all samples", "TrivialAugment", "chosen"} <= set(names)


def test_results_of_another_model_or_objective_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dalipipe.finetune import classification

    planted(monkeypatch, lambda degrees, fold, steps: 0.9)

    def again(model: Any = tiny, resume: bool = True, **how: Any) -> None:
        tune(
            Policy([image.Rotate(100)]),
            made_source([20, 20]),
            model,
            TuneConfig(tmp_path, steps=4, batch_size=8, folds=2, resume=resume),
            candidates=GRID,
            eval_policy=Policy([]),
            loader=OPTIONS,
            **how,
        )

    class Other(Tiny):
        pass

    def trained(loader: Any) -> nn.Module:
        model = Tiny(2)
        nn.init.ones_(model.head.bias)
        return model

    again(resume=False)
    again()
    for other in (lambda loader: Other(2), trained):
        with pytest.raises(ValueError, match=r"model was .*Tiny, 0.0 M parameters that begin as .*, is "):
            again(other)
    with pytest.raises(ValueError, match=r"objective was .*classify.*, is .*one_vs_rest"):
        again(objective=classification("bce"))


@pytest.mark.parametrize(
    ("ops", "name"),
    [
        ([image.RandomResizedCrop(8), image.Normalize(0.5, 0.5)], "RandomResizedCrop"),
        ([image.HorizontalFlip()], "HorizontalFlip"),
        ([SomeOf((image.Invert(p=1), image.VerticalFlip(p=1)), n=1)], "SomeOf"),
        ([RandAugment(2)], "RandAugment"),
        ([image.GaussianNoise()], "GaussianNoise"),
        ([MixUp(num_classes=2)], "MixUp"),
    ],
)
def test_validation_without_chance(ops: list[Any], name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"eval_policy must leave nothing to chance, and draws what {name}"):
        tune(
            Policy([image.Invert()]),
            made_source([10, 10]),
            tiny,
            TuneConfig(tmp_path / "out", steps=2, batch_size=4),
            candidates=[Candidate(0.0), Candidate(1.0)],
            eval_policy=Policy(ops),
            loader=OPTIONS,
        )
    assert left_to_chance(Policy(ops).at_strength(0.0)) is None


def test_what_is_left_to_chance() -> None:
    """Recipes for validation leave nothing, those for training something; so do all operators at strength 0."""
    for name, maker in vars(recipes).items():
        if getattr(maker, "__module__", None) == recipes.__name__ and not name.startswith("_"):
            assert (left_to_chance(maker()) is None) == name.endswith("_eval"), name
            assert left_to_chance(maker().at_strength(0.0)) is None, name
    always = [image.Rotate((90, 90)), image.Invert(p=1), image.Brightness((1.2, 1.2)), image.CenterCrop(600)]
    assert left_to_chance(Policy([*always, RandAugment(0), SomeOf((image.Rotate(),), n=0)])) is None
    assert left_to_chance(Policy([*always, image.Rotate(20, p=0)])) is None
    assert left_to_chance(Policy([*always, image.Invert(p=0.01)])) == image.Invert(p=0.01)


def test_a_harmful_policy_of_a_made_task(tmp_path: Path) -> None:
    """Bars turned by a right angle are those of the other class."""
    turn = Policy([image.Rotate((90, 90), p=0.5, interpolation="nearest")])
    tuned = tune(
        turn,
        made_source([60, 60]),
        tiny,
        TuneConfig(tmp_path, folds=3, steps=60, batch_size=16, lr=3e-2, share=1.0),
        candidates=[Candidate(0.0), Candidate(1.0)],
        eval_policy=Policy([]),
        loader=OPTIONS,
    )
    assert tuned.chosen.candidate == Candidate(0.0) == tuned.best.candidate
    none, turned = tuned.standings
    assert none.mean > turned.mean + 0.05
    assert len({one["accuracy"] for one in rows_of(tmp_path)}) > 2


def test_real_digits_upside_down_are_not_chosen(tmp_path: Path) -> None:
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    few = np.concatenate([np.flatnonzero(digits.target == number)[:24] for number in range(10)])
    scans = np.rint(digits.images[few] * (255 / 16)).astype(np.uint8)
    source = dalipipe.Arrays(scans, digits.target[few].astype(np.int64), classes=[str(n) for n in range(10)])
    tuned = tune(
        Policy([image.Rotate((180, 180), p=0.5), image.HorizontalFlip()]),
        source,
        tiny,
        TuneConfig(tmp_path, folds=2, steps=80, batch_size=24, lr=3e-2, share=1.0),
        candidates=[Candidate(0.0), Candidate(1.0)],
        eval_policy=Policy([]),
        loader=OPTIONS,
    )
    none = next(one for one in tuned.standings if one.candidate == Candidate(0.0))
    assert tuned.chosen is none and none.mean > 0.3


@pytest.mark.cuda
def test_on_a_device(tmp_path: Path) -> None:
    tuned = tune(
        Policy([image.Rotate((90, 90), p=0.5, interpolation="nearest")]),
        made_source([60, 60]),
        tiny,
        TuneConfig(tmp_path, folds=3, steps=60, batch_size=16, lr=3e-2, share=1.0),
        candidates=[Candidate(0.0), Candidate(1.0)],
        eval_policy=Policy([]),
        loader={"device": "cuda"},
    )
    assert tuned.chosen.candidate == Candidate(0.0)
    loader = dalipipe.DataLoader(made_source([60, 60]), 16, shuffle=True, policy=Policy([]), seed=0, device="cuda")
    assert 1e-5 < tuning.lr_range_test(Tiny(2), loader, steps=60).suggested <= 0.1


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "fits.jsonl").read_text().splitlines()[1:]]


def test_trainings_are_the_same_again(tmp_path: Path) -> None:
    def pictures(out: Path, **how: Any) -> None:
        tune(
            Policy([image.Rotate(20), image.HorizontalFlip()]),
            made_source([30, 30]),
            tiny,
            TuneConfig(out, folds=2, steps=8, batch_size=8, share=1.0, **how),
            candidates=[Candidate(0.0), Candidate(1.0, 2)],
            eval_policy=Policy([]),
            loader=OPTIONS,
        )

    found = []
    for name in ("a", "b"):
        pictures(tmp_path / name)
        found.append([(row["accuracy"], row["loss"]) for row in rows_of(tmp_path / name)])
    assert found[0] == found[1] and len(found[0]) == 4

    # Killed in the third training: half a line is written, and half of a checkpoint.
    ledger = tmp_path / "b" / "fits.jsonl"
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join(lines[:3]) + lines[3][:20])
    (tmp_path / "b" / "training").mkdir()
    for name in ("checkpoint.safetensors", "metrics.jsonl"):
        (tmp_path / "b" / "training" / name).write_bytes(b"half")
    before = rows_of(tmp_path / "a")
    pictures(tmp_path / "b", resume=True)
    assert [row["accuracy"] for row in rows_of(tmp_path / "b")] == [row["accuracy"] for row in before]
    assert not (tmp_path / "b" / "training").exists()


def test_results_are_not_of_other_pictures_of_these_names(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    planted(monkeypatch, lambda strength, fold, steps: 0.5)

    def run(**how: Any) -> None:
        config = TuneConfig(tmp_path / "out", folds=2, steps=2, batch_size=2, **how)
        data = dalipipe.ImageFolder(folder)
        grid = [Candidate(0.0), Candidate(1.0)]
        tune(Policy([image.Rotate(20)]), data, tiny, config, candidates=grid, eval_policy=Policy([]), loader=OPTIONS)

    run()
    run(resume=True)
    for path in folder.rglob("*.png"):
        Image.new("RGB", (16, 16), "red").save(path)
    with pytest.raises(ValueError, match="data"):
        run(resume=True)


def test_what_diverges_is_last(tmp_path: Path) -> None:
    class Diverges(Tiny):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * (math.nan if self.training and x.max() > 0.9 else 1.0)

    tuned = tune(
        Policy([image.Invert()]),
        made_source([10, 10]),
        lambda loader: Diverges(2),
        TuneConfig(tmp_path, folds=2, steps=3, batch_size=5, share=1.0),
        candidates=[Candidate(0.0), Candidate(1.0)],
        eval_policy=Policy([]),
        loader=OPTIONS,
    )
    assert tuned.chosen.candidate == Candidate(0.0) and tuned.standings[-1].mean == 0.0
    assert any(
        "no longer finite" in row.get("failed", "") or "became" in row.get("failed", "") for row in rows_of(tmp_path)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidates": []}, "another candidate"),
        ({"candidates": [Candidate(1.0), Candidate(1.0)]}, "given twice"),
        ({"candidates": [Candidate(1.0), Candidate(2.0)], "policy": Policy([image.Rotate(180)])}, "come to the same"),
        ({"config": {"batch_size": 17}}, "batch_size must be at most 16"),
        ({"config": {"batch_size": 0}}, "batch_size must be a whole number"),
        ({"config": {"lr": -1.0}}, "lr must be in"),
        ({"config": {"share": 2}}, "share must be in"),
        ({"policy": Policy([])}, "empty"),
    ],
)
def test_bad_input(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        tune(
            change.get("policy", Policy([image.Invert()])),
            made_source([10, 10]),
            tiny,
            TuneConfig(tmp_path, **{"steps": 2, "batch_size": 4, **change.get("config", {})}),
            candidates=change.get("candidates", [Candidate(0.0), Candidate(1.0)]),
            eval_policy=Policy([]),
            loader=OPTIONS,
        )


# Advice -------------------------------------------------------------------------------------------------------------


def test_advice_has_reasons_and_follows_the_augmentation() -> None:
    source, model = made_source([250, 250]), Tiny(2)
    calm = tuning.suggest(Policy([]), source, model)
    mild = tuning.suggest(Policy([image.HorizontalFlip()]), source, model)
    strong = tuning.suggest(Policy([image.RandomResizedCrop(8), image.HorizontalFlip(), RandAugment(2)]), source, model)
    assert calm.epochs < mild.epochs < strong.epochs
    assert calm.weight_decay > strong.weight_decay
    assert calm.lr == mild.lr == strong.lr == pytest.approx(1e-3 * math.sqrt(calm.batch_size / 64), rel=0.05)
    assert calm.batch_size == 32
    for advice in (calm, mild, strong):
        assert set(advice.reasons) == {"lr", "weight_decay", "batch_size", "epochs"}
        assert all(advice.reasons.values())
    adjusted = tuning.suggest(Policy([]), source, model, pretrained=True)
    assert adjusted.lr < calm.lr and adjusted.epochs < calm.epochs and adjusted.weight_decay <= 0.01


def test_changes_are_counted_by_sample() -> None:
    from dalipipe.finetune.tuning.advice import changes_per_sample

    source = made_source([10, 10])
    for ops, expected in (
        ([], 0.0),
        ([image.Resize((8, 8)), image.Normalize(0.5, 0.5)], 0.0),
        ([image.RandomResizedCrop(8)], 1.0),
        ([image.Invert(p=0.5), image.Rotate()], 1.5),
        ([MixUp(p=0.5, num_classes=2)], 1.0),
    ):
        assert changes_per_sample(Policy(ops), source) == pytest.approx(expected, abs=0.1)


@given(n=st.integers(1, 3000), pretrained=st.booleans())
def test_advice_for_any_number_of_samples(n: int, pretrained: bool) -> None:
    source = dalipipe.Arrays(np.zeros((n, 2, 2, 1), np.uint8), np.zeros(n, np.int64))
    advice = tuning.suggest(Policy([image.Invert(p=0.5)]), source, Tiny(2), pretrained=pretrained)
    assert 1 <= advice.batch_size <= 64 and advice.batch_size <= n
    assert 3 <= advice.epochs <= 300 and 0 < advice.lr <= 1e-3 and 0 < advice.weight_decay <= 0.1


def test_the_range_test_finds_where_training_diverges(tmp_path: Path) -> None:
    """Of squares with a known curvature c, gradient descent diverges beyond 2 / c (with momentum a little later)."""
    curvature = 50.0

    class Square(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.at = nn.Parameter(torch.full((1, 4), 3.0))

    def square(model: Any, batch: Any, smoothing: float) -> Any:
        from dalipipe.finetune import Scores

        losses = 0.5 * curvature * model.at.square().sum().expand(len(batch[0]))
        return Scores(losses, torch.zeros(len(batch[0])))

    model = Square()
    loader = [(torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64))] * 3
    found = tuning.lr_range_test(
        model, loader, low=1e-5, high=10.0, optimizer="sgd", objective=square, weight_decay=0.0, clip_norm=None
    )
    assert 0.1 / curvature < 10 * found.suggested < 10 / curvature
    assert found.steepest < 10 * found.suggested and len(found.rates) < 100  # it broke off
    assert torch.equal(model.at, torch.full((1, 4), 3.0))
    assert found.draw(tmp_path / "range.png", title="squares").stat().st_size > 5000


def test_the_steepest_rate_is_none_of_the_first_few() -> None:
    """Losses of the first batches jump by themselves; the loss falls around the 60th of 100 steps."""
    from dalipipe.finetune import Scores

    random = np.random.default_rng(0)
    steps = itertools.count()

    def planned(model: Any, batch: Any, smoothing: float) -> Any:
        step = next(steps)
        loss = 2.3 - 1.5 / (1 + math.exp((60 - step) / 4)) + (9.0 if step == 0 else random.normal(0, 0.2))
        loss += 8.0 * max(0, step - 80)  # diverges
        return Scores(model.head.weight.sum() * 0 + torch.full((4,), loss), torch.zeros(4))

    loader = [(torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64))]
    found = tuning.lr_range_test(Tiny(2), loader, objective=planned)
    assert found.rates[52] < found.steepest < found.rates[72]


def test_the_range_test_on_data() -> None:
    options = {"shuffle": True, "drop_last": True, "seed": 0, "policy": Policy([]), **OPTIONS}
    loader = dalipipe.DataLoader(made_source([60, 60]), 16, **options)
    torch.manual_seed(0)
    found = tuning.lr_range_test(Tiny(2), loader, steps=60)
    assert 1e-4 < found.suggested <= 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"low": 0.0}, "0 < low < high"),
        ({"low": 2.0}, "0 < low < high"),
        ({"steps": 9}, "steps must be a whole number ≥ 10"),
        ({"optimizer": "adam"}, "optimizer must be adamw or sgd"),
        ({"loader": []}, "no batch"),
        ({"low": 1e3, "high": 1e6}, "falls at no learning rate"),
    ],
)
def test_bad_range_tests(change: dict[str, Any], message: str) -> None:
    loader = change.pop("loader", [(torch.randn(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64))])
    with pytest.raises(ValueError, match=message):
        tuning.lr_range_test(Tiny(2), loader, **change)


# The command line, and other tasks ----------------------------------------------------------------------------------


def call(*arguments: Any) -> Any:
    from typer.testing import CliRunner

    from dalipipe.cli import app

    return CliRunner().invoke(app, [str(one) for one in arguments])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from PIL import Image

    for number, (pixels, label) in enumerate(zip(*bars([12, 12], size=16), strict=True)):
        path = tmp_path / "pictures" / ("upright", "lying")[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[..., 0]).convert("RGB").save(path)
    return tmp_path / "pictures"


def test_tune_by_command(folder: Path, tmp_path: Path) -> None:
    words = "--policy digits_train --size 32 --folds 2 --strengths 1,0 --copies 2,all --no-baseline --epochs 1"
    words += " --model squeezenet1_1 --batch-size 6 --device cpu --workers 1"
    given_ = ("tune", folder, *words.split(), "--out", tmp_path / "out")
    result = call(*given_)
    assert result.exit_code == 0, result.output
    assert "3 candidates, 2 folds" in result.output and "chosen" in result.output
    for name in ("policy.yaml", "policy_eval.yaml", "table.md", "tuning.png", "fits.jsonl"):
        assert (tmp_path / "out" / name).stat().st_size
    again = call(*given_)
    assert again.exit_code == 2 and "resume" in again.output
    again = call(*given_, "--resume")
    assert again.exit_code == 0 and "chosen" in again.output
    again = call(*given_, "--resume", "--model", "squeezenet1_0")
    assert again.exit_code == 2 and "model was" in again.output
    command = shlex.split(result.output.splitlines()[-1])
    assert command[:3] == ["dalipipe", "train", str(folder)] and "squeezenet1_1" in command
    trained = call(*command[1:])  # as it is printed
    assert trained.exit_code == 0, trained.output
    assert (tmp_path / "out" / "chosen" / "checkpoint.safetensors").is_file()


def test_the_command_for_what_was_chosen(folder: Path, tmp_path: Path) -> None:
    from dalipipe.cli.tuning import _train_command

    options = {"task": "image", "lr": 0.001, "weights": None, "out": "a b"}
    rest = "--task image --lr 0.001 --out 'a b'"
    assert _train_command(folder, "image", options) == f"dalipipe train {folder} --val-fraction 0.2 {rest}"
    for part in ("train", "val"):
        (tmp_path / "both" / part).mkdir(parents=True)
    for data in (tmp_path / "both", tmp_path / "both" / "train"):
        assert _train_command(data, "image", options) == f"dalipipe train {tmp_path / 'both'} {rest}"
    (tmp_path / "both" / "val").rmdir()
    for data in (tmp_path / "both", tmp_path / "both" / "train"):
        found = _train_command(data, "image", options)
        assert found == f"dalipipe train {tmp_path / 'both' / 'train'} --val-fraction 0.2 {rest}"
    for names, split in ((["one.tsv"], True), (["two_train.tsv", "two_val.tsv"], False)):
        for name in names:
            (tmp_path / name).write_text("good\tfilm\n")
        assert ("--val-fraction" in _train_command(tmp_path / names[0], "text", options)) == split


@pytest.mark.parametrize("command", ["train", "tune", "suggest"])
def test_a_size_that_nothing_becomes_of(command: str, folder: Path, tmp_path: Path) -> None:
    for name, policy in (("my.yaml", recipes.digits_train(16)), ("my_eval.yaml", recipes.digits_eval(16))):
        save_policy(policy, tmp_path / name)
    split = ("--val-fraction", "0.5", "--out", tmp_path / "out") if command == "train" else ()
    result = call(command, folder, "--policy", tmp_path / "my.yaml", "--size", 64, *split)
    said = result.output.replace("\n", " ")
    assert result.exit_code == 2 and "--size is for recipes" in said and "my.yaml says itself what size" in said
    assert "leave it out" in said and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--folds", 13), "13 folds need 13 samples of every class"),
        (("--strengths", "a"), "--strengths must be numbers, at least 0, with commas"),
        (("--copies", "1,many"), "or all, got"),
        (("--operators", "1"), "SomeOf, RandAugment"),
        (("--policy", "cifar11"), "no recipe is called"),
        (("--strengths", "-1"), "--strengths must be numbers, at least 0"),
        (("--copies", "-1,all"), "--copies must be whole numbers, at least 0"),
        (("--operators", "1"), "leave it out"),
        (("--share", "0"), "--share must be above 0 and at most 1, got 0"),
        (("--policy", "cifar10", "--size", "48"), "cifar10 says itself what size"),
        (("--eval-policy", "deit"), "deit draws what RandomResizedCrop does"),
        (("--policy", "nope.yaml", "--eval-policy", "cifar10_eval"), "there is no policy at nope.yaml"),
        (("--strengths", "1", "--copies", "0", "--no-baseline"), "there is nothing to choose"),
    ],
)
def test_tune_says_what_is_wrong(options: tuple[Any, ...], message: str, folder: Path, tmp_path: Path) -> None:
    result = call("tune", folder, "--policy", "digits_train", "--out", tmp_path / "out", *options)
    assert result.exit_code == 2 and message in result.output.replace("\n", " ")
    assert not (tmp_path / "out" / "fits.jsonl").exists()


def test_suggest_by_command(folder: Path, tmp_path: Path) -> None:
    image_ = tmp_path / "range.png"
    words = "--policy digits_train --size 32 --device cpu --model shufflenet_v2_x0_5"
    given_ = ("suggest", folder, *words.split())
    result = call(*given_, "--range-test", image_)
    assert result.exit_code == 0, result.output
    for word in ("--lr", "--epochs", "--batch-size", "--weight-decay", "range test"):
        assert word in result.output
    assert image_.stat().st_size > 5000


def test_advice_is_not_lost_with_its_picture(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dalipipe.finetune.tuning import range_test as module

    asked = []
    words = "--policy digits_train --size 32 --device cpu --model shufflenet_v2_x0_5"
    given_ = ("suggest", folder, *words.split(), "--range-test")
    found = tuning.RangeTest((0.1, 0.2), (1.0, 0.5), (1.0, 0.5), 0.02, 0.1)
    monkeypatch.setattr(tuning, "lr_range_test", lambda *a, **k: asked.append(a) or found)
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "range.png", tmp_path):
        result = call(*given_, path)
        assert result.exit_code == 2 and asked == [], result.output  # before anything is trained
    result = call(*given_, tmp_path / "new" / "range.png")  # the folder is made
    assert result.exit_code == 0 and (tmp_path / "new" / "range.png").is_file(), result.output

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(module.RangeTest, "draw", full)
    result = call(*given_, tmp_path / "range.png")
    assert result.exit_code == 0 and "--weight-decay" in result.output and "no space left" in result.output


def test_weight_decay_of_train(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[Any] = []
    monkeypatch.setattr("dalipipe.cli.training.fit", lambda train, val, job: jobs.append(job))
    for options in ((), ("--weight-decay", 0.3), ("--l2-sp", 0.1), ("--l2-sp", 0.1, "--weight-decay", 0)):
        result = call("train", folder, "--val-fraction", 0.5, "--weights", "some.pth", *options)
        assert result.exit_code == 0, result.output
    assert [job.weight_decay for job in jobs] == [0.05, 0.3, 0.0, 0.0]
    both = ("--l2-sp", 0.1, "--weight-decay", 0.1)
    result = call("train", folder, "--val-fraction", 0.5, "--weights", "some.pth", *both)
    assert result.exit_code == 2 and "leave --weight-decay out" in result.output.replace("\n", " ")


def test_train_wants_validation_without_chance(folder: Path, tmp_path: Path) -> None:
    save_policy(Policy([image.Resize((16, 16)), image.HorizontalFlip()]), tmp_path / "chance.yaml")
    words = ("--val-fraction", 0.5, "--policy", "digits_train", "--eval-policy", tmp_path / "chance.yaml")
    result = call("train", folder, *words, "--out", tmp_path / "out")
    assert result.exit_code == 2 and "draws what HorizontalFlip does" in result.output.replace("\n", " ")


def test_series_and_texts(tmp_path: Path) -> None:
    from dalipipe.finetune.models import MODELS

    random = np.random.default_rng(0)
    series = [random.normal(size=(20 + i % 3, 1)).astype(np.float32) + i % 2 for i in range(24)]
    words = [f"{'good' if i % 2 else 'bad'} film {i}" for i in range(24)]
    labels = np.arange(24) % 2
    sources: list[tuple[Any, Policy, Any]] = [
        (
            dalipipe.Series(series, labels, classes=["a", "b"]),
            recipes.series(),
            lambda _: MODELS["series"]["resnet1d"](2, 1),
        ),
        (
            dalipipe.Text(words, labels, classes=["a", "b"]),
            recipes.eda(),
            lambda loader: MODELS["text"]["word-cnn"](2, len(loader.vocabulary)),
        ),
    ]
    for number, (source, policy, model) in enumerate(sources):
        tuned = tune(
            policy,
            source,
            model,
            TuneConfig(tmp_path / str(number), folds=2, steps=3, batch_size=4, share=1.0),
            candidates=candidates(policy, strengths=(1,), copies=(2,)),
            eval_policy=Policy([]),
            loader=OPTIONS,
        )
        assert {one.candidate for one in tuned.standings} == {Candidate(0.0), Candidate(1.0, 2)}


def test_the_study_and_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    import report
    import tune_accuracy

    short: dict[str, Any] = {"strengths": (1.0,), "copies": (None,), "digits_a_class": 4, "batch_size": 8}
    settings = tune_accuracy.Settings(seeds=1, folds=2, steps=2, **short)
    one = tune_accuracy.run("digits", 0, settings, "")
    assert set(one["accuracy"]) == set(tune_accuracy.ARMS) and one["chosen"] == "none"
    assert one["accuracy"]["chosen"] == one["accuracy"]["none"] and one["tested_on"] == 800
    runs = [one, {**one, "seed": 1, "chosen": "strength 1"}]
    assert tune_accuracy.wanted(runs, range(3), ("digits", "cifar10")) == [
        ("cifar10", 0),
        ("cifar10", 1),
        ("digits", 2),
        ("cifar10", 2),
    ]
    machine = {"date": "now", "versions": {}, "gpu": "", "cores": 2, "cpu": "x", "simd": "y"}
    result = {"settings": tune_accuracy.asdict(settings), "runs": runs, "machine": machine}
    text = report.BLOCKS["tune_accuracy"](lambda name: result)
    assert "| digits, 40 samples | 10" in text and "none; strength 1 |" in text
    tune_accuracy.draw(runs, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000
