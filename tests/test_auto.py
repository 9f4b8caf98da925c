"""Automatic policies: operators, magnitudes, how often they come, and pictures are torchvision's."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from drawing import HEIGHT, KEY, WIDTH, N, border, draw, ks, likely, named, picture

from dalipipe.engines import make_engine
from dalipipe.engines.base import Output
from dalipipe.ops import image as ops
from dalipipe.ops.image.auto import MixtureStep, linspace
from dalipipe.ops.image.families import BlendOp, WarpOp
from dalipipe.plan import lower
from dalipipe.policy import Drawn, Policy
from dalipipe.quantiles import beta_quantile
from dalipipe.records import Pictures
from dalipipe.schema import Field, Schema

torch = pytest.importorskip("torch")
v2 = pytest.importorskip("torchvision.transforms.v2")


def theirs(name: str, magnitude: float) -> float:
    """torchvision's magnitude as `named` sees it: what matters of it."""
    if name.startswith("Translate") or name == "Posterize":
        return float(int(magnitude))
    if name == "Solarize":
        values = torch.arange(256, dtype=torch.uint8)
        return float((values < 255.0 * magnitude).sum())
    return magnitude


def their_space(space: Any, bins: int, chosen: Any, height: int = HEIGHT, width: int = WIDTH) -> dict[str, list[float]]:
    """By operator: the signed magnitudes that torchvision chooses from, equally likely."""
    found = {}
    for name, (magnitudes_of, signed) in space.items():
        magnitudes = magnitudes_of(bins, height, width)
        if magnitudes is None:
            found[name] = [0.0]
        else:
            picked = [float(magnitudes[i]) for i in chosen]
            found[name] = [sign * m for m in picked for sign in ((1.0, -1.0) if signed else (1.0,))]
    return found


def close(name: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a - b) <= 2e-6 * (100.0 if name == "Rotate" else 1.0)


AUTO = [
    (ops.RandAugment(), v2.RandAugment(), range(9, 10)),
    (ops.RandAugment(1, 30), v2.RandAugment(1, 30), range(30, 31)),
    (ops.RandAugment(3, 5, 11), v2.RandAugment(3, 5, 11), range(5, 6)),
    (ops.RandAugment(1, 0), v2.RandAugment(1, 0), range(1)),
    (ops.TrivialAugmentWide(), v2.TrivialAugmentWide(), range(31)),
    (ops.TrivialAugmentWide(7), v2.TrivialAugmentWide(7), range(7)),
]
IDS = [repr(ours) for ours, _, _ in AUTO]


@pytest.mark.parametrize(("ours", "other", "chosen"), AUTO, ids=IDS)
def test_operators_and_magnitudes_are_torchvisions(ours: Any, other: Any, chosen: Any) -> None:
    space = their_space(other._AUGMENTATION_SPACE, other.num_magnitude_bins, chosen)
    drawn = draw(ours)
    places = getattr(ours, "num_ops", 1)
    per_place = len(space) - 1  # all but Identity
    assert len(drawn) == places * per_place
    for place in range(places):
        applied = np.zeros(N, np.int64)
        names = set()
        for one in drawn[place * per_place : (place + 1) * per_place]:
            name, magnitudes = named(one)
            names.add(name)
            applied[one.rows] += 1
            assert likely(len(one.rows), N, 1 / len(space)), name
            expected = np.array([theirs(name, m) for m in space[name]])
            hits = close(name, magnitudes[:, None], expected)
            assert hits.any(axis=1).all(), name
            for value in np.unique(expected):
                share = close(name, expected, value).mean()
                assert likely(close(name, magnitudes, value).sum(), len(magnitudes), share), (name, value)
        assert names == set(space) - {"Identity"}
        assert applied.max() == 1  # exactly one operator in each place, Identity included
        assert likely((applied == 0).sum(), N, 1 / len(space))


