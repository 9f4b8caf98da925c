"""TFRecords: what the tfrecord package and Google's protobuf write, by index; and every way it can be damaged."""

from __future__ import annotations

import gzip
import io
import itertools
import os
import pickle
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dalipipe import native
from dalipipe.records import Encoded
from dalipipe.schema import Field
from dalipipe.sources.shards import ShardError
from dalipipe.sources.tfrecord import TFRecords
from dalipipe.storage import Storage


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DALIPIPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# --- a writer of our own, as the format's description has it ----------------------------------------------------------


def slow_crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = slow_crc32c(data) if len(data) < 64 else native.crc32c(np.frombuffer(data, np.uint8))
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def frame(record: bytes) -> bytes:
    length = struct.pack("<Q", len(record))
    return length + masked(length) + record + masked(record)


def varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


# An array of floats may be empty.
Value = np.ndarray | bytes | int | float | Sequence[bytes] | Sequence[int] | Sequence[float]


def feature(value: Value) -> bytes:
    if isinstance(value, np.ndarray):
        return field(2, field(1, value.astype("<f4").tobytes()))
    values: Sequence[Any] = [value] if isinstance(value, bytes | int | float) else value
    if all(isinstance(each, bytes) for each in values):
        return field(1, b"".join(field(1, each) for each in values))
    if all(isinstance(each, int) for each in values):
        return field(3, field(1, b"".join(varint(each) for each in values)))
    return field(2, field(1, struct.pack(f"<{len(values)}f", *values)))


def entry(name: str, value: bytes) -> bytes:
    return field(1, field(1, name.encode()) + field(2, value))


def message(features: Mapping[str, Value]) -> bytes:
    return field(1, b"".join(entry(name, feature(value)) for name, value in features.items()))


def write(path: Path, records: Iterable[Mapping[str, Value] | bytes]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"".join(frame(each if isinstance(each, bytes) else message(each)) for each in records))
    return path


# --- checksums --------------------------------------------------------------------------------------------------------


def test_crc32c_known_answers() -> None:
    """RFC 3720, B.4, and the check value of the CRC catalogue."""
    known = {bytes(32): 0x8A9136AA, b"\xff" * 32: 0x62A8AB43, bytes(range(32)): 0x46DD794E, b"123456789": 0xE3069283}
    for data, crc in {**known, b"": 0}.items():
        for portable in (False, True):
            assert native.crc32c(np.frombuffer(data, np.uint8), portable=portable) == crc == slow_crc32c(data)


def test_crc32c_at_every_length_and_place() -> None:
    data = np.frombuffer(os.urandom(400), np.uint8)
    for begin, size in itertools.product(range(9), [*range(40), 300, 391]):
        part = data[begin : begin + size]
        expected = slow_crc32c(part.tobytes())
        assert native.crc32c(part) == native.crc32c(part, portable=True) == expected


def test_dtype_mirrors_the_struct() -> None:
    layout = native.struct_layouts()["Feature"]
    assert layout.pop("") == native.FEATURE.itemsize
    assert layout == {name: native.FEATURE.fields[name][1] for name in native.FEATURE.names}


# --- messages, against protobuf ---------------------------------------------------------------------------------------


def values_of(record: bytes) -> dict[str, Any]:
    """What our parser finds in a message: every feature, by the way that a batch of records goes."""
    listed = native.list_features(np.frombuffer(record, np.uint8))
    arena = np.frombuffer(b"before" + record + masked(record), np.uint8)
    found, status = native.read_examples(arena, np.array([6, len(arena)]), list(listed))
    assert status.tolist() == [0]
    values: dict[str, Any] = {}
    for (name, (kind, count)), each in zip(listed.items(), found[0], strict=True):
        assert (native.FEATURE_KINDS[each["kind"]], each["count"]) == (kind, count)
        if kind == "bytes":
            values[name] = native.feature_bytes(arena, each)
            first = arena[each["first"] : each["first"] + each["first_bytes"]].tobytes()
            assert first == (values[name][0] if count else b"")
        elif kind != "absent":
            values[name] = native.feature_numbers(arena, each.reshape(1))[0].tolist()
            assert len(values[name]) == count
    return values


