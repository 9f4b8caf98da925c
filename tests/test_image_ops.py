"""What every image operator promises: over the table of cases, and for every value that it refuses.

What each one does to pixels: test_geometry_ops, test_colour_ops, test_occlusion_ops, test_filters.
"""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest
from cases import CASES, IDS, SIZES, Case, pictures
from oracle import draw

from dalipipe.ops import image as ops
from dalipipe.ops.image import colour, geometry, occlusion
from dalipipe.policy import Choice, Macro, Normal, Op, Policy


@pytest.mark.parametrize("case", [c for c in CASES if not c.always], ids=lambda c: c.name)
def test_p_zero_is_identity_and_p_one_touches_all(case: Case) -> None:
    sizes = [(40, 50)] * 5
    idle, busy = (draw(dataclasses.replace(case.op, p=p), sizes) for p in (0.0, 1.0))
    assert len(idle.rows) == 0 and len(busy.rows) == 5
    for row in range(5):
        x = pictures([(40, 50)], 3, seed=row)[0] // 2 + 40  # so that there is contrast to gain
        kept = x.copy()
        assert (idle.reference(row, x) == x).all()
        assert case.idle or (busy.reference(row, x) != x).any()
        assert (busy.reference(row, x) == busy.reference(row, x.copy())).all(), "replaying parameters gives the same"
        assert (x == kept).all(), "the picture that comes in stays whole"


