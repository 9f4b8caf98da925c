"""Every stage of a loader by itself, on one core, and somebody else's way to do the same work.

for case in cases(folder):
    case.verify()
    case.ours(), case.theirs()

All of it is made up, the same on every machine, so that ratios can be compared: JPEGs of 500×375 px, sounds of a second
at 8 kHz in 16-bit WAV files, texts of 20 words in the mean.
"""

from __future__ import annotations

import io
import random
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image
from text_peers import ALPHA, PlainPython
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

import dalipipe
from dalipipe import native, rng
from dalipipe.decoders.audio import decode_audio
from dalipipe.decoders.base import Decoder, inspect
from dalipipe.decoders.native import NativeDecoder
from dalipipe.engines.base import Output
from dalipipe.engines.native import NativeEngine
from dalipipe.engines.signal import SignalEngine
from dalipipe.engines.text import TextEngine
from dalipipe.ops import image as image_ops
from dalipipe.ops import signal as signal_ops
from dalipipe.ops import text as text_ops
from dalipipe.plan import Draws, lower
from dalipipe.records import Encoded, Pictures

PICTURES, SOUNDS, TEXTS = 64, 256, 2048
STORED_PX, OUT_PX, RATE_HZ = (375, 500), 224, 8000
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CPU = torch.device("cpu")
KEY = rng.make_key(0, 0)


@dataclass(frozen=True)
class Case:
    """``samples``: in a call of ``ours`` and of ``theirs``, which ``reference`` names."""

    track: str
    stage: str
    samples: int
    ours: Callable[[], Any]
    reference: str
    theirs: Callable[[], Any]
    verify: Callable[[], None]

    @property
    def name(self) -> str:
        return f"{self.track}: {self.stage}"


def cases(folder: Path) -> Iterator[Case]:
    """All of them; files go into ``folder``."""
    yield from pictures(folder / "pictures")
    yield from sounds(folder / "sounds")
    yield from texts()


# --- pictures -------------------------------------------------------------------------------------------------------


