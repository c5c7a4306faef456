"""Corrupted CIFAR-10: ten kinds of photos, each nearly always with its own corruption, RGB 32x32, 10 x 10 groups.

Nam et al. 2020, "Learning from Failure" (LfF, arXiv 2007.02561), github.com/alinlab/LfF; the corruptions are those of
Hendrycks and Dietterich 2019 (arXiv 1903.12261). Lee et al. 2021 (LDD, arXiv 2107.01372) release one such set,
github.com/kakaoenterprise/Learning-Debiased-Disentangled. CIFAR-10 has no formal licence.

Three forms (`--form`; `auto` reads what lies in RAW, else it makes the set):
- ldd: `cifar10c/0.5pct|1pct|2pct|5pct/align|conflict/CLASS/*.png`, `valid/` in or beside these, `test/CLASS/*.png`; or
  `cifar10c.zip`. File names end in _CLASS_CORRUPTION. The owners give no names of the ten corruptions.
- lff: `CorruptedCIFAR10-TypeT-SkewedS-SeverityN/train|valid/images.npy, attrs.npy`, as LfF's make_dataset.py writes it.
- made: of `--base`, by LfF's rule for who gets which corruption (raw/skew.py, raw/cifar_corruptions.py).

Type 0 has weather and digital corruptions, type 1 noise and blur, with 'original' for trucks. Severities are 1 to 5 as
Hendrycks and Dietterich number them. LfF counts them from 0, so the severity 5 lies in its folder Severity4.
Frost is a photo of frost, one of five that lie in the repository of Hendrycks: `RAW/frost/frost1.png` to `frost5.jpg`.
Without them, `--frost drawn` makes an ice pattern instead. LDD and later papers report the accuracy on test, where
every corruption is equally frequent in every class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from debeton.data.beton.image_decoding import BadImage, read_bytes
from debeton.data.beton.images import to_rgb
from debeton.data.raw import cifar_corruptions as cc
from debeton.data.raw.fetch import Archive
from debeton.data.raw.image_files import MissingDataError
from debeton.data.raw.layout import known_choice
from debeton.data.raw.parts import Change, Pixels
from debeton.data.raw.skew import BiasedSet, load_biased, skew_options
from debeton.data.raw.source import Dataset, Option, Request, register_source
from debeton.data.sources.cifar import CIFAR10_CLASSES
from debeton.data.spec import CIFAR_MEAN, CIFAR_STD, DatasetSpec, Ints, Rows
from debeton.system.errors import DataError, UsageError
from debeton.system.seed import make_rng

FROST = "frost"  # takes its function when the photos are read
TYPES: Mapping[str, Mapping[str, cc.Corruption]] = {
    "0": {
        "snow": cc.snow,
        FROST: cc.drawn_frost,
        "fog": cc.fog,
        "brightness": cc.brightness,
        "contrast": cc.contrast,
        "spatter": cc.spatter,
        "elastic": cc.elastic,
        "jpeg": cc.jpeg,
        "pixelate": cc.pixelated,
        "saturate": cc.saturate,
    },
    "1": {
        "gaussian noise": cc.gaussian_noise,
        "shot noise": cc.shot_noise,
        "impulse noise": cc.impulse_noise,
        "speckle noise": cc.speckle_noise,
        "gaussian blur": cc.gaussian_blur,
        "defocus blur": cc.defocus_blur,
        "glass blur": cc.glass_blur,
        "motion blur": cc.motion_blur,
        "zoom blur": cc.zoom_blur,
        "original": cc.original,
    },
}
PHOTO_SCALE = 0.2  # the photos are shrunk before a piece is cut out
# The address in the repository of Hendrycks, and the hashes of the files there.
ADDRESS = "https://raw.githubusercontent.com/hendrycks/robustness/master/ImageNet-C/create_c"
PHOTOS = {
    "frost1.png": "6ead634ace1f366d77e87078b465863c",
    "frost2.png": "98f0d2b1d74a048d3bc9c7ecfd886939",
    "frost3.png": "b3ed8eb147824261888e730f916c0d8b",
    "frost4.jpg": "d70b9d6aa0b1fe7bd8133b113787e078",
    "frost5.jpg": "50984ae2c871b7df2c28f1d71ca460a0",
}


@register_source(
    "corrupted_cifar10",
    "ten kinds of photos, each with its own corruption, 10 x 10 groups, RGB 32x32 (Learning from Failure)",
    "it is made of CIFAR-10 in RAW and of RAW/frost/frost1.png to frost5.jpg (--download fetches both); or get LDD's "
    "cifar10c from the Google Drive folder that https://github.com/kakaoenterprise/Learning-Debiased-Disentangled "
    "links, by hand: RAW/cifar10c/0.5pct/align/0/*.png, ..., RAW/cifar10c/test/0/*.png",
    (
        *skew_options("cifar10"),
        Option("corruption-type", str, "0", "made and lff: 0, weather and digital, or 1, noise and blur"),
        Option("corruption-severity", int, 5, "made and lff: 1 to 5; LfF's folder Severity4 has 5"),
        Option("frost", str, "photos", "made: the published photos of frost, or drawn: a pattern made of noise"),
    ),
    archives=tuple(Archive(name, f"{ADDRESS}/{name}", f"md5:{code}", into=FROST) for name, code in PHOTOS.items()),
)
def load(request: Request) -> Dataset:
    """Return the splits of the data set, as the module describes them."""
    severity, kind = request.options["corruption_severity"], request.options["corruption_type"].removeprefix("type")
    if not 1 <= severity <= cc.SEVERITIES:
        raise UsageError(f"--corruption-severity {severity} is out of range; it is 1 to {cc.SEVERITIES}")
    known_choice("corruption-type", kind, tuple(TYPES))
    known_choice("frost", request.options["frost"], ("photos", "drawn"))
    spec = DatasetSpec(
        "corrupted_cifar10",
        CIFAR10_CLASSES,
        tuple(TYPES[kind]),
        aligned=tuple((code,) for code in range(10)),
        mean=CIFAR_MEAN,
        std=CIFAR_STD,
        label_name="object",
        attribute_name="corruption",
    )
    return load_biased(
        request,
        BiasedSet(
            base="cifar10",
            spec=spec,
            ldd_spec=replace(spec, attributes=tuple(f"corruption {code}" for code in range(10))),
            ldd_folder="cifar10c",
            lff_prefix=f"CorruptedCIFAR10-Type{kind}-Skewed",
            lff_folder=lambda _, skew: f"CorruptedCIFAR10-Type{kind}-Skewed{skew}-Severity{severity - 1}",
            change=_corrupting,
            ldd_sizes=LDD_SIZES,
            base_sizes={"train": 50000, "test": 10000},
        ),
    )


# Rows of train by conflict percent: 228, 442, 887 and 2,242 of them are bias-conflicting, as papers repeat.
LDD_SIZES = {"0.5": 45060, "1": 44969, "2": 45032, "5": 45062, "test": 10000}


def _corrupting(request: Request, base: Rows, numbers: Ints, attribute: Ints) -> Change:
    kind, severity = request.options["corruption_type"].removeprefix("type"), request.options["corruption_severity"]
    corruptions = dict(TYPES[kind])
    if FROST in corruptions and request.options["frost"] == "photos":
        corruptions[FROST] = cc.frost(_photos(request.raw))
    in_order = list(corruptions.items())

    def change(pixels: Pixels, row: int) -> Pixels:
        if pixels.shape != (cc.SIDE, cc.SIDE, 3):
            raise DataError(f"corrupted_cifar10: {base.names[numbers[row]]} is no image of 32x32 pixels")
        name, corruption = in_order[attribute[row]]
        rng = make_rng(request.options["data_seed"], "corrupted_cifar10", name, base.names[numbers[row]])
        return cc.corrupt(pixels, corruption, severity, rng)

    return change


def _photos(raw: Path | None) -> list[Pixels]:
    """Return the photos of frost, shrunk, from RAW/frost or RAW."""
    folders = [] if raw is None else [raw / FROST, raw] if raw.is_dir() else [raw.parent / FROST]
    folder = next((place for place in folders if all((place / name).is_file() for name in PHOTOS)), None)
    if folder is None:
        raise MissingDataError(
            f"corrupted_cifar10: there is no {', '.join(PHOTOS)} in {folders[0] if folders else 'RAW/frost'}; take "
            f"them from {ADDRESS}, or --download; --frost drawn needs none, and --corruption-type 1 has no frost"
        )
    photos = []
    for name in PHOTOS:
        try:
            content = read_bytes(folder / name)
            to_rgb(content)  # in bounds, and of a known format
        except BadImage as error:
            raise DataError(f"{folder / name} cannot be decoded ({error}); fetch it again") from None
        photo = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        if photo is None:
            raise DataError(f"{folder / name} cannot be decoded; fetch it again")
        small = cv2.resize(photo, (0, 0), fx=PHOTO_SCALE, fy=PHOTO_SCALE)
        if min(small.shape[:2]) <= cc.SIDE:
            raise DataError(f"{folder / name} is smaller than {cc.SIDE / PHOTO_SCALE:.0f} pixels; fetch it again")
        photos.append(np.ascontiguousarray(small[:, :, ::-1], np.uint8))
    return photos
