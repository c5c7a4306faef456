"""The safe writer of betons: every row is checked and encoded in one pass, read back, then renamed.

FFCV's DatasetWriter hangs on any exception in a worker, leaves half-written files that open, and orders images by
chance. This writer makes the same format. One thread writes while a pool of threads encodes. Errors reach the caller,
memory is limited by the window of the pool, and the same rows give the same bytes.
"""

from __future__ import annotations

import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debeton.data.beton.columns import values_at
from debeton.data.beton.ffcv_format import JPG, MOST_PIXELS, RAW, WRITE_MODES
from debeton.data.beton.file import BetonFile, beton_files, finish_beton
from debeton.data.beton.image_decoding import MAX_PIXELS, BadImage
from debeton.data.beton.images import CHROMAS, RAW_PIXELS, Encoded, check_storable, encode
from debeton.data.beton.row_checks import CheckedRows, check_rows
from debeton.data.beton.treatment import Treatment, count_treatments
from debeton.data.left_out import LeftOut
from debeton.data.spec import DatasetSpec, Ints, RawImage, Rows
from debeton.system.errors import DataError, UsageError
from debeton.system.files import replacing
from debeton.system.pool import in_order
from debeton.system.seed import make_rng

NO_FILE = "the file does not exist"
IMAGE_OPTIONS = ("mode", "quality", "chroma", "max_resolution", "max_pixels", "raw_pixels", "compress_probability")
Problems = list[tuple[int, str]]  # (row, the reason why it cannot be stored)


@dataclass(frozen=True)
class WriteOptions:
    """The way in which images are stored.

    mode: 'auto', 'jpg', 'raw' or 'proportion'. 'auto' keeps JPEG files; it stores other images of up to `raw_pixels`
        raw, and larger ones as JPEG. 'proportion' stores a seeded share `compress_probability` as JPEG, the rest raw.
    quality: of the JPEGs that are made, 1 to 100. None is 90 if the source is a JPEG, and else 95.
    chroma: the resolution of colours in these JPEGs, '4:4:4' (whole) or '4:2:0' (half of each side, as FFCV's writer).
        None is '4:2:0' if the source is a JPEG that has it, and else '4:4:4'.
    max_resolution: the longest side in pixels; None keeps the size.
    max_pixels: the bound on the pixels of an image that is decoded whole.
    raw_pixels: the bound on the pixels of a raw image in mode 'auto'.
    compress_probability: the share of JPEGs in mode 'proportion', 0 to 1.
    num_workers: encoding threads, None for all cores.
    skip_bad: leave out rows that cannot be decoded, instead of stopping.
    shuffle_seed: the rows are stored in a random sequence that depends on this seed, the data set and the split; None
        keeps their sequence.
    """

    mode: str = "auto"
    quality: int | None = None
    chroma: str | None = None
    max_resolution: int | None = None
    max_pixels: int = MAX_PIXELS
    raw_pixels: int = RAW_PIXELS
    compress_probability: float = 0.5
    num_workers: int | None = None
    skip_bad: bool = False
    shuffle_seed: int | None = None

    def __post_init__(self) -> None:
        if self.mode not in WRITE_MODES:
            raise UsageError(f"unknown image mode '{self.mode}'; known: {', '.join(WRITE_MODES)}")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise UsageError(f"JPEG quality {self.quality} is out of range; it lies between 1 and 100")
        if self.chroma is not None and self.chroma not in CHROMAS:
            raise UsageError(f"unknown chroma '{self.chroma}'; known: {', '.join(CHROMAS)}")
        if self.max_resolution is not None and self.max_resolution < 1:
            raise UsageError(f"max resolution {self.max_resolution} is not a positive number of pixels")
        if not 1 <= self.max_pixels <= MOST_PIXELS:
            raise UsageError(f"max pixels {self.max_pixels} does not lie between 1 and {MOST_PIXELS}")
        if self.raw_pixels < 0:
            raise UsageError(f"raw pixels {self.raw_pixels} is a negative number; 0 stores no image raw")
        if self.num_workers is not None and self.num_workers < 0:
            raise UsageError(
                f"{self.num_workers} encoding threads are impossible; give a positive number, or 0 for all cores"
            )
        if not 0 <= self.compress_probability <= 1:
            raise UsageError(f"compress probability {self.compress_probability} does not lie between 0 and 1")

    def of_images(self) -> dict[str, Any]:
        """Return the options that decide the bytes of an image. The sidecar has them as 'image_options'."""
        return {name: getattr(self, name) for name in IMAGE_OPTIONS}


