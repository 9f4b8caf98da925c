"""Tokenizers: the pieces of words are what the tokenizer gives for them; texts that are token ids already."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

tokenizers = pytest.importorskip("tokenizers")
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers  # noqa: E402

import dalipipe  # noqa: E402
from dalipipe.ops import text as ops  # noqa: E402
from dalipipe.records import Tokens  # noqa: E402
from dalipipe.sources import Text  # noqa: E402
from dalipipe.text import MASK, PAD, UNKNOWN, Encoding, Vocabulary  # noqa: E402
from dalipipe.text.subwords import words_of_pieces  # noqa: E402
from dalipipe.text.words import split  # noqa: E402

TEXTS = [
    "the cat sat on the mat , and that was that .",
    "there isn't a better thing than another weather report",
    "unbelievable unfathomable unthinkable thinking sinking ships",
    "crème brûlée für alle 我喜欢北京 👍🏽 (really!)",
]


def word_piece() -> Tokenizer:
    """As BERT's."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(TEXTS * 3, trainers.WordPieceTrainer(vocab_size=160, special_tokens=special))
    ends = [("[CLS]", tokenizer.token_to_id("[CLS]")), ("[SEP]", tokenizer.token_to_id("[SEP]"))]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def byte_level(*, prefix_space: bool = False, roberta: bool = False) -> Tokenizer:
    """As GPT-2's, or RoBERTa's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    special = ["<s>", "<pad>", "</s>", "<mask>"] if roberta else ["<|endoftext|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=360, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    if roberta:
        tokenizer.post_processor = processors.RobertaProcessing(
            ("</s>", tokenizer.token_to_id("</s>")), ("<s>", tokenizer.token_to_id("<s>"))
        )
    return tokenizer


def split_byte_level() -> Tokenizer:
    """As Llama 3's: a pattern of its own, then bytes."""
    tokenizer = byte_level()
    pattern = tokenizers.Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pattern, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    return tokenizer


def unigram(scheme: str = "always") -> Tokenizer:
    """As T5's."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>")
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    return tokenizer


def prepending() -> Tokenizer:
    """As Llama 2's: a normaliser writes the spaces."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"])
    tokenizer.train_from_iterator([word for text in TEXTS * 3 for word in text.split()], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


MAKERS = {
    "WordPiece": word_piece,
    "byte-level": byte_level,
    "byte-level with space": lambda: byte_level(prefix_space=True, roberta=True),
    "byte-level by pattern": split_byte_level,
    "Unigram": unigram,
    "Unigram, first": lambda: unigram("first"),
    "Unigram, never": lambda: unigram("never"),
    "prepending": prepending,
}


@pytest.fixture(scope="module", params=MAKERS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return MAKERS[request.param]()


def row_of(encoding: Encoding, vocabulary: Vocabulary, words: list[str]) -> list[int]:
    """What stands in a batch for a text."""
    starts, pieces = encoding.pieces(vocabulary)
    assert starts.dtype == pieces.dtype == np.int32 and len(starts) == len(vocabulary) + 1 and starts[-1] == len(pieces)
    inside = [int(piece) for t in vocabulary.ids(words) for piece in pieces[starts[t] : starts[t + 1]]]
    return [*encoding.prefix, *inside, *encoding.suffix]


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.text(max_size=20), max_size=4))
def test_pieces_are_the_tokenizers_own(tokenizer: Tokenizer, texts: list[str]) -> None:
    words = [split(text) for text in [*TEXTS, "", *texts]]
    vocabulary = Vocabulary.build(words)
    encoding = Encoding.of(tokenizer)
    for text in words:
        assert row_of(encoding, vocabulary, text) == tokenizer.encode(encoding.given(text), is_pretokenized=True).ids


def test_words_are_given_as_they_are_where_that_is_right() -> None:
    spaced = {name: Encoding.of(make()).spaced for name, make in MAKERS.items()}
    wanted = {"byte-level", "byte-level by pattern", "Unigram, never"}
    assert {name for name, is_spaced in spaced.items() if is_spaced} == wanted
    words = split("He said (no), we 're 我喜 ok!")
    encoding = Encoding.of(byte_level())
    expected = [" He", " said", " (", " no", ")", ",", " we", "'re", "我", "喜", " ok", "!"]
    assert encoding.given(words) == expected
    assert Encoding.of(word_piece()).given(words) == words


