"""JPEG files: transcoded to tiles, cut, decoded on the host; stripped for a CUDA device, and decoded there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dalipipe.native.core import _C, check_array, check_threads
from dalipipe.native.structs import CUT, JPEG_SHAPE

if TYPE_CHECKING:
    import torch


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
    check_threads("tile_jpegs", threads)
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
    check_threads("cut_jpegs", threads)
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
    check_threads("read_jpegs", threads)
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
        check_threads("Stripped", threads)
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
        check_threads("Stripped.write", threads)
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
        check_array(name, array, dtype, shape, "decode_tiles")
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
