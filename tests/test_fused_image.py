"""The fused image operator, to the bit: against plain numpy and torch, and all instruction sets and CUDA alike."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import shutil
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dalipipe import native

ROOT = Path(__file__).resolve().parent.parent
TARGETS = ("scalar", "avx2", "avx512")
DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32)


@contextlib.contextmanager
def target(name):
    """The CPU operators on one instruction set, or a skip where the machine lacks it."""
    try:
        native.cpu_target(name)
    except ValueError as error:
        pytest.skip(str(error))
    try:
        yield
    finally:
        native.cpu_target()


def targets_here():
    here = []
    for name in TARGETS:
        with contextlib.suppress(ValueError):
            here.append(native.cpu_target(name))
    native.cpu_target()
    return here


# --- the operator in plain numpy -----------------------------------------------------------------------------------


def taps(size_in, size_out):
    """The triangle filter of torch's uint8 resize: (first input px, int weights) of each output, and the precision."""
    if size_in == size_out:
        return [(i, np.int64([1 << 14])) for i in range(size_in)], 14
    scale = size_in / size_out
    support = max(scale, 1.0)
    exact = []
    for i in range(size_out):
        centre = scale * (i + 0.5)
        low = max(int(centre - support + 0.5), 0)
        high = min(int(centre + support + 0.5), size_in)
        j = np.arange(low, high, dtype=np.float64)
        weights = np.maximum(1 - np.abs((j - centre + 0.5) * (1 / scale if scale >= 1 else 1.0)), 0)
        exact.append((low, weights / np.cumsum(weights)[-1]))  # cumsum adds one by one, as a loop does; sum does not
    greatest = max(weights.max() for _, weights in exact)
    precision = next((p for p in range(22) if int(0.5 + greatest * (1 << (p + 1))) >= 1 << 15), 22)
    return [(low, (0.5 + w * (1 << precision)).astype(np.int64)) for low, w in exact], precision


def resize_axis(image, size_out):
    """[in, ...] uint8 → [out, ...]."""
    out = np.empty((size_out, *image.shape[1:]), np.uint8)
    rows, precision = taps(image.shape[0], size_out)
    for i, (low, weights) in enumerate(rows):
        total = np.tensordot(weights, image[low : low + len(weights)].astype(np.int64), 1)
        out[i] = np.clip((total + (1 << (precision - 1))) >> precision, 0, 255)
    return out


def warp(canvas, matrix, mode, fill, out_h, out_w):
    f = np.float32
    y, x = np.mgrid[:out_h, :out_w].astype(f)
    m = matrix.astype(f)
    with np.errstate(over="ignore", invalid="ignore"):
        at = [(m[0] * x + m[1] * y) + m[2], (m[3] * x + m[4] * y) + m[5]]
    h, w = canvas.shape[:2]
    at_x, at_y = (np.clip(np.where(np.isnan(v), f(-1), v), f(-1), f(side)) for v, side in zip(at, (w, h), strict=True))

    def pick(iy, ix):
        inside = (iy >= 0) & (iy < h) & (ix >= 0) & (ix < w)
        return np.where(inside[..., None], canvas[iy.clip(0, h - 1), ix.clip(0, w - 1)], fill).astype(f)

    if mode == 2:
        ix, iy = (np.floor(v + f(0.5)).astype(int) for v in (at_x, at_y))
        return pick(iy, ix).astype(np.uint8)
    ix, iy = np.floor(at_x).astype(int), np.floor(at_y).astype(int)
    tx, ty = ((v - np.floor(v))[..., None] for v in (at_x, at_y))
    a, b, c, d = pick(iy, ix), pick(iy, ix + 1), pick(iy + 1, ix), pick(iy + 1, ix + 1)
    upper, lower = a + (b - a) * tx, c + (d - c) * tx
    return np.floor(upper + (lower - upper) * ty + f(0.5)).astype(np.uint8)


