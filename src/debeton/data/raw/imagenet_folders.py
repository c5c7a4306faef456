"""Photos in the class folders of ImageNet and of its test sets.

Only names are listed, because there may be more than a million.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from debeton.data.image_names import is_image
from debeton.data.raw.fetch import Archive
from debeton.data.raw.image_files import ImageTree, MissingDataError, file_rows
from debeton.data.raw.source import SOURCES
from debeton.data.spec import Rows
from debeton.system.errors import DataError, UsageError

BY_WNID = re.compile(r"(n\d{8})[/_]")  # a class folder, or the name of an official training file
BY_NUMBER = re.compile(r"(\d{1,3})/")  # a class folder that is named by the number of the class
# The owners of ImageNet-A and -R publish no hash.
IMAGENET_A, IMAGENET_R = (
    Archive(f"{name}.tar", f"https://people.eecs.berkeley.edu/~hendrycks/{name}.tar", folder=name)
    for name in ("imagenet-a", "imagenet-r")
)
Files = dict[str, list[str]]  # by wnid, or by another name of the class


def files_by_class(tree: ImageTree, folder: str, named: re.Pattern[str] = BY_WNID) -> Files:
    """Return the images of each class in a folder of the tree, in sorted order.

    folder: '' for the tree itself.
    named: BY_WNID or BY_NUMBER, how class folders are named.
    """
    start = len(folder) + 1 if folder else 0
    files: Files = {}
    for path in paths_in(tree, folder, named):
        match = named.match(path, start)
        if match:
            files.setdefault(match.group(1), []).append(path)
    return {name: files[name] for name in sorted(files)}


def paths_in(tree: ImageTree, folder: str, named: re.Pattern[str] = BY_WNID) -> Iterator[str]:
    """Yield the images of a folder of the tree and of its class folders."""
    prefix = f"{folder}/" if folder else ""
    if tree.root.is_file():
        yield from (*tree.files(f"{prefix}*/*"), *tree.files(f"{prefix}*"))
        return
    base = tree.root / folder
    for name in sorted(os.listdir(base)) if base.is_dir() else []:
        if _is_visible_image(name):
            yield prefix + name
        elif named.fullmatch(f"{name}/"):
            yield from (f"{prefix}{name}/{file}" for file in sorted(os.listdir(base / name)) if _is_visible_image(file))


def _is_visible_image(name: str) -> bool:
    """Return True for the name of an image that is not hidden."""
    return is_image(name) and not name.startswith(".")


def class_rows(tree: ImageTree, files: Mapping[str, Sequence[str]], order: Sequence[str]) -> Rows:
    """Return the rows of the classes in `order`, which gives their codes. A class may have no image."""
    parts = [(code, files.get(name, [])) for code, name in enumerate(order)]
    paths = [path for _, part in parts for path in part]
    return file_rows(tree, paths, [code for code, part in parts for _ in part])


def imagenet_rows(name: str, root: Path, wnids: Sequence[str]) -> dict[str, Rows]:
    """Return ImageNet's rows of some classes for a set that is made of them. Labels count `wnids` in sorted order.

    The splits are called `train` and `test`, as source `imagenet` calls them; both are there.
    MissingDataError or DataError names the set.

    name: of the data set.
    root: the folder around ImageNet's.
    """
    source, where = SOURCES.get("imagenet"), SOURCES.get(name).where
    try:
        splits = source.read(source.request(root, classes=",".join(sorted(wnids)))).splits
    except MissingDataError as error:
        raise MissingDataError(f"{name}: {error}; {where}") from None
    except UsageError as error:  # the set chose the classes, so the user's command is not wrong
        raise DataError(f"{name}: a class is missing in {root}: {error}") from None
    for split, folder in (("train", "train"), ("test", "val")):
        if split not in splits:
            raise MissingDataError(f"{name}: no {folder}/ in {root}; {where}")
    return dict(splits)
