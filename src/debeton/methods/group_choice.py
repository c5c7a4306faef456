"""The choice of groups (section 'groups'): checks before the first phase, and the views that a trainer works on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from debeton.config import suggest
from debeton.data.spec import UNKNOWN
from debeton.data.views.row_lists import by_marks
from debeton.data.views.view import View
from debeton.methods.finder import FINDERS, Finder, Found
from debeton.methods.parts.marked_rows import describe_marks, minority_rows, recall_text
from debeton.system.errors import DataError, UsageError, nearest
from debeton.system.log import logger
from debeton.train.outline import Outline
from debeton.train.run import Run
from debeton.train.run_views import no_pairs

ATTRIBUTE, FILE = "attribute", "file"

suggest("groups.val", "none", {"training.selection": "worst_class"})


def finder_of(run: Run, name: str = "") -> Finder | None:
    """Return the finder that groups.from names; None for 'attribute' and 'file'. UsageError for an unknown name.

    name: of the finder that belongs to a base method (dfr.base jtt), in place of groups.from.
    """
    name = name or run.config.groups.finder
    if name in (ATTRIBUTE, FILE):
        return None
    if name not in FINDERS:
        known = [ATTRIBUTE, FILE, *FINDERS.names()]
        raise UsageError(f"groups.from is '{name}'{nearest(name, known)} known: {', '.join(known)}")
    return FINDERS.get(name)


def finder_outline(run: Run, name: str = "") -> Outline:
    """Return the outline of the finder's phases; empty where no finder is asked for. name: as in `finder_of`."""
    finder = finder_of(run, name)
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
    if data.pseudo_groups is not None and own_finder != choice.finder:
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
    if run.config.training.selection != "minority":
        return
    if finder.kind == "cluster":
        raise UsageError(
            "training.selection is 'minority', and clusters do not say which rows are bias-conflicting; select by "
            "worst_group or mean_group"
        )
    own = run.views["train"].true_groups or run.views["train"]
    if finder.kind == "attribute" and not own.spec.aligned:
        raise UsageError(f"training.selection is 'minority', but {no_pairs(own)}, or select by worst_group")


def provisional(run: Run, name: str = "") -> Run:
    """Return the run as a trainer's check sees it before groups are found: in groups that only stand for them.

    Each class is divided in two, so that settings are checked against groups as a finder gives them. So are the
    validation rows where their groups are inferred.

    name: as in `finder_of`.
    """
    views = dict(run.views)
    if finder_of(run, name) is not None:
        splits = ["train", *(["val"] if run.config.groups.val == "inferred" and "val" in views else [])]
        views |= {split: _divided(views[split]) for split in splits}
    return replace(run, views=_with_hidden_val(run, views))


def _divided(view: View) -> View:
    """Return the rows of a view with every other row of each class called bias-conflicting."""
    order = np.argsort(view.label[view.rows], kind="stable")
    marks = np.zeros(len(view), np.int64)
    marks[order] = np.arange(len(view)) % 2
    return by_marks(view, marks).without_empty_groups()


def _with_hidden_val(run: Run, views: Mapping[str, View]) -> dict[str, View]:
    """Return the views; with groups.val none, the attributes of 'val' are not known."""
    if run.config.groups.val != "none" or "val" not in views:
        return dict(views)
    val = views["val"]
    unknown = np.full(len(val.beton), UNKNOWN)
    return {**views, "val": replace(val, attribute=unknown, group=unknown, true_groups=val.true_groups or val)}


def with_groups(run: Run, name: str = "") -> Run:
    """Return the run as its trainer sees it: training rows, and validation rows that select, in the chosen groups.

    Results are measured in the data set's own groups all the same: they belong to the run as it was.

    name: as in `finder_of`.
    """
    name = name or run.config.groups.finder
    finder = finder_of(run, name)
    if finder is None:
        return replace(run, views=_with_hidden_val(run, run.views))
    found = finder.find(run)
    views = {**run.views, "train": found.train}
    _check_divided(run, found, name)
    run.notes["groups"] = describe_found(run, found, name)
    if run.config.groups.val == "inferred" and "val" in views:
        views["val"] = found.of(run.views["val"])
        run.remarks.append(f"validation groups by {name}")
    return replace(run, views=_with_hidden_val(run, views))


def describe_found(run: Run, found: Found, name: str) -> dict[str, Any]:
    """Return plain values about the groups that were found, for results.json, and log them.

    from: name of the finder.
    kind: meaning of its groups, the value of data.pseudo_kind that reads them.
    val: the setting groups.val.
    table, column: name of the table in the run's folder, or path of another file; and its column of groups.
    groups: the number of rows in each group.
    Further values are those of `describe_marks` for the rows that the groups call bias-conflicting, with the word
    'mark', and the finder's own.
    """
    marked = minority_rows(found.train)
    description = describe_marks(run.views["train"], marked)
    counts = {name: count for name, count in found.train.counts_by_name().items() if count}
    precision = description["precision"]
    quality = "" if precision is None else f"; precision {100 * precision:.1f} %{recall_text(description)}"
    logger.info(
        "groups from %s: %d groups, %d of %d rows called bias-conflicting%s; table %s",
        name,
        len(counts),
        marked.sum(),
        len(marked),
        quality,
        found.table,
    )
    table = found.table.name if found.table.parent == run.folder else str(found.table.resolve())
    origin = {"from": name, "kind": FINDERS.get(name).kind, "val": run.config.groups.val}
    where = {"table": table, "column": found.column, "groups": counts}
    return {**origin, **where, **description, **found.notes}


def _check_divided(run: Run, found: Found, name: str) -> None:
    """Warn where no class is divided, so that the trainer sees classes alone; DataError if groups.single is error."""
    view = found.train
    pairs = np.unique(np.stack([view.label[view.rows], view.group[view.rows]]), axis=1)
    if len(pairs[0]) > len(np.unique(pairs[0])):
        return
    counts = "; ".join(f"{name}: {count}" for name, count in list(view.counts_by_name().items())[:8] if count)
    text = (
        f"groups.from '{name}' found one group in each class ({counts}), so that "
        f"{run.config.training.method} balances classes alone, or goes on as erm"
    )
    remedy = found.hint or "choose another finder"
    if run.config.groups.single == "error":
        raise DataError(f"{text}; groups.single is 'error'. {remedy[0].upper()}{remedy[1:]}")
    logger.warning("warning: %s; %s", text, remedy)
