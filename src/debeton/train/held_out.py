"""Splits that are not held out: those that share rows, and those that selected the epoch.

The remarks here stand in the log before training, and in every table of the results.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np

from debeton.config import Config
from debeton.data.views.splits import evaluated
from debeton.data.views.view import View
from debeton.system.log import logger
from debeton.train.remarks import SELECTED, not_held_out
from debeton.train.selection import NO_SELECTION

TRAINED_ON = ("train", "first", "target")


def shared_row_remarks(views: Mapping[str, View]) -> list[str]:
    """Return a remark on each pair of splits that share rows, of which the second is measured.

    Rows are the same where they lie in one file, or at one place of two betons that list the same rows.
    """
    measured = evaluated(views)
    order = [split for split in (*TRAINED_ON, "val", *measured) if split in views]
    remarks = []
    for one, other in combinations(dict.fromkeys(order), 2):
        if other in measured and _content(views[one]) == _content(views[other]):
            shared = np.intersect1d(views[one].rows, views[other].rows).size
            if shared:
                remarks.append(f"{shared} of {np.unique(views[other].rows).size} rows of {other} are also in {one}")
    return remarks


def _content(view: View) -> str:
    """Return the hash of a beton's list of rows; without one, the file. Equal texts mean the same rows."""
    return str(view.beton.sidecar.get("row_hash") or view.beton.path.resolve())


def warn_of_results(config: Config, views: Mapping[str, View]) -> None:
    """Warn before training of splits that share rows, and of a validation split that selects and is reported."""
    uses = [SELECTED] if "val" in views and config.training.selection != NO_SELECTION else []
    for remark in shared_row_remarks(views):
        logger.warning("warning: %s", remark)
    for remark in not_held_out(uses, evaluated(views)):
        logger.warning(
            "warning: there is no test split: %s, and tables will say so; give a test split with --data.test_path, or "
            "keep the last epoch with --training.selection last",
            remark,
        )
