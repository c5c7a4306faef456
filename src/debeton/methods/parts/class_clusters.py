"""Clusters of the rows of each class, and the groups that they make of a view's rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from debeton.data.spec import Ints
from debeton.data.views.view import View
from debeton.methods.parts.clusters import ClusterRule, Division, Floats, Values, divide
from debeton.system import distributed
from debeton.system.log import logger

MOST_LINES = 20  # classes whose silhouettes are logged


@dataclass(frozen=True)
class ClassClusters:
    """The clusters of each class, fitted on the training rows.

    divisions: by code of the class; a class without a training row has none, and is one cluster.
    """

    divisions: dict[int, Division]

    def assign(self, values: Values, label: Ints) -> tuple[Ints, Floats]:
        """Return the cluster of each row within its class, int64 [n], and `Division.assign`'s clearness, float64 [n].

        values: [n, D].
        label: int64 [n].
        """
        cluster, clearness = np.zeros(len(label), np.int64), np.ones(len(label))
        for code in np.unique(label).tolist():
            members = label == code
            division = self.divisions.get(code, Division())
            cluster[members], clearness[members] = division.assign(values[members])
        return cluster, clearness


def divide_classes(values: Values, label: Ints, classes: Sequence[str], rule: ClusterRule) -> ClassClusters:
    """Return the clusters of each class that has a row, and log the silhouettes that decided their number.

    values: finite, [n, D].
    label: int64 [n].
    classes: names of the classes.
    """
    present = np.unique(label).tolist()
    divisions = {code: divide(values[label == code], rule, f"class {code}") for code in present}
    if distributed.is_main():
        for code in present[:MOST_LINES]:
            tried = ", ".join(f"{k}: {value:.3f}" for k, value in divisions[code].silhouettes.items())
            found = len(np.unique(divisions[code].number))
            logger.info("class '%s': clusters %d; silhouette by number of clusters: %s", classes[code], found, tried)
    return ClassClusters(divisions)


def clusters_of_rows(
    train: View, values_of: Callable[[View], Values], rule: ClusterRule
) -> Callable[[View], tuple[Ints, Floats]]:
    """Return a function that puts the rows of a view into the clusters of the training rows of their class.

    It returns what `ClassClusters.assign` does. Its first call fits the clusters.

    train: the training rows.
    values_of: returns the values of a view's rows in order, [M, D], equal in each process.
    """

    @cache
    def fitted() -> tuple[ClassClusters, tuple[Ints, Floats]]:
        values, label = values_of(train), train.label[train.rows]
        clusters = divide_classes(values, label, train.spec.classes, rule)
        return clusters, clusters.assign(values, label)

    def clusters_of(view: View) -> tuple[Ints, Floats]:
        clusters, of_train = fitted()
        return of_train if view is train else clusters.assign(values_of(view), view.label[view.rows])

    return clusters_of
