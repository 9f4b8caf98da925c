"""Tables of encoded pictures, against pyarrow and Hugging Face's datasets themselves."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pa = pytest.importorskip("pyarrow")
import pyarrow.dataset as pads  # noqa: E402
import pyarrow.feather as feather  # noqa: E402
import pyarrow.ipc as ipc  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

from dalipipe.records import Encoded  # noqa: E402
from dalipipe.schema import Field  # noqa: E402
from dalipipe.sources.table import Table, is_table  # noqa: E402
from dalipipe.storage import Storage  # noqa: E402


@pytest.fixture(autouse=True)
def cache_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DALIPIPE_CACHE", str(tmp_path / "cache"))


def jpeg(seed: int = 0, size: tuple[int, int] = (9, 12)) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(picture(*size, seed=seed)).save(out, "JPEG")
    return out.getvalue()


def blobs(n: int, seed: int = 0) -> list[bytes]:
    """Of any bytes: a source does not look into them. One of them is empty."""
    rng = np.random.default_rng(seed)
    return [rng.bytes(int(rng.integers(0, 300)) * (i != 1)) for i in range(n)]


def plain(n: int = 23) -> pa.Table:
    return pa.table(
        {
            "text": [f"text {i}" for i in range(n)],
            "label": pa.array([i % 5 for i in range(n)], pa.int32()),
            "image": blobs(n),
            "score": pa.array([i / 3 for i in range(n)], pa.float32()),
            "box": pa.array([[i, i + 1, i + 2, i + 3] for i in range(n)], pa.list_(pa.int16(), 4)),
        }
    )


def write(table: pa.Table, path: Path, rows: int, **options: Any) -> str:
    """In blocks of ``rows``, by the file's suffix; ``.stream.arrow`` is a stream."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=rows, **options)
    elif path.suffix == ".feather":
        feather.write_feather(table, path, chunksize=rows, **options)
    else:
        new = ipc.new_stream if ".stream" in path.name else ipc.new_file
        with new(path, table.schema, options=ipc.IpcWriteOptions(**options)) as out:
            out.write_table(table, max_chunksize=rows)
    return str(path)


def rows_of(source: Table, indices: Any, **kw: Any) -> tuple[list[dict[str, Any]], dict[int, Exception]]:
    """What a read gave, row by row, as Python objects."""
    records = source.read(np.asarray(indices, np.int64), **kw)
    columns = {}
    for name, column in records.columns.items():
        if isinstance(column, Encoded):
            assert column.starts[0] == 0 and column.starts.dtype == np.int64 and column.arena.dtype == np.uint8
            columns[name] = [column[i].tobytes() for i in range(len(column))]
        else:
            columns[name] = column.tolist() if isinstance(column, np.ndarray) else column
    assert all(len(column) == len(indices) for column in columns.values())
    assert list(columns) == list(source.schema.names)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)], records.errors


def same(source: Table, expected: list[dict[str, Any]], indices: Any = None, **kw: Any) -> bool:
    """Whether rows and errors are as expected; all rows, in a random order with some twice, where none are named."""
    if indices is None:
        indices = np.random.default_rng(0).integers(0, len(expected), 2 * len(expected) + 1)
    rows, errors = rows_of(source, indices, **kw)
    wanted = [{name: expected[i][name] for name in source.schema.names} for i in indices]
    return not errors and rows == wanted and len(source) == len(expected)


KINDS = {
    "memory": lambda table, folder: table,
    "chunks": lambda table, folder: pa.concat_tables([table.slice(0, 7), table.slice(7, 1), table.slice(8)]),
    "parquet": lambda table, folder: write(table, folder / "a.parquet", 7),
    "parquet, uncompressed": lambda table, folder: write(table, folder / "a.parquet", 7, compression="none"),
    "arrow": lambda table, folder: write(table, folder / "a.arrow", 7),
    "arrow, compressed": lambda table, folder: write(table, folder / "a.arrow", 7, compression="zstd"),
    "stream": lambda table, folder: write(table, folder / "a.stream.arrow", 7),
    "feather": lambda table, folder: write(table, folder / "a.feather", 7, compression="lz4"),
    "dataset": lambda table, folder: pads.dataset(write(table, folder / "a.parquet", 7)),
    "arrow dataset": lambda table, folder: pads.dataset(write(table, folder / "a.arrow", 7), format="ipc"),
    "dataset in memory": lambda table, folder: pads.dataset(table),
}


