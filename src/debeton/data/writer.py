"""The safe way to write a beton: verify every row, write X.beton.partial, read it back, rename.

FFCV's DatasetWriter hangs on any exception in a worker, leaves half-written files that open, and orders
images by chance. This one writes the same format from one thread while a pool encodes: errors reach the
caller, memory is bounded by the window, and the same rows give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from debeton.data.beton import (
    SCHEMA_VERSION,
    checksum,
    columns_path,
    group_counts,
    sidecar_path,
)
from debeton.data.decoding import ImageReader
from debeton.data.ffcv_format import (
    ALLOCATION,
    JPG,
    MAX_PAGE,
    METADATA,
    METADATA_START,
    MIN_PAGE,
    RAW,
    WRITE_MODES,
    header_bytes,
)
from debeton.data.images import BadImage, Encoded, encode, stored_pixels
from debeton.data.spec import DatasetSpec, RawImage, Rows
from debeton.errors import DataError, UsageError
from debeton.files import replacing
from debeton.seed import make_rng

T = TypeVar("T")
RESERVED_COLUMNS = ("path", "file", "allow_pickle")  # ours, and numpy.savez's own arguments


@dataclass(frozen=True)
class WriteOptions:
    """How images are stored.

    mode: 'jpg', 'raw', or 'proportion' (a seeded share `compress_probability` as JPEG, the rest raw).
    quality: of JPEG, 1 to 100. max_resolution: longest side in pixels, None keeps the size.
    num_workers: encoding threads, 0 for all cores. skip_bad: leave undecodable rows out instead of stopping.
    """

    mode: str = "jpg"
    quality: int = 90
    max_resolution: int | None = None
    compress_probability: float = 0.5
    num_workers: int = 0
    skip_bad: bool = False

    def __post_init__(self) -> None:
        if self.mode not in WRITE_MODES:
            raise UsageError(f"unknown image mode '{self.mode}'; known: {', '.join(WRITE_MODES)}")
        if not 1 <= self.quality <= 100:
            raise UsageError(f"JPEG quality {self.quality} is out of range; it lies between 1 and 100")
        if self.max_resolution is not None and self.max_resolution < 1:
            raise UsageError(f"max resolution {self.max_resolution} is not a positive number of pixels")
        if self.num_workers < 0:
            raise UsageError(
                f"{self.num_workers} encoding threads are too few; give a positive number, or 0 for all cores"
            )
        if not 0 <= self.compress_probability <= 1:
            raise UsageError(f"compress probability {self.compress_probability} does not lie between 0 and 1")


def _in_order(
    work: Callable[[int], T], rows: Sequence[int], num_workers: int, describe: str, progress: bool
) -> Generator[T, None, None]:
    """work(row) for every row, by a pool of threads, in order and with a bounded window."""
    workers = num_workers or os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool, tqdm(total=len(rows), desc=describe, disable=not progress) as bar:
        pending: deque[Future[T]] = deque()
        try:
            for row in rows:
                pending.append(pool.submit(work, row))
                if len(pending) >= 16 * workers:
                    yield pending.popleft().result()
                    bar.update()
            while pending:
                yield pending.popleft().result()
                bar.update()
        finally:
            for future in pending:
                future.cancel()


def verify_rows(rows: Rows, num_workers: int = 0, progress: bool = False) -> list[tuple[int, str]]:
    """Decode every image; returns (row, what is wrong) of those that cannot be stored."""
    return _verify(rows, None, num_workers, progress)[0]


def _verify(
    rows: Rows, max_resolution: int | None, num_workers: int, progress: bool
) -> tuple[list[tuple[int, str]], int]:
    """The bad rows, and the bytes of the largest image, as RGB pixels or as the file it comes from."""

    def check(row: int) -> tuple[int, str]:
        try:
            raw = rows.image(row)
            return max(stored_pixels(raw, max_resolution).nbytes, _file_bytes(raw)), ""
        except BadImage as error:
            return 0, str(error)

    bad, largest = [], 0
    with closing(_in_order(check, range(len(rows)), num_workers, "verify", progress)) as checked:
        for row, (nbytes, problem) in enumerate(checked):
            largest = max(largest, nbytes)
            if problem:
                bad.append((row, problem))
    return bad, largest


def _file_bytes(raw: RawImage) -> int:
    """Bytes of an encoded image, which may be stored as it is and hold more than its pixels (previews, profiles)."""
    if isinstance(raw, np.ndarray):
        return 0
    return len(raw) if isinstance(raw, bytes) else raw.stat().st_size


def write_beton(
    path: Path,
    rows: Rows,
    spec: DatasetSpec,
    split: str,
    options: WriteOptions = WriteOptions(),
    *,
    dataset_options: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Write rows to `path` with its sidecar and columns; returns the sidecar.

    Nothing appears under a final name unless all of it was written and read back. Raises DataError for an
    empty split, codes out of range, duplicate names, undecodable images (unless skip_bad) and a full disk.
    """
    where = f"{spec.name}/{split}"
    _check_columns(rows, spec, where)
    bad, largest = _verify(rows, options.max_resolution, options.num_workers, progress)
    kept = _kept_rows(rows, bad, where, skip_bad=options.skip_bad)
    page_size = min(MAX_PAGE, max(MIN_PAGE, 1 << (8 * largest - 1).bit_length()))
    if largest > page_size:
        raise DataError(f"{where}: the largest image has {largest} bytes, more than a page; use --max-resolution")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The beton goes last: until then an older one is refused because it disagrees with the new sidecar.
    with replacing(columns_path(path), sidecar_path(path), path) as partials:
        metadata, allocations, crcs = _write_file(partials[2], rows, kept, spec, options, page_size, progress)
        sidecar = {
            "schema_version": SCHEMA_VERSION,
            "dataset": spec.name,
            "split": split,
            "n": len(kept),
            "skipped": [rows.names[row] for row, _ in bad],
            "spec": spec.to_dict(),
            "group_counts": group_counts(spec, metadata["f3"]),
            "image": _describe_images(metadata, options),
            "dataset_options": dict(dataset_options or {}),
            "columns": sorted({"path", *rows.columns}),
            "row_hash": _row_hash(rows, kept),
            "checksum": checksum(metadata, allocations),
            "file_size": partials[2].stat().st_size,
        }
        partials[1].write_text(json.dumps(sidecar, indent=1))
        columns = {"path": rows.names, **rows.columns}
        with partials[0].open("wb") as file:
            np.savez_compressed(file, **{name: np.asarray(v)[kept] for name, v in columns.items()})  # type: ignore[arg-type]
        _read_back(partials[2], metadata, allocations, crcs)
    return sidecar


