"""Texts packed: what the front of a policy makes of them, translations first, as JSON lines."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import dalipipe
from dalipipe import native, rng
from dalipipe.loader import DataLoader
from dalipipe.ops.text import BackTranslation
from dalipipe.packing.folder import alone, make_room, write_whole
from dalipipe.packing.report import PackReport, Progress
from dalipipe.packing.settings import PackMismatchError
from dalipipe.packing.shard import WORK
from dalipipe.policy import Policy
from dalipipe.sources.base import digest
from dalipipe.sources.packed import MANIFEST, VERSION, is_pack, read_manifest
from dalipipe.sources.text import Text
from dalipipe.sources.text_pack import FORMAT, file_name
from dalipipe.storage import Storage
from dalipipe.text import MASK
from dalipipe.translation import RoundTrip

_PLAN = "plan.json"
_CACHE = "translations"
_BATCH = 1024


def pack_texts(
    source: Text,
    folder: Path,
    *,
    policy: Policy | None,
    split_at: int | None,
    copies: int,
    seed: int,
    resume: bool,
    overwrite: bool,
    threads: int,
    cache: str | os.PathLike[str] | None,
    progress: Callable[[Progress], None] | None,
) -> PackReport:
    """See `dalipipe.pack`."""
    begun = time.monotonic()
    front = _front(source, policy, split_at, copies, seed)
    work = _Work(source, front, seed, cache or folder / WORK / _CACHE, threads)
    settings = {
        "format": FORMAT,
        "front": None if front is None else front.to_dict(),
        "seed": seed,
        "copies": copies,
        "translators": [trip.identity for trip in work.trips.values()],
        "records": len(source),
        "source": work.fingerprint,
    }
    make_room(folder, resume=resume, overwrite=overwrite)
    if is_pack(folder):  # resumed when there was nothing left to do, but perhaps to clean up
        report = _report(folder, settings)
        shutil.rmtree(folder / WORK, ignore_errors=True)
        return report
    with alone(folder):
        plan = folder / WORK / _PLAN
        if plan.is_file():
            _compare(folder, json.loads(plan.read_text()), settings)
        write_whole(plan, json.dumps(settings, indent=1).encode())
        files: list[dict[str, Any]] = []
        left = 0
        for copy in range(copies):

            def show(done: int, of: int, copy: int = copy) -> None:
                if progress is not None:
                    progress(_progress(copy + done / max(of, 1), copies, len(source), files, begun))

            path = folder / file_name(copy)
            if not path.is_file():
                show(0, 1)
                write_whole(path, work.lines(copy, show))
            body = path.read_bytes()
            files.append(
                {"name": path.name, "bytes": len(body), "crc32c": int(native.crc32c(np.frombuffer(body, np.uint8)))}
            )
            now = (json.loads(line)["text"] for line in body.decode().split("\n")[:-1])
            left += sum(text == before for text, before in zip(now, source.strings or [], strict=True))
            show(1, 1)
        fields = [{"name": name, "dtype": column.dtype.str} for name, column in source.columns.items()]
        parts = [json.dumps(fields).encode(), *(f"{each['crc32c']} {each['bytes']}".encode() for each in files)]
        manifest = {
            "version": VERSION,
            "made_by": f"dalipipe {dalipipe.__version__}",
            "format": FORMAT,
            "records": len(source),
            "copies": copies,
            "fields": fields,
            "classes": source.classes,
            "front": None if front is None else {"policy": settings["front"], "seed": seed},
            "settings": settings,
            "source": work.fingerprint,
            "fingerprint": f"pack-{len(source)}-{digest(parts)}",
            "files": files,
            "report": {"left": {"not drawn, or came back the same": left} if left and front is not None else {}},
        }
        write_whole(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False).encode())
        shutil.rmtree(folder / WORK, ignore_errors=True)
    report = _report(folder, settings)
    report.seconds = time.monotonic() - begun
    return report


def _front(source: Text, policy: Policy | None, split_at: int | None, copies: int, seed: int) -> Policy | None:
    """What is to be applied. Raises ``ValueError`` naming what does not go together."""
    for name, value, low, high in (("copies", copies, 1, 1 << 16), ("seed", seed, 0, 1 << 64)):
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"pack: {name} must be a whole number in {low}..{high}, got {value!r}")
    if source.strings is None:
        raise ValueError("pack: these texts are token ids, and there are no strings to translate or write: pack texts")
    if source.copies > 1 or source.front is not None:
        raise ValueError("pack: the data set is a pack already: pack what that was made of")
    if policy is None and split_at is not None:
        raise ValueError(f"pack: split_at={split_at} says where to split a policy, and there is none: give policy=")
    front = policy if policy is None or split_at is None else policy.split(split_at)[0]
    if front is None or not len(front):
        if copies > 1:
            raise ValueError(
                f"pack: {copies} copies would all be the same: give the policy whose first part they differ by"
            )
        return None
    certain = all(leaf.op.p >= 1 and not leaf.gates for leaf in front.leaves)
    if copies > 1 and certain and all(getattr(leaf.op, "temperature", None) == 0 for leaf in front.leaves):
        raise ValueError(
            f"pack: {copies} copies would all be the same: give BackTranslation a temperature above 0, or a p below 1"
        )
    for leaf in front.leaves:
        if leaf.op.modality != "text":
            raise ValueError(f"pack: {leaf.op!r} belongs to what is done in training: split the policy before it")
    for node in front.ops[_translating(front) :]:
        if any(isinstance(leaf.op, BackTranslation) for leaf in Policy([node]).leaves):
            raise ValueError(f"pack: {node!r} must stand before all operators on words")
    return front


def _translating(front: Policy) -> int:
    """How many of its first nodes translate, and nothing else."""
    count = 0
    for node in front.ops:
        if not all(isinstance(leaf.op, BackTranslation) for leaf in Policy([node]).leaves):
            break
        count += 1
    return count


@dataclass
class _Work:
    """Makes copies."""

    source: Text
    front: Policy | None
    seed: int
    cache: Any
    threads: int

    def __post_init__(self) -> None:
        front = self.front
        count = 0 if front is None else _translating(front)
        self.first = front if front is None or count == len(front) else front.split(count)[0] if count else None
        self.rest = None if front is None or count == len(front) else front.split(count)[1] if count else front
        ops = [] if self.first is None else [leaf.op for leaf in self.first.leaves]
        self.trips = {
            id(op): RoundTrip(*op.translators, op.temperature, op.top_p, self.cache)
            for op in ops
            if isinstance(op, BackTranslation)
        }
        parts = ["\n".join(map(json.dumps, self.source.strings or [])).encode(), repr(self.source.classes).encode()]
        for name, column in self.source.columns.items():
            parts += [f"{name} {column.dtype.str} {column.shape}".encode(), column.tobytes()]
        self.fingerprint = digest(parts)

    def lines(self, copy: int, progress: Callable[[int, int], None]) -> bytes:
        """A copy, as it is to be written."""
        texts = self._translated(list(self.source.strings or []), copy, progress)
        if self.rest is not None:
            texts = self._edited(texts, self.rest, copy)
        columns = {name: column.tolist() for name, column in self.source.columns.items()}
        made = [
            json.dumps({"text": text, **{name: column[row] for name, column in columns.items()}}, ensure_ascii=False)
            for row, text in enumerate(texts)
        ]
        return "".join(f"{line}\n" for line in made).encode()

    def _translated(self, texts: list[str], copy: int, progress: Callable[[int, int], None]) -> list[str]:
        if self.first is None:
            return texts
        key, rows = rng.make_key(self.seed, copy), np.arange(len(texts))
        drawn = self.first.draw(key, rows, np.zeros((len(texts), 1), np.int64))
        for number, (leaf, one) in enumerate(zip(self.first.leaves, drawn, strict=True)):

            def show(done: int, of: int, number: int = number) -> None:
                progress(number * of + done, len(drawn) * of)

            trip = self.trips[id(leaf.op)]
            seed = rng.mix64(self.seed, leaf.slot)
            back = trip([texts[row] for row in one.rows.tolist()], seed=seed, copy=copy, progress=show)
            for row, text in zip(one.rows.tolist(), back, strict=True):
                texts[row] = texts[row] if text is None else text
        return texts

    def _edited(self, texts: list[str], policy: Policy, copy: int) -> list[str]:
        """Words that are changed are written with spaces between them; what is not stays to the letter."""
        if self.source.split is None:
            raise ValueError("pack: a source that was pickled does not know its own way to split texts: make it again")
        split, lower = self.source.split
        some = Text(texts, split=split, lower=lower, classes=self.source.classes, **_columns(self.source))
        loader = DataLoader(
            some, _BATCH, policy=policy, seed=self.seed, device="cpu", num_workers=self.threads, rank=0, world_size=1
        )
        loader.set_epoch(copy)
        assert loader.vocabulary is not None
        made = []
        for batch in loader:
            before = some.read(batch.indices).columns["text"]
            for row, (ids, length) in enumerate(zip(batch.text.numpy(), batch.length.tolist(), strict=True)):
                if np.array_equal(ids[:length], before[row]):
                    made.append(texts[batch.indices[row]])
                    continue
                if (ids[:length] == MASK).any():
                    raise ValueError(
                        "pack: the policy's front hides words, and no text can say so: split it before SpanMask"
                    )
                made.append(" ".join(loader.vocabulary.words_of(ids[:length])))
        loader.close()
        return made


def _columns(source: Text) -> dict[str, Any]:
    return {("labels" if name == "label" else name): column for name, column in source.columns.items()}


def _progress(done: float, copies: int, records: int, files: list[Any], begun: float) -> Progress:
    seconds = time.monotonic() - begun
    left = seconds / done * (copies - done) if done > 0 else None
    nbytes = sum(each["bytes"] for each in files)
    return Progress(int(done), copies, int(done * records), copies * records, nbytes, 0, seconds, left)


def _compare(folder: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    differences = {name: (there.get(name), value) for name, value in here.items() if there.get(name) != value}
    if differences:
        raise PackMismatchError(str(folder), differences)


def _report(folder: Path, settings: dict[str, Any]) -> PackReport:
    manifest = read_manifest(str(folder), Storage())
    _compare(folder, manifest["settings"], settings)
    nbytes = sum(each["bytes"] for each in manifest["files"])
    copies, left = manifest["copies"], manifest["report"]["left"]
    return PackReport(str(folder), FORMAT, manifest["records"], copies, copies, 0, nbytes, nbytes, left, [])
