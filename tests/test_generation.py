"""Generated data: GANs that can be stopped and repeated, samples that a classifier agrees with, the data set."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import dalipipe
from dalipipe.finetune.generation import (
    ConditionalGAN,
    GANConfig,
    ImageGAN,
    Judge,
    PictureCNN,
    SeriesGAN,
    check_learnt_from,
    fit_classifier,
    generate,
    pictures,
    sample_agreed,
    worth,
    write_agreed,
)
from dalipipe.finetune.generation.generator import as_source, values_of
from dalipipe.finetune.generation.series import _levels
from dalipipe.finetune.generation.writing import nearness
from dalipipe.finetune.interrupts import Interrupted
from dalipipe.finetune.parts import Part, joined
from dalipipe.sources import Arrays, ImageFolder, Series, Source

TINY = GANConfig(steps=6, batch_size=8, noise=4, width=2)
SHORT = GANConfig(steps=60, batch_size=16, noise=8, width=8)  # enough for bars


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def bars(n: int = 40, size_px: int = 8, channels: int = 1, seed: int = 0) -> Arrays:
    """Class 0: a light upper half, class 1: a lower one; with grain."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    images = random.integers(0, 60, (n, size_px, size_px, channels))
    for image, label in zip(images, labels, strict=True):
        half = slice(0, size_px // 2) if label == 0 else slice(size_px // 2, size_px)
        image[half] += 150 + random.integers(0, 40)
    return Arrays(images.astype(np.uint8), labels, classes=["up", "down"])


def waves(n: int = 30, channels: int = 2, ragged: bool = True, seed: int = 0) -> Series:
    """Class 0 rises, class 1 falls."""
    random = np.random.default_rng(seed)
    values = []
    for row in range(n):
        frames = 9 + (row * 3) % 7 + 3 * (row % 2) if ragged else 20
        slope = np.linspace(-1, 1, frames) * (1 if row % 2 == 0 else -1)
        values.append((10 + 3 * slope[:, None] + random.normal(0, 0.3, (frames, channels))).astype(np.float32))
    return Series(values, np.arange(n) % 2, classes=["rise", "fall"])


def models() -> list[tuple[ConditionalGAN, Source]]:
    return [
        (ImageGAN(8, TINY), bars()),
        (ImageGAN(16, TINY), bars(channels=3, size_px=16)),
        (SeriesGAN(TINY), waves()),
        (SeriesGAN(TINY), waves(channels=1, ragged=False)),
    ]


def same(one: Source, other: Source) -> bool:
    pairs = zip(values_of(one), values_of(other), strict=True)
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


class Counts:
    """A judge that calls the brightness of a picture's upper half."""

    def __init__(self, only: float = 1.0) -> None:
        self.only = only

    def probabilities(self, source: Source) -> np.ndarray:
        images = np.stack(values_of(source)).astype(float)
        upper = images[:, : images.shape[1] // 2].mean((1, 2, 3)) / 255
        return np.stack([upper, 1 - upper], 1)


class Painter:
    """A generator of what it is told: of grain about a light that is as often wrong as right."""

    classes = ["up", "down"]  # noqa: RUF012

    def fit(self, source: Source) -> None: ...

    def sample(self, count: int, label: int, seed: int) -> Source:
        light = np.random.default_rng([seed, label]).integers(1, 255, (count, 1, 1, 1), np.uint8)
        return Arrays(np.broadcast_to(light, (count, 4, 4, 1)).copy(), np.full(count, label), classes=self.classes)


# GANs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", range(4))
def test_same_seed_same_samples_and_the_first_of_more_are_the_same(which: int) -> None:
    (model, source), (again, _) = models()[which], models()[which]
    model.fit(source)
    again.fit(source)
    few, more = model.sample(3, 1, seed=5), again.sample(70, 1, seed=5)
    assert same(few, as_source(values_of(more)[:3], np.full(3, 1), model.classes))
    assert few.labels is not None and few.labels.tolist() == [1, 1, 1] and few.classes == source.classes
    assert not same(few, model.sample(3, 1, seed=6)) and not same(few, model.sample(3, 0, seed=5))
    other = type(model)(
        **{**({"size_px": 8 << which} if which < 2 else {}), "config": dataclasses.replace(TINY, seed=1)}
    )
    other.fit(source)
    assert not same(few, other.sample(3, 1, seed=5))


@pytest.mark.parametrize("which", range(4))
def test_stopped_anywhere_and_resumed_it_ends_the_same(which: int, tmp_path: Path) -> None:
    model, source = models()[which]
    model.fit(source, checkpoint=tmp_path / "whole")
    for stop_after in (1, 3):
        file, (first, _), (second, _) = tmp_path / f"{stop_after}", models()[which], models()[which]

        class Stopped(Exception):
            pass

        steps = iter(range(stop_after))

        def fail(*given: Any, steps: Any = steps, train: Any = first._train_step) -> Any:
            if next(steps, None) is None:
                raise Stopped  # as a kill would
            return train(*given)

        first._train_step = fail  # type: ignore[method-assign]
        with pytest.raises(Stopped):
            first.fit(source, checkpoint=file, save_every=1)
        second.fit(source, checkpoint=file, resume=True)
        assert model.networks is not None and second.networks is not None and second.step == 6
        for name, tensor in model.networks.state_dict().items():
            assert torch.equal(tensor, second.networks.state_dict()[name]), name
    loaded = type(model).load(tmp_path / "whole")
    assert loaded.classes == model.classes and loaded.step == 6
    assert same(loaded.sample(4, 0, seed=1), model.sample(4, 0, seed=1))
    model.save(tmp_path / "kept")
    assert same(type(model).load(tmp_path / "kept").sample(4, 0, seed=1), model.sample(4, 0, seed=1))


def test_a_signal_leaves_a_checkpoint(tmp_path: Path) -> None:
    import os
    import signal

    model = ImageGAN(8, dataclasses.replace(TINY, steps=200))
    beginning = model._train_step

    def interrupt(*given: Any) -> Any:
        if model.step == 20:
            os.kill(os.getpid(), signal.SIGTERM)
        return beginning(*given)

    model._train_step = interrupt  # type: ignore[method-assign]
    with pytest.raises(Interrupted) as stopped:
        model.fit(bars(), checkpoint=tmp_path / "file")
    assert stopped.value.step == 21 and ImageGAN.load(tmp_path / "file").step == 21


def test_lengths_are_those_of_the_class() -> None:
    source = waves()
    model = SeriesGAN(TINY)
    model.fit(source)
    for label in (0, 1):
        real = {len(one) for one, own in zip(values_of(source), source.labels, strict=True) if own == label}
        made = {len(one) for one in values_of(model.sample(60, label, seed=0))}
        assert made == real
    assert all(np.isfinite(one).all() for one in values_of(model.sample(60, 0, seed=0)))


@pytest.mark.parametrize("frames", [4, 5, 24, 29, 150, 427, 3000])
def test_series_of_any_length_have_levels(frames: int) -> None:
    coarsest, doublings = _levels(frames)
    assert coarsest << doublings >= frames and coarsest >= 1
    assert (coarsest << doublings) - frames < 1 << doublings
    model = SeriesGAN(dataclasses.replace(TINY, steps=1, batch_size=2))
    model.fit(Series(np.random.default_rng(0).normal(size=(4, frames, 1)), np.arange(4) % 2, classes=["a", "b"]))
    assert [len(one) for one in values_of(model.sample(2, 0, seed=0))] == [frames] * 2


def test_padding_is_seen_by_neither_network() -> None:
    """A discriminator's score does not depend on what stands behind a series; a generator leaves it empty."""
    model = SeriesGAN(TINY)
    model.fit(waves())
    assert model.networks is not None
    lengths, labels = torch.tensor([9, 12]), torch.tensor([0, 1])
    made = model.networks["average"](torch.randn(2, 4), labels, lengths)
    assert (made[0, :, 9:] == 0).all() and (made[1, :, 12:] == 0).all() and (made[0, :, :9] != 0).any()
    changed = made.clone()
    changed[0, :, 9:] = 7.0
    random = torch.Generator()
    with torch.no_grad():
        scores = [
            model.networks["discriminator"](model._augmented(one, lengths, random.manual_seed(0)), labels, lengths)
            for one in (made, changed)
        ]
    assert torch.equal(*scores)


def test_augmentation_moves_pictures_whole() -> None:
    model, random = ImageGAN(16), torch.Generator().manual_seed(0)
    values = torch.full((64, 1, 16, 16), -1.0)
    values[:, :, 8, 8] = 1.0
    moved = model._augmented(values, torch.zeros(64), random)
    assert ((moved == 1).sum((1, 2, 3)) == 1).all() and ((moved == -1).sum((1, 2, 3)) == 255).all()
    places = {tuple(place) for place in (moved[:, 0] == 1).nonzero()[:, 1:].tolist()}
    assert all(abs(y - 8) <= 2 and abs(x - 8) <= 2 for y, x in places) and len(places) > 10
    values.requires_grad_()
    model._augmented(values, torch.zeros(64), random).sum().backward()
    assert values.grad is not None and (values.grad.sum((1, 2, 3)) > 100).all()


def test_learns_which_half_is_light() -> None:
    """A few hundred steps, and pictures look their class, and differ."""
    model = ImageGAN(8, GANConfig(steps=150, batch_size=32, noise=8, width=8))
    model.fit(bars(200))
    for label in (0, 1):
        images = np.stack(values_of(model.sample(40, label, seed=0))).astype(float)
        halves = images[:, :4].mean((1, 2, 3)), images[:, 4:].mean((1, 2, 3))
        light, dark = halves if label == 0 else halves[::-1]
        assert (light > dark + 60).mean() > 0.9, (label, light.mean(), dark.mean())
        assert images.std(0).mean() > 3


def test_learns_which_way_series_go() -> None:
    model = SeriesGAN(GANConfig(steps=150, batch_size=32, noise=8, width=8))
    model.fit(waves(120))
    for label in (0, 1):
        ways = np.array([one[-3:].mean() - one[:3].mean() for one in values_of(model.sample(40, label, seed=0))])
        assert ((ways > 1) if label == 0 else (ways < -1)).mean() > 0.9, ways


# What is kept ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("agreement", [0.0, 0.7, 0.9])
def test_only_what_the_judge_agrees_with_is_kept(agreement: float) -> None:
    found = sample_agreed(Painter(), Counts(), 0, 30, agreement=agreement, seed=3)  # type: ignore[arg-type]
    light = np.stack(values_of(found.source)).mean((1, 2, 3)) / 255
    assert len(found.source) == 30 and (light >= max(agreement, 0.5)).all()
    assert len(found.notes) == 30 and found.tried % 30 == 0 and 30 <= found.agreed <= found.tried
    # About as many as there are of such lights.
    assert abs(found.agreed / found.tried - (1 - max(agreement, 0.5))) < 0.2
    for note, value in zip(found.notes, light, strict=True):
        assert math.isclose(note["probability"], value, abs_tol=1e-3)
    again = sample_agreed(Painter(), Counts(), 0, 30, agreement=agreement, seed=3)  # type: ignore[arg-type]
    assert same(found.source, again.source) and found.notes == again.notes


def test_too_little_agreement_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"of class 'down' the classifier takes 0 of 100 made samples .* more steps"):
        sample_agreed(Painter(), Counts(), 1, 50, agreement=0.9999, seed=0, most_tries=2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="takes 0 of"):
        write_agreed(Painter(), Counts(), tmp_path / "out", per_class=2, agreement=0.999999)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_nearness_tells_copies() -> None:
    real = bars(60)
    half = [Part(real, np.flatnonzero(real.labels == label)) for label in (0, 1)]
    copies = [as_source([values_of(real)[row] for row in part.rows], part.labels, real.classes) for part in half]  # type: ignore[arg-type,list-item]
    assert nearness(copies, real) == 0
    more = bars(60, seed=1)
    others = [
        as_source(
            [values_of(more)[row] for row in np.flatnonzero(more.labels == label)],
            np.full(30, label),
            more.classes or [],
        )  # type: ignore[arg-type,list-item]
        for label in (0, 1)
    ]
    assert 0.8 < nearness(others, real) < 1.25
    one_each = as_source([values_of(real)[row] for row in (0, 1)], np.array([0, 1]), real.classes or [])
    assert math.isnan(nearness(others, one_each))


@pytest.mark.parametrize("channels", [1, 3])
def test_generate_writes_pictures(channels: int, tmp_path: Path) -> None:
    config = GANConfig(steps=120, batch_size=32, noise=8, width=8)
    options: dict[str, Any] = {"per_class": 12, "size_px": 8, "config": config, "judge_steps": 30}
    found = generate(bars(120, channels=channels), tmp_path / "one", **options)
    source = ImageFolder(found.data)
    assert source.classes == ["down", "up"] and len(source) == 24  # as folders are ordered
    with Image.open(source.paths[0]) as image:
        assert image.size == (8, 8) and image.mode == ("L" if channels == 1 else "RGB")
    with Image.open(found.sheet) as sheet:
        assert min(sheet.size) > 100
    manifest = json.loads(found.manifest.read_text())
    assert manifest["kept"] == {"up": 12, "down": 12} and manifest["generator"]["steps"] == 120
    files = [tmp_path / "one" / sample["file"] for sample in manifest["samples"]]
    assert sorted(map(str, files)) == sorted(source.paths) and manifest["learnt_from"]["samples"] == 120
    assert 0 < manifest["nearness"] < 3 and manifest["judge"]["on"] == "training"
    if channels == 3:
        return
    # Again elsewhere: the same files. In the same place: refused, or continued, or anew, to the same end.
    again = generate(bars(120, channels=channels), tmp_path / "two", **options)
    with pytest.raises(FileExistsError, match="resume continues the run, overwrite replaces it"):
        generate(bars(120, channels=channels), tmp_path / "two", **options)
    for mode in ({}, {"resume": True}, {"overwrite": True}):
        if mode:
            again = generate(bars(120, channels=channels), tmp_path / "two", **options, **mode)  # type: ignore[arg-type]
        theirs = ImageFolder(again.data)
        assert all(
            Path(a).read_bytes() == Path(b).read_bytes() for a, b in zip(source.paths, theirs.paths, strict=True)
        )
        assert again.manifest.read_bytes() == found.manifest.read_bytes()
    with pytest.raises(ValueError, match="another config"):
        other = {**options, "config": dataclasses.replace(config, seed=1)}
        generate(bars(120, channels=channels), tmp_path / "two", **other, resume=True)
    with pytest.raises(ValueError, match="another data"):
        generate(bars(122, channels=channels), tmp_path / "two", **options, resume=True)


def test_generate_writes_series(tmp_path: Path) -> None:
    config = GANConfig(steps=120, batch_size=32, noise=8, width=8)
    found = generate(waves(60), tmp_path, per_class=7, config=config, judge_steps=40, val=waves(20, seed=1))
    source = Series.open(found.data)
    assert source.classes == ["rise", "fall"] and len(source) == 14
    assert source.schema.of_kind("series")[0].channels == 2 and len(set(source.lengths.tolist())) > 1
    manifest = json.loads(found.manifest.read_text())
    assert manifest["judge"]["on"] == "val" and manifest["judge"]["accuracy"] > 0.8
    line = manifest["samples"][3]["file"].rpartition(" ")[2]
    text = found.data.read_text().splitlines()[int(line) - 1]
    assert text.endswith(":rise")
    # Values come back to the bit.
    written = np.array([channel.split(",") for channel in text.split(":")[:-1]], np.float32).T
    assert np.array_equal(written, values_of(source)[3])
    model = SeriesGAN.load(tmp_path / "generator.safetensors")
    manifest_draw = manifest["samples"][3]["draw"]
    made = model.sample(7, 0, dalipipe.rng.mix64(0, manifest_draw[0]))
    assert np.array_equal(values_of(made)[manifest_draw[1]], written)


def pngs(source: Arrays, root: Path) -> Path:
    assert source.images is not None and source.labels is not None and source.classes is not None
    for row, (image, label) in enumerate(zip(source.images, source.labels, strict=True)):
        path = root / source.classes[label] / f"{row:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(path)
    return root


def tinted(source: Arrays) -> Arrays:
    assert source.images is not None and source.labels is not None
    images = np.repeat(source.images, 3, 3)
    images[..., 2] //= 2
    return Arrays(images, source.labels, classes=source.classes)


@pytest.mark.parametrize("which", ["grey validation", "grey training"])
def test_training_data_decide_how_many_channels_there_are(which: str, tmp_path: Path) -> None:
    grey, colour = bars(40), tinted(bars(40))
    train, val = (colour, grey) if which == "grey validation" else (grey, colour)
    found = generate(train, tmp_path, per_class=1, size_px=8, config=SHORT, judge_steps=30, val=val, agreement=0.0)
    with Image.open(ImageFolder(found.data).paths[0]) as image:
        assert image.mode == ("RGB" if which == "grey validation" else "L")
    assert json.loads(found.manifest.read_text())["judge"]["on"] == "val"


def test_pictures_of_so_many_channels() -> None:
    grey, colour = bars(4), tinted(bars(4))
    assert grey.images is not None and colour.images is not None
    for source, channels, wanted in (
        (grey, None, grey.images),
        (grey, 3, grey.images.repeat(3, 3)),
        (Arrays(grey.images.repeat(3, 3), grey.labels), 1, grey.images),
        (colour, None, colour.images),
        (colour, 3, colour.images),
        (colour, 1, (colour.images @ [0.299, 0.587, 0.114]).round()[..., None]),
    ):
        found = pictures(source, 8, channels=channels).images
        assert found is not None and found.dtype == np.uint8 and found.shape == wanted.shape
        assert np.abs(found.astype(int) - wanted).max() <= (channels == 1 and source is colour)


def test_a_judge_of_other_settings_is_trained_anew(tmp_path: Path) -> None:
    def run(judge_steps: int, **how: Any) -> Any:
        found = generate(
            bars(40), tmp_path, per_class=1, size_px=8, config=SHORT, judge_steps=judge_steps, agreement=0.0, **how
        )
        rows = [json.loads(line) for line in (tmp_path / "judge" / "metrics.jsonl").read_text().splitlines()]
        return found, json.loads(found.manifest.read_text())["judge"]["steps"], rows[-1]["step"]

    generator = tmp_path / "generator.safetensors"
    first = run(30)
    before, judged = generator.read_bytes(), (tmp_path / "judge" / "checkpoint.safetensors").stat().st_mtime_ns
    assert first[1:] == (30, 30)
    assert run(30, resume=True)[1:] == (30, 30)
    assert (tmp_path / "judge" / "checkpoint.safetensors").stat().st_mtime_ns == judged
    assert run(36, resume=True)[1:] == (36, 36) and generator.read_bytes() == before
    assert run(30, resume=True)[1:] == (30, 30) and generator.read_bytes() == before


def test_a_generator_is_not_resumed_with_other_pictures_of_these_names(tmp_path: Path) -> None:
    made: dict[str, Any] = {"per_class": 1, "size_px": 8, "config": SHORT, "judge_steps": 30, "agreement": 0.0}
    found = generate(ImageFolder(pngs(bars(40), tmp_path / "one")), tmp_path / "out", **made)
    told = json.loads(found.manifest.read_text())["learnt_from"]
    other = ImageFolder(pngs(bars(40, seed=5), tmp_path / "other"))
    assert other.fingerprint() == ImageFolder(tmp_path / "one").fingerprint()
    with pytest.raises(ValueError, match="another data"):
        generate(other, tmp_path / "out", **made, resume=True)
    again = generate(other, tmp_path / "again", **made)
    assert json.loads(again.manifest.read_text())["learnt_from"] != told


def test_made_data_are_told_by_what_they_were_made_of(tmp_path: Path) -> None:
    one, other = (ImageFolder(pngs(bars(20, seed=seed), tmp_path / str(seed))) for seed in (0, 1))
    made = tmp_path / "made"
    generate(one, made, per_class=1, size_px=8, config=SHORT, judge_steps=30, agreement=0.0)
    for path in (made, made / "data"):
        check_learnt_from(path, one)
        with pytest.raises(ValueError, match=r"was made of 20 other samples than the 20 .*--val-fraction"):
            check_learnt_from(path, other)
    check_learnt_from(tmp_path / "0", other)  # which says nothing
    for words in ("{", "[]", "3"):
        (made / "manifest.json").write_text(words)
        with pytest.raises(ValueError, match=r"manifest\.json cannot be read"):
            check_learnt_from(made, one)
    (made / "manifest.json").write_text('{"learnt_from": "a book"}')
    check_learnt_from(made, one)


def test_made_of_validation_data_is_refused(tmp_path: Path) -> None:
    from test_cli import SMALL_MODEL, call

    pngs(bars(40, size_px=16), tmp_path / "data")
    small = "--size 8 --per-class 3 --steps 60 --batch-size 16 --width 8 --judge-steps 30 --agreement 0".split()

    def trained(*options: Any) -> Any:
        run = ("--out", tmp_path / "run", "--epochs", "1", "--policy", "digits_train", "--overwrite", *SMALL_MODEL)
        return call("train", tmp_path / "data", *run, *options)

    for name, split in (
        ("all", ()),
        ("fraction", ("--val-fraction", "0.2")),
        ("held", ("--hold-out", "*/0000?.png")),
    ):
        made = call("generate", tmp_path / "data", "--out", tmp_path / name, *small, *split)
        assert made.exit_code == 0, made.output
        assert "least with" in made.output and "up" in made.output
        if not split:
            refused = trained("--val-fraction", "0.2", "--add", tmp_path / name)
            assert refused.exit_code == 2 and "it may show what is validated with" in " ".join(refused.output.split())
            continue
        found = trained(*split, "--add", tmp_path / name)
        assert found.exit_code == 0, found.output
    refused = trained("--val-fraction", "0.2", "--add", tmp_path / "held")
    assert refused.exit_code == 2 and "was made of 30 other samples than the 32" in " ".join(refused.output.split())
    # A part is drawn of the real ones, and what is made is added to it whole.
    part = trained("--val-fraction", "0.2", "--add", tmp_path / "fraction", "--subset", "3")
    assert part.exit_code == 0, part.output
    assert "12 to train on, 8 to validate" in part.output
    both = call(
        "generate", tmp_path / "data", "--val-fraction", "0.2", "--hold-out", "*/0000?.png", "--out", tmp_path / "x"
    )
    assert both.exit_code == 2 and "give one of them" in both.output


def test_bad_input_first(tmp_path: Path) -> None:
    few = GANConfig(steps=1)
    images = bars(6).images
    assert images is not None

    def refused(message: str, source: Any, **given: Any) -> None:
        with pytest.raises(ValueError, match=message):
            generate(source, tmp_path / "out", config=few, **given)
        assert not (tmp_path / "out").exists()

    refused("has no labels that are known", Arrays(images))
    refused("class 'b' has 0 samples to learn from, expected 2", Arrays(images, np.zeros(6, int), classes=["a", "b"]))
    refused("class '1' has 1 samples", Arrays(images, np.array([0, 0, 0, 0, 0, 1])))
    refused("labels must be classes", Arrays(images, np.linspace(0, 1, 6)))
    refused("labels must be classes", Arrays(images, np.eye(6, dtype=int)))
    refused("class 'a/b' cannot name a folder", Arrays(images, np.arange(6) % 2, classes=["a/b", "c"]))
    refused("class 'a b' cannot stand in a .ts file", Series(np.zeros((4, 9)), np.arange(4) % 2, classes=["a b", "c"]))
    refused("SeriesGAN: series of 4 frames or more", Series(np.zeros((4, 3)), np.arange(4) % 2, classes=["a", "c"]))
    refused("pictures and series can be made, and .* has column, text", dalipipe.Text(["a", "b"], np.array([0, 1])))
    refused(r"agreement must be in \[0, 1\), got 1", bars(6), agreement=1)
    refused("per_class must be a whole number, at least 1, got 0", bars(6), per_class=0)
    refused("size_px must be one of 8, 16, 32, 64, got 12", bars(6), size_px=12)
    for wrong in ({"steps": 0}, {"batch_size": 1}, {"lr": 0.0}, {"average": 1.0}, {"penalty": -1.0}, {"lr": math.nan}):
        with pytest.raises(ValueError, match=f"GANConfig.{next(iter(wrong))} must be"):
            GANConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"GANConfig\.steps must be a whole number, got 1\.5"):
        GANConfig(steps=1.5)  # type: ignore[arg-type]
    model = ImageGAN(8, few)
    with pytest.raises(ValueError, match="nothing is learnt yet"):
        model.sample(1, 0, seed=0)
    model.fit(bars(6))
    for count, label in ((0, 0), (1, 2), (1, -1)):
        with pytest.raises(ValueError, match="label one of 2 classes, 0 to 1"):
            model.sample(count, label, seed=0)
    model.save(tmp_path / "file")
    with pytest.raises(ValueError, match="is no SeriesGAN's: it says 'image'"):
        SeriesGAN.load(tmp_path / "file")


