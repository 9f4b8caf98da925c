"""The WAV reader: every way to store a sample, chunks in any order, sizes nobody knew, and bytes that mean harm."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import sounds
from hypothesis import given, settings
from hypothesis import strategies as st
from sounds import chunk, form, riff, stored, together, wav

from dalipipe import native

PROBLEM = {name: i for i, name in enumerate(native.AUDIO_PROBLEMS)}
KIND = {name: i for i, name in enumerate(native.AUDIO_KINDS)}


def probe(data: bytes) -> np.void:
    return native.probe_audio(*together([data]))[0]


def read(data: bytes, first: int = 0, frames: int | None = None, *, mix: bool = False) -> np.ndarray:
    """float32 [T, C], with a canary behind it."""
    arena, starts = together([data])
    header = native.probe_audio(arena, starts)[0]
    assert (header["kind"], header["problem"]) == (KIND["wav"], 0)
    frames = int(header["frames"]) - first if frames is None else frames
    channels = 1 if mix else int(header["channels"])
    out = np.full(frames * channels + 1, 7.5, np.float32)
    segments = np.zeros(1, native.WAV_SEGMENT)
    segments["first"], segments["frames"], segments["out"], segments["mix"] = first, frames, out.ctypes.data, mix
    native.read_wavs(arena, starts, segments)
    assert out[-1] == 7.5
    return out[:-1].reshape(frames, channels)


@pytest.mark.parametrize("name", ["AudioHeader", "WavSegment"])
def test_dtypes_mirror_the_structs(name: str) -> None:
    dtype = {"AudioHeader": native.AUDIO_HEADER, "WavSegment": native.WAV_SEGMENT}[name]
    layout = native.struct_layouts()[name]
    assert layout.pop("") == dtype.itemsize
    assert dtype.fields is not None and dtype.names is not None
    assert layout == {field: dtype.fields[field][1] for field in dtype.names}


@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 7])
@pytest.mark.parametrize("kind", sounds.KINDS)
def test_every_way_to_store_a_sample(kind: str, channels: int, extensible: bool) -> None:
    data, meant = stored(kind, 101, channels)
    file = riff(form(kind, channels, 22050, extensible=extensible), chunk(b"data", data))
    header = probe(file)
    assert (header["rate_hz"], header["channels"], header["frames"]) == (22050, channels, 101)
    assert np.array_equal(read(file), meant)
    assert np.array_equal(read(file, 13, 40), meant[13:53])
    assert read(file, 101).shape == (0, channels)
    total = meant[:, 0]
    for channel in range(1, channels):
        total = total + meant[:, channel]
    assert np.array_equal(read(file, 5, mix=True)[:, 0], (total / np.float32(channels))[5:])


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("container", ["WAV", "WAVEX", "RF64"])
def test_as_libsndfile_writes_and_reads_them(subtype: str, container: str) -> None:
    soundfile = pytest.importorskip("soundfile")
    out = io.BytesIO()
    values = np.random.default_rng(1).uniform(-1, 1, (333, 2))
    soundfile.write(out, values, 44100, format=container, subtype=subtype)
    expected, rate_hz = soundfile.read(io.BytesIO(out.getvalue()), dtype="float32", always_2d=True)
    assert probe(out.getvalue())["rate_hz"] == rate_hz
    assert np.array_equal(read(out.getvalue()), expected)


def test_as_scipy_reads_them() -> None:
    wavfile = pytest.importorskip("scipy.io.wavfile")
    file, _ = wav("pcm16", 250, 3, 16000)
    rate_hz, values = wavfile.read(io.BytesIO(file))
    assert probe(file)["rate_hz"] == rate_hz
    assert np.array_equal(read(file), values.astype(np.float32) / 32768)


def test_chunks_in_any_order_and_of_odd_lengths() -> None:
    data, meant = stored("pcm8", 33)  # odd: a byte of padding follows
    parts = [form("pcm8"), chunk(b"data", data), chunk(b"LIST", b"odd"), chunk(b"cue ", b"")]
    for order in ([0, 1, 2, 3], [3, 2, 0, 1], [1, 0, 2, 3], [2, 1, 3, 0]):
        assert np.array_equal(read(riff(*(parts[i] for i in order))), meant), order
    first_counts = riff(parts[0], parts[1], form("pcm16", 2), chunk(b"data", b"other"))
    assert np.array_equal(read(first_counts), meant)
    assert np.array_equal(read(riff(*parts[:2])[:-1]), meant), "the last byte of padding may be missing"
    some_of_a_frame = riff(form("pcm16", 2), chunk(b"data", stored("pcm16", 5, 2)[0] + b"abc"))
    assert probe(some_of_a_frame)["frames"] == 5


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0x80000000, 0xFFFFFFFF])
@pytest.mark.parametrize("riff_size", [0, 36, 0xFFFFFFFF])
def test_a_stream_goes_on_to_the_end(size: int, riff_size: int) -> None:
    if size == 0 and riff_size == 0xFFFFFFFF:
        pytest.skip("who knows that the file is long knows that of its data")
    data, meant = stored("pcm16", 40)
    file = riff(form("pcm16"), chunk(b"data", data, size), size=riff_size)
    assert np.array_equal(read(file), meant)
    assert np.array_equal(read(file[:-21]), meant[:29])


def test_an_empty_chunk_is_no_stream() -> None:
    file = riff(form("pcm16"), chunk(b"data", b""), chunk(b"LIST", b"words"))
    assert probe(file)["problem"] == PROBLEM["no_data"]


def test_a_truncated_file_says_so() -> None:
    file, _ = wav("pcm24", 50, 2)
    header = probe(file[:-1])
    assert (header["problem"], header["frames"], header["promised"]) == (PROBLEM["truncated"], 49, 50)
    assert probe(file[:46])["problem"] == PROBLEM["truncated"]
    assert probe(file[:30])["problem"] == PROBLEM["no_format"]
    assert probe(file[:36])["problem"] == PROBLEM["no_data"]
    assert probe(file[:11])["kind"] == KIND["other"]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (struct.pack("<HHIIHH", 1, 0, 8000, 0, 0, 16), "damaged"),
        (struct.pack("<HHIIHH", 1, 1, 0, 0, 2, 16), "damaged"),
        (struct.pack("<HHIIHH", 1, 1, 0xFFFFFFFF, 0, 2, 16), "damaged"),
        (struct.pack("<HHIIHH", 1, 65535, 8000, 0, 65535, 8), "damaged"),
        (struct.pack("<HHIIHH", 1, 2, 8000, 0, 2, 16), "damaged"),  # bytes a frame of one channel
        (struct.pack("<HHIIHH", 1, 1, 8000, 0, 8, 64), "codec"),
        (struct.pack("<HHIIHH", 3, 1, 8000, 0, 2, 16), "codec"),
        (struct.pack("<HHIIHH", 7, 1, 8000, 8000, 1, 8), "codec"),  # µ-law
        (struct.pack("<HHIIHH", 0xFFFE, 1, 8000, 0, 2, 16), "no_format"),
        (b"short", "no_format"),
    ],
)
def test_formats_that_make_no_sense(body: bytes, problem: str) -> None:
    header = probe(riff(chunk(b"fmt ", body), chunk(b"data", bytes(64))))
    assert native.AUDIO_PROBLEMS[header["problem"]] == problem


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_what_is_no_number_is_found(kind: str, value: float) -> None:
    values = np.linspace(-1, 1, 60).reshape(20, 3).astype(np.float64)
    values[13, 2] = values[17, 0] = value
    with np.errstate(over="ignore"):
        data = values.astype("<f8" if kind == "float64" else "<f4").tobytes()
    arena, starts = together([riff(form(kind, 3), chunk(b"data", data))])
    segments = np.zeros(3, native.WAV_SEGMENT)
    out = np.zeros((3, 60), np.float32)
    segments["out"] = [row.ctypes.data for row in out]
    segments["first"], segments["frames"], segments["mix"] = [0, 4, 0], [13, 16, 20], [0, 0, 1]
    native.read_wavs(arena, starts, segments)
    assert segments["bad"].tolist() == [-1, 13, 13]


def test_other_kinds_are_told_apart() -> None:
    info = bytes(10) + struct.pack(">Q", (44100 << 44) | (1 << 41) | (15 << 36) | 123456) + bytes(16)
    flac = probe(b"fLaC" + b"\0\0\0\x22" + info)
    assert (flac["kind"], flac["rate_hz"], flac["channels"], flac["frames"]) == (KIND["flac"], 44100, 2, 123456)
    for data, kind in ((b"OggS\0", "ogg"), (b"ID3\4", "mp3"), (b"\xff\xfb\x90\0", "mp3"), (b"\xff\xd8\xff", "other")):
        assert probe(data)["kind"] == KIND[kind]
    for data in (b"", b"RIFF", b"RIFF\0\0\0\0AVI fmt ", b"text"):
        assert probe(data).tolist() == (0,) * len(native.AUDIO_HEADER)


def test_many_files_on_many_threads() -> None:
    made = [wav(kind, 1 + 7 * i, 1 + i % 3, seed=i) for i, kind in enumerate([*sounds.KINDS] * 8)]
    arena, starts = together([file for file, _ in made])
    headers = native.probe_audio(arena, starts, threads=4)
    assert headers["frames"].tolist() == [len(meant) for _, meant in made]
    out = [np.empty_like(meant) for _, meant in made]
    segments = np.zeros(len(made), native.WAV_SEGMENT)
    segments["file"], segments["frames"] = np.arange(len(made)), headers["frames"]
    segments["out"] = [array.ctypes.data for array in out]
    native.read_wavs(arena, starts, segments, threads=4)
    assert all(np.array_equal(got, meant) for got, (_, meant) in zip(out, made, strict=True))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"file": 1}, "not there"),
        ({"file": -1}, "not there"),
        ({"first": -1}, "outside"),
        ({"first": 11}, "outside"),
        ({"frames": 11}, "outside"),
        ({"frames": -1}, "outside"),
        ({"first": 2**62, "frames": 2**62}, "outside"),
    ],
)
def test_parts_outside_a_file_are_refused(change: dict[str, int], why: str) -> None:
    arena, starts = together([wav("pcm16", 10)[0]])
    out = np.zeros(10, np.float32)
    segments = np.zeros(1, native.WAV_SEGMENT)
    segments["frames"], segments["out"] = 10, out.ctypes.data
    for name, value in change.items():
        segments[name] = value
    with pytest.raises(ValueError, match=why):
        native.read_wavs(arena, starts, segments)
    assert not out.any()


def test_arguments_are_checked() -> None:
    arena, starts = together([wav("pcm16", 10)[0]])
    segments = np.zeros(1, native.WAV_SEGMENT)
    with pytest.raises(ValueError, match="no readable WAV"):
        native.read_wavs(arena[:30].copy(), np.array([0, 30]), segments)
    with pytest.raises(ValueError, match="threads"):
        native.probe_audio(arena, starts, threads=0)
    with pytest.raises(ValueError, match="arena must be contiguous uint8"):
        native.probe_audio(arena[::2], starts)
    with pytest.raises(ValueError, match="rise within the arena"):
        native.probe_audio(arena, starts + 1)
    with pytest.raises(ValueError, match="segments"):
        native.read_wavs(arena, starts, np.zeros(1, np.int64))


@settings(deadline=None, max_examples=300)
@given(
    kind=st.sampled_from([*sounds.KINDS]),
    cut=st.integers(0, 200),
    changes=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=6),
)
def test_any_bytes_are_read_within_bounds(kind: str, cut: int, changes: list[tuple[int, int]]) -> None:
    data = bytearray(wav(kind, 12, 2)[0])
    for place, value in changes:
        data[min(place, len(data) - 1)] = value
    data = data[: len(data) - cut]
    header = probe(bytes(data))
    assert 0 <= header["frames"] <= header["promised"]
    if header["kind"] == KIND["wav"] and header["problem"] == 0:
        assert header["data"] + header["frames"] <= len(data)
        assert read(bytes(data)).shape == (header["frames"], header["channels"])
