"""Edits of texts and rows of them: native code against the specification in plain Python, token by token, and the CUDA
kernels compiled for the host against native code; what edits promise; what their random choices come to.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from token_passes import EDITS, GUARD, Maker, Texts, ragged

from dalipipe import native
from dalipipe.ops import tokens as spec

STRUCTS = {
    "TokenPass": native.TOKEN_PASS,
    "TokenChoices": native.TOKEN_CHOICES,
    "TokenBag": native.TOKEN_BAG,
    "TokenWeights": native.TOKEN_WEIGHTS,
}
LENGTHS = [0, 1, 2, 3, 5, 20, 31, 32, 33, 64, 65, 257, 1000]


def key(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << 32, 5, dtype=np.uint32)


def keys(n: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 1 << 32, (n, 5), dtype=np.uint32)


def plain(words: int = 9, **how: Any) -> Texts:
    """Tables to edit with: token t may become 100 t, 100 t + 1 or 100 t + 2; bags of two kinds."""
    keep = [int(share * 2**32) for share in (0.4, 0.8, 0.999999999, 0.8)]  # weights 1, 2, 3 and 4
    return Texts(
        choices=[[[100 * t + k for k in range(3)] for t in range(words)]],
        bags=[spec.Bag(range(words)), spec.Bag([50, 51, 52, 53], keep, [3, 3, 2, 2])],
        weights=[np.linspace(0, 2, words).tolist()],
        **how,
    )


def edited(text: list[int], n: int, **fields: Any) -> list[list[int]]:
    """A text, n times through a pass, each time with another key."""
    texts = plain()
    for each in keys(n):
        texts.add(text, {**fields, "key": each})
    return texts.run()


def alike(counts: Any, expected: Any) -> bool:
    """Pearson's chi-square, within five standard deviations of what chance gives; seeds are fixed."""
    counts, expected = np.asarray(counts, float), np.broadcast_to(np.asarray(expected, float), np.shape(counts))
    freedom = counts.size - 1
    return float(((counts - expected) ** 2 / expected).sum()) < freedom + 5 * np.sqrt(2 * freedom)


# Any chains --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STRUCTS)
def test_structs_are_laid_out_alike(name: str) -> None:
    dtype, layout = STRUCTS[name], native.struct_layouts()[name]
    assert layout.pop("") == dtype.itemsize
    assert layout == {field: dtype.fields[field][1] for field in dtype.names}  # type: ignore[index]


@pytest.mark.parametrize("words", [1, 3, 40])
def test_chains_equal_their_specification(words: int) -> None:
    for seed in range(12):
        maker = Maker(seed, words)
        texts = maker.batch(LENGTHS, room=seed % 3)
        got, expected = texts.run(threads=1 + seed % 3), texts.expected()
        for i, (a, b) in enumerate(zip(got, expected, strict=True)):
            assert a == b, (seed, i, texts.passes[i])


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_every_edit_alone(edit: str, share: float) -> None:
    maker = Maker(EDITS.index(edit))
    for least in (0, 1, 5):
        texts = maker.tables()
        for length in LENGTHS:
            for table in range(4):
                fields = {"choices": table, "bag": table, "weights": table, "share": share, "least": least, "token": 2}
                texts.add(maker.text(length), {"edit": edit, **fields, "key": maker.key()})
        assert texts.run() == texts.expected()


@pytest.mark.parametrize("edit", EDITS)
def test_a_line_of_a_hundred_thousand_words(edit: str) -> None:
    maker = Maker(3, words=5000)
    texts = maker.tables()
    fields = {"edit": edit, "share": 0.2, "token": 2, "key": maker.key()}
    texts.add(maker.text(100_000), {**fields, "bag": 2}, {**fields, "key": maker.key()})
    began = time.perf_counter()
    got = texts.run()
    assert time.perf_counter() - began < 2  # a quadratic edit would take minutes
    assert got == texts.expected()