def test_diverging_losses_are_an_error() -> None:
    with pytest.raises(FloatingPointError, match="a lower lr"):
        ImageGAN(8, dataclasses.replace(TINY, lr=1e30)).fit(bars())


# Classifiers, and what made data are worth ----------------------------------------------------------------------------


def test_judge_of_other_classes_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the judge tells 3 classes apart, and what is made has 2"):
        Judge(PictureCNN(3, 1)).probabilities(bars(4))


def test_a_classifier_takes_exactly_so_many_steps(tmp_path: Path) -> None:
    for n in (5, 40):  # fewer than a batch, and more
        found = fit_classifier(PictureCNN(2, 1, 4), bars(n), bars(8), tmp_path / str(n), steps=7, batch_size=16)
        assert found.steps == 7


def test_worth_compares_on_the_same_steps() -> None:
    real, made, test = bars(12), bars(30, seed=2), bars(20, seed=1)
    rows = worth(real, made, test, seeds=(0, 1), steps=25, batch_size=16)
    assert [row.arm for row in rows] == ["real", "synthetic", "both"]
    assert all(len(row.accuracies) == 2 and row.mean > 0.7 and row.error >= 0 for row in rows)
    noise = Arrays(
        np.random.default_rng(0).integers(0, 256, (30, 8, 8, 1), np.uint8), made.labels, classes=made.classes
    )
    (poor,) = worth(real, noise, test, arms=("synthetic",), seeds=(0,), steps=25, batch_size=16)
    assert poor.mean < rows[1].mean and math.isnan(poor.error)
    with pytest.raises(ValueError, match="real and made data must have the same classes"):
        worth(real, Arrays(made.images, made.labels, classes=["a", "b"]), test)
    with pytest.raises(ValueError, match="arms must be of"):
        worth(real, made, test, arms=("all",))
    with pytest.raises(ValueError, match="real_share must be in"):
        worth(real, made, test, real_share=1.0)


