"""How strongly to augment, by cross-validation; and advice on the other numbers that training needs.

`tune` compares a policy at several strengths, with several numbers of operators and of copies, on the same folds;
`suggest` says what learning rate, weight decay, batch size and epochs to begin with, and why; `lr_range_test` looks.
"""

from dalipipe.finetune.tuning.advice import Advice, suggest
from dalipipe.finetune.tuning.candidates import Candidate, candidates, trivial_augment
from dalipipe.finetune.tuning.folds import check_folds, stratified_folds
from dalipipe.finetune.tuning.halving import Rung, plan_rungs
from dalipipe.finetune.tuning.range_test import RangeTest, lr_range_test
from dalipipe.finetune.tuning.search import Standing, TuneConfig, Tuned, tune

__all__ = [
    "Advice",
    "Candidate",
    "RangeTest",
    "Rung",
    "Standing",
    "TuneConfig",
    "Tuned",
    "candidates",
    "check_folds",
    "lr_range_test",
    "plan_rungs",
    "stratified_folds",
    "suggest",
    "trivial_augment",
    "tune",
]