def test_the_cuda_kernel_equals_the_cpu(tokens_on_cpu: Any) -> None:
    for seed in range(12):
        texts = Maker(seed, [1, 3, 40][seed % 3]).batch(LENGTHS * 20, room=seed % 3)
        assert texts.run(tokens_on_cpu.edit_tokens) == texts.run(), seed
        assert tokens_on_cpu.launches() == 1
    assert Maker(0).batch([]).run(tokens_on_cpu.edit_tokens) == []
    long = Maker(1, 900).batch([20_000], most=8)
    assert long.run(tokens_on_cpu.edit_tokens) == long.run()
    long.add([1, 2], {"edit": "swap"}, {"edit": "mask", "share": 2.0})
    with pytest.raises(ValueError, match="edit_tokens: sample 1, pass 1: share must be 0 to 1, got 2"):
        long.run(tokens_on_cpu.edit_tokens)


@pytest.mark.cuda
def test_a_gpu_equals_the_cpu() -> None:
    for seed in range(12):
        texts = Maker(seed, [1, 3, 40][seed % 3]).batch(LENGTHS * 20, room=seed % 3)
        assert texts.run(device="cuda") == texts.run(), seed
    texts = Maker(0, 5000).batch([100_000], most=8)
    assert texts.run(device="cuda") == texts.run()


def test_many_samples_by_many_threads() -> None:
    texts = Maker(3).batch([7] * 2000)
    assert texts.run(threads=4) == texts.run()


def test_an_empty_batch_is_fine() -> None:
    assert Maker(0).batch([]).run() == []


def test_without_passes_texts_stay() -> None:
    texts = Maker(0).batch(LENGTHS, most=0)
    assert texts.run() == texts.texts


def test_started_and_waited_for() -> None:
    texts = plain()
    texts.add([1, 2, 3], {"edit": "reverse"})
    arguments, tables, held = texts.arguments()
    out, lengths = np.zeros(3, np.int32), np.zeros(1, np.int32)
    running = native.start_edit_tokens(*arguments, out, lengths, **tables, keep=held)
    running.wait()
    assert out.tolist() == [3, 2, 1] and lengths.tolist() == [3]


def test_the_same_key_gives_the_same_and_another_does_not() -> None:
    def run(seed: int) -> list[list[int]]:
        texts = plain()
        texts.add(list(range(9)), {"edit": "shuffle", "share": 1.0, "key": key(seed)})
        return texts.run()

    assert run(1) == run(1) != run(2)


# What edits promise ------------------------------------------------------------------------------------------------

texts_drawn = st.lists(st.integers(0, 8), max_size=40)
shares = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))


def once(text: list[int], **fields: Any) -> list[int]:
    texts = plain()
    texts.add(text, fields)
    return texts.run()[0]


def is_subsequence(a: list[int], b: list[int]) -> bool:
    rest = iter(b)
    return all(token in rest for token in a)


@settings(deadline=None, max_examples=60)
@given(texts_drawn, shares, st.integers(0, 3), st.integers(0, 1 << 20))
def test_swaps_reversal_and_shuffles_keep_the_bag(text: list[int], share: float, least: int, seed: int) -> None:
    for edit in ("swap", "swap_neighbours", "reverse", "shuffle"):
        assert Counter(once(text, edit=edit, share=share, least=least, key=key(seed))) == Counter(text)


@settings(deadline=None, max_examples=60)
@given(texts_drawn, shares, st.integers(0, 3), st.integers(0, 1 << 20))
def test_what_is_taken_out_leaves_the_rest_in_order(text: list[int], share: float, least: int, seed: int) -> None:
    for edit in ("remove", "cut"):
        got = once(text, edit=edit, share=share, least=least, key=key(seed))
        assert is_subsequence(got, text) and bool(got) == bool(text)
    n = min(max(least, int(share * len(text))), max(len(text) - 1, 0))
    assert len(once(text, edit="cut", share=share, least=least, key=key(seed))) == len(text) - n


