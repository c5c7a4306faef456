"""Predictions of a first network: the predicted class stands for the spurious attribute.

Zhang, Sohoni, Zhang, Finn and Re 2022, "Correct-N-Contrast: A Contrastive Approach for Improving Robustness to Spurious
Correlations" (arXiv 2203.01517), stage 1.
"""

from __future__ import annotations

import numpy as np

from debeton.data.views.view import View
from debeton.methods.finder import (
    Found,
    Groups,
    early_network,
    found_groups,
    identify_outline,
    register_finder,
)
from debeton.train.evaluation import evaluate_view
from debeton.train.run import Run


@register_finder(
    "cnc",
    "the classes that an early network predicts",
    paper="Zhang et al. 2022 (Correct-n-Contrast, stage 1)",
    needs="label",
    cost="finder.epochs",
    kind="prediction",
    phases=identify_outline,
)
def cnc_groups(run: Run) -> Found:
    """Train ERM for a few epochs and group rows by (label, predicted class).

    The prediction is an attribute over all classes, as the contrast needs it: rows of two classes with one prediction
    share it. A row whose prediction is its label is called bias-aligned. With two classes the groups are those of the
    errors (finder 'jtt'). With more classes, errors are told apart by what was predicted.
    """
    network = early_network(run)

    def groups_of(rows: View) -> Groups:
        evaluation = evaluate_view(run, network, rows)
        classes = np.asarray(rows.spec.classes, object)
        return Groups(classes[evaluation.predicted.numpy()], evaluation.loss.numpy())

    hint = (
        "train the first network less: fewer --finder.epochs, lower --finder.lr, higher --finder.weight_decay; if it "
        "predicts one class for all rows, train it longer"
    )
    return found_groups(run, network, groups_of, kind="prediction", hint=hint)
