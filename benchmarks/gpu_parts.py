"""The parts of gpu_report.py. Each has a process, a limit, and a file of results, which it writes whenever it knows
more: whatever becomes of it, that stays.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import airbench_peer
import decode_roofline
import kernels
import numpy as np
import peers
import torch
from decode_bench import Bench, Scale
from devices import Device
from limited import said_within
from photographs import COPIES, DRY_PHOTOGRAPHS, image_folder
from rounds import Turn, interleave, ratio, reason, write
from stages import make_pictures
from test_decode import end_to_end

import dalipipe
from dalipipe import bench
from dalipipe.doctor import diagnose
from dalipipe.ops import image as ops
from dalipipe.orders import Weighted

BATCH, DRY_BATCH = 256, 4
CIFAR_PICTURES, CIFAR_BATCH = 50_000, 1024
MOST_PICTURES = 3000
"""Of a folder that may have millions: as many as there are of copied photographs."""
MOST_TEST_PROCESSES = 8
"""Each has a CUDA context, of some hundred MB."""
PEER_S = 25.0
"""What one of `others` wants at least: each starts several processes that import torch."""
PEER_IMAGES, PEER_ROUNDS = 4 * BATCH, 2
_TEST = re.compile(r"(?:^|\s)(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b")
_NAME = re.compile(r"tests/\S+::.+?(?= (?:PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b| - |\s*$)")


@dataclass
class Part:
    """What one is given. ``work``: the folder that parts share; ``data``: with photographs, ``None``: some are made;
    ``until``: when it has to be done, by `time.time`.
    """

    name: str
    device: Device
    work: Path
    data: Path | None
    until: float
    found: dict[str, Any] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)

    def save(self) -> None:
        write(self.name, self.found, self.work)

    @property
    def left_s(self) -> float:
        return self.until - time.time()

    def has(self, seconds: float, what: str) -> bool:
        """Whether that much time is left for it; where not, it is noted that it was left out."""
        if self.device.dry_run or self.left_s >= seconds:
            return True
        self.found.setdefault("cut", []).append(f"{what} left out")
        self.save()
        return False

    @property
    def batch(self) -> int:
        return DRY_BATCH if self.device.dry_run else BATCH

    @property
    def cores(self) -> int:
        return len(os.sched_getaffinity(0))

    @property
    def photographs(self) -> Path:
        return Path((self.work / "photographs.txt").read_text())

    @property
    def packed(self) -> dalipipe.Packed:
        return dalipipe.Packed(self.work / "tiled")

    def bench(self) -> Bench:
        """For what is shared with test_decode.py; it has peers, and each of ours, so many seconds."""
        pack = self.packed
        batches = tuple(sorted({min(batch, len(pack)) for batch in (BATCH, 4 * BATCH)}))
        scale = Scale(0.4, batches, (self.cores,), (0.75,), 20, worker_batches=1)
        if self.device.dry_run:
            scale = Scale(0.0, (DRY_BATCH,), (1,), (0.0,), 1)
        self.found |= {"goals": {}, "absent": {}, "failed": {}, "seconds": {}}
        return Bench(self.device, scale, self.photographs, pack, self.work, self.found, where=self.name, name=self.name)


# --- before and beside what is timed ----------------------------------------------------------------------------------


def data(part: Part) -> None:
    """Photographs, and a pack of them in tiles."""
    few = DRY_PHOTOGRAPHS if part.device.dry_run else None
    if part.data is None:
        root = part.work / "made"
        for number, path in enumerate(make_pictures(root)):
            if few is None:
                for copy in range(1, COPIES):
                    os.link(path, path.with_stem(f"{path.stem}_{copy}"))
            elif number >= few:
                path.unlink()
    else:
        root = evenly(image_folder(part.data, part.work / "photographs", few), part.work / "chosen", few)
    dalipipe.pack(dalipipe.ImageFolder(root), part.work / "tiled", format="tiled")
    (part.work / "photographs.txt").write_text(str(root))
    kind = "made pictures" if part.data is None else "photographs"
    part.found["images"] = f"{len(part.packed):,} {kind}, in the page cache"


def evenly(root: Path, folder: Path, most: int | None = None) -> Path:
    """An image folder, or links in ``folder`` to ``most`` of its files, evenly spaced, where it has more."""
    paths, most = dalipipe.ImageFolder(root).paths, most or MOST_PICTURES
    if len(paths) <= most:
        return root
    for number in range(most):
        path = Path(paths[number * len(paths) // most])
        link = folder / path.relative_to(root)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
    return folder


def build(part: Part) -> None:
    """Whether this build runs on this device, and all else that `dalipipe doctor` looks at."""
    checks = diagnose()
    part.found["checks"] = [vars(check) for check in checks]
    part.save()
    missing = [f"{check.topic}: {check.found} ({check.remedy})" for check in checks if check.status == "missing"]
    if not part.device.dry_run:
        built = next(check for check in checks if check.topic == "CUDA kernels")
        missing += [] if built.status == "ok" else [f"{built.topic}: {built.found} ({built.remedy})"]
        assert not missing, "; ".join(missing)


def tests(part: Part) -> None:
    """`pytest -m cuda`, in several processes, where pytest-xdist is."""
    command = [sys.executable, "-m", "pytest", "-m", "cuda", "-v", "-p", "no:cacheprovider"]
    if part.device.dry_run:
        command += ["--collect-only", "-q", "tests/test_fused_image.py"]
    elif has("xdist"):
        command += ["-n", str(max(1, min(part.cores - 1, MOST_TEST_PROCESSES)))]
    if part.data is not None:
        command.append(f"--data={part.data}")
    status, lines = said_within(command, max(part.left_s - 5.0, 1.0))
    outcomes = outcomes_of(lines)
    part.found["command"] = " ".join(command[1:])
    part.found["counts"] = {name: outcomes_count(outcomes, name) for name in ("passed", "failed", "skipped")}
    part.found["failures"] = [line[:300] for line in lines if line.startswith(("FAILED ", "ERROR "))][:20]
    part.found["status"], part.found["last_lines"] = status, [line[:200] for line in lines[-8:]]
    if status is None:
        part.found["cut"] = [f"tests stopped after {sum(part.found['counts'].values())} of them"]
    part.save()
    failed = outcomes_count(outcomes, "failed")
    assert status in (0, None) and not failed, f"{failed} tests failed, status {status}: {lines[-1:]}"


def outcomes_of(lines: Iterable[str]) -> dict[str, str]:
    """What became of each test, from what ``pytest -v`` said, with or without pytest-xdist."""
    found = {}
    for line in lines:
        outcome, name = _TEST.search(line), _NAME.search(line)
        if outcome is not None and name is not None:
            found[name[0]] = outcome[1]
    return found


def outcomes_count(outcomes: dict[str, str], name: str) -> int:
    kinds = {"passed": {"PASSED", "XPASS"}, "failed": {"FAILED", "ERROR"}, "skipped": {"SKIPPED", "XFAIL"}}[name]
    return sum(outcome in kinds for outcome in outcomes.values())


# --- what is timed ----------------------------------------------------------------------------------------------------


def roofline(part: Part) -> None:
    """Each kernel's bytes a second beside those of a copy within the device, measured here and now."""
    part.found["batch"] = part.batch
    part.found["copy_gb_per_s"] = copy = part.device.copy_gb_per_s()
    part.found["kernels"] = rows = {}

    def note(name: str, measured: dict[str, float | None]) -> None:
        rate = measured["gb_per_s"]
        rows[name] = {
            "us": None if rate is None else 1e3 * (measured["kernel_ms"] or 0.0),
            "mb": measured["moved_mb"],
            "gb_per_s": rate,
            "of_copy": None if rate is None else rate / copy,
        }
        part.save()

    for name, nodes in kernels.POLICIES.items():
        note(f"fused operator: {name}", kernels.fused(part.device, nodes, part.batch, kernels.STORED_PX))
    if part.has(15.0, "the decoder's kernels"):
        found: dict[str, Any] = {}
        decode_roofline.roofline(part.bench(), found)
        decoder = {f"decoder: {name}": each for name, each in found["kernels"].items() if name != "fused"}
        rows |= {name: {key: row[key] for key in ("us", "mb", "gb_per_s", "of_copy")} for name, row in decoder.items()}
        part.found |= {"decoder": {key: found[key] for key in ("limits_ms", "limit", "symbols", "loader_ms")}}
        part.save()
    for name, op in kernels.ALONE.items():
        if not part.has(4.0, f"{name} alone"):
            break
        note(f"{name}, alone", kernels.fused(part.device, [op], part.batch, kernels.OUT_PX))


