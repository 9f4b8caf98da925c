"""Chains of passes through the CUDA kernels, compiled for the host or on a GPU, against the CPU twin: to the bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from emulation import DTYPES, LAYOUTS, Emulation

from dalipipe import native, rng
from dalipipe.ops import image as ops
from dalipipe.plan import lower
from dalipipe.policy import Policy
from dalipipe.schema import Field, Schema

FILTERS = {"sharpen": 1, "separable": 2, "convolve": 3, "gaussian_noise": 4, "salt_pepper": 5, "grid": 6, "jpeg": 7}


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


# Batches at random --------------------------------------------------------------------------------------------------


@dataclass
class Batch:
    passes: np.ndarray
    starts: np.ndarray
    shape: tuple[int, ...]
    dtype: torch.dtype
    options: dict[str, Any]
    kept: list[np.ndarray]  # what the passes' addresses point into

    def run(self, fused_image: Any, device: str = "cpu") -> torch.Tensor:
        placed = {array.ctypes.data: torch.from_numpy(array).to(device) for array in self.kept}
        passes = self.passes.copy()
        for name in ("data", "displacement"):
            passes[name] = [placed[int(address)].data_ptr() if address else 0 for address in passes[name]]
        out = torch.full(self.shape, 77, dtype=torch.uint8, device=device).to(self.dtype)
        fused_image(passes, self.starts, out, **self.options)
        return out.cpu()


class Maker:
    """Makes batches of any chains that the operator takes, pictures with sides up to ``largest`` px."""

    def __init__(self, seed: int, largest: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.largest = largest
        self.kept: list[np.ndarray] = []
        self.weights: list[np.ndarray] = []
        self.erases: list[np.ndarray] = []
        self.channels = int(self.rng.choice([1, 3]))

    def side(self) -> int:
        few, some = self.rng.integers(1, 9), self.rng.integers(1, self.largest + 1)
        return int(self.rng.choice([1, few, some, some, some]))

    def sides(self) -> tuple[int, int]:
        return self.side(), self.side()

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def store(self, array: np.ndarray) -> int:
        self.kept.append(array)
        return int(array.ctypes.data)

    def batch(self, chains: list[np.ndarray], out: tuple[int, int]) -> Batch:
        dtype, layout = DTYPES[self.rng.integers(4)], LAYOUTS[self.rng.integers(2)]
        normalised = dtype != torch.uint8
        options = {
            "channels": self.channels,
            "layout": layout,
            "scale": np.float32(self.rng.uniform(1e-4, 0.1, self.channels) if normalised else np.ones(self.channels)),
            "bias": np.float32(self.rng.normal(0, 2, self.channels) if normalised else np.zeros(self.channels)),
            "tables": self.rng.integers(0, 256, (5, self.channels, 256), np.uint8),
            "weights": np.concatenate([np.zeros(3, np.float32), *self.weights]),
            "erases": np.array(self.erases, native.ERASE_BOX),
        }
        n, starts = len(chains), np.cumsum([0, *map(len, chains)]).astype(np.int32)
        shape = (n, self.channels, *out) if layout == "nchw" else (n, *out, self.channels)
        return Batch(np.concatenate(chains), starts, shape, dtype, options, self.kept)

    def chain(self, length: int, out: tuple[int, int]) -> np.ndarray:
        passes = np.zeros(length, native.IMAGE_PASS)
        size, kept = self.sides(), None
        channels = self.channels
        picture = self.rng.integers(0, 256, (*size, channels), np.uint8)
        if self.chance(0.3):
            picture = picture // 64 * 20 + 90  # little contrast, few values
        for j, s in enumerate(passes):
            last = j + 1 == length
            s["from_kept"] = kept is not None and self.chance(0.5)
            size = kept if kept is not None and s["from_kept"] else size
            if kept is not None and (not last or kept == out) and self.chance(0.6):
                s["blend"], s["weight"], s["kept_weight"] = self.rng.integers(1, 3), *self.rng.uniform(0, 1, 2)
            s["keep"] = self.chance(0.35)
            goal = out if last else kept if s["blend"] else self.goal(size)
            whole = self.move(s, size, goal)
            if j == 0:
                self.put(s, picture, whole)
            self.recolour(s, goal)
            size = goal
            kept = size if s["keep"] else kept
        return passes

    def goal(self, size: tuple[int, int]) -> tuple[int, int]:
        smaller = int(self.rng.integers(1, size[0] + 1)), int(self.rng.integers(1, size[1] + 1))
        return (size, size, smaller, self.sides())[self.rng.integers(4)]

    def move(self, s: np.ndarray, size: tuple[int, int], goal: tuple[int, int]) -> tuple[int, int]:
        """Geometry; returns the crop box's corner."""
        rng = self.rng
        s["out_h"], s["out_w"] = goal
        s["warp"] = rng.choice([0, 0, 1, 2, 3])
        corner, still, straight = [0, 0], self.chance(0.5), self.chance(0.7)
        for i, (axis, side) in enumerate((("y", "h"), ("x", "w"))):
            crop = min(size[i], goal[i]) if still else int(rng.integers(1, size[i] + 1))
            corner[i] = int(rng.integers(0, size[i] - crop + 1))
            canvas = goal[i] if not s["warp"] else crop if still else self.side()
            resized = crop if still or self.chance(0.4) else self.side()
            s[f"crop_{side}"], s[f"resized_{side}"], s[f"canvas_{side}"] = crop, resized, canvas
            window = 0 if resized == canvas and straight else rng.integers(-canvas - 2, resized + 3)
            s[f"window_{axis}"] = window
            s[f"origin_{axis}"] = -corner[i]
        s["resample"], s["fill"] = rng.integers(3), rng.integers(0, 256, 4)
        s["flip"] = 0 if self.chance(0.5) else rng.integers(4)
        s["matrix"] = [1, 0, 0, 0, 1, 0, 0, 0, 1]
        spread = 10.0 ** rng.integers(-2, 2)
        s["matrix"][:6] += np.float32(rng.normal(0, spread, 6) * rng.choice([0, 0.3, 1, 1], 6))
        if self.chance(0.4):
            s["matrix"][6:] += np.float32(rng.normal(0, 0.02, 3))
        s["displacement"] = 0  # one that was drawn before had another size
        if s["warp"] and self.chance(0.3):
            s["displacement"] = self.store(rng.normal(0, 3, (2, *goal)).astype(np.float32))
        return corner[0], corner[1]

    def put(self, s: np.ndarray, picture: np.ndarray, corner: tuple[int, int]) -> None:
        """Stores the first pass's picture: all of it, or the crop box."""
        if self.chance(0.5):
            y, x = corner
            picture = picture[y : y + s["crop_h"], x : x + s["crop_w"]]
            s["origin_y"] = s["origin_x"] = 0
        rows = np.full((picture.shape[0], picture[0].size + int(self.rng.integers(0, 9))), 0xA5, np.uint8)
        rows[:, : picture[0].size] = picture.reshape(picture.shape[0], -1)
        s["stored_h"], s["stored_w"], s["row_bytes"] = *picture.shape[:2], rows.strides[0]
        s["data"] = self.store(rows)

    def recolour(self, s: np.ndarray, size: tuple[int, int]) -> None:
        rng = self.rng
        if self.chance(0.5):
            self.filter(s, str(rng.choice(list(FILTERS))))
        s["stretch"] = rng.choice([0, 0, 1, 2])
        s["colour"] = rng.integers(2)
        s["colour_matrix"] = np.eye(3) + rng.normal(0, 0.3, (3, 3))
        s["colour_mean_matrix"] = rng.normal(0, 0.3, (3, 3)) * rng.choice([0, 1])
        s["colour_offset"] = rng.normal(0, 40, 3)
        s["hue"] = rng.choice([0, rng.uniform(-0.5, 0.5)])
        s["table"] = rng.choice([-1, rng.integers(0, 5)])
        s["first_erase"], s["erases"] = len(self.erases), rng.choice([0, 0, 1, 3])
        for _ in range(int(s["erases"])):
            box = np.zeros((), native.ERASE_BOX)
            box["y"], box["x"] = rng.integers(-5, self.largest, 2)
            box["h"], box["w"] = rng.integers(-1, self.largest // 2, 2)
            box["values"], box["sigma"] = rng.normal(100, 60, 3), rng.choice([0, 30, 1e-3], 3)
            box["noise"] = rng.integers(0, 2**32, 5)
            self.erases.append(box)

    def filter(self, s: np.ndarray, name: str) -> None:
        rng, values = self.rng, s["filter_values"]
        s["filter"], s["noise"] = FILTERS[name], rng.integers(0, 2**32, 5)
        if name == "sharpen":
            values[0] = rng.uniform(-5, 1)
        elif name in ("separable", "convolve"):
            h, w = 2 * rng.integers(0, [12, 25] if name == "separable" else 4, 2) + 1
            weights = rng.normal(0, 1, h + w if name == "separable" else h * w) + 0.3
            weights *= rng.choice([0, 1, 1, 1], weights.shape)
            s["filter_h"], s["filter_w"], s["filter_weights"] = h, w, 3 + sum(map(len, self.weights))
            self.weights.append(np.float32(weights / len(weights)))
        elif name == "gaussian_noise":
            values[:2] = rng.normal(0, 20), rng.uniform(0, 80)
        elif name == "salt_pepper":
            values[:2] = rng.uniform(0, 1, 2)
        elif name == "grid":
            unit, angle = rng.uniform(2, 20), rng.uniform(0, 7)
            values[:6] = unit, unit * rng.uniform(0, 1), *rng.uniform(0, unit, 2), np.cos(angle), np.sin(angle)
            values[6:9] = rng.uniform(0, 255, 3)
        elif name == "jpeg":
            values[0] = rng.integers(1, 101)


# Tests --------------------------------------------------------------------------------------------------------------


def check(cuda_on_cpu: Emulation, batch: Batch, seed: int) -> None:
    assert torch.equal(bits(batch.run(cuda_on_cpu.fused_image)), bits(batch.run(native.fused_image))), seed


def random_chains(seed: int, largest: int, n: int) -> Batch:
    maker = Maker(seed, largest)
    out = maker.sides()
    return maker.batch([maker.chain(int(maker.rng.integers(1, 6)), out) for _ in range(n)], out)


@pytest.mark.parametrize("first", range(0, 48, 8))
def test_chains(cuda_on_cpu: Emulation, first: int) -> None:
    for seed in range(first, first + 8):
        check(cuda_on_cpu, random_chains(seed, largest=70 if seed % 2 else 40, n=3), seed)


@pytest.mark.cuda
@pytest.mark.parametrize("first", range(0, 320, 32))
def test_chains_on_a_gpu(first: int) -> None:
    for seed in range(first, first + 32):
        batch = random_chains(seed, largest=300 if seed % 2 else 40, n=1 + seed % 9)
        assert torch.equal(bits(batch.run(native.fused_image, "cuda")), bits(batch.run(native.fused_image))), seed


@pytest.mark.parametrize("name", FILTERS)
def test_filters(cuda_on_cpu: Emulation, name: str) -> None:
    for seed in range(5):
        maker = Maker(seed, largest=80)
        out = maker.sides()
        chains = [maker.chain(1, out) for _ in range(2)]
        for passes in chains:
            maker.filter(passes[0], name)
        check(cuda_on_cpu, maker.batch(chains, out), seed)


def stay(s: np.ndarray) -> None:
    """No geometry and no filter: what the picture's colours need is known from what came before."""
    for name in ("window_y", "window_x", "origin_y", "origin_x", "flip", "warp", "filter"):
        s[name] = 0
    for name in ("crop", "resized", "canvas"):
        s[f"{name}_h"], s[f"{name}_w"] = s["out_h"], s["out_w"]


def test_pictures_that_are_kept_and_blended(cuda_on_cpu: Emulation) -> None:
    for seed in range(6):
        maker = Maker(seed, largest=50)
        out, width, chains = maker.sides(), int(maker.rng.integers(1, 4)), []
        for _ in range(2):
            first = maker.chain(1, out)
            first["keep"] = 1
            branches = [maker.chain(int(maker.rng.integers(1, 4)), out) for _ in range(width)]
            for passes in branches:
                for s in passes:
                    maker.move(s, out, out)
                    if maker.chance(0.4):
                        stay(s)
                    s["keep"] = s["blend"] = s["from_kept"] = 0
                passes["from_kept"][0], passes["blend"][-1] = 1, 1
                passes["weight"][-1] = maker.rng.uniform(0, 1 / width)
            branches[-1]["blend"][-1], branches[-1]["kept_weight"][-1] = 2, 0.3
            chains.append(np.concatenate([first, *branches]))
        check(cuda_on_cpu, maker.batch(chains, out), seed)


def test_statistics_are_of_the_crop(cuda_on_cpu: Emulation) -> None:
    for seed in range(6):
        maker = Maker(seed, largest=50)
        whole, cut = maker.chain(1, (40, 35)), maker.chain(1, (33, 9))
        stay(cut[0])
        cut["origin_y"], cut["origin_x"] = -maker.rng.integers(8), -maker.rng.integers(27)
        cut["stretch"], cut["colour"], cut["colour_mean_matrix"] = seed % 3, 1, 0.1
        check(cuda_on_cpu, maker.batch([np.concatenate([whole, cut])], (33, 9)), seed)


def test_launches_do_not_grow_with_the_batch(cuda_on_cpu: Emulation) -> None:
    """Two operators of RandAugment's after a crop, other ones in each sample."""
    maker, out, chains = Maker(0, largest=40), (20, 20), []
    for _ in range(30):
        passes = np.concatenate([maker.chain(1, out) for _ in range(3)])
        passes["filter"] = 0
        for s in passes[1:]:
            maker.move(s, out, out)
            if maker.chance(0.2):
                maker.filter(s, "sharpen")
        chains.append(passes)
    check(cuda_on_cpu, maker.batch(chains, out), 0)
    assert cuda_on_cpu.launches() <= 1 + 3 * 6  # weights; a round: resize, copy, warp, filter, stretch, recolour


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16])
def test_small_pictures_take_one_launch(cuda_on_cpu: Emulation, dtype: torch.dtype) -> None:
    """Flip, translation and cutout, as they are folded."""
    pictures = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3), np.uint8)
    policy = Policy([ops.HorizontalFlip(), ops.RandomCrop(32, 4), ops.Cutout(8)])
    plan = lower(policy, Schema((Field("image", "image", channels=3),)))
    params = plan.draw(rng.make_key(3, 1), np.arange(70), np.full((70, 2), 32)).params
    passes = params.passes.copy()
    passes["data"] = pictures.ctypes.data + pictures.strides[0] * np.arange(70, dtype=np.uint64)
    passes["row_bytes"], passes["stored_h"], passes["stored_w"] = 96, 32, 32
    out = [torch.zeros((70, 3, 32, 32), dtype=dtype) for _ in range(2)]
    for function, to in zip((cuda_on_cpu.fused_image, native.fused_image), out, strict=True):
        function(passes, params.starts, to, channels=3, scale=[1] * 3, bias=[0] * 3, erases=params.erases)
    assert cuda_on_cpu.launches() == 1
    assert torch.equal(*map(bits, out)) and out[0].any()


