"""Tar shards: what the webdataset package finds in them, by index; and every way in which they can be damaged."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import json
import lzma
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from dalipipe import native
from dalipipe.records import Encoded
from dalipipe.schema import Field
from dalipipe.sources.shards import ShardError
from dalipipe.sources.tar import TarShards
from dalipipe.storage import FileInfo, Storage

Sample = tuple[str, dict[str, bytes]]

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
SIZES = (0, 1, 63, 64, 65, 511, 512, 513, 1023, 1024, 1025, 5000)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DALIPIPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def tar_bytes(members: Iterable[tuple[str, bytes] | tarfile.TarInfo], format: int = tarfile.USTAR_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            tar.addfile(info, io.BytesIO(member[1]))
    return out.getvalue()


def write_tar(path: Path, members: Iterable[tuple[str, bytes] | tarfile.TarInfo], **options: Any) -> Path:
    path.write_bytes(tar_bytes(members, **options))
    return path


def samples_of(index: dict[str, np.ndarray], extensions: Sequence[str], shard: bytes) -> list[Sample]:
    """All that an index says of a shard, by the shard's own bytes."""
    keys = bytes(index["keys"])
    members = [
        (extensions[extension], shard[offset : offset + size])
        for extension, offset, size in zip(index["extension"], index["offsets"], index["sizes"], strict=True)
    ]
    for (begin, end), (_, data) in zip(itertools.pairwise(index["content_starts"]), members, strict=True):
        assert bytes(index["contents"][begin:end]) == (data if len(data) <= 64 else b"")
    return [
        (os.fsdecode(keys[a : b - 1]), dict(members[first:end]))
        for (a, b), (first, end) in zip(
            itertools.pairwise(index["key_starts"]), itertools.pairwise(index["first"]), strict=True
        )
    ]


def scan(shard: bytes, pieces: Iterable[int] = ()) -> list[Sample]:
    """In pieces of these sizes and then in one. Raises `ShardError`."""
    scanner, sizes = native.ShardScanner("tar"), iter(pieces)
    data = np.frombuffer(shard, np.uint8)
    while not scanner.done and scanner.wanted < len(shard):
        scanner.feed(data[scanner.wanted :][: next(sizes, len(shard))])
    scanner.finish(len(shard))
    if scanner.damage:
        raise ShardError("shard", *scanner.damage)
    return samples_of(*scanner.tar_index(), shard)


def by_webdataset(*shards: bytes) -> list[Sample]:
    tariterators = pytest.importorskip("webdataset.tariterators")

    opened = ({"url": str(i), "stream": io.BytesIO(shard)} for i, shard in enumerate(shards))
    samples = tariterators.group_by_keys(tariterators.tar_file_expander(opened))
    return [(s["__key__"], {k: v for k, v in s.items() if k not in ("__key__", "__url__")}) for s in samples]


# --- the scanner, against webdataset and tarfile ----------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_every_dialect_and_size(tmp_path: Path, format: str) -> None:
    rng = np.random.default_rng(0)
    long = [f"{'a_long_folder_name/' * n}{n}" for n in (1, 5, 10, 12)] + ["n" * 99 + "/" + "m" * 90]
    names = ["plain", "dir/plain", "ünïcode/日本", "with space", "./dotted", *long]
    if format != "ustar":
        names += ["k" * 300, "a" * 95, "z/" * 200 + "deep"]
    members: list[Any] = []
    for i, name in enumerate(names):
        for j, extension in enumerate(("jpg", "CLS", "Seg.PNG")):
            members.append((f"{name}.{extension}", rng.bytes(SIZES[(3 * i + j) % len(SIZES)])))
        for kind, target in ((tarfile.DIRTYPE, ""), (tarfile.SYMTYPE, "x" * 150), (tarfile.LNKTYPE, "plain.jpg")):
            other = tarfile.TarInfo(f"{name[:60]}.other")
            other.type, other.linkname = kind, target[: 100 if format == "ustar" else None]
            members.insert(int(rng.integers(len(members))), other)
    shard = write_tar(tmp_path / "s.tar", members, format=FORMATS[format])
    expected = by_webdataset(shard.read_bytes())
    assert scan(shard.read_bytes()) == expected
    assert len(expected) >= len(names)
    scanner = native.ShardScanner("tar")
    scanner.scan_file(shard)
    assert scanner.damage is None and samples_of(*scanner.tar_index(), shard.read_bytes()) == expected


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_pieces_make_no_difference(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.sampled_from(SIZES), min_size=1, max_size=12))
    format = data.draw(st.sampled_from(list(FORMATS.values())))
    members = [(f"{'folder/' * (i * 3)}{i}.jpg", bytes([i]) * size) for i, size in enumerate(sizes)]
    shard = tar_bytes(members, format)
    pieces = data.draw(st.lists(st.integers(1, 3000), max_size=40))
    assert scan(shard, pieces) == scan(shard) == [(name[:-4], {"jpg": content}) for name, content in members]


