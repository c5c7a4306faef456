"""The command that trains on betons just written, and what it will measure."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from debeton.data.spec import DatasetSpec
from debeton.data.split_names import beton_name
from debeton.system.errors import DataError, UsageError
from debeton.system.log import logger
from debeton.system.project import PRESETS, checkout, find_preset, preset_names

if TYPE_CHECKING:
    from debeton.config import Config
    from debeton.data.views.view import View

OWN_DATA = "folder"  # the preset of data sets that have none of their own

# Settings that let a first run start where the preset's rule of selection cannot, in the order in which they are tried.
REMEDIES = (
    ((), ""),
    (
        ("--training.empty_groups", "ignore"),
        "some groups have no row in val, so the worst group that chooses the epoch is that of the others",
    ),
    (
        ("--training.selection", "mean_class"),
        "no attribute of val is known, so the mean accuracy of the classes chooses the epoch",
    ),
    (
        ("--data.val_fraction", "0", "--training.selection", "last"),
        "there are too few rows for a val that chooses the epoch, so the last one counts",
    ),
)


@dataclass(frozen=True)
class NextCommand:
    """The command to run next.

    words: the words of the command.
    remarks: sentences on its choices, and on what it measures.
    """

    words: tuple[str, ...]
    remarks: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return the command and the remarks as the lines to print."""
        return [f"next: {shlex.join(self.words)}", *(f"  {remark}" for remark in self.remarks)]


def next_command(source: str, spec: DatasetSpec, out: Path) -> NextCommand | None:
    """Return the training command for the betons of a data set. None if `out` has no training beton of it.

    source: the source's name. A published set has its preset; all others are trained with that of one's own data.
    out: the folder of the betons.
    """
    if not (out / beton_name(spec.name, "train")).exists():
        return None
    preset = source if source != OWN_DATA and source in preset_names() else OWN_DATA
    overrides = ["--data.dataset", spec.name] if preset == OWN_DATA or spec.name != source else []
    overrides += ["--training.data_root", str(out)]
    extra, remarks = _first_run(preset, overrides) if preset == OWN_DATA else ((), [])
    root = checkout()
    in_checkout = root is not None and (root / "main.py").is_file() and Path.cwd() == root
    start = ("python", "main.py") if in_checkout else ("debeton", "train")
    file = f"{PRESETS}/{preset}.yaml" if in_checkout else preset
    return NextCommand((*start, "--config-file", file, *overrides, *extra), tuple(remarks))


def _first_run(preset: str, overrides: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Return the further settings with which a first run starts, and sentences on what it measures."""
    from debeton.config import load
    from debeton.train.run_views import check_selection, check_selection_rows, prepare_views

    level, reasons = logger.level, list[str]()
    logger.setLevel(logging.ERROR)  # the run itself will say what it notices
    try:
        for words, reason in REMEDIES:
            config = load([find_preset(preset)], [*overrides, *words])
            try:
                views = prepare_views(config)
                check_selection(config, views)
                check_selection_rows(config, views)
            except (UsageError, DataError) as error:
                reasons.append(str(error))
                continue
            return words, [*([reason] if reason else []), *_remarks(config, views)]
    finally:
        logger.setLevel(level)
    return (), [f"it cannot start yet: {reasons[0]}"]


def _remarks(config: Config, views: dict[str, View]) -> list[str]:
    """Return sentences on the rows that choose the epoch, on those that are measured, and on the groups."""
    from debeton.data.views.splits import evaluated

    remarks = []
    if "val" in views and views["val"].beton.path == views["train"].beton.path:
        remarks.append(
            f"there is no val: {config.data.val_fraction:.0%} of every group of train ({len(views['val'])} rows) are "
            "held out and choose the epoch"
        )
    tests = [name for name in evaluated(views) if name != "val"]
    if tests:
        remarks.append(f"results are measured on {', '.join(tests)}")
    elif "val" not in views:
        remarks.append("there is no val and no test, so nothing is measured; add rows of the split test")
    else:
        remarks.append(
            "there is no test: results are those of val, which also chooses the epoch, and so a little too good; "
            "--test-fraction 0.2 at writing keeps rows for a test"
        )
    return remarks
