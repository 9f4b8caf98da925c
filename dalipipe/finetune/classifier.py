"""From data on the disk to what :func:`finetune` wants: two data sets, and a model that fits them."""

from __future__ import annotations

import difflib
import functools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dalipipe.finetune.models import MODELS
from dalipipe.finetune.parts import Part, choose
from dalipipe.sources import ImageFolder, Packed, Source, open_source

_NO_AUXILIARY_HEAD = ("googlenet", "inception_v3")


def open_data(
    data: str | os.PathLike[str],
    task: str = "image",
    *,
    val_fraction: float | None = None,
    hold_out: str | None = None,
    rate_hz: float = 16000,
    channels: int = 1,
) -> tuple[Source, Source]:
    """What to train on and what to validate with.

    ``task``: ``"image"``, see :func:`open_folders`; ``"audio"``, folders of sounds or manifests likewise, which come
    with ``rate_hz`` frames a second and ``channels``; ``"series"``, see :func:`open_series`.

    Raises ``FileNotFoundError``, ``ValueError`` as these do.
    """
    if task == "audio":
        opener = functools.partial(open_audio, rate_hz=rate_hz, channels=channels)
        train, val = open_folders(data, val_fraction=val_fraction, hold_out=hold_out, opener=opener)
        if train.labels is None:
            raise ValueError(f"{data} lists sounds without labels: there is nothing to learn from it")
        return train, val
    if task == "series":
        if val_fraction is not None or hold_out is not None:
            raise ValueError("series come in two files, _TRAIN.ts and _TEST.ts: leave val_fraction and hold_out out")
        return open_series(data)
    return open_folders(data, val_fraction=val_fraction, hold_out=hold_out)


def open_folders(
    data: str | os.PathLike[str],
    *,
    val_fraction: float | None = None,
    hold_out: str | None = None,
    opener: Callable[[Path], Source] = open_source,
) -> tuple[Source, Source]:
    """Training and validation records from ``data/train`` and ``data/val``, folders of classes or packs; or one folder
    of classes split in two, see :func:`~dalipipe.finetune.parts.choose`. ``opener`` opens each.

    Raises:
        FileNotFoundError: a folder is missing or holds no pictures in class folders.
        ValueError: the two folders have different classes, how to split is not said, not wanted or impossible.
    """
    root = Path(data)
    if not root.is_dir() and (opener is open_source or not root.is_file()):
        raise FileNotFoundError(f"no folder at {root}: give one that has train/ and val/, or a sub-folder per class")
    parts = [root / "train", root / "val"]
    if any(part.is_dir() for part in parts):
        for name, value in (("val_fraction", val_fraction), ("hold_out", hold_out)):
            if value is not None:
                raise ValueError(f"{root} has a train/ or val/ folder, so leave {name} out")
        for part in parts:
            if not part.is_dir():
                raise FileNotFoundError(f"no folder at {part}: {root} must hold both train/ and val/")
        train, val = (opener(part) for part in parts)
        _check_classes(train, val, *map(str, parts))
        return train, val
    whole = opener(root)
    if isinstance(whole, Packed):
        raise ValueError(f"{root} is a pack of one data set: pack train/ and val/ into folders of these names")
    chosen = choose(whole, root if root.is_dir() else root.parent, val_fraction=val_fraction, hold_out=hold_out)
    if not isinstance(whole, ImageFolder):
        return Part(whole, np.flatnonzero(~chosen)), Part(whole, np.flatnonzero(chosen))
    samples = list(zip(whole.paths, whole.labels.tolist(), strict=True))
    train_samples = [sample for sample, for_val in zip(samples, chosen, strict=True) if not for_val]
    val_samples = [sample for sample, for_val in zip(samples, chosen, strict=True) if for_val]
    return tuple(ImageFolder.from_samples(part, whole.classes) for part in (train_samples, val_samples))  # type: ignore[return-value]


def open_audio(path: Path, *, rate_hz: float, channels: int) -> Source:
    """A folder of sounds, or a manifest that lists some."""
    from dalipipe.sources import AudioFolder, AudioManifest

    return (AudioFolder if path.is_dir() else AudioManifest)(path, rate_hz=rate_hz, channels=channels)