def reference(crop, s, out_h, out_w, table):
    """One sample: its crop, uint8 [h,w,C], and its `IMAGE_SAMPLE` → uint8 [out_h,out_w,C], all but normalised."""
    f = np.float32
    channels = crop.shape[2]
    resized = resize_axis(resize_axis(crop.transpose(1, 0, 2), s["resized_w"]).transpose(1, 0, 2), s["resized_h"])
    canvas = np.empty((s["canvas_h"], s["canvas_w"], channels), np.uint8)
    canvas[:] = fill = s["fill"][:channels]
    y, x = int(s["window_y"]) + np.arange(s["canvas_h"]), int(s["window_x"]) + np.arange(s["canvas_w"])
    in_y, in_x = (y >= 0) & (y < s["resized_h"]), (x >= 0) & (x < s["resized_w"])
    canvas[np.ix_(in_y, in_x)] = resized[np.ix_(y[in_y], x[in_x])]
    canvas = canvas[:: -1 if s["flip"] & 2 else 1, :: -1 if s["flip"] & 1 else 1]
    v = warp(canvas, s["matrix"], s["warp"], fill, out_h, out_w) if s["warp"] else canvas
    if s["colour"]:
        mean = (v.reshape(-1, channels).astype(np.int64).sum(0) / (out_h * out_w)).astype(f)
        m, k = s["colour_matrix"], s["colour_mean_matrix"]
        r, g, b = (v[..., c if channels == 3 else 0].astype(f) for c in range(3))
        mr, mg, mb = (mean[c if channels == 3 else 0] for c in range(3))
        coloured = []
        for c in range(channels):
            constant = ((k[c, 0] * mr + k[c, 1] * mg) + k[c, 2] * mb) + s["colour_offset"][c]
            coloured.append(np.clip(((m[c, 0] * r + m[c, 1] * g) + m[c, 2] * b) + constant, f(0), f(255)))
        v = np.floor(np.stack(coloured, -1) + f(0.5)).astype(np.uint8)
    if s["table"]:
        v = np.stack([table[c][v[..., c]] for c in range(channels)], -1)
    return v


# --- batches at random ---------------------------------------------------------------------------------------------


@dataclass
class Batch:
    samples: np.ndarray
    crops: list  # uint8 [crop_h, crop_w, C]
    stored: list  # what samples["data"] points into
    channels: int
    out_hw: tuple
    dtype: torch.dtype
    layout: str
    options: dict

    def empty(self, device="cpu"):
        h, w = self.out_hw
        shape = (h, w, self.channels) if self.layout == "nhwc" else (self.channels, h, w)
        return torch.full((len(self.samples), *shape), 77, dtype=torch.uint8, device=device).to(self.dtype)

    def run(self, threads=1, out=None):
        out = self.empty() if out is None else out
        native.fused_image(
            self.samples, out, channels=self.channels, layout=self.layout, threads=threads, **self.options
        )
        return out

    def reference(self):
        tables, boxes = self.options.get("tables"), self.options.get("erase_boxes")
        scale, bias = self.options["scale"], self.options["bias"]
        out = self.empty()
        for i, (s, crop) in enumerate(zip(self.samples, self.crops, strict=True)):
            v = (
                reference(crop, s, *self.out_hw, None if tables is None else tables[i]).astype(np.float32) * scale
                + bias
            )
            for (y, x, h, w), values in (
                zip(boxes[i], self.options["erase_values"][i], strict=True) if boxes is not None else ()
            ):
                v[max(y, 0) : max(y + h, 0), max(x, 0) : max(x + w, 0)] = values
            if self.dtype == torch.uint8:
                v = np.floor(v.clip(0, 255) + np.float32(0.5))
            v = torch.from_numpy(v)
            out[i] = (v if self.layout == "nhwc" else v.permute(2, 0, 1)).to(self.dtype)
        return out


def bits(tensor):
    return tensor.contiguous().view(torch.uint8)


