"""SPDL: a pipeline of threads. FFmpeg decodes, crops and resizes, or torchvision does: its examples have both."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from dalipipe.bench.contenders.base import Contender, Pair, Settings, drawn_box
from dalipipe.bench.contenders.torch_loaders import colour, geometry, middle, opened
from dalipipe.bench.work import Work


class _Spdl(Contender):
    """Settings: ``num_threads``."""

    @classmethod
    def candidates(cls, work: Work) -> list[Settings]:
        return [{"num_threads": work.cores}, {"num_threads": 2 * work.cores}]

    def load(self) -> str:
        from importlib.metadata import version

        import spdl.io
        import spdl.pipeline  # noqa: F401
        import torch
        import torchvision.transforms.v2  # noqa: F401

        torch.set_num_threads(1)  # its own threads keep the cores busy
        return version("spdl")

    @abstractmethod
    def cropped(self) -> Callable[[str], Any]:
        """What makes a randomly cropped and mirrored picture of a file, in a thread."""

    @abstractmethod
    def middle(self, path: str) -> Any:
        """The evaluation's picture."""

    @abstractmethod
    def stacked(self, pictures: list[Any]) -> Any:
        """uint8 [N, 3, size, size]."""

    def batches(self) -> Iterator[Pair]:
        from spdl.pipeline import PipelineBuilder
        from torchvision.transforms import v2

        cropped, finish = self.cropped(), v2.Compose(colour())

        def samples() -> Iterator[tuple[str, int]]:
            while True:
                index = random.randrange(len(self.work.paths))
                yield self.work.paths[index], self.work.labels[index]

        def picture(sample: tuple[str, int]) -> tuple[Any, int]:
            return cropped(sample[0]), sample[1]

        def batch(pairs: list[tuple[Any, int]]) -> Pair:
            images, labels = self._joined(pairs)
            images = images.to(self.work.device, non_blocking=True)
            return finish(images), labels.to(self.work.device, non_blocking=True)

        threads = self.settings["num_threads"]
        builder: Any = PipelineBuilder()
        pipeline = (
            builder.add_source(samples())
            .pipe(picture, concurrency=threads)
            .aggregate(self.work.batch_size)
            .pipe(batch)
            .add_sink(2)
            .build(num_threads=threads)
        )
        with pipeline.auto_stop():
            yield from pipeline

    def evaluation(self) -> Pair:
        from torchvision.transforms import v2

        samples = zip(self.work.paths, self.work.labels, strict=True)
        pairs = [(self.middle(path), label) for path, label in islice(samples, self.work.evaluated)]
        images, labels = self._joined(pairs)
        return v2.Compose(colour())(images), labels

    def _joined(self, pairs: list[tuple[Any, int]]) -> Pair:
        import torch

        pictures, labels = zip(*pairs, strict=True)
        return self.stacked(list(pictures)), torch.tensor(labels)

    @property
    def ahead(self) -> int:
        return 9  # two in each queue between its stages, and what stages hold; seen, too


class SpdlFfmpeg(_Spdl):
    """Its own way: FFmpeg's decoder and filters."""

    tolerance = 0.05
    remark = "FFmpeg's upsampling of chroma and its scaler"

    def load(self) -> str:
        import spdl.io

        version = super().load()
        try:
            spdl.io.demux_image(self.work.paths[0])  # its libraries are looked for when they are first used
        except RuntimeError as error:
            if "shared object" not in str(error):
                raise
            raise ModuleNotFoundError("SPDL finds none of FFmpeg's libraries", name="spdl") from error
        return version

    def cropped(self) -> Callable[[str], Any]:
        size = self.work.size_px

        def cropped(path: str) -> Any:
            import spdl.io

            packets = spdl.io.demux_image(path)
            top, left, height, width = drawn_box(packets.height, packets.width)
            flip = ",hflip" if random.random() < 0.5 else ""
            # exact: else a box begins where a block of subsampled chroma does.
            crop = f"crop={width}:{height}:{left}:{top}:exact=1"
            filters = f"{crop},scale={size}:{size}:flags=bilinear{flip},format=rgb24"
            return spdl.io.decode_packets(packets, filter_desc=filters)

        return cropped

    def middle(self, path: str) -> Any:
        import spdl.io

        packets, size, shorter = spdl.io.demux_image(path), self.work.size_px, self.work.shorter_px
        height, width = packets.height, packets.width
        width, height = max(shorter, shorter * width // height), max(shorter, shorter * height // width)
        filters = f"scale={width}:{height}:flags=bilinear,format=rgb24,crop={size}:{size}:exact=1"
        return spdl.io.decode_packets(packets, filter_desc=filters)

    def stacked(self, pictures: list[Any]) -> Any:
        import spdl.io

        return spdl.io.to_torch(spdl.io.convert_frames(pictures)).permute(0, 3, 1, 2)  # from [N, size, size, 3]


class SpdlTorchvision(_Spdl):
    """Its threads with torchvision's decoder and transforms."""

    tolerance = 1e-6

    def cropped(self) -> Callable[[str], Any]:
        from torchvision.transforms import v2

        crop = v2.Compose(geometry(self.work.size_px))
        return lambda path: crop(opened(path))

    def middle(self, path: str) -> Any:
        from torchvision.transforms import v2

        return v2.Compose(middle(self.work))(opened(path))

    def stacked(self, pictures: list[Any]) -> Any:
        import torch

        return torch.stack(pictures)
