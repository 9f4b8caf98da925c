"""What every operator on texts promises, over the table of `text_cases`: native edits are their specification, and what
is drawn depends on nothing but (seed, epoch, sample, operator).
"""

from __future__ import annotations

import json
import pickle
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from text_cases import CASES, CLASSES, IDS, SYNONYMS, WORDS, Case, made, use_kernels, vocabulary

import dalipipe
from dalipipe import rng
from dalipipe.engines.base import Output
from dalipipe.engines.text import TextEngine
from dalipipe.ops import text as ops
from dalipipe.passes.text import TextFold
from dalipipe.plan import Plan, lower
from dalipipe.records import Tokens
from dalipipe.schema import Field, Schema
from dalipipe.text import MASK, UNKNOWN, Encoding, Vocabulary
from dalipipe.text.synonyms import SynonymTable
from dalipipe.tracks.text import take_bags_of_classes

CPU = torch.device("cpu")
CUDA = torch.device("cuda", 0)
TEXTS = made(WORDS)
KNOWN = vocabulary(TEXTS)


def plan_of(nodes: list[Any], known: Vocabulary = KNOWN, encoding: Encoding | None = None) -> Plan:
    fields = Field("text", "text", length="length", vocabulary=known, encoding=encoding or Encoding())
    schema = Schema((fields, Field("length", "column"), Field("label", "column")))
    plan = lower(dalipipe.Policy(nodes), schema)
    assert isinstance(plan.fold, TextFold)
    return plan


def tokens_of(texts: list[list[str]], known: Vocabulary = KNOWN) -> Tokens:
    ids = [known.ids(text) for text in texts]
    starts = np.cumsum([0, *map(len, ids)])
    return Tokens.ragged(np.concatenate([*ids, np.zeros(0, np.int32)]), starts, np.arange(len(texts)))


def run(
    plan: Plan,
    texts: list[list[str]] = TEXTS,
    *,
    indices: np.ndarray | None = None,
    device: torch.device = CPU,
    threads: int = 1,
    seed: int = 3,
    known: Vocabulary = KNOWN,
) -> list[np.ndarray]:
    """What becomes of texts of classes that go round, without padding."""
    engine = TextEngine(plan, Output(device, torch.float32, torch.contiguous_format), threads=threads)
    tokens = tokens_of(texts, known)
    indices = np.arange(len(texts)) if indices is None else indices
    draws = plan.draw(rng.make_key(seed, 0), indices, engine.size(tokens))
    take_bags_of_classes(draws.params, {"label": indices % CLASSES})
    batch = engine.start(tokens, draws)()
    rows, lengths = batch.rows.cpu().numpy(), batch.lengths
    assert rows.dtype == lengths.dtype == np.int64 and rows.shape == (len(texts), int(lengths.max(initial=0)))
    for row, length in zip(rows, lengths.tolist(), strict=True):
        assert not row[length:].any(), "padding is PAD"
    found = [row[:length].copy() for row, length in zip(rows, lengths.tolist(), strict=True)]
    assert all((np.array(list(map(len, found))) <= draws.params.out_size[:, 0]).tolist())
    engine.close()
    return found


