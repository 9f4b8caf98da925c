"""Storage: local files and remote objects, everything that can go wrong on the way, and that it costs no row."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import pickle
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dalipipe import native
from dalipipe.storage import Retry, Storage, expand, is_remote, wanted_while
from dalipipe.storage.patterns import expand_braces

pytest.importorskip("obstore")
pytest.importorskip("moto")

from s3 import Bucket, Faults, Proxy, faulty, s3_bucket, web_server

QUICK = Retry(attempts=4, base_s=0.005, max_s=0.02)
IMPATIENT = Retry(attempts=6, base_s=0.005, max_s=0.02, timeout_s=0.5)  # two more, for answers late on a busy machine


def rows(result) -> tuple[list[bytes], dict[int, OSError]]:
    arena, starts, errors = result
    assert starts.dtype == np.int64 and arena.dtype == np.uint8
    return [arena[a:b].tobytes() for a, b in itertools.pairwise(starts)], errors


def codes(errors: dict[int, OSError]) -> dict[int, int | None]:
    return {row: error.errno for row, error in sorted(errors.items())}


class Pool:
    """An `allocate` that counts."""

    def __init__(self):
        self.asked = []

    def __call__(self, nbytes):
        self.asked.append(nbytes)
        return np.full(nbytes + 9, 0xEE, np.uint8)


# --- local ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    data = [os.urandom(size) for size in (1, 0, 70_000, 3, 4096, 100_003)]
    paths = []
    for i, content in enumerate(data):
        paths.append(tmp_path / f"{i}.bin")
        paths[-1].write_bytes(content)
    return [str(path) for path in paths], data


@pytest.fixture
def stumbling(monkeypatch):
    """Makes the first reads of some paths fail: stumbling({path: [errno, errno]}); what was read, call by call."""
    calls: list[list[str]] = []
    real = native.read_files
    left: dict[str, list[int]] = {}

    def read_files(paths, **kwargs):
        calls.append(list(paths))
        arena, starts, errors = real(paths, **kwargs)
        pieces = [arena[a:b] for a, b in itertools.pairwise(starts)]
        for row, path in enumerate(paths):
            if left.get(path):
                code = left[path].pop(0)
                errors[row] = OSError(code, os.strerror(code), path)
                pieces[row] = pieces[row][:0]
        packed = np.concatenate([*pieces, np.empty(0, np.uint8)])
        arena[: len(packed)] = packed  # as native code leaves it: what follows a failed row moves up
        return arena, np.cumsum([0, *map(len, pieces)]), errors

    monkeypatch.setattr(native, "read_files", read_files)

    def start(failures):
        left.update({path: list(errors) for path, errors in failures.items()})
        return calls

    return start


def test_local_reads_are_native_ones(files, monkeypatch):
    paths, data = files
    calls = []
    result = (np.empty(0, np.uint8), np.zeros(1, np.int64), {})
    monkeypatch.setattr(native, "read_files", lambda *args, **kwargs: calls.append((args, kwargs)) or result)
    pool = Pool()
    assert Storage().read(paths, threads=3, offsets=[0] * 6, allocate=pool) is not None
    assert calls == [((paths,), {"threads": 3, "offsets": [0] * 6, "lengths": None, "allocate": pool})]
    monkeypatch.undo()
    assert rows(Storage().read([Path(path) for path in paths], threads=2, allocate=pool)) == (data, {})
    assert pool.asked == [sum(map(len, data))]
    assert rows(Storage().read([], threads=1)) == ([], {})


def test_rows_that_failed_are_read_again_and_only_they(files, stumbling):
    paths, data = files
    calls = stumbling({paths[2]: [errno.EIO], paths[0]: [errno.ESTALE, errno.ETIMEDOUT], paths[5]: [errno.EAGAIN] * 3})
    mixed = [paths[2], "absent", *paths, paths[2]]
    pool = Pool()
    got, errors = rows(Storage(retry=QUICK).read(mixed, threads=2, allocate=pool))
    assert got == [data[2], b"", *data, data[2]]
    assert codes(errors) == {1: errno.ENOENT}
    assert calls[1:] == [[paths[2], paths[0], paths[5]], [paths[0], paths[5]], [paths[5]]]
    assert len(pool.asked) == 2 and pool.asked[1] == sum(map(len, got))


def test_ranges_are_read_again_as_ranges(files, stumbling):
    paths, data = files
    stumbling({paths[5]: [errno.EIO], paths[2]: [errno.EIO] * 2})
    got = rows(
        Storage(retry=QUICK).read([paths[5], paths[4], paths[2]], threads=1, offsets=[7, 1, 9], lengths=[5, 2, -1])
    )
    assert got == ([data[5][7:12], data[4][1:3], data[2][9:]], {})


def test_what_never_passes_is_reported_with_the_attempts(files, stumbling):
    paths, data = files
    calls = stumbling({paths[2]: [errno.EIO] * 99, paths[0]: [errno.EACCES] * 99, paths[3]: [errno.EFBIG] * 99})
    got, errors = rows(Storage(retry=QUICK).read(paths, threads=1))
    assert codes(errors) == {0: errno.EACCES, 2: errno.EIO, 3: errno.EFBIG}
    assert "after 4 attempts" in str(errors[2]) and errors[2].filename == paths[2]
    assert isinstance(errors[0], PermissionError) and "attempt" not in str(errors[0])
    assert [len(call) for call in calls] == [6, 1, 1, 1]
    assert got == [b"", b"", b"", b"", data[4], data[5]]
    calls.clear()
    assert "after 1 attempt)" in str(Storage(retry=Retry(attempts=1)).read(paths, threads=1)[2][2])
    assert len(calls) == 1


def test_file_that_shrinks_while_it_is_read_and_comes_back(files):
    paths, data = files
    asked = []

    def allocate(nbytes):  # called between sizing and reading
        if not asked:
            os.truncate(paths[2], 100)
            threading.Timer(0.02, lambda: Path(paths[2]).write_bytes(data[2])).start()
        asked.append(nbytes)
        return np.empty(nbytes, np.uint8)

    retry = Retry(attempts=3, base_s=0.3)
    assert rows(Storage(retry=retry).read(paths, threads=2, allocate=allocate)) == (data, {})


def test_local_waits_end_when_nobody_wants_the_rows(files, stumbling):
    paths, data = files
    stumbling({paths[2]: [errno.EIO] * 99})
    began = time.monotonic()
    with wanted_while(lambda: time.monotonic() < began + 0.1):
        got, errors = rows(Storage(retry=Retry(base_s=60, max_s=60)).read(paths, threads=1))
    assert time.monotonic() - began < 5
    assert codes(errors) == {2: errno.ECANCELED} and got[3:] == data[3:]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Retry(attempts=0), "attempts"),
        (lambda: Retry(base_s=-1), "base_s"),
        (lambda: Retry(timeout_s=0), "timeout_s"),
        (lambda: Storage(concurrency=0), "concurrency"),
        (lambda: Storage(cache_bytes=-1), "cache_bytes"),
    ],
)
def test_settings_that_make_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_waits_grow_to_a_limit_and_leave_the_users_random_alone():
    random.seed(1)
    expected = random.random()
    random.seed(1)
    waits = [list(Retry(attempts=8, base_s=0.1, max_s=1.0).delays_s()) for _ in range(50)]
    assert random.random() == expected
    for step, of_step in enumerate(zip(*waits, strict=True)):
        full = min(1.0, 0.1 * 2**step)
        assert all(full / 2 <= wait <= full for wait in of_step) and len(set(of_step)) > 25
    assert len(waits[0]) == 7


def test_list_local(tmp_path):
    root = tmp_path / "root"
    for name in ("b/2.jpg", "b/c/1.jpg", "a.txt", "b-2/x"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "linked").write_bytes(b"12345")
    (root / "b" / "link").symlink_to(tmp_path / "elsewhere")
    (root / "b" / "up").symlink_to(root)  # a circle
    (root / "nowhere").symlink_to(tmp_path / "absent")
    (root / "itself").symlink_to("itself")
    os.mkfifo(root / "pipe")
    listed = Storage().list(root)
    assert [(os.path.relpath(file.path, root), file.size_bytes) for file in listed if file.size_bytes] == [
        ("a.txt", 5), ("b-2/x", 5), ("b/2.jpg", 7), ("b/c/1.jpg", 9), ("b/link/linked", 5),
    ]  # fmt: skip
    assert [os.path.relpath(file.path, root) for file in listed if not file.size_bytes] == ["itself", "nowhere"]
    info = Storage().info(root / "a.txt")
    assert info == next(file for file in listed if file.path.endswith("a.txt")) and info.size_bytes == 5
    os.utime(root / "a.txt", (1, 1))
    assert Storage().info(root / "a.txt").version != info.version
    (tmp_path / "empty").mkdir()
    for missing in ("empty", "absent"):
        with pytest.raises(FileNotFoundError, match=missing):
            Storage().list(tmp_path / missing)
    with pytest.raises(NotADirectoryError):
        Storage().list(root / "a.txt")
    with pytest.raises(FileNotFoundError):
        Storage().info(root / "absent")


# --- remote --------------------------------------------------------------------------------------------------------

SIZES = [1, 0, 70_000, 3, 4096, 100_003]


@pytest.fixture(scope="module")
def bucket():
    draw = random.Random(0)
    with s3_bucket({f"o/{i}": draw.randbytes(size) for i, size in enumerate(SIZES)}) as bucket:
        yield bucket


@pytest.fixture(scope="module")
def data():
    draw = random.Random(0)
    return [draw.randbytes(size) for size in SIZES]


@pytest.fixture
def proxy(bucket):
    with faulty(bucket.address) as proxy:
        yield proxy


def remote(bucket: Bucket, proxy: Proxy | None = None, **settings) -> Storage:
    return Storage(options=bucket.options(proxy), **{"retry": QUICK, **settings})


def urls(bucket: Bucket) -> list[str]:
    return [bucket.url(f"o/{i}") for i in range(len(SIZES))]


def test_is_remote():
    assert all(map(is_remote, ["s3://b/k", "gs://b", "https://h/x", "az://c/k", "ftp://x"]))
    assert not any(map(is_remote, ["/a/b", "a", "./s3:/b", "C:\\x", "/x://y", ""]))


def test_whole_objects(bucket, data):
    pool = Pool()
    assert rows(remote(bucket).read(urls(bucket), threads=1, allocate=pool)) == (data, {})
    assert pool.asked[-1] == sum(SIZES)


@pytest.fixture(scope="module")
def both(bucket, data, tmp_path_factory):
    """The same bytes as files and as objects."""
    folder = tmp_path_factory.mktemp("both")
    for i, content in enumerate(data):
        (folder / str(i)).write_bytes(content)
    storage = remote(bucket)
    yield lambda chosen: ([str(folder / str(i)) for i in chosen], [urls(bucket)[i] for i in chosen], storage)


edge = st.sampled_from([0, 1, 2, 3, 4, 4095, 4096, 4097, 69_999, 70_000, 70_001, 99_999, 100_003, 100_004])


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, len(SIZES) - 1),
            edge | st.integers(0, 110_000),
            st.just(-1) | edge.filter(bool) | st.integers(1, 110_000),
        ),
        max_size=12,
    )
)
def test_ranges_as_local_files_have_them(both, asked):
    """Whatever is asked for, an object answers as a file does: bytes, and errno by row."""
    chosen, offsets, lengths = zip(*asked, strict=True) if asked else ((), (), ())
    paths, objects, storage = both(chosen)
    expected, wrong = rows(native.read_files(paths, threads=2, offsets=list(offsets), lengths=list(lengths)))
    got, errors = rows(storage.read(objects, threads=2, offsets=list(offsets), lengths=list(lengths)))
    assert got == expected and codes(errors) == codes(wrong)
    assert all(errors[row].filename == objects[row] for row in errors)


def test_local_and_remote_in_one_batch(bucket, data, files):
    paths, local = files
    where = [
        paths[2],
        bucket.url("o/2"),
        "absent",
        bucket.url("absent"),
        bucket.url("o/4"),
        paths[5],
        bucket.url("o/1"),
    ]
    offsets, lengths = [5, 5, 0, 0, 1, 0, 0], [10, 20, -1, -1, -1, -1, 0]
    got, errors = rows(remote(bucket).read(where, threads=2, offsets=offsets, lengths=lengths))
    assert got == [local[2][5:15], data[2][5:25], b"", b"", data[4][1:], local[5], b""]
    assert codes(errors) == {2: errno.ENOENT, 3: errno.ENOENT}


def test_neighbours_travel_together(bucket, proxy, data):
    offsets = [1000, 2000, 0, 60_000, 1500, 900]
    lengths = [900, 100, 100, 5000, 600, 200]
    expected = [data[2][o : o + n] for o, n in zip(offsets, lengths, strict=True)]
    read = remote(bucket, proxy).read
    assert rows(read([bucket.url("o/2")] * 6, threads=1, offsets=offsets, lengths=lengths)) == (expected, {})
    assert sorted(request.range for request in proxy.requests) == ["bytes=0-2099", "bytes=60000-64999"]
    # One of them lies outside: the others still come.
    lengths[3] = 10_001
    offsets[4], lengths[4] = 58_000, 1
    got, errors = rows(read([bucket.url("o/2")] * 6, threads=1, offsets=offsets, lengths=lengths))
    assert codes(errors) == {3: errno.EINVAL} and "60000" in str(errors[3]) and "70000" in str(errors[3])
    assert [got[i] for i in (0, 1, 2, 5)] == [expected[i] for i in (0, 1, 2, 5)] and got[4] == data[2][58_000:58_001]


@pytest.mark.parametrize("fault", ["error", "reset", "short", "hang"])
def test_faults_pass(bucket, proxy, data, fault):
    setattr(proxy.faults, fault, 0.5)
    proxy.faults.in_a_row = QUICK.attempts - 1
    storage = remote(bucket, proxy, retry=IMPATIENT if fault == "hang" else QUICK)
    assert rows(storage.read(urls(bucket) * 3, threads=1)) == (data * 3, {})
    assert any(request.fault == fault for request in proxy.requests)


def test_ranges_that_are_shorter_than_they_say(bucket, proxy, data):
    proxy.faults = Faults(lie=1.0, in_a_row=2)
    storage, where = remote(bucket, proxy), [bucket.url("o/2"), bucket.url("o/5")]
    assert rows(storage.read(where, threads=1, offsets=[0, 7], lengths=[50, 70]))[0] == [data[2][:50], data[5][7:77]]
    assert len(proxy.requests) == 6
    proxy.faults.in_a_row = 99
    errors = storage.read(where, threads=1, offsets=[0, 7], lengths=[50, 70])[2]
    assert codes(errors) == {0: errno.EIO, 1: errno.EIO} and "25 of 50 bytes" in str(errors[0])


def test_all_faults_at_once(proxy, bucket):
    contents = {f"many/{i:03d}": random.Random(i).randbytes(100 + i) for i in range(150)}
    for key, content in contents.items():
        bucket.put(key, content)
    proxy.faults = Faults(error=0.15, reset=0.1, short=0.1, hang=0.02, in_a_row=QUICK.attempts - 1, seed=3)
    got = rows(remote(bucket, proxy, retry=IMPATIENT).read([bucket.url(key) for key in contents], threads=1))
    assert got == (list(contents.values()), {})
    assert {request.fault for request in proxy.requests} == {"error", "reset", "short", "hang", None}


@pytest.mark.parametrize(
    ("fault", "code", "kind"),
    [
        ("error", errno.EIO, OSError),
        ("reset", errno.ECONNRESET, ConnectionResetError),
        ("short", errno.EIO, OSError),
        ("hang", errno.ETIMEDOUT, TimeoutError),
    ],
)
def test_faults_that_do_not_pass(bucket, proxy, data, fault, code, kind):
    setattr(proxy.faults, fault, 1.0)
    proxy.faults.only = "o/2"
    retry = IMPATIENT if fault == "hang" else QUICK
    got, errors = rows(remote(bucket, proxy, retry=retry).read(urls(bucket), threads=1))
    assert codes(errors) == {2: code} and isinstance(errors[2], kind)
    assert f"after {retry.attempts} attempts" in str(errors[2]) and errors[2].filename == bucket.url("o/2")
    assert got == [*data[:2], b"", *data[3:]]
    assert sum("o/2" in request.target for request in proxy.requests) == retry.attempts


def test_what_cannot_pass_is_not_tried_again(bucket, proxy):
    where = [bucket.url("absent"), "s3://no-such-bucket/x", "ftp://h/x", "s3://", bucket.url("a//b"), bucket.url("o/2")]
    got, errors = rows(remote(bucket, proxy).read(where, threads=1, lengths=[-1, 4, 1, 1, 1, 10**12]))
    assert codes(errors) == {
        0: errno.ENOENT, 1: errno.ENOENT, 2: errno.EPROTONOSUPPORT, 3: errno.EINVAL, 4: errno.EINVAL, 5: errno.EINVAL,
    }  # fmt: skip
    assert isinstance(errors[0], FileNotFoundError) and "404" in str(errors[0]) and "\n" not in str(errors[0])
    assert [errors[row].filename for row in sorted(errors)] == where
    assert len(proxy.requests) == 3 and got == [b""] * 6


def test_nobody_answers(bucket):
    with faulty(bucket.address) as proxy:
        pass
    error = remote(bucket, proxy).read([bucket.url("o/1")], threads=1)[2][0]
    assert isinstance(error, ConnectionRefusedError) and "refused" in str(error)
    with pytest.raises(ConnectionRefusedError):
        remote(bucket, proxy).info(bucket.url("o/1"))


def test_requests_go_side_by_side(bucket, proxy, data):
    proxy.faults.wait_s = 0.1
    for concurrency in (1, 12):
        proxy.forget()
        chosen = urls(bucket)[2:5] * (1 if concurrency == 1 else 8)
        began = time.monotonic()
        storage = remote(bucket, proxy, concurrency=concurrency, retry=Retry(timeout_s=20))
        assert rows(storage.read(chosen, threads=1))[0] == data[2:5] * (len(chosen) // 3)
        took = time.monotonic() - began
        assert proxy.most_at_once == concurrency
        assert took >= 0.1 * len(chosen) / concurrency
    assert took < 0.1 * len(chosen)


def test_read_from_many_threads(bucket, data):
    storage = remote(bucket)
    results = [None] * 6

    def work(i):
        results[i] = [rows(storage.read(urls(bucket), threads=1)) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(results))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(result == [(data, {})] * 3 for result in results)


def test_a_changed_object_is_noticed(bucket):
    bucket.put("changing", b"before")
    storage, url = remote(bucket), bucket.url("changing")
    version = storage.info(url).version
    assert version and rows(storage.read([url] * 2, threads=1, versions=[version, ""])) == ([b"before"] * 2, {})
    bucket.put("changing", b"after!")
    got, errors = rows(storage.read([url] * 2, threads=1, versions=[version, ""]))
    assert got == [b"", b"after!"] and "make the index anew" in str(errors[0])
    with pytest.raises(ValueError, match="versions"):
        storage.read([url], threads=1, versions=[])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"offsets": [0, 0]}, r"offsets must be int64 \[1\]"),
        ({"offsets": [-1]}, "offsets must be at least 0"),
        ({"lengths": [-2]}, "lengths must be at least -1"),
    ],
)
def test_wrong_arguments(bucket, kwargs, message):
    with pytest.raises(ValueError, match=message):
        remote(bucket).read([bucket.url("o/1")], threads=1, **kwargs)


def test_options_that_a_store_refuses(bucket):
    with pytest.raises(ValueError, match=r"s3://.*no_such_option"):
        Storage(options={"no_such_option": "1"}).read(["s3://b/k"], threads=1)
    with pytest.raises(ValueError, match="Account must be specified"):
        Storage().info("az://container/key")


def test_options_from_the_environment(bucket, data, monkeypatch):
    for name, value in {
        "AWS_ENDPOINT_URL": bucket.options()["endpoint"],
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    assert rows(Storage().read(urls(bucket), threads=1)) == (data, {})


def test_missing_obstore_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ImportError, match=r"dalipipe\[remote\]"):
        Storage().read(["s3://b/k"], threads=1)


def test_is_a_value(bucket, data):
    storage = remote(bucket, cache_bytes=1 << 20)
    again = pickle.loads(pickle.dumps(storage))
    assert rows(storage.read(urls(bucket), threads=1)) == (data, {})
    used = pickle.loads(pickle.dumps(storage))
    assert storage == again == used != remote(bucket)
    assert rows(used.read(urls(bucket), threads=1)) == (data, {})
    assert "secret" not in repr(storage)
    storage.close()
    assert rows(storage.read(urls(bucket), threads=1)) == (data, {})


# --- listings ------------------------------------------------------------------------------------------------------


def test_list_objects(proxy, bucket):
    with s3_bucket({f"train/{i:04d}": b"x" * (i % 3) for i in range(1200)}) as bucket:
        for key, content in {
            "train-2/x": b"1",
            "top": b"2",
            "marked/": b"",
            "marked/in/": b"",
            "marked/in/é x": b"3",
        }.items():
            bucket.put(key, content)
        with faulty(bucket.address) as proxy:
            storage = remote(bucket, proxy)
            proxy.faults = Faults(error=1.0, in_a_row=2)
            listed = storage.list(bucket.url("train"))
            assert [file.path for file in listed] == [bucket.url(f"train/{i:04d}") for i in range(1200)]
            assert [file.size_bytes for file in listed] == [i % 3 for i in range(1200)]
            assert listed[5] == storage.info(listed[5].path)
            pages = [request for request in proxy.requests if request.method == "GET"]
            assert sum(request.fault is None for request in pages) >= 2 and any(request.fault for request in pages)
            proxy.faults = Faults()
            assert storage.list(bucket.url("train/")) == listed
            assert [file.path for file in storage.list(bucket.url("marked"))] == [bucket.url("marked/in/é x")]
            everything = storage.list(bucket.url())
            assert len(everything) == 1203 and storage.list(bucket.url().rstrip("/")) == everything
            for missing in (bucket.url("trai"), "s3://no-such-bucket/", "s3://no-such-bucket/x"):
                with pytest.raises(FileNotFoundError) as raised:
                    storage.list(missing)
                assert raised.value.filename == missing
            with pytest.raises(FileNotFoundError):
                storage.info(bucket.url("train"))


def test_a_listing_gets_on_however_often_it_fails():
    with s3_bucket({f"{i:05d}": b"" for i in range(3000)}) as bucket, faulty(bucket.address) as proxy:
        proxy.faults = Faults(error=0.7, in_a_row=2)
        retry = Retry(attempts=3, base_s=0.001)
        assert len(remote(bucket, proxy, retry=retry).list(bucket.url())) == 3000
        assert sum(request.fault is not None for request in proxy.requests) > retry.attempts


# --- the cache -----------------------------------------------------------------------------------------------------


def kept(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "used")


def disk_bytes(folder: Path) -> int:
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in kept(folder))


def test_cache_answers_what_was_read_before(bucket, proxy, data, tmp_path, files):
    paths, local = files
    storage = remote(bucket, proxy, cache_dir=tmp_path / "cache")
    where = [*urls(bucket), paths[2], bucket.url("o/2"), bucket.url("absent")]
    offsets, lengths = [0] * 6 + [3, 100, 0], [-1] * 6 + [5, 200, -1]
    expected = [*data, local[2][3:8], data[2][100:300], b""]
    for _ in range(2):
        got, errors = rows(storage.read(where, threads=2, offsets=offsets, lengths=lengths))
        assert got == expected and codes(errors) == {8: errno.ENOENT}
    asked = [request.target for request in proxy.requests]
    assert len([target for target in asked if "absent" in target]) == 2 and len(asked) == 9

    proxy.forget()
    pool = Pool()
    other = pickle.loads(pickle.dumps(storage))
    got = rows(other.read(where[:8], threads=2, offsets=offsets[:8], lengths=lengths[:8], allocate=pool))
    assert got == (expected[:8], {}) and not proxy.requests
    assert len(pool.asked) == 1  # straight to where they belong

    rows(storage.read([urls(bucket)[2]], threads=1, offsets=[100], lengths=[201]))
    rows(storage.read([urls(bucket)[2]], threads=1, versions=[storage.info(urls(bucket)[2]).version]))
    assert len([request for request in proxy.requests if request.method == "GET"]) == 2  # other ranges, other keys


def test_cache_is_off_unless_asked_for(bucket, proxy, data):
    storage = remote(bucket, proxy)
    for _ in range(2):
        assert rows(storage.read([bucket.url("o/2")], threads=1)) == ([data[2]], {})
    assert len(proxy.requests) == 2


@pytest.mark.parametrize(
    "damage", ["cut", "longer", "empty", "flipped", "zeros", "header", "gone", "folder", "unreadable"]
)
def test_damaged_entries_are_misses(bucket, proxy, data, tmp_path, damage):
    storage = remote(bucket, proxy, cache_dir=tmp_path)
    assert rows(storage.read(urls(bucket)[2:], threads=1)) == (data[2:], {})
    proxy.forget()
    for path in kept(tmp_path):
        content = bytearray(path.read_bytes())
        path.unlink()
        if damage == "cut":
            path.write_bytes(content[:-1])
        elif damage == "longer":
            path.write_bytes(content + b"x")
        elif damage == "empty":
            path.write_bytes(b"")
        elif damage == "flipped":
            content[-1] ^= 16
            path.write_bytes(content)
        elif damage == "zeros":
            path.write_bytes(bytes(len(content)))
        elif damage == "header":
            content[3] ^= 1
            path.write_bytes(content)
        elif damage == "folder":
            path.mkdir()
        elif damage == "unreadable":
            path.symlink_to(path.name)
    for _ in range(2):
        assert rows(storage.read(urls(bucket)[2:], threads=1)) == (data[2:], {})
    assert len(proxy.requests) == (8 if damage == "folder" else 4)  # a folder in the way stays


def test_cache_stays_within_its_bound_and_keeps_what_is_used(bucket, proxy, data, tmp_path):
    url, bound = bucket.url("o/5"), 250_000
    storage = remote(bucket, proxy, cache_dir=tmp_path, cache_bytes=bound)
    (tmp_path / "mine.txt").write_bytes(b"x" * 1_000_000)
    used = bucket.url("o/4")
    for offset in range(0, 100_000, 1500):
        assert rows(storage.read([url, used], threads=1, offsets=[offset, 0], lengths=[900, -1]))[0][1] == data[4]
        assert disk_bytes(tmp_path / "dalipipe-ranges") <= bound
    assert len(kept(tmp_path)) > 30
    assert sum(used.split("/", 3)[3] in request.target for request in proxy.requests) == 1
    assert (tmp_path / "mine.txt").exists()
    proxy.forget()
    rows(storage.read([url], threads=1, offsets=[99_000], lengths=[900]))
    assert not proxy.requests  # the last one is there,
    rows(storage.read([url], threads=1, offsets=[0], lengths=[900]))
    assert len(proxy.requests) == 1  # the first one went


def test_what_is_larger_than_the_cache_is_not_kept(bucket, data, tmp_path):
    storage = remote(bucket, cache_dir=tmp_path, cache_bytes=80_000)
    assert rows(storage.read(urls(bucket), threads=1)) == (data, {})
    assert 0 < disk_bytes(tmp_path / "dalipipe-ranges") <= 80_000


def test_who_finds_the_cache_locked_does_not_wait(bucket, proxy, data, tmp_path):
    storage, folder = remote(bucket, proxy, cache_dir=tmp_path), tmp_path / "dalipipe-ranges"
    rows(storage.read(urls(bucket)[4:5], threads=1))
    with open(folder / "used") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for _ in range(2):
            assert rows(storage.read(urls(bucket)[4:], threads=1)) == (data[4:], {})
        assert len(kept(tmp_path)) == 1 and len(proxy.requests) == 3
    rows(storage.read(urls(bucket)[4:], threads=1))
    assert len(kept(tmp_path)) == 2 and int((folder / "used").read_text()) == disk_bytes(folder)


def test_forgotten_parts_and_a_wrong_count_do_not_add_up(bucket, tmp_path):
    storage = remote(bucket, cache_dir=tmp_path, cache_bytes=400_000)
    storage.read([bucket.url("o/4")], threads=1)
    folder = kept(tmp_path)[0].parent
    for i in range(3):
        (folder / f"{i}.part").write_bytes(b"x" * 90_000)
        os.utime(folder / f"{i}.part", (1, 1))
    (folder.parent / "used").write_text("nonsense")
    storage.read([bucket.url("o/5")], threads=1)
    assert not list(folder.glob("*.part"))
    assert int((folder.parent / "used").read_text()) == disk_bytes(folder.parent)


def test_cache_that_cannot_be_written_costs_nothing_else(bucket, proxy, data, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", "/proc/no"):
        storage = remote(bucket, proxy, cache_dir=folder)
        for _ in range(2):
            assert rows(storage.read(urls(bucket), threads=1)) == (data, {})


def child(script: str, *arguments: str, **kwargs) -> subprocess.Popen:
    code = textwrap.dedent(script)
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs
    )


def finish(process: subprocess.Popen, seconds: float = 60) -> str:
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == 0, err
    return out


STORAGE = """
import os, pickle, signal, sys, threading, time
from dalipipe.storage import Retry, Storage
storage = pickle.loads(bytes.fromhex(sys.argv[1]))
urls = sys.argv[2:]
"""


def test_full_disk_costs_only_the_keeping(bucket, data, tmp_path):
    script = """
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))  # writing more fails, as on a full disk
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    arena, starts, errors = storage.read(urls, threads=1)
    assert not errors, errors
    sys.stdout.write(arena[:starts[-1]].tobytes().hex())
    """
    storage = remote(bucket, cache_dir=tmp_path)
    out = finish(child(STORAGE + textwrap.dedent(script), pickle.dumps(storage).hex(), *urls(bucket)))
    assert bytes.fromhex(out) == b"".join(data)
    assert not [path for path in kept(tmp_path) if path.suffix == ".part" or path.stat().st_size > 50_000]


def test_cache_shared_by_processes_stays_within_its_bound(bucket, tmp_path):
    script = """
    import random
    order = random.Random(int(urls.pop()))
    for _ in range(30):
        offsets = [order.randrange(90) * 1000 for _ in range(8)]
        arena, starts, errors = storage.read(urls * 8, threads=1, offsets=offsets, lengths=[900] * 8)
        assert not errors, errors
        sys.stdout.write(",".join(map(str, offsets)) + ":" + arena[:starts[-1]].tobytes().hex() + "\\n")
    """
    bound = 200_000
    storage = pickle.dumps(remote(bucket, cache_dir=tmp_path, cache_bytes=bound)).hex()
    children = [child(STORAGE + textwrap.dedent(script), storage, bucket.url("o/5"), str(i)) for i in range(3)]
    expected = random.Random(0)
    contents = [expected.randbytes(size) for size in SIZES][5]
    most = 0
    outputs: list[str] = []
    readers = [threading.Thread(target=lambda one=one: outputs.append(finish(one))) for one in children]
    for reader in readers:
        reader.start()
    while any(reader.is_alive() for reader in readers):
        if (tmp_path / "dalipipe-ranges").is_dir():
            try:
                most = max(most, disk_bytes(tmp_path / "dalipipe-ranges"))
            except FileNotFoundError:  # removed under our eyes
                continue
        time.sleep(0.02)
    assert len(outputs) == 3
    for line in itertools.chain.from_iterable(output.splitlines() for output in outputs):
        offsets, got = line.split(":")
        assert bytes.fromhex(got) == b"".join(contents[o : o + 900] for o in map(int, offsets.split(",")))
    batch = 8 * 4096
    assert bound / 2 < most <= bound + 2 * batch


# --- leaving -------------------------------------------------------------------------------------------------------

READER = """
def read():
    while threading.main_thread().is_alive():
        storage.read(urls, threads=1)
