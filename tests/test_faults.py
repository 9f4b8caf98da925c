"""Bad samples: isolated, told, left out or stood in for; the epoch keeps its length and the good samples theirs."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from damage import BAD, GOOD_ODDITIES, make_folder, make_unreadable
from hypothesis import given, settings
from hypothesis import strategies as st

import dalipipe
from dalipipe import faults, orders
from dalipipe.loader import DataLoader
from dalipipe.ops import image as ops
from dalipipe.records import Records
from dalipipe.sampler import Sampler
from dalipipe.schema import Field, Schema

POLICY = dalipipe.Policy([ops.RandomResizedCrop(16), ops.HorizontalFlip(), ops.Normalize()])


class Flaky(dalipipe.Source):
    """Numbers instead of pictures; those in ``bad`` cannot be read."""

    schema = Schema((Field("value", "column"),))

    def __init__(self, n: int, bad: set[int]) -> None:
        self.n, self.bad, self.reads = n, bad, 0

    def __len__(self) -> int:
        return self.n

    def read(self, indices: np.ndarray, *, threads: int = 1, allocate: Any = None) -> Records:
        self.reads += 1
        wrong: dict[int, Exception] = {
            row: OSError(5, "no such luck") for row, i in enumerate(indices.tolist()) if i in self.bad
        }
        return Records({"value": indices.astype(np.int64)}, wrong)

    def fingerprint(self) -> str:
        return f"flaky-{self.n}"


def make(source: Any, batch_size: int = 4, **kw: Any) -> DataLoader:
    return DataLoader(source, batch_size, **{"shuffle": True, "seed": 3, "device": "cpu", "max_bad": 1.0, **kw})


def values(loader: DataLoader) -> list[list[int]]:
    return [batch[0].tolist() for batch in loader]


def test_raise_names_the_sample_and_chains_the_cause() -> None:
    with pytest.raises(dalipipe.SampleError, match=r"sample 7 \(record 7\): .*no such luck") as caught:
        values(make(Flaky(20, {7})))
    assert caught.value.index == 7 and isinstance(caught.value.__cause__, OSError)


def test_skip_leaves_rows_out_and_substitute_fills_them_up() -> None:
    whole = values(make(Flaky(23, set())))
    bad = {3, 9, 10, 22}
    skipped, filled = (values(make(Flaky(23, bad), on_error=how)) for how in ("skip", "substitute"))
    assert len(skipped) == len(filled) == len(whole) == 6
    assert skipped == [[v for v in batch if v not in bad] for batch in whole]
    for batch, expected in zip(filled, whole, strict=True):
        assert len(batch) == len(expected) and not bad & set(batch)
        assert [a for a, b in zip(batch, expected, strict=True) if b not in bad] == [
            v for v in expected if v not in bad
        ]


def test_a_batch_without_a_good_sample_is_stood_in_for() -> None:
    whole = values(make(Flaky(20, set()), shuffle=False))
    loader = make(Flaky(20, {0, 1, 2, 3, 9}), on_error="skip", shuffle=False)
    batches = values(loader)
    assert len(batches[0]) == 4 and not set(batches[0]) & {0, 1, 2, 3, 9}
    assert batches[1:] == [whole[1], [8, 10, 11], whole[3], whole[4]]


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(8, 60),
    share=st.integers(1, 4),
    bad=st.sets(st.integers(0, 59), max_size=5),
    how=st.sampled_from(["skip", "substitute"]),
    exact=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_any_number_of_ranks_gives_the_same_rows(
    n: int, share: int, bad: set[int], how: str, exact: bool, epoch: int
) -> None:
    """Position by position: what stands there, and whether it counts, depends on (seed, epoch, position) alone."""
    bad = {i for i in bad if i < n}

    def rows(world: int) -> dict[int, tuple[int, bool]]:
        found = {}
        for rank in range(world):
            order = orders.Shuffled(n, 5)
            sampler = Sampler(order, 12 // world, rank=rank, world_size=world, exact=exact, seed=5)
            for step in sampler.batches(epoch):
                mended = sampler.without(epoch, step, bad, refill=how == "substitute")
                assert not bad & set(mended.indices.tolist())
                for place, index, counts in zip(mended.positions, mended.indices, mended.counts, strict=True):
                    if counts:
                        found[int(place)] = (int(index), True)
        return found

    alone, shared = rows(1), rows({1: 2, 2: 3, 3: 4, 4: 6}[share])
    common = alone.keys() & shared.keys()  # a batch of which all is bad is filled up, and that depends on its size
    assert all(alone[place] == shared[place] for place in common)
    if exact:
        assert alone == shared
        if how == "skip":
            assert sorted(index for index, _ in alone.values()) == sorted(set(range(n)) - bad)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_exact_shards_count_every_good_sample_once(world: int) -> None:
    for n in (5, 6, 7, 23):
        for bad in (set(), {1, 4}):
            counted: list[int] = []
            for rank in range(world):
                loader = make(Flaky(n, bad), 2, shards="exact", on_error="skip", rank=rank, world_size=world)
                assert len(loader) == -(-n // (2 * world))
                batches = list(loader)
                assert len(batches) == len(loader)
                for batch in batches:
                    assert batch._fields == ("value", "valid") and len(batch.value) == 2
                    assert batch.valid.dtype == torch.bool
                    counted += batch.value[batch.valid].tolist()
            assert sorted(counted) == sorted(set(range(n)) - bad)


def test_bad_samples_are_known_from_then_on(tmp_path: Path) -> None:
    source, report = Flaky(20, {3, 9}), tmp_path / "bad.jsonl"
    loader = make(source, on_error="skip", quarantine=report)
    values(loader)
    assert source.reads == 5 + 2, "a batch with a bad sample is read again, once"
    values(loader)
    assert source.reads == 5 + 2 + 5, "and not in later epochs"
    assert {bad.index for bad in loader.bad_samples} == {3, 9} and loader.stats()["bad_samples"] == 2
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert sorted(line["index"] for line in lines) == [3, 9]
    assert all(set(line) == {"index", "where", "cause", "when"} for line in lines)
    assert lines[0]["where"].startswith("record") and "no such luck" in lines[0]["cause"]


def test_the_quarantine_travels_with_the_state() -> None:
    loader = make(Flaky(20, {3, 9}), on_error="substitute")
    everything = values(loader) + values(loader)
    loader = make(Flaky(20, {3, 9}), on_error="substitute")
    iterator = iter(loader)
    given = [next(iterator)[0].tolist() for _ in range(3)]
    state = json.loads(json.dumps(loader.state_dict()))
    resumed = make(Flaky(20, {3, 9}), on_error="substitute")
    resumed.load_state_dict(state)
    assert resumed.state_dict()["bad"] == state["bad"]
    assert given + values(resumed) + values(resumed) == everything
    with pytest.raises(dalipipe.StateMismatchError, match="bad: saved"):
        resumed.load_state_dict({**state, "bad": [99]})
    with pytest.raises(dalipipe.StateMismatchError, match="skips: saved False, here True"):
        make(Flaky(20, set()), on_error="skip").load_state_dict(state)


def test_a_rotten_data_set_ends_the_epoch() -> None:
    loader = make(Flaky(1000, set(range(0, 1000, 4))), 50, on_error="skip", max_bad=0.1)
    with pytest.raises(faults.TooManyBadSamplesError, match=r"of \d+ samples are bad, more than max_bad=0.1 allows"):
        values(loader)
    assert loader.stats()["bad_samples"] < 60
    assert len(values(make(Flaky(1000, set(range(0, 1000, 12))), 50, on_error="skip", max_bad=0.1))) == 20
    with pytest.raises(faults.TooManyBadSamplesError):
        values(make(Flaky(5, set(range(5))), 2, on_error="substitute"))


def test_batches_before_a_bad_one_arrive() -> None:
    loader = make(Flaky(20, {17}), shuffle=False)
    iterator = iter(loader)
    assert [next(iterator)[0].tolist() for _ in range(4)] == [list(range(i, i + 4)) for i in (0, 4, 8, 12)]
    with pytest.raises(dalipipe.SampleError):
        next(iterator)


def test_a_file_that_cannot_be_written_costs_only_the_report(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="quarantine file cannot be written"):
        batches = values(make(Flaky(20, {3}), on_error="skip", quarantine=tmp_path / "none" / "bad.jsonl"))
    assert sum(map(len, batches)) == 19


# A folder of which one file in twenty is damaged ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def open_folder() -> Iterator[Path]:
    """A folder that other users may read: the tests of forbidden files give up being root."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture
