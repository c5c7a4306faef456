"""Tables of splits as SubpopBench writes them, for sets whose folders name the label and the attribute.

Yang et al. 2023, "Change is Hard: A Closer Look at Subpopulation Shift" (arXiv 2302.12254),
https://github.com/YyzHarry/SubpopBench. A table has the columns filename, y, a and split (0 train, 1 val, 2 test). The
filename is the path on the machine that made the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from debeton.data.raw.image_files import ImageTree, file_rows
from debeton.data.raw.tables import LINE, parse_codes, read_csv, require_unique
from debeton.data.spec import DatasetSpec, Rows
from debeton.system.errors import DataError

SPLITS = ("train", "val", "test")
Codes = Mapping[str, tuple[int, int]]  # the label and the attribute of each file


def splits_of_table(table: Path, spec: DatasetSpec, codes: Codes) -> dict[str, str]:
    """Return the split of each file that the table lists.

    table: the CSV.
    spec: names of the classes and attributes.
    codes: by path of a file in the tree. Paths of the table end like these.
    DataError where the table lists no such file, or contradicts its folder.
    """
    records = read_csv(table, ("filename", "y", "a", "split"))
    lines = [f"line {record[LINE]}" for record in records]
    depth = next(iter(codes)).count("/") + 1
    names = ["/".join(PurePosixPath(record["filename"].replace("\\", "/")).parts[-depth:]) for record in records]
    require_unique(names, table, lines)
    absent = [row for row, name in enumerate(names) if name not in codes]
    if absent:
        raise DataError(
            f"{table}, {lines[absent[0]]}: there is no photo {names[absent[0]]} ({len(absent)} of {len(names)} are "
            "missing); fetch the photos that belong to this table"
        )
    label, attribute, split = (
        parse_codes([record[column] for record in records], values, column, str(table), lines)
        for column, values in (("y", spec.classes), ("a", spec.attributes), ("split", SPLITS))
    )
    for name, line, *pair in zip(names, lines, label, attribute, strict=True):
        if tuple(pair) != codes[name]:
            raise DataError(f"{table}, {line}: y and a are {pair}, and the folder of {name} says {list(codes[name])}")
    return {name: SPLITS[code] for name, code in zip(names, split, strict=True)}


def rows_by_split(tree: ImageTree, codes: Codes, split_of: Mapping[str, str], where: Path) -> dict[str, Rows]:
    """Return train, val and test. Files without a split are left out. DataError for a split without a file.

    where: the place that says the splits, for messages.
    """
    splits = {}
    for split in SPLITS:
        files: Sequence[str] = [file for file in codes if split_of.get(file) == split]
        if not files:
            raise DataError(f"{where} leaves no photo for {split}; there are {len(codes)} photos, fetch the set again")
        pairs = [codes[file] for file in files]
        splits[split] = file_rows(tree, files, [label for label, _ in pairs], [attribute for _, attribute in pairs])
    return splits


def find_table(names: Sequence[str], folders: Sequence[Path]) -> Path | None:
    """Return the first table that lies in one of the folders; None if there is none."""
    return next((folder / name for folder in folders for name in names if (folder / name).is_file()), None)
