"""The native core, seen from Python: the only importer of `dalipipe._C`.

Arguments are checked here, by name; what arrives in C++ is pointers and sizes. Native code works without the GIL.
"""

from __future__ import annotations

import collections
import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

try:
    from dalipipe import _C
except ImportError as error:
    raise ImportError(
        f"dalipipe's native extension cannot be loaded ({error}); build it with `pip install .`, "
        "or in a checkout with `pip install --no-build-isolation -e .`"
    ) from error

if TYPE_CHECKING:
    import torch


def _int32s(names: str) -> list[tuple[str, type]]:
    return [(name, np.int32) for name in names.split()]


#: One pass over one sample's pixels; mirrors `ImagePass` in csrc/ops.h, where each field is explained.
IMAGE_PASS = np.dtype(
    [
        ("data", np.uint64),
        ("row_bytes", np.int64),
        *_int32s("stored_h stored_w origin_y origin_x crop_h crop_w resized_h resized_w window_y window_x"),
        *_int32s("canvas_h canvas_w out_h out_w resample flip warp"),
        ("matrix", np.float32, 9),
        ("displacement", np.uint64),
        ("fill", np.uint8, 4),
        *_int32s("filter filter_h filter_w"),
        ("filter_weights", np.int64),
        ("filter_values", np.float32, 12),
        ("noise", np.uint32, 5),
        *_int32s("stretch colour"),
        ("colour_matrix", np.float32, (3, 3)),
        ("colour_mean_matrix", np.float32, (3, 3)),
        ("colour_offset", np.float32, 3),
        ("hue", np.float32),
        *_int32s("table first_erase erases from_kept keep blend"),
        ("weight", np.float32),
        ("kept_weight", np.float32),
    ],
    align=True,
)

#: A box set to a colour, or to noise about it; mirrors `EraseBox` in csrc/ops.h.
ERASE_BOX = np.dtype(
    [*_int32s("y x h w"), ("values", np.float32, 3), ("sigma", np.float32, 3), ("noise", np.uint32, 5)], align=True
)

#: The displacement of an elastic warp; mirrors `ElasticField` in csrc/ops.h.
ELASTIC_FIELD = np.dtype(
    [
        ("out", np.uint64),
        ("weights", np.uint64),
        *_int32s("h w"),
        ("taps", np.int32, 2),
        ("scale", np.float32, 2),
        ("noise", np.uint32, 5),
        ("unused", np.int32),
    ],
    align=True,
)

#: An operator to fold, and what was drawn of it; mirrors `FoldOp` in csrc/fold.h.
FOLD_OP = np.dtype(
    [
        *_int32s("family detail"),
        ("fill", np.int32, 3),
        *_int32s("normalised"),
        ("count", np.int64),
        ("width", np.int64),
        ("rows", np.uint64),
        ("params", np.uint64, 4),
        ("depths", np.uint64),
        ("value", np.float32, 3),
        ("sigma", np.float32),
    ],
    align=True,
)

#: A label map; mirrors `LabelMap` in csrc/labels.h.
LABEL_MAP = np.dtype([("data", np.uint64), ("row_bytes", np.int64), *_int32s("h w bytes unused")], align=True)

#: Two samples that take something of each other; mirrors `MixPair` in csrc/mix.h.
MIX_PAIR = np.dtype([("rows", np.int32, 2), ("weights", np.float32, 2), ("boxes", np.int32, (2, 4))])

#: What an image file's header says; mirrors `ImageHeader` in csrc/io.h. Sizes in px, before orientation; 0: not found.
IMAGE_HEADER = np.dtype(
    [(name, np.int32) for name in ("kind", "height", "width", "channels", "bits", "orientation")]
    + [("flags", np.uint32)]
)

#: `IMAGE_HEADER["kind"]` → name.
IMAGE_KINDS = ("unknown", "jpeg", "png", "webp", "bmp", "gif", "tiff", "pnm")

#: Name → bit of `IMAGE_HEADER["flags"]`; csrc/io.h says what each means.
IMAGE_FLAGS = {
    name: 1 << bit
    for bit, name in enumerate(
        "progressive truncated animated alpha palette cmyk adobe ycck rgb lossless arithmetic hierarchical "
        "damaged restarts unusual".split()
    )
}

#: What a cut left of a JPEG file of tiles; mirrors `Cut` in csrc/jpeg/tiles.h. Sizes in px; `of_tiles` 0: no tiles.
CUT = np.dtype([("bytes", np.int64), *_int32s("y x height width tiles of_tiles")])

#: What is known of a stripped JPEG without looking into it; mirrors `JpegShape` in csrc/jpeg/stripped.h. ``across``,
#: ``down``: blocks of luma in an MCU; ``tile``: MCUs of a tile; ``row`` to ``columns``: which of the picture's tiles
#: there are.
JPEG_SHAPE = np.dtype(_int32s("height width components across down tile row column rows columns"))

#: Where a feature of a tf.train.Example lies; mirrors `Feature` in csrc/shards.h. Places and sizes in bytes.
FEATURE = np.dtype([(name, np.int64) for name in ("kind", "count", "list", "list_bytes", "first", "first_bytes")])

#: `FEATURE["kind"]` → name.
FEATURE_KINDS = ("absent", "bytes", "floats", "ints")

_STRUCTS = {"passes": "IMAGE_PASS", "erases": "ERASE_BOX", "fields": "ELASTIC_FIELD", "shapes": "JPEG_SHAPE"}
_OUT_DTYPES = {"torch.uint8": 0, "torch.float16": 1, "torch.bfloat16": 2, "torch.float32": 3}  # `DType` of csrc/ops.h

MAX_FILE_BYTES = 2**31 - 1  # what decoders take; a larger file among images is a mistake