def test_places_are_drawn_independently() -> None:
    drawn = draw(ops.RandAugment(2))
    which = np.full((2, N), 13)
    for i, one in enumerate(drawn):
        which[i // 13, one.rows] = i % 13
    assert likely((which[0] == which[1]).sum(), N, 1 / 14)


@pytest.mark.parametrize("bins", [2, 3, 10, 11, 31, 64, 100])
def test_linspace_is_torchs(bins: int) -> None:
    for ends in ((0.0, 0.3), (0.0, 0.9), (0.0, 0.99), (1.0, 0.0), (0.0, 30.0), (0.0, 135.0), (0.0, 32.0)):
        expected = torch.linspace(*ends, bins).numpy()
        ulps = 0 if "AVX" in torch.backends.cpu.get_cpu_capability() else 2  # without fused multiply-add torch's differ
        assert np.abs(linspace(*ends, bins) - expected).max() <= ulps * 2.0**-24 * max(ends)


@pytest.mark.parametrize(
    ("ours", "other", "bins"),
    [
        (ops.RandAugment, v2.RandAugment, 31),
        (ops.RandAugment, v2.RandAugment, 10),
        (ops.AugMix, v2.AugMix, 10),
        (ops.AutoAugment, v2.AutoAugment, 10),
    ],
)
def test_translations_are_torchvisions_for_every_width(ours: Any, other: Any, bins: int) -> None:
    """Cut to whole pixels, of float32: what is whole by the formula must not come out one pixel less."""
    space = other._AUGMENTATION_SPACE["TranslateX"][0]
    width = np.arange(1, 1400)
    size = np.stack([np.full_like(width, 20), width], axis=1)
    if ours is ops.AugMix:
        chosen, node = (1, 2), ours().nodes()[0].ops[2]
    elif ours is ops.AutoAugment:  # CIFAR10's with TranslateX at 9
        chosen, node = (9,), ours("cifar10").nodes()[0].ops[1].ops[1]
    else:
        chosen, node = (bins - 1,), ours(1, bins - 1, bins).nodes()[0].ops[2]
    expected = np.array([[int(float(space(bins, 20, int(w))[i])) for i in chosen] for w in width])
    for u in np.linspace(0, 0.999, 12):
        shift = np.abs(node.draw(np.full((len(width), node.draws), u), size)["matrix"][:, 0, 2])
        found = (shift[:, None] == expected) | ((shift == 0)[:, None] & (ours is ops.AugMix))  # its first bin is 0
        assert found.any(axis=1).all(), u


# Pictures ----------------------------------------------------------------------------------------------------------


EXACT = ("TranslateX", "TranslateY", "Brightness", "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize")
EXACT += ("Invert",)


def assert_like(name: str, ours: np.ndarray, expected: np.ndarray, left_out: np.ndarray, bilinear: bool) -> None:
    apart = np.abs(ours.astype(np.int64) - expected)[~left_out]
    if name in EXACT:
        assert not apart.any(), name
    elif name in ("Color", "Contrast"):
        assert apart.max() <= 2 and (apart > 1).mean() <= 0.02, (name, apart.max(), (apart > 1).mean())
    elif bilinear:
        assert apart.max(initial=0) <= 1, (name, apart.max())
    else:  # nearest: where a sample falls midway between two pixels, either is
        assert (apart > 0).any(axis=-1).sum() <= max(1, 0.02 * len(apart)), (name, (apart > 0).mean())


@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH, 3), (24, 24, 1), (1, 1, 3), (1, 9, 3)])
@pytest.mark.parametrize(("interpolation", "fill"), [("nearest", 0), ("bilinear", (10, 200, 90))])
@pytest.mark.parametrize("number", [0, 1, 4])
def test_pictures_are_torchvisions(shape: tuple[int, int, int], interpolation: str, fill: Any, number: int) -> None:
    """Every operator at every magnitude that is drawn."""
    ours, other, chosen = AUTO[number]
    ours = type(ours)(**{**vars(ours), "interpolation": interpolation, "fill": fill})
    x = picture(*shape)
    fill = fill[: shape[2]] if isinstance(fill, tuple) else fill
    image = torch.from_numpy(x).permute(2, 0, 1)
    other = type(other)(interpolation=v2.InterpolationMode(interpolation), fill=fill)
    space = their_space(other._AUGMENTATION_SPACE, other.num_magnitude_bins, chosen, *shape[:2])
    n = 4000
    seen = 0
    for one in Policy([ours]).draw(KEY, np.arange(n), np.tile([shape[:2]], (n, 1))):
        name, magnitudes = named(one)
        for magnitude in space[name]:
            places = np.flatnonzero(close(name, magnitudes, theirs(name, magnitude)))
            if not len(places):
                continue
            expected = other._apply_image_or_video_transform(image, name, magnitude, other.interpolation, other._fill)
            found = one.reference(one.rows[places[0]], x)
            bilinear = interpolation == "bilinear"
            left_out = np.zeros(shape[:2], bool)
            if bilinear and isinstance(one.op, WarpOp):
                left_out = border(one, one.rows[places[0]], shape)
            assert_like(name, found, expected.permute(1, 2, 0).numpy(), left_out, bilinear)
            seen += 1
    assert seen >= sum(map(len, space.values())) * 0.9


