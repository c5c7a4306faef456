"""The classes of ImageNet: their names, and the classes of a subset."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from debeton.data.raw.tables import read_fields
from debeton.system.array_files import read_npy
from debeton.system.errors import DataError, UsageError, nearest
from debeton.system.json_files import read_json
from debeton.system.json_shapes import ListOf, Table
from debeton.system.regular_files import read_regular_text

NUM_CLASSES = 1000


def read_names(places: Sequence[Path]) -> dict[str, str]:
    """Return the first name of each class by wnid, in sorted order; {} if no file holds the names.

    places: the folders to look in, one after the other.
    """
    for place in places:
        mapping, index = place / "LOC_synset_mapping.txt", place / "imagenet_class_index.json"
        if mapping.is_file():
            lines = read_fields(mapping)
            return dict(sorted((line[0], " ".join(line[1:]).split(",")[0] or line[0]) for line in lines))
        if index.is_file():
            remedy = 'expected the form {"0": ["n01440764", "tench"], ...}'
            entries = read_json(index, Table(others=ListOf(str, 2)), remedy=remedy).values()
            return dict(sorted((wnid, name.replace("_", " ")) for wnid, name in entries))
    return {}


def imagenet_class_names() -> tuple[str, ...]:
    """Return the names of ImageNet's 1,000 classes in the order of their wnids, as timm lists them."""
    return tuple(names_of_wnids(()).values())


def names_of_wnids(places: Sequence[Path]) -> dict[str, str]:
    """Return the name of each of the 1,000 classes by wnid, in their usual order.

    A part of the classes must take its names from here: `class_names` of a part would not tell the two cranes apart.

    places: folders that may hold a file with other names (`read_names`). Without one, the names are those of timm.
    DataError if such a file does not name all classes.
    """
    names = read_names(places)
    if not names:
        from timm.data import ImageNetInfo

        info = ImageNetInfo()
        names = {wnid: info.label_name_to_description(wnid).split(",")[0] for wnid in info.label_names()}
    if len(names) != NUM_CLASSES:
        raise DataError(
            f"the file with the names of the classes in {' or '.join(map(str, places))} has {len(names)}, expected "
            f"{NUM_CLASSES}; take it away, or replace it by the whole LOC_synset_mapping.txt"
        )
    return dict(zip(names, class_names(list(names), names), strict=True))


def imagenet_aliases(classes: Sequence[str]) -> dict[str, int]:
    """Return the codes of ImageNet's classes by wnid and by name, if `classes` are these; else an empty table.

    classes: names by code: wnids or the names of `imagenet_class_names`.
    """
    if len(classes) != NUM_CLASSES:
        return {}
    from timm.data import ImageNetInfo

    wnids, names = ImageNetInfo().label_names(), imagenet_class_names()
    if sum(name in pair for name, pair in zip(classes, zip(wnids, names))) < NUM_CLASSES:
        return {}
    return {alias: code for kind in (names, wnids) for code, alias in enumerate(kind)}


def class_names(wnids: Sequence[str], names: dict[str, str]) -> tuple[str, ...]:
    """Return the names of classes. If two share a name (crane, the bird and the machine), the wnid follows it."""
    first_names = [names.get(wnid, wnid) for wnid in wnids]
    counts = Counter(first_names)
    pairs = zip(first_names, wnids, strict=True)
    return tuple(name if counts[name] == 1 else f"{name} ({wnid})" for name, wnid in pairs)


def choose_classes(text: str, order: Sequence[str], *, complete: bool) -> list[str]:
    """Return the wnids that `text` names, sorted; [] for an empty text.

    text: wnids, numbers, ranges, or a .npy or .txt file of these.
    order: the wnids that numbers count.
    complete: whether `order` is that of all classes. Otherwise it must hold 1,000.
    """
    chosen: set[str] = set()
    for item in _items(text):
        numbers = re.fullmatch(r"(\d+)(?:-(\d+))?", item)
        if numbers:
            first, last = int(numbers[1]), int(numbers[2] or numbers[1])
            if not complete and len(order) != NUM_CLASSES:
                raise UsageError(
                    f"--classes '{item}' counts {NUM_CLASSES} classes and {len(order)} are here; name wnids, or put "
                    "LOC_synset_mapping.txt into RAW"
                )
            if not first <= last < len(order):
                raise UsageError(f"--classes '{item}' is not a number or range within 0 to {len(order) - 1}")
            chosen.update(order[first : last + 1])
        elif item in order:
            chosen.add(item)
        else:
            raise UsageError(f"--classes '{item}' is no class{nearest(item, order)} give wnids, numbers or ranges")
    return sorted(chosen)


def _items(text: str) -> list[str]:
    """Return the single items of `--classes`, from the text or from the file that it names."""
    path = Path(text)
    if path.suffix not in (".npy", ".txt"):
        return [item.strip() for item in text.split(",")] if text else []
    try:
        if path.suffix == ".npy":
            items = [str(value) for value in read_npy(path).ravel().tolist()]
        else:
            items = read_regular_text(path).replace(",", " ").split()
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"--classes {path} cannot be read ({error})") from None
    if not items:
        raise UsageError(f"--classes {path} names no class")
    return items