def build_info() -> dict[str, Any]:
    """What the extension was built with: `cuda` (bool), `cuda_archs` ("80,86"), `cuda_version` ("13.0"), `compiler`.

    And what its CPU operators run on here, `cpu`: "scalar", "avx2" or "avx512".
    """
    return {**_C.build_info(), "cpu": _C.cpu_target()}


def cpu_target(name: str | None = None) -> str:
    """Makes the CPU operators use an instruction set, "scalar", "avx2" or "avx512"; None: the best there is.

    All give the same bits; tests and benchmarks compare them. Returns the name of the set now in use.

    Raises:
        ValueError: an unknown name, or a set that this machine lacks.
    """
    _C.set_cpu_target(name=name)
    return str(_C.cpu_target())


def struct_layouts() -> dict[str, dict[str, int]]:
    """Per C++ struct mirrored here: its size under "", and every field's offset; bytes."""
    return dict(_C.struct_layouts())


def read_files(
    paths: Sequence[str | os.PathLike[str]],
    *,
    threads: int,
    offsets: npt.ArrayLike | None = None,
    lengths: npt.ArrayLike | None = None,
    allocate: Callable[[int], np.ndarray] | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> tuple[np.ndarray, np.ndarray, dict[int, OSError]]:
    """Reads N files, or byte ranges of files, in parallel into one arena.

    Args:
        paths: N paths; several ranges of one file share one descriptor.
        threads: how many read at a time, the caller's own included.
        offsets: int64 [N], bytes; None: from the start.
        lengths: int64 [N], bytes; None, or -1 for one of them: to the end of the file.
        allocate: called once with the number of bytes; returns a contiguous uint8 array of at least that size.
        max_file_bytes: a longer range fails with EFBIG.

    Returns:
        arena: uint8 [≥ starts[-1]], as `allocate` returned it.
        starts: int64 [N+1], bytes; range i is arena[starts[i]:starts[i + 1]], empty where it failed.
        errors: position → OSError (errno, filename) of every range that failed; the others are not touched by it.

    Raises:
        ValueError: threads below 1, sizes that do not match, an offset below 0 or a length below -1.
    """
    n = len(paths)
    _check_threads("read_files", threads)
    batch = _C.FileBatch(
        paths=[os.fsencode(path) for path in paths],
        offsets=_ranges("offsets", offsets, n, 0),
        lengths=_ranges("lengths", lengths, n, -1),
        max_bytes=max_file_bytes,
        threads=threads,
    )
    nbytes = batch.total_bytes
    arena = np.empty(nbytes, np.uint8) if allocate is None else allocate(nbytes)
    if arena.dtype != np.uint8 or arena.ndim != 1 or arena.size < nbytes or not arena.flags.carray:
        raise ValueError(
            f"read_files: allocate({nbytes}) must return a writable contiguous uint8 array of at least {nbytes} bytes, "
            f"got {arena.dtype} {arena.shape}"
        )
    batch.read(arena=arena, threads=threads)
    errors = {i: OSError(code, cause or os.strerror(code), os.fspath(paths[i])) for i, code, cause in batch.errors}
    return arena, batch.starts, errors


def probe_images(arena: np.ndarray, starts: np.ndarray, *, threads: int = 1) -> np.ndarray:
    """Reads the headers of N encoded images: size, channels, orientation, and what makes a file unusual.

    Nothing is decoded, and no bytes make it raise: what cannot be made out has kind 0, or zeros.

    Args:
        arena: uint8 [≥ starts[-1]], contiguous.
        starts: int64 [N+1]; image i is arena[starts[i]:starts[i + 1]].
        threads: how many work at a time.

    Returns:
        `IMAGE_HEADER` [N]; `kind` indexes `IMAGE_KINDS`, `flags` holds bits of `IMAGE_FLAGS`.

    Raises:
        ValueError: another dtype or shape, or starts that do not rise within the arena.
    """
    _check_threads("probe_images", threads)
    starts = np.ascontiguousarray(starts, np.int64)
    if starts.ndim != 1 or starts.size < 1:
        raise ValueError(f"probe_images: starts must be int64 [N+1], got shape {starts.shape}")
    if arena.dtype != np.uint8 or arena.ndim != 1 or not arena.flags.c_contiguous:
        raise ValueError(f"probe_images: arena must be contiguous uint8 [bytes], got {arena.dtype} {arena.shape}")
    out = np.zeros(starts.size - 1, IMAGE_HEADER)
    _C.probe_images(arena=arena, starts=starts, out=out.ctypes.data, threads=threads)
    return out


def tile_jpegs(
    arena: np.ndarray, starts: np.ndarray, *, tile_px: int = 64, metadata: bool = False, threads: int = 1
) -> list[tuple[bytes | None, str | None]]:
    """Writes N JPEGs anew as grids of tiles, without loss: the same coefficients, so the same pixels to every reader.

    A restart marker comes every few MCUs, by a number that divides the MCU row, as near to ``tile_px`` as there is one
    between half and twice that; else one a row. Baseline and progressive files become baseline ones, with the Huffman
    codes that take the fewest bits.

    Args:
        arena: uint8 [≥ starts[-1]], contiguous.
        starts: int64 [N+1]; file i is arena[starts[i]:starts[i + 1]].
        tile_px: width of a tile.
        metadata: keep all of it; else only what readers need for the same pixels: JFIF, Adobe, EXIF orientation.
        threads: how many work at a time.

    Returns:
        of each file its bytes, or None and why it has to stay as it is.

    Source: ITU-T T.81, F.2 and K.2.
    """
    _check_threads("tile_jpegs", threads)
    if tile_px < 1:
        raise ValueError(f"tile_jpegs: tile_px must be at least 1, got {tile_px}")
    starts = np.ascontiguousarray(starts, np.int64)
    return list(_C.tile_jpegs(arena=arena, starts=starts, tile_px=tile_px, metadata=metadata, threads=threads))


def cut_jpegs(
    arena: np.ndarray, starts: np.ndarray, regions: npt.ArrayLike, out: np.ndarray, *, threads: int = 1
) -> np.ndarray:
    """Leaves of N JPEG files of tiles only those under a region each, and those beside it that its chroma needs.

    What is left is a JPEG file, in which decoders find for the region the same pixels as in the whole file, to the bit.
    Files of another kind are copied whole.

    Args:
        arena, starts: as for `tile_jpegs`.
        regions: [N, 4] as y, x, h, w, px.
        out: uint8 [≥ starts[-1]], contiguous: what is left of file i begins at starts[i].
        threads: how many work at a time.

    Returns:
        `CUT` [N].
    """
    _check_threads("cut_jpegs", threads)
    starts = np.ascontiguousarray(starts, np.int64)
    cuts = np.zeros(len(starts) - 1, CUT)
    regions = np.ascontiguousarray(regions, np.int32)
    _C.cut_jpegs(arena=arena, starts=starts, regions=regions, out=out, cuts=cuts.ctypes.data, threads=threads)
    return cuts


def read_jpegs(
    arena: np.ndarray, starts: np.ndarray, regions: npt.ArrayLike, address: np.ndarray, *, threads: int = 1
) -> list[str | None]:
    """Decodes a region of each of N baseline JPEGs, as libjpeg-turbo does by default, to the bit.

    Of a file of tiles only those that the region needs are read.

    Args:
        arena, starts: as for `tile_jpegs`.
        regions: [N, 4] as y, x, h, w, px, inside the picture.
        address: uint64 [N]: where the RGB pixels go, uint8 [h, w, 3] each, dense; 0: the file is passed over.
        threads: how many work at a time.

    Returns:
        of each file None, or why it was not decoded: it is of another kind, or damaged.
    """
    _check_threads("read_jpegs", threads)
    starts, regions = np.ascontiguousarray(starts, np.int64), np.ascontiguousarray(regions, np.int32)
    address = np.ascontiguousarray(address, np.uint64)
    return list(_C.read_jpegs(arena=arena, starts=starts, regions=regions, out=address, threads=threads))


def unstuffed(data: bytes, *, level: int = 2) -> bytes:
    """JPEG data without the zero behind each byte of ones, as `Stripped` writes them. ``level``: of instructions, at
    most: 0: any processor's, 1: AVX2, 2: AVX-512; the result is the same.
    """
    return bytes(_C.unstuffed(data=data, level=level))


def marker_in(data: bytes, *, level: int = 2) -> int:
    """Where in JPEG data the first marker is, or a byte of ones at the end; their length where there is none."""
    return int(_C.marker_in(data=data, level=level))


class Stripped:
    """N files of JPEG tiles, to be written as stripped JPEGs: what a device decodes, a thread a tile (csrc/jpeg).

    Args:
        arena, starts: as for `tile_jpegs`; the arena is held.
        regions: [N, 4] as y, x, h, w, px: only the tiles that they need; None: all of them.
        threads: how many work at a time.
    """

    def __init__(
        self, arena: np.ndarray, starts: np.ndarray, regions: npt.ArrayLike | None, *, threads: int = 1
    ) -> None:
        _check_threads("Stripped", threads)
        starts = np.ascontiguousarray(starts, np.int64)
        regions = np.zeros(0, np.int32) if regions is None else np.ascontiguousarray(regions, np.int32)
        self._batch = _C.StripBatch(arena=arena, starts=starts, regions=regions, threads=threads)
        self.shapes: np.ndarray = self._batch.shapes.view(JPEG_SHAPE)
        """`JPEG_SHAPE` [N]."""
        self.nbytes: np.ndarray = (self._batch.nbytes + 15) // 16 * 16
        """int64 [N]: what `write` takes at most, multiples of 16; 0: it cannot be stripped."""
        self.refused: list[tuple[int, bool, str]] = self._batch.refused
        """(row, whether it is a file of tiles, why not) of those that cannot."""

    def write(self, address: np.ndarray, *, threads: int = 1) -> None:
        """To host memory, ``address`` uint64 [N], multiples of 4; 0: the row is passed over."""
        _check_threads("Stripped.write", threads)
        address = np.ascontiguousarray(address, np.uint64)
        self._batch.write(to=address, threads=threads)


def rgb_row_bytes(width: np.ndarray) -> np.ndarray:
    """int64: from one row of RGB to the next where `decode_tiles` has written pictures of so many px a row."""
    return (np.asarray(width, np.int64) + 3) // 4 * 12


def decode_tiles_upload_bytes(n: int) -> int:
    """Bytes at the head of the upload of `decode_tiles`, for n pictures; a multiple of 16."""
    return int(_C.decode_tiles_upload_bytes(n=n))


def decode_tiles(
    jpegs: np.ndarray,
    shapes: np.ndarray,
    regions: np.ndarray,
    out: np.ndarray | None,
    *,
    upload: torch.Tensor,
    pinned: torch.Tensor,
    stream: int,
) -> None:
    """Decodes a region of each of N stripped JPEGs on a CUDA device, as `read_jpegs` does of their files, to the bit.

    Queued on the stream. When that has come to its end, the first N int32 of ``pinned`` are 1 for what is damaged, of
    whose pixels nothing is said, and 0 for the others.

    Args:
        jpegs: uint64 [N]: where on the device they lie, multiples of 16.
        shapes: `JPEG_SHAPE` [N].
        regions: int32 [N, 4] as y, x, h, w, px.
        out: uint64 [N]: where on the device pixels go, multiples of 4: uint8 [h, w, 3], rows `rgb_row_bytes` apart.
            None: nowhere; the regions are only looked through for damage.
        upload: uint8, on the device: `decode_tiles_upload_bytes`, and behind them what else is to be uploaded.
        pinned: uint8, of the same size, pinned: what that is. Must not be touched until the stream has passed.
        stream: a cudaStream_t.

    Raises:
        ValueError: naming the picture, what was expected and what came.

    Source: ITU-T T.81; libjpeg-turbo's islow IDCT, fancy upsampling and colour conversion.
    """
    params = decode_tiles_params(jpegs, shapes, regions, out)
    if not upload.is_cuda or upload.numel() != pinned.numel():
        raise ValueError(
            f"decode_tiles: upload must be on a CUDA device, of the {pinned.numel()} bytes of pinned, got "
            f"{upload.numel()} on {upload.device}"
        )
    import torch

    with torch.cuda.stream(torch.cuda.ExternalStream(stream, upload.device)):
        scratch = torch.empty(_C.decode_tiles_scratch_bytes(params=params), dtype=torch.uint8, device=upload.device)
        _C.decode_tiles_cuda(
            params=params,
            upload=upload.data_ptr(),
            pinned=pinned.data_ptr(),
            upload_bytes=upload.numel(),
            scratch=scratch.data_ptr(),
            scratch_bytes=scratch.numel(),
            stream=stream,
        )


def decode_tiles_params(jpegs: np.ndarray, shapes: np.ndarray, regions: np.ndarray, out: np.ndarray | None) -> Any:
    """The arguments of `decode_tiles`, checked; they must stay as long as what comes back."""
    n = len(shapes)
    addresses = [
        _check_array(name, array, dtype, shape, "decode_tiles")
        for name, array, dtype, shape in (
            ("jpegs", jpegs, np.uint64, (n,)),
            ("shapes", shapes, JPEG_SHAPE, (n,)),
            ("regions", regions, np.int32, (n, 4)),
            ("out", out, np.uint64, (n,)),
        )
    ]
    params = _C.DecodeTilesParams(**dict(zip(("jpegs", "shapes", "regions", "out"), addresses, strict=True)), n=n)
    _C.check_decode_tiles(params=params)
    return params


class ShardScanner:
    """Finds what lies where in a shard, by its headers: ``kind`` "tar" or "tfrecord".

    A shard is scanned once: by `scan_file`, or by `feed` and `finish`.
    """

    def __init__(self, kind: str) -> None:
        self._native = {"tar": _C.TarScanner, "tfrecord": _C.RecordScanner}[kind]()

    def scan_file(self, path: str | os.PathLike[str]) -> None:
        """A local file, bodies skipped. Raises ``OSError``."""
        if code := self._native.scan_file(path=os.fsencode(path)):
            raise OSError(code, os.strerror(code), os.fspath(path))

    @property
    def wanted(self) -> int:
        """The byte that `feed` goes on with: behind what was fed, or far behind, where a body is skipped."""
        return int(self._native.wanted)

    @property
    def done(self) -> bool:
        """Whether no more is wanted."""
        return bool(self._native.done)

    def feed(self, data: np.ndarray) -> None:
        """Bytes from `wanted` on: uint8 [n], contiguous."""
        self._native.feed(data=data)

    def finish(self, size_bytes: int) -> None:
        """All was fed that was wanted, and the shard has this size."""
        self._native.finish(size_bytes=size_bytes)

    @property
    def damage(self) -> tuple[int, str] | None:
        """The byte at which the shard makes no sense, and why; what lies before it is in the index."""
        if self._native.damage is None:
            return None
        at, what = self._native.damage
        return at, os.fsdecode(what)

    def tar_index(self) -> tuple[dict[str, np.ndarray], list[str]]:
        """Arrays by the names in `TarIndex` of csrc/shards.h, and the extensions."""
        arrays, extensions = self._native.index()
        return arrays, [os.fsdecode(extension) for extension in extensions]

    def record_index(self) -> dict[str, np.ndarray]:
        """Of TFRecords: ``offsets`` and ``sizes``, int64 [N], bytes, and ``checksums`` as stored, uint32 [N]."""
        return dict(self._native.index())


def parse_integers(arena: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """N texts → the whole decimal numbers they are, int64 [N], and whether they are any, bool [N].

    ``arena`` uint8 [bytes], ``starts`` int64 [N+1]; white space around a number is allowed.
    """
    starts = np.ascontiguousarray(starts, np.int64)
    values, valid = np.zeros(len(starts) - 1, np.int64), np.zeros(len(starts) - 1, np.uint8)
    _C.parse_integers(arena=arena, starts=starts, values=values, valid=valid)
    return values, valid.astype(bool)


def crc32c(data: np.ndarray, *, portable: bool = False) -> int:
    """CRC-32C (Castagnoli) of uint8 [n]; ``portable``: without the CPU's instruction for it."""
    return int(_C.crc32c(data=data, portable=portable))


def checksums(arena: np.ndarray, starts: np.ndarray, *, threads: int = 1) -> np.ndarray:
    """The CRC-32C of each of N ranges, uint32 [N]: ``arena`` uint8 [bytes], ``starts`` int64 [N+1]."""
    _check_threads("checksums", threads)
    starts = np.ascontiguousarray(starts, np.int64)
    out = np.zeros(len(starts) - 1, np.uint32)
    _C.checksums(arena=arena, starts=starts, out=out, threads=threads)
    return out


def read_examples(
    arena: np.ndarray, starts: np.ndarray, names: Sequence[str], *, threads: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Finds features in N records of tf.train.Example, each followed by its checksum, which is checked.

    Args:
        arena: uint8 [≥ starts[-1]], contiguous.
        starts: int64 [N+1]; record i and its checksum are arena[starts[i]:starts[i + 1]].
        names: F names of features.
        threads: how many work at a time.

    Returns:
        `FEATURE` [N, F], places counted from the arena's beginning; int32 [N]: 0 good, 1 the checksum does not match, 2
        no Example.
    """
    _check_threads("read_examples", threads)
    starts = np.ascontiguousarray(starts, np.int64)
    n = len(starts) - 1
    features, status = np.zeros((n, len(names)), FEATURE), np.zeros(n, np.int32)
    _C.read_examples(
        arena=arena,
        starts=starts,
        names=[os.fsencode(name) for name in names],
        features=features.ctypes.data,
        status=status,
        threads=threads,
    )
    return features, status


def list_features(record: np.ndarray) -> dict[str, tuple[str, int]]:
    """The features of one record, uint8 [n]: name → kind, as in `FEATURE_KINDS`, and number of values.

    Raises:
        ValueError: it is no tf.train.Example.
    """
    found = _C.list_features(record=record)
    if found is None:
        raise ValueError("the record is no tf.train.Example")
    return {os.fsdecode(name): (FEATURE_KINDS[kind], count) for name, kind, count in found}


def feature_numbers(arena: np.ndarray, features: np.ndarray) -> np.ndarray:
    """The values of `FEATURE` [N ≥ 1], all "ints" or all "floats" and of one count: int64 or float32 [N, count]."""
    features = np.ascontiguousarray(features)
    n, kind, count = len(features), FEATURE_KINDS[features["kind"][0]], int(features["count"][0])
    read, dtype = {"ints": (_C.feature_ints, np.int64), "floats": (_C.feature_floats, np.float32)}[kind]
    out = np.empty((n, count), dtype)
    read(arena=arena, features=features.ctypes.data, n=n, count=count, out=out)
    return out


def feature_bytes(arena: np.ndarray, feature: np.void) -> list[bytes]:
    """The values of one "bytes" `FEATURE`."""
    count, at, nbytes = (int(feature[name]) for name in ("count", "list", "list_bytes"))
    return list(_C.feature_bytes(arena=arena, list=at, list_bytes=nbytes, count=count))


def pack_ranges(arena: np.ndarray, at: np.ndarray, nbytes: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Moves N ranges of an arena together, to the beginning of ``out``; returns their starts there, int64 [N+1].

    ``at``, ``nbytes``: int64 [N]. ``out`` may be the arena itself if the ranges follow each other in it.
    """
    at, nbytes = np.ascontiguousarray(at, np.int64), np.ascontiguousarray(nbytes, np.int64)
    _C.pack_ranges(arena=arena, at=at, nbytes=nbytes, out=out)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(nbytes)])


def copy_blocks(
    source: np.ndarray,
    to: np.ndarray,
    *,
    rows: np.ndarray,
    row_bytes: np.ndarray,
    stride: np.ndarray | None = None,
    threads: int = 1,
) -> None:
    """Copies N blocks of host memory: block i is ``rows[i]`` runs of ``row_bytes[i]`` bytes, ``stride[i]`` bytes apart
    (``None``: dense) from address ``source[i]`` on, back to back from ``to[i]`` on.

    ``source``, ``to``: uint64 [N]; the others int64 [N]. Nobody can check that the memory is there.
    """
    _check_threads("copy_blocks", threads)
    row_bytes = np.ascontiguousarray(row_bytes, np.int64)
    _C.copy_blocks(
        from_=np.ascontiguousarray(source, np.uint64),
        stride=row_bytes if stride is None else np.ascontiguousarray(stride, np.int64),
        rows=np.ascontiguousarray(rows, np.int64),
        row_bytes=row_bytes,
        to=np.ascontiguousarray(to, np.uint64),
        threads=threads,
    )


def fused_image(passes: np.ndarray, starts: np.ndarray, out: torch.Tensor, **options: Any) -> None:
    """`start_fused_image`, waited for."""
    start_fused_image(passes, starts, out, **options).wait()


class Running:
    """An operator at work on native threads, or queued on a CUDA stream; it keeps what it works on."""

    def __init__(self, running: Any) -> None:
        self._running = running

    def wait(self) -> None:
        """Returns when its output is whole, on the host or in the order of its stream. Raises what went wrong."""
        if self._running is not None:
            self._running.wait()


def start_fused_image(
    passes: np.ndarray,
    starts: np.ndarray,
    out: torch.Tensor,
    *,
    channels: int,
    scale: npt.ArrayLike,
    bias: npt.ArrayLike,
    tables: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    erases: np.ndarray | None = None,
    threads: int = 1,
    layout: str = "nchw",
    stream: int | None = None,
    keep: Any = None,
) -> Running:
    """Takes N ragged images through a pass or more each, into one batch, while the caller does something else.

    On the device that holds `out`; csrc/ops.h says what a pass does, and in which order. On CUDA the work is queued on
    the stream, and `passes["data"]` and `["displacement"]` are device addresses.

    Args:
        passes: `IMAGE_PASS` [P], sample after sample; stored pixels are uint8, HWC.
        starts: int32 [N+1]: sample i has passes starts[i] to starts[i+1]; at least one.
        out: contiguous; [N,C,H,W] for "nchw", [N,H,W,C] for "nhwc"; float32, float16, bfloat16 or uint8.
        channels: C; 1 or 3, the same for stored pixels and output.
        scale, bias: float32 [C]; out = scale * v + bias, v in 0..255. uint8 output needs 1 and 0.
        tables: uint8 [T,C,256], which passes name.
        weights: float32 [K], of the passes' filters.
        erases: `ERASE_BOX` [E], which passes name.
        threads: how many work at a time; on the CPU.
        layout: "nchw" or "nhwc".
        stream: a cudaStream_t; None: torch's current one. On CUDA.
        keep: what owns the memory that the passes point to; on the host it is held until they have run.

    Raises:
        ValueError: anything the operator cannot do, naming the sample, its pass and what came; on the host from
            ``wait``.

    Source: the resize equals torch's `interpolate(antialias=True)` of uint8, to the bit.
    """
    n = len(starts) - 1
    _check_threads("fused_image", threads)
    _check_array("starts", starts, np.int32, (n + 1,))
    _check_array("passes", passes, IMAGE_PASS, (len(passes),))
    if n < 0 or starts[0] != 0 or starts[-1] != len(passes):
        raise ValueError(f"fused_image: starts must go from 0 to {len(passes)}, the passes, got {starts}")
    if layout not in ("nchw", "nhwc"):
        raise ValueError(f'fused_image: layout must be "nchw" or "nhwc", got {layout!r}')
    dtype = _OUT_DTYPES.get(str(out.dtype))
    if dtype is None:
        raise ValueError(f"fused_image: out must be one of {', '.join(_OUT_DTYPES)}, got {out.dtype}")
    if out.ndim != 4 or not out.is_contiguous():
        raise ValueError(f"fused_image: out must be contiguous with 4 axes, got {tuple(out.shape)}, {out.stride()}")
    out_h, out_w = tuple(out.shape)[2:] if layout == "nchw" else tuple(out.shape)[1:3]
    expected = (n, channels, out_h, out_w) if layout == "nchw" else (n, out_h, out_w, channels)
    if tuple(out.shape) != expected:
        raise ValueError(f"fused_image: out must be {layout} {expected}, got {tuple(out.shape)}")
    counts = [0 if array is None else len(array) for array in (tables, weights, erases)]
    params = _C.FusedImageParams(
        passes=passes.ctypes.data,
        starts=starts.ctypes.data,
        n=n,
        channels=channels,
        out_h=out_h,
        out_w=out_w,
        tables=_check_array("tables", tables, np.uint8, (counts[0], channels, 256)),
        table_count=counts[0],
        weights=_check_array("weights", weights, np.float32, (counts[1],)),
        weight_count=counts[1],
        erases=_check_array("erases", erases, ERASE_BOX, (counts[2],)),
        erase_count=counts[2],
        scale=_three("scale", scale, channels),
        bias=_three("bias", bias, channels),
        dtype=dtype,
        layout=("nchw", "nhwc").index(layout),
        out=out.data_ptr(),
    )
    if out.device.type == "cpu":
        held = (passes, starts, out, tables, weights, erases, keep)
        return Running(_C.start_fused_image_cpu(params=params, threads=threads, held=held))
    if out.device.type != "cuda":
        raise ValueError(f"fused_image: out must be on the CPU or a CUDA device, got {out.device}")

    def launch(scratch: int, scratch_bytes: int, pinned: int, pinned_bytes: int, queue: int) -> None:
        _C.fused_image_cuda(
            params=params,
            scratch=scratch,
            scratch_bytes=scratch_bytes,
            pinned=pinned,
            pinned_bytes=pinned_bytes,
            stream=queue,
        )

    def sizes() -> tuple[int, int]:
        scratch_bytes = _C.fused_image_cuda_scratch_bytes(params=params)
        return scratch_bytes, _C.fused_image_cuda_upload_bytes(params=params)

    _on_cuda("fused_image", out.device, stream, sizes, launch)
    return Running(None)


def elastic(fields: np.ndarray, out: torch.Tensor, *, threads: int = 1, stream: int | None = None) -> None:
    """Draws the displacements of N elastic warps, into memory of ``out``'s device.

    Args:
        fields: `ELASTIC_FIELD` [N]; csrc/ops.h says what each is. Their `out` lie within ``out``.
        out: the memory that holds what they write; says on which device.
        threads: how many work at a time; on the CPU.
        stream: a cudaStream_t; None: torch's current one. On CUDA.

    Raises:
        ValueError: naming the field and what came.
    """
    _check_threads("elastic", threads)
    _check_array("fields", fields, ELASTIC_FIELD, (len(fields),))
    given = {"fields": fields.ctypes.data, "n": len(fields)}
    if out.device.type == "cpu":
        _C.elastic_cpu(**given, threads=threads)
        return

    def launch(scratch: int, scratch_bytes: int, pinned: int, pinned_bytes: int, queue: int) -> None:
        _C.elastic_cuda(
            **given,
            scratch=scratch,
            scratch_bytes=scratch_bytes,
            pinned=pinned,
            pinned_bytes=pinned_bytes,
            stream=queue,
        )

    _on_cuda("elastic", out.device, stream, lambda: _C.elastic_cuda_bytes(**given), launch)


def move_labels(
    maps: Sequence[np.ndarray],
    passes: np.ndarray,
    starts: np.ndarray,
    out: np.ndarray,
    *,
    ignore_index: int,
    table: np.ndarray | None = None,
    threads: int = 1,
) -> None:
    """Takes N label maps through the geometry of their pictures' passes, by nearest neighbours; on the CPU.

    Args:
        maps: N arrays [H, W], uint8 or int32, dense in the rows; whole ones, of their pictures' sizes.
        passes: `IMAGE_PASS` [P], sample after sample; each one's origin is minus its crop's corner in what comes in.
        starts: int32 [N+1]: sample i has passes starts[i] to starts[i+1]; at least one.
        out: [N, h, w], contiguous; uint8, int32 or int64. Must hold what the maps or the table have, and ignore_index.
        ignore_index: where geometry leaves the map.
        table: int32 [T ≥ 1]: label in the maps → label in the batch, the last entry for all others.
        threads: how many work at a time.

    Raises:
        ValueError: anything that cannot be done, naming the sample and what came.
    """
    n = len(maps)
    _check_threads("move_labels", threads)
    _check_array("starts", starts, np.int32, (n + 1,))
    _check_array("passes", passes, IMAGE_PASS, (len(passes),))
    if starts[0] != 0 or starts[-1] != len(passes) or (np.diff(starts) < 1).any():
        raise ValueError(f"move_labels: starts must rise from 0 to {len(passes)}, the passes, got {starts}")
    if out.dtype not in (np.uint8, np.int32, np.int64) or out.ndim != 3 or len(out) != n or not out.flags.carray:
        raise ValueError(
            f"move_labels: out must be contiguous uint8, int32 or int64 [{n}, h, w], got {out.dtype} {out.shape}"
        )
    rows = np.zeros(n, LABEL_MAP)
    for i, labels in enumerate(maps):
        dense = labels.ndim == 2 and (labels.shape[1] == 1 or labels.strides[1] == labels.itemsize)
        if labels.dtype not in (np.uint8, np.int32) or not dense:
            raise ValueError(
                f"move_labels: map {i} must be uint8 or int32 [H, W], dense in its rows, got {labels.dtype} "
                f"{labels.shape}, strides {labels.strides}"
            )
        row_bytes = labels.strides[0] if len(labels) > 1 else labels.nbytes
        rows[i] = (labels.ctypes.data, row_bytes, *labels.shape, labels.itemsize, 0)
    entries = 0 if table is None else len(table)
    _C.move_labels(
        maps=rows.ctypes.data,
        passes=passes.ctypes.data,
        starts=starts.ctypes.data,
        n=n,
        out_h=out.shape[1],
        out_w=out.shape[2],
        table=_check_array("table", table, np.int32, (entries,)),
        table_count=entries,
        ignore=ignore_index,
        out_bytes=out.itemsize,
        out=out.ctypes.data,
        threads=threads,
    )


def mix(
    batch: torch.Tensor, pairs: np.ndarray, *, threads: int = 1, layout: str = "nchw", stream: int | None = None
) -> None:
    """Mixes the samples of a batch with each other, pair by pair, in place. Its specification: `dalipipe.ops.mix.mix`.

    On the device that holds ``batch``; on CUDA the work is queued on the stream.

    Args:
        batch: contiguous; [N,C,H,W] for "nchw", [N,H,W,C] for "nhwc"; float32, float16, bfloat16 or uint8; finite.
        pairs: `MIX_PAIR` [P]; no sample stands in two of them. ``rows``: the two; ``weights``: of each one's own
            pixels, [0, 1], 1: they stay to the bit; ``boxes``: y, x, h, w inside the picture, where each shows its
            partner.
        threads: how many work at a time; on the CPU.
        layout: "nchw" or "nhwc".
        stream: a cudaStream_t; None: torch's current one. On CUDA.

    Raises:
        ValueError: naming the pair, what was expected and what came.
    """
    _check_threads("mix", threads)
    if pairs.dtype != MIX_PAIR or pairs.ndim != 1 or not pairs.flags.c_contiguous:
        raise ValueError(f"mix: pairs must be contiguous MIX_PAIR [P], got {pairs.dtype} {pairs.shape}")
    if layout not in ("nchw", "nhwc"):
        raise ValueError(f'mix: layout must be "nchw" or "nhwc", got {layout!r}')
    dtype = _OUT_DTYPES.get(str(batch.dtype))
    if dtype is None:
        raise ValueError(f"mix: batch must be one of {', '.join(_OUT_DTYPES)}, got {batch.dtype}")
    if batch.ndim != 4 or not batch.is_contiguous():
        raise ValueError(f"mix: batch must be contiguous with 4 axes, got {tuple(batch.shape)}, {batch.stride()}")
    n, *sides = batch.shape
    channels, h, w = sides if layout == "nchw" else (sides[2], *sides[:2])
    params = _C.MixParams(
        pairs=pairs.ctypes.data,
        pair_count=len(pairs),
        n=n,
        channels=channels,
        h=h,
        w=w,
        dtype=dtype,
        layout=("nchw", "nhwc").index(layout),
        batch=batch.data_ptr(),
    )
    if batch.device.type == "cpu":
        _C.mix_cpu(params=params, threads=threads)
    elif batch.device.type == "cuda":
        if not _C.build_info()["cuda"]:
            raise ValueError("mix: batch is on a CUDA device, but dalipipe was built without CUDA")
        import torch

        device = batch.device
        queue = torch.cuda.current_stream(device) if stream is None else torch.cuda.ExternalStream(stream, device)
        with torch.cuda.stream(queue):
            _C.mix_cuda(params=params, stream=queue.cuda_stream)
    else:
        raise ValueError(f"mix: batch must be on the CPU or a CUDA device, got {batch.device}")


# Pinned memory that a stream may still be reading from, each with the event that says when no more.
_uploads: collections.deque[tuple[torch.cuda.Event, torch.Tensor]] = collections.deque()
_uploads_lock = threading.Lock()


def _on_cuda(
    what: str,
    device: torch.device,
    stream: int | None,
    sizes: Callable[[], tuple[int, int]],
    launch: Callable[[int, int, int, int, int], None],
) -> None:
    """Calls launch(scratch, its bytes, pinned memory, its bytes, stream) with ``sizes()`` bytes of either."""
    if not _C.build_info()["cuda"]:
        raise ValueError(f"{what}: out is on a CUDA device, but dalipipe was built without CUDA")
    import torch

    with _uploads_lock:
        while _uploads and _uploads[0][0].query():
            _uploads.popleft()
    queue = torch.cuda.current_stream(device) if stream is None else torch.cuda.ExternalStream(stream, device)
    with torch.cuda.stream(queue):  # whose allocator keeps the scratch from others until the stream has passed
        scratch_bytes, pinned_bytes = sizes()
        scratch = torch.empty(scratch_bytes, dtype=torch.uint8, device=device)
        pinned = torch.empty(pinned_bytes, dtype=torch.uint8, pin_memory=True)
        try:
            launch(scratch.data_ptr(), scratch_bytes, pinned.data_ptr(), pinned_bytes, queue.cuda_stream)
        finally:  # an upload may have begun
            done = torch.cuda.Event()
            done.record(queue)
            _uploads.append((done, pinned))


def philox(counters: npt.ArrayLike, key: npt.ArrayLike) -> np.ndarray:
    """Philox4x32-10 of csrc/philox.h: uint32 [N,4] counters and a uint32 [2] key → uint32 [N,4]."""
    counters, key = np.ascontiguousarray(counters, np.uint32), np.asarray(key, np.uint32)
    if counters.ndim != 2 or counters.shape[1] != 4 or key.shape != (2,):
        raise ValueError(f"philox: expected counters [N,4] and a key [2], got {counters.shape} and {key.shape}")
    out = np.empty_like(counters)
    _C.philox(counters=counters, key0=int(key[0]), key1=int(key[1]), out=out)
    return out


def uniforms(
    indices: npt.ArrayLike,
    variants: npt.ArrayLike,
    slots: npt.ArrayLike,
    blocks: npt.ArrayLike,
    key: npt.ArrayLike,
) -> np.ndarray:
    """`dalipipe.rng.uniforms`: int64 [N] indices, their uint32 variants [N] or [1], and P slots and blocks → float64
    [N, P, 4].
    """
    indices, variants = np.ascontiguousarray(indices, np.int64), np.ascontiguousarray(variants, np.uint32)
    slots, blocks = np.ascontiguousarray(slots, np.uint32), np.ascontiguousarray(blocks, np.uint32)
    out = np.empty((len(indices), len(slots), 4))
    key = np.asarray(key, np.uint32)
    parts = {"indices": indices, "variants": variants.reshape(-1), "slots": slots, "blocks": blocks}
    _C.uniforms(**parts, key0=int(key[0]), key1=int(key[1]), out=out)
    return out


def fold(ops: np.ndarray, size: np.ndarray, normalize: tuple[npt.ArrayLike, npt.ArrayLike] | None) -> Any:
    """Operators drawn for N pictures → the passes that apply them: the arrays of `Folded` (csrc/fold.h), flat, structs
    as bytes.

    Args:
        ops: `FOLD_OP` [operators]; what they point to is as csrc/fold.h says.
        size: int64 [N, 2]: px, height and width.
        normalize: scale and bias of the output, float32 [3] each, or ``None``.

    Raises:
        ValueError: rows that do not rise within the batch.
    """
    ops, size = np.ascontiguousarray(ops, FOLD_OP), np.ascontiguousarray(size, np.int64)
    if size.shape != (len(size), 2):
        raise ValueError(f"fold: size must be [N, 2], got {size.shape}")
    scale, bias = ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0)) if normalize is None else normalize
    return _C.fold(
        ops=ops.ctypes.data,
        op_count=len(ops),
        size=size.ctypes.data,
        n=len(size),
        normalises=normalize is not None,
        scale=_three("scale", scale, 3),
        bias=_three("bias", bias, 3),
    )


