"""The cross-entropy of a run: with its label smoothing and its class weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from debeton.data.views.view import View
from debeton.methods.parts.balance import balancing_weights, check_every_class, class_counts
from debeton.system.errors import UsageError
from debeton.system.log import logger
from debeton.train.objective import CrossEntropy
from debeton.train.run import Run


def cross_entropy(run: Run, view: View) -> CrossEntropy:
    """Return the objective of empirical risk minimisation on the rows of a view, as section 'training' has it."""
    weights, classes = class_weights(run, view), view.spec.classes
    if weights is not None:
        shown = "; ".join(f"{name} {weight:.4g}" for name, weight in list(zip(classes, weights.tolist()))[:8])
        logger.info("class weights in view '%s': %s%s", view.name, shown, "; ..." if len(classes) > 8 else "")
    return CrossEntropy(run.config.training.label_smoothing, weights)


def class_weights(run: Run, view: View) -> Tensor | None:
    """Return the weight of each class in the loss on a view, float32 [C]; None where all weigh 1.

    'balanced' is n / (C n_c), as scikit-learn's compute_class_weight has it: n rows, n_c of them of class c, and C
    classes with rows.

    UsageError for another number of weights than classes, or one that float32 cannot hold; DataError for a class
    without rows, unless empty groups are ignored.
    """
    given, classes = run.config.training.class_weights, view.spec.classes
    if given is None:
        return None
    if isinstance(given, str):
        check_every_class(view, run.config.training.empty_groups)
        weights = torch.from_numpy(balancing_weights(class_counts(view))).float()
    elif len(given) != len(classes):
        raise UsageError(
            f"training.class_weights has {len(given)} values for the {len(classes)} classes of {view.spec.name}; give "
            f"one for each, in this order: {'; '.join(classes[:8])}{'; ...' if len(classes) > 8 else ''}"
        )
    else:
        weights = torch.tensor(given)
        for weight, stored in zip(given, weights.tolist()):
            if not 0 < stored < math.inf:
                raise UsageError(
                    f"training.class_weights holds {weight:g}, which is {stored:g} in float32; only the ratios count, "
                    "so give numbers near 1"
                )
    return weights
