"""What the sources cost: shards beside a folder, the whole contract beside none, and a million files from the start.

pytest benchmarks/test_sources.py --data=DIR
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import peers
import pytest
from rounds import interleave, ratio, write

import dalipipe

BATCH = 128
SHARDS = 3


def _shards(root: Path, target: Path) -> str:
    """The folder's pictures in tar shards, WebDataset's way."""
    source = dalipipe.ImageFolder(root)
    for shard in range(SHARDS):
        with tarfile.open(target / f"train-{shard}.tar", "w") as tar:
            for i in range(shard * len(source) // SHARDS, (shard + 1) * len(source) // SHARDS):
                data, label = Path(source.paths[i]).read_bytes(), str(source.labels[i]).encode()
                for name, body in ((f"{i:06d}.jpg", data), (f"{i:06d}.cls", label)):
                    member = tarfile.TarInfo(name)
                    member.size = len(body)
                    tar.addfile(member, io.BytesIO(body))
    return str(target / f"train-{{0..{SHARDS - 1}}}.tar")


def test_sources(
    photographs: Path, pytestconfig: pytest.Config, benchmark: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    workers = len(os.sched_getaffinity(0))
    # Files of their own, as the shards have bytes of their own: many names of few files would stay in the processor's
    # cache, and the folder would look better than it is.
    copied = tmp_path_factory.mktemp("copied") / "photographs"
    shutil.copytree(photographs, copied)
    folder = dalipipe.ImageFolder(copied)
    shards = dalipipe.TarShards(_shards(copied, tmp_path_factory.mktemp("shards")))

    def loader(source: Any, **kw: Any) -> dalipipe.DataLoader:
        settings = {"shuffle": True, "drop_last": True, "num_workers": workers, "seed": 0, "device": "cpu", **kw}
        return dalipipe.DataLoader(source, BATCH, policy=dalipipe.recipes.imagenet_train(peers.SIZE), **settings)

    quarantine = tmp_path_factory.mktemp("report") / "bad.jsonl"
    loaders = {
        "folder": loader(folder),
        "folder, faults handled": loader(folder, on_error="substitute", quarantine=quarantine, timeout=60),
        "tar shards": loader(shards),
        "tar shards, block-shuffled": loader(shards, shuffle=False, sampler=dalipipe.orders.BlockShuffled(64)),
    }
    for name, batch in {name: next(iter(one)) for name, one in loaders.items()}.items():
        if name == "tar shards":
            continue
        for row, index in enumerate(batch.indices.tolist()):
            assert int(batch.label[row]) == int(folder.labels[index]), name
    by_sample = {
        i: image for batch in loader(folder) for i, image in zip(batch.indices.tolist(), batch.image, strict=True)
    }
    for batch in loader(shards):
        assert all((by_sample[i] == image).all() for i, image in zip(batch.indices.tolist(), batch.image, strict=True))
    del by_sample
    contenders = {name: peers.epochs(one) for name, one in loaders.items()}
    timings = benchmark.pedantic(
        interleave, args=(contenders, pytestconfig.getoption("--rounds")), rounds=1, iterations=1
    )
    ratios = {name: round(ratio(timings, name, "folder"), 3) for name in contenders if name != "folder"}
    path = write(
        "sources_cpu",
        {
            "what": "decode + RandomResizedCrop 224 + flip + normalise → float32 [N,3,224,224], batches of 128",
            "images": "3,000 files: 24 copies of 125 ImageNet photographs, in the page cache",
            "workers": workers,
            "contenders": {name: timing.summary() for name, timing in timings.items()},
            "over_folder": ratios,
        },
        pytestconfig.getoption("--results"),
    )
    print(f"\n{ratios}\n→ {path}")


FIRST_BATCH = """
import json, sys, time
begin = time.perf_counter()
import torch, dalipipe  # every training imports torch; what comes after it is ours
imported = time.perf_counter()
source = dalipipe.ImageFolder(sys.argv[1])
indexed = time.perf_counter()
policy = dalipipe.recipes.imagenet_train(224)
loader = dalipipe.DataLoader(source, 128, shuffle=True, seed=0, device="cpu", policy=policy)
made = time.perf_counter()
batch = next(iter(loader))
first = time.perf_counter()
state = loader.state_dict()
done = time.perf_counter()
assert len(source) == 1_000_000 and batch.image.shape == (128, 3, 224, 224)
print(json.dumps({"import_s": imported - begin, "index_s": indexed - imported, "loader_s": made - indexed,
                  "first_batch_s": first - made, "state_s": done - first, "index_to_first_batch_s": first - imported}))
"""


def test_a_million_files(
    photographs: Path, pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root, cache = tmp_path_factory.mktemp("million"), tmp_path_factory.mktemp("cache")
    files = sorted(path for path in photographs.rglob("*.*") if path.is_file())
    originals = list(
        {path.stat().st_ino: path.read_bytes() for path in files}.values()
    )  # a file has 65,000 names at most
    for i in range(1000):
        folder = root / f"class_{i:04d}"
        folder.mkdir()
        for k in range(1000):
            if i % 60 == 0 and k < len(originals):
                (folder / f"{k:04d}.jpg").write_bytes(originals[k])
            else:
                os.link(root / f"class_{i // 60 * 60:04d}" / f"{k % len(originals):04d}.jpg", folder / f"{k:04d}.jpg")
    time.sleep(2.5)  # a folder that has only just changed is not trusted
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "DALIPIPE_CACHE": str(cache)}
    runs = []
    for _ in range(1 + pytestconfig.getoption("--rounds")):
        done = subprocess.run(
            [sys.executable, "-c", FIRST_BATCH, str(root)], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        runs.append({name: round(value, 3) for name, value in json.loads(done.stdout).items()})
        print(f"  {runs[-1]}", flush=True)
    later = {name: sorted(run[name] for run in runs[1:])[len(runs[1:]) // 2] for name in runs[0]}
    result = {
        "what": "1,000,000 files in 1,000 folders, a new process each time, batches of 128 photographs",
        "first_time": runs[0],
        "later": later,
        "runs": runs[1:],
    }
    path = write("million_cpu", result, pytestconfig.getoption("--results"))
    print(f"\n{later}\n→ {path}")
