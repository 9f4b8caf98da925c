"""timm's automatic policies: the operators, arguments and choices that timm draws, and Pillow's pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from drawing import HEIGHT, KEY, SIZE, WIDTH, N, border, draw, ks, likely, named, picture

from dalipipe.ops import image as ops
from dalipipe.ops.image.families import WarpOp
from dalipipe.ops.image.timm_auto import Level, WeightedSample, timm_nodes, timm_operator
from dalipipe.policy import Choice, Drawn, OneOf, Policy, draw_range

_TIMM_NAMES = [
    *("AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "PosterizeIncreasing", "PosterizeOriginal"),
    *("Solarize", "SolarizeIncreasing", "SolarizeAdd", "Color", "ColorIncreasing", "Contrast", "ContrastIncreasing"),
    *("Brightness", "BrightnessIncreasing", "Sharpness", "SharpnessIncreasing", "ShearX", "ShearY", "TranslateX"),
    *("TranslateY", "TranslateXRel", "TranslateYRel", "Desaturate", "GaussianBlur"),
]


@pytest.fixture(scope="module")
def timm() -> Any:
    return pytest.importorskip("timm.data.auto_augment")


def timm_argument(their_name: str, drawn: Drawn) -> np.ndarray:
    """float64 [A]: the argument that timm's function would get."""
    op, size = drawn.op, np.array([WIDTH, HEIGHT])
    if isinstance(op, ops.GaussianBlur):
        return draw_range(op.sigma, np.random.default_rng(0).random(len(drawn.rows)))
    if isinstance(op, ops.SolarizeAdd):
        return drawn.params["table"][:, 0].astype(np.float64)
    name, magnitudes = named(drawn)
    if their_name == "Desaturate":
        return -magnitudes
    if name in ("Brightness", "Contrast", "Color", "Sharpness"):
        return 1.0 + magnitudes
    if isinstance(op, ops.Translate):
        return magnitudes / size[0 if name.endswith("X") else 1]
    return magnitudes


def flat(node: Any) -> list[Drawn]:
    return [one for one in draw(node, n=4000) if len(one.rows)]


@pytest.mark.parametrize("name", _TIMM_NAMES)
@pytest.mark.parametrize(
    ("magnitude", "std", "top"),
    [(9, 0.5, None), (9, 0, None), (10, 3.0, None), (0, 0, None), (7, math.inf, None), (13, 2.0, 15), (12, 0, 15)],
)
def test_timm_arguments(timm: Any, name: str, magnitude: float, std: float, top: int | None) -> None:
    """Two samples, one of timm's drawing: the same distribution."""
    hparams = {"magnitude_std": std, "img_mean": (1, 2, 3), "translate_const": 100}
    if top is not None:
        hparams["magnitude_max"] = top
    op = timm.AugmentOp(name, 1.0, magnitude, hparams)
    arguments: list[float] = []
    op.aug_fn = lambda img, *args, **kwargs: arguments.append(args[0] if args else 0.0)
    timm.random.seed(5)
    for _ in range(4000):
        op(None)
    (node,) = timm_nodes(op)
    drawn = flat(node)
    assert sum(len(one.rows) for one in drawn) == 4000
    ours = np.concatenate([timm_argument(name, one) for one in drawn])
    expected = np.array(arguments, np.float64)
    if name.startswith("Solarize") and name != "SolarizeAdd":
        expected = np.minimum(expected, 256)
    if name.startswith("Posterize"):
        expected = np.clip(expected, 0, 8)
    if name == "Solarize" and 0.0 in expected:  # black is not inverted there: the one thing that is not timm's
        expected = np.maximum(expected, 1)
    if std == 0:
        expected_values, found = np.unique(np.round(expected, 6)), np.unique(np.round(ours, 6))
        assert np.abs(found - expected_values).max() <= 2e-6
        if len(found) > 1:
            assert likely((ours > ours.mean()).sum(), 4000, 0.5)
    else:
        rounded = [np.round(v, 6) for v in (ours, expected)]  # atoms at the ends must be one value in both
        assert ks(*rounded) < 2.0