# What is read -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_pyarrows(kind: str, tmp_path: Path) -> None:
    table = plain()
    source = Table(KINDS[kind](table, tmp_path))
    assert source.schema.fields == (
        Field("image", "image", channels=3),
        Field("label", "column"),
        Field("text", "object"),
        Field("score", "column"),
        Field("box", "column"),
    )
    expected = table.to_pylist()
    for threads in (1, 3):
        assert same(source, expected, threads=threads)
    assert same(source, expected, []) and same(source, expected, [22]) and same(source, expected, range(23))
    records = source.read(np.array([3, 1]))
    assert records.columns["label"].dtype == np.int64 and records.columns["score"].dtype == np.float32
    assert records.columns["box"].dtype == np.int16 and records.columns["box"].shape == (2, 4)
    assert (source.labels == [i % 5 for i in range(23)]).all() and source.labels.dtype == np.int64
    starts = source.row_groups
    assert starts[0] == 0 and (np.diff(starts) > 0).all() and starts[-1] < 23
    if kind in ("parquet", "arrow", "stream", "feather", "dataset"):
        assert starts.tolist() == [0, 7, 14, 21]
    with pytest.raises(IndexError, match=r"0\.\.22"):
        source.read(np.array([23]))
    with pytest.raises(IndexError):
        source.read(np.array([-1]))
    source.close()
    assert same(source, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_pickled_before_and_after_use(kind: str, tmp_path: Path) -> None:
    source = Table(KINDS[kind](plain(), tmp_path))
    copy = pickle.loads(pickle.dumps(source))
    assert same(source, plain().to_pylist()) and same(copy, plain().to_pylist())
    again = pickle.loads(pickle.dumps(source))
    assert same(again, plain().to_pylist())
    assert source.fingerprint() == copy.fingerprint() == again.fingerprint()
    if kind in ("parquet", "arrow", "stream"):
        assert len(pickle.dumps(source)) < 5000  # the way to the data, not the data


def test_memory_of_the_caller_is_used(tmp_path: Path) -> None:
    for kind in ("memory", "parquet"):
        given: list[np.ndarray] = []

        def allocate(nbytes: int, given: list[np.ndarray] = given) -> np.ndarray:
            given.append(np.full(nbytes + 10, 7, np.uint8))
            return given[-1]

        source = Table(KINDS[kind](plain(), tmp_path), columns=["image"])
        records = source.read(np.arange(23), allocate=allocate)
        assert records.columns["image"].arena is given[0] and len(given) == 1
        assert (given[0][-10:] == 7).all()


def test_large_batches_are_copied_by_threads() -> None:
    rng = np.random.default_rng(0)
    data = [rng.bytes(1_000_000 + i) for i in range(11)]
    source = Table(pa.table({"image": data}))
    assert same(source, [{"image": blob} for blob in data], threads=4)


IMAGES = {
    "binary": lambda data: pa.array(data, pa.binary()),
    "large_binary": lambda data: pa.array(data, pa.large_binary()),
    "binary_view": lambda data: pa.array(data, pa.binary_view()),
    "fixed": lambda data: pa.array([blob[:4].ljust(4) for blob in data], pa.binary(4)),
    "dictionary": lambda data: pa.array(data, pa.binary()).dictionary_encode(),
    "struct": lambda data: pa.array([{"bytes": blob, "path": None} for blob in data]),
    "struct of null paths": lambda data: pa.array(
        [{"bytes": blob, "path": None} for blob in data], pa.struct({"bytes": pa.binary(), "path": pa.null()})
    ),
    "struct of large": lambda data: pa.array(
        [{"path": "x", "bytes": blob} for blob in data],
        pa.struct({"path": pa.large_string(), "bytes": pa.large_binary()}),
    ),
}


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("offset", [0, 3])
def test_types_of_pictures(kind: str, offset: int, tmp_path: Path) -> None:
    data = blobs(20)
    array = IMAGES[kind](data).slice(offset)
    expected = [{"image": blob[:4].ljust(4) if kind == "fixed" else blob} for blob in data[offset:]]
    table = pa.table({"image": array})
    assert same(Table(table), expected) and Table(table).fingerprint()
    write(table, tmp_path / "a.arrow", 6)
    assert same(Table(tmp_path / "a.arrow"), expected)


def test_pictures_by_path(tmp_path: Path) -> None:
    """Hugging Face keeps the path alone of a picture that is a file, and bytes of others; both in one table."""
    data = blobs(8)
    values: list[Any] = []
    for i, blob in enumerate(data):
        (tmp_path / f"{i}.jpg").write_bytes(blob)
        values.append({"bytes": None if i % 2 else blob, "path": str(tmp_path / f"{i}.jpg")})
    expected = [{"image": blob} for blob in data]
    assert same(Table(pa.table({"image": values})), expected, threads=2)
    given = []

    def allocate(nbytes: int) -> np.ndarray:
        given.append(nbytes)
        return np.empty(nbytes, np.uint8)

    assert same(Table(pa.table({"image": values})), expected, [1, 3, 5], allocate=allocate)
    assert len(given) == 1  # paths only: no second copy
    paths = pa.table({"image": [value["path"] for value in values]})
    assert same(Table(paths), expected)
    (tmp_path / "3.jpg").unlink()
    rows, errors = rows_of(Table(paths), [2, 3, 4])
    assert [row["image"] for row in rows] == [data[2], b"", data[4]]
    assert list(errors) == [1] and isinstance(errors[1], FileNotFoundError)


NUMBERS = {
    "bool": (pa.array([True, False, True]), np.bool_),
    "int8": (pa.array([-1, 2, 3], pa.int8()), np.int64),
    "uint32": (pa.array([1, 2, 2**32 - 1], pa.uint32()), np.int64),
    "uint64": (pa.array([1, 2, 2**64 - 1], pa.uint64()), np.uint64),
    "half": (pa.array(np.array([1, 2, 3], np.float16)), np.float16),
    "double": (pa.array([0.5, np.inf, -1.0]), np.float64),
    "dictionary": (pa.array([5, 6, 5]).dictionary_encode(), np.int64),
    "matrix": (pa.array([[[1, 2], [3, 4]]] * 3, pa.list_(pa.list_(pa.float32(), 2), 2)), np.float32),
    "tensor": (
        pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.uint8(), (2, 3)), pa.array([[1, 2, 3, 4, 5, 6]] * 3, pa.list_(pa.uint8(), 6))
        ),
        np.uint8,
    ),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_types_of_numbers(kind: str) -> None:
    array, dtype = NUMBERS[kind]
    for part in (array, array.slice(1)):
        source = Table(pa.table({"x": part}), image=None)
        column = source.read(np.array([1, 0])).columns["x"]
        assert source.schema.fields == (Field("x", "column"),) and column.dtype == dtype
        expected = part.to_numpy_ndarray() if kind == "tensor" else np.array(part.to_pylist())
        assert (column == expected[[1, 0]]).all()


