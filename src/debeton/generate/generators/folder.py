"""Generator that takes images made elsewhere, CLASS/ATTRIBUTE/*, into an image set."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from debeton.data.beton.image_decoding import BadImage, Limits, open_image, read_bytes, scale_in_eighths
from debeton.data.image_names import is_image
from debeton.data.raw.synthetic_images import NO_ATTRIBUTE, folder_names
from debeton.generate.generators.generator import GENERATORS, GeneratorFactory, ImageRequest
from debeton.generate.prompts import Condition
from debeton.system.errors import DataError, UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `--generator folder`."""
    parser.add_argument(
        "--images", type=Path, help="folder with images CLASS/ATTRIBUTE/* (with --blind: CLASS/*) that exist already"
    )


class FolderGenerator:
    """Generator whose image number k of a condition is the k-th file of its folder, by name.

    An image that the filter rejects leaves its place in the set empty.
    """

    attempts = 1

    def __init__(self, folder: Path | None):
        if folder is None or not folder.is_dir():
            raise UsageError(
                f"--images {folder} is not a folder; --generator folder needs a folder with images CLASS/ATTRIBUTE/*"
            )
        self.folder = folder
        self.identity = {"images": str(folder.resolve()), "files": _files_hash(folder)}
        self._files: dict[Condition, list[Path]] = {}

    def files(self, condition: Condition) -> list[Path]:
        """Return the image files of a condition, sorted by name."""
        if condition not in self._files:
            attribute = condition.attribute
            below = [""] if attribute is None else folder_names(attribute, (NO_ATTRIBUTE,))
            folders = [self.folder / label / name for label in folder_names(condition.label) for name in below]
            paths = [path for folder in folders for path in folder.glob("*") if is_image(path)]
            self._files[condition] = sorted(paths)
        return self._files[condition]

    def sample(self, requests: Sequence[ImageRequest]) -> NDArray[np.uint8]:
        """Return images, uint8 [N, H, W, 3].

        DataError: a condition has too few images, an image is damaged, or the images differ in size.
        """
        images = [self._image(request) for request in requests]
        sizes = sorted({image.shape for image in images})
        if len(sizes) > 1:
            raise DataError(
                f"{self.folder} holds images of {sizes[0][:2]} and {sizes[1][:2]} pixels; a set has one size: resize "
                "the images first"
            )
        return np.stack(images)

    def _image(self, request: ImageRequest) -> NDArray[np.uint8]:
        files = self.files(request.condition)
        if request.number >= len(files):
            raise DataError(
                f"{self.folder} has {len(files)} images of '{request.condition}' and {request.number + 1} are wanted; "
                "add some, or lower --per-cell"
            )
        try:
            with open_image(read_bytes(files[request.number])) as image:
                scale_in_eighths(image, Limits())  # refuses too many pixels
                return np.asarray(image.convert("RGB"))
        except (OSError, BadImage) as error:
            raise DataError(f"{files[request.number]} cannot be read as an image ({error})") from None


def _files_hash(folder: Path) -> str:
    """Return 16 hex digits of the names and sizes of all images, which decide the number of each."""
    files = sorted(path for path in folder.rglob("*") if is_image(path))
    text = "".join(f"{path.relative_to(folder)} {path.stat().st_size}\n" for path in files)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def make(arguments: argparse.Namespace) -> FolderGenerator:
    """Build the generator from the parsed options."""
    return FolderGenerator(arguments.images)


GENERATORS.add("folder", GeneratorFactory(make, add_arguments), "images made elsewhere")
