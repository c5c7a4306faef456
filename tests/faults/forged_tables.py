"""Betons whose tables lie, with every checksum of the tables made again, and what becomes of those who read them.

python -m tests.faults.forged_tables SEED COUNT BETON...     prints a line for each: refused, same or other
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np

from debeton.data.beton.columns import write_columns
from debeton.data.beton.ffcv_format import METADATA_START, read_own
from debeton.data.beton.reading import Beton, open_beton
from debeton.data.beton.sidecar import SIDECAR_HASH, checksum, columns_path, sidecar_hash, sidecar_path
from debeton.data.loader.loader import make_loader
from debeton.data.loader.options import LoaderOptions
from debeton.data.views.view import View
from debeton.system.errors import DataError

NUMBERS = (0, 1, 2, 3, 255, 256, 4000, 65535, 1 << 20, 1 << 31, (1 << 31) - 1, 1 << 32, 1 << 62, 1 << 63, (1 << 64) - 1)
FIELDS = ("mode", "width", "height", "data_ptr", "ptr", "size", "sample_id", "sides", "places", "rows")


def copy_beton(path: Path, to: Path) -> Path:
    """Copy the three files of a beton."""
    for name in (lambda beton: beton, sidecar_path, columns_path):
        shutil.copy(name(path), name(to))
    return to


def seal(path: Path, **entries: object) -> None:
    """Change entries of a sidecar and make its hash of itself again."""
    sidecar = {**json.loads(sidecar_path(path).read_text()), **entries}
    sidecar_path(path).write_text(json.dumps({**sidecar, SIDECAR_HASH: sidecar_hash(sidecar)}))


def write_tables(path: Path, metadata: np.ndarray, allocations: np.ndarray, source: Beton) -> None:
    """Write tables into a copy of `source`, and make each checksum that ties files to them again."""
    with path.open("r+b") as file:
        file.seek(METADATA_START)
        file.write(metadata.tobytes())
        file.seek(path.stat().st_size - allocations.nbytes)
        file.write(allocations.tobytes())
    tied = checksum(metadata, allocations)
    seal(path, checksum=tied)
    columns = {name: source.extra[name] for name in source.extra}
    texts = {name: values.tolist() if values.dtype.kind == "T" else values for name, values in columns.items()}
    write_columns(columns_path(path), texts, tied, crcs=source.extra.read_crcs())


def lie(metadata: np.ndarray, allocations: np.ndarray, rng: np.random.Generator) -> str:
    """Change one to three values of the tables at random, as somebody would who means harm; return what was changed."""
    said = []
    for _ in range(int(rng.integers(1, 4))):
        field, row, other = str(rng.choice(FIELDS)), *rng.integers(0, len(metadata), 2).tolist()
        near = int(allocations["size"][row]) + int(rng.integers(-2, 3))
        value = int(rng.choice([*map(str, NUMBERS), str(near), str(int(rng.integers(0, 1 << 40)))]))
        image = metadata["f0"]
        if field in image.dtype.names:
            image[field][row] = value % (1 << 8 * image.dtype[field].itemsize)
            if field == "data_ptr" and rng.random() < 0.8:  # both tables tell the same lie
                allocations["ptr"][row] = image[field][row]
        elif field in allocations.dtype.names:
            allocations[field][row] = value
        elif field == "sides":
            image["width"][row], image["height"][row] = int(image["height"][row]), int(image["width"][row])
        elif field == "places":
            image["data_ptr"][row] = allocations["ptr"][row] = image["data_ptr"][other]
        else:
            image[[row, other]], allocations["sample_id"][row] = image[[other, row]], other
        said.append(f"{field} of row {row} {value}")
    return ", ".join(said)


def shown(path: Path, *, os_cache: bool, verify: bool) -> list[np.ndarray]:
    """Return the images of a beton and its labels, as a loader shows them."""
    beton = open_beton(path)
    options = LoaderOptions(
        decoder="resized", resolution=16, normalise=False, num_workers=1, os_cache=os_cache, verify=verify
    )
    batches = list(make_loader(View.whole(beton), 16, options=options))
    rows = np.concatenate([batch.row.numpy() for batch in batches])
    images = np.concatenate([batch.image.numpy() for batch in batches])
    return [images[np.argsort(rows)], beton.label]


def outcome(path: Path, expected: list[np.ndarray], *, os_cache: bool, verify: bool) -> str:
    """Return what becomes of one who reads a beton: 'refused' in one sentence, 'same' or 'other'."""
    try:
        found = shown(path, os_cache=os_cache, verify=verify)
    except DataError as error:
        if "\n" in str(error) or str(path.parent) not in str(error):
            raise AssertionError(f"this is no sentence about the file: {error}") from error
        return "refused"
    return "same" if all(map(np.array_equal, found, expected)) else "other"


def try_forged(path: Path, folder: Path, seed: int, count: int) -> None:
    """Forge tables `count` times and print, for each, the outcome with and without checksums of the images."""
    source, stored = open_beton(path), read_own(path)
    expected = shown(path, os_cache=True, verify=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        forged = copy_beton(path, folder / "forged.beton")
        metadata, allocations = stored.metadata.copy(), stored.allocations.copy()
        said = lie(metadata, allocations, rng)
        write_tables(forged, metadata, allocations, source)
        os_cache = bool(number % 2)
        outcomes = [outcome(forged, expected, os_cache=os_cache, verify=verify) for verify in (True, False)]
        print(*outcomes, said, flush=True)


if __name__ == "__main__":
    for beton in map(Path, sys.argv[3:]):
        try_forged(beton, beton.parent, int(sys.argv[1]), int(sys.argv[2]))