def test_all_else_is_objects() -> None:
    import datetime
    import decimal

    values = {
        "text": ["a", None],
        "when": [datetime.datetime(2020, 1, 1), None],
        "money": [decimal.Decimal("1.5"), None],
        "list": [[1, 2], []],
        "struct": [{"a": 1}, None],
        "nothing": [None, None],
        "lists": pa.array([[[1], [2, 3]], None], pa.list_(pa.list_(pa.int32()), 2)),
        "raw": [b"x", None],
    }
    table = pa.table(values)
    source = Table(table, image=None)
    assert all(field.kind == "object" for field in source.schema.fields)
    assert same(source, table.to_pylist(), [1, 0])


def test_nulls_are_their_rows_errors(tmp_path: Path) -> None:
    table = pa.table(
        {
            "image": [b"a", None, b"c", b"d", b"e", b"f"],
            "label": [0, 1, None, 3, 4, 5],
            "box": pa.array([[1, 2], [1, 2], [1, 2], None, [3, None], [5, 6]], pa.list_(pa.int32(), 2)),
        }
    )
    path = write(table, tmp_path / "a.parquet", 2)
    for source in (Table(table), Table(path), Table(table.slice(0))):
        rows, errors = rows_of(source, [5, 4, 3, 2, 1, 0])
        assert sorted(errors) == [1, 2, 3, 4] and all(isinstance(error, ValueError) for error in errors.values())
        assert "'box'" in str(errors[1]) and "'label'" in str(errors[3]) and "'image'" in str(errors[4])
        assert rows[0] == {"image": b"f", "label": 5, "box": [5, 6]} and rows[5]["image"] == b"a"
        assert rows[3]["label"] == 0 and rows[4]["image"] == b"" and rows[2]["box"] == [0, 0]
        assert source.labels is not None and source.labels.tolist() == [0, 1, 0, 3, 4, 5]
    assert not Table(table, columns=["image"]).read(np.array([0, 2, 3])).errors
    covered = pa.FixedSizeListArray.from_arrays(pa.array([1, 2, 3, 4]), 2, mask=pa.array([True, False]))
    rows, errors = rows_of(Table(pa.table({"x": covered}), image=None), [0, 1])
    assert list(errors) == [0] and rows == [{"x": [0, 0]}, {"x": [3, 4]}]  # what lies under a null is nobody's


def test_offsets_that_lead_astray() -> None:
    """Of a damaged memory-mapped file nothing has been checked; it must not end the process."""
    for type_, image in ((pa.string(), None), (pa.binary(), None), (pa.binary(), "x")):
        for damage in ([0, 10**9, 2, 3], [0, 1, 2, 10**9], [-5, 1, 2, 3], [0, 2, 1, 3]):
            offsets = np.arange(4, dtype=np.int32)
            array = pa.Array.from_buffers(type_, 3, [None, pa.py_buffer(offsets), pa.py_buffer(b"abc")])
            source = Table(pa.table({"x": array}), image=image)
            offsets[:] = damage
            rows, errors = rows_of(source, [0, 1, 2])
            assert sorted(errors) == [0, 1, 2] and "row 0" in str(errors[0])
            assert all(not row["x"] for row in rows)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_tables(data: st.DataObject, tmp_path: Path) -> None:
    """Any columns with any nulls, in any blocks: the same as pyarrow's own take."""
    types = [
        pa.binary(),
        pa.large_binary(),
        pa.string(),
        pa.bool_(),
        pa.uint8(),
        pa.int64(),
        pa.float32(),
        pa.float64(),
    ]
    types += [pa.list_(pa.int16(), 2), pa.list_(pa.float64()), pa.struct({"a": pa.int32()}), pa.date32()]
    values = {
        pa.binary(): st.binary(max_size=20),
        pa.large_binary(): st.binary(max_size=20),
        pa.string(): st.text(max_size=5),
        pa.bool_(): st.booleans(),
        pa.uint8(): st.integers(0, 255),
        pa.int64(): st.integers(-(2**63), 2**63 - 1),
        pa.float32(): st.floats(width=32, allow_nan=False),
        pa.float64(): st.floats(allow_nan=False),
        types[8]: st.lists(st.integers(-100, 100), min_size=2, max_size=2),
        types[9]: st.lists(st.floats(allow_nan=False), max_size=3),
        types[10]: st.fixed_dictionaries({"a": st.integers(0, 9)}),
        pa.date32(): st.dates(),
    }
    n = data.draw(st.integers(1, 12), "rows")
    chosen = data.draw(st.lists(st.sampled_from(types), min_size=1, max_size=5), "types")
    columns = {"image": pa.array(data.draw(st.lists(st.binary(max_size=30), min_size=n, max_size=n)), pa.binary())}
    for i, type_ in enumerate(chosen):
        column = st.lists(st.none() | values[type_], min_size=n, max_size=n)
        columns[f"c{i}"] = pa.array(data.draw(column, str(type_)), type_)
    table = pa.table(columns)
    first = data.draw(st.integers(0, n - 1), "first")
    table = table.slice(first)
    kind = data.draw(st.sampled_from(["memory", ".parquet", ".arrow", ".feather"]), "kind")
    rows = data.draw(st.integers(1, n), "rows a block")
    source = Table(table if kind == "memory" else write(table, tmp_path / f"x{kind}", rows))
    indices = data.draw(st.lists(st.integers(0, len(source) - 1), max_size=15), "indices")
    found, errors = rows_of(source, indices)
    expected = table.to_pylist()
    strict = [field.name for field in source.schema.fields if field.kind != "object"]
    for row, index in enumerate(indices):
        assert (row in errors) == any(expected[index][name] is None for name in strict)
        for name, value in expected[index].items():
            assert found[row][name] == value or (value is None and row in errors)


