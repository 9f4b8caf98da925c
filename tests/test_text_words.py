"""Text into words and back: no grapheme is split or lost; vocabularies, synonyms, stop words, bags."""

from __future__ import annotations

import itertools
import os
import pickle
import subprocess
import sys
import types
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import regex
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dalipipe.text import (
    PAD,
    SPECIAL,
    UNKNOWN,
    SynonymSource,
    SynonymTable,
    Vocabulary,
    WordNet,
    bags,
    nearest_words,
    synonyms,
)
from dalipipe.text.stop_words import is_stop_word, stop_words
from dalipipe.text.vocabulary import number
from dalipipe.text.words import characters, graphemes, join, reverse, split, splitter

FAMILY, FLAG, THUMB, KEYCAP = "👩‍👩‍👧", "🇩🇪", "👍🏽", "1️⃣"
AWKWARD = [
    *"aZ_09é,.:/'’-@#*%\"(“。、！한각กัำ漢ーカﾞ々नि्",
    *" \t\n\r\u00a0\u3000\u200b\u00ad\u2060\ufeff\x00\x1c\u2028",
    *"\u0301\u20e3\ufe0f\u200d\u200c🏽👩👍🇩🇪ℹ©❤\u0600\u0d4e\U0001f468",
    *["http://", "www.", "n't", "'s", "U.S.", "1️⃣", FAMILY, FLAG, "e\u0301", "\u0600a", "\uff9e"],
]
TEXTS = st.lists(st.one_of(st.sampled_from(AWKWARD), st.characters(exclude_categories=["Cs"])), max_size=12).map(
    "".join
)


# --- splitting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" \t\n", []),
        ("I don't know, it's fine.", ["I", "don't", "know", ",", "it's", "fine", "."]),
        ("they wo n't ; moore 's", ["they", "wo", "n't", ";", "moore", "'s"]),
        ("'quoted' dogs'", ["'", "quoted", "'", "dogs", "'"]),
        ("pi is 3.14, or 1,000 at 10:30 on 1/2/2020.", "pi is 3.14 , or 1,000 at 10:30 on 1/2/2020 .".split()),
        ("the U.S. and e.g. this", ["the", "U.S.", "and", "e.g.", "this"]),
        ("mother-in-law -- re-imagining...", ["mother-in-law", "--", "re-imagining", "..."]),
        (
            "see https://a.org/b?c=1. or www.x.com, me@x.org",
            "see https://a.org/b?c=1 . or www.x.com , me@x.org".split(),
        ),
        ("#tag @name C# 50% $5", ["#tag", "@name", "C", "#", "50", "%", "$", "5"]),
        ("what?! (yes) no!!!", ["what", "?", "!", "(", "yes", ")", "no", "!!!"]),
        ("crème brûlée’s “fine”…", ["crème", "brûlée’s", "“", "fine", "”", "…"]),
        ("cre\u0300me", ["crème"]),  # NFC
        ("co\u00adoperate \ufeffx", ["cooperate", "x"]),
        ("我喜欢北京。", list("我喜欢北京。")),
        ("コーヒーを飲む", list("コーヒーを飲む")),
        ("かﾞ", ["かﾞ"]),
        ("한국어 문장.", ["한국어", "문장", "."]),
        ("สวัสดี", ["ส", "วั", "ส", "ดี"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("Привет, мир", ["Привет", ",", "мир"]),
        ("שלום עולם", ["שלום", "עולם"]),
        ("می‌خواهم", ["می‌خواهم"]),  # joined by a non-joiner
        ("hello世界abc", ["hello", "世", "界", "abc"]),
        (f"{FAMILY}{FLAG}{FLAG}{THUMB}{KEYCAP}{KEYCAP} #️⃣", [FAMILY, FLAG, FLAG, THUMB, KEYCAP, KEYCAP, "#️⃣"]),
        ("ok❤️!", ["ok", "❤️", "!"]),
    ],
)
def test_split(text: str, words: list[str]) -> None:
    assert split(text) == words


def assert_whole_graphemes(text: str, words: list[str]) -> None:
    """Words stand in text one behind the other, begin and end between graphemes, and leave only separators out."""
    place, ends = 0, {0}
    for cluster in regex.findall(r"\X", text):
        ends.add(max(ends) + len(cluster))
    separator = regex.compile(r"\s|\p{GCB=Control}")

    def skip(place: int) -> int:
        while place < len(text) and (text[place].isspace() or separator.match(text[place])):
            place += 1
        return place

    for word in words:
        assert word
        place = skip(place)
        assert text.startswith(word, place)
        assert place in ends or text[place - 1].isspace()  # a mark on a space loses the space
        place += len(word)
        assert place in ends or text[place].isspace()  # and so does what takes in the next one
    assert skip(place) == len(text)