def test_spaced_text_is_text_with_a_space_before_it() -> None:
    tokenizer = byte_level()
    text = "there isn't a better thing, than that."
    words = split(text)
    assert row_of(Encoding.of(tokenizer), Vocabulary.build([words]), words) == tokenizer.encode(" " + text).ids


def special(encoding: Encoding) -> list[list[int]]:
    starts, pieces = encoding.pieces(Vocabulary(["a"]))
    return [pieces[starts[t] : starts[t + 1]].tolist() for t in (PAD, UNKNOWN, MASK)]


def test_special_tokens() -> None:
    bert = word_piece()
    encoding = Encoding.of(bert, max_length=12, multiple=4)
    assert (encoding.prefix, encoding.suffix) == ((2,), (3,)) and (encoding.max_length, encoding.multiple) == (12, 4)
    assert encoding.pad == 0 and special(encoding) == [[], [1], [4]]
    roberta = Encoding.of(byte_level(prefix_space=True, roberta=True))
    assert (roberta.prefix, roberta.suffix, roberta.pad) == ((0,), (2,), 1) and special(roberta) == [[], [], [3]]
    gpt = Encoding.of(byte_level())
    assert (gpt.prefix, gpt.suffix, gpt.pad) == ((), (), 0) and special(gpt) == [[], [], []]
    t5 = Encoding.of(unigram())
    assert (t5.prefix, t5.suffix, t5.pad) == ((), (1,), 0) and special(t5) == [[], [2], [2]]
    llama = Encoding.of(prepending())
    assert (llama.prefix, llama.suffix, llama.pad) == ((1,), (), 2) and special(llama) == [[], [0], [0]]


def test_tokenizers_own_settings_stay(tokenizer: Tokenizer) -> None:
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=50)
    before = tokenizer.to_str()
    encoding = Encoding.of(tokenizer)
    words = split(TEXTS[0])
    found = row_of(encoding, Vocabulary.build([words]), words)
    assert tokenizer.to_str() == before and len(found) > 10
    tokenizer.no_truncation()
    tokenizer.no_padding()
    assert found == tokenizer.encode(encoding.given(words), is_pretokenized=True).ids


def test_where_tokenizers_come_from(tmp_path: Path) -> None:
    bert = word_piece()
    bert.save(str(tmp_path / "tokenizer.json"))
    of_file, of_folder = Encoding.of(tmp_path / "tokenizer.json"), Encoding.of(str(tmp_path))
    assert of_file.prefix == of_folder.prefix == (2,) and of_file.pad == of_folder.pad == 0
    config = {"pad_token": "[SEP]", "mask_token": {"content": "[CLS]"}, "eos_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    named = Encoding.of(tmp_path)
    assert (named.pad, named.mask, named.unknown) == (3, 2, 1)

    for missing in ("bert-base-uncased", tmp_path / "none", tmp_path / "none.json"):
        with pytest.raises(FileNotFoundError, match="nothing is downloaded"):
            Encoding.of(missing)
    with pytest.raises(TypeError, match="got int; a slow tokenizer has"):
        Encoding.of(3)


def test_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    names = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=word_piece(), **names)
    words = split(TEXTS[1])
    encoding = Encoding.of(fast)
    assert row_of(encoding, Vocabulary.build([words]), words) == fast(words, is_split_into_words=True)["input_ids"]
    assert (encoding.pad, encoding.mask, encoding.unknown) == (0, 4, 1)
    fast.save_pretrained(tmp_path)
    assert Encoding.of(tmp_path).prefix == (2,)
    gpt = transformers.PreTrainedTokenizerFast(tokenizer_object=byte_level(), eos_token="<|endoftext|>")
    assert Encoding.of(gpt).pad == 0


def test_lengths_that_leave_no_room() -> None:
    with pytest.raises(ValueError, match="max_length must be at least 3, 2 for prefix and suffix and one for the text"):
        Encoding.of(word_piece(), max_length=2)
    with pytest.raises(ValueError, match="max_length must be at least 1, got 0"):
        Encoding(max_length=0)
    with pytest.raises(ValueError, match="multiple must be at least 1"):
        Encoding(multiple=0)


