"""CIFAR-10 and CIFAR-100: 50,000 training and 10,000 test photos, RGB, 32x32, 10 or 100 classes.

Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images"; no formal licence.

Layouts. RAW is the thing itself or the folder around it:
- The official Python batches, `cifar-10-batches-py/` (`cifar-100-python/`), or their `.tar.gz`, not unpacked.
- `train|test/CLASS/*.png` (or jpg) in a folder or in a .zip such as `cifar10_jpeg.zip`, in sorted order. Images are
  read when they are asked for. If the folders have the official names of CIFAR-10, a class has its official number,
  else its place in sorted order (for CIFAR-100 that is the official order).
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from debeton.data.raw.fetch import Archive
from debeton.data.raw.image_files import ImageTree, MissingDataError, array_rows, file_rows
from debeton.data.raw.pickles import load_pickle
from debeton.data.raw.published import check_published
from debeton.data.raw.source import SOURCES, Dataset, Request, register_source
from debeton.data.spec import CIFAR100_MEAN, CIFAR100_STD, CIFAR_MEAN, CIFAR_STD, DatasetSpec, Rows
from debeton.system.errors import DataError
from debeton.system.packed_files import open_tar
from debeton.system.regular_files import MAX_NOTE_BYTES, read_regular

SPLITS = ("train", "test")
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
WHERE = "--raw DIR --download fetches the official archive into DIR, or put it, or train|test/CLASS/*.png, there"


@dataclass(frozen=True)
class Variant:
    """The differences between the two sets: the files of the batches and the names of their keys.

    name: as on the command line.
    folder, archive: the official folder and the official archive.
    batches: file names by split.
    meta: the file that holds the class names.
    names, labels: the keys of the class names and of the labels.
    num_classes: the number of classes.
    rows: published images by split. md5: the hashes of the published files.
    mean, std: per channel, of images in [0, 1].
    """

    name: str
    folder: str
    archive: str
    batches: dict[str, tuple[str, ...]]
    meta: str
    names: bytes
    labels: bytes
    num_classes: int
    rows: Mapping[str, int]
    md5: Mapping[str, str]
    mean: tuple[float, ...]
    std: tuple[float, ...]


CIFAR10 = Variant(
    name="cifar10",
    folder="cifar-10-batches-py",
    archive="cifar-10-python.tar.gz",
    batches={"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
    meta="batches.meta",
    names=b"label_names",
    labels=b"labels",
    num_classes=10,
    rows={"train": 50_000, "test": 10_000},
    md5={
        "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    },
    mean=CIFAR_MEAN,
    std=CIFAR_STD,
)
CIFAR100 = Variant(
    name="cifar100",
    folder="cifar-100-python",
    archive="cifar-100-python.tar.gz",
    batches={"train": ("train",), "test": ("test",)},
    meta="meta",
    names=b"fine_label_names",
    labels=b"fine_labels",
    num_classes=100,
    rows={"train": 50_000, "test": 10_000},
    md5={
        "meta": "7973b15100ade9c7d40fb424638fde48",
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    },
    mean=CIFAR100_MEAN,
    std=CIFAR100_STD,
)


def _archives(variant: Variant, md5: str) -> tuple[Archive, ...]:
    url = f"https://www.cs.toronto.edu/~kriz/{variant.archive}"
    return (Archive(variant.archive, url, f"md5:{md5}", folder=variant.folder),)


# Addresses and hashes as in torchvision.datasets.cifar.
CIFAR10_ARCHIVES = _archives(CIFAR10, "c58f30108f718f92721af3b95e74349a")
CIFAR100_ARCHIVES = _archives(CIFAR100, "eb9058c3a382ffc7106e4002c42a8d85")


@register_source("cifar10", "photos of 10 classes, 50,000 + 10,000 RGB 32x32", WHERE, archives=CIFAR10_ARCHIVES)
def load_cifar10(request: Request) -> Dataset:
    return _load(CIFAR10, request)


@register_source("cifar100", "photos of 100 classes, 50,000 + 10,000 RGB 32x32", WHERE, archives=CIFAR100_ARCHIVES)
def load_cifar100(request: Request) -> Dataset:
    return _load(CIFAR100, request)


def _load(variant: Variant, request: Request) -> Dataset:
    if request.raw is None:
        raise MissingDataError(f"{variant.name} needs --raw; {WHERE}")
    place = _find(variant, request.raw)
    if place is None:
        raise MissingDataError(
            f"{variant.name}: neither {variant.folder}/, {variant.archive}, train/CLASS/*.png nor a zip of these "
            f"in {request.raw}; {SOURCES.get(variant.name).where}"
        )
    if place.suffix == ".zip" or (place / "train").is_dir():
        return _read_tree(variant, place)
    if place.is_dir():
        return _read_folder(variant, place)
    return _read_archive(variant, place)


def _find(variant: Variant, raw: Path) -> Path | None:
    """Return the folder of batches, their archive, or the folder or zip of images; None if there is none."""
    if raw.is_file():
        return raw if raw.name.endswith((".zip", ".tar.gz", ".tgz")) else None
    batches = (raw / variant.folder, raw)
    zips = sorted(raw.glob(f"{variant.name}*.zip"))
    candidates = [folder for folder in batches if (folder / variant.batches["train"][0]).is_file()]
    candidates += [raw / variant.archive] if (raw / variant.archive).is_file() else []
    candidates += [folder for folder in (raw, raw / variant.name) if all((folder / s).is_dir() for s in SPLITS)]
    return next(iter(candidates + zips), None)


def _read_folder(variant: Variant, folder: Path) -> Dataset:
    """Return the data set from the official batches in a folder, which have no checksums of their own."""

    def read(name: str) -> bytes:
        return read_regular(folder / name, MAX_NOTE_BYTES * 4)

    dataset = _read_batches(variant, read, folder)
    if {split: len(rows) for split, rows in dataset.splits.items()} == variant.rows:
        for name, md5 in variant.md5.items():
            check_published(
                folder / name, read(name), md5, f"pack the folder as {variant.archive}, which adds a checksum"
            )
    return dataset


def _read_archive(variant: Variant, path: Path) -> Dataset:
    try:
        with open_tar(path) as (archive, _):

            def read(name: str) -> bytes:
                member = archive.extractfile(f"{variant.folder}/{name}")
                if member is None:
                    raise KeyError(name)
                return member.read()

            dataset = _read_batches(variant, read, path)
            stream: Any = archive.fileobj
            while stream.read(1 << 20):  # the checksum comes last
                pass
            return dataset
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is not a whole .tar.gz file ({error}); fetch it again") from error


def _read_batches(variant: Variant, read: Callable[[str], bytes], root: Path) -> Dataset:
    """Return the data set from the official batches. read: the bytes of the file of this name. root: for messages."""

    def unpickle(name: str) -> dict[bytes, Any]:
        try:
            content = read(name)
        except (KeyError, FileNotFoundError) as error:
            raise DataError(f"{variant.name}: {name} is missing in {root}; fetch it again") from error
        batch = load_pickle(content, f"{root}/{name}")
        if not isinstance(batch, dict):
            raise DataError(f"{root}/{name} holds a {type(batch).__name__}, not the dict of a CIFAR batch")
        return batch

    def column(batch: dict[bytes, Any], key: bytes, name: str) -> Any:
        if key not in batch:
            raise DataError(f"{root}/{name} has no {key.decode()}; it has {sorted(map(str, batch))}")
        return batch[key]

    classes = tuple(str(name, "utf-8") for name in column(unpickle(variant.meta), variant.names, variant.meta))
    splits = {}
    for split, files in variant.batches.items():
        batches = [(name, unpickle(name)) for name in files]
        pixels = np.concatenate([np.asarray(column(batch, b"data", name), np.uint8) for name, batch in batches])
        label = np.concatenate([np.asarray(column(batch, variant.labels, name), np.int64) for name, batch in batches])
        if pixels.ndim != 2 or pixels.shape[1] != 3072:
            raise DataError(f"{variant.name}: the {split} data of {root} have shape {pixels.shape}, expected [N, 3072]")
        images = np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        splits[split] = array_rows(images, label, f"{split}-images")
    return Dataset(_spec(variant, classes), splits)


def _read_tree(variant: Variant, root: Path) -> Dataset:
    """Return the data set from class folders."""
    tree = ImageTree(root)
    files = {split: tree.files(f"{split}/*/*") for split in SPLITS}
    empty = [split for split in SPLITS if not files[split]]
    if empty:
        raise DataError(f"{variant.name}: {root} holds no image under {empty[0]}/CLASS/; expected train/ and test/")
    names = {path.split("/")[1] for split in SPLITS for path in files[split]}
    classes = CIFAR10_CLASSES if names == set(CIFAR10_CLASSES) else tuple(sorted(names))
    code = {name: k for k, name in enumerate(classes)}

    def rows(split: str) -> Rows:
        return file_rows(tree, files[split], [code[path.split("/")[1]] for path in files[split]])

    return Dataset(_spec(variant, classes), {split: rows(split) for split in SPLITS})


def _spec(variant: Variant, classes: tuple[str, ...]) -> DatasetSpec:
    if len(classes) != variant.num_classes:
        raise DataError(
            f"{variant.name} has {variant.num_classes} classes, these files have {len(classes)}: "
            f"{', '.join(classes[:10])}{', ...' if len(classes) > 10 else ''}"
        )
    return DatasetSpec(variant.name, classes, mean=variant.mean, std=variant.std)
