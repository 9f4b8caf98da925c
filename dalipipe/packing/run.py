"""`pack`: plans, has the shards written, and puts together what they make."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import dalipipe
from dalipipe import cores
from dalipipe.faults import BadSample, Quarantine, TooManyBadSamplesError
from dalipipe.packing.folder import alone, make_room, sync, write_whole
from dalipipe.packing.members import Encoder, Member
from dalipipe.packing.records import batches
from dalipipe.packing.report import PackReport, Progress
from dalipipe.packing.settings import Format, PackMismatchError, Plan, Settings, files_signature, make_settings
from dalipipe.packing.shard import (
    WORK,
    ShardReport,
    finished,
    load_index,
    shard_name,
    sync_folder,
    write_shard,
)
from dalipipe.packing.text import pack_texts
from dalipipe.policy import Policy
from dalipipe.records import Encoded
from dalipipe.sources import as_source
from dalipipe.sources.base import Source, digest
from dalipipe.sources.packed import INDEX, MANIFEST, VERSION, Packed, field_to_dict, is_pack
from dalipipe.sources.text import Text
from dalipipe.storage import is_remote

_SAMPLED = 128  # records whose sizes tell how many go into a shard
_PLAN = "plan.json"
_GRACE = 16  # bad records that no rate counts against


@dataclass
class _Tally:
    """Of the shards that are done: as they are counted, and since when."""

    plan: Plan
    max_bad: float
    before: int
    reports: dict[int, ShardReport] = field(default_factory=dict)
    begun: float = field(default_factory=time.monotonic)

    def add(self, report: ShardReport) -> None:
        self.reports[report.shard] = report
        bad = len({sample.index for each in self.reports.values() for sample in each.bad})
        seen = sum(report.records + len(report.bad) for report in self.reports.values())
        if bad > _GRACE + self.max_bad * min(seen, self.plan.records):
            last = next(each for each in reversed(self.reports.values()) if each.bad).bad[-1]
            raise TooManyBadSamplesError(
                f"{bad} of {seen} records are bad, more than max_bad={self.max_bad:g} allows; the last: {last.index} "
                f"({last.where}): {last.cause}. Look at the storage first; a larger max_bad goes on regardless"
            )

    @property
    def progress(self) -> Progress:
        done, reports = len(self.reports), list(self.reports.values())
        seconds = time.monotonic() - self.begun
        here = done - self.before
        return Progress(
            shards=done,
            of_shards=self.plan.shards,
            records=sum(report.records for report in reports),
            of_records=self.plan.records * self.plan.settings.copies,
            bytes_out=sum(report.bytes_out for report in reports),
            bad=sum(len(report.bad) for report in reports),
            seconds=seconds,
            left_s=seconds / here * (self.plan.shards - done) if here else None,
        )


def pack(
    dataset: Any,
    out: str | os.PathLike[str],
    *,
    policy: Policy | None = None,
    split_at: int | None = None,
    copies: int = 1,
    seed: int = 0,
    format: Format | None = None,
    resize: int | None = None,
    quality: int = 95,
    tile_px: int = 64,
    metadata: bool = False,
    shard_size: int | str = "512MiB",
    resume: bool = False,
    overwrite: bool = False,
    threads: int | None = None,
    max_bad: float = 0.1,
    ray: bool | str = False,
    cache: str | os.PathLike[str] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> PackReport:
    """Stores a data set as tar shards with an index, as training wants to read it: see `Packed`. Of texts: JSON lines,
    see `Text.open`.

    Any WebDataset tool reads the shards. A run that was killed is continued by ``resume``; what a shard holds depends
    on the data set and the settings alone, so the result is the same to the byte, however often it was stopped and
    whoever worked on it.

    Args:
        dataset: a dalipipe source, or anything else that a loader takes.
        out: a local folder, which is made; on several machines, one that all of them see.
        policy, split_at: the first ``split_at`` nodes of the policy (None: all of it) are applied now, once for each
            copy; a loader runs the others. Stored raw, the outcome is the same to the bit as if all had run in
            training, for the first ``copies`` epochs and in turn after that.
        copies: variants of each record, 1 to 65536. Copy c is what epoch c would draw; epoch e takes copy e mod copies.
        seed: what the front of the policy is drawn from: the loader's.
        format: ``"tiled"``: JPEGs are transcoded, without loss, to grids of tiles, of which loaders read what a crop
            needs; pictures of other formats stay as they are. ``"copy"``: files as they are. ``"raw"``: uint8 pixels,
            memory-mapped. None: tiled; raw for pixels, and with a policy.
        resize: px; the shorter side of larger pictures is brought to it. Tiled, they are JPEGs made anew, with loss.
        quality: of JPEGs made anew, 1 to 100.
        tile_px: width of a tile, as near as the picture's width allows.
        metadata: keep all of it in JPEGs; else only what readers need for the same pixels.
        shard_size: of a shard, about: bytes, or a text such as ``"512MiB"``.
        resume: continue the pack under way in ``out``; begin one where there is none.
        overwrite: replace the pack in ``out``.
        threads: how many work on a shard; None: as many as there are cores.
        max_bad: the share of records that may be bad; they are left out and reported.
        ray: write shards on a Ray cluster: True, one on this machine, or its address. ``pip install 'dalipipe[ray]'``.
        cache: of texts: a folder where translations are looked up and kept; None: kept until the pack is whole, so that
            ``resume`` has them.
        progress: called whenever a shard is done; of texts, whenever some have been translated.

    Of texts the front of the policy is what stands there of `BackTranslation`, and then other operators on texts, which
    are written as words with spaces between them. A text that is not changed is kept as it is. Translators run where
    they are told to, models on a CUDA device where there is one; two copies differ by what is drawn.

    Raises:
        FileExistsError: there is a pack in ``out``, or something else.
        PackMismatchError: the one under way is of other settings or another data set.
        OSError: ``out`` cannot be written; what is whole stays, and ``resume`` goes on from there.
        RuntimeError: files of the data set have changed meanwhile, or two packs are being written to one place.
        TooManyBadSamplesError: more bad records than ``max_bad`` allows.
        ValueError: settings that do not go together; a field that no pack can hold.
    """
    begun = time.monotonic()
    source = as_source(dataset)
    if is_remote(os.fspath(out)):
        raise ValueError(f"pack: out must be a local folder, got {os.fspath(out)}; copy the pack there when it is done")
    folder = Path(out)
    threads = threads or cores.threads()
    if isinstance(source, Text):
        given = {"format": format, "resize": resize, "metadata": metadata, "ray": ray}
        if wrong := next((name for name, value in given.items() if value), None):
            raise ValueError(f"pack: {wrong} is for pictures, and this data set holds texts")
        return pack_texts(
            source,
            folder,
            policy=policy,
            split_at=split_at,
            copies=copies,
            seed=seed,
            resume=resume,
            overwrite=overwrite,
            threads=threads,
            cache=cache,
            progress=progress,
        )
    if cache is not None:
        raise ValueError("pack: cache keeps translations, and this data set holds no texts")
    settings = _settings(
        source,
        policy,
        split_at,
        format,
        copies=copies,
        seed=seed,
        resize=resize,
        quality=quality,
        tile_px=tile_px,
        metadata=metadata,
        shard_size=shard_size,
    )
    if source.copies > 1:
        raise ValueError("pack: the data set is a pack of several copies already: pack what that was made of")
    for kind in ("audio", "series", "text"):
        for other in source.schema.of_kind(kind):
            raise ValueError(f"pack: packs hold pictures, and {other.name!r} is {kind}: train from its source itself")
    make_room(folder, resume=resume, overwrite=overwrite)
    if is_pack(folder):  # resumed when there was nothing left to do, but perhaps to clean up
        report = _report(folder, Packed(folder), settings)
        shutil.rmtree(folder / WORK, ignore_errors=True)
        return report
    with alone(folder):
        plan = _plan(source, settings, folder, resume=resume, threads=threads)
        tally = _Tally(plan, max_bad, 0)
        done = finished(folder, plan)
        for shard in done:
            tally.add(load_index(folder, shard)[2])
        tally.before = len(done)
        if progress is not None:
            progress(tally.progress)
        missing = [shard for shard in range(plan.shards) if shard not in tally.reports]
        try:
            for one in _written(source, plan, missing, folder, threads=threads, ray=ray):
                tally.add(one)
                if progress is not None:
                    progress(tally.progress)
        except OSError as error:
            raise _with_what_is_left(error, folder, len(tally.reports), plan) from error
        _check_files(source, plan)
        whole = _put_together(source, plan, folder)
    whole.seconds = time.monotonic() - begun
    return whole


def _settings(
    source: Source, policy: Policy | None, split_at: int | None, format: Format | None, **rest: Any
) -> Settings:
    front = policy
    if split_at is not None:
        if policy is None:
            raise ValueError(f"pack: split_at={split_at} says where to split a policy, and there is none: give policy=")
        front = policy.split(split_at)[0]
    if front is not None and not len(front):
        front = None
    if front is not None and source.front is not None:
        raise ValueError(f"pack: the data set has {source.front!r} applied to it already: pack what that was made of")
    if format is None:
        format = "raw" if front is not None or not _has_files(source) else "tiled"
    return make_settings(format=format, front=front, **rest)


def _has_files(source: Source) -> bool:
    """Whether pictures come as files."""
    columns = source.read(np.zeros(1, np.int64)).columns
    return all(isinstance(columns[field.name], Encoded) for field in source.schema.of_kind("image"))


def _plan(source: Source, settings: Settings, folder: Path, *, resume: bool, threads: int) -> Plan:
    path = folder / WORK / _PLAN
    files = files_signature(source)
    if resume and path.is_file():
        plan = Plan.from_dict(json.loads(path.read_text()))
        here = Plan(settings, source.fingerprint(), files, len(source), plan.per_shard)
        if differences := plan.differences(here):
            raise PackMismatchError(str(folder), differences)
        return plan
    nbytes = _bytes_a_record(source, settings, threads)
    per_shard = max(1, round(settings.shard_bytes / nbytes))
    per_shard = -(-len(source) // -(-len(source) // per_shard))  # shards of a size
    plan = Plan(settings, source.fingerprint(), files, len(source), per_shard)
    needed, free = nbytes * len(source) * settings.copies, shutil.disk_usage(folder).free
    if 0.9 * needed > free:
        raise OSError(
            errno.ENOSPC,
            f"the pack will take about {needed / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free: make room, or give "
            "another folder",
            str(folder),
        )
    write_whole(path, json.dumps(plan.to_dict(), indent=1).encode())
    return plan


def _bytes_a_record(source: Source, settings: Settings, threads: int) -> float:
    """In a shard, by records spread over the data set."""
    records = np.unique(np.linspace(0, len(source) - 1, min(_SAMPLED, len(source))).astype(np.int64))
    quarantine = Quarantine("skip", 1.0, None, 1 << 62)
    encoder = Encoder(source.schema.fields, settings, threads=threads)
    total, count = 0, 0
    try:
        for numbers, columns in batches(source, settings, 0, records, quarantine, threads=threads):
            for _, each in encoder.encode(columns):
                for value in each:
                    body = len(value.body) + len(value.header) if isinstance(value, Member) else 8
                    total += 512 + -(-body // 512) * 512
            count += len(numbers)
    finally:
        encoder.close()
    if not count:
        bad = quarantine.found[0]
        raise TooManyBadSamplesError(
            f"all of {len(records)} records that were looked at are bad; the first: {bad.index} ({bad.where}): "
            f"{bad.cause}"
        )
    return total / count


def _written(
    source: Source, plan: Plan, shards: list[int], folder: Path, *, threads: int, ray: bool | str
) -> Iterable[ShardReport]:
    if ray:
        from dalipipe.packing.cluster import write_on_ray

        return write_on_ray(
            source, plan, shards, folder, threads=threads, address=ray if isinstance(ray, str) else None
        )
    return (write_shard(source, plan, shard, folder, threads=threads) for shard in shards)


def _with_what_is_left(error: OSError, folder: Path, done: int, plan: Plan) -> OSError:
    said = error.strerror or str(error)
    told = f"{said}; {done} of {plan.shards} shards are whole, none half-written: resume (--resume) goes on from there"
    return OSError(error.errno or errno.EIO, told, error.filename or str(folder))


def _check_files(source: Source, plan: Plan) -> None:
    try:
        same = files_signature(source) == plan.files
    except OSError as error:
        raise RuntimeError(
            f"the data set changed while it was packed: {error}; pack it again when nobody changes it (overwrite)"
        ) from error
    if not same:
        raise RuntimeError(
            "the data set changed while it was packed: files have another size or time now; pack it again when nobody "
            "changes it (overwrite)"
        )


def _put_together(source: Source, plan: Plan, folder: Path) -> PackReport:
    """The index of all shards, and last the manifest that says that the pack is whole."""
    parts = [load_index(folder, shard) for shard in range(plan.shards)]
    arrays, counts = _joined([arrays for arrays, _, _ in parts], plan)
    reports = [report for _, _, report in parts]
    fields = next(fields for (each, fields, _) in parts if len(each["record"]))
    for each, other, report in parts:
        if len(each["record"]) and other != fields:
            raise ValueError(
                f"pack: the records of {shard_name(report.shard)} are of another kind than the first ones: {other} and "
                f"{fields}"
            )
    index = folder / WORK / INDEX
    shutil.rmtree(index, ignore_errors=True)
    index.mkdir()
    for name, array in arrays.items():
        np.save(index / f"{name}.npy", array)
        sync(index / f"{name}.npy")
    sync_folder(index)
    shutil.rmtree(folder / INDEX, ignore_errors=True)
    os.replace(index, folder / INDEX)
    bad = {sample.index: sample for report in reports for sample in report.bad}
    if bad:
        lines = [json.dumps(asdict(bad[record]), ensure_ascii=False) for record in sorted(bad)]
        write_whole(folder / "bad.jsonl", ("\n".join(lines) + "\n").encode())
    left: Counter[str] = sum((Counter(report.left) for report in reports), Counter())
    settings = plan.settings
    described = json.dumps([field_to_dict(field) for field, _ in fields]).encode()
    fingerprint = digest([described, repr(settings).encode(), *(arrays[name].tobytes() for name in sorted(arrays))])
    manifest = {
        "version": VERSION,
        "made_by": f"dalipipe {dalipipe.__version__}",
        "format": settings.format,
        "records": int(counts),
        "copies": settings.copies,
        "fields": [{"field": field_to_dict(field), "store": store} for field, store in fields],
        "classes": source.classes,
        "front": None if settings.front is None else {"policy": settings.front, "seed": settings.seed},
        "settings": asdict(settings),
        "source": plan.source,
        "fingerprint": f"pack-{int(counts)}-{fingerprint}",
        "index": sorted(arrays),
        "shards": [shard_name(shard) for shard in range(plan.shards)],
        "shard_bytes": [report.shard_bytes for report in reports],
        "report": {
            "bytes_in": sum(report.bytes_in for report in reports),
            "bytes_out": sum(report.bytes_out for report in reports),
            "left": dict(left),
            "bad": [asdict(bad[record]) for record in sorted(bad)],
        },
    }
    write_whole(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False).encode())
    shutil.rmtree(folder / WORK, ignore_errors=True)
    return _report(folder, Packed(folder), settings)


def _joined(parts: list[dict[str, np.ndarray]], plan: Plan) -> tuple[dict[str, np.ndarray], int]:
    """The rows of all copies one after the other, of those records alone that are good in every copy; and how many."""
    a_copy = plan.shards_a_copy
    records = [
        np.concatenate([part["record"] for part in parts[c * a_copy : (c + 1) * a_copy]])
        for c in range(plan.settings.copies)
    ]
    good = records[0]
    for other in records[1:]:
        good = np.intersect1d(good, other, assume_unique=True)
    if not len(good):
        raise TooManyBadSamplesError("no record is good in every copy")
    kept = [np.isin(part["record"], good, assume_unique=True) for part in parts]
    names = next(list(part) for part in parts if len(part["record"]))
    arrays: dict[str, np.ndarray] = {}
    for name in names:
        # What is the same in all copies is there once.
        some = range(len(parts)) if "." in name else range(a_copy)
        columns = [parts[i][name][kept[i]] for i in some if len(parts[i]["record"])]
        arrays[name] = np.concatenate(columns)
    arrays["shard_first"] = np.cumsum([0, *(int(keep.sum()) for keep in kept)])
    return arrays, len(good)


def _report(folder: Path, packed: Packed, settings: Settings) -> PackReport:
    manifest = packed.manifest
    here = asdict(settings)
    differences = {
        name: (manifest["settings"].get(name), value)
        for name, value in here.items()
        if manifest["settings"].get(name) != value
    }
    if differences:
        raise PackMismatchError(str(folder), differences)
    found = manifest["report"]
    return PackReport(
        out=str(folder),
        format=packed.format,
        records=len(packed),
        copies=packed.copies,
        shards=len(packed.paths),
        bytes_in=0 if settings.decodes else found["bytes_in"],
        bytes_out=found["bytes_out"],
        shard_bytes=sum(manifest["shard_bytes"]),
        left=found["left"],
        bad=[BadSample(**bad) for bad in found["bad"]],
    )
