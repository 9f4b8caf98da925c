"""Fine-tuning: a thin loop over any resumable loader of ``(images, labels)``."""

from dalipipe.finetune.config import FineTuneConfig
from dalipipe.finetune.interrupts import Interrupted
from dalipipe.finetune.loop import Evaluation, Result, evaluate, finetune

__all__ = [
    "Evaluation",
    "FineTuneConfig",
    "Interrupted",
    "Result",
    "evaluate",
    "finetune",
]
