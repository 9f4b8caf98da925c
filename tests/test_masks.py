"""Masks through the loader: moved by the very draws of their pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import dalipipe
from dalipipe.loader import DataLoader
from dalipipe.ops import image as ops
from dalipipe.policy import RandomOrder
from dalipipe.records import Encoded, Records
from dalipipe.schema import Field, Schema
from dalipipe.sources.mapped import MapDataset
from dalipipe.sources.segmentation import ImageMasks


@pytest.fixture
def pairs(tmp_path: Path) -> ImageMasks:
    """Pictures that show their own masks: every channel is the class index."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for i in range(14):
        mask = rng.integers(0, 200, (20 + i, 33 - i), dtype=np.uint8)
        Image.fromarray(mask).save(tmp_path / "masks" / f"{i:02d}.png")
        Image.fromarray(np.repeat(mask[..., None], 3, axis=2)).save(tmp_path / "images" / f"{i:02d}.png")
    return ImageMasks(tmp_path / "images", tmp_path / "masks")


def make(source: Any, *operators: Any, **kw: Any) -> DataLoader:
    settings = {"shuffle": True, "seed": 2, "device": "cpu", "dtype": torch.uint8, **kw}
    return DataLoader(source, 5, policy=dalipipe.Policy(list(operators)), **settings)


@pytest.mark.parametrize("engine", ["native", "reference"])
@pytest.mark.parametrize("decoder", ["dali", "pillow"])
def test_masks_are_what_their_pictures_show(pairs: ImageMasks, engine: str, decoder: str) -> None:
    policy = (ops.RandomCrop(16, padding=3, fill=255), ops.HorizontalFlip(), ops.VerticalFlip(), ops.Invert(p=0))
    for batch in make(pairs, *policy, engine=engine, decoder=decoder):
        images, masks = batch
        assert masks.dtype == torch.int64 and masks.shape == images.shape[:1] + images.shape[2:] == (len(masks), 16, 16)
        assert (images == masks[:, None]).all()


def test_geometry_in_several_passes(pairs: ImageMasks) -> None:
    policy = (
        ops.CenterCrop(18),
        ops.RandomErasing(p=0),
        ops.Solarize(p=0),
        ops.CenterCrop(12),
        ops.HorizontalFlip(p=1),
    )
    for images, masks in make(pairs, *policy):
        assert (images == masks[:, None]).all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_masks_go_where_nearest_pixels_go(pairs: ImageMasks, dtype: torch.dtype) -> None:
    """Through every warp, in passes and orders of their own for each sample."""
    how: Any = {"interpolation": "nearest", "fill": 255}
    warps = [
        ops.Perspective(0.4, p=0.7, **how),
        ops.Elastic(60.0, 3.0, p=0.7, **how),
        ops.Affine(40, translate=(0.2, 0.2), scale=(0.7, 1.2), **how),
        ops.HorizontalFlip(),
        ops.RandomCrop((22, 17), padding=9, fill=255),
        ops.RandomResizedCrop((23, 20), (0.5, 1.0), interpolation="nearest"),
    ]
    policy = (ops.Resize((26, 21), interpolation="nearest"), RandomOrder(warps), ops.CenterCrop(16))
    scale = 1 if dtype == torch.uint8 else 255
    for images, masks in make(pairs, *policy, dtype=dtype):
        assert ((images * scale).round() == masks[:, None]).all()
        assert 0.02 < (masks == 255).float().mean() < 0.7


def test_a_resize_takes_the_nearest_and_a_warp_fills_with_what_is_ignored(pairs: ImageMasks) -> None:
    for index, (_, masks) in enumerate(make(pairs, ops.Resize((40, 24)), shuffle=False)):
        for row, mask in enumerate(masks):
            path = pairs.mask_paths[5 * index + row]
            expected = torch.from_numpy(np.asarray(Image.open(path)).copy())[None, None].float()
            expected = torch.nn.functional.interpolate(expected, (40, 24), mode="nearest")[0, 0]
            assert (mask == expected).all()
    for _, masks in make(pairs, ops.RandomResizedCrop(24), ops.Rotate(45, p=1)):
        assert (masks == 255).any() and ((masks < 200) | (masks == 255)).all()


