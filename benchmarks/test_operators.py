"""Every operator beside torchvision's, Kornia's and Albumentations', on one core: microseconds a picture.

    pytest benchmarks/test_operators.py              writes results/operators_cpu.json
    pytest benchmarks/test_operators.py --check      compares with it, ratio by ratio

64 uint8 pictures of 224×224 px → a batch of them; drawing the parameters counts. Before anything is
timed, dalipipe's pixels are verified to be those of each operator's specification, and that the others do something of
the kind to the same pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import operator_peers
import pytest
import regression
import torch
from operator_peers import Row
from rounds import interleave, lasting, ratio, undisturbed, write

import dalipipe
from dalipipe import rng
from dalipipe.engines.base import Output
from dalipipe.engines.native import NativeEngine
from dalipipe.plan import Draws, Plan, lower
from dalipipe.records import Pictures
from dalipipe.schema import Field, Schema

N, SIDE_PX = 64, 224
SCHEMA = Schema((Field("image", "image", channels=3), Field("label", "column")))

Run = Callable[[], Any]


@pytest.fixture
def pictures() -> np.ndarray:
    """uint8 [N, H, W, 3], with slopes and grain as photographs have, neither black nor white."""
    generator = torch.Generator().manual_seed(0)
    slopes = torch.nn.functional.interpolate(
        torch.rand(N, 3, 12, 12, generator=generator), (SIDE_PX, SIDE_PX), mode="bicubic"
    )
    grain = torch.randn(slopes.shape, generator=generator) * 6
    return (slopes * 200 + 25 + grain).clamp(5, 250).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


class Ours:
    """The engine on one thread: a batch's draws, then its pixels."""

    def __init__(self, row: Row, pictures: np.ndarray) -> None:
        self.plan: Plan = lower(dalipipe.Policy([row.ours]), SCHEMA)
        dtype = torch.float32 if row.floats else torch.uint8
        output = Output(torch.device("cpu"), dtype, torch.contiguous_format)
        self.engine = NativeEngine(self.plan, output, threads=1)
        self.pictures = Pictures.from_arrays(list(pictures))
        self.size, self.epoch = np.tile([[SIDE_PX, SIDE_PX]], (N, 1)), 0

    def draw(self) -> Draws:
        key, indices = rng.make_key(0, self.epoch), np.arange(N)
        self.epoch += 1
        return self.plan.draw(key, indices, self.size, 0, indices)

    def __call__(self) -> torch.Tensor:
        return self.engine.start(self.pictures, self.draw())()


class Stacked:
    """Picture by picture, then a batch, whose memory is used again as ours is."""

    def __init__(self, run: Callable[[], list[torch.Tensor]]) -> None:
        self.run: Callable[[], list[torch.Tensor]] = run
        self.out: torch.Tensor | None = None

    def __call__(self) -> torch.Tensor:
        self.out = torch.stack(self.run(), out=self.out)
        return self.out


def contenders_of(row: Row, pictures: np.ndarray) -> dict[str, Run]:
    planes = [torch.from_numpy(picture).permute(2, 0, 1).contiguous() for picture in pictures]
    strided = [torch.from_numpy(picture).permute(2, 0, 1) for picture in pictures]  # as resizing likes them
    floats = torch.stack(planes).float() / 255
    labels = torch.arange(N)
    found: dict[str, Run] = {"dalipipe": Ours(row, pictures)}
    if row.torchvision is not None:
        given = strided if "Resize" in row.name else planes
        found["torchvision"] = (
            (lambda: row.torchvision(floats, labels)[0])  # type: ignore[call-arg, misc]
            if row.mixes
            else Stacked(lambda: [row.torchvision(picture) for picture in given])  # type: ignore[misc]
        )
    if row.kornia is not None:
        found["kornia"] = (
            (lambda: row.kornia(floats, labels)[0])  # type: ignore[call-arg, misc]
            if row.mixes
            else (lambda: row.kornia(floats))  # type: ignore[misc]
        )
    if row.albumentations is not None:
        found["albumentations"] = Stacked(
            lambda: [torch.from_numpy(row.albumentations(image=picture)["image"]) for picture in pictures]
        )
    return found


