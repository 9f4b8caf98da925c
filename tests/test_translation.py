"""Back-translation: translators, what they draw, the cache, packs of texts and training on them.

No quality of translation is measured here: a small model learns a language that is English word for word, backwards.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy_language as toy
from typer.testing import CliRunner

import dalipipe
from dalipipe import Policy, Text, packing
from dalipipe.cli.app import app
from dalipipe.ops.text import BackTranslation, RandomDeletion, RandomSwap, SpanMask
from dalipipe.sources import PackError, is_pack, open_source
from dalipipe.translation import HFTranslator, RoundTrip, TranslationCache


class Backwards:
    """Words in reverse order, some of them others: each drawn word by the text's key."""

    def __init__(self, name: str = "there", others: dict[str, str] | None = None) -> None:
        self.name, self.others = name, others or {}
        self.asked: list[str] = []
        self.stop_after: int | None = None

    def translate(
        self, texts: Sequence[str], *, temperature: float = 0.0, top_p: float = 1.0, keys: Sequence[int] | None = None
    ) -> list[str]:
        if self.stop_after is not None and len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        self.asked += texts
        made = [" ".join(self.others.get(word, word) for word in reversed(text.split())) for text in texts]
        if temperature > 0 and keys is not None:
            made = [f"{text} {key % 1000}" for text, key in zip(made, keys, strict=True)]
        return made


def pair() -> tuple[Backwards, Backwards]:
    return Backwards("there"), Backwards("back", {"so": "very", "glad": "happy"})


def texts() -> Text:
    said = ["I am so glad", "that is  all", "so so", "", "it works so well!", "Grüße, 世界"] * 4
    return Text(said, ["a", "b", "a", "b", "b", "c"] * 4, weight=np.arange(24, dtype=np.float32) / 7)


def lines(folder: Path, copy: int = 0) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"text-{copy:03d}.jsonl").read_text("utf-8").splitlines()]


# Round trips --------------------------------------------------------------------------------------------------------


def test_a_round_trip_and_what_it_drops() -> None:
    there, back = pair()
    trip = RoundTrip(there, back)
    assert trip(["I am so glad", "that is  all", "THAT is all", " ", ""]) == ["I am very happy", None, None, None, None]
    assert there.asked == ["I am so glad", "that is  all", "THAT is all"], "blank texts are not translated"
    assert trip([]) == []
    seen: list[tuple[int, int]] = []
    trip(["a b", "b a", "a b"], progress=lambda done, of: seen.append((done, of)))
    assert seen == [(0, 2), (2, 2)], "a text that is there twice is translated once"

    class Short(Backwards):
        def translate(self, texts: Sequence[str], **kw: Any) -> list[str]:
            return ["one"]

    with pytest.raises(ValueError, match="there: expected 2 translations, got 1"):
        RoundTrip(Short(), back)(["a", "b"])
    with pytest.raises(TypeError, match="expected a translator"):
        RoundTrip(3, back)


def test_what_is_drawn_depends_on_text_seed_and_copy_alone(tmp_path: Path) -> None:
    trip = RoundTrip(*pair(), temperature=0.9)
    one = trip(["a b", "c d"], seed=1)
    assert trip(["x", "c d", "a b"], seed=1)[1:] == one[::-1]
    others = [trip(["a b"], seed=2), trip(["a b"], seed=1, copy=1)]
    assert len({one[0], *(other[0] for other in others)}) == 3
    assert RoundTrip(*pair()).identity != trip.identity
    assert RoundTrip(*pair(), temperature=0.9, top_p=0.5).identity != trip.identity


