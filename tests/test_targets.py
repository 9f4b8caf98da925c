"""What rides along with a picture: labels natively, boxes and points as torchvision moves them, and both through a
loader.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import datasets, tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from dalipipe import native, rng
from dalipipe.loader import DataLoader
from dalipipe.ops import image as ops
from dalipipe.ops.targets import box_corners, drawn_field, format_boxes, move_boxes, move_labels, move_points
from dalipipe.policy import Drawn, OneOf, Policy, RandomApply, RandomOrder
from dalipipe.schema import Field, Schema
from dalipipe.sources.mapped import MapDataset

RNG = np.random.default_rng(0)

# Labels: native against numpy ---------------------------------------------------------------------------------------


def draw_pass(data: st.DataObject, size: tuple[int, int], out: tuple[int, int] | None) -> tuple[np.ndarray, Any]:
    """A random `IMAGE_PASS` over a picture of ``size``, its geometry only, and what its displacement lies in."""
    draw = data.draw
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    one = np.zeros((), native.IMAGE_PASS)
    one["warp"] = draw(st.sampled_from([0, 0, 1, 2, 3]))
    out_size = out or draw(st.tuples(st.integers(1, 30), st.integers(1, 30)))
    for i, axis, side in ((0, "y", "h"), (1, "x", "w")):
        crop = draw(st.sampled_from([size[i], int(random.integers(1, size[i] + 1))]))
        resized = draw(st.sampled_from([crop, int(random.integers(1, 60))]))
        one[f"origin_{axis}"] = -random.integers(0, size[i] - crop + 1)
        one[f"crop_{side}"], one[f"resized_{side}"] = crop, resized
        one[f"window_{axis}"] = random.integers(-5, resized + 3)
        one[f"out_{side}"] = out_size[i]
        one[f"canvas_{side}"] = random.integers(1, 40) if one["warp"] else out_size[i]
    one["flip"] = draw(st.integers(0, 3))
    one["matrix"] = np.eye(3).ravel() + random.normal(0, 0.3, 9) * (1, 1, 20, 1, 1, 20, 0.01, 0.01, 0.1)
    last_row = draw(st.sampled_from([None, (0, 0, 1), (0, 0, 1), (0, 0, 0)]))
    if last_row is not None:
        one["matrix"][6:] = last_row
    if draw(st.booleans()):
        one["matrix"] = np.round(one["matrix"] * 2) / 2  # places half-way between two pixels
    field = None
    if draw(st.booleans()):
        field = random.normal(0, 4, (2, *out_size)).astype(np.float32)
        one["displacement"] = field.ctypes.data
    return one, field


@settings(max_examples=70, deadline=None)
@given(st.data())
def test_labels_move_natively_as_specified(data: st.DataObject) -> None:
    draw = data.draw
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    out_size = draw(st.tuples(st.integers(1, 30), st.integers(1, 30)))
    maps, passes, fields, starts = [], [], [], [0]
    for _ in range(draw(st.integers(1, 4))):
        h, w = draw(st.tuples(st.integers(1, 50), st.integers(1, 50)))
        dtype = draw(st.sampled_from([np.uint8, np.int32]))
        maps.append(random.integers(0, 250, (h, w + 3)).astype(dtype)[:, 2 : 2 + w])
        if dtype == np.int32:
            maps[-1] *= random.integers(-3, 1000)
        size, count = (h, w), draw(st.integers(1, 4))
        for k in range(count):
            one, field = draw_pass(data, size, out_size if k == count - 1 else None)
            passes.append(one)
            fields.append(field)
            size = (int(one["out_h"]), int(one["out_w"]))
        starts.append(len(passes))
    table = draw(st.sampled_from([None, random.integers(-99, 1 << 20, draw(st.integers(1, 300))).astype(np.int32)]))
    chains, firsts = np.array(passes), np.array(starts, np.int32)
    out = np.empty((len(maps), *out_size), np.int64)
    narrow = np.empty(out.shape, np.int32)
    native.move_labels(maps, chains, firsts, out, ignore_index=-7, table=table, threads=2)
    native.move_labels(maps, chains, firsts, narrow, ignore_index=-7, table=table)
    for i, labels in enumerate(maps):
        wide = None if table is None else table.astype(np.int64)
        expected = move_labels(labels, chains[starts[i] : starts[i + 1]], -7, wide)
        np.testing.assert_array_equal(out[i], expected)
    np.testing.assert_array_equal(narrow, out)


def test_label_map_is_mirrored() -> None:
    layout = native.struct_layouts()["LabelMap"]
    fields = native.LABEL_MAP.fields
    assert fields is not None and layout.pop("") == native.LABEL_MAP.itemsize
    assert layout == {name: field[1] for name, field in fields.items()}


def still(size: tuple[int, int], count: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Passes that move nothing, one for each of ``count`` samples, and their starts."""
    passes = np.zeros(count, native.IMAGE_PASS)
    for name in ("crop", "resized", "canvas", "out"):
        passes[f"{name}_h"], passes[f"{name}_w"] = size
    return passes, np.arange(count + 1, dtype=np.int32)