def test_pictures_of_any_source(jpeg_folder: Any, tmp_path: Path) -> None:
    colour = pictures(ImageFolder(jpeg_folder(6)), 16)
    assert (
        colour.images is not None and colour.images.shape == (6, 16, 16, 3) and colour.classes == ["class_0", "class_1"]
    )
    for label in (0, 1):
        folder = tmp_path / "grey" / str(label)
        folder.mkdir(parents=True)
        for number in range(2):
            Image.fromarray(np.full((9, 7), 100 + number, np.uint8)).save(folder / f"{number}.png")
    grey = pictures(ImageFolder(tmp_path / "grey"), 8)
    assert grey.images is not None and grey.images.shape == (4, 8, 8, 1) and grey.images[1, 0, 0, 0] == 101


def test_joined(jpeg_folder: Any) -> None:
    one, other = ImageFolder(jpeg_folder(4, name="one")), ImageFolder(jpeg_folder(6, name="other"))
    both = joined(one, other)
    assert isinstance(both, ImageFolder) and len(both) == 10 and both.paths[4] == other.paths[0]
    assert both.labels.tolist() == [*one.labels.tolist(), *other.labels.tolist()]
    assert values_of(joined(bars(4), bars(6)))[4].shape == (8, 8, 1)
    series = joined(waves(4), waves(5))
    assert len(series) == 9 and np.array_equal(values_of(series)[5], values_of(waves(5))[1])
    rows = np.array([3, 0])
    for whole, more in ((one, other), (bars(4), bars(6)), (waves(4), waves(5))):
        part = joined(Part(Part(whole, np.arange(4)), rows), more)
        assert type(part) is type(whole) and len(part) == 2 + len(more)
        assert part.labels.tolist() == [*whole.labels[rows], *more.labels]
        first, last = part.read(np.array([0, 2])), (whole.read(rows[:1]), more.read(np.zeros(1, np.int64)))
        column = whole.schema.fields[0].name
        assert [first.columns[column][row].tobytes() for row in (0, 1)] == [
            single.columns[column][0].tobytes() for single in last
        ]
    texts = dalipipe.Text(["a", "b"], np.array([0, 1]), classes=["a", "b"])
    for pair, message in (
        ((Part(texts, np.arange(2)), Part(texts, np.arange(2))), r"Part\(2 of Text.*cannot be joined"),
        ((bars(4), bars(4, size_px=16)), "8×8×1 and 16×16×1 cannot be joined"),
        ((one, bars(4)), "only one of them has"),
        ((one, Arrays(np.zeros((2, 4, 4), np.uint8), np.arange(2), classes=one.classes)), "cannot be joined"),
    ):
        with pytest.raises(ValueError, match=message):
            joined(*pair)


