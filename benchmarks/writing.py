"""Photos per second into a beton beside stock FFCV's writer, merging beside cp, and the time to open columns."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import register_benchmark
from benchmarks.photos import load_photos
from benchmarks.timing import Result, interleave, rate
from debeton.data.spec import DatasetSpec, Rows
from debeton.system.cores import usable_cores
from debeton.system.errors import UsageError
from debeton.system.seed import make_rng

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 224  # side in pixels of the noise images that are merged
NUM_ATTRIBUTES = 40  # as many as CelebA has
WRITE, FFCV, DECODE, MERGE, COPY, COLUMNS = (
    "debeton write",
    "FFCV write",
    "JPEG decode only",
    "debeton merge",
    "cp and fsync",
    "open with its columns",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark.py writing`."""
    parser.add_argument(
        "--images",
        type=Path,
        help="folder (with the folders below it) or zip of JPEG photos; default: in1k_256.zip in "
        "$DEBETON_DATA or ../shared/data, else 500 photos made from noise",
    )
    parser.add_argument(
        "--num-workers", type=int, default=min(2, usable_cores()), help="threads or processes; default: %(default)s"
    )
    parser.add_argument("--limit", type=int, help="number of photos; default: all")
    parser.add_argument(
        "--merge-megabytes", type=int, default=600, help="size of the two merged betons; default: %(default)s"
    )
    parser.add_argument(
        "--column-rows", type=int, default=200_000, help="rows of the beton that is opened; default: %(default)s"
    )
    parser.add_argument("--folder", type=Path, help="folder on the disk that is measured; default: a temporary folder")


@register_benchmark("writing", "photos/s into a beton against stock FFCV, merging against cp, columns", add_arguments)
def run(arguments: argparse.Namespace) -> Result:
    """Measure every contender once a round. Files come from a warm cache; all that is written reaches the disk.

    WRITE stores the JPEGs as they are and reads them back. FFCV's writer encodes them again and does not read them
    back. DECODE is the least time for storing photos that are all decoded once. COLUMNS is in milliseconds.
    """
    for option in ("num_workers", "merge_megabytes", "column_rows"):
        if getattr(arguments, option) < 1:
            raise UsageError(f"--{option.replace('_', '-')} {getattr(arguments, option)} is too few; use 1 or more")
    photos, workers = load_photos(arguments.images, arguments.limit), arguments.num_workers
    with tempfile.TemporaryDirectory(prefix="debeton-", dir=arguments.folder) as name:
        folder = Path(name)
        halves = _noise_betons(folder, arguments.merge_megabytes)
        megabytes = sum(path.stat().st_size for path in halves) / 1e6
        contenders: dict[str, Callable[[], float]] = {
            WRITE: rate(lambda: _write(folder / "ours.beton", photos.files, workers)),
            FFCV: rate(lambda: _write_with_ffcv(folder / "stock.beton", photos.files, workers)),
            DECODE: rate(lambda: _decode(photos.files, workers)),
            MERGE: lambda: megabytes / _seconds(lambda: _merge(halves)),
            COPY: lambda: megabytes / _seconds(lambda: _copy(halves)),
            COLUMNS: _open_columns(folder / "columns.beton", arguments.column_rows),
        }
        values = interleave(contenders, arguments.rounds)
    units = {WRITE: "images/s", FFCV: "images/s", DECODE: "images/s", MERGE: "MB/s", COPY: "MB/s", COLUMNS: "ms"}
    return Result(
        benchmark="writing",
        values=values,
        units=units,
        ratios={"write_vs_ffcv": (WRITE, FFCV), "write_vs_decode": (WRITE, DECODE), "merge_vs_cp": (MERGE, COPY)},
        settings={
            "images": photos.source,
            "num_workers": workers,
            "merge_megabytes": round(megabytes),
            "column_rows": arguments.column_rows,
            "columns": NUM_ATTRIBUTES + 1,
        },
    )