def permute(n: int, low_bits: int, high_bits: int, round_keys: Sequence[int], positions: npt.ArrayLike) -> np.ndarray:
    """`dalipipe.rng.Permutation`: int64 positions in [0, n) → int64 indices of the same shape."""
    positions = np.ascontiguousarray(positions, np.int64)
    out = np.empty_like(positions)
    _C.permute(n=n, low_bits=low_bits, high_bits=high_bits, round_keys=list(round_keys), positions=positions, out=out)
    return out


def _check_threads(what: str, threads: int) -> None:
    if threads < 1:
        raise ValueError(f"{what}: threads must be at least 1, got {threads}")


def _check_array(
    name: str, array: np.ndarray | None, dtype: npt.DTypeLike, shape: tuple[int, ...], what: str = "fused_image"
) -> int:
    """The address of an array that is as it must be; 0 for None."""
    if array is None:
        return 0
    if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
        kind = _STRUCTS.get(name) or np.dtype(dtype).name
        raise ValueError(
            f"{what}: {name} must be contiguous {kind} {shape}, got {array.dtype} {array.shape}"
            + ("" if array.flags.c_contiguous else " with strides")
        )
    return int(array.ctypes.data)


def _three(name: str, values: npt.ArrayLike, channels: int) -> list[float]:
    array = np.asarray(values, np.float32)
    if array.shape != (channels,):
        raise ValueError(f"fused_image: {name} must be float32 [{channels}], one a channel, got shape {array.shape}")
    return [*array.tolist(), 0.0, 0.0][:3]


def _ranges(name: str, values: npt.ArrayLike | None, n: int, default: int) -> list[int]:
    if values is None:
        return [default] * n
    array = np.asarray(values, np.int64)
    if array.shape != (n,):
        raise ValueError(f"read_files: {name} must be int64 [{n}], one a path, got shape {array.shape}")
    if n and array.min() < min(default, 0):
        raise ValueError(f"read_files: {name} must be at least {default}, got {array.min()} at {array.argmin()}")
    return array.tolist()