threading.Thread(target=read, daemon="daemon" in os.environ).start()
"""


@pytest.mark.parametrize("how", ["return", "interrupt"])
def test_a_server_that_hangs_holds_up_no_exit(bucket, proxy, how):
    proxy.faults.hang = 1.0
    process = child(
        STORAGE + READER + "time.sleep(0.5 if os.environ['how'] == 'return' else 60)",
        pickle.dumps(remote(bucket, proxy, retry=Retry())).hex(),
        *urls(bucket),
        env={**os.environ, "how": how},
    )
    while not proxy.requests:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    began = time.monotonic()
    if how == "interrupt":
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 2.5
    assert process.returncode == (0 if how == "return" else -signal.SIGINT), err
    assert "Exception in thread" not in err


def test_interrupt_while_the_main_thread_reads(bucket, proxy):
    proxy.faults.hang = 1.0
    process = child(
        STORAGE + "storage.read(urls, threads=1)",
        pickle.dumps(remote(bucket, proxy, retry=Retry())).hex(),
        *urls(bucket),
    )
    while not proxy.requests:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert time.monotonic() - began < 2.5 and process.returncode == -signal.SIGINT


def test_exit_in_the_midst_of_answers(bucket):
    """What obstore's threads bring must not come back into an interpreter that is gone: that aborts the process."""
    environments = [{**os.environ}, {**os.environ, "daemon": "1"}] * 3
    storage = pickle.dumps(remote(bucket)).hex()
    processes = [
        child(STORAGE + READER + f"time.sleep({0.2 + 0.05 * i})", storage, *urls(bucket) * 4, env=environment)
        for i, environment in enumerate(environments)
    ]
    for process in processes:
        finish(process)


