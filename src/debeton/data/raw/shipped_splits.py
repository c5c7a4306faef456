"""The splits that From Fake to Real ships as pickles. They give exactly its rows, whatever order its machine listed.

Qraitem, Saenko and Plummer 2024 (arXiv 2308.04553), https://github.com/mqraitem/From-Fake-to-Real, folder `data/`.
A file `PREFIX_SPLIT_RATE.pkl`, e.g. `celeba_Smiling_train_0.95.pkl`, holds a dict that `datasets/*.py` there writes:
- 'filenames': absolute paths on the author's machine, a list or an array of text;
- 'targets' and 'biases': whole numbers, one for each file;
- 'real_gen': 0 for a real image. It may be longer than the others, because CelebA-HQ's loader removes rows from the
  others and not from it.

The rate is the share of each class that has its majority attribute.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from debeton.data.raw.image_files import MissingDataError
from debeton.data.raw.pickles import load_pickle
from debeton.data.raw.source import Option
from debeton.data.spec import Ints
from debeton.system.errors import DataError, UsageError
from debeton.system.regular_files import MAX_NOTE_BYTES, read_regular

KEYS = ("filenames", "targets", "biases", "real_gen")
FILE = re.compile(r"(?P<prefix>.+)_(?P<word>train|valid|val|test)_(?P<rate>[0-9.]+)\.pkl")
SPLIT_WORDS = {"train": "train", "val": "valid", "test": "test"}  # our splits in the file names of celeba and utk_face


def shipped_options(rate: str = "0.9") -> tuple[Option, Option]:
    """Return the options `--ffr-splits` and `--ffr-rate`. rate: the default rate, as the file names spell it."""
    return (
        Option("ffr-splits", Path, None, "From Fake to Real's data/ folder, or one .pkl of it; gives exactly its rows"),
        Option("ffr-rate", str, rate, "the rate in the file names of these splits; not needed for a single .pkl"),
    )


@dataclass(frozen=True)
class ShippedSplit:
    """One split as From Fake to Real ships it.

    path: the pickle.
    files: [N] paths as the data set lists them.
    label, attribute: int64 [N], codes as the pickle numbers them ('targets', 'biases').
    """

    path: Path
    files: list[str]
    label: Ints
    attribute: Ints

    def require(self, label: Ints, attribute: Ints) -> None:
        """Raise DataError unless the data set's own labels and attributes of these rows are the same."""
        for kind, own, theirs in (("label", label, self.label), ("attribute", attribute, self.attribute)):
            differ = np.flatnonzero(np.asarray(own, np.int64) != theirs)
            if len(differ):
                row = int(differ[0])
                raise DataError(
                    f"{self.path}: {len(differ)} of {len(theirs)} {kind}s are not those of the data set; "
                    f"{self.files[row]} has {theirs[row]} here and {own[row]} there. Are these splits of another set?"
                )


def shipped_rate(options: Mapping[str, Any]) -> str:
    """Return the rate of `--ffr-rate`, or the rate in the name of the file if `--ffr-splits` is a single file."""
    where: Path = options["ffr_splits"]
    name_parts = FILE.fullmatch(where.name)
    return str(name_parts["rate"] if name_parts and not where.is_dir() else options["ffr_rate"])


def read_shipped_splits(
    options: Mapping[str, Any], prefix: str, listing: Sequence[str], words: Mapping[str, str] = SPLIT_WORDS
) -> dict[str, ShippedSplit]:
    """Read the splits that `--ffr-splits` and `--ffr-rate` name.

    options: values of the two options.
    prefix: 'celeba_Smiling', 'utk_face' or 'spuco_animals'.
    listing: paths of all images of the data set, relative to its root.
    words: the word for each of our splits in the file names. spuco_animals has 'val' where the others have 'valid'.
    """
    where: Path = options["ffr_splits"]
    name_parts = FILE.fullmatch(where.name)
    if where.is_file() and (not name_parts or name_parts["prefix"] != prefix):
        raise UsageError(f"--ffr-splits {where} is not called {prefix}_SPLIT_RATE.pkl, SPLIT being {_or(words)}")
    folder, rate = (where.parent if where.is_file() else where), shipped_rate(options)
    paths = {split: folder / f"{prefix}_{word}_{rate}.pkl" for split, word in words.items()}
    absent = [path.name for path in paths.values() if not path.is_file()]
    if absent:
        there = sorted({m["rate"] for path in folder.glob(f"{prefix}_*.pkl") if (m := FILE.fullmatch(path.name))})
        raise MissingDataError(
            f"--ffr-splits: there is no {', '.join(absent)} in {folder}; rates there: {', '.join(there) or 'none'}. "
            "They are in data/ of https://github.com/mqraitem/From-Fake-to-Real"
        )
    names = set(listing)
    return {split: _read(path, names) for split, path in paths.items()}


def _read(path: Path, listing: set[str]) -> ShippedSplit:
    content = load_pickle(read_regular(path, MAX_NOTE_BYTES), str(path), encoding="latin1")
    if not isinstance(content, dict) or not set(KEYS) <= set(content):
        keys = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise DataError(f"{path} is not a split of From Fake to Real: expected a dict of {', '.join(KEYS)}, got {keys}")
    names, synthetic = content["filenames"], _whole_numbers(content["real_gen"], path, "real_gen")
    if not isinstance(names, list | np.ndarray) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: 'filenames' is no list of text; fetch it again")
    label, attribute = (_whole_numbers(content[key], path, key) for key in ("targets", "biases"))
    if not len(names) == len(label) == len(attribute):
        raise DataError(
            f"{path}: {len(names)} filenames, {len(label)} targets and {len(attribute)} biases; fetch it again"
        )
    if synthetic.any():
        raise DataError(f"{path} lists {int(np.sum(synthetic != 0))} synthetic images; expected a split of real ones")
    return ShippedSplit(path, _relative([str(name) for name in names], listing, path), label, attribute)


def _whole_numbers(values: Any, path: Path, key: str) -> Ints:
    """Return values as int64 [N]. DataError unless they are a list of whole numbers."""
    numbers = np.asarray(values)
    # real_gen is float64 if it was made by np.zeros(N), so the type does not matter if the numbers are whole.
    if numbers.ndim != 1 or numbers.dtype.kind not in "iufb" or not np.array_equal(numbers, np.floor(numbers)):
        raise DataError(f"{path}: '{key}' is no list of whole numbers; fetch it again")
    return numbers.astype(np.int64)


def _relative(names: Sequence[str], listing: set[str], path: Path) -> list[str]:
    """Return each path without the folders of the author's machine: its longest end that the data set has."""
    files: list[str] = []
    unknown: list[str] = []
    for name in names:
        parts = name.split("/")
        ends = ("/".join(parts[k:]) for k in range(len(parts)))
        match = next((end for end in ends if end in listing), None)
        (unknown if match is None else files).append(name if match is None else match)
    if unknown:
        raise DataError(
            f"{path}: {len(unknown)} of {len(names)} files are not in the data set, the first is {unknown[0]}; "
            "is --raw the set that was split?"
        )
    if len(set(files)) != len(files):
        raise DataError(f"{path} lists {len(files) - len(set(files))} files twice; fetch it again")
    return files


def _or(words: Mapping[str, str]) -> str:
    """Return words as 'a, b or c'."""
    *first, last = words.values()
    return f"{', '.join(first)} or {last}"
