"""The CUDA decoder of JPEG tiles: verified, then timed beside those that people use; its rooflines; training with it.

    FAIL_WITHOUT_CUDA=1 pytest benchmarks/test_decode.py --data=DIR

Writes results/decode_gpu.json anew after every part, so that whatever becomes of one, the others' results are there.
A peer or tool that is not there, or fails, is recorded with the reason, and so is a part that does, which fails the
test at its end. `--parts` measures some anew, among the results that are there; `--dry-run` tries all of it where
there is no GPU.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import decode_peers
import numpy as np
import peers
import pytest
import torch
from decode_bench import Bench, Scale
from decode_peers import Peer
from decode_roofline import roofline
from devices import Device
from limited import limited
from rounds import Turn

import dalipipe
from dalipipe import native
from dalipipe.decoders.base import Decoder, inspect
from dalipipe.decoders.device import DeviceDecoder, TileDecoder
from dalipipe.ops import image as ops
from dalipipe.records import Encoded, Pictures, Tiles

pytestmark = pytest.mark.timeout(0)

ROOT = Path(__file__).resolve().parent.parent
MOST_S = 480.0  # for all of it: the sanitizer, which comes last, gets what is left
PEER_LEVELS = 4.0
"""Of 255, that a peer's pixels may be off in the mean: devices round, and upsample chroma, in ways of their own."""


def nobody() -> Decoder:
    raise AssertionError("all of these are JPEGs of tiles")


def arrays(pictures: Pictures) -> list[np.ndarray]:
    """uint8 [H, W, 3] of each."""
    if not pictures.on_cuda:
        return [pictures[row] for row in range(len(pictures))]
    memory = pictures.owner.cpu().numpy()
    starts = pictures.address.astype(np.int64) - pictures.owner.data_ptr()
    found = []
    for start, row_bytes, (h, w) in zip(
        starts.tolist(), pictures.row_bytes.tolist(), pictures.size_px.tolist(), strict=True
    ):
        found.append(memory[start : start + h * row_bytes].reshape(h, row_bytes)[:, : 3 * w].reshape(h, w, 3))
    return found


def on_host(files: Encoded, roi: np.ndarray, threads: int) -> list[np.ndarray]:
    """What the CPU twin makes of them."""
    out = [np.empty((h, w, 3), np.uint8) for h, w in roi[:, 2:].tolist()]
    address = np.array([array.ctypes.data for array in out], np.uint64)
    problems = native.read_jpegs(files.arena, files.starts, roi, address, threads=threads)
    assert not any(problems), problems
    return out


# --- the parts ------------------------------------------------------------------------------------------------------


def verify_decoder(bench: Bench, found: dict[str, Any]) -> None:
    """To the bit what the CPU twin makes of them: every photograph, whole and in random crops, from both memories."""
    rows = np.array(list({bench.plain[row].tobytes(): row for row in range(len(bench.order))}.values()))
    files, size = bench.tiled.of(rows), bench.size[rows]
    random = np.random.default_rng(1)
    corner = random.integers(0, size)
    anywhere = np.concatenate([corner, random.integers(1, size - corner + 1)], axis=1)
    tiles = Tiles(bench.resident.address[rows], bench.resident.shape[rows], bench.resident.owner)
    headers, _ = inspect(files, threads=bench.cores)
    from_host = DeviceDecoder(bench.device.queue(), nobody, threads=bench.cores)
    from_device = TileDecoder(bench.device.queue(), threads=bench.cores)
    with contextlib.closing(from_host), contextlib.closing(from_device):
        for roi in (bench.whole[rows], bench.crops[rows], anywhere):
            expected = on_host(files, roi, bench.cores)
            from_host.submit(files, headers, roi)
            pictures, errors = from_host.collect()
            from_device.submit(tiles, roi)
            again, damaged = from_device.collect()
            assert not errors and not len(damaged), (errors, damaged)
            for number, each in enumerate(zip(expected, arrays(pictures), arrays(again), strict=True)):
                for name, got in zip(("host", "device"), each[1:], strict=True):
                    assert np.array_equal(each[0], got), f"from the {name}'s memory: {rows[number]}, {roi[number]}"
    found["photographs"], found["regions_of_each"] = len(rows), 3


