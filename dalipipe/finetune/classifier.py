"""From a folder of pictures to what :func:`finetune` wants: two data sets, and a torchvision model that fits them."""

from __future__ import annotations

import difflib
import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dalipipe.sources import ImageFolder, Source, open_source

_NO_AUXILIARY_HEAD = ("googlenet", "inception_v3")


def open_folders(data: str | os.PathLike[str], *, val_fraction: float | None = None) -> tuple[Source, Source]:
    """Training and validation pictures from ``data/train`` and ``data/val``, folders of classes or packs; or one folder
    of classes split in two.

    The split is stratified and depends on the files' paths within ``data`` alone: in each class, the ``val_fraction``
    with the lowest hashes (rounded, at least one picture on each side) are for validation.

    Raises:
        FileNotFoundError: a folder is missing or holds no pictures in class folders.
        ValueError: the two folders have different classes, ``val_fraction`` is missing, not wanted or out of (0, 1),
            or a class is too small to split.
    """
    root = Path(data)
    if not root.is_dir():
        raise FileNotFoundError(f"no folder at {root}: give one that has train/ and val/, or a sub-folder per class")
    parts = [root / "train", root / "val"]
    if any(part.is_dir() for part in parts):
        if val_fraction is not None:
            raise ValueError(f"{root} has a train/ or val/ folder, so leave val_fraction out")
        for part in parts:
            if not part.is_dir():
                raise FileNotFoundError(f"no folder at {part}: {root} must hold both train/ and val/")
        train, val = (open_source(part) for part in parts)
        if train.classes != val.classes:
            odd = sorted(set(train.classes or []) ^ set(val.classes or []))
            raise ValueError(f"{parts[0]} and {parts[1]} must have the same classes; only one of them has {odd[0]!r}")
        return train, val
    whole = open_source(root)
    if not isinstance(whole, ImageFolder):
        raise ValueError(f"{root} is a pack of one data set: pack train/ and val/ into folders of these names")
    if val_fraction is None:
        raise ValueError(f"{root} has no train/ and val/ folders: make them, or split it with a val_fraction, 0.2 say")
    if not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction must be in (0, 1), got {val_fraction}")
    for_val = _choose(whole, root, val_fraction)
    samples = list(zip(whole.paths, whole.labels.tolist(), strict=True))
    train_samples = [sample for sample, chosen in zip(samples, for_val, strict=True) if not chosen]
    val_samples = [sample for sample, chosen in zip(samples, for_val, strict=True) if chosen]
    return tuple(ImageFolder.from_samples(part, whole.classes) for part in (train_samples, val_samples))  # type: ignore[return-value]


def _choose(whole: ImageFolder, root: Path, fraction: float) -> np.ndarray:
    """bool [N]: which pictures are for validation."""
    hashes = [hashlib.blake2b(os.fsencode(os.path.relpath(path, root)), digest_size=8).digest() for path in whole.paths]
    order = np.array(sorted(range(len(whole)), key=hashes.__getitem__))
    chosen = np.zeros(len(whole), bool)
    for label, name in enumerate(whole.classes or []):
        members = order[whole.labels[order] == label]
        if len(members) < 2:
            raise ValueError(
                f"class {name!r} has {len(members)} picture, too few to split; add some or remove the class"
            )
        chosen[members[: min(max(1, round(fraction * len(members))), len(members) - 1)]] = True
    return chosen


def make_model(
    name: str, classes: int, *, weights: str | os.PathLike[str] | None = None
) -> tuple[nn.Module, list[str]]:
    """A torchvision classification model with ``classes`` outputs, and the names of the tensors that start at random.

    ``weights``: a file with a state dict, such as torchvision distributes, or a checkpoint of :func:`finetune`.
    Tensors of another shape (the head, where the classes differ) are left at random; nothing is downloaded.

    Raises:
        ValueError: no model of this name, or a file whose tensors are not this model's.
        FileNotFoundError: ``weights`` names no file.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else "; torchvision.models.list_models() lists them"
        raise ValueError(f"no torchvision model is called {name!r}{hint}")
    options = {"aux_logits": False, "init_weights": True} if name in _NO_AUXILIARY_HEAD else {}
    model: nn.Module = models.get_model(name, weights=None, num_classes=classes, **options)
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
