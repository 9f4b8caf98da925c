"""What a pack tells: how far it is, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass

from dalipipe.faults import BadSample


@dataclass
class PackReport:
    """What came of a pack.

    ``records``: in it, each in ``copies``; ``bytes_in``: of the files that were read, 0 where they were decoded;
    ``bytes_out``: of the files made; ``left``: why pictures stayed as they were, counted; ``bad``: the records that
    were left out.
    """

    out: str
    format: str
    records: int
    copies: int
    shards: int
    bytes_in: int
    bytes_out: int
    shard_bytes: int
    left: dict[str, int]
    bad: list[BadSample]
    seconds: float = 0.0

    @property
    def ratio(self) -> float | None:
        """Bytes that came out for each that went in; ``None`` where pictures were decoded in between."""
        return self.bytes_out / self.bytes_in if self.bytes_in else None


@dataclass(frozen=True)
class Progress:
    """How far a pack is. ``left_s``: seconds still to go, as it looks; ``None``: too early to say."""

    shards: int
    of_shards: int
    records: int
    of_records: int
    bytes_out: int
    bad: int
    seconds: float
    left_s: float | None
