"""Semantic segmentation: a class for every pixel. Data sets in folders, models, what is learnt, how good it is, and how
that looks.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dalipipe.decoders.pillow import decode_mask
from dalipipe.figures import class_colour, draw_grid, tinted
from dalipipe.finetune.objectives import Answers, Fields, Scores
from dalipipe.finetune.parts import Part, choose
from dalipipe.loader import DataLoader
from dalipipe.orders import Sequential, Subset
from dalipipe.policy import Policy
from dalipipe.records import Pictures
from dalipipe.sources import Cityscapes, ImageMasks, Source

_LOOKED_AT = 16  # masks of a data set, when it is opened


# What is learnt ----------------------------------------------------------------------------------------------------


def segment(
    model: nn.Module,
    batch: Fields,
    label_smoothing: float = 0.0,
    *,
    ignore_index: int = 255,
    auxiliary_weight: float = 0.5,
) -> Scores:
    """Cross-entropy of every pixel's class, the mean over all of a batch's pixels that count; an objective of
    :func:`finetune`, whose accuracy is the share of pixels, and whose `Evaluation` then has ``ious`` and ``mean_iou``.

    ``batch``: ``(*inputs, masks)``, masks int64 [N, H, W], classes or ``ignore_index``, where nothing is asked.
    ``model``: inputs → logits [N, classes, H, W], or, as torchvision's models give them, a mapping with ``out`` and
    perhaps ``aux``, whose loss is added in training with ``auxiliary_weight`` (Zhao et al., "Pyramid scene parsing
    network", CVPR 2017: 0.4; torchvision's reference: 0.5).

    Raises ``ValueError`` for logits of another size than the masks, and, on the CPU, for classes that the model has
    not; on CUDA these end in a device assertion.
    """
    *inputs, masks = batch
    found = model(*inputs)
    outputs = [found[name] for name in ("out", "aux") if name in found] if isinstance(found, Mapping) else [found]
    logits, *auxiliary = [output.float() for output in outputs]
    if masks.ndim != 3 or logits.ndim != 4 or logits.shape[2:] != masks.shape[1:]:
        raise ValueError(
            "segment: expected logits [N, classes, H, W] for masks [N, H, W], got "
            f"{list(logits.shape)} for {list(masks.shape)}; is it a model for segmentation, and are these label maps?"
        )
    options: Any = {"reduction": "none", "ignore_index": ignore_index, "label_smoothing": label_smoothing}
    try:
        losses = functional.cross_entropy(logits, masks, **options)
    except IndexError as error:
        raise ValueError(
            f"segment: masks hold classes up to {int(masks[masks != ignore_index].max())}, and the model has "
            f"{logits.shape[1]}, 0 to {logits.shape[1] - 1}; {ignore_index} is ignored"
        ) from error
    if torch.is_grad_enabled():
        for output in auxiliary:
            losses = losses + auxiliary_weight * functional.cross_entropy(output, masks, **options)
    asked, predicted = masks != ignore_index, logits.argmax(1)
    correct = (predicted == masks) & asked
    answers = Answers(masks.where(asked, -1), predicted, logits.shape[1])
    return Scores(losses.sum((1, 2)), correct.sum((1, 2)), asked.sum((1, 2)), answers)


# Data --------------------------------------------------------------------------------------------------------------


def is_cityscapes(data: str | os.PathLike[str]) -> bool:
    """Whether a folder is laid out as Cityscapes is published."""
    return (Path(data) / "leftImg8bit").is_dir()


def open_segmentation(
    data: str | os.PathLike[str], *, val_fraction: float | None = None, hold_out: str | None = None
) -> tuple[Source, Source]:
    """What to train on and to validate with, pictures with label maps: Cityscapes as it is published (``leftImg8bit``,
    ``gtFine``; 19 classes); or folders ``train`` and ``val`` with ``images`` and ``masks`` in each; or ``images`` and
    ``masks``, split by ``val_fraction`` or ``hold_out`` (:func:`~dalipipe.finetune.parts.choose`).

    A picture and its mask have the same path but for their endings. Of folders, ``classes.txt`` beside them names the
    classes, one a line; without it all masks are read for the highest class. 255 is ignored.

    Raises:
        FileNotFoundError: a folder is missing, or empty.
        ValueError: a picture without its mask, a mask with a class that there is not, how to split is not said, not
            wanted or impossible.
    """
    root, parts = Path(data), open_label_maps(data)
    if len(parts) == 1:
        whole = parts[0]
        chosen = choose(whole, root / "images", val_fraction=val_fraction, hold_out=hold_out)
        return Part(whole, np.flatnonzero(~chosen)), Part(whole, np.flatnonzero(chosen))
    for name, value in (("val_fraction", val_fraction), ("hold_out", hold_out)):
        if value is not None:
            raise ValueError(f"{root} has parts to train on and to validate with, so leave {name} out")
    return parts[0], parts[1]


def open_label_maps(data: str | os.PathLike[str]) -> list[Source]:
    """Its two parts, or the whole, as :func:`open_segmentation` finds them, and raises."""
    root = Path(data)
    if is_cityscapes(root):
        parts: list[Source] = [Cityscapes(root, split) for split in ("train", "val")]
    elif (root / "train").is_dir() or (root / "val").is_dir():
        parts = [_folders(root / split) for split in ("train", "val")]
    else:
        parts = [_folders(root)]
    if parts[0].classes is None:
        names = _class_names(root, parts)
        for part in parts:
            part.classes = names
    for part in parts:
        _check_masks(part)
    return parts


def _folders(root: Path) -> ImageMasks:
    for name in ("images", "masks"):
        if not (root / name).is_dir():
            raise FileNotFoundError(
                f"no folder at {root / name}: pictures with label maps lie in images/ and masks/, in train/ and val/ "
                "each or to be split; or in leftImg8bit/ and gtFine/, as Cityscapes has them"
            )
    return ImageMasks(root / "images", root / "masks")


def _class_names(root: Path, parts: Sequence[Source]) -> list[str]:
    file = root / "classes.txt"
    if file.is_file():
        names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        if len(names) < 2:
            raise ValueError(f"{file} must name two classes or more, one a line, got {len(names)}")
        return names
    ignore = parts[0].schema.of_kind("mask")[0].ignore_index
    found = {int(index) for part in parts for row in range(len(part)) for index in np.unique(_mask(part, row))}
    highest = max(found - {ignore}, default=-1)
    if highest < 1:
        raise ValueError(f"the masks in {root} hold no class but 0: there is nothing to tell apart")
    return [str(number) for number in range(highest + 1)]


def _mask(source: Source, row: int) -> np.ndarray:
    """[H, W], the classes as batches have them; nothing where it cannot be read, which the loader says better."""
    field = source.schema.of_kind("mask")[0]
    records = source.read(np.array([row], np.int64))
    if records.errors:
        return np.zeros((0, 0), np.int64)
    column = records.columns[field.name]
    try:
        mask = column[0][..., 0] if isinstance(column, Pictures) else decode_mask(column[0])
    except ValueError:
        return np.zeros((0, 0), np.int64)
    return mask if field.table is None else np.array(field.table)[np.minimum(mask, len(field.table) - 1)]


def _check_masks(source: Source) -> None:
    """A look at some masks, before an epoch is spent."""
    field, count = source.schema.of_kind("mask")[0], len(source.classes or [])
    for row in np.unique(np.linspace(0, len(source) - 1, _LOOKED_AT).round().astype(int)).tolist():
        wrong = [int(i) for i in np.unique(_mask(source, row)) if not 0 <= i < count and i != field.ignore_index]
        if wrong:
            raise ValueError(
                f"the mask of {source.describe(row)} holds class {wrong[-1]}: expected one of {count} classes, 0 to "
                f"{count - 1}, or {field.ignore_index}, which is ignored; name all classes in classes.txt"
            )


# Models ------------------------------------------------------------------------------------------------------------


class SmallUNet(nn.Module):
    """A U-Net to train from scratch (Ronneberger, Fischer, Brox, "U-Net: convolutional networks for biomedical image
    segmentation", MICCAI 2015), with zeros around pictures and BatchNorm, and an eighth of the paper's channels: 0.5
    million parameters.

    Args:
        classes: outputs.
        channels: of the pictures.
        width: channels of the first block, >= 1; each further one of four has twice as many.
    """

    def __init__(self, classes: int, channels: int = 3, width: int = 16) -> None:
        super().__init__()
        widths = [channels, width, 2 * width, 4 * width, 8 * width]
        self.down = nn.ModuleList(_block(before, after) for before, after in itertools.pairwise(widths))
        self.up = nn.ModuleList(_block(deep + own, own) for own, deep in reversed(list(itertools.pairwise(widths[1:]))))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``x``: float [N, C, H, W], of any size. Gives float [N, classes, H, W]."""
        passed = []
        for number, block in enumerate(self.down):
            x = block(functional.max_pool2d(x, 2, ceil_mode=True) if number else x)
            passed.append(x)
        passed.pop()
        for block in self.up:
            beside = passed.pop()
            x = functional.interpolate(x, beside.shape[2:], mode="bilinear", align_corners=False)
            x = block(torch.cat([x, beside], 1))
        return self.head(x)


def _block(before: int, after: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (before, after):
        layers += [nn.Conv2d(channels, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def segmentation_model(name: str, classes: int) -> nn.Module:
    """``small-unet``, or any of torchvision's models for segmentation (``lraspp_mobilenet_v3_large``,
    ``deeplabv3_resnet50``, ``fcn_resnet101``, ...), its weights at random, without auxiliary heads.

    Raises ``ValueError`` where there is none of this name.
    """
    if name == "small-unet":
        return SmallUNet(classes)
    from torchvision import models

    known = models.list_models(module=models.segmentation)
    if name not in known:
        raise ValueError(f"no model for segmentation is called {name!r}; there are small-unet, {', '.join(known)}")
    model: nn.Module = models.get_model(name, weights=None, weights_backbone=None, num_classes=classes)
    return model


def backbone_weights(loaded: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Of a classifier's tensors those that a segmentation model's backbone can start with, by the names that they have
    there: ImageNet's weights of ``resnet50`` for ``deeplabv3_resnet50``, say. ``None`` where there are others to fill:
    it is no classifier of this backbone.
    """
    renamed = {f"backbone.{name.removeprefix('features.')}": value for name, value in loaded.items()}
    backbone = [name for name in own if name.startswith("backbone.")]
    wanted = [name for name in backbone if not name.endswith("num_batches_tracked")]  # older files lack it
    if not wanted or any(name not in renamed or renamed[name].shape != own[name].shape for name in wanted):
        return None
    return {name: renamed.get(name, own[name]) for name in backbone}


# How it looks ------------------------------------------------------------------------------------------------------


def draw_predictions(
    model: nn.Module,
    source: Source,
    policy: Policy,
    path: str | os.PathLike[str],
    *,
    samples: int = 4,
    title: str = "",
) -> Path:
    """Write a PNG with a row per picture, evenly spaced in ``source``: the picture, its label map, what ``model`` makes
    of it, and, in red, the pixels where the two differ. What is ignored is dark, class 0 has no colour.

    ``policy``: the one for validation. The model is put into evaluation mode, and works where its parameters are.

    Raises:
        ValueError: ``samples`` is less than one, or the source has no field of masks.
        SampleError: a sample cannot be read.
    """
    fields = source.schema.of_kind("mask")
    if samples < 1 or not fields:
        problem = f"samples must be at least 1, got {samples}" if fields else f"{source!r} has no label maps"
        raise ValueError(f"draw_predictions: {problem}")
    device, ignore = next(model.parameters()).device, fields[0].ignore_index
    image_name = source.schema.of_kind("image")[0].name
    picks = np.unique(np.linspace(0, len(source) - 1, min(samples, len(source))).round().astype(int))
    loader = DataLoader(
        source, 1, sampler=Subset(picks, Sequential()), policy=policy, device=device, num_workers=1, seed=0
    )
    normalize = getattr(loader.plan.fold, "normalize", None)
    model.eval()
    rows, labels, shown_classes = [], [], set[int]()
    for batch in loader:
        images, mask = getattr(batch, image_name), getattr(batch, fields[0].name)[0].cpu().numpy()
        with torch.inference_mode():
            found = model(images)
        logits = found["out"] if isinstance(found, Mapping) else found
        predicted = logits[0].argmax(0).cpu().numpy()
        shown = images[0].float().cpu()
        if normalize is not None:
            mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in (normalize.mean, normalize.std))
            shown = shown * std + mean
        picture = (shown * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
        counts = mask != ignore
        shown_classes |= set(np.unique(np.concatenate([mask[counts], predicted[counts]])).tolist())
        wrong = np.broadcast_to(picture, (*mask.shape, 3)) // 3
        wrong[counts & (predicted != mask)] = (235, 50, 50)
        laid_over = [tinted(picture, classes, ignore=ignore) for classes in (mask, np.where(counts, predicted, ignore))]
        rows.append([picture, *laid_over, wrong])
        right = (predicted == mask)[counts].mean() if counts.any() else 1.0
        labels.append(f"{os.path.basename(source.describe(int(batch.indices[0])))[:18]}\n{right:.0%} right")
    columns = ("picture", "truth", "prediction", "wrong")
    names = source.classes or [str(index) for index in range(max(shown_classes) + 1)]
    legend = [(names[index], _half_grey(index)) for index in sorted(shown_classes)]
    return draw_grid(rows, path, cell_px=224, row_labels=labels, column_labels=columns, title=title, legend=legend)


def _half_grey(index: int) -> tuple[int, int, int]:
    """A class's colour as it looks over a picture; white for class 0, which has none."""
    red, green, blue = (255, 255, 255) if not index else (0.75 * class_colour(index) + 0.25 * 128).astype(int).tolist()
    return red, green, blue
