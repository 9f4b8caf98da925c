"""One shard: a tar archive and what its part of the index says, both whole or not there at all."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dalipipe import native
from dalipipe.faults import BadSample, Quarantine
from dalipipe.packing.members import Encoder, Encoding, Member, npy_file
from dalipipe.packing.records import batches
from dalipipe.packing.settings import Plan
from dalipipe.records import Encoded
from dalipipe.schema import Field
from dalipipe.sources.base import Source
from dalipipe.sources.packed import field_from_dict, field_to_dict

WORK = "work"
"""The folder in a pack under way that holds what is known so far."""
_BLOCK = 512
_BUFFER_BYTES = 1 << 20


@dataclass
class ShardReport:
    """What became of a shard's records. ``left``: why pictures stayed as they were, counted."""

    shard: int
    records: int
    bytes_in: int
    bytes_out: int
    shard_bytes: int
    left: dict[str, int]
    bad: list[BadSample]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ShardReport:
        return cls(**{**data, "bad": [BadSample(**bad) for bad in data["bad"]]})


def shard_name(shard: int) -> str:
    return f"shard-{shard:06d}.tar"


def index_path(out: Path, shard: int) -> Path:
    return out / WORK / f"shard-{shard:06d}.npz"


def finished(out: Path, plan: Plan) -> list[int]:
    """The shards that are whole: a shard's part of the index is written after it."""
    return [s for s in range(plan.shards) if index_path(out, s).is_file() and (out / shard_name(s)).is_file()]


def write_shard(source: Source, plan: Plan, shard: int, out: Path, *, threads: int) -> ShardReport:
    """Writes shard number ``shard`` and its part of the index; replaces what a killed run left of them.

    Raises:
        OSError: it cannot be written; nothing of it is left.
    """
    copy, records = plan.range_of(shard)
    settings = plan.settings
    quarantine = Quarantine("skip", 1.0, None, max(len(source), len(records) + 1))
    encoder = Encoder(source.schema.fields, settings, threads=threads)
    rows = _Rows()
    bytes_in = 0
    try:
        with _whole_or_nothing(out / shard_name(shard)) as part:
            writer = _Archive(part)
            every = np.arange(records.start, records.stop)
            for numbers, columns in batches(source, settings, copy, every, quarantine, threads=threads):
                encoded = encoder.encode(columns)
                bytes_in += sum(_bytes_of(column) for column in columns.values())
                _write(encoded, numbers, copy if settings.copies > 1 else None, writer, rows, source, quarantine)
            writer.finish()
        left: Counter[str] = sum((encoding.left for encoding in encoder.encodings), Counter())
        report = ShardReport(shard, len(rows), bytes_in, rows.bytes_out, writer.at, dict(left), list(quarantine.found))
        fields = [(encoding.field, encoding.store) for encoding in encoder.encodings]
        _save_index(index_path(out, shard), rows, fields, report)
    finally:
        encoder.close()
    return report


def load_index(out: Path, shard: int) -> tuple[dict[str, np.ndarray], list[tuple[Field, str]], ShardReport]:
    """What `write_shard` has found: arrays by name, the fields and how each is stored, the report."""
    with np.load(index_path(out, shard), allow_pickle=False) as kept:
        arrays = {name: kept[name] for name in kept.files}
    meta = json.loads(bytes(arrays.pop("meta")).decode())
    fields = [(field_from_dict(each["field"]), each["store"]) for each in meta["fields"]]
    return arrays, fields, ShardReport.from_dict(meta["report"])


class _Rows:
    """The index as it grows: values by name."""

    def __init__(self) -> None:
        self.values: dict[str, list[Any]] = {"record": []}
        self.bytes_out = 0

    def __len__(self) -> int:
        return len(self.values["record"])

    def add(self, name: str, value: Any) -> None:
        self.values.setdefault(name, []).append(value)

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: np.array(values, _dtype(name, values)) for name, values in self.values.items()}


