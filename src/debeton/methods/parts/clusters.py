"""Clusters of rows: k-means or a Gaussian mixture, with the number of clusters that has the largest silhouette.

Rousseeuw 1987, "Silhouettes: a graphical aid to the interpretation and validation of cluster analysis".
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from debeton.data.spec import Ints
from debeton.system.seed import derive_seed, make_rng

Floats = NDArray[np.float64]
Values = NDArray[np.floating[Any]]

# Bounds that keep a million rows feasible: clusters are fitted on so many rows, and silhouettes, whose cost grows with
# the square of the rows, are means over so many of them.
FIT_ROWS, SILHOUETTE_ROWS = 20_000, 4_000
CHUNK = 65_536  # rows that are put into clusters at once
ROUNDING = 1e-6  # values closer than this share of the largest one are equal: float32 has 7 digits
SMALLEST_SHARE, FEWEST_ROWS = 0.005, 25  # of a part that over-clustering keeps, as published


@dataclass(frozen=True)
class ClusterRule:
    """The rule by which rows are divided into clusters.

    algorithm: 'kmeans', or 'gmm' for a mixture of Gaussians with full covariances.
    most: the largest number of clusters that is tried, from 2.
    restarts: fits of each number of clusters from other starts, of which the best is kept.
    mean: the silhouette of a division is the mean over its rows, or over the means of its clusters.
    least_silhouette: rows whose best division has no larger silhouette are one cluster.
    components: principal components of the standardised values that are clustered; None: the values themselves.
    parts: parts of each cluster that over-clustering tries to tell from the rest; 1: no over-clustering.
    seed: of starts, and of the rows that are fitted on.
    """

    algorithm: Literal["kmeans", "gmm"]
    most: int
    restarts: int
    mean: Literal["rows", "clusters"]
    least_silhouette: float = 0.0
    components: int | None = None
    parts: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Division:
    """A fitted division of rows into clusters.

    model: KMeans or GaussianMixture of scikit-learn; None where all rows are one cluster.
    reduction: what the model's values are made with, by scikit-learn; None: nothing.
    parts: models that divide single clusters of `model` further, by the number of the cluster.
    number: the final number of each part: number[i, j] is that of part j of cluster i; [clusters, parts].
    silhouettes: the silhouette of each number of clusters that was tried.
    """

    model: Any = None
    reduction: Any = None
    parts: Mapping[int, Any] = field(default_factory=dict)
    number: Ints = field(default_factory=lambda: np.zeros((1, 1), np.int64))
    silhouettes: Mapping[int, float] = field(default_factory=dict)

    def assign(self, values: Values) -> tuple[Ints, Floats]:
        """Return the cluster of each row, int64 [n], and its clearness in [0, 1], float64 [n].

        The clearness says how clearly the row is in its cluster. For k-means it is 1 - a / b, with the distances
        a and b to the two nearest centres. For a mixture it is the probability of the cluster. It is 1 for rows that
        are not divided, and says nothing about parts.

        values: [n, D].
        """
        cluster, clearness = np.zeros(len(values), np.int64), np.ones(len(values))
        if self.model is None:
            return cluster, clearness
        with _one_thread():
            for start in range(0, len(values), CHUNK):
                rows = slice(start, start + CHUNK)
                x = _reduced(values[rows], self.reduction)
                base, clearness[rows] = _nearest(self.model, x)
                cluster[rows] = self.number[base, _part_of(self.parts, x, base)]
        return cluster, clearness


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let scikit-learn use one thread: several add up in any sequence, and results would differ by a rounding."""
    import sklearn.cluster
    import sklearn.mixture  # its libraries must be loaded before their threads are limited
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
        yield


def divide(values: Values, rule: ClusterRule, stream: str) -> Division:
    """Return a division of rows into clusters: into one where the rows are too few or too equal.

    Cluster 0 has the most of these rows, cluster 1 the next most, and so on. The division depends on the values, the
    rule and the name of the stream alone. Clusters have two rows on average, or more.

    values: finite, [n, D].
    stream: name of the random stream.
    """
    rng = make_rng(rule.seed, "clusters", stream)
    chosen = np.sort(rng.permutation(len(values))[:FIT_ROWS])
    sample = np.asarray(values[chosen], np.float64)
    if len(sample) < 4 or np.ptp(sample, axis=0).max() <= ROUNDING * np.abs(sample).max():
        return Division()
    with _one_thread():
        reduction = None if rule.components is None else _fit_reduction(sample, rule.components)
        x = _reduced(sample, reduction)
        measured = np.sort(rng.permutation(len(x))[:SILHOUETTE_ROWS])
        division = replace(_best(x, measured, rule, stream), reduction=reduction)
        if division.model is not None and rule.parts > 1:
            division = _over_clustered(division, x, measured, rule, stream)
    return _numbered_by_size(division, values)


def _fit_reduction(x: Floats, components: int) -> Any:
    """Return a fitted pipeline of scikit-learn: standardised values, then their first principal components."""
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fewest = min(components, *x.shape)
    return make_pipeline(StandardScaler(), PCA(fewest, svd_solver="covariance_eigh")).fit(x)


