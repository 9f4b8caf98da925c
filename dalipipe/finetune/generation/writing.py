"""From made samples to an ordinary data set on the disk: those alone that a classifier agrees with."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from dalipipe import rng
from dalipipe.figures import Trace, draw_grid, draw_traces
from dalipipe.finetune.generation.classifiers import Judge
from dalipipe.finetune.generation.generator import Generator, as_source, values_of
from dalipipe.sources import Arrays, Source
from dalipipe.sources.contents import identity

_COMPARED = 2000
_SHOWN_CLASSES, _SHOWN_REAL, _SHOWN_MADE = 20, 3, 9


@dataclasses.dataclass(frozen=True)
class Generated:
    """What was written.

    Attributes:
        data: the data set: a folder of class folders of PNGs, or a .ts file.
        manifest: JSON: how it was made, and of every sample its class, draw and probability.
        sheet: a PNG of some, beside real ones.
        kept: how many samples of each class were kept.
        tried: how many of each were made and judged.
        agreed: with how many of these the judge agreed.
        nearness: median distance from a made sample to the nearest real one of its class, over that from a real one to
            the nearest other real one: far below 1, what is made is copied. NaN where no real ones were given.
    """

    data: Path
    manifest: Path
    sheet: Path
    kept: dict[str, int]
    tried: dict[str, int]
    agreed: dict[str, int]
    nearness: float


def check_names(kind: str, classes: Sequence[str]) -> None:
    """Raises ``ValueError`` for the name of a class that cannot be that of a folder, or stand in a .ts file."""
    for name in classes:
        if kind == "image" and (not name or name in (".", "..") or "/" in name or "\0" in name):
            raise ValueError(f"class {name!r} cannot name a folder: rename it")
        if kind == "series" and (not name or any(letter.isspace() or letter == ":" for letter in name)):
            raise ValueError(f"class {name!r} cannot stand in a .ts file, which parts by spaces and colons: rename it")


def check_learnt_from(made: str | os.PathLike[str], train: Source) -> None:
    """Raises ``ValueError`` where the manifest of ``made``, a folder that `generate` wrote or the data in it, says that
    these were made of other records than ``train`` has: of what is validated with, perhaps. Data without a manifest, or
    with one that does not say, may be of anything.
    """
    path = Path(made)
    file = (path.parent if path.name in ("data", "data.ts") else path) / "manifest.json"
    if not file.is_file():
        return
    try:
        learnt_from = json.loads(file.read_text(encoding="utf-8")).get("learnt_from")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{file} cannot be read: {error}. Make the data again") from error
    if isinstance(learnt_from, dict) and learnt_from.get("identity", here := identity(train)) != here:
        raise ValueError(
            f"{made} was made of {learnt_from.get('samples')} other samples than the {len(train)} that are trained on "
            "here, so it may show what is validated with. Make it of these: dalipipe generate with the same data, "
            "--val-fraction and --hold-out"
        )


class Agreed(NamedTuple):
    """Made samples of a class, in memory, that a judge agrees with; of each its draw, round and row, and probability;
    how many were made and judged, and with how many of these it agreed.
    """

    source: Source
    notes: list[dict[str, Any]]
    tried: int
    agreed: int


def sample_agreed(
    generator: Generator, judge: Judge, label: int, count: int, *, agreement: float, seed: int, most_tries: int = 20
) -> Agreed:
    """``count`` made samples of a class that the judge takes for it, with a probability of ``agreement`` at least.

    Raises ``ValueError`` where of ``most_tries`` · ``count`` there are too few.
    """
    kept: list[np.ndarray] = []
    notes: list[dict[str, Any]] = []
    agreed = 0
    for attempt in range(most_tries):
        made = generator.sample(count, label, rng.mix64(seed, attempt))
        probabilities = judge.probabilities(made)
        good = np.flatnonzero((probabilities.argmax(1) == label) & (probabilities[:, label] >= agreement))
        agreed += len(good)
        values = values_of(made)
        for row in good[: count - len(kept)].tolist():
            kept.append(values[row])
            probability = round(float(probabilities[row, label]), 4)
            notes.append({"label": label, "draw": [attempt, row], "probability": probability})
        if len(kept) == count:
            labels = np.full(count, label, np.int64)
            return Agreed(as_source(kept, labels, generator.classes), notes, (attempt + 1) * count, agreed)
    raise ValueError(
        f"of class {generator.classes[label]!r} the classifier takes {agreed} of {most_tries * count} made samples for "
        f"one with a probability of {agreement} or more, and {count} are wanted: train the generator for more steps, "
        "ask for fewer, or for less agreement"
    )


def write_agreed(
    generator: Generator,
    judge: Judge,
    out: str | os.PathLike[str],
    *,
    per_class: int,
    agreement: float = 0.5,
    seed: int = 0,
    real: Source | None = None,
    about: dict[str, Any] | None = None,
) -> Generated:
    """Fill the folder ``out`` with made samples that ``judge`` agrees with, ``per_class`` of each class.

    ``data`` (a folder of class folders, as `ImageFolder` reads it) or ``data.ts`` (as `Series.open` does) takes its
    name when it is complete, as does ``manifest.json``, last; an earlier one is replaced. ``real``: what is shown
    beside made ones on ``sheet.png``. ``about``: further entries of the manifest.

    Raises:
        ValueError: the judge agrees with too few; nothing is written then.
        OSError: the folder cannot be written.
    """
    classes = generator.classes
    found = [
        sample_agreed(generator, judge, label, per_class, agreement=agreement, seed=seed)
        for label in range(len(classes))
    ]
    out, sources = Path(out), [one.source for one in found]
    out.mkdir(parents=True, exist_ok=True)
    pictures = isinstance(sources[0], Arrays)
    data, manifest, sheet = out / ("data" if pictures else "data.ts"), out / "manifest.json", out / "sheet.png"
    manifest.unlink(missing_ok=True)
    files = _write_pictures(data, sources) if pictures else _write_series(data, sources)
    _draw(sheet, sources, real)
    kept = dict.fromkeys(classes, per_class)
    tried = {name: one.tried for name, one in zip(classes, found, strict=True)}
    agreed = {name: one.agreed for name, one in zip(classes, found, strict=True)}
    near = math.nan if real is None else nearness(sources, real)
    notes = [note for one in found for note in one.notes]
    written = {
        **(about or {}),
        "classes": classes,
        "agreement": agreement,
        "seed": seed,
        "kept": kept,
        "tried": tried,
        "agreed": agreed,
        "nearness": None if math.isnan(near) else round(near, 4),
        "samples": [{"file": file, **note} for file, note in zip(files, notes, strict=True)],
    }
    temporary = out / ".manifest.json.tmp"
    temporary.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, manifest)
    return Generated(data, manifest, sheet, kept, tried, agreed, near)


def nearness(made: Sequence[Source], real: Source) -> float:
    """The median Euclidean distance from a made sample to the nearest real one of its class, over that from a real one
    to the nearest other one, mean over classes: about 1 where made samples are new as real ones are, far below it where
    they are copies. ``made``: a source a class. Of a class the first 2,000 real ones count; series are compared with
    zeros behind their ends.
    """
    assert real.labels is not None
    ratios = []
    every = values_of(real)
    for label, source in enumerate(made):
        known = _rows([every[row] for row in np.flatnonzero(real.labels == label)[:_COMPARED]], every)
        between = torch.cdist(known, known).fill_diagonal_(math.inf).amin(1)
        to_made = torch.cdist(_rows(values_of(source), every), known).amin(1)
        if len(known) > 1 and between.median() > 0:
            ratios.append(float(to_made.median() / between.median()))
    return float(np.mean(ratios)) if ratios else math.nan


def _rows(values: Sequence[np.ndarray], every: Sequence[np.ndarray]) -> torch.Tensor:
    """float32 [N, numbers]: as long as the longest of ``every``."""
    longest = max(one.size for one in every)
    rows = torch.zeros(len(values), longest)
    for row, one in zip(rows, values, strict=True):
        row[: one.size] = torch.from_numpy(one.astype(np.float32).ravel())
    return rows


def _write_pictures(data: Path, sources: Sequence[Source]) -> list[str]:
    from PIL import Image

    temporary = data.with_name(f".{data.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    files = []
    for label, source in enumerate(sources):
        assert isinstance(source, Arrays) and source.images is not None and source.classes is not None
        folder = temporary / source.classes[label]
        folder.mkdir(parents=True)
        for number, image in enumerate(source.images):
            file = folder / f"{number:05d}.png"
            Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(file)
            files.append(f"{data.name}/{file.relative_to(temporary).as_posix()}")
    shutil.rmtree(data, ignore_errors=True)
    os.replace(temporary, data)
    return files


def _write_series(data: Path, sources: Sequence[Source]) -> list[str]:
    """Series as a .ts file: values with nine digits, which give every float32 back; names of samples are lines."""
    classes = sources[0].classes or []
    every = [(classes[label], one) for label, source in enumerate(sources) for one in values_of(source)]
    equal = len({len(one) for _, one in every}) == 1
    lines = [
        "@problemName generated",
        "@timeStamps false",
        "@missing false",
        f"@univariate {str(every[0][1].shape[1] == 1).lower()}",
        f"@equalLength {str(equal).lower()}",
        f"@classLabel true {' '.join(classes)}",
        "@data",
    ]
    begin = len(lines) + 1
    for name, one in every:
        channels = (",".join(f"{value:.9g}" for value in channel) for channel in one.T.tolist())
        lines.append(f"{':'.join(channels)}:{name}")
    temporary = data.with_name(f".{data.name}.tmp")
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(temporary, data)
    return [f"{data.name}, line {begin + row}" for row in range(len(every))]


def _draw(sheet: Path, sources: Sequence[Source], real: Source | None) -> None:
    """A row a class: some real samples, some made ones."""
    classes = sources[0].classes or []
    rows, labels = [], list(classes)[:_SHOWN_CLASSES]
    pictures = isinstance(sources[0], Arrays)
    for label in range(len(labels)):
        row = []
        if real is not None and real.labels is not None:
            row = _shown(real, np.flatnonzero(real.labels == label)[:_SHOWN_REAL])
        rows.append(row + _shown(sources[label], range(min(_SHOWN_MADE if pictures else 3, len(sources[label])))))
    first = 0 if real is None else min(len(rows[0]), _SHOWN_REAL)
    columns = ["real"] * first + ["made"] * (max(map(len, rows)) - first)
    if not pictures:
        draw_traces([[Trace(one) for one in row] for row in rows], sheet, row_labels=labels, column_labels=columns)
        return
    side_px = rows[0][0].shape[0]
    cell_px = side_px * max(1, round(64 / side_px))
    draw_grid(rows, sheet, row_labels=labels, column_labels=columns, cell_px=cell_px, title="real, and made")


def _shown(source: Source, rows: Iterable[int]) -> list[np.ndarray]:
    values = values_of(source)
    return [
        values[row].squeeze(2) if values[row].ndim == 3 and values[row].shape[2] == 1 else values[row] for row in rows
    ]
