"""Description of a data set: classes, spurious attributes, groups, and which attributes go with which class."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from debeton.system.errors import DataError, UsageError, nearest
from debeton.system.name_lists import RULE, join_names, quote, split_unquoted, unquote

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
CIFAR100_MEAN, CIFAR100_STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)

LEAST_STD = 1e-9  # images are divided by it

Ints = NDArray[np.int64]

UNKNOWN = -1  # the attribute of a row for which it is not known, and the group of that row
UNKNOWN_NAME = "attribute unknown"  # in place of the attribute in the names of counts
BY_CELL, BY_ATTRIBUTE = "label_attribute", "attribute"  # the ways to group rows, `DatasetSpec.group_by`
GROUPINGS = (BY_CELL, BY_ATTRIBUTE)
NO_VALUE = ("nan", "<na>", "none", "nat")  # the texts of values with which Python and pandas mark a missing number


def group_index(label: Ints, attribute: Ints, num_attributes: int) -> Ints:
    """Return the group of each row: label * num_attributes + attribute, and -1 where the attribute is not known."""
    label, attribute = np.asarray(label, np.int64), np.asarray(attribute, np.int64)
    return np.where(attribute < 0, UNKNOWN, label * num_attributes + attribute)


def count_codes(codes: Ints, size: int) -> Ints:
    """Return the number of rows of each code from 0, int64 [size]; the code -1 is not counted."""
    return np.bincount(codes[codes >= 0], minlength=size)


def attribute_codes(values: ArrayLike) -> Ints:
    """Return attributes as codes, int64. None, NaN and pandas' NA become -1, not known.

    ValueError for other values that are not whole numbers.
    """
    array = np.asarray(values)
    if array.dtype.kind == "O":
        array = np.array([np.nan if str(value).casefold() in NO_VALUE else value for value in array.flat], np.float64)
        array = array.reshape(np.shape(values))
    if array.dtype.kind == "f":
        array = np.where(np.isnan(array), UNKNOWN, array)
        if not (array == np.rint(array)).all():
            raise ValueError(f"{array[array != np.rint(array)].flat[0]:g} is no whole number")
    elif array.size and array.dtype.kind not in "iu":
        raise ValueError(f"{array.dtype} is no type of whole numbers")
    return array.astype(np.int64)


@dataclass(frozen=True)
class Factor:
    """One of several spurious attributes whose combinations form the attribute of a set.

    name: the factor's name.
    values: names by code.
    aligned: aligned[label] is the code that goes with the class in training.
    rate: share of a class's training rows that have the aligned value, in [0, 1], as the owners made the set.
    """

    name: str
    values: tuple[str, ...]
    aligned: tuple[int, ...]
    rate: float


@dataclass(frozen=True)
class DatasetSpec:
    """Names and conventions of one data set.

    name: as on the command line.
    classes, attributes: names by code. A set without a spurious attribute has the one attribute 'any'.
    aligned: aligned[label] is the tuple of attribute codes that go with the class in training (bias-aligned).
        Empty if the set defines no such pairs.
    missing: indices of the groups that do not exist in any split.
    mean, std: per channel, three finite numbers each, of images in [0, 1]; std is at least LEAST_STD.
    metric: 'top1' or 'mean_per_class', the number that the owners of the set report.
    label_name, attribute_name: names of the label and the attribute, e.g. 'Blond_Hair' and 'Male'.
    columns: names by code of the sidecar columns that can replace the label or the attribute
        (`View.with_task`), e.g. {'Smiling': ('not Smiling', 'Smiling')}.
    tasks: `aligned` of other pairs of columns, by 'LABEL x ATTRIBUTE', e.g. {'Smiling x Male': ((1,), (0,))}.
    generated_folders: (label, attribute) of synthetic images by their folder, for layouts other than
        CLASS/ATTRIBUTE, e.g. {'celeba/Smiling/0/Female': (0, 0)}.
    factors: the factors of an attribute that is a product (UrbanCars), else empty. The attribute's code has the
        factors' codes as digits; the first factor changes slowest. `columns` names every factor.
    group_by: 'label_attribute' groups rows by label and attribute. 'attribute' groups them by the attribute alone,
        whatever the label: by domain, as WILDS and DomainBed do. No row is then bias-aligned or bias-conflicting.
    """

    name: str
    classes: tuple[str, ...]
    attributes: tuple[str, ...] = ("any",)
    aligned: tuple[tuple[int, ...], ...] = ()
    missing: tuple[int, ...] = ()
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    metric: str = "top1"
    label_name: str = "label"
    attribute_name: str = "attribute"
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tasks: Mapping[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    generated_folders: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    factors: tuple[Factor, ...] = ()
    group_by: str = BY_CELL

    def __post_init__(self) -> None:
        if self.group_by not in GROUPINGS:
            raise ValueError(f"spec {self.name}: group_by is '{self.group_by}'; expected {' or '.join(GROUPINGS)}")
        if self.by_attribute and (self.aligned or self.factors or self.tasks):
            raise ValueError(
                f"spec {self.name}: groups by the attribute alone know no bias-aligned pairs, so aligned, tasks and "
                "factors must be empty"
            )
        if self.aligned and len(self.aligned) != len(self.classes):
            raise ValueError(f"spec {self.name}: aligned names {len(self.aligned)} of {len(self.classes)} classes")
        for kind, values, least in (("mean", self.mean, -math.inf), ("std", self.std, LEAST_STD)):
            if len(values) != 3 or not all(math.isfinite(value) and value >= least for value in values):
                above = "" if least < 0 else f" of at least {least:g}"
                raise DataError(
                    f"spec {self.name}: {kind} is {', '.join(map(str, values)) or 'empty'}; expected three finite "
                    f"numbers{above}, one per channel of images in [0, 1]"
                )
        for name in (self.name, *self.classes, *self.attributes):
            if isinstance(name, str) and re.search(r"[\0\ud800-\udfff]", name):
                raise DataError(f"the name {name[:40]!a} holds a letter that no file can hold; give it another name")

    @property
    def num_classes(self) -> int:
        """Return the number of classes, C."""
        return len(self.classes)

    @property
    def by_attribute(self) -> bool:
        """Return whether a group is an attribute alone, whatever the label."""
        return self.group_by == BY_ATTRIBUTE

    @property
    def num_groups(self) -> int:
        """Return the number of groups, G, those that do not exist included: classes * attributes, or attributes."""
        return len(self.attributes) * (1 if self.by_attribute else len(self.classes))

    @property
    def group_names(self) -> tuple[str, ...]:
        """Return 'class, attribute' by group index; the class or the attribute alone where that says it all."""
        if self.by_attribute:
            return self.attributes
        if len(self.attributes) == 1:
            return self.classes
        return tuple(f"{c}, {a}" for c in self.classes for a in self.attributes)

    @property
    def num_strata(self) -> int:
        """Return the number of strata: the groups, and for each class its rows whose attribute is not known."""
        return self.num_groups + self.num_classes

    @property
    def stratum_names(self) -> tuple[str, ...]:
        """Return `group_names`, then 'class, attribute unknown' for each class."""
        return (*self.group_names, *(f"{name}, {UNKNOWN_NAME}" for name in self.classes))

    def stratum(self, label: Ints, group: Ints) -> Ints:
        """Return the stratum of each row: its group, or G + label where the attribute is not known."""
        return np.where(group < 0, self.num_groups + label, group)

    @property
    def num_known_cells(self) -> int:
        """Return the number of pairs (label, attribute)."""
        return len(self.classes) * len(self.attributes)

    @property
    def num_cells(self) -> int:
        """Return the number of cells: the pairs (label, attribute), and each class with an attribute not known.

        Classes and groups are unions of cells. Counts by cell give the metrics of both.
        """
        return self.num_known_cells + self.num_classes

    def cell(self, label: Ints, group: Ints) -> Ints:
        """Return the cell of each row: label * A + attribute, or C * A + label where the attribute is not known."""
        known = label * self.num_groups + group if self.by_attribute else group
        return np.where(group < 0, self.num_known_cells + label, known)

    def describe_cells(self) -> tuple[Ints, Ints, NDArray[np.bool_]]:
        """Return the label and the group of each cell, int64, and whether it is bias-conflicting, bool.

        The group is -1 where the attribute is not known.
        """
        label, attribute = np.divmod(np.arange(self.num_known_cells), len(self.attributes))
        label = np.concatenate([label, np.arange(self.num_classes)])
        attribute = np.concatenate([attribute, np.full(self.num_classes, UNKNOWN)])
        bias = self.bias_of(label, attribute)
        conflicting = np.zeros(len(label), bool) if bias is None else bias[1]
        return label, self.group(label, attribute), conflicting

    def has_cell(self, label: int, attribute: int) -> bool:
        """Return whether the set has rows of a pair (label, attribute); False if its group is `missing`."""
        return int(self.group(np.array([label]), np.array([attribute]))[0]) not in self.missing

    @property
    def existing_groups(self) -> list[int]:
        """Return the groups that exist in the set, in order: all but `missing`."""
        return [g for g in range(self.num_groups) if g not in self.missing]

    def group(self, label: Ints, attribute: Ints) -> Ints:
        """Return the group index of each row, -1 where the attribute is not known (-1).

        Raise DataError that names the first code out of range.
        """
        for kind, codes, names, lowest, or_unknown in (
            ("label", label, self.classes, 0, ""),
            ("attribute", attribute, self.attributes, UNKNOWN, ", or -1 for not known"),
        ):
            bad = np.flatnonzero((np.asarray(codes) < lowest) | (np.asarray(codes) >= len(names)))
            if len(bad):
                raise DataError(
                    f"{self.name}: {kind} {int(np.asarray(codes)[bad[0]])} of row {int(bad[0])} is out of range; "
                    f"there are {len(names)} {kind}s (0 to {len(names) - 1}{or_unknown}) and {len(bad)} such rows"
                )
        if self.by_attribute:
            return np.array(attribute, np.int64)
        return group_index(label, attribute, len(self.attributes))

    def grouped_by(self, how: str) -> DatasetSpec:
        """Return the same set with its rows in other groups. Groups by attribute lose the bias-aligned pairs.

        how: one of GROUPINGS.
        """
        if how == self.group_by:
            return self
        cells = np.arange(self.num_known_cells).reshape(self.num_classes, len(self.attributes))
        absent = np.isin(np.arange(len(self.attributes)) if self.by_attribute else cells, self.missing)
        if how == BY_ATTRIBUTE:
            missing = np.flatnonzero(absent.all(axis=0))
            return replace(self, group_by=how, missing=tuple(missing.tolist()), aligned=(), tasks={}, factors=())
        return replace(self, group_by=how, missing=tuple(cells[:, absent].ravel().tolist()))

    def is_aligned(self, label: Ints, attribute: Ints) -> NDArray[np.bool_] | None:
        """Return whether each row is bias-aligned, or None if the set defines no pairs.

        False where the attribute is not known; such a row is not bias-conflicting either (`bias_of`).
        """
        bias = self.bias_of(label, attribute)
        return None if bias is None else bias[0]

    def bias_of(self, label: Ints, attribute: Ints) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
        """Return (bias-aligned, bias-conflicting) of each row; None if the set defines no pairs.

        Both are False where the attribute is not known (-1).
        """
        if not self.aligned:  # as always for groups by attribute
            return None
        table = np.zeros((self.num_classes, len(self.attributes)), bool)
        for class_code, codes in enumerate(self.aligned):
            table[class_code, list(codes)] = True
        known = np.asarray(attribute) >= 0
        return table[label, attribute] & known, ~table[label, attribute] & known

    def aligned_groups(self) -> NDArray[np.bool_] | None:
        """Return whether each group is bias-aligned, bool [G], or None if the set defines no pairs."""
        if not self.aligned:
            return None
        return self.is_aligned(*np.divmod(np.arange(self.num_groups), len(self.attributes)))

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as plain values, as the sidecar stores it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DatasetSpec:
        """Build a spec from the values of `to_dict`. JSON's lists become tuples.

        ValueError for text that no file can hold: half of a surrogate pair, which JSON can spell.
        """

        def freeze(value: Any) -> Any:
            if isinstance(value, str):
                value.encode()
            if isinstance(value, Mapping):
                return {key: freeze(v) for key, v in value.items()}
            return tuple(freeze(v) for v in value) if isinstance(value, list | tuple) else value

        frozen = {key: freeze(value) for key, value in values.items()}
        frozen["factors"] = tuple(Factor(**factor) for factor in frozen.get("factors", ()))
        return cls(**frozen)


# An image before it is written: pixels (uint8, [H, W, 3] or [H, W]), the bytes of an encoded file, or its path.
RawImage = NDArray[np.uint8] | bytes | Path


@dataclass(frozen=True)
class Rows:
    """One split before it is written: columns, and a function that reads image i.

    label, attribute: int64 [N]. The attribute is -1 where it is not known.
    image: row number -> RawImage; called from several threads.
    names: [N], the name of each row in messages (a relative path or 'train-images[17]'); unique.
    columns: more values per row for the sidecar, each of length N, all text or all numbers.
        Columns that `DatasetSpec.columns` names hold integer codes, -1 where the value is not known.
    source: 0 real, 1 synthetic; int64 [N], or None if all rows are real.
    absent: returns the row numbers whose file does not exist, without reading a file. None if there are no files.
    tree: the `ImageTree` in which `names` are paths, for the report on its other files. None if there is none.
    """

    label: Ints
    attribute: Ints
    image: Callable[[int], RawImage]
    names: Sequence[str]
    columns: Mapping[str, Sequence[Any] | NDArray[Any]] = field(default_factory=dict)
    source: Ints | None = None
    absent: Callable[[], Ints] | None = None
    tree: object | None = None

    def __len__(self) -> int:
        return len(self.label)


def parse_aligned(text: str, classes: tuple[str, ...], attributes: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """Return `DatasetSpec.aligned` of the text 'classA:attr1,classB:attr2', or () if the text is empty.

    Names that hold a comma, colon or quote are quoted as `system.name_lists` says. A class may have several attributes
    and needs at least one. UsageError names an unknown class or attribute.
    """
    if not text:
        return ()
    pairs: dict[str, list[int]] = {name: [] for name in classes}
    for item in split_unquoted(text, ",", others=":"):
        label, attribute = _parse_pair(item, classes, attributes)
        pairs[label].append(attributes.index(attribute))
    lacking = [name for name, codes in pairs.items() if not codes]
    if lacking:
        raise UsageError(
            f"--aligned '{text}' names no attribute for the class {lacking[0]}; it needs one for each class"
        )
    return tuple(tuple(sorted(set(codes))) for codes in pairs.values())


def _parse_pair(item: str, classes: tuple[str, ...], attributes: tuple[str, ...]) -> tuple[str, str]:
    """Return the class and the attribute of 'class:attribute'.

    Names with colons need no quotes where only one colon stands between a class and an attribute.
    """
    parts = split_unquoted(item, ":")
    cuts = [(":".join(parts[:k]), ":".join(parts[k:])) for k in range(1, len(parts))]
    splits = [(unquote(label), unquote(attribute)) for label, attribute in cuts if _is_name(label, attribute)]
    known = [pair for pair in splits if pair[0] in classes and pair[1] in attributes]
    if len(known) == 1:
        return known[0]
    if known:
        raise UsageError(
            f"--aligned '{item}' can be read as {' or '.join(f'class {c}, attribute {a}' for c, a in known)}; {RULE}"
        )
    rule = f"; {RULE}" if any(name != quote(name) for name in (*classes, *attributes)) else ""
    if not splits:
        raise UsageError(
            f"--aligned '{item}' is no pair, which is 'class:attribute'; the classes are {join_names(classes, ', ')}, "
            f"the attributes {join_names(attributes, ', ')}{rule}"
        )
    label, attribute = splits[-1]
    kind, name, names = ("class", label, classes) if label not in classes else ("attribute", attribute, attributes)
    raise UsageError(
        f"--aligned '{item}': unknown {kind} '{name}'{nearest(name, names)} known: {join_names(names, ', ')}{rule}"
    )


def _is_name(*parts: str) -> bool:
    """Return whether each part is one name: a cut inside a quoted name leaves a broken quote."""
    try:
        return bool([unquote(part) for part in parts])
    except UsageError:
        return False