# The commands --------------------------------------------------------------------------------------------------------


def test_generate_and_train_with_it(tmp_path: Path) -> None:
    from test_cli import SMALL_MODEL, call

    data = tmp_path / "data"
    for part, source in (("train", bars(60)), ("val", bars(12, seed=1))):
        for row, image in enumerate(values_of(source)):
            folder = data / part / ("up", "down")[row % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0]).resize((16, 16), Image.Resampling.NEAREST).save(folder / f"{row:03d}.png")
    small = (
        "--size",
        "8",
        "--per-class",
        "6",
        "--steps",
        "60",
        "--batch-size",
        "16",
        "--width",
        "8",
        "--judge-steps",
        "30",
    )
    made = call("generate", data, "--out", tmp_path / "made", *small, "--agreement", "0.4")
    assert made.exit_code == 0, made.output
    assert "12 samples of 2 classes" in made.output and "right on held-out data" in made.output
    assert "step 60/60" in made.output
    again = call("generate", data, "--out", tmp_path / "made", *small)
    assert again.exit_code == 2 and "resume continues the run" in again.output
    run = ("train", data, "--out", tmp_path / "run", "--epochs", "1", "--policy", "digits_train", *SMALL_MODEL)
    trained = call(*run, "--add", tmp_path / "made")
    assert trained.exit_code == 0, trained.output
    assert "72 to train on, 12 to validate" in trained.output
    for wrong, message in (
        (["--add", tmp_path / "nothing"], "nothing"),
        (["--add", data / "val", "--task", "text"], "text"),
    ):
        refused = call(*run, "--overwrite", *wrong)
        assert refused.exit_code == 2 and message in refused.output
    for wrong, message in (
        (["--task", "text"], "--task must be image or series, got text"),
        (["--size", "12"], "size_px must be one of"),
        (["--agreement", "1"], "agreement must be in [0, 1)"),
        (["--resume", "--overwrite"], "give one of them"),
    ):
        refused = call("generate", data, "--out", tmp_path / "other", *wrong)
        assert refused.exit_code == 2 and message in refused.output.replace("\n", " ")
        assert not (tmp_path / "other").exists()
    alone = call("generate", data / "train", "--out", tmp_path / "other", "--report")
    assert alone.exit_code == 2 and "has nothing to test on" in alone.output


