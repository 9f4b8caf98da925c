"""Looking at policies: what is drawn is what training sees, as a whole and operator by operator."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import dalipipe
from dalipipe.figures import Trace, _spectrogram_db, draw_grid, draw_traces, tinted
from dalipipe.ops import image as ops
from dalipipe.ops.mix import CutMix, MixUp
from dalipipe.policy import Choice, Node, OneOf, Policy
from dalipipe.preview import preview
from dalipipe.records import SampleError
from dalipipe.schema import Field, Schema, make_batch
from dalipipe.sources import Arrays, ImageFolder, ImageMasks, Source

Folder = Callable[..., Path]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[list[list[np.ndarray]], dict[str, Any]]]:
    """Calls `preview`, and gives the rows of pictures and the options of the grid it would draw."""
    caught: dict[str, Any] = {}

    def catch(rows: Any, path: Any, **options: Any) -> Any:
        caught.update(rows=rows, options=options)
        return path

    def call(source: Any, nodes: list[Node] | Policy, **arguments: Any) -> Any:
        monkeypatch.setattr(dalipipe.preview, "draw_grid", catch)
        policy = nodes if isinstance(nodes, Policy) else Policy(nodes)
        preview(source, policy, "nowhere.png", decoder="pillow", **arguments)
        return caught["rows"], caught["options"]

    return call


def test_a_png_that_depends_on_the_seed_alone(jpeg_folder: Folder, tmp_path: Path) -> None:
    source = ImageFolder(jpeg_folder(2))
    paths = [
        preview(source, dalipipe.recipes.digits_train(28), tmp_path / f"{i}.png", variants=3, seed=i // 2)
        for i in range(3)
    ]
    first, again, other_seed = (np.asarray(Image.open(path)) for path in paths)
    assert np.array_equal(first, again) and not np.array_equal(first, other_seed)


def test_variants_are_what_the_first_epochs_of_training_see(jpeg_folder: Folder, drawn: Any) -> None:
    source = ImageFolder(jpeg_folder(9))
    policy = [ops.RandomResizedCrop(24), ops.HorizontalFlip(), ops.Brightness((0.5, 1.5)), ops.Normalize()]
    rows, options = drawn(source, policy, samples=3, variants=2, seed=5)
    assert options["row_labels"] == ["class_0", "class_0", "class_1"]
    assert options["column_labels"] == ["original", "1", "2"] and options["cell_px"] == 120
    assert len(rows) == 3 and all(len(row) == 3 for row in rows)
    loader = dalipipe.DataLoader(source, 9, policy=Policy(policy[:-1]), dtype=torch.uint8, seed=5, decoder="pillow")
    for epoch in range(2):
        loader.set_epoch(epoch)
        images = next(iter(loader)).image.permute(0, 2, 3, 1).numpy()
        for row, index in zip(rows, (0, 4, 8), strict=True):
            np.testing.assert_array_equal(row[1 + epoch], images[index])
    for row, index in zip(rows, (0, 4, 8), strict=True):
        np.testing.assert_array_equal(row[0], np.asarray(Image.open(source.paths[index])))


def test_each_operator_alone_and_always(jpeg_folder: Folder, drawn: Any) -> None:
    source = ImageFolder(jpeg_folder(4))
    policy: list[Node] = [
        ops.RandomResizedCrop(24, scale=(0.3, 0.5)),
        OneOf([ops.Invert(), ops.Solarize((128, 128), p=0.01)], p=0.001),
        ops.HorizontalFlip(p=0.5),
        ops.HorizontalFlip(p=0.1),  # as the one before, but for its p: one row
        ops.Normalize(),
        ops.RandomErasing(p=0.01, value=0),
    ]
    rows, options = drawn(source, policy, each=True, variants=3)
    labels = [label.partition("\n")[0] for label in options["row_labels"]]
    assert labels == ["RandomResizedCrop", "Invert", "Solarize", "HorizontalFlip", "RandomErasing"]
    assert all(len(row) == 4 for row in rows)
    crop, invert, solarize, flip, erasing = rows
    assert crop[0].shape == (48, 64, 3) and crop[1].shape == (24, 24, 3)
    assert not np.array_equal(crop[1], crop[2])
    framed = invert[0]
    assert framed.shape == (24, 24, 3)
    for before, after, expected in (
        (invert[0], invert[1:], 255 - framed),
        (solarize[0], solarize[1:], np.where(framed >= 128, 255 - framed, framed)),
        (flip[0], flip[1:], framed[:, ::-1]),
    ):
        np.testing.assert_array_equal(before, framed)
        for variant in after:
            np.testing.assert_array_equal(variant, expected)
    mean = np.rint(255 * np.array(ops.Normalize().mean)).astype(np.uint8)  # what 0 is after Normalize
    for variant in erasing[1:]:
        changed = (variant != framed).any(-1)
        assert 0 < changed.mean() < 0.5 and (variant[changed] == mean).all()


def test_each_shows_several_pictures_where_asked(jpeg_folder: Folder, drawn: Any) -> None:
    rows, options = drawn(
        ImageFolder(jpeg_folder(4)),
        [ops.CenterCrop(16), ops.Rotate(Choice((30, 60)), fill=(1.0, 2.0, 3.0)), ops.Invert()],
        each=True,
        samples=2,
        variants=1,
    )
    rotate = "Rotate\ndegrees 30 | 60\nfill (1, 2, 3)"
    assert len(rows) == 6 and options["row_labels"][::2] == ["CenterCrop\nsize 16", rotate, "Invert"]
    assert options["row_labels"][1::2] == ["", "", ""]
    assert not np.array_equal(rows[4][0], rows[5][0])


def test_macros_are_unrolled_and_their_seams_left_out(jpeg_folder: Folder, drawn: Any) -> None:
    source = ImageFolder(jpeg_folder(2, size=(20, 20)))
    for macro, some in ((ops.TrivialAugmentWide(), {"Rotate", "Posterize"}), (ops.AugMix(), {"Solarize", "Shear"})):
        _, options = drawn(source, [macro], each=True, variants=1)
        names = [label.partition("\n")[0] for label in options["row_labels"]]
        assert some <= set(names) and "MixtureStep" not in names
        assert len(names) == len(set(options["row_labels"])) >= 13


def test_of_what_is_fine_the_middle_is_shown_pixel_by_pixel(jpeg_folder: Folder, drawn: Any) -> None:
    source = ImageFolder(jpeg_folder(1, classes=1, size=(200, 300)))
    nodes: list[Node] = [ops.GaussianBlur(3, 1.0), ops.Invert()]
    (blurred, inverted), options = drawn(source, nodes, each=True, variants=1)
    assert options["row_labels"][0].splitlines()[-1] == "the middle, 1:1"
    assert inverted[0].shape == (200, 300, 3)
    np.testing.assert_array_equal(blurred[0], inverted[0][44:156, 94:206])
    assert blurred[1].shape == (112, 112, 3) and not np.array_equal(blurred[1], blurred[0])


def test_pictures_are_mixed_within_whole_groups(drawn: Any) -> None:
    pictures = np.repeat(np.arange(0, 200, 10, dtype=np.uint8), 48).reshape(20, 4, 4, 3)
    source = Arrays(pictures, np.arange(20), classes=[str(i) for i in range(20)])
    policy: list[Node] = [ops.HorizontalFlip(), OneOf([MixUp(), CutMix()], p=0.5)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows, _ = drawn(source, policy, samples=3, variants=4)
        each, options = drawn(source, policy, each=True, variants=4)
    assert len(rows) == 3 and all(len(row) == 5 for row in rows)
    assert [label.partition("\n")[0] for label in options["row_labels"]] == ["HorizontalFlip", "MixUp", "CutMix"]
    assert any((variant != each[1][0]).all() for variant in each[1][1:])  # blended with another
    assert all(set(np.unique(variant)) <= set(np.unique(pictures)) for variant in each[2][1:])


def test_label_maps_lie_over_their_pictures_and_move_with_them(tmp_path: Path, drawn: Any) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    picture, mask = np.full((10, 12, 3), 100, np.uint8), np.zeros((10, 12), np.uint8)
    mask[:5, :3], mask[:5, 3:6] = 7, 255
    Image.fromarray(picture).save(tmp_path / "images" / "a.png")
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    source = ImageMasks(tmp_path / "images", tmp_path / "masks")
    (row,), options = drawn(source, [ops.HorizontalFlip(p=1.0)], variants=1)
    assert options["row_labels"] == ["a.png"]
    np.testing.assert_array_equal(row[0], tinted(picture, mask, ignore=255))
    np.testing.assert_array_equal(row[1], tinted(picture, mask, ignore=255)[:, ::-1])
    assert (row[0][9, 0] == 100).all() and (row[0][0, 3] == 25).all()  # no class; to be ignored
    assert np.ptp(row[0][0, 0]) > 50  # a colour


def test_pictures_in_memory_and_grey_ones(drawn: Any) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 8, 9, 1), dtype=np.uint8)
    rows, options = drawn(Arrays(pictures, np.arange(3)), [ops.Invert(), ops.Normalize(0.5, 0.5)], variants=1)
    assert options["row_labels"] == ["0", "1", "2"]
    for row, picture in zip(rows, pictures, strict=True):
        np.testing.assert_array_equal(row[0], picture)
        np.testing.assert_array_equal(row[1], 255 - picture)


def test_pictures_that_cannot_be_read(jpeg_folder: Folder, drawn: Any) -> None:
    root = jpeg_folder(4)
    source = ImageFolder(root)
    Path(source.paths[0]).write_bytes(b"no picture")
    with pytest.raises(SampleError, match="0000"):
        drawn(source, [ops.CenterCrop(8)], samples=2)
    rows, _ = drawn(source, [ops.CenterCrop(8)], samples=2, variants=1, pass_over_bad=True)
    np.testing.assert_array_equal(rows[0][0], np.asarray(Image.open(source.paths[1])))
    for path in source.paths:
        Path(path).write_bytes(b"no picture")
    with pytest.raises(ValueError, match="none of the 4 pictures can be read"):
        drawn(source, [ops.CenterCrop(8)], pass_over_bad=True)


def test_what_cannot_be_shown(jpeg_folder: Folder, drawn: Any) -> None:
    source = ImageFolder(jpeg_folder(2))
    with pytest.raises(ValueError, match="variants must be at least 1, got 0"):
        drawn(source, [ops.CenterCrop(8)], variants=0)
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        drawn(source, [ops.CenterCrop(8)], samples=0)
    with pytest.raises(ValueError, match="no operator to show"):
        drawn(source, [ops.Normalize()], each=True)


def test_labels_of_several_lines_stand_beside_their_cells(tmp_path: Path) -> None:
    cell = np.full((40, 40, 3), 90, np.uint8)
    plain, tall = (
        np.asarray(Image.open(draw_grid([[cell]], tmp_path / f"{i}.png", row_labels=[label], cell_px=112)))
        for i, label in enumerate(("Name", "Name\nwith a much longer line\nand one more"))
    )
    assert plain.shape[0] == tall.shape[0] == 112 + 40 and tall.shape[1] > plain.shape[1]
    beside = tall[:, : tall.shape[1] - 20 - 112 - 4]
    assert (beside[20:-20] < 200).any() and (beside[:20] == 255).all() and (beside[:, :18] == 255).all()
    lines = (beside < 200).any(axis=(1, 2)).astype(int)
    assert (np.diff(lines) == 1).sum() == 3


# Signals -----------------------------------------------------------------------------------------------------------


class Signals(Source):
    """Ragged signals [T, C] of two classes."""

    def __init__(self, kind: Any, lengths: list[int], channels: int = 1) -> None:
        random = np.random.default_rng(0)
        self.values = [random.normal(size=(length, channels)).astype(np.float32) for length in lengths]
        self.labels, self.classes = np.arange(len(lengths)) % 2, ["low", "high"]
        signal = Field(kind, kind, channels=channels, rate_hz=1000.0 if kind == "audio" else None, length="length")
        self.schema = Schema((signal, Field("length", "column"), Field("label", "column")))

    def __len__(self) -> int:
        return len(self.values)

    def read(self, indices: np.ndarray, *, threads: int = 1, allocate: Any = None) -> Any:
        raise AssertionError("the stand-in loader looks into the source itself")

    def fingerprint(self) -> str:
        return "signals"


class SignalLoader:
    """A loader of signals for policies of stand-ins: Invert is a minus, Brightness adds the epoch, HorizontalFlip
    leaves the first half, Grayscale makes 4 bands of every 10 frames, Solarize sets the lowest band to 9.
    """

    def __init__(self, source: Signals, *, sampler: Any, policy: Policy, batch_size: int, dtype: Any, **_: Any) -> None:
        assert dtype == torch.float32 and batch_size == len(sampler.indices)
        self.source, self.rows, self.policy, self.epoch = source, sampler.indices.tolist(), policy, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def close(self) -> None:
        pass

    def __iter__(self) -> Any:
        made = [self.augmented(self.source.values[row]) for row in self.rows]
        longest = max(one.shape[-1] for one in made)
        padded = [np.pad(one, [(0, 0)] * (one.ndim - 1) + [(0, longest - one.shape[-1])]) for one in made]
        values = torch.from_numpy(np.stack(padded))
        values = values if self.source.schema.fields[0].kind == "audio" else values.transpose(1, 2)
        lengths = torch.tensor([one.shape[-1] for one in made])
        labels = torch.from_numpy(self.source.labels[self.rows])
        yield make_batch(self.source.schema.names, (values, lengths, labels), np.array(self.rows))

    def augmented(self, values: np.ndarray) -> np.ndarray:
        found = values.T
        for op in self.policy:
            if isinstance(op, ops.Invert):
                found = -found
            elif isinstance(op, ops.Brightness):
                found = found + self.epoch
            elif isinstance(op, ops.HorizontalFlip):
                found = found[..., : found.shape[-1] // 2]
            elif isinstance(op, ops.Grayscale):
                found = np.repeat(found[:, None, ::10], 4, axis=1) * np.arange(1, 5, dtype=np.float32)[:, None]
            elif isinstance(op, ops.Solarize):
                found = np.concatenate([np.full_like(found[:, :1], 9), found[:, 1:]], axis=1)
        return found


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[list[list[Trace]], dict[str, Any]]]:
    """As `drawn`, for traces."""
    caught: dict[str, Any] = {}

    def catch(rows: Any, path: Any, **options: Any) -> Any:
        caught.update(rows=rows, options=options)
        return path

    def call(source: Any, nodes: list[Node], **arguments: Any) -> Any:
        monkeypatch.setattr(dalipipe.preview, "DataLoader", SignalLoader)
        monkeypatch.setattr(dalipipe.preview, "_BANDS", ("Grayscale",))
        monkeypatch.setattr(dalipipe.preview, "draw_traces", catch)
        preview(source, Policy(nodes), "nowhere.png", **arguments)
        return caught["rows"], caught["options"]

    return call


@pytest.mark.parametrize("kind", ["audio", "series"])
def test_signals_without_their_padding(kind: str, traced: Any) -> None:
    source = Signals(kind, [40, 90, 61, 7], channels=2)
    rows, options = traced(source, [ops.Brightness(), ops.HorizontalFlip()], samples=2, variants=3)
    assert options["row_labels"] == ["low", "high"] and options["column_labels"] == ["original", "1", "2", "3"]
    assert options["spectra"] == (kind == "audio") and options["rate_hz"] == (1000 if kind == "audio" else None)
    for row, index in zip(rows, (0, 3), strict=True):
        values = source.values[index]
        assert all(trace.bands is None for trace in row)
        np.testing.assert_array_equal(row[0].values, values)
        for epoch in range(3):
            np.testing.assert_array_equal(row[1 + epoch].values, values[: len(values) // 2] + np.float32(epoch))


def test_features_beneath_the_sounds_they_are_made_of(traced: Any) -> None:
    source = Signals("audio", [40, 90])
    nodes: list[Node] = [ops.Brightness(), ops.HorizontalFlip(), ops.Grayscale(), ops.Solarize()]
    rows, _ = traced(source, nodes, variants=2)
    for row, values in zip(rows, source.values, strict=True):
        np.testing.assert_array_equal(row[0].values, values)
        plain = values[::10].T * np.arange(1, 5, dtype=np.float32)[:, None]
        np.testing.assert_array_equal(row[0].bands, plain)  # of the original, by nothing but what makes features
        half = values[: len(values) // 2] + 1
        np.testing.assert_array_equal(row[2].values, half)
        expected = half[::10].T * np.arange(1, 5, dtype=np.float32)[:, None]
        np.testing.assert_array_equal(row[2].bands[1:], expected[1:])
        assert (row[2].bands[0] == 9).all()


def test_each_operator_on_what_it_is_for(traced: Any) -> None:
    source = Signals("audio", [40])
    nodes: list[Node] = [ops.Invert(p=0.1), OneOf([ops.HorizontalFlip()]), ops.Grayscale(), ops.Solarize(p=0.2)]
    rows, options = traced(source, nodes, each=True, variants=1)
    assert [label.split("\n")[0] for label in options["row_labels"]] == ["Invert", "HorizontalFlip", "Solarize"]
    invert, flip, solarize = rows
    np.testing.assert_array_equal(invert[1].values, -invert[0].values)
    assert len(flip[1].values) == 20 and invert[0].bands is flip[1].bands is None
    assert (solarize[1].bands[0] == 9).all() and not (solarize[0].bands == 9).any()
    with pytest.raises(ValueError, match="no operator to show"):
        traced(source, [ops.Grayscale()], each=True)


@pytest.mark.parametrize("channels, frames", [(1, 40), (2, 1), (12, 300)])
@pytest.mark.parametrize("spectra", [False, True])
def test_traces_are_drawn(tmp_path: Path, channels: int, frames: int, spectra: bool) -> None:
    random = np.random.default_rng(0)
    rows = [[Trace(random.normal(size=(n, channels))) for n in (frames, 2 * frames)], [Trace(np.zeros((5, channels)))]]
    rate_hz = 8000.0 if spectra else None
    out = tmp_path / "t.png"
    draw_traces(rows, out, rate_hz=rate_hz, spectra=spectra, row_labels=["a\nb 1"], column_labels=["x"], title="T")
    with Image.open(out) as image:
        assert image.width > 500 and image.height > 350
        assert len(image.convert("RGB").getcolors(1 << 24) or ()) > 20
    with pytest.raises(ValueError, match="no signals given"):
        draw_traces([], out)


def test_a_tone_is_seen_at_its_frequency() -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(4000) / 8000)[:, None]
    power = _spectrogram_db(tone, 8000.0)
    assert power.argmax(axis=0)[2:-2].tolist() == [round(1000 / 4000 * (len(power) - 1))] * (power.shape[1] - 4)
    louder = _spectrogram_db(10 * tone, 8000.0)
    np.testing.assert_allclose(louder.max() - power.max(), 20, atol=1e-3)
    assert np.isfinite(_spectrogram_db(np.zeros((3, 2)), 8000.0)).all()