@settings(max_examples=200, deadline=None)
@given(TEXTS)
@example("aำ a\u200d❤ ℹ\u200d❤ \u0600. ..\u0301 3.1\u20e3 a-\uff9e #️⃣ http://a\U0001f468\u200d\U0001f468 U.S.\u0301")
def test_no_grapheme_is_split_or_lost(text: str) -> None:
    plain = unicodedata.normalize("NFC", text.translate(dict.fromkeys(map(ord, "\u00ad\u2060\ufeff"))))
    assert_whole_graphemes(plain, split(text))
    assert "".join(characters(text)) == "".join(
        cluster for cluster in regex.findall(r"\X", unicodedata.normalize("NFC", text)) if not cluster.isspace()
    )


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(max_codepoint=127), max_size=30))
def test_ascii_has_a_pattern_of_its_own_that_agrees(text: str) -> None:
    from dalipipe.text import words

    for chunk in text.split():
        assert words._ascii().findall(chunk) == words._unicode().findall(chunk)


@settings(max_examples=200, deadline=None)
@given(TEXTS)
@example("ab🇩🇪🇫")
@example("가")
def test_reversed_twice_is_the_same(word: str) -> None:
    assert reverse(reverse(word)) == word
    assert Counter(graphemes(reverse(word))) == Counter(graphemes(word))


def test_reverse() -> None:
    assert reverse("word") == "drow" and reverse("") == "" and reverse("x") == "x"
    assert reverse(f"a{FAMILY}e\u0301") == f"e\u0301{FAMILY}a"
    assert reverse("\r\n") == "\r\n"
    assert reverse("🇩🇪🇫") == "🇩🇪🇫"  # would be 🇫🇩 🇪: other flags


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_join_leaves_graphemes_whole(text: str) -> None:
    words = split(text)
    joined = join(words)
    place, ends = 0, {0}
    for cluster in regex.findall(r"\X", joined):
        ends.add(max(ends) + len(cluster))
    for word in words:
        place += joined[place : place + 1] == " " and not word.startswith(" ")
        assert joined.startswith(word, place)
        place += len(word)
        assert place in ends or joined[place : place + 1] == " "
    assert place == len(joined)


@pytest.mark.parametrize(
    "text",
    [
        "I don't know, it's fine.",
        'He said "yes (or no)" twice; then: "bye!"',
        "“No,” she said…",
        "我喜欢北京。コーヒーを飲む",
        "한국어 문장.",
        "",
    ],
)
def test_join_is_text_for_people(text: str) -> None:
    assert join(split(text)) == text


def test_join_of_text_that_is_split_already() -> None:
    assert (
        join("they wo n't sit still for moore 's film , ever !".split())
        == "they won't sit still for moore's film, ever!"
    )


def test_other_splitters() -> None:
    assert splitter("space")(" a, b\tc ") == ["a,", "b", "c"]
    assert splitter("characters")(f"a {FLAG}e\u0301") == ["a", FLAG, "é"]
    assert splitter(str.split)("a b") == ["a", "b"] and splitter("words") is split
    with pytest.raises(ValueError, match=r"split must be one of 'words', 'space', 'characters' or a function, got 'x'"):
        splitter("x")
    with pytest.raises(ValueError, match="a function from str to a list of str, got 3"):
        splitter(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["a." * 100_000, "a-" * 100_000 + "é", "." * 100_000 + "é", "@" * 100_000, "\u0301" * 99_999]
)
@pytest.mark.timeout(20)
def test_hostile_text_takes_no_longer(text: str) -> None:
    assert "".join(split(text)) == unicodedata.normalize("NFC", text)


def test_without_regex_ascii_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys; sys.modules['regex'] = None\n"
        "from dalipipe.text.words import split, reverse, join\n"
        "assert join(split('It works, yes.')) == 'It works, yes.' and reverse('ab') == 'ba'\n"
        "try: split('caf\\u00e9')\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'dalipipe[text]'" in done.stdout


# --- vocabularies ----------------------------------------------------------------------------------------------------