floats = st.floats(width=32, allow_nan=False)
int64s = st.integers(-(2**63), 2**63 - 1)
lists = st.one_of(
    st.lists(st.binary(max_size=200), max_size=4), st.lists(floats, max_size=9), st.lists(int64s, max_size=9)
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(max_size=8), lists, max_size=6))
def test_messages_of_protobuf(features: dict[str, list[Any]]) -> None:
    example_pb2 = pytest.importorskip("tfrecord.example_pb2")
    built = example_pb2.Example()
    kinds = {bytes: "bytes_list", float: "float_list", int: "int64_list"}
    for name, values in features.items():
        if values:
            getattr(built.features.feature[name], kinds[type(values[0])]).value.extend(values)
    record = built.SerializeToString()
    assert values_of(record) == {name: values for name, values in features.items() if values}
    for name, values in features.items():  # and what we write in these tests is what protobuf reads
        if values:
            again = example_pb2.Example.FromString(message({name: values})).features.feature[name]
            assert list(getattr(again, kinds[type(values[0])]).value) == values


def test_messages_that_few_write() -> None:
    one, two = feature(1), feature([2, 3])
    unpacked_ints = field(3, b"".join(varint(1 << 3) + varint(i) for i in (5, -6)) + field(1, varint(7)))
    unpacked_floats = field(2, b"".join(varint(1 << 3 | 5) + struct.pack("<f", x) for x in (0.5, 1.5)) + field(1, b""))
    assert values_of(field(1, entry("i", unpacked_ints) + entry("f", unpacked_floats))) == {
        "i": [5, -6, 7],
        "f": [0.5, 1.5],
    }
    # Of two with one name the last holds; features may come in several messages; the rest is not for us.
    assert values_of(field(1, entry("a", one) + entry("a", two))) == {"a": [2, 3]}
    unknown = (
        field(9, b"later") + varint(8 << 3) + varint(1) + varint(7 << 3 | 5) + bytes(4) + varint(7 << 3 | 1) + bytes(8)
    )
    assert values_of(unknown + field(1, unknown + entry("a", unknown + one)) + field(1, entry("b", two))) == {
        "a": [1],
        "b": [2, 3],
    }
    assert values_of(b"") == values_of(field(1, b"")) == values_of(field(1, entry("nothing", b""))) == {}
    assert values_of(field(1, field(1, field(2, one)))) == {"": [1]}
    assert values_of(message({"none": field(1, b"")[:0], "e": []})) == {"none": [b""], "e": []}


@pytest.mark.parametrize(
    "record",
    [
        b"\x0a", b"\x0a\x05ab", b"\x0b", b"\x00", b"\xff" * 11, varint(2**35), b"\x08\x01",
        b"\x0d\0\0\0\0", b"\x0d\0\0",
        field(1, b"\x0a\x7f"), field(1, field(1, b"\x08\x01")), field(1, b"\x08\x01"),
        field(1, entry("a", field(3, field(1, b"\xff")))), field(1, entry("a", field(3, b"\x0d\0\0\0\0"))),
        field(1, entry("a", field(2, field(1, b"abc")))), field(1, entry("a", field(2, b"\x08\x01"))),
        field(1, entry("a", field(1, b"\x08\x01"))), field(1, entry("a", b"\x08\x01")),
    ],
)  # fmt: skip
def test_what_is_no_message(tmp_path: Path, record: bytes) -> None:
    with pytest.raises(ValueError, match=r"no tf\.train\.Example"):
        native.list_features(np.frombuffer(record, np.uint8))
    source = TFRecords(write(tmp_path / "a", [{"a": 1}, record, {"a": 2}]))
    records = source.read(np.array([0, 1, 2]))
    assert records.columns["a"].tolist() == [1, 0, 2]
    assert str(records.errors.pop(1)) == f"{tmp_path}/a, record 1: it is no tf.train.Example" and not records.errors


