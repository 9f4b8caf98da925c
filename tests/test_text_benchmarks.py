"""The benchmarks on texts: every arm trains, and what is timed is told from what does something else."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import dalipipe

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
try:
    import test_text as text_bench
    import text_accuracy
    import text_peers
finally:
    sys.path.remove(str(BENCHMARKS))

TEXTS = [
    f"{noun} , the {adjective} film of {number} was a big , funny and rather long one"
    for number in range(300)
    for noun, adjective in (("critics", "bad"), ("people", "great"), ("doctors", "quick"))
]


@pytest.fixture
def sentences() -> dalipipe.Text:
    return dalipipe.Text(TEXTS, split="space")


def plain(sentences: dalipipe.Text, synonyms: dict[str, list[str]], task: str) -> list[list[str]]:
    words = sorted({*sentences.vocabulary.words, *(other for others in synonyms.values() for other in others)})
    ids = {word: number for number, word in enumerate(words)}
    numbered = {ids[word]: [ids[other] for other in others] for word, others in synonyms.items()}
    editor = text_peers.PlainPython(numbered, seed=0)
    edit = editor.eda if task == "EDA" else editor.swap_and_delete
    return [[words[number] for number in edit([ids[word] for word in text.split()])] for text in TEXTS]


@pytest.mark.parametrize("task", text_bench.POLICIES)
def test_ours_and_plain_python_do_what_is_timed(task: str, sentences: dalipipe.Text) -> None:
    synonyms, before = text_bench.synonyms_of(sentences), [text.split() for text in TEXTS]
    assert synonyms
    ours = text_bench.ours_of(sentences, text_bench.POLICIES[task])
    theirs = plain(sentences, synonyms, task)
    for name, after in (("ours", ours), ("plain", theirs)):
        text_bench.verify(task, name, before, after, synonyms)
    for wrong in (before, before[1:], [[*text, "more"] for text in before], [text[::-1] for text in before]):
        with pytest.raises(AssertionError):
            text_bench.verify(task, "wrong", before, wrong, synonyms)


def test_a_turn_sees_every_sentence_as_often_as_it_says(sentences: dalipipe.Text) -> None:
    policy = text_bench.POLICIES["EDA"]
    assert text_bench.Loader(sentences, policy, 1, copies=3)() == 3 * len(TEXTS)
    assert text_bench.NativeWork(sentences, policy, 1)() == 60 * len(TEXTS)


@pytest.mark.parametrize("arm", text_accuracy.ARMS)
def test_every_arm_trains_from_the_same_weights(arm: str, tmp_path: Path) -> None:
    text_accuracy.made_data(tmp_path)
    text_accuracy.texts.cache_clear()
    settings = text_accuracy.Settings(rows=20, steps=2, batch_size=8)
    found: dict[str, Any] = text_accuracy.run("trec", arm, 0, settings, str(tmp_path))
    assert 0 <= found["accuracy"] <= 100 and found["words"] >= 10
    train, test = text_accuracy.split_of("trec", 0, settings, str(tmp_path))
    assert len(train) == 20 and len(test) == 60
    pilot, rest = text_accuracy.split_of("trec", text_accuracy.PILOT_SEEDS, settings, str(tmp_path))
    assert len(pilot) == 20 and len(rest) == 40
