"""Fine-tuning: a thin loop over any resumable loader of ``(*inputs, labels)``."""

from dalipipe.finetune.averaging import Average
from dalipipe.finetune.checkpoint import load_checkpoint, read_weights
from dalipipe.finetune.config import FineTuneConfig
from dalipipe.finetune.evaluation import Evaluation, evaluate
from dalipipe.finetune.interrupts import Interrupted
from dalipipe.finetune.layers import Layers, head_of, layers_of
from dalipipe.finetune.loop import Result, finetune, training_step
from dalipipe.finetune.losses import Mixed, mixup_embeddings, soft_binary_cross_entropy, soft_cross_entropy
from dalipipe.finetune.mixing import mixing
from dalipipe.finetune.objectives import (
    Answers,
    Objective,
    Scores,
    classification,
    classify,
    classify_labels,
    classify_one_vs_rest,
    ious,
    predict_next,
)
from dalipipe.finetune.ranks import PeerLostError, Ranks, local_device, process_group
from dalipipe.finetune.segmentation import segment

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
    "classification",
    "classify",
    "classify_labels",
    "classify_one_vs_rest",
    "evaluate",
    "finetune",
    "head_of",
    "ious",
    "layers_of",
    "load_checkpoint",
    "local_device",
    "mixing",
    "mixup_embeddings",
    "predict_next",
    "process_group",
    "read_weights",
    "segment",
    "soft_binary_cross_entropy",
    "soft_cross_entropy",
    "training_step",
]