@settings(deadline=None, max_examples=60)
@given(texts_drawn, shares, st.integers(0, 3), st.integers(0, 1 << 20))
def test_what_is_put_in_leaves_the_rest_in_order(text: list[int], share: float, least: int, seed: int) -> None:
    n = max(least, int(share * len(text))) if text else 0
    got = once(text, edit="insert", share=share, least=least, key=key(seed))
    assert is_subsequence(text, got) and len(got) == len(text) + n
    new = Counter(got) - Counter(text)
    sources = {100 * t + k for t in text for k in range(3)}
    assert set(new) <= sources
    got = once(text, edit="punctuate", bag=1, share=share, key=key(seed))
    assert [token for token in got if token < 50] == text
    marks = len(got) - len(text)
    assert not text or 1 <= marks <= min(int(share * len(text)) + 1, len(text))
    assert not got or got[-1] < 50, "marks stand before words"


@settings(deadline=None, max_examples=60)
@given(texts_drawn, shares, st.integers(0, 3), st.integers(0, 1 << 20))
def test_replacement_keeps_the_length(text: list[int], share: float, least: int, seed: int) -> None:
    n = min(max(least, int(share * len(text))), len(text))
    for edit, bag in (("replace", 0), ("draw", 1), ("mask", 0)):
        got = once(text, edit=edit, bag=bag, share=share, least=least, token=-7, key=key(seed))
        changed = [i for i, (a, b) in enumerate(zip(text, got, strict=True)) if a != b]
        assert len(changed) <= n
        if edit == "draw":
            assert len(changed) == n and all(50 <= got[i] < 54 for i in changed)
        if edit == "mask":
            assert len(changed) == n and (not n or changed[-1] - changed[0] == n - 1)
        if edit == "replace":
            assert all(got[i] // 100 == text[i] for i in changed)
    assert len(once(text, edit="resample", bag=1, key=key(seed))) == len(text)


@settings(deadline=None, max_examples=60)
@given(texts_drawn, shares, st.integers(0, 3), st.integers(0, 1 << 20))
def test_nothing_outside_a_span_moves(text: list[int], share: float, least: int, seed: int) -> None:
    text = list(range(len(text)))
    n = min(max(least, int(share * len(text))), len(text))
    got = once(text, edit="shuffle", share=share, least=least, key=key(seed))
    moved = [i for i in text if got[i] != i]
    assert not moved or moved[-1] - moved[0] < n


def test_tokens_without_choices_stay_and_without_any_texts_do() -> None:
    texts = Texts(choices=[[[], [9], []], []])
    for table in (0, 1):
        for edit in ("replace", "insert"):
            for text in ([0, 2, 0, 7, -1], [0, 1, 2], []):
                texts.add(text, {"edit": edit, "choices": table, "share": 1.0, "key": key(5)})
    got = texts.run()
    assert got[:3] == [[0, 2, 0, 7, -1], [0, 9, 2], []]
    assert got[3] == [0, 2, 0, 7, -1] and Counter(got[4]) == Counter([0, 1, 2, 9, 9, 9]) and got[5] == []
    assert got[6:] == [[0, 2, 0, 7, -1], [0, 1, 2], []] * 2


def test_an_empty_bag_leaves_texts_as_they_are() -> None:
    texts = Texts(bags=[spec.Bag([])], weights=[[1.0, 0.0]])
    for edit in ("draw", "draw_by_weight", "resample", "punctuate"):
        texts.add([0, 1, 0], {"edit": edit, "share": 1.0, "least": 2})
    assert texts.run() == [[0, 1, 0]] * 4


# What chance comes to ----------------------------------------------------------------------------------------------


def test_insertion_reaches_every_place_and_takes_any_source() -> None:
    n, text = 6000, [1, 2, 3, 4]
    got = edited(text, n, edit="insert", least=1)
    places, sources, which = Counter(), Counter(), Counter()  # type: ignore[var-annotated]
    for out in got:
        (place,) = [i for i, token in enumerate(out) if token >= 100]
        places[place] += 1
        sources[out[place] // 100] += 1
        which[out[place] % 100] += 1
    assert alike([places[i] for i in range(5)], n / 5)  # the end is one
    assert alike([sources[t] for t in text], n / 4)
    assert alike([which[k] for k in range(3)], n / 3)


def test_any_tokens_are_chosen_alike() -> None:
    n = 6000
    got = edited([0] * 5, n, edit="draw", bag=1, least=2)
    pairs = Counter(tuple(i for i, token in enumerate(out) if token) for out in got)
    assert len(pairs) == 10 and alike(list(pairs.values()), n / 10)
    drawn = Counter(token for out in got for token in out if token)
    assert alike([drawn[50 + e] for e in range(4)], 2 * n * np.array([0.1, 0.2, 0.3, 0.4]))


def test_any_swap_is_alike() -> None:
    n = 6000
    pairs = Counter(map(tuple, edited([0, 1, 2, 3], n, edit="swap", least=1)))
    assert len(pairs) == 6 and alike(list(pairs.values()), n / 6)
    beside = Counter(map(tuple, edited([0, 1, 2, 3], n, edit="swap_neighbours", least=1)))
    assert len(beside) == 3 and alike(list(beside.values()), n / 3)


def test_any_order_is_alike() -> None:
    orders = Counter(map(tuple, edited([0, 1, 2, 3], 12_000, edit="shuffle", share=1.0)))
    assert len(orders) == 24 and alike(list(orders.values()), 500)


def test_tokens_go_with_their_probability_and_any_may_stay() -> None:
    n = 6000
    got = edited(list(range(8)), n, edit="remove", share=0.3)
    stayed = Counter(token for out in got for token in out)
    assert all(abs(stayed[t] / n - 0.7) < 0.03 for t in range(8))
    last = Counter(out[0] for out in edited([0, 1, 2, 3], n, edit="remove", share=1.0))
    assert len(last) == 4 and alike(list(last.values()), n / 4)


def test_a_span_lies_anywhere() -> None:
    n = 6000
    begins = Counter(out.index(7) for out in edited([0] * 6, n, edit="mask", least=2, token=7))
    assert len(begins) == 5 and alike(list(begins.values()), n / 5)


def test_any_number_of_marks_is_alike() -> None:
    n = 6000
    got = edited([0] * 10, n, edit="punctuate", bag=1, share=0.3)
    counts = Counter(len(out) - 10 for out in got)
    assert sorted(counts) == [1, 2, 3, 4] and alike(list(counts.values()), n / 4)
    first = Counter(i for out in got if len(out) == 11 for i, token in enumerate(out) if token)
    assert len(first) == 10 and alike(list(first.values()), sum(first.values()) / 10)


def test_words_that_say_little_go_most() -> None:
    # Scores 1/4 · 2 · (0, 1 of 8, …): the mean of C − s is known, so are the probabilities.
    text, n, share = [0, 2, 4, 8], 6000, 0.3
    scores = np.array([2 * t / 8 / 4 for t in text])
    gap = scores.max() - scores
    p = np.minimum(1, share * gap / gap.mean())
    got = edited(text, n, edit="draw_by_weight", bag=1, share=share)
    went = [sum(out[i] >= 50 for out in got) / n for i in range(4)]
    np.testing.assert_allclose(went, p, atol=0.03)
    assert went[3] == 0
    assert edited([5, 5, 5], 5, edit="draw_by_weight", bag=1, share=1.0) == [[5, 5, 5]] * 5


# Rows --------------------------------------------------------------------------------------------------------------


@dataclass
class Rows:
    """Spans of tokens, and what rows are made of them."""

    tokens: np.ndarray
    spans: np.ndarray
    starts: np.ndarray
    pieces: list[list[int]] | None
    how: dict[str, Any]

    @classmethod
    def make(cls, seed: int, n: int = 40) -> Rows:
        rng = np.random.default_rng(seed)
        tokens = rng.integers(-1, 22, 300).astype(np.int32)
        starts = np.cumsum([0, *rng.integers(0, 4, n)]).astype(np.int32)
        count = rng.integers(0, 60, starts[-1])
        spans = np.stack([rng.integers(0, 300 - 60, starts[-1]), count], axis=1).astype(np.int64)
        pieces = [rng.integers(0, 1 << 31, rng.integers(0, 5)).tolist() for _ in range(20)] if seed % 2 else None
        how = {
            "prefix": rng.integers(0, 99, seed % 3).tolist(),
            "suffix": rng.integers(0, 99, seed % 5).tolist(),
            "most": [None, 6, 50, 6 + seed][seed % 4],
        }
        return cls(tokens, spans, starts, pieces, how)

    def expected(self) -> list[list[int]]:
        of = [self.tokens[begin : begin + count].tolist() for begin, count in self.spans.tolist()]
        return [
            spec.row(of[first:last], pieces=self.pieces, **self.how)
            for first, last in zip(self.starts, self.starts[1:], strict=False)
        ]

    def run(self, rows: Any = native, device: str = "cpu", spare: int = 0, **how: Any) -> list[list[int]]:
        """What native code makes of them; checks the padding, and that it writes into the rows alone."""
        tokens, spans = (torch.from_numpy(a).to(device) for a in (self.tokens, self.spans))
        pieces = None if self.pieces is None else tuple(torch.from_numpy(a).to(device) for a in ragged(self.pieces))
        given = {**self.how, "pieces": pieces, **how}
        lengths = torch.as_tensor(rows.count_rows(tokens, spans, self.starts, **given)).tolist()
        n, columns = len(lengths), max(lengths, default=0) + spare
        whole = torch.full((n + 2, columns + 3), GUARD, dtype=torch.int64, device=device)
        out = whole[1:-1, 1:-2]
        rows.write_rows(tokens, spans, self.starts, out, pad=-5, **given)
        got = out.tolist()
        out[:] = GUARD
        assert (whole == GUARD).all(), "it writes outside"
        assert all(set(row[length:]) <= {-5} for row, length in zip(got, lengths, strict=True))
        return [row[:length] for row, length in zip(got, lengths, strict=True)]


@pytest.mark.parametrize("seed", range(20))
def test_rows_equal_their_specification(seed: int) -> None:
    rows = Rows.make(seed)
    assert rows.run(threads=1 + seed % 3, spare=seed % 4) == rows.expected()


@pytest.mark.parametrize("seed", range(20))
def test_the_cuda_kernels_of_rows_equal_the_cpu(tokens_on_cpu: Any, seed: int) -> None:
    rows = Rows.make(seed)
    assert rows.run(tokens_on_cpu, spare=seed % 4) == rows.expected()
    assert tokens_on_cpu.launches() == 1


@pytest.mark.cuda
@pytest.mark.parametrize("seed", range(20))
def test_rows_on_a_gpu_equal_the_cpu(seed: int) -> None:
    rows = Rows.make(seed, n=500)
    assert rows.run(device="cuda", spare=seed % 4) == rows.expected()


def test_rows_of_arrays() -> None:
    tokens, spans = np.array([5, 6, 7], np.int32), np.array([[0, 3], [1, 1]], np.int64)
    starts, out = np.array([0, 1, 2], np.int32), np.zeros((2, 4), np.int64)
    assert native.count_rows(tokens, spans, starts, suffix=[9]).tolist() == [4, 2]
    native.write_rows(tokens, spans, starts, out, suffix=[9], pad=1)
    assert out.tolist() == [[5, 6, 7, 9], [6, 9, 1, 1]]


def test_narrow_rows_lose_pieces_and_not_the_suffix() -> None:
    tokens, spans = np.arange(9, dtype=np.int32), np.array([[0, 9]], np.int64)
    out = np.zeros((1, 4), np.int64)
    native.write_rows(tokens, spans, np.array([0, 1], np.int32), out, prefix=[101], suffix=[102])
    assert out.tolist() == [[101, 0, 1, 102]]


def test_spans_are_clipped_to_what_there_is() -> None:
    tokens = np.arange(5, dtype=np.int32)
    spans = np.array([[-3, 2], [3, 99], [7, 1], [1, -4], [-(1 << 62), 1 << 62], [1 << 62, 1 << 62]], np.int64)
    rows = Rows(tokens, spans, np.arange(7, dtype=np.int32), None, {})
    assert rows.run() == [[0, 1], [3, 4], [], [], [0, 1, 2, 3, 4], []]


def test_no_rows_are_fine() -> None:
    rows = Rows(np.zeros(0, np.int32), np.zeros((0, 2), np.int64), np.zeros(1, np.int32), None, {})
    assert rows.run() == []
    rows = Rows(np.zeros(0, np.int32), np.zeros((0, 2), np.int64), np.zeros(3, np.int32), [], {"prefix": [1]})
    assert rows.run() == [[1], [1]]


def test_starts_of_pieces_that_lie_are_no_pieces() -> None:
    tokens, spans = np.array([0, 1, 2, 3], np.int32), np.array([[0, 4]], np.int64)
    lying = (np.array([-1, 1, 3, 2, 9], np.int32), np.array([7, 8, 9], np.int32))
    out = np.zeros((1, 3), np.int64)
    starts = np.array([0, 1], np.int32)
    assert native.count_rows(tokens, spans, starts, pieces=lying).tolist() == [2]
    native.write_rows(tokens, spans, starts, out, pieces=lying, pad=-1)
    assert out.tolist() == [[8, 9, -1]]


# What is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"edit": 13}, "edit must be 0 to 12, got 13"),
        ({"edit": -1}, "edit must be 0 to 12, got -1"),
        ({"share": 1.1}, "share must be 0 to 1, got 1.1"),
        ({"share": -0.1}, "share must be 0 to 1"),
        ({"share": np.nan}, "share must be 0 to 1"),
        ({"least": -1}, "least must be 0 to"),
        ({"least": (1 << 28) + 1}, "least must be 0 to"),
        ({"edit": EDITS.index("replace"), "choices": 1}, "choices must be one of 1, got 1"),
        ({"edit": EDITS.index("insert"), "choices": -1}, "choices must be one of 1, got -1"),
        ({"edit": EDITS.index("draw"), "bag": 2}, "bag must be one of 2, got 2"),
        ({"edit": EDITS.index("draw_by_weight"), "weights": 1}, "weights must be one of 1, got 1"),
        ({"edit": EDITS.index("draw_by_weight"), "bag": -1}, "bag must be one of 2, got -1"),
        ({"edit": EDITS.index("resample"), "bag": -1}, "bag must be one of 2, got -1"),
        ({"edit": EDITS.index("punctuate"), "bag": -1}, "bag must be one of 2, got -1"),
        ({"edit": EDITS.index("insert"), "least": 5}, "it may leave 8 tokens; its capacity must be that, got 3"),
    ],
)
def test_a_bad_pass_is_named(fields: dict[str, Any], message: str) -> None:
    texts = plain()
    texts.add([1])
    texts.add([1, 2, 3], {"edit": "swap"}, {"edit": "swap"})
    arguments, tables, held = texts.arguments()
    for name, value in fields.items():
        arguments[0][1][name] = value
    with pytest.raises(ValueError, match=f"edit_tokens: sample 1, pass 1: {message}"):
        native.edit_tokens(*arguments, np.zeros(4, np.int32), np.zeros(2, np.int32), **tables)
    running = native.start_edit_tokens(*arguments, np.zeros(4, np.int32), np.zeros(2, np.int32), **tables, keep=held)
    with pytest.raises(ValueError, match=message):
        running.wait()


