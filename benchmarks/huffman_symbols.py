"""How many Huffman symbols a baseline JPEG has: a decoder's rate can be stated in them, whatever the quality."""

from __future__ import annotations

import re
import struct

WINDOW = 16  # bits of the longest code
Lookup = list[tuple[int, int]]
"""The next 16 bits → the bits of the code that they begin with, and its symbol; 0 bits: there is none."""


def count_symbols(data: bytes) -> int:
    """DC differences, AC coefficients, ends of blocks and runs of zeros, of a file with one scan.

    Raises ``ValueError`` where the data do not come out even.
    """
    lookups: dict[tuple[int, int], Lookup] = {}
    sampling: dict[int, tuple[int, int]] = {}
    height = width = interval = 0
    at = 2
    while True:
        marker, length = data[at + 1], struct.unpack_from(">H", data, at + 2)[0]
        body, at = data[at + 4 : at + 2 + length], at + 2 + length
        if marker == 0xC4:
            while body:
                count = sum(body[1:17])
                lookups[body[0] >> 4, body[0] & 15] = _lookup(body[1:17], body[17 : 17 + count])
                body = body[17 + count :]
        elif marker in (0xC0, 0xC1):
            height, width = struct.unpack_from(">HH", body, 1)
            sampling = {body[i]: (body[i + 1] >> 4, body[i + 1] & 15) for i in range(6, len(body), 3)}
        elif marker == 0xDD:
            interval = struct.unpack(">H", body)[0]
        elif marker == 0xDA:
            break
    scan = [(body[i], body[i + 1] >> 4, body[i + 1] & 15) for i in range(1, 1 + 2 * body[0], 2)]
    if not sampling or len(scan) != len(sampling):
        raise ValueError("count_symbols: this is no baseline JPEG of one scan")
    across, down = (max(each[axis] for each in sampling.values()) for axis in (0, 1))
    if len(scan) == 1:  # then an MCU is one block
        across = down = 1
        sampling = dict.fromkeys(sampling, (1, 1))
    mcus = -(-height // (8 * down)) * -(-width // (8 * across))
    blocks = [
        (lookups[0, dc], lookups[1, ac])
        for component, dc, ac in scan
        for _ in range(sampling[component][0] * sampling[component][1])
    ]
    total = 0
    for tile in re.split(rb"\xff[\xd0-\xd7]", data[at : data.rindex(b"\xff\xd9")]):
        here = min(interval or mcus, mcus)
        mcus -= here
        total += _count(tile.replace(b"\xff\0", b"\xff"), blocks * here)
    if mcus:
        raise ValueError(f"count_symbols: {mcus} MCUs are missing")
    return total


def _lookup(counts: bytes, symbols: bytes) -> Lookup:
    entries: Lookup = []
    lengths = [bits for bits, count in enumerate(counts, 1) for _ in range(count)]
    for bits, symbol in zip(lengths, symbols, strict=True):
        entries += [(bits, symbol)] * (1 << (WINDOW - bits))
    return entries + [(0, 0)] * ((1 << WINDOW) - len(entries))


def _count(tile: bytes, blocks: list[tuple[Lookup, Lookup]]) -> int:
    number, left = int.from_bytes(tile + b"\xff\xff", "big"), 8 * len(tile)  # bits
    symbols = 0
    for dc, ac in blocks:
        place = 0
        while place < 64:
            bits, symbol = (ac if place else dc)[number >> left & 0xFFFF]
            if not bits:
                raise ValueError("count_symbols: there is no such code")
            size = symbol & 15
            left -= bits + size
            symbols += 1
            if not place:
                place = 1
            elif size or symbol == 0xF0:
                place += (symbol >> 4) + 1
            else:
                break
    if not 0 <= left < 8:
        raise ValueError(f"count_symbols: {left} bits are left of a tile")
    return symbols
