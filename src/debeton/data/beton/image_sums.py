"""The CRC-32 of each stored image. A process compares an image with it when it first reads the image.

A bit that flips on a disk leaves a raw image that loads, and most often a JPEG that decodes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ImageSums:
    """The checksums of the images of one open beton with N rows.

    crcs: the CRC-32 of the bytes of each image as they were written, uint32 [N].
    compared: whether this process has read the image and found these bytes, bool [N].
    name_of: from the number of a row to the path of its image, for messages.
    """

    crcs: NDArray[np.uint32]
    compared: NDArray[np.bool_]
    name_of: Callable[[int], str]

    def is_damaged(self, row: int, data: NDArray[np.uint8]) -> bool:
        """Return whether `data` is not the image of the row as it was written."""
        return zlib.crc32(data.data) != int(self.crcs[row])

    def to_compare(self, rows: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        """Return which of `rows`, [B], have not been compared yet, bool [B]; None if all have."""
        new: NDArray[np.bool_] = ~self.compared[rows]
        return new if new.any() else None

    def damage(self, path: Path, row: int, also: str = "") -> str:
        """Return the sentence about a row of the beton `path` whose bytes are not those that were written.

        also: what else is known of the file, with a comma before it.
        """
        return (
            f"{path}: the image of row {row} is damaged: the bytes of {self.name_of(row)} are not those that were "
            f"written{also}; copy or write the beton again, and list all damage with: debeton write-betons --verify "
            f"{path}"
        )
