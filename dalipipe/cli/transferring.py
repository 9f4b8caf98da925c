"""What `dalipipe train` does of `dalipipe.finetune.transfer`, as given on the command line."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from dalipipe.finetune import Layers, Objective
    from dalipipe.sources import Source


@dataclasses.dataclass(frozen=True)
class Transfer:
    """The options of transfer, all of which may be left out.

    Raises:
        ValueError: options that contradict each other or cannot be read.
    """

    freeze: str | None = None
    unfreeze_every: float | None = None
    layer_decay: float = 1.0
    l2_sp: float | None = None
    source: Path | None = None
    target_weight: float | None = None
    subset: str | None = None

    def __post_init__(self) -> None:
        if self.target_weight is not None and self.source is None:
            raise ValueError("--target-weight is the target's beside a --source: give that too, or leave it out")
        for flag, value in (("--l2-sp", self.l2_sp), ("--target-weight", self.target_weight)):
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{flag} must be a number in [0, inf), got {value:g}")
        if self.freeze is not None and self.layers.freeze in (0, ""):
            raise ValueError(
                f"--freeze {self.freeze!r} freezes nothing: give 1 or more for the first layers, -1 for all but the "
                "last, or names; or leave it out"
            )
        _ = self.layers, self._count

    def check_start(self, *, given: bool, resume: bool) -> None:
        """``given``: whether there are weights to begin with.

        Raises ``ValueError`` for options that are of no use without them.
        """
        if self.l2_sp is not None and not given:
            wanted = "give the same --weights, or --carry, as before" if resume else "give --weights or --carry"
            raise ValueError(f"--l2-sp pulls towards the weights that a run begins with: {wanted}")
        if self.freeze is not None and not given and not resume:
            raise ValueError(
                "--freeze keeps layers as they are, which without weights to begin with is at random: give --weights "
                "or --carry, or leave it out"
            )

    @property
    def layers(self) -> Layers:
        from dalipipe.finetune import Layers

        names = "0" if self.freeze is None else self.freeze
        freeze: int | str
        try:
            freeze = int(names)
        except ValueError:
            inside = "" if self.source is None else "target."
            freeze = ",".join(f"{inside}{name.strip()}" for name in names.split(",") if name.strip())
        return Layers(freeze=freeze, unfreeze_every=self.unfreeze_every, lr_decay=self.layer_decay)

    @property
    def _count(self) -> int | float | None:
        if self.subset is None:
            return None
        try:
            return int(self.subset) if self.subset.isdecimal() else float(self.subset)
        except ValueError:
            raise ValueError(f"--subset must be 20, say, a class, or 0.1 of each, got {self.subset!r}") from None

    def weight_decay(self, given: float | None) -> float:
        """Of the optimiser: L2-SP stands in for it."""
        if self.l2_sp is not None and given:
            raise ValueError("--l2-sp pulls weights by itself, instead of weight decay: leave --weight-decay out")
        return 0.0 if self.l2_sp is not None else 0.05 if given is None else given

    def drawn(self, train: Source, seed: int) -> Source:
        """What to train on: all, or a part of each class."""
        from dalipipe.finetune.transfer import draw_subset

        return train if self._count is None else draw_subset(train, self._count, seed=seed)

    def open_source(self, task: str, like: Source, *, rate_hz: float, channels: int) -> Source | None:
        """What to train on beside the target: all of a folder, or what it has to train on; of series, the first file.

        Raises:
            FileNotFoundError: it is not there.
            ValueError: texts; no classes; or other channels than ``like`` has.
        """
        if self.source is None:
            return None
        from dalipipe.finetune.classifier import open_audio, series_file
        from dalipipe.finetune.segmentation import open_label_maps
        from dalipipe.sources import Series, open_source

        if task == "text":
            raise ValueError("--source is for pictures, sounds and series: words of two sets of texts differ in number")
        kind = "image" if task == "segmentation" else task
        if task == "series":
            found: Source = Series.open(series_file(self.source))
        elif task == "segmentation":
            found = open_label_maps(self.source)[0]
        else:
            inside = self.source / "train"
            path = inside if inside.is_dir() else self.source
            if not path.exists():
                raise FileNotFoundError(f"no data at {path}: --source is a folder like that of the target")
            found = open_source(path) if task == "image" else open_audio(path, rate_hz=rate_hz, channels=channels)
        if not found.classes:
            raise ValueError(f"--source {self.source} has no classes to learn from")
        of_each = [next((f.channels for f in one.schema.fields if f.kind == kind), None) for one in (found, like)]
        if of_each[0] != of_each[1]:
            raise ValueError(f"--source {self.source} has {of_each[0]} channels, the target {of_each[1]}")
        return found

    def prepare(
        self, model: nn.Module, fresh: list[str], target: Any, source: Any, objective: Objective, of_source: Objective
    ) -> tuple[nn.Module, Any, Objective]:
        """The model, the training loader and the objective; ``target`` and ``source`` are loaders, each with its
        objective.
        """
        from dalipipe.finetune.transfer import L2SP, Joint, SideBySide, share_trunk

        if source is not None:
            model = share_trunk(model, len(source.classes))
            fresh = [f"target.{name}" for name in fresh]
            fresh += [name for name, _ in model.named_parameters() if name.startswith("source.")]
            weight = 1.0 if self.target_weight is None else self.target_weight
            objective = Joint(weight, target=objective, source=of_source)
            target = SideBySide(target, source)
        if self.l2_sp is not None:
            objective = L2SP(model, fresh, alpha=self.l2_sp, objective=objective)
        return model, target, objective

    def describe(self, model: nn.Module, source: Any, epochs: int) -> list[str]:
        """What is out of the ordinary, for the heading; of a model that `prepare` gave."""
        from dalipipe.finetune import layers_of

        told, layers = [], self.layers
        learning = sum(p.numel() for group in layers.groups(model, weight_decay=0) for p in group["params"])
        if layers.freeze:
            whole = sum(parameter.numel() for parameter in model.parameters())
            told.append(f"{whole - learning:,} of {whole:,} parameters frozen")
        if layers.unfreeze_every is not None:
            every, names = layers_of(model), layers.learning(model, epochs - 1)
            awake = sum(not names.isdisjoint(layer) for layer in every)
            told.append(
                f"one layer more learns every {layers.unfreeze_every:g} epochs, {awake} of {len(every)} by the end"
            )
        if layers.lr_decay != 1:
            told.append(f"each layer's rate {layers.lr_decay:g} of the next one's")
        if self.l2_sp is not None:
            told.append(f"L2-SP {self.l2_sp:g} instead of weight decay")
        if source is not None:
            told.append(f"beside {self.source}, of {len(source.classes)} classes")
        return told