def test_labels_of_every_width() -> None:
    passes, starts = still((3, 5), 2)
    maps = [RNG.integers(0, 200, (3, 5), dtype=np.uint8), RNG.integers(0, 200, (3, 5)).astype(np.int32)]
    table = RNG.permutation(250).astype(np.int32)
    for dtype in (np.uint8, np.int32, np.int64):
        out = np.empty((2, 3, 5), dtype)
        native.move_labels(maps, passes, starts, out, ignore_index=255)
        assert (out == np.stack(maps)).all()
        native.move_labels(maps, passes, starts, out, ignore_index=255, table=table)
        assert (out == table[np.stack(maps)]).all()
    out = np.empty((0, 3, 5), np.int64)
    native.move_labels([], passes[:0], starts[:1], out, ignore_index=255)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"out_h": 4}, "sample 1: without a warp the canvas must be the output's 4x5, got 3x5"),
        ({"crop_w": 0}, "sample 1: crop_w must be 1 to 1048576 px, got 0"),
        ({"canvas_h": 1 << 21}, "sample 1: canvas_h must be 1 to 1048576 px, got 2097152"),
        ({"blend": 1}, "sample 1: its pictures are blended, labels cannot be"),
        ({"from_kept": 1}, "sample 1: its pictures are blended, labels cannot be"),
        ({"canvas_w": 6, "out_w": 6}, "sample 1: the last pass must give 3x5, got 3x6"),
    ],
)
def test_passes_that_labels_cannot_follow(change: dict[str, int], message: str) -> None:
    passes, starts = still((3, 5), 2)
    for name, value in change.items():
        passes[1][name] = value
    maps = [np.zeros((3, 5), np.uint8)] * 2
    with pytest.raises(ValueError, match=f"move_labels: {message}"):
        native.move_labels(maps, passes, starts, np.empty((2, 3, 5), np.int64), ignore_index=0)


def test_labels_that_are_none() -> None:
    passes, starts = still((3, 5))
    out, good = np.empty((1, 3, 5), np.int64), np.zeros((3, 5), np.uint8)
    for bad in (np.zeros((3, 5), np.int64), np.zeros((3, 5, 1), np.uint8), np.zeros((5, 3), np.uint8).T):
        with pytest.raises(ValueError, match=r"move_labels: map 0 must be uint8 or int32 \[H, W\], dense in its rows"):
            native.move_labels([bad], passes, starts, out, ignore_index=0)
    for wrong in ([0, 0], [1, 1], [0, 2]):
        with pytest.raises(ValueError, match="starts must rise from 0 to 1"):
            native.move_labels([good], passes, np.array(wrong, np.int32), out, ignore_index=0)
    with pytest.raises(ValueError, match="sample 0: a map of 0x5 px"):
        native.move_labels([good[:0]], passes, starts, out, ignore_index=0)
    with pytest.raises(ValueError, match=r"out must be contiguous uint8, int32 or int64 \[1, h, w\], got float32"):
        native.move_labels([good], passes, starts, np.empty((1, 3, 5), np.float32), ignore_index=0)
    with pytest.raises(ValueError, match="a table needs an entry"):
        native.move_labels([good], passes, starts, out, ignore_index=0, table=np.zeros(0, np.int32))


# Boxes and points: against torchvision --------------------------------------------------------------------------------

SIZES = [(120, 160), (97, 61), (40, 203), (1, 1), (33, 1)]
FORMATS = ["xyxy", "xywh", "cxcywh"]


def boxes_in(size: tuple[int, int], count: int, random: np.random.Generator, whole: bool = False) -> np.ndarray:
    """x1, y1, x2, y2 inside a picture, some without a width; ``whole``: in whole px."""
    ends = random.random((2, count, 2)) * (size[1], size[0])
    ends[:, ::5, 0] = ends[0, ::5, 0]
    boxes = np.concatenate([ends.min(axis=0), ends.max(axis=0)], axis=1)
    return np.floor(boxes) if whole else boxes


