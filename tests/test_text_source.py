"""Texts in memory: from lists, files of every kind, tables and data sets; what is wrong is told by file and line."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dalipipe
from dalipipe.records import Tokens
from dalipipe.sources import Text
from dalipipe.text import PAD, UNKNOWN, Encoding, Vocabulary
from dalipipe.text.words import split


def words_of(source: Text, rows: Any = None) -> list[list[str]]:
    indices = np.arange(len(source)) if rows is None else np.asarray(rows)
    records = source.read(indices)
    column = records.columns["text"]
    assert isinstance(column, Tokens) and not records.errors and not column.on_cuda
    assert records.columns["length"].tolist() == [0] * len(indices)  # type: ignore[union-attr]
    return [source.vocabulary.words_of(column[i]) for i in range(len(indices))]


def file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# --- lists -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=8), st.data())
def test_texts_come_as_their_words(texts: list[str], data: st.DataObject) -> None:
    source = Text(texts, list(range(len(texts))))
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=9))
    assert words_of(source, np.array(rows, np.int64)) == [split(texts[row]) for row in rows]
    assert source.lengths.tolist() == [len(split(text)) for text in texts] and source.lengths.dtype == np.int64
    assert source.strings == texts and len(source) == len(texts)


def test_fields() -> None:
    source = Text(["a b", "", "b"], ["x", "y", "x"], weight=np.array([0.5, 1, 2], np.float32), side=[[1, 2]] * 3)
    assert source.schema.names == ("text", "length", "label", "weight", "side") and source.in_memory
    field = source.schema.fields[0]
    assert (field.kind, field.length) == ("text", "length") and field.vocabulary is source.vocabulary
    assert field.encoding == Encoding() and source.classes == ["x", "y"]
    assert source.labels is not None and source.labels.tolist() == [0, 1, 0] and source.labels.dtype == np.int64
    columns = source.read(np.array([2, 0])).columns
    assert columns["weight"].tolist() == [2, 0.5] and columns["side"].shape == (2, 2)  # type: ignore[union-attr]
    assert columns["label"].tolist() == [0, 0]  # type: ignore[union-attr]
    assert repr(source) == "Text(3 texts of 0–2 words, 5 kinds, 2 classes)" and source.describe(1) == "record 1"
    assert dalipipe.Text is Text
    assert Text(["a"]).schema.names == ("text", "length") and Text(["a"]).labels is None


def test_counts_by_class() -> None:
    vocabulary = Text(["a b a", "b", "c"], ["x", "y", "y"]).vocabulary
    assert vocabulary.words[3:] == ("a", "b", "c") and vocabulary.class_counts is not None
    assert vocabulary.class_counts[:, 3:].tolist() == [[2, 1, 0], [0, 1, 1]] and vocabulary.documents[4] == 2
    for labels in ([0.5, 1], [-1, 0], [1 << 40, 0], [[0, 1], [1, 0]]):
        assert Text(["a", "b"], labels).vocabulary.class_counts is None


def test_lower_case_and_splitting() -> None:
    assert words_of(Text(["The Cat."], lower=True)) == [["the", "cat", "."]]
    assert words_of(Text(["The Cat."], split="space")) == [["The", "Cat."]]
    assert words_of(Text(["ab c"], split="characters")) == [["a", "b", "c"]]
    assert words_of(Text(["a|b"], split=lambda text: text.split("|"))) == [["a", "b"]]
    assert words_of(Text(["a b"], split=lambda text: tuple(text.split()))) == [["a", "b"]]


def test_vocabularies() -> None:
    texts = ["a a a b b c", "a d"]
    assert words_of(Text(texts, min_count=2)) == [["a", "a", "a", "b", "b", "<unk>"], ["a", "<unk>"]]
    few = Text(texts, most=1)
    assert few.vocabulary.words[3:] == ("a",) and few.vocabulary.counts[UNKNOWN] == 4
    test = Text(["b d e"], vocabulary=Vocabulary(["e", "d"]))
    assert words_of(test) == [["<unk>", "d", "e"]] and test.lengths.tolist() == [3]
    again = few.with_vocabulary(Vocabulary(["d", "c", "b"]))  # words that were unknown are known again
    assert words_of(again) == [["<unk>"] * 3 + ["b", "b", "c"], ["<unk>", "d"]]
    assert words_of(few)[1] == ["a", "<unk>"] and again.fingerprint() != few.fingerprint()
    assert again.schema.fields[0].vocabulary is again.vocabulary
    assert words_of(Text(["b b"], vocabulary=Vocabulary([]))) == [["<unk>", "<unk>"]]


def test_rows_have_a_longest_length() -> None:
    source = Text(["a b c", "", "d"], max_length=2, multiple=8)
    assert source.lengths.tolist() == [2, 0, 1] and source.encoding == Encoding(max_length=2, multiple=8)


def test_decode() -> None:
    source = Text(["The cat, it's here!"])
    ids = source.read(np.array([0])).columns["text"][0]  # type: ignore[index]
    assert source.decode([*ids, PAD, PAD]) == "The cat, it's here!"


def test_fingerprint_and_pickle() -> None:
    source = Text(["a b", "c"], [0, 1])
    assert source.fingerprint() == Text(["a b", "c"], [0, 1]).fingerprint()
    others = [
        Text(["c", "a b"], [0, 1]),
        Text(["a b", "d"], [0, 1]),
        Text(["a", "b c"], [0, 1]),
        Text(["a b", "c"], [1, 0]),
        Text(["a b", "c"]),
        Text(["a b", "c"], [0, 1], max_length=1),
    ]
    assert len({other.fingerprint() for other in [source, *others]}) == len(others) + 1
    again = pickle.loads(pickle.dumps(source))
    assert again.fingerprint() == source.fingerprint() and again.labels is again.columns["label"]
    assert again.schema == source.schema and words_of(again) == [["a", "b"], ["c"]]
    unpicklable = Text(["a b"], split=lambda text: text.split())  # split once, and no longer needed
    assert words_of(pickle.loads(pickle.dumps(unpicklable))) == [["a", "b"]]


def _spawned(source: Text, queue: Any) -> None:
    queue.put((source.fingerprint(), words_of(source)))


def test_spawned_processes_have_it() -> None:
    context = multiprocessing.get_context("spawn")
    queue, source = context.Queue(), Text(["crème brûlée", "👍🏽"], ["x", "y"])
    process = context.Process(target=_spawned, args=(source, queue))
    process.start()
    assert queue.get(timeout=60) == (source.fingerprint(), [["crème", "brûlée"], ["👍🏽"]])
    process.join()


def test_long_texts() -> None:
    long = " ".join(f"w{i % 977}" for i in range(100_000))
    source = Text([long, "", "w1"])
    assert source.lengths.tolist() == [100_000, 0, 1] and words_of(source, [0])[0] == long.split()


def test_a_loader_takes_columns_by_name() -> None:
    assert Text(["a"], label_2=[1]).schema.names[-1] == "label_2"
    for name in ("text", "length", "indices", "class", "_x"):
        with pytest.raises((ValueError, TypeError), match=f"{name}"):
            Text(["a"], **{name: [1]})


@pytest.mark.parametrize(
    ("texts", "how", "error", "message"),
    [
        ([], {}, ValueError, "at least one text"),
        ("text", {}, ValueError, r"a list of texts, got one: Text\(\[text\]\)"),
        (["a", None], {}, ValueError, r"record 1: expected a text, got 'None' \(NoneType\)"),
        (["a", 3.5], {}, ValueError, r"record 1: expected a text, got '3.5' \(float\)"),
        (["a", b"b"], {}, ValueError, r"record 1: expected a text"),
        (["a", "b\ud800"], {}, ValueError, "record 1: no valid Unicode: surrogates not allowed, at character 1"),
        (["a", "b"], {"labels": [0]}, ValueError, "2 texts but 1 of label"),
        (["a", "b"], {"labels": [0, None]}, ValueError, "record 1: no label: give it one, or leave the text out"),
        (["a", "b"], {"labels": ["x", None]}, ValueError, "record 1: no label"),
        (["a", "b"], {"labels": [0.0, float("nan")]}, ValueError, "record 1: no label"),
        (["a", "b"], {"labels": np.array([1.0, np.nan])}, ValueError, "record 1: no label"),
        (
            ["a", "b"],
            {"labels": ["x", "z"], "classes": ["x"]},
            ValueError,
            "record 1: label 'z' is none of the 1 classes",
        ),
        (["a", "b"], {"labels": [0, 2], "classes": ["x", "y"]}, ValueError, "labels run from 0 to 2, but there are 2"),
        (["a", "b"], {"w": [1]}, ValueError, "2 texts but 1 of w"),
        (["a"], {"w": ["x"]}, TypeError, "w must be numbers"),
        (["a"], {"split": "x"}, ValueError, "split must be one of"),
        (["a", "b"], {"split": lambda text: text}, ValueError, "record 0: split must give a list of str, got 'a'"),
        (["a"], {"split": lambda text: [1]}, ValueError, r"record 0: split must give a list of str, got '\[1\]'"),
        (["a"], {"max_length": 0}, ValueError, "max_length must be at least 1"),
        (["a"], {"tokenizer": "no/such/folder"}, FileNotFoundError, "nothing is downloaded"),
        (["a"], {"min_count": 0}, ValueError, "min_count must be at least 1"),
        (["a"], {"most": -1}, ValueError, "most must be at least 0"),
    ],
)
def test_bad_lists(texts: Any, how: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Text(texts, **how)


# --- files -----------------------------------------------------------------------------------------------------------


def test_lines(tmp_path: Path) -> None:
    source = Text.open(file(tmp_path, "a.txt", "\ufeffone two\r\n\nthree\x0cfour\u2028five\n"))
    assert source.strings == ["one two", "", "three\x0cfour\u2028five"] and source.labels is None
    assert source.describe(2) == f"{tmp_path / 'a.txt'}, line 3" and source.lengths.tolist() == [2, 0, 3]
    assert Text.open(file(tmp_path, "b.txt", "no end")).strings == ["no end"]


def test_tabs(tmp_path: Path) -> None:
    source = Text.open(file(tmp_path, "a.tsv", '1\tsays "no\n\n0\t\n1\tb , c'))
    assert source.strings == ['says "no', "", "b , c"] and source.labels is not None
    assert source.labels.tolist() == [1, 0, 1] and source.classes is None
    assert [source.describe(row).rpartition(" ")[2] for row in range(3)] == ["1", "3", "4"]
    named = Text.open(file(tmp_path, "b.tsv", "label\ttext\nneg\tbad\npos\tgood\n"))
    assert named.strings == ["bad", "good"] and named.classes == ["neg", "pos"]
    assert Text.open(file(tmp_path, "c.tsv", "alone\nhere\n")).strings == ["alone", "here"]


def test_commas(tmp_path: Path) -> None:
    content = 'text,label,score\n"a, ""b""\nc",x,0.5\n\nd,y,2\n'
    source = Text.open(file(tmp_path, "a.csv", content), columns=["score"])
    assert source.strings == ['a, "b"\nc', "d"] and source.classes == ["x", "y"]
    assert source.columns["score"].tolist() == [0.5, 2] and source.describe(1).endswith("line 5")
    by_number = Text.open(file(tmp_path, "b.csv", "3,t,words here\n4,u,more\n"), text=2, label=0, columns=[0])
    assert by_number.strings == ["words here", "more"] and by_number.labels is not None
    assert by_number.labels.tolist() == [3, 4] and by_number.columns["column_0"].tolist() == [3, 4]
    assert Text.open(tmp_path / "b.csv", text=1, label=None, header=True).strings == ["u"]
    plain = Text.open(file(tmp_path, "c.csv", "text,label\nx,y\n"), header=False, text=0, label=1)
    assert plain.strings == ["text", "x"]
    classes = ["10", "2"]
    numbered = Text.open(file(tmp_path, "d.tsv", "2\ta\n10\tb\n"), classes=classes)
    assert numbered.labels is not None and numbered.labels.tolist() == [1, 0] and numbered.classes == classes
    real = Text.open(file(tmp_path, "e.tsv", "2.5\ta\n1\tb\n"))
    assert real.labels is not None and real.labels.tolist() == [2.5, 1]


def test_cells_may_be_long(tmp_path: Path) -> None:
    import csv

    before = csv.field_size_limit()
    long = "word " * 100_000
    assert Text.open(file(tmp_path, "a.csv", f"1,{long}\n")).lengths.tolist() == [100_000]
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("ending", [".jsonl", ".json"])
def test_json(tmp_path: Path, ending: str) -> None:
    items = [{"body": "a b", "label": "x", "n": 1}, {"body": "", "label": "y", "n": 2, "more": None}]
    lines = "\n".join(json.dumps(item) for item in items) + "\n\n"
    source = Text.open(file(tmp_path, f"a{ending}", lines), text="body", columns=["n"])
    assert source.strings == ["a b", ""] and source.classes == ["x", "y"] and source.columns["n"].tolist() == [1, 2]
    whole = Text.open(file(tmp_path, f"b{ending}", json.dumps(items)), text="body", label=None)
    assert whole.strings == ["a b", ""] and whole.labels is None
    assert Text.open(file(tmp_path, f"c{ending}", '{"text": "a"}')).labels is None


def test_tables(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.feather
    import pyarrow.parquet

    table = pa.table({"text": ["a b", "c"], "label": [1, 0], "score": [0.5, 1.5]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    pyarrow.feather.write_feather(table, tmp_path / "a.arrow", compression="uncompressed")
    with pa.OSFile(str(tmp_path / "b.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    for given_ in (table, tmp_path / "a.parquet", tmp_path / "a.arrow", tmp_path / "b.arrow"):
        source = Text.open(given_, columns=["score"])
        assert source.strings == ["a b", "c"] and source.labels is not None and source.labels.tolist() == [1, 0]
        assert source.columns["score"].tolist() == [0.5, 1.5] and source.describe(1).endswith("row 1")
    with pytest.raises(ValueError, match=r"a.parquet has no column 'body'; it has 'text', 'label', 'score'"):
        Text.open(tmp_path / "a.parquet", text="body")
    with pytest.raises(ValueError, match="row 1: expected a text, got 'None'"):
        Text.open(pa.table({"text": ["a", None]}))
    with pytest.raises(ValueError, match="row 0: no label"):
        Text.open(pa.table({"text": ["a"], "label": pa.array([None], pa.int64())}))
    with pytest.raises(ValueError, match=r"x\.parquet cannot be read as a table"):
        Text.open(file(tmp_path, "x.parquet", "no table"))


def test_hugging_face(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "kind": datasets.ClassLabel(names=["neg", "pos"])}
    )
    rows = {"sentence": ["bad", "good", "nice"], "kind": [0, 1, 1]}
    data = datasets.Dataset.from_dict(rows, features=features)
    source = Text.open(data.select([2, 0]), text="sentence", label="kind")
    assert source.strings == ["nice", "bad"] and source.classes == ["neg", "pos"]
    assert source.labels is not None and source.labels.tolist() == [1, 0]
    assert Text.open(data.with_format("torch"), text="sentence", label=None).strings == ["bad", "good", "nice"]
    data.to_parquet(str(tmp_path / "a.parquet"))
    assert Text.open(tmp_path / "a.parquet", text="sentence", label="kind").classes == ["neg", "pos"]
    with pytest.raises(ValueError, match="got a DatasetDict: give one of its splits, 'train'"):
        Text.open(datasets.DatasetDict({"train": data}))
    with pytest.raises(ValueError, match="got a IterableDataset"):
        Text.open(data.to_iterable_dataset())
    unlabelled = datasets.Dataset.from_dict({"sentence": ["a"], "kind": [-1]}, features=features)
    with pytest.raises(ValueError, match="labels run from -1 to -1, but there are 2 classes"):
        Text.open(unlabelled, text="sentence", label="kind")


@pytest.mark.parametrize(
    ("name", "content", "how", "message"),
    [
        ("a.txt", "", {}, "a.txt: expected at least one text, got none"),
        ("a.txt", b"good\n\nb\xffd\n", {}, 'a.txt, line 3: no valid UTF-8 .*0xff.*errors="replace"'),
        ("a.csv", "", {}, "a.csv: expected at least one text"),
        ("a.csv", "text,label\n", {}, "a.csv: expected at least one text"),
        ("a.csv", "1,a\n\n2,b,c\n", {}, "a.csv, line 3: expected 2 columns, as line 1 has, got 3: a text with commas"),
        ("a.tsv", "1\ta\n2\n", {}, "a.tsv, line 2: expected 2 columns, as line 1 has, got 1$"),
        ("a.csv", 'text,label\na,1\n"b,2\n', {}, "a.csv, line 3: no comma-separated values"),
        (
            "a.tsv",
            "1\ta\n \tb\n",
            {},
            "a.tsv, line 2: no label: give it one, or leave the line out, or give label=None",
        ),
        ("a.tsv", "cat\ta\ndog\tb\n", {"classes": ["cat"]}, "a.tsv, line 2: label 'dog' is none of the 1 classes"),
        ("a.tsv", "sentence\tlabel\na\t1\n", {}, "a.tsv has no column 'text'; its first line is 'sentence', 'label'"),
        ("a.tsv", "Review\tSentiment\na\t1\n", {}, "no column 'text'; its first line is 'Review', 'Sentiment'"),
        ("a.tsv", "x\ty\na\t1\n", {"text": "body"}, "no column 'body'; its first line is 'x', 'y'"),
        ("a.csv", "1,a,b\n", {}, "a.csv has 3 columns without names, from '1': say by number"),
        ("a.csv", "1,a\n", {"text": 2}, "a.csv has no column 2; it has 2, from 0"),
        ("a.csv", "1,a\n", {"text": 1, "label": "x"}, "a.csv has no column 'x': its columns have no names"),
        ("a.csv", "text,x,x\na,1,2\n", {"label": "x"}, "a.csv has several columns 'x'"),
        ("a.csv", "text,n\na,1\nb,c\n", {"columns": ["n"]}, "a.csv, line 3: column 'n' must be numbers, got 'c'"),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', {}, "a.jsonl, line 2: no JSON"),
        ("a.jsonl", '{"text": "a"}\n3\n', {}, "a.jsonl, line 2: expected an object with keys, got '3'"),
        ("a.jsonl", '{"text": "a"}\n{"body": "a"}\n', {}, "a.jsonl, line 2: no 'text'; it has 'body'"),
        ("a.jsonl", '{"text": 3}\n', {}, r"a.jsonl, line 1: expected a text, got '3' \(int\)"),
        ("a.jsonl", '{"text": "\\ud800"}\n', {}, "a.jsonl, line 1: no valid Unicode"),
        ("a.jsonl", '{"text": "a", "label": null}\n', {}, "a.jsonl, line 1: no label"),
        ("a.json", "[1, 2", {}, "a.json: no JSON"),
        ("a.json", "[1, 2]", {}, "a.json, item 1: expected an object with keys, got '1'"),
        ("a.json", '[{"text": "a"}, {"text": "b", "label": 1}]', {}, "a.json, item 1: no 'label'; it has 'text'"),
        ("a.doc", "x", {}, "expected a file called .txt, .csv"),
        ("a.txt", "x", {"errors": "ignore"}, 'errors must be "strict" or "replace"'),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: str | bytes, how: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Text.open(file(tmp_path, name, content), **how)


def test_other_bytes_are_replaced_where_that_is_asked_for(tmp_path: Path) -> None:
    assert Text.open(file(tmp_path, "a.txt", b"b\xffd"), errors="replace").strings == ["b\ufffdd"]


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Text.open(tmp_path / "none.txt")
    with pytest.raises(TypeError, match=r"got list; lists of texts go to Text\(texts, labels\)"):
        Text.open(["a"])


def test_real_sentences(real_data: Path, tmp_path: Path) -> None:
    archive = real_data / "text_classification.tar"
    if not archive.is_file():
        pytest.skip(f"no {archive}")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    for name, count, classes in (("trec_train", 5452, 6), ("trec_test", 500, 6), ("sst2_train", 7791, 2)):
        path = tmp_path / "text" / f"{name}.tsv"
        source = Text.open(path)
        lines = path.read_text("utf-8").removesuffix("\n").split("\n")
        assert len(source) == count == len(lines) and source.labels is not None
        assert np.unique(source.labels).tolist() == list(range(classes))
        assert source.strings == [line.split("\t")[1] for line in lines]
        flat = Text.open(path, split="space")
        assert flat.lengths.tolist() == [len(line.split("\t")[1].split()) for line in lines]


@pytest.mark.parametrize("first", ["tweet,sentiment", "review,stars", "Text,Label", "sentence,class"])
def test_what_looks_like_a_header_is_not_taken_for_a_text(tmp_path: Path, first: str) -> None:
    path = tmp_path / "some.csv"
    path.write_text(f"{first}\ngood day,pos\nbad day,neg\n")
    with pytest.raises(ValueError, match="name its columns by text= and label="):
        Text.open(path)
    text, label = first.split(",")
    assert Text.open(path, text=text, label=label).classes == ["neg", "pos"]
