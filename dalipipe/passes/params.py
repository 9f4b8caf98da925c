"""What the engines take: the passes of a batch's samples."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Elastics:
    """Displacements that passes ask for: ``at`` int64 [L]: which pass; ``size`` int64 [L, 2]: of its output; ``alpha``,
    ``sigma`` float64 [L, 2] px (x, y); ``noise`` uint32 [L, 5].
    """

    at: np.ndarray
    size: np.ndarray
    alpha: np.ndarray
    sigma: np.ndarray
    noise: np.ndarray


@dataclass(frozen=True)
class ImageParams:
    """The passes of N samples; what the engines take.

    ``passes`` [P] of `IMAGE_PASS`, sample after sample; an engine fills in what is stored and displacements; ``starts``
    int32 [N+1]; ``box`` int64 [P, 4]: each pass's crop box in the picture that comes in, as y, x, h, w; ``roi`` int64
    [N, 4]: the only part of the stored picture that a sample looks at; ``out_size`` int64 [N, 2]; ``tables`` uint8 [T,
    256]; ``weights`` float32 [K]; ``erases`` [E] of `ERASE_BOX`, ``scaled`` bool [E]: those of last passes that count
    in 0..255 and get the output's scale; ``elastics``: or ``None``.
    """

    passes: np.ndarray
    starts: np.ndarray
    box: np.ndarray
    roi: np.ndarray
    out_size: np.ndarray
    tables: np.ndarray
    weights: np.ndarray
    erases: np.ndarray
    scaled: np.ndarray
    elastics: Elastics | None

    def __len__(self) -> int:
        return len(self.starts) - 1

    def of(self, rows: np.ndarray) -> ImageParams:
        """The passes of some of the samples: ``rows`` int64 [A], at least one."""
        counts = np.diff(self.starts)[rows]
        starts = np.concatenate([[0], np.cumsum(counts)])
        taken = np.arange(starts[-1]) + np.repeat(self.starts[rows] - starts[:-1], counts)
        elastics = self.elastics
        if elastics is not None:
            place = np.full(len(self.passes), -1)
            place[taken] = np.arange(len(taken))
            kept = place[elastics.at] >= 0
            parts = (place[elastics.at], elastics.size, elastics.alpha, elastics.sigma, elastics.noise)
            elastics = Elastics(*(part[kept] for part in parts)) if kept.any() else None
        return replace(
            self,
            passes=self.passes[taken],
            starts=starts.astype(np.int32),
            box=self.box[taken],
            roi=self.roi[rows],
            out_size=self.out_size[rows],
            elastics=elastics,
        )