# AutoAugment -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["imagenet", "cifar10", "svhn"])
def test_autoaugment_has_torchvisions_tables(policy: str) -> None:
    other = v2.AutoAugment(v2.AutoAugmentPolicy(policy))
    drawn = draw(ops.AutoAugment(policy))
    assert len(drawn) == 50
    pair_of = np.full(N, -1)
    for i, pair in enumerate(other._policies):
        both = np.ones(N, bool)
        for one, (name, p, index) in zip(drawn[2 * i : 2 * i + 2], pair, strict=True):
            ours, magnitudes = named(one)
            assert ours == name
            assert likely(len(one.rows), N, p / 25)
            expected = their_space(other._AUGMENTATION_SPACE, 10, [index or 0])[name]
            wanted = np.array([theirs(name, m) for m in expected])
            assert close(name, magnitudes[:, None], wanted).any(axis=1).all(), (i, name)
            if len(set(wanted)) == 2:
                assert likely((magnitudes > 0).sum(), len(magnitudes), 0.5)
            both &= one.applied
            assert ((pair_of[one.rows] == -1) | (pair_of[one.rows] == i)).all()  # operators of one pair only
            pair_of[one.rows] = i
        assert likely(both.sum(), N, pair[0][1] * pair[1][1] / 25)


# AugMix ------------------------------------------------------------------------------------------------------------


def chains(drawn: list[Drawn], row: int) -> tuple[list[list[Drawn]], list[float], float]:
    """What is drawn for one sample: the operators of each chain, their weights, the kept picture's."""
    found: list[list[Drawn]] = [[]]
    weights, kept = [], math.nan
    for one in drawn:
        params = one.at(row)
        if isinstance(one.op, MixtureStep):
            assert params is not None
            if one.op.step != "keep":
                weights.append(float(params["weight"]))
                found.append([])
            if one.op.step == "last":
                kept = float(params["kept_weight"])
        elif params is not None:
            found[-1].append(one)
    assert found.pop() == []
    return found, weights, kept


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
@pytest.mark.parametrize("width", [1, 3])
def test_augmix_weights_are_torchvisions(alpha: float, width: int) -> None:
    steps = [one for one in draw(ops.AugMix(alpha=alpha, width=width)) if isinstance(one.op, BlendOp)]
    assert [one.op.step for one in steps] == ["keep", *["add"] * (width - 1), "last"]
    weights = np.stack([one.params["weight"] for one in steps[1:]], axis=1)
    kept = steps[-1].params["kept_weight"]
    assert np.abs(weights.sum(axis=1) + kept - 1).max() < 1e-12
    torch.manual_seed(3)
    m = torch._sample_dirichlet(torch.full((N, 2), alpha, dtype=torch.float64))
    mixing = torch._sample_dirichlet(torch.full((N, width), alpha, dtype=torch.float64)) * m[:, 1:]
    assert ks(kept, m[:, 0].numpy()) < 2.0
    for i in range(width):
        assert ks(weights[:, i], mixing[:, i].numpy()) < 2.0
    if width > 1:  # the weights of two chains go together as theirs do
        assert ks(weights[:, 0] * weights[:, 1], (mixing[:, 0] * mixing[:, 1]).numpy()) < 2.0
    grid = np.linspace(0.01, 0.99, 99)
    inside = np.searchsorted(np.sort(kept), beta_quantile(alpha, alpha)(grid)) / N
    assert np.abs(inside - grid).max() < 2.0 / math.sqrt(N)


