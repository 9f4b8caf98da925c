"""Time series: from arrays of any layout, .ts files, tables, .npy and .npz; what is missing or no number is refused."""

from __future__ import annotations

import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dalipipe
from dalipipe.records import Signals
from dalipipe.sources import Series, open_source
from dalipipe.sources.ts import parse_ts


def signals(source: Series, rows: Any = None) -> list[np.ndarray]:
    indices = np.arange(len(source)) if rows is None else np.asarray(rows)
    records = source.read(indices)
    column = records.columns["series"]
    assert isinstance(column, Signals) and not records.errors
    if "length" in source.schema.names:
        assert records.columns["length"].tolist() == [0] * len(indices)  # type: ignore[union-attr]
    return [column[i].copy() for i in range(len(indices))]


def ragged(n: int, channels: int, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.normal(size=(t, channels)).astype(np.float32) for t in random.integers(1, 40, n)]


# --- arrays ----------------------------------------------------------------------------------------------------------


def test_one_array_is_not_copied() -> None:
    values = np.random.default_rng(0).normal(size=(6, 20, 3)).astype(np.float32)
    source = Series(values, [0, 1, 2, 0, 1, 2], rate_hz=50)
    assert source.schema.names == ("series", "label") and len(source) == 6 and source.in_memory
    field = source.schema.fields[0]
    assert (field.kind, field.channels, field.rate_hz, field.length) == ("series", 3, 50.0, None)
    column = source.read(np.array([4, 4, 1])).columns["series"]
    assert isinstance(column, Signals)
    assert column.address.tolist() == [values[i].ctypes.data for i in (4, 4, 1)]
    assert column.rate_hz is not None and column.rate_hz.tolist() == [50, 50, 50]
    assert all(np.array_equal(a, values[i]) for a, i in zip(signals(source, [4, 4, 1]), (4, 4, 1), strict=True))
    assert source.labels is not None and source.labels.dtype == np.int64
    assert repr(source) == "Series(6 series of 20 × 3)"


@pytest.mark.parametrize(
    "change", ["transposed", "every other", "backwards", "float64", "int16", "big endian", "torch"]
)
def test_any_layout_and_dtype(change: str) -> None:
    values = np.random.default_rng(1).integers(-99, 99, (8, 14, 4)).astype(np.float32)
    given: Any = {
        "transposed": lambda: np.ascontiguousarray(values.transpose(0, 2, 1)).transpose(0, 2, 1),
        "every other": lambda: np.repeat(np.repeat(values, 2, axis=1), 2, axis=0)[::2, ::2],
        "backwards": lambda: np.ascontiguousarray(values[:, ::-1])[:, ::-1],
        "float64": lambda: values.astype(np.float64),
        "int16": lambda: values.astype(np.int16),
        "big endian": lambda: values.astype(">f4"),
        "torch": lambda: torch.from_numpy(values),
    }[change]()
    assert np.array_equal(np.stack(signals(Series(given))), values)
    assert np.array_equal(np.stack(signals(Series(given[..., 0])))[..., 0], values[..., 0])
    packed = np.zeros(5, [("flag", "u1"), ("value", "<f4", 6)])  # floats at odd addresses
    packed["value"] = np.arange(30).reshape(5, 6)
    assert np.array_equal(np.stack(signals(Series(packed["value"])))[..., 0], packed["value"])


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 20), channels=st.integers(1, 5), seed=st.integers(0, 99))
def test_lists_of_any_lengths(n: int, channels: int, seed: int) -> None:
    values = ragged(n, channels, seed)
    source = Series(values, np.arange(n))
    assert source.lengths.tolist() == [len(value) for value in values]
    differ = len(set(source.lengths.tolist())) > 1
    assert source.schema.names == (("series", "length", "label") if differ else ("series", "label"))
    assert source.schema.fields[0].length == ("length" if differ else None)
    order = np.random.default_rng(seed).integers(0, n, 7)
    assert all(np.array_equal(got, values[i]) for got, i in zip(signals(source, order), order, strict=True))
    most = max(map(len, values))
    padded = np.full((n, most, channels), np.nan)
    for row, value in enumerate(values):
        padded[row, : len(value)] = value
    same = Series(padded, np.arange(n), lengths=source.lengths)
    assert all(np.array_equal(a, b) for a, b in zip(signals(same), values, strict=True)), "padding may be anything"
    again = pickle.loads(pickle.dumps(source))
    assert again.fingerprint() == source.fingerprint() and again.schema == source.schema
    assert all(np.array_equal(a, b) for a, b in zip(signals(again), values, strict=True))