# --- the source -------------------------------------------------------------------------------------------------------


def jpeg(seed: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture(20 + seed % 7, 30, seed)).save(out, "JPEG")
    return out.getvalue()


def rows(column: Encoded) -> list[bytes]:
    return [column[row].tobytes() for row in range(len(column))]


def imagenet(i: int) -> dict[str, Value]:
    boxes = np.full(i % 3, float(i))
    return {
        "image/height": 20 + i % 7,
        "image/class/label": 1 + i % 5,
        "image/encoded": jpeg(i),
        "image/filename": b"%04d.jpg" % i,
        "image/object/bbox/xmin": boxes,
        "image/center": [i / 2, 1.0],
    }


def write_shards(folder: Path, counts: Sequence[int]) -> list[dict[str, Value]]:
    numbers, records = itertools.count(), []
    for shard, count in enumerate(counts):
        these = [imagenet(i) for i in itertools.islice(numbers, count)]
        write(folder / f"train-{shard:05d}-of-{len(counts):05d}", these)
        records += these
    return records


@pytest.mark.parametrize("threads", [1, 3])
def test_reads_what_was_written(tmp_path: Path, threads: int) -> None:
    expected = write_shards(tmp_path, (5, 0, 7, 1))
    source = TFRecords(tmp_path / "train-?????-of-00004")
    assert source.schema.fields == (
        Field("image", "image", channels=3),
        *(Field(name, "column") for name in ("image_height", "label", "image_center")),
        *(Field(name, "object") for name in ("image_filename", "image_object_bbox_xmin")),
    )
    rng = np.random.default_rng(0)
    for indices in (np.arange(13), rng.integers(0, 13, 40), np.array([12]), np.array([], np.int64)):
        records = source.read(indices, threads=threads)
        these = [expected[i] for i in indices]
        assert not records.errors and set(records.columns) == set(source.schema.names)
        assert rows(records.columns["image"]) == [each["image/encoded"] for each in these]
        for name, dtype in (("image_height", np.int64), ("label", np.int64), ("image_center", np.float32)):
            assert records.columns[name].dtype == dtype
        assert records.columns["label"].tolist() == [each["image/class/label"] for each in these]
        assert records.columns["image_height"].tolist() == [each["image/height"] for each in these]
        assert records.columns["image_center"].tolist() == [each["image/center"] for each in these]
        assert records.columns["image_filename"] == [each["image/filename"] for each in these]
        got = [values.tolist() for values in records.columns["image_object_bbox_xmin"]]
        assert got == [each["image/object/bbox/xmin"].tolist() for each in these]
    assert source.describe(5) == f"{tmp_path}/train-00002-of-00004, record 0" and len(source) == 13
    assert source.labels is None


def test_reads_what_the_tfrecord_package_writes(tmp_path: Path) -> None:
    writing = pytest.importorskip("tfrecord.writer")
    reading = pytest.importorskip("tfrecord.reader")
    path = tmp_path / "a.tfrecord"
    writer = writing.TFRecordWriter(str(path))
    for i in range(5):
        writer.write({"image/encoded": (jpeg(i), "byte"), "label": (i - 2, "int"), "xy": ([i / 4, 2.0], "float")})
    writer.close()
    source = TFRecords(path)
    records = source.read(np.arange(5))
    theirs = list(reading.tfrecord_loader(str(path), None, {"image/encoded": "byte", "label": "int", "xy": "float"}))
    assert not records.errors and len(theirs) == len(source) == 5
    assert rows(records.columns["image"]) == [bytes(each["image/encoded"]) for each in theirs] == [*map(jpeg, range(5))]
    assert records.columns["label"].tolist() == [each["label"][0] for each in theirs]
    assert records.columns["xy"].tolist() == [each["xy"].tolist() for each in theirs]
    # And what we write here, it reads: the frames are right.
    ours = write(tmp_path / "ours", [{"label": 3, "xy": [1.0]}, {"label": -4, "xy": [2.0]}])
    read = list(reading.tfrecord_loader(str(ours), None, {"label": "int", "xy": "float"}))
    assert [each["label"].tolist() for each in read] == [[3], [-4]]


