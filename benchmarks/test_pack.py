"""Packed data sets beside plain files and the loaders people use: ratios within one run.

    FFCV_PYTHON=/path/to/a/python/with/ffcv pytest benchmarks/test_pack.py --data=DIR

Outputs are verified before anything is timed. Two workers or threads each; on a machine of more cores, as many as it
has. FFCV takes part where it is installed.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ffcv_peer
import numpy as np
import peers
import pytest
import torch
from rounds import interleave, ratio, write

import dalipipe
from dalipipe import native
from dalipipe.ops import image as ops

pytestmark = pytest.mark.timeout(0)

BATCH = 128
LONGEST = 256  # px of the pictures that are stored as pixels
GOALS = {
    "tiled over plain JPEGs by DALI": 1.3,  # which was the decoder when the goal was set
    "tiled over the best torch DataLoader": 2.2,
    "raw over the best torch DataLoader": 8.0,
    "raw over FFCV's raw": 3.0,
}


@pytest.fixture(scope="session")
def packs(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The photographs, packed: tiled, and as pixels of at most 256 px."""
    folder = tmp_path_factory.mktemp("packs")
    source = dalipipe.ImageFolder(photographs)
    dalipipe.pack(source, folder / "tiled", format="tiled")
    small = dalipipe.Policy([ops.Resize(None, max_size=LONGEST)])
    dalipipe.pack(source, folder / "raw", policy=small, format="raw")
    return {"tiled": folder / "tiled", "raw": folder / "raw"}


def loader(source: Any, workers: int, **kw: Any) -> dalipipe.DataLoader:
    """RandomResizedCrop 224, flip, normalise."""
    policy = dalipipe.recipes.imagenet_train(peers.SIZE)
    if source.front is not None:
        policy = dalipipe.Policy([*source.front.ops, *policy.ops])
    return dalipipe.DataLoader(
        source, BATCH, shuffle=True, num_workers=workers, policy=policy, device="cpu", seed=0, **kw
    )


def verify(photographs: Path, packs: dict[str, Path], workers: int) -> None:
    """All of dalipipe's ways give the same bits; those of pixels as the same policy online."""
    plain = dalipipe.ImageFolder(photographs)

    def first(source: Any, **kw: Any) -> torch.Tensor:
        made = loader(source, workers, **kw)
        image = next(iter(made)).image.clone()
        made.close()
        return image

    expected = first(plain, decoder="pillow")
    for decoder in ("native", "dali"):
        for source in (plain, dalipipe.Packed(packs["tiled"])):
            assert torch.equal(first(source, decoder=decoder), expected), (source, decoder)
    policy = dalipipe.Policy(
        [ops.Resize(None, max_size=LONGEST), *dalipipe.recipes.imagenet_train(peers.SIZE).ops], stored_after=1
    )
    online = dalipipe.DataLoader(plain, BATCH, shuffle=True, policy=policy, device="cpu", seed=0)
    assert torch.equal(first(dalipipe.Packed(packs["raw"])), next(iter(online)).image)
    online.close()


