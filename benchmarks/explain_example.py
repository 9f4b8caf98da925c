"""`dalipipe explain` as a user runs it, on real photographs: what README and docs/explain.md show of it.

    python benchmarks/explain_example.py --data DIR [--model NAME] [--size PX] [--results DIR]

Writes results/explain_example.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from photographs import image_folder
from rounds import write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with real photographs")
    parser.add_argument("--model", default="shufflenet_v2_x0_5")
    parser.add_argument("--size", default="64")
    parser.add_argument("--results", type=Path, default=None)
    given = parser.parse_args()
    options = ["--model", given.model, "--policy", "imagenet_train", "--size", given.size]
    with tempfile.TemporaryDirectory() as folder:
        photographs = image_folder(given.data, Path(folder))
        command = [sys.executable, "-m", "dalipipe", "explain", str(photographs), *options, "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    del found["machine"]  # `write` says
    print(found["sentence"])
    command = ["dalipipe explain photos/train", *options]
    print(write("explain_example", {"command": " ".join(command), **found}, given.results))


if __name__ == "__main__":
    main()