def test_nobody_wants_the_rows_any_more(bucket, proxy, data):
    proxy.faults.hang = 1.0
    storage = remote(bucket, proxy, retry=Retry())
    began = time.monotonic()
    with wanted_while(lambda: time.monotonic() < began + 0.2):
        got, errors = rows(storage.read(urls(bucket), threads=1))
        assert codes(errors) == dict.fromkeys(range(6), errno.ECANCELED) and got == [b""] * 6
        for call in (storage.info, storage.list):
            with pytest.raises(OSError, match="shutting down"):
                call(bucket.url("o/1"))
    assert time.monotonic() - began < 2
    proxy.faults.hang = 0.0
    assert rows(storage.read(urls(bucket), threads=1)) == (data, {})


def test_forked_process_is_told_so(bucket, tmp_path):
    script = """
    assert not storage.read(urls, threads=1)[2]
    (here := open(os.path.abspath(sys.executable))).close()
    pid = os.fork()
    if pid == 0:
        try:
            assert not storage.read([sys.executable], threads=1)[2]
            storage.read(urls, threads=1)
        except RuntimeError as error:
            os._exit(7 if "spawn" in str(error) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert not storage.read(urls, threads=1)[2]
    """
    finish(child(STORAGE + textwrap.dedent(script), pickle.dumps(remote(bucket)).hex(), bucket.url("o/2")))


