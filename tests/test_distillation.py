"""Distillation: its losses by hand, its limits, and that a teacher's kept answers are the ones it gives live."""

from __future__ import annotations

import functools
import itertools
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from typer.testing import CliRunner

import dalipipe
from dalipipe import orders, rng
from dalipipe.cli import app
from dalipipe.finetune import FineTuneConfig, Interrupted, classify, evaluate, finetune
from dalipipe.finetune.distillation import (
    Distill,
    Hinted,
    OtherAnswersError,
    Taught,
    Teacher,
    TeacherCache,
    dense_logits,
    distillation_losses,
    hint_loss,
    load_teacher,
    sparse_logits,
    subset_then_transfer,
)
from dalipipe.finetune.parts import Part
from dalipipe.loader import StateMismatchError
from dalipipe.ops import image as ops
from dalipipe.ops.mix import MixUp

CLASSES = ["ant", "bee", "cat"]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pictures(n: int = 40, classes: int = 3) -> dalipipe.Arrays:
    random = np.random.default_rng(5)
    labels = random.integers(0, classes, n)
    images = random.integers(0, 80, (n, 14, 14, 3)).astype(np.uint8)
    images[np.arange(n), labels % 4 * 4] += 150
    names = CLASSES if classes == 3 else [f"{i:03d}" for i in range(classes)]
    return dalipipe.Arrays(images, labels, classes=names)


POLICY = dalipipe.Policy([ops.RandomCrop(10), ops.HorizontalFlip(), ops.Contrast(p=0.5), ops.Normalize()])


def loader(n: int = 40, classes: int = 3, **changes: Any) -> dalipipe.DataLoader:
    settings: dict[str, Any] = {"shuffle": True, "drop_last": True, "seed": 3, "device": "cpu", "num_workers": 1}
    settings |= {"policy": POLICY, "draw_epochs": 2, **changes}
    return dalipipe.DataLoader(pictures(n, classes), settings.pop("batch_size", 8), **settings)


def net(seed: int, width: int = 6, classes: int = 3) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8 * width, classes),
    )  # fmt: skip


def teacher(classes: int = 3, **settings: Any) -> Teacher:
    names = CLASSES if classes == 3 else [f"{i:03d}" for i in range(classes)]
    return Teacher(net(99, 10, classes), names, **{"rows": 16, **settings})


def config(out: Path, **changes: Any) -> FineTuneConfig:
    return FineTuneConfig(out=out, **{"epochs": 3, "progress": "off", "lr": 0.01, "log_every": 2, **changes})


# Losses -----------------------------------------------------------------------------------------------------------


def test_losses_by_hand():
    student, wanted = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0.0, 4.0, 0.0]])
    # At T = 2: p = (1, e², 1) / (e² + 2), q = (e, 1, 1) / (e + 2).
    p = [1 / (math.e**2 + 2), math.e**2 / (math.e**2 + 2), 1 / (math.e**2 + 2)]
    q = [math.e / (math.e + 2), 1 / (math.e + 2), 1 / (math.e + 2)]
    by_hand = 4 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert by_hand == pytest.approx(3.1175, abs=1e-4)
    assert distillation_losses(student, wanted, 2).item() == pytest.approx(by_hand, rel=1e-6)

    class Fixed(nn.Module):
        def forward(self, x: Any) -> Any:
            return student

    batch = [[torch.zeros(1), torch.tensor([2])], [wanted]]
    scores = Distill(temperature=2, hard_weight=0.25)(Fixed(), batch)
    hard = math.log(math.e**2 + 2)  # −log softmax of the third of (2, 0, 0)
    assert scores.minimised.item() == pytest.approx(0.75 * by_hand + 0.25 * hard, rel=1e-6)
    assert scores.losses.item() == pytest.approx(hard, rel=1e-6)


def test_losses_of_equals_are_zero_and_of_none_empty():
    logits = torch.randn(5, 4)
    for temperature in (1.0, 4.0, math.inf):
        assert distillation_losses(logits, logits + 3, temperature).abs().max() < 1e-5
        assert distillation_losses(logits[:0], logits[:0], temperature).shape == (0,)


def test_losses_are_those_of_torch_and_of_hugging_face_s_distillation_example():
    torch.manual_seed(0)
    student, wanted, t = torch.randn(7, 11) * 4, torch.randn(7, 11) * 4, 3.0
    # As in examples/research_projects/distillation of transformers, and in torch's tutorial on distillation.
    other = nn.KLDivLoss(reduction="batchmean")(
        functional.log_softmax(student / t, dim=-1), functional.softmax(wanted / t, dim=-1)
    )
    assert distillation_losses(student, wanted, t).mean().item() == pytest.approx(other.item() * t**2, rel=1e-5)