def by_torchvision(d: Drawn, row: int, x: Any) -> Any:
    """What torchvision's own functions make of boxes or points, with the parameters of one operator and sample."""
    p = d.at(row)
    if p is None:
        return x
    if isinstance(d.op, ops.ResizeOp):
        return F.resized_crop(x, *p["box"].tolist(), p["resized"].tolist())
    if isinstance(d.op, ops.CropOp):
        return F.crop(x, *p["box"].tolist())
    if isinstance(d.op, ops.FlipOp):
        x = F.vertical_flip(x) if p["flip"][0] else x
        return F.horizontal_flip(x) if p["flip"][1] else x
    if isinstance(d.op, ops.WarpOp):
        to_centre = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
        edges = to_centre @ p["matrix"] @ np.linalg.inv(to_centre)
        return F.perspective(x, None, None, coefficients=(edges / edges[2, 2]).ravel()[:8].tolist())
    if isinstance(d.op, ops.ElasticOp):
        return F.elastic(x, theirs(drawn_field(d, int(np.searchsorted(d.rows, row)))))
    return x


def theirs(field: np.ndarray) -> torch.Tensor:
    """A displacement in px [2, H, W] → torchvision's, [1, H, W, 2] where the picture goes from -1 to 1."""
    h, w = field.shape[1:]
    return torch.from_numpy(np.stack([field[0] * (2 / w), field[1] * (2 / h)], axis=-1)[None].astype(np.float32))


def check(nodes: list[Any], whole: bool = False, sizes: list[tuple[int, int]] = SIZES, seed: int = 3) -> None:
    """Boxes and points under a policy are torchvision's, within a thousandth of a px."""
    random, sizes = np.random.default_rng(seed), sizes * 3
    drawn = Policy(nodes).draw(rng.make_key(seed, 1), np.arange(len(sizes)), np.array(sizes))
    boxes = [boxes_in(one, int(random.integers(0, 9)), random, whole) for one in sizes]
    points = [random.random((random.integers(0, 9), 2)) * (one[1], one[0]) for one in sizes]
    if whole:
        points = [np.floor(one) for one in points]
    moved, compared = {}, 0
    for name, values, move in (("boxes", boxes, move_boxes), ("points", points, move_points)):
        rows = np.repeat(np.arange(len(sizes)), [len(value) for value in values])
        moved[name] = move(np.concatenate(values), rows, drawn), rows
    for row, canvas in enumerate(sizes):
        x: Any = tv_tensors.BoundingBoxes(boxes[row], format="XYXY", canvas_size=canvas, dtype=torch.float32)
        y: Any = tv_tensors.KeyPoints(points[row], canvas_size=canvas, dtype=torch.float32)
        for d in drawn:
            x, y = by_torchvision(d, row, x), by_torchvision(d, row, y)
        for name, expected in (("boxes", x.numpy()), ("points", y.numpy())):
            values, rows = moved[name]
            near = (np.abs(expected) < 1000).all(axis=1)  # far outside, their float32 is too coarse to tell
            compared += int(near.sum())
            np.testing.assert_allclose(values[rows == row][near], expected[near], atol=1e-3, rtol=0)
    assert compared > 30


@pytest.mark.parametrize(
    "node",
    [
        ops.Resize((50, 37)),
        ops.Resize(64),
        ops.RandomResizedCrop((40, 56)),
        ops.CenterCrop((60, 50)),
        ops.RandomCrop(70, padding=9, pad_if_needed=True),
        ops.Pad((3, 1, 0, 7)),
        ops.HorizontalFlip(p=1.0),
        ops.VerticalFlip(p=0.5),
        ops.Rotate(60),
        ops.Translate(0.3, 0.4),
        ops.Scale((0.4, 2.0)),
        ops.Shear(30, 20),
        ops.Affine(40, translate=(0.2, 0.1), scale=(0.5, 1.5), shear=10),
        ops.Perspective(0.5, p=0.8),
    ],
    ids=lambda node: type(node).__name__,
)
def test_boxes_and_points_are_torchvisions(node: Any) -> None:
    check([node])


def test_through_a_policy_in_every_order() -> None:
    warps = RandomOrder(
        [ops.Rotate(30), ops.HorizontalFlip(), ops.RandomCrop(50, pad_if_needed=True), ops.Shear(15, 9)]
    )
    choice = OneOf([ops.Perspective(0.3, p=1.0), ops.VerticalFlip(p=1.0)], p=0.7)
    nodes = [ops.RandomResizedCrop(64), ops.Brightness(), warps, RandomApply([choice, ops.Rotate(20)]), ops.Resize(31)]
    check([*nodes, ops.Normalize()])


