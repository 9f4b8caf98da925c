"""Who decodes JPEGs on a CUDA device besides dalipipe, each as its own guide would have it; in a dry run, on the CPU.

What can be set is swept by the caller, `settings` by `settings`; decoders, pipelines and buffers are made once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peers import MEAN, SIZE, STD

AREA, ASPECT = [0.08, 1.0], [3 / 4, 4 / 3]  # of random crops
DALI_READY = 2  # batches that a pipeline makes ahead


@dataclass(frozen=True)
class Batch:
    """N files in host memory; ``roi`` int64 [N, 4]: the regions wanted, as y, x, h, w; ``None``: whole pictures."""

    files: list[bytes]
    roi: np.ndarray | None

    def __len__(self) -> int:
        return len(self.files)


@dataclass(frozen=True)
class Peer:
    """``run`` decodes the next batch, over and over from the first on; ``arrays`` makes uint8 [H, W, 3] of what it
    gave; ``exact``: whether the regions are those asked for; ``ready``: batches that it makes ahead.
    """

    run: Callable[[], Any]
    arrays: Callable[[Any], list[np.ndarray]]
    exact: bool = True
    ready: int = 0


def dali(
    batches: Sequence[Batch], device: torch.device, *, operator: str, threads: int, hw_decoder_load: float
) -> Peer:
    """``operator`` of fn.decoders: "image", "image_slice" or "image_random_crop", which draws regions of its own."""
    from nvidia.dali import fn, types
    from nvidia.dali.tensors import TensorCPU

    arrays = [[np.frombuffer(file, np.uint8) for file in batch.files] for batch in batches]
    fed: list[tuple[Any, ...]] = [([TensorCPU(file) for file in files],) for files in arrays]
    if operator == "image_slice":
        rois = [np.asarray(batch.roi, np.int32) for batch in batches]
        regions = [(np.ascontiguousarray(roi[:, :2]), np.ascontiguousarray(roi[:, 2:])) for roi in rois]
        fed = [(*files, *region) for files, region in zip(fed, regions, strict=True)]
    dtypes = [types.UINT8, types.INT32, types.INT32][: len(fed[0])]
    extra: dict[str, Any] = {}
    if operator == "image_slice":
        extra = {"axes": [0, 1]}
    elif operator == "image_random_crop":
        extra = {"random_area": AREA, "random_aspect_ratio": ASPECT, "num_attempts": 10}
    pipeline = _pipeline(device, len(batches[0]), threads)
    with pipeline:
        inputs = fn.external_source(
            source=lambda number: fed[number % len(fed)],
            num_outputs=len(dtypes),
            dtype=dtypes,
            ndim=[1] * len(dtypes),
            no_copy=True,
        )
        decode = getattr(fn.decoders, operator)
        pipeline.set_outputs(decode(*inputs, **_decoding(device, hw_decoder_load), **extra))
    pipeline.build()

    def downloaded(outputs: Any) -> list[np.ndarray]:
        pictures = outputs[0].as_cpu() if device.type == "cuda" else outputs[0]
        return [np.array(pictures[row]) for row in range(len(pictures))]

    def run(_kept: Any = arrays) -> Any:  # what `fed` points to
        return pipeline.run()

    return Peer(run, downloaded, operator != "image_random_crop", DALI_READY)


def dali_end_to_end(
    root: str, batch_size: int, device: torch.device, *, threads: int, hw_decoder_load: float
) -> Callable[[], Any]:
    """The pipeline of its ImageNet example, from files to float16 NHWC on the device; a call gives the next batch."""
    from nvidia.dali import fn, types

    pipeline = _pipeline(device, batch_size, threads)
    with pipeline:
        encoded, labels = fn.readers.file(file_root=root, random_shuffle=True, name="reader", prefetch_queue_depth=2)
        images = fn.decoders.image_random_crop(
            encoded,
            **_decoding(device, hw_decoder_load),
            random_area=AREA,
            random_aspect_ratio=ASPECT,
            num_attempts=10,
        )
        images = fn.resize(images, resize_x=SIZE, resize_y=SIZE)
        images = fn.crop_mirror_normalize(
            images,
            dtype=types.FLOAT16,
            output_layout="HWC",
            mean=[255 * v for v in MEAN],
            std=[255 * v for v in STD],
            mirror=fn.random.coin_flip(),
        )
        pipeline.set_outputs(images, labels.gpu() if device.type == "cuda" else labels)
    pipeline.build()
    return pipeline.run


def _pipeline(device: torch.device, batch_size: int, threads: int) -> Any:
    from nvidia.dali import Pipeline

    return Pipeline(
        batch_size=batch_size,
        num_threads=threads,
        device_id=device.index if device.type == "cuda" else None,
        exec_dynamic=True,
        prefetch_queue_depth=DALI_READY,
        seed=0,
    )


def _decoding(device: torch.device, hw_decoder_load: float) -> dict[str, Any]:
    """Arguments of its decoders, which leave EXIF's orientation alone as all others do. Its buffers hold pictures of 4
    megapixels from the start, and grow in warm-ups.
    """
    from nvidia.dali import types

    kind = "mixed" if device.type == "cuda" else "cpu"
    return {
        "device": kind,
        "output_type": types.RGB,
        "adjust_orientation": False,
        "hw_decoder_load": hw_decoder_load,
    }


def nvimgcodec(batches: Sequence[Batch], device: torch.device, *, backends: str, threads: int) -> Peer:
    """nvImageCodec's Decoder on lists of code streams; pictures of the last batch but one are reused."""
    from nvidia import nvimgcodec as codec

    on_cuda = device.type == "cuda"
    decoder = codec.Decoder(
        device_id=device.index if on_cuda else codec.NVIMGCODEC_DEVICE_CPU_ONLY,
        max_num_cpu_threads=threads,
        backends=_backends(codec, backends) if on_cuda else [codec.Backend(codec.BackendKind.CPU_ONLY)],
    )
    params = codec.DecodeParams(apply_exif_orientation=False)
    numbers = itertools.count()
    images: list[Any] = [None, None]

    def run() -> list[Any]:
        number = next(numbers)
        batch = batches[number % len(batches)]
        streams = [codec.CodeStream(file) for file in batch.files]
        if batch.roi is not None:
            streams = [
                stream.get_sub_code_stream(region=codec.Region(y, x, y + h, x + w))
                for stream, (y, x, h, w) in zip(streams, batch.roi.tolist(), strict=True)
            ]
        decoded = decoder.decode(streams, images=images[number % 2], params=params)
        missing = sum(image is None for image in decoded)
        if missing:
            raise RuntimeError(f"nvImageCodec left {missing} of {len(decoded)} pictures undecoded")
        images[number % 2] = decoded
        return decoded

    return Peer(run, lambda decoded: [np.array(image.cpu()) for image in decoded])


