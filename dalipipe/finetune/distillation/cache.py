"""A teacher's answers, worked out once for every augmented picture that a student will see, and kept in files."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dalipipe import rng
from dalipipe.finetune.distillation.teacher import Lesson, Teacher, check_classes
from dalipipe.orders import Given, Repeated, Sequential, Subset
from dalipipe.sources.contents import identity

_VERSION = 2
_SAVE_S = 10.0  # work that a crash may cost
_MISSING, _THERE, _BAD = 0, 1, 2  # in filled.npy


class OtherAnswersError(ValueError):
    """What a folder keeps are answers to other questions; ``others``: by name, what was kept and what is asked for."""

    def __init__(self, path: Path, others: dict[str, tuple[Any, Any]]) -> None:
        self.path, self.others = path, others
        lines = [f"  {name}: kept {was!r}, here {now!r}" for name, (was, now) in others.items()]
        super().__init__(
            f"the answers in {path} are to other questions; name another folder, or remove this one:\n"
            + "\n".join(lines)
        )


class TeacherCache:
    """The highest logits of a teacher for every sample of a data set, in every augmentation of it that there is: that
    of each of the loader's ``draw_epochs`` epochs, and of each copy where its order is `orders.Repeated`.

    A folder: ``teacher.json`` says whose answers to what these are; ``values.npy`` float32 [draws, samples, top_k];
    ``classes.npy`` and ``rest.npy`` where there are more classes than that (see `sparse_logits`); ``filled.npy``, which
    are there. Files are mapped, so that processes share the memory. `fill` works out what is missing, and goes on where
    it was, however it was stopped. What is looked up is what the `Teacher` would say on that device, to the bit, as far
    as its docstring says.

    Args:
        path: the folder; made where there is none.
        loader: the student's `dalipipe.DataLoader`, with ``draw_epochs``.
        teacher: on the loader's device.
        epochs: of this training. Of fewer than ``draw_epochs`` only these are filled, and waited for; a longer training
            fills more. None: all.

    Which samples these are is told by `identity`: data may move, and other pictures under the same names are found out.

    Raises:
        ValueError: the folder has answers of another teacher, or to other samples, policies, seeds, ...
            (`OtherAnswersError`), or is damaged; the loader gives ever new pictures; hints, which a cache does not
            keep; teacher and data have other classes.
        FileExistsError: there is something else at ``path``.
        OSError: the folder cannot be written, or the disk is too small.
    """

    def __init__(
        self, path: str | os.PathLike[str], loader: Any, teacher: Teacher, *, epochs: int | None = None
    ) -> None:
        check_classes(teacher.classes, loader.classes)
        if teacher.layers:
            raise ValueError("TeacherCache: features for hints are too large to be kept: ask the teacher itself")
        self.path, self._loader, self._teacher = Path(path), loader, teacher
        self.classes, self.digest = teacher.classes, teacher.digest
        state = loader.state_dict()
        if state["draw_epochs"] is None:
            raise ValueError(
                "TeacherCache: each epoch of this loader augments anew, so nothing kept would be seen again: give "
                "DataLoader(draw_epochs=), how many epochs' augmentation there is to be"
            )
        self._copies, self._epochs = _copies(loader), state["draw_epochs"]
        self._asked = self._epochs if epochs is None else min(epochs, self._epochs)
        self._identity = {
            "version": _VERSION,
            "teacher": self.digest,
            "classes": list(self.classes),
            "top_k": teacher.top_k,
            "rows": teacher.rows,
            "data set": identity(loader.source, threads=loader.threads),
            "samples": len(loader.dataset),
            "policy": state["policy"],
            "dtype": str(loader.dtype).removeprefix("torch."),
            "seed": state["seed"],
            "draw_epochs": self._epochs,
            "copies": self._copies,
        }
        if not (self.path / "teacher.json").is_file():
            self._make()
        self._check()
        self._filled, *self._files = map(self._mapped, self._layout)

    @property
    def missing(self) -> int:
        """Answers that are not there yet, and will be asked for."""
        return int(np.count_nonzero(self._wanted == _MISSING))

    @property
    def _wanted(self) -> np.ndarray:
        return self._filled[: self._asked * self._copies]

    def fill(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Works out what is missing, by a loader of its own. ``progress`` is told after every batch how many answers
        are there, and how many there will be.

        What the loader skips or substitutes as bad is passed over. Warns where the teacher's kernels do not take
        rows alike.
        """
        total = self._wanted.size
        there, saved_s, checked = total - self.missing, time.monotonic(), False
        done: list[tuple[np.ndarray, np.ndarray]] = []
        try:
            for batch in self._batches(done):
                if not checked and not self._teacher.row_by_row(batch):
                    warnings.warn(
                        "this teacher's answers depend in their last bits on where a sample stands in its batch: those "
                        "kept equal its own but for that",
                        stacklevel=2,
                    )
                checked, at = True, (self._rows(batch), batch.indices)
                for file, answers in zip(self._files, self._teacher.teach(batch).logits, strict=True):
                    file[at] = answers.cpu().numpy()
                done.append(at)
                there += len(batch.indices)
                if time.monotonic() - saved_s > _SAVE_S:
                    self._save(done)
                    saved_s = time.monotonic()
                if progress is not None:
                    progress(there, total)
        finally:
            self._save(done)

    def wait(self, timeout_s: float = 300) -> None:
        """Waits while another process fills it.

        Raises ``TimeoutError`` where no answer has come for ``timeout_s``.
        """
        missing, since_s = self.missing, time.monotonic()
        while missing:
            time.sleep(0.2)
            if (now := self.missing) != missing:
                missing, since_s = now, time.monotonic()
            elif time.monotonic() - since_s > timeout_s:
                raise TimeoutError(f"{self.path}: {missing} answers are missing, and none has come for {timeout_s:g} s")

    def teach(self, batch: Any) -> Lesson:
        """What the teacher said of these samples, on the CPU.

        Raises ``ValueError`` where an answer is missing, or the batch does not say which samples it has.
        """
        if batch.indices is None or batch.draws is None:
            raise ValueError(
                "TeacherCache: the batch does not say which samples it has: hand it on as the loader made it"
            )
        rows = self._rows(batch)
        filled = self._filled[rows, batch.indices]
        if (filled != _THERE).any():
            at = int(np.flatnonzero(filled != _THERE)[0])
            remedy = "fill() it" if filled[at] == _MISSING else "it could not be read then; make the cache again"
            raise ValueError(f"{self.path} has no answer for sample {batch.indices[at]}: {remedy}")
        return Lesson(tuple(batch), tuple(_tensor(file[rows, batch.indices]) for file in self._files))

    def _rows(self, batch: Any) -> np.ndarray:
        epochs, copies = np.divmod(batch.draws, rng.MAX_VARIANTS)
        if epochs.max(initial=0) >= self._epochs or copies.max(initial=0) >= self._copies:
            raise ValueError(
                f"{self.path} has answers for {self._epochs} epochs' draws and {self._copies} copies in each: the "
                f"batch has epoch {epochs.max()}'s, copy {copies.max()}"
            )
        rows: np.ndarray = epochs * self._copies + copies
        return rows

    def _batches(self, done: list[tuple[np.ndarray, np.ndarray]]) -> Iterator[Any]:
        """Those that lack answers, epoch by epoch; at its end an epoch's are saved."""
        for epoch in range(self._asked):
            filled = self._filled[epoch * self._copies : (epoch + 1) * self._copies]
            if filled.all():
                continue
            order: Any = Subset(np.flatnonzero(~filled.all(axis=0)), Sequential())
            if self._copies > 1:
                order = Repeated(self._copies, order, whole=True)
            loader = self._loader.again(
                batch_size=self._teacher.rows,
                shuffle=False,
                sampler=order,
                batch_sampler=None,
                drop_last=False,
                rank=0,
                world_size=1,
                cache=None,
                cache_bytes=None,
                quarantine=None,
            )
            loader.set_epoch(epoch)
            with contextlib.closing(loader):
                yield from loader
            self._save(done)
            filled[filled == _MISSING] = _BAD

    def _save(self, done: list[tuple[np.ndarray, np.ndarray]]) -> None:
        """Says that answers are there when the disk has them."""
        for file in self._files:
            file.flush()
        for at in done:
            self._filled[at] = _THERE
        self._filled.flush()
        done.clear()

    @property
    def _layout(self) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        """Of each file."""
        draws, samples, top_k = self._epochs * self._copies, self._identity["samples"], self._teacher.top_k
        files = {"filled": ("uint8", (draws, samples)), "values": ("float32", (draws, samples, top_k))}
        if top_k < len(self.classes):
            files["classes"] = "uint16" if len(self.classes) <= 1 << 16 else "int32", (draws, samples, top_k)
            files["rest"] = "float32", (draws, samples)
        return {name: (np.dtype(dtype), shape) for name, (dtype, shape) in files.items()}

    def _make(self) -> None:
        if self.path.exists() and not (self.path.is_dir() and not any(self.path.iterdir())):
            raise FileExistsError(
                f"{self.path} is there, and holds no teacher's answers: name a new or an empty folder"
            )
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            temporary.mkdir(parents=True)
            for name, (dtype, shape) in self._layout.items():
                np.lib.format.open_memmap(temporary / f"{name}.npy", "w+", dtype, shape).flush()
                with open(
                    temporary / f"{name}.npy", "r+b"
                ) as file:  # a disk that is full says so here, not in a signal
                    os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
            (temporary / "teacher.json").write_text(json.dumps(self._identity, indent=1) + "\n", encoding="utf-8")
            os.rename(temporary, self.path)
        except OSError as error:
            if not (self.path / "teacher.json").is_file():  # another process was faster
                raise OSError(error.errno, f"no answers can be kept: {error.strerror}", str(self.path)) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _check(self) -> None:
        file = self.path / "teacher.json"
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise self._damaged(file, str(error)) from error
        if not isinstance(found, dict):
            raise self._damaged(file, f"it holds a {type(found).__name__}")
        others = {name: (found.get(name), value) for name, value in self._identity.items() if found.get(name) != value}
        if others:
            raise OtherAnswersError(self.path, others)

    def _mapped(self, name: str) -> np.memmap[Any, Any]:
        path, (dtype, shape) = self.path / f"{name}.npy", self._layout[name]
        try:
            file: np.memmap[Any, Any] = np.lib.format.open_memmap(path, "r+")
        except (ValueError, FileNotFoundError) as error:
            raise self._damaged(path, str(error)) from error
        if file.dtype != dtype or file.shape != shape:
            raise self._damaged(path, f"it holds {file.dtype} {list(file.shape)}, expected {dtype} {list(shape)}")
        return file

    def _damaged(self, file: Path, why: str) -> ValueError:
        return ValueError(f"{file} is damaged: {why}. Remove the folder {self.path}, and have it made again")


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values if values.dtype == np.float32 else values.astype(np.int64))


def _copies(loader: Any) -> int:
    """How many copies of a sample an epoch has."""
    order = getattr(loader.sampler, "order", None)
    if isinstance(order, Repeated):
        return order.times
    if order is not None and not isinstance(order, Given) and order.variants(0, np.zeros(1, np.int64)) is not None:
        raise ValueError(
            f"TeacherCache: {type(order).__name__} gives a sample as often as it comes, each time augmented anew: "
            "shuffle, or take orders.Repeated, whose copies are known"
        )
    return 1