def referred(plan: Plan, texts: list[list[str]] = TEXTS, *, seed: int = 3) -> list[np.ndarray]:
    """The same by the specification, operator by operator."""
    fold, size = plan.fold, np.array([[len(text)] for text in texts], np.int64).reshape(-1, 1)
    draws = plan.draw(rng.make_key(seed, 0), np.arange(len(texts)), size)
    found = []
    for row, text in enumerate(texts):
        x = KNOWN.ids(text)
        for edit, drawn in zip(fold.edits, draws.drawn, strict=True):
            params = drawn.at(row)
            if params is not None:
                x = edit.op.reference(x, params, edit.table, row % CLASSES)
        found.append(x)
    return found


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return len(a) == len(b) and all(map(np.array_equal, a, b))


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_native_edits_are_the_specification(case: Case) -> None:
    plan = plan_of([case.op])
    for seed in range(4):
        for row, (got, expected) in enumerate(zip(run(plan, seed=seed), referred(plan, seed=seed), strict=True)):
            assert np.array_equal(got, expected), (row, got, expected)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_p_decides_whether_it_is_applied(case: Case) -> None:
    before, after = [KNOWN.ids(text) for text in TEXTS], run(plan_of([case.op]))
    touched = [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
    many = [len(text) >= 40 for text in TEXTS]
    assert any(touched) and (case.idle or all(t for t, m in zip(touched, many, strict=True) if m))
    assert same(before, run(plan_of([replace(case.op, p=0.0)])))


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_what_is_drawn_depends_on_the_sample_alone(case: Case) -> None:
    plan = plan_of([case.op])
    together = run(plan, threads=2)
    order = np.array([6, 1, 0, 5])
    for i, other in zip(order.tolist(), run(plan, [TEXTS[i] for i in order], indices=order), strict=True):
        assert np.array_equal(together[i], other)
    assert same(together, run(plan_of([case.op])))  # tables are made alike each time
    fixed = case.op in (ops.WordReversal(), ops.WordReversal(letters=True))
    assert fixed or not same(together, run(plan, seed=4))


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_texts_without_words_stay_so_and_others_do_not_become_so(case: Case) -> None:
    for before, after in zip(TEXTS, run(plan_of([case.op])), strict=True):
        assert (len(after) == 0) == (len(before) == 0)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_batch_without_samples_is_none(case: Case) -> None:
    assert run(plan_of([case.op]), []) == []


@pytest.mark.cuda
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_device_gives_what_the_host_gives(case: Case) -> None:
    plan = plan_of([case.op])
    assert same(run(plan), run(plan, device=CUDA))


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_kernels_give_the_specification(case: Case, tokens_on_cpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    use_kernels(tokens_on_cpu, monkeypatch)
    plan = plan_of([case.op])
    assert same(run(plan), referred(plan)) and tokens_on_cpu.launches() == 1


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_json_pickle_and_repr(case: Case) -> None:
    policy = dalipipe.Policy([case.op])
    assert dalipipe.Policy.from_dict(json.loads(json.dumps(policy.to_dict()))) == policy
    assert pickle.loads(pickle.dumps(policy)) == policy and hash(policy) == hash(dalipipe.Policy([case.op]))
    assert eval(repr(case.op), {**vars(ops), "Choice": dalipipe.Choice}) == case.op
    plan = plan_of([case.op])
    assert same(run(pickle.loads(pickle.dumps(plan))), run(plan))


@pytest.mark.parametrize("seed", range(8))
def test_chains_are_one_operator_after_the_other(seed: int) -> None:
    random = np.random.default_rng(seed)
    nodes = [replace(CASES[i].op, p=0.7) for i in random.integers(0, len(CASES), 6)]
    nodes[2] = dalipipe.OneOf((nodes[2], CASES[seed].op), p=0.8)
    plan = plan_of(nodes)
    assert same(run(plan, seed=seed, threads=2), referred(plan, seed=seed))
    assert "edits a text takes" in plan.explain(20) and "words" in plan.explain(20, (300,))


@settings(max_examples=30, deadline=None)
@given(words=st.lists(st.integers(0, 30), max_size=6), which=st.integers(0, len(CASES) - 1), seed=st.integers(0, 1000))
def test_what_edits_keep(words: list[int], which: int, seed: int) -> None:
    op = CASES[which].op
    texts = made(words, seed)
    for before, after in zip(texts, run(plan_of([op]), texts, seed=seed), strict=True):
        ids, n = KNOWN.ids(before), len(before)
        have, had = Counter(after.tolist()), Counter(ids.tolist())
        if isinstance(op, ops.RandomSwap | ops.SpanShuffle) or op in (ops.BagOfWords(), ops.WordReversal()):
            assert have == had
        elif isinstance(op, ops.RandomDeletion) or getattr(op, "fill", "") == "cut":
            assert have <= had and len(after) <= n
        elif isinstance(op, ops.RandomInsertion | ops.PunctuationInsertion):
            assert have >= had
        else:
            assert len(after) == n


# What operators say -------------------------------------------------------------------------------------------------


def test_counts_are_those_of_eda() -> None:
    for words in (1, 5, 9, 10, 19, 20, 49, 137):
        text = [["w3"] * words]
        expected = max(1, int(0.1 * words))
        (replaced,) = run(plan_of([ops.SynonymReplacement(0.1, {"w3": ["x"]}, ())]), text)
        assert np.count_nonzero(replaced != KNOWN.ids(["w3"])[0]) == expected
        (inserted,) = run(plan_of([ops.RandomInsertion(0.1, {"w3": ["x"]}, ())]), text)
        assert len(inserted) == words + expected
        (hidden,) = run(plan_of([ops.SpanMask(0.1)]), text)
        places = np.flatnonzero(hidden == MASK)
        assert len(places) == expected and np.ptp(places) == expected - 1


def test_insertion_reaches_the_end_and_takes_every_synonym() -> None:
    known = Vocabulary.build([["w3", "w4"]])
    op = ops.RandomInsertion(0.1, {"w3": ["x", "y", "z"]}, ())
    plan = plan_of([op], known)
    got = run(plan, [["w3", "w4"]] * 400, known=known)
    words = [plan.fold.vocabulary.words_of(ids) for ids in got]
    assert {text[-1] for text in words} == {"x", "y", "z", "w4"} and {text[0] for text in words} >= {"x", "y", "z"}


def test_stop_words_stay() -> None:
    plan = plan_of([ops.SynonymReplacement(1.0, SYNONYMS, stop_words=("w8",))])
    for before, after in zip(TEXTS, run(plan), strict=True):
        after = plan.fold.vocabulary.words_of(after)
        for old, new in zip(before, after, strict=True):
            assert (old in SYNONYMS and old != "w8") == (old != new) and (old == new or new in SYNONYMS[old])


def test_letters_are_turned_with_their_marks() -> None:
    known = Vocabulary.build([["noël", "re\u0301e", "level", "😀a", "한국"]])
    plan = plan_of([ops.WordReversal(letters=True)], known)
    (got,) = run(plan, [["noël", "re\u0301e", "level", "😀a", "한국"]], known=known)
    assert plan.fold.vocabulary.words_of(got) == ["lëon", "ee\u0301r", "level", "a😀", "국한"]


def test_vocabularies_grow_by_what_operators_may_write() -> None:
    plan = plan_of([ops.SynonymReplacement(0.5, SYNONYMS, ()), ops.AEDA()])
    grown = plan.fold.vocabulary
    assert grown.words[: len(KNOWN)] == KNOWN.words
    assert set(grown.words[len(KNOWN) :]) == {"x3", "new word", "y5", "z8", "the", ".", ";", "?", ":", "!", ","}
    assert grown.counts[len(KNOWN) :].sum() == 0 and plan_of([]).fold.vocabulary is KNOWN
    for ids in run(plan):
        assert not (ids == UNKNOWN).any() and (ids < len(grown)).all()


def test_a_number_is_a_range_of_one() -> None:
    for kind in (ops.RandomSwap, ops.RandomDeletion, ops.SpanMask):
        assert not kind(0.25).draws and kind((0.25, 0.25)).draws == 1
        assert same(run(plan_of([kind(0.25), ops.RandomSwap()])), run(plan_of([kind((0.25, 0.25)), ops.RandomSwap()])))


def test_tables_that_are_alike_are_one() -> None:
    nodes = [ops.SynonymReplacement(0.1, SYNONYMS, ()), ops.RandomInsertion(0.4, SYNONYMS, ()), ops.RandomReplacement()]
    nodes += [ops.RandomReplacement(0.4), ops.SynonymReplacement(0.1, {"w3": ["w4"]}, ())]
    tables = plan_of(nodes).fold.tables
    assert (len(tables.choices), len(tables.bags), len(tables.weights)) == (2, 1, 0)
    bags = [ops.BagOfWords("resample"), ops.BagOfWords("resample", labels=None), ops.RandomReplacement(by="tfidf")]
    assert len(plan_of([*bags, *bags]).fold.tables.bags) == CLASSES + 2


def test_replacements_are_drawn_as_often_as_said() -> None:
    texts = [["w3", "w3", "w3", "w4"]] * 300 + [["w4", "w5"]] * 300
    known = Vocabulary.build(texts, np.repeat([0, 1], 300))
    plan = plan_of([ops.BagOfWords("resample")], known)
    engine = TextEngine(plan, Output(CPU, torch.float32, torch.contiguous_format), threads=1)
    tokens = tokens_of(texts, known)
    draws = plan.draw(rng.make_key(0, 0), np.arange(600), engine.size(tokens))
    take_bags_of_classes(draws.params, {"label": np.repeat([0, 1], 300)})
    rows = engine.start(tokens, draws)().rows.numpy()
    first = Counter(known.words_of(rows[:300].ravel()))
    second = Counter(known.words_of(rows[300:].ravel()))
    assert set(first) == {"w3", "w4"} and abs(first["w3"] / 1200 - 0.75) < 0.05
    assert set(second) == {"w4", "w5"} and abs(second["w4"] / 600 - 0.5) < 0.08


def test_tfidf_replaces_words_that_say_little() -> None:
    texts = [["the", f"n{number}", "the", "of"] for number in range(200)]
    known = Vocabulary.build(texts)
    got = run(plan_of([ops.RandomReplacement(0.4, by="tfidf")], known), texts, known=known)
    before = np.stack([known.ids(text) for text in texts])
    changed = (np.stack(got) != before).mean(axis=0)
    assert changed[1] == 0 and changed[0] > 0.2


# What goes wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ops.RandomSwap(1.5), r"RandomSwap: alpha must lie in \[0, 1\]"),
        (lambda: ops.RandomSwap("much"), "RandomSwap: alpha must be"),
        (lambda: ops.RandomSwap(True), "RandomSwap: alpha must be"),
        (lambda: ops.RandomSwap(neighbours=1), "neighbours must be True or False"),
        (lambda: ops.RandomDeletion((0.5, 0.1)), "RandomDeletion: share must lie in"),
        (lambda: ops.SynonymReplacement(0.1, 7), "SynonymReplacement: synonyms must be"),
        (lambda: ops.SynonymReplacement(0.1, {"a": 3}), "SynonymReplacement: synonyms must be"),
        (lambda: ops.RandomInsertion(0.1, stop_words=(1, 2)), "RandomInsertion: stop_words must be"),
        (lambda: ops.RandomReplacement(by="idf"), "by must be 'uniform' or 'tfidf'"),
        (lambda: ops.WordReversal(share=0.5), "share is for letters=True"),
        (lambda: ops.SpanMask(fill="zero"), "fill must be 'mask' or 'cut'"),
        (lambda: ops.BagOfWords("drop"), "mode must be 'shuffle' or 'resample'"),
        (lambda: ops.BagOfWords("resample", labels=3), "labels must be the name of a field"),
        (lambda: ops.AEDA(marks=()), "marks must be one or more words"),
        (lambda: plan_of([ops.BagOfWords("resample")], Vocabulary(["a"])), "which Vocabulary.* does not know"),
        (lambda: plan_of([ops.BagOfWords("resample")], Vocabulary.build([["a"]])), "knows of no classes"),
        (lambda: plan_of([ops.RandomReplacement(by="tfidf")], Vocabulary(["a"])), "does not know"),
        (lambda: plan_of([ops.RandomReplacement()], Vocabulary([])), "no words to draw"),
        (lambda: plan_of([dalipipe.ops.image.HorizontalFlip()]), "applies to image fields"),
        (lambda: Output(CPU, torch.uint8, torch.contiguous_format).check(plan_of([])), "text, which comes as int64"),
    ],
)
def test_errors_name_what_was_expected(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_classes_without_a_bag_are_named() -> None:
    from dalipipe.tracks.base import RowErrors

    plan = plan_of([ops.BagOfWords("resample")])
    draws = plan.draw(rng.make_key(0, 0), np.arange(3), np.full((3, 1), 5))
    with pytest.raises(RowErrors) as caught:
        take_bags_of_classes(draws.params, {"label": np.array([0, 9, -1])})
    assert set(caught.value.errors) == {1, 2} and "classes 0 to 2" in str(caught.value.errors[1])
    with pytest.raises(ValueError, match="labels must name a field of classes"):
        take_bags_of_classes(draws.params, {"class": np.zeros(3, int)})


def test_objects_are_no_policy_files(tmp_path: Any) -> None:
    op = ops.SynonymReplacement(0.1, SynonymTable(SYNONYMS))
    with pytest.raises(TypeError, match=r"SynonymReplacement: synonyms is .*which no policy file can hold"):
        dalipipe.save_policy(dalipipe.Policy([op]), tmp_path / "policy.yaml")
    dalipipe.save_policy(dalipipe.Policy([ops.SynonymReplacement(0.1, SYNONYMS)]), tmp_path / "policy.yaml")
    loaded = dalipipe.load_policy(tmp_path / "policy.yaml")
    assert loaded == dalipipe.Policy([ops.SynonymReplacement(0.1, SYNONYMS)])


def test_too_many_words_are_refused() -> None:
    plan = plan_of([ops.AEDA(1.0)])
    with pytest.raises(ValueError, match="cannot take a sample of size"):
        plan.draw(rng.make_key(0, 0), np.arange(1), np.array([[(1 << 27) + 1]]))
