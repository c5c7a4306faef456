#!/usr/bin/env python3
"""ImageNet photos as a target of two classes, animal and thing: class folders for the source `folder`.

python scripts/studies/animals.py --raw DIR --out FOLDER
python writers/write_betons.py --dataset folder --name animals --raw FOLDER --out BETONS

DIR holds in1k_256.zip, 1,000 photos named by their wnid, one of each class, in the order of the classes. The first 398
classes are animals. Of ten photos in order, two are for validation and three for the test. bias_transfer_photos.yaml
transfers to these.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from zipfile import ZipFile

from debeton.system.errors import DataError, run_command

PHOTOS, CLASSES, ANIMALS = "in1k_256.zip", 1000, 398
SPLITS = ("train", "val", "test", "train", "train", "test", "train", "val", "train", "test")


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--raw", type=Path, required=True, metavar="DIR", help=f"folder of {PHOTOS}")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="SPLIT/{animal,thing}/*.JPEG go here")
    arguments = parser.parse_args(argv)

    from debeton.system.files import replacing

    packed = arguments.raw / PHOTOS
    if not packed.is_file():
        raise DataError(f"there is no {packed}; expected {CLASSES:,} photos, one of each class of ImageNet")
    with ZipFile(packed) as photos:
        names = sorted(name for name in photos.namelist() if not name.endswith("/"))
        if len(names) != CLASSES:
            raise DataError(f"{packed} holds {len(names):,} files; expected {CLASSES:,}, one of each class of ImageNet")
        for number, name in enumerate(names):
            label = "animal" if number < ANIMALS else "thing"
            with replacing(arguments.out / SPLITS[number % len(SPLITS)] / label / Path(name).name) as (part,):
                part.write_bytes(photos.read(name))


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
