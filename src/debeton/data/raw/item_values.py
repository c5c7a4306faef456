"""The values beside the images of a data set, gathered while its items are read, and their rows."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from debeton.data.beton.image_decoding import BadImage
from debeton.data.raw.dataset_items import ATTRIBUTE, LABEL, POSITIONS, Item, MapDataset
from debeton.data.raw.value_codes import Names, code_values, keep_values
from debeton.data.spec import DatasetSpec, RawImage, Rows, parse_aligned
from debeton.system.errors import DataError, UsageError
from debeton.system.log import logger

PATH = "path"  # the column with the names of rows


@dataclass(frozen=True)
class NamesOfCodes:
    """The sources of the names of classes and attributes. The fields are those of `write_dataset`."""

    dataset: MapDataset
    spec: DatasetSpec | None = None
    classes: Names | None = None
    attributes: Names | None = None
    aligned: str | Sequence[Sequence[int]] = ""

    def __post_init__(self) -> None:
        if self.spec is not None and (self.classes is not None or self.attributes is not None or self.aligned):
            raise UsageError("spec= holds the names of classes and attributes; give it, or classes= and attributes=")

    def of_role(self, role: str, part: str | None, values: Sequence[Any]) -> Names | None:
        """Return the names of the codes of 'label' or 'attribute'; None if nothing names them.

        part: the name of its part of the items; None for an array or a function.
        values: [N].
        """
        if self.spec is not None:
            return self.spec.classes if role == LABEL else self.spec.attributes
        given = self.classes if role == LABEL else self.attributes
        if given is not None:
            return given
        for dataset in _with_inner(self.dataset):
            feature = getattr(dataset, "features", None)
            if part is not None and isinstance(feature, Mapping) and hasattr(feature.get(part), "names"):
                return tuple(feature[part].names)
        return self._own_classes(part, values) if role == LABEL else None

    def _own_classes(self, part: str | None, values: Sequence[Any]) -> Names | None:
        """Return `dataset.classes` if these are the names of the label: of its own target, and not of another part."""
        for dataset in _with_inner(self.dataset):
            classes = getattr(dataset, "classes", None)
            if not isinstance(classes, list | tuple):
                continue
            targets = getattr(dataset, "targets", None)
            is_target = part in (str(POSITIONS[LABEL]), LABEL, "target", "y")
            if not is_target and (targets is None or list(values) != [int(target) for target in targets]):
                return None
            return tuple(name if isinstance(name, str) else ", ".join(map(str, name)) for name in classes)
        return None


def _with_inner(dataset: Any) -> Iterator[Any]:
    """Yield a data set, and those inside of it, as torch's Subset and ConcatDataset hold them."""
    while dataset is not None:
        yield dataset
        inner = getattr(dataset, "datasets", None)
        dataset = inner[0] if isinstance(inner, list | tuple) and inner else getattr(dataset, "dataset", None)


class ItemValues:
    """The values of N items, added in any order and by any thread.

    where: the data set and the split, for messages.
    """

    def __init__(self, count: int, where: str, given: Mapping[str, list[Any]]):
        """Begin without an item.

        given: the values of 'label' and 'attribute' that are known before, [N] each.
        """
        self.where = where
        self._count, self._given, self._lock = count, dict(given), threading.Lock()
        self._by_role: dict[str, list[Any]] = {}
        self._columns: dict[str, list[Any]] = {}
        self._parts: dict[str, str | None] = {}
        self._others: dict[str, str] = {}
        self._unread: set[int] = set()

    def add(self, item: Item) -> RawImage:
        """Take the values of an item and return its image. BadImage if the image cannot be read."""
        with self._lock:
            for role, value in ((LABEL, item.label), (ATTRIBUTE, item.attribute)):
                if role in item.roles:
                    self._by_role.setdefault(role, [None] * self._count)[item.row] = value
            for name, value in item.values.items():
                self._columns.setdefault(name, [None] * self._count)[item.row] = value
            self._parts.update(item.roles)
            self._others.update(item.others)
            if item.image is None:
                self._unread.add(item.row)
        if item.image is None:
            raise BadImage(item.problem)
        return item.image

    def rows(
        self, name: str, known: NamesOfCodes, names: Sequence[str] | None, columns: Mapping[str, Sequence[Any]]
    ) -> tuple[Rows, DatasetSpec]:
        """Return the rows and their spec, when all items were added.

        name: of the data set.
        known: what is known of the names of codes.
        names: of the rows; None takes those of the items.
        columns: more values of each row, [N] each.
        """
        self._fill_unread()
        if self._others:
            listed = ", ".join(f"{part} ({word})" for part, word in self._others.items())
            logger.info("%s: no single number or text, so not kept beside the images: %s", self.where, listed)
        kept = {self._column_name(part): values for part, values in self._columns.items()}
        paths = kept.pop(PATH, None)
        if names is None and paths is not None and all(paths) and len(set(paths)) == len(paths):
            names, paths = list(map(str, paths)), None
        if paths is not None:
            kept["item_path"] = paths
        names = [f"item {row}" for row in range(self._count)] if names is None else names
        label, classes = self._codes(LABEL, known, names)
        attribute, attributes = self._codes(ATTRIBUTE, known, names)
        if known.spec is None:
            spec = DatasetSpec(name, classes, attributes, _aligned(known.aligned, classes, attributes))
            spec = replace(spec, **{f"{role}_name": word for role in (LABEL, ATTRIBUTE) if (word := self._word(role))})
        else:
            spec = known.spec
        further = {column: keep_values(values) for column, values in kept.items()}
        return Rows(label, attribute, _no_image, names, {**further, **columns}), spec

    def _codes(self, role: str, known: NamesOfCodes, names: Sequence[str]) -> tuple[Any, tuple[str, ...]]:
        """Return the codes of 'label' or 'attribute', [N], and their names."""
        values = self._given.get(role) or self._by_role.get(role)
        of_codes = known.of_role(role, self._parts.get(role), values or ())
        if values is None:  # only an attribute may be absent
            values, of_codes = [0] * self._count, of_codes or ("any",)
            if len(of_codes) > 1:
                raise DataError(f"{self.where}: the items have no attribute, and attributes are named; give attribute=")
        unknown = role == ATTRIBUTE
        return code_values(values, of_codes, role, self.where, lambda row: names[row], may_be_missing=unknown)

    def _word(self, role: str) -> str:
        """Return the name of a role's part, as the spec names it; '' for a position or a function."""
        word = (self._parts.get(role) or "").rpartition(".")[2]
        return "" if word.isdecimal() else word

    def _column_name(self, part: str) -> str:
        """Return the name of the column of a part: its last name, if no other part has it."""
        last = part.rpartition(".")[2]
        shared = sum(other.rpartition(".")[2] == last for other in self._columns) > 1
        name = (part if shared else last).replace("#", "_")
        return f"item_{name}" if name[0].isdecimal() else name

    def _fill_unread(self) -> None:
        """Give the rows whose item could not be read the values of another row. They are not stored."""
        read = next((row for row in range(self._count) if row not in self._unread), None)
        if read is None:
            return
        for values in (*self._by_role.values(), *self._columns.values()):
            for row in self._unread:
                values[row] = values[read]


def _aligned(
    aligned: str | Sequence[Sequence[int]], classes: tuple[str, ...], attributes: tuple[str, ...]
) -> tuple[tuple[int, ...], ...]:
    if isinstance(aligned, str):
        return parse_aligned(aligned, classes, attributes)
    return tuple(tuple(codes) for codes in aligned)


def _no_image(row: int) -> RawImage:
    raise BadImage("was written already")