def verify_ours(row: Row, ours: Ours, pictures: np.ndarray) -> None:
    """The native pixels are those of the operator's specification."""
    draws = ours.draw()
    if len(draws.drawn) > 1 or row.floats:
        return  # operators that the table has by themselves, too
    out = ours.engine.start(ours.pictures, draws)().permute(0, 2, 3, 1).numpy()
    for picture in (0, 1, N - 1):
        expected = draws.drawn[0].reference(picture, pictures[picture])
        assert np.array_equal(out[picture], expected), f"{row.name}: not what its specification gives"


def verify_theirs(row: Row, name: str, run: Run, ours: np.ndarray, pictures: np.ndarray) -> None:
    """Pictures of our size that are changed, and about as bright as ours."""
    theirs: torch.Tensor = run()
    batch = theirs.float().numpy()
    if name == "albumentations":
        batch = batch.transpose(0, 3, 1, 2)
    assert batch.shape == ours.shape, f"{name}'s {row.name}: shape {batch.shape}, ours {ours.shape}"
    scale = 255.0 if name == "kornia" and not row.floats else 1.0
    apart = float(np.abs(batch.mean() * scale - ours.mean()))
    limit = 0.2 if row.floats else row.similar
    assert apart < limit, f"{name}'s {row.name}: {apart:.1f} levels from ours"
    if batch.shape[2:] == pictures.shape[1:3] and not row.floats:
        before = pictures.transpose(0, 3, 1, 2)
        changed = (np.abs(batch * scale - before) > 0.5).any(axis=(1, 2, 3)).mean()
        assert changed > 0.5, f"{name}'s {row.name} changes only {changed:.0%} of the pictures"


def measure(row: Row, runs: dict[str, Run], rounds: int, over: Callable[..., float] = ratio) -> dict[str, Any]:
    print(f"\n{row.family}: {row.name}")
    timings = interleave({name: lasting(run, N) for name, run in runs.items()}, rounds, 0)
    us = {name: round(float(1e6 / np.median(timing.rates)), 2) for name, timing in timings.items()}
    ratios = {name: round(over(timings, "dalipipe", name), 3) for name in runs if name != "dalipipe"}
    return {"family": row.family, "name": row.name, "us_per_image": us, "ratios": ratios}


def ratios_of(result: dict[str, Any]) -> dict[str, float]:
    """Of each operator beside each library."""
    return {f"{row['name']}, {name}": value for row in result["rows"] for name, value in row["ratios"].items()}


def test_operators(
    pictures: np.ndarray, one_thread: None, results: Path, pytestconfig: pytest.Config, benchmark: Any
) -> None:
    rounds = pytestconfig.getoption("--rounds")

    def measured() -> list[dict[str, Any]]:
        found = []
        for row in operator_peers.rows():
            runs = contenders_of(row, pictures)
            ours = runs["dalipipe"]
            assert isinstance(ours, Ours)
            verify_ours(row, ours, pictures)
            out = ours().float().numpy()
            for name, run in runs.items():
                if name != "dalipipe":
                    verify_theirs(row, name, run, out, pictures)
            found.append(measure(row, runs, rounds))
        return found

    rows = benchmark.pedantic(measured, rounds=1, iterations=1)
    versions = {"kornia": _version("kornia"), "albumentations": _version("albumentations"), "opencv": cv2.__version__}
    result = {
        "what": f"µs a picture on one core, drawing counted: {N} uint8 pictures of {SIDE_PX}×{SIDE_PX} px",
        "rounds": rounds,
        "versions": versions,
        "rows": rows,
    }
    benchmark.extra_info.update(ratios_of(result))
    if pytestconfig.getoption("--check"):

        def again(names: set[str]) -> dict[str, float]:
            slow = [row for row in operator_peers.rows() if any(name.startswith(f"{row.name}, ") for name in names)]
            runs = [(row, contenders_of(row, pictures)) for row in slow]
            return ratios_of({"rows": [measure(*each, 3 * rounds, undisturbed) for each in runs]})

        print(f"\n{regression.check('operators_cpu', ratios_of, ratios_of(result), again)}")
    else:
        print(f"\n→ {write('operators_cpu', result, results)}")


def _version(package: str) -> str:
    import importlib.metadata

    return importlib.metadata.version(package)
