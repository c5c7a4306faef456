"""Random numbers by counter: draw k of a sample is a hash of (the sample's key, k).

The key is a hash of (seed, epoch, position in the epoch). So pixels depend neither on the number of workers nor on
earlier work. The random numbers that numba keeps for each thread depend on both.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from debeton.system.seed import derive_seed

U8 = NDArray[np.uint8]


I64 = NDArray[np.int64]


Keys = NDArray[np.uint64]


# Where in a sample's stream each operation draws; far apart, so that none overlaps another.
CROP_DRAWS, FLIP_DRAWS, PAD_DRAWS, CUTOUT_DRAWS = 0, 100, 200, 300  # the last three in augmentations/
RANDOM_CROP_DRAWS, ERASE_DRAWS, JITTER_DRAWS, GREY_DRAWS, BLUR_DRAWS = 400, 500, 600, 700, 800
RAND_AUGMENT_DRAWS, TRIVIAL_AUGMENT_DRAWS = 10_000, 20_000


_STEP, _FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


_SHIFTS = tuple(np.uint64(bits) for bits in (30, 27, 31, 11))


def mix(key: Keys | np.uint64, k: I64 | int) -> Keys:
    """Return draw k of a sample's stream, uint64.

    SplitMix64 (Steele et al. 2014) at key + (k + 1) * golden ratio.
    """
    with np.errstate(over="ignore"):  # it is meant to wrap around
        z = np.asarray(key, np.uint64) + (np.asarray(k).astype(np.uint64) + np.uint64(1)) * _STEP
        z = (z ^ (z >> _SHIFTS[0])) * _FIRST
        z = (z ^ (z >> _SHIFTS[1])) * _SECOND
    return z ^ (z >> _SHIFTS[2])  # type: ignore[no-any-return]


def uniform(key: Keys | np.uint64, k: I64 | int) -> NDArray[np.float64]:
    """Return draw k of a sample's stream as a float64 in [0, 1) with 53 random bits."""
    return (mix(key, k) >> _SHIFTS[3]).astype(np.float64) * (1.0 / 9007199254740992.0)


def sample_keys(seed: int, epoch: int, positions: I64) -> Keys:
    """Return the keys, uint64 [B], of the samples at these positions of the epoch."""
    return mix(np.uint64(derive_seed(seed, "pixels", epoch)), positions)
