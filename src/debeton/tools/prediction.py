"""Predictions for images that belong to no run: in a folder, listed in a CSV, or stored in a beton."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from debeton.data.beton.image_decoding import BadImage
from debeton.data.beton.reading import open_beton
from debeton.data.beton.writer import encode_as, write_beton
from debeton.data.image_names import IMAGE_SUFFIXES, is_image, listed
from debeton.data.raw.image_files import is_hidden
from debeton.data.raw.tables import read_csv, read_header
from debeton.data.spec import Rows
from debeton.data.views.row_lists import PATH_COLUMNS
from debeton.data.views.view import View
from debeton.nets.trained import FILES_AT_ONCE, Trained
from debeton.system.errors import DataError, UsageError, first_names
from debeton.system.files import temporary_folder
from debeton.train.predictions import probability_columns

OWN_COLUMNS = ("path", "prediction", "confidence")


@dataclass(frozen=True)
class ImageFiles:
    """Image files to classify.

    names: as the output gives them, relative to the folder or the CSV.
    files: where they lie.
    """

    names: Sequence[str]
    files: Sequence[Path]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Predicted:
    """The predictions of some images.

    names: [n], of the images that could be read.
    probabilities: float32 [n, C].
    broken: the reason by name, for the images that could not be read.
    """

    names: Sequence[str]
    probabilities: NDArray[np.float32]
    broken: dict[str, str]


def list_images(path: Path) -> ImageFiles:
    """Return the images in a folder and below it, or those that a CSV lists.

    A folder's images are sorted by name, without hidden ones. UsageError if there is none.
    """
    if path.is_file() and path.suffix.lower() == ".csv":
        header = read_header(path)
        column = next((name for name in PATH_COLUMNS if name in header), None)
        if column is None:
            raise DataError(f"{path} has no column {' or '.join(PATH_COLUMNS)} with the images; it has {header}")
        names = [record[column] for record in read_csv(path, (column,))]
        return ImageFiles(names, [path.parent / name for name in names])
    if path.is_file():
        raise UsageError(f"--images {path} is no folder, no .beton and no .csv")
    if not path.is_dir():
        raise UsageError(f"no folder of images at {path}")
    images = [file for file in path.rglob("*") if is_image(file) and not file.is_dir()]  # also what cannot be read
    found = {file.relative_to(path).as_posix(): file for file in images}
    files = [file for name, file in sorted(found.items(), key=lambda pair: pair[1]) if not is_hidden(name)]
    if not files:
        raise UsageError(f"{path} holds no image; looked for {listed(IMAGE_SUFFIXES)}, also in the folders below it")
    return ImageFiles([file.relative_to(path).as_posix() for file in files], files)


def predict_files(trained: Trained, images: ImageFiles, device: torch.device, batch_size: int) -> Iterator[Predicted]:
    """Yield the predictions of a few hundred files at a time, in their sequence.

    Broken files have none, and are named.

    Each image is stored, decoded, cropped, resized and normalised as the run's beton and its evaluation did.
    """
    options = replace(trained.image_options, skip_bad=True)
    for first in range(0, len(images), FILES_AT_ONCE):
        names = images.names[first : first + FILES_AT_ONCE]
        files = images.files[first : first + FILES_AT_ONCE]
        zeros = np.zeros(len(files), np.int64)
        numbers = [str(k) for k in range(len(files))]  # a CSV may name an image twice
        rows = Rows(zeros, zeros, _reader(files), numbers)
        with temporary_folder("predict") as folder:
            path = Path(folder, "images.beton")
            try:
                skipped = [int(k) for k in write_beton(path, rows, trained.spec, "test", options)["skipped"]]
            except DataError:
                skipped = list(range(len(files)))
                if any(not _problem(trained, file) for file in files):  # not because no image is left
                    raise
            broken = {names[k]: _problem(trained, files[k]) for k in skipped}
            kept = [name for k, name in enumerate(names) if k not in set(skipped)]
            empty = np.empty((0, len(trained.classes)), np.float32)
            view = View.whole(open_beton(path)) if kept else None
            yield Predicted(kept, trained.probabilities(view, device, batch_size) if view else empty, broken)


def _reader(files: Sequence[Path]) -> Callable[[int], Path]:
    """Return the function from a row to its file."""
    return lambda row: files[row]


def _problem(trained: Trained, file: Path) -> str:
    """Return the reason why a file cannot be stored; '' if it can."""
    try:
        encode_as(trained.image_options, file)
    except BadImage as error:
        return str(error)
    return ""


def predict_beton(trained: Trained, path: Path, device: torch.device, batch_size: int) -> Predicted:
    """Return the predictions of every row of a beton."""
    view = View.whole(open_beton(path))
    view = replace(view, spec=replace(view.spec, mean=trained.spec.mean, std=trained.spec.std))
    return Predicted(list(view.beton.extra["path"]), trained.probabilities(view, device, batch_size), {})


def prediction_columns(
    trained: Trained, predicted: Sequence[Predicted], *, all_classes: bool
) -> dict[str, list[str] | NDArray[np.float32]]:
    """Return the columns of the output: path, prediction and confidence, and a column for each class if asked for.

    A class whose name is that of another column has `p_` before it.
    """
    probabilities = np.concatenate([part.probabilities for part in predicted])
    best = probabilities.argmax(1)
    columns: dict[str, list[str] | NDArray[np.float32]] = {
        "path": [name for part in predicted for name in part.names],
        "prediction": [trained.classes[code] for code in best],
        "confidence": probabilities[np.arange(len(best)), best],
    }
    if all_classes:
        for title, values in zip(probability_columns(trained.classes), probabilities.T, strict=True):
            name = title.removeprefix("p_")
            columns[title if name in OWN_COLUMNS else name] = values
    return columns


def describe_broken(broken: dict[str, str], count: int) -> str:
    """Return a sentence on the images that could not be read, of `count` images."""
    shown = first_names([f"{name} {reason}" for name, reason in broken.items()])
    return f"{len(broken)} of {count} images could not be read and have no prediction: {shown}"
