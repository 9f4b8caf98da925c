"""A teacher that is asked about every batch, and the loader that puts its answers beside the batches."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from dalipipe.finetune.checkpoint import digest_of
from dalipipe.finetune.distillation.hints import Watch
from dalipipe.finetune.distillation.loss import sparse_logits

_VERSION = "with a teacher"  # what a loader without one names when it is given such a state


class Lesson(NamedTuple):
    """A batch with what a teacher says of it: what a `Taught` loader gives."""

    fields: tuple[Any, ...]
    """``(*inputs, labels)``, as they were."""
    logits: tuple[Tensor, ...]
    """As `sparse_logits` gives them."""
    features: tuple[Tensor, ...] = ()
    """Of the teacher's layers that hints are of."""


class Teaches(Protocol):
    """A `Teacher`, or answers of it that were kept."""

    @property
    def classes(self) -> Sequence[str]: ...

    @property
    def digest(self) -> str:
        """Of what decides the answers: equal where they are."""
        ...

    def teach(self, batch: Any) -> Lesson:
        """``batch``: of a dalipipe loader, ``(*inputs, labels)``."""
        ...


class Teacher:
    """A trained model that says of every batch what it thinks, in evaluation mode and without gradients: of the very
    picture that the student sees, augmented and mixed as it is (Beyer et al., "Knowledge distillation: a good teacher
    is patient and consistent", CVPR 2022).

    It is always given ``rows`` samples at one time, the last of them repeated where there are fewer: kernels round
    differently for batches of other sizes, and so what it says of a sample does not depend on its batch, to the bit,
    where the model's kernels take rows alike (see `row_by_row`) and samples are not padded to their batch's longest, as
    series and texts may be: these differ by roundings, some 3e-8.

    Args:
        model: maps inputs to logits [N, classes], on the device of the batches; put into evaluation mode.
        classes: names of its outputs, as the student's data set has them.
        top_k: how many of the highest logits are kept of each sample, see `sparse_logits`; all, where there are not
            more classes.
        rows: samples at one time, >= 1.
        layers: names of its layers whose features are hints for a `Hinted` student.

    Raises:
        ValueError: a number out of range, or no such layer.
    """

    def __init__(
        self, model: nn.Module, classes: Sequence[str], *, top_k: int = 64, rows: int = 64, layers: Sequence[str] = ()
    ) -> None:
        for name, value in (("top_k", top_k), ("rows", rows)):
            if type(value) is not int or value < 1:
                raise ValueError(f"Teacher: {name} must be a whole number of at least 1, got {value!r}")
        self.model, self.classes = model.eval().requires_grad_(False), list(classes)
        self.top_k, self.rows = min(top_k, len(self.classes)), rows
        self.layers, self._watch = tuple(layers), Watch(model, layers)

    @functools.cached_property
    def digest(self) -> str:
        """Of its weights, as they are when it is first asked for, its class and modules, and how they are used. What a
        class's ``forward`` does is not looked at: other code under the same name is the same teacher.
        """
        kind = f"{type(self.model).__module__}.{type(self.model).__qualname__}"
        modules = re.sub(r" at 0x[0-9a-f]+", "", repr(self.model))  # functions are shown with where they lie in memory
        told = f"{kind} {modules} {self.classes} {self.top_k} {self.rows} {self.layers}"
        return digest_of(self.model.state_dict(), told)

    def teach(self, batch: Any) -> Lesson:
        """Raises ``ValueError`` where the model gives other classes' logits."""
        fields = tuple(batch)
        logits, features = self._ask(fields[:-1])
        return Lesson(fields, sparse_logits(logits, self.top_k), features)

    def row_by_row(self, batch: Any) -> bool:
        """Whether each sample's logits stay, to the bit, when the batch's order is turned round."""
        inputs = tuple(batch)[:-1]
        there, back = self._ask(inputs)[0], self._ask([value.flip(0) for value in inputs])[0]
        return torch.equal(there, back.flip(0))

    def _ask(self, inputs: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        parts = []
        for begin in range(0, len(inputs[0]), self.rows):
            some = [value[begin : begin + self.rows] for value in inputs]
            count = len(some[0])
            if count < self.rows:
                filled = torch.arange(self.rows, device=some[0].device).clamp(max=count - 1)
                some = [value[filled] for value in some]
            with torch.no_grad():
                logits, features = self._watch(self.model, *some)
            if logits.ndim != 2 or logits.shape[1] != len(self.classes):
                raise ValueError(
                    f"the teacher gives logits {list(logits.shape)} for {self.rows} samples, expected "
                    f"[{self.rows}, {len(self.classes)}], one for each class of the data set"
                )
            parts.append([value[:count] for value in (logits, *features)])
        logits, *all_features = (torch.cat(values) for values in zip(*parts, strict=True))
        return logits, tuple(all_features)


class Taught:
    """A training loader that gives a `Lesson` for every batch: the student's fields, and what the teacher says.

    Everything else is the loader's: length, epochs, position. Its state says whose lessons they are, so that a run is
    not continued with another teacher's; answers that a `TeacherCache` keeps are the teacher's own.

    Args:
        loader: of ``(*inputs, labels)`` with ``classes``, as `dalipipe.DataLoader`.
        teacher: a `Teacher` on the loader's device, or a `TeacherCache`.

    Raises:
        ValueError: teacher and data have different classes.
    """

    def __init__(self, loader: Any, teacher: Teaches) -> None:
        check_classes(teacher.classes, loader.classes)
        self.loader, self.teacher = loader, teacher

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Lesson]:
        return map(self.teacher.teach, iter(self.loader))

    def state_dict(self) -> dict[str, Any]:
        return {"version": _VERSION, "loader": self.loader.state_dict(), "teacher": self.teacher.digest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ``ValueError`` where the state is of lessons of another teacher, or of none."""
        if state.get("version") != _VERSION or state.get("teacher") != self.teacher.digest:
            was = "with another teacher" if state.get("version") == _VERSION else "without a teacher"
            raise ValueError(
                f"this run was begun {was} (other weights, modules, classes, top_k, rows or layers): continue it as it "
                "was begun, or begin anew in another folder"
            )
        self.loader.load_state_dict(state["loader"])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("loader", "teacher"):  # not there yet, in copies
            raise AttributeError(name)
        return getattr(self.loader, name)


def check_classes(teacher: Sequence[str], student: Sequence[str] | None) -> None:
    """Raises ``ValueError`` where they are not the same, in the same order."""
    student = None if student is None else list(student)
    if student is None or list(teacher) == student:
        return
    odd = sorted(set(teacher) ^ set(student))
    if not odd:
        problem = "in another order"
    else:
        problem = f"only the {'teacher' if odd[0] in set(teacher) else 'student'} has {odd[0]!r}"
    raise ValueError(
        f"teacher and student see different classes: the teacher has {len(teacher)}, the student's data "
        f"{len(student)}; {problem}. Give a teacher that was trained on these classes"
    )


def load_teacher(
    path: str | os.PathLike[str], name: str, classes: Sequence[str], **model_options: Any
) -> tuple[nn.Module, list[str]]:
    """The model ``name`` with a checkpoint's weights, all of them, and the classes that it was trained on.

    Args:
        path: a checkpoint of `finetune`; or a file with a state dict, which does not say its classes, so that they
            count as ``classes``.
        name, model_options: as `dalipipe.finetune.classifier.make_model` takes them.
        classes: the student's.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the checkpoint is of another model or of other classes.
    """
    from dalipipe.finetune.classifier import make_model, read_classes

    if not Path(path).is_file():
        raise FileNotFoundError(f"no teacher at {path}: give a checkpoint of dalipipe train, or a file of weights")
    own = read_classes(path)
    if own is not None:
        check_classes(own, classes)
    model, fresh = make_model(name, len(classes), weights=path, **model_options)
    if fresh:
        raise ValueError(
            f"the teacher {path} has no {fresh[0]!r} for a {name} of {len(classes)} classes: it was trained on others, "
            "or is no model of this name"
        )
    return model, list(classes) if own is None else own
