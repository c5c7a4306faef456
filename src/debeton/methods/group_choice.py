"""The choice of groups (section 'groups'): checks before the first phase, and the views that a trainer works on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from debeton.data.spec import UNKNOWN
from debeton.data.views.row_lists import by_marks
from debeton.data.views.view import View
from debeton.methods.finder import FINDERS, Finder, Found
from debeton.methods.parts.marked_rows import describe_marks, minority_rows, recall_text
from debeton.system.errors import DataError, UsageError, nearest
from debeton.system.log import logger
from debeton.train.outline import Outline
from debeton.train.run import Run
from debeton.train.selection import NO_SELECTION

ATTRIBUTE, FILE = "attribute", "file"


def finder_of(run: Run) -> Finder | None:
    """Return the finder that groups.from names; None for 'attribute' and 'file'. UsageError for an unknown name."""
    name = run.config.groups.finder
    if name in (ATTRIBUTE, FILE):
        return None
    if name not in FINDERS:
        known = [ATTRIBUTE, FILE, *FINDERS.names()]
        raise UsageError(f"groups.from is '{name}'{nearest(name, known)} known: {', '.join(known)}")
    return FINDERS.get(name)


def finder_outline(run: Run) -> Outline:
    """Return the outline of the finder's phases; empty where no finder is asked for."""
    finder = finder_of(run)
    return [] if finder is None else finder.phases(run)


def check_choice(run: Run, method: str, *, takes_groups: bool, own_finder: str = "", infers_val: bool = False) -> None:
    """Raise UsageError or DataError where finder, trainer and data do not go together.

    method: name of the trainer.
    takes_groups: the trainer looks at groups.
    own_finder: the finder that belongs to the trainer; '' for none.
    infers_val: the trainer puts the validation rows into groups by itself.
    """
    finder, choice, data = finder_of(run), run.config.groups, run.config.data
    if choice.finder == FILE and data.pseudo_groups is None:
        raise UsageError("groups.from is 'file', and data.pseudo_groups names no file; add --data.pseudo_groups FILE")
    if choice.known < 1 and data.pseudo_groups is not None:
        raise UsageError(
            f"groups.known is {choice.known:g}, and data.pseudo_groups says which rows are in which group; leave one "
            "of them out (an empty cell of the file is a row whose group is not known)"
        )
    if choice.val == "inferred" and not infers_val:
        _check_inferred(run, finder)
    if finder is None:
        return
    if data.pseudo_groups is not None:
        raise UsageError(
            f"groups.from is '{choice.finder}', and data.pseudo_groups gives groups too; leave one of them out"
        )
    if not takes_groups and own_finder != choice.finder:
        raise UsageError(
            f"groups.from is '{choice.finder}', and {method} looks at no groups, so that the finder would change "
            "nothing; leave it out, or take a trainer that looks at groups (groupdro, resample, reweight, subg, ...)"
        )
    finder.check(run)


def _check_inferred(run: Run, finder: Finder | None) -> None:
    if finder is None:
        raise UsageError(
            f"groups.val is 'inferred', and groups.from '{run.config.groups.finder}' infers none; choose a finder "
            f"({', '.join(FINDERS.names())}), or use --groups.val attribute or none"
        )
    if run.config.training.selection == "minority" and finder.kind == "cluster":
        raise UsageError(
            "training.selection is 'minority', and clusters do not say which rows are bias-conflicting; select by "
            "worst_group or mean_group"
        )


def provisional(run: Run) -> Run:
    """Return the run as a trainer's check sees it before groups are found: in groups that only stand for them.

    Each class is divided in two, so that settings are checked against groups as a finder gives them.
    """
    views = dict(run.views)
    if finder_of(run) is not None:
        train = views["train"]
        order = np.argsort(train.label[train.rows], kind="stable")
        marks = np.zeros(len(train), np.int64)
        marks[order] = np.arange(len(train)) % 2
        views["train"] = by_marks(train, marks).without_empty_groups()
    return replace(run, views=_with_hidden_val(run, views))


def _with_hidden_val(run: Run, views: Mapping[str, View]) -> dict[str, View]:
    """Return the views; with groups.val none, the attributes of 'val' are not known."""
    if run.config.groups.val != "none" or "val" not in views:
        return dict(views)
    val = views["val"]
    unknown = np.full(len(val.beton), UNKNOWN)
    return {**views, "val": replace(val, attribute=unknown, group=unknown, true_groups=val.true_groups or val)}


def with_groups(run: Run) -> Run:
    """Return the run as its trainer sees it: training rows, and validation rows that select, in the chosen groups.

    Results are measured in the data set's own groups all the same: they belong to the run as it was.
    """
    finder = finder_of(run)
    if finder is None:
        return replace(run, views=_with_hidden_val(run, run.views))
    found = finder.find(run)
    views = {**run.views, "train": found.train}
    _check_divided(run, found)
    run.notes["groups"] = describe_found(run, found)
    if run.config.groups.val == "inferred" and run.selection_rule != NO_SELECTION:
        views["val"] = found.of(run.views["val"])
        run.remarks.append(f"validation groups by {run.config.groups.finder}")
    return replace(run, views=_with_hidden_val(run, views))


def describe_found(run: Run, found: Found) -> dict[str, Any]:
    """Return plain values about the groups that were found, for results.json, and log them.

    from, val: the settings.
    table, column: name of the table in the run's folder, or path of another file; and its column of groups.
    groups: the number of rows in each group.
    Further values are those of `describe_marks` for the rows that the groups call bias-conflicting, with the word
    'mark', and the finder's own.
    """
    choice, marked = run.config.groups, minority_rows(found.train)
    description = describe_marks(run.views["train"], marked)
    counts = {name: count for name, count in found.train.counts_by_name().items() if count}
    precision = description["precision"]
    quality = "" if precision is None else f"; precision {100 * precision:.1f} %{recall_text(description)}"
    logger.info(
        "groups from %s: %d groups, %d of %d rows called bias-conflicting%s; table %s",
        choice.finder,
        len(counts),
        marked.sum(),
        len(marked),
        quality,
        found.table,
    )
    table = found.table.name if found.table.parent == run.folder else str(found.table.resolve())
    origin = {"from": choice.finder, "val": choice.val, "table": table, "column": found.column, "groups": counts}
    return {**origin, **description, **found.notes}


def _check_divided(run: Run, found: Found) -> None:
    """Warn where no class is divided, so that the trainer sees classes alone; DataError if groups.single is error."""
    view = found.train
    pairs = np.unique(np.stack([view.label[view.rows], view.group[view.rows]]), axis=1)
    if len(pairs[0]) > len(np.unique(pairs[0])):
        return
    counts = "; ".join(f"{name}: {count}" for name, count in list(view.counts_by_name().items())[:8] if count)
    text = (
        f"groups.from '{run.config.groups.finder}' found one group in each class ({counts}), so that "
        f"{run.config.training.method} balances classes alone, or goes on as erm"
    )
    remedy = found.hint or "choose another finder"
    if run.config.groups.single == "error":
        raise DataError(f"{text}; groups.single is 'error'. {remedy[0].upper()}{remedy[1:]}")
    logger.warning("warning: %s; %s", text, remedy)
