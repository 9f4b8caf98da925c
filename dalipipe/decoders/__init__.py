"""Decoders: encoded pictures in, regions of uint8 pixels out.

`make_decoder` picks one; `base` says what each does; `inspect` reads headers before anything is decoded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from dalipipe.decoders.base import Decoder

NAMES = ("auto", "dali", "pillow")


def make_decoder(name: str, device: torch.device, *, batch_size: int, threads: int, depth: int) -> Decoder:
    """``"dali"`` decodes on the device, ``"pillow"`` on the host with Pillow; ``"auto"`` is DALI.

    Raises ``ValueError`` for another name, `MissingDaliError` where DALI is not installed.
    """
    if name not in NAMES:
        raise ValueError(f"decoder must be one of {', '.join(NAMES)}, got {name!r}")
    if name == "pillow":
        from dalipipe.decoders.pillow import PillowDecoder

        return PillowDecoder(threads=threads)
    from dalipipe.decoders.dali import DaliDecoder

    return DaliDecoder(device, batch_size=batch_size, threads=threads, depth=depth)
