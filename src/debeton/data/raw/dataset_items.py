"""Items of a PyTorch map-style data set, taken apart: the image, and the single values beside it.

An item is an image, or a tuple, named tuple, dict or dataclass that holds one. Its parts may be nested. A part has the
name of its key or field, or its position in a tuple, and 'outer.inner' where it is nested.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import struct
import zlib
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from debeton.data.beton.image_decoding import BadImage
from debeton.data.spec import RawImage
from debeton.system.errors import DataError, nearest

Scalar = bool | int | float | str | None
Part = str | int | Callable[[Any], Any]  # the name or the position of a part, or a function of the item

IMAGE, LABEL, ATTRIBUTE = "image", "label", "attribute"
# Names that stand for a part in published data sets; the first one that an item has is taken.
NAMES = {
    IMAGE: ("image", "img", "picture", "photo", "pixel_values", "pixels", "jpg", "png", "x"),
    LABEL: ("label", "labels", "target", "targets", "y", "class", "fine_label"),
    ATTRIBUTE: ("attribute", "attributes", "spurious", "a", "place", "domain", "group_attribute"),
}
POSITIONS = {IMAGE: 0, LABEL: 1, ATTRIBUTE: 2}
# The errors of Pillow and others for one damaged image. Any other error is a fault of the data set's own code.
IMAGE_ERRORS = (OSError, SyntaxError, EOFError, zlib.error, struct.error, BadImage)


class MapDataset(Protocol):
    """A data set by index, as PyTorch's: `dataset[i]` is an image and what belongs to it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


@dataclasses.dataclass(frozen=True)
class Choice:
    """The parts of an item that are its image, label and attribute; None guesses by name and position.

    label, attribute: not looked for where `given` has them.
    given: the roles whose values are known without the items.
    """

    image: Part | None = None
    label: Part | None = None
    attribute: Part | None = None
    given: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class Item:
    """One item, read and taken apart.

    image: None where `problem` says why the image cannot be stored.
    values: the single values of the item by the name of their part, and those of the roles by 'label' and 'attribute'.
    roles: the part that each role has, by role; None for a function.
    others: the parts that are no single value, with a word for what they are.
    """

    row: int
    image: RawImage | None
    values: Mapping[str, Scalar] = dataclasses.field(default_factory=dict)
    label: Scalar = None
    attribute: Scalar = None
    roles: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    others: Mapping[str, str] = dataclasses.field(default_factory=dict)
    problem: str = ""


def read_item(dataset: MapDataset, row: int, choice: Choice, to_image: Callable[[Any, int], RawImage]) -> Item:
    """Return item `row` of a data set. An image that cannot be read is a `problem` of its item.

    to_image: (image, row) -> RawImage.
    DataError where the item has no image or no label, or the data set's own code fails.
    """
    try:
        item = dataset[row]
    except IMAGE_ERRORS as error:
        return Item(row, None, problem=f"cannot be read ({type(error).__name__}: {error})")
    except DataError:
        raise
    except Exception as error:  # whatever the user's code may raise
        raise DataError(f"item {row} of the data set cannot be read ({type(error).__name__}: {error})") from error
    parts = _parts(item)
    image, image_name = _pick(IMAGE, choice.image, item, parts, row)
    rest = {name: value for name, value in parts.items() if not _is_within(name, image_name)}
    picked: dict[str, Scalar] = {}
    roles: dict[str, str | None] = {IMAGE: image_name}
    for role, part in ((LABEL, choice.label), (ATTRIBUTE, choice.attribute)):
        if role in choice.given or (part is None and role == ATTRIBUTE and _guess(role, item, rest) is None):
            continue
        value, name = _pick(role, part, item, rest, row)
        picked[role], roles[role] = _single(value, role, name, row), name
    scalars = {name: as_scalar(value) for name, value in rest.items()}
    taken = [roles.get(role) for role in (LABEL, ATTRIBUTE)]
    try:
        raw, problem = to_image(image, row), ""
    except IMAGE_ERRORS as error:  # Pillow decodes a file when its pixels are asked for
        raw, problem = None, f"cannot be read ({type(error).__name__}: {error})"
    return Item(
        row,
        raw,
        {name: value for name, value in scalars.items() if value is not NO_SCALAR and name not in taken},
        roles=roles,
        others={name: _word(rest[name]) for name, value in scalars.items() if value is NO_SCALAR and name not in taken},
        problem=problem,
        **picked,
    )


