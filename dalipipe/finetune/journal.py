"""What a run leaves behind about itself: rows of metrics, as JSON and for TensorBoard, and the confusion matrix."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


class Journal:
    """The open metrics files of a run.

    Args:
        metrics: the JSONL file; a row is on the disk when :meth:`write` returns, as far as a killed process matters.
        keep_bytes: how much of it stays; a resumed run cuts off what a killed one wrote after its checkpoint.
        tensorboard: the folder for TensorBoard's files, if they are wanted.
        step: the last one that stays; TensorBoard forgets what a killed run told it of later ones.
        writes: whether to write at all, as rank 0 does alone.

    Raises:
        ModuleNotFoundError: tensorboard is wanted and not installed.
    """

    def __init__(
        self, metrics: Path, *, keep_bytes: int, tensorboard: Path | None, step: int, writes: bool = True
    ) -> None:
        self.board: Any = None
        if tensorboard is not None and writes:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ModuleNotFoundError as error:
                raise ModuleNotFoundError(
                    "tensorboard=True needs tensorboard; install it with: pip install 'dalipipe[logging]'",
                    name=error.name,
                ) from error
            self.board = SummaryWriter(str(tensorboard), purge_step=step + 1)
        self.file = open(metrics if writes else os.devnull, "ab")  # noqa: SIM115 (closed by close)
        if writes:
            self.file.truncate(keep_bytes)

    def write(self, row: dict[str, Any]) -> None:
        self.file.write(json.dumps(row).encode() + b"\n")
        self.file.flush()
        if self.board is not None:
            for name, value in row.items():
                if name not in ("kind", "epoch", "step"):
                    self.board.add_scalar(f"{row['kind']}/{name}", value, row["step"])

    def sync(self) -> int:
        """All rows reach the disk; how many bytes they are."""
        os.fsync(self.file.fileno())
        if self.board is not None:
            self.board.flush()
        return os.fstat(self.file.fileno()).st_size

    def close(self) -> None:
        self.file.close()
        if self.board is not None:
            self.board.close()


def write_confusion(matrix: torch.Tensor, classes: Sequence[str] | None, path: Path) -> None:
    """``matrix`` int64 [classes, classes], rows what was right, columns what was predicted, as CSV with the names of
    classes around it, or, where they are others than these, their numbers.
    """
    names = list(classes or [])
    if len(names) != len(matrix):
        names = [str(number) for number in range(len(matrix))]
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["right \\ predicted", *names])
        writer.writerows([name, *row] for name, row in zip(names, matrix.tolist(), strict=True))
    os.replace(temporary, path)