def make_sample(world, crop, resized, canvas, window=(0, 0), keep=(0, 0, 0, 0), pad_bytes=0):
    """A sample whose crop (y, x, h, w) lies in `world`; `keep`: px of the world stored beyond what the window needs, on
    its left, top, right and bottom. Returns the sample, the crop's pixels and the stored ones."""
    y, x, h, w = crop
    channels = world.shape[2]
    lows, highs = [], []
    for size, out, shown, offset in zip((h, w), resized, canvas, window, strict=True):
        first, end = max(offset, 0), min(offset + shown, out)
        spans = taps(size, out)[0][first:end]
        lows.append(spans[0][0] if spans else 0)
        highs.append(max((low + len(weights) for low, weights in spans), default=1))
    top, left = max(y + lows[0] - keep[1], 0), max(x + lows[1] - keep[0], 0)
    bottom, right = y + highs[0] + keep[3], x + highs[1] + keep[2]
    part = world[top:bottom, left:right]
    stored = np.random.default_rng(0).integers(0, 256, (part.shape[0], part.shape[1] * channels + pad_bytes), np.uint8)
    stored[:, : part.shape[1] * channels] = part.reshape(part.shape[0], -1)
    s = np.zeros((), native.IMAGE_SAMPLE)
    s["data"], s["row_bytes"] = stored.ctypes.data, stored.strides[0]
    s["stored_h"], s["stored_w"] = part.shape[:2]
    s["origin_y"], s["origin_x"] = top - y, left - x
    s["crop_h"], s["crop_w"] = h, w
    s["resized_h"], s["resized_w"] = resized
    s["window_y"], s["window_x"] = window
    s["canvas_h"], s["canvas_w"] = canvas
    return s, world[y : y + h, x : x + w], stored


