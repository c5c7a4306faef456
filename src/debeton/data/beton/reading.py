"""Betons: FFCV files with group labels and a sidecar. A beton is opened only if the two agree.

`X.beton` has the fields image, label, attribute, group, source (0 real, 1 synthetic) and index. Stock FFCV reads it.
A beton that another program wrote with FFCV has fields of its own; once adopted, its labels lie in the columns file.
`X.beton.json`, the sidecar, describes the beton. `X.beton.columns.npz` holds further values per row, such as paths.
It is read only when a column is asked for (columns.py).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debeton.data.beton.columns import Columns
from debeton.data.beton.content import (
    Content,
    code_hashes,
    differing_parts,
    image_hash,
    in_words,
    read_crcs,
    table_hashes,
)
from debeton.data.beton.image_sums import ImageSums
from debeton.data.beton.opened import Change, OpenedFile, State, cut_sentence, not_the_same
from debeton.data.beton.sidecar import columns_path, find_beside, read_sidecar, sidecar_path
from debeton.data.beton.table_rows import read_matching_rows, read_rows
from debeton.data.spec import DatasetSpec, Ints
from debeton.system.errors import DataError
from debeton.system.log import logger


@dataclass(frozen=True)
class Beton:
    """An opened beton. Its scalar columns are in memory, its images on the disk.

    label, attribute, group, source: int64 [N]. Attribute and group are -1 where the attribute is not known.
    heights, widths: int64 [N] in pixels.
    modes: uint8 [N], 0 JPEG, 1 raw.
    offsets, sizes: uint64 [N], position and size of each image in the file, in bytes.
    opened: the open file that everything is read from; None for a beton that exists in memory only.
    """

    path: Path
    spec: DatasetSpec
    sidecar: Mapping[str, Any]
    label: Ints
    attribute: Ints
    group: Ints
    source: Ints
    heights: Ints
    widths: Ints
    modes: NDArray[np.uint8]
    offsets: NDArray[np.uint64]
    sizes: NDArray[np.uint64]
    opened: OpenedFile | None = None

    def __len__(self) -> int:
        return len(self.label)

    @property
    def codes(self) -> tuple[Ints, Ints]:
        """Return the labels and the attributes."""
        return self.label, self.attribute

    @property
    def split(self) -> str:
        return str(self.sidecar["split"])

    @cached_property
    def max_bytes(self) -> int:
        """The size of the largest decoded image in bytes."""
        return int((self.heights * self.widths).max()) * 3

    @cached_property
    def decoded(self) -> dict[Any, Any]:
        """Images that stay decoded while the beton is open (loader/residency.py)."""
        return {}

    @cached_property
    def extra(self) -> Columns:
        """The further columns by name, e.g. 'path'. Each is read from X.beton.columns.npz on first use."""
        self.check_unchanged()
        names = self.sidecar.get("columns") if self.sidecar["schema_version"] > 1 else None
        return Columns(find_beside(self.path, columns_path), len(self), self.sidecar["checksum"], names)

    @cached_property
    def image_sums(self) -> ImageSums | None:
        """The checksums of the stored images; None if the beton has none, or no columns file beside it.

        DataError if they, or the modes, sizes and sides of the images, are not those that the sidecar names.
        """
        if self.opened is None:
            return None
        has_columns = find_beside(self.path, columns_path).exists()
        crcs = self.extra.read_crcs() if has_columns else None
        if crcs is None:
            why = "an older version wrote it" if has_columns else "its columns file is missing"
            logger.info("%s: images are not compared with what was written, because %s", self.path, why)
            return None
        expected = self.sidecar.get("content", {}).get("images")
        if expected not in (None, image_hash(self.image_fields, self.sizes, crcs)):
            raise DataError(
                f"{self.path}: the sizes or checksums of its images are not those that its sidecar names; its tables "
                "were changed after it was written: write it again"
            )
        return ImageSums(crcs, np.zeros(len(self), bool), self._name_of)

    @property
    def image_fields(self) -> dict[str, NDArray[Any]]:
        """Return the modes, heights and widths, as `image_hash` takes them."""
        return {"mode": self.modes, "height": self.heights, "width": self.widths}

    def _name_of(self, row: int) -> str:
        return str(self.extra["path"][row])

    @property
    def file(self) -> OpenedFile:
        """Return the open file. FileNotFoundError for a beton that exists in memory only."""
        if self.opened is None:
            raise FileNotFoundError(f"{self.path} is no file; this beton exists in memory only")
        return self.opened

    @property
    def has_content(self) -> bool:
        """Return whether `content` is known without reading all images.

        The sidecar has it, unless the beton is newer than its sidecar: then its images may be others.
        """
        if "content" in self.__dict__:
            return True
        sidecar = find_beside(self.path, sidecar_path)
        return (
            "content" in self.sidecar and sidecar.exists() and self.file.state.written_ns <= sidecar.stat().st_mtime_ns
        )

    @cached_property
    def content(self) -> Content:
        """The hash of each part of the content (content.py). All images are read where `has_content` is false."""
        stored: Content = self.sidecar.get("content", {})
        if self.has_content:
            return {**stored, **code_hashes(self.spec, self.label, self.attribute)}
        why = "it is newer than its sidecar" if stored else "its sidecar does not name them"
        logger.info("%s: all images are read once, because %s", self.path, why)
        return self.read_content()

    def check_sidecar(self) -> None:
        """Raise DataError if the sidecar names another content than the beton holds."""
        if parts := differing_parts(self.sidecar.get("content", {}), self.content):
            raise DataError(
                f"{self.path}: the {in_words(parts)} are not those that its sidecar names; the file was changed after "
                "it was written: write it again"
            )

    def read_content(self) -> Content:
        """Compute `content` from the files alone, whatever the sidecar says."""
        names = self.extra["path"].tolist()
        columns = {name: self.extra[name] for name in self.extra if name != "path"}
        tables = (self.spec, names, self.label, self.attribute, self.source, columns)
        return {**table_hashes(*tables), "images": self.hash_images()}

    def hash_images(self) -> str:
        """Read all images and return the hash of their bytes, 'images' of `content`."""
        return image_hash(self.image_fields, self.sizes, read_crcs(self.file, self.offsets, self.sizes))

    def check_unchanged(self) -> None:
        """Raise DataError if the beton, or the file at its path, is no longer the one that was opened.

        This costs two calls of the system. If anything about the files changed, all bytes are compared: a beton that
        was copied, touched or written anew with the same content is the same, and so is one that was moved away.
        """
        columns = self.__dict__.get("extra")
        files = [self.opened, columns.file if isinstance(columns, Columns) else None]
        states = {file: file.look() for file in files if file is not None}
        changes = {file: change for file, now in states.items() if (change := file.change(now))}
        if not changes:
            return
        self.decoded.clear()  # images may have been read between the change and now
        if sums := self.__dict__.get("image_sums"):
            sums.compared[:] = False
        _examine(self, changes)
        for file in changes:
            file.state = states[file]  # as it was before its content was compared
        logger.info("%s was touched or written anew, and its content is the same", self.path)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Send the beton to another process by its path; there it must have the same content."""
        if self.opened is None:
            return super().__reduce_ex__(protocol)
        return _reopened, (self.path, self.opened.state, _known_content(self))


