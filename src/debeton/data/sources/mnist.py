"""MNIST and Fashion-MNIST: 60,000 training and 10,000 test images, grey, 28x28, 10 classes.

MNIST: handwritten digits; LeCun, Cortes and Burges 1998; CC BY-SA 3.0.
Fashion-MNIST: articles of clothing; Xiao, Rasul and Vollgraf 2017 (arXiv 1708.07747); MIT.

Layouts, in RAW itself, its `raw/` or torchvision's `MNIST/raw` (`FashionMNIST/raw`):
- the four IDX files (`train-images-idx3-ubyte`, ..., with or without `.gz`);
- `mnist.npz` (`fashion_mnist.npz`) with train_x, train_y, test_x, test_y (or Keras's x_train, ...). RAW may also be an
  .npz.

Without `--raw`, Debian's packages under /usr/share/datasets are read.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from debeton.data.raw.fetch import Archive
from debeton.data.raw.image_files import MissingDataError, array_rows
from debeton.data.raw.published import check_published
from debeton.data.raw.source import SOURCES, Dataset, Request, register_source
from debeton.data.spec import DatasetSpec
from debeton.system.array_files import read_npz
from debeton.system.errors import DataError
from debeton.system.packed_files import read_gzip, require_sound_if_zip
from debeton.system.regular_files import read_regular

DEBIAN = Path("/usr/share/datasets")
MAX_IDX = 1 << 30  # bytes of an IDX file, unpacked
SPLITS = {"train": "train", "test": "t10k"}
DIGITS = tuple("0123456789")
CLOTHES = ("t-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
UByte = NDArray[np.uint8]


@dataclass(frozen=True)
class Variant:
    """The differences between the two sets.

    name: as on the command line.
    classes: the names of the classes.
    debian: the folder of Debian's package.
    torchvision: the folder of torchvision.
    md5: the hashes of the published IDX files, not gzipped, by the start of their name.
    """

    name: str
    classes: tuple[str, ...]
    debian: str
    torchvision: str
    md5: Mapping[str, str]


# The hashes are those of the content of the gzipped files below.
MNIST = Variant(
    "mnist",
    DIGITS,
    "mnist",
    "MNIST",
    {
        "train-images": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels": "a25bea736e30d166cdddb491f175f624",
        "t10k-images": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels": "27ae3e4e09519cfbb04c329615203637",
    },
)
FASHION = Variant(
    "fashion_mnist",
    CLOTHES,
    "fashion-mnist",
    "FashionMNIST",
    {
        "train-images": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels": "15d484375f8d13e6eb1aabb0c3f46965",
    },
)
PUBLISHED_ROWS = {"train": 60_000, "t10k": 10_000}
OTHERWISE = "compress it with gzip, which adds a checksum: 'gzip FILE'"


def _archives(variant: Variant, address: str, *md5: str) -> tuple[Archive, ...]:
    """Return the four files of a set, in torchvision's folders: the two sets have files of the same names.

    address: the folder of the files. md5: their hashes, in the order of the names.
    """
    names = [f"{prefix}-{kind}-ubyte.gz" for prefix in SPLITS.values() for kind in ("images-idx3", "labels-idx1")]
    folder = f"{variant.torchvision}/raw"
    return tuple(
        Archive(name, f"{address}/{name}", f"md5:{code}", into=folder) for name, code in zip(names, md5, strict=True)
    )


# Addresses and hashes as in torchvision.datasets.mnist.
MNIST_ARCHIVES = _archives(
    MNIST,
    "https://ossci-datasets.s3.amazonaws.com/mnist",
    "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "d53e105ee54ea40749a09fcbcd1e9432",
    "9fb629c4189551a2d022fa330f9573f3",
    "ec29112dd5afa0611ce80d1b7f02629c",
)
FASHION_ARCHIVES = _archives(
    FASHION,
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "25c81989df183df01b3e8a0aad5dffbe",
    "bef4ecab320f06d8554ea6380940ec79",
    "bb300cfdad3c16e7a12a480ee83cd310",
)


@register_source(
    "mnist",
    "handwritten digits, 60,000 + 10,000 grey 28x28",
    "--raw DIR --download fetches it into DIR, or put the four IDX files or mnist.npz there",
    archives=MNIST_ARCHIVES,
)
def load_mnist(request: Request) -> Dataset:
    return _load(MNIST, request)


@register_source(
    "fashion_mnist",
    "articles of clothing, 60,000 + 10,000 grey 28x28",
    "apt-get install dataset-fashion-mnist, or --raw DIR --download fetches it into DIR",
    archives=FASHION_ARCHIVES,
)
def load_fashion_mnist(request: Request) -> Dataset:
    return _load(FASHION, request)


def _load(variant: Variant, request: Request) -> Dataset:
    place = _find(variant, request.raw)
    if place is None:
        raise _missing(variant, request.raw)
    arrays = _read_npz(place) if place.suffix == ".npz" else _read_idx_folder(variant, place)
    rows = {}
    for split, (images, labels) in arrays.items():
        if images.ndim != 3 or len(images) == 0 or labels.max(initial=0) >= len(variant.classes):
            raise DataError(
                f"{variant.name}: the {split} images of {place} have shape {images.shape} and labels up to "
                f"{labels.max(initial=0)}; expected [N, 28, 28] and labels 0 to {len(variant.classes) - 1}"
            )
        rows[split] = array_rows(images, labels.astype(np.int64), f"{split}-images")
    spec = DatasetSpec(variant.name, variant.classes, mean=(0.5,) * 3, std=(0.5,) * 3)
    return Dataset(spec, rows)


def _find(variant: Variant, raw: Path | None) -> Path | None:
    """Return the .npz, or the folder with the IDX files; None if there is neither."""
    if raw is not None and raw.is_file():
        return raw if raw.suffix == ".npz" else None
    root = DEBIAN / variant.debian if raw is None else raw
    archive = root / f"{variant.name}.npz"
    folders = (root, root / "raw", root / variant.torchvision / "raw")
    holding = [folder for folder in folders if _idx_file(folder, "train-images-idx3-ubyte")]
    return archive if archive.is_file() else next(iter(holding), None)


def _missing(variant: Variant, raw: Path | None) -> MissingDataError:
    return MissingDataError(
        f"{variant.name}: neither the IDX files (train-images-idx3-ubyte[.gz], ...) nor {variant.name}.npz "
        f"in {DEBIAN / variant.debian if raw is None else raw}; {SOURCES.get(variant.name).where}"
    )


def _idx_file(folder: Path, name: str) -> Path | None:
    """Return an IDX file under one of its usual names; None if there is none."""
    spellings = (name, f"{name}.gz", name.replace("-idx", ".idx"), name.replace("-idx", ".idx") + ".gz")
    return next((folder / spelling for spelling in spellings if (folder / spelling).is_file()), None)


def _read_idx_folder(variant: Variant, folder: Path) -> dict[str, tuple[UByte, UByte]]:
    arrays = {}
    for split, prefix in SPLITS.items():
        pair = []
        for kind in ("images-idx3", "labels-idx1"):
            path = _idx_file(folder, f"{prefix}-{kind}-ubyte")
            if path is None:
                raise DataError(
                    f"{prefix}-{kind}-ubyte[.gz] is missing in {folder}, which has other IDX files of the set"
                )
            pair.append(read_idx(path))
            if path.suffix != ".gz" and len(pair[-1]) == PUBLISHED_ROWS[prefix]:
                check_published(path, path.read_bytes(), variant.md5[f"{prefix}-{kind.partition('-')[0]}"], OTHERWISE)
        arrays[split] = (pair[0], pair[1])
    return arrays


def read_idx(path: Path) -> UByte:
    """Return the uint8 array in an IDX file, gzipped or not. DataError gives the fault of a bad file."""
    try:
        content = read_gzip(path, MAX_IDX) if path.suffix == ".gz" else read_regular(path, MAX_IDX)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a whole gzip file ({error}); fetch it again") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        raise DataError(f"{path} is not an IDX file of bytes: it starts with {content[:4].hex() or 'nothing'}")
    header = 4 + 4 * content[3]
    shape = tuple(int(size) for size in np.frombuffer(content[4:header], ">u4"))
    promised = math.prod(shape)  # NumPy's product of four large sides would be taken modulo 2 ** 64
    if len(content) - header != promised:
        raise DataError(f"{path} holds {len(content) - header} bytes, its header {shape} promises {promised}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _read_npz(path: Path) -> dict[str, tuple[UByte, UByte]]:
    require_sound_if_zip(path)
    try:
        archive = read_npz(path)
        keys = [("train_x", "x_train"), ("train_y", "y_train"), ("test_x", "x_test"), ("test_y", "y_test")]
        names = [next((name for name in pair if name in archive), None) for pair in keys]
        absent = [pair[0] for pair, name in zip(keys, names, strict=True) if name is None]
        if absent:
            raise DataError(f"{path} has no {', '.join(absent)}; it has {', '.join(archive)}")
        train_x, train_y, test_x, test_y = (np.asarray(archive[str(name)], np.uint8) for name in names)
    except DataError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not a readable .npz file ({error}); fetch it again") from error
    return {"train": (train_x, train_y), "test": (test_x, test_y)}
