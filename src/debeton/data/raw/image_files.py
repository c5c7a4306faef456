"""Shared code of the sources: arrays as rows, and image files in a folder or a zip."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debeton.data.beton.image_decoding import MAX_IMAGE_BYTES, BadImage
from debeton.data.image_names import is_image
from debeton.data.spec import Ints, RawImage, Rows
from debeton.data.split_names import is_split_word
from debeton.system.errors import DataError
from debeton.system.file_names import leads_out
from debeton.system.packed_files import ALWAYS, RATIO, read_member
from debeton.system.regular_files import MAX_TABLE_BYTES


class MissingDataError(DataError):
    """An error for a place that holds nothing of the data set. Another place may be tried."""


def array_rows(images: NDArray[np.uint8], label: Sequence[int] | Ints, name: str) -> Rows:
    """Return rows over an array in memory. Row i is called 'NAME[i]', its attribute is 0.

    images: uint8 [N, H, W] or [N, H, W, 3].
    label: [N].
    name: the first part of the rows' names.
    """
    codes = np.asarray(label, np.int64)
    if len(images) != len(codes):
        raise DataError(f"{name}: {len(images)} images but {len(codes)} labels; fetch the files again")

    def read(row: int) -> NDArray[np.uint8]:
        return np.asarray(images[row])

    return Rows(codes, np.zeros(len(codes), np.int64), read, [f"{name}[{i}]" for i in range(len(codes))])


def file_rows(
    tree: ImageTree,
    files: Sequence[str],
    label: Sequence[int] | Ints,
    attribute: Sequence[int] | Ints = (),
    columns: Mapping[str, Sequence[Any] | NDArray[Any]] | None = None,
    *,
    may_leave: bool = False,
) -> Rows:
    """Return rows over files of a tree. The path of a file is the name of its row.

    A file is read when its image is asked for. DataError for a path that leads out of the tree.

    files: [N] paths in the tree.
    label: [N].
    attribute: [N], all 0 if empty.
    columns: more values per row for the sidecar, [N] each.
    may_leave: whether absolute paths and '..' may lead out of the tree, as in a table of the user's own.
    """
    stray = None if may_leave else next((path for path in files if leads_out(path)), None)
    if stray is not None:
        raise DataError(
            f"the list of images of {tree.root} names {stray!r}, which lies outside of it; no list of a data set needs "
            "that: write paths below that folder"
        )

    def read(row: int) -> RawImage:
        return tree.read(files[row])

    codes = np.asarray(label, np.int64)
    second = np.asarray(attribute, np.int64) if len(attribute) else np.zeros_like(codes)
    return Rows(codes, second, read, files, columns or {}, absent=lambda: np.flatnonzero(~tree.has(files)), tree=tree)


@dataclass(frozen=True)
class Listing:
    """Everything below a folder of a tree, by its path with '/'.

    files: folder by folder in sorted order, as ImageFolder goes through them; also hidden files.
    folders: sorted. A hidden folder is listed, its content is not.
    loops: links to a folder that they lie in. Their content is not listed.
    """

    files: list[str]
    folders: list[str]
    loops: list[str]


class ImageTree:
    """Image files below a folder or inside a .zip, by their path with '/'. Nothing is unpacked.

    A single folder that holds everything in a zip (`cifar10/train/...`) is left out of the paths.
    """

    def __init__(self, root: Path):
        self.root = root
        self._open: tuple[int, zipfile.ZipFile] | None = None
        self._prefix = _zip_prefix(self._zip()) if root.is_file() else ""
        self._members = _zip_members(self._zip(), self._prefix) if root.is_file() else {}

    def files(self, pattern: str) -> list[str]:
        """Return the sorted paths of the images that match `pattern` level by level, as in 'train/*/*'.

        Hidden files are left out.
        """
        if self.root.is_dir():
            paths = [path.relative_to(self.root).as_posix() for path in self.root.glob(pattern)]
        else:
            wanted = pattern.split("/")
            paths = [
                path
                for path, levels in ((member, member.split("/")) for member in self._members)
                if len(levels) == len(wanted) and all(map(fnmatchcase, levels, wanted))
            ]
        return sorted(path for path in paths if _is_visible_image(path))

    def listing(self, folder: str = "", *, nested: bool = True) -> Listing:
        """Return everything below a folder of the tree, or directly in it. Links to folders are followed.

        DataError for a folder that cannot be listed.
        """
        if self.root.is_dir():
            return _list_folder(self.root, folder, nested=nested)
        start = f"{folder}/" if folder else ""
        names = [name.removeprefix(self._prefix) for name in self._zip().namelist() if name.startswith(self._prefix)]
        files = [name for name in names if not name.endswith("/")]
        folders = {name.rstrip("/") for name in names if name.endswith("/")}
        folders |= {str(parent) for name in names for parent in PurePosixPath(name).parents} - {"."}
        below = [[path for path in paths if path.startswith(start)] for paths in (files, folders)]
        files, found = ([path for path in paths if nested or "/" not in path[len(start) :]] for paths in below)
        return Listing(sorted(files, key=by_folder), sorted(found), [])

    def has(self, paths: Sequence[str]) -> NDArray[np.bool_]:
        """Return for each path if it exists, bool [n]. Every folder is listed once, and no file is opened."""
        if self.root.is_dir():
            listed = {folder: _names_in(self.root / folder) for folder in {path.rpartition("/")[0] for path in paths}}
            return np.array([(parts := path.rpartition("/"))[2] in listed[parts[0]] for path in paths], bool)
        return np.array([path in self._members for path in paths], bool)

    def read(self, path: str) -> RawImage:
        """Return the path of a file in a folder, or the bytes of a file in a zip.

        Any thread and any forked worker may call it. BadImage if the zip has no such file or cannot unpack it.
        """
        if not self._members:
            return self.root / path
        if path not in self._members:
            raise BadImage("the file does not exist")
        try:
            archive = self._zip()
            size = archive.getinfo(self._members[path]).file_size
            if size > MAX_IMAGE_BYTES:
                raise BadImage(f"has {size:,} bytes, more than the {MAX_IMAGE_BYTES:,} that are read of an image")
            return read_member(archive, self._members[path], self.root, MAX_IMAGE_BYTES)
        except DataError as error:
            raise BadImage(f"is not unpacked ({error})") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise BadImage(f"cannot be unpacked ({error})") from None

    def _zip(self) -> zipfile.ZipFile:
        # ZipFile locks its file between threads. A forked worker would share the file position, so it opens a new one.
        if self._open is None or self._open[0] != os.getpid():
            self._open = (os.getpid(), open_zip(self.root))
        return self._open[1]


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip file. DataError if it is none, or only a part of one."""
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise DataError(f"{path} is not a readable zip file ({error}); fetch it again") from error


