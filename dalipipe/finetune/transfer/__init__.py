"""Transfer: what a model has learnt on other data, put to use."""

from dalipipe.finetune.transfer.penalties import L2SP

__all__ = ["L2SP"]