def random_fields(seed: int, largest: int) -> tuple[np.ndarray, list[np.ndarray], torch.Tensor]:
    """`ELASTIC_FIELD` [3], what they refer to, and room for what they make."""
    rng = np.random.default_rng(seed)
    fields, kept = np.zeros(3, native.ELASTIC_FIELD), []
    for f in fields:
        f["h"], f["w"] = rng.integers(1, largest, 2) if rng.random() < 0.8 else (1, 1)
        f["taps"] = rng.choice([0, 1, 3, 2 * rng.integers(1, 40) + 1], 2)
        kept.append(weights := rng.uniform(0, 0.1, 2 * f["taps"].sum()).astype(np.float32))
        f["weights"], f["scale"], f["noise"] = weights.ctypes.data, rng.normal(0, 30, 2), rng.integers(0, 2**32, 5)
    return fields, kept, torch.full((int((2 * fields["h"] * fields["w"]).sum()),), 7.0)


def draw_fields(elastic: Any, fields: np.ndarray, room: torch.Tensor) -> torch.Tensor:
    begins = np.cumsum(2 * fields["h"] * fields["w"]) - 2 * fields["h"] * fields["w"]
    fields["out"] = room.data_ptr() + 4 * begins
    elastic(fields, room)
    return bits(room.cpu())


def test_elastic(cuda_on_cpu: Emulation) -> None:
    for seed in range(10):
        fields, _kept, room = random_fields(seed, largest=60)
        wanted = draw_fields(native.elastic, fields, room.clone())
        assert torch.equal(draw_fields(cuda_on_cpu.elastic, fields, room), wanted), seed


@pytest.mark.cuda
@pytest.mark.parametrize("seed", range(40))
def test_elastic_on_a_gpu(seed: int) -> None:
    fields, _kept, room = random_fields(seed, largest=300)
    wanted = draw_fields(native.elastic, fields, room.clone())
    assert torch.equal(draw_fields(native.elastic, fields, room.cuda()), wanted)
