"""Randomness as a function of (seed, purpose, sample index), never of rank, worker or batch."""

from __future__ import annotations

import zlib

import numpy as np


def derive_seed(seed: int, purpose: str, index: int = 0) -> int:
    """A 63-bit seed for one purpose and one sample."""
    entropy = [seed, zlib.crc32(purpose.encode()), index]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


def numpy_rng(seed: int, purpose: str, index: int = 0) -> np.random.Generator:
    """A NumPy generator for one purpose and one sample."""
    return np.random.default_rng(derive_seed(seed, purpose, index))
