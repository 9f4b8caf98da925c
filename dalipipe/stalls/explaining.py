"""`dalipipe.explain`: dalipipe's loaders from inside, all others from outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dalipipe.loader import DataLoader
from dalipipe.stalls import others, own
from dalipipe.stalls.explanation import Explanation
from dalipipe.stalls.measuring import Progress


def explain(
    loader: Any,
    step: Callable[[Any], Any],
    *,
    steps: int | None = None,
    epoch: int | None = None,
    device: str | torch.device = "auto",
    progress: Progress = lambda what, share: None,
) -> Explanation:
    """Where a training step's time goes: computing, waiting for data to be prepared, or to be fetched; which stage of
    the loader bounds it; and what would help, with the step times predicted for it.

        found = dalipipe.explain(loader, train_one_step)
        print(found)
        dalipipe.stalls.write_page(found, "explain.html")

    Steps are run with batches that lie on the device already, with the loader and all files in memory, and with files
    read anew, in turns of some steps each. Then every stage is timed alone, and a model of the loader's threads, which
    is fed with these times, says what a change would bring. What the system has in memory of the files that are read
    is forgotten for it. After "Analyzing and mitigating data stalls in DNN training" (Mohan et al., VLDB 2021).

    Args:
        loader: a dalipipe `DataLoader`; it and its position stay as they are. Or torch's, whose stages are told apart
            as far as its data set lets them be: files are known where it has a list of them (``samples``, ``imgs``,
            ``paths``, ...), else what is seen for the first time counts as read anew; steps of a ``Compose`` in
            ``transform`` one by one. Or whatever gives batches anew with each ``iter``, as a whole.
        step: trains one step on a batch; what it returns is not looked at. The model learns by it, so give a copy of
            one that matters. Of a loader that is not dalipipe's, it is given batches as they come and, to tell what
            bringing them there takes, batches that are on the device.
        steps: how many of each kind are timed, at least 12; ``None``: as many as take about a minute, 60 at most, or
            240 of a dalipipe loader.
        epoch: whose samples and draws are taken, of a dalipipe loader; ``None``: the loader's next.
        device: where ``step`` works, if the loader is not dalipipe's; ``"auto"``: the current CUDA device where there
            is one.
        progress: called with what is being done, and the share of it that is done.

    Raises:
        TypeError: a loader that cannot be begun again, or a ``step`` that is no function.
        ValueError: fewer steps; a loader without batches.
        SampleError, TooManyBadSamplesError: as from the loader.
    """
    if not callable(step):
        raise TypeError(f"explain: step must be a function of a batch, got {type(step).__name__}")
    if isinstance(loader, DataLoader):
        return own.investigate(loader, step, steps=steps, epoch=epoch, progress=progress).explanation()
    return others.explain(loader, step, steps=steps, device=device, progress=progress)
