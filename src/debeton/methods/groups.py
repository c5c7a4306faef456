"""Groups alone: the group finder of section 'groups' leaves its table, and nothing is trained on it."""

from __future__ import annotations

from debeton.methods.finder import FINDERS
from debeton.methods.group_choice import finder_of
from debeton.methods.method import register_method
from debeton.system.errors import UsageError
from debeton.train.outline import Outline
from debeton.train.run import Run


def check_finder(run: Run) -> None:
    """Raise UsageError where no finder is asked for."""
    if finder_of(run) is None:
        raise UsageError(
            f"groups.from is '{run.config.groups.finder}', which finds nothing; choose a finder with --groups.from "
            f"({', '.join(FINDERS.names())})"
        )


def no_phase(run: Run) -> Outline:
    """Return the outline: none beside those of the finder."""
    return []


@register_method(
    "groups",
    "the table of a group finder; nothing is trained on it (debeton groups)",
    paper="that of the finder",
    needs="label; attribute of what the finder needs",
    check=check_finder,
    classifies=False,
    phases=no_phase,
)
def groups(run: Run) -> None:
    """Do nothing more: the groups have been found, and their table is in the run's folder."""
