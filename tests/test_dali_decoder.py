"""DALI decodes whole pictures where it is told to, as it does on CUDA devices, and the regions are the same pixels."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest
import torch
from jpegs import jpeg

from dalipipe.decoders.base import inspect
from dalipipe.decoders.dali import DaliDecoder
from dalipipe.records import Encoded, Pictures


def encoded(files: list[bytes]) -> Encoded:
    starts = np.cumsum([0, *map(len, files)])
    return Encoded(np.frombuffer(b"".join(files), np.uint8), starts)


def decode(files: Encoded, roi: np.ndarray, *, whole: bool) -> tuple[Pictures, dict[int, Exception]]:
    headers, _ = inspect(files, threads=1)
    with closing(DaliDecoder(torch.device("cpu"), batch_size=8, threads=1, depth=1, whole=whole)) as decoder:
        decoder.submit(files, headers, roi)
        return decoder.collect()


@pytest.mark.parametrize("seed", range(4))
def test_regions_of_whole_pictures_are_what_decoding_regions_gives(seed: int) -> None:
    random = np.random.default_rng(seed)
    size = random.integers(1, 90, (6, 2))
    files = encoded([jpeg(h, w, seed, "4:2:0" if row % 2 else "4:4:4") for row, (h, w) in enumerate(size.tolist())])
    corner = random.integers(0, size)
    roi = np.concatenate([corner, random.integers(1, size - corner + 1)], axis=1)
    roi[0] = [0, 0, *size[0]]
    regions, errors = decode(files, roi, whole=False)
    wholes, more = decode(files, roi, whole=True)
    assert not errors and not more
    assert np.array_equal(wholes.size_px, roi[:, 2:]) and np.array_equal(wholes.origin_px, roi[:, :2])
    for row in range(len(files)):
        assert np.array_equal(regions[row], wholes[row])


def test_a_bad_picture_costs_the_others_nothing() -> None:
    good = [jpeg(40, 50, 1), jpeg(30, 20, 2)]
    damaged = bytearray(jpeg(64, 64, 3))
    damaged[2:4] = b"\xff\xfe"  # its first segment is taken for a comment
    files, roi = encoded([good[0], bytes(damaged), good[1]]), np.array([[5, 7, 20, 30], [0, 0, 9, 9], [1, 2, 3, 4]])
    headers, _ = inspect(encoded([good[0], jpeg(64, 64, 3), good[1]]), threads=1)
    for whole in (False, True):
        with closing(DaliDecoder(torch.device("cpu"), batch_size=8, threads=1, depth=1, whole=whole)) as decoder:
            decoder.submit(files, headers, roi)
            pictures, errors = decoder.collect()
            alone, _ = decode(encoded(good), roi[[0, 2]], whole=False)
            assert set(errors) <= {1}
            assert np.array_equal(pictures[0], alone[0]) and np.array_equal(pictures[2], alone[1])