def test_packs(
    photographs: Path, packs: dict[str, Path], pytestconfig: pytest.Config, benchmark: Any, tmp_path: Path
) -> None:
    workers = len(os.sched_getaffinity(0))
    root = str(photographs)
    verify(photographs, packs, workers)
    plain, tiled, raw = dalipipe.ImageFolder(root), dalipipe.Packed(packs["tiled"]), dalipipe.Packed(packs["raw"])
    contenders: dict[str, Callable[[], int]] = {
        "dalipipe, raw 256 px": peers.epochs(loader(raw, workers)),
        "dalipipe, tiled": peers.epochs(loader(tiled, workers)),
        "dalipipe, tiled, cut for DALI": peers.epochs(loader(tiled, workers, decoder="dali")),
        "dalipipe, plain JPEGs": peers.epochs(loader(plain, workers)),
        "dalipipe, plain JPEGs, by DALI": peers.epochs(loader(plain, workers, decoder="dali")),
        "torchvision v2, DataLoader": peers.torchvision_v2(root, BATCH, workers, batched_normalize=False),
        "torchvision v2, DataLoader, normalised by batch": peers.torchvision_v2(
            root, BATCH, workers, batched_normalize=True
        ),
    }
    if ffcv_peer.available():
        contenders["FFCV, raw 256 px"] = ffcv_peer.epochs(root, tmp_path, peers.SIZE, BATCH, workers, "raw", LONGEST)
        contenders["FFCV, JPEG"] = ffcv_peer.epochs(root, tmp_path, peers.SIZE, BATCH, workers, "jpg")
    timings = benchmark.pedantic(
        interleave, args=(contenders, pytestconfig.getoption("--rounds")), rounds=1, iterations=1
    )
    best_torch = max((n for n in contenders if n.startswith("torch")), key=lambda n: np.median(timings[n].rates))
    ratios = {
        "tiled over plain JPEGs by DALI": ratio(timings, "dalipipe, tiled", "dalipipe, plain JPEGs, by DALI"),
        "tiled over plain JPEGs, both decoded natively": ratio(timings, "dalipipe, tiled", "dalipipe, plain JPEGs"),
        "tiled over plain JPEGs, both decoded by DALI": ratio(
            timings, "dalipipe, tiled, cut for DALI", "dalipipe, plain JPEGs, by DALI"
        ),
        "tiled over the best torch DataLoader": ratio(timings, "dalipipe, tiled", best_torch),
        "raw over the best torch DataLoader": ratio(timings, "dalipipe, raw 256 px", best_torch),
    }
    if "FFCV, raw 256 px" in contenders:
        ratios["raw over FFCV's raw"] = ratio(timings, "dalipipe, raw 256 px", "FFCV, raw 256 px")
    result = {
        "what": "decode + RandomResizedCrop 224 + flip + normalise → float32 [N,3,224,224], batches of 128",
        "images": "3,000 pictures: 125 ImageNet photographs, 24 times each, in the page cache",
        "workers": workers,
        "best_torch": best_torch,
        "ffcv": "FFCV, raw 256 px" in contenders,
        "contenders": {name: timing.summary() for name, timing in timings.items()},
        "ratios": {name: round(value, 3) for name, value in ratios.items()},
        "goals": GOALS,
    }
    benchmark.extra_info.update(result["ratios"])
    path = write("pack_cpu", result, pytestconfig.getoption("--results"))
    print(f"\n{result['ratios']}\n→ {path}")


def test_transcoding(photographs: Path, pytestconfig: pytest.Config) -> None:
    """Bytes of tiled files, and the transcoder's rate on one core beside Pillow's decoding of the same files."""
    import io

    from PIL import Image

    files = [path.read_bytes() for path in sorted(photographs.rglob("*.jpg")) if path.stem.endswith("_0")]
    files = files or [path.read_bytes() for path in sorted(photographs.rglob("*.jpg"))[:125]]
    starts = np.cumsum([0, *map(len, files)])
    arena = np.frombuffer(b"".join(files), np.uint8)
    made = native.tile_jpegs(arena, starts)
    bytes_in = bytes_out = 0
    for file, (data, reason) in zip(files, made, strict=True):
        assert data is not None, reason
        bytes_in, bytes_out = bytes_in + len(file), bytes_out + len(data)
        a, b = (np.asarray(Image.open(io.BytesIO(each)).convert("RGB")) for each in (file, data))
        assert (a == b).all()

    def seconds(run: Callable[[], object]) -> float:
        begin = time.process_time()
        run()
        return time.process_time() - begin

    def decode() -> None:
        for file in files:
            Image.open(io.BytesIO(file)).convert("RGB")

    regions = np.array([[0, 0, *Image.open(io.BytesIO(file)).size[::-1]] for file in files])
    memory = np.zeros(int((regions[:, 2] * regions[:, 3] * 3).max()), np.uint8)
    address = np.full(len(files), memory.ctypes.data, np.uint64)
    ours: list[float] = []
    pillow: list[float] = []
    reading: list[float] = []
    for _ in range(2 * pytestconfig.getoption("--rounds")):
        ours.append(seconds(lambda: native.tile_jpegs(arena, starts)))
        pillow.append(seconds(decode))
        reading.append(seconds(lambda: native.read_jpegs(arena, starts, regions, address)))
    result = {
        "what": f"{len(files)} photographs, {bytes_in / 1e6:.1f} MB, one core",
        "bytes_ratio": round(bytes_out / bytes_in, 4),
        "mb_per_s": round(bytes_in / 1e6 / statistics.median(ours), 1),
        "mb_per_s_best": round(bytes_in / 1e6 / min(ours), 1),
        "over_pillow_decoding": round(statistics.median(p / o for p, o in zip(pillow, ours, strict=True)), 3),
        "decoding_over_pillow": round(statistics.median(p / r for p, r in zip(pillow, reading, strict=True)), 3),
        "pillow_mb_per_s": round(bytes_in / 1e6 / statistics.median(pillow), 1),
        "goals": {"bytes_ratio": 1.01, "mb_per_s": 150},
    }
    path = write("transcode_cpu", result, pytestconfig.getoption("--results"))
    print(f"\n{result}\n→ {path}")
