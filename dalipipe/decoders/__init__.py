"""Decoders: encoded pictures in, regions of uint8 pixels out.

`make_decoder` picks one; `base` says what each does; `inspect` reads headers before anything is decoded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from dalipipe.decoders.base import Decoder

NAMES = ("auto", "dali", "native", "pillow")


def decoder_of(name: str, device: torch.device) -> str:
    """What ``name`` means for a device: one of the others for ``"auto"``. Raises ``ValueError`` as `make_decoder`."""
    if name not in NAMES:
        raise ValueError(f"decoder must be one of {', '.join(NAMES)}, got {name!r}")
    on_host = device.type == "cpu"
    if name == "native" and not on_host:
        raise ValueError(f'decoder="native" decodes on the host, not on {device}: give "auto" or "dali"')
    return name if name != "auto" else "native" if on_host else "dali"


def make_decoder(name: str, device: torch.device, *, batch_size: int, threads: int, depth: int) -> Decoder:
    """``"dali"`` decodes on the device; ``"native"``, dalipipe's own decoder, baseline JPEGs on the host, and leaves
    the rest to DALI; ``"pillow"`` on the host with Pillow. ``"auto"`` is native for the host, DALI for a CUDA device.

    Raises ``ValueError`` for another name or device, `MissingDaliError` where DALI is needed and not installed.
    """
    name = decoder_of(name, device)
    if name == "pillow":
        from dalipipe.decoders.pillow import PillowDecoder

        return PillowDecoder(threads=threads)

    def dali() -> Decoder:
        from dalipipe.decoders.dali import DaliDecoder
        from dalipipe.decoders.tiles import TileCutter

        return TileCutter(DaliDecoder(device, batch_size=batch_size, threads=threads, depth=depth), threads=threads)

    if name == "dali":
        return dali()
    from dalipipe.decoders.native import NativeDecoder

    return NativeDecoder(dali, threads=threads)