def pictures(root: Path) -> Iterator[Case]:
    paths = make_pictures(root)
    source, rows = dalipipe.ImageFolder(root), np.arange(PICTURES)
    encoded: Encoded = source.read(rows, threads=1).columns["image"]
    files = [path.read_bytes() for path in paths]
    headers, _ = inspect(encoded, threads=1)
    size = np.stack([headers["height"], headers["width"]], axis=1).astype(np.int64)

    def read_here() -> list[bytes]:
        return [path.read_bytes() for path in paths]

    def same_bytes() -> None:
        assert [encoded[row].tobytes() for row in rows] == read_here()

    yield Case(
        "pictures",
        "read",
        PICTURES,
        lambda: source.read(rows, threads=1),
        "Python's open and read",
        read_here,
        same_bytes,
    )

    def sizes() -> list[tuple[int, int]]:
        return [Image.open(io.BytesIO(data)).size for data in files]

    def same_sizes() -> None:
        assert [(w, h) for h, w in size.tolist()] == sizes()

    yield Case("pictures", "probe", PICTURES, lambda: inspect(encoded, threads=1), "Pillow", sizes, same_sizes)

    # Flipped for certain, so that what is drawn for the other library is known.
    steps = [image_ops.RandomResizedCrop(OUT_PX), image_ops.HorizontalFlip(p=1.0), image_ops.Normalize()]
    plan = lower(dalipipe.Policy(steps), source.schema)
    draws = plan.draw(KEY, rows, size)
    crop = v2.RandomResizedCrop(OUT_PX)
    stored = torch.zeros(3, *STORED_PX, dtype=torch.uint8)

    def drawn_there() -> list[tuple[Any, bool]]:
        return [(crop.make_params([stored]), bool(torch.rand(()) < 0.5)) for _ in range(PICTURES)]

    def alike() -> None:
        many = plan.draw(KEY, np.arange(4096), np.tile(size[:1], (4096, 1))).params.roi[:, 2:].prod(axis=1).mean()
        theirs = np.mean([each["height"] * each["width"] for _ in range(4096 // PICTURES) for each, _ in drawn_there()])
        assert abs(many / theirs - 1) < 0.1, (many, theirs)

    yield Case(
        "pictures",
        "draw",
        PICTURES,
        lambda: plan.draw(KEY, rows, size),
        "torchvision v2, picture by picture",
        drawn_there,
        alike,
    )

    roi = draws.params.roi
    decoder = NativeDecoder(nobody, threads=1)

    def decode() -> Pictures:
        decoder.submit(encoded, headers, roi)
        found, errors = decoder.collect()
        assert not errors, errors
        return found

    def decode_there() -> list[np.ndarray]:
        found = []
        for data, (top, left, h, w) in zip(files, roi.tolist(), strict=True):
            picture = Image.open(io.BytesIO(data))
            found.append(np.asarray(picture.convert("RGB").crop((left, top, left + w, top + h))))
        return found

    def same_pixels() -> None:
        ours = decode()
        assert all(np.array_equal(ours[row], theirs) for row, theirs in enumerate(decode_there()))

    yield Case("pictures", "decode", PICTURES, decode, "Pillow", decode_there, same_pixels)

    decoded = decode()
    engine = NativeEngine(plan, Output(CPU, torch.float32, torch.contiguous_format), threads=1)
    # A view: channels_last, as decoders give them.
    planes = [torch.from_numpy(decoded[row].copy()).permute(2, 0, 1) for row in range(PICTURES)]
    out = torch.empty(PICTURES, 3, OUT_PX, OUT_PX)

    def augment_there() -> torch.Tensor:
        for row, picture in enumerate(planes):
            x = F.horizontal_flip(F.resize(picture, [OUT_PX, OUT_PX], antialias=True))
            out[row] = F.normalize(F.to_dtype(x, torch.float32, scale=True), list(MEAN), list(STD), inplace=True)
        return out

    def same_batch() -> None:
        off = float((engine.start(decoded, draws)() - augment_there()).abs().max())
        assert off < 1e-5, f"ours and torchvision's differ by {off}"

    yield Case(
        "pictures",
        "augment",
        PICTURES,
        lambda: engine.start(decoded, draws)(),
        "torchvision v2",
        augment_there,
        same_batch,
    )


def make_pictures(root: Path) -> list[Path]:
    """Slopes and grain, as photographs have."""
    (root / "made").mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    slopes = torch.nn.functional.interpolate(
        torch.rand(PICTURES, 3, 12, 16, generator=generator), STORED_PX, mode="bicubic"
    )
    grain = torch.randn(slopes.shape, generator=generator) * 6
    pixels = (slopes * 255 + grain).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    paths = [root / "made" / f"{number:03d}.jpg" for number in range(PICTURES)]
    for path, picture in zip(paths, pixels, strict=True):
        Image.fromarray(picture).save(path, quality=90)
    return paths


def nobody() -> Decoder:
    raise AssertionError("all of these are baseline JPEGs")


# --- sounds ---------------------------------------------------------------------------------------------------------


def sounds(root: Path) -> Iterator[Case]:
    paths = make_sounds(root)
    source, rows = dalipipe.AudioFolder(root, rate_hz=RATE_HZ), np.arange(SOUNDS)
    encoded: Encoded = source.read(rows, threads=1).columns["audio"]
    files = [path.read_bytes() for path in paths]

    def read_here() -> list[bytes]:
        return [path.read_bytes() for path in paths]

    def same_bytes() -> None:
        assert [encoded[row].tobytes() for row in rows] == read_here()

    yield Case(
        "sounds", "read", SOUNDS, lambda: source.read(rows, threads=1), "Python's open and read", read_here, same_bytes
    )

    def probe_there() -> list[tuple[int, int]]:
        infos = [soundfile.info(io.BytesIO(data)) for data in files]
        return [(info.samplerate, info.frames) for info in infos]

    def probe() -> np.ndarray:
        return native.probe_audio(encoded.arena, encoded.starts, threads=1)

    def same_headers() -> None:
        headers = probe()
        assert list(zip(headers["rate_hz"].tolist(), headers["frames"].tolist(), strict=True)) == probe_there()

    yield Case("sounds", "probe", SOUNDS, probe, "soundfile", probe_there, same_headers)

    def decode_there() -> list[np.ndarray]:
        return [soundfile.read(io.BytesIO(data), dtype="float32")[0] for data in files]

    def decode() -> Any:
        return decode_audio(encoded, channels=1, threads=1)[0]

    def same_frames() -> None:
        ours = decode()
        assert all(np.array_equal(ours[row][:, 0], theirs) for row, theirs in enumerate(decode_there()))

    yield Case("sounds", "decode", SOUNDS, decode, "soundfile", decode_there, same_frames)

    steps = [
        signal_ops.Gain(p=1.0),
        signal_ops.AddGaussianSNR(p=1.0),
        signal_ops.TimeShift((-0.2, 0.2), rollover=False, fade_s=0.0, p=1.0),
    ]
    plan = lower(dalipipe.Policy(steps), source.schema)
    engine = SignalEngine(plan, Output(CPU, torch.float32, torch.contiguous_format), threads=1)
    signals = decode()
    size = engine.size(signals)
    draws = plan.draw(KEY, rows, size)
    generator = np.random.default_rng(0)
    python = random.Random(0)

    def draw_there() -> list[tuple[float, float, int]]:
        frames = [int(count) for count in signals.frames]
        uniform = python.uniform
        return [(uniform(-12, 12), uniform(5, 40), round(uniform(-0.2, 0.2) * count)) for count in frames]

    yield Case(
        "sounds",
        "draw",
        SOUNDS,
        lambda: plan.draw(KEY, rows, size),
        "plain Python, sound by sound",
        draw_there,
        lambda: None,
    )

    clips = np.stack([signals[row][:, 0] for row in range(SOUNDS)])
    there = draw_there()

    def augment_there() -> np.ndarray:
        found = np.zeros_like(clips)
        for clip, target, (gain_db, snr_db, shift) in zip(clips, found, there, strict=True):
            x = clip * np.float32(10 ** (gain_db / 20))
            noise = generator.standard_normal(len(x), np.float32)
            x += noise * np.float32(np.sqrt(np.mean(x**2)) / np.sqrt(np.mean(noise**2)) * 10 ** (-snr_db / 20))
            if shift >= 0:
                target[shift:] = x[: len(x) - shift]
            else:
                target[:shift] = x[-shift:]
        return found

    def as_specified() -> None:
        batch = engine.start(signals, draws)()[0].numpy()
        for row in (0, 1, SOUNDS - 1):
            expected = signals[row]
            for drawn in draws.drawn:
                expected = drawn.reference(row, expected)
            assert np.allclose(batch[row, 0], expected[:, 0], rtol=1e-4, atol=1e-5)

    yield Case(
        "sounds",
        "augment",
        SOUNDS,
        lambda: engine.start(signals, draws)(),
        "numpy, sound by sound",
        augment_there,
        as_specified,
    )


def make_sounds(root: Path) -> list[Path]:
    """Tones and noise."""
    (root / "made").mkdir(parents=True)
    generator = np.random.default_rng(0)
    t = np.arange(RATE_HZ) / RATE_HZ
    paths = [root / "made" / f"{number:03d}.wav" for number in range(SOUNDS)]
    for path in paths:
        tone = 0.4 * np.sin(2 * np.pi * generator.uniform(80, 2000) * t) + 0.05 * generator.normal(size=RATE_HZ)
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE_HZ)
            file.writeframes((tone.clip(-1, 1) * 32767).astype("<i2").tobytes())
    return paths


# --- texts ----------------------------------------------------------------------------------------------------------


def texts() -> Iterator[Case]:
    generator = np.random.default_rng(0)
    words = [f"word{number}" for number in range(5000)]
    share = 1 / np.arange(1, len(words) + 1)
    lengths = generator.integers(1, 40, TEXTS)
    source = dalipipe.Text(
        [" ".join(generator.choice(words, length, p=share / share.sum())) for length in lengths], split="space"
    )
    rows = np.arange(TEXTS)
    order = generator.permutation(TEXTS)
    tokens = source.read(rows, threads=1).columns["text"]
    lists = [tokens[row].tolist() for row in range(TEXTS)]

    def read_there() -> list[list[int]]:
        return [lists[row] for row in order.tolist()]

    def read() -> Any:
        return source.read(order, threads=1).columns["text"]

    def same_words() -> None:
        ours = read()
        assert [ours[row].tolist() for row in range(TEXTS)] == read_there()

    yield Case("texts", "read", TEXTS, read, "a list's items", read_there, same_words)

    plan = lower(dalipipe.Policy([text_ops.RandomSwap(ALPHA), text_ops.RandomDeletion(ALPHA)]), source.schema)
    engine = TextEngine(plan, Output(CPU, torch.float32, torch.contiguous_format), threads=1)
    size = engine.size(tokens)
    draws: Draws = plan.draw(KEY, rows, size, 0, rows)
    plain = PlainPython({}, 0)

    def augment_there() -> list[list[int]]:
        return [plain.swap_and_delete(text) for text in lists]

    def as_specified() -> None:
        batch = engine.start(tokens, draws)()
        for row in range(0, TEXTS, 97):
            expected = tokens[row]
            for drawn in draws.drawn:
                expected = drawn.reference(row, expected)
            assert batch.rows[row, : batch.lengths[row]].tolist() == expected.tolist()
        kept = sum(map(len, augment_there())) / sum(map(len, lists))
        assert abs(batch.lengths.sum() / sum(map(len, lists)) - kept) < 0.02

    yield Case(
        "texts",
        "draw and augment",
        TEXTS,
        lambda: engine.start(tokens, plan.draw(KEY, rows, size, 0, rows))(),
        "plain Python, text by text",
        augment_there,
        as_specified,
    )
