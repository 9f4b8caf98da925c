"""Writes the tables in README.md and docs/ from results/*.json, between markers; ``--check`` fails where they differ.

    python benchmarks/report.py [--check]

A block begins ``<!-- results: NAME -->`` and ends ``<!-- end -->``; NAME is a function of blocks/.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import blocks.gpu
import blocks.gpu_report
import blocks.loaders
import blocks.operators
import blocks.packing
import blocks.signals
import blocks.stalls
import blocks.texts
import blocks.training  # noqa: F401  (each puts its blocks into BLOCKS)
from blocks.base import BLOCKS, Load, load

ROOT = Path(__file__).resolve().parent.parent
BLOCK = r"<!-- results: (\w+) -->\n.*?<!-- end -->"
PAGES = tuple(
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if "<!-- results:" in path.read_text()
)


def render(text: str, load: Load = load) -> str:
    """The page with its blocks filled in. Raises ``ValueError`` for a block of an unknown name."""

    def fill(match: re.Match[str]) -> str:
        name = match[1]
        if name not in BLOCKS:
            raise ValueError(f"no block is called {name!r}; there are {', '.join(BLOCKS)}")
        return f"<!-- results: {name} -->\n{BLOCKS[name](load)}\n<!-- end -->"

    return re.sub(BLOCK, fill, text, flags=re.DOTALL)


def main(arguments: list[str]) -> int:
    stale = []
    for page in PAGES:
        path = ROOT / page
        text = path.read_text()
        if render(text) != text:
            stale.append(page)
            if "--check" not in arguments:
                path.write_text(render(text))
    if stale:
        print(("out of date: " if "--check" in arguments else "written: ") + ", ".join(stale))
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