def test_source_with_a_tokenizer(tokenizer: Tokenizer) -> None:
    source = Text([*TEXTS, ""], tokenizer=tokenizer, max_length=20)
    encoding = source.encoding
    rows = [tokenizer.encode(encoding.given(split(text)), is_pretokenized=True).ids for text in [*TEXTS, ""]]
    assert source.lengths.tolist() == [min(20, len(row)) for row in rows] and source.lengths.dtype == np.int64
    again = pickle.loads(pickle.dumps(source))
    assert again.fingerprint() == source.fingerprint() and again.lengths.tolist() == source.lengths.tolist()
    assert np.array_equal(again.encoding.pieces(again.vocabulary)[1], encoding.pieces(source.vocabulary)[1])
    assert Text([*TEXTS, ""], tokenizer=tokenizer).fingerprint() != source.fingerprint()

    assert Text(TEXTS, tokenizer=word_piece()).fingerprint() != Text(TEXTS, tokenizer=unigram()).fingerprint()

    known = Text(["the cat"], vocabulary=source.vocabulary, tokenizer=tokenizer)
    assert known.vocabulary is source.vocabulary
    other = Text(["the dog"], vocabulary=source.vocabulary, tokenizer=tokenizer)  # the numbers are pieces: nothing is
    assert other.vocabulary.words == (*source.vocabulary.words, "dog")  # unknown for want of a word
    assert source.encoding == Text(["x"], tokenizer=source.encoding).encoding


def test_decode() -> None:
    source = Text(["the cat sat on the mat"], tokenizer=word_piece())
    row = row_of(source.encoding, source.vocabulary, split("the cat sat"))
    assert source.decode([*row, 0, 0]) == "the cat sat"
    assert Text(["the cat, sat"]).decode([3, 4, 5, 6, 0, 0]) in ("the cat, sat", ", cat sat the")


def test_without_tokenizers(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"pip install 'dalipipe\[text\]'"):
        Encoding.of("somewhere")
    assert len(Text(["words alone"])) == 1


# --- token ids -------------------------------------------------------------------------------------------------------


def rows_of(source: Text) -> list[list[int]]:
    """Without edits."""
    column = source.read(np.arange(len(source))).columns["text"]
    assert isinstance(column, Tokens)
    starts, pieces = source.encoding.pieces(source.vocabulary)
    rows = []
    for i in range(len(source)):
        inside = [int(p) for t in column[i].tolist() for p in pieces[starts[t] : starts[t + 1]]]
        rows.append([*source.encoding.prefix, *inside, *source.encoding.suffix])
    return rows


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=5), named=st.booleans())
def test_token_ids_come_out_as_they_came(tokenizer: Tokenizer, texts: list[str], named: bool) -> None:
    encoded = [tokenizer.encode(text) for text in [*TEXTS, *texts]]
    ids, of_word = [e.ids for e in encoded], [e.word_ids for e in encoded]
    source = Text.from_token_ids(ids, of_word, list(range(len(ids))), tokenizer=tokenizer if named else None)
    assert rows_of(source) == ids and source.lengths.tolist() == [len(row) for row in ids]
    column = source.read(np.arange(len(ids))).columns["text"]
    assert isinstance(column, Tokens)
    for row, e in enumerate(encoded):  # a word of theirs is a word here
        assert column.lengths[row] == len({word for word in e.word_ids if word is not None})
    assert (source.strings is not None) == named and pickle.loads(pickle.dumps(source)).fingerprint()


def test_names_of_words() -> None:
    bert = word_piece()
    encoded = [bert.encode(text) for text in TEXTS]
    source = Text.from_token_ids([e.ids for e in encoded], [e.word_ids for e in encoded], tokenizer=bert)
    assert {"the", "cat", "unbelievable"} <= set(source.vocabulary.words)
    extended = source.vocabulary.with_words(["sinker"])  # a word that an operator writes: the tokenizer is asked
    starts, pieces = source.encoding.pieces(extended)
    assert pieces[starts[-2] :].tolist() == bert.encode("sinker", add_special_tokens=False).ids
    found = words_of_pieces([[5, 6, 7, 5]], [[0, 0, 1, 2]])
    assert found.numbered.words == ["5 6", "7", "5"] and found.pieces == {"5 6": (5, 6), "7": (7,), "5": (5,)}
    nameless = Text.from_token_ids([[5, 6, 7]], [[0, 0, 1]], pad=9)
    assert nameless.encoding.pad == 9 and nameless.strings is None
    with pytest.raises(ValueError, match="the pieces of 'new' are not known: give the tokenizer"):
        nameless.encoding.pieces(nameless.vocabulary.with_words(["new"]))


