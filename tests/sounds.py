"""WAV files as tests want them, whole or odd."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

KINDS = {"pcm8": (1, 8), "pcm16": (1, 16), "pcm24": (1, 24), "pcm32": (1, 32), "float32": (3, 32), "float64": (3, 64)}


def chunk(name: bytes, body: bytes, size: int | None = None) -> bytes:
    """``size``: what it says, where that is not how much there is. Padded to an even length."""
    return name + struct.pack("<I", len(body) if size is None else size) + body + b"\0" * (len(body) % 2)


def form(kind: str, channels: int = 1, rate_hz: int = 8000, *, extensible: bool = False) -> bytes:
    """A format chunk."""
    codec, bits = KINDS[kind]
    width = channels * bits // 8
    tag = 0xFFFE if extensible else codec
    body = struct.pack("<HHIIHH", tag, channels, rate_hz, rate_hz * width, width, bits)
    if extensible:
        body += struct.pack("<HHIH", 22, bits, 0, codec) + bytes.fromhex("000000001000800000aa00389b71")
    return chunk(b"fmt ", body)


def riff(*chunks: bytes, size: int | None = None) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


def stored(kind: str, frames: int, channels: int = 1, seed: int = 0) -> tuple[bytes, np.ndarray]:
    """Random samples as a file has them, extremes among them, and what they mean: float32 [frames, channels]."""
    codec, bits = KINDS[kind]
    random = np.random.default_rng(seed)
    if codec == 3:
        values = random.uniform(-1.5, 1.5, (frames, channels)).astype(f"<f{bits // 8}")
        return values.tobytes(), values.astype(np.float32)
    half = 1 << (bits - 1)
    whole = random.integers(-half, half, (frames, channels))
    whole.ravel()[:2] = [-half, half - 1][: whole.size]
    meant = (whole / half).astype(np.float32)
    if bits == 8:
        return (whole + 128).astype(np.uint8).tobytes(), meant
    raw = whole.astype("<i4").view(np.uint8).reshape(frames, channels, 4)[..., : bits // 8]
    return raw.tobytes(), meant


def wav(kind: str, frames: int, channels: int = 1, rate_hz: int = 8000, seed: int = 0) -> tuple[bytes, np.ndarray]:
    data, meant = stored(kind, frames, channels, seed)
    return riff(form(kind, channels, rate_hz), chunk(b"data", data)), meant


def together(files: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Arena and starts."""
    starts = np.concatenate([[0], np.cumsum([len(file) for file in files], dtype=np.int64)])
    return np.frombuffer(b"".join(files), np.uint8), starts.astype(np.int64)
