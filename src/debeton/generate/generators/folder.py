"""Images that were made elsewhere, CLASS/ATTRIBUTE/*, brought into a set: judged, renamed, listed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from debeton.data.image_names import is_image
from debeton.generate.generators.generator import GENERATORS, Maker, Order
from debeton.generate.prompts import Condition
from debeton.system.errors import DataError, UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `--generator folder`."""
    parser.add_argument("--images", type=Path, help="folder of CLASS/ATTRIBUTE/* (CLASS/* with --blind)")


class Folder:
    """Image k of a condition is its k-th file by name; one that is rejected leaves its place empty."""

    attempts = 1

    def __init__(self, folder: Path | None):
        if folder is None or not folder.is_dir():
            raise UsageError(
                f"--images {folder} is not a folder; --generator folder takes CLASS/ATTRIBUTE/* from there"
            )
        self.folder = folder
        self.identity = {"images": str(folder.resolve())}
        self._files: dict[Condition, list[Path]] = {}

    def files(self, condition: Condition) -> list[Path]:
        """The condition's images, by name."""
        if condition not in self._files:
            place = self.folder / condition.label / (condition.attribute or "")
            found = [path for path in place.glob("*") if is_image(path)]
            self._files[condition] = sorted(found)
        return self._files[condition]

    def sample(self, orders: Sequence[Order]) -> NDArray[np.uint8]:
        """uint8 [N, H, W, 3]; DataError where a condition has too few images, damaged ones or several sizes."""
        images = [self._image(order) for order in orders]
        sizes = sorted({image.shape for image in images})
        if len(sizes) > 1:
            raise DataError(
                f"{self.folder} holds images of {sizes[0][:2]} and {sizes[1][:2]} pixels; a set has one size"
            )
        return np.stack(images)

    def _image(self, order: Order) -> NDArray[np.uint8]:
        files = self.files(order.condition)
        if order.number >= len(files):
            raise DataError(
                f"{self.folder} has {len(files)} images of '{order.condition}' and {order.number + 1} are wanted; "
                "add some, or lower --per-cell"
            )
        try:
            with Image.open(files[order.number]) as image:
                return np.asarray(image.convert("RGB"))
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise DataError(f"{files[order.number]} cannot be read as an image ({error})") from None


GENERATORS.add("folder", Maker(lambda arguments: Folder(arguments.images), add_arguments), "images made elsewhere")