@pytest.mark.parametrize(
    ("which", "value", "message"),
    [
        ("starts", [0, 0, 1], "starts must go from 0 to 2, the passes"),
        ("starts", [0, 3, 2], "starts must rise, got 3 to 2 for sample 1"),
        ("data", [0, 0], "sample 0: its data is null"),
        ("lengths", [-1, 3], "sample 0: it must have 0 to"),
        ("lengths", [1, 4], "sample 1: its capacity must be 4"),
        ("capacities", [1, 1 << 29], "sample 1: it must have 0 to"),
        ("places", [1, 1], "sample 0: out must have room for 1 tokens at 1, got 0"),
        ("places", [0, 2], "sample 1: out must have room for 3 tokens at 2, got 2"),
        ("places", [-1, 1], "sample 0: out must have room"),
    ],
)
def test_bad_samples_are_named(which: str, value: list[int], message: str) -> None:
    texts = plain()
    texts.add([1])
    texts.add([1, 2, 3], {"edit": "swap"}, {"edit": "swap"})
    arguments, tables, _ = texts.arguments()
    at = ["passes", "starts", "data", "lengths", "capacities", "places"].index(which)
    arguments[at] = np.array(value, arguments[at].dtype)
    with pytest.raises(ValueError, match=message):
        native.edit_tokens(*arguments, np.zeros(4, np.int32), np.zeros(2, np.int32), **tables)