# --- web servers ---------------------------------------------------------------------------------------------------


@pytest.fixture
def web_folder(tmp_path):
    for name in ("a.bin", "with space & é+%.bin"):
        (tmp_path / name).write_bytes(os.urandom(5000))
    return tmp_path


def test_web_server(web_folder):
    plain = (web_folder / "a.bin").read_bytes()
    odd = (web_folder / "with space & é+%.bin").read_bytes()
    with web_server(web_folder) as url, faulty(url, Faults(error=0.3, short=0.3, in_a_row=3)) as proxy:
        storage = Storage(retry=QUICK)
        where = [
            f"{proxy.url}/{name}" for name in ("a.bin", "a.bin", "with%20space%20&%20é+%25.bin", "absent", "a.bin")
        ]
        got, errors = rows(storage.read(where, threads=1, offsets=[0, 4000, 7, 0, 4999], lengths=[-1, 500, 93, -1, 2]))
        assert got == [plain, plain[4000:4500], odd[7:100], b"", b""]
        assert codes(errors) == {3: errno.ENOENT, 4: errno.EINVAL}
        assert storage.info(where[0]).size_bytes == 5000
        with pytest.raises(OSError, match="name them, with braces"):
            storage.list(url)


def test_web_server_without_ranges(web_folder):
    with web_server(web_folder, ranges=False) as url:
        got, errors = rows(Storage().read([f"{url}/a.bin"] * 2, threads=1, offsets=[0, 5], lengths=[-1, 5]))
    assert got[0] == (web_folder / "a.bin").read_bytes()
    assert codes(errors) == {1: errno.EOPNOTSUPP}