def random_batch(seed, largest=40, n=None):
    """Any batch the operator takes, sides up to about `largest` px."""
    rng = np.random.default_rng(seed)

    def side():
        return int(rng.choice([1, 2, rng.integers(1, 9), rng.integers(1, largest + 1), rng.integers(1, largest + 1)]))

    n = int(rng.integers(1, 4)) if n is None else n
    channels, out_hw = int(rng.choice([1, 3])), (side(), side())
    dtype, layout = DTYPES[rng.integers(4)], ("nchw", "nhwc")[rng.integers(2)]
    samples, crops, stored = np.zeros(n, native.IMAGE_SAMPLE), [], []
    for i in range(n):
        warped = int(rng.choice([0, 0, 1, 2]))
        canvas = (side(), side()) if warped else out_hw
        crop_h, crop_w = side(), side()
        resized = (crop_h, crop_w) if rng.random() < 0.25 else (side(), side())
        if rng.random() < 0.5:
            canvas_or = resized if warped else canvas
            resized = canvas if not warped else resized
            canvas, window = (canvas_or, (0, 0))
        else:
            window = tuple(int(rng.integers(-c - 2, r + 3)) for c, r in zip(canvas, resized, strict=True))
        world = rng.integers(0, 256, (crop_h + 4, crop_w + 4, channels), np.uint8)
        if rng.random() < 0.3:
            world = (world > 127).astype(np.uint8) * 255
        keep = rng.integers(0, 4, 4).tolist()
        samples[i], crop, kept = make_sample(
            world, (2, 2, crop_h, crop_w), resized, canvas, window, keep, int(rng.integers(0, 9))
        )
        crops.append(crop)
        stored.append(kept)
        s = samples[i]
        s["flip"], s["warp"], s["fill"] = rng.integers(4), warped, rng.integers(0, 256, 4)
        spread = 10.0 ** rng.integers(-2, 3)
        s["matrix"] = np.float32([1, 0, 0, 0, 1, 0] + rng.normal(0, spread, 6) * rng.choice([0, 0.3, 1, 1], 6))
        if rng.random() < 0.05:
            s["matrix"] = np.clip(s["matrix"].astype(np.float64) * 1e37, -3e38, 3e38)
        s["colour"], s["table"] = rng.integers(2), rng.integers(2)
        s["colour_matrix"] = np.eye(3) + rng.normal(0, 0.5, (3, 3))
        s["colour_mean_matrix"] = rng.normal(0, 0.3, (3, 3)) * rng.choice([0, 1])
        s["colour_offset"] = rng.normal(0, 40, 3)
    normalised = dtype != torch.uint8
    options = {
        "scale": np.float32(rng.uniform(1e-4, 0.1, channels) if normalised else np.ones(channels)),
        "bias": np.float32(rng.normal(0, 2, channels) if normalised else np.zeros(channels)),
        "tables": rng.integers(0, 256, (n, channels, 256), np.uint8),
    }
    if rng.random() < 0.5:
        boxes = int(rng.integers(0, 4))
        options["erase_boxes"] = rng.integers(-5, largest, (n, boxes, 4)).astype(np.int32)
        options["erase_boxes"][..., 2:] = rng.integers(0, largest // 2, (n, boxes, 2))
        options["erase_values"] = np.float32(rng.normal(0, 100, (n, boxes, channels)))
    return Batch(samples, crops, stored, channels, out_hw, dtype, layout, options)


# --- tests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=120, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_equals_reference(name, seed):
    with target(name):
        batch = random_batch(seed)
        assert torch.equal(bits(batch.run()), bits(batch.reference()))


@pytest.mark.parametrize("seed", range(60))
def test_targets_agree_to_the_bit(seed):
    batch = random_batch(seed, largest=300, n=2)
    results = {}
    for name in targets_here():
        native.cpu_target(name)
        results[name] = bits(batch.run())
    native.cpu_target()
    for name, result in results.items():
        assert torch.equal(result, results["scalar"]), name


def random_sizes(count):
    rng = np.random.default_rng(5)
    kinds = [lambda: 1, lambda: rng.integers(1, 8), lambda: rng.integers(1, 64), lambda: rng.integers(1, 400)]
    extreme = [(1, 2000, 1, 3), (2000, 1, 3, 1), (3, 5, 700, 2), (1500, 40, 2, 900), (1000, 1000, 1, 2), (1, 1, 50, 50)]
    return extreme + [tuple(int(kinds[k]()) for k in rng.integers(0, 4, 4)) for _ in range(count)]


@pytest.mark.parametrize("name", TARGETS)
def test_resize_equals_torch(name):
    with target(name):
        checked = 0
        for seed, (h, w, out_h, out_w) in enumerate(random_sizes(300)):
            rng = np.random.default_rng(seed)
            channels = int(rng.choice([1, 3]))
            if (out_h, out_w, channels) == (1, 1, 3):
                continue  # torch's own resize to one pixel fails an assertion
            image = rng.integers(0, 256, (h, w, channels), np.uint8)
            size = (out_h, out_w)
            nchw = torch.from_numpy(image).permute(2, 0, 1)[None].contiguous()
            expected = torch.nn.functional.interpolate(nchw, size, mode="bilinear", antialias=True)
            sample, _, stored = make_sample(image, (0, 0, h, w), size, size)
            samples = np.stack([sample] * 4)
            samples["flip"] = range(4)
            out = torch.empty(4, channels, *size, dtype=torch.uint8)
            native.fused_image(samples, out, channels=channels, scale=[1] * channels, bias=[0] * channels)
            flipped = [expected, expected.flip(3), expected.flip(2), expected.flip(2, 3)]
            assert torch.equal(out, torch.cat(flipped)), (image.shape, size, stored.shape)
            checked += 1
        assert checked > 290


def test_resize_window_is_part_of_the_whole():
    # The weights' precision comes from the whole axis, so a window must not see other weights than the picture.
    rng = np.random.default_rng(0)
    world = rng.integers(0, 256, (333, 257, 3), np.uint8)
    whole = resize_axis(resize_axis(world.transpose(1, 0, 2), 190).transpose(1, 0, 2), 500)
    for y, x, h, w in [(0, 0, 7, 9), (499, 189, 1, 1), (123, 50, 200, 33), (10, 0, 64, 190)]:
        sample, _, stored = make_sample(world, (0, 0, 333, 257), (500, 190), (h, w), (y, x))
        out = torch.empty(1, h, w, 3, dtype=torch.uint8)
        native.fused_image(sample[None], out, channels=3, scale=[1] * 3, bias=[0] * 3, layout="nhwc")
        assert np.array_equal(out[0].numpy(), whole[y : y + h, x : x + w]), stored.shape


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_streamed_output(dtype, layout):
    # An output past 1 MiB, aligned, goes around the cache; the same samples one by one do not.
    batch = random_batch(1, n=1)
    rng = np.random.default_rng(2)
    world = rng.integers(0, 256, (200, 190, 3), np.uint8)
    sample, crop, stored = make_sample(world, (0, 0, 200, 190), (128, 192), (128, 192))
    scale, bias = (np.ones(3), np.zeros(3)) if dtype == torch.uint8 else (np.full(3, 0.01), np.full(3, -1))
    options = {"scale": np.float32(scale), "bias": np.float32(bias)}
    batch = Batch(np.stack([sample] * 24), [crop] * 24, [stored], 3, (128, 192), dtype, layout, options)
    batch.samples["flip"] = np.arange(24) % 4
    expected = torch.cat(
        [
            Batch(batch.samples[i : i + 1], [crop], [stored], 3, (128, 192), dtype, layout, options).run()
            for i in range(24)
        ]
    )
    memory = torch.empty(expected.numel() * dtype.itemsize + 64, dtype=torch.uint8)
    start = -memory.data_ptr() % 64
    for name, shift in itertools.product(targets_here(), (0, dtype.itemsize)):  # aligned, and not
        native.cpu_target(name)
        out = memory[start + shift :][: expected.numel() * dtype.itemsize].view(dtype).view(expected.shape)
        assert torch.equal(batch.run(threads=2, out=out.fill_(1)), expected), name
    native.cpu_target()


def test_any_number_of_threads():
    batch = random_batch(11, largest=120, n=37)
    expected = bits(batch.run())
    for threads in (2, 3, 16, 100):
        assert torch.equal(bits(batch.run(threads=threads)), expected)


def test_many_callers_at_once():
    batches = [random_batch(seed, largest=100, n=9) for seed in range(8)]
    expected = [bits(batch.run()) for batch in batches]
    wrong = []

    def work(k):
        for _ in range(20):
            if not torch.equal(bits(batches[k].run(threads=4)), expected[k]):
                wrong.append(k)

    callers = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # forking beside threads is what is tested
def test_threads_start_anew_in_a_forked_child():
    batch = random_batch(3, n=16)
    expected, out = batch.run(threads=4), batch.empty()
    pid = os.fork()
    if pid == 0:
        native.fused_image(batch.samples, out, channels=batch.channels, layout=batch.layout, threads=4, **batch.options)
        os._exit(0 if np.array_equal(bits(out).numpy(), bits(expected).numpy()) else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_empty_batch():
    out = torch.empty(0, 3, 5, 7)
    native.fused_image(np.zeros(0, native.IMAGE_SAMPLE), out, channels=3, scale=[1] * 3, bias=[0] * 3, threads=4)


def test_wide_and_tall_pictures():
    rng = np.random.default_rng(0)
    for shape in [(2, 20_000), (20_000, 2), (1, 100_003)]:
        world = rng.integers(0, 256, (*shape, 3), np.uint8)
        sample, crop, stored = make_sample(world, (0, 0, *shape), (5, 70), (5, 70))
        batch = Batch(
            sample[None], [crop], [stored], 3, (5, 70), torch.uint8, "nhwc", {"scale": [1] * 3, "bias": [0] * 3}
        )
        for name in targets_here():
            native.cpu_target(name)
            assert torch.equal(batch.run(), batch.reference()), (shape, name)
    native.cpu_target()


def plain(**changes):
    """A batch of two, 10x12 px → 5x6, with changes to the second sample."""
    world = np.random.default_rng(0).integers(0, 256, (10, 12, 3), np.uint8)
    sample, crop, stored = make_sample(world, (0, 0, 10, 12), (5, 6), (5, 6))
    batch = Batch(
        np.stack([sample] * 2),
        [crop] * 2,
        [stored],
        3,
        (5, 6),
        torch.float32,
        "nchw",
        {"scale": [1] * 3, "bias": [0] * 3},
    )
    for name, value in changes.items():
        batch.samples[name][1] = value
    return batch


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": 0}, "sample 1: data is null"),
        ({"row_bytes": 35}, r"sample 1: row_bytes must be at least stored_w \* channels = 36, got 35"),
        ({"stored_h": 0}, "sample 1: stored_h must be 1 to 1048576 px, got 0"),
        ({"crop_w": -3}, "sample 1: crop_w must be 1 to 1048576 px, got -3"),
        ({"resized_h": 1 << 21}, "sample 1: resized_h must be 1 to 1048576 px, got 2097152"),
        ({"stored_w": 11}, "sample 1: the window needs columns 0 to 12 of the crop, stored are 0 to 11"),
        ({"origin_y": 1}, "sample 1: the window needs rows 0 to 10 of the crop, stored are 1 to 11"),
        ({"canvas_w": 7}, "sample 1: without a warp the canvas must be the output's 5x6, got 5x7"),
        ({"flip": 4}, "sample 1: flip must be 0 to 3, got 4"),
        ({"warp": 3}, "sample 1: warp must be 0, 1 or 2, got 3"),
        ({"warp": 1, "matrix": [1, 0, np.nan, 0, 1, 0]}, "sample 1: matrix must be finite"),
        (
            {"warp": 1, "canvas_h": 1 << 20, "canvas_w": 1 << 20},
            "sample 1: a canvas to be warped must stay below 2 GiB",
        ),
        ({"colour": 2}, "sample 1: colour must be 0 or 1, got 2"),
        ({"colour": 1, "colour_offset": np.inf}, "sample 1: colour matrices and offset must be finite"),
        ({"table": 1}, "sample 1: it asks for a table, but tables are null"),
    ],
)
def test_bad_samples(changes, message):
    with pytest.raises(ValueError, match=message):
        plain(**changes).run()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": [1, 1]}, r"scale must be float32 \[3\]"),
        ({"bias": [0, 0, np.nan]}, "scale and bias must be finite"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"layout": "hwc"}, 'layout must be "nchw" or "nhwc"'),
        ({"channels": 2}, r"out must be nchw \(2, 2, 5, 6\), got \(2, 3, 5, 6\)"),
        ({"channels": 4, "out": torch.empty(2, 4, 5, 6), "scale": [1] * 4, "bias": [0] * 4}, "channels must be 1 or 3"),
        ({"out": torch.empty(2, 3, 5, 6, dtype=torch.float64)}, "out must be one of torch.uint8"),
        ({"out": torch.empty(2, 5, 6, 3).permute(0, 3, 1, 2)}, "out must be contiguous"),
        ({"out": torch.empty(2, 3, 0, 6)}, "the output's sides must be 1 to 1048576 px, got 0x6"),
        ({"out": torch.empty(2, 3, 5, 6, dtype=torch.uint8), "scale": [1, 2, 1]}, "scale must be 1 and bias 0, got 2"),
        ({"out": torch.empty(2, 3, 5, 6, device="meta")}, "out must be on the CPU or a CUDA device, got meta"),
        ({"samples": np.zeros(2, np.uint8)}, "samples must be contiguous IMAGE_SAMPLE"),
        ({"tables": np.zeros((2, 3, 255), np.uint8)}, r"tables must be contiguous uint8 \(2, 3, 256\)"),
        ({"tables": np.zeros((2, 3, 256), np.int8)}, "got int8"),
        ({"erase_boxes": np.zeros((2, 1, 4), np.int32)}, "erase_boxes and erase_values come together"),
        (
            {"erase_boxes": np.zeros((2, 1, 4), np.int32), "erase_values": np.full((2, 1, 3), np.inf, np.float32)},
            "sample 0: erase values must be finite",
        ),
        (
            {"erase_boxes": np.zeros((2, 4), np.int32), "erase_values": np.zeros((2, 1, 3), np.float32)},
            "erase_boxes must be contiguous int32",
        ),
    ],
)
def test_bad_arguments(changes, message):
    batch = plain()
    arguments = {"samples": batch.samples, "out": batch.empty(), "channels": 3, **batch.options, **changes}
    with pytest.raises(ValueError, match=message):
        native.fused_image(arguments.pop("samples"), arguments.pop("out"), **arguments)