def test_timm_blur(timm: Any) -> None:
    """A true Gaussian, where Pillow's is three box filters: alike for wide ones, and no different thing for narrow."""
    image_module = pytest.importorskip("PIL.Image")
    x = picture(HEIGHT, WIDTH, 3)
    for magnitude, limit in ((0, 0.2), (4, 2.0), (10, 1.0)):
        op = timm.AugmentOp("GaussianBlur", 1.0, magnitude, {"img_mean": (0, 0, 0)})
        (one,) = flat(timm_nodes(op)[0])
        apart = np.abs(one.reference(0, x).astype(np.int64) - np.asarray(op(image_module.fromarray(x))))
        assert apart.mean() < limit
    for magnitude in (0, 5, 10):
        op = timm.AugmentOp("GaussianBlurRand", 1.0, magnitude, {"img_mean": (0, 0, 0)})
        assert timm_nodes(op)[0].sigma == (0.1, max(0.1, 0.2 * magnitude))


@pytest.mark.parametrize(
    "config",
    [
        "rand-m9-mstd0.5-inc1",
        "rand-m9-mstd0.5",
        "rand-m6-n3-p0.8",
        "rand-mstd101",
        "rand-m7-t3a",
        "rand-m12-mmax15-inc1",
    ],
)
def test_timm_rand_augment_by_name(timm: Any, config: str) -> None:
    other = timm.rand_augment_transform(config, {"img_mean": (124, 116, 104), "translate_const": 100})
    nodes = ops.timm_rand_augment(config, fill=(124, 116, 104))
    assert nodes == timm_nodes(other) or str(nodes) == str(timm_nodes(other))
    assert len(nodes) == other.num_layers and all(isinstance(node, OneOf) for node in nodes)
    p = other.ops[0].prob
    for node in nodes:
        assert len(node.ops) == len(other.ops)
        applied = np.zeros(N, np.int64)
        for one in draw(node):
            applied[one.rows] += 1
        assert set(applied.tolist()) <= {0, 1} and likely(applied.sum(), N, p)
    assert {op.fill for op in nodes[0].ops if hasattr(op, "fill")} <= {(124.0, 116.0, 104.0), (124, 116, 104)}


