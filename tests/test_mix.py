"""MixUp and CutMix: who mixes with whom, how pixels and labels are mixed, and the same on any number of ranks."""

from __future__ import annotations

import collections
import copy
import ctypes
import os
import pickle
import shutil
import subprocess
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from timm.data.mixup import mixup_target
from torchvision.transforms import v2

import dalipipe
from dalipipe import native, rng
from dalipipe.loader import DataLoader
from dalipipe.ops import image as ops
from dalipipe.ops.mix import CutMix, MixOp, MixUp, mix, soft_labels
from dalipipe.ops.python import PythonStep
from dalipipe.passes.mix import MixParams, lower_mix, partners
from dalipipe.policy import OneOf, Policy, RandomApply, RandomOrder, SomeOf
from dalipipe.quantiles import beta_quantile
from dalipipe.schema import Field, Schema
from dalipipe.stages import lower

ROOT = Path(__file__).resolve().parent.parent
DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32)
KEY = rng.make_key(7, 2)


# Operators ---------------------------------------------------------------------------------------------------------


def drawn(op: MixOp, n: int = 4000, size: tuple[int, int] = (224, 160)) -> Any:
    return Policy([op]).draw(KEY, np.arange(n), np.tile(np.array(size), (n, 1)))[0]


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.8, 1.0, 8.0])
def test_weights_are_beta_distributed(alpha: float) -> None:
    weight, wanted = drawn(MixUp(alpha)).params["weight"], stats.beta(alpha, alpha)
    low, high = wanted.cdf([1e-4, 1 - 1e-4])  # nearer to the ends than that many are rounded to them
    within = weight[(weight > 1e-4) & (weight < 1 - 1e-4)]
    assert stats.kstest(within, lambda x: (wanted.cdf(x) - low) / (high - low)).pvalue > 1e-4
    assert stats.binomtest(len(within), len(weight), high - low).pvalue > 1e-4
    assert stats.binomtest(int((weight < 0.5).sum()), len(weight)).pvalue > 1e-4
    assert len(np.unique(within)) > 0.99 * len(within)  # each sample has its own


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_cutmix_draws_as_torchvision_does(alpha: float) -> None:
    torch.manual_seed(0)
    theirs, x = v2.CutMix(alpha=alpha, num_classes=2), [torch.zeros(1, 3, 224, 160)]
    wanted = [theirs.make_params(x) for _ in range(4000)]
    params = drawn(CutMix(alpha)).params
    y, left, h, w = params["box"].T
    boxes = np.array([one["box"] for one in wanted])  # left, top, right, bottom
    for ours, their in (
        (params["label_weight"], [one["lam_adjusted"] for one in wanted]),
        (left + w, boxes[:, 2]),
        (y, boxes[:, 1]),
        (h, boxes[:, 3] - boxes[:, 1]),
    ):
        assert stats.ks_2samp(ours, their).pvalue > 1e-4


def test_cutmix_box_equals_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the same random numbers: the box and the labels' weight."""
    op, theirs = CutMix(1.0), v2.CutMix(alpha=1.0, num_classes=2)
    u = np.random.default_rng(0).random((300, 3))
    size = np.random.default_rng(1).integers(1, 60, (300, 2))
    params = op.draw(u, size)
    weights = beta_quantile(1.0, 1.0)(u[:, 0]).tolist()
    for row, (h, w) in enumerate(size.tolist()):
        centre = iter([int(u[row, 2] * w), int(u[row, 1] * h)])
        monkeypatch.setattr(theirs, "_dist", SimpleNamespace(sample=lambda shape, weight=weights[row]: weight))
        monkeypatch.setattr(torch, "randint", lambda side, size: torch.tensor([next(centre)]))  # noqa: B023
        wanted = theirs.make_params([torch.zeros(1, 3, h, w)])
        x1, y1, x2, y2 = wanted["box"]
        assert params["box"][row].tolist() == [y1, x1, y2 - y1, x2 - x1]
        assert params["label_weight"][row] == pytest.approx(wanted["lam_adjusted"], abs=2**-24)