def test_signed_urls(web_folder):
    with web_server(web_folder, query="sig=a%2Fb&t=1") as url:
        where = [f"{url}/with%20space%20&%20é+%25.bin?sig=a%2Fb&t=1", f"{url}/a.bin", f"{url}/a.bin?sig=wrong"]
        got, errors = rows(Storage().read(where, threads=1, offsets=[10, 0, 0], lengths=[20, -1, -1]))
    assert got == [(web_folder / "with space & é+%.bin").read_bytes()[10:30], b"", b""]
    assert codes(errors) == {1: errno.EACCES, 2: errno.EACCES} and isinstance(errors[1], PermissionError)


# --- patterns ------------------------------------------------------------------------------------------------------

text = st.text("ab/.-", max_size=3)
number = st.integers(-12, 12).map(str) | st.integers(0, 12).map("{:03d}".format)
count = st.builds("{{{}..{}}}".format, number, number) | st.builds(
    "{{{}..{}..{}}}".format, number, number, st.integers(-3, 3)
)
braces = st.recursive(
    text | count,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map("".join)
        | st.lists(inner, min_size=1, max_size=3).map(lambda parts: "{" + ",".join(parts) + "}")
    ),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(braces)
def test_braces_as_braceexpand_has_them(pattern):
    braceexpand = pytest.importorskip("braceexpand").braceexpand
    assert expand_braces(pattern) == list(braceexpand(pattern))