def test_the_cache_spares_models_and_what_came_first_stays(tmp_path: Path) -> None:
    there, back = pair()
    first = RoundTrip(there, back, cache=tmp_path / "kept")(["so it is", "yes"])
    again_there, again_back = pair()
    again = RoundTrip(again_there, again_back, cache=tmp_path / "kept")
    assert again(["yes", "so it is"]) == first[::-1] and not again_there.asked
    assert again(["so it is", "new"], seed=5, copy=3) == [first[0], None], "nothing is drawn: each copy is the same"
    assert again_there.asked == ["new"]
    drawn = RoundTrip(again_there, again_back, temperature=1.0, cache=tmp_path / "kept")
    assert drawn(["so it is"], copy=1) != drawn(["so it is"], copy=2)
    other = RoundTrip(Backwards("another"), again_back, cache=tmp_path / "kept")
    assert other(["yes"]) == [None] and other.forward.asked == ["yes"], "another translator's are not taken"
    cache = TranslationCache(tmp_path / "kept")
    cache.put({b"k": "1"})
    cache.put({b"k": "2"})
    assert cache.get([b"k", b"none"]) == {b"k": "1"}
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "translations.sqlite").write_bytes(b"no database, but something else" * 99)
    with pytest.raises(ValueError, match=r"translations.sqlite: damaged, or no cache"):
        TranslationCache(tmp_path / "bad").get([b"k"])


def _fill(folder: str, number: int) -> None:
    for i in range(50):
        TranslationCache(folder).put({f"{i}".encode(): f"{i} by {number}", f"{number}-{i}".encode(): "own"})


def test_several_processes_share_a_cache(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_fill, args=(str(tmp_path), number)) for number in range(3)]
    for one in writers:
        one.start()
    for one in writers:
        one.join(120)
        assert one.exitcode == 0
    with sqlite3.connect(tmp_path / "translations.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM texts").fetchone() == (200,)


# Models ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> Any:
    pytest.importorskip("transformers")
    return toy.untrained()


def test_what_a_model_draws_does_not_depend_on_the_batch(model: Any) -> None:
    said, keys = toy.sentences(40, 3), list(range(1, 41))
    translators = [
        HFTranslator(model, toy.tokenizer(), tokens=tokens, device="cpu", most=12) for tokens in (7, 60, 9999)
    ]
    made = [one.translate(said, temperature=2.0, top_p=0.9, keys=keys) for one in translators]
    assert made[0] == made[1] == made[2], "in batches of 1, of some and of all"
    assert made[0][::-1] == translators[1].translate(said[::-1], temperature=2.0, top_p=0.9, keys=keys[::-1])
    state = torch.get_rng_state()
    other = translators[1].translate(said, temperature=2.0, top_p=0.9, keys=[key + 99 for key in keys])
    assert torch.equal(state, torch.get_rng_state()), "torch's generator is left alone"
    assert sum(a != b for a, b in zip(other, made[0], strict=True)) > 30
    best = translators[2].translate(said)
    assert best == translators[0].translate(said)
    assert translators[2].translate(said, temperature=1e-4, keys=keys) == best, "hardly any temperature: the best"
    assert translators[2].translate(said, temperature=5.0, top_p=1e-9, keys=keys) == best
    assert translators[2].translate([]) == [] and translators[2].translate([" "]) == [" "]
    assert translators[2].translate([" ".join(["cat"] * 30)]) == [" ".join(["cat"] * 30)], "too long: as it is"


def test_words_are_drawn_as_likely_as_the_model_thinks() -> None:
    from dalipipe.translation.hugging_face import _Drawing

    likely = torch.tensor([0.05, 0.5, 0.15, 0.3])
    scores = torch.log(likely)[None].expand(20_000, 4)
    for place in (1, 2):
        drawn = _Drawing(list(range(20_000)), 1.0, 1.0)(torch.zeros(20_000, place), scores).argmax(1)
        np.testing.assert_allclose(torch.bincount(drawn, minlength=4) / 20_000, likely, atol=0.015)
    few = _Drawing(list(range(20_000)), 1.0, 0.7)(torch.zeros(20_000, 3), scores).argmax(1)
    np.testing.assert_allclose(torch.bincount(few, minlength=4) / 20_000, [0, 5 / 8, 0, 3 / 8], atol=0.015)
    hot = _Drawing(list(range(20_000)), 2.0, 1.0)(torch.zeros(20_000, 3), scores).argmax(1)
    np.testing.assert_allclose(
        torch.bincount(hot, minlength=4) / 20_000, likely.sqrt() / likely.sqrt().sum(), atol=0.02
    )