@pytest.mark.parametrize("case", CASES, ids=IDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_awkward_sizes(case: Case, channels: int) -> None:
    if isinstance(case.op, ops.RandomCrop | ops.Normalize) and not getattr(case.op, "pad_if_needed", False):
        pytest.skip("takes no small pictures, or has three means")
    drawn = draw(case.op, SIZES)
    assert len(drawn.rows) == len(SIZES)
    out = case.op.output_size(drawn.params, np.array(SIZES))
    for row, x in enumerate(pictures(SIZES, channels)):
        assert drawn.reference(row, x).shape == (*out[row], channels)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_none_may_be_drawn_for(case: Case) -> None:
    """An operator that no sample of a batch gets draws arrays of the same kinds, without rows."""
    some, none = (case.op.draw(np.full((n, case.op.draws), 0.5), np.full((n, 2), 60)) for n in (3, 0))
    assert some.keys() == none.keys()
    for name in some:
        assert none[name].shape == (0, *some[name].shape[1:]) and none[name].dtype == some[name].dtype, name


# Bad values --------------------------------------------------------------------------------------------------------

NAN = float("nan")
RANGE = ["much", (1,), (2.0, 1.0), (NAN, NAN), ("a", "b"), (0.0, 1e300), Choice((-1e300,)), 1j]
SYMMETRIC = [v for v in RANGE if v != (1,)] + [NAN, 1e300, None]
SIZE = [0, -3, 1.5, (3, 4, 5), (0, 4), "224", True, 1 << 30]
FILL = [-1, 256, (1, 2), "red", None, NAN]
WARP: dict[str, list[Any]] = {"interpolation": ["cubic", 2, None], "fill": FILL}
INTERPOLATION = ["lanczos", 3, None]
PADDING = [-1, 1.5, (1, 2, 3), "4", True, (1, -2), None]
COUNT = [0, -1, 1.5, "two", True, 1000]
VALUE = ["randomly", (1, 2), NAN, None]

BAD: dict[Any, dict[str, list[Any]]] = {
    ops.Resize: {"size": SIZE, "interpolation": INTERPOLATION, "max_size": [0, 2.5, 7, 8]},
    ops.RandomResize: {"min_size": [0, 9.5, (1, 2), 20], "max_size": [0, 9.5, 5], "interpolation": INTERPOLATION},
    ops.CenterCrop: {"size": SIZE, "fill": FILL},
    ops.RandomCrop: {
        "size": SIZE,
        "padding": PADDING,
        "pad_if_needed": [1, "yes", None],
        "fill": FILL,
        "spread": [-0.1, 1.1, NAN, "wide", None],
    },
    ops.Pad: {"padding": PADDING, "fill": FILL},
    ops.RandomResizedCrop: {
        "size": SIZE,
        "scale": [*RANGE, (0.0, 1.0), (0.5, 1.1)],
        "ratio": [*RANGE, (0.0, 1.0)],
        "interpolation": INTERPOLATION,
    },
    ops.HorizontalFlip: {},
    ops.VerticalFlip: {},
    ops.Rotate: {"degrees": SYMMETRIC, **WARP},
    ops.Translate: {
        "x": [*SYMMETRIC, 1.5],
        "y": [*SYMMETRIC, (0.0, 1.5)],
        "rounding": ["down", None],
        **WARP,
    },
    ops.TranslatePx: {"x": SYMMETRIC, "y": SYMMETRIC, "rounding": ["down", None], **WARP},
    ops.Scale: {"factor": [*RANGE, (0.0, 1.0), (-1.0, 1.0)], **WARP},
    ops.Shear: {
        "x": [*SYMMETRIC, 90.0],
        "y": [*SYMMETRIC, (0.0, 81.0)],
        "unit": ["radians", None],
        "center": ["left", None, (0, 0)],
        **WARP,
    },
    ops.Affine: {
        "degrees": SYMMETRIC,
        "translate": [0.5, (0.1, 1.1), (-0.1, 0.1), (0.1,), "far"],
        "scale": [*RANGE, (0.0, 1.0), 2.0],
        "shear": [v for v in SYMMETRIC if v is not None] + [(0, 1, 5), (0, 1, 5, 90), 90.0],
        **WARP,
    },
    ops.Perspective: {"distortion": [-0.1, 1.1, NAN, (0.1, 0.2), None], **WARP},
    ops.Elastic: {"alpha": [-1.0, (1.0, 2.0, 3.0), NAN, "much", None], "sigma": [-1.0, 501.0, (1, "2"), None], **WARP},
    ops.Brightness: {"factor": [*RANGE, (-0.1, 1.0), 0.5]},
    ops.Contrast: {"factor": [*RANGE, (-0.1, 1.0)]},
    ops.Saturation: {"factor": [*RANGE, Normal(1.0, 0.5, (-1.0, 2.0))]},
    ops.Hue: {"turns": [*SYMMETRIC, 0.6, (-0.6, 0.0)]},
    ops.Grayscale: {},
    ops.ChannelShuffle: {},
    ops.Invert: {},
    ops.Posterize: {"bits": [*RANGE, (0, 9), (1.5, 3.0), 4]},
    ops.Solarize: {"threshold": [*RANGE, (0.0, 257.0), (-1.0, 9.0)]},
    ops.SolarizeAdd: {"amount": [*RANGE, (0.0, 256.0)], "threshold": [-1.0, 257.0, NAN, (1, 2), None]},
    ops.Gamma: {"gamma": [*RANGE, (-1.0, 1.0)], "gain": [-1.0, NAN, (1, 2), "1", None]},
    ops.AutoContrast: {},
    ops.Equalize: {},
    ops.ColorJitter: {
        "brightness": [*RANGE, -0.1, NAN],
        "contrast": [*RANGE, -0.1],
        "saturation": [*RANGE, (-0.1, 1.0)],
        "hue": [0.6, (-0.6, 0.0), "red", NAN],
    },
    ops.PhotometricDistort: {
        "brightness": [*RANGE, 0.1, None],
        "contrast": [*RANGE, (-0.1, 1.0)],
        "saturation": RANGE,
        "hue": SYMMETRIC,
        "p": [1.2, NAN, "often"],
    },
    ops.RandomErasing: {
        "scale": [*RANGE, (0.0, 1.1)],
        "ratio": [*RANGE, (0.0, 1.0)],
        "value": VALUE,
        "count": [*COUNT, (0, 2), (2, 1), (1, 2, 3), (1, 2.5)],
    },
    ops.Cutout: {"size": [0, -1, 1.5, (3, 4), True], "count": [*COUNT, (1, 2)], "value": VALUE},
    ops.GridMask: {
        "unit": [*RANGE, (1.0, 4.0)],
        "keep": [*RANGE, (-0.1, 0.5), 1.1],
        "angle": [*SYMMETRIC, 361.0],
        "value": [-1, 256, "random", (1, 2), NAN, None],
    },
    ops.Normalize: {
        "mean": [(0.5, 0.5), NAN, "grey", None, (0.5, 0.5, None)],
        "std": [0.0, -1.0, NAN, (0.5, 0.5), "grey"],
    },
}
REQUIRED: dict[Any, dict[str, Any]] = {
    ops.Resize: {"size": 8},
    ops.RandomResize: {"min_size": 8, "max_size": 16},
    ops.CenterCrop: {"size": 8},
    ops.RandomCrop: {"size": 8},
    ops.Pad: {"padding": 8},
    ops.RandomResizedCrop: {"size": 8},
    ops.Affine: {"degrees": 8},
}


def test_every_field_is_tried() -> None:
    known = {
        cls
        for module in (geometry, colour, occlusion)
        for name, cls in vars(module).items()
        if isinstance(cls, type) and issubclass(cls, Op | Macro) and cls not in (Op, Macro)
        if cls.__module__ == module.__name__ and not name.endswith("Op")
    }
    assert known == BAD.keys()
    for cls, tried in BAD.items():
        own = {f.name for f in dataclasses.fields(cls)} - ({"p"} if issubclass(cls, Op) else set())
        assert own == tried.keys(), cls


@pytest.mark.parametrize(
    ("cls", "name"),
    [(cls, name) for cls, tried in BAD.items() for name in (*tried, *(["p"] if issubclass(cls, Op) else []))],
    ids=lambda v: v if isinstance(v, str) else v.__name__,
)
def test_bad_values_are_named(cls: Any, name: str) -> None:
    """With the operator, the field, what was expected and what came."""
    for value in BAD[cls].get(name, [1.2, -0.1, NAN, "often", None]):
        with pytest.raises(ValueError, match=f"^{cls.__name__}: .*{name}") as caught:
            cls(**{**REQUIRED.get(cls, {}), name: value})
        message = str(caught.value)
        assert "got" in message and ("must" in message or "expected" in message), message
        shown = message[message.index("got") :]
        assert repr(value).strip("()") in shown or isinstance(value, str | tuple), (value, message)


def test_fields_that_do_not_fit_each_other_are_named() -> None:
    for make, message in (
        (lambda: ops.Resize((8, 9), max_size=9), r"Resize: max_size goes with an int size"),
        (lambda: ops.Resize(None), "Resize: size or max_size must be given"),
        (lambda: ops.Resize(9, max_size=9), "Resize: max_size must be greater than size"),
        (lambda: ops.RandomResize(9, 8), "RandomResize: min_size must not exceed max_size, got 9, 8"),
        (lambda: ops.Normalize((0.5,) * 3, 0.5), "Normalize: mean and std must both have 1 or 3 values"),
        (lambda: ops.Normalize(p=0.5), "Normalize: applies to every sample, so p must be 1, got 0.5"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.parametrize(
    "macro",
    [
        ops.ColorJitter(0.4, (0.5, 1.2), Choice((0.5, 1.5)), 0.1),
        ops.ColorJitter(hue=0.2),
        ops.PhotometricDistort(p=0.3),
    ],
    ids=repr,
)
def test_macros_travel(macro: Macro) -> None:
    policy = Policy([macro])
    assert Policy.from_dict(policy.to_dict()) == policy and pickle.loads(pickle.dumps(policy)) == policy
    assert policy.to_dict()["ops"][0]["op"] == type(macro).__name__
    assert eval(repr(macro), {**vars(ops), "Choice": Choice}) == macro