def verify_rows(
    rows: Rows, num_workers: int = 0, progress: bool = False, options: WriteOptions = WriteOptions()
) -> Problems:
    """Decode every image. Return (row, problem) of those that cannot be stored with these options, in row order."""
    absent = _absent_rows(rows)

    def problem_of(row: int) -> str:
        if row in absent:
            return NO_FILE
        try:
            check_storable(rows.image(row), options.max_resolution, options.max_pixels)
        except BadImage as error:
            return str(error)
        return ""

    with closing(in_order(problem_of, range(len(rows)), num_workers, "verify", progress=progress)) as problems:
        return [(row, problem) for row, problem in enumerate(problems) if problem]


def write_beton(
    path: Path,
    rows: Rows,
    spec: DatasetSpec,
    split: str,
    options: WriteOptions = WriteOptions(),
    *,
    dataset_options: Mapping[str, Any] | None = None,
    left_out: Sequence[LeftOut] = (),
    progress: bool = False,
) -> dict[str, Any]:
    """Write rows to `path` with sidecar and columns, and return the sidecar.

    Nothing appears under a final name unless all of it was written and read back.

    path: the beton to write.
    rows: the rows.
    spec: the data set.
    split: the name of the split.
    options: the way in which images are stored.
    dataset_options: the options of the data set, for the sidecar.
    left_out: what the data set leaves out of its folder, for the sidecar.
    progress: whether to draw progress bars.

    DataError in these cases:
    - the split is empty, a code is out of range, or two rows have one name;
    - a file is missing or an image cannot be decoded (all are listed; with skip_bad they are left out);
    - the disk is full.
    """
    where = f"{spec.name}/{split}"
    checked = check_rows(rows, spec, where)  # before anything is encoded
    absent = _absent_rows(rows)
    stored = row_sequence(len(rows), absent, options.shuffle_seed, where)
    images = ImageStream(
        spec.name, split, len(rows), stored, stored.tolist(), rows.image, rows.names.__getitem__, sorted(absent)
    )
    entries = {
        "dataset_options": dict(dataset_options or {}),
        "left_out": [entry.to_dict() for entry in left_out],
    }
    return write_stream(path, images, lambda: checked, options, entries, progress=progress)


@dataclass(frozen=True)
class ImageStream:
    """The images of a split, in the sequence in which they are stored.

    name, split: of the data set.
    num_rows: the number of all rows, N.
    rows: the numbers of the rows to store, in their sequence.
    items: an item for each of `rows`, read one after the other.
    image: item -> RawImage; called from several threads. BadImage if there is no image.
    row_name: row number -> the name of the row in messages.
    absent: the rows whose file does not exist, sorted.
    """

    name: str
    split: str
    num_rows: int
    rows: Ints
    items: Iterable[Any]
    image: Callable[[Any], RawImage]
    row_name: Callable[[int], str]
    absent: Sequence[int] = ()


def write_stream(
    path: Path,
    images: ImageStream,
    describe: Callable[[], CheckedRows],
    options: WriteOptions,
    entries: Mapping[str, Any],
    *,
    progress: bool = False,
) -> dict[str, Any]:
    """Write images and then the rows that they belong to, and return the sidecar.

    path: the beton to write.
    images: the images.
    describe: returns the rows, labels included. It is called when all images are read.
    options: the way in which images are stored.
    entries: more entries of the sidecar.
    progress: whether to draw progress bars.
    DataError as `write_beton`.
    """
    bad: Problems = [(row, NO_FILE) for row in images.absent]
    _raise_if_bad(bad, images, skip_bad=options.skip_bad)  # before anything is encoded
    path = Path(path)
    with replacing(*beton_files(path)) as partials:
        with BetonFile(partials[-1], len(images.rows)) as file:
            stored, undecodable, treatments = _write_images(file, images, options, progress)
            bad = sorted(bad + undecodable)
            _raise_if_bad(bad, images, skip_bad=options.skip_bad)
            checked = describe()
            rows, spec = checked.rows, checked.spec
            source = np.zeros(len(rows), np.int64) if rows.source is None else rows.source
            tables = file.write_tables(spec, rows.label[stored], rows.attribute[stored], source[stored])
        return finish_beton(
            partials,
            tables,
            spec,
            images.split,
            [rows.names[row] for row in stored],
            {name: values_at(column, stored) for name, column in checked.columns.items()},
            {
                "shuffle_seed": options.shuffle_seed,
                "skipped": [rows.names[row] for row, _ in bad],
                "image_options": options.of_images(),
                "image": {
                    "mode": options.mode,
                    "max_resolution": options.max_resolution,
                    "stored": count_treatments(treatments),
                },
                **entries,
            },
            progress=progress,
        )