def test_bad_arrays_are_named() -> None:
    texts = plain()
    texts.add([1, 2, 3], {"edit": "swap"})
    arguments, tables, _ = texts.arguments()
    out, lengths = np.zeros(3, np.int32), np.zeros(1, np.int32)
    with pytest.raises(ValueError, match=r"edit_tokens: out must be contiguous int32 \(3,\), got int64"):
        native.edit_tokens(*arguments, out.astype(np.int64), lengths, **tables)
    with pytest.raises(ValueError, match=r"out must be contiguous int32 .* with strides"):
        native.edit_tokens(*arguments, torch.zeros(6, dtype=torch.int32)[::2], lengths, **tables)
    with pytest.raises(ValueError, match=r"out_lengths must be contiguous int32 \(1,\)"):
        native.edit_tokens(*arguments, out, np.zeros(2, np.int32), **tables)
    with pytest.raises(ValueError, match="bags must be contiguous TOKEN_BAG"):
        native.edit_tokens(*arguments, out, lengths, bags=tables["weights"])
    with pytest.raises(ValueError, match="threads must be at least 1"):
        native.edit_tokens(*arguments, out, lengths, threads=0)
    arguments[2] = arguments[2].astype(np.int64)
    with pytest.raises(ValueError, match="data must be contiguous uint64"):
        native.edit_tokens(*arguments, out, lengths, **tables)