def counted_by_hand(texts: list[list[str]], labels: list[int], kept: Vocabulary) -> tuple[Any, Any, Any]:
    counts, documents = np.zeros(len(kept), int), np.zeros(len(kept), int)
    kinds = np.zeros((max(labels) + 1, len(kept)), int)
    for text, label in zip(texts, labels, strict=True):
        for word in text:
            counts[kept.ids([word])] += 1
            kinds[label, kept.ids([word])] += 1
        for token in set(kept.ids(text).tolist()):
            documents[token] += 1
    return counts, documents, kinds


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.lists(st.sampled_from("abcdefg"), max_size=9)), min_size=1, max_size=9),
    st.integers(1, 3),
    st.one_of(st.none(), st.integers(0, 4)),
)
def test_counts(rows: list[tuple[int, list[str]]], min_count: int, most: int | None) -> None:
    texts, labels = [text for _, text in rows], [label for label, _ in rows]
    vocabulary = Vocabulary.build(texts, np.array(labels), min_count=min_count, most=most)
    times = Counter(word for text in texts for word in text)
    expected = sorted((word for word in times if times[word] >= min_count), key=lambda word: (-times[word], word))[
        :most
    ]
    assert vocabulary.words == (*SPECIAL, *expected) and vocabulary.texts == len(texts)
    for found, by_hand in zip(
        (vocabulary.counts, vocabulary.documents, vocabulary.class_counts),
        counted_by_hand(texts, labels, vocabulary),
        strict=True,
    ):
        assert np.array_equal(found, by_hand)
    ids, starts = vocabulary.ids_of(texts)
    assert ids.dtype == np.int32 and starts.dtype == np.int64
    for row, text in enumerate(texts):
        assert np.array_equal(ids[starts[row] : starts[row + 1]], vocabulary.ids(text))


def test_vocabulary_without_words() -> None:
    for texts in ([], [[]], [[], []]):
        vocabulary = Vocabulary.build(texts, np.zeros(len(texts), np.int64))
        assert vocabulary.words == SPECIAL and vocabulary.texts == len(texts) and not vocabulary.counts.any()
    assert number([]).starts.tolist() == [0] and vocabulary.ids_of([])[0].dtype == np.int32


def test_what_texts_call_padding_or_mask_are_words_like_others() -> None:
    vocabulary = Vocabulary.build([["<unk>", "a", "<mask>"]])
    assert vocabulary.words == (*SPECIAL, "<mask>", "a")
    assert vocabulary.ids(["<unk>", "a", "<mask>", "b", "<pad>"]).tolist() == [UNKNOWN, 4, 3, UNKNOWN, UNKNOWN]
    assert vocabulary.counts.tolist() == [0, 1, 0, 1, 1]
    more = vocabulary.with_words(["<pad>", "<mask>", "<unk>"])
    assert more.words == (*vocabulary.words, "<pad>") and more.words_of([5, 0, 2]) == ["<pad>", "<mask>"]
    with pytest.raises(ValueError, match="number 6 is of no word here"):
        more.words_of([6])


def test_more_words_keep_what_is_there() -> None:
    before = Vocabulary.build([["b", "a", "b"]], np.array([1]))
    after = before.with_words(["c", "a", "c", "d"])
    assert after.words == (*before.words, "c", "d") and before.with_words(["a"]) is before
    assert after.counts.tolist() == [*before.counts, 0, 0] and after.class_counts is not None
    assert after.class_counts.shape == (2, 7) and after.identity != before.identity
    assert pickle.loads(pickle.dumps(after)).identity == after.identity
    assert after.words_of([4, PAD, 3]) == ["a", "b"]
    with pytest.raises(ValueError, match="'a' twice"):
        Vocabulary(["a", "a"])


# --- synonyms and stop words -----------------------------------------------------------------------------------------


def table_of(source: SynonymSource, vocabulary: Vocabulary, leave: Any = None) -> dict[str, list[str]]:
    starts, tokens = synonyms.choices(source, vocabulary, leave)
    assert starts.dtype == tokens.dtype == np.int32 and len(starts) == len(vocabulary) + 1
    rows = [tokens[a:b].tolist() for a, b in itertools.pairwise(starts)]
    return {word: vocabulary.words_of(row) for word, row in zip(vocabulary.words, rows, strict=True) if row}


