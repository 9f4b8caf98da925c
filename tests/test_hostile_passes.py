"""Passes with fields that no policy would give: refused, or done within bounds. (`make fuzz`, target "passes", goes
further, with sanitizers.)"""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from passes import bits, new_pass, random_batch

from dalipipe import native

INTEGERS = (0, 1, -1, 3, 65_535, 2**20, 2**20 + 1, 2**31 - 1, -(2**31))
REALS = (0.0, -1.0, 1e6, 3e9, 3.4e38, -3.4e38, 1e-45, float("inf"), float("-inf"), float("nan"))
GUARD = 4096
# What says where memory is cannot be checked.
CHECKED = [
    name
    for name in native.IMAGE_PASS.names
    if name not in ("data", "row_bytes", "stored_h", "stored_w", "displacement", "noise", "fill")
]


def run_guarded(batch):
    """Whether it was done; nothing around the output may change, nor the output where it was refused."""
    shape = batch.empty().shape
    whole = torch.full((int(np.prod(shape)) + 2 * GUARD,), 77, dtype=torch.uint8).to(batch.dtype)
    out = whole[GUARD:-GUARD].view(shape)
    untouched = bits(whole[:GUARD]).clone()
    try:
        batch.run(out=out)
        done = True
    except ValueError as error:
        assert "fused_image: " in str(error)
        assert bits(out.reshape(-1)).eq(bits(whole[:1]).repeat(out.numel())).all(), "refused, but written to"
        done = False
    for guard in (whole[:GUARD], whole[-GUARD:]):
        assert torch.equal(bits(guard), untouched)
    return done


@pytest.mark.parametrize("field", CHECKED)
def test_odd_fields_are_refused_or_done_within_bounds(field):
    done = []
    for seed in range(3):
        batch = random_batch(seed, largest=12, n=1)
        sane = batch.passes.copy()
        j = seed % len(sane)
        kind = native.IMAGE_PASS[field].base.kind
        for value in REALS if kind == "f" else INTEGERS:
            batch.passes[:] = sane
            place = np.asarray(batch.passes[field][j : j + 1]).reshape(-1)
            place[seed % len(place)] = value if kind == "f" else np.clip(value, *limits(place.dtype))
            done.append(run_guarded(batch))
        batch.passes[:] = sane
        assert run_guarded(batch)
    assert len(done) == 3 * len(REALS if native.IMAGE_PASS[field].base.kind == "f" else INTEGERS)


def limits(dtype):
    return np.iinfo(dtype).min, np.iinfo(dtype).max


def one_pass(**fields):
    """A batch of one grey picture of 6x7 px through one pass."""
    picture = np.arange(42, dtype=np.uint8).reshape(6, 7)
    s = new_pass((0, 0, 6, 7), (6, 7), (6, 7))
    s["data"], s["row_bytes"], s["stored_h"], s["stored_w"] = picture.ctypes.data, 7, 6, 7
    for name, value in fields.items():
        s[name] = value
    return picture, s


def run(passes, **options):
    last = passes[-1]
    out = torch.zeros(1, 1, int(last["out_h"]), int(last["out_w"]), dtype=torch.uint8)
    starts = np.int32([0, len(passes)])
    native.fused_image(np.array(passes), starts, out, channels=1, scale=[1], bias=[0], **options)
    return out[0, 0].numpy()


def test_pictures_between_passes_are_bounded():
    picture, first = one_pass()
    for name in ("resized", "canvas", "out"):
        first[f"{name}_h"] = first[f"{name}_w"] = 2**16
    last = new_pass((0, 0, 2, 2), (2, 2), (2, 2))
    with pytest.raises(ValueError, match="an output must stay below 2 GiB of uint8, got 65536x65536"):
        run([first, last])
    del picture


def test_a_resize_keeps_no_more_than_it_can():
    picture = np.zeros((2**20, 1), np.uint8)
    s = new_pass((0, 0, 2**20, 1), (1, 2**20), (1, 2**20))
    s["data"], s["row_bytes"], s["stored_h"], s["stored_w"] = picture.ctypes.data, 1, 2**20, 1
    with pytest.raises(ValueError, match="a row of the resized picture draws on too much: 2097153 rows"):
        run([s])


def test_weights_of_a_separable_filter_count_together():
    picture, s = one_pass(filter=2, filter_h=1, filter_w=1)
    with pytest.raises(ValueError, match="weights must add up to at most 1e\\+06, got 1e\\+08"):
        run([s], weights=np.float32([1e4, 1e4]))
    assert run([s], weights=np.float32([1e4, 0.01])).max() == 255
    del picture


def test_a_box_wider_than_numbers_is_none():
    picture, s = one_pass(erases=1)
    box = np.zeros(1, native.ERASE_BOX)
    box["h"], box["x"], box["w"], box["values"] = 6, -(2**31), -(2**31) + 5, 200
    assert np.array_equal(run([s], erases=box), picture)
    box["x"], box["w"] = 3, 2**31 - 1
    assert (run([s], erases=box)[:, 3:] == 200).all()


def test_a_callers_picture_is_not_read_past_its_end():
    """The last row ends where the memory does; with the pages behind it closed, a byte too far would end the child."""
    code = """
import ctypes, mmap, sys
import numpy as np, torch
sys.path.insert(0, "tests")
from passes import new_pass
from dalipipe import native
page = mmap.PAGESIZE
memory = mmap.mmap(-1, 2 * page)
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + page), ctypes.c_size_t(page), 0) == 0
weights = np.full(6, 1 / 3, np.float32)
for channels in (1, 3):
    for kind in range(8):
        h, w = 7, 9
        s = new_pass((0, 0, h, w), (h, w), (h, w))
        s["data"], s["row_bytes"] = start + page - h * w * channels, w * channels
        s["stored_h"], s["stored_w"], s["filter"], s["filter_values"][0] = h, w, kind, 1
        if kind in (2, 3):
            s["filter_h"], s["filter_w"] = (3, 3) if kind == 2 else (1, 3)
        out = torch.zeros(1, channels, h, w, dtype=torch.uint8)
        for target in ("scalar", None):
            native.cpu_target(target)
            native.fused_image(np.array([s]), np.int32([0, 1]), out, channels=channels, scale=[1] * channels,
                               bias=[0] * channels, weights=weights)
print("done")
"""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "done\n", done.stderr


def test_many_callers_at_once_with_chains_of_all_sizes():
    """Every thread has scratch of its own, which the chains of others must not show in."""
    batches = [random_batch(seed, largest=size) for seed, size in enumerate([5, 40, 11, 70] * 3)]
    expected = [bits(batch.run()).clone() for batch in batches]
    failed = []

    def work(first):
        for k in range(3 * len(batches)):
            i = (first + k) % len(batches)
            if not torch.equal(bits(batches[i].run(threads=1 + k % 3)), expected[i]):
                failed.append((first, i))

    callers = [threading.Thread(target=work, args=(5 * k,)) for k in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not failed
