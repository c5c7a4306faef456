"""The places where the files of a published data set lie, and its owners' lists turned into splits."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from debeton.data.raw.image_files import ImageTree, MissingDataError, file_rows
from debeton.data.raw.source import SOURCES, Request, Source
from debeton.data.spec import Rows
from debeton.system.errors import DataError, UsageError, nearest

PACKED = (".tar.gz", ".tgz", ".tar", ".zip", ".7z")
Listed = tuple[Sequence[str], Sequence[int]]  # the files of a split as paths below the root, and their labels


def raw_folder(request: Request, name: str) -> Path:
    """Return `--raw`. MissingDataError if it is not given."""
    if request.raw is None:
        raise MissingDataError(f"{name} needs --raw; {SOURCES.get(name).where}")
    return request.raw


def find_root(
    request: Request,
    name: str,
    needed: Sequence[str],
    places: Sequence[str] = (),
    *,
    any_of: bool = False,
    zips: Sequence[str] = (),
) -> Path:
    """Return the folder that holds everything in `needed`: RAW itself or the first of `places` below it.

    MissingDataError gives the places, the files that were expected, the archive that must be unpacked, and the source.

    name: of the data set.
    needed: paths below the folder.
    places: folders below RAW.
    any_of: one path of `needed` is enough.
    zips: names of the owner's .zip below RAW, for sets that are shipped as one. RAW may then be any .zip.
    """
    raw = raw_folder(request, name)
    if zips and raw.is_file() and raw.suffix == ".zip":
        return raw
    enough = any if any_of else all
    for folder in (raw, *(raw / place for place in places)):
        if enough((folder / path).exists() for path in needed):
            return folder
    packed = next((raw / file for file in zips if (raw / file).is_file()), None)
    if packed is not None:
        return packed
    around = f" or in its folder {' or '.join(places)}" if places and raw.is_dir() else ""
    wanted = (" or " if any_of else ", ").join(needed)
    raise _missing(name, wanted, raw, around)


def folders_around(request: Request, name: str, places: Sequence[str]) -> list[Path]:
    """Return RAW and `places` below it: the folders in which the parts of a set may lie apart.

    If RAW is a file, its folder takes its place.
    """
    raw = raw_folder(request, name)
    base = raw.parent if raw.is_file() else raw
    return [base, *(base / place for place in places)]


def find_part(name: str, what: str, folders: Sequence[Path], candidates: Iterable[str]) -> Path:
    """Return the first candidate that exists in one of the folders.

    name: of the data set.
    what: the part, as MissingDataError names it if no candidate exists.
    folders: the folders to look in.
    candidates: paths below a folder, the preferred one first.
    """
    for candidate in candidates:
        for folder in folders:
            if (folder / candidate).exists():
                return folder / candidate
    raise _missing(name, what, folders[0])


def missing_part_error(name: str, what: str, folders: Sequence[Path]) -> MissingDataError:
    """Return the error for a set without the part `what`. It names the first of the folders."""
    return _missing(name, what, folders[0])


def _missing(name: str, what: str, raw: Path, around: str = "") -> MissingDataError:
    source = SOURCES.get(name)
    return MissingDataError(f"{name}: there is no {what} in {raw}{around}{unpack_hint(raw, source)}; {source.where}")


def known_choice(option: str, value: str, known: Sequence[str]) -> str:
    """Return the value of an option if it is a known one. UsageError names the nearest known value."""
    if value not in known:
        raise UsageError(f"--{option} '{value}' is unknown{nearest(value, known)} known: {', '.join(known)}")
    return value


def find_images(tree: ImageTree, patterns: Iterable[str], name: str) -> list[str]:
    """Return the images of each pattern after those of the pattern before. DataError names a pattern without any."""
    images: list[str] = []
    for pattern in patterns:
        files = tree.files(pattern)
        if not files:
            raise DataError(f"{name}: no image {pattern} in {tree.root}; unpack or fetch the set again")
        images += files
    return images


def unpack_hint(raw: Path, source: Source) -> str:
    """Return ', only ARCHIVE, which must be unpacked' if RAW holds such an archive, else ''.

    If RAW is a file, the hint names the folder to give. Archives that `--download` knows are left out, because the
    command line reports them (`fetch.unfinished_files_note`).
    """
    if raw.is_file():
        return f", which is a file; name the folder around it{' and add --download' if source.archives else ''}"
    downloadable = {archive.name for archive in source.archives}
    packed = sorted(
        path.name for path in raw.glob("*.*") if path.name.endswith(PACKED) and path.name not in downloadable
    )
    return f", only {packed[0]}, which must be unpacked" if packed else ""


def class_codes(names: Sequence[str], classes: Sequence[str], where: Path | str) -> list[int]:
    """Return the place of each name in `classes`.

    DataError gives the first unknown name, its row and the nearest class.
    """
    code_of = {name: code for code, name in enumerate(classes)}
    for row, name in enumerate(names, start=1):
        if name not in code_of:
            raise DataError(
                f"{where}, row {row}: unknown class '{name}'{nearest(name, classes)} "
                f"expected one of {len(classes)} classes"
            )
    return [code_of[name] for name in names]


def listed_rows(tree: ImageTree, splits: Mapping[str, Listed], where: Path | str) -> dict[str, Rows]:
    """Return rows for the listed files of each split.

    DataError if a file is listed twice, in one split or in two.
    """
    seen: dict[str, str] = {}
    for split, (files, _) in splits.items():
        for file in files:
            if file in seen:
                raise DataError(
                    f"{where}: {file} is listed twice, in {seen[file]} and in {split}; fetch the lists again"
                )
            seen[file] = split
    return {split: file_rows(tree, files, label) for split, (files, label) in splits.items()}


def train_and_val(train: Listed, val: Listed, *, keep_val: bool) -> dict[str, Listed]:
    """Return the two lists together as 'train', or each as its own split."""
    if keep_val:
        return {"train": train, "val": val}
    return {"train": ([*train[0], *val[0]], [*train[1], *val[1]])}


def check_partition(partition: int) -> int:
    """Return the number of an official split. UsageError unless it is 1 to 10."""
    if not 1 <= partition <= 10:
        raise UsageError(f"--partition {partition} does not exist; the owners published the splits 1 to 10")
    return partition


def read_mat(path: Path, *names: str) -> list[Any]:
    """Return the named variables of a MATLAB file as arrays with at least one dimension.

    MissingDataError if there is no file. DataError if it is damaged or a variable is missing.
    """
    from scipy.io import loadmat  # slow to import

    try:
        content = loadmat(path, squeeze_me=True)
    except FileNotFoundError:
        raise MissingDataError(f"there is no {path}") from None
    except Exception as error:  # scipy raises a dozen kinds of error for a damaged file, also of its own
        kind = type(error)
        if not (kind.__module__.startswith("scipy") or issubclass(kind, DAMAGE_ERRORS)):
            raise
        raise DataError(f"{path} is not a readable MATLAB file ({error}); fetch it again") from None
    absent = [name for name in names if name not in content]
    if absent:
        there = sorted(name for name in content if not name.startswith("__"))
        raise DataError(f"{path} has no variable {absent[0]}; it has {', '.join(there) or 'none'}")
    return [np.atleast_1d(content[name]) for name in names]


DAMAGE_ERRORS = (ValueError, TypeError, OSError, EOFError, KeyError, IndexError, NotImplementedError, zlib.error)
