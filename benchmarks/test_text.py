"""Texts beside plain Python and nlpaug: sentences a second, on one core and on two.

    TEXT_PEERS_PYTHON=... pytest benchmarks/test_text.py --data=DIR

DIR holds text_classification.tar (SST-2's sentences); without, sentences are made. Dalipipe runs whole: its loader
gives epoch after epoch of copies of all sentences, in batches of 4,096, drawn, edited, padded; and its native work
alone, on what was drawn before. The peers live in processes of their own (text_peers.py) and give lists, or where they
are said to, padded batches as ours are. Before anything is timed, what each contender makes is verified.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import text_peers
import torch
from peer_process import Peer
from rounds import interleave, ratio, reason, write
from text_peers import ALPHA, BATCH, CONTENDERS

import dalipipe
from dalipipe import rng
from dalipipe.engines.base import Output
from dalipipe.engines.text import TextEngine
from dalipipe.ops import text as ops
from dalipipe.plan import lower
from dalipipe.text.synonyms import open_synonyms

COPIES, LEAST, LEAST_OF_NLPAUG = 64, 60_000, 3_000
OURS, NATIVE = "dalipipe", "dalipipe, native calls alone"
GOALS = {"EDA": ("plain Python", 15.0), "swap, delete": ("nlpaug", 200.0)}
"""What was set as a goal: so many times one process of these."""

POLICIES = {
    "EDA": dalipipe.Policy(
        [
            dalipipe.OneOf(
                [
                    ops.SynonymReplacement(ALPHA, stop_words=None),
                    ops.RandomInsertion(ALPHA, stop_words=None),
                    ops.RandomSwap(ALPHA),
                    ops.RandomDeletion(ALPHA),
                ]
            )
        ]
    ),
    "swap, delete": dalipipe.Policy([ops.RandomSwap(ALPHA), ops.RandomDeletion(ALPHA)]),
}


@pytest.fixture
def sentences(pytestconfig: pytest.Config, tmp_path: Path) -> dalipipe.Text:
    data = pytestconfig.getoption("--data")
    archive = None if data is None else data / "text_classification.tar"
    if archive is None or not archive.is_file():
        random = np.random.default_rng(0)
        words = ["film", "funny", "bad", "story", "the", "a", "of", ",", "and", *(f"word{n}" for n in range(5000))]
        share = 1 / np.arange(1, len(words) + 1)
        lengths = random.integers(1, 40, 8000)
        return dalipipe.Text(
            [" ".join(random.choice(words, length, p=share / share.sum())) for length in lengths], split="space"
        )
    with tarfile.open(archive) as tar:
        tar.extract("text/sst2_train.tsv", tmp_path, filter="data")
    return dalipipe.Text.open(tmp_path / "text" / "sst2_train.tsv", split="space")


@pytest.fixture
def peers(sentences: dalipipe.Text, tmp_path: Path) -> Iterator[list[Peer]]:
    path = tmp_path / "texts.json"
    assert sentences.strings is not None
    texts = [text.split() for text in sentences.strings]
    path.write_text(json.dumps({"texts": texts, "synonyms": synonyms_of(sentences)}))
    script = text_peers.__file__
    two = [Peer(script, path, python="TEXT_PEERS_PYTHON") for _ in range(2)]
    yield two
    for peer in two:
        peer.close()


def synonyms_of(sentences: dalipipe.Text) -> dict[str, list[str]]:
    source = open_synonyms("builtin")
    found = {word: list(source.synonyms(word)) for word in sentences.vocabulary.words[3:]}
    return {word: others for word, others in found.items() if others}


class Loader:
    """A loader over copies of all sentences; a turn is an epoch of it, on ``threads`` cores."""

    def __init__(self, sentences: dalipipe.Text, policy: dalipipe.Policy, threads: int, copies: int = COPIES) -> None:
        self.threads = threads
        order = dalipipe.orders.Repeated(copies, whole=True)
        self.loader = dalipipe.DataLoader(
            sentences, BATCH, sampler=order, policy=policy, device="cpu", seed=0, num_workers=threads
        )

    def __call__(self) -> int:
        return on_cores(self.threads, lambda: sum(len(batch[0]) for batch in self.loader))


class NativeWork:
    """The engine on one batch's draws: edits, rows' lengths, rows. Nothing is drawn anew, nothing read."""

    def __init__(self, sentences: dalipipe.Text, policy: dalipipe.Policy, threads: int) -> None:
        plan, indices = lower(policy, sentences.schema), np.random.default_rng(0).permutation(len(sentences))[:BATCH]
        output = Output(torch.device("cpu"), torch.float32, torch.contiguous_format)
        self.engine = TextEngine(plan, output, threads=threads)
        self.threads, self.tokens = threads, sentences.read(indices).columns["text"]
        self.draws = plan.draw(rng.make_key(0, 0), indices, self.engine.size(self.tokens), 0, indices)

    def __call__(self) -> int:
        return on_cores(self.threads, lambda: sum(len(self._batch()) for _ in range(60)))

    def _batch(self) -> torch.Tensor:
        return self.engine.start(self.tokens, self.draws)().rows


def on_cores(count: int, work: Callable[[], int]) -> int:
    """``work`` with so many cores for this process: its threads that are there, and those that they start."""
    every = sorted(os.sched_getaffinity(0))
    _pin(every[:count])
    try:
        return work()
    finally:
        _pin(every)


def _pin(cores: list[int]) -> None:
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), cores)


def ours_of(sentences: dalipipe.Text, policy: dalipipe.Policy) -> list[list[str]]:
    """Every sentence once, edited."""
    loader = dalipipe.DataLoader(sentences, BATCH, policy=policy, device="cpu", seed=1)
    assert loader.vocabulary is not None
    rows = [row for batch in loader for row in batch[0].tolist()]
    return [loader.vocabulary.words_of(row) for row in rows]


def verify(task: str, name: str, before: list[list[str]], after: list[list[str]], synonyms: dict[str, Any]) -> None:
    """Fails where a contender does not do what ``task`` says. Letters' case is not looked at."""
    assert len(after) == len(before), f"{name}: {len(after)} of {len(before)} sentences"
    kinds: Counter[str] = Counter()
    removed: list[float] = []
    for old, new in zip(before, after, strict=True):
        old, new = [word.lower() for word in old], [word.lower() for word in new]
        gone, come = Counter(old) - Counter(new), Counter(new) - Counter(old)
        n = max(1, int(ALPHA * len(old)))
        if not come:
            kinds["as it was" if new == old else "swapped" if len(new) == len(old) else "deleted"] += 1
            removed.append(1 - len(new) / len(old))
            continue
        assert task == "EDA", f"{name}: {set(come)} came into {' '.join(old)!r}"
        others = {other.lower() for word in old for other in synonyms.get(word, ())}
        assert set(come) <= others, f"{name}: {set(come) - others} are no synonyms in {' '.join(old)!r}"
        assert sum(come.values()) <= n and sum(gone.values()) in (0, sum(come.values())), f"{name}: {old} → {new}"
        kinds["replaced" if gone else "inserted"] += 1
    shares = {kind: count / len(before) for kind, count in kinds.items()}
    if task == "EDA":
        for kind in ("swapped", "deleted", "replaced", "inserted"):
            assert 0.12 < shares.get(kind, 0) < 0.3, f"{name}: {kind} {shares.get(kind, 0):.2f} of sentences"
    else:
        assert 0.04 < statistics.fmean(removed) < 0.16, f"{name}: {statistics.fmean(removed):.3f} of words deleted"
        moved = [old for old, new in zip(before, after, strict=True) if not is_part(new, old)]
        assert len(moved) > 0.6 * len(before), (
            f"{name}: words of {len(moved)} of {len(before)} sentences changed places"
        )