def _reduced(values: Values, reduction: Any) -> Floats:
    x = np.asarray(values, np.float64)
    return x if reduction is None else np.asarray(reduction.transform(x), np.float64)


def _model(clusters: int, rule: ClusterRule, *stream: Any) -> Any:
    """Return a model of scikit-learn that is to be fitted."""
    from sklearn.cluster import KMeans
    from sklearn.mixture import GaussianMixture

    seed = derive_seed(rule.seed, "clusters", *stream) % 2**31
    if rule.algorithm == "kmeans":
        return KMeans(clusters, n_init=rule.restarts, random_state=seed)
    return GaussianMixture(clusters, n_init=rule.restarts, random_state=seed)


def _best(x: Floats, measured: Ints, rule: ClusterRule, stream: str) -> Division:
    """Return the division with the largest silhouette; of equal ones that with the fewest clusters.

    measured: rows that silhouettes are measured on.
    """
    silhouettes: dict[int, float] = {}
    models = {}
    for clusters in range(2, min(rule.most, len(np.unique(x, axis=0)), len(x) // 2) + 1):
        models[clusters] = _model(clusters, rule, stream, clusters).fit(x)
        label = models[clusters].predict(x[measured])
        silhouettes[clusters] = _mean(_silhouettes(x[measured], label), label, rule)
    best = max(silhouettes, key=lambda clusters: silhouettes[clusters], default=0)
    if not best or silhouettes[best] <= rule.least_silhouette:
        return Division(silhouettes=silhouettes)
    return Division(models[best], number=np.arange(best)[:, None], silhouettes=silhouettes)


def _silhouettes(x: Floats, label: Ints) -> Floats:
    """Return the silhouette of each row in [-1, 1], float64 [n]; -1 where the labels are no division."""
    from sklearn.metrics import silhouette_samples

    if not 2 <= len(np.unique(label)) < len(x):
        return np.full(len(x), -1.0)
    return np.asarray(silhouette_samples(x, label), np.float64)


def _mean(silhouettes: Floats, label: Ints, rule: ClusterRule) -> float:
    if rule.mean == "rows":
        return float(silhouettes.mean())
    return float(np.mean([silhouettes[label == one].mean() for one in np.unique(label)]))


def _over_clustered(division: Division, x: Floats, measured: Ints, rule: ClusterRule, stream: str) -> Division:
    """Return the division with those parts of its clusters as clusters of their own that are better apart.

    Each cluster is divided into `rule.parts` parts. A part is kept if the mean silhouette of its rows is above 0 and
    larger than before, and if it has enough rows. The other parts of a cluster stay together.
    """
    base, parts = np.asarray(division.model.predict(x), np.int64), {}
    for cluster in np.unique(base).tolist():
        members = x[base == cluster]
        if len(np.unique(members, axis=0)) >= rule.parts:
            parts[cluster] = _model(rule.parts, rule, stream, "parts", cluster).fit(members)
    part = base * rule.parts + _part_of(parts, x, base)
    before, after = (_silhouettes(x[measured], label[measured]) for label in (base, part))
    number = np.arange(len(division.number))[:, None].repeat(rule.parts, 1)
    for one in np.unique(part[measured]).tolist():
        of_part, rows = part[measured] == one, int((part == one).sum())
        is_large = rows >= max(FEWEST_ROWS, SMALLEST_SHARE * len(x))
        if one // rule.parts in parts and is_large and after[of_part].mean() > max(before[of_part].mean(), 0):
            number[divmod(one, rule.parts)] = number.max() + 1
    return replace(division, parts=parts, number=number)


def _part_of(parts: Mapping[int, Any], x: Floats, base: Ints) -> Ints:
    """Return the part of its cluster that each row is in, int64 [n]; 0 in clusters without parts."""
    part = np.zeros(len(x), np.int64)
    for cluster, model in parts.items():
        members = base == cluster
        if members.any():
            part[members] = model.predict(x[members])
    return part


def _nearest(model: Any, x: Floats) -> tuple[Ints, Floats]:
    """Return the cluster and the clearness of each row, as `Division.assign` does."""
    if hasattr(model, "predict_proba"):
        probability = model.predict_proba(x)
        return probability.argmax(1), probability.max(1)
    distance = model.transform(x)
    nearest, second = np.partition(distance, 1, axis=1)[:, :2].T
    clearness = 1 - np.divide(nearest, second, out=np.zeros_like(nearest), where=second > 0)
    return distance.argmin(1), clearness


def _numbered_by_size(division: Division, values: Values) -> Division:
    """Return the division with numbers by falling number of these rows, of equal ones by the first row."""
    cluster, _ = division.assign(values)
    present, first, rows = np.unique(cluster, return_index=True, return_counts=True)
    known = present[np.lexsort((first, -rows))].tolist()
    rank = {old: new for new, old in enumerate([*known, *sorted({*division.number.ravel().tolist()} - {*known})])}
    number = np.vectorize(rank.__getitem__, otypes=[np.int64])(division.number)
    return replace(division, number=number)
