"""Predictions by row: one table of a run, with a line for each measured row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debeton.data.spec import Ints
from debeton.data.views.view import View
from debeton.system.errors import DataError
from debeton.system.log import logger
from debeton.system.table_files import write_table
from debeton.train.evaluation import Evaluation


def write_predictions(path: Path, measured: Mapping[str, tuple[View, Evaluation]]) -> None:
    """Write the predictions of a run's measured rows.

    measured: the view and its evaluation, with logits, by split.

    The columns are:

    split: name of the split.
    row: number of the row in its beton, from 0.
    path: name of the image in its data set.
    label, attribute, group, predicted: names; attribute and group are missing where the attribute is not known.
    label_code, attribute_code, group_code, predicted_code: their codes, -1 where not known.
    correct: whether the predicted class is the label.
    loss: cross-entropy in nats.
    p_CLASS: probability of each class.
    """
    tables = [_columns(split, view, evaluation) for split, (view, evaluation) in measured.items()]
    write_table(path, {name: np.concatenate([table[name] for table in tables]) for name in tables[0]})


def _columns(split: str, view: View, evaluation: Evaluation) -> dict[str, NDArray[Any]]:
    """Return the columns of one split."""
    rows, spec = view.rows, view.spec
    named = {
        "label": (view.label[rows], spec.classes),
        "attribute": (view.attribute[rows], spec.attributes),
        "group": (view.group[rows], spec.group_names),
        "predicted": (evaluation.predicted.numpy(), spec.classes),
    }
    return {
        "split": np.full(len(rows), split, object),
        "row": rows,
        "path": _paths(view),
        **{name: names_of(codes, names) for name, (codes, names) in named.items()},
        **{f"{name}_code": codes for name, (codes, _) in named.items()},
        "correct": named["label"][0] == named["predicted"][0],
        "loss": evaluation.loss.numpy(),
        **dict(zip(probability_columns(spec.classes), evaluation.probabilities.T, strict=True)),
    }


def _paths(view: View) -> NDArray[np.object_]:
    """Return the path of each row; None, with a warning, if the beton's file of columns cannot be read."""
    try:
        return np.asarray(view.beton.extra["path"], object)[view.rows]
    except (DataError, OSError) as error:  # a trained network must not lose its results for this
        logger.warning("warning: the predictions of '%s' have no paths: %s", view.name, error)
        return np.full(len(view), None, object)


def names_of(codes: Ints, names: Sequence[str]) -> NDArray[np.object_]:
    """Return the name of each code, None for -1."""
    return np.array([*names, None], object)[codes]


def probability_columns(classes: Sequence[str]) -> list[str]:
    """Return the names of the columns of probabilities. Of classes with one name, the code follows the name."""
    counts = Counter(classes)
    return [f"p_{name}" if counts[name] == 1 else f"p_{name} ({code})" for code, name in enumerate(classes)]