def test_cpu_target_refuses_what_is_not_there():
    with pytest.raises(ValueError, match='got "neon"'):
        native.cpu_target("neon")
    assert native.build_info()["cpu"] in TARGETS


# --- CUDA ----------------------------------------------------------------------------------------------------------


class Params(ctypes.Structure):
    """`FusedImageParams` of csrc/ops.h."""

    _fields_ = [
        ("samples", ctypes.c_void_p),
        *[(name, ctypes.c_int32) for name in ("n", "channels", "out_h", "out_w")],
        ("tables", ctypes.c_void_p),
        ("erases", ctypes.c_int32),
        ("erase_boxes", ctypes.c_void_p),
        ("erase_values", ctypes.c_void_p),
        ("scale", ctypes.c_float * 3),
        ("bias", ctypes.c_float * 3),
        ("dtype", ctypes.c_int32),
        ("layout", ctypes.c_int32),
        ("out", ctypes.c_void_p),
    ]


@pytest.fixture(scope="session")
def cuda_on_cpu(tmp_path_factory):
    """csrc/cuda/image.cu, compiled for the host: run(batch, out)."""
    compiler = next(filter(shutil.which, (os.environ.get("CXX", "c++").split()[0], "g++", "clang++")), None)
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    library = tmp_path_factory.mktemp("cuda_on_cpu") / "fused_image.so"
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-shared"]
    include = [f"-I{ROOT / 'tests/cuda_on_cpu'}", f"-I{ROOT / 'csrc'}"]
    source = ROOT / "tests/cuda_on_cpu/fused_image.cpp"
    subprocess.run([compiler, *flags, *include, str(source), "-o", str(library)], check=True, timeout=200)
    function = ctypes.CDLL(str(library)).fused_image
    function.restype = ctypes.c_char_p

    def run(batch):
        out = batch.empty()
        options = batch.options
        channels, n = batch.channels, len(batch.samples)

        def address(name):
            return None if options.get(name) is None else options[name].ctypes.data

        boxes = options.get("erase_boxes")
        params = Params(
            batch.samples.ctypes.data, n, channels, *batch.out_hw, address("tables"),
            0 if boxes is None else boxes.shape[1], address("erase_boxes"), address("erase_values"),
            tuple(float(v) for v in options["scale"]), tuple(float(v) for v in options["bias"]),
            DTYPES.index(batch.dtype), ("nchw", "nhwc").index(batch.layout), out.data_ptr(),
        )  # fmt: skip
        message = function(ctypes.byref(params)).decode()
        assert not message, message
        return out

    return run