def verify_loader(bench: Bench, found: dict[str, Any]) -> None:
    """Its uint8 batches, with the device's decoder, are the host's by Pillow, to the bit, in two epochs."""
    policy = dalipipe.Policy([ops.RandomResizedCrop(peers.SIZE), ops.HorizontalFlip()])

    def loader(device: torch.device, **options: Any) -> dalipipe.DataLoader:
        options |= {"policy": policy, "device": device, "dtype": torch.uint8, "seed": 0, "autotune": False}
        return dalipipe.DataLoader(bench.pack, bench.scale.batches[0], shuffle=True, **options)

    expected = loader(torch.device("cpu"), decoder="pillow")
    with_cache = loader(bench.device.device, decoder="native", **bench.cache)
    ours = {"from host memory": loader(bench.device.device, decoder="native"), "kept on the device": with_cache}
    for epoch in range(2):
        for batches in zip(expected, *ours.values(), strict=True):
            for name, got in zip(ours, batches[1:], strict=True):
                assert torch.equal(batches[0].image, got.image.cpu()), f"epoch {epoch}, {name}"
    kept = with_cache.stats()
    assert kept["cached_samples"] == len(bench.pack), kept
    assert kept["cached_bytes"] < 3 * bench.size.prod(axis=1).sum(), "pixels are kept, and not JPEGs"
    found["batches"] = 2 * len(expected)
    for each in (expected, *ours.values()):
        each.close()


def decoding(bench: Bench, whole: bool, found: dict[str, Any]) -> None:
    """Files in host memory, and ours also on the device, → pixels on the device; a second's pictures."""
    scale, device = bench.scale, bench.device.device
    roi = bench.whole if whole else bench.crops
    contenders: dict[str, Turn] = {}
    with contextlib.ExitStack() as stack:
        for batch in scale.batches:
            contenders[f"dalipipe, from host memory, {batch}"] = ours_from_host(bench, roi, batch, stack)
            contenders[f"dalipipe, kept on the device, {batch}"] = ours_from_device(bench, roi, batch, stack)
        batch = scale.batches[0]
        batches = bench.of_peers(None if whole else roi, batch)
        operators = ("image",) if whole else ("image_slice", "image_random_crop")
        settings = [
            {"operator": operator, "threads": threads, "hw_decoder_load": load}
            for operator, threads, load in itertools.product(operators, scale.threads, scale.loads)
        ]
        makers: dict[str, tuple[list[dict[str, Any]], Callable[..., Peer]]] = {
            "DALI": (settings, lambda **setting: decode_peers.dali(batches, device, **setting)),
            "nvImageCodec": (
                [
                    {"backends": backends, "threads": threads}
                    for backends, threads in itertools.product(decode_peers.NVIMGCODEC_BACKENDS, scale.threads[-1:])
                ],
                lambda **setting: decode_peers.nvimgcodec(batches, device, **setting),
            ),
            "torchvision decode_jpeg": ([{}], lambda: decode_peers.torchvision(batches, device)),
        }
        found["swept"] = {}
        first = Encoded(bench.tiled.arena, bench.tiled.starts[: batch + 1])
        expected = on_host(first, roi[:batch], bench.cores)

        def turn(make: Callable[..., Peer], **setting: Any) -> Callable[[], tuple[int, float]]:
            peer = make(**setting)
            check(peer, expected)
            return bench.endless(peer.run, batch, peer.ready)

        for name, (settings, make) in makers.items():
            tried, best = bench.sweep(name, settings, partial(turn, make))
            found["swept"][name] = {"tried": tried, "best": best}
            if best is not None:
                bench.enter(contenders, name, partial(turn, make, **best))
            bench.save()
        bench.compare(contenders, found)


