"""The file names that count as images.

Every list of image suffixes in the project is one of these. A suffix is compared in lower case.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})
JPEG_SUFFIXES = frozenset({".jpg", ".jpeg"})
ALPHA_SUFFIXES = frozenset({".png", ".webp", ".tif", ".tiff", ".gif"})  # formats that can hold an alpha channel


def is_image(path: Path | str) -> bool:
    """Return True if the name ends like that of an image."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def is_jpeg(path: Path | str) -> bool:
    """Return True if the name ends like that of a JPEG file."""
    return Path(path).suffix.lower() in JPEG_SUFFIXES


def listed(suffixes: Iterable[str]) -> str:
    """Return suffixes in sorted order, as messages list them: '.jpeg, .jpg'."""
    return ", ".join(sorted(suffixes))