def test_same_masks_for_any_batch_size_and_rank(pairs: ImageMasks) -> None:
    def by_sample(*loaders: DataLoader) -> dict[int, torch.Tensor]:
        return {i: batch.mask[row] for one in loaders for batch in one for row, i in enumerate(batch.indices.tolist())}

    policy = (ops.RandomResizedCrop(16), ops.Rotate(30, p=0.5), ops.HorizontalFlip())
    expected = by_sample(make(pairs, *policy))
    ranks = [make(pairs, *policy, rank=r, world_size=3) for r in range(3)]
    shared = by_sample(*ranks)
    assert shared.keys() == expected.keys() and all((shared[i] == expected[i]).all() for i in expected)


def test_tables_and_bad_masks(pairs: ImageMasks, tmp_path: Path) -> None:
    table = [7] * 100 + [3] * 50
    mapped = ImageMasks(tmp_path / "images", tmp_path / "masks", table=table, ignore_index=9)
    for images, masks in make(mapped, ops.CenterCrop(15)):
        expected = torch.tensor(table + [9] * 106)[images[:, 0].long()]
        assert (masks == expected).all()
    Image.new("L", (5, 4)).save(pairs.mask_paths[3])
    Image.new("RGB", (5, 4)).save(pairs.mask_paths[4])
    Path(pairs.mask_paths[5]).write_bytes(b"none")
    loader = make(pairs, ops.CenterCrop(15), on_error="skip", shuffle=False)
    seen = np.concatenate([batch.indices for batch in loader]).tolist()
    assert seen == [i for i in range(14) if i not in (3, 4, 5)]
    causes = {bad.index: bad.cause for bad in loader.bad_samples}
    assert "the mask has 4×5 px (height, width), its picture 23×30" in causes[3]
    assert "one channel of class indices" in causes[4] and "cannot be decoded" in causes[5]


class Twice(dalipipe.Source):
    """A picture with two masks."""

    schema = Schema(
        (Field("a", "mask", ignore_index=1), Field("image", "image", channels=3), Field("b", "mask", ignore_index=2))
    )

    def __init__(self, pairs: ImageMasks) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, indices: np.ndarray, *, threads: int = 1, allocate: Any = None) -> Records:
        columns = self.pairs.read(indices, threads=threads, allocate=allocate).columns
        mask = columns["mask"]
        assert isinstance(mask, Encoded)
        return Records({"image": columns["image"], "a": mask, "b": mask})

    def fingerprint(self) -> str:
        return "twice"


def test_several_masks_each_with_its_own_fill(pairs: ImageMasks) -> None:
    for a, images, b in make(Twice(pairs), ops.RandomCrop(40, padding=30, fill=0)):
        inside = a == b
        assert (images[:, 0][inside] == a[inside]).all()
        assert (a[~inside] == 1).all() and (b[~inside] == 2).all() and (~inside).any()


@pytest.mark.parametrize("kind", ["mask", "boxes", "points"])
def test_what_blends_pictures_is_refused(kind: Any) -> None:
    item = {"image": np.zeros((8, 8, 3), np.uint8), "beside": np.zeros((8, 8) if kind == "mask" else (0, 4), np.uint8)}
    source = MapDataset([item], columns=["image", Field("beside", kind)])
    with pytest.raises(ValueError, match=rf"AugMix blends pictures .*'beside' \({kind}\) cannot follow"):
        make(source, ops.AugMix())


@pytest.mark.cuda
@pytest.mark.parametrize(("table", "ignore_index"), [(None, 255), (None, -100), ([3] * 90 + [7] * 90, 0), ([-5], 9)])
def test_masks_on_cuda_are_those_of_the_cpu(
    pairs: ImageMasks, tmp_path: Path, table: list[int] | None, ignore_index: int
) -> None:
    source = ImageMasks(tmp_path / "images", tmp_path / "masks", table=table, ignore_index=ignore_index)
    policy = (ops.RandomResizedCrop(24), ops.Rotate(30), ops.HorizontalFlip(), ops.Elastic())
    for cpu, cuda in zip(make(source, *policy), make(source, *policy, device="cuda"), strict=True):
        assert cuda.mask.is_cuda and cuda.mask.dtype == torch.int64 and (cpu.mask == cuda.mask.cpu()).all()