def _known_content(beton: Beton) -> Content | None:
    """Return the hashes of the content as the beton was opened; None if nothing has named them yet."""
    return beton.content if beton.has_content else beton.sidecar.get("content")


def _examine(beton: Beton, changes: Mapping[OpenedFile, Change]) -> None:
    """Raise DataError if the content of a beton, whose files changed while they were open, is not what it was."""
    path, known = beton.path, _known_content(beton)
    for file, change in changes.items():
        if change is Change.CUT:
            raise DataError(cut_sentence(file))
    replaced = Change.REPLACED in changes.values()
    subject = f"another file lies at {path} now" if replaced else f"{path} was changed while it was open"
    advice = "put the same beton back to go on with it, or begin anew with the other one"
    if known is None and set(changes.values()) != {Change.TOUCHED}:
        raise DataError(f"{subject}; its sidecar does not name its content, so the two cannot be compared; {advice}")
    try:
        parts = [] if known is None else _differing_now(beton, known)
    except (DataError, OSError) as error:
        raise DataError(f"{subject}, and it cannot be read as a beton ({error}); {advice}") from None
    if parts:
        raise DataError(
            f"{subject}: its {in_words(parts)} are not those of the beton that was opened, and nothing that was read "
            f"since then counts; {advice}"
        )


def _differing_now(beton: Beton, known: Content) -> list[str]:
    """Return the parts that differ in the beton at the path or in the open one, by reading both."""
    found: Content = {}
    if beton.path.exists():
        at_path = open_beton(beton.path)
        found = at_path.read_content()
        if os.path.sameopenfile(at_path.file.descriptor, beton.file.descriptor):
            return differing_parts(known, found)
    if read_rows(beton.file, beton.sidecar, beton.codes).checksum != beton.sidecar["checksum"]:
        return ["labels", "attributes", "images"]
    return differing_parts(known, found) or differing_parts(known, {"images": beton.hash_images()})


def _reopened(path: Path, state: State, content: Content | None) -> Beton:
    """Open the beton that another process has open. DataError if another one lies at the path."""
    beton = open_beton(path)
    if not beton.file.state.is_same_file(state) and (content is None or beton.read_content() != content):
        raise DataError(not_the_same(path))
    return beton


def open_beton(path: Path | str) -> Beton:
    """Open a beton. No image is decoded.

    FileNotFoundError if there is no file. DataError if the beton is empty, cut short, of another program, or disagrees
    with its sidecar.
    """
    path = Path(path)
    if not path.exists():
        link = f" (a link to {path.readlink()}, which does not exist)" if path.is_symlink() else ""
        raise FileNotFoundError(
            f"no beton at {path}{link}\n"
            f"  write it with: debeton write-betons --dataset NAME --raw DIR --out {path.parent}"
        )
    if not path.is_file():
        raise DataError(f"{path} is no regular file, so it is no beton; name the file that was written")
    opened = OpenedFile(path)
    sidecar = read_sidecar(path)
    stored = read_matching_rows(opened, sidecar)
    if opened.change(opened.look()) not in (None, Change.TOUCHED):
        raise DataError(f"{path} was written to while it was opened; open it again when its writer has finished")
    spec = DatasetSpec.from_dict(sidecar["spec"])
    image, group = stored.image, spec.group(stored.label, stored.attribute)
    if stored.group is not None and not np.array_equal(stored.group, group):
        expected = "the attribute" if spec.by_attribute else f"label * {len(spec.attributes)} + attribute"
        raise DataError(f"{path}: the group column is not {expected}; write it again")
    return Beton(
        path=path,
        spec=spec,
        sidecar=sidecar,
        label=stored.label,
        attribute=stored.attribute,
        group=group,
        source=stored.source,
        heights=image["height"].astype(np.int64),
        widths=image["width"].astype(np.int64),
        modes=np.ascontiguousarray(image["mode"]),
        offsets=np.ascontiguousarray(image["data_ptr"]),
        sizes=stored.sizes,
        opened=opened,
    )