def test_choices() -> None:
    source = SynonymTable(
        {"good": ["fine", "good", "Good", "decent", "fine"], "fine": ["good"], "the": ["a"], "<pad>": ["x"]}
    )
    vocabulary = Vocabulary(["good", "Good", "GOOD", "the", "The", "film"])
    new = synonyms.words(source, vocabulary, "english")
    assert new == ["fine", "decent", "Fine", "Decent", "FINE", "DECENT"]
    table = table_of(source, vocabulary.with_words(new), "english")
    assert table == {
        "good": ["fine", "decent"],
        "Good": ["Fine", "Decent"],
        "GOOD": ["FINE", "DECENT"],
        "fine": ["good"],
        "Fine": ["Good"],
        "FINE": ["GOOD"],
    }
    assert "the" in table_of(source, vocabulary.with_words(["a"])) and table_of(source, vocabulary, ["GOOD"]) == {}
    assert table_of(SynonymTable({}), vocabulary) == {} and table_of(source, Vocabulary([])) == {}


def test_words_are_added_once() -> None:
    source = SynonymTable({"a": ["b"], "b": ["c"], "c": ["d"]})
    vocabulary = Vocabulary.build([["a"]])
    once = vocabulary.with_words(synonyms.words(source, vocabulary))
    assert once.words[3:] == ("a", "b") and synonyms.words(source, once) == []


def test_choices_do_not_depend_on_hash_seeds() -> None:
    code = (
        "from dalipipe.text import Vocabulary, synonyms\n"
        "v = Vocabulary.build([list(synonyms.built_in()._synonyms)[:500]])\n"
        "v = v.with_words(synonyms.words(synonyms.built_in(), v, 'english'))\n"
        "a, b = synonyms.choices(synonyms.built_in(), v, 'english')\n"
        "print(v.identity, synonyms.built_in().identity, a.sum(), b.tolist()[:200])"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("0", "1")
    ]
    assert runs[0] and runs[0] == runs[1]


def test_built_in_table() -> None:
    table = synonyms.open_synonyms("builtin")
    assert isinstance(table, SynonymTable) and len(table) > 2000
    for word, others in table._synonyms.items():
        assert word == word.lower() and others and word not in others and len(set(others)) == len(others)
        for other in others:
            assert word in table.synonyms(other)


def test_files_of_synonyms(tmp_path: Path) -> None:
    path = tmp_path / "mine.tsv"
    path.write_bytes("\ufeff# mine\ngood\tfine, decent,\r\n\nbon\tbeau\ngood\tgreat\n".encode())
    table = synonyms.open_synonyms(path)
    assert table == SynonymTable({"good": ["fine", "decent", "great"], "bon": ["beau"]})
    assert isinstance(table, SynonymTable)
    table.save(tmp_path / "again.tsv.gz")
    again = synonyms.open_synonyms(str(tmp_path / "again.tsv.gz"))
    assert again == table and again.identity == table.identity and pickle.loads(pickle.dumps(table)) == table
    path.write_text("good\tbetter\n")  # looked at again where it has changed
    os.utime(path, ns=(1, 1))
    assert synonyms.open_synonyms(path).synonyms("good") == ("better",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"good\tfine\nbad", "line 2: expected a word, a tab, and synonyms with commas between them, got 'bad'"),
        (b"good\tfine\tx", "line 1: expected a word"),
        (b"\tfine", "line 1: expected a word"),
        (b"a\tb\nc\t\xff", "line 2: no valid UTF-8"),
    ],
)
def test_bad_files_of_synonyms(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.tsv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"bad.tsv, {message}"):
        synonyms.open_synonyms(path)


def test_what_gives_synonyms(tmp_path: Path) -> None:
    class Mine:
        identity = "mine"

        def synonyms(self, word: str) -> list[str]:
            return [word + word]

    assert isinstance(synonyms.open_synonyms(Mine()), Mine)
    assert table_of(Mine(), Vocabulary(["a", "aa"])) == {"a": ["aa"]}
    assert synonyms.open_synonyms({"a": ["b"]}) == SynonymTable({"a": ["b"]})
    with pytest.raises(ValueError, match="got int"):
        synonyms.open_synonyms(3)
    with pytest.raises(ValueError, match=r"or a file called \.tsv or \.tsv\.gz, got 'thesaurus'"):
        synonyms.open_synonyms("thesaurus")
    with pytest.raises(FileNotFoundError):
        synonyms.open_synonyms(tmp_path / "none.tsv")
    with pytest.raises(ValueError, match="a list of synonyms of 'a', got the text 'bc'"):
        SynonymTable({"a": "bc"})
    with pytest.raises(ValueError, match="has a tab or a comma"):
        SynonymTable({"a": ["b,c"]}).save(tmp_path / "x.tsv")


