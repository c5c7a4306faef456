"""Just Train Twice: rows that a first network gets wrong occur more often in the training of a second."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from debeton.config import Config, PhaseSettings, phase_setting, phase_settings, section, setting
from debeton.config.checkers import Int
from debeton.data.views.row_lists import read_marks
from debeton.data.views.view import View
from debeton.methods.method import register_method
from debeton.methods.parts.cross_entropy import cross_entropy
from debeton.methods.parts.marked_rows import Mask, describe_marks, read_or_write_table, recall_text
from debeton.system.log import logger
from debeton.train.evaluation import evaluate
from debeton.train.outline import Outline, PhaseOutline
from debeton.train.run import Run
from debeton.train.training import fit

IDENTIFY = "identify"


@section("jtt", "Just Train Twice: the phase that finds the error rows, and their weight")
@dataclass(frozen=True)
class JttSettings:
    """The settings of section 'jtt'."""

    epochs: int = setting(Int(1), "epochs of the phase 'identify' (T)", default=1)
    upweight: int = setting(Int(0), "further copies of each error row in the training rows (lambda)", default=50)
    lr: float | None = phase_setting("lr", IDENTIFY)
    weight_decay: float | None = phase_setting("weight_decay", IDENTIFY)
    optimizer: str | None = phase_setting("optimizer", IDENTIFY)


ERROR_SET = "error_set.csv"
COLUMN = "error"


def identify_settings(config: Config) -> PhaseSettings:
    """Return the settings of phase 'identify', whose last epoch is kept."""
    settings = config.section(JttSettings)
    return replace(phase_settings(config, settings), epochs=settings.epochs, selection="last")


def upweighted(view: View, error: Mask, upweight: int) -> View:
    """Return the view followed by `upweight` more copies of its error rows.

    An error row thus occurs upweight + 1 times, as in the released code that made the results: anniesch/jtt appends the
    rows `up_weight` times to the training set. Algorithm 1 of the paper says upweight times.

    error: the error rows by position in the view, bool [M].
    upweight: the number of further copies, lambda of the paper.
    """
    return view.subset(np.concatenate([np.arange(len(view)), np.tile(np.flatnonzero(error), upweight)]))


def error_set(run: Run, model: nn.Module) -> Mask:
    """Return the rows of the training view that the model gets wrong, bool [M].

    They are read from error_set.csv of the run's folder, or computed and written there: in evaluation mode and without
    augmentation.
    """
    view = run.views["train"]

    def find_errors() -> dict[str, list[int]]:
        wrong = evaluate(run, model, "train").predicted.numpy() != view.label[view.rows]
        return {COLUMN: wrong.astype(int).tolist()}

    return read_or_write_table(run.folder / ERROR_SET, view, model, find_errors, partial(read_marks, column=COLUMN))


def report_errors(view: View, error: Mask) -> dict[str, Any]:
    """Return `describe_marks` of the error set and log it. Warn if the second training would repeat the first one."""
    description = describe_marks(view, error, "error")
    logger.info("error set: %d of %d rows%s", description["errors"], len(view), recall_text(description))
    if not description["errors"]:
        logger.warning(
            "warning: the first network makes no error on the training rows, so jtt goes on as erm; train the first "
            "network less: fewer --jtt.epochs, lower --jtt.lr, higher --jtt.weight_decay"
        )
    elif description["errors"] == len(view):
        logger.warning(
            "warning: the first network gets every training row wrong, so all rows count the same and jtt goes on as "
            "erm in longer epochs; see its lines in results.jsonl, and train it longer or with another --jtt.lr"
        )
    return description


def jtt_phases(run: Run) -> Outline:
    """Return the outline: phase 'identify', and 'train' on rows whose number depends on the errors of the first."""
    view, copies = run.views["train"], run.config.section(JttSettings).upweight
    note = f"each error row occurs {copies + 1} times" if copies else ""
    train = PhaseOutline("train", phase_settings(run.config), view, at_least=bool(copies), note=note)
    return [PhaseOutline(IDENTIFY, identify_settings(run.config), view), train]


@register_method(
    "jtt",
    "rows that a first network gets wrong are repeated for a second",
    paper="Liu et al. 2021 (JTT)",
    needs="label",
    class_weights=True,
    phases=jtt_phases,
)
def jtt(run: Run) -> nn.Module:
    """Train ERM for T epochs, find its error rows, and train ERM again with each error row lambda times more.

    The second network begins with fresh weights of the same seed (Liu et al. 2021, Alg. 1).
    """
    config, view = run.config, run.views["train"]
    objective = cross_entropy(run, view)
    first = fit(run, view, objective, phase=IDENTIFY, settings=identify_settings(config), sections=["model"])
    error = error_set(run, first)
    run.notes["jtt"] = report_errors(view, error)
    del first  # frees its memory for the second network
    view = upweighted(view, error, config.section(JttSettings).upweight)
    return fit(run, view, cross_entropy(run, view))
