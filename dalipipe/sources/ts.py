"""Time series in ``.ts`` files, as the UCR and UEA archives keep them: a header of ``@`` lines, then a series a line.

Source: A. Bagnall et al., *The UEA multivariate time series classification archive*, 2018, arXiv:1811.00075.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_YES = ("true", "yes")


class TsFile(NamedTuple):
    """``series``: float64 [T, C] each, not-a-number where a value is missing; ``lines``: where each stands, from 1;
    ``labels``: a text each, or numbers (``targetLabel``), or None; ``classes``: as the header lists them.
    """

    series: list[np.ndarray]
    lines: list[int]
    labels: list[str] | np.ndarray | None
    classes: list[str] | None


def parse_ts(text: str, file: str) -> TsFile:
    """Raises ``ValueError`` naming file and line of what is not as it must be."""
    lines = text.removeprefix("\ufeff").splitlines()
    labelled, targeted, classes = False, False, None
    begin = len(lines)
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or line.startswith("#"):
            continue
        if not words[0].startswith("@"):
            raise ValueError(f"{file}, line {number}: expected a line of the header (@…), or @data, got {line[:60]!r}")
        name, values = words[0][1:].lower(), words[1:]
        yes = bool(values) and values[0].lower() in _YES
        if name == "data":
            begin = number
            break
        if name == "timestamps" and yes:
            raise ValueError(
                f"{file}, line {number}: series with time stamps are not read: put the values on an even grid, and "
                "write them without (@timeStamps false)"
            )
        if name == "classlabel":
            labelled = yes
            classes = values[1:] if yes else None
        elif name == "targetlabel":
            targeted = yes
    else:
        raise ValueError(f"{file}: no @data line: it is no .ts file, or cut short")
    if labelled and targeted:
        raise ValueError(f"{file}: both @classLabel and @targetLabel are true: only one label can end a line")

    series: list[np.ndarray] = []
    at: list[int] = []
    labels: list[str] = []
    for number, line in enumerate(lines[begin:], begin + 1):
        if not line.strip() or line.startswith("#"):
            continue
        where = f"{file}, line {number}"
        parts = line.split(":")
        if labelled or targeted:
            labels.append(parts.pop().strip())
            if not parts:
                raise ValueError(f"{where}: expected values, ':' and a label, as the header says, got {line[:60]!r}")
            if classes and labels[-1] not in classes:
                raise ValueError(f"{where}: label {labels[-1]!r} is none of @classLabel ({', '.join(classes)})")
        frames = np.stack(_same_lengths([_numbers(part, where) for part in parts], where), axis=1)
        if series and frames.shape[1] != series[0].shape[1]:
            raise ValueError(
                f"{where}: expected {series[0].shape[1]} channels, as line {at[0]} has, got {frames.shape[1]}"
            )
        series.append(frames)
        at.append(number)
    if not series:
        raise ValueError(f"{file}: expected a series a line after @data, found none")
    if targeted:
        targets = [_numbers(label, f"{file}, line {number}") for label, number in zip(labels, at, strict=True)]
        return TsFile(series, at, np.concatenate(targets), None)
    return TsFile(series, at, labels if labelled else None, classes or None)


def _numbers(text: str, where: str) -> np.ndarray:
    values = text.split(",")
    try:
        return np.array(values, np.float64)
    except ValueError:  # "?" stands for what is missing
        pass
    numbers = np.empty(len(values))
    for i, value in enumerate(values):
        try:
            numbers[i] = np.nan if value.strip() == "?" else float(value)
        except ValueError:
            raise ValueError(f"{where}: expected numbers between commas, got {value.strip()!r}") from None
    return numbers


def _same_lengths(channels: list[np.ndarray], where: str) -> list[np.ndarray]:
    lengths = [len(channel) for channel in channels]
    if len(set(lengths)) > 1:
        raise ValueError(
            f"{where}: the channels of a series must be of one length, got {min(lengths)} to {max(lengths)} values: "
            "bring them to one rate, or pad the shorter ones with ? and give missing="
        )
    return channels
