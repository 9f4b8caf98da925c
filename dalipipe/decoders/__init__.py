"""Decoders: encoded pictures in, regions of uint8 pixels out.

`make_decoder` picks one; `base` says what each does; `inspect` reads headers before anything is decoded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from dalipipe.decoders.base import Decoder

NAMES = ("auto", "dali", "native", "pillow")


def decoder_of(name: str) -> str:
    """What ``name`` means: one of the others for ``"auto"``. Raises ``ValueError`` where it is no decoder's."""
    if name not in NAMES:
        raise ValueError(f"decoder must be one of {', '.join(NAMES)}, got {name!r}")
    return "native" if name == "auto" else name


def describe_decoder(name: str, device: torch.device) -> str:
    """What decodes what, for people."""
    name = decoder_of(name)
    if name != "native":
        return name
    if device.type == "cpu":
        return "native (baseline JPEGs; others by dali)"
    return "native (JPEGs in tiles on the device, other baseline JPEGs on the host; others by dali)"


def make_decoder(name: str, device: torch.device, *, batch_size: int, threads: int, depth: int) -> Decoder:
    """``"native"``, which ``"auto"`` means, is dalipipe's own decoder: of baseline JPEGs on the host, and, where
    batches are made on a CUDA device, of JPEGs in tiles there; other kinds of picture it leaves to DALI. ``"dali"`` and
    ``"pillow"`` decode on the host. All give libjpeg-turbo's pixels, to the bit.

    Raises ``ValueError`` for another name, `MissingDaliError` where DALI is needed and not installed.
    """
    name = decoder_of(name)
    if name == "pillow":
        from dalipipe.decoders.pillow import PillowDecoder

        return PillowDecoder(threads=threads)

    def dali() -> Decoder:
        from dalipipe.decoders.dali import DaliDecoder
        from dalipipe.decoders.tiles import TileCutter

        return TileCutter(DaliDecoder(batch_size=batch_size, threads=threads, depth=depth), threads=threads)

    if name == "dali":
        return dali()

    def on_host() -> Decoder:
        from dalipipe.decoders.native import NativeDecoder

        return NativeDecoder(dali, threads=threads)

    if device.type != "cuda":
        return on_host()
    from dalipipe.decoders.device import DeviceDecoder
    from dalipipe.queues import queue_of

    return DeviceDecoder(queue_of(device), on_host, threads=threads)