@pytest.mark.parametrize(("all_ops", "severity"), [(True, 3), (False, 3), (True, 10)])
def test_augmix_chains_are_torchvisions(all_ops: bool, severity: int) -> None:
    other = v2.AugMix(severity=severity, all_ops=all_ops)
    space = their_space(
        other._AUGMENTATION_SPACE if all_ops else other._PARTIAL_AUGMENTATION_SPACE, 10, range(severity)
    )
    drawn = draw(ops.AugMix(severity, all_ops=all_ops))
    length = np.zeros((3, N), np.int64)
    counts: dict[str, int] = dict.fromkeys(space, 0)
    chain = 0
    for one in drawn:
        if isinstance(one.op, MixtureStep):
            chain += one.op.step != "keep"
            continue
        length[chain, one.rows] += 1
        name, magnitudes = named(one)
        counts[name] += len(one.rows)
        expected = np.array([theirs(name, m) for m in space[name]])
        assert close(name, magnitudes[:, None], expected).any(axis=1).all(), name
    for row in length:
        assert likely((row == 1).sum(), N, 1 / 3) and likely((row == 2).sum(), N, 1 / 3)
        assert likely((row == 3).sum(), N, 1 / 3)
    assert all(likely(count, int(length.sum()), 1 / len(space)) for count in counts.values()), counts
    assert abs(np.corrcoef(length)[0, 1]) < 0.05


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_augmix_depth_is_fixed_where_given(depth: int) -> None:
    drawn = draw(ops.AugMix(depth=depth, width=2), n=200)
    for row in range(200):
        assert [len(chain) for chain in chains(drawn, row)[0]] == [depth, depth]


@pytest.mark.parametrize("width", [1, 3])
def test_augmix_pictures_are_torchvisions(width: int) -> None:
    """torchvision's own mixture, made to use what is drawn here."""
    x = picture(HEIGHT, WIDTH, 3)
    image = torch.from_numpy(x).permute(2, 0, 1)
    drawn = draw(ops.AugMix(depth=2, width=width, severity=10), n=40)
    for row in range(40):
        found, weights, kept = chains(drawn, row)
        todo = [one for chain in found for one in chain]
        shares = [[kept, 1.0 - kept], [w / max(1.0 - kept, 1e-9) for w in weights]]
        other = v2.AugMix(chain_depth=2, mixture_width=width)
        other._sample_dirichlet = lambda params, shares=shares: torch.tensor([shares.pop(0)], dtype=torch.float32)

        def apply(batch: Any, *_: Any, todo: list[Drawn] = todo, row: int = row, **__: Any) -> Any:
            done = todo.pop(0).reference(row, batch[0].permute(1, 2, 0).numpy())
            return torch.from_numpy(np.ascontiguousarray(done)).permute(2, 0, 1)[None]

        other._apply_image_or_video_transform = apply
        expected = other(image).permute(1, 2, 0).numpy()
        assert not todo and not shares
        mixed = kept * x.astype(np.float64)
        for chain, weight in zip(found, weights, strict=True):
            y = x
            for one in chain:
                y = one.reference(row, y)
            mixed += weight * y
        assert np.abs(mixed - expected.astype(np.float64)).max() < 1.001  # theirs is cut to uint8


def test_a_mixture_draws_for_itself() -> None:
    """Two mixtures in a policy do not share weights, and slots before one do not change them."""
    first, second = (
        [one.params["weight"] for one in draw(*nodes, n=50) if isinstance(one.op, MixtureStep)]
        for nodes in ((ops.AugMix(), ops.AugMix()), (ops.AugMix(),))
    )
    assert len(first) == 8 and all((a == b).all() for a, b in zip(first, second, strict=False))
    assert (first[1] != first[5]).all()


def test_mixture_takes_any_operators() -> None:
    mixture = ops.Mixture((ops.Invert(), ops.HorizontalFlip(p=1.0)), width=2, depth=1)
    drawn = draw(mixture, n=300)
    for row in range(0, 300, 10):
        assert [len(chain) for chain in chains(drawn, row)[0]] == [1, 1]
    assert Policy.from_dict(json.loads(json.dumps(Policy([mixture]).to_dict()))) == Policy([mixture])


# Engines -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "macro", [ops.RandAugment(1, 25), ops.TrivialAugmentWide(fill=(9, 80, 200)), ops.AugMix(depth=1)], ids=repr
)
def test_engines_agree(macro: Any, channels: int) -> None:
    """Where no two warps follow each other, which a pass would sample as one: bit for bit."""
    plan = lower(Policy([macro]), Schema((Field("image", "image", channels=channels), Field("label", "column"))))
    images = [picture(33, 41, channels, seed) for seed in range(100)]
    draws = plan.draw(KEY, np.arange(100), np.tile([[33, 41]], (100, 1)))
    output = Output(torch.device("cpu"), torch.uint8, torch.contiguous_format)
    native, reference = (
        make_engine(name, plan, output, threads=1).start(Pictures.from_arrays(images), draws)()
        for name in ("native", "reference")
    )
    assert torch.equal(native, reference)


