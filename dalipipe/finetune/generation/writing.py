"""From made samples to an ordinary data set on the disk: those alone that a classifier agrees with."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dalipipe import rng
from dalipipe.figures import Trace, draw_grid, draw_traces
from dalipipe.finetune.generation.classifiers import Judge
from dalipipe.finetune.generation.generator import Generator, as_source, series_values
from dalipipe.sources import Arrays, Source

_SHOWN_CLASSES, _SHOWN_REAL, _SHOWN_MADE = 20, 3, 9


@dataclasses.dataclass(frozen=True)
class Generated:
    """What was written.

    Attributes:
        data: the data set: a folder of class folders of PNGs, or a .ts file.
        manifest: JSON: how it was made, and of every sample its class, draw and probability.
        sheet: a PNG of some, beside real ones.
        kept: how many samples of each class were kept.
        tried: how many of each were made for it.
    """

    data: Path
    manifest: Path
    sheet: Path
    kept: dict[str, int]
    tried: dict[str, int]


def check_names(kind: str, classes: Sequence[str]) -> None:
    """Raises ``ValueError`` for the name of a class that cannot be that of a folder, or stand in a .ts file."""
    for name in classes:
        if kind == "image" and (not name or name in (".", "..") or "/" in name or "\0" in name):
            raise ValueError(f"class {name!r} cannot name a folder: rename it")
        if kind == "series" and (not name or any(letter.isspace() or letter == ":" for letter in name)):
            raise ValueError(f"class {name!r} cannot stand in a .ts file, which parts by spaces and colons: rename it")


def sample_agreed(
    generator: Generator, judge: Judge, label: int, count: int, *, agreement: float, seed: int, most_tries: int = 20
) -> tuple[Source, list[dict[str, Any]], int]:
    """``count`` made samples of a class that the judge takes for it, with a probability of ``agreement`` at least; of
    each its draw and probability; and how many were made for them.

    Raises ``ValueError`` where of ``most_tries`` · ``count`` there are too few.
    """
    parts: list[Any] = []
    notes: list[dict[str, Any]] = []
    tried = 0
    for attempt in range(most_tries):
        made = generator.sample(count, label, rng.mix64(seed, attempt))
        tried += count
        probabilities = judge.probabilities(made)
        good = (probabilities.argmax(1) == label) & (probabilities[:, label] >= agreement)
        rows = np.flatnonzero(good)[: count - len(notes)]
        if len(rows):
            values = made.images[rows] if isinstance(made, Arrays) else series_values(made)  # type: ignore[index]
            parts += list(values) if isinstance(made, Arrays) else [values[row] for row in rows]
        notes += [
            {"label": label, "draw": [attempt, int(row)], "probability": round(float(probabilities[row, label]), 4)}
            for row in rows
        ]
        if len(notes) == count:
            values = np.stack(parts) if isinstance(made, Arrays) else parts
            return as_source(values, np.full(count, label, np.int64), generator.classes), notes, tried
    raise ValueError(
        f"of class {generator.classes[label]!r} the classifier takes {len(notes)} of {tried} made samples for one with "
        f"a probability of {agreement} or more, and {count} are wanted: train the generator for more steps, ask for "
        "fewer, or for less agreement"
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
    found = [
        sample_agreed(generator, judge, label, per_class, agreement=agreement, seed=seed)
        for label in range(len(generator.classes))
    ]
    out, classes = Path(out), generator.classes
    out.mkdir(parents=True, exist_ok=True)
    sources = [source for source, _, _ in found]
    pictures = isinstance(sources[0], Arrays)
    data, manifest, sheet = out / ("data" if pictures else "data.ts"), out / "manifest.json", out / "sheet.png"
    manifest.unlink(missing_ok=True)
    files = _write_pictures(data, sources) if pictures else _write_series(data, sources)
    notes = [note for _, of_class, _ in found for note in of_class]
    kept = dict.fromkeys(classes, per_class)
    tried = {name: count for name, (_, _, count) in zip(classes, found, strict=True)}
    _draw(sheet, sources, real)
    written = {
        **(about or {}),
        "classes": classes,
        "agreement": agreement,
        "seed": seed,
        "kept": kept,
        "tried": tried,
        "samples": [{"file": file, **note} for file, note in zip(files, notes, strict=True)],
    }
    temporary = out / ".manifest.json.tmp"
    temporary.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, manifest)
    return Generated(data, manifest, sheet, kept, tried)


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
    every = [(classes[label], one) for label, source in enumerate(sources) for one in series_values(source)]
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


def _shown(source: Source, rows: Any) -> list[np.ndarray]:
    if isinstance(source, Arrays):
        assert source.images is not None
        return [image[..., 0] if image.shape[2] == 1 else image for image in source.images[np.asarray(rows, int)]]
    values = series_values(source)
    return [values[row] for row in rows]
