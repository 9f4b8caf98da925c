"""Steps of a policy that run in Python: picture by picture, on the CPU, with random numbers of the loader's."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.overrides import TorchFunctionMode

from dalipipe import rng
from dalipipe.ops.python import PythonStep
from dalipipe.sampler import Step
from dalipipe.tracks.base import RowErrors

_DRAWING = "rand randn randint randperm normal bernoulli multinomial poisson rand_like randn_like randint_like "
_DRAWING += "_sample_dirichlet _standard_gamma"
_DRAWING_METHODS = (
    "uniform_ normal_ random_ bernoulli_ bernoulli exponential_ geometric_ cauchy_ log_normal_ multinomial"
)
_RANDOM = {getattr(torch, name, None) for name in _DRAWING.split()}
_RANDOM |= {getattr(torch.Tensor, name, None) for name in _DRAWING_METHODS.split()}

_LOCK = threading.Lock()  # Python's and numpy's generators are the process's


def run_on_pictures(
    steps: Iterable[PythonStep], pictures: list[np.ndarray], key: np.ndarray, step: Step, stage: int
) -> list[np.ndarray]:
    """uint8 [H, W, C] each → uint8 [H', W', C] each. Raises `RowErrors`."""

    def one(row: int) -> np.ndarray:
        picture = pictures[row]
        for python in steps:
            picture = _picture(python, _call(python, _given(python, picture)), channels=picture.shape[2])
        return picture

    return _by_row(one, len(pictures), key, step, stage)


def run_on_tensors(
    python: PythonStep, batch: torch.Tensor, key: np.ndarray, step: Step, stage: int
) -> list[torch.Tensor]:
    """float32 [N, C, H, W] on the host → N tensors. Raises `RowErrors`."""

    def one(row: int) -> torch.Tensor:
        found = _call(python, batch[row].clone(memory_format=torch.contiguous_format))
        if not isinstance(found, torch.Tensor):
            raise TypeError(f"{python!r} gave a {type(found).__name__}, expected a tensor")
        return found.as_subclass(torch.Tensor)

    return _by_row(one, len(batch), key, step, stage)


def _by_row(run: Callable[[int], Any], n: int, key: np.ndarray, step: Step, stage: int) -> list[Any]:
    variants = np.zeros(n, np.int64) if step.variants is None else step.variants
    found: list[Any] = []
    errors: dict[int, Exception] = {}
    with _kept():
        for row in range(n):
            with _seeded(rng.mix64(*key.tolist(), int(step.indices[row]), int(variants[row]), stage)):
                try:
                    found.append(run(row))
                except Exception as error:
                    errors[row] = error
    if errors:
        raise RowErrors(errors)
    return found


def _call(python: PythonStep, picture: Any) -> Any:
    try:
        for call in python.steps:
            picture = call(picture)
    except Exception as error:
        raise RuntimeError(f"{python!r} raised {type(error).__name__}: {error}") from error
    return picture


def _given(python: PythonStep, picture: np.ndarray) -> Any:
    """What the step takes; never the loader's own memory."""
    if python.takes == "tensor":
        return torch.from_numpy(picture.transpose(2, 0, 1).copy())
    return Image.fromarray(picture[..., 0].copy() if picture.shape[2] == 1 else picture.copy())


def _picture(python: PythonStep, found: Any, *, channels: int) -> np.ndarray:
    """uint8 [H, W, C] of a PIL picture, an array or a tensor."""
    if isinstance(found, list | tuple | dict):
        raise TypeError(
            f"{python!r} gave a {type(found).__name__} of {len(found)}, expected one picture: a batch holds one of "
            "each sample; orders.Repeated gives every sample several times, each drawn anew"
        )
    if isinstance(found, Image.Image):
        array = np.asarray(found)
    elif isinstance(found, torch.Tensor):
        array = found.detach().cpu().as_subclass(torch.Tensor).numpy()
        array = array.transpose(1, 2, 0) if array.ndim == 3 else array
    else:
        array = np.asarray(found)
    array = array[:, :, None] if array.ndim == 2 else array
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != channels or 0 in array.shape:
        mode = f" (mode {found.mode})" if isinstance(found, Image.Image) else ""
        floats = " (let floats be made by a step of their own, after it)" if array.dtype.kind == "f" else ""
        raise ValueError(
            f"{python!r} gave a {type(found).__name__}{mode} of {array.dtype} and shape {array.shape}; expected a "
            f"picture of uint8 and {channels} channels, as it was given{floats}"
        )
    return np.ascontiguousarray(array)


@contextmanager
def _kept() -> Iterator[None]:
    """Python's and numpy's generators are as before, after it."""
    with _LOCK:
        states = random.getstate(), np.random.get_state()  # noqa: NPY002 - it is users' that counts
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Random numbers of Python, numpy and torch come from ``seed``, 64 bits. torch's generator is left alone: it may be
    in use.
    """
    random.seed(seed)
    np.random.seed([seed & 0xFFFFFFFF, seed >> 32])  # noqa: NPY002
    with _Drawn(torch.Generator().manual_seed(seed - (1 << 63))):
        yield


class _Drawn(TorchFunctionMode):
    """torch's functions draw from ``generator`` in this thread, where none is named."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self._generator = generator

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _RANDOM and kwargs.get("generator") is None:
            kwargs = {**kwargs, "generator": self._generator}
        return func(*args, **kwargs)