def test_models_are_told_apart_and_come_from_this_machine(model: Any, tmp_path: Path) -> None:
    folder = toy.saved(model, tmp_path / "model")
    from_folder = HFTranslator(folder, device="cpu", most=12)
    built = HFTranslator(model, toy.tokenizer(), device="cpu", most=12)
    said = toy.sentences(10, 5)
    assert from_folder.name == folder and from_folder.translate(said) == built.translate(said)
    assert from_folder.identity == built.identity
    assert from_folder.identity != HFTranslator(folder, device="cpu", most=12, beams=2).identity
    assert from_folder.identity != HFTranslator(toy.untrained(1), toy.tokenizer(), device="cpu", most=12).identity
    again = pickle.loads(pickle.dumps(from_folder))
    assert again.translate(said) == built.translate(said)
    with pytest.raises(FileNotFoundError, match=r"there is no folder Helsinki-NLP/opus-mt-en-de; .* never downloaded"):
        HFTranslator("Helsinki-NLP/opus-mt-en-de")
    with pytest.raises(ValueError, match="needs its tokenizer"):
        HFTranslator(model)
    with pytest.raises(ValueError, match="beams must be a whole number"):
        HFTranslator(folder, beams=0)
    with pytest.raises(ValueError, match="temperature must be at least 0"):
        built.translate(said, temperature=-1)


@pytest.mark.slow
def test_a_model_that_has_learnt_a_language_brings_texts_back(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    folder = toy.saved(toy.trained(), tmp_path / "model")
    said = toy.sentences(300, 12345)
    greedy = HFTranslator(folder, device="cpu")
    there = greedy.translate(said)
    right = sum(made == toy.translated(text) for made, text in zip(there, said, strict=True))
    assert right >= 285
    beams = HFTranslator(folder, device="cpu", beams=3).translate(said)
    assert sum(made == toy.translated(text) for made, text in zip(beams, said, strict=True)) >= 285
    assert RoundTrip(folder, folder)(said).count(None) >= 280, "they come back the same, and so are dropped"
    varied = RoundTrip(folder, folder, temperature=1.5)
    copies = [varied(said, copy=copy) for copy in range(2)]
    assert copies[0] != copies[1] and copies == [varied(said, copy=copy) for copy in range(2)]
    changed = [(text, back) for text, back in zip(said, copies[0], strict=True) if back is not None]
    assert 15 < len(changed) < 280, "some are put in other words"
    kept = [len(set(text.split()) & set(back.split())) / len(set(text.split())) for text, back in changed]
    assert np.mean(kept) > 0.3, "and hold on to others"
    policy = Policy([BackTranslation(folder, folder, temperature=1.5)])
    packing.pack(Text(said), tmp_path / "packed", policy=policy, copies=2)
    assert [each["text"] for each in lines(tmp_path / "packed", 1)] != said


# The operator ---------------------------------------------------------------------------------------------------------


def test_policies_go_by_the_translators_names(tmp_path: Path) -> None:
    there, back = pair()
    op = BackTranslation(there, back, temperature=0.9, p=0.5)
    named = BackTranslation("there", "back", temperature=0.9, p=0.5)
    assert op == named and hash(op) == hash(named) and repr(op) == repr(named)
    assert op.translators == (there, back) and named.translators == ("there", "back")
    policy = Policy([op, RandomSwap()])
    assert Policy.from_dict(json.loads(json.dumps(policy.to_dict()))) == policy
    assert dalipipe.load_policy(dalipipe.save_policy(policy, tmp_path / "policy.yaml")) == policy
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert op != BackTranslation(there, back, temperature=0.8, p=0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, "back"), "forward must be the folder of a model, or a translator with a name, got 3"),
        (("there", ""), "backward must be the folder"),
        (("there", "back", -1.0), r"temperature must be a number in \[0, 100\], got -1.0"),
        (("there", "back", float("nan")), "temperature must be a number"),
        (("there", "back", 1.0, 0.0), "top_p must be a number"),
        (("there", "back", "hot"), "temperature must be a number"),
    ],
)
def test_bad_fields_are_named(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"BackTranslation: {message}"):
        BackTranslation(*arguments)


