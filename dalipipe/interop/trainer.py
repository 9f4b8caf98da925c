"""dalipipe loaders in transformers' ``Trainer``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from dalipipe.loader import DataLoader

NAMES = {"image": "pixel_values", "text": "input_ids", "label": "labels"}
"""A batch's fields, as Hugging Face's models call them. Texts have an ``attention_mask``, too, made of lengths."""
_IGNORED = -100  # the label that torch's cross entropy leaves out


class TrainerMixin:
    """Lets a transformers ``Trainer`` train and evaluate on dalipipe loaders.

        class Trainer(TrainerMixin, transformers.Trainer): ...

        trainer = Trainer(model, args, train_loader=train, eval_loader=val)
        trainer.train(resume_from_checkpoint=True)      # on the very next batch

    The loaders' batch sizes count, not those in ``args``. Evaluation is exact with ``shards="exact"``: the labels of
    rows that only fill up become -100, which losses leave out, and metrics do not see them.

    Args:
        train_loader: for ``train``. Give it a ``seed``, so that a resumed run finds the same order.
        eval_loader: for ``evaluate``; or several by name.
        names: what the model calls the fields of a batch (`NAMES`). Fields that it does not take are left out, unless
        ``args.remove_unused_columns`` is false.

    ``evaluate`` and ``predict`` take loaders, too. All else is the ``Trainer``'s.

    Raises:
        TypeError: a loader that is none of dalipipe's.
    """

    def __init__(
        self,
        *args: Any,
        train_loader: DataLoader | None = None,
        eval_loader: DataLoader | Mapping[str, DataLoader] | None = None,
        names: Mapping[str, str] = NAMES,
        **kw: Any,
    ) -> None:
        loaders = eval_loader.values() if isinstance(eval_loader, Mapping) else [eval_loader]
        for loader in (train_loader, *loaders):
            if loader is not None and not isinstance(loader, DataLoader):
                raise TypeError(f"TrainerMixin: expected a dalipipe.DataLoader, got {type(loader).__name__}")
        self._names = names
        # The Trainer hands them back when it wants a loader; it measures them before.
        if train_loader is not None:
            kw["train_dataset"] = train_loader
        if eval_loader is not None:
            kw["eval_dataset"] = dict(eval_loader) if isinstance(eval_loader, Mapping) else eval_loader
        super().__init__(*args, **kw)

    def get_train_dataloader(self) -> Any:
        loader = self.train_dataset  # type: ignore[attr-defined]
        if not isinstance(loader, DataLoader):
            return super().get_train_dataloader()  # type: ignore[misc]
        dicts = self._dicts(loader, "train")
        self._train_batch_size = self.args.train_batch_size  # type: ignore[attr-defined]
        return dicts

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        loader = self.eval_dataset if eval_dataset is None else eval_dataset  # type: ignore[attr-defined]
        if isinstance(loader, str):
            loader = self.eval_dataset[loader]  # type: ignore[attr-defined]
        if not isinstance(loader, DataLoader):
            return super().get_eval_dataloader(eval_dataset)  # type: ignore[misc]
        return self._dicts(loader, "eval")

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        if not isinstance(test_dataset, DataLoader):
            return super().get_test_dataloader(test_dataset)  # type: ignore[misc]
        return self._dicts(test_dataset, "eval")

    def _dicts(self, loader: DataLoader, use: str) -> _Dicts:
        trainer: Any = self
        if loader.batch_size is not None:
            setattr(trainer.args, f"per_device_{use}_batch_size", loader.batch_size // max(1, trainer.args.n_gpu))
        trainer._set_signature_columns_if_needed()
        wanted = trainer._signature_columns if trainer.args.remove_unused_columns else None
        masked = trainer.label_names if use == "eval" else []
        return _Dicts(trainer.accelerator.prepare(loader), self._names, wanted, masked)


class _Dicts:
    """A loader whose batches come as dicts. All else is the loader's, and so are loaders built around its parts."""

    def __init__(
        self, loader: DataLoader, names: Mapping[str, str], wanted: list[str] | None, masked: list[str]
    ) -> None:
        self._loader, self._names, self._wanted, self._masked = loader, names, wanted, masked

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(self.collate_fn, self._loader)

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_loader":
            raise AttributeError(name)
        return getattr(self._loader, name)

    def collate_fn(self, batch: Any) -> dict[str, Any]:
        named = {self._names.get(field, field): value for field, value in batch._asdict().items()}
        if "input_ids" in named and "length" in named:
            place = torch.arange(named["input_ids"].shape[1], device=named["length"].device)
            named["attention_mask"] = (place < named["length"][:, None]).long()
        if "valid" in named:
            for name in self._masked:
                if name in named and not named[name].is_floating_point():
                    unseen = ~named["valid"].view(-1, *[1] * (named[name].ndim - 1))
                    named[name] = named[name].masked_fill(unseen, _IGNORED)
        return {name: value for name, value in named.items() if self._wanted is None or name in self._wanted}