def _dtype(name: str, values: list[Any]) -> Any:
    column, _, what = name.rpartition(".")
    if column:
        return {"offset": np.int64, "bytes": np.int64, "crc32c": np.uint32, "height": np.int32, "width": np.int32}[what]
    return np.int64 if name == "record" or not values else None


def _write(
    encoded: Sequence[tuple[Encoding, list[Member | Exception] | np.ndarray]],
    numbers: np.ndarray,
    copy: int | None,
    writer: _Archive,
    rows: _Rows,
    source: Source,
    quarantine: Quarantine,
) -> None:
    for row, number in enumerate(numbers.tolist()):
        values = [each[row] for _, each in encoded]
        wrong = next((value for value in values if isinstance(value, Exception)), None)
        if wrong is not None:
            quarantine.add(number, source.describe(number), wrong)
            continue
        key = f"{number:09d}" if copy is None else f"{number:09d}-{copy:03d}"
        rows.add("record", number)
        for (encoding, _), value in zip(encoded, values, strict=True):
            name = encoding.field.name
            if not isinstance(value, Member):
                rows.add(name, value)
                value = _column_member(encoding.field, value)
                writer.add(f"{key}.{value.extension}", value)
                continue
            rows.add(f"{name}.offset", writer.add(f"{key}.{value.extension}", value))
            rows.add(f"{name}.bytes", len(value.body))
            rows.add(f"{name}.crc32c", native.crc32c(np.frombuffer(value.body, np.uint8)))
            if value.size_px is not None:
                rows.add(f"{name}.height", value.size_px[0])
                rows.add(f"{name}.width", value.size_px[1])
            rows.bytes_out += len(value.body)


def _column_member(field: Field, value: Any) -> Member:
    """For other readers: ours have the index."""
    array = np.asarray(value)
    if field.name == "label" and array.ndim == 0 and array.dtype.kind in "iu":
        return Member("cls", str(int(array)).encode())
    return Member(f"{field.name}.npy", npy_file(array))


def _bytes_of(column: Any) -> int:
    """Of files; arrays and objects do not count."""
    return int(column.starts[-1]) if isinstance(column, Encoded) else 0


class _Archive:
    """A tar archive (POSIX ustar) that says nothing of when, where and by whom it was made: the same files give the
    same bytes.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self.at = 0

    def add(self, name: str, member: Member) -> int:
        """Returns where in the archive its body begins."""
        nbytes = len(member.header) + len(member.body)
        self._write(_header(name, nbytes) + member.header)
        begin = self.at
        self._write(member.body)
        self._write(bytes(-nbytes % _BLOCK))
        return begin

    def finish(self) -> None:
        self._write(bytes(2 * _BLOCK))

    def _write(self, data: bytes | np.ndarray) -> None:
        self._file.write(data)
        self.at += len(data)


def _header(name: str, nbytes: int) -> bytes:
    encoded = name.encode()
    if len(encoded) > 100:
        raise ValueError(f"pack: {name!r} is too long for a name in a tar archive: rename the field")
    header = bytearray(_BLOCK)
    header[: len(encoded)] = encoded
    header[100:108] = b"0000644\0"
    header[108:116] = header[116:124] = b"0000000\0"
    header[124:136] = b"%011o\0" % nbytes
    header[136:148] = b"00000000000\0"
    header[148:156] = b" " * 8
    header[156] = ord("0")
    header[257:265] = b"ustar\00000"
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@contextlib.contextmanager
def _whole_or_nothing(path: Path) -> Iterator[Any]:
    """A file that gets its name when it is on the disk as a whole."""
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb", buffering=_BUFFER_BYTES) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """What has been renamed in it stays so after a crash."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _save_index(path: Path, rows: _Rows, fields: Sequence[tuple[Field, str]], report: ShardReport) -> None:
    described = [{"field": field_to_dict(field), "store": store} for field, store in fields]
    meta = json.dumps({"fields": described, "report": report.to_dict()})
    with _whole_or_nothing(path) as file:
        np.savez(file, **rows.arrays(), meta=np.frombuffer(meta.encode(), np.uint8))  # type: ignore[arg-type]