def open_series(data: str | os.PathLike[str]) -> tuple[Source, Source]:
    """Training and validation series from ``data_TRAIN.ts`` and ``data_TEST.ts``, as the UCR and UEA archives have
    them. ``data`` may also be the first of the two files, or the folder of its name that holds both.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: they differ in classes or channels.
    """
    from dalipipe.sources import Series

    files = [series_file(data, part) for part in ("TRAIN", "TEST")]
    train, val = (Series.open(file) for file in files)
    _check_classes(train, val, *map(str, files))
    channels = [source.schema.of_kind("series")[0].channels for source in (train, val)]
    if channels[0] != channels[1]:
        raise ValueError(f"{files[0]} has series of {channels[0]} channels, {files[1]} of {channels[1]}")
    return train, val


def series_file(data: str | os.PathLike[str], part: str = "TRAIN") -> Path:
    """The file of a data set that is named as for :func:`open_series`. ``part``: ``"TRAIN"`` or ``"TEST"``.

    Raises ``FileNotFoundError`` where there is none.
    """
    path = Path(data)
    path = path / path.name if path.is_dir() else path.with_name(path.name.removesuffix("_TRAIN.ts"))
    file = path.with_name(f"{path.name}_{part}.ts")
    if not file.is_file():
        raise FileNotFoundError(f"no series at {file}: give NAME for the files NAME_TRAIN.ts and NAME_TEST.ts")
    return file


def _check_classes(train: Source, val: Source, train_name: str, val_name: str) -> None:
    if train.classes != val.classes:
        odd = sorted(set(train.classes or []) ^ set(val.classes or []))
        where = f"only one of them has {odd[0]!r}" if odd else "their order differs"
        raise ValueError(f"{train_name} and {val_name} must have the same classes; {where}")


def make_model(
    name: str,
    classes: int,
    *,
    task: str = "image",
    channels: int = 1,
    weights: str | os.PathLike[str] | None = None,
) -> tuple[nn.Module, list[str]]:
    """A model with ``classes`` outputs, and the names of the tensors that start at random.

    ``task``: ``"image"``, for torchvision's classification models; ``"audio"`` or ``"series"``, for those of
    `dalipipe.finetune.models`, on ``channels``. ``weights``: a file with a state dict, such as torchvision distributes,
    or a checkpoint of :func:`finetune`. Tensors of another shape (the head, where the classes differ) are left at
    random; nothing is downloaded.

    Raises:
        ValueError: no model of this name, or a file whose tensors are not this model's.
        FileNotFoundError: ``weights`` names no file.
    """
    model = _torchvision_model(name, classes) if task == "image" else _signal_model(name, classes, task, channels)
    if weights is None:
        return model, list(model.state_dict())

    loaded = _read_weights(Path(weights))
    own = model.state_dict()
    fitting = {key: value for key, value in loaded.items() if key in own and own[key].shape == value.shape}
    foreign = [key for key in loaded if key not in own and not key.startswith(("aux", "AuxLogits"))]
    absent = [key for key in own if key not in loaded]
    if foreign or absent or len(fitting) < len(own) // 2:
        problem = "most tensors have another shape"
        if foreign or absent:
            problem = f"it has {foreign[0]!r}" if foreign else f"it lacks {absent[0]!r}"
        raise ValueError(f"{weights} holds no weights of a {name}: {problem}; give the file made for this model")
    model.load_state_dict({**own, **fitting})
    return model, [key for key in own if key not in fitting]


def _torchvision_model(name: str, classes: int) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else "; torchvision.models.list_models() lists them"
        raise ValueError(f"no torchvision model is called {name!r}{hint}")
    options = {"aux_logits": False, "init_weights": True} if name in _NO_AUXILIARY_HEAD else {}
    model: nn.Module = models.get_model(name, weights=None, num_classes=classes, **options)
    return model


def _signal_model(name: str, classes: int, task: str, channels: int) -> nn.Module:
    known = MODELS[task]
    if name not in known:
        raise ValueError(f"no model for {task} is called {name!r}; there is {', '.join(known)}")
    return known[name](classes, channels)


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}: give a file with a state dict, such as a .pth of torchvision")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types for damaged files
        raise ValueError(
            f"{path} cannot be read as weights: it is damaged, or not torch.save(model.state_dict(), path)"
        ) from error
    for wrapper in ("model", "state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not loaded or not all(isinstance(v, torch.Tensor) for v in loaded.values()):
        raise ValueError(f"{path} holds no state dict (name → tensor)")
    return loaded