def test_labels_and_columns() -> None:
    values = np.zeros((4, 5), np.float32)
    named = Series(values, ["walk", "run", "walk", "sit"], subject=[3, 1, 4, 1])
    assert named.classes == ["run", "sit", "walk"] and named.labels.tolist() == [2, 0, 2, 1]  # type: ignore[union-attr]
    assert named.schema.names == ("series", "label", "subject")
    assert named.read(np.array([2, 0])).columns["subject"].tolist() == [4, 3]  # type: ignore[union-attr]
    ordered = Series(values, ["walk", "run", "walk", "sit"], classes=["walk", "run", "sit"])
    assert ordered.labels.tolist() == [0, 1, 0, 2]  # type: ignore[union-attr]
    targets = Series(values, np.array([0.5, 1.5, 2.5, -1]))
    assert targets.labels.dtype == np.float64  # type: ignore[union-attr]
    assert Series(values).labels is None and Series(values).schema.names == ("series",)
    changed = Series(values, [0, 1, 0, 1]).fingerprint()
    assert changed != Series(values, [0, 1, 1, 1]).fingerprint() != Series(values + 1, [0, 1, 1, 1]).fingerprint()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_what_is_no_number_is_refused_by_its_record(value: float) -> None:
    values = np.zeros((5, 7, 2))
    values[3, 4, 1] = value
    with pytest.raises(ValueError, match=r"record 3 has no finite number at frame 4, channel 1.*missing="):
        Series(values)
    several = [np.zeros((n, 2)) for n in (3, 1, 9, 2)]
    several[2][8, 0] = value
    with pytest.raises(ValueError, match="record 2 has no finite number at frame 8, channel 0"):
        Series(several)
    assert len(Series(values, lengths=[7, 7, 7, 4, 7])) == 5


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"values": np.zeros((2, 3, 4, 5))}, ValueError, r"\[N, T, C\]"),
        ({"values": np.zeros(5)}, ValueError, r"\[N, T, C\]"),
        ({"values": []}, ValueError, r"\[N, T, C\]"),
        ({"values": np.zeros((0, 5))}, ValueError, "with values"),
        ({"values": np.zeros((2, 0, 3))}, ValueError, "with values"),
        ({"values": [np.zeros((3, 2)), np.zeros((3, 1))]}, ValueError, r"record 1 must be \[T, 2\], as record 0"),
        ({"values": [np.zeros((3, 2)), np.zeros((0, 2))]}, ValueError, "record 1"),
        ({"values": np.array([["a"]])}, TypeError, "numbers"),
        ({"values": np.zeros((2, 3), complex)}, TypeError, "numbers"),
        ({"lengths": [1, 9]}, ValueError, r"lengths must be whole numbers in 1..4 \[2\]"),
        ({"lengths": [0, 2]}, ValueError, "lengths"),
        ({"lengths": [1.0, 2.0]}, ValueError, "lengths"),
        ({"values": [[1.0], [2.0, 3.0]], "lengths": [1, 2]}, ValueError, "has its own lengths"),
        ({"labels": [1, 2, 3]}, ValueError, "2 series but 3 of label"),
        ({"labels": ["a", "b"], "classes": ["a"]}, ValueError, "'b' is none of the 1 classes"),
        ({"labels": [0, 2], "classes": ["a", "b"]}, ValueError, "labels run from 0 to 2"),
        ({"subject": ["a", "b"]}, TypeError, "subject must be numbers"),
        ({"length": [1, 2]}, ValueError, "cannot be a column's name"),
        ({"rate_hz": 0}, ValueError, "rate_hz"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Series(**{"values": np.zeros((2, 4)), **arguments})


# --- .ts files -------------------------------------------------------------------------------------------------------

HEADER = "# words\n@problemName Walks\n@timestamps FALSE\n@univariate false\n@classLabel true run walk sit\n@data\n"


def ts(folder: Path, text: str, header: str = HEADER) -> Path:
    (path := folder / "walks.ts").write_text(header + text)
    return path


def test_a_ts_file(tmp_path: Path) -> None:
    path = ts(tmp_path, "1,2,3:4,5,6:sit\n\n-1e1:0.5:run\n")
    source = Series.open(path)
    assert source.classes == ["run", "walk", "sit"] and source.labels.tolist() == [2, 0]  # type: ignore[union-attr]
    assert source.schema.names == ("series", "length", "label")
    first, second = signals(source)
    assert first.tolist() == [[1, 4], [2, 5], [3, 6]] and second.tolist() == [[-10, 0.5]]
    assert open_source(path).fingerprint() == source.fingerprint()
    plain = ts(tmp_path, "1,2\n3,4\n", "@univariate true\n@classLabel false\n@data\n")
    assert Series.open(plain).schema.names == ("series",)
    target = ts(tmp_path, "1,2:0.25\n3,4:-7\n", "@targetlabel true\n@data\n")
    assert Series.open(target).labels.tolist() == [0.25, -7]  # type: ignore[union-attr]


def test_missing_values_of_a_ts_file(tmp_path: Path) -> None:
    path = ts(tmp_path, "1,2:3,4:run\n?,2,?,NaN,5:1,?,3,4,?:walk\n")
    with pytest.raises(
        ValueError, match=r'walks.ts, line 8: the value of frame 0, channel 0 is missing.*missing="hold"'
    ):
        Series.open(path)
    held, zeros = (signals(Series.open(path, missing=how))[1].T for how in ("hold", "zero"))  # type: ignore[arg-type]
    assert held.tolist() == [[2, 2, 2, 2, 5], [1, 1, 3, 4, 4]]
    assert zeros.tolist() == [[0, 2, 0, 0, 5], [1, 0, 3, 4, 0]]
    with pytest.raises(ValueError, match="line 7: a channel has no value at all"):
        Series.open(ts(tmp_path, "?,?:1,2:run\n"), missing="hold")
    with pytest.raises(ValueError, match="missing must be"):
        Series.open(path, missing="drop")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2:3,4,5:run\n", "line 7: the channels of a series must be of one length, got 2 to 3"),
        ("1,2:3,4:run\n1,2:run\n", "line 8: expected 2 channels, as line 7 has, got 1"),
        ("1,2:3,4:fly\n", "line 7: label 'fly' is none of @classLabel"),
        ("1,x:3,4:run\n", "line 7: expected numbers between commas, got 'x'"),
        ("1,,2:run\n", "line 7: expected numbers between commas, got ''"),
        ("run\n", "line 7: expected values"),
        ("\n# nothing\n", "expected a series a line"),
        ("inf:run\n", "record 0 has no finite number"),
    ],
)
def test_ts_files_that_are_not_as_they_must_be(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Series.open(ts(tmp_path, text))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("@univariate true\n", "no @data line"),
        ("1,2,3:run\n", "line 1: expected a line of the header"),
        ("@timeStamps true\n@data\n", "line 1: series with time stamps"),
        ("@classLabel true a\n@targetlabel true\n@data\n", "only one label"),
    ],
)
def test_headers_that_are_not_as_they_must_be(tmp_path: Path, header: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Series.open(ts(tmp_path, "1:a\n" if "data" in header else "", header))


@settings(deadline=None, max_examples=200)
@given(st.text(alphabet="@datclsLb :,.?-+e0123456789\n#", max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    for begin in ("", "@data\n", "@classLabel true 1 2\n@data\n"):
        try:
            parsed = parse_ts(begin + text, "any.ts")
        except ValueError as error:
            assert "any.ts" in str(error)
        else:
            assert len(parsed.series) == len(parsed.lines) > 0


# --- tables, .npy, .npz ----------------------------------------------------------------------------------------------


def test_a_row_a_series(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (path := tmp_path / "wide.csv").write_text("name,t0,t1,t2,label\nx,1,2,3,walk\ny,4,5.5,6,run\n")
    source = Series.open(path)
    assert [s[:, 0].tolist() for s in signals(source)] == [[1, 2, 3], [4, 5.5, 6]]
    assert source.classes == ["run", "walk"] and source.labels.tolist() == [1, 0]  # type: ignore[union-attr]
    assert [s[:, 0].tolist() for s in signals(Series.open(path, columns=["t2", "t0"]))] == [[3, 1], [6, 4]]
    assert Series.open(path, label=None).labels is None
    assert Series.open(path, label="name").classes == ["x", "y"]
    for arguments, message in (
        ({"columns": ["t9"]}, "no column 't9'; it has 'name', 't0'"),
        ({"columns": ["name"]}, "column 'name' holds no numbers"),
        ({"label": "kind"}, "no column 'kind'"),
        ({"time": "t0"}, "say by id="),
    ):
        with pytest.raises(ValueError, match=message):
            Series.open(path, **arguments)  # type: ignore[arg-type]
    path.write_text("t0,t1,label\n1,2,0\n3,,1\n")
    with pytest.raises(ValueError, match=r"wide.csv, row 1: the value of frame 1, channel 0 is missing"):
        Series.open(path)
    assert signals(Series.open(path, missing="hold"))[1].tolist() == [[3], [3]]
    path.write_text("t0,t1,label\n1,2,0\n3,4,\n")
    with pytest.raises(ValueError, match="row 1: no label"):
        Series.open(path)


@pytest.mark.parametrize("ending", [".tsv", ".parquet"])
def test_a_row_a_frame(tmp_path: Path, ending: str) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    rows: dict[str, list[Any]] = {
        "trip": ["b", "a", "b", "b", "a"],
        "t": [2, 1, 0, 1, 0],
        "x": [30, 2, 10, 20, 1],
        "y": [0.3, 0.2, 0.1, 0.2, 0.1],
        "label": [7, 5, 7, 7, 5],
    }
    path = tmp_path / f"long{ending}"

    def write() -> None:
        if ending == ".parquet":
            pyarrow.parquet.write_table(pa.table(rows), path)
        else:
            path.write_text(
                "\n".join("\t".join(map(str, row)) for row in [rows.keys(), *zip(*rows.values(), strict=True)]) + "\n"
            )

    write()
    source = Series.open(path, id="trip", time="t")
    first, second = signals(source)
    np.testing.assert_allclose(first, np.array([[10, 0.1], [20, 0.2], [30, 0.3]], np.float32))
    np.testing.assert_allclose(second, np.array([[1, 0.1], [2, 0.2]], np.float32))
    assert source.labels.tolist() == [7, 5]  # type: ignore[union-attr]
    as_they_stand = signals(Series.open(path, id="trip", columns=["x"]))
    assert [s[:, 0].tolist() for s in as_they_stand] == [[30, 10, 20], [2, 1]]
    rows["label"][2] = 5
    write()
    with pytest.raises(ValueError, match="trip=b has labels 5 and 7"):
        Series.open(path, id="trip", time="t")


def test_npy_and_npz(tmp_path: Path) -> None:
    values = np.random.default_rng(2).normal(size=(5, 30, 2)).astype(np.float32)
    np.save(tmp_path / "x.npy", values)
    np.save(tmp_path / "y.npy", np.arange(5))
    source = Series.open(tmp_path / "x.npy", tmp_path / "y.npy")
    assert isinstance(source._values.base, np.memmap) or isinstance(source._values, np.memmap)
    assert len(pickle.dumps(source)) < values.nbytes, "a memory map goes by its name"
    again = pickle.loads(pickle.dumps(source))
    for one in (source, again):
        assert np.array_equal(np.stack(signals(one)), values) and one.labels.tolist() == list(range(5))
    np.savez(tmp_path / "a.npz", x=values.astype(np.float64), y=np.array(list("abcab")), other=values[:, :3])
    source = Series.open(tmp_path / "a.npz")
    assert np.array_equal(np.stack(signals(source)), values) and source.classes == ["a", "b", "c"]
    assert signals(Series.open(tmp_path / "a.npz", series="other", labels="y"))[0].shape == (3, 2)
    with pytest.raises(ValueError, match="no member 'z'; it has x, y, other"):
        Series.open(tmp_path / "a.npz", series="z")
    values[1, 2, 0] = np.nan
    np.save(tmp_path / "x.npy", values)
    assert signals(Series.open(tmp_path / "x.npy", missing="hold"))[1][2, 0] == values[1, 1, 0]


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Series.open(tmp_path / "none.ts")
    with pytest.raises(ValueError, match=r"labels_path goes with an .npy"):
        Series.open(tmp_path / "x.ts", tmp_path / "y.npy")
    with pytest.raises(ValueError, match=r"expected \.ts"):
        Series.open(tmp_path / "none.txt")


# --- real data -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "n", "frames", "channels", "classes"),
    [
        ("GunPoint_TRAIN", 50, {150}, 1, 2),
        ("OSULeaf_TEST", 242, {427}, 1, 6),
        ("ItalyPowerDemand_TEST", 1029, {24}, 1, 2),
        ("JapaneseVowels_TRAIN", 270, set(range(7, 27)), 12, 9),
    ],
)
def test_series_of_the_archives(
    real_data: Path, tmp_path: Path, name: str, n: int, frames: set[int], channels: int, classes: int
) -> None:
    archive = real_data / "ucr_series.tar"
    if not archive.is_file():
        pytest.skip(f"no {archive}")
    with tarfile.open(archive) as tar:
        tar.extract(f"ucr/{name}.ts", tmp_path, filter="data")
    path = tmp_path / "ucr" / f"{name}.ts"
    source = dalipipe.Series.open(path)
    assert len(source) == n and source.classes == [str(i + 1) for i in range(classes)]
    assert set(source.lengths.tolist()) <= frames and source.schema.fields[0].channels == channels
    last = path.read_text().strip().split("\n")[-1].split(":")
    meant = np.array([part.split(",") for part in last[:-1]], np.float64).T.astype(np.float32)
    assert np.array_equal(signals(source)[-1], meant)
    assert source.labels[-1] == int(last[-1]) - 1  # type: ignore[index]