@pytest.mark.parametrize("alpha", [60.0, 0.0])
def test_elastic_is_torchvisions_at_whole_pixels(alpha: float) -> None:
    """Elsewhere it takes a box's corners up, and points down, to a whole number; we keep what is between."""
    check([ops.Elastic(alpha, 4.0)], whole=True, sizes=SIZES[:3])
    size = np.array([SIZES[0]])
    drawn = Policy([ops.Elastic(alpha, 4.0)]).draw(rng.make_key(3, 1), np.arange(1), size)
    point = np.array([[31.7, 50.2]])
    dx, dy = drawn_field(drawn[0], 0)[:, 50, 31]
    np.testing.assert_allclose(move_points(point, np.zeros(1, np.int64), drawn), point - (dx, dy))


@pytest.mark.parametrize(("degrees", "scale", "shear"), [(33.3, 1.0, (0.0, 0.0)), (-80.0, 0.6, (12.0, -7.0))])
def test_warps_are_torchvisions_by_its_own_parameters(degrees: float, scale: float, shear: tuple[float, float]) -> None:
    size = (90, 140)
    op = ops.Affine((degrees, degrees), scale=(scale, scale), shear=(shear[0], shear[0], shear[1], shear[1]))
    boxes, points = boxes_in(size, 20, RNG), RNG.random((20, 2)) * (140, 90)
    drawn = Policy([op]).draw(rng.make_key(0, 0), np.zeros(1, np.int64), np.array([size]))
    given: dict[str, Any] = {"angle": degrees, "translate": [0, 0], "scale": scale, "shear": list(shear)}
    x = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size, dtype=torch.float32)
    y = tv_tensors.KeyPoints(points, canvas_size=size, dtype=torch.float32)
    rows = np.zeros(20, np.int64)
    np.testing.assert_allclose(move_boxes(boxes, rows, drawn), F.affine(x, **given).numpy(), atol=1e-3)
    np.testing.assert_allclose(move_points(points, rows, drawn), F.affine(y, **given).numpy(), atol=1e-3)
    turned = Policy([ops.Rotate((degrees, degrees))]).draw(rng.make_key(0, 0), np.zeros(1, np.int64), np.array([size]))
    np.testing.assert_allclose(move_boxes(boxes, rows, turned), F.rotate(x, degrees).numpy(), atol=1e-3)
    np.testing.assert_allclose(move_points(points, rows, turned), F.rotate(y, degrees).numpy(), atol=1e-3)


@pytest.mark.parametrize("form", FORMATS)
def test_formats(form: Any) -> None:
    corners = boxes_in((50, 60), 12, RNG)
    boxes = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=(50, 60))
    other = F.convert_bounding_box_format(boxes, new_format=form.upper())
    np.testing.assert_allclose(format_boxes(corners, form), other.numpy(), atol=1e-12)
    np.testing.assert_allclose(box_corners(other.numpy(), form), corners, atol=1e-12)


# Through a loader -----------------------------------------------------------------------------------------------------


class Scenes:
    """Black pictures, each with a few bright rectangles that its boxes frame; points in the middle of the boxes."""

    def __init__(self, form: str = "xyxy", tensors: bool = True, count: int = 9) -> None:
        rng = np.random.default_rng(5)
        self.items: list[dict[str, Any]] = []
        for i in range(count):
            h, w = (int(v) for v in rng.integers(60, 120, 2))
            image, boxes = np.zeros((h, w, 3), np.uint8), []
            for value in range(i % 4):
                y, x = rng.integers(0, (h - 30, w - 30))
                box_h, box_w = rng.integers(8, 30, 2)
                image[y : y + box_h, x : x + box_w] = 60 * (value + 1)
                boxes.append([x, y, x + box_w, y + box_h])
            corners = np.array(boxes, np.float32).reshape(-1, 4)
            middle = (corners[:, :2] + corners[:, 2:]) / 2
            labels = np.arange(i % 4) + 10 * i
            item: dict[str, Any] = {
                "image": image,
                "boxes": format_boxes(corners, form),
                "points": middle,
                "labels": labels,
                "id": i,
            }
            if tensors:
                item["boxes"] = tv_tensors.BoundingBoxes(item["boxes"], format=form.upper(), canvas_size=(h, w))
                item["points"] = tv_tensors.KeyPoints(middle, canvas_size=(h, w))
                item["labels"] = torch.from_numpy(labels)
            self.items.append(item)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.items[index]


