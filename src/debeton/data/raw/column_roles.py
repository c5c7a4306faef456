"""The columns of a table of images: which one is the path, the label, the attribute and the split."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from debeton.data.image_names import is_image
from debeton.data.raw.tables import Table
from debeton.data.split_names import NUMBERS, is_known_split, known_split
from debeton.system.errors import DataError, UsageError, nearest
from debeton.system.name_lists import join_names, quote, split_unquoted, unquote

MEANINGS = {
    "path": "the image file, below --raw",
    "label": "the class",
    "attribute": "the spurious attribute, if there is one",
    "split": "train, val, test or test_NAME, if there are several",
}
ROLES = tuple(MEANINGS)
NEEDED = ("path", "label")
# Names that stand for a role in published tables and in code. 'group' is none: it mostly is the pair of label and
# attribute. The first name of each role is taken before all others.
SYNONYMS = {
    "path": (
        *("path", "filepath", "file_path", "filename", "file_name", "file", "fname", "image", "image_path", "img_path"),
        *("image_file", "img_file", "image_filename", "img_filename", "image_name", "img_name", "img", "image_id"),
    ),
    "label": ("label", "labels", "y", "class", "class_name", "classname", "target", "category", "label_name"),
    "attribute": (
        *("attribute", "attr", "a", "spurious", "spurious_attribute", "spurious_label", "spurious_feature"),
        *("bias", "bias_label", "bias_attribute", "confounder", "shortcut", "sensitive", "sensitive_attribute"),
        *("protected", "protected_attribute", "place", "background", "domain", "environment", "env"),
    ),
    "split": ("split", "partition", "subset", "phase", "set", "data_split", "split_name"),
}


def parse_columns(text: str, table: Table) -> dict[str, str | None]:
    """Return the column of each role in 'path=file,label=y'. None for 'attribute=': no column has that role.

    UsageError names an unknown role or column, and the nearest known one.
    """
    given: dict[str, str | None] = {}
    for item in split_unquoted(text, ",", others="=") if text else []:
        role, _, column = (unquote(part) for part in _cut(item))
        if role not in ROLES:
            raise UsageError(f"--columns '{item}': unknown role '{role}'{nearest(role, ROLES)} known: {list_roles()}")
        if column and column not in table.cells:
            raise UsageError(
                f"--columns '{item}': {table.where} has no column '{column}'{nearest(column, table.cells)} it has "
                f"{join_names(table.cells, ', ')}"
            )
        if role in given:
            raise UsageError(f"--columns '{text}' gives {role} twice")
        if not column and role in NEEDED:
            raise UsageError(f"--columns '{item}' names no column, and every table needs one for the {role}")
        given[role] = column or None
    for column in filter(None, given.values()):
        if list(given.values()).count(column) > 1:
            raise UsageError(f"--columns '{text}' gives the column '{column}' two roles; one column has one")
    return given


def _cut(item: str) -> tuple[str, str, str]:
    """Return the role, '=' and the column of an item. UsageError without a '='."""
    role, *column = split_unquoted(item, "=")
    if not column:
        raise UsageError(f"--columns '{item}' names no column; expected ROLE=COLUMN, as in --columns path=file,label=y")
    return role, "=", "=".join(column)


def choose_columns(table: Table, given: Mapping[str, str | None]) -> dict[str, str]:
    """Return the column of each role: as it is given, or by its name.

    given: the result of `parse_columns`.
    DataError if no column, or more than one, can be the path or the label.
    """
    roles: dict[str, str] = {role: column for role, column in given.items() if column is not None}
    free = [column for column in table.cells if column not in roles.values()]
    for role in ROLES:
        if role not in given:
            candidates = _candidates(role, free, table)
            if len(candidates) == 1:
                roles[role] = candidates[0]
            elif role in NEEDED or (role == "split" and candidates):
                raise DataError(_explain(role, candidates, table))
    return roles


def _candidates(role: str, columns: Sequence[str], table: Table) -> list[str]:
    """Return the columns whose name stands for a role. Paths and splits are also known by their cells."""
    named = {column: _plain(column) for column in columns}
    first = [column for column, name in named.items() if name == SYNONYMS[role][0]]
    if first:
        return [column for column in first if column == role] or first
    found = [column for column, name in named.items() if name in SYNONYMS[role]]
    if role == "split":
        return [column for column in found if all(map(_is_split, set(table.cells[column])))]
    if role == "path" and len(found) > 1:
        return [column for column in found if is_image(table.cells[column][0])] or found
    return found


def _is_split(cell: str) -> bool:
    return cell in NUMBERS or is_known_split(cell) or known_split(cell) is not None


def _plain(column: str) -> str:
    return re.sub(r"[\s.-]+", "_", column.casefold())


def _explain(role: str, candidates: Sequence[str], table: Table) -> str:
    """Return the error for a role that no column, or more than one, can have."""
    if candidates:
        found = f"{' and '.join(map(repr, candidates))} can both be the {role}"
        return f"{table.where}: {found}; say which with --columns {role}={quote(candidates[0])}"
    if any(is_image(column) for column in table.cells):
        return (
            f"{table.where}: the first line, '{','.join(table.cells)}', names an image and no columns; begin the file "
            "with a line such as path,label,attribute,split"
        )
    return (
        f"{table.where} has no column for the {role}; it has {join_names(table.cells, ', ')}. A table has these "
        f"columns: {list_roles()}. Say which they are, as in --columns path=COLUMN,label=COLUMN,attribute=COLUMN"
    )


def list_roles() -> str:
    """Return the roles of columns with their meanings, in one text."""
    return "; ".join(f"{role}, {meaning}" for role, meaning in MEANINGS.items())
