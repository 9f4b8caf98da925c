"""Image folders and lists: torchvision's order, names without objects, indexes that are kept and notice changes."""

from __future__ import annotations

import os
import pickle
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dalipipe.records import Encoded
from dalipipe.sources import ImageFolder
from dalipipe.sources import folder as folder_module
from dalipipe.sources.index import cached_index
from dalipipe.sources.index.names import Names, common_folder
from dalipipe.storage import FileInfo, Storage

LARGE = "_WORTH_KEEPING"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DALIPIPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def keeps_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Indexes of small folders are kept too."""
    monkeypatch.setattr(folder_module, LARGE, 0)


def plant(root: Path, *files: str) -> Path:
    """Files that hold their own names, in folders that have not changed for an hour."""
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(os.fsencode(name))
    age(root)
    return root


def age(root: Path) -> None:
    then = time.time() - 3600
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        os.utime(folder, (then, then))


def texts(source: ImageFolder, rows: list[int]) -> list[str]:
    records = source.read(np.array(rows), threads=2)
    assert not records.errors
    column = records.columns["image"]
    assert isinstance(column, Encoded)
    assert np.array_equal(records.columns["label"], source.labels[rows])
    return [column[row].tobytes().decode() for row in range(len(rows))]


# Names -------------------------------------------------------------------------------------------------------------

name_lists = st.lists(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8), max_size=20
)


@given(name_lists, st.sampled_from(["", "root/", "s3://bucket/"]), st.data())
def test_names_are_a_sequence_of_str(plain: list[str], prefix: str, data: st.DataObject) -> None:
    names, expected = Names.of(plain, prefix), [prefix + name for name in plain]
    assert len(names) == len(expected) and list(names) == expected
    assert names == expected and expected == names
    assert names == Names.of(plain, prefix) and names != [*expected, "more"] and names != [*expected[:-1], "other"]
    cut = data.draw(st.slices(len(expected)))
    assert names[cut] == expected[cut]
    rows = data.draw(st.lists(st.integers(0, len(plain) - 1), max_size=9)) if plain else []
    assert names.take(np.array(rows, np.int64)) == [expected[row] for row in rows]
    for i in range(-len(plain), len(plain)):
        assert names[i] == expected[i]
    for i in (len(plain), -len(plain) - 1):
        with pytest.raises(IndexError):
            names[i]
    assert list(reversed(names)) == expected[::-1]
    assert pickle.loads(pickle.dumps(names)) == names


@pytest.mark.parametrize("step", [2**63, -(2**63) - 1, 2**200, 3, -2])
def test_names_take_steps_of_any_size(step: int) -> None:
    for plain in ([], ["a"], ["a", "b", "c", "d"]):
        assert Names.of(plain)[::step] == plain[::step]


def test_names_walk_beyond_a_chunk_and_keep_bytes_that_are_no_text() -> None:
    plain = [f"{i}" for i in range(10_000)] + [os.fsdecode(b"\xff\xfe.jpg")]
    names = Names.of(plain)
    assert list(names) == plain and names[3:9999] == plain[3:9999]
    assert names.arena.nbytes == sum(len(os.fsencode(name)) + 1 for name in plain)
    with pytest.raises(ValueError, match=r"'b\\x00c' holds a zero byte"):
        Names.of(["a", "b\0c"])


@given(st.lists(st.lists(st.sampled_from("ab-"), min_size=1, max_size=4).map("/".join), min_size=1, max_size=6))
def test_common_folder(paths: list[str]) -> None:
    folder = common_folder(paths)
    assert folder == "" or folder.endswith("/")
    assert all(path.startswith(folder) for path in paths)
    deeper = {path[len(folder) :].partition("/")[0] if "/" in path[len(folder) :] else None for path in paths}
    assert len(deeper) > 1 or None in deeper


# Order -------------------------------------------------------------------------------------------------------------

part = st.sampled_from(["a", "b", "a-b", "a b", "B", "ä", "a.d", "日", "x.jpg", "ab"])
file_name = st.sampled_from(["1.jpg", "2.JPEG", "10.png", "a.webp", "a-b.tif", "é.bmp", ".pgm", "read.me", "jpg"])
trees = st.sets(st.tuples(part, st.lists(part, max_size=2).map(tuple), file_name), min_size=1, max_size=25)


@settings(max_examples=60, deadline=None)
@given(trees)
def test_same_order_as_torchvision(tmp_path_factory: pytest.TempPathFactory, tree: set) -> None:
    from torchvision.datasets import ImageFolder as Theirs

    root = tmp_path_factory.mktemp("tree")
    for top, middle, name in tree:
        path = root.joinpath(top, *middle, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (root / "loose.jpg").touch()
    try:
        theirs = Theirs(str(root))
    except FileNotFoundError:
        with pytest.raises(FileNotFoundError, match="has no pictures"):
            ImageFolder(root)
        return
    ours = ImageFolder(root)
    assert ours.paths == [path for path, _ in theirs.samples]
    assert ours.labels.tolist() == theirs.targets
    assert ours.classes == theirs.classes
    copied = ImageFolder.from_samples(theirs.samples, theirs.classes)
    assert copied.paths == ours.paths and np.array_equal(copied.labels, ours.labels)
    if len(theirs.classes) > 1:
        assert copied.fingerprint() == ours.fingerprint()


def test_links_are_followed_and_a_class_that_cannot_be_read_is_not_passed_over(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder as Theirs

    elsewhere = plant(tmp_path / "elsewhere", "one.jpg", "deep/two.jpg")
    root = plant(tmp_path / "root", "a/x.jpg")
    (root / "b").symlink_to(elsewhere)
    (root / "a" / "y.jpg").symlink_to(elsewhere / "one.jpg")
    (root / "a" / "gone.jpg").symlink_to(elsewhere / "nothing")
    ours = ImageFolder(root)
    assert ours.paths == [path for path, _ in Theirs(str(root)).samples]
    assert [os.path.relpath(path, root) for path in ours.paths] == [
        "a/gone.jpg",
        "a/x.jpg",
        "a/y.jpg",
        "b/one.jpg",
        "b/deep/two.jpg",
    ]
    if os.geteuid() != 0:
        (elsewhere / "deep").chmod(0)
        with pytest.raises(PermissionError):
            ImageFolder(root)
        (elsewhere / "deep").chmod(0o755)


def test_fingerprint_holds_while_the_root_moves_and_no_longer(tmp_path: Path) -> None:
    root = plant(tmp_path / "root", "a/1.jpg", "a/2.jpg", "b/1.jpg")
    before = ImageFolder(root).fingerprint()
    moved = tmp_path / "some" / "where else"
    moved.parent.mkdir()
    root.rename(moved)
    assert ImageFolder(moved).fingerprint() == before
    assert ImageFolder(os.path.relpath(moved)).fingerprint() == before
    assert ImageFolder(f"{moved}/").fingerprint() == before
    others = {before}
    for change in (
        lambda: (moved / "a" / "2.jpg").rename(moved / "a" / "3.jpg"),
        lambda: (moved / "b" / "2.jpg").touch(),
        lambda: (moved / "a" / "3.jpg").rename(moved / "b" / "3.jpg"),
        lambda: (moved / "c").mkdir() or (moved / "c" / "1.jpg").touch(),
    ):
        change()
        others.add(ImageFolder(moved).fingerprint())
    assert len(others) == 5


# The index that is kept --------------------------------------------------------------------------------------------


def never(root: str, storage: Storage, endings: tuple[str, ...]) -> None:
    raise AssertionError("scanned again")


def index_files(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*")) if cache.exists() else []


def test_a_kept_index_stands_for_the_scan(
    tmp_path: Path, cache: Path, keeps_all: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = plant(tmp_path / "root", "a/1.jpg", "a/x/2.jpg", "b/1.jpg", os.fsdecode(b"b/\xff.jpg"))
    first = ImageFolder(root)
    assert [path.suffix for path in index_files(cache / "index")] == [".npz"]
    monkeypatch.setattr(folder_module, "scan", never)
    again = ImageFolder(root)
    assert again.paths == first.paths and again.classes == first.classes
    assert np.array_equal(again.labels, first.labels) and again.labels.dtype == np.int64
    assert again.fingerprint() == first.fingerprint()
    assert texts(again, [2, 0]) == ["b/1.jpg", "a/1.jpg"]
    monkeypatch.chdir(tmp_path)
    assert ImageFolder("root").paths == [f"root/{os.path.relpath(path, root)}" for path in first.paths]
    for again in ({"cache": False}, {"refresh": True}, {"index_dir": tmp_path / "other"}):
        with pytest.raises(AssertionError, match="scanned again"):
            ImageFolder(root, **again)


@pytest.mark.parametrize("change", ["add", "remove", "rename", "add class", "add below", "replace a folder"])
def test_a_kept_index_notices_changes(tmp_path: Path, keeps_all: None, change: str) -> None:
    root = plant(tmp_path / "root", "a/1.jpg", "a/x/2.jpg", "b/1.jpg", "b/2.jpg")
    before = ImageFolder(root)
    if change == "add":
        (root / "b" / "3.jpg").touch()
    elif change == "remove":
        (root / "b" / "2.jpg").unlink()
    elif change == "rename":
        (root / "b" / "2.jpg").rename(root / "b" / "0.jpg")
    elif change == "add class":
        (root / "c").mkdir()
        (root / "c" / "1.jpg").touch()
    elif change == "add below":
        (root / "a" / "x" / "3.jpg").touch()
    else:
        shutil.rmtree(root / "a" / "x")
    now = ImageFolder(root)
    assert now.paths != before.paths
    assert now.paths == ImageFolder(root, cache=False).paths
    assert now.paths == ImageFolder(root).paths


def test_a_folder_that_changed_just_now_is_not_trusted(
    tmp_path: Path, cache: Path, keeps_all: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = plant(tmp_path / "root", "a/1.jpg")
    (root / "a" / "2.jpg").touch()
    ImageFolder(root)
    # A third file in the same tick of the file system's clock would leave the same time behind.
    stamp = os.stat(root / "a")
    (root / "a" / "3.jpg").touch()
    os.utime(root / "a", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert len(ImageFolder(root)) == 3
    age(root)
    ImageFolder(root)
    monkeypatch.setattr(folder_module, "scan", never)
    assert len(ImageFolder(root)) == 3


def test_small_folders_leave_no_file(tmp_path: Path, cache: Path) -> None:
    ImageFolder(plant(tmp_path / "root", "a/1.jpg"))
    assert not index_files(cache)


def test_damaged_and_foreign_index_files_count_as_none(tmp_path: Path, cache: Path, keeps_all: None) -> None:
    root = plant(tmp_path / "root", "a/1.jpg", "b/2.jpg")
    expected = list(ImageFolder(root).paths)
    (file,) = index_files(cache / "index")
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [b"", b"PK\x03\x04", whole[: len(whole) // 2], whole[:-1], b"<html>" * 50]
    for _ in range(100):
        bad = bytearray(whole)
        bad[rng.integers(len(bad))] ^= 1 << rng.integers(8)
        damaged.append(bytes(bad))
    for bad in damaged:
        file.write_bytes(bad)
        assert ImageFolder(root).paths == expected
        assert [path.name for path in index_files(cache / "index")] == [file.name]
    np.savez(file, something=np.zeros(3))
    assert ImageFolder(root).paths == expected


def test_an_index_folder_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path, keeps_all: None) -> None:
    root = plant(tmp_path / "root", "a/1.jpg")
    (tmp_path / "file").write_text("in the way")
    assert len(ImageFolder(root, index_dir=tmp_path / "file" / "below")) == 1
    with pytest.raises(ValueError, match=r"index_dir '.*/root/a' lies in '.*/root', which it would change"):
        ImageFolder(root, index_dir=root / "a")
    assert len(ImageFolder(root, index_dir=tmp_path)) == 1


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    made = cached_index("x1", ["y"], lambda: {"a": np.ones(2)}, lambda kept: True, tmp_path / "index")
    assert made["a"].tolist() == [1, 1] and list((tmp_path / "index").iterdir()) == []


# Lists -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.tsv", "a/1.jpg\t0\nb c/2.jpg\t1\na/3, 4.jpg\t0\n"),
        ("l.tsv", "\ufeffpath\tlabel\r\na/1.jpg\t0\r\nb c/2.jpg\t1\r\n\r\na/3, 4.jpg\t0"),
        ("l.txt", "a/1.jpg 0\nb c/2.jpg   1\n\na/3, 4.jpg 0\n"),
        ("l.csv", 'a/1.jpg,0\nb c/2.jpg, 1\n\n"a/3, 4.jpg",0\n'),
        ("l.csv", 'filename,label\n"a/1.jpg",0\n"b c/2.jpg",1\n"a/3, 4.jpg",0\n'),
    ],
)
def test_lists_in_their_spellings(tmp_path: Path, name: str, text: str) -> None:
    plant(tmp_path, "a/1.jpg", "b c/2.jpg", "a/3, 4.jpg")
    (tmp_path / name).write_bytes(text.encode())
    source = ImageFolder.from_list(tmp_path / name)
    assert source.labels.tolist() == [0, 1, 0] and source.classes is None
    assert source.paths == [f"{tmp_path}/{path}" for path in ("a/1.jpg", "b c/2.jpg", "a/3, 4.jpg")]
    assert texts(source, [2, 1]) == ["a/3, 4.jpg", "b c/2.jpg"]


def test_lists_with_names_for_labels_roots_and_absolute_paths(tmp_path: Path) -> None:
    root = plant(tmp_path / "root", "1.jpg", "2.jpg", "3.jpg")
    (tmp_path / "l.tsv").write_text(f"1.jpg\tdog\n{root}/2.jpg\tcat\n3.jpg\tdog\n")
    source = ImageFolder.from_list(tmp_path / "l.tsv", root)
    assert source.classes == ["cat", "dog"] and source.labels.tolist() == [1, 0, 1]
    assert source.paths == [f"{root}/{i}.jpg" for i in (1, 2, 3)]
    given_classes = ImageFolder.from_list(tmp_path / "l.tsv", root, classes=["dog", "bird", "cat"])
    assert given_classes.labels.tolist() == [0, 2, 0] and given_classes.classes == ["dog", "bird", "cat"]
    assert given_classes.fingerprint() != source.fingerprint()
    with pytest.raises(ValueError, match=r"l.tsv: label 'dog' is none of the 1 classes \('cat', …\)"):
        ImageFolder.from_list(tmp_path / "l.tsv", root, classes=["cat"])
    (tmp_path / "l.txt").write_text("1.jpg|2\n")
    with pytest.raises(ValueError, match=r"l.txt: labels run from 2 to 2, but there are 2 classes"):
        ImageFolder.from_list(tmp_path / "l.txt", delimiter="|", classes=["a", "b"])


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a.jpg\t0\nb.jpg\n", r"l.tsv, line 2: expected path'\\t'label, got 'b.jpg'"),
        ("a.jpg\t0\n\nb.jpg\t1\t2\n", r"line 3: .*leave other columns out"),
        ("a.jpg\t0\n\t1\n", r"line 2"),
        ("", r"l.tsv: expected a path and a label a line, found none"),
        ("path\tlabel\n", r"found none"),
    ],
)
def test_bad_lists_are_refused_by_line(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "l.tsv").write_text(text)
    with pytest.raises(ValueError, match=match):
        ImageFolder.from_list(tmp_path / "l.tsv")
    with pytest.raises(FileNotFoundError):
        ImageFolder.from_list(tmp_path / "none.tsv")


def test_a_lists_index_holds_until_the_list_changes(
    tmp_path: Path, keeps_all: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tmp_path, "a/1.jpg", "a/2.jpg")
    file = tmp_path / "l.tsv"
    file.write_text("a/1.jpg\tx\na/2.jpg\ty\n")
    first = ImageFolder.from_list(file)
    parse = folder_module.parse_list
    monkeypatch.setattr(folder_module, "parse_list", never)
    again = ImageFolder.from_list(file)
    assert again.paths == first.paths and again.classes == first.classes == ["x", "y"]
    assert np.array_equal(again.labels, first.labels) and again.fingerprint() == first.fingerprint()
    monkeypatch.setattr(folder_module, "parse_list", parse)
    assert ImageFolder.from_list(file, "/elsewhere").paths == ["/elsewhere/a/1.jpg", "/elsewhere/a/2.jpg"]
    file.write_text("a/2.jpg\tx\n")
    assert ImageFolder.from_list(file).paths == [f"{tmp_path}/a/2.jpg"]


# Through a storage -------------------------------------------------------------------------------------------------


class Bucket(Storage):
    """A store in memory."""

    def __init__(self, *files: str) -> None:
        self.files = set(files)
        self.listed = 0

    def read(self, paths, *, threads, offsets=None, lengths=None, allocate=None):
        data = [path.encode() if path in self.files else b"" for path in paths]
        errors = {i: FileNotFoundError(2, "no such object", p) for i, p in enumerate(paths) if p not in self.files}
        starts = np.cumsum([0, *map(len, data)])
        return np.frombuffer(b"".join(data), np.uint8), starts, errors

    def list(self, root: str) -> list[FileInfo]:
        self.listed += 1
        return [
            FileInfo(path, len(path), "1") for path in sorted(self.files) if path.startswith(root.rstrip("/") + "/")
        ]


def test_a_folder_in_a_store(keeps_all: None) -> None:
    bucket = Bucket(
        "s3://b/train/dog/1.jpg",
        "s3://b/train/dog/sub/1.jpg",
        "s3://b/train/dog-2/1.png",
        "s3://b/train/loose.jpg",
        "s3://b/train/dog/readme.txt",
        "s3://b/val/cat/1.jpg",
    )
    source = ImageFolder("s3://b/train", storage=bucket)
    assert source.paths == ["s3://b/train/dog/1.jpg", "s3://b/train/dog/sub/1.jpg", "s3://b/train/dog-2/1.png"]
    assert source.classes == ["dog", "dog-2"] and source.labels.tolist() == [0, 0, 1]
    assert texts(source, [2, 0]) == ["s3://b/train/dog-2/1.png", "s3://b/train/dog/1.jpg"]
    bucket.files.add("s3://b/train/ant/1.jpg")
    bucket.files.remove("s3://b/train/dog/1.jpg")
    kept = ImageFolder("s3://b/train", storage=bucket)
    assert kept.paths == source.paths and bucket.listed == 1
    records = kept.read(np.array([1, 0]))
    assert list(records.errors) == [1] and records.columns["image"][0].tobytes() == b"s3://b/train/dog/sub/1.jpg"
    fresh = ImageFolder("s3://b/train/", storage=bucket, refresh=True)
    assert fresh.classes == ["ant", "dog", "dog-2"] and len(fresh) == 3
    with pytest.raises(FileNotFoundError, match=r"class folder 's3://b/val/cat' has no pictures"):
        bucket.files = {"s3://b/val/cat/notes.txt"}
        ImageFolder("s3://b/val", storage=bucket, cache=False)
    with pytest.raises(FileNotFoundError, match=r"'s3://b/none' has no class folders"):
        ImageFolder("s3://b/none", storage=bucket, cache=False)


def test_a_folder_and_a_list_on_an_s3_server(keeps_all: None) -> None:
    pytest.importorskip("moto")
    pytest.importorskip("obstore")
    from s3 import s3_bucket

    keys = ["train/cat/1.jpg", "train/cat/x/2.jpg", "train/dog/1.png", "train/dog/notes.txt", "train-more/ant/1.jpg"]
    with s3_bucket({key: key.encode() for key in keys}) as bucket:
        storage = Storage(options=bucket.options())
        source = ImageFolder(bucket.url("train"), storage=storage)
        assert source.paths == [bucket.url(key) for key in keys[:3]] and source.classes == ["cat", "dog"]
        assert texts(source, [2, 0, 1]) == [keys[2], keys[0], keys[1]]
        copy = pickle.loads(pickle.dumps(source))
        assert texts(copy, [1]) == [keys[1]] and copy.fingerprint() == source.fingerprint()
        bucket.put("train/list.tsv", b"cat/1.jpg\tcat\ndog/1.png\tdog\n")
        listed = ImageFolder.from_list(bucket.url("train/list.tsv"), storage=storage)
        assert listed.classes == ["cat", "dog"] and texts(listed, [1, 0]) == [keys[2], keys[0]]
        bucket.put("train/list.tsv", b"dog/1.png\tdog\n")
        assert len(ImageFolder.from_list(bucket.url("train/list.tsv"), storage=storage)) == 1
        with pytest.raises(FileNotFoundError):
            ImageFolder(bucket.url("nothing"), storage=storage)
        source.close()
        assert texts(source, [0]) == [keys[0]]


def test_source_travels(tmp_path: Path) -> None:
    source = ImageFolder(plant(tmp_path / "root", "a/1.jpg", "b/2.jpg"))
    copy = pickle.loads(pickle.dumps(source))
    assert copy.paths == source.paths and copy.fingerprint() == source.fingerprint()
    assert texts(copy, [1]) == ["b/2.jpg"] and copy.describe(0) == f"{tmp_path}/root/a/1.jpg"
    source.close()
    assert texts(source, [1]) == ["b/2.jpg"]


def test_a_missing_file_costs_no_other(tmp_path: Path) -> None:
    root = plant(tmp_path / "root", "a/1.jpg", "a/2.jpg", "b/3.jpg")
    source = ImageFolder(root)
    (root / "a" / "2.jpg").unlink()
    records = source.read(np.array([0, 1, 2, 1]))
    assert sorted(records.errors) == [1, 3] and isinstance(records.errors[1], FileNotFoundError)
    assert [records.columns["image"][row].tobytes() for row in range(4)] == [b"a/1.jpg", b"", b"b/3.jpg", b""]


def test_a_million_names(tmp_path: Path) -> None:
    """Bounds with room for a busy machine; an idle one takes a quarter of them."""
    file = tmp_path / "l.tsv"
    file.write_text("".join(f"n{i // 1000:08d}/n{i // 1000:08d}_{i}.JPEG\t{i // 1000}\n" for i in range(1_000_000)))

    def timed(bound_s: float, call):
        start = time.perf_counter()
        value = call()
        assert time.perf_counter() - start < bound_s
        return value

    source = timed(10, lambda: ImageFolder.from_list(file))
    again = timed(1, lambda: ImageFolder.from_list(file))
    assert timed(1, source.fingerprint) == again.fingerprint()
    assert again.paths[999_999] == f"{tmp_path}/n00000999/n00000999_999999.JPEG" and again.labels[-1] == 999
    assert again.paths.arena.nbytes < 32_000_000
    timed(0.1, lambda: again.paths.take(np.arange(0, 1_000_000, 7919)))