def zip_text(path: Path, name: str) -> str | None:
    """Return the text of the first member called `name`, in any folder; None if there is none."""
    with open_zip(path) as archive:
        member = next((member for member in archive.namelist() if member.rpartition("/")[2] == name), None)
        try:
            if member is None:
                return None
            most = max(ALWAYS, RATIO * archive.getinfo(member).compress_size)
            return read_member(archive, member, path, min(most, MAX_TABLE_BYTES)).decode("utf-8-sig")
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: {member} cannot be read ({error}); fetch it again") from None


def by_folder(path: str) -> tuple[str, str]:
    """Return (folder, name) of a path with '/': the key of the order in which ImageFolder goes through files."""
    folder, _, name = path.rpartition("/")
    return folder, name


def is_hidden(path: str) -> bool:
    """Return True if a part of a path with '/' is hidden, or macOS added the file to a zip."""
    return path.startswith("__MACOSX/") or any(part.startswith(".") for part in path.split("/"))


def _is_visible_image(path: str) -> bool:
    """Return True if a path with '/' names an image and no part of it is hidden."""
    return is_image(path) and not is_hidden(path)


def _list_folder(root: Path, folder: str, *, nested: bool) -> Listing:
    """Return everything below a folder on the disk. A link to a folder around it would never end."""
    listing = Listing([], [], [])
    pending = [(folder, frozenset({os.path.realpath(root / folder)}))]
    while pending:
        path, around = pending.pop()
        try:
            entries = list(os.scandir(root / path))
        except OSError as error:
            raise DataError(f"{root / path} cannot be listed ({error.strerror}); make it readable") from None
        for entry in entries:
            name = f"{path}/{entry.name}" if path else entry.name
            if not entry.is_dir():
                listing.files.append(name)
                continue
            real = os.path.realpath(entry.path)
            if real in around:
                listing.loops.append(name)
                continue
            listing.folders.append(name)
            if nested and not entry.name.startswith("."):
                pending.append((name, around | {real}))
    return Listing(sorted(listing.files, key=by_folder), sorted(listing.folders), sorted(listing.loops))


def _names_in(folder: Path) -> set[str]:
    return {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()


def _zip_prefix(archive: zipfile.ZipFile) -> str:
    """Return 'FOLDER/' if one folder holds every image of a zip and is no split, else ''."""
    names = [name for name in archive.namelist() if _is_visible_image(name)]
    tops = {name.split("/")[0] for name in names}
    wrapped = len(tops) == 1 and not any(map(is_split_word, tops)) and all(name.count("/") >= 2 for name in names)
    return f"{tops.pop()}/" if wrapped else ""


def _zip_members(archive: zipfile.ZipFile, prefix: str) -> dict[str, str]:
    """Return the member names of the images by our path, which leaves out the prefix."""
    return {name.removeprefix(prefix): name for name in archive.namelist() if _is_visible_image(name)}
