"""Transfer: what a model has learnt on other data, put to use."""

from dalipipe.finetune.checkpoint import read_weights
from dalipipe.finetune.transfer.heads import replace_head
from dalipipe.finetune.transfer.joint import Joint, SharedTrunk, SideBySide, share_trunk
from dalipipe.finetune.transfer.penalties import L2SP
from dalipipe.finetune.transfer.subset import draw_rows, draw_subset
from dalipipe.finetune.transfer.weights import Carried, carry_weights, start_from

__all__ = [
    "L2SP",
    "Carried",
    "Joint",
    "SharedTrunk",
    "SideBySide",
    "carry_weights",
    "draw_rows",
    "draw_subset",
    "read_weights",
    "replace_head",
    "share_trunk",
    "start_from",
]