def test_infinite_temperature_is_the_limit():
    torch.manual_seed(0)
    wanted = torch.randn(6, 5)
    losses, gradients = [], []
    for temperature in (10.0, 100.0, math.inf):
        student = (torch.arange(30.0).reshape(6, 5) / 10).requires_grad_()
        loss = distillation_losses(student, wanted, temperature)
        loss.sum().backward()
        losses.append(loss.detach())
        gradients.append(student.grad)
    apart = torch.arange(30.0).reshape(6, 5) / 10 - wanted
    torch.testing.assert_close(losses[2], 0.5 * apart.var(1, correction=0))
    torch.testing.assert_close(gradients[2], (apart - apart.mean(1, keepdim=True)) / 5)
    for values in (losses, gradients):
        errors = [(one - values[2]).abs().max() for one in values[:2]]
        assert errors[1] < 0.02 < errors[0] * 2 and errors[1] < errors[0] / 5


def test_hard_weight_1_is_classify_to_the_bit(tmp_path: Path):
    own, other = net(1), net(1)
    plain = finetune(own, loader(), loader(shuffle=False, drop_last=False), config(tmp_path / "a"))
    taught = Taught(loader(), teacher())
    same = finetune(
        other, taught, loader(shuffle=False, drop_last=False), config(tmp_path / "b"), objective=Distill(hard_weight=1)
    )
    assert plain.val_loss == same.val_loss
    equal_weights(own, other)


def test_hard_weight_0_takes_no_label():
    batch = next(iter(Taught(loader(), teacher())))
    gradients = []
    for shift in (0, 1):
        model = net(1).train()
        model[7].p = 0.0
        fields = [[batch.fields[0], (batch.fields[1] + shift) % 3], batch.logits]
        Distill(hard_weight=0)(model, fields).minimised.backward()
        gradients.append(model[0].weight.grad)
    assert torch.equal(*gradients)


def test_validation_counts_labels_alone():
    model, batches = net(1), loader(shuffle=False, drop_last=False, draw_epochs=1)
    assert evaluate(model, batches, objective=Distill())[:3] == evaluate(model, batches, objective=classify)[:3]


@pytest.mark.parametrize(
    "bad", [{"temperature": 0}, {"temperature": math.nan}, {"hard_weight": 1.1}, {"hint_weight": -1}]
)
def test_distill_refuses(bad: dict[str, float]):
    with pytest.raises(ValueError, match=f"Distill: {next(iter(bad))} must be"):
        Distill(**bad)


