"""Texts in a loader: the whole contract holds for them, too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from text_cases import CASES, CLASSES, SYNONYMS, made, use_kernels

import dalipipe
from dalipipe.ops import mix
from dalipipe.ops import text as ops
from dalipipe.text import PAD, UNKNOWN

WORDS = [int(n) for n in np.random.default_rng(7).integers(1, 60, 41)]
WORDS[3] = 0
TEXTS = [" ".join(text) for text in made(WORDS)]
LABELS = np.arange(len(TEXTS)) % CLASSES
POLICY = dalipipe.Policy(
    [
        dalipipe.OneOf([ops.SynonymReplacement(0.3, SYNONYMS), ops.RandomInsertion((0.1, 0.5), SYNONYMS)], p=0.8),
        ops.RandomSwap(0.2, p=0.5),
        ops.RandomDeletion(0.2, p=0.5),
        ops.BagOfWords("resample", p=0.1),
        ops.AEDA(p=0.3),
    ]
)
EMPTY = dalipipe.Policy([])


@pytest.fixture(scope="module")
def source() -> dalipipe.Text:
    return dalipipe.Text(TEXTS, LABELS, split="space", classes=list("abc"))


def loader(source: Any, batch_size: int = 8, **options: Any) -> dalipipe.DataLoader:
    defaults: dict[str, Any] = {"policy": POLICY, "shuffle": True, "seed": 5, "device": "cpu", "num_workers": 2}
    return dalipipe.DataLoader(source, batch_size, **{**defaults, **options})


def by_sample(batches: Any) -> dict[int, list[int]]:
    found = {}
    for batch in batches:
        assert batch.text.dtype == batch.length.dtype == torch.int64
        assert batch.text.shape == (len(batch.length), int(batch.length.max()))
        for row, index in enumerate(batch.indices.tolist()):
            count = int(batch.length[row])
            found[index] = batch.text[row, :count].tolist()
            assert (batch.text[row, count:] == PAD).all()
    return found


def test_texts_unpack_with_their_lengths_and_labels(source: dalipipe.Text) -> None:
    plain, seen = loader(source, policy=EMPTY, shuffle=False), 0
    assert plain.vocabulary is not None
    for text, length, label in plain:
        for row in range(len(label)):
            assert plain.vocabulary.words_of(text[row].tolist()) == TEXTS[seen].split() and length[row] == WORDS[seen]
            assert label[row] == LABELS[seen]
            seen += 1
    assert seen == len(TEXTS)


def test_what_comes_out_depends_on_the_sample_alone(source: dalipipe.Text) -> None:
    expected = by_sample(loader(source, 8))
    assert len(expected) == len(source) and expected != by_sample(loader(source, policy=EMPTY))
    for options in ({"batch_size": 3, "num_workers": 1}, {"batch_size": 40, "shuffle": False}):
        found = by_sample(loader(source, **options))
        assert all(expected[index] == got for index, got in found.items()) and len(found) == len(source)
    for rank in range(2):
        found = by_sample(loader(source, 4, rank=rank, world_size=2))
        assert all(expected[index] == got for index, got in found.items()) and len(found) >= len(source) // 2
    assert expected != by_sample(loader(source, seed=6))


def test_a_position_is_of_what_edits_draw_from(source: dalipipe.Text, tmp_path: Any) -> None:
    path = tmp_path / "synonyms.tsv"
    path.write_text("w3\tw4\n")
    policy = dalipipe.Policy([ops.SynonymReplacement(0.1, path)])
    state = loader(source, policy=policy).state_dict()
    loader(source, policy=policy).load_state_dict(state)
    path.write_text("w3\tw5,w6\n")
    with pytest.raises(dalipipe.StateMismatchError, match="policy"):
        loader(source, policy=policy).load_state_dict(state)


def test_epochs_differ_and_come_again(source: dalipipe.Text) -> None:
    epochs = loader(source)
    first, second = by_sample(epochs), by_sample(epochs)
    assert first != second
    epochs.set_epoch(0)
    assert by_sample(epochs) == first


def test_resume_is_exact_at_every_step(source: dalipipe.Text) -> None:
    whole = [batch.text for batch in loader(source)]
    for stop in range(len(whole)):
        first = loader(source)
        iterator = iter(first)
        for _ in range(stop):
            next(iterator)
        again = loader(source)
        again.load_state_dict(first.state_dict())
        rest = [batch.text for batch in again]
        assert len(rest) == len(whole) - stop and all(map(torch.equal, rest, whole[stop:]))


@pytest.mark.parametrize("case", CASES, ids=[f"{case.name}-{number}" for number, case in enumerate(CASES)])
def test_every_operator_in_a_loader(case: Any, source: dalipipe.Text) -> None:
    batches = loader(source, policy=dalipipe.Policy([case.op]))
    found = by_sample(batches)
    assert len(found) == len(source) and batches.vocabulary is not None
    ids = np.concatenate([np.array(text, np.int64) for text in found.values()])
    assert (ids < len(batches.vocabulary)).all() and not (ids == UNKNOWN).any() and not (ids == PAD).any()


def test_vocabularies_go_on_to_validation(source: dalipipe.Text) -> None:
    train = loader(source)
    val = dalipipe.Text(["w3 x3 unheard ."], [0], split="space", vocabulary=train.vocabulary)
    (batch,) = loader(val, policy=EMPTY)
    assert train.vocabulary is not None
    assert train.vocabulary.words_of(batch.text[0].tolist()) == ["w3", "x3", "<unk>", "."]
    again = loader(dalipipe.Text(TEXTS, LABELS, split="space", vocabulary=train.vocabulary))
    assert again.vocabulary is not None and again.vocabulary.words == train.vocabulary.words
    pictures = dalipipe.DataLoader(dalipipe.Arrays(np.zeros((2, 8, 8, 3), np.uint8), [0, 1]), 2, device="cpu")
    assert pictures.vocabulary is None


def test_rows_are_rounded_up_and_cut_off() -> None:
    source = dalipipe.Text(TEXTS, LABELS, split="space", max_length=20, multiple=8)
    for batch in loader(source, policy=EMPTY, shuffle=False):
        words = [WORDS[index] for index in batch.indices.tolist()]
        assert batch.length.tolist() == [min(count, 20) for count in words]
        assert batch.text.shape[1] == min(-(-max(batch.length.tolist()) // 8) * 8, 20)
        for row, index in enumerate(batch.indices.tolist()):
            assert (
                batch.text[row, : batch.length[row]].tolist()
                == source.vocabulary.ids(TEXTS[index].split()[:20]).tolist()
            )


@pytest.fixture(scope="module")
def word_pieces() -> Any:
    """A tokenizer of few pieces, made of these texts, with [CLS] and [SEP] around."""
    tokenizers = pytest.importorskip("tokenizers")
    made_of = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    made_of.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = tokenizers.trainers.WordPieceTrainer(vocab_size=60, special_tokens=special)
    made_of.train_from_iterator([*TEXTS, ". ; ? : ! ,"], trainer)
    around = (("[SEP]", made_of.token_to_id("[SEP]")), ("[CLS]", made_of.token_to_id("[CLS]")))
    made_of.post_processor = tokenizers.processors.BertProcessing(*around)
    return made_of


ALL = dalipipe.Policy([*POLICY.ops, ops.SpanMask(0.2, p=0.3), mix.TextCutMix(num_classes=CLASSES, p=0.4)])


ROOMS = [(None, 1), (None, 16), (25, 8), (25, 1), (5000, 8)]  # max_length, multiple
WAYS = [(policy, *room) for policy in (ALL, POLICY, EMPTY) for room in ROOMS if policy is not ALL or room[0] != 25]


@pytest.mark.parametrize(("policy", "max_length", "multiple"), WAYS)  # what is mixed depends on the room there is
def test_pieces_stand_for_edited_words(
    source: dalipipe.Text, word_pieces: Any, policy: dalipipe.Policy, max_length: int | None, multiple: int
) -> None:
    given: dict[str, Any] = {"tokenizer": word_pieces, "max_length": max_length, "multiple": multiple}
    pieced = loader(dalipipe.Text(TEXTS, LABELS, split="space", **given), policy=policy)
    words = loader(source, policy=policy)
    assert words.vocabulary is not None
    for pieces, edited in zip(pieced, words, strict=True):
        assert pieces.text.shape[1] % multiple == 0 or pieces.text.shape[1] == max_length
        assert torch.equal(pieces.label, edited.label)
        for row, count in enumerate(pieces.length.tolist()):
            text = words.vocabulary.words_of(edited.text[row].tolist())
            text = ["[MASK]" if word == "<mask>" else word for word in text]
            *expected, end = word_pieces.encode(text, is_pretokenized=True).ids
            expected = [*expected[: None if max_length is None else max_length - 1], end]
            assert pieces.text[row, :count].tolist() == expected and not pieces.text[row, count:].any()


@pytest.mark.parametrize("pieced", [False, True])
def test_labels_go_by_the_words_that_a_row_has_room_for(word_pieces: Any, pieced: bool) -> None:
    """Texts of one letter each, in pieces of one each: what is shown can be counted."""
    letters = ["w", "s"]
    texts = [" ".join([letters[row % 2]] * (30 + 7 * row)) for row in range(16)]
    pieces = {letter: word_pieces.encode(letter, add_special_tokens=False).ids for letter in letters}
    assert all(len(of) == 1 for of in pieces.values())
    given: dict[str, Any] = {"tokenizer": word_pieces} if pieced else {}
    texts_of = dalipipe.Text(texts, [row % 2 for row in range(16)], split="space", max_length=22, **given)
    policy = dalipipe.Policy([mix.TextCutMix(num_classes=2)])
    mixed = 0
    for epoch in range(5):
        batches = loader(texts_of, 16, policy=policy, shuffle=True)
        batches.set_epoch(epoch)
        for batch in batches:
            second = pieces["s"][0] if pieced else texts_of.vocabulary.ids(["s"])[0]
            inside = batch.text[:, 1:-1] if pieced else batch.text
            assert inside.shape[1] == (20 if pieced else 22)
            share = (inside == second).float().mean(dim=1)
            torch.testing.assert_close(batch.label[:, 1], share, atol=1e-6, rtol=0)
            mixed += int(((share > 0) & (share < 1)).sum())
    assert mixed > 10


def test_kernels_make_the_batches_that_the_host_makes(
    source: dalipipe.Text, word_pieces: Any, tokens_on_cpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieced = dalipipe.Text(TEXTS, LABELS, split="space", tokenizer=word_pieces, max_length=25, multiple=8)
    expected = [list(loader(of, policy=ALL)) for of in (source, pieced)]
    use_kernels(tokens_on_cpu, monkeypatch)
    for of, batches in zip((source, pieced), expected, strict=True):
        for host, device in zip(batches, loader(of, policy=ALL), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(host, device, strict=True))


# Mixing -------------------------------------------------------------------------------------------------------------


def test_cut_texts_shows_a_partners_words(source: dalipipe.Text) -> None:
    plain = by_sample(loader(source, policy=EMPTY))
    policy = dalipipe.Policy([mix.TextCutMix(num_classes=len(TEXTS), labels="number")])
    numbered = dalipipe.Text(TEXTS, LABELS, split="space", number=np.arange(len(TEXTS)))
    mixed = 0
    for batch in loader(numbered, 8, policy=policy, drop_last=True):
        rows = dict(zip(batch.indices.tolist(), range(8), strict=True))
        for index, row in rows.items():
            text, label = batch.text[row, : int(batch.length[row])].tolist(), batch.number[row]
            partner = next((i for i in rows if i != index and label[i] > 0), index)
            assert float(label.sum()) == pytest.approx(1) and torch.count_nonzero(label) <= 2
            kept = round(float(label[index]) * len(text))
            assert kept == pytest.approx(float(label[index]) * len(text), abs=1e-4)
            own, other, taken = plain[index], plain[partner], len(text) - kept
            if partner == index:
                assert text == own
                continue
            mixed += 1
            assert any(
                text == own[:begin] + other[at : at + taken] + own[len(own) - (kept - begin) :]
                for begin in range(kept + 1)
                for at in range(len(other) - taken + 1)
            )
    assert mixed > 20


def test_mixing_sees_texts_as_they_were_edited(source: dalipipe.Text) -> None:
    edits = [ops.WordReversal(letters=True), ops.AEDA(p=0.5)]
    edited = by_sample(loader(source, policy=dalipipe.Policy(edits), drop_last=True))
    policy = dalipipe.Policy([*edits, mix.TextCutMix(num_classes=CLASSES)])
    words = {index: set(text) for index, text in edited.items()}
    expected = by_sample(loader(source, policy=policy, drop_last=True))
    for batch in loader(source, policy=policy, drop_last=True):
        there = set().union(*(words[index] for index in batch.indices.tolist()))
        assert {int(i) for row, count in zip(batch.text, batch.length, strict=True) for i in row[:count]} <= there
        assert batch.label.shape == (8, CLASSES) and torch.allclose(batch.label.sum(dim=1), torch.ones(8))
    for rank in range(2):  # a rank's batch is a group
        found = by_sample(loader(source, 8, policy=policy, rank=rank, world_size=2, drop_last=True))
        assert all(expected[index] == got for index, got in found.items())


def test_cut_texts_counts_every_word_once() -> None:
    random = np.random.default_rng(0)
    op, n = mix.TextCutMix(), 500
    box = op.draw(random.uniform(size=(n, 2)), np.zeros((n, 1), np.int64))["box"]
    lengths, partner = random.integers(0, 12, n), np.arange(n) ^ 1
    parts, weight = mix.cut_texts(partner, box, lengths)
    own, taken = parts[:, 0, 1] + parts[:, 2, 1], parts[:, 1, 1]
    assert (parts >= 0).all() and (own <= lengths).all() and (parts[:, 1].sum(axis=1) <= lengths[partner]).all()
    assert np.allclose(weight, np.where(taken > 0, own / np.maximum(own + taken, 1), 1.0))
    assert (own[taken == 0] == lengths[taken == 0]).all() and (taken > 0).mean() > 0.3
    untouched, whole = mix.cut_texts(partner, np.zeros((n, 4), np.int64), lengths)
    assert (untouched[:, 1, 1] == 0).all() and (whole == 1).all()


@pytest.mark.parametrize(
    ("op", "said"),
    [
        (mix.MixUp(num_classes=3), "mixup_embeddings"),
        (mix.CutMix(num_classes=3), "does not apply to texts: TextCutMix does"),
        (mix.TimeCutMix(num_classes=3), "does not apply to texts: TextCutMix does"),
    ],
)
def test_what_mixes_pictures_does_not_mix_texts(op: Any, said: str, source: dalipipe.Text) -> None:
    with pytest.raises(ValueError, match=said):
        loader(source, policy=dalipipe.Policy([op]))


def test_text_cut_mix_is_for_texts() -> None:
    with pytest.raises(ValueError, match=r"TextCutMix.* does not apply to pictures: CutMix does"):
        pictures = dalipipe.Arrays(np.zeros((2, 8, 8, 3), np.uint8), [0, 1])
        dalipipe.DataLoader(pictures, 2, device="cpu", policy=dalipipe.Policy([mix.TextCutMix(num_classes=3)]))
    with pytest.raises(ValueError, match=r"TextCutMix.* does not apply to signals: TimeCutMix does"):
        series = dalipipe.Series(np.zeros((2, 8, 1), np.float32), [0, 1])
        dalipipe.DataLoader(series, 2, device="cpu", policy=dalipipe.Policy([mix.TextCutMix(num_classes=3)]))


# Recipes ------------------------------------------------------------------------------------------------------------


def test_eda_leaves_one_of_all_copies_as_it_is() -> None:
    policy = dalipipe.recipes.eda(0.1, 4, synonyms=SYNONYMS, stop_words=None)
    texts = [" ".join(text) for text in made([30] * 2000)]
    source = dalipipe.Text(texts, split="space")
    plain, edited = (by_sample(loader(source, 500, policy=p, shuffle=False)) for p in (EMPTY, policy))
    lengths = np.array([len(edited[i]) for i in range(2000)])
    as_it_is = np.mean([plain[i] == edited[i] for i in range(2000)])
    assert as_it_is == pytest.approx(0.2, abs=0.05)
    assert np.mean(lengths == 33) == pytest.approx(0.2, abs=0.03)
    assert np.mean(lengths < 30) == pytest.approx(0.2, abs=0.03)
    assert dalipipe.recipes.eda(copies=9).ops[0].p == pytest.approx(0.9) and not dalipipe.recipes.eda(copies=0).ops[0].p
    assert not len(dalipipe.recipes.eda_eval()) and not len(dalipipe.recipes.aeda_eval())
    with pytest.raises(ValueError, match="copies must be a whole number"):
        dalipipe.recipes.eda(copies=-1)


def test_built_in_synonyms_are_there() -> None:
    source = dalipipe.Text(["a good movie", "the best of films"] * 20)
    for policy in (dalipipe.recipes.eda(0.5), dalipipe.recipes.aeda()):
        assert len(by_sample(loader(source, policy=policy))) == 40


def test_policies_are_files(tmp_path: Any) -> None:
    for policy in (dalipipe.recipes.eda(), dalipipe.recipes.aeda(), POLICY):
        for name in ("policy.yaml", "policy.json"):
            dalipipe.save_policy(policy, tmp_path / name)
            assert dalipipe.load_policy(tmp_path / name) == policy


# What goes wrong ----------------------------------------------------------------------------------------------------


def test_bad_samples_cost_themselves_alone(source: dalipipe.Text) -> None:
    labels = LABELS.copy()
    labels[5] = 2
    known = dalipipe.Text(TEXTS[:4], LABELS[:4] % 2, split="space").vocabulary  # of two classes
    bad = dalipipe.Text(TEXTS, np.where(np.arange(len(TEXTS)) == 5, 2, LABELS % 2), split="space", vocabulary=known)
    policy = dalipipe.Policy([ops.BagOfWords("resample")])
    with pytest.raises(dalipipe.SampleError, match=r"sample 5 .*there are bags of classes 0 to 1"):
        list(loader(bad, policy=policy))
    found = by_sample(loader(bad, policy=policy, on_error="skip", max_bad=0.5))
    assert set(found) == set(range(len(TEXTS))) - {5}
    good = dalipipe.Text(TEXTS, LABELS % 2, split="space", vocabulary=known)
    expected = by_sample(loader(good, policy=policy))
    assert all(expected[index] == got for index, got in found.items())


def test_what_does_not_go_is_said_at_once(source: dalipipe.Text) -> None:
    for options, said in (
        ({"dtype": torch.uint8}, "text, which comes as int64"),
        ({"memory_format": torch.channels_last}, "is for pictures"),
        ({"policy": dalipipe.Policy([dalipipe.ops.image.HorizontalFlip()])}, "applies to image fields"),
        ({"policy": dalipipe.Policy([dalipipe.ops.signal.Gain()])}, "applies to signal fields"),
        ({"policy": dalipipe.Policy([dalipipe.PythonStep(np.flip)])}, "takes pictures, and 'text' is text"),
        ({"cache": "ram"}, "cache keeps pictures, and 'text' is text"),
    ):
        with pytest.raises(ValueError, match=said):
            loader(source, **options)
    with pytest.raises(ValueError, match="engine"):
        list(loader(source, engine="reference"))
    unlabelled = dalipipe.Text(TEXTS, split="space")
    with pytest.raises(ValueError, match="knows of no classes"):
        loader(unlabelled, policy=dalipipe.Policy([ops.BagOfWords("resample")]))
    with pytest.raises(ValueError, match="labels must name a field of classes, whole numbers"):
        list(loader(source, policy=dalipipe.Policy([ops.BagOfWords("resample", labels="kind")])))


def test_explain(source: dalipipe.Text) -> None:
    said = loader(source).explain()
    assert "numbers of words, kept in memory" in said and "0 to 59 words" in said and "words have others" in said
    assert "edits a text takes" in said and "bag(s) of up to" in said
    assert "20 words" in loader(source).plan.explain(10)


@pytest.mark.cuda
def test_texts_on_cuda_are_those_of_the_cpu(source: dalipipe.Text, word_pieces: Any) -> None:
    pieced = dalipipe.Text(TEXTS, LABELS, split="space", tokenizer=word_pieces, max_length=25, multiple=8)
    for of in (source, pieced):
        for policy in (POLICY, ALL):
            for cpu, cuda in zip(loader(of, policy=policy), loader(of, policy=policy, device="cuda"), strict=True):
                assert cuda.text.is_cuda and all(torch.equal(a, b.cpu()) for a, b in zip(cpu, cuda, strict=True))
