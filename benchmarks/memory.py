"""One contender's resident memory, epoch by epoch, as JSON on the last line; test_loaders.py starts it.

python benchmarks/memory.py ROOT {dalipipe,dali} EPOCHS BATCH
"""

from __future__ import annotations

import gc
import json
import os
import sys

import psutil


def main(root: str, contender: str, epochs: int, batch_size: int) -> None:
    import peers

    process, workers = psutil.Process(), len(os.sched_getaffinity(0))
    resident_mb: list[float] = []
    buffers_mb: list[float] = []
    if contender == "dali":
        run = peers.dali_decoding(root, batch_size, workers)
        for _ in range(epochs):
            run()
            resident_mb.append(process.memory_info().rss / 2**20)
    else:
        loader = peers.dalipipe_loader(root, batch_size, workers)
        for _ in range(epochs):
            peak = 0
            for _batch in loader:
                peak = max(peak, process.memory_info().rss)
            del _batch
            gc.collect()
            resident_mb.append(peak / 2**20)
            buffers_mb.append(loader.stats()["buffers_bytes"] / 2**20)
    print(json.dumps({"resident_mb": resident_mb, "buffers_mb": buffers_mb}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
