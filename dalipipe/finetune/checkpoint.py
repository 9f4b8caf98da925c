"""Checkpoints: written whole or not at all, and readable with ``torch.load(weights_only=True)``."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

_KEYS = {"settings", "model", "optimizer", "state", "random", "loader"}


def save_checkpoint(path: str | os.PathLike[str], state: dict[str, Any]) -> None:
    """Write ``state`` to ``path`` atomically: whoever reads ``path`` finds the old file or the new one, both complete.

    The bytes go to a temporary file in the same folder, reach the disk, and then take the name in one rename; a crash,
    a full disk or a kill in between leaves the old checkpoint as it was.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; nothing in the file is executed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a checkpoint of ``finetune``.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; start the run without resume, or name its folder")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types for damaged files
        raise ValueError(f"{path} is not a readable checkpoint: it is damaged, or no file of torch.save") from error
    if not isinstance(state, dict) or not state.keys() >= _KEYS:
        raise ValueError(f"{path} is not a checkpoint of finetune; it lacks one of {', '.join(sorted(_KEYS))}")
    return state


def random_state() -> dict[str, Any]:
    """The state of every global generator that a model's forward pass may draw from (dropout, stochastic depth)."""
    version, words, gauss = random.getstate()
    numpy: Any = np.random.get_state()  # noqa: NPY002 (a model may draw from it)
    name, keys, position, has_gauss, cached = numpy
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "python": [version, list(words), gauss],
        "numpy": [name, keys.tolist(), int(position), int(has_gauss), float(cached)],
    }


def seed_random(seed: int) -> None:
    """Seed every global generator that :func:`random_state` covers. ``seed``: 64 bits, >= 0."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed([seed >> 32, seed & 0xFFFFFFFF])  # noqa: NPY002 (a model may draw from it)


def restore_random_state(state: dict[str, Any]) -> None:
    """Put back what :func:`random_state` returned. CUDA generators are restored where as many GPUs are present."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_initialized() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), position, has_gauss, cached))  # noqa: NPY002
