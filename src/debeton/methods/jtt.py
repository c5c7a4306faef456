"""Just Train Twice: the rows that a first network gets wrong occur more often in the training of the second."""

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
from debeton.methods.parts.marked_rows import Mask, describe_marks, kept
from debeton.system.log import logger
from debeton.train.evaluation import evaluate
from debeton.train.objective import CrossEntropy
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
    """Return the settings of the phase 'identify', whose last epoch is kept."""
    settings = config.section(JttSettings)
    return replace(phase_settings(config, settings), epochs=settings.epochs, selection="last")


def upweighted(view: View, error: Mask, upweight: int) -> View:
    """The view followed by `upweight` more copies of its error rows; error: bool [M], by position in the view.

    An error row thus occurs upweight + 1 times, as in the released code with which the results were made (anniesch/jtt
    appends the rows `up_weight` times to the training set); the paper's Algorithm 1 speaks of upweight times.
    """
    return view.subset(np.concatenate([np.arange(len(view)), np.tile(np.flatnonzero(error), upweight)]))


def error_set(run: Run, model: nn.Module) -> Mask:
    """Which rows of the training view the model gets wrong, bool [M]: in evaluation mode, without augmentation; found
    once (`_marked_rows.kept`)."""
    view = run.views["train"]

    def find() -> dict[str, list[int]]:
        wrong = evaluate(run, model, "train").predicted.numpy() != view.label[view.rows]
        return {COLUMN: wrong.astype(int).tolist()}

    return kept(run.folder / ERROR_SET, view, find, partial(read_marks, column=COLUMN))


def report_errors(view: View, error: Mask) -> dict[str, Any]:
    """`describe_marks`, told in the log; warns of an error set with which the second training is the first again."""
    found = describe_marks(view, error, "error")
    known = "" if found["recall"] is None else f"; {100 * found['recall']:.1f} % of the bias-conflicting rows"
    logger.info("error set: %d of %d rows%s", found["errors"], len(view), known)
    if not found["errors"]:
        logger.warning(
            "warning: the first network makes no error on the training rows, so jtt goes on as erm; stop it earlier "
            "or hold it back: fewer --jtt.epochs, lower --jtt.lr, higher --jtt.weight_decay"
        )
    elif found["errors"] == len(view):
        logger.warning(
            "warning: the first network gets every training row wrong, so all count the same and jtt goes on as erm "
            "in longer epochs; look at its lines in results.jsonl, and train it longer or with another --jtt.lr"
        )
    return found


@register_method(
    "jtt",
    "rows that a first network gets wrong are repeated for a second",
    paper="Liu et al. 2021 (JTT)",
    needs="label",
)
def jtt(run: Run) -> nn.Module:
    """ERM for T epochs, its errors on the training rows, and ERM from fresh weights of the same seed on the view in
    which each error row occurs lambda times more (Liu et al. 2021, Alg. 1)."""
    config, view = run.config, run.views["train"]
    smoothing = config.training.label_smoothing
    first = fit(run, view, CrossEntropy(smoothing), phase=IDENTIFY, settings=identify_settings(config))
    error = error_set(run, first)
    run.notes["jtt"] = report_errors(view, error)
    del first  # its memory is the second network's
    return fit(run, upweighted(view, error, config.section(JttSettings).upweight), CrossEntropy(smoothing))