def not_root() -> Iterator[None]:
    """Nobody may read what is forbidden; root may."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    yield
    os.seteuid(was)


@pytest.mark.parametrize("decoder", ["dali", "pillow"])
def test_a_damaged_folder_loses_no_good_sample(open_folder: Path, decoder: str, request: Any) -> None:
    root = open_folder / decoder
    damage = make_folder(root, 2000)
    source = dalipipe.ImageFolder(root)
    make_unreadable(damage)
    bad = {path for path, way in damage.items() if way in BAD}
    good = {i for i in range(2000) if source.describe(i) not in bad}
    assert set(damage.values()) == {*BAD, *GOOD_ODDITIES} and len(damage) == 100

    import nvidia.dali.fn  # noqa: F401 - loaded while everything may still be read

    request.getfixturevalue("not_root")
    loader = make(source, 64, policy=POLICY, decoder=decoder, on_error="skip", max_bad=0.1)
    rss = []
    for _ in range(12):
        batches = [batch.indices for batch in loader]
        rss.append(psutil.Process().memory_info().rss / 2**20)
        assert len(batches) == len(loader) == 32
        seen = np.concatenate(batches).tolist()
        assert len(seen) == len(set(seen)) and set(seen) == good
    assert rss[-1] - rss[-5] < 4, f"memory grows: {rss} MiB"
    assert {found.where for found in loader.bad_samples} == bad
    causes = {damage[found.where]: found.cause for found in loader.bad_samples}
    for way, word in {
        "truncated": "truncated",
        "wrong magic": "not a picture: it starts with b'RIFX",
        "zero bytes": "empty",
        "html": "not a picture: it starts with b'<!DOCTYPE",
        "header flip": "cannot be decoded",
        "scan flip": "marker within its picture data",
        "vanished": "No such file",
        "forbidden": "Permission denied",
        "bomb": "decompression bomb",
    }.items():
        assert word in causes[way], way


def test_pixels_beside_a_damaged_file_are_the_same(tmp_path: Path) -> None:
    damage = make_folder(tmp_path / "images", 120, every=12)
    source = dalipipe.ImageFolder(tmp_path / "images")
    bad = {i for i in range(120) if damage.get(source.describe(i)) in BAD and "v" not in damage[source.describe(i)][:1]}
    bad -= {i for i in bad if damage[source.describe(i)] in ("vanished", "forbidden")}

    def by_sample(loader: DataLoader) -> dict[int, torch.Tensor]:
        found = {}
        for batch in loader:
            for row, index in enumerate(batch.indices.tolist()):
                assert index not in found or (found[index] == batch.image[row]).all()
                found[index] = batch.image[row].clone()
        return found

    kw: dict[str, Any] = {"policy": POLICY, "num_workers": 2}
    alone = by_sample(make(source, 1, on_error="skip", **kw))
    assert alone.keys() >= set(range(120)) - bad
    for how in ("skip", "substitute"):
        together = by_sample(make(source, 16, on_error=how, **kw))
        assert together.keys() == set(range(120)) - bad
        assert all((together[i] == alone[i]).all() for i in together)


def test_the_same_over_s3_with_a_failing_network(tmp_path: Path) -> None:
    """2,000 objects, one in twenty damaged, one request in eleven spoilt: errors, hangs, cut and short answers."""
    pytest.importorskip("obstore")
    pytest.importorskip("moto")
    from s3 import Faults, faulty, s3_bucket

    damage = make_folder(tmp_path, 2000)
    ways = {os.path.relpath(path, tmp_path): way for path, way in damage.items() if way != "forbidden"}
    objects = {os.path.relpath(path, tmp_path): path.read_bytes() for path in sorted(tmp_path.rglob("*.jpg"))}
    with s3_bucket(objects) as bucket:
        network = Faults(error=0.04, hang=0.004, reset=0.02, short=0.03, seed=1, in_a_row=3)
        with faulty(bucket.address, network) as proxy:
            retry = dalipipe.Retry(attempts=5, base_s=0.01, max_s=0.1, timeout_s=1.0)
            storage = dalipipe.Storage(options=bucket.options(proxy), retry=retry)
            source = dalipipe.ImageFolder(bucket.url(), storage=storage)
            assert len(source) == 2000
            import moto.s3.models  # noqa: F401 - what vanishes, vanishes after the listing
            from moto.core import DEFAULT_ACCOUNT_ID
            from moto.s3.models import s3_backends

            for name, way in ways.items():
                if way == "vanished":
                    s3_backends[DEFAULT_ACCOUNT_ID]["aws"].delete_object(bucket.name, name)
            bad = {bucket.url(name) for name, way in ways.items() if way in BAD}
            good = {i for i in range(2000) if source.describe(i) not in bad}
            loader = make(source, 64, policy=POLICY, num_workers=4, on_error="skip", max_bad=0.1)
            batches = [batch.indices for batch in loader]
            spoilt = sum(request.fault is not None for request in proxy.requests)
            loader.close()
    assert len(batches) == len(loader) == 32 and spoilt > 100
    seen = np.concatenate(batches).tolist()
    assert len(seen) == len(set(seen)) and set(seen) == good
    assert {found.where for found in loader.bad_samples} == bad
    causes = {ways[found.where.removeprefix(bucket.url())]: found.cause for found in loader.bad_samples}
    assert "404" in causes["vanished"] or "No such" in causes["vanished"]


@pytest.mark.cuda
@pytest.mark.parametrize("how", ["skip", "substitute"])
def test_damaged_files_on_cuda(tmp_path: Path, how: str) -> None:
    damage = make_folder(tmp_path / "images", 400)
    source = dalipipe.ImageFolder(tmp_path / "images")
    bad = {path for path, way in damage.items() if way in BAD and way not in ("vanished", "forbidden")}
    good = {i for i in range(400) if source.describe(i) not in bad}
    for _ in range(2):
        loader = make(source, 32, policy=POLICY, device="cuda", on_error=how)
        seen = np.concatenate([batch.indices for batch in loader]).tolist()
        assert set(seen) == good and (how == "substitute" or len(seen) == len(good))
        assert {found.where for found in loader.bad_samples} == bad


@pytest.mark.cuda
def test_exact_shards_on_cuda() -> None:
    for batch in make(Flaky(23, {4}), 5, shards="exact", on_error="skip", device="cuda"):
        assert batch.value.is_cuda and batch.valid.is_cuda and batch.valid.dtype == torch.bool
