"""FGVC-Aircraft: 10,000 photos of aircraft, 100 variants, 100 photos each.

Maji et al. 2013, "Fine-Grained Visual Classification of Aircraft" (arXiv 1306.5151). Images for non-commercial
research only; the photographers keep the copyright.

Layout: `fgvc-aircraft-2013b/data/` with
- `variants.txt`: the classes in order;
- `images_variant_trainval.txt` and `images_variant_test.txt`: '1025794 707-320' a line;
- `images/1025794.jpg`.

RAW is `fgvc-aircraft-2013b` or the folder around it.

Splits: the official trainval, 6,667 photos, is train. The official test has 3,333. Metric: mean per-class accuracy.
The lowest 20 pixel rows of every photo are a banner with the photographer's name. The owners ask to remove it.
The transfer-learning literature that uses this split keeps the banner, and so does this source.
`--crop-banner` removes it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from debeton.data.beton.images import to_rgb
from debeton.data.raw.fetch import Archive
from debeton.data.raw.image_files import ImageTree
from debeton.data.raw.layout import Listed, class_codes, find_root, listed_rows
from debeton.data.raw.source import Dataset, Option, Request, register_source
from debeton.data.raw.tables import read_fields
from debeton.data.spec import DatasetSpec, RawImage, Rows
from debeton.system.errors import DataError

BANNER = 20  # pixel rows
LISTS = {"train": "images_variant_trainval.txt", "test": "images_variant_test.txt"}


@register_source(
    "aircraft",
    "FGVC-Aircraft: photos of 100 aircraft variants, 6,667 + 3,333",
    "--raw DIR --download fetches fgvc-aircraft-2013b.tar.gz (2.75 GB) from "
    "www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/ into DIR, or unpack it there: "
    "DIR/fgvc-aircraft-2013b/data/images/*.jpg",
    (Option("crop-banner", bool, False, "cut off the 20 rows with the photographer's name; images are encoded anew"),),
    (
        Archive(
            "fgvc-aircraft-2013b.tar.gz",
            "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
            folder="fgvc-aircraft-2013b",
        ),
    ),
)
def load(request: Request) -> Dataset:
    root = find_root(request, "aircraft", ("data/variants.txt", "data/images"), ("fgvc-aircraft-2013b",))
    data = root / "data"
    classes = tuple(" ".join(fields) for fields in read_fields(data / "variants.txt"))
    splits = {split: _listed(data / file, classes) for split, file in LISTS.items()}
    rows = listed_rows(ImageTree(root), splits, data)
    if request.options["crop_banner"]:
        rows = {split: _without_banner(part) for split, part in rows.items()}
    return Dataset(
        DatasetSpec("aircraft", classes, metric="mean_per_class", label_name="variant"),
        rows,
        expected={"train": 6667, "test": 3333},
    )


def _listed(path: Path, classes: tuple[str, ...]) -> Listed:
    """Return the files and labels of one list. DataError for a line without a variant or with an unknown one."""
    lines = read_fields(path)
    for number, fields in enumerate(lines, start=1):
        if len(fields) < 2:
            raise DataError(
                f"{path}, row {number}: '{fields[0]}' has no variant; expected an image number and a variant"
            )
    names = [" ".join(fields[1:]) for fields in lines]
    return [f"data/images/{fields[0]}.jpg" for fields in lines], class_codes(names, classes, path)


def _without_banner(rows: Rows) -> Rows:
    """Return the same rows without the lowest 20 pixel rows of each image."""

    def read(row: int) -> RawImage:
        return to_rgb(rows.image(row))[:-BANNER]

    return replace(rows, image=read)