NO_SCALAR: Any = object()


def as_scalar(value: Any) -> Any:
    """Return a single value as Python's bool, int, float, str or None; NO_SCALAR for anything else.

    An array or tensor with one element is a single value.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value.value if isinstance(value, enum.Enum) else value
    if isinstance(value, enum.Enum):
        return as_scalar(value.value) if isinstance(value.value, int | str) else value.name
    if isinstance(value, datetime.date | datetime.time | Path):
        return value.isoformat() if not isinstance(value, Path) else value.as_posix()
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray | np.generic) and value.size == 1 and value.dtype.kind in "biufU":
        return np.asarray(value).reshape(()).item()
    return NO_SCALAR


def _parts(item: Any, prefix: str = "") -> dict[str, Any]:
    """Return the parts of an item by name, in their order. An image is not taken apart."""
    named = _named_parts(item)
    if named is None:
        return {prefix or IMAGE: item}
    found: dict[str, Any] = {}
    for name, value in named:
        found.update(_parts(value, f"{prefix}.{name}" if prefix else name))
    return found


def _named_parts(item: Any) -> list[tuple[str, Any]] | None:
    """Return the name and the value of each direct part; None for a value that has none."""
    if isinstance(item, Mapping):
        is_file = {"bytes", "path"} == set(item)  # an encoded image, as the library `datasets` gives it
        return None if is_file else [(str(key), value) for key, value in item.items()]
    if isinstance(item, tuple) and hasattr(item, "_fields"):
        return list(zip(item._fields, item))
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return [(field.name, getattr(item, field.name)) for field in dataclasses.fields(item)]
    if isinstance(item, tuple | list) and not _is_numbers(item):
        return [(str(place), value) for place, value in enumerate(item)]
    return None


def _is_numbers(item: Sequence[Any]) -> bool:
    """Return whether a list is a row of numbers, such as a box; a tuple may be an item."""
    return isinstance(item, list) and bool(item) and all(isinstance(value, int | float) for value in item)


def _pick(role: str, part: Part | None, item: Any, parts: Mapping[str, Any], row: int) -> tuple[Any, str | None]:
    """Return the value that has a role in an item, and the name of its part."""
    if callable(part):
        try:
            return part(item), None
        except Exception as error:  # whatever the user's function may raise
            raise DataError(f"{role}= fails on item {row} ({type(error).__name__}: {error})") from error
    name = _name_of(part, item) if part is not None else _guess(role, item, parts)
    if name is None or name not in parts:
        inner = [other for other in parts if _is_within(other, name)]
        if name is not None and inner:
            raise DataError(
                f"the {role} of item {row}, '{name}', has the parts {', '.join(inner)}; give one of them, as in "
                f"{role}='{inner[0]}', or a function of the item"
            )
        what = f"no '{name}'{nearest(name, parts)}" if name is not None else f"no {role};"
        known = ", ".join(f"{other} ({_word(value)})" for other, value in parts.items()) or "no part beside its image"
        raise DataError(f"item {row} of the data set has {what} it has {known}; say what it is with {role}=")
    return parts[name], name


def _name_of(part: Part, item: Any) -> str:
    """Return the name of the part at a position or under a key."""
    named = _named_parts(item)
    if (
        isinstance(part, int)
        and named is not None
        and not isinstance(item, Mapping)
        and -len(named) <= part < len(named)
    ):
        return named[part][0]
    return str(part)


def _guess(role: str, item: Any, parts: Mapping[str, Any]) -> str | None:
    """Return the name of the part that has a role by its name, or by its position in a tuple."""
    by_name = {name.rpartition(".")[2].casefold(): name for name in reversed(list(parts))}
    for name in NAMES[role]:
        if name in by_name and (role == IMAGE or as_scalar(parts[by_name[name]]) is not NO_SCALAR):
            return by_name[name]
    named = _named_parts(item)
    if role == IMAGE:
        return next((name for name, value in parts.items() if _looks_like_image(value)), None)
    if named is None or isinstance(item, Mapping) or len(named) <= POSITIONS[role]:
        return None
    name = named[POSITIONS[role]][0]
    if role == ATTRIBUTE:
        is_code = name in parts and isinstance(as_scalar(parts[name]), int | str | type(None))
        return name if is_code else None
    return name


def _looks_like_image(value: Any) -> bool:
    if hasattr(value, "convert") or isinstance(value, bytes | Mapping | Path):
        return True
    return len(getattr(value, "shape", ())) in (2, 3)


def _single(value: Any, role: str, name: str | None, row: int) -> Scalar:
    """Return the value of a role. DataError unless it is a single one."""
    scalar = as_scalar(value)
    if scalar is NO_SCALAR:
        where = f"'{name}'" if name is not None else f"the result of {role}="
        raise DataError(
            f"the {role} of item {row}, {where}, is {_word(value)}; expected one number or text. Give {role}= as the "
            "name or position of another part, or as a function of the item"
        )
    return scalar


def _is_within(name: str, outer: str | None) -> bool:
    return outer is not None and (name == outer or name.startswith(f"{outer}."))


def _word(value: Any) -> str:
    """Return a word for a value in messages, such as 'Tensor [3, 32, 32]'."""
    shape = getattr(value, "shape", None)
    if shape is not None and not callable(shape):
        return f"{type(value).__name__} {list(shape)}"
    scalar = as_scalar(value)
    return f"{type(value).__name__}" if scalar is NO_SCALAR else repr(scalar)


def read_items(
    dataset: MapDataset,
    rows: Sequence[int],
    choice: Choice,
    to_image: Callable[[Any, int], RawImage],
    num_processes: int,
) -> Generator[Item, None, None]:
    """Yield items, read in their sequence by several processes. Close the generator if it is not read to its end.

    DataError where a process ends before its items are read; other errors as in `read_item`.
    """
    from torch.utils.data import DataLoader  # slow to import

    reader = _ItemReader(dataset, choice, to_image)
    loader: DataLoader[Any] = DataLoader(
        reader,  # type: ignore[arg-type]  # any object with a length and items will do
        batch_size=ITEMS_AT_ONCE,
        sampler=rows,
        num_workers=num_processes,
        collate_fn=_as_they_are,
        multiprocessing_context="fork",
    )
    try:
        for batch in loader:
            for item in batch:
                if isinstance(item, _Failure):
                    error = DataError(item.message)
                    error.add_note(item.trace)
                    raise error
                yield item
    except RuntimeError as error:  # how PyTorch reports a process that was killed
        raise DataError(
            f"a process that reads the data set ended ({error}); read it in one process with readers='threads'"
        ) from error


ITEMS_AT_ONCE = 8  # items in one message between processes


@dataclasses.dataclass(frozen=True)
class _Failure:
    """An error in a reading process, as text: an exception loses its cause on the way."""

    message: str
    trace: str


class _ItemReader:
    """A map-style data set of the items of another one, for PyTorch's loader."""

    def __init__(self, dataset: MapDataset, choice: Choice, to_image: Callable[[Any, int], RawImage]):
        self._arguments = (choice, to_image)
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, row: int) -> Item | _Failure:
        import traceback

        try:
            return read_item(self._dataset, row, *self._arguments)
        except DataError as error:
            return _Failure(str(error), traceback.format_exc())


def _as_they_are(items: list[Any]) -> list[Any]:
    return items
