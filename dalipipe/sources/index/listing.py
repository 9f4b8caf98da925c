"""Text lists of samples: a path and a label a line."""

from __future__ import annotations

import csv

from dalipipe.storage import is_remote

_HEADERS = {"path", "paths", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img"}


def is_absolute(name: str) -> bool:
    """Whether this is a path from the root, or a URL."""
    return name[:1] == "/" or ("://" in name and is_remote(name))


def parse_list(text: str, where: str, delimiter: str | None) -> tuple[list[str], list[str]]:
    """Paths and labels, of every line that is neither blank nor a header; ``delimiter`` None: by the first line.

    Raises ``ValueError`` naming the line that is not as it must be, by its number.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    lines = text.split("\n")
    if delimiter is None:
        delimiter = _delimiter(lines[0], where)
    if delimiter == "," and '"' in text:
        rows = [next(csv.reader([line]), []) for line in lines]
    elif delimiter == " ":  # the last one: a path may hold some
        rows = [line.rsplit(None, 1) for line in lines]
    else:
        rows = [line.split(delimiter) for line in lines]
    for number, (row, line) in enumerate(zip(rows, lines, strict=True), 1):
        if (len(row) != 2 or not row[0]) and line.strip():
            raise ValueError(
                f"{where}, line {number}: expected path{delimiter!r}label, got {line!r}; "
                "give the delimiter if it is another one, and leave other columns out"
            )
    rows = [row for row in rows if len(row) == 2 and row[0]]
    if rows and rows[0][0].strip().lower() in _HEADERS:
        del rows[0]
    if not rows:
        raise ValueError(f"{where}: expected a path and a label a line, found none")
    return [row[0] for row in rows], [row[1].strip() for row in rows]


def _delimiter(line: str, where: str) -> str:
    if "\t" in line:
        return "\t"
    return "," if "," in line and (where.lower().endswith(".csv") or " " not in line) else " "