def test_wordnet(monkeypatch: pytest.MonkeyPatch) -> None:
    class Synset:
        def __init__(self, *names: str) -> None:
            self.names = list(names)

        def lemma_names(self) -> list[str]:
            return self.names

        lemmas = lemma_names

    def synsets(word: str, **_: Any) -> list[Synset]:
        return [Synset("good", "full_of_it", "fine"), Synset("fine", "well")] if word == "good" else []

    nltk = types.SimpleNamespace(wordnet=types.SimpleNamespace(synsets=synsets))
    monkeypatch.setitem(sys.modules, "nltk", types.ModuleType("nltk"))
    monkeypatch.setitem(sys.modules, "nltk.corpus", nltk)
    source = synonyms.open_synonyms("wordnet")
    assert list(source.synonyms("good")) == ["fine", "well"] and not source.synonyms("x")
    assert source == WordNet() and pickle.loads(pickle.dumps(source)) == source and isinstance(source, SynonymSource)

    monkeypatch.setitem(sys.modules, "wn", types.SimpleNamespace(synsets=synsets))
    assert list(WordNet("wn", "oewn:2024").synonyms("good")) == ["fine", "well"]

    def lost(word: str, **_: Any) -> None:
        raise LookupError("Resource wordnet not found")

    monkeypatch.setattr(nltk.wordnet, "synsets", lost)
    with pytest.raises(LookupError, match=r'nltk.download\("wordnet"\)'):
        WordNet()
    monkeypatch.setitem(sys.modules, "wn", types.SimpleNamespace(synsets=lost))
    with pytest.raises(LookupError, match=r"wn.download"):
        WordNet("wn")
    monkeypatch.setitem(sys.modules, "nltk.corpus", None)
    with pytest.raises(ImportError, match="pip install nltk"):
        WordNet()
    with pytest.raises(ValueError, match='must be "nltk" or "wn"'):
        WordNet("x")


@pytest.mark.parametrize("block", [1, 7, 1 << 22])
def test_nearest_words(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(synonyms, "_BLOCK", block)
    random = np.random.default_rng(3)
    words = [f"w{i}" for i in range(23)]
    matrix = random.normal(size=(23, 4)).astype(np.float32)
    matrix[5] = 0
    table = nearest_words(words, torch.from_numpy(matrix), k=3, at_least=0.2)
    unit = matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-9)
    alike = unit @ unit.T
    for row, word in enumerate(words):
        order = [i for i in np.argsort(-alike[row], kind="stable") if i != row and alike[row, i] >= 0.2][:3]
        assert list(table.synonyms(word)) == [words[i] for i in order]
    assert nearest_words(["a"], np.ones((1, 2)), k=5).synonyms("a") == ()


def test_bad_matrices() -> None:
    with pytest.raises(ValueError, match=r"a matrix \[2, D\], a row a word, got shape \(3, 4\)"):
        nearest_words(["a", "b"], np.zeros((3, 4)))
    with pytest.raises(ValueError, match="the vector of 'b' \\(row 1\\)"):
        nearest_words(["a", "b"], np.array([[1.0], [np.nan]]))
    with pytest.raises(ValueError, match="k >= 1"):
        nearest_words(["a"], np.ones((1, 1)), k=0)


def test_stop_words() -> None:
    english = stop_words("english")
    assert all(is_stop_word(word, english) for word in ("The", "DON’T", "n't", "of", "it's"))
    assert not any(is_stop_word(word, english) for word in ("film", "good", "Not-so", "."))
    assert stop_words(None) == frozenset() and is_stop_word("film", stop_words(["FILM"]))
    with pytest.raises(ValueError, match="must be \"english\", None or a list of words, got 'german'"):
        stop_words("german")


# --- bags ------------------------------------------------------------------------------------------------------------


