"""All of it, from labelled data to made ones: learn, judge, write; stopped anywhere, and continued."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dalipipe.finetune.generation.classifiers import Judge
from dalipipe.finetune.generation.gan import ConditionalGAN, GANConfig
from dalipipe.finetune.generation.generator import check_labels, pictures
from dalipipe.finetune.generation.images import ImageGAN
from dalipipe.finetune.generation.series import SeriesGAN
from dalipipe.finetune.generation.writing import Generated, check_names, write_agreed
from dalipipe.sources import Source
from dalipipe.sources.contents import identity


def generate(
    source: Source,
    out: str | os.PathLike[str],
    *,
    per_class: int = 100,
    agreement: float = 0.5,
    size_px: int = 32,
    config: GANConfig | None = None,
    judge_steps: int = 300,
    val: Source | None = None,
    device: str | Any = "cpu",
    resume: bool = False,
    overwrite: bool = False,
    stepped: Callable[[int, float, float], None] | None = None,
) -> Generated:
    """Learn from labelled pictures or series, and fill the folder ``out`` with made ones that a classifier, trained on
    the same real ones, agrees with. Give training data only: what is made of test data is test data.

    The same data and settings give the same files. In ``out`` are also ``generator.safetensors``, from which a stopped
    run continues, and ``judge/``, the classifier's run.

    Args:
        source: pictures or series with classes. They are held in memory, pictures at ``size_px``: 8, 16, 32 or 64.
        out: a folder; see `write_agreed` for what is written.
        per_class: how many of each class.
        agreement: least probability, [0, 1), that the classifier gives the class a sample was made for; it must be the
            highest, too.
        config: of the GAN, with its seed: see `GANConfig`.
        judge_steps: of the classifier. It is trained anew where a run to resume had another one.
        val: real samples that tell how good the classifier is; none: those it learns from.
        device: where the GAN learns.
        resume: continue the run in ``out``, if there is one. overwrite: replace it.
        stepped: called every 10 steps of the GAN with their number and both losses.

    Raises:
        ValueError: data that cannot be learnt from, a name of a class that cannot be written, an argument out of its
            range, a run to resume with other settings of the GAN or other data, or too little agreement.
        FileExistsError: there is a run in ``out``, and neither ``resume`` nor ``overwrite`` is set.
        Interrupted: Ctrl-C or SIGTERM.
    """
    config = config or GANConfig()
    _check(source, per_class, agreement, judge_steps)
    model: ConditionalGAN
    if source.schema.of_kind("image"):
        model = ImageGAN(size_px, config, device=device)
    else:
        model = SeriesGAN(config, device=device)
    out = Path(out)
    checkpoint = out / "generator.safetensors"
    there = checkpoint.is_file() or (out / "manifest.json").is_file()
    if there and not (resume or overwrite):
        raise FileExistsError(f"{out} holds generated data: resume continues the run, overwrite replaces it")
    real, tested = source, val
    if isinstance(model, ImageGAN):
        real = pictures(source, size_px)
        tested = None if val is None else pictures(val, size_px, channels=real.schema.fields[0].channels)
    if overwrite:
        checkpoint.unlink(missing_ok=True)
        _forget_judge(out)
    model.fit(real, checkpoint=checkpoint, resume=resume, stepped=stepped)
    judge, accuracy = Judge.trained(real, out / "judge", steps=judge_steps, seed=config.seed, val=tested)
    about = {
        "kind": model.kind,
        "generator": dataclasses.asdict(config),
        "learnt_from": {"samples": len(real), "identity": identity(source)},
        "judge": {"steps": judge_steps, "accuracy": round(accuracy, 4), "on": "training" if val is None else "val"},
    }
    return write_agreed(
        model, judge, out, per_class=per_class, agreement=agreement, seed=config.seed, real=real, about=about
    )


def _check(source: Source, per_class: int, agreement: float, judge_steps: int) -> None:
    kind = next((kind for kind in ("image", "series") if source.schema.of_kind(kind)), None)
    if kind is None:
        kinds = ", ".join(sorted({field.kind for field in source.schema.fields}))
        raise ValueError(f"pictures and series can be made, and {source!r} has {kinds}")
    _, classes = check_labels(source)
    check_names(kind, classes)
    for name, value in (("per_class", per_class), ("judge_steps", judge_steps)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"generate: {name} must be a whole number, at least 1, got {value!r}")
    if not 0 <= agreement < 1:
        raise ValueError(f"generate: agreement must be in [0, 1), got {agreement!r}")


def _forget_judge(out: Path) -> None:
    for file in (out / "judge").glob("checkpoint.*"):
        file.unlink()
