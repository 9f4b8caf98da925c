"""In the manner of grain: the state before every batch, restored in new processes, gives the whole tail bit for bit.

A worker process makes the loaders of all ranks and prints, for each state that it is sent, what comes after it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from typing import Any

import numpy as np
import pytest
from conftest import picture
from PIL import Image

import dalipipe
from dalipipe.ops import image as ops

GLOBAL, EPOCHS, N = 12, 2, 47


def source(kind: str, root: str) -> Any:
    if kind == "folder":
        return dalipipe.ImageFolder(f"{root}/folder")
    if kind == "tar":
        return dalipipe.TarShards(f"{root}/shards-{{0..2}}.tar")
    return dalipipe.Arrays(np.load(f"{root}/images.npy", mmap_mode="r"), np.load(f"{root}/labels.npy"))


def loader(kind: str, root: str, world: int, rank: int, **kw: Any) -> dalipipe.DataLoader:
    policy = dalipipe.Policy(
        [
            ops.RandomResizedCrop(16),
            ops.Rotate(20, p=0.5),
            ops.Contrast(p=0.5),
            ops.RandomErasing(p=0.5),
            ops.Normalize(),
        ]
    )
    settings = {"shuffle": True, "seed": 11, "device": "cpu", "num_workers": 1 + rank % 2, "policy": policy, **kw}
    return dalipipe.DataLoader(source(kind, root), GLOBAL // world, rank=rank, world_size=world, **settings)


def tail(kind: str, root: str, world: int, state: Any, **kw: Any) -> list[str]:
    """Digests of the global batches from ``state`` to the end of the last epoch, put together from all ranks."""
    ranks = [loader(kind, root, world, rank, **kw) for rank in range(world)]
    for one in ranks:
        if state is not None:
            one.load_state_dict(state)
    out = []
    while ranks[0].state_dict()["epoch"] < EPOCHS:
        for parts in zip(*ranks, strict=True):
            digest = hashlib.blake2b(digest_size=12)
            for field in (0, 1):
                for part in parts:
                    digest.update(np.ascontiguousarray(part[field].numpy()).tobytes())
            out.append(digest.hexdigest())
    for one in ranks:
        one.close()
    return out


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("resume")
    files: list[bytes] = []
    for i in range(N):
        out = io.BytesIO()
        Image.fromarray(picture(20 + i % 9, 33 - i % 5, seed=i)).save(out, "JPEG", quality=80)
        files.append(out.getvalue())
        path = root / "folder" / f"class_{i % 3}" / f"{i:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[-1])
    for shard in range(3):
        with tarfile.open(root / f"shards-{shard}.tar", "w") as tar:
            for i in range(shard, N, 3):
                for name, body in ((f"{i:03d}.jpg", files[i]), (f"{i:03d}.cls", str(i % 3).encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(body)
                    tar.addfile(member, io.BytesIO(body))
    np.save(root / "images.npy", np.stack([picture(24, 28, seed=i) for i in range(N)]))
    np.save(root / "labels.npy", np.arange(N) % 5)
    return str(root)


def in_new_process(*jobs: Any) -> list[list[str]]:
    """The tail of every job, worked out by a process that has seen none of this one's loaders."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command, text = [sys.executable, __file__], json.dumps(jobs)
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", ["folder", "tar", "arrays"])
def test_state_before_every_batch_on_one_to_four_ranks(kind: str, data: str) -> None:
    everything = tail(kind, data, 1, None, drop_last=True)
    assert len(everything) == len(set(everything)) == EPOCHS * (N // GLOBAL)
    running = loader(kind, data, 1, 0, drop_last=True)
    states = [running.state_dict()]
    for _ in range(EPOCHS):
        for _batch in running:  # the next batches are in flight, and don't count
            states.append(running.state_dict())
    assert [state["samples"] for state in states[:5]] == [0, 12, 24, 0, 12]
    jobs = [(kind, data, world, state, {"drop_last": True}) for state in states for world in (1, 2, 3, 4)]
    for (_, _, world, state, _), got in zip(jobs, in_new_process(*jobs), strict=True):
        given = state["epoch"] * (N // GLOBAL) + state["samples"] // GLOBAL
        assert got == everything[given:], (world, state)


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_states_of_any_rank_with_padding_and_exact_shards(world: int, data: str) -> None:
    """Short last batches too: on the number of ranks that saved it."""
    for settings in ({}, {"shards": "exact"}, {"sampler": "repeated"}):
        ready = prepared(settings)
        everything = tail("arrays", data, world, None, **ready)
        ranks = [loader("arrays", data, world, rank, **ready) for rank in range(world)]
        states = []
        for _ in range(EPOCHS):
            for _batches in zip(*ranks, strict=True):
                mine = [one.state_dict() for one in ranks]
                assert all(state == mine[0] for state in mine), "every rank saves the same"
                states.append(mine[0])
        jobs = [("arrays", data, world, state, settings) for state in states]
        for given, got in enumerate(in_new_process(*jobs), 1):
            assert got == everything[given:]


def test_a_resume_of_a_resume_on_changing_numbers_of_ranks(data: str) -> None:
    everything = tail("folder", data, 1, None, drop_last=True)
    state, given = None, 0
    for world, steps in ((2, 2), (4, 1), (1, 3)):
        ranks = [loader("folder", data, world, rank, drop_last=True) for rank in range(world)]
        for one in ranks:
            if state is not None:
                one.load_state_dict(state)
        for _ in range(steps):
            for one in ranks:
                iterator = iter(one)
                next(iterator)
                one.load_state_dict(one.state_dict())  # even onto itself
        given, state = given + steps, ranks[0].state_dict()
        assert in_new_process(("folder", data, 3, state, {"drop_last": True})) == [everything[given:]]


def prepared(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as they come through JSON → as the loader takes them."""
    if settings.get("sampler") == "repeated":
        return {"sampler": dalipipe.orders.Repeated(3), "shuffle": False}
    return settings


if __name__ == "__main__":
    jobs = json.loads(sys.stdin.read())
    json.dump([tail(*job, **prepared(settings)) for *job, settings in jobs], sys.stdout)
