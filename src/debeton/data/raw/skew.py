"""Biased sets with one spurious attribute per class: released by their owners, or made of a plain set.

`coloured_mnist` and `corrupted_cifar10` are made by the rule of Nam et al. 2020 (LfF). Of the n images of a class, code
k of the attribute gets those from round(n F(k-1)) to round(n F(k)), in the order of the plain set. F sums the shares:
1 - s for the code of the class, s / (K - 1) for each other one, with s the bias-conflicting share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from debeton.data.raw.align_conflict import ARRAY_SPLITS, PERCENTS, read_align_conflict, read_array_splits
from debeton.data.raw.image_files import ImageTree, MissingDataError
from debeton.data.raw.layout import known_choice
from debeton.data.raw.parts import Change, base_options, changed_rows, load_part
from debeton.data.raw.source import Dataset, Option, Request
from debeton.data.spec import DatasetSpec, Ints, Rows
from debeton.system.errors import UsageError
from debeton.system.seed import make_rng

FORMS = ("auto", "ldd", "lff", "made")
SPREADS = ("all", "others", "train")


def skew_options(base: str) -> tuple[Option, ...]:
    """Return the options that these sets share. base: the plain set of which one is made."""
    return (
        Option("form", str, "auto", "ldd or lff, as released; made, of the base set; auto: what is in RAW, else made"),
        Option("conflict-percent", str, "0.5", "bias-conflicting share of train in percent; released: 0.5, 1, 2 or 5"),
        Option("val-size", int, 5000, "made: training images that are val instead; 0 for none, as in LfF"),
        Option("val-attributes", str, "all", "made: attributes of val, as in --test-attributes; or train: as biased"),
        Option("test-attributes", str, "all", "made: all attributes equally often, or others: none of the own class"),
        *base_options(base),
    )


@dataclass(frozen=True)
class BiasedSet:
    """The differences between two biased sets.

    base: the plain set that the owners used.
    spec: of the set that is made, and of LfF's arrays.
    ldd_spec: of LDD's images.
    ldd_folder: the folder or .zip that LDD releases, e.g. 'cmnist'.
    lff_prefix: the beginning of the names of all of LfF's folders.
    lff_folder: (options, skew as text) -> the name of LfF's folder.
    change: (request, base rows, their numbers, attributes) -> the change of one image.
    ldd_sizes: the rows of train by conflict percent, and of 'test', in LDD's release.
    base_sizes: the rows of train and test of the plain set.
    """

    base: str
    spec: DatasetSpec
    ldd_spec: DatasetSpec
    ldd_folder: str
    lff_prefix: str
    lff_folder: Callable[[Request, str], str]
    change: Callable[[Request, Rows, Ints, Ints], Change]
    ldd_sizes: Mapping[str, int] = field(default_factory=dict)
    base_sizes: Mapping[str, int] = field(default_factory=dict)


def load_biased(request: Request, made_of: BiasedSet) -> Dataset:
    """Return the set in the form of `--form`, or that lies in RAW. A note names the form."""
    form = known_choice("form", request.options["form"], FORMS)
    places = _places(request.raw, made_of)
    if form == "auto":
        form = next((name for name, found in places.items() if found), "made")
    if form == "made":
        return _make(request, made_of)
    if not places[form]:
        looked_for = {"ldd": f"{made_of.ldd_folder}/0.5pct/align/CLASS/*", "lff": f"{made_of.lff_prefix}*/train"}[form]
        raise MissingDataError(f"{made_of.spec.name}: there is no {looked_for} in {request.raw}, for --form {form}")
    read = _read_ldd if form == "ldd" else _read_lff
    return read(request, made_of, places[form])


def _places(raw: Path | None, made_of: BiasedSet) -> dict[str, list[Path]]:
    """Return what lies in RAW of each released form: LDD's folder or zip, LfF's folders."""
    if raw is None:
        return {"ldd": [], "lff": []}
    if raw.is_file():
        return {"ldd": [raw] if raw.name == f"{made_of.ldd_folder}.zip" else [], "lff": []}
    folders = [raw / made_of.ldd_folder, raw]
    ldd = [folder for folder in folders if any((folder / f"{percent}pct").is_dir() for percent in PERCENTS)]
    packed = raw / f"{made_of.ldd_folder}.zip"
    lff = sorted(path for path in raw.glob(f"{made_of.lff_prefix}*") if path.is_dir())
    if raw.name.startswith(made_of.lff_prefix):
        lff = [raw]
    return {"ldd": ldd or ([packed] if packed.is_file() else []), "lff": lff}


def _read_ldd(request: Request, made_of: BiasedSet, places: Sequence[Path]) -> Dataset:
    percent = _released_percent(request)
    spec = made_of.ldd_spec
    splits = read_align_conflict(spec, ImageTree(places[0]), (f"{percent}pct",))
    sizes = made_of.ldd_sizes
    expected = {"train": sizes[percent], "test": sizes["test"]} if percent in sizes else {}
    return Dataset(spec, splits, expected, notes=(f"read as LDD releases it, {places[0]}/{percent}pct",))


def _read_lff(request: Request, made_of: BiasedSet, places: Sequence[Path]) -> Dataset:
    wanted = made_of.lff_folder(request, f"{float(_released_percent(request)) / 100:g}")
    folder = next((place for place in places if place.name == wanted), None)
    if folder is None:
        names = ", ".join(place.name for place in places)
        raise MissingDataError(
            f"{made_of.spec.name}: there is no {wanted} in {request.raw}, only {names}; give the --conflict-percent "
            "and the other options that made it, or --form made"
        )
    splits = read_array_splits(made_of.spec, folder)
    expected = {split: made_of.base_sizes[split] for split in ARRAY_SPLITS if split in made_of.base_sizes}
    return Dataset(made_of.spec, splits, expected, left_out=(), notes=(f"read as LfF writes it, {folder}",))


def _released_percent(request: Request) -> str:
    return known_choice("conflict-percent", request.options["conflict_percent"].removesuffix("pct"), PERCENTS)


def _make(request: Request, made_of: BiasedSet) -> Dataset:
    """Return train, val and test of the set made of the base set."""
    spec, options = made_of.spec, request.options
    base = load_part(request, "base")
    if base.spec.num_classes != spec.num_classes:
        raise UsageError(
            f"--base {options['base']} has {base.spec.num_classes} classes; {spec.name} needs {spec.num_classes}"
        )
    train, val = hold_out(base.splits["train"], options["val_size"], options["data_seed"], spec.name)
    parts = {"train": ("train", train, _aligned_share(options, "train", spec.num_classes))}
    if len(val):
        parts["val"] = ("train", val, _aligned_share(options, "val", spec.num_classes))
    parts["test"] = ("test", np.arange(len(base.splits["test"])), _aligned_share(options, "test", spec.num_classes))
    splits = {}
    for split, (place, numbers, aligned) in parts.items():
        rows = base.splits[place]
        label = rows.label[numbers]
        attribute = deal_attributes(label, spec.num_classes, aligned)
        change = made_of.change(request, rows, numbers, attribute)
        splits[split] = changed_rows(split, rows, numbers, label, attribute, change)
    whole = base.spec.name == made_of.base
    expected = {split: size - len(val) * (split == "train") for split, size in made_of.base_sizes.items() if whole}
    note = f"made of {base.spec.name}, {options['conflict_percent']} % of train bias-conflicting"
    return Dataset(spec, splits, expected, left_out=base.left_out, notes=(*base.notes, note))


def _aligned_share(options: Mapping[str, Any], split: str, num_classes: int) -> float:
    """Return the bias-aligned share of a split. UsageError for an option out of range."""
    spread = "train" if split == "train" else options[f"{split}_attributes"]
    if known_choice(f"{split}-attributes", spread, SPREADS) != "train":
        return 0.0 if spread == "others" else 1 / num_classes
    text = options["conflict_percent"].removesuffix("pct")
    try:
        percent = float(text)
    except ValueError:
        percent = -1
    if not 0 <= percent <= 100:
        raise UsageError(f"--conflict-percent '{text}' is no percentage from 0 to 100, such as 0.5")
    return 1 - percent / 100


def hold_out(rows: Rows, size: int, seed: int, name: str) -> tuple[Ints, Ints]:
    """Return the row numbers of train and of val, ascending. The seed draws val.

    UsageError unless some rows remain for train.
    """
    if not 0 <= size < len(rows):
        raise UsageError(
            f"--val-size {size} is out of range; there are {len(rows)} training images, and train needs one"
        )
    order = make_rng(seed, name, "val").permutation(len(rows))
    return np.sort(order[size:]), np.sort(order[:size])


def deal_attributes(label: Ints, num_classes: int, aligned: float) -> Ints:
    """Return the attribute of each row, int64 [N], by LfF's rule in the order of the rows of each class.

    label: int64 [N].
    num_classes: the number of classes and of attributes, K.
    aligned: bias-aligned share of each class, in [0, 1].
    """
    attribute = np.zeros_like(label)
    for code in range(num_classes):
        rows = np.flatnonzero(label == code)
        shares = np.full(num_classes, (1 - aligned) / (num_classes - 1))
        shares[code] = aligned
        ends = np.rint(len(rows) * np.cumsum(shares))
        attribute[rows] = np.searchsorted(ends, np.arange(len(rows)), side="right")
    return np.minimum(attribute, num_classes - 1)