def recipe(part: Part) -> None:
    """DeiT's recipe on pictures that lie on the device."""
    part.found["contenders"], part.found["ratios"] = kernels.recipe(part.device, part.batch)


def loaders(part: Part) -> None:
    """Files → augmented batches on the device, beside DALI and torchvision: packed in tiles, kept there, or plain."""
    found = part.found
    end_to_end(part.bench(), found)


def others(part: Part) -> None:
    """Plain JPEGs, as `dalipipe bench` measures: beside those libraries that are installed and not among `loaders`.

    Each is compared by itself, in the order in which `bench.CONTENDERS` has them, so that what there is time for stays.
    """
    among_loaders = ("dalipipe", "torchvision", "nvidia.dali")
    entries = {name: entry for name, entry in bench.CONTENDERS.items() if entry.library not in among_loaders}
    here = [name for name, entry in entries.items() if entry.python != sys.executable or has(entry.library)]
    found = part.found
    found["absent"] = {name: entry.remedy for name, entry in entries.items() if name not in here}
    part.save()
    here, images, rounds = (here[-1:], 8, 1) if part.device.dry_run else (here, PEER_IMAGES, PEER_ROUNDS)
    work = bench.work_of(
        dalipipe.ImageFolder(part.photographs), batch_size=part.batch, cores=part.cores, device=part.device.device.type
    )
    for name in here:
        if part.has(PEER_S, name):
            timeout_s = 600.0 if part.device.dry_run else part.left_s
            compared = bench.compare(
                work, [name], images=images, rounds=rounds, sweep=False, progress=print, timeout_s=timeout_s
            )
            note_other(found, compared.summary())
            part.save()


