"""Images that are in two splits, by the bytes of their files or their pixels.

A picture that was encoded anew or resized has other bytes and is not found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np

from debeton.data.beton.image_decoding import BadImage, read_bytes
from debeton.data.left_out import left_out
from debeton.data.spec import RawImage, Rows
from debeton.data.split_names import TEST_PREFIX
from debeton.system.pool import in_order
from debeton.system.regular_files import UnfitFile, require_regular

Key = tuple[int, bytes]  # size in bytes, and a hash; the hash is b'' for a size that no other split has


def shared_images(splits: Mapping[str, Rows], num_workers: int = 0) -> list[str]:
    """Return a sentence for each two splits that hold the same images.

    Two tests may share images, as variants of one test do.
    """
    real = {split: rows for split, rows in splits.items() if split != "synthetic"}
    keys = _keys(real, num_workers)
    rows_of = {split: _row_by_key(values) for split, values in keys.items()}
    lines: list[str] = []
    for first, second in combinations(real, 2):
        if all(split == "test" or split.startswith(TEST_PREFIX) for split in (first, second)):
            continue
        common = [(row, rows_of[second][key]) for key, row in rows_of[first].items() if key in rows_of[second]]
        if common:
            names = [(real[first].names[row], real[second].names[other]) for row, other in sorted(common)]
            pairs = [" = ".join(pair) for pair in names]
            lines += map(str, left_out(f"images that are in {first} and in {second}", pairs))
    return lines


def _row_by_key(keys: list[Key | None]) -> dict[Key, int]:
    """Return the first row of each key. Rows that cannot be read have no key."""
    rows: dict[Key, int] = {}
    for row, key in enumerate(keys):
        if key is not None and key[1]:
            rows.setdefault(key, row)
    return rows


def _keys(splits: Mapping[str, Rows], num_workers: int) -> dict[str, list[Key | None]]:
    """Return the key of every image. A file is read only if a file of another split has its size."""
    keys = {split: list(_measured(rows, num_workers)) for split, rows in splits.items()}
    sizes = {split: {key[0] for key in values if key} for split, values in keys.items()}
    for split, rows in splits.items():
        elsewhere = set().union(*(sizes[other] for other in splits if other != split))
        unread = [row for row, key in enumerate(keys[split]) if key and not key[1] and key[0] in elsewhere]
        with closing(in_order(partial(_read, rows), unread, num_workers, "hash")) as hashed:
            for row, key in zip(unread, hashed, strict=True):
                keys[split][row] = key
    return keys


def _measured(rows: Rows, num_workers: int) -> Iterator[Key | None]:
    """Yield the size of each file, and size and hash of each image that is no file of its own."""

    def measure(row: int) -> Key | None:
        try:
            image = rows.image(row)
            return (require_regular(image), b"") if isinstance(image, Path) else _key(image)
        except (BadImage, UnfitFile, OSError):
            return None  # is missing or damaged, and reported as such

    with closing(in_order(measure, range(len(rows)), num_workers, "measure")) as measured:
        yield from measured


def _read(rows: Rows, row: int) -> Key | None:
    image = rows.image(row)
    try:
        return _key(read_bytes(image) if isinstance(image, Path) else image)
    except (BadImage, OSError):
        return None


def _key(image: RawImage) -> Key:
    if isinstance(image, np.ndarray):
        data = np.ascontiguousarray(image).tobytes()
        return len(data), hashlib.blake2b(data, digest_size=16, person=str(image.shape).encode()[:16]).digest()
    assert isinstance(image, bytes)
    return len(image), hashlib.blake2b(image, digest_size=16).digest()
