"""Runs of `finetune` that are killed with signal 9, each in its own process: what tests/test_finetune_loop.py starts.

    python tests/killed_runs.py FOLDER

Prints a line of JSON for each way to be killed: its name, how often it was killed, and whether what it ended with is
what a run that nobody kills ends with, to the bit.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from test_finetune import ArrayLoader, rows_of, small_config, small_model, without_times
from test_finetune_loop import EVERYTHING, assert_equal, last_of

from dalipipe.finetune import Layers, checkpoint, finetune, journal, loop


def train(out: Path, **changes: Any) -> None:
    model = small_model()
    config = small_config(out, **{**EVERYTHING, "epochs": 3, "save_every": 1, "log_every": 1} | changes)
    finetune(model, ArrayLoader(), ArrayLoader(n=20), config, layers=Layers(unfreeze_every=1))


def process(work: Callable[[], None]) -> int:
    """The id of a new one, in which the work is done. This one must not have trained: autograd cannot be forked."""
    child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def ended(child: int) -> int:
    """0, or by which signal it was killed, or, for an error, -1."""
    status = os.waitpid(child, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)


def killed_at(where: Any, name: str, call: int, *, after: bool) -> None:
    """From now on this process is killed before, or after, such a call of the function."""
    function, calls = getattr(where, name), itertools.count(1)

    def counted(*args: Any, **options: Any) -> Any:
        now = next(calls) == call
        if now and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        value = function(*args, **options)
        if now:
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    setattr(where, name, counted)


POINTS = {
    "before a checkpoint is written": (checkpoint, "save_file", 4, False),
    "when it is written and has no name": (checkpoint, "save_file", 6, True),
    "before it takes its name": (checkpoint.os, "replace", 7, False),  # the confusion matrix's is one of these
    "after it took its name": (checkpoint.os, "replace", 3, True),
    "when a row of metrics is written": (journal.Journal, "write", 5, True),
    "before the confusion matrix is written": (loop, "write_confusion", 1, False),
    "after it": (loop, "write_confusion", 2, True),
    "before the optimiser's step": (torch.optim.AdamW, "step", 6, False),
    "after the first step": (torch.optim.AdamW, "step", 1, True),
    "in a backward pass": (torch.Tensor, "backward", 12, False),
    "when the average is swapped in": (loop.Average, "swap", 5, True),
}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    assert ended(process(lambda: train(folder / "whole"))) == 0
    expected = last_of(folder / "whole")

    def report(name: str, out: Path, kills: int) -> None:
        try:
            assert_equal(expected, last_of(out))
            same = all(
                without_times(rows_of(out, kind)) == without_times(rows_of(folder / "whole", kind))
                for kind in ("step", "epoch")
            )
            same = same and not list(out.glob(".*"))
        except AssertionError as error:
            name, same = f"{name}: {error}", False
        print(json.dumps({"name": name, "kills": kills, "same": same}), flush=True)

    def again(out: Path) -> None:
        found = (out / "checkpoint.safetensors").is_file()
        train(out, resume=found, overwrite=not found)

    for number, (name, (where, function, call, after)) in enumerate(POINTS.items()):
        out = folder / str(number)

        def first(out: Path = out, point: Any = (where, function, call), after: bool = after) -> None:
            killed_at(*point, after=after)
            train(out)

        status = ended(process(first))
        assert ended(process(lambda out=out: again(out))) == 0
        report(f"{function} {call} {name}", out, int(status == signal.SIGKILL))

    chance, out, kills = random.Random(4), folder / "anywhere", 0
    while True:
        child = process(lambda: again(out))
        time.sleep(chance.uniform(0.05, 0.3 + 0.05 * kills))  # however slow the machine, it comes to an end
        os.kill(child, signal.SIGKILL)  # of one that has ended, it does nothing
        status = ended(child)
        assert status in (0, signal.SIGKILL)
        if status == 0:
            break
        kills += 1
    report("anywhere", out, kills)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
