"""Packs of texts: what `dalipipe.pack` leaves of them.

pack.json        what the pack holds; it is written last, so a folder with it is whole
text-000.jsonl   a line of JSON for each record: its text, label and columns; another file for each copy
"""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

import numpy as np

from dalipipe import native
from dalipipe.policy import Policy
from dalipipe.sources.packed import MANIFEST, PackError, is_pack, read_manifest
from dalipipe.sources.text_files import Rows, Where
from dalipipe.storage import Storage

FORMAT = "text"


class TextPack(NamedTuple):
    """``rows``: of all ``copies``, one after the other; ``front``: what has been applied to them."""

    rows: Rows
    front: Policy | None
    copies: int


def file_name(copy: int) -> str:
    return f"text-{copy:03d}.jsonl"


def is_text_pack(root: str | os.PathLike[str]) -> bool:
    """Whether a local folder is a pack of texts."""
    return is_pack(root) and read_manifest(os.fspath(root), Storage()).get("format") == FORMAT


def read_text_pack(root: str, storage: Storage) -> TextPack:
    """Raises `PackError` for another kind or version, or where a file is damaged."""
    root = root.rstrip("/")
    manifest = read_manifest(root, storage)
    if manifest.get("format") != FORMAT:
        raise PackError(f"{root} is a pack of pictures, not of texts: dalipipe.Packed opens it")
    try:
        records, copies, files = int(manifest["records"]), int(manifest["copies"]), manifest["files"]
        front = None if manifest["front"] is None else Policy.from_dict(manifest["front"]["policy"])
        fields = {each["name"]: np.dtype(each["dtype"]) for each in manifest["fields"]}
        paths = [f"{root}/{each['name']}" for each in files]
        checksums = [int(each["crc32c"]) for each in files]
        classes = manifest["classes"]
    except (KeyError, TypeError, ValueError) as error:
        raise PackError(f"{root}/{MANIFEST} does not make sense: {error!r}; pack again") from error
    arena, starts, failed = storage.read(paths, threads=1)
    if failed:
        raise PackError(f"{root} is not whole: {next(iter(failed.values()))}; pack again") from failed[min(failed)]
    objects: list[dict[str, Any]] = []
    for row, path in enumerate(paths):
        body = arena[starts[row] : starts[row + 1]]
        if native.crc32c(body) != checksums[row]:
            raise PackError(f"{path}: the checksum does not match: it is damaged; fetch or pack it again")
        objects += [json.loads(line) for line in body.tobytes().decode().split("\n")[:-1]]
    if len(objects) != records * copies:
        raise PackError(f"{root} has {len(objects)} texts, expected {records * copies}; pack again")
    columns = {name: np.array([each[name] for each in objects], dtype) for name, dtype in fields.items()}
    labels: Any = columns.pop("label", None)
    lines = Where(paths[0], "line", np.arange(records * copies) % records + 1)
    rows = Rows([each["text"] for each in objects], labels, columns, lines, classes)  # type: ignore[arg-type]
    return TextPack(rows, front, copies)
