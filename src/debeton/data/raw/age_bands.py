"""Age bands as the attribute of a set: from a list of ages, or given by name."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from debeton.data.spec import Ints
from debeton.system.errors import UsageError


def age_bands(text: str) -> list[int]:
    """Return the ages at which bands begin, ascending, of a text such as '40,60,80'. UsageError for any other."""
    try:
        bands = [int(part) for part in text.split(",")]
    except ValueError:
        bands = []
    if not bands or bands[0] <= 0 or bands != sorted(set(bands)):
        raise UsageError(f"--age-bands '{text}' is no list of rising ages such as 40,60,80")
    return bands


def band_names(bands: Sequence[int]) -> tuple[str, ...]:
    """Return the name of each band, e.g. 'under 40', '40 to 59' and '60 and over'."""
    inner = (f"{low} to {high - 1}" for low, high in pairwise(bands))
    return (f"under {bands[0]}", *inner, f"{bands[-1]} and over")


def band_codes(age: Ints, bands: Sequence[int]) -> Ints:
    """Return the band of each age, int64 [N]."""
    return np.searchsorted(bands, age, side="right").astype(np.int64)