def make(source: Any, *nodes: Any, **kw: Any) -> DataLoader:
    given = {"seed": 1, "device": "cpu", "dtype": torch.uint8, **kw}
    return DataLoader(source, 4, policy=Policy(list(nodes)), **given)


def framed(image: torch.Tensor, value: int) -> list[int] | None:
    """The box about a picture's pixels of a value."""
    y, x = np.nonzero((image[0] == value).numpy())
    return [int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1] if len(x) else None


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("engine", ["native", "reference"])
def test_boxes_frame_what_the_picture_shows(form: Any, engine: str) -> None:
    nodes = (ops.RandomCrop(64, padding=20, pad_if_needed=True), ops.HorizontalFlip(), ops.VerticalFlip())
    seen = 0
    for batch in make(MapDataset(Scenes(form)), *nodes, engine=engine, shuffle=True):
        assert all(isinstance(one, torch.Tensor) and one.dtype == torch.float32 for one in batch.boxes + batch.points)
        for image, boxes, labels, points in zip(*batch[:1], batch.boxes, batch.labels, batch.points, strict=True):
            assert boxes.shape == (len(labels), 4) and points.shape == (len(labels), 2)
            corners = box_corners(boxes.numpy(), form)
            for i, label in enumerate(labels.tolist()):
                shown = framed(image, 60 * (label % 10 + 1))
                if shown is None or i < len(labels) - 1:  # a later rectangle may hide this one
                    continue
                assert corners[i].tolist() == shown
                inside = (points[i] >= 0).all() and points[i, 0] < 64 and points[i, 1] < 64
                assert not inside or (corners[i, :2] <= points[i].numpy() + 1).all()
                seen += 1
    assert seen >= 3


@pytest.mark.parametrize("tensors", [True, False])
def test_sanitized_boxes_take_their_companions_along(tensors: bool) -> None:
    def batches(**kw: Any) -> DataLoader:
        boxes = Field("boxes", "boxes", companions=("labels",), **kw)
        columns = ["image", boxes, Field("points", "points"), Field("labels", "object"), "id"]
        return make(MapDataset(Scenes(tensors=tensors), columns=columns), ops.RandomCrop(40), ops.Rotate(20))

    dropped = 0
    for batch, whole in zip(batches(sanitize_px=6.0), batches(), strict=True):
        for row, i in enumerate(batch.id.tolist()):
            boxes, labels = whole.boxes[row], whole.labels[row]
            assert len(boxes) == i % 4 and labels.dtype == torch.int64
            assert (labels == 10 * i + torch.arange(i % 4)).all()
            kept = (boxes[:, 2:] - boxes[:, :2] >= 6).all(dim=1)
            assert (batch.boxes[row] == boxes[kept]).all() and (batch.labels[row] == labels[kept]).all()
            assert len(batch.boxes[row]) == len(batch.labels[row]) == kept.sum()
            dropped += int((~kept).sum())
    assert dropped > 2


def test_bad_boxes_cost_their_sample() -> None:
    scenes = Scenes()
    scenes.items[3]["labels"] = torch.zeros(2)
    scenes.items[5]["boxes"] = torch.zeros(2, 5)
    scenes.items[6]["points"] = "none"
    scenes.items[7]["boxes"] = tv_tensors.BoundingBoxes(torch.zeros(3, 5), format="XYWHR", canvas_size=(9, 9))
    loader = make(MapDataset(scenes), ops.CenterCrop(50), on_error="skip")
    assert [i for batch in loader for i in batch.id.tolist()] == [0, 1, 2, 4, 8]
    causes = {bad.index: bad.cause for bad in loader.bad_samples}
    assert "labels, which goes with boxes: expected a row a box, [3, ...], got shape (2,)" in causes[3]
    assert "boxes: expected [k, 4] numbers, got float32 of shape (2, 5)" in causes[5]
    assert "points: expected [..., 2] numbers" in causes[6] and "boxes must be upright" in causes[7]


