"""Checkpoints: one safetensors file, written whole or not at all; nothing in it is ever executed.

The tensors have the names of their places, ``model.*``, ``ema.*``, ``optimizer.*``, so any reader of the format finds
the weights of the model by leaving ``model.`` out; the rest of the state is JSON in the file's metadata. Tensors that
share their memory, such as tied weights, are in the file once, under their first name.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

_KEYS = {"settings", "model", "optimizer", "state", "random", "loader"}
_METADATA = "dalipipe"
_TENSOR, _ARRAY, _TUPLE, _DICT, _BYTES = "$tensor", "$array", "$tuple", "$dict", "$bytes"  # what JSON does not have


def save_checkpoint(path: str | os.PathLike[str], state: dict[str, Any]) -> None:
    """Write ``state`` to ``path`` atomically: whoever reads ``path`` finds the old file or the new one, both complete.

    The bytes go to a temporary folder in the same one, reach the disk, and then take the name in one rename; a crash,
    a full disk or a kill in between leaves the old checkpoint as it was.

    ``state``: dicts, lists and tuples of tensors, arrays, numbers, strings, bytes, True, False and None.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
        TypeError: there is something else in the state; the message says where.
    """
    path = Path(path)
    tensors: dict[str, torch.Tensor] = {}
    rest = json.dumps(_Encoder(tensors).encode(state, ()))
    folder = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        folder.mkdir(exist_ok=True)  # safetensors, too, may leave an unfinished file of a name of its own
        try:
            save_file(tensors, folder / path.name, {"format": "pt", _METADATA: rest})
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written: {error}") from error
        (folder / path.name).chmod(folder.stat().st_mode & 0o666)  # who may read it is up to the user's umask
        with open(folder / path.name, "rb") as file:
            os.fsync(file.fileno())
        os.replace(folder / path.name, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_unfinished(path: str | os.PathLike[str]) -> None:
    """Deletes what processes that were killed while they wrote ``path`` have left beside it."""
    path = Path(path)
    for folder in path.parent.glob(f".{path.name}.*.tmp"):
        shutil.rmtree(folder, ignore_errors=True)


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, as it was given to :func:`save_checkpoint`; or one of before they were of
    safetensors, ``checkpoint.pt``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a checkpoint of ``finetune``.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; start the run without resume, or name its folder")
    state: Any
    try:
        state = torch.load(path, map_location="cpu", weights_only=True) if path.suffix == ".pt" else _read(path)
    except Exception as error:  # torch raises half a dozen types for damaged files
        raise ValueError(f"{path} is not a readable checkpoint: it is damaged, or of another format") from error
    if not isinstance(state, dict) or not state.keys() >= _KEYS:
        raise ValueError(f"{path} is not a checkpoint of finetune; it lacks one of {', '.join(sorted(_KEYS))}")
    return state


def read_weights(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """The state dict of a model, on the CPU, from whatever file there is of it: a checkpoint of ``finetune``, its
    average over the steps where it has one; a safetensors file, such as timm and Hugging Face distribute; or what
    ``torch.save`` wrote, such as torchvision's .pth.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, or holds no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no weights at {path}: give a file with a state dict, such as a .pth of torchvision or a .safetensors"
        )
    loaded: Any
    try:
        if path.suffix == ".safetensors":
            loaded = _read(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types for damaged files
        raise ValueError(
            f"{path} cannot be read as weights: it is damaged, or neither a .safetensors nor "
            "torch.save(model.state_dict(), path)"
        ) from error
    for wrapper in ("ema", "model", "state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not loaded or not all(isinstance(v, torch.Tensor) for v in loaded.values()):
        raise ValueError(f"{path} holds no state dict (name → tensor)")
    return loaded


def digest_of(tensors: Mapping[str, torch.Tensor], begin: str = "") -> str:
    """Of names, types, shapes and contents, and of ``begin``: 24 hexadecimal digits."""
    hashed = hashlib.blake2b(begin.encode(), digest_size=12)
    for name, value in tensors.items():
        hashed.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        hashed.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()


def _read(path: Path) -> Any:
    """What `save_checkpoint` was given; of another's safetensors file, its tensors."""
    with safe_open(path, "pt") as file:
        rest = (file.metadata() or {}).get(_METADATA)
        if rest is None:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        tensors: dict[str, torch.Tensor] = {}

        def tensor(name: str) -> torch.Tensor:
            if name not in tensors:
                tensors[name] = file.get_tensor(name)
            return tensors[name]

        return _decode(json.loads(rest), tensor)


class _Encoder:
    """Makes a state into JSON, with the names of tensors in their places, and puts these into ``tensors``."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = tensors
        self.names: dict[Any, str] = {}  # of tensors, by the memory they are

    def encode(self, value: Any, at: tuple[str, ...]) -> Any:
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, torch.Tensor):
            return {_TENSOR: self._name(value.detach(), at)}
        if isinstance(value, np.ndarray):
            return {_ARRAY: self._name(torch.from_numpy(np.array(value, order="C")), at)}
        if isinstance(value, bytes):
            return {_BYTES: base64.b64encode(value).decode()}
        if isinstance(value, (list, tuple)):
            items = [self.encode(item, (*at, str(number))) for number, item in enumerate(value)]
            return items if isinstance(value, list) else {_TUPLE: items}
        if isinstance(value, dict):
            items = [[key, self.encode(item, (*at, str(key)))] for key, item in value.items()]
            if all(isinstance(key, str) and not key.startswith("$") for key in value):
                return dict(items)
            return {_DICT: [[self.encode(key, at), item] for key, item in items]}
        raise TypeError(
            f"a checkpoint cannot hold a {type(value).__name__}, found at {'.'.join(at)}: give tensors, arrays, "
            "numbers, strings, bytes, and lists, tuples and dicts of them"
        )

    def _name(self, tensor: torch.Tensor, at: tuple[str, ...]) -> str:
        place = tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
        if tensor.numel() and place in self.names:
            return self.names[place]
        name = ".".join(at)
        while name in self.tensors:
            name += "_"
        self.names[place] = name
        whole = tensor.cpu().contiguous()
        if whole.untyped_storage().nbytes() != whole.nbytes:  # a part of a larger one, which must not be written along
            whole = whole.clone()
        self.tensors[name] = whole
        return name


def _decode(value: Any, tensor: Callable[[str], torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensor) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        (kind, inside), *_ = value.items()
        if kind == _TENSOR:
            return tensor(inside)
        if kind == _ARRAY:
            return tensor(inside).numpy()
        if kind == _BYTES:
            return base64.b64decode(inside)
        if kind == _TUPLE:
            return tuple(_decode(inside, tensor))
        if kind == _DICT:
            return {_decode(key, tensor): _decode(item, tensor) for key, item in inside}
    return {key: _decode(item, tensor) for key, item in value.items()}


def random_state() -> dict[str, Any]:
    """The state of every global generator that a model's forward pass may draw from (dropout, stochastic depth)."""
    version, words, gauss = random.getstate()
    numpy: Any = np.random.get_state()  # noqa: NPY002 (a model may draw from it)
    name, keys, position, has_gauss, cached = numpy
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "python": [version, torch.tensor(words), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)],
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
    random.setstate((version, tuple(torch.as_tensor(words).tolist()), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    words = torch.as_tensor(keys).numpy().astype(np.uint32)
    np.random.set_state((name, words, position, has_gauss, cached))  # noqa: NPY002