def _check_columns(rows: Rows, spec: DatasetSpec, where: str) -> None:
    if not len(rows):
        raise DataError(f"{where} has no row; nothing to write")
    columns = {"label": rows.label, "attribute": rows.attribute, "names": rows.names, **rows.columns}
    if rows.source is not None:
        columns["source"] = rows.source
    for name, values in columns.items():
        if len(values) != len(rows):
            raise DataError(f"{where}: column '{name}' has {len(values)} values for {len(rows)} rows")
    for name, values in rows.columns.items():
        if name in RESERVED_COLUMNS:
            raise DataError(f"{where}: a column cannot be called '{name}'; give it another name")
        if np.asarray(values).dtype == object:
            raise DataError(f"{where}: column '{name}' mixes types; every value must be text, or every value a number")
    spec.group(rows.label, rows.attribute)
    seen: set[str] = set()
    for name in rows.names:
        if name in seen:
            raise DataError(f"{where}: the row '{name}' is listed twice; every row needs a name of its own")
        seen.add(name)


def _kept_rows(rows: Rows, bad: list[tuple[int, str]], where: str, *, skip_bad: bool) -> NDArray[np.int64]:
    if bad and not skip_bad:
        shown = "".join(f"\n  row {row}: {rows.names[row]} {problem}" for row, problem in bad[:10])
        more = f"\n  and {len(bad) - 10} more" if len(bad) > 10 else ""
        raise DataError(
            f"{where}: {len(bad)} of {len(rows)} rows cannot be stored; mend the files or pass --skip-bad{shown}{more}"
        )
    kept = np.setdiff1d(np.arange(len(rows)), [row for row, _ in bad])
    if not len(kept):
        raise DataError(f"{where}: none of the {len(rows)} rows can be decoded; nothing to write")
    return kept


