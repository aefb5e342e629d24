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


def explained_variance(values: np.ndarray, returns: np.ndarray) -> float:
    """1 − Var(return − value) / Var(return): 1 for perfect values, 0 for constant ones, below 0 for worse. 0 where all
    returns are equal."""
    spread = float(returns.var())
    return 1 - float((returns - values).var()) / spread if spread > 0 else 0.0
