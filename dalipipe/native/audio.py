"""Audio files: headers, and WAV files read."""

from __future__ import annotations

import numpy as np

from dalipipe.native.core import _C, check_array, check_files
from dalipipe.native.structs import AUDIO_HEADER, WAV_SEGMENT


def probe_audio(arena: np.ndarray, starts: np.ndarray, *, threads: int = 1) -> np.ndarray:
    """Reads the headers of N sounds: kind, rate, channels, frames, and what keeps a WAV or Ogg file from being read.

    Nothing is decoded, and no bytes make it raise: what cannot be made out has kind 0, or zeros.

    Args:
        arena: uint8 [≥ starts[-1]], contiguous.
        starts: int64 [N+1]; sound i is arena[starts[i]:starts[i + 1]].
        threads: how many work at a time.

    Returns:
        `AUDIO_HEADER` [N]; `kind` indexes `AUDIO_KINDS`, `problem` `AUDIO_PROBLEMS`.

    Raises:
        ValueError: another dtype or shape, or starts that do not rise within the arena.
    """
    starts = check_files("probe_audio", arena, starts, threads)
    out = np.zeros(starts.size - 1, AUDIO_HEADER)
    _C.probe_audio(arena=arena, starts=starts, out=out.ctypes.data, threads=threads)
    return out


def read_wavs(arena: np.ndarray, starts: np.ndarray, segments: np.ndarray, *, threads: int = 1) -> None:
    """Reads parts of WAV files to where ``segments`` say, as float32 [frames, channels], or [frames] of their mean.

    Integers become x / 2^(bits - 1), in [-1, 1]; floating-point numbers stay as they are.

    Args:
        arena, starts: the files, as for `probe_audio`.
        segments: `WAV_SEGMENT` [A]; ``bad`` is set to the first frame that holds no finite number, or to -1. Nobody can
            check that there is memory at ``out``.
        threads: how many work at a time.

    Raises:
        ValueError: another dtype or shape; a segment outside its file, or of a file with a problem.
    """
    starts = check_files("read_wavs", arena, starts, threads)
    address = check_array("segments", segments, WAV_SEGMENT, segments.shape[:1], "read_wavs")
    _C.read_wavs(arena=arena, starts=starts, segments=address, count=len(segments), threads=threads)
