"""Sounds in folders and manifests, and their decoding: whole or in part, of any number of channels, bad ones apart."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sounds import chunk, form, riff, stored, together, wav

import dalipipe
from dalipipe import native, orders
from dalipipe.decoders import audio as decoding
from dalipipe.decoders.audio import decode_audio
from dalipipe.decoders.base import DecodeError
from dalipipe.records import Encoded, EncodedAudio, Signals
from dalipipe.sources import open_source


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DALIPIPE_CACHE", str(tmp_path / "cache"))


def encoded(files: list[bytes]) -> Encoded:
    return Encoded(*together(files))


def written(
    format: str, subtype: str | None = None, frames: int = 4000, channels: int = 2, rate_hz: int = 16000
) -> Any:
    """A file, and what libsndfile reads in it."""
    soundfile = pytest.importorskip("soundfile")
    values = 0.3 * np.random.default_rng(channels).normal(size=(frames, channels)).clip(-3, 3)
    out = io.BytesIO()
    soundfile.write(out, values, rate_hz, format=format, subtype=subtype)
    return out.getvalue(), soundfile.read(io.BytesIO(out.getvalue()), dtype="float32", always_2d=True)[0]


# --- decoding --------------------------------------------------------------------------------------------------------


def test_channels_as_asked() -> None:
    (mono, one), (stereo, two), (wide, _) = wav("pcm16", 30), wav("float32", 20, 2), wav("pcm8", 10, 3)
    files = encoded([mono, stereo, wide])
    signals, errors = decode_audio(files, channels=2, threads=2)
    assert np.array_equal(signals[0], np.repeat(one, 2, axis=1)) and np.array_equal(signals[1], two)
    assert list(errors) == [2] and "3 channels, expected 2 or 1" in str(errors[2])
    assert signals.frames.tolist() == [30, 20, 1] and not signals[2].any()
    assert signals.rate_hz is not None and signals.rate_hz.tolist() == [8000, 8000, 1]
    signals, errors = decode_audio(files, channels=1)
    assert not errors and signals.frames.tolist() == [30, 20, 10]
    assert np.array_equal(signals[0], one) and np.array_equal(signals[1][:, 0], (two[:, 0] + two[:, 1]) / np.float32(2))


def test_parts_are_whole_frames() -> None:
    file, meant = wav("pcm16", 1000, rate_hz=1000)
    n, nan = 7, np.nan
    start_s = np.array([nan, 0.1, 0.0004, 0.9, nan, 0, 0.25])
    duration_s = np.array([nan, 0.2, 0.0106, 5, 0.5, 1, nan])
    expected = [(0, 1000), (100, 300), (0, 11), (900, 1000), (0, 500), (0, 1000), (250, 1000)]
    of = EncodedAudio(*together([file] * n), start_s, duration_s)
    signals, errors = decode_audio(of, channels=1)
    assert not errors
    assert all(np.array_equal(signals[i], meant[a:b]) for i, (a, b) in enumerate(expected))
    some = np.array([4, 1])
    signals, _ = decode_audio(of.of(some), channels=1)
    assert signals.frames.tolist() == [500, 200]
    signals, _ = decode_audio(Encoded(of.arena, of.starts), channels=1, start_s=start_s, duration_s=duration_s)
    assert signals.frames.tolist() == [b - a for a, b in expected]


@pytest.mark.parametrize(("start_s", "duration_s"), [(1.0, np.nan), (1e30, 1), (0.5, 0.0001), (-0.1, 1), (0.2, -1)])
def test_a_part_without_a_frame_is_an_error(start_s: float, duration_s: float) -> None:
    file, meant = wav("pcm16", 1000, rate_hz=1000)
    starts, durations = np.array([np.nan, start_s]), np.array([np.nan, duration_s])
    signals, errors = decode_audio(encoded([file, file]), channels=1, start_s=starts, duration_s=durations)
    assert list(errors) == [1] and "1000 frames, 1 s" in str(errors[1])
    assert np.array_equal(signals[0], meant)


def test_a_bad_file_costs_only_itself() -> None:
    good, meant = wav("pcm16", 50)
    nan = riff(form("float32"), chunk(b"data", np.array([0, np.nan], "<f4").tobytes()))
    bad = {
        b"": "empty",
        b"text": "not a WAV, FLAC, Ogg or MP3 file: it starts with b'text'",
        good[:-9]: "truncated after 45 of its 50 frames",
        riff(chunk(b"data", b"xy")): "without a format",
        riff(form("pcm16")): "without a frame",
        nan: "frame 1 is no finite number",
    }
    files = [good, *bad, good]
    signals, errors = decode_audio(encoded(files), channels=1, threads=3)
    assert sorted(errors) == list(range(1, len(files) - 1))
    for row, reason in enumerate(bad.values(), 1):
        assert isinstance(errors[row], DecodeError) and reason in str(errors[row])
    assert np.array_equal(signals[0], meant) and np.array_equal(signals[len(files) - 1], meant)


def test_memory_is_the_callers() -> None:
    taken = []

    def allocate(nbytes: int) -> np.ndarray:
        taken.append(np.zeros(nbytes, np.uint8))
        return taken[-1]

    made = [wav("pcm24", 11, 2), wav("pcm16", 7, 2)]
    signals, _ = decode_audio(encoded([file for file, _ in made]), channels=2, allocate=allocate)
    assert [len(block) for block in taken] == [4 * 18 * 2]
    assert np.array_equal(taken[0].view(np.float32), np.concatenate([m.ravel() for _, m in made]))
    assert signals.address.tolist() == [taken[0].ctypes.data, taken[0].ctypes.data + 88]


@pytest.mark.parametrize(("kind", "channels"), [("pcm8", 1), ("pcm16", 2), ("pcm24", 2), ("pcm32", 1), ("float32", 2)])
def test_wav_files_as_dali_reads_them(kind: str, channels: int) -> None:
    pytest.importorskip("nvidia.dali")
    file, _ = wav(kind, 500, channels)
    (dalis,) = decoding._by_dali([np.frombuffer(file, np.uint8)], 1)
    assert not isinstance(dalis, Exception)
    signals, errors = decode_audio(encoded([file]), channels=channels)
    assert not errors and dalis[1] == 8000 and np.array_equal(signals[0], dalis[0])


def test_flac_and_ogg_by_dali() -> None:
    pytest.importorskip("nvidia.dali")
    made = [written("FLAC", "PCM_16"), written("FLAC", "PCM_24", channels=1), written("OGG", "VORBIS")]
    made += [written("WAV", "ULAW"), wav("pcm16", 100, 2)]
    bad = made[0][0][:2000]
    files = encoded([made[0][0], bad, *(file for file, _ in made[1:])])
    signals, errors = decode_audio(files, channels=2, threads=2)
    assert list(errors) == [1] and "cannot be decoded" in str(errors[1]) and isinstance(errors[1], DecodeError)
    for row, (_, meant) in zip((0, 2, 3, 4, 5), made, strict=True):
        np.testing.assert_allclose(signals[row], np.broadcast_to(meant, signals[row].shape), atol=1e-6)
    start_s, duration_s = np.full(6, 0.005), np.full(6, 0.0025)
    parts, errors = decode_audio(files, channels=1, start_s=start_s, duration_s=duration_s)
    assert list(errors) == [1] and parts.frames.tolist() == [40, 1, 40, 40, 40, 20]
    stereo = made[0][1][80:120]
    assert np.array_equal(parts[0][:, 0], (stereo[:, 0] + stereo[:, 1]) / np.float32(2))


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_files_end_where_they_say(tmp_path: Path, subtype: str) -> None:
    """Or what is missing would go unnoticed: libsndfile takes what there is."""
    file, meant = written("OGG", subtype, frames=40_000)
    header = native.probe_audio(*together([file]))[0]
    assert (header["problem"], header["channels"]) == (0, 2)
    assert header["rate_hz"] == (48_000 if subtype == "OPUS" else 16_000)
    for cut in (len(file) - 1, len(file) // 2, 100, 27, 5):
        _, errors = decode_audio(encoded([file[:cut]]), channels=2)
        assert "an Ogg file truncated after" in str(errors[0]), cut
    (tmp_path / "data/a").mkdir(parents=True)
    (tmp_path / "data/a/1.ogg").write_bytes(file)
    source = dalipipe.AudioFolder(tmp_path / "data", rate_hz=8000)
    np.testing.assert_allclose(source.durations_s(), len(meant) / 16_000, atol=0.001)


def test_more_sounds_than_dali_takes_at_a_time() -> None:
    pytest.importorskip("nvidia.dali")
    made = [written("FLAC", "PCM_16", frames=100 + i, channels=1) for i in range(3)]
    files = [made[i % 3] for i in range(150)]
    signals, errors = decode_audio(encoded([file for file, _ in files]), channels=1, threads=2)
    assert not errors
    assert all(np.array_equal(signals[row], meant) for row, (_, meant) in enumerate(files))


def test_mp3_by_soundfile(monkeypatch: pytest.MonkeyPatch) -> None:
    file, meant = written("MP3")
    signals, errors = decode_audio(encoded([file, b"ID3 but no more"]), channels=2, threads=2)
    assert np.array_equal(signals[0], meant) and list(errors) == [1] and "cannot be decoded" in str(errors[1])
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    with pytest.raises(ImportError, match="pip install soundfile"):
        decode_audio(encoded([file]), channels=2)


def test_no_sounds_at_all() -> None:
    signals, errors = decode_audio(Encoded(np.zeros(0, np.uint8), np.zeros(1, np.int64)), channels=1)
    assert len(signals) == 0 and not errors


# --- folders ---------------------------------------------------------------------------------------------------------


def plant(root: Path, *names: str) -> dict[str, np.ndarray]:
    meant = {}
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        file, meant[name] = wav("pcm16", 20 + i, seed=i)
        (root / name).write_bytes(file)
    return meant


def test_a_folder_of_classes(tmp_path: Path) -> None:
    meant = plant(tmp_path / "data", "no/2.wav", "yes/1.WAV", "yes/0.wav")
    (tmp_path / "data/yes/notes.txt").write_text("not a sound")
    source = dalipipe.AudioFolder(tmp_path / "data", rate_hz=16000, channels=2)
    assert len(source) == 3 and source.classes == ["no", "yes"] and source.labels.tolist() == [0, 1, 1]
    assert source.schema.names == ("audio", "length", "label") and "3 sounds, 2 classes" in repr(source)
    field = source.schema.fields[0]
    assert (field.kind, field.channels, field.rate_hz, field.length) == ("audio", 2, 16000.0, "length")
    records = source.read(np.array([2, 0]), threads=2)
    assert records.columns["length"].tolist() == [0, 0] and records.columns["label"].tolist() == [1, 0]  # type: ignore[union-attr]
    sounds = records.columns["audio"]
    assert isinstance(sounds, Encoded)
    signals, errors = decode_audio(sounds, channels=1)
    assert (
        not errors and np.array_equal(signals[0], meant["yes/1.WAV"]) and np.array_equal(signals[1], meant["no/2.wav"])
    )
    assert source.describe(0) == str(tmp_path / "data/no/2.wav") and list(source.files()) == list(source.paths)
    again = pickle.loads(pickle.dumps(source))
    assert again.fingerprint() == source.fingerprint() and again.paths == source.paths


def test_which_folder_names_the_class(tmp_path: Path) -> None:
    names = [f"{who}/{digit}/{take}.wav" for who in ("anna", "ben") for digit in "210" for take in range(2)]
    plant(tmp_path / "data", *names)
    digits = dalipipe.AudioFolder(tmp_path / "data", rate_hz=8000)
    assert digits.classes == ["0", "1", "2"] and np.bincount(digits.labels).tolist() == [4, 4, 4]
    assert all(
        path.split("/")[-2] == digits.classes[label] for path, label in zip(digits.paths, digits.labels, strict=True)
    )
    speakers = dalipipe.AudioFolder(tmp_path / "data", rate_hz=8000, label="top")
    assert speakers.classes == ["anna", "ben"] and np.bincount(speakers.labels).tolist() == [6, 6]
    anna = [i for i, path in enumerate(digits.paths) if "/anna/" in path]
    order = orders.Subset(anna).bound(len(digits), 0)
    chosen = order.at(0, np.arange(order.size))
    assert sorted(chosen.tolist()) == anna and order.size == 6
    with pytest.raises(ValueError, match='"parent" or "top"'):
        dalipipe.AudioFolder(tmp_path / "data", rate_hz=8000, label="speaker")  # type: ignore[arg-type]


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    plant(tmp_path / "flat", "1.wav")
    with pytest.raises(FileNotFoundError, match=r"1 sounds directly in it.*<class>/\*.wav"):
        dalipipe.AudioFolder(tmp_path / "flat", rate_hz=8000)
    with pytest.raises(FileNotFoundError, match="sub-folder of sounds per class"):
        dalipipe.AudioFolder(tmp_path / "none", rate_hz=8000)
    plant(tmp_path / "good", "a/1.wav")
    for arguments, what in (
        ({"rate_hz": 0}, "rate_hz"),
        ({"rate_hz": np.nan}, "rate_hz"),
        ({"channels": 0}, "channels"),
    ):
        with pytest.raises(ValueError, match=what):
            dalipipe.AudioFolder(tmp_path / "good", **{"rate_hz": 8000, **arguments})  # type: ignore[arg-type]


def test_an_unreadable_file_is_reported(tmp_path: Path) -> None:
    plant(tmp_path / "data", "a/0.wav", "a/1.wav")
    source = dalipipe.AudioFolder(tmp_path / "data", rate_hz=8000)
    (tmp_path / "data/a/0.wav").unlink()
    records = source.read(np.array([1, 0]))
    assert list(records.errors) == [1] and isinstance(records.errors[1], FileNotFoundError)
    with pytest.raises(FileNotFoundError):
        source.durations_s()


def test_durations_come_from_headers(tmp_path: Path) -> None:
    root = tmp_path / "data/a"
    root.mkdir(parents=True)
    long, _ = wav("pcm16", 44100, rate_hz=44100)
    late = riff(chunk(b"LIST", bytes(5000)), form("pcm16"), chunk(b"data", stored("pcm16", 2000)[0]))
    stream = riff(form("pcm16"), chunk(b"data", stored("pcm16", 4000)[0], 0xFFFFFFFF))
    for i, file in enumerate((long, late, stream, wav("pcm8", 80)[0])):
        (root / f"{i}.wav").write_bytes(file)
    source = dalipipe.AudioFolder(tmp_path / "data", rate_hz=16000)
    assert source.durations_s(threads=2).tolist() == [1, 0.25, 0.5, 0.01]
    (root / "4.ogg").write_bytes(b"OggS")
    with pytest.raises(ValueError, match=r"4\.ogg: the header of this file \(ogg\) does not say how long"):
        dalipipe.AudioFolder(tmp_path / "data", rate_hz=16000).durations_s()


# --- manifests -------------------------------------------------------------------------------------------------------


ROWS = [
    {"path": "a.wav", "start_s": 0.0, "duration_s": 0.001, "label": "yes", "text": "passed, over"},
    {"path": "b/c.wav", "start_s": None, "duration_s": None, "label": "no", "text": "ü"},
    {"path": "a.wav", "start_s": 0.001, "duration_s": None, "label": "yes", "text": ""},
]


def manifest(folder: Path, ending: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / f"list{ending}"
    if ending == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
        return path
    mark = "\t" if ending == ".tsv" else ","
    cells = [list(rows[0]), *(["" if v is None else str(v) for v in row.values()] for row in rows)]
    path.write_text("\n".join(mark.join(f'"{cell}"' if mark in cell else cell for cell in row) for row in cells) + "\n")
    return path


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl"])
def test_a_manifest(tmp_path: Path, ending: str) -> None:
    meant = plant(tmp_path, "a.wav", "b/c.wav")
    source = dalipipe.AudioManifest(manifest(tmp_path, ending, ROWS), rate_hz=8000)
    assert source.schema.names == ("audio", "length", "label") and source.classes == ["no", "yes"]
    assert source.labels is not None and source.labels.tolist() == [1, 0, 1]
    sounds = source.read(np.arange(3)).columns["audio"]
    assert isinstance(sounds, EncodedAudio)
    signals, errors = decode_audio(sounds, channels=1)
    assert not errors
    for row, expected in enumerate((meant["a.wav"][:8], meant["b/c.wav"], meant["a.wav"][8:])):
        assert np.array_equal(signals[row], expected)
    assert [source.describe(i).removeprefix(f"{tmp_path}/") for i in range(3)] == [
        "a.wav [0 s – 0.001 s]",
        "b/c.wav",
        "a.wav [0.001 s – ]",
    ]
    np.testing.assert_allclose(source.durations_s(), [0.001, 21 / 8000, 12 / 8000])
    again = pickle.loads(pickle.dumps(source))
    assert again.fingerprint() == source.fingerprint()
    other = dalipipe.AudioManifest(manifest(tmp_path, ending, [*ROWS[:2], {**ROWS[2], "start_s": 0.002}]), rate_hz=8000)
    assert other.fingerprint() != source.fingerprint()


def test_a_manifest_without_labels_and_by_other_names(tmp_path: Path) -> None:
    plant(tmp_path / "sounds", "a.wav")
    path = manifest(tmp_path, ".jsonl", [{"audio_filepath": "a.wav", "offset": 0.001, "duration": 0.5}])
    columns = {"path": "audio_filepath", "start_s": "offset", "duration_s": "duration"}
    source = dalipipe.AudioManifest(path, rate_hz=8000, root=tmp_path / "sounds", columns=columns)
    assert source.labels is None and source.schema.names == ("audio", "length")
    records = source.read(np.array([0]))
    assert not records.errors and set(records.columns) == {"audio", "length"}
    path = manifest(tmp_path, ".csv", [{"path": str(tmp_path / "sounds/a.wav"), "label": 1}])
    source = dalipipe.AudioManifest(path, rate_hz=8000, root="/elsewhere", classes=["x", "y"])
    assert source.classes == ["x", "y"] and source.labels.tolist() == [1]  # type: ignore[union-attr]
    assert not source.read(np.array([0])).errors


@pytest.mark.parametrize(
    ("ending", "text", "message"),
    [
        (".csv", "", "found none"),
        (".csv", "path,label\n", "found none"),
        (".csv", "file,label\na.wav,1\n", "line 2: expected a path in column 'path', got columns 'file', 'label'"),
        (".csv", "path,label\na.wav,1\nb.wav\n", "line 3: expected 2 values"),
        (".csv", "path,label\na.wav,1\n\nb.wav,\n", "line 4: no label"),
        (".csv", "path,start_s\na.wav,soon\n", "line 2: start_s must be a number of seconds, at least 0"),
        (".csv", "path,start_s\na.wav,-1\n", "start_s must"),
        (".csv", "path,duration_s\na.wav,0\n", "line 2: duration_s must be a number of seconds, above 0"),
        (".csv", "path,duration_s\na.wav,inf\n", "duration_s must"),
        (".csv", 'path,label\n"a.wav,1\n', "line 2"),
        (".tsv", "path,label\na.wav,1\n", "got columns 'path,label'"),
        (".jsonl", '{"path": "a.wav"}\n{"path"\n', "line 2: expected a JSON object"),
        (".jsonl", '["a.wav"]\n', "line 1: expected a JSON object, got a list"),
        (".jsonl", '{"path": "a.wav", "label": 1.5}\n', "line 1: label must be a whole number or a name, got 1.5"),
        (".jsonl", '{"path": "a.wav", "label": "maybe"}\n', "none of the 2 classes"),
        (".jsonl", '{"path": "a.wav", "label": 2}\n', "labels run from 2 to 2"),
    ],
)
def test_manifests_that_are_not_as_they_must_be(tmp_path: Path, ending: str, text: str, message: str) -> None:
    (path := tmp_path / f"list{ending}").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        dalipipe.AudioManifest(path, rate_hz=8000, classes=["yes", "no"])
    assert str(path) in str(caught.value)


def test_manifests_that_are_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        dalipipe.AudioManifest(tmp_path / "none.csv", rate_hz=8000)
    (path := tmp_path / "list.csv").write_bytes(b"path\n\xff\xfe.wav\n")
    with pytest.raises(ValueError, match="not UTF-8"):
        dalipipe.AudioManifest(path, rate_hz=8000)
    with pytest.raises(ValueError, match="columns must name"):
        dalipipe.AudioManifest(path, rate_hz=8000, columns={"file": "path"})


# --- real data -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dalipipe.AudioFolder:
    archive = real_data / "fsdd_600.tar"
    if not archive.is_file():
        pytest.skip(f"no {archive}")
    folder = tmp_path_factory.mktemp("fsdd")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return dalipipe.AudioFolder(folder / "fsdd", rate_hz=8000, cache=False)


def test_spoken_digits(digits: dalipipe.AudioFolder) -> None:
    wavfile = pytest.importorskip("scipy.io.wavfile")
    assert len(digits) == 600 and digits.classes == list("0123456789") and np.ptp(np.bincount(digits.labels)) == 0
    sounds = digits.read(np.arange(600), threads=2).columns["audio"]
    assert isinstance(sounds, Encoded)
    signals, errors = decode_audio(sounds, channels=1, threads=2)
    assert not errors and isinstance(signals, Signals)
    for row in range(0, 600, 23):
        rate_hz, values = wavfile.read(digits.paths[row])
        assert rate_hz == signals.rate_hz[row]  # type: ignore[index]
        assert np.array_equal(signals[row][:, 0], values.astype(np.float32) / 32768)
    assert np.array_equal(np.rint(digits.durations_s() * 8000), signals.frames)


def test_buckets_of_spoken_digits_are_padded_less(digits: dalipipe.AudioFolder) -> None:
    frames = np.rint(digits.durations_s() * 8000)

    def padded(order: orders.Order) -> float:
        order = order.bound(600, 1)
        batches = [frames[order.at(e, np.arange(b, min(b + 32, 600)))] for e in range(5) for b in range(0, 600, 32)]
        return sum(len(batch) * batch.max() for batch in batches) / sum(batch.sum() for batch in batches)

    shuffled, bucketed = padded(orders.Shuffled()), padded(dalipipe.BucketSampler(frames, 32))
    assert shuffled > 1.8 and bucketed < 1.15, (shuffled, bucketed)  # 2.01 and 1.08
    assert bucketed < padded(dalipipe.BucketSampler(frames, 32, window=4)) < shuffled


def test_a_folder_of_pictures_is_still_one(tmp_path: Path) -> None:
    (tmp_path / "data/a").mkdir(parents=True)
    (tmp_path / "data/a/1.jpg").write_bytes(b"")
    (tmp_path / "data/a/1.wav").write_bytes(b"")
    assert list(open_source(tmp_path / "data").files()) == [str(tmp_path / "data/a/1.jpg")]