def ours_from_host(bench: Bench, roi: np.ndarray, batch: int, stack: contextlib.ExitStack) -> Callable[[], int]:
    decoder = DeviceDecoder(bench.device.queue(), nobody, threads=bench.cores)
    stack.callback(decoder.close)
    tiled = bench.tiled
    batches = itertools.cycle(
        (Encoded(tiled.arena, tiled.starts[rows.start : rows.stop + 1]), roi[rows]) for rows in bench.slices(batch)
    )

    def submit() -> None:
        encoded, regions = next(batches)
        headers, _ = inspect(encoded, threads=bench.cores)
        decoder.submit(encoded, headers, regions)

    def collect() -> None:
        _, errors = decoder.collect()
        assert not errors, errors

    return bench.pipelined(submit, collect, batch)


def ours_from_device(bench: Bench, roi: np.ndarray, batch: int, stack: contextlib.ExitStack) -> Callable[[], int]:
    decoder = TileDecoder(bench.device.queue(), threads=bench.cores)
    stack.callback(decoder.close)
    tiles = bench.resident
    batches = itertools.cycle(
        (Tiles(tiles.address[rows], tiles.shape[rows], tiles.owner), roi[rows]) for rows in bench.slices(batch)
    )

    def collect() -> None:
        _, damaged = decoder.collect()
        assert not len(damaged), damaged

    return bench.pipelined(lambda: decoder.submit(*next(batches)), collect, batch)


def check(peer: Peer, expected: list[np.ndarray]) -> None:
    """Its first batch are the pictures that were asked for, within a few levels."""
    got = peer.arrays(peer.run())
    assert len(got) == len(expected)
    if peer.exact:
        for a, b in zip(got, expected, strict=True):
            assert a.shape == b.shape, f"a region of {a.shape}, and not of {b.shape}"
            off = float(np.abs(a.astype(np.int16) - b).mean())
            assert off <= PEER_LEVELS, f"pixels are {off:.1f} levels off"


def end_to_end(bench: Bench, found: dict[str, Any]) -> None:
    """Files → decoded, cropped to 224 px, flipped, normalised, on the device: bfloat16 NHWC, or a peer's nearest."""
    scale, device = bench.scale, bench.device.device
    contenders: dict[str, Turn] = {}
    with contextlib.ExitStack() as stack:
        fill_cache(bench, stack)
        for batch in scale.batches:
            for name, options in (("from files", {}), ("kept on the device", bench.cache)):
                loader = bench.loader(batch, **options)
                stack.callback(loader.close)
                contenders[f"dalipipe, {name}, {batch}"] = bench.of_loader(loader)
        settings = [
            {"batch_size": batch, "threads": threads, "hw_decoder_load": load}
            for batch, threads, load in itertools.product(scale.batches, scale.threads[-1:], scale.loads)
        ]

        def dali(batch_size: int, **setting: Any) -> Callable[[], tuple[int, float]]:
            run = decode_peers.dali_end_to_end(str(bench.root), batch_size, device, **setting)
            return bench.endless(run, batch_size, decode_peers.DALI_READY)

        tried, best = bench.sweep("DALI", settings, dali)
        found["swept"] = {"DALI": {"tried": tried, "best": best}}
        bench.save()
        if best is not None:
            bench.enter(contenders, "DALI", lambda: dali(**best))
        batch = scale.batches[0]
        batches = bench.of_peers(None, batch)
        bench.enter(
            contenders,
            "torchvision on the device",
            lambda: bench.endless(decode_peers.torchvision_end_to_end(batches, device), batch),
        )
        # Its workers make batches each by itself: this many keep them busy for most of an epoch.
        samples = batch if bench.device.dry_run else scale.worker_batches * bench.cores * batch
        options = {"batched_normalize": True, "device": str(device), "samples": samples}
        bench.enter(
            contenders,
            "torchvision v2, DataLoader",
            lambda: peers.torchvision_v2(str(bench.root), batch, bench.cores, **options),
        )
        bench.compare(contenders, found)
    if found["best"] is not None:
        bench.met("images/s, end to end", found["contenders"][found["best"]]["per_s"])
        if "ratios" in found:
            bench.met("times the best peer, end to end", found["ratios"][found["best"]])


