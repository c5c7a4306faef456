"""JPEG photos for the measurements: from a folder or zip, or made from noise with a photo's spectrum."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from debeton.data.beton.images import encode_jpeg
from debeton.data.image_names import JPEG_SUFFIXES, is_jpeg, listed
from debeton.system.errors import DataError, UsageError
from debeton.system.seed import make_rng

USUAL_NAME = "in1k_256.zip"


@dataclass(frozen=True)
class Photos:
    """Encoded JPEG files in memory.

    source: a few words on where they come from (no folder of this machine).
    """

    files: list[bytes]
    source: str


def load_photos(images: Path | None, limit: int | None = None) -> Photos:
    """Read the first `limit` JPEG files, by name, below the folder `images` or in a zip.

    None takes `in1k_256.zip` in $DEBETON_DATA, else in ../shared/data beside the repository. If there is none, photos
    are made from noise.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit} leaves no photo; use 1 or more")
    place = images or _usual_place()
    if place is None:
        count = limit or 500
        return Photos([make_photo(k) for k in range(count)], f"{count} generated, seeded noise with a 1/f spectrum")
    if not place.exists():
        raise FileNotFoundError(f"no photos at {place}; --images takes a folder or a zip of JPEG files")
    files = list(_files_of(place, limit))
    if not files:
        raise DataError(f"{place} holds no file that ends in {listed(JPEG_SUFFIXES)}; give a folder or a zip of photos")
    return Photos(files, f"{len(files)} of {place.name}")


def _usual_place() -> Path | None:
    """Return the path of the usual zip of photos, or None if it does not exist."""
    repository = Path(__file__).resolve().parents[1]
    folder = os.environ.get("DEBETON_DATA") or repository.parent / "shared" / "data"
    place = Path(folder) / USUAL_NAME
    return place if place.exists() else None


def _files_of(place: Path, limit: int | None) -> Iterator[bytes]:
    """Yield the bytes of JPEG files, by name."""
    if place.is_dir():
        for path in sorted(p for p in place.rglob("*") if is_jpeg(p))[:limit]:
            yield path.read_bytes()
        return
    try:
        with zipfile.ZipFile(place) as archive:
            for name in sorted(n for n in archive.namelist() if is_jpeg(n))[:limit]:
                yield archive.read(name)
    except zipfile.BadZipFile as error:
        raise DataError(f"{place} is not a readable zip file ({error}); give a folder or a zip of photos") from error


def make_photo(k: int) -> bytes:
    """Make photo number k: short side 256, long side 256 to 400 pixels, amplitude 1/f, JPEG of quality 90.

    The phases are random. The channels share most of theirs, as the colours of a photo do.
    """
    rng = make_rng("benchmark photo", k)
    size = [256, int(rng.integers(256, 401))]
    height, width = size if rng.random() < 0.3 else size[::-1]
    grey, colour = _one_over_f(rng, height, width, 1), _one_over_f(rng, height, width, 3)
    pixels = 118 + 48 * grey + 16 * colour
    return encode_jpeg(np.clip(pixels, 0, 255).astype(np.uint8), 90)


def _one_over_f(rng: np.random.Generator, height: int, width: int, channels: int) -> NDArray[np.float64]:
    """Return noise [height, width, channels] of mean 0 and deviation 1 whose amplitude falls as 1/frequency."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf  # no mean
    spectrum = np.fft.rfft2(rng.standard_normal((channels, height, width))) / frequency
    noise = np.fft.irfft2(spectrum, s=(height, width))
    noise /= noise.std(axis=(1, 2), keepdims=True)
    return noise.transpose(1, 2, 0)