def note_other(found: dict[str, Any], compared: dict[str, Any]) -> None:
    """Adds a comparison with one other library to those before. dalipipe's figures are the first comparison's; ratios,
    how many times the other's rate dalipipe's is, are each of its own.
    """
    found["contenders"] = {**compared["contenders"], **found.get("contenders", {})}
    ratios = {name.removeprefix("over "): factor for name, factor in compared["ratios"].items()}
    for key, new in (("ratios", ratios), ("absent", compared["absent"]), ("failed", compared["failed"])):
        found[key] = {**found.get(key, {}), **new}
    found.update({key: value for key, value in compared.items() if key not in found})


def has(library: str) -> bool:
    return importlib.util.find_spec(library) is not None


def stalls(part: Part) -> None:
    """What training waits for, by `dalipipe.explain`."""
    part.found["batch"], part.found["runs"] = part.batch, (runs := {})
    sources = {"packed in tiles": part.packed, "plain JPEGs": dalipipe.ImageFolder(part.photographs)}
    if part.device.dry_run:
        del sources["packed in tiles"]  # the decoder's kernels take their time when the host runs them
    for name, make in models(part.device).items():
        for kind, source in sources.items():
            if part.has(18.0, f"{name} on {kind}"):
                runs[f"{name}, {kind}"] = explained(part, make(), source)
                part.save()