def _seconds(work: Callable[[], None]) -> float:
    """Return the seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _write(path: Path, files: Sequence[bytes], workers: int) -> int:
    """Write the photos as a beton; return their number."""
    from debeton.data.beton.writer import WriteOptions, write_beton

    zeros = np.zeros(len(files), np.int64)
    rows = Rows(zeros, zeros, files.__getitem__, [f"photo[{k}]" for k in range(len(files))])
    write_beton(path, rows, DatasetSpec("photos", ("photo",)), "train", WriteOptions(num_workers=workers))
    return len(files)


class _Photos:
    """A data set as FFCV's writer needs it."""

    def __init__(self, files: Sequence[bytes]):
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, k: int) -> tuple[Image, int]:
        from PIL import Image

        return Image.open(io.BytesIO(self.files[k])).convert("RGB"), 0


def _write_with_ffcv(path: Path, files: Sequence[bytes], workers: int) -> int:
    """Write the photos with FFCV's writer; return their number."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    fields = {"image": RGBImageField(write_mode="jpg", jpeg_quality=90), "label": IntField()}
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
        DatasetWriter(str(path), fields, num_workers=workers).from_indexed_dataset(_Photos(files))
    _sync(path)
    return len(files)


def _decode(files: Sequence[bytes], workers: int) -> int:
    """Decode the photos; return their number."""
    from PIL import Image

    from debeton.data.beton.turbojpeg import try_decode
    from debeton.system.pool import in_order

    def decode(data: bytes) -> int:
        with Image.open(io.BytesIO(data)) as image:
            return len(try_decode(data, image.height, image.width)[0])

    return sum(1 for _ in in_order(decode, files, workers))


def _noise_betons(folder: Path, megabytes: int) -> list[Path]:
    """Write two betons of raw noise, which no disk compresses, of this size together."""
    from debeton.data.beton.writer import WriteOptions, write_beton

    noise = make_rng("benchmark noise").integers(0, 256, (64, SIDE, SIDE, 3), dtype=np.uint8)
    n = max(1, round(megabytes * 1e6 / 2 / noise[0].nbytes))

    def image(row: int) -> NDArray[np.uint8]:
        rolled: NDArray[np.uint8] = np.roll(noise[row % 64], row // 64)
        return rolled

    zeros, paths = np.zeros(n, np.int64), [folder / "first.beton", folder / "second.beton"]
    for path in paths:
        rows = Rows(zeros, zeros, image, [f"{path.stem}[{row}]" for row in range(n)])
        write_beton(path, rows, DatasetSpec("noise", ("noise",)), "train", WriteOptions(mode="raw"))
    return paths


def _merge(halves: Sequence[Path]) -> None:
    """Merge the two betons."""
    from debeton.data.beton.merge import merge_betons

    merge_betons(halves, halves[0].with_name("merged.beton"), "train")


def _copy(halves: Sequence[Path]) -> None:
    """Copy the two betons with cp."""
    for path in halves:
        target = path.with_suffix(".copy")
        subprocess.run([shutil.which("cp") or "cp", str(path), str(target)], check=True)
        _sync(target)


def _sync(path: Path) -> None:
    """Flush a file to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _open_columns(path: Path, n: int) -> Callable[[], float]:
    """Return a measurement: milliseconds to open a beton and read all its numeric columns as int64."""
    from debeton.data.beton.reading import open_beton
    from debeton.data.beton.writer import WriteOptions, write_beton

    rng, zeros = make_rng("benchmark columns"), np.zeros(n, np.int64)
    columns: dict[str, Any] = {f"attribute_{k:02}": rng.integers(0, 2, n) for k in range(NUM_ATTRIBUTES)}
    columns["identity"] = rng.integers(0, 10_177, n)
    pixel = np.zeros((1, 1, 3), np.uint8)
    rows = Rows(zeros, zeros, lambda row: pixel, [f"img_align/{row:06}.jpg" for row in range(n)], columns)
    write_beton(path, rows, DatasetSpec("faces", ("face",)), "train", WriteOptions(mode="raw"))

    def measure() -> float:
        start = time.perf_counter()
        beton = open_beton(path)
        for name in columns:
            beton.extra[name]
        return 1000 * (time.perf_counter() - start)

    return measure