def test_generate_series_and_report(tmp_path: Path) -> None:
    from test_cli import call

    from dalipipe.finetune.generation.writing import _write_series

    for part, source in (("TRAIN", waves(40)), ("TEST", waves(12, seed=1))):
        halves = [
            as_source(
                [values_of(source)[row] for row in np.flatnonzero(source.labels == label)],
                np.full(1, label).repeat((source.labels == label).sum()),
                source.classes or [],
            )
            for label in (0, 1)
        ]
        _write_series(tmp_path / f"waves_{part}.ts", halves)
    small = ("--per-class", "5", "--steps", "80", "--batch-size", "16", "--width", "8", "--judge-steps", "60")
    made = call("generate", tmp_path / "waves", "--task", "series", "--out", tmp_path / "made", *small)
    assert made.exit_code == 0, made.output
    trained = call(
        "train", tmp_path / "waves", "--task", "series", "--add", tmp_path / "made", "--epochs", "1", "--model",
        "resnet1d", "--workers", "1", "--device", "cpu", "--out", tmp_path / "run",
    )  # fmt: skip
    assert trained.exit_code == 0, trained.output
    assert "50 to train on" in trained.output


def test_the_study_runs_and_pilots_see_no_test_data(tmp_path: Path) -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
    try:
        import generation_accuracy as study
    finally:
        sys.path.pop(0)
    study.made_series(tmp_path)
    found = study.run("JapaneseVowels", 0, study.QUICK, str(tmp_path), str(tmp_path / "sheet.png"))
    assert set(found["accuracy"]) == set(study.ARMS) and found["real"] == 40 and (tmp_path / "sheet.png").is_file()
    assert all(0 <= value <= 100 for value in found["accuracy"].values())
    runs = [{**found, "seed": seed} for seed in range(2)]
    study.draw(runs, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").is_file() and study.wanted(runs, range(3), ("JapaneseVowels",)) == [
        ("JapaneseVowels", 2)
    ]
    whole = {one.tobytes() for one in values_of(study.sources("JapaneseVowels", str(tmp_path), 8)[0])}
    learnt, held = (
        {one.tobytes() for one in values_of(part)}
        for part in study.split_of("JapaneseVowels", study.PILOT_SEEDS, str(tmp_path), 8)
    )
    assert learnt | held == whole and not learnt & held and len(learnt) == 30


@pytest.mark.cuda
def test_learns_on_a_gpu(tmp_path: Path) -> None:
    """Resumed there, it goes on where it stopped; sampled there, it makes what the CPU makes but for rounding."""
    for model, source in models():
        there = type(model)(
            **({"size_px": model._shape["size_px"]} if isinstance(model, ImageGAN) else {}), config=TINY, device="cuda"
        )
        there.fit(source, checkpoint=tmp_path / "file")
        here = type(model).load(tmp_path / "file")
        for a, b in zip(values_of(there.sample(8, 1, seed=0)), values_of(here.sample(8, 1, seed=0)), strict=True):
            assert np.allclose(a.astype(float), b.astype(float), atol=2 if a.dtype == np.uint8 else 1e-2)
        assert isinstance(there.networks, nn.ModuleDict) and next(there.networks.parameters()).device.type == "cuda"