@pytest.mark.parametrize(("config", "n"), [("rand-m9-tweights", 2), ("rand-m9-n3-t3aw-p1.0", 3), ("rand-t3aw-n1", 1)])
def test_timm_weighted_choice_is_numpys(timm: Any, config: str, n: int) -> None:
    other = timm.rand_augment_transform(config, {"img_mean": (124, 116, 104), "translate_const": 100})
    (node,) = ops.timm_rand_augment(config, fill=(124, 116, 104))
    assert isinstance(node, WeightedSample) and node.n == n
    assert np.abs(np.array(node.weights) / sum(node.weights) - other.choice_weights).max() < 1e-12
    sample = WeightedSample(tuple(ops.Posterize((4, 4)) for _ in node.ops), n=n, weights=node.weights)
    which = np.full((n, N), -1)
    for i, one in enumerate(draw(sample)):
        assert (which[i // len(node.ops), one.rows] == -1).all()
        which[i // len(node.ops), one.rows] = i % len(node.ops)
    assert (which >= 0).all()
    assert all(len(set(column)) == n for column in which.T[:500].tolist())  # without replacement
    generator = np.random.RandomState(0)
    expected = np.array([generator.choice(len(node.ops), n, replace=False, p=other.choice_weights) for _ in range(N)]).T
    for place in range(n):
        for i in range(len(node.ops)):
            ours, theirs_ = ((rows[place] == i).sum() for rows in (which, expected))
            assert abs(int(ours) - int(theirs_)) <= 4.5 * math.sqrt(2 * max(ours, theirs_) + 1), (place, i)


def test_timm_auto_augment_and_augmix(timm: Any) -> None:
    hparams = {"img_mean": (124, 116, 104), "translate_const": 100}
    for config in ("original", "original-mstd0.5", "originalr", "v0", "v0r-mstd1", "3a"):
        other = timm.auto_augment_transform(config, dict(hparams))
        (node,) = timm_nodes(other)
        assert len(node.ops) == len(other.policy)
        for ours, pair in zip(node.ops, other.policy, strict=True):
            assert [op.p for op in ours.ops] == [op.prob for op in pair]
        Policy.from_dict(json.loads(json.dumps(Policy([node]).to_dict()))).draw(KEY, np.arange(20), SIZE[:20])
    (node,) = timm_nodes(timm.augment_and_mix_transform("augmix-m5-w4-d2", dict(hparams)))
    assert (node.width, node.depth, node.alpha, len(node.ops)) == (4, 2, 1.0, 13)
    assert Policy.from_dict(json.loads(json.dumps(Policy([node]).to_dict()))) == Policy([node])
    with pytest.raises(ValueError, match="blended"):
        timm_nodes(timm.augment_and_mix_transform("augmix-b1", dict(hparams)))


@pytest.mark.parametrize("name", [name for name in _TIMM_NAMES if name != "GaussianBlur"])
@pytest.mark.parametrize("resample", [0, 2, 3])
def test_timm_pictures(timm: Any, name: str, resample: int) -> None:
    """Ours at timm's argument against Pillow's picture: the same direction, centre, and scale."""
    image_module = pytest.importorskip("PIL.Image")
    x = picture(HEIGHT, WIDTH, 3)
    image = image_module.fromarray(x)
    hparams = {"img_mean": (124, 116, 104), "translate_const": 20, "interpolation": resample}
    (node,) = timm_nodes(timm.AugmentOp(name, 1.0, 7, hparams))
    compared = 0
    fill = (124, 116, 104)
    for one in flat(node):
        argument = timm_argument(name, one)
        for place in (int(argument.argmin()), int(argument.argmax())):
            function = timm.NAME_TO_OP[name]
            kwargs = {"fillcolor": fill, "resample": resample}
            value = float(argument[place]) if not name.startswith(("Poster", "Solar")) else int(argument[place])
            args = () if timm.LEVEL_TO_ARG[name] is None else (value,)
            if name.startswith(("Translate", "Shear", "Rotate")):  # which sign moves where is a matter of taste
                signs = (1, -1)
            else:
                signs = (1,)
            theirs_ = [np.asarray(function(image, *(sign * a for a in args), **dict(kwargs))) for sign in signs]
            ours = one.reference(one.rows[place], x).astype(np.int64)
            apart = min((np.abs(ours - y) for y in theirs_), key=np.mean)
            if resample != 0 and isinstance(one.op, WarpOp):
                apart = apart[~border(one, one.rows[place], x.shape)]
            compared += 1
            limit = {0: 3.0, 2: 0.6, 3: 1.0}[resample] if len(signs) == 2 else 1.0
            assert apart.mean() < limit, (name, apart.mean(), apart.max())
    assert compared


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ops.timm_rand_augment("augmix-m3"), 'timm_rand_augment: config must begin with "rand", got .augmix'),
        (
            lambda: ops.timm_rand_augment("rand-m9-q3"),
            "timm_rand_augment: config 'rand-m9-q3': expected parts m, n.*'q3'",
        ),
        (lambda: ops.timm_rand_augment("rand-tmany"), "expected parts .* 3a, 3aw, weights; got 'tmany'"),
        (lambda: ops.timm_rand_augment("rand-m15-mstd101"), "uniform ones up to 15 reach beyond 10"),
        (lambda: timm_operator("Cutout", Level(9.0)), "no operator 'Cutout'"),
        (lambda: timm_operator("GaussianBlurRand", Level(9.0, 0.5)), "no operator 'GaussianBlurRand' at a magnitude"),
        (lambda: Level(-1.0), "expected a magnitude ≥ 0"),
        (lambda: WeightedSample((ops.Invert(),), n=2, weights=(1.0,)), r"WeightedSample: n must lie in \[1, 1\]"),
        (lambda: WeightedSample((ops.Invert(),), weights=(0.0,)), "WeightedSample: weights must be 1 numbers > 0"),
    ],
)
def test_bad_values_are_named(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_timm_nodes_names_what_it_does_not_know() -> None:
    with pytest.raises(TypeError, match="timm_nodes: expected one of timm's automatic policies, got Choice"):
        timm_nodes(Choice((1.0,)))
