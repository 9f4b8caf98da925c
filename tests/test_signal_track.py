"""Sounds and series in a loader: the whole contract holds for them, too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from signal_cases import made
from sounds import chunk, form, riff

import dalipipe
from dalipipe.ops import mix
from dalipipe.ops import signal as ops
from examples import run_example

FRAMES = [int(n) for n in np.random.default_rng(7).integers(30, 400, 41)]
POLICY = dalipipe.Policy(
    [ops.TimeWarp(p=0.7), ops.TimeShift(p=0.5), ops.AddGaussianSNR(p=0.5), ops.RandomTimeCrop((0.5, 1.0), p=0.5)]
)


def wav(sound: np.ndarray, rate_hz: int) -> bytes:
    """16-bit PCM of float32 [T, C]."""
    data = np.clip(np.rint(sound * 32768), -32768, 32767).astype("<i2").tobytes()
    return riff(form("pcm16", sound.shape[1], rate_hz), chunk(b"data", data))


@pytest.fixture
def series() -> dalipipe.Series:
    return dalipipe.Series(made(FRAMES, 3), np.arange(len(FRAMES)) % 4, classes=list("abcd"))


@pytest.fixture
def sounds(tmp_path: Path) -> Callable[..., dalipipe.AudioFolder]:
    def make(rates_hz: tuple[int, ...] = (8000,), count: int = 24, **options: Any) -> dalipipe.AudioFolder:
        for number, sound in enumerate(made(FRAMES[:count], 1)):
            path = tmp_path / f"{number % 3}" / f"{number:02d}.wav"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(wav(0.3 * sound, rates_hz[number % len(rates_hz)]))
        return dalipipe.AudioFolder(tmp_path, rate_hz=8000, **options)

    return make


def loader(source: Any, batch_size: int = 8, **options: Any) -> dalipipe.DataLoader:
    defaults: dict[str, Any] = {"policy": POLICY, "shuffle": True, "seed": 5, "device": "cpu", "num_workers": 2}
    return dalipipe.DataLoader(source, batch_size, **{**defaults, **options})


def by_sample(batches: Any, time_axis: int = 1) -> dict[int, np.ndarray]:
    found = {}
    for batch in batches:
        for row, index in enumerate(batch.indices.tolist()):
            found[index] = batch[0][row].narrow(time_axis - 1, 0, int(batch.length[row])).numpy().copy()
            assert (
                not batch[0][row]
                .narrow(time_axis - 1, int(batch.length[row]), batch[0].shape[time_axis] - int(batch.length[row]))
                .any()
            )
    return found


def test_series_unpack_with_their_lengths(series: dalipipe.Series) -> None:
    seen = 0
    for values, length, label in loader(series, policy=dalipipe.Policy([]), shuffle=False):
        assert values.dtype == torch.float32 and length.dtype == label.dtype == torch.int64
        assert values.shape == (len(label), int(length.max()), 3)
        for row in range(len(label)):
            assert torch.equal(values[row, : length[row]], torch.from_numpy(np.array(made(FRAMES, 3)[seen])))
            assert not values[row, length[row] :].any() and label[row] == seen % 4
            seen += 1
    assert seen == len(FRAMES)


def test_series_of_one_length_have_none() -> None:
    values = np.random.default_rng(0).normal(size=(10, 50, 2)).astype(np.float32)
    (batch,) = loader(dalipipe.Series(values, np.arange(10)), 10, policy=dalipipe.Policy([]), shuffle=False)
    assert batch._fields == ("series", "label") and np.array_equal(batch.series.numpy(), values)


@pytest.mark.parametrize("kind", ["series", "sounds"])
def test_what_comes_out_depends_on_the_sample_alone(kind: str, request: Any) -> None:
    made_by = request.getfixturevalue(kind)
    source, axis = (made_by, 1) if kind == "series" else (made_by(), 2)
    expected = by_sample(loader(source, 8), axis)
    assert len(expected) == len(source)
    for options in ({"batch_size": 3, "num_workers": 1}, {"batch_size": 40, "shuffle": False}):
        for index, got in by_sample(loader(source, **options), axis).items():
            assert np.array_equal(expected[index], got)
    for rank in range(2):
        for index, got in by_sample(loader(source, 4, rank=rank, world_size=2), axis).items():
            assert np.array_equal(expected[index], got)


def test_resume_is_exact(series: dalipipe.Series) -> None:
    whole = [batch.series for batch in loader(series)]
    for stop in range(len(whole)):
        first = loader(series)
        iterator = iter(first)
        for _ in range(stop):
            next(iterator)
        again = loader(series)
        again.load_state_dict(first.state_dict())
        rest = [batch.series for batch in again]
        assert len(rest) == len(whole) - stop and all(map(torch.equal, rest, whole[stop:]))


def test_sounds_of_other_rates_are_resampled(sounds: Any) -> None:
    source = sounds((8000, 16000, 11025))
    batches = loader(source, policy=dalipipe.Policy([]), shuffle=False)
    for batch in batches:
        for row, index in enumerate(batch.indices.tolist()):
            rate = (8000, 16000, 11025)[int(Path(source.describe(index)).stem) % 3]
            frames = FRAMES[int(Path(source.describe(index)).stem)]
            assert batch.length[row] == -(-frames * 8000 // rate)


def test_features_are_batches_of_pictures(sounds: Any) -> None:
    policy = dalipipe.recipes.speech(8000, 0.05, n_mels=16)
    for batch in loader(sounds(), policy=policy):
        assert batch.audio.shape[1:] == (1, 16, 6) and (batch.length == 6).all()
        assert torch.isfinite(batch.audio).all()
    for batch in loader(sounds(), policy=dalipipe.recipes.speech_eval(8000, 0.05, n_mels=16)):
        assert batch.audio.shape[1:] == (1, 16, 6)


@pytest.mark.parametrize("kind", ["series", "sounds"])
def test_mixing(kind: str, request: Any) -> None:
    made_by = request.getfixturevalue(kind)
    source, axis = (made_by, 1) if kind == "series" else (made_by(), 2)
    plain = by_sample(loader(source, 8, policy=dalipipe.Policy([]), drop_last=True), axis)
    for op in (mix.MixUp(num_classes=4), mix.TimeCutMix(num_classes=4)):
        found = list(loader(source, 8, policy=dalipipe.Policy([op]), drop_last=True))
        mixed = by_sample(found, axis)
        labels = {int(i): label for batch in found for i, label in zip(batch.indices, batch.label, strict=True)}
        assert any(a.shape != mixed[i].shape or not np.array_equal(a, mixed[i]) for i, a in plain.items())
        for index, values in mixed.items():
            assert np.isfinite(values).all() and len(labels[index]) == 4
            assert float(labels[index].sum()) == pytest.approx(1)
    with pytest.raises(ValueError, match="TimeCutMix does"):
        loader(source, 8, policy=dalipipe.Policy([mix.CutMix(num_classes=4)]))


def test_mixup_of_series_is_the_blend(series: dalipipe.Series) -> None:
    arrays = made(FRAMES, 3)
    policy = dalipipe.Policy([mix.MixUp(num_classes=41, group=8)])
    source = dalipipe.Series(arrays, np.arange(41), classes=[str(i) for i in range(41)])
    for values, length, label in loader(source, 8, policy=policy, drop_last=True):
        for row in range(len(label)):
            taken = torch.nonzero(label[row]).flatten().tolist()
            expected = np.zeros((values.shape[1], 3), np.float64)
            for index in taken:
                expected[: FRAMES[index]] += float(label[row, index]) * arrays[index]
            assert np.abs(values[row].numpy() - expected).max() < 1e-5
            assert length[row] == max(FRAMES[index] for index in taken)


@pytest.mark.parametrize("damage", ["cut", "nonsense", "nan"])
def test_a_bad_sound_costs_itself_alone(sounds: Any, damage: str) -> None:
    source = sounds()
    expected = by_sample(loader(source), 2)
    path = Path(source.describe(5))
    data = path.read_bytes()
    if damage == "nan":
        values = np.full(100, np.nan, "<f4").tobytes()
        path.write_bytes(riff(form("float32"), chunk(b"data", values)))
    else:
        path.write_bytes(data[: len(data) // 2] if damage == "cut" else b"this is no sound")
    with pytest.raises(dalipipe.SampleError, match=r"sample 5 .*wav"):
        list(loader(source))
    for index, got in by_sample(loader(source, on_error="skip", max_bad=0.5), 2).items():
        assert index != 5 and np.array_equal(expected[index], got)


def test_background_sounds(sounds: Any, tmp_path: Path) -> None:
    source = sounds()
    names = [tmp_path / "hum.wav", tmp_path / "hiss.wav"]
    for name, sound in zip(names, made((501, 90), 1, seed=3), strict=True):
        name.write_bytes(wav(0.2 * sound, 8000))
    op = ops.AddBackgroundNoise(tuple(map(str, names)), (10.0, 10.0), p=1.0)
    plain = by_sample(loader(source, policy=dalipipe.Policy([])), 2)
    for index, got in by_sample(loader(source, policy=dalipipe.Policy([op])), 2).items():
        noise = got.astype(np.float64) - plain[index]
        ratio = 10 * np.log10(np.mean(plain[index].astype(np.float64) ** 2) / np.mean(noise**2))
        assert ratio == pytest.approx(10.0, abs=0.1)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        list(loader(source, policy=dalipipe.Policy([ops.AddBackgroundNoise(("missing.wav",), p=1.0)])))
    with pytest.raises(ValueError, match=r"hiss\.wav cannot be used"):
        names[1].write_bytes(b"no sound at all")
        list(loader(source, policy=dalipipe.Policy([op])))


def test_what_does_not_go_is_said_at_once(series: dalipipe.Series, sounds: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"uint8 cannot hold series"):
        loader(series, dtype=torch.uint8)
    with pytest.raises(ValueError, match="is for pictures"):
        loader(series, memory_format=torch.channels_last)
    with pytest.raises(ValueError, match="applies to image fields"):
        loader(series, policy=dalipipe.Policy([dalipipe.ops.image.HorizontalFlip()]))
    with pytest.raises(ValueError, match="engine"):
        list(loader(series, engine="reference"))
    with pytest.raises(ValueError, match="cache"):
        loader(sounds(), cache="ram")
    for source in (series, sounds()):
        with pytest.raises(ValueError, match="packs hold pictures"):
            dalipipe.pack(source, tmp_path / "packed")


def test_explain(series: dalipipe.Series, sounds: Any) -> None:
    said = loader(series).explain()
    assert "frames as they are stored" in said and "TimeWarp" in said and "frames of 3 channel(s)" in said
    said = loader(sounds(), policy=dalipipe.recipes.speech(8000, 0.05)).explain()
    assert "decoded on the host" in said and "over whole spectra" in said


@pytest.mark.cuda
def test_series_on_cuda_are_those_of_the_cpu(series: dalipipe.Series) -> None:
    for cpu, cuda in zip(loader(series), loader(series, device="cuda"), strict=True):
        assert cuda.series.is_cuda and torch.equal(cpu.series, cuda.series.cpu())
        assert torch.equal(cpu.length, cuda.length.cpu())


@pytest.mark.cuda
def test_sounds_on_cuda_are_near_those_of_the_cpu(sounds: Any) -> None:
    policy = dalipipe.recipes.speech(8000, 0.05)
    source = sounds((8000, 16000))
    for cpu, cuda in zip(loader(source, policy=policy), loader(source, policy=policy, device="cuda"), strict=True):
        assert cuda.audio.is_cuda and torch.equal(cpu.length, cuda.length.cpu())
        assert (cpu.audio - cuda.audio.cpu()).abs().max() < 0.05


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("train", "val"):
        for number in range(8):
            path = tmp_path / part / f"{number % 2}" / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(wav(0.3 * made((3000 + 100 * number,), 1, number)[0], 8000))
    given = ("--rate-hz", 8000, "--duration-s", 0.3, "--epochs", 1, "--batch-size", 4)
    run_example("spoken_words.py", tmp_path, *given, monkeypatch=monkeypatch)
    assert "of words recognised" in capsys.readouterr().out