def test_in_training_the_way_is_said() -> None:
    with pytest.raises(ValueError, match=r"BackTranslation.* apply it once, dalipipe.pack\(texts, folder"):
        dalipipe.DataLoader(texts(), 4, policy=Policy([BackTranslation(*pair())]), device="cpu")


# Packs ----------------------------------------------------------------------------------------------------------------


def test_a_pack_is_what_the_whole_policy_draws(tmp_path: Path) -> None:
    source = texts()
    policy = Policy([BackTranslation(*pair(), p=0.6), RandomSwap(0.5)])
    seen: list[packing.Progress] = []
    report = packing.pack(source, tmp_path / "p", policy=policy, split_at=1, copies=3, seed=7, progress=seen.append)
    assert (report.records, report.copies, report.format) == (24, 3, "text")
    assert seen[-1].records == seen[-1].of_records == 72 and seen[-1].left_s == 0
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == [
        "pack.json",
        "text-000.jsonl",
        "text-001.jsonl",
        "text-002.jsonl",
    ]
    applied = []
    for copy in range(3):
        drawn = policy.draw(dalipipe.orders.rng.make_key(7, copy), np.arange(24), np.zeros((24, 1), np.int64))[0]
        there, back = pair()
        expected = RoundTrip(there, back)(source.strings or [])
        made = lines(tmp_path / "p", copy)
        applied.append(drawn.applied.tolist())
        for row, each in enumerate(made):
            before = (source.strings or [])[row]
            assert each["text"] == ((expected[row] or before) if drawn.applied[row] else before)
            assert each["label"] == source.labels[row]  # type: ignore[index]
            assert np.float32(each["weight"]) == source.columns["weight"][row]
    assert applied[0] != applied[1] != applied[2], "copies differ by what is drawn"

    packed = Text.open(tmp_path / "p")
    assert len(packed) == 24 and packed.copies == 3 and packed.front == policy.split(1)[0]
    assert packed.classes == ["a", "b", "c"] and packed.labels.tolist() == source.labels.tolist()  # type: ignore[union-attr]
    assert packed.columns["weight"].dtype == np.float32
    assert isinstance(open_source(tmp_path / "p"), Text) and is_pack(tmp_path / "p")
    assert pickle.loads(pickle.dumps(packed)).fingerprint() == packed.fingerprint()
    assert len(pickle.loads(pickle.dumps(packed)).labels) == 24
    for of_policy in (policy, policy.split(1)[1]):
        loader = dalipipe.DataLoader(packed, 5, policy=of_policy, seed=7, device="cpu", num_workers=1)
        for epoch in range(4):
            loader.set_epoch(epoch)
            online = dalipipe.DataLoader(
                Text([each["text"] for each in lines(tmp_path / "p", epoch % 3)], vocabulary=loader.vocabulary),
                5,
                policy=policy.split(1)[1],
                seed=7,
                device="cpu",
            )
            online.set_epoch(epoch)
            for batch, other in zip(loader, online, strict=True):
                assert torch.equal(batch.text, other.text), "as the rest of the policy draws it for this epoch's copy"
                assert batch.label.tolist() == source.labels[batch.indices].tolist()  # type: ignore[index]
    with pytest.raises(ValueError, match="has been applied to the samples already"):
        dalipipe.DataLoader(packed, 5, policy=Policy([RandomSwap(0.5)]), device="cpu")
    tokens = dalipipe.TokenBatches(packed.lengths, 64)
    for epoch in range(3):
        loader = dalipipe.DataLoader(packed, batch_sampler=tokens, seed=1, device="cpu")
        loader.set_epoch(epoch)
        assert sorted(i for batch in loader for i in batch.indices.tolist()) == list(range(24))
        assert all(batch.text.numel() <= 64 for batch in loader), "whichever copy is read"