NVIMGCODEC_BACKENDS = ("all", "all, the engine's share adapted", "all but the engine")


def _backends(codec: Any, which: str) -> list[Any] | None:
    kinds = codec.BackendKind
    if which == "all":
        return None
    others = [codec.Backend(kind) for kind in (kinds.GPU_ONLY, kinds.HYBRID_CPU_GPU, kinds.CPU_ONLY)]
    if which == "all but the engine":
        return others
    adapted = codec.LoadHintPolicy.ADAPTIVE_MINIMIZE_IDLE_TIME
    return [codec.Backend(kinds.HW_GPU_ONLY, load_hint=0.8, load_hint_policy=adapted), *others]


def torchvision(batches: Sequence[Batch], device: torch.device) -> Peer:
    """``decode_jpeg`` of a list. It knows no regions: pictures are decoded whole, and regions are views of them."""
    decode = _torchvision_decoder(batches, device)

    def run() -> list[torch.Tensor]:
        batch, pictures = decode()
        if batch.roi is None:
            return pictures
        regions = zip(pictures, batch.roi.tolist(), strict=True)
        return [picture[:, y : y + h, x : x + w] for picture, (y, x, h, w) in regions]

    return Peer(run, lambda pictures: [picture.permute(1, 2, 0).cpu().numpy() for picture in pictures])


def torchvision_end_to_end(batches: Sequence[Batch], device: torch.device) -> Callable[[], torch.Tensor]:
    """``decode_jpeg`` on the device from bytes in host memory, then v2 picture by picture, so that each gets draws of
    its own; cast and normalised by batch → bfloat16 NHWC.
    """
    from torchvision.transforms import v2

    decode = _torchvision_decoder(batches, device)
    by_picture = v2.Compose([v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()])
    by_batch = v2.Compose([v2.ToDtype(torch.bfloat16, scale=True), v2.Normalize(MEAN, STD)])

    def run() -> torch.Tensor:
        _, pictures = decode()
        images = torch.stack([by_picture(picture) for picture in pictures])
        return by_batch(images).contiguous(memory_format=torch.channels_last)

    return run


def _torchvision_decoder(
    batches: Sequence[Batch], device: torch.device
) -> Callable[[], tuple[Batch, list[torch.Tensor]]]:
    from torchvision.io import ImageReadMode, decode_jpeg

    files = [[torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in batch.files] for batch in batches]
    numbers: Iterator[int] = itertools.cycle(range(len(batches)))

    def decode() -> tuple[Batch, list[torch.Tensor]]:
        number = next(numbers)
        return batches[number], decode_jpeg(files[number], mode=ImageReadMode.RGB, device=device)

    return decode
