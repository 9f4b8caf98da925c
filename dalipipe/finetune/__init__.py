"""Fine-tuning: a thin loop over any resumable loader of ``(*inputs, labels)``."""

from dalipipe.finetune.averaging import Average
from dalipipe.finetune.checkpoint import load_checkpoint, load_weights
from dalipipe.finetune.config import FineTuneConfig
from dalipipe.finetune.evaluation import Evaluation, evaluate
from dalipipe.finetune.interrupts import Interrupted
from dalipipe.finetune.layers import Layers
from dalipipe.finetune.loop import Result, finetune
from dalipipe.finetune.losses import Mixed, mixup_embeddings, soft_cross_entropy
from dalipipe.finetune.objectives import Answers, Objective, Scores, classify, predict_next
from dalipipe.finetune.ranks import PeerLostError, Ranks, local_device, process_group

__all__ = [
    "Answers",
    "Average",
    "Evaluation",
    "FineTuneConfig",
    "Interrupted",
    "Layers",
    "Mixed",
    "Objective",
    "PeerLostError",
    "Ranks",
    "Result",
    "Scores",
    "classify",
    "evaluate",
    "finetune",
    "load_checkpoint",
    "load_weights",
    "local_device",
    "mixup_embeddings",
    "predict_next",
    "process_group",
    "soft_cross_entropy",
]
