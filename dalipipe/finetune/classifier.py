"""From data on the disk to what :func:`finetune` wants: two data sets, and a model that fits them."""

from __future__ import annotations

import difflib
import functools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from dalipipe.finetune.checkpoint import load_checkpoint, read_weights
from dalipipe.finetune.models import MODELS
from dalipipe.finetune.parts import Part, choose
from dalipipe.finetune.segmentation import backbone_weights, open_segmentation, segmentation_model
from dalipipe.finetune.text_models import HFClassifier
from dalipipe.finetune.transfer.weights import start_from
from dalipipe.sources import ImageFolder, Packed, Source, Text, open_source
from dalipipe.sources.text_files import ENDINGS

_NO_AUXILIARY_HEAD = ("googlenet", "inception_v3")


def open_data(
    data: str | os.PathLike[str],
    task: str = "image",
    *,
    val_fraction: float | None = None,
    hold_out: str | None = None,
    rate_hz: float = 16000,
    channels: int = 1,
    tokenizer: str | os.PathLike[str] | None = None,
    max_length: int | None = None,
) -> tuple[Source, Source]:
    """What to train on and what to validate with.

    ``task``: ``"image"``, see :func:`open_folders`; ``"segmentation"``, see
    :func:`~dalipipe.finetune.segmentation.open_segmentation`; ``"audio"``, folders of sounds or manifests likewise,
    which come with ``rate_hz`` frames a second and ``channels``; ``"series"``, see :func:`open_series`; ``"text"``, see
    :func:`open_texts`.

    Raises ``FileNotFoundError``, ``ValueError`` as these do.
    """
    if task == "segmentation":
        return open_segmentation(data, val_fraction=val_fraction, hold_out=hold_out)
    if task == "text":
        if hold_out is not None:
            raise ValueError("texts of a file have no paths of their own to hold out: give val_fraction")
        return open_texts(data, val_fraction=val_fraction, tokenizer=tokenizer, max_length=max_length)
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


def open_texts(
    data: str | os.PathLike[str],
    *,
    val_fraction: float | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    max_length: int | None = None,
) -> tuple[Text, Text]:
    """Training and validation texts of two files, as :func:`text_files` finds them, or of one, of which a share of each
    class is kept for validation, see :func:`~dalipipe.finetune.parts.choose`. Words are numbered by those trained on.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: texts without classes; a class that only the validation texts have; how to split is not said, not
            wanted or impossible; or what `Text.open` has to say of a file.
    """
    files = text_files(data)
    options: dict[str, Any] = {"tokenizer": tokenizer, "max_length": max_length}
    whole = _with_classes(Text.open(files[0], **options), files[0])
    if len(files) == 1:
        if val_fraction is None:
            raise ValueError(
                f"{files[0]} is one file: split it with a val_fraction, 0.2 say, or give two, NAME_train and NAME_test"
            )
        chosen = choose(whole, files[0].parent, val_fraction=val_fraction, hold_out=None)
        assert whole.strings is not None and whole.labels is not None
        train, val = (
            Text([whole.strings[row] for row in rows], whole.labels[rows], classes=whole.classes, **options)
            for rows in (np.flatnonzero(~chosen), np.flatnonzero(chosen))
        )
        return train, val.with_vocabulary(train.vocabulary)
    if val_fraction is not None:
        raise ValueError(f"there are {files[0]} and {files[1]}, so leave val_fraction out")
    return whole, Text.open(files[1], classes=whole.classes, vocabulary=whole.vocabulary, **options)


def text_files(data: str | os.PathLike[str]) -> tuple[Path, ...]:
    """The files of a data set of texts, what is trained on first: ``train`` and ``val``, ``validation``, ``dev`` or
    ``test``, whichever of them is there first, in the folder ``data``; NAME_train and NAME_val, … for ``data`` NAME or
    the first of these files; or else the file ``data`` alone. They end in .tsv, .csv, .jsonl, .parquet or another that
    `Text.open` reads.

    Raises ``FileNotFoundError`` where there are none.
    """
    path = Path(data)
    if path.is_file():
        if not path.stem.endswith("train"):
            return (path,)
        found = _beside(path, path.stem.removesuffix("train"))
        return (path,) if found is None else (path, found)
    begin = path / "" if path.is_dir() else path
    stem = "" if path.is_dir() else f"{path.name}_"
    folder = begin if path.is_dir() else path.parent
    for ending in ENDINGS:
        train = folder / f"{stem}train{ending}"
        if train.is_file():
            found = _beside(train, stem)
            if found is None:
                raise FileNotFoundError(
                    f"there is {train}, and no file of this kind to validate with: {stem}val{ending}"
                )
            return train, found
    wanted = f"{folder / stem}train.tsv and {folder / stem}val.tsv"
    raise FileNotFoundError(f"no texts at {path}: give a file, such as texts.tsv, or {wanted}")


def _beside(train: Path, stem: str) -> Path | None:
    names = (f"{stem}{part}{train.suffix}" for part in ("val", "validation", "dev", "test"))
    return next((file for file in map(train.with_name, names) if file.is_file()), None)


def _with_classes(source: Text, file: Path) -> Text:
    """Its labels as classes, also where they are numbers without names."""
    labels = source.labels
    if labels is None:
        raise ValueError(f'{file} has texts without labels: give them a column "label" before, or besides, "text"')
    if source.classes is None:
        if labels.ndim != 1 or labels.dtype.kind != "i" or labels.min() < 0:
            raise ValueError(f"{file}: expected classes as labels, names or whole numbers from 0, got {labels[:3]}")
        source.classes = [str(number) for number in range(int(labels.max()) + 1)]
    return source


