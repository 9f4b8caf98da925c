"""What runs in a contender's process: ``python serving.py WORK.json MODULE:CLASS SETTINGS``, the last as JSON.

It answers every line of JSON that it is sent with one. Its Python may be one that dalipipe is not installed for.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent


def _find_dalipipe() -> None:
    """Make this very package importable, and no other that lies beside it."""
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != BENCH]
    root = BENCH.parent
    spec = importlib.util.spec_from_file_location(
        "dalipipe", root / "__init__.py", submodule_search_locations=[str(root)]
    )
    assert spec is not None and spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["dalipipe"] = package
    spec.loader.exec_module(package)


class Server:
    """One contender at one setting."""

    def __init__(self, work: str, kind: str, settings: dict[str, Any]) -> None:
        from dalipipe.bench.work import Work

        module, _, name = kind.partition(":")
        self.work = Work.read(Path(work))
        self.contender = getattr(importlib.import_module(module), name)(self.work, settings)
        self.batches: Any = None

    def prepare(self) -> dict[str, Any]:
        """Imports, and the pictures in a format of its own."""
        version, begin = self.contender.load(), time.monotonic()
        self.contender.prepare()
        return {"version": version, "seconds": time.monotonic() - begin}

    def evaluate(self, path: str) -> dict[str, Any]:
        """The first pictures, float32, raw in a file at ``path``: their shape and labels."""
        self.contender.load()
        images, labels = self.contender.evaluation()
        images = images.float().contiguous()
        Path(path).write_bytes(images.numpy().tobytes())
        return {"shape": list(images.shape), "labels": [int(label) for label in labels]}

    def start(self) -> dict[str, Any]:
        """The first training batch: when it was there, and the imports, on the clock that all processes share."""
        self.contender.load()
        imported = time.monotonic()
        self.batches = self.contender.batches()
        images, labels = next(self.batches)
        self._finish()
        there = time.monotonic()
        images = images.float()
        return {
            "imported_at": imported,
            "there_at": there,
            "ahead": self.contender.ahead,
            "cycle": self.contender.cycle,
            "shape": list(images.shape),
            "dtype": str(images.dtype),
            "device": str(images.device),
            "labels": len(labels),
            "mean": float(images.mean()),
            "std": float(images.std()),
        }

    def run(self, batches: int, skipped: int) -> dict[str, Any]:
        """Takes ``skipped`` batches, what lay ready among them, then so many as fast as they come: those are timed."""
        from dalipipe.bench import usage

        gc.collect()
        known = usage.tree(os.getpid())  # before the batches are skipped: new ones would pile up meanwhile
        for _ in range(skipped):
            next(self.batches)
        self._finish()
        items, batch_s = 0, []
        begin = last = time.perf_counter()
        cpu = usage.total_cpu_s(known)
        for _ in range(batches):
            images, _labels = next(self.batches)
            items += len(images)
            now = time.perf_counter()
            batch_s.append(now - last)
            last = now
        self._finish()
        seconds = time.perf_counter() - begin
        return {"items": items, "seconds": seconds, "cpu_s": usage.cpu_s(os.getpid()) - cpu, "batch_s": batch_s}

    def _finish(self) -> None:
        if self.work.on_cuda:
            import torch

            torch.cuda.synchronize(torch.device(self.work.device))


def main(work: str, kind: str, settings: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not look like an answer
    server: Server | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if server is None:
                server = Server(work, kind, json.loads(settings))
            answer = getattr(server, request.pop("do"))(**request)
        except Exception as error:
            missing = error.name if isinstance(error, ModuleNotFoundError) else None
            message = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
            answer = {"error": message, "missing": missing}
        print(json.dumps(answer), file=answers, flush=True)
    os._exit(0)  # loaders' threads and workers end with it; waiting for them to end in order may take for ever


if __name__ == "__main__":
    _find_dalipipe()
    main(*sys.argv[1:])
