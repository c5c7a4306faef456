"""Just Train Twice: the rows that a first network gets wrong occur more often in the training of the second."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
from fastargs import Param, Section
from numpy.typing import NDArray
from torch import nn

from debeton import distributed
from debeton.checkers import Float, Int, OneOf
from debeton.config import Config
from debeton.data.view import View
from debeton.errors import DataError
from debeton.files import write_text
from debeton.log import logger
from debeton.methods import register_method
from debeton.objective import CrossEntropy
from debeton.run import Run

Section("jtt", "Just Train Twice: the phase that finds the errors, and what they count").params(
    epochs=Param(Int(1), "epochs of the phase 'identify' (T)", default=1),
    upweight=Param(Int(0), "how many more times each error row occurs (lambda)", default=50),
    lr=Param(Float(-1), "learning rate of 'identify'; -1: training.lr", default=-1.0),
    weight_decay=Param(Float(-1), "weight decay of 'identify'; -1: training.weight_decay", default=-1.0),
    optimizer=Param(OneOf("auto", "sgd", "adam", "adamw"), "of 'identify'; auto: training.optimizer", default="auto"),
)

Mask = NDArray[np.bool_]
ERROR_SET = "error_set.csv"
COLUMNS = ("path", "label", "attribute", "error")


def identify_settings(config: Config) -> dict[str, Any]:
    """What the phase 'identify' has of its own among the settings of training; its last epoch is kept."""
    jtt = config.jtt
    settings: dict[str, Any] = {"epochs": jtt.epochs, "selection": "last"}
    settings |= {name: getattr(jtt, name) for name in ("lr", "weight_decay") if getattr(jtt, name) >= 0}
    return settings if jtt.optimizer == "auto" else {**settings, "optimizer": jtt.optimizer}


def upweighted(view: View, error: Mask, upweight: int) -> View:
    """The view followed by `upweight` more copies of its error rows; error: bool [M], by position in the view.

    An error row thus occurs upweight + 1 times, as in the released code with which the results were made (anniesch/jtt
    appends the rows `up_weight` times to the training set); the paper's Algorithm 1 speaks of upweight times.
    """
    return view.subset(np.concatenate([np.arange(len(view)), np.tile(np.flatnonzero(error), upweight)]))


def write_error_set(path: Path, view: View, error: Mask) -> None:
    """A line per row of the view: path, the names of label and attribute, and 1 for an error row.

    `--data.pseudo_groups FILE --data.pseudo_column error` reads it as pseudo-groups.
    """
    true, names = view.true_groups or view, view.beton.extra["path"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row, wrong in zip(view.rows.tolist(), error.tolist(), strict=True):
        label, attribute = true.spec.classes[true.label[row]], true.spec.attributes[true.attribute[row]]
        writer.writerow([names[row], label, attribute, int(wrong)])
    write_text(path, text.getvalue())


def read_error_set(path: Path, view: View) -> Mask:
    """The inverse of `write_error_set`, bool [M]; DataError where the file does not list the view's rows in order."""
    names = view.beton.extra["path"]
    with path.open(newline="", encoding="utf-8") as file:
        records = list(csv.reader(file))
    expected = [str(names[row]) for row in view.rows.tolist()]
    errors = [record[-1] for record in records[1:] if len(record) == len(COLUMNS) and record[-1] in ("0", "1")]
    if [record[0] for record in records[1:] if record] != expected or len(errors) != len(expected):
        raise DataError(
            f"{path} does not list the {len(view)} rows of view '{view.name}' with errors 0 or 1; it was changed, or "
            "belongs to another run. Remove it, and the errors are identified again"
        )
    return np.array(errors) == "1"


def error_set(run: Run, model: nn.Module) -> Mask:
    """Which rows of the training view the model gets wrong, bool [M]: in evaluation mode, without augmentation.

    Once found they are kept in the run folder and read from there, so that a resumed run trains on the same rows even
    where two evaluations of one model may differ by a rounding.
    """
    view, path = run.views["train"], run.folder / ERROR_SET
    if not distributed.from_main("kept" if path.exists() else ""):
        wrong = run.evaluate(model, "train").predicted.numpy() != view.label[view.rows]
        if distributed.is_main():
            write_error_set(path, view, wrong)
        distributed.barrier()
    return read_error_set(path, view)


def describe_errors(view: View, error: Mask) -> dict[str, Any]:
    """How the error set meets the set's own groups, plain values.

    precision: bias-conflicting rows among the errors; recall: errors among the bias-conflicting rows; error_rate_
    aligned: errors among the aligned ones; all three None where undefined. by_group: rows and errors; error_rate =
    errors / rows (of a conflicting group: its recall); share, of the error set.
    """
    true = view.true_groups or view
    rows, wrong = np.bincount(true.group[view.rows]), np.bincount(true.group[view.rows[error]])
    rows, wrong = (np.pad(n, (0, true.spec.num_groups - len(n))) for n in (rows, wrong))
    aligned = true.spec.is_aligned(true.label[view.rows], true.attribute[view.rows])
    found: dict[str, Any] = {"rows": len(view), "errors": int(error.sum())}
    found |= dict.fromkeys(("precision", "recall", "error_rate_aligned"))
    if aligned is not None:
        found["precision"] = _share(~aligned[error])
        found["recall"], found["error_rate_aligned"] = _share(error[~aligned]), _share(error[aligned])
    found["by_group"] = {
        name: {
            "rows": int(rows[g]), "errors": int(wrong[g]),
            "error_rate": float(wrong[g] / rows[g]) if rows[g] else None,
            "share": float(wrong[g] / wrong.sum()) if wrong.sum() else None,
        }
        for g, name in enumerate(true.spec.group_names) if g not in true.spec.missing
    }  # fmt: skip
    return found


def _share(mask: Mask) -> float | None:
    return float(mask.mean()) if len(mask) else None


def report_errors(view: View, error: Mask) -> dict[str, Any]:
    """`describe_errors`, told in the log; warns of an error set with which the second training is the first again."""
    found = describe_errors(view, error)
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
    "jtt", "rows that a first network gets wrong are repeated for a second", paper="Liu et al. 2021 (JTT)",
    needs="label",
)  # fmt: skip
def jtt(run: Run) -> nn.Module:
    """ERM for T epochs, its errors on the training rows, and ERM from fresh weights of the same seed on the view in
    which each error row occurs lambda times more (Liu et al. 2021, Alg. 1)."""
    config, view = run.config, run.views["train"]
    smoothing = config.training.label_smoothing
    first = run.fit(view, CrossEntropy(smoothing), phase="identify", settings=identify_settings(config))
    error = error_set(run, first)
    run.notes["jtt"] = report_errors(view, error)
    del first  # its memory is the second network's
    return run.fit(upweighted(view, error, config.jtt.upweight), CrossEntropy(smoothing))