def _check_classes(train: Source, val: Source, train_name: str, val_name: str) -> None:
    if train.classes != val.classes:
        odd = sorted(set(train.classes or []) ^ set(val.classes or []))
        where = f"only one of them has {odd[0]!r}" if odd else "their order differs"
        raise ValueError(f"{train_name} and {val_name} must have the same classes; {where}")


def make_model(
    name: str,
    classes: int | Sequence[str],
    *,
    task: str = "image",
    channels: int = 1,
    vocabulary_size: int = 0,
    pad: int | None = None,
    weights: str | os.PathLike[str] | None = None,
) -> tuple[nn.Module, list[str]]:
    """A model with an output for each of the ``classes``, their number or names, and the names of the tensors that
    start at random.

    ``task``: ``"image"``, for torchvision's classification models, or ``timm/NAME`` for timm's; ``"segmentation"``, see
    :func:`~dalipipe.finetune.segmentation.segmentation_model`, which also start from a classifier's weights;
    ``"audio"`` or ``"series"``, for those of `dalipipe.finetune.models`, on ``channels``; ``"text"``, for those on
    words of a vocabulary, ``vocabulary_size`` of them, or the model of Hugging Face in the folder ``name``, with its
    weights, which learns from ``pad`` what stands behind texts if it does not say so itself. ``weights``: a file with
    a state dict, such as torchvision, timm and Hugging Face distribute, or a checkpoint of :func:`finetune`, see
    :func:`~dalipipe.finetune.read_weights`. A head of other classes, or none, is left at random; where
    ``classes`` are names, so is that of a checkpoint trained on others, or on these in another order, be they as many.
    Nothing is downloaded.

    Raises:
        ValueError: no model of this name, or a file whose tensors are not this model's.
        FileNotFoundError: ``weights`` names no file.
        ModuleNotFoundError: timm or transformers is missing.
    """
    model: nn.Module
    outputs = classes if isinstance(classes, int) else len(classes)
    if task == "segmentation":
        model = segmentation_model(name, outputs)
    elif task == "image":
        timm_name = name.removeprefix("timm/")
        model = _torchvision_model(name, outputs) if timm_name == name else _timm_model(timm_name, outputs)
    elif is_folder_of_model(name, task):
        model = HFClassifier.from_path(name, num_labels=outputs, pad_token_id=pad)
        if weights is None:
            return model, model.fresh
    else:
        model = _own_model(name, outputs, task, vocabulary_size if task == "text" else channels)
    if weights is None:
        return model, list(model.state_dict())
    loaded = read_weights(weights)
    if task == "segmentation" and (backbone := backbone_weights(loaded, model.state_dict())) is not None:
        model.load_state_dict(backbone, strict=False)
        return model, [key for key in model.state_dict() if key not in backbone]
    there = None if isinstance(classes, int) else read_classes(weights)
    same = there is None or isinstance(classes, int) or there == list(classes)
    return model, start_from(model, loaded, name=name, origin=weights, same_classes=same)


def _timm_model(name: str, classes: int) -> nn.Module:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"timm/{name} needs timm: pip install timm", name="timm") from error
    if not timm.is_model(name):
        raise ValueError(f"no timm model is called {name!r}{_instead(name, timm.list_models(), 'timm.list_models()')}")
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes)
    return model


def _torchvision_model(name: str, classes: int) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        hint = _instead(name, known, "torchvision.models.list_models()")
        raise ValueError(f"no torchvision model is called {name!r}{hint}")
    options = {"aux_logits": False, "init_weights": True} if name in _NO_AUXILIARY_HEAD else {}
    model: nn.Module = models.get_model(name, weights=None, num_classes=classes, **options)
    return model


def _instead(name: str, known: list[str], listed_by: str) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(close)}?" if close else f"; {listed_by} lists them"


def is_folder_of_model(name: str, task: str) -> bool:
    """Whether a model's name is that of a folder, as a Hugging Face model's is."""
    return task == "text" and name not in MODELS[task] and Path(name).is_dir()


def _own_model(name: str, classes: int, task: str, inputs: int) -> nn.Module:
    known = MODELS[task]
    if name not in known:
        besides = " and folders of Hugging Face models (save_pretrained)" if task == "text" else ""
        raise ValueError(f"no model for {task} is called {name!r}; there is {', '.join(known)}{besides}")
    return known[name](classes, inputs)


def longest_text(folder: str | os.PathLike[str]) -> int | None:
    """How many numbers of a tokenizer the model in a folder can take at most; None: not said there."""
    found = []
    for file, keys in (("tokenizer_config.json", _LENGTHS[:1]), ("config.json", _LENGTHS[1:])):
        path = Path(folder) / file
        settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        found += [settings[key] for key in keys if isinstance(settings.get(key), int) and 0 < settings[key] < 1 << 24]
    return min(found, default=None)


_LENGTHS = ("model_max_length", "max_position_embeddings", "n_positions")


def read_classes(path: str | os.PathLike[str]) -> list[str] | None:
    """The classes that a checkpoint of :func:`finetune` was trained on; ``None`` where a file of weights does not say.

    Raises ``FileNotFoundError`` where there is no such file.
    """
    try:
        classes: list[str] | None = load_checkpoint(path).get("classes")
    except ValueError:
        return None
    return classes
