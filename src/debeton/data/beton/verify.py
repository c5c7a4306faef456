"""A beton compared with what was written: its tables, its sidecar, its columns, and every image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from debeton.data.beton.content import code_hashes, differing_parts, image_hash, in_words, read_crcs, table_hashes
from debeton.data.beton.reading import Beton, open_beton
from debeton.data.beton.sidecar import SIDECAR_HASH, sidecar_path
from debeton.system.errors import DataError

MAX_SHOWN = 20  # damaged rows that are named one by one


@dataclass
class Verified:
    """The damage of one beton.

    path: of the beton.
    num_rows: the number of its rows; 0 where it cannot be opened.
    damaged: the number and the name of each row whose image is damaged.
    problems: a sentence for each other damage.
    notes: a sentence for each part that could not be compared, because nothing says what was written.
    """

    path: Path
    num_rows: int = 0
    damaged: list[tuple[int, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Return whether no damage was found."""
        return not self.damaged and not self.problems

    def lines(self) -> Iterator[str]:
        """Yield the lines to print: one if all is well, else one for each damage."""
        for problem in self.problems:
            yield problem if problem.startswith(str(self.path)) else f"{self.path}: {problem}"
        for row, name in self.damaged[:MAX_SHOWN]:
            yield f"{self.path}: the image of row {row} ({name}) is damaged"
        if len(self.damaged) > MAX_SHOWN:
            yield f"{self.path}: and {len(self.damaged) - MAX_SHOWN} more"
        for note in self.notes:
            yield f"{self.path}: {note}"
        if self.damaged:
            yield (
                f"{self.path}: {len(self.damaged)} of {self.num_rows} images are damaged; copy or write the beton again"
            )
        elif not self.problems:
            yield f"{self.path}: whole: {self.num_rows} rows"


def verify_beton(path: Path, *, progress: bool = False) -> Verified:
    """Compare all of a beton with what was written. Damage is in the result and no error.

    A beton of an older version lacks some of the checksums; a note says so.

    path: the beton.
    progress: whether to draw a progress bar.
    """
    found = Verified(path)
    try:
        beton = open_beton(path)
    except (DataError, OSError) as error:
        found.problems.append(str(error).splitlines()[0])
        return found
    found.num_rows = len(beton)
    if SIDECAR_HASH not in beton.sidecar:
        found.notes.append(f"{sidecar_path(path).name} has no hash of itself, as an older version wrote it")
    _verify_columns(beton, found)
    try:
        _verify_images(beton, found, progress=progress)
    except (DataError, OSError) as error:
        found.problems.append(str(error))
    return found


def _verify_columns(beton: Beton, found: Verified) -> None:
    """Read all columns, and compare labels, attributes, names and columns with the hashes in the sidecar."""
    expected = beton.sidecar.get("content", {})
    try:
        columns = beton.extra
        columns.read_all()
        further = {name: columns[name] for name in columns if name != "path"}
        names = columns["path"].tolist()
        hashes = table_hashes(beton.spec, names, beton.label, beton.attribute, beton.source, further)
    except (DataError, OSError) as error:
        found.problems.append(str(error))
        hashes = code_hashes(beton.spec, beton.label, beton.attribute)
    if parts := differing_parts(expected, hashes):
        found.problems.append(f"the {in_words(parts)} are not those that its sidecar names; write the beton again")


def _verify_images(beton: Beton, found: Verified, *, progress: bool) -> None:
    """Compare each image with its checksum or, without checksums, all of them with their hash in the sidecar."""
    problem = ""
    try:
        sums = beton.image_sums
    except DataError as error:
        sums, problem = None, str(error)
    crcs = read_crcs(beton.file, beton.offsets, beton.sizes, progress=progress)
    if sums is not None:
        damaged = np.flatnonzero(crcs != sums.crcs).tolist()
        found.damaged += [(row, sums.name_of(row)) for row in damaged]
        return
    expected = beton.sidecar.get("content", {}).get("images")
    if problem and problem not in found.problems:
        found.problems.append(problem)
    elif expected is None:
        found.problems.append(
            "its images cannot be compared, because nothing holds a checksum of them, as older versions wrote none; "
            "write it again to have them"
        )
    elif image_hash(beton.image_fields, beton.sizes, crcs) != expected:
        found.problems.append(
            "its images, together, are not those that its sidecar names; it has no checksum of each, so nothing says "
            "which row is damaged: write it again"
        )
    else:
        found.notes.append("it has no checksum of each image; all of them together are those that its sidecar names")
