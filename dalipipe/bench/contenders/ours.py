"""dalipipe's own loader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dalipipe.bench.contenders.base import Contender, Pair, Settings
from dalipipe.bench.work import Work

_EPOCH = 1 << 20
"""Pictures, drawn with replacement: nobody is timed at the end of an epoch."""


class Ours(Contender):
    """Settings: ``num_workers``: threads; ``prefetch_factor``: finished batches that wait. They are given, as those of
    the others are, so the loader chooses none while it is timed.
    """

    tolerance = 1e-4

    @classmethod
    def candidates(cls, work: Work) -> list[Settings]:
        return [
            {"num_workers": work.cores, "prefetch_factor": 2},
            {"num_workers": work.cores, "prefetch_factor": 4},
            {"num_workers": 2 * work.cores, "prefetch_factor": 2},
        ]

    def load(self) -> str:
        import dalipipe
        import dalipipe.loader
        import dalipipe.recipes

        return dalipipe.__version__

    def batches(self) -> Iterator[Pair]:
        from dalipipe import recipes
        from dalipipe.orders import Weighted

        order = Weighted([1.0] * len(self.work.paths), size=_EPOCH)
        loader = self._loader(recipes.imagenet_train(self.work.size_px), self.work.batch_size, sampler=order)
        while True:
            yield from loader

    def evaluation(self) -> Pair:
        from dalipipe import recipes

        loader = self._loader(recipes.imagenet_eval(self.work.size_px), self.work.evaluated)
        images, labels = next(iter(loader))
        loader.close()
        return images, labels

    def _loader(self, policy: Any, batch_size: int, **more: Any) -> Any:
        from dalipipe.loader import DataLoader
        from dalipipe.sources import ImageFolder

        source = ImageFolder.from_samples(list(zip(self.work.paths, self.work.labels, strict=True)))
        return DataLoader(
            source,
            batch_size,
            policy=policy,
            device=self.work.device,
            seed=self.work.seed,
            autotune=False,
            **self.settings,
            **more,
        )

    @property
    def ahead(self) -> int:
        return int(self.settings["prefetch_factor"]) + 3  # one read, two decoding