@pytest.mark.parametrize(
    ("table", "name", "value", "message"),
    [
        ("choices", "words", -1, "choices 0: words and count must not be negative"),
        ("choices", "starts", 0, "choices 0: starts or tokens are null"),
        ("choices", "tokens", 0, "choices 0: starts or tokens are null"),
        ("bags", "count", -1, "bag 0: count must not be negative"),
        ("bags", "first", -1, "bag 0: tokens -1 to 8"),
        ("bags", "first", 2**31 - 3, "bag 0: tokens .* are not below"),
        ("bags", "keep", 8, "bag 0: keep and other must both be given"),
        ("weights", "weights", 0, "weights 0 are null"),
    ],
)
def test_bad_tables_are_named(table: str, name: str, value: int, message: str) -> None:
    texts = plain()
    texts.add([1, 2, 3], {"edit": "swap"})
    arguments, tables, _ = texts.arguments()
    tables[table][0][name] = value
    with pytest.raises(ValueError, match=message):
        native.edit_tokens(*arguments, np.zeros(3, np.int32), np.zeros(1, np.int32), **tables)


def test_bad_rows_are_named() -> None:
    tokens, spans, starts = np.arange(5, dtype=np.int32), np.array([[0, 5]], np.int64), np.array([0, 1], np.int32)
    out = np.zeros((1, 5), np.int64)
    for bad, message in (
        ((tokens, spans, np.array([0, 2], np.int32)), "starts must go from 0 to 1, the spans"),
        ((tokens.astype(np.int64), spans, starts), "tokens must be contiguous int32"),
        ((tokens, spans[:, :1], starts), r"spans must be contiguous int64 \(1, 2\)"),
    ):
        with pytest.raises(ValueError, match=f"count_rows: {message}"):
            native.count_rows(*bad)
        with pytest.raises(ValueError, match=f"write_rows: {message}"):
            native.write_rows(*bad, out)
    with pytest.raises(ValueError, match="most must leave room for the prefix and the suffix, 2 and 1 numbers, got 2"):
        native.count_rows(tokens, spans, starts, prefix=[1, 2], suffix=[3], most=2)
    with pytest.raises(ValueError, match="out must have columns for the prefix and the suffix"):
        native.write_rows(tokens, spans, starts, out[:, :2].copy(), prefix=[1, 2], suffix=[3])
    with pytest.raises(ValueError, match="out must be int64"):
        native.write_rows(tokens, spans, starts, out.astype(np.int32))
    with pytest.raises(ValueError, match="out must be int64"):
        native.write_rows(tokens, spans, starts, out.T)
    with pytest.raises(ValueError, match="the starts of pieces must be int32"):
        native.count_rows(tokens, spans, starts, pieces=(np.zeros(0, np.int32), tokens))