# Sparse logits ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 6), st.integers(1, 9), st.integers(1, 12), st.integers(0, 99))
def test_kept_classes_keep_their_probabilities(n: int, classes: int, top_k: int, seed: int):
    logits = torch.randn(n, classes, generator=torch.Generator().manual_seed(seed)) * 5
    dense = dense_logits(sparse_logits(logits, top_k), classes)
    wanted, got = (one.double().softmax(1) for one in (logits, dense))
    kept = torch.zeros_like(logits, dtype=torch.bool).scatter(1, logits.topk(min(top_k, classes)).indices, True)
    torch.testing.assert_close(got[kept].float(), wanted[kept].float(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(got.sum(1).float(), torch.ones(n))
    if top_k >= classes:
        assert torch.equal(dense, logits)


def test_dense_logits_of_other_classes():
    with pytest.raises(ValueError, match="the teacher has 3 classes and the student 4"):
        dense_logits(sparse_logits(torch.randn(2, 3), 9), 4)


# Draws that come again ----------------------------------------------------------------------------------------------


def shown(batches: Any) -> dict[tuple[int, int], bytes]:
    found = {}
    for batch in batches:
        for index, draw, image in zip(batch.indices, batch.draws, batch[0], strict=True):
            assert found.setdefault((int(index), int(draw)), image.numpy().tobytes()) == image.numpy().tobytes()
    return found


def test_draws_come_again_in_another_order():
    one = loader(drop_last=False)
    epochs = [[batch.indices.tolist() for batch in one] for _ in range(2)]
    assert epochs[0] != epochs[1]
    one.set_epoch(0)
    seen = [shown(one) for _ in range(5)]
    assert seen[0] == seen[2] == seen[4] and seen[1] == seen[3]
    assert {draw for _, draw in seen[0]} == {0} and {draw for _, draw in seen[1]} == {rng.MAX_VARIANTS}
    assert set(seen[0].values()) != set(seen[1].values())
    free = loader(drop_last=False, draw_epochs=None)
    assert shown(free) == seen[0] and shown(free) == seen[1]
    assert set(shown(free).values()) != set(seen[0].values())
    again = one.again(batch_size=5, shuffle=False)
    assert shown(again) == seen[0]


def test_copies_have_draws_of_their_own():
    seen = shown(loader(shuffle=False, drop_last=False, sampler=orders.Repeated(3, whole=True)))
    assert len(seen) == 120 and {draw for _, draw in seen} == {0, 1, 2}


def test_a_batch_s_draws_travel():
    import pickle

    batch = next(iter(loader()))
    again = pickle.loads(pickle.dumps(batch))
    assert again.draws.tolist() == batch.draws.tolist() and again.indices.tolist() == batch.indices.tolist()


@pytest.mark.parametrize("step", [0, 3, 5, 7])
def test_draws_after_a_resume(step: int):
    one, other = loader(), loader()
    batches = (batch for _ in range(3) for batch in one)
    for _ in range(step):
        next(batches)
    state = one.state_dict()
    other.load_state_dict(json.loads(json.dumps(state)))
    rest = (batch for _ in range(3) for batch in other)
    for mine, its in zip(batches, rest, strict=False):
        assert mine.indices.tolist() == its.indices.tolist() and mine.draws.tolist() == its.draws.tolist()
        assert torch.equal(mine[0], its[0])
    with pytest.raises(StateMismatchError, match="draw_epochs: saved 2, here 3"):
        loader(draw_epochs=3).load_state_dict(state)


def test_states_from_before_there_were_draw_epochs():
    state = loader(draw_epochs=None).state_dict()
    del state["draw_epochs"]
    loader(draw_epochs=None).load_state_dict(state)


def test_draws_that_cannot_come_again():
    mixed = dalipipe.Policy([ops.RandomCrop(10), MixUp(num_classes=3)])
    with pytest.raises(ValueError, match="draw_epochs=2 has the same pictures come again, but MixUp mixes"):
        loader(policy=mixed)
    phases = dalipipe.Phases({0: POLICY, 1: dalipipe.Policy([ops.RandomCrop(10), ops.Normalize()])})
    with pytest.raises(ValueError, match="but the policy changes with the epochs"):
        loader(policy=phases)
    with pytest.raises(ValueError, match="draw_epochs must be at least 1"):
        loader(draw_epochs=0)


# Teachers -----------------------------------------------------------------------------------------------------------


def equal_weights(one: nn.Module, other: nn.Module) -> None:
    for mine, its in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(mine, its)


def test_a_teacher_s_answers_do_not_depend_on_the_batch():
    asked = teacher()
    whole = next(iter(loader(batch_size=40, shuffle=False, drop_last=False)))
    assert asked.row_by_row(whole)
    (logits,) = asked.teach(whole).logits
    torch.testing.assert_close(logits, asked.model(whole[0]))
    for batch_size in (1, 7, 16, 33):
        parts = [
            asked.teach(batch).logits[0] for batch in loader(batch_size=batch_size, shuffle=False, drop_last=False)
        ]
        assert torch.equal(torch.cat(parts), logits)


def test_the_teacher_sees_the_student_s_mixed_pictures():
    mixed = loader(policy=dalipipe.Policy([ops.RandomCrop(10), MixUp(num_classes=3)]), draw_epochs=None)
    asked = teacher()
    for lesson in Taught(mixed, asked):
        assert lesson.fields[1].shape == (8, 3)
        torch.testing.assert_close(lesson.logits[0], asked.model(lesson.fields[0]))


@pytest.mark.parametrize("classes,top_k,copies", [(3, 64, 1), (12, 4, 1), (3, 2, 2)])
def test_kept_answers_train_as_live_ones_bit_for_bit(tmp_path: Path, classes: int, top_k: int, copies: int):
    settings: dict[str, Any] = {"classes": classes}
    if copies > 1:
        settings |= {"sampler": orders.Repeated(copies, whole=True), "shuffle": False}
    nets, results, lessons = [], [], []
    for kind in ("live", "kept"):
        model, train = net(1, classes=classes), loader(**settings)
        says: Any = teacher(classes, top_k=top_k)
        if kind == "kept":
            says = TeacherCache(tmp_path / "cache", train, says)
            says.fill()
            assert says.missing == 0
        val = loader(classes=classes, shuffle=False, drop_last=False)
        lessons.append([[value.clone() for value in lesson.logits] for lesson in Taught(loader(**settings), says)])
        results.append(finetune(model, Taught(train, says), val, config(tmp_path / kind), objective=Distill(3.0, 0.3)))
        nets.append(model)
    for live, kept in zip(*lessons, strict=True):
        assert all(torch.equal(*pair) for pair in zip(live, kept, strict=True))
    equal_weights(*nets)
    assert results[0].val_loss == results[1].val_loss
    plain = net(1, classes=classes)
    finetune(plain, loader(**settings), val, config(tmp_path / "plain"))
    assert not torch.equal(plain[0].weight, nets[0][0].weight)


@pytest.mark.cuda
def test_cuda_kept_answers_are_the_live_ones(tmp_path: Path):
    train = loader(device="cuda")
    asked = Teacher(net(99, 10).cuda(), CLASSES, rows=16)
    cache = TeacherCache(tmp_path / "cache", train, asked)
    cache.fill()
    for batch in train:
        torch.testing.assert_close(cache.teach(batch).logits[0].cuda(), asked.teach(batch).logits[0])
    val = loader(device="cuda", shuffle=False, drop_last=False)
    found = finetune(net(1), Taught(train, cache), val, config(tmp_path / "run"), objective=Distill())
    assert math.isfinite(found.val_loss)


def test_live_and_kept_lessons_continue_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    val = loader(shuffle=False, drop_last=False)
    cache = TeacherCache(tmp_path / "cache", loader(), teacher())
    cache.fill()
    whole, parts = net(1), net(1)
    finetune(whole, Taught(loader(), cache), val, config(tmp_path / "whole"), objective=Distill())

    class Stopping(Distill):
        left = 7

        def __call__(self, *arguments: Any) -> Any:
            if len(arguments[1]) == 3 and not isinstance(arguments[1][0], torch.Tensor):
                Stopping.left -= 1
                if Stopping.left == 0:
                    import os
                    import signal

                    os.kill(os.getpid(), signal.SIGTERM)
            return super().__call__(*arguments)

    Stopping.__name__ = "Distill"  # which a run to be resumed is asked for
    with pytest.raises(Interrupted):
        finetune(parts, Taught(loader(), teacher()), val, config(tmp_path / "parts"), objective=Stopping())
    again = config(tmp_path / "parts", resume=True)
    with pytest.raises(ValueError, match="begun with another teacher"):
        finetune(net(4), Taught(loader(), Teacher(net(5), CLASSES)), val, again, objective=Distill())
    continued = net(4)
    finetune(continued, Taught(loader(), cache), val, again, objective=Distill())
    equal_weights(whole, continued)


def test_a_fill_that_is_stopped_goes_on(tmp_path: Path):
    class Stop(Exception):
        pass

    def stop(there: int, total: int) -> None:
        assert total == 80
        if there >= 48:
            raise Stop

    asked = teacher()
    cache = TeacherCache(tmp_path / "cache", loader(), asked)
    with pytest.raises(Stop):
        cache.fill(stop)
    again = TeacherCache(tmp_path / "cache", loader(), asked)
    assert again.missing == 24 or again.missing == 32
    with pytest.raises(ValueError, match=r"has no answer for sample \d+: fill"):
        list(itertools.chain(*(Taught(one, again) for one in [loader()] * 2)))
    counts: list[int] = []
    again.fill(lambda there, total: counts.append(there))
    assert counts[-1] == 80 and again.missing == 0 and len(counts) <= 2
    whole = TeacherCache(tmp_path / "other", loader(), asked)
    whole.fill()
    assert (tmp_path / "cache" / "values.npy").read_bytes() == (tmp_path / "other" / "values.npy").read_bytes()
    again.wait(0.1)
    with pytest.raises(TimeoutError, match="80 answers are missing"):
        TeacherCache(tmp_path / "third", loader(), asked).wait(0.1)


@pytest.mark.parametrize(
    "name,changes",
    [
        ("teacher", {}),
        ("data set", {"n": 41}),
        ("policy", {"policy": dalipipe.Policy([ops.RandomCrop(10), ops.Normalize()])}),
        ("seed", {"seed": 4}),
        ("dtype", {"dtype": torch.bfloat16}),
        ("draw_epochs", {"draw_epochs": 3}),
        ("copies", {"sampler": orders.Repeated(2), "shuffle": False}),
    ],
)
def test_a_cache_of_something_else_is_refused_by_name(tmp_path: Path, name: str, changes: dict[str, Any]):
    TeacherCache(tmp_path / "cache", loader(), teacher())
    TeacherCache(tmp_path / "cache", loader(batch_size=5, shuffle=False, num_workers=2), teacher())
    other = Teacher(net(98, 10), CLASSES, rows=16) if name == "teacher" else teacher()
    with pytest.raises(ValueError, match=f"answers in .* other questions.*\n(.*\n)*  {name}: kept"):
        TeacherCache(tmp_path / "cache", loader(**changes), other)


def test_bad_samples_are_passed_over(tmp_path: Path):
    from PIL import Image

    for i in range(12):
        path = tmp_path / "data" / CLASSES[i % 3] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pictures().images[i]).save(path)
    (tmp_path / "data" / "bee" / "4.jpg").write_bytes(b"no picture")

    def batches(batch_size: int, **settings: Any) -> dalipipe.DataLoader:
        settings = {"shuffle": True, "seed": 3, "device": "cpu", "policy": POLICY, "draw_epochs": 2, **settings}
        return dalipipe.DataLoader(dalipipe.ImageFolder(tmp_path / "data"), batch_size, num_workers=1, **settings)

    for on_error in ("skip", "substitute"):
        cache = TeacherCache(tmp_path / on_error, batches(4, on_error=on_error), teacher())
        cache.fill()
        assert cache.missing == 0
        taught = Taught(batches(5, on_error=on_error), cache)
        for _, lesson in itertools.product(range(3), taught):
            assert torch.equal(lesson.logits[0], teacher().teach(lesson.fields).logits[0])
    with pytest.raises(ValueError, match=r"no answer for sample \d+: it could not be read then"):
        batch = next(iter(batches(4, on_error="skip")))
        batch.indices, batch.draws = np.flatnonzero(cache._filled[0] == 2), np.zeros(1, np.int64)
        cache.teach(batch)
    with pytest.raises(dalipipe.SampleError):
        TeacherCache(tmp_path / "raise", batches(4), teacher()).fill()


def test_caches_that_cannot_be(tmp_path: Path):
    with pytest.raises(ValueError, match=r"augments anew.*draw_epochs="):
        TeacherCache(tmp_path / "a", loader(draw_epochs=None), teacher())
    with pytest.raises(ValueError, match="Weighted gives a sample as often as it comes"):
        TeacherCache(tmp_path / "a", loader(sampler=orders.ClassBalanced(), shuffle=False), teacher())
    with pytest.raises(ValueError, match="hints are too large"):
        TeacherCache(tmp_path / "a", loader(), teacher(layers=["0"]))
    with pytest.raises(ValueError, match="only the student has 'cat'"):
        TeacherCache(tmp_path / "a", loader(), Teacher(net(1), ["ant", "bee", "dog"]))
    assert not (tmp_path / "a").exists()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").touch()
    with pytest.raises(FileExistsError, match="b is there, and holds no teacher's answers: name a new or an empty"):
        TeacherCache(tmp_path / "b", loader(), teacher())
    with pytest.raises(OSError, match=r"no answers can be kept: .*'[^']*mine\.txt/c'"):
        TeacherCache(tmp_path / "b" / "mine.txt" / "c", loader(), teacher())
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    (tmp_path / "empty").mkdir()
    TeacherCache(tmp_path / "empty", loader(), teacher())


@pytest.mark.parametrize(
    "name,content", [("teacher.json", "{"), ("teacher.json", "[]"), ("values.npy", "x"), ("filled.npy", None)]
)
def test_a_damaged_cache_is_told_by_the_file(tmp_path: Path, name: str, content: str | None):
    TeacherCache(tmp_path / "cache", loader(), teacher())
    file = tmp_path / "cache" / name
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(ValueError, match=f"{name} is damaged: .* Remove the folder .*cache"):
        TeacherCache(tmp_path / "cache", loader(), teacher())


def test_only_the_epochs_of_a_training_are_filled(tmp_path: Path):
    settings: dict[str, Any] = {"draw_epochs": 5}
    for epochs, answers in ((2, 80), (4, 80), (9, 40)):
        cache = TeacherCache(tmp_path / "cache", loader(**settings), teacher(), epochs=epochs)
        assert cache.missing == answers
        cache.fill()
        cache.wait(0.1)
        train = loader(**settings)
        for _ in range(epochs):
            for lesson in Taught(train, cache):
                assert torch.equal(lesson.logits[0], teacher().teach(lesson.fields).logits[0])


class Doubled(nn.Sequential):
    """The same weights as another's, and other answers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def test_teachers_of_one_s_weights_are_not_that_one(tmp_path: Path):
    one = net(99, 10)
    strided = net(99, 10)
    strided[3].stride = (1, 1)
    digests = [Teacher(model, CLASSES).digest for model in (one, net(99, 10), Doubled(*one), strided)]
    assert digests[0] == digests[1] and len(set(digests)) == 3
    acting = [nn.Sequential(nn.Linear(2, 3)) for _ in range(2)]
    for number, model in enumerate(acting):
        model.extra_repr = functools.partial("<function act at 0x{:x}>".format, 2**40 + number)
        model.load_state_dict(acting[0].state_dict())
    assert Teacher(acting[0], CLASSES).digest == Teacher(acting[1], CLASSES).digest


@pytest.mark.parametrize("bad", ["repainted", "moved"])
def test_identity_is_of_contents_and_not_of_places(tmp_path: Path, bad: str):
    from PIL import Image

    from dalipipe.sources.contents import identity

    def write(root: Path, light: int) -> dalipipe.ImageFolder:
        for i in range(70):
            path = root / CLASSES[i % 2] / f"{i:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 4, 3), light + i, np.uint8)).save(path)
        return dalipipe.ImageFolder(root)

    one, other = write(tmp_path / "one", 0), write(tmp_path / "other", 9 if bad == "repainted" else 0)
    assert one.fingerprint() == other.fingerprint()
    assert (identity(one) == identity(other)) == (bad == "moved")
    half = [identity(Part(whole, np.arange(0, 70, 2))) for whole in (one, other)]
    assert (half[0] == half[1]) == (bad == "moved") and half[0] != identity(one)
    (tmp_path / "one" / CLASSES[0] / "00000.png").unlink()  # a record that cannot be read is none of another data set
    assert identity(one) != identity(other)


def test_a_cache_of_other_pictures_of_these_names_is_refused(tmp_path: Path):
    from PIL import Image

    def batches(light: int) -> dalipipe.DataLoader:
        for i in range(12):
            path = tmp_path / "data" / CLASSES[i % 3] / f"{i:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((14, 14, 3), light + i, np.uint8)).save(path)
        settings: dict[str, Any] = {"policy": POLICY, "draw_epochs": 2, "seed": 3, "device": "cpu", "num_workers": 1}
        return dalipipe.DataLoader(dalipipe.ImageFolder(tmp_path / "data"), 4, shuffle=True, **settings)

    for _ in range(2):
        TeacherCache(tmp_path / "cache", batches(0), teacher()).fill()
    with pytest.raises(OtherAnswersError, match="data set: kept"):
        TeacherCache(tmp_path / "cache", batches(9), teacher())


def test_identity_of_what_may_be_random_is_the_fingerprint():
    from dalipipe.sources.contents import identity

    class Random:
        targets = (0, 1)

        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> Any:
            return np.random.default_rng().integers(0, 9, (4, 4, 3)).astype(np.uint8), index

    whole = dalipipe.MapDataset(Random())
    for source in (whole, Part(whole, np.arange(1))):
        assert identity(source) == identity(source) == source.fingerprint()


def test_teachers_that_cannot_be():
    with pytest.raises(ValueError, match="in another order"):
        Taught(loader(), Teacher(net(1), ["bee", "ant", "cat"]))
    with pytest.raises(ValueError, match="the teacher has 4, the student's data 3; only the teacher has 'dog'"):
        Taught(loader(), Teacher(net(1, classes=4), [*CLASSES, "dog"]))
    with pytest.raises(ValueError, match=r"the teacher gives logits \[64, 4\].*\[64, 3\]"):
        next(iter(Taught(loader(), Teacher(net(1, classes=4), CLASSES))))
    for bad in ({"top_k": 0}, {"rows": 0}, {"rows": 1.5}):
        with pytest.raises(ValueError, match=f"Teacher: {next(iter(bad))} must be"):
            Teacher(net(1), CLASSES, **bad)
    with pytest.raises(ValueError, match="has no layer 'nowhere' for hints; it has 0, 1"):
        Teacher(net(1), CLASSES, layers=["nowhere"])


def test_teachers_are_loaded_whole(tmp_path: Path):
    from torchvision import models

    model = models.resnet18(num_classes=3)
    torch.save(model.state_dict(), tmp_path / "plain.pth")
    found, classes = load_teacher(tmp_path / "plain.pth", "resnet18", CLASSES)
    equal_weights(found, model)
    assert classes == CLASSES
    with pytest.raises(ValueError, match=r"has no 'fc\.weight' for a resnet18 of 4 classes"):
        load_teacher(tmp_path / "plain.pth", "resnet18", [*CLASSES, "dog"])
    with pytest.raises(ValueError, match="holds no weights of a resnet34"):
        load_teacher(tmp_path / "plain.pth", "resnet34", CLASSES)
    with pytest.raises(FileNotFoundError, match="no teacher at"):
        load_teacher(tmp_path / "none.pth", "resnet18", CLASSES)


# Hints --------------------------------------------------------------------------------------------------------------


def test_hints(tmp_path: Path):
    asked = teacher(layers=["3"])
    student = net(1)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    hinted = Hinted(student, asked.model, {"3": "3"}, [torch.zeros(2, 3, 10, 10)])
    assert [p.weight.shape for p in hinted.projections] == [(20, 12)]
    for name, value in student.state_dict().items():
        assert torch.equal(before[name], value)
    lesson = next(iter(Taught(loader(), asked)))
    hinted.train()
    _, features = hinted(lesson.fields[0])
    by_hand = functional.conv2d(student[:4](lesson.fields[0]), hinted.projections[0].weight[..., None, None])
    by_hand = by_hand + hinted.projections[0].bias[:, None, None]
    torch.testing.assert_close(features[0], by_hand, atol=1e-4, rtol=1e-4)
    square = (features[0] - lesson.features[0]).square().mean()
    torch.testing.assert_close(hint_loss(features, lesson.features), square)
    hinted.eval()
    assert torch.equal(hinted(lesson.fields[0]), student(lesson.fields[0]))
    finetune(
        hinted, Taught(loader(), asked), loader(shuffle=False, drop_last=False), config(tmp_path), objective=Distill()
    )
    after = hint_loss([hinted.train()(lesson.fields[0])[1][0]], lesson.features)
    assert after < square


def test_hints_that_are_not_taken(tmp_path: Path):
    asked, val = teacher(layers=["3"]), loader(shuffle=False, drop_last=False)
    hinted = Hinted(net(1), asked.model, {"3": "3"}, [torch.zeros(2, 3, 10, 10)])

    def refused(message: str, student: nn.Module, train: Any, **options: Any) -> None:
        with pytest.raises(ValueError, match=message):
            finetune(student, train, val, config(tmp_path, overwrite=True), **options)

    message = "features of 1 layers as hints, and the student takes none"
    refused(message, net(1), Taught(loader(), asked), objective=Distill())
    refused("the student is Hinted, at 1 layers, and batches", hinted, Taught(loader(), teacher()), objective=Distill())
    refused("the student is Hinted, at 1 layers, and batches", hinted, loader(), objective=Distill())
    for student in (hinted, net(1)):
        refused("classify: a batch of this loader is several sequences.*Distill", student, Taught(loader(), asked))
    refused("classify: the model gives a tuple, expected logits.*Distill", hinted, loader())
    finetune(net(1), Taught(loader(), asked), val, config(tmp_path, overwrite=True), objective=Distill(hint_weight=0))


def test_hints_of_other_sizes_and_none():
    fine, coarse = torch.randn(2, 3, 8, 6), torch.randn(2, 3, 4, 3)
    wanted = (functional.avg_pool2d(fine, 2) - coarse).square().mean()
    torch.testing.assert_close(hint_loss([fine], [coarse]), wanted)
    torch.testing.assert_close(hint_loss([coarse], [fine]), wanted)
    with pytest.raises(ValueError, match=r"features are \[2, 3, 8, 6\], the teacher's \[2, 5, 8, 6\]"):
        hint_loss([fine], [torch.randn(2, 5, 8, 6)])
    with pytest.raises(ValueError, match="hints for 1 of the student's layers, and features of 0"):
        hint_loss([fine], [])
    with pytest.raises(ValueError, match="name at least one layer"):
        Hinted(net(1), net(2), {}, [torch.zeros(2, 3, 10, 10)])


# A small model on a subset, then a larger one -------------------------------------------------------------------------


def test_subset_then_transfer(tmp_path: Path):
    from dalipipe.finetune.transfer import carry_weights, draw_rows

    def run(small: nn.Module, target: nn.Module, **changes: Any) -> Any:
        train, val = loader(draw_epochs=None), loader(shuffle=False, drop_last=False)
        return subset_then_transfer(small, target, train, val, config(tmp_path, **changes), count=0.5, subset_epochs=2)

    small, target = net(1, 4), net(2, 8)
    found = run(small, target)
    rows = draw_rows(pictures().labels, 0.5, seed=3)
    assert found.drawn == len(rows) and found.subset.epochs == 2 and found.whole.epochs == 3
    assert "0.weight" in found.carried.part

    # By hand: a loader of these rows, the weights carried, a loader of all.
    subset = loader(draw_epochs=None, shuffle=False, sampler=orders.Subset(rows))
    mine, its = net(1, 4), net(2, 8)
    finetune(mine, subset, loader(shuffle=False, drop_last=False), config(tmp_path / "a", epochs=2))
    equal_weights(mine, small)
    carry_weights(net(1, 4), its)
    carry_weights(mine, its)
    finetune(its, loader(draw_epochs=None), loader(shuffle=False, drop_last=False), config(tmp_path / "b"))
    equal_weights(its, target)

    # Stopped between the two runs, and after both.
    for path in tmp_path.glob("checkpoint*"):
        path.unlink()
    for _ in range(2):
        again = net(2, 8)
        run(net(1, 4), again, resume=True)
        equal_weights(again, target)


def test_subsets_that_cannot_be(tmp_path: Path):
    batches = loader(), loader(shuffle=False, drop_last=False)
    with pytest.raises(ValueError, match="fewer than the 99 wanted"):
        subset_then_transfer(net(1), net(2), *batches, config(tmp_path), count=99)
    with pytest.raises(ValueError, match="no tensor of the smaller model fits"):
        subset_then_transfer(nn.Linear(2, 3), net(2), *batches, config(tmp_path), count=2)
    assert not list(tmp_path.iterdir())


# The command --------------------------------------------------------------------------------------------------------


def call(*arguments: str | Path) -> Any:
    given = [str(argument) for argument in arguments]
    return CliRunner().invoke(app, given, env={"COLUMNS": "160", "NO_COLOR": "1"})


def test_train_with_a_teacher(jpeg_folder: Any, tmp_path: Path):
    for part, n in (("train", 24), ("val", 8)):
        jpeg_folder(n, name=f"data/{part}")
    data, student = tmp_path / "data", ["--model", "shufflenet_v2_x0_5", "--size", "32", "--batch-size", "8"]
    student += ["--workers", "1", "--device", "cpu", "--epochs", "3"]
    taught = call("train", data, *student, "--out", tmp_path / "teacher", "--epochs", "1")
    assert taught.exit_code == 0, taught.output
    checkpoint = next((tmp_path / "teacher").glob("checkpoint.*"))
    kept = ["--teacher", checkpoint, "--teacher-cache", tmp_path / "kept", "--cache-epochs", "2"]
    first = call("train", data, *student, *kept, "--out", tmp_path / "a", "--temperature", "2", "--hard-weight", "0.5")
    assert first.exit_code == 0, first.output
    shown = " ".join(first.output.split())
    assert "T 2, labels' share 0.5" in shown and "48 answers worked out" in shown
    second = call("train", data, *student, *kept, "--out", tmp_path / "b")
    assert second.exit_code == 0 and "its answers are in" in second.output
    live = call("train", data, *student, "--teacher", checkpoint, "--out", tmp_path / "live", "--temperature", "inf")
    assert live.exit_code == 0, live.output

    longer = call("train", data, *student, *kept[:-1], "5", "--out", tmp_path / "e")
    assert longer.exit_code == 2
    said = " ".join(longer.output.split())
    assert "answers to 2 epochs' augmentation, and --cache-epochs is 5: give --cache-epochs 2, or" in said
    wider = [*kept[:2], "--teacher-cache", tmp_path / "wider"]  # ten epochs' augmentation, of any number of epochs
    for epochs, answers in (("1", "24 answers"), ("2", "24 answers"), ("1", "its answers are in")):
        found = call("train", data, *student, *wider, "--out", tmp_path / "f", "--epochs", epochs, "--overwrite")
        assert found.exit_code == 0 and answers in found.output, found.output
    seed = call("train", data, *student, *kept, "--out", tmp_path / "c", "--seed", "5")
    assert seed.exit_code == 2 and "seed: kept 0, here 5" in seed.output
    alone = call("train", data, *student, "--out", tmp_path / "live", "--resume")
    assert alone.exit_code == 2 and "objective.name was 'Distill', is 'classify'" in " ".join(alone.output.split())
    wide = ["--model", "shufflenet_v2_x1_0", *student[2:], "--epochs", "1", "--out", tmp_path / "wide"]
    carried = call("train", data, *wide, "--carry", checkpoint)
    assert carried.exit_code == 0, carried.output
    assert "in part, carried from" in " ".join(carried.output.split())
    both = call("train", data, *wide, "--overwrite", "--carry", checkpoint, "--weights", checkpoint)
    assert both.exit_code == 2 and "give one of them" in both.output
    for folder in (data / "train", data / "val"):
        (folder / "class_1").rename(folder / "zebra")
    other = call("train", data, *student, "--teacher", checkpoint, "--out", tmp_path / "d")
    assert other.exit_code == 2 and "different classes" in other.output and "'class_1'" in other.output
    assert not (tmp_path / "d" / "metrics.jsonl").exists()
    other = call("train", data, *wide, "--overwrite", "--carry", checkpoint)
    assert other.exit_code == 2 and "was trained on other classes" in " ".join(other.output.split())
    assert "start_from" not in other.output and "learnt on these classes" in " ".join(other.output.split())


@pytest.mark.parametrize(
    "options,message",
    [
        (["--temperature", "2"], "--temperature is about a --teacher"),
        (["--teacher-model", "resnet18"], "--teacher-model is about a --teacher"),
        (["--teacher-cache", "x"], "--teacher-cache is about a --teacher"),
        (["--teacher", __file__, "--cache-epochs", "3"], "--cache-epochs says what a --teacher-cache holds"),
        (["--teacher", "none.pt"], "no teacher at none.pt"),
        (["--teacher", __file__, "--temperature", "0"], "temperature must be above 0"),
    ],
)
def test_options_that_do_not_go_together(tmp_path: Path, options: list[str], message: str):
    shown = call("train", tmp_path, *options)
    assert shown.exit_code == 2 and message in " ".join(shown.output.split())


# Cost ---------------------------------------------------------------------------------------------------------------


def test_looking_up_is_cheap(tmp_path: Path):
    """At most a tenth of the live teacher's time, though this teacher is small."""
    from torchvision import models

    asked = Teacher(models.resnet18(num_classes=3), CLASSES, rows=8)
    train = loader()
    cache = TeacherCache(tmp_path / "cache", train, asked)
    cache.fill()
    batches = list(train)

    def seconds(says: Any) -> float:
        best = math.inf
        for _ in range(3):
            begun = time.perf_counter()
            for batch in batches:
                says.teach(batch)
            best = min(best, time.perf_counter() - begun)
        return best

    assert seconds(cache) <= 0.1 * seconds(asked)