def test_names_that_read_alike_are_told_apart() -> None:
    tokenizer = byte_level()
    a, spaced = tokenizer.encode("the").ids, tokenizer.encode(" the").ids
    source = Text.from_token_ids(
        [a + spaced + spaced], [[0] * len(a) + [1] * len(spaced) + [2] * len(spaced)], tokenizer=tokenizer
    )
    assert source.vocabulary.words[3:] == ("the", f"the {' '.join(map(str, a))}") and rows_of(source) == [
        a + spaced * 2
    ]


def test_prefix_suffix_and_padding() -> None:
    ids = [[1, 7, 8, 2, 0, 0], [1, 9, 2, 0, 0, 0], np.array([1, 2, 0, 0, 0, 0])]
    of_word = [[None, 0, 0, None, None, None], [None, 0] + [None] * 4, [None] * 6]
    source = Text.from_token_ids(ids, of_word, max_length=3)
    assert (source.encoding.prefix, source.encoding.suffix) == ((1,), (2,))
    assert rows_of(source) == [[1, 7, 8, 2], [1, 9, 2], [1, 2]] and source.lengths.tolist() == [3, 3, 2]


@pytest.mark.parametrize(
    ("ids", "of_word", "message"),
    [
        ([[1, 2]], [[0]], "record 0: expected as many word ids as ids, got 1 and 2"),
        ([[1, 2], [3]], [[0, 1]], "as many lists of word ids as of ids, got 1 and 2"),
        ([[5], [5, 3, 6]], [[0], [0, None, 1]], "record 1: the id 3 at 1 is of no word, but stands between words"),
        (
            [[1, 5], [4, 5]],
            [[None, 0], [None, 0]],
            r"record 1: expected the ids \(1,\) before the words and \(\) behind",
        ),
        ([], [], "at least one text"),
    ],
)
def test_bad_token_ids(ids: list[Any], of_word: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Text.from_token_ids(ids, of_word)


# What a reader of the contract tried --------------------------------------------------------------------------------


def plain_bpe(**how: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(**how))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator(["a quick brown fox jumps over lazy dogs"] * 9, trainer)
    return tokenizer


def test_dropout_of_a_tokenizer_is_turned_off() -> None:
    given = plain_bpe(dropout=0.5)
    words = "a quick brown fox jumps over lazy dogs".split()
    vocabulary = Vocabulary(words)
    first, second = (Encoding.of(given).pieces(vocabulary) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert any(given.encode("jumps").ids != given.encode("jumps").ids for _ in range(50))  # the user's own goes on


def test_what_stands_around_a_text_is_found_without_the_letter_a() -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=40, special_tokens=["[CLS]", "[SEP]"], show_progress=False)
    tokenizer.train_from_iterator(["我 们 在 家 里"] * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    encoding = Encoding.of(tokenizer)
    assert (encoding.prefix, encoding.suffix) == ((0,), (1,))


def test_an_encoding_that_is_given_takes_new_lengths() -> None:
    encoding = Encoding.of(plain_bpe(), max_length=50, multiple=2)
    kept = Text(["a quick fox"], tokenizer=encoding)
    changed = Text(["a quick fox"], tokenizer=encoding, max_length=3, multiple=8)
    assert (kept.encoding.max_length, kept.encoding.multiple) == (50, 2)
    assert (changed.encoding.max_length, changed.encoding.multiple) == (3, 8)
    for wrong in ({"max_length": "8"}, {"max_length": 8.0}, {"max_length": True}, {"multiple": None}):
        with pytest.raises(ValueError, match="must be a whole number"):
            Encoding(**wrong)


def test_words_cannot_be_hidden_where_no_token_says_so() -> None:
    source = Text(["a quick fox"], tokenizer=plain_bpe())
    with pytest.raises(ValueError, match='no mask token, nor an unknown one: give fill="cut"'):
        dalipipe.DataLoader(source, policy=dalipipe.Policy([ops.SpanMask()]), device="cpu")
    dalipipe.DataLoader(source, policy=dalipipe.Policy([ops.SpanMask(fill="cut")]), device="cpu")
