"""A PyTorch map-style data set written as a beton: every item is read once, by all cores."""

from __future__ import annotations

import multiprocessing
import pickle
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from debeton.data.raw.dataset_items import ATTRIBUTE, LABEL, Choice, Item, MapDataset, Part, read_item, read_items
from debeton.data.raw.item_values import ItemValues
from debeton.data.raw.own_data import as_raw_image
from debeton.data.raw.value_codes import Names
from debeton.data.raw.value_table import Aligned, GivenNames
from debeton.data.spec import DatasetSpec
from debeton.data.split_names import FURTHER, SPLITS, TEST_PREFIX
from debeton.system.cores import usable_cores
from debeton.system.errors import DataError, UsageError

if TYPE_CHECKING:
    from debeton.data.beton.writer import WriteOptions

READERS = ("auto", "processes", "threads")
LARGEST_PICKLE = 1 << 24  # bytes; a data set that holds more lies in memory already, and threads read it as fast
SPLIT_AT_END = re.compile(rf"(.+)_({'|'.join((*SPLITS, *FURTHER))}|{TEST_PREFIX}\w[\w.-]*)")


def write_dataset(
    dataset: MapDataset,
    path: Path | str,
    *,
    label: Part | ArrayLike | None = None,
    attribute: Part | ArrayLike | None = None,
    image: Part | None = None,
    split: str | None = None,
    spec: DatasetSpec | None = None,
    classes: Names | None = None,
    attributes: Names | None = None,
    aligned: Aligned = "",
    name: str | None = None,
    names: Sequence[str] | None = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
    options: WriteOptions | None = None,
    readers: str = "auto",
    progress: bool | None = None,
) -> dict[str, Any]:
    """Write a PyTorch map-style data set as the beton `path`, and return its sidecar. Every item is read once.

    An item is an image, or a tuple, named tuple, dict or dataclass with an image and what belongs to it. Images are
    those of `rows_from_dataset`. Every other single number or text of an item becomes a column of the beton. Parts that
    are no single value are left out and named in a message. Leave random transforms and Normalize out of the data set.

    path: the beton, such as 'pets_train.beton'.
    label: the position or the key of the label in the item, a function of the item, or an array [N]. By default the
        second part of a tuple, or the key 'label', 'target', 'y' or the like. A nested part is 'outer.inner'.
    attribute: the same for the spurious attribute. By default the third part of a tuple if it is one whole number or
        text, or the key 'attribute' or the like; else there is none.
    image: the same for the image. By default the first part that is one.
    split: the name of the split. By default the end of the file name, as in 'pets_train.beton'.
    spec: names of classes and attributes, such as `open_beton(...).spec` of the train split. Splits of one set need the
        same names in the same order.
    classes, attributes: names in the order of their codes, or a dict of a name by value; in place of `spec`. Without
        them `dataset.classes` and the data set's features are asked. Then text gets codes in sorted order, and whole
        numbers are codes.
    aligned: the attribute that goes with each class, 'classA:attr1,classB:attr2', or as in DatasetSpec.
    name: the name of the data set. By default the beginning of the file name.
    names: how messages call a row, [N], unique. By default the part 'path' of the items, or 'item 0', 'item 1', ...
    columns: more values of each row, by name, each [N].
    options: the `WriteOptions`.
    readers: 'processes', 'threads', or 'auto'. 'auto' takes processes if the data set can be pickled. One that holds an
        open file or a lock cannot, and is read by threads.
    progress: whether to draw progress bars; by default on a terminal.

    DataError where an item has no image or label, or a class is not known; else as `write_beton`.
    """
    from debeton.data.beton.row_checks import CheckedRows, check_rows
    from debeton.data.beton.writer import ImageStream, WriteOptions, row_sequence, write_stream  # imports numba

    count, path, options = _length(dataset), Path(path), options or WriteOptions()
    name, split = name_and_split(path, name or (spec.name if spec is not None else None), split)
    where = f"{name}/{split}"
    given = {
        role: _listed(values, count, role)
        for role, values in ((LABEL, label), (ATTRIBUTE, attribute))
        if not (values is None or callable(values) or isinstance(values, str | int))
    }
    parts: list[Any] = [None if role in given else part for role, part in ((LABEL, label), (ATTRIBUTE, attribute))]
    values = ItemValues(count, where, given)
    known = GivenNames(spec, classes, attributes, aligned)

    def describe() -> CheckedRows:
        return check_rows(*values.rows(name, dataset, known, names, columns or {}), where)

    numbers = row_sequence(count, set(), options.shuffle_seed, where)
    row_name = names.__getitem__ if names is not None else "item {}".format
    with _reading(dataset, numbers.tolist(), Choice(image, parts[0], parts[1], frozenset(given)), readers) as (
        items,
        read,
    ):
        stream = ImageStream(name, split, count, numbers, items, lambda item: values.add(read(item)), row_name)
        bars = sys.stderr.isatty() if progress is None else progress
        return write_stream(path, stream, describe, options, {"dataset_options": {}, "left_out": []}, progress=bars)


