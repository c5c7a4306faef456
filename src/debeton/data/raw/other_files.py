"""The files that lie among the images of a set and are none of its rows, counted by reason."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import PurePosixPath

from debeton.data.image_names import IMAGE_SUFFIXES, is_image, is_no_image, listed
from debeton.data.left_out import MAX_EXAMPLES, LeftOut, left_out
from debeton.data.raw.image_files import ImageTree, Listing, is_hidden
from debeton.data.spec import Rows

UNKNOWN_SUFFIX = f"files whose suffix is not one of {listed(IMAGE_SUFFIXES)}"
HIDDEN = "hidden files and folders"
NO_IMAGES = "files that are no images"
LOOPS = "links to a folder that they lie in"


def other_files(listing: Listing) -> tuple[LeftOut, ...]:
    """Return everything in a listing that is no visible image, by reason."""
    hidden = [path for path in listing.files if is_hidden(path)]
    hidden += [f"{path}/" for path in listing.folders if is_hidden(path) and not is_hidden(path.rpartition("/")[0])]
    visible = [path for path in listing.files if not is_hidden(path) and not is_image(path)]
    return (
        *left_out(UNKNOWN_SUFFIX, [path for path in visible if not is_no_image(path)]),
        *left_out(LOOPS, listing.loops),
        *left_out(HIDDEN, hidden, fault=False),
        *left_out(NO_IMAGES, [path for path in visible if is_no_image(path)], fault=False),
    )


def visible_images(listing: Listing) -> list[str]:
    """Return the images of a listing, in its order, without hidden ones."""
    return [path for path in listing.files if is_image(path) and not is_hidden(path)]


def files_beside_rows(splits: Mapping[str, Rows], known: Collection[str] = ()) -> tuple[LeftOut, ...]:
    """Return the files in and below the folders of the rows that are no row of any split, by reason.

    A set may well use a part of its images. But an image below the folders of the rows, where no row is, may be one
    that nobody meant to leave out.

    splits: all splits of the set.
    known: files that need no report, because the source has its own reason for them.
    """
    parts: list[LeftOut] = []
    for tree in {id(rows.tree): rows.tree for rows in splits.values()}.values():
        if isinstance(tree, ImageTree):
            used = {name for rows in splits.values() if rows.tree is tree for name in rows.names}
            parts += _files_beside(tree, used, known)
    return _joined(parts)


def _files_beside(tree: ImageTree, used: set[str], known: Collection[str]) -> tuple[LeftOut, ...]:
    folders = {name.rpartition("/")[0] for name in used}
    found = Listing([], [], [])
    for folder in sorted(folders):
        if any(folder.startswith(f"{other}/") for other in folders if other):
            continue  # is below another one
        part = tree.listing(folder, nested=bool(folder))  # all of RAW may hold anything
        found.files.extend(part.files)
        found.folders.extend(part.folders)
        found.loops.extend(part.loops)
    others = [path for path in visible_images(found) if path not in used and path not in known]
    below = [path for path in others if path.rpartition("/")[0] not in folders]
    beside = [path for path in others if path.rpartition("/")[0] in folders]
    return (
        *left_out("images in folders in which no row lies", below),
        *left_out("images that are in no split", beside, fault=False),
        *left_out("folders beside those of the rows", _folders_beside(tree, folders), fault=False),
        *other_files(found),
    )


def _folders_beside(tree: ImageTree, folders: set[str]) -> list[str]:
    """Return the folders that lie beside a folder of rows, and neither hold rows nor a folder of rows.

    Beside the folders in RAW itself there may be anything, such as other data sets, and these are not listed.
    """
    around = {str(parent) for folder in folders for parent in PurePosixPath(folder).parents}
    parents = {folder.rpartition("/")[0] for folder in folders} - {"", *folders}
    beside = {path for parent in parents for path in tree.listing(parent, nested=False).folders}
    return sorted(path for path in beside - folders - around if not is_hidden(path))


def _joined(parts: list[LeftOut]) -> tuple[LeftOut, ...]:
    """Return one entry for each reason."""
    by_reason: dict[str, LeftOut] = {}
    for part in parts:
        before = by_reason.get(part.reason)
        count = part.count + (before.count if before else 0)
        examples = ((before.examples if before else ()) + part.examples)[:MAX_EXAMPLES]
        by_reason[part.reason] = LeftOut(part.reason, count, examples, part.fault)
    return tuple(by_reason.values())