def test_copies_in_batches_by_a_budget_resumed_on_other_ranks(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    said = [" ".join(random.choice(["so", "it", "is", "glad"], random.integers(1, 30))) for _ in range(200)]
    policy = Policy([BackTranslation(*pair(), p=0.5), RandomSwap(), RandomDeletion()])
    packing.pack(Text(said), tmp_path / "p", policy=policy, split_at=1, copies=2, seed=5)
    packed = Text.open(tmp_path / "p")

    def rows(*batches: Any) -> list[list[int]]:
        each = (pair for batch in batches for pair in zip(batch.text, batch.length, strict=True))
        return [row[:length].tolist() for row, length in each]

    def loader(rank: int, world: int) -> dalipipe.DataLoader:
        order = dalipipe.TokenBatches(packed.lengths, 1024)
        place: Any = {"rank": rank, "world_size": world, "device": "cpu", "num_workers": 1}
        return dalipipe.DataLoader(packed, batch_sampler=order, policy=policy, seed=5, drop_last=True, **place)

    alone, everything = loader(0, 1), []
    states = [alone.state_dict()]
    for _ in range(3):
        for batch in alone:
            everything.append(rows(batch))
            states.append(alone.state_dict())
    for given in range(0, len(states), 3):
        ranks = [loader(rank, 4) for rank in range(4)]
        for one in ranks:
            one.load_state_dict(states[given])
        tail = []
        while ranks[0].state_dict()["epoch"] < 3:
            tail += [rows(*parts) for parts in zip(*ranks, strict=True)]
        assert tail == everything[given:]


def test_a_pack_may_be_the_first_thing_that_is_opened(tmp_path: Path) -> None:
    """Its policy then finds the operators by itself."""
    packing.pack(texts(), tmp_path / "p", policy=Policy([BackTranslation(*pair())]))
    code = f"import dalipipe; print(dalipipe.Text.open({str(tmp_path / 'p')!r}).front)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)
    assert done.stdout.startswith("Policy([BackTranslation("), done.stderr


def test_operators_on_words_behind_translation(tmp_path: Path) -> None:
    source = texts()
    policy = Policy([BackTranslation(*pair()), RandomDeletion(0.4, p=0.5), RandomSwap(0.3, p=0.5)])
    packing.pack(source, tmp_path / "p", policy=policy, copies=2, seed=3)
    translated = [back or text for back, text in zip(RoundTrip(*pair())(source.strings or []), source.strings or [])]  # noqa: B905
    for copy in range(2):
        loader = dalipipe.DataLoader(Text(translated), 24, policy=policy.split(1)[1], seed=3, device="cpu")
        loader.set_epoch(copy)
        (batch,) = loader
        assert loader.vocabulary is not None
        for row, each in enumerate(lines(tmp_path / "p", copy)):
            words = loader.vocabulary.words_of(batch.text[row][: int(batch.length[row])])
            assert dalipipe.sources.text.splitter("words")(each["text"]) == words
            if words == dalipipe.sources.text.splitter("words")(translated[row]):
                assert each["text"] == translated[row], "what is not changed stays to the letter"
    packing.pack(source, tmp_path / "plain", policy=Policy([RandomSwap(1.0)]))
    assert Text.open(tmp_path / "plain").front == Policy([RandomSwap(1.0)])
    packing.pack(source, tmp_path / "as it is")
    assert Text.open(tmp_path / "as it is").strings == source.strings and Text.open(tmp_path / "as it is").front is None


def test_a_pack_that_was_stopped_goes_on(tmp_path: Path) -> None:
    said = [f"so {i} it is" for i in range(1500)]

    def policy(there: Backwards, back: Backwards) -> Policy:
        return Policy([BackTranslation(there, back, temperature=0.5)])

    packing.pack(Text(said), tmp_path / "whole", policy=policy(*pair()), copies=3)
    there, back = pair()
    there.stop_after = 2600  # in the middle of the second copy
    with pytest.raises(KeyboardInterrupt):
        packing.pack(Text(said), tmp_path / "p", policy=policy(there, back), copies=3)
    assert not is_pack(tmp_path / "p") and (tmp_path / "p" / "text-000.jsonl").is_file()
    with pytest.raises(FileNotFoundError, match=r"pack.json|expected|ends in"):
        dalipipe.Packed(tmp_path / "p")
    with pytest.raises(FileExistsError, match="a pack under way"):
        packing.pack(Text(said), tmp_path / "p", policy=policy(there, back), copies=3)
    with pytest.raises(packing.PackMismatchError, match="seed: there 0, here 1"):
        packing.pack(Text(said), tmp_path / "p", policy=policy(there, back), copies=3, seed=1, resume=True)
    with pytest.raises(packing.PackMismatchError, match="source: there"):
        packing.pack(Text([*said[1:], "z"]), tmp_path / "p", policy=policy(there, back), copies=3, resume=True)
    there, back = pair()
    report = packing.pack(Text(said), tmp_path / "p", policy=policy(there, back), copies=3, resume=True)
    assert report.records == 1500
    assert len(there.asked) < 4500 - 2600 + 1, "what had been translated is not again"
    for name in ("pack.json", "text-000.jsonl", "text-001.jsonl", "text-002.jsonl"):
        assert (tmp_path / "p" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert packing.pack(Text(said), tmp_path / "p", policy=policy(*pair()), copies=3, resume=True).copies == 3
    with pytest.raises(packing.PackMismatchError, match="translators: there"):
        packing.pack(Text(said), tmp_path / "p", policy=policy(Backwards("new"), back), copies=3, resume=True)
    packing.pack(Text(said[:9]), tmp_path / "p", policy=policy(*pair()), overwrite=True)
    assert len(Text.open(tmp_path / "p")) == 9


def test_a_cache_is_for_several_packs(tmp_path: Path) -> None:
    policy = Policy([BackTranslation(*pair())])
    packing.pack(texts(), tmp_path / "one", policy=policy, cache=tmp_path / "cache")
    there, back = pair()
    policy = Policy([BackTranslation(there, back), RandomSwap(1.0)])
    packing.pack(texts(), tmp_path / "two", policy=policy, cache=tmp_path / "cache", copies=2)
    assert not there.asked and not back.asked


def test_damage_and_misuse_are_told(tmp_path: Path) -> None:
    policy = Policy([BackTranslation(*pair())])
    packing.pack(texts(), tmp_path / "p", policy=policy)
    with pytest.raises(PackError, match=r"a pack of texts: dalipipe.Text.open"):
        dalipipe.Packed(tmp_path / "p")
    whole = (tmp_path / "p" / "text-000.jsonl").read_bytes()
    (tmp_path / "p" / "text-000.jsonl").write_bytes(whole.replace(b"well", b"will"))
    with pytest.raises(PackError, match=r"text-000.jsonl: the checksum does not match"):
        Text.open(tmp_path / "p")
    (tmp_path / "p" / "text-000.jsonl").unlink()
    with pytest.raises(PackError, match="is not whole"):
        Text.open(tmp_path / "p")
    (tmp_path / "p" / "pack.json").write_text('{"version": 1, "format": "text"}')
    with pytest.raises(PackError, match="does not make sense"):
        Text.open(tmp_path / "p")
    new = tmp_path / "new"
    for kw, message in (
        ({"policy": policy, "format": "raw"}, "format is for pictures"),
        ({"copies": 2}, "2 copies would all be the same"),
        ({"split_at": 1}, "there is none: give policy="),
        ({"policy": Policy([RandomSwap(), *policy])}, "must stand before all operators on words"),
        ({"policy": Policy([SpanMask()])}, "hides words, and no text can say so"),
        ({"policy": policy, "copies": 0}, "copies must be a whole number"),
    ):
        with pytest.raises(ValueError, match=message):
            packing.pack(texts(), new, **kw)
    with pytest.raises(ValueError, match="a pack already"):
        packing.pack(texts(), tmp_path / "q", policy=policy)
        packing.pack(Text.open(tmp_path / "q"), tmp_path / "r", policy=policy)
    with pytest.raises(ValueError, match="cache keeps translations"):
        pictures = dalipipe.Arrays(np.zeros((2, 8, 8, 3), np.uint8), [0, 1])
        packing.pack(pictures, tmp_path / "s", cache=tmp_path / "c")


def test_the_command(model: Any, tmp_path: Path) -> None:
    folder = toy.saved(model, tmp_path / "model")
    said = "".join(f"{i % 2}\t{text}\n" for i, text in enumerate(toy.sentences(12, 1)))
    (tmp_path / "train.tsv").write_text(said)
    arguments = ["pack", str(tmp_path / "train.tsv"), str(tmp_path / "out"), "--forward", folder, "--backward", folder]
    done = CliRunner().invoke(app, [*arguments, "--temperature", "1", "--copies", "2", "--seed", "3"])
    assert done.exit_code == 0, done.output
    packed = Text.open(tmp_path / "out")
    assert packed.copies == 2 and len(packed) == 12
    assert packed.front == Policy([BackTranslation(folder, folder, temperature=1.0)])
    wrong = CliRunner().invoke(app, [*arguments[:-2], "--overwrite"])
    assert wrong.exit_code and "--forward and --backward" in wrong.output
    policy = dalipipe.save_policy(Policy([RandomSwap(0.3)]), tmp_path / "swap.yaml")
    done = CliRunner().invoke(app, [*arguments, "--overwrite", "--policy", str(policy)])
    assert done.exit_code == 0, done.output
    assert Text.open(tmp_path / "out").front == Policy([BackTranslation(folder, folder)]), "the rest is for training"
    done = CliRunner().invoke(app, [*arguments[:3], "--overwrite", "--task", "text", "--policy", str(policy)])
    assert done.exit_code == 0, done.output
    assert Text.open(tmp_path / "out").front == Policy([RandomSwap(0.3)])


def test_words_stay_apart_in_a_pack(tmp_path: Path) -> None:
    """As the default way to split texts has them: what is packed are the words that training would see."""
    source = Text(["the film does n't know , it 's bad", "Stop ! ! ( so ) ... . it 's"] * 10)
    policy = Policy([RandomSwap(1.0)])
    packing.pack(source, tmp_path / "pack", policy=policy, split_at=1, seed=3)
    packed = Text.open(tmp_path / "pack")
    online = dalipipe.DataLoader(source, 20, policy=policy, seed=3, device="cpu")
    batch = next(iter(online))
    assert packed.lengths.tolist() == batch.length.tolist() == source.lengths.tolist()
    assert online.vocabulary is not None
    for row, length in enumerate(batch.length.tolist()):
        expected = online.vocabulary.words_of(batch.text[row, :length].tolist())
        assert packed.vocabulary.words_of(packed.read(np.array([row])).columns["text"][0]) == expected


def test_copies_that_would_be_the_same_are_refused(tmp_path: Path) -> None:
    source = Text(["a b c"] * 4)
    for policy in (Policy([BackTranslation(*pair())]), Policy([BackTranslation(*pair()), BackTranslation(*pair())])):
        with pytest.raises(ValueError, match="3 copies would all be the same"):
            packing.pack(source, tmp_path / "pack", policy=policy, copies=3)
    packing.pack(source, tmp_path / "pack", policy=Policy([BackTranslation(*pair(), p=0.5)]), copies=3)
    with pytest.raises(ValueError, match="no pack that is finished"):
        Text.open(tmp_path)