def test_braces():
    assert expand("s3://b/train-{000000..000003}.tar") == [f"s3://b/train-{i:06d}.tar" for i in range(4)]
    assert expand(["{a,b{1,2}}{c..a}", "x"]) == [*(f"{p}{q}" for p in ("a", "b1", "b2") for q in "cba"), "x"]
    for literal in ("{a}", "{", "a}b", "{a,b", "https://h/x?y=*", ""):
        assert expand(literal) == [literal]
    with pytest.raises(ValueError, match="names"):
        expand("{0..99999999}")
    with pytest.raises(ValueError, match="names"):
        expand("{0..99999}{0..99999}")


def test_wildcards(tmp_path, bucket, monkeypatch):
    names = ["s/train-0.tar", "s/train-1.tar", "s/val-0.tar", "s/deep/er/train-2.tar", "s/train-x/y.tar"]
    with s3_bucket(dict.fromkeys(names, b"1")) as bucket:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"1")
        storage = remote(bucket)
        for pattern, expected in {
            "s/train-*.tar": names[:2],
            "s/train-[1-9].tar": names[1:2],
            "s/train-?.tar": names[:2],
            "s/{val,train}-*.tar": [names[2], *names[:2]],
            "s/*/*.tar": names[4:],
            "s/**/train-*.tar": sorted([*names[:2], names[3]]),
            "*/val-0.tar": names[2:3],
        }.items():
            assert expand(bucket.url(pattern), storage) == [bucket.url(name) for name in expected], pattern
            assert expand(tmp_path / pattern) == [str(tmp_path / name) for name in expected], pattern
        for nothing in (str(tmp_path / "s" / "test-*.tar"), bucket.url("s/test-*.tar")):
            with pytest.raises(FileNotFoundError, match="no file matches") as raised:
                expand(nothing, storage)
            assert raised.value.filename == nothing
    odd = tmp_path / "a[1]*.tar"
    odd.write_bytes(b"")
    assert expand(odd) == [str(odd)]
