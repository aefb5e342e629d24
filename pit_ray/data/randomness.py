"""Random draws that derive from the one seed of the configuration, the same in every process and on every machine."""

from __future__ import annotations

import hashlib
import operator
from typing import SupportsIndex

import numpy as np


def derive_seed(seed: int, *parts: SupportsIndex | str) -> int:
    """A seed in [0, 2**63) for the draw that `parts` names, as (stage, step, uid).

    Integers of any kind (also numpy's) count by their value; 1 and "1" are different parts. TypeError for anything
    else, because a float that prints differently elsewhere would be another draw there.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in (seed, *parts):
        text = f"s{part}" if isinstance(part, str) else f"i{operator.index(part)}"
        data = text.encode()
        # The length goes first, so that ("ab", "c") and ("a", "bc") do not meet.
        digest.update(len(data).to_bytes(8, "little") + data)
    return int.from_bytes(digest.digest(), "little") >> 1


def generator(seed: int, *parts: SupportsIndex | str) -> np.random.Generator:
    """A fresh numpy generator for the draw that `parts` names."""
    return np.random.Generator(np.random.PCG64(derive_seed(seed, *parts)))