def test_same_targets_for_any_batch_size_and_workers() -> None:
    items = Scenes(tensors=False).items  # a list: processes need not import this module
    columns = ["image", Field("boxes", "boxes"), Field("points", "points"), "labels", "id"]

    def by_sample(batch_size: int, workers: Any) -> dict[int, list[list[float]]]:
        loader = DataLoader(
            MapDataset(items, workers=workers, columns=columns),
            batch_size,
            policy=Policy([ops.RandomResizedCrop(32), ops.Rotate(30), ops.Elastic()]),
            shuffle=True,
            seed=3,
            device="cpu",
        )
        return {
            i: torch.cat([boxes, points.repeat(1, 2)]).tolist()
            for batch in loader
            for i, boxes, points in zip(batch.id.tolist(), batch.boxes, batch.points, strict=True)
        }

    assert by_sample(9, "threads") == by_sample(2, "threads") == by_sample(4, "processes")


def test_skeletons_and_no_boxes() -> None:
    items = [
        {"image": np.zeros((30, 40, 3), np.uint8), "people": RNG.random((k, 5, 2)) * 30, "boxes": []} for k in (2, 0, 3)
    ]
    columns = [Field("image", "image"), Field("people", "points"), Field("boxes", "boxes", sanitize_px=1.0)]
    (batch,) = make(MapDataset(items, columns=columns), ops.Resize((60, 40)))
    assert [tuple(one.shape) for one in batch.people] == [(2, 5, 2), (0, 5, 2), (3, 5, 2)]
    assert [tuple(one.shape) for one in batch.boxes] == [(0, 4)] * 3
    np.testing.assert_allclose(batch.people[2], items[2]["people"] * (1, 2), rtol=1e-6)


def test_fields() -> None:
    with pytest.raises(ValueError, match="Field 'b': format must be one of xyxy, xywh, cxcywh, got 'yxyx'"):
        Field("b", "boxes", format="yxyx")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Field 'b': sanitize_px must be above 0 px or None, got 0"):
        Field("b", "boxes", sanitize_px=0)
    boxes = Field("b", "boxes", companions=["c"])  # type: ignore[arg-type]
    assert boxes.companions == ("c",)
    for other in (Field("c", "column"), Field("d", "object")):
        with pytest.raises(ValueError, match="'b': its companion 'c' must be a field of kind \"object\"; there are b"):
            Schema((boxes, other))


VOC = """<annotation><size><width>60</width><height>40</height><depth>3</depth></size>{objects}</annotation>"""
OBJECT = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


def test_wrapped_torchvision_detection_data(tmp_path: Path) -> None:
    """`wrap_dataset_for_transforms_v2` gives (picture, mapping): its values are the batch's fields."""
    from PIL import Image

    root = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("ImageSets/Main", "JPEGImages", "Annotations"):
        (root / folder).mkdir(parents=True)
    names = ["a", "b", "c"]
    (root / "ImageSets/Main/train.txt").write_text("\n".join(names))
    for i, name in enumerate(names):
        Image.fromarray(RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(root / "JPEGImages" / f"{name}.jpg")
        objects = "".join(OBJECT.format("cat", j, 2 * j, 20 + j, 30 + j) for j in range(i + 1))
        (root / "Annotations" / f"{name}.xml").write_text(VOC.format(objects=objects))
    wrapped = datasets.wrap_dataset_for_transforms_v2(
        datasets.VOCDetection(str(tmp_path), image_set="train"), target_keys=["boxes", "labels"]
    )
    source = MapDataset(wrapped)
    assert [(f.name, f.kind) for f in source.schema.fields] == [
        ("image", "image"),
        ("boxes", "boxes"),
        ("labels", "object"),
    ]
    assert source.schema.fields[1].companions == ("labels",)
    (batch,) = make(source, ops.Resize((20, 30)), ops.HorizontalFlip(p=1.0))
    transform = v2.Compose([v2.Resize((20, 30)), v2.RandomHorizontalFlip(p=1.0)])
    for i, boxes in enumerate(batch.boxes):
        _, target = transform(*wrapped[i])
        assert len(boxes) == i + 1 and (batch.labels[i] == target["labels"]).all()
        np.testing.assert_allclose(boxes, target["boxes"].float(), atol=1)  # theirs are whole numbers


@pytest.mark.cuda
def test_targets_on_cuda_are_those_of_the_cpu() -> None:
    nodes = (ops.RandomResizedCrop(32), ops.Rotate(30), ops.Elastic())
    source = MapDataset(Scenes())
    for cpu, cuda in zip(make(source, *nodes), make(source, *nodes, device="cuda"), strict=True):
        for name in ("boxes", "points", "labels"):
            for one, other in zip(getattr(cpu, name), getattr(cuda, name), strict=True):
                assert other.is_cuda and (one == other.cpu()).all()