def test_features_by_name(tmp_path: Path) -> None:
    small, large = jpeg(1), jpeg(2)
    values: list[dict[str, Value]] = [
        {"left": small, "mask": large, "raw": b"x" * i, "n": i, "texts": [b"a", b"b"], "box": [1.0, 2.0]}
        for i in range(4)
    ]
    path = write(tmp_path / "a", values)
    features = {
        "n": "n", "mask": "mask", "picture": "left", "raw": "raw", "again": "left", "texts": "texts",
        "as_object": ("n", "object"),
        "boxes": ("box", "object"), "unseen": ("raw", "image"), "bytes": ("left", "object"), "one": ("texts", "object"),
    }  # fmt: skip
    given: list[np.ndarray] = []

    def allocate(nbytes: int) -> np.ndarray:
        given.append(np.full(nbytes + 9, 7, np.uint8))
        return given[-1]

    source = TFRecords(path, features=features, classes=["a"])
    kinds = {field.name: (field.kind, field.channels) for field in source.schema.fields}
    assert list(kinds) == list(features) and source.classes == ["a"]
    assert kinds["mask"] == ("mask", 1) and kinds["picture"] == ("image", 3) and kinds["unseen"] == ("image", 3)
    records = source.read(np.array([2, 0, 3]), allocate=allocate)
    assert not records.errors
    columns = records.columns
    for name, content in (("mask", large), ("picture", small), ("again", small)):
        assert rows(columns[name]) == [content] * 3
    assert rows(columns["unseen"]) == [b"xx", b"", b"xxx"] and columns["raw"] == [b"xx", b"", b"xxx"]
    assert columns["texts"] == columns["one"] == [[b"a", b"b"]] * 3 and columns["bytes"] == [[small]] * 3
    assert [each.tolist() for each in columns["as_object"]] == [[2], [0], [3]]
    assert [each.tolist() for each in columns["boxes"]] == [[1, 2]] * 3
    assert len(given) == 4 and columns["unseen"].arena is given[0]


@pytest.mark.parametrize(
    ("features", "match"),
    [
        ({"x": "nothing"}, r"no feature 'nothing', but image/center, .*image/encoded"),
        ({"x": ("image/height", "image")}, "is ints, expected column or object, got 'image'"),
        ({"x": ("image/encoded", "column")}, "is bytes, expected image or mask or object, got 'column'"),
        ({"a b": "image/height"}, "expected a Python name, such as 'a_b'"),
    ],
)
def test_features_that_cannot_be(tmp_path: Path, features: Any, match: str) -> None:
    write_shards(tmp_path, (4,))
    with pytest.raises(ValueError, match=match):
        TFRecords(tmp_path / "train-*", features=features)


def test_a_bad_record_costs_no_other(tmp_path: Path) -> None:
    good = {"image/encoded": jpeg(0), "label": 7}
    odd: list[dict[str, Value] | bytes] = [
        {"image/encoded": jpeg(1)},
        {"label": 1},
        {"image/encoded": jpeg(2), "label": [1, 2]},
        {"image/encoded": [b"a", b"b"], "label": 3},
        {"image/encoded": 5, "label": 4},
        {"image/encoded": jpeg(3), "label": 0.5},
        {"image/encoded": jpeg(4), "label": field(1, b"")},
        b"\x0b",
        b"",
    ]
    # Among the records that are looked at to know the features, most are odd here.
    few = TFRecords(
        write(tmp_path / "a", [good, *odd]), features={"image": "image/encoded", "label": ("label", "column")}
    )
    assert [field.kind for field in few.schema.fields] == ["image", "column"]
    assert sorted(few.read(np.arange(10)).errors) == list(range(1, 10))
    many = [good] * 200
    source = TFRecords(write(tmp_path / "b", [*many[:100], *odd, *many[100:]]))
    records = source.read(np.arange(99, 110))
    assert sorted(records.errors) == list(range(1, 10))
    text = [str(records.errors[row]) for row in range(1, 10)]
    assert text[0] == f"{tmp_path}/b, record 100: feature 'label': expected 1 ints, got 0 absent"
    assert text[2].endswith("feature 'label': expected 1 ints, got 2 ints")
    assert text[3].endswith("feature 'image/encoded': expected 1 bytes, got 2 bytes")
    assert records.columns["label"].tolist() == [7, 0, 1, 0, 3, 4, 0, 0, 0, 0, 7]
    expected = [jpeg(0), jpeg(1), b"", jpeg(2), b"", b"", jpeg(3), jpeg(4), b"", b"", jpeg(0)]
    assert rows(records.columns["image"]) == expected


