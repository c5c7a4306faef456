"""The paths of a table of images: as people and programs write them, and as an `ImageTree` has them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from debeton.data.raw.image_files import ImageTree
from debeton.data.raw.other_files import visible_images
from debeton.data.raw.tables import Table
from debeton.system.errors import DataError
from debeton.system.file_names import leads_out


def read_paths(table: Table, column: str, tree: ImageTree) -> tuple[list[str], list[str]]:
    """Return the path of each row in the tree, and sentences on paths outside of it.

    Backslashes become '/', unless a file has such a name. A path below the root becomes relative to it. Another path of
    this machine, absolute or by '..', is kept as it is. Where the table knows its folder and no image lies below the
    root, all lie beside it.
    DataError where no file is there and the tree has files that may be meant, and for a NUL in a path.
    DataError also for a path that leads out of an archive.
    """
    if bad := next((row for path, row in zip(table.cells[column], table.rows) if "\0" in path), None):
        raise DataError(f"{table.where}, {bad}: the path holds a NUL, which no name of a file can hold; mend the table")
    paths = _with_slashes(table.cells[column], tree)
    root = str(tree.root.absolute())
    real_root = os.path.realpath(tree.root)
    paths = [_below(path, root, real_root) for path in paths]
    paths = _beside_the_table(paths, table, tree)
    outside = [(path, row) for path, row in zip(paths, table.rows) if leads_out(path)]
    if outside and tree.root.is_file():
        kind = "is an absolute path" if os.path.isabs(outside[0][0]) else "leads out of its folder"
        raise DataError(
            f"{table.where}, {outside[0][1]}: {outside[0][0]} {kind}, and --raw {tree.root} is an archive; write the "
            "paths as they are in the archive"
        )
    _explain_absent(paths, table, tree)
    note = f"{len(outside)} paths lie outside of {tree.root} and are used as they are, the first is "
    return paths, [f"{note}{outside[0][0]}"] if outside else []


def _with_slashes(paths: Sequence[str], tree: ImageTree) -> list[str]:
    odd = [path for path in paths if "\\" in path]
    if not odd:
        return list(paths)
    there = dict(zip(odd, tree.has(odd).tolist()))
    return [path if there.get(path, True) else path.replace("\\", "/") for path in paths]


def _below(path: str, root: str, real_root: str) -> str:
    """Return a path relative to the root where it lies below it."""
    path = os.path.normpath(path)
    if not leads_out(path):
        return path
    for start in (root, real_root):
        whole = os.path.normpath(os.path.join(start, path))
        if whole.startswith(f"{start.rstrip('/')}/"):
            return os.path.relpath(whole, start)
    return path


def _beside_the_table(paths: list[str], table: Table, tree: ImageTree) -> list[str]:
    """Return the paths below the folder of the table, if files are there and none is below the root alone."""
    if not any(table.folders) or tree.has(paths).any():
        return paths
    beside = [os.path.normpath(f"{folder}/{path}") for folder, path in zip(table.folders, paths, strict=True)]
    return beside if tree.has(beside).any() else paths


def _explain_absent(paths: Sequence[str], table: Table, tree: ImageTree) -> None:
    """Raise DataError if no file of the table is there and the tree has one like the first."""
    if tree.has(paths).any():
        return
    images = visible_images(tree.listing())
    path = paths[0]
    name = Path(path).name
    alike = next((image for image in images if Path(image).name == name), None)
    bare = next((image for image in images if Path(image).stem == name), None)
    found = alike or bare
    if found is None:
        return
    if alike is None:
        advice = "write the paths with their suffix"
    elif found.endswith(f"/{path}") and tree.root.is_dir():
        advice = f"pass --raw {tree.root / found.removesuffix(path).rstrip('/')} --csv {table.where}"
    else:
        advice = "write the paths as they are below --raw, or name another folder with --raw"
    raise DataError(
        f"{table.where}, {table.rows[0]}: none of the {len(paths)} files is in {tree.root}; there is no {path}, but "
        f"{found}; {advice}"
    )
