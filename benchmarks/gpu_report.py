"""All that is to be known of a CUDA machine, in one command and less than 8 minutes.

    python benchmarks/gpu_report.py --data DIR

Whether the build fits the device; the tests that need one; each kernel's bytes a second beside a copy's; loaders beside
those that people use; what training waits for; CIFAR-10's size beside its speed records' way. Writes gpu_report.json,
.md and .png into benchmarks/results, after every part anew; benchmarks/report.py then has README's table. Each part has
a process and a share of the time; what fails or is stopped costs the others nothing, and is said.

DIR holds imagenet_sample_125.tar, or is an image folder; without, pictures are made. `--dry-run` tries all of it
without a GPU, on a few pictures, for a moment.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))  # where dalipipe is, if it was built in place and not installed
SECONDS = 440.0
"""For all parts; what is left until 8 minutes are over is for starting and writing."""
CLOSING_S = 5.0
"""What a part that is stopped has for ending what it started."""

Start = Callable[[str, float], "int | None"]
"""Runs a part for so many seconds at most; gives its exit status, ``None``: it was stopped."""


def limit_of(name: str, shares: dict[str, float], left_s: float) -> float:
    """What a part may have of what is left: its share of that beside all parts that come after it, so that what one
    does not need goes to those behind it.
    """
    names = list(shares)
    return max(0.0, left_s) * shares[name] / sum(shares[each] for each in names[names.index(name) :])


def run_parts(
    shares: dict[str, float], seconds: float, start: Start, work: Path, result: dict[str, Any], save: Callable[[], None]
) -> None:
    """One after the other; what each has written is in ``result["parts"]``, with what became of it."""
    end = time.perf_counter() + seconds
    for name in shares:
        limit = limit_of(name, shares, end - time.perf_counter())
        print(f"== {name}: {limit:.0f} s at most", flush=True)
        status = start(name, limit)
        path = work / f"{name}.json"
        found = json.loads(path.read_text()) if path.is_file() else {}
        found.pop("machine", None)
        if status is None:
            found.setdefault("cut", []).append(f"stopped after {limit:.0f} s")
        elif status and "error" not in found:
            found["error"] = f"ended with status {status}"
        result["parts"][name] = found
        save()


def in_process(options: list[str], work: Path) -> Start:
    """Each part in a Python of its own, which a crash of CUDA takes with it; temporary files are in ``work``."""

    def start(name: str, limit_s: float) -> int | None:
        until = ["--until", str(time.time() + limit_s)]
        command = [sys.executable, str(HERE / "gpu_report.py"), "--part", name, *until, *options]
        environment = {**os.environ, "TMPDIR": str(work)}
        with subprocess.Popen(command, start_new_session=True, env=environment) as process:
            try:
                return process.wait(limit_s + 2.0)
            except subprocess.TimeoutExpired:
                return None
            finally:
                if process.poll() is None:  # out of time, or Ctrl-C
                    stop(process)

    return start


def stop(process: subprocess.Popen[bytes]) -> None:
    """Asks a part to end, as only it knows what it has started in sessions of their own; then kills its group."""
    process.terminate()
    try:
        process.wait(CLOSING_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):  # nobody is left
            os.killpg(process.pid, signal.SIGKILL)


def run_part(name: str, given: argparse.Namespace) -> int:
    """In its own process."""
    import devices
    import gpu_parts
    import pytest

    signal.signal(signal.SIGTERM, stopped)
    with pytest.MonkeyPatch.context() as patch:
        device = devices.host(given.work, patch) if given.dry_run else devices.Device(given.rounds)
        return gpu_parts.run(gpu_parts.Part(name, device, given.work, given.data, given.until))


def stopped(number: int, frame: Any) -> NoReturn:
    """Of a part that is out of time: what is open is closed on the way out, which no part catches."""
    raise SystemExit(128 + number)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with real photographs")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all parts (default %(default).0f)")
    parser.add_argument("--parts", type=lambda names: names.split(","), metavar="NAMES", help="only these, by commas")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default 3)")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="where JSON, Markdown and charts go")
    parser.add_argument("--dry-run", action="store_true", help="try all of it without a GPU; writes no results")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.part:
        return run_part(given.part, given)
    import torch

    if not given.dry_run and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device (`dalipipe doctor` says why); --dry-run tries it without one")
    from gpu_parts import PARTS

    chosen = given.parts or list(PARTS)
    if unknown := [name for name in chosen if name not in PARTS]:
        parser.error(f"--parts: there is no {unknown[0]}; there are {', '.join(PARTS)}")
    shares = {name: share for name, (_, share) in PARTS.items() if name in ("data", *chosen)}
    with tempfile.TemporaryDirectory(prefix="dalipipe-gpu-report-", ignore_cleanup_errors=True) as folder:
        results = Path(folder) / "results" if given.dry_run and given.results == HERE / "results" else given.results
        return report(shares, given, Path(folder), results)


def report(shares: dict[str, float], given: argparse.Namespace, work: Path, results: Path) -> int:
    """Runs the parts, writes what came of them, and gives the exit status."""
    import gpu_charts
    from blocks.gpu_report import page
    from rounds import reason, write

    result: dict[str, Any] = {"dry_run": given.dry_run, "parts": {}}
    began = time.perf_counter()

    def save() -> None:
        result["took_s"] = round(time.perf_counter() - began, 1)
        path = write("gpu_report", result, results)
        written = json.loads(path.read_text())
        try:
            charts = gpu_charts.draw(written, results)
        except Exception as error:  # matplotlib is missing, say
            charts, written["no_charts"] = [], reason(error)
        path.with_suffix(".md").write_text(page(written, charts))

    options = ["--work", str(work), "--rounds", str(given.rounds)]
    options += ["--data", str(given.data.resolve())] if given.data else []
    options += ["--dry-run"] if given.dry_run else []
    run_parts(shares, given.seconds, in_process(options, work), work, result, save)
    print((results / "gpu_report.md").read_text())
    print(f"→ {results / 'gpu_report'}.*; {result['took_s']:.0f} s")
    failed = {name: part["error"] for name, part in result["parts"].items() if "error" in part}
    for name, why in failed.items():
        print(f"failed: {name}: {why}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
