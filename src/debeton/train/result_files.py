"""results.json and results.jsonl of a run: their content, and the reader that all programs use.

A file that lacks what older versions did not write is sound. A value of another kind than this program writes is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from debeton.system.json_files import damage_of, read_json, read_json_lines
from debeton.system.json_shapes import ListOf, Shape, Table, Within, or_null
from debeton.system.log import logger
from debeton.train.probability_metrics import PROBABILITY_KEYS

RESULTS_NAME, LOG_NAME = "results.json", "results.jsonl"
FRACTIONS = (
    "accuracy",
    "adjusted_accuracy",
    "mean_group_accuracy",
    "mean_class_accuracy",
    "worst_class_accuracy",
    "worst_group_accuracy",
    "bias_aligned_accuracy",
    "bias_conflicting_accuracy",
    "mean_aligned_group_accuracy",
    "mean_conflicting_group_accuracy",
)
REMEDY = "the same training command makes it anew"
LOG_REMEDY = (
    "put the file back from a copy; or remove this line, and the curve lacks its evaluation; or train again under "
    "another --training.exp_name"
)

FRACTION, NUMBER, COUNT = or_null(Within(float, 0, 1)), or_null(float), Within(int, 0)
TEXT, TEXTS, ANY_TABLE = or_null(str), ListOf(str), or_null(dict)
METRICS = Table(
    may={
        **dict.fromkeys(FRACTIONS, FRACTION),
        **{name: or_null(Within(float, 0, 2 if name.endswith("brier") else 1)) for name in PROBABILITY_KEYS},
        "loss": NUMBER,
        "worst_group": TEXT,
        "predicted_classes": or_null(COUNT),
        "group_accuracy": or_null(Table(others=FRACTION)),
        "group_count": or_null(Table(others=COUNT)),
        "accuracy_interval": or_null(ListOf(FRACTION, 2)),
        "group_accuracy_interval": or_null(Table(others=or_null(ListOf(FRACTION, 2)))),
        "attribute_unknown": or_null(Table(may={"count": COUNT})),
        **{f"group_{name}": or_null(Table(others=NUMBER)) for name in ("auroc", "average_precision", "f1", "ece")},
    }
)
EFFECT = Table(
    keys={"attack_success_rate": FRACTION, "flip_rate": FRACTION, "shift": Table(others=float)},
    may={"clean": METRICS, "triggered": METRICS, "accuracy_drop": float},
)
RUN_DATA = Table(others=Table(keys={"file": str}, others=str))
SELECTION = Table(may={"asked": str, "rule": str, "text": str, "view": str, "kind": str, "without_rows": TEXTS})
RESULTS = Table(
    keys={"dataset": str, "method": str, "seed": int},
    may={
        "name": str,
        "method_sections": TEXTS,
        "selection": TEXT,
        "selected_by": or_null(SELECTION),
        "selected_epoch": or_null(COUNT),
        "selected_on": TEXT,
        "val_uses": TEXTS,
        "reported": TEXTS,
        "remarks": TEXTS,
        "ended_early": or_null(Table(others=str)),
        "config_hash": TEXT,
        "data": or_null(RUN_DATA),
        "dataset_options": ANY_TABLE,
        "versions": or_null(Table(others=str)),
        "source": or_null(Table(may={"trigger": TEXT, "trigger_classes": TEXT})),
        "train_groups": or_null(Table(others=COUNT)),
        "groups_without_rows": ANY_TABLE,
        "val": or_null(METRICS),
        "test": or_null(METRICS),
        "other_tests": or_null(Table(others=METRICS)),
        "triggers": or_null(Table(others=or_null(Table(others=EFFECT)))),
        "oracle": or_null(Table(keys={"rule": str, "epoch": COUNT, "test": METRICS})),
        "notes": ANY_TABLE,
        "timing": ANY_TABLE,
        "evaluated": Table(keys={"model": str}),
        "evaluations": COUNT,
    },
)
EVALUATION = Table(
    keys={"epoch": or_null(COUNT), "split": str, "metrics": or_null(METRICS)},
    may={"phase": str, "step": or_null(COUNT), "lr": NUMBER, "objective": ANY_TABLE},
)
# A line that a run goes on from: without its phase and epoch, nobody knows whether it comes again.
OWN_EVALUATION = Table(
    keys={"phase": str, "epoch": COUNT, "step": COUNT, "split": str, "lr": NUMBER, "metrics": METRICS},
    may={"objective": ANY_TABLE},
    others=None,
)


def may_diverge(key: str) -> bool:
    """Return whether a number under this key may be NaN: not an accuracy. Older versions wrote a diverged loss so."""
    return not key.endswith("accuracy")


def read_results(folder: Path) -> dict[str, Any] | None:
    """Return results.json of a run folder; None if there is none. DataError names what is damaged."""
    path = folder / RESULTS_NAME
    if not path.exists():
        return None
    found: dict[str, Any] = read_json(path, RESULTS, remedy=REMEDY, nan_as_null=may_diverge)
    return found


def damaged_results(folder: Path) -> str:
    """Return the sentence about damaged results of a run folder; '' if they are sound or not there."""
    path = folder / RESULTS_NAME
    return damage_of(path, RESULTS, nan_as_null=may_diverge) if path.exists() else ""


def is_finished(folder: Path) -> bool:
    """Return whether a run folder has its results. Damaged ones are none: the same command makes them anew."""
    return (folder / RESULTS_NAME).exists() and not damaged_results(folder)


def read_log(
    path: Path, shape: Shape = OWN_EVALUATION, cut: Callable[[int], None] = lambda number: None
) -> Iterator[dict[str, Any]]:
    """Yield the lines of a results.jsonl; none if there is no file. DataError names a damaged line.

    A last line that a kill cut off is left out, and `cut` is called with its number.
    """
    lines = read_json_lines(path, shape, remedy=LOG_REMEDY, nan_as_null=may_diverge, cut=cut) if path.exists() else ()
    for _, line in lines:
        yield line


def say_cut(path: Path, number: int) -> None:
    """Say that the last line of a file is left out."""
    logger.info("note: line %d of %s was cut off, as a kill leaves it; it is dropped and made anew", number, path)
