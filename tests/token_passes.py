"""Chains of edits to texts, made at random: as the native operator takes them, and through their specification."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from dalipipe import native
from dalipipe.ops import tokens as spec

EDITS = native.TOKEN_EDITS
GUARD = 77


@dataclass
class Texts:
    """Samples with their passes, and the tables that passes name. Arrays are lists until ``run``."""

    choices: list[list[list[int]]] = field(default_factory=list)  # of each table, of each token
    bags: list[spec.Bag] = field(default_factory=list)
    weights: list[list[float]] = field(default_factory=list)
    texts: list[list[int]] = field(default_factory=list)
    passes: list[list[np.ndarray]] = field(default_factory=list)
    room: int = 0  # tokens between samples, and more than they need

    def add(self, text: list[int], *passes: dict[str, Any]) -> None:
        """A text, and what its passes set."""
        self.texts.append(list(text))
        self.passes.append([one_pass(**fields) for fields in passes])

    def capacity(self, i: int) -> int:
        length = most = len(self.texts[i])
        for s in self.passes[i]:
            n = int(s["share"] * length)
            if s["edit"] == EDITS.index("insert") and length:
                length += max(int(s["least"]), n)
            elif s["edit"] == EDITS.index("punctuate"):
                length += min(n + 1, length)
            most = max(most, length)
        return most

    def arguments(self) -> tuple[list[Any], dict[str, Any], Any]:
        """What `native.edit_tokens` takes before ``out``, its tables, and what holds the memory."""
        held = [np.array(text, np.int32) for text in self.texts]
        capacities = np.array([self.capacity(i) for i in range(len(held))], np.int32)
        passes = np.array([s for chain in self.passes for s in chain], native.TOKEN_PASS).reshape(-1)
        starts = np.cumsum([0, *map(len, self.passes)]).astype(np.int32)
        places = (self.room + np.cumsum([0, *(capacities + self.room)])[:-1]).astype(np.int64)
        data = np.array([text.ctypes.data for text in held], np.uint64)
        lengths = np.array([len(text) for text in held], np.int32)
        choices = np.zeros(len(self.choices), native.TOKEN_CHOICES)
        bags = np.zeros(len(self.bags), native.TOKEN_BAG)
        weights = np.zeros(len(self.weights), native.TOKEN_WEIGHTS)
        for table, of in zip(choices, self.choices, strict=True):
            csr = ragged(of)
            held += csr
            table["starts"], table["tokens"], table["words"], table["count"] = (
                *(a.ctypes.data for a in csr), len(of), len(csr[1]),
            )  # fmt: skip
        for table, bag in zip(bags, self.bags, strict=True):
            table["count"] = len(bag.tokens)
            if list(bag.tokens) == list(range(bag.tokens[0] if len(bag.tokens) else 0, len(bag.tokens))):
                table["first"] = bag.tokens[0] if len(bag.tokens) else 0
            else:
                held.append(np.array(bag.tokens, np.int32))
                table["tokens"] = held[-1].ctypes.data
            if bag.keep is not None:
                held += [np.array(bag.keep, np.uint32), np.array(bag.other, np.int32)]
                table["keep"], table["other"] = held[-2].ctypes.data, held[-1].ctypes.data
        for table, of in zip(weights, self.weights, strict=True):
            held.append(np.array(of, np.float32))
            table["weights"], table["words"] = held[-1].ctypes.data, len(of)
        tables = {"choices": choices, "bags": bags, "weights": weights}
        return [passes, starts, data, lengths, capacities, places], tables, held

    def run(self, edit: Any = native.edit_tokens, device: str = "cpu", **how: Any) -> list[list[int]]:
        """What ``edit`` makes of them; checks that it writes into what is theirs alone."""
        given, tables, held = self.arguments()
        if device != "cpu":
            moved = {a.ctypes.data: torch.from_numpy(a.view(np.int32)).to(device) for a in held if a.size}
            addresses = {0: 0, **{at: tensor.data_ptr() for at, tensor in moved.items()}}
            given[2] = np.array([addresses.get(int(a), 0) for a in given[2]], np.uint64)
            for table in tables.values():
                for name in table.dtype.names:
                    if table.dtype[name] == np.uint64:
                        table[name] = [addresses.get(int(a), 0) for a in table[name]]
        capacities, places = given[4], given[5]
        size = int(places[-1] + capacities[-1]) if len(places) else 0
        out = torch.full((size + self.room,), GUARD, dtype=torch.int32, device=device)
        out_lengths = torch.full((len(places),), GUARD, dtype=torch.int32, device=device)
        edit(*given, out, out_lengths, **tables, **how)
        tokens, lengths = out.cpu().numpy(), out_lengths.cpu().numpy()
        theirs = np.zeros(len(tokens), bool)
        for place, capacity in zip(places, capacities, strict=True):
            theirs[place : place + capacity] = True
        assert (tokens[~theirs] == GUARD).all(), "it writes outside"
        return [tokens[place : place + n].tolist() for place, n in zip(places, lengths, strict=True)]

    def expected(self) -> list[list[int]]:
        """What the specification makes of them."""
        out = []
        for text, passes in zip(self.texts, self.passes, strict=True):
            for s in passes:
                text = self.edit(text, s)
            out.append(text)
        return out

    def edit(self, text: list[int], s: np.ndarray) -> list[int]:
        share, least, key = float(s["share"]), int(s["least"]), s["key"]
        bag = self.bags[s["bag"]] if s["bag"] >= 0 else spec.Bag([])
        choices = self.choices[s["choices"]] if s["choices"] >= 0 else []
        match EDITS[s["edit"]]:
            case "replace":
                return spec.replace(text, choices, share, least, key)
            case "insert":
                return spec.insert(text, choices, share, least, key)
            case "swap":
                return spec.swap(text, share, least, key)
            case "swap_neighbours":
                return spec.swap(text, share, least, key, neighbours=True)
            case "remove":
                return spec.remove(text, share, key)
            case "draw":
                return spec.draw(text, bag, share, least, key)
            case "draw_by_weight":
                return spec.draw_by_weight(text, bag, self.weights[s["weights"]], share, key)
            case "reverse":
                return spec.reverse(text)
            case "mask":
                return spec.mask(text, int(s["token"]), share, least, key)
            case "cut":
                return spec.cut(text, share, least, key)
            case "shuffle":
                return spec.shuffle(text, share, least, key)
            case "resample":
                return spec.resample(text, bag, key)
            case "punctuate":
                return spec.punctuate(text, bag, share, key)
        raise AssertionError(s)


def one_pass(edit: str, **fields: Any) -> np.ndarray:
    """A `TOKEN_PASS` of the first tables, but for the fields."""
    s = np.zeros((), native.TOKEN_PASS)
    s["edit"] = EDITS.index(edit)
    for name, value in fields.items():
        s[name] = value
    return s


def ragged(lists: list[list[int]]) -> list[np.ndarray]:
    """[starts int32 [N+1], their tokens int32]."""
    starts = np.cumsum([0, *map(len, lists)]).astype(np.int32)
    return [starts, np.array([token for of in lists for token in of], np.int32)]


class Maker:
    """Random tables, texts and chains."""

    def __init__(self, seed: int, words: int = 40) -> None:
        self.rng = np.random.default_rng(seed)
        self.words = words

    def tables(self, **how: Any) -> Texts:
        rng, words = self.rng, self.words

        def tokens(n: int) -> list[int]:
            return rng.integers(0, 2 * words, n).tolist()

        def alias(n: int) -> spec.Bag:
            return spec.Bag(tokens(n), rng.integers(0, 1 << 32, n).tolist(), rng.integers(-1, n + 1, n).tolist())

        sparse = [tokens(rng.integers(1, 6)) if rng.random() < 0.4 else [] for _ in range(words)]
        return Texts(
            choices=[sparse, [[] for _ in range(words)], [tokens(1)] * words, []],
            bags=[spec.Bag(list(range(words))), spec.Bag(tokens(5)), alias(7), alias(1), spec.Bag([])],
            weights=[rng.normal(size=words).tolist(), rng.random(words // 2).tolist(), [1.0] * words, []],
            **how,
        )

    def key(self) -> np.ndarray:
        return self.rng.integers(0, 1 << 32, 5, dtype=np.uint32)

    def chain(self, texts: Texts, n: int) -> list[dict[str, Any]]:
        """n passes."""
        rng = self.rng
        return [
            {
                "edit": EDITS[rng.integers(len(EDITS))],
                "choices": rng.integers(len(texts.choices)),
                "bag": rng.integers(len(texts.bags)),
                "weights": rng.integers(len(texts.weights)),
                "least": rng.choice([0, 1, 2, 7]),
                "token": rng.integers(-5, self.words),
                "share": rng.choice([0.0, 1.0, 0.1, rng.random()]),
                "key": self.key(),
            }
            for _ in range(n)
        ]

    def text(self, length: int) -> list[int]:
        return self.rng.integers(-1, self.words + 2, length).tolist()

    def batch(self, lengths: list[int], most: int = 4, **how: Any) -> Texts:
        """A text of each length, through 0 to ``most`` passes."""
        texts = self.tables(**how)
        for length in lengths:
            texts.add(self.text(length), *self.chain(texts, int(self.rng.integers(most + 1))))
        return texts