part = st.text("ab._", min_size=1, max_size=5)
names = st.lists(st.lists(part, min_size=1, max_size=3).map("/".join), max_size=12)


@settings(max_examples=300, deadline=None)
@given(names)
@example(["__meta__/a.jpg", "__meta__.jpg", "____/b.jpg", "__x__", "___/c.jpg"])
@example(["a.jpg", "b.jpg", "a.cls", "a.JPG"])
def test_groups_as_webdataset(names: list[str]) -> None:
    """But for dot-files in folders, such as macOS leaves behind: webdataset makes samples of some."""
    names = [name for name in names if "/." not in name]
    shard = tar_bytes([(name, name.encode()) for name in names])
    try:
        expected = by_webdataset(shard)
    except ValueError:
        with pytest.raises(ShardError, match="a second member with the name"):
            scan(shard)
        return
    assert scan(shard) == expected


def test_dot_files_break_no_sample() -> None:
    shard = tar_bytes([(name, b"") for name in ("x/1.jpg", "x/._1.jpg", ".x", "x/.cls", "x/1.cls", "nodots", "x/2.")])
    assert scan(shard) == [("x/1", {"jpg": b"", "cls": b""}), ("x/2", {"": b""})]


@pytest.mark.parametrize("format", ["gnu", "pax"])
def test_members_of_many_gigabytes(tmp_path: Path, format: str) -> None:
    """Sizes that eleven octal digits do not hold: base 256, or a pax record. The file is sparse."""
    size = (9 << 30) + 5
    large = tarfile.TarInfo("1.bin")
    large.size = size
    head = large.tobuf(FORMATS[format], "utf-8", "strict")
    shard = tmp_path / "s.tar"
    with open(shard, "wb") as out:
        out.write(head)
        out.seek(len(head) + -(-size // 512) * 512)
        out.write(tar_bytes([("2.txt", b"behind it")]))
    source = TarShards(shard, fields={"text": "txt"})
    assert len(source) == 2 and source.describe(1) == f"{shard}:2"
    records = source.read(np.array([1, 0]))
    assert records.columns["text"] == ["behind it", None] and list(records.errors) == [0 + 1]


def test_sparse_members_are_named(tmp_path: Path) -> None:
    if not shutil.which("tar") or "GNU tar" not in subprocess.check_output(["tar", "--version"], text=True):
        pytest.skip("needs GNU tar")
    with open(tmp_path / "2.txt", "wb") as out:
        for i in range(40):  # so many holes that their map needs blocks of its own
            out.seek(i * 100_000)
            out.write(b"data")
        out.truncate(5_000_000)
    for name in ("1.txt", "3.txt"):
        (tmp_path / name).write_text(name)
    if os.stat(tmp_path / "2.txt").st_blocks * 512 > 3_000_000:
        pytest.skip("this file system makes no holes")
    for i, options in enumerate((["gnu"], ["pax", "0.0"], ["pax", "0.1"], ["pax", "1.0"])):
        shard = tmp_path / f"{i}.tar"
        command = ["tar", "-S", f"--format={options[0]}", *(f"--sparse-version={v}" for v in options[1:])]
        subprocess.run([*command, "-cf", shard, "1.txt", "2.txt", "3.txt"], check=True, cwd=tmp_path)
        assert shard.stat().st_size < 500_000
        source = TarShards(shard)
        records = source.read(np.arange(3))
        assert records.columns["txt"] == ["1.txt", None, "3.txt"]
        assert list(records.errors) == [1] and "2: field 'txt': its file is stored sparse" in str(records.errors[1])


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_cut_anywhere(format: str) -> None:
    members = [(f"{'folder/' * (n % 30)}{n}.txt", b"x" * n) for n in (0, 3, 80, 513, 1024)]
    whole = tar_bytes(members, FORMATS[format])
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        ends = {0: -1} | {info.offset_data + info.size: i for i, info in enumerate(tar)}
        headers = {-1: 0} | {i: info.offset for i, info in enumerate(tar)}
    ok = 0
    for cut in itertools.chain(range(0, 1100, 7), range(0, len(whole), 128), ends, headers.values()):
        complete = max((i for end, i in ends.items() if end <= cut), default=-1)
        end = max(end for end, i in ends.items() if i == complete)
        in_padding = cut <= -(-end // 512) * 512
        in_end_marker = complete == len(members) - 1
        if (in_padding or in_end_marker) and cut > 0:
            assert len(scan(whole[:cut])) == complete + 1
            ok += 1
        else:
            with pytest.raises(ShardError) as error:
                scan(whole[:cut])
            assert error.value.offset == cut
    assert ok > 10


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_flipped_bit_in_a_header_is_found(data: st.DataObject) -> None:
    contents = [(f"{i}.txt", b"x" * 300 * i) for i in range(4)]
    whole = bytearray(tar_bytes(contents))
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        infos = tar.getmembers()
    info = data.draw(st.sampled_from(infos))
    at = data.draw(st.integers(0, 511).filter(lambda i: not 148 <= i < 156))
    whole[info.offset + at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ShardError) as error:
        scan(bytes(whole))
    assert error.value.offset == info.offset
    assert ("checksum" if info.offset else "no tar archive") in error.value.reason


@pytest.mark.parametrize(
    ("damage", "offset", "match"),
    [
        (lambda b: b"", 0, "the shard is empty"),
        (lambda b: b"<!DOCTYPE html><html>" + b" " * 2000, 0, "this is no tar archive"),
        (gzip.compress, 0, "this is a gzip file"),
        (bz2.compress, 0, "this is a bzip2 file"),
        (lzma.compress, 0, "this is an xz file"),
        (lambda b: b"\x28\xb5\x2f\xfd" + b[4:], 0, "this is a zstd file"),
        (lambda b: b[:512] + b[1024:], 1024, "checksum"),
        (lambda b: b[:1024] + b[1024:1024 + 300] + b"\1" * 900, 1024, "checksum"),
        (lambda b: b[:1024 + 300], 1324, "in the middle of a header"),
    ],
)  # fmt: skip
def test_what_is_no_tar(tmp_path: Path, damage: Any, offset: int, match: str) -> None:
    shard = tmp_path / "broken.tar"
    shard.write_bytes(damage(tar_bytes([("1.txt", os.urandom(300)), ("2.txt", os.urandom(300))])))
    with pytest.raises(ShardError, match=match) as error:
        TarShards(shard)
    assert (error.value.path, error.value.offset) == (str(shard), offset)
    again = pickle.loads(pickle.dumps(error.value))
    assert str(again) == str(error.value) and str(shard) in str(again)


def header(name: bytes = b"1.jpg", size: bytes = b"00000000001", kind: bytes = b"0") -> bytes:
    block = bytearray(512)
    block[: len(name)] = name
    block[124 : 124 + len(size)] = size
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(*records: bytes) -> bytes:
    data = b"".join(records)
    return header(b"p", b"%011o" % len(data), b"x") + data + bytes(-len(data) % 512)


@pytest.mark.parametrize(
    ("shard", "offset", "match"),
    [
        (header(size=b"0000000x001"), 0, "size is no number"),
        (header(size=b"\xff" * 12), 0, "size is no number"),
        (header(size=b"\x80" + b"\xff" * 11), 0, "size is no number"),
        (header(size=b"\x80\0\0\0\x40" + bytes(7)), 0, "claims 4611686018427387904 bytes"),
        (header(size=b"77777777777"), 512, "would end at byte 8589935103"),
        (header(kind=b"L", size=b"77777777777"), 0, "an extended header claims"),
        (pax(b"10 size=x\n") + header(), 512, "size is no number"),
        (pax(b"11 size=-1\n") + header(), 512, "size is no number"),
        (pax(b"9 path=a\n", b"99 path=a\n") + header(), 521, "record is malformed"),
        (pax(b"9 pathxa\n") + header(), 512, "record is malformed"),
        (pax(b"3 \n") + header(), 512, "record is malformed"),
        (pax(b" path=a\n") + header(), 512, "record is malformed"),
        (pax(b"12 path=a.\0\n") + header() + bytes(512), 1024, "zero byte"),
        (pax(b"9 path=a\n") + bytes(1024), 1024, "no member after it"),
        (pax(b"9 path=a\n"), 1024, "where an extended header's member should begin"),
        (header(kind=b"L", size=b"00000001000"), 512, "in the middle of a header"),
    ],
)
def test_impossible_headers(shard: bytes, offset: int, match: str) -> None:
    with pytest.raises(ShardError, match=match) as error:
        scan(shard)
    assert error.value.offset == offset


def test_all_damaged_shards_are_counted(tmp_path: Path) -> None:
    for i in range(6):
        write_tar(tmp_path / f"{i}.tar", [(f"{i}.txt", b"x")])
        if i % 3:
            os.truncate(tmp_path / f"{i}.tar", 512)
    with pytest.raises(
        ShardError, match=r"1\.tar, byte 512: .*\(and 3 more are damaged: .*2\.tar, .*4\.tar, .*5\.tar\)"
    ):
        TarShards(tmp_path / "*.tar")
    assert len(TarShards([tmp_path / "0.tar", tmp_path / "3.tar"])) == 2


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        TarShards(tmp_path / "none.tar")
    with pytest.raises(FileNotFoundError):
        TarShards(str(tmp_path / "none-*.tar"))
    with pytest.raises(ValueError, match="no shards"):
        TarShards([])
    with pytest.raises(ValueError, match="expected samples such as"):
        TarShards(write_tar(tmp_path / "s.tar", [("no-dot", b"")]))
    with pytest.raises(IsADirectoryError):
        TarShards(tmp_path)


# --- the source -------------------------------------------------------------------------------------------------------


def jpeg(seed: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture(20 + seed % 7, 30, seed)).save(out, "JPEG")
    return out.getvalue()


def write_shards(folder: Path, counts: Sequence[int], first: int = 0) -> list[Sample]:
    """train-00.tar …, with samples {jpg, cls, json, txt} numbered through; what is in them."""
    folder.mkdir(exist_ok=True)
    samples: list[Sample] = []
    number = itertools.count(first)
    for shard, count in enumerate(counts):
        these = []
        for i in itertools.islice(number, count):
            meta = json.dumps({"label": i, "box": {"left": i / 2}, "corners": [i, i + 1]}).encode()
            files = {"cls": b"%d" % (i % 3), "jpg": jpeg(i), "json": meta, "txt": f"täxt {i}".encode()}
            these.append((f"d/{i:04d}", files))
        members = [(f"{key}.{extension}", data) for key, files in these for extension, data in files.items()]
        write_tar(folder / f"train-{shard:02d}.tar", members)
        samples += these
    return samples


def rows(column: Encoded) -> list[bytes]:
    return [column[row].tobytes() for row in range(len(column))]


@pytest.mark.parametrize("threads", [1, 3])
def test_reads_what_webdataset_reads(tmp_path: Path, threads: int) -> None:
    expected = write_shards(tmp_path, (5, 0, 7, 1))
    source = TarShards(str(tmp_path / "train-{00..03}.tar"))
    assert by_webdataset(*(path.read_bytes() for path in sorted(tmp_path.glob("*.tar")))) == expected
    assert source.schema.fields == (
        Field("image", "image", channels=3), Field("label", "column"), Field("json", "object"), Field("txt", "object")
    )  # fmt: skip
    assert len(source) == 13 and source.labels is not None and source.labels.tolist() == [i % 3 for i in range(13)]
    rng = np.random.default_rng(0)
    for indices in (np.arange(13), rng.integers(0, 13, 40), np.array([12]), np.array([], np.int64)):
        records = source.read(indices, threads=threads)
        files = [expected[i][1] for i in indices]
        assert not records.errors and list(records.columns) == ["image", "label", "json", "txt"]
        assert rows(records.columns["image"]) == [f["jpg"] for f in files]
        assert records.columns["label"].dtype == np.int64
        assert records.columns["label"].tolist() == [int(f["cls"]) for f in files]
        assert records.columns["json"] == [json.loads(f["json"]) for f in files]
        assert records.columns["txt"] == [f["txt"].decode() for f in files]
    assert [source.key(i) for i in range(13)] == [key for key, _ in expected]
    assert source.describe(5) == f"{tmp_path}/train-02.tar:d/0005"


def test_memory_comes_from_the_caller(tmp_path: Path) -> None:
    expected = write_shards(tmp_path, (3,))
    given: list[np.ndarray] = []

    def allocate(nbytes: int) -> np.ndarray:
        given.append(np.full(nbytes + 100, 7, np.uint8))
        return given[-1]

    column = TarShards(tmp_path / "*.tar").read(np.array([2, 0]), allocate=allocate).columns["image"]
    assert column.arena is given[0] and len(given) == 1
    assert rows(column) == [expected[2][1]["jpg"], expected[0][1]["jpg"]]


def test_fields_by_name(tmp_path: Path) -> None:
    expected = write_shards(tmp_path, (4,))
    fields = {
        "picture": "png;JPG",
        "label": ("json", "label"),
        "left": ("json", "box", "left", float),
        "corners": ("json", "corners"),
        "cls": ".cls",
        "key": "__key__",
        "meta": "json",
    }
    source = TarShards(tmp_path / "*.tar", fields=fields, classes=["a", "b", "c"])
    kinds = [(field.name, field.kind) for field in source.schema.fields]
    expected_kinds = "image column column column column object object".split()
    assert kinds == list(zip(fields, expected_kinds, strict=True)) and source.classes == ["a", "b", "c"]
    assert source.labels is not None and source.labels.tolist() == [0, 1, 2, 0]  # of `cls`, the only cheap one
    columns = source.read(np.array([3, 1])).columns
    assert rows(columns["picture"]) == [expected[3][1]["jpg"], expected[1][1]["jpg"]]
    assert columns["label"].dtype == np.int64 and columns["label"].tolist() == [3, 1]
    assert columns["left"].dtype == np.float32 and columns["left"].tolist() == [1.5, 0.5]
    assert columns["corners"].tolist() == [[3, 4], [1, 2]]
    assert columns["key"] == ["d/0003", "d/0001"]
    assert columns["meta"][0]["label"] == 3


def npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def test_infers_from_the_first_sample(tmp_path: Path) -> None:
    values = {
        "cls": b" 7\n", "bin": b"\0\1", "class": b"x", "left.png": b"l", "right.png": b"r", "seg.png": b"s",
        "npy": npy(np.arange(6, dtype=np.float16).reshape(2, 3)), "2.txt": b"two", "count.index": b"-5",
    }  # fmt: skip
    source = TarShards(write_tar(tmp_path / "s.tar", [(f"1.{e}", data) for e, data in values.items()]))
    assert [(field.name, field.kind, field.channels) for field in source.schema.fields] == [
        ("left", "image", 3), ("right", "image", 3), ("seg", "mask", 1),
        ("label", "column", None), ("npy", "column", None), ("count_index", "column", None),
        ("bin", "object", None), ("class_", "object", None), ("field_2_txt", "object", None),
    ]  # fmt: skip
    columns = source.read(np.array([0, 0])).columns
    assert [rows(columns[name]) for name in ("left", "right", "seg")] == [[b"l"] * 2, [b"r"] * 2, [b"s"] * 2]
    assert columns["npy"].dtype == np.float16 and columns["npy"].tolist() == [[[0, 1, 2], [3, 4, 5]]] * 2
    assert columns["label"].tolist() == [7, 7] and columns["count_index"].tolist() == [-5, -5]
    assert columns["class_"] == [b"x", b"x"] and columns["field_2_txt"] == ["two", "two"]
    # A lone picture may have another extension elsewhere.
    mixed = TarShards(write_tar(tmp_path / "m.tar", [("1.jpg", b"j"), ("2.png", b"p"), ("3.WEBP", b"w")]))
    assert rows(mixed.read(np.arange(3)).columns["image"]) == [b"j", b"p", b"w"]
    both = TarShards(write_tar(tmp_path / "b.tar", [("1.jpg", b"j"), ("1.png", b"p")]))
    assert both.schema.names == ("jpg", "png")


def test_a_bad_record_costs_no_other(tmp_path: Path) -> None:
    cls = [
        b"0",
        b"x",
        b"",
        b"1.5",
        b"9" * 30,
        b"1" * 70,
        b" +3 ",
        b"-9223372036854775808",
        b"9223372036854775808",
        None,
    ]
    good = {0: 0, 6: 3, 7: -(2**63)}
    members = [("pad/0.jpg", b"first"), ("pad/0.cls", b"5")]
    for i, text in enumerate(cls):
        members.append((f"{i}.jpg", b"j%d" % i))
        if text is not None:
            members.append((f"{i}.cls", text))
    members += [("no-image.cls", b"8"), ("no-image.txt", b"?")]
    source = TarShards(write_tar(tmp_path / "s.tar", members))
    assert source.labels is not None and source.labels.tolist() == [5, *(good.get(i, 0) for i in range(10)), 8]
    records = source.read(np.arange(1, 12))
    assert sorted(records.errors) == [*(i for i in range(10) if i not in good), 10]
    assert records.columns["label"].tolist() == source.labels[1:].tolist()
    assert rows(records.columns["image"]) == [*(b"j%d" % i for i in range(10)), b""]
    text = {row: str(error) for row, error in records.errors.items()}
    assert text[1] == f"{tmp_path}/s.tar:1: field 'label': expected a whole number, got b'x'"
    assert text[5].endswith("got 70 bytes")
    assert text[9] == f"{tmp_path}/s.tar:9: field 'label': expected a member with the extension cls, it has jpg"
    assert text[10].startswith(f"{tmp_path}/s.tar:no-image: field 'image': expected a member with the extension jpg or")
    assert text[10].endswith("it has cls, txt")


def test_bad_contents_cost_no_other(tmp_path: Path) -> None:
    texts = [
        b'{"n": 1}',
        b"{",
        b"[1]",
        b"{}",
        b'{"n": "one"}',
        b'{"n": 1.5}',
        b'{"n": [1]}',
        b"[" * 100_000,
        b'{"n": true}',
    ]
    arrays = [
        npy([1.0, 2.0]),
        b"",
        npy([1.0]),
        npy(["a", "b"]),
        npy([1, 2])[:-3],
        npy(np.float32([3, 4])),
        b"PK\3\4" * 9,
    ]
    arrays += [npy(np.array([None, 1], object)), npy([1j, 2j])]
    words = [b"ok", b"\xff\xfe", *[b"x"] * 7]
    members = [
        (f"{i}.{extension}", data)
        for i, row in enumerate(zip(texts, arrays, words, strict=True))
        for extension, data in zip(("json", "npy", "txt"), row, strict=True)
    ]
    fields = {"n": ("json", "n"), "npy": "npy", "txt": "txt", "f": ("json", "n", float)}
    source = TarShards(write_tar(tmp_path / "s.tar", members), fields=fields)
    good = {"n": {0: 1, 8: 1}, "npy": {0: [1, 2], 5: [3, 4]}, "txt": {0: "ok"} | dict.fromkeys(range(2, 9), "x")}
    for name, values in good.items():
        alone = TarShards(tmp_path / "s.tar", fields={name: fields[name]})
        records = alone.read(np.arange(9))
        assert sorted(records.errors) == [i for i in range(9) if i not in values], name
        for i, value in values.items():
            got = records.columns[name][i]
            assert (got.tolist() if isinstance(got, np.ndarray | np.generic) else got) == value
    together = source.read(np.arange(9))
    assert sorted(together.errors) == list(range(1, 9))
    assert together.columns["n"].dtype == np.int64 and together.columns["f"].dtype == np.float32
    assert "expected int64 (), as the first sample has it, got float32 ()" in str(together.errors[5])
    with pytest.raises(ValueError, match=r"s\.tar:0: field 'm': its JSON has no m"):
        TarShards(tmp_path / "s.tar", fields={"m": ("json", "m")})
    floats = TarShards(tmp_path / "s.tar", fields={"f": ("json", "n", float)}).read(np.arange(9))
    assert floats.columns["f"].tolist() == [1, 0, 0, 0, 0, 1.5, 0, 0, 1] and 5 not in floats.errors


@pytest.mark.parametrize(
    ("fields", "error", "match"),
    [
        ({"image": "png"}, ValueError, "field 'image': no sample in .* extension png; there are cls, jpg, json, txt"),
        ({"a b": "jpg"}, ValueError, "expected a Python name, such as 'a_b'"),
        ({"class": "cls"}, ValueError, "'class_'"),
        ({"x": "jpg;cls"}, ValueError, "expected extensions of one kind"),
        ({"x": ("cls", "label")}, ValueError, r'expected \("json", "key", ...\)'),
        ({"x": ("json",)}, ValueError, r'expected \("json", "key", ...\)'),
        ({"x": ("json", 3)}, ValueError, r'expected \("json", "key", ...\)'),
        ({"x": ("json", float)}, ValueError, r'expected \("json", "key", ...\)'),
        ({"x": 3}, TypeError, "expected \"jpg;jpeg;png\""),
        ({"x": ()}, TypeError, "expected \"jpg;jpeg;png\""),
    ],
)  # fmt: skip
def test_fields_that_cannot_be(tmp_path: Path, fields: Any, error: type[Exception], match: str) -> None:
    write_shards(tmp_path, (1,))
    with pytest.raises(error, match=match):
        TarShards(tmp_path / "*.tar", fields=fields)


def test_a_shard_that_vanishes(tmp_path: Path) -> None:
    expected = write_shards(tmp_path, (2, 2))
    source = TarShards(tmp_path / "*.tar")
    (tmp_path / "train-00.tar").unlink()
    records = source.read(np.array([0, 3, 1, 2]))
    assert sorted(records.errors) == [0, 2] and all(isinstance(e, FileNotFoundError) for e in records.errors.values())
    assert rows(records.columns["image"]) == [b"", expected[3][1]["jpg"], b"", expected[2][1]["jpg"]]
    assert records.columns["txt"] == [None, "täxt 3", None, "täxt 2"]


def test_source_travels(tmp_path: Path) -> None:
    expected = write_shards(tmp_path, (2, 3))
    source = TarShards(tmp_path / "*.tar")
    copy = pickle.loads(pickle.dumps(source))
    assert copy.fingerprint() == source.fingerprint() and copy.schema == source.schema
    assert rows(copy.read(np.arange(5)).columns["image"]) == [files["jpg"] for _, files in expected]
    code = "import pickle, sys, numpy as np; print(pickle.load(sys.stdin.buffer).read(np.array([4])).columns['txt'])"
    said = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(source), capture_output=True, check=True)
    assert said.stdout.decode().strip() == "['täxt 4']"
    source.close()
    assert source.read(np.array([4])).columns["txt"] == ["täxt 4"]


def test_fingerprint_knows_contents_and_order(tmp_path: Path) -> None:
    write_shards(tmp_path / "a", (2, 2))
    source = TarShards(tmp_path / "a" / "*.tar")
    shutil.copytree(tmp_path / "a", tmp_path / "elsewhere")
    assert TarShards(tmp_path / "elsewhere" / "*.tar").fingerprint() == source.fingerprint()
    prints = {source.fingerprint()}
    paths = sorted((tmp_path / "a").glob("*.tar"))
    prints.add(TarShards(paths[::-1]).fingerprint())
    prints.add(TarShards(paths[:1]).fingerprint())
    prints.add(TarShards(paths[:1] * 2).fingerprint())
    members = [("1.cls", b"1"), ("1.jpg", b"xx"), ("2.cls", b"2"), ("2.jpg", b"xx")]
    for i, change in enumerate([(0, 1, 2, 3), (2, 3, 0, 1), (0, 1, 2), (1, 0, 2, 3)]):
        prints.add(TarShards(write_tar(tmp_path / f"{i}.tar", [members[j] for j in change])).fingerprint())
    members[0] = ("1.cls", b"3")
    prints.add(TarShards(write_tar(tmp_path / "label.tar", members)).fingerprint())
    assert len(prints) == 9


# --- the index, kept --------------------------------------------------------------------------------------------------


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Shards in the order in which they are scanned."""
    seen: list[str] = []

    class Watched(native.ShardScanner):
        def scan_file(self, path: Any) -> None:
            seen.append(os.path.basename(path))
            super().scan_file(path)

    monkeypatch.setattr(native, "ShardScanner", Watched)
    return seen


def test_index_is_kept_until_a_shard_changes(tmp_path: Path, cache: Path, scans: list[str]) -> None:
    folder = tmp_path / "shards"
    write_shards(folder, (2, 3))
    first = TarShards(folder / "*.tar")
    assert sorted(scans) == ["train-00.tar", "train-01.tar"]
    again = TarShards(str(folder / "train-{00..01}.tar"), fields={"text": "txt"})
    assert len(scans) == 2 and again.fingerprint() == first.fingerprint()
    assert again.read(np.arange(5)).columns["text"] == [f"täxt {i}" for i in range(5)]
    write_shards(folder, (2,), first=100)  # the first one, of the same size or not
    os.utime(folder / "train-00.tar", ns=(1, 1))
    changed = TarShards(folder / "*.tar")
    assert len(scans) == 4 and changed.describe(0).endswith(":d/0100")
    for file in cache.rglob("*.npz"):
        file.write_bytes(file.read_bytes()[:-40])
    assert TarShards(folder / "*.tar").fingerprint() == changed.fingerprint() and len(scans) == 6


def test_index_beside_the_shards_moves_with_them(tmp_path: Path, cache: Path, scans: list[str]) -> None:
    write_shards(tmp_path / "a", (2, 3))
    source = TarShards(tmp_path / "a" / "*.tar", index_dir="beside")
    assert not cache.exists() and len(list((tmp_path / "a").glob("*.npz"))) == 1 and len(scans) == 2
    (tmp_path / "a").rename(tmp_path / "b")
    moved = TarShards(tmp_path / "b" / "*.tar", index_dir="beside")
    assert len(scans) == 2 and moved.fingerprint() == source.fingerprint()
    assert moved.read(np.array([4])).columns["txt"] == ["täxt 4"]
    TarShards(tmp_path / "b" / "*.tar", index_dir=tmp_path / "index")
    assert len(list((tmp_path / "index").iterdir())) == 1 and len(scans) == 4
    with pytest.raises(ValueError, match='index_dir="beside" needs local shards'):
        TarShards("s3://bucket/x.tar", index_dir="beside", storage=Remote({}))


@pytest.mark.slow
def test_a_million_samples(tmp_path: Path) -> None:
    """Bounds with room for a busy machine; an idle one takes a quarter of them."""
    n = 1_000_000
    shard = tmp_path / "s.tar"
    block = np.frombuffer(
        header(b"00000000.jpg", b"%011o" % 300)
        + bytes(512)
        + header(b"00000000.cls", b"%011o" % 3)
        + b"000"
        + bytes(509),
        np.uint8,
    )
    with open(shard, "wb") as out:
        for first in range(0, n, 10_000):
            numbers = np.arange(first, first + 10_000)
            blocks = np.tile(block, (len(numbers), 1))
            digits = (numbers[:, None] // 10 ** np.arange(7, -1, -1) % 10).astype(np.uint8)
            for at in (0, 1024):
                blocks[:, at : at + 8] = 48 + digits
                total = blocks[:, at : at + 148].sum(1) + blocks[:, at + 156 : at + 512].sum(1) + 8 * 32
                blocks[:, at + 148 : at + 154] = 48 + (total[:, None].astype(np.int64) >> np.arange(15, -1, -3) & 7)
            blocks[:, 1536:1539] = 48 + digits[:, -3:]
            out.write(blocks.tobytes())

    def timed(bound_s: float) -> TarShards:
        start = time.perf_counter()
        source = TarShards(shard)
        assert time.perf_counter() - start < bound_s
        return source

    for bound_s in (15, 1.5):
        source = timed(bound_s)
        assert len(source) == n and source.labels is not None and source.labels[-1] == 999
        assert source.describe(n - 1) == f"{shard}:00999999"


# --- remote shards ----------------------------------------------------------------------------------------------------


class Remote(Storage):
    """Objects in memory, and what was asked for."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        super().__init__()
        self.__dict__.update(objects=objects, asked=[])

    def info(self, path: str) -> FileInfo:
        return FileInfo(path, len(self.objects[path]), str(hash(self.objects[path])))

    def read(self, paths: Any, *, offsets: Any = None, lengths: Any = None, **options: Any) -> Any:
        pieces = [self.objects[p][o : o + n] for p, o, n in zip(paths, offsets, lengths, strict=True)]
        self.asked.append(list(zip(paths, np.asarray(offsets).tolist(), np.asarray(lengths).tolist(), strict=True)))
        starts = np.cumsum([0, *map(len, pieces)])
        return np.frombuffer(b"".join(pieces), np.uint8).copy(), starts, {}


def test_remote_shards_are_streamed_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dalipipe.sources.shards._STREAM_BYTES", 1000)
    expected = write_shards(tmp_path, (4, 3))
    objects = {f"mem://b/{path.name}": path.read_bytes() for path in sorted(tmp_path.glob("*.tar"))}
    store = Remote(objects)
    source = TarShards(list(objects), storage=store, threads=1)
    assert source.fingerprint() == TarShards(tmp_path / "*.tar").fingerprint()
    asked = [each for batch in store.asked for each in batch]
    assert sum(n for *_, n in asked) <= sum(map(len, objects.values())) and max(n for *_, n in asked) == 1000
    store.asked.clear()
    indices = np.array([6, 0, 3, 6])
    columns = source.read(indices).columns
    assert rows(columns["image"]) == [expected[i][1]["jpg"] for i in indices]
    assert columns["json"] == [json.loads(expected[i][1]["json"]) for i in indices]
    assert len(store.asked) == 1  # one batch of requests for all fields, and labels for nothing
    assert not any(n == len(expected[0][1]["cls"]) for *_, n in store.asked[0])
    # One more shard costs one more shard.
    objects["mem://b/new.tar"] = tar_bytes([("9.jpg", b"j"), ("9.cls", b"1"), ("9.json", b"{}"), ("9.txt", b"t")])
    store.asked.clear()
    assert len(TarShards(list(objects), storage=store)) == 8
    assert {path for batch in store.asked for path, *_ in batch} == {"mem://b/new.tar"}
    store.asked.clear()
    assert len(TarShards(list(objects), storage=store)) == 8 and not store.asked


def test_bodies_of_remote_shards_are_jumped_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dalipipe.sources.shards._STREAM_BYTES", 1024)
    store = Remote({"mem://b/s.tar": tar_bytes([(f"{i}.bin", bytes(1_000_000)) for i in range(4)])})
    assert len(TarShards("mem://b/s.tar", storage=store)) == 4
    assert sum(n for batch in store.asked for *_, n in batch) < 30_000
    store.objects["mem://b/s.tar"] = store.objects["mem://b/s.tar"][:2_500_000]
    with pytest.raises(ShardError, match=r"mem://b/s\.tar, byte 2500000: the shard ends here"):
        TarShards("mem://b/s.tar", storage=store)


def test_shards_on_an_s3_server(tmp_path: Path) -> None:
    pytest.importorskip("moto")
    pytest.importorskip("obstore")
    from s3 import s3_bucket

    expected = write_shards(tmp_path, (3, 4))
    with s3_bucket({path.name: path.read_bytes() for path in tmp_path.glob("*.tar")}) as bucket:
        storage = Storage(options=bucket.options())
        source = TarShards(bucket.url("train-*.tar"), storage=storage)
        assert source.fingerprint() == TarShards(tmp_path / "*.tar").fingerprint()
        copy = pickle.loads(pickle.dumps(source))
        for each in (source, copy):
            records = each.read(np.array([6, 0, 3]), threads=2)
            assert not records.errors
            assert rows(records.columns["image"]) == [expected[i][1]["jpg"] for i in (6, 0, 3)]
            assert records.columns["label"].tolist() == [0, 0, 0]
        with pytest.raises(FileNotFoundError):
            TarShards(bucket.url("none.tar"), storage=storage)
        # An object that was replaced is not read at the places that the old one had.
        bucket.put("train-00.tar", tar_bytes([("1.jpg", b"new")]))
        records = source.read(np.array([6, 0]))
        assert list(records.errors) == [1] and rows(records.columns["image"]) == [expected[6][1]["jpg"], b""]


# --- with the loader --------------------------------------------------------------------------------------------------


def test_the_loader_gives_what_it_gives_for_the_folder(tmp_path: Path, jpeg_folder: Any) -> None:
    import torch

    from dalipipe import DataLoader, ImageFolder, recipes

    folder = ImageFolder(jpeg_folder(20))
    members = []
    for i in range(20):
        members += [(f"{i:02d}.jpg", Path(folder.describe(i)).read_bytes()), (f"{i:02d}.cls", b"%d" % folder.labels[i])]
    tar = TarShards(write_tar(tmp_path / "s.tar", members))
    policy = recipes.imagenet_train(32)
    batches = [list(DataLoader(source, batch_size=8, policy=policy, seed=3, shuffle=True)) for source in (folder, tar)]
    assert len(batches[0]) > 1
    for ours, theirs in zip(*batches, strict=True):
        assert ours._fields == theirs._fields == ("image", "label")
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
