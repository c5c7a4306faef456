"""Your own photos: class folders, folders by a pattern, or a CSV with labels, spurious attributes and splits.

Licence: yours. Layouts. RAW is the folder; the images may also lie in a .zip:
- `SPLIT/CLASS/` if there is a `train/`, else `CLASS/`, all of it train. As in torchvision's ImageFolder, the images of
  a class lie at any depth below its folder, and classes are the folder names of train in sorted order. A folder below a
  class is no attribute. Files that are left out are counted and named.
- `--pattern '{split}/{class}/{attribute}/*'`: folders and names of files that say more. A name in braces is a part of
  one level; names other than split, class and attribute become columns. `*` and `**` are as in globs.
- A CSV, `metadata.csv` in RAW or the file of `--csv`, also with semicolons or tabs. Its columns are the path (below
  RAW), the label, and optionally the attribute and the split. They are known by their names: path, filename,
  img_filename, file, ...; label, y, class, target, ...; attribute, a, place, spurious, domain, ...; split, partition.
  `--columns path=A,label=B,attribute=C,split=D` says them for any other table. `--csv '{split}.csv'` reads train.csv,
  val.csv and test.csv as one table, and '{split}/metadata.csv' those in folders, with their images beside them.

A split is a name, or 0, 1, 2 for train, val, test; without the column all is train. Labels and attributes are names,
numbered in sorted order or as `--classes` and `--attributes` list them, or whole numbers from 0. Every further column
is kept beside: as named codes where it has few values, so that `--data.attribute site` or `--data.attribute sex,age`
works in training, else as numbers or text.

Splits are train, val, test and test_NAME. Other words for them are understood and reported: `validation` is val,
`Train` is train, `val_out_of_domain` is test_val_out_of_domain (data/split_names.py has the list). A split of any other
name is written only if `--splits` lists it, because training does not look for it.

Without an attribute column every row has the one attribute 'any'. An attribute is unknown (-1) where its cell is empty
or holds nan, NA, N/A, None, null, unknown, ? or -1, unless `--attributes` lists that word. `--aligned` names the
attribute that goes with each class in training, so that results hold bias-aligned and bias-conflicting accuracy. A name
with a comma, colon or blank at its end stands in double quotes, as in CSV files: `--classes '"salt, pepper",sugar'`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from debeton.data.image_names import is_no_image
from debeton.data.raw.class_folders import read_class_folders
from debeton.data.raw.column_roles import choose_columns, parse_columns
from debeton.data.raw.further_columns import FurtherColumn, read_further_columns, value_names
from debeton.data.raw.image_files import ImageTree, file_rows, zip_text
from debeton.data.raw.path_patterns import read_pattern
from debeton.data.raw.source import Dataset, Option, Request, register_source
from debeton.data.raw.split_tables import names_splits, read_split_tables, split_pattern
from debeton.data.raw.table_notes import notes_on_columns, notes_on_further_columns, notes_on_many_values
from debeton.data.raw.table_paths import read_paths
from debeton.data.raw.tables import Table, parse_codes, read_table, require_unique, require_values, with_unknown_blank
from debeton.data.raw.value_codes import first_gap
from debeton.data.spec import DatasetSpec, Rows, parse_aligned
from debeton.data.split_names import FILE_NAME, first_in_order, name_splits
from debeton.system.errors import DataError, UsageError
from debeton.system.log import logger
from debeton.system.name_lists import parse_names

METADATA = "metadata.csv"


@register_source(
    "folder",
    "your own images: class folders, folders by a pattern, or a CSV of path, label, attribute and split",
    "it is yours: --raw DIR names the folder",
    (
        Option("name", str, "folder", "name of the data set, also in file names"),
        Option(
            "csv",
            Path,
            None,
            "CSV file with the rows, in RAW or elsewhere, or '{split}.csv' for one of each split; default metadata.csv "
            "where there is one",
        ),
        Option(
            "columns",
            str,
            None,
            "columns of the CSV, 'path=FILE,label=Y,attribute=SITE,split=PART'; 'attribute=': none (default: by name)",
        ),
        Option("pattern", str, None, "paths of the images below RAW, '{split}/{class}/{attribute}/*'"),
        Option("classes", str, "", "names of the classes in order, 'cat,dog'; default those in the data, sorted"),
        Option("attributes", str, "", "names of the attributes in order; default those in the data, sorted"),
        Option(
            "aligned",
            str,
            "",
            "the attribute that goes with each class, 'classA:attr1,classB:attr2'; here and in the other lists a name "
            "with a comma, colon or quote stands in double quotes, as in CSV files",
        ),
    ),
)
def load(request: Request) -> Dataset:
    raw, name = request.raw, request.options["name"]
    if not re.fullmatch(FILE_NAME, name):
        raise UsageError(f"--name {name!r} must be letters, digits, '_', '-' and '.': it becomes a file name")
    if raw is None or not raw.exists():
        raise DataError(f"folder needs --raw, the folder with your images; {raw or 'none'} was given")
    if raw.is_file() and is_no_image(raw) and raw.suffix != ".zip":
        raise UsageError(
            f"--raw {raw} is no folder and no .zip; name the folder with the images with --raw, and a table with --csv"
        )
    tree = ImageTree(raw)
    if request.options["pattern"]:
        for option in ("csv", "columns"):
            if request.options[option]:
                raise UsageError(f"--pattern reads the paths and --{option} a CSV; give one of them")
        found = read_pattern(tree, request.options["pattern"])
        return replace(_from_table(request, tree, found.table, found.roles, found.notes), left_out=found.left_out)
    table = _find_table(raw, request.options["csv"])
    if table is None:
        return _from_class_folders(request, tree)
    roles = choose_columns(table, parse_columns(request.options["columns"] or "", table))
    return _from_table(request, tree, table, roles, notes_on_columns(roles))


def _find_table(raw: Path, given: Path | None) -> Table | None:
    """Return the table of --csv, or else metadata.csv of RAW. None if there is none."""
    if given is not None and names_splits(given):
        return read_split_tables(raw, given)
    if raw.is_file() and not (given is not None and given.is_file()):
        name = METADATA if given is None else given.name
        text = zip_text(raw, name)
        if text is not None:
            return read_table(raw / name, text)
    places = [raw / METADATA] if given is None else [raw / given, given]
    for place in places:
        if place.is_file():
            return read_table(place)
    if given is not None:
        raise DataError(f"folder: there is no CSV file {' and no '.join(map(str, dict.fromkeys(places)))}")
    return None


def _from_class_folders(request: Request, tree: ImageTree) -> Dataset:
    """Return the data set from class folders."""
    raw = tree.root
    for option in ("attributes", "aligned", "columns"):
        if request.options[option]:
            raise UsageError(
                f"--{option} needs {'a table' if option == 'columns' else 'attributes'}, and class folders have none; "
                "name a table with --csv, or say which folders are attributes with --pattern, as in "
                "'{class}/{attribute}/*'"
            )
    given = _names(request.options["classes"])
    found = read_class_folders(tree, given)
    if not found.files["train"]:
        tables = sorted(path.name for path in raw.glob("*.[ct]sv")) if raw.is_dir() else []
        raise DataError(
            f"folder: {raw} holds neither metadata.csv, SPLIT/CLASS/* nor CLASS/* images; " + _advice(tables)
        )
    classes = given or tuple(sorted(set(found.labels["train"])))
    rows = {}
    for split, names in found.labels.items():
        label = parse_codes(names, classes, "class", f"{raw}, split {split}", found.files[split])
        rows[split] = file_rows(tree, found.files[split], label)
    dataset = _dataset(DatasetSpec(request.options["name"], classes), rows, raw)
    return replace(dataset, left_out=found.left_out, notes=found.notes)


def _advice(tables: Sequence[str]) -> str:
    """Return what to do where no class folders are found. tables: names of the tables there."""
    if pattern := split_pattern(tables):
        return f"there is {' and '.join(tables)}, name {'it' if len(tables) == 1 else 'them'} with --csv '{pattern}'"
    return f"there is {tables[0]}, name it with --csv" if tables else "say where they are with --csv or --pattern"


def _from_table(
    request: Request, tree: ImageTree, table: Table, roles: Mapping[str, str], notes: Sequence[str]
) -> Dataset:
    """Return the data set of a table.

    roles: the column of the path, of the label, and of the attribute and the split where there is one.
    notes: sentences on how the table was read.
    """
    needed = {role: roles[role] for role in ("path", "label", "split") if role in roles}
    for role in needed:
        require_values(table, needed, role, _names(request.options["classes"]) if role == "label" else ())
    paths, outside = read_paths(table, roles["path"], tree)
    require_unique(paths, table.where, table.rows)
    further, empty = read_further_columns(table, [name for name in table.cells if name not in roles.values()])
    spec, label, attribute = _label_rows(request, table, roles, further)
    split_names = table.cells[roles["split"]] if "split" in roles else ["train"] * len(table)
    split_of, split_notes = name_splits(split_names, table.where, numbers=True)
    parts: dict[str, list[int]] = {}
    for row, name in enumerate(split_names):
        parts.setdefault(split_of[name], []).append(row)
    splits = {}
    for split, members in parts.items():
        rows = np.array(members, np.int64)
        columns = {column.name: column.at(rows) for column in further}
        files = [paths[row] for row in members]
        splits[split] = file_rows(tree, files, label[rows], attribute[rows], columns, may_leave=True)
    more = [*notes, *outside, *split_notes, *notes_on_further_columns(further, empty, "attribute" in roles)]
    more += notes_on_many_values(spec, len(table))
    return replace(_dataset(spec, splits, table.where), notes=tuple(more))


def _label_rows(
    request: Request, table: Table, roles: Mapping[str, str], further: Sequence[FurtherColumn]
) -> tuple[DatasetSpec, np.ndarray, np.ndarray]:
    """Return the spec, and the codes of the label and the attribute of every row, int64 [N]."""
    named_classes, named_attributes = (_names(request.options[option]) for option in ("classes", "attributes"))
    labels = table.cells[roles["label"]]
    names_of = _names_in_paths if request.options["pattern"] else _names_in_table
    classes = named_classes or names_of(labels, "label", table.where)
    label = np.array(parse_codes(labels, classes, "label", table.where, table.rows), np.int64)
    attributes, attribute = named_attributes or ("any",), np.zeros(len(table), np.int64)
    if "attribute" in roles:
        cells = _known_attributes(table, roles["attribute"], named_attributes)
        attributes = named_attributes or names_of(cells, "attribute", table.where)
        codes = parse_codes(cells, attributes, "attribute", table.where, table.rows, may_be_unknown=True)
        attribute = np.array(codes, np.int64)
    elif named_attributes:
        raise UsageError(
            f"--attributes names attributes, and no column of {table.where} is the attribute; say which with --columns "
            "attribute=COLUMN"
        )
    spec = DatasetSpec(
        request.options["name"],
        classes,
        attributes,
        parse_aligned(request.options["aligned"], classes, attributes),
        label_name=roles["label"],
        attribute_name=roles.get("attribute", "any" if "attribute" in table.cells else "attribute"),
        columns={column.name: column.names for column in further if column.names is not None},
    )
    return spec, label, attribute


def _known_attributes(table: Table, column: str, names: Sequence[str]) -> list[str]:
    """Return the cells, empty where the attribute is unknown. Log their number and the words for it."""
    cells, words = with_unknown_blank(table.cells[column], names)
    unknown = cells.count("")
    if unknown == len(cells) and not names:
        raise DataError(
            f"{table.where}: the attribute of every row is unknown; leave the column out, or name the attributes with "
            "--attributes"
        )
    if unknown:
        shown = ", ".join(f"'{word}'" if word else "an empty cell" for word in words)
        logger.warning(
            "warning: %s: the attribute of %d of %d rows is unknown (%s); a word that --attributes lists is a name",
            table.where,
            unknown,
            len(cells),
            shown,
        )
    return cells


def _names_in_table(cells: Sequence[str], kind: str, where: str) -> tuple[str, ...]:
    """Return the names of a column by code, in sorted order.

    Whole numbers must count from 0 to the largest without a gap.

    kind: 'label' or 'attribute'.
    """
    names = value_names(cell for cell in cells if cell)
    if not all(name.lstrip("-").isdecimal() for name in names):
        return names
    numbers = {int(name) for name in names}
    gap = first_gap(numbers)
    if min(numbers) < 0 or gap is not None:
        flag = "--classes" if kind == "label" else "--attributes"
        raise DataError(
            f"{where}: the {kind}s are numbers from {min(numbers)} to {max(numbers)}"
            f"{'' if gap is None else f' but none is {gap}'}; they count from 0 without a gap, or {flag} names them "
            f"all, as in {flag} {','.join(map(str, sorted(numbers)[:3]))}{',...' if len(numbers) > 3 else ''}"
        )
    return tuple(str(number) for number in sorted(numbers))


def _names_in_paths(cells: Sequence[str], kind: str, where: str) -> tuple[str, ...]:
    """Return the names of folders in sorted order, as class folders are numbered; numbers are names."""
    return tuple(sorted({cell for cell in cells if cell}))


def _dataset(spec: DatasetSpec, splits: dict[str, Rows], where: Path | str) -> Dataset:
    """Return the data set with train, val and test first, then the other splits by name.

    DataError if a split holds a class that train lacks.
    """
    for split, rows in splits.items():
        if "train" in splits and (unknown := sorted(set(rows.label) - set(splits["train"].label))):
            raise DataError(
                f"{where}: split {split} has the class '{spec.classes[unknown[0]]}', which train lacks; "
                "a model cannot learn it: give the class the same name in every split, or leave it out"
            )
    return Dataset(spec, {name: splits[name] for name in first_in_order(splits)})


def _names(text: str) -> tuple[str, ...]:
    """Return the names in 'a,b,...'. UsageError if a name is empty or occurs twice."""
    names = parse_names(text)
    if len(set(names)) != len(names) or "" in names:
        raise UsageError(f"'{text}' is not a list of different names")
    return names
