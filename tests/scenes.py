"""Street scenes drawn for tests, in the layout of Cityscapes and in plain folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from dalipipe.sources.segmentation import CITYSCAPES_LABELS

ID = {name: number for number, (name, _) in enumerate(CITYSCAPES_LABELS)}
COLOURS = {"road": (90, 85, 95), "sidewalk": (190, 160, 180), "building": (120, 80, 60), "sky": (150, 190, 235)}
COLOURS |= {"vegetation": (60, 120, 50), "car": (170, 30, 40), "person": (220, 190, 60), "ego vehicle": (30, 30, 30)}


def draw_scene(number: int, height: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A picture uint8 [H, 2H, 3] and its ids uint8 [H, 2H], of Cityscapes' 34: of what is drawn, with noise on it."""
    random = np.random.default_rng(number)
    width = 2 * height
    ids = np.full((height, width), ID["sky"], np.uint8)
    horizon = int(height * random.uniform(0.4, 0.6))
    left = 0
    while left < width:
        wide, tall = int(random.uniform(0.1, 0.35) * height) + 1, int(random.uniform(0.1, 0.4) * height)
        kind = "vegetation" if random.random() < 0.4 else "building"
        ids[max(horizon - tall, 0) : horizon, left : left + wide] = ID[kind]
        left += wide
    ids[horizon:] = ID["road"]
    ids[horizon : horizon + height // 10 + 1] = ID["sidewalk"]
    for kind, count, size in (("car", 3, (0.12, 0.25)), ("person", 3, (0.18, 0.08))):
        for _ in range(int(random.integers(1, count + 1))):
            tall, wide = (max(int(height * part * random.uniform(0.7, 1.3)), 2) for part in size)
            top, left = int(random.integers(horizon - tall // 2, height - tall)), int(random.integers(0, width - wide))
            ids[top : top + tall, left : left + wide] = ID[kind]
    ids[height - height // 16 :] = ID["ego vehicle"]  # does not count
    colours = np.zeros((len(CITYSCAPES_LABELS), 3))
    for name, colour in COLOURS.items():
        colours[ID[name]] = colour
    noisy = colours[ids] * random.uniform(0.8, 1.2) + random.normal(0, 12, (height, width, 3))
    return noisy.clip(0, 255).astype(np.uint8), ids


def plant_scenes(root: Path, train: int = 12, val: int = 4, height: int = 64) -> Path:
    """In the layout of Cityscapes, ids as published: 34 of them, of which 19 count."""
    for split, first, count in (("train", 0, train), ("val", 1000, val)):
        for number in range(first, first + count):
            name = f"made_{number:06d}_000019"
            for kind, values in zip(("leftImg8bit", "gtFine"), draw_scene(number, height), strict=True):
                folder = root / kind / split / "made"
                folder.mkdir(parents=True, exist_ok=True)
                ending = "leftImg8bit" if kind == "leftImg8bit" else "gtFine_labelIds"
                Image.fromarray(values).save(folder / f"{name}_{ending}.png")
    return root


def plant_folders(root: Path, parts: dict[str, int], height: int = 48) -> Path:
    """``images`` and ``masks`` in each of these folders, of so many scenes: sky 0, ground 1, cars 2, the ego vehicle
    255.
    """
    table = np.zeros(len(CITYSCAPES_LABELS), np.uint8)
    table[[ID["road"], ID["sidewalk"]]], table[ID["car"]], table[ID["ego vehicle"]] = 1, 2, 255
    first = 0
    for part, count in parts.items():
        for number in range(first, first + count):
            image, ids = draw_scene(number, height)
            for kind, values, ending in (("images", image, "jpg"), ("masks", table[ids], "png")):
                (root / part / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(root / part / kind / f"{number:03d}.{ending}")
        first += count
    return root
