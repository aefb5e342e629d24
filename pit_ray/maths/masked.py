"""Statistics over ragged numbers."""

from __future__ import annotations

import numpy as np

from pit_ray.records import Ragged


def whiten(rows: Ragged) -> Ragged:
    """All values shifted and scaled to mean 0 and standard deviation 1 over the whole batch."""
    values = rows.values.astype(np.float64)
    centred = (values - values.mean()) / (values.std() + 1e-8)
    return Ragged(centred.astype(np.float32), rows.offsets)


def row_sums(rows: Ragged) -> np.ndarray:
    """(n,) float64: the sum of each row; 0 for an empty one."""
    totals = np.concatenate([np.zeros(1), np.cumsum(rows.values, dtype=np.float64)])
    return totals[rows.offsets[1:]] - totals[rows.offsets[:-1]]
