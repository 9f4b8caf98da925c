"""What became of a transform, step by step, and how closely it is met."""

from __future__ import annotations

import textwrap
from collections import Counter
from dataclasses import dataclass

import torch

_WIDTHS = (44, 44, 52)
_LONGEST = 160  # of a transform's or an operator's description


@dataclass(frozen=True)
class Entry:
    """One step of a transform that was converted.

    ``transform``: as it describes itself; ``operators``: what it became, as they do. ``within``: how far a pixel may
    be from what the transform gives, in 255ths of the whole range (0: exact; ``None``: `note` says what can be said);
    ``refused``: why it could not be converted; ``python``: whether it runs as it is, on the CPU, picture by picture.
    """

    transform: str
    operators: tuple[str, ...] = ()
    within: float | None = 0.0
    note: str = ""
    refused: str = ""
    python: bool = False

    @property
    def verdict(self) -> str:
        """*exact*, *within k/255*, *refused, because …*, or *in Python*; then what else there is to say."""
        if self.python:
            said = f"in Python, because {self.refused}"
        elif self.refused:
            said = f"refused, because {self.refused}"
        elif self.within is None:
            return self.note
        else:
            said = f"within {self.within:g}/255" if self.within else "exact"
        return f"{said}; {self.note}" if self.note else said


@dataclass(frozen=True)
class Report:
    """How a transform was converted: an `Entry` for each of its steps; it prints as a table.

    Agreement is with torchvision's v2 on uint8 tensors; notes say where the transform, as it stands, would have done
    otherwise. ``dtype``: of the tensors that the transform gives.
    """

    entries: tuple[Entry, ...]
    dtype: torch.dtype = torch.uint8

    @property
    def refused(self) -> tuple[Entry, ...]:
        """The steps that could not be converted."""
        return tuple(entry for entry in self.entries if entry.refused)

    @property
    def ok(self) -> bool:
        """Whether every step was converted."""
        return not self.refused

    def __str__(self) -> str:
        rows = [("transform", "becomes", "agreement")]
        for entry in self.entries:
            counts = Counter(_shortened(operator) for operator in entry.operators)
            becomes = "\n".join(f"{n} × {one}" if n > 1 else one for one, n in counts.items())
            rows.append(
                (_shortened(entry.transform), becomes or ("(as it is)" if entry.python else "—"), entry.verdict)
            )
        cells = [[_wrapped(text, width) for text, width in zip(row, _WIDTHS, strict=True)] for row in rows]
        widths = [max(len(line) for row in cells for line in row[i]) for i in range(len(_WIDTHS))]
        lines: list[str] = []
        for number, row in enumerate(cells):
            for i in range(max(map(len, row))):
                texts = (part[i] if i < len(part) else "" for part in row)
                lines.append("  ".join(t.ljust(w) for t, w in zip(texts, widths, strict=True)).rstrip())
            if not number:
                lines.append("  ".join("─" * width for width in widths))
        return "\n".join([*lines, f"gives {self.dtype}"])


def _wrapped(text: str, width: int) -> list[str]:
    return [line for part in text.split("\n") for line in textwrap.wrap(part, width, subsequent_indent="  ") or [""]]


def one_line(thing: object) -> str:
    """What a transform says of itself."""
    return " ".join(repr(thing).split())


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def refusals(report: Report) -> str:
    """The refused steps, a line each."""
    return "\n".join(f"  {_shortened(entry.transform)}: {entry.refused}" for entry in report.refused)