@pytest.mark.parametrize("first", range(0, 96, 8))
def test_cuda_kernels_on_the_cpu(cuda_on_cpu, first):
    for seed in range(first, first + 8):
        batch = random_batch(seed, largest=70 if seed % 2 else 40)
        assert torch.equal(bits(cuda_on_cpu(batch)), bits(batch.run())), seed


def to_device(batch):
    """The samples with their pixels on the device, and what keeps them there."""
    pixels = [torch.from_numpy(stored).cuda() for stored in batch.stored]
    samples = batch.samples.copy()
    where = {stored.ctypes.data: there.data_ptr() for stored, there in zip(batch.stored, pixels, strict=True)}
    samples["data"] = [where[int(address)] for address in batch.samples["data"]]
    return samples, pixels


@pytest.mark.cuda
@pytest.mark.parametrize("seed", range(120))
def test_cuda_equals_cpu(seed):
    batch = random_batch(seed, largest=300 if seed % 2 else 40, n=1 + seed % 9)
    samples, _pixels = to_device(batch)
    out = batch.empty("cuda")
    stream = torch.cuda.Stream() if seed % 3 == 0 else None
    if stream is not None:
        stream.wait_stream(torch.cuda.current_stream())
    native.fused_image(
        samples, out, channels=batch.channels, layout=batch.layout,
        stream=None if stream is None else stream.cuda_stream, **batch.options,
    )  # fmt: skip
    torch.cuda.synchronize()
    assert torch.equal(bits(out.cpu()), bits(batch.run()))


@pytest.mark.cuda
def test_cuda_calls_may_overlap():
    batches = [random_batch(seed, largest=200, n=8) for seed in range(12)]
    placed = [to_device(batch) for batch in batches]
    outs = [batch.empty("cuda") for batch in batches]
    for _ in range(5):
        for batch, (samples, _), out in zip(batches, placed, outs, strict=True):
            native.fused_image(samples, out, channels=batch.channels, layout=batch.layout, **batch.options)
    for batch, out in zip(batches, outs, strict=True):
        assert torch.equal(bits(out.cpu()), bits(batch.run()))