def _write_file(
    path: Path, rows: Rows, kept: NDArray[np.int64], spec: DatasetSpec, options: WriteOptions, page_size: int,
    progress: bool,
) -> tuple[NDArray[Any], NDArray[Any], list[int]]:  # fmt: skip
    """Header, columns, pages of images, allocation table; returns the two tables and each image's CRC."""
    metadata = np.zeros(len(kept), METADATA)
    source = np.zeros(len(rows), np.int64) if rows.source is None else rows.source
    group = spec.group(rows.label, rows.attribute)
    values = (rows.label[kept], rows.attribute[kept], group[kept], source[kept], np.arange(len(kept)))
    for k, column in enumerate(values, start=1):
        metadata[f"f{k}"] = column
    as_jpeg = _stored_as_jpeg(len(rows), options, spec.name)
    allocations = np.zeros(len(kept), ALLOCATION)
    allocations["sample_id"] = np.arange(len(kept))
    start = -(-(METADATA_START + metadata.nbytes) // page_size) * page_size
    crcs: list[int] = []

    def encode_row(row: int) -> Encoded:
        return encode(
            rows.image(row), as_jpeg=as_jpeg[row], quality=options.quality, max_resolution=options.max_resolution
        )

    encoding = _in_order(encode_row, [int(row) for row in kept], options.num_workers, "write", progress)
    # Closed here and not by the garbage collector, which might join the pool's threads from one of them.
    with closing(encoding) as encoded_rows, path.open("wb") as file:
        position = start
        for i, encoded in enumerate(encoded_rows):
            if position // page_size != (position + len(encoded.data) - 1) // page_size:
                position = (position // page_size + 1) * page_size  # no sample crosses a page
            file.seek(position)
            file.write(encoded.data)
            mode = JPG if encoded.is_jpeg else RAW
            metadata["f0"][i] = (mode, encoded.width, encoded.height, position)
            allocations[i] = (i, position, len(encoded.data))
            crcs.append(zlib.crc32(encoded.data))
            position += len(encoded.data)
        end = -(-position // page_size) * page_size
        file.seek(end)
        file.write(allocations.tobytes())
        file.seek(0)
        file.write(header_bytes(len(kept), page_size, end))
        file.write(metadata.tobytes())
    return metadata, allocations, crcs


def _stored_as_jpeg(num_rows: int, options: WriteOptions, name: str) -> NDArray[np.bool_]:
    if options.mode != "proportion":
        return np.full(num_rows, options.mode == "jpg")
    return make_rng(name, "proportion").random(num_rows) < options.compress_probability


def _describe_images(metadata: NDArray[Any], options: WriteOptions) -> dict[str, Any]:
    image = metadata["f0"]
    return {
        **{key: value for key, value in asdict(options).items() if key in ("mode", "quality", "max_resolution")},
        "jpeg_share": float(np.mean(image["mode"] == JPG)),
        "height": [int(image["height"].min()), int(image["height"].max())],
        "width": [int(image["width"].min()), int(image["width"].max())],
    }


def _row_hash(rows: Rows, kept: NDArray[np.int64]) -> str:
    """SHA-256 over names, labels and attributes: equal exactly when two betons hold the same rows."""
    digest = hashlib.sha256()
    for row in kept:
        digest.update(f"{rows.names[row]}\t{rows.label[row]}\t{rows.attribute[row]}\n".encode())
    return digest.hexdigest()


def _read_back(path: Path, metadata: NDArray[Any], allocations: NDArray[Any], crcs: Sequence[int]) -> None:
    """Compare every byte on the disk with what was written, and decode every image as the loader will."""
    with path.open("rb") as file:
        for i, (_, position, size) in enumerate(allocations):
            file.seek(int(position))
            if zlib.crc32(file.read(int(size))) != crcs[i]:
                raise DataError(f"{path}: row {i} read back differs from what was written; check the disk")
    image = {name: np.ascontiguousarray(metadata["f0"][name]) for name in ("mode", "height", "width", "data_ptr")}
    heights, widths = image["height"].astype(np.int64), image["width"].astype(np.int64)
    sizes = np.ascontiguousarray(allocations["size"])
    reader = ImageReader(path, image["data_ptr"], sizes, image["mode"], heights, widths, os_cache=False)
    try:
        for start in range(0, len(metadata), 64):
            rows = np.arange(start, min(start + 64, len(metadata)))
            reader.read(rows, reader.whole_boxes(rows), (32, 32))
    finally:
        reader.close()
