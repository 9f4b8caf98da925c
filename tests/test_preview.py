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
from sounds import wav

import dalipipe
from dalipipe.figures import Trace, Word, _spectrogram_db, draw_grid, draw_texts, draw_traces, tinted
from dalipipe.ops import image as ops
from dalipipe.ops import signal as signal_ops
from dalipipe.ops import text as text_ops
from dalipipe.ops.mix import CutMix, MixUp
from dalipipe.policy import Choice, Node, OneOf, Policy
from dalipipe.preview import compared, preview
from dalipipe.records import SampleError
from dalipipe.sources import Arrays, AudioFolder, ImageFolder, ImageMasks, Series, Source

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


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[list[list[Trace]], dict[str, Any]]]:
    """As `drawn`, for traces."""
    caught: dict[str, Any] = {}

    def catch(rows: Any, path: Any, **options: Any) -> Any:
        caught.update(rows=rows, options=options)
        return path

    def call(source: Any, nodes: list[Node], **arguments: Any) -> Any:
        monkeypatch.setattr(dalipipe.preview, "draw_traces", catch)
        preview(source, Policy(nodes), "nowhere.png", **arguments)
        return caught["rows"], caught["options"]

    return call


def sounds(folder: Path, lengths: list[int]) -> tuple[AudioFolder, list[np.ndarray]]:
    """Sounds at 8 kHz of the classes "0", "1" ..., and what is in them."""
    values = []
    for n, frames in enumerate(lengths):
        data, meant = wav("pcm16", frames, seed=n)
        (folder / str(n)).mkdir()
        (folder / str(n) / "a.wav").write_bytes(data)
        values.append(meant)
    return AudioFolder(folder, rate_hz=8000), values


def same_batch(source: Source, nodes: list[Node], epoch: int, seed: int = 0) -> Any:
    loader = dalipipe.DataLoader(source, len(source), policy=Policy(nodes), seed=seed, device="cpu")
    loader.set_epoch(epoch)
    return next(iter(loader))


def test_series_are_what_the_first_epochs_of_training_see(traced: Any) -> None:
    random = np.random.default_rng(0)
    values = [random.normal(size=(frames, 2)).astype(np.float32) for frames in (40, 90, 61, 7)]
    source = Series(values, ["a", "b", "a", "b"], rate_hz=50)
    nodes: list[Node] = [signal_ops.WindowSlice((0.5, 0.8)), signal_ops.Jitter(0.1)]
    rows, options = traced(source, nodes, samples=2, variants=2, seed=3)
    assert options["row_labels"] == ["a", "b"] and options["column_labels"] == ["original", "1", "2"]
    assert options["rate_hz"] == 50 and not options["spectra"]
    for epoch in range(2):
        batch = same_batch(source, nodes, epoch, seed=3)
        for row, index in zip(rows, (0, 3), strict=True):
            np.testing.assert_array_equal(row[0].values, values[index])
            expected = batch.series[index, : batch.length[index]].numpy()
            np.testing.assert_array_equal(row[1 + epoch].values, expected)
            assert row[1 + epoch].bands is None


def test_features_beneath_the_sounds_they_are_made_of(traced: Any, tmp_path: Path) -> None:
    source, values = sounds(tmp_path, [700, 1500])
    features = signal_ops.MelSpectrogram(16, 128)
    nodes: list[Node] = [signal_ops.Gain(), signal_ops.AdjustDuration(frames=1000), features]
    nodes.append(signal_ops.FrequencyMask(4))
    rows, options = traced(source, nodes, variants=2)
    assert options["rate_hz"] == 8000 and options["spectra"]
    plain = same_batch(source, [features], 0)
    for n, row in enumerate(rows):
        np.testing.assert_array_equal(row[0].values, values[n])
        np.testing.assert_array_equal(row[0].bands, plain.audio[n, 0, :, : plain.length[n]].numpy())
    for epoch in range(2):
        front, whole = same_batch(source, nodes[:2], epoch), same_batch(source, nodes, epoch)
        for n, row in enumerate(rows):
            np.testing.assert_array_equal(row[1 + epoch].values, front.audio[n].numpy().T)
            np.testing.assert_array_equal(row[1 + epoch].bands, whole.audio[n, 0].numpy())


def test_each_operator_on_what_it_is_for(traced: Any, tmp_path: Path) -> None:
    source, _ = sounds(tmp_path, [500])
    nodes: list[Node] = [
        signal_ops.PolarityInversion(p=0.1),
        OneOf([signal_ops.Reverse()], p=0.1),
        signal_ops.MelSpectrogram(16, 128),
        signal_ops.FrequencyMask(12, value=-50.0, p=0.2),
    ]
    rows, options = traced(source, nodes, each=True, variants=1)
    names = [label.split("\n")[0] for label in options["row_labels"]]
    assert names == ["PolarityInversion", "Reverse", "FrequencyMask"]
    invert, reverse, mask = rows
    np.testing.assert_array_equal(invert[1].values, -invert[0].values)
    np.testing.assert_array_equal(reverse[1].values, reverse[0].values[::-1])
    assert invert[0].bands is reverse[1].bands is None
    changed = (mask[1].bands != mask[0].bands).any(axis=1)
    assert 0 < changed.sum() <= 12 and (mask[1].bands[changed] == -50).all()
    with pytest.raises(ValueError, match="no operator to show"):
        traced(source, nodes[2:3], each=True)


def test_sounds_that_cannot_be_read(traced: Any, tmp_path: Path) -> None:
    source, values = sounds(tmp_path, [300, 400, 500])
    Path(source.paths[0]).write_bytes(b"no sound")
    with pytest.raises(SampleError):
        traced(source, [signal_ops.Gain()], samples=2)
    rows, _ = traced(source, [signal_ops.Gain()], samples=2, variants=1, pass_over_bad=True)
    np.testing.assert_array_equal(rows[0][0].values, values[1])


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


