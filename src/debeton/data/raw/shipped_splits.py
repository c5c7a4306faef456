"""The splits that From Fake to Real ships as pickles: its exact rows, whatever the listing order was on its machine.

Qraitem, Saenko and Plummer 2024 (arXiv 2308.04553), https://github.com/mqraitem/From-Fake-to-Real, folder `data/`.
A file `PREFIX_SPLIT_RATE.pkl`, e.g. `celeba_Smiling_train_0.95.pkl`, holds a dict written by `datasets/*.py` there:
'filenames', absolute paths on the author's machine (a list, or an array, of text); 'targets' and 'biases', whole
numbers, one a file; and 'real_gen', 0 for a real image. `real_gen` may be longer than the others, as CelebA-HQ's
loader thins out the others and not it. The rate is the share of each class that has its majority attribute.
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

KEYS = ("filenames", "targets", "biases", "real_gen")
FILE = re.compile(r"(?P<prefix>.+)_(?P<word>train|valid|val|test)_(?P<rate>[0-9.]+)\.pkl")
VALID = {"train": "train", "val": "valid", "test": "test"}  # how the files of celeba and utk_face call our splits


def shipped_options(rate: str = "0.9") -> tuple[Option, Option]:
    """`--ffr-splits` and `--ffr-rate`; rate: the default of the latter, as file names spell it."""
    return (
        Option("ffr-splits", Path, None, "From Fake to Real's data/ folder, or one .pkl of it: exactly its rows"),
        Option(
            "ffr-rate", str, rate, "which of these splits: the rate in their file names (a single .pkl says itself)"
        ),
    )


@dataclass(frozen=True)
class ShippedSplit:
    """One split as From Fake to Real ships it.

    path: the pickle. files: [N] paths as in the listing of the data set. label, attribute: [N], codes as it
    numbers them ('targets', 'biases').
    """

    path: Path
    files: list[str]
    label: Ints
    attribute: Ints

    def require(self, label: Ints, attribute: Ints) -> None:
        """DataError unless the data set's own labels and attributes of these rows are the same."""
        for kind, own, theirs in (("label", label, self.label), ("attribute", attribute, self.attribute)):
            differ = np.flatnonzero(np.asarray(own, np.int64) != theirs)
            if len(differ):
                row = int(differ[0])
                raise DataError(
                    f"{self.path}: {len(differ)} of {len(theirs)} {kind}s are not those of the data set; "
                    f"{self.files[row]} has {theirs[row]} here and {own[row]} there. Are these splits of another set?"
                )


def shipped_rate(options: Mapping[str, Any]) -> str:
    """The rate that `--ffr-rate` asks for; the one in its name where `--ffr-splits` is a single file."""
    where: Path = options["ffr_splits"]
    found = FILE.fullmatch(where.name)
    return str(found["rate"] if found and not where.is_dir() else options["ffr_rate"])


def read_shipped_splits(
    options: Mapping[str, Any], prefix: str, listing: Sequence[str], words: Mapping[str, str] = VALID
) -> dict[str, ShippedSplit]:
    """The splits that `--ffr-splits` and `--ffr-rate` name.

    Args:
        prefix: 'celeba_Smiling', 'utk_face' or 'spuco_animals'.
        listing: paths of all images of the data set, relative to its root.
        words: how the file names call each of our splits; spuco_animals has 'val' where the others have 'valid'.
    """
    where: Path = options["ffr_splits"]
    found = FILE.fullmatch(where.name)
    if where.is_file() and (not found or found["prefix"] != prefix):
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
    known = set(listing)
    return {split: _read(path, known) for split, path in paths.items()}


def _read(path: Path, listing: set[str]) -> ShippedSplit:
    content = load_pickle(path.read_bytes(), str(path), encoding="latin1")
    if not isinstance(content, dict) or not set(KEYS) <= set(content):
        held = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise DataError(f"{path} is not a split of From Fake to Real: expected a dict of {', '.join(KEYS)}, got {held}")
    names, generated = content["filenames"], _codes(content["real_gen"], path, "real_gen")
    if not isinstance(names, list | np.ndarray) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: 'filenames' is no list of text; fetch it again")
    label, attribute = (_codes(content[key], path, key) for key in ("targets", "biases"))
    if not len(names) == len(label) == len(attribute):
        raise DataError(
            f"{path}: {len(names)} filenames, {len(label)} targets and {len(attribute)} biases; fetch it again"
        )
    if generated.any():
        raise DataError(f"{path} lists {int(np.sum(generated != 0))} generated images; expected a split of real ones")
    return ShippedSplit(path, _relative([str(name) for name in names], listing, path), label, attribute)


def _codes(values: Any, path: Path, key: str) -> Ints:
    numbers = np.asarray(values)
    # real_gen is float64 where it was made by np.zeros(N); what counts is that the numbers are whole.
    if numbers.ndim != 1 or numbers.dtype.kind not in "iufb" or not np.array_equal(numbers, np.floor(numbers)):
        raise DataError(f"{path}: '{key}' is no list of whole numbers; fetch it again")
    return numbers.astype(np.int64)


def _relative(names: Sequence[str], listing: set[str], path: Path) -> list[str]:
    """Each path without the folders of the author's machine: its longest end that the data set has."""
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
    *first, last = words.values()
    return f"{', '.join(first)} or {last}"