def fill_cache(bench: Bench, stack: contextlib.ExitStack) -> None:
    """What the other loaders with these options then find: a process has it once, as long as one of them is open."""
    policy = dalipipe.recipes.imagenet_train(peers.SIZE)
    options = {"policy": policy, "device": bench.device.device, "seed": 0, **bench.cache}
    loader = dalipipe.DataLoader(bench.pack, bench.scale.batches[0], **options)
    stack.callback(loader.close)
    for _ in loader:
        pass
    kept = loader.stats()["cached_samples"]
    assert kept == len(bench.pack), f"{kept} of {len(bench.pack)} samples are kept"


def training(bench: Bench, found: dict[str, Any]) -> None:
    """Steps on a batch that lies there, and on those of a loader."""
    from torchvision.models import resnet18

    device, batch = bench.device, bench.scale.batches[0]
    model = resnet18().to(device.device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        with torch.autocast(device.device.type, torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    synthetic = torch.randn(batch, 3, peers.SIZE, peers.SIZE, device=device.device, dtype=torch.bfloat16)
    resident = synthetic.contiguous(memory_format=torch.channels_last), torch.arange(batch, device=device.device) % 10

    def epoch(loader: Any) -> Any:
        return contextlib.closing(iter(loader))

    arms: dict[str, Callable[[], Any]] = {"synthetic": lambda: contextlib.nullcontext(itertools.repeat(resident))}
    with contextlib.ExitStack() as stack, torch.backends.cudnn.flags(enabled=True, benchmark=True):
        fill_cache(bench, stack)
        for name, options in (("from host memory", {}), ("kept on the device", bench.cache)):
            loader = bench.loader(batch, **options)
            stack.callback(loader.close)
            arms[name] = partial(epoch, loader)
        step(*resident)
        steps: dict[str, list[float]] = {name: [] for name in arms}  # a round's median
        waits: dict[str, list[float]] = {name: [] for name in arms}  # a round's sum, and that of the steps
        sums: dict[str, list[float]] = {name: [] for name in arms}
        for _ in range(bench.device.rounds):
            for name, arm in arms.items():
                with arm() as batches:
                    timed = step_times(bench, batches, step)
                steps[name].append(statistics.median(whole for whole, _ in timed))
                waits[name].append(sum(waited for _, waited in timed))
                sums[name].append(sum(whole for whole, _ in timed))
    found["what"] = f"ResNet-18, {peers.SIZE} px, batches of {batch}, bfloat16 by autocast, channels_last, SGD"
    found["batch"] = batch
    for name in arms:
        over = statistics.median(a / b for a, b in zip(steps[name], steps["synthetic"], strict=True))
        stall = sum(waits[name]) / sum(sums[name])
        found[name] = {
            "step_ms": round(1e3 * statistics.median(steps[name]), 3),
            "over_synthetic": round(over, 4),
            "stall": round(stall, 5),
        }
        if name != "synthetic":
            bench.met(f"data stall, {name}", stall)
            bench.met(f"step over synthetic, {name}", over)


def step_times(bench: Bench, batches: Iterator[Any], step: Callable[..., None]) -> list[tuple[float, float]]:
    """Seconds of each step, and of these those in which it stood and waited for its batch. The first steps, in which
    a loader starts, do not count.
    """
    times = []
    starting = min(5, bench.scale.steps)
    for number in range(starting + bench.scale.steps):
        begin = time.perf_counter()
        images, labels = next(batches)
        got = time.perf_counter()
        step(images, labels)
        bench.device.finish()
        if number >= starting:
            times.append((time.perf_counter() - begin, got - begin))
    return times


def sanitizer(bench: Bench, found: dict[str, Any]) -> None:
    """The decoder's tests of damage and of regions on the device, under compute-sanitizer."""
    tests = ["-m", "pytest", "tests/test_device_decoder.py", "-m", "cuda", "-k", "damage or region", "-q", "-x"]
    command = [sys.executable, *tests, "-p", "no:cacheprovider"]
    tool = find_sanitizer()
    if bench.device.dry_run:
        command.append("--collect-only")
    elif tool is None:
        bench.absent("compute-sanitizer", "not in PATH, CUDA_HOME/bin or /usr/local/cuda/bin")
        return
    checks = ["memcheck", "racecheck"][: 1 if bench.device.dry_run else None]
    for number, check in enumerate(checks):
        left_s = (MOST_S - (time.perf_counter() - bench.began)) / (len(checks) - number)
        under = [] if tool is None or bench.device.dry_run else [tool, "--tool", check, "--error-exitcode", "86"]
        found[check] = limited([*under, *command], max(left_s, 30.0))
        bench.save()
    # What a limit stopped has not failed: how far it came is in its last lines.
    bad = [check for check, each in found.items() if each["status"] not in (0, None)]
    assert not bad, bad


def find_sanitizer() -> str | None:
    folders = [Path(home) / "bin" for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda") if home]
    return shutil.which("compute-sanitizer", path=os.pathsep.join([os.environ.get("PATH", ""), *map(str, folders)]))


# --- all of it ------------------------------------------------------------------------------------------------------


def verify(bench: Bench, found: dict[str, Any]) -> None:
    verify_decoder(bench, found)
    verify_loader(bench, found)


PARTS: dict[str, Callable[[Bench, dict[str, Any]], None]] = {
    "verified": verify,
    "decode_whole": lambda bench, found: decoding(bench, True, found),
    "decode_crops": lambda bench, found: decoding(bench, False, found),
    "end_to_end": end_to_end,
    "roofline": roofline,
    "training": training,
    "sanitizer": sanitizer,
}


def test_decode(photographs: Path, device: Device, results: Path, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    began = time.perf_counter()
    parts = pytestconfig.getoption("--parts")
    if unknown := set(parts) - set(PARTS):
        pytest.fail(f"--parts: there is no {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    dalipipe.pack(dalipipe.ImageFolder(photographs), tmp_path / "tiled", format="tiled")
    pack, cores = dalipipe.Packed(tmp_path / "tiled"), len(os.sched_getaffinity(0))
    batches = tuple(sorted({min(batch, len(pack)) for batch in (256, 1024)}))
    threads, loads = tuple(sorted({max(cores // 2, 1), cores})), (0.0, 0.5, 0.75, 1.0)
    scale = Scale(0.7, batches, threads, loads, 20)
    if device.dry_run:
        scale = Scale(0.0, (4,), threads[:1], loads[:1], 1)
    result: dict[str, Any] = {"dry_run": device.dry_run, "goals": {}, "absent": {}, "failed": {}, "seconds": {}}
    before = results / "decode_gpu.json"
    if parts and before.is_file():
        result = {**result, **json.loads(before.read_text())}
    bench = Bench(device, scale, photographs, pack, results, result)
    result["what"] = (
        "JPEGs → RGB on the device; end to end: and RandomResizedCrop 224, flip, normalise → bfloat16 NHWC. Ours takes "
        f"them packed in tiles, peers as they were, in batches of {scale.batches[0]} where their sweep has no other"
    )
    result["images"] = (
        f"{len(bench.pack):,} pictures, {bench.size.prod(axis=1).mean() / 1e6:.2f} megapixels and "
        f"{bench.plain.starts[-1] / len(bench.pack) / 1e3:.0f} KB in the mean, in memory"
    )
    result["workers"] = cores
    result["seconds"]["pack"] = round(time.perf_counter() - began, 1)
    bench.save()
    for name, run in PARTS.items():
        if not parts or name in parts:
            with bench.part(name) as found:
                run(bench, found)
    print(f"\n{result['goals']}\n{result['absent']}\n→ {bench.save()}")
    assert not result["failed"], result["failed"]