def is_part(short: list[str], long: list[str]) -> bool:
    """Whether ``short`` is ``long`` without some of its words."""
    rest = iter(word.lower() for word in long)
    return all(word.lower() in rest for word in short)


def ask(peers: list[Peer], count: int, task: str, name: str) -> int:
    least = (LEAST_OF_NLPAUG if "nlpaug" in name else LEAST) // count
    for peer in peers[:count]:
        peer.send(do="run", task=task, name=name, least=least)
    return sum(peer.receive() for peer in peers[:count])


def test_text(sentences: dalipipe.Text, peers: list[Peer], tmp_path: Path, pytestconfig: pytest.Config) -> None:
    rounds, dry = pytestconfig.getoption("--rounds"), pytestconfig.getoption("--dry-run")
    synonyms, found, absent = synonyms_of(sentences), {}, {}
    goals: list[dict[str, Any]] = []
    assert sentences.strings is not None
    before = [text.split() for text in sentences.strings]
    for task, names in CONTENDERS.items():
        print(f"\n{task}")
        policy = POLICIES[task]
        verify(task, OURS, before, ours_of(sentences, policy), synonyms)
        turns: dict[str, Callable[[], int]] = {}
        for threads, how in ((1, "1 core"), (2, "2 threads")):
            turns[f"{OURS}, {how}"] = Loader(sentences, policy, threads, copies=1 if dry else COPIES)
            turns[f"{NATIVE}, {how}"] = NativeWork(sentences, policy, threads)
        for name in names:
            try:
                out = tmp_path / "given.json"
                peers[0].ask(do="run", task=task, name=name, least=1, out=str(out))
            except RuntimeError as error:
                absent[f"{name}: {task}"] = reason(error)
                continue
            verify(task, name, before, json.loads(out.read_text()), synonyms)
            turns[f"{name}, 1 core"] = partial(ask, peers, 1, task, name)
            turns[f"{name}, 2 processes"] = partial(ask, peers, 2, task, name)
        timings = interleave(turns, rounds)
        ratios = {}
        for name in timings:
            cores = "1 core" if name.endswith(", 1 core") else "2 threads"
            if not name.startswith(OURS):
                ratios[name] = round(ratio(timings, f"{OURS}, {cores}", name), 2)
        over, times = GOALS[task]
        for name in names:
            if name.startswith(over) and f"{name}, 1 core" in timings:
                for ours in (OURS, NATIVE):
                    value = ratio(timings, f"{ours}, 2 threads", f"{name}, 1 core")
                    goals.append(
                        {"task": task, "ours": ours, "over": name, "wanted": times, "measured": round(value, 2)}
                    )
        found[task] = {"contenders": {name: timing.summary() for name, timing in timings.items()}, "ratios": ratios}
    data = pytestconfig.getoption("--data")
    path = write(
        "text_cpu",
        {
            "sentences": "made ones" if data is None else "of SST-2",
            "count": len(sentences),
            "words": round(statistics.fmean(len(text) for text in before), 1),
            "batch": BATCH,
            "alpha": ALPHA,
            "rounds": rounds,
            "goals": goals,
            "versions": peers[0].ask(do="versions"),
            "absent": absent,
            "tasks": found,
        },
        tmp_path if dry else pytestconfig.getoption("--results"),
    )
    print(f"\n→ {path}")
