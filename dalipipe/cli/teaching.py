"""`dalipipe train --teacher`: whom a student learns from, and how."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dalipipe.finetune import Objective, Ranks
    from dalipipe.finetune.distillation import Distill

_CACHE_EPOCHS = 10


@dataclasses.dataclass(frozen=True)
class Teaching:
    """As given on the command line. ``distill``: the objective, with labels learnt by cross-entropy."""

    checkpoint: Path
    model: str
    distill: Distill
    cache: Path | None
    cache_epochs: int

    @property
    def draw_epochs(self) -> int | None:
        """For the student's loader: also of a training of fewer epochs, so that others may use what is kept, too."""
        return None if self.cache is None else self.cache_epochs

    def begin(
        self,
        loader: Any,
        hard: Objective,
        ranks: Ranks,
        console: Any,
        of_data: dict[str, Any],
        *,
        epochs: int,
        timeout_s: float,
    ) -> tuple[Any, Objective]:
        """Loads the teacher, has it asked where its answers are to be kept, and gives what to train on, and for what.
        ``of_data``: what `make_model` is to know of the data.

        Raises ``ValueError`` where the cache holds other answers, in the words of options.
        """
        from dalipipe.finetune.distillation import OtherAnswersError, Taught, Teacher, TeacherCache, load_teacher

        model, classes = load_teacher(self.checkpoint, self.model, loader.classes, **of_data)
        teacher = Teacher(model.to(loader.device), classes)
        distill = self.distill
        words = f"{self.model} from {self.checkpoint}, T {distill.temperature:g}, labels' share {distill.hard_weight:g}"
        console.print(f"  teacher   {words}", highlight=False, markup=False)
        objective = dataclasses.replace(distill, hard=hard)
        if self.cache is None:
            return Taught(loader, teacher), objective
        try:
            if ranks.main:
                cache = TeacherCache(self.cache, loader, teacher, epochs=epochs)
            ranks.wait()
            if not ranks.main:
                cache = TeacherCache(self.cache, loader, teacher, epochs=epochs)
        except OtherAnswersError as error:
            if list(error.others) != ["draw_epochs"]:
                raise
            kept, _ = error.others["draw_epochs"]
            raise ValueError(
                f"--teacher-cache {self.cache} holds the answers to {kept} epochs' augmentation, and --cache-epochs is "
                f"{self.cache_epochs}: give --cache-epochs {kept}, or another folder"
            ) from error
        if ranks.main:
            _fill(cache, console)
        cache.wait(timeout_s)
        return Taught(loader, cache), objective


def _fill(cache: Any, console: Any) -> None:
    from rich.progress import Progress

    missing = cache.missing
    if not missing:
        console.print(f"            its answers are in {cache.path}", highlight=False, markup=False)
        return
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("asking the teacher")
        cache.fill(lambda there, total: progress.update(task, completed=there, total=total))
    console.print(f"            {missing:,} answers worked out, kept in {cache.path}", highlight=False, markup=False)


def teaching_of(
    teacher: Path | None,
    model: str | None,
    student: str,
    temperature: float | None,
    hard_weight: float | None,
    cache: Path | None,
    cache_epochs: int | None,
) -> Teaching | None:
    """What these options ask for.

    Raises ``ValueError`` for options that go without others, or out of range; ``FileNotFoundError``: no such teacher.
    """
    from dalipipe.finetune.distillation import Distill

    if teacher is None:
        given = {
            "--teacher-model": model,
            "--temperature": temperature,
            "--hard-weight": hard_weight,
            "--teacher-cache": cache,
            "--cache-epochs": cache_epochs,
        }
        for name, value in given.items():
            if value is not None:
                raise ValueError(f"{name} is about a --teacher: give the teacher's checkpoint, or leave {name} out")
        return None
    if cache_epochs is not None and cache is None:
        raise ValueError("--cache-epochs says what a --teacher-cache holds: give its folder, or leave it out")
    if not teacher.is_file():
        raise FileNotFoundError(f"no teacher at {teacher}: give a checkpoint of dalipipe train, or a file of weights")
    chosen: dict[str, Any] = {"temperature": temperature, "hard_weight": hard_weight}
    distill = Distill(**{name: value for name, value in chosen.items() if value is not None})
    return Teaching(teacher, model or student, distill, cache, _CACHE_EPOCHS if cache_epochs is None else cache_epochs)
