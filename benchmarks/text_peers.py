"""What else augments texts word by word, in processes whose Python is $TEXT_PEERS_PYTHON, else this one.

    python text_peers.py TEXTS.json

TEXTS has "texts", lists of words, and "synonyms", those of each word that has some. Its contenders work through batches
of them: nlpaug, on strings as it wants them, and EDA in plain Python that is written here, on numbers of words, as
quick as we could make it.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from peer_process import serve

ALPHA = 0.1
BATCH = 4096

Ids = list[int]
Edit = Callable[[Ids], Ids]


class PlainPython:
    """EDA's edits (Wei, Zou, EMNLP 2019) of one list of numbers, in no more steps than it takes: a number below k is a
    float times k, most texts want one edit, and none is asked for what it doesn't need.
    """

    def __init__(self, synonyms: dict[int, Ids], seed: int) -> None:
        self.synonyms = synonyms
        self.random = random.Random(seed).random
        self.edits: tuple[Edit, ...] = (self.replace, self.insert, self.swap, self.delete)

    def eda(self, text: Ids) -> Ids:
        return self.edits[int(self.random() * 4)](text)

    def swap_and_delete(self, text: Ids) -> Ids:
        return self.delete(self.swap(text))

    def replace(self, text: Ids) -> Ids:
        draw, synonyms = self.random, self.synonyms
        places = [place for place, word in enumerate(text) if word in synonyms]
        text = text[:]
        for _ in range(min(int(ALPHA * len(text)) or 1, len(places))):
            place = places.pop(int(draw() * len(places)))
            others = synonyms[text[place]]
            text[place] = others[int(draw() * len(others))]
        return text

    def insert(self, text: Ids) -> Ids:
        draw, synonyms = self.random, self.synonyms
        words = [word for word in text if word in synonyms]
        if not words:
            return text
        n = int(ALPHA * len(text)) or 1
        text = text[:]
        for _ in range(n):
            others = synonyms[words[int(draw() * len(words))]]
            text.insert(int(draw() * (len(text) + 1)), others[int(draw() * len(others))])
        return text

    def swap(self, text: Ids) -> Ids:
        draw, count = self.random, len(text)
        if count < 2:
            return text
        text = text[:]
        for _ in range(int(ALPHA * count) or 1):
            i, j = int(draw() * count), int(draw() * (count - 1))
            j += j >= i
            text[i], text[j] = text[j], text[i]
        return text

    def delete(self, text: Ids) -> Ids:
        draw = self.random
        kept = [word for word in text if draw() >= ALPHA]
        return kept or ([text[int(draw() * len(text))]] if text else text)


class Nlpaug:
    """Swap, then delete, a tenth of the words each; told to split and join at spaces, which is the quickest it has."""

    def __init__(self) -> None:
        import nlpaug.augmenter.word as naw

        settings: dict[str, Any] = {"aug_p": ALPHA, "aug_max": None, "tokenizer": str.split}
        settings["reverse_tokenizer"] = " ".join
        self.steps = [naw.RandomWordAug(action=action, **settings) for action in ("swap", "delete")]

    def run(self, texts: list[str]) -> list[str]:
        for step in self.steps:
            texts = step.augment(texts)
        return texts

    def run_one_by_one(self, texts: list[str]) -> list[str]:
        swap, delete = self.steps
        found = []
        for text in texts:
            swapped = swap.augment(text)
            found += delete.augment(swapped[0]) if swapped else [text]
        return found


def padded(texts: list[Ids]) -> Any:
    """The texts as rows of an int64 array [N, L], which numpy fills in one go."""
    import numpy as np

    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    inside = np.arange(lengths.max(initial=0)) < lengths[:, None]
    rows = np.zeros(inside.shape, np.int64)
    rows[inside] = np.fromiter(itertools.chain.from_iterable(texts), np.int64, int(lengths.sum()))
    return rows


CONTENDERS = {
    "EDA": ("plain Python", "plain Python, padded batches"),
    "swap, delete": ("plain Python", "plain Python, padded batches", "nlpaug", "nlpaug, text by text"),
}
"""By task."""


class _Server:
    def __init__(self, path: str) -> None:
        content = json.loads(Path(path).read_text())
        words = {word for text in content["texts"] for word in text}
        words |= {other for others in content["synonyms"].values() for other in others}
        self.words = sorted(words)
        ids = {word: number for number, word in enumerate(self.words)}
        self.texts = [[ids[word] for word in text] for text in content["texts"]]
        self.strings = [" ".join(text) for text in content["texts"]]
        synonyms = {
            ids[word]: [ids[other] for other in others]
            for word, others in content["synonyms"].items()
            if word in ids and others
        }
        self.plain = PlainPython(synonyms, seed=os.getpid())
        self.nlpaug: Nlpaug | None = None
        self.batches = self._batches()

    def _batches(self) -> Iterator[slice]:
        begin = 0
        while True:
            yield slice(begin, begin + BATCH)
            begin = 0 if begin + BATCH >= len(self.texts) else begin + BATCH

    def run(self, task: str, name: str, least: int, out: str | None = None) -> int:
        """How many texts were augmented, in batches, ``least`` at least; ``out``: where each goes once."""
        every: list[slice] = [slice(0, len(self.texts))] if out is not None else []
        done = 0
        found: list[Any] = []
        while done < least or every:
            batch = every.pop() if every else next(self.batches)
            if name.startswith("plain Python"):
                edit = self.plain.eda if task == "EDA" else self.plain.swap_and_delete
                found = list(map(edit, self.texts[batch]))
                if name.endswith("padded batches"):
                    padded(found)
            else:
                self.nlpaug = self.nlpaug or Nlpaug()
                whole = name == "nlpaug"
                found = (self.nlpaug.run if whole else self.nlpaug.run_one_by_one)(self.strings[batch])
            done += len(found)
        if out is not None:
            shown = [[self.words[word] for word in text] if isinstance(text, list) else text.split() for text in found]
            Path(out).write_text(json.dumps(shown))
        return done

    def versions(self) -> dict[str, str]:
        found = {"python": sys.version.split()[0]}
        for package in ("nlpaug", "numpy"):
            try:
                found[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                found[package] = "absent"
        return found


if __name__ == "__main__":
    serve(_Server)