# As data, and errors -----------------------------------------------------------------------------------------------

MACROS = [
    ops.RandAugment(),
    ops.RandAugment(3, 4, 11, "bilinear", (1.0, 2.0, 3.0)),
    ops.RandAugment(0),
    ops.TrivialAugmentWide(fill=128),
    ops.AutoAugment("svhn"),
    ops.AugMix(5, 2, 2, 0.5, all_ops=False),
]


@pytest.mark.parametrize("macro", MACROS, ids=repr)
def test_json_pickle_and_repr(macro: Any) -> None:
    policy = Policy([macro])
    data = policy.to_dict()
    assert data["ops"][0]["op"] == type(macro).__name__ and "ops" not in data["ops"][0]
    assert Policy.from_dict(json.loads(json.dumps(data))) == policy
    assert pickle.loads(pickle.dumps(macro)) == macro and hash(macro) == hash(pickle.loads(pickle.dumps(macro)))
    assert eval(repr(macro), vars(ops)) == macro
    nodes = Policy(macro.nodes())
    again = Policy.from_dict(json.loads(json.dumps(nodes.to_dict())))
    assert again == nodes


@pytest.mark.parametrize("macro", MACROS, ids=repr)
def test_draws_depend_on_the_sample_alone(macro: Any) -> None:
    policy = Policy([macro])
    indices = np.random.default_rng(0).integers(0, 10**9, 60)
    size = np.stack([40 + indices % 17, 50 + indices % 13], axis=1)
    whole, part = policy.draw(KEY, indices, size), policy.draw(KEY, indices[17:41], size[17:41])
    for a, b in zip(whole, part, strict=True):
        for row in range(24):
            ours, other = b.at(row), a.at(row + 17)
            assert (ours is None) == (other is None)
            assert ours is None or all((value == other[name]).all() for name, value in ours.items())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ops.RandAugment(-1), r"RandAugment: num_ops must be a whole number ≥ 0, got -1"),
        (lambda: ops.RandAugment(2.0), r"RandAugment: num_ops must be a whole number ≥ 0, got 2\.0"),  # type: ignore
        (lambda: ops.RandAugment(magnitude=-1), r"RandAugment: magnitude must be a whole number in \[0, 30\], got -1"),
        (lambda: ops.RandAugment(magnitude=31), r"RandAugment: magnitude must be .* \[0, 30\], got 31"),
        (lambda: ops.RandAugment(num_bins=1), r"RandAugment: num_bins must be a whole number ≥ 2, got 1"),
        (lambda: ops.RandAugment(interpolation="cubic"), "RandAugment: interpolation must be"),  # type: ignore
        (lambda: ops.RandAugment(fill=256), r"RandAugment: fill must lie in \[0, 255\], got 256"),
        (lambda: ops.TrivialAugmentWide(True), "TrivialAugmentWide: num_bins must be .*, got True"),
        (lambda: ops.AutoAugment("imagenet21k"), "AutoAugment: policy must be one of imagenet, cifar10, svhn, got 'im"),
        (lambda: ops.AutoAugment(["svhn"]), "AutoAugment: policy must be one of"),  # type: ignore
        (lambda: ops.AugMix(0), r"AugMix: severity must be a whole number in \[1, 10\], got 0"),
        (lambda: ops.AugMix(width=0), "AugMix: width must be a whole number ≥ 1, got 0"),
        (lambda: ops.AugMix(depth=-2), "AugMix: depth must be a whole number ≥ -1, got -2"),
        (lambda: ops.AugMix(alpha=0.0), r"AugMix: alpha must lie in \[1e-06, 1e\+06\], got 0\.0"),
        (lambda: ops.AugMix(alpha=math.nan), "AugMix: alpha must lie in"),
        (lambda: ops.Mixture(()), "Mixture: expected a list of one or more operators"),
        (lambda: Policy.from_dict({"ops": [{"op": "RandAugment", "n": 3}]}), "RandAugment: has no field 'n'"),
    ],
)
def test_bad_values_are_named(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