def test_lists_of_any_length_may_be_empty_or_left_out(tmp_path: Path) -> None:
    filled: dict[str, Value] = {"n": 1, "texts": [b"a", b"b"], "ints": [1, 2], "floats": np.ones(2)}
    empty: dict[str, Value] = {"n": 2, "texts": [], "ints": np.ones(0), "floats": np.ones(0)}
    source = TFRecords(write(tmp_path / "a", [filled, empty, {"n": 3}]), features={name: name for name in filled})
    assert [field.kind for field in source.schema.fields] == ["column", "object", "object", "object"]
    records = source.read(np.arange(3))
    assert not records.errors and records.columns["texts"] == [[b"a", b"b"], [], []]
    for name, values in (("ints", [1, 2]), ("floats", [1.0, 1.0])):
        assert [each.tolist() for each in records.columns[name]] == [values, [], []]
        assert len({each.dtype for each in records.columns[name]}) == 1
    assert TFRecords(tmp_path / "a").schema.names == ("n",)  # the only one that all have


def test_a_file_that_vanishes(tmp_path: Path) -> None:
    expected = write_shards(tmp_path, (2, 2))
    source = TFRecords(tmp_path / "train-*")
    (tmp_path / "train-00000-of-00002").unlink()
    records = source.read(np.array([0, 3, 1, 2]))
    assert sorted(records.errors) == [0, 2] and all(isinstance(e, FileNotFoundError) for e in records.errors.values())
    assert rows(records.columns["image"]) == [b"", expected[3]["image/encoded"], b"", expected[2]["image/encoded"]]


def test_source_travels(tmp_path: Path) -> None:
    write_shards(tmp_path / "a", (2, 3))
    source = TFRecords(tmp_path / "a" / "train-*")
    copy = pickle.loads(pickle.dumps(source))
    assert copy.fingerprint() == source.fingerprint() and copy.schema == source.schema
    code = "import pickle, sys, numpy as np; print(pickle.load(sys.stdin.buffer).read(np.array([4])).columns['label'])"
    said = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(source), capture_output=True, check=True)
    assert said.stdout.decode().strip() == "[5]"
    source.close()
    assert source.read(np.array([4])).columns["label"].tolist() == [5]


def test_fingerprint_knows_contents_and_order(tmp_path: Path) -> None:
    a, b, c = ({"label": 1, "x": b"abc"}, {"label": 2, "x": b"abc"}, {"label": 3, "x": b"abc"})
    prints = set()
    for i, records in enumerate(([a, b], [b, a], [a, c], [a], [a, b, c], [a, a])):  # most of equal sizes
        prints.add(TFRecords(write(tmp_path / str(i), records)).fingerprint())
    assert len(prints) == 6
    split = [write(tmp_path / "x" / name, records) for name, records in (("0", [a]), ("1", [b, c]))]
    assert TFRecords(split).fingerprint() == TFRecords(tmp_path / "4").fingerprint()
    assert TFRecords(split[::-1]).fingerprint() not in prints


