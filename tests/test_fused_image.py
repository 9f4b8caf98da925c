"""The fused image operator, to the bit: against plain numpy and torch, and all instruction sets and CUDA alike."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from passes import (
    BICUBIC,
    BILINEAR,
    DTYPES,
    NEAREST,
    Batch,
    Random,
    batch_of,
    bits,
    make_sample,
    random_batch,
    resize_axis,
)

from dalipipe import native

ROOT = Path(__file__).resolve().parent.parent
TARGETS = ("scalar", "avx2", "avx512")


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


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), largest=st.sampled_from([3, 40, 160]))
def test_only_moved(name, seed, largest):
    """Cut, padded, turned and erased, in small pictures and in those that are too large to be finished whole."""
    with target(name):
        random = Random(seed, largest)
        rng = random.rng
        channels, out_hw = int(rng.choice([1, 3])), tuple(rng.integers(1, largest + 1, 2))
        dtype, layout = DTYPES[rng.integers(4)], ("nchw", "nhwc")[rng.integers(2)]
        chains, stored = [], []
        for _ in range(int(rng.integers(1, 5))):
            h, w = rng.integers(1, largest + 1, 2)
            world = rng.integers(0, 256, (h, w, channels), np.uint8)
            window = tuple(int(v) for v in rng.integers(-8, 9, 2))
            pad = int(rng.integers(0, 9))
            sample, kept = make_sample(world, (0, 0, h, w), (h, w), out_hw, window, pad_bytes=pad)
            sample["flip"], sample["fill"] = rng.integers(4), rng.integers(0, 256, 4)
            random.erase(sample, dtype != torch.uint8)
            chains.append(sample)
            stored.append(kept)
        normalised = dtype != torch.uint8
        options = {
            "scale": np.float32(rng.uniform(1e-4, 0.1, channels) if normalised else np.ones(channels)),
            "bias": np.float32(rng.normal(0, 2, channels) if normalised else np.zeros(channels)),
            "tables": np.zeros((0, channels, 256), np.uint8),
            "weights": np.zeros(0, np.float32),
            "erases": np.array(random.erases, native.ERASE_BOX),
        }
        starts = np.arange(len(chains) + 1, dtype=np.int32)
        fields = [None] * len(chains)
        batch = Batch(np.stack(chains), starts, fields, stored, channels, out_hw, dtype, layout, options)
        assert torch.equal(bits(batch.run()), bits(batch.reference()))


def random_sizes(count):
    rng = np.random.default_rng(5)
    kinds = [lambda: 1, lambda: rng.integers(1, 8), lambda: rng.integers(1, 64), lambda: rng.integers(1, 400)]
    extreme = [(1, 2000, 1, 3), (2000, 1, 3, 1), (3, 5, 700, 2), (1500, 40, 2, 900), (1000, 1000, 1, 2), (1, 1, 50, 50)]
    return extreme + [tuple(int(kinds[k]()) for k in rng.integers(0, 4, 4)) for _ in range(count)]


@pytest.mark.parametrize(("resample", "mode"), [(BILINEAR, "bilinear"), (BICUBIC, "bicubic"), (NEAREST, "nearest")])
@pytest.mark.parametrize("name", TARGETS)
def test_resize_equals_torch(name, resample, mode):
    with target(name):
        checked = 0
        for seed, (h, w, out_h, out_w) in enumerate(random_sizes(200)):
            rng = np.random.default_rng(seed)
            channels = int(rng.choice([1, 3]))
            if (out_h, out_w, channels) == (1, 1, 3):
                continue  # torch's own resize to one pixel fails an assertion
            image = rng.integers(0, 256, (h, w, channels), np.uint8)
            if seed % 3 == 0:
                image = (image > 127).astype(np.uint8) * 255  # where a cubic overshoots
            size = (out_h, out_w)
            nchw = torch.from_numpy(image).permute(2, 0, 1)[None].contiguous()
            expected = torch.nn.functional.interpolate(nchw, size, mode=mode, antialias=resample != NEAREST)
            sample, stored = make_sample(image, (0, 0, h, w), size, size, resample=resample)
            batch = batch_of([sample] * 4, stored, size, layout="nchw", channels=channels)
            batch.passes["flip"] = range(4)
            flipped = [expected, expected.flip(3), expected.flip(2), expected.flip(2, 3)]
            assert torch.equal(batch.run(), torch.cat(flipped)), (image.shape, size)
            checked += 1
        assert checked > 190


@pytest.mark.parametrize("resample", [BILINEAR, BICUBIC, NEAREST])
def test_resize_window_is_part_of_the_whole(resample):
    # The weights' precision comes from the whole axis, so a window must not see other weights than the picture.
    rng = np.random.default_rng(0)
    world = rng.integers(0, 256, (333, 257, 3), np.uint8)
    columns = resize_axis(world.transpose(1, 0, 2), 190, resample).transpose(1, 0, 2)
    whole = resize_axis(columns, 500, resample)
    for y, x, h, w in [(0, 0, 7, 9), (499, 189, 1, 1), (123, 50, 200, 33), (10, 0, 64, 190)]:
        sample, stored = make_sample(world, (0, 0, 333, 257), (500, 190), (h, w), (y, x), resample=resample)
        out = batch_of([sample], stored, (h, w)).run()
        assert np.array_equal(out[0].numpy(), whole[y : y + h, x : x + w])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_streamed_output(dtype, layout):
    # An output past 1 MiB, aligned, goes around the cache; the same samples one by one do not.
    rng = np.random.default_rng(2)
    world = rng.integers(0, 256, (200, 190, 3), np.uint8)
    sample, stored = make_sample(world, (0, 0, 200, 190), (128, 192), (128, 192))
    scale, bias = (np.ones(3), np.zeros(3)) if dtype == torch.uint8 else (np.full(3, 0.01), np.full(3, -1))
    options = {"scale": np.float32(scale), "bias": np.float32(bias)}
    batch = batch_of([sample] * 24, stored, (128, 192), dtype, layout, **options)
    batch.passes["flip"] = np.arange(24) % 4
    one_by_one = [batch_of([batch.passes[i]], stored, (128, 192), dtype, layout, **options).run() for i in range(24)]
    expected = torch.cat(one_by_one)
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
        batch.run(threads=4, out=out)
        os._exit(0 if np.array_equal(bits(out).numpy(), bits(expected).numpy()) else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_batch_goes_on_while_its_starter_does_something_else():
    batches = [random_batch(seed, largest=200, n=8) for seed in range(12)]
    outs = [batch.empty() for batch in batches]
    running = [batch.start(out, threads=2) for batch, out in zip(batches, outs, strict=True)]
    for batch, out, one in zip(batches, outs, running, strict=True):
        one.wait()
        one.wait()  # as often as one likes
        assert torch.equal(bits(out), bits(batch.run()))


def test_a_started_batch_holds_what_it_works_on():
    """Whoever drops it waits for it: nothing it reads or writes is gone before."""
    for seed in range(20):
        batch = random_batch(seed, largest=300, n=8)
        out = batch.empty()
        batch.start(out, threads=2)  # dropped at once
        assert torch.equal(bits(out), bits(batch.run()))


def test_what_goes_wrong_in_a_started_batch_is_told_by_wait():
    batch = random_batch(5, n=3)
    batch.passes["crop_h"] = -1
    running = batch.start(batch.empty())
    for _ in range(2):
        with pytest.raises(ValueError, match="crop_h must be 1 to"):
            running.wait()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_started_batch_is_the_parents_alone():
    batch = random_batch(3, largest=300, n=64)
    out = batch.empty()
    running = batch.start(out, threads=2)
    pid = os.fork()
    if pid == 0:
        try:
            running.wait()
        except RuntimeError as error:
            del running
            os._exit(0 if "fork" in str(error) else 1)
        os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    running.wait()
    assert torch.equal(bits(out), bits(batch.run()))


def test_empty_batch():
    out = torch.empty(0, 3, 5, 7)
    passes, starts = np.zeros(0, native.IMAGE_PASS), np.zeros(1, np.int32)
    native.fused_image(passes, starts, out, channels=3, scale=[1] * 3, bias=[0] * 3, threads=4)


def test_wide_and_tall_pictures():
    rng = np.random.default_rng(0)
    for shape in [(2, 20_000), (20_000, 2), (1, 100_003)]:
        world = rng.integers(0, 256, (*shape, 3), np.uint8)
        sample, stored = make_sample(world, (0, 0, *shape), (5, 70), (5, 70))
        batch = batch_of([sample], stored, (5, 70))
        for name in targets_here():
            native.cpu_target(name)
            assert torch.equal(batch.run(), batch.reference()), (shape, name)
    native.cpu_target()


def plain(**changes):
    """A batch of two, 10x12 px → 5x6, with changes to the second sample."""
    world = np.random.default_rng(0).integers(0, 256, (10, 12, 3), np.uint8)
    sample, stored = make_sample(world, (0, 0, 10, 12), (5, 6), (5, 6))
    batch = batch_of([sample] * 2, stored, (5, 6), torch.float32, "nchw")
    for name, value in changes.items():
        batch.passes[name][1] = value
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
        ({"canvas_w": 7, "out_w": 7}, "sample 1: its last pass must give 5x6 px, the batch's, got 5x7"),
        ({"resample": 3}, "sample 1: resample must be 0 to 2, got 3"),
        ({"flip": 4}, "sample 1: flip must be 0 to 3, got 4"),
        ({"warp": 4}, "sample 1: warp must be 0 to 3, got 4"),
        ({"warp": 1, "matrix": [1, 0, np.nan, 0, 1, 0, 0, 0, 1]}, "sample 1: matrix must be finite"),
        (
            {"warp": 1, "canvas_h": 1 << 20, "canvas_w": 1 << 20},
            "sample 1: a canvas to be warped must stay below 2 GiB",
        ),
        ({"filter": 8}, "sample 1: filter must be 0 to 7, got 8"),
        ({"filter": 2, "filter_h": 3, "filter_w": 3}, "sample 1: "),
        ({"stretch": 3}, "sample 1: stretch must be 0 to 2, got 3"),
        ({"colour": 2}, "sample 1: colour must be 0 to 1, got 2"),
        ({"colour": 1, "colour_offset": np.inf}, "sample 1: colour matrices and offset must be finite"),
        ({"hue": 0.6}, "sample 1: hue must be -0.5 to 0.5 turns, got 0.6"),
        ({"hue": np.nan}, "sample 1: hue must be"),
        ({"table": 0}, "sample 1: table must be -1 or one of 0, got 0"),
        ({"erases": 1}, "sample 1: erases 0 to 1 are not among 0"),
        ({"first_erase": 1}, "sample 1: erases 1 to 1 are not among 0"),
        ({"blend": 1}, "sample 1: no pass before it keeps its picture"),
        ({"from_kept": 1}, "sample 1: no pass before it keeps its picture"),
        ({"blend": 3}, "sample 1: blend must be 0 to 2, got 3"),
    ],
)
def test_bad_passes(changes, message):
    with pytest.raises(ValueError, match=message):
        plain(**changes).run()


def chain(**changes):
    """One sample of four passes, 5x6 px each, with changes to the third."""
    batch = plain()
    passes = np.stack([batch.passes[0]] * 4)
    for name in ("crop", "resized", "canvas", "out"):
        passes[f"{name}_h"][1:], passes[f"{name}_w"][1:] = 5, 6
    passes["origin_y"][1:] = passes["origin_x"][1:] = 0
    passes["keep"][0] = 1
    for name, value in changes.items():
        passes[name][2] = value
    return Batch(
        passes, np.array([0, 4], np.int32), [None] * 4, batch.stored[:1], 3, (5, 6), torch.uint8, "nhwc", batch.options
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_h": 6}, "sample 0, pass 2: the window needs rows 0 to 6 of the crop, stored are 0 to 5"),
        ({"origin_x": -1}, "sample 0, pass 2: the window needs columns 0 to 6 of the crop, stored are -1 to 5"),
        ({"blend": 1, "out_w": 7, "canvas_w": 7}, "sample 0, pass 2: what is blended must have the kept picture's 5x6"),
        ({"blend": 1, "weight": np.nan}, "sample 0, pass 2: weights must be finite"),
        ({"out_h": 0}, "sample 0, pass 2: out_h must be 1"),
        ({"keep": 2}, "sample 0, pass 2: keep must be 0 to 1, got 2"),
    ],
)
def test_bad_chains(changes, message):
    assert torch.equal(chain().run(), chain().reference())
    with pytest.raises(ValueError, match=message):
        chain(**changes).run()


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
        ({"passes": np.zeros(2, np.uint8)}, "passes must be contiguous IMAGE_PASS"),
        ({"starts": np.array([0, 1], np.int32)}, "starts must go from 0 to 2"),
        ({"starts": np.array([0, 0, 2], np.int32)}, "sample 0: it needs a pass at least"),
        ({"starts": np.array([0, 1, 2], np.int64)}, "starts must be contiguous int32"),
        ({"tables": np.zeros((2, 3, 255), np.uint8)}, r"tables must be contiguous uint8 \(2, 3, 256\)"),
        ({"tables": np.zeros((2, 3, 256), np.int8)}, "got int8"),
        ({"weights": np.zeros(3)}, "weights must be contiguous float32"),
        ({"erases": np.zeros((2, 4), np.int32)}, "erases must be contiguous ERASE_BOX"),
    ],
)
def test_bad_arguments(changes, message):
    batch = plain()
    given = {"passes": batch.passes, "starts": batch.starts, "out": batch.empty(), "channels": 3}
    arguments = {**given, **batch.options, **changes}
    with pytest.raises(ValueError, match=message):
        native.fused_image(arguments.pop("passes"), arguments.pop("starts"), arguments.pop("out"), **arguments)


def test_erase_values_must_be_finite():
    batch = plain()
    for name in ("values", "sigma"):
        erases = np.zeros(1, native.ERASE_BOX)
        erases[name] = np.inf
        with pytest.raises(ValueError, match="erase box 0: values and sigma must be finite"):
            native.fused_image(batch.passes, batch.starts, batch.empty(), channels=3, erases=erases, **batch.options)


def test_cpu_target_refuses_what_is_not_there():
    with pytest.raises(ValueError, match='got "neon"'):
        native.cpu_target("neon")
    assert native.build_info()["cpu"] in TARGETS


# --- CUDA ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", range(0, 96, 8))
def test_cuda_kernels_on_the_cpu(cuda_on_cpu, first):
    for seed in range(first, first + 8):
        batch = random_batch(seed, largest=70 if seed % 2 else 40)
        out = batch.empty()
        options = {"channels": batch.channels, "layout": batch.layout, **batch.options}
        cuda_on_cpu.fused_image(batch.passes, batch.starts, out, **options)
        assert torch.equal(bits(out), bits(batch.run())), seed


def to_device(batch):
    """The batch with its pixels and displacements on the device, and what keeps them there."""
    hosts = [array for array in (*batch.stored, *batch.fields) if array is not None]
    there = [torch.from_numpy(array).cuda() for array in hosts]
    where = {array.ctypes.data: copy.data_ptr() for array, copy in zip(hosts, there, strict=True)} | {0: 0}
    passes, first = batch.passes.copy(), batch.starts[:-1]
    passes["data"][first] = [where[int(address)] for address in batch.passes["data"][first]]
    passes["displacement"] = [where[int(address)] for address in batch.passes["displacement"]]
    return dataclasses.replace(batch, passes=passes), there


@pytest.mark.cuda
@pytest.mark.parametrize("seed", range(120))
def test_cuda_equals_cpu(seed):
    batch = random_batch(seed, largest=300 if seed % 2 else 40, n=1 + seed % 9)
    placed, _memory = to_device(batch)
    out = batch.empty("cuda")
    stream = torch.cuda.Stream() if seed % 3 == 0 else None
    if stream is not None:
        stream.wait_stream(torch.cuda.current_stream())
        batch.options["stream"] = stream.cuda_stream
    placed.run(out=out)
    torch.cuda.synchronize()
    batch.options.pop("stream", None)
    assert torch.equal(bits(out.cpu()), bits(batch.run()))


@pytest.mark.cuda
def test_cuda_calls_may_overlap():
    batches = [random_batch(seed, largest=200, n=8) for seed in range(12)]
    placed = [to_device(batch) for batch in batches]
    outs = [batch.empty("cuda") for batch in batches]
    for _ in range(5):
        for (batch, _), out in zip(placed, outs, strict=True):
            batch.run(out=out)
    for batch, out in zip(batches, outs, strict=True):
        assert torch.equal(bits(out.cpu()), bits(batch.run()))