def row_sequence(num_rows: int, absent: Set[int], shuffle_seed: int | None, where: str) -> Ints:
    """Return the rows that are there, in the sequence in which they are stored.

    A missing file does not change the sequence of the other rows.
    """
    order = np.arange(num_rows) if shuffle_seed is None else make_rng(shuffle_seed, "rows", where).permutation(num_rows)
    return order[[row not in absent for row in order.tolist()]]


def _absent_rows(rows: Rows) -> set[int]:
    return set() if rows.absent is None else set(rows.absent().tolist())


def _write_images(
    file: BetonFile, images: ImageStream, options: WriteOptions, progress: bool
) -> tuple[Ints, Problems, Counter[Treatment]]:
    """Append the images. Return the rows that were stored, those that cannot be, and the treatments.

    If a row is bad and skip_bad is off, the remaining rows are still checked, so that all bad ones can be listed.
    """
    as_jpeg = _stored_as_jpeg(images.num_rows, options, images.name)
    stored, bad = array("q"), Problems()
    treatments: Counter[Treatment] = Counter()
    candidates = images.rows.tolist()

    def encode_item(item: tuple[int, Any]) -> tuple[Encoded, int] | str:
        row, source = item
        try:
            image = encode_as(options, images.image(source), None if as_jpeg is None else bool(as_jpeg[row]))
        except BadImage as error:
            return str(error)
        return image, zlib.crc32(image.data)

    items = zip(candidates, images.items, strict=True)
    results = in_order(encode_item, items, options.num_workers, "write", progress=progress, total=len(candidates))
    with closing(results):
        for row, result in zip(candidates, results, strict=True):
            if isinstance(result, str):
                bad.append((row, result))
            elif options.skip_bad or not bad:
                image, crc = result
                file.append(image.data, image.height, image.width, JPG if image.is_jpeg else RAW, crc)
                stored.append(row)
                treatments[image.treatment] += 1
    return np.array(stored, np.int64), bad, treatments


def encode_as(options: WriteOptions, raw: RawImage, as_jpeg: bool | None = None) -> Encoded:
    """Return the bytes of an image that a beton with these options stores. BadImage if it cannot be stored.

    as_jpeg: store a JPEG, or raw pixels; None: as the image and options.raw_pixels decide.
    """
    return encode(
        raw,
        as_jpeg=as_jpeg,
        quality=options.quality,
        chroma=options.chroma,
        max_resolution=options.max_resolution,
        max_pixels=options.max_pixels,
        raw_pixels=options.raw_pixels,
    )


def _stored_as_jpeg(num_rows: int, options: WriteOptions, name: str) -> NDArray[np.bool_] | None:
    """Return for each row if it is stored as JPEG, bool [N]; None if that depends on the image."""
    if options.mode == "auto":
        return None
    if options.mode != "proportion":
        return np.full(num_rows, options.mode == "jpg")
    return make_rng(name, "proportion").random(num_rows) < options.compress_probability


def _raise_if_bad(bad: Problems, images: ImageStream, *, skip_bad: bool) -> None:
    """Raise DataError for bad rows unless they may be skipped, and if no row is left."""
    where = f"{images.name}/{images.split}"
    if bad and not skip_bad:
        shown = "".join(f"\n  row {row}: {images.row_name(row)} {problem}" for row, problem in bad[:10])
        more = f"\n  and {len(bad) - 10} more" if len(bad) > 10 else ""
        raise DataError(
            f"{where}: {len(bad)} of {images.num_rows} rows cannot be stored; repair the files or pass --skip-bad"
            f"{shown}{more}"
        )
    if len(bad) == images.num_rows:
        raise DataError(f"{where}: none of the {images.num_rows} rows can be decoded; nothing to write")
