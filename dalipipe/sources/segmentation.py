"""Pictures and their label maps, in folders side by side; Cityscapes as it is published."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dalipipe.records import Encoded, Records
from dalipipe.schema import Field, Schema
from dalipipe.sources.base import Source, digest
from dalipipe.sources.index.names import Names
from dalipipe.sources.index.scan import scan
from dalipipe.storage import Storage, is_remote

Root = str | os.PathLike[str]


class ImageMasks(Source):
    """Pictures with a label map each: files of one folder paired with files of another by their paths within it,
    without ``image_suffix`` and ``mask_suffix``.

    Fields: ``image`` (any format that DALI or Pillow decodes, converted to RGB) and ``mask`` (one channel of class
    indices: grey or palette PNGs, say). Samples are sorted by path.

    Args:
        images, masks: folders, or URLs of folders in a store; they may be the same where the suffixes differ.
        image_suffix, mask_suffix: how the names end, "_leftImg8bit.png", say; others are passed over. None: the
            endings of picture formats.
        table: new class index of each old one, 0 and up; what is beyond its end is to be ignored.
        ignore_index: the class of what is to be ignored; it stands where geometry leaves the picture.
        classes: names of the classes, in the order of their indices.
        storage: reads and lists; None: local files, and stores by their default settings.

    Raises:
        FileNotFoundError: a missing or empty folder.
        ValueError: a picture without its mask, or a mask without its picture; the first few are named.
    """

    def __init__(
        self,
        images: Root,
        masks: Root,
        *,
        image_suffix: str | None = None,
        mask_suffix: str | None = None,
        table: Sequence[int] | None = None,
        ignore_index: int = 255,
        classes: Sequence[str] | None = None,
        storage: Storage | None = None,
    ) -> None:
        images, masks, storage = os.fspath(images), os.fspath(masks), storage or Storage()
        if (images, image_suffix) == (masks, mask_suffix):
            raise ValueError(f"ImageMasks: {images!r} cannot be both: name two folders, or two suffixes")
        image_of = _by_stem(images, image_suffix, storage)
        mask_of = _by_stem(masks, mask_suffix, storage)
        stems = sorted(image_of)
        for of, others, what, lacking, where in (
            (image_of, mask_of, "pictures", "mask", os.path.join(masks, "*" + (mask_suffix or ""))),
            (mask_of, image_of, "masks", "picture", os.path.join(images, "*" + (image_suffix or ""))),
        ):
            lone = sorted(of[stem] for stem in of.keys() - others.keys())
            if lone:
                few = ", ".join(map(repr, lone[:3])) + (", …" if len(lone) > 3 else "")
                raise ValueError(f"{len(lone)} of {len(of)} {what} have no {lacking} ({few}; looked for {where})")
        self.image_paths = Names.of([image_of[stem] for stem in stems], os.path.join(images, ""))
        self.mask_paths = Names.of([mask_of[stem] for stem in stems], os.path.join(masks, ""))
        ignore_index = _check_index("ignore_index", ignore_index)
        if table is not None:
            table = (*(_check_index("table's entries", index) for index in table), ignore_index)
        mask = Field("mask", "mask", channels=1, ignore_index=ignore_index, table=table)
        self.schema = Schema((Field("image", "image", channels=3), mask))
        self.classes = None if classes is None else list(classes)
        self.storage = storage

    def __len__(self) -> int:
        return len(self.image_paths)

    def read(self, indices: np.ndarray, *, threads: int = 1, allocate: Any = None) -> Records:
        n = len(indices)
        paths = self.image_paths.take(indices) + self.mask_paths.take(indices)
        arena, starts, failed = self.storage.read(paths, threads=threads, allocate=allocate)
        errors: dict[int, Exception] = {}
        for position, error in sorted(failed.items()):
            errors.setdefault(position % n, error)
        return Records({"image": Encoded(arena, starts[: n + 1]), "mask": Encoded(arena, starts[n:])}, errors)

    def fingerprint(self) -> str:
        # The roots may move between machines; what lies under them may not.
        mask = self.schema.fields[1]
        parts = [self.image_paths.arena.tobytes(), self.mask_paths.arena.tobytes(), repr(mask).encode()]
        return f"masks-{len(self)}-{digest(parts)}"

    def describe(self, index: int) -> str:
        return self.image_paths[index]

    def files(self) -> Iterable[str]:
        return (path for paths in (self.image_paths, self.mask_paths) for path in paths if not is_remote(path))

    def close(self) -> None:
        self.storage.close()

    def __repr__(self) -> str:
        classes = f", {len(self.classes)} classes" if self.classes else ""
        return f"{type(self).__name__}({len(self)} pictures with masks{classes})"


class Cityscapes(ImageMasks):
    """Cityscapes in its published layout: ``leftImg8bit/<split>/<city>`` and ``gtFine`` or ``gtCoarse`` beside it.

    Args:
        root: the folder, or URL, that holds them.
        split: "train", "val", "test" (fine) or "train_extra" (coarse).
        mode: "fine" or "coarse" annotations.
        target: "semantic", or "instance": int32, class id · 1000 + number where things can be told apart.
        train_ids: of semantic targets: the 19 classes that count, 0..18, and 255 for what is to be ignored, from
            ``*_labelTrainIds.png`` files or, where they have not been made, from ``*_labelIds.png`` by the public
            table; else the 34 ids as they are.
        storage: reads and lists; None: local files, and stores by their default settings.

    Raises:
        FileNotFoundError: a missing or empty folder.
        ValueError: an argument that is none of the above, or a picture without its mask.

    Source: M. Cordts et al., *The Cityscapes Dataset for Semantic Urban Scene Understanding*, CVPR 2016; the table:
    ``labels.py`` of cityscapesScripts.
    """

    def __init__(
        self,
        root: Root,
        split: str = "train",
        mode: str = "fine",
        target: str = "semantic",
        train_ids: bool = True,
        *,
        storage: Storage | None = None,
    ) -> None:
        splits = {"fine": ("train", "val", "test"), "coarse": ("train", "train_extra", "val")}
        for name, value, allowed in (
            ("mode", mode, tuple(splits)),
            ("split", split, splits.get(mode, ())),
            ("target", target, ("semantic", "instance")),
        ):
            if value not in allowed:
                raise ValueError(f"Cityscapes: {name} must be one of {', '.join(allowed)}, got {value!r}")
        storage = storage or Storage()
        annotations = "gtFine" if mode == "fine" else "gtCoarse"
        images, masks = (os.path.join(root, part, split) for part in ("leftImg8bit", annotations))
        kind, table = "instanceIds" if target == "instance" else "labelIds", None
        train_ids = train_ids and target == "semantic"
        if train_ids:
            made = _by_stem(masks, f"_{annotations}_labelTrainIds.png", storage, may_be_empty=True)
            if made.keys() >= _by_stem(images, "_leftImg8bit.png", storage).keys():
                kind = "labelTrainIds"
            else:
                table = CITYSCAPES_TRAIN_IDS
        super().__init__(
            images,
            masks,
            image_suffix="_leftImg8bit.png",
            mask_suffix=f"_{annotations}_{kind}.png",
            table=table,
            ignore_index=255 if train_ids else 0,
            classes=[name for name, counts in CITYSCAPES_LABELS if counts or not train_ids],
            storage=storage,
        )


CITYSCAPES_LABELS = tuple(
    (name.strip("*").replace("_", " "), name.endswith("*"))
    for name in (
        "unlabeled ego_vehicle rectification_border out_of_roi static dynamic ground road* sidewalk* parking "
        "rail_track building* wall* fence* guard_rail bridge tunnel pole* polegroup traffic_light* traffic_sign* "
        "vegetation* terrain* sky* person* rider* car* truck* bus* caravan trailer train* motorcycle* bicycle*"
    ).split()
)
"""Name of each id 0..33, and whether it counts: those that do are numbered on as train ids."""

CITYSCAPES_TRAIN_IDS = tuple(
    sum(counts for _, counts in CITYSCAPES_LABELS[:i]) if CITYSCAPES_LABELS[i][1] else 255
    for i in range(len(CITYSCAPES_LABELS))
)
"""Train id of each id 0..33; 255: to be ignored."""


def _by_stem(root: str, suffix: str | None, storage: Storage, *, may_be_empty: bool = False) -> dict[str, str]:
    """Path without its suffix → path, both relative to the root."""
    found: dict[str, str] = {}
    for folder, names in scan(root, storage).files.items():
        for name in names:
            if suffix is not None and not name.endswith(suffix):
                continue
            stem = os.path.join(folder, os.path.splitext(name)[0] if suffix is None else name[: -len(suffix)])
            path = os.path.join(folder, name)
            if stem in found:
                raise ValueError(
                    f"{found[stem]!r} and {path!r} in {root!r} go by one name: say by a suffix which of them counts"
                )
            found[stem] = path
    if not found and not may_be_empty:
        raise FileNotFoundError(f"{root!r} holds no pictures{'' if suffix is None else f' named *{suffix}'}")
    return found


def _check_index(name: str, index: Any) -> int:
    if not isinstance(index, (int, np.integer)) or isinstance(index, bool) or not -(1 << 31) <= index < 1 << 31:
        raise ValueError(f"ImageMasks: {name} must be whole numbers of 32 bits, got {index!r}")
    return int(index)
