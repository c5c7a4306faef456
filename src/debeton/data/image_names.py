"""The file names that count as images.

Every list of image suffixes in the project is one of these. A suffix is compared in lower case.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

# Those of torchvision's ImageFolder, so that a folder holds the same set here and there.
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
# Files that stand beside images and are none. Any other suffix may be an image of a format that is not read.
TEXTS = {".txt", ".md", ".rst", ".pdf", ".html", ".htm", ".xml", ".log", ".sha256", ".py", ".m", ".sh", ".url", ".lnk"}
TABLES = {".csv", ".tsv", ".json", ".jsonl", ".yaml", ".yml", ".ini", ".db", ".mat", ".npy", ".npz", ".pkl", ".pt"}
PACKED = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".part", ".beton"}
OTHER_SUFFIXES = frozenset(TEXTS | TABLES | PACKED)
JPEG_SUFFIXES = frozenset({".jpg", ".jpeg"})
ALPHA_SUFFIXES = frozenset({".png", ".webp", ".tif", ".tiff", ".gif"})  # formats that can hold an alpha channel


def is_image(path: Path | str) -> bool:
    """Return True if the name ends like that of an image."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def is_no_image(path: Path | str) -> bool:
    """Return True if the name ends like that of a text, a table or another file that is no image."""
    return Path(path).suffix.lower() in OTHER_SUFFIXES


def is_jpeg(path: Path | str) -> bool:
    """Return True if the name ends like that of a JPEG file."""
    return Path(path).suffix.lower() in JPEG_SUFFIXES


def listed(suffixes: Iterable[str]) -> str:
    """Return suffixes in sorted order, as messages list them: '.jpeg, .jpg'."""
    return ", ".join(sorted(suffixes))