def models(device: Device) -> dict[str, Callable[[], torch.nn.Module]]:
    """Two of torchvision's; in a dry run a small one under one of their names."""
    from torchvision.models import resnet18, resnet50

    def small() -> torch.nn.Module:
        layers = [torch.nn.Conv2d(3, 8, 3, stride=8), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
        return torch.nn.Sequential(*layers, torch.nn.Linear(8, 1000))

    return {"ResNet-18": small} if device.dry_run else {"ResNet-18": resnet18, "ResNet-50": resnet50}


def explained(part: Part, model: torch.nn.Module, source: Any) -> dict[str, Any]:
    """A step in bfloat16, channels_last, with SGD."""
    where = part.device.device
    model = model.to(where, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step(batch: Any) -> None:
        images, labels = batch
        with torch.autocast(where.type, torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    loader = dalipipe.DataLoader(
        source,
        part.batch,
        sampler=Weighted(np.ones(len(source)), size=1 << 18),  # an epoch that is long enough
        drop_last=True,
        policy=dalipipe.recipes.imagenet_train(peers.SIZE),
        device=where,
        dtype=torch.bfloat16,
        memory_format=torch.channels_last,
        seed=0,
    )
    with contextlib.closing(loader), torch.backends.cudnn.flags(enabled=True, benchmark=True):
        explanation = dalipipe.explain(loader, step, steps=12 if part.device.dry_run else 60)
    print(f"  {explanation}", flush=True)
    return {"sentence": str(explanation), "stall": explanation.stall, **explanation.to_dict()}


def cifar(part: Part) -> None:
    """CIFAR-10's size, flipped and translated, beside a data set that lies on the device: made pictures in memory."""
    count, batch = (64, 16) if part.device.dry_run else (CIFAR_PICTURES, CIFAR_BATCH)
    random = np.random.default_rng(0)
    pictures, labels = random.integers(0, 256, (count, 32, 32, 3), np.uint8), random.integers(0, 10, count)
    loader = dalipipe.DataLoader(
        dalipipe.Arrays(pictures, labels),
        batch,
        shuffle=True,
        drop_last=True,
        policy=dalipipe.Policy(
            [
                ops.HorizontalFlip(),
                ops.RandomCrop(32, padding=airbench_peer.SHIFT_PX),
                ops.Normalize(airbench_peer.MEAN, airbench_peer.STD),
            ]
        ),
        device=part.device.device,
        dtype=torch.float16,
        memory_format=torch.channels_last,
        seed=0,
        autotune=False,
    )
    theirs = {
        f"airbench's arithmetic, {way}": airbench_peer.Resident(pictures, labels, batch, part.device.device, way)
        for way in airbench_peer.WAYS
    }
    with contextlib.closing(loader):
        everyone: dict[str, Any] = {"dalipipe": loader, **theirs}
        for name, batches in everyone.items():
            verify_cifar(name, next(iter(batches)), pictures, batch)
        contenders = {name: epochs(part, batches) for name, batches in everyone.items()}
        timings = interleave(contenders, part.device.rounds)
    part.found["what"] = (
        f"{count:,} pictures of 32×32 px, flipped half the time, translated by up to {airbench_peer.SHIFT_PX} px, "
        f"normalised → float16 NHWC on the device, batches of {batch:,}. dalipipe takes them from the host's memory, "
        "draws for each, and is black beyond the edge; airbench's arithmetic augments all of them where they lie, "
        "and mirrors beyond the edge"
    )
    part.found["contenders"] = {name: timing.summary() for name, timing in timings.items()}
    part.found["ratios"] = {name: round(ratio(timings, "dalipipe", name), 3) for name in theirs}


def epochs(part: Part, batches: Any) -> Turn:
    """As many as take a moment."""
    seconds = 0.0 if part.device.dry_run else 0.5

    def turn() -> int:
        done, end = 0, time.perf_counter() + seconds
        while not done or time.perf_counter() < end:
            done += sum(len(images) for images, _ in batches)
            part.device.synchronize()
        return done

    return turn


def verify_cifar(name: str, given: Any, pictures: np.ndarray, batch: int) -> None:
    """Each picture is one of those that there are, mirrored or not, shifted by so much: seen by its inner part."""
    images, _ = given
    assert images.shape == (batch, 3, 32, 32) and images.dtype == torch.float16, f"{name}: {images.shape}"
    mean, std = (np.array(each, np.float32) for each in (airbench_peer.MEAN, airbench_peer.STD))
    inner = {}
    for row, picture in enumerate(pictures):
        inner[tuple(picture[15, 14:18, 0].tolist())] = row
    values = images.permute(0, 2, 3, 1).float().cpu().numpy() * std + mean
    levels = np.rint(255 * values).clip(0, 255).astype(np.uint8)
    reach = range(-airbench_peer.SHIFT_PX, airbench_peer.SHIFT_PX + 1)
    for one in levels[:8]:
        seen = any(
            tuple(side[15 + y, 14 + x : 18 + x, 0].tolist()) in inner
            for side in (one, one[:, ::-1])
            for y in reach
            for x in reach
        )
        assert seen, f"{name}: a picture that there is not"


PARTS: dict[str, tuple[Callable[[Part], None], float]] = {
    "data": (data, 30.0),
    "build": (build, 20.0),
    "roofline": (roofline, 70.0),
    "recipe": (recipe, 30.0),
    "loaders": (loaders, 80.0),
    "stalls": (stalls, 80.0),
    "cifar": (cifar, 20.0),
    "others": (others, 60.0),
    "tests": (tests, 130.0),
}
"""In order; and the share of the time that each has, of what is left when its turn comes. What is timed is verified
by its part; the tests, which may take long, come last and have all that is left.
"""


def run(part: Part) -> int:
    """One, with its results written; what it failed of is among them."""
    try:
        PARTS[part.name][0](part)
    except Exception as error:
        import traceback

        traceback.print_exc()
        part.found["error"] = reason(error)
    part.found["took_s"] = round(time.perf_counter() - part.began, 1)
    part.save()
    return 1 if "error" in part.found else 0
