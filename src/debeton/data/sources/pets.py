"""Oxford-IIIT Pets: 7,349 photos of cats and dogs, 37 breeds.

Parkhi et al. 2012, "Cats and Dogs" (CVPR); CC BY-SA 4.0.

Layout. RAW is the folder around these two, or the folder around torchvision's `oxford-iiit-pet`:
- `images/Abyssinian_100.jpg`. Some files are PNG or GIF under the name .jpg; they are converted.
- `annotations/trainval.txt` and `annotations/test.txt` with the fields image, class id (1 to 37), species (1 cat,
  2 dog), breed id.

Splits: the official trainval, 3,680, is train. The official test has 3,669. A class has the name of its files and is
numbered by class id. The species is a column. Metric: mean per-class accuracy.
"""

from __future__ import annotations

from dataclasses import replace

from debeton.data.raw.fetch import Archive
from debeton.data.raw.image_files import ImageTree
from debeton.data.raw.layout import find_root, listed_rows
from debeton.data.raw.source import Dataset, Request, register_source
from debeton.data.raw.tables import read_fields
from debeton.data.spec import DatasetSpec
from debeton.system.errors import DataError

LISTS = {"train": "trainval.txt", "test": "test.txt"}
SPECIES = ("cat", "dog")
URL = "https://www.robots.ox.ac.uk/~vgg/data/pets/data/"


@register_source(
    "pets",
    "Oxford-IIIT Pets: photos of 37 breeds of cats and dogs, 3,680 + 3,669",
    "--raw DIR --download fetches images.tar.gz and annotations.tar.gz (0.8 GB) from "
    "www.robots.ox.ac.uk/~vgg/data/pets/ into DIR, or unpack both there: DIR/images/*.jpg and "
    "DIR/annotations/trainval.txt",
    archives=(
        Archive("images.tar.gz", URL + "images.tar.gz", "md5:5c4f3ee8e5d25df40f4fd59a7f44e54c", folder="images"),
        Archive(
            "annotations.tar.gz",
            URL + "annotations.tar.gz",
            "md5:95a8c909bbe2e81eed6a22bccdf3f68f",
            folder="annotations",
        ),
    ),
)
def load(request: Request) -> Dataset:
    """Return the splits of the data set, as the module describes them."""
    root = find_root(request, "pets", ("images", "annotations/trainval.txt"), ("oxford-iiit-pet", "pets"))
    lists = {split: root / "annotations" / file for split, file in LISTS.items()}
    lines = {split: read_fields(path, width=4) for split, path in lists.items()}
    classes: dict[int, str] = {}
    for split, rows in lines.items():
        for row, fields in enumerate(rows, start=1):
            _check_line(fields, classes, f"{lists[split]}, row {row}")
    if sorted(classes) != list(range(1, len(classes) + 1)):
        raise DataError(f"{root / 'annotations'}: the class ids are {sorted(classes)}; expected 1 to {len(classes)}")
    splits = {
        split: ([f"images/{fields[0]}.jpg" for fields in rows], [int(fields[1]) - 1 for fields in rows])
        for split, rows in lines.items()
    }
    listed = listed_rows(ImageTree(root), splits, root / "annotations")
    spec = DatasetSpec(
        "pets",
        tuple(classes[number] for number in sorted(classes)),
        metric="mean_per_class",
        label_name="breed",
        columns={"species": SPECIES},
    )
    species = {split: [int(fields[2]) - 1 for fields in rows] for split, rows in lines.items()}
    return Dataset(
        spec,
        {split: replace(rows, columns={"species": species[split]}) for split, rows in listed.items()},
        expected={"train": 3680, "test": 3669},
    )


def _check_line(fields: list[str], classes: dict[int, str], where: str) -> None:
    """Add the class name of a line to `classes`.

    DataError if a number is none or a class has two names.

    fields: of the line.
    classes: class names by class id, as far as they are known.
    where: file and row, for messages.
    """
    name, number, species, _ = fields
    if not number.isdecimal() or species not in ("1", "2") or "_" not in name:
        raise DataError(f"{where}: '{' '.join(fields)}' is not BREED_NUMBER, class id, species (1 or 2), breed id")
    breed = name.rpartition("_")[0].replace("_", " ")
    first_name = classes.setdefault(int(number), breed)
    if first_name != breed:
        raise DataError(
            f"{where}: class {number} is '{breed}' here and '{first_name}' before; fetch the annotations again"
        )
