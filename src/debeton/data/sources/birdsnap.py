"""Birdsnap 1.1: 49,829 photos of 500 North American bird species.

Berg et al. 2014, "Birdsnap: Large-scale Fine-grained Visual Categorization of Birds" (CVPR). The photos belong to
Flickr users under their own licences.

The owners publish lists and a script, but no photos. Layout, as readme.txt of release 1.1 describes it, `birdsnap/`
with
- `species.txt`: tab-separated id, common, scientific, dir;
- `images.txt`: tab-separated, among others path and species_id;
- `test_images.txt`: a header, then a path a line;
- the photos, `download/images/PATH` (as `get_birdsnap.py` leaves them) or `images/PATH`.

RAW is `birdsnap` or the folder around it.

Splits: `test_images.txt`, 2,443 photos, is test; the 47,386 others are train. Many addresses no longer exist, so some
rows have no file: `--skip-bad` leaves them out. bias-transfer and its predecessors used another division, recalled as
32,677 and 8,171. That is 80 and 20 % of the photos that they could fetch; their lists were not published.
Classes are numbered by species id. Metric: accuracy.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from debeton.data.raw.image_files import ImageTree, MissingDataError
from debeton.data.raw.layout import find_root, listed_rows
from debeton.data.raw.source import Dataset, Request, register_source
from debeton.data.spec import DatasetSpec
from debeton.system.errors import DataError, nearest
from debeton.system.regular_files import MAX_TABLE_BYTES, read_regular_text


@register_source(
    "birdsnap",
    "photos of 500 bird species, 47,386 + 2,443, fewer where photos no longer exist",
    "take birdsnap.tgz from thomasberg.org, unpack it into DIR and run its get_birdsnap.py in DIR/birdsnap, which "
    "fetches the photos into DIR/birdsnap/download/images; --skip-bad leaves out photos that no longer exist",
)
def load(request: Request) -> Dataset:
    """Return the splits of the data set, as the module describes them."""
    root = find_root(request, "birdsnap", ("species.txt", "images.txt", "test_images.txt"), ("birdsnap",))
    folder = "download/images" if (root / "download/images").is_dir() else "images"
    if not (root / folder).is_dir():
        raise MissingDataError(
            f"birdsnap: {root} holds the lists, but no photos in download/images or images; run its get_birdsnap.py"
        )
    species = read_tabs(root / "species.txt", ("id", "common"))
    images = read_tabs(root / "images.txt", ("path", "species_id"))
    test = {path for (path,) in read_tabs(root / "test_images.txt", ("path",))}
    _check_known(test, {path for path, _ in images}, root)
    code = {number: k for k, (number, _) in enumerate(sorted(species, key=lambda row: _number(row[0], root)))}
    classes = tuple(name for _, name in sorted(species, key=lambda row: int(row[0])))
    for path, number in images:
        if number not in code:
            raise DataError(f"{root / 'images.txt'}: species {number} of {path} is not in species.txt")
    splits = {}
    for split, is_test in (("train", False), ("test", True)):
        chosen = [row for row in images if (row[0] in test) == is_test]
        splits[split] = [f"{folder}/{path}" for path, _ in chosen], [code[number] for _, number in chosen]
    rows = listed_rows(ImageTree(root), splits, root / "images.txt")
    # From the owner's readme: 49,829 photos in all, 2,443 of them for testing.
    return Dataset(DatasetSpec("birdsnap", classes, label_name="species"), rows, {"train": 47386, "test": 2443})


def read_tabs(path: Path, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """Read columns of a tab-separated file with a header. Quotes have no meaning in it."""
    try:
        text = read_regular_text(path, "utf-8-sig", MAX_TABLE_BYTES)
        lines = [row for row in csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE) if any(row)]
    except csv.Error as error:
        raise DataError(f"{path} is no table of text with tabs ({error})") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8 ({error})") from None
    header = [name.strip() for name in lines[0]] if lines else []
    absent = [name for name in columns if name not in header]
    if absent:
        raise DataError(f"{path} lacks the column {absent[0]}; its first line has {header}")
    places = [header.index(name) for name in columns]
    for number, row in enumerate(lines[1:], start=2):
        if len(row) <= max(places) or not all(row[k].strip() for k in places):
            raise DataError(f"{path}, line {number}: expected {', '.join(columns)} and found {row[:4]}")
    return [tuple(row[k].strip() for k in places) for row in lines[1:]]


def _number(text: str, root: Path) -> int:
    if not text.isdecimal():
        raise DataError(f"{root / 'species.txt'}: the id '{text}' is not a number")
    return int(text)


def _check_known(test: set[str], images: set[str], root: Path) -> None:
    """Raise DataError if a test photo is not in images.txt."""
    unknown = sorted(test - images)
    if unknown:
        raise DataError(
            f"{root / 'test_images.txt'}: {len(unknown)} of {len(test)} photos are not in images.txt, the first is "
            f"'{unknown[0]}'{nearest(unknown[0], images)} take both lists from the same release"
        )
