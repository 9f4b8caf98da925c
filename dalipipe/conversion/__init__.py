"""torchvision's and timm's transforms as policies: `convert`, which says how closely each step is met."""

from __future__ import annotations

import warnings
from typing import Any, Literal, get_args

from dalipipe.conversion.forms import Form
from dalipipe.conversion.report import Entry, Report, refusals
from dalipipe.policy import Policy

__all__ = ["Backend", "Entry", "OnUnsupported", "Report", "UnsupportedTransformError", "convert"]

Backend = Literal["auto", "pil", "tensor"]
OnUnsupported = Literal["raise", "python"]


class UnsupportedTransformError(ValueError):
    """A transform has steps that cannot be converted: the message names each, why, and what would do. ``report``: all
    of its steps.
    """

    def __init__(self, report: Report) -> None:
        super().__init__(
            f"{len(report.refused)} of {len(report.entries)} steps cannot be converted:\n{refusals(report)}\n"
            'Change or drop them, or give on_unsupported="python", and those that look at one picture at a time run as '
            "they are, on the CPU"
        )
        self.report = report

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.report,)


def convert(
    transform: Any, *, backend: Backend = "auto", on_unsupported: OnUnsupported = "raise", channels: int = 3
) -> tuple[Policy, Report]:
    """A policy that does to pictures what ``transform`` does, and a report that says how closely, step by step.

        policy, report = dalipipe.convert(Compose([RandomResizedCrop(224), ToTensor()]))
        print(report)

    What is drawn comes from the same distributions, sample by sample and from the loader's seed; so it is not the same
    numbers. Values come out as the transform would give them: normalised, or 0..1, or, without a conversion to float,
    0..255, and ``report.dtype`` is their dtype.

    Args:
        transform: of torchvision (v1 or v2), of timm, or a list of such: one, a ``Compose``, what
            ``weights.transforms()`` or ``timm.data.create_transform`` give, or a preset of torchvision's
            ``references/``. ``MixUp`` and ``CutMix`` may come last.
        backend: what the first step would get: ``"pil"`` pictures, as from torchvision's data sets, or a uint8
            ``"tensor"``. Only the report depends on it, and what the transform itself would refuse. ``"auto"``: PIL.
        on_unsupported: what to do with a step that cannot be converted: ``"raise"``, or let it run in ``"python"``, as
            it is, picture by picture, on the CPU. What follows such a step after the conversion to float does, too.
        channels: of the pictures that come: 3, or 1 for grey ones.

    Raises:
        UnsupportedTransformError: naming every step that cannot be converted, why, and what would do.
        TypeError: ``transform`` is none.
        ValueError: another argument is none of its values.
    """
    for name, value, known in (
        ("backend", backend, get_args(Backend)),
        ("on_unsupported", on_unsupported, get_args(OnUnsupported)),
        ("channels", channels, (1, 3)),
    ):
        if value not in known:
            raise ValueError(f"convert: {name} must be one of {', '.join(map(repr, known))}, got {value!r}")
    if isinstance(transform, Policy) or not (callable(transform) or isinstance(transform, list | tuple)):
        raise TypeError(f"convert: expected a transform or a list of transforms, got {type(transform).__name__}")
    from dalipipe.conversion.steps import chain  # what most trainings do without
    from dalipipe.conversion.walk import Walk

    form, python = Form("tensor" if backend == "tensor" else "pil", channels=channels), on_unsupported == "python"
    refused: dict[int, str] = {}
    while True:
        walk = Walk(form, python=python, refused=refused)
        for step in chain(transform):
            walk.take(step)
        policy, report = walk.end()
        if not python or not walk.misplaced:
            break
        refused |= walk.misplaced  # which steps run in Python decides what follows from it for others
    if any(not entry.python for entry in report.refused):
        raise UnsupportedTransformError(report)
    if report.refused:
        steps = ", ".join(entry.transform for entry in report.refused)
        warnings.warn(f"these steps run in Python, picture by picture, on the CPU: {steps}", stacklevel=2)
    return policy, report
