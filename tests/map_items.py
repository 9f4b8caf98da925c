"""Data sets for worker processes; a module that imports little, for each process imports it."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from typing import Any

import numpy as np
from PIL import Image


class Ragged:
    """Pictures of different sizes and modes; item 5 is bad."""

    classes = ("even", "odd")

    def __init__(self, n: int = 23) -> None:
        self.n = n
        self.targets = [i % 2 for i in range(n)]

    def pixels(self, i: int) -> np.ndarray:
        return np.random.default_rng(i).integers(0, 256, (5 + i, 30 - i, 3), np.uint8)

    def __getitem__(self, i: int) -> Any:
        assert type(i) is int
        if i == 5:
            raise KeyError("five")
        image = Image.fromarray(self.pixels(i))
        return (image.convert("L") if i % 4 == 3 else image), self.targets[i]

    def __len__(self) -> int:
        return self.n


class Doing:
    """Item i is (i, str(i)), but item 7 does something else; with "who", all tell which process they come from."""

    def __init__(self, deed: str, n: int = 12) -> None:
        self.deed, self.n = deed, n

    def __getitem__(self, i: int) -> Any:
        if i == 7:
            deeds: dict[str, Any] = {
                "who": lambda: None,
                "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
                "leave": lambda: os._exit(3),
                "exit": lambda: sys.exit(4),
                "hang": lambda: time.sleep(1000),
                "odd exception": lambda: (_ for _ in ()).throw(OddError(1, 2)),
                "lambda": lambda: (i, lambda: None),
            }
            if (done := deeds[self.deed]()) is not None:
                return done
        return i, os.getpid() if self.deed == "who" else str(i)

    def __len__(self) -> int:
        return self.n


class OddError(Exception):
    """Pickles, but does not unpickle."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


class Batched:
    """With ``__getitems__``, which counts its calls."""

    def __init__(self, fault: str = "") -> None:
        self.fault, self.calls = fault, []

    def __getitem__(self, i: int) -> Any:
        if self.fault == "item" and i == 3:
            raise ValueError("three")
        return i, np.float32(i)

    def __getitems__(self, indices: list[int]) -> list[Any]:
        self.calls.append(indices)
        if self.fault == "short":
            return [self[i] for i in indices][1:]
        return [self[i] for i in indices]

    def __len__(self) -> int:
        return 20


class Random:
    """Numbers from the generators that a process has."""

    def __getitem__(self, i: int) -> Any:
        import torch

        time.sleep(0.005)
        return os.getpid(), torch.rand(()).item(), np.random.rand(), random.random()  # noqa: NPY002

    def __len__(self) -> int:
        return 40
