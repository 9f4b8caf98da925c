"""Every operator, whole recipes and what is drawn, beside torchvision: docs/parity.md and results/parity.json.

    python benchmarks/parity.py --data DIR
    python benchmarks/parity.py --page           # only the page, from results/parity.json

DIR holds imagenet_sample_125.tar and, if it may, cifar10_jpeg_subset.tar; or it is a folder of photographs, which then
stand in for both. It takes three minutes on two cores.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import timm
import torch
from compared import distributions, figure, operators, page, recipes
from compared.cases import CASES
from compared.operators import Pictures
from PIL import Image
from rounds import machine

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "parity.json"
PAGE = ROOT / "docs" / "parity.md"
FIGURE = ROOT / "docs" / "images" / "parity.png"
SMALL = 1000


def load(data: Path) -> dict[str, list[np.ndarray]]:
    """Three sets of pictures, uint8 [H, W, 3]: photographs as they are, the middle of each, and small ones."""
    archive, small_archive = data / "imagenet_sample_125.tar", data / "cifar10_jpeg_subset.tar"
    if archive.is_file():
        photographs = _unpacked(archive)
    else:
        files = sorted(path for path in data.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
        photographs = [_picture(path.read_bytes()) for path in files]
    if not photographs:
        raise SystemExit(f"--data {data} has neither imagenet_sample_125.tar nor photographs")
    small = _unpacked(small_archive, "/test/") if small_archive.is_file() else [_middle(x, 32) for x in photographs]
    small = small[:: max(1, len(small) // SMALL)]
    return {"as they are": photographs, "224 px": [_middle(x, 224) for x in photographs], "32 px": small}


def _unpacked(archive: Path, part: str = "") -> list[np.ndarray]:
    with tarfile.open(archive) as tar:
        files = sorted((m for m in tar if m.name.endswith((".jpg", ".JPEG")) and part in m.name), key=lambda m: m.name)
        return [_picture(tar.extractfile(file).read()) for file in files]  # type: ignore[union-attr]


def _picture(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


def _middle(x: np.ndarray, side: int) -> np.ndarray:
    """The shorter side made ``side`` px, and the middle cut out."""
    h, w = x.shape[:2]
    top, left = (h - min(h, w)) // 2, (w - min(h, w)) // 2
    box = (left, top, left + min(h, w), top + min(h, w))
    return np.asarray(Image.fromarray(x).resize((side, side), Image.Resampling.BILINEAR, box))


def measure(sets: dict[str, list[np.ndarray]], *, each: int = 28, draws: int = distributions.DRAWS) -> dict[str, Any]:
    """Everything. ``each``: pictures of 224 px that a setting takes."""
    taken = {"as they are": 3, "224 px": each, "32 px": 2 * each}
    rows = []
    for case in CASES:
        print(f"  {case.name}", flush=True)
        names = [name for name in sets if name != "224 px" or not case.changes_size]
        share = {name: 4 * taken[name] if case.changes_size else taken[name] for name in names}
        rows.append(operators.measure(case, {name: Pictures(sets[name], share[name]) for name in names}))
    rows += operators.measure_mixing(sets["224 px"][: 2 * each])
    some = {name: sets[name][: 2 * each] for name in ("as they are", "32 px")}
    whole = []
    for recipe in recipes.RECIPES:
        print(f"  {recipe.name}", flush=True)
        whole.append(recipes.measure(recipe, some))
    print("  what is drawn", flush=True)
    return {"operators": rows, "recipes": whole, "draws": draws, "distributions": distributions.measure(draws)}


def about(sets: dict[str, list[np.ndarray]]) -> dict[str, Any]:
    """What was compared, on what."""
    names = {"as they are": "photographs", "32 px": "pictures of 32 × 32 px"}
    found = machine()
    found["versions"] |= {"pillow": PIL.__version__, "timm": timm.__version__}
    return {"pictures": {shown: len(sets[name]) for name, shown in names.items()}, "machine": found}


def as_json(result: dict[str, Any]) -> str:
    """A line for each row, so that changes can be read."""
    lines = []
    for key, value in result.items():
        if isinstance(value, list):
            rows = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in value)
            lines.append(f" {json.dumps(key)}: [\n{rows}\n ]")
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with real photographs")
    parser.add_argument("--page", action="store_true", help="write the page from what was measured before")
    given = parser.parse_args(arguments)
    if not given.page:
        if given.data is None:
            parser.error("--data DIR is needed, or --page")
        torch.set_num_threads(1)  # pictures are small: threads that wait for each other cost more than they bring
        sets = load(given.data)
        RESULT.write_text(as_json(about(sets) | measure(sets)))
        figure.draw(FIGURE)
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page.render(json.loads(RESULT.read_text())))
    print(f"written: {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
