"""DALI's own pipeline, as its ImageNet example has it: reader, decoder with a random crop, resize, normalisation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dalipipe.bench.contenders.base import Contender, Pair, Settings
from dalipipe.bench.work import MEAN, STD, Work


class Dali(Contender):
    """Settings: ``num_threads``; ``prefetch_queue_depth``; ``exec_dynamic``: its newer executor; on a GPU
    ``hw_decoder_load``: the share of pictures that the decoding engine is given.
    """

    tolerance = 0.06
    remark = "resizing of its own, which rounds the longer side where torchvision cuts it off"

    @classmethod
    def candidates(cls, work: Work) -> list[Settings]:
        base: Settings = {"num_threads": work.cores, "prefetch_queue_depth": 2, "exec_dynamic": True}
        tried = [
            base,
            {**base, "exec_dynamic": False},
            {**base, "prefetch_queue_depth": 3},
            {**base, "num_threads": 2 * work.cores},
        ]
        if work.on_cuda:
            tried = [{**one, "hw_decoder_load": load} for one in tried for load in (0.65, 0.9)]
        elif work.cores > 1:
            tried.append({**base, "num_threads": work.cores - 1})
        return tried

    def load(self) -> str:
        import nvidia.dali
        import nvidia.dali.fn
        import torch  # noqa: F401  (what a batch is handed over as)

        return str(nvidia.dali.__version__)

    def batches(self) -> Iterator[Pair]:
        from nvidia.dali import fn
        from nvidia.dali.types import RGB  # type: ignore[attr-defined]

        pipeline = self._pipeline(self.work.batch_size)
        hybrid = {"hw_decoder_load": self.settings["hw_decoder_load"]} if self.work.on_cuda else {}
        with pipeline:
            encoded, labels = fn.readers.file(
                files=list(self.work.paths), labels=list(self.work.labels), random_shuffle=True, name="reader"
            )
            images = fn.decoders.image_random_crop(
                encoded,
                device=self._decoder,
                output_type=RGB,
                adjust_orientation=False,  # as all others do, which leave EXIF alone
                random_area=[0.08, 1.0],
                random_aspect_ratio=[3 / 4, 4 / 3],
                num_attempts=10,
                **hybrid,
            )
            resized = fn.resize(images, resize_x=self.work.size_px, resize_y=self.work.size_px)
            pipeline.set_outputs(self._normalised(resized, mirror=fn.random.coin_flip()), labels)
        pipeline.build()
        while True:
            yield self._torch(pipeline)

    def evaluation(self) -> Pair:
        from nvidia.dali import fn
        from nvidia.dali.types import INT32, RGB  # type: ignore[attr-defined]

        pipeline = self._pipeline(self.work.evaluated)
        with pipeline:
            encoded, labels = fn.readers.file(files=list(self.work.paths), labels=list(self.work.labels))
            images = fn.decoders.image(encoded, device=self._decoder, output_type=RGB, adjust_orientation=False)
            resized: Any = fn.resize(images, resize_shorter=self.work.shorter_px)
            shape, size = resized.shape(), self.work.size_px
            corner = fn.cast(fn.stack(_middle(shape[0] - size), _middle(shape[1] - size)), dtype=INT32)
            middle = fn.slice(resized, start=corner, shape=(size, size), axes=(0, 1))
            pipeline.set_outputs(self._normalised(middle), labels)
        pipeline.build()
        images, labels = self._torch(pipeline)
        return images.cpu(), labels.cpu()

    @property
    def _decoder(self) -> str:
        return "mixed" if self.work.on_cuda else "cpu"

    def _pipeline(self, batch_size: int) -> Any:
        import torch
        from nvidia.dali import Pipeline

        device_id = (torch.device(self.work.device).index or 0) if self.work.on_cuda else None
        options = {name: value for name, value in self.settings.items() if name != "hw_decoder_load"}
        return Pipeline(batch_size=batch_size, device_id=device_id, seed=self.work.seed, **options)

    def _normalised(self, images: Any, **more: Any) -> Any:
        from nvidia.dali import fn
        from nvidia.dali.types import FLOAT  # type: ignore[attr-defined]

        return fn.crop_mirror_normalize(
            images,
            dtype=FLOAT,
            output_layout="CHW",
            mean=[255 * value for value in MEAN],
            std=[255 * value for value in STD],
            **more,
        )

    def _torch(self, pipeline: Any) -> Pair:
        """The next batch, without a copy. Labels stay on the host: they are few."""
        import torch

        images, labels = pipeline.run()
        images, labels = torch.from_dlpack(images.as_tensor()), torch.from_dlpack(labels.as_tensor()).reshape(-1)
        return images, labels

    @property
    def ahead(self) -> int:
        return int(self.settings["prefetch_queue_depth"]) + 2


def _middle(left_px: Any) -> Any:
    """Half of what is left, rounded to even where that is between two pixels, as torchvision does."""
    half = left_px // 2
    return half + (left_px & 1) * (half & 1)