# A batch at once ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize(("most", "multiple"), [(None, 1), (None, 8), (40, 1), (9, 8), (2, 3)])
def test_a_batch_at_once_is_its_three_steps(pieces: bool, most: int | None, multiple: int) -> None:
    random = np.random.default_rng(3)
    counts = np.array([0, 1, 7, 30, 2, 64])
    tokens = random.integers(0, 9, counts.sum()).astype(np.int32)
    places = np.cumsum(2 * counts + 1) - (2 * counts + 1)
    passes = np.zeros(6, native.TOKEN_PASS)
    passes["edit"] = [native.TOKEN_EDITS.index(edit) for edit in ("remove", "swap", "reverse", "remove", "swap", "cut")]
    passes["share"], passes["key"] = 0.3, keys(6)
    starts = np.arange(7, dtype=np.int32)
    data = (tokens.ctypes.data + 4 * (np.cumsum(counts) - counts)).astype(np.uint64)
    given = passes, starts, data, counts.astype(np.int32), (2 * counts + 1).astype(np.int32), places
    options: dict[str, Any] = {"prefix": [101], "suffix": [102], "most": most}
    if pieces:
        options["pieces"] = np.array([0, 0, *range(1, 16, 2)], np.int32), np.arange(20, 35, dtype=np.int32)

    edited, lengths = np.zeros(2 * counts.sum() + 6, np.int32), np.zeros(6, np.int32)
    native.edit_tokens(*given, edited, lengths)
    spans = np.stack([places, lengths], axis=1).astype(np.int64)
    numbers = native.count_rows(edited, spans, starts, **options)
    columns = min(-(-int(numbers.max()) // multiple) * multiple, most or 1000)
    expected = np.zeros((6, columns), np.int64)
    native.write_rows(edited, spans, starts, expected, pad=7, **options)

    out = np.full(6 * 140, -1)
    again = np.zeros_like(edited), np.zeros_like(lengths), out
    got, found = native.start_make_batch(*given, *again, pad=7, multiple=multiple, threads=2, **options)()
    assert got == columns
    np.testing.assert_array_equal(found, numbers)
    np.testing.assert_array_equal(out[: 6 * columns].reshape(6, columns), expected)
    assert (out[6 * columns :] == -1).all()
    with pytest.raises(ValueError, match="too few for 6 rows"):
        native.start_make_batch(*given, *again[:2], out[: 6 * columns - 1], multiple=multiple, **options)()


def test_a_batch_of_no_texts_at_once() -> None:
    none, no_starts = np.zeros(0, np.int32), np.zeros(1, np.int32)
    given = np.zeros(0, native.TOKEN_PASS), no_starts, np.zeros(0, np.uint64), none, none, np.zeros(0, np.int64)
    columns, numbers = native.start_make_batch(*given, none, none, np.zeros(0, np.int64), prefix=[1])()
    assert columns == 0 and len(numbers) == 0