def shares(keep: np.ndarray, other: np.ndarray) -> list[float]:
    """What a table draws, exactly: in units of 2^-32 / n."""
    found = [0] * len(keep)
    for entry, (share, instead) in enumerate(zip(keep.tolist(), other.tolist(), strict=True)):
        found[entry] += share
        found[instead] += (1 << 32) - share
    return found


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 5), st.floats(0, 1e30), st.floats(0, 1)), min_size=1, max_size=40))
def test_alias_tables_are_exact(weights: list[float]) -> None:
    if not any(weights):
        with pytest.raises(ValueError, match="not all 0"):
            bags.alias(weights)
        return
    keep, other = bags.alias(weights)
    assert keep.dtype == np.uint32 and other.dtype == np.int32
    n, found = len(weights), shares(keep, other)
    assert sum(found) == n << 32
    for weight, share in zip(weights, found, strict=True):
        assert abs(share / (n << 32) - weight / sum(weights)) <= 2.0**-32
        assert weight > 0 or share == 0


def test_many_weights() -> None:
    weights = np.random.default_rng(0).zipf(1.3, 50_000).astype(float)
    found = np.array(shares(*bags.alias(weights)), np.float64)
    assert np.abs(found / (50_000 << 32) - weights / weights.sum()).max() <= 2.0**-32


@pytest.mark.parametrize("weights", [[], [np.nan], [-1, 2], [np.inf], [[1.0]]])
def test_bad_weights(weights: list[Any]) -> None:
    with pytest.raises(ValueError, match="alias: expected"):
        bags.alias(weights)


def drawn(bag: bags.Bag) -> dict[int, float]:
    """Share of each token."""
    tokens = np.arange(bag.first, bag.first + bag.count) if bag.tokens is None else bag.tokens
    if bag.keep is None:
        return dict.fromkeys(tokens.tolist(), 1 / bag.count)
    assert bag.other is not None
    return {int(t): s / (bag.count << 32) for t, s in zip(tokens, shares(bag.keep, bag.other), strict=True) if s}


def test_bags() -> None:
    texts = [["a", "b", "a", "."], ["a", "c"], ["b", "rare", "a"]]
    vocabulary = Vocabulary.build(texts, np.array([0, 2, 0]), min_count=1).with_words(["later"])
    a, b, dot, c, rare = vocabulary.ids(["a", "b", ".", "c", "rare"]).tolist()
    assert drawn(bags.uniform(vocabulary)) == pytest.approx(dict.fromkeys([a, b, dot, c, rare], 1 / 5))
    assert bags.uniform(vocabulary).tokens is None and drawn(bags.uniform(Vocabulary(["x"]))) == {3: 1}
    by_count = {a: 4 / 9, b: 2 / 9, dot: 1 / 9, c: 1 / 9, rare: 1 / 9}
    assert drawn(bags.by_count(vocabulary)) == pytest.approx(by_count)
    first, second, third = bags.by_class(vocabulary)
    assert drawn(first) == pytest.approx({a: 3 / 7, b: 2 / 7, dot: 1 / 7, rare: 1 / 7})
    assert drawn(second) == pytest.approx(by_count) and drawn(third) == pytest.approx({a: 0.5, c: 0.5})
    assert drawn(bags.of_words(vocabulary, [".", "a"])) == {dot: 0.5, a: 0.5}

    idf = bags.idf(vocabulary)
    assert idf.dtype == np.float32 and len(idf) == len(vocabulary) and idf[PAD] == 0 and idf[a] == 0
    assert idf[b] == pytest.approx(np.log(3 / 2)) and idf[-1] == idf[rare] == pytest.approx(np.log(3))
    score = {a: 0.0, b: 2 * np.log(1.5), dot: np.log(3), c: np.log(3), rare: np.log(3)}
    left = {t: max(score.values()) - s for t, s in score.items()}
    expected = {t: v / sum(left.values()) for t, v in left.items() if v > 1e-6}
    found = {t: s for t, s in drawn(bags.by_tfidf(vocabulary)).items() if s > 1e-6}
    assert found == pytest.approx(expected, rel=1e-5)


def test_bags_of_little() -> None:
    nothing = Vocabulary([])
    for bag in (bags.uniform(nothing), bags.by_count(nothing), bags.by_tfidf(nothing)):
        assert bag.count == 0
    assert not bags.idf(nothing).any()
    alike = Vocabulary.build([["a"], ["b"]])
    assert drawn(bags.by_tfidf(alike)) == {3: 0.5, 4: 0.5}
    with pytest.raises(ValueError, match="no counts by class"):
        bags.by_class(nothing)
    with pytest.raises(ValueError, match="';' is not in the vocabulary"):
        bags.of_words(nothing, [";"])
