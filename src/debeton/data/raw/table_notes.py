"""Sentences on how a table of images was read, for the person who writes the set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from debeton.data.raw.column_roles import ROLES
from debeton.data.raw.further_columns import FurtherColumn
from debeton.data.spec import DatasetSpec
from debeton.system.name_lists import join_names

MAX_ATTRIBUTES = 50  # values of a column that a note proposes as the attribute


def notes_on_columns(roles: Mapping[str, str]) -> list[str]:
    """Return a sentence with the column of each role where one has another name than its role."""
    if all(role == column for role, column in roles.items()):
        return []
    taken = ", ".join(f"{role} is the column '{roles[role]}'" for role in ROLES if role in roles)
    return [f"{taken} (--columns says it otherwise)"]


def notes_on_further_columns(further: Sequence[FurtherColumn], empty: Sequence[str], attribute: bool) -> list[str]:
    """Return sentences on the columns that are kept beside, and on those that may be the attribute.

    attribute: whether the data set has one.
    """
    notes = [f"further columns are kept beside: {', '.join(map(str, further))}"] if further else []
    if empty:
        notes.append(f"left out, because no row has a value: {join_names(empty, ', ')}")
    named = [column.name for column in further if 1 < len(column.names or ()) <= MAX_ATTRIBUTES]
    if named and not attribute:
        notes.append(
            f"no column is the spurious attribute, so results have no groups by attribute; {join_names(named, ', ')} "
            f"could be: write it with --columns attribute={join_names(named[:1])}, or train with --data.attribute "
            f"{join_names(named[:1])}"
        )
    return notes


def notes_on_many_values(spec: DatasetSpec, num_rows: int) -> list[str]:
    """Return a sentence for the label and the attribute if most of their values have one row."""
    return [
        f"'{column}' has {len(names)} values in {num_rows} rows; the {kind} should be a column with few values"
        for kind, column, names in (
            ("label", spec.label_name, spec.classes),
            ("attribute", spec.attribute_name, spec.attributes),
        )
        if len(names) > 2 and 2 * len(names) > num_rows
    ]