def test_index_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shards(tmp_path / "a", (2, 3))
    source = TFRecords(tmp_path / "a" / "train-*")
    scanned = []
    monkeypatch.setattr(native.ShardScanner, "scan_file", lambda self, path: scanned.append(path))
    again = TFRecords(tmp_path / "a" / "train-*")
    assert again.fingerprint() == source.fingerprint() and not scanned
    os.utime(tmp_path / "a" / "train-00000-of-00002", ns=(1, 1))
    with pytest.raises(ValueError, match="found none"):
        TFRecords(tmp_path / "a" / "train-*")
    assert len(scanned) == 2


# --- damage -----------------------------------------------------------------------------------------------------------


def test_cut_anywhere(tmp_path: Path) -> None:
    whole = b"".join(frame(message({"n": n, "pad": bytes(n)})) for n in (0, 40, 7))
    ends = [0]
    while ends[-1] < len(whole):
        ends.append(ends[-1] + 16 + struct.unpack_from("<Q", whole, ends[-1])[0])
    for cut in range(len(whole) + 1):
        (tmp_path / f"{cut}").write_bytes(whole[:cut])
        if cut in ends[1:]:
            assert TFRecords(tmp_path / f"{cut}").read(np.array([0])).columns["n"].tolist() == [0]
            continue
        with pytest.raises(ValueError if cut == 0 else ShardError) as error:
            TFRecords(tmp_path / f"{cut}")
        if isinstance(error.value, ShardError):
            assert (error.value.path, error.value.offset) == (str(tmp_path / f"{cut}"), cut)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_flipped_bit_is_found(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    records: list[dict[str, Value]] = [{"n": n, "pad": bytes(50)} for n in range(4)]
    shard = bytearray(b"".join(frame(message(record)) for record in records))
    size = len(shard) // 4
    at = data.draw(st.integers(0, len(shard) - 1))
    shard[at] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.mktemp("flipped") / "a"
    path.write_bytes(shard)
    record, place = divmod(at, size)
    if place < 12:
        with pytest.raises(ShardError) as error:
            TFRecords(path)
        assert error.value.offset == record * size
        assert ("length" if record else "no TFRecord file") in error.value.reason
        return
    read = TFRecords(path, features={"n": "n"}).read(np.arange(4))
    assert list(read.errors) == [record] and "record is damaged" in str(read.errors[record])
    assert read.columns["n"].tolist() == [0 if i == record else i for i in range(4)]


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
def test_compressed_files_are_named(tmp_path: Path, compress: Any) -> None:
    path = write(tmp_path / "a", [{"n": 1}])
    path.write_bytes(compress(path.read_bytes() * 9))
    with pytest.raises(ShardError, match=r"looks like a compressed file.* decompress it"):
        TFRecords(path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        TFRecords(tmp_path / "none")
    with pytest.raises(ShardError, match="this is no TFRecord file"):
        (tmp_path / "a").write_bytes(b"<html>" + bytes(2000))
        TFRecords(tmp_path / "a")
    with pytest.raises(ValueError, match=r"b, record 0: it is no tf\.train\.Example"):
        TFRecords(write(tmp_path / "b", [b"\x0b", b"\x0b"]))
    with pytest.raises(ShardError, match="a record claims 9223372036854775807 bytes"):
        length = struct.pack("<Q", 2**63 - 1)
        (tmp_path / "c").write_bytes(length + masked(length) + bytes(100))
        TFRecords(tmp_path / "c")


# --- remote files -----------------------------------------------------------------------------------------------------


def test_files_on_an_s3_server(tmp_path: Path) -> None:
    pytest.importorskip("moto")
    pytest.importorskip("obstore")
    from s3 import s3_bucket

    expected = write_shards(tmp_path, (3, 4))
    with s3_bucket({path.name: path.read_bytes() for path in tmp_path.glob("train-*")}) as bucket:
        source = TFRecords(bucket.url("train-*"), storage=Storage(options=bucket.options()))
        assert source.fingerprint() == TFRecords(tmp_path / "train-*").fingerprint()
        records = source.read(np.array([6, 0, 3]), threads=2)
        assert not records.errors
        assert rows(records.columns["image"]) == [expected[i]["image/encoded"] for i in (6, 0, 3)]
        assert records.columns["label"].tolist() == [2, 1, 4]
