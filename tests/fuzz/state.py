"""Feeds a loader states that were damaged on their way, as JSON text and as objects.

python tests/fuzz/state.py [--inputs 100000] [--seed 0]

Each must be taken, and then be what the loader says its state is, or be refused with a `StateMismatchError` that leaves
the loader as it was.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import random
import sys
from typing import Any

import numpy as np

import dalipipe

ODD = [None, True, False, 0, 1, -1, 7, 2**31, 2**63, 2**64, -(2**63), 10**30, 0.0, 1.5, float("nan"), float("inf")]
ODD += ["", "x", "1", "Shuffled", b"\0", [], [1], [-1], [10**9], [None], [1, 1], [[1]], {}, {"version": 2}, (), (1,)]


def mutated(state: dict[str, Any], rng: random.Random) -> Any:
    """One to three changes: a value, a name, a byte of its text."""
    new: Any = copy.deepcopy(state)
    for _ in range(rng.randint(1, 3)):
        if not isinstance(new, dict) or not new:
            return new
        name = rng.choice(list(new))
        kind = rng.randrange(8)
        if kind == 0:
            new[name] = rng.choice(ODD)
        elif kind == 1:
            del new[name]
        elif kind == 2:
            new[rng.choice(["", "more", 3, None])] = rng.choice(ODD)
        elif kind == 3 and isinstance(new[name], int):
            new[name] = new[name] + rng.choice([-1, 1, 2**31, rng.randint(-100, 100)])
        elif kind == 4 and isinstance(new[name], str) and new[name]:
            at = rng.randrange(len(new[name]))
            new[name] = new[name][:at] + chr(rng.randrange(0x500)) + new[name][at + 1 :]
        elif kind == 5:
            new[name] = new[rng.choice(list(new))]
        elif kind == 6 and isinstance(new.get("bad"), list):
            new["bad"] = [rng.randint(-2, 60) for _ in range(rng.randrange(6))]
        else:
            text = bytearray(json.dumps(state).encode())
            for _ in range(rng.randint(1, 4)):
                text[rng.randrange(len(text))] = rng.randrange(256)
            with contextlib.suppress(ValueError, RecursionError):
                new = json.loads(text.decode("utf-8", "replace"))
    return new


def run(inputs: int, seed: int) -> tuple[int, int]:
    """How many states were taken, and how many refused."""
    rng = random.Random(seed)
    source = dalipipe.Arrays(np.zeros((50, 4, 4, 3), np.uint8), np.arange(50) % 3)
    orders = dalipipe.orders
    kinds: list[dict[str, Any]] = [
        {"shuffle": True},
        {"sampler": orders.Repeated(2, whole=True)},
        {"sampler": list(range(0, 50, 3))},
        {"batch_sampler": [[1, 2], [3], [4, 5, 6]], "batch_size": 1},
        {"shards": "exact", "on_error": "skip"},
    ]
    loaders = []
    for kind in kinds:
        for given in (None, 9):
            loader = dalipipe.DataLoader(source, **{"batch_size": 8, "device": "cpu", "seed": given, **kind})
            loader.set_epoch(2)
            loaders.append((loader, loader.state_dict(), len(loader)))
    taken = refused = 0
    for number in range(inputs):
        loader, valid, steps = loaders[number % len(loaders)]
        before = loader.state_dict()
        state = mutated(valid, rng)
        try:
            loader.load_state_dict(state)
        except dalipipe.StateMismatchError as error:
            str(error)
            refused += 1
            assert loader.state_dict() == before, (state, "changed the loader though it was refused")
        else:
            taken += 1
            after = loader.state_dict()
            assert json.loads(json.dumps(after)) == after
            assert 0 <= loader._resume[1] < steps, (state, loader._resume)
            assert after["epoch"] in (state["epoch"], state["epoch"] + 1)
            loader.load_state_dict(valid)
    return taken, refused


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    taken, refused = run(options.inputs, options.seed)
    print(f"{options.inputs} states: {taken} taken, {refused} refused, nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