@given(st.sampled_from([MixUp, CutMix]), st.floats(1e-6, 1e6), st.integers(1, 300), st.integers(1, 300))
@settings(max_examples=60, deadline=None)
def test_draws_stay_in_their_ranges(op: type[MixOp], alpha: float, h: int, w: int) -> None:
    u = np.concatenate([np.random.default_rng(0).random((50, 3)), np.zeros((1, 3)), np.full((1, 3), 1 - 2**-32)])
    params = op(alpha).draw(u[:, : op.draws], np.tile(np.array([h, w]), (len(u), 1)))
    for name in ("weight", "label_weight"):
        assert (params[name] >= 0).all() and (params[name] <= 1).all()
        assert (params[name].astype(np.float32) == params[name]).all()
        assert (np.float32(1) - params[name].astype(np.float32) == 1 - params[name]).all()  # exact, both
    box = params["box"]
    assert (box >= 0).all() and (box[:, :2] + box[:, 2:] <= [h, w]).all()


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"alpha": 0}, r"MixUp: alpha must be a number in \[1e-06, 1e\+06\], got 0"),
        ({"alpha": float("nan")}, "MixUp: alpha must be a number .* got nan"),
        ({"alpha": (0.1, 0.2)}, "MixUp: alpha must be a number"),
        ({"num_classes": 0}, "MixUp: num_classes must be a whole number ≥ 1, or None .* got 0"),
        ({"num_classes": 2.0}, "num_classes"),
        ({"labels": 3}, "MixUp: labels must be the name of a field, got 3"),
        ({"labels": ""}, "labels"),
        ({"group": 7}, r"MixUp: group must be an even number of samples in \[2, 4096\], got 7"),
        ({"group": 0}, "group"),
        ({"group": True}, "group"),
        ({"smoothing": 1.0}, r"MixUp: smoothing must be a number in \[0, 1\), got 1.0"),
        ({"p": 1.5}, r"MixUp: p must be a probability"),
    ],
)
def test_fields_are_checked(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixUp(**fields)


@pytest.mark.parametrize("op", [MixUp(), CutMix(0.3, num_classes=9, group=16, labels="y", smoothing=0.1, p=0.5)])
def test_round_trips(op: MixOp) -> None:
    policy = Policy([OneOf([op, CutMix(alpha=0.7)])])
    assert Policy.from_dict(policy.to_dict()) == policy and pickle.loads(pickle.dumps(op)) == op == copy.deepcopy(op)
    assert eval(repr(op)) == op


# Who mixes with whom -----------------------------------------------------------------------------------------------


@given(st.integers(0, 2**40), st.sampled_from([2, 4, 6, 8, 10, 64]), st.integers(0, 200), st.data())
@settings(max_examples=100, deadline=None)
def test_partners_are_mutual_and_of_a_group(start: int, group: int, n: int, data: st.DataObject) -> None:
    positions = start + np.arange(n)
    gone = data.draw(st.sets(st.integers(0, max(n - 1, 0)), max_size=n))
    here = np.array([i for i in data.draw(st.permutations(range(n))) if i not in gone], int)
    found = partners(positions[here], KEY, group)
    rows = np.arange(len(here))
    assert (found[found] == rows).all()
    assert (positions[here][found] // group == positions[here] // group).all()
    first, last = start - start % group, (start + n) // group * group
    whole = partners(np.arange(first, last + group), KEY, group)
    assert (whole != np.arange(len(whole))).all()
    for row, place in enumerate(here.tolist()):  # the same as in the whole epoch, or none
        partner = first + whole[start + place - first]
        there = np.flatnonzero(positions[here] == partner)
        assert found[row] == (there[0] if len(there) else row)


@pytest.mark.parametrize("group, matchings", [(2, 1), (4, 3), (6, 15)])
def test_matchings_are_equally_likely(group: int, matchings: int) -> None:
    found = partners(np.arange(group * 6000), KEY, group).reshape(-1, group) % group
    counts = collections.Counter(map(tuple, found.tolist()))
    assert len(counts) == matchings
    assert matchings == 1 or stats.chisquare(list(counts.values())).pvalue > 1e-4


def test_matchings_change_from_epoch_to_epoch() -> None:
    epochs = [partners(np.arange(800), rng.make_key(0, epoch), 8) for epoch in range(2)]
    assert (epochs[0] == epochs[1]).mean() < 0.25  # 1 / 7 by chance


def test_what_fills_up_has_no_partner_and_is_none() -> None:
    alone = partners(np.arange(16), KEY, 8)
    partner = int(alone[5])
    positions = np.arange(16)
    positions[partner] = -1
    found = partners(positions, KEY, 8)
    assert found[5] == 5 and found[partner] == partner
    again = np.concatenate([np.arange(16), np.arange(16)])  # of several at one position the first counts
    assert partners(again, KEY, 8).tolist() == [*alone.tolist(), *range(16, 32)]
    assert partners(np.full(4, -1), KEY, 8).tolist() == [0, 1, 2, 3]
    assert partners(np.zeros(0, np.int64), KEY, 8).tolist() == []


# Pixels ------------------------------------------------------------------------------------------------------------


def values(random: np.random.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    x = random.normal(size=shape)
    if dtype == torch.uint8:
        return torch.from_numpy((x * 60 + 120).clip(0, 255)).to(dtype)
    return torch.from_numpy(x * 10.0 ** random.integers(-7, 4)).to(dtype)  # halves below their normal range, too


def random_params(random: np.random.Generator, n: int, h: int, w: int) -> MixParams:
    """Some unpaired, some with a box, some with a weight, some with both, some with neither."""
    partner, order = np.arange(n), random.permutation(n)
    for a, b in zip(order[::2].tolist(), order[1::2].tolist(), strict=False):
        if random.random() < 0.9:
            partner[a], partner[b] = b, a
    alone = partner == np.arange(n)
    weight = np.where((random.random(n) < 0.5) | alone, 1.0, random.integers(0, 2**24 + 1, n) / 2**24)
    y, x = (np.sort(random.integers(0, side + 1, (n, 2)), axis=1) for side in (h, w))
    box = np.stack([y[:, 0], x[:, 0], y[:, 1] - y[:, 0], x[:, 1] - x[:, 0]], axis=1)
    box[(random.random(n) < 0.4) | alone] = 0
    return MixParams(partner, weight.astype(np.float32), box.astype(np.int32), weight.astype(np.float32))


def specified(x: torch.Tensor, p: MixParams, layout: str) -> torch.Tensor:
    array = x.float().numpy() if x.dtype == torch.bfloat16 else x.numpy()
    return torch.from_numpy(mix(array, p.partner, p.weight, p.box, layout=layout)).to(x.dtype)


def bits(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(-1).view(torch.uint8)


def random_batch(seed: int) -> tuple[torch.Tensor, MixParams, str]:
    random = np.random.default_rng(seed)
    n, channels, layout = int(random.integers(2, 9)), int(random.integers(1, 4)), ("nchw", "nhwc")[seed // 4 % 2]
    h, w = (int(v) for v in random.integers(1, 30, 2)) if seed % 3 else (int(8 * random.integers(1, 4)), 16)
    shape = (n, channels, h, w) if layout == "nchw" else (n, h, w, channels)
    return values(random, shape, DTYPES[seed % 4]), random_params(random, n, h, w), layout


@pytest.mark.parametrize("first", range(0, 240, 24))
def test_native_equals_the_specification(first: int) -> None:
    for seed in range(first, first + 24):
        x, params, layout = random_batch(seed)
        wanted, got = specified(x, params, layout), x.clone()
        native.mix(got, params.pairs, layout=layout, threads=1 + seed % 3)
        assert torch.equal(bits(got), bits(wanted)), seed
        still = (params.weight == 1) & (params.box[:, 2:] == 0).any(axis=1)
        assert torch.equal(bits(got[still]), bits(x[still])), seed


@pytest.mark.parametrize("weight", [0.0, 1.0, 0.5, 12345678 / 2**24])
def test_mixup_equals_torchvisions(weight: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 9, 7)  # of two, torchvision's roll pairs each with the other
    wanted = v2.MixUp(num_classes=2).transform(x, {"lam": weight, "labels": torch.zeros(2), "batch_size": 2})
    pairs = np.zeros(1, native.MIX_PAIR)
    pairs["rows"], pairs["weights"] = [0, 1], weight
    got = x.clone()
    native.mix(got, pairs)
    assert torch.equal(got, wanted)


def test_cutmix_equals_torchvisions() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 9, 7)
    params = {"box": (1, 2, 5, 9), "lam_adjusted": 0.5, "labels": torch.zeros(2), "batch_size": 2}
    pairs = np.zeros(1, native.MIX_PAIR)
    pairs["rows"], pairs["weights"], pairs["boxes"] = [0, 1], 1, [2, 1, 7, 4]
    got = x.clone()
    native.mix(got, pairs)
    assert torch.equal(got, v2.CutMix(num_classes=2).transform(x, params))


def test_float16_from_end_to_end() -> None:
    """Every half that is finite, blended with zero at weight ½ and 2⁻²⁴, and with itself."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)]
    x = torch.from_numpy(np.stack([every, np.zeros_like(every)])).view(2, 1, 1, -1)
    for weight in (0.5, 2.0**-24, 3 * 2.0**-5):
        pairs = np.zeros(1, native.MIX_PAIR)
        pairs["rows"], pairs["weights"] = [0, 1], weight
        got = x.clone()
        native.mix(got, pairs)
        with np.errstate(under="ignore"):
            wanted = (np.float32(weight) * every.astype(np.float32)).astype(np.float16)
        assert np.array_equal(got[0].numpy().ravel(), wanted)


def test_struct_is_mirrored() -> None:
    layout = native.struct_layouts()["MixPair"]
    assert layout.pop("") == native.MIX_PAIR.itemsize
    assert layout == {name: native.MIX_PAIR.fields[name][1] for name in native.MIX_PAIR.names}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"rows": [3, 4]}, "pair 1: expected samples 0 to 3, got 4"),
        ({"rows": [-1, 2]}, "pair 1: expected samples"),
        ({"rows": [2, 2]}, "pair 1: sample 2 stands in two pairs, or twice in one"),
        ({"rows": [2, 1]}, "pair 1: sample 1 stands in two pairs"),
        ({"weights": [0.5, 1.1]}, r"pair 1: weights must lie in \[0, 1\], got 1.1"),
        ({"weights": [float("nan"), 1]}, "pair 1: weights must lie"),
        ({"boxes": [[0, 0, 0, 0], [3, 0, 3, 1]]}, r"pair 1: a box must lie inside 5x6 px, got y=3, x=0, h=3, w=1"),
        ({"boxes": [[0, 0, 0, 0], [0, -1, 1, 1]]}, "pair 1: a box must lie inside"),
        ({"boxes": [[0, 2**31 - 1, 1, 2**31 - 1], [0, 0, 0, 0]]}, "pair 1: a box must lie inside"),
    ],
)
def test_native_refuses(change: dict[str, Any], message: str) -> None:
    pairs = np.zeros(2, native.MIX_PAIR)
    pairs["rows"], pairs["weights"] = [[0, 1], [2, 3]], 0.5
    for name, value in change.items():
        pairs[name][1] = value
    x = torch.ones(4, 3, 5, 6)
    with pytest.raises(ValueError, match=message):
        native.mix(x, pairs)
    assert (x == 1).all()


def test_native_refuses_other_batches() -> None:
    x, pairs = torch.ones(4, 3, 5, 6), np.zeros(0, native.MIX_PAIR)
    native.mix(x, pairs)  # nothing to do
    native.mix(torch.ones(0, 3, 5, 6), pairs)
    for call, message in (
        (lambda: native.mix(x.double(), pairs), "batch must be one of .* got torch.float64"),
        (lambda: native.mix(x[0], pairs), "batch must be contiguous with 4 axes"),
        (lambda: native.mix(x.transpose(2, 3), pairs), "batch must be contiguous"),
        (lambda: native.mix(x, pairs, layout="chwn"), "layout must be"),
        (lambda: native.mix(x, pairs, threads=0), "threads must be at least 1"),
        (lambda: native.mix(x, np.zeros(2, np.int64)), "pairs must be contiguous MIX_PAIR"),
        (lambda: native.mix(x, np.zeros(4, native.MIX_PAIR)[::2]), "pairs must be contiguous MIX_PAIR"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


class Params(ctypes.Structure):
    """`MixParams` of csrc/mix.h."""

    _fields_ = (
        ("pairs", ctypes.c_void_p),
        *((name, ctypes.c_int32) for name in "pair_count n channels h w dtype layout".split()),
        ("batch", ctypes.c_void_p),
    )


@pytest.fixture(scope="session")
def cuda_on_cpu(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """csrc/cuda/mix.cu, compiled for the host."""
    compiler = next(filter(shutil.which, (os.environ.get("CXX", "c++").split()[0], "g++", "clang++")), None)
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    library = tmp_path_factory.mktemp("cuda_on_cpu") / "mix.so"
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-shared", "-pthread"]
    include = [f"-I{ROOT / 'tests/cuda_on_cpu'}", f"-I{ROOT / 'csrc'}"]
    source = ROOT / "tests/cuda_on_cpu/mix.cpp"
    subprocess.run([compiler, *flags, *include, str(source), "-o", str(library)], check=True, timeout=200)
    function = ctypes.CDLL(str(library)).mix
    function.restype = ctypes.c_char_p

    def run(batch: torch.Tensor, pairs: np.ndarray, layout: str) -> None:
        n, *sides = batch.shape
        c, h, w = sides if layout == "nchw" else (sides[2], *sides[:2])
        layout_number, dtype = ("nchw", "nhwc").index(layout), DTYPES.index(batch.dtype)
        params = Params(pairs.ctypes.data, len(pairs), n, c, h, w, dtype, layout_number, batch.data_ptr())
        message = function(ctypes.byref(params)).decode()
        assert not message, message

    return run


def test_cuda_kernel_on_the_cpu(cuda_on_cpu: Any) -> None:
    for seed in range(96):
        x, params, layout = random_batch(seed)
        wanted = specified(x, params, layout)
        cuda_on_cpu(x, params.pairs, layout)
        assert torch.equal(bits(x), bits(wanted)), seed


def test_cuda_takes_more_pairs_than_a_launch_does(cuda_on_cpu: Any) -> None:
    random = np.random.default_rng(0)
    x, params = values(random, (400, 1, 2, 4), torch.float32), random_params(random, 400, 2, 4)
    wanted = specified(x, params, "nchw")
    assert len(params.pairs) > 160
    cuda_on_cpu(x, params.pairs, "nchw")
    assert torch.equal(bits(x), bits(wanted))


@pytest.mark.cuda
@pytest.mark.parametrize("first", range(0, 240, 24))
def test_cuda_equals_the_specification(first: int) -> None:
    for seed in range(first, first + 24):
        x, params, layout = random_batch(seed)
        wanted, got = specified(x, params, layout), x.cuda()
        stream = torch.cuda.Stream() if seed % 3 == 0 else None
        if stream is not None:
            stream.wait_stream(torch.cuda.current_stream())
        native.mix(got, params.pairs, layout=layout, stream=None if stream is None else stream.cuda_stream)
        torch.cuda.synchronize()
        assert torch.equal(bits(got.cpu()), bits(wanted)), seed


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES)
def test_cuda_equals_cpu_on_whole_batches(dtype: torch.dtype) -> None:
    random = np.random.default_rng(3)
    x, params = values(random, (256, 3, 224, 224), dtype), random_params(random, 256, 224, 224)
    got = x.cuda()
    native.mix(got, params.pairs)
    native.mix(x, params.pairs, threads=4)
    assert torch.equal(bits(got.cpu()), bits(x))


# Labels ------------------------------------------------------------------------------------------------------------

INDICES = np.array([3, 0, 4, 4, 1, 2])
PARTNER = np.array([1, 0, 3, 2, 4, 5])
WEIGHT = np.array([0.25, 0.75, 0.125, 1, 1, 1], np.float32)


def test_indices_become_soft_labels() -> None:
    got = soft_labels(MixUp(), INDICES, 5, PARTNER, WEIGHT)
    assert got.dtype == np.float32 and got.tolist() == [
        [0.75, 0, 0, 0.25, 0],
        [0.75, 0, 0, 0.25, 0],
        [0, 0, 0, 0, 1],
        [0, 0, 0, 0, 1],
        [0, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
    ]


def test_labels_mix_as_in_torchvision_and_timm() -> None:
    labels, weight = torch.tensor([2, 0]), 12345678 / 2**24
    given = (np.array([1, 0]), np.full(2, weight, np.float32))
    for transform in (v2.MixUp(num_classes=4), v2.CutMix(num_classes=4)):
        wanted = transform._mixup_label(labels, lam=weight)
        assert np.array_equal(soft_labels(MixUp(), labels.numpy(), 4, *given), wanted.numpy())
    wanted = mixup_target(labels, 4, weight, 0.1)
    assert np.allclose(soft_labels(MixUp(smoothing=0.1), labels.numpy(), 4, *given), wanted, rtol=0, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, bool, np.int64])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_one_hot_labels_mix_as_indices_do(dtype: Any, smoothing: float) -> None:
    one_hot = np.eye(5)[INDICES].astype(dtype)
    before = one_hot.copy()
    got = soft_labels(MixUp(smoothing=smoothing), one_hot, None, PARTNER, WEIGHT)
    wanted = soft_labels(MixUp(smoothing=smoothing, num_classes=5), INDICES, None, PARTNER, WEIGHT)
    assert got.dtype == np.float32 and np.allclose(got, wanted, rtol=0, atol=1e-7)
    assert (one_hot == before).all()


def test_multi_label() -> None:
    labels = np.array([[1, 1, 0], [0, 1, 1]], bool)
    got = soft_labels(CutMix(), labels, None, np.array([1, 0]), np.array([0.25, 1], np.float32))
    assert got.tolist() == [[0.25, 1, 0.75], [0, 1, 1]]


@given(st.integers(1, 40), st.integers(1, 12), st.floats(0, 0.99), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_soft_labels_sum_to_one(n: int, classes: int, smoothing: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    params, labels = random_params(random, n, 4, 4), random.integers(0, classes, n)
    got = soft_labels(MixUp(smoothing=smoothing), labels, classes, params.partner, params.label_weight)
    assert got.shape == (n, classes) and (got >= 0).all()
    assert np.allclose(got.sum(axis=1, dtype=np.float64), 1, rtol=0, atol=1e-6)
    hard = soft_labels(MixUp(), labels, classes, params.partner, params.label_weight)
    assert (hard.sum(axis=1, dtype=np.float64) == 1).all()  # to the bit


@pytest.mark.parametrize(
    "op, labels, message",
    [
        (MixUp(), np.array([1.0, 0.0]), r"MixUp: labels='label' must hold class indices .* got float64 \[2\]"),
        (MixUp(), np.array([True, False]), r"got bool \[2\]"),
        (CutMix(labels="y"), np.zeros((2, 3, 4)), r"CutMix: labels='y' must hold .* got float64 \[2, 3, 4\]"),
        (MixUp(), ["a", "b"], "got a list"),
        (MixUp(), np.array(["a", "b"]), "got <U1"),
        (MixUp(num_classes=4), np.zeros((2, 3)), r"must hold num_classes=4 columns, got float64 \[2, 3\]"),
        (MixUp(), np.array([1, 7]), "must hold indices of 5 classes, 0 to 4, got 7; num_classes= says"),
        (MixUp(num_classes=3), np.array([3, 0]), "must hold indices of 3 classes, 0 to 2, got 3$"),
        (MixUp(), np.array([-1, 0]), "got -1"),
    ],
)
def test_labels_that_do_not_fit(op: MixOp, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        soft_labels(op, labels, 5, np.array([1, 0]), np.ones(2, np.float32))


def test_number_of_classes_must_be_known() -> None:
    with pytest.raises(ValueError, match=r"MixUp: labels='label' holds class indices, .* give num_classes="):
        soft_labels(MixUp(), np.array([1, 0]), None, np.array([1, 0]), np.ones(2, np.float32))


# In a policy -------------------------------------------------------------------------------------------------------

SCHEMA = Schema((Field("image", "image", channels=3), Field("label", "column"), Field("other", "column")))


@pytest.mark.parametrize(
    "nodes, message",
    [
        ([MixUp(), ops.HorizontalFlip()], r"HorizontalFlip\(.*\) stands after MixUp\(\).*: move it before"),
        ([RandomOrder([MixUp(), ops.HorizontalFlip()])], "stands after"),
        ([MixUp(), CutMix()], r"a sample is mixed once: put the mix operators into OneOf\(\[MixUp\(\), CutMix\(\)\]\)"),
        ([RandomApply([MixUp(), CutMix()])], "a sample is mixed once"),
        ([SomeOf([MixUp(), CutMix()], n=(1, 2))], "a sample is mixed once"),
        ([OneOf([MixUp(), CutMix()]), MixUp()], "a sample is mixed once"),
        ([OneOf([MixUp(), CutMix(group=4)])], r"CutMix: group must be 8, as in MixUp\(\), got 4"),
        ([OneOf([MixUp(smoothing=0.1), CutMix()])], "CutMix: smoothing must be 0.1"),
        ([OneOf([MixUp(), CutMix(num_classes=3)])], "CutMix: num_classes must be None"),
        ([OneOf([MixUp(), CutMix(labels="other")])], "CutMix: labels must be 'label'"),
        ([MixUp(labels="target")], "labels must name a field of numbers; there are: 'label', 'other'; got 'target'"),
        ([MixUp(labels="image")], "got 'image'"),
    ],
)
def test_policies_that_cannot_be(nodes: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lower_mix(Policy(nodes), SCHEMA)


@pytest.mark.parametrize("kind", ["mask", "boxes", "points"])
def test_what_moves_with_pictures_cannot_be_mixed(kind: Any) -> None:
    schema = Schema((*SCHEMA.fields, Field("target", kind)))
    with pytest.raises(ValueError, match=r"MixUp\(\) mixes pictures and class labels, but 'target' "):
        lower_mix(Policy([MixUp()]), schema)


def test_python_cannot_follow() -> None:
    for takes in ("pil", "tensor", "float"):
        with pytest.raises(ValueError, match=r"MixUp\(\) cannot come before PythonStep\(.*\), which"):
            lower(Policy([MixUp(), PythonStep(abs, takes)]), SCHEMA)


@pytest.mark.parametrize(
    "nodes",
    [
        [MixUp()],
        [OneOf([MixUp(), CutMix()])],
        [RandomApply([OneOf([MixUp(), CutMix()])], p=0.3)],
        [SomeOf([MixUp(), CutMix()], n=1)],
        [SomeOf([MixUp(), CutMix()], n=(0, 1))],
        [OneOf([MixUp(), OneOf([CutMix(), CutMix(0.2)])])],
    ],
)
def test_policies_that_can_be(nodes: list[Any]) -> None:
    policy = Policy([ops.HorizontalFlip(), *nodes])
    assert lower_mix(policy, SCHEMA) is not None
    assert lower_mix(Policy([ops.HorizontalFlip()]), SCHEMA) is None


def test_a_choice_is_made_for_each_sample() -> None:
    n, policy = 8000, Policy([OneOf([MixUp(p=0.5), CutMix(0.4)], weights=(1, 3))])
    fold = lower_mix(policy, SCHEMA)
    drawn = policy.draw(KEY, np.arange(n), np.full((n, 2), 32))
    params = fold.fold(drawn, np.arange(n), KEY)
    up, cut = (one.applied for one in drawn)
    assert not (up & cut).any() and abs(up.mean() - 0.125) < 0.02 and abs(cut.mean() - 0.75) < 0.02
    assert (params.weight[~up] == 1).all() and (params.box[~cut] == 0).all()
    assert (params.label_weight[~up & ~cut] == 1).all()
    assert stats.chi2_contingency(np.histogram2d(cut, cut[params.partner], 2)[0]).pvalue > 1e-4  # each for itself


# Through the loader ------------------------------------------------------------------------------------------------

MIXED = Policy([ops.RandomCrop(10, padding=2), ops.HorizontalFlip(), ops.Normalize(), OneOf([MixUp(0.8), CutMix()])])
PLAIN = Policy(MIXED.ops[:3])


def source(n: int = 64, labels: Any = None, **kw: Any) -> dalipipe.Arrays:
    random = np.random.default_rng(0)
    labels = np.arange(n) % 5 if labels is None else labels
    return dalipipe.Arrays(
        random.integers(0, 256, (n, 12, 14, 3), dtype=np.uint8), labels, **{"classes": "abcde", **kw}
    )


def make(batch_size: int = 16, policy: Policy = MIXED, data: Any = None, **kw: Any) -> DataLoader:
    given = {"policy": policy, "seed": 5, "device": "cpu", "shuffle": True, "num_workers": 2, **kw}
    return DataLoader(source() if data is None else data, batch_size, **given)


def epoch(*loaders: Any) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """Sample → picture and label, over an epoch of all of these."""
    found = {}
    for loader in loaders:
        for batch in loader:
            counts = getattr(batch, "valid", torch.ones(len(batch.label), dtype=torch.bool))
            for i in torch.nonzero(counts).ravel().tolist():
                found[int(batch.indices[i])] = (batch.image[i].clone(), batch.label[i].clone())
    return found


def same(a: dict[int, Any], b: dict[int, Any]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(bits(x), bits(y)) for i in a for x, y in zip(a[i], b[i], strict=True)
    )


def mixed_share(found: dict[int, Any], plain: dict[int, Any]) -> float:
    return float(np.mean([not torch.equal(found[i][0], plain[i][0]) for i in found]))


def test_loader_mixes_what_was_drawn() -> None:
    loader, plain = make(64), make(64, PLAIN)
    for number in range(2):
        got, was = next(iter(loader)), next(iter(plain))
        assert got.indices.tolist() == was.indices.tolist()
        drawn = MIXED.draw(rng.make_key(5, number), got.indices, np.tile([12, 14], (64, 1)))
        partner = partners(np.arange(64), rng.make_key(5, number), 8)
        x, label = was.image.numpy(), np.eye(5, dtype=np.float32)[was.label.numpy()]
        for row, other in enumerate(partner):
            up, cut = drawn[-2].at(row), drawn[-1].at(row)
            if up is not None:
                weight = share = np.float32(up["weight"])
                wanted = weight * x[row] + (1 - weight) * x[other]
            else:
                (y, left, h, w), share = cut["box"], np.float32(cut["label_weight"])
                wanted = x[row].copy()
                wanted[:, y : y + h, left : left + w] = x[other, :, y : y + h, left : left + w]
            assert np.array_equal(got.image[row].numpy(), wanted)
            assert np.array_equal(got.label[row].numpy(), share * label[row] + (1 - share) * label[other])
        assert got.label.dtype == torch.float32


@pytest.mark.parametrize(
    "batch_size, ranks, threads", [(8, 1, 1), (64, 1, 3), (16, 1, 2), (8, 4, 1), (16, 2, 2), (32, 2, 1)]
)
def test_same_on_any_number_of_ranks(batch_size: int, ranks: int, threads: int) -> None:
    loaders = [make(batch_size, rank=rank, world_size=ranks, num_workers=threads) for rank in range(ranks)]
    found = epoch(*loaders)
    assert same(found, epoch(make(16))) and len(found) == 64
    assert mixed_share(found, epoch(make(16, PLAIN))) > 0.9


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_native_engine_equals_the_reference(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    policy = MIXED if dtype != torch.uint8 else Policy([MIXED.ops[0], MIXED.ops[1], MIXED.ops[3]])
    given = {"dtype": dtype, "memory_format": memory_format}
    ours, theirs = (next(iter(make(16, policy, engine=name, **given))) for name in ("native", "reference"))
    assert ours.image.is_contiguous(memory_format=memory_format)
    assert torch.allclose(
        ours.image.float(), theirs.image.float(), rtol=0, atol=1e-6 if dtype == torch.float32 else 0.02
    )
    assert torch.equal(ours.label, theirs.label)


def test_every_batch_has_soft_labels() -> None:
    for op in (MixUp(p=0.0), MixUp(p=0.0, smoothing=0.1)):
        loader, plain = make(16, Policy([*PLAIN.ops, op])), make(16, PLAIN)
        for got, was in zip(loader, plain, strict=True):
            assert torch.equal(bits(got.image), bits(was.image))
            wanted = torch.full((16, 5), op.smoothing / 5).scatter_(1, was.label[:, None], 1 - op.smoothing * 0.8)
            assert torch.allclose(got.label, wanted, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    "labels", [np.eye(5, dtype=np.float32)[np.arange(64) % 5], np.eye(5, dtype=bool)[np.arange(64) % 5]]
)
def test_one_hot_labels_through_the_loader(labels: np.ndarray) -> None:
    assert same(epoch(make(data=source(labels=labels, classes=None))), epoch(make()))


def test_labels_by_another_name() -> None:
    policy = Policy([*PLAIN.ops, MixUp(labels="kind", num_classes=7)])
    batch = next(iter(make(16, policy, data=source(kind=np.arange(64) % 7))))
    assert batch.kind.shape == (16, 7) and batch.label.dtype == torch.int64


def test_labels_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"MixUp: labels='label' holds class indices, .* give num_classes="):
        next(iter(make(data=source(classes=None))))
    with pytest.raises(ValueError, match=r"must hold indices of 3 classes, 0 to 2, got [34]; num_classes= says"):
        next(iter(make(data=source(classes="abc"))))
    with pytest.raises(ValueError, match="labels must name a field of numbers"):
        make(policy=Policy([MixUp(labels="target")]))


def test_resumes_in_the_middle_of_an_epoch() -> None:
    whole = [(batch.image, batch.label) for batch in make(8)]
    for step in (0, 3, 8):
        loader = make(8)
        batches = iter(loader)
        for _ in range(step):
            next(batches)
        resumed = make(8)
        resumed.load_state_dict(loader.state_dict())
        if step < 8:
            rest = [(batch.image, batch.label) for batch in resumed]
            assert len(rest) == 8 - step
            assert all(
                torch.equal(a, b)
                for one, two in zip(rest, whole[step:], strict=True)
                for a, b in zip(one, two, strict=True)
            )
    resumed = make(16, rank=1, world_size=2)  # with another world size
    loader = make(32)
    batches = iter(loader)
    next(batches)
    resumed.load_state_dict(loader.state_dict())
    assert torch.equal(next(resumed.__iter__()).image, next(batches).image[16:])


def test_what_only_fills_up_mixes_with_nobody() -> None:
    """20 samples on two ranks of 8: the second global batch is filled up with 12 of the epoch's first samples."""

    def ranks(policy: Policy) -> list[DataLoader]:
        return [make(8, policy, source(20), rank=rank, world_size=2, shards="exact") for rank in range(2)]

    filling = 0
    for ours, theirs in zip(ranks(MIXED), ranks(PLAIN), strict=True):
        for got, was in zip(ours, theirs, strict=True):
            assert torch.equal(bits(got.image[~got.valid]), bits(was.image[~got.valid]))
            filling += int((~got.valid).sum())
    assert filling == 12
    assert same(epoch(*ranks(MIXED)), epoch(make(24, data=source(20))))


def test_a_bad_sample_leaves_its_partner_as_it_is(jpeg_folder: Any) -> None:
    root = jpeg_folder(32, classes=2)
    images = dalipipe.ImageFolder(root)
    policy = Policy([ops.Resize((16, 16)), ops.Normalize(), MixUp()])
    good = epoch(make(16, policy, data=images))
    plain = epoch(make(16, Policy(policy.ops[:2]), data=images))
    order = np.concatenate([batch.indices for batch in make(16, policy, data=images)])
    alone = int(partners(np.arange(32), rng.make_key(5, 0), 8)[11])
    Path(images.describe(int(order[11]))).write_bytes(b"no picture")
    loader = make(16, policy, data=dalipipe.ImageFolder(root), on_error="skip", max_bad=0.5)
    found = epoch(loader)
    assert good.keys() - found.keys() == {int(order[11])}
    for index, (image, label) in found.items():
        if index == int(order[alone]):
            assert torch.equal(image, plain[index][0]) and label.max() == 1
        else:
            assert torch.equal(image, good[index][0]) and torch.equal(label, good[index][1])


def test_batches_that_cut_groups_are_warned_of_once() -> None:
    with pytest.warns(
        UserWarning, match="a batch of 12 cuts MixUp's groups of 8: .* 8 divides, or MixUp a group of 6"
    ) as said:
        loader = make(12)
        for _ in range(2):
            epoch(loader)
    assert len([one for one in said if "cuts" in str(one.message)]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        epoch(make(24))
        epoch(make(12, PLAIN))


def test_a_batch_that_cuts_groups_mixes_within_itself() -> None:
    with pytest.warns(UserWarning, match="cuts"):
        cut = epoch(make(12))
    whole, plain = epoch(make(64)), epoch(make(64, PLAIN))
    for index, (image, label) in cut.items():
        assert torch.equal(image, whole[index][0]) or torch.equal(image, plain[index][0])
        assert label.sum() == 1
    assert 0.5 < mixed_share(cut, plain) < mixed_share(whole, plain)


def test_masks_and_mixing_do_not_go_together() -> None:
    data = source()
    data.schema = Schema((*data.schema.fields, Field("mask", "mask")))
    with pytest.raises(ValueError, match=r"mixes pictures and class labels, but 'mask' is a mask"):
        make(data=data)


@pytest.mark.cuda
def test_loader_on_cuda_equals_the_cpu() -> None:
    ours, theirs = epoch(make(16, device="cuda")), epoch(make(16))
    assert all(image.is_cuda and label.is_cuda for image, label in ours.values())
    assert same({i: (image.cpu(), label.cpu()) for i, (image, label) in ours.items()}, theirs)