# Texts -------------------------------------------------------------------------------------------------------------


def changes(before: str, after: str) -> list[tuple[str, str]]:
    return [(word.text, word.change) for word in compared(before.split(), after.split()) if word.change != "same"]


@pytest.mark.parametrize(
    "before, after, expected",
    [
        ("a b c", "a b c", []),
        ("a b c", "a x c", [("x", "replaced")]),
        ("a b c", "a b x c", [("x", "inserted")]),
        ("a b c", "a c", [("b", "deleted")]),
        ("a b c d e", "a e c d b", [("e", "moved"), ("b", "moved")]),
        ("a b c d", "x y b d", [("x", "replaced"), ("y", "inserted"), ("c", "deleted")]),
        ("", "x", [("x", "inserted")]),
        ("a", "", [("a", "deleted")]),
        ("", "", []),
    ],
)
def test_what_became_of_words(before: str, after: str, expected: list[tuple[str, str]]) -> None:
    assert changes(before, after) == expected


def test_the_words_shown_are_those_that_are_there() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        before, after = (random.choice(list("abcdef"), random.integers(0, 9)).tolist() for _ in range(2))
        shown = compared(before, after)
        assert [word.text for word in shown if word.change != "deleted"] == after
        of = {change: sum(word.change == change for word in shown) for change in ("inserted", "deleted")}
        assert len(before) - of["deleted"] + of["inserted"] == len(after)


def sentences(**options: Any) -> dalipipe.Text:
    texts = [f"the {noun} was {'good' if n % 2 else 'bad'} and I liked it" for n, noun in enumerate("abcdefgh")]
    return dalipipe.Text(texts, np.arange(8) % 2, classes=["no", "yes"], **options)


SYNONYMS = {"good": ["great", "fine"], "bad": ["poor"]}


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, dict[str, Any]]]:
    caught: dict[str, Any] = {}

    def catch(rows: Any, path: Any, **options: Any) -> Any:
        caught.update(rows=rows, options=options)
        return path

    def call(source: Any, nodes: list[Node], **arguments: Any) -> Any:
        monkeypatch.setattr(dalipipe.preview, "draw_texts", catch)
        preview(source, Policy(nodes), "nowhere.png", **arguments)
        return caught["rows"], caught["options"]

    return call


def test_texts_are_those_of_the_first_epochs(written: Any) -> None:
    source, policy = sentences(), [text_ops.SynonymReplacement(0.1, SYNONYMS), text_ops.RandomDeletion(0.3, p=0.5)]
    rows, options = written(source, policy, samples=3, seed=4)
    assert options["column_labels"] == ["original", "1", "2", "3"] and options["row_labels"] == ["no", "no", "yes"]
    loader = dalipipe.DataLoader(source, 8, policy=Policy(policy), seed=4)
    assert loader.vocabulary is not None
    for epoch in range(3):
        loader.set_epoch(epoch)
        batch = next(iter(loader))
        for row, index in zip(rows, (0, 4, 7), strict=True):
            seen = [word.text for word in row[1 + epoch] if word.change != "deleted"]
            assert seen == loader.vocabulary.words_of(batch.text[index].tolist())
            assert all(word.change == "same" for word in row[0])
    assert {word.text for row in rows for text in row for word in text if word.change == "replaced"} <= {
        "great",
        "fine",
        "poor",
    }


def test_texts_operator_by_operator(written: Any) -> None:
    policy: list[Node] = [OneOf([text_ops.SynonymReplacement(0.1, SYNONYMS), text_ops.WordReversal()], p=0.1)]
    rows, options = written(sentences(), policy, each=True, variants=2)
    assert [label.split("\n")[0] for label in options["row_labels"]] == ["SynonymReplacement", "", "WordReversal", ""]
    for row in rows[:2]:
        assert all([word.change for word in text].count("replaced") == 1 for text in row[1:])
    for row in rows[2:]:
        assert [word.text for word in row[1] if word.change != "deleted"] == [word.text for word in row[0]][::-1]


def test_texts_for_a_tokenizer_are_shown_as_it_reads_them(written: Any) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = [*"abcdefgh", "the", "was", "good", "bad", "and", "I", "liked", "it", "great", "fine", "poor"]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: n for n, w in enumerate(["?", *words])}, "?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    rows, _ = written(sentences(tokenizer=tokenizer), [text_ops.SynonymReplacement(0.1, SYNONYMS)], samples=2)
    assert [word.text for word in rows[0][0]] == "the a was bad and I liked it".split()
    assert [(word.text, word.change) for word in rows[0][1]][3] == ("poor", "replaced")


def test_texts_are_drawn(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = preview(sentences(), Policy([text_ops.RandomSwap()]), tmp_path / "a.png", title="swaps")
        words = [Word(text) for text in ["x" * 300, "日本語", "$a_1$", "", *("word" for _ in range(100))]]
        long = draw_texts([[words], [[]]], tmp_path / "b.png", column_labels=["original"])
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    for colour in ((37, 99, 235), (31, 41, 51)):  # moved words, and the others
        assert (np.abs(picture - colour).sum(2) < 30).sum() > 50
    assert Image.open(long).width == picture.shape[1]
    assert path.read_bytes() == preview(sentences(), Policy([text_ops.RandomSwap()]), path, title="swaps").read_bytes()
    for rows in ([], [[]]):
        with pytest.raises(ValueError, match="no texts given"):
            draw_texts(rows, tmp_path / "c.png")
