"""The values beside the images of a data set, gathered while its items are read, and their rows."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from debeton.data.beton.image_decoding import BadImage
from debeton.data.raw.dataset_items import ATTRIBUTE, LABEL, POSITIONS, Item, MapDataset
from debeton.data.raw.value_codes import Names
from debeton.data.raw.value_table import PATH, GivenNames, ValueTable, code_table
from debeton.data.spec import DatasetSpec, RawImage, Rows
from debeton.system.log import logger


def own_names(dataset: MapDataset, role: str, part: str | None, values: Sequence[Any]) -> Names | None:
    """Return the names that a data set has for the codes of 'label' or 'attribute'; None if it has none.

    part: the name of its part of the items; None for an array or a function.
    values: [N].
    """
    for inner in _with_inner(dataset):
        features = getattr(inner, "features", None)
        if part is not None and isinstance(features, Mapping) and hasattr(features.get(part), "names"):
            return tuple(features[part].names)
        classes = getattr(inner, "classes", None)
        if role == LABEL and isinstance(classes, list | tuple):
            targets = getattr(inner, "targets", None)
            is_target = part in (str(POSITIONS[LABEL]), LABEL, "target", "y")
            if not is_target and (targets is None or list(values) != [int(target) for target in targets]):
                return None  # the names of another part
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
        self,
        name: str,
        dataset: MapDataset,
        given: GivenNames,
        names: Sequence[str] | None,
        columns: Mapping[str, Sequence[Any]],
    ) -> tuple[Rows, DatasetSpec]:
        """Return the rows and their spec, when all items were added.

        name: of the data set.
        dataset: the data set, which may know names of codes.
        given: the names of codes that are given.
        names: of the rows; None takes those of the items.
        columns: more values of each row, [N] each.
        """
        self._fill_unread()
        if self._others:
            listed = ", ".join(f"{part} ({word})" for part, word in self._others.items())
            logger.info("%s: no single number or text, so not kept beside the images: %s", self.where, listed)
        kept: dict[str, Sequence[Any]] = {self._column_name(part): values for part, values in self._columns.items()}
        paths = kept.pop(PATH, None)
        if names is None and paths is not None and all(paths) and len(set(paths)) == len(paths):
            names, paths = list(map(str, paths)), None
        if paths is not None:
            kept["item_path"] = paths
        names = [f"item {row}" for row in range(self._count)] if names is None else names
        by_role = {role: self._given.get(role) or self._by_role.get(role) for role in (LABEL, ATTRIBUTE)}
        if given.spec is None:
            found = {role: own_names(dataset, role, self._parts.get(role), by_role[role] or ()) for role in by_role}
            classes = found[LABEL] if given.classes is None else given.classes
            attributes = found[ATTRIBUTE] if given.attributes is None else given.attributes
            given = replace(given, classes=classes, attributes=attributes)
        words = {role: self._word(role) for role in by_role}
        label = by_role[LABEL] or [None] * self._count
        table = ValueTable(self.where, label, by_role[ATTRIBUTE], kept, names, words)
        coded = code_table(table, name, given)
        rows = coded.rows(_no_image)
        return replace(rows, columns={**rows.columns, **columns}), coded.spec

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


def _no_image(row: int) -> RawImage:
    raise BadImage("was written already")