# Which columns ------------------------------------------------------------------------------------------------------


def test_columns_and_names() -> None:
    table = pa.table({"img/enc": [b"x"], "class": [1], "class ": ["t"], "2nd": [0.5]})
    source = Table(table, image="img/enc", label="class")
    assert source.schema.names == ("img_enc", "class_", "class__", "field_2nd")
    assert source.labels is not None and source.labels.tolist() == [1]
    assert Table(table, image=None, columns=["2nd", "class"]).schema.names == ("field_2nd", "class_")
    source = Table(table, columns={"label": "class", "image": "img/enc"})
    assert source.schema.fields == (Field("label", "column"), Field("image", "image", channels=3))
    assert source.labels is not None and source.labels.tolist() == [1]


def test_masks() -> None:
    table = pa.table({"annotation": [{"bytes": b"m", "path": None}], "image": [{"bytes": b"x", "path": None}]})
    source = Table(table, mask="annotation")
    assert source.schema.fields == (Field("image", "image", channels=3), Field("annotation", "mask", channels=1))
    assert same(source, [{"image": b"x", "annotation": b"m"}])


@pytest.mark.parametrize(
    ("kw", "error", "words"),
    [
        ({"image": "image"}, ValueError, r"no column.*img \(binary\).*give image='img'"),
        ({"image": "img", "label": "labels"}, ValueError, "label='labels'"),
        ({"image": "n"}, TypeError, "encoded files"),
        ({"image": None, "columns": ["img", "x"]}, ValueError, "columns='x'"),
        ({"image": None, "columns": "img"}, TypeError, "list of names"),
        ({"image": None, "columns": []}, ValueError, "at least one"),
        ({"image": None, "columns": {"a b": "img"}}, ValueError, "such as 'a_b'"),
        ({"image": None, "mask": "m"}, ValueError, "mask='m'"),
    ],
)
def test_columns_that_are_not_there(kw: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Table(pa.table({"img": [b"x"], "n": [1]}), **kw)


def test_sources_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one row"):
        Table(plain().slice(0, 0))
    with pytest.raises(TypeError, match="from_pandas"):
        Table(3)
    with pytest.raises(FileNotFoundError):
        Table(tmp_path / "none.parquet")
    with pytest.raises(FileNotFoundError):
        Table(str(tmp_path / "*.parquet"))
    (tmp_path / "x.csv").write_text("a,b")
    with pytest.raises(ValueError, match=r"\.parquet.*x\.csv"):
        Table(tmp_path / "x.csv")
    with pytest.raises(FileNotFoundError):
        Table(tmp_path)
    both = [write(plain(), tmp_path / "a.parquet", 5), write(plain(), tmp_path / "a.arrow", 5)]
    with pytest.raises(ValueError, match="both Arrow and Parquet"):
        Table(both)
    with pytest.raises(ValueError, match="none"):
        Table([])
    with pytest.raises(ValueError, match="several columns"):
        Table(pa.table([[b"x"], [b"y"]], names=["image", "image"]))
    filtered = pads.dataset(both[0]).filter(pads.field("label") > 2)
    with pytest.raises(ValueError, match="to_table"):
        Table(filtered)


@pytest.mark.parametrize(
    "content", [b"", b"x", b"PAR1", b"PAR1\xff\xff\xff\x7fPAR1", b"PAR1" + b"\0" * 40 + b"\x20\0\0\0PAR1"]
)
@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_files_that_are_damaged(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\."):
        Table(path)


def test_other_arrow_files(tmp_path: Path) -> None:
    write(plain(), tmp_path / "a.stream.arrow", 5, compression="zstd")
    with pytest.raises(ValueError, match="compressed stream"):
        Table(tmp_path / "a.stream.arrow")
    pq.write_table(plain(), tmp_path / "renamed.arrow")
    with pytest.raises(ValueError, match="renamed"):
        Table(tmp_path / "renamed.arrow")


def test_classes_that_hugging_face_left_in_a_file(tmp_path: Path) -> None:
    info = '{"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}'
    table = plain().replace_schema_metadata({"huggingface": info})
    assert Table(table).classes == ["cat", "dog"]
    assert Table(write(table, tmp_path / "a.parquet", 5)).classes == ["cat", "dog"]
    assert Table(table.replace_schema_metadata({"huggingface": "{"})).classes is None
    assert Table(plain()).classes is None


# Files --------------------------------------------------------------------------------------------------------------


def test_many_files(tmp_path: Path) -> None:
    table = plain(40)
    (tmp_path / "d" / "train").mkdir(parents=True)
    (tmp_path / "d" / "_metadata.parquet").write_bytes(b"not one of them")
    (tmp_path / "d" / "README.md").write_text("nor this")
    for suffix in (".parquet", ".arrow"):
        paths = [
            write(table.slice(at, n), tmp_path / "d" / "train" / f"{i:02d}{suffix}", 4)
            for i, (at, n) in enumerate(((0, 10), (10, 1), (11, 0), (11, 29)))
        ]
        for source in (
            Table(paths),
            Table(str(tmp_path / "d" / "train" / f"*{suffix}")),
            Table(str(tmp_path / "d" / "**" / f"0*{suffix}")),
            Table([tmp_path / "d" / "train" / f"{{00..02}}{suffix}", paths[3]]),
            Table(tmp_path / "d"),
        ):
            assert same(source, table.to_pylist(), threads=2)
        assert source.describe(10) == f"{paths[1]}, row 0" and source.describe(39) == f"{paths[3]}, row 28"
        folder = tmp_path / f"copy{suffix}"
        (tmp_path / "d" / "train").rename(folder)
        moved = Table(folder)
        assert same(moved, table.to_pylist()) and moved.fingerprint() == source.fingerprint()
        (tmp_path / "d" / "train").mkdir()


def test_a_file_with_other_types_or_without_a_column(tmp_path: Path) -> None:
    """Shards written by different runs: what can be cast is, and what cannot costs that file's rows."""
    first = pa.table({"image": [b"a", b"b"], "label": pa.array([1, 2], pa.int64()), "note": ["x", "y"]})
    second = pa.table({"note": pa.nulls(2), "label": pa.array([3, 4], pa.int32()), "image": [b"c", b"d"]})
    third = pa.table({"image": [b"e"], "label": ["five"], "note": ["z"]})
    fourth = pa.table({"image": [b"f"], "note": ["z"]})
    paths = [write(t, tmp_path / f"{i}.parquet", 2) for i, t in enumerate((first, second, third, fourth))]
    rows, errors = rows_of(Table(paths), range(6))
    assert [row["image"] for row in rows[:4]] == [b"a", b"b", b"c", b"d"]
    assert [row["label"] for row in rows[:4]] == [1, 2, 3, 4] and [row["note"] for row in rows[:3]] == ["x", "y", None]
    assert sorted(errors) == [4, 5] and "2.parquet" in str(errors[4]) and "3.parquet" in str(errors[5])


class Counting(Storage):
    """Storage that knows what was read through it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "ranges", [])

    def read(self, paths: Any, **kw: Any) -> Any:
        arena, starts, errors = super().read(paths, **kw)
        self.ranges.append([int(n) for n in np.diff(starts)])  # type: ignore[attr-defined]
        return arena, starts, errors


def test_only_what_is_wanted_is_read(tmp_path: Path) -> None:
    n = 40
    rng = np.random.default_rng(0)
    table = pa.table(
        {"a": [rng.bytes(90_000) for _ in range(n)], "image": [rng.bytes(5000) for _ in range(n)], "label": range(n)}
    )
    path = write(table, tmp_path / "a.parquet", 10)
    storage = Counting()
    source = Table(path, columns=["image", "label"], storage=storage)
    ranges = storage.ranges  # type: ignore[attr-defined]
    assert len(ranges) == 1  # the footer
    source.read(np.array([15, 12, 39]))
    assert len(ranges) in (2, 3) and sum(ranges[-1]) < 2 * 10 * 5000 + 10_000  # two row groups, in one go
    del ranges[:]
    assert same(source, table.to_pylist(), [15, 31, 39, 12])
    assert not ranges  # kept
    source.close()
    source.read(np.array([15]))
    assert len(ranges) == 2  # the footer, too, was let go of


def test_long_ranges_are_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dalipipe.sources.arrow.parquet._RANGE_BYTES", 1000)
    path = write(plain(100), tmp_path / "a.parquet", 50, compression="none")
    storage = Counting()
    source = Table(path, storage=storage)
    del storage.ranges[:]  # type: ignore[attr-defined]
    assert same(source, plain(100).to_pylist())
    footer, (*parts,) = storage.ranges  # type: ignore[attr-defined]
    assert len(footer) == 1 and max(parts) == 1000 and len(parts) > 10  # nothing was read another time


def test_no_more_blocks_are_kept_than_asked_for(tmp_path: Path) -> None:
    n, size = 64, 20_000
    table = pa.table({"image": [np.random.default_rng(i).bytes(size) for i in range(n)]})
    path = write(table, tmp_path / "a.parquet", 4)
    storage = Counting()
    source = Table(path, storage=storage, cache_bytes=5 * 4 * size)
    before = pa.total_allocated_bytes()
    for start in range(0, n, 4):
        source.read(np.arange(start, start + 4))
    assert pa.total_allocated_bytes() - before <= 6 * 4 * size
    del storage.ranges[:]  # type: ignore[attr-defined]
    source.read(np.arange(n - 16, n))
    assert not storage.ranges  # type: ignore[attr-defined]
    while_reading = []

    def allocate(nbytes: int) -> np.ndarray:
        while_reading.append(pa.total_allocated_bytes() - before)
        return np.empty(nbytes, np.uint8)

    records = source.read(np.random.default_rng(0).permutation(n), allocate=allocate)  # of all blocks at once
    assert while_reading[0] <= 9 * 4 * size and pa.total_allocated_bytes() - before <= 6 * 4 * size
    assert len(records.columns["image"]) == n
    with pytest.warns(UserWarning, match="row_group_size"):
        tiny = Table(path, cache_bytes=1000)
    assert same(tiny, table.to_pylist())


def test_a_local_arrow_file_is_not_copied(tmp_path: Path) -> None:
    path = write(pa.table({"image": [b"x" * 1_000_000] * 30}), tmp_path / "a.arrow", 10)
    source = Table(path)
    before = pa.total_allocated_bytes()
    source.read(np.array([0, 15, 29]))
    assert pa.total_allocated_bytes() - before < 10_000
    held = [block.held_bytes for block in source._kept.values()]
    assert held == [0, 0, 0]
    compressed = Table(write(plain(30), tmp_path / "b.arrow", 10, compression="zstd"))
    compressed.read(np.array([0]))
    assert [block.held_bytes > 0 for block in compressed._kept.values()] == [True]
    labels = Table(write(plain(1000), tmp_path / "c.arrow", 1000, compression="zstd"), columns=["label"])
    labels.read(np.array([0]))
    assert next(iter(labels._kept.values())).held_bytes < 10_000  # the other columns stay compressed


def test_a_damaged_row_group_costs_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write(plain(30), path, 10, compression="none")
    raw = bytearray(path.read_bytes())
    group = pq.read_metadata(path).row_group(1)
    at = group.column(0).data_page_offset
    raw[at : at + 30] = b"\xff" * 30
    path.write_bytes(raw)
    source = Table(path, columns=["text", "label"])
    rows, errors = rows_of(source, [5, 15, 25, 12])
    assert sorted(errors) == [1, 3] and "row group 1" in str(errors[1]) and "a.parquet" in str(errors[1])
    assert rows[0]["label"] == 0 and rows[2]["label"] == 0 and rows[0]["text"] == "text 5"


def test_files_that_change_or_vanish(tmp_path: Path) -> None:
    for suffix in (".parquet", ".arrow"):
        paths = [write(plain(10), tmp_path / f"{i}{suffix}", 5) for i in range(2)]
        source = Table(paths)
        write(plain(30), Path(paths[1]), 9)
        _, errors = rows_of(source, [0, 3, 12])
        assert list(errors) == [2]
        source._blocks._infos[1] = Storage().info(paths[1])  # type: ignore[attr-defined]
        source.close()
        _, errors = rows_of(source, [0, 3, 12])  # whole, but other blocks
        assert list(errors) == [2] and "has changed" in str(errors[2])
        Path(paths[1]).unlink()
        source.close()
        rows, errors = rows_of(source, [0, 3, 12])
        assert list(errors) == [2] and isinstance(errors[2], OSError)
        assert rows[1]["text"] == "text 3"


def test_fingerprints(tmp_path: Path) -> None:
    def of(source: Any) -> str:
        return Table(source).fingerprint()

    table = plain()
    other = table.set_column(2, "image", pa.array(blobs(23, seed=1)))
    assert of(table) == of(pa.table(table.to_pydict(), schema=table.schema)) != of(other)
    assert of(table) != of(table.slice(1)) and of(table) != of(table.rename_columns(["t", "label", "image", "s", "b"]))
    paths = {name: write(t, tmp_path / name / "a.parquet", 7) for name, t in (("x", table), ("y", table), ("z", other))}
    assert of(paths["x"]) == of(paths["y"]) != of(paths["z"])  # elsewhere, and written at another time
    assert of([paths["x"], paths["z"]]) != of([paths["z"], paths["x"]])
    for suffix in ("parquet", "arrow"):  # of one size
        relabelled = table.set_column(1, "label", pa.array([i % 5 for i in range(1, 24)], pa.int32()))
        one, two = (write(t, tmp_path / f"{i}" / f"a.{suffix}", 7) for i, t in enumerate((table, relabelled)))
        assert of(one) != of(two)


def test_fingerprint_is_the_same_in_another_process(tmp_path: Path) -> None:
    path = write(plain(), tmp_path / "a.parquet", 7)
    code = f"from dalipipe.sources.table import Table; print(Table({path!r}).fingerprint())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == Table(path).fingerprint()


def test_many_footers_are_kept_on_disk(tmp_path: Path) -> None:
    paths = [write(plain(3), tmp_path / f"{i:03d}.parquet", 2) for i in range(70)]
    expected = plain(3).to_pylist() * 70
    first, second = Counting(), Counting()
    assert same(Table(paths, storage=first), expected)
    source = Table(paths, storage=second)
    assert not second.ranges and same(source, expected)  # type: ignore[attr-defined]
    write(plain(4), Path(paths[9]), 2)
    assert len(Table(paths)) == 211


def test_a_long_footer(tmp_path: Path) -> None:
    table = pa.table({"image": blobs(600), **{f"c{i}": np.arange(600) for i in range(40)}})
    path = write(table, tmp_path / "a.parquet", 10)
    assert pq.read_metadata(path).serialized_size > 100_000
    assert same(Table(path, columns=["c3", "image"]), table.to_pylist(), [0, 599, 300])


def test_a_row_group_of_many_batches(tmp_path: Path) -> None:
    """pyarrow gives a large row group in several chunks; cut here by a small limit of its own."""
    source = Table(write(plain(23), tmp_path / "a.parquet", 23))
    load = source._blocks.load

    def in_pieces(blocks: Any, columns: Any, threads: int) -> Any:
        for number, block in load(blocks, columns, threads):
            whole = pa.Table.from_batches(block.batches)
            yield number, block._replace(batches=whole.to_batches(max_chunksize=4))

    source._blocks.load = in_pieces  # type: ignore[method-assign]
    assert same(source, plain(23).to_pylist()) and source.labels is not None
    assert source.labels.tolist() == [i % 5 for i in range(23)]


def test_partitioned_data_sets(tmp_path: Path) -> None:
    table = plain(20).append_column("year", pa.array([2000 + i % 2 for i in range(20)]))
    pads.write_dataset(
        table,
        tmp_path,
        format="parquet",
        partitioning=pads.partitioning(pa.schema({"year": pa.int64()}), flavor="hive"),
    )
    dataset = pads.dataset(tmp_path, partitioning="hive")
    source = Table(dataset)
    assert same(source, dataset.to_table().to_pylist()) and "year" in source.schema.names
    assert "row 3" in source.describe(3) and str(tmp_path) in source.describe(3)


def test_threads_read_side_by_side(tmp_path: Path) -> None:
    table = plain(200)
    source = Table(write(table, tmp_path / "a.parquet", 10), cache_bytes=20_000)
    expected = table.to_pylist()
    found: list[bool] = []

    def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        found.extend(same(source, expected, rng.integers(0, 200, 30).tolist(), threads=2) for _ in range(10))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 40


def test_without_pyarrow() -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from dalipipe.sources.table import Table\n"
        "try: Table('x.parquet')\n"
        "except ImportError as error: print(error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'dalipipe[tables]'" in out.stdout


def test_importing_costs_no_pyarrow() -> None:
    code = "import sys, dalipipe.sources.table; print('pyarrow' in sys.modules, 'datasets' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False False"


# Hugging Face -------------------------------------------------------------------------------------------------------


@pytest.fixture
def hugging_face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The library, kept off the network and off the home folder."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    return datasets


def make_hugging_face(datasets: Any, n: int = 12) -> Any:
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog", "owl"]),
            "matrix": datasets.Array2D((2, 3), "float32"),
            "caption": datasets.Value("string"),
        }
    )
    data = {
        "image": [{"bytes": jpeg(i, (8 + i, 20 - i)), "path": None} for i in range(n)],
        "label": [i % 3 for i in range(n)],
        "matrix": [np.full((2, 3), i, np.float32) for i in range(n)],
        "caption": [f"picture {i}" for i in range(n)],
    }
    return datasets.Dataset.from_dict(data, features=features)


def agrees(source: Table, dataset: Any) -> bool:
    """Every row of ours against the data set's own, pictures decoded."""
    from PIL import Image

    records = source.read(np.arange(len(dataset))[::-1])
    if records.errors or len(source) != len(dataset):
        return False
    for row in range(len(dataset)):
        item = dataset[len(dataset) - 1 - row]
        ours = Image.open(io.BytesIO(records.columns["image"][row].tobytes()))
        if not (np.asarray(ours) == np.asarray(item["image"])).all() or records.columns["label"][row] != item["label"]:
            return False
        if "matrix" in source.schema.names and not (records.columns["matrix"][row] == np.array(item["matrix"])).all():
            return False
        if "caption" in source.schema.names and records.columns["caption"][row] != item["caption"]:
            return False
    return True


def test_hugging_face(hugging_face: Any, tmp_path: Path) -> None:
    dataset = make_hugging_face(hugging_face)
    source = Table(dataset)
    assert source.classes == ["cat", "dog", "owl"] and agrees(source, dataset)
    assert source.schema.fields[2] == Field("matrix", "column")
    assert source.read(np.array([1])).columns["matrix"].dtype == np.float32
    dataset.save_to_disk(str(tmp_path / "saved"))
    saved = hugging_face.load_from_disk(str(tmp_path / "saved"))
    dataset.to_parquet(str(tmp_path / "a.parquet"))
    loaded = hugging_face.load_dataset("parquet", data_files=str(tmp_path / "a.parquet"), split="train")
    for other in (saved, loaded):
        assert agrees(Table(other), dataset)
        assert agrees(pickle.loads(pickle.dumps(Table(other))), dataset)
    assert Table(str(tmp_path / "saved")).read(np.array([4])).columns["caption"] == ["picture 4"]  # its stream itself
    from_file = Table(tmp_path / "a.parquet")
    assert from_file.classes == ["cat", "dog", "owl"]
    assert agrees(Table(tmp_path / "a.parquet", columns=["image", "label", "caption"]), dataset)


def test_hugging_face_order(hugging_face: Any) -> None:
    dataset = make_hugging_face(hugging_face)
    for other in (
        dataset.select(range(3, 9)),
        dataset.select([5, 1, 1, 8]),
        dataset.shuffle(seed=3),
        dataset.shuffle(seed=3).select([4, 2]),
        dataset.filter(lambda row: row["label"] == 1),
        dataset.sort("caption", reverse=True),
        dataset.train_test_split(0.5, seed=1)["test"],
        hugging_face.concatenate_datasets([dataset.shuffle(seed=1), dataset.select([3])]),
        dataset.select_columns(["label", "image"]),
    ):
        source = Table(other)
        assert agrees(source, other)
        assert source.labels is not None and source.labels.tolist() == other["label"][:]
        assert source.fingerprint() != Table(dataset).fingerprint()
        assert agrees(pickle.loads(pickle.dumps(source)), other)
    shuffled = Table(dataset.shuffle(seed=3))
    assert shuffled.row_groups.tolist() == [0]
    assert shuffled.fingerprint() != Table(dataset.shuffle(seed=4)).fingerprint()
    index = dataset.shuffle(seed=3)._indices.column(0)[5].as_py()
    assert shuffled.describe(5) == f"row {index}"


def test_hugging_face_refused(hugging_face: Any) -> None:
    dataset = make_hugging_face(hugging_face)
    for other in (
        dataset.with_transform(lambda rows: rows),
        dataset.with_format("torch"),
        dataset.with_format("numpy"),
    ):
        with pytest.raises(ValueError, match=r"with_format\(None\).*MapDataset"):
            Table(other)
    with pytest.raises(ValueError, match="'train', 'test'"):
        Table(hugging_face.DatasetDict(train=dataset, test=dataset))
    with pytest.raises(TypeError, match="streaming"):
        Table(dataset.to_iterable_dataset())
    with pytest.raises(ValueError, match="give image='img'"):
        Table(dataset.rename_column("image", "img"))
    assert is_table(dataset) and is_table(plain()) and is_table(pads.dataset(plain()))
    assert not is_table([1]) and not is_table("a.parquet")


def test_hugging_face_files(hugging_face: Any, tmp_path: Path) -> None:
    """Pictures that are files: only their paths are in the table."""
    paths = []
    for i in range(4):
        paths.append(str(tmp_path / f"{i}.jpg"))
        Path(paths[-1]).write_bytes(jpeg(i))
    dataset = hugging_face.Dataset.from_dict({"image": paths, "label": range(4)})
    dataset = dataset.cast_column("image", hugging_face.Image())
    assert agrees(Table(dataset), dataset)


# Stores -------------------------------------------------------------------------------------------------------------


class Bucket(Storage):
    """``s3://bucket/…``, in truth a folder; some ranges fail."""

    folder: str
    failing: set[str]
    requests: list[str]

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.__dict__.update(folder=f"{folder}/", failing=set(), requests=[])

    def _local(self, path: str) -> str:
        return path.replace("s3://bucket/", self.folder)

    def read(self, paths: Any, **kw: Any) -> Any:
        self.requests += paths
        kw.pop("versions", None)
        arena, starts, errors = super().read([self._local(path) for path in paths], **kw)
        return arena, starts, errors | {i: OSError(5, "failed", p) for i, p in enumerate(paths) if p in self.failing}

    def info(self, path: str) -> Any:
        return super().info(self._local(path))._replace(path=path)

    def list(self, root: str) -> list[Any]:
        found = super().list(self._local(root))
        return [info._replace(path=info.path.replace(self.folder, "s3://bucket/")) for info in found]


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather"])
def test_remote_files(suffix: str, tmp_path: Path) -> None:
    folder = tmp_path / "bucket"
    for i in range(3):
        write(plain(30).slice(10 * i, 10), folder / "train" / f"{i}{suffix}", 4)
    storage = Bucket(folder)
    expected = plain(30).to_pylist()
    for source in (
        Table(f"s3://bucket/train/*{suffix}", storage=storage),
        Table("s3://bucket/train", storage=storage),
        Table([f"s3://bucket/train/{i}{suffix}" for i in range(3)], storage=storage, columns=["image", "score"]),
    ):
        assert same(source, expected, threads=3) and source.labels is not None
        assert source.describe(29) == f"s3://bucket/train/2{suffix}, row 9"
    del storage.requests[:]
    again = Table("s3://bucket/train", storage=storage)
    assert not storage.requests  # the index is kept
    again.close()
    storage.failing.add(f"s3://bucket/train/1{suffix}")
    rows, errors = rows_of(again, [0, 12, 25, 19], threads=2)
    assert sorted(errors) == [1, 3] and all(isinstance(error, OSError) for error in errors.values())
    assert rows[0]["text"] == "text 0" and rows[2]["text"] == "text 25"


def test_remote_streams_are_refused(tmp_path: Path) -> None:
    write(plain(), tmp_path / "a.stream.arrow", 5)
    with pytest.raises(ValueError, match="no random access over the network"):
        Table("s3://bucket/a.stream.arrow", storage=Bucket(tmp_path))


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_store_that_fails_now_and_then(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("obstore")
    pytest.importorskip("moto")
    from s3 import Faults, faulty, s3_bucket

    from dalipipe.storage import Retry

    files = [Path(write(plain(30).slice(10 * i, 10), tmp_path / f"{i}{suffix}", 4)) for i in range(3)]
    with (
        s3_bucket({f"t/{file.name}": file.read_bytes() for file in files}) as bucket,
        faulty(bucket.address, Faults(error=0.2, short=0.1, seed=1, in_a_row=4)) as proxy,
    ):
        storage = Storage(options=bucket.options(proxy), retry=Retry(attempts=10, base_s=0.01))
        source = Table(bucket.url("t"), storage=storage)
        assert same(source, plain(30).to_pylist(), threads=3)
        assert same(pickle.loads(pickle.dumps(source)), plain(30).to_pylist(), threads=2)
        source.close()
        bucket.put(f"t/1{suffix}", Path(write(plain(10), tmp_path / f"other{suffix}", 4)).read_bytes())
        rows, errors = rows_of(source, [0, 12, 25])
        assert list(errors) == [1] and rows[2]["text"] == "text 25"


# With the loader ----------------------------------------------------------------------------------------------------


def test_loader_gives_the_folders_pixels(tmp_path: Path) -> None:
    """The same pictures in files and in a table: the same batches, augmented and shuffled."""
    import dalipipe
    from dalipipe.loader import DataLoader
    from dalipipe.ops import image as ops

    rows = []
    for i in range(10):
        path = tmp_path / "images" / "ab"[i // 5] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(i, (30 + i, 40 - i)))
        rows.append({"label": i // 5, "image": {"bytes": path.read_bytes(), "path": path.name}})
    parquet = write(pa.Table.from_pylist(rows), tmp_path / "a.parquet", 3)
    policy = dalipipe.Policy([ops.RandomResizedCrop(16), ops.HorizontalFlip(), ops.Normalize()])
    batches = [
        [
            (batch.image.numpy(), batch.label.tolist())
            for batch in DataLoader(source, 4, policy=policy, seed=1, shuffle=True, device="cpu", num_workers=2)
        ]
        for source in (dalipipe.ImageFolder(tmp_path / "images"), Table(parquet))
    ]
    for (expected, labels), (found, found_labels) in zip(*batches, strict=True):
        assert (expected == found).all() and labels == found_labels
