"""Python code among the operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from dalipipe.policy import Node, Op, Params

Takes = Literal["pil", "tensor", "float"]


@dataclass(frozen=True, repr=False)
class PythonStep(Op):
    """Calls ``step``, a function of one picture, for each picture on the CPU: between passes, so it costs time.

    It ``takes``, and gives, a "pil" picture, a uint8 "tensor" [C, H, W], or, behind all else, a "float" tensor [C, H,
    W] as the batch would have it. For the first two it may give an array uint8 [H, W, C], too. ``step`` may be a tuple
    of functions: one after the other.

    Python's ``random``, ``numpy.random`` and torch's functions draw from (seed, epoch, sample) in it, so that it does
    the same to a sample wherever that is. The first two are the process's, and are as before when a batch is done: what
    another thread draws from them meanwhile is disturbed. Generators that ``step`` has of its own are not looked at.

    Raises ``TypeError`` for what cannot be called, ``ValueError`` for another option.
    """

    step: Any
    takes: Takes = "pil"

    modality: ClassVar[str] = "image"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(callable(step) for step in self.steps):
            raise TypeError(f"PythonStep: step must be a function of one picture, got {self.step!r}")
        if self.takes not in get_args(Takes):
            raise ValueError(f'PythonStep: takes must be "pil", "tensor" or "float", got {self.takes!r}')
        if self.p != 1.0:
            raise ValueError(f"PythonStep: is called for every picture, so p must be 1, got {self.p}")

    @property
    def steps(self) -> tuple[Any, ...]:
        return self.step if isinstance(self.step, tuple) else (self.step,)

    def __repr__(self) -> str:
        return " ".join(super().__repr__().split())  # errors quote it: a line, whatever the step says of itself

    def at_strength(self, strength: float) -> Node:
        if strength != 1.0:
            raise ValueError(f"{self!r}: what a function is at strength {strength:g} cannot be told: leave it out")
        return self

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return {}

    def output_size(self, params: Params, size: np.ndarray) -> np.ndarray:
        raise TypeError(f"{self!r}: the sizes of its pictures are known when it has run; a plan is split there")