@contextmanager
def _reading(
    dataset: MapDataset, rows: Sequence[int], choice: Choice, readers: str
) -> Iterator[tuple[Iterable[Any], Callable[[Any], Item]]]:
    """Yield what threads are to be given, and the function with which a thread makes an `Item` of it.

    Processes read the items one after the other, and threads only take them. Or threads are given row numbers.
    """
    if readers not in READERS:
        raise UsageError(f"readers='{readers}' is unknown; known: {', '.join(READERS)}")
    processes = usable_cores() if readers == "processes" or (readers == "auto" and _may_be_forked(dataset)) else 0
    if processes:
        with closing(read_items(dataset, rows, choice, as_raw_image, processes)) as items:
            yield items, lambda item: item
    else:
        yield rows, lambda row: read_item(dataset, row, choice, as_raw_image)


def _may_be_forked(dataset: MapDataset) -> bool:
    """Return whether processes should read a data set: whether it can be pickled, and quickly.

    A data set that cannot may hold an open file or a lock, which processes must not share.
    A data set whose pickle is large has its images in memory, and threads read these as fast.
    """
    try:
        pickle.Pickler(_SmallFile(), protocol=pickle.HIGHEST_PROTOCOL).dump(dataset)
    except Exception:  # pickle raises nearly any error, as the class of an object likes
        return False
    return "fork" in multiprocessing.get_all_start_methods()


class _SmallFile:
    """A file that takes LARGEST_PICKLE bytes, keeps none of them, and then raises OverflowError."""

    def __init__(self) -> None:
        self._left = LARGEST_PICKLE

    def write(self, data: Any) -> int:
        self._left -= memoryview(data).nbytes
        if self._left < 0:
            raise OverflowError("the pickle is large")
        return memoryview(data).nbytes


def _length(dataset: MapDataset) -> int:
    """Return the number of items. UsageError for what is no map-style data set."""
    try:
        count = len(dataset)
    except TypeError:
        count = -1
    if count < 0 or not hasattr(dataset, "__getitem__"):
        inner = "; give its data set, loader.dataset" if hasattr(dataset, "dataset") else ""
        raise UsageError(
            f"{type(dataset).__name__} is no map-style data set: it needs a length and items by number{inner}"
        )
    if not count:
        raise DataError(f"the data set {type(dataset).__name__} has no item; nothing to write")
    return count


def name_and_split(path: Path, name: str | None, split: str | None) -> tuple[str, str]:
    """Return the name of the data set and the split, from the file name where they are not given."""
    found = SPLIT_AT_END.fullmatch(path.stem)
    if split is None and found is None:
        raise UsageError(f"{path.name} does not end in a split, as pets_train.beton does; name it with split=")
    return name or (found[1] if found else path.stem), split or (found[2] if found else "")


def _listed(values: Any, count: int, role: str) -> list[Any]:
    """Return an array of one value per item as a list. UsageError for another shape."""
    array = values.detach().cpu().numpy() if hasattr(values, "detach") else values
    array = array if isinstance(array, np.ndarray) else np.array(array, dtype=object)
    if array.shape != (count,):
        raise UsageError(f"{role}= has shape {list(array.shape)}; expected [{count}], one value for each item")
    return list(array.tolist())
