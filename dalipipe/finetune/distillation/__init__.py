"""Distillation: a student learns what a teacher says of the pictures that it sees, besides their labels."""

from dalipipe.finetune.distillation.cache import OtherAnswersError, TeacherCache
from dalipipe.finetune.distillation.hints import Hinted, hint_loss
from dalipipe.finetune.distillation.loss import Distill, dense_logits, distillation_losses, sparse_logits
from dalipipe.finetune.distillation.staged import Staged, carry_checkpoint, subset_then_transfer
from dalipipe.finetune.distillation.teacher import Lesson, Taught, Teacher, check_classes, load_teacher

__all__ = [
    "Distill",
    "Hinted",
    "Lesson",
    "OtherAnswersError",
    "Staged",
    "Taught",
    "Teacher",
    "TeacherCache",
    "carry_checkpoint",
    "check_classes",
    "dense_logits",
    "distillation_losses",
    "hint_loss",
    "load_teacher",
    "sparse_logits",
    "subset_then_transfer",
]
