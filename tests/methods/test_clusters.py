"""Tests of clusters by class: their number, silhouettes and clearness against loops, and rows that have no clusters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from debeton.methods.parts import clusters
from debeton.methods.parts.class_clusters import divide_classes
from debeton.methods.parts.clusters import ClusterRule, divide

KMEANS = ClusterRule("kmeans", most=5, restarts=3, mean="rows")
MIXTURE = ClusterRule("gmm", most=5, restarts=2, mean="clusters")
RULES = pytest.mark.parametrize("rule", [KMEANS, MIXTURE], ids=["kmeans", "gmm"])


def blobs(*sizes: int, apart: float = 12.0, width: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return rows around points on a parabola, [n, width], and the number of the point of each row."""
    rng = np.random.default_rng(seed)
    planted = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centre = apart * np.stack([planted, planted**2 / 2, *np.zeros((width - 2, len(planted)))], axis=1)
    return centre + rng.normal(size=centre.shape), planted


def silhouettes_by_loop(x: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return (b - a) / max(a, b) of each row.

    a: mean distance to the other rows of the cluster. b: the least mean distance to the rows of another cluster.
    """
    values = []
    for i, row in enumerate(x):
        distance = np.sqrt(((x - row) ** 2).sum(1))
        own = label == label[i]
        if own.sum() == 1:
            values.append(0.0)
            continue
        a = distance[own].sum() / (own.sum() - 1)
        b = min(distance[label == other].mean() for other in set(label.tolist()) - {label[i]})
        values.append((b - a) / max(a, b))
    return np.array(values)


@RULES
@pytest.mark.parametrize("sizes", [(60, 20), (50, 30, 10), (40, 30, 20, 15)], ids=["two", "three", "four"])
def test_planted_clusters_are_found_with_their_number_and_numbered_by_their_size(rule, sizes):
    x, planted = blobs(*sizes)
    division = divide(x, rule, "a")
    cluster, clearness = division.assign(x)
    assert cluster.tolist() == planted.tolist()
    assert max(division.silhouettes, key=division.silhouettes.get) == len(sizes)
    assert 0.5 < clearness.min() <= clearness.max() <= 1


@RULES
def test_the_silhouette_of_each_number_of_clusters_is_that_of_a_loop_over_rows(rule):
    x, planted = blobs(30, 12, apart=6)
    division = divide(x, rule, "a")
    assert list(division.silhouettes) == [2, 3, 4, 5]
    by_row = silhouettes_by_loop(x, planted)
    mean = by_row.mean() if rule is KMEANS else (by_row[planted == 0].mean() + by_row[planted == 1].mean()) / 2
    assert division.silhouettes[2] == pytest.approx(mean, abs=1e-9)


def test_the_clearness_of_kmeans_compares_the_distances_to_the_two_nearest_centres():
    x, planted = blobs(30, 20, 10, apart=6)
    centres = np.stack([x[planted == one].mean(0) for one in range(3)])
    new = np.array([[0.0, 0.0], [3.0, 1.5], [6.0, 3.0], [200.0, 900.0]])
    cluster, clearness = divide(x, replace(KMEANS, most=3), "a").assign(new)
    for row, one, clear in zip(new, cluster, clearness, strict=True):
        distance = np.sqrt(((centres - row) ** 2).sum(1))
        assert one == distance.argmin()
        assert clear == pytest.approx(1 - np.sort(distance)[0] / np.sort(distance)[1])


def test_the_clearness_of_a_mixture_is_the_probability_of_the_cluster():
    x, planted = blobs(60, 30, apart=9)
    between = np.linspace(x[planted == 0].mean(0), x[planted == 1].mean(0), 200)
    density = []
    for one in range(2):  # clusters far apart: the fitted Gaussians have the moments of the planted rows
        rows = x[planted == one]
        covariance = np.cov(rows.T, bias=True) + 1e-6 * np.eye(2)
        density.append(len(rows) / len(x) * multivariate_normal(rows.mean(0), covariance).pdf(between))
    cluster, clearness = divide(x, replace(MIXTURE, most=2), "a").assign(between)
    expected = np.stack(density) / np.sum(density, 0)
    assert 0.5 < expected.max(0).min() < 0.7
    assert cluster.tolist() == expected.argmax(0).tolist()
    np.testing.assert_allclose(clearness, expected.max(0), atol=1e-3)


@RULES
def test_another_sequence_of_the_rows_gives_each_row_the_same_cluster(rule):
    x, _ = blobs(50, 30, 10)
    order = np.random.default_rng(1).permutation(len(x))
    cluster, clearness = divide(x, rule, "a").assign(x)
    again, clear_again = divide(x[order], rule, "a").assign(x[order])
    assert again.tolist() == cluster[order].tolist()
    np.testing.assert_allclose(clear_again, clearness[order], atol=1e-9)


@RULES
def test_the_same_seed_gives_the_same_bits(rule):
    x = np.random.default_rng(0).normal(size=(100, 3))  # no clusters: other starts end elsewhere
    first, again, other = (divide(x, replace(rule, most=3, seed=seed), "a").assign(x)[1] for seed in (1, 1, 2))
    assert first.tobytes() == again.tobytes() != other.tobytes()


@RULES
@pytest.mark.parametrize(
    "x",
    [
        pytest.param(np.zeros((0, 2)), id="no row"),
        pytest.param(np.ones((1, 2)), id="one row"),
        pytest.param(np.array([[0.0], [9.0], [9.0]]), id="three rows"),
        pytest.param(np.full((50, 3), 0.7), id="constant"),
        pytest.param(1 + 1e-8 * np.random.default_rng(0).normal(size=(50, 2)), id="constant but for rounding"),
    ],
)
def test_rows_that_are_too_few_or_equal_are_one_cluster(rule, x):
    cluster, clearness = divide(x, rule, "a").assign(x)
    assert cluster.tolist() == [0] * len(x)
    assert clearness.tolist() == [1.0] * len(x)


@RULES
def test_rows_of_two_values_are_two_clusters_though_more_are_allowed(rule):
    x = np.repeat([[0.0, 1.0], [1.0, 0.0]], [9, 4], axis=0)
    assert divide(x, rule, "a").assign(x)[0].tolist() == [0] * 9 + [1] * 4


@RULES
def test_rows_whose_silhouette_is_too_small_are_one_cluster(rule):
    x, _ = blobs(40, 20, apart=6)
    found = max(divide(x, rule, "a").silhouettes.values())
    for least, number in ((found - 1e-6, 2), (found, 1)):
        division = divide(x, replace(rule, least_silhouette=least), "a")
        assert len(np.unique(division.assign(x)[0])) == number
        assert max(division.silhouettes.values()) == found


@RULES
def test_clusters_fitted_on_a_part_of_the_rows_are_given_to_all_rows(rule, monkeypatch):
    monkeypatch.setattr(clusters, "FIT_ROWS", 120)
    monkeypatch.setattr(clusters, "SILHOUETTE_ROWS", 40)
    monkeypatch.setattr(clusters, "CHUNK", 70)
    x, planted = blobs(300, 200, 100)
    assert divide(x, rule, "a").assign(x)[0].tolist() == planted.tolist()


def test_a_mixture_sees_the_principal_components_of_the_standardised_values():
    x, planted = blobs(50, 30, width=6)
    x = x * np.array([1, 100, 1, 1, 1, 1]) + 5
    x[:, 5] = 3.0  # a dead feature
    division = divide(x, replace(MIXTURE, most=2, components=2), "a")
    standard = (x - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), 1)
    _, _, axes = np.linalg.svd(standard, full_matrices=False)
    ours = division.reduction.transform(x)
    np.testing.assert_allclose(np.abs(ours), np.abs(standard @ axes[:2].T), atol=1e-8)
    assert division.assign(x)[0].tolist() == planted.tolist()


# --- over-clustering -----------------------------------------------------------------------------


def one_far_and_two_near(*sizes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of a cluster far away (0), and of two that are nearer to each other (1 and 2)."""
    planted = np.repeat([0, 1, 2], sizes)
    points = np.array([[0.0, 0], [100, 0], [100, 50]])[planted]
    return points + np.random.default_rng(3).normal(size=points.shape), planted


@pytest.mark.parametrize("algorithm", ["kmeans", "gmm"])
@pytest.mark.parametrize(("sizes", "kept"), [((100, 60, 25), True), ((100, 24, 23), False)], ids=["large", "small"])
def test_over_clustering_tells_parts_of_25_rows_apart_and_leaves_a_compact_cluster_whole(algorithm, sizes, kept):
    x, planted = one_far_and_two_near(*sizes)
    rule = replace(MIXTURE, algorithm=algorithm, most=2)
    assert divide(x, rule, "a").assign(x)[0].tolist() == np.minimum(planted, 1).tolist()
    found = divide(x, replace(rule, parts=2), "a").assign(x)[0]
    assert found.tolist() == (planted if kept else np.minimum(planted, 1)).tolist()


def test_parts_of_too_small_a_share_of_the_rows_are_not_kept(monkeypatch):
    x, planted = one_far_and_two_near(100, 40, 40)
    rule = replace(KMEANS, most=2, parts=2)
    for share, expected in ((40 / 180, planted), (41 / 180, np.minimum(planted, 1))):
        monkeypatch.setattr(clusters, "SMALLEST_SHARE", share)
        assert divide(x, rule, "a").assign(x)[0].tolist() == expected.tolist()


# --- classes -------------------------------------------------------------------------------------


def test_each_class_has_clusters_of_its_own():
    x, planted = blobs(40, 30, 20, 10)
    label = np.where(planted < 2, 0, 1)
    cluster, _ = divide_classes(x, label, ("a", "b"), KMEANS).assign(x, label)
    assert cluster.tolist() == (planted % 2).tolist()


def test_a_class_without_a_training_row_is_one_cluster_and_a_class_of_one_row_another():
    x, planted = blobs(40, 20)
    label = np.zeros(60, np.int64)
    label[0] = 2
    found = divide_classes(x, label, ("a", "b", "c"), KMEANS)
    cluster, clearness = found.assign(x[:4], np.array([2, 0, 1, 1]))
    assert cluster.tolist() == [0, planted[1], 0, 0]
    assert clearness[[0, 2, 3]].tolist() == [1.0] * 3


def test_clusters_of_a_class_do_not_depend_on_the_rows_of_other_classes():
    x, planted = blobs(40, 20)
    more = np.concatenate([x, 7 + x[:30]])
    label = np.repeat([0, 1], [60, 30])
    alone = divide_classes(x, label[:60], ("a", "b"), KMEANS).assign(x, label[:60])
    among = divide_classes(more, label, ("a", "b"), KMEANS).assign(x, label[:60])
    assert alone[0].tolist() == among[0].tolist() == planted.tolist()
    assert alone[1].tobytes() == among[1].tobytes()
